"""`pysock run` as a process, and a server for it.

A test module takes the fixture from here by assigning it: `served = runs.served`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from programs import LIMIT, PYTHON

COMMAND = [*PYTHON, "-P", "-m", "pysock", "run"]


class Served:
    """A server at the default address, and commands that are run there."""

    def __init__(self, folder: Path, server: Any) -> None:
        self.folder = folder
        self.server = server
        self.env = {
            **{name: value for name, value in os.environ.items() if name[:3] != "LC_"},
            "XDG_RUNTIME_DIR": str(folder),
        }

    def run(self, *arguments: str, stdin: bytes = b"", **env: str) -> tuple[int, bytes, str]:
        """Run a command to its end; return status, output and what was said."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            timeout=LIMIT,
            env=self.env | env,
        )
        return done.returncode, done.stdout, done.stderr.decode()

    def sh(self, script: str, *options: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        return self.run(*options, "--", "sh", "-c", script, stdin=stdin)

    @contextlib.contextmanager
    def running(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(
            [*COMMAND, *arguments], **{**pipes, "env": self.env, **options}
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    address = f"unix://{tmp_path}/pysock.sock"
    remote = pytest.importorskip("pysock.remote")
    with remote.RemoteServer(address, allow_root=True, cwd=tmp_path) as server:
        server.start()
        yield Served(tmp_path, server)
        server.stop(0)


def ending(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """Wait for the end without closing the command's input."""
    assert process.stdout is not None and process.stderr is not None
    status = process.wait(LIMIT)
    return status, process.stdout.read(), process.stderr.read().decode()


def line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
