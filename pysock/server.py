"""Serve whole messages on one address, or several: what a user says, asks and stops.

How connections are served is in loop.py.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from .address import AddressLike, format_peer, is_local
from .connection import Connection, check_options
from .framing import Format, LengthField, _Tls
from .handshake import Handshakes
from .limits import LIMITS, Limits, Seldom, default_workers, raise_descriptor_limit
from .listener import open_listeners
from .loop import Loop
from .running import Runner
from .session import (
    ServerConnection,
    Session,
    check_session,
    counted,
    wants_connection,
)

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    import ssl
    from typing import Any

__all__ = ["Server"]

logger = logging.getLogger(__name__)


class Server(Runner):
    """Serves messages on one address, or several.

    Args:
        address: "tcp://host:port", "tls://host:port", "unix:///path", ("host", port) or a
            path; port 0 lets the system choose, see `server_address`.  Or a listening
            socket, "fd://3" for one that was inherited, or a list of all these.
        handler: called with each message; what it returns is sent: bytes (or another
            buffer) as one reply, an iterable of these as several, None as none.  With a
            second parameter that has no default it also gets the `Connection`.  Or a
            class derived from `Session`.
        framing: how messages become frames.
        workers: threads at most that handlers may block; None: 16 to 32, by the number
            of processors; 0: handlers run in the thread of `serve_forever`, one at a time.
        max_connections: connections at a time; None: no limit.
        excess: what becomes of further clients: they "wait" in the backlog until one ends,
            or are closed at once: "close".
        backlog: connections that the system keeps waiting.
        tls: an `ssl.SSLContext`, as `pysock.tls.server_context` makes it: then every
            connection is encrypted.
        authkey: bytes, at least 32, that clients have to prove they know, and the server
            proves to them; or a mapping from users to keys.  A handler finds the user in
            its connection's `user`.  See `pysock.auth.load_key`, `load_keys`.
        insecure: accept *authkey* without TLS from other machines too, where whoever is
            on the way may take a connection over.
        allow_uids: the users of this machine that are let in, by number; for Unix sockets,
            whose path everybody may then connect to, and only they are served.
        timeout: seconds for each call that a handler or session makes on its connection;
            None: no limit.
        idle_timeout: seconds between two messages of a client, then it is closed.
        handshake_timeout: seconds for all that comes before the first message.
        send_timeout: seconds without a byte taken by a client that is sent to.
        minimum_rate: (grace, rate): a message that takes more than *grace* seconds must
            come with *rate* bytes a second.
        max_memory: bytes for all messages above 64 KiB that are being received.  For each
            of these limits None is no limit.
        proxy_protocol: "v1", "v2" or "any": each connection begins with the PROXY header
            of a load balancer, which tells the client's address.
        trusted_proxies: networks that the load balancer connects from.
        health: an address that answers HTTP requests with 200 while the server serves,
            and with counters at "/stats".
        spin, linger, keepalive: as for `Connection`.

    Raises:
        OSError: an address cannot be had.
        TypeError: *handler* cannot be called.
        ValueError: an option is malformed, or options contradict each other.
    """

    allow_reuse_address = True

    def __init__(
        self,
        address: AddressLike | socket.socket | Sequence[Any],
        handler: Callable[..., Any],
        *,
        framing: Format = LengthField(),  # noqa: B008 - immutable
        workers: int | None = None,
        max_connections: int | None = LIMITS.max_connections,
        excess: str = LIMITS.excess,
        backlog: int = 512,
        tls: ssl.SSLContext | None = None,
        authkey: bytes | Mapping[str, bytes | Sequence[bytes]] | None = None,
        insecure: bool = False,
        allow_uids: Collection[int] | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = LIMITS.idle_timeout,
        handshake_timeout: float | None = LIMITS.handshake_timeout,
        send_timeout: float | None = LIMITS.send_timeout,
        minimum_rate: tuple[float, float] | None = LIMITS.minimum_rate,
        max_memory: int | None = LIMITS.max_memory,
        proxy_protocol: str | None = None,
        trusted_proxies: Sequence[str] = ("127.0.0.0/8", "::1"),
        health: AddressLike | socket.socket | None = None,
        spin: float = 0.0,
        linger: float = 5.0,
        keepalive: tuple[int, int, int] | None = (60, 15, 4),
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler is a {type(handler).__name__}, expected a function")
        check_options(framing, timeout, spin, linger, keepalive)
        if workers is not None and (not isinstance(workers, int) or workers < 0):
            raise ValueError(f"workers is {workers!r}, expected 0 or more, or None")
        self.limits = Limits(
            max_connections,
            excess,
            idle_timeout,
            handshake_timeout,
            send_timeout,
            minimum_rate,
            max_memory,
        )
        self._tls = tls
        binding = _check_secrets(tls, authkey)
        self._handshakes = Handshakes(
            proxy_protocol,
            trusted_proxies,
            handshake_timeout,
            tls is not None,
            authkey,
            binding,
        )
        self.handler = handler
        self.framing = framing
        self.request_queue_size = backlog
        self._options: dict[str, Any] = {
            "framing": framing,
            "timeout": timeout,
            "spin": spin,
            "linger": linger,
            "keepalive": keepalive,
        }
        self._sessions = isinstance(handler, type) and issubclass(handler, Session)
        self._acts = type(self).service_actions is not Server.service_actions
        if self._sessions:
            check_session(handler)
        self._pass_connection = not self._sessions and wants_connection(handler)
        self.workers = default_workers() if workers is None else workers
        self.max_connections = self._room(max_connections)
        self._health_at = health
        self._health: Any = None
        self._listeners = open_listeners(
            address, backlog, self.allow_reuse_address, tls is not None
        )
        self._allow_uids = None if allow_uids is None else frozenset(allow_uids)
        try:
            self._check_reach(authkey is not None and tls is None and not insecure)
        except ValueError:
            self.server_close()
            raise
        self._open_health()
        self.addresses = [listener.address for listener in self._listeners]
        self.address = self.addresses[0]
        self.server_address: Any = self._listeners[0].sockname
        Runner.__init__(self)
        self._counts: Counter[str] = Counter()
        self._counting = threading.RLock()  # a signal's handler may ask for `stats`
        self._seldom = Seldom(logger)

    def _check_reach(self, only_here: bool) -> None:
        """Refuse addresses that strangers reach where they must not."""
        for listener in self._listeners:
            unix = bool(listener.address.path)
            if self._handshakes.needed and listener.keeps_records:
                raise ValueError(
                    f"'{listener.address}' keeps records (SOCK_SEQPACKET): tls=, authkey= and "
                    "proxy_protocol= need a stream"
                )
            if self._allow_uids is not None and not unix:
                raise ValueError(
                    f"allow_uids is for Unix sockets, which '{listener.address}' is not"
                )
            if self._allow_uids is not None:
                listener.let_others_connect()
            if only_here and not is_local(listener.sockname):
                raise ValueError(
                    f"authkey on '{listener.address}', which other machines reach, without "
                    "TLS: whoever is on the way may take a connection over; pass tls=, or "
                    "insecure=True"
                )

    def _room(self, wanted: int | None) -> int | None:
        # What waits in a session has a descriptor to be woken by.
        room = raise_descriptor_limit(wanted, each=2 if self._sessions else 1)
        if room != wanted:
            logger.warning(
                "max_connections is %s, and %s where this process may have no more "
                "descriptors (RLIMIT_NOFILE)", wanted, room,
            )  # fmt: skip
        return room

    def _open_health(self) -> None:
        """Listen for health checks, if that was asked for and is not so already."""
        if self._health_at is None or self._health is not None:
            return
        from .health import HealthServer  # it takes as long to import as all the rest

        try:
            self._health = HealthServer(self._health_at, lambda: self.stats)
        except BaseException:
            self.server_close()
            raise

    def _close_health(self) -> None:
        if self._health is not None:
            self._health.close()
            self._health = None
            if isinstance(self._health_at, socket.socket):
                self._health_at = None  # it was ours, and is closed

    # ---------------------------------------------------------------- the socketserver face

    def fileno(self) -> int:
        """Return the first listener's descriptor, -1 once it is closed."""
        return self._listeners[0].fileno() if self._listeners else -1

    def service_actions(self) -> None:
        """Called about once a second by `serve_forever`, if overridden."""

    def handle_error(self, connection: Connection, client_address: Any) -> None:
        """Called when a handler or session has raised, with the exception being handled.

        The connection is closed afterwards; the server goes on.
        """
        self._seldom.log(
            logging.ERROR,
            "handler failed for %s",
            format_peer(client_address),
            exc_info=True,
            kind=type(sys.exception()).__name__,
        )

    def _tell_error(self, connection: ServerConnection) -> None:
        try:
            self.handle_error(connection, connection.client_address)
        except Exception:
            self._seldom.log(logging.ERROR, "handle_error() failed", exc_info=True)

    def handle_request(self) -> None:
        """Accept one connection and serve it to its end, in this thread.

        Raises:
            RuntimeError: the server is running already, or closed.
        """
        self._serve_here(once=True)

    def stop(self, drain: float = 30.0) -> None:
        """Stop serving: nothing new is accepted, what is under way is finished.

        Connections that have been answered are closed at once; one that has sent nothing
        yet is served for up to a second more, for its first request may be on its way.
        Returns when all are closed; from a handler, a session or a signal's handler it
        returns at once.  Another call may shorten the drain.

        Args:
            drain: seconds after which connections that are not done are cut.
        """
        super().stop(drain)

    def _make_loop(self, deadlines: list[float], once: bool) -> Loop:
        return Loop(self, deadlines, once)

    def _adopt(self, sock: socket.socket, client_address: Any) -> ServerConnection:
        sock.setblocking(False)  # nobody shares it: sendfile() can be used
        crypt = None if self._tls is None else _Tls(sock, self._tls, True)
        connection = ServerConnection(sock, **self._options, _tls=crypt)
        connection.client_address = client_address
        return connection

    def server_close(self) -> None:
        """Close the listeners, and remove the Unix paths that they made."""
        while self._listeners:
            self._listeners.pop().close()
        self._close_health()

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lstrip('_')} {', '.join(map(str, self.addresses))}>"

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the server was made.

        accepted, refused (by `max_connections` or trust), handshake_failures,
        connections (open now), handler_errors, overdue (closed by a limit in time),
        messages_in, messages_out, bytes_in, bytes_out, threads (that serve now),
        takeovers (of the lead).
        """
        with self._counting:
            loop = self._loop
            counts = Counter(self._counts)
            if loop is not None:
                counts["takeovers"] += loop.takeovers
                for connection in loop.served.copy():
                    counts.update(counted(connection))
        names = (
            "accepted",
            "refused",
            "handshake_failures",
            "handler_errors",
            "overdue",
            "takeovers",
        )
        traffic = ("messages_in", "messages_out", "bytes_in", "bytes_out")
        return {
            **{name: counts[name] for name in names},
            "connections": len(loop.served) if loop is not None else 0,
            "threads": loop.threads if loop is not None else 0,
            **{name: counts[name] for name in traffic},
        }


def _check_secrets(tls: ssl.SSLContext | None, authkey: Any) -> bytes:
    """Refuse what is no context or key; return the SHA-256 of the certificate, or b"".

    Raises:
        TypeError, ValueError: what is wrong with them.
    """
    if tls is not None and not hasattr(tls, "wrap_bio"):
        raise TypeError(
            f"tls is a {type(tls).__name__}, expected an ssl.SSLContext, as "
            "pysock.tls.server_context(certificate, key) makes it"
        )
    if authkey is not None:
        from .auth import check_authkey

        check_authkey(authkey, mapping=True)
    if tls is None:
        return b""
    from .tls import own_certificate, pin_of

    # Also for the sake of an error now, and not at the first client.
    certificate = own_certificate(tls, needed=authkey is not None)
    return bytes.fromhex(pin_of(certificate)) if certificate else b""
