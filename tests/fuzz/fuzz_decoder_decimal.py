"""Decoders of formats with a decimal length: netstrings, header blocks, any terminator."""

from __future__ import annotations

from fuzz import decoders
from fuzz.source import Source


def target(data: bytes) -> None:
    source = Source(data)
    decoders.check(decoders.decimal(source), source)
