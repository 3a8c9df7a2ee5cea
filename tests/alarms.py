"""Signals that come while a call waits: their handlers work, or raise."""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator
from typing import Any

FIRST = 0.0005  # seconds; a call that waits does so by then, or the signal comes before it
NEXT = 0.001


class Alarm(Exception):
    """What a signal's handler raises."""


@contextlib.contextmanager
def meanwhile(work: Callable[[], object], again: float = NEXT) -> Iterator[None]:
    """Have a signal's handler do *work*, over and over, while the block waits.

    What it raises, the call in the block is to raise.
    """
    busy = False

    def handle(*_: object) -> None:
        nonlocal busy
        if not busy:
            busy = True
            try:
                work()
            finally:
                busy = False

    collects = gc.isenabled()
    gc.disable()  # what is raised in there would be lost
    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, FIRST, again)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
        if collects:
            gc.enable()


def interrupted(call: Callable[[], Any], before: Callable[[], object] = lambda: None) -> Any:
    """Return what *call* does, unless it waits: then raise Alarm in it, after *before*."""

    def strike() -> None:
        before()
        raise Alarm

    with meanwhile(strike, again=0):
        return call()
