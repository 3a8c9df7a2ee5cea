"""What docs/security.md says of limits, handlers and TLS is so."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import ssl
from typing import Any

import pytest

import certificates
import pysock
from conftest import TIME_FACTOR
from pages import Page
from peers import LONG, background, until
from proofs import KEY
from pysock import auth, credentials, handshake, penalties, server, tls

PAGE = Page("docs/security.md")

certs = certificates.certs


LIMITS = dict(
    re.findall(
        r"^\| (.*?) \| (.*) \|$", PAGE.section("Before a connection is ready"), re.MULTILINE
    )
)


def numbers(row: str) -> list[float]:
    """The numbers in the row of the table that begins with *row*."""
    (text,) = (f"{name} {what}" for name, what in LIMITS.items() if name.startswith(row))
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,.]*\b", text)]


def test_limits_are_those_of_the_code():
    assert numbers("all of it") == [server.LIMITS.handshake_timeout]
    patience = [handshake._SILENCE, handshake._PATIENCE, handshake._LONG_PATIENCE]
    patience = [seconds / TIME_FACTOR for seconds in patience]
    assert numbers("connections that are") == pytest.approx([handshake._MOST, *patience])
    assert numbers("of them from one address") == [handshake._MOST_OF_ONE]
    assert numbers("a wrong key") == [handshake._DELAY, penalties._FAILURE]
    assert numbers("an address that") == [penalties._REFUSED_FROM, penalties._LONGEST]
    most = auth._HEADER + max(auth._SIZES[auth._HELLO]) + auth._HEADER + auth._MAC
    assert numbers("what is read") == [1024] and most < 1024
    assert auth._MOST_KEYS == 8 and "up to eight keys" in PAGE.text
    assert penalties.source_of(("2001:db8::1", 1)) == penalties.source_of(("2001:db8::2", 1))
    assert penalties.source_of(("127.0.0.1", 1)) is None


@pytest.mark.case("L04")
def test_fourth_wrong_key_locks_an_address_out():
    known = penalties.Penalties()
    for number in range(4):
        assert known.left("192.0.2.7", number / 2) == 0
        known.add("192.0.2.7", number / 2)
    assert 17 < known.left("192.0.2.7", 1.5) < 20
    assert "the fourth wrong key in a row" in PAGE.text and "about 20 s" in PAGE.text


def test_handlers_can_ask_what_the_page_says(certs):
    asked = re.findall(r"^\| `(\w+)` \|", PAGE.section("What a handler can ask"), re.MULTILINE)
    assert asked == ["user", "tls", "peer_credentials", "client_address"]
    assert [*credentials.Credentials._fields] == ["pid", "uid", "gid"]

    def tell(message: bytes, connection: Any) -> bytes:
        return repr([getattr(connection, name) is None for name in asked]).encode()

    for options, known in (
        ({}, [True, True, True, False]),
        ({"authkey": KEY}, [False, True, True, False]),
        ({"tls": certs.server_context()}, [True, False, True, False]),
    ):
        mine = {**options, **({"tls": certs.client_context()} if "tls" in options else {})}
        with (
            pysock.Server("127.0.0.1:0", tell, **options).start() as server,
            pysock.Client(server.address, timeout=LONG, **mine) as client,
        ):
            assert client.request(b"") == repr(known).encode()


def test_tls_has_no_half_close(certs):
    with (
        pysock.Server("127.0.0.1:0", bytes, tls=certs.server_context()).start() as server,
        pysock.Client(server.address, tls=certs.client_context(), timeout=LONG) as client,
    ):
        with pytest.raises(io.UnsupportedOperation, match="TLS has no end of one direction"):
            client.shutdown(socket.SHUT_WR)
        assert client.request(b"x") == b"x"


@pytest.mark.case("T04")
@pytest.mark.parametrize("cut", [True, False])
def test_cut_is_no_end(certs, cut):
    """With a farewell the loop of the page ends, without one it raises."""

    def serve_once() -> None:
        with listener.accept()[0] as sock:
            sock.settimeout(LONG)
            far = context.wrap_socket(sock, server_side=True)
            with far:
                far.sendall(pysock.LengthField().encode(b"one"))
                if not cut:
                    far.unwrap()

    context = certs.server_context()
    with socket.create_server(("127.0.0.1", 0)) as listener, background(serve_once):
        address = f"tls://localhost:{listener.getsockname()[1]}"
        came = []
        with (
            pysock.Client(address, tls=certs.client_context(), timeout=LONG) as client,
            pytest.raises(pysock.IncompleteFrame)
            if cut
            else contextlib.nullcontext() as caught,
        ):
            for message in client:
                came.append(message)
        assert came == [b"one"]
        assert not cut or caught.value.received == 0
        assert issubclass(pysock.IncompleteFrame, pysock.ConnectionClosed)


def test_proof_wants_one_certificate(certs):
    """A client that is shown another one than the proof is bound to is refused."""
    context = certs.server_context(minimum="1.2")
    rsa = certs.self_signed("rsa")
    context.load_cert_chain(*rsa)
    pins = [certs.server.pin, rsa.pin]
    fits = []
    with pysock.Server("127.0.0.1:0", bytes, tls=context, authkey=KEY).start() as server:
        for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"):
            client = tls.client_context(pin=pins, minimum="1.2")
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            client.set_ciphers(cipher)
            with contextlib.suppress(pysock.AuthenticationError):
                pysock.Client(server.address, tls=client, authkey=KEY).close()
                fits.append(cipher)
    assert len(fits) == 1


@pytest.mark.parametrize("wrong", ["certificate", "key"])
def test_refusal_is_final_also_with_reconnect(certs, wrong):
    options: dict[str, Any] = {"tls": certs.client_context(), "authkey": KEY}
    if wrong == "key":
        options["authkey"] = bytes(32)
    else:
        options["tls"] = tls.client_context(pin="0" * 64)
    with pysock.Server(
        "127.0.0.1:0", bytes, tls=certs.server_context(), authkey=KEY
    ).start() as server:
        with pytest.raises((ssl.SSLCertVerificationError, pysock.AuthenticationError)):
            pysock.Client(server.address, reconnect=True, connect_timeout=None, **options)
        until(lambda: server.stats["connections"] == 0)
        assert server.stats["accepted"] == 1
