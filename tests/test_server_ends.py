"""Connections that end, whoever ends them and wherever the server is with them just then."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import both_ways
import gate
import pysock
from both_ways import also_over_tls, over_both
from conftest import TIME_FACTOR, linux, require_peer, unix
from gate import LARGE, SOON, client, connected, frame, reset
from peers import LONG, PROMPT, Task, run_python, until

address, transport = gate.address, both_ways.transport


def reply_to(message: bytes) -> bytes:
    return LARGE if message == b"large" else message


def replies(message: bytes) -> bytes:
    return reply_to(message)


def iterates(message: bytes) -> Any:
    return [reply_to(message)[i : i + 65536] for i in range(0, len(reply_to(message)), 65536)]


def sends(message: bytes, connection: pysock.Connection) -> None:
    connection.send(reply_to(message))


class Sends(pysock.Session):
    def handle(self) -> None:
        for message in self.connection:
            self.connection.send(reply_to(message))


WAYS = [replies, iterates, sends, Sends]
HANDLERS = [replies, Sends]


# ------------------------------------------------------------ by the client


@pytest.mark.case("D01")
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x09abc", frame(b"x") + b"\0"])
def test_client_that_ends_anywhere_in_a_frame(
    sent: bytes, handler: Any, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """D01: its complete frames are answered; only a cut one is worth a line."""
    with pysock.Server(address, handler).start() as server, connected(server) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        expected = frame(b"x") if b"x" in sent else b""
        if expected:
            assert pysock.recv_exactly(sock, len(expected)) == expected
        assert sock.recv(1) == b""
        until(lambda: server.stats["connections"] == 0)
        assert server.stats["handler_errors"] == 0
    in_a_frame = sent not in (b"", frame(b"x"))
    assert ["inside a frame" in r.message or "bytes of a frame" in r.message
            for r in caplog.records] == [True] * in_a_frame  # fmt: skip


@pytest.mark.case("D02")
@also_over_tls(
    "sent,handler",
    [
        (sent, handler)
        for sent in (b"", b"\0\0", frame(b"x") + b"\0\0\1", frame(b"large"))
        for handler in WAYS
    ],
    [(b"", replies), (b"\0\0", Sends), (frame(b"large"), replies), (frame(b"large"), sends)],
)
def test_reset_wherever_the_server_is(
    sent: bytes, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """D02: parked for reading or writing, in a session's recv, in a handler's send."""
    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        client(server) as good,
        connected(server) as sock,
    ):
        assert good.request(b"a") == b"a"
        sock.sendall(sent)
        until(lambda: server.stats["bytes_in"] == 5 + len(sent))
        if sent == frame(b"large"):
            sock.recv(1)
            time.sleep(0.05)
        reset(sock)
        until(lambda: server.stats["connections"] == 1)
        assert good.request(b"b") == b"b"
        assert server.stats["handler_errors"] == 0
    assert [r for r in caplog.records if r.exc_info] == []


@pytest.mark.case("D03")
@linux
@pytest.mark.parametrize("handler", WAYS)
@pytest.mark.parametrize("sent", [b"", frame(b"large")])
def test_connection_that_the_system_ends(sent: bytes, handler: Any) -> None:
    """D03."""
    ss = require_peer("ss")
    with (
        pysock.Server("127.0.0.1:0", handler).start() as server,
        client(server) as good,
        connected(server, 4096) as sock,
    ):
        assert good.request(b"a") == b"a"
        sock.sendall(sent)
        until(lambda: server.stats["bytes_in"] == 5 + len(sent))
        ends = ["src", f"127.0.0.1:{server.server_address[1]}"]
        ends += ["dst", f"127.0.0.1:{sock.getsockname()[1]}"]
        subprocess.run([ss, "-K", "-t", *ends], capture_output=True, check=False)
        listed = subprocess.run([ss, "-Hnt", *ends], capture_output=True, text=True).stdout
        if "ESTAB" in listed:
            pytest.skip("the system does not end connections for us")
        until(lambda: server.stats["connections"] == 1)
        assert good.request(b"b") == b"b"


@pytest.mark.case("D07")
@pytest.mark.parametrize("handler", WAYS)
def test_client_that_half_closes_gets_a_large_reply(handler: Any, address: str) -> None:
    """D07."""
    with pysock.Server(address, handler).start() as server, client(server) as peer:
        peer.send_many([b"large", b"last"])
        peer.shutdown(socket.SHUT_WR)
        assert b"".join(peer) == LARGE + b"last"


VICTIM = """
import pysock.address, ssl, sys, time
sock = pysock.address.connect(sys.argv[1], 10)
sock.settimeout(10)
if sys.argv[3] == "tls":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = context.wrap_socket(sock)
if sys.argv[2] == "upload":
    sock.sendall(b"\\1\\0\\0\\0" + bytes(1 << 20))
