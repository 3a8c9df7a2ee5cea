"""PROXY headers: what `parse` makes of each beginning, and of datagrams and sockets."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from typing import Any

from fuzz.source import Source, cut
from pysock.dgramserver import DatagramServer
from pysock.errors import ConnectionClosed, InvalidHeader
from pysock.handshake import _proxy_header
from pysock.proxy import ACCEPT, ProxyHeader, Trusted, parse

PROXIES = Trusted(["127.0.0.1", "10.0.0.0/8", "::1"])
PEERS: tuple[Any, ...] = (
    ("127.0.0.1", 1),
    ("::ffff:10.1.2.3", 1, 0, 0),
    ("192.0.2.1", 1),
    "/run/proxy",
    b"\0proxy",
    "",
    None,
)
FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|"
    rb"(TCP[46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) "
    rb"(0|[1-9][0-9]*) (0|[1-9][0-9]*))\r\n"
)
Found = tuple[ProxyHeader, int] | None | type[InvalidHeader]


def target(data: bytes) -> None:
    source = Source(data)
    accept, peer, sizes = source.pick(ACCEPT), source.pick(PEERS), source.sizes()
    stream = source.bytes(5000)
    found = seen(stream, accept)
    look_at_all_beginnings(stream, accept, found)
    if isinstance(found, tuple):
        look_at(stream[: found[1]], found[0])
    take_off_a_socket(stream, accept, sizes, found)
    unwrap(stream, peer)


def seen(stream: bytes, accept: str) -> Found:
    try:
        return parse(stream, accept)
    except InvalidHeader as exc:
        assert str(exc) and len(exc.header) <= len(stream)
        return InvalidHeader


def look_at_all_beginnings(stream: bytes, accept: str, found: Found) -> None:
    """What is wrong stays wrong; what is whole is so at its last byte, and stays the same."""
    size = found[1] if isinstance(found, tuple) else len(stream)
    assert size <= len(stream)
    ends = {*range(min(size, 128)), *range(size - 3, size + 3), size // 2, size // 3}
    wrong = False
    for end in sorted(end for end in ends if 0 <= end <= len(stream)):
        here = seen(stream[:end], accept)
        if wrong:
            assert here is InvalidHeader
        wrong = here is InvalidHeader
        if isinstance(found, tuple):
            assert here == (found if end >= size else None)
    if wrong:
        assert found is InvalidHeader


def look_at(raw: bytes, header: ProxyHeader) -> None:
    """What was read is what stands there, by another reading of the specification."""
    assert (header.source is None) == (header.destination is None)
    assert header.authority is None or isinstance(header.authority, str)
    if header.version == 1:
        look_at_line(raw, header)
    else:
        look_at_block(raw, header)


def look_at_line(raw: bytes, header: ProxyHeader) -> None:
    found = LINE.fullmatch(raw)
    assert found and len(raw) <= 107 and header.command == "PROXY" and not header.tlvs
    family, *numbers = (part and part.decode() for part in found.groups())
    if family is None:
        assert header.source is None
        return
    ports = [int(number) for number in numbers[2:]]
    hosts = [ipaddress.ip_address(number) for number in numbers[:2]]
    assert max(ports) <= 65535 and {str(host.version) for host in hosts} == {family[-1]}
    assert header.source == (shown(hosts[0].packed), ports[0])
    assert header.destination == (shown(hosts[1].packed), ports[1])


def look_at_block(raw: bytes, header: ProxyHeader) -> None:
    assert raw[:12] == b"\r\n\r\n\0\r\nQUIT\n" and len(raw) == 16 + (raw[14] << 8) + raw[15]
    assert len(raw) <= 4096 and raw[12] == (0x20 if header.command == "LOCAL" else 0x21)
    family, transport = divmod(raw[13], 16)
    if header.source is None:
        assert header.command == "LOCAL" or family == 0 or transport == 0
        assert not header.tlvs
        return
    size, host = {1: (12, 4), 2: (36, 16), 3: (216, 0)}[family]
    assert transport in (1, 2) and header.command == "PROXY"
    if host:
        ends = (header.source, header.destination)
        packed = b"".join(socket.inet_pton(FAMILIES[host], end[0]) for end in ends)
        packed += b"".join(end[1].to_bytes(2, "big") for end in ends)
        assert raw[16 : 16 + size] == packed
    tlvs = b"".join(bytes([t]) + len(v).to_bytes(2, "big") + v for t, v in header.tlvs)
    assert raw[16 + size :] == tlvs
    at = 16 + size
    for kind, value in header.tlvs:
        assert kind != 3 or value == checksum(raw[: at + 3] + bytes(4) + raw[at + 7 :])
        at += 3 + len(value)
    assert header.unique_id is None or len(header.unique_id) <= 128


def shown(packed: bytes) -> str:
    return socket.inet_ntop(FAMILIES[len(packed)], packed)


def checksum(data: bytes) -> bytes:
    """Return the CRC32C, here as a division of polynomials."""
    bits = "".join(f"{byte:08b}"[::-1] for byte in data)
    number = (int(bits, 2) << 32) ^ (0xFFFFFFFF << len(bits))
    for place in range(len(bits) - 1, -1, -1):
        if number >> (place + 32):
            number ^= 0x11EDC6F41 << place
    return int(f"{number ^ 0xFFFFFFFF:032b}"[::-1], 2).to_bytes(4, "big")


class Arriving:
    """A socket to which bytes come in pieces."""

    def __init__(self, stream: bytes, sizes: list[int]) -> None:
        self._pieces = cut(stream, sizes)
        self._come = b""
        self.taken = 0
        self._over = False

    def recv(self, most: int, flags: int = 0) -> bytes:
        if not self._come and not self._over:
            self._come = next(self._pieces, b"")
            self._over = not self._come
            if self._come:
                raise BlockingIOError
        part = self._come[:most]
        if not flags & socket.MSG_PEEK:
            self._come = self._come[most:]
            self.taken += len(part)
        return part


def take_off_a_socket(stream: bytes, accept: str, sizes: list[int], found: Found) -> None:
    """A server takes the header's bytes and none behind them."""
    sock: Any = Arriving(stream, sizes)
    steps = _proxy_header(sock, accept)
    outcome: Any = None
    try:
        while True:
            next(steps)
    except StopIteration as exc:
        outcome = exc.value, sock.taken
    except InvalidHeader:
        outcome = InvalidHeader
    except ConnectionClosed:
        pass
    assert outcome == found


class Told:
    """What a server has in its place where it only unwraps a datagram."""

    _proxies = PROXIES

    class _seldom:
        @staticmethod
        def log(level: int, text: str, *args: object, kind: object = None) -> None:
            assert level == logging.WARNING and (text % args).isprintable()


def unwrap(datagram: bytes, peer: Any) -> None:
    """Only who is trusted is heard, and only with a whole header."""
    server: Any = Told
    unwrapped = DatagramServer._unwrap(server, datagram, peer)
    found = seen(datagram, "v2")
    if unwrapped is None:
        whole = isinstance(found, tuple) and found[1] < len(datagram)
        assert not whole or peer is None or peer not in PROXIES
        return
    message, client, header = unwrapped
    assert isinstance(found, tuple) and peer in PROXIES
    assert header == found[0] and message == datagram[found[1] :] and message
    assert client == (peer if header.source is None else header.source)
