"""What README.md shows runs as it stands, and prints what it says."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import TIME_FACTOR
from pages import ROOT, Page, allowing_root
from pysock.cli import VERBS

PAGE = Page("README.md")
TEXT = PAGE.text

MODULES = [block for block in PAGE.blocks("python") if block.startswith("# app.py\n")]
PROGRAMS = [block for block in PAGE.blocks("python") if block not in MODULES]
COMMANDS = [
    line.partition("#")[0].strip()
    for block in PAGE.blocks("sh")
    for line in block.splitlines()
]


def expected(program: str) -> list[str]:
    """Return what the comments behind print() calls promise."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)


def run(program: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *options],
        input=program,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        timeout=30 * TIME_FACTOR,
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program_prints_what_its_comments_say(program, tmp_path):
    path = tmp_path / "example.py"
    path.write_text(allowing_root(program), encoding="utf-8")
    done = run("", tmp_path, str(path))
    assert done.stderr == ""
    assert done.returncode == 0
    assert expected(program)
    assert done.stdout.splitlines() == expected(program)


def test_first_program_can_be_pasted_into_the_interpreter(tmp_path):
    done = run(f"{PROGRAMS[0]}\n", tmp_path, "-i", "-q")
    assert "Error" not in done.stderr
    assert done.stdout.splitlines() == expected(PROGRAMS[0])


@functools.cache
def help_of(verb: str) -> str:
    done = run("", ROOT, "-P", "-m", "pysock", verb, "--help")
    assert done.returncode == 0
    return done.stdout


def test_commands_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    verbs = set()
    for command in COMMANDS:
        words = command.rpartition("| ")[2].split()
        if words[0] == "make":
            assert words[1] in targets
        elif words[0] == "pysock":
            verbs.add(words[1])
        else:
            assert command in ("pip install .", "pip install '.[cli]'")
    assert verbs == {*VERBS}
    assert verbs == {*re.findall(r"^\| `pysock ([\w-]+)` \|", TEXT, re.MULTILINE)}
    for verb in verbs:
        assert help_of(verb).startswith(f"usage: pysock {verb} ")


def test_options_of_commands_exist():
    for command in COMMANDS:
        words = command.rpartition("| ")[2].split()
        if words[0] == "pysock":
            for option in re.findall(r"(--[a-z-]+)", command.partition(" -- ")[0]):
                assert option in help_of(words[1])


def test_module_is_the_handler_that_the_text_serves():
    (module,) = MODULES
    names: dict[str, Any] = {}
    exec(module, names)
    assert names["handler"](b"hello") == b"HELLO"
    assert any(command.startswith("pysock serve app:handler ") for command in COMMANDS)


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).is_file(), link


def test_formats_named_in_the_text_exist():
    from pysock import formats

    names = re.findall(r"`([A-Z][A-Z0-9]{2,})`", TEXT)
    assert names
    assert set(names) <= set(formats.__all__)
