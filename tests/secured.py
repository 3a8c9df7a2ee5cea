"""Servers with TLS and keys on the command line, and clients that try them.

A test module takes fixtures from here by assigning them: `secrets = secured.secrets`.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from certificates import Files
from programs import LIMIT, PYTHON, Program, serving

APP = '''
import os, time

def tell(message, connection):
    """Reply with what is known of the client."""
    certificate = (connection.tls and connection.tls.getpeercert()) or {}
    names = dict(sum(certificate.get("subject", ()), ()))
    return repr((connection.user, connection.tls and connection.tls.version(), names)).encode()

def do(message):
    scope = dict(globals(), reply=b"")
    exec(message.decode(), scope)
    return scope["reply"]
'''


class Secrets(NamedTuple):
    """Files of keys, and the keys in them."""

    folder: Path
    keys: list[str]
    authkey: str
    other: str
    users: str


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    keys = [os.urandom(32).hex() for _ in range(4)]
    files = {
        "authkey": keys[0],
        "other": keys[1],
        "users": f"# who\nalice {keys[0]}\nbob {keys[2]} # old\nbob {keys[3]}\n",
        "bob": keys[2],
        "new-bob": keys[3],
    }
    for name, text in files.items():
        write(tmp_path / name, text)
    paths = [str(tmp_path / name) for name in ("authkey", "other", "users")]
    return Secrets(tmp_path, keys, *paths)


def write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def given(files: Files) -> list[str]:
    """The options for a certificate and its key."""
    return ["--certificate", str(files.certificate), "--key", str(files.key)]


class Ran(NamedTuple):
    status: int
    out: str
    err: str


def run(*arguments: object, folder: Path | None = None, text: str = "") -> Ran:
    """Run a verb to its end; what it says on stderr is one line at most."""
    done = subprocess.run(
        [*PYTHON, "-P", "-m", "pysock", *map(str, arguments)],
        capture_output=True,
        cwd=folder,
        input=text,
        text=True,
        timeout=LIMIT,
    )
    assert done.stderr.count("\n") <= 1, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def send(served: Program | str, *options: object) -> Ran:
    address = served if isinstance(served, str) else served.address
    return run(
        "send", address.replace("[::]", "127.0.0.1"), *options, "--timeout", LIMIT, "hi"
    )


def known(ran: Ran) -> Any:
    """What the server's handler knows of a client that was let in."""
    assert (ran.status, ran.err) == (0, "")
    return eval(ran.out)


def refused(ran: Ran, said: str, verb: str = "send") -> None:
    """Check that the server, or this side, would not go on."""
    assert ran.status == 255
    assert ran.out == ""
    assert re.match(rf"pysock {verb}: .*(?:{said})", ran.err), ran.err


@contextlib.contextmanager
def told(folder: Path, *options: object) -> Iterator[Program]:
    """`pysock serve` with a handler that tells who its clients are."""
    arguments = [*map(str, options)]
    if "--bind" not in arguments:
        arguments += ["--bind", "tls://127.0.0.1:0"]
    with serving(folder, "app:tell", *arguments, app=APP) as served:
        yield served
        assert "Traceback" not in served.said


@pytest.fixture
def own_address() -> str:
    """An address of this machine that is not the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no other address than its loopback")
        address: str = sock.getsockname()[0]
    return address
