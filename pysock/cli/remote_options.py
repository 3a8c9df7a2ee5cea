"""What the verbs of remote commands share: the address where none is given, and the errors.

Without an address a server and its clients meet at a Unix socket in a folder that nobody
else can enter: that of the login session, or one of our own under /tmp.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .. import AuthenticationError, ConnectionClosed, FramingError, RemoteError
from ..remote import RemoteClient
from . import DISCONNECTED, FAILED, MISUSED, Failure, Parser
from .options import add_client_security, as_seconds, client_security, in_options

__all__ = [
    "MAY_NOT",
    "Copying",
    "add_connection",
    "add_copying",
    "complain",
    "connected",
    "default_address",
    "failure_of",
    "is_lost",
    "is_servers",
    "joined",
    "pair_of",
    "parse_paths",
    "passed_on",
    "plain",
    "reason",
    "shown",
    "start_failure",
    "told",
]

SESSIONS = "/run/user"
TEMPORARY = "/tmp"  # whatever TMPDIR is: both sides must find the same
SOCKET = "pysock.sock"
DEFAULT = "the socket of a server of yours on this machine, as `pysock shell-server` makes it"

PATIENCE = 0.5  # seconds before a file's progress is shown
REDRAWN = 0.1  # and between two pictures of it

LONGEST = 512  # characters of a variable that nobody asked us to pass on
NOT_EXECUTABLE = 126
NOT_FOUND = 127
# A system's errors that say that the program is there, and cannot be run.
_UNFIT = {
    *(errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.E2BIG, errno.ENOTDIR, errno.EISDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, getattr(errno, "ETXTBSY", errno.EACCES)),
}

MAY_NOT = " may not: "  # in a server's refusal, before the command

_FATAL = ("stopping", "version", "protocol")  # codes of a RemoteError after which all is over


# ---------------------------------------------------------------- where


def default_address(make: bool = False) -> str:
    """Return the address for commands of this user on this machine.

    Args:
        make: whether to make the folder, where there is none yet.

    Raises:
        Failure: there is no place for it, or somebody else has a hand in it.
    """
    if sys.platform == "win32":
        raise Failure("there is no default address on Windows: name one", MISUSED)
    user = os.geteuid()
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), f"{SESSIONS}/{user}"):
        if os.path.isabs(folder) and _flaw(folder, user) is None:
            return f"unix://{folder}/{SOCKET}"
    folder = f"{TEMPORARY}/pysock-{user}"
    if make:
        _make(folder)
    flaw = _flaw(folder, user)
    if flaw is None or (flaw == "is missing" and not make):
        return f"unix://{folder}/{SOCKET}"
    raise Failure(f"folder {folder} {flaw}: remove it, or name another address", FAILED)


def _make(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return
    except OSError as exc:
        raise Failure(f"cannot make folder {folder}: {exc.strerror}", FAILED) from None
    os.chmod(folder, 0o700)  # whatever the umask has taken


def _flaw(folder: str, user: int) -> str | None:
    """Return why others may have a hand in *folder*, None if they have not."""
    try:
        info = os.lstat(folder)
    except OSError:
        return "is missing"
    if not stat.S_ISDIR(info.st_mode):
        return "is no folder"
    if info.st_uid != user:
        return f"belongs to user {info.st_uid}"
    if info.st_mode & 0o077:
        return f"has mode {stat.S_IMODE(info.st_mode):04o}, which lets others in"
    return None


def add_connection(parser: Parser, option: str | None = None) -> None:
    """Add what `connected` reads.

    Args:
        option: the option that names the address; None: it is an argument, as add_address
            has it, and the caller's to add.
    """
    add = parser.add_argument
    if option is not None:
        add(
            option,
            dest="address",
            metavar="ADDRESS",
            help=f"the server, as tls://host:port or unix:///path; default: {DEFAULT}",
        )
    add(
        "--connect-timeout",
        metavar="SECONDS",
        type=as_seconds,
        default=10.0,
        help="longest wait for a connection; default: %(default)g",
    )
    add_client_security(parser)


# ---------------------------------------------------------------- the connection


@contextlib.contextmanager
def connected(options: argparse.Namespace) -> Iterator[RemoteClient]:
    """Connect to the server at `options.address`, or where one is by default.

    Raises:
        Failure: no connection, or a peer that is not who it must be.
    """
    hint = "" if options.address else "; `pysock shell-server` starts one"
    options.address = options.address or default_address()
    security = client_security(options)
    try:
        remote = RemoteClient(
            options.address, connect_timeout=options.connect_timeout, **security
        )
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise Failure(told(exc) + hint, DISCONNECTED) from None
    except (AuthenticationError, ConnectionClosed, FramingError, RemoteError, OSError) as exc:
        raise failure_of(exc) from None
    except (TypeError, ValueError) as exc:
        raise Failure(in_options(str(exc)), MISUSED) from None
    with remote:
        yield remote


def failure_of(exc: Exception) -> Failure:
    """Return how the end of a connection, or a refusal, is told."""
    if isinstance(exc, FramingError):
        text = f"the server does not follow the protocol: {shown(str(exc))}"
        return Failure(text, DISCONNECTED)
    return Failure(told(exc), DISCONNECTED)


def start_failure(exc: Exception, remote: RemoteClient, program: str) -> Failure:
    """Return how it is told that a command cannot be started.

    Args:
        exc: what was raised.
        remote: the connection.
        program: the command's name, "" for a shell's line.
    """
    if not isinstance(exc, OSError) or is_lost(exc) or remote.closed:
        return failure_of(exc)
    if exc.filename is not None and os.fsdecode(exc.filename) not in (program, "/bin/sh"):
        return Failure(f"cannot run there: {reason(exc)}", DISCONNECTED)
    if exc.errno == errno.ENOENT:
        return Failure(f"{shown(program or '/bin/sh')}: command not found", NOT_FOUND)
    return Failure(reason(exc), NOT_EXECUTABLE if exc.errno in _UNFIT else DISCONNECTED)


def is_lost(exc: Exception) -> bool:
    """Whether *exc* is the end of the connection, and not of one request only."""
    if isinstance(exc, RemoteError):
        return getattr(exc, "code", "") in _FATAL
    if isinstance(exc, OSError):
        return isinstance(exc, ConnectionError | TimeoutError)
    return isinstance(exc, FramingError | EOFError | AuthenticationError)


def reason(exc: Exception) -> str:
    """Return what *exc* says, in one line without control characters."""
    if isinstance(exc, OSError) and exc.strerror:
        if exc.filename is None:
            return shown(exc.strerror)
        return f"{shown(os.fsdecode(exc.filename))}: {shown(exc.strerror)}"
    return shown(str(exc) or type(exc).__name__)


def told(exc: Exception) -> str:
    """Return what *exc* says as `reason` does, with options for the library's arguments.

    Names of files and what a user may not run stay as they are.
    """
    if isinstance(exc, OSError) and exc.filename is not None:
        return reason(exc)
    text, may_not, command = reason(exc).partition(MAY_NOT)
    return in_options(text) + may_not + command


def shown(text: str) -> str:
    """Return *text* so that a terminal shows it and does nothing else."""
    return text if text.isprintable() else ascii(text)


def passed_on() -> dict[str, str]:
    """Return the variables that go to a command without being asked for."""
    return {
        name: value
        for name, value in os.environ.items()
        if (name in ("TERM", "LANG") or name.startswith("LC_")) and len(value) < LONGEST
    }


def pair_of(text: str, what: str, check: Callable[[str, str], Any]) -> Any:
    """Return what *check* makes of the two sides of NAME=VALUE.

    Raises:
        argparse.ArgumentTypeError: *text* is not of that form.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!a} is not {what}")
    return check(name, value)


