"""stop(): what is under way is finished, nobody waits longer than said, whoever calls it."""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import also_over_tls, over_both
from conftest import TIME_FACTOR
from gate import LARGE, SOON, client
from peers import LONG, PROMPT, Task, until

transport = both_ways.transport

DRAIN = 0.3 * TIME_FACTOR


def stopping(server: pysock.Server, drain: float = 30.0) -> Task:
    """Stop in a thread; return once that has begun."""
    task = Task(server.stop, drain)
    until(lambda: server.stopping or not task.is_alive())
    return task


class Gate:
    """A handler, or session, that is in there until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()

    def __call__(self, message: bytes) -> bytes:
        if message == b"block":
            self.entered.release()
            assert self.release.wait(LONG)
        return message

    @property
    def session(self) -> type[pysock.Session]:
        gate = self

        class Gated(pysock.Session):
            def handle(self) -> None:
                for message in self.connection:
                    self.connection.send(gate(message))

        return Gated

    def handler(self, kind: str) -> Any:
        return self if kind == "handler" else self.session

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=LONG)


@pytest.fixture
def gate() -> Iterator[Gate]:
    found = Gate()
    yield found
    found.release.set()


KINDS = ["handler", "session"]


# ------------------------------------------------------------ what is finished


@pytest.mark.case("D13")
@over_both
@pytest.mark.parametrize("kind", KINDS)
def test_idle_ones_are_closed_at_once_and_busy_ones_finish(kind: str, gate: Gate) -> None:
    """D13."""
    with (
        contextlib.ExitStack() as stack,
        pysock.Server("127.0.0.1:0", gate.handler(kind), workers=8).start() as server,
    ):
        peers = [stack.enter_context(client(server)) for _ in range(60)]
        for peer in peers:
            assert peer.request(b"known") == b"known"
        idle, busy = peers[:52], peers[52:]
        for peer in busy[:7]:  # one thread is left to see to the rest
            peer.send(b"block")
        gate.wait(7)
        busy[7].send(b"quick")
        stop = stopping(server)
        began = time.monotonic()
        assert [list(peer) for peer in idle] == [[]] * 52
        assert time.monotonic() - began < PROMPT
        assert list(busy[7]) == [b"quick"]
        assert stop.is_alive()
        gate.release.set()
        assert [list(peer) for peer in busy[:7]] == [[b"block"]] * 7
        stop.finish(PROMPT)


@pytest.mark.case("D16")
@also_over_tls("kind", KINDS, ["handler"])
def test_first_request_may_still_be_on_its_way(kind: str, gate: Gate) -> None:
    with (
        pysock.Server("127.0.0.1:0", gate.handler(kind)).start() as server,
        client(server) as peer,
        client(server) as silent,
    ):
        until(lambda: server.stats["connections"] == 2)
        began = time.monotonic()
        stop = stopping(server)
        time.sleep(0.3)
        assert peer.request(b"first") == b"first"
        assert list(peer) == list(silent) == []
        stop.finish()
        assert time.monotonic() - began < 1 + PROMPT


@pytest.mark.case("D16")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_clients_in_the_backlog_are_served(kind: str, workers: int, gate: Gate) -> None:
    """They have connected, and know nothing of the server's end."""
    options: dict[str, Any] = {"workers": workers}
    with (
        contextlib.ExitStack() as stack,
        pysock.Server("127.0.0.1:0", gate.handler(kind), **options) as server,
    ):
        peers = [stack.enter_context(client(server)) for _ in range(30)]
        for peer in peers:
            peer.send(b"x")
        server.start()
        server.stop()
        assert [list(peer) for peer in peers] == [[b"x"]] * 30
        assert server.stats["accepted"] == 30


@pytest.mark.parametrize("workers", [0, 1])
def test_clients_that_came_while_the_server_was_busy_are_served(
    workers: int, gate: Gate
) -> None:
    with (
        contextlib.ExitStack() as stack,
        pysock.Server("127.0.0.1:0", gate, workers=workers).start() as server,
    ):
        first = stack.enter_context(client(server))
        first.send(b"block")
        gate.wait()
        peers = [stack.enter_context(client(server)) for _ in range(10)]
        for peer in peers:
            peer.send(b"x")
        stop = stopping(server)
        gate.release.set()
        assert [list(peer) for peer in (first, *peers)] == [[b"block"]] + [[b"x"]] * 10
        stop.finish()


@over_both
def test_client_that_waits_for_a_place_waits_for_the_next_start() -> None:
    """`stop` accepts nothing; the listener stays open until `server_close`."""
    with (
        pysock.Server("127.0.0.1:0", bytes.upper, max_connections=1).start() as server,
        client(server) as first,
        socket.create_connection(server.server_address, SOON) as sock,
    ):
        assert first.request(b"a") == b"A"

        def ask() -> bytes:
            with pysock.Client(sock=sock, timeout=SOON) as second:
                return second.request(b"b")

        asking = Task(ask)
        server.stop()
        assert list(first) == []
        server.start()
        assert asking.finish() == b"B"


