"""What the verbs' options take: counts, sizes, seconds, formats; TLS and keys.

What cannot be read is refused with one sentence, as argparse wants it or as a Failure.
Secrets are named by their files, for everybody on the machine can read a command line.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

from ..formats import named
from ..framing import Format
from . import MISUSED, Failure, Parser

__all__ = [
    "add_address",
    "add_client_security",
    "add_server_security",
    "as_count",
    "as_number",
    "as_seconds",
    "as_size",
    "client_security",
    "context_arguments",
    "format_of",
    "in_options",
    "server_security",
]

LONGEST = 2e6  # seconds, 23 days: what every system can wait for
MOST_BYTES = 1 << 53  # no file and no memory is larger

_UNITS = {None: 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def add_address(parser: Parser, more: str = "") -> None:
    """Add the argument that says where to connect; *more*: other forms of it."""
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        help="the server, as host:port, tcp://host:port, tls://host:port, unix:///path, "
        f"unix:@abstract{more} or a path with a slash in it",
    )


def as_count(text: str, least: int = 1, most: int = (1 << 53) - 1) -> int:
    """Return the whole number that *text* is."""
    if not re.fullmatch("[0-9]{1,16}", text) or not least <= int(text) <= most:
        what = f"a whole number from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return int(text)


def as_size(text: str) -> int:
    """Return a number of bytes, given as 100, 64k or 1M."""
    match = re.fullmatch(r"([0-9]{1,16})(?:([kmg])(?:i?b)?)?", text.lower())
    size = MOST_BYTES + 1 if match is None else int(match[1]) * _UNITS[match[2]]
    if size > MOST_BYTES:
        what = f"a number of bytes up to {MOST_BYTES >> 30}G, as in 64k or 1M"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return size


def as_number(text: str, what: str, most: float, zero: bool = False) -> float:
    """Return a number of *what* above 0, or of 0 too where *zero* is set."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (0 < found <= most or (zero and found == 0)):
        span = f"from 0 to {most:.0f}" if zero else f"above 0, at most {most:.0f}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what} {span}")
    return found


def as_seconds(text: str, zero: bool = False, most: float = LONGEST) -> float:
    """Return a number of seconds."""
    return as_number(text, "seconds", most, zero)


def format_of(name: str, max_frame: int | None) -> Format:
    """Return the format called *name*, for payloads of *max_frame* bytes where given.

    Raises:
        Failure: there is no such format, or it cannot have frames so long.
    """
    try:
        framing = named(name)
        return framing if max_frame is None else framing.replace(max_frame=max_frame)
    except (ValueError, OverflowError) as exc:
        raise Failure(in_options(str(exc)), MISUSED) from None


# ---------------------------------------------------------------- TLS and keys


def add_server_security(parser: Parser) -> None:
    """Add what `server_security` reads."""
    group = parser.add_argument_group(
        "TLS and keys", "The files are read once, at the start: new ones need a restart."
    )
    add = group.add_argument
    _add_own_certificate(group, "the server's certificate, with which everything is encrypted")
    add(
        "--client-ca",
        metavar="FILE",
        help="PEM file with CAs; every client must have a certificate of one of them",
    )
    _add_tls12(group)
    keys = group.add_mutually_exclusive_group()
    keys.add_argument(
        "--authkey",
        metavar="FILE",
        help="file with a key, 64 hex digits, mode 0600, as `pysock keygen` makes it: clients "
        "must prove that they have it too",
    )
    keys.add_argument(
        "--users",
        metavar="FILE",
        help="instead of --authkey: file with a key for each user, in lines of a name and a "
        "key",
    )
    add(
        "--insecure",
        action="store_true",
        help="do without TLS; with serve: a key between machines, although whoever is on the "
        "way can read everything and take the connection over; with shell-server: at a "
        "loopback address only, where every user of the machine can run commands as you if "
        "there is no key",
    )
    add(
        "--allow-uid",
        metavar="USER",
        action="append",
        type=_as_uid,
        help="at Unix sockets, serve only this user of the machine, a name or a number; the "
        "sockets have mode 0666 then; may be given again",
    )


def server_security(
    options: argparse.Namespace, addresses: list[str], keyless: bool = False
) -> dict[str, Any]:
    """Return what the options for TLS and keys are for a Server at *addresses*.

    With *keyless* `--insecure` may do without a key.

    Raises:
        Failure: a file cannot be used, or the options contradict each other.
    """
    encrypted = options.certificate is not None
    for name in ("key", "client_ca", "tls12"):
        if not encrypted and getattr(options, name) not in (None, False):
            option = _option(name)
            raise Failure(f"{option} means nothing without --certificate", MISUSED)
    for address in addresses:
        if not encrypted and _means_tls(address):
            raise Failure(f"address '{address}' needs a certificate: --certificate", MISUSED)
    has_key = any(file is not None for file in (options.authkey, options.users))
    _check_insecure(options.insecure, has_key or keyless, encrypted)
    chosen: dict[str, Any] = {"insecure": options.insecure, "allow_uids": options.allow_uid}
    with _telling_of_files():
        if encrypted:
            from ..tls import server_context

            chosen["tls"] = server_context(
                options.certificate,
                options.key,
                options.client_ca,
                minimum=_minimum(options),
            )
        if has_key:
            from ..auth import load_key, load_keys

            if options.users is None:
                chosen["authkey"] = load_key(options.authkey)
            else:
                chosen["authkey"] = load_keys(options.users)
                if not chosen["authkey"]:
                    raise Failure(f"{options.users}: no user is in it", MISUSED)
    return chosen


