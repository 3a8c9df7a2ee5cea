"""pysock for programs that are written for `socketserver` and `multiprocessing.connection`.

`MessageRequestHandler` and `WholeDatagrams` go with the standard library's servers.
`Client`, `Listener` and `MultiprocessingSession` speak what `multiprocessing.connection`
speaks.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Iterator
from socketserver import BaseRequestHandler

from .address import format_peer
from .connection import Connection
from .errors import FrameTooLarge, FramingError
from .framing import Format, LengthField
from .mpconnection import Client, Listener, MultiprocessingSession

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any, ClassVar

__all__ = [
    "Client",
    "Listener",
    "MessageRequestHandler",
    "MultiprocessingSession",
    "WholeDatagrams",
]

_LARGEST_UDP = 65536  # no UDP datagram is larger
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


class MessageRequestHandler(BaseRequestHandler):
    """Whole messages in a server of the standard library's `socketserver`.

    It goes with `TCPServer`, `UDPServer`, `UnixStreamServer` and `UnixDatagramServer`, also
    with `ThreadingMixIn` or `ForkingMixIn`.  Override `handle`: there `self.messages` yields
    the client's messages, and `self.send` sends it one.  `self.connection` is the
    `Connection`.  Where the server is for datagrams a datagram is a message, `messages`
    has that one, `send` answers its sender, and `connection` is None.

    What `handle` raises, a fault of the client too, gets to the server's `handle_error`.
    """

    framing: Format = LengthField()
    """How messages become frames; datagrams have none."""

    timeout: float | None = 60.0
    """Seconds for each message, to come or to be sent; None: no limit."""

    connection: Any
    messages: Iterator[bytes]

    def setup(self) -> None:
        """Called before `handle`.

        Raises:
            FramingError: the server may have cut the datagram.
        """
        if not isinstance(self.request, tuple):
            self.connection = Connection(self.request, self.framing, timeout=self.timeout)
            self.messages = iter(self.connection)
            return
        self.connection = None
        message, self._socket = self.request
        size: int = self.server.max_packet_size  # type: ignore[attr-defined]
        if len(message) >= size and not isinstance(self.server, WholeDatagrams):
            raise FramingError(
                f"a datagram of {size} bytes or more has come, which the server cuts there: "
                "put pysock.interop.WholeDatagrams before its class, or raise its "
                "max_packet_size"
            )
        self.messages = iter((message,))

    def send(self, message: Any) -> None:
        """Send one message to the client.

        Raises:
            FrameTooLarge, FramingError: the format cannot carry it.
            TimeoutError: the client did not take it in time.
            OSError: the connection failed; a datagram is too large, or its sender has no
                address.
        """
        if self.connection is not None:
            self.connection.send(message)
        elif not self.client_address:
            raise OSError(
                errno.EDESTADDRREQ,
                "the sender cannot be answered: its Unix socket has no address, it should "
                "bind() to one",
            )
        else:
            _send_datagram(self._socket, message, self.client_address, self.timeout)

    def finish(self) -> None:
        """Called after `handle`; ends the connection so that the last message arrives."""
        if self.connection is not None:
            # What handle() has raised is still on its way; then nobody wants to wait.
            self.connection.__exit__(type(sys.exception()) if sys.exception() else None)


def _send_datagram(
    sock: socket.socket, message: Any, address: Any, timeout: float | None
) -> None:
    """Send without a change to *sock*, which the server and other threads use."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            sock.sendto(message, getattr(socket, "MSG_DONTWAIT", 0), address)
            return
        except BlockingIOError:
            # A receiver's full queue is nothing that can be polled for.
            if deadline is not None and time.monotonic() >= deadline:
                text = f"{format_peer(address)}: its queue was full for {timeout:g} s"
                raise TimeoutError(text) from None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


class WholeDatagrams:
    """For a `UDPServer` or `UnixDatagramServer`: no handler gets a datagram that was cut.

    To be named before the server's class.  One that is longer than `max_packet_size` is
    dropped, and the server's `handle_error` finds a FrameTooLarge with its length.
    """

    max_packet_size: ClassVar[int] = _LARGEST_UDP
    """Bytes of a datagram at most; any of UDP, while those of Unix can be larger."""

    socket: Any

    def get_request(self) -> tuple[Any, Any]:
        """Return the next datagram with the socket, and its sender's address.

        Raises:
            OSError: there is none, or it was too large.
        """
        message, length, address = _receive_whole(self.socket, self.max_packet_size)
        if length > self.max_packet_size:
            try:
                raise FrameTooLarge(
                    length, self.max_packet_size, "a larger max_packet_size= would take it"
                )
            except FrameTooLarge:
                self.handle_error((b"", self.socket), address)  # type: ignore[attr-defined]
            raise OSError(errno.EMSGSIZE, "the datagram was too large")  # which is not told
        return (message, self.socket), address


def _receive_whole(sock: socket.socket, size: int) -> tuple[bytes, int, Any]:
    """Return the first *size* bytes of a datagram, how many it had, and who sent it."""
    if sys.platform == "linux":
        buffer = bytearray(size)
        length, address = sock.recvfrom_into(buffer, 0, socket.MSG_TRUNC)
        return bytes(memoryview(buffer)[:length]), length, address
    if not hasattr(sock, "recvmsg"):  # Windows raises an OSError itself
        message, address = sock.recvfrom(size)
        return message, len(message), address
    message, _, flags, address = sock.recvmsg(size)
    # How long it was in fact these systems do not tell.
    return message, len(message) + bool(flags & socket.MSG_TRUNC), address
