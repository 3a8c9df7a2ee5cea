"""Files stored and fetched: the server's side.

What goes wrong with a file is told to the client, and the conversation goes on; what goes
wrong with the connection is raised.  A file that was cut off stays, unfinished, for the
client to go on with.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from ..errors import FramingError
from .filetree import NotServed, Source, Tree, check_target, entries, make_folder, shown
from .part import Busy, Part, sweep
from .protocol import Get, Kind, Put, Refusal, number_in, offset
from .talk import Talk

__all__ = ["Files"]

_DATA = Kind.DATA()
_LISTED = 64 * 1024  # bytes of a listing in one message, about
_ASIDE = 16  # pieces of a file between two looks at what the client says
_SWEPT = 3600.0  # seconds until a folder is swept again
_FOLDERS = 1000  # that are remembered for that


class _Refused(Exception):
    """The transfer ends with this."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@contextlib.contextmanager
def _told(path: bytes) -> Iterator[None]:
    """Make an error about *path* something to tell the client."""
    try:
        yield
    except (NotServed, Busy) as exc:
        code = "busy" if isinstance(exc, Busy) else "refused"
        raise _Refused(Refusal(code, f"{shown(path)!r} {exc.strerror}", path=path)) from exc
    except OSError as exc:
        raise _Refused(Refusal.of(exc, path)) from exc


def _given_up() -> _Refused:
    return _Refused(Refusal("failed", "given up by the client"))


class Files:
    """The files below one folder, for clients of a server.

    Args:
        root: the folder.

    Raises:
        NotADirectoryError: it is no folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._tree = Tree(root)
        self._swept: dict[tuple[int, int], float] = {}  # folders, and when

    def put(self, talk: Talk, put: Put) -> str:
        """Store a file, or make a folder, for the client of *talk*.

        Returns:
            Why it was not done, in a word, "" where it was.

        Raises:
            ConnectionClosed, OSError: the client has gone.
            FramingError: it broke the rules.
        """
        try:
            if put.entry.type == "f":
                self._store(talk, put)
            elif put.entry.type == "d":
                with _told(put.path), self._tree.parent(put.path) as (fd, name):
                    make_folder(name, put.entry.mode, fd)
                talk.send(Kind.DONE())
            else:
                raise FramingError("PUT of neither a file nor a folder")
        except _Refused as exc:
            talk.refuse(exc.refusal)
            return exc.refusal.error or exc.refusal.code
        return ""

    def get(self, talk: Talk, get: Get) -> str:
        """Send a file, or a folder's listing, to the client of *talk*.

        Returns, Raises: as `put`.
        """
        try:
            if get.listing:
                self._list(talk, get.path)
            else:
                self._fetch(talk, get.path)
        except _Refused as exc:
            talk.refuse(exc.refusal)
            return exc.refusal.error or exc.refusal.code
        return ""

    # ------------------------------------------------------------ storing

    def _store(self, talk: Talk, put: Put) -> None:
        with contextlib.ExitStack() as stack:
            with _told(put.path):
                fd, name = stack.enter_context(self._tree.parent(put.path))
                check_target(name, put.overwrite, fd)
                self._sweep(fd)
                of = talk.request_user, put.path
                part = stack.enter_context(Part(name, put.entry, of, fd))
            try:
                talk.send(_receive(talk, put, part))
            except (_Refused, FramingError):
                part.discard()
                raise

    def _sweep(self, fd: int) -> None:
        """Remove what cut transfers have left in a folder, if it is time for that."""
        info = os.fstat(fd)
        key, now = (info.st_dev, info.st_ino), time.monotonic()
        if now - self._swept.get(key, -_SWEPT) >= _SWEPT:
            if len(self._swept) >= _FOLDERS:
                self._swept.clear()
            self._swept[key] = now
            with contextlib.suppress(OSError):  # one may write to it, perhaps not list it
                sweep(fd)

    # ------------------------------------------------------------ fetching

    def _fetch(self, talk: Talk, path: bytes) -> None:
        with contextlib.ExitStack() as stack:
            with _told(path):
                fd, name = stack.enter_context(self._tree.parent(path))
                source = stack.enter_context(Source(name, fd))
            talk.send(Kind.GET(source.entry.pack()))
            kind, body = talk.receive()
            if kind is Kind.ERROR:
                raise _given_up()
            start = number_in(Kind.GET, body)
            if start > source.size:
                raise FramingError(f"GET from byte {start} of a file of {source.size}")
            _hash(talk, path, lambda: source.skip(start))
            _send(talk, path, source)

    def _list(self, talk: Talk, path: bytes) -> None:
        listed = bytearray()
        with contextlib.ExitStack() as stack:
            with _told(path):
                folder = stack.enter_context(self._tree.folder(path))
                found = stack.enter_context(contextlib.closing(entries(folder)))
            while True:
                with _told(path):
                    entry = next(found, None)
                if entry is not None:
                    listed += entry.pack()
                if listed and (entry is None or len(listed) >= _LISTED):
                    talk.send(_DATA, listed)
                    listed = bytearray()
                if entry is None:
                    break
        talk.send(Kind.DONE())


def _hash(talk: Talk, path: bytes, piece: Callable[[], bool]) -> None:
    """Read what is not sent, but answer the client, which may have to wait long for it."""
    more = True
    while more:
        with _told(path):
            more = piece()
        if talk.poll() is not None:
            raise _given_up()


def _receive(talk: Talk, put: Put, part: Part) -> bytes:
    """Receive the file into *part* and finish it; return the message that says so."""
    _hash(talk, put.path, part.catch_up)
    talk.send(offset(Kind.PUT, part.size))
    while True:
        kind, body = talk.receive()
        if kind is not Kind.DATA:
            break
        if not body or len(body) > put.entry.size - part.size:
            left = put.entry.size - part.size
            raise FramingError(f"DATA of {len(body)} bytes, {left} were to come")
        with _told(put.path):
            part.write(body)
    if kind is Kind.ERROR:
        raise _given_up()
    if part.size != put.entry.size:
        raise FramingError(f"DONE after {part.size} of {put.entry.size} bytes")
    if body != part.digest():
        text = "the checksum is not that of the file that was sent"
        raise _Refused(Refusal("os", text, "EBADMSG", put.path))
    with _told(put.path):
        part.finish(put.overwrite)
    return Kind.DONE(body)


def _send(talk: Talk, path: bytes, source: Source) -> None:
    count = 0
    while True:
        with _told(path):
            chunk = source.read()
        if not chunk:
            break
        talk.send(_DATA, chunk)
        count += 1
        if not count % _ASIDE and talk.poll() is not None:
            raise _given_up()
    with _told(path):
        digest = source.digest()
    talk.send(Kind.DONE(digest))