else:
    sock.sendall(b"\\0\\0\\0\\5large")
    sock.recv(1)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.case("D08")
@also_over_tls(
    "act,handler",
    [(act, handler) for act in ("upload", "download") for handler in WAYS],
    [("upload", replies), ("download", sends)],
)
def test_client_that_is_killed(act: str, handler: Any, address: str, transport: str) -> None:
    """D08: its place is free at once, and others do not notice."""
    with pysock.Server(address, handler).start() as server, client(server) as good:
        assert good.request(b"a") == b"a"
        command = [sys.executable, "-P", "-c", VICTIM, str(server.address), act, transport]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline().rstrip() == b"ready"
            assert good.request(b"b") == b"b"
            process.kill()
            process.wait()
            until(lambda: server.stats["connections"] == 1, PROMPT)
        assert good.request(b"c") == b"c"


@pytest.mark.case("D09")
@unix
def test_write_to_a_closed_peer_does_not_end_the_process(address: str) -> None:
    """D09: with SIGPIPE as the system has it; and an exit without stop is quiet."""
    said = run_python(
        """
import logging, pysock, signal, sys, time
logging.disable()
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
class Session(pysock.Session):
    def handle(self):
        self.connection.recv()
        for _ in range(100):
            self.connection.send(bytes(10_000))
            time.sleep(0.001)
def handler(message, connection):
    for _ in range(20):
        connection.send(bytes(10_000))
        time.sleep(0.001)
    return [bytes(100_000)] * 10
for handles in (Session, handler, lambda message: [bytes(100_000)] * 10):
    with pysock.Server(sys.argv[1], handles).start() as server:
        for _ in range(3):
            with pysock.Client(server.address, linger=0) as peer:
                peer.send(b"x")
            while server.stats["connections"]:
                time.sleep(0.001)
""",
        address,
    )
    assert said == ""


@pytest.mark.case("D17")
def test_client_that_leaves_while_it_is_being_parked(transport: str) -> None:
    """D17: each is dealt with once."""
    rounds = 150 if transport == "tcp" else 60
    # One that is reset before it is accepted is not accepted at all on Windows.
    least = (2.0 if sys.platform == "win32" else 2.6) * rounds
    with pysock.Server("127.0.0.1:0", replies, workers=3).start() as server:

        def visit(number: int) -> None:
            for turn in range(rounds):
                with connected(server) as sock:
                    sock.sendall(frame(b"x")[: 1 + (turn + number) % 5])
                    if turn % 3 == 0:
                        reset(sock)
                    elif turn % 3 == 1 and (turn + number) % 5 == 4:
                        sock.recv(5)

        tasks = [Task(visit, number) for number in range(3)]
        for task in tasks:
            task.finish()
        until(lambda: server.stats["accepted"] >= least and not server.stats["connections"])
        with client(server) as peer:
            assert peer.request(b"a") == b"a"
        assert server.stats["handler_errors"] == server.stats["overdue"] == 0


# ------------------------------------------------------------ by the server


def closes(message: bytes, connection: pysock.Connection) -> None:
    connection.send(bytes(1 << 20))
    connection.close()


def raises(message: bytes, connection: pysock.Connection) -> None:
    connection.send(bytes(1 << 20))
    raise ZeroDivisionError


class Leaves(pysock.Session):
    def handle(self) -> None:
        self.connection.recv()
        self.connection.send(bytes(1 << 20))


@pytest.mark.case("D04", "D05")
@over_both
@pytest.mark.parametrize("handler", [closes, raises, Leaves])
def test_last_reply_arrives_although_input_is_unread(handler: Any, address: str) -> None:
    """D04, D05: for a client that is slow, and has sent what nobody reads."""
    with (
        pysock.Server(address, handler).start() as server,
        connected(server, 65536) as sock,
    ):
        sock.sendall(frame(b"go") + b"unread")
        got = 0
        while part := sock.recv(16384):
            got += len(part)
            time.sleep(0.0005)
        assert got == 4 + (1 << 20)


def stay(sock: socket.socket) -> None:
    """Neither read nor close."""


