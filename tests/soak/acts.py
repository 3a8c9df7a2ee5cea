"""What the clients of the soak do on a connection, and with raw sockets: one function each.

Every reply is compared with what it must be.  Only a connection that ends may end an act.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pysock
from content import LARGEST, Content, Request, Wrong
from pysock.remote import RemoteClient

PATIENCE = 90.0  # seconds without a reply: it is lost.  No stall takes so long
SIZES = (0, 1, 100, 4096, 66_000, 1 << 20, LARGEST - 64)  # at most
WEIGHTS = (4, 4, 40, 24, 16, 8, 2)
GONE = (EOFError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)


class Dice(Random):
    """Random sizes, numbers and requests."""

    def size(self, most: int = LARGEST) -> int:
        top = self.choices(SIZES, WEIGHTS)[0]
        return min(most, self.randint(top // 3, top))

    def request(self, deed: bytes = b"e", size: int | None = None, count: int = 1) -> Request:
        return Request(
            deed, self.getrandbits(62), self.size() if size is None else size, count
        )


class Talk:
    """One connection, the dice that decide what happens on it, and what must come."""

    def __init__(self, conn: pysock.Client, dice: Dice, content: Content) -> None:
        self.conn = conn
        self.dice = dice
        self.content = content
        self._buffer = bytearray()

    def message(self, request: Request, most: int = LARGEST) -> bytes:
        return self.content.request(request, self.dice.size(most - 64))

    def take(self, request: Request, index: int = 0) -> None:
        """Receive a reply, in one of the ways there are, and compare it."""
        way = self.dice.randrange(6)
        if way == 0:
            with self.conn.recv_view() as view:
                self.content.check_reply(view, request, index)
        elif way == 1:
            if len(self._buffer) < request.size:
                self._buffer = bytearray(request.size)
            size = self.conn.recv_into(self._buffer)
            self.content.check_reply(memoryview(self._buffer)[:size], request, index)
        elif way == 2:
            file = io.BytesIO()
            self.conn.recvfile(file)
            self.content.check_reply(file.getvalue(), request, index)
        elif way == 3:
            (message,) = self.conn.recv_many(1)
            self.content.check_reply(message, request, index)
        else:
            self.content.check_reply(self.conn.recv(), request, index)


def ask(talk: Talk) -> None:
    for _ in range(talk.dice.randrange(1, 30)):
        request = talk.dice.request(talk.dice.choice((b"e", b"e", b"e", b"s")))
        reply = talk.conn.request(talk.message(request))
        talk.content.check_reply(reply, request)


def ask_nothing(talk: Talk) -> None:
    reply = talk.conn.request(b"")
    if reply:
        raise Wrong(f"{len(reply)} bytes for nothing")


def ask_many(talk: Talk) -> None:
    requests = [talk.dice.request() for _ in range(talk.dice.randrange(1, 60))]
    replies = talk.conn.request_many([talk.message(each, 70_000) for each in requests])
    for request, reply in zip(requests, replies, strict=True):
        talk.content.check_reply(reply, request)


def ask_for_several(talk: Talk) -> None:
    request = talk.dice.request(b"m", talk.dice.size(70_000), talk.dice.randrange(1, 50))
    talk.conn.send(talk.message(request))
    for index in range(request.count):
        talk.take(request, index)


def ask_for_some_directly(talk: Talk) -> None:
    request = talk.dice.request(b"d", talk.dice.size(1 << 20), talk.dice.randrange(2, 8))
    talk.conn.send(talk.message(request))
    for index in range(request.count):
        talk.take(request, index)


def send_ahead(talk: Talk) -> None:
    """Requests in a batch; the replies as they come, or by what has arrived."""
    requests = [talk.dice.request(size=talk.dice.size(4096)) for _ in range(40)]
    talk.conn.send_many(talk.message(each, 4096) for each in requests)
    if talk.dice.random() < 0.5:
        for request in requests:
            talk.take(request)
        return
    replies: list[bytes] = []
    while len(replies) < len(requests):
        replies += talk.conn.recv_many()
    for request, reply in zip(requests, replies, strict=True):
        talk.content.check_reply(reply, request)


def upload(talk: Talk) -> None:
    request = talk.dice.request(b"u", talk.dice.size(1 << 20), talk.dice.randrange(1, 12))
    talk.conn.send(talk.content.request(request, 10))
    for index in range(request.count):
        body = talk.content.body(request.number + index, request.size)
        if index % 2:
            talk.conn.sendfile(io.BytesIO(body))
        else:
            talk.conn.send(body[: len(body) // 3], body[len(body) // 3 :])
    if talk.conn.recv() != b"%d" % request.count:
        raise Wrong("what was said of an upload")


def both_ways(talk: Talk) -> None:
    """One thread sends while this one receives; large messages both ways at once."""
    requests = [talk.dice.request(size=talk.dice.size(1 << 20)) for _ in range(20)]
    messages = [talk.message(each, 1 << 20) for each in requests]
    errors: list[Exception] = []

    def send() -> None:
        try:
            for message in messages:
                talk.conn.send(message)
        except Exception as exc:
            errors.append(exc)
            talk.conn.close()  # who receives is to hear of it

    sending = threading.Thread(target=send)
    sending.start()
    try:
        for request in requests:
            talk.take(request)
    except BaseException:
        talk.conn.close()
        raise
    finally:
        sending.join()
    if errors:
        raise errors[0]


def share(talk: Talk) -> None:
    """Several threads ask on one connection; each gets its own reply."""
    errors: list[Exception] = []

    def ask_some(dice: Dice) -> None:
        own = Talk(talk.conn, dice, talk.content)
        try:
            for _ in range(5):
                request = dice.request(size=dice.size(70_000))
                talk.content.check_reply(talk.conn.request(own.message(request)), request)
        except Exception as exc:
            errors.append(exc)

    seeds = [talk.dice.getrandbits(32) for _ in range(3)]
    threads = [threading.Thread(target=ask_some, args=(Dice(seed),)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((each for each in errors if isinstance(each, Wrong)), errors[0])


def read_slowly(talk: Talk) -> None:
    request = talk.dice.request(b"m", talk.dice.randint(60_000, 300_000), 12)
    talk.conn.send(talk.message(request))
    for index in range(request.count):
        time.sleep(talk.dice.random() / 8)
        talk.take(request, index)


def give_up(talk: Talk) -> None:
    """Requests that time out, and one that does not; it gets its own reply."""
    talk.conn.timeout = 0.002
    for _ in range(3):
        request = talk.dice.request(b"s", talk.dice.size(70_000))
        try:
            reply = talk.conn.request(talk.message(request, 4096))
        except TimeoutError:
            continue
        talk.content.check_reply(reply, request)
    talk.conn.timeout = PATIENCE
    request = talk.dice.request()
    talk.content.check_reply(talk.conn.request(talk.message(request)), request)


def dribble(talk: Talk) -> None:
    """Calls that time out again and again lose nothing of a large message."""
    request = talk.dice.request(size=LARGEST - talk.dice.size())
    message, left = talk.message(request), time.monotonic() + PATIENCE
    talk.conn.timeout = 0.001
    accepted = False
    while not accepted or talk.conn.unsent:
        try:
            talk.conn.flush() if accepted else talk.conn.send(message)
            accepted = True
        except TimeoutError as exc:
            accepted = accepted or exc.accepted  # type: ignore[attr-defined]
        _check_patience(left)
    while True:
        try:
            reply = talk.conn.recv()
            break
        except TimeoutError:
            _check_patience(left)
    talk.conn.timeout = PATIENCE
    talk.content.check_reply(reply, request)


def _check_patience(end: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError("nothing more comes")


def have_it_closed(talk: Talk) -> None:
    """The server's handler closes the connection: no reply, and an end."""
    talk.conn.send(talk.message(talk.dice.request(b"c"), 4096))
    with contextlib.suppress(*GONE):
        reply = talk.conn.recv()
        raise Wrong(f"{len(reply)} bytes from a connection that was closed")


