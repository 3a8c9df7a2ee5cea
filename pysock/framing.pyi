"""Message framing over byte streams: formats, decoder, streams; compiled.

A *format* says how one message becomes one frame on the wire.  A `Decoder`
turns bytes, however they were cut, into messages and does no I/O.  A
`FrameStream` sends and receives whole messages over a connected socket.
"""

from collections.abc import Callable, Iterable
from socket import socket
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, Self, final

from _typeshed import ReadableBuffer, WriteableBuffer
from typing_extensions import disjoint_base

__all__ = [
    "ContentLength",
    "Decimal",
    "Decoder",
    "Delimiter",
    "Fixed",
    "Format",
    "FrameStream",
    "LengthField",
    "MultiprocessingConnection",
    "Netstring",
    "Raw",
    "Stats",
    "Varint",
    "recv_exactly",
    "recv_exactly_into",
    "recv_frame",
    "send_frame",
]

class _Foreign(Protocol):
    """Any object with a stream socket's methods."""

    def recv_into(self, buffer: Any, /) -> int: ...
    def send(self, data: Any, /) -> int: ...
    def close(self) -> None: ...

@disjoint_base
class Format:
    """Base of all framing formats: immutable, hashable, picklable; `repr` reads back.

    The *payload* is what lies between a frame's header and its trailer; the
    *message* is what `recv` returns and `send` accepts: the payload, or where
    the format keeps its header, the whole frame.
    """

    @property
    def max_frame(self) -> int:
        """The longest payload accepted in either direction, in bytes."""
    def replace(self, **changes: Any) -> Self:
        """Return a copy with some of the constructor's arguments changed.

        Raises:
            TypeError: for an argument that the constructor does not take.
            ValueError: for a value that it refuses.
        """
    def pack_header(self, length: int) -> bytes:
        """Return the header of a frame with a payload of *length* bytes.

        Header bytes that are neither magic nor length are zero.

        Raises:
            FrameTooLarge: *length* is above `max_frame`.
            FramingError: *length* is below what the format can carry.
        """
    def unpack_header(self, buffer: ReadableBuffer) -> tuple[int, int] | None:
        """Return (payload length, header length) of the frame that *buffer* begins with.

        Returns:
            None when more bytes are needed.

        Raises:
            FrameTooLarge: the payload announced is above `max_frame`.
            InvalidHeader: the bytes are no header of this format.
        """
    def encode(self, message: ReadableBuffer) -> bytes:
        """Return the frame that carries *message*.

        Raises:
            FrameTooLarge: the payload is above `max_frame`.
            FramingError: the format cannot carry this message.
        """
    def decoder(self) -> Decoder:
        """Return a new decoder for this format."""
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...

@final
class LengthField(Format):
    """Unsigned length of 1 to 8 bytes, after *offset* bytes.

    ```text
    LengthField(4)
    +-- length: u32, big endian --+-- payload: length bytes --+
    |  00 00 00 05                |  h e l l o                |
    +-----------------------------+---------------------------+
    ```

    Args:
        width: bytes of the length field, 1 to 8.
        byteorder: "big", "little" or "native".
        offset: bytes before the length field.
        counts: what the length counts: "rest" (all after the length field, the
            trailer too), "with_length" (itself and the rest), "frame" (the
            whole frame), "body" (the payload alone, between a fixed header of
            *header* bytes and the trailer).
        header: bytes before the payload; default offset + width.
        magic: bytes that every frame begins with.
        trailer: bytes that every frame ends with.
        minimum: the smallest value of the length field.
        strip: bytes dropped from the front of a frame to make the message.
            Default: the whole header if it is only magic and length, else 0.
            Where the whole header is dropped the trailer is too; else the
            message keeps it.
        max_frame: longest payload in bytes; default 64 MiB or what the field
            can carry, whichever is less; None: what the field can carry.

    Raises:
        ValueError: an argument that is out of range or contradicts another.
    """

    def __init__(
        self,
        width: int = 4,
        byteorder: Literal["big", "little", "native"] = "big",
        *,
        offset: int = 0,
        counts: Literal["rest", "with_length", "frame", "body"] = "rest",
        header: int | None = None,
        magic: bytes = b"",
        trailer: bytes = b"",
        minimum: int = 0,
        strip: int | None = None,
        max_frame: int | None = ...,
    ) -> None: ...

@final
class Varint(Format):
    """Unsigned LEB128 length after *offset* bytes; over-long forms are refused.

    ```text
    Varint()
    +-- length: varint --+-- payload: length bytes --+
    |  05                |  h e l l o                |
    +--------------------+---------------------------+
    ```

    Args:
        offset: bytes before the length.
        max_bytes: longest form of the length in bytes, 1 to 10.
        strip: 0 keeps the header in the message; default: dropped if *offset*
            is 0, else kept.
        max_frame: longest payload in bytes, as in `LengthField`.

    Source: protobuf's "writeDelimitedTo"; MQTT 5.0 section 1.5.5 with offset=1.
    """

    def __init__(
        self,
        *,
        offset: int = 0,
        max_bytes: int = 5,
        strip: Literal[0] | None = None,
        max_frame: int | None = ...,
    ) -> None: ...

@final
class Netstring(Format):
    """Decimal length, colon, payload, comma: `5:hello,`.

    Source: D. J. Bernstein, "Netstrings" (1997).
    """

    def __init__(self, *, max_frame: int | None = ...) -> None: ...

@final
class Decimal(Format):
    """ASCII decimal length, *terminator*, payload: with `b"\\n"`, `5\\nhello`.

    Args:
        terminator: bytes that end the length, 1 to 16, the first of them no digit.
        max_frame: longest payload in bytes, as in `LengthField`.
    """

    def __init__(self, terminator: bytes, *, max_frame: int | None = ...) -> None: ...

