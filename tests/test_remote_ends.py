"""What becomes of commands whose client, server or spawner has gone; nobody outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import certificates
import remotes
from conftest import linux
from peers import Task
from programs import Program, held_up, until
from pysock import ConnectionClosed, RemoteError
from pysock.remote import RemoteClient
from pysock.remote.protocol import Exec, Exit, Kind
from remotes import Mark, Served, bare_client, children, next_of

certs = certificates.certs
server = remotes.server
remote = remotes.remote
any_server = remotes.any_server
mark = remotes.mark

pytestmark = linux  # elsewhere nothing says who belongs to a command

LOST = (ConnectionClosed, ConnectionError)


def sh(text: str) -> list[str]:
    return ["sh", "-c", text]


# What a command may start; each sleeps {0} seconds in so many processes.
FAMILIES = {
    "itself": ("exec sleep {0}", 1),
    "child of its group": ("sleep {0} & sleep {0} & wait", 2),
    "child of a session of its own": ("setsid sleep {0} & sleep {0}", 2),
    "orphan": ("(sleep {0} & ) ; sleep {0}", 2),
    "orphan of a session of its own": ("(setsid sleep {0} & ) ; sleep {0}", 2),
    "one that is not to be hung up": ("nohup sleep {0} & sleep {0}", 2),
    "one without the environment": ("env -i setsid sleep {0} & sleep {0}", 2),
    "one that has closed all": (
        "setsid sleep {0} <&- >&- 2>&- & cd /; exec sleep {0} <&- >&- 2>&-",
        2,
    ),
}
STUBBORN = "trap '' HUP TERM INT; (sleep {0}; sleep {0}) & setsid sleep {0} & sleep {0}; wait"


def start(remote: RemoteClient, mark: Mark, text: str, count: int) -> Any:
    """Start a command, and wait until so many of its processes sleep."""
    process = remote.start(sh(text.format(mark.seconds)), env=mark.env)
    mark.await_sleepers(count)
    return process


def await_none(served: Served) -> None:
    """Wait until the spawner has no children, not even zombies."""
    until(lambda: not children(served.spawner))


# ---------------------------------------------------------------- the client goes


@pytest.mark.case("R09", "R11")
@pytest.mark.parametrize("family", FAMILIES)
def test_lost_client_takes_all_its_command_started_along_r09_r11(server, mark, family):
    with server.client() as remote:
        start(remote, mark, *FAMILIES[family])
        remote.close()
        mark.await_end()
    await_none(server)


@pytest.mark.case("R11")
@pytest.mark.parametrize("family", FAMILIES)
def test_kill_takes_all_the_command_started_along_r11(remote, server, mark, family):
    with start(remote, mark, *FAMILIES[family]) as process:
        process.kill()
        assert process.wait() == -signal.SIGKILL
        mark.await_end()
    assert remote.run(["echo", "next"]).stdout == b"next\n"
    await_none(server)


@pytest.mark.case("R09")
def test_client_that_closes_ends_its_command_over_tls_too_r09(any_server, mark):
    with any_server.client() as remote:
        start(remote, mark, "sleep {0}", 1)
    mark.await_end()


@pytest.mark.case("R09")
def test_client_that_resets_its_connection_ends_its_command_r09(tmp_path, mark):
    with (
        remotes.served(tmp_path, address="tcp://127.0.0.1:0", insecure=True) as server,
        socket.create_connection((server.address.host, server.address.port)) as sock,
        RemoteClient(sock=sock) as remote,
    ):
        start(remote, mark, "sleep {0}", 1)
        client = remote._link._client
        assert client is not None
        linger = struct.pack("ii", 1, 0)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.socket.close()
        mark.await_end()
        await_none(server)


CLIENT = """
import sys
from pysock.remote import RemoteClient
with RemoteClient(sys.argv[1]) as remote:
    remote.run(["sleep", "1000"], env={"LC_MARK": open(sys.argv[2]).read()})
