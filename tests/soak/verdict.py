"""What makes a soak fail besides wrong bytes: leaks, growth, errors that had no cause."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from processes import await_that, look
from trouble import Trouble

WARM = 60.0  # seconds of a process's life in which its memory may grow
RESTS = 5  # after that, before anything can be said of it
SETTLE = 20.0  # seconds after which what is still open is lost
GROWTH = 1024.0  # KiB a minute, and
MORE = 4096.0  # KiB in all: less is chance
THREADS = {"client": 3, "master": 1, "worker": 40, "remote": 48, "spawner": 1}  # at rest

Key = tuple[str, int]  # role and number


class Resting:
    """What each process held whenever all were at rest."""

    def __init__(self) -> None:
        self.count = 0
        self._open: dict[str, list[int]] = {}  # descriptors by role, at the first rests
        self._memory: dict[Key, list[tuple[float, int]]] = {}

    def compare(self, found: Mapping[Key, int], at: float) -> list[str]:
        """Look at all processes; return what is held by one that should not be."""
        self.count += 1
        faults = []
        for (role, pid), number in found.items():
            most = self._most(role)

            def settled(number: int = number, most: float = most) -> bool:
                sample = look(number)
                return sample is None or sample.descriptors <= most

            await_that(settled, SETTLE)
            sample = look(number)
            if sample is None:
                continue
            if sample.descriptors > most:
                faults.append(
                    f"{role} {pid} holds {sample.descriptors} descriptors at rest, not {most}"
                )
            limit = THREADS[role.split()[-1]]
            if sample.threads > limit:
                faults.append(f"{role} {pid} has {sample.threads} threads at rest")
            self._open.setdefault(role, []).append(sample.descriptors)
            self._memory.setdefault((role, pid), []).append((at, sample.memory))
        return faults

    def _most(self, role: str) -> float:
        """Descriptors that one of this role may hold: as many as at first, and when used."""
        first = self._open.get(role, [])[:4]
        if len(first) < 4:
            time.sleep(0.3)  # what is closed just now
            return float("inf")
        return max(first)

    def growth(self) -> dict[str, float]:
        """Return by how much each process grows that lived for long: KiB a minute."""
        return {
            f"{role} {pid}": round(slope)
            for (role, pid), points in self._memory.items()
            if (slope := _slope(_warm(points))) is not None
        }

    def grown(self) -> list[str]:
        """Return the processes that grow all the time."""
        faults = []
        for (role, pid), points in self._memory.items():
            warm = _warm(points)
            slope = _slope(warm)
            if slope is None or slope < GROWTH:
                continue
            if slope * (warm[-1][0] - warm[0][0]) / 60 > MORE:
                sizes = [size for _, size in points]
                faults.append(f"{role} {pid} grows by {slope:.0f} KiB a minute: {sizes}")
        return faults


def _warm(points: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    return [each for each in points if each[0] - points[0][0] >= WARM]


def _slope(points: Sequence[tuple[float, int]]) -> float | None:
    """Return the median of the slopes between any two points, in KiB a minute."""
    if len(points) < RESTS:
        return None
    return 60 * median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2))


def explain(errors: Sequence[Mapping[str, Any]], trouble: Trouble) -> list[str]:
    """Return the ends of connections that nothing had caused, and what trouble found."""
    ended = trouble.killed | trouble.retired
    unexplained = [
        f"{each['error']} in {each['act']}, of worker {each['pid']}: {each['text']}"
        for each in errors
        if each["kind"] == "end"
        and not (each["pid"] in ended or each["pid"] == 0 and trouble.was_near(each["at"]))
    ]
    return trouble.faults + [f"without a cause: {each}" for each in unexplained]
