"""Look now and then for clients that are too slow: idle, dripping, not reading."""

from __future__ import annotations

import time

from .session import ServerConnection

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Sweep"]

_NEVER = float("inf")
_WHY = ("", "idle for too long", "its message comes too slowly", "takes no replies")
_IDLE = 1


class Sweep:
    """The limits in time of a `Loop`'s connections.

    Args:
        loop: has `served`, the server's limits, and `overdue`, `tell_overdue` to call.
        crew: the poller.
    """

    def __init__(self, loop: Any, crew: Any) -> None:
        self._loop = loop
        self._crew = crew
        limits = loop.server.limits
        self.interval: float | None = limits.sweep_interval()
        self._patience: tuple[float, float, float, float] = limits.patience()
        self.at = _NEVER  # when to look next

    def begin(self, now: float) -> bool:
        """Look from the first client on; return whether there are limits to look for."""
        if self.interval is None:
            return False
        self.at = now + self.interval
        self._crew.call_at(self.at)
        return True

    def leave_to(self, connection: ServerConnection) -> None:
        """Let a connection's own calls keep the limits, where nobody else looks."""
        idle, _, _, patience = self._patience
        connection._set_patience(idle, patience)

    def run(self, now: float) -> None:
        """Close the connections of clients that are too slow."""
        assert self.interval is not None
        # Where this thread was held up, what clients have sent meanwhile was not seen.
        late = now - self.at if now - self.at > self.interval else 0.0
        self.at = now + self.interval if self._loop.served else _NEVER
        self._loop.server._handshakes.excuse(late)
        for connection, what in self._too_slow(now, late):
            self._loop.overdue(connection, _WHY[what], quiet=what == _IDLE)

    def for_leader(self) -> None:
        """Cut what is too slow while nobody leads: all threads may wait for clients."""
        now = time.monotonic()
        if self.interval is not None and now > self.at + 2 * self.interval:
            for connection, what in self._too_slow(now, held_up=True):
                self._loop.tell_overdue(connection, _WHY[what])
                connection._cut()

    def _too_slow(
        self, now: float, late: float = 0.0, held_up: bool = False
    ) -> list[tuple[ServerConnection, int]]:
        found: list[tuple[ServerConnection, int]] = self._crew.overdue(
            list(self._loop.served), now, *self._patience, late, held_up
        )
        return found
