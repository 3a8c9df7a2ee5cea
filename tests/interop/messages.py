"""What both sides of an exchange can make for themselves, and compare."""

from __future__ import annotations

from collections.abc import Iterable

MIB = 1024 * 1024


def messages(sizes: Iterable[int]) -> list[bytes]:
    """Return one message of each size; none holds a line's end (CR LF)."""
    return [(bytes(range(256)) * (size // 256 + 1))[:size] for size in sizes]


class Echo:
    """A handler that returns each message, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, message: bytes) -> bytes:
        self.seen.append(message)
        return message
