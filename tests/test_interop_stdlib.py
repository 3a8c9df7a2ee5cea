"""The standard library's own: multiprocessing.connection, asyncio, plain sockets."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import unix
from interop.messages import MIB, Echo, messages
from interop.program import LIMIT, first_line, running, script
from pysock import Client, Connection, LengthField, Raw, Server, formats

# multiprocessing.connection sends up to 16384 bytes together with their header.
SIZES = (0, 1, 16383, 16384, 16385, MIB)

families = pytest.mark.parametrize("family", ["tcp", pytest.param("unix", marks=unix)])


# --- multiprocessing.connection ---


@families
def test_messages_come_back_from_a_multiprocessing_listener(family, tmp_path):
    place = "0" if family == "tcp" else str(tmp_path / "s")
    wanted = messages(SIZES)
    with running(*script("multiprocessing_peer.py", "server", place)) as peer:
        where = first_line(peer)
        address = ("127.0.0.1", int(where)) if family == "tcp" else where
        with Client(address, formats.MULTIPROCESSING, timeout=LIMIT) as client:
            assert [client.request(message) for message in wanted] == wanted
            assert client.request_many(wanted * 4) == wanted * 4


@families
def test_messages_come_back_to_a_multiprocessing_client(family, tmp_path):
    address = "tcp://127.0.0.1:0" if family == "tcp" else str(tmp_path / "s")
    handler = Echo()
    with Server(address, handler, framing=formats.MULTIPROCESSING) as server:
        server.start()
        where = server.server_address[1] if family == "tcp" else server.server_address
        with running(*script("multiprocessing_peer.py", "client", where, *SIZES)):
            pass
    assert handler.seen == messages(SIZES) * 2


@unix
def test_one_end_of_a_multiprocessing_pipe():
    wanted = messages([0, 1, 16384, 16385])
    ours, theirs = multiprocessing.Pipe()
    with theirs:
        with ours:
            sock = socket.socket(fileno=os.dup(ours.fileno()))
        with Connection(sock, formats.MULTIPROCESSING, timeout=LIMIT) as connection:
            for message in wanted:
                connection.send(message)
                assert theirs.recv_bytes() == message
                theirs.send_bytes(message)
                assert connection.recv() == message


# --- asyncio ---


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def test_messages_come_back_from_asyncio_streams():
    wanted = messages(SIZES)
    rests = []

    async def echo(reader, writer):
        try:
            while True:
                writer.write(frame(await read_frame(reader)))
                await writer.drain()
        except asyncio.IncompleteReadError as exc:
            rests.append(exc.partial)
        writer.close()
        await writer.wait_closed()

    def exchange(port):
        with Client(("127.0.0.1", port), LengthField(), timeout=LIMIT) as client:
            assert [client.request(message) for message in wanted] == wanted
            assert client.request_many(wanted * 4) == wanted * 4
            client.shutdown(socket.SHUT_WR)
            assert list(client) == []

    async def serve():
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            await asyncio.to_thread(exchange, server.sockets[0].getsockname()[1])

    asyncio.run(serve())
    assert rests == [b""]


def test_messages_come_back_to_asyncio_streams():
    wanted = messages(SIZES)
    handler = Echo()

    async def call(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for message in wanted:
            writer.write(frame(message))
            assert await read_frame(reader) == message
        for message in wanted:
            writer.write(frame(message))
        assert [await read_frame(reader) for _ in wanted] == wanted
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    async def call_in_time(port):
        await asyncio.wait_for(call(port), LIMIT)

    with Server("tcp://127.0.0.1:0", handler) as server:
        server.start()
        asyncio.run(call_in_time(server.server_address[1]))
    assert handler.seen == wanted * 2


# --- plain sockets, as tutorials have them ---


def test_tutorial_client_is_answered_by_a_raw_server():
    with Server("tcp://127.0.0.1:0", bytes.upper, framing=Raw()) as server:
        server.start()
        for _ in range(2):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.settimeout(LIMIT)
            client.connect(server.server_address)
            for text in ("hello", "你好, world"):
                client.send(text.encode())
                assert client.recv(1024).decode() == text.upper()
            client.close()


def test_plain_client_that_will_send_no_more_gets_all_it_is_owed():
    def send(client):
        client.sendall(b"abc" * MIB)
        client.shutdown(socket.SHUT_WR)

    reply = bytearray()
    with Server("tcp://127.0.0.1:0", bytes.upper, framing=Raw()) as server:
        server.start()
        where = server.server_address
        with socket.create_connection(where, LIMIT) as client, ThreadPoolExecutor(1) as thread:
            sent = thread.submit(send, client)
            while data := client.recv(65536):
                reply += data
            sent.result()
    assert reply == b"ABC" * MIB


def test_raw_client_is_answered_by_a_tutorial_server():
    def serve(listener):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(LIMIT)
            while data := connection.recv(1024):
                connection.send(data.upper())

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        listener.settimeout(LIMIT)
        served = thread.submit(serve, listener)
        with Client(listener.getsockname(), Raw(), timeout=LIMIT) as client:
            assert client.request(b"hello") == b"HELLO"
            assert client.request(b"world") == b"WORLD"
        served.result()
