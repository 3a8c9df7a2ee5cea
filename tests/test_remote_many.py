"""Many commands, at once and one after another; the many ways to read their output."""

from __future__ import annotations

import io
import signal
import subprocess
import time

import pytest

import remotes
from peers import LONG, Task, pattern
from pysock import RemoteError
from pysock.remote import RemoteClient
from remotes import MIB, Served

server = remotes.server
remote = remotes.remote


def sh(text: str) -> list[str]:
    return ["sh", "-c", text]


@pytest.mark.case("R31")
def test_fifty_commands_at_once_are_each_exact_r31(server, tmp_path):
    data = pattern(4 * MIB)
    (tmp_path / "data").write_bytes(data)

    def run(number: int) -> None:
        with server.client(timeout=60) as remote:
            done = remote.run(sh(f"cat {tmp_path}/data; echo {number} >&2; exit {number}"))
        assert done.stdout == data
        assert (done.stderr, done.returncode) == (b"%d\n" % number, number)

    for task in [Task(run, number) for number in range(50)]:
        task.finish(60)


def test_connection_runs_a_hundred_commands_one_after_another(remote):
    for number in range(100):
        done = remote.run(["cat"], input=b"%d" % number)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"%d" % number, b"")


@pytest.mark.case("R25")
def test_second_command_at_a_time_is_refused(remote):
    with remote.start(["cat"]) as process:
        with pytest.raises(RuntimeError, match="under way"):
            remote.run(["true"])
        with pytest.raises(RuntimeError, match="under way"):
            Task(remote.run, ["true"]).finish()
        assert process.communicate(b"alive") == (b"alive", b"")
    assert remote.run(["echo", "next"]).stdout == b"next\n"


def test_word_to_an_old_command_does_not_reach_the_new_one(remote):
    with remote.start(["true"]) as old:
        assert old.wait(LONG) == 0
    with remote.start(["cat"]) as process:
        old.kill()
        old.close_stdin()
        old.resize(3, 3)
        with pytest.raises(BrokenPipeError):
            old.write(b"x")
        assert old.communicate() == (b"", b"")
        assert process.communicate(b"alive") == (b"alive", b"")


# ---------------------------------------------------------------- too much output


def test_output_beyond_the_limit_is_an_error(remote):
    with pytest.raises(RemoteError, match="more than 1000 bytes") as caught:
        remote.run(["yes"], max_output=1000)
    assert caught.value.code == "output"
    assert caught.value.output == b"y\n" * 500  # type: ignore[attr-defined]
    with pytest.raises(RemoteError, match="more than 10 bytes"):
        remote.run(sh("yes >&2"), max_output=10)
    assert remote.run(["printf", "0123456789"], max_output=10).stdout == b"0123456789"
    assert remote.run(["true"], max_output=0).stdout == b""


def test_tail_of_the_output_is_kept(remote):
    done = remote.run(["seq", "1", "100000"], max_output=1000, overflow="tail")
    whole = "".join(f"{i}\n" for i in range(1, 100_001)).encode()
    assert done.stdout == whole[-1000:]
    assert done.dropped == len(whole) - 1000
    done = remote.run(["echo", "short"], max_output=1000, overflow="tail")
    assert (done.stdout, done.dropped) == (b"short\n", 0)


def test_output_is_spilled_into_a_file(remote):
    done = remote.run(["seq", "1", "100000"], max_output=1000, overflow="spill")
    with done.stdout, done.stderr:
        assert done.stdout.read() == b"".join(b"%d\n" % i for i in range(1, 100_001))
        assert done.stderr.read() == b""
    done = remote.run(["echo", "grün"], max_output=2, overflow="spill", text=True)
    with done.stdout, done.stderr:
        assert done.stdout.read() == "grün\n"


def test_overflow_that_nobody_knows_is_refused(remote):
    with pytest.raises(ValueError, match="overflow"):
        remote.run(["true"], overflow="ignore")
    with pytest.raises(ValueError, match="max_output"):
        remote.run(["true"], max_output=-1)


# ---------------------------------------------------------------- a Process


def test_communicate_goes_on_after_a_timeout(remote):
    with remote.start(sh("echo one; cat; sleep 0.3; echo two >&2; echo three")) as process:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            process.communicate(b"input\n", timeout=0.1)
        assert b"one\ninput\n".startswith(caught.value.output)
        assert process.communicate(timeout=LONG) == (b"one\ninput\nthree\n", b"two\n")
        assert process.communicate() == (b"", b"")


def test_wait_drops_the_output_and_poll_keeps_it(remote):
    with remote.start(sh("head -c 1000000 /dev/zero; exit 4")) as process:
        assert process.wait() == 4
        assert process.read() is None
    with remote.start(sh("echo kept; exit 5")) as process:
        end = time.monotonic() + LONG
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        assert (process.returncode, list(process)) == (5, [("stdout", b"kept\n")])


def test_wait_and_read_have_a_timeout(remote):
    with remote.start(["sleep", "1000"]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        with pytest.raises(TimeoutError):
            process.read(0.05)
        assert process.poll() is None
        assert "running" in repr(process)
    assert process.returncode == -signal.SIGKILL
    assert "returncode=-9" in repr(process)


def test_input_of_a_process_comes_from_memory_or_a_file(remote):
    data = pattern(MIB)
    for options in ({"input": data}, {"stdin": io.BytesIO(data)}):
        with remote.start(["cat"], **options) as process:
            assert b"".join(part for _, part in process) == data
    with remote.start(["cat"], stdin=subprocess.DEVNULL) as process:
        assert process.communicate() == (b"", b"")
    with pytest.raises(TypeError, match="stdin"):
        remote.start(["cat"], stdin=5)


def test_streams_that_are_not_wanted_do_not_come(remote):
    script = sh("echo out; echo err >&2")
    for options, expected in (
        ({"stdout": subprocess.DEVNULL}, (b"", b"err\n")),
        ({"stderr": subprocess.DEVNULL}, (b"out\n", b"")),
        ({"stderr": subprocess.STDOUT}, (b"out\nerr\n", b"")),
    ):
        with remote.start(script, **options) as process:
            assert process.communicate() == expected


def test_clients_do_not_hold_each_other_up(server: Served, remote: RemoteClient):
    with remote.start(["cat", "/dev/zero"]) as flood, server.client() as other:
        assert flood.read(LONG) is not None
        for _ in range(20):
            assert other.run(["echo", "x"]).stdout == b"x\n"
