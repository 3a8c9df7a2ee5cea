"""What the tests of pysock.testing share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from conftest import ipv6, unix

GONE = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)

FAMILIES = [
    pytest.param("AF_UNIX", marks=unix),
    "AF_INET",
    pytest.param("AF_INET6", marks=ipv6),
]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> int:
    """What a pair can be made of.  A test module takes it by assigning it."""
    return getattr(socket, request.param)


def receive(sock: socket.socket) -> Iterator[bytes]:
    """What each call of recv returns, up to the end."""
    return iter(lambda: sock.recv(1 << 16), b"")
