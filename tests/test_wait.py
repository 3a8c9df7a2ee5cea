"""wait(): those connections with a message, or an end, to receive."""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import socket
import sys
import time

import pytest

import peers
from conftest import linux, resets
from peers import LONG, PROMPT, SHORT, Task, asleep, background, linked, pattern, until
from pysock import Connection, testing, wait
from pysock.connection import selector_of_any
from pysock.errors import ConnectionClosed, FrameTooLarge
from pysock.framing import Delimiter, LengthField

own_ends, few_own_ends, bare_ends = peers.own_ends, peers.few_own_ends, peers.bare_ends
paired_ends, receive = peers.paired_ends, peers.receive

FIELD = LengthField()


def test_message_that_comes_ends_the_wait(own_ends):
    conn, peer = own_ends[0].connection(), own_ends[1]
    assert wait([conn], 0) == []
    waiting = Task(wait, [conn])
    until(lambda: conn.stats.calls_in)
    waiting.join(SHORT)
    assert waiting.is_alive()
    peer.write(FIELD.encode(b"x"))
    assert waiting.finish() == [conn]
    assert conn.recv() == b"x"
    assert wait([conn], 0) == []


def test_wait_ends_with_its_timeout(own_ends):
    conn = own_ends[0].connection()
    began = time.monotonic()
    assert wait([conn], SHORT) == []
    assert 0.99 * SHORT <= time.monotonic() - began < PROMPT


def test_wait_for_nothing_returns_at_once():
    assert wait([], LONG) == []
    assert wait(iter(())) == []


def test_messages_that_were_read_ahead_count(few_own_ends, receive):
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    peer.write(FIELD.encode(b"a") + FIELD.encode(b"b") + FIELD.encode(b"c")[:3])
    assert receive(conn) == b"a"
    assert wait([conn]) == [conn]
    assert wait([conn], 0) == [conn]
    assert receive(conn) == b"b"
    assert wait([conn], 0) == []  # half a header is no message
    peer.write(FIELD.encode(b"c")[3:])
    assert wait([conn]) == [conn]
    assert receive(conn) == b"c"


def test_empty_message_counts(own_ends):
    conn, peer = own_ends[0].connection(), own_ends[1]
    peer.write(FIELD.encode(b""))
    assert wait([conn]) == [conn]
    assert conn.recv() == b""


def test_end_of_the_stream_counts(few_own_ends, receive):
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    peer.finish()
    for _ in range(2):
        assert wait([conn], LONG) == [conn]
        with pytest.raises((ConnectionClosed, StopIteration)):
            receive(conn)


def test_end_inside_a_frame_counts(own_ends):
    conn, peer = own_ends[0].connection(), own_ends[1]
    peer.write(FIELD.encode(b"hello")[:6])
    assert wait([conn], SHORT) == []
    peer.finish()
    assert wait([conn], LONG) == [conn]


@resets
def test_reset_counts():
    with testing.pair(family=socket.AF_INET, reset_at=0) as (conn, _):
        assert wait([conn], LONG) == [conn]
        with pytest.raises(ConnectionResetError):
            conn.recv()


def test_refused_header_counts(own_ends):
    conn, peer = own_ends[0].connection(), own_ends[1]
    peer.write(b"\xff" * 4)
    assert wait([conn], LONG) == [conn]
    with pytest.raises(FrameTooLarge):
        conn.recv()


def test_closed_connection_counts(own_ends):
    conn = own_ends[0].connection()
    conn.close()
    assert wait([conn], LONG) == [conn]


@linux
def test_end_just_before_the_sleep_counts_though_its_numbers_are_others(own_ends, monkeypatch):
    """wait() holds no turn, so close() does not wait for it"""
    conn = own_ends[0].connection(linger=0.0)
    taken = []

    class Late(selectors.PollSelector):
        def select(self, timeout=None):
            if not taken:
                conn.close()
                taken.extend(fd for _ in range(4) for fd in os.pipe())
            return super().select(timeout)

    monkeypatch.setattr("pysock.connection.selector_of_any", Late)
    try:
        assert wait([conn], PROMPT) == [conn]
    finally:
        for fd in taken:
            os.close(fd)


@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
@pytest.mark.parametrize("way", ["close", "detach"])
def test_end_just_before_the_sleep_counts(bare_ends, monkeypatch, way, fails):
    """Windows' select() fails with a socket that is closed"""
    conn = bare_ends[0].connection(linger=0.0)

    class Late(type(selector_of_any())):
        def select(self, timeout=None):
            if not conn.closed:
                conn.close() if way == "close" else conn.detach().close()
            if fails:
                raise OSError("not a socket")
            return super().select(timeout)

    monkeypatch.setattr("pysock.connection.selector_of_any", Late)
    assert wait([conn], PROMPT) == [conn]


