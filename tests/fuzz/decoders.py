"""What the targets of the decoders share: formats out of bytes, and what must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reference
from fuzz.source import Source, cut
from outcomes import outcome_of
from pysock.errors import FrameTooLarge, FramingError
from pysock.framing import (
    ContentLength,
    Decimal,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Varint,
)

MOST = 16 * 1024  # bytes of a stream: the reference is plain, and slow


# ---------------------------------------------------------------- formats


def limit_of(source: Source) -> Any:
    """Return a max_frame: the default one, none, a small one or any."""
    kind = source.number(3)
    if kind < 2:
        return ... if kind == 0 else None
    return source.number(300 if kind == 2 else (1 << 40) - 1)


def length_field(source: Source) -> Format | None:
    width, offset = 1 + source.number(7), source.number(20)
    magic = source.short(min(offset, 8))
    given: dict[str, Any] = {
        "byteorder": source.pick(("big", "little", "native")),
        "counts": source.pick(("rest", "with_length", "frame", "body")),
        "offset": offset,
        "header": offset + width + source.number(7) if source.flag() else None,
        "magic": magic,
        "trailer": source.short(4),
        "minimum": source.number(40),
        "strip": source.pick((None, 0, len(magic), offset + width)),
    }
    return made(lambda **limit: LengthField(width, **given, **limit), limit_of(source))


def varint(source: Source) -> Format | None:
    offset, most = source.number(6), 1 + source.number(9)
    strip = source.pick((None, 0))
    return made(
        lambda **limit: Varint(offset=offset, max_bytes=most, strip=strip, **limit),
        limit_of(source),
    )


def decimal(source: Source) -> Format | None:
    kind = source.number(2)
    if kind == 2:
        terminator = source.short(16)
        return made(lambda **limit: Decimal(terminator, **limit), limit_of(source))
    return made(Netstring if kind == 0 else ContentLength, limit_of(source))


def delimiter(source: Source) -> Format | None:
    mark, keep = source.short(16), source.flag()
    return made(lambda **limit: Delimiter(mark, keep=keep, **limit), limit_of(source))


def other(source: Source) -> Format | None:
    kind = source.number(2)
    if kind == 0:
        return Fixed(1 + source.number((1 << 40) - 1 if source.flag() else 300))
    return made(MultiprocessingConnection if kind == 1 else Raw, limit_of(source))


def made(make: Callable[..., Format], limit: Any) -> Format | None:
    """Return the format, None where it is refused: by ValueError and nothing else."""
    try:
        return make(max_frame=limit)
    except ValueError:
        return None


# ---------------------------------------------------------------- what must hold


def check(framing: Format | None, source: Source) -> None:
    """Hold a decoder against the reference, over what is left of *source*.

    The same messages, then the same error, however the bytes were cut; and what is
    received can be sent.
    """
    if framing is None:
        return
    sizes = source.sizes()
    stream = source.bytes(MOST)
    check_header(framing, stream)
    check_encode(framing, stream)
    if isinstance(framing, Raw):  # the cuts are the messages
        decoder = framing.decoder()
        found = b"".join(b"".join(decoder.feed(piece)) for piece in cut(stream, sizes))
        assert found == stream and decoder.pending == 0
        return
    expected = outcome_of(reference.ReferenceDecoder(framing), [stream])
    assert outcome_of(framing.decoder(), [stream]) == expected
    assert outcome_of(framing.decoder(), cut(stream, sizes)) == expected
    for message in expected.messages[:8]:
        frame = framing.encode(message)
        assert framing.decoder().feed(frame) == [message]


def check_header(framing: Format, data: bytes) -> None:
    """`unpack_header` says what the reference says, and packs again what it has read."""
    if type(framing).__name__ not in reference.HEADERS:
        return
    expected = attempt(lambda: reference.unpack_header(framing, data))
    found = attempt(lambda: framing.unpack_header(data))
    assert found == expected
    if found is not None and not isinstance(found, type):
        packed = framing.pack_header(found[0])
        assert framing.unpack_header(packed)[0] == found[0]


def check_encode(framing: Format, message: bytes) -> None:
    """`encode` takes and refuses what the reference does."""
    expected = attempt(lambda: reference.encode(framing, message))
    assert attempt(lambda: framing.encode(message)) == expected


def attempt(call: Callable[[], Any]) -> Any:
    """Return what *call* returns, or the class of what it refuses."""
    try:
        return call()
    except FramingError as exc:
        return FrameTooLarge if isinstance(exc, FrameTooLarge) else FramingError
