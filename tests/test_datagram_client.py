"""A client's datagrams: whole or not at all, in the order they came, from any buffer."""

from __future__ import annotations

import array
import socket
import sys
from typing import Any

import pytest

import datagrams
from conftest import TELLS_LENGTH, linux
from datagrams import linked
from peers import LONG, background, pattern
from pysock import DatagramClient, FrameTooLarge

kind, ends, few_ends = datagrams.kind, datagrams.ends, datagrams.few_ends
udp_ends, unix_ends, receive = datagrams.udp_ends, datagrams.unix_ends, datagrams.receive

# ------------------------------------------------------------ sizes


@pytest.mark.case("G01", "G02", "G03")
@linux
@pytest.mark.parametrize(
    ("kind", "sizes", "most"),
    [
        ("udp4", [0, 1, 1472, 1473, 8972, 65507], 65507),
        pytest.param("udp6", [0, 1, 1452, 1453, 65527], 65527, marks=datagrams.ipv6),
        ("unix", [0, 1, 65536], None),
        ("abstract", [0, 1, 65536], None),
    ],
)
def test_every_size_goes_whole_and_one_byte_more_is_refused(kind, sizes, most, tmp_path):
    """G01, G02, G03: at the limit both ways, above it nothing is sent"""
    with linked(kind, tmp_path, timeout=LONG) as ends:
        client = ends.client
        if most is None:  # the system takes 32 bytes of the buffer for itself
            most = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
            sizes = [*sizes, most]
        for size in sizes:
            message = pattern(size)
            client.send(message)
            assert ends.hear() == message
            ends.say(message)
            assert client.recv() == message
        for sending in (
            lambda: client.send(bytes(most + 1)),
            lambda: client.sendto(bytes(most + 1), ends.peer.getsockname()),
            lambda: client.send_many([bytes(most + 1)]),
            lambda: client.request(bytes(most + 1)),
        ):
            with pytest.raises(FrameTooLarge) as caught:
                sending()
            assert (caught.value.length, caught.value.limit) == (most + 1, most)
        client.send(b"next")
        assert ends.hear() == b"next"


@pytest.mark.case("G03")
def test_largest_unix_datagram_follows_the_send_buffer(unix_ends):
    """G03"""
    client = unix_ends.client
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    limit = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
    client.send(bytes(limit))
    with pytest.raises(FrameTooLarge) as caught:
        client.send(bytes(limit + 1))
    assert caught.value.limit == limit
    assert len(unix_ends.hear()) == limit


@pytest.mark.case("G04")
def test_datagram_above_the_limit_is_an_error_with_its_length(kind, receive, tmp_path):
    """G04: and those before and after it are whole"""
    with linked(kind, tmp_path, timeout=LONG, max_datagram=10) as ends:
        ends.say(pattern(10), pattern(11), b"next", pattern(5000), b"", b"last")
        assert receive(ends.client) == pattern(10)
        for length, following in ((11, [b"next"]), (5000, [b"", b"last"])):
            with pytest.raises(FrameTooLarge) as caught:
                receive(ends.client)
            assert caught.value.length == (length if TELLS_LENGTH else 11)
            assert caught.value.limit == 10
            for message in following:
                assert receive(ends.client) == message
        assert ends.client.pending == 0


@pytest.mark.case("G04")
def test_recv_many_stops_before_a_datagram_above_the_limit(kind, tmp_path):
    """G04: in the middle, at the end, first of all, two of them"""
    with linked(kind, tmp_path, timeout=LONG, max_datagram=4) as ends:
        ends.say(b"a", b"b", b"12345", b"c", b"123456", b"1234567")
        client, seen = ends.client, []
        for _ in range(5):
            try:
                seen.append(client.recv_many())
            except FrameTooLarge as exc:
                seen.append(exc.length)
        assert seen == [[b"a", b"b"], 5, [b"c"], *((6, 7) if TELLS_LENGTH else (5, 5))]


@pytest.mark.case("G04")
def test_reply_above_the_limit_is_an_error_of_the_request(tmp_path):
    """G04"""
    with linked("udp4", tmp_path, timeout=LONG, max_datagram=4) as ends:
        ends.say(b"12345")
        with pytest.raises(FrameTooLarge) as caught:
            ends.client.request(b"?")
        assert caught.value.length == 5


