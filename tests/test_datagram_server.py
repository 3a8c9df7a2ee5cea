"""DatagramServer: what handlers get and return, whom they answer, what is refused."""

from __future__ import annotations

import array
import contextlib
import errno
import itertools
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import datagram_servers
import pysock
from conftest import TELLS_LENGTH, linux, unix
from datagram_servers import UDP, Asker, fail, lines, nameless, serving
from gate import Gate
from peers import PROMPT, until

address, workers = datagram_servers.address, datagram_servers.workers


def numbered() -> Any:
    yield b"1"
    yield None
    yield b"2"


class Text(bytes):
    pass


RETURNED: dict[str, tuple[Callable[[], Any], list[bytes]]] = {
    "bytes": (lambda: b"x", [b"x"]),
    "empty": (lambda: b"", [b""]),
    "subclass": (lambda: Text(b"x"), [b"x"]),
    "bytearray": (lambda: bytearray(b"x"), [b"x"]),
    "memoryview": (lambda: memoryview(b"xyz")[1:], [b"yz"]),
    "strided": (lambda: memoryview(b"123456")[::2], [b"135"]),
    "array": (lambda: array.array("H", [1, 2]), [bytes(array.array("H", [1, 2]))]),
    "none": (lambda: None, []),
    "list": (lambda: [b"1", b"", bytearray(b"2")], [b"1", b"", b"2"]),
    "tuple": (lambda: (b"1",), [b"1"]),
    "no items": (lambda: [], []),
    "generator": (numbered, [b"1", b"2"]),
    "more than a batch": (
        lambda: [b"%d" % i for i in range(200)],
        [b"%d" % i for i in range(200)],
    ),
}


@pytest.mark.parametrize("held_up", [False, True], ids=["leading", "held up"])
def test_what_a_handler_may_return(held_up: bool) -> None:
    """In order, also where another thread has taken the lead meanwhile."""
    gate = Gate()

    def handler(message: bytes) -> Any:
        if held_up and message in known:
            gate.wait()
        name = message.decode()
        return RETURNED[name][0]() if name in RETURNED else message

    known = [name.encode() for name in RETURNED]
    with serving(handler) as server, Asker(server) as asker:
        for name, (_, expected) in RETURNED.items():
            asker.send(name.encode())
            if held_up:
                gate.holds(1)
                assert asker.ask(b"meanwhile") == b"meanwhile"
                gate.let()
                gate.holds(0)
            assert asker.take(len(expected)) == expected, name
            assert asker.ask(b"next") == b"next"  # and nothing before it


WRONG = [
    (lambda: "x", "str"),
    (lambda: {b"a": b"b"}, "dict"),
    (lambda: 5, "int"),
    (lambda: [b"1", "x", b"2"], "str"),
    (lambda: itertools.chain([b"1"], [5]), "int"),
]


@pytest.mark.parametrize(("returned", "told"), WRONG)
def test_what_a_handler_may_not_return(
    returned: Callable[[], Any],
    told: str,
    caplog: pytest.LogCaptureFixture,
    workers: int,
) -> None:
    """What an iterable holds before it is sent."""

    def handler(message: bytes) -> Any:
        return returned() if message == b"wrong" else message

    with serving(handler, workers=workers) as server, Asker(server) as asker:
        asker.send(b"wrong")
        if not isinstance(returned(), str | dict | int):
            assert asker.recv() == b"1"
        assert asker.ask(b"next") == b"next"
        assert server.stats["handler_errors"] == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert f"not {told}" in str(record.exc_info[1])


class Defiant(bytes):
    def __bytes__(self) -> bytes:
        raise ValueError("as told")


def released() -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


def test_reply_is_what_its_buffer_holds() -> None:
    with serving(lambda message: Defiant(message)) as server, Asker(server) as asker:
        assert asker.ask(b"x") == b"x"


def test_reply_that_cannot_be_copied_is_the_handlers_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(message: bytes) -> Any:
        return released() if message == b"wrong" else message

    with serving(handler) as server, Asker(server) as asker:
        asker.sock.settimeout(PROMPT)
        asker.send(b"wrong")
        assert asker.ask(b"next") == b"next"
        assert server.stats["handler_errors"] == 1


