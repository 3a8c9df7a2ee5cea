"""A second address that tells load balancers, over HTTP, that the server serves.

One thread does it all: it waits for requests on a few connections at a time, each under
one deadline, so that neither a slow client nor a broken one is in the way of the others.
What the bytes of a request mean is left to http.server.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from .address import (
    Address,
    AddressLike,
    Made,
    identity,
    listen,
    parse,
    unlink_if_same,
)
from .waker import Waker

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["HealthServer"]

logger = logging.getLogger(__name__)

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # whatever SIGPIPE does here
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_VISITS = 8  # at a time; the oldest makes room for the next
_PATIENCE = 5.0  # seconds for a request, its answer and the client's goodbye
_REQUEST_BYTES = 8192  # a health check needs about a hundred
_FAREWELL = 0.5  # seconds for those that are asking when the server is closed
_ACCEPT_PAUSE = 0.1  # seconds, when descriptors or memory ran out
_END_OF_REQUEST = re.compile(rb"\n\r?\n")

Stats = Callable[[], Mapping[str, object]]


class HealthServer:
    """Answers GET and HEAD with 200, and GET /stats with counters as JSON.

    Args:
        address: where to listen; or a socket that listens already, which becomes this
            server's own.
        stats: called for the counters, in this server's thread.

    Raises:
        OSError: the address cannot be had.
        ValueError: it is malformed, or not for HTTP.
    """

    def __init__(self, address: AddressLike | socket.socket, stats: Stats) -> None:
        self._path_identity: Made | None = None
        if isinstance(address, socket.socket):
            self._listener = address
            self._listener.setblocking(False)
            self.address = _address_of(self._listener)
        else:
            given = parse(address)
            if given.scheme == "tls":
                raise ValueError(f"address '{given}': health checks have no TLS; use tcp://")
            self._listener = listen(given)
            self.address = _address_of(self._listener)
            if given.path and not given.abstract:
                self._path_identity = identity(given.path)
                self._made_by = os.getpid()
        self._stats = stats
        self._visits: dict[_Visit, None] = {}  # the oldest first
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def start(self) -> Self:
        """Answer in a background thread, which ends with the program; return the server.

        Raises:
            RuntimeError: it was started before, or is closed.
        """
        if self._thread is not None or self._closing.is_set():
            raise RuntimeError("the health server was started before, or is closed")
        self._waker = Waker()
        self._thread = threading.Thread(target=self._run, name=repr(self), daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            self._waker.close()
            raise
        return self

    def close(self) -> None:
        """Stop answering: who connects from now on is refused, who asks already is not."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._thread is not None:
            self._waker.wake()
            self._thread.join()
            self._waker.close()
        if self._path_identity is not None and self._made_by == os.getpid():
            # While the listener is open: its inode's number cannot be another's.
            unlink_if_same(self._path_identity)
        self._listener.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._waker, _READ)
            selector.register(self._listener, _READ, self._accept)
            self._selector = selector
            while not self._closing.is_set():
                for key, events in selector.select(self._time_left()):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.data in self._visits:  # and not ended by one before it
                        self._go_on(key.data, events)
                while self._time_left() == 0:
                    self._end(next(iter(self._visits)))
            selector.unregister(self._waker)
            selector.unregister(self._listener)
            last = time.monotonic() + _FAREWELL
            while self._visits and (left := last - time.monotonic()) > 0:
                for key, events in selector.select(left):
                    self._go_on(key.data, events)
            for visit in list(self._visits):
                self._end(visit)

    def _time_left(self) -> float | None:
        """Seconds until the oldest visit has to end."""
        oldest = next(iter(self._visits), None)
        return None if oldest is None else max(0.0, oldest.ends_at - time.monotonic())

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another process was faster, or the client has gone
        except OSError as exc:
            logger.warning("cannot accept a health check for now: %s", exc)
            self._closing.wait(_ACCEPT_PAUSE)
            return
        if len(self._visits) >= _VISITS:
            self._end(next(iter(self._visits)))
        sock.setblocking(False)
        visit = _Visit(sock)
        self._visits[visit] = None
        self._selector.register(sock, _READ, visit)

    def _go_on(self, visit: _Visit, events: int) -> None:
        try:
            wanted = visit.go_on(self._stats)
        except BlockingIOError:
            return
        except OSError:
            wanted = 0  # the client has gone
        except Exception:
            logger.exception("a health check failed")  # and the next ones are answered
            wanted = 0
        if not wanted:
            self._end(visit)
        elif wanted != events:
            self._selector.modify(visit.sock, wanted, visit)

    def _end(self, visit: _Visit) -> None:
        del self._visits[visit]
        self._selector.unregister(visit.sock)
        visit.sock.close()


class _Visit:
    """One connection: a request comes, its answer goes, the client says goodbye."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ends_at = time.monotonic() + _PATIENCE
        self._request = bytearray()
        self._answer: bytes | None = None

    def go_on(self, stats: Stats) -> int:
        """Do what can be done; return the events to wait for, 0 at the end.

        Raises:
            OSError: the client has gone, or BlockingIOError: it has sent nothing yet.
        """
        if self._answer is None:
            data = self.sock.recv(_REQUEST_BYTES)
            self._request += data
            whole = _END_OF_REQUEST.search(self._request) is not None
            if not whole and len(self._request) < _REQUEST_BYTES:
                return _READ if data else 0
            self._answer = _Request(bytes(self._request), stats).answer(whole)
            if not self._answer:
                return 0
        if not self._answer:
            # Closed with bytes unread, the connection would be reset and the answer lost.
            return _READ if self.sock.recv(_REQUEST_BYTES) else 0
        with contextlib.suppress(BlockingIOError):
            self._answer = self._answer[self.sock.send(self._answer, _NO_SIGNAL) :]
        if self._answer:
            return _WRITE
        self.sock.shutdown(socket.SHUT_WR)
        return _READ


class _Request(BaseHTTPRequestHandler):
    """Reads one request from memory and answers it there."""

    def __init__(self, request: bytes, stats: Stats) -> None:
        # Not as the base does it, which would serve a socket to its end.
        self.rfile: Any = io.BytesIO(request)
        self.wfile: Any = io.BytesIO()
        self.command = ""
        self._stats = stats

    def answer(self, whole: bool) -> bytes:
        self.raw_requestline = self.rfile.readline()
        if not whole:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self.parse_request():
            self._dispatch()
        found: bytes = self.wfile.getvalue()
        return found

    def _dispatch(self) -> None:
        if self.command not in ("GET", "HEAD"):
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        elif self.path.partition("?")[0] != "/stats":
            self._reply(HTTPStatus.OK, "text/plain", b"ok\n")
        else:
            try:
                text = json.dumps(dict(self._stats()), default=str)
            except Exception:
                logger.exception("the counters for a health check cannot be had")
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            else:
                self._reply(HTTPStatus.OK, "application/json", f"{text}\n".encode())

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Answer with an error, without repeating anything that the client sent."""
        self.request_version = self.protocol_version  # whatever the request's was
        self._reply(code, "text/plain", f"{HTTPStatus(code).phrase}\n".encode())

    def _reply(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "pysock"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write nothing: a check every second would fill the log."""


def _address_of(listener: socket.socket) -> Address:
    name = listener.getsockname()
    if isinstance(name, tuple):
        return parse(name)
    return Address("unix", path=os.fsdecode(name))
