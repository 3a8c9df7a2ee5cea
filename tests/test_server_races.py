"""Server by turns: connections that end elsewhere, descriptors used again, stops at once."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import also_over_tls, over_both
from conftest import posix, unix
from gate import HERE, Gate, clients, frame, served, serving, unconnected, write
from peers import LONG, PROMPT, SHORT, background, until

transport = both_ways.transport


@contextlib.contextmanager
def plain_clients(server: pysock.Server, count: int) -> Iterator[list[socket.socket]]:
    """Sockets that have their descriptors already, to be connected later."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(unconnected(server)) for _ in range(count)]


def ask(sock: socket.socket, message: bytes = b"x") -> None:
    sock.settimeout(PROMPT)
    sock.sendall(frame(message))
    assert pysock.recv_exactly(sock, 4 + len(message)) == frame(message)


def connect_until_used(
    server: pysock.Server, number: int, socks: list[socket.socket]
) -> list[socket.socket]:
    """Connect one after the other until the server uses descriptor *number* again."""
    for count, sock in enumerate(socks, 1):
        accepted = server.stats["accepted"]
        sock.connect(server.server_address)
        until(lambda: server.stats["accepted"] > accepted)  # noqa: B023
        ask(sock)  # not earlier: a receive that waits has a descriptor too
        if number in [one.fileno() for one in served(server)]:
            return socks[:count]
    pytest.fail(f"descriptor {number} went to somebody else")


# ------------------------------------------------------------ descriptors used again


@posix  # elsewhere the next client rarely gets the number
@also_over_tls("how", ["close", "detach"], ["close"])
def test_number_of_a_connection_that_its_handler_ended_serves_the_next_client(
    how: str,
) -> None:
    gate = Gate()
    numbers: list[int] = []

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message == b"end":
            numbers.append(connection.fileno())
            if how == "close":
                connection.close()
            else:
                connection.detach().close()
            gate.wait()
        return message

    with serving(handler) as server, plain_clients(server, 6) as (first, *socks):
        first.connect(server.server_address)
        first.sendall(frame(b"end"))
        gate.holds(1)
        try:
            used = connect_until_used(server, numbers[0], socks)
        finally:
            gate.let()
        until(lambda: server.stats["connections"] == len(used))
        for sock in used * 3:
            ask(sock)
        assert server.stats["connections"] == len(used)


@posix  # elsewhere the next client rarely gets the number
@over_both
def test_number_of_a_connection_closed_at_the_end_of_its_turn_serves_the_next_client() -> None:
    """Another thread closes it, while the one that serves it puts it back."""
    gate = Gate()
    kept: list[pysock.Connection] = []

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message == b"keep":
            kept.append(connection)
            gate.wait()
        return message

    closed, told = threading.Event(), threading.Event()
    with serving(handler) as server, plain_clients(server, 6) as (first, *socks):
        first.connect(server.server_address)
        first.sendall(frame(b"keep"))
        gate.holds(1)
        loop: Any = server._loop
        number = kept[0].fileno()
        let_go, was_closed = loop.let_go, loop.was_closed

        def hold_open_before(connection: Any) -> None:
            let_go(connection)
            gate.let()
            until(lambda: not loop._crew.is_serving(connection))

        def hold_open_after(connection: Any) -> None:
            closed.set()
            assert told.wait(LONG)
            was_closed(connection)

        loop.let_go, loop.was_closed = hold_open_before, hold_open_after
        with background(kept[0].close):
            try:
                assert closed.wait(LONG)
                used = connect_until_used(server, number, socks)
            finally:
                told.set()
        del loop.let_go, loop.was_closed
        until(lambda: server.stats["connections"] == len(used))
        for sock in used * 3:
            ask(sock)
        assert server.stats["connections"] == len(used)