@pytest.mark.case("G05")
def test_empty_datagram_is_a_message(ends, receive):
    """G05"""
    ends.say(b"", b"", b"x")
    assert [receive(ends.client) for _ in range(3)] == [b"", b"", b"x"]
    ends.say(b"", b"y", b"")
    assert ends.client.recv_many() == [b"", b"y", b""]
    ends.client.send(b"")
    assert ends.hear() == b""


@pytest.mark.parametrize("most", [0, -1])
def test_max_datagram_below_one_is_refused(most):
    with pytest.raises(ValueError, match=f"max_datagram is {most}, expected bytes, 1 or more"):
        DatagramClient(max_datagram=most)


def test_max_datagram_beyond_memory_is_refused():
    for most in (1 << 62, sys.maxsize - 200, sys.maxsize):
        with pytest.raises(MemoryError):
            DatagramClient(max_datagram=most)


def test_max_datagram_has_a_default_by_family(kind, tmp_path):
    with linked(kind, tmp_path) as ends:
        assert ends.client.max_datagram == (65535 if kind.startswith("udp") else 256 * 1024)


# ------------------------------------------------------------ order and reading ahead


def test_mixed_receives_keep_the_order(few_ends):
    client = few_ends.client
    numbers = [b"%d" % number for number in range(200)]
    seen: list[bytes] = []
    buffer = bytearray(10)
    for begin in range(0, 200, 8):  # less than a Unix queue holds
        few_ends.say(*numbers[begin : begin + 8])
        seen.append(client.recv())
        seen += client.recv_many(2)
        seen.append(client.recvfrom()[0])
        seen.append(bytes(buffer[: client.recv_into(buffer)]))
        seen.append(next(client))
        seen += client.recv_many(1)
        seen += client.recv_many(99)
    assert seen == numbers


def test_pending_counts_what_was_read_ahead(udp_ends):
    client = udp_ends.client
    udp_ends.say(*[b"%d" % number for number in range(20)])
    received = 0
    while not client.pending:
        assert client.recv() == b"%d" % received
        received += 1
    ahead = client.pending
    client.timeout = 0
    with background(client.recv) as other:  # what was read ahead goes to any thread
        assert other.finish() == b"%d" % received
    assert client.pending == ahead - 1
    assert client.recv_many() == [b"%d" % number for number in range(received + 1, 20)]
    assert client.pending == 0
    with pytest.raises(BlockingIOError):
        client.recv()


def test_recv_many_takes_more_than_one_system_call_brings(udp_ends):
    client = udp_ends.client
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    numbers = [b"%d" % number for number in range(150)]
    udp_ends.say(*numbers)
    assert client.recv_many(130) == numbers[:130]
    assert client.recv_many() == numbers[130:]
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"limit is {limit}, expected 1 or more"):
            client.recv_many(limit)


def test_stats_count_messages_bytes_and_calls(udp_ends):
    client = udp_ends.client
    client.send_many([b"abc"] * 100)
    client.send(b"d")
    assert (client.stats.messages_out, client.stats.bytes_out) == (101, 301)
    assert client.stats.calls_out == 3  # 64 at a time
    udp_ends.say(b"xy", b"", b"z")
    assert client.recv_many() == [b"xy", b"", b"z"]
    assert (client.stats.messages_in, client.stats.bytes_in) == (3, 3)
    assert client.stats.waits_in == client.stats.waits_out == 0


@pytest.mark.case("G09")
@linux
def test_dropped_counts_what_had_no_room(udp_ends):
    """G09"""
    client = udp_ends.client
    assert client.dropped == 0
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    udp_ends.say(*[bytes(1000)] * 50)
    kept = len(client.recv_many())
    assert 0 < kept < 50
    assert client.dropped == 50 - kept


# ------------------------------------------------------------ buffers


@pytest.mark.case("H14")
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(bytearray(b"abcd"), id="bytearray"),
        pytest.param(memoryview(b"xabcd")[1:], id="memoryview"),
        pytest.param(array.array("H", [0x6261, 0x6463]), id="array"),
        pytest.param(memoryview(b"abcd").cast("B", (2, 2)), id="matrix"),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the array has its bytes so")
def test_every_buffer_can_be_sent(udp_ends, message):
    client, name = udp_ends.client, udp_ends.peer.getsockname()
    client.send(message)
    client.send(message, b"-", message)
    client.sendto(message, name)
    assert client.send_many(iter([message])) == 1
    udp_ends.say(b"reply")
    assert client.request(message) == b"reply"
    sent = [udp_ends.hear() for _ in range(5)]
    assert sent == [b"abcd", b"abcd-abcd", b"abcd", b"abcd", b"abcd"]