# ------------------------------------------------------------ errors of handlers


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("late", [False, True], ids=["called", "iterated"])
def test_handler_that_raises_loses_one_datagram(
    error: type[BaseException], late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(message: bytes) -> Any:
        def replies() -> Any:
            yield b"before"
            raise error("as told")

        if message != b"fail":
            return message
        if late:
            return replies()
        raise error("as told")

    with serving(handler) as server, Asker(server) as asker:
        for _ in range(2):
            asker.send(b"fail")
            if late:
                assert asker.recv() == b"before"
            assert asker.ask(b"next") == b"next"
        assert server.stats["handler_errors"] == 2
        assert server.stats["messages_in"] == 4
        told = ("ERROR", f"handler failed for 127.0.0.1:{asker.name[1]}")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [told] * 2
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [error] * 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_from_a_handler_ends_the_thread_that_serves(error: type[BaseException]) -> None:
    """With workers=0 that is the caller's; it may go on."""

    def handler(message: bytes) -> bytes:
        if message == b"exit":
            raise error("as told")
        return message

    with pysock.DatagramServer(UDP, handler, workers=0) as server, Asker(server) as asker:
        for _ in range(2):
            asker.send(b"exit")
            with pytest.raises(error, match="as told"):
                server.serve_forever()
        server.start()
        assert asker.ask(b"next") == b"next"


def test_replies_made_before_an_exit_are_sent() -> None:
    def handler(message: bytes) -> bytes:
        if message == b"exit":
            raise SystemExit
        return message

    with pysock.DatagramServer(UDP, handler, workers=0) as server, Asker(server) as asker:
        asker.sock.settimeout(PROMPT)
        asker.send(b"1", b"2", b"exit")
        with pytest.raises(SystemExit):
            server.serve_forever()
        assert asker.take(2) == [b"1", b"2"]


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
def test_handle_error_overridden(
    broken: bool, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = []

    class Own(pysock.DatagramServer):
        def handle_error(self, message: bytes, client_address: Any) -> None:
            told.append((message, client_address))
            if broken:
                raise ValueError("also this")

    with Own(address, fail).start() as server, Asker(server) as asker:
        asker.send(b"fail")
        assert asker.ask(b"next") == b"next"
        assert [(message, where[:2]) for message, where in told] == [(b"fail", asker.name[:2])]
    assert lines(caplog) == ["handle_error() failed"] * broken


# ------------------------------------------------------------ senders


def test_sender_has_the_address_of_every_family(address: str, workers: int) -> None:
    seen = []

    def handler(message: bytes, sender: Any) -> bytes:
        seen.append(sender)
        return message

    with serving(handler, address, workers=workers) as server, Asker(server) as asker:
        assert asker.ask(b"1") == b"1"
        assert seen[0].address == asker.name
        assert repr(seen[0]) == f"<Sender {asker.name!r}>"
        assert seen[0].proxy is None
        seen[0].send(bytearray(b"2"))  # from another thread, later
        assert asker.recv() == b"2"
        until(lambda: server.stats["messages_out"] == 2)


def test_sender_sends_before_what_the_handler_returns(address: str) -> None:
    def handler(message: bytes, sender: Any) -> list[bytes]:
        sender.send(b"1")
        sender.send(memoryview(b"2"))
        return [b"3", b"4"]

    with serving(handler, address) as server, Asker(server) as asker:
        for _ in range(3):
            asker.send(b"x")
            assert asker.take(4) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("wrong", ["x", 5, None, [b"x"]])
def test_sender_sends_bytes_only(wrong: Any) -> None:
    def handler(message: bytes, sender: Any) -> bytes:
        with pytest.raises(TypeError):
            sender.send(wrong)
        return message

    with serving(handler) as server, Asker(server) as asker:
        assert asker.ask(b"x") == b"x"


def test_handler_with_a_default_gets_no_sender() -> None:
    def handler(message: bytes, more: bytes = b"!") -> bytes:
        return message + more

    with serving(handler) as server, Asker(server) as asker:
        assert asker.ask(b"x") == b"x!"


def test_many_askers_each_get_their_own_replies(address: str) -> None:
    with serving(lambda m, sender: m, address) as server, contextlib.ExitStack() as stack:
        askers = [stack.enter_context(Asker(server)) for _ in range(20)]
        for asker in askers:
            asker.send(*(repr((asker.name, i)).encode() for i in range(10)))
        for asker in askers:
            assert asker.take(10) == [repr((asker.name, i)).encode() for i in range(10)]


@linux
def test_unix_sender_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    """The longest abstract name, with zeros in it; a path that is not UTF-8."""
    seen = []

    def handler(message: bytes, sender: Any) -> bytes:
        seen.append(sender.address)
        return fail(message)

    with serving(handler, f"unixgram://{tmp_path}/s") as server:
        for name in (b"\0a\0b\0".ljust(108, b"z"), os.fsencode(tmp_path) + b"/\xff"):
            with Asker(server, name) as asker:
                asker.send(b"fail")
                assert asker.ask(b"x") == b"x"
                assert os.fsencode(seen[-1]) == name


@pytest.mark.case("G11")
@unix
def test_unix_sender_without_a_name_cannot_be_answered_g11(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures = []

    def handler(message: bytes, sender: Any) -> bytes:
        assert message == b"named" or sender.address is None
        if message == b"send":
            try:
                sender.send(b"x")
            except OSError as exc:
                failures.append(exc)
        return fail(message)

    with (
        serving(handler, f"unixgram://{tmp_path}/s") as server,
        nameless(server) as peer,
        Asker(server) as asker,
    ):
        for message in (b"x", b"send", b"fail"):
            peer.send(message)
        assert asker.ask(b"named") == b"named"
        until(lambda: server.stats["replies_lost"] == 2)
    assert failures[0].errno == errno.EDESTADDRREQ
    assert "has to bind" in str(failures[0])
    assert ["has to bind it" in line for line in lines(caplog)] == [True, True, False]
    assert "handler failed" in lines(caplog)[2]


# ------------------------------------------------------------ lengths

LENGTHS = [("udp4", 65507), ("udp6", 65527), ("path", None), ("abstract", None)]


@pytest.mark.case("G01", "G02", "G03")
@linux
@pytest.mark.parametrize(("kind", "limit"), LENGTHS)
def test_longest_datagrams_both_ways_g01_g02_g03(
    kind: str, limit: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[pysock.FrameTooLarge] = []

    def handler(message: bytes, sender: Any) -> bytes:
        if message == b"send":
            with pytest.raises(pysock.FrameTooLarge) as caught:
                sender.send(bytes(most + 1))
            errors.append(caught.value)
        return bytes(most + 1) if message == b"longer" else message

    with serving(handler, datagram_servers.address_of(kind, tmp_path)) as server:
        most = limit or server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
        with Asker(server) as asker:
            for size in (0, 1, 1472, 1473, 8972, most - 1, most):
                message = os.urandom(size)
                assert asker.ask(message) == message
            asker.send(b"longer")
            assert asker.ask(b"send") == b"send"
            until(lambda: server.stats["replies_lost"] == 1)
            assert server.fileno() >= 0
    assert (errors[0].length, errors[0].limit) == (most + 1, most)
    (line,) = lines(caplog, logging.ERROR)
    assert f"a reply of {most + 1} bytes" in line
    assert line.endswith(f"a datagram may have {most}")


@pytest.mark.case("G04")
def test_datagram_longer_than_max_datagram_is_lost_and_told_g04(
    address: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def handler(message: bytes) -> bytes:
        seen.append(len(message))
        return message

    with (
        serving(handler, address, max_datagram=100, workers=workers) as server,
        Asker(server) as asker,
    ):
        asker.send(bytes(101), bytes(60_000))
        assert asker.ask(bytes(100)) == bytes(100)
        assert seen == [100]
        assert (server.stats["too_long"], server.stats["messages_in"]) == (2, 1)
    assert [line.split()[:5] for line in lines(caplog)] == [
        f"a datagram of {length}".split()
        for length in (("101 bytes", "60000 bytes") if TELLS_LENGTH else ["more than"] * 2)
    ]
    assert "max_datagram=" in lines(caplog)[0]


def test_only_a_server_makes_a_sender() -> None:
    with pytest.raises(RuntimeError, match="only a server makes"):
        pysock.Sender().send(b"x")
    assert pysock.Sender().address is None


def test_class_is_no_handler() -> None:
    with pytest.raises(TypeError, match="Session is a class, and datagrams have no sessions"):
        pysock.DatagramServer(UDP, pysock.Session)
