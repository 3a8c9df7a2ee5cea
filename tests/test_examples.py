"""The examples run as they stand, and their servers serve."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pysock
from conftest import TIME_FACTOR, unix

EXAMPLES = Path(__file__).parent.parent / "examples"
LIMIT = 30 * TIME_FACTOR

if not EXAMPLES.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)

# What each demonstration must print, line by line; None: anything.
PRINTED = {
    "echo_upper.py": [
        "a plain socket gets   b'HELLO FROM A PLAIN SOCKET'",
        "and then the end      b''",
        "a pysock client gets  b'HELLO FROM PYSOCK'",
    ],
    "one_at_a_time.py": [
        "first:  b'you said hello'",
        "second: no answer yet, the first is being served",
        "first:  b'you said goodbye'",
        "second: b'you said is it my turn?'",
    ],
    "socketserver_types.py": [
        "TCPServer            b'STUCK' b'TOGETHER'",
        "ThreadingTCPServer   b'SECOND' b'FIRST'",
        "UDPServer            b'HELLO' and 20000 bytes",
        "UnixStreamServer     b'STUCK' b'TOGETHER'",
        "UnixDatagramServer   b'HELLO' and 20000 bytes",
    ],
    "sticky_packets.py": [
        "3 sends, 1 recv:  b'pay 10 to Annpay 20 to Bobpay 30 to Eve'",
        "1 order, 2 recvs: b'pay 10' b'000 to Ann'",
        "pysock, late:     [b'pay 10 to Ann', b'pay 20 to Bob', b'pay 30 to Eve']",
        "pysock, cut:      not whole yet, nothing is handed over; b'pay 10000 to Ann'",
    ],
}


ELSEWHERE = {"legacy_protocol.py", "simple_ssh.py"}  # which have tests of their own


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED) | ELSEWHERE


@pytest.mark.parametrize("name", PRINTED)
def test_example_runs_as_it_stands(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=LIMIT,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.splitlines() == PRINTED[name]


@contextmanager
def serving(name: str, folder: Path) -> Iterator[str]:
    """Run an example's server on a Unix path; yield its address."""
    address = f"unix://{folder}/s"
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), "--serve", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"serving {address}, Ctrl-C ends it\n"
            yield address
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=LIMIT) == ("stopped\n", "")
            assert process.returncode == 0
        finally:
            process.kill()


@unix
def test_echo_upper_serves_a_plain_socket(tmp_path):
    with serving("echo_upper.py", tmp_path) as address:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(LIMIT)
                sock.connect(address.removeprefix("unix://"))
                sock.sendall(b"hello")
                assert sock.recv(100) == b"HELLO"
                assert sock.recv(100) == b""


@unix
def test_one_at_a_time_serves_the_next_client_after_the_first(tmp_path):
    with serving("one_at_a_time.py", tmp_path) as address:
        with pysock.Client(address, timeout=LIMIT) as first:
            assert first.request(b"a") == b"you said a"
            second = pysock.Client(address, timeout=LIMIT)
            second.send(b"b")
            assert first.request(b"c") == b"you said c"
        with second:
            assert second.recv() == b"you said b"
