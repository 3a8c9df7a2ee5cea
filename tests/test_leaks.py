"""The check after every test sees what was left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import leaks
from conftest import linux, unix
from peers import LONG
from pysock import unixpath


@pytest.fixture
def before() -> leaks.Held:
    return leaks.held()


def test_nothing(before: leaks.Held, tmp_path: Path) -> None:
    with socket.socket(), tempfile.TemporaryFile():
        pass
    (tmp_path / "a file of the test's own").touch()
    assert leaks.left_behind(before, 0) == ""


def test_descriptor(before: leaks.Held) -> None:
    with socket.socket() as sock:
        found = leaks.left_behind(before, 0)
        assert found.startswith(f"descriptors ['{sock.fileno()}") or not leaks.FD_FOLDERS


def test_thread(before: leaks.Held) -> None:
    """One that ends soon is not left behind"""
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="helper", args=[LONG])
    thread.start()
    assert leaks.left_behind(before, 0) == "threads ['helper']"
    go_on.set()
    assert leaks.left_behind(before, LONG) == ""


@linux
def test_child(before: leaks.Held) -> None:
    """Alive or dead, as long as nobody has waited for it"""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert f"children ['{child.pid} {sys.executable}" in leaks.left_behind(before, 0)
        assert child.stdin is not None
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert leaks.left_behind(before, 0) == f"children ['{child.pid} (dead)']"
    assert leaks.left_behind(before, 0) == ""


def test_temporary_file(before: leaks.Held) -> None:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        pass
    assert leaks.left_behind(before, 0) == f"files ['{Path(file.name).name}']"
    Path(file.name).unlink()
    assert leaks.left_behind(before, 0) == ""


@unix
def test_path_of_a_socket(before: leaks.Held, tmp_path: Path) -> None:
    """That pysock has bound, and not the test itself"""
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        unixpath.bind_and_listen(sock, str(tmp_path / "s"), 1)
    assert leaks.left_behind(before, 0) == f"files ['{tmp_path}/s']"
    (tmp_path / "s").unlink()
    assert leaks.left_behind(before, 0) == ""


def test_what_only_garbage_holds_is_not_left_behind(before: leaks.Held) -> None:
    circle: list[Any] = [tempfile.TemporaryDirectory()]
    circle.append(circle)
    del circle
    with pytest.warns(ResourceWarning, match="Implicitly cleaning up"):
        assert leaks.left_behind(before, 0) == ""
