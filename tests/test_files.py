"""sendfile and recvfile: one frame from or to a file, in constant memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

import peers
from apart import apart
from conftest import linux
from peers import LONG, SHORT, asleep, background, pattern, run_python
from pysock import Connection, wait
from pysock.errors import FrameTooLarge, FramingError, IncompleteFrame, InvalidHeader
from pysock.framing import (
    ContentLength,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Varint,
)

ends, few_ends, tight_ends = peers.ends, peers.few_ends, peers.tight_ends
paired_ends, socket_ends = peers.paired_ends, peers.socket_ends

FIELD = LengthField()
MARKED = LengthField(4, offset=2, magic=b"MK", trailer=b"\xce", counts="body")
KEPT = LengthField(4, offset=3, counts="body", trailer=b"\xce")
PART = 256 * 1024  # what is read of a file at a time
SIZES = [0, 1, 65_535, 65_536, 65_537, PART - 1, PART, PART + 1, 3 << 20]
HUGE = 1 << 24


def file_of(data: bytes, folder: Any) -> Any:
    (folder / "file").write_bytes(data)
    return open(folder / "file", "rb")


@contextlib.contextmanager
def linked_by(way: str, folder: Any) -> Iterator[Any]:
    with peers.linked("tcp4", folder) as (near, far):
        conn = near.connection()
        if sys.platform != "win32":  # where the connection itself relies on that
            near.sock.setblocking(way == "by reading")
        yield conn, far


@pytest.fixture(params=["by reading", "by the system"])
def sender(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    """An end of a blocking socket, and of one where the system copies the file."""
    with apart(request, lambda: linked_by(request.param, tmp_path)) as both:
        yield both


# ------------------------------------------------------------ sending


@pytest.mark.parametrize("size", SIZES)
def test_sendfile_sends_the_file_as_one_frame(ends, tmp_path, size):
    conn, peer = ends[0].connection(), ends[1]
    with file_of(pattern(size), tmp_path) as file, background(peer.read, 4 + size) as reading:
        assert conn.sendfile(file) == size
        assert reading.finish() == FIELD.encode(pattern(size))
    assert conn.stats.messages_out == 1
    assert conn.stats.bytes_out == 4 + size
    conn.send(b"next")
    assert peer.read(8) == FIELD.encode(b"next")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("framing", [FIELD, MARKED, Netstring()])
def test_sendfile_of_every_size_in_both_ways(sender, tmp_path, framing: Format, size):
    conn, peer = sender
    conn.framing = framing
    frame = framing.encode(pattern(size))
    with (
        file_of(pattern(size), tmp_path) as file,
        background(peer.read, len(frame)) as reading,
    ):
        assert conn.sendfile(file) == size
        assert reading.finish() == frame


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, 0), (0, 5), (10, None), (10, 0), (1, 299_999), (299_999, 1), (300_000, None)]
    + [(300_000, 0), (PART, None)],
)
def test_sendfile_of_a_part_of_the_file(sender, tmp_path, offset, count):
    conn, peer = sender
    data = pattern(300_000)
    part = data[offset:] if count is None else data[offset : offset + count]
    with file_of(data, tmp_path) as file:
        file.seek(77)  # where it stands does not matter
        with background(peer.read, 4 + len(part)) as reading:
            assert conn.sendfile(file, offset, count) == len(part)
            assert reading.finish() == FIELD.encode(part)


@pytest.mark.parametrize(
    ("offset", "count"),
    [(-1, None), (0, -1), (0, 301), (299, 2), (301, 1), (301, None), (1 << 70, None)],
)
def test_sendfile_refuses_what_the_file_does_not_have(sender, tmp_path, offset, count):
    conn, peer = sender
    with file_of(pattern(300), tmp_path) as file, pytest.raises((ValueError, OverflowError)):
        conn.sendfile(file, offset, count)
    assert conn.stats.bytes_out == conn.unsent == 0
    conn.send(b"x")
    assert peer.read(5) == FIELD.encode(b"x")


SOURCES = {
    "BytesIO": lambda path: io.BytesIO(pattern(300_000)),
    "unbuffered": lambda path: open(path, "rb", 0),  # noqa: SIM115
    "update": lambda path: open(path, "r+b"),  # noqa: SIM115
    "temporary": lambda path: copied(tempfile.NamedTemporaryFile()),  # noqa: SIM115
    "spooled": lambda path: copied(tempfile.SpooledTemporaryFile(10)),  # noqa: SIM115
    "bz2": lambda path: packed(bz2.open, path),
    "gzip": lambda path: packed(gzip.open, path),
}


def copied(file: Any) -> Any:
    file.write(pattern(300_000))
    return file


def packed(opened: Any, path: Any) -> Any:
    with opened(path, "wb") as file:
        file.write(pattern(300_000))
    return opened(path, "rb")


@pytest.mark.parametrize("kind", SOURCES)
def test_sendfile_sends_what_reading_the_file_gives(sender, tmp_path, kind):
    conn, peer = sender
    file_of(pattern(300_000), tmp_path).close()
    with SOURCES[kind](tmp_path / "file") as file:
        if kind == "gzip":
            file.seek = lambda at, whence=0: seek_gzip(file, at, whence)
        with background(peer.read, 300_004) as reading:
            assert conn.sendfile(file) == 300_000
            assert reading.finish() == FIELD.encode(pattern(300_000))


def seek_gzip(file: gzip.GzipFile, at: int, whence: int) -> int:
    """Before 3.12 it cannot find its own end."""
    return 300_000 if whence == 2 else gzip.GzipFile.seek(file, at)


def test_sendfile_sends_what_was_just_written(sender, tmp_path):
    conn, peer = sender
    with open(tmp_path / "file", "w+b") as file:
        file.write(b"not flushed")
        assert conn.sendfile(file) == 11
    assert peer.read(15) == FIELD.encode(b"not flushed")


@pytest.mark.parametrize("bad", [b"bytes", "path", None, 5, io.StringIO("text")])
def test_sendfile_refuses_what_is_no_binary_file(sender, bad):
    conn, _ = sender
    with pytest.raises((TypeError, AttributeError, OSError)):
        conn.sendfile(bad)
    assert conn.stats.bytes_out == conn.unsent == 0


@pytest.mark.case("H10")
def test_sendfile_above_the_limit_leaves_the_connection_usable(sender, tmp_path):
    """H10"""
    conn, peer = sender
    conn.framing = LengthField(max_frame=299)
    with file_of(pattern(300), tmp_path) as file:
        with pytest.raises(FrameTooLarge):
            conn.sendfile(file)
        assert conn.sendfile(file, 1) == 299
    assert peer.read(303) == FIELD.encode(pattern(300)[1:])


def test_sendfile_of_lines_is_refused(sender, tmp_path):
    conn, _ = sender
    conn.framing = Delimiter()
    with file_of(b"line", tmp_path) as file, pytest.raises(FramingError):
        conn.sendfile(file)
    assert conn.stats.bytes_out == 0


FORMATS = [Varint(), ContentLength(), MultiprocessingConnection(), Fixed(300), Netstring()]


@pytest.mark.parametrize("framing", FORMATS, ids=lambda framing: type(framing).__name__)
def test_sendfile_in_every_format(sender, tmp_path, framing: Format):
    conn, peer = sender
    conn.framing = framing
    with file_of(pattern(300), tmp_path) as file:
        assert conn.sendfile(file) == 300
    frame = framing.encode(pattern(300))
    assert peer.read(len(frame)) == frame


def test_sendfile_of_a_frame_with_its_header(sender, tmp_path):
    """As send does: the length is filled in, the rest stays"""
    conn, peer = sender
    conn.framing = KEPT
    body = pattern(PART + 5)
    with file_of(b"?abc\0\0\0\0" + body + b"\xce!", tmp_path) as file:
        with background(peer.read, PART + 13) as reading:
            assert conn.sendfile(file, 1, PART + 13) == PART + 13
            due = b"abc" + len(body).to_bytes(4, "big") + body + b"\xce"
            assert reading.finish() == due
        sent = conn.stats.bytes_out
        for offset, count in [(1, 5), (1, 7), (1, PART), (0, PART + 15)]:
            with pytest.raises(FramingError):
                conn.sendfile(file, offset, count)
    assert conn.stats.bytes_out == sent


@pytest.mark.parametrize("size", [1, PART, PART + 1, 3 << 20])
def test_sendfile_tells_its_progress(sender, tmp_path, size):
    conn, peer = sender
    told: list[tuple[int, int]] = []
    with file_of(pattern(size), tmp_path) as file, background(peer.read, 4 + size):
        conn.sendfile(file, progress=lambda *so_far: told.append(so_far))
    assert told == sorted(told)
    assert told[-1] == (size, size)
    assert {total for _, total in told} == {size}


def test_error_of_a_progress_call_leaves_the_frame_to_the_same_file(sender, tmp_path):
    conn, peer = sender
    size = 3 << 20

    def fail(*_: int) -> None:
        raise LookupError

    with file_of(pattern(size), tmp_path) as file, background(peer.read, 4 + size) as reading:
        with pytest.raises(LookupError):
            conn.sendfile(file, progress=fail)
        with pytest.raises(FramingError):
            conn.send(b"x")
        assert conn.sendfile(file) == size
        assert reading.finish() == FIELD.encode(pattern(size))


def test_file_that_shrinks_ends_the_connection(sender, tmp_path):
    conn, peer = sender
    with file_of(pattern(HUGE), tmp_path) as file:
        sending = asleep(conn, conn.sendfile, file)
        os.truncate(tmp_path / "file", 1 << 20)
        peer.sip(1)
        with background(peer.read_all):
            with pytest.raises(FramingError, match="ended"):
                sending.finish()
            # What comes next would be taken for the rest of the frame.
            for call in (lambda: conn.send(b"x"), lambda: conn.sendfile(file), conn.flush):
                with pytest.raises((OSError, FramingError)):
                    call()
            conn.close()


def others(conn: Connection, other: Any) -> list[Any]:
    return [
        lambda: conn.send(b"x"),
        lambda: conn.send_many([b"x"]),
        lambda: conn.request(b"x"),
        lambda: conn.request_many([b"x"]),
        lambda: conn.sendfile(other),
    ]


@pytest.mark.case("P07")
def test_sendfile_that_timed_out_is_continued_only_by_itself(tight_ends, tmp_path):
    """P07"""
    conn, peer = tight_ends[0].connection(timeout=SHORT), tight_ends[1]
    size = 2 << 20
    with file_of(pattern(size), tmp_path) as file:
        for _ in range(2):
            with pytest.raises(TimeoutError) as told:
                conn.sendfile(file)
            assert told.value.accepted is True
        for call in others(conn, io.BytesIO(b"other")):
            with pytest.raises(FramingError, match="sendfile"):
                call()
        conn.timeout = LONG
        with background(peer.read, 4 + size) as reading:
            assert conn.sendfile(file) == size
            assert reading.finish() == FIELD.encode(pattern(size))
    conn.send(b"next")
    assert peer.read(8) == FIELD.encode(b"next")


@pytest.mark.case("P07")
def test_sendfile_by_the_system_that_timed_out_goes_on(sender, tmp_path):
    """P07"""
    conn, peer = sender
    conn.timeout = SHORT
    with file_of(pattern(HUGE), tmp_path) as file:
        with pytest.raises(TimeoutError):
            conn.sendfile(file)
        conn.timeout = LONG
        with background(peer.read, 4 + HUGE) as reading:
            assert conn.sendfile(file) == HUGE
            assert reading.finish() == FIELD.encode(pattern(HUGE))


def test_sendfile_behind_an_older_tail_is_not_accepted(tight_ends):
    conn, peer = tight_ends[0].connection(timeout=SHORT), tight_ends[1]
    with pytest.raises(TimeoutError):
        conn.send(pattern(1 << 20))
    with pytest.raises(TimeoutError) as told:
        conn.sendfile(io.BytesIO(b"file"))
    assert told.value.accepted is False
    conn.timeout = LONG
    with background(conn.send, b"next"):
        due = FIELD.encode(pattern(1 << 20)) + FIELD.encode(b"next")
        assert peer.read(len(due)) == due


def test_close_in_mid_file_is_an_incomplete_frame_for_the_peer(tight_ends):
    conn, other = tight_ends[0].connection(timeout=SHORT), tight_ends[1].connection()
    with pytest.raises(TimeoutError):
        conn.sendfile(io.BytesIO(bytes(1 << 20)))
    with background(conn.close), pytest.raises(IncompleteFrame):
        other.recv()


# ------------------------------------------------------------ receiving


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("framing", [FIELD, MARKED], ids=["plain", "marked"])
def test_recvfile_writes_the_message(few_ends, framing, size):
    conn, peer = few_ends[0].connection(framing), few_ends[1]
    file, told = io.BytesIO(), []
    with background(peer.write, framing.encode(pattern(size)) + framing.encode(b"next")):
        assert conn.recvfile(file, lambda *so_far: told.append(so_far)) == size
    assert file.getvalue() == pattern(size)
    assert conn.recv() == b"next"
    assert told == sorted(told)
    assert told[-1:] == ([(size, size)] if size else [])
    assert conn.stats.messages_in == 2


def test_recvfile_keeps_a_header_that_belongs_to_the_message(few_ends):
    conn, peer = few_ends[0].connection(KEPT), few_ends[1]
    frame = b"abc" + (100_000).to_bytes(4, "big") + pattern(100_000) + b"\xce"
    file = io.BytesIO()
    with background(peer.write, frame):
        assert conn.recvfile(file) == len(frame)
    assert file.getvalue() == frame


def test_recvfile_takes_a_file_that_writes_less(few_ends):
    class Sparing(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data[:1000]))

    conn, peer, file = few_ends[0].connection(), few_ends[1], Sparing()
    with background(peer.write, FIELD.encode(pattern(100_000))):
        assert conn.recvfile(file) == 100_000
    assert file.getvalue() == pattern(100_000)


class Answering:
    """A file whose write() takes what it says, whatever that is."""

    def __init__(self, told: Any) -> None:
        self.told, self.written = told, b""

    def write(self, data: Any) -> Any:
        if isinstance(self.told, int) and 0 < self.told <= len(data):
            self.written += data[: self.told]
        return self.told


class AnsweringRaw(Answering, io.RawIOBase):
    pass


@pytest.mark.parametrize("received", [0, 30_000], ids=["at once", "after a recv()"])
@pytest.mark.parametrize(
    ("kind", "told", "error", "text"),
    [
        (Answering, 0, OSError, r"Answering\.write\(\) returned 0 for \d+ bytes"),
        (Answering, -1, OSError, "returned -1 for"),
        (Answering, -5, OSError, "returned -5 for"),
        (Answering, 1 << 40, OSError, f"returned {1 << 40} for"),
        (Answering, "all", TypeError, "integer"),
        (AnsweringRaw, None, BlockingIOError, "AnsweringRaw takes nothing now: it has to bl"),
    ],
)
def test_impossible_answer_of_a_file_loses_nothing(
    few_ends, kind, told, error, text, received
):
    conn, peer, file = few_ends[0].connection(timeout=SHORT), few_ends[1], kind(told)
    frame = FIELD.encode(pattern(100_000))
    if received:
        with background(peer.write, frame[:received]), pytest.raises(TimeoutError):
            conn.recv()
    conn.timeout = LONG
    with background(peer.write, frame[received:] + FIELD.encode(b"next")):
        for _ in range(2):
            with pytest.raises(error, match=text):
                conn.recvfile(file)
        file.told = 1000
        with contextlib.suppress(OSError):  # the last of it may be less
            conn.recvfile(file)
        file.told = 1
        assert conn.recvfile(file) == 100_000
        assert file.written == pattern(100_000)
        assert conn.recv() == b"next"


def test_what_a_file_keeps_does_not_change(few_ends):
    class Keeping(io.RawIOBase):
        def __init__(self) -> None:
            self.kept: list[Any] = []

        def write(self, data: Any) -> int:
            self.kept.append(data[:])
            return len(data)

    conn, peer, file = few_ends[0].connection(), few_ends[1], Keeping()
    with background(peer.write, FIELD.encode(pattern(100_000)) + FIELD.encode(b"x" * 99_000)):
        assert conn.recvfile(file) == 100_000
        assert conn.recv() == b"x" * 99_000
    conn.close()
    assert b"".join(file.kept) == pattern(100_000)


def test_file_that_gives_more_than_it_is_asked_for_is_refused(sender):
    class Giving(io.BytesIO):
        def read(self, n: Any = -1) -> bytes:
            return super().read(n) + b"more" * bool(n)

    conn, _ = sender
    with pytest.raises(OSError, match=r"Giving.read\(\) gave 104 bytes, expected 100 at most"):
        conn.sendfile(Giving(pattern(100)))


class Full(io.BytesIO):
    """A disk that is full until somebody tidies up."""

    full = True

    def write(self, data: Any) -> int:
        if self.full and self.tell() >= 20_000:
            raise OSError("no space left")
        return super().write(data)


@pytest.mark.parametrize("waited", [False, True], ids=["", "after wait()"])
def test_error_of_the_file_leaves_the_frame_to_the_same_file(few_ends, waited):
    conn, peer, file = few_ends[0].connection(), few_ends[1], Full()
    with background(peer.write, FIELD.encode(pattern(100_000)) + FIELD.encode(b"next")):
        if waited:
            assert wait([conn], LONG) == [conn]
        with pytest.raises(OSError, match="space"):
            while True:
                conn.recvfile(file)
        for call in (conn.recv, conn.recv_many, lambda: conn.recvfile(io.BytesIO())):
            with pytest.raises(FramingError, match="recvfile"):
                call()
        file.full = False
        assert conn.recvfile(file) == 100_000
        assert file.getvalue() == pattern(100_000)
        assert conn.recv() == b"next"


def test_recvfile_after_a_recv_that_timed_out_tells_its_progress(few_ends):
    conn, peer = few_ends[0].connection(timeout=SHORT), few_ends[1]
    file, told = io.BytesIO(), []
    frame = FIELD.encode(pattern(100_000))
    with background(peer.write, frame[:30_000]), pytest.raises(TimeoutError):
        conn.recv()
    conn.timeout = LONG
    with background(peer.write, frame[30_000:]):
        assert conn.recvfile(file, lambda *so_far: told.append(so_far)) == 100_000
    assert file.getvalue() == pattern(100_000)
    assert told[-1:] == [(100_000, 100_000)]


@pytest.mark.case("P06")
def test_recvfile_that_timed_out_is_continued_only_by_itself(few_ends):
    """P06"""
    conn, peer, file = few_ends[0].connection(timeout=SHORT), few_ends[1], io.BytesIO()
    frame = FIELD.encode(pattern(100_000))
    with background(peer.write, frame[:30_000]), pytest.raises(TimeoutError):
        conn.recvfile(file)
    for call in (
        conn.recv,
        conn.recv_many,
        lambda: next(conn),
        lambda: conn.recv_into(bytearray(100_000)),
        conn.recv_view().__enter__,
        lambda: conn.recvfile(io.BytesIO()),
    ):
        with pytest.raises(FramingError, match="recvfile"):
            call()
    with pytest.raises(RuntimeError, match="recvfile"):
        conn.detach(leftover=True)
    conn.timeout = LONG
    with background(peer.write, frame[30_000:]):
        assert conn.recvfile(file) == 100_000
    assert file.getvalue() == pattern(100_000)


def test_recvfile_does_not_write_a_wrong_trailer(few_ends):
    conn, peer, file = few_ends[0].connection(KEPT), few_ends[1], io.BytesIO()
    frame = b"abc" + (100_000).to_bytes(4, "big") + pattern(100_000) + b"?"
    with background(peer.write, frame):
        for _ in range(2):
            with pytest.raises(InvalidHeader):
                conn.recvfile(file)
    assert file.getvalue() == frame[:-1]


def test_file_to_file_over_a_connection(tight_ends, tmp_path):
    conn, other = (end.connection() for end in tight_ends)
    with (
        file_of(pattern(1 << 20), tmp_path) as file,
        open(tmp_path / "copy", "wb") as copy,
        background(conn.sendfile, file),
    ):
        assert other.recvfile(copy) == 1 << 20
    assert (tmp_path / "copy").read_bytes() == pattern(1 << 20)


@pytest.mark.case("D09")
@linux
@pytest.mark.parametrize("blocking", ["blocking", "non-blocking"])
def test_peer_that_goes_during_sendfile_raises_where_sigpipe_kills(tmp_path, blocking):
    """D09: os.sendfile has no MSG_NOSIGNAL"""
    with open(tmp_path / "file", "wb") as file:
        file.truncate(1 << 26)
    said = run_python(
        """
import signal, socket, sys, threading, pysock
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
a, b = socket.socketpair()
a.setblocking(sys.argv[2] == "blocking")

def hang_up():
    b.recv(1 << 16)
    b.shutdown(socket.SHUT_RD)
    while b.recv(1 << 16):  # or it waits for room, and is told nothing
        pass
    b.close()

threading.Thread(target=hang_up).start()
with pysock.Connection(a) as conn, open(sys.argv[1], "rb") as file:
    try:
        conn.sendfile(file)
    except (BrokenPipeError, ConnectionResetError):
        pass
    else:
        raise AssertionError
""",
        str(tmp_path / "file"),
        blocking,
    )
    assert said == ""
