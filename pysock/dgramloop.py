"""One run of a server of datagrams: threads that take turns, and an end that answers all.

One thread leads: it receives what has come, many datagrams with one system call, and calls
the handler for each right there.  While a handler blocks another thread goes on with those
behind it.  How is in dispatch.pxi.
"""

from __future__ import annotations

import logging
import socket
import time

from .framing import _Dispatcher
from .workers import CUT, NEVER, Workers

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DatagramLoop"]

logger = logging.getLogger("pysock.datagram")

_SMALLEST = 256  # bytes that the system books for a datagram at least


class DatagramLoop(Workers):
    """What a `DatagramServer` has while it runs.

    Args:
        server: the `DatagramServer`.
        deadlines: for the drain, one for each time that the server was told to stop.
        once: serve one datagram, in this thread.
    """

    def __init__(self, server: Any, deadlines: list[float], once: bool = False) -> None:
        super().__init__(server, deadlines, 0 if once else server.workers, logger)
        self._draining = False
        self._crew = _Dispatcher(server.handler, server._pass_sender, self._workers, self)
        self._crew.open(
            server.socket,
            server.max_datagram,
            server.max_amplification,
            server.send_timeout,
            server._everywhere,
            server._unwrap if server._proxies is not None else None,
            once,
        )

    def counts(self) -> dict[str, int]:
        """What has happened in this run."""
        names = ("messages_in", "messages_out", "bytes_in", "bytes_out", "replies_lost")
        found = {name: int(getattr(self._crew, name)) for name in names}
        found["too_long"] = self._crew.too_long
        found["refused"] = self._crew.refused
        found["takeovers"] = self._crew.takeovers
        return found

    def _close_all(self) -> None:
        """Have all threads return; who is in a handler gets what is left of the drain."""
        stop_at = min(self._deadlines, default=0.0)
        self._crew.end()
        self._over = True
        now = time.monotonic()
        self._wait_for_handlers(max(now, min(stop_at, now + 86400)))
        self._crew.hurried = True
        self._join(time.monotonic() + CUT)
        self._crew.give_up()
        self.server._finish_counting(self)
        if not self._crew.threads:
            self._crew.close()

    def _wait_for_handlers(self, end: float) -> None:
        for thread in list(self._threads):
            while thread.is_alive():
                stop_at = min(self._deadlines, default=end)
                left = min(end, stop_at) - time.monotonic()
                if left <= 0:
                    return
                thread.join(min(left, 0.05))  # another stop() may shorten the drain

    # ---------------------------------------------------------------- for the dispatcher

    def _attend(self, now: float) -> float:
        """Do what is due; return when to call again."""
        self._act(now)
        stop_at = min(self._deadlines, default=None)
        if stop_at is not None:
            if now >= stop_at:
                self._end()
                return NEVER
            if not self._draining and self.server.fileno() >= 0:
                self._draining = True
                room = self.server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                self._crew.drain(max(64, room // _SMALLEST))
        moments = [self._act_at, self._spawn_at]
        if stop_at is not None:
            moments.append(stop_at)
        return min(moments)

    def _end(self) -> None:
        self._over = True
        self._crew.end()
        self._waker.wake()

    def abandon(self) -> None:
        """End at once: the socket is about to be closed."""
        self._end()
        self._crew.give_up()

    def _drained(self) -> None:
        """Hear that all has been served that had come when the server was stopped."""
        self._end()

    def _failed(self, message: bytes, address: Any) -> None:
        self.server._tell_error(message, address)

    def _lost(self, what: str, length: int, address: Any, error: int | None) -> None:
        self.server._tell_lost(what, length, address, error)

    def _proven(self, address: Any) -> bool:
        return bool(self.server._is_proven(address))

    def _why_refused(self, length: int, address: Any) -> str:
        return str(self.server._why_refused(length, address))

    def _largest(self) -> int:
        return int(self.server._largest())
