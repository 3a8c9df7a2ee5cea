"""The standard library's socketserver with handlers of pysock."""

from __future__ import annotations

import contextlib
import itertools
import socket
import socketserver
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import linux, unix
from peers import LONG, SHORT, background, pattern
from pysock import Connection, FrameTooLarge, FramingError, IncompleteFrame, interop

pytestmark = [unix, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

STREAMS: Any = [socketserver.TCPServer, socketserver.UnixStreamServer]
DATAGRAMS: Any = [socketserver.UDPServer, socketserver.UnixDatagramServer]
MIXED: Any = [
    (),
    (socketserver.ThreadingMixIn,),
    (getattr(socketserver, "ForkingMixIn", socketserver.ThreadingMixIn),),
]


class Upper(interop.MessageRequestHandler):
    def handle(self) -> None:
        for message in self.messages:
            self.send(message.upper())


class Errors:
    """A server that keeps what gets to its handle_error()."""

    def __init__(self, *args: Any) -> None:
        self.errors: list[BaseException] = []
        super().__init__(*args)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        assert error is not None
        self.errors.append(error.with_traceback(None))


def made(folder: Path, handler: Any, *bases: type) -> Any:
    """A server, of these classes, that listens; the last of them says at what address."""
    kind: Any = type("Server", (Errors, *bases), {})
    there = str(folder / "s") if "Unix" in bases[-1].__name__ else ("127.0.0.1", 0)
    return kind(there, handler)


def one_of(*bases: Any) -> Any:
    """Parametrise with servers alone, with threads and with processes."""
    cases = [(*mixed, base) for base, mixed in itertools.product(bases, MIXED)]
    return pytest.mark.parametrize(
        "bases", cases, ids=["-".join(each.__name__ for each in case) for case in cases]
    )


def stream_to(server: Any, **options: Any) -> pysock.Client:
    return pysock.Client(server.server_address, timeout=LONG, **options)


@contextlib.contextmanager
def datagrams_to(server: Any, name: Path | None = None) -> Iterator[socket.socket]:
    """A socket that sends to *server*; one that is bound to *name* can be answered."""
    with socket.socket(server.address_family, socket.SOCK_DGRAM) as sock:
        if name is not None and server.address_family == socket.AF_UNIX:
            sock.bind(str(name))
        sock.connect(server.server_address)
        sock.settimeout(LONG)
        yield sock


@contextlib.contextmanager
def serving(server: Any) -> Iterator[Any]:
    """Have a server serve beside the block."""
    with server, background(server.serve_forever, 0.01):
        try:
            yield server
        finally:
            server.shutdown()


# ------------------------------------------------------------ messages


@one_of(*STREAMS)
def test_messages_of_a_stream(bases, tmp_path):
    with made(tmp_path, Upper, *bases) as server, stream_to(server) as client:
        assert client.send_many([b"one", b"", b"two"]) == 3
        client.shutdown(socket.SHUT_WR)
        server.handle_request()
        assert list(client) == [b"ONE", b"", b"TWO"]
    assert server.errors == []


@one_of(*DATAGRAMS)
def test_messages_in_datagrams(bases, tmp_path):
    with (
        made(tmp_path, Upper, *bases) as server,
        datagrams_to(server, tmp_path / "c") as client,
    ):
        for message in (b"one", b"", b"two"):
            client.send(message)
            server.handle_request()
            assert client.recv(100) == message.upper()
    assert server.errors == []


@one_of(socketserver.TCPServer)
def test_last_reply_arrives_though_the_handler_has_not_read_all(bases, tmp_path):
    large = pattern(1 << 22)

    class Once(interop.MessageRequestHandler):
        def handle(self) -> None:
            next(self.messages)
            self.send(large)

    with (
        serving(made(tmp_path, Once, *bases)) as server,
        stream_to(server) as client,
    ):
        client.send_many([b"answered", *[bytes(1000)] * 300])
        assert client.recv() == large
        with pytest.raises(pysock.ConnectionClosed):
            client.recv()


def test_conversations_side_by_side(tmp_path):
    with (
        serving(made(tmp_path, Upper, *MIXED[1], socketserver.TCPServer)) as server,
        stream_to(server) as first,
        stream_to(server) as second,
    ):
        for client in (first, second, first):
            large = pattern(100_000)
            assert client.request(large) == large.upper()
    assert server.errors == []


class Plain(socketserver.BaseRequestHandler):
    """What a handler looked like before."""

    def handle(self) -> None:
        head = self.request.recv(4, socket.MSG_WAITALL)
        while head:
            (size,) = struct.unpack(">I", head)
            message = self.request.recv(size, socket.MSG_WAITALL)
            self.request.sendall(head + message.upper())
            head = self.request.recv(4, socket.MSG_WAITALL)


@pytest.mark.parametrize("handler", [Plain, Upper])
def test_one_end_at_a_time(tmp_path, handler):
    with made(tmp_path, handler, socketserver.ThreadingTCPServer) as server:
        with socket.create_connection(server.server_address, LONG) as old:
            server.handle_request()
            old.sendall(b"\0\0\0\3abc")
            assert old.recv(7, socket.MSG_WAITALL) == b"\0\0\0\3ABC"
        with stream_to(server) as new:
            server.handle_request()
            assert new.request(b"abc") == b"ABC"


def test_framing_is_the_class_attribute(tmp_path):
    class Lines(Upper):
        framing = pysock.Delimiter()

    with (
        made(tmp_path, Lines, socketserver.ThreadingTCPServer) as server,
        socket.create_connection(server.server_address, LONG) as client,
    ):
        server.handle_request()
        client.sendall(b"hello\nwor")
        assert client.recv(100) == b"HELLO\n"


def test_connection_is_there_for_more_than_messages(tmp_path):
    seen = []

    class Many(interop.MessageRequestHandler):
        def handle(self) -> None:
            seen.append((type(self.connection), self.client_address))
            self.connection.send_many([b"a", b"b"])

    with made(tmp_path, Many, socketserver.TCPServer) as server, stream_to(server) as client:
        server.handle_request()
        assert list(client) == [b"a", b"b"]
        assert seen == [(Connection, client.getsockname())]


def test_datagrams_have_no_connection(tmp_path):
    seen = []

    class Look(interop.MessageRequestHandler):
        def handle(self) -> None:
            seen.append((self.connection, *self.messages))

    with made(tmp_path, Look, *DATAGRAMS[:1]) as server, datagrams_to(server) as client:
        client.send(b"x")
        server.handle_request()
    assert seen == [(None, b"x")]


# ------------------------------------------------------------ faults


def fails_with(server: Any) -> BaseException:
    """Serve one client; return the error that was told."""
    server.handle_request()
    (error,) = server.errors
    server.errors.clear()
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize("base", [*STREAMS, *DATAGRAMS])
def test_error_of_a_handler_gets_to_the_server_which_goes_on(tmp_path, base):
    class Fragile(Upper):
        def handle(self) -> None:
            if self.server.fragile:  # type: ignore[attr-defined]
                raise ZeroDivisionError("ours")
            super().handle()

    with made(tmp_path, Fragile, base) as server:
        server.fragile = True
        if base in STREAMS:
            with stream_to(server) as client:
                assert str(fails_with(server)) == "ours"
                assert list(client) == []
            server.fragile = False
            with stream_to(server) as client:
                client.send(b"x")
                client.shutdown(socket.SHUT_WR)
                server.handle_request()
                assert client.recv() == b"X"
        else:
            with datagrams_to(server, tmp_path / "c") as sock:
                sock.send(b"x")
                assert str(fails_with(server)) == "ours"
                server.fragile = False
                sock.send(b"x")
                server.handle_request()
                assert sock.recv(9) == b"X"


def test_silent_client_is_given_up(tmp_path):
    class Hurried(Upper):
        timeout = SHORT

    assert 0 < interop.MessageRequestHandler.timeout <= 600
    with (
        made(tmp_path, Hurried, socketserver.TCPServer) as server,
        stream_to(server) as client,
    ):
        assert isinstance(fails_with(server), TimeoutError)
        assert list(client) == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xff\0\0\0", FrameTooLarge),
        (b"GET / HTTP/1.1\r\n\r\n", FrameTooLarge),
        (b"\0\0\0\5hell", IncompleteFrame),
        (b"\0\0", IncompleteFrame),
    ],
)
def test_fault_of_the_client_gets_to_the_server(tmp_path, data, error):
    with (
        made(tmp_path, Upper, socketserver.TCPServer) as server,
        socket.create_connection(server.server_address, LONG) as client,
    ):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert type(fails_with(server)) is error
        assert client.recv(1) == b""


