"""What refused bytes probably are, in a few words.

Called only when an error is raised, with the bytes in hand; knows nothing of
formats or sockets.  A hint is a guess, so it ends with a question mark, and it
shows at most eight bytes of the input, escaped.
"""

from __future__ import annotations

import re
import sys

__all__ = ["explain"]

_SHOWN = 8

# A signature also fits when only its beginning has come, but at least this much of it:
# two bytes of anything are too few to accuse somebody.
_ENOUGH = 3

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE")

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    *((method.encode() + b" ", "an HTTP client") for method in _METHODS),
    (b"HTTP/", "an HTTP server"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "an HTTP/2 client"),
    (b"SSH-", "an SSH peer"),
    (b"PROXY ", "a PROXY protocol v1 header"),
    (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY protocol v2 header"),
    (b"AMQP\0", "an AMQP client"),
    (b"\xffpysock\x01", "a pysock client with authkey="),
)

# Those of which one byte varies, or that are shorter than three bytes.
_PATTERNS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x15\x03[\x00-\x04]"), "a TLS server's alert (use tls://)"),
    (re.compile(rb"[\x14-\x17]\x03[\x00-\x04]"), "a TLS peer"),
    (re.compile(rb"\x10[\x00-\x7f]\x00\x04MQ"), "an MQTT client"),
    (re.compile(rb"\x1f\x8b"), "gzip data"),
    (re.compile(rb"\*[0-9]+\r"), "a Redis client"),
)

# What else text may be; only where a length field was expected, since to a framing
# that is text itself it would be no news.
_TEXTS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"Content-Length:?", re.IGNORECASE), "a Content-Length header"),
    (re.compile(rb"[0-9]{1,7}:"), "a netstring"),
    (re.compile(rb"[ -~\t\r\n]{4,8}"), "a line of text"),
)


def explain(
    header: bytes, field: bytes = b"", byteorder: str = "big", limit: int | None = None
) -> str:
    """Return what refused header bytes probably are; "" when nothing is recognised.

    Args:
        header: the bytes that a frame should have begun with, as far as they came.
        field: those of them that are the length, if the format has a binary one.
        byteorder: the order they were read in, "big", "little" or "native".
        limit: the largest length allowed; None for no limit.
    """
    return (
        _match(header, _PATTERNS)
        or _signature(header)
        or (_match(header, _TEXTS) if field else "")
        or _other_order(field, byteorder, limit)
    )


def _signature(header: bytes) -> str:
    for sign, peer in _SIGNATURES:
        length = min(len(sign), len(header))
        if length >= _ENOUGH and header[:length] == sign[:length]:
            return _seen(sign[:length], peer)
    return ""


def _match(header: bytes, patterns: tuple[tuple[re.Pattern[bytes], str], ...]) -> str:
    for pattern, peer in patterns:
        if found := pattern.match(header):
            return _seen(found.group(), peer)
    return ""


def _other_order(field: bytes, byteorder: str, limit: int | None) -> str:
    if byteorder == "native":
        byteorder = sys.byteorder
    declared, other = int.from_bytes(field, "big"), int.from_bytes(field, "little")
    name = "little"
    if byteorder == "little":
        declared, other, name = other, declared, "big"
    if 0 < other < declared and (limit is None or other <= limit):
        return f"{other} if {name}-endian"
    return ""


def _seen(data: bytes, peer: str) -> str:
    return f"the bytes are {ascii(data[:_SHOWN].decode('latin-1'))}, {peer}?"
