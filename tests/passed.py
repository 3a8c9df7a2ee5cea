"""Files, and descriptors of them that go through Unix sockets, for tests of that."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from peers import LONG
from pysock import Connection

KINDS = {"stream": socket.SOCK_STREAM, "seqpacket": getattr(socket, "SOCK_SEQPACKET", 5)}


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Connection, Connection]]:
    """A sender, and a receiver that takes four descriptors with a message."""
    near, far = socket.socketpair(socket.AF_UNIX, KINDS[request.param])
    with (
        Connection(near, timeout=LONG) as conn,
        Connection(far, timeout=LONG, max_fds=4) as other,
    ):
        yield conn, other


@pytest.fixture
def plain() -> Iterator[tuple[socket.socket, Connection]]:
    """A plain stream socket, and a connection that takes four descriptors with a message."""
    near, far = socket.socketpair()
    with near, Connection(far, timeout=LONG, max_fds=4) as conn:
        yield near, conn


@pytest.fixture
def files() -> Iterator[list[Any]]:
    """Eight files that differ in what they hold."""
    with contextlib.ExitStack() as stack:
        opened = []
        for number in range(8):
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(b"%d" % number)
            file.flush()
            opened.append(file)
        yield opened


def numbers(fds: Iterable[int]) -> list[int]:
    """Which of `files` these descriptors are; closes them."""
    found = []
    for fd in fds:
        assert not os.get_inheritable(fd)
        found.append(int(os.pread(fd, 9, 0)))
        os.close(fd)
    return found


def opened() -> int:
    """How many descriptors of plain files there are: those of `files`, and what was passed."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            count += stat.S_ISREG(os.fstat(int(name)).st_mode)
    return count


def pass_on(sock: socket.socket, data: bytes, files: Iterable[Any] = ()) -> None:
    """Send all of *data*, with descriptors, as a program without pysock does."""
    fds = array.array("i", [file.fileno() for file in files])
    sent = sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    assert sent == len(data)
