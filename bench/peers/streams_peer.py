"""asyncio's streams, as its documentation has them: exact reads, write, drain."""

import asyncio
import platform
import sys
from collections.abc import Sequence
from struct import Struct
from time import perf_counter

import protocol

HEADER = Struct("!I")
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def recv(reader: asyncio.StreamReader) -> bytes:
    (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
    return await reader.readexactly(size)


async def send(writer: asyncio.StreamWriter, messages: Sequence[bytes]) -> None:
    for message in messages:
        writer.writelines((HEADER.pack(len(message)), message))
    await writer.drain()


async def client_round(options: protocol.Options, ends: Ends, batch: list[bytes]) -> None:
    reader, writer = ends
    streams = options.work.startswith("stream")
    for _ in range(options.count // len(batch)):
        await send(writer, batch)
        if not streams:
            replies = [await recv(reader) for _ in batch]
    if streams:
        await recv(reader)
    else:
        protocol.check(replies[-1], options)


async def client(options: protocol.Options) -> None:
    to = protocol.target(options.address)
    unix = isinstance(to, str)
    ends = await (asyncio.open_unix_connection(to) if unix else asyncio.open_connection(*to))
    small = options.work in ("stream_many", "stream_each")
    window = protocol.DEPTH if options.work == "pipelined" else 1
    batch = [b"x" * options.size] * (protocol.BATCH if small else window)
    print("ready", flush=True)
    while sys.stdin.readline():
        started = perf_counter()
        await client_round(options, ends, batch)
        print(perf_counter() - started, flush=True)
    ends[1].close()


async def server(options: protocol.Options) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                if options.work.startswith("stream"):
                    for _ in range(options.count):
                        await recv(reader)
                    await send(writer, [b"ok"])
                else:
                    await send(writer, [await recv(reader)])
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    at = protocol.target(options.address)
    unix = isinstance(at, str)
    listener = await (
        asyncio.start_unix_server(talk, at) if unix else asyncio.start_server(talk, *at)
    )
    protocol.announce(listener.sockets[0].getsockname())
    await listener.serve_forever()


def main() -> None:
    if sys.argv[1] == "version":
        print(f"asyncio streams, CPython {platform.python_version()}")
        return
    role, work, address, count, size, spin = sys.argv[1:]
    options = protocol.Options(work, address, int(count), int(size), float(spin))
    if role == "server":
        protocol.end_with_the_runner()
    asyncio.run(client(options) if role == "client" else server(options))


if __name__ == "__main__":
    main()
