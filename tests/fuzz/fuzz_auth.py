"""The proof of a key, either side: whatever comes, only who has the key is let in."""

from __future__ import annotations

from typing import Any

import proofs
from fuzz.source import Source, cut
from pysock.auth import Prover, Verifier
from pysock.errors import AuthenticationError
from pysock.framing import _READ
from pysock.greeting import prove

NONCE = bytes(range(32))  # of both sides: what was right once is so again
USERS = ("", "bob", "eve", "mallory")
KEYS = {"": proofs.KEY, "bob": (proofs.OTHER_KEY, proofs.KEY), "eve": [proofs.OTHER_KEY]}
KINDS = (proofs.HELLO, proofs.CHALLENGE, proofs.PROOF, proofs.READY, proofs.FAIL, 0, 6, 255)
ROLES = (b"client", b"server")
MOST = 2 * proofs.HEADER + 1 + 255 + 32 + 32  # bytes of a whole proof, one way


def target(data: bytes) -> None:
    source = Source(data)
    server, user = source.flag(), source.pick(USERS)
    binding = source.pick((b"", proofs.BINDING))
    sizes = source.sizes()
    came = b"".join(messages(source, user, binding))
    side: Any = Verifier(KEYS, binding) if server else Prover(proofs.KEY, user, binding)
    side._nonce = NONCE
    wire = Wire(came, sizes)
    try:
        for want in prove(wire, side, b"" if server else side.begin()):
            assert want == _READ
    except AuthenticationError as exc:
        assert str(exc).isprintable() and not side.done
        assert not side.wanted or wire.ended
        return
    assert side.done and not side.wanted and wire.taken <= MOST
    (accept_server if server else accept_client)(came[: wire.taken], side, user, binding)


def messages(source: Source, user: str, binding: bytes) -> list[bytes]:
    """Messages that are right, or have something wrong, or are none at all."""
    made = []
    while source.left and len(made) < 8:
        how = source.number(5)
        if how == 0:
            made.append(proofs.hello(user.encode(), NONCE))
        elif how == 1:
            made.append(proofs.message(proofs.CHALLENGE, NONCE))
        elif how in (2, 3):
            key, role = source.pick((proofs.KEY, proofs.OTHER_KEY)), source.pick(ROLES)
            body = proofs.mac(key, role, user.encode(), NONCE, NONCE, binding)
            made.append(proofs.message((proofs.PROOF, proofs.READY)[how - 2], body))
        elif how == 4:
            kind, body = source.pick(KINDS), source.short()
            made.append(proofs.message(kind, body, source.pick((None, 0, 32, 33, 65535))))
        else:
            made.append(source.short())
    return made


class Wire:
    """A connection over which *came* comes in pieces, and then the end."""

    wants = _READ

    def __init__(self, came: bytes, sizes: list[int]) -> None:
        self._pieces = cut(came, sizes)
        self._come = b""
        self.taken = 0
        self.ended = False

    def recv(self, most: int) -> bytes:
        assert most > 0
        if not self._come:
            self._come = next(self._pieces, b"")
            if self._come:
                raise BlockingIOError
            self.ended = True
        part, self._come = self._come[:most], self._come[most:]
        self.taken += len(part)
        return part

    def send_now(self, data: bytes) -> int:
        assert 0 < len(data) <= MOST
        return len(data)


def accept_server(came: bytes, side: Any, user: str, binding: bytes) -> None:
    """Nobody is let in but with a MAC, made by hand, of a key that the user has."""
    name = came[proofs.HEADER + 1 :][: came[proofs.HEADER]]
    hello = proofs.hello(name, came[proofs.HEADER + 1 + len(name) :][:32])
    keys: Any = KEYS[side.user]
    allowed = [
        hello
        + proofs.message(
            proofs.PROOF, proofs.mac(key, b"client", name, hello[-32:], NONCE, binding)
        )
        for key in ([keys] if isinstance(keys, bytes) else keys)
    ]
    assert came in allowed and side.user == name.decode() and side.farewell == b""


def accept_client(came: bytes, side: Any, user: str, binding: bytes) -> None:
    """No server is believed but with such a MAC."""
    nonce = came[proofs.HEADER :][:32]
    mac = proofs.mac(proofs.KEY, b"server", user.encode(), NONCE, nonce, binding)
    assert came == proofs.message(proofs.CHALLENGE, nonce) + proofs.message(proofs.READY, mac)
