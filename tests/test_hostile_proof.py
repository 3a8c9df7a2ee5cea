"""Peers that attack the proof of a key, against live servers over TCP and TLS."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import select
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import certificates
import pysock
import pysock.handshake
from certificates import Certificates
from conftest import unix
from gate import Echo, frame, reset, warnings_in
from hostile import (
    FAIL,
    KINDS,
    SECRET_KINDS,
    Target,
    alone,
    attacked,
    check_log,
    measured,
    pour,
    prove,
    relayed,
    rest_of,
    take,
    villain,
)
from peers import Task, until
from proofs import CHALLENGE, HELLO, KEY, OTHER_KEY, PROOF, READY, answer, hello, message
from pysock.auth import Prover, Verifier

certs = certificates.certs
kinds = pytest.mark.parametrize("kind", SECRET_KINDS)

RUN_ME = frame(b"run me")
WRONG = message(PROOF, bytes(32))

# ------------------------------------------------------------ every message in every state


def nothing_said(target: Target) -> Any:
    return target.secured()


def challenged(target: Target) -> Any:
    sock = target.secured()
    sock.sendall(hello(b""))
    take(sock, 43)
    return sock


def refused(target: Target) -> Any:
    """A wrong proof is in, and its refusal is on the way."""
    sock = challenged(target)
    sock.sendall(WRONG)
    return sock


def ready(target: Target) -> Any:
    return target.ready()


STATES: dict[Callable[[Target], Any], bytes] = {  # with what still comes in each
    nothing_said: b"",
    challenged: b"",
    refused: FAIL,
    ready: b"",
}
SIZES = {0: 0, 1: 33, 2: 32, 3: 32, 4: 32, 5: 0, 6: 0, 255: 0}
MESSAGES = [
    *(message(kind, bytes(size)) for kind, size in SIZES.items()),
    *(message(kind, b"", size) for kind in range(1, 6) for size in (0, 31, 1024, 65535)),
    *(message(kind, bytes(1025)) for kind in range(1, 6)),
    hello(b"\0"),
    hello(b"\xff"),
    message(HELLO, b"\x09" + bytes(32)),
    hello(b"").replace(b"\1", b"\2", 1),
    hello(b"")[:3] + hello(b""),
    b"\xff" * 11,
]
FRAMES = [hello(b"")[1:], RUN_ME, frame(b""), frame(hello(b"")), bytes(11)]


@pytest.mark.case("T20", "T21", "T22", "T23")
@kinds
@pytest.mark.parametrize("state", STATES)
def test_nothing_but_the_next_message_gets_anywhere(
    kind: str, state: Callable[[Target], Any], certs: Certificates
) -> None:
    """T20, T21, T22, T23: each message and each frame, in each state."""
    with attacked(kind, certs) as target, contextlib.ExitStack() as stack:
        tried = []
        for data in MESSAGES + FRAMES * (state is not ready):
            sock = stack.enter_context(state(target))
            pour(sock, data + RUN_ME)
            tried.append((data, sock))
        for data, sock in tried:
            came, expected = rest_of(sock), STATES[state]
            if (state, data) == (nothing_said, hello(b"")):
                came, expected = came[:9], message(CHALLENGE)[:9]
            elif (state, data) == (challenged, WRONG):
                expected = FAIL
            assert came == expected, data
        alone(target)
        assert target.handler.seen == [b"before"]
        stats = target.server.stats
        if state is not ready:
            assert stats["handshake_failures"] == len(tried)
            assert stats["messages_in"] == 1


# ------------------------------------------------------------ what was seen on the way


@pytest.mark.case("T17")
@kinds
def test_recorded_session_is_of_no_use(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """T17: all that a good client ever said, said again, whole and step by step."""
    with attacked(kind, certs) as target:
        with relayed(target) as (where, seen), target.client(address=where) as good:
            assert good.request(b"pay 100") == b"pay 100"
            good.close()
        replay = bytes(seen[0])
        assert kind == "tls+authkey" or replay.count(b"pay 100") == 1
        first = 5 + int.from_bytes(replay[3:5])  # of TLS: the first record
        for cut in {len(replay), *((44, 87) if kind == "authkey" else (first, first + 60))}:
            with target.raw() as sock:
                sock.sendall(replay[:cut])
                take(sock, 43)  # an answer comes to the first message of either kind
                pour(sock, replay[cut:])
                last = rest_of(sock)
            assert last == FAIL or target.encrypted
        alone(target)
        assert target.handler.seen.count(b"pay 100") == 1
    part = "the proof of user '' is wrong" if kind == "authkey" else "TLS"
    check_log(caplog, *[part] * len(warnings_in(caplog)))


@pytest.mark.case("T17", "T18")
@kinds
def test_proof_for_one_server_is_none_for_another(kind: str, certs: Certificates) -> None:
    """T17, T18: with the same key, user and client's nonce; the server's nonce decides."""
    with attacked(kind, certs) as one, attacked(kind, certs, tls=one.tls) as other:
        side = Prover(KEY, "", one.binding)
        with one.secured() as sock, other.secured() as elsewhere:
            first = side.begin()
            sock.sendall(first)
            elsewhere.sendall(first)
            take(elsewhere, 43)
            side.feed(take(sock, 11))
            proof = side.feed(take(sock, 32))
            elsewhere.sendall(proof)
            assert rest_of(elsewhere) == FAIL
            sock.sendall(proof)
            assert take(sock, 9)[8] == READY


# ------------------------------------------------------------ reflection


@pytest.mark.case("T18")
@kinds
def test_server_does_not_prove_for_its_peer(kind: str, certs: Certificates) -> None:
    """T18: what one live server says, said to another with its key, or to itself."""
    with attacked(kind, certs) as one, attacked(kind, certs, tls=one.tls) as other:
        for victim in (one, other):
            with one.secured() as oracle, victim.secured() as sock:
                sock.sendall(hello(b""))
                challenge = take(sock, 43)
                oracle.sendall(hello(b"", challenge[11:]))  # its nonce for ours
                echoed = take(oracle, 43)
                for guess in (challenge[11:], echoed[11:]):
                    with victim.secured() as again:
                        again.sendall(hello(b"", guess))
                        take(again, 43)
                        again.sendall(message(PROOF, guess))
                        assert rest_of(again) == FAIL
                sock.sendall(message(PROOF, echoed[11:]))
                assert rest_of(sock) == FAIL
            assert victim.handler.seen == [b"before"]


def reflect(sock: socket.socket) -> None:
    """Say to a client what it says itself."""
    first = take(sock, 44)
    sock.sendall(message(CHALLENGE, first[-32:]))
    proof = take(sock, 43)
    sock.sendall(message(READY, proof[11:]))
    rest_of(sock)


@pytest.mark.case("T18")
def test_client_does_not_take_its_own_proof_for_the_servers() -> None:
    """T18: the role is in each HMAC."""
    with (
        villain(reflect) as where,
        pytest.raises(pysock.AuthenticationError, match="does not know the key"),
    ):
        pysock.Client(where, authkey=KEY)


# ------------------------------------------------------------ what a guesser learns


def test_refusal_needs_no_other_event(certs: Certificates) -> None:
    """It comes when its delay is over, not when something else happens."""
    quiet = {"idle_timeout": None, "send_timeout": None, "minimum_rate": None}
    options = {"handshake_timeout": None, "authkey": KEY, **quiet}
    target = Target("authkey", certs, **options)
    with target.server.start(), challenged(target) as sock:
        sock.sendall(WRONG)
        assert rest_of(sock) == FAIL


@pytest.mark.case("T25")
@kinds
def test_unknown_user_and_wrong_key_look_the_same(
    kind: str,
    certs: Certificates,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T25: the same bytes, none of them before the delay is over, and the same line."""
    monkeypatch.setattr(pysock.handshake, "_DELAY", 3600.0)
    keys = {"": KEY, "alice": KEY}
    with (
        attacked(kind, certs, authkey=keys, handshake_timeout=None) as target,
        contextlib.ExitStack() as stack,
    ):
        handshakes = target.server._handshakes
        socks = []
        for user, key in (("alice", OTHER_KEY), ("mallory", KEY), ("mallory", OTHER_KEY)):
            sock = stack.enter_context(target.secured())
            side = Prover(key, user, target.binding)
            sock.sendall(side.begin())
            sock.sendall(answer(side, take(sock, 43)))
            socks.append(sock)
        until(lambda: [s.resumes_at > 0 for s in handshakes._under_way.values()] == [True] * 3)
        with target.client() as good:
            assert good.request(b"meanwhile") == b"meanwhile"
        assert select.select(socks, [], [], 0)[0] == []
        assert warnings_in(caplog) == []
        for state in handshakes._under_way.values():
            state.resumes_at = 1e-9
        target.server._loop._crew.call_server()
        assert [rest_of(sock) for sock in socks] == [FAIL] * 3
        alone(target)
    lines = check_log(caplog, "user 'alice'", *["user 'mallory'"] * 2)
    assert len({line.split(": ", 1)[1].replace("alice", "mallory") for line in lines}) == 1
    assert len({record.levelno for record in caplog.records if "proof" in record.msg}) <= 1


