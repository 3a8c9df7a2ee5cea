"""Threads on one connection for long: moments that a short test does not hit."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
import time
import warnings
from typing import Any

import pytest

import certificates
import peers
import pysock
from certificates import Certificates
from conftest import TIME_FACTOR
from gate import echo, serving
from peers import LONG, PROMPT, Task, linked, pattern
from pysock import Connection
from pysock.errors import ConnectionClosed

certs = certificates.certs
ends, few_own_ends = peers.ends, peers.few_own_ends

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SIZES = [0, 9, 400, 9000, 70_000, 400_000]


@pytest.mark.case("C03")
def test_duplex_traffic_of_random_sizes_for_long_c03(ends: Any) -> None:
    conns = [end.connection(timeout=LONG) for end in ends]
    over = time.monotonic() + 4 * TIME_FACTOR

    def send(conn: Connection, seed: int) -> None:
        choose = random.Random(seed)
        while time.monotonic() < over:
            conn.send_many(pattern(choose.choice(SIZES)) for _ in range(choose.choice([1, 9])))
            choose.random()
        conn.send(b"end")

    def take(conn: Connection) -> int:
        count = 0
        while (message := conn.recv()) != b"end":
            assert len(message) in SIZES and message == pattern(len(message))
            count += 1
        return count

    sending = [Task(send, conn, seed) for seed, conn in enumerate(conns)]
    taking = [Task(take, conn) for conn in conns]
    for task in sending:
        task.finish(3 * LONG)
    assert all(task.finish(3 * LONG) > 100 for task in taking)


@pytest.mark.case("C07")
def test_close_at_any_moment_ends_all_calls_c07(few_own_ends: Any, tmp_path: Any) -> None:
    """Senders, receivers and those that wait for their turn, none of them hangs."""
    dice = random.Random(7)
    kind = "tls" if hasattr(few_own_ends[0], "tls") else "socketpair"
    for i in range(150):
        with linked(kind, tmp_path / str(i)) as (near, far):
            conn, other = near.connection(linger=0.0), far.connection(linger=0.0)

            def use(call: Any, *args: Any) -> None:
                with contextlib.suppress(ConnectionClosed, ConnectionError):
                    while True:
                        call(*args)

            calls = [
                (conn.send, pattern(300_000)),
                (conn.send, b"x"),
                (conn.recv,),
                (conn.request_many, [b"y"] * 20),
                (other.recv,),
                (other.send_many, [pattern(3000)] * 20),
            ]
            tasks = [Task(use, *call) for call in calls]
            time.sleep(dice.random() * 0.01)
            conn.close()
            other.close()
            for task in tasks:
                task.finish(PROMPT)


@pytest.mark.case("C09")
def test_buffers_that_other_threads_resize_all_the_time_c09(ends: Any) -> None:
    conn, other = (end.connection(timeout=LONG) for end in ends)
    sent, filled = bytearray(pattern(50_000)), bytearray(50_000)
    over = threading.Event()
    refused = 0

    def resize() -> None:
        nonlocal refused
        while not over.is_set():
            for buffer in (sent, filled):
                try:
                    buffer.append(0)
                    buffer.pop()
                except BufferError:
                    refused += 1
            time.sleep(0)

    def take() -> None:
        end = time.monotonic() + 2 * TIME_FACTOR
        while time.monotonic() < end:
            size = other.recv_into(filled)
            assert size in (50_000, 50_001)
            assert filled[:50_000] == pattern(50_000)
        over.set()
        other.close()

    def give() -> None:
        with contextlib.suppress(ConnectionClosed, ConnectionError):
            while True:
                conn.send(sent)

    filled += bytes(8)
    tasks = [Task(resize), Task(take), Task(give)]
    for task in tasks:
        task.finish(2 * LONG)
    assert refused


@pytest.mark.case("C10")
def test_connections_dropped_while_threads_are_inside_c10(tmp_path: Any) -> None:
    dice = random.Random(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # nobody closes them
        for i in range(100):
            with linked(("socketpair", "tls")[i % 2], tmp_path) as (near, far):
                held = [near.connection()]
                other = far.connection(linger=0.0)

                def receive(conn: Connection) -> None:
                    with contextlib.suppress(ConnectionClosed, ConnectionError):
                        while True:
                            conn.recv()

                tasks = [Task(receive, held[0]) for _ in range(2)]
                near.forget()
                with contextlib.suppress(ConnectionError):
                    for _ in range(dice.randrange(3)):
                        other.send(b"x")
                held.clear()
                if i % 10 == 9:
                    gc.collect()
                other.close()
                for task in tasks:
                    task.finish(PROMPT)
                del tasks, task
            gc.collect()


@pytest.mark.case("T12")
def test_threads_share_the_contexts_of_both_ends_t12(certs: Certificates) -> None:
    """32 of them, for handshakes and for talk; while others load the same files anew."""
    near, far = certs.client_context(), certs.server_context()
    start = threading.Barrier(32, timeout=LONG)
    over = threading.Event()

    def talk(address: Any, number: int) -> None:
        start.wait()
        for i in range(15):
            with pysock.Client(address, tls=near, timeout=LONG, linger=0.0) as client:
                for size in (1, 20_000):
                    message = b"%d %d " % (number, i) + pattern(size)
                    assert client.request(message) == message

    def load_anew() -> None:
        while not over.is_set():
            certs.client_context()
            certs.server_context()
            time.sleep(0.01)

    with serving(echo, tls=far) as server:
        loading = Task(load_anew)
        tasks = [Task(talk, server.address, number) for number in range(32)]
        for task in tasks:
            task.finish(3 * LONG)
        over.set()
        loading.finish()
        assert server.stats["handshake_failures"] == 0
        assert server.stats["accepted"] == 32 * 15


@pytest.mark.case("T12")
def test_connections_outlive_their_context_t12(certs: Certificates) -> None:
    """A renewed certificate is a new context; who is connected goes on with the old one."""
    contexts = [certs.server_context(), pysock.tls.server_context(*certs.chain)]
    clients, seen = [], []
    with contextlib.ExitStack() as stack:
        for context in contexts:
            server = stack.enter_context(serving(echo, tls=context))
            client = stack.enter_context(
                pysock.Client(server.address, tls=certs.client_context(), timeout=LONG)
            )
            clients.append(client)
            seen.append(client.tls.getpeercert(True))
        del contexts, context
        gc.collect()
        for _ in range(50):
            assert [client.request(b"x") for client in clients] == [b"x", b"x"]
        assert seen == [client.tls.getpeercert(True) for client in clients]
        assert seen[0] != seen[1]
