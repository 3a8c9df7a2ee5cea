"""Decoders of the formats that have a name."""

from __future__ import annotations

from fuzz import decoders
from fuzz.source import Source
from pysock.formats import NAMED

FORMATS = list(NAMED.values())


def target(data: bytes) -> None:
    source = Source(data)
    framing = source.pick(FORMATS)
    limit = decoders.limit_of(source)
    if limit is not ...:
        framing = decoders.made(framing.replace, limit) or framing
    decoders.check(framing, source)
