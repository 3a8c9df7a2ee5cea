"""`pysock serve`, programs that call `pysock.serve`, and peers that others have written.

Each is in a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import TIME_FACTOR, require_peer
from peers import Task

LIMIT = 20 * TIME_FACTOR  # nothing takes this long unless it hangs
AT_ONCE = 3 * TIME_FACTOR  # an end that waits for nothing
PYTHON = [sys.executable, "-W", "error", "-X", "faulthandler"]

APP = '''
import os, signal, sys, threading, time

def upper(message):
    return message.upper()

def pid(message):
    return b"%d" % os.getpid()

def do(message):
    """Do what the message says, in Python; the reply is what it sets `reply` to."""
    scope = dict(globals(), reply=b"")
    exec(message.decode(), scope)
    return scope["reply"]
'''


TELL = b"reply = b'%d' % os.getpid()"  # for `do`; `pid` does not mind


def until(condition: Any, within: float = LIMIT) -> Any:
    """Wait for what another process does; return what the condition gave."""
    end = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > end:
            pytest.fail("what was waited for did not happen")
        time.sleep(0.005)
    return found


class Program:
    """A program that serves, seen from outside.

    Args:
        folder: where it runs, and writes what it says.
        command: what Python is started with.
        env: variables besides those of this process.
        fds: descriptors for it to inherit.
    """

    def __init__(
        self,
        folder: Path,
        command: list[str],
        env: dict[str, str] | None = None,
        fds: tuple[int, ...] = (),
    ) -> None:
        self._log = folder / f"log{len(list(folder.glob('log*')))}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*PYTHON, *command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # its group is all that it starts
                env={**os.environ, **(env or {})},
                pass_fds=fds,
            )
        self.pid = self.process.pid

    @property
    def said(self) -> str:
        """All that its processes have written."""
        return self._log.read_text()

    def has_said(self, pattern: str) -> re.Match[str]:
        """Wait until it has said what matches; return the match."""

        def look() -> re.Match[str] | None:
            if found := re.search(pattern, self.said):
                return found
            if self.process.poll() is not None and not re.search(pattern, self.said):
                pytest.fail(f"status {self.process.returncode}, having said {self.said!r}")
            return None

        found: re.Match[str] = until(look)
        return found

    @property
    def address(self) -> str:
        """Where it serves, once it does."""
        return self.has_said(r"serves \S+ on (\S+?)[,\s]")[1]

    def client(self, **options: Any) -> pysock.Client:
        return pysock.Client(self.address, **{"timeout": LIMIT, **options})

    def ask(self, message: bytes) -> bytes:
        """Have one message answered, over a connection of its own."""
        with self.client() as client:
            return client.request(message)

    def workers(self, count: int) -> list[int]:
        """Return the numbers of the *count* processes that serve.

        A `pid` or `do` handler tells them; who has answered is held up until all have, for
        the system may give every client to the same one.
        """
        found: list[int] = []
        with contextlib.ExitStack() as stack:
            while len(found) < count:
                found.append(int(self.ask(TELL)))
                stack.enter_context(held_up(found[-1]))
        return found

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, within: float = LIMIT) -> int:
        """Wait for its end and that of all it has started; return the exit status."""
        status = self.process.wait(within)
        until(lambda: not is_alive(self.pid), within)
        return status

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.send_signal(number)
        return self.end()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def held_up(*pids: int) -> Iterator[None]:
    """Stop processes for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            until(lambda: "T" in _state(pid))  # noqa: B023
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True).stdout


def is_alive(group: int) -> bool:
    """Whether any process of *group* is there; one that waits to be reaped is not."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    if sys.platform != "linux":
        return True
    return any(state != "Z" for _, _, state in processes(group))


def processes(group: int) -> list[tuple[int, int, str]]:
    """Return number, parent and state of each process in *group*, as Linux tells them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group:
                found.append((int(path.parent.name), int(parent), state))
    return found


