"""DatagramServer: handlers that block, floods, clients that are gone."""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import datagram_servers
import pysock
from conftest import linux, unix
from datagram_servers import UDP, Asker, come_in, lines, serving
from gate import Gate, echo
from peers import PROMPT, Task, run_python, until

address, workers = datagram_servers.address, datagram_servers.workers

# ------------------------------------------------------------ handlers that block


def test_as_many_handlers_may_block_as_there_are_workers(address: str) -> None:
    gate = Gate()
    with serving(gate, address, workers=4) as server, contextlib.ExitStack() as stack:
        blocked = [stack.enter_context(Asker(server)) for _ in range(4)]
        other = stack.enter_context(Asker(server))
        for count, asker in enumerate(blocked):
            assert other.ask(b"other %d" % count) == b"other %d" % count
            asker.send(b"block %d" % count)
            gate.holds(count + 1)
        other.send(b"waits")
        assert server.stats["threads"] == 4
        gate.let()
        assert other.recv() == b"waits"
        gate.let(3)
        assert [asker.recv() for asker in blocked] == [b"block %d" % i for i in range(4)]
    assert gate.most == 4


READS_STILL, LATER_EACH = 0.005, 1024  # as in mailing.pxi

BLOCKING = [(0,), (30,), (63,), (0, 1, 2), (0, 20, 40, 63)]


@pytest.mark.parametrize("late", [False, True], ids=["called", "iterated"])
@pytest.mark.parametrize("places", BLOCKING)
def test_batch_goes_on_while_some_of_it_blocks(places: tuple[int, ...], late: bool) -> None:
    """All 64 are received by one call; each is served once, and answered to its sender."""
    gate = Gate()
    calls: collections.Counter[bytes] = collections.Counter()

    def handler(message: bytes) -> Any:
        calls[message] += 1
        return (gate(each) for each in [message]) if late else gate(message)

    with (
        pysock.DatagramServer(UDP, handler, workers=8) as server,
        contextlib.ExitStack() as stack,
    ):
        askers = [stack.enter_context(Asker(server)) for _ in range(64)]
        for place, asker in enumerate(askers):
            asker.send(b"%s %d" % (b"block" if place in places else b"other", place))
        server.start()
        for place in set(range(64)) - set(places):
            assert askers[place].recv() == b"other %d" % place
        gate.holds(len(places))
        gate.let(len(places))
        for place in places:
            assert askers[place].recv() == b"block %d" % place
        assert set(calls.values()) == {1}
        assert len(calls) == server.stats["messages_in"] == 64
        until(lambda: server.stats["messages_out"] == 64)
        # Behind the last one nothing waits.
        assert server.stats["takeovers"] >= (places != (63,))


