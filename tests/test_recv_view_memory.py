"""What messages that are looked at in place cost: memory of one's own, and of a server."""

from __future__ import annotations

import threading

import pytest

import pysock
from conftest import linux, posix
from gate import connected, serving
from peers import (
    LONG,
    Task,
    run_python,
    until,
)
from pysock import ConnectionClosed
from pysock.framing import LengthField

KIB, MIB = 1 << 10, 1 << 20
FIELD = LengthField()
POOLED = 128 * KIB  # from here on the memory comes from the pool


# ------------------------------------------------------------ memory

COUNTED = """
import resource, socket, threading, tracemalloc
import pysock
from pysock.framing import *

a, b = socket.socketpair()
FIELD = LengthField(max_frame=1 << 28)
conn, other = pysock.Connection(a, FIELD, timeout=60), pysock.Connection(b, FIELD, timeout=60)

def sending(*sizes):
    thread = threading.Thread(target=lambda: [other.send(bytes(size)) for size in sizes])
    thread.start()
    return thread

def look(*sizes, keep=None):
    thread = sending(*sizes)
    for size in sizes:
        with conn.recv_view() as view:
            assert len(view) == size
            if keep is not None:
                keep.append(view[:1])
    thread.join()

def used():
    return tracemalloc.get_traced_memory()[0]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

KIB, MIB = 1 << 10, 1 << 20
look(1)
tracemalloc.start()
"""


@posix
@pytest.mark.parametrize("size", ["200 * KIB", "MIB", "10 * MIB", "64 * MIB"])
def test_memory_is_used_again(size):
    code = f"""
size = {size}
message = bytes(size)
before = used()
for _ in range(10):
    thread = threading.Thread(target=other.send, args=[message])
    thread.start()
    with conn.recv_view() as view:
        assert used() - before < size + 64 * KIB
    thread.join()
assert size <= used() - before < size + 64 * KIB
assert tracemalloc.get_traced_memory()[1] - before < size + 256 * KIB
"""
    assert run_python(COUNTED + code) == ""


@posix
def test_slices_have_all_of_their_memory_until_they_go():
    code = """
before, kept = used(), []
look(*[2 * MIB] * 5, keep=kept)
assert used() - before > 10 * MIB
kept.clear()
assert 10 * MIB < used() - before < 11 * MIB  # in the pool now
look(*[2 * MIB] * 5, keep=kept)
assert 10 * MIB < used() - before < 13 * MIB
"""
    assert run_python(COUNTED + code) == ""


@posix
@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ("[8 * MIB] * 20", "64 * MIB"),
        ("[200 * KIB] * 40", "8 * 200 * KIB"),
        ("[64 * MIB, 1 * MIB, 64 * MIB, 200 * KIB]", "64 * MIB"),
        ("[65 * MIB] * 2", "0"),
        ("[100 * KIB] * 20", "0"),
        ("range(130 * KIB, 20 * MIB, MIB)", "64 * MIB"),
    ],
)
def test_pool_is_bounded(sizes, most):
    code = f"""
before, kept = used(), []
look(*{sizes}, keep=kept)
kept.clear()
assert used() - before <= {most} + 64 * KIB, used() - before
look(*{sizes})
assert used() - before <= {most} + 64 * KIB, used() - before
"""
    assert run_python(COUNTED + code) == ""


@posix
def test_small_message_does_not_take_a_large_block():
    """A slice that is kept costs a few times its message, not what came before it"""
    code = """
look(64 * MIB)
before, kept = used(), []
look(*[200 * KIB] * 5, keep=kept)
assert used() - before < 2 * MIB
look(32 * MIB, keep=kept)
assert used() - before < 2 * MIB  # out of the 64 MiB
"""
    assert run_python(COUNTED + code) == ""


@pytest.mark.case("H05")
@linux
@pytest.mark.parametrize("came", [0, 10, 5000, 100_000])
def test_header_that_announces_much_and_then_silence(came):
    """H05"""
    code = f"""
tracemalloc.stop()
conn.timeout = 0.02
before = resident()
b.sendall(FIELD.pack_header(64 << 20) + bytes({came}))
try:
    conn.recv_view().__enter__()
except TimeoutError:
    pass
assert conn.pending >= {came}
assert resident() - before < (1 << 20), resident() - before
"""
    assert run_python(COUNTED + code) == ""


