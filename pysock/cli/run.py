"""`pysock run`: run a command on another machine, as `ssh host command` does.

The main thread passes on what the command writes, a background thread what it is to read,
another one the signals.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from functools import partial
from typing import Self

from .. import Error
from ..remote import Process, RemoteClient
from . import CLOSED, DISCONNECTED, MISUSED, Failure, Parser
from .feeder import Feeder, descriptor_of
from .options import as_seconds, in_options
from .remote_options import (
    DEFAULT,
    add_connection,
    complain,
    connected,
    failure_of,
    pair_of,
    passed_on,
    shown,
    start_failure,
)
from .signals import PARTING, Interrupts
from .terminal import GivenUp, interact, status_of, window_size, write_all

__all__ = ["Control"]

DESCRIPTION = """\
Run a command on another machine, or as another user of this one: where `pysock
shell-server` runs.

What it prints comes out here, standard output and standard error each where it belongs; the
standard input here is its input; Ctrl-C interrupts it; and its exit status becomes the one of
this program. It ends when this program ends, for whatever reason."""

EPILOG = """\
examples:
  pysock run -- uname -a
  pysock run --shell -- 'du -sh * | sort -h'
  pysock run -t -- vi notes.txt
  pysock run tls://host.example:5210 --ca certificate.pem \\
      --authkey authkey -- df -h

The command is run as it is, word by word, without a shell; with --shell the server's shell
runs it: quote what your own shell must not expand. The variables TERM, LANG and LC_* are
passed on.

signals:
  SIGINT (Ctrl-C)  goes to the command; the second one as SIGTERM; the third
                   one kills it
  SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2  go to the command

with -t, at the start of a line:
  ~.       gives the command and the connection up
  ~Ctrl-Z  stops this program
  ~~       is one tilde

