"""Uses the public interface as programs do; mypy reads it, nothing runs it."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import pysock
from pysock.address import (
    Address,
    connect,
    format_peer,
    identity,
    listen,
    parse,
    unlink_if_same,
)
from pysock.errors import (
    AuthenticationError,
    ConnectionClosed,
    Error,
    FrameTooLarge,
    FramingError,
    IncompleteFrame,
    InvalidHeader,
    RemoteError,
)
from pysock.framing import (
    ContentLength,
    Decimal,
    Decoder,
    Delimiter,
    Fixed,
    Format,
    FrameStream,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Stats,
    Varint,
    recv_exactly,
    recv_exactly_into,
    recv_frame,
    send_frame,
)


def formats() -> list[Format]:
    field = LengthField(2, "little", offset=2, counts="frame", magic=b"ab", max_frame=None)
    assert_type(field.replace(max_frame=10), LengthField)
    assert_type(field.pack_header(5), bytes)
    assert_type(field.unpack_header(bytearray(4)), tuple[int, int] | None)
    assert_type(field.encode(memoryview(b"hello")), bytes)
    assert_type(field.max_frame, int)
    assert_type(field == Raw(), bool)
    LengthField(counts="bytes")  # type: ignore[arg-type]
    Decimal()  # type: ignore[call-arg]
    field.encode("text")  # type: ignore[arg-type]
    return [
        field,
        Varint(offset=1, max_bytes=4),
        Netstring(max_frame=100),
        Decimal(b"\n"),
        ContentLength(),
        Delimiter(b"\r\n", keep=True),
        Fixed(16),
        MultiprocessingConnection(),
        Raw(),
    ]


def decoding(framing: Format) -> None:
    decoder = Decoder(framing)
    assert_type(framing.decoder(), Decoder)
    assert_type(decoder.feed(b"\0\0\0\1x"), list[bytes])
    assert_type(decoder.pending, int)
    decoder.eof()


def streams(sock: socket.socket) -> None:
    stream = FrameStream(sock, LengthField(), timeout=5, spin=50e-6)
    stream.send(b"a", bytearray(b"b"), memoryview(b"c"))
    stream.send("text")  # type: ignore[arg-type]
    assert_type(stream.send_many([b"a", bytearray(b"b")]), int)
    assert_type(stream.recv(), bytes)
    assert_type(stream.recv_many(limit=10), list[bytes])
    assert_type(stream.recv_into(bytearray(10)), int)
    with stream.recv_view() as view:
        assert_type(view, memoryview)
    assert_type([message for message in stream], list[bytes])  # noqa: C416
    assert_type(stream.request(b"question"), bytes)
    assert_type(stream.request_many([b"one", b"two"]), list[bytes])
    assert_type(stream.sendfile(io.BytesIO(b"x"), count=1), int)
    assert_type(stream.recvfile(io.BytesIO(), progress=lambda done, size: None), int)
    stream.max_fds = 2
    stream.send_fds(b"message", [0, sock])
    stream.send_fds(b"message", ["0"])  # type: ignore[list-item]
    assert_type(stream.recv_fds(), tuple[bytes, list[int]])
    assert_type(stream.stats, Stats)
    assert_type(stream.stats.messages_in, int)
    assert_type(stream.gettimeout(), float | None)
    stream.settimeout(None)
    stream.timeout = 2.5


def connections(sock: socket.socket) -> None:
    with pysock.Connection(sock, timeout=5, keepalive=(60, 15, 4)) as connection:
        assert_type(connection, pysock.Connection)
        assert_type(connection.recv(), bytes)
        assert_type(pysock.wait([connection], timeout=1), list[pysock.Connection])
    with pysock.Client("localhost:8000", pysock.formats.DNS, reconnect=True) as client:
        assert_type(client, pysock.Client)
        assert_type(client.request(b"question"), bytes)
    pysock.Connection(sock, Netstring)  # type: ignore[arg-type]


def answer(message: bytes, connection: pysock.Connection) -> Iterator[bytes]:
    yield message
    connection.send(b"more")


class Echo(pysock.Session):
    def handle(self) -> None:
        assert_type(self.connection, pysock.Connection)
        for message in self.connection:
            self.connection.send(message)


def servers() -> None:
    with pysock.Server("tcp://127.0.0.1:0", bytes.upper, max_connections=1) as server:
        assert_type(server, pysock.Server)
        assert_type(server.fileno(), int)
        server.start()
        server.stop(drain=1)
    pysock.Server(("127.0.0.1", 0), answer, framing=Netstring()).serve_forever()
    pysock.Server("unix:@echo", Echo).handle_request()
    pysock.Server("unix:@echo")  # type: ignore[call-arg]


def primitives(sock: socket.socket) -> None:
    assert_type(recv_exactly(sock, 4, timeout=1.0), bytes)
    recv_exactly_into(sock.fileno(), bytearray(4))
    assert_type(recv_frame(sock, Netstring()), bytes)
    send_frame(sock, b"hello", Netstring(), timeout=None)


def addresses() -> None:
    address = parse("tcp://127.0.0.1:8000")
    assert_type(address, Address)
    assert_type(str(address), str)
    for form in (address, ("::1", 80), ("::1", 80, 0, 0), Path("a"), b"/run/a", "unix:@a"):
        assert_type(connect(form, timeout=10), socket.socket)
    assert_type(listen(":8000", backlog=10), socket.socket)
    assert_type(format_peer(("127.0.0.1", 80)), str)
    assert_type(unlink_if_same("/run/a", identity("/run/a")), bool)
    parse(8000)  # type: ignore[arg-type]


def failures(error: Error) -> int | None:
    match error:
        case FrameTooLarge():
            return error.length - error.limit
        case InvalidHeader():
            return len(error.header)
        case IncompleteFrame():
            return error.expected
        case FramingError() | ConnectionClosed() | AuthenticationError() | RemoteError():
            return None
    raise error
