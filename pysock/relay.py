"""Hands the bytes of two ends to each other with faults on purpose: for pysock.testing.

The relay is a thread with a socket connected to each of the user's ends.  A piece is handed
on only when the one before it was received.  No event of TCP tells that, so there it looks
every so often; a Unix socket is told.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import select
import socket
import struct
import sys
import threading
import time

from .faults import MOST_MERGED, Faults

try:
    import fcntl
    import termios
except ImportError:  # not on Windows
    fcntl = termios = None  # type: ignore[assignment]

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Relay"]

HOLD = 1 << 16  # bytes that the relay holds of one direction; then the sender waits
NAPS = (0.00005, 0.001)  # seconds between two looks at what no event tells of
NO_EVENT = 0.01  # seconds after which it is looked at although an event should tell
RECEIVED = struct.Struct("=128xQ")  # tcp_info.tcpi_bytes_received
EVENTS_TELL = hasattr(select, "epoll") and hasattr(os, "eventfd")
UNIX = getattr(socket, "AF_UNIX", None)


class _Reset(Exception):
    """The connection is to be reset."""


class _Far:
    """A user's end, as the relay looks at it.

    It is looked at by its number, which keeps nothing open: what the user closes is closed.
    """

    def __init__(self, sock: socket.socket, near: socket.socket) -> None:
        self._near = near
        self._probe = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
        self._probe.settimeout(None)
        self._identity = self._identify(sock.fileno())

    def _identify(self, fd: int) -> Any:
        try:
            if sys.platform == "win32":  # where a socket is no file
                return self._probe.getsockname(), self._probe.getpeername()
            found = os.fstat(fd)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _is_here(self) -> bool:
        return bool(self._identify(self._probe.fileno()) == self._identity)

    def has_got(self, count: int) -> bool:
        """Whether all of *count* bytes have come to its system."""
        if self._probe.family == UNIX:
            return True
        if self._is_here() and hasattr(socket, "TCP_INFO"):
            # Asking for what is not acknowledged would take the 40 ms of a late one.
            with contextlib.suppress(OSError):
                size = RECEIVED.size
                info = self._probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
                return len(info) < size or RECEIVED.unpack(info)[0] >= count
        return self._is_sent()

    def has_taken(self, count: int) -> bool:
        """Whether all of *count* bytes were received from it, by calls that are over.

        A call that has emptied the queue looks once more before it returns, and holds the
        socket's lock meanwhile: this one waits for it, where a count would not.
        """
        if not self.has_got(count):
            return False
        if not self._is_here():
            return self._is_sent()
        try:
            if sys.platform == "win32":
                # Nothing there looks without waiting at a socket that may block.
                return not select.select([self._probe], [], [], 0)[0]
            return not self._probe.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return True

    def _is_sent(self) -> bool:
        # For an end that is closed here, and may be open in another process.
        if termios is None or not hasattr(termios, "TIOCOUTQ"):
            return True
        queued = fcntl.ioctl(self._near, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(queued, "little") <= 1

    def reset(self) -> None:
        """Close the relay's socket so that this end meets a reset."""
        if self._near.family != UNIX:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                self._near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            # A Unix socket that is closed over something unread resets the other one.
            with contextlib.suppress(OSError):
                if not _is_readable(self._near):
                    self._write_a_byte()
        self._near.close()

    def _write_a_byte(self) -> None:
        fd = os.dup(self._probe.fileno())
        try:
            if self._identify(fd) == self._identity:
                os.write(fd, b"\0")
        finally:
            os.close(fd)

    def forget(self) -> None:
        self._probe.detach()


def _is_readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