exit status: that of the command; 128 + n if signal n ended it; 124 after --timeout; 126 it
cannot be executed; 127 it was not found; 130 after a third Ctrl-C; 141 the reader of the
output has gone; 255 no connection, a connection that failed, a refusal, or one of the two
sides could not prove who it is; 2 a wrong command line, or a file that it names cannot be
used"""

TIMED_OUT = 124
PASSED_ON = ("SIGHUP", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    parser.usage = "pysock run [options] [ADDRESS] -- COMMAND [ARGUMENT ...]"
    add = parser.add_argument
    add(
        "address",
        metavar="ADDRESS",
        nargs="?",
        help=f"the server, as tls://host:port or unix:///path; default: {DEFAULT}",
    )
    add(
        "command",
        metavar="COMMAND",
        nargs="*",
        default=[],
        help="what to run there, and its arguments",
    )
    add(
        "-t",
        "--terminal",
        action="store_true",
        help="run it at a terminal, for editors and the like; every key goes to it",
    )
    add(
        "-n", "--no-input", action="store_true", help="give it an empty input, as of /dev/null"
    )
    add(
        "--shell",
        action="store_true",
        help="join the words with spaces, and let the server's shell run them",
    )
    add(
        "--cwd",
        metavar="FOLDER",
        help="the folder there to run in; default: the server's choice",
    )
    add(
        "--env",
        metavar="NAME=VALUE",
        action="append",
        type=partial(pair_of, what="NAME=VALUE", check=lambda *pair: pair),
        default=[],
        help="set an environment variable, which the server must allow (its --allow-env); may "
        "be given again",
    )
    add(
        "--timeout",
        metavar="SECONDS",
        type=partial(as_seconds, most=threading.TIMEOUT_MAX),
        help="kill the command when it has run so long",
    )
    add_connection(parser)


def parse(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """Return the options, and in `command` all that follows the first `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[at + 1 :]
    if not command and not {"-h", "--help"} & set(arguments[:at]):
        parser.error("the command is missing; it comes after --, as in: pysock run -- ls -l")
    options = parser.parse_intermixed_args(arguments[:at])
    if options.command:
        words = " ".join(options.command)
        parser.error(f"unrecognized arguments: {words}; the command comes after --")
    if not (command[0] or options.shell):
        parser.error("the command's name is empty")
    options.command = command
    return options


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    stdin = None if options.no_input else descriptor_of(sys.stdin)
    if options.terminal and descriptor_of(sys.stdout) is None:
        raise _closed()
    with (
        connected(options) as remote,
        _started(remote, options, stdin) as process,
        Control(process, options.timeout) as control,
    ):
        try:
            if options.terminal:
                stdout = descriptor_of(sys.stdout)
                interact(process, stdin=stdin, stdout=stdout, signals=control.signals)
            else:
                _pass_on(process, stdin)
        except GivenUp:
            remote.close()  # or the command's end would be waited for
            raise
        except (Error, OSError, EOFError) as exc:
            raise failure_of(exc) from None
    if control.gave_up:
        raise KeyboardInterrupt
    if control.timed_out:
        complain("run", f"the command took longer than {options.timeout:g} s: it was killed")
        return TIMED_OUT
    assert process.exit is not None
    if process.exit.reason:
        why = shown(in_options(process.exit.reason))
        complain("run", f"the server has ended the command: {why}")
    elif process.exit.incomplete:
        complain("run", "the output may not be all: a process that is left still holds it")
    return status_of(process.returncode)


def _started(remote: RemoteClient, options: argparse.Namespace, stdin: int | None) -> Process:
    """Start the command.

    Raises:
        Failure: it cannot be started.
    """
    words = options.command
    has_input = stdin is not None or options.terminal  # a terminal always has one
    try:
        return remote.start(
            " ".join(words) if options.shell else words,
            shell=options.shell,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if descriptor_of(sys.stderr) is None else None,
            cwd=options.cwd,
            env=passed_on() | dict(options.env),
            pty=window_size() if options.terminal else None,
        )
    except (Error, OSError, EOFError) as exc:
        raise start_failure(exc, remote, words[0]) from None
    except ValueError as exc:
        raise Failure(str(exc), MISUSED) from None


def _pass_on(process: Process, stdin: int | None) -> None:
    """Pass on what there is to read, and what the command writes, until all has come.

    Raises:
        NoReader: nobody reads it any more.
        Failure: it cannot be written, or the input cannot be read.
        ConnectionClosed, OSError: the connection is lost.
    """
    outputs = {"stdout": descriptor_of(sys.stdout), "stderr": descriptor_of(sys.stderr)}
    with Feeder(process, stdin) as feeder:
        for channel, data in process:
            descriptor = outputs[channel]
            if descriptor is not None:
                write_all(descriptor, data, DISCONNECTED)
            elif channel == "stdout":
                raise _closed()
    if feeder.failure is not None:
        raise feeder.failure


def _closed() -> Failure:
    return Failure(CLOSED, DISCONNECTED)


# ---------------------------------------------------------------- signals and the clock


class Control(Interrupts):
    """While entered, passes signals on to a command, and ends it after a time.

    Args:
        process: the command.
        timeout: seconds that it may take; None: no limit.
    """

    def __init__(self, process: Process, timeout: float | None = None) -> None:
        super().__init__(most=3)
        self.timed_out = False
        self.go_to(process)
        self.signals.heard.append(self._pass_on)
        self._clock = threading.Timer(timeout or 0.0, self._expire) if timeout else None

    def __enter__(self) -> Self:
        super().__enter__()
        for name in PASSED_ON:
            self.signals.handle(name)
        if self._clock is not None:
            self._clock.daemon = True
            self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock.join(PARTING)
        super().__exit__()

    def _pass_on(self, number: int) -> None:
        name = signal.Signals(number).name
        if name in PASSED_ON:
            self.send(name)

    def _expire(self) -> None:
        self.timed_out = True
        self.send("KILL")
