"""A remote client at a server that says anything: a right result or a known error."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz import remotes_said
from fuzz.folders import scratch
from fuzz.source import Source
from pysock.errors import ConnectionClosed, FramingError, RemoteError
from pysock.remote import RemoteClient, copying
from pysock.remote.link import Link
from pysock.remote.process import Process
from pysock.remote.protocol import FRAMING, Kind

LIMIT = 64  # bytes of output
MOST = 80  # messages
KNOWN = (OSError, ConnectionClosed, FramingError, RemoteError)


def target(data: bytes) -> None:
    source = Source(data)
    server = Server(source)
    with scratch() as name:
        folder = Path(name)
        (folder / "mine").write_bytes(remotes_said.CONTENT)
        link = Link(lambda: server.connect(), timeout=3.0)
        remote: Any = RemoteClient.__new__(RemoteClient)
        remote._link, remote.address = link, "fuzz"
        try:
            for _ in range(3):
                server.said.clear()
                what = source.pick((run, run_all, start, get, put, listdir, mkdir))
                with contextlib.suppress(*KNOWN):
                    what(remote, server, folder, source)
        finally:
            remote.close()
        assert {path.name for path in folder.iterdir()} <= {"mine", "got"} | {
            path.name for path in folder.glob(".got.*.pysock-part")
        }
        assert (folder / "mine").read_bytes() == remotes_said.CONTENT


class Server:
    """A connection to a server that says what a fuzzer has it say."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.said: list[bytes] = []
        self.timeout: float | None = None
        self.linger = 5.0
        self.closed = False
        self._left = MOST
        self._connected = 0

    def connect(self) -> Any:
        self._connected += 1
        if self._connected > 2:
            raise ConnectionRefusedError
        self.closed = False
        return self

    def recv(self) -> bytes:
        if self.closed or not self.source.left or not self._left:
            raise ConnectionClosed
        self._left -= 1
        if self.source.number(15) == 15:
            raise TimeoutError  # as if all the time had passed
        message = remotes_said.message(self.source)
        self.said.append(message)
        return message

    def send(self, *parts: Any) -> None:
        assert not self.closed and len(b"".join(parts)) <= FRAMING.max_frame

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def told(self, kind: Kind) -> list[bytes]:
        """Return the bodies of the messages of a kind that it has sent."""
        return [message[1:] for message in self.said if message[:1] == kind.prefix]


def run(remote: Any, server: Server, folder: Path, source: Source) -> None:
    overflow = source.pick(("error", "tail"))
    stderr = source.pick((None, subprocess.STDOUT, subprocess.DEVNULL))
    done = remote.run(
        ["x"], input=b"typed" * 99, max_output=LIMIT, overflow=overflow, stderr=stderr
    )
    written = b"".join(server.told(Kind.STDOUT))
    assert len(server.told(Kind.EXIT)) == 1, "a status that nobody has told"
    assert done.stdout == written[-LIMIT:]
    assert len(written) <= LIMIT or overflow == "tail"


def run_all(remote: Any, server: Server, folder: Path, source: Source) -> None:
    """With all that could make it wait: a terminal, a deadline, text."""
    options: dict[str, Any] = {"pty": (24, 80)} if source.flag() else {"shell": True}
    with contextlib.suppress(subprocess.TimeoutExpired, UnicodeDecodeError):
        remote.run("ls", timeout=100.0, text=True, **options)
        assert len(server.told(Kind.EXIT)) == 1


def start(remote: Any, server: Server, folder: Path, source: Source) -> None:
    process: Process
    with remote.start(["x"]) as process:
        calls: tuple[Callable[[], object], ...] = (
            process.read,
            process.poll,
            lambda: process.write(b"typed"),
            process.close_stdin,
            process.terminate,
            lambda: process.resize(1, 1),
            lambda: process.communicate(b"more"),
        )
        while process.returncode is None and source.left:
            with contextlib.suppress(BrokenPipeError):
                source.pick(calls)()
            if remote.closed:
                break
    assert process.returncode is None or len(server.told(Kind.EXIT)) == 1


def get(remote: Any, server: Server, folder: Path, source: Source) -> None:
    local = folder / "got"
    before = local.read_bytes() if local.exists() else None
    try:
        remote.get("theirs", local, overwrite=source.flag())
    except BaseException:
        assert (local.read_bytes() if local.exists() else None) == before
        raise
    digest = hashlib.sha256(local.read_bytes()).digest()
    assert server.told(Kind.DONE)[-1] == digest


def put(remote: Any, server: Server, folder: Path, source: Source) -> None:
    remote.put(folder / "mine", "theirs", overwrite=source.flag())
    assert server.told(Kind.DONE)[-1] == remotes_said.DIGEST


def listdir(remote: Any, server: Server, folder: Path, source: Source) -> None:
    found = remote.listdir()
    assert sum(len(entry.pack()) for entry in found) == sum(map(len, server.told(Kind.DATA)))
    assert all(entry.name and b"/" not in entry.name for entry in found)
    assert server.told(Kind.DONE)


def mkdir(remote: Any, server: Server, folder: Path, source: Source) -> None:
    copying.mkdir(remote._link, "theirs")
    assert server.told(Kind.DONE)
