"""The clients of examples/legacy_protocol.py, with a plain socket for a server."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import pysock
from pages import ROOT
from programs import LIMIT

EXAMPLE = ROOT / "examples" / "legacy_protocol.py"

if not EXAMPLE.is_file():
    pytest.skip("the examples are not here", allow_module_level=True)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def read(sock: socket.socket, count: int) -> bytes:
    return pysock.recv_exactly(sock, count, LIMIT)


@contextlib.contextmanager
def client_of(role: str, *options: str) -> Iterator[tuple[Any, socket.socket]]:
    """Run our client; yield it and the server's end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        port = str(listener.getsockname()[1])
        command = [sys.executable, str(EXAMPLE), role, "--port", port, *options]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                assert process.stdin is not None
                process.stdin.write(b"hello\n")
                process.stdin.flush()
                with listener.accept()[0] as served:
                    served.settimeout(LIMIT)
                    served.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    assert read(served, 5) == b"hello"
                    yield process, served
            finally:
                process.kill()


def finish(process: Any) -> tuple[bytes, bytes]:
    """Type nothing more; return what the client has said."""
    said: tuple[bytes, bytes] = process.communicate(timeout=LIMIT)
    return said


@pytest.mark.parametrize("wire", ["ack", "length"])
def test_client_gets_bytes_that_arrive_one_by_one(wire):
    options = ["--wire", wire, "--quiet", str(LIMIT)]
    with client_of("command-client", *options) as (client, served):
        for byte in b"14":
            served.sendall(bytes([byte]))
        if wire == "ack":
            assert read(served, 8) == b"ok,ready"
        for byte in b"a file,\na file":
            served.sendall(bytes([byte]))
        assert finish(client) == (b"a file,\na file", b"")


def test_client_shows_what_comes_before_it_asks_for_more():
    options = ["--wire", "bare", "--quiet", str(LIMIT)]
    with client_of("command-client", *options) as (client, served):
        served.sendall(b"some")
        assert os.read(client.stdout.fileno(), 100) == b"some"
        served.sendall(b" more")
        assert os.read(client.stdout.fileno(), 100) == b" more"


def test_client_shows_at_the_end_what_comes_late():
    options = ["--wire", "bare", "--quiet", "0"]
    with client_of("command-client", *options) as (client, served):
        served.sendall(b"some")
        assert os.read(client.stdout.fileno(), 100) == b"some"
        client.stdin.close()
        assert served.recv(100) == b""
        served.sendall(b" more")
        served.close()
        client.stdin = None
        assert finish(client) == (b" more", b"")


def test_upper_client_waits_for_as_many_bytes_as_it_sent():
    with client_of("upper-client") as (client, served):
        for byte in b"HELLO":
            served.sendall(bytes([byte]))
        assert finish(client) == (b"HELLO\n", b"")


@pytest.mark.parametrize("role", ["command-client", "upper-client"])
def test_client_tells_that_the_server_has_gone(role):
    with client_of(role) as (client, served):
        served.sendall(b"9")
        served.shutdown(socket.SHUT_WR)
        said, error = finish(client)
    assert said == b""
    assert re.fullmatch(rb"legacy_protocol\.py: .*(closed|ended).*\n", error)
    assert client.returncode == 1


def test_client_is_interrupted_quietly():
    with client_of("command-client") as (client, _):
        client.send_signal(signal.SIGINT)
        assert finish(client) == (b"", b"stopped\n")
