"""The client's side of one command: its output, its input, its end."""

from __future__ import annotations

import errno
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Self

from .. import ConnectionClosed, Error, RemoteError
from .conversation import State
from .link import Expired, Link
from .protocol import CHUNK, SIGNALS, Exit, Kind, eof, resize

__all__ = ["Process"]

_MOST_KEPT = 64 * 1024 * 1024  # bytes of output that come while input is written
_CHANNELS = {Kind.STDOUT: "stdout", Kind.STDERR: "stderr"}


class Process:
    """A command that runs on the other machine; iterate over it for its output.

    Each item is ("stdout" or "stderr", bytes).  At the end `returncode` is set, as
    `subprocess` has it: negative for a signal.  One thread may iterate while another one
    calls `write`, `send_signal` and the like.  Leaving a `with` block before the command's
    end kills it, and all that it has started.
    """

    last_words = 5.0  # seconds that a command which is killed has to end

    def __init__(
        self,
        link: Link,
        args: Any,
        message: bytes,
        source: Any = None,
        deadline: float | None = None,
    ) -> None:
        self.args = args
        self.returncode: int | None = None
        self.exit: Exit | None = None
        self._link = link
        self._source = source  # of its input, an object with read()
        self._rest = memoryview(b"")  # of what was read from it
        self._input_over = False  # the command takes no more, or has none
        self._kept: deque[tuple[str, bytes]] = deque()
        self._kept_bytes = 0
        self._receiving = threading.Lock()
        self._reader: int | None = None  # the thread that has read last
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        try:
            link.begin(message, self)
            self._input_over = not link.wants_input
            self._receive(deadline)  # that it has started
        except BaseException:
            link.abandon(self)
            raise

    # ---------------------------------------------------------------- output

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        while (item := self.read()) is not None:
            yield item

    def read(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        """Return the next piece of output as (channel, bytes), None when all has come.

        Args:
            timeout: seconds to wait; None: as long as it takes.

        Raises:
            TimeoutError: nothing has come in time; or the server has been silent for too
                long, and the connection is closed.
            ConnectionClosed: the connection was lost: how the command ended is not known.
            OSError: it has failed.
        """
        return self._read(None if timeout is None else time.monotonic() + timeout)

    def _read(self, deadline: float | None) -> tuple[str, bytes] | None:
        self._reader = threading.get_ident()
        while True:
            if self._kept:
                with self._changed:
                    channel, data = self._kept.popleft()
                    self._kept_bytes -= len(data)
                return channel, data
            if self.exit is not None:
                return None
            self._check()
            if self._source is not None:
                self._feed()
            if not self._receiving.acquire(blocking=False):
                left = -1 if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._receiving.acquire(timeout=left):
                    raise Expired("the deadline has passed")
            try:
                item = None if self._kept or self.exit is not None else self._receive(deadline)
            finally:
                self._end_turn()
            if item is not None:
                return item

    def _until(self, deadline: float | None) -> Iterator[tuple[str, bytes]]:
        """Yield the output, up to a deadline that holds also while more and more comes."""
        while (item := self._read(deadline)) is not None:
            yield item
            if deadline is not None and time.monotonic() >= deadline and self.exit is None:
                raise Expired("the deadline has passed")

    def _end_turn(self) -> None:
        self._receiving.release()
        with self._changed:
            self._changed.notify_all()

    def _check(self) -> None:
        if isinstance(self._failure, RemoteError):
            raise self._failure
        if self._failure is not None:
            raise ConnectionClosed(
                "the connection was lost before the command ended: its exit status is unknown"
            ) from self._failure

    def _receive(self, deadline: float | None) -> tuple[str, bytes] | None:
        """Take one message; return what it has of the output."""
        try:
            kind, body = self._link.receive(deadline)
        except Expired:
            raise
        except (Error, OSError) as exc:
            self._lose(exc)
            raise
        if kind in _CHANNELS:
            return _CHANNELS[kind], body
        if kind is Kind.EXIT:
            self.exit = Exit.decode(body)
            self.returncode = _returncode(self.exit)
        elif kind is Kind.EOF and body == b"\0":
            self._input_over = True
            self._source = None
        with self._changed:
            self._changed.notify_all()
        return None

    def _lose(self, exc: Error | OSError) -> None:
        """Note that nothing more comes; tell of a lost connection what that means."""
        self._failure = exc
        lost = self._link.state is State.RUNNING or isinstance(exc, ConnectionClosed)
        if lost:
            self._link.close()
        with self._changed:
            self._changed.notify_all()
        if lost and isinstance(exc, ConnectionClosed | ConnectionError):
            self._check()

    # ---------------------------------------------------------------- input

    def write(self, data: Any) -> None:
        """Write to the command's input; return when the server has, or will have, all of it.

        It waits while the command does not read.

        Args:
            data: bytes, or another buffer.

        Raises:
            BrokenPipeError: the command reads no more, or has ended.
            ConnectionClosed, OSError: the connection has failed.
        """
        view = memoryview(data).cast("B")
        while view:
            self._check()
            if self._input_over or self.exit is not None:
                raise BrokenPipeError(errno.EPIPE, "the command reads no more")
            count = self._send_input(view)
            view = view[count:]
            if not count:
                self._wait_for_room()

    def _wait_for_room(self) -> None:
        """Wait until something has come that may have made room.

        It has to be received: by who reads, or by this thread if nobody does.
        """
        alone = self._reader in (None, threading.get_ident())
        if alone and self._receiving.acquire(blocking=False):
            try:
                if not self._link.closed and self.exit is None:
                    self._keep(self._receive(None))
            finally:
                self._end_turn()
        else:
            with self._changed:
                self._changed.wait(0.5)

    def _keep(self, item: tuple[str, bytes] | None) -> None:
        if item is None:
            return
        with self._changed:
            self._kept.append(item)
            self._kept_bytes += len(item[1])
        if self._kept_bytes > _MOST_KEPT:
            raise RemoteError(
                f"{self._kept_bytes} bytes of output wait to be read while input is written: "
                "read in another thread, or use communicate()",
                "output",
            )

    def _feed(self) -> None:
        """Send what may be sent of the input that was given at the start."""
        while self._source is not None:
            if not self._rest:
                room = min(CHUNK, self._link.room(self))
                if not room:
                    return
                self._rest = memoryview(self._source.read(room))
            if not self._rest:
                self._source = None
                self.close_stdin()
                return
            count = self._send_input(self._rest)
            if not count:
                return
            self._rest = self._rest[count:]

    def _send_input(self, data: memoryview) -> int:
        try:
            return self._link.send_input(self, data)
        except (ConnectionClosed, OSError) as exc:
            self._lose(exc)
            raise

    def close_stdin(self) -> None:
        """Have the command read the end of its input."""
        if not self._input_over and self.exit is None:
            self._input_over = True
            self._link.say(self, eof(0))

    # ---------------------------------------------------------------- control

    def send_signal(self, number: int | str) -> None:
        """Send a signal to the command's process group; after its end nothing happens.

        Args:
            number: a number of this system's, a `signal.Signals`, or a name as "TERM".

        Raises:
            ValueError: there is no such signal, or it has no name that other systems know.
        """
        if isinstance(number, str):
            name = number.removeprefix("SIG")
        else:
            name = signal.Signals(number).name.removeprefix("SIG")
        if name.encode() not in SIGNALS:
            raise ValueError(f"signal {number!r} cannot be sent to another machine")
        self._link.say(self, Kind.SIGNAL(name.encode()))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal("TERM")

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        self.send_signal("INT")

    def kill(self) -> None:
        """Kill the command and all that it has started."""
        self.send_signal("KILL")

    def resize(self, rows: int, columns: int) -> None:
        """Say how large the terminal is."""
        self._link.say(self, resize(rows, columns))

    # ---------------------------------------------------------------- the end

    def poll(self) -> int | None:
        """Return `returncode`, None while the command runs; output that has come is kept."""
        while self.exit is None and self._kept_bytes <= _MOST_KEPT:
            if not self._receiving.acquire(blocking=False):
                break
            try:
                self._check()
                self._feed()
                self._keep(self._receive(time.monotonic()))
            except Expired:
                break
            finally:
                self._end_turn()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return `returncode`; what comes of output is dropped.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            for _ in self._until(deadline):
                pass
        except Expired:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
        assert self.returncode is not None
        return self.returncode

    def communicate(
        self, input: Any = None, timeout: float | None = None
    ) -> tuple[bytes, bytes]:
        """Send *input* and its end, wait for the end, and return all output and error output.

        Raises:
            subprocess.TimeoutExpired: it runs on, and what has come is kept for another call.
        """
        if input is not None:
            self._source = _Bytes(input)
        elif self._source is None:
            self.close_stdin()
        deadline = None if timeout is None else time.monotonic() + timeout
        found: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        try:
            for channel, data in self._until(deadline):
                found[channel].append(data)
        except Expired:
            with self._changed:
                for channel in ("stderr", "stdout"):
                    self._kept.extendleft((channel, data) for data in reversed(found[channel]))
                self._kept_bytes = sum(len(data) for _, data in self._kept)
            out, err = b"".join(found["stdout"]), b"".join(found["stderr"])
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, out, err) from None
        return b"".join(found["stdout"]), b"".join(found["stderr"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the command if it still runs: it is killed, with all that it has started."""
        if self.exit is not None or self._failure is not None or self._link.closed:
            return
        self._source = None
        try:
            self.kill()
            self.wait(self.last_words)
        except (subprocess.TimeoutExpired, Error, OSError):
            self._link.close()  # which ends it too
        except BaseException:
            self._link.close()
            raise

    def give_up(self) -> None:
        """Drop the connection, which ends the command if it still runs."""
        if self.exit is None:
            self._link.abandon(self)

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode={self.returncode}"
        return f"<{type(self).__name__} {self.args!r} {state}>"


class _Bytes:
    """Input that is there as a whole."""

    def __init__(self, data: Any) -> None:
        self._view = memoryview(data).cast("B")

    def read(self, most: int) -> memoryview:
        data, self._view = self._view[:most], self._view[most:]
        return data


def _returncode(end: Exit) -> int:
    if not end.signal:
        return end.status
    number = getattr(signal, f"SIG{end.signal}", None)
    return -(end.status if number is None else int(number))
