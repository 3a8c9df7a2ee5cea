"""`pysock dump` cuts a file into the frames that a decoder finds, up to the same error."""

from __future__ import annotations

from fuzz import decoders
from fuzz.source import Source, cut
from outcomes import outcome_of
from pysock.cli import Failure
from pysock.cli.dump import _Frames, check_stream
from pysock.formats import NAMED
from pysock.framing import Raw

FORMATS = (
    lambda source: source.pick(list(NAMED.values())),
    decoders.length_field,
    decoders.varint,
    decoders.decimal,
    decoders.delimiter,
    decoders.other,
)


def target(data: bytes) -> None:
    source = Source(data)
    framing = source.pick(FORMATS)(source)
    skip, sizes = source.number(40), source.sizes()
    stream = source.bytes(decoders.MOST)
    try:
        check_stream(stream[:24], "capture")
    except Failure as exc:
        assert "capture" in str(exc)
    if framing is None or isinstance(framing, Raw):
        return
    expected = outcome_of(framing.decoder(), [stream[skip:]])
    frames = _Frames(framing, skip)
    found = []
    failed = False
    try:
        for piece in cut(stream, sizes):
            frames.feed(piece)
            found += frames.take()
            frames.check()
        frames.end()
    except Failure as exc:
        assert str(exc).isprintable()
        failed = True
    assert len(found) == len(expected.messages)
    assert failed == (expected.error is not None or len(stream) < skip)
    at = skip
    for frame, message in zip(found, expected.messages, strict=True):
        assert frame.offset == at and stream[at : at + len(frame.data)] == frame.data
        assert message in frame.data and frame.payload <= len(frame.data)
        at += len(frame.data)
