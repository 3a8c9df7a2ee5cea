"""What every Python peer shares: the works and the lines spoken with the runner.

    PEER.py version
    PEER.py server WORK tcp://127.0.0.1:0 | unix:///path COUNT SIZE SPIN
    PEER.py client WORK ADDRESS COUNT SIZE SPIN

A peer file gives `serve` and `connect`, which return a connection with the
calls of `Conn`; the works below are the same for all.  `c_peer.c` says the same.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from time import perf_counter
from typing import Any, Protocol

MiB = 1024 * 1024
DEPTH = 16  # requests under way in the pipelined work
BATCH = 1000  # messages handed over at once in the streams of small ones


class Conn(Protocol):
    """The calls that the works make; a rival gives those it is measured by."""

    def send(self, message: Any, /) -> Any: ...
    def recv(self) -> Any: ...
    def send_many(self, messages: Sequence[bytes], /) -> Any: ...
    def recv_many(self) -> Sequence[Any]: ...
    def request_many(self, messages: Sequence[bytes], /) -> Sequence[Any]: ...
    def recv_into(self, buffer: Any, /) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def close(self) -> Any: ...


class OneByOne:
    """The batches of a rival that has none: its `send` and `recv` in a loop."""

    send: Callable[[Any], Any]
    recv: Callable[[], Any]

    def send_many(self, messages: Sequence[bytes]) -> None:
        send = self.send
        for message in messages:
            send(message)

    def recv_many(self) -> Sequence[Any]:
        return (self.recv(),)

    def request_many(self, messages: Sequence[bytes]) -> Sequence[Any]:
        self.send_many(messages)
        recv = self.recv
        return [recv() for _ in messages]

    def __iter__(self) -> Iterator[Any]:
        recv = self.recv
        while True:
            yield recv()


@dataclass(frozen=True)
class Options:
    """One command line."""

    work: str
    address: str
    count: int
    size: int
    spin: float


Announce = Callable[[Any], None]
Serve = Callable[[Options, Announce], Conn]
Connect = Callable[[Options], Conn]

# The works.  A client's half is one round; a server's half is one round where
# the client waits for an acknowledgement, else it echoes until the client goes.


def pingpong_client(conn: Conn, options: Options, message: bytes) -> None:
    send, recv = conn.send, conn.recv
    for _ in range(options.count):
        send(message)
        reply = recv()
    check(reply, options)


def pingpong_server(conn: Conn, options: Options) -> None:
    send, recv = conn.send, conn.recv
    while True:
        send(recv())


def pipelined_client(conn: Conn, options: Options, message: bytes) -> None:
    batch = [message] * DEPTH
    for _ in range(options.count // DEPTH):
        replies = conn.request_many(batch)
    check(replies[-1], options)


def pipelined_server(conn: Conn, options: Options) -> None:
    while True:
        conn.send_many(conn.recv_many())


def stream_small_client(conn: Conn, options: Options, message: bytes) -> None:
    batch = [message] * BATCH
    for _ in range(options.count // BATCH):
        conn.send_many(batch)
    conn.recv()


def stream_many_server(conn: Conn, options: Options) -> None:
    got = 0
    while got < options.count:
        got += len(conn.recv_many())
    conn.send(b"ok")


def stream_each_server(conn: Conn, options: Options) -> None:
    for _message in islice(conn, options.count):
        pass
    conn.send(b"ok")


def stream_client(conn: Conn, options: Options, message: bytes) -> None:
    send = conn.send
    for _ in range(options.count):
        send(message)
    conn.recv()


def stream_server(conn: Conn, options: Options) -> None:
    recv = conn.recv
    for _ in range(options.count):
        recv()
    conn.send(b"ok")


def stream_into_server(conn: Conn, options: Options) -> None:
    buffer = one_buffer(options.size)
    recv_into = conn.recv_into
    for _ in range(options.count):
        recv_into(buffer)
    conn.send(b"ok")


def stream_view_server(conn: Any, options: Options) -> None:
    for _ in range(options.count):
        with conn.recv_view():
            pass
    conn.send(b"ok")


def echo_client(conn: Conn, options: Options, message: bytes) -> None:
    for _ in range(options.count):
        reply = None  # the one before is given up first, as C frees it
        conn.send(message)
        reply = conn.recv()
    check(reply, options)


def echo_into_client(conn: Conn, options: Options, message: bytes) -> None:
    buffer = one_buffer(options.size)
    for _ in range(options.count):
        conn.send(message)
        size = conn.recv_into(buffer)
    check(memoryview(buffer)[:size], options)


def echo_into_server(conn: Conn, options: Options) -> None:
    buffer = one_buffer(options.size)
    view = memoryview(buffer)
    while True:
        conn.send(view[: conn.recv_into(buffer)])


def handshakes_client(conn: Any, options: Options, message: bytes) -> None:
    for _ in range(options.count):
        conn.handshake()


def serving_server(conn: Any, options: Options) -> None:
    conn.serve_forever()


def output_client(conn: Any, options: Options, message: bytes) -> None:
    if (got := conn.output(options.count)) != options.count * MiB:
        raise ValueError(f"output of {got} bytes, expected {options.count} MiB")


def true_client(conn: Any, options: Options, message: bytes) -> None:
    for _ in range(options.count):
        if status := conn.true():
            raise ValueError(f"status {status}, expected 0")


def put_client(conn: Any, options: Options, message: bytes) -> None:
    conn.put()


def get_client(conn: Any, options: Options, message: bytes) -> None:
    if (got := os.path.getsize(conn.get())) != options.count * MiB:
        raise ValueError(f"file of {got} bytes, expected {options.count} MiB")


WORKS: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
    "pingpong": (pingpong_client, pingpong_server),
    "pipelined": (pipelined_client, pipelined_server),
    "stream_many": (stream_small_client, stream_many_server),
    "stream_each": (stream_small_client, stream_each_server),
    "stream": (stream_client, stream_server),
    "stream_into": (stream_client, stream_into_server),
    "stream_view": (stream_client, stream_view_server),
    "echo": (echo_client, pingpong_server),
    "echo_into": (echo_into_client, echo_into_server),
    "handshakes": (handshakes_client, serving_server),
    "output": (output_client, serving_server),
    "true": (true_client, serving_server),
    "put": (put_client, serving_server),
    "get": (get_client, serving_server),
}


@cache
def one_buffer(size: int) -> bytearray:
    """Return the same buffer in all rounds, as C has it: a new one costs time."""
    return bytearray(size)


def check(reply: Any, options: Options) -> None:
    """Refuse a reply of the wrong size; only the last of a round is looked at."""
    if len(reply) != options.size:
        raise ValueError(f"reply of {len(reply)} bytes, expected {options.size}")


def gone() -> int:
    """Refuse the end of a stream in the midst of a work."""
    raise EOFError


def target(address: str) -> tuple[str, int] | str:
    """Return what `socket.connect` takes for *address*: (host, port), or a path."""
    scheme, rest = address.split("://")
    if scheme == "unix":
        return rest
    host, port = rest.rsplit(":", 1)
    return host, int(port)


def accept(options: Options, announce: Announce) -> socket.socket:
    """Return the first connection to a new listener at the address of *options*."""
    at = target(options.address)
    family = socket.AF_UNIX if isinstance(at, str) else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(at)
        listener.listen(1)
        announce(listener.getsockname())
        return listener.accept()[0]


def dial(options: Options) -> socket.socket:
    """Return a socket connected to the address of *options*, left as it is born."""
    to = target(options.address)
    sock = socket.socket(socket.AF_UNIX if isinstance(to, str) else socket.AF_INET)
    sock.connect(to)
    return sock


def main(version: str, serve: Serve, connect: Connect) -> None:
    """Be one end of a rival, as the command line says."""
    if sys.argv[1] == "version":
        print(version)
        return
    role, work, address, count, size, spin = sys.argv[1:]
    options = Options(work, address, int(count), int(size), float(spin))
    client_half, server_half = WORKS[work]
    if role == "client":
        conn = connect(options)
        message = b"x" * options.size
        print("ready", flush=True)
        for _ in sys.stdin:
            started = perf_counter()
            client_half(conn, options, message)
            print(perf_counter() - started, flush=True)
        conn.close()
        return
    end_with_the_runner()
    conn = serve(options, announce)
    try:
        while True:
            server_half(conn, options)
    except (EOFError, ConnectionError):
        conn.close()


def announce(at: Any) -> None:
    """Tell the runner where the server listens."""
    text = at if isinstance(at, str) else f"{at[0]}:{at[1]}"
    print(f"{'unix' if isinstance(at, str) else 'tcp'}://{text}", flush=True)


def end_with_the_runner() -> None:
    """Leave a child behind that ends this process when its standard input ends.

    A runner that was killed closes nothing but its pipes, and a rival without a notion of
    "connection" (pyzmq) never hears that its client is gone.  A thread could do it, but what
    is measured shall have no thread that the rival has not, and some fork, or become another
    program.
    """
    server = os.getpid()
    if os.fork():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's affair
    os.close(1)
    while os.read(0, 1):
        pass
    if os.getppid() == server:
        os.kill(server, signal.SIGTERM)
    os._exit(0)
