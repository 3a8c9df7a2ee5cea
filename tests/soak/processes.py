"""The processes of the soak: how they are started, found, looked at and ended.

The conductor is their reaper, even of those whose own parent has gone, so none is missed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PYTHON = [sys.executable, "-X", "faulthandler", "-W", "default"]
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


class Sample(NamedTuple):
    """What a process held at a moment; memory in KiB, of its own and not of files."""

    memory: int
    descriptors: int
    threads: int


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own has ended."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _end_with_parent() -> None:
    """Have this process killed when the conductor has been, who else would reap it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def look(pid: int) -> Sample | None:
    """Return what process *pid* holds, None where it has ended."""
    with contextlib.suppress(OSError):
        status = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":" in line
        )
        if "RssAnon" in status:  # else it has ended, and is only waited for
            return Sample(
                int(status["RssAnon"].split()[0]),
                len(os.listdir(f"/proc/{pid}/fd")),
                int(status["Threads"]),
            )
    return None


def children(pid: int) -> list[int]:
    """Return the processes that *pid* has started, the oldest first."""
    with contextlib.suppress(OSError):
        # One that was started by a thread is listed with that thread.
        found = [
            int(child)
            for thread in os.listdir(f"/proc/{pid}/task")
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        ]
        return sorted(found, key=_born)
    return []


def _born(pid: int) -> tuple[int, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return (1 << 62, pid)
    return int(fields[19]), pid


def send_signal(pid: int, number: int) -> bool:
    """Send a signal; return whether there was still somebody to take it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Program:
    """One of the programs beside this file, that writes what it says to a file."""

    def __init__(self, folder: Path, *command: str, **options: Any) -> None:
        self.name = "-".join(command).replace(".py", "")
        self.said = folder / f"{self.name}.log"
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [*PYTHON, str(HERE / command[0]), *command[1:]],
                stderr=said,
                preexec_fn=_end_with_parent,
                **options,
            )
        self.pid = self.process.pid

    def end(self, number: int, within: float) -> int | None:
        """Send a signal and return the status; None for one that had to be killed."""
        send_signal(self.pid, number)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None


class Service(Program):
    """A master and its workers, or a server of remote commands."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, "service.py", name, stdin=subprocess.DEVNULL)
        self.name = name

    def workers(self) -> list[int]:
        return children(self.pid)


class Client(Program):
    """A client's process; what it tells is put into *heard*, with itself."""

    def __init__(
        self, folder: Path, number: int, heard: queue.SimpleQueue[tuple[Client, Any]]
    ) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        super().__init__(folder, "client.py", str(number), **pipes)
        self.resting = False
        self.killed = False
        self._heard = heard
        threading.Thread(target=self._hear, daemon=True).start()

    def tell(self, word: str) -> None:
        if word == "rest":
            self.resting = False
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.write(f"{word}\n".encode())
            self.process.stdin.flush()

    def close(self, within: float = 10.0) -> int | None:
        """Wait for its end and give up the pipes; None for one that had to be killed."""
        try:
            status: int | None = self.process.wait(within)
        except subprocess.TimeoutExpired:
            status = None
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        return status

    def _hear(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # cut by a kill
                    self._heard.put((self, json.loads(line)))
        self._heard.put((self, {"gone": True}))


def await_that(condition: Callable[[], Any], within: float) -> Any:
    """Return what *condition* gives, once it is something; None after *within* seconds."""
    end = time.monotonic() + within
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found or None


def reap_all() -> list[str]:
    """End and reap what is left below this process; return what that was."""
    left = []
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # had ended, and nobody had asked
        found = children(os.getpid())
        if not found:
            return left
        for pid in found:
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                left.append(f"{pid}: {command}")
            send_signal(pid, signal.SIGKILL)
        time.sleep(0.05)
