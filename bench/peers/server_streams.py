"""asyncio's streams, as its documentation has them: exact reads, write, drain."""

import asyncio
import platform
from struct import Struct

import protocol
import serving

HEADER = Struct("!I")


async def listen(handler: serving.Handler, address: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
                reply = handler(await reader.readexactly(size))
                writer.write(HEADER.pack(len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    at, backlog = protocol.target(address), serving.BACKLOG
    if isinstance(at, str):
        server = await asyncio.start_unix_server(talk, at, backlog=backlog)
    else:
        server = await asyncio.start_server(talk, *at, backlog=backlog)
    protocol.announce(server.sockets[0].getsockname())
    await server.serve_forever()


def serve(handler: serving.Handler, address: str) -> None:
    asyncio.run(listen(handler, address))


if __name__ == "__main__":
    serving.main(f"asyncio streams, CPython {platform.python_version()}", serve)
