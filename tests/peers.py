"""Both ends of a stream for tests of connections: transports, plain peers, helping threads.

A test module takes a fixture from here by assigning it, as in `ends = peers.ends`.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apart import apart
from conftest import TIME_FACTOR, ipv6, pipes, unix
from pysock import Connection
from pysock.address import connect
from pysock.framing import Format, LengthField
from tls_ends import TlsEnd, tls_ends

SHORT = 0.02 * TIME_FACTOR  # a timeout that is meant to pass
PROMPT = 2 * TIME_FACTOR  # "at once", on a busy machine
LONG = 20 * TIME_FACTOR  # nothing takes this long unless it hangs

SOCKETS = ["tcp4", pytest.param("tcp6", marks=ipv6), pytest.param("unix", marks=unix)]
PAIRED = ["socketpair"]
PIPES = [pytest.param("pipes", marks=pipes)]
ENCRYPTED = ["tls", "sslsocket"]
TRANSPORTS = [*SOCKETS, *PAIRED, *ENCRYPTED, *PIPES, "foreign"]


class Foreign:
    """A stream that has a socket's methods, and nothing else of one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv_into(self, buffer: Any) -> int:
        return self._sock.recv_into(buffer)

    def send(self, data: Any) -> int:
        return self._sock.send(data)

    def settimeout(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)

    def close(self) -> None:
        self._sock.close()


class SocketEnd:
    """One end, to be made a Connection or used as plain bytes."""

    def __init__(self, sock: socket.socket, foreign: bool = False) -> None:
        self.sock = sock
        self._foreign = foreign
        self._conn: Connection | None = None

    def connection(self, framing: Format = LengthField(), **options: Any) -> Connection:  # noqa: B008
        self.sock.setblocking(True)
        sock = Foreign(self.sock) if self._foreign else self.sock
        self._conn = Connection(sock, framing, **options)
        return self._conn

    def forget(self) -> None:
        """Leave the connection and its socket to the garbage collector."""
        self._conn = None
        del self.sock

    def write(self, data: Any) -> None:
        self.sock.settimeout(LONG)
        self.sock.sendall(data)

    def read(self, n: int) -> bytes:
        """Exactly *n* bytes, fewer at the end of the stream."""
        self.sock.settimeout(LONG)
        data = bytearray()
        while len(data) < n and (part := self.sock.recv(min(n - len(data), 1 << 18))):
            data += part
        return bytes(data)

    def read_all(self) -> bytes:
        return self.read(sys.maxsize)

    def sip(self, n: int) -> bytes:
        """What there is now, at most *n* bytes."""
        with contextlib.suppress(BlockingIOError):
            self.sock.settimeout(0)
            return self.sock.recv(n)
        return b""

    def finish(self) -> None:
        """Say that no more bytes will come from here."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._conn is not None:
            self._conn.linger = 0.0
            self._conn.close()
        if hasattr(self, "sock"):
            self.sock.close()


class PipeEnd:
    """The same over a pipe each way."""

    def __init__(self, reader: int, writer: int) -> None:
        self._fds = [reader, writer]
        self.descriptors = (reader, writer)
        self._conn: Connection | None = None

    def connection(self, framing: Format = LengthField(), **options: Any) -> Connection:  # noqa: B008
        self._conn = Connection.from_fds(*self._fds, framing, **options)
        return self._conn

    def forget(self) -> None:
        self._conn, self._fds = None, []

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while view:
            if not select.select([], self._fds[1:], [], LONG)[1]:
                raise TimeoutError
            view = view[os.write(self._fds[1], view[: select.PIPE_BUF]) :]

    def read(self, n: int) -> bytes:
        data = bytearray()
        while len(data) < n:
            if not select.select(self._fds[:1], [], [], LONG)[0]:
                raise TimeoutError
            part = os.read(self._fds[0], min(n - len(data), 1 << 18))
            if not part:
                break
            data += part
        return bytes(data)

    def read_all(self) -> bytes:
        return self.read(sys.maxsize)

    def sip(self, n: int) -> bytes:
        return os.read(self._fds[0], n) if select.select(self._fds[:1], [], [], 0)[0] else b""

    def finish(self) -> None:
        os.close(self._fds.pop())

    def close(self) -> None:
        if self._conn is not None:
            self._conn.linger = 0.0
            self._conn.close()
        else:
            for fd in self._fds:
                os.close(fd)
        self._fds = []


End = SocketEnd | PipeEnd | TlsEnd


def reset(end: SocketEnd) -> None:
    """Close a TCP socket with a reset instead of an end."""
    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end.sock.close()


def _shrink(sock: socket.socket, size: int = 1, receive: int = 1) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(size, receive))


def _sockets(
    kind: str, folder: Path, smallest: bool = False
) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets; TCP needs to know of small buffers before it connects."""
    paired = kind in ("socketpair", "foreign", *ENCRYPTED)
    if paired and (hasattr(socket, "AF_UNIX") or not smallest):
        pair = socket.socketpair()
        if smallest:
            for sock in pair:
                _shrink(sock)
        return pair
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / f"stream{threading.get_native_id()}"))
        listener.listen()
    else:
        host, family = ("127.0.0.1", socket.AF_INET)
        if kind == "tcp6":
            host, family = ("::1", socket.AF_INET6)
        listener = socket.create_server((host, 0), family=family)
    # What does not fit in leaves a part each time TCP's timer comes: a TLS record, and where
    # the system calls are slow all else too.
    size = 1 << 15 if kind in ENCRYPTED or sys.platform == "win32" else 1
    # One with room for two segments at most tells of it five times a second, once it is late.
    receive = 1 << 13
    with listener:
        client = socket.socket(listener.family)
        if smallest:
            _shrink(listener, size, receive)
            _shrink(client, size, receive)
        client.connect(listener.getsockname())
        served = listener.accept()[0]
        if smallest:
            served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        return client, served


