"""SOCK_SEQPACKET: a record goes in and the same bytes come out."""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import peers
from apart import apart
from conftest import linux
from peers import LONG, RECEIVERS, SHORT, asleep, background, pattern, until
from pysock import Client, Connection, wait
from pysock.errors import ConnectionClosed, FrameTooLarge, IncompleteFrame
from pysock.framing import (
    Delimiter,
    Fixed,
    Format,
    LengthField,
    Netstring,
    Raw,
    Varint,
    _Tls,
    recv_exactly,
    recv_exactly_into,
    recv_frame,
    send_frame,
)

pytestmark = linux

FIELD = LengthField()
END = Delimiter(b"\xff\xff\xff")  # which no pattern holds
SEQPACKET = getattr(socket, "SOCK_SEQPACKET", 5)
FRAMINGS = [Raw(), FIELD, Netstring(), Varint(), END]
# Around the sizes of the buffers, and the longest record that a socket takes unasked.
SIZES = [1, 2, 4095, 4096, 4097, 8193, 65_535, 65_536, 65_537, 131_073, 200_000]


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, SEQPACKET)


@contextlib.contextmanager
def connected(
    framing: Format = FRAMINGS[0], **options: Any
) -> Iterator[tuple[Connection, Connection]]:
    near, far = pair()
    options = {"timeout": LONG, **options}
    with (
        Connection(near, framing, **options) as conn,
        Connection(far, framing, **options) as other,
    ):
        yield conn, other


@pytest.fixture(params=FRAMINGS, ids=repr)
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Connection, Connection]]:
    with apart(request, lambda: connected(request.param)) as ends:
        yield ends


def fill(sock: socket.socket, record: bytes) -> int:
    """Send *record* until no more goes in; return how many did."""
    sock.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(record)
            count += 1
    return count


# ------------------------------------------------------------ whole


