"""The PROXY protocol: what a load balancer tells of the client it speaks for.

No I/O: `parse` looks at the first bytes of a connection and tells the header from what
follows it.  It keeps to HAProxy's specification (proxy-protocol.txt) byte for byte: what
cannot become a header is refused at the first byte that is wrong.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import InvalidHeader

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any, Literal

__all__ = ["ACCEPT", "ProxyHeader", "Trusted", "parse"]

ACCEPT = ("v1", "v2", "any")  # what a server may be told to expect

_V1 = b"PROXY "
_V1_LINE = 107  # bytes of the longest line, CRLF included
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEADER = 4096  # bytes: as nginx has it; the specification would allow 65,551

_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_ADDRESS_BYTES = {_UNSPEC: 0, _INET: 12, _INET6: 36, _UNIX: 216}
_FAMILIES = {_INET: (socket.AF_INET, 4), _INET6: (socket.AF_INET6, 16)}
_TRANSPORTS = range(3)  # unspecified, stream, datagram

_AUTHORITY, _CRC32C, _UNIQUE_ID = 2, 3, 5
_UNIQUE_ID_BYTES = 128

# An address that is still coming is one that some of these would make whole.
_REST_OF_IPV4 = ("", "0", ".0", "0.0", ".0.0", "0.0.0", ".0.0.0", "0.0.0.0")
_REST_OF_IPV6 = ("", "0", ":", "::", ":0", "0.0.0", ".0.0", "0.0", ".0")

_UNEXPECTED = "did the client come past the proxy, or does the proxy lack send-proxy?"


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a PROXY header said.

    Args:
        version: 1 or 2.
        command: "PROXY", or "LOCAL" where the proxy speaks for itself, as to check health.
        source: the client, as (number, port) or the path of a Unix socket; None where the
            header does not tell and the connection's own addresses hold.
        destination: what the client connected to, in the same form.
        tlvs: the type and value of each extra field, version 2 only.
    """

    version: int
    command: Literal["PROXY", "LOCAL"]
    source: tuple[str, int] | str | None = None
    destination: tuple[str, int] | str | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for, with TLS its SNI."""
        value = self._value(_AUTHORITY)
        return None if value is None else value.decode("utf-8", "backslashreplace")

    @property
    def unique_id(self) -> bytes | None:
        """What the proxy calls this connection in its own log."""
        return self._value(_UNIQUE_ID)

    def _value(self, wanted: int) -> bytes | None:
        return next((value for kind, value in self.tlvs if kind == wanted), None)


def parse(data: bytes, accept: str = "any") -> tuple[ProxyHeader, int] | None:
    """Return the header that *data* begins with, and its size in bytes.

    None means that more bytes are needed; all that are there belong to the header.

    Args:
        data: what a connection has brought so far, from its first byte on.
        accept: "v1", "v2", or "any" for whichever of them comes.

    Raises:
        InvalidHeader: *data* does not begin with such a header.
    """
    if accept not in ACCEPT:
        raise ValueError(f"accept is {accept!r}, expected one of {', '.join(ACCEPT)}")
    if not data:
        return None
    if accept != "v2" and _V1.startswith(data[: len(_V1)]):
        return _parse_v1(data) if len(data) > len(_V1) else None
    if accept != "v1" and _V2.startswith(data[: len(_V2)]):
        return _parse_v2(data) if len(data) > len(_V2) else None
    shown = bytes(data[: len(_V2)])
    wanted = "a PROXY header" if accept == "any" else f"a PROXY {accept} header"
    other = "v1" if shown.startswith(_V1) else "v2" if shown == _V2 else None
    hint = f"this begins {other}: have the proxy send {accept}, or expect {other} here"
    raise InvalidHeader(
        shown, f"{shown!r} came, expected {wanted}", hint if other else _UNEXPECTED
    )


class Trusted:
    """The proxies whose word is taken, asked with `in` for a peer's socket address.

    A Unix socket's peer is trusted: who may connect there is the matter of its mode.

    Args:
        networks: numbers and networks, as "10.0.0.1", "10.0.0.0/8" and "fd00::/8".

    Raises:
        ValueError: one of them is malformed.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        if isinstance(networks, str):
            raise TypeError(f"trusted networks are {networks!r}, expected a list of them")
        self._networks = [_network(text) for text in networks]

    def __contains__(self, peer: Any) -> bool:
        if isinstance(peer, str | bytes):
            return True
        if not isinstance(peer, tuple) or not isinstance(peer[0], str):
            return False
        try:
            number = ipaddress.ip_address(peer[0].partition("%")[0])
        except ValueError:
            return False
        if isinstance(number, ipaddress.IPv6Address):
            number = number.ipv4_mapped or number  # seen by a socket that takes both
        return any(number in network for network in self._networks)

    def __repr__(self) -> str:
        return f"Trusted({[str(network) for network in self._networks]})"


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(
            f"trusted network {text!r}: {exc}; write a number or a network, "
            "as '10.0.0.1' or '10.0.0.0/8'"
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


# ---------------------------------------------------------------- version 1


def _parse_v1(data: bytes) -> tuple[ProxyHeader, int] | None:
    end = data.find(b"\r\n", 0, _V1_LINE)
    line = data[: end if end >= 0 else _V1_LINE]
    ended = end >= 0 or line.endswith(b"\r")
    text = bytes(line[:-1] if ended and end < 0 else line).decode("latin-1")
    for char, name in (("\r", "CR"), ("\n", "LF")):
        if char in text:
            raise _refused(line, f"a lone {name}", "CRLF at the end of the line")
    header = _header_of(text, line, ended)
    if end >= 0:
        return header, end + 2
    if len(data) >= _V1_LINE:
        raise _refused(line, f"no CRLF in {_V1_LINE} bytes", "a line that has ended")
    return None


def _header_of(text: str, line: bytes, ended: bool) -> ProxyHeader:
    """Check *text*, which may be cut short if it has not *ended*; return what it tells."""
    family, *fields = text.split(" ")[1:]
    if family == "UNKNOWN":
        return ProxyHeader(1, "PROXY")  # what else the line holds is to be ignored
    whole = ended or bool(fields)
    known = [name for name in ("TCP4", "TCP6", "UNKNOWN") if name.startswith(family)]
    if not known or (whole and family not in known):
        raise _refused(line, f"family {family!r}", "TCP4, TCP6 or UNKNOWN")
    address = (
        (_is_ipv6, "an IPv6 number") if family == "TCP6" else (_is_ipv4, "an IPv4 number")
    )
    port = (_is_port, "a number from 0 to 65535 without leading zeros")
    rules = [
        ("source", *address),
        ("destination", *address),
        ("source port", *port),
        ("destination port", *port),
    ]
    for at, (field, (name, fits, expected)) in enumerate(zip(fields, rules, strict=False), 1):
        if not fits(field, ended or at < len(fields)):
            raise _refused(line, f"{name} {field!r}", expected)
    if len(fields) > len(rules):
        raise _refused(line, "a space after the destination port", "CRLF")
    if not ended:
        return ProxyHeader(1, "PROXY")
    if len(fields) < len(rules):
        raise _refused(line, "the end of the line", f"the {rules[len(fields)][0]}")
    source, destination, source_port, destination_port = fields
    kind = socket.AF_INET6 if family == "TCP6" else socket.AF_INET
    return ProxyHeader(
        1,
        "PROXY",
        (_plain(kind, source), int(source_port)),
        (_plain(kind, destination), int(destination_port)),
    )


def _plain(family: int, number: str) -> str:
    """Return *number* as the system writes it."""
    return socket.inet_ntop(family, ipaddress.ip_address(number).packed)


def _is_ipv4(text: str, whole: bool) -> bool:
    return any(
        _reads(ipaddress.IPv4Address, text + rest) for rest in _rest(whole, _REST_OF_IPV4)
    )


def _is_ipv6(text: str, whole: bool) -> bool:
    return "%" not in text and any(
        _reads(ipaddress.IPv6Address, text + rest) for rest in _rest(whole, _REST_OF_IPV6)
    )


def _rest(whole: bool, endings: tuple[str, ...]) -> tuple[str, ...]:
    return endings[:1] if whole else endings


def _reads(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _is_port(text: str, whole: bool) -> bool:
    if not text:
        return not whole
    # What isdigit() takes for digits besides these, int() would not read.
    plain = len(text) <= 5 and text.isascii() and text.isdigit()
    return plain and int(text) <= 65535 and str(int(text)) == text


def _refused(seen: bytes, what: str, expected: str) -> InvalidHeader:
    version = 2 if seen[:1] == b"\r" else 1
    return InvalidHeader(
        bytes(seen), f"PROXY v{version} header: {what} came, expected {expected}"
    )


# ---------------------------------------------------------------- version 2


def _parse_v2(data: bytes) -> tuple[ProxyHeader, int] | None:
    version, command = divmod(data[12], 16)
    if version != 2:
        raise _refused(data[:13], f"version {version}", "2")
    if command not in (_LOCAL, _PROXY):
        raise _refused(data[:13], f"command {command}", "0 (LOCAL) or 1 (PROXY)")
    family = transport = _UNSPEC
    if command == _PROXY and len(data) > 13:
        family, transport = divmod(data[13], 16)
        if family not in _ADDRESS_BYTES:
            raise _refused(data[:14], f"address family {family}", "0 to 3")
        if transport not in _TRANSPORTS:
            raise _refused(data[:14], f"transport protocol {transport}", "0 to 2")
    told = command == _PROXY and family != _UNSPEC and transport != _UNSPEC
    least = _ADDRESS_BYTES[family] if told else 0
    length = int.from_bytes(data[14:16].ljust(2, b"\0"), "big")
    if length > _V2_HEADER - 16:
        raise _refused(data[:16], f"length {length} or more", f"{_V2_HEADER - 16} at most")
    if len(data) < 16:
        return None
    if length < least:
        raise _refused(data[:16], f"length {length}", f"{least} or more, for the addresses")
    end = 16 + length
    if not told:  # what else the header holds is to be ignored
        header = ProxyHeader(2, "PROXY" if command == _PROXY else "LOCAL")
        return (header, end) if len(data) >= end else None
    tlvs, sum_at = _parse_tlvs(data, 16 + least, end)
    if len(data) < end:
        return None
    if sum_at is not None:
        _check_sum(data[:end], sum_at)
    source, destination = _addresses(family, data[16 : 16 + least])
    return ProxyHeader(2, "PROXY", source, destination, tuple(tlvs)), end


def _parse_tlvs(data: bytes, at: int, end: int) -> tuple[list[tuple[int, bytes]], int | None]:
    """Return the TLVs from *at* to *end* that have come, and where the checksum stands."""
    found: list[tuple[int, bytes]] = []
    sum_at = None
    while at < end:
        if end - at < 3:
            raise _refused(data[:end], f"{end - at} bytes after the last TLV", "3 or more")
        head = data[at : at + 3]
        if not head:
            break
        kind, size = head[0], int.from_bytes(head[1:].ljust(2, b"\0"), "big")
        if kind == _CRC32C:
            if sum_at is not None:
                raise _refused(data[:end], "a second CRC32C", "one")
            if not b"\3\0\4".startswith(head):
                raise _refused(data[:end], "a CRC32C of another size", "4 bytes")
            sum_at, size = at + 3, 4
        if at + 3 + size > end:
            raise _refused(
                data[:end], f"a TLV of {size} bytes where {end - at - 3} are left", "it to fit"
            )
        if kind == _UNIQUE_ID and size > _UNIQUE_ID_BYTES:
            raise _refused(
                data[:end], f"a unique id of {size} bytes", f"{_UNIQUE_ID_BYTES} at most"
            )
        if len(head) < 3:
            break
        at += 3 + size
        found.append((kind, bytes(data[at - size : at])))
    return found, sum_at


def _check_sum(header: bytes, at: int) -> None:
    """Compare the CRC32C at *at* with that of the *header*, itself counted as zero."""
    seen = int.from_bytes(header[at : at + 4], "big")
    computed = _crc32c(header[:at] + bytes(4) + header[at + 4 :])
    if seen != computed:
        raise _refused(header, f"CRC32C {seen:08x}", f"{computed:08x}")


def _crc32c(data: bytes) -> int:
    """Return the checksum of RFC 4960; headers are short, and few have one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _addresses(family: int, block: bytes) -> tuple[Any, Any]:
    """Return source and destination."""
    if family == _UNIX:
        return _path(bytes(block[:108])), _path(bytes(block[108:]))
    kind, size = _FAMILIES[family]
    hosts = (socket.inet_ntop(kind, block[:size]), socket.inet_ntop(kind, block[size:-4]))
    ports = (int.from_bytes(block[-4:-2], "big"), int.from_bytes(block[-2:], "big"))
    return (hosts[0], ports[0]), (hosts[1], ports[1])


def _path(field: bytes) -> str:
    """Return a Unix socket's path; an abstract name begins with NUL, no name is empty."""
    name = field.rstrip(b"\0") if field.startswith(b"\0") else field.partition(b"\0")[0]
    # As os.fsdecode() does it on POSIX; on Windows it refuses what others may send.
    return name.decode(sys.getfilesystemencoding(), "surrogateescape")