def add_client_security(parser: Parser) -> None:
    """Add what `client_security` reads."""
    group = parser.add_argument_group(
        "TLS and keys",
        "TLS is used where the address has tls://, and with any of the options for it; "
        "without --ca and --pin the system's CAs are trusted.",
    )
    add = group.add_argument
    add(
        "--ca",
        metavar="FILE",
        help="PEM file with the CAs to trust, or with the server's own certificate",
    )
    add(
        "--pin",
        metavar="HEX",
        action="append",
        type=_as_pin,
        help="SHA-256 of the server's certificate, as `pysock keygen` prints it; may be given "
        "again, then one must match; without --ca only this counts, not its name and dates",
    )
    add(
        "--server-hostname",
        metavar="NAME",
        help="name that the server's certificate must be for; default: the address's host",
    )
    _add_own_certificate(group, "this client's certificate, for servers that demand one")
    _add_tls12(group)
    add(
        "--authkey",
        metavar="FILE",
        help="file with a key that the server has too, 64 hex digits, mode 0600: each side "
        "proves to the other that it has it",
    )
    add(
        "--user",
        metavar="NAME",
        default="",
        help="whose key that is, for a server with --users",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="allow --authkey without TLS between machines, although whoever is on the way "
        "can read everything and take the connection over",
    )


def context_arguments(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the arguments of `client_context` that were given, None if no option was."""
    names = ("ca", "pin", "certificate", "key")
    given = {name: getattr(options, name) for name in names}
    if options.tls12:
        given["minimum"] = _minimum(options)
    wanted = {name: value for name, value in given.items() if value is not None}
    return wanted if wanted or options.server_hostname is not None else None


def client_security(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options for TLS and keys are for a Client at `options.address`.

    Raises:
        Failure: a file cannot be used, or the options contradict each other.
    """
    arguments = context_arguments(options)
    encrypted = arguments is not None or _means_tls(options.address)
    _check_insecure(options.insecure, options.authkey is not None, encrypted)
    chosen: dict[str, Any] = {
        "server_hostname": options.server_hostname,
        "user": options.user,
        "insecure": options.insecure,
    }
    with _telling_of_files():
        if arguments is not None:
            from ..tls import client_context

            chosen["tls"] = client_context(**arguments)
        elif encrypted:
            chosen["tls"] = True
        if options.authkey is not None:
            from ..auth import load_key

            chosen["authkey"] = load_key(options.authkey)
    return chosen


# What the library's messages advise, said as this command line has it.
_ADVICE = (
    ("tls=", "--certificate"),
    ("minimum='1.2'", "--tls12"),
    ("make the context with ", "pass "),
    ("pass password=", "store it without a password"),
)
_ARGUMENTS = (
    "allow_env|allow_root|allow_uids|authkey|broadcast|ca|certificate|client_ca|files_root|insecure|key|"
    "max_output|max_running|pin|server_hostname|time_limit|user"
)
_LIMITS = "limits|max_output|max_running|time_limit"


def in_options(text: str) -> str:
    """Return a message of the library with its arguments as options."""
    for old, new in _ADVICE:
        text = text.replace(old, new)
    text = re.sub(rf"\b({_ARGUMENTS})=(True)?", lambda match: _option(match[1]), text)
    text = re.sub(rf"\(({_LIMITS})\)", lambda match: f"({_option(match[1])})", text)
    text = re.sub(
        rf"^({_LIMITS}|max_frame|ttl) is ", lambda match: f"{_option(match[1])} is ", text
    )
    return re.sub(r"\ballow_uids\b", "--allow-uid", text)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-").replace("uids", "uid").replace("limits", "limit")


def _add_own_certificate(group: Any, what: str) -> None:
    group.add_argument("--certificate", metavar="FILE", help=f"PEM file with {what}")
    group.add_argument(
        "--key",
        metavar="FILE",
        help="PEM file with its private key, mode 0600, without a password; default: the "
        "certificate's file",
    )


def _add_tls12(group: Any) -> None:
    group.add_argument("--tls12", action="store_true", help="allow TLS 1.2 besides 1.3")


def _check_insecure(insecure: bool, has_key: bool, encrypted: bool) -> None:
    if insecure and (encrypted or not has_key):
        text = "--insecure is for an authkey without TLS: a certificate is checked in any case"
        raise Failure(text, MISUSED)


def _minimum(options: argparse.Namespace) -> str:
    return "1.2" if options.tls12 else "1.3"


def _means_tls(address: str) -> bool:
    return address.lower().startswith("tls://")


def _as_pin(text: str) -> str:
    if not re.fullmatch("[0-9A-Fa-f]{64}", text.replace(":", "")):
        raise argparse.ArgumentTypeError(f"{text!a} is no pin, which has 64 hex digits")
    return text


def _as_uid(text: str) -> int:
    if re.fullmatch("[0-9]{1,10}", text):
        return int(text)
    try:
        import pwd

        return pwd.getpwnam(text).pw_uid
    except (ImportError, KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!a} is no user of this machine") from None


@contextlib.contextmanager
def _telling_of_files() -> Iterator[None]:
    """Turn what is wrong with a file into a Failure."""
    try:
        yield
    except OSError as exc:
        raise Failure(f"cannot read {exc.filename!a}: {exc.strerror}", MISUSED) from None
    except ValueError as exc:
        raise Failure(in_options(str(exc)), MISUSED) from None
