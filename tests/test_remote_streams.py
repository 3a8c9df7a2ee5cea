"""What commands read and write: all of it, in order, as fast as it is taken, and no more."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import certificates
import remotes
from conftest import linux
from peers import Task, pattern
from programs import held_up, until
from pysock import ConnectionClosed, FramingError, RemoteError
from pysock.remote import RemoteClient
from pysock.remote.protocol import (
    CHUNK,
    WINDOW,
    Exec,
    Exit,
    Get,
    Kind,
    Refusal,
    credit,
    eof,
    resize,
    version,
)
from remotes import MIB, ask, bare_client, bare_server, next_of, plain_client

certs = certificates.certs
server = remotes.server
remote = remotes.remote
any_server = remotes.any_server
any_remote = remotes.any_remote
mark = remotes.mark

BIG = 64 * MIB


def sh(text: str) -> list[str]:
    return ["sh", "-c", text]


@pytest.fixture
def big(tmp_path: Path) -> tuple[Path, bytes]:
    """A file, and what is in it."""
    data = pattern(BIG)
    (tmp_path / "big").write_bytes(data)
    return tmp_path / "big", data


# ---------------------------------------------------------------- output


@pytest.mark.case("R03")
def test_long_output_of_both_streams_is_exact_r03(any_remote, big):
    path, data = big
    done = any_remote.run(sh(f"cat {path} & cat {path} >&2; wait"))
    assert done.stdout == data
    assert done.stderr == data


@pytest.mark.case("R03")
def test_long_output_of_one_stream_is_exact_r03(remote, big):
    path, data = big
    assert remote.run(["cat", path]).stdout == data
    done = remote.run(sh(f"cat {path} >&2"))
    assert done.stderr == data and not done.stdout
    assert remote.run(sh(f"cat {path}; exit 3"), stdout=subprocess.DEVNULL).returncode == 3


@pytest.mark.case("R03")
def test_streams_that_take_turns_keep_their_order_r03(remote):
    script = "i=0; while [ $i -lt 2000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done"
    done = remote.run(sh(script), text=True)
    assert done.stdout == "".join(f"o{i}\n" for i in range(2000))
    assert done.stderr == "".join(f"e{i}\n" for i in range(2000))
    merged = remote.run(sh(script), text=True, stderr=subprocess.STDOUT)
    assert merged.stdout == "".join(f"o{i}\ne{i}\n" for i in range(2000))
    assert merged.stderr is None


def run_short_ones(remote: RemoteClient, times: int) -> None:
    for i in range(times):
        assert remote.run(["echo", str(i)]).stdout == b"%d\n" % i
        done = remote.run(sh(f"head -c {70_000 + i} /dev/zero; echo {i} >&2; exit 3"))
        assert (len(done.stdout), done.stderr, done.returncode) == (70_000 + i, b"%d\n" % i, 3)


@pytest.mark.case("R04")
def test_output_just_before_the_end_is_never_lost_r04(any_remote):
    run_short_ones(any_remote, 100)
    last = any_remote.run("seq 1 200000 | tail -n1", shell=True).stdout
    assert last == b"200000\n"


@pytest.mark.case("R04")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_output_just_before_the_end_is_never_lost_in_a_thousand_r04(any_remote):
    run_short_ones(any_remote, 1000)
    for _ in range(10):
        last = any_remote.run("seq 1 2000000 | tail -n1", shell=True).stdout
        assert last == b"2000000\n"


@pytest.mark.case("R05")
def test_error_output_comes_after_the_end_of_the_output_r05(remote):
    done = remote.run(sh("echo out; exec >&-; sleep 0.05; echo late >&2; exit 4"))
    assert (done.returncode, done.stdout, done.stderr) == (4, b"out\n", b"late\n")
    done = remote.run(sh("exec 2>&-; sleep 0.05; echo late"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"late\n", b"")


def written_by(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def await_standstill(pid: int) -> int:
    """Wait until a process has written nothing for a while; return how much it had."""
    counts = [-1] * 20

    def look() -> bool:
        time.sleep(0.02)
        counts.append(written_by(pid))
        return len(set(counts[-20:])) == 1

    until(look)
    return counts[-1]


@pytest.mark.case("R06")
@linux
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_client_that_does_not_read_holds_up_its_command_and_no_memory_r06(
    tmp_path, mark, kind
):
    expected = subprocess.run(["seq", "1", "4000000"], capture_output=True).stdout
    options: dict[str, Any] = {}
    if kind == "tcp":
        options = {"address": "tcp://127.0.0.1:0", "insecure": True}
    with (
        remotes.server_program(tmp_path, **options) as program,
        RemoteClient(program.address) as remote,
    ):
        remote.run(["true"])
        before = remotes.resident(program.pid)
        with remote.start(["seq", "1", "4000000"], env=mark.env) as process:
            (pid,) = until(lambda: mark.pids)
            written = await_standstill(pid)
            assert written < len(expected)
            assert remotes.resident(program.pid) - before < 8 * MIB
            found = b"".join(data for _, data in process)
            assert remotes.resident(program.pid) - before < 8 * MIB
        assert found == expected
        assert process.returncode == 0


@pytest.mark.case("S11", "R07")
def test_command_whose_reader_leaves_ends_without_a_word_r07(remote):
    done = remote.run("yes | head -2000", shell=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"y\n" * 2000, b"")


@pytest.mark.case("R12")
def test_child_that_holds_the_output_is_waited_for_r12(remote):
    done = remote.run(sh("(sleep 0.3; echo late) & echo hi; exit 3"))
    assert (done.returncode, done.stdout, done.incomplete) == (3, b"hi\nlate\n", False)


@pytest.mark.case("R12")
@linux
def test_child_in_the_background_that_holds_nothing_is_left_alone_r12(remote, mark):
    done = remote.run(sh(f"sleep {mark.seconds} >/dev/null 2>&1 & echo hi"))
    assert (done.returncode, done.stdout) == (0, b"hi\n")
    remote.close()
    mark.await_sleepers(1)


@pytest.mark.case("R12")
@linux
def test_output_that_a_child_holds_after_a_kill_is_cut_and_said_to_be_r12(remote, mark):
    done = remote.run(sh(f"echo hi; sleep {mark.seconds} & kill -9 $$"))
    assert (done.returncode, done.stdout, done.incomplete) == (-signal.SIGKILL, b"hi\n", True)
    assert not remote.run(["true"]).incomplete


@pytest.mark.case("R35")
def test_bytes_of_a_terminals_language_come_as_they_are_r35(remote):
    said = bytes(range(256)) + b"\x1b[31m\x1b]0;title\x07\x9b5n\r\n"
    octal = "".join(f"\\{byte:03o}" for byte in said)
    assert remote.run(["printf", octal]).stdout == said
    assert remote.run(sh(f"printf '{octal}' >&2")).stderr == said


# ---------------------------------------------------------------- input


@pytest.mark.case("R13")
def test_long_input_arrives_whole_r13(any_remote):
    data = pattern(BIG)
    assert any_remote.run(["cat"], input=data).stdout == data
    assert any_remote.run(["wc", "-c"], input=data).stdout.split() == [b"%d" % BIG]


@pytest.mark.case("R13")
def test_command_that_does_not_want_its_input_ends_as_it_likes_r13(remote):
    data = bytes(8 * MIB)
    for command, output in (
        (["true"], b""),
        (["head", "-c", "10"], bytes(10)),
        (sh("exec <&-; sleep 0.05; echo done"), b"done\n"),
    ):
        done = remote.run(command, input=data)
        assert (done.returncode, done.stdout, done.stderr) == (0, output, b"")
        assert remote.run(["cat"], input=b"next").stdout == b"next"


@pytest.mark.case("R13")
def test_command_that_never_reads_holds_up_nobody_else_r13(remote):
    done = remote.run(sh("echo one; sleep 0.2; echo two"), input=bytes(8 * MIB))
    assert (done.returncode, done.stdout) == (0, b"one\ntwo\n")
    with pytest.raises(subprocess.TimeoutExpired):
        remote.run(["sleep", "100"], input=bytes(8 * MIB), timeout=0.2)
    assert remote.run(["cat"], input=b"next").stdout == b"next"


@pytest.mark.case("R13")
@linux
def test_input_that_is_not_read_takes_no_memory_of_the_server_r13(tmp_path):
    with (
        remotes.server_program(tmp_path) as program,
        RemoteClient(program.address) as remote,
    ):
        remote.run(["cat"], input=bytes(MIB))
        before = remotes.resident(program.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            remote.run(["sleep", "100"], input=bytes(BIG), timeout=0.3)
        assert remotes.resident(program.pid) - before < 8 * MIB


@pytest.mark.case("R14")
def test_end_of_the_input_is_told_when_it_comes_r14(remote):
    with remote.start(["cat"]) as process:
        process.write(b"one")
        assert process.read() == ("stdout", b"one")
        process.write(bytearray(b"two"))
        assert process.read() == ("stdout", b"two")
        assert process.poll() is None
        process.close_stdin()
        assert process.read() is None
        assert process.returncode == 0


@pytest.mark.case("R13")
def test_input_is_refused_after_its_end_or_the_commands_r13(remote):
    with remote.start(["cat"]) as process:
        process.close_stdin()
        with pytest.raises(BrokenPipeError):
            process.write(b"late")
        process.close_stdin()
    with remote.start(["true"]) as process, pytest.raises(BrokenPipeError):
        while True:
            process.write(bytes(1000))
    with remote.start(sh("exec <&-; sleep 100")) as process, pytest.raises(BrokenPipeError):
        while True:
            process.write(bytes(1000))
    assert remote.run(["echo", "next"]).stdout == b"next\n"


def test_output_is_kept_while_input_is_written(remote):
    data = pattern(8 * MIB)
    with remote.start(["cat"]) as process:
        process.write(data)
        process.close_stdin()
        assert b"".join(part for _, part in process) == data


def test_too_much_output_while_input_is_written_is_an_error(remote):
    with remote.start(["cat"]) as process, pytest.raises(RemoteError, match="wait to be read"):
        process.write(bytes(70 * MIB))
    assert process.returncode == -signal.SIGKILL
    assert remote.run(["echo", "next"]).stdout == b"next\n"


def test_input_is_written_by_another_thread(any_remote):
    data = pattern(16 * MIB)
    with any_remote.start(["cat"]) as process:

        def write() -> None:
            process.write(data)
            process.close_stdin()

        writer = Task(write)
        assert b"".join(part for _, part in process) == data
        writer.finish()
    assert process.returncode == 0


def test_writer_learns_in_its_thread_that_the_command_has_ended(remote):
    with remote.start(["sleep", "0.1"]) as process:
        writer = Task(process.write, bytes(8 * MIB))
        assert process.wait() == 0
        with pytest.raises(BrokenPipeError):
            writer.finish()


# ---------------------------------------------------------------- silence


@pytest.mark.case("R28")
def test_silent_command_outlives_the_patience_of_the_client_r28(any_server):
    with any_server.client(timeout=1.0) as remote:
        assert remote.run(["sleep", "1.8"]).returncode == 0
        with remote.start(sh("cat; sleep 1.2")) as process:
            assert process.poll() is None
            process.close_stdin()
            assert process.wait() == 0


@pytest.mark.case("R28")
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_silent_command_outlives_the_default_patience_r28(any_server):
    with any_server.client(timeout=60) as remote:
        assert remote.run(["sleep", "65"]).returncode == 0


@pytest.mark.case("R28")
@pytest.mark.parametrize("command", [["sleep", "100"], ["cat", "/dev/zero"]])
def test_server_that_is_silent_for_too_long_is_given_up_r28(tmp_path, command):
    with (
        remotes.server_program(tmp_path) as program,
        RemoteClient(program.address, timeout=1.5) as remote,
    ):
        with remote.start(command) as process, held_up(program.pid):
            with pytest.raises(TimeoutError, match=r"silent for 1\.5 s"):
                process.wait()
            assert remote.closed and process.returncode is None
        assert remote.run(["echo", "again"]).stdout == b"again\n"


@pytest.mark.case("R28")
def test_server_that_does_not_answer_at_all_is_given_up_r28():
    with bare_server() as (sock, _), pytest.raises(TimeoutError, match="silent"):
        RemoteClient(sock=sock, timeout=0.2).run(["true"])


# ---------------------------------------------------------------- broken rules

LATER = [credit(WINDOW), eof(1), eof(2), Exit(0).encode()]

OF_SERVER: dict[str, list[bytes]] = {
    "exit twice": [*LATER, Exit(0).encode()],
    "output after the exit": [*LATER, Kind.STDOUT(b"x")],
    "exit before the end of the streams": [credit(9), eof(1), Exit(0).encode()],
    "output after its end": [credit(9), eof(1), Kind.STDOUT(b"x")],
    "end of a stream twice": [credit(9), eof(2), eof(2)],
    "a stream nobody knows": [credit(9), eof(7)],
    "a kind nobody knows": [credit(9), b"\x63"],
    "an empty message": [credit(9), b""],
    "output before the start": [Kind.STDOUT(b"x")],
    "no room more": [credit(9), credit(0)],
    "too much room": [credit(9), credit(WINDOW)],
    "room beyond all bounds": [credit(9), credit((1 << 32) - 1)],
    "room that is no number": [credit(9), Kind.STDIN(b"-1")],
    "error output beside merged output": [credit(9), Kind.STDERR(b"x")],
    "a client's word": [credit(9), Kind.PING()],
    "a file's word": [credit(9), Kind.DATA(b"x")],
    "exit without a body": [*LATER[:-1], Kind.EXIT()],
    "exit with a number too many": [*LATER[:-1], Kind.EXIT(b"\1\0\0\0")],
    "exit by a strange signal": [*LATER[:-1], Kind.EXIT(b"\1\x09\0\3k/l")],
    "exit with strange flags": [*LATER[:-1], Kind.EXIT(b"\0\0\xff\0")],
}


@pytest.mark.case("R16", "R17")
@pytest.mark.parametrize("what", OF_SERVER)
def test_client_gives_up_a_server_that_breaks_the_rules_r16_r17(what):
    with bare_server() as (sock, connection), RemoteClient(sock=sock) as remote:
        for message in OF_SERVER[what]:
            connection.send(message)
        with pytest.raises(FramingError):
            remote.run(["true"], stderr=subprocess.STDOUT)
            remote.run(["true"])  # what came too late is noticed here
        assert remote.closed


@pytest.mark.case("R15")
def test_client_never_takes_a_lost_connection_for_an_end_r15():
    for count in range(len(LATER)):
        with bare_server() as (sock, connection), RemoteClient(sock=sock) as remote:
            for message in LATER[:count]:
                connection.send(message)
            connection.close()
            # What comes before the command is sent breaks the rules, if that is seen first.
            with pytest.raises((ConnectionClosed, ConnectionError, FramingError)):
                remote.run(["true"])


@pytest.mark.case("H13", "I09")
def test_server_of_another_version_is_told_apart():
    nine = Kind.VERSION(b"pysock remote\x09")
    with bare_server(nine) as (sock, _), pytest.raises(FramingError, match="version 9"):
        RemoteClient(sock=sock)
    refusal = Refusal("version", "this is another one").encode()
    with bare_server(refusal) as (sock, _), pytest.raises(RemoteError, match="another"):
        RemoteClient(sock=sock)


RUN_CAT = ask("cat", stdin=True)
OF_CLIENT: dict[str, list[bytes]] = {
    "input beyond the window": [
        ask("sleep", "100", stdin=True),
        *[Kind.STDIN(bytes(CHUNK))] * 2,
    ],
    "input after its end": [RUN_CAT, eof(0), Kind.STDIN(b"x")],
    "end of the input twice": [RUN_CAT, eof(0), eof(0)],
    "end of the output": [RUN_CAT, eof(1)],
    "input that was not announced": [ask("sleep", "100"), Kind.STDIN(b"x")],
    "a command while another runs": [RUN_CAT, RUN_CAT],
    "a file while a command runs": [RUN_CAT, Get(b"x").encode()],
    "a size without a terminal": [RUN_CAT, resize(1, 1)],
    "a signal nobody knows": [RUN_CAT, Kind.SIGNAL(b"XYZ")],
    "a signal by its number": [RUN_CAT, Kind.SIGNAL(b"9")],
    "a server's word": [RUN_CAT, Kind.STDOUT(b"x")],
    "a server's word between commands": [Exit(0).encode()],
    "a kind nobody knows": [b"\x63x"],
    "an empty message": [b""],
    "version twice": [version()],
    "a command without a program": [Kind.EXEC()],
    "a command with strange flags": [Kind.EXEC(b"\6\0\0\0\1\xff")],
    "a field that is cut": [Kind.EXEC(b"\1\0\0\1\0ls")],
    "a long ping": [Kind.PING(bytes(9))],
}


@pytest.mark.case("R16")
@pytest.mark.parametrize("what", OF_CLIENT)
def test_server_ends_a_client_that_breaks_the_rules_r16(server, what):
    with bare_client(server.address) as connection:
        first, *others = OF_CLIENT[what]
        connection.send(first)
        if others:
            next_of(connection, Kind.STDIN)
        for message in others:
            connection.send(message)
        refusal = Refusal.decode(next_of(connection, Kind.ERROR)[1:])
        assert refusal.code == "protocol"
        with pytest.raises((ConnectionClosed, ConnectionError)):
            connection.recv()
    with server.client() as remote:
        assert remote.run(["echo", "others"]).stdout == b"others\n"


@pytest.mark.case("H13", "R16", "I09")
@pytest.mark.parametrize(
    "first", [b"", b"\x01", version(9), Kind.VERSION(b"GET / HTTP/1.1"), RUN_CAT, b"\xff"]
)
def test_stranger_is_told_so_and_closed_r16(server, first):
    with plain_client(server.address) as connection:
        connection.send(first)
        assert Refusal.decode(next_of(connection, Kind.ERROR)[1:]).code == "version"
        with pytest.raises((ConnectionClosed, ConnectionError)):
            connection.recv()
    with server.client() as remote:
        assert remote.run(["echo", "others"]).stdout == b"others\n"


@pytest.mark.case("R16")
@linux
def test_command_of_a_client_that_breaks_the_rules_is_ended_r16(server, mark):
    with bare_client(server.address) as connection:
        connection.send(
            Exec((b"sleep", mark.seconds.encode()), env=(b"LC_X=y",), stdin=True).encode()
        )
        mark.await_sleepers(1)
        connection.send(b"\x63")
        next_of(connection, Kind.ERROR)
    mark.await_end()


@pytest.mark.case("R26")
def test_words_to_a_command_that_has_ended_count_for_nothing_r26(server):
    with bare_client(server.address) as connection:
        connection.send(ask("true", stdin=True))
        next_of(connection, Kind.EXIT)
        for message in (Kind.STDIN(b"x"), eof(0), Kind.SIGNAL(b"TERM"), Kind.SIGNAL(b"KILL")):
            connection.send(message)
        connection.send(ask("echo", "next"))
        assert next_of(connection, Kind.STDOUT) == Kind.STDOUT(b"next\n")
        next_of(connection, Kind.EXIT)
