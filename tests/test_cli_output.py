"""A standard output that is closed, full or read by nobody: one line, and a status."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysock
from conftest import TIME_FACTOR

LIMIT = 30 * TIME_FACTOR
CLOSED = "cannot write the output: standard output is closed\n"
FULL = "cannot write the output: No space left on device\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell and pipes of POSIX")

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


def run(folder: Path, output: str, *arguments: str, buffered: bool = True) -> tuple[int, str]:
    """Run a command in *folder*, its *output* as a shell has it; return status and stderr."""
    env = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {output}', "sh", sys.executable, "-P", "-W", "error"]
        + ["-m", "pysock", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        cwd=folder,
        env=env,
    )
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


# ---------------------------------------------------------------- help and version

TOLD = [(["--help"], "pysock"), (["--version"], "pysock"), (["send", "--help"], "pysock send")]

told = pytest.mark.parametrize(("arguments", "who"), TOLD)
either = pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])


@needs_full
@told
@either
def test_help_that_cannot_be_written_is_a_failure(arguments, who, buffered, tmp_path):
    status, said = run(tmp_path, ">/dev/full", *arguments, buffered=buffered)
    assert (status, said) == (1, f"{who}: {FULL}")


@told
def test_help_is_not_shown_elsewhere_where_the_output_is_closed(arguments, who, tmp_path):
    assert run(tmp_path, ">&-", *arguments) == (1, f"{who}: {CLOSED}")


@told
@either
def test_help_that_nobody_reads_ends_quietly(arguments, who, buffered, tmp_path):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pysock", *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


# ---------------------------------------------------------------- what verbs print


@pytest.fixture
def heard() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server, and what it is sent."""
    messages: list[bytes] = []

    def keep(message: bytes) -> bytes:
        messages.append(message)
        return message

    with pysock.Server("tcp://127.0.0.1:0", keep).start() as server:
        yield str(server.address), messages


CAPTURE = b"".join(b"\0\0\0%c" % size + b"x" * size for size in range(40, 90))


@pytest.mark.parametrize(
    "line",
    ["bench ADDRESS", "completion bash", "demo", "dump --framing length4 capture"]
    + ["guess capture", "guess -", "keygen", "send ADDRESS hello"],
)
def test_closed_output_is_refused_before_anything_is_done(line, heard, tmp_path):
    if line == "keygen":
        pytest.importorskip("cryptography", reason="no build of cryptography for this Python")
    address, messages = heard
    (tmp_path / "capture").write_bytes(CAPTURE)
    arguments = line.replace("ADDRESS", address).split()
    assert run(tmp_path, ">&-", *arguments) == (1, f"pysock {arguments[0]}: {CLOSED}")
    assert messages == []
    assert [path.name for path in tmp_path.iterdir()] == ["capture"]


def test_closed_output_is_refused_for_replies_to_datagrams(tmp_path):
    with pysock.DatagramServer("udp://127.0.0.1:0", bytes.upper).start() as server:
        arguments = ["send", str(server.address), "hello"]
        assert run(tmp_path, ">&-", *arguments) == (1, f"pysock send: {CLOSED}")
        assert server.stats["messages_in"] == 0


def test_closed_output_does_not_matter_where_nothing_is_printed(heard, tmp_path):
    address, messages = heard
    assert run(tmp_path, ">&-", "send", address, "--no-reply", "hello") == (0, "")
    assert messages == [b"hello"]


def test_closed_output_and_stderr_leave_the_status(heard, tmp_path):
    assert run(tmp_path, ">&- 2>&-", "send", heard[0], "hello") == (1, "")


@needs_full
@either
@pytest.mark.parametrize(
    "line",
    ["bench -t 0.1 --warmup 0 ADDRESS", "bench -t 0.1 --warmup 0 --json=- ADDRESS"]
    + ["completion bash", "demo", "dump --framing length4 capture", "guess capture"]
    + ["keygen", "send ADDRESS hello"],
)
def test_output_that_cannot_be_written_is_a_failure(line, buffered, heard, tmp_path):
    if line == "keygen":
        pytest.importorskip("cryptography", reason="no build of cryptography for this Python")
    (tmp_path / "capture").write_bytes(CAPTURE)
    arguments = line.replace("ADDRESS", heard[0]).split()
    status, said = run(tmp_path, ">/dev/full", *arguments, buffered=buffered)
    assert (status, said) == (1, f"pysock {arguments[0]}: {FULL}")
