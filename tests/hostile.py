"""A server under attack: each kind there is, ways to be its peer, what must hold after."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pysock
from certificates import Certificates
from conftest import TIME_FACTOR
from gate import SOON, warnings_in
from peers import LONG, background, until
from proofs import KEY, answer, message
from pysock import tls
from pysock.auth import Prover
from records import RecordEnd

KINDS = ["plain", "authkey", "tls", "tls+authkey"]
SECRET_KINDS = ["authkey", "tls+authkey"]
TLS_KINDS = ["tls", "tls+authkey"]
PATIENCE = 0.3 * TIME_FACTOR  # for a handshake that is meant to take too long

FAIL = message(5)


class Recorder:
    """A handler that echoes, and keeps what got through to it."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, message: bytes) -> bytes:
        self.seen.append(message)
        return message


class Peers:
    """Clients, good ones and bad ones, of a server of some kind.

    Args:
        kind: of the server, one of KINDS.
        where: its address, as its socket has it.
        context: that it does TLS with, None without.
        first: what good clients send before all else, a PROXY header.
    """

    def __init__(
        self,
        kind: str,
        certs: Certificates,
        where: Any,
        context: ssl.SSLContext | None,
        first: bytes = b"",
    ) -> None:
        self.encrypted, self.secret = "tls" in kind, "authkey" in kind
        self.certs, self.where, self.tls, self.first = certs, where, context, first
        self.binding = binding_of(context)

    def client(self, **options: Any) -> pysock.Client:
        """A good client."""
        wanted: dict[str, Any] = {"timeout": 2 * SOON, "connect_timeout": 2 * SOON}
        wanted["address"] = self.where
        if self.encrypted:
            wanted |= {"tls": self.certs.client_context(), "server_hostname": "localhost"}
        if self.secret:
            wanted["authkey"] = KEY
        if self.first:
            wanted |= {"address": None, "sock": self.raw(self.first)}
        try:
            return pysock.Client(**{**wanted, **options})
        except BaseException:
            if self.first:
                wanted["sock"].close()
            raise

    def raw(self, first: bytes = b"", room: int = 0) -> socket.socket:
        """A socket that is connected, and nothing more.

        Args:
            first: what it sends.
            room: the size of its buffer for what comes; 0: as the system has it.
        """
        local = isinstance(self.where, str)
        sock = socket.socket(socket.AF_UNIX if local else socket.AF_INET)
        try:
            if room:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            sock.settimeout(SOON)
            sock.connect(self.where)
            if not local:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(first)
        except BaseException:
            sock.close()
            raise
        return sock

    def secured(self, first: bytes = b"") -> Any:
        """A bad client that has gone as far as TLS, where there is TLS."""
        sock = self.raw(first)
        if not self.encrypted:
            return sock
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            context = self.certs.client_context()
            wrapped = context.wrap_socket(
                sock, server_hostname="localhost", suppress_ragged_eofs=False
            )
            stack.pop_all()
        return wrapped

    def ready(self, first: bytes = b"") -> Any:
        """A bad client that has proved its key too, where there is one."""
        sock = self.secured(first)
        try:
            if self.secret:
                prove(sock, Prover(KEY, "", self.binding))
        except BaseException:
            sock.close()
            raise
        return sock

    def recorder(self) -> RecordEnd:
        """A bad client that has gone as far as TLS, and writes its own records."""
        sock = self.raw()
        try:
            return RecordEnd(sock, self.certs.client_context(), server=False)
        except BaseException:
            sock.close()
            raise


class Target(Peers):
    """A server, and its peers.

    Args:
        kind, certs, first: as for `Peers`.
        options: of the server, as far as the kind does not say.
    """

    def __init__(
        self, kind: str, certs: Certificates, first: bytes = b"", **options: Any
    ) -> None:
        if "tls" in kind:
            options["tls"] = options.get("tls") or certs.server_context()
        if "authkey" in kind:
            options.setdefault("authkey", KEY)
        self.handler = options.pop("handler", None) or Recorder()
        address = options.pop("address", "127.0.0.1:0")
        self.server = pysock.Server(address, self.handler, **options)
        super().__init__(kind, certs, self.server.server_address, options.get("tls"), first)


SERVER = """
import logging, pysock, signal, sys
from pysock import tls
logging.disable()
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
certificate, key, authkey = sys.argv[1:]
options = {}
if certificate:
    options["tls"] = tls.server_context(certificate, key)
if authkey:
    options["authkey"] = bytes.fromhex(authkey)
options |= dict(max_connections=1100, backlog=1100, workers=2)
with pysock.Server("127.0.0.1:0", bytes.upper, **options).start() as server:
    print(server.server_address[1], flush=True)
    for line in sys.stdin:
        print(server.stats[line.strip()], flush=True)
    server.stop(drain=0)
"""


