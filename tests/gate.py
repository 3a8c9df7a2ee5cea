"""A handler that blocks until it is told to go on, and what tests of servers need besides."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
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
GONE = (ConnectionError, ssl.SSLEOFError)  # what a client's send meets


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
    sock = unconnected(server)
    try:
        if room:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.settimeout(SOON)
        sock.connect(server.server_address)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def unconnected(server: pysock.Server) -> socket.socket:
    """The same before it connects to *server*; its descriptor it has already."""
    where = server.server_address
    internet = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else internet)
    return sock if server._tls is None else both_ways.wrapped(sock)


def write(peer: pysock.Client, data: bytes) -> None:
    """Send bytes that need not be a frame."""
    framing, peer.framing = peer.framing, pysock.Raw()
    peer.send(data)
    peer.framing = framing


def ended(sock: socket.socket) -> bool:
    """Whether nothing but the end comes, be it a sudden one."""
    try:
        return sock.recv(1) == b""
    except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
        return True


def finish(sock: socket.socket) -> None:
    """Say that no more bytes will come from here; over TLS nothing can be read after that."""
    if isinstance(sock, ssl.SSLSocket):
        sock.setblocking(False)
        with contextlib.suppress(ssl.SSLError):  # of the other side's answer
            sock.unwrap()
    else:
        sock.shutdown(socket.SHUT_WR)


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
