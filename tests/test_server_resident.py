"""A server's memory as the system counts it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import pysock
from conftest import GIL, TIME_FACTOR, linux
from peers import LONG, Task, run_python

KIB, MIB = 1 << 10, 1 << 20

gives_back = pytest.mark.skipif(
    not GIL, reason="without the GIL Python's own allocator keeps much of what is freed"
)

SERVER = """
import os, pysock, sys
size_of = lambda message: b"%d" % len(message)
server = pysock.Server("127.0.0.1:0", size_of, FRAMING workers=2, max_memory=int(sys.argv[1]))
with server.start():
    print(server.server_address[1], flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def measured(max_memory: int, framing: str = "") -> Iterator[Any]:
    """A server in a process of its own: its port, and a function for its peak in bytes."""
    program = SERVER.replace("FRAMING", f"framing={framing}," if framing else "")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program, str(max_memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        port = int(process.stdout.readline())

        def resident() -> int:
            with open(f"/proc/{process.pid}/status") as file:
                (line,) = (line for line in file if line.startswith("VmHWM"))
            return int(line.split()[1]) * KIB

        yield port, resident
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(LONG) == 0


@linux
@gives_back
def test_many_large_frames_at_once_take_bounded_memory() -> None:
    """10 of 16 MiB, of which 8 MiB are allowed and the first may go beyond."""
    size = 16 * MIB
    with measured(8 * MIB) as (port, resident):
        before = resident()

        def send() -> None:
            with pysock.Client(("127.0.0.1", port), timeout=LONG) as peer:
                for _ in range(2):
                    assert peer.request(bytes(size)) == b"%d" % size

        tasks = [Task(send) for _ in range(10)]
        for task in tasks:
            task.finish(3 * LONG)
        # One more may be with the handler, and one that grows may be copied for a moment.
        assert resident() - before < 8 * MIB + 3 * size + 8 * MIB, (resident() - before) / MIB


@linux
@gives_back
def test_large_lines_take_bounded_memory_too() -> None:
    """Also where the front of a frame does not tell its size."""
    size = 8 * MIB
    with measured(MIB, "pysock.Delimiter()") as (port, resident):
        before = resident()

        def send() -> None:
            with socket.create_connection(("127.0.0.1", port), LONG) as sock:
                sock.sendall(bytes(size) + b"\n")
                assert sock.recv(99) == b"%d\n" % size

        tasks = [Task(send) for _ in range(12)]
        for task in tasks:
            task.finish(3 * LONG)
        assert resident() - before < 8 * size, (resident() - before) / MIB


COUNT = """
import gc, os, resource, socket, struct, sys, threading, time, pysock
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
options = dict(workers=4, max_connections=1100, backlog=1100)
options["minimum_rate"] = (float(sys.argv[1]), 1e6)
with pysock.Server("unix:@pysock-%d" % os.getpid(), bytes.upper, **options) as server:
    peers = []
    for _ in range(1000):
        peers.append(socket.socket(socket.AF_UNIX))
        peers[-1].connect(server.server_address)
        peers[-1].settimeout(30)
    before = resident()
    server.start()
    until(lambda: server.stats["connections"] == 1000)
"""


@pytest.mark.case("L08", "L09")
@linux
def test_a_thousand_idle_connections() -> None:
    """L08, L09: no thread and at most 16 KiB each; when all wake at once all are served."""
    said = run_python(
        COUNT
        + """
    for _ in range(2):
        for peer in peers:
            peer.sendall(struct.pack(">I", 3) + b"abc")
        for peer in peers:
            assert peer.recv(99) == struct.pack(">I", 3) + b"ABC"
    gc.collect()
    assert threading.active_count() <= 6, threading.active_count()
    assert resident() - before < 1000 * 16384, (resident() - before) / 1000
    for peer in peers:
        peer.close()
""",
        "20",
    )
    assert said == ""


@pytest.mark.case("H04", "H05")
@linux
def test_a_thousand_connections_that_announce_much_and_say_no_more() -> None:
    """H04, H05: less than 128 KiB each, and all are cut."""
    said = run_python(
        COUNT
        + """
    import logging
    logging.disable()
    for peer in peers:
        peer.sendall(struct.pack(">I", 64 << 20) + b"ten bytes.")
    until(lambda: server.stats["bytes_in"] == 14000)
    assert resident() - before < 1000 * 20_000, (resident() - before) / 1000
    for peer in peers:
        try:
            assert peer.recv(1) == b""
        except ConnectionResetError:
            pass
        peer.close()
    assert server.stats["overdue"] == 1000
    assert server._loop._memory.used == 0
""",
        str(1.0 * TIME_FACTOR),
    )
    assert said == ""
