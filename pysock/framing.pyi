"""Message framing over byte streams: formats, decoder, streams; compiled.

A *format* says how one message becomes one frame on the wire.  A `Decoder`
turns bytes, however they were cut, into messages and does no I/O.  A
`FrameStream` sends and receives whole messages over a connected socket.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from socket import socket
from ssl import SSLContext, SSLObject, SSLSocket
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, Self, final, overload

from _typeshed import ReadableBuffer, WriteableBuffer
from typing_extensions import disjoint_base

__all__ = [
    "ContentLength",
    "Decimal",
    "DatagramSocket",
    "Decoder",
    "Delimiter",
    "Fixed",
    "Format",
    "FrameStream",
    "LengthField",
    "MultiprocessingConnection",
    "Netstring",
    "Raw",
    "Sender",
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

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

class _Writer(Protocol):
    def write(self, data: Any, /) -> int | None: ...

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
    def __eq__(self, other: object, /) -> bool: ...

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

    @property
    def width(self) -> int:
        """Bytes of the length field."""
    @property
    def byteorder(self) -> str:
        """The order of its bytes: "big", "little" or "native"."""
    @property
    def offset(self) -> int:
        """Bytes before the length field."""
    @property
    def counts(self) -> str:
        """What the length counts: "rest", "with_length", "frame" or "body"."""
    @property
    def header(self) -> int:
        """Bytes before the payload."""
    @property
    def magic(self) -> bytes:
        """Bytes that every frame begins with."""
    @property
    def trailer(self) -> bytes:
        """Bytes that every frame ends with."""
    @property
    def minimum(self) -> int:
        """The smallest value of the length field."""
    @property
    def strip(self) -> int:
        """Bytes dropped from the front of a frame to make the message."""
    def __new__(
        cls,
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
    ) -> Self: ...

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

    @property
    def offset(self) -> int:
        """Bytes before the length."""
    @property
    def max_bytes(self) -> int:
        """Longest form of the length, in bytes."""
    @property
    def strip(self) -> int | None:
        """0 where the header stays in the message; None: as *offset* has it."""
    def __new__(
        cls,
        *,
        offset: int = 0,
        max_bytes: int = 5,
        strip: Literal[0] | None = None,
        max_frame: int | None = ...,
    ) -> Self: ...

@final
class Netstring(Format):
    """Decimal length, colon, payload, comma: `5:hello,`.

    Source: D. J. Bernstein, "Netstrings" (1997).
    """

    def __new__(cls, *, max_frame: int | None = ...) -> Self: ...

@final
class Decimal(Format):
    """ASCII decimal length, *terminator*, payload: with `b"\\n"`, `5\\nhello`.

    Args:
        terminator: bytes that end the length, 1 to 16, the first of them no digit.
        max_frame: longest payload in bytes, as in `LengthField`.
    """

    @property
    def terminator(self) -> bytes:
        """Bytes that end the length."""
    def __new__(cls, terminator: bytes, *, max_frame: int | None = ...) -> Self: ...

@final
class ContentLength(Format):
    """A header block with `Content-Length: N`, an empty line, N bytes.

    Other header lines are accepted and dropped; the block may be 4 KiB long.

    Source: Language Server Protocol 3.17, base protocol.
    """

    def __new__(cls, *, max_frame: int | None = ...) -> Self: ...

@final
class Delimiter(Format):
    """Payload, then *delimiter*.

    Args:
        delimiter: bytes that end a frame, 1 to 16.
        keep: leave the delimiter at the end of the message; then `send` wants it there.
        max_frame: longest payload in bytes, without the delimiter; default 64 MiB.
    """

    @property
    def delimiter(self) -> bytes:
        """Bytes that end a frame."""
    @property
    def keep(self) -> bool:
        """Whether the delimiter stays at the end of the message."""
    def __new__(
        cls, delimiter: bytes = b"\n", *, keep: bool = False, max_frame: int | None = ...
    ) -> Self: ...

@final
class Fixed(Format):
    """Every frame is *size* bytes long, 1 or more."""

    @property
    def size(self) -> int:
        """Bytes of every frame."""
    def __new__(cls, size: int, *, max_frame: int | None = ...) -> Self: ...

@final
class MultiprocessingConnection(Format):
    """The wire of `multiprocessing.connection`: `!i`, or -1 and `!Q`, then the payload."""

    def __new__(cls, *, max_frame: int | None = ...) -> Self: ...

@final
class Raw(Format):
    """No framing: a message is what one receive returned; it is never empty.

    Args:
        max_frame: the longest message, in either direction; more that has arrived is
            handed out as several, of at most 64 KiB each.  Over SOCK_SEQPACKET a record
            is a message: a longer one raises FrameTooLarge, and those behind it follow.
    """

    def __new__(cls, *, max_frame: int | None = ...) -> Self: ...

@final
class Decoder:
    """Turns bytes, however they were cut, into messages; does no I/O.

    Frames before a bad header are always delivered: where there are any, the
    error is raised by the next call, and by every one after it.

    Args:
        framing: the format of the frames.
    """

    def __new__(cls, framing: Format) -> Self: ...
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
    """What a stream has done so far, counted in C.

    For each direction: messages, their bytes on the wire, system calls, and how often such a
    call had to wait.
    """

    messages_in: int
    bytes_in: int
    calls_in: int
    waits_in: int
    messages_out: int
    bytes_out: int
    calls_out: int
    waits_out: int

class FrameStream:
    """Whole messages over one connected stream, for blocking code.

    One thread may send while another receives; two senders, or two receivers,
    take turns.  A timeout is a deadline for the whole call and loses nothing.

    Args:
        sock: a connected socket, which the stream owns from now on; or any
            object with a socket's `recv_into`, `send` and `close`.
        framing: the format of the frames.
        timeout: seconds for each call; None for no limit; 0: never wait.
        spin: seconds to keep trying, without the GIL, before a receive sleeps.
    """

    def __init__(
        self,
        sock: socket | _Foreign,
        framing: Format = ...,
        *,
        timeout: float | None = None,
        spin: float = 0.0,
        _tls: _Tls | None = None,
    ) -> None: ...
    @classmethod
    def from_fds(
        cls, reader: int | _HasFileno, writer: int | _HasFileno, *args: Any, **kwargs: Any
    ) -> Self:
        """Return a stream over two pipe ends, which it owns from now on.

        Args:
            reader: descriptor, or file, to read from.
            writer: descriptor, or file, to write to.
            args: as for the class, from *framing* on.
        """
    @property
    def framing(self) -> Format:
        """The format of the frames; a new one holds from the next frame on."""
    @framing.setter
    def framing(self, value: Format) -> None: ...
    @property
    def timeout(self) -> float | None:
        """Seconds for each call, None for no limit; 0: never wait."""
    @timeout.setter
    def timeout(self, value: float | None) -> None: ...
    def settimeout(self, timeout: float | None) -> None:
        """Set `timeout`."""
    def gettimeout(self) -> float | None:
        """Return `timeout`."""
    def setblocking(self, flag: bool) -> None:
        """As `settimeout(None)` or `settimeout(0)`."""
    @property
    def spin(self) -> float:
        """Seconds to keep trying, without the GIL, before a receive sleeps."""
    @spin.setter
    def spin(self, value: float) -> None: ...
    @property
    def closed(self) -> bool:
        """Whether the stream was closed here, or given up by `detach`."""
    @property
    def max_fds(self) -> int:
        """The most descriptors that one message may bring; 0: the system drops all."""
    @max_fds.setter
    def max_fds(self, value: int) -> None: ...
    @property
    def pending(self) -> int:
        """Bytes that have been received and not handed over; no selector can see them."""
    @property
    def unsent(self) -> int:
        """Bytes of accepted messages that have not left yet."""
    @property
    def stats(self) -> Stats:
        """What the stream has done so far: messages, bytes, system calls, waits."""
    @property
    def socket(self) -> Any:
        """The socket, or what else the stream was made from; it stays the stream's."""
    @property
    def tls(self) -> SSLObject | SSLSocket | None:
        """The `ssl.SSLObject`, or the `ssl.SSLSocket`, in between; None without TLS.

        Only for questions, such as `getpeercert()`: the data is the stream's.
        """
    def fileno(self) -> int:
        """Return the descriptor that is read from, -1 once closed."""
    def recv(self) -> bytes:
        """Return the next message.

        Raises:
            ConnectionClosed: the stream ended between frames, or was closed here.
            IncompleteFrame: it ended inside one.
            TimeoutError: the deadline passed; what had come is kept for the next call.
            FramingError: the peer's bytes do not follow the format.
        """
    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def recv_many(self, limit: int | None = None) -> list[bytes]:
        """Wait for one message; return it and all others that have arrived.

        Args:
            limit: the most to return, None for no limit.

        Raises: as `recv`.
        """
    def recv_fds(self) -> tuple[bytes, list[int]]:
        """Return the next message and a list of the descriptors that came with it.

        They are the caller's to close, and not inherited by other programs.  What calls
        other than this one receive has its descriptors closed.

        Raises: as `recv`; FramingError: there were more than `max_fds`, all are closed, and
            the error's `message` is what they came with; RuntimeError: `max_fds` is 0;
            io.UnsupportedOperation: this is no Unix socket.
        """
    def recv_into(self, buffer: WriteableBuffer) -> int:
        """Receive the next message into *buffer*; return its size.

        Raises: as `recv`; BufferError: *buffer* is too small, and the message
            is still there for the next call.
        """
    def recv_view(self) -> AbstractContextManager[memoryview, None]:
        """Return a context manager that receives the next message, as a read-only memoryview.

        A large message is received into memory that is used again and again, so that none
        has to be got from the system each time.  The view is released at the end of the
        block; a slice of it, or an array made from it, is good for as long as it is kept.
        It keeps the memory of the whole message, which nothing is received into meanwhile.

        Raises: as `recv`, where the block begins; RuntimeError: for a second block.
        """
    def recvfile(
        self, file: _Writer, progress: Callable[[int, int], object] | None = None
    ) -> int:
        """Write the next message to *file*, in constant memory; return its size.

        Args:
            file: an object with `write`.
            progress: called with (bytes so far, bytes in all).

        Raises: as `recv`.  After a timeout, or an error of the file, the rest
            of the frame goes only to the same file: call it again.
        """
    def send(self, message: ReadableBuffer, *more: ReadableBuffer) -> None:
        """Send one message; several buffers are gathered into one, without joining them.

        Raises:
            FrameTooLarge, FramingError: the format cannot carry it; nothing was sent.
            TimeoutError: the deadline passed.  Its `accepted` is True when the
                message was taken, and the rest of it goes before anything else
                (see `flush`), False when nothing of it was.
            OSError: the connection failed.
        """
    def send_fds(self, message: ReadableBuffer, fds: Iterable[int | _HasFileno]) -> None:
        """Send one message, with descriptors that the peer gets as its own.

        Args:
            message: its first byte takes the descriptors along.
            fds: descriptors, or objects with `fileno`, 253 at most; they stay open here.

        Raises: as `send`; after a timeout either the descriptors have gone and the error's
            `accepted` is True, or nothing has.  OSError: one of them is not open;
            io.UnsupportedOperation: this is no Unix socket.
        """
    def send_many(self, messages: Iterable[ReadableBuffer]) -> int:
        """Send many messages in few system calls; return how many.

        Raises: as `send`; `accepted` counts the messages taken.  Those before a
            message that is refused are sent.
        """
    def flush(self) -> None:
        """Send what accepted messages have left unsent.

        Raises:
            TimeoutError: the deadline passed; the rest is still there.
        """
    def sendfile(
        self,
        file: BinaryIO,
        offset: int = 0,
        count: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Send one message out of *file*, in constant memory; return its size.

        Args:
            file: a binary file, open for reading; its position may change.
            offset: first byte.
            count: bytes; None: up to the end of the file.
            progress: called with (bytes so far, bytes in all).

        Raises: as `send`.  After a timeout only the same call with the same file
            goes on with the frame; anything else raises FramingError.
        """
    def request(self, message: ReadableBuffer) -> bytes:
        """Send one message and return the next that comes, with no other call between.

        Replies that earlier requests gave up waiting for are received first and
        dropped, under this call's deadline.

        Raises: as `send` and `recv`.
        """
    def request_many(self, messages: Iterable[ReadableBuffer]) -> list[bytes]:
        """Send many messages and return as many replies, receiving while it sends.

        Raises: as `request`; the error's `accepted` counts the messages taken, its
            `replies` holds those that had come.  Messages before one that is refused
            are sent.
        """
    def shutdown(self, how: int) -> None:
        """Send what is unsent, then shut down one or both directions, as a socket does.

        Args:
            how: `socket.SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
        """
    @overload
    def detach(self, *, leftover: Literal[False] = False) -> Any: ...
    @overload
    def detach(self, *, leftover: Literal[True]) -> tuple[Any, bytes]:
        """Give the socket up and return it; the stream is closed.

        Args:
            leftover: return (socket, bytes received and not used) instead.

        Raises:
            RuntimeError: there are unsent bytes, or pending ones and *leftover*
                is False.
        """
    # For pysock's own modules.
    def _ready(self) -> bool | None: ...
    @property
    def _in_handler(self) -> bool: ...
    def _wake_fileno(self) -> int: ...
    def _watch(self) -> int: ...
    def _unwatch(self) -> None: ...
    _stage: int
    def _set_patience(self, silence: float, refusal: float) -> None: ...
    def _share_memory(self, memory: _Memory | None) -> None: ...
    def _wind_up(self) -> None: ...
    def _cut(self) -> None: ...
    def _end(self) -> bool: ...
    def _fade(self) -> int: ...
    def _close(self, linger: float) -> None: ...
    def _set_renewable(self) -> None: ...
    def _is_lost(self) -> bool: ...
    def _renew(self, sock: Any, tls: _Tls | None = None) -> None: ...

# For pysock's own modules: see tls.pxi.
@final
class _Tls:
    object: SSLObject | SSLSocket
    server_side: bool
    ragged: bool
    def __init__(
        self,
        sock: Any,
        context: SSLContext | None = None,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None: ...
    def handshake(self) -> int: ...
    @property
    def wants(self) -> int: ...
    def recv(self, n: int) -> bytes: ...
    def send_now(self, data: bytes) -> int: ...
    def goodbye(self) -> bool: ...

def _send_now(sock: socket, data: bytes) -> int: ...

# What a poller waits for, and how far a connection is: see sockio.h and answer.pxi.
_READ: int
_WRITE: int
_SERVED: int
_FADING: int
_GREETING: int
_HELD: int

# For pysock's own server: see crew.pxi and memory.pxi.
@final
class _Memory:
    limit: int
    used: int
    def __init__(self, limit: int, freed: Callable[[], object] | None = None) -> None: ...

@final
class _Crew:
    draining: bool
    next_at: float
    workers: int
    threads: int
    followers: int
    takeovers: int
    def __init__(
        self,
        handler: Callable[..., object],
        pass_connection: bool,
        workers: int,
        server: object,
    ) -> None: ...
    def add(self, stream: FrameStream) -> None: ...
    def park(self, stream: FrameStream, want: int) -> None: ...
    def drop(self, stream: FrameStream) -> None: ...
    def release(self, stream: FrameStream) -> None: ...
    def watch_for(
        self, fd: int, callback: Callable[[], object], shared: bool = False
    ) -> object: ...
    def unwatch(self, watch: object) -> None: ...
    def call_server(self) -> None: ...
    def end(self) -> None: ...
    def close(self) -> None: ...
    def run(self) -> None: ...
    def call_at(self, at: float) -> None: ...
    def take_returned(self) -> None: ...
    def requeue(self, stream: FrameStream) -> None: ...
    def retry(self) -> bool: ...
    def feed(self) -> None: ...
    def overdue(
        self,
        streams: list[Any],
        now: float,
        idle: float,
        grace: float,
        rate: float,
        patience: float,
        excused: float = 0.0,
        held_up: bool = False,
    ) -> list[tuple[Any, int]]: ...
    def is_idle(self, stream: FrameStream) -> bool: ...
    def is_serving(self, stream: FrameStream) -> bool: ...

@disjoint_base
class DatagramSocket:
    """Whole datagrams over one socket, for blocking code.

    One thread may send while another receives; two senders, or two receivers,
    take turns.  Datagrams are received many at a time, and handed out one by one.

    Args:
        sock: a datagram socket, which this object owns from now on.
        max_datagram: bytes of the longest datagram that is taken.
        timeout: seconds for each call; None for no limit; 0: never wait.
    """

    def __init__(
        self, sock: socket, max_datagram: int = 65535, *, timeout: float | None = None
    ) -> None: ...
    def recv(self) -> bytes:
        """Return the next datagram's bytes; there may be none in it.

        Raises:
            ConnectionClosed: the socket was closed here.
            FrameTooLarge: the datagram was longer than `max_datagram`, and is lost.
            TimeoutError: the deadline passed.
            OSError: an earlier datagram could not be delivered, say; the socket goes on.
        """
    def recvfrom(self) -> tuple[bytes, Any]:
        """Return (the next datagram's bytes, the address it came from).

        The address is as the socket module gives it: (host, port), with flow and scope for
        IPv6; the path of a Unix socket, or None where it has none.

        Raises: as `recv`.
        """
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def recv_many(self, limit: int | None = None) -> list[bytes]:
        """Wait for one datagram; return it and others that have arrived.

        Args:
            limit: the most to return; None: 1,024.

        Raises: as `recv`; what came before a datagram that is refused is returned first.
        """
    def recv_into(self, buffer: WriteableBuffer) -> int:
        """Receive the next datagram into *buffer*; return its size.

        Raises: as `recv`; BufferError: *buffer* is too small, and the datagram
            is still there for the next call.
        """
    def send(self, message: ReadableBuffer, *more: ReadableBuffer) -> None:
        """Send one datagram to the address that this object was made for.

        Raises:
            FrameTooLarge: no datagram carries that much; nothing was sent.
            TimeoutError: the receiver's queue, or this one's, stayed full.
            OSError: it cannot be sent, or an earlier one could not be delivered.
        """
    def sendto(self, message: ReadableBuffer, address: Any) -> None:
        """Send one datagram to *address*, as `recvfrom` gives it, or any other form.

        Raises: as `send`; ValueError: *address* is malformed.
        """
    def send_many(self, messages: Iterable[ReadableBuffer]) -> int:
        """Send many datagrams in few system calls; return how many.

        Raises: as `send`; the error's `accepted` counts the datagrams sent.
        """
    @property
    def timeout(self) -> float | None:
        """Seconds for each call, None for no limit; 0: never wait."""
    @timeout.setter
    def timeout(self, value: float | None) -> None: ...
    def settimeout(self, timeout: float | None) -> None:
        """Set `timeout`."""
    def gettimeout(self) -> float | None:
        """Return `timeout`."""
    def setblocking(self, flag: bool) -> None:
        """As `settimeout(None)` or `settimeout(0)`."""
    @property
    def closed(self) -> bool:
        """Whether the socket was closed here, or given up by `detach`."""
    @property
    def ignored(self) -> int:
        """Datagrams that a request dropped, because they were no reply to it."""
    @property
    def max_datagram(self) -> int:
        """The longest datagram that is taken, in bytes."""
    @property
    def pending(self) -> int:
        """Datagrams that have been received and not handed over; no selector sees them."""
    @property
    def dropped(self) -> int | None:
        """Datagrams that the system has dropped because they were not received in time.

        None where the system does not tell.
        """
    @property
    def stats(self) -> Stats:
        """What the socket has done so far: messages, bytes, system calls, waits."""
    @property
    def socket(self) -> Any:
        """The socket; it stays this object's."""
    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
    def detach(self) -> Any:
        """Give the socket up and return it; this object is closed.

        Raises:
            RuntimeError: there are datagrams that have been received and not handed over.
        """
    def close(self) -> None:
        """Close the socket; may be called twice.

        Calls that wait in other threads raise ConnectionClosed.
        """
    # For pysock's own modules.
    def _request(
        self,
        message: ReadableBuffer,
        seconds: float | None,
        attempts: int,
        match: Callable[[bytes, bytes], object] | None,
    ) -> bytes: ...
    def _set_replaceable(self) -> None: ...
    def _set_target(self, address: Any) -> None: ...
    def _replacement(self) -> Any: ...
    def _resolve(self, address: Any) -> Any: ...
    def _connect_again(self) -> bool: ...
    def _ready(self) -> bool | None: ...
    def _wake_fileno(self) -> int: ...
    def _watch(self) -> int: ...
    def _unwatch(self) -> None: ...
    def _close(self) -> None: ...

@final
class Sender:
    """Who sent the datagram that a handler is called with.

    `address` is where it came from, as the socket module gives it; None for a Unix socket
    without a name, which cannot be answered.  `proxy` is what a PROXY header said.
    """

    @property
    def address(self) -> Any:
        """Where the datagram came from; None for a Unix socket without a name."""
    @property
    def proxy(self) -> Any:
        """What a PROXY header said."""
    def send(self, message: ReadableBuffer) -> None:
        """Send a datagram to the sender, before any that the handler returns.

        Raises:
            FrameTooLarge: no datagram carries that much.
            PermissionError: it is more than an address that has proved nothing may get.
            TimeoutError: the receiver's queue stayed full for the server's `send_timeout`.
            OSError: it cannot be sent.
        """

def _largest_datagram(sock: socket) -> int: ...
def _dropped_datagrams(fd: int) -> int: ...

# For pysock's own server of datagrams: see dispatch.pxi.
@final
class _Dispatcher:
    draining: bool
    hurried: bool
    next_at: float
    workers: int
    threads: int
    followers: int
    takeovers: int
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    replies_lost: int
    too_long: int
    refused: int
    def __init__(
        self,
        handler: Callable[..., object],
        pass_sender: bool,
        workers: int,
        server: object,
    ) -> None: ...
    def open(
        self,
        sock: socket,
        max_datagram: int,
        ratio: float | None,
        patience: float,
        answers: bool,
        unwrap: Callable[..., object] | None = None,
        once: bool = False,
    ) -> None: ...
    def call_server(self) -> None: ...
    def end(self) -> None: ...
    def close(self) -> None: ...
    def run(self) -> None: ...
    def call_at(self, at: float) -> None: ...
    def drain(self, most: int) -> None: ...
    def give_up(self) -> None: ...

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
