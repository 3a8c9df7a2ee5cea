"""How many clients a server takes, and what it does with bytes that are no frames."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import also_over_tls, over_both
from conftest import TIME_FACTOR, linux, unix
from gate import (
    ECHOES,
    GONE,
    SOON,
    Echo,
    client,
    connected,
    echo,
    ended,
    frame,
    reset,
    warnings_in,
    write,
)
from peers import LONG, SHORT, Task, until

transport = both_ways.transport

# ------------------------------------------------------------ max_connections


@pytest.mark.case("L01", "L14")
@over_both
@pytest.mark.parametrize("handler", ECHOES)
def test_no_more_clients_than_allowed_are_served_at_a_time(handler: Any) -> None:
    """L01, L14: those who wait in the backlog get their turn, all of them."""
    with pysock.Server("127.0.0.1:0", handler, max_connections=3).start() as server:
        most = 0

        def visit(number: int) -> None:
            nonlocal most
            with client(server, linger=0.0) as peer:
                assert peer.request(b"%d" % number) == b"%d" % number
                most = max(most, server.stats["connections"])

        threads = [threading.Thread(target=visit, args=(i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
        assert 1 <= most <= 3
        assert server.stats["accepted"] == 40
        assert server.stats["refused"] == 0


def refused(server: pysock.Server) -> bool:
    """Whether nothing but the end comes, before or after a handshake."""
    try:
        with connected(server) as sock:
            return ended(sock)
    except GONE:
        return True


@pytest.mark.case("L01")
@over_both
@pytest.mark.parametrize("handler", ECHOES)
def test_excess_clients_are_closed_at_once(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """L01."""
    with (
        contextlib.ExitStack() as stack,
        pysock.Server(
            "127.0.0.1:0", handler, max_connections=3, excess="close"
        ).start() as server,
    ):
        peers = [stack.enter_context(client(server)) for _ in range(3)]
        for peer in peers:
            assert peer.request(b"a") == b"a"
        for _ in range(10):
            assert refused(server)
        assert server.stats["refused"] == 10
        assert server.stats["connections"] == 3
        for peer in peers:
            assert peer.request(b"b") == b"b"
        peers[0].close()
        until(lambda: server.stats["connections"] == 2)
        with client(server) as late:
            assert late.request(b"c") == b"c"
    assert all("max_connections" in line for line in warnings_in(caplog))
    assert 5 <= len(warnings_in(caplog)) < 10  # five a second


def leave_with_a_reset(peer: pysock.Client) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def leave_in_a_frame(peer: pysock.Client) -> None:
    write(peer, b"\0\0\0\x09abc")
    peer.close()


def send_garbage(peer: pysock.Client) -> None:
    write(peer, b"\xff" * 4)
    assert list(peer) == []


def stay_too_long(peer: pysock.Client) -> None:
    assert list(peer) == []


def make_it_fail(peer: pysock.Client) -> None:
    peer.send(b"fail")
    assert list(peer) == []


def have_it_closed(peer: pysock.Client) -> None:
    peer.send(b"close")
    assert list(peer) == []


@pytest.mark.case("L01")
@over_both
@pytest.mark.parametrize(
    "leave",
    [
        pysock.Client.close,
        leave_with_a_reset,
        leave_in_a_frame,
        send_garbage,
        stay_too_long,
        make_it_fail,
        have_it_closed,
    ],
)
def test_place_is_free_again_however_its_client_ended(leave: Any) -> None:
    """Of one client at a time, the next waits already."""

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message == b"fail":
            raise ZeroDivisionError
        if message == b"close":
            connection.close()
        return message

    # The others may be slow.
    idle = 0.2 * TIME_FACTOR if leave is stay_too_long else None
    with pysock.Server(
        "127.0.0.1:0", handler, max_connections=1, idle_timeout=idle
    ).start() as server:

        def visit() -> None:
            with client(server) as second:
                assert second.request(b"b") == b"b"

        for _ in range(3):
            with client(server) as first:
                assert first.request(b"a") == b"a"
                visiting = Task(visit)
                visiting.join(SHORT)
                assert visiting.is_alive()
                leave(first)
                visiting.finish()


@pytest.mark.case("D02")
@over_both
def test_waiting_client_that_has_gone_is_passed_over() -> None:
    """D02: reset in the backlog, before it was accepted."""
    with (
        pysock.Server("127.0.0.1:0", echo, max_connections=1).start() as server,
        client(server) as first,
    ):
        assert first.request(b"a") == b"a"
        for sent in (b"", b"\0", frame(b"x")):
            with socket.create_connection(server.server_address) as sock:
                sock.sendall(sent)
                reset(sock)
        first.close()
        with client(server) as second:
            assert second.request(b"b") == b"b"


CLAMPED = """
import logging, resource, sys, pysock
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with pysock.Server("127.0.0.1:0", bytes.upper, workers=4) as server:
    print(server.max_connections, server.server_address[1], flush=True)
    server.start()
    sys.stdin.readline()
    print(server.stats["connections"], flush=True)
