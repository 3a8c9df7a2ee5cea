"""The local terminal while a remote program has it: raw, and put back on every way out."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from . import DISCONNECTED, FAILED, MISUSED, Failure, NoReader

if TYPE_CHECKING:
    from ..remote import Process

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

__all__ = [
    "Signals",
    "interact",
    "kept_terminal",
    "raw_terminal",
    "status_of",
    "window_size",
    "write_all",
]

CHUNK = 4096
PARTING = 1.0  # seconds to wait for the thread at the keyboard
ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT")  # end a program that does not handle them

# Wakes the main thread; it is ignored where nobody handles it.  Windows has none.
_POKE: int = getattr(signal, "SIGURG", 0)
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6  # places in a terminal's settings

Handler = Callable[[int, FrameType | None], Any]


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
        self._handlers: dict[int, Any] = {}
        self.farewell: Callable[[], object] = lambda: None

    def guard(self) -> None:
        """Put the settings back before a signal ends this process."""
        for name in ENDING:
            number = getattr(signal, name)
            handler = signal.getsignal(number)
            outer = isinstance(getattr(handler, "__self__", None), Terminal)
            if outer or handler is signal.SIG_DFL:
                self._handle(number, self._die)

    def make_raw(self) -> None:
        """Pass on every key as it is."""
        self._handle(signal.SIGWINCH, _heard)
        self._handle(signal.SIGCONT, self._continued)
        self._handle(signal.SIGTSTP, self._stop)
        self._raw = True
        self._set_raw()

    def restore(self) -> None:
        """Put everything back."""
        self._raw = False
        self._set(self._settings)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def suspend(self) -> None:
        """Stop this program, as Ctrl-Z does, with its whole job, until it is continued."""
        self._set(self._settings)
        os.kill(0, signal.SIGTSTP)

    def _handle(self, number: int, handler: Handler) -> None:
        if threading.current_thread() is threading.main_thread():
            self._handlers[number] = signal.getsignal(number)
            signal.signal(number, handler)

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
        self._set(self._settings)
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_kill(threading.get_ident(), number)
        signal.signal(number, self._stop)
        self._continued(number, frame)

    def _die(self, number: int, frame: FrameType | None) -> None:
        self.farewell()
        self._set(self._settings)
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
def raw_terminal(fd: int = 0) -> Iterator[Terminal | None]:
    """Make the terminal at *fd* raw, and put it back on every way out, signals too.

    Where there is none, nothing is done.

    Args:
        fd: the terminal's descriptor.
    """
    if termios is None or not os.isatty(fd):
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
    process: Process, *, stdin: int = 0, stdout: int = 1, whole_lines: bool = False
) -> int:
    """Join the local terminal and *process*, which runs in one, until it has ended.

    Keys go there as they are; at the start of a line `~.` gives the command up and
    `~` Ctrl-Z stops this program, as in ssh.

    Args:
        process: was started with `pty`.
        stdin, stdout: descriptors of the terminal; where *stdin* is none, its bytes are
            the command's input.
        whole_lines: end the last line, where the command has not.

    Returns:
        The exit status as a shell tells it.

    Raises:
        Failure: it was given up by `~.`, or the output cannot be written.
        NoReader: nobody reads the output.
        ConnectionClosed, OSError: the connection was lost.
    """
    if termios is None:
        raise Failure("a terminal on the other side needs one of POSIX on this", MISUSED)
    modes = Modes()
    signals = Signals()
    keyboard = Keyboard(process, stdin, signals)

    def tidy(whole_lines: bool = True) -> None:
        if os.isatty(stdout):
            with contextlib.suppress(OSError):
                os.write(stdout, modes.undone() + b"\r\n" * (whole_lines and modes.in_line))

    try:
        with signals, raw_terminal(stdin) as terminal:
            if terminal is not None:
                terminal.farewell = tidy
            keyboard.start()
            try:
                for _, data in process:
                    modes.note(data)
                    write_all(stdout, data)
            except BaseException:
                tidy()
                raise
            tidy(whole_lines)
    except KeyboardInterrupt:
        if keyboard.left:
            raise Failure("given up by ~.", DISCONNECTED) from None
        raise
    finally:
        if keyboard.ident is None:
            signals.close()
        else:  # where the command takes no words it ends with the connection
            keyboard.join(PARTING)
    return status_of(process.returncode)


def _heard(number: int, frame: FrameType | None) -> None:
    """Handle a signal whose number only is wanted."""


class Signals:
    """Tells another thread of signals as they come, and has the main thread see them.

    One that comes when the main thread is about to wait is handled, as Python does it, when
    the wait is over; so the other thread wakes it.

    Args:
        woken: what the main thread is to do then, besides its handlers; it may raise.
    """

    def __init__(self, woken: Handler = _heard) -> None:
        self._woken = woken
        self._told, self._telling = socket.socketpair()
        self._telling.setblocking(False)
        self._before: tuple[int, Any] | None = None

    def fileno(self) -> int:
        return self._told.fileno()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            fd = signal.set_wakeup_fd(self._telling.fileno(), warn_on_full_buffer=False)
            self._before = fd, _POKE and signal.signal(_POKE, self._woken)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.set_wakeup_fd(self._before[0])
            if _POKE:
                signal.signal(_POKE, self._before[1])
        self._telling.close()

    def take(self) -> bytes | None:
        """Wait for signals; return their numbers, and None at the end."""
        numbers = self._told.recv(CHUNK)
        if not numbers:
            return None
        if numbers := numbers.replace(bytes([_POKE]), b""):
            self.poke()
        return numbers

    def poke(self) -> None:
        """Have the main thread look for signals."""
        ident = threading.main_thread().ident
        if _POKE and ident is not None:
            signal.pthread_kill(ident, _POKE)

    def close(self) -> None:
        """Close it; for the thread that takes."""
        self._told.close()


class Keyboard(threading.Thread):
    """Takes what is typed to the command, and the window's size when that changes.

    It ends when *signals* does, and closes it.
    """

    def __init__(self, process: Process, stdin: int, signals: Signals) -> None:
        super().__init__(name="pysock keyboard", daemon=True)
        self._process = process
        self._stdin = stdin
        self._signals = signals
        self._escapes = Escapes() if os.isatty(stdin) else None
        self.left = False

    def run(self) -> None:
        try:
            self._watch()
        finally:
            self._signals.close()

    def _watch(self) -> None:
        signals = self._signals.fileno()
        watched = [signals, self._stdin]
        news: bytes | None = b"at first"  # the window may have changed before this began
        while news is not None:
            if news:
                self._tell(self._process.resize, *window_size())
            ready, _, _ = select.select(watched, [], [])
            news = self._signals.take() if signals in ready else b""
            if self._stdin in ready and news is not None and not self._type():
                watched.remove(self._stdin)

    def _type(self) -> bool:
        """Pass on what was typed; return whether there may be more."""
        try:
            typed = os.read(self._stdin, CHUNK)
        except OSError:  # the terminal has gone
            typed = b""
        if not typed:
            self._tell(self._process.close_stdin)
            return False
        wish = ""
        if self._escapes is not None:
            typed, wish = self._escapes.filter(typed)
        if typed:
            self._tell(self._process.write, typed)
        if wish:
            self.left = wish == "leave"
            ident = threading.main_thread().ident
            assert ident is not None
            if self.left:
                signal.pthread_kill(ident, signal.SIGINT)
            else:
                os.kill(0, signal.SIGTSTP)  # the whole job, as Ctrl-Z does
        return not self.left

    @staticmethod
    def _tell(what: Callable[..., object], *arguments: object) -> None:
        # How the command or the connection has ended, the thread that reads is told.
        with contextlib.suppress(OSError, EOFError, ValueError, RuntimeError):
            what(*arguments)


class Escapes:
    """Finds `~.` and `~` Ctrl-Z at the start of a line; `~~` is one tilde."""

    def __init__(self) -> None:
        self._state = 1  # 0: within a line, 1: at its start, 2: after its tilde

    def filter(self, typed: bytes) -> tuple[bytes, str]:
        """Return what is to be passed on, and "leave", "stop" or ""."""
        out = bytearray()
        for byte in typed:
            if self._state == 2:
                self._state = 0
                if byte == ord("."):
                    return bytes(out), "leave"
                if byte == 0x1A:
                    self._state = 1
                    return bytes(out), "stop"
                out += b"" if byte == ord("~") else b"~"
            elif self._state == 1 and byte == ord("~"):
                self._state = 2
                continue
            out.append(byte)
            self._state = 1 if byte in b"\r\n" else 0
        return bytes(out), ""


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


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*, at once.

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
            raise Failure(f"cannot write the output: {exc.strerror}", FAILED) from None
