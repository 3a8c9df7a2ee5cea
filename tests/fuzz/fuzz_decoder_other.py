"""Decoders of records, raw bytes, multiprocessing's length."""

from __future__ import annotations

from fuzz import decoders
from fuzz.source import Source


def target(data: bytes) -> None:
    source = Source(data)
    decoders.check(decoders.other(source), source)
