"""All limits at once, tiny, with many kinds of bad clients: the good ones do not notice."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import also_over_tls
from conftest import TIME_FACTOR, unix
from peers import LONG, PROMPT, Task, until

transport = both_ways.transport

KIB = 1 << 10
FRAMING = pysock.LengthField(max_frame=4 << 20)
ROOM = 900 * KIB


def push(connection: pysock.Connection) -> None:
    with contextlib.suppress(OSError, EOFError):
        for _ in range(5):
            connection.send(bytes(200 * KIB))


def answer(message: bytes, connection: pysock.Connection) -> bytes | None:
    """Echo, but for what the first byte says."""
    if message[:1] == b"s":
        time.sleep(0.004)
    elif message[:1] == b"e":
        raise ZeroDivisionError
    elif message[:1] == b"c":
        connection.close()
        return None
    elif message[:1] == b"p":
        threading.Thread(target=push, args=(connection,)).start()
    return message


class Answers(pysock.Session):
    def handle(self) -> None:
        for message in self.connection:
            reply = answer(message, self.connection)
            if reply is not None:
                self.connection.send(reply)


class Crowd:
    """Clients of one server, until a moment."""

    def __init__(self, server: pysock.Server, seed: int, seconds: float) -> None:
        self._server = server
        self._end = time.monotonic() + seconds
        self.answered = 0
        self.tasks = [Task(self._good, Random(seed * 100 + i)) for i in range(4)]
        self.tasks += [Task(self._bad, Random(seed * 100 + 50 + i)) for i in range(8)]

    def _good(self, random: Random) -> None:
        while time.monotonic() < self._end:
            address = random.choice(self._server.addresses)
            with pysock.Client(address, FRAMING, timeout=2 * LONG, linger=0.0) as peer:
                for _ in range(random.randint(1, 30)):
                    size = random.choice([0, 10, 1000, 60 * KIB, 300 * KIB, ROOM])
                    message = random.choice([b"q", b"q", b"s"]) + random.randbytes(size)
                    assert peer.request(message) == message
                    self.answered += 1

    def _bad(self, random: Random) -> None:
        while time.monotonic() < self._end:
            sock = pysock.address.connect(random.choice(self._server.addresses), LONG)
            sock.settimeout(LONG)
            if self._server._tls is not None:
                try:
                    sock = both_ways.wrapped(sock)
                except OSError:
                    continue  # it took its time, and another one its place
            with sock:
                sock.settimeout(random.choice([0.01, 0.1, 0.5]))
                with contextlib.suppress(OSError):
                    for _ in range(random.randint(1, 6)):
                        self._misbehave(sock, random)

    def _misbehave(self, sock: socket.socket, random: Random) -> None:
        deed = random.randrange(9)
        if deed == 0:
            sock.sendall(struct.pack(">I", random.choice([1, 100, ROOM])) + b"part")
        elif deed == 1:
            sock.sendall(b"\xff" * random.randint(1, 100))
        elif deed == 2:
            sock.sendall(FRAMING.encode(bytes(300 * KIB)) * 10)
        elif deed == 3:
            sock.sendall(FRAMING.encode(random.choice([b"e", b"c", b"p", b"s"])))
        elif deed == 4:
            time.sleep(random.random() * 0.4)
        elif deed == 5:
            sock.shutdown(socket.SHUT_WR)
        elif deed == 6:
            sock.recv(65536)
        elif deed == 7:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        else:
            sock.sendall(struct.pack(">I", ROOM) + bytes(random.randint(0, ROOM)))


def refused_in_chaos(
    folder: Path, handler: Any, workers: int, seed: int, seconds: float
) -> int:
    """Serve good and bad clients for a while; return how many the server refused."""
    where = ["127.0.0.1:0", str(folder / "s")]
    limits: dict[str, Any] = {
        "max_connections": 12,
        "max_memory": 512 * KIB,
        "idle_timeout": 0.5 * TIME_FACTOR,
        "send_timeout": 0.5 * TIME_FACTOR,
        "minimum_rate": (0.5 * TIME_FACTOR, 1e5 / TIME_FACTOR),
        "linger": 0.2,
    }
    with pysock.Server(where, handler, framing=FRAMING, workers=workers, **limits) as server:
        server.start()
        crowd = Crowd(server, seed, seconds)
        for task in crowd.tasks:
            task.finish(seconds + 3 * LONG)
        assert crowd.answered > 20
        until(lambda: server.stats["connections"] == 0)
        assert server._loop is not None and server._loop._memory is not None
        assert server._loop._memory.used == 0
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < PROMPT
        return server.stats["refused"]


@unix
@also_over_tls(
    "handler,workers",
    [(answer, 0), (answer, 1), (answer, 4), (Answers, 0)],
    [(answer, 4)],
)
def test_good_clients_among_bad_ones(handler: Any, workers: int, tmp_path: Path) -> None:
    seconds = 1.5 * TIME_FACTOR
    assert refused_in_chaos(tmp_path, handler, workers, workers, seconds) == 0


@unix
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@also_over_tls(
    "handler,workers",
    [(answer, 0), (answer, 1), (answer, 16), (Answers, 0)],
    [(answer, 0), (answer, 16), (Answers, 0)],
)
def test_good_clients_among_bad_ones_for_long(
    handler: Any, workers: int, seed: int, tmp_path: Path
) -> None:
    assert refused_in_chaos(tmp_path, handler, workers, seed, seconds=15) == 0
