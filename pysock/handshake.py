"""What comes on a connection before its first message, in steps that never wait."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from .errors import ConnectionClosed
from .proxy import ProxyHeader, Trusted, parse
from .session import Served

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Handshakes"]

_MOST = 64  # under way at a time
_PATIENCE = 0.5  # seconds that the oldest has at least, when others wait for its place
_PEEK = 4096


class Handshakes:
    """All connections of a server that have not got as far as their first message.

    There are at most 64 of them.  Where all places are taken the oldest loses its own to
    the next client, once it has had half a second.

    Args:
        proxy_protocol: the PROXY header that each connection begins with: "v1", "v2",
            "any" of them, or None.
        trusted_proxies: the networks that may send one.
        timeout: seconds for all of it, or None.
    """

    def __init__(
        self, proxy_protocol: str | None, trusted_proxies: Sequence[str], timeout: float | None
    ) -> None:
        if proxy_protocol not in (None, "v1", "v2", "any"):
            raise ValueError(
                f"proxy_protocol is {proxy_protocol!r}, expected 'v1', 'v2', 'any' or None"
            )
        self.needed = proxy_protocol is not None
        self._accept = proxy_protocol or "any"
        self._trusted = Trusted(trusted_proxies)
        self._timeout = timeout
        self._under_way: dict[Served, _Handshake] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, connection: Served) -> bool:
        return connection in self._under_way

    def why_not(self, client_address: Any) -> str | None:
        """Return why a client is not let in, or None."""
        if client_address not in self._trusted:
            return "it is none of trusted_proxies"
        return None

    def room_at(self, now: float) -> float:
        """Return when there is a place for one more: *now*, or later."""
        if len(self._under_way) < _MOST:
            return now
        return max(now, next(iter(self._under_way.values())).began + _PATIENCE)

    def oldest(self) -> Served | None:
        """Return the connection that loses its place, where all are taken."""
        full = len(self._under_way) >= _MOST
        return next(iter(self._under_way)) if full else None

    def begin(self, connection: Served, now: float) -> None:
        """Expect a handshake on *connection*."""
        self._under_way[connection] = _Handshake(now)

    def step(self, connection: Served) -> bool:
        """Read on; return whether the connection is ready for its first message.

        Raises:
            ConnectionClosed, OSError: it is over.
            InvalidHeader: what came is not what was expected.
        """
        header = self._under_way[connection].read(connection.socket, self._accept)
        if header is None:
            return False
        connection.proxy = header
        if header.source is not None:
            connection.client_address = header.source
        self.forget(connection)
        return True

    def forget(self, connection: Served) -> None:
        """Give up the place of *connection*."""
        self._under_way.pop(connection, None)

    def excuse(self, seconds: float) -> None:
        """Let *seconds* in which nobody could look count for nothing."""
        for state in self._under_way.values():
            state.began += seconds

    def overdue(self, now: float) -> list[Served]:
        """Return those whose time is over."""
        if self._timeout is None:
            return []
        began = now - self._timeout
        return [one for one, state in self._under_way.items() if state.began <= began]

    def next_at(self) -> float | None:
        """Return when the next one's time is over."""
        if self._timeout is None or not self._under_way:
            return None
        return next(iter(self._under_way.values())).began + self._timeout


class _Handshake:
    """How far one has come."""

    def __init__(self, began: float) -> None:
        self.began = began
        self._seen = b""

    def read(self, sock: socket.socket, accept: str) -> ProxyHeader | None:
        """Take the header's bytes off *sock*, none behind it; None: more must come."""
        while True:
            try:
                came = sock.recv(_PEEK, socket.MSG_PEEK)
            except BlockingIOError:
                return None
            if not came:
                raise ConnectionClosed("the connection ended before its first message")
            whole = parse(self._seen + came, accept)
            if whole is not None:
                header, size = whole
                sock.recv(size - len(self._seen))
                return header
            self._seen += sock.recv(len(came))
