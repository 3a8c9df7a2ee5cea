"""DNS over TCP: dnsmasq asked by pysock, and pysock asked by dig."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator

import pytest

from conftest import require_peer
from interop.program import LIMIT, running
from pysock import Client, Server, formats, recv_frame, send_frame

ADDRESS = socket.inet_aton("192.0.2.7")
HEADER = struct.Struct(">6H")  # number, flags, questions, answers, and two more counts
TYPE_A_CLASS_IN = struct.pack(">2H", 1, 1)


def query(number: int, name: str) -> bytes:
    labels = b"".join(struct.pack("B", len(part)) + part.encode() for part in name.split("."))
    return HEADER.pack(number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + TYPE_A_CLASS_IN


def answer(asked: bytes) -> bytes:
    """Return the answer that every name has ADDRESS."""
    number = HEADER.unpack_from(asked)[0]
    question = asked[HEADER.size : asked.index(b"\0", HEADER.size) + 5]
    record = b"\xc0\x0c" + TYPE_A_CLASS_IN + struct.pack(">IH", 60, 4) + ADDRESS
    return HEADER.pack(number, 0x8580, 1, 1, 0, 0) + question + record


def summary(reply: bytes) -> tuple[int, int, int, bytes]:
    """Return the query's number, the reply's code, its answers and the last one's data."""
    number, flags, _, answers, _, _ = HEADER.unpack_from(reply)
    return number, flags & 0xF, answers, reply[-4:]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def dnsmasq() -> Iterator[tuple[str, int]]:
    """The address of a dnsmasq that knows example.test and all below it."""
    command = [
        require_peer("dnsmasq"),
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--address=/example.test/192.0.2.7",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
    ]
    for _ in range(5):  # somebody else may get the port first
        port = free_port()
        with running(*command, f"--port={port}", check=False) as process:
            output = []
            for line in process.stdout:
                output.append(line)
                if "started" in line:
                    yield "127.0.0.1", port
                    process.terminate()
                    assert process.wait() == 0
                    return
    pytest.fail("".join(output))


def test_dnsmasq_answers_a_request(dnsmasq):
    with Client(dnsmasq, formats.DNS, timeout=LIMIT) as client:
        reply = client.request(query(4711, "example.test"))
    assert summary(reply) == (4711, 0, 1, ADDRESS)


def test_dnsmasq_answers_pipelined_requests(dnsmasq):
    queries = [query(number, f"host{number}.example.test") for number in range(100)]
    with Client(dnsmasq, formats.DNS, timeout=LIMIT) as client:
        replies = client.request_many(queries)
    assert [summary(reply) for reply in replies] == [(n, 0, 1, ADDRESS) for n in range(100)]


def test_dnsmasq_answers_a_plain_socket_with_frames(dnsmasq):
    with socket.create_connection(dnsmasq, timeout=LIMIT) as sock:
        send_frame(sock, query(1, "example.test"), formats.DNS)
        assert summary(recv_frame(sock, formats.DNS)) == (1, 0, 1, ADDRESS)


@pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed")
def test_dig_asks_twice_over_one_connection():
    names = ["example.test", "www.example.test"]
    with Server("tcp://127.0.0.1:0", answer, framing=formats.DNS) as server:
        server.start()
        where = ["@127.0.0.1", "-p", str(server.server_address[1])]
        options = ["-r", "+tcp", "+keepopen", "+short", "+tries=1", "+time=8"]
        with running("dig", *where, *options, *names) as process:
            assert process.stdout.read() == "192.0.2.7\n" * 2
        assert server.stats["accepted"] == 1
