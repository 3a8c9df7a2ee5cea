"""Threads on one connection: frames never interleave, buffers stay where they are."""

from __future__ import annotations

import contextlib
import io
import random
import socket
import threading
import time
from collections import Counter
from typing import Any

import pytest

import peers
from conftest import TIME_FACTOR
from peers import LONG, PROMPT, SHORT, Task, asleep, background, pattern, until
from pysock import Connection
from pysock.errors import ConnectionClosed
from pysock.framing import LengthField, Netstring

bare_ends, ends, own_ends, tight_ends = (
    peers.bare_ends,
    peers.ends,
    peers.own_ends,
    peers.tight_ends,
)
few_ends, paired_ends, receive = peers.few_ends, peers.paired_ends, peers.receive

FIELD = LengthField()
LARGE = 300_000


def message_of(sender: int, number: int, size: int) -> bytes:
    return b"%d:%d:" % (sender, number) + bytes([sender + 65]) * size


def counted(messages: list[bytes], senders: int) -> list[int]:
    """Return how many are of each sender, all of them whole and in its order."""
    seen = [0] * senders
    for message in messages:
        sender, number, body = message.split(b":", 2)
        assert int(number) == seen[int(sender)]
        assert body == bytes([int(sender) + 65]) * len(body)
        seen[int(sender)] += 1
    return seen


@pytest.mark.case("C01")
def test_two_senders_of_large_messages_never_interleave(ends):
    """C01"""
    conn, other = (end.connection() for end in ends)

    def send(sender: int) -> None:
        for number in range(10):
            conn.send(message_of(sender, number, LARGE))

    sending = [Task(send, sender) for sender in range(2)]
    assert counted([other.recv() for _ in range(20)], 2) == [10, 10]
    for task in sending:
        task.finish()


@pytest.mark.case("C01")
def test_senders_of_all_kinds_never_interleave(tight_ends):
    """C01"""
    conn, other = (end.connection(Netstring()) for end in tight_ends)
    sizes = [0, 10, 3000, 5000, 40_000]

    def send(sender: int) -> None:
        messages = [message_of(sender, i, sizes[i % 5]) for i in range(30)]
        for i in range(0, 30, 3):
            if sender == 0:
                conn.send_many(messages[i : i + 3])
            elif sender == 1:
                for message in messages[i : i + 3]:
                    conn.send(message[:4], message[4:])
            else:
                for message in messages[i : i + 3]:
                    conn.sendfile(io.BytesIO(message))

    sending = [Task(send, sender) for sender in range(3)]
    assert counted([other.recv() for _ in range(90)], 3) == [30, 30, 30]
    for task in sending:
        task.finish()


@pytest.mark.case("P07", "C01")
def test_senders_that_time_out_leave_whole_frames(tight_ends):
    """C01, P07: who is told `accepted` is on the wire, and nobody else"""
    conn, peer = tight_ends[0].connection(timeout=SHORT / 4), tight_ends[1]
    accepted: Counter[bytes] = Counter()

    def send(sender: int) -> None:
        for number in range(60):
            message = b"%d:%d:" % (sender, number) + bytes(7000)
            try:
                conn.send(message)
            except TimeoutError as error:
                accepted[message] += error.accepted
            else:
                accepted[message] += 1

    sending = [Task(send, sender) for sender in range(3)]
    received, decoder = [], FIELD.decoder()
    while any(task.is_alive() for task in sending):
        time.sleep(SHORT / 20)  # a peer that reads too slowly
        received += decoder.feed(peer.sip(8192))
    for task in sending:
        task.finish()
    conn.timeout = LONG
    with background(conn.send, b"last"):
        while b"last" not in received[-1:]:
            received += decoder.feed(peer.read(1) + peer.sip(1 << 16))
    assert Counter(received[:-1]) == +accepted


@pytest.mark.case("C02")
def test_two_receivers_get_whole_messages(ends):
    """C02"""
    conn, other = (end.connection() for end in ends)
    received: list[bytes] = []

    def take() -> None:
        for message in conn:
            received.append(message)

    receiving = [Task(take) for _ in range(2)]
    messages = [b"%d:" % i + pattern(i % 7 * 4000) for i in range(200)]
    with background(other.send_many, messages):
        until(lambda: len(received) == 200)
    other.close()
    for task in receiving:
        task.finish()
    assert sorted(received) == sorted(messages)


@pytest.mark.case("C02")
def test_receivers_of_all_kinds_get_whole_messages(few_ends, receive):
    """C02"""
    conn, other = (end.connection() for end in few_ends)
    received: list[bytes] = []

    def take(call: Any) -> None:
        while message := call(conn):
            received.append(message)

    receiving = [Task(take, call) for call in (receive, Connection.recv)]
    messages = [b"%d:" % i + pattern(i % 5 * 10_000) for i in range(60)]
    with background(other.send_many, [*messages, b"", b""]):
        for task in receiving:
            task.finish()
    assert sorted(received) == sorted(messages)


