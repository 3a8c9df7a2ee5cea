"""Server and its life: serving in threads and in the foreground, stopping, sessions."""

from __future__ import annotations

import math
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
import pysock
from both_ways import over_both
from conftest import unix
from gate import SOON, Echo, client, write
from peers import until

transport = both_ways.transport


def serve(server: pysock.Server, run: Callable[[], None] | None = None) -> threading.Thread:
    thread = threading.Thread(target=run or server.serve_forever)
    thread.start()
    return thread


@over_both
def test_serve_forever_ends_by_shutdown() -> None:
    with pysock.Server("127.0.0.1:0", bytes.upper) as server:
        thread = serve(server)
        with client(server) as peer:
            assert peer.request(b"a") == b"A"
            server.shutdown()
            thread.join(SOON)
            assert not thread.is_alive()
            assert list(peer) == []


@over_both
def test_server_can_serve_again_after_stop() -> None:
    with pysock.Server("127.0.0.1:0", bytes.upper) as server:
        for _ in range(3):
            server.start()
            with client(server) as peer:
                assert peer.request(b"a") == b"A"
            server.stop()


def test_stop_before_start_and_twice_does_nothing() -> None:
    server = pysock.Server("127.0.0.1:0", bytes.upper)
    server.stop()
    server.start()
    server.stop()
    server.stop()
    server.server_close()
    server.server_close()
    with pytest.raises(RuntimeError, match="closed"):
        server.serve_forever()
    with pytest.raises(RuntimeError, match="closed"):
        server.handle_request()


def test_server_runs_once_at_a_time() -> None:
    with (
        pysock.Server("127.0.0.1:0", bytes.upper).start() as server,
        client(server) as peer,
    ):
        assert peer.request(b"a") == b"A"
        with pytest.raises(RuntimeError, match="running"):
            server.serve_forever()


@over_both
def test_handle_request_serves_one_connection_to_its_end() -> None:
    with pysock.Server("127.0.0.1:0", bytes.upper) as server:
        thread = serve(server, server.handle_request)
        with client(server) as peer:
            assert peer.request(b"a") == b"A"
            assert peer.request_many([b"x" * 1000] * 2000) == [b"X" * 1000] * 2000
            assert thread.is_alive()
        thread.join(SOON)
        assert not thread.is_alive()


@over_both
def test_handle_request_runs_a_session() -> None:
    with pysock.Server("127.0.0.1:0", Echo) as server:
        thread = serve(server, server.handle_request)
        with client(server) as peer:
            assert peer.request(b"a") == b"a"
        thread.join(SOON)
        assert not thread.is_alive()


@pytest.mark.case("D15")
@over_both
def test_stop_from_a_handler_returns_at_once() -> None:
    """D15: it is allowed."""

    def handler(message: bytes) -> bytes:
        server.stop()
        return b"stopping"

    with pysock.Server("127.0.0.1:0", handler) as server:
        thread = serve(server)
        with client(server) as peer:
            assert peer.request(b"") == b"stopping"
            assert list(peer) == []
        thread.join(SOON)
        assert not thread.is_alive()


@pytest.mark.case("D13")
@over_both
def test_stop_answers_what_has_arrived() -> None:
    """D13: requests that are in the system's buffers are not lost."""
    entered, go_on = threading.Event(), threading.Event()

    def handler(message: bytes) -> bytes:
        if message == b"wait":
            entered.set()
            assert go_on.wait(SOON)
        return message

    with pysock.Server("127.0.0.1:0", handler).start() as server:
        peers = [client(server) for _ in range(10)]
        for peer in peers:
            assert peer.request(b"known") == b"known"
        peers[0].send(b"wait")
        assert entered.wait(SOON)
        for peer in peers[1:]:
            peer.send(b"in the buffer")
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        while not server.stopping:
            time.sleep(0.001)
        go_on.set()
        assert [list(peer) for peer in peers] == [[b"wait"]] + [[b"in the buffer"]] * 9
        stopper.join(SOON)
        assert not stopper.is_alive()
        for peer in peers:
            peer.close()


@over_both
def test_stop_serves_a_first_request_that_is_on_its_way() -> None:
    with pysock.Server("127.0.0.1:0", bytes.upper).start() as server:
        with client(server) as known, client(server) as fresh:
            assert known.request(b"a") == b"A"
            while server.stats["connections"] < 2:
                time.sleep(0.001)
            stopper = threading.Thread(target=server.stop)
            stopper.start()
            assert list(known) == []  # answered and idle: closed at once
            assert fresh.request(b"b") == b"B"
            assert list(fresh) == []
        stopper.join(SOON)
        assert not stopper.is_alive()


@over_both
def test_stop_finishes_a_frame_that_has_begun() -> None:
    with pysock.Server("127.0.0.1:0", bytes.upper).start() as server:
        with client(server) as peer:
            assert peer.request(b"a") == b"A"
            write(peer, b"\0\0\0\x02x")
            until(lambda: server._loop and any(c.pending for c in list(server._loop.served)))
            stopper = threading.Thread(target=server.stop)
            stopper.start()
            while not server.stopping:
                time.sleep(0.001)
            write(peer, b"y")
            assert list(peer) == [b"XY"]
        stopper.join(SOON)
        assert not stopper.is_alive()


