"""Sockets that somebody else made, and names without a file: each end takes them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from conftest import linux, unix
from peers import LONG, background
from pysock import Client, Connection, Server
from pysock.framing import Raw

pytestmark = unix

STREAM, SEQPACKET = socket.SOCK_STREAM, getattr(socket, "SOCK_SEQPACKET", 5)
KINDS = [STREAM, pytest.param(SEQPACKET, marks=linux)]


@pytest.fixture(params=KINDS, ids=["stream", "seqpacket"])
def numbers(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Descriptors of two connected sockets, as a parent process leaves them."""
    near, far = socket.socketpair(socket.AF_UNIX, request.param)
    return near.detach(), far.detach()


def test_connection_and_client_over_inherited_descriptors(numbers):
    near, far = (socket.socket(fileno=fd) for fd in numbers)
    with (
        Connection(near, Raw()) as conn,
        Client(sock=far, framing=Raw()) as client,
        background(lambda: conn.send(conn.recv().upper())),
    ):
        assert client.request(b"hello") == b"HELLO"


def test_connection_over_a_number_on_both_sides(numbers):
    """What a script gets as its standard input and output."""
    near, far = numbers
    with (
        Connection.from_fds(near, near, Raw()) as conn,
        Connection(socket.socket(fileno=far), Raw()) as other,
    ):
        conn.send(b"x" * 50_000)
        assert other.recv() == b"x" * 50_000
        other.send(b"back")
        assert conn.recv() == b"back"


CHILD = """
import os, socket, sys
from pysock import Client, Connection
from pysock.framing import Raw

kind, fd = sys.argv[1], int(sys.argv[2])
sock = socket.socket(fileno=fd)
with Client(sock=sock, framing=Raw()) if kind == "client" else Connection(sock, Raw()) as conn:
    conn.send(b"from a child " + conn.recv())
"""


@pytest.mark.parametrize("kind", ["client", "connection"])
def test_child_process_talks_over_what_it_inherits(numbers, kind):
    near, far = numbers
    command = [sys.executable, "-P", "-c", CHILD, kind, str(far)]
    with Connection(socket.socket(fileno=near), Raw(), timeout=LONG) as conn:
        with subprocess.Popen(command, pass_fds=[far]) as child:
            os.close(far)
            conn.send(b"hello")
            assert conn.recv() == b"from a child hello"
        assert child.returncode == 0


@pytest.mark.parametrize("type_", KINDS, ids=["stream", "seqpacket"])
def test_server_on_an_inherited_listener(tmp_path, type_):
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX, type_)
    listener.bind(path)
    listener.listen()
    inherited = socket.socket(fileno=listener.detach())
    with Server(inherited, bytes.upper, framing=Raw()) as server:
        server.start()
        sock = socket.socket(socket.AF_UNIX, type_)
        sock.connect(path)
        with Client(sock=sock, framing=Raw(), timeout=LONG) as client:
            assert client.request(b"hello") == b"HELLO"
        server.stop(LONG)
    assert os.path.exists(path)  # it belongs to who made it


def test_server_on_the_number_of_a_listener(tmp_path):
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    fd = listener.detach()
    with Server(f"fd://{fd}", bytes.upper) as server:
        server.start()
        with Client(path, timeout=LONG) as client:
            assert client.request(b"hello") == b"HELLO"
        server.stop(LONG)


@linux
def test_number_of_a_listener_of_records_is_refused():
    with socket.socket(socket.AF_UNIX, SEQPACKET) as listener:
        listener.bind("")
        listener.listen()
        with pytest.raises(OSError, match=r"SOCK_SEQPACKET, expected SOCK_STREAM"):
            Server(f"fd://{listener.fileno()}", bytes.upper)
        listener.getsockname()  # it is still open


@linux
@pytest.mark.parametrize("name", ["pysock-{}", "with space-{}", "ü-{}", "a/b-{}"])
def test_abstract_name_for_server_client_and_connection(name):
    name = name.format(os.getpid())
    with Server(f"unix:@{name}", bytes.upper) as server:
        server.start()
        assert str(server.address) == f"unix:@{name}"
        with Client(f"unix:@{name}", timeout=LONG) as client:
            assert client.request(b"hello") == b"HELLO"
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"\0{name}")
        with Connection(sock, timeout=LONG) as conn:
            assert conn.request(b"hello") == b"HELLO"
            assert conn.getpeername() == f"\0{name}".encode()
        server.stop(LONG)
    with pytest.raises(ConnectionRefusedError):
        Client(f"unix:@{name}")