def test_framing_that_is_none(tmp_path):
    class Wrong(Upper):
        framing: Any = "line"

    with made(tmp_path, Wrong, socketserver.TCPServer) as server, stream_to(server) as client:
        assert isinstance(fails_with(server), TypeError)
        assert list(client) == []


# ------------------------------------------------------------ datagrams


def test_sender_without_an_address_cannot_be_answered(tmp_path):
    with made(tmp_path, Upper, socketserver.UnixDatagramServer) as server:
        with datagrams_to(server) as nobody:
            nobody.send(b"x")
            error = fails_with(server)
            assert isinstance(error, OSError) and "it should bind() to one" in str(error)
        with datagrams_to(server, tmp_path / "c") as client:
            client.send(b"y")
            server.handle_request()
            assert client.recv(9) == b"Y"


@linux
def test_receiver_that_does_not_read_is_given_up(tmp_path):
    class Flood(interop.MessageRequestHandler):
        timeout = SHORT

        def handle(self) -> None:
            for _ in itertools.count():
                self.send(b"x")

    with (
        made(tmp_path, Flood, socketserver.UnixDatagramServer) as server,
        datagrams_to(server, tmp_path / "c") as client,
    ):
        client.send(b"go")
        error = fails_with(server)
        assert isinstance(error, TimeoutError) and "its queue was full" in str(error)
        # The socket, which is the server's, is as it was.
        assert server.socket.gettimeout() is None


