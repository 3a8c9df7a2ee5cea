"""`pysock put`: send files to a server of remote commands, as scp does."""

from __future__ import annotations

import argparse
import os
from functools import partial

from .. import ConnectionClosed, RemoteError
from . import MISUSED, Failure, Parser
from .remote_options import (
    Copying,
    add_connection,
    add_copying,
    connected,
    failure_of,
    is_lost,
    joined,
    parse_paths,
    plain,
    shown,
)

DESCRIPTION = """\
Send files to a server, into the folder that it serves (`pysock shell-server --files-root`).

REMOTE is the new file's path below that folder, or a folder there to put the files into; a
dot is the served folder itself. A file appears under its name when all of it is there and
its checksum is right, with its mode and time. After a copy that was cut off give the same
command again: it goes on where that one ended."""

EPILOG = """\
examples:
  pysock put report.pdf .
  pysock put a.csv b.csv incoming/
  pysock put --to tls://host.example:5210 --ca certificate.pem \\
      --authkey authkey disk.img images/disk.img
  pysock put -r project backup

exit status: 0; 1 something was not copied; 2 a wrong command line, or a file that it names
cannot be used; 130 after Ctrl-C; 255 no connection, a connection that failed, or one of the
two sides could not prove who it is"""


# As `pysock run -- cat FILE` is for what comes from there.
PIPED = "`pysock run --shell -- 'cat >FILE'` stores what it reads"


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    parser.usage = "pysock put [options] [--] LOCAL... REMOTE"
    parser.add_argument(
        "paths",
        metavar="LOCAL... REMOTE",
        nargs="*",
        help="the files here, and the path at the server to copy them to",
    )
    add_copying(parser)
    add_connection(parser, "--to")


def parse(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """Return the options, and in `paths` also all that follows the first `--`."""
    return parse_paths(parser, arguments)


def run(options: argparse.Namespace) -> int:
    """Send the files; return the exit status."""
    *sources, target = options.paths
    if not sources:
        text = f"a path here and one at the server are needed, not {target!a} alone"
        raise Failure(f"{text}, as in: pysock put x.pdf .", MISUSED)
    if "-" in sources:
        raise Failure(f"standard input is no file: {PIPED}; ./- is a file", MISUSED)
    with connected(options) as remote:
        putting = _Putting("put", options, remote)
        folder = plain(target)
        into = not folder or target.endswith("/") or putting.is_folder(folder)
        if len(sources) > 1 and not into:
            text = f"{shown(target)} is no folder at the server, for several files"
            raise Failure(text, MISUSED)
        for source in sources:
            putting.put(source, folder, into)
    return putting.status


class _Putting(Copying):
    """Files that are sent."""

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder at the server."""
        try:
            self.remote.listdir(path)
        except (ConnectionClosed, RemoteError, OSError, ValueError) as exc:
            if self.remote.closed or is_lost(exc):
                raise failure_of(exc) from None
            return False
        return True

    def put(self, source: str, target: str, into: bool) -> None:
        """Send a file or a folder, as *target* or *into* it."""
        if into:
            name = os.path.basename(os.path.abspath(source))
            if not name:
                self.refuse(source, "has no name to give it at the server")
                return
            target = joined(target, name)
        if os.path.isfile(source) or not os.path.exists(source):
            self.copy(self.remote.put, source, target)
        elif not os.path.isdir(source):
            self.refuse(source, f"is no regular file: {PIPED}")
        elif self.recursive:
            self._put_folder(source, target)
        else:
            self.refuse(source, "is a folder: -r copies it")

    def _put_folder(self, source: str, target: str) -> None:
        """Send a folder; links to files are followed, those to folders are not."""
        waiting = [(source, target)]
        while waiting:
            source, target = waiting.pop()
            entries: list[os.DirEntry[str]] = []
            if not self.attempt(partial(_list, source, entries)):
                continue
            if not self.attempt(partial(self.remote.mkdir, target)):
                continue
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = joined(target, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, path))
                elif entry.is_file():
                    self.copy(self.remote.put, entry.path, path)
                else:
                    self.refuse(entry.path, "is no file and no folder: left out")


def _list(folder: str, entries: list[os.DirEntry[str]]) -> None:
    with os.scandir(folder) as found:
        entries += found
