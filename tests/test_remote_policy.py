"""Whom a rule lets do what, what a command finds around it, and what is written down."""

from __future__ import annotations

import os
import pwd
from types import SimpleNamespace
from typing import Any

import pytest

from pysock.remote import policy
from pysock.remote.policy import (
    Request,
    command_line,
    denied,
    environment,
    peer_of,
    request_of,
    rule_of,
    shown,
    user_of,
)
from pysock.remote.protocol import Exec, Refusal

TOKEN = b"PYSOCK_TOKEN=abc=def"


def run(*argv: str, user: str = "", shell: str | None = None) -> Request:
    return Request(user, "run", argv, shell)


# ---------------------------------------------------------------- rules


def test_no_rule_allows_everything() -> None:
    assert rule_of(None)(run("rm")) is True


def test_function_is_the_rule_itself() -> None:
    assert rule_of(denied) is denied


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (run("uptime"), True),
        (run("uptime", "-p"), True),
        (run("/bin/uptime"), False),
        (run("git", "log"), True),
        (run("git", "log", "-1"), True),
        (run("git"), False),
        (run("git", "push"), False),
        (run(shell="df -h"), True),
        (run(shell="df -h; rm x"), False),
        (run(shell="uptime"), True),
        (run(shell="git log"), False),
        (run("df -h"), True),
        (Request("", "get", path="x"), True),
        (Request("", "put", path="x"), False),
        (run("get"), True),
    ],
)
def test_list_has_programs_first_words_lines_and_kinds(
    request_: Request, allowed: bool
) -> None:
    rule = rule_of(iter(["uptime", ["git", "log"], "df -h", "get"]))
    assert rule(request_) is allowed
    assert rule(request_) is allowed  # an iterator is read once


def test_empty_list_allows_nothing() -> None:
    assert rule_of([])(run("uptime")) is False


def test_mapping_has_a_rule_for_each_user() -> None:
    rule = rule_of({"ann": ["uptime"], "root": None, "ops": {"ops": [("git", "log")]}})
    assert rule(run("uptime", user="ann"))
    assert not rule(run("rm", user="ann"))
    assert rule(run("rm", user="root"))
    assert rule(run("git", "log", user="ops"))
    assert not rule(run("uptime", user="ops"))
    assert not rule(run("uptime", user="bob"))
    assert not rule(run("uptime"))


