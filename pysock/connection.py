"""Messages over one connected stream, for blocking code.

A Connection owns its socket.  It knows framing and time limits; it does not know
addresses or what a message means.  One thread may send while another receives; of two
senders, or two receivers, one waits until the other's call is done.  The calls themselves
are compiled (`pysock.framing.FrameStream`); here is what happens once in a life.
"""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections.abc import Iterable

from .errors import ConnectionClosed
from .framing import DatagramSocket, Format, FrameStream, LengthField

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any, Self, TypeVar

    from .credentials import Credentials

    Waited = TypeVar("Waited", bound=FrameStream | DatagramSocket)

__all__ = ["Connection", "wait"]

_LINGER_AFTER_ERROR = 0.2
_LONGEST_WAIT = 86400.0  # what poll() takes has an end; then it is asked again

# macOS has another name for the option that Linux and Windows call KEEPIDLE.
_KEEPIDLE = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)


class Connection(FrameStream):
    """Whole messages over a connected stream socket, a pipe or the like.

    A timeout is a deadline for the whole call, and it loses nothing: a `recv` that timed
    out inside a message goes on there at the next call.  Calls that wait are woken when
    another thread closes the connection.

    Args:
        sock: a connected socket, which the connection owns from now on; its own timeout
            is ignored.  An `ssl.SSLSocket` is made non-blocking; what a signal's handler
            raises in the midst of its calls may break it.  Or any object with
            `recv_into`, `send` and `close`, which is then used through these methods;
            its `settimeout`, if there is one, serves both directions, so that a thread
            that sends may lengthen or shorten another's wait to receive.
            Of a SOCK_SEQPACKET socket each frame is one record; its system cannot tell an
            empty record from the end.
        framing: how messages become frames.
        timeout: seconds for each call; None: wait for ever; 0: never wait.
        spin: seconds to keep trying, without the GIL, before a receive sleeps: shorter
            round trips for a busy core.
        linger: seconds that `close` waits at most for the last bytes to arrive.
        keepalive: (idle, interval, count): after *idle* seconds of silence ask the peer's
            system every *interval* seconds, and give up after *count* questions.  Data
            that is not acknowledged ends the connection after as long, where the
            system can (TCP_USER_TIMEOUT).
        max_fds: the most descriptors that one message may bring over a Unix socket, for
            `recv_fds`; with 0 the system drops what the peer passes.
    """

    linger: float = 5.0
    keepalive: tuple[int, int, int] | None = None

    def __init__(
        self,
        sock: Any,
        framing: Format = LengthField(),  # noqa: B008 - immutable
        *,
        timeout: float | None = None,
        spin: float = 0.0,
        linger: float = 5.0,
        keepalive: tuple[int, int, int] | None = None,
        max_fds: int = 0,
        _tls: Any = None,
    ) -> None:
        check_options(framing, timeout, spin, linger, keepalive)
        if getattr(sock, "type", None) == socket.SOCK_DGRAM:
            raise ValueError("the socket is for datagrams, which are messages already")
        super().__init__(sock, framing, timeout=timeout, spin=spin, _tls=_tls)
        self.linger = linger
        self.keepalive = keepalive
        self._tune()
        if max_fds:
            self.max_fds = max_fds

    def _tune(self) -> None:
        """Set the socket's options."""
        sock = self.socket
        if not send_at_once(sock) or self.keepalive is None:
            return
        tcp = socket.IPPROTO_TCP
        idle, interval, count = self.keepalive
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if _KEEPIDLE is not None:
            sock.setsockopt(tcp, _KEEPIDLE, idle)
        if hasattr(socket, "TCP_KEEPINTVL"):
            sock.setsockopt(tcp, socket.TCP_KEEPINTVL, interval)
            sock.setsockopt(tcp, socket.TCP_KEEPCNT, count)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            limit = 1000 * (idle + interval * count)
            sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, limit)

    def close(self) -> None:
        """End the connection so that the last message sent arrives; may be called twice.

        Accepted messages are sent, input is read away (a socket closed over unread
        input answers with a reset, which destroys what is still on its way), and where
        the peer's system has not acknowledged everything the call waits for that, at
        most `linger` seconds.  Calls that wait in other threads raise ConnectionClosed.
        """
        self._close(self.linger)

    def getpeername(self) -> Any:
        """Return the peer's address, as `socket.socket` does."""
        return self._open_socket().getpeername()

    def getsockname(self) -> Any:
        """Return this end's address, as `socket.socket` does."""
        return self._open_socket().getsockname()

    @property
    def peer_credentials(self) -> Credentials | None:
        """Who called connect(), or listen(), at the other end of a Unix socket.

        None for other transports, and where the system cannot tell.  It is who made the
        connection: that process may be gone and its `pid` be another's by now, and a
        descriptor that was passed on still has the credentials of who connected.

        Raises:
            ConnectionClosed: the connection is closed.
        """
        from .credentials import peer_credentials  # most programs never ask

        return peer_credentials(self._open_socket())

    def _open_socket(self) -> Any:
        if self.closed:
            raise ConnectionClosed("the connection is closed")
        return self.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # After an error nobody wants to wait: for a peer that does not read, say.
        self._close(self.linger if kind is None else min(self.linger, _LINGER_AFTER_ERROR))

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"over {self.socket!r}"
        return f"<{type(self).__name__} {state}, framing={self.framing!r}>"


