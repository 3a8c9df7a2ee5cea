"""Two connected sockets with a network in between that moves only when it is told to.

There is no thread: the test itself takes what an end has sent, and hands on as much of it
as it likes.  All that ever went over the wire is kept.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable

from conftest import TIME_FACTOR

with contextlib.suppress(ImportError):  # not on Windows
    import fcntl
    import termios

UNREAD = 32 * 1024  # bytes that lie at an end which does not receive; no more is given then
BUFFER = 16 * 1024  # that an end asks its system for, so that it can be filled
RECEIVED = struct.Struct("=128xQ")  # tcp_info.tcpi_bytes_received
ARRIVAL = 0.05 * TIME_FACTOR  # what comes later comes unforeseen
EVERYTHING = 1 << 40

FIN, CUT, RESET, GONE = "fin", "cut", "reset", "gone"


def connected(kind: str) -> tuple[socket.socket, socket.socket]:
    """Return two sockets, connected to each other: an end's, and the network's."""
    if kind == "unix":
        end, near = socket.socketpair(socket.AF_UNIX)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    else:
        family = socket.AF_INET6 if kind == "tcp6" else socket.AF_INET
        host = "::1" if kind == "tcp6" else "127.0.0.1"
        with socket.create_server((host, 0), family=family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            end = socket.socket(family)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            # Its system counts more than the bytes, and drops what it has no room for.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * UNREAD)
            end.connect(listener.getsockname())
            near = listener.accept()[0]
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    near.setblocking(False)
    return end, near


def unread(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), "little")


class Way:
    """One direction.

    `end` is how the sender has ended it, as the network has seen, and `over` what the
    receiver was shown; GONE: it was not there any more.
    """

    def __init__(
        self, source: socket.socket, sink: socket.socket, receiver: socket.socket | None
    ) -> None:
        self.source, self.sink, self._receiver = source, sink, receiver
        self.taken = bytearray()
        self.given = 0
        self.end: str | None = None
        self.over: str | None = None

    @property
    def held(self) -> int:
        return len(self.taken) - self.given

    @property
    def came(self) -> int:
        """Bytes that the receiver's system has got, as far as it can be asked."""
        sock = self._receiver
        if sock is None or sock.family == socket.AF_UNIX or sock.fileno() < 0:
            return self.given
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED.size)
        return min(self.given, int(RECEIVED.unpack(info)[0]))

    def take(self) -> None:
        """Take all that the sender's system has sent."""
        while self.end is None:
            try:
                data = self.source.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                self.end = RESET
            else:
                self.taken += data
                self.end = None if data else FIN


class Network:
    """Between ends "a" and "b"; *ends* are their sockets, *near* those that it has itself.

    Without the socket of an end nobody looks when bytes have come there.
    """

    def __init__(
        self, ends: dict[str, socket.socket | None], near: dict[str, socket.socket]
    ) -> None:
        self._ends, self._near = ends, near
        self._unix = near["a"].family == socket.AF_UNIX
        self.ways = {
            "a": Way(near["a"], near["b"], ends["b"]),
            "b": Way(near["b"], near["a"], ends["a"]),
        }
        self.noted: Callable[[], object] = lambda: None  # called when something was taken
        self.torn: set[str] = set()  # ends whose connection is no more

    def take(self) -> None:
        for way in self.ways.values():
            way.take()
        self.noted()

    def give(self, sender: str, most: int = EVERYTHING) -> None:
        """Give at most *most* bytes of *sender*'s to the other end, and its end behind all."""
        way = self.ways[sender]
        receiver = other(sender)
        if way.over is not None:
            return
        count = min(most, way.held, self._room(receiver))
        if count:
            try:
                with memoryview(way.taken) as view:
                    way.given += way.sink.send(view[way.given : way.given + count])
            except BlockingIOError:
                return
            except OSError:
                way.over = GONE
                if self.ways[receiver].held == 0:
                    self._tear(sender, RESET)
                return
            self._see_to_arrival(way)
        if way.held == 0 and way.end is not None:
            if way.end == FIN:
                way.over = FIN
                with contextlib.suppress(OSError):
                    way.sink.shutdown(socket.SHUT_WR)
            else:
                self._tear(receiver, RESET)

    def pump(self) -> None:
        """Move all that can be moved."""
        self.take()
        for sender in self.ways:
            self.give(sender)

    @property
    def moved(self) -> tuple[int, ...]:
        """How many bytes were taken and given so far, each way."""
        both = self.ways.values()
        return (*(len(way.taken) for way in both), *(way.given for way in both))

    @property
    def under_way(self) -> bool:
        """Whether there is something between the network and a receiver's system."""
        return any(way.came < way.given and way.over != RESET for way in self.ways.values())

    @property
    def shown(self) -> list[str | None]:
        return [way.over for way in self.ways.values()]

    def reset(self) -> None:
        """Reset the connection at both ends; what is held is lost."""
        for end in self.ways:
            self._tear(end, RESET)

    def cut(self) -> None:
        """As a program in between that is killed: each end sees an end, where it is now."""
        self.take()
        for end in self.ways:
            self._tear(end, CUT)

    def close(self) -> None:
        for sock in self._near.values():
            sock.close()

    def _room(self, receiver: str) -> int:
        sock = self._ends[receiver]
        return UNREAD - (0 if sock is None or sock.fileno() < 0 else unread(sock))

    def _see_to_arrival(self, way: Way) -> None:
        end = time.monotonic() + ARRIVAL
        while way.came < way.given and time.monotonic() < end:
            pass

    def _tear(self, end: str, how: str) -> None:
        """End the connection of *end*, with a reset or without."""
        if end in self.torn:
            return
        self.torn.add(end)
        near = self._near[end]
        if how == RESET and not self._unix:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == RESET and not unread(near) and not self._leave_a_byte(self._ends[end]):
            how = CUT
        outgoing, incoming = self.ways[end], self.ways[other(end)]
        outgoing.end = outgoing.end or how
        incoming.over = incoming.over or how
        near.close()

    @staticmethod
    def _leave_a_byte(sock: socket.socket | None) -> bool:
        """Write one: a Unix socket closed over something unread resets the other one."""
        if sock is None or sock.fileno() < 0:
            return False
        try:
            return os.write(sock.fileno(), b"\0") > 0
        except OSError:
            return False


def other(end: str) -> str:
    return "b" if end == "a" else "a"
