"""A handler that blocks until it is told to go on, and what tests of servers need besides."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import both_ways
import pysock
from conftest import TIME_FACTOR, unix
from peers import LONG, until

HERE = "127.0.0.1:0"
SOON = 5 * TIME_FACTOR
LARGE = bytes(16 << 20)  # more than the system takes off a server's hands


def frame(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


class Gate:
    """A handler in which messages that begin with b"block" wait to be let through."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self._guard = threading.Lock()
        self._through = threading.Semaphore(0)

    def __call__(self, message: bytes) -> Any:
        if message.startswith(b"block"):
            self.wait()
        return message

    def wait(self) -> None:
        with self._guard:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            assert self._through.acquire(timeout=LONG)
        finally:
            with self._guard:
                self.inside -= 1

    def let(self, count: int = 1) -> None:
        self._through.release(count)

    def holds(self, count: int) -> None:
        until(lambda: self.inside == count)


@contextlib.contextmanager
def clients(server: pysock.Server, count: int) -> Iterator[list[pysock.Client]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(pysock.Client(server.address, timeout=LONG))
            for _ in range(count)
        ]


def serving(handler: Callable[..., Any], **options: Any) -> pysock.Server:
    return pysock.Server(HERE, handler, **options).start()


def served(server: pysock.Server) -> list[Any]:
    """The server's own ends of its connections, open or about to be closed."""
    loop = server._loop
    return [] if loop is None else list(loop.served)


# ------------------------------------------------------------ clients


def client(server: pysock.Server, **options: Any) -> pysock.Client:
    return pysock.Client(server.address, timeout=SOON, **options)


def connected(server: pysock.Server, room: int = 0) -> socket.socket:
    """A plain client; *room* is the size of its buffer for what comes."""
    where = server.server_address
    local = isinstance(where, str)
    internet = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    sock = socket.socket(socket.AF_UNIX if local else internet)
    try:
        if server._tls is not None:
            sock = both_ways.wrapped(sock)
        if room:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.settimeout(SOON)
        sock.connect(where)
        if not local:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def ended(sock: socket.socket) -> bool:
    """Whether nothing but the end comes."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# ------------------------------------------------------------ servers


class Echo(pysock.Session):
    def handle(self) -> None:
        for message in self.connection:
            self.connection.send(message)


def echo(message: bytes) -> bytes:
    return message


ECHOES = [pytest.param(echo, id="handler"), pytest.param(Echo, id="session")]


@pytest.fixture(params=["tcp", pytest.param("unix", marks=unix)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"unix://{tmp_path}/s"


@pytest.fixture
def upper() -> Iterator[pysock.Server]:
    with pysock.Server("tcp://127.0.0.1:0", bytes.upper).start() as server:
        yield server


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
