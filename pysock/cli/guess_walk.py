"""Going over bytes frame by frame, as a format has them, without keeping any."""

from __future__ import annotations

from typing import NamedTuple

from .. import FramingError
from ..framing import Delimiter, Format, LengthField, Netstring
from .dump import frame_size

__all__ = ["BROKEN", "CUT", "EXACT", "MOST_FRAMES", "STOPPED", "Walk", "walk"]

EXACT, CUT, BROKEN, STOPPED = "exact", "cut", "broken", "stopped"
MOST_FRAMES = 20_000  # no walk goes further


class Walk(NamedTuple):
    """How far a format goes.

    `edges` has the beginning of each frame and the end of the last complete one.
    `outcome` is EXACT: the bytes end there; CUT: they end inside the next frame;
    BROKEN: what follows is no frame; STOPPED: there is more, which was not looked at.
    `due` is the size of the frame that is cut, 0 where it is not known.
    """

    edges: list[int]
    outcome: str
    due: int = 0

    @property
    def frames(self) -> int:
        return len(self.edges) - 1


def walk(framing: Format, data: bytes, start: int, whole: bool, most: int) -> Walk:
    """Go over *data* from *start* on.

    Args:
        framing: any format but Raw.
        data: the bytes.
        start: where the first frame begins.
        whole: False: there is more than *data*, so that its end says nothing.
        most: frames to look at.
    """
    view, size = memoryview(data), len(data)
    end = _end_of(framing)
    edges = [at := start]
    while at < size:
        if len(edges) > most:
            return Walk(edges, STOPPED)
        try:
            found = frame_size(framing, view[at:])
        except FramingError:
            return Walk(edges, BROKEN)
        if found is None or at + found[0] > size:
            return Walk(edges, CUT if whole else STOPPED, found[0] if found else 0)
        after = at + found[0]
        if end and data[after - len(end) : after] != end:
            return Walk(edges, BROKEN)
        edges.append(at := after)
    return Walk(edges, EXACT if whole else STOPPED)


def _end_of(framing: Format) -> bytes:
    if isinstance(framing, LengthField):
        return framing.trailer
    if isinstance(framing, Delimiter):
        return framing.delimiter
    return b"," if isinstance(framing, Netstring) else b""
