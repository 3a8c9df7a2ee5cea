"""Let clients in: at every listener, as far as there is room and resources."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from .address import format_peer
from .credentials import peer_credentials
from .listener import Listener, Shortage

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Admission"]

_NEVER = float("inf")
_AT_ONCE = 64  # clients let in between two looks at those that are in
_AT_ONCE_SHARED = 4  # where other processes wait for the same clients


class Admission:
    """Watches a server's listeners, for as long as clients can be let in.

    Args:
        loop: the `Loop` that serves them; `let_in(socket, address, now)` is called there.
        crew: the poller.
    """

    def __init__(self, loop: Any, crew: Any) -> None:
        self._loop = loop
        self._crew = crew
        self._server = loop.server
        self._log = loop.server._seldom.log
        self._handshakes = loop.server._handshakes
        self._excess_waits = loop.server.limits.excess == "wait" or loop.once
        self.open = False
        for listener in self._server._listeners:
            listener.watch = None  # what an earlier loop had is gone with it
        self._again_at = _NEVER  # when to try again, after a shortage
        self._room_at = _NEVER  # when the oldest handshake has had its time

    def is_full(self) -> bool:
        """Whether there are `max_connections`."""
        if self._loop.once:
            return bool(self._loop.served)
        most = self._server.max_connections
        return most is not None and len(self._loop.served) >= most

    def next_at(self) -> float:
        """Return when to call `watch` again, if nothing happens before."""
        return min(self._again_at, self._room_at)

    def watch(self, now: float) -> None:
        """Begin to wait for clients, or no longer wait, as things are."""
        if now >= self._again_at:
            self._again_at = _NEVER
        room_at = self._when_there_is_room(now)
        full = self._excess_waits and room_at > now
        self._room_at = room_at if full else _NEVER
        wanted = not full and self._again_at == _NEVER and not self._loop.stopping
        if room_at == _NEVER and self.open and not self._loop.once:
            # A server for one client at a time was meant to be one.
            level = logging.DEBUG if self._server.max_connections == 1 else logging.WARNING
            text = "%d connections are open (max_connections): others wait"
            self._log(level, text, len(self._loop.served))
        if wanted == self.open:
            return
        try:
            for listener in self._server._listeners:
                if wanted and listener.watch is None:
                    listener.watch = self._crew.watch_for(
                        listener.fileno(), self._accepter(listener), listener.shared
                    )
                elif not wanted and listener.watch is not None:
                    watch, listener.watch = listener.watch, None
                    self._crew.unwatch(watch)
            self.open = wanted
        except OSError as exc:
            self._pause(listener, now, exc)

    def _accepter(self, listener: Listener) -> Callable[[], None]:
        at_once = _AT_ONCE_SHARED if listener.shared else _AT_ONCE
        return lambda: self._accept(listener, at_once)

    def empty(self) -> None:
        """Let in all that have connected already: the last ones."""
        if self._again_at == _NEVER:
            for listener in self._server._listeners:
                self._accept(listener, self._server.request_queue_size, last=True)

    def _accept(self, listener: Listener, most: int, last: bool = False) -> None:
        now = time.monotonic()
        for _ in range(most):
            if self._excess_waits and self._when_there_is_room(now) > now:
                break
            try:
                client = listener.accept()
            except Shortage as exc:
                if not last:
                    self._pause(listener, now, exc)
                break
            if client is None:
                return
            try:
                why_not = self._why_not(*client, now)
                if why_not is None:
                    self._make_room(now)
                    self._loop.let_in(*client, now)
                else:
                    self._refuse(*client, why_not)
            except MemoryError:
                client[0].close()
                raise
        self._crew.call_at(0.0)  # perhaps nobody more can be let in

    def _why_not(self, sock: socket.socket, client_address: Any, now: float) -> str | None:
        """Return why a client is not let in, or None."""
        if self._when_there_is_room(now) > now:
            return "max_connections are open"
        allowed = self._server._allow_uids
        if allowed is not None:
            who = peer_credentials(sock)
            if who is None or who.uid not in allowed:
                uid = "of an unknown user" if who is None else f"{who.uid}"
                return f"its uid {uid} is none of allow_uids"
        if self._handshakes.needed:
            why_not: str | None = self._handshakes.why_not(client_address, now)
            return why_not
        return None

    def _pause(self, listener: Listener, now: float, exc: Exception) -> None:
        pause = listener.next_pause()
        text = "cannot accept for now, next try in %.1f s: %s"
        self._log(logging.WARNING, text, pause, exc)
        self._again_at = now + pause

    def place_is_free(self) -> None:
        """Hear that a handshake, or a connection, has come to its end."""
        if not self.open:
            self._crew.call_at(0.0)

    def _when_there_is_room(self, now: float) -> float:
        """Return when one more can be let in: *now*, later, or never by itself."""
        full = self.is_full()
        if not full and not self._handshakes.full:
            return now
        if self._loop.once:
            return _NEVER
        at: float = self._handshakes.makes_room_at(full)
        return max(now, at)

    def _make_room(self, now: float) -> None:
        """End a handshake, if its place is needed."""
        if self.is_full() or self._handshakes.full:
            one = self._handshakes.dispensable(now)
            if one is not None:
                self._loop.overdue(one, "its handshake has not come, and others wait")

    def _refuse(self, sock: socket.socket, client_address: Any, why: str) -> None:
        self._server._counts["refused"] += 1
        self._log(logging.WARNING, "%s: refused, %s", format_peer(client_address), why)
        sock.close()
