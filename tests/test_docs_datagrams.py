"""What docs/datagrams.md shows runs as it stands, and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TIME_FACTOR, linux
from pages import Page

PAGE = Page("docs/datagrams.md")
PROGRAMS = PAGE.blocks("python")

pytestmark = linux  # abstract addresses


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program_prints_what_the_page_says(program: str, tmp_path: Path) -> None:
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)
    if not expected:
        behind = PAGE.text.partition(program)[2].partition("\n\n")[2]
        promise = re.match(r"Prints `(.*?)` and `(.*?)`", behind)
        assert promise
        expected = list(promise.groups())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30 * TIME_FACTOR,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == expected
