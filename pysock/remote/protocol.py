"""The messages of remote commands: what they hold, and which may come when; no I/O.

A message is one frame: a kind byte, then its body.  Numbers are big endian.

    VERSION  both     b"pysock remote", u8 version: each side's first message
    EXEC     client   fields (see `Exec`): run a command
    STDIN    client   bytes of its input
             server   u32: so many bytes more may be sent; the first one: it has started
    STDOUT   server   bytes of its output
    STDERR   server   bytes of its error output
    EOF      client   u8 0: its input has ended
             server   u8 1 or 2: that stream has ended; 0: it takes no more input
    RESIZE   client   u16 rows, u16 columns of its terminal
    SIGNAL   client   a signal's name, as b"TERM"
    EXIT     server   how it ended (see `Exit`): once, after the end of both streams
    ERROR    both     fields (see `Refusal`): what was asked for is not done, or given up
    PING     client   up to 8 bytes, which come back
    PONG     server   in this one
    PUT      client   fields (see `Put`): a file is to be stored
             server   u64: send it from this byte on
    GET      client   fields (see `Get`): a file is wanted; then u64: from this byte on
             server   fields (see `Entry`): what file it is
    DATA     both     bytes of a file or of a listing
    DONE     both     SHA-256 of the whole file, or nothing after a listing or a folder

Fields are a tag (u8), a length (u32) and so many bytes, each tag as often as its message
says.  Which message may come when is in conversation.py.
"""

from __future__ import annotations

import enum
import errno
import struct
from dataclasses import dataclass, field
from typing import Self

from ..errors import FramingError
from ..framing import LengthField
from .fields import collect, cut, fixed, pack, text_of, without_nul

__all__ = [
    "CHUNK",
    "FRAMING",
    "KINDS",
    "MAGIC",
    "SIGNALS",
    "VERSION",
    "WINDOW",
    "Entry",
    "Exec",
    "Exit",
    "Get",
    "Kind",
    "Put",
    "Refusal",
    "credit",
    "eof",
    "number_in",
    "offset",
    "resize",
    "size_in",
    "version",
]

VERSION = 1
CHUNK = 256 * 1024  # bytes of a stream or a file in one message, at most
WINDOW = 256 * 1024  # bytes of input that may be on their way to a command
FRAMING = LengthField(4, max_frame=4 * 1024 * 1024)

MAGIC = b"pysock remote"
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_SIZE = struct.Struct(">HH")
_EXIT = struct.Struct(">BBBB")
_STAT = struct.Struct(">QIqB")
_LONGEST_REASON = 256
_LONGEST_TEXT = 2048

# What a client may send to a command; numbers differ between systems, names do not.
SIGNALS = frozenset(
    b"HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM CONT STOP TSTP "
    b"TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH SYS".split()
)


class Kind(enum.IntEnum):
    """The first byte of a message."""

    VERSION = 1
    EXEC = 2
    STDIN = 3
    STDOUT = 4
    STDERR = 5
    EOF = 6
    RESIZE = 7
    SIGNAL = 8
    EXIT = 9
    ERROR = 10
    PING = 11
    PONG = 12
    PUT = 13
    GET = 14
    DATA = 15
    DONE = 16

    def __call__(self, body: bytes = b"") -> bytes:
        """Return the message of this kind with *body*."""
        return _PREFIX[self] + body

    @property
    def prefix(self) -> bytes:
        """The byte itself, for a message that is sent in parts."""
        return _PREFIX[self]


