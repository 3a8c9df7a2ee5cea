"""Server with message handlers: answers, replies of every shape, peers that misbehave."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import TIME_FACTOR, unix
from pysock.formats import NETSTRING

SOON = 5 * TIME_FACTOR


def frame(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


@pytest.fixture(params=["tcp", pytest.param("unix", marks=unix)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"unix://{tmp_path}/s"


@pytest.fixture
def upper() -> Iterator[pysock.Server]:
    with pysock.Server("tcp://127.0.0.1:0", bytes.upper).start() as server:
        yield server


def client(server: pysock.Server, **options: Any) -> pysock.Client:
    return pysock.Client(server.address, timeout=SOON, **options)


def test_client_gets_its_answer(address: str) -> None:
    with pysock.Server(address, bytes.upper).start() as server, client(server) as peer:
        assert peer.request(b"hello") == b"HELLO"
        assert peer.request(b"") == b""
        assert server.stats["accepted"] == server.stats["connections"] == 1


def test_port_0_is_told() -> None:
    with pysock.Server(("127.0.0.1", 0), bytes.upper) as server:
        host, port = server.server_address
        assert host == "127.0.0.1"
        assert port > 0
        assert str(server.address) == f"tcp://127.0.0.1:{port}"
        assert server.fileno() >= 0
    assert server.fileno() == -1


@unix
def test_unix_path_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pysock.Server(path, bytes.upper).start() as server, client(server) as peer:
        assert peer.request(b"a") == b"A"
        assert path.exists()
    assert not path.exists()


def test_many_messages_in_one_write_are_answered_in_order(upper: pysock.Server) -> None:
    with client(upper) as peer:
        messages = [b"%d" % i * (i % 50) for i in range(5000)]
        assert peer.request_many(messages) == messages


def test_frames_cut_at_every_byte(upper: pysock.Server) -> None:
    """P01."""
    stream = b"".join(map(frame, (b"one", b"", b"three")))
    for cut in range(1, len(stream)):
        with socket.create_connection(upper.server_address) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(stream[:cut])
            sock.sendall(stream[cut:])
            sock.settimeout(SOON)
            answer = pysock.recv_exactly(sock, len(stream))
            assert answer == b"".join(map(frame, (b"ONE", b"", b"THREE")))


def test_large_message_there_and_back(address: str) -> None:
    message = bytes(range(256)) * 40_000
    with (
        pysock.Server(address, lambda message: message).start() as server,
        client(server) as peer,
    ):
        assert peer.request(message) == message


REPLIES = [
    (lambda message: None, []),
    (lambda message: bytearray(b"ab"), [b"ab"]),
    (lambda message: memoryview(b"abc")[1:], [b"bc"]),
    (lambda message: [b"1", b"22", None, b"333"], [b"1", b"22", b"333"]),
    (lambda message: (bytes([i]) for i in range(3)), [b"\0", b"\1", b"\2"]),
    (lambda message: [], []),
]


@pytest.mark.parametrize(("handler", "expected"), REPLIES)
def test_replies_of_every_shape(handler: Any, expected: list[bytes]) -> None:
    def answer(message: bytes) -> Any:
        return b"end" if message == b"end" else handler(message)

    with pysock.Server("127.0.0.1:0", answer).start() as server, client(server) as peer:
        peer.send_many([b"go", b"end"])
        got = [peer.recv()]
        while got[-1] != b"end":
            got.append(peer.recv())
        assert got[:-1] == expected


@pytest.mark.parametrize("reply", ["text", {b"a": b"b"}, 7, [b"good", "bad"]])
def test_rubbish_from_a_handler_ends_its_connection_only(
    reply: object, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(message: bytes) -> Any:
        return reply if message == b"bad" else message

    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        client(server) as good,
        client(server) as bad,
    ):
        assert bad.request(b"fine") == b"fine"
        bad.send(b"bad")
        rest = list(bad)
        assert rest == ([b"good"] if isinstance(reply, list) else [])
        assert good.request(b"still here") == b"still here"
        assert server.stats["handler_errors"] == 1
    assert "TypeError" in caplog.text


def test_handler_that_raises_loses_no_earlier_reply(
    upper: pysock.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """L19."""

    def handler(message: bytes) -> bytes:
        if message == b"3":
            raise ZeroDivisionError("no three")
        return message

    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send_many([b"1", b"2", b"3", b"4"])
        assert list(peer) == [b"1", b"2"]
        with client(server) as other:
            assert other.request(b"x") == b"x"
    assert "no three" in caplog.text


def test_handle_error_can_be_overridden() -> None:
    seen: list[tuple[str, object]] = []

    class Mine(pysock.Server):
        def handle_error(self, connection: pysock.Connection, client_address: Any) -> None:
            import sys

            seen.append((repr(sys.exc_info()[1]), client_address))

    def handler(message: bytes) -> bytes:
        raise ValueError("x")

    with Mine("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send(b"")
        assert list(peer) == []
        name = peer.getsockname()
    assert seen == [("ValueError('x')", name)]


def test_handler_with_a_second_parameter_gets_the_connection() -> None:
    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        connection.send(b"first")
        return b"second"

    def defaulted(message: bytes, connection: object = None) -> bytes:
        return b"default" if connection is None else b"given"

    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send(b"")
        assert [peer.recv(), peer.recv()] == [b"first", b"second"]
    with pysock.Server("127.0.0.1:0", defaulted).start() as server, client(server) as peer:
        assert peer.request(b"") == b"default"


def test_replies_keep_their_order_before_what_the_handler_sends() -> None:
    def handler(message: bytes, connection: pysock.Connection) -> bytes | None:
        if message == b"send":
            connection.send(b"sent")
            return None
        return message

    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send_many([b"1", b"send", b"2"])
        assert [peer.recv() for _ in range(3)] == [b"1", b"sent", b"2"]


def test_handler_may_receive_the_next_message_itself() -> None:
    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        return message + connection.recv()

    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send_many([b"a", b"b", b"c", b"d"])
        assert [peer.recv(), peer.recv()] == [b"ab", b"cd"]


def test_handler_may_close_the_connection() -> None:
    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        connection.send(b"bye")
        connection.close()
        return b"not this"

    with pysock.Server("127.0.0.1:0", handler).start() as server:
        for _ in range(3):
            with client(server) as peer:
                peer.send(b"")
                assert list(peer) == [b"bye"]


def test_connection_closed_by_another_thread_is_forgotten() -> None:
    kept: list[pysock.Connection] = []

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        kept.append(connection)
        return message

    with pysock.Server("127.0.0.1:0", handler, max_connections=1).start() as server:
        for _ in range(5):
            with client(server) as peer:
                assert peer.request(b"x") == b"x"
                kept.pop().close()
                assert list(peer) == []


def test_peer_that_does_not_read_holds_nobody() -> None:
    """A reply that would block is parked for writing; others are served meanwhile."""
    large = bytes(8 << 20)

    def handler(message: bytes) -> bytes:
        return large if message == b"large" else message

    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        client(server) as slow,
        client(server) as quick,
    ):
        slow.send_many([b"large", b"after"])
        for i in range(100):
            assert quick.request(b"%d" % i) == b"%d" % i
        assert slow.recv() == large
        assert slow.recv() == b"after"


def test_endless_iterator_of_replies_is_paused() -> None:
    """Memory follows what the peer takes, not what the iterator could give."""
    given = 0

    def endless(message: bytes) -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield bytes(65536)

    def handler(message: bytes) -> Any:
        return endless(message) if message == b"endless" else message

    with (
        pysock.Server("127.0.0.1:0", handler, linger=0.0).start() as server,
        client(server) as slow,
        client(server) as quick,
    ):
        slow.send(b"endless")
        for _ in range(50):
            assert quick.request(b"x") == b"x"
        before = given
        for _ in range(50):
            assert quick.request(b"x") == b"x"
        assert given - before < 50
        assert slow.recv() == bytes(65536)
        server.stop(drain=0)


def test_one_busy_connection_does_not_starve_others(upper: pysock.Server) -> None:
    """L10."""
    stop = threading.Event()

    def flood(peer: pysock.Client) -> None:
        while not stop.is_set():
            peer.request_many([b"x" * 100] * 2000)

    with client(upper) as busy, client(upper) as quiet:
        thread = threading.Thread(target=flood, args=(busy,))
        thread.start()
        try:
            for _ in range(50):
                assert quiet.request(b"q") == b"Q"
        finally:
            stop.set()
            thread.join()


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c",
    b"\xff" * 65536,
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused_with_one_line_in_the_log(
    garbage: bytes, upper: pysock.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """H07, H09."""
    small = pysock.LengthField(max_frame=1000)
    with (
        pysock.Server("127.0.0.1:0", bytes.upper, framing=small).start() as server,
        socket.create_connection(server.server_address) as sock,
        client(server) as good,
    ):
        sock.settimeout(SOON)
        sock.sendall(garbage)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
        assert good.request(b"ok") == b"OK"
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "exceeds 1000" in lines[0].getMessage()


def test_frames_before_garbage_are_answered(upper: pysock.Server) -> None:
    with socket.create_connection(upper.server_address) as sock:
        sock.settimeout(SOON)
        sock.sendall(frame(b"a") + b"\xff\xff\xff\xff")
        assert pysock.recv_exactly(sock, 5) == frame(b"A")
        assert sock.recv(1) == b""


def test_client_that_half_closes_gets_its_reply(upper: pysock.Server) -> None:
    """D07."""
    with client(upper) as peer:
        peer.send(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert list(peer) == [b"LAST"]


def test_stream_that_ends_inside_a_frame_is_logged(
    upper: pysock.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """D01."""
    with socket.create_connection(upper.server_address) as sock:
        sock.settimeout(SOON)
        sock.sendall(b"\0\0\0\x09abc")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    assert "after 7 of 13 bytes" in caplog.text


def test_reset_by_the_peer_harms_nobody(upper: pysock.Server) -> None:
    """D02."""
    with client(upper) as good:
        for sent in (b"", b"\0\0", frame(b"x")):
            sock = socket.create_connection(upper.server_address)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(sent)
            sock.close()
            assert good.request(b"here") == b"HERE"


def test_last_reply_arrives_although_input_is_unread() -> None:
    """D04: closing over unread input would destroy what is on its way."""
    large = bytes(1 << 20)

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message == b"stop":
            raise ZeroDivisionError
        return large

    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        socket.socket() as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.settimeout(SOON)
        sock.connect(server.server_address)
        sock.sendall(frame(b"large") + frame(b"stop") + b"unread")
        assert pysock.recv_exactly(sock, 4 + len(large)) == frame(large)
        assert sock.recv(1) == b""


def test_idle_connections_hold_no_buffer(upper: pysock.Server) -> None:
    """L08, as far as buffers go: nothing is pending, and each has been served."""
    peers = [client(upper) for _ in range(50)]
    try:
        for peer in peers:
            assert peer.request(b"x" * 2000) == b"X" * 2000
            assert peer.pending == 0
    finally:
        for peer in peers:
            peer.close()


def test_max_connections_makes_the_next_client_wait() -> None:
    """L01: one client at a time, the next one waits in the backlog."""
    with pysock.Server("127.0.0.1:0", bytes.upper, max_connections=1).start() as server:
        first, second = client(server), client(server)
        with first, second:
            assert first.request(b"a") == b"A"
            second.send(b"b")
            second.settimeout(0.1 * TIME_FACTOR)
            with pytest.raises(TimeoutError):
                second.recv()
            first.close()
            second.settimeout(SOON)
            assert second.recv() == b"B"


def test_other_framing() -> None:
    with (
        pysock.Server("127.0.0.1:0", bytes.upper, framing=NETSTRING).start() as server,
        socket.create_connection(server.server_address) as sock,
    ):
        sock.settimeout(SOON)
        sock.sendall(b"5:hello,")
        assert pysock.recv_exactly(sock, 8) == b"5:HELLO,"


def test_raw_server_answers_a_plain_client() -> None:
    with (
        pysock.Server("127.0.0.1:0", bytes.upper, framing=pysock.Raw()).start() as server,
        socket.create_connection(server.server_address) as sock,
    ):
        sock.settimeout(SOON)
        sock.sendall(b"hello")
        assert pysock.recv_exactly(sock, 5) == b"HELLO"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        (("127.0.0.1:0", None), {}, TypeError, "handler is a NoneType"),
        (("127.0.0.1:0", bytes.upper), {"framing": "line"}, TypeError, "framing is a str"),
        (("127.0.0.1:0", bytes.upper), {"max_connections": 0}, ValueError, "is 0"),
        (("http://127.0.0.1:0", bytes.upper), {}, ValueError, "'http' is unknown"),
        (("tls://127.0.0.1:0", bytes.upper), {}, ValueError, "no TLS"),
        (("udp://127.0.0.1:0", bytes.upper), {}, ValueError, "datagrams"),
    ],
)
def test_bad_arguments(
    arguments: Any, options: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        pysock.Server(*arguments, **options)


def no_parameters() -> bytes:
    return b""


def three_parameters(one: bytes, two: object, three: object) -> bytes:
    return one


def named_parameter(message: bytes, *, must: int) -> bytes:
    return message


async def coroutine(message: bytes) -> bytes:
    return message


class NoSession:
    def __init__(self, message: bytes) -> None:
        pass


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (no_parameters, "cannot be called with a message"),
        (three_parameters, "cannot be called with a message"),
        (named_parameter, "cannot be called with a message"),
        (coroutine, "is async"),
        (NoSession, "derive it from pysock.Session"),
        (b"bytes", "expected a function"),
    ],
)
def test_handler_that_could_answer_nothing_is_refused(handler: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        pysock.Server("127.0.0.1:0", handler)


@pytest.mark.parametrize(
    "handler", [lambda *args: args[0], lambda message, more=1: message, bytes, bytes.strip]
)
def test_handler_may_take_more_than_it_is_given(handler: Any) -> None:
    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        pysock.Client(server.address, timeout=SOON) as client,
    ):
        assert client.request(b"a") == b"a"


def test_iterable_of_something_else_is_told_as_what_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        pysock.Server("127.0.0.1:0", lambda message: [b"a", "b"]).start() as server,
        pysock.Client(server.address, timeout=SOON) as client,
    ):
        client.send(b"x")
        assert list(client) == [b"a"]
    assert "iterable holds bytes or None, not str" in caplog.text
