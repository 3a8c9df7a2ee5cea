"""`.ci/release` tags only what is committed, dated in the changelog, and not tagged before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import require_peer

SCRIPT = Path(__file__).parent.parent / ".ci" / "release"

pytestmark = [
    pytest.mark.skipif(not SCRIPT.exists(), reason="the script is not here"),
    pytest.mark.skipif(sys.platform == "win32", reason="it is a shell script"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A committed project whose version 1.2.0 is ready to be released."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci")
    (tmp_path / "pysock").mkdir()
    (tmp_path / "pysock" / "_version.py").write_text('"""One."""\n\n__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 1.2.0 (2027-01-31)\n\n## 1.1.0\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Begin")
    return tmp_path


def git(project: Path, *words: str) -> str:
    identity = [
        f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    ]
    done = subprocess.run(
        [require_peer("git"), *words],
        cwd=project,
        env=os.environ | dict.fromkeys(identity, "test") | {"GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def release(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [project / ".ci" / "release", *words],
        env=os.environ | {"GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "test"},
        capture_output=True,
        text=True,
    )


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_release_tags_and_says_what_to_push(project: Path):
    done = release(project)
    assert done.returncode == 0, done.stderr
    assert git(project, "tag") == "v1.2.0\n"
    assert "git push origin HEAD v1.2.0" in done.stdout


@pytest.mark.parametrize("commit", [False, True])
def test_release_of_another_version_than_the_changelog_has(project: Path, commit: bool):
    rewrite(project / "pysock" / "_version.py", "1.2.0", "1.3.0")
    if commit:
        git(project, "commit", "-qam", "Raise the version")
    for words in ([], ["--check"]):
        done = release(project, *words)
        assert done.returncode == 1
        assert "1.2.0 (2027-01-31)" in done.stderr
        assert "1.3.0" in done.stderr
    assert git(project, "tag") == ""


def test_release_without_a_date(project: Path):
    rewrite(project / "CHANGELOG.md", "(2027-01-31)", "(unreleased)")
    git(project, "commit", "-qam", "Take the date away")
    done = release(project)
    assert done.returncode == 1
    assert "'1.2.0 (unreleased)' has no date" in done.stderr
    assert release(project, "--check").returncode == 0


@pytest.mark.parametrize("name", ["pysock/new.py", "CHANGELOG.md"])
def test_release_with_changes_that_are_not_committed(project: Path, name: str):
    with open(project / name, "a") as file:
        file.write("\n")
    done = release(project)
    assert done.returncode == 1
    assert "not committed" in done.stderr
    assert git(project, "tag") == ""


def test_release_twice(project: Path):
    assert release(project).returncode == 0
    done = release(project)
    assert done.returncode == 1
    assert "there is a tag v1.2.0" in done.stderr


@pytest.mark.parametrize(("tag", "status"), [("v1.2.0", 0), ("v1.2", 1), ("1.2.0", 1)])
def test_check_of_a_tag(project: Path, tag: str, status: int):
    done = release(project, "--check", tag)
    assert done.returncode == status
    assert (tag in done.stderr) == bool(status)
