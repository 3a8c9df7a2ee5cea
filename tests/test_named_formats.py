"""Every named protocol reads and writes bytes as its documentation has them."""

from __future__ import annotations

import pickle
import struct
from typing import NamedTuple

import pytest

import reference
from pysock import formats, framing
from pysock.errors import FrameTooLarge, FramingError, IncompleteFrame, InvalidHeader


class Vector(NamedTuple):
    """One frame on the wire, and what of its front and end is not in the message."""

    name: str
    wire: bytes
    front: int = 0
    end: int = 0

    @property
    def message(self) -> bytes:
        return self.wire[self.front : len(self.wire) - self.end]


def wire(text: str) -> bytes:
    """Bytes from hex numbers and 'quoted' ASCII."""
    parts = text.split("'")
    return b"".join(
        part.encode() if i % 2 else bytes.fromhex(part) for i, part in enumerate(parts)
    )


VECTORS = [
    # A query for example.com, type A, class IN.
    Vector(
        "dns",
        wire("001d 1234 0100 0001 0000 0000 0000 07 'example' 03 'com' 00 0001 0001"),
        front=2,
    ),
    # ApiVersions (key 18) version 0, correlation 1, client id "a".
    Vector("kafka", wire("0000000b 0012 0000 00000001 0001 'a'"), front=4),
    # A ping: xid -2, type 11.
    Vector("zookeeper", wire("00000008 fffffffe 0000000b"), front=4),
    # Binary protocol, strict: call "ping", sequence 0, no arguments.
    Vector("thrift", wire("00000011 8001 0001 00000004 'ping' 00000000 00"), front=4),
    Vector("sp", wire("0000000000000005 'hello'"), front=8),
    Vector("erlang1", wire("05 'hello'"), front=1),
    Vector("erlang2", wire("0005 'hello'"), front=2),
    Vector("erlang4", wire("00000005 'hello'"), front=4),
    # Erlang's distribution: a frame without content is the tick.
    Vector("erlang4", wire("00000000"), front=4),
    Vector("chrome-native", struct.pack("=I", 14) + b'{"text":"hey"}', front=4),
    # protobuf's own example: field 1 holds 150.
    Vector("protobuf", wire("03 089601"), front=1),
    # 300 is ac 02, from the same page.
    Vector("protobuf", wire("ac02") + bytes(300), front=2),
    # Handshake: packet 0, protocol 47, localhost, port 25565, next state 1.
    Vector("minecraft", wire("0f 00 2f 09 'localhost' 63dd 01"), front=1),
    # The longest form: three bytes.
    Vector("minecraft", wire("808001") + bytes(16384), front=3),
    # Both from the text that defines netstrings.
    Vector("netstring", wire("31323a68656c6c6f20776f726c64212c"), front=3, end=1),
    Vector("netstring", b"0:,", front=2, end=1),
    Vector("lsp", b'Content-Length: 33\r\n\r\n{"jsonrpc":"2.0","method":"exit"}', front=22),
    # Listener's challenge to a client, CPython 3.11.
    Vector("multiprocessing", wire("0000001f '#CHALLENGE#'") + bytes(range(20)), front=4),
    # Read three holding registers from 0x6b on, unit 17; then the answer.
    Vector("modbus", wire("0001 0000 0006 11 03 006b 0003")),
    Vector("modbus", wire("0001 0000 0009 11 03 06 ae41 5652 4340")),
    # X.224 connection request with an RDP negotiation request.
    Vector("tpkt", wire("0300 0013 0ee00000000000 0100080003000000")),
    # KEEPALIVE, the shortest message.
    Vector("bgp", b"\xff" * 16 + wire("0013 04")),
    # NOTIFICATION: cease, administrative shutdown.
    Vector("bgp", b"\xff" * 16 + wire("0015 03 0602")),
    # Get "Hello", and the answer "World" with four bytes of flags and a cas of 1.
    Vector(
        "memcached",
        wire("80 00 0005 00 00 0000 00000005 00000000 0000000000000000 'Hello'"),
    ),
    Vector(
        "memcached",
        wire("81 00 0000 04 00 0000 00000009 00000000 0000000000000001 deadbeef 'World'"),
    ),
    # Query "SELECT 1"; ReadyForQuery, idle; Sync, which has no body.
    Vector("postgres", wire("'Q' 0000000d 'SELECT 1' 00")),
    Vector("postgres", wire("'Z' 00000005 'I'")),
    Vector("postgres", wire("'S' 00000004")),
    # OP_MSG {ping: 1, $db: "admin"}.
    Vector(
        "mongodb",
        wire(
            "33000000 01000000 00000000 dd070000 00000000 00"
            "1e000000 10 'ping' 00 01000000 02 '$db' 00 06000000 'admin' 00 00"
        ),
    ),
    # COM_PING, COM_QUERY "SELECT 1", and the empty packet that ends one of 16777215 bytes.
    Vector("mysql", wire("010000 00 0e")),
    Vector("mysql", wire("090000 00 03 'SELECT 1'")),
    Vector("mysql", wire("000000 01")),
    # STARTUP with CQL_VERSION 3.0.0, version 4; READY, stream 1.
    Vector("cassandra", wire("04 00 0000 01 00000016 0001 000b 'CQL_VERSION' 0005 '3.0.0'")),
    Vector("cassandra", wire("84 00 0001 02 00000000")),
    # A heartbeat; connection.open-ok on channel 0.
    Vector("amqp", wire("08 0000 00000000 ce")),
    Vector("amqp", wire("01 0000 00000005 000a 0029 00 ce")),
    # Empty SETTINGS, its acknowledgement, a PING.
    Vector("http2", wire("000000 04 00 00000000")),
    Vector("http2", wire("000000 04 01 00000000")),
    Vector("http2", wire("000008 06 00 00000000 0102030405060708")),
    # Alert: warning, close_notify; change_cipher_spec.
    Vector("tls-record", wire("15 0303 0002 0100")),
    Vector("tls-record", wire("14 0303 0001 01")),
    # CONNECT 3.1.1 as "test", keep alive 60; CONNACK; PINGREQ; PUBLISH of 200 bytes to "t".
    Vector("mqtt", wire("10 10 0004 'MQTT' 04 02 003c 0004 'test'")),
    Vector("mqtt", wire("20 02 0000")),
    Vector("mqtt", wire("c0 00")),
    Vector("mqtt", wire("30 cb01 0001 't'") + bytes(200)),
]

