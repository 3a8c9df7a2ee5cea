"""A watch on the order of locks: a plugin of pytest that records, and a check of the record.

    LD_PRELOAD=liblocks.so LOCKS_LOG=FILE pytest -p locks ...
    python ci/locks.py FILE

Two threads that take two locks in different orders stop each other for ever, one day.  So
whenever a thread that holds one lock takes another, the pair is recorded, by where the
locks were made; then the pairs must have no circle.  The locks of the compiled module are
recorded by locks.c, those of Python here, the GIL by both.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# One may wait for another of its kind, for a reason.
ALLOWED: dict[str, str] = {}
# Taken in one thread and given back in another: no locks between the two.
SIGNALS = ("self._running = ", "self._gate = ")

_lock, _rlock = threading.Lock, threading.RLock


class Recorded:
    """A lock that tells when it is taken."""

    def __init__(self, inner: Any, made: str) -> None:
        self._inner = inner
        self._kind = WATCH.watch_kind(made.encode())
        self._depth = threading.local()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            WATCH.watch_python_wanted(id(self), self._kind, _caller().encode())
        taken: bool = self._inner.acquire(blocking, timeout)
        if taken:
            depth = self._depth.__dict__.get("n", 0)
            self._depth.n = depth + 1
            if depth == 0:
                WATCH.watch_python_held(id(self), self._kind)
        return taken

    def release(self) -> None:
        depth = self._depth.__dict__.get("n", 1)
        self._depth.n = depth - 1
        if depth == 1:
            WATCH.watch_python_released(id(self))
        self._inner.release()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        return bool(self._inner.locked())

    def _at_fork_reinit(self) -> None:
        self._inner._at_fork_reinit()


class RecordedAgain(Recorded):
    """One that a thread may take again; with what `Condition` asks of it."""

    def _is_owned(self) -> bool:
        return bool(self._inner._is_owned())

    def _release_save(self) -> Any:
        depth, self._depth.n = self._depth.n, 0
        WATCH.watch_python_released(id(self))
        return depth, self._inner._release_save()

    def _acquire_restore(self, state: Any) -> None:
        WATCH.watch_python_wanted(id(self), self._kind, b"Condition.wait")
        self._inner._acquire_restore(state[1])
        self._depth.n = state[0]
        WATCH.watch_python_held(id(self), self._kind)


def _caller() -> str:
    """Return the nearest place that is neither here nor in threading.py."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename in (__file__, threading.__file__):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _maker() -> str | None:
    """Return where in the package a lock is being made, None for one of others."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename == threading.__file__:
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    if "pysock" not in path.parts[-3:-1]:
        return None
    line = path.read_text(encoding="utf-8").splitlines()[frame.f_lineno - 1]
    if any(each in line for each in SIGNALS):
        return None
    return f"{path.name}:{frame.f_lineno}"


def _make_lock() -> Any:
    made = _maker()
    return _lock() if made is None else Recorded(_lock(), made)


def _make_rlock() -> Any:
    made = _maker()
    return _rlock() if made is None else RecordedAgain(_rlock(), made)


if __name__ != "__main__":
    WATCH: Any = ctypes.PyDLL(None)  # the preloaded one
    for name in ("watch_python_wanted", "watch_python_held", "watch_python_released"):
        getattr(WATCH, name).restype = None
        getattr(WATCH, name).argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p][
            : 3 if name.endswith("wanted") else 2 if name.endswith("held") else 1
        ]
    threading.Lock = _make_lock
    threading.RLock = _make_rlock


# ------------------------------------------------------------ the check


def source_of(kind: str) -> str:
    """Return the line that makes a lock of this kind."""
    name, _, line = kind.rpartition(":")
    for path in (*ROOT.glob("src/*.pxi"), *ROOT.glob("pysock/**/*.py")):
        if path.name == name:
            text = path.read_text(encoding="utf-8").splitlines()[int(line) - 1]
            if found := re.search(r"self\.(\w+)|^(\w+) =", text):
                return f"{kind} ({found[1] or found[2]})"
    return kind


def circle(after: dict[str, set[str]]) -> list[str] | None:
    """Return kinds of which each was waited for while holding the one before it."""
    done: set[str] = set()

    def search(kind: str, path: list[str]) -> list[str] | None:
        if kind in path:
            return [*path[path.index(kind) :], kind]
        if kind in done:
            return None
        for other in sorted(after.get(kind, ())):
            if found := search(other, [*path, kind]):
                return found
        done.add(kind)
        return None

    for kind in sorted(after):
        if found := search(kind, []):
            return found
    return None


def main() -> int:
    after: dict[str, set[str]] = defaultdict(set)
    where: dict[tuple[str, str], str] = {}
    taken = set()
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        first, second, place = line.split("\t")
        if not first:
            taken.add(second)
        elif first != second or source_of(first) not in ALLOWED:
            after[first].add(second)
            where.setdefault((first, second), place)
    print(
        f"{len(taken)} kinds of locks were taken, {len(where)} pairs of them one in another:"
    )
    for first, second in sorted(where):
        print(f"  {source_of(first)} -> {source_of(second)}, at {where[first, second]}")
    if not taken or not where:
        print("nothing was recorded")
        return 1
    if (found := circle(after)) is None:
        print("no two are taken in different orders")
        return 0
    print("IN DIFFERENT ORDERS:")
    for first, second in zip(found, found[1:], strict=False):
        print(f"  {source_of(first)} -> {source_of(second)}, at {where[first, second]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