@contextlib.contextmanager
def linked(kind: str, folder: Path, smallest: bool = False) -> Iterator[tuple[Any, Any]]:
    """Two connected ends; what is left open at the end is closed."""
    ends: tuple[End, End]
    if kind == "unix" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")
    if kind == "pipes" and sys.platform == "win32":
        pytest.skip("pipes that nobody can wait for")
    if kind == "pipes":
        (there, to_there), (here, to_here) = os.pipe(), os.pipe()
        ends = PipeEnd(here, to_there), PipeEnd(there, to_here)
    else:
        near, far = _sockets(kind, folder, smallest)
        if kind in ENCRYPTED:
            ends = tls_ends(near, far, foreign=kind == "sslsocket")
        else:
            ends = SocketEnd(near, kind == "foreign"), SocketEnd(far, kind == "foreign")
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


@pytest.fixture(params=TRANSPORTS)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Two ends over every transport there is."""
    with apart(request, lambda: linked(request.param, tmp_path)) as both:
        yield both


@pytest.fixture(params=["tcp4", "socketpair", "tls", *PIPES, "foreign"])
def tight_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Two ends with the smallest buffers between them."""
    with apart(request, lambda: linked(request.param, tmp_path, smallest=True)) as both:
        yield both


@pytest.fixture(params=["socketpair", "tls", *PIPES, "foreign"])
def few_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Two ends over one transport for each way that the code takes."""
    with apart(request, lambda: linked(request.param, tmp_path)) as both:
        yield both


@pytest.fixture(params=[*SOCKETS, *PAIRED, *ENCRYPTED, *PIPES])
def own_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Two ends over every transport that pysock waits for itself."""
    with apart(request, lambda: linked(request.param, tmp_path)) as both:
        yield both


@pytest.fixture(params=[*SOCKETS, *PAIRED, *PIPES])
def bare_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The same without TLS, which has no half-close and does not hand a socket over."""
    with apart(request, lambda: linked(request.param, tmp_path)) as both:
        yield both


@pytest.fixture(params=["socketpair", "tls", *PIPES])
def few_own_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The same for tests that have many cases besides."""
    with apart(request, lambda: linked(request.param, tmp_path)) as both:
        yield both


