"""Clients as victims: a server that answers wrongly, without end, late or not at all."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

import certificates
import pysock
import pysock.tls
from certificates import Certificates
from conftest import unix
from gate import SOON, frame, reset
from hostile import (
    KINDS,
    PATIENCE,
    SECRET_KINDS,
    TLS_KINDS,
    Target,
    binding_of,
    take,
    villain,
)
from peers import run_python
from proofs import CHALLENGE, FAIL, KEY, OTHER_KEY, PROOF, READY, answer, hello, message
from pysock.auth import Verifier
from records import ALERT, CCS, HANDSHAKE, Shaker

certs = certificates.certs
kinds = pytest.mark.parametrize("kind", TLS_KINDS)

# What a client may raise when its server is not what it says; nothing else is documented.
DOCUMENTED = (
    pysock.AuthenticationError,
    pysock.ConnectionClosed,
    pysock.FramingError,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


def options(kind: str, certs: Certificates) -> dict[str, Any]:
    """Of a client that expects a server of *kind*."""
    found: dict[str, Any] = {"timeout": SOON, "connect_timeout": SOON, "linger": 0.1}
    if "tls" in kind:
        found |= {"tls": certs.client_context(), "server_hostname": "localhost"}
    if "authkey" in kind:
        found["authkey"] = KEY
    return found


def visit(where: Any, **wanted: Any) -> bytes:
    """What a client has of a server."""
    with pysock.Client(where, **wanted) as client:
        return client.request(b"hello")


# ------------------------------------------------------------ instead of any handshake


def endless(data: bytes) -> Callable[[socket.socket], None]:
    def act(sock: socket.socket) -> None:
        while True:
            sock.sendall(data)

    return act


def answering(data: bytes) -> Callable[[socket.socket], None]:
    def act(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(data)
        with contextlib.suppress(TimeoutError):
            while sock.recv(65536):
                pass

    return act


GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an alert": b"\x15\x03\x03\0\2\2\x28",
    "a warning": b"\x15\x03\x03\0\2\1\x5a",
    "random": b"\xee" + Random(1).randbytes(65535),
    "ones": b"\xff" * 65536,
    "a large record": b"\x16\x03\x03\xff\xff" + bytes(65535),
    "a large frame": b"\x7f\xff\xff\xff",
    "its own words": hello(b""),
    "a refusal": message(FAIL),
}
SHORT = {"a large frame", "a warning"}  # where more could make TLS of it


@pytest.mark.case("H07", "H08")
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_server_that_answers_something_else(
    kind: str, garbage: str, certs: Certificates
) -> None:
    """H07, H08: and then waits for more, which the client does not."""
    wanted = options(kind, certs)
    if garbage in SHORT:
        wanted |= {"timeout": PATIENCE, "connect_timeout": PATIENCE}
    with villain(answering(GARBAGE[garbage])) as where, pytest.raises(DOCUMENTED):
        visit(where, **wanted)


@pytest.mark.case("H09")
@pytest.mark.parametrize("garbage", ["random", "a warning", "a refusal", "its own words"])
@pytest.mark.parametrize("kind", KINDS)
def test_server_that_never_stops_to_answer(
    kind: str, garbage: str, certs: Certificates
) -> None:
    """H09: whatever it is, the client's end comes in time, and its socket is closed."""
    with villain(endless(GARBAGE[garbage])) as where, pytest.raises(DOCUMENTED):
        visit(where, **options(kind, certs))


@pytest.mark.case("T06")
@pytest.mark.parametrize("said", [b"", b"\xff", b"\x16", b"\x16\x03\x03\x40\x00\x02"])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_server_that_says_too_little(kind: str, said: bytes, certs: Certificates) -> None:
    """T06: also with *reconnect*, which has the same deadline for all its attempts."""
    wanted = options(kind, certs) | {"connect_timeout": PATIENCE / 3}
    with villain(answering(said)) as where:
        for again in (False, True):
            with pytest.raises((TimeoutError, pysock.AuthenticationError, ssl.SSLError)):
                visit(where, reconnect=again, **wanted)


