"""What comes instead of TLS, and TLS that somebody changes on the way: never a wrong message.

The ciphers are those without certificates: nobody is authenticated, which is not what is
tried here, and no key needs to be kept in this folder.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
from typing import Any

from fuzz.source import Source, cut
from pysock.connection import Connection
from pysock.errors import AuthenticationError, ConnectionClosed
from pysock.framing import LengthField, _Tls
from pysock.greeting import secure

FRAMING = LengthField(max_frame=1 << 20)
WORDS = (b"\x16\x03\x01", b"\x17\x03\x03", b"\x15\x03\x03\0\2\2\x46", b"\x14\x03\x03\0\1\1")
ENDS = (OSError, ConnectionClosed, AuthenticationError)


@functools.cache
def context(server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("AECDH-AES128-SHA:@SECLEVEL=0")
    return made


class Far:
    """The other end: TLS in memory, and what it has to say in pieces."""

    def __init__(self, sock: socket.socket, server: bool) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context(server).wrap_bio(self.incoming, self.outgoing, server)

    def handshake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.incoming.write(self.sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.sock.sendall(self.outgoing.read())

    def say(self, data: bytes) -> bytes:
        """Return the records that *data* becomes."""
        self.tls.write(data)
        return self.outgoing.read()


def target(data: bytes) -> None:
    source = Source(data)
    server, raw = source.flag(), source.flag()
    near, sock = socket.socketpair()
    sock.setblocking(False)
    with near, sock:
        near.setblocking(False)
        tls = _Tls(near, context(server), server)
        if raw:
            anything(tls, sock, source)
        else:
            changed(tls, near, Far(sock, not server), source)


def anything(tls: Any, sock: socket.socket, source: Source) -> None:
    """Bytes that are no handshake, or some of one."""
    steps = secure(tls)
    sizes = source.sizes()
    try:
        for piece in [*cut(source.bytes(32768), sizes), b""]:
            if piece:
                sock.sendall(piece)
            else:
                sock.shutdown(socket.SHUT_WR)
            while next(steps, None) == 0:
                pass
            with contextlib.suppress(BlockingIOError):
                sock.recv(65536)
    except ENDS as exc:
        assert str(exc)
        return
    raise AssertionError("a handshake that has neither failed nor ended")


def changed(tls: Any, near: socket.socket, far: Far, source: Source) -> None:
    """What is delivered is what was sent, up to where it was changed, and then no more."""
    far.handshake()
    for _ in secure(tls):
        far.handshake()
    far.handshake()
    messages = [bytes([65 + i]) * source.pick((0, 1, 5, 300, 17000)) for i in range(3)]
    records = [far.say(FRAMING.encode(message)) for message in messages]
    if source.flag():
        with contextlib.suppress(ssl.SSLError):
            far.tls.unwrap()  # sends the end, and waits for that of this side
        records.append(far.outgoing.read())
    whole = b"".join(records)
    stream, sizes = damaged(whole, source), [16 * size for size in source.sizes()]
    with contextlib.closing(
        Connection(near, FRAMING, timeout=0, linger=0.0, _tls=tls)
    ) as connection:
        found: list[bytes] = []
        error = None
        for piece in [*cut(stream, sizes), b""]:
            if piece:
                far.sock.sendall(piece)
            else:
                far.sock.shutdown(socket.SHUT_WR)
            try:
                while True:
                    found.append(connection.recv())
            except BlockingIOError:
                continue
            except ENDS as exc:
                error = exc.with_traceback(None)
                break
    assert error is not None and found == messages[: len(found)]
    if stream == whole:
        assert found == messages and isinstance(error, ConnectionClosed)


def damaged(whole: bytes, source: Source) -> bytes:
    """Return *whole* with some bytes changed, added, taken away or said again."""
    data = bytearray(whole)
    for _ in range(source.number(3)):
        at = source.number(0xFFFF) % (len(data) + 1)
        how, piece = source.number(4), source.short(15)
        if how == 0:
            data[at : at + len(piece)] = piece
        elif how == 1:
            data[at:at] = piece
        elif how == 2:
            del data[at : at + len(piece)]
        elif how == 3:
            del data[at:]
        else:
            data[at:at] = data[: source.number(0xFFFF)]
    return bytes(data)
