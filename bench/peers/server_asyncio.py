"""asyncio: a Protocol that takes all whole frames of a read and writes the replies at once.

With "plain" each reply is written by itself, as it is mostly seen.
"""

import asyncio
import platform
import sys
from functools import partial
from struct import Struct
from typing import cast

import protocol
import serving

HEADER = Struct("!I")


class Framed(asyncio.Protocol):
    def __init__(self, handler: serving.Handler) -> None:
        self._handler = handler
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        handler, unpack_from, pack = self._handler, HEADER.unpack_from, HEADER.pack
        if self._rest:
            data = self._rest + data
        out: list[bytes] = []
        at, last = 0, len(data) - HEADER.size
        while at <= last:
            start = at + HEADER.size
            end = start + unpack_from(data, at)[0]
            if end > len(data):
                break
            reply = handler(data[start:end])
            out += (pack(len(reply)), reply)
            at = end
        self._rest = data[at:]
        self.write(out)

    def write(self, out: list[bytes]) -> None:
        if out:
            self._transport.write(b"".join(out))

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()


class FramedPlain(Framed):
    def write(self, out: list[bytes]) -> None:
        parts = iter(out)
        for header in parts:
            self._transport.write(header + next(parts))


async def listen(handler: serving.Handler, address: str) -> None:
    loop = asyncio.get_running_loop()
    at, backlog = protocol.target(address), serving.BACKLOG
    framed = partial(FramedPlain if sys.argv[1] == "plain" else Framed, handler)
    if isinstance(at, str):
        server = await loop.create_unix_server(framed, at, backlog=backlog)
    else:
        server = await loop.create_server(framed, *at, backlog=backlog)
    protocol.announce(server.sockets[0].getsockname())
    await server.serve_forever()


def serve(handler: serving.Handler, address: str) -> None:
    asyncio.run(listen(handler, address))


if __name__ == "__main__":
    serving.main(f"asyncio Protocol, CPython {platform.python_version()}", serve)
