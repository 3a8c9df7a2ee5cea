"""Which layouts may be meant at all: those that a first look at the bytes leaves over."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ..framing import (
    ContentLength,
    Decimal,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    Netstring,
    Varint,
)

__all__ = ["SAMPLE", "Layout", "fixed_sizes", "is_text", "length_fields", "others"]

MOST_OFFSET = 32  # bytes before a length field
MOST_EXTRA = 16  # bytes that are neither counted nor before the length
LOOK = 48  # frames of the first look
LONGEST = 64 << 20  # the formats' own limit: a length above it is none


_ORDERS: tuple[Literal["big", "little"], ...] = ("big", "little")


class Layout(NamedTuple):
    """Where a binary length lies, and what is added to it to make the frame's size."""

    offset: int
    width: int
    order: Literal["big", "little"]
    added: int

    @property
    def counts(self) -> Literal["rest", "with_length", "frame", "body"]:
        after = self.offset + self.width
        if self.added == 0:
            return "frame"
        if self.added == self.offset:
            return "with_length"
        return "rest" if self.added == after else "body"

    @property
    def extra(self) -> int:
        """Bytes between the length and the payload, or a trailer."""
        return max(0, self.added - self.offset - self.width)

    def format(self, magic: bytes = b"", trailer: bytes = b"") -> LengthField:
        """Return the format; *trailer* is a part of the extra bytes."""
        counts = self.counts
        header = self.added - len(trailer) if counts == "body" else None
        if header == self.offset + self.width:
            header = None
        return LengthField(
            self.width,
            self.order,
            offset=self.offset,
            counts=counts,
            header=header,
            magic=magic,
            trailer=trailer,
        )


def length_fields(data: bytes, start: int, whole: bool) -> Iterator[Layout]:
    """Yield the layouts whose first frames are possible.

    A frame has to be complete and its next to be none that contradicts.  That is nearly
    always false, and soon: 15,000 layouts cost about as many looks at a few bytes.
    """
    size = len(data)
    for offset in range(MOST_OFFSET + 1):
        for width in range(1, 9):
            after = offset + width
            if start + after > size:
                break
            for order in _ORDERS[: 1 if width == 1 else 2]:
                first = int.from_bytes(data[start + offset : start + after], order)
                room = size - start - first
                if room < 0:
                    continue
                for added in {0, offset, *range(after, after + MOST_EXTRA + 1)}:
                    if added <= room and first + added >= after:
                        layout = Layout(offset, width, order, added)
                        if _begins(layout, data, start, whole):
                            yield layout


def _begins(layout: Layout, data: bytes, start: int, whole: bool) -> bool:
    offset, width, order, added = layout
    after, size, at = offset + width, len(data), start
    for _ in range(LOOK):
        if at + after > size:
            return True
        length = int.from_bytes(data[at + offset : at + after], order)
        if length > LONGEST or length + added < after:
            # Where it goes wrong only after some frames it may be the best there is.
            return at > start + 3 * after and at > start + (size - start) // 8
        at += length + added
    return True


_DIGITS = re.compile(rb"(?:0|[1-9][0-9]{0,8})(?=([^0-9]{1,2}))")
_TERMINATORS = (b"\r\n", b"\n", b":", b" ", b"\0", b"|", b",", b";", b"\t", b"#", b"/", b"=")


def others(data: bytes, start: int) -> Iterator[Format]:
    """Yield formats whose length is no binary field of fixed width."""
    text = is_text(data, start)
    if not text:
        yield from (Varint(offset=offset) for offset in range(9))
    yield Netstring()
    yield ContentLength()
    if found := _DIGITS.match(data, start):
        for terminator in _TERMINATORS:
            if found[1].startswith(terminator):
                yield Decimal(terminator)
                break
    # Zeros and newlines are everywhere else too.
    sample = data[start : start + SAMPLE]
    if text:
        lines = sample.count(b"\n")
        yield Delimiter(b"\r\n" if lines and lines == sample.count(b"\r\n") else b"\n")
    elif data.endswith(b"\0") and is_text(sample.replace(b"\0", b"\n"), 0):
        yield Delimiter(b"\0")


def is_text(data: bytes, start: int) -> bool:
    """Whether all is text, so that no byte of it is likely to be a binary length."""
    sample = data[start : start + SAMPLE]
    if sample.translate(None, _TEXT):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # it may end anywhere
    except UnicodeDecodeError:
        return False
    return True


SAMPLE = 64 << 10  # bytes that tell whether all is text
_TEXT = bytes([9, 10, 13, 27, *range(0x20, 0x7F), *range(0x80, 0x100)])


def fixed_sizes(data: bytes, start: int) -> Iterator[Fixed]:
    """Yield the sizes at whose distance bytes repeat most."""
    sample = data[start : start + 3000]
    alike = {}
    for size in range(2, min(513, len(sample) // 3 + 1)):
        same = sum(map(int.__eq__, sample, sample[size:]))
        alike[size] = same / (len(sample) - size)
    best = sorted(alike, key=lambda size: -alike[size])[:3]
    # What repeats after one record does after two of them, about as well.
    best += [size for size in alike if alike[size] > 0.8 * alike[best[0]]][:3]
    yield from map(Fixed, sorted(set(best)))
