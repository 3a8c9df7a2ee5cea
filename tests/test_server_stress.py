"""Server by turns, for long: handlers of every kind at random, closes, stops under load."""

from __future__ import annotations

import contextlib
import os
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import also_over_tls, over_both
from conftest import TIME_FACTOR
from gate import HERE, served
from peers import LONG, background, until

transport = both_ways.transport

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SECONDS = 20.0
GONE = (pysock.ConnectionClosed, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
LARGE = 300_000


@pytest.fixture(params=[None, 1e-6], ids=["as usual", "switching all the time"])
def seed(request: pytest.FixtureRequest) -> Iterator[int]:
    """A new one each time, shown by a test that fails; with two ways to switch threads."""
    before = sys.getswitchinterval()
    if request.param is not None:
        sys.setswitchinterval(request.param)
    number = int.from_bytes(os.urandom(4))
    print("seed", number)
    yield number
    sys.setswitchinterval(before)


class Deeds:
    """A handler that does what the message says; and what comes of it, for the client.

    A message is a number that no other has, and a letter.
    """

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.raised = 0
        self._guard = threading.Lock()

    def __call__(self, message: bytes, connection: Any) -> Any:
        with self._guard:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            deed: Callable[..., Any] = getattr(self, f"do_{message[-1:].decode()}")
            return deed(message, connection)
        finally:
            with self._guard:
                self.inside -= 1

    def do_q(self, message: bytes, _: Any) -> bytes:
        return message

    def do_s(self, message: bytes, _: Any) -> bytes:
        time.sleep(random.random() * 0.006)
        return message

    def do_c(self, message: bytes, _: Any) -> bytes:
        end = time.perf_counter() + random.random() * 0.004
        while time.perf_counter() < end:
            pass
        return message

    def do_i(self, message: bytes, _: Any) -> Iterator[bytes]:
        for i in range(3):
            time.sleep(random.random() * 0.002)
            yield b"%s %d" % (message, i)

    def do_d(self, message: bytes, connection: Any) -> bytes:
        connection.send(b"directly " + message)
        return message

    def do_r(self, message: bytes, connection: Any) -> bytes:
        more: bytes = connection.recv()
        return message + more

    def do_n(self, message: bytes, _: Any) -> None:
        pass

    def do_l(self, message: bytes, _: Any) -> bytes:
        return message.ljust(LARGE, b".")

    def do_b(self, message: bytes, _: Any) -> list[Any]:
        return [bytearray(message), memoryview(message)]

    def do_e(self, message: bytes, connection: Any) -> None:
        with self._guard:
            self.raised += 1
        raise ZeroDivisionError

    def do_z(self, message: bytes, connection: Any) -> bytes:
        if message[-2:-1] in b"02468":
            time.sleep(0.003)
        connection.close()
        return message

    @staticmethod
    def replies(message: bytes) -> list[bytes]:
        """What the client gets for it."""
        letter = message[-1:]
        if letter == b"i":
            return [b"%s %d" % (message, i) for i in range(3)]
        return {
            b"d": [b"directly " + message, message],
            b"r": [message + b"more"],
            b"l": [message.ljust(LARGE, b".")],
            b"b": [message, message],
            **dict.fromkeys((b"n", b"e", b"z"), []),
        }.get(letter, [message])


def converse(address: Any, numbers: Iterator[int], seed: int, end: float) -> int:
    """Have batches of messages served until *end*; return how many messages were sent."""
    dice = random.Random(seed)
    sent = 0
    while time.monotonic() < end:
        with pysock.Client(address, timeout=3 * LONG, linger=1.0) as peer:
            for _ in range(dice.randrange(1, 20)):
                letters = dice.choices(
                    "qscidrnlb", (40, 6, 2, 4, 6, 6, 6, 1, 6), k=dice.randrange(30)
                )
                last = dice.random() < 0.1
                if last:
                    letters.append(dice.choice("ez"))
                batch, expected = [], []
                for letter in letters:
                    message = b"%d%s" % (next(numbers), letter.encode())
                    batch.append(message)
                    expected += Deeds.replies(message)
                    if letter == "r":
                        batch.append(b"more")
                sent += len(batch)
                if dice.random() < 0.3:
                    for message in batch:
                        peer.send(message)
                else:
                    peer.send_many(batch)
                got = list(peer) if last else [peer.recv() for _ in expected]
                assert got == expected, f"{got[:3]!r}, not {expected[:3]!r}"
                if last:
                    break
    return sent


@also_over_tls("workers", [1, 2, 8], [1, 8])
def test_random_handlers_answer_right_and_in_order(seed: int, workers: int) -> None:
    deeds = Deeds()
    numbers = iter(range(1 << 60))
    end = time.monotonic() + SECONDS / 3
    with pysock.Server(HERE, deeds, workers=workers) as server:
        server.start()
        with contextlib.ExitStack() as stack:
            tasks = [
                stack.enter_context(
                    background(converse, server.address, numbers, seed + i, end)
                )
                for i in range(10)
            ]
            for task in tasks:
                task.join(SECONDS + 3 * LONG)
        sent = sum(task.finish() for task in tasks)
        until(lambda: not served(server))
        assert server.stats["messages_in"] == sent
        assert server.stats["handler_errors"] == deeds.raised
        assert deeds.most <= workers
        if workers > 1:
            assert server.stats["takeovers"] > 10


@over_both
def test_connections_that_threads_close_at_random(seed: int, transport: str) -> None:
    """Nobody gets another's reply, or none at all: each is answered, or sees an end."""
    kept: dict[bytes, Any] = {}
    dice = random.Random(seed)
    end = time.monotonic() + SECONDS / 3

    def handler(message: bytes, connection: Any) -> bytes:
        kept[message.partition(b" ")[0]] = connection
        if message.endswith(b"7"):
            time.sleep(0.002)
        return message

    def talk(server: pysock.Server, name: bytes) -> None:
        while time.monotonic() < end:
            with (
                contextlib.suppress(*GONE),
                pysock.Client(server.address, timeout=LONG, linger=0.0) as peer,
            ):
                for i in range(200):
                    batch = [b"%s %d" % (name, i + k) for k in range(i % 5 + 1)]
                    assert peer.request_many(batch) == batch

    def shut() -> None:
        while time.monotonic() < end:
            time.sleep(0.001)
            for connection in dice.sample(list(kept.values()), min(3, len(kept))):
                if dice.random() < 0.2 and transport == "tcp":
                    with contextlib.suppress(RuntimeError, pysock.ConnectionClosed):
                        connection.detach(leftover=True)[0].close()
                else:
                    connection.close()

    with pysock.Server(HERE, handler, workers=4, linger=0.0) as server:
        server.start()
        with contextlib.ExitStack() as stack:
            for i in range(8):
                stack.enter_context(background(talk, server, b"%d" % i))
            for _ in range(3):
                stack.enter_context(background(shut))
            time.sleep(max(0.0, end - time.monotonic()))
        until(lambda: not served(server))
        assert server.stats["accepted"] > 8
        assert server.stats["handler_errors"] == 0


@pytest.mark.case("C11")
@also_over_tls("workers", [0, 1, 4], [0, 4])
def test_stop_and_start_under_load(seed: int, workers: int) -> None:
    """C11: what is answered is answered right; all that was sent before a stop is."""
    dice = random.Random(seed)
    end = time.monotonic() + SECONDS / 4

    def handler(message: bytes) -> bytes:
        if message.endswith(b"7"):
            time.sleep(0.003)
        return message

    def talk(server: pysock.Server, name: bytes) -> int:
        answered = 0
        while time.monotonic() < end:
            with (
                contextlib.suppress(*GONE),
                pysock.Client(server.address, timeout=LONG, linger=0.1) as peer,
            ):
                for i in range(200):
                    batch = [b"%s %d" % (name, i + k) for k in range(i % 7 + 1)]
                    assert peer.request_many(batch) == batch
                    answered += 1
        return answered

    with pysock.Server(HERE, handler, workers=workers, linger=0.5) as server:
        with contextlib.ExitStack() as stack:
            tasks = [
                stack.enter_context(background(talk, server, b"%d" % i)) for i in range(6)
            ]
            while time.monotonic() < end:
                server.start()
                time.sleep(dice.random() * 0.1)
                began = time.monotonic()
                server.stop(dice.choice([0, 0.1, 5]))
                assert time.monotonic() - began < 7 * TIME_FACTOR
            server.start()
            for task in tasks:
                task.join(LONG)
            assert sum(task.finish() for task in tasks) > 20
        assert server.stats["handler_errors"] == 0
