"""Calls in which one allocation finds no memory: the first, the second, and so on.

Run as a program, in a process of its own: `python starving.py stream`, say.  It prints a
line for each thing that is wrong, and then how many failures there were.
"""

from __future__ import annotations

import _testcapi
import contextlib
import errno
import gc
import io
import os
import socket
import ssl
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pysock

MOST = 3000  # allocations in one call
PASSES = 4  # in a row, and no more is looked for
LEAK = 50  # bytes that a failure may leave, on average over a few
ROUNDS = 2
# What the interpreter raises itself: "can't allocate lock", "NULL without an exception".
OF_PYTHON = ("RuntimeError", "SystemError")

Act = Callable[[Any, Any], Any]
Check = Callable[[Any, Any, Any, BaseException | None], None]
Pair = Callable[[], contextlib.AbstractContextManager[tuple[Any, Any]]]


def starved(act: Act, near: Any, far: Any, which: int) -> tuple[Any, BaseException | None]:
    """Call with the allocation of that number failing; return (result, error)."""
    result = error = None
    _testcapi.set_nomemory(which, which + 1)
    try:
        result = act(near, far)
    except BaseException as exc:
        _testcapi.remove_mem_hooks()
        error = exc.with_traceback(None)
        error.__context__ = None
    else:
        _testcapi.remove_mem_hooks()
    return result, error


def attempt(pair: Pair, prepare: Act, act: Act, check: Check, which: int) -> str:
    """Return the name of the error that the call has raised, or ""."""
    with pair() as (near, far):
        prepare(near, far)
        result, error = starved(act, near, far, which)
        try:
            check(near, far, result, error)
        except Exception as exc:
            exc.add_note(f"allocation {which}, which made {error!r} and {str(result)[:60]}")
            raise
        return "" if error is None else type(error).__name__


def used() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def every_allocation(
    name: str, pair: Pair, prepare: Act, act: Act, check: Check
) -> Iterator[str]:
    """Yield what is wrong; a call raises MemoryError, or has done its work."""
    passes = which = failures = 0

    def left_by(rounds: int) -> str:
        before, descriptors = used(), len(os.listdir("/proc/self/fd"))
        for _ in range(rounds):
            attempt(pair, prepare, act, check, which)
        left, opened = used() - before, len(os.listdir("/proc/self/fd")) - descriptors
        return f"{left} bytes, {opened} open" if left > rounds * LEAK or opened > 0 else ""

    attempt(pair, prepare, act, check, MOST)  # what is made once, at the first call
    while passes < PASSES and which < MOST:
        try:
            raised = attempt(pair, prepare, act, check, which)
            passes = 0 if raised else passes + 1
            failures += bool(raised)
            if raised not in ("", "MemoryError", *OF_PYTHON):
                yield f"{name}: {raised} at {which}"
            # A cache that grows once, or twice, is no leak.
            measures = (left_by(rounds) for rounds in (ROUNDS, 32 * ROUNDS, 32 * ROUNDS))
            if raised and all(left := each for each in measures):
                yield f"{name}: leaked at {which}: {left}"
        except Exception as exc:
            passes = 0
            yield f"{name}: {exc!r} at {' '.join(exc.__notes__)}"
        which += 1
    if which == MOST:
        yield f"{name}: it never came to an end"
    yield f"# {name}: {failures} failures of {which}"


# ------------------------------------------------------------ streams

FIRST, SECOND, LAST = 1, 2, 3


def message(number: int, size: int) -> bytes:
    return bytes([number]) * size


@contextlib.contextmanager
def sockets(**options: Any) -> Iterator[tuple[Any, Any]]:
    socks = socket.socketpair()
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    near, far = (pysock.Connection(sock, timeout=1, linger=0, **options) for sock in socks)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


def tls_pairs(folder: str) -> Pair:
    """Return what makes ends with TLS, which know each other's certificate."""
    import trustme

    certificate = trustme.CA().issue_cert("localhost")
    path = f"{folder}/certificate.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(path)
    serving.num_tickets = 0
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE

    @contextlib.contextmanager
    def pair() -> Iterator[tuple[Any, Any]]:
        socks = socket.socketpair()
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        both = [
            pysock.framing._Tls(socks[0], asking, False, "localhost"),
            pysock.framing._Tls(socks[1], serving, True),
        ]
        while [tls.handshake() for tls in both] != [0, 0]:
            pass
        near, far = (
            pysock.Connection(sock, timeout=1, linger=0, _tls=tls)
            for sock, tls in zip(socks, both, strict=True)
        )
        try:
            yield near, far
        finally:
            near.close()
            far.close()

    return pair


def nothing(near: Any, far: Any) -> None:
    """There is nothing to prepare."""


