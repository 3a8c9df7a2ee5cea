"""`allow_uids`: everybody may connect to the path, and those that it names are served."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysock
from conftest import linux, unix
from peers import LONG, run_python

NOBODY = 65534

pytestmark = unix
as_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be another user"
)

ASK = f"""
import os, sys
import pysock
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
try:
    with pysock.Client(sys.argv[1], timeout=30) as client:
        print(client.request(b"x"))
except (OSError, EOFError) as exc:
    print(type(exc).__name__)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may go into."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_path_is_its_owners_unless_uids_are_named(folder):
    path = folder / "s"
    with pysock.Server(path, bytes.upper):
        assert mode_of(path) == 0o600
    with pysock.Server(path, bytes.upper, allow_uids=[os.getuid()]):
        assert mode_of(path) == 0o666


@pytest.mark.parametrize("address", ["path", "abstract"])
@linux
def test_own_uid_is_served(folder, address):
    where = folder / "s" if address == "path" else f"unix:@{folder.name}"
    with (
        pysock.Server(where, bytes.upper, allow_uids=[os.getuid()]).start(),
        pysock.Client(where, timeout=LONG) as client,
    ):
        assert client.request(b"x") == b"X"


@pytest.mark.case("T27")
@as_root
@linux
def test_others_are_served_if_they_are_named(folder):
    path = folder / "s"
    with pysock.Server(path, bytes.upper, allow_uids=[0, NOBODY]).start():
        assert run_python(ASK, str(path)) == "b'X'\n"
    with pysock.Server(path, bytes.upper, allow_uids=[0]).start() as server:
        assert run_python(ASK, str(path)).strip() in (
            "ConnectionClosed",
            "ConnectionResetError",
            "BrokenPipeError",
        )
        assert server.stats["refused"] == 1
    with pysock.Server(path, bytes.upper).start() as server:
        assert run_python(ASK, str(path)) == "PermissionError\n"
        assert server.stats["accepted"] == server.stats["refused"] == 0


def test_tcp_has_no_uids():
    with pytest.raises(ValueError, match="allow_uids is for Unix sockets"):
        pysock.Server("127.0.0.1:0", bytes.upper, allow_uids=[0])
