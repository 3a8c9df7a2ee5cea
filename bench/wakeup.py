"""Tells what it costs here to wake somebody who sleeps.

    python bench/wakeup.py

Where two ends take turns, each sleeps until the other wakes it, and that is most of a small
message's time.  What it costs is a matter of how an idle processor waits.  One that halts has
to be started again; a virtual one has to be started by its host, which takes ten times as
long, so that the kernel may let it look around for a while before it halts (Linux's haltpoll).
The same program then comes out at other times and other ratios, and runs of which one had this
and the other had not are not to be compared.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from interleave import cores

TRIPS, ROUNDS, WARM_UP = 500, 9, 2
APART = 2.0  # times: a wake-up that takes so much longer is of another kind
CPUIDLE = Path("/sys/devices/system/cpu/cpuidle/current_governor")
HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")


def seconds() -> float:
    """Return the seconds from a write on one core until its reader on another has it."""
    command = [sys.executable, __file__, "echo"]
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    ours, _ = cores()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        assert peer.stdin is not None and peer.stdout is not None
        try:
            if ours:
                os.sched_setaffinity(0, ours)
            rounds = [_round(peer.stdin.fileno(), peer.stdout.fileno()) for _ in range(ROUNDS)]
        finally:
            if ours:
                os.sched_setaffinity(0, allowed)
    return median(rounds[WARM_UP:])


def polling() -> float | None:
    """Return for how many seconds an idle processor looks around before it halts.

    None where the system does not say so: elsewhere than in a virtual Linux with haltpoll.
    """
    try:
        if CPUIDLE.read_text().strip() != "haltpoll":
            return None
        return int(HALT_POLL.read_text()) / 1e9
    except (OSError, ValueError):
        return None


def in_words(wakeup: float | None, polls: float | None) -> str:
    """Return both in words, or "" if the cost was not measured."""
    if wakeup is None:
        return ""
    text = f"a wake-up takes {wakeup * 1e6:.1f} us"
    if polls is None:
        return text
    return (
        f"{text}, a processor {f'polls for {polls * 1e6:g} us' if polls else 'halts at once'}"
    )


def _round(write: int, read: int) -> float:
    began = time.perf_counter()
    for _ in range(TRIPS):
        os.write(write, b".")
        os.read(read, 1)
    return (time.perf_counter() - began) / TRIPS / 2


def _echo() -> None:
    _, theirs = cores()
    if theirs:
        os.sched_setaffinity(0, theirs)
    while byte := os.read(0, 1):
        os.write(1, byte)


if __name__ == "__main__":
    if sys.argv[1:] == ["echo"]:
        _echo()
    else:
        print(in_words(seconds(), polling()))
