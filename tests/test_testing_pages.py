"""The pytest plugin, and docs/testing.md: what it shows runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TIME_FACTOR, resets
from pages import Page
from pysock.testing import Faults

PAGE = Page("docs/testing.md")
FILES = {block.split()[1]: block for block in PAGE.blocks("python")}


def run_pytest(folder: Path, *names: str) -> str:
    """Run pytest in *folder*, on these files or on all; return what it says."""
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-W", "error", *names],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30 * TIME_FACTOR,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "test_plugin.py").write_text(PLUGIN)
    return run_pytest(folder)


PLUGIN = """
made = []

def test_fails(pysock_pair, pysock_socket_pair):
    made.append(pysock_pair(cut=2))
    made.append(pysock_socket_pair(merge=True))
    a, b = made[0]
    a.send(b"x")
    assert b.recv() == b"y"

def test_afterwards():
    assert made[0].a.closed and made[1].b.fileno() == -1
    for pair in made:
        assert "closed" in repr(pair)
"""


@resets
def test_programs_of_the_page_pass_and_the_broken_one_fails_as_shown(said):
    failed = {*re.findall(r"^FAILED (\w+\.py)::(\w+)", said, re.MULTILINE)}
    assert failed == {
        ("test_broken.py", "test_broken_reader"),
        ("test_plugin.py", "test_fails"),
    }
    assert " error" not in said.splitlines()[-1]
    tests = {*re.findall(r"^(test_\w+\.py) ", said, re.MULTILINE)}
    assert tests == {name for name in FILES if name.startswith("test_")} | {"test_plugin.py"}
    (shown,) = PAGE.blocks("text")
    assert shown
    for line in shown.splitlines():
        assert line in said


def test_fixtures_close_their_pairs_and_tell_of_them_after_a_failure(said):
    assert "test_plugin.py F." in said
    assert re.search(r"^<Pair over .*; a to b: 5 bytes as 2 x 2 \+ 1, ", said, re.MULTILINE)
    assert re.search(r"^<Pair over .*Faults\(merge=True\)>$", said, re.MULTILINE)


def test_arguments_in_the_table_exist():
    shown = re.findall(r"^\| `(\w+)=(.+)` \|", PAGE.text, re.MULTILINE)
    assert len(shown) > 5
    for name, value in shown:
        if name != "family":
            Faults(**{name: eval(value)})
