"""TLS contexts: what they accept, what they refuse, and what is said of it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import certificates
import pysock
from certificates import Certificates, check_talk, step, wrap
from peers import LONG, run_python
from pysock import tls

certs = certificates.certs
shake = certificates.shake

needs_modes = pytest.mark.skipif(os.name == "nt", reason="files have no modes there")


def first_read(end: Any) -> OSError:
    """What a client learns of a server's refusal under TLS 1.3: its handshake succeeds."""
    assert isinstance(end, ssl.SSLSocket)
    end.settimeout(LONG)
    with pytest.raises((ssl.SSLError, BrokenPipeError)) as caught:
        end.recv(1)
    return caught.value


def said(exc: object, server_side: bool = False) -> str:
    """What `explain` says of a failure; it is one line, and none of Python's own."""
    assert isinstance(exc, OSError), exc
    text = tls.explain(exc, server_side)
    assert text.isprintable() and "_ssl.c" not in text
    return text


# ---------------------------------------------------------------- settings


@pytest.fixture(params=["client", "server"])
def either(request: pytest.FixtureRequest, certs: Certificates) -> Callable[..., Any]:
    """How to make a context of each side."""
    make: Callable[..., Any] = getattr(certs, f"{request.param}_context")
    return make


@pytest.mark.case("T31")
def test_context_has_safe_settings(either):
    """T31: no renegotiation, no compression; an end without close_notify is an error."""
    context = either()
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert either(minimum="1.2").minimum_version == ssl.TLSVersion.TLSv1_2
    strict = context.verify_flags & ssl.VERIFY_X509_STRICT
    assert strict == ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT


def test_server_sends_no_tickets(certs):
    assert certs.server_context().num_tickets == 0


@pytest.mark.parametrize("minimum", ["1.1", "1", "", "TLSv1.3"])
def test_minimum_is_one_of_two(either, minimum):
    with pytest.raises(ValueError, match="'1.2' or '1.3', not"):
        either(minimum=minimum)


@pytest.mark.case("T30")
def test_secrets_go_to_no_file(certs, shake, tmp_path, monkeypatch):
    """T30: SSLKEYLOGFILE, which the standard library's default contexts honour."""
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    check_talk(*shake(certs.client_context(), certs.server_context()))
    assert not log.exists()
    ssl.create_default_context()
    assert log.exists()


def test_client_without_arguments_trusts_the_system_s_cas(certs, shake, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certs.ca))
    check_talk(*shake(tls.client_context(), certs.server_context()))
    monkeypatch.setenv("SSL_CERT_FILE", str(certs.other_ca))
    assert "pass its CA as ca=" in said(shake(tls.client_context(), certs.server_context())[0])


# ---------------------------------------------------------------- who is trusted


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
@pytest.mark.parametrize("files", ["server", "chain"])
def test_certificate_of_the_ca_is_accepted(certs, shake, name, files):
    server = tls.server_context(*getattr(certs, files))
    check_talk(*shake(certs.client_context(), server, name))


def test_certificate_itself_can_be_what_is_trusted(certs, shake):
    """Whether it is signed by itself or by a CA, which then is not needed."""
    for files in (certs.self_signed(), certs.server):
        client = tls.client_context(files.certificate)
        check_talk(*shake(client, tls.server_context(*files)))


@pytest.mark.case("T07")
@pytest.mark.parametrize(
    ("files", "seen", "advice"),
    [
        ("of_other_ca", "unable to get local issuer", "pass its CA as ca= .or its pin"),
        ("wrong_name", "Hostname mismatch.*'localhost'", "as server_hostname="),
        ("expired", "has expired", "have it renewed, or set this machine's clock"),
        ("early", "not yet valid", "compare the clocks"),
    ],
)
def test_certificate_is_refused_and_the_reason_told(certs, shake, files, seen, advice):
    """T07"""
    server = tls.server_context(*getattr(certs, files))
    refusal, refused = shake(certs.client_context(), server)
    assert isinstance(refusal, ssl.SSLCertVerificationError)
    pattern = f"the server's certificate is refused: .*{seen}.*; .*{advice}"
    assert re.match(pattern, said(refusal))
    assert re.search("the client (does not trust|refused) this", said(refused, True))


