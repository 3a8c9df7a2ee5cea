"""Other programs as peers: started, watched, and always ended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from conftest import TIME_FACTOR

LIMIT = 8.0 * TIME_FACTOR  # seconds for a program, and for a call that waits for one

_FOLDER = Path(__file__).parent


def script(name: str, *args: object) -> list[str]:
    """Return the command that runs the Python program *name* of this folder."""
    return [sys.executable, str(_FOLDER / name), *map(str, args)]


@contextlib.contextmanager
def running(*command: str, check: bool = True) -> Iterator[subprocess.Popen[str]]:
    """Run *command* beside the block, after which it must end by itself, and well.

    Its stdout, with stderr in it, is for the block to read.  One that hangs is killed in
    the end, so that whoever waits for it, at its stdout or at a socket, can go on.
    """
    name = Path(command[0]).name
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        watchdog = threading.Timer(LIMIT, process.kill)
        watchdog.start()
        try:
            yield process
            output, _ = process.communicate()
            if check and process.returncode:
                raise AssertionError(f"{name} ended with {process.returncode}:\n{output}")
        except Exception as exc:
            if process.returncode is None:
                exc.add_note(f"{name} said: {process.communicate()[0]}")
            raise
        finally:
            process.kill()  # nothing happens where it has ended
            watchdog.cancel()
            watchdog.join()


def first_line(process: subprocess.Popen[str]) -> str:
    """Return what a server says when it listens: where."""
    return process.stdout.readline().strip()
