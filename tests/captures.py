"""Streams of known protocols, as their documentation has them: frames to be found again.

Each function returns the frames of one direction of a conversation; `PREFACES` has what
comes before the first of them.
"""

from __future__ import annotations

import json
import pickle
import ssl
import struct
from collections.abc import Callable

Frames = list[bytes]

WORDS = ["orders", "billing", "users", "sessions", "metrics", "audit", "images", "search"]
WORDS += ["cart", "payments"]


def texts(count: int) -> list[str]:
    """Texts of very different lengths, as people write them."""
    return [
        " ".join(WORDS[(i * 7 + j * 3) % len(WORDS)] for j in range(1 + i * i % 9))
        for i in range(count)
    ]


# ---------------------------------------------------------------- the length comes first


def name(*labels: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def dns_queries() -> Frames:
    """A resolver's queries: A and AAAA, recursion desired."""
    hosts = [
        ("www", "example", "com"),
        ("mail", "example", "org"),
        ("a", "very", "long", "name"),
    ]
    hosts += [(word, "example", "net") for word in WORDS]
    return [
        struct.pack(
            "!HHHHHHH", len(question) + 12, 0x1234 + 777 * i & 0xFFFF, 0x0100, 1, 0, 0, 0
        )
        + question
        for i, host in enumerate(hosts)
        for question in [name(*host) + struct.pack("!HH", 28 if i % 2 else 1, 1)]
    ]


def dns_answers() -> Frames:
    """Answers with several addresses each."""
    found = []
    for i, word in enumerate(WORDS):
        count = 1 + i % 4
        body = struct.pack("!HHHHHH", 0x4321 * (i + 1) & 0xFFFF, 0x8180, 1, count, 0, 0)
        body += name(word, "example", "net") + struct.pack("!HH", 1, 1)
        for j in range(count):
            body += struct.pack("!HHHIH", 0xC00C, 1, 1, 300, 4) + bytes(
                [192, 0, 2, 10 * i + j]
            )
        found.append(struct.pack("!H", len(body)) + body)
    return found


def counted(pack: str, bodies: list[bytes]) -> Frames:
    return [struct.pack(pack, len(body)) + body for body in bodies]


def string(text: str) -> bytes:
    return struct.pack("!h", len(text)) + text.encode()


def kafka_requests() -> Frames:
    """ApiVersions, Metadata, then Produce version 2, with message sets."""
    bodies = [struct.pack("!hhi", 18, 0, 1) + string("rdkafka")]
    bodies.append(struct.pack("!hhi", 3, 1, 2) + string("rdkafka") + struct.pack("!i", -1))
    for i, text in enumerate(texts(12)):
        message = struct.pack("!bbqi", 1, 0, 1700000000000 + i, -1)
        message += struct.pack("!i", len(text)) + text.encode()
        message = struct.pack("!I", 0x9E3779B9 * (i + 1) & 0xFFFFFFFF) + message
        messages = struct.pack("!qi", 0, len(message)) + message
        bodies.append(
            struct.pack("!hhi", 0, 2, 3 + i)
            + string("rdkafka")
            + struct.pack("!hii", 1, 30000, 1)
            + string(WORDS[i % 3])
            + struct.pack("!iii", 1, i % 4, len(messages))
            + messages
        )
    return counted("!i", bodies)


def zookeeper_requests() -> Frames:
    """Connect, then getData and create, and pings."""
    bodies = [struct.pack("!iqiqi", 0, 0, 30000, 0, 16) + bytes(16) + b"\0"]
    for i, text in enumerate(texts(10)):
        path = f"/{WORDS[i]}/node-{i:010d}".encode()
        if i % 3 == 0:
            bodies.append(struct.pack("!ii", -2, 11))
        elif i % 3 == 1:
            bodies.append(struct.pack("!iii", i, 4, len(path)) + path + b"\1")
        else:
            body = struct.pack("!iii", i, 1, len(path)) + path
            body += struct.pack("!i", len(text)) + text.encode()
            body += struct.pack("!ii", 1, 31) + struct.pack("!i", 5) + b"world"
            bodies.append(body + struct.pack("!i6si", 6, b"anyone", 0))
    return counted("!i", bodies)


def thrift_calls() -> Frames:
    """Strict binary protocol: call "lookup", field 1 a string, field 2 an i64."""
    return counted(
        "!i",
        [
            struct.pack("!HHi6si", 0x8001, 1, 6, b"lookup", i)
            + struct.pack("!bhi", 11, 1, len(text))
            + text.encode()
            + struct.pack("!bhq", 10, 2, 7919 * i)
            + b"\0"
            for i, text in enumerate(texts(12))
        ],
    )


def sp_requests() -> Frames:
    """nng's req: a request number with the top bit set, then the message."""
    bodies = [
        struct.pack("!I", 0x80000000 | 0x1BAD5EED + i) + text.encode()
        for i, text in enumerate(texts(12))
    ]
    return counted("!Q", bodies)


def term(tag: str, value: str) -> bytes:
    """External term format: {Tag, <<Value>>}."""
    return (
        b"\x83h\x02w" + bytes([len(tag)]) + tag.encode() + struct.pack("!cI", b"m", len(value))
    ) + value.encode()


def erlang_terms(pack: str) -> Frames:
    return counted(
        pack, [term("ok" if i % 3 else "error", t) for i, t in enumerate(texts(14))]
    )


def chrome_messages() -> Frames:
    bodies = [json.dumps({"text": text, "id": i}).encode() for i, text in enumerate(texts(10))]
    return counted("=I", bodies)


def multiprocessing_messages() -> Frames:
    """A manager's requests: the proof of the key, then pickles."""
    bodies = [b"#CHALLENGE#" + bytes(range(7, 207, 10)), b"#WELCOME#"]
    bodies += [
        pickle.dumps((word, "get", (text,), {}))
        for word, text in zip(WORDS, texts(10), strict=True)
    ]
    return counted("!i", bodies)


# ---------------------------------------------------------------- varints


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def protobuf_messages() -> Frames:
    """Messages with an id, a name, and a double; one of them long."""
    found = []
    for i, text in enumerate([*texts(12), "x" * 200]):
        body = b"\x08" + varint(1000 * i + 1) + b"\x12" + varint(len(text)) + text.encode()
        body += b"\x19" + struct.pack("<d", i / 3)
        found.append(varint(len(body)) + body)
    return found


def minecraft_packets() -> Frames:
    """A client: handshake, login start, then chat, positions and keep-alives."""
    bodies = [b"\0\x2f\x09localhost\x63\xdd\x02", b"\0\x05Alice"]
    for i, text in enumerate(texts(14)):
        if i % 3 == 0:
            bodies.append(b"\x01" + varint(len(text)) + text.encode())
        elif i % 3 == 1:
            bodies.append(b"\x04" + struct.pack("!ddd?", 100.5 + i, 64.0, -20.25 * i, True))
        else:
            bodies.append(b"\0" + varint(70000 * i))
    bodies.append(b"\x17\x08MC|Brand" + bytes(range(256)) * 2)
    return [varint(len(body)) + body for body in bodies]


def mqtt_packets() -> Frames:
    """A client: CONNECT, SUBSCRIBE, PUBLISH, PINGREQ, DISCONNECT."""

    def packet(kind: int, body: bytes) -> bytes:
        return bytes([kind]) + varint(len(body)) + body

    found = [packet(0x10, b"\0\4MQTT\4\2\0\x3c\0\7sensor1")]
    found.append(packet(0x82, b"\0\1" + string("commands/#") + b"\1"))
    for i, text in enumerate([*texts(10), "long " * 60]):
        topic = string(f"home/{WORDS[i % 10]}/{i}")
        found.append(packet(0x32, topic + struct.pack("!H", i + 2) + text.encode()))
        if i % 4 == 3:
            found.append(b"\xc0\0")
    return [*found, b"\xe0\0"]


# ---------------------------------------------------------------- the whole frame is kept


def modbus_requests() -> Frames:
    """Read holding registers, write one, write several."""
    found = []
    for i in range(12):
        if i % 3 == 0:
            pdu = struct.pack("!BHH", 3, 0x6B + 10 * i, 3 + i)
        elif i % 3 == 1:
            pdu = struct.pack("!BHH", 6, 40 + i, 0xFF00 - 77 * i)
        else:
            values = [1000 * i + j for j in range(i)]
            pdu = struct.pack(f"!BHHB{i}H", 16, 0x100, i, 2 * i, *values)
        found.append(struct.pack("!HHHB", i + 1, 0, len(pdu) + 1, 17) + pdu)
    return found


def tpkt_messages() -> Frames:
    """S7 communication: connect, set up, then reads of data blocks."""
    connect = bytes.fromhex("11e00000000100c0010ac1020100c2020102")
    bodies = [connect, bytes.fromhex("02f08032010000000000080000f0000001000101e0")]
    for i in range(8):
        items = b"".join(
            struct.pack("!BBBBHHBBH", 0x12, 10, 0x10, 2, 4 + j, 1 + j, 0x84, 0, 80 * (i + j))
            for j in range(1 + i % 4)
        )
        s7 = struct.pack("!BBHHHHBB", 0x32, 1, 0, i + 2, len(items) + 2, 0, 4, 1 + i % 4)
        bodies.append(b"\x02\xf0\x80" + s7 + items)
    return [struct.pack("!BBH", 3, 0, len(body) + 4) + body for body in bodies]


def bgp_messages() -> Frames:
    """OPEN, KEEPALIVE, UPDATEs with several prefixes, KEEPALIVE."""
    bodies = [bytes.fromhex("01 04 fde8 00b4 c0000201 00"), b"\x04"]
    for i in range(6):
        path = bytes.fromhex("40010100 400206 0201") + struct.pack("!I", 64512 + i)
        path += bytes.fromhex("400304c0000201")
        prefixes = b"".join(bytes([24, 10, i, j]) for j in range(1 + 3 * i % 7))
        bodies.append(b"\x02\0\0" + struct.pack("!H", len(path)) + path + prefixes)
        if i % 2:
            bodies.append(b"\x04")
    return [b"\xff" * 16 + struct.pack("!H", len(body) + 18) + body for body in bodies]


def memcached_requests() -> Frames:
    """Gets and sets; a set has flags and expiry."""
    found = []
    for i, text in enumerate(texts(12)):
        key, extras, value = f"user:{1000 + i * 37}".encode(), b"", b""
        if i % 2:
            extras, value = struct.pack("!II", 0xDEADBEEF, 3600), text.encode()
        size = len(key) + len(extras) + len(value)
        head = struct.pack("!BBHBBHIIQ", 0x80, i % 2, len(key), len(extras), 0, 0, size, i, 0)
        found.append(head + extras + key + value)
    return found


def pg(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def postgres_answers() -> Frames:
    """A server: authentication, parameters, then the rows of queries."""
    found = [pg(b"R", struct.pack("!i", 0))]
    settings = {"server_version": "16.2", "client_encoding": "UTF8", "TimeZone": "Etc/UTC"}
    found += [pg(b"S", f"{key}\0{value}\0".encode()) for key, value in settings.items()]
    found += [pg(b"K", struct.pack("!ii", 4242, 0x5EED)), pg(b"Z", b"I")]
    column = b"name\0" + struct.pack("!ihihih", 16385, 2, 25, -1, -1, 0)
    for text in texts(5):
        found.append(pg(b"T", struct.pack("!h", 1) + column))
        for word in text.split():
            found.append(pg(b"D", struct.pack("!hi", 1, len(word)) + word.encode()))
        found += [pg(b"C", f"SELECT {len(text.split())}\0".encode()), pg(b"Z", b"I")]
    return found


def postgres_queries() -> Frames:
    """A client: password, queries, parse, bind, execute, sync, terminate."""
    found = [pg(b"p", b"md5" + b"0123456789abcdef" * 2 + b"\0")]
    for i, text in enumerate(texts(6)):
        found.append(pg(b"Q", f"SELECT * FROM {WORDS[i]} WHERE note = '{text}'\0".encode()))
        found.append(pg(b"P", b"\0SELECT $1\0" + bytes(2)))
        found.append(pg(b"B", b"\0\0" + struct.pack("!hhi", 0, 1, len(text)) + text.encode()))
        found += [pg(b"E", b"\0" + bytes(4)), pg(b"S", b"")]
    return [*found, pg(b"X", b"")]


def bson(pairs: dict[str, str]) -> bytes:
    body = b"".join(
        b"\x02"
        + key.encode()
        + b"\0"
        + struct.pack("<i", len(value) + 1)
        + value.encode()
        + b"\0"
        for key, value in pairs.items()
    )
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def mongodb_messages() -> Frames:
    """OP_MSG: finds and inserts."""
    found = []
    for i, text in enumerate(texts(8)):
        body = bytes(5) + bson({"find": WORDS[i], "comment": text, "$db": "shop"})
        found.append(struct.pack("<iiii", len(body) + 16, i + 1, 0, 2013) + body)
    return found


def mysql_packet(sequence: int, body: bytes) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes([sequence]) + body


def mysql_commands() -> Frames:
    """A client: queries and pings, each the first packet of its exchange."""
    found = []
    for i, text in enumerate(texts(10)):
        query = f"SELECT id FROM {WORDS[i]} WHERE name = '{text}'".encode()
        found.append(mysql_packet(0, b"\x03" + query))
        if i % 4 == 0:
            found.append(mysql_packet(0, b"\x0e"))
    return [*found, mysql_packet(0, b"\x01")]


def mysql_answers() -> Frames:
    """A server: greeting, OK, then a result set with rows."""
    greeting = (
        b"\x0a8.0.36\0" + struct.pack("<I", 42) + b"abcdefgh\0" + bytes.fromhex("ffff08")
    )
    found = [
        mysql_packet(0, greeting + bytes(13) + b"ijklmnopqrst\0"),
        mysql_packet(2, bytes(7)),
    ]
    for text in texts(3):
        packets = [b"\x01", b"\x03def\x04shop\x05users\x05users\x04name\x04name" + bytes(13)]
        packets += [bytes([len(word)]) + word.encode() for word in text.split()]
        packets.append(b"\xfe\0\0\x02\0")
        found += [mysql_packet(i + 1, body) for i, body in enumerate(packets)]
    return found


def cassandra_requests() -> Frames:
    """STARTUP, then QUERYs, native protocol 4."""
    bodies = [(1, struct.pack("!H", 1) + string("CQL_VERSION") + string("3.4.5"))]
    for i, text in enumerate(texts(10)):
        query = f"SELECT v FROM {WORDS[i]} WHERE k = '{text}'".encode()
        bodies.append((7, struct.pack("!i", len(query)) + query + struct.pack("!HB", 1, 0)))
    return [
        struct.pack("!BBhBi", 4, 0, i % 3, opcode, len(body)) + body
        for i, (opcode, body) in enumerate(bodies)
    ]


def amqp_publishes() -> Frames:
    """basic.publish: method, content header and body on channel 1, and heartbeats."""

    def frame(kind: int, channel: int, body: bytes) -> bytes:
        return struct.pack("!BHI", kind, channel, len(body)) + body + b"\xce"

    found = [frame(1, 0, struct.pack("!HH", 10, 40) + b"\x01/\0\0")]
    for i, text in enumerate(texts(6)):
        key = WORDS[i].encode()
        method = struct.pack("!HHHB", 60, 40, 0, 3) + b"log" + bytes([len(key)]) + key + b"\0"
        found.append(frame(1, 1, method))
        found.append(frame(2, 1, struct.pack("!HHQH", 60, 0, len(text), 0x1000) + b"\2"))
        found.append(frame(3, 1, text.encode()))
        if i % 2:
            found.append(frame(8, 0, b""))
    return found


def http2_frames() -> Frames:
    """A client: SETTINGS, then HEADERS and DATA, WINDOW_UPDATE, PING."""

    def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
        return (
            struct.pack("!I", len(body))[1:] + struct.pack("!BBI", kind, flags, stream) + body
        )

    settings = struct.pack("!HIHI", 3, 100, 4, 65535)
    found = [frame(4, 0, 0, settings), frame(4, 1, 0, b"")]
    for i, text in enumerate(texts(8)):
        headers = bytes.fromhex("838684418aa0e41d139d09b8f01e07") + bytes([0x7A + i, 0x04 + i])
        found.append(frame(1, 4, 2 * i + 1, headers + text.encode()[: 3 * i]))
        found.append(frame(0, 1, 2 * i + 1, json.dumps({"q": text}).encode()))
        if i % 3 == 2:
            found.append(frame(8, 0, 0, struct.pack("!I", 4096 + i)))
            found.append(frame(6, 0, 0, bytes(range(i, i + 8))))
    return found


def tls_records(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> bytes:
    """What a TLS client of the standard library sends: a handshake, then data."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(
        to_client, arriving := ssl.MemoryBIO(), server_hostname="localhost"
    )
    sent = b""
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for end in (client, server):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
            sent += (moved := arriving.read())
            to_server.write(moved)
    for text in texts(9):
        client.write(text.encode())
    return sent + arriving.read()


# ---------------------------------------------------------------- text


def netstrings() -> Frames:
    return [b"%d:%s," % (len(text), text.encode()) for text in texts(12)]


def lsp_messages() -> Frames:
    found = []
    for i, text in enumerate(texts(6)):
        body = {"jsonrpc": "2.0", "id": i, "method": "textDocument/hover", "params": [text]}
        data = json.dumps(body).encode()
        found.append(b"Content-Length: %d\r\n\r\n" % len(data) + data)
    return found


CAPTURES: dict[str, tuple[str, Callable[[], Frames]]] = {
    "dns queries": ("dns", dns_queries),
    "dns answers": ("dns", dns_answers),
    "kafka": ("kafka", kafka_requests),
    "zookeeper": ("zookeeper", zookeeper_requests),
    "thrift": ("thrift", thrift_calls),
    "sp": ("sp", sp_requests),
    "erlang1": ("erlang1", lambda: erlang_terms("!B")),
    "erlang2": ("erlang2", lambda: erlang_terms("!H")),
    "erlang4": ("erlang4", lambda: erlang_terms("!I")),
    "chrome-native": ("chrome-native", chrome_messages),
    "multiprocessing": ("multiprocessing", multiprocessing_messages),
    "protobuf": ("protobuf", protobuf_messages),
    "minecraft": ("minecraft", minecraft_packets),
    "mqtt": ("mqtt", mqtt_packets),
    "modbus": ("modbus", modbus_requests),
    "tpkt": ("tpkt", tpkt_messages),
    "bgp": ("bgp", bgp_messages),
    "memcached": ("memcached", memcached_requests),
    "postgres answers": ("postgres", postgres_answers),
    "postgres queries": ("postgres", postgres_queries),
    "mongodb": ("mongodb", mongodb_messages),
    "mysql commands": ("mysql", mysql_commands),
    "mysql answers": ("mysql", mysql_answers),
    "cassandra": ("cassandra", cassandra_requests),
    "amqp": ("amqp", amqp_publishes),
    "http2": ("http2", http2_frames),
    "netstring": ("netstring", netstrings),
    "lsp": ("lsp", lsp_messages),
}

# What comes before the first frame, where something does.
PREFACES = {
    "sp": b"\0SP\0\0\x30\0\0",
    "amqp": b"AMQP\0\0\x09\x01",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "postgres queries": struct.pack("!ii", 8, 80877103)
    + struct.pack("!ii", 34, 196608)
    + b"user\0alice\0database\0shop\0\0",
}
