"""A connection that connects itself, and again where that is wanted.

Connecting has a deadline of its own; what follows is `Connection`, unchanged.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from .address import Address, AddressLike, connect, format_peer, is_local, parse
from .connection import Connection, check_limit, check_options, keeps_records, send_at_once
from .errors import ConnectionClosed
from .framing import Format, LengthField, _Tls

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    import socket
    import ssl
    from typing import Any

__all__ = ["Client"]

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Client(Connection):
    """A connection to a server.

    Args:
        address: "tcp://host:port", "tls://host:port", "unix:///path", "host:port",
            ("host", port) or a path: see `pysock.address.parse`.
        framing: how messages become frames; the server's must be the same.
        timeout: seconds for each call; None: wait for ever.
        connect_timeout: seconds for connecting, over all addresses that the name has,
            for what comes before the first message, and with *reconnect* over all
            attempts; None: no limit.
        tls: how to do TLS: an `ssl.SSLContext`, as `pysock.tls.client_context` makes it,
            or True for one that trusts the system's CAs, which "tls://" means as well.
        server_hostname: the name that the server's certificate must have, if not the host
            of *address*.
        authkey: bytes, at least 32, that the server has too: both ends prove that they
            know it before anything else is sent.  See `pysock.auth.load_key`.
        user: whose key it is, where the server knows several.
        insecure: prove the key without TLS to another machine too, where whoever is on
            the way may take the connection over.
        reconnect: keep trying to connect, with growing pauses, until *connect_timeout*;
            and a call that finds the connection broken by an earlier error first
            connects again.  The call that meets the error raises it: nothing is ever
            sent twice, and what the old connection held is dropped.
        sock: a connected socket to use instead of *address*.
        spin, linger, keepalive: as for `Connection`.

    Raises:
        OSError: nothing could be connected; the message tells every address and why.
            `ssl.SSLError` is one: the server's certificate is not trusted, say.
        AuthenticationError: one end does not know the key of the other.
        TimeoutError: *connect_timeout* has passed.
        ValueError: the address is malformed, or options contradict each other.
    """

    def __init__(
        self,
        address: AddressLike | None = None,
        framing: Format = LengthField(),  # noqa: B008 - immutable
        *,
        timeout: float | None = None,
        connect_timeout: float | None = 10.0,
        tls: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        authkey: bytes | None = None,
        user: str = "",
        insecure: bool = False,
        reconnect: bool = False,
        sock: Any = None,
        spin: float = 0.0,
        linger: float = 5.0,
        keepalive: tuple[int, int, int] | None = None,
    ) -> None:
        if (address is None) == (sock is None):
            raise TypeError("a Client takes either an address or sock=")
        if reconnect and address is None:
            raise ValueError("reconnect=True needs an address, not sock=")
        self.address = None if address is None else parse(address)
        check_options(framing, timeout, spin, linger, keepalive)
        check_limit("connect_timeout", connect_timeout)
        self.connect_timeout = connect_timeout
        self._context = _client_context(self.address, tls, server_hostname)
        self._server_hostname = server_hostname
        if authkey is not None:
            from .auth import Prover

            Prover(authkey, user)  # refuses what can be no key
        elif user:
            raise ValueError(f"user {user!r} has no authkey= to prove")
        self._authkey, self._user, self._insecure = authkey, user, insecure
        self._connecting = threading.Lock()
        self._over = threading.Event()
        self._again = reconnect
        if sock is None:
            own, crypt = self._connect(None)
        else:
            own, crypt = sock, self._greet(sock, self._deadline(None))
        try:
            super().__init__(
                own,
                framing,
                timeout=timeout,
                spin=spin,
                linger=linger,
                keepalive=keepalive,
                _tls=crypt,
            )
        except BaseException:
            if sock is None:
                own.close()
            raise
        if reconnect:
            self._set_renewable()

    def _deadline(self, left: float | None) -> float | None:
        """Return when *left* seconds, or `connect_timeout`, will be over."""
        limits = [limit for limit in (left, self.connect_timeout) if limit is not None]
        return time.monotonic() + min(limits) if limits else None

    def _connect(self, left: float | None) -> tuple[socket.socket, Any]:
        """Return a connected socket within *left* seconds, and the TLS over it or None."""
        assert self.address is not None
        deadline = self._deadline(left)
        pause = _FIRST_PAUSE
        while True:
            remaining = None if deadline is None else deadline - time.monotonic()
            try:
                sock = connect(self.address, remaining)
                try:
                    return sock, self._greet(sock, deadline)
                except BaseException:
                    sock.close()
                    raise
            except TimeoutError:
                raise
            except OSError as exc:
                if not self._again or _is_final(exc):
                    raise
                # Many clients of a server that comes back must not come all at once.
                nap = pause * (0.5 + os.urandom(1)[0] / 512)
                if deadline is not None and time.monotonic() + nap >= deadline:
                    raise
                if self._over.wait(nap):
                    raise ConnectionClosed("the connection is closed") from None
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _greet(self, sock: socket.socket, deadline: float | None) -> Any:
        """Do what comes before the first message; return the TLS over *sock*, or None."""
        if self._context is None and self._authkey is None:
            return None
        from .auth import Prover
        from .greeting import binding_of, conduct, prove, secure, wire_of

        plain = not hasattr(sock, "getpeercert")
        if keeps_records(sock):
            raise ValueError(
                "sock= keeps records (SOCK_SEQPACKET): tls= and authkey= need a stream"
            )
        if not plain and self._context is not None:
            raise ValueError("sock= has TLS already, which tls= would do once more")
        if self._authkey is not None and self._context is None and plain:
            peer = sock.getpeername()
            if not is_local(peer) and not self._insecure:
                raise ValueError(
                    f"{format_peer(peer)}: a key is not proved to another machine without "
                    "TLS, where others may take the connection over: use tls://, or "
                    "insecure=True"
                )
        sock.setblocking(False)
        send_at_once(sock)
        crypt = None if plain else _Tls(sock)
        try:
            if self._context is not None:
                host = self.address.host if self.address is not None else ""
                name = self._server_hostname or host or None
                crypt = _Tls(sock, self._context, False, name)
                conduct(secure(crypt), sock, deadline, self._over)
            if self._authkey is not None:
                side = Prover(self._authkey, self._user, binding_of(crypt))
                steps = prove(wire_of(sock, crypt), side, side.begin())
                conduct(steps, sock, deadline, self._over)
        except TimeoutError:
            where = self.address or format_peer(sock.getpeername())
            raise TimeoutError(
                f"cannot connect to {where}: it was reached, but what comes before the first "
                "message took too long"
            ) from None
        return crypt

    def close(self) -> None:
        """As `Connection.close`; a call that waits to connect again ends too."""
        self._over.set()
        super().close()

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        super().__exit__(kind)

    def _reconnect(self, left: float | None) -> None:
        """Connect again, once for all threads that found the connection broken."""
        with self._connecting:
            if self._is_lost():
                sock, crypt = self._connect(left)
                try:
                    self._renew(sock, crypt)
                except BaseException:
                    sock.close()
                    raise
                self._tune()


def _client_context(
    address: Address | None, tls: ssl.SSLContext | bool | None, server_hostname: str | None
) -> ssl.SSLContext | None:
    """Return the context to do TLS with, None for none.

    Raises:
        ValueError: the address, the context and the name do not go together.
    """
    wanted = address is not None and address.scheme == "tls"
    if tls is None:
        tls = wanted
    if tls is False:
        if wanted:
            raise ValueError(f"address '{address}' means TLS, which tls=False excludes")
        if server_hostname is not None:
            raise ValueError("server_hostname= is of no use without TLS: pass tls=True too")
        return None
    from .tls import client_context

    context = client_context() if tls is True else tls
    if not hasattr(context, "wrap_bio"):
        raise TypeError(
            f"tls is a {type(context).__name__}, expected an ssl.SSLContext or True"
        )
    named = server_hostname or (address is not None and address.host)
    if context.check_hostname and not named:
        raise ValueError(
            "the name in the server's certificate is to be checked: pass server_hostname="
        )
    return context


def _is_final(exc: OSError) -> bool:
    """Whether there is no sense in trying again: the server is not whom we trust, say."""
    ssl = sys.modules.get("ssl")
    return (
        ssl is not None
        and isinstance(exc, ssl.SSLError)
        and not isinstance(exc, ssl.SSLEOFError)
    )
