"""The local terminal while a remote program has it: raw, and put back on every way out."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import CLOSED, DISCONNECTED, FAILED, MISUSED, Failure, NoReader
from .feeder import Feeder
from .signals import GONE, Handlers, Signals

if TYPE_CHECKING:
    from ..remote import Process

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

__all__ = [
    "GivenUp",
    "interact",
    "kept_terminal",
    "raw_terminal",
    "status_of",
    "window_size",
    "write_all",
]

ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT")  # end a program that does not handle them

_RESIZING = ("SIGWINCH", "SIGCONT")  # after these the window may have another size
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6  # places in a terminal's settings


class GivenUp(Failure):
    """Whoever types wants to wait no longer, for the server neither."""


def window_size() -> tuple[int, int]:
    """Return (rows, columns) of the terminal; 24 and 80 where there is none that tells."""
    for fd in (1, 0, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(fd)
            if size.lines and size.columns:
                return size.lines, size.columns
    return 24, 80


def status_of(returncode: int | None) -> int:
    """Return how a shell tells *returncode*, which is negative for a signal."""
    if returncode is None:
        return DISCONNECTED
    return 128 - returncode if returncode < 0 else returncode


class Terminal:
    """A terminal whose settings come back.

    Args:
        fd: of a terminal.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._settings = termios.tcgetattr(fd)
        self._raw = False
        self._handlers = Handlers()
        self.farewell: Callable[[], object] = lambda: None

    def guard(self) -> None:
        """Put the settings back before a signal ends this process."""
        for name in ENDING:
            number = getattr(signal, name)
            handler = signal.getsignal(number)
            outer = isinstance(getattr(handler, "__self__", None), Terminal)
            if outer or handler is signal.SIG_DFL:
                self._handlers.set(name, self._die)

    def make_raw(self) -> None:
        """Pass on every key as it is."""
        self._handlers.set("SIGCONT", self._continued)
        self._handlers.set("SIGTSTP", self._stop)
        self._raw = True
        self._set_raw()

    def restore(self) -> None:
        """Put everything back."""
        self._raw = False
        self._put_back()
        self._handlers.restore()

    def suspend(self) -> None:
        """Stop this program, as Ctrl-Z does, with its whole job, until it is continued."""
        self._put_back()
        os.kill(0, signal.SIGTSTP)

    def _put_back(self) -> None:
        """Put the settings back, unless we are in the background: that would stop us."""
        try:
            ours = os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            ours = True  # it is nobody's in particular
        if ours:
            self._set(self._settings)

    def _set(self, settings: list[Any]) -> None:
        while True:
            try:
                return termios.tcsetattr(self._fd, termios.TCSADRAIN, settings)
            except termios.error as exc:
                if exc.args[0] != errno.EINTR:  # stopped in the background, and continued
                    return  # the terminal has gone

    def _set_raw(self) -> None:
        flags = list(self._settings)
        flags[_IFLAG] &= ~(
            termios.BRKINT
            | termios.ICRNL
            | termios.IGNBRK
            | termios.IGNCR
            | termios.INLCR
            | termios.INPCK
            | termios.ISTRIP
            | termios.IXON
            | termios.PARMRK
        )
        flags[_OFLAG] &= ~termios.OPOST
        flags[_CFLAG] = flags[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        flags[_LFLAG] &= ~(
            termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG
        )
        flags[_CC] = list(flags[_CC])
        flags[_CC][termios.VMIN], flags[_CC][termios.VTIME] = 1, 0
        self._set(flags)

    def _continued(self, number: int, frame: FrameType | None) -> None:
        if self._raw:
            self._set_raw()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._put_back()
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_kill(threading.get_ident(), number)
        signal.signal(number, self._stop)
        self._continued(number, frame)

    def _die(self, number: int, frame: FrameType | None) -> None:
        self.farewell()
        self._put_back()
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_kill(threading.get_ident(), number)


@contextlib.contextmanager
def kept_terminal(fd: int = 0) -> Iterator[Terminal | None]:
    """Put the settings of the terminal at *fd* back at the end, be it by a signal.

    Where there is none, nothing is done.
    """
    if termios is None or not os.isatty(fd):
        yield None
        return
    terminal = Terminal(fd)
    try:
        terminal.guard()
        yield terminal
    finally:
        terminal.restore()


@contextlib.contextmanager
def raw_terminal(fd: int | None = 0) -> Iterator[Terminal | None]:
    """Make the terminal at *fd* raw, and put it back on every way out, signals too.

    Where there is none, nothing is done.

    Args:
        fd: the terminal's descriptor; None: there is none.
    """
    if termios is None or fd is None or not os.isatty(fd):
        yield None
        return
    terminal = Terminal(fd)
    try:
        terminal.guard()
        terminal.make_raw()
        yield terminal
    finally:
        terminal.restore()


def interact(
    process: Process,
    *,
    stdin: int | None = 0,
    stdout: int | None = 1,
    whole_lines: bool = False,
    signals: Signals | None = None,
) -> int:
    """Join the local terminal and *process*, which runs in one, until it has ended.

    Keys go there as they are; at the start of a line `~.` gives the command up and
    `~` Ctrl-Z stops this program, as in ssh.

    Args:
        process: was started with `pty`.
        stdin, stdout: descriptors of the terminal; where *stdin* is none, its bytes are
            the command's input; None: it has no input, or its output goes nowhere.
        whole_lines: end the last line, where the command has not.
        signals: who is told of them already.

    Returns:
        The exit status as a shell tells it.

    Raises:
        GivenUp: by `~.`.
        Failure: the output cannot be written, or the input read.
        NoReader: nobody reads the output.
        ConnectionClosed, OSError: the connection was lost.
    """
    if termios is None:
        raise Failure("a terminal on the other side needs one of POSIX on this", MISUSED)
    with contextlib.ExitStack() as opened:
        if signals is None:
            signals = opened.enter_context(Signals())
        for name in _RESIZING:
            signals.handle(name)
        signals.heard.append(partial(_tell_size, process))
        terminal = opened.enter_context(raw_terminal(stdin))
        shown = opened.enter_context(_Shown(stdout, whole_lines))
        if terminal is not None:
            terminal.farewell = shown.tidy
        _tell_size(process)  # it may have changed before we heard of that
        if stdin is None:
            process.close_stdin()
        wished = partial(_obey, signals) if terminal is not None else None
        feeder = opened.enter_context(Feeder(process, stdin, wished))
        for _, data in process:
            shown.write(data)
    if feeder.failure is not None:
        raise feeder.failure
    return status_of(process.returncode)


def _tell_size(process: Process, number: int = 0) -> None:
    """Tell the window's size, where signal *number* says that it may have changed."""
    if not number or signal.Signals(number).name in _RESIZING:
        # How the command or the connection has ended, the thread that reads is told.
        with contextlib.suppress(*GONE):
            process.resize(*window_size())


def _obey(signals: Signals, wish: str) -> None:
    """Do what was typed after a tilde."""
    if wish == "leave":
        signals.throw(GivenUp("given up by ~.", DISCONNECTED))
    else:
        os.kill(0, signal.SIGTSTP)  # the whole job, as Ctrl-Z does


class _Shown:
    """What a program shows; at the end, modes that it has left set are put back.

    Args:
        descriptor: where; None: nowhere.
        whole_lines: end the last line, where the program has not.
    """

    def __init__(self, descriptor: int | None, whole_lines: bool) -> None:
        self._descriptor = descriptor
        self._whole_lines = whole_lines
        self._modes = Modes()

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        self.tidy(self._whole_lines or failure is not None)

    def write(self, data: bytes) -> None:
        if self._descriptor is not None:
            self._modes.note(data)
            write_all(self._descriptor, data, DISCONNECTED)

    def tidy(self, whole_lines: bool = True) -> None:
        if self._descriptor is not None and os.isatty(self._descriptor):
            line_end = b"\r\n" * (whole_lines and self._modes.in_line)
            with contextlib.suppress(OSError):
                os.write(self._descriptor, self._modes.undone() + line_end)


_MODE = re.compile(rb"\x1b\[\?([0-9;]+)([hl])")
_SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|[ -/]*[0-Z\\^-~])")
_HALF_MODE = re.compile(rb"\x1b(\[(\?[0-9;]*)?)?\Z")