"""


@unix
def test_more_connections_than_descriptors_are_not_taken() -> None:
    """With one line in the log; who is too many waits, and nothing fails."""
    with (
        contextlib.ExitStack() as stack,
        subprocess.Popen(
            [sys.executable, "-P", "-c", CLAMPED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None and process.stdin is not None
        assert "RLIMIT_NOFILE" in process.stdout.readline()
        room, port = process.stdout.readline().split()
        assert room == "32"
        address = ("127.0.0.1", int(port))
        peers = [
            stack.enter_context(pysock.Client(address, timeout=SOON, linger=0.0))
            for _ in range(50)
        ]
        for peer in peers[:32]:
            assert peer.request(b"a") == b"A"
        for peer in peers[:32]:
            peer.close()
        for peer in peers[32:]:
            assert peer.request(b"b") == b"B"
        process.stdin.write("\n")
        process.stdin.flush()
        lines = process.stdout.read().splitlines()
        assert lines[-1] == "18"
        assert all("max_connections" in line for line in lines[:-1])


SHORTAGE = """
import os, resource, sys, time, pysock
with pysock.Server("127.0.0.1:0", bytes.upper, workers=2) as server:
    server.start()
    with pysock.Client(server.address, timeout=9) as peer:
        peer.request(b"both threads are there")
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    kept = []
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    print(server.server_address[1], flush=True)
    sys.stdin.readline()
    before = time.process_time()
    time.sleep(float(sys.argv[1]))
    print((time.process_time() - before) / float(sys.argv[1]), flush=True)
    for number in kept:
        os.close(number)
    sys.stdin.readline()
"""


@pytest.mark.case("L05")
@linux
def test_server_without_descriptors_waits_for_some() -> None:
    """L05: it does not spin, and serves those who came meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SHORTAGE, str(0.5 * TIME_FACTOR)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        port = int(process.stdout.readline())
        with pysock.Client(("127.0.0.1", port), timeout=SOON) as peer:
            process.stdin.write("\n")
            process.stdin.flush()
            assert float(process.stdout.readline()) < 0.2
            assert peer.request(b"a") == b"A"
        _, errors = process.communicate("\n")
        assert 1 <= errors.count("cannot accept for now") <= 10