def send_on(sock: socket.socket) -> None:
    end = time.monotonic() + SOON
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            sock.sendall(b"x" * 1024)
            time.sleep(0.001)
        pytest.fail("the server still takes it")


@pytest.mark.case("D06")
@also_over_tls(
    "handler,act",
    [(handler, act) for handler in (closes, raises, Leaves) for act in (stay, send_on)],
    [(closes, stay), (Leaves, send_on)],
)
def test_end_waits_for_its_client_no_longer_than_linger(
    handler: Any, act: Callable[[socket.socket], None]
) -> None:
    """D06."""
    linger = 0.3 * TIME_FACTOR
    with (
        pysock.Server("127.0.0.1:0", handler, linger=linger, send_timeout=linger).start()
        as server,
        connected(server, 4096) as sock,
    ):  # fmt: skip
        sock.sendall(frame(b"go"))
        sock.recv(1)
        began = time.monotonic()
        act(sock)
        until(lambda: server.stats["connections"] == 0, SOON)
        assert time.monotonic() - began < 3 * linger + PROMPT


@pytest.mark.case("D10", "D12")
@over_both
@pytest.mark.parametrize("where", ["the handler", "another thread", "the garbage collector"])
def test_connection_may_be_closed_anywhere_and_twice(where: str) -> None:
    """D10, D12."""
    kept: list[pysock.Connection] = []

    class Closer:
        def __init__(self, connection: pysock.Connection) -> None:
            self.connection, self.me = connection, self

        def __del__(self) -> None:
            self.connection.close()

    def handler(message: bytes, connection: pysock.Connection) -> bytes | None:
        if where == "the handler":
            connection.close()
            connection.close()
        elif where == "another thread":
            kept.append(connection)
            return message
        else:
            closer = Closer(connection)
            del closer.me, closer
        return None

    with pysock.Server("127.0.0.1:0", handler).start() as server:
        for _ in range(20):
            with client(server) as peer:
                peer.send(b"x")
                if where == "another thread":
                    assert peer.recv() == b"x"
                    Task(kept[0].close).finish()
                    kept.pop().close()
                assert list(peer) == []
        until(lambda: server.stats["connections"] == 0)
        assert server.stats["handler_errors"] == 0


@pytest.mark.case("D10")
@over_both
def test_session_whose_connection_another_thread_closes() -> None:
    """D10: its receive ends at once."""
    kept: list[pysock.Connection] = []
    ended = threading.Event()

    class Waits(pysock.Session):
        def handle(self) -> None:
            kept.append(self.connection)
            try:
                self.connection.recv()
            finally:
                ended.set()

    with pysock.Server("127.0.0.1:0", Waits).start() as server, client(server) as peer:
        until(lambda: kept and kept[0].stats.waits_in)
        kept[0].close()
        assert ended.wait(PROMPT)
        assert list(peer) == []
        until(lambda: server.stats["connections"] == 0)


@pytest.mark.case("D18")
def test_both_sides_end_at_the_same_moment(transport: str) -> None:
    """D18: many times; then the port is free for another server."""
    rounds = 350 if transport == "tcp" else 60

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        connection.send(message)
        connection.close()
        return message

    with pysock.Server("127.0.0.1:0", handler, workers=2).start() as server:
        port = server.server_address[1]

        def visit() -> None:
            for _ in range(rounds):
                with client(server) as peer:
                    assert peer.request(b"x") == b"x"

        tasks = [Task(visit) for _ in range(3)]
        for task in tasks:
            task.finish(2 * LONG)
        assert server.stats["accepted"] == 3 * rounds
        assert server.stats["handler_errors"] == 0
    with pysock.Server(("127.0.0.1", port), replies).start() as server, client(server) as peer:
        assert peer.request(b"a") == b"a"


KILLED = """
import pysock, sys
server = pysock.Server(sys.argv[1], bytes.upper)
print(server.address, flush=True)
server.serve_forever()
"""


@pytest.mark.case("D19")
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_restart_after_a_kill_with_clients_connected(address: str) -> None:
    """D19."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            command = [sys.executable, "-P", "-c", KILLED, address]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                address = process.stdout.readline().strip()
                peers = [
                    stack.enter_context(pysock.Client(address, timeout=SOON)) for _ in range(5)
                ]
                for peer in peers:
                    assert peer.request(b"a") == b"A"
                process.send_signal(signal.SIGKILL)
                process.wait()
                for peer in peers:
                    with pytest.raises((pysock.ConnectionClosed, ConnectionResetError)):
                        peer.recv()
