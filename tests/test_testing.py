"""pysock.testing against what users write: the broken fails, the right passes."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import sys

import pytest

import pysock
import splitting
from conftest import posix
from peers import LONG, Task, background, pattern, run_python
from pysock import LengthField
from pysock.testing import every_cut, pair, socket_pair
from splitting import receive
from tls_ends import contexts

family = splitting.family

FIELD = LengthField()
SMALL = FIELD.encode(b"one") + FIELD.encode(b"") + FIELD.encode(b"three")


def read_with_loops(sock: socket.socket) -> list[bytes]:
    def exactly(n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = sock.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    messages = []
    with contextlib.suppress(EOFError):
        while True:
            messages.append(exactly(int.from_bytes(exactly(4), "big")))
    return messages


def read_by_file(sock: socket.socket) -> list[bytes]:
    with sock.makefile("rb") as file:
        return [
            file.read(int.from_bytes(header, "big"))
            for header in iter(lambda: file.read(4), b"")
        ]


def read_by_selector(sock: socket.socket) -> list[bytes]:
    sock.setblocking(False)
    decoder, messages = FIELD.decoder(), []
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        while selector.select(LONG):
            data = sock.recv(4096)
            if not data:
                break
            messages += decoder.feed(data)
    return messages


def read_by_asyncio(sock: socket.socket) -> list[bytes]:
    async def read() -> list[bytes]:
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)
        messages = []
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                messages.append(await reader.readexactly(size))
        writer.close()
        await writer.wait_closed()
        return messages

    return asyncio.run(read())


def read_by_pysock(sock: socket.socket) -> list[bytes]:
    with pysock.Connection(sock) as conn:
        return list(conn)


def one_recv_is_one_message(sock: socket.socket) -> list[bytes]:
    return [message for data in receive(sock) for message in FIELD.decoder().feed(data)]


def one_recv_is_a_header(sock: socket.socket) -> list[bytes]:
    messages = []
    while header := sock.recv(4):
        messages.append(pysock.recv_exactly(sock, int.from_bytes(header, "big")))
    return messages


def one_recv_is_a_payload(sock: socket.socket) -> list[bytes]:
    messages = []
    with contextlib.suppress(EOFError):
        while True:
            size = int.from_bytes(pysock.recv_exactly(sock, 4), "big")
            messages.append(sock.recv(size) if size else b"")
    return messages


RIGHT = [read_with_loops, read_by_file, read_by_selector, read_by_asyncio, read_by_pysock]
BROKEN = [one_recv_is_one_message, one_recv_is_a_header, one_recv_is_a_payload]


@pytest.mark.parametrize("read", RIGHT)
def test_right_reader_survives_every_cut(family, read):
    assert every_cut(SMALL, read, family=family) == [b"one", b"", b"three"]


@pytest.mark.parametrize("read", BROKEN)
def test_broken_reader_does_not(family, read):
    with socket_pair(family=family) as (a, b):
        a.sendall(SMALL)
        a.shutdown(socket.SHUT_WR)
        assert read(b) == [b"one", b"", b"three"]  # on a good day
    if sys.platform == "win32":  # where two pieces may come together: see docs/testing.md
        with pytest.raises((AssertionError, pysock.IncompleteFrame)) as told:
            every_cut(SMALL, read, family=family)
        assert "a to b: 20 bytes as " in told.value.__notes__[0]
        return
    with pytest.raises(AssertionError, match="uncut") as told:
        every_cut(SMALL, read, family=family)
    assert "a to b: 20 bytes as 20 x 1, Faults(cut=1)" in told.value.__notes__[0]


@pytest.mark.parametrize("at", range(1, len(SMALL)))
def test_one_wrong_place_is_found_and_told(at):
    """A reader that fails at one cut alone."""

    def read(sock: socket.socket) -> int:
        sizes = [len(data) for data in receive(sock)]
        if sizes == [at, len(SMALL) - at]:
            raise LookupError
        return sum(sizes)

    with pytest.raises(LookupError) as told:
        every_cut(SMALL, read)
    assert f"Faults(cut=({at},))" in told.value.__notes__[0]


def test_every_cut_is_every_cut_and_needs_no_room():
    seen = []

    def read(sock: socket.socket) -> bytes:
        seen.append([])
        for data in receive(sock):
            seen[-1].append(len(data))
            sock.sendall(data)  # nobody reads it
        return b""

    assert every_cut(bytearray(5), read) == b""
    assert seen == [[5], [1] * 5, [1, 4], [2, 3], [3, 2], [4, 1]]
    assert every_cut(b"x", len_of) == 1

    def read_once(sock: socket.socket) -> None:
        assert not results, "once is enough"
        results.append(sum(map(len, receive(sock))))

    results: list[int] = []
    with pytest.raises(AssertionError, match="once"):
        every_cut(bytes(1 << 19), read_once)
    assert results == [1 << 19]


def len_of(sock: socket.socket) -> int:
    return len(sock.recv(9))


def send_without_a_loop(sock: socket.socket, data: bytes) -> None:
    sock.send(data)


def sendmsg_without_a_loop(sock: socket.socket, data: bytes) -> None:
    sock.sendmsg([data[:4], data[4:]])


def send_in_a_loop(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[sock.send(view) :]


def send_by_file(sock: socket.socket, data: bytes) -> None:
    with sock.makefile("wb") as file:
        file.write(data)


@pytest.mark.parametrize(
    ("write", "right"),
    [
        (send_without_a_loop, False),
        pytest.param(sendmsg_without_a_loop, False, marks=posix),
        (send_in_a_loop, True),
        (send_by_file, True),
        (socket.socket.sendall, True),
    ],
)
@pytest.mark.parametrize("size", [8, 100_000])
def test_short_writes(family, write, right, size):
    frame = FIELD.encode(pattern(size))
    with socket_pair(family=family, short_writes=11) as (a, b):

        def send() -> None:
            write(a, frame)
            a.close()

        with background(send):
            assert (b"".join(receive(b)) == frame) is right


@pytest.mark.case("P14")
def test_short_writes_of_a_connection(family):
    with pair(family=family, short_writes=1) as (a, b), background(a.send, pattern(1 << 20)):
        assert b.recv() == pattern(1 << 20)
    assert a.stats.calls_out > 5


def test_tls_in_single_bytes(family):
    """Its records are cut, of the handshake too."""
    client, server = contexts()
    with socket_pair(family=family, timeout=LONG, cut=1) as (a, b):
        accepting = Task(lambda: server.wrap_socket(b, server_side=True))
        with (
            pysock.Connection(client.wrap_socket(a, server_hostname="localhost")) as conn,
            pysock.Connection(accepting.finish()) as other,
            background(lambda: other.send(other.recv())),
        ):
            assert conn.request(pattern(300)) == pattern(300)


def test_testing_needs_no_pytest():
    run_python("import sys, pysock.testing\nassert 'pytest' not in sys.modules")
