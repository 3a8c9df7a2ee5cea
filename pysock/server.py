"""Serve whole messages: accept, take turns, answer, end well.

Idle connections are parked in one poller; no thread waits on them.  The thread in
`serve_forever` finds a readable connection and serves it right there: it receives all
that has come, calls the handler for each message and sends the replies together.  A
reply that would block holds nobody: its rest stays with the connection, which is parked
for writing and not read from until the peer has taken it.

A `Session` class gets the whole connection instead, and a thread of its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from .address import AddressLike, format_peer, identity, listen, parse, unlink_if_same
from .connection import Connection, check_options
from .errors import ConnectionClosed, FramingError, IncompleteFrame
from .framing import Format, LengthField
from .session import Served, Session, hold, wants_connection

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["Server"]

logger = logging.getLogger(__name__)

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_IDLE, _BUSY, _BLOCKED = 0, 1, 2  # how a turn ended: see _answer() in answer.pxi
_FAIR_SHARE = 256  # messages that one connection may have answered in a turn
_FADING_TICK = 0.05  # how often a connection that is being closed is looked at
_FIRST_REQUEST = 1.0  # what a client that has sent nothing yet gets when the server stops
_LISTENER_IS_OVER = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}
_ACCEPT_PAUSE = 0.1  # after any other failure: mostly descriptors or memory ran out
_CUT = 1.0  # what a session's thread gets to notice that its connection was cut


class Server:
    """Serves messages on one address.

    Args:
        address: "tcp://host:port", "unix:///path", ("host", port) or a path; port 0 lets
            the system choose, see `server_address`.
        handler: called with each message; what it returns is sent: bytes (or another
            buffer) as one reply, an iterable of these as several, None as none.  With a
            second parameter that has no default it also gets the `Connection`.  Or a
            class derived from `Session`.
        framing: how messages become frames.
        max_connections: past that many connections further clients wait in the backlog
            until one ends; None: no limit.
        backlog: connections that the system keeps waiting.
        timeout: seconds for each call that a handler or session makes on its connection;
            None: no limit.
        spin, linger, keepalive: as for `Connection`.

    Raises:
        OSError: the address cannot be had.
        TypeError: *handler* cannot be called.
    """

    allow_reuse_address = True

    def __init__(
        self,
        address: AddressLike,
        handler: Callable[..., Any],
        *,
        framing: Format = LengthField(),  # noqa: B008 - immutable
        max_connections: int | None = 1024,
        backlog: int = 512,
        timeout: float | None = None,
        spin: float = 0.0,
        linger: float = 5.0,
        keepalive: tuple[int, int, int] | None = None,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler is a {type(handler).__name__}, expected a function")
        check_options(framing, timeout, spin, linger, keepalive)
        if max_connections is not None and max_connections < 1:
            raise ValueError(f"max_connections is {max_connections}, expected 1 or more")
        self.address = parse(address)
        if self.address.scheme == "tls":
            raise ValueError(f"address '{self.address}': this version has no TLS; use tcp://")
        self.handler = handler
        self.framing = framing
        self.max_connections = max_connections
        self.request_queue_size = backlog
        self._options: dict[str, Any] = {
            "framing": framing,
            "timeout": timeout,
            "spin": spin,
            "linger": linger,
            "keepalive": keepalive,
        }
        self._sessions = isinstance(handler, type) and issubclass(handler, Session)
        self._pass_connection = not self._sessions and wants_connection(handler)
        self._listener: socket.socket | None = listen(
            self.address, backlog, self.allow_reuse_address
        )
        self._path_identity = identity(self.address.path) if self._has_path() else None
        self.server_address: Any = self._listener.getsockname()
        if not self.address.path:
            self.address = parse((self.address.host or "localhost", self.server_address[1]))
        self._served: set[Served] = set()
        self._threads: set[threading.Thread] = set()
        self._unread: deque[Served] = deque()  # with messages that were read ahead
        self._fading: set[Served] = set()
        self._gone: deque[Served] = deque()  # closed by a session or a handler
        self._wakee, self._waker = socket.socketpair()
        self._wakee.setblocking(False)
        self._waker.setblocking(False)
        self._running = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._loop_thread: int | None = None
        self._thread: threading.Thread | None = None
        self._stop_at: float | None = None  # the end of the drain, once asked to stop
        self._accept_again: float | None = None
        self._accepted = self._errors = 0
        self._counting = threading.Lock()

    def _has_path(self) -> bool:
        return bool(self.address.path) and not self.address.abstract

    # ---------------------------------------------------------------- the socketserver face

    def fileno(self) -> int:
        """Return the listener's descriptor, -1 once it is closed."""
        return -1 if self._listener is None else self._listener.fileno()

    def service_actions(self) -> None:
        """Called about once a second by `serve_forever`, if overridden."""

    def handle_error(self, connection: Connection, client_address: Any) -> None:
        """Called when a handler or session has raised, with the exception being handled.

        The connection is closed afterwards; the server goes on.
        """
        logger.exception("handler failed for %s", format_peer(client_address))

    def serve_forever(self) -> None:
        """Serve until `stop` or `shutdown` is called.

        Raises:
            RuntimeError: the server is running already, or closed.
        """
        if self._listener is None:
            raise RuntimeError("the server is closed")
        if not self._running.acquire(blocking=False):
            raise RuntimeError("the server is running already")
        try:
            self._ended.clear()
            self._loop_thread = threading.get_ident()
            with selectors.DefaultSelector() as selector, self._woken_by_signals():
                self._selector = selector
                try:
                    self._loop()
                finally:
                    self._close_connections()
        finally:
            self._loop_thread = self._stop_at = None
            self._ended.set()
            self._running.release()

    def handle_request(self) -> None:
        """Accept one connection and serve it to its end, in this thread.

        Raises:
            RuntimeError: the server is closed.
        """
        if self._listener is None:
            raise RuntimeError("the server is closed")
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, _READ)
            while True:
                selector.select()
                try:
                    sock, client_address = self._listener.accept()
                    break
                except (BlockingIOError, ConnectionAbortedError):
                    continue  # another process was faster, or the client has gone
        connection = self._adopt(sock, client_address)
        if self._sessions:
            self._hold(connection)
            return
        with connection, selectors.DefaultSelector() as selector:
            selector.register(connection, _READ)
            while True:
                end = self._answer(connection)
                if end is None:
                    return
                selector.modify(connection, _WRITE if end == _BLOCKED else _READ)
                selector.select(0 if end == _BUSY else None)

    def start(self) -> Self:
        """Serve in a background thread, which ends with the program; return the server.

        Raises:
            RuntimeError: the server is running already, or closed.
        """
        if self._listener is None:
            raise RuntimeError("the server is closed")
        if self._running.locked() or self._thread is not None:
            raise RuntimeError("the server is running already")
        self._ended.clear()
        self._thread = threading.Thread(target=self._serve, name=f"{self!r}", daemon=True)
        self._thread.start()
        return self

    def _serve(self) -> None:
        try:
            self.serve_forever()
        except BaseException:
            # A handler's sys.exit(), say: clients must not wait for who serves no more.
            logger.critical("%r has ended", self, exc_info=True)
            self.server_close()

    def stop(self, drain: float = 30.0) -> None:
        """Stop serving: nothing new is accepted, what is under way is finished.

        Connections that have been answered are closed at once; one that has sent nothing
        yet is served for up to a second more, for its first request may be on its way.
        Returns when all are closed; from a handler it returns at once.

        Args:
            drain: seconds after which connections that are not done are cut; a handler
                that is running is waited for.
        """
        if self._ended.is_set():
            if self._thread is not None:
                self._thread.join()
                self._thread = None
            return
        at = time.monotonic() + drain
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        self._wake()
        me = threading.get_ident()
        if me == self._loop_thread or threading.current_thread() in self._threads:
            return
        self._ended.wait()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def shutdown(self) -> None:
        """As `stop()`."""
        self.stop()

    def server_close(self) -> None:
        """Close the listener, and remove the Unix path that it made."""
        if self._listener is not None:
            if self._path_identity is not None:
                # While the listener is open: its inode's number cannot be another's.
                unlink_if_same(self.address.path, self._path_identity)
            self._listener.close()
            self._listener = None
            self._wakee.close()
            self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop(drain=30.0 if kind is None else 0.0)
        self.server_close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    @property
    def stats(self) -> dict[str, int]:
        """Counters: connections accepted and open now, handlers that failed."""
        return {
            "accepted": self._accepted,
            "connections": len(self._served),
            "handler_errors": self._errors,
        }

    # ---------------------------------------------------------------- the loop

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """In the main thread, let a signal end a wait that it came just before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def _wake(self) -> None:
        # It may have been woken often enough, or be over.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def _loop(self) -> None:
        assert self._listener is not None
        selector = self._selector
        selector.register(self._wakee, _READ, self._woken)
        selector.register(self._listener, _READ, self._accept)
        self._accepting = True
        acts = type(self).service_actions is not Server.service_actions
        act_at = time.monotonic() if acts else None
        while self._stop_at is None or self._draining():
            for key, _ in selector.select(self._patience(act_at)):
                if isinstance(key.data, Served):
                    self._turn(key.data)
                else:
                    key.data()
            for _ in range(len(self._unread)):
                self._turn(self._unread.popleft())
            if self._fading:
                self._fade_all()
            if act_at is not None and time.monotonic() >= act_at:
                act_at = time.monotonic() + 1.0
                self.service_actions()
            self._watch_listener()

    def _patience(self, act_at: float | None) -> float | None:
        """How long the selector may wait: as long as possible, there is a waker."""
        if self._unread:
            return 0
        moments = [at for at in (act_at, self._stop_at, self._accept_again) if at is not None]
        if self._fading or self._stop_at is not None:
            moments.append(time.monotonic() + _FADING_TICK)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _woken(self) -> None:
        try:
            while self._wakee.recv(4096):
                pass
        except BlockingIOError:
            pass
        while self._gone:
            self._forget(self._gone.popleft())

    def _watch_listener(self) -> None:
        """Accept only while there is room, and resources."""
        now = time.monotonic() if self._accept_again is not None else 0.0
        if self._accept_again is not None and now >= self._accept_again:
            self._accept_again = None
        room = self.max_connections is None or len(self._served) < self.max_connections
        wanted = room and self._accept_again is None and self._stop_at is None
        if not room and self._accepting:
            # A server for one client at a time was meant to be one.
            level = logging.DEBUG if self.max_connections == 1 else logging.WARNING
            text = "%d connections are open (max_connections): others wait"
            logger.log(level, text, len(self._served))
        if wanted != self._accepting and self._listener is not None:
            self._accepting = wanted
            if wanted:
                self._selector.register(self._listener, _READ, self._accept)
            else:
                self._selector.unregister(self._listener)

    def _accept(self) -> None:
        assert self._listener is not None
        while self.max_connections is None or len(self._served) < self.max_connections:
            try:
                sock, client_address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # the client has gone already
            except OSError as exc:
                if exc.errno in _LISTENER_IS_OVER:
                    raise
                logger.warning("cannot accept for now: %s", exc)
                self._accept_again = time.monotonic() + _ACCEPT_PAUSE
                return
            try:
                connection = self._adopt(sock, client_address)
            except OSError:
                sock.close()  # reset before it was looked at
                continue
            self._accepted += 1
            self._served.add(connection)
            if self._sessions:
                self._start_session(connection)
            else:
                self._watch(connection, _READ)

    def _adopt(self, sock: socket.socket, client_address: Any) -> Served:
        sock.setblocking(False)  # nobody shares it: sendfile() can be used
        connection = Served(sock, **self._options)
        connection.client_address = client_address
        connection.number = sock.fileno()
        connection.on_close = self._notice
        return connection

    def _notice(self, connection: Served) -> None:
        """Hear from any thread that a connection was closed there."""
        self._gone.append(connection)
        self._wake()

    def _watch(self, connection: Served, events: int) -> None:
        if connection.watched == events:
            return
        key = self._selector.get_map().get(connection.number)
        if key is not None and (not events or key.data is not connection):
            # A connection that was closed elsewhere may have left its number behind.
            if key.data is connection or events:
                self._selector.unregister(connection.number)
            key = None
        try:
            if key is not None:
                self._selector.modify(connection.number, events, connection)
            elif events:
                self._selector.register(connection.number, events, connection)
        except OSError:
            if not connection.closed:
                raise
        connection.watched = events

    def _turn(self, connection: Served) -> None:
        """Serve a connection that is readable, or has messages that were read ahead."""
        if connection.closed:
            self._forget(connection)
        elif connection.ends_at is None:
            end = self._answer(connection)
            if end is None:
                self._fade(connection)
            elif connection.closed:
                self._forget(connection)
            else:
                if end == _BUSY:
                    self._unread.append(connection)
                self._watch(connection, _WRITE if end == _BLOCKED else _READ)
        else:
            self._fade(connection)

    def _answer(self, connection: Served) -> int | None:
        """Let the handler answer what has come; None when the connection is over."""
        try:
            return connection._answer(
                self.handler, connection if self._pass_connection else None, _FAIR_SHARE
            )
        except Exception as exc:
            if connection._in_handler:
                self._errors += 1
                self.handle_error(connection, connection.client_address)
            elif isinstance(exc, FramingError | IncompleteFrame):
                logger.warning("%s: %s", format_peer(connection.client_address), exc)
            elif isinstance(exc, ConnectionClosed):
                logger.debug("%s: %s", format_peer(connection.client_address), exc)
            else:
                logger.info("%s: %s", format_peer(connection.client_address), exc)
            return None

    # ---------------------------------------------------------------- ending connections

    def _fade(self, connection: Served) -> None:
        """Close a connection so that its last replies arrive, without waiting for it."""
        if connection.ends_at is None:
            connection.ends_at = time.monotonic() + connection.linger
            self._fading.add(connection)
        try:
            events = connection._fade()
        except (OSError, ConnectionClosed):
            events = 0
        if events and time.monotonic() < connection.ends_at:
            self._watch(connection, events)
        else:
            self._forget(connection)

    def _fade_all(self) -> None:
        for connection in list(self._fading):
            self._fade(connection)

    def _forget(self, connection: Served) -> None:
        self._watch(connection, 0)
        connection._close(0.0)
        self._served.discard(connection)
        self._fading.discard(connection)

    def _draining(self) -> bool:
        """Close what need not go on; return whether there is anything left to wait for."""
        assert self._stop_at is not None
        self._watch_listener()
        now = time.monotonic()
        if not hasattr(self, "_drain_began"):
            self._drain_began = now
        for connection in list(self._served):
            if self._sessions:
                connection._wind_up()
            elif connection.ends_at is None:
                self._turn(connection)  # what has come already is answered
                fresh = now < self._drain_began + _FIRST_REQUEST
                fresh = fresh and connection.stats.messages_in == 0
                if not (fresh or connection.closed or connection.pending or connection.unsent):
                    self._fade(connection)
        return bool(self._served) and now < self._stop_at

    def _close_connections(self) -> None:
        for connection in list(self._served):
            connection._close(0.0)
        cut_at = time.monotonic() + _CUT
        for thread in list(self._threads):
            thread.join(max(0.0, cut_at - time.monotonic()))
            if thread.is_alive():
                logger.warning("%s does not end: left behind", thread.name)
        self._served.clear()
        self._fading.clear()
        self._unread.clear()
        self._gone.clear()
        self.__dict__.pop("_drain_began", None)

    # ---------------------------------------------------------------- sessions

    def _start_session(self, connection: Served) -> None:
        thread = threading.Thread(
            target=self._run_session,
            args=(connection,),
            name=f"session {format_peer(connection.client_address)}",
            daemon=True,  # one that does not end must not hold up the program's end
        )
        # Registered before it starts: a thread that ran first would outlive the server.
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            logger.warning("cannot start a thread for a session")
            self._threads.discard(thread)
            self._forget(connection)

    def _hold(self, connection: Served) -> None:
        if not hold(self.handler, connection, connection.client_address, self):
            with self._counting:  # sessions end in threads of their own
                self._errors += 1

    def _run_session(self, connection: Served) -> None:
        try:
            self._hold(connection)
        finally:
            self._threads.discard(threading.current_thread())
