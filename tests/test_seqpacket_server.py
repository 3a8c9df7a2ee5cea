"""A server's clients over SOCK_SEQPACKET, on a listener that its user has made."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import linux
from peers import LONG, background, pattern, until
from pysock import Client, Connection, Server, Session
from pysock.errors import ConnectionClosed
from pysock.framing import Delimiter, Format, LengthField, Raw

pytestmark = linux

FIELD = LengthField()
END = Delimiter(b"\xff\xff\xff")  # which no pattern holds
SEQPACKET = getattr(socket, "SOCK_SEQPACKET", 5)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, SEQPACKET) as sock:
        sock.bind("")  # a name that the system makes up
        sock.listen()
        yield sock


def client_of(server: Server, framing: Format, **options: Any) -> Client:
    sock = socket.socket(socket.AF_UNIX, SEQPACKET)
    sock.connect(server.server_address)
    return Client(sock=sock, framing=framing, timeout=LONG, **options)


@pytest.mark.parametrize("framing", [Raw(), FIELD, END], ids=repr)
def test_server_on_a_listener_of_records(listener, framing):
    def handle(message: bytes) -> list[bytes]:
        return [message.upper(), b"-", b"+" * 100_000]

    with Server(listener, handle, framing=framing) as server:
        server.start()
        with client_of(server, framing) as client:
            for size in (1, 70_000, 150_000):
                assert client.request(pattern(size)) == pattern(size).upper()
                assert client.recv() == b"-"
                assert client.recv() == b"+" * 100_000
            sent = [b"%d" % i for i in range(300)]
            with background(client.send_many, sent):
                for message in sent:
                    assert client.recv() == message
                    client.recv()
                    assert len(client.recv()) == 100_000
        server.stop(LONG)
    assert server.stats["handler_errors"] == 0


@pytest.mark.parametrize("framing", [FIELD, END], ids=repr)
def test_frames_in_pieces_within_the_servers_memory(listener, framing):
    with Server(listener, len_of, framing=framing, max_memory=1 << 20) as server:
        server.start()
        for size in (300_000, 800_000):
            with socket.socket(socket.AF_UNIX, SEQPACKET) as sock:
                sock.connect(server.server_address)
                frame = framing.encode(pattern(size))
                for at in range(0, len(frame), 100_000):
                    sock.send(frame[at : at + 100_000])
                assert sock.recv(99) == framing.encode(b"%d" % size)
        server.stop(LONG)


def len_of(message: bytes) -> bytes:
    return b"%d" % len(message)


class Echo(Session):
    def handle(self) -> None:
        for message in self.connection:
            self.connection.send(message)


def test_session_of_records_ends_with_its_server(listener):
    with Server(listener, Echo, framing=Raw()) as server:
        server.start()
        with client_of(server, Raw()) as client:
            assert client.request(pattern(70_000)) == pattern(70_000)
            server.stop(LONG)
            with pytest.raises(ConnectionClosed):
                client.recv()


def test_what_has_come_is_answered_when_the_server_stops(listener):
    entered, go = threading.Event(), threading.Event()

    def handle(message: bytes) -> bytes:
        entered.set()
        go.wait(LONG)
        return message

    with Server(listener, handle, framing=Raw(), workers=1) as server:
        server.start()
        with client_of(server, Raw()) as client:
            messages = [b"%d" % i for i in range(50)]
            client.send_many(messages)
            entered.wait(LONG)
            with background(server.stop, LONG):
                go.set()
                assert list(client) == messages


def test_session_gets_what_has_come_when_its_server_stops(listener):
    entered, rest = threading.Event(), []

    class Slow(Session):
        def handle(self) -> None:
            self.connection.recv()
            told = self.connection._wake_fileno()
            entered.set()
            assert select.select([told], [], [], LONG)[0]
            rest.extend(self.connection.recv() for _ in range(5))
            self.connection.recv()

    with Server(listener, Slow, framing=Raw()) as server:
        server.start()
        with client_of(server, Raw()) as client:
            client.send(b"first")
            entered.wait(LONG)
            messages = [b"%d" % i for i in range(5)]
            client.send_many(messages)
            with background(server.stop, LONG), pytest.raises(ConnectionClosed):
                client.recv()
    assert rest == messages


def test_replies_keep_their_borders_while_the_client_does_not_read(listener):
    calls = 0

    def handle(message: bytes, connection: Connection) -> bytes:
        nonlocal calls
        calls += 1
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return message + pattern(1000)

    with Server(listener, handle, framing=Raw()) as server:
        server.start()
        with client_of(server, Raw()) as client:
            client.send_many(b"%02d" % i for i in range(50))
            until(lambda: calls > 3)
            assert [client.recv() for _ in range(50)] == [
                b"%02d" % i + pattern(1000) for i in range(50)
            ]
        server.stop(LONG)


def test_record_above_the_limit_ends_a_servers_connection(listener):
    with Server(listener, bytes.upper, framing=Raw(max_frame=100)) as server:
        server.start()
        with client_of(server, Raw()) as client:
            assert client.request(b"x" * 100) == b"X" * 100
            client.send(b"x" * 101)
            with pytest.raises((ConnectionClosed, ConnectionResetError)):
                client.recv()
        server.stop(LONG)


def test_reply_above_so_sndbuf_is_the_handlers_error(listener):
    with Server(listener, lambda message: bytes(1 << 20), framing=Raw()) as server:
        server.handle_error = lambda *args: None  # type: ignore[method-assign]
        server.start()
        with client_of(server, Raw()) as client:
            client.send(b"x")
            with pytest.raises((ConnectionClosed, ConnectionResetError)):
                client.recv()
        server.stop(LONG)
    assert server.stats["handler_errors"] == 1


def test_what_comes_before_messages_needs_a_stream(listener):
    with pytest.raises(
        ValueError, match=r"keeps records \(SOCK_SEQPACKET\): .* need a stream"
    ):
        Server(listener.dup(), bytes.upper, authkey=os.urandom(32))
    with pytest.raises(
        ValueError, match=r"keeps records \(SOCK_SEQPACKET\): .* need a stream"
    ):
        Server(listener.dup(), bytes.upper, proxy_protocol="v1", trusted_proxies=["::1"])


def test_datagram_listener_is_refused():
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="no stream socket"),
    ):
        Server(sock, bytes.upper)
