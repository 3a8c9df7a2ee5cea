"""`pysock send` to UDP and Unix datagram addresses, through real processes."""

from __future__ import annotations

import socket
import struct
import subprocess
from pathlib import Path

import pytest

from conftest import linux, unix
from pysock import DatagramServer
from test_cli import LIMIT, pytestmark, run, running

__all__ = ["pytestmark"]  # what the command line needs, it needs here too

IP_RECVTTL = 12  # Linux; Python has no name for it


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


def test_message_is_sent_again_until_it_is_answered() -> None:
    seen: list[bytes] = []

    def third_time(message: bytes) -> bytes | None:
        seen.append(message)
        return b"done" if len(seen) == 3 else None

    with DatagramServer("udp://127.0.0.1:0", third_time).start() as server:
        options = ("--retries", "3", "--timeout", str(LIMIT / 10))
        assert run("send", str(server.address), *options, "x") == (0, b"done\n", "")
    assert seen == [b"x"] * 3


@linux
def test_group_is_reached_by_the_interface_that_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        member.bind(("", 0))
        member.settimeout(LIMIT)
        joined = socket.inet_aton("239.1.2.3") + socket.inet_aton("127.0.0.1")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        member.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        group = f"udp://239.1.2.3:{member.getsockname()[1]}"
        for options, ttl in (((), 1), (("--ttl", "3"), 3)):
            by_loopback = (*options, "--interface", "127.0.0.1", "--no-reply")
            assert run("send", group, *by_loopback, "x") == (0, b"", "")
            message, [(_, _, told)], _, _ = member.recvmsg(9, 99)
            assert (message, struct.unpack("@i", told)) == (b"x", (ttl,))


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
        (["--ttl", "256"], "argument --ttl: '256' is not a whole number from 1 to 255"),
        (["--interface", "nowhere"], "no interface 'nowhere' here"),
        (["--retries", "2", "--no-reply"], "--retries is for replies that do not come"),
    ],
)
def test_what_means_nothing_for_datagrams_is_refused(arguments: list[str], said: str) -> None:
    status, out, error = run("send", "udp://127.0.0.1:9", *arguments, "x")
    assert (status, out) == (2, b"")
    assert said in error


@pytest.mark.parametrize(
    "arguments", [["--retries", "1"], ["--interface", "lo"], ["--ttl", "1"], ["--broadcast"]]
)
def test_what_means_nothing_for_streams_is_refused(arguments: list[str]) -> None:
    status, out, error = run("send", "127.0.0.1:9", *arguments, "x")
    assert (status, out) == (2, b"")
    assert error == f"pysock send: {arguments[0]} is for datagrams, '127.0.0.1:9' is not\n"


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
