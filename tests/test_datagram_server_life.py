"""DatagramServer: from its start to its end, by all who may end it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import datagram_servers
import pysock
from conftest import linux, unix
from datagram_servers import UDP, Asker, address_of, come_in, lines, serving
from gate import Gate, echo
from peers import LONG, SHORT, Task, run_python, until

address, workers = datagram_servers.address, datagram_servers.workers


@contextlib.contextmanager
def served_in_a_thread(server: pysock.DatagramServer) -> Iterator[Task]:
    task = Task(server.serve_forever)
    yield task
    task.finish()


# ------------------------------------------------------------ the calls of a life


def test_it_can_be_started_again_and_counts_on(address: str, workers: int) -> None:
    with (
        pysock.DatagramServer(address, echo, workers=workers) as server,
        Asker(server) as asker,
    ):
        server.stop()  # which has not begun
        for run in range(3):
            assert server.start() is server
            assert asker.ask(b"%d" % run) == b"%d" % run
            server.stop()
            server.stop()
            stats = server.stats
            assert stats["messages_in"] == stats["messages_out"] == 3 * run + 1
            asker.send(b"waits for %d" % run)  # in the system's queue
            server.start()
            assert asker.recv() == b"waits for %d" % run
            server.stop()
            with served_in_a_thread(server):
                asker.send(b"x")
                assert asker.recv() == b"x"
                server.shutdown()


def test_only_one_runs_at_a_time_and_none_once_it_is_closed() -> None:
    calls = ["start", "serve_forever", "handle_request"]
    with serving(echo) as server:
        for call in calls:
            with pytest.raises(RuntimeError, match="is running already"):
                getattr(server, call)()
    for call in calls:
        with pytest.raises(RuntimeError, match="is closed"):
            getattr(server, call)()
    server.stop()
    server.server_close()


def test_handle_request_serves_one(address: str) -> None:
    """Here, be it a good one or not; the others stay where they are."""
    threads: set[threading.Thread] = set()

    def handler(message: bytes, sender: Any) -> Any:
        threads.add(threading.current_thread())
        sender.send(b"sent")
        return (each for each in [message, b"last"])

    with (
        pysock.DatagramServer(address, handler, max_datagram=10) as server,
        Asker(server) as asker,
    ):
        asker.send(b"1", bytes(11), b"2", b"3")
        for count, message in enumerate([b"1", b"", b"2", b"3"], 1):
            server.handle_request()
            if message:
                assert asker.take(3) == [b"sent", message, b"last"]
            assert server.stats["messages_in"] + server.stats["too_long"] == count
        task = Task(server.handle_request)
        asker.send(b"4")
        assert asker.take(3) == [b"sent", b"4", b"last"]
        task.finish()
        assert threads == {threading.current_thread(), task}


def test_handle_request_can_be_stopped() -> None:
    with pysock.DatagramServer(UDP, echo) as server:
        task = Task(server.handle_request)
        until(lambda: server.stats["threads"])
        server.stop()
        task.finish()
        assert server.stats["messages_in"] == 0


@pytest.mark.parametrize("drain", [30.0, 0.0, -1.0, float("inf")])
def test_stop_while_idle(drain: float, address: str, workers: int) -> None:
    with pysock.DatagramServer(address, echo, workers=workers) as server:
        with served_in_a_thread(server):
            until(lambda: server.stats["threads"] == (min(workers, 2) or 1))
            Task(server.stop, drain).finish()
        assert not server.stopping
    with pytest.raises(ValueError, match="not a number"):
        server.stop(float("nan"))


@pytest.mark.case("D15")
@pytest.mark.parametrize("way", ["handler", "generator", "handle_error", "service_actions"])
def test_it_can_be_stopped_by_what_it_calls(way: str, workers: int) -> None:
    """Which returns at once; what is under way is finished."""

    class Own(pysock.DatagramServer):
        def handle_error(self, message: bytes, client_address: Any) -> None:
            self.stop()

        def service_actions(self) -> None:
            if way == "service_actions" and self.stats["messages_out"]:
                self.stop()

    def replies() -> Iterator[bytes]:
        yield b"1"
        server.stop()
        yield b"2"

    def handler(message: bytes) -> Any:
        if way == "handle_error" and message == b"end":
            raise ValueError
        if way == "generator" and message == b"end":
            return replies()
        if way == "handler" and message == b"end":
            server.stop()
        return message

    with Own(UDP, handler, workers=workers) as server, Asker(server) as asker:
        asker.send(b"0", b"end", b"after")
        expected = {
            "generator": [b"0", b"1", b"2", b"after"],
            "handle_error": [b"0", b"after"],
        }.get(way, [b"0", b"end", b"after"])
        Task(server.serve_forever).finish()
        # Who stops from a handler may be overtaken by those behind.
        assert sorted(asker.take(len(expected))) == sorted(expected)


def test_service_actions_are_called_by_and_by() -> None:
    calls = threading.Semaphore(0)

    class Own(pysock.DatagramServer):
        def service_actions(self) -> None:
            calls.release()

    with Own(UDP, echo).start():
        for _ in range(2):
            assert calls.acquire(timeout=LONG)


def test_body_that_raises_waits_for_no_handler() -> None:
    gate = Gate()
    with pytest.raises(KeyError), serving(gate) as server, Asker(server) as asker:
        asker.send(b"block")
        gate.holds(1)
        worker = [each for each in threading.enumerate() if " worker " in each.name]
        raise KeyError
    gate.let()
    for each in worker:
        each.join(LONG)


# ------------------------------------------------------------ drains


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_stop_answers_all_that_had_come(
    workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what no call has received yet."""
    gate = Gate()
    with (
        pysock.DatagramServer(UDP, gate, workers=workers) as server,
        Asker(server) as asker,
    ):
        with served_in_a_thread(server):
            for count in range(max(1, workers)):
                asker.send(b"block")
                gate.holds(count + 1)
            asker.send(*(b"%d" % i for i in range(150)))
            stopping = Task(server.stop)
            until(lambda: server.stopping)
            gate.let(max(1, workers))
            stopping.finish()
        got = asker.take(150 + max(1, workers))
        assert sorted(got) == sorted(
            [b"%d" % i for i in range(150)] + [b"block"] * max(1, workers)
        )
        assert server.stats["messages_out"] == len(got)
    assert caplog.records == []