@pytest.mark.case("P08", "T06")
@pytest.mark.parametrize("kind", KINDS[1:])
def test_server_that_drips(kind: str, certs: Certificates) -> None:
    """T06, P08: the deadline is one for all of it."""
    pause = threading.Event()

    def drip(sock: socket.socket) -> None:
        data = b"\x16\x03\x03\x40\x00\x02" if "tls" in kind else message(CHALLENGE, bytes(32))
        for byte in data + bytes(16384):
            sock.sendall(bytes([byte]))
            pause.wait(PATIENCE / 20)

    with villain(drip) as where, pytest.raises(TimeoutError, match="took too long"):
        pysock.Client(where, **options(kind, certs) | {"connect_timeout": PATIENCE})


# ------------------------------------------------------------ within the proof


def secured(sock: socket.socket, context: ssl.SSLContext | None) -> Any:
    return sock if context is None else context.wrap_socket(sock, server_side=True)


REPLIES: dict[str, Callable[[bytes], bytes]] = {
    "READY at once": lambda first: message(READY, bytes(32)),
    "PROOF": lambda first: message(PROOF, bytes(32)),
    "HELLO": lambda first: first,
    "no nonce": lambda first: message(CHALLENGE),
    "a short nonce": lambda first: message(CHALLENGE, bytes(31)),
    "a long nonce": lambda first: message(CHALLENGE, bytes(33)),
    "64 KiB": lambda first: message(CHALLENGE, bytes(32), 65535),
    "version 2": lambda first: message(CHALLENGE, bytes(32)).replace(b"\1", b"\2", 1),
    "kind 0": lambda first: message(0),
    "a frame": lambda first: frame(b"welcome"),
    "CHALLENGE and READY": lambda first: (
        message(CHALLENGE, bytes(32)) + message(READY, bytes(32))
    ),
    "CHALLENGE twice": lambda first: message(CHALLENGE, bytes(32)) * 2,
    "CHALLENGE and a frame": lambda first: message(CHALLENGE, bytes(32)) + frame(b"welcome"),
    "CHALLENGE and FAIL": lambda first: message(CHALLENGE, bytes(32)) + message(FAIL),
    "FAIL": lambda first: message(FAIL),
    "FAIL with a body": lambda first: message(FAIL, b"why"),
    "its nonce": lambda first: message(CHALLENGE, first[-32:]) + message(READY, first[-32:]),
}


@pytest.mark.case("T21", "T22")
@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("kind", SECRET_KINDS)
def test_server_that_proves_nothing(kind: str, reply: str, certs: Certificates) -> None:
    """T21, T22: what a client takes for an answer, in each of its states."""
    context = certs.server_context() if "tls" in kind else None

    def act(sock: socket.socket) -> None:
        with secured(sock, context) as wire:
            wire.sendall(REPLIES[reply](take(wire, 44)))
            while wire.recv(65536):
                pass

    with villain(act) as where, pytest.raises(pysock.AuthenticationError) as caught:
        pysock.Client(where, **options(kind, certs))
    assert KEY.hex() not in str(caught.value)


@pytest.mark.case("T06")
@pytest.mark.parametrize("end_with", [socket.socket.close, reset])
@pytest.mark.parametrize("kind", SECRET_KINDS)
def test_server_that_ends_at_each_byte_of_a_proof(
    kind: str, end_with: Callable[[socket.socket], None], certs: Certificates
) -> None:
    """T06: up to the last byte of READY; the client believes nothing before."""
    context = certs.server_context() if "tls" in kind else None
    counts = range(0, 86, 1 if context is None else 5)
    left = iter(counts)

    def act(sock: socket.socket) -> None:
        with secured(sock, context) as wire:
            side = Verifier(KEY, binding_of(context))
            count = next(left)
            for size in (44, 43):
                said = answer(side, take(wire, size))
                wire.sendall(said[:count])
                count -= len(said)
                if count < 0:
                    end_with(wire)
                    return

    with villain(act) as where:
        for _ in counts:
            with pytest.raises(pysock.AuthenticationError, match="ended before the proof"):
                pysock.Client(where, **options(kind, certs))


