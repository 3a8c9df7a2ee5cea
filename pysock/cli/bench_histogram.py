"""Counts of latencies, in buckets whose width grows with the latency.

As HdrHistogram does it: each doubling is cut into 128 buckets, so that a latency is known
to 0.4 % and the memory is the same for ten requests and for ten billion.  Latencies are
whole nanoseconds; one above 137 s counts as 137 s, except for `largest`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import Any

__all__ = ["Histogram"]

BITS = 7  # of a latency, behind its first one, that tell the bucket
LONGEST = (1 << 37) - 1
_EMPTY = bytes(8 * ((37 - BITS + 1) << BITS))


class Histogram:
    """How often each latency was seen.

    Attributes:
        smallest, largest: exactly, in nanoseconds; 0 where nothing was recorded.
        total: how many were recorded.
    """

    def __init__(self) -> None:
        self._counts = array("Q", _EMPTY)
        self._sum = 0
        self._smallest = 1 << 63
        self.largest = 0

    def record(self, latency: int, count: int = 1) -> None:
        """Add *count* requests that took *latency* nanoseconds each."""
        self._sum += latency * count
        if latency < self._smallest:
            self._smallest = latency
        if latency > self.largest:
            self.largest = latency
            if latency > LONGEST:
                latency = LONGEST
        shift = latency.bit_length() - BITS - 1
        if shift > 0:
            self._counts[(shift << BITS) + (latency >> shift)] += count
        else:
            self._counts[latency] += count

    @property
    def total(self) -> int:
        return sum(self._counts)

    @property
    def smallest(self) -> int:
        return min(self._smallest, self.largest)

    @property
    def mean(self) -> float:
        """The average in nanoseconds, exactly; 0 where nothing was recorded."""
        return self._sum / max(1, self.total)

    def percentile(self, percent: float) -> float:
        """Return the latency in nanoseconds that *percent* of all do not exceed."""
        total = self.total
        rank = math.ceil(total * percent / 100 - 1e-6)
        if rank >= total:  # the end is known exactly
            return self.largest
        for latency, count in self:
            rank -= count
            if rank <= 0:
                return latency
        return self.largest

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """Yield (nanoseconds, count) of each bucket with anything in it, in order.

        The nanoseconds are the bucket's middle, or the end of what was really seen.
        """
        for index, count in enumerate(self._counts):
            if count:
                shift = max(0, (index >> BITS) - 1)
                low = (index - (shift << BITS)) << shift
                middle = low + ((1 << shift) - 1) / 2
                yield min(max(middle, self._smallest), self.largest), count

    def packed(self) -> dict[str, Any]:
        """Return the contents, small and ready for JSON."""
        return {
            "counts": [pair for pair in enumerate(self._counts) if pair[1]],
            "sum": self._sum,
            "smallest": self._smallest,
            "largest": self.largest,
        }

    def add(self, packed: dict[str, Any]) -> None:
        """Add what another histogram had `packed`."""
        for index, count in packed["counts"]:
            self._counts[index] += count
        self._sum += packed["sum"]
        self._smallest = min(self._smallest, packed["smallest"])
        self.largest = max(self.largest, packed["largest"])
