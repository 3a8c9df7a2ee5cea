"""All ways to receive from a stream, by turns: they give what a decoder gives.

The bytes go through a socket in pieces; the calls never wait, and go on where they stopped.
"""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from fuzz import decoders
from fuzz.source import Source
from outcomes import outcome_of
from pysock.connection import Connection, wait
from pysock.errors import ConnectionClosed, FramingError, IncompleteFrame
from pysock.formats import NAMED
from pysock.framing import Format, Raw

FORMATS = (
    decoders.length_field,
    decoders.varint,
    decoders.decimal,
    decoders.delimiter,
    decoders.other,
    lambda source: source.pick(list(NAMED.values())),
)
MOST = 256 * 1024  # bytes of a stream: enough for all ways that a large message takes
BUFFER = memoryview(bytearray(MOST))
WAYS = (
    "_recv",
    "_recv_many",
    "_recv_two",
    "_recv_into",
    "_recv_into_small",
    "_recv_view",
    "_recvfile",
    "_next",
    "_ready",
)


class Receiver:
    """Receives by one call after another."""

    def __init__(self, connection: Connection, calls: list[int]) -> None:
        self.connection = connection
        self.found: list[bytes] = []
        self._calls = cycle(WAYS[call % len(WAYS)] for call in calls)
        self._file: io.BytesIO | None = None

    def take(self) -> None:
        """Receive all that there is.

        Raises:
            BlockingIOError: which was all so far.
            ConnectionClosed, FramingError: and nothing more will come.
        """
        while True:
            if self._file is not None:  # which the rest of a message must go to
                self._recvfile()
            getattr(self, next(self._calls))()

    def _recv(self) -> None:
        self.found.append(self.connection.recv())

    def _recv_many(self) -> None:
        self.found += self.connection.recv_many()

    def _recv_two(self) -> None:
        some = self.connection.recv_many(2)
        assert 1 <= len(some) <= 2
        self.found += some

    def _recv_into(self) -> None:
        self._into(BUFFER)

    def _recv_into_small(self) -> None:
        self._into(BUFFER[:16])

    def _into(self, buffer: memoryview) -> None:
        try:
            count = self.connection.recv_into(buffer)
        except BufferError:  # the message is still there
            return self._recv()
        self.found.append(bytes(buffer[:count]))

    def _recv_view(self) -> None:
        with self.connection.recv_view() as view:
            self.found.append(bytes(view))

    def _recvfile(self) -> None:
        if self._file is None:
            self._file = io.BytesIO()
        count = self.connection.recvfile(self._file)
        self.found.append(self._file.getvalue())
        assert count == len(self.found[-1])
        self._file = None

    def _ready(self) -> None:
        """As a server does it, which looks before it takes."""
        if not wait([self.connection], 0):
            raise BlockingIOError
        try:
            self._recv()
        except BlockingIOError:
            raise AssertionError("there was nothing, where something was told of") from None

    def _next(self) -> None:
        try:
            self.found.append(next(iter(self.connection)))
        except StopIteration:
            raise ConnectionClosed from None


def target(data: bytes) -> None:
    source = Source(data)
    framing = source.pick(FORMATS)(source)
    if framing is None:
        return
    calls = list(source.short(7)) or [0]
    sizes = source.sizes()
    if source.flag():
        sizes = [16 * size for size in sizes]
    at, filler = source.number(1023), 0
    if source.flag():
        filler = source.number(0x2FFFF)
    stream = source.bytes(MOST - filler)
    stream = stream[:at] + bytes(filler) + stream[at:]
    hold(framing, calls, list(pieces(stream, sizes)))


def pieces(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut the stream, into not too many pieces."""
    at, size = 0, cycle(sizes)
    while at < len(stream):
        count = max(next(size), len(stream) // 64)
        yield stream[at : at + count]
        at += count


def hold(framing: Format, calls: list[int], chunks: list[bytes]) -> None:
    """Hold what a connection receives against what a decoder says."""
    near, far = socket.socketpair()
    with far, contextlib.closing(Connection(near, framing, timeout=0, linger=0.0)) as stream:
        receiver = Receiver(stream, calls)
        expected: Any = outcome_of(framing.decoder(), chunks)
        error: Exception | None = None
        for chunk in [*chunks, b""]:
            if chunk:
                far.sendall(chunk)
            else:
                far.shutdown(socket.SHUT_WR)
            try:
                receiver.take()
            except BlockingIOError:
                continue
            except (ConnectionClosed, FramingError) as exc:
                error = exc.with_traceback(None)
                break
        assert error is not None
        if isinstance(framing, Raw):
            assert b"".join(receiver.found) == b"".join(chunks)
            return
        assert receiver.found == expected.messages
        if expected.error is None or expected.error is IncompleteFrame:
            assert type(error) is (expected.error or ConnectionClosed)
        else:
            assert type(error) is expected.error
        if isinstance(error, IncompleteFrame):
            assert error.received == expected.received
            assert error.expected == expected.expected
