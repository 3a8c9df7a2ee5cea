"""close(): the last bytes arrive, who waits is woken, no descriptor is used again."""

from __future__ import annotations

import gc
import io
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import peers
from conftest import linux, posix, told_queue
from peers import LONG, PROMPT, SHORT, Task, asleep, background, linked, pattern, until
from pysock import Connection, wait
from pysock.errors import ConnectionClosed
from pysock.framing import LengthField

ends, own_ends, tight_ends = peers.ends, peers.own_ends, peers.tight_ends
few_own_ends, receive = peers.few_own_ends, peers.receive
tcp_ends, socket_ends = peers.tcp_ends, peers.socket_ends

FIELD = LengthField()
HUGE = 1 << 24  # more than any transport takes while nobody reads


# ------------------------------------------------------------ who waits is woken


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(1000)


WAITING: dict[str, Callable[[Connection], Any]] = {
    "send": lambda conn: conn.send(bytes(HUGE)),
    "send_many": lambda conn: conn.send_many(endless()),
    "sendfile": lambda conn: conn.sendfile(io.BytesIO(bytes(HUGE))),
    "request": lambda conn: conn.request(b"x"),
    "large request": lambda conn: conn.request(bytes(HUGE)),
    "request_many": lambda conn: conn.request_many([b"x"] * 9),
    "large request_many": lambda conn: conn.request_many(endless()),
    "shutdown": lambda conn: conn.send(bytes(HUGE)) or conn.shutdown(socket.SHUT_WR),
}


def raised_by_close(conn: Connection, *waiting: Task) -> list[type[Exception]]:
    """Close while tasks wait; return what each of them raises, which they do at once."""
    conn.linger = 0.0
    raised = []
    began = time.monotonic()
    with background(conn.close):
        for task in waiting:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - the test knows which
                task.finish(PROMPT)
            raised.append(caught.type)
    assert time.monotonic() - began < PROMPT
    assert conn.closed
    return raised


@pytest.mark.case("D10")
def test_close_wakes_who_receives(few_own_ends, receive):
    """D10"""
    conn = few_own_ends[0].connection()
    assert raised_by_close(conn, asleep(conn, receive, conn)) == [ConnectionClosed]


@pytest.mark.case("D10")
def test_close_wakes_who_receives_inside_a_frame(few_own_ends, receive):
    """D10"""
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    peer.write(FIELD.encode(pattern(100_000))[:50_000])
    assert raised_by_close(conn, asleep(conn, receive, conn)) == [ConnectionClosed]


@pytest.mark.case("D10", "C07")
@pytest.mark.parametrize("way", WAITING)
def test_close_wakes_who_sends_or_asks(own_ends, way):
    """C07, D10"""
    conn = own_ends[0].connection()
    assert raised_by_close(conn, asleep(conn, WAITING[way], conn)) == [ConnectionClosed]


@pytest.mark.case("D10")
def test_close_wakes_both_directions_and_who_waits_for_a_turn(own_ends):
    """D10"""
    conn = own_ends[0].connection()
    receiving = asleep(conn, conn.recv)
    sending = asleep(conn, conn.send, bytes(HUGE))
    queued = [Task(conn.recv), Task(conn.send, b"x"), Task(conn.request, b"x")]
    assert raised_by_close(conn, receiving, sending, *queued) == [ConnectionClosed] * 5


def test_close_wakes_who_spins(own_ends):
    conn = own_ends[0].connection(spin=LONG)
    receiving = Task(conn.recv)
    until(receiving.is_alive)
    assert raised_by_close(conn, receiving) == [ConnectionClosed]


def test_close_wakes_who_has_slept_before(own_ends):
    """The descriptor that wakes is made once, and its wake-up is not lost"""
    conn, peer = own_ends[0].connection(timeout=SHORT), own_ends[1]
    with pytest.raises(TimeoutError):
        conn.recv()
    conn.timeout = None
    peer.write(FIELD.encode(b"x"))
    assert conn.recv() == b"x"
    assert raised_by_close(conn, asleep(conn, conn.recv)) == [ConnectionClosed]


def test_close_wakes_who_waits_for_several(own_ends):
    conn = own_ends[0].connection()
    waiting = Task(wait, [conn], LONG)
    until(lambda: conn.stats.calls_in)
    with background(conn.close):
        assert waiting.finish(PROMPT) == [conn]


