"""What docs/remote.md shows works as it stands: commands, programs, the wire, the tables."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import linux, require_peer
from pages import Page, Site, replaced
from peers import LONG, until

if sys.platform == "win32":
    pytest.skip("Windows serves no commands", allow_module_level=True)

from pysock.cli import Parser
from pysock.remote import RemoteClient, RemoteServer
from pysock.remote.protocol import FRAMING, Exec, Exit, Kind, credit, eof, version

PAGE = Page("docs/remote.md")
PROGRAMS = PAGE.programs()
WITH_TLS = {"tls_server.py", "tls_client.py"}
WITH_SERVER = {name for name, text in PROGRAMS.items() if '("unix:remote.sock") as r' in text}
ALONE = [name for name in PROGRAMS if name not in {"server.py", *WITH_TLS}]

pytestmark = linux


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    import pwd

    user = pwd.getpwuid(os.geteuid())
    changes = ("user you may not", f"user {user.pw_name} may not"), ("/home/you", user.pw_dir)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Site(tmp_path, PAGE, listener, *changes)


# ------------------------------------------------------------ commands


def test_commands_in_two_terminals(site):
    site.script(*PAGE.blocks("sh", PAGE.section("In two terminals")))
    assert (site.folder / "exchange" / "backup").is_dir()


def test_shell_shows_what_the_page_shows(site):
    (shown,) = PAGE.blocks("console")
    typed = re.findall(r"^>>: (.*)$", shown, re.MULTILINE)
    printed = [line for line in shown.splitlines() if not line.startswith(">>: ")]
    assert typed and printed and typed[-1] == "exit"
    with site.serving("pysock", "shell-server"):
        until((site.folder / "pysock.sock").exists)
        said = site.run("pysock", "shell", input="".join(f"{line}\n" for line in typed))
    assert said.splitlines() == printed


def test_commands_over_tls_with_a_key(site):
    pytest.importorskip("cryptography")
    section = PAGE.section("Over the network")
    site.script(*PAGE.blocks("sh", section))
    with site.serving(sys.executable, "-W", "error", "tls_server.py"):
        site.check_program("tls_client.py")


def test_commands_of_a_server_that_allows_few(site):
    site.script(*PAGE.blocks("sh", PAGE.section("Who may do what")))
    lines = (site.folder / "commands.log").read_text().splitlines()
    (shown,) = PAGE.blocks("text", PAGE.section("Who may do what"))
    (numbers,) = re.findall(r"exit 0, 0 bytes in, 6 out, 0 err, ", shown)
    assert numbers in lines[0] and "uname -s: " in lines[0]
    assert " ls: refused, " in lines[1]


# ------------------------------------------------------------ programs


@pytest.mark.parametrize("name", ALONE)
def test_program_prints_what_its_comments_say(site, name):
    if name == "allow.py":
        require_peer("git")
    if name not in WITH_SERVER:
        site.check_program(name)
        return
    with site.serving(sys.executable, "-W", "error", "server.py"):
        until((site.folder / "remote.sock").exists)
        site.check_program(name)


def test_every_block_is_run():
    assert len(PAGE.blocks("python")) == len(PROGRAMS)
    assert {"run.py", "errors.py", "large.py", "stream.py"} == WITH_SERVER
    assert {*PROGRAMS} == {"server.py", *WITH_TLS, *ALONE}
    sections = ("In two terminals", "Over the network", "Who may do what")
    shown = [block for name in sections for block in PAGE.blocks("sh", PAGE.section(name))]
    assert shown == PAGE.blocks("sh")
    assert {*re.findall(r"^```(\w+)$", PAGE.text, re.MULTILINE)} == {
        "python",
        "sh",
        "console",
        "ini",
        "text",
    }


# ------------------------------------------------------------ the unit


def unit() -> str:
    (text,) = PAGE.blocks("ini")
    return text


def test_unit_serves(site):
    pytest.importorskip("cryptography")
    keygen = PAGE.blocks("sh", PAGE.section("Over the network"))[0].splitlines()[:2]
    site.script(*keygen)
    (command,) = re.findall(r"^ExecStart=(.+)$", unit(), re.MULTILINE)
    command = replaced(site.here(command), ("%h/.local/bin/pysock", "pysock"))
    with site.serving(*shlex.split(command)):
        (client,) = [
            line
            for line in "\n".join(PAGE.blocks("sh")).splitlines()
            if line.startswith("pysock run tls:")
        ]
        client, _, said = site.here(client).partition("  # ")
        assert site.run(*shlex.split(client)) == f"{said}\n"


def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    path = tmp_path / "pysock-shell.service"
    path.write_text(replaced(unit(), ("%h/.local/bin/pysock", sys.executable)))
    done = subprocess.run(
        [require_peer("systemd-analyze"), "--user", "verify", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ------------------------------------------------------------ the wire, the tables


def test_wire_is_as_drawn(tmp_path):
    drawn = PAGE.blocks("text", PAGE.section("On the wire"))[0].splitlines()[1:]
    told = {
        'VERSION  "pysock remote" 1': version(),
        "EXEC     cat": Exec((b"cat",), stdin=True).encode(),
        'STDIN    "hello"': Kind.STDIN(b"hello"),
        "STDIN    262144": credit(262144),
        "STDIN    5": credit(5),
        'STDOUT   "hello"': Kind.STDOUT(b"hello"),
        "EOF      0": eof(0),
        "EOF      1": eof(1),
        "EOF      2": eof(2),
        "EXIT     0": Exit(0).encode(),
    }
    server = RemoteServer(f"unix:{tmp_path}/s", allow_root=True)
    with server.start(), pysock.Client(server.address, FRAMING, timeout=LONG) as client:
        ends = []
        for line in drawn:
            there, arrow, _ = line.partition("->")
            if arrow:
                client.send(told[there.strip()])
                continue
            back = line.strip().removeprefix("<-").strip()
            if back.startswith("EOF"):
                ends.append(told[back])  # the two streams end in any order
                continue
            if ends:
                assert {client.recv() for _ in ends} == {*ends}
                ends = []
            assert client.recv() == told[back]


def test_numbers_in_the_table_are_the_defaults():
    rows = dict(
        re.findall(r"^\| `([\w()=]+)` \| ([^|]+) \|", PAGE.section("Limits"), re.MULTILINE)
    )
    for name, number in rows.items():
        assert default_of(name) == meant(number), name
    assert len(rows) == 10


def default_of(name: str) -> Any:
    where, _, inner = name.partition("(")
    if not inner:
        for each in (RemoteServer, pysock.Server):
            if name in inspect.signature(each).parameters:
                return inspect.signature(each).parameters[name].default
        raise AssertionError(name)
    function = {"RemoteClient": RemoteClient, "run": RemoteClient.run}[where]
    return inspect.signature(function).parameters[inner.rstrip("=)")].default


def meant(number: str) -> Any:
    if number == "none":
        return None
    amount, _, unit = number.partition(" ")
    return int(amount) * {"": 1, "s": 1, "MiB": 1024 * 1024}[unit]


def help_of(verb: str) -> str:
    module = importlib.import_module(f"pysock.cli.{verb.replace('-', '_')}")
    parser = Parser(f"pysock {verb}", module.DESCRIPTION, module.EPILOG)
    module.configure(parser)
    return parser.format_help()


def test_options_in_the_text_exist():
    helps = {verb: help_of(verb) for verb in ("run", "shell", "put", "get", "shell-server")}
    seen = set()
    for line in "\n".join(PAGE.blocks("sh")).splitlines():
        shown = line.partition(" -- ")[0]
        verb = re.search(r"pysock ([\w-]+)", shown)
        if verb and verb[1] in helps:
            seen.add(verb[1])
            for option in re.findall(r" (--[a-z-]+)", shown):
                assert option in helps[verb[1]], line
    assert seen == {*helps}
    for option in re.findall(r"`(--[a-z-]+)", PAGE.text):
        assert any(option in text for text in helps.values()), option
