"""Signals, told to another thread as they come, while the main thread waits for something."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from .. import Error

if TYPE_CHECKING:
    from ..remote import Process

__all__ = ["GONE", "PARTING", "Handlers", "Interrupts", "Signals"]

PARTING = 1.0  # seconds to wait for a thread that may stand before a silent connection
# What a command's methods raise when it, or the connection, has ended meanwhile.
GONE = (Error, OSError, EOFError, RuntimeError, ValueError)
AGAIN = 0.1  # seconds until the main thread is woken again, which has shown no sign
MOST = 4096  # signals that are taken at once
ON_CTRL_C = ("INT", "TERM", "KILL")

# Wakes the main thread; it is ignored where nobody handles it.  Windows has none.
_POKE: int = getattr(signal, "SIGURG", 0)

Handler = Callable[[int, FrameType | None], Any]


def _seen(number: int, frame: FrameType | None) -> None:
    """Handle a signal whose number only is wanted."""


class Handlers:
    """Handlers of signals, until the former ones are put back."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._before

    def set(self, name: str, handler: Handler = _seen) -> None:
        """Have *handler* called in the main thread, where there is such a signal.

        One that is ignored stays so, as `nohup` and a shell's background want it.
        """
        number = getattr(signal, name, None)
        if number is None or threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(number)
        if before not in (signal.SIG_IGN, None):
            self._before.setdefault(number, before)
            signal.signal(number, handler)

    def restore(self) -> None:
        """Put the former ones back."""
        while self._before:
            signal.signal(*self._before.popitem())


class Signals:
    """While entered, tells a thread of its own of signals that come.

    A handler cannot do much: its thread may hold any lock.  And where the main thread is
    just about to wait when a signal comes, Python calls the handler when that is over; so
    the other thread wakes it.

    Attributes:
        heard: what that thread calls with a signal's number.
    """

    def __init__(self, *heard: Callable[[int], object]) -> None:
        self.heard = list(heard)
        self._handlers = Handlers()
        self._wakeup = -1
        self._owed = False  # the main thread has not been seen since it was to wake
        self._thrown: BaseException | None = None
        self._thread = threading.Thread(
            target=self._listen, name="pysock signals", daemon=True
        )

    def handle(self, name: str, handler: Handler = _seen) -> None:
        """Have a signal told, and *handler* called for it in the main thread."""
        self._handlers.set(name, handler)

    def throw(self, exc: BaseException) -> None:
        """Raise *exc* in the main thread, whatever it waits for."""
        self._thrown = exc
        self._wake()

    def __enter__(self) -> Self:
        self._told, self._telling = socket.socketpair()
        self._telling.setblocking(False)
        self._thread.start()
        if _POKE:
            self._handlers.set("SIGURG", self._awake)
        if threading.current_thread() is threading.main_thread():
            fd = self._telling.fileno()
            self._wakeup = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if threading.current_thread() is threading.main_thread():
                signal.set_wakeup_fd(self._wakeup)
            self._telling.close()
            self._thread.join(PARTING)
        finally:  # later than that thread, which wakes this one
            self._handlers.restore()

    def _listen(self) -> None:
        with self._told:
            while True:
                self._told.settimeout(AGAIN if self._owed else None)
                try:
                    numbers = self._told.recv(MOST)
                except TimeoutError:
                    self._wake()
                    continue
                if not numbers:
                    return
                if numbers := numbers.replace(bytes([_POKE]), b""):
                    self._wake()
                for number in numbers:
                    for hear in self.heard:
                        hear(number)

    def _wake(self) -> None:
        ident = threading.main_thread().ident
        if _POKE in self._handlers and ident is not None:
            self._owed = True
            signal.pthread_kill(ident, _POKE)

    def _awake(self, number: int, frame: FrameType | None) -> None:
        self._owed = False
        exc, self._thrown = self._thrown, None
        if exc is not None:
            raise exc


class Interrupts:
    """While entered, sends a command what Ctrl-C means: INT, TERM the second time, then KILL.

    KeyboardInterrupt is raised where there is no command yet, and at the last press.

    Args:
        most: how many presses there may be.

    Attributes:
        count: how many there have been.
    """

    def __init__(self, most: int) -> None:
        self.count = 0
        self.signals = Signals(self._hear)
        self._most = most
        self._seen = 0  # by the main thread: two at once are one there
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.signals.__enter__()
        self.signals.handle("SIGINT", self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self.signals.__exit__()

    def go_to(self, process: Process) -> Process:
        """Say which command it is."""
        self._process = process
        if self.count:  # it came just before
            self.send(ON_CTRL_C[0])
        return process

    def send(self, name: str) -> None:
        """Send the command a signal; that it or the connection has ended, others tell."""
        if self._process is not None:
            with contextlib.suppress(*GONE):
                self._process.send_signal(name)

    @property
    def gave_up(self) -> bool:
        """Whether there have been as many presses as there may be."""
        return self.count >= self._most

    def _look(self, number: int, frame: FrameType | None) -> None:
        self._seen = max(self._seen + 1, self.count)
        if self._process is None or self._seen >= self._most:
            raise KeyboardInterrupt

    def _hear(self, number: int) -> None:
        if number == signal.SIGINT:
            self.count += 1
            self.send(ON_CTRL_C[min(self.count, len(ON_CTRL_C)) - 1])
