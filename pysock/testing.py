"""Two connected ends whose stream is cut, merged, delayed or broken on purpose, for tests.

A relay stands between the ends: a thread that takes what one end sends, and hands it to the
other as the faults say.  The ends are real sockets, so that all code that works on a socket
can be tested with them, be it blocking, over selectors or under asyncio.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar, Unpack

from .connection import Connection, check_options
from .faults import FaultOptions, Faults
from .framing import Format, LengthField
from .relay import Relay

__all__ = ["Faults", "Pair", "every_cut", "pair", "socket_pair"]

_UNIX = getattr(socket, "AF_UNIX", None)
_CONNECT = 10.0  # seconds to connect to oneself

T = TypeVar("T")
End = TypeVar("End", Connection, socket.socket)


class _ShortSocket(socket.socket):
    """A socket whose `send` and `sendmsg` take at most so many bytes."""

    most: int

    def send(self, data: Any, flags: int = 0, /) -> int:
        return super().send(memoryview(data).cast("B")[: self.most], flags)

    def sendmsg(self, buffers: Iterable[Any], /, *args: Any) -> int:
        return super().sendmsg([b"".join(buffers)[: self.most]], *args)


def _connected(family: int) -> tuple[socket.socket, socket.socket]:
    if family == _UNIX:
        return socket.socketpair(family)
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with contextlib.ExitStack() as stack:
        with socket.create_server((host, 0), family=family, backlog=1) as listener:
            listener.settimeout(_CONNECT)
            one = stack.enter_context(socket.socket(family))
            one.settimeout(_CONNECT)
            one.connect(listener.getsockname())
            other = stack.enter_context(listener.accept()[0])
        if other.getpeername() != one.getsockname():
            raise ConnectionError("another program has connected to the pair's socket")
        stack.pop_all()
    return one, other


class Pair(Generic[End]):
    """Two connected ends with a relay between them, for the body of a `with` statement.

    `pair` and `socket_pair` make one; it opens in `with`, and all of it is closed there.
    Unpacking gives the ends: `with pair(cut=1) as (a, b)`.  Its `repr` tells what has
    become of the bytes; an exception that leaves the body has that as a note.
    """

    a: End
    b: End

    def __getattr__(self, name: str) -> Any:
        if name in ("a", "b"):
            raise RuntimeError(f"the pair is {self._state}, expected it in a with statement")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __init__(
        self,
        make: Callable[[socket.socket, int | None], End],
        faults: tuple[Faults, Faults],
        family: int | None,
        stream: bytes | None = None,
    ) -> None:
        default = getattr(socket, "AF_UNIX", socket.AF_INET)
        self._family = default if family is None else family
        if self._family not in (default, socket.AF_INET, socket.AF_INET6):
            raise ValueError(
                f"family is {family!r}, expected socket.AF_UNIX, AF_INET or AF_INET6"
            )
        self._make: Callable[[socket.socket, int | None], End] = make
        self._faults, self._stream = faults, stream
        self._relay: Relay | None = None
        self._state = "not opened"

    def __enter__(self) -> Self:
        if self._relay is not None:
            raise RuntimeError("the pair was opened before, expected a new one for each with")
        with contextlib.ExitStack() as stack:
            ends, near = [], []
            for faults in self._faults:
                end, relayed = map(stack.enter_context, _connected(self._family))
                if faults.short_writes is not None:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
                relayed.setblocking(False)
                if self._family != _UNIX:
                    relayed.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ends.append(end)
                near.append(relayed)
            self._relay = Relay(ends, near, list(self._faults))
            stack.callback(self._relay.stop)
            self.a, self.b = (
                stack.enter_context(self._make(end, faults.short_writes))
                for end, faults in zip(ends, self._faults, strict=True)
            )
            if self._stream is not None:
                self._relay.ways[0].held += self._stream
                self._relay.ways[0].ended = True
            self._relay.start()
            stack.pop_all()
        self._state = "open"
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        relay = self._relay
        if relay is None:
            raise RuntimeError("the pair was not opened, expected with")
        with contextlib.ExitStack() as stack:
            stack.callback(relay.stop)
            for end in self:
                if isinstance(end, Connection):
                    end.linger = 0.0
                stack.callback(end.close)
        self._state = "closed"
        if error is not None:
            error.add_note(repr(self))
        if relay.error is not None:
            raise relay.error

    def __iter__(self) -> Iterator[End]:
        yield self.a
        yield self.b

    @property
    def pieces(self) -> tuple[list[int], list[int]]:
        """The sizes of the pieces handed over so far, from a to b and from b to a.

        As `cut` they make another pair cut where this one did.
        """
        if self._relay is None:
            return [], []
        there, back = self._relay.ways
        return list(there.pieces), list(back.pieces)

    def __repr__(self) -> str:
        said = f"Pair over {socket.AddressFamily(self._family).name}, {self._state}"
        if self._relay is None:
            return f"<{said}; a to b: {self._faults[0]!r}; b to a: {self._faults[1]!r}>"
        there, back = self._relay.ways
        reset = ", reset" if self._relay.was_reset else ""
        return f"<{said}{reset}; a to b: {there}; b to a: {back}>"


def _both(faults: FaultOptions, back: Faults | None) -> tuple[Faults, Faults]:
    there = Faults(**faults)
    if back is None:
        return there._twice()
    if not isinstance(back, Faults):
        raise TypeError(f"back is a {type(back).__name__}, expected Faults(...)")
    return there, back


def pair(
    framing: Format = LengthField(),  # noqa: B008 - immutable
    *,
    back: Faults | None = None,
    family: int | None = None,
    timeout: float | None = 10.0,
    **faults: Unpack[FaultOptions],
) -> Pair[Connection]:
    """Return two connections, to each other, whose stream has faults on purpose.

    Args:
        framing: the format of both.
        back: what happens to the bytes from b to a; default: the same as from a to b.
        family: `socket.AF_UNIX`, `AF_INET` or `AF_INET6`; default: a Unix socket where
            there are any.
        timeout: seconds for each call of either end; None: wait for ever.
        faults: the arguments of `Faults`.

    Returns:
        A pair to be opened by `with`.  Both ends may be used by one thread, as long as what
        is under way is less than the system's buffers take and the 64 KiB of the relay.

    Raises:
        TypeError, ValueError: an argument that `Faults` or `Connection` refuses.
    """
    check_options(framing, timeout, 0.0, 0.0, None)

    def make(sock: socket.socket, most: int | None) -> Connection:
        return Connection(sock, framing, timeout=timeout)

    return Pair(make, _both(faults, back), family)


def socket_pair(
    *,
    back: Faults | None = None,
    family: int | None = None,
    timeout: float | None = 10.0,
    **faults: Unpack[FaultOptions],
) -> Pair[socket.socket]:
    """Return two connected sockets whose stream has faults on purpose.

    The arguments are those of `pair`.  Descriptors that are sent along do not pass.
    """
    return Pair(_timed(timeout), _both(faults, back), family)


def _timed(timeout: float | None) -> Callable[[socket.socket, int | None], socket.socket]:
    check_options(LengthField(), timeout, 0.0, 0.0, None)

    def make(sock: socket.socket, most: int | None) -> socket.socket:
        if most is not None:
            sock = _ShortSocket(fileno=sock.detach())
            sock.most = most
        sock.settimeout(timeout)
        return sock

    return make


def every_cut(
    data: bytes | bytearray | memoryview,
    read: Callable[[socket.socket], T],
    *,
    family: int | None = None,
    timeout: float | None = 10.0,
) -> T:
    """Have *read* receive the same stream whole, in single bytes and cut at every place.

    Args:
        data: the stream, 1 byte or more; it ends cleanly after them.
        read: receives from a connected socket, and returns what it made of the bytes.  It
            is called with another socket each time, as many times as there are bytes and
            once more.  What it sends is dropped.
        family: as for `pair`.
        timeout: seconds for each call of the socket; None: wait for ever.

    Returns:
        What *read* returned every time.

    Raises:
        AssertionError: it returned something else where the stream was cut.
        TypeError, ValueError: a bad argument.
        Exception: what *read* raises, with a note that tells how the stream was cut.
    """
    stream = bytes(memoryview(data))
    if not stream:
        raise ValueError("data is empty, expected at least 1 byte")
    if not callable(read):
        raise TypeError(f"read is a {type(read).__name__}, expected a function of a socket")
    results: list[T] = []
    cuts: list[Any] = [None, 1, *((at,) for at in range(1, len(stream)))]
    for cut in cuts if len(stream) > 1 else [None]:
        faults = Faults(cut=cut), Faults(end_at=0)
        with Pair(_timed(timeout), faults, family, stream) as ends:
            results.append(read(ends.b))
            if results[-1] != results[0]:
                raise AssertionError(f"it gave {results[-1]!r}, and uncut {results[0]!r}")
            del results[1:]
    return results[0]
