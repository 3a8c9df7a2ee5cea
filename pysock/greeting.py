"""What both ends do before the first message: a TLS handshake, the proof of a key.

These are steps that never wait: generators that yield what to wait for, as a selector
takes it, or 0 to be called again, and go on when that can be done.  A server's poller
drives them, and `conduct` does for a client.
"""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Iterator

from .connection import selector_of_any
from .errors import AuthenticationError, ConnectionClosed
from .framing import _READ, _send_now, _Tls

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Steps", "binding_of", "conduct", "prove", "secure", "wire_of"]

Steps = Iterator[int]

_LOOK = 0.05  # seconds between two looks whether it is over


class _Wire:
    """A plain socket with the calls of a `_Tls`."""

    wants = _READ

    def __init__(self, sock: socket.socket) -> None:
        self.recv = sock.recv
        self.send_now = functools.partial(_send_now, sock)


def wire_of(sock: socket.socket, tls: Any) -> Any:
    """Return what bytes go through: *tls*, or the socket where that is None."""
    return _Wire(sock) if tls is None else tls


def secure(tls: _Tls) -> Steps:
    """Do a TLS handshake.

    Raises:
        ssl.SSLError, OSError: it has failed; the text says what that probably means.
    """
    try:
        while want := tls.handshake():
            yield want
    except OSError as exc:
        from .tls import explain

        exc.strerror = explain(exc, tls.server_side)
        raise


def binding_of(tls: Any) -> bytes:
    """Return the SHA-256 of the certificate that a server has shown, b"" without TLS."""
    if tls is None:
        return b""
    from hashlib import sha256

    return sha256(tls.object.getpeercert(True) or b"").digest()


def prove(wire: Any, side: Any, first: bytes = b"") -> Steps:
    """Let a `Prover` or a `Verifier` talk to the other side until it is done.

    Args:
        wire: see `wire_of`.
        side: what answers.
        first: what it begins with.

    Raises:
        AuthenticationError: the proof has failed, or was broken off.
    """
    try:
        yield from _prove(wire, side, first)
    except (ConnectionClosed, OSError) as exc:
        raise AuthenticationError(
            f"the connection ended before the proof of a key ({exc}): one end may have no "
            "authkey=, or the server refuses this address for a while"
        ) from exc


def _prove(wire: Any, side: Any, first: bytes) -> Steps:
    _send(wire, first)
    while side.wanted:
        came = b""
        while len(came) < side.wanted:
            try:
                part = wire.recv(side.wanted - len(came))
            except BlockingIOError:
                yield wire.wants
                continue
            if not part:
                raise ConnectionClosed
            came += part
            side.check(came)
        _send(wire, side.feed(came))


def _send(wire: Any, data: bytes) -> None:
    # So little always fits, unless the peer does not read at all.
    if data and wire.send_now(data) < len(data):
        raise AuthenticationError("the peer does not read what a proof needs")


def conduct(
    steps: Steps, sock: socket.socket, deadline: float | None, over: threading.Event
) -> None:
    """Take *steps* over *sock*, waiting between them, until `time.monotonic` *deadline*.

    Raises:
        ConnectionClosed: *over* was set.
        TimeoutError: the deadline has passed.
    """
    with selector_of_any() as selector:
        for want in steps:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("the server took too long")
            if want:
                selector.register(sock, want)
                selector.select(_LOOK if left is None else min(left, _LOOK))
                selector.unregister(sock)
            if over.is_set():
                raise ConnectionClosed("the connection is closed")
