"""Server by turns: how many handlers run at a time, in which order, how fairly."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest

import both_ways
import pysock
from gate import Gate, clients, frame, serving, write
from peers import LONG, SHORT, background, until

transport, pytestmark = both_ways.transport, both_ways.over_both

FAIR_SHARE = 256  # messages of one connection in a turn: see crew.pxi


# ------------------------------------------------------------ how many at a time


def test_eight_handlers_that_block_are_in_it_together() -> None:
    """Only when all have come does any go on."""
    together = threading.Barrier(8, timeout=LONG)

    def handler(message: bytes) -> bytes:
        together.wait()
        return message

    with serving(handler, workers=8) as server, clients(server, 8) as peers:
        for _ in range(20):
            for peer in peers:
                peer.send(b"x")
            assert [peer.recv() for peer in peers] == [b"x"] * 8


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_never_more_handlers_than_workers(workers: int) -> None:
    """Who finds all workers in handlers waits, and goes on when one comes back."""
    gate = Gate()
    with serving(gate, workers=workers) as server, clients(server, workers + 3) as peers:
        for peer in peers:
            peer.send(b"block")
        gate.holds(workers)
        time.sleep(SHORT)
        assert gate.inside == workers
        gate.let()
        until(lambda: server.stats["messages_out"] == 1)
        gate.holds(workers)
        gate.let(workers + 2)
        assert [peer.recv() for peer in peers] == [b"block"] * len(peers)
        assert gate.most == workers
        assert server.stats["threads"] <= workers
        assert peers[0].request(b"quick") == b"quick"


@pytest.mark.parametrize("workers", [2, 3, 16])
def test_quick_requests_pass_while_all_workers_but_one_block(workers: int) -> None:
    gate = Gate()
    with serving(gate, workers=workers) as server, clients(server, workers) as peers:
        *blocked, quick = peers
        for count, peer in enumerate(blocked, 1):
            peer.send(b"block")
            gate.holds(count)
            for i in range(20):
                assert quick.request(b"%d" % i) == b"%d" % i
        with clients(server, 5) as late:  # and so do clients that come now
            for peer in late:
                assert peer.request(b"late") == b"late"
        gate.let(len(blocked))
        assert [peer.recv() for peer in blocked] == [b"block"] * len(blocked)


def test_requests_that_wait_for_all_workers_are_served_by_the_first_that_is_back() -> None:
    gate = Gate()
    with serving(gate, workers=3) as server, clients(server, 6) as peers:
        for peer in peers[:3]:
            peer.send(b"block")
        gate.holds(3)
        for peer in peers[3:]:
            peer.send(b"waits")
        time.sleep(SHORT)
        assert server.stats["messages_out"] == 0
        gate.let()
        assert [peer.recv() for peer in peers[3:]] == [b"waits"] * 3
        assert gate.inside == 2
        gate.let(2)


@pytest.mark.parametrize("workers", [0, 1])
def test_without_others_all_handlers_run_in_one_thread(workers: int) -> None:
    threads = set()

    def handler(message: bytes) -> bytes:
        threads.add(threading.current_thread())
        return message

    with serving(handler, workers=workers) as server, clients(server, 4) as peers:
        for peer in peers * 3:
            assert peer.request(b"x") == b"x"
        assert server.stats["threads"] == 1
    assert len(threads) == 1
    assert ("worker" in threads.pop().name) == bool(workers)


def test_standby_that_has_gone_to_sleep_is_called() -> None:
    """After 50 ms without a message it waits for a bell."""
    gate = Gate()
    with serving(gate, workers=2) as server, clients(server, 2) as (blocked, quick):
        for _ in range(3):
            time.sleep(0.15)
            blocked.send(b"block")
            gate.holds(1)
            assert quick.request(b"x") == b"x"
            gate.let()
            assert blocked.recv() == b"block"
        assert server.stats["takeovers"] >= 3  # more where quick handlers are held up too


# ------------------------------------------------------------ replies, and their order


@pytest.mark.parametrize("pause", [0.0, 0.15])
def test_replies_leave_when_a_later_handler_of_their_batch_blocks(pause: float) -> None:
    gate = Gate()
    with serving(gate) as server, clients(server, 1) as (peer,):
        time.sleep(pause)  # long enough for the standby to sleep
        write(peer, b"".join(map(frame, [b"1", b"2", b"block", b"3"])))
        assert [peer.recv(), peer.recv()] == [b"1", b"2"]
        assert gate.inside == 1
        gate.let()
        assert [peer.recv(), peer.recv()] == [b"block", b"3"]


def test_replies_leave_also_from_behind_the_second_handler_that_blocks() -> None:
    """The first thread has lost the lead by then: nobody takes over from it."""
    gate = Gate()
    for _ in range(5):  # one that had served this client before could still be at it
        with serving(gate) as server, clients(server, 1) as (peer,):
            write(peer, b"".join(map(frame, [b"block", b"1", b"block", b"2"])))
            gate.holds(1)
            until(lambda: server.stats["takeovers"] > 0)
            gate.let()
            assert [peer.recv(), peer.recv()] == [b"block", b"1"]
            gate.let()
            assert [peer.recv(), peer.recv()] == [b"block", b"2"]


@pytest.mark.parametrize("workers", [0, 1, 2, 16])
def test_order_is_kept_where_quick_and_slow_alternate(workers: int) -> None:
    def handler(message: bytes) -> bytes:
        if int(message) % 10 == 7:
            time.sleep(0.003)
        return message

    messages = [b"%d" % i for i in range(200)]
    with serving(handler, workers=workers) as server, clients(server, 4) as peers:
        with contextlib.ExitStack() as stack:
            tasks = [
                stack.enter_context(background(peer.request_many, messages)) for peer in peers
            ]
        assert [task.finish() for task in tasks] == [messages] * 4


def test_one_connection_is_never_in_two_handlers() -> None:
    inside: dict[pysock.Connection, threading.Lock] = {}

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        lock = inside.setdefault(connection, threading.Lock())
        assert lock.acquire(blocking=False)
        if message[-1] % 4 == 0:
            time.sleep(0.002)  # long enough for the lead to be taken
        lock.release()
        return message

    def ask(peer: pysock.Client) -> None:
        for i in range(60):  # one write each: the server sees it readable time and again
            peer.send(bytes([i]))
        assert [peer.recv() for _ in range(60)] == [bytes([i]) for i in range(60)]

    with serving(handler, workers=6) as server, clients(server, 4) as peers:
        with contextlib.ExitStack() as stack:
            for peer in peers:
                stack.enter_context(background(ask, peer))
        assert server.stats["handler_errors"] == 0
        assert server.stats["takeovers"] > 0


def test_handlers_that_compute_hold_nobody_for_long() -> None:
    """They keep the GIL; the lead may change hands meanwhile, and nothing is lost by it."""

    def handler(message: bytes) -> bytes:
        end = time.perf_counter() + int(message) / 1000
        while time.perf_counter() < end:
            pass
        return message

    heavy = [b"%d" % ms for ms in (2, 20, 5, 1, 15, 3, 0, 8)]
    with serving(handler) as server, clients(server, 4) as (quick, *peers):
        with contextlib.ExitStack() as stack:
            tasks = [
                stack.enter_context(background(peer.request_many, heavy)) for peer in peers
            ]
            for _ in range(20):
                assert quick.request(b"0") == b"0"
        assert [task.finish() for task in tasks] == [heavy] * 3


def test_pushed_messages_and_replies_do_not_mix() -> None:
    """A thread of the application sends on the connection that the server answers on."""
    pushed = 300

    def push(connection: pysock.Connection) -> None:
        for i in range(pushed):
            connection.send(b"push %d " % i + bytes(i * 20))

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message == b"subscribe":
            threads.append(stack.enter_context(background(push, connection)))
        elif message[-1:] == b"7":
            time.sleep(0.002)
        return message

    threads: list[Any] = []
    messages = [b"subscribe"] + [b"%d" % i for i in range(500)]
    with (
        serving(handler) as server,
        clients(server, 1) as (peer,),
        contextlib.ExitStack() as stack,
        background(peer.send_many, messages),
    ):
        got = [peer.recv() for _ in range(pushed + len(messages))]
    assert [one for one in got if not one.startswith(b"push")] == messages
    assert [one for one in got if one.startswith(b"push")] == [
        b"push %d " % i + bytes(i * 20) for i in range(pushed)
    ]


# ------------------------------------------------------------ fairness


@pytest.mark.case("L10")
@pytest.mark.parametrize("workers", [0, 1])
def test_long_pipelines_leave_others_their_turns(workers: int) -> None:
    """L10: counted: no more than a fair share of each busy client is served before."""
    gate = Gate()
    served: list[bytes] = []

    def handler(message: bytes) -> bytes:
        gate(message)
        served.append(message[:1])
        return message

    with serving(handler, workers=workers) as server, clients(server, 9) as peers:
        first, *rest = peers
        busy, quiet = rest[:3], rest[3:]
        for peer in rest:
            assert peer.request(b"known") == b"known"
        served.clear()
        first.send(b"block")  # until all that follows has arrived
        gate.holds(1)
        pipeline = [b"m"] * 10_000
        with contextlib.ExitStack() as stack:
            tasks = [
                stack.enter_context(background(peer.request_many, pipeline)) for peer in busy
            ]
            until(lambda: all(peer.stats.bytes_out > 20_000 for peer in busy))
            for peer in quiet:
                peer.send(b"quiet")
            gate.let()
        assert [peer.recv() for peer in quiet] == [b"quiet"] * 5
        assert [task.finish() for task in tasks] == [pipeline] * 3
        last = max(i for i, one in enumerate(served) if one == b"q")
        assert served[:last].count(b"m") <= 3 * FAIR_SHARE
        assert first.recv() == b"block"


@pytest.mark.case("L09")
def test_a_thousand_turns_at_once_are_shared_out() -> None:
    """L09: nobody is served twice over before everybody was served once."""
    gate = Gate()
    count, each = 300, 600
    served: dict[int, int] = dict.fromkeys(range(count), 0)
    lead = 0  # of the one served most, while some were not served at all

    def handler(message: bytes) -> bytes | None:
        nonlocal lead
        gate(message)
        if message[:1] == b"m":
            number = int(message[1:])
            served[number] += 1
            if served[number] > lead and not all(served.values()):
                lead = served[number]
            return message if served[number] == each else None
        return message

    with (
        serving(handler, workers=1) as server,
        clients(server, 1) as (first,),
        clients(server, count) as peers,
    ):
        for peer in peers:
            assert peer.request(b"known") == b"known"
        first.send(b"block")
        gate.holds(1)
        for number, peer in enumerate(peers):
            write(peer, frame(b"m%d" % number) * each)
        gate.let()
        for number, peer in enumerate(peers):
            assert peer.recv() == b"m%d" % number
        assert set(served.values()) == {each}
        assert lead <= 2 * FAIR_SHARE
