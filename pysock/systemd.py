"""What a supervisor hands to the program it starts: listening sockets, and its ear.

The protocols are systemd's, and others speak them too: sockets begin at descriptor 3 and
are told by LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES; news goes to NOTIFY_SOCKET.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading

__all__ = ["listen_fds", "listener", "notify"]

_FIRST = 3  # the descriptor after stderr
_PATIENCE = 1.0  # seconds that a supervisor may take to make room for a message

_passed: list[tuple[int, str]] | None = None
_taking = threading.Lock()


def listen_fds() -> list[tuple[int, str]]:
    """Return the descriptors that were passed to this program, each with its name.

    The first call takes them: the variables that told of them go out of `os.environ`,
    and no program started from here gets them.  So call it before forking.

    Raises:
        OSError: one of them is not open.
        ValueError: LISTEN_FDS is malformed.
    """
    global _passed
    with _taking:
        if _passed is None:
            _passed = _take()
        return list(_passed)


def listener(which: int | str) -> socket.socket:
    """Return the inherited stream socket that listens, without blocking.

    Args:
        which: its descriptor, or the name that it was passed with.

    Raises:
        OSError: there is none; the message says what is there instead.
        ValueError: LISTEN_FDS is malformed.
    """
    passed = listen_fds()  # for a number too: children must not inherit what was passed
    fd = _named(which, passed) if isinstance(which, str) else which
    try:
        sock = socket.socket(fileno=fd)
    except OSError as exc:
        if exc.errno == errno.ENOTSOCK:
            raise OSError(exc.errno, f"descriptor {fd} is {_kind(fd)}, no socket") from None
        if exc.errno == errno.EBADF:
            raise OSError(
                exc.errno,
                f"descriptor {fd} is not open; was the program started by a socket unit?",
            ) from None
        raise
    wrong = _what_is_wrong(sock)
    if wrong:
        sock.detach()  # it stays whoever's it is
        raise OSError(errno.EINVAL, f"descriptor {fd} is {wrong}")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def notify(state: str) -> bool:
    """Tell the supervisor how this program is; return whether there was one to tell.

    Args:
        state: lines such as "READY=1", "STOPPING=1" or "STATUS=3 workers".
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return False
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    # A supervisor that has gone is no reason to stop serving.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(_PATIENCE)
        sock.sendto(state.encode(), address)
        return True
    return False


def _take() -> list[tuple[int, str]]:
    taken = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
    pid, count, names, pidfd_id = (os.environ.pop(name, "") for name in taken)
    if pid != str(os.getpid()) or not _is_this_process(pidfd_id):
        return []  # they were meant for a program that started this one
    if not (count.isascii() and count.isdigit() and len(count) <= 9):
        raise ValueError(f"LISTEN_FDS is {count!r}, expected a number of descriptors")
    named = names.split(":") if names else []
    found = []
    for at in range(int(count)):
        try:
            os.set_inheritable(_FIRST + at, False)
        except OSError as exc:
            text = f"LISTEN_FDS is {count}, but descriptor {_FIRST + at} is not open"
            raise OSError(exc.errno, text) from None
        found.append((_FIRST + at, named[at] if at < len(named) else "unknown"))
    return found


def _is_this_process(pidfd_id: str) -> bool:
    """Whether LISTEN_PIDFDID, where it is given and can be checked, means this process."""
    if not pidfd_id or not hasattr(os, "pidfd_open"):
        return True
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError:
        return True
    try:
        return pidfd_id == str(os.fstat(pidfd).st_ino)
    finally:
        os.close(pidfd)


def _named(name: str, passed: list[tuple[int, str]]) -> int:
    found = [fd for fd, its_name in passed if its_name == name]
    if len(found) == 1:
        return found[0]
    if found:
        choice = " or ".join(f"fd://{fd}" for fd in found)
        raise OSError(errno.EINVAL, f"{len(found)} sockets have this name; write {choice}")
    there = ", ".join(f"{its_name!r} (fd://{fd})" for fd, its_name in passed)
    raise OSError(
        errno.ENOENT,
        f"no socket of this name was passed; there is {there}"
        if there
        else "no sockets were passed; was the program started by a socket unit?",
    )


def _what_is_wrong(sock: socket.socket) -> str:
    """Return what *sock* is if it is no stream socket that listens, else nothing."""
    if sock.type != socket.SOCK_STREAM:
        kind = getattr(sock.type, "name", sock.type)
        return f"a socket of type {kind}, expected SOCK_STREAM (ListenStream=)"
    try:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return ""
    except OSError:
        return ""  # a system that does not tell
    try:
        sock.getpeername()
    except OSError:
        return "a socket that does not listen; call its listen() before passing it"
    return "a connection, expected a socket that listens (Accept=no)"


def _kind(fd: int) -> str:
    """Return what kind of file *fd* is."""
    mode = os.fstat(fd).st_mode
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a terminal or other device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
