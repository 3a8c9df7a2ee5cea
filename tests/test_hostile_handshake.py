"""Peers that attack a server before their first message: garbage, silence, floods, sources."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import certificates
import pysock
import pysock.tls
from certificates import Certificates
from conftest import linux, unix
from gate import SOON, frame, reset, warnings_in
from hostile import (
    FAIL,
    KINDS,
    PATIENCE,
    SECRET_KINDS,
    TLS_KINDS,
    Target,
    alone,
    attacked,
    check_log,
    pour,
    prove,
    rest_of,
    take,
)
from peers import background, until
from proofs import KEY, OTHER_KEY, hello
from pysock.auth import Prover
from records import Shaker

certs = certificates.certs

V2 = b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c"


def via(source: str) -> bytes:
    """The PROXY header of a client at *source*."""
    return (
        V2 + socket.inet_aton(source) + bytes([192, 0, 2, 1]) + struct.pack(">HH", 4711, 443)
    )


CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303")

GARBAGE = [
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
    pytest.param(CLIENT_HELLO + bytes(510), id="client hello of zeros"),
    pytest.param(b"SSH-2.0-x\r\n", id="ssh"),
    pytest.param(b"PROXY TCP4 192.0.2.7 192.0.2.9 1 2\r\n", id="proxy v1"),
    pytest.param(via("192.0.2.7"), id="proxy v2"),
    pytest.param(b"\xee" + Random(1).randbytes(65535), id="random"),
    pytest.param(b"\xff" * 65536, id="ones"),
]


# ------------------------------------------------------------ bytes that are something else


@pytest.mark.case("H07", "H08")
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_garbage_is_refused_with_one_line(
    kind: str, garbage: bytes, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """H07, H08: nothing of it comes back, whatever the server had expected."""
    with attacked(kind, certs) as target:
        with target.raw() as sock:
            pour(sock, garbage)
            sent = rest_of(sock)
        alone(target)
        assert sent == b"" or (target.encrypted and sent[:3] == b"\x15\x03\x03"), sent[:9]
    (line,) = check_log(caplog, "127.0.0.1:")
    assert any(word in line for word in ("exceeds", "proof", "TLS"))


@pytest.mark.case("H08")
@pytest.mark.parametrize("kind", TLS_KINDS)
def test_plain_client_of_a_tls_server_is_told(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """H08: both ends know what is wrong, before any deadline."""
    with attacked(kind, certs) as target:
        where = target.server.server_address
        with (
            pysock.Client(where, timeout=SOON) as plain,
            pytest.raises(pysock.FrameTooLarge, match="a TLS server's alert"),
        ):
            plain.request(b"hello")
        with pytest.raises(pysock.AuthenticationError, match="a TLS server's alert"):
            pysock.Client(where, authkey=KEY)
        alone(target)
    check_log(caplog, *["the client's bytes are not TLS"] * 2)


@pytest.mark.case("H08")
@pytest.mark.parametrize("kind", ["plain", "authkey"])
def test_tls_client_of_a_plain_server_is_told(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """H08."""
    with attacked(kind, certs) as target:
        with pytest.raises(OSError, match="does not speak TLS"):
            target.client(tls=certs.client_context(), server_hostname="localhost")
        alone(target)
    check_log(caplog, "a TLS peer?")


@pytest.mark.case("H08")
def test_one_end_without_a_key_is_told(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """H08: also where it is the proof that only one end has."""
    with attacked("authkey", certs) as target:
        with (
            target.client(authkey=None) as mute,
            pytest.raises((pysock.ConnectionClosed, ConnectionError)),
        ):
            mute.request(b"hello")
        alone(target)
    check_log(caplog, "does the client use authkey=?")
    caplog.clear()
    with attacked("plain", certs) as target:
        with pytest.raises(pysock.AuthenticationError, match="one end may have no authkey="):
            target.client(authkey=KEY)
        alone(target)
    check_log(caplog, "a pysock client with authkey=?")


# ------------------------------------------------------------ silence


def stages(kind: str) -> list[str]:
    """How far a client of *kind* may have come before it falls silent."""
    return [
        "connected",
        "begun",
        *["TLS"] * (kind == "tls+authkey"),
        *["HELLO"] * (kind != "tls"),
    ]


def silent_at(target: Target, stage: str) -> Any:
    """A client that has come as far as *stage*, and says no more."""
    if stage == "connected":
        return target.raw()
    if stage == "begun":
        return target.raw(CLIENT_HELLO if target.encrypted else hello(b"")[:20])
    sock = target.secured()
    if stage == "HELLO":
        sock.sendall(hello(b""))
    return sock


STAGES = [(kind, stage) for kind in KINDS[1:] for stage in stages(kind)]


@pytest.mark.case("H07", "T06")
@pytest.mark.parametrize(("kind", "stage"), STAGES)
def test_silence_is_ended_at_the_deadline(
    kind: str, stage: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """H07, T06: nothing, one byte, half a handshake; with one line in the log."""
    with attacked(kind, certs, handshake_timeout=PATIENCE) as target:
        with silent_at(target, stage) as sock:
            with target.client() as good:
                assert good.request(b"meanwhile") == b"meanwhile"
            rest_of(sock)
        alone(target)
        assert target.server.stats["overdue"] == 1
        assert len(target.server._handshakes) == 0
    check_log(caplog, "its handshake takes too long")


@pytest.mark.case("L02", "T06")
@pytest.mark.parametrize(("kind", "stage"), STAGES)
def test_silent_clients_hold_no_thread_and_no_place(
    kind: str, stage: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """L02, T06: 80 of them take all places, and a good client has one in a moment."""
    options = {"handshake_timeout": None}
    with attacked(kind, certs, **options) as target, contextlib.ExitStack() as stack:
        threads = threading.active_count()
        for _ in range(30):
            stack.enter_context(silent_at(target, stage))
        until(lambda: target.server.stats["connections"] == 31)
        assert threading.active_count() <= threads + 1  # a handler may have been slow
        with target.client() as good:
            assert good.request(b"beside 30") == b"beside 30"
        for _ in range(50):
            stack.enter_context(silent_at(target, stage))
        with target.client() as good:
            assert good.request(b"beside 80") == b"beside 80"
        assert 60 <= len(target.server._handshakes) <= 64
        assert 16 <= target.server.stats["overdue"] <= 21
        check_log(caplog, *["others wait"] * len(warnings_in(caplog)))


@pytest.mark.case("L02")
def test_strangers_do_not_take_all_connections(certs: Certificates) -> None:
    """L02: also where max_connections are fewer than the handshakes may be."""
    options = {"max_connections": 8, "handshake_timeout": None}
    with attacked("authkey", certs, **options) as target, contextlib.ExitStack() as stack:
        for _ in range(7):
            stack.enter_context(target.raw())
        until(lambda: target.server.stats["connections"] == 8)
        with target.client(connect_timeout=2 * SOON) as good:
            assert good.request(b"meanwhile") == b"meanwhile"


@pytest.mark.case("T06")
@pytest.mark.parametrize("kind", SECRET_KINDS)
def test_drip_is_one_handshake_however_slow(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """T06: one byte at a time does not put the deadline off."""
    pause = threading.Event()
    with attacked(kind, certs, handshake_timeout=PATIENCE) as target:
        with target.secured() as sock, contextlib.suppress(OSError):
            for byte in hello(b"u" * 255):
                sock.sendall(bytes([byte]))
                pause.wait(PATIENCE / 20)
            pytest.fail("all of it was taken")
        alone(target)
    check_log(caplog, "its handshake takes too long")


@pytest.mark.case("D13", "D16")
@pytest.mark.parametrize("kind", SECRET_KINDS)
def test_stop_does_not_wait_for_handshakes(kind: str, certs: Certificates) -> None:
    """D13, D16: those that have stopped anywhere are ended, and their places are free."""
    target = Target(kind, certs, handshake_timeout=None)
    with target.server as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            server.start()
            for stage in stages(kind) * 3:
                stack.enter_context(silent_at(target, stage))
            until(lambda: len(server._handshakes) == 3 * len(stages(kind)))
            server.stop(drain=3600)
            assert len(server._handshakes) == 0
        assert target.handler.seen == []


@pytest.mark.parametrize("kind", SECRET_KINDS)
def test_handle_request_wants_the_proof_too(kind: str, certs: Certificates) -> None:
    """It would be a way around, else."""
    target = Target(kind, certs)
    with target.server as server:
        for good in (False, True):
            with background(server.handle_request):
                if good:
                    with target.client() as client:
                        assert client.request(b"let in") == b"let in"
                else:
                    with target.secured() as sock:
                        pour(sock, frame(b"run me"))
                        rest_of(sock)
        assert target.handler.seen == [b"let in"]


# ------------------------------------------------------------ ends at each step


def close(sock: Any) -> None:
    sock.close()


def half_close(sock: Any) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_WR)
    rest_of(sock)


@pytest.mark.case("T06")
@pytest.mark.parametrize("end", [close, reset, half_close])
@pytest.mark.parametrize("local", [False, pytest.param(True, marks=unix)])
@pytest.mark.parametrize("kind", SECRET_KINDS)
def test_peer_that_ends_at_each_byte_of_a_proof(
    kind: str,
    local: bool,
    end: Callable[[Any], None],
    certs: Certificates,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """T06: no traceback, nothing left, nothing got through."""
    where = {"address": tmp_path / "s"} if local else {}
    with attacked(kind, certs, **where) as target:
        step = 1 if kind == "authkey" else 7
        for cut in range(0, 44, step):
            with target.secured() as sock:
                sock.sendall(hello(b"")[:cut])
                end(sock)
        for cut in range(0, 43, step):
            with target.secured() as sock:
                side = Prover(KEY, "", target.binding)
                sock.sendall(side.begin())
                side.feed(take(sock, 11))
                sock.sendall(side.feed(take(sock, 32))[:cut])
                end(sock)
        alone(target)
        assert target.handler.seen == [b"before"]
    ended = "the connection ended before the proof of a key"
    check_log(caplog, *[ended] * len(warnings_in(caplog)))


# ------------------------------------------------------------ who does not read


@pytest.mark.case("T06")
@pytest.mark.parametrize("reads", [True, False])
def test_peer_that_takes_no_certificate_is_waited_for_until_the_deadline(
    reads: bool, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """T06: what the server says in the handshake is larger than all buffers."""
    names = [f"a-long-name-that-nobody-needs-{i}.example.org" for i in range(1400)]
    context = pysock.tls.server_context(*certs.issue("localhost", *names))
    timeout = 2 * SOON if reads else PATIENCE
    with attacked("tls", certs, tls=context, handshake_timeout=timeout) as target:
        listener = target.server._listeners[0].sock
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        shaker = Shaker(certs.client_context())
        with target.raw(shaker.step(), room=1) as sock:
            with target.client() as good:
                assert good.request(b"meanwhile") == b"meanwhile"
            if reads:
                shaker.finish(sock)
                shaker.tls.write(frame(b"late"))
                sock.sendall(shaker.outgoing.read())
                assert shaker.recv(sock, 8) == frame(b"late")
                with pytest.raises(ssl.SSLWantReadError):
                    shaker.tls.unwrap()
                sock.sendall(shaker.outgoing.read())
            else:
                until(lambda: target.server.stats["overdue"] == 1)
        alone(target)
    check_log(caplog, *["its handshake takes too long"] * (not reads))


# ------------------------------------------------------------ sources, as a proxy tells them


@contextlib.contextmanager
def behind_a_proxy(kind: str, certs: Certificates, **options: Any) -> Iterator[Target]:
    options |= {"proxy_protocol": "v2", "first": via("198.51.100.1")}
    with attacked(kind, certs, **options) as target:
        yield target


@pytest.mark.case("H07")
@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n", b"\xff" * 65536, V2 * 5])
@pytest.mark.parametrize("kind", KINDS)
def test_garbage_by_way_of_a_proxy(
    kind: str, garbage: bytes, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """H07: it is the client's, and not the proxy's."""
    with behind_a_proxy(kind, certs) as target:
        with target.raw(via("203.0.113.9") + garbage[:1]) as sock:
            pour(sock, garbage[1:])
            rest_of(sock)
        alone(target)
    check_log(caplog, "203.0.113.9:4711: ")


@pytest.mark.case("L03")
@pytest.mark.parametrize("kind", KINDS[1:])
def test_silent_clients_of_one_source_leave_room_for_others(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """L03: of 200 there are never more than 16."""
    with behind_a_proxy(kind, certs) as target, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(target.raw(via("203.0.113.9")))
        with target.client() as good:
            assert good.request(b"beside 200") == b"beside 200"
        stats = target.server.stats
        until(lambda: target.server.stats["handshake_failures"] == 184)
        assert len(target.server._handshakes) == 16
        assert stats["overdue"] == 0
        lines = check_log(caplog, *["refused, 16 handshakes"] * len(warnings_in(caplog)))
        assert all(line.startswith("203.0.113.9:4711: ") for line in lines)
        assert len(lines) <= 10


def fail_proof(target: Target, first: bytes) -> bytes:
    """Prove a wrong key; return the last message of the server."""
    with target.secured(first) as sock:
        side = Prover(OTHER_KEY, "", target.binding)
        with pytest.raises(pysock.AuthenticationError, match="refused the key"):
            prove(sock, side)
    return FAIL


def is_refused(target: Target, first: bytes) -> bool:
    """Whether a client with the right key is not even listened to."""
    try:
        with target.ready(first) as sock:
            sock.sendall(frame(b"let in"))
            assert take(sock, 10) == frame(b"let in")
            return False
    except (AssertionError, OSError):
        return True


@pytest.mark.case("L04")
@pytest.mark.parametrize("kind", SECRET_KINDS)
def test_source_whose_proofs_fail_is_refused_for_a_while(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """L04: after a few failures, and nobody else is."""
    guesser, neighbour = via("203.0.113.9"), via("203.0.113.10")
    with behind_a_proxy(kind, certs) as target:
        for _ in range(2):
            fail_proof(target, guesser)
        assert not is_refused(target, guesser)
        for _ in range(2):
            fail_proof(target, guesser)
        assert is_refused(target, guesser)
        assert not is_refused(target, neighbour)
        (entry,) = target.server._handshakes._penalties._entries.values()
        entry._at -= 600  # a while later
        assert not is_refused(target, guesser)
    assert "203.0.113.9:4711: refused, its proofs" in caplog.text


def test_garbage_does_not_keep_failed_proofs_out_of_the_log(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines are limited by kind, so that none can hide the others."""
    with attacked("authkey", certs) as target:
        for _ in range(20):
            with target.raw(b"\xee" * 11) as sock:
                rest_of(sock)
        fail_proof(target, b"")
        alone(target)
    assert len([line for line in warnings_in(caplog) if "no proof came" in line]) >= 5
    assert "the proof of user '' is wrong" in caplog.text


# ------------------------------------------------------------ users of this machine


@pytest.mark.case("T27")
@pytest.mark.parametrize("kind", KINDS)
@linux
@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be another user"
)
def test_uid_that_is_not_allowed_is_refused(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """T27: before a byte of it is looked at, and it is told nothing."""
    program = """
import os, socket, sys
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(30)
sock.connect(sys.argv[1])
try:
    sock.sendall(b"x" * 100)
    print(sock.recv(100))
except ConnectionError:
    print(b"")
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = f"{folder}/s"
        with attacked(kind, certs, address=path, allow_uids=[0]) as target:
            os.chmod(path, 0o666)
            done = subprocess.run(
                [sys.executable, "-P", "-c", program, path],
                capture_output=True,
                text=True,
                timeout=2 * SOON,
            )
            assert (done.stdout, done.stderr) == ("b''\n", "")
            assert target.server.stats["refused"] == 1
            assert target.server.stats["bytes_in"] == 4 + len(b"before")
    check_log(caplog, "refused, its uid 65534 is none of allow_uids")
