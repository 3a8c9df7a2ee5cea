"""TLS contexts with safe settings, pins, and failures told in words.

Everything here gives or takes an ordinary `ssl.SSLContext`, and failures of TLS stay
`ssl.SSLError`.  `import pysock` does not load this module; `pysock.tls` does.

The contexts ignore SSLKEYLOGFILE, which `ssl.create_default_context()` does not.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import hmac
import os
import re
import ssl
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from .keyfile import check_private

__all__ = ["client_context", "explain", "own_certificate", "pin_of", "server_context"]

StrPath = str | os.PathLike[str]
Password = str | bytes | bytearray | Callable[[], str | bytes | bytearray]

_ANOTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


# ---------------------------------------------------------------- contexts


def server_context(
    certificate: StrPath,
    key: StrPath | None = None,
    client_ca: StrPath | None = None,
    *,
    password: Password | None = None,
    minimum: str = "1.3",
) -> ssl.SSLContext:
    """Return a context for a server.

    Args:
        certificate: path of a PEM file with the server's certificate, and after it those
            that lead to its CA, if any.
        key: path of the PEM file with its private key, which nobody else may read (0600);
            by default the key is in the certificate's file.
        client_ca: path of a PEM file with CAs; every client must have a certificate of one
            of them.
        password: of an encrypted key.
        minimum: the oldest TLS that clients may speak, "1.3" or "1.2".

    Raises:
        OSError: a file cannot be read, or others may read the key (PermissionError).
        ValueError: a file does not hold what it should.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, minimum)
    # A client that closes with unread tickets resets the connection: data would be lost.
    context.num_tickets = 0
    _load_certificate(context, certificate, key, password)
    if client_ca is not None:
        _load_ca(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    ca: StrPath | None = None,
    pin: str | Iterable[str] | None = None,
    *,
    certificate: StrPath | None = None,
    key: StrPath | None = None,
    password: Password | None = None,
    minimum: str = "1.3",
) -> ssl.SSLContext:
    """Return a context for a client; without *ca* and *pin* it trusts the system's CAs.

    Args:
        ca: path of a PEM file with the CAs, or the very certificate, to trust.
        pin: the SHA-256 of the server's certificate in hexadecimal, as `pin_of` gives it,
            or several of which one must match.  Without *ca* only the pin counts: neither
            name nor CA nor date of the certificate matter.
        certificate: path of a PEM file with this client's certificate, for servers that
            demand one.
        key: path of the PEM file with its private key, which nobody else may read (0600);
            by default the key is in the certificate's file.
        password: of an encrypted key.
        minimum: the oldest TLS that the server may speak, "1.3" or "1.2".

    Raises:
        OSError: a file cannot be read, or others may read the key (PermissionError).
        ValueError: a file does not hold what it should, or a pin is not one.
    """
    pins = _pins(pin)
    if certificate is None and key is not None:
        raise ValueError("key= is of no use without certificate=")
    context = _context(ssl.PROTOCOL_TLS_CLIENT, minimum)
    if ca is not None:
        _load_ca(context, ca)
    elif pins:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_default_certs()
    if pins:
        context.sslsocket_class = type("PinnedSocket", (_PinnedSocket,), {"pins": pins})
        context.sslobject_class = type("PinnedObject", (_PinnedObject,), {"pins": pins})
    if certificate is not None:
        _load_certificate(context, certificate, key, password)
    return context


def _context(protocol: int, minimum: str) -> ssl.SSLContext:
    if minimum not in _MINIMUM:
        raise ValueError(f"minimum must be '1.2' or '1.3', not {minimum!r}")
    context = ssl.SSLContext(protocol)
    context.minimum_version = _MINIMUM[minimum]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # As ssl.create_default_context() does from 3.13 on; the first lets any certificate of
    # a CA file be trusted, also one that is no CA and signed by another.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


# ---------------------------------------------------------------- files


def _load_certificate(
    context: ssl.SSLContext,
    certificate: StrPath,
    key: StrPath | None,
    password: Password | None,
) -> None:
    certificate = os.fspath(certificate)
    key = certificate if key is None else os.fspath(key)
    _certificates(certificate)
    if b"PRIVATE KEY-----" not in _read(key):
        raise ValueError(f"{key}: no private key in PEM form is in it")
    check_private(key)

    def ask() -> NoReturn:  # what OpenSSL would do on the terminal
        raise ValueError(f"{key}: the private key is encrypted; pass password=")

    try:
        context.load_cert_chain(certificate, key, ask if password is None else password)
    except ssl.SSLError as exc:
        if exc.reason in _ANOTHER_KEY:
            raise ValueError(f"{key} is not the private key of {certificate}") from None
        problem = "damaged" if password is None else "damaged, or the password is wrong"
        raise ValueError(f"{certificate}, {key}: {problem}: {exc}") from None


