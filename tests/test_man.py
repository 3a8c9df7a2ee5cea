"""The manual page: it is what the verbs say of themselves, and a page that man can show."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pysock
from conftest import TIME_FACTOR, require_peer
from pages import ROOT
from pysock.cli import VERBS, grammar, manual
from test_cli_help import examples

LIMIT = 30 * TIME_FACTOR
DATE = "2026-01-31"
KEPT = ROOT / "man" / "pysock.1"


def dated(text: str) -> str:
    """Return a page with our date."""
    return re.sub(r'(?m)^(\.TH PYSOCK 1) "[0-9]{4}-[0-9]{2}-[0-9]{2}"', rf'\1 "{DATE}"', text)


def installed() -> Path:
    """Where the page was put when the pysock that is tested was installed."""
    try:
        files = importlib.metadata.files("pysock-framing") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = [Path(str(file.locate())).resolve() for file in files]
    if Path(pysock.__file__).resolve() not in paths:
        pytest.skip("what is tested was not installed")
    (found,) = [path for path in paths if path.name == "pysock.1"]
    return found


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "pysock.1"
    path.write_text(manual.page(DATE))
    return path


@pytest.fixture
def shown(page: Path) -> str:
    """The page as a terminal of 80 columns has it, without bold letters."""
    env = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(
        [require_peer("man"), "--warnings", "-P", "cat", "-l", page],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**env, "GROFF_NO_SGR": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub(r".\x08", "", done.stdout)


# ---------------------------------------------------------------- in step with the verbs


@pytest.mark.skipif(not KEPT.exists(), reason="not among the sources")
def test_kept_page_is_up_to_date() -> None:
    """`make man` writes it."""
    assert dated(KEPT.read_text()) == manual.page(DATE)


def test_installed_page_is_that_of_this_version() -> None:
    path = installed()
    assert path.parts[-4:] == ("share", "man", "man1", "pysock.1")
    assert dated(path.read_text()) == manual.page(DATE)


def test_program_prints_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-m", "pysock.cli.manual"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=tmp_path,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1769860800"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == manual.page(DATE)
    assert f'"pysock {pysock.__version__}"' in done.stdout.splitlines()[0]


# ---------------------------------------------------------------- whole


def sections(text: str) -> dict[str, str]:
    """Return the parts of the source that begin with .SS, by their titles."""
    parts = re.split(r"(?m)^\.S[SH] ", text)[1:]
    return {part.partition("\n")[0].replace("\\-", "-"): part for part in parts}


def test_page_has_every_verb_with_every_option(page: Path) -> None:
    text = page.read_text()
    found = sections(text)
    for verb in grammar.verbs():
        mine = found[f"pysock {verb.name}"]
        shared = [part for title, part in found.items() if named(title, verb.name)]
        for option in verb.options:
            for name in option.names:
                bold = f"\\fB{name.replace('-', chr(92) + '-')}\\fR"
                where = [found["OPTIONS"]] if option.alone else [mine, *shared]
                assert any(bold in part for part in where), (verb.name, name)
    assert text.count("\n.SS pysock ") == len(VERBS)


def named(title: str, verb: str) -> bool:
    """Whether a section is that of options which *verb* has too."""
    return verb in title.partition(": ")[2].split(", ")


def test_options_of_several_verbs_are_there_once(page: Path) -> None:
    text = page.read_text()
    assert text.count("\\fB\\-\\-server\\-hostname\\fR") == 1
    assert text.count("\\fB\\-\\-client\\-ca\\fR") == 1
    titles = [title for title in sections(text) if title.startswith("TLS and keys: ")]
    assert len(titles) == 2
    for title in titles:
        pointer = f"More options are under \\fB{title.replace('-', chr(92) + '-')}\\fR below."
        users = title.partition(": ")[2].split(", ")
        assert " ".join(text.split()).count(pointer) == len(users)


# ---------------------------------------------------------------- as man shows it


def test_checkers_have_nothing_to_say(page: Path) -> None:
    done = subprocess.run(
        [require_peer("mandoc"), "-T", "lint", page], capture_output=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    command = [require_peer("groff"), "-man", "-ww", "-Tascii", "-z", page]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_it_fits_the_screen_and_cuts_no_word(shown: str) -> None:
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert "\N{HYPHEN}" not in shown
    assert shown.isascii()


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_shown_can_be_typed(verb: str, shown: str) -> None:
    """No dash, quote or backslash has become another character."""
    part = shown.partition(f"\n   pysock {verb}\n")[2]
    lines = " ".join(part.partition("\n   pysock ")[0].replace("\\\n", "").split())
    for line in examples(verb):
        assert line in lines


def test_words_of_help_are_all_there(shown: str) -> None:
    words = shown.split()
    for verb in grammar.verbs():
        for text in (verb.description, *(option.help for option in verb.options)):
            wanted = text.replace("`", "").split()
            assert any(
                words[at : at + len(wanted)] == wanted
                for at, word in enumerate(words)
                if word == wanted[0]
            ), text