@pytest.fixture(params=[*SOCKETS, *PAIRED])
def socket_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Two ends over every kind of socket."""
    with apart(request, lambda: linked(request.param, tmp_path)) as both:
        yield both


@pytest.fixture
def tcp_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    with apart(request, lambda: linked("tcp4", tmp_path)) as both:
        yield both


@pytest.fixture
def paired_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    with apart(request, lambda: linked("socketpair", tmp_path)) as both:
        yield both


def reaches(sockaddr: Any, listener: socket.socket) -> bool:
    """Whether what a client sends to *sockaddr* comes to *listener*."""
    listener.settimeout(LONG)
    with connect(sockaddr, LONG) as client:
        served, _ = listener.accept()
        with served:
            client.sendall(b"x")
            served.settimeout(LONG)
            return served.recv(99) == b"x"


# ------------------------------------------------------------ helping threads


class Task(threading.Thread):
    """A function in a thread; `finish` gives what it returned, or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(name=getattr(function, "__name__", "task"), daemon=True)
        self._function, self._args = function, args
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._function(*self._args)
        except BaseException as exc:
            self._error = exc
        finally:
            del self._function, self._args

    def finish(self, within: float = LONG) -> Any:
        self.join(within)
        if self.is_alive():
            pytest.fail(f"{self.name}() is still running after {within} s")
        if self._error is not None:
            raise self._error
        return self._result


@contextlib.contextmanager
def background(function: Callable[..., Any], *args: Any) -> Iterator[Task]:
    """Run a function beside the body; what it raises comes out at the end."""
    task = Task(function, *args)
    yield task
    task.finish()


def until(condition: Callable[[], Any], within: float = LONG) -> None:
    """Wait for something that another thread or the system does, and tells nobody."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            pytest.fail("what was waited for did not happen")
        time.sleep(0.001)


def asleep(conn: Connection, call: Callable[..., Any], *args: Any) -> Task:
    """Run *call*, which uses *conn*, in a thread, until it has come to wait."""
    before = conn.stats
    task = Task(call, *args)
    until(lambda: conn.stats.waits_in + conn.stats.waits_out > before[3] + before[7])
    return task


def stuff(conn: Connection) -> int:
    """Send until nothing more leaves; return how many bytes of messages were taken."""
    timeout, conn.timeout = conn.timeout, SHORT
    size = 1 << 24
    with pytest.raises(TimeoutError):
        conn.send(bytes(size))
    conn.timeout = timeout
    return size


def run_python(code: str, *args: str, within: float = 3 * LONG) -> str:
    """Run *code* in a fresh interpreter; return what it printed."""
    command = [sys.executable, "-P", "-X", "faulthandler", "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == "", done.stderr
    return done.stdout


# ------------------------------------------------------------ ways to receive


def _into(conn: Connection) -> bytes:
    buffer = bytearray(1 << 22)
    return bytes(buffer[: conn.recv_into(buffer)])


def _many(conn: Connection) -> bytes:
    (message,) = conn.recv_many(1)
    return message


def _view(conn: Connection) -> bytes:
    with conn.recv_view() as view:
        return bytes(view)


class _IntoFile:
    """recvfile() goes on with its file, and with a new one for another connection."""

    def __init__(self) -> None:
        self._conn: Connection | None = None

    def __call__(self, conn: Connection) -> bytes:
        if conn is not self._conn:
            self._conn, self._file, self._end = conn, io.BytesIO(), 0
        size = conn.recvfile(self._file)
        begin, self._end = self._end, self._file.tell()
        assert self._end == begin + size  # also when a timeout had come between
        return self._file.getvalue()[begin:]


RECEIVERS: dict[str, Callable[[], Callable[[Connection], bytes]]] = {
    "recv": lambda: Connection.recv,
    "next": lambda: next,
    "recv_many": lambda: _many,
    "recv_into": lambda: _into,
    "recv_view": lambda: _view,
    "recvfile": _IntoFile,
}


@pytest.fixture(params=RECEIVERS)
def receive(request: pytest.FixtureRequest) -> Iterator[Callable[[Connection], bytes]]:
    """Every way to receive one message, as a function of the connection."""
    make = RECEIVERS[request.param]
    with apart(request, lambda: contextlib.nullcontext(make())) as call:
        yield call


def drain(conn: Connection, receive: Callable[[Connection], bytes]) -> list[bytes]:
    """All messages that can be had without waiting."""
    timeout, conn.timeout = conn.timeout, 0
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(receive(conn))
    conn.timeout = timeout
    return messages


# 192 KiB, each three of them their own number.
_BLOCK = b"".join(i.to_bytes(3, "big") for i in range(1 << 16))


def pattern(size: int) -> bytes:
    """Bytes of which none can be lost, doubled or moved unseen."""
    return (_BLOCK * (size // len(_BLOCK) + 1))[:size]
