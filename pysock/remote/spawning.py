"""The server's handle on its spawner, the program that starts its commands."""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from .spawner import ORDER, REPLY, Order, processes, send_to, variables

__all__ = ["Spawned", "SpawnerGone", "Spawning"]

_PROGRAM = Path(__file__).with_name("spawner.py")
_PATIENCE = 30.0  # for a command to start: the machine may be very busy


class SpawnerGone(Exception):
    """The spawner has ended in the midst, or does not answer."""

    def __init__(self, what: str = "was killed") -> None:
        super().__init__(
            f"the server's spawner {what}: what became of the command is not known"
        )


class Spawned:
    """A command that has been started, and its lifeline.

    Closing it before `release` ends the command and all it has started.
    """

    def __init__(self, control: socket.socket, token: bytes) -> None:
        self._control = control
        self._token = token
        self.pid = 0

    def fileno(self) -> int:
        """Return a descriptor that is readable when `ended` has something to tell."""
        return self._control.fileno()

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        self._say(b"S" + bytes([number]))

    def end(self) -> None:
        """Have all its processes ended: HUP, TERM after 1 s, KILL after 5 s."""
        self._say(b"E")

    def kill(self) -> None:
        """Have all its processes killed now."""
        self._say(b"K")

    def release(self) -> None:
        """Say that it has ended; what it left running in the background may stay."""
        self._say(b"R")
        self._control.close()

    def close(self) -> None:
        """Let go of it: what still runs is ended as by `end`."""
        self._control.close()

    def ended(self) -> tuple[str, int] | None:
        """Return how it ended, "exited", "killed" or "dumped", and the status or signal.

        Returns:
            None where there is nothing to tell yet.

        Raises:
            SpawnerGone: nobody knows.
        """
        word, number, data = self._hear()
        if word != b"W":
            return None
        return ("exited", "killed", "dumped")[data[0]], number

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # it has gone, which `ended` will tell
            self._control.sendall(word)

    def _hear(self) -> tuple[bytes, int, bytes]:
        head = self._receive(REPLY.size)
        word, number, length = REPLY.unpack(head)
        return word, number, self._receive(length)

    def _receive(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            try:
                part = self._control.recv(count - len(parts))
            except ConnectionError:
                part = b""
            if not part:
                self._kill_orphans()
                raise SpawnerGone
            parts += part
        return parts

    def _kill_orphans(self) -> None:
        """Kill what a command is whose spawner has gone, as far as that can be known."""
        for pid, seen in processes().items() if self.pid else ():
            if self._token in variables(pid):
                send_to(pid, seen.started, signal.SIGKILL)

    def _started(self) -> None:
        """Wait until it has been started.

        Raises:
            OSError: it could not be.
            SpawnerGone: nobody knows.
        """
        self._control.settimeout(_PATIENCE)
        try:
            word, number, data = self._hear()
        except TimeoutError:
            raise SpawnerGone("does not answer") from None
        self._control.settimeout(None)
        if word == b"F":
            raise OSError(number, os.strerror(number), os.fsdecode(data) or None)
        self.pid = number


class Spawning:
    """Starts commands through a spawner, which is started where there is none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def open(self) -> None:
        """Start the spawner, if it does not run."""
        with self._lock:
            self._open()

    def _open(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._close()  # somebody has killed it
        if self._requests is None:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-I", "-S", str(_PROGRAM), str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        cwd="/",
                        start_new_session=True,
                    )
            except BaseException:
                ours.close()
                raise
            self._requests = ours
        return self._requests

    def spawn(self, order: Order, stdio: list[int]) -> Spawned:
        """Start a command.

        Args:
            order: what to start.
            stdio: three descriptors, which stay open here.

        Raises:
            OSError: it could not be started.
            SpawnerGone: it may have been, but nobody knows.
        """
        data = marshal.dumps(tuple(order))
        ours, theirs = socket.socketpair()
        spawned = Spawned(ours, order.token)
        try:
            with theirs:
                self._pass_on([theirs.fileno(), *stdio])
            with contextlib.suppress(ConnectionError):  # why is for `_started` to find out
                ours.sendall(ORDER.pack(len(data)) + data)
            spawned._started()
        except BaseException:
            spawned.close()
            raise
        return spawned

    def _pass_on(self, descriptors: list[int]) -> None:
        """Pass descriptors to the spawner, or to another one if it has just been killed."""
        with self._lock:
            try:
                socket.send_fds(self._open(), [b"+"], descriptors)
            except ConnectionError:
                self._close()
                socket.send_fds(self._open(), [b"+"], descriptors)

    def close(self) -> None:
        """Let the spawner end, when it has ended all commands that still run."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
            self._process = None
