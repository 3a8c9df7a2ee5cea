"""The bytes of a proof, written a second time and by hand; whole proofs between two sides."""

from __future__ import annotations

import hashlib
from typing import Any

KEY = bytes(range(100, 132))
OTHER_KEY = bytes(range(200, 232))
BINDING = bytes(range(32))

HELLO, CHALLENGE, PROOF, READY, FAIL = range(1, 6)
HEADER = 11


def message(kind: int, body: bytes = b"", length: int | None = None) -> bytes:
    """A message; its length need not be right."""
    size = len(body) if length is None else length
    return b"\xffpysock\1" + bytes([kind, size >> 8, size & 255]) + body


def hello(user: bytes, nonce: bytes = bytes(32)) -> bytes:
    return message(HELLO, bytes([len(user)]) + user + nonce)


def mac(
    key: bytes,
    role: bytes,
    user: bytes,
    client_nonce: bytes,
    server_nonce: bytes,
    binding: bytes = b"",
) -> bytes:
    """HMAC-SHA256 as RFC 2104 tells it, for keys of up to 64 bytes."""
    text = b""
    for field in (b"pysock/1 " + role, user, client_nonce, server_nonce, binding):
        text += bytes([0, 0, len(field) >> 8, len(field) & 255]) + field
    inner, outer = (bytes(byte ^ pad for byte in key.ljust(64, b"\0")) for pad in (0x36, 0x5C))
    return hashlib.sha256(outer + hashlib.sha256(inner + text).digest()).digest()


def give(side: Any, data: bytes) -> tuple[bytes, bytes]:
    """Feed *data* to *side* as it wants it; return what it sends, and what is left over.

    A side that wants nothing gets all of it.
    """
    sent = b""
    while len(data) >= (side.wanted or 1):
        size = side.wanted or len(data)
        sent += side.feed(data[:size])
        data = data[size:]
    return sent, data


def answer(side: Any, data: bytes) -> bytes:
    """Return what *side* sends after *data*, of which nothing may be left over."""
    sent, left = give(side, data)
    assert not left
    return sent


def prove(prover: Any, verifier: Any) -> list[bytes]:
    """Hold a whole proof; return its four messages."""
    messages = [prover.begin()]
    for side in (verifier, prover, verifier):
        messages.append(answer(side, messages[-1]))
    assert answer(prover, messages[-1]) == b""
    return messages
