"""stop() by whoever may call it, at any moment; and that nothing computed is lost by it."""

from __future__ import annotations

import collections
import contextlib
import gc
import http.client
import socket
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
from conftest import unix
from gate import SOON, client
from peers import LONG, PROMPT, Task, run_python, until

transport = both_ways.transport

FRAMING = pysock.LengthField()


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Let threads take turns far more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# ------------------------------------------------------------ who may call it


@pytest.mark.case("D15")
def test_stop_from_a_session_returns_at_once() -> None:
    class Stops(pysock.Session):
        def handle(self) -> None:
            message = self.connection.recv()
            began = time.monotonic()
            self.server.stop()
            assert time.monotonic() - began < PROMPT
            self.connection.send(message)

    with pysock.Server("127.0.0.1:0", Stops) as server:
        serving = Task(server.serve_forever)
        with client(server) as peer, client(server) as other:
            assert peer.request(b"a") == b"a"
            assert list(peer) == list(other) == []
        serving.finish()


@pytest.mark.case("D15")
@pytest.mark.parametrize("workers", [0, 2])
def test_stop_from_service_actions_returns_at_once(workers: int) -> None:
    class Stops(pysock.Server):
        def service_actions(self) -> None:
            if self.stats["messages_out"]:
                self.stop(drain=SOON)

    with Stops("127.0.0.1:0", bytes.upper, workers=workers) as server:
        serving = Task(server.serve_forever)
        with client(server) as peer:
            assert peer.request(b"a") == b"A"
            assert list(peer) == []
        serving.finish()


@pytest.mark.case("D15")
@also_over_tls("workers", [0, 1, 4], [4])
def test_stop_without_a_drain_from_a_handler(workers: int) -> None:
    """What the handler replies may be cut; who serves comes back at once."""

    def handler(message: bytes) -> bytes:
        server.stop(drain=0)
        return message

    with pysock.Server("127.0.0.1:0", handler, workers=workers) as server:
        serving = Task(server.serve_forever)
        with client(server) as peer, contextlib.suppress(EOFError, ConnectionError):
            assert peer.request(b"a") == b"a"
        serving.finish(PROMPT)


@over_both
@pytest.mark.parametrize("kind", ["handler", "session"])
def test_server_stopped_from_inside_can_be_started_again(kind: str) -> None:
    """`stop` by somebody else in between is not needed."""

    class Stops(pysock.Session):
        def handle(self) -> None:
            self.connection.send(handler(self.connection.recv()))

    def handler(message: bytes) -> bytes:
        server.stop()
        return message

    made: Any = Stops if kind == "session" else handler
    with pysock.Server("127.0.0.1:0", made) as server:
        for _ in range(3):
            server.start()
            with client(server) as peer:
                assert peer.request(b"a") == b"a"
                assert list(peer) == []
            until(lambda: not server.stopping)


def test_start_right_after_a_stop_from_inside_waits_or_says_so() -> None:
    """While the server is still coming to its end it is running."""
    entered, release = threading.Event(), threading.Event()

    def handler(message: bytes) -> bytes:
        server.stop()
        entered.set()
        assert release.wait(LONG)
        return message

    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send(b"a")
        assert entered.wait(SOON)
        with pytest.raises(RuntimeError, match="running"):
            server.start()
        release.set()
        assert list(peer) == [b"a"]


@also_over_tls("workers", [0, 2], [2])
def test_stop_in_many_threads_at_once(workers: int, quick_switches: None) -> None:
    """All return, and none of them stops the next run."""
    with pysock.Server("127.0.0.1:0", bytes.upper, workers=workers) as server:
        for _ in range(60):
            server.start()
            with client(server) as peer:
                assert peer.request(b"a") == b"A"
            tasks = [Task(server.stop, 5.0) for _ in range(3)]
            for task in tasks:
                task.finish()
            assert not server.stopping


@pytest.mark.parametrize("workers", [0, 2])
def test_stop_right_after_start(workers: int, quick_switches: None) -> None:
    with pysock.Server("127.0.0.1:0", bytes.upper, workers=workers) as server:
        for turn in range(100):
            server.start()
            server.stop(drain=turn % 2)
        server.start()
        with client(server) as peer:
            assert peer.request(b"a") == b"A"


# ------------------------------------------------------------ threads and their locks


