"""Formats of protocols that people meet, by name.

Each is an ordinary format: `formats.DNS.replace(max_frame=512)` is one too.
Where the header is only magic and length the message is the payload; where it
carries anything more, such as a type or a transaction number, the message is
the whole frame, and sending fills its length in.

Only frames are described.  What some protocols send before the first one (an
AMQP or HTTP/2 preface, PostgreSQL's startup packet without a type) has to be
read with `recv_exactly`, or with another format.
"""

from __future__ import annotations

from .framing import (
    ContentLength,
    Delimiter,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Varint,
)

__all__ = [
    "AMQP",
    "BGP",
    "CASSANDRA",
    "CHROME_NATIVE",
    "DNS",
    "ERLANG1",
    "ERLANG2",
    "ERLANG4",
    "HTTP2",
    "KAFKA",
    "LSP",
    "MEMCACHED",
    "MINECRAFT",
    "MODBUS",
    "MONGODB",
    "MQTT",
    "MULTIPROCESSING",
    "MYSQL",
    "NAMED",
    "NETSTRING",
    "POSTGRES",
    "PROTOBUF",
    "SP",
    "THRIFT",
    "TLS_RECORD",
    "TPKT",
    "ZOOKEEPER",
    "named",
]

# --- the message is the payload ---

DNS: LengthField = LengthField(2)
"""DNS over TCP: `len:u16`, message.  RFC 1035 section 4.2.2, RFC 7766."""

KAFKA: LengthField = LengthField(4, max_frame=104_857_600)
"""Kafka: `size:i32`, request or response.  The limit is a broker's default
`socket.request.max.bytes`; a negative size is above it."""

ZOOKEEPER: LengthField = LengthField(4, max_frame=0xFFFFF)
"""ZooKeeper: `len:i32`, jute record.  The limit is the default `jute.maxbuffer`."""

THRIFT: LengthField = LengthField(4, max_frame=16_384_000)
"""Thrift's framed transport: `len:i32`, message.  The limit is the bindings' default."""

SP: LengthField = LengthField(8)
"""nng and nanomsg over TCP: `len:u64`, message; after the 8-byte greeting `00 S P 00 ...`."""

ERLANG1: LengthField = LengthField(1)
"""Erlang's `{packet, 1}`: `len:u8`, packet.  OTP `inet:setopts/2`."""

ERLANG2: LengthField = LengthField(2)
"""Erlang's `{packet, 2}`: `len:u16`, packet.  OTP `inet:setopts/2`."""

ERLANG4: LengthField = LengthField(4)
"""Erlang's `{packet, 4}`: `len:u32`, packet.  OTP `inet:setopts/2`."""

CHROME_NATIVE: LengthField = LengthField(4, "native")
"""Native messaging of Chrome and Firefox, over stdio: `len:u32` in native order, JSON.
The browser takes at most 1 MB in one message and sends at most 64 MiB."""

PROTOBUF: Varint = Varint()
"""Delimited protobuf: `len:varint`, message.  Java's `writeDelimitedTo`."""

MINECRAFT: Varint = Varint(max_bytes=3)
"""Minecraft, Java edition: `len:varint` of at most 3 bytes, packet id and data."""

NETSTRING: Netstring = Netstring()
"""Netstrings, as in SCGI and QMTP: `5:hello,`.  D. J. Bernstein, 1997."""

LSP: ContentLength = ContentLength()
"""Language Server Protocol and Debug Adapter Protocol: `Content-Length: N` header, JSON."""

MULTIPROCESSING: MultiprocessingConnection = MultiprocessingConnection()
"""`multiprocessing.connection`: `len:i32`, or -1 and `len:u64`; message."""

# --- the message is the whole frame ---

MODBUS: LengthField = LengthField(2, offset=4, header=7, minimum=2, max_frame=253)
"""Modbus/TCP: `transaction:u16 protocol:u16 len:u16 unit:u8`, PDU; the length counts the
unit.  A PDU has 1 to 253 bytes.  Modbus Messaging on TCP/IP 1.0b section 3.1."""

TPKT: LengthField = LengthField(2, offset=2, counts="frame", magic=b"\x03", minimum=7)
"""TPKT, below RDP, S7 and H.323: `03 reserved:u8 len:u16`, TPDU; the length counts the
frame and is 7 or more.  RFC 1006 section 6."""

