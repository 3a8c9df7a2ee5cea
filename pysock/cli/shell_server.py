"""`pysock shell-server`: run commands for others, as sshd does.

What it is made of is `pysock.remote.RemoteServer`; here are its options, its log and its
signals.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import logging.handlers
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .. import __version__
from . import FAILED, INTERRUPTED, MISUSED, Failure, Parser
from .options import (
    add_server_security,
    as_count,
    as_seconds,
    as_size,
    in_options,
    server_security,
)
from .remote_options import complain, default_address, pair_of, reason
from .signals import Signals

if TYPE_CHECKING:
    from ..remote import RemoteServer, Request

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Run commands for the clients that connect: `pysock run` and `pysock shell`. With --files-root
also take and give files: `pysock put` and `pysock get`.

Without --bind it listens at a Unix socket in a folder of yours that nobody else can enter,
and no key is needed. Clients on other machines need TLS and a key."""

EPILOG = """\
examples:
  pysock shell-server
  pysock shell-server --allow df --allow uptime --audit commands.log
  pysock shell-server --bind tls://:5210 --certificate certificate.pem \\
      --key private-key.pem --authkey authkey --files-root /srv/exchange
  pysock shell-server --limit memory=2G --limit processes=200

Commands run as the user who has started the server, with a clean environment. A command ends
when its client's connection does: it gets SIGHUP at once, SIGTERM after 1 s and SIGKILL after
5 s, and whatever it has started is ended too.

signals:
  SIGTERM, SIGINT, SIGHUP  accept nothing more, let what runs end (--drain),
                           end; a second one ends what runs

exit status: 0 after SIGTERM or SIGHUP; 130 after SIGINT; 1 nothing could be served: the
address cannot be had, or this is Windows; 2 a wrong command line, or a file that it names
cannot be used"""

ALLOWED_ENV = ("TERM", "LANG", "LC_*")
LEVELS = ["debug", "info", "warning", "error"]
AUDIT = "pysock.remote"  # who logs a line for each command
LOOK = 5.0  # seconds between looks whether the server still lives

LIMITS = {
    "cpu": as_count,
    "memory": as_size,
    "processes": as_count,
    "file_size": as_size,
    "open_files": as_count,
}


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add(
        "--bind",
        metavar="ADDRESS",
        action="append",
        help="where to listen: tls://host:port, unix:///path, or fd://N for a socket from "
        "systemd; port 0 lets the system choose; may be given again; default: a socket of "
        "yours, $XDG_RUNTIME_DIR/pysock.sock or, without that, in /run/user or /tmp",
    )
    _add_who_and_what(parser)
    _add_limits(parser)
    add(
        "--drain",
        metavar="SECONDS",
        type=partial(as_seconds, zero=True),
        default=30.0,
        help="how long to wait at the end for what runs; default: %(default)g",
    )
    add(
        "--audit",
        metavar="FILE",
        type=Path,
        help="append a line for each command to this file, which is made with mode 0600; "
        "default: stderr, with what else is logged",
    )
    add(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="how much to log, on stderr; default: %(default)s",
    )
    add_server_security(parser)


def _add_who_and_what(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--allow",
        metavar="PROGRAM",
        action="append",
        help="run only this program, called by exactly this name, with any arguments; may be "
        "given again; default: every program, and command lines for the shell",
    )
    add(
        "--allow-env",
        metavar="NAME",
        action="append",
        default=[],
        help="let clients set this variable, or all that match, as in GIT_*; may be given "
        f"again; besides {', '.join(ALLOWED_ENV)}",
    )
    add(
        "--allow-root",
        action="store_true",
        help="serve although this is root, as whom every command will run then",
    )
    add(
        "--files-root",
        metavar="FOLDER",
        type=_folder,
        help="let clients put files below this folder and get them; default: no files",
    )
    add(
        "--cwd",
        metavar="FOLDER",
        type=_folder,
        help="where commands run whose client does not say; default: the user's home",
    )


