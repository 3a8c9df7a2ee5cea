"""Peers that attack TLS itself: its handshake, its records, and who stands in the middle."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import certificates
import pysock
import pysock.tls
from certificates import Certificates
from conftest import require_peer, unlike_wine
from gate import SOON, frame, reset, warnings_in
from hostile import (
    PATIENCE,
    TLS_KINDS,
    Target,
    alone,
    attacked,
    check_log,
    pour,
    prove,
    relayed,
    rest_of,
    take,
    villain,
)
from peers import LONG, background, pattern, until
from proofs import KEY, answer
from pysock.auth import Prover
from records import (
    ALERT,
    CCS,
    DATA,
    HANDSHAKE,
    KEY_UPDATE,
    KEY_UPDATE_PLEASE,
    RecordEnd,
    Shaker,
)

certs = certificates.certs
kinds = pytest.mark.parametrize("kind", TLS_KINDS)


def plain_record(kind: int, data: bytes, version: int = 0x0303) -> bytes:
    return struct.pack(">BHH", kind, version, len(data)) + data


def client_hello(certs: Certificates) -> bytes:
    """What a good client says first, without the head of the record that it is in."""
    return Shaker(certs.client_context()).step()[5:]


# ------------------------------------------------------------ the handshake

OPENINGS: dict[str, Callable[[bytes], bytes]] = {
    "a message that says it is of 16 MiB": lambda hello: (
        plain_record(HANDSHAKE, b"\1\xff\xff\xff" + bytes(16000)) * 20
    ),
    "records of 64 KiB": lambda hello: b"\x16\x03\x01\xff\xff" + bytes(65535),
    "empty records": lambda hello: plain_record(HANDSHAKE, b"") * 1000,
    "no ClientHello": lambda hello: plain_record(HANDSHAKE, b"\x0b" + hello[1:]),
    "data at once": lambda hello: plain_record(DATA, frame(b"run me")) * 100,
    "alerts": lambda hello: plain_record(ALERT, b"\1\x5a") * 1000,
    "a fatal alert": lambda hello: plain_record(ALERT, b"\2\x28"),
    "changes of the cipher": lambda hello: plain_record(CCS, b"\1") * 1000,
    "the same ClientHello twice": lambda hello: plain_record(HANDSHAKE, hello) * 2,
    "ClientHello and data": lambda hello: (
        plain_record(HANDSHAKE, hello) + plain_record(DATA, frame(b"run me")) * 1000
    ),
    "ClientHello and changes of the cipher": lambda hello: (
        plain_record(HANDSHAKE, hello) + plain_record(CCS, b"\1") * 1000
    ),
    "ClientHello and alerts": lambda hello: (
        plain_record(HANDSHAKE, hello) + plain_record(ALERT, b"\1\x5a") * 1000
    ),
    "ClientHello and a close": lambda hello: (
        plain_record(HANDSHAKE, hello) + plain_record(ALERT, b"\1\0")
    ),
    "TLS 1.2 only": lambda hello: plain_record(
        HANDSHAKE, hello.replace(b"\x03\x04\x03\x03", b"\x03\x03\x03\x03")
    ),
    "SSL 2": lambda hello: b"\x80\x2e\x01\x00\x02" + bytes(43),
}


@pytest.mark.case("T06", "T08")
@pytest.mark.parametrize("opening", OPENINGS)
@kinds
def test_bad_opening_is_refused(
    kind: str, opening: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """T06, T08: with one line in the log, nobody is held up."""
    with attacked(kind, certs, handshake_timeout=PATIENCE) as target:
        with target.raw() as sock:
            pour(sock, OPENINGS[opening](client_hello(certs)))
            with target.client() as good:
                assert good.request(b"meanwhile") == b"meanwhile"
            assert b"run me" not in rest_of(sock)
        alone(target)
        assert target.handler.seen == [b"before", b"meanwhile"]
    check_log(caplog, "127.0.0.1:")


@pytest.mark.case("T06")
@kinds
def test_client_hello_in_records_of_a_byte(kind: str, certs: Certificates) -> None:
    """T06: odd, but TLS; it is served like any other."""
    with attacked(kind, certs) as target, target.raw() as sock:
        shaker = Shaker(certs.client_context())
        for byte in shaker.step()[5:]:
            sock.sendall(plain_record(HANDSHAKE, bytes([byte]), 0x0301))
        shaker.finish(sock)
        until(lambda: target.server.stats["connections"] == 2)


@pytest.mark.case("T06")
@kinds
@pytest.mark.parametrize("flight", [1, 2])
@pytest.mark.parametrize("end_with", [socket.socket.close, reset])
def test_peer_that_ends_inside_its_handshake(
    kind: str,
    flight: int,
    end_with: Callable[[socket.socket], None],
    certs: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """T06: at many bytes of what it says first, and of what it says last."""
    with attacked(kind, certs) as target:
        for tenth in range(11):
            with target.raw() as sock:
                shaker = Shaker(certs.client_context())
                said = shaker.step()
                if flight == 2:
                    sock.sendall(said)
                    while not shaker.done:
                        said = shaker.step(sock.recv(65536))
                sock.sendall(said[: (len(said) - 1) * tenth // 10])
                end_with(sock)
        alone(target)
        assert target.handler.seen == [b"before"]
    check_log(caplog, *["127.0.0.1:"] * len(warnings_in(caplog)))


# ------------------------------------------------------------ records of its own


def forged(end: RecordEnd) -> bytes:
    record = end.writer.record(DATA, frame(b"run me"))
    return record[:-1] + bytes([record[-1] ^ 1])


RECORDS: dict[str, Callable[[RecordEnd], bytes]] = {
    "a wrong MAC": forged,
    "a plain record": lambda end: plain_record(DATA, frame(b"run me")),
    "a plain alert": lambda end: plain_record(ALERT, b"\2\0"),
    "one twice": lambda end: end.writer.record(DATA, b"") * 2,
    "one left out": lambda end: (
        end.writer.record(DATA, b"")[:0] + end.writer.record(DATA, b"")
    ),
    "too much in one": lambda end: end.writer.record(DATA, bytes(16385)),
    "one too long": lambda end: b"\x17\x03\x03\x41\x01" + bytes(0x4101),
    "nothing in one": lambda end: end.writer.record(0, b"", 5),
    "of no kind": lambda end: end.writer.record(99, b"x"),
    "a change of the cipher": lambda end: end.writer.record(CCS, b"\1"),
    "many empty ones": lambda end: b"".join(
        end.writer.record(DATA, b"", pad) for pad in range(100)
    ),
    "many alerts": lambda end: b"".join(
        end.writer.record(ALERT, b"\1\x5a") for _ in range(100)
    ),
    "an alert": lambda end: end.writer.record(ALERT, b"\2\x50"),
    "half an alert": lambda end: end.writer.record(ALERT, b"\2"),
    "a ClientHello": lambda end: end.writer.record(HANDSHAKE, b"\1\0\0\x26" + bytes(38)),
    "a ticket": lambda end: end.writer.record(HANDSHAKE, b"\4\0\0\x0e" + bytes(14)),
    "a Finished": lambda end: end.writer.record(HANDSHAKE, b"\x14\0\0\x20" + bytes(32)),
    "a certificate": lambda end: end.writer.record(HANDSHAKE, b"\x0b\0\0\x04" + bytes(4)),
    "a message of 16 MiB": lambda end: b"".join(
        end.writer.record(HANDSHAKE, b"\x18\xff\xff\xff") for _ in range(20)
    ),
    "two key updates": lambda end: end.writer.record(HANDSHAKE, KEY_UPDATE * 2),
    "a key update of no kind": lambda end: end.writer.record(HANDSHAKE, b"\x18\0\0\1\7"),
    "a key update by the old key": lambda end: end.writer.record(HANDSHAKE, KEY_UPDATE) * 2,
}


@contextlib.contextmanager
def recording(target: Target, proved: bool) -> Iterator[RecordEnd]:
    """A peer that writes its own records, before or after it has proved its key."""
    end = target.recorder()
    with end.sock:
        if proved and target.secret:
            prove(end, Prover(KEY, "", target.binding))
        yield end


STAGES = pytest.mark.parametrize(
    ("kind", "proved"), [("tls", True), ("tls+authkey", True), ("tls+authkey", False)]
)


@pytest.mark.case("T26")
@pytest.mark.parametrize("bad", RECORDS)
@STAGES
def test_bad_record_ends_its_connection(
    kind: str, proved: bool, bad: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """T26: with one line in the log, and no data out of it or behind it."""
    with attacked(kind, certs, handshake_timeout=SOON) as target:
        with recording(target, proved) as end:
            pour(end.sock, RECORDS[bad](end))
            with contextlib.suppress(ConnectionError):
                end.sendall(frame(b"run me"))
            rest_of(end)
        alone(target)
        assert target.handler.seen == [b"before"]
        assert target.server.stats["overdue"] == 0
    check_log(caplog, "127.0.0.1:")


@pytest.mark.case("C06")
@STAGES
@pytest.mark.parametrize("size", [1, 7, 16384])
def test_odd_records_are_data_like_any(
    kind: str, proved: bool, size: int, certs: Certificates
) -> None:
    """Tiny, padded, with empty ones and new keys between: nothing is lost or moved."""
    data = pattern(3000 if size < 100 else 300_000)
    with attacked(kind, certs) as target, recording(target, proved) as end:
        stream = frame(data)
        parts = [stream[i : i + size] for i in range(0, len(stream), size)]
        if not proved:
            side = Prover(KEY, "", target.binding)
            first = side.begin()
            parts = [first[i : i + 1] for i in range(len(first))]
        sent = b""
        for i, part in enumerate(parts):
            sent += end.writer.record(DATA, part, 5 * (i % 3))
            if i % 5 == 0:
                sent += end.writer.record(DATA, b"") + end.writer.key_update()
            if i % 50 == 0:
                sent += end.writer.key_update(KEY_UPDATE_PLEASE)
        with background(end.sock.sendall, sent):
            if proved:
                assert take(end, 4 + len(data)) == stream
            else:
                assert take(end, 43)[8] == 2


# ------------------------------------------------------------ floods of records


def key_updates(end: RecordEnd, count: int, kind: bytes = KEY_UPDATE) -> bytes:
    return b"".join(end.writer.key_update(kind) for _ in range(count))


@STAGES
def test_records_without_data_hold_up_nobody(
    kind: str, proved: bool, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the server's other clients, nor, for long, the server."""
    options = {"handshake_timeout": None, "workers": 0}
    with attacked(kind, certs, **options) as target:
        with recording(target, proved) as end:
            flood = key_updates(end, 20_000)
            with background(pour, end.sock, flood), target.client() as good:
                assert good.request(b"meanwhile") == b"meanwhile"
            rest_of(end)
        alone(target)
    check_log(caplog, "records without end, and nothing in them")


