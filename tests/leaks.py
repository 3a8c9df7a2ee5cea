"""What a test may leave behind: descriptors, threads, children, temporary files."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from pysock import unixpath

FD_FOLDERS = [folder for folder in ("/proc/self/fd", "/dev/fd") if os.path.isdir(folder)]
if sys.platform == "win32":  # wine has them, but not for what a program of Windows opens
    FD_FOLDERS.clear()
TASKS = "/proc/self/task"
# AddressSanitizer opens its file when it first has something to say.
REPORT = re.search(r"\blog_path=([^:\s]+)", os.environ.get("ASAN_OPTIONS", ""))
bound: set[str] = set()


def descriptors() -> set[tuple[int, int, int]]:
    """Return all that are open, each with what tells its file from any other."""
    found = set()
    for name in os.listdir(FD_FOLDERS[0]) if FD_FOLDERS else ():
        with contextlib.suppress(OSError):  # the listing's own, closed by now
            info = os.fstat(int(name))
            found.add((int(name), info.st_dev, info.st_ino))
    if REPORT is not None:
        with contextlib.suppress(OSError):
            info = os.stat(f"{REPORT[1]}.{os.getpid()}")
            found = {one for one in found if one[1:] != (info.st_dev, info.st_ino)}
    return found


def children() -> set[int]:
    """Return the processes that this one has started and not waited for, also dead ones."""
    with contextlib.suppress(AttributeError, ChildProcessError):
        # Most often there are none, and one call says so.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        found = set()
        for task in os.listdir(TASKS) if os.path.isdir(TASKS) else ():
            with contextlib.suppress(OSError), open(f"{TASKS}/{task}/children") as file:
                found.update(map(int, file.read().split()))
        return found
    return set()


def note_paths() -> None:
    """Have `bound` know the paths of Unix sockets that pysock binds from now on."""
    bind = unixpath._bind_or_replace

    def bind_and_note(sock: socket.socket, path: str) -> None:
        bind(sock, path)
        if not path.startswith("\0"):
            bound.add(os.path.abspath(path))

    unixpath._bind_or_replace = bind_and_note


class Held(NamedTuple):
    """What the process has at one time."""

    descriptors: set[tuple[int, int, int]]
    threads: set[threading.Thread]
    children: set[int]
    files: set[str]

    def __sub__(self, other: Held) -> Held:
        return Held(*(mine - others for mine, others in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {found}"
            for name, found in (
                ("descriptors", [_describe(fd) for fd, _, _ in sorted(self.descriptors)]),
                ("threads", sorted(thread.name for thread in self.threads)),
                ("children", [_command(pid) for pid in sorted(self.children)]),
                ("files", sorted(self.files)),
            )
            if found
        )


def held() -> Held:
    """Look at what there is now.

    Temporary files are looked for where `tempfile` makes them, which should be a folder
    that nobody else uses; other files only where pysock has bound a socket.
    """
    bound.intersection_update(filter(os.path.lexists, tuple(bound)))
    files = bound.union(os.listdir(tempfile.gettempdir()))
    return Held(descriptors(), set(threading.enumerate()), children(), files)


def left_behind(before: Held, within: float) -> str:
    """Return what has come since *before* and does not go *within* seconds; "" for nothing."""
    end = time.monotonic() + within
    for thread in set(threading.enumerate()) - before.threads:
        thread.join(max(0.0, end - time.monotonic()))
    left = held() - before
    if any(left):
        gc.collect()  # what only garbage holds is not lost
        left = held() - before
    while left.children and time.monotonic() < end:
        time.sleep(0.01)  # one that ends is waited for by who started it, or by nobody
        left = held() - before
    return str(left)


def _describe(fd: int) -> str:
    try:
        return f"{fd} -> {os.readlink(f'{FD_FOLDERS[0]}/{fd}')}"
    except OSError:
        return str(fd)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return str(pid)
    # A dead one has no words any more.
    return f"{pid} {b' '.join(words).decode(errors='replace').strip()[:200] or '(dead)'}"
