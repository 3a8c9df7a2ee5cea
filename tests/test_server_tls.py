"""A server over TLS: what records make different, and how a stream of them ends.

That the rest is as over TCP is in the tests that take `transport`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import both_ways
import certificates
import pysock
from certificates import Certificates
from conftest import told_queue
from gate import ECHOES, HERE, SOON, client, connected, echo, frame, serving, warnings_in
from peers import LONG, PROMPT, Task, until
from records import ALERT, DATA, RecordEnd
from tls_ends import contexts

certs, transport, pytestmark = certificates.certs, both_ways.transport, both_ways.over_tls

CLOSE_NOTIFY = b"\1\0"


class Waits(pysock.Session):
    """Receives only what `wait` has told of."""

    def handle(self) -> None:
        while True:
            assert pysock.wait([self.connection], LONG)
            self.connection.send(self.connection.recv())


ALL = [*ECHOES, pytest.param(Waits, id="session that waits")]


@contextlib.contextmanager
def records(server: pysock.Server) -> Iterator[RecordEnd]:
    """A client that writes its own records."""
    with socket.create_connection(server.server_address, SOON) as sock:
        yield RecordEnd(sock, contexts()[0], server=False)


def told(sock: Any, *messages: bytes) -> None:
    """Check that these replies come."""
    expected = b"".join(map(frame, messages))
    got = b""
    while len(got) < len(expected):
        part = sock.recv(len(expected) - len(got))
        assert part, f"the end after {len(got)} of {len(expected)} bytes"
        got += part
    assert got == expected


# ------------------------------------------------------------ what the poller does not see


@pytest.mark.case("T03")
@pytest.mark.parametrize("handler", ALL)
def test_messages_in_one_record_are_all_served_at_once(handler: Any) -> None:
    """T03: on a connection that was parked, and nothing more comes."""
    with serving(handler) as server, connected(server) as sock:
        for messages in ([b"known"], [b"1", b"", b"3"], [b"x" * 5000] * 3, [b"last", b"one"]):
            sock.sendall(b"".join(map(frame, messages)))
            told(sock, *messages)


@pytest.mark.case("T03")
@pytest.mark.parametrize("handler", ALL)
def test_messages_in_one_flight_are_all_served_at_once(handler: Any) -> None:
    """T03: in records of their own, or cut wherever a record is full."""
    messages = [bytes([i]) * size for i, size in enumerate((1, 0, 5, 9000, 16_380, 40_000, 3))]
    stream = b"".join(map(frame, messages))
    with serving(handler) as server, records(server) as end:
        for size in (None, 16_384, 1000, 16_383):
            pieces = (
                map(frame, messages)
                if size is None
                else (stream[i : i + size] for i in range(0, len(stream), size))
            )
            flight = [
                end.writer.record(DATA, piece[i : i + 16_384])
                for piece in pieces
                for i in range(0, len(piece), 16_384)
            ]
            end.sock.sendall(b"".join(flight))
            told(end, *messages)


@pytest.mark.case("T03")
@pytest.mark.parametrize("workers", [0, 2])
def test_record_with_more_messages_than_a_turn_takes(workers: int) -> None:
    """T03: the connection is parked only when there are none left in memory."""
    messages = [b"%d" % (i % 10) for i in range(3000)]
    with serving(echo, workers=workers) as server, connected(server) as sock:
        for _ in range(3):
            sock.sendall(b"".join(map(frame, messages)))
            told(sock, *messages)


@pytest.mark.case("T03")
@pytest.mark.parametrize("handler", ALL)
@pytest.mark.parametrize("messages", [[b"first"], [b"1", b"2", b"x" * 9000]])
def test_first_message_in_the_flight_that_ends_the_handshake(
    messages: list[bytes], handler: Any
) -> None:
    """T03: it has come before anybody waits for it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = contexts()[0].wrap_bio(incoming, outgoing, server_hostname=both_ways.NAME)
    with (
        serving(handler) as server,
        socket.create_connection(server.server_address, SOON) as sock,
    ):
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
        for message in messages:
            tls.write(frame(message))
        sock.sendall(outgoing.read())
        for message in messages:
            expected, got = frame(message), b""
            while len(got) < len(expected):
                try:
                    got += tls.read(len(expected) - len(got))
                except ssl.SSLWantReadError:
                    incoming.write(sock.recv(65536))
            assert got == expected


# ------------------------------------------------------------ nothing sent is lost


