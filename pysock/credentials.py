"""Who is at the other end of a Unix socket, as the system tells it.

Linux says so with SO_PEERCRED, macOS and the BSDs with LOCAL_PEERCRED.  Both tell who made
the connection, not who uses it now: the answer stays the same when that process ends, and
when it hands its descriptor to another.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Credentials", "peer_credentials"]

_UCRED = struct.Struct("=iII")  # pid, uid, gid
_XUCRED = struct.Struct("=IIhxxI")  # version, uid, how many groups, the first of them
_XUCRED_SIZE = 128  # room for all groups; the system fills in what it has
_SOL_LOCAL = 0
_LOCAL_PEERPID = 2  # on macOS; elsewhere the number means something else
_NOBODY = 0xFFFFFFFF  # the user of a socket without a peer

# What a system answers that cannot tell, or has no peer to tell of.
_UNKNOWN = {errno.EINVAL, errno.ENOPROTOOPT, errno.ENOTCONN, errno.EOPNOTSUPP}


class Credentials(NamedTuple):
    """Process, user and group of a peer; `pid` is 0 where the system does not tell it."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: Any) -> Credentials | None:
    """Return who called connect() on the other end of *sock*, or listen().

    Of a socket pair it is who made the pair.

    Returns:
        None where *sock* is no Unix socket, or where the system cannot tell: nobody is
        known then, so that a check of the user must refuse.

    Raises:
        OSError: *sock* is closed.
    """
    family = getattr(socket, "AF_UNIX", None)
    if family is None or getattr(sock, "family", None) != family:
        return None
    try:
        if sys.platform in ("linux", "android"):
            return _of_linux(sock)
        return _of_bsd(sock)
    except OSError as exc:
        if exc.errno in _UNKNOWN:
            return None
        raise


def _of_linux(sock: Any) -> Credentials | None:
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    data = sock.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)
    if len(data) != _UCRED.size:
        return None
    found = Credentials(*_UCRED.unpack(data))
    return None if found.uid == _NOBODY else found


def _of_bsd(sock: Any) -> Credentials | None:
    option = getattr(socket, "LOCAL_PEERCRED", None)
    if option is None:
        return None
    data = sock.getsockopt(_SOL_LOCAL, option, _XUCRED_SIZE)
    if len(data) < _XUCRED.size:
        return None
    version, uid, groups, gid = _XUCRED.unpack_from(data)
    if version != 0 or groups < 1 or uid == _NOBODY:
        return None
    return Credentials(_pid_of_macos(sock), uid, gid)


def _pid_of_macos(sock: Any) -> int:
    if sys.platform != "darwin":
        return 0
    try:
        pid: int = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)
    except OSError:
        return 0  # the user is what counts
    return pid