@over_both
def test_close_that_outlives_its_server_writes_nowhere() -> None:
    """What would wake the leader may have become somebody else's descriptor."""
    kept: list[pysock.Connection] = []
    threads = threading.active_count()

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        kept.append(connection)
        return message

    with serving(handler, linger=2.0) as server, clients(server, 1) as (peer,):
        assert peer.request(b"x") == b"x"
        (connection,) = kept
        connection.timeout = SHORT
        with pytest.raises(TimeoutError):
            connection.send(bytes(32 << 20))  # and close() will wait for the peer
        with background(connection.close):
            until(lambda: connection.closed)
            server.stop(0)
            with contextlib.ExitStack() as stack:
                pairs = [socket.socketpair() for _ in range(16)]
                ends = [stack.enter_context(end) for pair in pairs for end in pair]
                peer.linger = 0.0
                peer.close()
                until(lambda: connection.fileno() == -1)
                until(lambda: threading.active_count() == threads)
                for end in ends:
                    end.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        assert end.recv(64) == b"not ours"


@over_both
def test_reply_of_a_handler_left_behind_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its server has ended, serves again, and uses the same descriptors."""
    gate = Gate()
    monkeypatch.setattr("pysock.loop.CUT", 0.05)
    with (
        pysock.Server(HERE, gate, workers=2) as server,
        plain_clients(server, 6) as (old, *socks),
    ):
        server.start()
        old.connect(server.server_address)
        old.sendall(frame(b"block and be late"))
        gate.holds(1)
        server.stop(0)
        assert "left behind" in caplog.text
        server.start()
        for sock in socks:
            sock.connect(server.server_address)
            ask(sock)
        gate.let()
        gate.holds(0)
        until(lambda: not [t for t in threading.enumerate() if t.name.count("worker") > 3])
        for sock in socks * 2:
            ask(sock)
        server.stop()
        for sock in socks:
            assert sock.recv(64) == b""


@over_both
def test_connections_closed_in_other_threads_while_events_are_pending() -> None:
    """Each is closed by a thread of its own while its client goes on sending."""
    count = 40
    kept: dict[int, Any] = {}

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message.isdigit():
            kept[int(message)] = connection
        return message

    def send(peer: pysock.Client) -> None:
        with contextlib.suppress(OSError, pysock.ConnectionClosed):
            while True:
                peer.request_many([b"more"] * 20)

    with serving(handler, linger=0.0) as server:
        for _ in range(3):
            with clients(server, count + 1) as peers, contextlib.ExitStack() as stack:
                for i, peer in enumerate(peers):
                    assert peer.request(b"%d" % i) == b"%d" % i
                    peer.linger = 0.0
                for peer in peers[:8]:
                    stack.enter_context(background(send, peer))
                for i in range(count):
                    stack.enter_context(background(kept[i].close))
                until(lambda: server.stats["connections"] == 1)
                assert peers[-1].request(b"here") == b"here"
            until(lambda: server.stats["connections"] == 0)
        assert server.stats["handler_errors"] == 0


def test_max_connections_counts_what_a_handler_has_detached_as_gone() -> None:
    taken: list[socket.socket] = []

    def handler(message: bytes, connection: pysock.Connection) -> None:
        taken.append(connection.detach())

    with serving(handler, max_connections=1) as server:
        for _ in range(3):
            with clients(server, 1) as (peer,):
                peer.send(b"upgrade")
                until(lambda: taken)
                with taken.pop() as sock:
                    sock.sendall(frame(b"another protocol"))
                    assert peer.recv() == b"another protocol"


# ------------------------------------------------------------ stopping


@over_both
def test_server_that_a_handler_has_stopped_can_serve_again() -> None:
    def handler(message: bytes) -> bytes:
        if message == b"stop":
            server.stop()
        return message

    with pysock.Server(HERE, handler) as server:
        for _ in range(3):
            server.start()
            with clients(server, 1) as (peer,):
                peer.send(b"stop")
                assert list(peer) == [b"stop"]
            until(lambda: not served(server) and server._loop is None)


def test_stop_that_comes_too_late_does_not_stop_the_next_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two stops at once: the server ends between two steps of the slower one."""
    with serving(bytes.upper) as server:
        with clients(server, 1) as (peer,):
            assert peer.request(b"x") == b"X"
        stops: list[threading.Thread] = []

        class Clock:
            def __getattr__(self, name: str) -> Any:
                return getattr(time, name)

            def monotonic(self) -> float:
                if threading.current_thread() is threading.main_thread() and not stops:
                    stops.append(threading.Thread(target=server.stop))
                    stops[0].start()
                    stops[0].join(5 * SHORT)
                return time.monotonic()

        monkeypatch.setattr("pysock.running.time", Clock())
        server.stop()
        monkeypatch.undo()
        assert not server.stopping
        server.start()
        with clients(server, 1) as (peer,):
            peer.timeout = PROMPT
            for _ in range(2):
                assert peer.request(b"x") == b"X"
                time.sleep(SHORT)


