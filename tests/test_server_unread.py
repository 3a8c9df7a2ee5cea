"""Clients that do not read: cut after a while, memory bounded, and nobody else held up."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import also_over_tls, over_both
from conftest import TIME_FACTOR, unix
from gate import GONE, LARGE, SOON, client, connected, finish, frame
from peers import LONG, PROMPT, background, until

transport = both_ways.transport

PATIENCE = 0.2 * TIME_FACTOR


class Sends(pysock.Session):
    def handle(self) -> None:
        for message in self.connection:
            self.connection.send(LARGE if message == b"large" else message)


def replies(message: bytes) -> bytes:
    return LARGE if message == b"large" else message


def iterates(message: bytes) -> Any:
    return [bytes(1 << 20)] * 16 if message == b"large" else message


def sends(message: bytes, connection: pysock.Connection) -> None:
    connection.send(LARGE if message == b"large" else message)


WAYS = [replies, iterates, sends, Sends]


@pytest.mark.case("L11")
@over_both
@pytest.mark.parametrize("handler", WAYS)
def test_client_that_does_not_read_is_cut(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """While others are served, and it is nobody's mistake but its own."""
    with (
        pysock.Server("127.0.0.1:0", handler, send_timeout=PATIENCE).start() as server,
        connected(server, 4096) as sock,
        client(server) as other,
    ):
        assert other.request(b"a") == b"a"
        began = time.monotonic()
        sock.sendall(frame(b"large"))
        while server.stats["connections"] == 2:
            assert other.request(b"b") == b"b"
            assert time.monotonic() - began < SOON
        assert time.monotonic() - began > PATIENCE
        assert other.request(b"c") == b"c"
        assert server.stats["overdue"] == 1
        assert server.stats["handler_errors"] == 0
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert ["takes no replies" in line.getMessage() for line in lines] == [True]


@also_over_tls("handler", WAYS, [replies, Sends])
def test_reader_that_is_late_but_comes_is_not_cut(handler: Any) -> None:
    with (
        pysock.Server("127.0.0.1:0", handler, send_timeout=4 * PATIENCE).start() as server,
        client(server) as peer,
    ):
        peer.send_many([b"large", b"after"])
        time.sleep(PATIENCE)
        got = [peer.recv()]
        while got[-1] != b"after":
            got.append(peer.recv())
        assert sum(map(len, got)) == len(LARGE) + 5


@unix
@also_over_tls("handler", [replies, sends, Sends], [replies])
def test_reader_that_is_slow_but_moves_is_not_cut(handler: Any, tmp_path: Path) -> None:
    """Every byte that it takes is progress, not only each third of the system's buffer."""
    limit = 0.4 * TIME_FACTOR
    with (
        pysock.Server(tmp_path / "s", handler, send_timeout=limit).start() as server,
        connected(server, 4096) as sock,
    ):
        sock.sendall(frame(b"large"))
        end = time.monotonic() + 2.5 * limit
        while time.monotonic() < end:
            assert sock.recv(8192) != b""
            time.sleep(0.03 * TIME_FACTOR)
        assert server.stats["overdue"] == 0
        server.stop(drain=0)


@also_over_tls("workers", [0, 1, 2], [2])
def test_clients_that_do_not_read_hold_all_workers_for_a_while_only(workers: int) -> None:
    """The limit must hold also where no thread is left to look for it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            pysock.Server("127.0.0.1:0", sends, workers=workers, send_timeout=PATIENCE)
        ).start()
        for _ in range(max(1, workers)):
            sock = stack.enter_context(connected(server, 4096))
            sock.sendall(frame(b"large"))
        until(lambda: server.stats["messages_in"] == max(1, workers))
        with client(server) as other:
            assert other.request(b"a") == b"a"


def test_client_that_waits_for_workers_is_not_idle_meanwhile() -> None:
    release = threading.Event()

    def handler(message: bytes) -> bytes:
        if message == b"block":
            assert release.wait(LONG)
        return message

    with (
        pysock.Server(
            "127.0.0.1:0", handler, workers=2, idle_timeout=PATIENCE
        ).start() as server,
        client(server) as first,
        client(server) as second,
        client(server) as third,
    ):
        for peer in (first, second, third):
            assert peer.request(b"known") == b"known"
        first.send(b"block")
        second.send(b"block")
        until(lambda: server.stats["messages_in"] == 5)
        third.send(b"waits")
        time.sleep(3 * PATIENCE)
        release.set()
        assert third.recv() == b"waits"


class Duplex(pysock.Session):
    """Sends in one thread what nobody has asked for, and receives in another."""

    def handle(self) -> None:
        with background(self._push):
            for _ in self.connection:
                pass

    def _push(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                self.connection.send(bytes(1 << 20))


@over_both
@pytest.mark.parametrize("pause", [0.002, None])
def test_client_that_sends_but_does_not_read_is_cut(pause: float | None) -> None:
    with (
        pysock.Server("127.0.0.1:0", Duplex, send_timeout=PATIENCE).start() as server,
        connected(server, 4096) as sock,
    ):
        end = time.monotonic() + SOON
        with contextlib.suppress(*GONE):
            while server.stats["overdue"] == 0:
                assert time.monotonic() < end
                if pause is not None:
                    sock.sendall(frame(b"x"))
                time.sleep(pause or 0.01)
        until(lambda: server.stats["connections"] == 0)
        assert server.stats["overdue"] == 1


# ------------------------------------------------------------ pushed to from elsewhere


@contextlib.contextmanager
def pushing(server_options: dict[str, Any]) -> Iterator[tuple[pysock.Server, socket.socket]]:
    """A server, and a client that does not read what a thread of the server's user sends."""
    threads: list[threading.Thread] = []

    def push(connection: pysock.Connection) -> None:
        with contextlib.suppress(OSError, EOFError):
            connection.send(LARGE)

    def handler(message: bytes, connection: pysock.Connection) -> bytes | None:
        if message != b"subscribe":
            return message
        threads.append(threading.Thread(target=push, args=(connection,)))
        return None

    with pysock.Server("127.0.0.1:0", handler, **server_options).start() as server:
        try:
            with connected(server, 4096) as sock:
                sock.sendall(frame(b"subscribe"))
                until(lambda: threads)
                threads[0].start()
                sock.recv(1)
                time.sleep(PATIENCE / 2)  # the rest of it is stuck
                yield server, sock
        finally:
            server.stop(drain=0)
            for thread in threads:
                thread.join()


