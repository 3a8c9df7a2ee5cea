"""`pysock get`: fetch files from a server of remote commands, as scp does."""

from __future__ import annotations

import argparse
import os
from functools import partial

from ..remote import RemoteClient
from . import MISUSED, Failure, Parser
from .remote_options import (
    Copying,
    add_connection,
    add_copying,
    connected,
    is_servers,
    joined,
    parse_paths,
    plain,
    shown,
)

DESCRIPTION = """\
Fetch files from a server, out of the folder that it serves (`pysock shell-server
--files-root`).

REMOTE is a path below that folder; LOCAL is the new file here, or a folder to put the files
into. A file appears under its name when all of it is there and its checksum is right, with
its mode and time. After a copy that was cut off give the same command again: it goes on
where that one ended."""

EPILOG = """\
examples:
  pysock get results/today.csv .
  pysock get a.log b.log logs/
  pysock get --from tls://host.example:5210 --ca certificate.pem \\
      --authkey authkey images/disk.img disk.img
  pysock get -r backup/project .

exit status: 0; 1 something was not copied; 2 a wrong command line, or a file that it names
cannot be used; 130 after Ctrl-C; 255 no connection, a connection that failed, or one of the
two sides could not prove who it is"""


PIPED = "`pysock run -- cat FILE` prints one"


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    parser.usage = "pysock get [options] [--] REMOTE... LOCAL"
    parser.add_argument(
        "paths",
        metavar="REMOTE... LOCAL",
        nargs="*",
        help="the files at the server, and the path here to copy them to",
    )
    add_copying(parser)
    add_connection(parser, "--from")


def parse(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """Return the options, and in `paths` also all that follows the first `--`."""
    return parse_paths(parser, arguments)


def run(options: argparse.Namespace) -> int:
    """Fetch the files; return the exit status."""
    *sources, target = options.paths
    if not sources:
        text = f"a path at the server and one here are needed, not {target!a} alone"
        raise Failure(f"{text}, as in: pysock get report.pdf .", MISUSED)
    if not target:
        raise Failure("the path here is empty", MISUSED)
    if target == "-":
        raise Failure(f"standard output is no file: {PIPED}; ./- is a file", MISUSED)
    into = os.path.isdir(target)
    if not into and os.path.exists(target) and not os.path.isfile(target):
        raise Failure(f"{shown(target)} is no regular file: {PIPED}", MISUSED)
    if not into and (len(sources) > 1 or target.endswith(os.sep)):
        raise Failure(f"{shown(target)} is no folder", MISUSED)
    with connected(options) as remote:
        getting = _Getting("get", options, remote)
        for source in sources:
            getting.get(plain(source), target, into)
    return getting.status


class _Getting(Copying):
    """Files that are fetched."""

    def describe(self, exc: Exception) -> str:
        if isinstance(exc, IsADirectoryError):
            name = "." if exc.filename is None else shown(os.fsdecode(exc.filename))
            if not is_servers(exc):
                return f"{name} is a folder here, which no file replaces"
            if not self.recursive:
                return f"server: {name} is a folder: -r copies it"
        return super().describe(exc)

    def get(self, source: str, target: str, into: bool) -> None:
        """Fetch a file or a folder, as *target* or *into* it."""
        if not source and not self.recursive:
            self.refuse(".", "is a folder: -r copies it")
            return
        if into and source:
            name = source.rpartition("/")[2]
            if not _is_name(name):
                self.refuse(source, "has no name to give it here")
                return
            target = os.path.join(target, name)
        if self.recursive:
            self._get_folder(source, target)
        else:
            self.copy(self.remote.get, source, target)

    def _get_folder(self, source: str, target: str) -> None:
        """Fetch a folder, or a file after all."""
        waiting = [(source, target)]
        while waiting:
            source, target = waiting.pop()
            entries: list[tuple[str, str]] = []
            try:
                if not self.attempt(partial(_list, self.remote, source, entries)):
                    continue
            except _NoFolder:
                self.copy(self.remote.get, source, target)
                continue
            if not self.attempt(partial(os.makedirs, target, exist_ok=True)):
                continue
            for name, kind in entries:
                path, place = joined(source, name), os.path.join(target, name)
                if not _is_name(name):
                    self.refuse(path, "has a name that no file may have here: left out")
                elif kind == "d":
                    waiting.append((path, place))
                elif kind == "f":
                    self.copy(self.remote.get, path, place)
                else:
                    self.refuse(path, "is no file and no folder: left out")


class _NoFolder(Exception):
    """What should be listed is a file."""


def _list(remote: RemoteClient, folder: str, entries: list[tuple[str, str]]) -> None:
    try:
        found = remote.listdir(folder)
    except NotADirectoryError:
        raise _NoFolder from None
    entries += [(os.fsdecode(entry.name), entry.type) for entry in found]


def _is_name(name: str) -> bool:
    """Whether a file may be called *name*, so that it stays in its folder."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or os.sep in name:
        return False
    return os.name != "nt" or not set(name) & set('<>:"|?*')
