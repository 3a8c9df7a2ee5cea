"""Signals in the middle of a call, and connections on both sides of a fork."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import peers
from peers import LONG, PROMPT, SHORT, Task, background, linked, pattern, run_python, until
from pysock import Connection
from pysock.errors import ConnectionClosed
from pysock.framing import LengthField

own_ends, ends, paired_ends = peers.own_ends, peers.ends, peers.paired_ends
few_own_ends, receive = peers.few_own_ends, peers.receive

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, fork"),
    # Not by SIGALRM: these tests have signals of their own.
    pytest.mark.timeout(method="thread"),
]

FIELD = LengthField()
HUGE = 1 << 24
HERE = os.path.dirname(__file__)


class Alarm(Exception):
    pass


@contextlib.contextmanager
def on_signal(handler: Callable[..., Any], number: int = signal.SIGUSR1) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def storm(counted: list[int]) -> Iterator[None]:
    """A signal every millisecond."""
    with on_signal(lambda *_: counted.append(1), signal.SIGALRM):
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def signal_when_waiting(conn: Connection, number: int = signal.SIGUSR1) -> Task:
    """Send this thread a signal once it waits for *conn*."""
    before, main = sum(conn.stats[3::4]), threading.get_ident()

    def send() -> None:
        until(lambda: sum(conn.stats[3::4]) > before)
        time.sleep(SHORT)  # from counting the wait to sleeping
        signal.pthread_kill(main, number)

    return Task(send)


def raise_alarm(*_: object) -> None:
    raise Alarm


# ------------------------------------------------------------ handlers that return


@pytest.mark.case("P11")
def test_storm_of_signals_during_large_messages_both_ways(ends):
    """P11"""
    counted: list[int] = []
    conn, other = (end.connection() for end in ends)
    message = pattern(8 << 20)

    def serve() -> None:
        assert other.recv() == message
        other.send(message)

    with background(serve), storm(counted):
        conn.send(message)
        assert conn.recv() == message
        until(lambda: counted)


@pytest.mark.case("P11")
def test_signal_while_waiting_goes_unnoticed(few_own_ends, receive):
    """P11"""
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    counted: list[int] = []
    with on_signal(lambda *_: counted.append(1) or peer.write(FIELD.encode(b"x"))):
        sending = signal_when_waiting(conn)
        assert receive(conn) == b"x"
        sending.finish()
    assert counted == [1]


@pytest.mark.case("P11")
def test_storm_of_signals_does_not_restart_the_deadline(few_own_ends, receive):
    """P11"""
    conn, counted = few_own_ends[0].connection(timeout=3 * SHORT), []
    began = time.monotonic()
    with storm(counted), pytest.raises(TimeoutError):
        receive(conn)
    assert time.monotonic() - began < PROMPT
    assert len(counted) > 3


def test_signal_while_waiting_for_the_turn_goes_unnoticed(own_ends):
    conn, peer = own_ends[0].connection(), own_ends[1]
    receiving = peers.asleep(conn, conn.recv)
    counted: list[int] = []
    main = threading.get_ident()

    def disturb() -> None:
        for _ in range(3):
            time.sleep(SHORT / 2)
            signal.pthread_kill(main, signal.SIGUSR1)
        until(lambda: counted)
        peer.write(FIELD.encode(b"first") + FIELD.encode(b"second"))

    with on_signal(lambda *_: counted.append(1)), background(disturb):
        assert conn.recv() == b"second"
    assert receiving.finish() == b"first"


# ------------------------------------------------------------ handlers that raise


@pytest.mark.case("P12")
def test_handler_that_raises_in_recv_leaves_the_stream_in_step(few_own_ends, receive):
    """P12"""
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    stream = FIELD.encode(pattern(100_000)) + FIELD.encode(b"next")
    for cut in (0, 2, 50_000):
        peer.write(stream[:cut])
        began = time.monotonic()
        with on_signal(raise_alarm):
            sending = signal_when_waiting(conn)
            with pytest.raises(Alarm):
                receive(conn)
            sending.finish()
        assert time.monotonic() - began < PROMPT
        with background(peer.write, stream[cut:]):
            assert receive(conn) == pattern(100_000)
        assert receive(conn) == b"next"


@pytest.mark.case("P12")
@pytest.mark.parametrize("way", ["send", "send_many", "request", "request_many"])
def test_handler_that_raises_while_sending_leaves_the_stream_in_step(few_own_ends, way):
    """P12: the message was accepted, and goes before the next"""
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    message = pattern(HUGE)
    calls: dict[str, Callable[[], Any]] = {
        "send": lambda: conn.send(message),
        "send_many": lambda: conn.send_many([message]),
        "request": lambda: conn.request(message),
        "request_many": lambda: conn.request_many([message]),
    }
    with on_signal(raise_alarm):
        sending = signal_when_waiting(conn)
        with pytest.raises(Alarm):
            calls[way]()
        sending.finish()
    assert conn.unsent > 0
    with background(conn.send, b"next"):
        assert peer.read(4 + HUGE) == FIELD.encode(message)
        assert peer.read(8) == FIELD.encode(b"next")


@pytest.mark.case("P12")
def test_handler_that_raises_while_the_turn_is_waited_for(own_ends):
    """P12"""
    conn, peer = own_ends[0].connection(), own_ends[1]
    receiving = peers.asleep(conn, conn.recv)
    main = threading.get_ident()

    def disturb() -> None:
        time.sleep(2 * SHORT)
        signal.pthread_kill(main, signal.SIGUSR1)

    with on_signal(raise_alarm), background(disturb), pytest.raises(Alarm):
        conn.recv()
    peer.write(FIELD.encode(b"first") + FIELD.encode(b"second"))
    assert receiving.finish() == b"first"
    assert conn.recv() == b"second"


@pytest.mark.case("P12")
def test_handler_that_raises_as_the_turn_comes_passes_it_on(paired_ends):
    """P12: who gave up must not have used up what woke it"""
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    main = threading.get_ident()

    def first() -> bytes:
        message = conn.recv()
        signal.pthread_kill(main, signal.SIGUSR1)  # before the main thread can run
        return message

    with on_signal(raise_alarm):
        receiving = [peers.asleep(conn, first)]

        def others() -> None:
            time.sleep(2 * SHORT)  # the main thread is in the queue by now
            receiving.append(Task(conn.recv))
            time.sleep(2 * SHORT)
            peer.write(FIELD.encode(b"first") + FIELD.encode(b"second"))

        with background(others), pytest.raises(Alarm):
            conn.recv()
    assert receiving[0].finish() == b"first"
    assert receiving[1].finish(PROMPT) == b"second"


@pytest.mark.case("P13")
def test_keyboard_interrupt_leaves_every_call_and_the_connection_works(few_own_ends, receive):
    """P13"""
    conn, peer = few_own_ends[0].connection(), few_own_ends[1]
    with on_signal(signal.default_int_handler, signal.SIGINT):
        sending = signal_when_waiting(conn, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            receive(conn)
        sending.finish()
    peer.write(FIELD.encode(b"x"))
    assert receive(conn) == b"x"


@pytest.mark.case("P13")
def test_keyboard_interrupt_ends_spinning(own_ends):
    """P13"""
    conn = own_ends[0].connection(spin=LONG)
    main = threading.get_ident()

    def interrupt() -> None:
        time.sleep(SHORT)
        signal.pthread_kill(main, signal.SIGINT)

    began = time.monotonic()
    with on_signal(signal.default_int_handler, signal.SIGINT), background(interrupt):
        with pytest.raises(KeyboardInterrupt):
            conn.recv()
        assert time.monotonic() - began < PROMPT


@pytest.mark.case("P13")
def test_keyboard_interrupt_ends_a_close_that_lingers(tmp_path):
    """P13"""
    with linked("tcp4", tmp_path) as (near, _):
        conn = near.connection(linger=2 * LONG)
        peers.stuff(conn)
        main = threading.get_ident()

        def interrupt() -> None:
            until(lambda: conn.closed)
            time.sleep(SHORT)
            signal.pthread_kill(main, signal.SIGINT)

        began = time.monotonic()
        with on_signal(signal.default_int_handler, signal.SIGINT), background(interrupt):
            with pytest.raises(KeyboardInterrupt):
                conn.close()
            assert time.monotonic() - began < PROMPT
        assert near.sock.fileno() == -1


def test_close_in_a_handler_ends_the_call_it_interrupted(few_own_ends, receive):
    conn = few_own_ends[0].connection()
    number = conn.fileno()
    with on_signal(lambda *_: conn.close()):
        sending = signal_when_waiting(conn)
        with pytest.raises(ConnectionClosed):
            receive(conn)
        sending.finish()
    assert conn.closed
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
    assert few_own_ends[1].read_all() == b""


def test_close_in_a_handler_while_sending_still_lingers(own_ends):
    conn, peer = own_ends[0].connection(linger=LONG), own_ends[1]
    reading: list[Task] = []

    def close(*_: object) -> None:
        conn.close()
        reading.append(Task(peer.read_all))

    with on_signal(close):
        sending = signal_when_waiting(conn)
        with pytest.raises(ConnectionClosed):
            conn.send(pattern(HUGE))
        sending.finish()
    assert reading[0].finish() == FIELD.encode(pattern(HUGE))


# ------------------------------------------------------------ SIGPIPE


@pytest.mark.case("D09", "S11")
@pytest.mark.parametrize("transport", ["sockets", "pipes"])
def test_write_to_a_closed_peer_raises_where_sigpipe_kills(transport):
    """D09, S11: and the disposition stays as it was"""
    assert (
        run_python(
            """
