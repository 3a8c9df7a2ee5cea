"""What hypothesis draws from: formats, messages they can carry, cuts, garbage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import reference
from pysock import framing

LONGEST = 300  # payload bytes: enough for two-byte varints, three decimal digits

limits = st.integers(1, LONGEST)


def examples(usual: int) -> settings:
    """How many there are to be; fewer where each instruction is interpreted, as by valgrind.

    Drawing a format and frames of it is slow at times on a busy machine; that is no fault.
    """
    most = int(os.environ.get("PYSOCK_TEST_EXAMPLES", usual))
    return settings(
        deadline=None,
        max_examples=min(usual, most),
        suppress_health_check=[HealthCheck.too_slow],
    )


def options(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these keyword arguments; the others keep their default."""
    return st.fixed_dictionaries({}, optional=strategies)


@st.composite
def length_fields(draw: st.DrawFn) -> framing.LengthField:
    """Any length field in a header of at most 24 bytes; limits mostly small."""
    width, offset = draw(st.integers(1, 8)), draw(st.integers(0, 10))
    header = offset + width + draw(st.sampled_from([0, 0, 1, 6]))
    given: dict[str, Any] = {
        "width": width,
        "offset": offset,
        "header": header,
        "byteorder": draw(st.sampled_from(["big", "little", "native"])),
        "counts": draw(st.sampled_from(["rest", "with_length", "frame", "body"])),
        "magic": draw(
            st.binary(max_size=offset) | st.binary(min_size=offset, max_size=offset)
        ),
        "trailer": draw(st.binary(max_size=3)),
    }
    bare = framing.LengthField(**given)
    beside = reference.beside_payload(bare)
    capacity = (1 << 8 * width) - 1 - beside
    if draw(st.booleans()):
        given["max_frame"] = draw(st.integers(1, min(capacity, LONGEST)))
    if draw(st.booleans()):
        most = min(beside + 20, beside + given.get("max_frame", capacity))
        given["minimum"] = draw(st.integers(0, most))
    given["strip"] = draw(st.sampled_from([None, 0, *may_strip(bare)]))
    return framing.LengthField(**given)


def may_strip(spec: Any) -> list[int]:
    """How many header bytes may be dropped: of the magic any, the length whole or not."""
    some = list(range(len(spec.magic) + 1))
    return [*some, spec.offset + spec.width] if spec.offset == len(spec.magic) else some


varints = st.builds(
    lambda given, strip: framing.Varint(**given, strip=strip),
    options(
        offset=st.integers(0, 4),
        max_bytes=st.integers(2, 10),
        max_frame=limits,
    ),
    st.sampled_from([None, 0]),
)

terminators = st.sampled_from([b"\n", b":", b"\r\n", b" bytes\n", b"x1", b"\0" * 16])

delimiters = st.builds(
    lambda delimiter, given: framing.Delimiter(delimiter, **given),
    st.sampled_from([b"\n", b"\r\n", b"aab", b"aa", b"\0"])
    | st.binary(min_size=1, max_size=16),
    options(keep=st.booleans(), max_frame=limits),
)

exact_formats: st.SearchStrategy[framing.Format] = st.one_of(
    length_fields(),
    varints,
    options(max_frame=limits).map(lambda given: framing.Netstring(**given)),
    st.builds(
        lambda terminator, given: framing.Decimal(terminator, **given),
        terminators,
        options(max_frame=limits),
    ),
    options(max_frame=limits).map(lambda given: framing.ContentLength(**given)),
    delimiters,
    st.integers(1, LONGEST).map(framing.Fixed),
    options(max_frame=limits).map(lambda given: framing.MultiprocessingConnection(**given)),
)
"""Every format but `Raw`, which has no frames that could be found again."""

any_format: st.SearchStrategy[framing.Format] = exact_formats | options(max_frame=limits).map(
    lambda given: framing.Raw(**given)
)


@st.composite
def payloads(draw: st.DrawFn, spec: Any) -> bytes:
    """What the format can carry, of any size up to its limit, or to `LONGEST`."""
    least = reference.smallest_payload(spec)
    size = draw(st.integers(least, max(least, min(spec.max_frame, LONGEST))))
    if type(spec).__name__ != "Delimiter":
        return draw(st.binary(min_size=size, max_size=size))
    # Rich in beginnings of the delimiter; what would end the frame early is cut off.
    end: bytes = spec.delimiter
    parts = st.sampled_from([end[:i] for i in range(1, len(end) + 1)]) | st.binary(max_size=9)
    payload = b"".join(draw(st.lists(parts, max_size=9)))[:size]
    return payload[: (payload + end).find(end)]


@st.composite
def frames(draw: st.DrawFn, spec: Any) -> bytes:
    """A good frame as the peer would send it, its free header bytes at random."""
    filler = draw(st.binary(max_size=24))
    return reference.frame_of(spec, draw(payloads(spec)), filler)


@st.composite
def streams(draw: st.DrawFn) -> tuple[framing.Format, list[bytes]]:
    """A format and some frames of it."""
    spec = draw(exact_formats)
    return spec, draw(st.lists(frames(spec), max_size=6))


TOKENS = (
    [
        b"0",
        b"1",
        b"12",
        b"999",
        b"1234567",
        b":",
        b",",
        b"-1",
        b" ",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
    ]
    + [b"Content-Length", b"content-length: 3\r\n\r\nabc", b"Content-Type: x\r\n", b"abc"]
    + [b"\0", b"\x80", b"\x80\0", b"\xff", b"\xff" * 4, b"\xff\xff\xff\xfb", b"\0\0\0\3abc"]
)


@st.composite
def garbage(draw: st.DrawFn) -> tuple[framing.Format, bytes]:
    """A format and bytes it may not like: noise, or good frames with damage done."""
    spec = draw(exact_formats)
    noise = st.one_of(
        st.binary(max_size=60), st.lists(st.sampled_from(TOKENS), max_size=12).map(b"".join)
    )
    stream = b"".join(draw(st.lists(frames(spec), max_size=3)))
    at = draw(st.integers(0, len(stream)))
    damage = draw(noise)
    return spec, stream[:at] + damage + stream[at + draw(st.integers(0, len(damage))) :]


cuts = st.lists(st.integers(1, 40), min_size=1, max_size=8)
"""Sizes of the pieces that a stream arrives in, over and over."""


def cut(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    at, size = 0, cycle(sizes)
    while at < len(stream):
        step = next(size)
        yield stream[at : at + step]
        at += step
