"""Servers of datagrams for tests, and plain sockets that ask them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import pysock
from conftest import ipv6, linux, unix
from peers import LONG, until

UDP = "udp://127.0.0.1:0"

ADDRESSES = [
    pytest.param("udp4"),
    pytest.param("udp6", marks=ipv6),
    pytest.param("everywhere", marks=ipv6),
    pytest.param("path", marks=unix),
    pytest.param("abstract", marks=linux),
]

_numbers = itertools.count()


def address_of(kind: str, folder: Path) -> str:
    """An address of one of the kinds of ADDRESSES."""
    return {
        "udp4": UDP,
        "udp6": "udp://[::1]:0",
        "everywhere": "udp://:0",
        "path": f"unixgram://{folder}/s",
        "abstract": f"unixgram:@pysock-{os.getpid()}-{next(_numbers)}",
    }[kind]


@pytest.fixture(params=ADDRESSES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return address_of(request.param, tmp_path)


@pytest.fixture(params=[0, 4])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def serving(
    handler: Callable[..., Any], address: Any = UDP, **options: Any
) -> pysock.DatagramServer:
    return pysock.DatagramServer(address, handler, **options).start()


def fail(message: bytes) -> bytes:
    if message == b"fail":
        raise ValueError("as told")
    return message


class Asker:
    """A plain socket that sends datagrams to a server.

    Args:
        server: which one.
        name: to bind to; None: any, for Unix sockets beside the server's.
    """

    def __init__(self, server: pysock.DatagramServer, name: Any = None) -> None:
        self.to = server.server_address
        self.sock = socket.socket(server.socket.family, socket.SOCK_DGRAM)
        self.sock.settimeout(LONG)
        if isinstance(self.to, tuple):
            if self.to[0] in ("::", "0.0.0.0"):
                self.to = ("::1" if ":" in self.to[0] else "127.0.0.1", self.to[1])
            name = name or (self.to[0], 0)
        elif name is None:
            number = next(_numbers)
            name = (
                self.to + b"-%d" % number
                if isinstance(self.to, bytes)
                else f"{self.to}-{number}"
            )
        if str(name[0]).startswith("::ffff:"):
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.sock.bind(name)

    def send(self, *messages: bytes | bytearray) -> None:
        for message in messages:
            self.sock.sendto(message, self.to)

    def recv(self) -> bytes:
        return self.sock.recv(1 << 18)

    def take(self, count: int) -> list[bytes]:
        return [self.recv() for _ in range(count)]

    def ask(self, message: bytes) -> bytes:
        self.send(message)
        return self.recv()

    @property
    def name(self) -> Any:
        return self.sock.getsockname()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def nameless(server: pysock.DatagramServer) -> Iterator[socket.socket]:
    """A Unix socket that is bound to nothing, connected to the server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LONG)
        sock.connect(server.server_address)
        yield sock


def come_in(server: pysock.DatagramServer, count: int) -> None:
    """Wait until so many datagrams have been received."""
    until(lambda: server.stats["messages_in"] >= count)


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= level]


def filled(server: pysock.DatagramServer, asker: Asker) -> int:
    """Have a Unix asker's queue filled with replies; return how many it holds."""
    with nameless(server) as probe, contextlib.suppress(BlockingIOError):
        probe.connect(asker.name)
        probe.setblocking(False)
        for count in itertools.count():
            probe.send(b"%d" % count)
    return count
