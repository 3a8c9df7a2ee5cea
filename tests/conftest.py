"""What every test gets: leak checks, connected pairs, peers, scaled time."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Limits in tests are multiplied by this: a slow machine sets it above 1.
TIME_FACTOR = float(os.environ.get("PYSOCK_TEST_TIME_FACTOR", "1"))


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")

_FD_FOLDERS = [folder for folder in ("/proc/self/fd", "/dev/fd") if os.path.isdir(folder)]


def require_peer(name: str) -> str:
    """Return the path of program *name*; without it skip, or fail where CI must have it."""
    # Debian keeps daemons where the path of a plain user does not look.
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if path is None:
        if os.environ.get("PYSOCK_REQUIRE_PEERS") == "1":
            pytest.fail(f"peer {name!r} is not installed and PYSOCK_REQUIRE_PEERS=1")
        pytest.skip(f"peer {name!r} is not installed")
    return path


def _descriptors() -> set[tuple[int, int, int]]:
    found = set()
    for name in os.listdir(_FD_FOLDERS[0]) if _FD_FOLDERS else ():
        with contextlib.suppress(OSError):  # the listing's own, closed by now
            info = os.fstat(int(name))
            found.add((int(name), info.st_dev, info.st_ino))
    return found


def _describe(fd: int) -> str:
    try:
        return f"{fd} -> {os.readlink(f'{_FD_FOLDERS[0]}/{fd}')}"
    except OSError:
        return str(fd)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail the test that leaves a descriptor or a thread behind (K01, K02)."""
    descriptors, threads = _descriptors(), set(threading.enumerate())
    yield
    end = time.monotonic() + 5 * TIME_FACTOR
    for thread in set(threading.enumerate()) - threads:
        thread.join(max(0.0, end - time.monotonic()))
    running = sorted(thread.name for thread in set(threading.enumerate()) - threads)
    if _descriptors() - descriptors:
        gc.collect()  # what only garbage holds is not lost
    opened = [_describe(fd) for fd, _, _ in sorted(_descriptors() - descriptors)]
    if opened or running:
        pytest.fail(f"left behind: descriptors {opened}, threads {running}")


def _listener(kind: str, folder: Path) -> socket.socket:
    if kind == "tcp4":
        return socket.create_server(("127.0.0.1", 0))
    if kind == "tcp6":
        return socket.create_server(("::1", 0), family=socket.AF_INET6)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / "s"))
    sock.listen()
    return sock


@pytest.fixture(
    params=[
        "tcp4",
        pytest.param("tcp6", marks=ipv6),
        pytest.param("unix", marks=unix),
        "socketpair",
    ]
)
def pair(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected plain stream sockets, over each kind of transport."""
    if request.param == "socketpair":
        a, b = socket.socketpair()
    else:
        with _listener(request.param, tmp_path) as listener:
            a = socket.socket(listener.family)
            a.connect(listener.getsockname())
            b, _ = listener.accept()
    with a, b:
        yield a, b


@pytest.fixture
def full_backlog(tmp_path: Path) -> Iterator[socket.socket]:
    """A Unix listener that has no room for another client."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "full"))
        listener.listen(0)
        first.connect(listener.getsockname())
        yield listener


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make every name resolve to the socket addresses given."""

    def resolve_to(*sockaddrs: Any) -> None:
        found = [
            (socket.AF_INET6 if len(sockaddr) == 4 else socket.AF_INET, 1, 6, "", sockaddr)
            for sockaddr in sockaddrs
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)

    return resolve_to


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the sources, which would stand before the installed package."""
    monkeypatch.chdir(tmp_path)