@pytest.mark.case("T02")
@pytest.mark.parametrize("way", ["SSLSocket", "Client"])
@pytest.mark.parametrize("kind", ["handler", "session"])
def test_everything_arrives_from_a_client_that_closes_without_reading(
    kind: str, way: str
) -> None:
    """T02: session tickets that nobody has read must not cut it off."""
    arrived: list[int] = []

    def handler(message: bytes) -> None:
        arrived.append(len(message))

    class Session(pysock.Session):
        def handle(self) -> None:
            for message in self.connection:
                handler(message)

    handlers: dict[str, Any] = {"handler": handler, "session": Session}
    with serving(handlers[kind]) as server:
        for _ in range(3):
            if way == "Client":
                with client(server) as peer:
                    peer.send_many([bytes(100_000)] * 20)
            else:
                with connected(server) as sock:
                    sock.sendall(frame(bytes(100_000)) * 20)
            until(lambda: server.stats["connections"] == 0)
            assert arrived == [100_000] * 20
            arrived.clear()
        assert server.stats["handler_errors"] == 0


# ------------------------------------------------------------ the end, said or not


def end_tcp(end: RecordEnd) -> None:
    end.sock.shutdown(socket.SHUT_WR)


def end_tls(end: RecordEnd) -> None:
    """Say so, and leave TCP open."""
    end.sock.sendall(end.writer.record(ALERT, CLOSE_NOTIFY))


