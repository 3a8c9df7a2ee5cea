"""Server by turns: what handlers may do while others have taken the lead from them."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import both_ways
import pysock
from gate import HERE, Gate, clients, connected, frame, reset, served, serving, write
from peers import LONG, PROMPT, SHORT, background, until

transport, pytestmark = both_ways.transport, both_ways.over_both


@pytest.mark.case("L19")
def test_handler_that_blocks_and_then_raises_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()

    def handler(message: bytes) -> bytes:
        gate(message)
        return message if message != b"block" else b"%d" % (1 // 0)

    with serving(handler) as server, clients(server, 2) as (bad, good):
        write(bad, frame(b"1") + frame(b"block") + frame(b"2"))
        gate.holds(1)
        assert good.request(b"x") == b"x"
        gate.let()
        assert list(bad) == [b"1"]
        assert good.request(b"x") == b"x"
        until(lambda: server.stats["connections"] == 1)
        assert server.stats["handler_errors"] == 1
    assert caplog.text.count("\nZeroDivisionError") == 1


def test_handler_that_blocks_and_then_closes_its_connection() -> None:
    gate = Gate()

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        gate(message)
        if message == b"block":
            connection.close()
        return message

    with serving(handler, max_connections=2) as server, clients(server, 1) as (good,):
        for _ in range(4):
            with clients(server, 1) as (peer,):
                write(peer, frame(b"1") + frame(b"block") + frame(b"2"))
                gate.holds(1)
                assert good.request(b"x") == b"x"
                gate.let()
                assert list(peer) == [b"1"]
        until(lambda: server.stats["connections"] == 1)


@pytest.mark.parametrize("before", [True, False])
def test_handler_that_closes_its_connection_and_then_raises_is_told_of(before: bool) -> None:
    """The error is the handler's, whatever has become of the connection."""
    seen = []
    gate = Gate()

    class Mine(pysock.Server):
        def handle_error(self, connection: pysock.Connection, client_address: Any) -> None:
            seen.append(repr(sys.exception()))

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        connection.close()
        if not before:
            gate.wait()
        raise ValueError("mine")

    with Mine(HERE, handler).start() as server, clients(server, 1) as (peer,):
        peer.send(b"x")
        gate.let()
        assert list(peer) == []
        until(lambda: server.stats["connections"] == 0)
        assert seen == ["ValueError('mine')"]
        assert server.stats["handler_errors"] == 1


