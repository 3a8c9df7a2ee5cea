"""`pysock keygen`: make what a server and its clients need to trust each other.

The certificate is signed by its own key: clients trust it by its pin, or by the file.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import re
import secrets
import shlex
import socket
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from ..auth import check_user
from ..tls import pin_of
from . import FAILED, MISUSED, Failure, Parser, check_output
from .demo import Screen
from .options import as_count

DESCRIPTION = """\
Make a certificate, its private key and an authkey, and print what to do with them.

certificate.pem is for the server, and no secret: clients know the server by a copy of it, or
by its pin, which is printed. private-key.pem is for the server alone. authkey is a secret
that the server and its clients share."""

EPILOG = """\
examples:
  pysock keygen
  pysock keygen keys --name app.example.org --name 192.0.2.7
  pysock keygen --user alice --force

exit status: 0; 1 a file exists already or cannot be written, or the package cryptography
is missing; 2 a wrong command line"""

CERTIFICATE, PRIVATE_KEY, AUTHKEY = "certificate.pem", "private-key.pem", "authkey"
LOCAL = ("localhost", "127.0.0.1", "::1")
PORT = 5210
SLACK = timedelta(minutes=5)  # for clocks that are late


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=Path,
        default=Path(),
        help="where to write the files, made if it is missing; default: the current one",
    )
    add(
        "--name",
        metavar="HOST",
        action="append",
        type=_host,
        help="name or address that clients connect to; may be given again; default: this "
        f"machine's name, {', '.join(LOCAL)}",
    )
    add(
        "--days",
        metavar="N",
        type=partial(as_count, most=36500),
        default=3650,
        help="how long the certificate is valid, at most 36500; default: %(default)s",
    )
    add(
        "--user",
        metavar="NAME",
        type=_user,
        help="whose key it is: print how it gets into a server's file of users (--users)",
    )
    add("--force", action="store_true", help="replace the files if they exist")


def run(options: argparse.Namespace) -> int:
    """Write the files, print how to use them, return 0."""
    check_output()
    screen = Screen()
    if options.user is not None and not screen.can_show(options.user):
        raise Failure(f"the output cannot show the user {options.user!a}", MISUSED)
    names = options.name or _names_of_this_machine()
    until = datetime.now(UTC) + timedelta(options.days)
    der, private_key = _certificate(names, until)
    authkey = secrets.token_hex(32)
    files = {
        CERTIFICATE: (ssl.DER_cert_to_PEM_cert(der).encode(), 0o644),
        PRIVATE_KEY: (private_key, 0o600),
        AUTHKEY: (f"{authkey}\n".encode(), 0o600),
    }
    try:
        if not options.folder.exists():
            options.folder.mkdir(0o700)
        _write(options.folder, files, options.force)
    except FileExistsError as exc:
        raise Failure(f"{exc.filename} exists already; --force replaces it", FAILED) from None
    except OSError as exc:
        where = exc.filename or options.folder
        raise Failure(f"cannot write {where}: {exc.strerror}", FAILED) from None
    pin = pin_of(der)
    screen.begin(f"Made {CERTIFICATE}, {PRIVATE_KEY} and {AUTHKEY}.\n")
    screen.row("for", ", ".join(names))
    screen.row("until", f"{until:%Y-%m-%d}")
    screen.row("pin", pin)
    if options.user is not None:
        key = _quoted(screen, options.folder / AUTHKEY)
        line = f"{shlex.quote(options.user)} $(cat {key})"
        screen.row("its user", f"(umask 077; echo {line} >> users)")
    _tell(screen, options, names[0], pin)
    return 0


def _tell(screen: Screen, options: argparse.Namespace, name: str, pin: str) -> None:
    """Print what uses the files: commands, and a line of a server's and a client's program."""

    def path(file: str) -> str:
        return ascii(str(options.folder / file))

    def word(file: str) -> str:
        return _quoted(screen, options.folder / file)

    keys, user = f"load_key({path(AUTHKEY)})", ""
    if options.user is not None:
        keys, user = "load_keys('users')", f", user={options.user!r}"
    context = f"server_context({path(CERTIFICATE)}, {path(PRIVATE_KEY)})"
    host = f"[{name}]" if ":" in name else name
    whose = f" --user {shlex.quote(options.user)}" if options.user is not None else ""
    known = "--users users" if whose else f"--authkey {word(AUTHKEY)}"
    screen.title("The server, as a command and in Python (`handler` is a function in app.py):")
    screen.code(
        f"pysock serve app:handler --bind tls://:{PORT} --certificate {word(CERTIFICATE)} "
        f"--key {word(PRIVATE_KEY)} {known}"
    )
    screen.code(
        f"pysock.Server('tls://:{PORT}', handler, tls=pysock.tls.{context}, "
        f"authkey=pysock.auth.{keys})"
    )
    screen.title(f"A client, with a copy of {AUTHKEY}:")
    screen.code(
        f"pysock send tls://{host}:{PORT} --pin {pin} --authkey {AUTHKEY}{whose} hello"
    )
    screen.code(
        f"pysock.Client('tls://{host}:{PORT}', tls=pysock.tls.client_context(pin='{pin}'), "
        f"authkey=pysock.auth.load_key('{AUTHKEY}'){user})"
    )


def _quoted(screen: Screen, path: Path) -> str:
    """Return *path* as a shell takes it, in characters that the output can show."""
    if screen.can_show(str(path)):
        return shlex.quote(str(path))
    plain = {*range(0x20, 0x7F)} - {*b"'\\"}
    text = "".join(
        chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(path)
    )
    return f"$'{text}'"  # bash, zsh and ksh have it


# ---------------------------------------------------------------- the files


def _certificate(names: list[str], until: datetime) -> tuple[bytes, bytes]:
    """Return a certificate for *names* as DER, signed by its own key, and that as PEM."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        text = "the package cryptography is missing: pip install 'pysock-framing[cli]'"
        raise Failure(text, FAILED) from None

    def general(name: str) -> x509.GeneralName:
        with contextlib.suppress(ValueError):
            return x509.IPAddress(ipaddress.ip_address(name))
        return x509.DNSName(name)

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    uses = dict.fromkeys(
        ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
        + ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"],
        False,
    )
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=datetime.now(UTC) - SLACK,
            not_valid_after=until,
        )
        .add_extension(x509.SubjectAlternativeName(map(general, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **uses), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(issuer, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.DER), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(folder: Path, files: dict[str, tuple[bytes, int]], force: bool) -> None:
    """Write contents under their names and modes: all of them or none.

    Raises:
        FileExistsError: one exists already, and *force* is not set.
        OSError: one cannot be written.
    """
    made = []
    try:
        for name, (data, mode) in files.items():
            path = folder / (f"{name}.new" if force else name)
            if force:
                path.unlink(missing_ok=True)
            with open(path, "xb", opener=partial(os.open, mode=mode)) as file:
                made.append(path)
                file.write(data)
        if force:
            for path in made:
                path.replace(path.with_suffix(""))
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------- what the user gave


def _names_of_this_machine() -> list[str]:
    names = []
    with contextlib.suppress(argparse.ArgumentTypeError, OSError):
        names = [_host(socket.gethostname())]
    return list(dict.fromkeys([*names, *LOCAL]))


def _host(text: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text))
    try:
        name = text.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
        raise argparse.ArgumentTypeError(f"{text!a} is not the name or address of a host")
    return name


def _user(text: str) -> str:
    try:
        check_user(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    if text.split() != [text] or text.startswith("#"):
        raise argparse.ArgumentTypeError(f"{text!a} is not one word")
    return text
