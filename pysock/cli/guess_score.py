"""How many bits a format saves: what speaks for it, as in a shortest description.

Bytes that no format explains cost what their frequencies say.  A format explains its length
fields, which then cost no more than the frames' sizes do; where the last frame ends exactly
with the bytes its size costs nothing.  It also lines up what is alike in all frames, such as
a magic or a type: those columns cost less.  Its own description is subtracted.  So 10 bits
mean that one in 1000 captures of something else would look as good by accident.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

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
from .dump import frame_size
from .guess_walk import BROKEN, CUT, EXACT, Walk

__all__ = ["Scorer", "frames_of"]

LOOK = 400  # frames whose contents are looked at
WINDOW = 32 << 10  # bytes whose frames are scored: the same for all, to be fair
LEAST = 16  # and so many frames at least
FRONT = 32  # columns from the beginning of the frames
BACK = 16  # and from their end, where they are longer
SAMPLE = 256 << 10  # bytes whose frequencies count
DOUBT = 48  # bytes that must be seen until the frequencies count as much as before
ALIKE = 0.5  # that columns are alike may have other reasons too
RECORDS = 5  # of one size, that there must be
RARE = 3.0  # bits that it costs to say that a column is not like the rest
BROKEN_COST = 12.0
CUT_COST = 4.0


def frames_of(data: bytes, walked: Walk) -> list[bytes]:
    """Return the frames that are looked at, each only as far as anything looks."""
    edges = walked.edges[: LOOK + 1]
    return [
        data[at : min(after, at + 4096)] for at, after in zip(edges, edges[1:], strict=False)
    ]


class Scorer:
    """Scores formats for *data*."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._end = start + WINDOW
        sample = data[start : start + SAMPLE]
        self._chance = _chances(Counter(sample), 0.2)
        # After a zero there is often another one, which is no news then.
        after_zero = Counter(sample[at + 1] for at in _zeros(sample[:-1]))
        others = Counter(sample)
        others.subtract(after_zero)
        self._bits = [
            [-math.log2(chance) for chance in _chances(counts, zero)]
            for counts, zero in ((others, 0.2), (after_zero, 0.7))
        ]

    def _within(self, edges: list[int]) -> list[int]:
        """Return the edges of the frames that are scored."""
        return edges[: max(LEAST, bisect_right(edges, self._end)) + 1]

    def score(self, framing: Format, walked: Walk, columns: dict[int, float]) -> float:
        """Return the bits that *framing* saves, its own description not yet subtracted."""
        edges = self._within(walked.edges)
        sizes = [after - at for at, after in zip(edges, edges[1:], strict=False)]
        ends_here = walked.outcome == EXACT and len(sizes) == walked.frames
        if isinstance(framing, Fixed):
            ending = math.log2(framing.size) if walked.outcome == EXACT else 0.0
            # A few records repeat by accident, or have other reasons to.
            return ALIKE * sum(columns.values()) + ending if len(sizes) >= RECORDS else 0.0
        if isinstance(framing, Delimiter):
            # It saves nothing; but what is all text and ends with its line has lines.
            lines = sum(size > len(framing.delimiter) for size in sizes)
            enough = 0.75 if framing.delimiter == b"\0" else 0.25
            worth = 10.0 + min(lines, 20) if lines > enough * len(sizes) else 0.0
            return worth - (CUT_COST if walked.outcome == CUT else 0)
        saved, low, high, rest = 0.0, 0, 0, b""
        for at, size in zip(edges, sizes, strict=False):
            low, high, rest = self._field(framing, at, size)
            saved += self._bits_of(at + low, at + high)
            saved += self._bits_of(at + size - len(rest), at + size)
        if isinstance(framing, LengthField) and len(set(sizes)) == 1 < len(sizes):
            # A length that never changes is a column like others; zeros are not even that.
            first = self._data[edges[0] + low : edges[0] + high]
            saved *= ALIKE if any(first) else 0.0
        saved -= self._cost(sizes[:-1] if ends_here else sizes, framing)
        if walked.outcome == BROKEN:
            saved -= BROKEN_COST
        elif walked.outcome == CUT:
            saved -= self._cut_cost(framing, walked)
        known = {*range(low, high), *range(-len(rest), 0)}
        return saved + ALIKE * sum(bits for at, bits in columns.items() if at not in known)

    def _cut_cost(self, framing: Format, walked: Walk) -> float:
        """The size of a frame that is cut counts as any other does, if it is known."""
        if not walked.due or not isinstance(framing, LengthField):
            return CUT_COST
        at = walked.edges[-1] + framing.offset
        field = self._bits_of(at, at + framing.width)
        edges = walked.edges
        largest = max(map(int.__sub__, edges[1:], edges))
        surprise = 4 * max(0.0, math.log2(walked.due / largest) - 2)
        return CUT_COST + 2 * math.log2(walked.due) + surprise - field

    def _bits_of(self, at: int, end: int) -> float:
        """Bits that some bytes cost without any format."""
        before = self._data[at - 1] if 0 < at <= len(self._data) else 1
        bits = 0.0
        for byte in self._data[at:end]:
            bits += self._bits[before == 0][byte]
            before = byte
        return bits

    def _field(self, framing: Format, at: int, size: int) -> tuple[int, int, bytes]:
        """Where the length of a frame lies in it, and what else is known for sure."""
        if isinstance(framing, LengthField):
            return framing.offset, framing.offset + framing.width, framing.trailer
        if isinstance(framing, Varint | Decimal | Netstring | ContentLength):
            found = frame_size(framing, memoryview(self._data)[at : at + size])
            end = b"," if isinstance(framing, Netstring) else b""
            header = size - found[1] - len(end) if found else 0
            low = framing.offset if isinstance(framing, Varint) else 0
            return low, header, end
        return 0, 4, b""

    def _cost(self, sizes: list[int], framing: Format) -> float:
        """Bits to tell the frames' sizes: of about the same magnitude, or the very same."""
        magnitudes = 8 * framing.width if isinstance(framing, LengthField) else 32
        magnitudes = min(magnitudes, len(self._data).bit_length()) + 1
        cost, near, same = 0.0, Counter[int](), Counter[int]()
        for number, size in enumerate(sizes):
            magnitude = size.bit_length()
            base = (near[magnitude] + 0.5) / (number + magnitudes / 2)
            base /= 1 << max(0, magnitude - 1)
            again = (same[size] + base) / (number + 1)
            cost -= math.log2((base + again) / 2)
            near[magnitude] += 1
            same[size] += 1
        return cost

    def columns(self, edges: list[int]) -> dict[int, float]:
        """Return the bits saved by each column; those below 0 count from the end."""
        found = {}
        edges = self._within(edges)
        for at in range(-BACK, FRONT):
            needed = FRONT - at if at < 0 else at + 1
            places = [
                edges[i + 1] + at if at < 0 else edges[i] + at
                for i in range(len(edges) - 1)
                if edges[i + 1] - edges[i] >= needed
            ]
            if len(places) > 1:
                found[at] = self._alike(places)
        return found

    def _alike(self, places: list[int]) -> float:
        """Bits saved by a column whose values repeat, less those to say so."""
        data = self._data
        counts, total = Counter(data[at] for at in places), len(places)
        saved = math.lgamma(1) - math.lgamma(1 + total)
        for byte, count in counts.items():
            chance = self._chance[byte]
            saved += math.lgamma(chance + count) - math.lgamma(chance)
        bits = saved / math.log(2) - RARE
        bits += sum(self._bits[at > 0 and data[at - 1] == 0][data[at]] for at in places)
        return bits + math.log2(1 + 2.0 ** (-0.2 - bits)) if bits > -30 else -0.2


def _chances(counts: Counter[int], zero: float) -> list[float]:
    """Return each byte's chance; *zero* is that of a zero before any is seen."""
    total = counts.total() + DOUBT
    rest = DOUBT * (1 - zero) / 255
    return [(counts[byte] + (rest if byte else DOUBT * zero)) / total for byte in range(256)]


def _zeros(data: bytes) -> Iterator[int]:
    at = data.find(0)
    while at >= 0:
        yield at
        at = data.find(0, at + 1)
