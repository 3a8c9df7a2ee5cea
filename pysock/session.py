"""What stands between a server and its users: connections, sessions, handlers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from .address import format_peer
from .connection import Connection
from .errors import AuthenticationError, ConnectionClosed, FramingError, IncompleteFrame
from .framing import FrameStream

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

    from .framing import Format
    from .proxy import ProxyHeader

__all__ = [
    "ServerConnection",
    "Session",
    "check_session",
    "counted",
    "explain_failure",
    "hold",
    "wants_connection",
]

logger = logging.getLogger(__name__)


class ServerConnection(Connection):
    """A connection as its server knows it: a handler's second parameter.

    `client_address` is the client's address, also where a proxy stands in between;
    `proxy` is the header with which that proxy said so; `user` is whose key the client
    has proved to know, where the server has `authkey=`.
    """

    client_address: Any = None
    proxy: ProxyHeader | None = None
    user: str | None = None
    _crypt: Any = None  # its TLS, as the handshake needs it
    _loop: Any = None  # the one that serves it
    _ends_at: float | None = None  # a fading connection's last moment

    def __init__(
        self,
        sock: Any,
        framing: Format,
        *,
        timeout: float | None,
        spin: float,
        linger: float,
        keepalive: tuple[int, int, int] | None,
        _tls: Any,
    ) -> None:
        # Not Connection's, which would look at the server's options once more.
        FrameStream.__init__(self, sock, framing, timeout=timeout, spin=spin, _tls=_tls)
        self.linger = linger
        self.keepalive = keepalive
        self._crypt = _tls
        self._tune()

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping: what takes long had better come to an end."""
        return self._loop is not None and self._loop.stopping

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._loop is None:
            super().close()
        elif not self.closed:
            self._loop.let_go(self)
            super().close()
            self._loop.was_closed(self)

    def detach(self, *, leftover: bool = False) -> Any:
        detached = super().detach(leftover=True) if leftover else super().detach()
        if self._loop is not None:
            self._loop.let_go(self)
            self._loop.was_closed(self)
        return detached


class Session:
    """A conversation with one client, in a thread of its own.

    Override `handle`; `self.connection` is the client's `Connection`, closed at the end.
    When the server stops, a receive that waits between messages raises ConnectionClosed,
    so that `for message in self.connection` comes to its end.
    """

    def __init__(self, connection: ServerConnection, client_address: Any, server: Any) -> None:
        self.connection = connection
        self.client_address = client_address
        self.server = server

    def setup(self) -> None:
        """Called before `handle`."""

    def handle(self) -> None:
        """Hold the conversation."""
        raise NotImplementedError(f"{type(self).__name__} must define handle()")

    def finish(self) -> None:
        """Called after `handle`, also when that raised; not when `setup` did."""


def hold(make: Callable[..., Session], connection: ServerConnection, server: Any) -> bool:
    """Run a session to its end and close its connection; return whether it went well.

    The peer's faults are logged; what else the session raises goes to the server's
    `handle_error`.
    """
    client_address = connection.client_address
    try:
        session = make(connection, client_address, server)
        session.setup()
        try:
            session.handle()
        finally:
            session.finish()
    except (ConnectionClosed, FramingError, AuthenticationError) as exc:
        _log_end(server, client_address, exc)
    except Exception as exc:
        if isinstance(exc, OSError) and connection._is_lost():
            _log_end(server, client_address, exc)
            return True
        server._tell_error(connection)
        return False
    finally:
        connection.close()
    return True


def explain_failure(server: Any, connection: ServerConnection, exc: BaseException) -> None:
    """Log what ended a connection, or let the server tell of its handler's error."""
    if connection._in_handler:
        with server._counting:
            server._counts["handler_errors"] += 1
        server._tell_error(connection)
    else:
        _log_end(server, connection.client_address, exc)


def _log_end(server: Any, client_address: Any, exc: BaseException) -> None:
    level = _level(exc)
    if logger.isEnabledFor(level):  # mostly it is the usual end, and nobody listens
        peer = format_peer(client_address)
        server._seldom.log(level, "%s: %s", peer, exc, kind=type(exc).__name__)


def _level(exc: BaseException) -> int:
    """How much the operator wants to hear of what ended a connection."""
    if isinstance(exc, IncompleteFrame) and exc.received == 0:
        return logging.INFO  # many clients just close their TLS connections
    if isinstance(exc, FramingError | IncompleteFrame | AuthenticationError):
        return logging.WARNING
    if isinstance(exc, ConnectionClosed):
        return logging.DEBUG
    ssl = sys.modules.get("ssl")
    return logging.WARNING if ssl and isinstance(exc, ssl.SSLError) else logging.INFO


def counted(connection: ServerConnection) -> dict[str, int]:
    """Return what a connection adds to its server's counters."""
    stats = connection.stats
    return {
        "messages_in": stats.messages_in,
        "messages_out": stats.messages_out,
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
    }


def check_session(make: Any) -> None:
    """Refuse a session that no thread could run.

    Raises:
        TypeError: a method of it is async.
    """
    for name in ("setup", "handle", "finish"):
        _check_plain(getattr(make, name), f"{make.__qualname__}.{name}()")


def _check_plain(function: object, name: str) -> None:
    import inspect

    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} is async: expected a plain function, it may block")


def wants_connection(handler: Callable[..., Any]) -> bool:
    """Whether *handler* has a second parameter without a default.

    Raises:
        TypeError: it cannot be called with a message, or what comes out is no reply.
    """
    import inspect

    name = getattr(handler, "__qualname__", repr(handler))
    _check_plain(handler, f"handler {name}")
    _check_plain(type(handler).__call__, f"handler {name}")
    if isinstance(handler, type) and not issubclass(handler, bytes | bytearray):
        raise TypeError(f"handler {name} is a class: derive it from pysock.Session")
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [each for each in positional if each.default is each.empty]
    several = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    named = [
        each.name
        for each in parameters
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    ]
    if len(required) > 2 or named or not (positional or several):
        raise TypeError(
            f"handler {name}{inspect.signature(handler)} cannot be called with a message: "
            "expected handler(message) or handler(message, connection)"
        )
    return len(required) == 2
