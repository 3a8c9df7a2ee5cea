"""recv_exactly and its kin: over any socket or descriptor, and not a byte more."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import peers
from apart import apart
from conftest import TIME_FACTOR, pipes
from peers import LONG, PROMPT, SHORT, Foreign, Task, background, linked, pattern
from pysock import recv_exactly, recv_exactly_into, recv_frame, send_frame
from pysock.errors import ConnectionClosed, FrameTooLarge, IncompleteFrame, InvalidHeader
from pysock.framing import (
    ContentLength,
    Decimal,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Varint,
)
from pysock.testing import every_cut

paired_ends = peers.paired_ends

FIELD = LengthField()
KEPT = LengthField(4, offset=3, counts="body", trailer=b"\xce")


class Timed(Foreign):
    """A foreign stream that tells its timeout."""

    def gettimeout(self) -> float | None:
        return self._sock.gettimeout()


HANDLES = [*peers.SOCKETS, *peers.PAIRED, *peers.PIPES, "foreign"]


@contextlib.contextmanager
def handles(kind: str, tmp_path: Path) -> Iterator[tuple[Any, Any, Any]]:
    transport = "socketpair" if kind in ("descriptor", "foreign") else kind
    with linked(transport, tmp_path, smallest=True) as (near, far):
        if kind == "pipes":
            yield *near.descriptors, far
        elif kind == "foreign":
            yield Timed(near.sock), Timed(near.sock), far
        elif kind == "descriptor":
            yield near.sock.fileno(), near.sock.fileno(), far
        else:
            yield near.sock, near.sock, far


@pytest.fixture(params=[*HANDLES, pytest.param("descriptor", marks=pipes)])
def handle(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """What the functions take to receive from, the same to send to, and the other end."""
    with apart(request, lambda: handles(request.param, tmp_path)) as three:
        yield three


def blocking(sock: socket.socket) -> bool | None:
    """Whether the descriptor itself blocks, where that can be asked."""
    return None if sys.platform == "win32" else os.get_blocking(sock.fileno())


def rest_of(reader: Any, n: int) -> bytes:
    """The next *n* bytes, read in the plainest way."""
    if isinstance(reader, int):
        return os.read(reader, n)
    buffer = bytearray(n)
    return bytes(buffer[: reader.recv_into(buffer)])


@pytest.mark.parametrize("size", [1, 2, 5000, 8192, 70_000, 300_000, 1 << 20])
def test_recv_exactly_takes_so_many_bytes_and_no_more(handle, size):
    reader, _, peer = handle
    with background(peer.write, pattern(size) + b"next"):
        assert recv_exactly(reader, size) == pattern(size)
        assert recv_exactly(reader, 1) == b"n"
        assert rest_of(reader, 99) == b"ext"


@pytest.mark.parametrize("size", [1, 5000, 300_000])
def test_recv_exactly_into_fills_the_buffer_and_takes_no_more(handle, size):
    reader, _, peer = handle
    buffer = bytearray(b"?" * (size + 2))
    with background(peer.write, pattern(size) + b"next"):
        recv_exactly_into(reader, memoryview(buffer)[1:-1])
        assert buffer == b"?" + pattern(size) + b"?"
        assert recv_exactly(reader, 4) == b"next"


def test_no_bytes_need_no_waiting(handle):
    reader, _, _ = handle
    assert recv_exactly(reader, 0) == b""
    recv_exactly_into(reader, bytearray())


@pytest.mark.case("P04")
def test_end_before_the_first_byte_and_before_the_last(handle):
    """P04"""
    reader, _, peer = handle
    peer.write(pattern(15))
    peer.finish()
    assert recv_exactly(reader, 5) == pattern(5)
    with pytest.raises(IncompleteFrame) as told:
        recv_exactly(reader, 20)
    assert (told.value.received, told.value.expected) == (10, 20)
    for call in (
        lambda: recv_exactly(reader, 1),
        lambda: recv_exactly_into(reader, bytearray(1)),
        lambda: recv_frame(reader, FIELD),
    ):
        with pytest.raises(ConnectionClosed) as told:
            call()
        assert type(told.value) is ConnectionClosed


@pytest.mark.case("P05", "P06")
@pytest.mark.parametrize("size", [10, 300_000])
def test_timeout_hands_over_what_had_come(handle, size):
    """P05, P06: nothing is read ahead, so nothing may be lost"""
    reader, _, peer = handle
    received = b""
    with background(peer.write, pattern(size)):
        while len(received) < size:
            with pytest.raises(TimeoutError) as told:
                recv_exactly(reader, size + 1, SHORT)
            received += told.value.partial
    assert received == pattern(size)
    with pytest.raises(TimeoutError) as told:
        recv_exactly(reader, size, SHORT)
    assert told.value.partial == b""
    peer.write(b"later")
    assert recv_exactly(reader, 5, LONG) == b"later"


@pytest.mark.case("P06", "K07")
def test_timeout_of_recv_exactly_into_hands_over_what_had_come(handle):
    """P06"""
    reader, _, peer = handle
    buffer = bytearray(100)
    peer.write(pattern(60))
    with pytest.raises(TimeoutError) as told:
        recv_exactly_into(reader, buffer, SHORT)
    assert told.value.partial == pattern(60)
    buffer.extend(b"it has been let go")


@pytest.mark.case("P08")
def test_bytes_that_dribble_in_do_not_restart_the_deadline(handle):
    """P08"""
    reader, _, peer = handle
    over = threading.Event()

    def drip() -> None:
        while not over.wait(SHORT / 5):
            peer.write(b"x")

    with background(drip):
        began = time.monotonic()
        with pytest.raises(TimeoutError) as told:
            recv_exactly(reader, 1_000_000, 0.12 * TIME_FACTOR)
        assert time.monotonic() - began < PROMPT
        over.set()
    assert told.value.partial == b"x" * len(told.value.partial) != b""


def test_timeout_of_the_socket_holds_where_none_is_given(paired_ends):
    sock, peer = paired_ends[0].sock, paired_ends[1]
    sock.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        recv_exactly(sock, 1)
    with pytest.raises(TimeoutError):
        recv_frame(sock, FIELD)
    sock.settimeout(0)
    with pytest.raises(BlockingIOError) as told:
        recv_exactly(sock, 1)
    assert told.value.partial == b""
    waiting = Task(recv_exactly, sock, 1, None)
    waiting.join(SHORT)
    assert waiting.is_alive()
    peer.write(b"x")
    assert waiting.finish() == b"x"
    with pytest.raises((TimeoutError, BlockingIOError)):
        send_frame(sock, bytes(1 << 22), FIELD)


@pytest.mark.parametrize("own", [None, 0.0, 7.0])
def test_sock_is_left_as_it_was(paired_ends, own):
    """It is only borrowed: its timeout, O_NONBLOCK, and it stays open"""
    sock, peer = paired_ends[0].sock, paired_ends[1]
    for borrowed in (sock, Timed(sock)):
        sock.settimeout(own)
        blocks = blocking(sock)
        peer.write(b"\0\0\0\1x" * 3)
        assert recv_exactly(borrowed, 5, 1) == b"\0\0\0\1x"
        recv_exactly_into(borrowed, bytearray(5), 1)
        assert recv_frame(borrowed, FIELD, 1) == b"x"
        send_frame(borrowed, b"y", FIELD, 1)
        with pytest.raises(TimeoutError):
            recv_exactly(borrowed, 1, SHORT)
        assert sock.gettimeout() == own
        assert blocking(sock) == blocks
        assert peer.read(5) == b"\0\0\0\1y"


@pytest.mark.parametrize(
    ("n", "error"), [(-1, ValueError), (1 << 70, (ValueError, OverflowError))]
)
def test_recv_exactly_refuses_such_a_number(paired_ends, n, error):
    with pytest.raises(error):
        recv_exactly(paired_ends[0].sock, n, 0)


@pytest.mark.parametrize("n", ["5", None, 1.5])
def test_recv_exactly_refuses_what_is_no_number(paired_ends, n):
    with pytest.raises(TypeError):
        recv_exactly(paired_ends[0].sock, n, 0)


@pytest.mark.case("H05")
def test_a_number_of_bytes_that_never_come_takes_no_memory(paired_ends):
    """H05"""
    paired_ends[1].write(b"x")
    with pytest.raises(TimeoutError) as told:
        recv_exactly(paired_ends[0].sock, 1 << 40, SHORT)
    assert told.value.partial == b"x"


@pytest.mark.parametrize("bad", [None, "socket", io.BytesIO(), object()])
def test_what_is_no_socket_is_refused(bad):
    for call in (
        lambda: recv_exactly(bad, 1),
        lambda: recv_exactly_into(bad, bytearray(1)),
        lambda: recv_frame(bad, FIELD),
        lambda: send_frame(bad, b"x", FIELD),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.case("P10")
@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_bad_timeouts_are_refused(paired_ends, timeout):
    """P10"""
    sock = paired_ends[0].sock
    for call in (
        lambda: recv_exactly(sock, 1, timeout),
        lambda: recv_exactly_into(sock, bytearray(1), timeout),
        lambda: recv_frame(sock, FIELD, timeout),
        lambda: send_frame(sock, b"x", FIELD, timeout),
    ):
        with pytest.raises(ValueError, match="timeout"):
            call()


# ------------------------------------------------------------ whole frames

FORMATS: dict[str, tuple[Format, bytes]] = {
    "field": (FIELD, pattern(100)),
    "kept": (KEPT, b"abc" + (100).to_bytes(4, "big") + pattern(100) + b"\xce"),
    "varint": (Varint(), pattern(300)),
    "kept varint": (Varint(offset=1), b"\x30\x64" + pattern(100)),
    "netstring": (Netstring(), pattern(100)),
    "decimal": (Decimal(b"\r\n"), pattern(100)),
    "block": (ContentLength(), pattern(100)),
    "lines": (Delimiter(b"\r\n"), b"line"),
    "kept line": (Delimiter(keep=True), b"line\n"),
    "fixed": (Fixed(100), pattern(100)),
    "escaped": (MultiprocessingConnection(), pattern(100)),
    "empty": (FIELD, b""),
    "large": (FIELD, pattern(300_000)),
    "large kept": (KEPT, b"abc" + (100_000).to_bytes(4, "big") + pattern(100_000) + b"\xce"),
    "large netstring": (Netstring(), pattern(100_000)),
    "long line": (Delimiter(), b"x" * 3000),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_recv_frame_takes_one_frame_and_no_more(handle, kind):
    reader, _, peer = handle
    framing, message = FORMATS[kind]
    with background(peer.write, 2 * framing.encode(message) + b"?"):
        assert recv_frame(reader, framing) == message
        assert recv_frame(reader, framing, LONG) == message
        assert rest_of(reader, 99) == b"?"


@pytest.mark.case("P01")
@pytest.mark.parametrize("kind", [kind for kind, (_, m) in FORMATS.items() if len(m) < 1000])
def test_recv_frame_survives_every_cut(kind):
    """P01"""
    framing, message = FORMATS[kind]
    stream = framing.encode(message) + b"?"
    read = every_cut(stream, lambda sock: (recv_frame(sock, framing), sock.recv(99)))
    assert read == (message, b"?")


@pytest.mark.parametrize("kind", FORMATS)
def test_send_frame_writes_one_frame(handle, kind):
    _, writer, peer = handle
    framing, message = FORMATS[kind]
    frame = framing.encode(message)
    with background(peer.read, len(frame)) as reading:
        send_frame(writer, message, framing, LONG)
        assert reading.finish() == frame


@pytest.mark.parametrize("kind", FORMATS)
def test_timeout_of_recv_frame_hands_over_the_bytes_as_they_came(paired_ends, kind):
    framing, message = FORMATS[kind]
    frame = framing.encode(message)
    for cut in {1, 2, 3, 5, len(frame) // 2, len(frame) - 1}:
        if cut < len(frame):
            writing = Task(paired_ends[1].write, frame[:cut])
            with pytest.raises(TimeoutError) as told:
                recv_frame(paired_ends[0].sock, framing, SHORT)
            writing.finish()
            assert told.value.partial == frame[:cut]


def test_recv_frame_gives_back_a_header_that_could_be_written_otherwise(paired_ends):
    sock, peer = paired_ends[0].sock, paired_ends[1]
    for framing, header in [
        (ContentLength(), b"X: y\r\ncontent-length:  050000\r\n\r\n"),
        (MultiprocessingConnection(), b"\xff" * 4 + (50_000).to_bytes(8, "big")),
    ]:
        peer.write(header + bytes(20_000))
        with pytest.raises(TimeoutError) as told:
            recv_frame(sock, framing, SHORT)
        assert told.value.partial == header + bytes(20_000)


@pytest.mark.case("P04")
def test_end_inside_a_frame_is_told(handle):
    """P04"""
    reader, _, peer = handle
    peer.write(FIELD.encode(b"hello")[:6])
    peer.finish()
    with pytest.raises(IncompleteFrame) as told:
        recv_frame(reader, FIELD)
    assert (told.value.received, told.value.expected) == (6, 9)


@pytest.mark.case("H02")
def test_recv_frame_refuses_from_the_header_alone(handle):
    """H02"""
    reader, _, peer = handle
    peer.write(b"\0\0\4\1")
    with pytest.raises(FrameTooLarge):
        recv_frame(reader, LengthField(max_frame=1024), LONG)
    peer.write(b"x:")
    with pytest.raises(InvalidHeader):
        recv_frame(reader, Netstring(), LONG)


def test_recv_frame_of_raw_is_what_one_receive_gives(handle):
    reader, _, peer = handle
    peer.write(b"bytes")
    assert recv_frame(reader, Raw()) == b"bytes"


@pytest.mark.case("H10", "H14")
def test_send_frame_refuses_before_any_byte(handle):
    """H10, H14"""
    _, writer, peer = handle
    with pytest.raises(FrameTooLarge):
        send_frame(writer, bytes(1025), LengthField(max_frame=1024))
    with pytest.raises(TypeError):
        send_frame(writer, "text", FIELD)
    send_frame(writer, b"x", FIELD)
    assert peer.read(5) == b"\0\0\0\1x"


@pytest.mark.case("P07")
@pytest.mark.parametrize("size", [1 << 20, 1000])
def test_timeout_of_send_frame_tells_what_has_left(handle, size):
    """P07"""
    _, writer, peer = handle
    sent = 0
    with pytest.raises(TimeoutError) as told:
        while True:
            send_frame(writer, pattern(size), FIELD, SHORT)
            sent += 4 + size
    assert 0 <= told.value.sent < 4 + size
    due = FIELD.encode(pattern(size)) * (sent // (4 + size) + 1)
    assert peer.read(sent + told.value.sent) == due[: sent + told.value.sent]
    assert peer.sip(1) == b""


@pytest.mark.case("D09")
def test_send_frame_to_a_closed_peer_raises(tmp_path):
    """D09"""
    for kind in ("socketpair", "pipes") if sys.platform != "win32" else ("socketpair",):
        with linked(kind, tmp_path) as (near, far):
            writer = near.sock if kind == "socketpair" else near.descriptors[1]
            far.close()
            with pytest.raises(ConnectionError):
                while True:  # TCP takes some before it hears of it
                    send_frame(writer, b"x", FIELD)


def test_primitives_and_plain_calls_share_a_socket(paired_ends):
    """What they are for: a stream that other code reads too"""
    sock, peer = paired_ends[0].sock, paired_ends[1]
    peer.write(b"HELLO\r\n" + FIELD.encode(b"one") + b"plain" + FIELD.encode(b"two"))
    assert recv_frame(sock, Delimiter(b"\r\n")) == b"HELLO"
    assert recv_frame(sock, FIELD) == b"one"
    assert sock.recv(5) == b"plain"
    assert recv_exactly(sock, 7) == FIELD.encode(b"two")
    assert isinstance(sock, socket.socket)
