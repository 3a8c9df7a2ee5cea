"""DatagramServer: replies to Unix clients whose queues are full."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import unix
from datagram_servers import Asker, come_in, filled, lines, serving
from gate import Gate, echo
from peers import LONG, PROMPT, SHORT, Task, until

pytestmark = unix

MOST = 1024  # replies that wait for one receiver at most
MOST_BYTES = 16 << 20


@pytest.fixture
def where(tmp_path: Path) -> str:
    return f"unixgram://{tmp_path}/s"


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(first, first + count)]


@pytest.mark.parametrize("workers", [0, 4])
def test_replies_wait_in_order_while_others_are_served(where: str, workers: int) -> None:
    with (
        serving(echo, where, workers=workers, send_timeout=LONG) as server,
        Asker(server) as asker,
        Asker(server) as other,
    ):
        room = filled(server, asker)
        for count, message in enumerate(numbers(200)):
            asker.send(message)
            if count % 50 == 0:
                assert other.ask(b"other %d" % count) == b"other %d" % count
        come_in(server, 204)
        assert asker.take(room + 200) == numbers(room) + numbers(200)
        until(lambda: server.stats["messages_out"] == 204)
        assert server.stats["replies_lost"] == 0
        assert asker.ask(b"next") == b"next"


@pytest.mark.parametrize("way", ["returned", "several", "held up", "sent"])
def test_reply_is_lost_after_send_timeout(
    where: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    failed: list[BaseException] = []

    def handler(message: bytes, sender: Any) -> Any:
        if message != b"full":
            return message
        if way == "sent":
            try:
                sender.send(message)
            except OSError as exc:
                failed.append(exc)
        if way == "held up":
            gate.wait()
        return [message, message] if way == "several" else message

    caplog.set_level(logging.INFO)
    lost = 2 if way == "several" else 1
    with (
        serving(handler, where, send_timeout=SHORT) as server,
        Asker(server) as asker,
        Asker(server) as other,
    ):
        room = filled(server, asker)
        asker.send(b"full")
        assert other.ask(b"meanwhile") == b"meanwhile"
        gate.let()
        until(lambda: server.stats["replies_lost"] == lost)
        assert asker.take(room) == numbers(room)
        assert asker.ask(b"next") == b"next"
        assert server.stats["replies_lost"] == lost
    assert [type(each) for each in failed] == [TimeoutError] * (way == "sent")
    assert [f"a reply to unix://{asker.to}-" in line for line in lines(caplog, 20)] == [
        True
    ] * lost


def test_sender_waits_until_there_is_room(where: str) -> None:
    entered = threading.Event()

    def handler(message: bytes, sender: Any) -> bytes:
        entered.set()
        sender.send(b"sent")
        return b"returned"

    with serving(handler, where, send_timeout=LONG) as server, Asker(server) as asker:
        room = filled(server, asker)
        asker.send(b"x")
        assert entered.wait(LONG)
        assert asker.take(room + 2) == [*numbers(room), b"sent", b"returned"]


def test_replies_that_wait_are_bounded_by_number(where: str) -> None:
    with serving(echo, where, workers=1, send_timeout=LONG) as server, Asker(server) as asker:
        room = filled(server, asker)
        asker.send(*numbers(MOST + 76))
        until(lambda: server.stats["replies_lost"] == 76)
        assert asker.take(room + MOST) == numbers(room) + numbers(MOST)
        assert asker.ask(b"next") == b"next"
        assert server.stats["replies_lost"] == 76


def test_replies_that_wait_are_bounded_by_bytes(where: str) -> None:
    size = 150_000
    with (
        # A thread that another one has taken over from holds one reply more.
        serving(lambda m: m.ljust(size), where, workers=1, send_timeout=LONG) as server,
        Asker(server) as asker,
    ):
        room, most = filled(server, asker), MOST_BYTES // size
        asker.send(*numbers(most + 5))
        until(lambda: server.stats["replies_lost"] == 5)
        assert asker.take(room) == numbers(room)
        assert [m.rstrip() for m in asker.take(most)] == numbers(most)


def test_client_that_reads_nothing_takes_no_reply_from_others(where: str) -> None:
    with (
        serving(echo, where, send_timeout=LONG) as server,
        Asker(server) as asker,
        Asker(server) as other,
    ):
        other.sock.settimeout(PROMPT)
        filled(server, asker)
        asker.send(*numbers(MOST + 1))
        until(lambda: server.stats["replies_lost"] == 1)
        assert other.ask(b"other") == b"other"


def test_replies_of_one_handler_stay_in_order(where: str) -> None:
    """Also where the first of them waits for room, and the lead is lost between them."""
    gate = Gate()

    def handler(message: bytes) -> Any:
        if message == b"other":
            return message
        return (gate(each) for each in [b"first", b"block", b"last"])

    with (
        serving(handler, where, send_timeout=LONG) as server,
        Asker(server) as asker,
        Asker(server) as other,
    ):
        for _ in range(10):
            room = filled(server, asker)
            asker.send(b"x")
            assert other.ask(b"other") == b"other"
            gate.let()
            assert asker.take(room + 3)[room:] == [b"first", b"block", b"last"]


def test_client_that_goes_while_replies_wait(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving(echo, where, send_timeout=LONG) as server, Asker(server) as other:
        with Asker(server) as asker:
            filled(server, asker)
            asker.send(*numbers(100))
            come_in(server, 100)
        until(lambda: server.stats["replies_lost"] == 100)
        assert other.ask(b"x") == b"x"
    assert lines(caplog, logging.INFO)[0].endswith("Connection refused")


def test_stop_waits_for_replies_that_wait(where: str) -> None:
    with serving(echo, where, send_timeout=LONG) as server, Asker(server) as asker:
        room = filled(server, asker)
        asker.send(*numbers(100))
        come_in(server, 100)
        stopping = Task(server.stop)
        until(lambda: server.stopping)
        assert asker.take(room + 100)[room:] == numbers(100)
        stopping.finish()
        assert server.stats["messages_out"] == 100


def test_replies_that_wait_at_the_end_of_the_drain_are_counted(where: str) -> None:
    with serving(echo, where, send_timeout=LONG) as server, Asker(server) as asker:
        filled(server, asker)
        asker.send(*numbers(10))
        come_in(server, 10)
        server.stop(0)
        assert server.stats["replies_lost"] == 10


def test_handle_request_keeps_a_reply_until_there_is_room(where: str) -> None:
    with (
        pysock.DatagramServer(where, echo, send_timeout=LONG) as server,
        Asker(server) as asker,
    ):
        asker.sock.settimeout(PROMPT)
        room = filled(server, asker)
        asker.send(b"last")
        serving_one = Task(server.handle_request)
        come_in(server, 1)
        assert asker.take(room + 1)[room:] == [b"last"]
        serving_one.finish()
