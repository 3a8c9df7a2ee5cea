"""Decoders of formats with a delimiter."""

from __future__ import annotations

from fuzz import decoders
from fuzz.source import Source


def target(data: bytes) -> None:
    source = Source(data)
    decoders.check(decoders.delimiter(source), source)
