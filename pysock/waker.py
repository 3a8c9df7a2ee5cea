"""A descriptor that becomes readable from any thread, or from a signal's handler."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading

__all__ = ["Waker"]


class Waker:
    """Two sockets, of which one is waited on and the other written to."""

    def __init__(self) -> None:
        self._woken, self._waking = socket.socketpair()
        self._woken.setblocking(False)
        self._waking.setblocking(False)
        # Once closed, the descriptor may be another's, who would be sent the byte.  A signal's
        # handler may come inside.
        self._turn = threading.RLock()

    def fileno(self) -> int:
        """Return the descriptor that is waited on, -1 once closed."""
        return self._woken.fileno()

    def wake(self) -> None:
        """Make it readable; nothing where it has been woken often enough, or is closed."""
        with contextlib.suppress(OSError), self._turn:
            self._waking.send(b"\0")

    def wake_on_signals(self) -> int:
        """Have signals make it readable too; return the descriptor for that before."""
        return signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)

    def calm(self) -> None:
        """Take what has made it readable."""
        # All has been taken, or the system is short of something: it stays readable then.
        with contextlib.suppress(OSError):
            while self._woken.recv(4096):
                pass

    def close(self) -> None:
        """Close both; may be called twice."""
        with self._turn:
            self._woken.close()
            self._waking.close()