@pytest.mark.case("D14")
@over_both
def test_stop_cuts_what_is_not_done_at_the_deadline() -> None:
    """D14."""
    with pysock.Server("127.0.0.1:0", bytes.upper).start() as server, client(server) as peer:
        write(peer, b"\0\0\0\x02x")
        until(lambda: server._loop and any(c.pending for c in list(server._loop.served)))
        server.stop(drain=0.1)
        with pytest.raises((pysock.ConnectionClosed, ConnectionResetError)):
            peer.recv()


@over_both
def test_session_has_the_connection_and_a_thread() -> None:
    seen: list[Any] = []

    class Chat(pysock.Session):
        def setup(self) -> None:
            seen.append("setup")

        def handle(self) -> None:
            seen.append(threading.current_thread() is not threading.main_thread())
            seen.append(self.client_address)
            name = self.connection.recv()
            self.connection.send(b"hello " + name)
            assert self.connection.recv() == b"bye"

        def finish(self) -> None:
            seen.append("finish")

    with pysock.Server("127.0.0.1:0", Chat).start() as server, client(server) as peer:
        assert peer.request(b"eve") == b"hello eve"
        name = peer.getsockname()
        peer.send(b"bye")
        assert list(peer) == []
    assert seen == ["setup", True, name, "finish"]


@over_both
def test_sessions_block_nobody() -> None:
    with pysock.Server("127.0.0.1:0", Echo).start() as server:
        peers = [client(server) for _ in range(20)]
        for peer in reversed(peers):
            assert peer.request(b"x") == b"x"
        for peer in peers:
            peer.close()


@over_both
def test_session_that_raises_is_logged_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(pysock.Session):
        def handle(self) -> None:
            self.connection.send(b"last words")
            raise ZeroDivisionError("bad session")

    with pysock.Server("127.0.0.1:0", Bad).start() as server:
        for _ in range(2):
            with client(server) as peer:
                assert list(peer) == [b"last words"]
    assert caplog.text.count("ZeroDivisionError: bad session") == 2
    assert server.stats["handler_errors"] == 2


@over_both
def test_stop_ends_sessions_that_wait_between_messages() -> None:
    ended: list[str] = []

    class Polite(pysock.Session):
        def handle(self) -> None:
            for message in self.connection:
                self.connection.send(message)
            self.connection.send(b"goodbye")
            ended.append("quietly")

    with pysock.Server("127.0.0.1:0", Polite).start() as server, client(server) as peer:
        assert peer.request(b"a") == b"a"
        server.stop()
        assert list(peer) == [b"goodbye"]
    assert ended == ["quietly"]


@pytest.mark.case("D14")
@over_both
def test_stop_leaves_a_session_that_never_ends_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D14."""
    release = threading.Event()
    monkeypatch.setattr("pysock.loop.CUT", 0.05)

    class Stuck(pysock.Session):
        def handle(self) -> None:
            self.connection.send(b"stuck")
            release.wait(SOON)

    with pysock.Server("127.0.0.1:0", Stuck).start() as server, client(server) as peer:
        assert peer.recv() == b"stuck"
        server.stop(drain=0.05)
        with pytest.raises((pysock.ConnectionClosed, ConnectionResetError)):
            peer.recv()
        release.set()
    assert "does not end" in caplog.text


def test_service_actions_run_while_idle() -> None:
    ran = threading.Event()

    class Mine(pysock.Server):
        def service_actions(self) -> None:
            ran.set()

    with Mine("127.0.0.1:0", bytes.upper).start():
        assert ran.wait(SOON)


def test_idle_server_does_not_wake_up() -> None:
    """No polling interval: an idle server uses no processor time and no system calls."""
    with pysock.Server("127.0.0.1:0", bytes.upper).start() as server:
        with client(server) as peer:
            assert peer.request(b"a") == b"A"
        until(lambda: not server.stats["connections"])
        until(lambda: server._loop._crew.next_at == math.inf)


@pytest.mark.case("C11")
@over_both
def test_stop_and_start_while_clients_come_and_go() -> None:
    """C11."""
    with pysock.Server("127.0.0.1:0", bytes.upper) as server:
        over = threading.Event()
        address = server.address

        def hammer() -> None:
            while not over.is_set():
                try:
                    with pysock.Client(address, timeout=SOON, linger=0.1) as peer:
                        assert peer.request(b"a") == b"A"
                except (pysock.ConnectionClosed, ConnectionResetError, BrokenPipeError):
                    pass

        threads = [serve(server, hammer) for _ in range(3)]
        for _ in range(30):
            server.start()
            server.stop()
        server.start()
        over.set()
        for thread in threads:
            thread.join(SOON)
            assert not thread.is_alive()


PROGRAM = """
import pysock, signal, sys, threading
def handler(message):
    if message == b"exit": raise SystemExit(7)
    if message == b"interrupt": raise KeyboardInterrupt
    return message.upper()