def test_garbage_collector_may_run_anywhere() -> None:
    """Objects of the user's that give the GIL up while they are collected."""
    said = run_python(
        """
import gc, pysock, threading, time
class Garbage:
    def __init__(self):
        self.me = self
    def __del__(self):
        time.sleep(0)
def handler(message, connection):
    for _ in range(3):
        Garbage()
    time.sleep(0.002)
    if message == b"close":
        connection.close()
    for _ in range(3):
        Garbage()
    return message
def visit():
    while time.monotonic() < end:
        with pysock.Client(server.address, timeout=20, linger=0) as peer:
            assert peer.request(b"x") == b"x"
            peer.send(b"close")
            assert list(peer) == []
gc.set_threshold(5)
with pysock.Server("127.0.0.1:0", handler, workers=8, linger=0).start() as server:
    end = time.monotonic() + 2
    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.set_threshold(700)
""",
        within=LONG,
    )
    assert said == ""


# ------------------------------------------------------------ health, restart


def answers(address: Any) -> int:
    """The status of a health check, 0 where nobody listens."""
    with contextlib.closing(
        http.client.HTTPConnection(address.host, address.port, timeout=SOON)
    ) as asking:
        try:
            asking.request("GET", "/")
            return asking.getresponse().status
        except ConnectionError:  # refused, or reset where it had just connected
            return 0


def test_health_address_is_closed_while_the_server_stops() -> None:
    entered, release = threading.Semaphore(0), threading.Event()

    def handler(message: bytes) -> bytes:
        entered.release()
        assert release.wait(LONG)
        return message

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = pysock.address.parse(("127.0.0.1", port))
    with pysock.Server("127.0.0.1:0", handler, health=f"127.0.0.1:{port}") as server:
        for _ in range(3):
            server.start()
            with client(server) as peer:
                peer.send(b"block")
                assert entered.acquire(timeout=SOON)
                assert answers(address) == 200
                stop = Task(server.stop)
                until(lambda: answers(address) == 0)
                assert stop.is_alive()
                release.set()
                assert peer.recv() == b"block"
            stop.finish()
            assert answers(address) == 0
            release.clear()


@pytest.mark.case("D18", "D19")
@over_both
@pytest.mark.parametrize("address", ["tcp", pytest.param("unix", marks=unix)])
def test_another_server_takes_the_same_address_at_once(address: str, tmp_path: Path) -> None:
    """D18, D19: although the connections of the first were closed by itself."""
    where: Any = "127.0.0.1:0" if address == "tcp" else tmp_path / "s"
    peers = []
    for _ in range(5):
        with pysock.Server(where, bytes.upper).start() as server:
            where = server.address
            for _ in range(5):
                peers.append(client(server))
                assert peers[-1].request(b"a") == b"A"
    for peer in peers:
        assert list(peer) == []
        peer.close()


# ------------------------------------------------------------ nothing computed is lost


class Load:
    """One client that sends batches and reads all that comes, until the end."""

    def __init__(
        self, server: pysock.Server, name: bytes, random: Random, pauses: bool
    ) -> None:
        self.name, self.got, self.ended = name, 0, ""
        self._random = random
        self._depth = random.choice([1, 4, 30])
        self._ahead = 0 if pauses else 2 * self._depth
        self._size = random.choice([0, 100, 20_000, 300_000])
        self._stopped = False
        self._peer = pysock.Client(server.address, pysock.Raw(), timeout=LONG)
        self.reading = Task(self._read)
        self._sending = Task(self._send)

    def _send(self) -> None:
        sent = 0
        with contextlib.suppress(OSError, EOFError):
            while not self._stopped:
                batch = [self._message() for _ in range(self._depth)]
                self._peer.send(b"".join(map(FRAMING.encode, batch)))
                sent += self._depth
                while self.got < sent - self._ahead and not self._stopped:
                    time.sleep(0.0002)

    def _message(self) -> bytes:
        size = self._random.choice([0, self._size])
        slow = self._random.choice([b"", b"", b"", b"slow"])
        return self.name + size.to_bytes(4, "big") + slow

    def _read(self) -> None:
        decoder = FRAMING.decoder()
        try:
            for data in self._peer:
                self.got += len(decoder.feed(data))
            self.ended = "in a frame" if decoder.pending else "well"
        except ConnectionResetError:
            self.ended = "reset in a frame" if decoder.pending else "well"
        finally:
            self._stopped = True

    def finish(self) -> None:
        self.reading.finish()
        self._sending.finish()
        self._peer.close()


