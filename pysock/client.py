"""A connection that connects itself, and again where that is wanted.

Connecting has a deadline of its own; what follows is `Connection`, unchanged.
"""

from __future__ import annotations

import os
import threading
import time

from .address import AddressLike, connect, parse
from .connection import Connection, check_options
from .errors import ConnectionClosed
from .framing import Format, LengthField

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Client"]

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Client(Connection):
    """A connection to a server.

    Args:
        address: "tcp://host:port", "unix:///path", "host:port", ("host", port) or a path:
            see `pysock.address.parse`.
        framing: how messages become frames; the server's must be the same.
        timeout: seconds for each call; None: wait for ever.
        connect_timeout: seconds for connecting, over all addresses that the name has,
            and with *reconnect* over all attempts; None: no limit.
        reconnect: keep trying to connect, with growing pauses, until *connect_timeout*;
            and a call that finds the connection broken by an earlier error first
            connects again.  The call that meets the error raises it: nothing is ever
            sent twice, and what the old connection held is dropped.
        sock: a connected socket to use instead of *address*.
        spin, linger, keepalive: as for `Connection`.

    Raises:
        OSError: nothing could be connected; the message tells every address and why.
        TimeoutError: *connect_timeout* has passed.
        ValueError: the address is malformed.
    """

    def __init__(
        self,
        address: AddressLike | None = None,
        framing: Format = LengthField(),  # noqa: B008 - immutable
        *,
        timeout: float | None = None,
        connect_timeout: float | None = 10.0,
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
        if self.address is not None and self.address.scheme == "tls":
            raise ValueError(f"address '{self.address}': this version has no TLS; use tcp://")
        check_options(framing, timeout, spin, linger, keepalive)
        if connect_timeout is not None and not connect_timeout > 0:
            raise ValueError(
                f"connect_timeout is {connect_timeout}, expected seconds above 0, or None"
            )
        self.connect_timeout = connect_timeout
        self._connecting = threading.Lock()
        self._over = threading.Event()
        self._again = reconnect
        own = self._connect(None) if sock is None else sock
        try:
            super().__init__(
                own,
                framing,
                timeout=timeout,
                spin=spin,
                linger=linger,
                keepalive=keepalive,
            )
        except BaseException:
            if sock is None:
                own.close()
            raise
        if reconnect:
            self._set_renewable()

    def _connect(self, left: float | None) -> Any:
        """Return a connected socket within *left* seconds and `connect_timeout`."""
        assert self.address is not None
        limits = [limit for limit in (left, self.connect_timeout) if limit is not None]
        limit = min(limits, default=None)
        if not self._again:
            return connect(self.address, limit)
        deadline = None if limit is None else time.monotonic() + limit
        pause = _FIRST_PAUSE
        while True:
            remaining = None if deadline is None else deadline - time.monotonic()
            try:
                return connect(self.address, remaining)
            except TimeoutError:
                raise
            except OSError:
                # Many clients of a server that comes back must not come all at once.
                nap = pause * (0.5 + os.urandom(1)[0] / 512)
                if deadline is not None and time.monotonic() + nap >= deadline:
                    raise
                if self._over.wait(nap):
                    raise ConnectionClosed("the connection is closed") from None
                pause = min(2 * pause, _LONGEST_PAUSE)

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
                sock = self._connect(left)
                try:
                    self._renew(sock)
                except BaseException:
                    sock.close()
                    raise
                self._tune()