@pytest.mark.case("L04")
@kinds
def test_flood_of_failed_proofs(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """L04: from where no penalty holds, this very machine."""
    with attacked(kind, certs) as target:
        over = threading.Event()

        def guess() -> int:
            count = 0
            while not over.is_set():
                with target.secured() as sock:
                    side = Prover(OTHER_KEY, "", target.binding)
                    with pytest.raises((pysock.AuthenticationError, AssertionError)):
                        prove(sock, side)
                    count += 1
            return count

        tasks = [Task(guess) for _ in range(8)]
        try:
            for i in range(20):
                with target.client() as good:
                    assert good.request(b"%d" % i) == b"%d" % i
            until(lambda: target.server.stats["handshake_failures"] >= 8)
        finally:
            over.set()
        counts = [task.finish() for task in tasks]
        alone(target)
        assert target.server.stats["handshake_failures"] == sum(counts)
        assert len(target.handler.seen) == 21
    check_log(caplog, *["the proof of user '' is wrong"] * len(warnings_in(caplog)))


# ------------------------------------------------------------ what comes too early


@kinds
@pytest.mark.parametrize("handler", [None, Echo], ids=["handler", "session"])
@pytest.mark.parametrize("end", [False, True])
def test_frames_right_behind_the_proof_are_served(
    kind: str, handler: Any, end: bool, certs: Certificates
) -> None:
    """In one segment, one record: nothing is lost, and nothing served before READY."""
    with attacked(kind, certs, handler=handler) as target, target.secured() as sock:
        side = Prover(KEY, "", target.binding)
        sock.sendall(side.begin())
        proof = answer(side, take(sock, 43))
        sock.sendall(proof + frame(b"one") + frame(b"") + frame(b"x" * 70_000))
        if end and not target.encrypted:
            sock.shutdown(socket.SHUT_WR)
        answer(side, take(sock, 43))
        assert side.done
        for message in (b"one", b"", b"x" * 70_000):
            assert take(sock, 4 + len(message)) == frame(message)


@kinds
@pytest.mark.parametrize("workers", [0, 1, None])
def test_frames_behind_a_wrong_proof_are_never_served(
    kind: str, workers: int | None, certs: Certificates
) -> None:
    """CVE-2018-10933: nor what comes while the refusal is on its way."""
    with attacked(kind, certs, workers=workers) as target, challenged(target) as sock:
        sock.sendall(WRONG + RUN_ME * 1000)
        pour(sock, RUN_ME * 10_000)
        assert rest_of(sock) in (FAIL, b"")  # a reset may overtake it
        alone(target)
        assert target.handler.seen == [b"before"]


@pytest.mark.case("D09", "S11")
@unix
@pytest.mark.parametrize("kind", KINDS[1:])
def test_no_peer_can_have_the_process_killed(kind: str, certs: Certificates) -> None:
    """D09, S11: where SIGPIPE is as the system has it, and an answer finds nobody."""
    with measured(kind, certs) as target:
        for first in (hello(b""), b"GET / HTTP/1.1\r\n\r\n"):
            for _ in range(20):
                with target.raw(first) as sock:
                    sock.shutdown(socket.SHUT_WR)
                    reset(sock)
            with target.client() as good:
                assert good.request(b"meanwhile") == b"MEANWHILE"
        for _ in range(20 if target.secret else 0):
            with target.secured() as sock:
                sock.sendall(hello(b""))
                take(sock, 43)
                sock.sendall(WRONG)
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_WR)
                reset(sock)


