"""A standard output that is closed, full or read by nobody: one line, and a status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TIME_FACTOR

LIMIT = 30 * TIME_FACTOR
CLOSED = "cannot write the output: standard output is closed\n"
FULL = "cannot write the output: No space left on device\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell and pipes of POSIX")

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


def run(folder: Path, output: str, *arguments: str, buffered: bool = True) -> tuple[int, str]:
    """Run a command in *folder*, its *output* as a shell has it; return status and stderr."""
    env = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {output}', "sh", sys.executable, "-P", "-W", "error"]
        + ["-m", "pysock", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        cwd=folder,
        env=env,
    )
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


# ---------------------------------------------------------------- help and version

TOLD = [(["--help"], "pysock"), (["--version"], "pysock"), (["send", "--help"], "pysock send")]

told = pytest.mark.parametrize(("arguments", "who"), TOLD)
either = pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])


@needs_full
@told
@either
def test_help_that_cannot_be_written_is_a_failure(arguments, who, buffered, tmp_path):
    status, said = run(tmp_path, ">/dev/full", *arguments, buffered=buffered)
    assert (status, said) == (1, f"{who}: {FULL}")


@told
def test_help_is_not_shown_elsewhere_where_the_output_is_closed(arguments, who, tmp_path):
    assert run(tmp_path, ">&-", *arguments) == (1, f"{who}: {CLOSED}")


@told
@either
def test_help_that_nobody_reads_ends_quietly(arguments, who, buffered, tmp_path):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pysock", *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
