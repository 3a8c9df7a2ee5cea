"""What the frames of known protocols look like besides their length, and what precedes them.

A sign is a pattern that nearly every frame of a protocol begins with.  Its bits say how
improbable that is for bytes of any other kind (10: one in 1000); where a frame does not have
it, `missing` bits speak against the protocol.  Patterns are looked for in the whole frame.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["OPENINGS", "PROTOCOLS", "Sign", "preface_of"]


class Sign(NamedTuple):
    """How frames of a protocol begin."""

    pattern: re.Pattern[bytes]
    bits: int
    missing: int
    words: str


def _sign(pattern: bytes, bits: int, missing: int, words: str) -> Sign:
    return Sign(re.compile(pattern, re.DOTALL), bits, missing, words)


# In the order in which they are named where they are equal.
PROTOCOLS: dict[str, Sign | None] = {
    "dns": _sign(
        rb"....[\x00-\x07\x80-\x87\x28\x29\xa8\xa9][\x00-\x0a\x10-\x1a\x20-\x2a\x80-\x8a"
        rb"\x90-\x9a\xa0-\xaa\xb0-\xba]\x00[\x00-\x04]\x00",
        16,
        8,
        "DNS flags and counts",
    ),
    "tls-record": _sign(rb"[\x14-\x18]\x03[\x00-\x04]", 12, 12, "TLS types and versions"),
    "http2": _sign(rb"...[\x00-\x0a\x0c\x10].[\x00-\x7f]", 5, 10, "HTTP/2 frame types"),
    "postgres": _sign(
        rb"[123ABCDEFGHIKNPQRSTVWXZcdfnpstv]\x00", 4, 10, "PostgreSQL message types"
    ),
    "mongodb": _sign(
        rb".{12}(?:[\xd1-\xdd]\x07\x00\x00|\x01\x00\x00\x00)", 14, 12, "MongoDB opcodes"
    ),
    "amqp": _sign(rb"[\x01\x02\x03\x08].*\xce", 10, 12, "AMQP types and the end CE"),
    "memcached": _sign(rb"[\x80\x81][\x00-\x4a].{3}\x00", 12, 12, "memcached magic"),
    "cassandra": _sign(
        rb"[\x03-\x05\x83-\x85][\x00-\x1f]..[\x00-\x10]", 9, 12, "Cassandra versions, opcodes"
    ),
    "modbus": _sign(
        rb"..\x00\x00\x00..[\x01-\x2b\x81-\xab]", 8, 10, "Modbus protocol 0, functions"
    ),
    "tpkt": _sign(
        rb"\x03\x00..[\x02-\xfe][\xd0\xe0\xf0\x80\xc0\x70\x60\x50]", 12, 8, "X.224 codes"
    ),
    "bgp": _sign(rb"\xff{16}..[\x01-\x05]", 20, 12, "BGP marker and types"),
    "mysql": _sign(
        rb"...(?:\x00[\x00-\x1f\x85-\x87\xfe\xff]|[\x01-\xff])", 3, 8, "MySQL sequence"
    ),
    "chrome-native": _sign(rb"....[{\[\"]", 6, 10, "JSON"),
    "mqtt": _sign(
        rb"(?:[\x10\x20\x40\x50\x62\x70\x82\x90\xa2\xb0\xc0\xd0\xe0\xf0]|[\x30-\x3d])",
        4,
        12,
        "MQTT packet types",
    ),
    "thrift": _sign(
        rb"....(?:\x80\x01\x00[\x01-\x04]|\x82[\x21\x41\x61\x81])", 16, 3, "Thrift calls"
    ),
    "multiprocessing": _sign(
        rb"....(?:#(?:CHALLENGE|WELCOME|FAILURE)#|\x80[\x02-\x05]|\{(?:md5|sha))",
        8,
        3,
        "pickles or challenges",
    ),
    "zookeeper": _sign(
        rb"(?s:....)(?:.{4}\x00\x00\x00[\x01-\x19\x64-\x6a]|\xff\xff\xff[\xf8-\xff]"
        rb"|.{4}(?:\xff\xff\xff[\xf5-\xff])|.{4}\x00\x00.{6}(?:\x00\x00\x00\x00|\xff\xff\xff))",
        5,
        3,
        "ZooKeeper transactions",
    ),
    "kafka": _sign(
        rb"....(?:\x00[\x00-\x5c]\x00[\x00-\x14]|\x00\x00..)", 6, 3, "Kafka keys or numbers"
    ),
    "erlang4": _sign(rb"....(?:\x83[\x44-\x7a]|\x70\x83|\Z)", 9, 3, "Erlang terms"),
    "sp": _sign(rb"........", 0, 0, ""),
    "erlang2": _sign(rb"..(?:\x83[\x44-\x7a]|[nNsra]\x00)", 9, 3, "Erlang terms"),
    "protobuf": None,
    "minecraft": _sign(rb"(?:[\x00-\x7f]|[\x80-\xff]+[\x00-\x7f])[\x00-\x7f]", 1, 8, ""),
    "erlang1": _sign(rb".\x83[\x44-\x7a]", 9, 3, "Erlang terms"),
    "netstring": None,
    "lsp": _sign(rb".*\r\n\r\n\s*[{\[]", 2, 4, "JSON"),
}

# The first message of a conversation, where that tells more than all others.
OPENINGS = {
    "mqtt": re.compile(rb"\x10.{1,4}\x00(?:\x04MQTT|\x06MQIsdp)", re.DOTALL),
    "mysql": re.compile(rb"...\x00\x0a[0-9]{1,2}\.[0-9.]+[ -~]*\x00", re.DOTALL),
    "minecraft": re.compile(
        rb".\x00.{1,2}[\x03-\xff][-.0-9A-Za-z]+..[\x01-\x03]\Z", re.DOTALL
    ),
}

_SP = re.compile(rb"\x00SP\x00..\x00\x00", re.DOTALL)
_AMQP = re.compile(rb"AMQP\x00\x00\x09\x01")
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PG_CODES = {0x00030000: True, 0x00030002: True, 80877103: False, 80877104: False}


def preface_of(data: bytes) -> tuple[str, int]:
    """Return (protocol, size) of what some protocols send before the first frame.

    ("", 0) where nothing of the kind is there.
    """
    if _SP.match(data):
        return "sp", 8
    if _AMQP.match(data):
        return "amqp", 8
    if data.startswith(_HTTP2):
        return "http2", len(_HTTP2)
    size = _postgres_startup(data)
    return ("postgres", size) if size else ("", 0)


def _postgres_startup(data: bytes) -> int:
    """The bytes before the first typed message, of either side."""
    size = 0
    if data[:1] in (b"S", b"N") and data[1:5] == b"R\0\0\0":
        return 1  # the server's answer to a wish for encryption
    while len(data) >= size + 8:
        length = int.from_bytes(data[size : size + 4])
        last = _PG_CODES.get(int.from_bytes(data[size + 4 : size + 8]))
        if last is None or not 8 <= length <= 10_000:
            return 0
        size += length
        if last:
            return size if data[size - 1 : size] == b"\0" else 0
    return 0