def test_handler_that_blocks_behind_a_leader_that_was_held_up_between_handlers() -> None:
    """The standby goes to sleep meanwhile, and has to be called."""
    gate = Gate()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.3)

    slow = Slow()
    with (
        pysock.DatagramServer(UDP, gate, workers=4, max_datagram=100) as server,
        Asker(server) as asker,
        Asker(server) as other,
    ):
        asker.send(b"first", bytes(101), b"block")  # the second is logged
        other.send(b"other")
        logging.getLogger("pysock").addHandler(slow)
        try:
            server.start()
            assert other.recv() == b"other"
        finally:
            logging.getLogger("pysock").removeHandler(slow)
            gate.let()
        assert asker.take(2) == [b"first", b"block"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_reply_does_not_wait_for_the_next_handler(workers: int) -> None:
    gate = Gate()
    with (
        pysock.DatagramServer(UDP, gate, workers=workers) as server,
        Asker(server) as asker,
        Asker(server) as other,
    ):
        asker.sock.settimeout(PROMPT)
        other.send(*[b"block"] * (workers - 1))
        asker.send(b"quick")
        other.send(b"block")
        server.start()
        gate.holds(max(1, workers))
        try:
            assert asker.recv() == b"quick"
        finally:
            gate.let(2)


def test_handle_error_that_blocks_holds_up_nobody() -> None:
    gate = Gate()

    class Own(pysock.DatagramServer):
        def handle_error(self, message: bytes, client_address: Any) -> None:
            gate.wait()

    with Own(UDP, datagram_servers.fail).start() as server, Asker(server) as asker:
        asker.sock.settimeout(PROMPT)
        asker.send(b"fail")
        gate.holds(1)
        try:
            assert asker.ask(b"x") == b"x"
        finally:
            gate.let()


ENDLESS = """
import itertools, socket, sys
import pysock

def handler(message):
    return itertools.repeat(b"z") if message == b"endless" else message

workers = int(sys.argv[1])
socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
with pysock.DatagramServer("udp://127.0.0.1:0", handler, workers=workers).start() as server:
    for sock in socks:
        sock.settimeout(10)
        sock.connect(server.server_address)
    socks[0].send(b"endless")
    assert socks[0].recv(9) == b"z"
    for message in [b"%d" % number for number in range(100 if workers else 0)]:
        socks[1].send(message)
        assert socks[1].recv(9) == message
    server.stop(0.1)
"""


@pytest.mark.parametrize("workers", ["0", "4"])
def test_endless_replies_hold_up_nobody_and_end_with_the_drain(workers: str) -> None:
    """Also those of an iterator that is all C, and lets no other thread run."""
    assert run_python(ENDLESS, workers) == ""


# ------------------------------------------------------------ floods

FLOOD = 100_000


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.case("G09")
@linux
@pytest.mark.parametrize(
    "slow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_flood_is_served_or_counted_g09(slow: bool) -> None:
    """What came in and what the system dropped is what was sent, to the last datagram."""
    gate = Gate()
    handled = itertools.count()

    def handler(message: bytes) -> None:
        gate(message)
        next(handled)

    with serving(handler, workers=4) as server, Asker(server) as asker:
        asker.sock.connect(server.server_address)
        if slow:
            for count in range(4):
                asker.sock.send(b"block")
                gate.holds(count + 1)
        before = resident()
        message, send = b"%08d" % 7, asker.sock.send
        for _ in range(FLOOD):
            send(message)
        assert resident() - before < 8 << 20
        if slow:
            assert server.stats["dropped"] > 0
        gate.let(4)
        sent = FLOOD + 4 * slow
        until(lambda: server.stats["messages_in"] + server.stats["dropped"] == sent)
        server.stop()
        assert server.stats["messages_in"] + server.stats["dropped"] == sent
        assert next(handled) == server.stats["messages_in"]
        assert server.stats["bytes_in"] == 8 * server.stats["messages_in"] - 12 * slow


@unix
def test_nothing_of_a_unix_flood_is_lost(tmp_path: Path) -> None:
    """There the sender waits; each datagram is handled once."""
    seen: list[bytes] = []
    with serving(seen.append, f"unixgram://{tmp_path}/s") as server, Asker(server) as asker:
        messages = [b"%d" % i for i in range(20_000)]
        asker.send(*messages)
        server.stop()
        assert sorted(seen) == sorted(messages)
        assert (server.stats["messages_in"], server.stats["dropped"]) == (20_000, 0)


@unix
def test_unix_client_that_asks_ahead_and_reads_on_gets_all_replies(tmp_path: Path) -> None:
    with serving(echo, f"unixgram://{tmp_path}/s") as server, Asker(server) as asker:
        messages = [b"%d" % i for i in range(10_000)]
        sending = Task(asker.send, *messages)
        asker.sock.settimeout(PROMPT)
        replies, pause, last = [], 0.0, time.monotonic()
        with contextlib.suppress(TimeoutError):
            while len(replies) < len(messages):
                replies.append(asker.recv())
                pause, last = max(pause, time.monotonic() - last), time.monotonic()
        sending.finish()
        assert len(replies) + server.stats["replies_lost"] == len(messages)
        # Where other programs have kept it from reading on, it has its share all the same.
        assert sorted(replies) == sorted(messages) or (
            pause > READS_STILL / 2 and len(replies) > LATER_EACH
        )


# ------------------------------------------------------------ clients that are gone


def goes(asker: Asker) -> None:
    asker.close()


def goes_with_its_path(asker: Asker) -> None:
    name = asker.name
    asker.close()
    os.unlink(name)


@pytest.mark.case("G12")
@unix
@pytest.mark.parametrize("way", [goes, goes_with_its_path])
@pytest.mark.parametrize("sent", [False, True], ids=["returned", "sent"])
def test_unix_client_that_is_gone_harms_nobody_g12(
    way: Callable[[Asker], None], sent: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    failed: list[OSError] = []

    def handler(message: bytes, sender: Any) -> bytes:
        gate(message)
        if message == b"block" and sent:
            try:
                sender.send(message)
            except OSError as exc:
                failed.append(exc)
        return message

    caplog.set_level(logging.INFO)
    with (
        serving(handler, f"unixgram://{tmp_path}/s") as server,
        Asker(server) as other,
        Asker(server) as asker,
    ):
        asker.send(b"block")
        gate.holds(1)
        name = asker.name
        way(asker)
        gate.let()
        until(lambda: server.stats["replies_lost"] == 1)
        assert other.ask(b"x") == b"x"
    error = ConnectionRefusedError if way is goes else FileNotFoundError
    assert [type(each) for each in failed] == [error] * sent
    (line,) = lines(caplog, logging.INFO)
    assert line.startswith(f"a reply to unix://{name} is lost: ")


@pytest.mark.case("G08")
def test_udp_client_that_is_gone_harms_nobody_g08() -> None:
    """What comes back is not told to a socket that is not connected."""
    with serving(echo) as server, Asker(server) as asker:
        for _ in range(40):
            with Asker(server) as gone:
                gone.send(b"x")
        assert asker.ask(b"x") == b"x"
        come_in(server, 41)


def answered(server: pysock.DatagramServer) -> int:
    stats = server.stats
    return stats["messages_out"] + stats["replies_lost"]


@pytest.mark.case("G08")
@linux
def test_socket_that_is_told_of_icmp_errors_goes_on_g08(workers: int) -> None:
    """A connected one is, with the next thing that it does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        gate = Gate()
        with pysock.DatagramServer(sock, gate, workers=workers) as server:
            asker = Asker(server)
            name = asker.name
            sock.connect(name)
            server.start()
            for count in range(1, 41):
                asker.send(b"block")
                gate.holds(1)
                asker.close()
                gate.let()
                until(lambda: answered(server) == count)  # noqa: B023
                asker = Asker(server, name)
            with asker:
                assert asker.ask(b"x") == b"x"


@unix
def test_replies_of_one_batch_have_each_their_fate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One to a client that is gone, one too long, one to nobody: the rest arrive."""

    def handler(message: bytes) -> Any:
        return bytes(1 << 20) if message == b"long" else message

    with (
        pysock.DatagramServer(f"unixgram://{tmp_path}/s", handler) as server,
        Asker(server) as asker,
        datagram_servers.nameless(server) as peer,
    ):
        asker.send(b"1")
        with Asker(server) as gone:
            gone.send(b"x")
        asker.send(b"2", b"long")
        peer.send(b"x")
        asker.send(b"3")
        server.start()
        assert asker.take(3) == [b"1", b"2", b"3"]
        until(lambda: answered(server) == 6)
        assert server.stats["replies_lost"] == 3


# ------------------------------------------------------------ reports of the system


def drops(sock: socket.socket) -> int:
    """Datagrams that the system says it has dropped, by another way than the library's."""
    inode: int = os.fstat(sock.fileno()).st_ino
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[9]) == inode:
            return int(fields[-1])
    raise AssertionError("the socket is not listed")


@pytest.mark.case("G09")
@linux
def test_dropped_is_the_systems_own_count_g09() -> None:
    gate = Gate()
    with serving(gate, workers=1, receive_buffer=4096) as server, Asker(server) as asker:
        asker.send(b"block")
        gate.holds(1)
        asker.send(*[bytes(1000)] * 100)
        assert server.stats["dropped"] == drops(server.socket) > 0
        gate.let()
        until(lambda: server.stats["messages_in"] + drops(server.socket) == 101)


@linux
def test_receive_buffer_that_the_system_cuts_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    most = int(Path("/proc/sys/net/core/rmem_max").read_text())
    with pysock.DatagramServer(UDP, echo, receive_buffer=8 * most) as server:
        got = server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert got < 8 * most
    (line,) = lines(caplog)
    assert line.startswith(f"receive_buffer is {8 * most}, and {got} where")
