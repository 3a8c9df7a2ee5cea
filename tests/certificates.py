"""Certificates for tests: of a CA of ours, of another one, and such that must be refused.

A test module takes fixtures from here by assigning them: `certs = certificates.certs`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from peers import LONG
from pysock import tls

pytest.importorskip("cryptography", reason="no build of cryptography for this Python")

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)
NAMES = ("localhost", "127.0.0.1", "::1")

KEYS = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


class Files(NamedTuple):
    """The paths of a certificate and its private key, to be passed on as `*files`."""

    certificate: Path
    key: Path

    @property
    def pin(self) -> str:
        return tls.pin_of(self.certificate)


class Certificates:
    """Files in a folder; those that a test does not ask for are not made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self._stranger = trustme.CA()
        self.ca = folder / "ca.pem"
        self.other_ca = folder / "other-ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)
        self._stranger.cert_pem.write_to_path(self.other_ca)

    def issue(self, *names: str, ca: trustme.CA | None = None, **options: Any) -> Files:
        """Return a certificate for *names*; the options are those of trustme."""
        issued = (ca or self._authority).issue_cert(*names, **options)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return self.write(chain, issued.private_key_pem.bytes())

    def write(self, certificate: bytes, key: bytes) -> Files:
        """Return new files with these contents."""
        number = len(list(self._folder.iterdir()))
        files = Files(self._folder / f"{number}.pem", self._folder / f"{number}-key.pem")
        files.certificate.write_bytes(certificate)
        with open(os.open(files.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(key)
        return files

    @cached_property
    def server(self) -> Files:
        """A server's, for this machine's local names and addresses."""
        return self.issue(*NAMES)

    @cached_property
    def client(self) -> Files:
        return self.issue("client@example.org")

    @cached_property
    def chain(self) -> Files:
        """A server's, with that of an intermediate CA behind it."""
        return self.issue(*NAMES, ca=self._authority.create_child_ca())

    @cached_property
    def wrong_name(self) -> Files:
        return self.issue("elsewhere.example.org")

    @cached_property
    def expired(self) -> Files:
        return self.issue(*NAMES, not_before=NOW - 2 * DAY, not_after=NOW - DAY)

    @cached_property
    def early(self) -> Files:
        """One that is not valid yet."""
        return self.issue(*NAMES, not_before=NOW + DAY, not_after=NOW + 2 * DAY)

    @cached_property
    def of_other_ca(self) -> Files:
        return self.issue(*NAMES, ca=self._stranger)

    def self_signed(self, kind: str = "ec", password: bytes | None = None) -> Files:
        """Return a new certificate with a key of *kind*, one of KEYS."""
        key: Any = KEYS[kind]()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(key, None if kind == "ed25519" else hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        secret = key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password)
            if password
            else serialization.NoEncryption(),
        )
        return self.write(certificate.public_bytes(pem), secret)

    def server_context(self, **options: Any) -> ssl.SSLContext:
        """Return a server's context; the options are those of `tls.server_context`."""
        return tls.server_context(*self.server, **options)

    def client_context(self, **options: Any) -> ssl.SSLContext:
        """Return a client's context, which trusts the CA unless the options say more."""
        return tls.client_context(**{"ca": self.ca, **options})


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The files, made once."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


# ---------------------------------------------------------------- handshakes


@pytest.fixture
def shake() -> Iterator[Callable[..., tuple[Any, Any]]]:
    """A function: have two contexts shake hands over a socketpair, step by step.

    It returns what the client and the server came to: each its socket, or its error.
    """
    with contextlib.ExitStack() as stack:

        def shake(
            client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = "localhost"
        ) -> tuple[Any, Any]:
            near, far = map(stack.enter_context, socket.socketpair())
            ends = [
                stack.enter_context(wrap(near, client, False, name)),
                stack.enter_context(wrap(far, server, True)),
            ]
            found: list[Any] = [None, None]
            while not all(found):
                for side in (0, 1):
                    found[side] = found[side] or step(ends[side])
                await_bytes(
                    *(end for end, result in zip(ends, found, strict=True) if not result)
                )
            return found[0], found[1]

        yield shake


def wrap(
    sock: socket.socket, context: ssl.SSLContext, server_side: bool, name: str | None = None
) -> ssl.SSLSocket:
    """The socket, non-blocking, with TLS of which the handshake has not begun."""
    sock.setblocking(False)
    return context.wrap_socket(
        sock,
        server_side=server_side,
        server_hostname=name,
        do_handshake_on_connect=False,
        suppress_ragged_eofs=False,
    )


def step(end: ssl.SSLSocket) -> ssl.SSLSocket | OSError | None:
    """Go on with a handshake; return the socket at its end, or the error, or None."""
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return None
    except OSError as exc:
        return exc
    return end


def await_bytes(*ends: socket.socket) -> None:
    """Wait until one of them has something to read, if any are given."""
    if ends and not select.select(ends, [], [], LONG)[0]:
        pytest.fail("nothing came")


def check_talk(client: ssl.SSLSocket, server: ssl.SSLSocket) -> None:
    """Have bytes go both ways."""
    for sender, receiver in ((client, server), (server, client)):
        receiver.settimeout(LONG)
        assert sender.send(b"hello") == 5
        assert receiver.recv(10) == b"hello"
