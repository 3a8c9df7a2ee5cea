"""Programs at a terminal, as somebody who types sees them, and servers of commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect

from conftest import TIME_FACTOR

LIMIT = 10 * TIME_FACTOR
PROMPT = r"\x1b\[\?2004h[^\n]*>>:"  # as prompt_toolkit writes it, once for each line

_SERVER = """\
import sys
from pysock.remote import RemoteServer
with RemoteServer(sys.argv[1], allow_root=True, cwd=sys.argv[2]) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


@contextlib.contextmanager
def commands_served(folder: Path) -> Iterator[str]:
    """A server in a process of its own, whose commands start in *folder*: its address."""
    address = f"unix://{folder}/s"
    with serving(address, folder):
        yield address


@contextlib.contextmanager
def serving(address: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server process at *address*, ready."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVER, address, folder],
        stdout=subprocess.PIPE,
        cwd=folder,
    )
    assert process.stdout is not None
    with process.stdout as told:
        try:
            assert told.readline() == b"ready\n"
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def program(*arguments: str) -> list[str]:
    """Return the command line of the command `pysock`."""
    return [sys.executable, "-W", "error", "-P", "-m", "pysock", *arguments]


def environment(state: Path, **more: str) -> dict[str, str]:
    """Return an environment for it, with *state* for what it keeps."""
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**kept, "TERM": "xterm", "LANG": "C.UTF-8", "XDG_STATE_HOME": str(state), **more}


@contextlib.contextmanager
def at_terminal(command: list[str], env: dict[str, str]) -> Iterator[Any]:
    """Run *command* at a terminal of 24 rows and 80 columns."""
    child = pexpect.spawn(command[0], command[1:], env=env, timeout=LIMIT)
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)


@contextlib.contextmanager
def at_prompt(address: str, state: Path, **env: str) -> Iterator[Any]:
    """Run `pysock shell` until it asks for the first line."""
    with at_terminal(program("shell", address), environment(state, **env)) as child:
        child.expect(PROMPT)
        yield child


def submit(child: Any, line: str) -> None:
    """Type *line*, and wait until it is taken; what it prints comes next."""
    child.send(line + "\r")
    child.expect_exact("\x1b[?2004l")


def enter(child: Any, line: str, *expected: str) -> None:
    """Type *line*, wait for what it is to print, and for the next prompt."""
    submit(child, line)
    for text in expected:
        child.expect_exact(text.encode())
    child.expect(PROMPT)


def settings(child: Any) -> list[Any]:
    """Return what `stty -a` tells of the child's terminal."""
    return termios.tcgetattr(child.child_fd)