@posix
def test_what_was_begun_and_given_up_leaves_nothing():
    code = """
before = used()
for _ in range(20):
    a, b = socket.socketpair()
    with pysock.Connection(a, timeout=0) as conn, b:
        b.sendall(FIELD.pack_header(64 << 20) + bytes(50_000))
        try:
            conn.recv_view().__enter__()
        except BlockingIOError:
            pass
    del conn
assert used() - before < 8 * 200 * KIB
"""
    assert run_python(COUNTED + code) == ""


@linux
def test_no_memory_for_the_rest_loses_nothing():
    code = """
tracemalloc.stop()
import resource

def leave(size):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + size, resource.RLIM_INFINITY))

message = bytes(200 * MIB)
thread = threading.Thread(target=other.send, args=[message])
thread.start()
leave(100 * MIB)
for _ in range(2):
    try:
        conn.recv_view().__enter__()
    except MemoryError:
        pass
    else:
        raise AssertionError
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with conn.recv_view() as view:
    assert view == message
thread.join()
"""
    assert run_python(COUNTED + code) == ""


# ------------------------------------------------------------ servers


class Sizes(pysock.Session):
    """Answers with the size of each message, which it has looked at."""

    def handle(self) -> None:
        try:
            while True:
                with self.connection.recv_view() as view:
                    self.connection.send(b"%d" % len(view))
        except pysock.IncompleteFrame:
            raise
        except ConnectionClosed:
            pass


def charged(server: pysock.Server) -> int:
    memory = server._loop and server._loop._memory
    return memory.used if memory else 0


def test_session_of_a_server():
    with serving(Sizes) as server, pysock.Client(server.address, timeout=LONG) as client:
        for size in (0, 1, 70_000, POOLED, 3 * MIB, 3 * MIB):
            assert client.request(bytes(size)) == b"%d" % size


def test_memory_of_a_server_counts_views_that_are_under_way():
    """All arrive in the end, and meanwhile no more is used than one is larger."""
    size, count, limit = 3 * MIB, 8, 4 * MIB
    with serving(Sizes, max_memory=limit) as server:

        def send() -> None:
            with pysock.Client(server.address, timeout=LONG) as client:
                for _ in range(3):
                    assert client.request(bytes(size)) == b"%d" % size

        tasks, most = [Task(send) for _ in range(count)], 0
        while any(task.is_alive() for task in tasks):
            most = max(most, charged(server))
        for task in tasks:
            task.finish()
        assert most <= limit + size
        until(lambda: charged(server) == 0)


def test_memory_of_a_server_comes_back_from_sessions_at_the_same_time():
    with serving(Sizes) as server:

        def send() -> None:
            with pysock.Client(server.address, timeout=LONG) as client:
                for _ in range(100):
                    assert client.request_many([bytes(70_000)] * 4) == [b"70000"] * 4

        for task in [Task(send) for _ in range(8)]:
            task.finish()
        until(lambda: not server.stats["connections"])
        assert charged(server) == 0


def test_memory_out_of_the_pool_is_counted_as_bytes_arrive():
    with serving(Sizes, max_memory=16 * MIB) as server, connected(server) as sock:
        for _ in range(2):
            sock.sendall(FIELD.pack_header(8 * MIB) + bytes(100_000))
            until(lambda: charged(server) > 0)
            assert charged(server) <= 4 * 100_000
            sock.sendall(bytes(8 * MIB - 100_000))
            assert pysock.recv_frame(sock, FIELD) == b"%d" % (8 * MIB)
            until(lambda: charged(server) == 0)


def test_message_in_hand_is_not_charged_any_more():
    """As one that recv() has returned"""
    entered, leave = threading.Event(), threading.Event()

    class Holds(pysock.Session):
        def handle(self) -> None:
            with self.connection.recv_view() as view:
                entered.set()
                leave.wait(LONG)
                self.connection.send(view[:3])

    with (
        serving(Holds, max_memory=MIB) as server,
        pysock.Client(server.address, timeout=LONG) as client,
    ):
        client.send(b"abc" + bytes(5 * MIB))
        assert entered.wait(LONG)
        assert charged(server) == 0
        leave.set()
        assert client.recv() == b"abc"