# By how often.
ACTS: dict[Callable[[Talk], None], int] = {
    ask: 30,
    ask_nothing: 4,
    ask_many: 12,
    ask_for_several: 8,
    ask_for_some_directly: 8,
    send_ahead: 12,
    upload: 10,
    both_ways: 6,
    share: 8,
    read_slowly: 2,
    give_up: 5,
    dribble: 3,
}


# ------------------------------------------------------------ without a Client


def misbehave(address: str, dice: Dice, content: Content) -> None:
    """Send half a message, or what is none, and go, with an end or with a reset."""
    with pysock.address.connect(address, PATIENCE) as sock:
        sock.settimeout(PATIENCE)
        frame = pysock.LengthField().encode(content.request(dice.request(), dice.size()))
        if dice.random() < 0.3:
            frame = dice.randbytes(dice.randrange(1, 400))
        with contextlib.suppress(OSError):
            sock.sendall(frame[: dice.randrange(len(frame))])
            if dice.random() < 0.3:
                time.sleep(dice.random() / 4)
        if dice.random() < 0.5 and sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def command(client: RemoteClient, dice: Dice, content: Content, folder: Path) -> None:
    """Run a command, or store a file and fetch it."""
    size = dice.size()
    body = content.body(dice.getrandbits(62), size)
    way = dice.randrange(4)
    if way == 0:
        status = dice.randrange(256)
        done = client.run(f"printf out; printf err >&2; exit {status}", shell=True)
        if (done.returncode, done.stdout, done.stderr) != (status, b"out", b"err"):
            raise Wrong(f"{done} for status {status}")
    elif way == 1:
        done = client.run(["cat"], input=body)
        if done.returncode != 0 or done.stdout != body:
            raise Wrong(f"{len(done.stdout)} bytes of cat, status {done.returncode}")
    elif way == 2:
        with client.start(["cat"], input=body) as process:
            came = b"".join(data for _, data in process)
        if came != body:
            raise Wrong(f"{len(came)} bytes of cat, instead of {size}")
    else:
        with _file(folder, dice) as local, _file(folder, dice) as back:
            local.write_bytes(body)
            client.put(local, local.name)
            client.get(local.name, back)
            (folder / "files" / local.name).unlink()
            if back.read_bytes() != body:
                raise Wrong(f"a file of {size} bytes")


@contextlib.contextmanager
def _file(folder: Path, dice: Dice) -> Iterator[Any]:
    path = folder / f"{dice.getrandbits(64):x}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
