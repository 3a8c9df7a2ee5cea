"""Decoders of formats with a length field, wherever it stands and whatever it counts."""

from __future__ import annotations

from fuzz import decoders
from fuzz.source import Source


def target(data: bytes) -> None:
    source = Source(data)
    decoders.check(decoders.length_field(source), source)
