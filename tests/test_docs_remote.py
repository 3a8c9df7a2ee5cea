"""What docs/remote.md shows works as it stands: commands, programs, the wire, the tables."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import linux, require_peer
from pages import Page, allowing_root, replaced
from peers import LONG, until

if sys.platform == "win32":
    pytest.skip("Windows serves no commands", allow_module_level=True)

from pysock.cli import Parser
from pysock.remote import RemoteClient, RemoteServer
from pysock.remote.protocol import FRAMING, Exec, Exit, Kind, credit, eof, version

PAGE = Page("docs/remote.md")
PROGRAMS = {block.split()[1]: block for block in PAGE.blocks("python")}
WITH_TLS = {"tls_server.py", "tls_client.py"}
WITH_SERVER = {name for name, text in PROGRAMS.items() if '("unix:remote.sock") as r' in text}
ALONE = [name for name in PROGRAMS if name not in {"server.py", *WITH_TLS}]

pytestmark = linux

# What turns the page's commands into a script: a server runs until the next one starts.
PRELUDE = """
set -uo pipefail
server=
stop() {
    if [ -n "$server" ]; then kill "$server"; wait "$server"; server=; fi
}
trap stop EXIT
start() {
    stop
    "$@" 2>server.log &
    server=$!
    until grep -q " serves commands on " server.log; do
        kill -0 "$server" || { cat server.log >&2; exit 1; }
        sleep 0.02
    done
}
must() {
    eval "$1" || { echo "failed: $1" >&2; exit 1; }
}
check() {
    said=$(eval "$2" 2>&1 | tr '\\n' ' ')
    [ "${said% }" = "$1" ] || { echo "expected $1, got $said: $2" >&2; exit 1; }
}
"""


class Site:
    """A folder with the page's programs, and a port that is 5210 there."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.folder = folder
        self._fd = listener.fileno()
        self.port = listener.getsockname()[1]
        self._env = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": str(folder),
            "HOME": str(folder),
        }
        folder.chmod(0o700)
        command = folder / "bin" / "pysock"
        command.parent.mkdir()
        asked = '[ "$1" = shell-server ] && set -- "$@" --allow-root\n'
        command.write_text(
            f"#!/bin/sh\n{asked if os.geteuid() == 0 else ''}"
            f'exec {sys.executable} -W error -P -m pysock "$@"\n'
        )
        command.chmod(0o755)
        for name, text in PROGRAMS.items():
            (folder / name).write_text(allowing_root(self.here(text)))

    def here(self, text: str) -> str:
        import pwd

        user = pwd.getpwuid(os.geteuid())
        for old, new in (
            ("tls://:5210", f"fd://{self._fd}"),
            ("localhost:5210", f"localhost:{self.port}"),
            ("user you may not", f"user {user.pw_name} may not"),
            ("# /home/you", f"# {user.pw_dir}"),
        ):
            text = text.replace(old, new)
        return text

    def script(self, *shown: str) -> None:
        """Run commands of the page, and check what they print."""
        lines = []
        for line in "\n".join(shown).splitlines():
            command, _, expected = self.here(line).partition("  # ")
            if command.startswith("pysock shell-server"):
                lines.append(f"start {command}")
            elif expected:
                lines.append(f"check {shlex.quote(expected)} {shlex.quote(command)}")
            else:
                lines.append(f"must {shlex.quote(command)}")
        assert lines
        self.run("bash", "-c", PRELUDE + "\n".join(lines))

    def run(self, *command: str, input: str = "") -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._env,
            input=input,
            pass_fds=[self._fd],
            capture_output=True,
            text=True,
            timeout=3 * LONG,
        )
        log = self.folder / "server.log"
        assert done.returncode == 0, (done, log.exists() and log.read_text())
        assert "Traceback" not in done.stderr
        return done.stdout

    def program(self, name: str) -> list[str]:
        """Run a program of the page; return the lines it prints."""
        return self.run(sys.executable, "-W", "error", name).splitlines()

    @contextlib.contextmanager
    def serving(self, *command: str) -> Iterator[None]:
        """Run a server until Ctrl-C."""
        with (self.folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self._env, pass_fds=[self._fd], stderr=log
            )
        try:
            yield
            assert process.poll() is None, (self.folder / "server.log").read_text()
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(LONG)
            finally:
                process.kill()
                process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Site(tmp_path, listener)


def expected(program: str) -> list[str]:
    """What comments behind print() calls, or at the end, promise."""
    at_end = re.search(r"((?:^# .*\n)+)\Z", program, re.MULTILINE)
    behind = re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)
    return at_end[1].replace("# ", "").splitlines() if at_end else behind


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
        assert site.program("tls_client.py") == expected(PROGRAMS["tls_client.py"])


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
    promised = expected(PROGRAMS[name])
    assert promised
    if name not in WITH_SERVER:
        assert site.program(name) == promised
        return
    with site.serving(sys.executable, "-W", "error", "server.py"):
        until((site.folder / "remote.sock").exists)
        assert site.program(name) == promised


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
        client, _, promised = site.here(client).partition("  # ")
        assert site.run(*shlex.split(client)) == f"{promised}\n"


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


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", PAGE.text):
        name, _, anchor = link.partition("#")
        path = PAGE.path.parent / name if name else PAGE.path
        assert path.is_file(), link
        titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
        assert not anchor or anchor in anchors, link
