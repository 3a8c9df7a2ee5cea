"""pysock's core loops, each in one process and one thread: `instructions.py` counts them.

    instructions_loops.py describe
    instructions_loops.py LOOP ...

Each loop runs with N messages, with N again, and with 2 N; after each it calls
`sched_yield`, where callgrind, which is told so, writes down what it has counted.

Nothing here may depend on time or on who runs first, or two counts would not agree: what a
loop receives was sent before by the same thread, and fits into the kernel's buffers.  What
drives a loop is counted with it, mostly two calls of a bare socket for 100 messages.
"""

import fcntl
import os
import socket
import sys
from collections.abc import Callable
from itertools import islice

import pysock
from pysock import Connection, LengthField

SIZE, LARGE = 64, 1_000_000  # bytes; a large message with its header fits into a pipe
BATCH = 100
DEPTH = 4  # requests at a time; of more some replies would leave early, as time passes
WINDOW = 64  # datagrams
ALL = 65536

FORMAT = LengthField()
MESSAGE = bytes(SIZE)
MESSAGES = [MESSAGE] * BATCH
FRAMES = FORMAT.encode(MESSAGE) * BATCH

LOOPS: dict[str, tuple[int, Callable[[int], None]]] = {}


def loop(count: int) -> Callable[[Callable[[int], None]], Callable[[int], None]]:
    """Add a function to the loops; *count* messages show what one of them costs."""

    def add(function: Callable[[int], None]) -> Callable[[int], None]:
        LOOPS[function.__name__] = count, function
        return function

    return add


def ends() -> tuple[Connection, socket.socket]:
    """Return a connection, and the bare socket that it is connected to."""
    ours, theirs = socket.socketpair()
    return Connection(ours), theirs


# One connection, small messages.