def send_at_once(sock: Any) -> bool:
    """Have a TCP socket not wait for more to send; return whether it is one."""
    if getattr(sock, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return False
    if not hasattr(sock, "setsockopt") or sock.type != socket.SOCK_STREAM:
        return False
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return True


def keeps_records(sock: Any) -> bool:
    """Whether a socket gives out whole records (SOCK_SEQPACKET) instead of a stream."""
    kind = getattr(socket, "SOCK_SEQPACKET", None)
    return kind is not None and getattr(sock, "type", None) == kind


def check_options(
    framing: object,
    timeout: float | None,
    spin: float,
    linger: float,
    keepalive: tuple[int, int, int] | None,
) -> None:
    """Refuse what a Connection could not be made with, before any I/O."""
    if not isinstance(framing, Format):
        raise TypeError(
            f"framing is a {type(framing).__name__}, expected a format, "
            "as LengthField() or formats.named('netstring')"
        )
    check_timeout(timeout)
    for name, value in (("spin", spin), ("linger", linger)):
        if not isinstance(value, int | float):
            raise TypeError(f"{name} is a {type(value).__name__}, expected seconds")
    if not spin >= 0:
        raise ValueError(f"spin is {spin}, expected seconds of 0 or more")
    if not 0 <= linger < math.inf:
        raise ValueError(f"linger is {linger}, expected seconds of 0 or more")
    if keepalive is not None and (
        len(keepalive) != 3 or not all(isinstance(n, int) and n > 0 for n in keepalive)
    ):
        raise ValueError(
            f"keepalive is {keepalive!r}, expected (idle seconds, interval seconds, count)"
        )


def check_timeout(timeout: float | None) -> None:
    """Refuse what is no time to wait."""
    if not isinstance(timeout, int | float | None):
        raise TypeError(f"timeout is a {type(timeout).__name__}, expected seconds or None")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is {timeout}, expected seconds of 0 or more, or None")


def check_limit(name: str, seconds: float | None) -> None:
    """Refuse what is no time that something may take."""
    if not isinstance(seconds, int | float | None):
        raise TypeError(f"{name} is a {type(seconds).__name__}, expected seconds or None")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"{name} is {seconds}, expected seconds above 0, or None")


def wait(connections: Iterable[Waited], timeout: float | None = None) -> list[Waited]:
    """Return those of *connections* with a message, or an end, to receive.

    Messages that were read ahead count, which no selector can see.  A connection from
    which another thread is receiving is left to that thread.

    Args:
        connections: what to wait for; clients for datagrams among them.
        timeout: seconds; None: wait for ever; 0: only look.

    Returns:
        A list in the order given; empty when the time was over.
    """
    check_timeout(timeout)
    watched = list(dict.fromkeys(connections))
    deadline = None if timeout is None else time.monotonic() + timeout
    ready = [connection for connection in watched if connection._ready()]
    if ready or timeout == 0 or not watched:
        return ready
    wakes: dict[Waited, int] = {}
    try:
        for connection in watched:
            # From here on an end is noticed, even where others get its socket's number.
            if (wake := connection._watch()) >= 0:
                wakes[connection] = wake
            else:
                ready.append(connection)  # closed by another thread just now
        with selector_of_any() as selector:
            for connection, wake in wakes.items():
                selector.register(wake, selectors.EVENT_READ, connection)
                try:
                    selector.register(connection.fileno(), selectors.EVENT_READ, connection)
                except ValueError:
                    if not connection.closed:
                        raise
            _wait(selector, ready, deadline)
    finally:
        for connection in wakes:
            connection._unwatch()
    return [connection for connection in watched if connection in ready]


def _wait(selector: selectors.BaseSelector, ready: list[Any], deadline: float | None) -> None:
    """Sleep until the time is over, or something is registered that goes to *ready*."""
    while not ready:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        for key in _select(selector, None if left is None else min(left, _LONGEST_WAIT)):
            state = key.data._ready()
            if state is None and not key.data.closed:
                # Another thread is at it: it would be readable for ever.
                selector.unregister(key.fd)
            elif state:
                ready.append(key.data)
            elif key.fd not in _numbers(key.data):
                # Another thread's request goes on over another socket.
                selector.unregister(key.fd)
                selector.register(key.data.fileno(), selectors.EVENT_READ, key.data)
        if not selector.get_map():
            break


def _select(selector: selectors.BaseSelector, timeout: float | None) -> list[Any]:
    """Return the keys of what is ready; a socket that another thread has closed is."""
    try:
        return [key for key, _ in selector.select(timeout)]
    except OSError:
        # Windows' select() fails when one of its sockets is closed, before it or meanwhile.
        keys = list(selector.get_map().values())
        gone = [key for key in keys if key.data.closed or key.fd not in _numbers(key.data)]
        if not gone:
            raise
        return gone


def _numbers(connection: Any) -> tuple[int, int]:
    return connection.fileno(), connection._wake_fileno()


def selector_of_any() -> selectors.BaseSelector:
    """A selector without a descriptor of its own, and without a limit on their numbers."""
    return getattr(selectors, "PollSelector", selectors.DefaultSelector)()
