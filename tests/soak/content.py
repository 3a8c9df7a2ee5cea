"""What is in the messages of the soak: each byte follows from the run's seed and a number.

A request is a head, which says what is wanted, and a body; a reply is a body alone.  An
empty message is answered with an empty one.
"""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

_SCATTER = 0x9E3779B97F4A7C15  # odd: no two near numbers begin near each other
_PERIOD = 1 << 23
LARGEST = 4 << 20
_HEAD = struct.Struct(">cBIQ")
_BACK = 1 << 63  # in the number of what is sent back


class Wrong(Exception):
    """Bytes came that nobody had sent, or not in that place."""


class Request(NamedTuple):
    """What is asked of the server.

    Args:
        deed: one letter, see service.py.
        count: messages that follow, or that come back.
        size: bytes of each reply.
        number: from which the body follows.
    """

    deed: bytes
    number: int
    size: int = 0
    count: int = 1


class Content:
    """Makes bodies, and compares them."""

    def __init__(self, seed: int) -> None:
        self._bytes = memoryview(random.Random(seed).randbytes(_PERIOD + LARGEST))

    def body(self, number: int, size: int) -> bytes:
        """Return the *size* bytes that belong to *number*."""
        begin = number * _SCATTER % _PERIOD
        return b"".join((number.to_bytes(8)[:size], self._bytes[begin : begin + size][8:]))

    def reply(self, request: Request, index: int = 0) -> bytes:
        """Return the reply to *request*, of several the one at *index*."""
        return self.body(request.number + index | _BACK, request.size)

    def request(self, request: Request, size: int) -> bytes:
        """Return the message that asks for it, with a body of *size* bytes."""
        head = _HEAD.pack(request.deed, request.count, request.size, request.number)
        return head + self.body(request.number, size)

    def read(self, message: bytes) -> Request:
        """Return what *message* asks for.

        Raises:
            Wrong: its bytes are not what they should be.
        """
        if len(message) < _HEAD.size:
            raise Wrong(f"a request of {len(message)} bytes")
        deed, count, size, number = _HEAD.unpack_from(message)
        self.check(memoryview(message)[_HEAD.size :], number)
        return Request(deed, number, size, count)

    def check(self, data: bytes | memoryview, number: int, size: int | None = None) -> None:
        """Compare *data* with the body of *number*.

        Raises:
            Wrong: it is another.
        """
        if size is not None and len(data) != size:
            raise Wrong(f"{len(data)} bytes instead of {size}, for {number:#x}")
        if data != self.body(number, len(data)):
            came = int.from_bytes(data[:8])
            raise Wrong(f"{len(data)} bytes that begin with {came:#x}, for {number:#x}")

    def check_reply(self, data: bytes | memoryview, request: Request, index: int = 0) -> None:
        """Compare *data* with a reply to *request*."""
        self.check(data, request.number + index | _BACK, request.size)