class _Way:
    """One direction: what was taken from the sender, and how far it was handed on."""

    def __init__(
        self, faults: Faults, source: socket.socket, sink: socket.socket, far: _Far
    ) -> None:
        self.faults = faults
        self.pieces: list[int] = []
        self.held = bytearray()
        self.ended = False  # nothing more will come
        self.given = 0
        self._source, self._sink, self._far = source, sink, far
        self._broken = self._over = False
        self._piece = b""
        self._merged = 0  # bytes held that are no longer held back
        self._came = self._went = -math.inf
        self._sizes = faults._sizes()
        self._cut_at = next(self._sizes, math.inf)
        self._nap = NAPS[0]

    def step(self) -> float:
        """Do what can be done at once; return when to look again unless an event tells."""
        swallowed = self._take()
        if self._over and not self._piece:
            return 0.0 if swallowed else math.inf
        if not self._piece:
            when = self._prepare()
            if not self._piece:
                return when
        try:
            count = self._sink.send(self._piece)
        except BlockingIOError:
            return math.inf
        except OSError:
            raise _Reset from None
        self._piece = self._piece[count:]
        self.given += count
        self._went = time.monotonic()
        self._nap = NAPS[0]
        return 0.0

    def _take(self) -> bool:
        """Take what has come, as far as there is room; return whether something was."""
        taken = False
        while not self.ended and len(self.held) < HOLD:
            try:
                data = self._source.recv(HOLD)
            except BlockingIOError:
                break
            except OSError:
                data, self._broken = b"", True
            taken = True
            if not data:
                self.ended = True
            elif self._over:
                break
            else:
                self.held += data
                self._came = time.monotonic()
        return taken

    def _prepare(self) -> float:
        """Make up the next piece, or return when to look again."""
        faults = self.faults
        if self.given == faults.reset_at or (self._broken and not self.held):
            if self._far.has_got(self.given):
                raise _Reset
            return self._soon()
        if self.given == faults.end_at or (self.ended and not self.held):
            with contextlib.suppress(OSError):
                self._sink.shutdown(socket.SHUT_WR)
            self._over = True
            self.held.clear()
            return 0.0
        if not self.held:
            return math.inf
        now = time.monotonic()
        if when := self._held_back(now):
            return when
        if faults.cut is not None and not self._far.has_taken(self.given):
            return self._soon()
        if now < self._went + faults.delay:
            return self._went + faults.delay
        limits = (self._cut_at, *filter(None, (faults.reset_at, faults.end_at)))
        size = int(min(self._merged, *(limit - self.given for limit in limits)))
        if self.given + size == self._cut_at:
            self._cut_at += next(self._sizes, math.inf)
        self._piece = bytes(self.held[:size])
        del self.held[:size]
        self._merged -= size
        self.pieces.append(size)
        return 0.0

    def _held_back(self, now: float) -> float:
        """Until when what is held must wait for more; 0 where it need not."""
        faults, held = self.faults, len(self.held)
        if not faults.merge:
            self._merged = held
        elif not self._merged:
            most = MOST_MERGED if faults.merge is True else faults.merge
            if held < most and not self.ended and now < self._came + faults.pause:
                return self._came + faults.pause
            self._merged = min(held, most)
        return 0.0

    def _soon(self) -> float:
        if EVENTS_TELL and self._sink.family == UNIX:
            return time.monotonic() + NO_EVENT
        nap, self._nap = self._nap, min(2 * self._nap, NAPS[1])
        return time.monotonic() + nap

    def __str__(self) -> str:
        runs = [(size, len(list(run))) for size, run in itertools.groupby(self.pieces)]
        shown = [f"{count} x {size}" if count > 1 else str(size) for size, count in runs[:12]]
        said = f"{sum(self.pieces)} bytes as {' + '.join(shown)}" if shown else "nothing"
        if len(runs) > 12:
            said += " + ..."
        if self.held:
            said += f", {len(self.held)} more held back"
        return f"{said}, {self.faults!r}"


class _Events:
    """Waits for what happens to sockets, each change told once."""

    def __init__(self, *socks: socket.socket) -> None:
        self._epoll = select.epoll()
        self._woken = os.eventfd(0)
        self._epoll.register(self._woken, select.EPOLLIN)
        for sock in socks:
            # A Unix socket is also told to be writable when its peer has received all.
            self._epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def wait(self, when: float) -> None:
        left = max(0.0, when - time.monotonic())
        if 0 < left <= NAPS[1]:  # epoll counts in milliseconds
            time.sleep(left)
            left = 0.0
        self._epoll.poll(None if left == math.inf else left)

    def wake(self) -> None:
        os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._woken)


class _Looks:
    """The same for systems that do not tell each change: it looks often."""

    def __init__(self, *_: socket.socket) -> None:
        self._woken = threading.Event()

    def wait(self, when: float) -> None:
        self._woken.wait(max(0.0, min(when - time.monotonic(), NAPS[1])))

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        """Nothing is open."""


class Relay(threading.Thread):
    """Takes from each of two ends and gives to the other, until it is stopped."""

    def __init__(
        self, ends: list[socket.socket], near: list[socket.socket], faults: list[Faults]
    ) -> None:
        super().__init__(name="pysock.testing", daemon=True)
        self._events = (_Events if EVENTS_TELL else _Looks)(*near)
        self.far = [_Far(*both) for both in zip(ends, near, strict=True)]
        self.ways = [
            _Way(faults[0], near[0], near[1], self.far[1]),
            _Way(faults[1], near[1], near[0], self.far[0]),
        ]
        self.error: Exception | None = None
        self.was_reset = False
        self._stopping = False
        self._near = near

    def run(self) -> None:
        try:
            while not self._stopping:
                self._events.wait(min([way.step() for way in self.ways]))
        except _Reset:
            self._reset()
        except Exception as error:  # of an iterator of sizes
            self.error = error
            self._reset()

    def _reset(self) -> None:
        self.was_reset = True
        for far in self.far:
            far.reset()

    def stop(self) -> None:
        if self.ident is not None:
            self._stopping = True
            self._events.wake()
            self.join()
        self._events.close()
        for sock in self._near:
            sock.close()
        for far in self.far:
            far.forget()
