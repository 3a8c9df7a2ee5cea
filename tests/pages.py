"""The project's documents, as tests read them, and run what stands in them.

In a page a block of Python is a program.  Its first line may be its name, as in `# app.py`,
under which others of the page find it.  What it prints is promised behind its print() calls,
as in `print(1 + 1)  # 2`, or in comments at its end.  Commands promise what they print in the
same way.  A block that cannot be run has a comment above it that says why:

    <!-- not run: it needs a second machine -->

A program that needs what the commands before it have made has this one above it:

    <!-- run in its place -->
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import TIME_FACTOR

ROOT = Path(__file__).parent.parent
LIMIT = 60 * TIME_FACTOR  # nothing takes this long unless it hangs

_BLOCK = re.compile(
    r"(?:^<!-- (?:not run: ([^>]*?)|(run in its place)) -->\n+)?^```([\w{}-]*)\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A block of code; why it is not run, or ""; whether it is run among the commands."""

    language: str
    text: str
    not_run: str
    in_place: bool


class Page:
    """A document; the test module is skipped where it is not there.

    Args:
        name: its path in the project.
    """

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        if not self.path.exists():
            pytest.skip(f"{name} is not here", allow_module_level=True)
        self.text = self.path.read_text(encoding="utf-8")

    def blocks(self, language: str, text: str | None = None) -> list[str]:
        """The blocks of code in *language*: of a part of it, or of all."""
        where = self.text if text is None else text
        return re.findall(rf"^```{language}\n(.*?)^```$", where, re.DOTALL | re.MULTILINE)

    def every_block(self) -> list[Block]:
        """All blocks, as they stand in the page."""
        found = _BLOCK.findall(self.text)
        return [
            Block(language, text, why, bool(place)) for why, place, language, text in found
        ]

    def programs(self) -> dict[str, str]:
        """The Python blocks that are to be run, by name; the others are numbered."""
        programs = {}
        for number, block in enumerate(self.every_block()):
            if block.language == "python" and not block.not_run:
                named = re.match(r"# ([\w/]+\.py)\n", block.text)
                name = named[1] if named else f"block{number}.py"
                assert name not in programs, f"two programs are called {name}"
                programs[name] = block.text
        return programs

    def commands(self) -> list[str]:
        """The blocks of commands that are to be run, and programs in their place."""
        names = {text: name for name, text in self.programs().items()}
        return [
            f"python {names[block.text]}  # {' '.join(promised(block.text))}\n"
            if block.in_place
            else block.text
            for block in self.every_block()
            if block.in_place or (block.language == "sh" and not block.not_run)
        ]

    def check_links(self) -> None:
        """Fail where a link leads nowhere, be it a file or a heading."""
        text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", self.text, flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if link.startswith("https://"):
                assert re.fullmatch(r"https://[\w.-]+(/[\w./~%+-]*)?(#[\w.-]+)?", link), link
                continue
            name, _, anchor = link.partition("#")
            path = self.path.parent / name if name else self.path
            assert path.is_file(), link
            assert not anchor or anchor in _anchors(path.read_text(encoding="utf-8")), link

    def section(self, title: str) -> str:
        """The text from one heading to the next of its level, or of a higher one."""
        found = re.search(rf"^(#+) {re.escape(title)}\n", self.text, re.MULTILINE)
        assert found, title
        rest = self.text[found.end() :]
        return re.split(rf"^#{{2,{len(found[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def _anchors(text: str) -> set[str]:
    """The names of the headings, as code hosts and the site have them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def promised(program: str) -> list[str]:
    """What comments at the end, or else behind print() calls, say will be printed."""
    at_end = re.search(r"((?:^# .*\n)+)\Z", program, re.MULTILINE)
    behind = re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)
    return re.sub("^# ", "", at_end[1], flags=re.MULTILINE).splitlines() if at_end else behind


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each of these changed; all of them must be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def allowing_root(program: str) -> str:
    """The program as root has to write it, where that is who runs the tests."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return program
    return re.sub(r"(\bRemoteServer\(\s*\"[^\"]*\")", r"\1, allow_root=True", program)


# ------------------------------------------------------------ pages whose commands are run

# What turns a page's commands into a script: a server runs until the next one starts.
_PRELUDE = """
set -euo pipefail
server=
stop() {
    if [ -n "$server" ]; then kill "$server"; wait "$server" || true; server=; fi
}
trap stop EXIT
start() {
    stop
    "$@" 2>server.log &
    server=$!
    until grep -q " serves " server.log; do
        kill -0 "$server" || { cat server.log >&2; exit 1; }
        sleep 0.02
    done
}
check() {
    said=$(set +e; eval "$2" 2>&1 | tr '\\n' ' ') || true
    [ "${said% }" = "$1" ] || { echo "expected $1, got $said: $2" >&2; exit 1; }
}
"""
_SERVERS = ("pysock serve ", "pysock shell-server")
_TALKERS = ("pysock bench ", "pysock keygen ")  # what they print is never the same


class Site:
    """A folder with a page's programs and the command `pysock`, and a port of its own.

    Args:
        folder: where it is.
        page: whose programs are there.
        listener: what listens where the page says port 5210.
        changes: texts of the page, and what stands for them here.
    """

    def __init__(
        self, folder: Path, page: Page, listener: socket.socket, *changes: tuple[str, str]
    ) -> None:
        self.folder = folder
        self.programs = page.programs()
        self._fd = listener.fileno()
        self.port = listener.getsockname()[1]
        self._changes = (
            ("tls://:5210", f"fd://{self._fd}"),
            ("tcp://127.0.0.1:5210", f"fd://{self._fd}"),
            ("localhost:5210", f"localhost:{self.port}"),
            ("127.0.0.1:5210", f"127.0.0.1:{self.port}"),
            *changes,
        )
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
        python = folder / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -W error "$@"\n')
        for each in (command, python):
            each.chmod(0o755)
        for name, text in self.programs.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(allowing_root(self.here(text)), encoding="utf-8")

    def here(self, text: str) -> str:
        """A text of the page as it has to be here."""
        for old, new in self._changes:
            text = text.replace(old, new)
        return text

    def script(self, *shown: str) -> str:
        """Run commands of the page, check what they say that they print; return the rest."""
        lines = []
        for line in "\n".join(shown).splitlines():
            command, _, said = self.here(line).partition("  # ")
            if command.startswith(_SERVERS):
                lines.append(f"start {command}")
            elif command.startswith(_TALKERS):
                lines.append(f"{command} >/dev/null")
            elif said:
                lines.append(f"check {shlex.quote(said)} {shlex.quote(command)}")
            else:
                lines.append(command)
        assert lines
        return self.run("bash", "-c", _PRELUDE + "\n".join(lines))

    def run(self, *command: str, input: str = "") -> str:
        """Run one command; return what it prints."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._env,
            input=input,
            pass_fds=[self._fd],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=LIMIT,
        )
        log = self.folder / "server.log"
        assert done.returncode == 0, (done, log.exists() and log.read_text())
        assert "Traceback" not in done.stderr
        return done.stdout

    def program(self, name: str) -> list[str]:
        """Run a program of the page; return the lines it prints."""
        return self.run(sys.executable, "-W", "error", name).splitlines()

    def check_program(self, name: str) -> None:
        """Run a program of the page; it prints what its comments say."""
        lines = promised(self.programs[name])
        assert lines, f"{name} does not say what it prints"
        printed = self.program(name)
        assert printed == lines, f"{name} prints {printed}, and says {lines}"

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
                process.wait(LIMIT)
            finally:
                process.kill()
                process.wait()
