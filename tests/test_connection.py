"""Whole messages in and out of a Connection, over every transport."""

from __future__ import annotations

import array
import ctypes
import mmap
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import peers
import reference
from conftest import linux
from peers import Task, background, drain, linked, pattern
from pysock import Connection
from pysock.framing import (
    ContentLength,
    Decimal,
    Delimiter,
    Fixed,
    Format,
    FrameStream,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Varint,
)

ends, few_ends = peers.ends, peers.few_ends
paired_ends, receive = peers.paired_ends, peers.receive

FIELD = LengthField()
MARKED = LengthField(4, offset=2, magic=b"MK", trailer=b"\xce", counts="body")
KEPT = LengthField(4, offset=3, counts="body", trailer=b"\xce")

# A format, and messages that it can carry.
EVERY = [
    pytest.param(framing, messages, id=type(framing).__name__ + note)
    for framing, messages, note in [
        (FIELD, [b"hello", b"", pattern(200)], ""),
        (LengthField(2, "little"), [b"", b"", b"x"], "-little"),
        (MARKED, [b"hello", b"", b"\xce"], "-marked"),
        (
            KEPT,
            [b"abc\0\0\0\5hello\xce", b"\0\0\0\0\0\0\0\xce", b"\1\2\3\0\0\0\1x\xce"],
            "-kept",
        ),
        (Varint(), [b"hello", b"", pattern(200)], ""),
        (Varint(offset=1), [b"\x30\5hello", b"\x10\0", b"\x20\1x"], "-kept"),
        (Netstring(), [b"hello", b"", b",1:"], ""),
        (Decimal(b"\r\n"), [b"hello", b"", b"\r\n"], ""),
        (ContentLength(), [b"{}", b"", b"\r\n\r\n"], ""),
        (Delimiter(b"\r\n"), [b"hello", b"", b"\r"], ""),
        (Delimiter(keep=True), [b"hello\n", b"\n", b"x\n"], "-kept"),
        (Fixed(5), [b"hello", b"12345", bytes(5)], ""),
        (MultiprocessingConnection(), [b"hello", b"", pattern(200)], ""),
    ]
]

# Where receiving or sending goes another way, and the sizes that others got wrong.
SIZES = [0, 1, 2, 125, 126, 127, 128, 255, 256, 4091, 4092, 4093, 4095, 4096, 4097]
SIZES += [8191, 8192, 8193, 16383, 16384, 16385, 32763, 32764, 32765, 32767, 32768, 32769]
SIZES += [65531, 65532, 65533, 65535, 65536, 65537, 131071, 131072, 131073, 1 << 20]


def wire(framing: Format, messages: list[bytes]) -> bytes:
    return b"".join(framing.encode(message) for message in messages)


def cut_everywhere(
    ends: Any, framing: Format, messages: list[bytes], receive: Any
) -> list[list[bytes]]:
    """Return what is received of the messages, once for each place to cut them in two."""
    stream = wire(framing, messages)
    conn = ends[0].connection(framing)
    all_received = []
    for cut in range(len(stream) + 1):
        ends[1].write(stream[:cut])
        received = drain(conn, receive)
        ends[1].write(stream[cut:])
        while len(received) < len(messages):
            received.append(receive(conn))
        all_received.append(received)
    assert conn.pending == 0
    return all_received


@pytest.mark.case("P01", "T01")
@pytest.mark.parametrize(("framing", "messages"), EVERY)
def test_recv_goes_on_at_every_cut(ends, framing, messages):
    """P01"""
    stream = wire(framing, messages)
    assert reference.ReferenceDecoder(framing).feed(stream) == messages
    received = cut_everywhere(ends, framing, messages, FrameStream.recv)
    assert received == [messages] * (len(stream) + 1)


@pytest.mark.case("P01")
@pytest.mark.parametrize("framing", [FIELD, MARKED], ids=["plain", "marked"])
def test_receiving_goes_on_at_every_cut(few_ends, framing, receive):
    """P01, in every way to receive"""
    messages = [b"hello", b"", b"0123456789" * 7]
    received = cut_everywhere(few_ends, framing, messages, receive)
    assert received == [messages] * (len(wire(framing, messages)) + 1)