@pytest.mark.case("D12")
def test_close_while_another_thread_closes(own_ends):
    """D12"""
    conn, peer = own_ends[0].connection(linger=LONG), own_ends[1]
    peers.stuff(conn)
    start = threading.Barrier(3)

    def close() -> None:
        start.wait(LONG)
        conn.close()

    closing = [Task(close) for _ in range(3)]
    assert len(peer.read_all()) == 4 + HUGE
    peer.close()  # where the system does not tell what has arrived, they wait for this
    for task in closing:
        task.finish()


@pytest.mark.case("D12")
def test_close_twice_is_once(ends):
    """D12"""
    with ends[0].connection() as conn:
        conn.close()
        conn.close()
    conn.close()
    assert ends[1].read_all() == b""


@posix
@pytest.mark.case("D11")
@pytest.mark.thread_unsafe(reason="others take the number")
@pytest.mark.parametrize("what", ["recv", "send"])
def test_descriptor_that_is_used_again_is_not_touched(what):
    """D11"""
    call = {"recv": Connection.recv, "send": lambda conn: conn.send(bytes(HUGE))}[what]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(30):
            a, b = socket.socketpair()
            conn = Connection(a, linger=0.0)
            number = conn.fileno()
            using = asleep(conn, call, conn)
            conn.close()
            c = socket.socket()  # the very next one: a pair may first make a listener
            c.connect(listener.getsockname())
            d, _ = listener.accept()
            with b, c, d:
                assert number in (c.fileno(), d.fileno())
                for sock in (c, d):
                    sock.send(b"\0\0\0\1x")
                with pytest.raises(ConnectionClosed):
                    using.finish()
                assert c.recv(99) == d.recv(99) == b"\0\0\0\1x"


# ------------------------------------------------------------ the last bytes arrive


@pytest.mark.case("D04", "D05", "T01")
@pytest.mark.parametrize("transport", ["tcp4", "tcp6", "unix", "socketpair", "tls"])
@pytest.mark.parametrize("unread", [0, 6, 1 << 16])
def test_last_reply_arrives_although_input_is_unread(tmp_path, transport, unread):
    """D04, D05"""
    reply = FIELD.encode(pattern(1 << 20))
    with linked(transport, tmp_path) as (near, peer):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        conn = near.connection()
        peer.write(FIELD.encode(b"question") + bytes(unread))
        assert conn.recv() == b"question"

        def answer() -> None:
            conn.send(pattern(1 << 20))
            conn.close()

        answering = Task(answer)
        received = b""
        slow = threading.Event()
        while len(received) < len(reply):
            slow.wait(0.001)
            part = peer.read(1 << 15)
            assert part, f"the end after {len(received)} bytes"
            received += part
        assert received == reply
        assert peer.read_all() == b""
        answering.finish()


def test_close_sends_what_was_accepted(ends):
    """Of every transport, whatever the tail"""
    conn, peer = ends[0].connection(linger=LONG), ends[1]
    peers.stuff(conn)
    with background(conn.close):
        assert len(peer.read_all()) == 4 + HUGE
        peer.close()  # or it is waited for, where the system does not tell what has arrived


def test_close_in_the_middle_of_a_read_ahead_batch_loses_no_reply(socket_ends):
    conn, peer = socket_ends[0].connection(), socket_ends[1]
    peer.write(FIELD.encode(b"x") * 1000)
    assert conn.recv() == b"x"
    conn.send(b"reply")
    conn.close()
    assert peer.read_all() == FIELD.encode(b"reply")


@told_queue
def test_close_returns_at_once_when_nothing_is_queued(ends):
    conn = ends[0].connection(linger=LONG)
    conn.send(b"x")
    began = time.monotonic()
    conn.close()
    assert time.monotonic() - began < PROMPT
    assert ends[1].read_all() == FIELD.encode(b"x")


@pytest.mark.case("D06")
def test_close_lingers_no_longer_than_told_for_a_peer_that_does_not_read(ends):
    """D06"""
    conn = ends[0].connection(linger=2 * SHORT)
    peers.stuff(conn)
    began = time.monotonic()
    conn.close()
    assert time.monotonic() - began < PROMPT


