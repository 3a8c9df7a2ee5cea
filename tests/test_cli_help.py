"""What `--help` says: of every verb, within the screen, and with examples that work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import TIME_FACTOR
from pysock import formats
from pysock.cli import VERBS, Parser, grammar, load, main

LIMIT = 30 * TIME_FACTOR
CONTINUED = "\\\n"


@pytest.fixture(autouse=True)
def no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 has them, and CI may ask for them."""
    monkeypatch.setenv("NO_COLOR", "1")


def examples(verb: str) -> list[str]:
    """Return the lines that help shows as examples, each whole."""
    (part,) = [part for part in EPILOGS[verb].split("\n\n") if part.startswith("examples:\n")]
    lines = part.removeprefix("examples:\n").replace(CONTINUED, "").splitlines()
    return [" ".join(line.split()) for line in lines]


EPILOGS: dict[str, str] = {verb: load(verb)[0].EPILOG for verb in VERBS}
EXAMPLES = [(verb, line) for verb in VERBS for line in examples(verb)]


def words_of(line: str) -> list[str]:
    """Return the words that a shell gives to pysock."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word == "|":
            if words[:1] == ["pysock"]:
                break
            words = []
        else:
            words.append(word)
    for sign in "<>":
        if sign in words:
            at = words.index(sign)
            del words[at : at + 2]
    assert words[0] == "pysock"
    return words[1:]


def helped(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*arguments, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


# ---------------------------------------------------------------- what is there


@pytest.mark.parametrize("verb", VERBS)
def test_verb_tells_what_it_does_and_all_that_it_takes(verb: str) -> None:
    found = grammar.verb(verb)
    assert found.description.endswith(".")
    assert 10 < len(found.summary) < 62
    for part in (*found.arguments, *found.options):
        assert len(part.help) > 7, part
        assert part.help[-1] not in ".:; ", part
    assert re.search(r"(?m)^exit status: ", found.epilog)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_has_examples_of_itself(verb: str) -> None:
    assert EPILOGS[verb].startswith("examples:\n")
    lines = examples(verb)
    assert 2 <= len(lines) <= 5
    assert len({*lines}) == len(lines)
    for line in lines:
        assert words_of(line)[0] == verb


@pytest.mark.parametrize(("verb", "line"), EXAMPLES)
def test_example_is_taken(verb: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.isdir", lambda path: True)  # for --files-root
    module, parser = load(verb)
    parse = getattr(module, "parse", Parser.parse_intermixed_args)
    options = parse(parser, words_of(line)[1:])
    framing = getattr(options, "framing", "length4")
    assert framing in formats.NAMED or "(" in framing


def test_command_itself_lists_verbs_and_has_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = helped(capsys=capsys)
    for verb, summary in VERBS.items():
        assert re.search(rf"(?m)^  {verb} +{summary}$", out)
    shown = out.partition("\nexamples:\n")[2].partition("\n\n")[0].splitlines()
    assert {words_of(line)[0] for line in shown} <= {*VERBS}
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pysock {pysock.__version__}\n"


# ---------------------------------------------------------------- how it looks


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_fits_the_screen(
    verb: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [verb] if verb else []
    monkeypatch.setenv("COLUMNS", "80")
    out = helped(*arguments, capsys=capsys)
    assert out.isascii()
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert [line for line in out.splitlines() if line.endswith("-")] == []  # no cut option
    monkeypatch.setenv("COLUMNS", "500")
    wide = helped(*arguments, capsys=capsys)
    assert max(map(len, wide.splitlines())) <= 100
    assert wide.split() == out.split() or verb is not None
    for columns in ("1", "0", "-7", "many", ""):
        monkeypatch.setenv("COLUMNS", columns)
        words = helped(*arguments, capsys=capsys).split()
        assert words[:2] == ["usage:", "pysock"]


def test_blocks_stay_as_they_are_and_paragraphs_are_filled() -> None:
    parser = Parser("x", "one\ntwo\n\nthree", "list:\n  a   b\n  c\n\nlong " + "word " * 30)
    assert parser.format_help().startswith("usage: x [-h]\n\none two\n\nthree\n\n")
    assert "\nlist:\n  a   b\n  c\n\nlong word word" in parser.format_help()
    assert "%(prog)s" not in parser.format_help()


# ---------------------------------------------------------------- where it goes

ALL = """
import sys
from pysock.cli import VERBS, main
failed = [verb for verb in VERBS if main([verb, "--help"])]
sys.exit(bool(failed or main(["--help"]) or main(["--version"])))
"""


def test_help_without_docstrings_and_asserts(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-OO", "-W", "error", "-c", ALL]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"usage: pysock") == len(VERBS) + 1


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
@pytest.mark.parametrize("verb", ["send", "completion"])
@pytest.mark.parametrize("where", ["2>&-", "</dev/null >/dev/null"])
def test_help_needs_nothing_but_its_output(verb: str, where: str, tmp_path: Path) -> None:
    line = f'"$0" -P -m pysock {verb} --help {where}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable], capture_output=True, timeout=LIMIT, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, b"")


# ---------------------------------------------------------------- examples that are run

# What examples call a server, and what stands for it here.
PLACES = {
    "127.0.0.1:8000": "plain",
    "unix:///run/me/app.sock": "unix",
    "localhost:6379": "crlf",
    "tls://app.example.org:5210": "tls",
    "udp://127.0.0.1:9000": "udp",
}
RUN = ["completion", "dump", "get", "guess", "keygen", "put", "run", "send", "shell"]
# A terminal, other programs, or a machine that is not there.
NOT_RUN = re.compile(r" -t |\bnc |\bless\b|tls://(host|build)\.example")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server of each kind that the examples talk to; and what their files hold."""
    pytest.importorskip("cryptography", reason="no build of cryptography for this Python")
    assert main(["keygen", str(tmp_path), "--name", "127.0.0.1"]) == 0
    key = pysock.auth.load_key(tmp_path / "authkey")
    tls = pysock.tls.server_context(tmp_path / "certificate.pem", tmp_path / "private-key.pem")
    crlf = formats.named("crlf")
    with (
        pysock.Server("tcp://127.0.0.1:0", bytes.upper).start() as plain,
        pysock.Server(f"unix://{tmp_path}/app", lambda message: None).start() as unix,
        pysock.Server("tcp://127.0.0.1:0", lambda _: b"+PONG", framing=crlf).start() as other,
        pysock.Server(
            "tls://127.0.0.1:0", bytes.upper, tls=tls, authkey=key
        ).start() as secure,
        pysock.DatagramServer("udp://127.0.0.1:0", bytes.upper).start() as udp,
    ):
        found: dict[str, Any] = {
            "plain": plain,
            "unix": unix,
            "crlf": other,
            "tls": secure,
            "udp": udp,
        }
        yield {name: str(server.address) for name, server in found.items()}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder with what the examples name, and a server of commands for its user."""
    folder = tmp_path / "home"
    for name in (".local/share/bash-completion/completions", ".zfunc", "logs"):
        (folder / name).mkdir(parents=True)
    (folder / ".config/fish/completions").mkdir(parents=True)
    (folder / "project").mkdir()
    for name in ("report.pdf", "a.csv", "b.csv", "project/x"):
        (folder / name).write_text(name)
    (folder / "lines.txt").write_text("one\ntwo\n")
    (folder / "commands.txt").write_text("cd /\npwd\n")
    query = formats.named("dns").encode(
        b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x01a\0\0\1\0\1"
    )
    (folder / "capture.bin").write_bytes(query * 40)
    (tmp_path / "served" / "results").mkdir(parents=True)
    (tmp_path / "served" / "incoming").mkdir()
    (tmp_path / "served" / "backup" / "project").mkdir(parents=True)
    for name in ("results/today.csv", "a.log", "b.log", "backup/project/x"):
        (tmp_path / "served" / name).write_text(name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pysock").write_text(
        f'#!/bin/sh\nexec {sys.executable} -P -m pysock "$@"\n'
    )
    (tmp_path / "bin" / "pysock").chmod(0o755)
    (tmp_path / "run").mkdir(0o700)
    with pysock.remote.RemoteServer(
        f"unix://{tmp_path}/run/pysock.sock",
        allow_root=os.geteuid() == 0,
        files_root=tmp_path / "served",
        cwd=tmp_path / "served",
    ).start():
        yield folder


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX, and commands")
@pytest.mark.parametrize("verb", RUN)
def test_examples_do_what_they_are_for(
    verb: str, servers: dict[str, str], home: Path, tmp_path: Path
) -> None:
    for name in ("certificate.pem", "authkey"):
        if verb != "keygen":
            shutil.copy2(tmp_path / name, home)
    env = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }
    lines = [line for line in examples(verb) if not NOT_RUN.search(line)]
    assert lines
    for line in lines:
        for place, name in PLACES.items():
            line = line.replace(place, servers[name])
        if verb == "dump":
            line = line.replace("'LengthField(2, \"little\", offset=1)'", "'LengthField(2)'")
        if "--skip 24" in line:
            line = line.replace("--skip 24", "--skip 19")  # its first frame
        done = subprocess.run(
            ["sh", "-c", line], cwd=home, env=env, capture_output=True, timeout=LIMIT
        )
        assert (done.returncode, done.stderr) == (0, b""), line
    wanted = {
        "completion": ".config/fish/completions/pysock.fish",
        "get": "project/x",
        "keygen": "keys/authkey",
        "put": "../served/report.pdf",
    }
    assert verb not in wanted or (home / wanted[verb]).exists()