@pytest.mark.case("P01")
@pytest.mark.parametrize(("framing", "messages"), EVERY)
def test_recv_of_a_stream_that_comes_in_single_bytes(ends, framing, messages):
    """P01"""
    conn, received = ends[0].connection(framing), []
    for i in range(len(stream := wire(framing, messages))):
        ends[1].write(stream[i : i + 1])
        received += drain(conn, FrameStream.recv)
    while len(received) < len(messages):
        received.append(conn.recv())
    assert received == messages


@pytest.mark.case("P02", "T01")
@pytest.mark.parametrize("chop", [1, 3, 64, 997, 4096])
def test_recv_of_a_stream_in_chops(few_ends, receive, chop):
    """P02"""
    sizes = [10, 300, 0, 2000] if chop < 64 else [10, 9000, 0, 70_000, 4096, 200_000]
    messages = [pattern(min(size, 500 * chop)) for size in sizes]
    stream = wire(FIELD, messages)
    conn = few_ends[0].connection()

    def write_chops() -> None:
        for i in range(0, len(stream), chop):
            few_ends[1].write(stream[i : i + chop])

    with background(write_chops):
        assert [receive(conn) for _ in messages] == messages


def echo(conn: Connection) -> None:
    for message in conn:
        conn.send(message)


@pytest.mark.case("H01", "T01")
def test_messages_of_each_size_come_back_exact(few_ends, receive):
    """H01, the two largest sizes being max_frame - 1 and max_frame"""
    framing = LengthField(max_frame=1_500_000)
    conn, other = (end.connection(framing) for end in few_ends)
    served = Task(echo, other)
    for size in [*SIZES, 1_500_000 - 1, 1_500_000]:
        conn.send(pattern(size))
        assert receive(conn) == pattern(size)
    conn.close()
    served.finish()


@pytest.mark.case("H01")
def test_messages_of_all_sizes_in_one_batch(ends):
    """H01"""
    messages = [pattern(size) for size in SIZES]
    conn, other = (end.connection() for end in ends)
    with background(conn.send_many, messages):
        received = []
        while len(received) < len(messages):
            received += other.recv_many()
    assert received == messages
    assert other.pending == 0


@pytest.mark.parametrize(("framing", "messages"), EVERY)
def test_send_writes_what_the_reference_reads(ends, framing, messages):
    conn, peer = ends[0].connection(framing), ends[1]
    decoder = reference.ReferenceDecoder(framing)
    for message in messages:
        conn.send(message)
    assert conn.send_many(messages) == len(messages)
    for message in messages:
        conn.send(message[:1], message[1:3], b"", message[3:])
    n = 3 * len(wire(framing, messages))
    assert decoder.feed(peer.read(n)) == 3 * messages


@pytest.mark.case("H06")
def test_empty_messages_are_messages(ends, receive):
    """H06"""
    conn, peer = ends[0].connection(), ends[1]
    peer.write(wire(FIELD, [b"a", b"", b"", b"", b"b"]))
    assert [receive(conn) for _ in range(5)] == [b"a", b"", b"", b"", b"b"]


@pytest.mark.case("H06")
def test_empty_message_does_not_end_an_iteration(ends):
    """H06"""
    conn, peer = ends[0].connection(), ends[1]
    peer.write(wire(FIELD, [b"a", b"", b"b"]))
    peer.finish()
    assert list(conn) == [b"a", b"", b"b"]


def test_recv_many_returns_all_that_came_in_order(ends):
    conn, peer = ends[0].connection(), ends[1]
    messages = [b"%d" % i for i in range(1000)]
    peer.write(wire(FIELD, messages))
    received: list[bytes] = []
    while len(received) < 1000:
        received += conn.recv_many()
    assert received == messages
    assert conn.stats.calls_in < 20


