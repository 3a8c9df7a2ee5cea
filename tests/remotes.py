"""Servers of remote commands, clients of theirs, and what becomes of the commands.

A test module takes fixtures from here by assigning them: `remote = remotes.remote`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certificates import Certificates
from peers import LONG
from programs import Program, until
from pysock import Connection
from pysock.remote import RemoteClient
from pysock.remote.protocol import FRAMING, Exec, Kind, version

if sys.platform == "win32":
    pytest.skip("Windows cannot serve remote commands", allow_module_level=True)

from pysock.remote import RemoteServer

GONE = 7.5  # HUP, TERM and KILL at 0, 1 and 5 s, and as long as a client's end is noticed
MIB = 1 << 20


class Served:
    """A server in a thread of this process, as its clients know it."""

    def __init__(self, server: RemoteServer, known: dict[str, Any]) -> None:
        self.server = server
        self.address = server.address
        self._known = known

    def client(self, **options: Any) -> RemoteClient:
        return RemoteClient(self.address, **{"timeout": LONG, **self._known, **options})

    @property
    def spawner(self) -> int:
        """The number of the process that starts the commands."""
        process = self.server._service.spawning._process
        assert process is not None
        return process.pid


class _Faults(logging.Handler):
    """Collects what a server could not deal with."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


@contextlib.contextmanager
def without_faults(expected: int = 0) -> Iterator[None]:
    """Fail where the library logs more errors than are expected."""
    faults = _Faults()
    logging.getLogger("pysock").addHandler(faults)
    try:
        yield
    finally:
        logging.getLogger("pysock").removeHandler(faults)
    assert len(faults.found) == expected, [str(each.exc_info or each) for each in faults.found]


@contextlib.contextmanager
def served(
    folder: Path, certs: Certificates | None = None, faults: int = 0, **options: Any
) -> Iterator[Served]:
    """A server at a Unix socket, or with certificates one with TLS and a key.

    Args:
        folder: where its socket is.
        certs: its certificates.
        faults: how many errors it is expected to log.
        options: those of `RemoteServer`.
    """
    address, known = f"unix://{folder}/s", {}
    if certs is not None:
        address = "tls://127.0.0.1:0"
        known = {"authkey": os.urandom(32), "pin": certs.server.pin}
        options |= {"tls": certs.server_context(), "authkey": known["authkey"]}
    with (
        without_faults(faults),
        RemoteServer(options.pop("address", address), allow_root=True, **options) as server,
    ):
        server.start()
        try:
            yield Served(server, known)
        finally:
            server.stop(0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server at a Unix socket."""
    with served(tmp_path) as found:
        yield found


@pytest.fixture
def remote(server: Served) -> Iterator[RemoteClient]:
    """A client of `server`."""
    with server.client() as client:
        yield client


@pytest.fixture(params=["unix", "tls"])
def any_server(
    request: pytest.FixtureRequest, tmp_path: Path, certs: Certificates
) -> Iterator[Served]:
    """A server at a Unix socket, and one with TLS and a key."""
    with served(tmp_path, certs if request.param == "tls" else None) as found:
        yield found


@pytest.fixture
def any_remote(any_server: Served) -> Iterator[RemoteClient]:
    """A client of `any_server`."""
    with any_server.client() as client:
        yield client


# ---------------------------------------------------------------- programs

_SERVER = """
import logging, signal, sys, threading
from pysock.remote import RemoteServer

logging.basicConfig(level=logging.INFO)
drain, options = eval(sys.argv[2])
with RemoteServer(sys.argv[1], **options) as server:
    stop = threading.Thread(target=server.stop, args=(drain,))
    signal.signal(signal.SIGTERM, lambda *_: stop.start())
    print(f"serves commands on {server.address},", flush=True)
    server.serve_forever()
"""


@contextlib.contextmanager
def program(folder: Path, source: str, *arguments: str) -> Iterator[Program]:
    """A program of this text, which is in a file: it is not in the command line."""
    path = folder / f"program{len(list(folder.glob('program*')))}.py"
    path.write_text(source)
    started = Program(folder, ["-P", str(path), *arguments])
    try:
        yield started
    finally:
        started.kill()


@contextlib.contextmanager
def server_program(folder: Path, drain: float = 0.0, **options: Any) -> Iterator[Program]:
    """A server in a process of its own; SIGTERM stops it."""
    address = options.pop("address", f"unix://{folder}/s")
    given = repr((drain, {"allow_root": True, **options}))
    with program(folder, _SERVER, address, given) as started:
        assert started.address
        yield started


# ---------------------------------------------------------------- processes


class Mark:
    """Seconds for `sleep` that nobody else sleeps, also in the environment of commands."""

    def __init__(self) -> None:
        self.seconds = f"1000.{secrets.randbelow(10**12):012}"
        self.env = {"LC_MARK": self.seconds}

    @property
    def pids(self) -> list[int]:
        """The processes that have it in their environment or arguments, as Linux has them."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and any(
                self.seconds.encode() in _read(entry / what) for what in ("environ", "cmdline")
            ):
                found.append(int(entry.name))
        return found

    def await_sleepers(self, count: int) -> list[int]:
        """Wait until *count* processes sleep for so long; return their numbers."""

        def look() -> list[int] | None:
            found = [pid for pid in self.pids if _program(pid) == b"sleep"]
            return found if len(found) == count else None

        found: list[int] = until(look)
        return found

    def await_end(self, within: float = GONE) -> None:
        """Wait until none of them is there."""
        until(lambda: not self.pids, within)


@pytest.fixture
def mark() -> Iterator[Mark]:
    """A mark; whoever bears it at the end of the test is ended."""
    found = Mark()
    yield found
    if sys.platform == "linux":
        for pid in found.pids:
            with contextlib.suppress(OSError):
                os.kill(pid, 9)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _program(pid: int) -> bytes:
    return os.path.basename(_read(Path(f"/proc/{pid}/cmdline")).split(b"\0")[0])


def children(pid: int) -> list[int]:
    """The children of a process, zombies among them, as Linux has them."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, _read(path).split())
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process, as Linux says; a zombie is none."""
    state = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()[:1]
    return state not in ([], [b"Z"])


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process has to itself, as Linux has them."""
    pages = int(_read(Path(f"/proc/{pid}/statm")).split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------- messages


def plain_client(address: Any) -> Connection:
    """A client that has said nothing yet."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(address).removeprefix("unix://"))
    return Connection(sock, FRAMING, timeout=LONG, linger=0.0)


@contextlib.contextmanager
def bare_client(address: Any) -> Iterator[Connection]:
    """A client that sends whatever it likes, after the versions were told."""
    with plain_client(address) as connection:
        connection.send(version())
        assert connection.recv() == version()
        yield connection


@contextlib.contextmanager
def bare_server(first: bytes = version()) -> Iterator[tuple[socket.socket, Connection]]:
    """A socket for `RemoteClient(sock=)`, and the other end, which sends what it likes."""
    near, far = socket.socketpair()
    with near, Connection(far, FRAMING, timeout=LONG, linger=0.0) as connection:
        connection.send(first)
        yield near, connection


def ask(*argv: str, **options: Any) -> bytes:
    """The message that asks for a command."""
    return Exec(tuple(map(os.fsencode, argv)), **options).encode()


def next_of(connection: Connection, *kinds: Kind) -> bytes:
    """The next message of one of these kinds; what comes before counts for nothing."""
    while (message := connection.recv())[0] not in kinds:
        pass
    return message
