"""Memory follows the bytes that came, not the length that was announced."""

from __future__ import annotations

import socket
import tracemalloc

import pytest

import peers
from conftest import GIL, TIME_FACTOR, linux
from peers import SHORT, Task, background, linked, pattern, run_python
from pysock import Connection, wait
from pysock.framing import Delimiter, LengthField, Netstring

paired_ends, few_ends = peers.paired_ends, peers.few_ends

FIELD = LengthField()

# What a process holds is counted in a fresh one: the C library keeps what is freed.
RESIDENT = """
import os, resource, socket, sys, threading
import pysock
from pysock.framing import *

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def time_out(conn):
    try:
        conn.recv()
    except TimeoutError:
        pass

a, b = socket.socketpair()
conn, other = pysock.Connection(a, timeout=0.02), pysock.Connection(b, timeout=10)
other.send(b"x"), conn.recv(), conn.send(b"y"), other.recv(), time_out(conn)
"""


@pytest.mark.case("H05")
@linux
@pytest.mark.parametrize("came", [0, 10, 5000, 100_000])
def test_header_that_announces_much_and_then_silence(came):
    """H05"""
    code = f"""
before = resident()
b.sendall(LengthField().pack_header(64 << 20) + bytes({came}))
time_out(conn)
assert conn.pending >= {came}
assert resident() - before < (1 << 20), resident() - before
"""
    assert run_python(RESIDENT + code) == ""


@pytest.mark.case("H05")
@linux
@pytest.mark.parametrize("call", ["conn.recv()", "conn.recv_view().__enter__()"])
@pytest.mark.parametrize("came", [1, 3, 9, 33])
def test_much_of_what_was_announced_and_then_silence(came, call):
    """H05: no more than twice what came, in MiB"""
    code = f"""
import mmap
before = resident()
b.sendall(LengthField().pack_header(64 << 20))
# Memory that nobody keeps when it is given back.
writing = threading.Thread(target=b.sendall, args=[mmap.mmap(-1, {came} << 20)])
writing.start()
conn.timeout = 0.3
while True:
    try:
        {call}
    except TimeoutError:
        if not writing.is_alive():
            break
writing.join()
del writing
assert conn.pending == len(LengthField().pack_header(0)) + ({came} << 20)
assert resident() - before < (2 * {came} + 1) << 20, resident() - before
"""
    assert run_python(RESIDENT + code) == ""


@pytest.mark.case("H04")
@linux
def test_many_connections_that_announce_much_and_then_silence():
    """H04: 200 of them, 128 KiB each and no more"""
    code = """
pairs = [socket.socketpair() for _ in range(200)]
conns = [pysock.Connection(pair[0], timeout=0) for pair in pairs]
before = resident()
for (_, peer), conn in zip(pairs, conns):
    peer.sendall(LengthField().pack_header(64 << 20) + b"ten bytes.")
    try:
        conn.recv()
    except BlockingIOError:
        pass
assert resident() - before < 200 * 20_000, resident() - before
"""
    assert run_python(RESIDENT + code) == ""


@pytest.mark.case("H02")
@linux
def test_header_that_is_too_large_costs_nothing():
    """H02"""
    code = """
try:
    LengthField().decoder().feed(bytes([255] * 4))  # what explains an error is imported
except pysock.FrameTooLarge:
    pass
before = resident()
b.sendall(b"\\xff\\xff\\xff\\xff")
for _ in range(100):
    try:
        conn.recv()
    except pysock.FrameTooLarge:
        pass
assert resident() - before < (1 << 20), resident() - before
"""
    assert run_python(RESIDENT + code) == ""


@pytest.mark.case("L08")
@linux
@pytest.mark.parametrize("use", ["conn.recv", "lambda: conn.recv_into(bytearray(9))"])
def test_idle_connections_hold_no_buffer(use):
    """500 that have been used, both ways; less than 4 KiB each, without the kernel's part"""
    code = f"""
import gc
gc.collect()
pairs = [socket.socketpair() for _ in range(500)]
before = resident()
conns = [pysock.Connection(pair[0], timeout=0) for pair in pairs]
for conn, (_, peer) in zip(conns, pairs):
    for _ in range(3):
        conn.send(b"question")
        peer.recv(99)
        peer.sendall(b"\\0\\0\\0\\5reply" * 2)
        ({use})(), ({use})()
    try:
        conn.recv()
    except BlockingIOError:
        pass
assert resident() - before < 500 * 4096, (resident() - before) / 500
"""
    assert run_python(RESIDENT + code) == ""


@linux
def test_file_through_a_connection_takes_constant_memory():
    """sendfile and recvfile: 64 MiB through less than 4"""
    code = """
import tempfile
conn.timeout = 30
with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as copy:
    file.truncate(64 << 20)
    before = resident()
    sending = threading.Thread(target=conn.sendfile, args=[file])
    sending.start()
    assert other.recvfile(copy) == 64 << 20
    sending.join()
    assert resident() - before < 4 << 20, resident() - before
"""
    assert run_python(RESIDENT + code) == ""


@linux
def test_rest_of_a_large_message_is_given_back_when_it_has_left():
    code = """
message = bytes(32 << 20)
before = resident()
try:
    conn.send(message)
except TimeoutError:
    pass
assert conn.unsent > 30 << 20
conn.timeout = 10
flushing = threading.Thread(target=conn.flush)
flushing.start()
left = 4 + (32 << 20)
while left:
    left -= len(b.recv(min(left, 1 << 16)))
flushing.join()
assert conn.unsent == 0
assert resident() - before < 2 << 20, resident() - before
"""
    assert run_python(RESIDENT + code) == ""