BGP: LengthField = LengthField(
    2, offset=16, header=19, counts="frame", magic=b"\xff" * 16, minimum=19, max_frame=4077
)
"""BGP-4: `marker:16 len:u16 type:u8`, body; the length counts the frame, 19 to 4096.
RFC 4271 section 4.1.  With RFC 8654: `BGP.replace(max_frame=None)`."""

MEMCACHED: LengthField = LengthField(4, offset=8, header=24, counts="body")
"""memcached's binary protocol: 24-byte header with `len:u32` at 8, then extras, key and
value, which the length counts.  `protocol_binary.h`."""

POSTGRES: LengthField = LengthField(4, offset=1, counts="with_length")
"""PostgreSQL 3.0: `type:u8 len:i32`, body; the length counts itself and the body.
A client's first packet has no type: `LengthField(counts="with_length")`."""

MONGODB: LengthField = LengthField(
    4, "little", header=16, counts="frame", minimum=16, max_frame=48_000_000 - 16
)
"""MongoDB, little endian: `len:i32 request:i32 response_to:i32 opcode:i32`, body; the
length counts the frame.  The limit is `maxMessageSizeBytes`."""

MYSQL: LengthField = LengthField(3, "little", header=4, counts="body")
"""MySQL and MariaDB: `len:u24 sequence:u8`, little endian, payload.  After a payload of
16777215 bytes the next packet goes on with it."""

CASSANDRA: LengthField = LengthField(4, offset=5, max_frame=1 << 28)
"""Cassandra's native protocol 3 and 4: `version:u8 flags:u8 stream:i16 opcode:u8 len:i32`,
body, of at most 256 MiB.  `native_protocol_v4.spec` section 2."""

AMQP: LengthField = LengthField(4, offset=3, counts="body", trailer=b"\xce")
"""AMQP 0-9-1: `type:u8 channel:u16 len:u32`, payload, `CE`; after the 8-byte header
`AMQP 00 00 09 01`.  Section 4.2.3."""

HTTP2: LengthField = LengthField(3, header=9, counts="body", max_frame=16_384)
"""HTTP/2: `len:u24 type:u8 flags:u8 stream:u32`, payload.  The limit is the one before any
SETTINGS_MAX_FRAME_SIZE.  RFC 9113 section 4.1."""

TLS_RECORD: LengthField = LengthField(2, offset=3, max_frame=16_384 + 2_048)
"""TLS records: `type:u8 version:u16 len:u16`, fragment.  The limit is that of TLS 1.2
ciphertext; TLS 1.3 has 16384 + 256.  RFC 5246 section 6.2.3, RFC 8446 section 5.2."""

MQTT: Varint = Varint(offset=1, max_bytes=4)
"""MQTT: `type and flags:u8 remaining_length:varint`, the rest.  MQTT 5.0 section 2.1."""

NAMED: dict[str, Format] = {
    "amqp": AMQP,
    "bgp": BGP,
    "cassandra": CASSANDRA,
    "chrome-native": CHROME_NATIVE,
    "dns": DNS,
    "erlang1": ERLANG1,
    "erlang2": ERLANG2,
    "erlang4": ERLANG4,
    "http2": HTTP2,
    "kafka": KAFKA,
    "lsp": LSP,
    "memcached": MEMCACHED,
    "minecraft": MINECRAFT,
    "modbus": MODBUS,
    "mongodb": MONGODB,
    "mqtt": MQTT,
    "multiprocessing": MULTIPROCESSING,
    "mysql": MYSQL,
    "netstring": NETSTRING,
    "postgres": POSTGRES,
    "protobuf": PROTOBUF,
    "sp": SP,
    "thrift": THRIFT,
    "tls-record": TLS_RECORD,
    "tpkt": TPKT,
    "zookeeper": ZOOKEEPER,
    # No protocol's own: for the command line and for protocols of one's own.
    "content-length": LSP,
    "crlf": Delimiter(b"\r\n"),
    "length1": LengthField(1),
    "length2": LengthField(2),
    "length4": LengthField(),
    "length8": LengthField(8),
    "length2-little": LengthField(2, "little"),
    "length4-little": LengthField(4, "little"),
    "length8-little": LengthField(8, "little"),
    "line": Delimiter(),
    "nul": Delimiter(b"\0"),
    "raw": Raw(),
    "varint": Varint(),
}
"""Every format that has a name, by that name."""


def named(name: str) -> Format:
    """Return the format called *name*, such as "dns" or "length4".

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    try:
        return NAMED[name]
    except KeyError:
        known = ", ".join(sorted(NAMED))
        raise ValueError(f"no format is called {name!r}; there are {known}") from None