def test_recv_many_keeps_what_is_above_its_limit(ends):
    conn, peer = ends[0].connection(), ends[1]
    peer.write(wire(FIELD, [b"a", b"b", b"c", b"d"]))
    assert conn.recv_many(3) == [b"a", b"b", b"c"]
    assert conn.pending == 5
    assert conn.recv_many(3) == [b"d"]
    assert conn.pending == 0


@pytest.mark.parametrize("limit", [0, -1])
def test_recv_many_refuses_a_limit_below_one(paired_ends, limit):
    with pytest.raises(ValueError, match="limit"):
        paired_ends[0].connection().recv_many(limit)


# ------------------------------------------------------------ what may be sent

CARRIED = b"\x01\x02\x03\x04\x05\x06\x07\x08" * 9


def mapped(data: bytes) -> mmap.mmap:
    area = mmap.mmap(-1, len(data))
    area[:] = data
    return area


BUFFERS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "read-only": lambda data: memoryview(data).toreadonly(),
    "slice": lambda data: memoryview(b"?" + data + b"?")[1:-1],
    "array": lambda data: array.array("I", data),
    "matrix": lambda data: memoryview(data).cast("B", (9, 8)),
    "ctypes": lambda data: (ctypes.c_char * len(data)).from_buffer_copy(data),
    "mmap": mapped,
}


@pytest.mark.case("H14")
@pytest.mark.parametrize("kind", BUFFERS)
def test_send_takes_any_contiguous_buffer(ends, kind):
    """H14"""
    conn, peer = ends[0].connection(), ends[1]
    message = BUFFERS[kind](CARRIED)
    conn.send(message)
    conn.send(b"", message, b"")
    conn.send_many([message])
    assert peer.read(3 * (4 + len(CARRIED))) == 3 * FIELD.encode(CARRIED)


CALLS = {
    "send": lambda conn, bad: conn.send(bad),
    "send more": lambda conn, bad: conn.send(b"good", bad),
    "send_many": lambda conn, bad: conn.send_many([bad]),
    "request": lambda conn, bad: conn.request(bad),
    "request_many": lambda conn, bad: conn.request_many([bad]),
}


@pytest.mark.case("H14")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("bad", "error"),
    [("text", TypeError), (None, TypeError), (5, TypeError), ([b"x"], TypeError)]
    + [(memoryview(bytes(8))[::2], BufferError)],
    ids=["str", "None", "int", "list", "stride"],
)
def test_what_is_no_buffer_is_refused_before_any_byte(paired_ends, call, bad, error):
    """H14"""
    conn, peer = paired_ends[0].connection(), paired_ends[1]
    with pytest.raises(error):
        CALLS[call](conn, bad)
    assert conn.stats.bytes_out == conn.unsent == 0
    conn.send(b"good")
    assert peer.read(8) == b"\0\0\0\4good"


@pytest.mark.parametrize("not_many", [None, 5, b"bytes", "text"])
def test_send_many_refuses_what_holds_no_messages(paired_ends, not_many):
    conn = paired_ends[0].connection()
    with pytest.raises(TypeError):
        conn.send_many(not_many)
    assert conn.stats.bytes_out == 0


def test_send_many_sends_what_came_before_a_refused_message(ends):
    conn, peer = ends[0].connection(), ends[1]
    with pytest.raises(TypeError):
        conn.send_many([b"a", b"b", "refused", b"c"])
    assert conn.unsent == 0
    conn.send(b"d")
    assert peer.read(15) == wire(FIELD, [b"a", b"b", b"d"])


def test_send_many_sends_what_a_failing_generator_gave(ends):
    conn, peer = ends[0].connection(), ends[1]

    def some() -> Iterator[bytes]:
        yield b"a"
        raise LookupError

    with pytest.raises(LookupError):
        conn.send_many(some())
    conn.send(b"b")
    assert peer.read(10) == wire(FIELD, [b"a", b"b"])