@contextlib.contextmanager
def serving(
    folder: Path,
    *arguments: str,
    app: str = APP,
    env: dict[str, str] | None = None,
    fds: tuple[int, ...] = (),
) -> Iterator[Program]:
    """Run `pysock serve` with *arguments*, in a folder where app.py has the text *app*."""
    (folder / "app.py").write_text(app)
    if "--bind" not in arguments:
        arguments = (*arguments, "--bind", "127.0.0.1:0")
    program = Program(folder, ["-m", "pysock", "serve", *arguments], env, fds)
    try:
        yield program
    finally:
        program.kill()


@contextlib.contextmanager
def program(folder: Path, code: str) -> Iterator[Program]:
    """Run a program of a user's."""
    (folder / "app.py").write_text(APP)
    started = Program(folder, ["-c", code])
    try:
        yield started
    finally:
        started.kill()


def asked(served: Program, message: bytes, marker: Path) -> Task:
    """Have a message answered in a thread; return once its handler has made *marker*."""
    task = Task(served.ask, message)
    until(marker.exists)
    marker.unlink()
    return task


def after(seconds: float, marker: Path) -> bytes:
    """A message for `do` that is answered late."""
    return (
        f"open({str(marker)!r}, 'w').close(); time.sleep({seconds}); reply = b'done'"
    ).encode()


# ------------------------------------------------------------ peers that others have written

# Their language, and no settings of this machine's.
_PEERS_ENV = {
    "LC_ALL": "C",
    "OPENSSL_CONF": os.devnull,
    "GNUTLS_SYSTEM_PRIORITY_FILE": os.devnull,
}


class Peer(Program):
    """A program of others: its stdin and stdout are pipes, what it tells goes into a file.

    Args:
        folder: where it runs.
        name: the program, which the test is skipped without.
        arguments: what else its command has.
        tells: another file that it writes what it tells to.
        fds: descriptors for it to inherit.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *arguments: object,
        tells: Path | None = None,
        fds: tuple[int, ...] = (),
    ) -> None:
        self._log = folder / f"log{len(list(folder.glob('log*')))}"
        self._tells = tells
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [require_peer(name), *map(str, arguments)],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
                env={**os.environ, **_PEERS_ENV},
                pass_fds=fds,
            )
        self.pid = self.process.pid

    @property
    def said(self) -> str:
        more = ""
        if self._tells is not None and self._tells.exists():
            more = self._tells.read_text(errors="replace")
        return self._log.read_text(errors="replace") + more

    @property
    def port(self) -> int:
        """Where it listens, once it does."""

        def look() -> int | None:
            if self.process.poll() is not None:
                pytest.fail(f"status {self.process.returncode}, having said {self.said!r}")
            return _listens_at(self.pid)

        found: int = until(look)
        return found

    def write(self, data: bytes) -> None:
        """Type on its keyboard."""
        assert os.write(self.process.stdin.fileno(), data) == len(data)

    def connection(
        self,
        framing: pysock.framing.Format = pysock.LengthField(),  # noqa: B008
    ) -> pysock.Connection:
        """A connection over its stdin and stdout, which owns them from now on."""
        return pysock.Connection.from_fds(
            self.process.stdout, self.process.stdin, framing, timeout=LIMIT
        )

    def kill(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        super().kill()


def _listens_at(pid: int) -> int | None:
    """The first TCP port that a process of this user listens at, as Linux tells it."""
    held = set()
    with contextlib.suppress(OSError):  # it has just ended
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # this one has just been closed
                held.add(os.readlink(path))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "0A" and f"socket:[{inode}]" in held:
            return int(local.rpartition(":")[2], 16)
    return None


@contextlib.contextmanager
def peer(folder: Path, name: str, *arguments: object, **options: Any) -> Iterator[Peer]:
    """Run a program of others; the options are those of `Peer`."""
    started = Peer(folder, name, *arguments, **options)
    try:
        yield started
    finally:
        started.kill()
