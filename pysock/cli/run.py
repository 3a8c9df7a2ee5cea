"""`pysock run`: run a command on another machine, as `ssh host command` does.

The main thread passes on what the command writes, a background thread what it is to read.
A third one sends it signals: their handlers could not, for a handler must not take a lock
that its own thread may hold.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from .. import ConnectionClosed, FramingError, RemoteError
from ..remote import Process, RemoteClient
from . import DISCONNECTED, MISUSED, Failure, NoReader, Parser
from .options import as_seconds
from .remote_options import (
    DEFAULT,
    Signals,
    add_connection,
    complain,
    connected,
    failure_of,
    is_lost,
    pair_of,
    reason,
    shown,
)

if sys.platform != "win32":
    import termios
    import tty

__all__ = ["Control", "Terminal", "environment"]

DESCRIPTION = """\
Run a command on another machine, or as another user of this one: where `pysock
shell-server` runs.

Its output and its error output come out here, each where it belongs; what is read here is
its input; Ctrl-C interrupts it; and its exit status is the one of this command. It ends when
this command ends, however that comes."""

EPILOG = """\
The command is given as it is, word by word, to no shell; --shell has the server's shell run
it: quote what your own shell must not expand. TERM, LANG and LC_* are passed on.

signals:
  SIGINT (Ctrl-C)  goes to the command; the second one as SIGTERM; the third one kills it
  SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2  go to the command

examples:
  pysock run -- uname -a
  pysock run tls://host.example:5210 --ca certificate.pem --authkey authkey -- df -h
  pysock run --shell -- 'du -sh * | sort -h'
  pysock run -- tar -c project | tar -x
  pysock run -t -- vi notes.txt

