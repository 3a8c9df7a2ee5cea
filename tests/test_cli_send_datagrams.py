"""`pysock send` to UDP and Unix datagram addresses, through real processes."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from conftest import unix
from pysock import DatagramServer
from test_cli import LIMIT, pytestmark, run, running

__all__ = ["pytestmark"]  # what the command line needs, it needs here too


def test_each_message_is_a_datagram_and_so_is_its_reply() -> None:
    with DatagramServer("udp://127.0.0.1:0", bytes.upper).start() as server:
        address = str(server.address)
        assert run("send", address, "one", "two") == (0, b"ONE\nTWO\n", "")
        assert run("send", address, stdin=b"a\n\nc") == (0, b"A\n\nC\n", "")
        assert run("send", address, "--hex", "00ff") == (0, b"00ff\n", "")
        assert server.stats["messages_in"] == 6


@unix
def test_unix_datagrams(tmp_path: Path) -> None:
    with DatagramServer(f"unixgram://{tmp_path}/s", bytes.upper).start() as server:
        assert run("send", str(server.address), "--raw", "a", "b") == (0, b"AB", "")


def test_no_reply_waits_for_none() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(LIMIT)
        address = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
        assert run("send", address, "--no-reply", "a", "b") == (0, b"", "")
        assert [receiver.recv(9), receiver.recv(9)] == [b"a", b"b"]


def test_reply_that_does_not_come() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"udp://127.0.0.1:{silent.getsockname()[1]}"
        status, out, said = run("send", address, "--timeout", "0.05", "x")
    assert (status, out) == (255, b"")
    assert said.startswith("pysock send: no reply to message 1 within 0.05 s")
    assert said.count("\n") == 1


def test_nobody_receives_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        address = f"udp://127.0.0.1:{gone.getsockname()[1]}"
    status, _, said = run("send", address, "x")
    assert status == 255
    assert said == f"pysock send: nobody receives at {address}\n"


@unix
def test_path_that_is_not_there(tmp_path: Path) -> None:
    status, _, said = run("send", f"unixgram://{tmp_path}/none", "x")
    assert status == 255
    assert "no server has made this path" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--framing", "netstring"], "--framing and --max-frame are for streams"),
        (["--max-frame", "10"], "--framing and --max-frame are for streams"),
        (["--until-close"], "--until-close is for streams"),
        (["--authkey", "k"], "--authkey is for streams"),
    ],
)
def test_what_means_nothing_for_datagrams_is_refused(arguments: list[str], said: str) -> None:
    status, out, error = run("send", "udp://127.0.0.1:9", *arguments, "x")
    assert (status, out) == (2, b"")
    assert said in error


def test_message_that_no_datagram_carries() -> None:
    with DatagramServer("udp://127.0.0.1:0", bytes.upper).start() as server:
        given = b"a\n" + bytes(70_000).replace(b"\0", b"x") + b"\n"
        status, out, said = run("send", str(server.address), stdin=given)
    assert (status, out) == (2, b"A\n")
    assert "message 2: length 70000 exceeds 65507" in said


def test_a_line_goes_when_it_is_read() -> None:
    with (
        DatagramServer("udp://127.0.0.1:0", bytes.upper).start() as server,
        running("send", str(server.address), stdin=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"first\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"FIRST\n"