def receiving(size: int) -> tuple[Act, Check]:
    """Three messages are there; the check wants them all, each once."""
    sent = [message(FIRST, size), message(SECOND, size), message(LAST, 5)]

    def prepare(near: Any, far: Any) -> None:
        far.send_many(sent)

    def check(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        got = []
        if isinstance(result, int):
            got = [bytes(BUFFER[:result])]
        elif result is not None:
            got = list(result) if isinstance(result, list) else [bytes(result)]
        try:
            while len(got) < len(sent):
                got.append(near.recv())
        except OSError as exc:
            if exc.errno != errno.ENOMEM or error is None:
                raise
            assert got == sent[: len(got)]  # lost, and said so
        else:
            assert got == sent, [part[:9] for part in got]
        near.send(b"back")
        assert far.recv() == b"back"

    return prepare, check


BUFFER = bytearray(1 << 19)


def view(near: Any, far: Any) -> Any:
    return near.recv_view().__enter__()


RECEIVES: dict[str, Act] = {
    "recv": lambda near, far: near.recv(),
    "next": lambda near, far: next(iter(near)),
    "recv_many": lambda near, far: near.recv_many(),
    "recv_into": lambda near, far: near.recv_into(BUFFER),
    "recv_view": view,
    "_ready": lambda near, far: near._ready() and None,
}


def sent_in_order(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
    """What was sent came whole, in order, and nothing was left out but at the end."""
    near.send(message(LAST, 7))
    got = []
    while not got or got[-1] != message(LAST, 7):
        got.append(far.recv())
    assert [part[0] for part in got[:-1]] == [FIRST, SECOND][: len(got) - 1]
    assert error is not None or len(got) - 1 == result
    far.send(b"back")
    assert near.recv() == b"back"


def streams(pair: Pair, *sizes: int) -> Iterator[str]:
    for size in sizes:
        prepare, check = receiving(size)
        for name, act in RECEIVES.items():
            yield from every_allocation(f"{name} {size}", pair, prepare, act, check)
        first, second = message(FIRST, size), message(SECOND, size)
        parts = [first[at : at + size // 10] for at in range(0, size, size // 10)]

        def send(near: Any, far: Any, first: bytes = first) -> int:
            near.send(first)
            return 1

        def send_parts(near: Any, far: Any, parts: list[bytes] = parts) -> int:
            near.send(*parts)
            return 1

        def send_many(near: Any, far: Any, both: Any = (first, second)) -> Any:
            return near.send_many(both)

        for act in (send, send_parts, send_many):
            yield from every_allocation(
                f"{act.__name__} {size}", pair, nothing, act, sent_in_order
            )
        yield from requests(pair, size)


def requests(pair: Pair, size: int) -> Iterator[str]:
    """The replies are there before the questions, which is all the same to a stream."""
    replies = [message(FIRST, size), message(SECOND, size)]

    def check(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        if error is None:
            assert result in (replies[0], replies)
        else:
            early = getattr(error, "replies", [])
            assert early == replies[: len(early)]
        asked = 0
        far.timeout = 0
        with contextlib.suppress(BlockingIOError):
            while far.recv():
                asked += 1
        if asked < near.questions:
            assert error is not None
            return
        far.send(b"reply")
        try:
            assert near.request(b"next") == b"reply"
        except OSError as exc:
            if exc.errno != errno.ENOMEM or error is None:
                raise

    def asking(questions: int) -> Act:
        def prepare(near: Any, far: Any) -> None:
            near.questions = questions
            far.send_many(replies[:questions])

        return prepare

    def request(near: Any, far: Any) -> Any:
        return near.request(b"first")

    def request_many(near: Any, far: Any) -> Any:
        return near.request_many([b"first", b"second"])

    for questions, act in ((1, request), (2, request_many)):
        yield from every_allocation(
            f"{act.__name__} {size}", pair, asking(questions), act, check
        )


class File:
    """A file that takes what it is given whole, or not at all."""

    def __init__(self) -> None:
        self.data = bytearray(1 << 19)
        self.end = 0

    def write(self, view: memoryview) -> None:
        end = self.end + len(view)
        self.data[self.end : end] = view
        self.end = end


def files(pair: Pair) -> Iterator[str]:
    """recvfile() and sendfile() go on with the file that they have begun with."""
    data = message(FIRST, 200_000)

    def prepare(near: Any, far: Any) -> None:
        near.file = File()
        far.send(data)
        far.send(b"behind")

    def check(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        try:
            if error is not None:
                near.recvfile(near.file)
            assert near.file.data[: near.file.end] == data, near.file.end
            assert near.recv() == b"behind"
        except OSError as exc:
            if exc.errno != errno.ENOMEM or error is None:
                raise

    yield from every_allocation(
        "recvfile", pair, prepare, lambda near, far: near.recvfile(near.file), check
    )

    def open_file(near: Any, far: Any) -> None:
        near.file = io.BytesIO(data)

    def check_sent(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        if error is not None:
            near.sendfile(near.file)
        near.send(b"behind")
        got = far.recv()
        while (more := far.recv()) != b"behind":
            assert got == data and error is not None
            got = more
        assert got == data

    yield from every_allocation(
        "sendfile", pair, open_file, lambda near, far: near.sendfile(near.file), check_sent
    )


def descriptors() -> Iterator[str]:
    def prepare(near: Any, far: Any) -> None:
        with open(os.devnull) as one, open(os.devnull) as other:
            far.send_fds(b"two", [one, other])
            far.send(b"behind")

    def act(near: Any, far: Any) -> Any:
        return near.recv_fds()

    def check(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        got = []
        if result is not None:
            got.append(result[0])
            for fd in result[1]:
                os.close(fd)
        while b"behind" not in got:
            got.append(near.recv())
        assert got in ([b"two", b"behind"], [b"behind"]), got

    def pair() -> Any:
        return sockets(max_fds=2)

    yield from every_allocation("recv_fds", pair, prepare, act, check)


# ------------------------------------------------------------ without a stream


def decoders() -> Iterator[str]:
    """What a decoder could not give out it still has; what it was not given it never had."""
    for framing in (pysock.LengthField(), pysock.formats.NETSTRING):
        sent = [message(FIRST, 50), message(SECOND, 5000), message(LAST, 7)]
        stream = b"".join(map(framing.encode, sent))
        for cut in (0, 30, len(stream)):

            @contextlib.contextmanager
            def pair(framing: Any = framing) -> Iterator[tuple[Any, Any]]:
                yield framing.decoder(), None

            parts = stream[:cut], stream[cut:]

            def prepare(near: Any, far: Any, head: bytes = parts[0]) -> None:
                near.feed(head)

            def act(near: Any, far: Any, rest: bytes = parts[1]) -> Any:
                return near.feed(rest)

            def check(
                near: Any,
                far: Any,
                result: Any,
                error: BaseException | None,
                sent: Any = sent,
                rest: bytes = parts[1],
            ) -> None:
                if error is not None:
                    result = near.feed(rest)
                if rest:
                    assert result == sent, [part[:9] for part in result]
                near.eof()

            yield from every_allocation(f"feed from {cut}", pair, prepare, act, check)


@contextlib.contextmanager
def datagram_ends() -> Iterator[tuple[Any, Any]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        far.settimeout(5)
        with pysock.DatagramClient(far.getsockname(), timeout=5) as near:
            yield near, far


def datagrams() -> Iterator[str]:
    sent = [message(FIRST, 3000), message(SECOND, 30), message(LAST, 7)]

    def prepare(near: Any, far: Any) -> None:
        near.send(b"hello")
        _, there = far.recvfrom(99)
        for each in sent:
            far.sendto(each, there)

    def check(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        got = []
        if isinstance(result, int):
            got = [bytes(BUFFER[:result])]
        elif isinstance(result, tuple):
            got = [result[0]]
        elif result is not None:
            got = list(result) if isinstance(result, list) else [result]
        while len(got) < len(sent):
            got.append(near.recv())
        assert got == sent, [part[:9] for part in got]
        near.send(b"back")
        assert far.recv(9) == b"back"

    receives: dict[str, Act] = {
        **{name: RECEIVES[name] for name in ("recv", "recv_many", "recv_into")},
        "recvfrom": lambda near, far: near.recvfrom(),
    }
    for name, act in receives.items():
        yield from every_allocation(f"{name}", datagram_ends, prepare, act, check)

    def came(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        """All at an error, some of them, or none: each at most once, and in order."""
        near.send(b"last")
        got = []
        while not got or got[-1] != b"last":
            got.append(far.recv(9999))
        assert got[:-1] == sent[: len(got) - 1]
        assert error is not None or len(got) - 1 == result

    def send(near: Any, far: Any) -> int:
        near.send(sent[0])
        return 1

    for act in (send, lambda near, far: near.send_many(sent)):
        yield from every_allocation("send", datagram_ends, nothing, act, came)

    def connecting(near: Any, far: Any) -> Any:
        pysock.DatagramClient(far.getsockname()).close()

    def unchanged(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        near.send(b"back")
        assert far.recv(9) == b"back"

    yield from every_allocation("connect", datagram_ends, nothing, connecting, unchanged)


def clients() -> Iterator[str]:
    """Connecting leaves nothing behind, and what listens goes on."""

    @contextlib.contextmanager
    def pair() -> Iterator[tuple[Any, Any]]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield listener.getsockname(), listener

    def act(near: Any, far: Any) -> Any:
        pysock.Client(near, linger=0).close()

    def check(near: Any, far: Any, result: Any, error: BaseException | None) -> None:
        with pysock.Client(near, linger=0):
            pass

    yield from every_allocation("Client", pair, nothing, act, check)


def main() -> None:
    kind = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Callable[[], Iterator[str]]] = {
            "stream": lambda: streams(sockets, 10, 3000, 100_000, 300_000),
            "tls": lambda: streams(tls_pairs(folder), 300, 40_000),
            "file": lambda: files(sockets),
            "tls-file": lambda: files(tls_pairs(folder)),
            "descriptors": descriptors,
            "decoder": decoders,
            "datagrams": datagrams,
            "client": clients,
        }
        tracemalloc.start(1)
        for line in found[kind]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