exit status: that of the command; 128 + n if signal n ended it; 124 after --timeout; 126 it
cannot be executed; 127 it was not found; 130 after a third Ctrl-C; 141 the reader of the
output has gone; 255 no connection, one of the two sides not proved to be who it must be, a
refusal, or a connection that failed; 2 a wrong command line, or a file of it"""

TIMED_OUT = 124
NOT_EXECUTABLE = 126
NOT_FOUND = 127
OWN_FAILURE = DISCONNECTED

CHUNK = 64 * 1024
LONGEST = 512  # characters of a variable that nobody asked us to pass on
PASSED_ON = ("SIGHUP", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
ON_CTRL_C = ("INT", "TERM", "KILL")
# A system's errors that say that the program is there, and cannot be run.
_UNFIT = {
    *(errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.E2BIG, errno.ENOTDIR, errno.EISDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, getattr(errno, "ETXTBSY", errno.EACCES)),
}


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
        "-t",
        "--terminal",
        action="store_true",
        help="give the command a terminal, and this one's keys to it as they are",
    )
    add("-n", "--no-input", action="store_true", help="give it no input: it reads /dev/null")
    add(
        "--shell",
        action="store_true",
        help="join the words with spaces, for the server's shell to run",
    )
    add("--cwd", metavar="DIR", help="the folder there to run in; default: as the server says")
    add(
        "--env",
        metavar="NAME=VALUE",
        action="append",
        type=partial(pair_of, what="NAME=VALUE", check=lambda *pair: pair),
        default=[],
        help="set a variable, which the server must allow (--allow-env); may be given again",
    )
    add(
        "--timeout",
        metavar="SECONDS",
        type=partial(as_seconds, below=threading.TIMEOUT_MAX),
        help="kill the command after so long",
    )
    add_connection(parser)


def parse(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """Return the options, and in `command` all that follows the first `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[at + 1 :]
    if not command and not {"-h", "--help"} & set(arguments[:at]):
        parser.error("the command is missing; it comes after --, as in: pysock run -- ls -l")
    options = parser.parse_intermixed_args(arguments[:at])
    if not (command[0] or options.shell):
        parser.error("the command's name is empty")
    options.command = command
    return options


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    stdin = None if options.no_input else _descriptor(sys.stdin)
    terminal = Terminal(stdin) if options.terminal else None
    with (
        connected(options) as remote,
        _started(remote, options, stdin, terminal) as process,
        Control(process, terminal, options.timeout) as control,
        terminal or contextlib.nullcontext(),
    ):
        feeder = Feeder(process, stdin)
        if stdin is None and terminal is not None:
            process.close_stdin()  # a terminal has an input whether it is wanted or not
        _pass_on(process)
    if control.given_up:
        raise KeyboardInterrupt
    if feeder.failure is not None:
        raise feeder.failure
    if control.timed_out:
        complain("run", f"the command took longer than {options.timeout:g} s: it was killed")
        return TIMED_OUT
    return _status(process)


def _started(
    remote: RemoteClient,
    options: argparse.Namespace,
    stdin: int | None,
    terminal: Terminal | None,
) -> Process:
    """Start the command.

    Raises:
        Failure: it cannot be started.
    """
    words = options.command
    try:
        return remote.start(
            " ".join(words) if options.shell else words,
            shell=options.shell,
            stdin=subprocess.DEVNULL
            if stdin is None and terminal is None
            else subprocess.PIPE,
            stdout=subprocess.DEVNULL if _descriptor(sys.stdout) is None else None,
            stderr=subprocess.DEVNULL if _descriptor(sys.stderr) is None else None,
            cwd=options.cwd,
            env=environment() | dict(options.env),
            pty=None if terminal is None else terminal.size(),
        )
    except OSError as exc:
        if is_lost(exc) or remote.closed:
            raise failure_of(exc) from None
        raise _not_started(exc, words[0]) from None
    except (ConnectionClosed, FramingError, RemoteError) as exc:
        raise failure_of(exc) from None
    except ValueError as exc:
        raise Failure(str(exc), MISUSED) from None


def _not_started(exc: OSError, program: str) -> Failure:
    """Return what a system's refusal is told as."""
    if exc.filename is not None and os.fsdecode(exc.filename) not in (program, "/bin/sh"):
        return Failure(f"cannot run there: {reason(exc)}", OWN_FAILURE)
    if exc.errno == errno.ENOENT:
        return Failure(f"{shown(program)}: command not found", NOT_FOUND)
    return Failure(reason(exc), NOT_EXECUTABLE if exc.errno in _UNFIT else OWN_FAILURE)


def environment() -> dict[str, str]:
    """Return the variables that go to the command without being asked for."""
    return {
        name: value
        for name, value in os.environ.items()
        if (name in ("TERM", "LANG") or name.startswith("LC_")) and len(value) < LONGEST
    }


def _status(process: Process) -> int:
    """Return the exit status for the command's, and tell what it cannot."""
    assert process.exit is not None and process.returncode is not None
    if process.exit.reason:
        complain("run", f"the server has ended the command: {process.exit.reason}")
    elif process.exit.incomplete:
        complain("run", "the output may not be all: a process that is left still holds it")
    status = process.returncode
    return status if status >= 0 else 128 - status


# ---------------------------------------------------------------- output and input


def _pass_on(process: Process) -> None:
    """Write the command's output where ours goes, until all has come.

    Raises:
        NoReader: nobody reads it any more.
        Failure: it cannot be written, or the connection is lost.
    """
    outputs = {"stdout": _descriptor(sys.stdout), "stderr": _descriptor(sys.stderr)}
    output = iter(process)
    while True:
        try:
            item = next(output, None)
        except (ConnectionClosed, FramingError, RemoteError, OSError) as exc:
            raise failure_of(exc) from None
        if item is None:
            return
        channel, data = item
        descriptor = outputs[channel]
        if descriptor is not None:
            _write(descriptor, data)


def _descriptor(file: Any) -> int | None:
    """Return a standard stream's descriptor, None where it was closed when we came."""
    try:
        return None if file is None else int(file.fileno())
    except (OSError, ValueError):
        return None


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody who shares the terminal wants it so
            select.select((), (descriptor,), ())
        except BrokenPipeError:
            raise NoReader from None
        except OSError as exc:
            raise Failure(f"cannot write the output: {exc.strerror}", OWN_FAILURE) from None


class Feeder:
    """Passes on what is read here, in a thread that nobody waits for: it may wait for keys.

    Args:
        process: the command.
        descriptor: where to read; None: there is no input.
    """

    def __init__(self, process: Process, descriptor: int | None) -> None:
        self.failure: Failure | None = None
        self._process = process
        if descriptor is not None:
            threading.Thread(target=self._run, args=(descriptor,), daemon=True).start()

    def _run(self, descriptor: int) -> None:
        # What goes wrong with the connection is the main thread's to tell.
        with contextlib.suppress(ConnectionClosed, FramingError, RemoteError, OSError):
            try:
                for data in _chunks(descriptor):
                    self._process.write(data)
                self._process.close_stdin()
            except Failure as exc:
                self.failure = exc
                self._process.kill()  # half of its input may not pass for all of it


def _chunks(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            select.select((descriptor,), (), ())
            continue
        except OSError as exc:
            if exc.errno == errno.EIO and os.isatty(descriptor):
                return  # it was hung up, or is not for those in the background
            text = f"cannot read standard input: {exc.strerror}"
            raise Failure(text, OWN_FAILURE) from None
        if not data:
            return
        yield data


# ---------------------------------------------------------------- the terminal


class Terminal:
    """The terminal in front of us: while entered, every key goes to the command.

    Args:
        descriptor: our input; None, or no terminal: there are no keys.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = -1
        if descriptor is not None and sys.platform != "win32" and os.isatty(descriptor):
            self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def size(self) -> tuple[int, int]:
        """Return its rows and columns."""
        for file in (sys.stdin, sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):
                columns, rows = os.get_terminal_size(file.fileno())
                if columns and rows:
                    return rows, columns
        return 24, 80

    def __enter__(self) -> Terminal:
        if self._descriptor >= 0:
            self._saved = termios.tcgetattr(self._descriptor)
            self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
        self._saved = None

    def take(self) -> None:
        """Have every key passed on as it is."""
        if self._saved is not None and self._is_ours():
            with contextlib.suppress(termios.error):  # it was hung up
                tty.setraw(self._descriptor, termios.TCSADRAIN)

    def give_back(self) -> None:
        """Have it be as it was."""
        if self._saved is not None and self._is_ours():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)

    def _is_ours(self) -> bool:
        """Whether we may change it; who does so in the background is stopped."""
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return True  # it is nobody's in particular


# ---------------------------------------------------------------- signals


class Control:
    """While entered, passes signals on to a command, and ends it after a time.

    Args:
        process: the command.
        terminal: the one in front of us that it has, None if it has none.
        timeout: seconds that it may take; None: no limit.
    """

    def __init__(
        self, process: Process, terminal: Terminal | None, timeout: float | None = None
    ) -> None:
        self.timed_out = False
        self._process = process
        self._terminal = terminal
        self._end_at = None if timeout is None else time.monotonic() + timeout
        self._signals = Signals()
        self._interrupts = 0  # that the main thread has seen
        self._passed_on = 0  # of these, what the command was told of
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def given_up(self) -> bool:
        """Whether there were so many interrupts that the command was killed."""
        return self._passed_on >= len(ON_CTRL_C)

    def __enter__(self) -> Control:
        self._signals.__enter__()
        for name in PASSED_ON:
            self._signals.handle(name)
        self._signals.handle("SIGINT", self._interrupt)
        if self._terminal is not None:
            self._signals.handle("SIGWINCH")
            self._signals.handle("SIGTSTP", self._stop)
            self._signals.handle("SIGCONT", self._terminal.take)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.end()
        self._thread.join(1.0)  # it may stand before a connection that takes nothing
        self._signals.__exit__()

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts >= len(ON_CTRL_C):
            raise KeyboardInterrupt

    def _stop(self) -> None:
        """Stop, as whoever sent SIGTSTP wants, without a terminal that looks broken."""
        assert self._terminal is not None
        self._terminal.give_back()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._terminal.take()

    def _serve(self) -> None:
        """Do what signals and the clock say, in a thread of its own."""
        with contextlib.suppress(OSError):  # it has ended, and the queue with it
            while number := self._next():
                with contextlib.suppress(ConnectionClosed, FramingError, OSError):
                    self._obey(signal.Signals(number).name)

    def _next(self) -> int:
        while True:
            left = None if self._end_at is None else self._end_at - time.monotonic()
            try:
                return self._signals.get(left)
            except TimeoutError:
                self._end_at = None
                self.timed_out = True
                with contextlib.suppress(ConnectionClosed, FramingError, OSError):
                    self._process.kill()

    def _obey(self, name: str) -> None:
        if name == "SIGINT":
            self._passed_on += 1
            name = ON_CTRL_C[min(self._passed_on, len(ON_CTRL_C)) - 1]
        if name in (*PASSED_ON, *ON_CTRL_C):
            self._process.send_signal(name)
        elif self._terminal is not None and name in ("SIGWINCH", "SIGCONT"):
            self._process.resize(*self._terminal.size())
