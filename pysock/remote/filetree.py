"""Files below one folder, none of whose paths leads out of it; no sockets.

A path that comes from outside is walked part by part, each opened below the one before,
and symbolic links are never followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Generator, Iterator
from io import FileIO
from typing import Literal, Self

from .protocol import CHUNK, Entry

__all__ = [
    "FLAGS",
    "FOLDER",
    "NO_FOLLOW",
    "SUFFIX",
    "NotServed",
    "Source",
    "Tree",
    "check_target",
    "entries",
    "make_folder",
    "shown",
    "unbuffered",
]

SUFFIX = b".pysock-part"

# Where the system has no such flag, it is Windows, which serves no files.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
FLAGS = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO would wait for somebody to write
)
FOLDER = getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW | FLAGS
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | FOLDER  # a folder one may not list will do


class NotServed(OSError):
    """What a path names is nothing that is sent or replaced."""


def shown(path: bytes) -> str:
    """Return a path for error messages, and for OSError's *filename*."""
    return os.fsdecode(path)


# ---------------------------------------------------------------- the served folder


class Tree:
    """The files below one folder.

    Args:
        root: the folder; symbolic links on the way to it are its owner's choice.

    Raises:
        NotADirectoryError: it is no folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(root)
        if not os.path.isdir(self.root):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.root)

    @contextlib.contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield a descriptor of the folder that *path* is in, and the name in it.

        Raises:
            NotServed: the path leads elsewhere, or over a symbolic link.
            OSError: the folder cannot be had.
        """
        *folders, name = _parts(path)
        with self._walk(folders, _PASS) as fd:
            yield fd, name

    @contextlib.contextmanager
    def folder(self, path: bytes) -> Iterator[int]:
        """Yield a descriptor of a folder, to list it; b"" is the served one.

        Raises: as `parent`.
        """
        with self._walk(_parts(path) if path else [], os.O_RDONLY | FOLDER) as fd:
            yield fd

    @contextlib.contextmanager
    def _walk(self, names: list[bytes], last: int) -> Iterator[int]:
        fd = os.open(self.root, (_PASS if names else last) & ~NO_FOLLOW)
        try:
            for at, name in enumerate(names, 1):
                below = _open_folder(name, last if at == len(names) else _PASS, fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)


def _parts(path: bytes) -> list[bytes]:
    names = path.split(b"/")
    if b"\0" in path or not {b"", b".", b".."}.isdisjoint(names):
        text = 'is no path below the served folder: names with "/" between them'
        raise NotServed(errno.EACCES, text, shown(path))
    if any(name.endswith(SUFFIX) for name in names):
        raise NotServed(errno.EACCES, "is a name for unfinished files only", shown(path))
    return names


def _open_folder(name: bytes, flags: int, dir_fd: int) -> int:
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except OSError as exc:
        # With O_DIRECTORY a symbolic link is ENOTDIR to some systems, ELOOP to others.
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):
            _refuse_link(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), name)
        raise


def _refuse_link(info: os.stat_result, path: bytes) -> None:
    if stat.S_ISLNK(info.st_mode):
        text = "is a symbolic link, which is not followed"
        raise NotServed(errno.EACCES, text, shown(path))


def _check_regular(info: os.stat_result, path: bytes) -> None:
    _refuse_link(info, path)
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), shown(path))
    if not stat.S_ISREG(info.st_mode):
        raise NotServed(errno.EACCES, "is no regular file", shown(path))


def check_target(path: bytes, overwrite: bool, dir_fd: int | None = None) -> None:
    """Make sure that a file may be written at *path*.

    Raises:
        FileExistsError: there is one, and it is not to be replaced.
        OSError: something else stands there, or cannot be looked at.
    """
    try:
        info = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    _check_regular(info, path)
    if not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), shown(path))


def make_folder(path: bytes, mode: int, dir_fd: int) -> None:
    """Make a folder; fine if it is there.

    Raises:
        OSError: it cannot be made, or something else stands there.
    """
    try:
        os.mkdir(path, mode & 0o777, dir_fd=dir_fd)
    except FileExistsError:
        info = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        _refuse_link(info, path)
        if not stat.S_ISDIR(info.st_mode):
            raise


def entries(fd: int) -> Generator[Entry, None, None]:
    """Yield what is in a folder, but for unfinished files.

    Raises:
        OSError: it cannot be read.
    """
    with os.scandir(fd) as found:
        for item in found:
            name = os.fsencode(item.name)
            with contextlib.suppress(FileNotFoundError):  # removed just now
                info = item.stat(follow_symlinks=False)
                if not name.endswith(SUFFIX):
                    yield entry_of(info, name)


def entry_of(info: os.stat_result, name: bytes = b"") -> Entry:
    """Return how a file is announced."""
    kind = "f" if stat.S_ISREG(info.st_mode) else "d" if stat.S_ISDIR(info.st_mode) else "?"
    mode = info.st_mode & 0o777
    return Entry(info.st_size if kind == "f" else 0, mode, info.st_mtime_ns, kind, name)


def unbuffered(fd: int, mode: Literal["rb", "r+b"]) -> FileIO:
    """Return a file over *fd*, which it owns."""
    try:
        return open(fd, mode, buffering=0)
    except BaseException:
        os.close(fd)
        raise


# ---------------------------------------------------------------- a file to send


class Source:
    """A file that is being sent: its bytes piece by piece, and their checksum.

    Args:
        path: what to open.
        dir_fd: the folder that *path* is in, where symbolic links are not followed; None:
            an ordinary path.

    Raises:
        NotServed: it is no regular file.
        OSError: it cannot be opened.
    """

    def __init__(self, path: bytes, dir_fd: int | None = None) -> None:
        self._path = path
        follow = dir_fd is None
        # Some devices do something when they are opened.
        _check_regular(os.stat(path, dir_fd=dir_fd, follow_symlinks=follow), path)
        flags = os.O_RDONLY | FLAGS | (0 if follow else NO_FOLLOW)
        self._file = unbuffered(os.open(path, flags, dir_fd=dir_fd), "rb")
        try:
            self._info = os.fstat(self._file.fileno())
            _check_regular(self._info, path)
            self.size = self._info.st_size
            self._buffer = memoryview(bytearray(min(CHUNK, self.size)))
        except BaseException:
            self._file.close()
            raise
        self.done = 0
        self._sha256 = hashlib.sha256()

    @property
    def entry(self) -> Entry:
        """How it is announced."""
        return entry_of(self._info)

    def read(self) -> memoryview:
        """Return the next bytes, empty at the end; they hold until the next call.

        Raises:
            OSError: it cannot be read, or has become shorter.
        """
        return self._read(self.size)

    def skip(self, end: int) -> bool:
        """Go on towards byte *end*, a piece; return whether there is more.

        What is skipped counts for the checksum.

        Raises: as `read`.
        """
        self._read(end)
        return self.done < end

    def _read(self, end: int) -> memoryview:
        chunk = self._buffer[: min(len(self._buffer), end - self.done)]
        if chunk:
            count = self._file.readinto(chunk)
            if not count:
                raise self._changed()
            chunk = chunk[:count]
            self._sha256.update(chunk)
            self.done += count
        return chunk

    def digest(self) -> bytes:
        """Return the checksum of the whole file, all of which was read.

        Raises:
            OSError: it was changed meanwhile.
        """
        now = os.fstat(self._file.fileno())
        before = self._info
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise self._changed()
        if self._file.read(1):  # as of files in /proc, which say that they have no bytes
            raise self._changed()
        return self._sha256.digest()

    def _changed(self) -> OSError:
        return OSError(errno.EIO, "was changed while it was sent", shown(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