_PREFIX = {kind: bytes([kind]) for kind in Kind}
KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Exec:
    """A command to run.

    Fields: 1 an argument (several), 2 a command line for the shell instead, 3 the folder to
    run in, 4 NAME=value (several), 5 u16 rows and u16 columns of the terminal to run in,
    6 u8 flags.

    Args:
        argv: the program and its arguments; empty where there is *shell*.
        shell: a command line for the shell.
        cwd: the folder to run in; b"": the server's choice.
        env: variables, NAME=value.
        pty: (rows, columns) of a terminal, None for pipes.
        stdin: whether there will be input; without, the command reads from /dev/null.
        merge: whether its error output goes where its output goes.
        quiet: 1: its output is not wanted, 2: nor its error output, 3: neither is.
    """

    argv: tuple[bytes, ...] = ()
    shell: bytes | None = None
    cwd: bytes = b""
    env: tuple[bytes, ...] = ()
    pty: tuple[int, int] | None = None
    stdin: bool = False
    merge: bool = False
    quiet: int = 0

    def __post_init__(self) -> None:
        if bool(self.argv) == (self.shell is not None):
            raise FramingError("EXEC has either arguments or a command line for the shell")
        if self.argv and not self.argv[0]:
            raise FramingError("EXEC names no program")
        if not all(0 <= number <= 0xFFFF for number in self.pty or ()):
            raise FramingError(f"EXEC's terminal is {self.pty}, expected 0 to 65535")
        for what, values in (
            ("argument", self.argv),
            ("command line", (self.shell or b"",)),
            ("folder", (self.cwd,)),
            ("variable", self.env),
        ):
            for value in values:
                without_nul(f"EXEC's {what} {value[:80]!r}", value)
        for variable in self.env:
            if variable.find(b"=") < 1:
                raise FramingError(f"EXEC's variable {variable[:80]!r} is not NAME=value")

    def encode(self) -> bytes:
        """Return the message."""
        fields = [(1, argument) for argument in self.argv]
        if self.shell is not None:
            fields.append((2, self.shell))
        if self.cwd:
            fields.append((3, self.cwd))
        fields += [(4, variable) for variable in self.env]
        if self.pty is not None:
            fields.append((5, _SIZE.pack(*self.pty)))
        flags = self.stdin | self.merge << 1 | self.quiet << 2
        return Kind.EXEC.prefix + pack(*fields, (6, bytes([flags])))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return what *body*, without the kind byte, says.

        Raises:
            FramingError: it is malformed.
        """
        found = collect("EXEC", body, 0b1101100, 0b10010)
        flags = found.get(6, [b"\0"])[0]
        if len(flags) != 1 or flags[0] > 15:
            raise FramingError(f"EXEC's flags are {flags[:8]!r}, expected one byte below 16")
        pty = None
        if 5 in found:
            rows, columns = fixed("EXEC's terminal", _SIZE, found[5][0])
            pty = rows, columns
        return cls(
            tuple(found.get(1, ())),
            found[2][0] if 2 in found else None,
            found.get(3, [b""])[0],
            tuple(found.get(4, ())),
            pty,
            bool(flags[0] & 1),
            bool(flags[0] & 2),
            flags[0] >> 2,
        )


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended: u8 0, u8 status, or u8 1, u8 signal; u8 flags, u8 and name; reason.

    Args:
        status: its exit status, or the number of the signal that ended it.
        signal: the signal's name, as "KILL"; "" where it ended by itself.
        core: whether its memory was written to a file.
        incomplete: whether a stream was cut, because another process still held it.
        reason: why the server ended it; "" where it did not.
    """

    status: int
    signal: str = ""
    core: bool = False
    incomplete: bool = False
    reason: str = ""

    def encode(self) -> bytes:
        """Return the message."""
        name = self.signal.encode()
        flags = self.core | self.incomplete << 1
        head = _EXIT.pack(bool(name), self.status, flags, len(name))
        return Kind.EXIT(head + name + cut(self.reason, _LONGEST_REASON))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return what *body*, without the kind byte, says.

        Raises:
            FramingError: it is malformed.
        """
        if len(body) < _EXIT.size:
            raise FramingError(f"EXIT has {len(body)} bytes, expected {_EXIT.size} or more")
        how, status, flags, length = _EXIT.unpack_from(body)
        name = body[_EXIT.size : _EXIT.size + length]
        if how > 1 or flags > 3 or bool(length) != bool(how) or len(name) != length:
            raise FramingError(f"EXIT is malformed: {body[:16]!r}")
        if how and (not status or not (name.isalnum() and name.isascii() and name.isupper())):
            raise FramingError(f"EXIT has no signal: {body[:16]!r}")
        reason = text_of("EXIT's reason", body[_EXIT.size + length :], _LONGEST_REASON)
        return cls(status, name.decode(), bool(flags & 1), bool(flags & 2), reason)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was not done.

    Fields: 1 code, 2 text, 3 the name of a system's error, 4 the path it is about.

    Args:
        code: "os": the system refused, see *error*; "refused": it is not allowed; "busy": too
            many commands; "protocol": this side broke the rules; "version"; "stopping":
            the server is; "failed": anything else.
        text: a sentence for people.
        error: as "ENOENT", where the system refused.
        path: the file that the system's error is about.
    """

    code: str
    text: str
    error: str = ""
    path: bytes = b""

    def encode(self) -> bytes:
        """Return the message."""
        fields = [(1, self.code.encode()), (2, cut(self.text, _LONGEST_TEXT))]
        if self.error:
            fields.append((3, self.error.encode()))
        if self.path:
            fields.append((4, self.path))
        return Kind.ERROR.prefix + pack(*fields)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return what *body*, without the kind byte, says.

        Raises:
            FramingError: it is malformed.
        """
        found = collect("ERROR", body, 0b11110)
        if 1 not in found or 2 not in found:
            raise FramingError("ERROR has no code or no text")
        return cls(
            text_of("ERROR's code", found[1][0], 32),
            text_of("ERROR's text", found[2][0], _LONGEST_TEXT),
            text_of("ERROR's error", found.get(3, [b""])[0], 32),
            found.get(4, [b""])[0],
        )

    @classmethod
    def of(cls, exc: OSError, path: bytes = b"") -> Self:
        """Return how a system's error is told to the other side."""
        name = errno.errorcode.get(exc.errno or 0, "EIO")
        return cls("os", exc.strerror or str(exc), name, path)

    def os_error(self) -> OSError:
        """Return the error for *code* "os", with this system's number."""
        number = getattr(errno, self.error, None) if self.error in _ERRORS else None
        if number is None:
            return OSError(f"{self.text} ({self.error})")
        return OSError(number, self.text, *([_name(self.path)] if self.path else []))


