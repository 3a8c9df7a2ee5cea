"""Datagrams: each is one message, which arrives whole, or not at all, and perhaps twice.

UDP and Unix datagram sockets, groups and broadcasts.  The calls themselves are compiled
(`pysock.framing.DatagramSocket`); here is what happens once in a life.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

from . import dgramsocket
from .address import AddressLike
from .errors import ConnectionClosed
from .framing import DatagramSocket

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import EllipsisType
    from typing import Any, Self

    from _typeshed import ReadableBuffer

__all__ = ["DatagramClient"]

_REQUEST_TIMEOUT = 5.0  # seconds: a reply that was lost does not come


class DatagramClient(DatagramSocket):
    """Sends and receives datagrams.

    With an *address* it is connected: what others send is not received, and where nobody
    receives there a later call raises ConnectionRefusedError, where the system tells.
    Without one use `sendto` and `recvfrom`.

    Args:
        address: "udp://host:port", "unixgram:///path", "unixgram:@name", ("host", port)
            or a path; a multicast group, or with *broadcast* a broadcast address: then
            the answers of all who receive there are taken.
        sock: a datagram socket to use instead of *address*, or a raw one; it is owned from
            now on, and its own timeout is ignored.
        bind: the address to receive at, in the same forms; port 0 lets the system choose.
            Without it the system chooses when something is sent.
        timeout: seconds for each call; None: wait for ever; 0: never wait.
        broadcast: let datagrams go to every machine on the network.
        ttl: how many routers a datagram may pass; None: as the system has it, which for
            groups is 1.
        interface: by which datagrams to groups leave: a name, a number, or an IPv4
            address of it.
        max_datagram: bytes of the longest datagram that is taken; None: 65,535, for Unix
            sockets 256 KiB.

    Raises:
        OSError: *address* cannot be resolved or connected to, or *bind* be had.
        ValueError: an argument is malformed.
    """

    _temporary: str | None = None
    _bound: dgramsocket.Made | None = None
    _target: Any = None
    _connects = False
    _pid = 0
    _options: tuple[bool, int | None, str | int | None] = (False, None, None)
    _told = ""

    def __init__(
        self,
        address: AddressLike | None = None,
        *,
        sock: socket.socket | None = None,
        bind: AddressLike | None = None,
        timeout: float | None = None,
        broadcast: bool = False,
        ttl: int | None = None,
        interface: str | int | None = None,
        max_datagram: int | None = None,
    ) -> None:
        self._groups: list[tuple[str, str | int | None]] = []
        self._pid = os.getpid()
        self._options = (broadcast, ttl, interface)
        if timeout is not None and not isinstance(timeout, int | float):
            raise TypeError(f"timeout is a {type(timeout).__name__}, expected seconds")
        if sock is not None:
            if address is not None or bind is not None:
                raise ValueError("both sock and an address are given, expected one of them")
            dgramsocket.check(sock)
        else:
            sock = self._open(address, bind, broadcast)
        try:
            dgramsocket.set_options(sock, *self._options)
            most = dgramsocket.most_of(sock.family) if max_datagram is None else max_datagram
            super().__init__(sock, most, timeout=timeout)
            if self._target is not None and not self._connects:
                self._set_target(self._target)
        except BaseException:
            sock.close()
            self._clean_up()
            raise

    def _open(
        self, address: AddressLike | None, bind: AddressLike | None, broadcast: bool
    ) -> socket.socket:
        here = None if bind is None else dgramsocket.parse_datagram(bind)
        family: int = socket.AF_UNSPEC
        bound = None
        if here is not None:
            family, bound = dgramsocket.local(here)
        if address is not None:
            family, self._target = dgramsocket.remote(address, family)
            self._told = str(dgramsocket.parse_datagram(address))
            host = "" if isinstance(self._target, str) else self._target[0]
            self._connects = not broadcast and not dgramsocket.is_group(host)
        elif family == socket.AF_UNSPEC:
            family = socket.AF_INET
        self._family = family
        if here is None and address is not None:
            self._set_replaceable()
        try:
            sock = self._bind(bound)
        except OSError as exc:
            raise _explained(exc, f"cannot receive at {here or 'a Unix path'}") from None
        if here is not None and here.path and not here.abstract:
            self._bound = dgramsocket.identity(here.path)
        try:
            self._connect(sock)
        except OSError:
            sock.close()
            self._clean_up()
            raise
        return sock

    def _bind(self, bound: Any = None) -> socket.socket:
        unix = self._family == getattr(socket, "AF_UNIX", None)
        if unix and bound is None and sys.platform != "linux":
            bound = self._temporary = dgramsocket.temporary_path()
        return dgramsocket.bound(self._family, bound)

    def _connect(self, sock: socket.socket) -> None:
        if not self._connects:
            return
        try:
            sock.connect(self._target)
        except OSError as exc:
            raise _explained(exc, f"cannot send to {self._told}") from None

    def _connect_again(self) -> bool:
        # Linux undoes it where a Unix server has ended; another may be there by now.
        if self._connects:
            self._connect(self.socket)
        return self._connects

    def _replacement(self) -> socket.socket:
        old = self._temporary
        sock = self._bind()
        try:
            self._connect(sock)
            dgramsocket.set_options(sock, *self._options)
            for group, interface in self._groups:
                dgramsocket.join(sock, group, interface)
        except BaseException:
            sock.close()
            raise
        if old is not None:
            dgramsocket.remove_temporary(old)
        return sock

    def _resolve(self, address: Any) -> Any:
        return dgramsocket.remote(address, self._open_socket().family)[1]

    def request(
        self,
        message: ReadableBuffer,
        timeout: float | None | EllipsisType = ...,
        retries: int = 0,
        match: Callable[[bytes, bytes], object] | None = None,
    ) -> bytes:
        """Send a datagram, and return the one that answers it.

        A reply that comes when its request is over is not taken for that of a later one:
        after a request that was repeated or given up the next goes out from another port,
        with another descriptor, unless the socket or its address was given by the caller.
        Then, and where several may answer, what was sent by `send` is answered as well, or
        the network itself may double what was sent once, pass *match*.

        Args:
            message: the request.
            timeout: seconds in all; by default the client's, or 5 where that is None;
                None: wait for ever.
            retries: how often to send it again, at even intervals of *timeout*.
            match: called as match(request, datagram); what it says no to is ignored.

        Raises:
            TimeoutError: no reply has come.
            ConnectionRefusedError: nobody receives there, where the system tells.
            FrameTooLarge, OSError: as `send` and `recv`.
        """
        limit = timeout
        if limit is ...:
            limit = self.timeout if self.timeout is not None else _REQUEST_TIMEOUT
        if retries and (retries < 0 or not limit):
            raise ValueError(
                f"retries is {retries} and timeout {limit}: expected 0 retries or more, "
                "and seconds to spread them over"
            )
        return self._request(message, limit, 1 + retries, match)

    def join(self, group: str, interface: str | int | None = None) -> None:
        """Receive what is sent to a multicast group; the client must be bound to its port.

        Args:
            group: its number, "239.1.2.3" or "ff02::1%eth0".
            interface: on which network: a name, a number, or for IPv4 an address; None:
                the client's own *interface*, or the system's choice.

        Raises:
            OSError: it cannot be joined.
            ValueError: *group* is no multicast address.
        """
        where = interface if interface is not None else self._options[2]
        dgramsocket.join(self._open_socket(), group, where)
        self._groups.append((group, where))

    def leave(self, group: str, interface: str | int | None = None) -> None:
        """Receive no more what is sent to a multicast group."""
        where = interface if interface is not None else self._options[2]
        dgramsocket.join(self._open_socket(), group, where, leave=True)
        if (group, where) in self._groups:
            self._groups.remove((group, where))

    def getpeername(self) -> Any:
        """Return the address that is sent to, as `socket.socket` does."""
        return self._open_socket().getpeername()

    def getsockname(self) -> Any:
        """Return this end's address, as `socket.socket` does."""
        return self._open_socket().getsockname()

    def _open_socket(self) -> socket.socket:
        if self.closed:
            raise ConnectionClosed("the client is closed")
        found: socket.socket = self.socket
        return found

    def close(self) -> None:
        """Close the socket; may be called twice.

        Calls that wait in other threads raise ConnectionClosed.
        """
        if not self.closed:
            self._clean_up()
        super().close()

    def _clean_up(self) -> None:
        """Remove the paths that were made for it, while the socket is open."""
        if self._pid != os.getpid():
            return  # they are the parent's
        if self._bound is not None:
            dgramsocket.unlink_if_same(self._bound)
            self._bound = None
        if self._temporary is not None:
            dgramsocket.remove_temporary(self._temporary)
            self._temporary = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"over {self.socket!r}"
        return f"<{type(self).__name__} {state}>"


def _explained(exc: OSError, what: str) -> OSError:
    """Return *exc* with *what* could not be done, and what it probably means."""
    to_send = "send" in what
    hint = {
        errno.ENOENT: "no server has made this path" if to_send else "there is no such folder",
        errno.ECONNREFUSED: "no server receives on this path any more",
        errno.EPROTOTYPE: "what is there is a stream socket: use Client",
        errno.EACCES: "for a broadcast address pass broadcast=True; for a path see its mode",
    }.get(exc.errno or 0, "")
    reason = exc.strerror or str(exc)
    return type(exc)(exc.errno, f"{what}: {reason}{', ' if hint else ''}{hint}")