@over_both
def test_client_that_asks_again_at_once_does_not_keep_the_server_from_ending() -> None:
    """It is told after the reply that is under way, not at the end of the drain."""

    def handler(message: bytes) -> bytes:
        time.sleep(0.02)
        return message

    def ask_on_and_on() -> None:
        with client(server) as peer, contextlib.suppress(EOFError, ConnectionError):
            while True:
                assert peer.request(b"x") == b"x"

    with pysock.Server("127.0.0.1:0", handler).start() as server:
        tasks = [Task(ask_on_and_on) for _ in range(4)]
        until(lambda: server.stats["messages_out"] > 20)
        began = time.monotonic()
        server.stop(drain=SOON)
        assert time.monotonic() - began < PROMPT
        for task in tasks:
            task.finish()


@over_both
def test_client_that_never_pauses_does_not_keep_the_server_from_ending() -> None:
    """Requests that come after stop() was called are new, and nothing new is taken."""

    def flood(peer: pysock.Client) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                peer.send_many([b"x" * 100] * 500)

    with (
        pysock.Server("127.0.0.1:0", bytes.upper).start() as server,
        client(server) as peer,
    ):
        flooding = Task(flood, peer)
        reading = Task(lambda: [None for _ in peer])
        until(lambda: server.stats["messages_out"] > 5000)
        began = time.monotonic()
        server.stop(drain=SOON)
        assert time.monotonic() - began < PROMPT
        with contextlib.suppress(OSError):
            reading.finish()
        flooding.finish()


FLOOD = """
import contextlib, pysock, ssl, sys, threading
def read():
    with contextlib.suppress(OSError, EOFError):
        for _ in peer:
            pass
context = None
if sys.argv[2] == "tls":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
with pysock.Client(("127.0.0.1", int(sys.argv[1])), pysock.Raw(), tls=context) as peer:
    reading = threading.Thread(target=read)
    reading.start()
    with contextlib.suppress(OSError, EOFError):
        while True:
            peer.send(b"\\0\\0\\0\\1x" * 50_000)
    reading.join()
"""


class Floods(pysock.Session):
    def handle(self) -> None:
        for message in self.connection:
            self.connection.send(message)


@also_over_tls(
    "handler,workers",
    [(bytes.upper, 0), (bytes.upper, 4), (Floods, 0)],
    [(bytes.upper, 4), (Floods, 0)],
)
def test_client_faster_than_the_server_does_not_keep_it_from_ending(
    handler: Any, workers: int, transport: str
) -> None:
    """There is always a full buffer more to read."""
    with pysock.Server("127.0.0.1:0", handler, workers=workers).start() as server:
        port = str(server.server_address[1])
        command = [sys.executable, "-P", "-c", FLOOD, port, transport]
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
            until(lambda: server.stats["messages_out"] > 50_000)
            began = time.monotonic()
            server.stop(drain=SOON)
            assert time.monotonic() - began < PROMPT
            assert process.wait(SOON) == 0


def replies(message: bytes) -> bytes:
    return LARGE


def iterates(message: bytes) -> Any:
    return (bytes(1 << 20) for _ in range(16))


def sends(message: bytes, connection: pysock.Connection) -> None:
    connection.send(LARGE)


class Sends(pysock.Session):
    def handle(self) -> None:
        for _ in self.connection:
            self.connection.send(LARGE)


WAYS = [replies, iterates, sends, Sends]


@also_over_tls(
    "workers,handler",
    [(workers, handler) for workers in (0, 2) for handler in WAYS],
    [(2, replies), (0, Sends)],
)
def test_replies_that_wait_for_their_reader_arrive_within_the_drain(
    workers: int, handler: Any
) -> None:
    with pysock.Server("127.0.0.1:0", handler, workers=workers).start() as server:
        with client(server) as peer:
            peer.send(b"go")
            until(lambda: server.stats["bytes_out"])
            stop = stopping(server)
            time.sleep(0.1)
            assert sum(map(len, peer)) == len(LARGE)
        stop.finish()


# ------------------------------------------------------------ what is not


@pytest.mark.case("D14")
@also_over_tls(
    "drain,handler",
    [(drain, handler) for drain in (0, DRAIN) for handler in WAYS],
    [(DRAIN, replies), (0, Sends)],
)
def test_reply_that_nobody_reads_is_cut_at_the_deadline(drain: float, handler: Any) -> None:
    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        client(server) as peer,
    ):
        peer.send(b"go")
        until(lambda: server.stats["bytes_out"])
        began = time.monotonic()
        server.stop(drain=drain)
        assert drain <= time.monotonic() - began < drain + PROMPT
        with pytest.raises((pysock.ConnectionClosed, ConnectionResetError)):
            while True:
                peer.recv()