# Not those of errno.errorcode: it has one name where a number has two.
_ERRORS = frozenset(name for name in dir(errno) if name.startswith("E"))


def _name(path: bytes) -> str:
    return path.decode(errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it is announced: u64 size, u32 mode, i64 time in nanoseconds, u8 type.

    Args:
        size: bytes.
        mode: its permission bits.
        mtime_ns: when it was last changed, nanoseconds since 1970.
        type: "f" for a file, "d" for a folder, "?" for anything else.
        name: in a listing, what it is called.
    """

    size: int
    mode: int = 0o644
    mtime_ns: int = 0
    type: str = "f"
    name: bytes = field(default=b"")

    def pack(self) -> bytes:
        """Return the bytes, without a kind, and *name* after them with its length (u16)."""
        kind = ord(self.type)
        # Some file systems have times that are further off than 64 bits of nanoseconds.
        mtime_ns = min(max(self.mtime_ns, -(1 << 63)), (1 << 63) - 1)
        head = _STAT.pack(self.size, self.mode & 0o7777, mtime_ns, kind)
        return head + len(self.name).to_bytes(2, "big") + self.name

    @classmethod
    def unpack(cls, body: bytes, at: int = 0) -> tuple[Self, int]:
        """Return the entry that begins at *at*, and where the next one does.

        Raises:
            FramingError: it is malformed.
        """
        if len(body) - at < _STAT.size + 2:
            raise FramingError(f"a file's entry has {len(body) - at} bytes only")
        size, mode, mtime_ns, kind = _STAT.unpack_from(body, at)
        at += _STAT.size
        length = int.from_bytes(body[at : at + 2], "big")
        at += 2
        name = body[at : at + length]
        if len(name) != length or mode > 0o7777 or chr(kind) not in "fd?":
            raise FramingError("a file's entry is malformed")
        if b"/" in name or name in (b".", b".."):
            raise FramingError(f"a file's entry has the name {name[:80]!r}, which is none")
        without_nul("a file's name", name)
        return cls(size, mode, mtime_ns, chr(kind), name), at + length

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return the one entry that *body* is.

        Raises:
            FramingError: it is malformed.
        """
        entry, end = cls.unpack(body)
        if end != len(body):
            raise FramingError(f"{len(body) - end} bytes follow a file's entry")
        return entry


@dataclass(frozen=True, slots=True)
class Put:
    """A file to store.

    Fields: 1 path, 2 entry, 3 u8 flags.

    Args:
        path: below the served folder, with "/" between its parts.
        entry: its size, mode and time; of type "d" it is a folder to make.
        overwrite: whether it may replace a file.
    """

    path: bytes
    entry: Entry
    overwrite: bool = True

    def __post_init__(self) -> None:
        without_nul("PUT's path", self.path)

    def encode(self) -> bytes:
        """Return the message."""
        flags = bytes([self.overwrite])
        return Kind.PUT.prefix + pack((1, self.path), (2, self.entry.pack()), (3, flags))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return what *body*, without the kind byte, says.

        Raises:
            FramingError: it is malformed.
        """
        found = collect("PUT", body, 0b1110)
        if len(found) != 3 or found[3][0] not in (b"\0", b"\1"):
            raise FramingError("PUT lacks a field")
        return cls(found[1][0], Entry.decode(found[2][0]), found[3][0] == b"\1")


@dataclass(frozen=True, slots=True)
class Get:
    """A file, or a folder's listing, that is wanted.

    Fields: 1 path, 2 u8 flags.

    Args:
        path: below the served folder, with "/" between its parts; b"": that folder.
        listing: whether the names in a folder are wanted.
    """

    path: bytes
    listing: bool = False

    def __post_init__(self) -> None:
        without_nul("GET's path", self.path)

    def encode(self) -> bytes:
        """Return the message."""
        return Kind.GET.prefix + pack((1, self.path), (2, bytes([self.listing])))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return what *body*, without the kind byte, says.

        Raises:
            FramingError: it is malformed.
        """
        found = collect("GET", body, 0b110)
        if len(found) != 2 or found[2][0] not in (b"\0", b"\1"):
            raise FramingError("GET lacks a field")
        return cls(found[1][0], found[2][0] == b"\1")


def version(number: int = VERSION) -> bytes:
    """Return the first message of a side."""
    return Kind.VERSION(MAGIC + bytes([number]))


def credit(count: int) -> bytes:
    """Return the server's message that *count* bytes more of input may be sent."""
    return Kind.STDIN(_U32.pack(count))


def eof(stream: int) -> bytes:
    """Return the message that a stream, 0 to 2, has ended."""
    return Kind.EOF(bytes([stream]))


def resize(rows: int, columns: int) -> bytes:
    """Return the client's message of its terminal's size."""
    return Kind.RESIZE(_SIZE.pack(rows, columns))


def offset(kind: Kind, number: int) -> bytes:
    """Return the PUT or GET that says from which byte on a file is to be sent."""
    return kind(_U64.pack(number))


def number_in(kind: Kind, body: bytes) -> int:
    """Return the number that a server's STDIN (u32), or an offset (u64), is."""
    return fixed(kind.name, _U32 if kind is Kind.STDIN else _U64, body)[0]


def size_in(body: bytes) -> tuple[int, int]:
    """Return the rows and columns that a RESIZE is."""
    rows, columns = fixed("RESIZE", _SIZE, body)
    return rows, columns