import os, signal, socket, sys, pysock
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
if sys.argv[1] == "pipes":
    (r, w), (r2, w2) = os.pipe(), os.pipe()
    conn = pysock.Connection.from_fds(r, w2)
    os.close(r2), os.close(w)
else:
    a, b = socket.socketpair()
    conn = pysock.Connection(a)
    b.close()
for size in (1, 1 << 20, 1):
    try:
        conn.send(bytes(size))
    except (BrokenPipeError, ConnectionResetError):
        continue
    raise AssertionError(size)
assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
assert not signal.pthread_sigmask(signal.SIG_BLOCK, []), "a signal stays blocked"
assert not signal.sigpending()
conn.close()
print("alive")
""",
            transport,
        )
        == "alive\n"
    )


# ------------------------------------------------------------ fork


FORKED = """
import os, signal, socket, sys, threading, time, warnings
import pysock
warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork, from 3.12 on

def made(kind):
    if kind == "pipes":
        (r, w), (r2, w2) = os.pipe(), os.pipe()
        return pysock.Connection.from_fds(r, w2), pysock.Connection.from_fds(r2, w)
    a, b = socket.socketpair()
    if kind == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            a = socket.create_connection(listener.getsockname())
            b = listener.accept()[0]
    if kind == "tls":
        sys.path.append(sys.argv[2])
        from tls_ends import tls_ends
        return [end.connection(timeout=10) for end in tls_ends(a, b, foreign=False)]
    return pysock.Connection(a, timeout=10), pysock.Connection(b, timeout=10)

