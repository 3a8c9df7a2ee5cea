"""A handler that blocks until it is told to go on, and what tests of servers need besides."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pysock
from peers import LONG, until

HERE = "127.0.0.1:0"


def frame(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


class Gate:
    """A handler in which messages that begin with b"block" wait to be let through."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self._guard = threading.Lock()
        self._through = threading.Semaphore(0)

    def __call__(self, message: bytes) -> Any:
        if message.startswith(b"block"):
            self.wait()
        return message

    def wait(self) -> None:
        with self._guard:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            assert self._through.acquire(timeout=LONG)
        finally:
            with self._guard:
                self.inside -= 1

    def let(self, count: int = 1) -> None:
        self._through.release(count)

    def holds(self, count: int) -> None:
        until(lambda: self.inside == count)


@contextlib.contextmanager
def clients(server: pysock.Server, count: int) -> Iterator[list[pysock.Client]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(pysock.Client(server.address, timeout=LONG))
            for _ in range(count)
        ]


def serving(handler: Callable[..., Any], **options: Any) -> pysock.Server:
    return pysock.Server(HERE, handler, **options).start()


def served(server: pysock.Server) -> list[Any]:
    """The server's own ends of its connections, open or about to be closed."""
    loop = server._loop
    return [] if loop is None else list(loop.served)