@pytest.mark.case("D09", "S11")
@unix
def test_no_server_can_have_the_process_killed() -> None:
    """D09, S11: where SIGPIPE is as the system has it, and a proof finds nobody."""
    program = """
import pysock, signal, socket
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
near, far = socket.socketpair()
far.close()
try:
    pysock.Client(sock=near, authkey=bytes(32))
except pysock.AuthenticationError:
    print("alive")
near.close()
"""
    assert run_python(program) == "alive\n"


# ------------------------------------------------------------ within TLS


@pytest.mark.case("T06")
@pytest.mark.parametrize("end_with", [socket.socket.close, reset])
@kinds
def test_server_that_ends_inside_its_handshake(
    kind: str, end_with: Callable[[socket.socket], None], certs: Certificates
) -> None:
    """T06: at many bytes of its flight."""
    context = certs.server_context()
    left = iter(range(10))

    def act(sock: socket.socket) -> None:
        said = Shaker(context, server=True).step(sock.recv(65536))
        sock.sendall(said[: len(said) * next(left) // 10])
        end_with(sock)

    with villain(act) as where:
        for _ in range(10):
            with pytest.raises((ConnectionError, ssl.SSLError)):
                pysock.Client(where, **options(kind, certs))


@kinds
def test_server_with_too_many_names(kind: str, certs: Certificates) -> None:
    """OpenSSL takes 100 KiB of certificates, and no more."""
    names = [f"a-long-name-that-nobody-needs-{i}.example.org" for i in range(3000)]
    context = pysock.tls.server_context(*certs.issue("localhost", *names))

    def act(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wire:
            wire.recv(1)

    with villain(act) as where, pytest.raises(ssl.SSLError):
        pysock.Client(where, **options(kind, certs))


@pytest.mark.parametrize("said", [HANDSHAKE, CCS, ALERT])
@kinds
def test_server_whose_records_never_end(kind: str, said: int, certs: Certificates) -> None:
    """A message that is said to be of 16 MiB; changes and alerts without end."""
    data = {HANDSHAKE: b"\2\xff\xff\xff" + bytes(16000), CCS: b"\1", ALERT: b"\1\x5a"}[said]
    record = struct.pack(">BHH", said, 0x303, len(data)) + data
    with (
        villain(endless(record * 10)) as where,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        pysock.Client(where, **options(kind, certs))


# ------------------------------------------------------------ when all had gone well


@pytest.mark.case("H02", "H03")
@pytest.mark.parametrize("kind", KINDS)
def test_server_that_turns_hostile(kind: str, certs: Certificates) -> None:
    """H02, H03: bytes that are no frame, behind a proper handshake."""
    context = certs.server_context() if "tls" in kind else None

    def act(sock: socket.socket) -> None:
        with secured(sock, context) as wire:
            if "authkey" in kind:
                side = Verifier(KEY, binding_of(context))
                for size in (44, 43):
                    wire.sendall(answer(side, take(wire, size)))
            take(wire, 9)
            while True:
                wire.sendall(b"\xff" * 65536)

    with villain(act) as where, pytest.raises(pysock.FrameTooLarge):
        visit(where, **options(kind, certs))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_who_takes_the_servers_place_gets_nothing(kind: str, certs: Certificates) -> None:
    """A client that connects again asks for all proofs again."""
    wanted = options(kind, certs) | {"reconnect": True}
    first = Target(kind, certs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(first.server.start())
        client = stack.enter_context(pysock.Client(first.where, **wanted))
        assert client.request(b"one") == b"one"
        first.server.stop(drain=0)
        first.server.server_close()
        other = {"tls": pysock.tls.server_context(*certs.of_other_ca)} if "tls" in kind else {}
        if "authkey" in kind:
            other["authkey"] = OTHER_KEY
        impostor = Target(kind, certs, address=first.where, **other)
        stack.enter_context(impostor.server.start())
        with pytest.raises((pysock.ConnectionClosed, OSError)):
            client.request(b"two")  # meets the end of the first
        with pytest.raises((pysock.AuthenticationError, ssl.SSLCertVerificationError)):
            client.request(b"three")
        assert impostor.handler.seen == []
