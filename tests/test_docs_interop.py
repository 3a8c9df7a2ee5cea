"""What docs/interop.md shows runs as it stands, and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import pysock
from conftest import TIME_FACTOR
from pages import Page
from pysock import interop

PAGE = Page("docs/interop.md")
PROGRAMS = {block.split()[1]: block for block in PAGE.blocks("python")}


def promised(program: str) -> list[str]:
    """What comments behind print() calls, or at the end, say will be printed."""
    at_end = re.search(r"((?:^# .*\n)+)\Z", program, re.MULTILINE)
    behind = re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)
    return at_end[1].replace("# ", "").splitlines() if at_end else behind


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_prints_what_its_comments_say(name, tmp_path):
    (tmp_path / name).write_text(PROGRAMS[name], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", name],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30 * TIME_FACTOR,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert promised(PROGRAMS[name])
    assert done.stdout.splitlines() == promised(PROGRAMS[name])


def test_every_block_is_run():
    assert len(PAGE.blocks("python")) == len(PROGRAMS)
    assert PAGE.text.count("```") == 2 * len(PROGRAMS)


def test_names_in_the_text_exist():
    for name in re.findall(r"`interop\.(\w+)`", PAGE.text):
        assert name in interop.__all__
    handler = interop.MessageRequestHandler
    for name in ("framing", "timeout"):
        assert f"| `{name}` |" in PAGE.text and hasattr(handler, name)
    for name in re.findall(r"\| `(?:pysock\.)?(\w+)\([^|]*\|$", PAGE.text, re.MULTILINE):
        assert hasattr(pysock.Connection, name) or name in pysock.__all__, name


def test_links_lead_to_headings():
    for link in re.findall(r"\]\(([^)]+)\)", PAGE.text):
        name, _, anchor = link.partition("#")
        text = (PAGE.path.parent / name).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
        assert not anchor or anchor in anchors, link