@pytest.mark.parametrize("size", [1, 40, 3000])
def test_send_gathers_many_buffers(ends, size):
    conn, peer = ends[0].connection(), ends[1]
    for count in [2, 5, 6, 7, 63, 64, 65, 1023, 1024, 1025, 3000]:
        parts = [pattern(size)] * min(count, (1 << 19) // size)
        with background(conn.send, *parts):
            assert peer.read(4 + len(parts) * size) == FIELD.encode(b"".join(parts))


def test_send_finds_a_kept_header_in_several_buffers(ends):
    conn, peer = ends[0].connection(KEPT), ends[1]
    message = b"abc\0\0\0\0" + pattern(5000) + b"\xce"
    for cut in range(9):
        conn.send(message[:cut], message[cut : cut + 1], message[cut + 1 : -1], b"\xce")
        assert peer.read(len(message)) == b"abc" + (5000).to_bytes(4, "big") + message[7:]


def test_raw_messages_are_what_one_receive_returned(ends):
    conn, peer = ends[0].connection(Raw()), ends[1]
    conn.send(b"no", b" frame")
    assert peer.read(8) == b"no frame"
    peer.write(b"bytes")
    assert conn.recv() == b"bytes"


@pytest.mark.case("P03", "T01")
@pytest.mark.parametrize("kind", ["socketpair", "tcp4", "tls"])
def test_long_message_through_the_smallest_buffers(kind, tmp_path):
    """P03"""
    message = pattern(16 << 20)
    with linked(kind, tmp_path, smallest=True) as ends:
        conn, other = (end.connection() for end in ends)
        with background(conn.send, message):
            assert other.recv() == message
        assert conn.stats.waits_out > 10


@linux
@pytest.mark.parametrize("framing", [FIELD, Raw()], ids=["LengthField", "Raw"])
def test_seqpacket_socket_carries_messages(framing):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Connection(a, framing) as conn, Connection(b, framing) as other:
        for message in (b"one", pattern(4000), pattern(60_000)):
            conn.send(message)
            assert other.recv() == message


# ------------------------------------------------------------ into a buffer


@pytest.mark.parametrize("size", [0, 1, 5000, 70_000, 1 << 20])
def test_recv_into_fills_exactly(ends, size):
    conn, peer = ends[0].connection(), ends[1]
    buffer = bytearray(b"?" * (size + 3))
    with background(peer.write, FIELD.encode(pattern(size))):
        assert conn.recv_into(buffer) == size
    assert buffer == pattern(size) + b"???"


@pytest.mark.parametrize("size", [1, 5000, 70_000, 1 << 20])
def test_recv_into_too_small_a_buffer_leaves_the_message(ends, size):
    conn, peer = ends[0].connection(), ends[1]
    with background(peer.write, wire(FIELD, [pattern(size), b"next"])):
        for _ in range(2):
            with pytest.raises(BufferError, match=str(size)):
                conn.recv_into(bytearray(size - 1))
        fitting = bytearray(size)
        assert conn.recv_into(fitting) == size
        assert fitting == pattern(size)
        assert conn.recv() == b"next"


def test_recv_into_too_small_a_buffer_leaves_the_message_for_recv(ends, receive):
    conn, peer = ends[0].connection(), ends[1]
    with background(peer.write, wire(FIELD, [pattern(100_000), b"next"])):
        with pytest.raises(BufferError):
            conn.recv_into(bytearray(10))
        assert receive(conn) == pattern(100_000)
        assert receive(conn) == b"next"


@pytest.mark.parametrize(
    ("buffer", "error"),
    [(bytes(9), BufferError), (memoryview(bytearray(18))[::2], BufferError)]
    + [("text", TypeError), (None, TypeError)],
    ids=["bytes", "stride", "str", "None"],
)
def test_recv_into_refuses_what_it_cannot_fill(paired_ends, buffer: Any, error):
    conn, peer = paired_ends[0].connection(), paired_ends[1]
    peer.write(FIELD.encode(b"x"))
    with pytest.raises(error):
        conn.recv_into(buffer)
    assert conn.recv() == b"x"
