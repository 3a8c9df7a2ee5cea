"""examples/simple_ssh.py: its server and its client, as two programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import TIME_FACTOR, unix

EXAMPLE = Path(__file__).parent.parent / "examples" / "simple_ssh.py"
COMMAND = [sys.executable, "-W", "error", str(EXAMPLE)]
LIMIT = 30 * TIME_FACTOR

if not EXAMPLE.is_file():
    pytest.skip("the examples are not here", allow_module_level=True)
if sys.platform == "win32":
    pytest.skip("Windows serves no commands", allow_module_level=True)

pytestmark = unix


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server in *tmp_path*, which must end as it should."""
    as_root = ["--allow-root"] if os.geteuid() == 0 else []
    with subprocess.Popen(
        [*COMMAND, "server", *as_root],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("serving unix:simple_ssh.sock, ")
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=LIMIT) == ("stopped\n", "")
                assert process.returncode == 0
        finally:
            process.kill()


def client(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "client"],
        input="".join(f"{line}\n" for line in lines),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_lines_are_run_and_what_they_print_comes_back(server, tmp_path):
    done = client(
        tmp_path,
        "echo hello | tr a-z A-Z",
        "",
        "true",  # which prints nothing
        "cat",  # which has no input to wait for
        "echo oops >&2; exit 3",
        "kill -TERM $$",
        "exit",
        "echo not reached",
    )
    assert done.returncode == 0
    assert done.stdout == ">>: HELLO\n>>: >>: >>: >>: [3]\n>>: [-15]\n>>: "
    assert done.stderr == "oops\n"


def test_large_output_arrives_whole(server, tmp_path):
    done = client(tmp_path, "seq 1000000")
    assert done.stdout.startswith(">>: 1\n2\n3\n")
    assert done.stdout.endswith("\n999999\n1000000\n>>: ")
    assert len(done.stdout) == 6_888_896 + 2 * len(">>: ")


def test_ctrl_c_ends_the_command_and_not_the_client(server, tmp_path):
    with subprocess.Popen(
        [*COMMAND, "client"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("echo begun; exec sleep 1000\n")
            assert process.stdout.readline() == ">>: begun\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "\n"
            assert process.stdout.readline() == "ended\n"
            process.stdin.write("echo next\n")
            process.stdin.close()
            assert process.stdout.read() == ">>: next\n>>: "
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()


def test_killed_server_is_told_and_no_end_of_the_command(server, tmp_path):
    done = client(tmp_path, f"kill -KILL {server.pid}; sleep 1000")
    assert "the connection was lost before the command ended" in done.stdout
    assert "[" not in done.stdout
    assert server.wait(LIMIT) == -signal.SIGKILL


def test_client_without_a_server_says_so(tmp_path):
    done = client(tmp_path, "true")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("simple_ssh.py: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="not root")
def test_server_refuses_root_unless_told(tmp_path):
    done = subprocess.run(
        [*COMMAND, "server"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "root" in done.stderr and "Traceback" not in done.stderr
