"""Both sides of file transfers without a server around them, for their tests.

A test module takes a fixture from here by assigning it, as in `served = remote_links.served`.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pysock import Connection, ConnectionClosed, FramingError
from pysock.remote import copying
from pysock.remote.conversation import State
from pysock.remote.files import Files
from pysock.remote.link import Link
from pysock.remote.protocol import FRAMING, Get, Kind, Put, version
from pysock.remote.talk import Talk
from pysock.testing import pair

LONG = 10.0
GONE = (ConnectionClosed, ConnectionError, TimeoutError)
LOST = (ConnectionClosed, OSError)


class Remote:
    """What a client has in the end: the transfers, over one link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @property
    def connection(self) -> Any:
        """The link's own, at present."""
        return self.link._client

    @property
    def ready(self) -> bool:
        """Whether the connection is as it was between two transfers."""
        return not self.link.closed and self.link.state is State.READY

    def put(self, *args: Any, **options: Any) -> None:
        copying.put(self.link, *args, **options)

    def get(self, *args: Any, **options: Any) -> None:
        copying.get(self.link, *args, **options)

    def listdir(self, *args: Any) -> Any:
        return copying.listdir(self.link, *args)

    def mkdir(self, *args: Any) -> None:
        copying.mkdir(self.link, *args)

    def names(self, folder: str = "") -> list[bytes]:
        return [entry.name for entry in self.listdir(folder)]


class Served:
    """A folder, served to as many clients as want; each connection has its thread.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = Files(root)
        self.broken: list[FramingError] = []  # what clients did against the rules
        self.outcomes: list[str] = []  # of the transfers
        self.connected = 0  # times
        self.faults: dict[str, Any] = {}  # of the next connection
        self._stack = contextlib.ExitStack()

    def client(self) -> Remote:
        link = Link(self._connect, LONG)
        self._stack.callback(link.close)
        return Remote(link)

    def _connect(self) -> Connection:
        faults, self.faults = self.faults, {}
        self.connected += 1
        if faults:
            a, b = self._stack.enter_context(pair(FRAMING, **faults))
        else:
            a, b = (
                Connection(sock, FRAMING, timeout=LONG, linger=0)
                for sock in socket.socketpair()
            )
        thread = threading.Thread(target=self._serve, args=(b,))
        self._stack.callback(thread.join, LONG)
        thread.start()
        self._stack.callback(a.close)
        return a

    def _serve(self, connection: Connection) -> None:
        with connection, contextlib.suppress(*GONE):
            try:
                talk = Talk(connection)
                talk.receive()
                talk.send(version())
                while True:
                    kind, body = talk.receive()
                    if kind is Kind.PUT:
                        self.outcomes.append(self.files.put(talk, Put.decode(body)))
                    elif kind is Kind.GET:
                        self.outcomes.append(self.files.get(talk, Get.decode(body)))
            except FramingError as exc:
                self.broken.append(exc)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextlib.contextmanager
def scripted(*script: bytes | Kind) -> Iterator[Remote]:
    """A client whose server says what *script* has, and waits for a message of each kind.

    What the client says after the end of the script is received until it has gone.
    """

    def say() -> None:
        with b, contextlib.suppress(*GONE):
            b.recv()
            b.send(version())
            for step in script:
                if isinstance(step, Kind):
                    while b.recv()[0] != step:
                        pass
                else:
                    b.send(step)
            while True:
                b.recv()

    a, b = connected()
    thread = threading.Thread(target=say)
    thread.start()
    link = Link(lambda: a, LONG)
    try:
        yield Remote(link)
    finally:
        link.close()
        a.close()
        thread.join()


class Progress:
    """Keeps what it is told; may do something when some bytes have passed."""

    def __init__(self, act=None, after: int = 1) -> None:
        self.told: list[tuple[int, int]] = []
        self._act, self._after = act, after

    def __call__(self, done: int, total: int) -> None:
        self.told.append((done, total))
        if self._act is not None and done >= self._after:
            act, self._act = self._act, None
            act()


def raising(exc: BaseException):
    def act() -> None:
        raise exc

    return act


def usable(remote: Remote, tmp_path: Path) -> None:
    """The connection is there, and good."""
    assert remote.ready
    connection = remote.connection
    (tmp_path / "small").write_bytes(b"small")
    remote.put(tmp_path / "small", "small")
    remote.get("small", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"small"
    assert remote.connection is connection


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "root").mkdir()
    with Served(tmp_path / "root") as served:
        yield served
        assert served.broken == []
    assert parts(tmp_path) == parts(tmp_path / "root") == []


@pytest.fixture
def remote(served: Served) -> Remote:
    return served.client()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(served: Served) -> Path:
    return served.root / "there"


def connected() -> list[Connection]:
    """Both ends of a connection."""
    return [Connection(sock, FRAMING, timeout=LONG, linger=0) for sock in socket.socketpair()]


def content(size: int) -> bytes:
    """Bytes of which no two pieces are the same."""
    count = size // 32 + 1
    return b"".join(
        hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count)
    )[:size]


def parts(folder: Path) -> list[Path]:
    """The unfinished files in a folder."""
    return sorted(folder.glob(".*.pysock-part"))