@over_both
def test_nothing_is_left_of_a_server_that_was_stopped() -> None:
    """K: no cycle that is held from outside, and nothing that a thread has kept."""
    gate = Gate()
    connections: weakref.WeakSet[Any] = weakref.WeakSet()

    class Handler:
        def __call__(self, message: bytes, connection: pysock.Connection) -> Any:
            connections.add(connection)
            gate(message)
            return iter([message]) if message == b"iterator" else message

    handler = Handler()
    with serving(handler, workers=3) as server:
        with clients(server, 3) as peers:
            for i, peer in enumerate(peers, 1):
                peer.send_many([b"1", b"block", b"iterator"])
                gate.holds(i)
            gate.let(3)
            for peer in peers:
                assert [peer.recv() for _ in range(3)] == [b"1", b"block", b"iterator"]
        assert server.stats["takeovers"] >= 2
        while served(server):
            time.sleep(0.001)
    left = [weakref.ref(handler), weakref.ref(server)]
    del handler, server
    gc.collect()
    assert [one() for one in left] == [None, None]
    assert not connections


@over_both
@pytest.mark.parametrize("workers", [0, 1])
def test_a_running_server_keeps_nobody_who_has_gone(workers: int) -> None:
    """K: not even the one that it served last, of a pipeline that took more than a turn."""
    connections: weakref.WeakSet[Any] = weakref.WeakSet()

    def handler(message: bytes, connection: pysock.Connection) -> bytes | None:
        connections.add(connection)
        return message if message == b"last" else None

    with serving(handler, workers=workers) as server:
        with clients(server, 1) as (peer,):
            write(peer, frame(b"m") * 1000 + frame(b"last"))
            assert peer.recv() == b"last"
        until(lambda: gc.collect() is not None and not connections)


# ------------------------------------------------------------ more than one listener


@unix
def test_two_addresses_are_served_side_by_side(tmp_path: Path) -> None:
    gate = Gate()
    path = tmp_path / "s"
    with pysock.Server([HERE, path], gate).start() as server:
        assert [one.scheme for one in server.addresses] == ["tcp", "unix"]
        with (
            pysock.Client(server.addresses[0], timeout=LONG) as tcp,
            pysock.Client(server.addresses[1], timeout=LONG) as local,
        ):
            for blocked, quick in ((tcp, local), (local, tcp)):
                blocked.send(b"block")
                gate.holds(1)
                assert quick.request(b"x") == b"x"
                gate.let()
                assert blocked.recv() == b"block"
    assert not path.exists()


@unix
def test_given_sockets_are_served_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(path))
    local.listen()
    tcp = socket.create_server(("127.0.0.1", 0))
    with pysock.Server([tcp, local], bytes.upper) as server:
        for _ in range(2):
            server.start()
            for address in server.addresses:
                with pysock.Client(address, timeout=LONG) as peer:
                    assert peer.request(b"x") == b"X"
            server.stop()
    assert tcp.fileno() == local.fileno() == -1
    assert path.exists()  # it was not made here


def test_stop_of_one_run_does_not_wait_for_the_next() -> None:
    """Other threads stop it, and this one has started it again before they are back."""
    with pysock.Server(HERE, bytes.upper) as server, contextlib.ExitStack() as stack:
        for _ in range(30):
            server.start()
            tasks = [stack.enter_context(background(server.stop)) for _ in range(3)]
            until(lambda: server._run.ended)
            server.stop()
            server.start()
            for task in tasks:
                task.finish(PROMPT)
            with clients(server, 1) as (peer,):
                assert peer.request(b"x") == b"X"
            server.stop()


@over_both
def test_thread_of_the_server_s_stop_may_be_any() -> None:
    """Several at once, and each returns when the server has ended."""
    gate = Gate()
    with serving(gate) as server, clients(server, 1) as (peer,):
        peer.send(b"block")
        gate.holds(1)
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(background(server.stop))
            until(lambda: server.stopping)
            gate.let()
        assert not server.stopping
        assert list(peer) == [b"block"]