@pytest.mark.case("T07")
def test_self_signed_certificate_is_refused_without_pin(certs, shake):
    """T07"""
    server = tls.server_context(*certs.self_signed())
    refusal, _ = shake(certs.client_context(), server)
    assert re.search("refused: self.signed certificate; .* pin=", said(refusal))


def test_address_that_is_not_in_the_certificate(certs, shake):
    refusal, _ = shake(certs.client_context(), certs.server_context(), "192.0.2.1")
    assert "not valid for '192.0.2.1'; pass a name that it has" in said(refusal)


# ---------------------------------------------------------------- versions and ciphers


@pytest.mark.case("T08")
@pytest.mark.parametrize("older", ["client", "server"])
def test_old_tls_is_refused_unless_allowed(certs, shake, older):
    """T08"""
    contexts = {"client": certs.client_context(), "server": certs.server_context()}
    old = getattr(certs, f"{older}_context")(minimum="1.2")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    contexts[older] = old
    client, server = shake(contexts["client"], contexts["server"])
    for failure, server_side in ((client, False), (server, True)):
        assert re.search("no TLS version in common.*minimum='1.2'", said(failure, server_side))

    both = [certs.client_context(minimum="1.2"), certs.server_context(minimum="1.2")]
    both[older == "server"] = old
    check_talk(*shake(*both))


def test_no_cipher_in_common(certs, shake):
    server = certs.server_context(minimum="1.2")
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    server.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    client = certs.client_context(minimum="1.2")
    client.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    broken, reason = shake(client, server)
    assert "no cipher in common" in said(reason, True)
    assert re.search("server broke off .* cipher in common", said(broken))


# ---------------------------------------------------------------- mutual TLS


def test_client_with_certificate_is_accepted(certs, shake):
    server = certs.server_context(client_ca=certs.ca)
    files = certs.client
    client = certs.client_context(certificate=files.certificate, key=files.key)
    near, far = shake(client, server)
    check_talk(near, far)
    assert tls.pin_of(far.getpeercert(True)) == files.pin


@pytest.mark.case("T09")
def test_client_without_certificate(certs, shake):
    """T09: with TLS 1.3 its handshake succeeds, and it is told at its first read."""
    server = certs.server_context(client_ca=certs.ca)
    client, refusal = shake(certs.client_context(), server)
    assert "the client has sent no certificate, which this side demands" in said(refusal, True)
    told = said(first_read(client))
    assert told.startswith("the server demands a certificate: pass certificate= and key=")


def test_client_without_certificate_learns_it_at_once_with_tls_1_2(certs, shake):
    server = certs.server_context(client_ca=certs.ca, minimum="1.2")
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    failure, refusal = shake(certs.client_context(minimum="1.2"), server)
    assert "has sent no certificate" in said(refusal, True)
    assert "demands a certificate (certificate=)" in said(failure)