def child(function):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"

conn, other = made(sys.argv[1])
"""

fork_kinds = pytest.mark.parametrize("kind", ["socketpair", "tcp", "tls", "pipes"])


@pytest.mark.case("S06")
@fork_kinds
def test_forked_child_must_not_use_the_connection(kind):
    """S06"""
    code = """
other.send_many([b"one", b"two"])
assert conn.recv() == b"one"

def use():
    for call in (
        conn.recv, conn.recv_many, conn.flush, conn.detach, lambda: next(conn),
        lambda: conn.recv_into(bytearray(9)), lambda: conn.send(b"x"),
        conn.recv_view().__enter__,
        lambda: conn.send_many([b"x"]), lambda: conn.request(b"x"),
        lambda: conn.request_many([b"x"]), lambda: conn.shutdown(socket.SHUT_WR),
        lambda: pysock.wait([conn], 0), lambda: pysock.wait([other, conn]),
    ):
        try:
            call()
        except RuntimeError as error:
            assert "fork" in str(error)
        else:
            raise AssertionError(call)

child(use)
assert conn.recv() == b"two"
conn.send(b"still")
assert other.recv() == b"still"
conn.close(), other.close()
"""
    assert run_python(FORKED + code, kind, HERE) == ""


@pytest.mark.case("S04")
@fork_kinds
@pytest.mark.parametrize("end", ["conn.close()", "globals().pop('conn')", "pass"])
def test_forked_child_that_closes_leaves_the_parents_connection(kind, end):
    """S04: also one that sleeps, or has slept, in the parent"""
    code = f"""
conn.timeout = 0.01
try:
    conn.recv()  # makes what the connection is woken by
except TimeoutError:
    pass
conn.timeout = 10
got = []
waiting = threading.Thread(target=lambda: got.append(conn.recv()))
waiting.start()
while conn.stats.waits_in < 2:
    time.sleep(0.001)

def end():
    import warnings
    warnings.simplefilter("ignore")
    {end}

child(end)
other.send(b"x")
waiting.join(10)
assert got == [b"x"], got
began = time.process_time()
conn.timeout = 0.2
try:
    conn.recv()
except TimeoutError:
    pass
assert time.process_time() - began < 0.15, "it did not sleep"
conn.send(b"y")
assert other.recv() == b"y"
conn.close()
assert list(other) == []
other.close()
"""
    assert run_python(FORKED + code, kind, HERE) == ""


@pytest.mark.case("S04")
@fork_kinds
def test_forked_child_has_connections_of_its_own(kind):
    """S04: and the counter is of forks, not of processes"""
    code = """
def use():
    mine, theirs = made(sys.argv[1])
    mine.send(b"x")
    assert theirs.recv() == b"x"

    def grandchild():
        try:
            mine.send(b"x")
        except RuntimeError:
            mine.close()

    child(grandchild)
    mine.send(b"y")
    assert theirs.recv() == b"y"
    mine.close(), theirs.close(), conn.close(), other.close()

child(use)
conn.send(b"z")
assert other.recv() == b"z"
conn.close(), other.close()
"""
    assert run_python(FORKED + code, kind, HERE) == ""


@pytest.mark.case("S06")
def test_connection_is_handed_to_a_child_by_detach():
    """S06"""
    assert (
        run_python(
            FORKED
            + """
sock = conn.detach()

def use():
    with pysock.Connection(sock) as conn:
        conn.send(b"from the child")

child(use)
sock.close()
print(other.recv())
other.close()
""",
            "socketpair",
        )
        == "b'from the child'\n"
    )
