"""What each thread of a test has for itself, where several run the same test at once.

pytest-run-parallel calls a test in some threads, all with the same fixtures.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

CASES = 3  # of each test, where it has many: each of them takes several times as long


class Apart:
    """Stands for what a fixture gives, until a thread of the test takes one of its own."""

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make = make
        self._guard = threading.Lock()
        self._stack = contextlib.ExitStack()

    def take(self) -> Any:
        manager = self._make()
        value = manager.__enter__()
        with self._guard:
            self._stack.push(manager)
        return value

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def apart(
    request: pytest.FixtureRequest, make: Callable[[], AbstractContextManager[Any]]
) -> Iterator[Any]:
    """What *make* gives; where threads share the fixture, one for each of them."""
    if is_parallel(request.config):
        with contextlib.closing(Apart(make)) as each:
            yield each
    else:
        with make() as value:
            yield value


def is_parallel(config: pytest.Config) -> bool:
    return str(config.getoption("parallel_threads", 1)) != "1"


def leave_out_hypothesis(items: list[pytest.Item]) -> None:
    """Its cases would take too long, and share nothing."""
    items[:] = [one for one in items if not hasattr(getattr(one, "obj", None), "hypothesis")]


def thin_out(items: list[pytest.Item], most: int) -> None:
    """Leave only *most* of the cases of each test, from all over its parameters."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    items[:] = [
        item for every in cases.values() for item in every[:: (len(every) - 1) // most + 1]
    ]


def give_each_its_own(items: list[pytest.Item]) -> None:
    """Have the tests take what is their own when they begin, in each thread."""
    for item in items:
        if isinstance(item, pytest.Function):
            item.obj = _taking(item.obj)


def _taking(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    def call(**fixtures: Any) -> Any:
        own = {
            name: value.take() if isinstance(value, Apart) else value
            for name, value in fixtures.items()
        }
        return test(**own)

    return call
