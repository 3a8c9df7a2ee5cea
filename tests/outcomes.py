"""What a decoder makes of a stream: its messages, or how it refuses what it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pysock.errors import FramingError, IncompleteFrame


class Outcome(NamedTuple):
    """All that a decoder has to say to a stream and its end."""

    messages: list[bytes]
    error: type[Exception] | None = None
    received: int | None = None
    expected: int | None = None


def outcome_of(decoder: Any, chunks: Iterable[bytes]) -> Outcome:
    messages: list[bytes] = []
    try:
        for chunk in chunks:
            messages += decoder.feed(chunk)
        decoder.eof()
    except FramingError as exc:
        stays_broken(decoder, exc)
        return Outcome(messages, type(exc))
    except IncompleteFrame as exc:
        return Outcome(messages, IncompleteFrame, exc.received, exc.expected)
    return Outcome(messages)


def stays_broken(decoder: Any, error: FramingError) -> None:
    """Nothing is skipped or resynchronised after an error."""
    for call in (lambda: decoder.feed(b"\0\0\0\1a"), lambda: decoder.feed(b""), decoder.eof):
        again: FramingError | None = None
        try:
            call()
        except FramingError as exc:
            again = exc
        assert again is not None, f"went on after {error!r}"
        assert (type(again), str(again)) == (type(error), str(error))