def test_failed_sleep_with_nothing_closed_is_an_error(paired_ends, monkeypatch):
    class Failing(type(selector_of_any())):
        def select(self, timeout=None):
            raise OSError("no sleep")

    monkeypatch.setattr("pysock.connection.selector_of_any", Failing)
    with pytest.raises(OSError, match="no sleep"):
        wait([paired_ends[0].connection()], PROMPT)


def test_detached_connection_counts(own_ends):
    conn = own_ends[0].connection()
    waiting = Task(wait, [conn], LONG)
    until(lambda: conn.stats.calls_in)
    with contextlib.suppress(io.UnsupportedOperation):  # TLS is not handed over
        conn.detach().close()
        assert waiting.finish(PROMPT) == [conn]
    conn.close()
    waiting.finish()


def none_while(writing: Task, conn: Connection) -> None:
    """Take in what is written, and find no message in it."""
    while writing.is_alive():
        assert wait([conn], SHORT) == []
    writing.finish()
    assert wait([conn], SHORT) == []


def test_large_message_counts_when_all_of_it_has_come(few_own_ends, receive):
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    frame = FIELD.encode(pattern(1 << 20))
    for cut in (4, 60_000, 1 << 20):
        none_while(Task(peer.write, frame[:cut]), conn)
        with background(peer.write, frame[cut:]):
            assert wait([conn], LONG) == [conn]
        assert receive(conn) == pattern(1 << 20)
        assert wait([conn], 0) == []


def test_long_line_counts_when_its_end_has_come(own_ends):
    conn, peer = own_ends[0].connection(Delimiter()), own_ends[1]
    line = b"x" * 300_000
    none_while(Task(peer.write, line), conn)
    peer.write(b"\n")
    assert wait([conn], LONG) == [conn]
    assert conn.recv() == line


def test_only_those_that_are_ready_are_returned_in_the_order_given(tmp_path):
    with contextlib.ExitStack() as stack:
        conns, others = [], []
        for i in range(6):
            folder = tmp_path / str(i)
            folder.mkdir()
            kind = ["tcp4", "unix", "socketpair", "pipes"][i % 4]
            if kind in ("unix", "pipes") and sys.platform == "win32":
                kind = "tcp4"
            near, far = stack.enter_context(linked(kind, folder))
            conns.append(near.connection())
            others.append(far.connection())
        assert wait(conns, 0) == []
        others[4].send(b"x")
        assert wait(iter(conns), LONG) == [conns[4]]
        others[1].send_many([b"one", b"two"])
        assert conns[1].recv() == b"one"  # "two" has been read ahead
        others[3].close()
        until(lambda: wait(conns, 0) == [conns[1], conns[3], conns[4]])
        for conn in (conns[4], conns[1]):
            conn.recv()
        assert wait(conns[:3] + conns[4:], SHORT) == []
        assert wait(reversed(conns), 0) == [conns[3]]


def test_connection_that_is_given_twice(paired_ends):
    conn, peer = paired_ends[0].connection(), paired_ends[1]
    assert wait([conn, conn], 0) == []
    waiting = Task(wait, [conn, conn], LONG)
    until(lambda: conn.stats.calls_in > 1)
    peer.write(FIELD.encode(b"x"))
    assert waiting.finish() == [conn]


@pytest.mark.case("D10")
def test_connection_that_is_closed_as_the_wait_begins(paired_ends):
    class Closing(Connection):
        """Another thread closes it right after it has been looked at."""

        def fileno(self) -> int:
            self.close()
            return super().fileno()

    conn = Closing(paired_ends[0].sock)
    assert wait([conn], LONG) == [conn]


def test_connection_that_another_thread_receives_from_is_left_to_it(own_ends, tmp_path):
    conn, peer = own_ends[0].connection(), own_ends[1]
    receiving = asleep(conn, conn.recv)
    assert wait([conn], SHORT) == []
    with linked("socketpair", tmp_path) as (near, far):
        other = near.connection()
        far.write(FIELD.encode(b"y"))
        assert wait([conn, other], LONG) == [other]
    peer.write(FIELD.encode(b"x"))
    assert receiving.finish() == b"x"


def test_wait_does_not_change_what_a_call_returns(few_own_ends, receive):
    conn, peer = few_own_ends[0].connection(timeout=LONG), few_own_ends[1]
    messages = [pattern(size) for size in (0, 10, 5000, 20_000, 100_000, 1)]
    with background(peer.write, b"".join(map(FIELD.encode, messages))):
        for message in messages:
            assert wait([conn], LONG) == [conn]
            assert receive(conn) == message
    assert conn.pending == 0


def test_wait_takes_any_timeout(paired_ends):
    conn, peer = paired_ends[0].connection(), paired_ends[1]
    peer.write(FIELD.encode(b"x"))
    for timeout in (None, 0, 1e-9, 1, 1e9, float("inf")):
        assert wait([conn], timeout) == [conn]
    for timeout in (1e7, float("inf")):
        conn.recv()
        waiting = Task(wait, [conn], timeout)
        waiting.join(SHORT)
        peer.write(FIELD.encode(b"x"))
        assert waiting.finish() == [conn]
