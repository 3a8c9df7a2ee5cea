"""A file in the making: under a temporary name, until it is whole; no sockets.

It stands beside its target, is locked against whoever writes the same, and stays when its
transfer is cut, for the next one to go on with.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from typing import Self

from .filetree import FLAGS, FOLDER, NO_FOLLOW, SUFFIX, check_target, shown, unbuffered
from .protocol import CHUNK, Entry

if sys.platform != "win32":
    import fcntl

__all__ = ["Busy", "Part", "sweep"]

OLD = 7 * 86400  # seconds after which a cut transfer is not gone on with
PATIENCE = 1.0  # seconds for whoever was cut off to let go of its file
_PAUSE = 0.02
_LONGEST_NAME = 220  # of the target in a temporary name: 255 bytes are the limit of most


class Busy(OSError):
    """The same file is being written already."""


class Part:
    """A file in the making, beside its target, under a lock.

    What a cut transfer of the same file has left is gone on with.  Leaving the `with`
    statement closes it and leaves it there.

    Args:
        target: the name it will have.
        origin: tells the same file from another; its *size* is the most it will take.
        of: who and what it comes from.
        dir_fd: the folder that *target* is in; None: *target* is a path.

    Raises:
        Busy: the same file is being written.
        OSError: it cannot be made.
    """

    def __init__(
        self, target: bytes, origin: Entry, of: tuple[str, bytes], dir_fd: int | None = None
    ) -> None:
        self._target, self._dir_fd, self._origin = target, dir_fd, origin
        self._name = _part_name(target, repr((*of, origin.size, origin.mtime_ns)).encode())
        with _about(target):
            self._file = unbuffered(_open_locked(self._name, dir_fd), "r+b")
        self._named = True  # under its temporary name
        self._sha256 = hashlib.sha256()
        try:
            info = os.fstat(self._file.fileno())
            if _is_old(info) or info.st_size > origin.size:
                self._file.truncate(0)
                info = os.fstat(self._file.fileno())
        except BaseException:
            self._file.close()
            raise
        self.size = info.st_size

    def catch_up(self) -> bool:
        """Go on with the checksum of what was there, a piece; return whether there is more.

        Raises:
            OSError: it cannot be read.
        """
        left = self.size - self._file.tell()
        if left:
            with _about(self._target):
                piece = self._file.read(min(left, CHUNK))
            if not piece:
                raise OSError(errno.EIO, "was cut by somebody else", shown(self._target))
            self._sha256.update(piece)
            left -= len(piece)
        return left > 0

    def write(self, data: bytes) -> None:
        """Add *data*.

        Raises:
            OSError: the disk is full, or the like.
        """
        left = memoryview(data)
        with _about(self._target):
            while left:
                left = left[self._file.write(left) :]
        self._sha256.update(data)
        self.size += len(data)

    def digest(self) -> bytes:
        """Return the checksum of all of it."""
        return self._sha256.digest()

    def finish(self, overwrite: bool) -> None:
        """Give it its mode, time and name.

        Raises:
            FileExistsError: there is a file, and it is not to be replaced.
            OSError: it cannot be done.
        """
        mode, modified = self._origin.mode & 0o777, self._origin.mtime_ns
        if sys.platform == "win32":  # which renames no open file
            self._file.close()
            os.utime(self._name, ns=(modified, modified))
            os.chmod(self._name, mode)
        else:
            os.fchmod(self._file.fileno(), mode)
            os.utime(self._file.fileno(), ns=(modified, modified))
        if overwrite or not self._link():
            os.replace(
                self._name, self._target, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd
            )
        self._named = False

    def _link(self) -> bool:
        """Give it its name unless there is a file; return False where the other must go."""
        check_target(self._target, False, self._dir_fd)
        try:
            os.link(self._name, self._target, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        except FileExistsError:
            raise
        except (OSError, NotImplementedError):
            return False  # a file system without second names, as FAT
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._dir_fd)
        return True

    def discard(self) -> None:
        """Remove it, unless it is finished."""
        if self._named:
            self._named = False
            if sys.platform == "win32":
                self._file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._dir_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextlib.contextmanager
def _about(path: bytes) -> Iterator[None]:
    """Name *path* in the system's errors, not the temporary name."""
    try:
        yield
    except OSError as exc:
        exc.filename = shown(path)
        raise


def _part_name(target: bytes, key: bytes) -> bytes:
    folder, name = os.path.split(target)
    number = hashlib.sha256(key).hexdigest()[:16].encode()
    # What is cut from a name in UTF-8 is whole characters: some systems insist.
    whole = name if len(name) <= _LONGEST_NAME else _cut(name)
    return os.path.join(folder, b"." + whole + b"." + number + SUFFIX)


def _cut(name: bytes) -> bytes:
    return name[:_LONGEST_NAME].decode(errors="ignore").encode()


def _open_locked(name: bytes, dir_fd: int | None) -> int:
    """Return a descriptor of the file *name*, made if need be, that nobody else has locked."""
    end = time.monotonic() + PATIENCE
    while True:
        fd = _open_own(name, dir_fd)
        try:
            # Whoever had the lock may have finished the file, or removed it.
            if _lock(fd) and _is_there(fd, name, dir_fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if time.monotonic() > end:
            raise Busy(errno.EBUSY, "is being written by another transfer", shown(name))
        time.sleep(_PAUSE)


def _open_own(name: bytes, dir_fd: int | None) -> int:
    """Open the file, but not one that somebody else has put there."""
    flags = os.O_RDWR | os.O_CREAT | NO_FOLLOW | FLAGS
    for exclusive in (0, os.O_EXCL):
        with contextlib.suppress(OSError):
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if not _is_own(info):
                os.unlink(name, dir_fd=dir_fd)
        fd = os.open(name, flags | exclusive, 0o600, dir_fd=dir_fd)
        if _is_own(os.fstat(fd)):
            return fd
        os.close(fd)
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), shown(name))


def _is_own(info: os.stat_result) -> bool:
    if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1 or info.st_mode & 0o600 != 0o600:
        return False
    return sys.platform == "win32" or info.st_uid == os.geteuid()


def _lock(fd: int) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _is_there(fd: int, name: bytes, dir_fd: int | None) -> bool:
    try:
        info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(info, os.fstat(fd))


def sweep(fd: int) -> None:
    """Remove what transfers that were cut long ago have left in a folder."""
    listed = os.open(b".", os.O_RDONLY | FOLDER, dir_fd=fd)
    try:
        with os.scandir(listed) as found:
            names = [
                name for item in found if (name := os.fsencode(item.name)).endswith(SUFFIX)
            ]
    finally:
        os.close(listed)
    for name in names:
        with contextlib.suppress(OSError):  # it is for the next one, then
            _remove_old(name, fd)


def _remove_old(name: bytes, dir_fd: int) -> None:
    info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISREG(info.st_mode) or not _is_old(info):
        return
    fd = os.open(name, os.O_RDWR | NO_FOLLOW | FLAGS, dir_fd=dir_fd)
    try:
        if _lock(fd) and _is_there(fd, name, dir_fd) and _is_old(os.fstat(fd)):
            os.unlink(name, dir_fd=dir_fd)
    finally:
        os.close(fd)


def _is_old(info: os.stat_result) -> bool:
    return time.time() - info.st_mtime > OLD