@final
class ContentLength(Format):
    """A header block with `Content-Length: N`, an empty line, N bytes.

    Other header lines are accepted and dropped; the block may be 4 KiB long.

    Source: Language Server Protocol 3.17, base protocol.
    """

    def __init__(self, *, max_frame: int | None = ...) -> None: ...

@final
class Delimiter(Format):
    """Payload, then *delimiter*.

    Args:
        delimiter: bytes that end a frame, 1 to 16.
        keep: leave the delimiter at the end of the message; then `send` wants it there.
        max_frame: longest payload in bytes, without the delimiter; default 64 MiB.
    """

    def __init__(
        self, delimiter: bytes = b"\n", *, keep: bool = False, max_frame: int | None = ...
    ) -> None: ...

@final
class Fixed(Format):
    """Every frame is *size* bytes long, 1 or more."""

    def __init__(self, size: int, *, max_frame: int | None = ...) -> None: ...

@final
class MultiprocessingConnection(Format):
    """The wire of `multiprocessing.connection`: `!i`, or -1 and `!Q`, then the payload."""

    def __init__(self, *, max_frame: int | None = ...) -> None: ...

@final
class Raw(Format):
    """No framing: a message is what one receive returned; it is never empty.

    Args:
        max_frame: most bytes that one `send` takes; a receive returns at most
            64 KiB.
    """

    def __init__(self, *, max_frame: int | None = ...) -> None: ...

@final
class Decoder:
    """Turns bytes, however they were cut, into messages; does no I/O.

    Frames before a bad header are always delivered: where there are any, the
    error is raised by the next call, and by every one after it.

    Args:
        framing: the format of the frames.
    """

    def __init__(self, framing: Format) -> None: ...
    def feed(self, data: ReadableBuffer) -> list[bytes]:
        """Take the next bytes of the stream; return the messages they complete.

        Raises:
            FrameTooLarge: a payload is above the format's `max_frame`.
            InvalidHeader: the bytes do not follow the format.
        """
    def eof(self) -> None:
        """Say that the stream has ended; return quietly between frames.

        Raises:
            IncompleteFrame: the stream ended inside a frame.
            FramingError: what `feed` would raise.
        """
    @property
    def pending(self) -> int:
        """Bytes fed that no message has used yet."""

class Stats(NamedTuple):
    """What a stream has done so far, counted in C."""

    messages_in: int
    bytes_in: int
    calls_in: int
    waits_in: int
    messages_out: int
    bytes_out: int
    calls_out: int
    waits_out: int

@disjoint_base
class FrameStream:
    """Whole messages over one connected stream, for blocking code.

    One thread may send while another receives; two senders, or two receivers,
    take turns.  A timeout is a deadline for the whole call and loses nothing.

    Args:
        sock: a connected socket, which the stream owns from now on; or any
            object with a socket's `recv_into`, `send` and `close`.
        framing: the format of the frames.
        timeout: seconds for each call; None for no limit.
        spin: seconds to keep trying, without the GIL, before a call sleeps.
    """

    def __init__(
        self,
        sock: socket | _Foreign,
        framing: Format = ...,
        *,
        timeout: float | None = None,
        spin: float = 0.0,
    ) -> None: ...
    framing: Format
    timeout: float | None
    spin: float
    @property
    def closed(self) -> bool: ...
    @property
    def pending(self) -> int: ...
    @property
    def unsent(self) -> int: ...
    @property
    def stats(self) -> Stats: ...
    def send(self, message: ReadableBuffer, *more: ReadableBuffer) -> None: ...
    def send_many(self, messages: Iterable[ReadableBuffer]) -> int: ...
    def flush(self) -> None: ...
    def recv(self) -> bytes: ...
    def recv_many(self, limit: int | None = None) -> list[bytes]: ...
    def recv_into(self, buffer: WriteableBuffer) -> int: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def request(self, message: ReadableBuffer) -> bytes: ...
    def request_many(self, messages: Iterable[ReadableBuffer]) -> list[bytes]: ...
    def sendfile(
        self,
        file: BinaryIO,
        offset: int = 0,
        count: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> int: ...
    def recvfile(
        self, file: BinaryIO, progress: Callable[[int, int], object] | None = None
    ) -> int: ...
    def settimeout(self, timeout: float | None) -> None: ...
    def gettimeout(self) -> float | None: ...
    def fileno(self) -> int: ...

def recv_exactly(sock: socket | _Foreign | int, n: int, timeout: float | None = ...) -> bytes:
    """Receive exactly *n* bytes, without reading ahead.

    Args:
        sock: a connected socket, an object with `recv_into`, or a descriptor.
        n: bytes to receive.
        timeout: seconds for the whole call, None for no limit; default: the
            socket's own timeout, None for a descriptor.

    Raises:
        ConnectionClosed: the stream ended before the first byte.
        IncompleteFrame: the stream ended before the last one.
        TimeoutError: the deadline passed; its `partial` holds what had come.
    """

def recv_exactly_into(
    sock: socket | _Foreign | int, buffer: WriteableBuffer, timeout: float | None = ...
) -> None:
    """Fill *buffer*, without reading ahead; otherwise as `recv_exactly`."""

def recv_frame(
    sock: socket | _Foreign | int, framing: Format, timeout: float | None = ...
) -> bytes:
    """Receive one frame without a byte of the next; return its message.

    Raises: as `recv_exactly`; FrameTooLarge, InvalidHeader.
    """

def send_frame(
    sock: socket | _Foreign | int,
    message: ReadableBuffer,
    framing: Format,
    timeout: float | None = ...,
) -> None:
    """Send one frame whole.

    Raises:
        TimeoutError: the deadline passed; its `sent` counts the bytes that went.
    """