@loop(20_000)
def recv(count: int) -> None:
    conn, peer = ends()
    receive = conn.recv
    for _ in range(count // BATCH):
        peer.sendall(FRAMES)
        for _ in range(BATCH):
            receive()


@loop(100_000)
def recv_many(count: int) -> None:
    conn, peer = ends()
    for _ in range(count // BATCH):
        peer.sendall(FRAMES)
        conn.recv_many()


@loop(100_000)
def recv_batch(count: int) -> None:
    """As recv_many, with so many messages at a time that their memory is used again."""
    conn, peer = ends()
    for _ in range(count // (5 * BATCH)):
        peer.sendall(5 * FRAMES)
        conn.recv_many()


@loop(50_000)
def recv_for(count: int) -> None:
    conn, peer = ends()
    for _ in range(count // BATCH):
        peer.sendall(FRAMES)
        for _message in islice(conn, BATCH):
            pass


@loop(20_000)
def recv_into(count: int) -> None:
    conn, peer = ends()
    receive, buffer = conn.recv_into, bytearray(SIZE)
    for _ in range(count // BATCH):
        peer.sendall(FRAMES)
        for _ in range(BATCH):
            receive(buffer)


@loop(20_000)
def send(count: int) -> None:
    conn, peer = ends()
    give = conn.send
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            give(MESSAGE)
        peer.recv(ALL)


@loop(100_000)
def send_many(count: int) -> None:
    conn, peer = ends()
    for _ in range(count // BATCH):
        conn.send_many(MESSAGES)
        peer.recv(ALL)


@loop(5_000)
def pingpong(count: int) -> None:
    """Both ends."""
    ours, theirs = map(Connection, socket.socketpair())
    for _ in range(count):
        ours.send(MESSAGE)
        theirs.send(theirs.recv())
        ours.recv()


@loop(5_000)
def request(count: int) -> None:
    conn, peer = ends()
    ask, frame = conn.request, FORMAT.encode(MESSAGE)
    for _ in range(count):
        peer.send(frame)
        ask(MESSAGE)
        peer.recv(ALL)


@loop(20_000)
def request_many(count: int) -> None:
    conn, peer = ends()
    for _ in range(count // BATCH):
        peer.sendall(FRAMES)
        conn.request_many(MESSAGES)
        peer.recv(ALL)


# One connection, large messages: of all that a thread can talk to itself through, only a
# pipe holds one.


def pipe() -> tuple[Connection, int, int]:
    """Return a connection that sends to itself, and its descriptors."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    return Connection.from_fds(reader, writer), reader, writer


@loop(500)
def recv_large(count: int) -> None:
    conn, _reader, writer = pipe()
    frame = FORMAT.encode(bytes(LARGE))
    for _ in range(count):
        os.write(writer, frame)
        conn.recv()


@loop(500)
def recv_into_large(count: int) -> None:
    conn, _reader, writer = pipe()
    frame, buffer = FORMAT.encode(bytes(LARGE)), bytearray(LARGE)
    for _ in range(count):
        os.write(writer, frame)
        conn.recv_into(buffer)


@loop(500)
def send_large(count: int) -> None:
    conn, reader, _writer = pipe()
    message, buffers = bytes(LARGE), [bytearray(FORMAT.pack_header(LARGE)), bytearray(LARGE)]
    for _ in range(count):
        conn.send(message)
        os.readv(reader, buffers)


# Framing without a socket.


def feed(framing: pysock.Format, count: int) -> None:
    decoder, frames = framing.decoder(), framing.encode(MESSAGE) * BATCH
    for _ in range(count // BATCH):
        decoder.feed(frames)


@loop(100_000)
def feed_length(count: int) -> None:
    feed(FORMAT, count)


@loop(100_000)
def feed_varint(count: int) -> None:
    feed(pysock.Varint(), count)


@loop(100_000)
def feed_delimiter(count: int) -> None:
    feed(pysock.Delimiter(), count)


@loop(20_000)
def encode(count: int) -> None:
    for _ in range(count):
        FORMAT.encode(MESSAGE)


@loop(20_000)
def pack_header(count: int) -> None:
    for _ in range(count):
        FORMAT.pack_header(SIZE)


@loop(20_000)
def unpack_header(count: int) -> None:
    for _ in range(count):
        FORMAT.unpack_header(FRAMES)


# Servers.  Their handler is the client too: with the last request of a batch it sends the
# next one, and now and then takes the replies that have come.


def echo_server(count: int, depth: int) -> None:
    listener, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    listener.bind("listener")  # in a folder that the runner has made
    listener.listen()
    client.connect("listener")
    os.unlink("listener")
    batch, left = FORMAT.encode(MESSAGE) * depth, count
    drain = 16 * depth  # by then some replies have come, and not too many

    def handler(message: bytes) -> bytes:
        nonlocal left
        left -= 1
        if left == 0:
            server.stop(0)
        elif left % depth == 0:
            client.send(batch)
            if left % drain == 0:
                client.recv(ALL)
        return message

    client.send(batch)
    with pysock.Server(listener, handler, workers=0) as server:
        server.serve_forever()


@loop(16 * 300)
def server(count: int) -> None:
    echo_server(count, 1)


@loop(16 * DEPTH * 100)
def server_batch(count: int) -> None:
    echo_server(count, DEPTH)


# Datagrams, over UDP: Unix sockets have a queue of 10 only.


def datagram_ends() -> tuple[pysock.DatagramClient, pysock.DatagramClient]:
    """Return a receiver, and a sender to it."""
    receiver = pysock.DatagramClient(bind="udp://127.0.0.1:0")
    return receiver, pysock.DatagramClient(receiver.getsockname())


@loop(WINDOW * 100)
def datagram_one(count: int) -> None:
    """Sent and received one by one."""
    receiver, sender = datagram_ends()
    give, receive = sender.send, receiver.recv
    for _ in range(count // WINDOW):
        for _ in range(WINDOW):
            give(MESSAGE)
        for _ in range(WINDOW):
            receive()


@loop(WINDOW * 500)
def datagram_many(count: int) -> None:
    """Sent and received in batches."""
    receiver, sender = datagram_ends()
    window = [MESSAGE] * WINDOW
    for _ in range(count // WINDOW):
        sender.send_many(window)
        left = WINDOW
        while left:
            left -= len(receiver.recv_many(left))


@loop(WINDOW * 100)
def datagram_server(count: int) -> None:
    """With the client's `send_many`; it reads no replies, and the kernel drops them."""
    window, left = [MESSAGE] * WINDOW, count

    def handler(message: bytes) -> bytes:
        nonlocal left
        left -= 1
        if left == 0:
            server.stop(0)
        elif left % WINDOW == 0:
            client.send_many(window)
        return message

    with pysock.DatagramServer("udp://127.0.0.1:0", handler, workers=0) as server:
        client = pysock.DatagramClient(server.server_address)
        client.send_many(window)
        server.serve_forever()


def describe() -> dict[str, object]:
    """Return where pysock is, the loops' counts, and what else decides about a figure."""
    import platform
    import re
    from pathlib import Path

    module = Path(pysock.framing.__file__)
    code = module.read_bytes()
    compiler = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\w.]+", code)
    cython = re.search(rb"_cython_(\d+(?:_\w+)+)", code)
    return {
        "folder": str(module.parent.parent),
        "module": module.name,
        "counts": {name: count for name, (count, _) in LOOPS.items()},
        "made_with": {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "python's compiler": platform.python_compiler(),
            "module's compiler": compiler[0].decode() if compiler else "unknown",
            "cython": cython[1].decode().replace("_", ".") if cython else "unknown",
            "machine": f"{platform.system()} {platform.machine()}",
            "libc": " ".join(platform.libc_ver()),
        },
    }


if __name__ == "__main__":
    if sys.argv[1] == "describe":
        import json

        print(json.dumps(describe()))
    else:
        for name in sys.argv[1:]:
            count, function = LOOPS[name]
            for messages in (count, count, 2 * count):
                function(messages)
                os.sched_yield()
