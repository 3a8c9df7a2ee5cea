"""Clients and servers that hold up all they can: the others go on, clocks are kept."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

import remotes
from conftest import linux
from peers import Task
from pysock import ConnectionClosed, FramingError, RemoteError
from pysock.remote import Process, RemoteClient
from pysock.remote.fields import MOST_FIELDS
from pysock.remote.protocol import WINDOW, Exit, Kind, Put, Refusal, credit
from pysock.remote.protocol import Entry as File
from remotes import ask, bare_client, bare_server, next_of, served

server = remotes.server
remote = remotes.remote

pytestmark = linux


@contextlib.contextmanager
def repeating(send: object, message: bytes) -> Iterator[None]:
    """Send one message over and over, for as long as somebody takes it."""
    over = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError, ConnectionClosed):
            while not over.is_set():
                send(message)  # type: ignore[operator]

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("where", ["cwd", "args"])
def test_path_of_any_length_harms_nobody(server, remote, where):
    long = "/" + "x" * 70_000
    with server.client() as other, other.start(["cat"]) as process:
        with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
            remote.run(["true"], cwd=long) if where == "cwd" else remote.run([long])
        assert process.communicate(b"alive") == (b"alive", b"")


@pytest.mark.case("R27")
@pytest.mark.parametrize("message", [Kind.PING(b"x"), Kind.SIGNAL(b"CONT"), Kind.STDIN()])
def test_flood_of_words_does_not_put_off_the_time_limit(tmp_path, message):
    with (
        served(tmp_path, time_limit=0.3) as server,
        bare_client(server.address) as connection,
    ):
        connection.send(ask("sleep", "100", stdin=True))
        next_of(connection, Kind.STDIN)
        with repeating(connection.send, message):
            end = Exit.decode(next_of(connection, Kind.EXIT)[1:])
            assert "time_limit" in end.reason
            connection.close()


def test_clients_that_ask_and_never_read_hold_up_nobody(tmp_path):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served(tmp_path, max_running=1))
        for _ in range(12):  # more than the server has threads
            connection = stack.enter_context(bare_client(server.address))
            connection.linger = 0.0
            connection.timeout = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection.send(Kind.PING(b"x" * 8))
        with server.client() as remote:
            assert remote.run(["echo", "hi"]).stdout == b"hi\n"


def test_transfer_that_is_silent_ends_with_its_server(tmp_path):
    with (
        served(tmp_path, files_root=tmp_path) as server,
        bare_client(server.address) as connection,
    ):
        connection.send(Put(b"file", File(10)).encode())
        next_of(connection, Kind.PUT)
        server.server.stop(drain=0.0)
        with pytest.raises((ConnectionClosed, ConnectionError)):
            connection.recv()


@pytest.mark.case("R20")
def test_command_of_too_many_words_is_refused_on_both_sides(server, remote):
    with pytest.raises(OSError, match=os.strerror(errno.E2BIG)):
        remote.run(["true", *["x"] * MOST_FIELDS])
    with bare_client(server.address) as connection:
        connection.send(ask("true", *["x"] * MOST_FIELDS))
        assert b"fields" in next_of(connection, Kind.ERROR)
    assert remote.run(["echo", *["x"] * 10_000]).stdout == b" ".join([b"x"] * 10_000) + b"\n"


@pytest.mark.parametrize("message", [Kind.PONG(b"x"), Kind.STDOUT(b"x" * 1000)])
def test_server_that_never_stops_talking_does_not_stop_the_clock(monkeypatch, message):
    monkeypatch.setattr(Process, "last_words", 0.2)
    with bare_server() as (sock, connection), RemoteClient(sock=sock) as remote:

        def serve(word: bytes) -> None:
            if word[0] == Kind.STDOUT and not begun:
                begun.append(next_of(connection, Kind.EXEC))
                connection.send(credit(0))
            connection.send(word)

        begun: list[bytes] = []
        with repeating(serve, message):
            with pytest.raises(subprocess.TimeoutExpired):
                remote.run(["true"], timeout=0.2)
            connection.close()


def test_command_that_is_not_started_in_time_is_given_up():
    with bare_server() as (sock, _), RemoteClient(sock=sock) as remote:
        with pytest.raises(subprocess.TimeoutExpired):
            remote.run(["true"], timeout=0.2)
        assert remote.closed


def test_input_of_an_ended_command_is_not_the_next_ones(remote):
    first = remote.start(["true"])
    assert first.wait() == 0
    with remote.start(["cat"]) as second:
        with pytest.raises(BrokenPipeError):
            first.write(b"stray")
        first.close_stdin()
        first.kill()
        assert second.communicate(b"own") == (b"own", b"")
        assert second.returncode == 0


def test_signal_to_a_command_whose_server_has_gone_is_no_error(tmp_path):
    with remotes.server_program(tmp_path) as program:
        remote = RemoteClient(program.address)
        process = remote.start(["sleep", "100"])
        program.kill()
    with remote:
        process.terminate()
        with pytest.raises((ConnectionClosed, ConnectionError)):
            process.wait()
        with remotes.server_program(tmp_path):
            assert remote.run(["echo", "again"]).stdout == b"again\n"


def test_system_error_that_is_told_is_no_lost_connection():
    refusal = Refusal("os", "said the server", "ECONNRESET").encode()
    with bare_server() as (sock, connection), RemoteClient(sock=sock) as remote:

        def serve() -> None:
            next_of(connection, Kind.EXEC)
            connection.send(refusal)

        task = Task(serve)
        with pytest.raises(ConnectionResetError, match="said the server"):
            remote.run(["true"])
        task.finish()
        assert not remote.closed


def test_processor_time_that_is_used_up_is_told(tmp_path):
    with (
        served(tmp_path, limits={"cpu": 1}) as server,
        server.client() as remote,
    ):
        done = remote.run("while :; do :; done", shell=True)
        assert done.returncode < 0
        assert "processor time" in done.reason


def test_frame_beyond_all_bounds_is_a_broken_rule():
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(FramingError):
            RemoteClient(sock=near)


def test_window_is_never_exceeded_by_two_writers(remote):
    data = bytes(2 * WINDOW)
    with remote.start(["wc", "-c"]) as process:
        writers = [threading.Thread(target=process.write, args=(data,)) for _ in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        process.close_stdin()
        assert process.communicate()[0].strip() == b"%d" % (4 * WINDOW)


def test_refused_command_leaves_the_connection(tmp_path):
    with (
        served(tmp_path, allow=["echo"]) as server,
        server.client() as remote,
    ):
        for _ in range(3):
            with pytest.raises(RemoteError, match="may not"):
                remote.run(["true"])
        assert remote.run(["echo", "on"]).stdout == b"on\n"
