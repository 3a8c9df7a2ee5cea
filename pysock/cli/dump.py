"""`pysock dump`: show the frames of a stream's bytes, and where they stop being frames."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from .. import FramingError, IncompleteFrame
from ..formats import NAMED
from ..framing import Delimiter, Fixed, Format, LengthField, Netstring, Raw
from . import FAILED, MISUSED, Failure, Parser, check_output, writing
from .guess_notation import framing_from
from .options import as_count, as_size

__all__ = ["Frame", "check_stream", "frame_size", "pieces", "say"]

DESCRIPTION = """\
Print the frames (messages with what marks where they begin and end) in FILE or in standard
input, each as soon as it has come. The bytes are those of one direction of a stream, as
tcpflow writes them, or Wireshark's "Follow TCP Stream" when it saves them as raw."""

EPILOG = f"""\
examples:
  pysock dump --framing dns capture.bin
  pysock dump --framing amqp --skip 8 --full capture.bin | less
  pysock dump --framing 'LengthField(2, "little", offset=1)' capture.bin
  nc -l 8000 | pysock dump --framing length4

formats:
{textwrap.fill(", ".join(sorted(NAMED)), 78, initial_indent="  ", subsequent_indent="  ")}
  or an expression, as in 'LengthField(2, "little", counts="frame")'

`pysock guess` says which format it is, where that is not known.

exit status: 0; 1 the bytes do not follow the format, or end inside a frame, or this side
failed; 2 a wrong command line or a file that cannot be read or is no stream; 130 after
Ctrl-C"""

CHUNK = 64 * 1024
SHOWN = 256  # bytes of a frame, unless told otherwise
ROW = 16

_PCAP = {bytes.fromhex(magic) for magic in ("a1b2c3d4", "d4c3b2a1", "a1b23c4d", "4d3cb2a1")}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_PCAPNG_ORDER = (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a")


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="where the bytes are; default: standard input",
    )
    add(
        "--framing",
        metavar="FORMAT",
        required=True,
        help="how messages became frames: a name or an expression, see below",
    )
    add(
        "--max-frame",
        metavar="BYTES",
        type=as_size,
        help="longest message to take for one, as in 64k or 1M; default: the format's own, "
        "often 64M",
    )
    add(
        "--skip",
        metavar="BYTES",
        type=as_size,
        default=0,
        help="how many bytes to leave out before the first frame, such as a greeting",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--bytes",
        metavar="N",
        dest="shown",
        type=lambda text: as_count(text, least=0),
        default=SHOWN,
        help="show at most N bytes of a frame; 0: only its sizes; default: %(default)s",
    )
    shown.add_argument("--full", action="store_true", help="show all bytes of every frame")


def run(options: argparse.Namespace) -> int:
    """Print the frames; return 0."""
    check_output()
    frames = _Frames(framing_from(options.framing, options.max_frame), options.skip)
    shown = None if options.full else options.shown
    for piece in pieces(options.file):
        frames.feed(piece)
        for frame in frames.take():
            _print(frame, shown)
        with writing() as out:
            out.flush()
        frames.check()
    frames.end()
    return 0


# ---------------------------------------------------------------- frames


class Frame(NamedTuple):
    """One frame: its number from 1, where it begins, its bytes, those that are payload."""

    number: int
    offset: int
    data: bytes
    payload: int


def frame_size(framing: Format, data: memoryview, searched: int = 0) -> tuple[int, int] | None:
    """Return (frame length, payload length) of what *data* begins with.

    Args:
        framing: any format.
        data: bytes from a frame's beginning on; they may end anywhere, also after it.
        searched: bytes of it in which no delimiter was.

    Returns:
        None when the length is not known yet.

    Raises:
        FramingError: the bytes do not follow the format.
    """
    trailer = 0
    if isinstance(framing, Delimiter):
        trailer = len(framing.delimiter)
        if not searched:
            whole = framing.unpack_header(data)
            return None if whole is None else (whole[0] + trailer, whole[0])
        start = max(0, searched - trailer + 1)
        at = bytes(data[start:]).find(framing.delimiter)
        return None if at < 0 else (start + at + trailer, start + at)
    if isinstance(framing, Raw):
        return (len(data), len(data)) if len(data) else None
    if isinstance(framing, Fixed):
        return framing.size, framing.size
    if (header := framing.unpack_header(data)) is None:
        return None
    if isinstance(framing, LengthField):
        trailer = len(framing.trailer)
    elif isinstance(framing, Netstring):
        trailer = 1
    return sum(header) + trailer, header[0]


