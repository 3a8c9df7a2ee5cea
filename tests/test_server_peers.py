"""Server with message handlers: peers that do not read, send rubbish, or go away."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import both_ways
import gate
import pysock
from both_ways import over_both
from conftest import TIME_FACTOR
from gate import SOON, client, connected, frame, reset, warnings_in

upper, transport = gate.upper, both_ways.transport


@over_both
def test_peer_that_does_not_read_holds_nobody() -> None:
    """A reply that would block is parked for writing; others are served meanwhile."""
    large = bytes(8 << 20)

    def handler(message: bytes) -> bytes:
        return large if message == b"large" else message

    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        client(server) as slow,
        client(server) as quick,
    ):
        slow.send_many([b"large", b"after"])
        for i in range(100):
            assert quick.request(b"%d" % i) == b"%d" % i
        assert slow.recv() == large
        assert slow.recv() == b"after"


@pytest.mark.case("L11")
@over_both
def test_endless_iterator_of_replies_is_paused() -> None:
    """Memory follows what the peer takes, not what the iterator could give."""
    given = 0

    def endless(message: bytes) -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield bytes(65536)

    def handler(message: bytes) -> Any:
        return endless(message) if message == b"endless" else message

    with (
        pysock.Server("127.0.0.1:0", handler, linger=0.0).start() as server,
        client(server) as slow,
        client(server) as quick,
    ):
        slow.send(b"endless")
        for _ in range(50):
            assert quick.request(b"x") == b"x"
        before = given
        for _ in range(50):
            assert quick.request(b"x") == b"x"
        assert given - before < 50
        assert slow.recv() == bytes(65536)
        server.stop(drain=0)


@pytest.mark.case("L10")
@over_both
def test_one_busy_connection_does_not_starve_others(upper: pysock.Server) -> None:
    """L10."""
    stop = threading.Event()

    def flood(peer: pysock.Client) -> None:
        while not stop.is_set():
            peer.request_many([b"x" * 100] * 2000)

    with client(upper) as busy, client(upper) as quiet:
        thread = threading.Thread(target=flood, args=(busy,))
        thread.start()
        try:
            for _ in range(50):
                assert quiet.request(b"q") == b"Q"
        finally:
            stop.set()
            thread.join()


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c",
    b"\xff" * 65536,
]


@pytest.mark.case("H07", "H09")
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused_with_one_line_in_the_log(
    garbage: bytes, upper: pysock.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """H07, H09."""
    small = pysock.LengthField(max_frame=1000)
    with (
        pysock.Server("127.0.0.1:0", bytes.upper, framing=small).start() as server,
        socket.create_connection(server.server_address) as sock,
        client(server) as good,
    ):
        sock.settimeout(SOON)
        sock.sendall(garbage)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
        assert good.request(b"ok") == b"OK"
    (line,) = warnings_in(caplog)
    assert "exceeds 1000" in line


@over_both
def test_frames_before_garbage_are_answered(upper: pysock.Server) -> None:
    with connected(upper) as sock:
        sock.sendall(frame(b"a") + b"\xff\xff\xff\xff")
        assert pysock.recv_exactly(sock, 5) == frame(b"A")
        assert sock.recv(1) == b""


@pytest.mark.case("D07")
def test_client_that_half_closes_gets_its_reply(upper: pysock.Server) -> None:
    """D07."""
    with client(upper) as peer:
        peer.send(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert list(peer) == [b"LAST"]


@pytest.mark.case("D01")
def test_stream_that_ends_inside_a_frame_is_logged(
    upper: pysock.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """D01."""
    with socket.create_connection(upper.server_address) as sock:
        sock.settimeout(SOON)
        sock.sendall(b"\0\0\0\x09abc")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    assert "after 7 of 13 bytes" in caplog.text


@pytest.mark.case("D02")
@over_both
def test_reset_by_the_peer_harms_nobody(upper: pysock.Server) -> None:
    """D02."""
    with client(upper) as good:
        for sent in (b"", b"\0\0", frame(b"x")):
            with connected(upper) as sock:
                sock.sendall(sent)
                reset(sock)
            assert good.request(b"here") == b"HERE"


@pytest.mark.case("D04")
@over_both
def test_last_reply_arrives_although_input_is_unread() -> None:
    """D04: closing over unread input would destroy what is on its way."""
    large = bytes(1 << 20)

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message == b"stop":
            raise ZeroDivisionError
        return large

    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        connected(server, 65536) as sock,
    ):
        sock.sendall(frame(b"large") + frame(b"stop") + b"unread")
        assert pysock.recv_exactly(sock, 4 + len(large)) == frame(large)
        assert sock.recv(1) == b""


@pytest.mark.case("L08")
@over_both
def test_idle_connections_hold_no_buffer(upper: pysock.Server) -> None:
    """L08, as far as buffers go: nothing is pending, and each has been served."""
    peers = [client(upper) for _ in range(50)]
    try:
        for peer in peers:
            assert peer.request(b"x" * 2000) == b"X" * 2000
            assert peer.pending == 0
    finally:
        for peer in peers:
            peer.close()


@pytest.mark.case("L01")
def test_max_connections_makes_the_next_client_wait() -> None:
    """L01: one client at a time, the next one waits in the backlog."""
    with pysock.Server("127.0.0.1:0", bytes.upper, max_connections=1).start() as server:
        first, second = client(server), client(server)
        with first, second:
            assert first.request(b"a") == b"A"
            second.send(b"b")
            second.settimeout(0.1 * TIME_FACTOR)
            with pytest.raises(TimeoutError):
                second.recv()
            first.close()
            second.settimeout(SOON)
            assert second.recv() == b"B"