class Measured(Peers):
    """A server in a process of its own, whose memory can be told from that of its peers."""

    def __init__(self, kind: str, certs: Certificates) -> None:
        context = certs.server_context() if "tls" in kind else None
        files = map(str, certs.server) if context else ("", "")
        command = [sys.executable, "-P", "-c", SERVER, *files]
        command.append(KEY.hex() if "authkey" in kind else "")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )
        assert self.process.stdout is not None
        port = int(self.process.stdout.readline())
        super().__init__(kind, certs, ("127.0.0.1", port), context)

    def ask(self, name: str) -> int:
        """One of its counters."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def resident(self) -> int:
        """The most memory that it ever had, in bytes."""
        with open(f"/proc/{self.process.pid}/status") as file:
            (line,) = (line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


@contextlib.contextmanager
def measured(kind: str, certs: Certificates) -> Iterator[Measured]:
    target = Measured(kind, certs)
    with target.process as process:
        try:
            with target.client() as good:
                assert good.request(b"before") == b"BEFORE"
            yield target
            with target.client() as good:
                assert good.request(b"after") == b"AFTER"
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(LONG) == 0
        finally:
            process.kill()


def binding_of(context: ssl.SSLContext | None) -> bytes:
    """What a server with *context* binds proofs to."""
    return b"" if context is None else hashlib.sha256(tls.own_certificate(context)).digest()


def prove(sock: Any, side: Prover) -> None:
    """Hold a client's side of a proof over a blocking socket."""
    sock.sendall(side.begin())
    while side.wanted:
        sock.sendall(answer(side, take(sock, side.wanted)))


def take(sock: Any, n: int) -> bytes:
    """Receive exactly *n* bytes."""
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        assert part, f"the end after {data!r}, expected {n} bytes"
        data += part
    return data


@contextlib.contextmanager
def attacked(kind: str, certs: Certificates, **options: Any) -> Iterator[Target]:
    """A server with a good client, for the body to attack.

    The good client is served before and after, and so is one that comes then; no handler
    has failed, and no thread of the server has either.
    """
    target = Target(kind, certs, **options)
    with target.server.start() as server, target.client() as good:
        assert good.request(b"before") == b"before"
        yield target
        assert good.request(b"after") == b"after"
        with target.client() as late:
            assert late.request(b"late") == b"late"
        assert server.stats["handler_errors"] == 0
        good.close()
        server.stop(drain=0)


def check_log(caplog: pytest.LogCaptureFixture, *parts: str) -> list[str]:
    """Check that there are warnings with these *parts*, one each, and no traceback."""
    assert [r.getMessage() for r in caplog.records if r.exc_info or r.exc_text] == []
    assert [r for r in caplog.records if r.levelno > logging.WARNING] == []
    lines = warnings_in(caplog)
    assert all(line.isprintable() and len(line) < 700 for line in lines)
    assert len(lines) == len(parts), lines
    for line, part in zip(lines, parts, strict=True):
        assert part in line
    return lines


def alone(target: Target) -> None:
    """Wait until the server has rid itself of all but the good client."""
    until(lambda: target.server.stats["connections"] <= 1)


def rest_of(sock: Any) -> bytes:
    """All that comes until the other side ends it, in whatever way."""
    data = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while part := sock.recv(65536):
            data += part
    return data


def pour(sock: Any, data: bytes) -> None:
    """Send *data* as far as the other side takes it."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        sock.sendall(data)


@contextlib.contextmanager
def villain(act: Callable[[socket.socket], Any]) -> Iterator[tuple[str, int]]:
    """A server that is nothing but *act*, done to one client after another: its address."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = listener.getsockname()

        def serve() -> None:
            while True:
                sock, _ = listener.accept()
                with sock:
                    if over.is_set():
                        return
                    sock.settimeout(LONG)
                    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                        act(sock)

        with background(serve):
            try:
                yield where
            finally:
                over.set()
                socket.create_connection(where).close()


Change = Callable[[int, int, bytes], bytes]  # which way, from which byte on, what


@contextlib.contextmanager
def relayed(
    target: Target, change: Change = lambda way, begin, data: data
) -> Iterator[tuple[Any, list[bytearray]]]:
    """A way to the server that sees all: its address, and what has gone by.

    Way 0 is to the server, way 1 back.
    """
    seen = [bytearray(), bytearray()]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def relay() -> None:
            with (
                listener.accept()[0] as near,
                target.raw() as far,
                contextlib.suppress(ConnectionError),
            ):
                pump(near, far, seen, change)

        with background(relay):
            yield listener.getsockname(), seen


def pump(near: Any, far: Any, seen: list[bytearray], change: Change) -> None:
    """Carry bytes both ways until one side ends."""
    ways = {near: (far, 0), far: (near, 1)}
    while True:
        for source in select.select(list(ways), [], [], LONG)[0]:
            sink, way = ways[source]
            part = source.recv(65536)
            if not part:
                return
            sink.sendall(change(way, len(seen[way]), part))
            seen[way] += part
