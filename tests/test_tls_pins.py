"""Pins, before which nothing passes; and the certificate that a context has itself."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import certificates
from certificates import Certificates, Files, await_bytes, check_talk, wrap
from peers import LONG, background
from pysock import tls

certs = certificates.certs
shake = certificates.shake

OTHER_PIN = "0" * 64


# ---------------------------------------------------------------- pins


def pinned(files: Files) -> ssl.SSLContext:
    return tls.client_context(pin=files.pin)


@pytest.mark.case("T07")
def test_pin_is_all_that_counts_without_ca(certs, shake):
    """T07: neither who signed the certificate nor its names and dates matter."""
    for files in (certs.self_signed(), certs.wrong_name, certs.expired, certs.of_other_ca):
        for name in ("localhost", None):
            check_talk(*shake(pinned(files), tls.server_context(*files), name))


@pytest.mark.case("T07")
def test_wrong_pin_is_refused(certs, shake):
    """T07"""
    client = tls.client_context(pin=OTHER_PIN)
    refusal, _ = shake(client, certs.server_context(), None)
    assert isinstance(refusal, ssl.SSLCertVerificationError)
    told = tls.explain(refusal, False)
    for text in (str(refusal), told):
        assert f"pin is {certs.server.pin}, expected {OTHER_PIN}" in text
    assert told.endswith("if it was renewed pass its new pin, else it is not the right server")


def test_one_pin_of_several_must_match(certs, shake):
    pin = certs.server.pin
    for pins in ([pin, OTHER_PIN], (OTHER_PIN, pin), {pin}, iter([OTHER_PIN, pin])):
        check_talk(*shake(tls.client_context(pin=pins), certs.server_context(), None))
    refusal, _ = shake(tls.client_context(pin=["1" * 64, OTHER_PIN]), certs.server_context())
    assert f"expected {'1' * 64} or {OTHER_PIN}" in str(refusal)


def test_pin_as_other_programs_print_it(certs, shake):
    pin = certs.server.pin.upper()
    pin = ":".join(pin[at : at + 2] for at in range(0, 64, 2))
    check_talk(*shake(tls.client_context(pin=pin), certs.server_context(), None))


@pytest.mark.parametrize(
    "pin",
    ["", "0" * 63, "0" * 65, "g" * 64, "0" * 63 + " ", f"{OTHER_PIN}\n", [], [OTHER_PIN, ""]]
    + [b"0" * 64, bytes(32), [bytes(32)], [1], "sha256:" + "0" * 58],
)
def test_malformed_pin(pin):
    with pytest.raises(ValueError, match=r"expected the 64 .* pysock.tls.pin_of\(\) gives"):
        tls.client_context(pin=pin)


def test_pin_is_of_a_certificate(certs):
    text = certs.server.certificate.read_text()
    assert tls.pin_of(ssl.PEM_cert_to_DER_cert(text)) == certs.server.pin
    for wrong in (b"", text.encode(), b"hello"):
        with pytest.raises(ValueError, match="expected its DER, or the path of a PEM file"):
            tls.pin_of(wrong)


def test_pin_and_ca_must_both_be_right(certs, shake):
    server, pin = certs.server_context(), certs.server.pin
    check_talk(*shake(certs.client_context(pin=pin), server))
    for client, name, seen in (
        (certs.client_context(pin=OTHER_PIN), "localhost", "the certificate's pin is"),
        (tls.client_context(certs.other_ca, pin), "localhost", "unable to get local issuer"),
        (certs.client_context(pin=pin), "192.0.2.1", "not valid for '192.0.2.1'"),
    ):
        assert seen in str(shake(client, server, name)[0])


# ---------------------------------------------------------------- what a wrong one stops

# What uses a connection, and does the handshake before if it is not done.
USES: dict[str, Callable[[Any], object]] = {
    "do_handshake": lambda end: end.do_handshake(),
    "recv": lambda end: end.recv(10),
    "recv_into": lambda end: end.recv_into(bytearray(10)),
    "read": lambda end: end.read(10),
    "read_into": lambda end: end.read(10, bytearray(10)),
    "send": lambda end: end.send(b"secret"),
    "sendall": lambda end: end.sendall(b"secret"),
    "write": lambda end: end.write(b"secret"),
}
WRITES = ["send", "sendall", "write"]
IN_MEMORY = ["do_handshake", "read", "read_into", "write"]


def serve_rest(sock: socket.socket, context: ssl.SSLContext) -> bytes:
    """A server that speaks first; return what it gets until the end."""
    got = b""
    sock.settimeout(LONG)
    with (
        contextlib.suppress(ssl.SSLEOFError, ConnectionError),
        context.wrap_socket(sock, server_side=True) as end,
    ):
        end.sendall(b"welcome")
        while data := end.recv(100):
            got += data
    return got


@pytest.fixture
def served(certs: Certificates) -> Iterator[socket.socket]:
    """A socket that leads to a server of TLS, which must not get anything."""
    near, far = socket.socketpair()
    near.settimeout(LONG)
    with far, background(serve_rest, far, certs.server_context()) as task:
        with near:
            yield near
        assert task.finish() == b""


def check_dead(end: Any) -> None:
    for name, use in USES.items():
        with pytest.raises((OSError, ValueError)) as caught:
            use(end)
        assert not isinstance(caught.value, ssl.SSLWantReadError), name


@pytest.mark.parametrize("first", USES)
def test_nothing_passes_a_blocking_socket_with_a_wrong_pin(served, first):
    """Not even by a first use without do_handshake(), nor by any later one."""
    context = tls.client_context(pin=OTHER_PIN)
    with context.wrap_socket(served, do_handshake_on_connect=False) as end:
        with pytest.raises(ssl.SSLCertVerificationError):
            USES[first](end)
        check_dead(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RD)  # TLS is off then
        check_dead(end)


def test_nothing_passes_a_socket_that_is_wrapped_and_shaken_at_once(served):
    with pytest.raises(ssl.SSLCertVerificationError):
        tls.client_context(pin=OTHER_PIN).wrap_socket(served)


@pytest.mark.parametrize("first", USES)
def test_nothing_passes_a_non_blocking_socket_with_a_wrong_pin(certs, first):
    near, far = socket.socketpair()
    with (
        wrap(near, tls.client_context(pin=OTHER_PIN), False) as end,
        wrap(far, certs.server_context(), True) as server,
    ):
        with pytest.raises(ssl.SSLWantReadError):
            USES[first](end)
        await_bytes(server)
        with pytest.raises(ssl.SSLWantReadError):
            server.do_handshake()
        await_bytes(end)
        with pytest.raises(ssl.SSLCertVerificationError):
            USES[first](end)
        check_dead(end)
        server.settimeout(LONG)
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):
            server.do_handshake()
            server.recv(10)


def in_memory(
    client: ssl.SSLContext, server: ssl.SSLContext
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends, without sockets, when the client has to take its last step."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for end in ends:
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    return ends


@pytest.mark.parametrize("first", IN_MEMORY)
def test_nothing_passes_in_memory_with_a_wrong_pin(certs, first):
    client = tls.client_context(pin=OTHER_PIN)
    end, server = in_memory(client, certs.server_context())
    for name in (first, *IN_MEMORY):
        with pytest.raises(ssl.SSLCertVerificationError):
            USES[name](end)
    server.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.read(1)


@pytest.mark.parametrize("first", IN_MEMORY)
def test_right_pin_leaves_ordinary_ends_in_memory(certs, first):
    end, server = in_memory(pinned(certs.server), certs.server_context())
    with contextlib.suppress(ssl.SSLWantReadError):
        USES[first](end)
    server.do_handshake()
    assert type(end) is ssl.SSLObject
    assert server.write(b"hello") == 5
    assert end.read(10) == b"hello"


def test_right_pin_leaves_an_ordinary_socket(certs, shake):
    """So reading and writing take no longer than without a pin."""
    end, _ = shake(pinned(certs.server), certs.server_context(), None)
    assert type(end) is ssl.SSLSocket


@pytest.mark.parametrize("first", USES)
def test_right_pin_lets_the_first_use_do_the_handshake(certs, first):
    near, far = socket.socketpair()
    near.settimeout(LONG)
    with far, background(serve_rest, far, certs.server_context()) as task:
        context = pinned(certs.server)
        with context.wrap_socket(near, do_handshake_on_connect=False) as end:
            reads = USES[first](end) in (b"welcome", len(b"welcome"))
            if not reads:
                assert end.recv(10) == b"welcome"
    assert task.finish() == (b"secret" if first in WRITES else b"")


# ---------------------------------------------------------------- a server's own certificate


@pytest.mark.parametrize("kind", certificates.KEYS)
def test_own_certificate(certs, kind):
    files = certs.self_signed(kind)
    own = tls.own_certificate(tls.server_context(*files))
    assert tls.pin_of(own) == files.pin


def test_own_certificate_is_the_first_of_a_chain(certs):
    files = certs.chain
    assert files.certificate.read_text().count("BEGIN") == 2
    own = tls.own_certificate(tls.server_context(*files))
    assert ssl.DER_cert_to_PEM_cert(own) in files.certificate.read_text()
    assert tls.pin_of(own) == files.pin


def test_own_certificate_where_clients_must_have_one(certs, shake):
    context = certs.server_context(client_ca=certs.ca)
    assert tls.pin_of(tls.own_certificate(context)) == certs.server.pin
    client, refusal = shake(certs.client_context(), context)  # which is as before
    assert isinstance(client, ssl.SSLSocket)
    assert "did not return a certificate" in str(refusal)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_own_certificate_of_a_context_that_is_not_from_here(certs, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certs.server)
    context.minimum_version = context.maximum_version = version
    assert tls.pin_of(tls.own_certificate(context)) == certs.server.pin


def test_own_certificate_where_few_ciphers_are_allowed(certs):
    files = certs.self_signed("rsa")
    context = tls.server_context(*files, minimum="1.2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-GCM-SHA384")
    assert tls.pin_of(tls.own_certificate(context)) == files.pin


def test_own_certificate_with_tls_1_2_only_and_certificates_of_clients(certs):
    context = certs.server_context(client_ca=certs.ca, minimum="1.2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ValueError, match="let it speak TLS 1.3"):
        tls.own_certificate(context)


def test_own_certificate_of_a_client_or_without_one(certs):
    files = certs.client
    client = tls.client_context(certificate=files.certificate, key=files.key)
    none = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context in (client, none, tls.client_context(pin=files.pin)):
        with pytest.raises(ValueError, match="not a server's context, or one without cert"):
            tls.own_certificate(context)
