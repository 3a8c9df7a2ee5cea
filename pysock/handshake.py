"""What comes on a connection before its first message, in steps that never wait.

A PROXY header, TLS, the proof of a key: those that the server wants, in this order, and
nothing else.  Each connection has a generator that yields what it waits for.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections import Counter
from collections.abc import Sequence

from .errors import AuthenticationError, ConnectionClosed
from .framing import _READ, _send_now
from .greeting import Steps, prove, secure, wire_of
from .penalties import Penalties, source_of
from .proxy import ProxyHeader, Trusted, parse
from .session import ServerConnection

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Handshakes"]

_MOST = 64  # under way at a time
_MOST_OF_ONE = 16  # from one address
_SILENCE = 0.1  # seconds that one which has sent nothing has, when others wait
_PATIENCE = 0.5  # seconds that the oldest has at least, when others wait for its place
_LONG_PATIENCE = 2.0  # and when they wait for its connection
_PEEK = 4096
_DELAY = 0.1  # seconds until a wrong proof is answered
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST")
_ALERT = b"\x15\x03\x03\0\2\2\x46"  # fatal, protocol_version: RFC 8446, 6
_LATER = -1  # what a generator yields to go on after that


class _WrongProof(AuthenticationError):
    """The log has as many lines a second of this kind as of each other."""


class _Refused(AuthenticationError):
    """Of this one too."""


class Handshakes:
    """All connections of a server that have not got as far as their first message.

    There are at most 64 of them, 16 from one address.  Where all places are taken the
    next client gets that of the oldest which has sent nothing yet, after a tenth of a second,
    or of the oldest after half a second; where there are `max_connections`, two seconds.

    Args:
        proxy_protocol: the PROXY header that each connection begins with: "v1", "v2",
            "any" of them, or None.
        trusted_proxies: the networks that may send one.
        timeout: seconds for all of it, or None.
        encrypted: whether there is TLS.
        authkey: as for `auth.Verifier`, or None.
        binding: the SHA-256 of the server's certificate, b"" without TLS.
    """

    def __init__(
        self,
        proxy_protocol: str | None,
        trusted_proxies: Sequence[str],
        timeout: float | None,
        encrypted: bool = False,
        authkey: Any = None,
        binding: bytes = b"",
    ) -> None:
        if proxy_protocol not in (None, "v1", "v2", "any"):
            raise ValueError(
                f"proxy_protocol is {proxy_protocol!r}, expected 'v1', 'v2', 'any' or None"
            )
        self.needed = proxy_protocol is not None or encrypted or authkey is not None
        self._proxy_protocol = proxy_protocol
        self._trusted = Trusted(trusted_proxies)
        self._timeout = timeout
        self._encrypted = encrypted
        self._authkey: Any = authkey
        self._binding = binding
        self._penalties = Penalties()
        self._under_way: dict[ServerConnection, _Handshake] = {}
        self._silent: dict[ServerConnection, None] = {}  # those of them that have sent nothing
        self._of_one: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, connection: ServerConnection) -> bool:
        return connection in self._under_way

    def why_not(self, client_address: Any, now: float) -> str | None:
        """Return why a client is not let in, or None."""
        if self._proxy_protocol is None:
            return self._why_not_source(source_of(client_address), now)
        if client_address not in self._trusted:
            return "it is none of trusted_proxies"
        return None

    def _why_not_source(self, source: str | None, now: float) -> str | None:
        seconds = self._penalties.left(source, now)
        if seconds:
            return f"its proofs of a key have failed, {seconds:.0f} s are left of that"
        if source is not None and self._of_one[source] >= _MOST_OF_ONE:
            return f"{_MOST_OF_ONE} handshakes with its address are under way"
        return None

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return len(self._under_way) >= _MOST

    def dispensable(self, now: float) -> ServerConnection | None:
        """Return the connection that is to make room for another."""
        silent = next(iter(self._silent), None)
        if silent is not None and self._under_way[silent].began + _SILENCE <= now:
            return silent
        return next(iter(self._under_way), None)

    def makes_room_at(self, short: bool) -> float:
        """Return when one may lose its place to another; infinity if there is none.

        Args:
            short: of room for connections, and not only for handshakes.
        """
        oldest = next(iter(self._under_way.values()), None)
        if oldest is None:
            return math.inf
        at = oldest.began + (_PATIENCE if self.full or not short else _LONG_PATIENCE)
        silent = next(iter(self._silent), None)
        return at if silent is None else min(at, self._under_way[silent].began + _SILENCE)

    def begin(self, connection: ServerConnection, now: float) -> None:
        """Expect a handshake on *connection*."""
        state = self._under_way[connection] = _Handshake(now)
        self._silent[connection] = None
        state.steps = self._steps(connection, state)
        if self._proxy_protocol is None:
            self._count(state, source_of(connection.client_address))

    def step(self, connection: ServerConnection, now: float) -> int | None:
        """Go on; return what to wait for, None when the first message may come.

        0: call again; -1: not before `delayed` tells.

        Raises:
            AuthenticationError: the client has proved nothing.
            ConnectionClosed, OSError: it is over.
            InvalidHeader: what came is not what was expected.
        """
        state = self._under_way[connection]
        state.now = now
        self._silent.pop(connection, None)
        if now < state.resumes_at:
            return _LATER
        want = next(state.steps, None)
        if want is None:
            self.forget(connection)
        elif want == _LATER:
            state.resumes_at = now + _DELAY
        return want

    def forget(self, connection: ServerConnection) -> None:
        """Give up the place of *connection*."""
        state = self._under_way.pop(connection, None)
        self._silent.pop(connection, None)
        if state is not None and state.source is not None:
            self._of_one[state.source] -= 1
            if not self._of_one[state.source]:
                del self._of_one[state.source]

    def excuse(self, seconds: float) -> None:
        """Let *seconds* in which nobody could look count for nothing."""
        for state in self._under_way.values():
            state.began += seconds

    def overdue(self, now: float) -> list[ServerConnection]:
        """Return those whose time is over."""
        if self._timeout is None:
            return []
        began = now - self._timeout
        return [one for one, state in self._under_way.items() if state.began <= began]

    def delayed(self, now: float) -> list[ServerConnection]:
        """Return those that are to go on without anything having come."""
        if self._authkey is None:
            return []
        return [one for one, state in self._under_way.items() if 0 < state.resumes_at <= now]

    def next_at(self) -> float | None:
        """Return when something is due: the end of one's time, or of a delay."""
        moments = [one.resumes_at for one in self._under_way.values() if one.resumes_at > 0]
        if self._timeout is not None and self._under_way:
            moments.append(next(iter(self._under_way.values())).began + self._timeout)
        return min(moments, default=None)

    # ---------------------------------------------------------------- the steps

    def _steps(self, connection: ServerConnection, state: _Handshake) -> Steps:
        if self._proxy_protocol is not None:
            header = yield from _proxy_header(connection.socket, self._proxy_protocol)
            connection.proxy = header
            if header.source is not None:
                connection.client_address = header.source
            if self._encrypted or self._authkey is not None:
                self._admit(connection, state)
        if self._encrypted:
            yield from _secure(connection)
        if self._authkey is not None:
            yield from self._verify(connection, state)

    def _admit(self, connection: ServerConnection, state: _Handshake) -> None:
        """Look at the client that a proxy has told of."""
        source = source_of(connection.client_address)
        why_not = self._why_not_source(source, state.now)
        if why_not is not None:
            raise _Refused(f"refused, {why_not}")
        self._count(state, source)

    def _count(self, state: _Handshake, source: str | None) -> None:
        if source is not None:
            state.source = source
            self._of_one[source] += 1

    def _verify(self, connection: ServerConnection, state: _Handshake) -> Steps:
        from .auth import Verifier

        side = Verifier(self._authkey, self._binding)
        wire = wire_of(connection.socket, connection._crypt)
        try:
            yield from prove(wire, side)
        except AuthenticationError as exc:
            if not side.farewell:
                raise
            self._penalties.add(source_of(connection.client_address), state.now)
            yield _LATER  # whoever guesses has to wait
            wire.send_now(side.farewell)
            raise _WrongProof(*exc.args) from None
        connection.user = side.user


class _Handshake:
    """How far one has come."""

    steps: Steps

    def __init__(self, now: float) -> None:
        self.began = self.now = now
        self.source: str | None = None  # that it counts for
        self.resumes_at = 0.0


def _secure(connection: ServerConnection) -> Steps:
    try:
        yield from secure(connection._crypt)
    except OSError as exc:
        if getattr(exc, "reason", None) in _NO_TLS:
            with contextlib.suppress(OSError):
                _send_now(connection.socket, _ALERT)  # which OpenSSL does not, for no TLS
        raise


def _proxy_header(sock: socket.socket, accept: str) -> Any:
    """Take a PROXY header's bytes off *sock*, none behind it; return the header."""
    seen = b""
    while True:
        try:
            came = sock.recv(_PEEK, socket.MSG_PEEK)
        except BlockingIOError:
            yield _READ
            continue
        if not came:
            raise ConnectionClosed("the connection ended before its first message")
        whole = parse(seen + came, accept)
        if whole is not None:
            header: ProxyHeader
            header, size = whole
            sock.recv(size - len(seen))
            return header
        seen += sock.recv(len(came))
