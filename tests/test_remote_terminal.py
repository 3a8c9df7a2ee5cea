"""Commands in a terminal of their own: its size, its keys, its last words."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from typing import Any

import pytest

import certificates
import remotes
from conftest import linux
from peers import LONG, Task
from pysock import RemoteError
from pysock.remote import Process, RemoteClient

certs = certificates.certs
server = remotes.server
remote = remotes.remote
any_server = remotes.any_server
any_remote = remotes.any_remote
mark = remotes.mark

SIZE = (30, 90)


def sh(text: str) -> list[str]:
    return ["sh", "-c", text]


def shown(remote: RemoteClient, command: Any, **options: Any) -> bytes:
    """What a command writes to its terminal."""
    done = remote.run(command, pty=SIZE, timeout=LONG, **options)
    assert (done.returncode, done.stderr, done.incomplete) == (0, b"", False)
    output: bytes = done.stdout
    return output


def await_output(process: Process, wanted: bytes) -> bytes:
    """Read until *wanted* has come; return all that has."""
    found = b""
    while wanted not in found:
        item = process.read(LONG)
        assert item is not None, found
        found += item[1]
    return found


# ---------------------------------------------------------------- what it is


@pytest.mark.case("R22")
def test_command_has_a_terminal_of_this_size_r22(remote):
    assert shown(remote, ["stty", "size"]) == b"30 90\r\n"
    assert shown(remote, sh("for i in 0 1 2; do test -t $i && echo $i; done")) == (
        b"0\r\n1\r\n2\r\n"
    )
    assert shown(remote, sh("echo direct >/dev/tty")) == b"direct\r\n"
    assert shown(remote, sh('echo "$TERM"'), env={"TERM": "xterm-x"}) == b"xterm-x\r\n"


def test_command_without_a_terminal_has_none(remote):
    done = remote.run(sh("for i in 0 1 2; do test -t $i && echo $i; done; tty"))
    assert (done.returncode, done.stdout) == (1, b"not a tty\n")


@pytest.mark.case("R22")
def test_terminal_takes_the_size_of_this_one_r22(remote, monkeypatch):
    monkeypatch.setenv("LINES", "41")
    monkeypatch.setenv("COLUMNS", "101")
    assert remote.run(["stty", "size"], pty=True).stdout == b"41 101\r\n"


@pytest.mark.parametrize("size", [(-1, 1), (1, 65_536)])
def test_size_that_no_terminal_has_is_refused(remote, size):
    with pytest.raises(ValueError, match="pty is"):
        remote.run(["true"], pty=size)


def test_both_streams_come_as_one(remote):
    assert shown(remote, sh("echo out; echo err >&2; echo out")) == b"out\r\nerr\r\nout\r\n"


@pytest.mark.case("R32")
@linux
def test_only_terminals_descriptors_are_open_r32(remote):
    assert shown(remote, sh("ls -C /proc/$$/fd")).split()[:3] == [b"0", b"1", b"2"]
    assert len(shown(remote, sh("ls /proc/$$/fd")).split()) in (3, 4)  # dash has /dev/tty


def test_program_that_cannot_be_started_is_told_as_ever(remote):
    with pytest.raises(FileNotFoundError):
        remote.run(["nosuchprogram"], pty=SIZE)
    with pytest.raises(NotADirectoryError):
        remote.run(["true"], pty=SIZE, cwd="/etc/passwd")
    with pytest.raises(RemoteError, match="may not be set"):
        remote.run(["true"], pty=SIZE, env={"LD_PRELOAD": "x"})
    assert shown(remote, ["echo", "next"]) == b"next\r\n"


@pytest.mark.case("R22")
@pytest.mark.parametrize("end", ["exit 7", "kill -TERM $$", "kill -9 $$"])
def test_end_of_the_command_is_told_r22(remote, end):
    done = remote.run(sh(f"echo last; {end}"), pty=SIZE)
    assert done.returncode == {"exit 7": 7, "kill -9 $$": -9}.get(end, -15)
    assert done.stdout == b"last\r\n"


# ---------------------------------------------------------------- while it runs


@pytest.mark.case("R22")
def test_change_of_the_size_is_told_to_the_command_r22(remote):
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done"
    with remote.start(sh(script), pty=SIZE) as process:
        await_output(process, b"ready")
        process.resize(40, 100)
        await_output(process, b"40 100\r\n")
        process.resize(1, 65_535)
        await_output(process, b"1 65535\r\n")
    process.resize(5, 5)  # the command has ended


@pytest.mark.case("R22")
@linux
def test_interrupt_key_ends_the_program_in_front_r22(remote, mark):
    script = f"trap : INT; sleep {mark.seconds}; echo after"
    with remote.start(sh(script), pty=SIZE) as process:
        mark.await_sleepers(1)
        process.write(b"\x03")
        await_output(process, b"after\r\n")
        assert process.wait(LONG) == 0
    with remote.start(["cat"], pty=SIZE) as process:
        process.write(b"x\n")
        await_output(process, b"x\r\nx\r\n")
        process.write(b"\x03")
        assert process.wait(LONG) == -signal.SIGINT


@pytest.mark.case("R22")
def test_quit_key_and_signals_reach_it_too_r22(remote):
    with remote.start(["cat"], pty=SIZE) as process:
        process.write(b"x\n")
        await_output(process, b"x\r\nx\r\n")
        process.write(b"\x1c")
        assert process.wait(LONG) == -signal.SIGQUIT
    with remote.start(["cat"], pty=SIZE) as process:
        process.interrupt()
        assert process.wait(LONG) == -signal.SIGINT


@pytest.mark.case("R22")
def test_end_key_ends_the_input_r22(remote):
    with remote.start(["cat"], pty=SIZE) as process:
        process.write(b"typed\n\x04")
        assert process.communicate(timeout=LONG) == (b"typed\r\ntyped\r\n", b"")
        assert process.returncode == 0


@pytest.mark.case("R22")
@pytest.mark.parametrize("typed", [b"", b"line\n", b"half a line", b"line\nhalf", b"\n"])
def test_end_of_the_input_ends_the_program_r22(remote, typed):
    script = "stty -echo; echo ready; wc -c"
    with remote.start(sh(script), pty=SIZE) as process:
        await_output(process, b"ready\r\n")
        out, _ = process.communicate(typed, timeout=LONG)
    assert out.split() == [b"%d" % len(typed)]


@pytest.mark.case("R22")
def test_long_input_that_is_typed_arrives_and_ends_r22(remote):
    lines = b"".join(b"line %d\n" % i for i in range(20_000))
    script = "stty -echo; echo ready; sleep 0.2; md5sum"
    with remote.start(sh(script), pty=SIZE) as process:
        await_output(process, b"ready\r\n")
        out, _ = process.communicate(lines, timeout=LONG)
    assert out.split()[0].decode() == hashlib.md5(lines).hexdigest()


@pytest.mark.case("R22")
@linux
def test_jobs_are_stopped_and_go_on_r22(remote, mark):
    with remote.start(["sh", "-i"], pty=SIZE, env={"TERM": "dumb"}) as process:
        process.write(b"sleep %s\n" % mark.seconds.encode())
        mark.await_sleepers(1)
        process.write(b"\x1a")
        await_output(process, b"Stopped")
        process.write(b"jobs; echo li''sted\n")
        assert b"sleep 1000" in await_output(process, b"listed\r\n")
        process.write(b"kill -9 %1; exit 3\n")
        process.write(b"exit 3\n")
        assert process.wait(LONG) == 3


@pytest.mark.case("R22")
def test_password_is_not_shown_r22(remote):
    script = "stty -echo; echo ready; read -r word; stty echo; echo got ${#word}"
    with remote.start(sh(script), pty=SIZE) as process:
        await_output(process, b"ready\r\n")
        process.write(b"secret\n")
        out, _ = process.communicate(timeout=LONG)
    assert out == b"got 6\r\n"


@pytest.mark.case("R22")
def test_terminal_in_raw_mode_passes_all_bytes_r22(any_remote):
    data = os.urandom(300_000) + bytes(range(256))
    script = f"stty raw -echo; echo ready; head -c {len(data)}"
    with any_remote.start(sh(script), pty=SIZE) as process:
        assert await_output(process, b"ready\n") == b"ready\n"
        writer = Task(process.write, data)
        found = b"".join(part for _, part in process)
        writer.finish()
    assert found == data


# ---------------------------------------------------------------- its end


@pytest.mark.case("R23")
def test_last_words_are_never_lost_r23(any_remote):
    for i in range(100):
        assert any_remote.run(["echo", str(i)], pty=SIZE).stdout == b"%d\r\n" % i


@pytest.mark.case("R23")
def test_last_words_may_come_behind_the_end_of_the_terminal_r23(any_remote, monkeypatch):
    """Linux can look for bytes, be overtaken by the last ones, and see the end then."""
    readv, overtaken = os.readv, set()

    def be_overtaken(descriptor, buffers):
        if os.isatty(descriptor) and descriptor not in overtaken:
            overtaken.add(descriptor)
            raise OSError(errno.EIO, "as if closed")
        overtaken.discard(descriptor)
        return readv(descriptor, buffers)

    monkeypatch.setattr(os, "readv", be_overtaken)
    for script in ("echo last", "printf la; sleep 0.05; echo st"):  # in one piece, in two
        overtaken.clear()
        assert any_remote.run(sh(script), pty=SIZE).stdout == b"last\r\n"


@pytest.mark.case("R23")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_last_words_are_never_lost_in_a_thousand_r23(any_remote):
    for i in range(1000):
        done = any_remote.run(sh(f"head -c 3000 /dev/zero; echo {i}; exit 3"), pty=SIZE)
        assert done.stdout == bytes(3000) + b"%d\r\n" % i
        assert done.returncode == 3


@pytest.mark.case("R23")
def test_long_output_is_whole_r23(any_remote):
    expected = b"".join(b"%d\r\n" % i for i in range(1, 200_001))
    assert shown(any_remote, ["seq", "1", "200000"]) == expected


@pytest.mark.case("R12")
@linux
def test_child_that_keeps_the_terminal_holds_up_nobody_r12(remote, mark):
    script = f"trap '' HUP; setsid sleep {mark.seconds} & echo hi"
    assert shown(remote, sh(script)) == b"hi\r\n"
    mark.await_sleepers(1)


@pytest.mark.case("R09")
@linux
def test_command_in_a_terminal_ends_with_its_client_r09(server, mark):
    with server.client() as remote:
        process = remote.start(
            sh(f"trap '' HUP; sleep {mark.seconds} & sleep {mark.seconds}"), pty=SIZE
        )
        mark.await_sleepers(2)
        assert process.poll() is None
    mark.await_end()


def test_input_after_the_end_is_a_broken_pipe(remote):
    with remote.start(["true"], pty=SIZE) as process:
        assert process.wait(LONG) == 0
        with pytest.raises(BrokenPipeError):
            process.write(b"late")
    assert shown(remote, ["echo", "next"]) == b"next\r\n"
