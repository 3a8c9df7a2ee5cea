"""From bytes to proposals: candidates, those of equal frames together, best first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..formats import NAMED
from ..framing import (
    ContentLength,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    Netstring,
    Varint,
)
from .guess_known import OPENINGS, PROTOCOLS, preface_of
from .guess_layouts import SAMPLE, Layout, fixed_sizes, is_text, length_fields, others
from .guess_score import Scorer, frames_of
from .guess_walk import BROKEN, CUT, EXACT, MOST_FRAMES, STOPPED, Walk, walk

__all__ = ["ENOUGH", "Proposal", "propose"]

ENOUGH = 7.0  # bits: by accident so good is one capture in 100
FIRST, SECOND = 64, 2_000  # frames of the first two rounds
SURVIVORS = (200, 30)  # candidates that go on to the next one
UNLIKE = 8  # bits against a protocol from which on it is not named for a chance likeness
OPENED = 16.0  # bits that the first message of a conversation is worth
GREETED = 16.0  # bits that a protocol's greeting is worth

MOST = 1500  # candidates, the most usual ones; only zeros have more that go on for long
EQUALS = 12  # candidates that are the same so far, the most usual ones

_WIDTHS = {1: 2.5, 2: 1.5, 3: 4.0, 4: 1.0, 8: 2.5}
_COUNTS = {"rest": 0.8, "frame": 2.0, "with_length": 2.5, "body": 3.0}
_NAME = 5.0  # bits to name a protocol


@dataclass
class Proposal:
    """Formats that cut the bytes at the same places, and what speaks for them.

    `format` is the one to propose, `names` those that are equal here, best first; `sign`
    is what else the frames have in common with the first of them.
    """

    format: Format
    names: list[str]
    walked: Walk
    score: float
    start: int
    sign: str = ""
    alike: list[int] = field(default_factory=list)

    @property
    def is_sure(self) -> bool:
        return self.score >= ENOUGH and self.walked.outcome != BROKEN


def propose(data: bytes, start: int | None, whole: bool) -> list[Proposal]:
    """Return what the frames of *data* may be, best first; what does not tile comes too.

    Args:
        data: the bytes of one direction of a stream.
        start: where the first frame begins; None: at the beginning, or after the greeting
            of a protocol that has one.
        whole: False: the stream goes on after *data*.
    """
    sample = data[start or 0 :][:SAMPLE]
    if len(sample) > 32 and max(map(sample.count, set(sample))) > 0.995 * len(sample):
        return []  # any format fits what is all alike
    if start is not None:
        return _Search(data, start, whole, "").run()
    protocol, size = preface_of(data)
    found = _Search(data, 0, whole, "").run()
    if size and size < len(data):
        found += _Search(data, size, whole, protocol).run()
        found.sort(key=_rank)
    return found


def _rank(proposal: Proposal) -> tuple[bool, float]:
    worth = proposal.score
    if proposal.walked.outcome == CUT:
        worth *= 0.88  # a wrong layout that is just shifted ends inside a frame too
    elif proposal.walked.outcome == EXACT and proposal.sign:
        worth *= 2  # to the very end, and what is in the frames fits as well
    return (proposal.walked.outcome == BROKEN, -worth)


def _put_echoes_behind(found: list[Proposal]) -> None:
    """Lower those that live on the lengths of another, and read zeros in between.

    Where a length of four bytes begins with zeros, one of two bytes finds an empty frame
    there, and goes on as the other does.  One whose first frame ends early or late by
    accident, and which then reads the right lengths from inside the wrong frames, is
    shifted for good.
    """
    for echo in found:
        for right in found:
            if right.score >= echo.score / 2 > 0 and _echoes(echo, right):
                echo.score = min(echo.score, 0.85 * right.score - 5)


def _echoes(echo: Proposal, right: Proposal) -> bool:
    """Whether *echo* reads nearly all lengths of *right*, but in the wrong frames."""
    theirs, ours = (
        _lowest_bytes(echo.format, echo.walked),
        _lowest_bytes(right.format, right.walked),
    )
    if echo is right or not theirs or not ours:
        return False
    last = min(max(theirs), max(ours))
    shared = {at: sizes for at, sizes in ours.items() if at <= last}
    # The first length may be another one: that is how a shift begins.
    needed = max(1, 0.9 * (len(shared) - 1))
    if sum(at in theirs for at in shared) < needed:
        return False
    at, its_at = min(ours) - right.start, min(theirs) - echo.start
    theirs = {low: frame for low, frame in theirs.items() if low <= last}
    if its_at > at and abs(len(theirs) - len(shared)) <= 1:
        # Its frames begin before the right ones.  A varint, which has one value for a
        # byte's half only, is no witness against anybody.
        return isinstance(echo.format, LengthField) and isinstance(right.format, LengthField)
    between = [end - start for low, (start, end) in theirs.items() if low not in ours]
    small = sum(size <= at + 1 for size in between)
    as_far = sum(low in theirs and theirs[low][1] >= end for low, (_, end) in shared.items())
    return bool(between) and small >= 0.8 * len(between) and as_far >= needed


def _lowest_bytes(framing: Format, walked: Walk) -> dict[int, tuple[int, int]]:
    """Return where the lowest byte of each length is, with its frame's two edges."""
    edges = walked.edges[: SECOND + 1]
    if not isinstance(framing, LengthField | Varint):
        return {}
    at = framing.offset
    if isinstance(framing, LengthField) and framing.byteorder == "big":
        at += framing.width - 1
    return {start + at: (start, end) for start, end in zip(edges, edges[1:], strict=False)}