@pytest.mark.case("C03")
def test_duplex_traffic_of_random_sizes(ends):
    """C03"""
    conns = [end.connection() for end in ends]
    over = time.monotonic() + 0.25 * TIME_FACTOR

    def sizes(seed: int) -> random.Random:
        return random.Random(seed)

    def send(conn: Connection, seed: int) -> None:
        choose = sizes(seed)
        while time.monotonic() < over:
            conn.send(pattern(choose.choice([0, 9, 400, 9000, 70_000, 400_000])))
        conn.send(b"end")

    def take(conn: Connection, seed: int) -> int:
        choose, count = sizes(seed), 0
        while (message := conn.recv()) != b"end":
            assert message == pattern(choose.choice([0, 9, 400, 9000, 70_000, 400_000]))
            count += 1
        return count

    tasks = [Task(send, conns[0], 1), Task(send, conns[1], 2)]
    taking = [Task(take, conns[1], 1), Task(take, conns[0], 2)]
    for task in tasks:
        task.finish(3 * LONG)
    assert all(task.finish(3 * LONG) > 10 for task in taking)


@pytest.mark.case("C03")
def test_sender_is_not_held_up_by_a_receiver_that_waits(own_ends):
    """C03"""
    conn, peer = own_ends[0].connection(timeout=LONG), own_ends[1]
    receiving = asleep(conn, conn.recv)
    for i in range(100):
        conn.send(b"%03d" % i)
    assert len(peer.read(700)) == 700
    peer.write(FIELD.encode(b"x"))
    assert receiving.finish() == b"x"


def test_thread_that_waits_lets_others_run(own_ends):
    conn = own_ends[0].connection()
    receiving = asleep(conn, conn.recv)
    began = time.monotonic()
    assert sum(range(200_000)) == 19_999_900_000
    assert time.monotonic() - began < PROMPT
    own_ends[1].write(FIELD.encode(b"x"))
    assert receiving.finish() == b"x"


# ------------------------------------------------------------ buffers that others hold too


@pytest.mark.case("C09")
def test_buffer_cannot_be_resized_while_it_is_sent(own_ends):
    """C09"""
    conn, peer = own_ends[0].connection(), own_ends[1]
    message = bytearray(pattern(1 << 24))
    sending = asleep(conn, conn.send, message)
    with pytest.raises(BufferError):
        message.extend(b"more")
    assert peer.read(4 + (1 << 24)) == FIELD.encode(pattern(1 << 24))
    sending.finish()
    message.extend(b"more")


@pytest.mark.case("C09")
def test_buffer_cannot_be_resized_while_it_is_filled(own_ends):
    """C09"""
    conn, peer = own_ends[0].connection(), own_ends[1]
    buffer = bytearray(100_000)
    peer.write(FIELD.encode(pattern(100_000))[:50_000])
    receiving = asleep(conn, conn.recv_into, buffer)
    with pytest.raises(BufferError):
        buffer.clear()
    peer.write(FIELD.encode(pattern(100_000))[50_000:])
    assert receiving.finish() == 100_000
    assert buffer == pattern(100_000)
    buffer.clear()


@pytest.mark.case("C09", "K07")
@pytest.mark.parametrize("call", ["send", "send_many", "request", "recv_into"])
def test_buffer_is_let_go_when_the_call_fails(own_ends, call):
    """C09"""
    conn = own_ends[0].connection(timeout=SHORT)
    message = bytearray(1 << 24)
    with pytest.raises(TimeoutError):
        {
            "send": lambda: conn.send(b"x", message),
            "send_many": lambda: conn.send_many([message]),
            "request": lambda: conn.request(message),
            "recv_into": lambda: conn.recv_into(message),
        }[call]()
    message.clear()


@pytest.mark.case("C09")
def test_buffer_changed_while_it_is_sent_keeps_the_frames_in_step(own_ends):
    """C09"""
    conn, peer = own_ends[0].connection(), own_ends[1]
    message = bytearray(1 << 24)
    sending = asleep(conn, conn.send, message)
    message[:] = b"x" * (1 << 24)
    assert peer.read(4 + (1 << 24))[:4] == b"\1\0\0\0"
    sending.finish()
    conn.send(b"next")
    assert peer.read(8) == FIELD.encode(b"next")


# ------------------------------------------------------------ calls inside calls


def test_receiving_inside_recvfile_is_an_error_and_no_deadlock(ends):
    conn, peer = ends[0].connection(timeout=LONG), ends[1]
    peer.write(FIELD.encode(b"file") + FIELD.encode(b"next"))
    errors = []

    def meddle(so_far: int, size: int) -> None:
        calls = (conn.recv, conn.recv_many, conn.recv_view().__enter__, conn.__next__)
        for call in (*calls, lambda: conn.request(b"")):
            with pytest.raises(RuntimeError) as told:
                call()
            errors.append(told.value)

    file = io.BytesIO()
    assert conn.recvfile(file, meddle) == 4
    assert len(errors) == 5
    assert file.getvalue() == b"file"
    assert conn.recv() == b"next"


