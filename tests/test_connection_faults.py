"""System calls of which every third one fails: strace answers in the system's place (P14)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import linux, require_peer
from peers import LONG

pytestmark = linux

EXCHANGE = """
import os, socket, sys, threading
import pysock

a, b = socket.socketpair()
a.setblocking(False)
conn, other = pysock.Connection(a), pysock.Connection(b)

def serve():  # not traced: strace follows the main thread alone
    try:
        for message in other:
            other.send(message)
    except (OSError, EOFError):
        if len(sys.argv) < 3:
            raise

serving = threading.Thread(target=serve)
serving.start()
try:
    for size in (0, 10, 5000, 300_000):
        message = bytes(range(250)) * (size // 250 + 1)
        assert conn.request(message) == message
        assert conn.request_many([message, b"", message]) == [message, b"", message]
    with open(sys.argv[1], "rb") as file:
        size = conn.sendfile(file)
    file = open(os.devnull, "wb")
    assert conn.recvfile(file) == size
    file.close()
    if len(sys.argv) > 2:
        raise AssertionError("no call failed")
except OSError as error:
    if len(sys.argv) < 3:
        raise
    assert type(error).__name__ == sys.argv[2], error
conn.close()
serving.join()
other.close()
"""

CALLS = "recvfrom,recvmsg,sendto,sendmsg,sendfile"


def injected(tmp_path: Path, inject: str, *expected: str) -> int:
    """Exchange messages while calls fail; return how many did."""
    strace = require_peer("strace")
    (tmp_path / "file").write_bytes(bytes(300_000))
    log = tmp_path / "log"
    command = [
        strace,
        "-qq",
        "-o",
        str(log),
        "-e",
        inject,
        sys.executable,
        "-P",
        "-c",
        EXCHANGE,
    ]
    command += [str(tmp_path / "file"), *expected]
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * LONG)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return log.read_text().count("(INJECTED)")


@pytest.mark.case("P14")
@pytest.mark.parametrize("error", ["EINTR", "EAGAIN"])
def test_calls_that_are_interrupted_or_find_nothing_are_made_again(tmp_path, error):
    """P14"""
    assert injected(tmp_path, f"inject={CALLS}:error={error}:when=2+3") >= 5


@pytest.mark.case("P14")
def test_waits_that_are_interrupted_are_waited_again(tmp_path):
    """P14"""
    assert injected(tmp_path, "inject=poll,ppoll:error=EINTR:when=1+2") >= 5


@pytest.mark.case("P14")
@pytest.mark.parametrize(
    ("calls", "error", "kind"),
    [
        ("recvfrom,recvmsg", "ECONNRESET", "ConnectionResetError"),
        ("recvfrom,recvmsg", "ETIMEDOUT", "TimeoutError"),
        ("sendto,sendmsg", "EPIPE", "BrokenPipeError"),
        ("sendto,sendmsg", "ENOBUFS", "OSError"),
    ],
)
def test_calls_that_fail_for_good_are_the_error_that_the_system_gave(
    tmp_path, calls, error, kind
):
    """P14: in whichever thread; the other end sees the end of the stream"""
    assert injected(tmp_path, f"inject={calls}:error={error}:when=9+", kind) >= 1
