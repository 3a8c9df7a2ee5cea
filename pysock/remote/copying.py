"""Files stored and fetched: the client's side.

What goes wrong with a file, here or there, ends the transfer for both sides, and the
connection is as good as before; what goes wrong with the connection closes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from ..errors import FramingError
from .conversation import State
from .filetree import Source, check_target, shown
from .link import Link
from .part import Part
from .protocol import Entry, Get, Kind, Put, Refusal, number_in, offset

__all__ = ["Path", "Progress", "get", "listdir", "mkdir", "put"]

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Progress = Callable[[int, int], object]

_DATA = Kind.DATA()
_ASIDE = 16  # pieces of a file between two looks at what the server says
_MOST_LISTED = 1_000_000  # files in a folder


class _Exchange:
    """One transfer over a link; left before its end, it ends for both sides.

    Args:
        link: the connection.
        request: the message that asks for it.
    """

    def __init__(self, link: Link, request: bytes) -> None:
        self._link, self._request = link, request
        self.lost = False  # whether it was the connection that failed

    def __enter__(self) -> Self:
        try:
            self._link.begin(self._request)
        except RuntimeError:
            raise  # something else goes on there
        except BaseException:
            self._close()
            raise
        return self

    def send(self, *parts: Any) -> None:
        try:
            self._link.send(*parts)
        except BaseException:
            self.lost = True
            raise

    def receive(self) -> tuple[Kind, bytes]:
        try:
            return self._link.receive()
        except BaseException:
            self.lost = self._link.state is not State.READY
            raise

    def look(self) -> None:
        """Raise what the server says about the transfer, if it does."""
        try:
            said = self._link.poll()
        except BaseException:
            self.lost = self._link.state is not State.READY
            raise
        if said is not None:
            raise FramingError(f"{said[0].name} while a file is being stored")

    def expect(self, kind: Kind) -> bytes:
        """Return the body of the next message, which is of *kind*."""
        received, body = self.receive()
        if received is not kind:
            raise FramingError(f"{received.name} instead of {kind.name}")
        return body

    def __exit__(
        self, kind: object, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, FramingError):
            self._link.close()  # wherever it thinks it is
        elif self.lost or not isinstance(exc, Exception):
            self._close()
        else:
            self._give_up()

    def _give_up(self) -> None:
        """Have the server end it, if it has not."""
        try:
            # The answer is an error, too, which is of no interest.
            with contextlib.suppress(Exception):
                if self._link.state is not State.READY:
                    self._link.send(Refusal("failed", "given up").encode())
                while self._link.state is not State.READY:
                    self._link.receive()
        finally:
            self._close()

    def _close(self) -> None:
        if self._link.state is not State.READY:
            self._link.close()


# ---------------------------------------------------------------- storing


def put(
    link: Link,
    local: Path,
    remote: Path,
    *,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> None:
    """Store a file at the server, with its mode and time; go on where a cut one ended.

    Args:
        link: the connection.
        local: the file.
        remote: its path there, below the served folder.
        overwrite: whether it may replace a file.
        progress: called with the bytes that are there and those of the whole file.

    Raises:
        FileExistsError: there is one, and *overwrite* is false.
        RemoteError: the server refuses.
        OSError: a disk is full, a file cannot be read, or the connection has failed.
        ConnectionClosed: the server has gone.
        ValueError: *remote* is no path.
    """
    for _ in range(2):
        with Source(os.fsencode(local)) as source:
            request = Put(os.fsencode(remote), source.entry, overwrite).encode()
            with _Exchange(link, request) as exchange:
                if _store(exchange, source, progress):
                    return
    raise _damaged(os.fsencode(remote))


def _store(exchange: _Exchange, source: Source, progress: Progress | None) -> bool:
    """Send the file; return False where what the server had of it was damaged."""
    start = number_in(Kind.PUT, exchange.expect(Kind.PUT))
    if start > source.size:
        raise FramingError(f"PUT from byte {start} of a file of {source.size}")
    while source.skip(start):
        pass
    _report(progress, start, source.size)
    count = 0
    while chunk := source.read():
        exchange.send(_DATA, chunk)
        _report(progress, source.done, source.size)
        count += 1
        if not count % _ASIDE:
            exchange.look()
    digest = source.digest()
    exchange.send(Kind.DONE(digest))
    try:
        confirmed = exchange.expect(Kind.DONE)
    except OSError as exc:
        if start and exc.errno == errno.EBADMSG and not exchange.lost:
            return False
        raise
    if confirmed != digest:
        raise FramingError("DONE with another checksum than that of the file")
    return True


def mkdir(link: Link, remote: Path) -> None:
    """Make a folder at the server; fine if it is there.

    Raises: as `put`.
    """
    request = Put(os.fsencode(remote), Entry(0, 0o777, 0, "d")).encode()
    with _Exchange(link, request) as exchange:
        exchange.expect(Kind.DONE)


# ---------------------------------------------------------------- fetching


def get(
    link: Link,
    remote: Path,
    local: Path,
    *,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> None:
    """Fetch a file from the server, with its mode and time; go on where a cut one ended.

    Args:
        link: the connection.
        remote: its path there, below the served folder.
        local: the path it gets; a symbolic link is followed, as cp does.
        overwrite: whether it may replace a file.
        progress: called with the bytes that are there and those of the whole file.

    Raises: as `put`.
    """
    path, target = os.fsencode(remote), os.path.realpath(os.fsencode(local))
    check_target(target, overwrite)
    for _ in range(2):
        with _Exchange(link, Get(path).encode()) as exchange:
            if _fetch(exchange, path, target, overwrite, progress):
                return
    raise _damaged(target)


def _fetch(
    exchange: _Exchange,
    path: bytes,
    target: bytes,
    overwrite: bool,
    progress: Progress | None,
) -> bool:
    """Receive the file; return False where what was here of it is damaged."""
    entry = Entry.decode(exchange.expect(Kind.GET))
    if entry.type != "f":
        raise FramingError(f"GET of a file that is {entry.type!r}")
    with Part(target, entry, ("", path)) as part:
        try:
            start = part.size
            while part.catch_up():  # while the server waits, which it does without a limit
                pass
            exchange.send(offset(Kind.GET, start))
            _report(progress, start, entry.size)
            digest = _receive(exchange, part, entry.size, progress)
            if digest == part.digest():
                part.finish(overwrite)
                return True
            if not start:
                raise _damaged(target)
            part.discard()
            return False
        except Exception:
            if not exchange.lost:
                part.discard()
            raise


def _receive(exchange: _Exchange, part: Part, size: int, progress: Progress | None) -> bytes:
    while True:
        kind, body = exchange.receive()
        if kind is not Kind.DATA:
            break
        if not body or len(body) > size - part.size:
            raise FramingError(f"DATA of {len(body)} bytes, {size - part.size} were to come")
        part.write(body)
        _report(progress, part.size, size)
    if kind is not Kind.DONE or part.size != size:
        raise FramingError(f"{kind.name} after {part.size} of {size} bytes")
    return body


def listdir(link: Link, remote: Path = "") -> list[Entry]:
    """Return what is in a folder at the server, sorted by name.

    Args:
        link: the connection.
        remote: the folder; "": the served one.

    Raises: as `put`.
    """
    found: list[Entry] = []
    with _Exchange(link, Get(os.fsencode(remote), listing=True).encode()) as exchange:
        while True:
            kind, body = exchange.receive()
            if kind is Kind.DONE:
                break
            if kind is not Kind.DATA:
                raise FramingError(f"{kind.name} in a listing")
            at = 0
            while at < len(body):
                entry, at = Entry.unpack(body, at)
                if not entry.name:
                    raise FramingError("a listing has a file without a name")
                found.append(entry)
            if len(found) > _MOST_LISTED:
                raise FramingError(f"a listing of more than {_MOST_LISTED} files")
    return sorted(found, key=lambda entry: entry.name)


# ---------------------------------------------------------------- both


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _damaged(path: bytes) -> OSError:
    text = "the checksum is not that of the file that was sent"
    return OSError(errno.EBADMSG, text, shown(path))