@linux
def test_receiver_that_reads_late_gets_all(tmp_path):
    count = 200

    class Flood(interop.MessageRequestHandler):
        def handle(self) -> None:
            for i in range(count):
                self.send(b"%d" % i)

    with (
        serving(made(tmp_path, Flood, socketserver.UnixDatagramServer)) as server,
        datagrams_to(server, tmp_path / "c") as client,
    ):
        client.send(b"go")
        assert [client.recv(9) for _ in range(count)] == [b"%d" % i for i in range(count)]


def test_datagram_that_may_have_been_cut_is_refused(tmp_path):
    with (
        made(tmp_path, Upper, socketserver.UDPServer) as server,
        datagrams_to(server) as client,
    ):
        for size in (server.max_packet_size, 20_000):
            client.send(bytes(size))
            error = fails_with(server)
            assert type(error) is FramingError
            assert "put pysock.interop.WholeDatagrams before its class" in str(error)
        fits = pattern(server.max_packet_size - 1)
        client.send(fits)
        server.handle_request()
        assert client.recv(20_000) == fits.upper()


@linux
@pytest.mark.parametrize("base", DATAGRAMS)
def test_largest_datagrams_are_whole(tmp_path, base):
    largest = pattern(65507)
    with (
        made(tmp_path, Upper, interop.WholeDatagrams, base) as server,
        datagrams_to(server, tmp_path / "c") as client,
    ):
        for message in (largest, b"", b"x"):
            client.send(message)
            server.handle_request()
            assert client.recv(1 << 17) == message.upper()


class PlainDatagram(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


@linux
@pytest.mark.parametrize("base", DATAGRAMS)
@pytest.mark.parametrize("handler", [Upper, PlainDatagram])
def test_no_handler_gets_a_datagram_that_was_cut(tmp_path, base, handler):
    class Small(interop.WholeDatagrams):
        max_packet_size = 10

    with (
        made(tmp_path, handler, Small, base) as server,
        datagrams_to(server, tmp_path / "c") as client,
    ):
        for size in (11, 1000):
            client.send(bytes(size))
            error = fails_with(server)
            assert isinstance(error, FrameTooLarge)
            assert (error.length, error.limit) == (size, 10)
        client.send(b"exactly 10")  # and only this is answered
        server.handle_request()
        assert client.recv(99) == b"EXACTLY 10"


def test_cut_is_noticed_where_the_system_does_not_tell_the_length(tmp_path, monkeypatch):
    monkeypatch.setattr(interop.sys, "platform", "darwin")

    class Small(interop.WholeDatagrams):
        max_packet_size = 10

    with (
        made(tmp_path, Upper, Small, socketserver.UDPServer) as server,
        datagrams_to(server) as client,
    ):
        client.send(bytes(1000))
        assert isinstance(fails_with(server), FrameTooLarge)
        client.send(b"exactly 10")
        server.handle_request()
        assert client.recv(99) == b"EXACTLY 10"
