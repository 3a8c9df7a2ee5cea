"""Ends of a stream with TLS in between: pysock's own, and an SSLSocket somebody made."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import require_peer
from pysock import Connection
from pysock.framing import Format, LengthField, _Tls

try:
    import trustme
except ModuleNotFoundError:  # of what it needs there is no build for some Pythons
    trustme = None

WITHIN = 10  # seconds; nothing takes this long unless it hangs


@functools.cache
def contexts(
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's, of which the first trusts the second."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = server.maximum_version = version
    server.num_tickets = 0
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trustme is None:
        _certify(client, server)
        return client, server
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return client, server


def _certify(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Have openssl's program make what both need."""
    made = "req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out it.pem"
    with tempfile.TemporaryDirectory() as folder:
        names = ["-addext", "subjectAltName=DNS:localhost"]
        command = [require_peer("openssl"), *made.split(), *names]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        server.load_cert_chain(Path(folder, "it.pem"), Path(folder, "key.pem"))
        client.load_verify_locations(Path(folder, "it.pem"))


class TlsEnd:
    """One end, to be made a Connection or used as plain bytes inside of TLS."""

    def __init__(self, sock: socket.socket, tls: Any) -> None:
        self.sock, self.tls = sock, tls
        self._conn: Connection | None = None

    def connection(self, framing: Format = LengthField(), **options: Any) -> Connection:  # noqa: B008
        if isinstance(self.sock, ssl.SSLSocket):
            self._conn = Connection(self.sock, framing, **options)
        else:
            self._conn = Connection(self.sock, framing, **options, _tls=self.tls)
        return self._conn

    def forget(self) -> None:
        """Leave the connection and its socket to the garbage collector."""
        self._conn = None
        del self.sock, self.tls

    def write(self, data: Any) -> None:
        data = bytes(data)
        while data:
            with contextlib.suppress(BlockingIOError):
                data = data[self.tls.send_now(data[: 1 << 16]) :]
                continue
            if not select.select([], [self.sock], [], WITHIN)[1]:
                raise TimeoutError

    def read(self, n: int) -> bytes:
        """Exactly *n* bytes, fewer at the end of the stream."""
        data = bytearray()
        while len(data) < n:
            with contextlib.suppress(BlockingIOError):
                part = self.tls.recv(min(n - len(data), 1 << 18))
                if not part:
                    break
                data += part
                continue
            if not select.select([self.sock], [], [], WITHIN)[0]:
                raise TimeoutError
        return bytes(data)

    def read_all(self) -> bytes:
        return self.read(sys.maxsize)

    def sip(self, n: int) -> bytes:
        """What there is now, at most *n* bytes."""
        with contextlib.suppress(BlockingIOError):
            return self.tls.recv(n)
        return b""

    def finish(self) -> None:
        """Say that no more bytes will come from here."""
        self.tls.goodbye()

    def close(self) -> None:
        if self._conn is not None:
            self._conn.linger = 0.0
            self._conn.close()
        if hasattr(self, "sock"):
            self.sock.close()


def tls_ends(near: socket.socket, far: socket.socket, foreign: bool) -> tuple[TlsEnd, TlsEnd]:
    """Two sockets as ends with TLS in between; with *foreign* they are SSLSockets."""
    client, server = contexts()
    if foreign:
        near = client.wrap_socket(
            near, server_hostname="localhost", do_handshake_on_connect=False
        )
        far = server.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
        both = _Tls(near), _Tls(far)
    else:
        both = _Tls(near, client, False, "localhost"), _Tls(far, server, True)
    while both[0].handshake() | both[1].handshake():
        pass
    return TlsEnd(near, both[0]), TlsEnd(far, both[1])


def shaken(context: ssl.SSLContext, sock: socket.socket, pump: Callable[[], object]) -> _Tls:
    """A client's TLS, when *pump* has moved all that its handshake takes."""
    tls = _Tls(sock, context, False, "localhost")
    while tls.handshake():
        pump()
    pump()
    return tls


def over_network(
    version: ssl.TLSVersion, socks: dict[str, socket.socket], pump: Callable[[], object]
) -> dict[str, Any]:
    """TLS for the ends of a network, which *pump* moves."""
    client, server = contexts(version)
    tls = {
        "a": _Tls(socks["a"], client, False, "localhost"),
        "b": _Tls(socks["b"], server, True),
    }
    while tls["a"].handshake() | tls["b"].handshake():
        pump()
    pump()
    return tls