@unix
def test_stop_answers_all_that_waits_in_a_unix_queue(tmp_path: Path) -> None:
    gate = Gate()
    where = address_of("path", tmp_path)
    with serving(gate, where, workers=1) as server, Asker(server) as asker:
        asker.send(b"block")
        gate.holds(1)
        asker.send(*(b"%d" % i for i in range(10)))
        stopping = Task(server.stop)
        until(lambda: server.stopping)
        gate.let()
        stopping.finish()
        assert asker.take(11) == [b"block", *(b"%d" % i for i in range(10))]


@pytest.mark.parametrize("blocked", [False, True])
def test_stop_under_a_flood_ends(blocked: bool, address: str) -> None:
    """Although datagrams never stop coming, and some handler is in its way."""
    gate = Gate()
    end = threading.Event()

    def flood() -> None:
        asker.sock.settimeout(0)
        while not end.is_set():
            with contextlib.suppress(BlockingIOError):
                asker.send(b"x")

    with (
        serving(lambda m: gate(m) and None, address, workers=2) as server,
        Asker(server) as asker,
    ):
        asker.send(*[b"block"] * blocked)
        flooding = Task(flood)
        come_in(server, 1000)
        stopping = Task(server.stop)
        gate.let()
        stopping.finish()
        end.set()
        flooding.finish()


def test_handler_that_does_not_end_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    with serving(gate) as server, Asker(server) as asker:
        asker.send(b"block")
        gate.holds(1)
        Task(server.stop, SHORT).finish()
        assert [line.rpartition(": ")[2] for line in lines(caplog)] == [
            "its handler does not end, left behind"
        ]
        server.start()
        assert asker.ask(b"again") == b"again"
        gate.let()


