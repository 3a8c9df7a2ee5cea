"""Tells whether the machine was at its usual pace while something was measured.

On a shared or virtual machine the processors are slower at times: others run on them, or
the hypervisor takes them away.  Such a phase slows Python down more than C, which mostly
waits for the kernel, so that it spoils ratios too.  A fixed computation, timed on both
cores after each round, shows it without looking at any figure that is measured.
"""

import os
import time
from bisect import insort
from pathlib import Path

from interleave import cores

SLOW = 1.5  # times the usual seconds of the computation: slow phases take it twice
STOLEN = 0.02  # of the time, by the hypervisor
SAMPLES = 25  # at first; those that come later show what is usual as well
STEPS, COPIED = 8_000, 1 << 20


class Pace:
    """The pace of the two cores that peers are kept on."""

    def __init__(self) -> None:
        self._cores = [core for one in cores() for core in one]
        self._copied, self._copy = bytes(COPIED), bytearray(COPIED)
        self._samples = sorted(self._slowest() for _ in range(SAMPLES if self._cores else 0))
        self._began = self._stolen = 0.0

    def begin(self) -> None:
        """Begin a measurement."""
        self._stolen = self._taken_away()
        self._began = time.monotonic()

    def is_usual(self) -> bool:
        """Whether the machine has been at its usual pace since `begin`, and still is."""
        took = time.monotonic() - self._began
        stolen = self._taken_away() - self._stolen
        # /proc/stat counts in hundredths: one of them may be of another time.
        return stolen <= 0.01 + STOLEN * took and self.is_usual_now()

    def is_usual_now(self) -> bool:
        """Whether the computation takes as long as it does usually."""
        if not self._cores:
            return True
        insort(self._samples, now := self._slowest())
        return now <= SLOW * self._samples[len(self._samples) // 4]

    def _slowest(self) -> float:
        """Seconds of the computation on the slower of the cores."""
        allowed = os.sched_getaffinity(0)
        try:
            return max(self._on(core) for core in self._cores)
        finally:
            os.sched_setaffinity(0, allowed)

    def _on(self, core: int) -> float:
        os.sched_setaffinity(0, {core})
        return min(self._compute() for _ in range(3))  # the first finds the caches cold

    def _compute(self) -> float:
        began = time.perf_counter()
        total = 0
        for number in range(STEPS):
            total += number * number
        self._copy[:] = self._copied
        return time.perf_counter() - began

    def _taken_away(self) -> float:
        """Seconds for which the hypervisor has kept the cores from this system."""
        try:
            lines = Path("/proc/stat").read_text().splitlines()
        except OSError:
            return 0.0
        names = {f"cpu{core}" for core in self._cores}
        fields = [line.split() for line in lines]
        ticks = max((int(f[8]) for f in fields if f[0] in names and len(f) > 8), default=0)
        return ticks / os.sysconf("SC_CLK_TCK")
