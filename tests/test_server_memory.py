"""A server's memory: all large frames together, idle connections, clients that stall."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import over_both
from conftest import TIME_FACTOR
from gate import SOON, client, connected, ended, frame, reset, serving
from peers import LONG, Task, until

transport = both_ways.transport

GRACE = 0.2 * TIME_FACTOR
KIB, MIB = 1 << 10, 1 << 20


def head(size: int) -> bytes:
    return struct.pack(">I", size)


def used(server: pysock.Server) -> int:
    memory = server._loop and server._loop._memory
    return memory.used if memory else 0  # it may just be starting


def size_of(message: bytes) -> bytes:
    return b"%d" % len(message)


class Sizes(pysock.Session):
    def handle(self) -> None:
        for message in self.connection:
            self.connection.send(size_of(message))


HANDLERS = [pytest.param(size_of, id="handler"), pytest.param(Sizes, id="session")]


def stall(server: pysock.Server, sock: socket.socket, size: int) -> None:
    """Send all of a frame but its last byte; return when the server has it."""
    before = server.stats["bytes_in"]
    sock.sendall(head(size) + bytes(size - 1))
    until(lambda: server.stats["bytes_in"] == before + size + 3)


@contextlib.contextmanager
def used_up(handler: Any) -> Iterator[tuple[pysock.Server, socket.socket]]:
    """A server whose memory one client has all of, whose last byte is still to come."""
    with (
        serving(handler, max_memory=MIB) as server,
        connected(server) as first,
    ):
        stall(server, first, 2 * MIB)
        yield server, first


# ------------------------------------------------------------ as the server counts


@over_both
@pytest.mark.parametrize("handler", HANDLERS)
def test_frames_that_do_not_fit_together_come_one_after_another(handler: Any) -> None:
    """All arrive in the end, and meanwhile no more is used than one is larger."""
    size, count, limit = 3 * MIB, 12, 4 * MIB
    most = 0
    with pysock.Server("127.0.0.1:0", handler, max_memory=limit).start() as server:

        def send(rounds: int) -> None:
            with client(server) as peer:
                peer.timeout = LONG
                for _ in range(rounds):
                    assert peer.request(bytes(size)) == b"%d" % size

        tasks = [Task(send, 3) for _ in range(count)]
        while any(task.is_alive() for task in tasks):
            most = max(most, used(server))
            time.sleep(0.0005)
        for task in tasks:
            task.finish()
        assert limit // 2 < most <= limit + size
        until(lambda: used(server) == 0)


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("size", [1, 8 * KIB, 60 * KIB, 64 * KIB - 4, 64 * KIB])
def test_frames_up_to_64_kib_never_wait(size: int, handler: Any) -> None:
    with used_up(handler) as (server, first), client(server) as peer:
        assert used(server) > MIB
        for _ in range(3):
            assert peer.request(bytes(size)) == b"%d" % size
        first.sendall(b"x")
        until(lambda: used(server) == 0)


@over_both
@pytest.mark.parametrize("handler", HANDLERS)
def test_frame_above_64_kib_waits_for_memory(handler: Any) -> None:
    with used_up(handler) as (server, first), client(server) as peer:
        peer.send(bytes(64 * KIB + 1))
        peer.timeout = GRACE
        with pytest.raises(TimeoutError):
            peer.recv()
        first.sendall(b"x")
        peer.timeout = SOON
        assert peer.recv() == b"%d" % (64 * KIB + 1)
        until(lambda: used(server) == 0)


@over_both
@pytest.mark.parametrize("handler", HANDLERS)
def test_frame_larger_than_all_memory_is_received_alone(handler: Any) -> None:
    with pysock.Server("127.0.0.1:0", handler, max_memory=1).start() as server:
        peers = [client(server) for _ in range(4)]
        tasks = [Task(peer.request, bytes(MIB + i)) for i, peer in enumerate(peers)]
        assert [task.finish() for task in tasks] == [b"%d" % (MIB + i) for i in range(4)]
        for peer in peers:
            peer.close()
        until(lambda: used(server) == 0)


@over_both
@pytest.mark.parametrize("handler", HANDLERS)
def test_none_lifts_the_limit(handler: Any) -> None:
    with (
        contextlib.ExitStack() as stack,
        pysock.Server("127.0.0.1:0", handler, max_memory=None).start() as server,
        client(server) as peer,
    ):
        for _ in range(4):
            stall(server, stack.enter_context(connected(server)), 2 * MIB)
        assert peer.request(bytes(MIB)) == b"%d" % MIB
        server.stop(drain=0)


# ------------------------------------------------------------ who holds it and does not go on


@over_both
@pytest.mark.parametrize("handler", HANDLERS)
def test_client_that_stalls_in_front_is_cut_and_the_next_goes_on(handler: Any) -> None:
    """And waiting for memory is not slowness: who was kept waiting is not cut."""
    options: dict[str, Any] = {"max_memory": MIB, "minimum_rate": (GRACE, 1e7)}
    with pysock.Server("127.0.0.1:0", handler, **options).start() as server:
        with connected(server) as first, contextlib.ExitStack() as stack:
            stall(server, first, 2 * MIB)
            peers = [stack.enter_context(client(server)) for _ in range(4)]
            tasks = [Task(peer.request, bytes(MIB)) for peer in peers]
            for task in tasks:
                assert task.finish() == b"%d" % MIB
            assert server.stats["overdue"] == 1
        until(lambda: used(server) == 0)


@pytest.mark.parametrize("handler", HANDLERS)
def test_waiting_for_memory_is_not_slowness(handler: Any) -> None:
    """Many times the grace, while one in front is slow enough to live."""
    options: dict[str, Any] = {"max_memory": MIB, "minimum_rate": (GRACE, 1000.0)}
    with (
        pysock.Server("127.0.0.1:0", handler, **options).start() as server,
        connected(server) as first,
        client(server) as peer,
    ):
        first.sendall(head(2 * MIB) + bytes(1500 * KIB))
        until(lambda: used(server) > MIB)
        waiting = Task(peer.request, bytes(MIB))
        for _ in range(20):
            first.sendall(bytes(2000))
            time.sleep(GRACE / 4)
        assert waiting.is_alive()
        assert server.stats["overdue"] == 0
        first.sendall(bytes(2 * MIB - 1500 * KIB - 40_000))
        assert waiting.finish() == b"%d" % MIB


def leave(sock: socket.socket) -> None:
    sock.close()


@over_both
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("end", [leave, reset])
def test_connection_that_ends_gives_its_memory_back(handler: Any, end: Any) -> None:
    with pysock.Server("127.0.0.1:0", handler, max_memory=MIB).start() as server:
        for _ in range(3):
            with connected(server) as first, client(server) as peer:
                stall(server, first, 2 * MIB)
                waiting = Task(peer.request, bytes(MIB))
                until(lambda: server.stats["connections"] == 2)
                end(first)
                assert waiting.finish() == b"%d" % MIB
            until(lambda: used(server) == 0)


@over_both
@pytest.mark.parametrize("kind", ["session", "handler"])
def test_one_that_gave_up_before_it_got_memory_is_forgotten(kind: str) -> None:
    """Else it would stand first in the order for ever, and no other be allowed to go on."""
    limit = 512 * KIB
    impatient = threading.Event()

    class Session(pysock.Session):
        def handle(self) -> None:
            message = self.connection.recv()
            if message == b"impatient":
                self.connection.timeout = GRACE
                impatient.set()
            with contextlib.suppress(TimeoutError):
                self.connection.send(size_of(self.connection.recv()))

    def handler(message: bytes, connection: pysock.Connection) -> bytes | None:
        if message != b"impatient":
            return size_of(message)
        connection.timeout = GRACE
        impatient.set()
        with contextlib.suppress(TimeoutError):
            return size_of(connection.recv())
        connection.close()
        return None

    handlers: dict[str, Any] = {"session": Session, "handler": handler}
    options: dict[str, Any] = {"max_memory": limit, "linger": 0.0}
    with pysock.Server("127.0.0.1:0", handlers[kind], **options).start() as server:
        size = 600 * KIB
        patient = b"" if kind == "handler" else frame(b"patient")
        answer = frame(b"%d" % size)
        with connected(server) as first, connected(server) as second:
            first.sendall(patient + head(size) + bytes(size - 1))
            until(lambda: used(server) >= size)
            second.sendall(frame(b"impatient"))
            assert impatient.wait(SOON)
            second.sendall(head(size) + bytes(100))
            assert ended(second)
            first.sendall(b"x")
            assert pysock.recv_exactly(first, len(answer)) == answer
        until(lambda: used(server) == 0 and not server.stats["connections"])
        # Two that have taken half of it each: one of them must be the first.
        with connected(server) as third, connected(server) as fourth:
            for sock in (third, fourth):
                sock.sendall(patient + head(size) + bytes(64 * KIB))
            until(lambda: used(server) >= limit // 2)
            tasks = [Task(sock.sendall, bytes(size - 64 * KIB)) for sock in (third, fourth)]
            for task in tasks:
                task.finish()
            for sock in (third, fourth):
                assert pysock.recv_exactly(sock, len(answer)) == answer


@over_both
def test_stop_serves_those_who_wait_for_memory() -> None:
    with used_up(size_of) as (server, first), client(server) as peer:
        waiting = Task(peer.request, bytes(MIB))
        until(lambda: server.stats["bytes_in"] > 2 * MIB + 4)
        stopping = Task(server.stop)
        until(lambda: server.stopping)
        first.sendall(b"x")
        assert waiting.finish() == b"%d" % MIB
        assert pysock.recv_frame(first, pysock.LengthField()) == b"%d" % (2 * MIB)
        stopping.finish()


@over_both
@pytest.mark.parametrize("handler", HANDLERS)
def test_stop_cuts_those_who_wait_for_memory_at_the_deadline(handler: Any) -> None:
    with used_up(handler) as (server, _), connected(server) as second:
        second.sendall(head(MIB))
        until(lambda: server.stats["bytes_in"] >= 2 * MIB + 7)
        began = time.monotonic()
        server.stop(drain=GRACE)
        assert time.monotonic() - began < GRACE + SOON / 5
        server.start()
        with client(server) as peer:  # of a memory that is all free again
            assert peer.request(bytes(MIB)) == b"%d" % MIB


def of_lines() -> pysock.Server:
    framing = pysock.Delimiter()
    return serving(size_of, framing=framing, max_memory=MIB)


@over_both
def test_buffer_that_a_large_line_has_made_grow_is_not_kept() -> None:
    """Nor is its connection the first in the order for ever."""
    over = threading.Event()
    with of_lines() as server, connected(server) as first, connected(server) as second:
        first.sendall(bytes(2 * MIB) + b"\nalways ")
        assert first.recv(99) == b"%d\n" % (2 * MIB)

        def go_on() -> None:
            while not over.is_set():
                first.sendall(b"begun\nalways ")
                assert first.recv(99) == b"12\n"

        going_on = Task(go_on)
        try:
            second.sendall(bytes(500_000) + b"\n")
            assert second.recv(99) == b"500000\n"
        finally:
            over.set()
            going_on.finish()


@pytest.mark.parametrize("size", [1, 8 * KIB, 60 * KIB, 64 * KIB - 1, 64 * KIB])
def test_lines_up_to_64_kib_never_wait(size: int) -> None:
    with of_lines() as server, connected(server) as first, connected(server) as second:
        first.sendall(bytes(2 * MIB))
        until(lambda: used(server) > MIB)
        for _ in range(3):
            second.sendall(bytes(size) + b"\n")
            assert second.recv(99) == b"%d\n" % size
        server.stop(drain=0)