PROTOCOLS = sorted(set(formats.__all__) - {"NAMED", "named"})
IDS = [f"{vector.name}-{i}" for i, vector in enumerate(VECTORS)]


def test_every_protocol_has_a_vector() -> None:
    assert {vector.name.upper().replace("-", "_") for vector in VECTORS} == set(PROTOCOLS)


@pytest.mark.case("I02")
@pytest.mark.parametrize("vector", VECTORS, ids=IDS)
def test_vector_is_decoded_and_encoded_back(vector: Vector) -> None:
    """I02"""
    framing_ = formats.named(vector.name)
    assert framing_.decoder().feed(vector.wire) == [vector.message]
    assert framing_.encode(vector.message) == vector.wire
    assert reference.message_of(framing_, vector.wire) == vector.message
    assert reference.encode(framing_, vector.message) == vector.wire


@pytest.mark.case("P01", "P04")
@pytest.mark.parametrize("vector", VECTORS, ids=IDS)
def test_vector_twice_byte_by_byte_and_cut_short(vector: Vector) -> None:
    """P01, P04"""
    framing_ = formats.named(vector.name)
    decoder = framing_.decoder()
    got = [message for byte in vector.wire * 2 for message in decoder.feed(bytes([byte]))]
    assert got == framing_.decoder().feed(vector.wire) * 2
    decoder.eof()
    decoder.feed(vector.wire[:-1])
    with pytest.raises(IncompleteFrame, match=rf"\b{len(vector.wire) - 1}\b") as caught:
        decoder.eof()
    assert caught.value.received == len(vector.wire) - 1


def test_length_is_filled_in_where_the_message_is_the_frame() -> None:
    """Whatever the sender left in the length field, the frame is right."""
    assert formats.POSTGRES.encode(b"Q\0\0\0\0SELECT 1\0") == wire(
        "'Q' 0000000d 'SELECT 1' 00"
    )
    assert formats.MQTT.encode(wire("c0 00")) == wire("c0 00")
    assert formats.MQTT.encode(wire("30 7f 0001 't'") + bytes(200)) == VECTORS[-1].wire
    assert formats.BGP.encode(b"\xff" * 16 + wire("0000 04")) == b"\xff" * 16 + wire("0013 04")
    assert formats.AMQP.encode(wire("08 0000 ffffffff ce")) == wire("08 0000 00000000 ce")