@pytest.mark.case("D14")
@also_over_tls("kind", KINDS, ["handler"])
def test_handlers_that_do_not_end_are_left_behind(
    kind: str, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D14: also where all workers are in one, and nobody is there to notice the end."""
    monkeypatch.setattr("pysock.loop.CUT", 0.05)
    with pysock.Server("127.0.0.1:0", gate.handler(kind), workers=2).start() as server:
        peers = [client(server) for _ in range(3)]
        for peer in peers:
            peer.send(b"block")
        gate.wait(2)
        began = time.monotonic()
        server.stop(drain=DRAIN)
        assert DRAIN <= time.monotonic() - began < DRAIN + PROMPT
        assert "not end" in caplog.text
        for peer in peers:
            with pytest.raises((pysock.ConnectionClosed, ConnectionResetError)):
                peer.recv()
            peer.close()
        server.start()  # with threads of its own
        with client(server) as peer:
            assert peer.request(b"a") == b"a"
        gate.release.set()


@pytest.mark.case("D14")
@also_over_tls("kind", KINDS, ["session"])
def test_handler_in_the_middle_of_a_call_is_left_behind(
    kind: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for something else than the socket, inside a call on it."""
    monkeypatch.setattr("pysock.loop.CUT", 0.05)

    def messages() -> Iterator[bytes]:
        yield b"first"
        yield gate(b"block")

    def handler(message: bytes, connection: pysock.Connection) -> None:
        with contextlib.suppress(OSError, EOFError):
            connection.send_many(messages())

    class Session(pysock.Session):
        def handle(self) -> None:
            handler(b"", self.connection)

    handlers: dict[str, Any] = {"handler": handler, "session": Session}
    with (
        pysock.Server("127.0.0.1:0", handlers[kind]).start() as server,
        client(server) as peer,
    ):
        peer.send(b"go")
        gate.wait()
        stop = stopping(server, DRAIN)
        stop.join(DRAIN + PROMPT)
        still_waiting = stop.is_alive()
        gate.release.set()
        stop.finish()
        assert not still_waiting


def test_stop_can_be_shortened_but_not_lengthened(gate: Gate) -> None:
    with pysock.Server("127.0.0.1:0", gate).start() as server, client(server) as peer:
        peer.send(b"block")
        gate.wait()
        first = stopping(server, 60)
        began = time.monotonic()
        second = stopping(server, DRAIN)
        third = stopping(server, 60)
        for task in (second, first, third):
            task.finish(DRAIN + PROMPT)
        assert time.monotonic() - began >= DRAIN
        gate.release.set()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drain", [-1.0, 1e10, math.inf])
def test_drain_of_any_length(drain: float, workers: int, gate: Gate) -> None:
    limits: dict[str, Any] = {"idle_timeout": None, "send_timeout": None, "minimum_rate": None}
    with pysock.Server("127.0.0.1:0", gate, workers=workers, **limits).start() as server:
        with client(server) as peer, contextlib.suppress(EOFError, ConnectionError):
            peer.send(b"block")
            gate.wait()
            stop = stopping(server, drain)
            time.sleep(0.1)
            gate.release.set()
            assert list(peer) == [b"block"] or drain < 0
        stop.finish()
        server.start()  # and its listener is still open
        with client(server) as peer:
            assert peer.request(b"a") == b"a"


# ------------------------------------------------------------ connection.stopping


@pytest.mark.parametrize("kind", KINDS)
def test_handler_can_see_that_the_server_is_stopping(kind: str) -> None:
    entered = threading.Event()

    def work(connection: Any) -> bytes:
        assert not connection.stopping
        entered.set()
        until(lambda: connection.stopping)
        return b"stopped early"

    class Session(pysock.Session):
        def handle(self) -> None:
            self.connection.send(work(self.connection))

    handler: Any = Session if kind == "session" else lambda _, peer: work(peer)
    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send(b"go")
        assert entered.wait(SOON)
        server.stop()
        assert list(peer) == [b"stopped early"]
        assert not server.stopping


def test_handler_that_was_left_behind_sees_it_too(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pysock.loop.CUT", 0.05)
    seen: list[bool] = []
    done = threading.Event()

    def handler(message: bytes, connection: Any) -> None:
        gate(message)
        seen.append(connection.stopping)
        done.set()

    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send(b"block")
        gate.wait()
        server.stop(drain=0)
        gate.release.set()
        assert done.wait(SOON)
        assert seen == [True]