@pytest.mark.case("D06")
@told_queue
def test_close_waits_no_longer_than_told_for_a_peer_that_took_all_but_stays(tcp_ends):
    """D06: all is acknowledged, nobody has read it"""
    conn = tcp_ends[0].connection(linger=LONG)
    conn.send(bytes(10_000))
    began = time.monotonic()
    conn.close()
    assert time.monotonic() - began < PROMPT
    assert tcp_ends[1].read_all() == FIELD.encode(bytes(10_000))


@pytest.mark.case("D06")
@linux
def test_close_ends_although_the_peer_never_stops_sending():
    """D06"""
    flood = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
try:
    while True:
        sock.sendall(bytes(1 << 20))
except OSError:
    pass
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as theirs:
            number = str(theirs.fileno())
            command = [sys.executable, "-c", flood, number]
            process = subprocess.Popen(command, pass_fds=[int(number)])
        conn = Connection(listener.accept()[0], linger=10 * SHORT)
    assert conn.recv() == b""  # it has begun
    peers.stuff(conn)
    began = time.monotonic()
    conn.close()
    assert time.monotonic() - began < PROMPT
    assert process.wait(LONG) == 0


def test_without_linger_close_does_not_wait(ends):
    conn = ends[0].connection(linger=0)
    peers.stuff(conn)
    began = time.monotonic()
    conn.close()
    assert time.monotonic() - began < PROMPT


def test_leaving_the_with_block_closes(ends):
    with ends[0].connection() as conn:
        conn.send(b"x")
    assert conn.closed
    assert ends[1].read_all() == FIELD.encode(b"x")
    with pytest.raises(LookupError), ends[1].connection() as other:
        raise LookupError
    assert other.closed


@pytest.mark.case("D18")
def test_both_sides_close_at_the_same_time(ends):
    """D18"""
    conn, other = (end.connection() for end in ends)
    conn.send(b"x")
    other.send(b"y")
    start = threading.Barrier(2)

    def close(which: Connection) -> None:
        start.wait(LONG)
        which.close()

    with background(close, conn):
        close(other)
    assert conn.closed
    assert other.closed


# ------------------------------------------------------------ nobody closed it


@pytest.mark.case("D12")
def test_forgotten_connection_warns_and_is_closed(ends):
    """D12"""
    held, peer = [ends[0].connection()], ends[1]
    held[0].send(b"x")
    ends[0].forget()
    with pytest.warns(ResourceWarning, match="unclosed <Connection") as told:
        held.clear()
    assert len(told) == 1
    assert peer.read_all() == FIELD.encode(b"x")


def test_forgotten_connection_does_not_linger(socket_ends):
    held = [socket_ends[0].connection(linger=LONG)]
    peers.stuff(held[0])
    socket_ends[0].forget()
    began = time.monotonic()
    with pytest.warns(ResourceWarning):
        held.clear()
    assert time.monotonic() - began < PROMPT


@pytest.mark.case("D12")
def test_closed_connection_is_forgotten_in_silence(ends):
    conn = ends[0].connection()
    conn.close()
    ends[0].forget()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del conn
        gc.collect()
    assert told == []


@pytest.mark.case("C10")
def test_connection_dropped_while_a_thread_is_inside(own_ends):
    """C10"""
    held, peer = [own_ends[0].connection()], own_ends[1]
    receiving = asleep(held[0], held[0].recv)
    own_ends[0].forget()
    held.clear()

    def let_it_end() -> None:
        peer.write(FIELD.encode(b"x"))
        assert receiving.finish() == b"x"

    with pytest.warns(ResourceWarning):
        let_it_end()
    assert peer.read_all() == b""


@pytest.mark.case("D12")
def test_interpreter_that_ends_with_open_connections_is_silent():
    """D12"""
    assert (
        peers.run_python("""
import socket, threading, pysock
a, b = socket.socketpair()
conn, other = pysock.Connection(a), pysock.Connection(b)
conn.send(b"x")
waiting = threading.Thread(target=lambda: [other.recv() for _ in range(2)], daemon=True)
waiting.start()
print("end")
""")
        == "end\n"
    )


@pytest.mark.case("D12")
def test_connection_that_outlives_the_modules_at_the_end_is_silent():
    """D12"""
    code = """
import socket, sys, pysock
a, b = socket.socketpair()
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sys.kept = pysock.Connection(a), pysock.Connection(b), pysock.framing.DatagramSocket(c)
print("end")
"""
    assert peers.run_python(code) == "end\n"
