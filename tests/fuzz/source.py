"""Choices and parts out of a fuzzer's bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Takes what it is asked for from the front of *data*; behind the end all is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes have not been taken."""
        return len(self._data) - self._at

    def bytes(self, count: int) -> bytes:
        """Return the next *count* bytes, fewer at the end."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def short(self, most: int = 255) -> bytes:
        """Return a few bytes, whose number comes first."""
        return self.bytes(self.number(most))

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.bytes(self.left)

    def number(self, most: int) -> int:
        """Return a number from 0 to *most*."""
        size = (most.bit_length() + 7) // 8
        return int.from_bytes(self.bytes(size), "big") % (most + 1)

    def flag(self) -> bool:
        """Return a choice."""
        return bool(self.number(1))

    def pick(self, some: Sequence[T]) -> T:
        """Return one of *some*."""
        return some[self.number(len(some) - 1)]

    def sizes(self) -> list[int]:
        """Return the sizes of the pieces that a stream arrives in, over and over."""
        return [1 + self.number(255) for _ in range(1 + self.number(3))]


def cut(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut *stream* into pieces of *sizes*."""
    at = 0
    for size in cycle(sizes):
        if at >= len(stream):
            return
        yield stream[at : at + size]
        at += size
