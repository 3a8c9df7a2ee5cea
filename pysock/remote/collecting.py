"""Where the output of a remote command goes: into memory, the end of it, a file, nowhere."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from collections import deque
from typing import Any, Protocol

__all__ = ["Sink", "Whole", "sink_of"]


class Sink(Protocol):
    """What takes the pieces of one stream."""

    @property
    def dropped(self) -> int:
        """Bytes that are not in the result."""
        ...

    def write(self, data: bytes) -> bool:
        """Take a piece; return False where that was too much."""
        ...

    def result(self) -> Any:
        """Return what `run` gives for the stream."""


class Whole:
    """All of a stream, up to a limit."""

    def __init__(self, limit: int | None) -> None:
        self.dropped = 0
        self._parts: list[bytes] = []
        self._room = limit

    def write(self, data: bytes) -> bool:
        if self._room is not None:
            if len(data) > self._room:
                self.dropped += len(data) - self._room
                data = data[: self._room]
            self._room -= len(data)
        self._parts.append(data)
        return not self.dropped

    def result(self) -> bytes:
        self._parts = [b"".join(self._parts)]
        return self._parts[0]


class Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._parts: deque[bytes] = deque()
        self._kept = 0
        self._size = 0
        self._limit = limit

    @property
    def dropped(self) -> int:
        return max(0, self._size - self._limit)

    def write(self, data: bytes) -> bool:
        self._parts.append(data)
        self._size += len(data)
        self._kept += len(data)
        while self._parts and self._kept - len(self._parts[0]) >= self._limit:
            self._kept -= len(self._parts.popleft())
        return True

    def result(self) -> bytes:
        return b"".join(self._parts)[max(0, self._kept - self._limit) :]


class Spill:
    """All of a stream, in memory up to a limit and in a nameless file beyond."""

    def __init__(self, limit: int | None) -> None:
        self.dropped = 0
        self._file = tempfile.SpooledTemporaryFile(limit or 0)  # noqa: SIM115 - the caller's

    def write(self, data: bytes) -> bool:
        self._file.write(data)
        return True

    def result(self) -> Any:
        self._file.seek(0)
        return self._file


class Through:
    """A file of the caller's."""

    def __init__(self, file: Any) -> None:
        self.dropped = 0
        self._own = isinstance(file, int)
        self._file = io.FileIO(file, "wb", closefd=False) if self._own else file
        if isinstance(self._file, io.TextIOBase):
            self._file = self._file.buffer  # type: ignore[attr-defined]

    def write(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            count = self._file.write(view)
            view = view[len(view) if count is None else count :]
        return True

    def result(self) -> None:
        if not self._own:
            self._file.flush()


class Nowhere:
    """What is not wanted."""

    dropped = 0

    def write(self, data: bytes) -> bool:
        return True

    def result(self) -> None:
        return None


def sink_of(target: Any, limit: int | None, overflow: str) -> Sink:
    """Return what takes a stream.

    Args:
        target: None or `subprocess.PIPE`: memory; `subprocess.DEVNULL`; a file or a
            descriptor.
        limit: bytes of memory; None: no limit.
        overflow: what becomes of more: "error", "tail" or "spill".

    Raises:
        TypeError, ValueError: it is none of these.
    """
    if overflow not in ("error", "tail", "spill"):
        raise ValueError(f"overflow is {overflow!r}, expected 'error', 'tail' or 'spill'")
    if limit is not None and limit < 0:
        raise ValueError(f"max_output is {limit}, expected 0 bytes or more, or None")
    if target is None or target == subprocess.PIPE:
        if overflow == "spill":
            return Spill(limit)
        if overflow == "tail" and limit is not None:
            return Tail(limit)
        return Whole(limit)
    if target == subprocess.DEVNULL:
        return Nowhere()
    if isinstance(target, int) and target >= 0:
        os.fstat(target)  # an error now, and not at the first byte
        return Through(target)
    if hasattr(target, "write"):
        return Through(target)
    raise TypeError(
        f"output goes to {target!r}, expected None, subprocess.DEVNULL, a file or a descriptor"
    )