BAD = [
    # name, bytes, error, what its text says
    ("tpkt", "0400 0013 0ee0", InvalidHeader, "begins with .*x04.*x03"),
    ("tpkt", "0300 0006 0000", InvalidHeader, "length 6 is below the minimum of 7"),
    ("bgp", "ff" * 15 + "fe 0013 04", InvalidHeader, "begins with"),
    ("bgp", "ff" * 16 + "0012 04", InvalidHeader, "length 18 is below the minimum of 19"),
    ("bgp", "ff" * 16 + "1001 04", FrameTooLarge, "length 4078 exceeds 4077"),
    ("modbus", "0001 0000 0001 11", InvalidHeader, "length 1 is below the minimum of 2"),
    ("modbus", "0001 0000 00ff 11", FrameTooLarge, "length 254 exceeds 253"),
    ("postgres", "'Q' 00000003", InvalidHeader, "length 3 is below the minimum of 4"),
    ("mongodb", "0f000000", InvalidHeader, "length 15 is below the minimum of 16"),
    ("mongodb", "00000033", FrameTooLarge, "exceeds 47999984: 51 if big-endian"),
    ("amqp", "08 0000 00000000 cf", InvalidHeader, "ends with .*xcf.*xce"),
    (
        "amqp",
        "'AMQP' 00 00 09 01",
        FrameTooLarge,
        r"the bytes are 'AMQP\\x00', an AMQP client",
    ),
    ("http2", "'PRI * HTTP/2.0' 0d0a0d0a 'SM' 0d0a0d0a", FrameTooLarge, "an HTTP/2 client"),
    ("http2", "004001 00 00 00000000", FrameTooLarge, "length 16385 exceeds 16384"),
    ("tls-record", "17 0303 4801", FrameTooLarge, "length 18433 exceeds 18432"),
    ("cassandra", "04 00 0000 01 10000001", FrameTooLarge, "exceeds 268435456"),
    ("zookeeper", "'ruok'", FrameTooLarge, "the bytes are 'ruok', a line of text"),
    ("zookeeper", "00100000", FrameTooLarge, "length 1048576 exceeds 1048575"),
    ("kafka", "ffffffff", FrameTooLarge, "length 4294967295 exceeds 104857600"),
    ("kafka", "06400001", FrameTooLarge, "length 104857601 exceeds 104857600"),
    ("thrift", "00fa0001", FrameTooLarge, "length 16384001 exceeds 16384000"),
    ("thrift", "'GET / HTTP/1.1'", FrameTooLarge, "'GET ', an HTTP client"),
    ("erlang4", "16030102 00", FrameTooLarge, "a TLS peer"),
    ("minecraft", "808080 01", InvalidHeader, "more bytes than"),
    ("protobuf", "8000", InvalidHeader, "over-long"),
    ("protobuf", "ffffffff0f", FrameTooLarge, "length 4294967295 exceeds 67108864"),
    ("mqtt", "30 ffffffff", InvalidHeader, "more bytes than"),
    ("netstring", "'05:hello,'", InvalidHeader, "leading zero"),
    ("netstring", "'5:hello;'", InvalidHeader, "ends with"),
    ("netstring", "'x'", InvalidHeader, "not a decimal"),
    ("lsp", "'Content-Type: x' 0d0a0d0a", InvalidHeader, "no Content-Length"),
    ("multiprocessing", "fffffffb", InvalidHeader, "length -5 is negative"),
]


@pytest.mark.case("H02", "H03", "H07")
@pytest.mark.parametrize(("name", "text", "error", "match"), BAD)
def test_bad_frame_is_refused(
    name: str, text: str, error: type[FramingError], match: str
) -> None:
    """H02, H03, H07"""
    with pytest.raises(error, match=match):
        formats.named(name).decoder().feed(wire(text))


@pytest.mark.parametrize(
    ("framing_", "longest"),
    [
        (formats.MODBUS, 260 - 7),
        (formats.BGP, 4096 - 19),
        (formats.HTTP2, 16_384),
        (formats.TLS_RECORD, 18_432),
        (formats.CASSANDRA, 256 * 1024 * 1024),
        (formats.ZOOKEEPER, 0xFFFFF),
        (formats.MONGODB, 48_000_000 - 16),
        (formats.KAFKA, 100 * 1024 * 1024),
        (formats.DNS, 65_535),
        (formats.TPKT, 65_535 - 4),
        (formats.MYSQL, 16_777_215),
        (formats.MINECRAFT, 2_097_151),
        (formats.ERLANG4, 64 * 1024 * 1024),
    ],
)
def test_limit_is_the_protocols_own(framing_: framing.Format, longest: int) -> None:
    assert framing_.max_frame == longest
    with pytest.raises(FrameTooLarge, match=f"length {longest + 1} exceeds {longest}"):
        framing_.pack_header(longest + 1)


def test_preset_with_another_limit() -> None:
    extended = formats.BGP.replace(max_frame=None)
    assert extended.max_frame == 65_535 - 19
    assert formats.BGP.max_frame == 4077


@pytest.mark.parametrize("name", PROTOCOLS)
def test_constant_and_name_are_the_same_format(name: str) -> None:
    constant = getattr(formats, name)
    assert formats.named(name.lower().replace("_", "-")) is constant
    assert pickle.loads(pickle.dumps(constant)) == constant
    assert eval(repr(constant), vars(framing)) == constant


@pytest.mark.parametrize("name", sorted(formats.NAMED))
def test_generic_names_decode_what_they_encode(name: str) -> None:
    framing_ = formats.NAMED[name]
    if name.upper().replace("-", "_") not in PROTOCOLS:
        assert framing_.decoder().feed(framing_.encode(b"hello")) == [b"hello"]


@pytest.mark.parametrize(
    ("name", "wire_"),
    [
        ("length4", b"\0\0\0\2hi"),
        ("length2-little", b"\2\0hi"),
        ("line", b"hi\n"),
        ("crlf", b"hi\r\n"),
        ("nul", b"hi\0"),
        ("raw", b"hi"),
        ("varint", b"\2hi"),
        ("content-length", b"Content-Length: 2\r\n\r\nhi"),
    ],
)
def test_generic_names(name: str, wire_: bytes) -> None:
    assert formats.named(name).encode(b"hi") == wire_


def test_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no format is called 'dnss'; there are amqp, bgp, "):
        formats.named("dnss")
    with pytest.raises(ValueError, match="'DNS'"):
        formats.named("DNS")
