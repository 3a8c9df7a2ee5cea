"""A Client that connects again over TLS: deadlines, servers that end in it, its own end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Any

import pytest

import both_ways
import listeners
import pysock
from listeners import Peer
from peers import LONG, PROMPT, SHORT, Task, background
from pysock import Client
from pysock.errors import ConnectionClosed, IncompleteFrame

server, again, transport = listeners.server, listeners.again, listeners.transport
pytestmark = both_ways.over_tls

FIELD = pysock.LengthField()


def converse(client: Client, sock: socket.socket) -> bytes:
    """Have a question asked; return the reply that comes back."""
    client.send(b"question")
    assert sock.recv(99) == FIELD.encode(b"question")
    sock.sendall(FIELD.encode(b"reply"))
    return client.recv()


# ------------------------------------------------------------ connecting


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\3\3\0\x7a\2\0"])
def test_handshake_counts_against_the_time_for_connecting(server: Peer, said: bytes) -> None:
    began = time.monotonic()
    connecting = Task(lambda: Client(server.name, connect_timeout=5 * SHORT))
    server.accept().sendall(said)
    with pytest.raises(TimeoutError, match="it was reached"):
        connecting.finish()
    assert time.monotonic() - began < PROMPT


# ------------------------------------------------------------ connecting again


def test_server_that_ends_in_the_handshake_is_tried_again(server: Peer) -> None:
    connecting = Task(lambda: Client(server.name, reconnect=True, connect_timeout=LONG))
    for _ in range(2):
        server.accept().recv(9999)
        server.hang_up()
    server.encrypted = True
    sock = server.accept()
    with connecting.finish() as client:
        assert converse(client, sock) == b"reply"


@pytest.mark.case("T04")
@pytest.mark.parametrize("goodbye", [True, False])
def test_end_is_raised_as_what_it_is_and_the_next_call_connects(
    server: Peer, again: Client, goodbye: bool
) -> None:
    """T04: said, or cut off."""
    sock: Any = server.served
    if goodbye:
        sock.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            sock.unwrap()
    else:
        server.hang_up()
    with pytest.raises(ConnectionClosed) as caught:
        again.recv()
    assert (caught.type is IncompleteFrame) is not goodbye
    if not goodbye:
        assert (caught.value.received, caught.value.expected) == (0, None)
    with background(again.request, b"fresh") as asking:
        sock = server.accept()
        assert sock.recv(99) == FIELD.encode(b"fresh")
        sock.sendall(FIELD.encode(b"reply"))
        assert asking.finish() == b"reply"


def test_handshake_counts_against_the_deadline_of_the_call(
    server: Peer, again: Client
) -> None:
    server.encrypted = False
    server.hang_up()
    with pytest.raises(ConnectionClosed):
        again.recv()
    again.timeout = 5 * SHORT
    for _ in range(2):
        began = time.monotonic()
        receiving = Task(again.recv)
        server.accept()  # and no word
        with pytest.raises(TimeoutError):
            receiving.finish(LONG)
        assert time.monotonic() - began < PROMPT


def test_close_ends_a_handshake_that_takes_its_time(server: Peer, again: Client) -> None:
    """As it ends a call that waits to connect again."""
    server.encrypted = False
    server.hang_up()
    with pytest.raises(ConnectionClosed):
        again.recv()
    receiving = Task(again.recv)
    server.accept().recv(9999)
    began = time.monotonic()
    again.close()
    with pytest.raises(ConnectionClosed):
        receiving.finish(PROMPT)
    assert time.monotonic() - began < PROMPT


# ------------------------------------------------------------ closing


@pytest.mark.case("T05")
def test_close_says_goodbye_and_does_not_wait_for_an_answer(server: Peer) -> None:
    """T05."""
    server.encrypted = True
    connecting = Task(lambda: Client(server.name, linger=LONG))
    sock = server.accept()
    client = connecting.finish()
    client.send(b"last")
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < PROMPT
    assert sock.recv(99) == FIELD.encode(b"last")
    assert sock.recv(99) == b""