receive = peers.receive


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_one_record_in_whole_bytes_out(both, receiver):
    conn, other = both
    receive = RECEIVERS[receiver]()
    for size in SIZES:
        conn.send(pattern(size))
        assert receive(other) == pattern(size)
    for size in SIZES:
        conn.send(pattern(size)[: size // 2], pattern(size)[size // 2 :])
        conn.send(b"next")
        assert [receive(other), receive(other)] == [pattern(size), b"next"]


@pytest.mark.parametrize("framing", FRAMINGS, ids=repr)
def test_frame_is_one_record(framing):
    near, far = pair()
    with Connection(near, framing, timeout=LONG) as conn, far:
        messages = [b"a", pattern(5000), b"b", pattern(100_000), b"c"]
        with background(conn.send_many, messages):
            assert [far.recv(1 << 20) for _ in messages] == [
                framing.encode(message) for message in messages
            ]
        conn.send(*[b"%d " % i for i in range(200)])
        assert far.recv(1 << 20) == framing.encode(b"".join(b"%d " % i for i in range(200)))


def test_raw_records_keep_their_borders(receive: Callable[[Connection], bytes]):
    with connected() as (conn, other):
        for message in (b"one", b"two", pattern(70_000), b"three"):
            conn.send(message)
        came = [receive(other) for _ in range(4)]
        assert came == [b"one", b"two", pattern(70_000), b"three"]


def test_recv_many_takes_all_that_have_come(both):
    conn, other = both
    assert conn.send_many([b"%d" % i for i in range(20)]) == 20
    assert other.recv_many(3) == [b"0", b"1", b"2"]
    assert other.recv_many() == [b"%d" % i for i in range(3, 20)]


def test_iteration_ends_with_the_stream(both):
    conn, other = both
    conn.send_many([b"one", b"two"])
    conn.close()
    assert list(other) == [b"one", b"two"]
    with pytest.raises(ConnectionClosed):
        other.recv()


def test_buffer_that_is_too_small_leaves_the_message(both):
    conn, other = both
    conn.send(pattern(70_000))
    conn.send(b"next")
    with pytest.raises(BufferError, match="70000"):
        other.recv_into(bytearray(69_999))
    buffer = bytearray(70_000)
    assert other.recv_into(buffer) == 70_000
    assert buffer == pattern(70_000)
    assert other.recv() == b"next"


def test_request_and_many_requests(both):
    conn, other = both

    def answer() -> None:
        for message in other:
            other.send(message.upper())

    with background(answer):
        assert conn.request(b"hello") == b"HELLO"
        # More than both ends' systems hold: it must receive while it sends.
        messages = [b"%d" % i + b"x" * 5000 for i in range(300)]
        assert conn.request_many(messages) == [message.upper() for message in messages]
        conn.close()


def test_pysock_wait_sees_what_was_read_ahead(both):
    conn, other = both
    assert wait([other], 0) == []
    conn.send_many([b"one", b"two"])
    for message in (b"one", b"two"):
        assert wait([other], LONG) == [other]
        assert other.recv() == message
    assert wait([other], 0) == []
    conn.close()
    assert wait([other], LONG) == [other]


@pytest.mark.parametrize("spin", [0.0, 1.0])
def test_waiting_for_a_record(spin):
    with connected(spin=spin) as (conn, other), background(other.recv) as task:
        until(lambda: other.stats.calls_in)
        conn.send(pattern(100_000))
        assert task.finish() == pattern(100_000)


def test_close_wakes_who_waits(both):
    _, other = both
    task = asleep(other, other.recv)
    other.close()
    with pytest.raises(ConnectionClosed):
        task.finish()


def test_other_framing_from_the_next_frame_on():
    with connected(FIELD) as (conn, other):
        conn.send(b"one")
        assert other.recv() == b"one"
        conn.framing = other.framing = Raw()
        conn.send(pattern(70_000))
        assert other.recv() == pattern(70_000)


# ------------------------------------------------------------ who frames otherwise


@pytest.mark.parametrize("framing", [FIELD, Netstring(), END], ids=repr)
@pytest.mark.parametrize("size", [1, 5, 1000, 65_536, 100_000])
def test_frames_in_records_of_another_size(framing, size):
    """No byte is lost where a record is not a frame, however long either is."""
    near, far = pair()
    messages = [b"a", pattern(100), pattern(20_000), b"b", pattern(300_000), b"c"]
    if size < 1000:
        messages = [b"a", pattern(100), b"b"]
    stream = b"".join(framing.encode(message) for message in messages)
    with near, Connection(far, framing, timeout=LONG) as conn:

        def send() -> None:
            for at in range(0, len(stream), size):
                near.send(stream[at : at + size])

        with background(send):
            assert [conn.recv() for _ in messages] == messages


def test_frame_cut_at_every_byte():
    frame = FIELD.encode(b"hello") + FIELD.encode(b"world")
    for cut in range(1, len(frame)):
        near, far = pair()
        with near, Connection(far, timeout=LONG) as conn:
            near.send(frame[:cut])
            near.send(frame[cut:])
            assert conn.recv_many(2) in ([b"hello", b"world"], [b"hello"])
            if conn.stats.messages_in == 1:
                assert conn.recv() == b"world"


@pytest.mark.parametrize("size", [10, 300_000])
def test_timeout_in_mid_frame_loses_nothing(size):
    near, far = pair()
    frame = FIELD.encode(pattern(size))
    with near, Connection(far, timeout=SHORT) as conn:
        near.send(frame[:9])
        for _ in range(2):
            with pytest.raises(TimeoutError):
                conn.recv()
        conn.timeout = LONG
        parts = [frame[at : at + 7000] for at in range(9, len(frame), 7000)]
        with background(lambda: [near.send(part) for part in parts]):
            assert conn.recv() == pattern(size)


def test_end_inside_a_frame():
    near, far = pair()
    with Connection(far, timeout=LONG) as conn:
        with near:
            near.send(FIELD.encode(b"hello")[:6])
        with pytest.raises(IncompleteFrame, match="6 of 9"):
            conn.recv()


def test_empty_record_of_a_stranger_is_the_end():
    """The system returns the same for both."""
    near, far = pair()
    with near, Connection(far, Raw(), timeout=LONG) as conn:
        near.send(b"one")
        near.send(b"")
        assert conn.recv() == b"one"
        with pytest.raises(ConnectionClosed):
            conn.recv()


# ------------------------------------------------------------ too large


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("size", [101, 5000, 150_000])
def test_raw_record_above_the_limit_is_refused_with_its_length(receiver, size):
    receive = RECEIVERS[receiver]()
    with connected() as (conn, other):
        other.framing = Raw(max_frame=100)
        conn.send(pattern(100))
        conn.send(pattern(size))
        conn.send(b"next")
        assert receive(other) == pattern(100)
        with pytest.raises(FrameTooLarge) as caught:
            receive(other)
        assert (caught.value.length, caught.value.limit) == (size, 100)
        assert receive(other) == b"next"


def test_wait_tells_of_a_record_above_the_limit():
    with connected() as (conn, other):
        other.framing = Raw(max_frame=100)
        conn.send(pattern(101))
        conn.send(b"next")
        for _ in range(2):
            assert wait([other], LONG) == [other]
        with pytest.raises(FrameTooLarge, match="^length 101 exceeds 100"):
            other.recv()
        assert wait([other], LONG) == [other]
        assert other.recv() == b"next"


def test_recv_many_before_a_record_above_the_limit():
    with connected() as (conn, other):
        other.framing = Raw(max_frame=100)
        conn.send_many([b"a", b"b", pattern(101), b"c"])
        assert other.recv_many() == [b"a", b"b"]
        with pytest.raises(FrameTooLarge):
            other.recv_many()
        assert other.recv_many() == [b"c"]


def test_frame_above_the_limit_ends_other_framings():
    with connected(FIELD) as (conn, other):
        other.framing = FIELD.replace(max_frame=100)
        conn.send(pattern(101))
        conn.send(b"next")
        for _ in range(2):
            with pytest.raises(FrameTooLarge):
                other.recv()


WAYS: dict[str, Callable[[Connection, bytes], object]] = {
    "send": Connection.send,
    "send_many": lambda conn, message: conn.send_many([b"before", message]),
    "request": Connection.request,
    "request_many": lambda conn, message: conn.request_many([message]),
    "send_fds": lambda conn, message: conn.send_fds(message, [0]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("framing", [Raw(), FIELD], ids=repr)
def test_record_above_so_sndbuf_is_told_and_nothing_is_sent(way, framing):
    with connected(framing) as (conn, other):
        room = conn.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        with pytest.raises(OSError, match=rf"SO_SNDBUF \({room}\) is too small") as caught:
            WAYS[way](conn, bytes(1 << 20))
        assert caught.value.errno == errno.EMSGSIZE
        assert conn.unsent == 0
        conn.send(b"next")
        if way == "send_many":
            assert other.recv() == b"before"
        assert other.recv() == b"next"
        assert conn.stats.messages_out == other.stats.messages_in
        other.send(b"reply")
        assert conn.request(b"question") == b"reply"


def test_larger_so_sndbuf_takes_larger_records(both):
    conn, other = both
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
    with pytest.raises(OSError, match="SO_SNDBUF"):
        conn.send(pattern(15_000))
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
    conn.send(pattern(15_000))
    assert other.recv() == pattern(15_000)


def test_empty_record_is_refused(both):
    conn, other = both
    if conn.framing == Raw():
        for call in (conn.send, conn.request, lambda m: conn.send_many([m])):
            with pytest.raises(ValueError, match="no empty messages"):
                call(b"")
    else:
        conn.send(b"")
        assert other.recv() == b""
    conn.send(b"next")
    assert other.recv() == b"next"


# ------------------------------------------------------------ time


@pytest.mark.parametrize("size", [10, 5000, 100_000])
def test_send_that_times_out_is_taken_and_goes_first(both, size):
    conn, other = both
    filled = fill(conn.socket, conn.framing.encode(b"fill"))
    conn.timeout = SHORT
    with pytest.raises(TimeoutError) as caught:
        conn.send(pattern(size))
    assert caught.value.accepted is True
    assert conn.unsent == len(conn.framing.encode(pattern(size)))
    with pytest.raises(TimeoutError) as caught:
        conn.send(b"refused")
    assert caught.value.accepted is False
    conn.timeout = LONG
    with background(conn.send, b"next"):
        for _ in range(filled):
            assert other.recv() == b"fill"
        assert other.recv() == pattern(size)
        assert other.recv() == b"next"


def test_timeout_of_send_many_counts(both):
    conn, other = both
    conn.timeout = SHORT
    with pytest.raises(TimeoutError) as caught:
        conn.send_many(pattern(10_000) for _ in range(1000))
    accepted = caught.value.accepted
    conn.timeout = LONG
    with background(conn.flush):
        assert [other.recv() for _ in range(accepted)] == [pattern(10_000)] * accepted
    assert conn.unsent == 0
    other.timeout = 0
    with pytest.raises(BlockingIOError):
        other.recv()


def test_close_lets_the_last_record_arrive(both):
    conn, other = both
    filled = fill(conn.socket, conn.framing.encode(b"fill"))
    conn.timeout = 0
    with pytest.raises(BlockingIOError):
        conn.send(pattern(5000))
    with background(conn.close):
        assert [other.recv() for _ in range(filled)] == [b"fill"] * filled
        assert other.recv() == pattern(5000)
        with pytest.raises(ConnectionClosed):
            other.recv()


# ------------------------------------------------------------ what needs a stream


def test_files_are_received_and_not_sent(both):
    conn, other = both
    with pytest.raises(io.UnsupportedOperation, match=r"use send\(\)"):
        conn.sendfile(io.BytesIO(b"x"))
    conn.send(pattern(70_000))
    file = io.BytesIO()
    assert other.recvfile(file) == 70_000
    assert file.getvalue() == pattern(70_000)


@pytest.mark.parametrize("number", [False, True], ids=["socket", "descriptor"])
def test_exact_reads_are_refused_and_take_nothing(number):
    near, far = pair()
    with near, far:
        send_frame(near, b"hello", FIELD)
        source = far.fileno() if number else far
        for call in (
            lambda: recv_exactly(source, 4),
            lambda: recv_exactly_into(source, bytearray(4)),
            lambda: recv_frame(source, FIELD),
            lambda: recv_frame(source, Fixed(3)),
        ):
            with pytest.raises(io.UnsupportedOperation, match="whole records"):
                call()
        assert far.recv(99) == FIELD.encode(b"hello")


@pytest.mark.case("T32")
def test_tls_and_keys_are_refused():
    near, far = pair()
    context = ssl.create_default_context()
    with near, far:
        for options in (
            {"tls": context, "server_hostname": "x"},
            {"authkey": bytes(range(32))},
        ):
            with pytest.raises(ValueError, match=r"sock= keeps records .* need a stream"):
                Client(sock=near, **options)
        with pytest.raises(io.UnsupportedOperation, match="TLS needs a stream"):
            _Tls(near, context)


def test_recv_many_does_not_overtake_a_large_message_that_has_begun() -> None:
    """As a stranger's records may cut it."""
    large = bytes(70_000)
    stream = b"".join(map(FIELD.encode, [b"0", b"1", large, b"3", b"4"]))
    near, far = pair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with far, Connection(near, FIELD, timeout=LONG) as conn:
        far.send(stream[:40_010])
        assert conn.recv() == b"0"
        far.send(stream[40_010:])
        received: list[bytes] = []
        while len(received) < 4:
            received += conn.recv_many()
        assert received == [b"1", large, b"3", b"4"]
