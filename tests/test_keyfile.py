"""Files with secrets: only their owner may use them, and that is checked on the open file."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from peers import run_python
from pysock.keyfile import check_private, check_private_fd, read_private

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")

SIZE = 64 * 1024


def secret(folder: Path, data: bytes = b"data", mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_file_for_its_owner_alone_is_read(tmp_path, mode):
    path = secret(tmp_path, b"data\n", mode)
    check_private(path)
    assert read_private(path) == read_private(str(path)) == b"data\n"


@pytest.mark.case("T11")
@posix
@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_file_for_others_is_refused(tmp_path, bit):
    path = secret(tmp_path, b"hunter2", 0o600 | bit)
    for function in (check_private, read_private):
        with pytest.raises(PermissionError) as caught:
            function(path)
        text = f"mode {0o600 | bit:04o} lets others use it, run chmod 600 {path}"
        assert caught.value.strerror == text
        assert caught.value.filename == str(path)
        assert "hunter2" not in repr(caught.value)


@posix
@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="only root can be others")
@pytest.mark.parametrize(("mode", "outcome"), [(0o640, "data"), (0o644, "EACCES")])
def test_group_may_read_what_root_gives(mode, outcome):
    """systemd's credentials, Kubernetes' secrets and Debian's ssl-cert are such files."""
    program = """
import errno, os, sys
from pysock.keyfile import read_private
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    print(read_private(sys.argv[1]).decode())
except OSError as exc:
    print(errno.errorcode[exc.errno])
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = secret(Path(folder), b"data", mode)
        os.chown(path, 0, 65534)
        assert run_python(program, str(path)) == f"{outcome}\n"


@posix
def test_link_is_judged_by_the_file_it_leads_to(tmp_path):
    path = secret(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_private(link) == b"data"
    path.chmod(0o644)
    with pytest.raises(PermissionError, match="mode 0644"):
        read_private(link)


@posix
def test_open_file_is_judged_whatever_its_path_has_become(tmp_path):
    path = secret(tmp_path, mode=0o644)
    with path.open("rb") as file:
        path.rename(tmp_path / "old")
        secret(tmp_path)
        with pytest.raises(PermissionError, match=re.escape(str(path))):
            check_private_fd(file.fileno(), path)
    check_private(path)


@posix
def test_file_is_opened_once(tmp_path, monkeypatch):
    """Between a check by path and a read by path another file could take its place."""
    path, opened = secret(tmp_path), []

    def counting(*args: Any) -> Any:
        opened.append(args)
        return io.open(*args)  # noqa: UP020

    monkeypatch.setattr("builtins.open", counting)
    assert read_private(path) == b"data"
    assert opened == [(path, "rb")]


@posix
def test_pipe_from_a_shell_is_read():
    """As in `<(pass show key)`."""
    fd, writer = os.pipe()
    try:
        os.write(writer, b"data")
        os.close(writer)
        assert read_private(f"/dev/fd/{fd}") == b"data"
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, SIZE])
def test_file_of_any_size_up_to_the_limit_is_read(tmp_path, size):
    assert len(read_private(secret(tmp_path, bytes(size)))) == size


def test_file_that_is_too_large_is_refused(tmp_path):
    path = secret(tmp_path, bytes(SIZE + 1))
    with pytest.raises(ValueError, match=re.escape(f"{path}: more than 64 KiB, too much")):
        read_private(path)


def test_errors_of_the_system_name_the_file(tmp_path):
    for function in (check_private, read_private):
        with pytest.raises(FileNotFoundError) as caught:
            function(tmp_path / "none")
        assert caught.value.filename == str(tmp_path / "none")
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    with pytest.raises(OSError, match="folder"):
        read_private(folder)


def test_windows_has_no_modes_to_judge(tmp_path, monkeypatch):
    path = secret(tmp_path, mode=0o644)
    monkeypatch.setattr("pysock.keyfile._HAS_MODES", False)
    check_private(path)
    assert read_private(path) == b"data"
