"""What the prompt of `pysock shell` completes, and what it keeps of what was typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pysock.cli.shell_prompt import History, Word, completions, names_command
from pysock.cli.shell_state import quoted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")


# ---------------------------------------------------------------- completion


ODD = r"""plain;;two words;;größe;;it's;;"quoted";;a$b`c;;back\slash;;-x;;~t;;semi;colon"""
NAMES = [*ODD.split(";;"), "star*", "#hash", "a=b", "(paren)", "!bang", "{a,b}", "dots…"]


@pytest.mark.parametrize("opening", ["", "'", '"', "./", "~/"])
def test_completed_name_is_what_the_shell_reads(tmp_path: Path, opening: str) -> None:
    for name in NAMES:
        (tmp_path / name).write_text("")

    def names(command: bytes) -> list[bytes]:
        out = subprocess.run(
            ["/bin/sh", "-c", command], cwd=tmp_path, env={"HOME": str(tmp_path)},
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        return out.split(b"\0")[:-1]

    found = {}
    line = f"echo x {opening}"
    for start, text, shown in completions(line, names):
        found[shown] = line[: len(line) + start] + text
    assert set(found) == set(NAMES)
    for name, whole in found.items():
        out = subprocess.run(
            ["/bin/sh", "-c", whole.replace("echo x", "printf %s", 1)],
            cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
        prefix = {"./": "./", "~/": f"{tmp_path}/"}.get(opening, "")
        assert out == prefix + name


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("", Word(0, "", first=True)),
        ("ls", Word(0, "ls", first=True)),
        ("ls ", Word(3, "")),
        ("ls a\\ b", Word(3, "a b")),
        ("ls 'a b", Word(3, "a b", "'")),
        ('ls "a\\$b\\c', Word(3, "a$b\\c", '"')),
        ("ls 'a'b", Word(3, "ab")),
        ("ls a; ca", Word(6, "ca", first=True)),
        ("ls a && ca", Word(8, "ca", first=True)),
        ("ls >o", Word(4, "o")),
        ("A=/u", Word(2, "/u")),
        ("ls $HO", Word(3, "$HO", fixed=False)),
        ("ls '$HO", Word(3, "$HO", "'")),
        ("ls a*", Word(3, "a*", fixed=False)),
        ("ls ~/a", Word(3, "a", home=True)),
    ],
)
def test_last_word_is_read_as_a_shell_would(line: str, word: Word) -> None:
    assert Word.last_of(line) == word


def test_name_that_is_typed_cannot_run_anything(tmp_path: Path) -> None:
    word = Word.last_of("cat '; touch owned; x=$(touch owned)`touch owned`/\"")
    command = names_command(word)
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=False)
    assert not list(tmp_path.iterdir())


def test_quoted_word_is_one_word() -> None:
    for text in (b"", b"it's", b'$(x) `y` \\ " \n', bytes(range(1, 256))):
        command = b"printf %s " + quoted(text)
        assert subprocess.check_output(["/bin/sh", "-c", command]) == text


# ---------------------------------------------------------------- history


def test_history_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file" / "below" / "history")
    assert history.add("a")
    assert history.lines() == []


def test_long_history_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysock.cli.shell_prompt.LONGEST_HISTORY", 3)
    path = tmp_path / "history"
    path.write_text("".join(f"{number}\n" for number in range(10)))
    assert History(path).lines() == ["7", "8", "9"]
    assert path.read_text() == "7\n8\n9\n"
    assert os.listdir(tmp_path) == ["history"]


def test_history_without_a_path_or_with_strange_bytes(tmp_path: Path) -> None:
    assert History(None).lines() == []
    path = tmp_path / "history"
    path.write_bytes(b"a\xff\n")
    history = History(path)
    assert [line.encode(errors="surrogateescape") for line in history.lines()] == [b"a\xff"]
    history.add("two\nlines")
    assert path.read_bytes() == b"a\xff\ntwo lines\n"
