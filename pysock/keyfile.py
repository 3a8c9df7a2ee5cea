"""Files with secrets in them: read only where nobody else can read them."""

from __future__ import annotations

import errno
import os

__all__ = ["check_private", "check_private_fd", "read_private"]

_MOST = 64 * 1024  # bytes
_HAS_MODES = os.name != "nt"


def check_private(path: str | os.PathLike[str]) -> None:
    """Refuse the file at *path* if others than its owner may use it.

    Raises:
        PermissionError: they may; the text says what to do.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        check_private_fd(file.fileno(), path)


def check_private_fd(fd: int, path: str | os.PathLike[str]) -> None:
    """Refuse the open file *fd*, which was found at *path*, as `check_private` does.

    Its group may read it where root owns it, and this process is another user's.
    Windows keeps no modes, so nothing is refused there.
    """
    info = os.fstat(fd)
    mode = info.st_mode & 0o777
    # Root gives others a file to read by their group: systemd, Kubernetes, Debian do.
    given = _HAS_MODES and info.st_uid == 0 != os.geteuid()
    if _HAS_MODES and mode & (0o037 if given else 0o077):
        text = f"mode {mode:04o} lets others use it, run chmod 600 {os.fspath(path)}"
        raise PermissionError(errno.EACCES, text, os.fspath(path))


def read_private(path: str | os.PathLike[str]) -> bytes:
    """Return what the private file at *path* holds, at most 64 KiB.

    Raises:
        PermissionError: others than its owner may use it; the text says what to do.
        OSError: it cannot be read.
        ValueError: it is larger.
    """
    with open(path, "rb") as file:
        check_private_fd(file.fileno(), path)
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError(f"{os.fspath(path)}: more than 64 KiB, too much for keys")
    return data
