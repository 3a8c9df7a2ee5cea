"""Pure Python done well: a buffered reader, and small frames sent joined."""

import platform
import socket
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any

import protocol

HEADER = Struct("!I")
SMALL = 16 * 1024  # above that a copy costs more than a second piece


class Conn:
    def __init__(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader: Any = sock.makefile("rb", 64 * 1024)
        self._rest = b""  # of recv_many, which reads by itself

    def send(self, message: bytes) -> None:
        header = HEADER.pack(len(message))
        if len(message) < SMALL:
            self._sock.sendall(header + message)
            return
        sent = self._sock.sendmsg([header, message]) - len(header)
        if sent < len(message):
            self._sock.sendall(memoryview(message)[sent:])

    def recv(self) -> bytes:
        (size,) = HEADER.unpack(self._read(HEADER.size))
        return self._read(size)

    def recv_into(self, buffer: bytearray) -> int:
        (size,) = HEADER.unpack(self._read(HEADER.size))
        if self._reader.readinto(memoryview(buffer)[:size]) < size:
            raise EOFError
        return int(size)

    def _read(self, size: int) -> bytes:
        data: bytes = self._reader.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def send_many(self, messages: Sequence[bytes]) -> None:
        pack = HEADER.pack
        self._sock.sendall(b"".join([part for m in messages for part in (pack(len(m)), m)]))

    def recv_many(self) -> list[bytes]:
        messages: list[bytes] = []
        unpack_from = HEADER.unpack_from
        while not messages:
            chunk = self._sock.recv(64 * 1024)
            if not chunk:
                raise EOFError
            data, at = self._rest + chunk, 0
            last = len(data) - HEADER.size
            while at <= last:
                end = at + HEADER.size + unpack_from(data, at)[0]
                if end > len(data):
                    break
                messages.append(data[at + HEADER.size : end])
                at = end
            self._rest = data[at:]
        return messages

    def request_many(self, messages: Sequence[bytes]) -> list[bytes]:
        self.send_many(messages)
        replies: list[bytes] = []
        while len(replies) < len(messages):
            replies += self.recv_many()
        return replies

    def __iter__(self) -> Iterator[bytes]:
        read, unpack = self._reader.read, HEADER.unpack
        while header := read(HEADER.size):
            yield read(unpack(header)[0])

    def close(self) -> None:
        self._reader.close()
        self._sock.close()


def serve(options: protocol.Options, announce: protocol.Announce) -> Conn:
    return Conn(protocol.accept(options, announce))


def connect(options: protocol.Options) -> Conn:
    return Conn(protocol.dial(options))


VERSION = f"CPython {platform.python_version()}"

if __name__ == "__main__":
    protocol.main(VERSION, serve, connect)