@pytest.mark.case("L19")
def test_unexpected_error_ends_one_handshake_only(
    certs: Certificates, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L19, for what comes before the handler."""

    def fail(*_: object) -> bytes:
        raise ZeroDivisionError

    target = Target("authkey", certs)
    with target.server.start():
        with monkeypatch.context() as patch:
            patch.setattr(Verifier, "feed", fail)
            with target.raw(hello(b"")) as sock:
                assert rest_of(sock) == b""
        with target.client() as good:
            assert good.request(b"after") == b"after"
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage().startswith("handshake failed for 127.0.0.1:")


# ------------------------------------------------------------ secrets


def forms(secret: bytes) -> list[str]:
    """How *secret*, or half of it, could be spelt in a text."""
    part = secret[:16]
    return [
        part.hex(),
        part.hex().upper(),
        part.hex(":"),
        repr(part)[2:-1],
        repr(list(part))[1:-1],
        base64.b64encode(part)[:20].decode(),
        str(int.from_bytes(secret, "big")),
    ]


@pytest.mark.case("T29")
@kinds
def test_no_log_and_no_error_has_a_secret(
    kind: str, certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """T29: keys and HMACs, at DEBUG, of all that goes well or wrong."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    key, other = os.urandom(32), os.urandom(32)
    with attacked(kind, certs, authkey={"": KEY, "alice": (key, other)}) as target:
        texts += [repr(target.server), repr(target.server._handshakes)]
        macs = []
        for user, mine in (("alice", key), ("alice", KEY), ("mallory", key), ("", other)):
            with contextlib.suppress(pysock.AuthenticationError), target.secured() as sock:
                side = Prover(mine, user, target.binding)
                texts.append(repr(side))
                sock.sendall(side.begin())
                proof = answer(side, take(sock, 43))
                macs.append(proof[11:])
                sock.sendall(proof[:20] if user == "" else proof)
                if (user, mine) == ("alice", key):
                    macs.append(take(sock, 43)[11:])
                elif user:
                    assert rest_of(sock) == FAIL
        for wrong in (key[:31], key.hex(), bytearray(key), [key] * 9, None):
            with pytest.raises((TypeError, ValueError)) as caught:
                Target(kind, certs, authkey={"alice": wrong})
            texts += traceback.format_exception(caught.value)
        for mine in (other[:31], other.hex()):
            with pytest.raises((TypeError, ValueError)) as caught:
                target.client(authkey=mine)
            texts += traceback.format_exception(caught.value)
        with pytest.raises(pysock.AuthenticationError) as refused:
            target.client(authkey=key)
        texts += traceback.format_exception(refused.value)
        with target.client(authkey=key, user="alice") as good:
            texts += [repr(good), repr(vars(target.server)["_options"])]
        alone(target)
    texts += [caplog.text, *(repr(record.__dict__) for record in caplog.records)]
    said = "\n".join(texts)
    for secret in (KEY, key, other, *macs):
        for form in forms(secret):
            assert form not in said
