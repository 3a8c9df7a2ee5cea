"""Serve datagrams on one address: what a user says, asks and stops."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from . import dgramsocket
from .address import Address, AddressLike, format_peer, is_local
from .dgramloop import DatagramLoop
from .errors import InvalidHeader
from .framing import _dropped_datagrams, _largest_datagram
from .limits import Seldom, default_workers
from .proxy import ProxyHeader, Trusted
from .proxy import parse as parse_proxy
from .running import Runner
from .session import wants_connection

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DatagramServer"]

logger = logging.getLogger("pysock.datagram")


class DatagramServer(Runner):
    """Serves datagrams on one address.

    Args:
        address: "udp://host:port", "unixgram:///path", "unixgram:@name", ("host", port) or
            a path; port 0 lets the system choose, see `server_address`.  No host is every
            address of the machine, IPv4 and IPv6; a multicast group is joined.  Or a
            datagram socket that is bound, which is owned from now on.
        handler: called with each datagram's bytes; what it returns is sent to its sender:
            bytes (or another buffer) as one datagram, an iterable of these as several,
            None as none.  With a second parameter that has no default it also gets the
            `Sender`, which has an `address` and can `send`.  One that raises is logged,
            and nothing else happens.
        workers: threads at most that handlers may block; None: 16 to 32, by the number
            of processors; 0: handlers run in the thread of `serve_forever`, one at a time.
        max_datagram: bytes of the longest datagram that is taken, longer ones are logged
            and lost; None: 65,535, for Unix sockets 256 KiB.
        max_amplification: bytes of all replies to a datagram for each of its own, where
            the sender's address may be forged: else a stranger could have this server
            flood somebody.  Loopback and Unix addresses cannot be; None: no limit.
        trusted: networks whose addresses are not forged, as ["10.0.0.0/8"]; or a function
            that is called with an address, as one that has proved itself by a token.
        groups: multicast groups to join, for an address that names none.
        interface: on which network: a name, a number, or an IPv4 address of it.
        broadcast: let replies go to broadcast addresses too.
        reuse_port: share the port with other processes that say so too: each datagram
            goes to one of them, by its sender.
        receive_buffer: bytes that the system keeps of datagrams not served yet; None: as
            the system has it.  See `stats` for those it had to drop.
        send_timeout: seconds that a reply may wait for a Unix receiver whose queue is full.
        proxy_protocol: "v2": each datagram begins with the PROXY header of a load
            balancer, which tells the client's address.
        trusted_proxies: networks that the load balancer sends from.

    Raises:
        OSError: the address cannot be had.
        TypeError: *handler* cannot be called.
        ValueError: an option is malformed.
    """

    allow_reuse_address = False

    def __init__(
        self,
        address: AddressLike | socket.socket,
        handler: Callable[..., Any],
        *,
        workers: int | None = None,
        max_datagram: int | None = None,
        max_amplification: float | None = 1.0,
        trusted: Iterable[str] | Callable[[Any], object] = (),
        groups: Iterable[str] = (),
        interface: str | int | None = None,
        broadcast: bool = False,
        reuse_port: bool = False,
        receive_buffer: int | None = None,
        send_timeout: float = 1.0,
        proxy_protocol: str | None = None,
        trusted_proxies: Sequence[str] = ("127.0.0.0/8", "::1"),
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler is a {type(handler).__name__}, expected a function")
        if isinstance(handler, type) and not issubclass(handler, bytes | bytearray):
            raise TypeError(
                f"handler {handler.__qualname__} is a class, and datagrams have no sessions: "
                "expected a function of a message, or of a message and its Sender"
            )
        if workers is not None and (not isinstance(workers, int) or workers < 0):
            raise ValueError(f"workers is {workers!r}, expected 0 or more, or None")
        if max_amplification is not None and not max_amplification >= 0:
            raise ValueError(
                f"max_amplification is {max_amplification!r}, expected 0 or more, or None"
            )
        if max_datagram is not None and max_datagram < 1:
            raise ValueError(f"max_datagram is {max_datagram}, expected bytes, 1 or more")
        if not 0 <= send_timeout < float("inf"):
            raise ValueError(f"send_timeout is {send_timeout}, expected seconds, 0 or more")
        if proxy_protocol not in (None, "v2"):
            raise ValueError(
                f"proxy_protocol is {proxy_protocol!r}, expected 'v2' or None: version 1 is "
                "for streams only"
            )
        super().__init__()
        self._pid = os.getpid()
        self.handler = handler
        self.workers = default_workers() if workers is None else workers
        self.max_amplification = max_amplification
        self.send_timeout = send_timeout
        self._trusted = trusted if callable(trusted) else Trusted(trusted)
        self._proxies = None if proxy_protocol is None else Trusted(trusted_proxies)
        self._acts = type(self).service_actions is not DatagramServer.service_actions
        self._pass_sender = wants_connection(handler)
        self._counts: Counter[str] = Counter()
        self._counting = threading.RLock()  # a signal's handler may ask for `stats`
        self._counted: DatagramLoop | None = None
        self._seldom = Seldom(logger)
        self._made: dgramsocket.Made | None = None
        self.socket, self.address = self._open(address, reuse_port, broadcast, interface)
        try:
            self._tune(groups, interface, receive_buffer)
        except BaseException:
            self.server_close()
            raise
        self.max_datagram = max_datagram or dgramsocket.most_of(self.socket.family)
        self.server_address: Any = self.socket.getsockname()
        self._everywhere = isinstance(self.server_address, tuple) and (
            self.server_address[0] in ("0.0.0.0", "::")
        )

    def _open(
        self,
        address: AddressLike | socket.socket,
        reuse_port: bool,
        broadcast: bool,
        interface: str | int | None,
    ) -> tuple[socket.socket, Address]:
        if isinstance(address, socket.socket):
            dgramsocket.check(address)
            try:
                name = address.getsockname()
            except OSError:  # on Windows, where it has none
                name = ""
            if isinstance(name, tuple) and (name[1] or address.type != socket.SOCK_DGRAM):
                return address, Address("udp", name[0], name[1])
            if not name or isinstance(name, tuple):
                raise ValueError(f"{address!r} is not bound: nobody could send to it")
            path = os.fsdecode(name)
            return address, Address("unixgram", path=path)
        target = dgramsocket.parse_datagram(address)
        sock, self._made = dgramsocket.serving(
            target, self.allow_reuse_address, reuse_port, broadcast, interface
        )
        if target.path:
            return sock, target
        return sock, Address("udp", target.host or "localhost", sock.getsockname()[1])

    def _tune(
        self, groups: Iterable[str], interface: str | int | None, receive_buffer: int | None
    ) -> None:
        if isinstance(groups, str):
            raise TypeError(f"groups is {groups!r}, expected a list of addresses")
        wanted = list(groups)
        if self.address.host and dgramsocket.is_group(self.address.host):
            wanted.append(self.address.host)
        dgramsocket.join_all(self.socket, wanted, interface)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            got = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            if got < receive_buffer:
                logger.warning(
                    "receive_buffer is %d, and %d where the system allows no more "
                    "(net.core.rmem_max)", receive_buffer, got,
                )  # fmt: skip

    # ---------------------------------------------------------------- the socketserver face

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once it is closed."""
        return self.socket.fileno()

    def service_actions(self) -> None:
        """Called about once a second by `serve_forever`, if overridden."""

    def handle_error(self, message: bytes, client_address: Any) -> None:
        """Called when a handler has raised, with the exception being handled."""
        self._seldom.log(
            logging.ERROR,
            "handler failed for %s",
            format_peer(client_address),
            exc_info=True,
            kind=type(sys.exception()).__name__,
        )

    def handle_request(self) -> None:
        """Receive one datagram and serve it, in this thread.

        Raises:
            RuntimeError: the server is running already, or closed.
        """
        self._serve_here(once=True)

    def stop(self, drain: float = 30.0) -> None:
        """Stop serving, when what has come by now is answered.

        Returns when all is over; from a handler or a signal's handler it returns at once.
        Another call may shorten the drain.

        Args:
            drain: seconds that handlers get.
        """
        super().stop(drain)

    def server_close(self) -> None:
        """Close the socket, and remove the Unix path that it made; this ends the server."""
        loop = self._loop if self._pid == os.getpid() else None
        if loop is not None:
            loop.abandon()
        if self._made is not None and self._pid == os.getpid():
            dgramsocket.unlink_if_same(self._made)
            self._made = None
        self.socket.close()

    def _make_loop(self, deadlines: list[float], once: bool) -> DatagramLoop:
        return DatagramLoop(self, deadlines, once)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the server was made.

        messages_in, messages_out, bytes_in, bytes_out, handler_errors, replies_lost (that
        could not be sent, or were too much for an address that may be forged), too_long
        (datagrams above `max_datagram`), refused (without a PROXY header from a trusted
        proxy), dropped (by the system, for want of room; -1 where it does not tell),
        threads (that serve now), takeovers (of the lead).
        """
        with self._counting:
            loop = self._loop
            counts = Counter(self._counts)
            if loop is not None and loop is not self._counted:
                counts.update(loop.counts())
        names = ("messages_in", "messages_out", "bytes_in", "bytes_out", "handler_errors")
        more = ("replies_lost", "too_long", "refused", "takeovers")
        return {
            **{name: counts[name] for name in (*names, *more)},
            "dropped": self._dropped(),
            "threads": loop.threads if loop is not None else 0,
        }

    def _dropped(self) -> int:
        fd = self.socket.fileno()
        return -1 if fd < 0 else _dropped_datagrams(fd)

    # ---------------------------------------------------------------- for its loop

    def _finish_counting(self, loop: DatagramLoop) -> None:
        with self._counting:
            self._counts.update(loop.counts())
            self._counted = loop

    def _tell_error(self, message: bytes, address: Any) -> None:
        with self._counting:
            self._counts["handler_errors"] += 1
        try:
            self.handle_error(message, address)
        except Exception:
            self._seldom.log(logging.ERROR, "handle_error() failed", exc_info=True)

    def _tell_lost(self, what: str, length: int, address: Any, error: int | None) -> None:
        """Log that a datagram does not get where it was to go."""
        peer = _peer(address)
        if what == "request":
            told = f"{length} bytes" if length else f"more than {self.max_datagram} bytes"
            self._seldom.log(
                logging.WARNING,
                "a datagram of %s from %s is lost: pass max_datagram= for such",
                told,
                peer,
            )
        elif what == "reply refused":
            self._seldom.log(logging.WARNING, "%s", self._why_refused(length, address))
        elif what == "reply to nobody":
            self._seldom.log(
                logging.WARNING,
                "a reply is lost: the client's Unix socket has no name; it has to bind it",
            )
        elif error == -errno.EMSGSIZE:
            self._seldom.log(
                logging.ERROR,
                "a reply of %d bytes to %s is lost: a datagram may have %d",
                length,
                peer,
                self._largest(),
            )
        else:
            reason = os.strerror(-(error or 0))
            self._seldom.log(
                logging.INFO, "a reply to %s is lost: %s", peer, reason, kind=reason
            )

    def _is_proven(self, address: Any) -> bool:
        if is_local(address):
            return True
        if isinstance(self._trusted, Trusted):
            return address in self._trusted
        try:
            return bool(self._trusted(address))
        except Exception:
            self._seldom.log(logging.ERROR, "trusted() failed", exc_info=True)
            return False

    def _why_refused(self, length: int, address: Any) -> str:
        return (
            f"a reply of {length} bytes to {format_peer(address)} is refused: whoever forges "
            "that address would have it flooded "
            f"(max_amplification={self.max_amplification}); pass trusted= for addresses "
            "that are not forged"
        )

    def _largest(self) -> int:
        return int(_largest_datagram(self.socket))

    def _unwrap(self, datagram: bytes, address: Any) -> tuple[bytes, Any, ProxyHeader] | None:
        """Return (message, the client's address, what the proxy said), None to drop it."""
        if address is None or address not in (self._proxies or ()):
            self._seldom.log(
                logging.WARNING,
                "a datagram from %s is refused: it is no trusted proxy",
                _peer(address),
            )
            return None
        try:
            found = parse_proxy(datagram, "v2")
        except InvalidHeader as exc:
            self._seldom.log(
                logging.WARNING, "a datagram from %s is refused: %s", format_peer(address), exc
            )
            return None
        if found is None:
            self._seldom.log(
                logging.WARNING,
                "a datagram from %s is refused: its PROXY header is not whole",
                format_peer(address),
            )
            return None
        header, size = found
        if size == len(datagram):
            return None  # a health check, or a header whose datagram goes elsewhere
        client = address if header.source is None else header.source
        return datagram[size:], client, header


def _peer(address: Any) -> str:
    return "a socket without a name" if address is None else format_peer(address)
