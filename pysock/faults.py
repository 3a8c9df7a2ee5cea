"""What may happen to a stream on purpose, and the check of it: for pysock.testing."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, TypedDict

__all__ = ["FaultOptions", "Faults", "MOST_MERGED"]

RANDOM = (2, 8, 64, 4096)  # the largest piece, each for a quarter of them
MOST_MERGED = 1 << 15  # bytes that systems hand over in one piece, also as a Unix stream


class FaultOptions(TypedDict, total=False):
    """The arguments of Faults, for functions that pass them on."""

    cut: int | Literal["random"] | Iterable[int] | None
    merge: bool | int
    pause: float
    delay: float
    reset_at: int | None
    end_at: int | None
    short_writes: int | None
    seed: int | None


@dataclass(frozen=True, repr=False)
class Faults:
    """What happens to the bytes of one direction.

    Without any they arrive as they were sent.  A *piece* is what is handed over at once.

    Args:
        cut: where pieces end.  A number: after every so many bytes of the stream, so 1 is
            every byte.  Several numbers: the sizes of the first pieces, one after another;
            what follows is not cut.  "random": sizes from 1 to 4096 bytes, most of them
            small.  What was sent in parts may arrive in more pieces.  A piece comes only
            when the one before it was received: no `recv` returns bytes of two.
        merge: hold bytes back, to hand over what separate calls have sent as one piece.  A
            number: as soon as so many bytes are there, 1 to 32768; True: as many as come,
            up to 32768.  Either way as soon as the sender has paused, or has ended.
        pause: seconds without a byte after which `merge` waits no longer.
        delay: seconds between two pieces.
        reset_at: bytes after which the connection is reset, at both ends.
        end_at: bytes after which the stream ends as if the sender had closed it.  What it
            sends beyond is dropped; the other direction goes on.
        short_writes: bytes that one call of `send` takes at most.  A `Connection` has the
            smallest buffer of the system instead, so that long messages leave in parts.
        seed: for `cut="random"`; default: another one each time, which `repr` tells.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: one that is out of range or contradicts another.
    """

    cut: int | Literal["random"] | Iterable[int] | None = None
    merge: bool | int = False
    pause: float = 0.05
    delay: float = 0.0
    reset_at: int | None = None
    end_at: int | None = None
    short_writes: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("reset_at", 0), ("end_at", 0), ("short_writes", 1), ("seed", 0)):
            if (number := getattr(self, name)) is not None:
                _check_count(name, number, least)
        if not isinstance(self.merge, bool):
            _check_count("merge", self.merge, 1)
        if self.merge > MOST_MERGED:
            raise ValueError(f"merge is {self.merge}, expected at most {MOST_MERGED} bytes")
        for name in ("pause", "delay"):
            seconds = getattr(self, name)
            if not isinstance(seconds, int | float) or isinstance(seconds, bool):
                raise TypeError(f"{name} is a {type(seconds).__name__}, expected seconds")
            if not 0 <= seconds < math.inf:
                raise ValueError(f"{name} is {seconds}, expected seconds of 0 or more")
        if self.reset_at is not None and self.end_at is not None:
            raise ValueError("reset_at and end_at are given, expected one of them")
        self._check_cut()

    def _check_cut(self) -> None:
        cut, seed = self.cut, self.seed
        if seed is not None and cut != "random":
            raise ValueError('seed is given without cut="random", which it is for')
        if cut == "random":
            if seed is None:
                object.__setattr__(self, "seed", random.randrange(1 << 32))
        elif cut is None or isinstance(cut, int):
            if cut is not None:
                _check_count("cut", cut, 1)
        elif isinstance(cut, str | bytes | bytearray) or not isinstance(cut, Iterable):
            raise TypeError(
                f'cut is a {type(cut).__name__}, expected bytes of a piece, sizes or "random"'
            )
        elif not isinstance(cut, Iterator):
            object.__setattr__(self, "cut", tuple(_checked_sizes(cut)))

    def _twice(self) -> tuple[Faults, Faults]:
        """The same for both directions, also where an iterator can be asked only once."""
        if not isinstance(self.cut, Iterator):
            return self, self
        there, back = itertools.tee(self.cut)
        return replace(self, cut=there), replace(self, cut=back)

    def _sizes(self) -> Iterator[int]:
        if self.cut == "random":
            draw = random.Random(self.seed)
            return (draw.randint(1, draw.choice(RANDOM)) for _ in itertools.repeat(0))
        if isinstance(self.cut, int):
            return itertools.repeat(self.cut)
        return _checked_sizes(self.cut or ())

    def __repr__(self) -> str:
        shown = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                value = "<iterator>" if isinstance(value, Iterator) else repr(value)
                shown.append(f"{field.name}={value}")
        return f"Faults({', '.join(shown)})"


def _check_count(name: str, number: object, least: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} is a {type(number).__name__}, expected a number")
    if number < least:
        raise ValueError(f"{name} is {number}, expected {least} or more")
    return number


def _checked_sizes(sizes: Iterable[object]) -> Iterator[int]:
    return (_check_count("a size of cut", size, 1) for size in sizes)