"""


@contextlib.contextmanager
def client_program(folder: Path, address: Any, mark: Mark) -> Iterator[Program]:
    """A client in a process of its own that runs a command, which has been started."""
    (folder / "mark").write_text(mark.seconds)
    with remotes.program(folder, CLIENT, str(address), str(folder / "mark")) as program:
        mark.await_sleepers(1)
        yield program


@pytest.mark.case("R09")
def test_client_that_is_killed_takes_its_command_along_r09(server, tmp_path, mark):
    with client_program(tmp_path, server.address, mark) as program:
        program.kill()
        mark.await_end()
    await_none(server)


@pytest.mark.case("R29")
def test_client_that_is_stopped_is_not_taken_for_lost_r29(server, tmp_path, mark):
    with client_program(tmp_path, server.address, mark) as program, held_up(program.pid):
        with server.client() as remote:
            assert remote.run(["sleep", "0.5"]).returncode == 0
        mark.await_sleepers(1)


@pytest.mark.case("R10")
def test_command_that_ignores_the_first_words_is_killed_r10(server, mark):
    with server.client() as remote:
        start(remote, mark, STUBBORN, 3)
    mark.await_sleepers(3)  # the connection is closed, and they are asked politely
    mark.await_end()
    await_none(server)


@pytest.mark.case("R09")
def test_lost_command_is_hung_up_first_r09(server, mark, tmp_path):
    said = tmp_path / "said"
    script = f"trap 'echo hup > {said}; exit' HUP; sleep {mark.seconds} & wait"
    with server.client() as remote:
        start(remote, mark, script, 1)
    mark.await_end()
    assert said.read_text() == "hup\n"


@pytest.mark.case("R09")
def test_lost_command_is_let_to_end_in_its_own_time_r09(server, mark, tmp_path):
    said = tmp_path / "said"
    script = f"trap '' HUP; trap 'echo term > {said}; exit' TERM; sleep {mark.seconds} & wait"
    with server.client() as remote:
        start(remote, mark, script, 1)
    until(said.exists)
    mark.await_end()


def test_leaving_the_block_kills_the_command_and_keeps_the_connection(remote, mark):
    with start(remote, mark, STUBBORN, 3) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    assert not remote.closed
    mark.await_end()


def test_error_within_the_block_kills_the_command(remote, mark):
    with pytest.raises(KeyError), start(remote, mark, "sleep {0}", 1):
        raise KeyError
    mark.await_end()
    assert remote.run(["echo", "next"]).stdout == b"next\n"


# ---------------------------------------------------------------- the server goes


@pytest.mark.case("R15")
def test_killed_server_is_an_error_and_its_commands_end_r15(tmp_path, mark):
    with (
        remotes.server_program(tmp_path) as program,
        RemoteClient(program.address) as remote,
    ):
        process = start(remote, mark, "echo out; setsid sleep {0} & sleep {0}", 2)
        assert process.read() == ("stdout", b"out\n")
        os.kill(program.pid, signal.SIGKILL)
        with pytest.raises(LOST, match="exit status is unknown"):
            process.wait()
        for call in (process.read, process.poll, process.communicate):
            with pytest.raises(LOST, match="exit status is unknown"):
                call()
        assert process.returncode is None
        mark.await_end()
        with pytest.raises(ConnectionRefusedError):
            remote.run(["true"])


@pytest.mark.case("R15")
def test_run_raises_where_the_server_is_killed_r15(tmp_path, mark):
    with (
        remotes.server_program(tmp_path) as program,
        RemoteClient(program.address) as remote,
    ):
        command = sh(f"sleep {mark.seconds} & wait")
        task = Task(lambda: remote.run(command, env=mark.env, check=True))
        mark.await_sleepers(1)
        os.kill(program.pid, signal.SIGKILL)
        with pytest.raises(LOST, match="exit status is unknown"):
            task.finish()
        mark.await_end()


@pytest.mark.case("R15")
def test_spawner_ends_with_a_killed_server_r15(tmp_path, mark):
    with (
        remotes.server_program(tmp_path) as program,
        RemoteClient(program.address) as remote,
    ):
        start(remote, mark, "sleep {0}", 1)
        (spawner,) = children(program.pid)
        os.kill(program.pid, signal.SIGKILL)
        mark.await_end()
        until(lambda: not remotes.is_running(spawner))


@pytest.mark.case("R30")
def test_stop_lets_commands_end_within_the_drain_r30(tmp_path):
    with remotes.served(tmp_path) as server, server.client() as remote:
        with remote.start(sh("cat; echo done; exit 3")) as process:
            stop = Task(server.server.stop, 30.0)
            until(lambda: server.server.stopping)
            process.write(b"more ")
            process.close_stdin()
            assert process.communicate() == (b"more done\n", b"")
            assert process.returncode == 3
        stop.finish()


@pytest.mark.case("R30")
def test_stop_takes_no_new_command_r30(tmp_path):
    with remotes.served(tmp_path) as server, server.client() as remote:
        with remote.start(["cat"]) as process:
            stop = Task(server.server.stop, 30.0)
            until(lambda: server.server.stopping)
            process.close_stdin()
            assert process.wait() == 0
        late = Task(remote.run, ["true"])
        stop.finish()
        server.server.server_close()  # else it may wait to be accepted
        with pytest.raises((RemoteError, *LOST, OSError)):
            late.finish()


@pytest.mark.case("R30")
def test_stop_ends_commands_after_the_drain_and_says_so_r30(tmp_path, mark):
    with remotes.served(tmp_path) as server, server.client() as remote:
        with start(remote, mark, "echo out; exec sleep {0}", 1) as process:
            stop = Task(server.server.stop, 0.1)
            assert process.communicate() == (b"out\n", b"")
            assert process.returncode == -signal.SIGHUP
            assert process.exit.reason == "the server is stopping"
        stop.finish()
        mark.await_end()


@pytest.mark.case("R30")
@pytest.mark.slow
def test_stop_kills_commands_that_will_not_end_r30(tmp_path, mark):
    with remotes.served(tmp_path) as server, server.client() as remote:
        with start(remote, mark, STUBBORN, 3) as process:
            stop = Task(server.server.stop, 0.0)
            assert process.wait() == -signal.SIGKILL
            assert process.exit.reason == "the server is stopping"
        stop.finish()
        mark.await_end()


@pytest.mark.case("R30")
def test_server_program_that_is_told_to_end_ends_its_commands_r30(tmp_path, mark):
    with (
        remotes.server_program(tmp_path) as program,
        RemoteClient(program.address) as remote,
    ):
        with start(remote, mark, "exec sleep {0}", 1) as process:
            program.send_signal(signal.SIGTERM)
            assert process.wait() == -signal.SIGHUP
        assert program.end() == 0
        mark.await_end()
        assert "Traceback" not in program.said


def test_closing_a_server_that_runs_commands_ends_them(tmp_path, mark):
    with (
        remotes.server_program(tmp_path, drain=1e6) as program,
        RemoteClient(program.address) as remote,
    ):
        start(remote, mark, "sleep {0}", 1)
        program.send_signal(signal.SIGTERM)
        program.kill()
        mark.await_end()


# ---------------------------------------------------------------- the spawner goes


def test_killed_spawner_is_an_error_and_the_next_command_runs(server, remote, mark):
    process = start(remote, mark, "echo out; exec sleep {0} >&- 2>&-", 1)
    os.kill(server.spawner, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RemoteError, match="spawner was killed") as caught:
            process.communicate()
        assert caught.value.code == "failed"
    assert process.returncode is None
    assert not remote.closed
    assert remote.run(["echo", "next"]).stdout == b"next\n"


def test_spawner_killed_between_two_commands_is_started_again(server, remote):
    for _ in range(3):
        assert remote.run(["echo", "one"]).stdout == b"one\n"
        before = server.spawner
        os.kill(before, signal.SIGKILL)
        until(lambda: not remotes.is_running(before))  # noqa: B023
        assert remote.run(["echo", "two"]).stdout == b"two\n"
        assert server.spawner != before


def test_commands_killed_by_the_system_are_told_as_killed(remote, mark):
    with start(remote, mark, "exec sleep {0}", 1) as process:
        (pid,) = mark.pids
        os.kill(pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert process.exit == Exit(9, "KILL")


# ---------------------------------------------------------------- other ends


def test_interrupt_in_run_kills_the_command(remote, mark):
    def interrupt() -> None:
        mark.await_sleepers(1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)  # type: ignore[arg-type]

    def raise_interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raise_interrupt)
    try:
        task = Task(interrupt)
        with pytest.raises(KeyboardInterrupt):
            remote.run(["sleep", mark.seconds])
        task.finish()
    finally:
        signal.signal(signal.SIGUSR1, before)
    mark.await_end()
    assert remote.run(["echo", "next"]).stdout == b"next\n"


def test_connection_that_was_lost_is_made_again(tmp_path):
    with remotes.server_program(tmp_path) as program:
        remote = RemoteClient(program.address)
        assert remote.run(["echo", "one"]).stdout == b"one\n"
        program.kill()
    with remote:
        with pytest.raises(ConnectionRefusedError):
            remote.run(["echo", "two"])  # nobody is there
        with remotes.server_program(tmp_path):
            assert remote.run(["echo", "three"]).stdout == b"three\n"
    with pytest.raises(ConnectionClosed, match="is closed"):
        remote.run(["true"])


def test_client_that_goes_before_the_answer_leaves_nothing(server, mark):
    for _ in range(20):
        with bare_client(server.address) as connection:
            connection.send(Exec((b"sleep", mark.seconds.encode()), env=(b"LC_X=1",)).encode())
    mark.await_end()
    await_none(server)


def test_client_that_goes_while_output_waits_for_it_leaves_nothing(server, mark):
    for _ in range(5):
        with bare_client(server.address) as connection:
            variable = f"LC_MARK={mark.seconds}".encode()
            connection.send(Exec((b"cat", b"/dev/zero"), env=(variable,)).encode())
            next_of(connection, Kind.STDOUT)
    mark.await_end()
    await_none(server)
    with server.client() as remote:
        assert remote.run(["echo", "next"]).stdout == b"next\n"