class Modes:
    """Which of a terminal's modes a program has set and not yet put back.

    One that is cut off, by a lost connection, cannot: the alternate screen, a hidden
    cursor or mouse reports would stay.

    Attributes:
        in_line: whether the last line has not ended, as far as can be told.
    """

    # In the order in which they are put back: reports, pasting, the cursor, the screen.
    _USUAL = {
        b"1000": b"l", b"1002": b"l", b"1003": b"l", b"1004": b"l", b"1006": b"l",
        b"1015": b"l", b"2004": b"l", b"1": b"l", b"25": b"h", b"7": b"h",
        b"47": b"l", b"1047": b"l", b"1049": b"l",
    }  # fmt: skip

    def __init__(self) -> None:
        self._changed: set[bytes] = set()
        self._rest = b""
        self.in_line = False

    def note(self, data: bytes) -> None:
        """Follow what the program has written."""
        _, left, after = data.rpartition(b"\x1b[?1049l")
        if left:  # the cursor is where it was before
            self.in_line = False
        if text := _SEQUENCE.sub(b"", after[-256:]):
            self.in_line = text[-1:] not in b"\r\n"
        if self._rest:
            data = self._rest + data
        elif b"\x1b" not in data:
            return
        for found in _MODE.finditer(data):
            for mode in found[1].split(b";"):
                if self._USUAL.get(mode, found[2]) == found[2]:
                    self._changed.discard(mode)
                else:
                    self._changed.add(mode)
        half = _HALF_MODE.search(data[-32:])
        self._rest = half[0] if half else b""

    def undone(self) -> bytes:
        """Return what puts them back."""
        changed, self._changed = self._changed, set()
        return b"".join(
            b"\x1b[?%s%s" % (mode, usual)
            for mode, usual in self._USUAL.items()
            if mode in changed
        )


def write_all(fd: int, data: bytes, status: int = FAILED) -> None:
    """Write all of *data*, at once.

    Args:
        fd: where.
        data: what.
        status: the exit status of a failure.

    Raises:
        NoReader: nobody reads it.
        Failure: it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except BrokenPipeError:
            raise NoReader from None
        except OSError as exc:
            if fd == 1 and sys.stdout is None:  # what keeps its place cannot be written
                raise Failure(CLOSED, status) from None
            raise Failure(f"cannot write the output: {exc.strerror}", status) from None
