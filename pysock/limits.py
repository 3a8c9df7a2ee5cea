"""How much a server lets its clients take, and how much it logs of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LIMITS", "Limits", "Seldom", "default_workers", "raise_descriptor_limit"]

MIB = 1024 * 1024
_RESERVED = 64  # descriptors that are not for connections


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server allows; None lifts a limit.

    Args:
        max_connections: connections at a time.
        excess: what becomes of more clients: they "wait" in the backlog, or are told to go
            ("close").
        idle_timeout: seconds between two messages of a connection.
        handshake_timeout: seconds for all that comes before the first message.
        send_timeout: seconds without a byte taken by a client that is sent to.
        minimum_rate: (grace, rate): a message that takes longer than *grace* seconds must
            come with *rate* bytes a second.
        max_memory: bytes of buffers for all messages above 64 KiB that are under way.
    """

    max_connections: int | None = 1024
    excess: str = "wait"
    idle_timeout: float | None = 600.0
    handshake_timeout: float | None = 10.0
    send_timeout: float | None = 60.0
    minimum_rate: tuple[float, float] | None = (20.0, 1024.0)
    max_memory: int | None = 256 * MIB

    def __post_init__(self) -> None:
        for name in ("max_connections", "max_memory"):
            number = getattr(self, name)
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ValueError(f"{name} is {number!r}, expected 1 or more, or None")
        for name in ("idle_timeout", "handshake_timeout", "send_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
                raise ValueError(f"{name} is {seconds!r}, expected seconds above 0, or None")
        if self.excess not in ("wait", "close"):
            raise ValueError(f"excess is {self.excess!r}, expected 'wait' or 'close'")
        rate = self.minimum_rate
        if rate is not None and not (
            isinstance(rate, tuple | list)
            and len(rate) == 2
            and all(isinstance(number, int | float) for number in rate)
            and rate[0] >= 0
            and rate[1] > 0
        ):
            raise ValueError(
                f"minimum_rate is {rate!r}, expected (seconds of grace, bytes a second)"
            )

    def patience(self) -> tuple[float, float, float, float]:
        """Return the limits in time as the compiled loop takes them, -1.0 for none.

        Seconds between messages; seconds and bytes a second of one message; seconds
        without a byte taken.
        """
        idle, refusal = self.idle_timeout, self.send_timeout
        grace, rate = self.minimum_rate or (-1.0, 1.0)
        return (
            -1.0 if idle is None else idle,
            grace,
            rate,
            -1.0 if refusal is None else refusal,
        )

    def sweep_interval(self) -> float | None:
        """Seconds between two looks at all connections; None where no limit asks for it."""
        spans = [self.idle_timeout, self.send_timeout]
        spans.append(self.minimum_rate[0] if self.minimum_rate else None)
        shortest = min((span for span in spans if span is not None), default=None)
        return None if shortest is None else min(1.0, max(0.01, shortest / 4))


LIMITS = Limits()


def default_workers() -> int:
    """Return how many threads a server has for handlers that block."""
    return min(32, max(16, (os.cpu_count() or 1) + 4))


def raise_descriptor_limit(connections: int | None, each: int = 1) -> int | None:
    """Have this process allowed so many descriptors; return how many connections that is.

    Args:
        connections: how many are wanted; None: as many as there may be.
        each: descriptors that one takes.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    wanted = hard if connections is None else connections * each + _RESERVED
    if wanted == resource.RLIM_INFINITY or wanted > soft:
        try:
            raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError):
            pass  # macOS has another limit, which only trying tells
    if connections is None or soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, (soft - _RESERVED) // each))


class Seldom:
    """Logs, but of each kind no more than so many lines a second.

    Args:
        logger: where the lines go.
        most: lines a second of one kind; the next line that passes says how many did not.
    """

    def __init__(self, logger: logging.Logger, most: int = 5) -> None:
        self._logger = logger
        self._most = most
        self._kinds: dict[str, list[float]] = {}  # began, lines since, lines kept back
        self._guard = threading.Lock()

    def log(
        self, level: int, text: str, *args: Any, exc_info: Any = None, kind: str = ""
    ) -> None:
        """Log a line, or count it; *text* before its arguments, and *kind*, tell its kind."""
        if not self._logger.isEnabledFor(level):
            return
        now = time.monotonic()
        with self._guard:
            counts = self._kinds.setdefault(text + kind, [now, 0, 0])
            if now - counts[0] >= 1.0:
                counts[0], counts[1] = now, 0
            counts[1] += 1
            if counts[1] > self._most:
                counts[2] += 1
                return
            kept_back, counts[2] = int(counts[2]), 0
        if kept_back:
            text += " (%d more like this)"
            args = (*args, kept_back)
        self._logger.log(level, text, *args, exc_info=exc_info)
