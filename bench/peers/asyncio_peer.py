"""asyncio: a Protocol that takes all whole frames of a read; frames written together.

Large messages have a BufferedProtocol, which receives each into memory of its own.
"""

import asyncio
import platform
from collections.abc import Sequence
from functools import partial
from struct import Struct
from typing import cast

import callbacks
import protocol

HEADER = Struct("!I")
SMALL = 16 * 1024  # above that a copy costs more than a second piece
LARGE = 64 * 1024  # from here on it pays to receive the header by itself


class Base(asyncio.BaseProtocol):
    def __init__(self, end: callbacks.End) -> None:
        self._end = end
        self.pause_writing = end.pause
        self.resume_writing = end.resume

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._end.write = self.write
        self._end.connected()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.stop()

    def write(self, messages: Sequence[bytes]) -> None:
        pack = HEADER.pack
        parts = [part for m in messages for part in (pack(len(m)), m)]
        if len(messages[0]) < SMALL:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)


class Framed(Base, asyncio.Protocol):
    def __init__(self, end: callbacks.End) -> None:
        super().__init__(end)
        self._rest = bytearray()
        self._due = 0  # bytes that `_rest` must have before there is a whole frame

    def data_received(self, data: bytes | bytearray) -> None:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._due:
                return
            data, self._rest = self._rest, bytearray()
        messages: list[bytes] = []
        at, held = 0, len(data)
        while True:
            start = at + HEADER.size
            end = start if start > held else start + HEADER.unpack_from(data, at)[0]
            if end > held or start > held:
                break
            messages.append(data[start:end])
            at = end
        if at < held:
            self._rest, self._due = bytearray(data[at:]), end - at
        if messages:
            self._end.received(messages)


class Buffered(Base, asyncio.BufferedProtocol):
    def __init__(self, end: callbacks.End) -> None:
        super().__init__(end)
        self._header = memoryview(bytearray(HEADER.size))
        self._left, self._body = self._header, bytearray()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._left

    def buffer_updated(self, nbytes: int) -> None:
        self._left = self._left[nbytes:]
        if self._left:
            return
        if not self._body:
            self._body = bytearray(HEADER.unpack(self._header)[0])
            self._left = memoryview(self._body)
            return
        message, self._body, self._left = self._body, bytearray(), self._header
        self._end.received([message])


def protocol_for(options: protocol.Options, end: callbacks.End) -> partial[Base]:
    return partial(Buffered if options.size >= LARGE else Framed, end)


async def listen(options: protocol.Options, end: callbacks.End) -> None:
    loop, at = asyncio.get_running_loop(), protocol.target(options.address)
    end.stop = lambda: None
    if isinstance(at, str):
        server = await loop.create_unix_server(protocol_for(options, end), at)
    else:
        server = await loop.create_server(protocol_for(options, end), *at)
    protocol.announce(server.sockets[0].getsockname())
    await server.serve_forever()


async def connect(options: protocol.Options, end: callbacks.End) -> None:
    loop, to = asyncio.get_running_loop(), protocol.target(options.address)
    ended = asyncio.Event()
    end.stop = ended.set
    if isinstance(to, str):
        await loop.create_unix_connection(protocol_for(options, end), to)
    else:
        await loop.create_connection(protocol_for(options, end), *to)
    await ended.wait()


VERSION = f"asyncio Protocol, CPython {platform.python_version()}"

if __name__ == "__main__":
    callbacks.main(
        VERSION,
        lambda options, end: asyncio.run(listen(options, end)),
        lambda options, end: asyncio.run(connect(options, end)),
    )
