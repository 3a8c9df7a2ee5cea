"""What one end of a model has sent: the messages, their frames, and how many have come."""

from __future__ import annotations

import os
import random
from bisect import bisect_right
from typing import Any

import reference
from held import Way
from pysock import LengthField, Varint, formats
from pysock.framing import Delimiter, Fixed, Format

FORMATS: list[Format] = [
    LengthField(),
    LengthField(2, "little", magic=b"\xa5", offset=1, trailer=b"\r\n"),
    LengthField(8, offset=4),
    Varint(),
    Varint(offset=1),
    Delimiter(b"\n"),
    Delimiter(b"\r\n", keep=True),
    Fixed(24),
    Fixed(20_000),
    formats.NETSTRING,
    formats.LSP,
    formats.MULTIPROCESSING,
]
LONGEST = 200_000
EDGES = [
    1,
    2,
    3,
    24,
    125,
    128,
    1000,
    2048,
    4090,
    4096,
    8192,
    16384,
    20_000,
    32768,
    65531,
    65536,
]
SIZES = [0, *EDGES, *(edge + 1 for edge in EDGES), 100_000, 131_072, LONGEST]
RECORD_HEAD = 5
DATA = 23

# No byte of it ends a line, and hardly two places have the same bytes.
NOISE = bytes(random.Random(0).choices(range(32, 256), k=2 * LONGEST))


def message_for(framing: Format, number: int, size: int) -> bytes:
    """The *number*-th message, of about *size* bytes: what the format can carry."""
    spec: Any = framing
    if isinstance(framing, Fixed):
        size = spec.size
    size = min(size, framing.max_frame)
    start = 7919 * number % LONGEST
    payload = NOISE[start : start + size]
    return reference.message_of(framing, reference.frame_of(framing, payload))


class Plain:
    """Counts the bytes of a stream from a place on, as they are sent: without TLS."""

    def __init__(self, stream: bytearray, start: int) -> None:
        self.stream, self.start = stream, start

    def until(self, end: int) -> int:
        return end - self.start


class Records(Plain):
    """Counts the data in whole TLS records, each of which has *overhead* bytes besides."""

    def __init__(self, stream: bytearray, start: int, overhead: int) -> None:
        super().__init__(stream, start)
        self._overhead = overhead
        self._data = 0

    def until(self, end: int) -> int:
        while self.start + RECORD_HEAD <= end:
            head = self.stream[self.start : self.start + RECORD_HEAD]
            size = int.from_bytes(head[3:], "big")
            if self.start + RECORD_HEAD + size > end:
                break
            self.start += RECORD_HEAD + size
            if head[0] == DATA:
                self._data += size - self._overhead
        return self._data


class Sent:
    """What one end has sent."""

    def __init__(self, framing: Format, way: Way) -> None:
        self._framing, self._way = framing, way
        self.messages: list[bytes] = []
        self.stream = bytearray()
        self._ends: list[int] = []
        self._began = self._checked = len(way.taken)  # what a handshake took is no frame
        self._came, self._left = (Plain(way.taken, self._began) for _ in range(2))
        self._encrypted = False

    def encrypted_by(self, tls: Any) -> None:
        """Say that the bytes are TLS records from here on."""
        name, version, _ = tls.cipher()
        overhead = 17 if version == "TLSv1.3" else 16 if "CHACHA" in name else 24
        taken, self._encrypted = self._way.taken, True
        self._came, self._left = (Records(taken, self._began, overhead) for _ in range(2))

    def add(self, message: bytes) -> None:
        self.messages.append(message)
        self.stream += reference.encode(self._framing, message)
        self._ends.append(len(self.stream))

    def check(self) -> None:
        """Compare the bytes on the wire with what they must be."""
        if not self._encrypted:
            new = self._way.taken[self._checked :]
            at = self._checked - self._began
            assert new == self.stream[at : at + len(new)], f"other bytes are sent at {at}"
            self._checked += len(new)

    def explain(self, message: bytes, number: int) -> str:
        """Say what is wrong with a message that came as the *number*-th."""
        right = self.messages[number]
        same = os.path.commonprefix([message, right])
        numbers = [i for i, sent in enumerate(self.messages) if sent == message]
        return (
            f"message {number}, of {len(right)} bytes, came as one of {len(message)}, "
            f"which was sent as {numbers or 'none'}; {len(same)} bytes are right"
        )

    @property
    def came(self) -> int:
        """Bytes of the frames that the receiver's system has got."""
        return min(self._came.until(self._way.came), len(self.stream))

    @property
    def whole(self) -> int:
        """How many messages the receiver can have."""
        return bisect_right(self._ends, self.came)

    @property
    def part(self) -> int:
        """Bytes that it has of the one behind them."""
        return self.came - ([0, *self._ends])[self.whole]

    @property
    def has_left(self) -> bool:
        """Whether all has come to the network."""
        return self._left.until(len(self._way.taken)) >= len(self.stream)
