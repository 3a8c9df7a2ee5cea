"""Fixtures for pytest: pairs whose stream is cut on purpose, closed when the test is over.

`pytest_plugins = ["pysock.pytest_plugin"]` in the uppermost conftest.py turns them on.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import ParamSpec

import pytest

from .connection import Connection
from .testing import End, Pair, pair, socket_pair

__all__ = ["pysock_pair", "pysock_socket_pair"]

P = ParamSpec("P")


@contextlib.contextmanager
def _opening(make: Callable[P, Pair[End]]) -> Iterator[Callable[P, Pair[End]]]:
    with contextlib.ExitStack() as stack:

        def opened(*args: P.args, **kwargs: P.kwargs) -> Pair[End]:
            made = stack.enter_context(make(*args, **kwargs))
            stack.callback(lambda: print(made))  # shown where the test has failed
            return made

        yield opened


@pytest.fixture
def pysock_pair() -> Iterator[Callable[..., Pair[Connection]]]:
    """`pysock.testing.pair`, opened: it takes the same arguments, as often as called."""
    with _opening(pair) as opened:
        yield opened


@pytest.fixture
def pysock_socket_pair() -> Iterator[Callable[..., Pair[socket.socket]]]:
    """`pysock.testing.socket_pair`, opened: it takes the same arguments."""
    with _opening(socket_pair) as opened:
        yield opened
