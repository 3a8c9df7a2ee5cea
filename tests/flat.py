"""What is done again and again in a process of its own, where memory must stay flat.

    python tests/flat.py WHAT ARGUMENT...

There, because what other tests have left in this process would hide what is looked for.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import re
import resource
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import mistakes
import pysock
import pysock.handshake
from pysock import Connection, LengthField, tls

MIB = 1 << 20
HERE = "tcp://127.0.0.1:0"
KEY, OTHER_KEY = bytes(32), bytes(range(32))
LONG = 60.0 * float(os.environ.get("PYSOCK_TEST_TIME_FACTOR", "1"))
FIELD = LengthField()
PART = FIELD.pack_header(1 << 20) + b"the rest never comes"
# Whoever is refused may see the end first, or be told why.
REFUSED = (OSError, pysock.ConnectionClosed, pysock.AuthenticationError)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def descriptors() -> Counter[str]:
    """Return how many there are of each kind: sockets, pollers, eventfds, files."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{name}")
            found[re.sub(r":\[\d+\]$", "", link)] += 1  # but anon_inode:[eventpoll] as it is
    return found


def flat(some: Callable[[int], object], count: int) -> None:
    """Do *some* to warm up, then *count* times, which must cost nothing more."""
    some(max(200, count // 10))
    gc.collect()
    opened, blocks, before = descriptors(), sys.getallocatedblocks(), resident()
    some(count)
    most = max(count // 10, 100)  # one object of Python's for each would be seen long before
    end = time.monotonic() + LONG
    while time.monotonic() < end:  # the server may not have let go of the last ones yet
        more = descriptors() - opened
        gc.collect()
        kept, grown = sys.getallocatedblocks() - blocks, resident() - before
        if not more and kept < most and grown < MIB:
            return
        time.sleep(0.01)
    raise AssertionError(
        f"{more or 'no'} more descriptors of {opened}, "
        f"{kept / count:.2f} blocks and {grown / count:.1f} bytes each"
    )


def spread(some: Callable[[int], object], count: int, threads: int = 8) -> None:
    """Have threads do it, together *count* times."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            some(max(1, count // threads))
        except BaseException as exc:
            errors.append(exc)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


# ------------------------------------------------------------ connections


def connects(address: str, count: int) -> None:
    """Connect, have a message echoed, close."""
    with pysock.Server(address, bytes.upper).start() as server:

        def some(count: int) -> None:
            for _ in range(count):
                with pysock.Client(server.address, timeout=LONG) as client:
                    assert client.request(b"hello") == b"HELLO"

        flat(some, count)
        assert server.stats["handler_errors"] == 0


def parks(workers: int, count: int) -> None:
    """A connection waits in the poller after each message, and threads take turns."""

    def handler(message: bytes, connection: Connection) -> bytes:
        if message == b"block":  # another thread has to take over
            connection.recv()
        return message

    with (
        pysock.Server(HERE, handler, workers=workers).start() as server,
        pysock.Client(server.address, timeout=LONG) as client,
        pysock.Client(server.address, timeout=LONG) as other,
    ):

        def some(count: int) -> None:
            for i in range(count):
                if workers and i % 8 == 0:
                    other.send(b"block")
                assert client.request(b"x") == b"x"
                if workers and i % 8 == 0:
                    assert other.request(b"go on") == b"block"

        flat(some, count)
        counted = descriptors()
        assert counted["anon_inode:[eventpoll]"] == 1, counted
        if workers:
            assert server.stats["takeovers"] > 0


# ------------------------------------------------------------ handshakes that fail


def _answer(sock: socket.socket, data: bytes, context: ssl.SSLContext | None) -> None:
    sock.settimeout(LONG)
    if context is None:
        sock.sendall(data)
        while sock.recv(4096):
            pass
    else:
        with context.wrap_socket(sock, server_hostname="localhost") as encrypted:
            encrypted.recv(1)  # where a missing certificate is found out


def handshakes(folder: str, count: int) -> None:
    """Clients that do no TLS, that break off, that trust nobody, that have no certificate."""
    files = (f"{folder}/certificate.pem", f"{folder}/key.pem")
    context = tls.server_context(*files, client_ca=files[0])
    trusting = tls.client_context(ca=files[0])
    strict = tls.client_context(ca=f"{folder}/other.pem")
    begun = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    ways: list[tuple[bytes, ssl.SSLContext | None]] = [
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (begun, None),
        (b"", strict),
        (b"", trusting),
    ]
    with pysock.Server(HERE, bytes.upper, tls=context).start() as server:

        def some(count: int) -> None:
            for i in range(count):
                data, client = ways[i % len(ways)]
                with socket.create_connection(server.server_address) as sock:
                    if data is begun:
                        sock.sendall(data)
                        continue
                    with contextlib.suppress(*REFUSED):
                        _answer(sock, data, client)

        flat(some, count)
        assert server.stats["messages_in"] == 0


def proofs(count: int) -> None:
    """Clients that prove a wrong key, or none."""
    pysock.handshake._DELAY = 0.0  # for each wrong proof

    with pysock.Server(HERE, bytes.upper, authkey=KEY).start() as server:

        def some(count: int) -> None:
            for i in range(count):
                if i % 4 == 0:
                    with (
                        contextlib.suppress(*REFUSED),
                        socket.create_connection(server.server_address) as sock,
                    ):
                        _answer(sock, b"\xffpysock\1 but then", None)
                    continue
                try:
                    pysock.Client(server.address, authkey=OTHER_KEY, connect_timeout=LONG)
                except REFUSED:
                    continue
                raise AssertionError("a wrong key was good enough")

        flat(some, count)
        assert server.stats["messages_in"] == 0


# ------------------------------------------------------------ timeouts


def timeouts(count: int) -> None:
    """Receiving and sending stop in mid-message, each time with a new connection."""
    message = bytes(400_000)

    def some(count: int) -> None:
        for i in range(count):
            near, far = socket.socketpair()
            with far, Connection(near, FIELD, timeout=0.001, linger=0.0) as conn:
                try:
                    if i % 5 == 0:
                        conn.send(message)
                    else:
                        far.sendall(PART)
                        (conn.recv if i % 2 else conn.recv_view().__enter__)()
                except TimeoutError:
                    continue
            raise AssertionError("it came to an end")

    flat(lambda count: spread(some, count), count)


def overdue(count: int) -> None:
    """A server cuts those who stop in mid-message."""
    options: dict[str, Any] = {"minimum_rate": (0.01, 1e6), "max_memory": MIB}
    with pysock.Server(HERE, bytes.upper, **options).start() as server:

        def some(count: int) -> None:
            before = server.stats["overdue"]
            for _ in range(count // 50):
                socks = [socket.create_connection(server.server_address) for _ in range(50)]
                for sock in socks:
                    sock.sendall(PART)
                for sock in socks:
                    sock.settimeout(LONG)
                    with sock, contextlib.suppress(ConnectionResetError):
                        assert sock.recv(1) == b""
            assert server.stats["overdue"] - before == count // 50 * 50

        flat(some, count)


# ------------------------------------------------------------ calls that fail


def fails(kind: str, first: int, step: int, count: int) -> None:
    """The mistakes of a kind, each so often; those that wait beside each other."""
    names = [name for name, one in mistakes.MISTAKES.items() if one.kind == kind]
    for name in names[first::step]:
        mistake = mistakes.MISTAKES[name]
        shared = (None, True, mistakes.FROZEN, mistakes.HOLES, mistakes.FIELD, pysock)
        try:
            with mistakes.prepared(mistake) as (call, _):
                counted = [sys.getrefcount(one) for one in shared]
                flat(functools.partial(_fail, call, mistake.raises), count)
                for one, before in zip(shared, counted, strict=True):
                    assert abs(sys.getrefcount(one) - before) < max(count // 10, 100), one
        except AssertionError as exc:
            raise AssertionError(name) from exc


def _fail(call: Callable[[], object], raises: type[BaseException], count: int) -> None:
    for _ in range(count):
        try:
            call()
        except raises:
            continue
        raise AssertionError("it did not fail")


def waits(count: int) -> None:
    """Those that wait until a deadline, each in a thread."""
    names = [name for name, one in mistakes.MISTAKES.items() if one.kind == "waits"]
    with contextlib.ExitStack() as stack:
        every = [mistakes.MISTAKES[name] for name in names]
        calls = [stack.enter_context(mistakes.prepared(one))[0] for one in every]
        numbers = iter(range(1 << 30))

        def some(count: int) -> None:
            number = next(numbers) % len(calls)
            _fail(calls[number], every[number].raises, count)

        flat(lambda count: spread(some, count, len(calls)), count * len(calls))


CASES: dict[str, Callable[..., None]] = {
    case.__name__: case
    for case in (connects, parks, handshakes, proofs, timeouts, overdue, fails, waits)
}


def main(name: str, *arguments: str) -> None:
    logging.disable()
    CASES[name](*(int(word) if word.isdecimal() else word for word in arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
