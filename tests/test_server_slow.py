"""Limits in time: clients that are idle, too slow, or do not read, and those that are none."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import also_over_tls, over_both
from conftest import TIME_FACTOR
from gate import ECHOES, GONE, SOON, Echo, client, connected, echo, ended, frame, write
from peers import LONG, until

transport = both_ways.transport

IDLE = 0.15 * TIME_FACTOR
GRACE = 0.15 * TIME_FACTOR


def write_slowly(sock: socket.socket, data: bytes, size: int, pause: float) -> int:
    """Send pieces of *size* with pauses between; return how many bytes went."""
    sent = 0
    with contextlib.suppress(*GONE):
        for at in range(0, len(data), size):
            sent += sock.send(data[at : at + size])
            time.sleep(pause)
    return sent


# ------------------------------------------------------------ idle


@over_both
@pytest.mark.parametrize("handler", ECHOES)
@pytest.mark.parametrize("asks", [0, 1])
def test_idle_connection_is_closed(
    handler: Any, asks: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pysock.Server("127.0.0.1:0", handler, idle_timeout=IDLE).start() as server:
        began = time.monotonic()  # before the server has the connection
        with client(server) as peer:
            for _ in range(asks):
                assert peer.request(b"a") == b"a"
            assert list(peer) == []
        assert IDLE <= time.monotonic() - began < SOON
        assert server.stats["overdue"] == 1
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@also_over_tls("handler", [echo, Echo], [echo])
def test_connection_that_is_used_is_not_idle(handler: Any) -> None:
    with (
        pysock.Server("127.0.0.1:0", handler, idle_timeout=IDLE).start() as server,
        client(server) as idle,
        client(server) as peer,
    ):
        for _ in range(12):
            assert peer.request(b"a") == b"a"
            time.sleep(IDLE / 4)
        assert list(idle) == []
        assert server.stats["overdue"] == 1


class Works(pysock.Session):
    def handle(self) -> None:
        message = self.connection.recv()
        time.sleep(3 * IDLE)
        self.connection.send(message)


def work(message: bytes) -> bytes:
    time.sleep(3 * IDLE)
    return message


@also_over_tls("handler", [work, Works], [Works])
def test_client_that_waits_for_its_answer_is_not_idle(handler: Any) -> None:
    with (
        pysock.Server("127.0.0.1:0", handler, idle_timeout=IDLE).start() as server,
        client(server) as peer,
    ):
        assert peer.request(b"a") == b"a"
        assert server.stats["overdue"] == 0


@pytest.mark.parametrize("handler", ECHOES)
def test_client_that_trickles_is_not_idle(handler: Any) -> None:
    """It is slow, which another limit is for."""
    with (
        pysock.Server(
            "127.0.0.1:0", handler, idle_timeout=IDLE, minimum_rate=None
        ).start() as server,
        connected(server) as sock,
    ):
        assert write_slowly(sock, frame(bytes(12)), 1, IDLE / 4) == 16
        assert pysock.recv_exactly(sock, 16) == frame(bytes(12))
        assert server.stats["overdue"] == 0


@over_both
def test_handler_that_waits_for_a_silent_client_is_let_go() -> None:
    """The client is as idle as between two messages, and holds a thread besides."""
    ended_by: list[BaseException] = []

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        try:
            return connection.recv()
        except BaseException as exc:
            ended_by.append(exc)
            raise

    with (
        pysock.Server("127.0.0.1:0", handler, idle_timeout=IDLE).start() as server,
        client(server) as peer,
    ):
        peer.send(b"more follows")
        assert list(peer) == []
        until(lambda: ended_by)
        assert isinstance(ended_by[0], pysock.ConnectionClosed)
        assert server.stats["overdue"] == 1


def test_without_limits_nobody_is_looked_at() -> None:
    with (
        pysock.Server(
            "127.0.0.1:0", echo, idle_timeout=None, send_timeout=None, minimum_rate=None
        ).start() as server,
        client(server) as peer,
    ):
        assert peer.request(b"a") == b"a"
        until(lambda: server._loop and server._loop._crew.next_at == math.inf)


# ------------------------------------------------------------ a server that was held up


@also_over_tls(
    "limit,workers",
    [
        (limit, workers)
        for limit in ("idle_timeout", "minimum_rate", "send_timeout")
        for workers in (0, 1)
    ],
    [("minimum_rate", 1), ("send_timeout", 0)],
)
def test_time_that_the_server_was_busy_is_not_the_clients(limit: str, workers: int) -> None:
    """What has come, or was taken, meanwhile counts before anybody is cut."""
    entered = threading.Event()
    large = bytes(8 << 20)

    def handler(message: bytes) -> bytes:
        if message == b"hold up":
            entered.set()
            time.sleep(3 * IDLE)
        return large if message == b"large" else message

    options: dict[str, Any] = {limit: (GRACE, 1e9) if limit == "minimum_rate" else IDLE}
    with (
        pysock.Server("127.0.0.1:0", handler, workers=workers, **options).start() as server,
        client(server) as busy,
        client(server) as peer,
    ):
        assert peer.request(b"known") == b"known"
        assert busy.request(b"known") == b"known"
        time.sleep(IDLE / 4)
        if limit == "minimum_rate":
            write(peer, b"\0\0\0\2a")
        if limit == "send_timeout":
            peer.send(b"large")
        time.sleep(IDLE / 4)  # the server has looked at it
        busy.send(b"hold up")
        assert entered.wait(SOON)
        if limit == "idle_timeout":
            peer.send(b"b")
            assert peer.recv() == b"b"
        elif limit == "minimum_rate":
            write(peer, b"b")
            assert peer.recv() == b"ab"
        else:
            assert peer.recv() == large


# ------------------------------------------------------------ minimum rate


@pytest.mark.case("H04", "H05", "P09")
@also_over_tls(
    "came,size,handler",
    [
        (came, size, handler)
        for came in ("part of the header", "a byte")
        for size in (2, 100_000)
        for handler in (echo, Echo)
    ],
    [("part of the header", 2, Echo), ("a byte", 100_000, echo)],
)
def test_frame_that_stops_is_cut(
    handler: Any, size: int, came: str, caplog: pytest.LogCaptureFixture
) -> None:
    """H04, H05, P09: with one line in the log, and others served meanwhile."""
    count = {"part of the header": 3, "a byte": 5}[came]
    with (
        pysock.Server("127.0.0.1:0", handler, minimum_rate=(GRACE, 1e6)).start() as server,
        connected(server) as sock,
        client(server) as other,
    ):
        began = time.monotonic()
        sock.sendall(frame(bytes(size))[:count])
        assert other.request(b"a") == b"a"
        assert ended(sock)
        assert GRACE <= time.monotonic() - began < SOON
        assert other.request(b"b") == b"b"
        assert server.stats["overdue"] == 1
    lines = [r for r in caplog.records if "too slowly" in r.getMessage()]
    assert len(lines) == 1


@pytest.mark.case("P08")
@also_over_tls("handler", [echo, Echo], [echo])
def test_drip_does_not_put_the_end_off(handler: Any) -> None:
    """P08: the limit is one for the whole frame, not for each byte."""
    with (
        pysock.Server("127.0.0.1:0", handler, minimum_rate=(GRACE, 1e6)).start() as server,
        connected(server) as sock,
    ):
        sent = write_slowly(sock, frame(bytes(200)), 1, GRACE / 5)
        assert 4 <= sent < 50
        assert ended(sock)


@pytest.mark.case("P09")
@over_both
def test_rate_decides_after_the_grace() -> None:
    """P09: too few bytes a second are cut, enough are not."""
    rate = 20_000 / TIME_FACTOR
    with (
        pysock.Server("127.0.0.1:0", echo, minimum_rate=(GRACE, rate)).start() as server,
        connected(server) as slow,
        connected(server) as quick,
    ):
        sizes: dict[str, int] = {}

        def write(name: str, sock: socket.socket, size: int) -> None:
            sizes[name] = write_slowly(sock, frame(bytes(100_000)), size, GRACE / 10)

        threads = [
            threading.Thread(target=write, args=("slow", slow, 100)),  # 5 kB/s
            threading.Thread(target=write, args=("quick", quick, 2500)),  # 125 kB/s
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sizes["quick"] == 100_004
        assert sizes["slow"] < 50_000
        assert pysock.recv_exactly(quick, 100_004) == frame(bytes(100_000))
        assert ended(slow)


@over_both
def test_what_came_quickly_does_not_pay_for_a_stall() -> None:
    """Else a megabyte sent at once would buy a quarter of an hour of silence."""
    with (
        pysock.Server("127.0.0.1:0", echo, minimum_rate=(GRACE, 1024.0)).start() as server,
        connected(server) as sock,
    ):
        data = frame(bytes(1 << 20))
        sock.sendall(data[:5])
        until(lambda: server.stats["bytes_in"] == 5)
        time.sleep(GRACE / 2)  # the server has taken notice of the frame
        sock.sendall(data[5:-1])
        assert ended(sock)


@also_over_tls("handler", [echo, Echo], [Echo])
def test_pause_within_the_grace_does_no_harm(handler: Any) -> None:
    with (
        pysock.Server("127.0.0.1:0", handler, minimum_rate=(GRACE, 1e6)).start() as server,
        connected(server) as sock,
    ):
        for _ in range(4):
            sock.sendall(b"\0\0\0\x02a")
            time.sleep(GRACE / 3)
            sock.sendall(b"b")
            assert pysock.recv_exactly(sock, 6) == b"\0\0\0\x02ab"


@pytest.mark.parametrize("handler", ECHOES)
def test_many_small_frames_are_not_one_slow_frame(handler: Any) -> None:
    """Although there is always a piece of one when the server looks."""
    data = frame(b"abc") * 60
    with (
        pysock.Server("127.0.0.1:0", handler, minimum_rate=(GRACE, 1e6)).start() as server,
        connected(server) as sock,
    ):
        sock.sendall(data[:1])
        assert write_slowly(sock, data[1:], 7, GRACE / 15) == len(data) - 1
        assert pysock.recv_exactly(sock, len(data)) == data
        assert server.stats["overdue"] == 0


def test_frame_has_its_own_grace_after_an_idle_time() -> None:
    with (
        pysock.Server("127.0.0.1:0", echo, minimum_rate=(GRACE, 1e6)).start() as server,
        connected(server) as sock,
    ):
        time.sleep(3 * GRACE)
        sock.sendall(b"\0\0\0\x02a")
        time.sleep(GRACE / 2)
        sock.sendall(b"b")
        assert pysock.recv_exactly(sock, 6) == b"\0\0\0\x02ab"


@over_both
def test_frame_behind_a_slow_handler_has_its_own_grace() -> None:
    with (
        pysock.Server("127.0.0.1:0", work, minimum_rate=(GRACE, 1e6)).start() as server,
        connected(server) as sock,
    ):
        sock.sendall(frame(b"1") + b"\0\0\0\x02a")
        assert pysock.recv_exactly(sock, 5) == frame(b"1")
        time.sleep(GRACE / 2)
        sock.sendall(b"b")
        assert pysock.recv_exactly(sock, 6) == b"\0\0\0\x02ab"


@over_both
def test_handler_that_receives_a_frame_which_stops_is_let_go() -> None:
    with (
        pysock.Server(
            "127.0.0.1:0", lambda _, peer: peer.recv(), minimum_rate=(GRACE, 1e6)
        ).start() as server,
        connected(server) as sock,
    ):
        sock.sendall(frame(b"first") + b"\0\0\0\x09part")
        assert ended(sock)
        assert server.stats["overdue"] == 1


@pytest.mark.parametrize("kind", ["lifted", "grace for ever"])
def test_rate_that_is_no_limit(kind: str) -> None:
    rate = None if kind == "lifted" else (math.inf, 1.0)
    with (
        pysock.Server(
            "127.0.0.1:0", echo, minimum_rate=rate, idle_timeout=IDLE
        ).start() as server,
        connected(server) as sock,
    ):
        sock.sendall(b"\0\0\0\x02a")
        time.sleep(3 * GRACE)
        sock.sendall(b"b")
        assert pysock.recv_exactly(sock, 6) == b"\0\0\0\x02ab"


# ------------------------------------------------------------ timeout=


@also_over_tls("kind", ["handler", "session"], ["handler"])
def test_timeout_holds_for_calls_on_the_connection(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Session(pysock.Session):
        def handle(self) -> None:
            assert self.connection.timeout == IDLE
            self.connection.recv()
            self.connection.recv()

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        return connection.recv()

    handlers: dict[str, Any] = {"handler": handler, "session": Session}
    with (
        pysock.Server("127.0.0.1:0", handlers[kind], timeout=IDLE).start() as server,
        client(server) as peer,
    ):
        peer.send(b"a")
        assert list(peer) == []
        until(lambda: server.stats["handler_errors"] == 1)
        assert server.stats["overdue"] == 0
    assert "TimeoutError" in caplog.text


def test_timeout_is_none_for_a_connection_between_its_calls() -> None:
    with (
        pysock.Server("127.0.0.1:0", echo, timeout=IDLE / 4).start() as server,
        client(server) as peer,
    ):
        for _ in range(3):
            assert peer.request(b"a") == b"a"
            time.sleep(IDLE)


# ------------------------------------------------------------ handle_request


@contextlib.contextmanager
def serving_one(server: pysock.Server) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    yield thread
    thread.join(LONG)
    assert not thread.is_alive()


@also_over_tls("handler", [echo, Echo], [echo])
def test_limits_hold_in_handle_request(handler: Any) -> None:
    with pysock.Server(
        "127.0.0.1:0", handler, idle_timeout=IDLE, minimum_rate=(GRACE, 1e6)
    ) as server:
        with serving_one(server), client(server) as peer:
            assert peer.request(b"a") == b"a"
            assert list(peer) == []
        with serving_one(server), connected(server) as sock:
            sock.sendall(b"\0\0\0\x02a")
            assert ended(sock)
