"""Peers that attack a server with what they send, and with how much of it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

import certificates
import pysock
from certificates import Certificates
from conftest import TIME_FACTOR, linux
from gate import Echo, echo
from hostile import (
    KINDS,
    TLS_KINDS,
    Target,
    alone,
    attacked,
    check_log,
    measured,
    pour,
    rest_of,
)
from peers import Task, until
from proofs import hello
from pysock.limits import raise_descriptor_limit

certs = certificates.certs

KIB, MIB = 1 << 10, 1 << 20
MOST = (64 << 20).to_bytes(4, "big")  # the header of the largest frame there may be

# ------------------------------------------------------------ bytes that are no frames


BAD = [
    pytest.param((MIB + 1).to_bytes(4, "big"), id="max+1"),  # H02
    *(pytest.param(n.to_bytes(4, "big"), id=f"{n:x}") for n in (2**31 - 1, 2**31, 2**32 - 1)),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),  # H07
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls"),
    pytest.param(hello(b""), id="proof"),
    pytest.param(b"\xee" + Random(1).randbytes(65535), id="random"),
]


@pytest.mark.case("H02", "H03", "H07")
@pytest.mark.parametrize(
    ("kind", "handler"),
    [("authkey", echo), ("tls", echo), ("tls", Echo), ("tls+authkey", Echo)],
)
@pytest.mark.parametrize("data", BAD)
def test_bad_bytes_behind_the_handshake(
    kind: str, data: bytes, handler: Any, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """H02, H03, H07: one line in the log, nothing comes back; as without TLS and key."""
    framing = pysock.LengthField(max_frame=MIB)
    with attacked(kind, certs, handler=handler, framing=framing) as target:
        with target.ready() as sock:
            pour(sock, data)
            assert rest_of(sock) == b""
        alone(target)
    check_log(caplog, "exceeds 1048576")


def before_all(target: Target) -> Any:
    return target.raw()


def after_all(target: Target) -> Any:
    return target.ready()


@pytest.mark.case("H09")
@pytest.mark.parametrize("came", [before_all, after_all])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_bytes_and_then_lines_without_end(
    kind: str,
    came: Callable[[Target], Any],
    certs: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """H09: whoever goes on is got rid of, and holds up nobody meanwhile."""
    with attacked(kind, certs, linger=0.2 * TIME_FACTOR) as target:

        def flood() -> None:
            with came(target) as sock, contextlib.suppress(OSError):
                sock.sendall(b"\xff" * 11)
                while True:
                    sock.sendall((b"x" * 1023 + b"\n") * 64)

        tasks = [Task(flood) for _ in range(3)]
        with target.client() as good:
            while any(task.is_alive() for task in tasks):
                assert good.request(b"meanwhile") == b"meanwhile"
        for task in tasks:
            task.finish()
        alone(target)
    check_log(caplog, *["127.0.0.1:"] * 3)


# ------------------------------------------------------------ what is announced


@pytest.mark.case("H04", "H05")
@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_never_come_are_cut(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """H04, H05: by the deadline for a message, whatever is in between."""
    rate = (0.2 * TIME_FACTOR, 1e6)
    with attacked(kind, certs, minimum_rate=rate) as target, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(target.ready()) for _ in range(3)]
        for sock, more in zip(socks, (b"", b"x", b"ten bytes."), strict=True):
            sock.sendall(MOST + more)
        with target.client() as good:
            assert good.request(b"meanwhile") == b"meanwhile"
        assert [rest_of(sock) for sock in socks] == [b""] * 3
        alone(target)
        assert target.server.stats["overdue"] == 3
    check_log(caplog, *["its message comes too slowly"] * 3)


COUNTS = {"plain": 1000, "authkey": 1000, "tls": 250, "tls+authkey": 250}


@pytest.mark.case("H04", "H05")
@linux
@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_many_that_announce_much(kind: str, certs: Certificates) -> None:
    """H04, H05: less than 128 KiB for each, and far less without TLS."""
    raise_descriptor_limit(1200)
    count = COUNTS[kind]
    with measured(kind, certs) as target, contextlib.ExitStack() as stack:
        before = target.resident()
        for _ in range(count):
            stack.enter_context(target.ready()).sendall(MOST + b"ten bytes.")
        until(lambda: target.ask("bytes_in") == 10 + 14 * count)
        with target.client() as good:
            assert good.request(b"meanwhile") == b"MEANWHILE"
        each = (target.resident() - before) / count
        assert each < (128 if target.encrypted else 20) * KIB


@pytest.mark.case("H05")
@linux
@pytest.mark.parametrize("kind", TLS_KINDS)
def test_memory_of_many_records_that_never_end(kind: str, certs: Certificates) -> None:
    """H05: the longest records, all but their last byte, hold no more either."""
    count = 100
    with measured(kind, certs) as target, contextlib.ExitStack() as stack:
        before = target.resident()
        for _ in range(count):
            sock = stack.enter_context(target.ready())
            socket.socket.sendall(sock, b"\x17\x03\x03\x41\x00" + bytes(0x4100 - 1))
        with target.client() as good:
            assert good.request(b"meanwhile") == b"MEANWHILE"
        each = (target.resident() - before) / count
        assert each < 128 * KIB


@pytest.mark.case("H04")
@linux
@pytest.mark.parametrize("kind", KINDS[1:])
def test_memory_of_a_thousand_that_never_get_as_far(kind: str, certs: Certificates) -> None:
    """H04: each that was refused has given back what it held.

    A hundred at a time are there at most.
    """
    with measured(kind, certs) as target:
        peaks = []
        for _ in range(10):
            with contextlib.ExitStack() as stack:
                for _ in range(100):
                    pour(stack.enter_context(target.raw()), MOST + bytes(20_000))
            with target.client() as good:
                assert good.request(b"meanwhile") == b"MEANWHILE"
            peaks.append(target.resident())
        assert peaks[-1] - peaks[0] < 100 * 128 * KIB, peaks
        assert target.ask("messages_in") == 11