@pytest.mark.case("T04")
@pytest.mark.parametrize("handler", ALL)
@pytest.mark.parametrize("finish", [end_tcp, end_tls])
@pytest.mark.parametrize("sent", [b"", b"\0\0", frame(b"x"), frame(b"x") + b"\0\0\0\x09ab"])
def test_stream_that_ends_anywhere(
    sent: bytes,
    finish: Callable[[RecordEnd], None],
    handler: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """T04: what ends without a close_notify may have been cut off by anybody."""
    caplog.set_level("INFO")
    with serving(handler) as server, records(server) as end:
        if sent:
            end.sendall(sent)
        if finish is end_tls:
            finish(end)
        if b"x" in sent:
            told(end, b"x")
        if finish is end_tcp:  # behind that OpenSSL writes nothing but an alert
            finish(end)
            with contextlib.suppress(ssl.SSLError):
                assert end.recv(1) == b""
        else:
            assert end.recv(1) == b""
        until(lambda: server.stats["connections"] == 0)
        assert server.stats["handler_errors"] == 0
    in_a_frame = sent not in (b"", frame(b"x"))
    text = "bytes of a frame" if in_a_frame else "cut off"
    assert [text in line for line in warnings_in(caplog)] == [True] * in_a_frame
    cut = any(text in line for line in caplog.messages)
    assert cut == (in_a_frame or finish is end_tcp)


@pytest.mark.parametrize("handler", ALL)
@pytest.mark.parametrize("rest", [b"", b"\0\0"])
def test_end_behind_a_message_in_one_flight(rest: bytes, handler: Any) -> None:
    """The end is in memory too, and TCP goes on."""
    with serving(handler) as server, records(server) as end:
        data = end.writer.record(DATA, frame(b"x") + rest)
        end.sock.sendall(data + end.writer.record(ALERT, CLOSE_NOTIFY))
        told(end, b"x")
        assert end.recv(1) == b""
        until(lambda: server.stats["connections"] == 0, PROMPT)


@pytest.mark.parametrize("handler", ALL)
def test_broken_record_behind_a_message_in_one_flight(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is noticed at once, and the message counts; OpenSSL writes no reply to it."""
    with serving(handler) as server, records(server) as end:
        data = end.writer.record(DATA, frame(b"x"))
        broken = bytearray(end.writer.record(DATA, frame(b"y")))
        broken[-1] ^= 1
        end.sock.sendall(data + broken)
        with pytest.raises(ssl.SSLError, match="(?i)bad record mac"):
            while end.recv(1):
                pass  # a reply, where the two came apart on their way
        until(lambda: server.stats["connections"] == 0, PROMPT)
        assert server.stats["messages_in"] == 1
        assert server.stats["handler_errors"] == 0
    assert len(warnings_in(caplog)) == 1


def closes(message: bytes, connection: pysock.Connection) -> None:
    connection.send(message)
    connection.close()


def raises(message: bytes, connection: pysock.Connection) -> None:
    connection.send(message)
    raise ZeroDivisionError


def stops(message: bytes, connection: Any) -> bytes:
    connection._loop.server.stop()
    return message


class Leaves(pysock.Session):
    def handle(self) -> None:
        self.connection.send(self.connection.recv())


@pytest.mark.case("T05")
@pytest.mark.parametrize("linger", [0.0, pytest.param(SOON, marks=told_queue)])
@pytest.mark.parametrize("handler", [closes, raises, stops, Leaves])
def test_end_is_said_and_does_not_wait_for_the_answer(handler: Any, linger: float) -> None:
    """T05: to a client that neither answers nor closes."""
    with serving(handler, linger=linger) as server, connected(server) as sock:
        sock.sendall(frame(b"x"))
        until(lambda: server.stats["accepted"] and not server.stats["connections"], PROMPT)
        told(sock, b"x")
        assert sock.recv(1) == b""


@pytest.mark.parametrize("workers", [0, 4])
def test_stop_serves_clients_that_wait_in_the_backlog(workers: int) -> None:
    """As over TCP; their handshakes are still to come."""

    def ask(sock: socket.socket) -> list[Any]:
        with pysock.Client(sock=sock, timeout=SOON) as peer:
            peer.send(b"x")
            return list(peer)

    with contextlib.ExitStack() as stack, pysock.Server(HERE, echo, workers=workers) as server:
        where = server.server_address
        socks = [stack.enter_context(socket.create_connection(where)) for _ in range(10)]
        tasks = [Task(ask, sock) for sock in socks]
        server.start()
        server.stop()
        assert [task.finish() for task in tasks] == [[b"x"]] * 10


# ------------------------------------------------------------ both directions at once

MESSAGES = [bytes([i]) * size for i, size in enumerate((0, 1, 300, 17_000, 5, 5000, 40_000))]


class Duplex(pysock.Session):
    def handle(self) -> None:
        sending = Task(self.connection.send_many, MESSAGES)
        assert [self.connection.recv() for _ in MESSAGES] == MESSAGES
        sending.finish()


class Ticks(pysock.Session):
    """Sends now and then, and takes in all that comes."""

    def handle(self) -> None:
        ticking = Task(self._tick)
        for _ in self.connection:
            pass
        ticking.finish()

    def _tick(self) -> None:
        pause = threading.Event()
        for number in range(50):
            self.connection.send(b"%d" % number)
            pause.wait(0.002)


def test_who_floods_does_not_starve_who_receives() -> None:
    """Threads take turns in the TLS object, at both ends: none has to wait for long."""
    over = threading.Event()

    def flood(peer: pysock.Client) -> None:
        while not over.is_set():
            peer.send_many([bytes(100)] * 500)

    with serving(Ticks) as server, client(server) as peer:
        flooding = Task(flood, peer)
        began = time.monotonic()
        assert [peer.recv() for _ in range(50)] == [b"%d" % number for number in range(50)]
        assert time.monotonic() - began < 2 * PROMPT
        over.set()
        flooding.finish()


@pytest.mark.case("C04", "C05")
@pytest.mark.parametrize(
    ("version", "count"),
    [
        ("1.3", 500),
        ("1.2", 60),
        pytest.param("1.3", 5000, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
def test_short_connections_that_begin_both_ways_at_once(
    version: str, count: int, certs: Certificates
) -> None:
    """C04, C05: two threads of each end, and one TLS object between them."""
    near, far = (
        made(minimum=version) for made in (certs.client_context, certs.server_context)
    )
    near.maximum_version = near.minimum_version
    start = threading.Barrier(2, timeout=LONG)

    def receive(peer: pysock.Client) -> list[bytes]:
        start.wait()
        return [peer.recv() for _ in MESSAGES]

    with serving(Duplex, tls=far) as server:
        for _ in range(count):
            with client(server, tls=near) as peer:
                receiving = Task(receive, peer)
                start.wait()
                peer.send_many(MESSAGES)
                assert receiving.finish() == MESSAGES
        assert peer.tls.version() == f"TLSv{version}"
        assert server.stats["handler_errors"] == 0


@pytest.mark.case("T12")
def test_contexts_are_shared_by_threads_and_renewed_beside_connections(
    certs: Certificates,
) -> None:
    """32 threads and one context at each end; a new certificate ends no connection."""
    near, far = certs.client_context(), certs.server_context()
    start = threading.Barrier(32, timeout=LONG)
    with serving(echo, tls=far) as server, client(server, tls=near) as first:

        def visit(number: int) -> None:
            start.wait()
            for turn in range(10):
                with client(server, tls=near) as peer:
                    message = b"%d %d" % (number, turn)
                    assert peer.request(message) == message

        for task in [Task(visit, number) for number in range(32)]:
            task.finish()
        renewed = pysock.tls.server_context(*certs.issue(both_ways.NAME))
        with serving(echo, tls=renewed) as other, client(other, tls=near) as second:
            for peer in (first, second, first):
                assert peer.request(b"x") == b"x"
            pins = [pysock.tls.pin_of(peer.tls.getpeercert(True)) for peer in (first, second)]
            assert pins[0] == certs.server.pin != pins[1]
        assert first.request(b"y") == b"y"
