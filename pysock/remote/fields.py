"""What messages are made of: tagged fields, numbers, text; each refused where it is malformed.

A field is a tag (u8), a length (u32) and so many bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..errors import FramingError

__all__ = ["MOST_FIELDS", "collect", "cut", "fixed", "pack", "text_of", "without_nul"]

MOST_FIELDS = 65536  # so that reading a message takes no time worth mentioning

_FIELD = struct.Struct(">BI")


def pack(*fields: tuple[int, bytes]) -> bytes:
    """Return fields as bytes."""
    return b"".join(
        part for tag, value in fields for part in (_FIELD.pack(tag, len(value)), value)
    )


def _unpack(what: str, body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        if len(body) - at < _FIELD.size:
            raise FramingError(f"{what} ends within a field's head")
        tag, length = _FIELD.unpack_from(body, at)
        at += _FIELD.size
        if length > len(body) - at:
            raise FramingError(f"{what} has {len(body) - at} bytes for a field of {length}")
        yield tag, body[at : at + length]
        at += length


def collect(what: str, body: bytes, single: int, several: int = 0) -> dict[int, list[bytes]]:
    """Return the fields by tag; *single* and *several* are masks of the tags known."""
    found: dict[int, list[bytes]] = {}
    for count, (tag, value) in enumerate(_unpack(what, body)):
        if count == MOST_FIELDS:
            raise FramingError(f"{what} has more than {MOST_FIELDS} fields")
        bit = 1 << tag
        if not bit & (single | several):
            raise FramingError(f"{what} has a field {tag}, which nobody knows")
        if bit & single and tag in found:
            raise FramingError(f"{what} has field {tag} twice")
        found.setdefault(tag, []).append(value)
    return found


def fixed(what: str, form: struct.Struct, body: bytes) -> tuple[int, ...]:
    """Return the numbers that *body* is."""
    if len(body) != form.size:
        raise FramingError(f"{what} has {len(body)} bytes, expected {form.size}")
    return form.unpack(body)


def text_of(what: str, value: bytes, longest: int) -> str:
    """Return what *value* says, in UTF-8 of *longest* bytes at most."""
    if len(value) > longest:
        raise FramingError(f"{what} has {len(value)} bytes, expected {longest} at most")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise FramingError(f"{what} is not UTF-8") from None


def without_nul(what: str, value: bytes) -> bytes:
    """Return *value*, which the system would take only in part if it had a NUL."""
    if b"\0" in value:
        raise FramingError(f"{what} has a NUL in it")
    return value


def cut(text: str, longest: int) -> bytes:
    """Return *text* in UTF-8, cut at a character to *longest* bytes."""
    return text.encode(errors="backslashreplace")[:longest].decode(errors="ignore").encode()
