"""Decoders of formats with a varint for a length."""

from __future__ import annotations

from fuzz import decoders
from fuzz.source import Source


def target(data: bytes) -> None:
    source = Source(data)
    decoders.check(decoders.varint(source), source)