class _Frames:
    """Cuts a stream's bytes into frames; holds one frame's bytes at most, and a chunk."""

    def __init__(self, framing: Format, skip: int) -> None:
        self._framing = framing
        self._decoder = framing.decoder()
        self._to_skip = skip
        self._buffer = bytearray()
        self._offset = skip  # in the stream, of the buffer's beginning
        self._number = 0
        self._due = 1  # bytes that the buffer must hold before another look at it
        self._searched = 0
        self._error: FramingError | None = None

    def feed(self, data: bytes) -> None:
        """Take the stream's next bytes."""
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        self._buffer += data[skipped:]

    def take(self) -> Iterator[Frame]:
        """Yield the frames that are complete, up to where an error is."""
        while self._error is None and len(self._buffer) >= self._due:
            try:
                frame = self._next()
            except FramingError as exc:
                self._error = exc
                return
            if frame is None:
                return
            yield frame

    def _next(self) -> Frame | None:
        with memoryview(self._buffer) as view:
            found = frame_size(self._framing, view, self._searched)
        if found is None:
            self._searched = len(self._buffer)
            if self._searched > self._framing.max_frame + CHUNK:
                self._framing.decoder().feed(self._buffer)  # says that it is too long
            self._due = self._searched + 1
            return None
        size, payload = found
        if len(self._buffer) < size:
            self._due = size
            return None
        data = bytes(self._buffer[:size])
        if not isinstance(self._framing, Raw):
            self._decoder.feed(data)  # looks at the trailer too
        del self._buffer[:size]
        self._number += 1
        frame = Frame(self._number, self._offset, data, payload)
        self._offset += size
        self._due, self._searched = 1, 0
        return frame

    def check(self) -> None:
        """Say what was wrong, if anything was.

        Raises:
            Failure: the bytes do not follow the format.
        """
        if self._error is not None:
            raise self._failure(self._error)

    def end(self) -> None:
        """Say that the stream has ended.

        Raises:
            Failure: it ended inside a frame, or before the first one.
        """
        if self._to_skip:
            at = self._offset - self._to_skip
            raise Failure(f"only {at} bytes, --skip is {self._offset}", FAILED)
        if not self._buffer:
            return
        rest = self._framing.decoder()
        try:
            rest.feed(self._buffer)
            rest.eof()
        except (FramingError, IncompleteFrame) as exc:
            raise self._failure(exc) from None

    def _failure(self, exc: Exception) -> Failure:
        seen = self._buffer[:8].hex(" ") + (" ..." if len(self._buffer) > 8 else "")
        text = f"frame {self._number + 1} at offset {self._offset}, {seen}: {exc}"
        return Failure(text, FAILED)


# ---------------------------------------------------------------- input


def pieces(path: str) -> Iterator[bytes]:
    """Yield the bytes of the file at *path*, or of standard input for "-", as they come.

    Raises:
        Failure: it cannot be read, or holds packets instead of a stream's bytes.
    """
    begun = b""
    with _opened(path) as fd:
        while fd is not None:
            try:
                data = os.read(fd, CHUNK)
            except OSError as exc:
                raise Failure(f"cannot read {path!a}: {exc.strerror}", MISUSED) from None
            if not data:
                return
            if len(begun) < 24:
                begun += data[:24]
                check_stream(begun, path)
            yield data


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    if path == "-":
        yield None if sys.stdin is None else sys.stdin.fileno()
        return
    try:
        # Not Python's open(): it would ask again what a terminal or a pipe has ended.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as exc:
        reason = (isinstance(exc, OSError) and exc.strerror) or str(exc)
        raise Failure(f"cannot read {path!a}: {reason}", MISUSED) from None
    try:
        yield fd
    finally:
        os.close(fd)


def check_stream(begun: bytes, path: str) -> None:
    """Refuse a file of packets, known by its first 24 bytes.

    Raises:
        Failure: it is one; the text says how to get one direction's bytes out of it.
    """
    kind = ""
    if begun[:4] in _PCAP and len(begun) >= 8 and {begun[4], begun[5]} in ({0, 2}, {2}):
        kind = "pcap"
    elif begun[:4] == _PCAPNG and begun[8:12] in _PCAPNG_ORDER:
        kind = "pcapng"
    if not kind:
        return
    name = "FILE" if path == "-" else shlex.quote(ascii(path)[1:-1])
    raise Failure(
        f"this is a {kind} file: packets, not the bytes of a stream. Get one direction out "
        f"with tshark -r {name} -q -z follow,tcp,raw,0 | grep -E '^[0-9a-f]+$' | "
        "xxd -r -p > stream (in its output the other direction has a tab before the "
        f"digits), or with tcpflow -r {name}, which writes a file for each direction",
        MISUSED,
    )


# ---------------------------------------------------------------- output


def _print(frame: Frame, shown: int | None) -> None:
    lines = [
        f"frame {frame.number}  offset {frame.offset}  length {len(frame.data)}  "
        f"payload {frame.payload}"
    ]
    size = len(frame.data) if shown is None else min(shown, len(frame.data))
    digits = 4 if len(frame.data) <= 0x10000 else 8
    for at in range(0, size, ROW):
        row = frame.data[at : min(at + ROW, size)]
        left, right = row[: ROW // 2].hex(" "), row[ROW // 2 :].hex(" ")
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"  {at:0{digits}x}  {left:<23}  {right:<23}  |{text}|")
        if len(lines) >= 4096:
            say(*lines)
            lines.clear()
    if 0 < size < len(frame.data):
        lines.append(f"  ... {len(frame.data) - size} more bytes; --full shows them")
    say(*lines)


def say(*lines: str) -> None:
    """Write lines to the output.

    Raises:
        NoReader: nobody reads it any more.
        Failure: it cannot be written.
    """
    with writing() as out:
        out.write("".join(f"{line}\n" for line in lines))
