"""Threads that resize, release, close and drop what others are using.

There is little to assert but that the process lives and messages keep their frames: these
tests are for builds in which each wrong access to memory is found, see ci/memory.sh.
`PYSOCK_RACE_SECONDS` says how long each of them goes on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import peers
import pysock
from conftest import GIL, TIME_FACTOR, unix
from gate import serving
from peers import LONG, Task, linked
from pysock import Connection, Decoder
from pysock.framing import DatagramSocket, LengthField, Netstring

SECONDS = float(os.environ.get("PYSOCK_RACE_SECONDS", "0.3"))
pytestmark = pytest.mark.timeout(60 * TIME_FACTOR + 4 * SECONDS)

few_own_ends = peers.few_own_ends
MAY_RESIZE = GIL or sys.version_info >= (3, 14)  # a bytearray, in several threads
FIELD = LengthField()
SIZES = [0, 1, 100, 5000, 70_000, 200_000, 1_000_000]
# What a call meets when another thread ends its connection, or holds its buffer.
ENDED = (pysock.ConnectionClosed, ConnectionError, TimeoutError, ssl.SSLError, ValueError)
HELD = (BufferError, pysock.FramingError)


@contextlib.contextmanager
def racing(*parts: Callable[[random.Random], object]) -> Iterator[threading.Event]:
    """Call each of *parts* again and again, in threads, beside the body and for SECONDS."""
    over = threading.Event()

    def run(part: Callable[[random.Random], object], seed: int) -> None:
        dice = random.Random(seed)
        try:
            while not over.is_set():
                part(dice)
        finally:
            over.set()  # who fails ends all

    tasks = [Task(run, part, seed) for seed, part in enumerate(parts)]
    try:
        yield over
        over.wait(SECONDS)
    finally:
        over.set()
    for task in tasks:
        task.finish(3 * LONG)


def resize(*buffers: bytearray) -> Callable[[random.Random], None]:
    """Make them longer and shorter, where nobody holds them."""

    def part(dice: random.Random) -> None:
        buffer = dice.choice(buffers)
        with contextlib.suppress(BufferError):
            if len(buffer) > 2 * SIZES[-1] or dice.random() < 0.4:
                del buffer[dice.choice(SIZES) :]
            else:
                buffer.extend(bytes(dice.choice(SIZES)))
        time.sleep(0)

    return part


# ------------------------------------------------------------ buffers


@pytest.mark.skipif(
    not MAY_RESIZE, reason="a bytearray of CPython 3.13 is not safe without the GIL"
)
@pytest.mark.case("C09", "Z08")
def test_buffers_resized_while_they_are_sent_and_filled(few_own_ends):
    """By eight threads"""
    conn, other = (
        end.connection(LengthField(max_frame=1 << 24), timeout=LONG) for end in few_own_ends
    )
    sent = [bytearray(b"x" * size) for size in (10, 5000, 300_000)]
    filled = [bytearray(size) for size in (10, 5000, 1 << 22)]
    last = threading.Event()

    def send(dice: random.Random) -> None:
        one, two = dice.choice(sent), dice.choice(sent)
        with contextlib.suppress(BufferError):
            dice.choice(
                [
                    lambda: conn.send(one),
                    lambda: conn.send(one, two),
                    lambda: conn.send_many([one, two, one]),
                    lambda: conn.send(memoryview(one)[: len(one) // 2]),
                ]
            )()

    def take() -> None:
        dice = random.Random(9)
        while True:
            buffer = dice.choice(filled)
            try:
                size = other.recv_into(buffer)
            except BufferError:  # too small; or another thread has just made it smaller
                if other.recv() == b"last":
                    return
            else:
                if size == 4 and last.is_set():
                    return

    taking = Task(take)
    with racing(send, send, send, resize(*sent), resize(*sent), resize(*filled)):
        pass
    last.set()
    conn.send(b"last")
    taking.finish(3 * LONG)


@pytest.mark.skipif(
    not GIL, reason="CPython's memoryview is not released safely without the GIL"
)
@pytest.mark.case("C09")
def test_views_released_while_they_are_sent(few_own_ends):
    conn, other = (end.connection(timeout=LONG) for end in few_own_ends)
    views = [memoryview(bytes(100_000))]

    def release(dice: random.Random) -> None:
        with contextlib.suppress(BufferError):
            views[0].release()
        views[0] = memoryview(bytearray(dice.choice(SIZES)))

    def send(dice: random.Random) -> None:
        with contextlib.suppress(ValueError):  # it has been released already
            conn.send(views[0])

    def take() -> None:
        while len(other.recv()) != 3:
            pass

    taking = Task(take)
    with racing(send, send, release, release):
        pass
    conn.send(b"end")
    taking.finish(3 * LONG)


@pytest.mark.case("C09")
def test_decoder_fed_by_many_threads():
    """With buffers that others resize; each frame comes out once"""
    data = FIELD.encode(b"message") * 3
    buffers = [bytearray(data) if MAY_RESIZE else data for _ in range(3)]
    holder = [FIELD.decoder(), Netstring().decoder()]

    def feed(dice: random.Random) -> None:
        decoder: Decoder = dice.choice(holder)
        try:
            for message in decoder.feed(dice.choice(buffers)):
                assert isinstance(message, bytes)
            assert decoder.pending >= 0
            decoder.eof()
        except (pysock.FramingError, pysock.IncompleteFrame):
            holder[dice.randrange(2)] = dice.choice([FIELD, Netstring()]).decoder()

    with racing(*[feed] * 6, *([resize(*buffers)] * 2 if MAY_RESIZE else [])):
        pass


@pytest.mark.case("C09")
def test_views_of_messages_outlive_what_they_came_by(tmp_path):
    """Slices are read and dropped by some threads while others receive and close"""
    kept: list[memoryview] = []
    guard = threading.Lock()

    def converse(dice: random.Random) -> None:
        with linked("socketpair", tmp_path) as ends:
            conn, other = (end.connection(timeout=LONG) for end in ends)
            size = dice.choice([200_000, 1_000_000])
            sending = Task(other.send, b"%c" % (size % 251) * size)
            with conn.recv_view() as view:
                with guard:
                    kept.append(view[size // 2 :])
                if dice.random() < 0.5:
                    conn.close()
                assert view[0] == size % 251
            sending.finish()

    def look(dice: random.Random) -> None:
        with guard:
            some = dice.sample(kept, min(len(kept), 3))
            del kept[: max(0, len(kept) - 12)]
        for view in some:
            assert view[0] == view[-1] == len(view) * 2 % 251

    with racing(converse, converse, converse, look, look):
        pass


# ------------------------------------------------------------ connections


def receive(conn: Connection, dice: random.Random) -> None:
    buffer = bytearray(1 << 20)
    way = dice.randrange(5)
    if way == 0:
        conn.recv()
    elif way == 1:
        conn.recv_many()
    elif way == 2:
        conn.recv_into(buffer)
    elif way == 3:
        with conn.recv_view() as view:
            bytes(view[:1])
    else:
        conn.request(b"ask")


def send(conn: Connection, dice: random.Random) -> None:
    message = bytes(dice.choice(SIZES[:6]))
    way = dice.randrange(4)
    if way == 0:
        conn.send(message)
    elif way == 1:
        conn.send_many([message] * 5)
    elif way == 2:
        conn.request_many([message] * 2)
    else:
        conn.flush()


def look(conn: Connection, dice: random.Random) -> None:
    assert conn.pending >= 0 and conn.unsent >= 0 and conn.stats and repr(conn)
    conn.timeout = dice.choice([0.001, 0.01, 0.2])
    conn.framing = dice.choice([FIELD, LengthField(max_frame=1 << 23)])
    pysock.wait([conn], 0)


def end(conn: Connection, dice: random.Random) -> None:
    time.sleep(dice.random() * 0.01)
    way = dice.randrange(4)
    if way == 0:
        conn.shutdown(socket.SHUT_RDWR)
    elif way == 1:
        conn.detach(leftover=True)[0].close()
    conn.close()


@pytest.mark.case("C10", "Z08")
@pytest.mark.parametrize("kind", ["socketpair", "tcp4", "tls", "sslsocket", "pipes"])
def test_connections_closed_while_threads_are_inside(kind, tmp_path):
    """Eight threads in every call, and one that ends the connection"""
    ends = []

    def fresh() -> Any:
        ends.append(stack.enter_context(linked(kind, tmp_path)))
        return [side.connection(timeout=0.2, linger=0.0) for side in ends[-1]]

    def use(call: Callable[[Connection, random.Random], None], side: int) -> Any:
        def part(dice: random.Random) -> None:
            try:
                call(pair[side], dice)
            except (*ENDED, *HELD, RuntimeError, OSError):
                time.sleep(0.001)

        return part

    with contextlib.ExitStack() as stack:
        pair = fresh()
        parts = [use(call, side) for call in (receive, receive, send, look) for side in (0, 1)]
        with racing(*parts) as over:
            stop, dice = time.monotonic() + SECONDS, random.Random(5)
            while time.monotonic() < stop and not over.is_set():
                side = dice.randrange(2)
                with contextlib.suppress(*ENDED, RuntimeError, OSError):
                    end(pair[side], dice)
                old, pair[:] = pair[:], fresh()
                for conn in old:
                    conn.close()
            over.set()
            for conn in pair:
                conn.close()


@pytest.mark.case("C10")
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_connections_dropped_while_threads_are_inside(tmp_path):
    """Nobody but the call refers to it any more"""

    def converse(dice: random.Random) -> None:
        near, far = socket.socketpair()
        conns = [Connection(near, timeout=LONG), Connection(far, timeout=LONG)]
        for conn in conns:
            conn.linger = 0.0
        tasks = [Task(lambda conn=conn: conn.recv()) for conn in conns]
        message = bytes(dice.choice(SIZES[:5]))
        with contextlib.suppress(pysock.ConnectionClosed, ConnectionError):
            conns[0].send(message)
            del conn, conns[0]
            if dice.random() < 0.3:
                gc.collect()
            conns.pop().send(b"to the last one")
        for task in tasks:
            with contextlib.suppress(pysock.ConnectionClosed, ConnectionError):
                assert task.finish() in (message, b"to the last one")

    with racing(converse, converse, converse, converse):
        pass


@unix  # of which there can be a pair for datagrams
@pytest.mark.case("C10")
def test_datagram_sockets_closed_while_threads_are_inside():

    def fresh() -> list[DatagramSocket]:
        pair = socket.socketpair(type=socket.SOCK_DGRAM)
        return [DatagramSocket(sock, 70_000, timeout=0.01) for sock in pair]

    def use(call: Callable[[DatagramSocket, random.Random], object], side: int) -> Any:
        def part(dice: random.Random) -> None:
            with contextlib.suppress(*ENDED, OSError):
                call(pair[side], dice)

        return part

    def receive(sock: DatagramSocket, dice: random.Random) -> None:
        way = dice.randrange(4)
        if way == 0:
            sock.recv()
        elif way == 1:
            sock.recv_many()
        elif way == 2:
            sock.recv_into(bytearray(70_000))
        else:
            sock.recvfrom()

    def send(sock: DatagramSocket, dice: random.Random) -> None:
        message = bytearray(dice.choice(SIZES[:4]))
        dice.choice([lambda: sock.send(message), lambda: sock.send_many([message] * 40)])()

    pair = fresh()
    parts = [use(call, side) for call in (receive, receive, send) for side in (0, 1)]
    with racing(*parts) as over:
        stop, dice = time.monotonic() + SECONDS, random.Random(5)
        while time.monotonic() < stop and not over.is_set():
            time.sleep(dice.random() * 0.005)
            old, pair[:] = pair[:], fresh()
            for sock in old:
                sock.close()
        over.set()
    for sock in pair:
        sock.close()


# ------------------------------------------------------------ servers


@pytest.mark.case("C10", "Z08")
@pytest.mark.parametrize("workers", [0, 4])
def test_connections_of_a_server_closed_from_everywhere(workers):
    """By its clients, by handlers, by other threads, by the server's own end"""
    kept: list[Connection] = []

    def handler(message: bytes, connection: Connection) -> Any:
        kept.append(connection)
        if message[:1] == b"c":
            connection.close()
        elif message[:1] == b"i":
            return iter([memoryview(message), bytearray(message)])
        elif message[:1] == b"v":
            connection.send(memoryview(message)[1:])
        return message

    def talk(dice: random.Random) -> None:
        with (
            contextlib.suppress(*ENDED, OSError),
            pysock.Client(server.address, timeout=LONG, linger=0.0) as client,
        ):
            for _ in range(dice.randrange(20)):
                kind = dice.choices(b"civx", (1, 5, 5, 9))[0]
                client.send(struct.pack("B", kind) + bytes(dice.choice(SIZES[:6])))
                if dice.random() < 0.7:
                    client.recv()

    def close(dice: random.Random) -> None:
        time.sleep(dice.random() * 0.01)
        now = kept[:]  # others change it
        for connection in dice.sample(now, min(2, len(now))):
            connection.close()
        del kept[: max(0, len(kept) - 50)]

    def restart(dice: random.Random) -> None:
        time.sleep(dice.random() * 0.3)
        server.stop(dice.choice([0, 0.05]))
        server.start()

    with serving(handler, workers=workers, linger=0.0) as server:
        with racing(talk, talk, talk, talk, close, close, restart):
            pass
        server.stop(0)
    kept.clear()
