"""A timeout is a deadline for the whole call, and loses nothing."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import peers
from conftest import TIME_FACTOR
from peers import LONG, PROMPT, RECEIVERS, SHORT, Foreign, Task, asleep, background, pattern
from pysock import Connection
from pysock.framing import Delimiter, Format, LengthField, Netstring

ends, own_ends, tight_ends = peers.ends, peers.own_ends, peers.tight_ends
few_ends, few_own_ends = peers.few_ends, peers.few_own_ends
paired_ends, receive = peers.paired_ends, peers.receive

FIELD = LengthField()
MARKED = LengthField(4, offset=2, magic=b"MK", trailer=b"\xce", counts="body")
SPELL = 0.12 * TIME_FACTOR  # a timeout that is long enough to see whether it starts anew
SMALL, LARGE = pattern(300), pattern(100_000)
FULL = 1 << 20  # more than the smallest buffers take while nobody reads


def times_out(call: Any, *args: Any) -> TimeoutError:
    began = time.monotonic()
    with pytest.raises(TimeoutError) as told:
        call(*args)
    assert time.monotonic() - began < PROMPT
    return told.value


# ------------------------------------------------------------ receiving


@pytest.mark.case("P05")
def test_recv_after_a_timeout_with_nothing_read(few_ends, receive):
    """P05"""
    conn, peer = few_ends[0].connection(timeout=SHORT), few_ends[1]
    times_out(receive, conn)
    peer.write(FIELD.encode(b"late"))
    conn.timeout = LONG
    assert receive(conn) == b"late"
    assert conn.stats.calls_in < 10  # it slept


@pytest.mark.case("P06")
@pytest.mark.parametrize("message", [SMALL, LARGE], ids=["small", "large"])
def test_recv_goes_on_after_a_timeout_inside_a_frame(few_ends, receive, message):
    """P06"""
    conn, peer = few_ends[0].connection(MARKED, timeout=SHORT), few_ends[1]
    stream = MARKED.encode(message) + MARKED.encode(b"next")
    at = 0
    for cut in (5, len(message) // 2, len(message) + 6):
        with background(peer.write, stream[at:cut]):
            times_out(receive, conn)
        at = cut
    conn.timeout = LONG
    with background(peer.write, stream[at:]):
        assert receive(conn) == message
    assert receive(conn) == b"next"
    assert conn.pending == 0


@pytest.mark.case("P06")
@pytest.mark.parametrize("then", RECEIVERS)
@pytest.mark.parametrize("first", ["recv", "next", "recv_many", "recv_into", "recv_view"])
def test_any_call_goes_on_where_another_timed_out(few_own_ends, first, then):
    """P06"""
    conn, peer = few_own_ends[0].connection(timeout=SHORT), few_own_ends[1]
    stream = FIELD.encode(LARGE) + FIELD.encode(b"next")
    for cut in (30_000, 3):
        with background(peer.write, stream[:cut]):
            times_out(RECEIVERS[first](), conn)
        conn.timeout = LONG
        with background(peer.write, stream[cut:]):
            assert RECEIVERS[then]()(conn) == LARGE
        assert conn.recv() == b"next"
        conn.timeout = SHORT


@pytest.mark.case("P06", "K07")
@pytest.mark.parametrize("size", [5000, 100_000, 1 << 21])
def test_recv_into_that_timed_out_has_let_the_buffer_go(ends, size):
    """P06: what had come is the connection's, not the caller's"""
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    stream = FIELD.encode(pattern(size))
    buffer = bytearray(size)
    writing = Task(peer.write, stream[: size // 2])
    while writing.is_alive() or conn.pending < size // 2 - 4:
        times_out(conn.recv_into, buffer)
    writing.finish()
    buffer[:] = b"?" * size
    buffer.extend(b"resized")
    conn.timeout = LONG
    again = bytearray(size)
    with background(peer.write, stream[size // 2 :]):
        assert conn.recv_into(again) == size
    assert again == pattern(size)
    assert buffer == b"?" * size + b"resized"


def dribbled(ends: Any, receive: Any, message: bytes) -> Any:
    """Time out while *message* comes in single bytes; return it when the rest has come."""
    conn, peer = ends[0].connection(timeout=SPELL), ends[1]
    stream = FIELD.encode(message)
    over = threading.Event()
    sent = []

    def drip() -> None:
        peer.write(stream[:-300])
        for i in range(len(stream) - 300, len(stream) - 1):
            if over.wait(SPELL / 30):
                break
            peer.write(stream[i : i + 1])
            sent.append(i)

    with background(drip):
        times_out(receive, conn)
        while not sent:  # a busy machine has not let the other thread run
            times_out(receive, conn)
        over.set()
    peer.write(stream[len(stream) - 300 + len(sent) :])
    conn.timeout = LONG
    return receive(conn)


@pytest.mark.case("P08")
def test_bytes_that_dribble_in_do_not_restart_the_deadline(few_ends, receive):
    """P08"""
    assert dribbled(few_ends, receive, LARGE) == LARGE


@pytest.mark.case("P08")
def test_bytes_of_a_small_frame_that_dribble_in(ends):
    """P08"""
    assert dribbled(ends, Connection.recv, SMALL) == SMALL


@pytest.mark.case("P08")
def test_bytes_that_keep_coming_do_not_restart_the_deadline_of_recvfile(ends):
    """P08"""
    conn, peer = ends[0].connection(timeout=SPELL), ends[1]
    peer.write(FIELD.pack_header(1_000_000))
    over, file = threading.Event(), io.BytesIO()

    def drip() -> None:
        while not over.wait(SPELL / 30):
            peer.write(bytes(100))

    with background(drip):
        times_out(conn.recvfile, file)
        over.set()
    assert 0 < file.tell() < 1_000_000


@pytest.mark.case("P10")
@pytest.mark.parametrize("timeout", [1e-9, 1, True, 1e9, 1e300, math.inf, None])
def test_timeouts_of_every_size(ends, timeout):
    """P10"""
    conn, peer = ends[0].connection(timeout=timeout), ends[1]
    if timeout == 1e-9:
        times_out(conn.recv)
        conn.timeout = LONG
    receiving = Task(conn.recv)
    peers.until(lambda: conn.stats.calls_in)
    peer.write(FIELD.encode(b"x"))
    assert receiving.finish() == b"x"


@pytest.mark.case("P10")
def test_timeout_of_zero_never_waits(ends, receive):
    """P10"""
    conn, peer = ends[0].connection(timeout=0), ends[1]
    with pytest.raises(BlockingIOError):
        receive(conn)
    peer.write(FIELD.encode(b"x"))
    peers.until(lambda: peers.drain(conn, receive) == [b"x"])


def test_times_are_not_too_short(ends):
    conn = ends[0].connection(timeout=SHORT)
    began = time.monotonic()
    times_out(conn.recv)
    assert time.monotonic() - began >= 0.99 * SHORT


@pytest.mark.parametrize("timeout", [SHORT, 0], ids=["some", "none"])
def test_spinning_does_not_outlast_the_deadline(own_ends, timeout):
    conn = own_ends[0].connection(timeout=timeout, spin=2 * LONG)
    began = time.monotonic()
    with pytest.raises(TimeoutError if timeout else BlockingIOError):
        conn.recv()
    assert time.monotonic() - began < PROMPT


def test_stream_without_settimeout_takes_no_timeout(paired_ends):
    class Plain:
        def __init__(self, inner: Foreign) -> None:
            self.recv_into, self.send, self.close = inner.recv_into, inner.send, inner.close

    plain = Plain(Foreign(paired_ends[0].sock))
    with pytest.raises(ValueError, match="settimeout"):
        Connection(plain, timeout=1)
    with Connection(plain) as conn:
        with pytest.raises(ValueError, match="settimeout"):
            conn.timeout = 1
        paired_ends[1].write(FIELD.encode(b"x"))
        assert conn.recv() == b"x"


# ------------------------------------------------------------ sending


@pytest.mark.case("P07")
@pytest.mark.parametrize("framing", [FIELD, Netstring(), Delimiter()])
def test_send_that_timed_out_is_accepted_and_goes_first(tight_ends, framing: Format):
    """P07: it is resumed, and the connection is not given up"""
    conn, peer = tight_ends[0].connection(framing, timeout=SHORT), tight_ends[1]
    first = b"x" * FULL
    error = times_out(conn.send, first[:1000], first[1000:])
    assert error.accepted is True
    assert 0 < conn.unsent <= len(framing.encode(first))
    conn.timeout = LONG
    with background(conn.send, b"second"):
        due = framing.encode(first) + framing.encode(b"second")
        assert peer.read(len(due)) == due
    assert conn.unsent == 0
    assert conn.stats.messages_out == 2
    assert conn.stats.bytes_out == len(due)


@pytest.mark.case("P07")
def test_flush_sends_what_is_unsent(tight_ends):
    """P07"""
    conn, peer = tight_ends[0].connection(timeout=SHORT), tight_ends[1]
    message = pattern(FULL)
    times_out(conn.send, message)
    left = conn.unsent
    times_out(conn.flush)
    assert conn.unsent <= left
    conn.timeout = LONG
    with background(conn.flush):
        assert peer.read(4 + FULL) == FIELD.encode(message)
    assert conn.unsent == 0
    conn.flush()


@pytest.mark.case("P07")
def test_small_message_that_does_not_leave_is_kept(tight_ends):
    """P07"""
    conn, peer = tight_ends[0].connection(timeout=0), tight_ends[1]
    count = 0
    with pytest.raises(BlockingIOError) as told:
        while True:
            conn.send(b"%08d" % count)
            count += 1
    assert told.value.accepted is True
    assert conn.unsent > 0
    conn.timeout = LONG
    with background(conn.flush):
        due = b"".join(FIELD.encode(b"%08d" % i) for i in range(count + 1))
        assert peer.read(len(due)) == due


@pytest.mark.case("P07")
@pytest.mark.parametrize("timeout", [SHORT, 0])
def test_send_behind_an_older_tail_is_not_accepted(tight_ends, timeout):
    """P07"""
    conn, peer = tight_ends[0].connection(timeout=SHORT), tight_ends[1]
    first = pattern(FULL)
    times_out(conn.send, first)
    conn.timeout = timeout
    left = conn.unsent
    for call in (conn.send, conn.request, lambda message: conn.send_many([message])):
        with pytest.raises((TimeoutError, BlockingIOError)) as told:
            call(b"second")
        assert not told.value.accepted
        assert 0 < conn.unsent <= left
    conn.timeout = LONG
    with background(conn.send, b"third"):
        due = FIELD.encode(first) + FIELD.encode(b"third")
        assert peer.read(len(due)) == due


@pytest.mark.case("P07")
@pytest.mark.parametrize("size", [10, 5_000, 100_000])
@pytest.mark.parametrize("timeout", [SHORT, 0])
def test_send_many_tells_exactly_how_many_it_took(tight_ends, size, timeout):
    """P07"""
    conn, peer = tight_ends[0].connection(timeout=timeout), tight_ends[1]
    messages = [b"%06d" % i + b"x" * size for i in range(FULL // (size + 10))]
    taken = 0
    for _ in range(2):  # the second finds the tail of the first
        with pytest.raises((TimeoutError, BlockingIOError)) as told:
            conn.send_many(messages[taken:])
        taken += told.value.accepted
    assert 0 < taken < len(messages)
    conn.timeout = LONG
    rest = Task(conn.send_many, messages[taken:])
    due = b"".join(map(FIELD.encode, messages))
    assert peer.read(len(due)) == due
    assert rest.finish() == len(messages) - taken


def test_send_many_takes_no_more_from_a_generator_than_it_accepts(tight_ends):
    conn, peer = tight_ends[0].connection(timeout=SHORT), tight_ends[1]
    given = []

    def endless() -> Iterator[bytes]:
        while True:
            given.append(b"%06d" % len(given) + bytes(994))
            yield given[-1]

    error = times_out(conn.send_many, endless())
    assert len(given) - error.accepted in (0, 1)
    conn.timeout = LONG
    with background(conn.flush):
        due = b"".join(map(FIELD.encode, given[: error.accepted]))
        assert peer.read(len(due)) == due


@pytest.mark.case("P08")
def test_peer_that_reads_slowly_does_not_restart_the_deadline(tight_ends):
    """P08"""
    conn, peer = tight_ends[0].connection(timeout=SPELL), tight_ends[1]
    over = threading.Event()
    frame = FIELD.encode(pattern(FULL))
    received = []

    def sip() -> None:
        while not over.wait(SPELL / 30):
            received.append(peer.sip(4096))

    with background(sip):
        assert times_out(conn.send, pattern(FULL)).accepted is True
        over.set()
    conn.timeout = LONG
    with background(conn.flush):
        so_far = b"".join(received)
        assert so_far + peer.read(len(frame) - len(so_far)) == frame


def test_timeouts_in_both_directions_keep_both_in_step(tight_ends):
    conn, peer = tight_ends[0].connection(timeout=SHORT), tight_ends[1]
    times_out(conn.send, pattern(FULL))
    peer.write(FIELD.encode(LARGE)[:1000])
    times_out(conn.recv)
    conn.timeout = LONG
    with background(conn.send, b"second"):
        assert peer.read(4 + FULL) == FIELD.encode(pattern(FULL))
        assert peer.read(10) == FIELD.encode(b"second")
    with background(peer.write, FIELD.encode(LARGE)[1000:]):
        assert conn.recv() == LARGE


# ------------------------------------------------------------ waiting for one's turn


def test_waiting_for_the_turn_to_receive_counts(few_own_ends, receive):
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    receiving = asleep(conn, conn.recv)
    conn.timeout = SHORT
    times_out(receive, conn)
    conn.timeout = 0
    with pytest.raises(BlockingIOError):
        receive(conn)
    peer.write(FIELD.encode(b"x"))
    assert receiving.finish() == b"x"


def test_waiting_for_the_turn_to_send_counts_and_accepts_nothing(ends):
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    held, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        held.set()
        go_on.wait(LONG)
        yield b"first"

    with background(conn.send_many, slow()):
        held.wait(LONG)
        for timeout in (SHORT, 0):
            conn.timeout = timeout
            for call in (conn.send, conn.request, lambda message: conn.send_many([message])):
                with pytest.raises((TimeoutError, BlockingIOError)) as told:
                    call(b"second")
                assert not told.value.accepted
            with pytest.raises((TimeoutError, BlockingIOError)):
                conn.flush()
        go_on.set()
    conn.send(b"third")
    assert peer.read(18) == FIELD.encode(b"first") + FIELD.encode(b"third")


def test_timeout_set_while_a_call_waits_is_for_the_next_one(own_ends):
    """As sockets have it: one thread's impatience is not another's"""
    conn, peer = own_ends[0].connection(), own_ends[1]
    sending = asleep(conn, conn.send, pattern(1 << 24))
    conn.timeout = 0
    with background(peer.read, 4 + (1 << 24)) as reading:
        sending.finish()
        assert reading.finish() == FIELD.encode(pattern(1 << 24))


def test_turn_that_comes_late_leaves_less_of_the_deadline(paired_ends):
    conn, peer = paired_ends[0].connection(), paired_ends[1]
    receiving = asleep(conn, conn.recv)
    conn.timeout = 10 * SPELL
    second = Task(times_out, conn.recv)
    receiving.join(4 * SPELL)  # it waits for that turn meanwhile
    began = time.monotonic()
    peer.write(FIELD.encode(b"x"))
    assert receiving.finish() == b"x"
    second.finish()
    assert time.monotonic() - began < 9 * SPELL  # ten, had it begun to count now
