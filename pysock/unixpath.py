"""Unix socket paths: private from the start, replaced only when nobody listens.

A server that was killed leaves its path behind.  The next one may take its place,
but never that of a live server or of a file that is no socket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator

if sys.platform != "win32":
    import fcntl

__all__ = ["Made", "bind_and_listen", "bind_private", "identity", "unlink_if_same"]

Made = tuple[str, int, int]
"""The absolute path of a file that was made, its device and its number there."""

_umask_lock = threading.Lock()


def bind_and_listen(sock: socket.socket, path: str, backlog: int) -> None:
    """Listen at *path*, with mode 0600; an abstract name begins with NUL.

    Raises:
        OSError: EADDRINUSE if a server is answering there, or if what stands there
            is no socket.
    """
    # Between bind and listen a path refuses connections, as one left behind does.
    with _alone_at(path):
        _bind_or_replace(sock, path)
        sock.listen(backlog)


def bind_private(sock: socket.socket, path: str) -> None:
    """Receive datagrams at *path*, with mode 0600; otherwise as `bind_and_listen`."""
    with _alone_at(path):
        _bind_or_replace(sock, path)


def identity(path: str) -> Made:
    """Return what tells the file at *path* from any later one of the same name."""
    path = os.path.abspath(path)  # the program may go to another folder
    info = os.lstat(path)
    return path, info.st_dev, info.st_ino


def unlink_if_same(made: Made) -> bool:
    """Remove the file that `identity` saw, if it is still there; return whether it was.

    Call it before the listening socket is closed: until then the system cannot give
    the file's number to another.
    """
    path = made[0]
    with _alone_at(path):
        try:
            if identity(path) != made:
                return False
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True


def _bind_or_replace(sock: socket.socket, path: str) -> None:
    """Bind to *path*, also where a socket that nobody has open stands there."""
    try:
        _bind(sock, path)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE or path.startswith("\0"):
            raise
        _remove_stale(path)
        _bind(sock, path)


def _bind(sock: socket.socket, path: str) -> None:
    """Bind to *path* so that it never has another mode than 0600."""
    if path.startswith("\0"):
        sock.bind(path)
        return
    if sys.platform == "linux":
        os.fchmod(sock.fileno(), 0o600)  # the path takes its mode from the socket
        sock.bind(path)
        return
    with _umask_lock:
        umask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(umask)


def _remove_stale(path: str) -> None:
    """Remove the Unix socket at *path* if nobody listens on it."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "a file that is no socket stands there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code == errno.ECONNREFUSED:
        os.unlink(path)
    elif code in (0, errno.EAGAIN, errno.EPROTOTYPE):
        raise OSError(errno.EADDRINUSE, "a server is answering there, stop it first")
    elif code != errno.ENOENT:
        raise OSError(code, f"cannot tell whether a server is there: {os.strerror(code)}")


@contextlib.contextmanager
def _alone_at(path: str) -> Iterator[None]:
    """Let one server at a time make or remove Unix sockets in a path's folder.

    A lock that cannot be had is done without: then two servers which start in the
    same instant might both replace one path left behind, as they might anywhere.
    """
    if sys.platform == "win32" or path.startswith("\0"):
        yield
        return
    try:
        fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    except OSError:
        yield  # a folder that is not there makes bind fail, and say why
        return
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as exc:
                if exc.errno != errno.EWOULDBLOCK:
                    break
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)