def _load_ca(context: ssl.SSLContext, ca: StrPath) -> None:
    _certificates(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as exc:
        raise ValueError(f"{os.fspath(ca)}: a certificate in it is damaged: {exc}") from None


def _read(path: StrPath) -> bytes:
    with open(path, "rb") as file:  # its errors name the file, those of ssl do not
        return file.read()


def _certificates(path: StrPath) -> list[bytes]:
    """Return the DER of each certificate in a PEM file, one at least."""
    pattern = rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----"
    found = re.findall(pattern, _read(path), re.DOTALL)
    if not found:
        raise ValueError(f"{os.fspath(path)}: no certificate in PEM form is in it")
    try:
        return [binascii.a2b_base64(text) for text in found]
    except binascii.Error:
        raise ValueError(f"{os.fspath(path)}: a certificate in it is damaged") from None


# ---------------------------------------------------------------- pins


def pin_of(certificate: bytes | StrPath) -> str:
    """Return a certificate's pin: the SHA-256 of its DER, in hexadecimal.

    Args:
        certificate: its DER, or the path of a PEM file, of which the first one counts.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no certificate.
    """
    der = certificate if isinstance(certificate, bytes) else _certificates(certificate)[0]
    if not der.startswith(b"\x30"):  # an ASN.1 sequence
        raise ValueError("no certificate: expected its DER, or the path of a PEM file")
    return hashlib.sha256(der).hexdigest()


def own_certificate(context: ssl.SSLContext, needed: bool = True) -> bytes:
    """Return, as DER, the certificate that a server's *context* presents.

    It is found by a handshake with itself, in memory.

    Args:
        context: a server's.
        needed: whether one that exists, and does not let it be found, is an error;
            otherwise b"" is returned for it.

    Raises:
        ValueError: it presents none, or is a client's, or does not let it be found.
    """
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    probe.check_hostname = False
    probe.verify_mode = ssl.CERT_NONE
    probe.set_ciphers("ALL:!aNULL:@SECLEVEL=0")  # whatever the server may have
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = probe.wrap_bio(to_client, to_server)
    try:
        server = context.wrap_bio(to_server, to_client, server_side=True)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
            with contextlib.suppress(ssl.SSLWantReadError):
                server.do_handshake()
    except (ssl.SSLError, ValueError) as exc:
        if getattr(exc, "reason", None) == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            if not needed:
                return b""
            raise ValueError(
                "a server without TLS 1.3 that demands certificates of clients does not "
                "tell its own: let it speak TLS 1.3"
            ) from None
        raise ValueError(
            f"not a server's context, or one without certificate: {exc}"
        ) from None
    certificate = client.getpeercert(True)
    if not certificate:
        raise ValueError("the context presents no certificate")
    return certificate


def _pins(pin: str | Iterable[str] | None) -> tuple[str, ...]:
    if pin is None:
        return ()
    given = [pin] if isinstance(pin, str) else list(pin)
    pins = tuple(str(one).replace(":", "").lower() for one in given)
    if not pins or not all(re.fullmatch("[0-9a-f]{64}", one) for one in pins):
        raise ValueError(
            f"pin is {pin!r}, expected the 64 hexadecimal digits that pysock.tls.pin_of() "
            "gives, or several of them"
        )
    return pins


_WRONG_PIN = 50  # OpenSSL's number for what an application finds wrong


# Nothing passes these before the server's pin is found to be right.  A read or a write that
# comes before the handshake has OpenSSL do it, so here they do it themselves.  Once the pin
# is right the object is made one of the ordinary class: nothing is slower for the pin.


class _PinnedObject(ssl.SSLObject):
    pins: tuple[str, ...]

    def do_handshake(self) -> None:
        super().do_handshake()
        _check_pin(self.getpeercert(True), self.pins)
        self.__class__ = ssl.SSLObject  # type: ignore[assignment]

    def read(self, *args: Any, **options: Any) -> Any:
        self.do_handshake()
        return self.read(*args, **options)  # of the ordinary class by now

    def write(self, data: Any) -> int:
        self.do_handshake()
        return self.write(data)


class _PinnedSocket(ssl.SSLSocket):
    pins: tuple[str, ...]

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        try:
            _check_pin(self.getpeercert(True), self.pins)
        except ssl.SSLError:
            self.close()  # or it would take plain bytes after a shutdown()
            raise
        self.__class__ = ssl.SSLSocket  # type: ignore[assignment]

    def read(self, *args: Any, **options: Any) -> Any:
        self.do_handshake()
        return self.read(*args, **options)

    def write(self, data: Any) -> int:
        self.do_handshake()
        return self.write(data)

    def send(self, data: Any, flags: int = 0) -> int:
        self.do_handshake()
        return self.send(data, flags)


def _check_pin(certificate: bytes | None, pins: tuple[str, ...]) -> None:
    found = pin_of(certificate) if certificate else "none"
    matches = [hmac.compare_digest(found, pin) for pin in pins]
    if any(matches):
        return
    text = f"the certificate's pin is {found}, expected {' or '.join(pins)}"
    error = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, text)
    error.library, error.reason = "SSL", "CERTIFICATE_VERIFY_FAILED"
    error.verify_code, error.verify_message = _WRONG_PIN, text
    raise error


