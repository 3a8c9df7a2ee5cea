"""What the peers of remote commands share: the commands, and the files they copy.

A peer's client gives `output` (bytes read), `true` (the exit status), `put`, and `get` (the
file that was made).
"""

import os
import tempfile
from typing import Any

import protocol

MiB = protocol.MiB
READ = MiB  # bytes asked for at once
TRUE = ("true",)


def writer(megabytes: int) -> list[str]:
    """Return a command that writes so much, as fast as one with pipes can."""
    return ["dd", "if=/dev/zero", "bs=65536", f"count={megabytes * 16}", "status=none"]


class Files:
    """A folder with a file to copy."""

    def __init__(self, options: protocol.Options) -> None:
        self._folder: Any = tempfile.TemporaryDirectory()
        self.source = os.path.join(self._folder.name, "source")
        self.target = os.path.join(self._folder.name, "target")
        if options.work in ("put", "get"):
            make(self.source, options.count)

    def close(self) -> None:
        self._folder.cleanup()


def make(path: str, megabytes: int) -> str:
    """Make a file of so much noise; return its path."""
    noise = os.urandom(MiB)  # not zeros without blocks: some would not send these
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(noise)
    return path


def serve_folder(options: protocol.Options) -> str:
    """Return the folder of a server, made at the path of its address, with a file to get."""
    folder = options.address.split("://")[1] + ".files"
    os.mkdir(folder)
    make(os.path.join(folder, "source"), options.count if options.work == "get" else 0)
    return folder
