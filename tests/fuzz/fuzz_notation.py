"""Formats as people write them on a command line: a format, or an error that says so."""

from __future__ import annotations

from fuzz.source import Source
from pysock.cli import Failure
from pysock.cli.guess_notation import expression, framing_from
from pysock.framing import Format

WORDS = (b'LengthField(2, "little", offset=1)', b"Varint(", b"Delimiter(b", b'counts="frame"')


def target(data: bytes) -> None:
    source = Source(data)
    limit = source.number((1 << 24) - 1) if source.flag() else None
    text = source.rest().decode(errors="replace")
    try:
        framing = framing_from(text, limit)
    except Failure as exc:
        assert str(exc)
        return
    assert isinstance(framing, Format) and (limit is None or framing.max_frame == limit)
    written = expression(framing)
    assert framing_from(written) == framing
