"""Counts messages per second: pysock and multiprocessing.connection, by turns.

Part of `pysock demo`.  The other end of each connection is this module, run as a program
in a process of its own: it prints its port, takes one connection, and then does what the
messages of the client say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection as mp
from typing import Any, Self

import pysock

__all__ = ["PYSOCK", "RIVAL", "WORKS", "race"]

PYSOCK, RIVAL = "pysock", "multiprocessing.connection"

SIZE = 64
ROUNDS = 7
ROUND_SECONDS = 0.12
BATCH = 500  # messages that send_many gets at once
STARTUP = 30.0  # seconds that a peer waits for its client

_MESSAGE = b"x" * SIZE


@dataclass(frozen=True)
class Calls:
    """The calls of one library that the works make."""

    send: Callable[[bytes], object]
    recv: Callable[[], bytes]
    send_many: Callable[[Sequence[bytes]], object]
    recv_many: Callable[[], Sequence[bytes]]
    close: Callable[[], object]


def _of_pysock(conn: pysock.Connection) -> Calls:
    return Calls(conn.send, conn.recv, conn.send_many, conn.recv_many, conn.close)


def _of_rival(conn: Any) -> Calls:
    send, recv = conn.send_bytes, conn.recv_bytes

    def send_many(messages: Sequence[bytes]) -> None:
        for message in messages:
            send(message)

    return Calls(send, recv, send_many, lambda: [recv()], conn.close)


# ---------------------------------------------------------------- the works


def _ask(calls: Calls, count: int) -> None:
    send, recv = calls.send, calls.recv
    for _ in range(count):
        send(_MESSAGE)
        recv()


def _answer(calls: Calls, count: int) -> None:
    send, recv = calls.send, calls.recv
    for _ in range(count):
        send(recv())


def _pour(calls: Calls, count: int) -> None:
    batch = [_MESSAGE] * BATCH
    for _ in range(count // BATCH):
        calls.send_many(batch)
    calls.recv()  # the other end has them all


def _take(calls: Calls, count: int) -> None:
    got = 0
    while got < count // BATCH * BATCH:
        got += len(calls.recv_many())
    calls.send(b"all")


# What each work is called, and its two ends.
WORKS = {"ask and answer": (_ask, _answer), "one way": (_pour, _take)}


def race() -> dict[str, dict[str, float]]:
    """Return the messages per second of each work and library, medians of `ROUNDS`."""
    with contextlib.ExitStack() as stack:
        its = stack.enter_context(_own_cores())
        racers = [stack.enter_context(_Racer(name, its)) for name in (PYSOCK, RIVAL)]
        return {
            work: dict(zip((PYSOCK, RIVAL), _compare(work, racers), strict=True))
            for work in WORKS
        }


@contextlib.contextmanager
def _own_cores() -> Iterator[set[int]]:
    """Keep this process to one core; yield where its peers go.

    Whether both ends happen to share a core changes the figures by more than the
    libraries do, so that must not be left to luck.
    """
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        yield set()
        return
    everywhere = os.sched_getaffinity(0)
    first, second, *_ = sorted(everywhere)
    os.sched_setaffinity(0, {first})
    try:
        yield {second}
    finally:
        os.sched_setaffinity(0, everywhere)


def _compare(work: str, racers: list[_Racer]) -> list[float]:
    counts = [racer.count_for(work) for racer in racers]
    rates: list[list[float]] = [[] for _ in racers]
    for _ in range(ROUNDS):
        for racer, count, found in zip(racers, counts, rates, strict=True):
            found.append(count / racer.round(work, count))
    return [statistics.median(found) for found in rates]


class _Racer:
    """One library: a client here, its peer in another process."""

    def __init__(self, name: str, cores: set[int]) -> None:
        self._name = name
        self._cores = cores

    def __enter__(self) -> Self:
        # The peer finds the package where this process did, and not in the current folder.
        self._peer = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, self._name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C is for this process
        )
        try:
            assert self._peer.stdout is not None
            if self._cores:
                os.sched_setaffinity(self._peer.pid, self._cores)
            port = self._peer.stdout.readline()
            if not port.strip().isdigit():
                raise ConnectionError(f"the peer for {self._name} did not start")
            self._calls = _connect(self._name, ("127.0.0.1", int(port)))
        except BaseException:
            self._peer.kill()
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._calls.close()
        finally:
            self._end()

    def _end(self) -> None:
        assert self._peer.stdout is not None
        self._peer.stdout.close()
        try:
            self._peer.wait(0.5)  # the end of its connection ends it
        except subprocess.TimeoutExpired:
            self._peer.kill()
            self._peer.wait()

    def round(self, work: str, count: int) -> float:
        """Do *work* with *count* messages; return the seconds it took."""
        self._calls.send(f"{count} {work}".encode())
        half, _ = WORKS[work]
        began = time.perf_counter()
        half(self._calls, count)
        return time.perf_counter() - began

    def count_for(self, work: str) -> int:
        """Return how many messages last about `ROUND_SECONDS`."""
        count = BATCH
        while (seconds := self.round(work, count)) < ROUND_SECONDS / 2:
            count *= 4 if seconds < ROUND_SECONDS / 8 else 2
        return max(BATCH, int(count * ROUND_SECONDS / seconds) // BATCH * BATCH)


# ---------------------------------------------------------------- the two ends


def _connect(name: str, address: tuple[str, int]) -> Calls:
    if name == PYSOCK:
        return _of_pysock(pysock.Client(address))
    return _of_rival(mp.Client(address))


def _accept(name: str) -> Calls:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.write(1, b"%d\n" % listener.getsockname()[1])
        listener.settimeout(STARTUP)
        sock, _ = listener.accept()
    if name == PYSOCK:
        return _of_pysock(pysock.Connection(sock))
    return _of_rival(mp.Connection(sock.detach()))


def _serve(name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        calls = _accept(name)
    except OSError:
        return  # who asked for this peer has gone
    try:
        while True:
            count, work = calls.recv().decode().split(maxsplit=1)
            _, half = WORKS[work]
            half(calls, int(count))
    except (EOFError, OSError):
        pass  # the demonstration is over
    finally:
        calls.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
