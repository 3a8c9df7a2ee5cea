"""multiprocessing.connection with a key: every Python there is, both roles; and who fails."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import ipv6, linux, unix
from gate import warnings_in
from interop.messages import MIB, messages
from interop.program import LIMIT, first_line, running, script
from mp_ends import refusing
from proofs import KEY, OTHER_KEY
from pysock import AuthenticationError
from pysock.interop import Client, Listener, MultiprocessingSession

SIZES = (0, 1, 16384, 16385, 5 * MIB)
WANTED = messages(SIZES)
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OLD = "3.11"  # knows MD5 only
VERSIONS = sorted({HERE, "3.11", "3.12", "3.13"})


@functools.cache
def found(version: str) -> str | None:
    """Return the interpreter of that version, if there is one that runs."""
    if version == HERE:
        return sys.executable
    name = f"python{version}"
    others = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/{name}"))
    for path in (shutil.which(name), *others):
        if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode:
            return str(path)
    return None


class Their:
    """Programs of one version of Python."""

    def __init__(self, version: str) -> None:
        python = found(version)
        if python is None:
            pytest.skip(f"Python {version} is not here")
        self._python = python
        self.legacy = version == OLD

    def run(
        self, role: str, place: object, *sizes: int, key: bytes = KEY, digest: str = ""
    ) -> Any:
        _, program, *rest = script("authkey_peer.py", role, place, key.hex(), digest, *sizes)
        return running(self._python, program, *rest)


@pytest.fixture(params=VERSIONS)
def their(request: pytest.FixtureRequest) -> Their:
    return Their(request.param)


@pytest.fixture(params=[version for version in VERSIONS if version != OLD])
def their_modern(request: pytest.FixtureRequest) -> Their:
    return Their(request.param)


def rest_of(peer: subprocess.Popen[str]) -> str:
    """What a program says until its end."""
    assert peer.stdout is not None
    return peer.stdout.read().strip()


# ------------------------------------------------------------ Python itself


@pytest.mark.case("I03")
@pytest.mark.parametrize(
    "kind",
    [
        "tcp",
        pytest.param("tcp6", marks=ipv6),
        pytest.param("path", marks=unix),
        pytest.param("abstract", marks=linux),
    ],
)
def test_their_listener(their, kind, tmp_path):
    path, name = str(tmp_path / "s"), f"pysock{tmp_path}"
    place = {"tcp": "0", "tcp6": "::1", "path": path, "abstract": f"@{name}"}[kind]
    with their.run("server", place) as peer:
        where = first_line(peer)
        address = {
            "tcp": f"tcp://127.0.0.1:{where}",
            "tcp6": f"tcp://[::1]:{where}",
            "path": path,
            "abstract": f"unix:@{name}",
        }[kind]
        with Client(address, authkey=KEY, legacy=their.legacy, timeout=LIMIT) as client:
            assert type(client) is pysock.Connection
            assert [client.request(message) for message in WANTED] == WANTED
        assert rest_of(peer) == "served"


@pytest.mark.case("I03")
@pytest.mark.parametrize(
    "kind",
    ["tcp", pytest.param("path", marks=unix), pytest.param("abstract", marks=linux)],
)
def test_their_client(their, kind, tmp_path):
    name = f"pysock{tmp_path}"
    address = {"tcp": "127.0.0.1:0", "path": tmp_path / "s", "abstract": f"unix:@{name}"}[kind]
    with Listener(address, authkey=KEY, legacy=their.legacy, timeout=LIMIT) as listener:
        place = {"tcp": listener.address[1], "path": tmp_path / "s", "abstract": f"@{name}"}
        with their.run("client", place[kind], *SIZES) as peer:
            with listener.accept(LIMIT) as connection:
                assert [message for message in connection if not connection.send(message)] == (
                    WANTED
                )
            assert rest_of(peer) == "called"


@pytest.mark.case("I03")
def test_their_client_in_a_session(their):
    class Echo(MultiprocessingSession):
        authkey = KEY
        legacy = their.legacy

        def handle(self) -> None:
            for message in self.connection:
                self.connection.send(message)

    with (
        pysock.Server("127.0.0.1:0", Echo).start() as server,
        their.run("client", server.server_address[1], *SIZES) as peer,
    ):
        assert rest_of(peer) == "called"


@pytest.mark.case("I03")
def test_wrong_key_at_their_listener(their):
    with their.run("server", 0, key=OTHER_KEY) as peer:
        address = ("127.0.0.1", int(first_line(peer)))
        with pytest.raises(AuthenticationError, match="the other side refused the key"):
            Client(address, authkey=KEY, legacy=their.legacy)
        assert rest_of(peer) == "AuthenticationError: digest received was wrong"


@pytest.mark.case("I03")
def test_wrong_key_of_their_client(their, caplog):
    with (
        refusing(authkey=KEY, legacy=their.legacy) as listener,
        their.run("client", listener.address[1], key=OTHER_KEY) as peer,
    ):
        assert rest_of(peer) == "AuthenticationError: digest sent was rejected"
    (warning,) = warnings_in(caplog)
    assert "the answer to a challenge is wrong: the other side has another key" in warning


@pytest.mark.case("T20", "I03")
def test_their_md5_is_refused_unless_asked_for(caplog):
    their = Their(OLD)
    with their.run("server", 0) as peer:
        address = ("127.0.0.1", int(first_line(peer)))
        with pytest.raises(AuthenticationError, match=r"MD5, .* Python 3\.11 .* legacy=True"):
            Client(address, authkey=KEY)
        assert rest_of(peer).startswith("EOFError")
    with refusing(authkey=KEY) as listener, their.run("client", listener.address[1]) as peer:
        assert rest_of(peer) == "AuthenticationError: digest sent was rejected"
    assert "legacy=True" in warnings_in(caplog)[0]


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha3_256", "sha3_384"])
def test_their_choice_of_a_digest(their_modern, digest):
    with their_modern.run("server", 0, digest=digest) as peer:
        with Client(
            ("127.0.0.1", int(first_line(peer))), authkey=KEY, timeout=LIMIT
        ) as client:
            assert client.request(b"x") == b"x"
        assert rest_of(peer) == "served"


@pytest.mark.parametrize("legacy", [False, True])
def test_their_choice_of_md5(their_modern, legacy):
    with their_modern.run("server", 0, digest="md5") as peer:
        address = ("127.0.0.1", int(first_line(peer)))
        if legacy:
            with Client(address, authkey=KEY, legacy=True, timeout=LIMIT) as client:
                assert client.request(b"x") == b"x"
        else:
            with pytest.raises(AuthenticationError, match="MD5"):
                Client(address, authkey=KEY)