def _put_multiples_behind(found: list[Proposal]) -> None:
    """Lower those that take several records of one size for one frame, always as many."""
    for one in found:
        if not isinstance(one.format, Fixed):
            continue
        for many in found:
            edges = many.walked.edges
            size = edges[1] - edges[0]
            if (
                size > one.format.size
                and size % one.format.size == 0
                and one.score >= many.score / 2 > 0
                and edges == list(range(edges[0], edges[-1] + 1, size))
            ):
                many.score = min(many.score, 0.9 * one.score - 5)


def _with_usual_limit(framing: Format) -> Format:
    return framing.replace(max_frame=...)


@dataclass
class _Candidate:
    framing: Format
    price: float  # bits to describe it
    layout: Layout | None = None


class _Scored(NamedTuple):
    """A format with what speaks for it; `sign` is the part that a protocol's looks have."""

    score: float
    sign: float
    framing: Format
    name: str = ""
    words: str = ""


class _Search:
    """One search from a given beginning on."""

    def __init__(self, data: bytes, start: int, whole: bool, greeted: str) -> None:
        self._data, self._start, self._whole = data, start, whole
        self._greeted = greeted
        self._scorer = Scorer(data, start)

    def run(self) -> list[Proposal]:
        groups = self._groups()
        found = [
            proposal
            for walked, group in groups
            if (proposal := self._proposal(walked, group)) is not None
        ]
        _put_echoes_behind(found)
        _put_multiples_behind(found)
        found.sort(key=_rank)
        return found

    # ------------------------------------------------------------ candidates

    def _candidates(self) -> Iterator[_Candidate]:
        for framing in others(self._data, self._start):
            yield _Candidate(framing, _price_of_other(framing))
        if is_text(self._data, self._start):
            return
        for layout in length_fields(self._data, self._start, self._whole):
            yield _Candidate(layout.format(), price_of(layout), layout)
        for fixed in fixed_sizes(self._data, self._start):
            yield _Candidate(fixed, _price_of_other(fixed))

    def _walk(self, framing: Format, most: int) -> Walk:
        return walk(framing, self._data, self._start, self._whole, most)

    def _groups(self) -> list[tuple[Walk, list[_Candidate]]]:
        """Walk in rounds, ever further with ever fewer; put together what is equal."""
        going = sorted(self._candidates(), key=lambda candidate: candidate.price)[:MOST]
        walks: dict[int, Walk] = {}  # those that need not be made again
        for most, survivors in zip((FIRST, SECOND), SURVIVORS, strict=True):
            groups: dict[tuple[object, ...], tuple[Walk, list[_Candidate]]] = {}
            for candidate in going:
                walked = walks.get(id(candidate)) or self._walk(candidate.framing, most)
                if walked.outcome != STOPPED:
                    walks[id(candidate)] = walked
                if walked.frames:
                    key = (*walked.edges, walked.outcome)
                    groups.setdefault(key, (walked, []))[1].append(candidate)
            best = sorted(groups.values(), key=self._roughly, reverse=True)[:survivors]
            for _, group in best:
                group.sort(key=lambda candidate: candidate.price)
                del group[EQUALS:]
            going = [candidate for _, group in best for candidate in group]
            if all(walked.outcome != STOPPED for walked, _ in best):
                best = best[: SURVIVORS[-1]]
                break
        # Of those that were equal over so many frames one goes on for all.
        return [
            (
                walks.get(id(group[0])) or self._walk(group[0].framing, MOST_FRAMES),
                group,
            )
            for _, group in best
        ]

    def _roughly(self, found: tuple[Walk, list[_Candidate]]) -> float:
        walked, group = found
        return (
            max(
                self._scorer.score(candidate.framing, walked, {}) - candidate.price
                for candidate in group[:2]
            )
            + (20 if walked.outcome == EXACT else 0)
            + min(20, walked.frames)
        )

    # ------------------------------------------------------------ proposals

    def _proposal(self, walked: Walk, group: list[_Candidate]) -> Proposal | None:
        if not walked.frames:
            return None
        frames = frames_of(self._data, walked)
        columns = self._scorer.columns(walked.edges)
        scored: list[_Scored] = []
        for candidate in group:
            bits = self._scorer.score(candidate.framing, walked, columns)
            scored.append(_Scored(bits - candidate.price, 0.0, candidate.framing))
        for name, framing in self._equals(walked):
            bits = self._scorer.score(framing, walked, columns) - _NAME
            sign, words = self._sign(name, frames)
            scored.append(_Scored(bits + sign, sign, framing, name, words))
        score = max(one.score for one in scored)
        # What a protocol's frames look like decides between layouts that are equal here.
        scored.sort(key=lambda one: -one.score - 4 * one.sign)
        best = next(one for one in scored if self._goes_as_far(one.framing, walked))
        framing = best.framing
        if best.name:
            framing = _with_usual_limit(framing)
        elif isinstance(framing, LengthField):
            framing = self._marked(framing, group, walked, frames)
        names = [
            one.name
            for one in scored
            if one.name and (one.sign > -UNLIKE or _with_usual_limit(one.framing) == framing)
        ]
        names += _plain_names(framing)
        alike = [at for at, bits in columns.items() if 0 <= at < 16 and bits > 3]
        return Proposal(framing, names, walked, score, self._start, best.words, alike)

    def _goes_as_far(self, framing: Format, walked: Walk) -> bool:
        """Whether what was equal at first is so to the end."""
        if walked.frames <= SECOND:
            return True
        return self._walk(framing, MOST_FRAMES).edges == walked.edges

    def _equals(self, walked: Walk) -> Iterator[tuple[str, Format]]:
        """Yield the protocols that have the same frames, limits and all."""
        for name in PROTOCOLS:
            framing = NAMED[name]
            most = min(walked.frames, SECOND)
            # The cheap look first: most differ in the first frame.
            for frames_seen in (1, most):
                other = self._walk(framing, frames_seen)
                if other.edges != walked.edges[: frames_seen + 1]:
                    break
            else:
                yield name, framing

    def _sign(self, name: str, frames: list[bytes]) -> tuple[float, str]:
        """Return the bits for or against a protocol that the frames' contents are."""
        bonus = GREETED if name == self._greeted else 0.0
        if name == "protobuf":
            if all(map(_is_protobuf, frames)):
                return bonus + 4 * min(len(frames), 4), "the payloads are protobuf's fields"
            return bonus - 3, ""
        sign = PROTOCOLS[name]
        if sign is None:
            return bonus, ""
        fit = sum(1 for frame in frames if sign.pattern.match(frame))
        if opening := OPENINGS.get(name):
            bonus += OPENED if opening.match(frames[0]) else 0
        if fit >= max(1, 0.8 * len(frames)):
            words = f"{sign.words} in {fit}" if sign.words else ""
            return bonus + sign.bits * min(fit, 4), words
        return bonus - sign.missing, ""

    def _marked(
        self,
        framing: LengthField,
        group: list[_Candidate],
        walked: Walk,
        frames: list[bytes],
    ) -> Format:
        """Add the magic and the trailer that all frames have, if there are enough of them."""
        layout = next((one.layout for one in group if one.framing is framing), None)
        if layout is None or len(frames) < 4:
            return framing
        magic = frames[0][: layout.offset]
        for frame in frames:
            while not frame.startswith(magic):
                magic = magic[:-1]
        trailer = b""
        if layout.counts == "body":
            edges = walked.edges
            ends = [
                self._data[max(at, after - layout.extra) : after]
                for at, after in zip(edges, edges[1:], strict=False)
            ]
            trailer = ends[0]
            for end in ends:
                while not end.endswith(trailer):
                    trailer = trailer[1:]
            if not trailer.strip(b"\0"):
                trailer = b""
        if not magic.strip(b"\0"):
            magic = b""
        marked = layout.format(magic, trailer)
        same = self._walk(marked, MOST_FRAMES)
        return marked if same.edges == walked.edges else framing


