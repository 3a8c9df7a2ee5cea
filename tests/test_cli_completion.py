"""`pysock completion`: its scripts in the shells themselves, and that they lack nothing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TIME_FACTOR, require_peer
from pysock.cli import VERBS, grammar, main
from pysock.formats import NAMED
from test_cli import LIMIT, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="shells of POSIX")

SHELLS = ["bash", "zsh", "fish"]

# What is typed, and what the Tab key must offer for its last word: all of it, and with "..."
# only these among others.  "@" is the folder of the test.
OFFERS = {
    "pysock ": [*VERBS],
    "pysock se": ["send", "serve"],
    "pysock --v": ["--version"],
    "pysock --": ["--help", "--version"],
    "pysock send --fr": ["--framing"],
    "pysock send --until": ["--until-close"],
    "pysock send --framing ": [*NAMED],
    "pysock send --framing leng": [name for name in NAMED if name.startswith("leng")],
    "pysock send --framing=leng": [name for name in NAMED if name.startswith("leng")],
    "pysock send ": ["beta.bin", "a folder", "folder", "..."],
    "pysock send be": ["beta.bin"],
    "pysock send localhost:8000 ": [],
    "pysock send localhost:8000 be": [],
    "pysock send --timeout ": [],
    "pysock send --timeout 5 be": ["beta.bin"],
    "pysock send --timeout=5 be": ["beta.bin"],
    "pysock send --raw be": ["beta.bin"],
    "pysock send --raw x:1 be": [],
    "pysock send --ca be": ["beta.bin"],
    "pysock send --ca=be": ["beta.bin"],
    "pysock send x:1 --ca be": ["beta.bin"],
    "pysock dump --framing dns be": ["beta.bin"],
    "pysock dump be": ["beta.bin"],
    "pysock dump -- be": ["beta.bin"],
    "pysock dump beta.bin be": [],
    "pysock keygen ": ["a folder", "folder"],
    "pysock keygen fo": ["folder"],
    "pysock serve --app-dir ": ["a folder", "folder"],
    "pysock serve --log-level ": ["debug", "error", "info", "warning"],
    "pysock serve app:handle --proxy-protocol ": ["any", "v1", "v2"],
    "pysock serve --allow-uid roo": ["root"],
    "pysock serve --bind x:1 --bi": ["--bind"],
    "pysock put be": ["beta.bin"],
    "pysock put x y be": ["beta.bin"],
    "pysock put -r --to x:1 -- be": ["beta.bin"],
    "pysock get -": ["--from", "--recursive", "..."],
    "pysock bench --json be": ["beta.bin"],
    "pysock completion ": SHELLS,
    "pysock shell-server --files-root fo": ["folder"],
    "pysock shell-server --allow made-for-": ["made-for-tests"],
    "pysock run -- made-for-": ["made-for-tests"],
    "pysock run x:1 --shell -- made-for-": ["made-for-tests"],
    "pysock run --cwd y -- made-for-tests be": ["beta.bin"],
    "pysock run made-for-": [],
    "pysock run be": ["beta.bin"],
    "pysock shell -t made-for-": ["made-for-tests"],
    "pysock shell x:1 -t made-for-": ["made-for-tests"],
    "pysock shell -t made-for-tests be": ["beta.bin"],
    "pysock demo x": [],
    "pysock send unix://@/here/be": ["unix://@/here/beta.bin"],
    "pysock shell-server --bind unix://@/here/be": ["unix://@/here/beta.bin"],
}
KEYS_ALL, KEYS_SHOW = "\x18a", "\x18p"  # Ctrl-X a, Ctrl-X p

# For each: insert all that is offered, print the line between « and », forget it.
BASH = r"""
bind 'set enable-bracketed-paste off'
bind 'set bell-style none'
show() { printf '\302\253%s\302\273\n' "$READLINE_LINE"; READLINE_LINE=; READLINE_POINT=0; }
bind '"\C-xa": insert-completions'
bind -x '"\C-xp": show'
. ./script
echo ready
"""
ZSH = r"""
autoload -Uz compinit && compinit -u -d ./dump
zstyle ':completion:all-matches::::' completer _all_matches _complete
zstyle ':completion:all-matches:*' old-matches true
zstyle ':completion:all-matches:*' insert true
zle -C all-matches complete-word _generic
bindkey '^Xa' all-matches
show() { zle -I; print -r -- $'\302\253'"$BUFFER"$'\302\273'; BUFFER= }
zle -N show
bindkey '^Xp' show
setopt no_beep
. ./script
echo ready
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with something to complete, and a command of its own on the path."""
    (tmp_path / "here" / "folder").mkdir(parents=True)
    (tmp_path / "here" / "a folder").mkdir()
    (tmp_path / "here" / "beta.bin").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "made-for-tests").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "made-for-tests").chmod(0o755)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("TERM", "dumb")
    for name in ("INPUTRC", "ZDOTDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Return what the verb prints for a shell."""

    def script(shell: str) -> str:
        assert main(["completion", shell]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return script


def typed(command: list[str], setup: str, lines: list[str]) -> dict[str, list[str]]:
    """Type *lines* at an interactive shell; return what it offers for the end of each."""
    pexpect = pytest.importorskip("pexpect")
    Path("setup").write_text(setup)
    child = pexpect.spawn(
        command[0], command[1:], timeout=LIMIT, encoding="utf-8", dimensions=(50, 500)
    )
    child.delaybeforesend = None
    found = {}
    try:
        child.sendline(". ./setup")
        child.expect("ready\r\n")
        for line in lines:
            child.send(line + KEYS_ALL + KEYS_SHOW)
            child.expect("«(.*)»")
            words = shlex.split(child.match[1])
            before = len(shlex.split(line + "x")) - 1
            offered = words[before:]
            # Where nothing is offered the word stays as it was typed.
            found[line] = [] if child.match[1].rstrip() == line.rstrip() else offered
    finally:
        child.close(force=True)
    return found


def asked(lines: list[str]) -> dict[str, list[str]]:
    """Ask fish what it offers."""
    code = "source script; for line in $argv; complete -C $line; echo »; end"
    command = [require_peer("fish"), "-N", "-c", code, *lines]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.stderr == ""
    parts = done.stdout.split("»\n")[:-1]
    return {
        line: [offer.partition("\t")[0] for offer in part.splitlines()]
        for line, part in zip(lines, parts, strict=True)
    }


def offers(shell: str, lines: list[str]) -> dict[str, list[str]]:
    if shell == "fish":
        return asked(lines)
    if shell == "bash":
        told = subprocess.run(
            [require_peer("bash"), "-c", "echo $BASH_VERSINFO"], capture_output=True
        )
        if int(told.stdout) < 4:
            pytest.skip("this bash cannot be asked what it offers")
        return typed([require_peer("bash"), "--norc", "--noprofile", "-i"], BASH, lines)
    return typed([require_peer("zsh"), "-f", "-i"], ZSH, lines)


def plain(offered: list[str]) -> list[str]:
    """Return what is offered as its names only."""
    return sorted({re.sub(r"^--[a-z-]+=(?=.)", "", word).rstrip("/=") for word in offered})


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.timeout(120 * TIME_FACTOR)
def test_tab_key_offers_what_fits(
    shell: str, place: Path, script: Callable[[str], str]
) -> None:
    Path("script").write_text(script(shell))
    wanted_for = {
        line.replace("@", str(place.parent)): [
            word.replace("@", str(place.parent)) for word in wanted
        ]
        for line, wanted in OFFERS.items()
    }
    found = offers(shell, [*wanted_for])
    wrong = {}
    for line, wanted in wanted_for.items():
        offered = plain(found[line])
        some = [word for word in wanted if word != "..."]
        if offered != sorted(some) and not ("..." in wanted and {*some} <= {*offered}):
            wrong[line] = offered
    assert wrong == {}


def test_zsh_finds_the_script_in_a_folder_of_its_own(
    place: Path, script: Callable[[str], str]
) -> None:
    """Where compinit finds it, not read by anybody."""
    (place.parent / "functions").mkdir()
    (place.parent / "functions" / "_pysock").write_text(script("zsh"))
    setup = ZSH.replace(". ./script\n", "")
    setup = f"fpath=({place.parent}/functions $fpath)\n{setup}"
    lines = ["pysock compl", "pysock send --unt", "pysock compl"]
    found = typed([require_peer("zsh"), "-f", "-i"], setup, lines)
    assert [plain(found[line]) for line in lines] == [
        ["completion"],
        ["--until-close"],
        ["completion"],
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_one_that_the_shell_can_read(
    shell: str, place: Path, script: Callable[[str], str]
) -> None:
    text = script(shell)
    assert text.isascii()
    assert "@" not in re.sub(r"\$@|unix:@", "", text)  # no place was left unfilled
    Path("script").write_text(text)
    done = subprocess.run(
        [require_peer(shell), "-n", "script"], capture_output=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("shell", SHELLS)
def test_script_has_every_verb_option_and_word(
    shell: str, script: Callable[[str], str]
) -> None:
    lines = script(shell).splitlines()
    for verb in grammar.verbs():
        assert any(verb.name in line for line in lines)
        for option in verb.options:
            for name in option.names:
                assert has_option(shell, lines, verb.name, name), (verb.name, name)
            for word in option.value.words if option.value is not None else ():
                assert any(re.search(rf"[ ('\"]{word}[ )'\"]", line) for line in lines), word


def has_option(shell: str, lines: list[str], verb: str, option: str) -> bool:
    """Whether a script completes an option of a verb."""
    if shell == "bash":
        where = [
            line for line in lines if re.match(rf" +({verb} \||{verb}\)|.*\| {verb}\b)", line)
        ]
        return any(option in line.replace("'", " ").split() for line in where)
    if shell == "fish":
        given = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
        return any(f"'__pysock_at {verb}' " in line and f" {given} " in line for line in lines)
    begin = lines.index(f"_pysock_{verb}()")
    body = "\n".join(lines[begin : lines.index("}", begin)])
    return re.search(rf"['{{,)*]{option}['=+,}}\[]", body) is not None


def test_what_values_are_is_decided_for_each() -> None:
    """A name that help has for a value is completed, or known to be free text."""
    free = {
        *("BYTES", "HANDLER", "HEX", "HOST", "MESSAGE", "N", "NAME", "NAME=VALUE"),
        *("NETWORK", "SECONDS", "TEXT"),
    }
    unknown = {
        value.name
        for verb in grammar.verbs()
        for value in [
            *(argument.value for argument in verb.arguments),
            *(option.value for option in verb.options if option.value is not None),
        ]
        if not value.kind and value.name not in free
    }
    assert unknown == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: SHELL"),
        (["tcsh"], "argument SHELL: invalid choice: 'tcsh'"),
        (["bash", "zsh"], "unrecognized arguments: zsh"),
    ],
)
def test_wrong_command_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pysock completion: {said}")
    assert err.count("\n") == 1


def test_script_goes_to_any_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    for shell in SHELLS:
        status, out, err = run("completion", shell)
        assert (status, err) == (0, "")
        assert out.count(b"pysock") > len(VERBS)
