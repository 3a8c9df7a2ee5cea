"""What the verbs' options take: counts, sizes, seconds and formats.

What cannot be read is refused with one sentence, as argparse wants it or as a Failure.
"""

from __future__ import annotations

import argparse
import math
import re

from ..formats import named
from ..framing import Format
from . import MISUSED, Failure, Parser

__all__ = ["add_address", "as_count", "as_number", "as_seconds", "as_size", "format_of"]

_UNITS = {None: 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def add_address(parser: Parser) -> None:
    """Add the argument that says where to connect."""
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        help="host:port, tcp://host:port, unix:///path, unix:@abstract or a path",
    )


def as_count(text: str, least: int = 1, most: int = (1 << 53) - 1) -> int:
    """Return the whole number that *text* is."""
    if not re.fullmatch("[0-9]{1,16}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} up")
    return int(text)


def as_size(text: str) -> int:
    """Return a number of bytes, given as 100, 64k or 1M."""
    match = re.fullmatch(r"([0-9]{1,15})(?:([kmg])(?:i?b)?)?", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, as in 64k or 1M")
    return int(match[1]) * _UNITS[match[2]]


def as_number(text: str, what: str, zero: bool = False, below: float = math.inf) -> float:
    """Return a number of *what* above 0, or of 0 too where *zero* is set."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (0 < found < below or (zero and found == 0)):
        least = "of 0 or more" if zero else "above 0"
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what} {least}")
    return found


def as_seconds(text: str, zero: bool = False, below: float = math.inf) -> float:
    """Return a number of seconds."""
    return as_number(text, "seconds", zero, below)


def format_of(name: str, max_frame: int | None) -> Format:
    """Return the format called *name*, for payloads of *max_frame* bytes where given.

    Raises:
        Failure: there is no such format, or it cannot have frames so long.
    """
    try:
        framing = named(name)
        return framing if max_frame is None else framing.replace(max_frame=max_frame)
    except (ValueError, OverflowError) as exc:
        raise Failure(str(exc), MISUSED) from None