@pytest.mark.case("C11")
@also_over_tls(
    "address,pauses,seed",
    [
        (address, pauses, seed)
        for address in ("tcp", "unix")
        for pauses in (True, False)
        for seed in range(1)
        if address == "tcp" or hasattr(socket, "AF_UNIX")
    ],
    [("tcp", False, 0)],
)
def test_stop_at_random_moments_under_load(
    seed: int, pauses: bool, address: str, tmp_path: Path
) -> None:
    """Many times: what was computed arrives at who reads on, and the counters add up."""
    random = Random(seed)
    where = "127.0.0.1:0" if address == "tcp" else str(tmp_path / "s")
    for _ in range(5):
        computed: collections.Counter[bytes] = collections.Counter()
        counting = threading.Lock()

        def handler(
            message: bytes, computed: Any = computed, counting: Any = counting
        ) -> bytes:
            if message[8:]:
                time.sleep(0.003)
            with counting:
                computed[message[:4]] += 1
            return bytes(int.from_bytes(message[4:8], "big"))

        workers = random.choice([0, 1, 4])
        with (
            contextlib.ExitStack() as stack,
            pysock.Server(where, handler, workers=workers).start() as server,
        ):
            clients = [Load(server, b"%4d" % i, Random(i), pauses) for i in range(8)]
            for one in clients:
                stack.callback(one.finish)
            time.sleep(random.random() * 0.06)
            began = time.monotonic()
            server.stop(drain=LONG)
            assert time.monotonic() - began < 1.5 + PROMPT
            for one in clients:
                one.finish()
            assert [(one.got, one.ended) for one in clients] == [
                (computed[one.name], "well") for one in clients
            ]
            stats = server.stats
            assert stats["messages_in"] == stats["messages_out"] == sum(computed.values())
            assert stats["accepted"] == 8
            assert stats["connections"] == stats["threads"] == 0


@over_both
@pytest.mark.parametrize("kind", ["handler", "session"])
def test_counters_add_up_at_the_end(kind: str) -> None:
    """Also of connections that ended in every other way, over several runs."""

    class Echo(pysock.Session):
        def handle(self) -> None:
            for message in self.connection:
                if message == b"raise":
                    raise ZeroDivisionError
                self.connection.send(message)

    def echo(message: bytes) -> bytes:
        if message == b"raise":
            raise ZeroDivisionError
        return message

    handler: Any = Echo if kind == "session" else echo
    with pysock.Server("127.0.0.1:0", handler, max_connections=9, excess="close") as server:
        for _ in range(3):
            server.start()
            with contextlib.ExitStack() as stack:
                peers = [stack.enter_context(client(server)) for _ in range(9)]
                for i, peer in enumerate(peers):
                    assert peer.request_many([b"x" * i] * 10) == [b"x" * i] * 10
                excess = stack.enter_context(
                    socket.create_connection(server.server_address, SOON)
                )
                with contextlib.suppress(ConnectionResetError):
                    assert excess.recv(1) == b""
                for peer in peers[:3]:
                    peer.send(b"raise")
                    assert list(peer) == []
                for peer in peers[3:6]:
                    peer.close()
                server.stop()
        stats = server.stats
    assert {name: stats[name] for name in ("accepted", "refused", "handler_errors")} == {
        "accepted": 27,
        "refused": 3,
        "handler_errors": 9,
    }
    assert stats["messages_in"] == 3 * (90 + 3)
    assert stats["messages_out"] == 3 * 90
    assert stats["bytes_out"] == 3 * 10 * sum(4 + i for i in range(9))
    assert stats["bytes_in"] == stats["bytes_out"] + 9 * 9
    assert stats["connections"] == stats["threads"] == stats["overdue"] == 0
    gc.collect()


def test_counters_never_go_back(quick_switches: None) -> None:
    """Not even for the moment in which a connection ends: who draws them sees a restart."""
    names = ("accepted", "messages_in", "messages_out", "bytes_in", "bytes_out")
    with pysock.Server("127.0.0.1:0", bytes.upper).start() as server:

        def visit() -> None:
            for _ in range(150):
                with client(server, linger=0.0) as peer:
                    assert peer.request(b"a") == b"A"

        tasks = [Task(visit) for _ in range(3)]
        before = server.stats
        while any(task.is_alive() for task in tasks):
            now = server.stats
            assert [name for name in names if now[name] < before[name]] == []
            before = now
        for task in tasks:
            task.finish()
