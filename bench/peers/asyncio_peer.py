"""asyncio: a Protocol that takes all whole frames of a read; frames written together."""

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


class Framed(asyncio.Protocol):
    def __init__(self, end: callbacks.End) -> None:
        self._end = end
        self._rest = bytearray()
        self._due = 0  # bytes that `_rest` must have before there is a whole frame
        self.pause_writing = end.pause
        self.resume_writing = end.resume

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._end.write = self.write
        self._end.connected()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.stop()

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

    def write(self, messages: Sequence[bytes]) -> None:
        pack = HEADER.pack
        parts = [part for m in messages for part in (pack(len(m)), m)]
        if len(messages[0]) < SMALL:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)


async def listen(options: protocol.Options, end: callbacks.End) -> None:
    loop, at = asyncio.get_running_loop(), protocol.target(options.address)
    end.stop = lambda: None
    if isinstance(at, str):
        server = await loop.create_unix_server(partial(Framed, end), at)
    else:
        server = await loop.create_server(partial(Framed, end), *at)
    protocol.announce(server.sockets[0].getsockname())
    await server.serve_forever()


async def connect(options: protocol.Options, end: callbacks.End) -> None:
    loop, to = asyncio.get_running_loop(), protocol.target(options.address)
    ended = asyncio.Event()
    end.stop = ended.set
    if isinstance(to, str):
        await loop.create_unix_connection(partial(Framed, end), to)
    else:
        await loop.create_connection(partial(Framed, end), *to)
    await ended.wait()


VERSION = f"asyncio Protocol, CPython {platform.python_version()}"

if __name__ == "__main__":
    callbacks.main(
        VERSION,
        lambda options, end: asyncio.run(listen(options, end)),
        lambda options, end: asyncio.run(connect(options, end)),
    )
