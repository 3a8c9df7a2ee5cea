"""A server of plain bytes for tests of clients: it can go away and come back.

A test module takes fixtures from here by assigning them: `again = listeners.again`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import both_ways
from peers import LONG, Task
from pysock import Client

transport = both_ways.transport


class Peer:
    """A server for one client at a time.

    `encrypted` says whether it does TLS with who it accepts.
    """

    encrypted = False

    def __init__(self, family: Any = socket.AF_INET, name: Any = ("127.0.0.1", 0)) -> None:
        self._family = family
        self.name = name
        self.listen()
        self.served: socket.socket | None = None

    def listen(self) -> None:
        self.listener = socket.socket(self._family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(self.name)
        self.listener.listen()
        self.listener.settimeout(LONG)
        self.name = self.listener.getsockname()

    def accept(self) -> socket.socket:
        self.hang_up()
        self.served = self.listener.accept()[0]
        self.served.settimeout(LONG)
        if self.encrypted:
            self.served = both_ways.accepted(self.served)
        return self.served

    def hang_up(self) -> None:
        if self.served is not None:
            self.served.close()

    def close(self) -> None:
        self.hang_up()
        self.listener.close()


@pytest.fixture
def server() -> Iterator[Peer]:
    with contextlib.closing(Peer()) as peer:
        yield peer


@pytest.fixture
def again(server: Peer, transport: str) -> Iterator[Client]:
    """A client that connects again, over TCP and over TLS."""
    server.encrypted = transport == "tls"
    connecting = Task(
        lambda: Client(server.name, reconnect=True, linger=0, connect_timeout=LONG)
    )
    server.accept()
    with connecting.finish() as client:
        yield client