@pytest.mark.parametrize(
    ("allow", "said"),
    [
        (
            "uptime",
            "allow is a str, expected a list of commands, a mapping from users to such lists, "
            "or a function",
        ),
        (
            b"uptime",
            "allow is a bytes, expected a list of commands, a mapping from users to such "
            "lists, or a function",
        ),
        (
            7,
            "allow is a int, expected a list of commands, a mapping from users to such lists, "
            "or a function",
        ),
        ([b"x"], "allow has b'x', expected a program, or a list of words"),
        ([[]], "allow has [], expected a program, or a list of words"),
        ([{"x"}], "allow has {'x'}, expected a program, or a list of words"),
        ([["x", 1]], "allow has ['x', 1], expected words that are str"),
        (["x", (b"y",)], "allow has (b'y',), expected words that are str"),
    ],
)
def test_rule_that_cannot_be_one_says_why(allow: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        rule_of(allow)
    assert str(caught.value) == said
    with pytest.raises(TypeError):
        rule_of({"ann": allow})


# ---------------------------------------------------------------- environments


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the system know one user, 77; nothing that was known before counts."""

    def getpwuid(uid: int) -> Any:
        if uid != 77:
            raise KeyError(uid)
        return SimpleNamespace(pw_name="ann", pw_dir="/home/ann", pw_shell="/bin/zsh")

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setattr(
        os, "environ", {"LANG": "C.UTF-8", "LC_ALL": "C", "TZ": "UTC", "X": "y"}
    )
    policy._login.cache_clear()
    yield monkeypatch
    policy._login.cache_clear()


CLEAN = {
    b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    b"LANG": b"C.UTF-8",
    b"LC_ALL": b"C",
    b"TZ": b"UTC",
    b"PYSOCK_TOKEN": b"abc=def",
}


def test_environment_is_that_of_a_login(logins: Any) -> None:
    logins.setattr(os, "geteuid", lambda: 77)
    found = environment(Exec((b"x",)), [], TOKEN)
    user = {b"HOME": b"/home/ann", b"SHELL": b"/bin/zsh", b"USER": b"ann", b"LOGNAME": b"ann"}
    assert found == CLEAN | user


def test_environment_of_a_user_without_a_name(logins: Any) -> None:
    logins.setattr(os, "geteuid", lambda: 78)
    found = environment(Exec((b"x",)), [], TOKEN)
    assert found == CLEAN | {b"HOME": b"/", b"SHELL": b"/bin/sh"}


def test_user_without_a_shell_has_one(logins: Any) -> None:
    nobody = SimpleNamespace(pw_name="ann", pw_dir="/", pw_shell="")
    logins.setattr(pwd, "getpwuid", lambda uid: nobody)
    assert environment(Exec((b"x",)), [], TOKEN)[b"SHELL"] == b"/bin/sh"


def test_client_adds_what_the_patterns_allow() -> None:
    command = Exec((b"x",), env=(b"APP_A=1=2", b"B=", b"LANG=de", b"\xff=\xfe"))
    found = environment(command, ["APP_*", "[ABL]*", "\udcff"], TOKEN)
    assert found[b"APP_A"] == b"1=2"
    assert found[b"B"] == b""
    assert found[b"LANG"] == b"de"  # and not the server's
    assert found[b"\xff"] == b"\xfe"


def test_what_every_client_offers_is_left_out_where_it_is_not_allowed() -> None:
    command = Exec((b"x",), env=(b"TERM=vt100", b"LC_TIME=de", b"A=1"))
    found = environment(command, ["A"], TOKEN)
    assert b"TERM" not in found
    assert found.get(b"LC_TIME") != b"de"
    assert found[b"A"] == b"1"  # what comes behind is not left out


@pytest.mark.parametrize(
    ("env", "allowed", "said"),
    [
        (
            (b"LD_PRELOAD=x",),
            ["A", "B_*"],
            "variable LD_PRELOAD may not be set: the server allows A, B_* (allow_env=)",
        ),
        (
            (b"A\n=1",),
            [],
            "variable A\\n may not be set: the server allows none (allow_env=)",
        ),
        (
            (b"A=" + bytes(1023).replace(b"\0", b"x"),),
            ["A"],
            "variable A has 1025 bytes, expected 1024 at most",
        ),
        (
            tuple(b"A%d=" % i for i in range(33)),
            ["A*"],
            "33 variables, expected 32 at most",
        ),
    ],
)
def test_variable_that_is_refused_is_named(
    env: tuple[bytes, ...], allowed: list[str], said: str
) -> None:
    with pytest.raises(PermissionError) as caught:
        environment(Exec((b"x",), env=env), allowed, TOKEN)
    assert str(caught.value) == said


def test_variables_up_to_the_limits_are_taken() -> None:
    env = tuple(b"A%02d=" % i + b"x" * 1020 for i in range(32))
    found = environment(Exec((b"x",), env=env), ["A*"], TOKEN)
    assert found[b"A31"] == b"x" * 1020


# ---------------------------------------------------------------- who asks for what


def test_user_is_whose_key_was_proved() -> None:
    assert user_of(SimpleNamespace(user="ann")) == "ann"
    assert user_of(SimpleNamespace(user="")) == ""


def test_user_is_who_the_system_says(logins: Any) -> None:
    def of(uid: int) -> str:
        return user_of(SimpleNamespace(peer_credentials=SimpleNamespace(uid=uid)))

    assert of(77) == "ann"
    assert of(78) == "78"
    assert user_of(SimpleNamespace(user=None, peer_credentials=None)) == ""


def test_request_has_what_a_command_says() -> None:
    command = Exec((b"a", b"\xff"), cwd=b"/x", env=(b"A=1=2", b"B="), pty=(24, 80), stdin=True)
    assert request_of(command, "ann", ("::1", 5)) == Request(
        "ann",
        "run",
        ("a", "\udcff"),
        None,
        "/x",
        {"A": "1=2", "B": ""},
        True,
        "",
        ("::1", 5),
    )


def test_request_has_a_line_for_the_shell() -> None:
    found = request_of(Exec(shell=b"ls | wc"), "", None)
    assert found == Request("", "run", (), "ls | wc", "", {}, False, "", None)


# ---------------------------------------------------------------- what is written down


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain ~ text", "plain ~ text"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\x7f", "\\x7f"),
        ("粘包", "\\u7c98\\u5305"),
        ("back\\slash", "back\\slash"),
        ("back\\slash\n", "back\\\\slash\\n"),
        ("x" * 256, "x" * 256),
        ("x" * 257, "x" * 253 + "..."),
        ("\n" * 200, "\\n" * 126 + "\\" + "..."),
    ],
)
def test_text_is_one_line_that_shows_everything(text: str, line: str) -> None:
    assert shown(text) == line


def test_bytes_that_are_no_text_are_shown() -> None:
    assert shown(os.fsdecode(b"a\xff")).isascii()
    assert len(shown("x" * 20, 10)) == 10


@pytest.mark.parametrize(
    ("peer", "line"),
    [
        (("127.0.0.1", 5), "127.0.0.1:5"),
        (("::1", 5, 0, 0), "[::1]:5"),
        (("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1:5"),
        ("/run/socket", "/run/socket"),
        ("", "-"),
        (None, "-"),
    ],
)
def test_address_is_shown_as_one_writes_it(peer: Any, line: str) -> None:
    assert peer_of(Request("", "run", peer=peer)) == line


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (run("ls", "a b", "it's"), "ls 'a b' 'it'\"'\"'s'"),
        (run(shell="ls | wc"), "sh -c 'ls | wc'"),
        (Request("", "run", ("ls",), cwd="/x"), "ls (in /x)"),
        (Request("", "get", path="a\nb"), "get a\\nb"),
        (run("x" * 5000), "x" * 4093 + "..."),
        (Request("", "put", path="x" * 5000), "put " + "x" * 4089 + "..."),
    ],
)
def test_command_is_shown_as_a_shell_has_it(request_: Request, line: str) -> None:
    assert command_line(request_) == line


def test_who_is_denied_hears_what(logins: Any) -> None:
    assert denied(run("rm", "x", user="a\n")) == Refusal("refused", "user a\\n may not: rm x")
    assert denied(run("y" * 300)) == Refusal(
        "refused", "this client may not: " + "y" * 253 + "..."
    )
    long = denied(Request("", "get", path="z" * 300))
    assert long.text == "this client may not: get " + "z" * 249 + "..."