def test_second_stop_shortens_the_drain(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with serving(gate) as server, Asker(server) as asker:
        asker.send(b"block")
        gate.holds(1)
        stops = [Task(server.stop, drain) for drain in (1e9, float("inf"), 1e6)]
        until(lambda: server._run is not None and len(server._run.deadlines) == 3)
        assert server.stopping
        server.stop(0)
        for task in stops:
            task.finish()
        gate.let()


def test_stop_waits_for_handlers_and_what_they_send() -> None:
    gate = Gate()

    def handler(message: bytes, sender: Any) -> Any:
        gate.wait()
        sender.send(b"1")
        return [b"2", b"3"]

    with serving(handler) as server, Asker(server) as asker:
        asker.send(b"x")
        gate.holds(1)
        stopping = Task(server.stop)
        until(lambda: server.stopping)
        gate.let()
        stopping.finish()
        assert asker.take(3) == [b"1", b"2", b"3"]


# ------------------------------------------------------------ after the end, and before it


def test_sender_that_outlives_its_server_sends_nothing() -> None:
    kept: list[Any] = []
    with serving(lambda m, sender: kept.append(sender)) as server, Asker(server) as asker:
        asker.send(b"x")
        come_in(server, 1)
        number = server.fileno()
        server.stop()
        server.server_close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            assert other.fileno() == number
            with pytest.raises(pysock.ConnectionClosed, match="the server has ended"):
                kept[0].send(b"stray")


@pytest.mark.case("G13")
@linux
@pytest.mark.parametrize("kind", ["udp4", "path"])
def test_socket_that_is_shut_down_ends_the_server_g13(kind: str, tmp_path: Path) -> None:
    server = pysock.DatagramServer(address_of(kind, tmp_path), echo)
    try:
        task = Task(server.serve_forever)
        with contextlib.suppress(OSError):  # UDP: not connected, and done all the same
            server.socket.shutdown(socket.SHUT_RD)
        task.join(10 * SHORT)
        assert not task.is_alive()
    finally:
        server.stop()
        server.server_close()


def test_server_that_is_closed_first_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    server = serving(echo)
    until(lambda: server.stats["threads"] == 2)
    server.server_close()
    server.stop()
    assert caplog.records == []


# ------------------------------------------------------------ forks, signals

FORK = """
import logging, os, signal, socket, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
logging.disable()
import pysock
parent, children = os.getpid(), []
workers, way = int(sys.argv[1]), sys.argv[2]

def fork():
    if pid := os.fork():
        children.append(pid)
        return
    if way == "exit":
        os._exit(0)
    if way == "raise":
        raise ValueError
    if way == "sys.exit":
        sys.exit(0)

def handler(message):
    if os.getpid() != parent:
        os._exit(7)  # it goes on with what came behind
    if message == b"fork":
        fork()
        return b"forked"
    if message == b"generate":
        return (fork() or b"forked" for _ in range(1))
    return message

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
sock.settimeout(2)
with pysock.DatagramServer("udp://127.0.0.1:0", handler, workers=workers) as server:
    sock.sendto(b"generate" if way == "generator" else b"fork", server.server_address)
    for message in [b"%d" % number for number in range(200)]:
        sock.sendto(message, server.server_address)
        server.start() if message == b"2" else None
        if int(message) >= 2:
            while sock.recv(99) != message:
                pass
    for child in children:
        end = time.monotonic() + 2
        while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise SystemExit("the child lives")
            time.sleep(0.01)
        assert status == (child, 0), "the child serves"
"""

FORKS: list[Any] = [
    *itertools.product("04", ["exit", "return"]),
    ("0", "raise"),
    ("4", "raise"),
    ("4", "sys.exit"),
    ("4", "generator"),
]


@pytest.mark.case("S04")
@pytest.mark.skipif(
    not hasattr(sys, "getswitchinterval") or sys.platform == "win32", reason="fork"
)
@pytest.mark.parametrize(("workers", "way"), FORKS)
def test_child_forked_in_a_handler_serves_nobody(workers: str, way: str) -> None:
    assert run_python(FORK, workers, way) == ""


SIGNALS = """
import os, signal, socket, sys, threading
import pysock
workers, number = int(sys.argv[1]), getattr(signal, sys.argv[2])
server = pysock.DatagramServer("udp://127.0.0.1:0", bytes.upper, workers=workers)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.connect(server.server_address)
if number == signal.SIGTERM:
    signal.signal(number, lambda *_: (server.stop(), server.stats))

def ask_and_end():
    for _ in range(100):
        sock.send(b"hello")
        assert sock.recv(9) == b"HELLO"
    os.kill(os.getpid(), number)

for _ in range(3):  # it goes on afterwards
    thread = threading.Thread(target=ask_and_end)
    thread.start()
    try:
        server.serve_forever()
        print("ended")
    except KeyboardInterrupt:
        print("interrupted")
    thread.join()
server.server_close()
"""


@pytest.mark.case("S02")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("workers", ["0", "4"])
@pytest.mark.parametrize(("number", "said"), [("SIGTERM", "ended"), ("SIGINT", "interrupted")])
def test_signal_ends_what_serves_in_the_main_thread(
    workers: str, number: str, said: str
) -> None:
    assert run_python(SIGNALS, workers, number).split() == [said] * 3
