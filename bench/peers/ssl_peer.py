"""TLS with the standard library: an SSLSocket, read into one buffer; and its accept loop."""

import contextlib
import platform
import socket
import ssl
from struct import Struct
from typing import Any

import protocol
import python_peer
import trustme

HEADER = Struct("!I")


def server_context() -> ssl.SSLContext:
    """Return a context with a certificate made for this run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    """Return a context that trusts everybody: who checks certificates is not measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Conn(python_peer.Conn):
    """Batches as in pure Python: joined, and received in chunks; the rest into one buffer."""

    def __init__(self, sock: ssl.SSLSocket, options: protocol.Options) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._buffer = memoryview(bytearray(max(options.size, 1024)))
        self._rest = b""

    def send(self, message: bytes) -> None:
        header = HEADER.pack(len(message))
        if len(message) < 16 * 1024:
            self._sock.sendall(header + message)
        else:
            self._sock.sendall(header)
            self._sock.sendall(message)

    def recv(self) -> memoryview:
        self._fill(HEADER.size)
        (size,) = HEADER.unpack(self._buffer[: HEADER.size])
        self._fill(size)
        return self._buffer[:size]

    def recv_into(self, buffer: bytearray) -> int:
        self._fill(HEADER.size)
        (size,) = HEADER.unpack(self._buffer[: HEADER.size])
        view, self._buffer = self._buffer, memoryview(buffer)
        self._fill(size)
        self._buffer = view
        return int(size)

    def _fill(self, size: int) -> None:
        got = 0
        while got < size:
            n = self._sock.recv_into(self._buffer[got:size])
            if n == 0:
                raise EOFError
            got += n

    def close(self) -> None:
        self._sock.close()


class Dialer:
    """Connects again and again: handshake, one request, close."""

    def __init__(self, options: protocol.Options) -> None:
        self._address = protocol.target(options.address)
        self._context = client_context()
        self._frame = HEADER.pack(options.size) + b"x" * options.size

    def handshake(self) -> None:
        with socket.create_connection(self._address) as plain:  # type: ignore[arg-type]
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._context.wrap_socket(plain) as sock:
                sock.sendall(self._frame)
                left = len(self._frame)
                while left:
                    left -= len(sock.recv(left)) or protocol.gone()

    def close(self) -> None:
        """Nothing is kept."""


class Acceptor:
    """The accept loop that people write first."""

    def __init__(self, options: protocol.Options, announce: protocol.Announce) -> None:
        self._context = server_context()
        self._size = HEADER.size + options.size
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        announce(self._listener.getsockname())

    def serve_forever(self) -> None:
        while True:
            plain, _ = self._listener.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with (
                contextlib.suppress(OSError),
                self._context.wrap_socket(plain, server_side=True) as sock,
            ):
                sock.sendall(sock.recv(self._size))

    def close(self) -> None:
        self._listener.close()


def serve(options: protocol.Options, announce: protocol.Announce) -> Any:
    if options.work == "handshakes":
        return Acceptor(options, announce)
    plain = protocol.accept(options, announce)
    return Conn(server_context().wrap_socket(plain, server_side=True), options)


def connect(options: protocol.Options) -> Any:
    if options.work == "handshakes":
        return Dialer(options)
    return Conn(client_context().wrap_socket(protocol.dial(options)), options)


if __name__ == "__main__":
    protocol.main(
        f"{ssl.OPENSSL_VERSION}, CPython {platform.python_version()}", serve, connect
    )