@pytest.mark.case("K07")
def test_buffer_is_free_again_after_every_end_of_a_send(udp_ends):
    """K07: it could not be resized while it is held"""
    client, buffer = udp_ends.client, bytearray(100)
    client.send(buffer)
    client.send_many([buffer] * 70)
    buffer.extend(bytes(70_000))
    for sending in (client.send, client.request, lambda large: client.send_many([b"", large])):
        with pytest.raises(FrameTooLarge):
            sending(buffer)
    buffer.clear()


@pytest.mark.case("H14")
@pytest.mark.parametrize("wrong", ["text", 5, None, memoryview(b"abcd")[::2]])
def test_what_is_no_buffer_is_refused(udp_ends, wrong):
    client = udp_ends.client
    name = udp_ends.peer.getsockname()
    for sending in (
        lambda: client.send(wrong),
        lambda: client.sendto(wrong, name),
        lambda: client.request(wrong),
        lambda: client.send_many([wrong]),
    ):
        with pytest.raises((TypeError, BufferError)):
            sending()
    client.send(b"next")
    assert udp_ends.hear() == b"next"


def test_recv_into_fills_any_writable_buffer(few_ends):
    buffer = array.array("I", [0, 7])
    few_ends.say(b"\1\0\0\0")
    assert few_ends.client.recv_into(buffer) == 4
    assert buffer[1] == 7
    few_ends.say(b"")
    assert few_ends.client.recv_into(bytearray()) == 0


def test_datagram_stays_where_the_buffer_will_not_do(few_ends):
    client = few_ends.client
    few_ends.say(b"abc", b"next")
    with pytest.raises(BufferError, match="the datagram is 3 bytes long, the buffer 2"):
        client.recv_into(bytearray(2))
    for wrong in (b"readonly", memoryview(bytearray(20))[::2]):
        with pytest.raises((BufferError, TypeError)):
            client.recv_into(wrong)
    assert client.recv_many() == [b"abc", b"next"]


# ------------------------------------------------------------ send_many


class Broken(Exception):
    accepted: int


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 130])
def test_what_came_before_an_error_of_the_iterable_is_sent(udp_ends, count):
    udp_ends.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def breaking():
        for number in range(count):
            yield b"%d" % number
        raise Broken

    with pytest.raises(Broken) as caught:
        udp_ends.client.send_many(breaking())
    assert caught.value.accepted == count
    assert [udp_ends.hear() for _ in range(count)] == [b"%d" % n for n in range(count)]


def test_interrupt_in_the_iterable_is_not_lost(udp_ends):
    def interrupted():
        yield bytes(70_000)
        raise KeyboardInterrupt

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        udp_ends.client.send_many(interrupted())
    assert isinstance(caught.value, KeyboardInterrupt) or isinstance(
        caught.value.__context__, KeyboardInterrupt
    )


@pytest.mark.parametrize("before", [0, 3, 64])
def test_accepted_counts_what_was_sent_before_one_that_is_too_long(udp_ends, before):
    messages = [b"x"] * before + [bytes(65508), b"never"]
    with pytest.raises(FrameTooLarge) as caught:
        udp_ends.client.send_many(messages)
    assert caught.value.accepted == before  # type: ignore[attr-defined]
    assert caught.value.length == 65508
    udp_ends.client.send(b"next")
    assert [udp_ends.hear() for _ in range(before + 1)] == [b"x"] * before + [b"next"]


def test_iterable_that_uses_the_client_gets_an_error_not_a_deadlock(few_ends):
    client = few_ends.client

    def nested(call: Any):
        yield b"first"
        call()

    for call in (
        lambda: client.send(b"inner"),
        lambda: client.send_many([b"inner"]),
        lambda: client.sendto(b"inner", few_ends.peer.getsockname()),
        lambda: client.request(b"inner"),
    ):
        with pytest.raises(RuntimeError, match="in the middle of such a call"):
            client.send_many(nested(call))
        assert few_ends.hear() == b"first"
    few_ends.say(b"reply")
    receiving = [client.recv() for _ in range(1)]  # receiving is another matter
    assert receiving == [b"reply"]


def test_send_many_of_nothing_sends_nothing(udp_ends):
    assert udp_ends.client.send_many([]) == 0
    with pytest.raises(TypeError):
        udp_ends.client.send_many(None)
    assert udp_ends.client.stats.calls_out == 0