@linux
def test_many_messages_do_not_add_up():
    """K: what is sent, received, refused and timed out is given back"""
    code = """
conn.timeout = other.timeout = 0
sizes = [0, 10, 5000, 60_000, 150_000]

def some(count):
    for i in range(count):
        message = bytes(sizes[i % len(sizes)])
        try:
            conn.send(message)
        except BlockingIOError:
            pass
        for _ in range(9):
            try:
                other.recv_many() if i % 2 else other.recv()
            except BlockingIOError:
                pass
            if not conn.unsent:
                break
            try:
                conn.flush()
            except BlockingIOError:
                pass
        for call in (lambda: conn.send("refused"), lambda: conn.recv_into(b"read-only")):
            try:
                call()
            except (TypeError, BufferError):
                pass

some(500)
before = resident()
some(5000)
assert resident() - before < 1 << 20, resident() - before
"""
    assert run_python(RESIDENT + code) == ""


LITTLE = """
def leave(extra):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + extra, resource.RLIM_INFINITY))

def fails(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError(kind)
"""


@linux
def test_rest_that_finds_no_memory_ends_sending():
    """And is not followed by another frame, in the middle of its own"""
    code = """
import mmap
conn.framing = LengthField(max_frame=None)
message = mmap.mmap(-1, 300 << 20)
leave(64 << 20)
fails(MemoryError, lambda: conn.send(message))
fails(OSError, lambda: conn.send(b"next"))
other.send(b"x")
assert conn.recv() == b"x"
b.setblocking(False)
received = b""
try:
    while True:
        received += b.recv(1 << 20)
except BlockingIOError:
    assert len(received) > 4
    assert not received[4:].strip(b"\\0")
"""
    assert run_python(RESIDENT + LITTLE + code) == ""


@linux
def test_message_that_finds_no_memory_ends_receiving():
    code = """
conn.framing = LengthField(max_frame=None)
conn.timeout = 10

def write():
    part = bytes(1 << 20)
    try:
        b.sendall(conn.framing.pack_header(1 << 30))
        for _ in range(200):
            b.sendall(part)
    except OSError:
        pass

writing = threading.Thread(target=write)
writing.start()
leave(64 << 20)
fails(MemoryError, conn.recv)
fails(OSError, conn.recv)
conn.send(b"x")
conn.close()
writing.join()
"""
    assert run_python(RESIDENT + LITTLE + code) == ""


@linux
@pytest.mark.skipif(not GIL, reason="CPython's allocator has address space in reserve")
def test_part_that_finds_no_memory_when_recv_into_times_out_ends_receiving():
    """And nothing is written any more to a buffer that was let go"""
    code = f"""
import mmap
conn.framing = LengthField(max_frame=None)
buffer = mmap.mmap(-1, 200 << 20)
part = bytes(1 << 20)

def write():
    b.sendall(conn.framing.pack_header(len(buffer)))
    for _ in range(150):
        b.sendall(part)

writing = threading.Thread(target=write, daemon=True)
conn.timeout = {0.5 * TIME_FACTOR}
writing.start()
leave(64 << 20)
fails(MemoryError, lambda: conn.recv_into(buffer))
writing.join()
buffer.close()
b.sendall(part[:1000])
fails(OSError, conn.recv)
fails(OSError, lambda: conn.recv_into(bytearray(9)))
conn.send(b"x")
"""
    assert run_python(RESIDENT + LITTLE + code) == ""


# ------------------------------------------------------------ as Python counts it


def test_connections_leave_nothing_behind():
    tracemalloc.start()
    try:
        for turn in range(60):
            a, b = socket.socketpair()
            with Connection(a, Netstring()) as conn, Connection(b, Netstring()) as other:
                conn.send(pattern(1000))
                assert other.recv() == pattern(1000)
            if turn == 20:
                before = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[0] - before < 8192
    finally:
        tracemalloc.stop()


def test_message_grows_with_what_has_come(few_ends):
    """Never more than a few times as much"""
    conn, peer = few_ends[0].connection(timeout=SHORT), few_ends[1]
    frame = FIELD.encode(bytes(16 << 20))
    tracemalloc.start()
    try:
        for begin, end in ((0, 5000), (5000, 200_000), (200_000, 2_000_000)):
            writing = Task(peer.write, frame[begin:end])
            while conn.pending < end - 4:
                with pytest.raises(TimeoutError):
                    conn.recv()
            writing.finish()
            assert tracemalloc.get_traced_memory()[0] < 300_000 + 6 * end
    finally:
        tracemalloc.stop()


def test_line_that_never_ends_is_refused_at_the_limit(tmp_path):
    with linked("socketpair", tmp_path) as (near, peer):
        conn = near.connection(Delimiter(max_frame=200_000))
        with background(peer.write, b"x" * 200_001), pytest.raises(ValueError, match="200000"):
            conn.recv()
        assert conn.pending < 400_000


def test_pool_of_buffers_serves_connections_by_turns(tmp_path):
    """One that is drained has given its buffer to the next, bytes and all"""
    with linked("socketpair", tmp_path) as (near, far):
        (tmp_path / "second").mkdir()
        with linked("socketpair", tmp_path / "second") as (third, fourth):
            conns = [near.connection(), third.connection()]
            for i in range(50):
                for peer in (far, fourth):
                    peer.write(FIELD.encode(b"%d" % i * 100) + FIELD.encode(b"z"))
                for conn in conns:
                    assert wait([conn]) == [conn]
                    assert conn.recv() == b"%d" % i * 100
                for conn in conns:
                    assert conn.recv() == b"z"
            assert [conn.pending for conn in conns] == [0, 0]