# ---------------------------------------------------------------- failures

_NOT_TLS = "the {peer}'s bytes are not TLS: probably only one of the two sides has tls://"
_NO_VERSION = (
    "the two sides have no TLS version in common: one of them is old, or must not speak the "
    "old one; minimum='1.2' allows TLS 1.2"
)
_EOF = (
    "the {peer} closed the connection in the midst of TLS: it does not speak TLS, does not "
    "trust this side, or refuses its address for a while; its log may tell"
)

# By OpenSSL's names; in an ALERT the peer has told what it does not like.
_FAILURES = {
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
    "UNEXPECTED_MESSAGE": _NOT_TLS,
    "RECORD_LAYER_FAILURE": (  # which may be any other failure of a record, too
        "the {peer}'s bytes are not TLS, or were changed on their way: probably only one of "
        "the two sides has tls://"
    ),
    "UNEXPECTED_EOF_WHILE_READING": _EOF,
    "HTTP_REQUEST": "the {peer} speaks HTTP without TLS: this is probably the wrong port",
    "UNSUPPORTED_PROTOCOL": _NO_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _NO_VERSION,
    "NO_SHARED_CIPHER": (
        "the two sides have no cipher in common: one of them allows few, or the server's "
        "context has no certificate"
    ),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "the {peer} broke off the handshake: there is no TLS version or cipher in common, "
        "or it demands a certificate (certificate=)"
    ),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        "the {peer} has sent no certificate, which this side demands: pass certificate= and "
        "key= there"
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "the {peer} demands a certificate: pass certificate= and key= on this side"
    ),
    **dict.fromkeys(
        (
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
            "SSLV3_ALERT_CERTIFICATE_REVOKED",
            "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
            "TLSV1_ALERT_ACCESS_DENIED",
        ),
        "the {peer} refused this side's certificate: its log may tell why",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "the {peer} does not trust this side's certificate: pass its CA there, as {there}"
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": (
        "the {peer} refused this side's certificate, which has expired: renew it"
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": (
        "the {peer} refused this side's certificate: it asked for another name, or its log "
        "may tell"
    ),
}

# What to do about a certificate, by OpenSSL's numbers of what is wrong with it.
_ADVICE = {
    9: "compare the clocks of the two machines",
    10: "have it renewed, or set this machine's clock",
    **dict.fromkeys((18, 19, 20, 21), "if it is the right {peer}, pass its CA as {here}"),
    _WRONG_PIN: "if it was renewed pass its new pin, else it is not the right server",
    **dict.fromkeys((62, 64), "pass a name that it has as server_hostname="),
}


def explain(exc: BaseException, server_side: bool) -> str:
    """Return a sentence: what was seen, what it probably means, what to do.

    Args:
        exc: what a handshake failed with, or the first read after it: what a server does
            not like of a client may arrive only there.
        server_side: whether this is the server.
    """
    words = {"peer": "server", "here": "ca= (or its pin as pin=)", "there": "client_ca="}
    if server_side:
        words = {"peer": "client", "here": words["there"], "there": words["here"]}
    peer = words["peer"]
    if isinstance(exc, ssl.SSLCertVerificationError):
        text = f"the {peer}'s certificate is refused: {exc.verify_message.rstrip('.')}"
        advice = _ADVICE.get(exc.verify_code)
        return f"{text}; {advice.format(**words)}" if advice else text
    ended = isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError)
    told = _EOF if ended else _FAILURES.get(getattr(exc, "reason", ""))
    return told.format(**words) if told else f"TLS with the {peer} failed: {exc}"
