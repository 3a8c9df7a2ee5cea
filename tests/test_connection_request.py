"""request and request_many: one reply for each, whatever came between."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import peers
from conftest import posix
from peers import LONG, PROMPT, SHORT, Task, asleep, background, pattern, until
from pysock import Connection
from pysock.errors import ConnectionClosed, IncompleteFrame
from pysock.framing import LengthField

ends, own_ends, tight_ends = peers.ends, peers.own_ends, peers.tight_ends
few_ends, paired_ends = peers.few_ends, peers.paired_ends
few_own_ends = peers.few_own_ends

FIELD = LengthField()


def echo(conn: Connection) -> None:
    """Answer like a plain server: read one, write its reply, however long that takes."""
    try:
        for message in conn:
            conn.send(b"re:" + message)
    except (ConnectionResetError, BrokenPipeError, IncompleteFrame):
        pass  # the client has gone


def answer_at_once(peer: Any) -> None:
    """Write what comes as it comes, as `cat` does."""
    while data := peer.read(1):
        peer.write(data + peer.sip(1 << 16))


def replies(messages: list[bytes]) -> list[bytes]:
    return [b"re:" + message for message in messages]


def test_request_returns_the_reply(ends):
    conn = ends[0].connection()
    serving = Task(echo, ends[1].connection())
    for size in (0, 1, 5000, 70_000, 1 << 21):
        assert conn.request(pattern(size)) == b"re:" + pattern(size)
    conn.close()
    serving.finish()


def test_request_meets_the_end_of_the_stream(ends):
    conn, peer = ends[0].connection(), ends[1]
    peer.finish()
    with pytest.raises(ConnectionClosed):
        conn.request(b"x")


def test_request_many_returns_the_replies_in_order(own_ends):
    conn = own_ends[0].connection()
    serving = Task(echo, own_ends[1].connection())
    assert conn.request_many([]) == []
    messages = [b"%d" % i for i in range(5000)]
    assert conn.request_many(iter(messages)) == replies(messages)
    conn.close()
    serving.finish()


def test_request_many_sends_many_in_one_go(own_ends):
    conn = own_ends[0].connection()
    serving = Task(echo, own_ends[1].connection())
    messages = [b"%d" % i for i in range(5000)]
    assert conn.request_many(messages) == replies(messages)
    assert conn.stats.calls_out < 100
    conn.close()
    serving.finish()


@pytest.mark.case("L13")
def test_request_many_against_a_peer_that_writes_before_it_reads_on(own_ends):
    """Both sides only sending must not be the end of it: 100 MB each way"""
    conn = own_ends[0].connection()
    serving = Task(echo, own_ends[1].connection())
    messages = [b"%05d" % i + bytes(10_000) for i in range(10_000)]
    received = conn.request_many(messages)
    assert [reply[3:8] for reply in received] == [message[:5] for message in messages]
    assert {len(reply) for reply in received} == {10_008}
    conn.close()
    serving.finish()


@pytest.mark.parametrize("size", [10, 10_000, 100_000, 1 << 21])
def test_request_many_through_the_smallest_buffers(tight_ends, size):
    conn = tight_ends[0].connection(timeout=LONG)
    serving = Task(echo, tight_ends[1].connection())
    # Windows needs more than a millisecond for one over a foreign stream, there and back.
    most = 100_000 if sys.platform == "win32" else 300_000
    messages = [b"%d" % i + bytes(size) for i in range(max(3, most // size))]
    assert conn.request_many(messages) == replies(messages)
    conn.close()
    serving.finish()


def test_request_many_against_a_peer_that_answers_inside_the_message(own_ends):
    """`cat` begins to answer before it has read all: large messages, small pipes"""
    conn = own_ends[0].connection(timeout=2 * PROMPT)
    serving = Task(answer_at_once, own_ends[1])
    messages = [pattern(size) for size in (1 << 20, 10, 1 << 21, 0)]
    assert conn.request_many(messages) == messages
    conn.close()
    serving.finish()


def test_request_against_a_peer_that_answers_inside_the_message(own_ends):
    conn = own_ends[0].connection(timeout=2 * PROMPT)
    serving = Task(answer_at_once, own_ends[1])
    assert conn.request(pattern(1 << 22)) == pattern(1 << 22)
    conn.close()
    serving.finish()


def test_request_many_that_meets_a_bad_message_sends_what_came_before(own_ends):
    conn, peer = own_ends[0].connection(), own_ends[1]
    with pytest.raises(TypeError):
        conn.request_many([b"a", b"b", "refused"])
    assert conn.unsent == 0
    assert peer.read(10) == FIELD.encode(b"a") + FIELD.encode(b"b")
    peer.write(FIELD.encode(b"A") + FIELD.encode(b"B"))
    assert [conn.recv(), conn.recv()] == [b"A", b"B"]
    with background(conn.request, b"c") as asked:
        assert peer.read(5) == FIELD.encode(b"c")
        peer.write(FIELD.encode(b"C"))
    assert asked.finish() == b"C"


# ------------------------------------------------------------ replies that come late


def test_late_reply_is_dropped_by_the_next_request(ends):
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    for question in (b"1", b"2"):
        with pytest.raises(TimeoutError) as told:
            conn.request(question)
        # The second may be refused: the reply to the first has not come yet.
        assert told.value.accepted is (question == b"1")
    conn.timeout = LONG
    assert peer.read(5) == FIELD.encode(b"1")
    peer.write(FIELD.encode(b"one"))
    with background(conn.request, b"3") as asked:
        assert peer.read(5) == FIELD.encode(b"3")
        peer.write(FIELD.encode(b"three"))
    assert asked.finish() == b"three"


def test_late_reply_is_handed_out_by_recv_and_counted_down(ends):
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    with pytest.raises(TimeoutError):
        conn.request(b"1")
    peer.write(FIELD.encode(b"one"))
    conn.timeout = LONG
    assert conn.recv() == b"one"
    with background(conn.request, b"2") as asked:
        assert peer.read(10).endswith(b"2")
        peer.write(FIELD.encode(b"two"))
    assert asked.finish() == b"two"


RECEIVED: dict[str, Callable[[Connection], Any]] = {
    "recv_many": lambda conn: conn.recv_many(),
    "recv_into": lambda conn: conn.recv_into(bytearray(9)),
    "recv_view": lambda conn: conn.recv_view().__enter__(),
    "next": next,
}


@pytest.mark.parametrize("way", RECEIVED)
def test_late_reply_counts_however_it_is_received(few_ends, way):
    conn, peer = few_ends[0].connection(timeout=SHORT), few_ends[1]
    with pytest.raises(TimeoutError):
        conn.request(b"1")
    peer.write(FIELD.encode(b"one"))
    conn.timeout = LONG
    RECEIVED[way](conn)
    with background(conn.request, b"2") as asked:
        peer.read(10)
        peer.write(FIELD.encode(b"two"))
    assert asked.finish() == b"two"


def test_large_late_reply_that_came_in_part_is_dropped_whole(ends):
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    late = FIELD.encode(pattern(200_000))
    with background(peer.write, late[:50_000]), pytest.raises(TimeoutError):
        conn.request(b"1")
    conn.timeout = LONG
    with background(conn.request, b"2") as asked:
        peer.write(late[50_000:])
        assert peer.read(10).endswith(b"2")
        peer.write(FIELD.encode(b"two"))
    assert asked.finish() == b"two"


def test_dropping_late_replies_counts_against_the_deadline(ends):
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    with pytest.raises(TimeoutError):
        conn.request(b"1")
    with pytest.raises(TimeoutError) as told:
        conn.request(b"2")
    assert told.value.accepted is False
    assert peer.sip(99) == FIELD.encode(b"1")


@pytest.mark.parametrize("again", ["request", "request_many", "send"])
def test_request_that_timed_out_while_it_was_sent_is_finished_first(tight_ends, again):
    conn, peer = tight_ends[0].connection(timeout=SHORT), tight_ends[1]
    first = pattern(1 << 20)
    with pytest.raises(TimeoutError) as told:
        conn.request(first)
    assert told.value.accepted is True and conn.unsent > 0
    conn.timeout = LONG
    serving = Task(echo, peer.connection())
    if again == "request":
        assert conn.request(b"second") == b"re:second"
    elif again == "request_many":
        assert conn.request_many([b"2", b"3"]) == [b"re:2", b"re:3"]
    else:
        conn.send(b"second")
        assert [conn.recv(), conn.recv()] == [b"re:" + first, b"re:second"]
    conn.close()
    serving.finish()


def test_request_many_that_timed_out_tells_what_it_has(ends):
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    peer.write(FIELD.encode(b"one") + FIELD.encode(b"two"))
    with pytest.raises(TimeoutError) as told:
        conn.request_many([b"1", b"2", b"3"])
    assert told.value.accepted == 3
    assert told.value.replies == [b"one", b"two"]
    assert peer.read(15) == b"".join(map(FIELD.encode, [b"1", b"2", b"3"]))
    peer.write(FIELD.encode(b"three"))
    conn.timeout = LONG
    with background(conn.request, b"4") as asked:
        assert peer.read(5) == FIELD.encode(b"4")
        peer.write(FIELD.encode(b"four"))
    assert asked.finish() == b"four"


def test_request_many_that_timed_out_while_sending_goes_on(tight_ends):
    conn, peer = tight_ends[0].connection(timeout=SHORT), tight_ends[1]
    messages = [b"%06d" % i + bytes(1000) for i in range(200)]
    with pytest.raises(TimeoutError) as told:
        conn.request_many(messages)
    accepted = told.value.accepted
    assert 0 < accepted < 200 and told.value.replies == []
    conn.timeout = LONG
    serving = Task(echo, peer.connection())
    assert conn.request_many(messages[accepted:]) == replies(messages[accepted:])
    assert conn.stats.messages_in == 200
    conn.close()
    serving.finish()


def test_request_many_sleeps_though_more_comes_than_it_asked_for(few_own_ends):
    """What it is not owed stays where it is, and is no reason to look again and again."""
    conn, peer = few_own_ends[0].connection(timeout=5 * SHORT), few_own_ends[1]
    size = 1 << 24  # more than the system keeps
    stream = FIELD.encode(b"reply") + FIELD.encode(pattern(size))
    with background(peer.write, stream):
        with pytest.raises(TimeoutError) as told:
            conn.request_many([pattern(size)])
        assert told.value.replies == [b"reply"]
        assert conn.stats.waits_out < 100
        conn.timeout = LONG
        with background(peer.read, 4 + size):
            conn.flush()
        assert conn.recv() == pattern(size)


def test_request_that_never_waits_is_owed_its_reply(ends):
    conn, peer = ends[0].connection(timeout=0), ends[1]
    with pytest.raises(BlockingIOError) as told:
        conn.request(b"1")
    assert told.value.accepted is True
    assert peer.read(5) == FIELD.encode(b"1")
    with pytest.raises(BlockingIOError) as told:
        conn.request(b"2")
    assert told.value.accepted is False
    peer.write(FIELD.encode(b"one"))
    until(lambda: peers.drain(conn, Connection.recv) == [b"one"])


@posix
def test_request_that_cannot_be_sent_leaves_what_the_peer_has_said(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    peer.write(FIELD.encode(b"last words"))
    peer.close()
    with pytest.raises(BrokenPipeError):
        conn.request(b"x")
    assert conn.recv() == b"last words"


# ------------------------------------------------------------ threads that share


def test_threads_that_share_a_connection_each_get_their_reply(ends):
    conn = ends[0].connection(timeout=LONG)
    serving = Task(echo, ends[1].connection())
    start = threading.Barrier(4)

    def ask(name: int) -> int:
        start.wait(LONG)
        for i in range(200):
            question = b"%d:%d:" % (name, i) + bytes(i * 10)
            if i % 10:
                assert conn.request(question) == b"re:" + question
            else:
                assert conn.request_many([question, b"2"]) == [b"re:" + question, b"re:2"]
        return name

    asking = [Task(ask, name) for name in range(4)]
    assert [task.finish() for task in asking] == [0, 1, 2, 3]
    conn.close()
    serving.finish()


def test_exchange_is_not_broken_into_by_another_send_or_recv(own_ends):
    conn, peer = own_ends[0].connection(timeout=LONG), own_ends[1]
    asked = asleep(conn, conn.request, b"question")
    receiving = Task(conn.recv)
    sending = Task(conn.send, b"sent")
    assert peer.read(12) == FIELD.encode(b"question")
    assert peer.read(8) == FIELD.encode(b"sent")  # the peer may need it for its reply
    peer.write(FIELD.encode(b"answer") + FIELD.encode(b"other"))
    assert asked.finish() == b"answer"
    assert receiving.finish() == b"other"
    sending.finish()
