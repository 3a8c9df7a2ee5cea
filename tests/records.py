"""TLS 1.3 of which one end writes its records itself once the handshake is over."""

from __future__ import annotations

import contextlib
import hmac
import socket
import ssl
import struct
import tempfile
from pathlib import Path
from typing import Any, Self

import pytest

pytest.importorskip("cryptography", reason="no build of cryptography for this Python")

from cryptography.hazmat.primitives.ciphers.aead import (
    AESGCM,
    ChaCha20Poly1305,
)

CCS, ALERT, HANDSHAKE, DATA = range(20, 24)
OVERHEAD = 22  # bytes of a record besides its data

KEY_UPDATE = b"\x18\0\0\1\0"
KEY_UPDATE_PLEASE = b"\x18\0\0\1\1"  # the other end is to change its key too


def _expand(secret: bytes, label: bytes, size: int, digest: str) -> bytes:
    info = struct.pack(">HB", size, 6 + len(label)) + b"tls13 " + label + b"\0"
    return hmac.digest(secret, info + b"\1", digest)[:size]


class Writer:
    """What one end's records are encrypted with."""

    def __init__(self, secret: bytes, cipher: str) -> None:
        self._digest = "sha384" if "SHA384" in cipher else "sha256"
        self._size = 16 if "AES_128" in cipher else 32
        self._cipher: Any = ChaCha20Poly1305 if "CHACHA" in cipher else AESGCM
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = self._cipher(_expand(secret, b"key", self._size, self._digest))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12, self._digest), "big")
        self._count = 0

    def record(self, kind: int, data: bytes, padding: int = 0) -> bytes:
        inner = data + bytes([kind]) + bytes(padding)
        head = struct.pack(">BHH", DATA, 0x303, len(inner) + 16)
        nonce = (self._iv ^ self._count).to_bytes(12, "big")
        self._count += 1
        sealed: bytes = self._aead.encrypt(nonce, inner, head)
        return head + sealed

    def key_update(self, message: bytes = KEY_UPDATE) -> bytes:
        data = self.record(HANDSHAKE, message)
        size = len(self._secret)
        self._use(_expand(self._secret, b"traffic upd", size, self._digest))
        return data


class Shaker:
    """One end's handshake in memory, of which each step is taken by hand."""

    def __init__(self, context: ssl.SSLContext, server: bool = False) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server, name)
        self.done = False

    def step(self, came: bytes = b"") -> bytes:
        """Take what has come; return what to say."""
        self.incoming.write(came)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.done = True
        return self.outgoing.read()

    def finish(self, sock: socket.socket) -> None:
        """Take all steps that are left."""
        while not self.done:
            sock.sendall(self.step(sock.recv(65536)))

    def recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive what a socket has for the end behind this handshake."""
        while True:
            try:
                return self.tls.read(n)
            except ssl.SSLWantReadError:
                came = sock.recv(65536)
                if came:
                    self.incoming.write(came)
                else:
                    self.incoming.write_eof()
            except ssl.SSLZeroReturnError:
                return b""


class RecordEnd:
    """One end: a socket's calls, and `writer` for records of any kind."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server: bool) -> None:
        self.sock = sock
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "keys"
            context.keylog_filename = str(path)
            try:
                self._shaker = Shaker(context, server)
                sock.sendall(self._shaker.step())
                self._shaker.finish(sock)
            finally:
                context.keylog_filename = None
            lines = path.read_text().splitlines()
        name = f"{'SERVER' if server else 'CLIENT'}_TRAFFIC_SECRET_0"
        (secret,) = (line.split()[2] for line in lines if line.startswith(name))
        cipher = self._shaker.tls.cipher()
        assert cipher is not None
        self.writer = Writer(bytes.fromhex(secret), cipher[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def sendall(self, data: bytes) -> None:
        self.sock.sendall(self.writer.record(DATA, data))

    def recv(self, n: int) -> bytes:
        return self._shaker.recv(self.sock, n)
