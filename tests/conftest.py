"""What every test gets: leak checks, connected pairs, peers, scaled time."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leaks
import pysock
from apart import (
    CASES,
    apart,
    give_each_its_own,
    is_parallel,
    leave_out_hypothesis,
    thin_out,
)
from pysock import handshake

leaks.note_paths()

# Limits in tests are multiplied by this: a slow machine sets it above 1.
TIME_FACTOR = float(os.environ.get("PYSOCK_TEST_TIME_FACTOR", "1"))


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def _is_wine() -> bool:
    if sys.platform != "win32":
        return False
    import ctypes

    return hasattr(ctypes.windll.ntdll, "wine_get_version")


# What a shell runs in the background, or nohup, ignores some of these, and so does all that
# we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform != "win32":
    for _number in (signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(_number) is signal.SIG_IGN:
            signal.signal(_number, signal.SIG_DFL)

if sys.platform == "win32":  # these would only be skipped, or need other programs
    collect_ignore_glob = (Path(__file__).parent / "posix_only.txt").read_text().split()
    # The system does not tell what is on its way, so a close waits for the peer's own: where
    # a test has that come later, not for long.
    for _cls in (pysock.Connection, pysock.Client, pysock.Server):
        _cls.__init__.__kwdefaults__["linger"] = 0.5

WINE = _is_wine()  # which is Windows for all else
has_gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
GIL = has_gil()  # and so it has to stay

linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")
posix = pytest.mark.skipif(sys.platform == "win32", reason="as POSIX has it")
pipes = pytest.mark.skipif(sys.platform == "win32", reason="pipes that nobody can wait for")
TELLS_LENGTH = sys.platform == "linux"  # of a datagram that was cut

unlike_wine = pytest.mark.skipif(WINE, reason="wine does it in its own way")
resets = pytest.mark.skipif(WINE, reason="wine may tell of an end where there was a reset")
told_queue = pytest.mark.skipif(
    sys.platform == "win32", reason="the system does not tell what is on its way"
)


def require_peer(name: str) -> str:
    """Return the path of program *name*; without it skip, or fail where CI must have it."""
    # Debian keeps daemons where the path of a plain user does not look.
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if path is None:
        if os.environ.get("PYSOCK_REQUIRE_PEERS") == "1":
            pytest.fail(f"peer {name!r} is not installed and PYSOCK_REQUIRE_PEERS=1")
        pytest.skip(f"peer {name!r} is not installed")
    return path


def pytest_configure() -> None:
    # A client that is slow, as all is, must not be taken for one that keeps others out.
    for name in ("_SILENCE", "_PATIENCE", "_LONG_PATIENCE"):
        setattr(handshake, name, getattr(handshake, name) * TIME_FACTOR)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if most := CASES if is_parallel(config) else int(os.environ.get("PYSOCK_TEST_CASES", "0")):
        thin_out(items, most)
    if is_parallel(config):
        leave_out_hypothesis(items)
        give_each_its_own(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Those take longer than `faulthandler_timeout` with nothing wrong.
    if item.get_closest_marker("slow"):
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def _own_temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have temporary files made where nobody else makes any, so that all can be seen."""
    tmp_path_factory.getbasetemp()  # which pytest keeps, and is not to be in there
    before = {name: os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")}
    with tempfile.TemporaryDirectory(prefix="pysock-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)  # as /tmp lets other users pass
        os.environ.update(dict.fromkeys(before, folder))
        tempfile.tempdir = None  # found anew
        yield
    tempfile.tempdir = None
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def no_leaks(_own_temporary: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves something behind (K01, K02, K03, K08).

    These are descriptors, threads, children, temporary files, and paths of Unix sockets.
    """
    before = leaks.held()
    yield
    if has_gil() != GIL:
        pytest.fail("the GIL has been switched on: a module was imported that wants it")
    if request.node.get_closest_marker("leaves_path"):
        leaks.bound.clear()
    left = leaks.left_behind(before, 5 * TIME_FACTOR)
    if left:
        pytest.fail(f"left behind: {left}")


def _listener(kind: str, folder: Path) -> socket.socket:
    if kind == "tcp4":
        return socket.create_server(("127.0.0.1", 0))
    if kind == "tcp6":
        return socket.create_server(("::1", 0), family=socket.AF_INET6)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / f"s{threading.get_native_id()}"))
    sock.listen()
    return sock


@contextlib.contextmanager
def _connected(kind: str, folder: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    if kind == "socketpair":
        a, b = socket.socketpair()
    else:
        with _listener(kind, folder) as listener:
            a = socket.socket(listener.family)
            a.connect(listener.getsockname())
            b, _ = listener.accept()
    with a, b:
        yield a, b


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
    with apart(request, lambda: _connected(request.param, tmp_path)) as both:
        yield both


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
