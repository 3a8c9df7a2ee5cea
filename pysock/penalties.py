"""Sources that keep failing to prove a key: counted, and refused for a while."""

from __future__ import annotations

import socket
from collections import OrderedDict
from itertools import islice

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Penalties", "source_of"]

_FAILURE = 5.0  # seconds that one costs
_REFUSED_FROM = 15.0  # seconds: a slip of the hand is no attack
_LONGEST = 600.0  # seconds
_SOURCES = 65_536

_LOOPBACK = bytes(15) + b"\1"
_MAPPED = bytes(10) + b"\xff\xff"  # what an IPv4 number begins with in IPv6
_HALF = 8  # bytes: a /64, which one host may have for its own


def source_of(client_address: Any) -> str | None:
    """Return whose failures count together with those of a client at *client_address*.

    That is its IPv4 number, or its IPv6 network of 64 bits.  None for this machine itself:
    loopback and Unix sockets.
    """
    host = client_address[0] if isinstance(client_address, tuple) and client_address else None
    if not isinstance(host, str):
        return None
    if ":" not in host:
        return None if host.startswith("127.") else host or None
    try:
        number = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return None
    if number.startswith(_MAPPED):
        return source_of((socket.inet_ntoa(number[len(_MAPPED) :]),))
    if number == _LOOPBACK:
        return None
    return socket.inet_ntop(socket.AF_INET6, number[:_HALF] + bytes(_HALF)) + "/64"


class Penalties:
    """How long each source is refused: 5 s for each failure, 600 s at most.

    The seconds run off from the first failure on, and a source is let in until 15 have
    come together; then it is refused until all are over.  Of more than 65,536 sources the
    one that has not failed for longest is forgotten.  Times are `time.monotonic` seconds;
    calls must not overlap.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # last failure last

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, source: str | None, now: float) -> None:
        """Count a failure of *source*; None is never refused."""
        if source is None:
            return
        self._forget_two(now)
        entry = self._entries.setdefault(source, _Entry())
        self._entries.move_to_end(source)
        entry.add(now)
        if len(self._entries) > _SOURCES:
            self._entries.popitem(last=False)

    def left(self, source: str | None, now: float) -> float:
        """Return for how many seconds *source* is refused from *now* on, 0.0 if it is not."""
        entry = None if source is None else self._entries.get(source)
        return entry.left(now) if entry is not None and entry.refused else 0.0

    def _forget_two(self, now: float) -> None:
        """Forget what is over among the oldest two, so that the table shrinks again."""
        for source in list(islice(self._entries, 2)):
            if not self._entries[source].left(now):
                del self._entries[source]


class _Entry:
    """The penalty of one source."""

    __slots__ = ("_at", "_seconds", "refused")

    def __init__(self) -> None:
        self._seconds = 0.0  # that were left at the last failure, which was
        self._at = 0.0
        self.refused = False

    def left(self, now: float) -> float:
        return max(0.0, self._seconds - (now - self._at))

    def add(self, now: float) -> None:
        before = self.left(now)
        self._seconds = min(before + _FAILURE, _LONGEST)
        self._at = now
        self.refused = (self.refused and before > 0) or self._seconds >= _REFUSED_FROM