def price_of(layout: Layout) -> float:
    """Return the bits to describe a length field: the more unusual, the more."""
    price = 2.0 + _WIDTHS.get(layout.width, 8.0) + _COUNTS[layout.counts]
    price += 1.0 + (1.0 + 2 * math.log2(layout.offset + 1) if layout.offset else 0.0)
    price += 1.5 if layout.order == "little" else 0.5 if layout.width > 1 else 0.0
    if layout.counts == "body":
        price += 2 * math.log2(layout.extra + 1)
    return price


def _price_of_other(framing: Format) -> float:
    if isinstance(framing, Fixed):
        return 6.0 + 2 * math.log2(framing.size)
    if isinstance(framing, Varint):
        return 5.0 + 2 * math.log2(framing.offset + 1)
    if isinstance(framing, Delimiter):
        return 0.0
    return 4.0 if isinstance(framing, Netstring | ContentLength) else 7.0


_PLAIN: tuple[str, ...] = (
    "length1",
    "length2",
    "length4",
    "length8",
    "varint",
    "line",
    "crlf",
    "nul",
)
_PLAIN += ("length2-little", "length4-little", "length8-little")


def _plain_names(framing: Format) -> list[str]:
    """Return the names of formats that are no protocol's own."""
    return [name for name in _PLAIN if NAMED[name] == _with_usual_limit(framing)]


def _is_protobuf(frame: bytes) -> bool:
    """Whether the delimited message could be protobuf's: fields to its very end."""
    at = next((i for i, byte in enumerate(frame[:5]) if byte < 0x80), 4) + 1
    while at < len(frame):
        tag, at = _varint(frame, at)
        kind = tag & 7
        if tag < 8 or tag >= 1 << 32 or kind not in (0, 1, 2, 5):
            return False
        if kind == 0:
            _, at = _varint(frame, at)
        elif kind == 2:
            size, at = _varint(frame, at)
            at += size
        else:
            at += 8 if kind == 1 else 4
    return at == len(frame) or len(frame) == 4096


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    return value, at + 1  # it is cut, which no length allows