def send_garbage(sock: socket.socket) -> None:
    sock.sendall(b"\xff" * 4)


def ask(sock: socket.socket) -> None:
    sock.sendall(frame(b"question"))


def stay_silent(sock: socket.socket) -> None:
    time.sleep(3 * PATIENCE)


@pytest.mark.case("C08")
@also_over_tls(
    "act,workers",
    [(act, workers) for act in (finish, send_garbage, ask, stay_silent) for workers in (0, 4)],
    [(finish, 4), (ask, 0)],
)
def test_push_that_is_stuck_holds_nobody_else(
    act: Callable[[socket.socket], None], workers: int
) -> None:
    """Whatever that client does next: the thread that leads must not wait for its turn."""
    options = {"workers": workers, "idle_timeout": PATIENCE, "linger": PATIENCE}
    with pushing(options) as (server, sock):
        act(sock)
        time.sleep(PATIENCE / 2)
        with client(server) as other:
            assert other.request(b"a") == b"a"


@pytest.mark.case("C08")
@over_both
def test_push_that_is_stuck_is_cut_by_the_send_timeout() -> None:
    with pushing({"send_timeout": PATIENCE}) as (server, _):
        until(lambda: server.stats["connections"] == 0, SOON)
        assert server.stats["overdue"] == 1


@over_both
def test_stop_does_not_wait_for_a_push_that_is_stuck_beyond_its_drain() -> None:
    with pushing({}) as (server, _):
        began = time.monotonic()
        server.stop(drain=PATIENCE)
        assert time.monotonic() - began < PATIENCE + PROMPT


# ------------------------------------------------------------ memory, and both at once


@pytest.mark.case("L11")
@over_both
def test_client_that_asks_on_and_on_without_reading_gets_no_more_work_done() -> None:
    """L11: what is kept for it is one reply, and what was gathered before."""
    served: list[pysock.Connection] = []

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        served[:] = [connection]
        return bytes(100_000)

    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        connected(server, 4096) as sock,
        client(server) as other,
    ):
        sock.settimeout(PATIENCE)
        with pytest.raises(TimeoutError):
            while True:
                sock.sendall(frame(b"more") * 1000)
        done = server.stats["messages_in"]
        assert served[0].unsent <= 2 * 100_004 + 65536
        assert len(other.request(b"b")) == 100_000
        assert server.stats["messages_in"] <= done + 2
        server.stop(drain=0)


@pytest.mark.case("L13", "T01")
@over_both
def test_both_send_before_they_read() -> None:
    """L13: the client's deadline tells, and nothing is lost."""
    messages = [b"%06d" % i * 20_000 for i in range(500)]  # 60 MB
    with pysock.Server("127.0.0.1:0", replies).start() as server, client(server) as peer:
        peer.timeout = PATIENCE
        with pytest.raises(TimeoutError) as caught:
            peer.send_many(messages)
        accepted = caught.value.accepted  # type: ignore[attr-defined]
        assert 0 < accepted < 500
        peer.timeout = SOON
        flushing = threading.Thread(target=peer.flush)
        flushing.start()
        for message in messages[:accepted]:
            assert peer.recv() == message
        flushing.join()


@pytest.mark.case("L13")
@over_both
def test_request_many_goes_on_where_both_send() -> None:
    """L13."""
    messages = [bytes([i % 256]) * 100_000 for i in range(300)]
    with pysock.Server("127.0.0.1:0", replies).start() as server, client(server) as peer:
        assert peer.request_many(messages) == messages