def test_few_records_without_data_do_no_harm(certs: Certificates) -> None:
    """Also where what they are before has come with them."""
    with attacked("tls+authkey", certs) as target, target.recorder() as end:
        side = Prover(KEY, "", target.binding)
        for data in (side.begin(), None, frame(b"last")):
            data = data or answer(side, take(end, 43))
            end.sock.sendall(key_updates(end, 900) + end.writer.record(DATA, data))
        answer(side, take(end, 43))
        assert take(end, 8) == frame(b"last")


@pytest.mark.case("L12")
@unlike_wine  # where what was accepted has other buffers than the listener
@kinds
def test_answers_to_key_updates_do_not_pile_up(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """L12: for a peer that does not read; with a little data in between."""
    with attacked(kind, certs, minimum_rate=None) as target:
        listener = target.server._listeners[0].sock
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with recording(target, True) as end:
            sent = end.writer.record(DATA, b"\0\1\0\0")
            for _ in range(40):
                sent += key_updates(end, 400, KEY_UPDATE_PLEASE) + end.writer.record(
                    DATA, b"x"
                )
            pour(end.sock, sent)
            until(lambda: warnings_in(caplog))
            rest_of(end.sock)
        alone(target)
    check_log(caplog, "does not read the answers")


def ticket(size: int) -> bytes:
    body = struct.pack(">II", 60, 7) + b"\0" + struct.pack(">H", size) + bytes(size) + b"\0\0"
    return b"\4" + len(body).to_bytes(3, "big") + body


@pytest.mark.parametrize("authkey", [None, KEY], ids=["tls", "tls+authkey"])
def test_tickets_without_end_do_not_stop_a_clients_clock(
    authkey: bytes | None, certs: Certificates
) -> None:
    """A hostile server's: thousands of them in a record, which take long to be read."""
    batch = ticket(1) * (16_000 // len(ticket(1)))
    context = certs.server_context()

    def flood(sock: socket.socket) -> None:
        end = RecordEnd(sock, context, server=True)
        while True:
            sock.sendall(end.writer.record(HANDSHAKE, batch))

    wanted = {"tls": certs.client_context(), "server_hostname": "localhost"}
    with (
        villain(flood) as where,
        pytest.raises((ssl.SSLError, TimeoutError, pysock.AuthenticationError)),
        pysock.Client(
            where, timeout=PATIENCE, connect_timeout=SOON, authkey=authkey, **wanted
        ) as client,
    ):
        client.recv()


# ------------------------------------------------------------ who stands in the middle


@contextlib.contextmanager
def in_the_middle(target: Target, shown: ssl.SSLContext | None) -> Iterator[Any]:
    """Somebody who does TLS with both ends, as far as they want it, and hands all on."""

    def relay(near: Any) -> None:
        if shown is not None:
            near = shown.wrap_socket(near, server_side=True, suppress_ragged_eofs=False)
        with near, target.secured() as far:
            ways = {near: far, far: near}
            while True:
                for source in select.select(list(ways), [], [], LONG)[0]:
                    part = source.recv(65536)
                    if not part:
                        return
                    ways[source].sendall(part)

    with villain(relay) as where:
        yield where


@pytest.mark.case("T19")
@pytest.mark.parametrize(
    ("kind", "shown"), [("authkey", True), ("tls+authkey", True), ("tls+authkey", False)]
)
def test_proof_handed_on_from_other_tls_is_refused(
    kind: str, shown: bool, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """T19: although the client trusts the CA of whoever is in the middle.

    Also where TLS is on one side of him only.
    """
    other = certs.issue("localhost") if shown else None
    with attacked(kind, certs) as target:
        context = pysock.tls.server_context(*other) if other else None
        wanted: dict[str, Any] = {"tls": None, "server_hostname": None}
        if shown:
            wanted = {"tls": certs.client_context(), "server_hostname": "localhost"}
        with (
            in_the_middle(target, context) as where,
            pytest.raises(pysock.AuthenticationError, match="refused the key"),
        ):
            target.client(address=where, **wanted)
        alone(target)
        assert target.handler.seen == [b"before"]
    check_log(caplog, "another key or another certificate")


@pytest.mark.case("T19")
def test_who_is_in_the_middle_is_refused_by_a_pin(certs: Certificates) -> None:
    """T19: before a byte that was made of the key."""
    pin = certs.server.pin
    other = pysock.tls.server_context(*certs.issue("localhost"))
    with attacked("tls+authkey", certs) as target:
        with (
            in_the_middle(target, other) as where,
            pytest.raises(ssl.SSLCertVerificationError, match="pin"),
        ):
            target.client(address=where, tls=pysock.tls.client_context(certs.ca, pin))
        alone(target)


# ------------------------------------------------------------ flipped bits


def flip(way: int, at: int) -> Callable[[int, int, bytes], bytes]:
    """Flip a bit of the byte with number *at* that goes one way."""

    def change(this_way: int, begin: int, data: bytes) -> bytes:
        if this_way != way or not begin <= at < begin + len(data):
            return data
        changed = bytearray(data)
        changed[at - begin] ^= 1 << at % 8
        return bytes(changed)

    return change


ERRORS = (OSError, pysock.AuthenticationError, pysock.ConnectionClosed)
ASKED = pattern(3000)


def ask(target: Target, where: Any) -> bytes | None:
    """What a good client gets for ASKED; None: an error."""
    try:
        with target.client(
            address=where, timeout=PATIENCE, connect_timeout=PATIENCE, linger=0.1
        ) as client:
            return client.request(ASKED)
    except ERRORS:
        return None


def check_flips(kind: str, certs: Certificates, share: Callable[[int], range]) -> None:
    with attacked(kind, certs, handshake_timeout=PATIENCE) as target:
        with relayed(target) as (where, seen):
            assert ask(target, where) == ASKED
        del target.handler.seen[1:]
        passed = []
        for way in (0, 1):
            for at in share(len(seen[way]) - 40):  # which the end of TLS is behind
                with relayed(target, flip(way, at)) as (where, _):
                    got = ask(target, where)
                assert got in (None, ASKED), (way, at)
                if got is not None:
                    passed.append((way, at))
        assert set(target.handler.seen[1:]) <= {ASKED}
        # The version in the head of a record that is not encrypted means nothing.
        assert len(passed) <= 8, passed
        alone(target)


@pytest.mark.case("T26")
@kinds
def test_flipped_bit_is_an_error_and_never_wrong_data(kind: str, certs: Certificates) -> None:
    """T26: each way, at some bytes of a whole session."""
    check_flips(kind, certs, lambda size: range(3, size, size // 23))


@pytest.mark.case("T26")
@pytest.mark.slow
@pytest.mark.parametrize("first", range(5))
@kinds
def test_flipped_bit_anywhere(kind: str, first: int, certs: Certificates) -> None:
    """T26: at every byte."""
    check_flips(kind, certs, lambda size: range(first, size, 5))


# ------------------------------------------------------------ TLS 1.2


@pytest.mark.case("C05", "T31")
def test_renegotiation_is_refused(certs: Certificates) -> None:
    """C05, T31: where TLS 1.2 is allowed at all."""
    openssl = require_peer("openssl")
    context = pysock.tls.server_context(*certs.server, minimum="1.2")
    with attacked("tls", certs, tls=context) as target:
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{target.where[1]}", "-tls1_2"]
        done = subprocess.run(
            command, input=b"R\n", capture_output=True, timeout=2 * LONG, check=False
        )
        assert b"RENEGOTIATING" in done.stderr
        assert b"no renegotiation" in done.stderr
        alone(target)
