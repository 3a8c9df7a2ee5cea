"""Listening sockets, and the connections that come out of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from .address import Address, AddressLike, identity, listen, parse, unlink_if_same

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Listener", "Shortage", "open_listeners"]

_OVER = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# Windows says it in the second way, and wine in the third, of a client that was reset.
_GONE = {errno.ECONNABORTED, errno.ECONNRESET, errno.ENOTCONN, errno.EPROTO, errno.EINTR}
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 1.0
_SEQPACKET = getattr(socket, "SOCK_SEQPACKET", None)


class Shortage(Exception):
    """Nothing can be accepted for want of descriptors or memory: try again later."""


class Listener:
    """One address that is listened on, or a listening socket that somebody else made.

    Args:
        where: an address as `address.listen` takes it, or the socket; it is owned from
            now on, but a path that it stands at is only removed where it was made here.
        backlog: connections that the system keeps waiting.
        reuse_address: see `address.listen`.
        encrypted: whether TLS is done on it.
    """

    def __init__(
        self,
        where: AddressLike | socket.socket,
        backlog: int,
        reuse_address: bool,
        encrypted: bool = False,
    ) -> None:
        self._identity = None
        if isinstance(where, socket.socket):
            self.sock = _checked(where)
            self.address = parse(_address_of(where))
            self.shared = True  # other processes may have it too
        else:
            self.address = parse(where)
            if self.address.scheme == "tls" and not encrypted:
                raise ValueError(
                    f"address '{self.address}' needs a certificate: pass "
                    "tls=pysock.tls.server_context(certificate, key)"
                )
            self.sock = listen(self.address, backlog, reuse_address)
            self.shared = self.address.scheme == "fd"
            if self.shared:
                self.address = parse(_address_of(self.sock))
            elif self.address.path and not self.address.abstract:
                self._identity = identity(self.address.path)
                self._made_by = os.getpid()
        self.sockname: Any = self.sock.getsockname()
        if not self.address.path:
            # With the port that the system has chosen.
            scheme = "tls" if encrypted else "tcp"
            self.address = Address(scheme, self.address.host or "localhost", self.sockname[1])
        self.pause = _FIRST_PAUSE
        self.watch: Any = None  # while the server waits for clients

    @property
    def keeps_records(self) -> bool:
        """Whether its clients have sockets of records (SOCK_SEQPACKET), not streams."""
        return self.sock.type == _SEQPACKET

    def let_others_connect(self) -> None:
        """Let every user of this machine connect to the Unix path that was made here.

        For a server that asks who has connected, and lets in whom it will.
        """
        if self._identity is not None:
            os.chmod(self.address.path, 0o666)

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self.sock.fileno()

    def accept(self) -> tuple[socket.socket, Any] | None:
        """Return the next client's socket and address, None where nobody waits.

        Raises:
            Shortage: for want of resources; `pause` says for how long to leave it.
            OSError: the listener is no listener any more.
        """
        while True:
            try:
                client = self.sock.accept()
            except BlockingIOError:
                return None
            except SystemError as exc:
                raise MemoryError from exc  # CPython has found no memory and lost the error
            except OSError as exc:
                if exc.errno in _OVER:
                    raise
                if exc.errno in _SHORT:
                    raise Shortage(exc.strerror) from None
                # That one client has gone, or was not let in: on to the next.
                if exc.errno in _GONE:
                    continue
                raise Shortage(exc.strerror or str(exc)) from None
            self.pause = _FIRST_PAUSE
            return client

    def next_pause(self) -> float:
        """Return how long to leave it alone, in seconds: longer each time."""
        pause, self.pause = self.pause, min(2 * self.pause, _LAST_PAUSE)
        return pause

    def close(self) -> None:
        """Close the listener, and remove the Unix path that it made."""
        if self._identity is not None and self._made_by == os.getpid():
            # While it is open: its inode's number cannot be another's.
            unlink_if_same(self._identity)
            self._identity = None
        self.sock.close()


def open_listeners(
    addresses: AddressLike | socket.socket | Sequence[AddressLike | socket.socket],
    backlog: int,
    reuse_address: bool,
    encrypted: bool = False,
) -> list[Listener]:
    """Listen on one address or a list of them: on all, or on none.

    Raises:
        OSError: an address cannot be had.
        ValueError: one is malformed, or the list is empty.
    """
    wanted: Sequence[Any] = addresses if isinstance(addresses, list) else [addresses]
    if not wanted:
        raise ValueError("the list of addresses is empty, expected one or more")
    opened: list[Listener] = []
    try:
        for where in wanted:
            opened.append(Listener(where, backlog, reuse_address, encrypted))
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    return opened


def _checked(sock: socket.socket) -> socket.socket:
    if sock.type not in (socket.SOCK_STREAM, _SEQPACKET):
        raise ValueError(f"{sock!r} is no stream socket: expected one that listens")
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 1  # a system that does not tell
    if not listens:
        raise ValueError(f"{sock!r} does not listen: call its listen() first")
    sock.setblocking(False)
    return sock


def _address_of(sock: socket.socket) -> AddressLike:
    name = sock.getsockname()
    if isinstance(name, bytes):
        return "unix:@" + name[1:].decode("utf-8", "backslashreplace")
    if isinstance(name, str):
        return f"unix://{name}" if name.startswith("/") else f"unix:{name}"
    return name[0], name[1]
