"""Listeners for multiprocessing.connection that let nobody in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from peers import background
from pysock.interop import Listener


def refuses(listener: Listener) -> None:
    """Accept until the listener is closed; nobody gets in."""
    with pytest.raises(OSError, match="the listener is closed"):
        listener.accept()


@contextlib.contextmanager
def refusing(**options: Any) -> Iterator[Listener]:
    """A listener that accepts beside the block; nobody gets in."""
    with Listener("127.0.0.1:0", **options) as listener, background(refuses, listener):
        try:
            yield listener
        finally:
            listener.close()
