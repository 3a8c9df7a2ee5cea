"""Uses messages and formats as programs do; mypy and pyright read it, nothing runs it.

The files beside it do the same with the rest of the public interface; a test knows of each
public name whether it is used.
"""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any, assert_type

import pysock
from pysock.address import (
    Address,
    AddressLike,
    Made,
    connect,
    format_peer,
    identity,
    is_local,
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
    DatagramSocket,
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
    Sender,
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
    assert_type(
        (field.width, field.offset, field.header, field.minimum), tuple[int, int, int, int]
    )
    assert_type((field.byteorder, field.counts), tuple[str, str])
    assert_type((field.magic, field.trailer), tuple[bytes, bytes])
    assert_type((field.strip, Varint().strip), tuple[int, int | None])
    assert_type((Varint().max_bytes, Fixed(1).size), tuple[int, int])
    assert_type((Decimal(b"\n").terminator, Delimiter().delimiter), tuple[bytes, bytes])
    assert_type(Delimiter().keep, bool)
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
    stream.setblocking(False)
    stream.timeout = 2.5
    assert_type(stream.framing, Format)
    stream.framing = Netstring(max_frame=10)
    assert_type((stream.pending, stream.unsent, stream.fileno()), tuple[int, int, int])
    assert_type(stream.spin, float)
    stream.flush()
    stream.shutdown(socket.SHUT_WR)
    assert_type(stream.detach(leftover=True), tuple[Any, bytes])
    assert_type(FrameStream.from_fds(0, io.BytesIO(), Raw()), FrameStream)


def connections(sock: socket.socket) -> None:
    with pysock.Connection(sock, timeout=5, keepalive=(60, 15, 4)) as connection:
        assert_type(connection, pysock.Connection)
        assert_type(connection.recv(), bytes)
        assert_type(pysock.wait([connection], timeout=1), list[pysock.Connection])
        assert_type((connection.linger, connection.closed), tuple[float, bool])
        assert_type(connection.keepalive, tuple[int, int, int] | None)
        if (peer := connection.peer_credentials) is not None:
            assert_type((peer.pid, peer.uid), tuple[int, int])
        print(connection.getpeername(), connection.getsockname(), connection.tls)
    with pysock.Client("localhost:8000", pysock.formats.DNS, reconnect=True) as client:
        assert_type(client, pysock.Client)
        assert_type(client.request(b"question"), bytes)
    pysock.Connection(sock, Netstring)  # type: ignore[arg-type]


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
    assert_type(identity("/run/a"), Made)
    assert_type(unlink_if_same(("/run/a", 1, 2)), bool)
    assert_type(is_local(("127.0.0.1", 80)), bool)
    assert_type((address.scheme, address.host, address.port), tuple[str, str, int])
    assert_type((address.path, address.fd), tuple[str, int])
    assert_type((address.datagram, address.abstract), tuple[bool, bool])
    likes: list[AddressLike] = [address, "unix:@a"]
    parse(likes[0])
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


def datagrams(sock: socket.socket) -> None:
    plain = DatagramSocket(sock, 1500, timeout=1)
    assert_type(plain.recvfrom(), tuple[bytes, Any])
    assert_type(plain.recv_many(), list[bytes])
    assert_type((plain.max_datagram, plain.pending, plain.ignored), tuple[int, int, int])
    assert_type(plain.dropped, int | None)
    plain.sendto(b"message", ("127.0.0.1", 9))
    plain.close()
    with pysock.DatagramClient("udp://127.0.0.1:9", ttl=1) as client:
        assert_type(client, pysock.DatagramClient)
        assert_type(client.request(b"question", retries=2, match=bytes.startswith), bytes)
        client.join("224.0.0.1")
        client.leave("224.0.0.1", interface="lo")


def name_to(message: bytes, sender: Sender) -> bytes:
    sender.send(b"first")
    return repr((sender.address, sender.proxy)).encode()


def same_names() -> None:
    """What the package offers is what its modules define."""
    assert_type(pysock.__version__, str)
    errors: list[type[pysock.Error]] = [
        pysock.AuthenticationError,
        pysock.ConnectionClosed,
        pysock.FrameTooLarge,
        pysock.FramingError,
        pysock.IncompleteFrame,
        pysock.InvalidHeader,
        pysock.RemoteError,
    ]
    errors += [pysock.errors.Error]
    formats: list[pysock.Format] = [
        pysock.ContentLength(),
        pysock.Decimal(b" "),
        pysock.Delimiter(),
        pysock.Fixed(1),
        pysock.LengthField(),
        pysock.MultiprocessingConnection(),
        pysock.Netstring(),
        pysock.Raw(),
        pysock.Varint(),
    ]
    formats += [pysock.framing.Raw()]
    assert_type(pysock.Decoder(formats[0]), Decoder)
    assert_type(pysock.recv_exactly(0, 1), bytes)
    assert_type(pysock.recv_frame(0, formats[0]), bytes)
    pysock.recv_exactly_into(0, bytearray(1))
    pysock.send_frame(1, b"message", formats[0])
    pysock.DatagramServer("udp://127.0.0.1:0", name_to).stop()
    assert_type(pysock.Sender, type[Sender])
