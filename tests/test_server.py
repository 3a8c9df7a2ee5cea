"""Server with message handlers: answers, replies of every shape, what it is made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import both_ways
import gate
import pysock
from both_ways import over_both
from conftest import unix
from gate import SOON, client, connected, frame
from pysock.formats import NETSTRING

address, upper, transport = gate.address, gate.upper, both_ways.transport


@over_both
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


@over_both
def test_many_messages_in_one_write_are_answered_in_order(upper: pysock.Server) -> None:
    with client(upper) as peer:
        messages = [b"%d" % i * (i % 50) for i in range(5000)]
        assert peer.request_many(messages) == messages


@pytest.mark.case("P01")
@over_both
def test_frames_cut_at_every_byte(upper: pysock.Server) -> None:
    """P01."""
    stream = b"".join(map(frame, (b"one", b"", b"three")))
    for cut in range(1, len(stream)):
        with connected(upper) as sock:
            sock.sendall(stream[:cut])
            sock.sendall(stream[cut:])
            answer = pysock.recv_exactly(sock, len(stream))
            assert answer == b"".join(map(frame, (b"ONE", b"", b"THREE")))


@over_both
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


@over_both
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


@over_both
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


@pytest.mark.case("L19")
@over_both
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


@over_both
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


@over_both
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


@over_both
def test_replies_keep_their_order_before_what_the_handler_sends() -> None:
    def handler(message: bytes, connection: pysock.Connection) -> bytes | None:
        if message == b"send":
            connection.send(b"sent")
            return None
        return message

    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send_many([b"1", b"send", b"2"])
        assert [peer.recv() for _ in range(3)] == [b"1", b"sent", b"2"]


@over_both
def test_handler_may_receive_the_next_message_itself() -> None:
    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        return message + connection.recv()

    with pysock.Server("127.0.0.1:0", handler).start() as server, client(server) as peer:
        peer.send_many([b"a", b"b", b"c", b"d"])
        assert [peer.recv(), peer.recv()] == [b"ab", b"cd"]


@over_both
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


@over_both
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


@over_both
def test_other_framing() -> None:
    with (
        pysock.Server("127.0.0.1:0", bytes.upper, framing=NETSTRING).start() as server,
        connected(server) as sock,
    ):
        sock.sendall(b"5:hello,")
        assert pysock.recv_exactly(sock, 8) == b"5:HELLO,"


@over_both
def test_raw_server_answers_a_plain_client() -> None:
    with (
        pysock.Server("127.0.0.1:0", bytes.upper, framing=pysock.Raw()).start() as server,
        connected(server) as sock,
    ):
        sock.sendall(b"hello")
        assert pysock.recv_exactly(sock, 5) == b"HELLO"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        (("127.0.0.1:0", None), {}, TypeError, "handler is a NoneType"),
        (("127.0.0.1:0", bytes.upper), {"framing": "line"}, TypeError, "framing is a str"),
        (("127.0.0.1:0", bytes.upper), {"max_connections": 0}, ValueError, "is 0"),
        (("http://127.0.0.1:0", bytes.upper), {}, ValueError, "'http' is unknown"),
        (("tls://127.0.0.1:0", bytes.upper), {}, ValueError, "needs a certificate"),
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


class AsyncCall:
    async def __call__(self, message: bytes) -> bytes:
        return message


class AsyncSession(pysock.Session):
    async def handle(self) -> None:  # type: ignore[override]
        pass


class AsyncSetup(pysock.Session):
    async def setup(self) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (no_parameters, "cannot be called with a message"),
        (three_parameters, "cannot be called with a message"),
        (named_parameter, "cannot be called with a message"),
        (coroutine, "is async"),
        (AsyncCall(), "is async"),
        (AsyncSession, r"AsyncSession\.handle\(\) is async"),
        (AsyncSetup, r"AsyncSetup\.setup\(\) is async"),
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
