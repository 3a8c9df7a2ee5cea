"""Whom a remote server serves at a Unix socket, where no key is asked for."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import linux
from pysock import RemoteError
from pysock.remote import RemoteClient, RemoteServer

NOBODY = 65534
KEY = bytes(range(32))

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "abstract":
        yield f"unix:@{tmp_path.name}-{os.getpid()}"
        return
    with tempfile.TemporaryDirectory() as folder:  # above it others may pass
        os.chmod(folder, 0o755)
        yield f"unix://{folder}/socket"


def as_nobody(address: str, **options: Any) -> str:
    """Return what a client of another user gets."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(NOBODY)
            try:
                with RemoteClient(address, **options) as remote:
                    said = remote.run(["id", "-u"], text=True).stdout.strip()
            except (RemoteError, OSError) as exc:
                said = f"{type(exc).__name__} {getattr(exc, 'code', '')}".strip()
            os.write(writer, said.encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)  # nothing of the parent's is to run here
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said


def open_to_all(server: RemoteServer) -> None:
    if not server.addresses[0].path.startswith(("@", "\0")):
        os.chmod(server.addresses[0].path, 0o666)  # somebody was careless


@pytest.mark.case("T27")
@linux
@root
def test_another_user_is_refused_whatever_the_mode(address: str) -> None:
    with RemoteServer(address, allow_root=True) as server:
        open_to_all(server)
        server.start()
        assert as_nobody(address) == "RemoteError refused"
        with RemoteClient(address) as remote:
            assert remote.run(["id", "-u"]).stdout == b"0\n"


@linux
@root
def test_another_user_with_a_key_is_served(address: str) -> None:
    with RemoteServer(address, allow_root=True, authkey=KEY) as server:
        open_to_all(server)
        server.start()
        assert as_nobody(address, authkey=KEY) == "0"


@linux
@root
def test_another_user_that_is_named_is_served(address: str) -> None:
    with RemoteServer(address, allow_root=True, allow_uids=[NOBODY]) as server:
        server.start()
        assert as_nobody(address) == "0"