@pytest.mark.case("X05")
@linux
def test_server_starts_where_many_descriptors_are_open() -> None:
    """select() can do no number above 1,023."""
    program = """
import os, resource, pysock
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
with pysock.Server("127.0.0.1:0", bytes.upper) as server:
    for _ in range(2):
        server.start()
        with pysock.Client(server.address, timeout=9) as peer:
            assert peer.request(b"a") == b"A"
        server.stop(drain=1)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=LONG
    )
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------ bytes that are no frames


FRAMES = {
    "max+1": bytes([0, 16, 0, 1]),  # H02
    **{f"{n:x}": n.to_bytes(4, "big") for n in (2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)},
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",  # H07
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # H08
    "ssh": b"SSH-2.0-x\r\n",
    "proxy v2": b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c" + bytes(12),  # H21
    "proxy v1": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "random": b"\xee" + Random(1).randbytes(65535),
}


@pytest.mark.case("H02", "H03", "H07", "H08", "H21")
@also_over_tls(
    "what,handler",
    [(what, handler) for what in FRAMES for handler in (echo, Echo)],
    [("max+1", echo), ("ffffffff", Echo), ("random", echo)],
)
def test_bad_bytes_end_their_connection_only(
    what: str, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """H02, H03, H07, H08, H21: one line in the log, nothing is echoed, others are served."""
    with (
        pysock.Server(
            "127.0.0.1:0", handler, framing=pysock.LengthField(max_frame=1 << 20)
        ).start() as server,
        connected(server) as sock,
        client(server) as good,
    ):
        assert good.request(b"before") == b"before"
        with contextlib.suppress(*GONE):  # where the server has had enough of it
            sock.sendall(FRAMES[what])
        assert ended(sock)
        assert good.request(b"after") == b"after"
        assert server.stats["handler_errors"] == 0
    (line,) = warnings_in(caplog)
    assert "exceeds 1048576" in line
    assert len(line) < 500
    assert line.isprintable()


@contextlib.contextmanager
def flooder(server: pysock.Server) -> Iterator[Any]:
    """A process that sends a bad header and goes on sending as fast as it can."""
    program = """
import os, socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.sendall(b"\\xff" * 4)
    part = (b"x" * 1023 + b"\\n") * 4096
    try:
        while True:
            sock.sendall(part)
    except OSError:
        print("ended", flush=True)
"""
    port = str(server.server_address[1])
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program, port], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.case("H09", "D06")
def test_client_that_sends_on_and_on_after_bad_bytes_is_rid_of() -> None:
    """H09, D06: and nobody waits while its rubbish is read away."""
    with (
        contextlib.ExitStack() as stack,
        pysock.Server("127.0.0.1:0", echo, linger=0.2 * TIME_FACTOR).start() as server,
        client(server) as good,
    ):
        bad = [stack.enter_context(flooder(server)) for _ in range(2)]
        worst = 0.0
        while any(process.poll() is None for process in bad):
            began = time.monotonic()
            assert good.request(b"a") == b"a"
            worst = max(worst, time.monotonic() - began)
            time.sleep(0.002)
        assert worst < SOON / 5
        assert [process.stdout.read() for process in bad] == ["ended\n"] * 2


@over_both
def test_frames_before_bad_bytes_are_answered_by_a_session() -> None:
    with pysock.Server("127.0.0.1:0", Echo).start() as server, connected(server) as sock:
        sock.sendall(frame(b"a") + b"\xff" * 4)
        assert pysock.recv_exactly(sock, 5) == frame(b"a")
        assert ended(sock)


@pytest.mark.case("H06")
@over_both
def test_empty_messages_are_messages() -> None:
    """H06."""
    with pysock.Server("127.0.0.1:0", echo).start() as server, client(server) as peer:
        messages = [b"", b"x", b"", b"", b"", b"y"]
        assert peer.request_many(messages) == messages


@unix
def test_line_that_never_ends_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    framing = pysock.Delimiter(max_frame=100_000)
    with (
        pysock.Server(tmp_path / "s", echo, framing=framing).start() as server,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.connect(server.server_address)
        sock.settimeout(SOON)
        with contextlib.suppress(OSError):  # where the server has had enough of it
            sock.sendall(b"x" * 300_000)
        assert ended(sock)
    (line,) = warnings_in(caplog)
    assert "100000" in line


@over_both
def test_bad_trailer_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    framing = pysock.LengthField(trailer=b"\r\n")
    with (
        pysock.Server("127.0.0.1:0", echo, framing=framing).start() as server,
        connected(server) as sock,
    ):
        good = framing.encode(bytes(100_000))
        sock.sendall(good + good[:-2] + b"!!")
        assert pysock.recv_exactly(sock, len(good)) == good
        assert ended(sock)
        until(lambda: server._loop and server._loop._memory.used == 0)
    assert len(warnings_in(caplog)) == 1