def test_handle_error_that_raises_ends_no_server() -> None:
    class Mine(pysock.Server):
        def handle_error(self, connection: pysock.Connection, client_address: Any) -> None:
            raise LookupError("in handle_error")

    def handler(message: bytes) -> bytes:
        return message if message != b"bad" else b"%d" % (1 // 0)

    with Mine(HERE, handler).start() as server, clients(server, 2) as (bad, good):
        bad.send(b"bad")
        with contextlib.suppress(ConnectionResetError):
            assert list(bad) == []
        assert good.request(b"x") == b"x"


def test_handler_that_blocks_may_send_and_receive_itself() -> None:
    gate = Gate()

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message != b"block":
            return message
        gate.wait()
        connection.send(b"what else?")
        return b"block " + connection.recv()

    with serving(handler) as server, clients(server, 2) as (peer, quick):
        write(peer, frame(b"1") + frame(b"block"))
        assert peer.recv() == b"1"
        gate.let()
        assert peer.recv() == b"what else?"
        for _ in range(20):  # while the handler waits for the peer
            assert quick.request(b"x") == b"x"
        peer.send_many([b"this", b"2"])
        assert [peer.recv(), peer.recv()] == [b"block this", b"2"]


def test_iterator_of_replies_may_block() -> None:
    """What it has given leaves at once, and nobody waits for the rest."""
    gate = Gate()

    def replies() -> Iterator[bytes]:
        for i in range(3):
            yield b"part %d" % i
            gate.wait()
        raise ZeroDivisionError

    def handler(message: bytes) -> Any:
        return replies() if message == b"go" else message

    with serving(handler) as server, clients(server, 2) as (peer, quick):
        peer.send_many([b"1", b"go", b"2"])
        assert peer.recv() == b"1"
        for i in range(3):
            assert peer.recv() == b"part %d" % i
            gate.holds(1)
            assert quick.request(b"x") == b"x"
            gate.let()
        assert list(peer) == []
        assert server.stats["handler_errors"] == 1


def test_iterator_of_replies_is_closed_when_its_client_is_gone() -> None:
    """Also where its end takes long: nobody waits for that either."""
    gate, ended = Gate(), threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(65536)
        finally:
            gate.wait()
            ended.set()

    def handler(message: bytes) -> Any:
        return endless() if message == b"go" else message

    with serving(handler, linger=0.0) as server, clients(server, 1) as (quick,):
        with connected(server) as sock:
            sock.sendall(frame(b"go"))
            assert pysock.recv_exactly(sock, 65540)
        gate.holds(1)
        quick.timeout = PROMPT
        try:
            assert quick.request(b"x") == b"x"
        finally:
            gate.let()
        assert ended.wait(LONG)


@pytest.mark.parametrize("rubbish", ["text", 7, [b"good", "bad"], {1: 2}])
def test_rubbish_from_a_handler_that_blocked_ends_its_connection_only(
    rubbish: object, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    def handler(message: bytes) -> Any:
        gate(message)
        return rubbish if message == b"block" else message

    with serving(handler) as server, clients(server, 2) as (bad, good):
        bad.send(b"block")
        gate.holds(1)
        assert good.request(b"x") == b"x"
        gate.let()
        assert list(bad) == ([b"good"] if isinstance(rubbish, list) else [])
        assert good.request(b"x") == b"x"
    assert caplog.text.count("\nTypeError") == 1


@pytest.mark.parametrize("held_up", [False, True])
def test_large_reply_that_is_not_taken_holds_nobody(held_up: bool) -> None:
    """The tail is parked, by the leader or by one who leads no longer."""
    gate = Gate()
    large = bytes(10 << 20)

    def handler(message: bytes) -> bytes:
        gate(message)
        return large if message.endswith(b"large") else message

    with serving(handler, workers=2) as server, clients(server, 2) as (slow, quick):
        slow.send_many([b"block large" if held_up else b"large", b"after"])
        if held_up:
            gate.holds(1)
            assert quick.request(b"x") == b"x"
            gate.let()
        # Of large replies the tail alone is left: nobody is in a handler, or in a send.
        until(lambda: any(one.unsent for one in served(server)))
        for i in range(50):
            assert quick.request(b"%d" % i) == b"%d" % i
        assert slow.recv() == large
        assert slow.recv() == b"after"


@pytest.mark.case("C08")
def test_reply_behind_a_send_that_is_stuck_holds_nobody() -> None:
    """The application's own threads send to peers that neither read nor go away."""
    workers = 2
    stuck: list[Any] = []

    def push(connection: pysock.Connection) -> None:
        with pytest.raises((OSError, pysock.ConnectionClosed)):
            connection.send(bytes(64 << 20))

    def handler(message: bytes, connection: pysock.Connection) -> bytes | None:
        if message != b"subscribe":
            return message
        stuck.append(stack.enter_context(background(push, connection)))
        return None

    with (
        contextlib.ExitStack() as stack,
        serving(handler, workers=workers, linger=0.0) as server,
        clients(server, workers + 1) as (quick, *evil),
    ):
        for peer in evil:
            peer.linger = 0.0
            peer.send(b"subscribe")
        until(lambda: len(stuck) == workers)
        until(lambda: sum(one.stats.waits_out > 0 for one in served(server)) == workers)
        for peer in evil:
            peer.send(b"and you?")
        until(lambda: server.stats["messages_in"] == 2 * workers)
        quick.timeout = PROMPT
        try:
            assert quick.request(b"x") == b"x"
        finally:
            server.stop(0)


def test_reply_behind_a_thread_that_takes_its_time_costs_nothing() -> None:
    """It sends what comes slowly: the peer has room, and the reply has to wait."""
    more = threading.Semaphore(0)
    threads: list[Any] = []

    def slowly() -> Iterator[bytes]:
        for i in range(3):
            yield b"part %d" % i
            assert more.acquire(timeout=LONG)

    def handler(message: bytes, connection: pysock.Connection) -> bytes | None:
        if message != b"subscribe":
            return message
        threads.append(stack.enter_context(background(connection.send_many, slowly())))
        return None

    with (
        serving(handler, workers=2) as server,
        clients(server, 2) as (peer, quick),
        contextlib.ExitStack() as stack,
    ):
        peer.send(b"subscribe")
        until(lambda: threads)
        peer.send(b"and you?")
        assert quick.request(b"x") == b"x"
        began = time.process_time()
        time.sleep(10 * SHORT)
        spent = time.process_time() - began
        more.release(3)
        assert [peer.recv() for _ in range(4)] == [
            b"part 0",
            b"part 1",
            b"part 2",
            b"and you?",
        ]
        assert spent < 5 * SHORT


@pytest.mark.case("D15")
def test_handler_that_blocks_may_stop_the_server() -> None:
    gate = Gate()

    def handler(message: bytes) -> bytes:
        gate(message)
        if message == b"block":
            server.stop()
            assert server.stopping
        return message

    with serving(handler) as server, clients(server, 2) as (peer, quick):
        assert quick.request(b"x") == b"x"
        peer.send_many([b"block", b"after"])
        gate.holds(1)
        assert quick.request(b"x") == b"x"
        gate.let()
        assert list(peer) == [b"block", b"after"]
        assert list(quick) == []
        server.stop()


def test_stats_can_be_asked_for_in_handlers() -> None:
    gate = Gate()

    def handler(message: bytes) -> bytes:
        gate(message)
        return repr(server.stats["threads"]).encode()

    with serving(handler, workers=3) as server, clients(server, 2) as (peer, quick):
        peer.send(b"block")
        gate.holds(1)
        assert int(quick.request(b"x")) >= 2
        gate.let()
        assert int(peer.recv()) <= 3
        assert server.stats["connections"] == 2


# ------------------------------------------------------------ errors without end


@pytest.mark.case("L19")
def test_handlers_that_always_fail_are_logged_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """L19: the server lives, and so does the disk that the log is on."""

    def handler(message: bytes) -> bytes:
        raise ZeroDivisionError("always")

    began = time.monotonic()
    with serving(handler) as server:
        for _ in range(150):
            with clients(server, 1) as (peer,):
                peer.send(b"x")
                assert list(peer) == []
        assert server.stats["handler_errors"] == 150
    seconds = 1 + int(time.monotonic() - began)
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert 1 <= len(errors) <= 5 * (1 + seconds)
    assert errors[0].exc_info is not None


@pytest.mark.case("D02")
def test_replies_to_a_client_that_was_reset_harm_nobody() -> None:
    """D02: while its handler runs."""
    gate = Gate()
    with serving(gate, linger=0.0) as server, clients(server, 1) as (good,):
        for _ in range(5):
            with connected(server) as sock:
                sock.sendall(frame(b"block") + frame(b"after"))
                gate.holds(1)
                reset(sock)
            assert good.request(b"x") == b"x"
            gate.let()
            until(lambda: server.stats["connections"] == 1, PROMPT)
        assert server.stats["handler_errors"] == 0
