"""Memory that runs out at any single allocation: an error, and nothing is lost or left."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysock
from conftest import TIME_FACTOR, linux
from peers import LONG

HERE = Path(__file__).parent
FEWEST = {  # allocations at the least that each kind makes, or none were seen to fail
    "stream": 100,
    "tls": 300,
    "file": 10,
    "tls-file": 50,
    "descriptors": 3,
    "decoder": 10,
    "datagrams": 50,
    "client": 50,
}

SHORT_LIVED = 0.5 * TIME_FACTOR  # seconds for one request

pytestmark = [linux, pytest.mark.slow]


def program(name: str, *arguments: str) -> list[str]:
    pytest.importorskip("_testcapi", reason="this Python came without its own tests")
    return [sys.executable, "-P", "-X", "faulthandler", str(HERE / name), *arguments]


@pytest.mark.case("K06")
@pytest.mark.parametrize("kind", FEWEST)
def test_allocation_that_fails_is_a_memory_error_and_no_loss_k06(kind: str) -> None:
    """The message is there for the next call, or the stream says that it is not."""
    done = subprocess.run(
        program("starving.py", kind), capture_output=True, text=True, timeout=10 * LONG
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line[:1] != "#"] == []
    assert sum(int(line.split(": ")[1].split()[0]) for line in lines) >= FEWEST[kind]


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[int]:
    """Run a server that can be starved; yield its port; it must end as it is told."""
    with subprocess.Popen(
        program("starving_server.py", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
            out, error = process.communicate(timeout=LONG)
            assert (process.returncode, out.splitlines()[-1]) == (0, "stopped"), out + error
        finally:
            process.kill()


def exchange(there: tuple[str, int], *requests: tuple[bytes, bytes]) -> int:
    """Do what a client of a healthy server does; return how many clients got no answer.

    That the connection ends is allowed.  And one may be lost before the server has seen it:
    CPython's `accept` forgets a descriptor for which it finds no memory.
    """
    for lost in range(3):
        try:
            with pysock.Client(there, timeout=SHORT_LIVED, linger=0) as peer:
                for request, reply in requests:
                    assert peer.request(request) == reply
                peer.send(b"many")
                assert [peer.recv() for _ in range(3)] == [b"a", b"b", bytes(5000)]
        except TimeoutError:
            continue
        except (OSError, pysock.ConnectionClosed):
            pass
        return lost
    raise AssertionError("three clients got no answer")


@pytest.mark.case("K06")
@pytest.mark.parametrize("workers", [0, 2])
def test_allocation_that_fails_in_a_server_costs_one_client_k06(workers: int) -> None:
    with served(str(workers)) as port:
        there = ("127.0.0.1", port)
        with pysock.Client(there, timeout=LONG, linger=0) as first:
            before = int(first.request(b"open"))
        lost = 0
        for which in range(300):
            with (
                contextlib.suppress(OSError, pysock.ConnectionClosed),
                pysock.Client(there, timeout=LONG, linger=0) as starving,
            ):
                starving.request(b"starve %d" % which)
            lost += exchange(
                there,
                (b"small", b"small"),
                (b"large", bytes(300_000)),
                (bytes(200_000), bytes(200_000)),
            )
            lost += exchange(there, (b"sated", b"sated"))
        with pysock.Client(there, timeout=LONG, linger=0) as last:
            assert int(last.request(b"open")) <= before + 1 + lost


@pytest.mark.case("K06")
def test_allocation_that_fails_in_a_datagram_server_costs_one_datagram_k06() -> None:
    with (
        served("datagrams") as port,
        pysock.DatagramClient(f"udp://127.0.0.1:{port}", timeout=LONG) as peer,
    ):
        for which in range(100):
            peer.send(b"starve %d" % which)
            for number in range(20):
                peer.send(b"%d" % number)
            reply = b""
            peer.send(b"sated")
            while reply != b"sated":
                try:
                    reply = peer.recv()
                except TimeoutError:
                    peer.send(b"sated")