@pytest.mark.parametrize(
    ("files", "seen", "told"),
    [
        ("of_other_ca", "pass its CA as client_ca=", "pass its CA there, as client_ca="),
        ("expired", "have it renewed", "certificate, which has expired"),
        ("early", "clocks of the two", "the server refused this side's certificate"),
    ],
)
def test_client_s_certificate_is_refused(certs, shake, files, seen, told):
    files = getattr(certs, files)
    server = certs.server_context(client_ca=certs.ca)
    client = certs.client_context(certificate=files.certificate, key=files.key)
    client, refusal = shake(client, server)
    assert "the client's certificate is refused: " in said(refusal, True)
    assert seen in said(refusal, True)
    assert told in said(first_read(client))


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def folder(certs: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files, and all kinds of bad ones."""
    path = tmp_path_factory.mktemp("files")
    for name, files in {
        "good": certs.server,
        "other": certs.self_signed(),
        "rsa": certs.self_signed("rsa"),
        "locked": certs.self_signed(password=b"secret"),
    }.items():
        shutil.copy(files.certificate, path / f"{name}.pem")
        shutil.copy(files.key, path / f"{name}.key")  # with its mode
    good = (path / "good.key").read_text()
    for name, text in {
        "both.pem": (path / "good.pem").read_text() + good,
        "cut.key": good[:99] + good[good.index("\n-----END") :],
        "text": "hello\n",
        "damaged.pem": "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n",
        "nonsense.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "open.key": good,
    }.items():
        (path / name).write_text(text)
        (path / name).chmod(0o640 if name == "open.key" else 0o600)
    return path


@pytest.mark.case("T11")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["none.pem", "good.key"], "No such file or directory: 'none.pem'"),
        (["good.pem", "none.key"], "No such file or directory: 'none.key'"),
        (["text", "good.key"], "^text: no certificate in PEM form is in it"),
        (["good.pem", "text"], "^text: no private key in PEM form is in it"),
        (["good.pem"], "^good.pem: no private key in PEM form"),
        (["good.key", "good.pem"], "^good.key: no certificate in PEM form"),
        (["damaged.pem", "good.key"], "^damaged.pem: a certificate in it is damaged"),
        (["nonsense.pem", "good.key"], "^nonsense.pem, good.key: damaged: "),
        (["good.pem", "cut.key"], "^good.pem, cut.key: damaged: "),
        (["good.pem", "other.key"], "^other.key is not the private key of good.pem"),
        (["good.pem", "rsa.key"], "^rsa.key is not the private key of good.pem"),
        (["locked.pem", "locked.key"], "^locked.key: .*encrypted; pass password="),
        (["good.pem", "good.key", "none.pem"], "No such file or directory: 'none.pem'"),
        (["good.pem", "good.key", "text"], "^text: no certificate in PEM form"),
    ],
)
def test_wrong_files_are_named_at_once(folder, monkeypatch, arguments, complaint):
    """T11; a password is not asked for on the terminal."""
    monkeypatch.chdir(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        tls.server_context(*arguments)
    assert re.search(complaint, str(caught.value))
    assert type(caught.value) in (ValueError, FileNotFoundError)
    if len(arguments) == 2:
        with pytest.raises(type(caught.value)):
            tls.client_context(certificate=arguments[0], key=arguments[1])


@pytest.mark.case("T11")
@pytest.mark.parametrize(
    ("ca", "complaint"),
    [
        ("none.pem", "No such file or directory: 'none.pem'"),
        ("text", "^text: no certificate in PEM form"),
        ("good.key", "^good.key: no certificate in PEM form"),
        ("damaged.pem", "^damaged.pem: a certificate in it is damaged"),
        ("nonsense.pem", "^nonsense.pem: a certificate in it is damaged"),
    ],
)
def test_wrong_ca_file_is_named_at_once(folder, monkeypatch, ca, complaint):
    monkeypatch.chdir(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        tls.client_context(ca)
    assert re.search(complaint, str(caught.value))
    assert type(caught.value) in (ValueError, FileNotFoundError)


@pytest.mark.case("T11")
@needs_modes
def test_key_that_others_may_read_is_refused(folder, monkeypatch):
    """T11"""
    monkeypatch.chdir(folder)
    for make in (
        lambda: tls.server_context("good.pem", "open.key"),
        lambda: tls.client_context(certificate="good.pem", key="open.key"),
    ):
        with pytest.raises(PermissionError, match="0640.*chmod 600 open.key"):
            make()


def test_key_in_the_certificate_s_file(folder, certs, shake):
    both = folder / "both.pem"
    server = tls.server_context(both, client_ca=certs.ca)
    check_talk(*shake(certs.client_context(certificate=both), server))


@pytest.mark.case("T11")
@needs_modes
def test_key_in_the_certificate_s_file_is_private_too(folder, tmp_path):
    open_to_all = tmp_path / "both.pem"
    shutil.copy(folder / "both.pem", open_to_all)
    open_to_all.chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        tls.server_context(open_to_all)


def test_key_without_certificate(certs):
    with pytest.raises(ValueError, match="key= is of no use without certificate="):
        tls.client_context(key=certs.client.key)


@pytest.mark.parametrize("password", ["secret", b"secret", lambda: "secret"])
def test_encrypted_key(folder, shake, password):
    server = tls.server_context(
        folder / "locked.pem", folder / "locked.key", password=password
    )
    check_talk(*shake(tls.client_context(folder / "locked.pem"), server))


def test_wrong_password(folder):
    with pytest.raises(ValueError, match="locked.key: damaged, or the password is wrong"):
        tls.server_context(folder / "locked.pem", folder / "locked.key", password="guess")


# ---------------------------------------------------------------- ends


@pytest.mark.case("T04")
def test_cut_connection_is_no_end(certs, shake):
    client, server = shake(certs.client_context(), certs.server_context())
    server.close()
    assert "closed the connection in the midst of TLS" in said(first_read(client))


# ---------------------------------------------------------------- what is said of failures

PLAIN = [b"\0\0\0\5hello", b"5:hello,", b"hello\n", b"HTTP/1.1 400 \r\n\r\n", bytes(40)]
PLAIN += [b"SSH-2.0-x\r\n", b"\xffpysock\1\1\0\x21" + bytes(33), b"\x16\x03\1\xff\xff" * 9]


@pytest.mark.parametrize("data", PLAIN)
@pytest.mark.parametrize("server_side", [False, True])
def test_peer_that_speaks_no_tls(certs, data, server_side):
    peer = "client" if server_side else "server"
    told = said(answered(certs, server_side, data), server_side)
    assert told.startswith(f"the {peer}'s bytes are not TLS")
    assert told.endswith(": probably only one of the two sides has tls://")


def answered(certs: Certificates, server_side: bool, data: bytes) -> object:
    """What comes of a handshake with a peer that sends *data* and ends."""
    near, far = socket.socketpair()
    context = certs.server_context() if server_side else certs.client_context()
    with far, wrap(near, context, server_side, None if server_side else "x") as end:
        assert step(end) is None
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        end.settimeout(LONG)
        return step(end)


@pytest.mark.parametrize("reason", ["PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"])
def test_long_record_is_explained_as_each_openssl_calls_it(reason):
    failure = ssl.SSLError(ssl.SSL_ERROR_SSL, "of a record (_ssl.c:1)")
    failure.reason = reason
    assert said(failure).startswith("the server's bytes are not TLS")


def test_end_that_openssl_tells_as_another_error(certs):
    failure = ssl.SSLError(ssl.SSL_ERROR_SSL, "unexpected eof while reading (_ssl.c:1)")
    failure.reason = "UNEXPECTED_EOF_WHILE_READING"
    assert said(failure) == said(ssl.SSLEOFError()) == said(BrokenPipeError())


def test_peer_that_speaks_http(certs):
    failure = answered(certs, True, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said(failure, True).startswith("the client speaks HTTP without TLS: ")


@pytest.mark.parametrize("data", [b"", b"\x16", b"\x16\3\1\0\xf0\1\0\0\xec"])
@pytest.mark.parametrize("server_side", [False, True])
def test_peer_that_goes_away(certs, data, server_side):
    peer = "client" if server_side else "server"
    told = said(answered(certs, server_side, data), server_side)
    assert told.startswith(f"the {peer} closed the connection in the midst of TLS: it does ")
    assert said(ConnectionResetError("gone"), server_side) == told


def test_server_that_takes_its_leave_before_it_has_greeted(certs):
    failure = answered(certs, False, b"\x15\3\1\0\2\1\0")
    assert said(failure).startswith("the server closed the connection in the midst of TLS: ")


def test_failure_of_another_kind_is_told_as_it_is(certs):
    assert tls.explain(TimeoutError("timed out {x}"), False) == (
        "TLS with the server failed: timed out {x}"
    )
    failure = answered(certs, True, b"CONNECT x:1 HTTP/1.1\r\n\r\n")
    assert "TLS with the client failed: [SSL: HTTPS_PROXY_REQUEST]" in tls.explain(
        failure, True
    )


def test_name_with_braces_is_told_as_it_is(certs, shake):
    refusal, _ = shake(certs.client_context(), certs.server_context(), "{peer}")
    assert "not valid for '{peer}'; pass" in said(refusal)


# ---------------------------------------------------------------- as part of pysock


@pytest.mark.parametrize(("name", "needs"), [("tls", "ssl"), ("auth", "hmac")])
def test_module_is_loaded_when_it_is_asked_for(name, needs):
    code = (
        "import sys, pysock; name, needs = sys.argv[1:]\n"
        "print(needs in sys.modules, name in dir(pysock), name in pysock.__all__)\n"
        "print(getattr(pysock, name) is sys.modules[f'pysock.{name}'], needs in sys.modules)"
    )
    assert run_python(code, name, needs) == "False True True\nTrue True\n"


def test_all_names_of_the_package_are_there():
    assert {*pysock.__all__} <= {*dir(pysock)}
    for name in pysock.__all__:
        assert getattr(pysock, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pysock.nonsense  # noqa: B018
