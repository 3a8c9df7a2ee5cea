"""Files stored and fetched through a whole server (R36)."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import certificates
import remotes
from pysock import RemoteError
from pysock.remote import RemoteClient, part
from pysock.remote.protocol import CHUNK
from remote_links import LONG, LOST, Progress, content, parts, raising

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="serves no files there")

certs = certificates.certs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    path = tmp_path / "here"
    path.write_bytes(content(4 * CHUNK + 1))
    return path


@pytest.mark.case("R36")
@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_files_go_both_ways_between_commands_r36(tmp_path, root, here, certs, transport):
    secured = certs if transport == "tls" else None
    with (
        remotes.served(tmp_path, secured, files_root=root) as server,
        server.client() as remote,
    ):
        remote.mkdir("folder")
        remote.put(here, "folder/there")
        assert remote.run(["cat", root / "folder" / "there"]).stdout == here.read_bytes()
        remote.get("folder/there", tmp_path / "back")
        (entry,) = remote.listdir("folder")
    assert (tmp_path / "back").read_bytes() == here.read_bytes()
    assert (entry.name, entry.size) == (b"there", 4 * CHUNK + 1)
    assert entry.mtime_ns == here.stat().st_mtime_ns


@pytest.mark.case("R36")
def test_failed_transfers_leave_the_connection_for_commands_r36(tmp_path, root, here):
    with remotes.served(tmp_path, files_root=root) as server, server.client() as remote:
        (root / "link").symlink_to(here)
        big = tmp_path / "big"
        with big.open("wb") as file:
            file.truncate(64 << 20)
        remote.put(big, "big")
        for error, call in (
            (RemoteError, lambda: remote.put(here, "../x")),
            (RemoteError, lambda: remote.get("link", tmp_path / "x")),
            (FileNotFoundError, lambda: remote.get("missing", tmp_path / "x")),
            (FileExistsError, lambda: remote.put(here, "big", overwrite=False)),
            (FileNotFoundError, lambda: remote.get("big", tmp_path / "no" / "x")),
            (KeyError, lambda: remote.put(big, "x", progress=Progress(raising(KeyError())))),
            (
                KeyError,
                lambda: remote.get("big", here, progress=Progress(raising(KeyError()))),
            ),
        ):
            connection = remote._link._client
            with pytest.raises(error):
                call()
            assert remote.run(["echo", "on"]).stdout == b"on\n"
            assert remote._link._client is connection
    assert sorted(os.listdir(root)) == ["big", "link"]
    assert parts(tmp_path) == []


def test_server_without_files_and_one_that_does_not_allow_them_refuse(tmp_path, root, here):
    with remotes.served(tmp_path) as server, server.client() as remote:
        with pytest.raises(RemoteError, match="files_root") as caught:
            remote.put(here, "x")
        assert caught.value.code == "refused"
    with (
        remotes.served(tmp_path, files_root=root, allow=["get", "list"]) as server,
        server.client() as remote,
    ):
        with pytest.raises(RemoteError) as caught:
            remote.put(here, "x")
        assert caught.value.code == "refused"
        assert remote.listdir() == []
    assert os.listdir(root) == []


def test_transfers_are_in_the_audit(tmp_path, root, here, caplog):
    with (
        caplog.at_level(logging.INFO, "pysock.remote"),
        remotes.served(tmp_path, files_root=root) as server,
        server.client() as remote,
    ):
        remote.put(here, "there")
        with pytest.raises(FileNotFoundError):
            remote.get("missing", tmp_path / "x")
    text = "\n".join(caplog.messages)
    assert "there" in text and "ENOENT" in text


CLIENT = """
import sys
from pysock.remote import RemoteClient

def progress(done, total):
    if done >= 2 * 262144:
        print("half", flush=True)
        sys.stdin.read()

with RemoteClient(sys.argv[1]) as remote:
    remote.put(sys.argv[2], "there", progress=progress)
"""


@pytest.mark.case("R36")
def test_put_of_a_client_that_was_killed_goes_on_r36(tmp_path, root, here):
    with remotes.served(tmp_path, files_root=root) as server, server.client() as remote:
        command = [sys.executable, "-P", "-c", CLIENT, f"unix://{tmp_path}/s", str(here)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdout.readline() == b"half\n"
            client.send_signal(signal.SIGKILL)
        progress = Progress()
        remote.put(here, "there", progress=progress)
    assert progress.told[0] == (2 * CHUNK, 4 * CHUNK + 1)
    assert (root / "there").read_bytes() == here.read_bytes()
    assert parts(root) == []


@pytest.mark.case("R36")
@pytest.mark.parametrize("what", ["put", "get"])
def test_transfer_whose_server_was_killed_goes_on_with_the_next_r36(
    tmp_path, root, here, what
):
    with here.open("wb") as file:
        file.truncate(16 << 20)
    there = root / "there"
    if what == "get":
        here.rename(there)
    ends = (here, "there") if what == "put" else ("there", here)
    target = there if what == "put" else here
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(remotes.server_program(tmp_path, files_root=str(root)))
        remote = stack.enter_context(RemoteClient(f"unix://{tmp_path}/s", timeout=LONG))
        transfer = getattr(remote, what)
        with pytest.raises(LOST):
            transfer(*ends, progress=Progress(program.kill, 4 << 20))
        assert not target.exists()
        stack.enter_context(remotes.served(tmp_path, files_root=root))
        progress = Progress()
        transfer(*ends, progress=progress)
    assert progress.told[0][0] >= 2 << 20
    assert target.stat().st_size == 16 << 20


@pytest.mark.case("R36")
def test_same_file_put_by_two_clients_at_once_is_busy_for_one_r36(
    tmp_path, root, here, monkeypatch
):
    monkeypatch.setattr(part, "PATIENCE", 0.0)
    with (
        remotes.served(tmp_path, files_root=root) as server,
        server.client() as remote,
        server.client() as other,
    ):

        def second() -> None:
            with pytest.raises(RemoteError) as caught:
                other.put(here, "there")
            assert caught.value.code == "busy"

        remote.put(here, "there", progress=Progress(second))
        other.put(here, "there")
    assert (root / "there").read_bytes() == here.read_bytes()