try:
    with pysock.Server("127.0.0.1:0", handler, workers=int(sys.argv[1])) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.case("P13", "S02")
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(
    ("end", "workers", "status"),
    [("signal", 0, 130), ("signal", 4, 130), (b"interrupt", 0, 130), (b"exit", 0, 7)],
)
def test_keyboard_interrupt_and_exit_end_the_server(
    end: str | bytes, workers: int, status: int
) -> None:
    """S02, P13."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(workers)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with pysock.Client(("127.0.0.1", port), timeout=SOON) as peer:
            assert peer.request(b"a") == b"A"
            if isinstance(end, bytes):
                peer.send(end)
            else:
                process.send_signal(signal.SIGINT)
            assert process.wait(SOON) == status


@pytest.mark.case("D19")
@unix
def test_restart_on_the_same_path_after_a_kill(tmp_path: Any) -> None:
    """D19: a stale path is replaced."""
    program = (
        "import pysock, sys\n"
        "server = pysock.Server(sys.argv[1], bytes.upper)\n"
        "print('ready', flush=True)\n"
        "server.serve_forever()\n"
    )
    path = str(tmp_path / "s")
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-P", "-c", program, path], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            with pysock.Client(path, timeout=SOON) as peer:
                assert peer.request(b"a") == b"A"
            process.kill()
    with pysock.Server(path, bytes.upper).start() as server, client(server) as peer:
        assert peer.request(b"b") == b"B"
        with pytest.raises(OSError, match="answering there"):
            pysock.Server(path, bytes.upper)


@unix
def test_paths_go_after_a_change_of_the_folder(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with (
        pysock.Server("unix:s", bytes.upper, health="unix:h"),
        pysock.DatagramServer("unixgram:d", bytes.upper),
        pysock.DatagramClient(bind="unixgram:c"),
    ):
        assert sorted(os.listdir(tmp_path)) == ["c", "d", "h", "other", "s"]
        monkeypatch.chdir("other")
    assert os.listdir(tmp_path) == ["other"]


@pytest.mark.case("L05", "L06")
def test_accept_survives_running_out_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """L05, L06."""
    import errno

    failures = [errno.EMFILE, errno.ECONNABORTED, errno.EPROTO, errno.ENOBUFS]
    accept = socket.socket.accept

    def failing(self: socket.socket) -> Any:
        if failures and self is server._listeners[0].sock:
            number = failures.pop(0)
            raise OSError(number, os.strerror(number))
        return accept(self)

    server = pysock.Server("127.0.0.1:0", bytes.upper)
    monkeypatch.setattr(socket.socket, "accept", failing)
    with server.start(), client(server) as peer:
        assert peer.request(b"a") == b"A"
    assert not failures
    assert "cannot accept for now" in caplog.text


@pytest.mark.case("L06")
@pytest.mark.parametrize("error", ["ECONNABORTED", "ECONNRESET", "ENOTCONN"])
def test_client_that_is_gone_before_it_is_accepted_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    """L06: each system has its own number for it."""
    import errno

    failures = [getattr(errno, error)] * 50
    accept = socket.socket.accept

    def failing(self: socket.socket) -> Any:
        if failures and self is server._listeners[0].sock:
            raise OSError(failures.pop(), "it is gone")
        return accept(self)

    server = pysock.Server("127.0.0.1:0", bytes.upper)
    monkeypatch.setattr(socket.socket, "accept", failing)
    with server.start(), client(server) as peer:
        assert peer.request(b"a") == b"A"
    assert not failures
    assert caplog.text == ""


def test_start_of_a_closed_or_running_server_is_refused() -> None:
    server = pysock.Server("127.0.0.1:0", bytes.upper).start()
    with pytest.raises(RuntimeError, match="running"):
        server.start()
    server.stop()
    server.server_close()
    with pytest.raises(RuntimeError, match="closed"):
        server.start()
    server.stop()


def test_exit_in_a_handler_of_a_started_server_leaves_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(message: bytes) -> bytes:
        sys.exit(1)

    server = pysock.Server("127.0.0.1:0", handler, workers=0).start()
    with client(server) as peer:
        peer.send(b"")
        assert list(peer) == []
    server.stop()
    assert "has ended" in caplog.text
    with pytest.raises(ConnectionRefusedError):
        client(server)


@over_both
def test_exit_in_a_worker_s_handler_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(message: bytes) -> bytes:
        return sys.exit(1) if message == b"exit" else message

    with pysock.Server("127.0.0.1:0", handler).start() as server:
        with client(server) as peer:
            peer.send(b"exit")
            assert list(peer) == []
        with client(server) as peer:
            assert peer.request(b"a") == b"a"
    assert caplog.text.count("SystemExit: 1") == 1


def test_full_server_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with (
        pysock.Server("127.0.0.1:0", bytes.upper, max_connections=2).start() as server,
        client(server) as first,
        client(server) as second,
    ):
        assert first.request(b"a") == b"A"
        assert second.request(b"b") == b"B"
    assert caplog.text.count("max_connections") == 1