def test_sending_inside_a_batch_is_an_error_and_no_deadlock(ends):
    conn, peer = ends[0].connection(timeout=LONG), ends[1]

    def meddle() -> Any:
        yield b"first"
        for call in (lambda: conn.send(b"?"), conn.flush, lambda: conn.send_many([b"?"])):
            with pytest.raises(RuntimeError):
                call()
        yield b"second"

    assert conn.send_many(meddle()) == 2
    assert peer.read(19) == FIELD.encode(b"first") + FIELD.encode(b"second")


def test_receiving_inside_a_batch_that_is_sent_is_allowed(ends):
    conn, peer = ends[0].connection(timeout=LONG), ends[1]
    peer.write(FIELD.encode(b"a") + FIELD.encode(b"b"))
    assert conn.send_many(conn.recv() for _ in range(2)) == 2
    assert peer.read(10) == FIELD.encode(b"a") + FIELD.encode(b"b")


@pytest.mark.parametrize("other", ["request", "request_many", "detach", "close"])
def test_receiving_inside_a_batch_while_another_thread_wants_both_turns(bare_ends, other):
    """Who has the turn to send waits for that to receive: nobody may do it the other way"""
    conn, peer = bare_ends[0].connection(), bare_ends[1]
    asks = other.startswith("request")
    inside, go_on = threading.Event(), threading.Event()

    def some() -> Any:
        inside.set()
        assert go_on.wait(LONG)
        yield conn.recv()

    receiving = asleep(conn, conn.recv)
    sending = Task(conn.send_many, some())
    assert inside.wait(LONG)
    calls = {"request": (b"?",), "request_many": ([b"?"],), "detach": (), "close": ()}
    wanting = Task(getattr(conn, other), *calls[other])
    time.sleep(SHORT)  # it waits, for whatever turn it wants first
    go_on.set()
    time.sleep(SHORT)
    if other == "close":
        for task in (receiving, sending):
            with pytest.raises(ConnectionClosed):
                task.finish(PROMPT)
        wanting.finish(PROMPT)
        return
    messages = [b"a", b"b", b"c"][: 2 + asks]
    peer.write(b"".join(map(FIELD.encode, messages)))
    sent = FIELD.decoder().feed(peer.read(5 * (1 + asks)))
    assert sending.finish(PROMPT) == 1
    seen, found = [receiving.finish(PROMPT)], wanting.finish(PROMPT)
    if asks:
        sent.remove(b"?")
        seen += found if isinstance(found, list) else [found]
    else:
        found.close()
    assert sorted(seen + sent) == messages


def test_close_ends_callbacks_that_wait_for_each_other(bare_ends):
    """One receives and would send, one sends and would receive: only an end helps them"""
    conn, peer = bare_ends[0].connection(), bare_ends[1]
    peer.write(FIELD.encode(b"file"))
    start = threading.Barrier(2, timeout=LONG)

    def send(so_far: int, size: int) -> None:
        start.wait()
        conn.send(b"x")

    def received() -> Any:
        start.wait()
        yield conn.recv()

    tasks = [Task(conn.recvfile, io.BytesIO(), send), Task(conn.send_many, received())]
    time.sleep(SHORT)
    with background(conn.close):
        for task in tasks:
            with pytest.raises(ConnectionClosed):
                task.finish(PROMPT)


def test_closing_inside_a_callback_of_the_connection(ends):
    conn, peer = ends[0].connection(timeout=LONG), ends[1]
    peer.write(FIELD.encode(b"file"))
    assert conn.recvfile(io.BytesIO(), lambda so_far, size: conn.close()) == 4
    assert conn.closed and conn.fileno() == -1
    with pytest.raises(ConnectionClosed):
        conn.recv()
    assert peer.read_all() == b""


def test_closing_inside_a_batch_sends_what_was_accepted(own_ends):
    conn, peer = own_ends[0].connection(timeout=LONG), own_ends[1]

    def some() -> Any:
        yield b"first"
        conn.close()

    with contextlib.suppress(ConnectionClosed):  # or the batch was gone before
        conn.send_many(some())
    assert conn.closed
    assert peer.read_all() == FIELD.encode(b"first")


def test_many_connections_in_many_threads():
    """Buffers that all connections share are never two connections' at a time"""
    start = threading.Barrier(8)

    def converse(seed: int) -> None:
        with Connection(pair[seed][0]) as conn, Connection(pair[seed][1]) as other:
            start.wait(LONG)
            for i in range(300):
                message = b"%d:%d" % (seed, i) * (1 + i * 37 % 900)
                conn.send(message)
                conn.send(b"%d" % seed)
                assert other.recv() == message
                assert other.recv() == b"%d" % seed

    pair = [socket.socketpair() for _ in range(8)]
    for task in [Task(converse, seed) for seed in range(8)]:
        task.finish()