# ---------------------------------------------------------------- files


def complain(verb: str, text: str) -> None:
    """Write one line on stderr, as long as anybody takes it."""
    if sys.stderr is not None:  # print() would take stdout instead
        with contextlib.suppress(OSError):
            print(f"pysock {verb}: {text}", file=sys.stderr, flush=True)


def add_copying(parser: Parser) -> None:
    """Add what `Copying` reads."""
    add = parser.add_argument
    add("-r", "--recursive", action="store_true", help="copy folders with all that is in them")
    add(
        "--no-overwrite",
        action="store_true",
        help="leave files alone that exist already; they are named, and the exit status is 1",
    )
    add("-v", "--verbose", action="store_true", help="print a line for each file")


def parse_paths(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """Return the options, and in `paths` the rest; after the first `--` nothing is an option.

    Raises:
        Failure: there are too few paths.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_intermixed_args(arguments[:at])
    options.paths = [*options.paths, *arguments[at + 1 :]]
    if not options.paths:
        parser.error("the following arguments are required: the paths")
    return options


class Copying:
    """Copies files one by one, and tells what becomes of them.

    What goes wrong with one file is told, and the next one follows.

    Args:
        verb: on whose behalf it speaks.
        options: those of the command line.
        remote: the connection.
    """

    def __init__(self, verb: str, options: argparse.Namespace, remote: RemoteClient) -> None:
        self.remote = remote
        self.recursive: bool = options.recursive
        self._overwrite: bool = not options.no_overwrite
        self._verbose: bool = options.verbose
        self._verb = verb
        self._failed = False

    @property
    def status(self) -> int:
        """The exit status."""
        return FAILED if self._failed else 0

    def refuse(self, path: str, text: str) -> None:
        """Tell that something is not copied."""
        self._failed = True
        complain(self._verb, f"{shown(path)} {text}")

    def attempt(self, action: Callable[[], object]) -> bool:
        """Do something; return whether it could be done.

        Raises:
            Failure: the connection is lost.
        """
        try:
            action()
        except (
            AuthenticationError,
            ConnectionClosed,
            RemoteError,
            OSError,
            ValueError,
        ) as exc:
            if self.remote.closed or is_lost(exc):
                failure = failure_of(exc)
                text = f"{failure.text}; the same command goes on where this one ended"
                raise Failure(text, failure.status) from None
            self._failed = True
            complain(self._verb, self.describe(exc))
            return False
        return True

    def describe(self, exc: Exception) -> str:
        """Return what is told of one file that cannot be copied."""
        return "server: " * is_servers(exc) + told(exc)

    def copy(self, transfer: Callable[..., object], source: str, target: str) -> None:
        """Copy one file with a method of the connection."""
        bar = _Bar(source)
        action = partial(
            transfer, source, target, overwrite=self._overwrite, progress=bar.update
        )
        try:
            done = self.attempt(action)
        finally:
            bar.close()
        if done and self._verbose:
            complain(self._verb, f"{shown(source)} -> {shown(target)} ({_size(bar.total)})")


class _Bar:
    """How far a file is, for those that take their time."""

    def __init__(self, name: str) -> None:
        self.total = 0
        self._name = shown(name)
        self._began = self._told = time.monotonic()
        self._start: int | None = None
        self._progress: Any = None

    def update(self, done: int, total: int) -> None:
        """Show that *done* of *total* bytes are there."""
        self.total = total
        if self._start is None:
            self._start = done
        now = time.monotonic()
        if now < self._told + (REDRAWN if self._progress else PATIENCE):
            return
        self._told = now
        if self._progress is None:
            from .bench_report import Progress  # most copies are done before it is loaded

            self._progress = Progress()
        rate = (done - self._start) / max(now - self._began, 1e-9)
        text = f"{self._name} {_size(done)} of {_size(total)}, {_size(rate)}/s"
        self._progress.update(done / max(total, 1), text)

    def close(self) -> None:
        """Take it away."""
        if self._progress is not None:
            self._progress.close()


def _size(count: float) -> str:
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"


def is_servers(exc: Exception) -> bool:
    """Whether *exc* is an error of the server's system, not of this one."""
    return isinstance(exc, OSError) and getattr(exc, "remote", False)


def joined(folder: str, name: str) -> str:
    """Return the path of *name* in a folder of the server's; "" is the served one."""
    return f"{folder}/{name}" if folder else name


def plain(remote: str) -> str:
    """Return a path at the server without what says nothing; "": the served folder."""
    while remote.startswith("./"):
        remote = remote[2:].lstrip("/")
    remote = remote.rstrip("/") or remote[:1]
    return "" if remote == "." else remote
