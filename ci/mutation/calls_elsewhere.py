"""A plugin of pytest: what a test calls in other processes counts as called by it.

mutmut remembers calls in its own process only, and would take a function for one that no
test calls if it runs in programs, or in forks of the test.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pytest

CALLS = os.environ["PYSOCK_MUTATION_CALLS"]  # a file, which other users may write to


def tell(name: str, caller: str | None = None) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(CALLS, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{name}\n".encode())
        os.close(fd)


def pytest_configure() -> None:
    if os.environ.get("MUTANT_UNDER_TEST") != "stats":
        return
    from mutmut.mutation import trampoline

    here, own = os.getpid(), trampoline.record_trampoline_hit

    def record(name: str, caller: str | None = None) -> None:
        (own if os.getpid() == here else tell)(name, caller)

    trampoline.record_trampoline_hit = record


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: Any) -> None:
    if os.environ.get("MUTANT_UNDER_TEST") != "stats":
        return
    from mutmut.state import state

    fd = os.open(CALLS, os.O_RDWR)  # not open(), which a test may have replaced
    state()._stats.update(os.read(fd, 1 << 24).decode().split())
    os.truncate(fd, 0)
    os.close(fd)