def _add_limits(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--max-running",
        metavar="N",
        type=as_count,
        help="how many commands may run at a time; more are refused; default: 64",
    )
    add(
        "--time-limit",
        metavar="SECONDS",
        type=as_seconds,
        help="end commands that take longer; default: no limit",
    )
    add(
        "--max-output",
        metavar="BYTES",
        type=as_size,
        help="end commands that write more than this, as in 100M; default: no limit",
    )
    add(
        "--limit",
        metavar="NAME=VALUE",
        action="append",
        type=partial(pair_of, what="NAME=VALUE, as in memory=2G", check=_limit),
        default=[],
        help="limit each process of a command: cpu (seconds), memory (bytes), processes (of "
        "the user), file_size (bytes), open_files; may be given again",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it; return the exit status."""
    if sys.platform == "win32":
        raise Failure("commands are run on Linux, macOS and other Unix systems only", FAILED)
    if os.geteuid() == 0 and not options.allow_root:
        text = "this is root, as whom every command would run; if that is wanted: --allow-root"
        raise Failure(text, MISUSED)
    addresses = options.bind or [default_address(make=True)]
    chosen = _chosen(options, addresses)
    _log(options.log_level, options.audit)
    return _serve(options, addresses, chosen)


def _chosen(options: argparse.Namespace, addresses: list[str]) -> dict[str, Any]:
    """Return the arguments for a RemoteServer that were given."""
    chosen: dict[str, Any] = {
        "allow": _rule(options.allow),
        "allow_root": options.allow_root,
        "allow_env": (*ALLOWED_ENV, *options.allow_env),
        "files_root": options.files_root,
        "max_running": options.max_running,
        "time_limit": options.time_limit,
        "max_output": options.max_output,
        "limits": dict(options.limit) or None,
        "cwd": options.cwd,
        **server_security(options, addresses, keyless=True),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _rule(programs: list[str] | None) -> Callable[[Request], bool] | None:
    """Return what says whether a command is one of these; files are --files-root's matter."""
    if programs is None:
        return None

    def allows(request: Request) -> bool:
        if request.kind != "run":
            return True
        return (request.argv[0] if request.shell is None else request.shell) in programs

    return allows


def _serve(options: argparse.Namespace, addresses: list[str], chosen: dict[str, Any]) -> int:
    from ..remote import RemoteServer

    news: SimpleQueue[int] = SimpleQueue()
    with Signals(news.put) as signals:
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            signals.handle(name)
        try:
            server = RemoteServer(addresses if len(addresses) > 1 else addresses[0], **chosen)
        except (TypeError, ValueError) as exc:
            text = in_options(str(exc))
            if any(map(_listens_everywhere, addresses)):
                text = re.sub(r"'(\w+)://localhost:(\d+)'", r"'\1://:\2'", text)
            raise Failure(text, MISUSED) from None
        except (OSError, RuntimeError) as exc:
            raise Failure(in_options(reason(exc)), FAILED) from None
        try:
            server.start()
            _announce(options, server, addresses)
            number = _next_signal(news, server)
            _stop(server, news, options.drain)
        finally:
            server.server_close()
    return INTERRUPTED if number == signal.SIGINT else 0


def _next_signal(news: SimpleQueue[int], server: RemoteServer) -> int:
    while True:
        with contextlib.suppress(Empty):
            return news.get(timeout=LOOK)
        if server.fileno() < 0:
            raise Failure("the server has ended", FAILED)


def _stop(server: RemoteServer, news: SimpleQueue[int], drain: float) -> None:
    """Stop the server; another signal cuts what runs."""

    def stop() -> None:
        server.stop(drain)
        news.put(0)

    logger.info("stopping: what runs has %g s, and a second signal ends it", drain)
    stopping = threading.Thread(target=stop, daemon=True)
    stopping.start()
    if news.get():
        server.stop(0.0)
    stopping.join()


def _announce(options: argparse.Namespace, server: RemoteServer, addresses: list[str]) -> None:
    """Print where it listens, and how it is used."""
    if sys.stderr is None:  # print() would take stdout instead
        return
    places = ", ".join(map(_place, addresses, server.addresses))
    address = server.address
    reached = str(address)
    if _listens_everywhere(addresses[0]):
        reached = f"{address.scheme}://HOST:{address.port}"
    line = (
        f"pysock {__version__} serves commands on {places} "
        f"(pid {os.getpid()}): {_usage(options, reached)}"
    )
    with contextlib.suppress(OSError):  # a log that nobody takes is no reason not to serve
        print(line, file=sys.stderr, flush=True)


def _listens_everywhere(given: str) -> bool:
    """Whether an address is that of every interface."""
    return re.fullmatch(r"(\w+://)?(0\.0\.0\.0|\[::\])?:[0-9]+", given) is not None


def _place(given: str, address: Any) -> str:
    """Return where a server listens that was *given* this address."""
    if not _listens_everywhere(given):
        return str(address)
    which = "IPv4 address" if address.host == "0.0.0.0" else "address"
    host = f"[{address.host}]" if ":" in address.host else address.host
    host = "" if host == "localhost" else host
    return f"{address.scheme}://{host}:{address.port} (every {which} of this machine)"


def _usage(options: argparse.Namespace, address: str) -> str:
    """Return what a client has to type."""
    words = ["pysock run"]
    if options.bind:
        words.append(address)
    if options.certificate is not None:
        from ..tls import pin_of

        words.append(f"--pin {pin_of(options.certificate)}")
    if options.users is not None:
        words.append("--user NAME")
    if options.authkey is not None or options.users is not None:
        words.append("--authkey FILE")
    command = shlex.quote(options.allow[0]) if options.allow else "uname -a"
    return " ".join([*words, "--", command])


# ---------------------------------------------------------------- the log


class _AuditFile(logging.handlers.WatchedFileHandler):
    """A file that may be moved away, of which no line is lost without a word."""

    def _open(self) -> io.TextIOWrapper:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(
            self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=private
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # it was moved away, and there can be no new one
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        complain("shell-server", f"the audit file cannot be written: {reason(_current())}")


class _Lines(logging.Formatter):
    """Log lines with options for the library's arguments; what clients ran stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.name != AUDIT:
            record.message = in_options(record.message)
        return super().formatMessage(record)


def _current() -> Exception:
    exc = sys.exception()
    return exc if isinstance(exc, Exception) else RuntimeError("for no known reason")


def _log(level: str, audit: Path | None) -> None:
    """Log to stderr, and the commands to *audit*."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Lines("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[lines])
    if audit is None:
        return
    try:
        handler = _AuditFile(audit)
    except OSError as exc:
        raise Failure(f"cannot write {str(audit)!a}: {exc.strerror}", MISUSED) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.addFilter(_is_audit)
    for other in logging.getLogger().handlers:
        other.addFilter(lambda record: not _is_audit(record))
    commands = logging.getLogger(AUDIT)
    commands.addHandler(handler)
    commands.setLevel(min(logging.INFO, logging.getLogger().level))


def _is_audit(record: logging.LogRecord) -> bool:
    return record.name == AUDIT and record.levelno == logging.INFO


# ---------------------------------------------------------------- what the user gave


def _folder(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!a} is no folder")
    return os.path.abspath(text)


def _limit(name: str, value: str) -> tuple[str, int]:
    if name not in LIMITS:
        known = ", ".join(LIMITS)
        raise argparse.ArgumentTypeError(f"{name!a} is no limit; there are {known}")
    return name, LIMITS[name](value)
