"""`pysock serve`: run a handler as a program, in one process or several.

What it is made of is `pysock.serve`; here are its options, its log and its complaints.

Exit status: 0 after SIGTERM, when what was under way is done; 130 after SIGINT, likewise; 1
when nothing could be served; 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from functools import partial
from typing import Any

from .. import Server, __version__, serve
from . import FAILED, MISUSED, Failure, Parser
from .options import (
    add_server_security,
    as_count,
    as_seconds,
    as_size,
    format_of,
    in_options,
    server_security,
)

DESCRIPTION = """\
Serve messages with a function of yours: it is called with each message, and what it
returns is the reply.

HANDLER is module:name, as in app:handle for `def handle(message)` in app.py; the module is
looked for in the current folder first. The name is that of a function, which is given bytes
and returns bytes (or several, or None for no reply), or of a class derived from
pysock.Session."""

EPILOG = """\
examples:
  pysock serve app:handle
  pysock serve app:handle --bind 0.0.0.0:5210 --processes 4
  pysock serve app:make_handler --factory --framing netstring
  pysock serve app:handle --bind tls://:5210 --authkey authkey \\
      --certificate certificate.pem --key private-key.pem

signals:
  SIGTERM, SIGINT  accept nothing more, finish what is under way (--drain),
                   end; a second one ends at once
  SIGHUP           replace the processes one by one with new ones, which import
                   the module again; no client is refused, and each connection
                   is closed when it is between two messages; certificates and
                   keys stay as they were read at the start

exit status: 0 after SIGTERM; 130 after SIGINT; 1 nothing could be served: the module, the
handler or the address cannot be had; 2 a wrong command line, or a file that it names cannot
be used"""

DEFAULT_BIND = "tcp://127.0.0.1:8000"
LEVELS = ["debug", "info", "warning", "error"]

MOST_PROCESSES = 4096
MOST_WORKERS = 100_000
MOST_CONNECTIONS = 999_999_999
LONGEST_DRAIN = 1e6  # seconds


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add(
        "handler",
        metavar="HANDLER",
        help="what answers the messages: module:name, as in app:handle",
    )
    add(
        "--bind",
        metavar="ADDRESS",
        action="append",
        help="where to listen: tcp://host:port, host:port, tls://host:port, unix:///path, or "
        "fd://N for a socket from systemd; port 0 lets the system choose; may be given again; "
        f"default: {DEFAULT_BIND}",
    )
    add(
        "--processes",
        metavar="N",
        type=partial(as_count, most=MOST_PROCESSES),
        default=1,
        help=f"how many processes serve, at most {MOST_PROCESSES}; default: %(default)s",
    )
    add(
        "--workers",
        metavar="N",
        type=partial(as_count, least=0, most=MOST_WORKERS),
        help="how many threads of each process may be in the handler at the same time; 0: the "
        "handler is quick and never waits; default: 16 to 32, by the number of processors",
    )
    add(
        "--framing",
        metavar="FORMAT",
        default="length4",
        help="how messages become frames, a name that `pysock send --help` lists; "
        "default: %(default)s",
    )
    add(
        "--max-frame",
        metavar="BYTES",
        type=as_size,
        help="longest message to accept, as in 64k or 1M; default: the format's own, often "
        "64M",
    )
    add(
        "--max-connections",
        metavar="N",
        type=partial(as_count, most=MOST_CONNECTIONS),
        help="how many connections each process may have open; more clients wait; default: "
        "1024",
    )
    add(
        "--timeout",
        metavar="SECONDS",
        type=as_seconds,
        help="longest time for each call that a handler or session makes on its connection; "
        "default: no limit",
    )
    add(
        "--idle-timeout",
        metavar="SECONDS",
        type=as_seconds,
        help="close connections that are silent so long; default: 600",
    )
    add(
        "--drain",
        metavar="SECONDS",
        type=partial(as_seconds, zero=True, most=LONGEST_DRAIN),
        default=30.0,
        help="how long to wait at the end for what is under way; default: %(default)g",
    )
    add(
        "--proxy-protocol",
        choices=["v1", "v2", "any"],
        help="every connection begins with this header of the PROXY protocol, as load "
        "balancers send it",
    )
    add(
        "--trusted-proxy",
        metavar="NETWORK",
        action="append",
        help="who may send that header, as in 10.0.0.0/8; may be given again; default: this "
        "machine",
    )
    add(
        "--health",
        metavar="ADDRESS",
        help="for health checks: answer HTTP requests there with status 200 while serving",
    )
    add(
        "--factory",
        action="store_true",
        help="HANDLER is called without arguments and returns the handler",
    )
    add(
        "--app-dir",
        metavar="FOLDER",
        help="look for the module there first; default: the current folder",
    )
    add(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="how much to log, on stderr; default: %(default)s",
    )
    add_server_security(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it; return the exit status."""
    if options.trusted_proxy and not options.proxy_protocol:
        raise Failure("--trusted-proxy means nothing without --proxy-protocol", MISUSED)
    addresses = options.bind or [DEFAULT_BIND]
    chosen: dict[str, Any] = {
        "framing": format_of(options.framing, options.max_frame),
        "workers": options.workers,
        "max_connections": options.max_connections,
        "timeout": options.timeout,
        "idle_timeout": options.idle_timeout,
        "proxy_protocol": options.proxy_protocol,
        "trusted_proxies": options.trusted_proxy,
        "health": options.health,
        **server_security(options, addresses),
    }
    _log_to_stderr(options.log_level)
    if sys.platform != "win32":
        # serve() lets them through.  One that comes before it, or after it, must not give
        # this command another status than the one that is promised.
        signal.pthread_sigmask(
            signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        )
    try:
        return serve(
            addresses,
            options.handler,
            processes=options.processes,
            drain=options.drain,
            factory=options.factory,
            app_dir=options.app_dir,
            ready=partial(_announce, options),
            **{name: value for name, value in chosen.items() if value is not None},
        )
    except (TypeError, ValueError) as exc:
        raise Failure(in_options(str(exc)), MISUSED) from None
    except OSError as exc:
        raise Failure(exc.strerror or str(exc), FAILED) from None
    except RuntimeError as exc:
        raise Failure(str(exc), FAILED) from None


def _announce(options: argparse.Namespace, server: Server) -> None:
    """Print where clients may come."""
    if sys.stderr is None:  # print() would take stdout instead
        return
    processes = f"{options.processes} process{'es' if options.processes > 1 else ''}"
    line = (
        f"pysock {__version__} serves {options.handler} on "
        f"{', '.join(map(str, server.addresses))} (pid {os.getpid()}, {processes}, "
        f"workers: {server.workers})"
    )
    with contextlib.suppress(OSError):  # a log that nobody takes is no reason not to serve
        print(line, file=sys.stderr, flush=True)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(process)d %(levelname)s %(message)s",
        stream=sys.stderr,
    )
