"""Public calls, with the errors that they can meet: for tests of what stays of them.

Each can be made as often as one likes, and raises the same error every time.
"""

from __future__ import annotations

import contextlib
import functools
import io
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import proofs
import pysock
from pysock import Connection, Format, LengthField, auth, formats, framing, proxy
from pysock.errors import ConnectionClosed, FrameTooLarge, FramingError, IncompleteFrame

MOST = 100  # bytes of a message
FIELD = LengthField(max_frame=MOST)
HOLES = memoryview(bytes(20))[::2]
FROZEN, LARGE = bytes(1000), bytes(1 << 20)
ONCE = 1e-9  # seconds: for a call that waits as shortly as it can

Call = Callable[[Any, bytearray], object]


class Place:
    """What a mistake is made with; all of it is closed at the end."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack

    def sockets(self, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair(type=kind)
        for sock in pair:
            self.stack.enter_context(sock)
            sock.setblocking(False)
        return pair

    def sock(self, came: bytes = b"", end: bool = False, full: bool = False) -> socket.socket:
        """A socket whose peer has sent *came*, or ended, or reads nothing."""
        near, far = self.sockets()
        far.sendall(came)
        if end:
            far.shutdown(socket.SHUT_WR)
        with contextlib.suppress(BlockingIOError):
            while full:
                near.send(LARGE)
        return near

    def connection(
        self, came: bytes = b"", *, end: bool = False, full: bool = False, timeout: float = 0
    ) -> Connection:
        """The same as a connection."""
        conn = Connection(self.sock(came, end, full), FIELD, timeout=timeout, linger=0.0)
        conn.max_fds = 3
        return self.stack.enter_context(conn)

    def closed(self) -> Connection:
        conn = self.connection()
        conn.close()
        return conn

    def pending(self) -> Connection:
        """A connection that has read ahead."""
        conn = self.connection(FIELD.encode(b"one") + FIELD.encode(b"two"))
        conn.recv()
        return conn

    def datagrams(self, timeout: float = 0) -> framing.DatagramSocket:
        near, _ = self.sockets(socket.SOCK_DGRAM)
        sock = framing.DatagramSocket(near, MOST, timeout=timeout)
        return self.stack.enter_context(contextlib.closing(sock))


class Mistake(NamedTuple):
    """A call and what it raises; those of the kind "waits" take a millisecond."""

    kind: str
    raises: type[BaseException]
    make: Callable[[Place], Any]
    call: Call
    size: int = 9


@contextlib.contextmanager
def prepared(mistake: Mistake) -> Iterator[tuple[Callable[[], object], bytearray]]:
    """The call, and a buffer of which it must not keep hold."""
    with contextlib.ExitStack() as stack:
        data = bytearray(mistake.size)
        yield functools.partial(mistake.call, mistake.make(Place(stack)), data), data


MISTAKES: dict[str, Mistake] = {}


def _add(
    kind: str,
    name: str,
    raises: type[BaseException],
    make: Callable[[Place], Any],
    call: Call,
    size: int = 9,
) -> None:
    assert name not in MISTAKES
    waits = raises is TimeoutError
    MISTAKES[name] = Mistake("waits" if waits else kind, raises, make, call, size)


def _nothing(place: Place) -> None:
    return None


# ------------------------------------------------------------ formats and decoders

# Each with the beginning of a frame, and with bytes that can begin none.
FORMATS: dict[str, tuple[Format, bytes, bytes]] = {
    "LengthField": (FIELD, b"\0\0\0\5hel", b"\0\1\0\0"),
    "LengthField with marks": (
        LengthField(2, offset=2, magic=b"MM", trailer=b"!", max_frame=MOST),
        b"MM\0\2x",
        b"MX\0\2",
    ),
    "Varint": (framing.Varint(max_frame=MOST), b"\5hel", b"\xff\xff\x7f"),
    "Netstring": (framing.Netstring(max_frame=MOST), b"5:hel", b"5:hello;"),
    "Decimal": (framing.Decimal(b"\n", max_frame=MOST), b"5\nhel", b"x\n"),
    "ContentLength": (
        framing.ContentLength(max_frame=MOST),
        b"Content-Length: 5\r\n\r\nhel",
        b"Content-Length: x\r\n\r\n",
    ),
    "Delimiter": (framing.Delimiter(b"\n", max_frame=MOST), b"hel", bytes(MOST + 2)),
    "MultiprocessingConnection": (
        framing.MultiprocessingConnection(max_frame=MOST),
        b"\0\0\0\5hel",
        b"\xff\xff\xff\xfe",
    ),
    "Fixed": (framing.Fixed(8), b"hel", b""),
}


def _cut(form: Format, data: bytes) -> None:
    decoder = form.decoder()
    decoder.feed(data)
    decoder.eof()


def _add_format(name: str, form: Format, begun: bytes, bad: bytes) -> None:
    def add(what: str, raises: type[BaseException], call: Call, size: int = 9) -> None:
        _add("bytes", f"{name}{what}", raises, lambda place: form, call, size)

    def feed(_: object, data: bytearray) -> None:
        data[:] = bad * 9
        form.decoder().feed(data)

    add(".encode of too much", FramingError, lambda form, data: form.encode(data), MOST + 1)
    add(".encode of text", TypeError, lambda form, data: form.encode("text"))
    add(".encode of holes", BufferError, lambda form, data: form.encode(HOLES))
    add(".replace of nothing", TypeError, lambda form, data: form.replace(nonsense=1))
    add(".replace by too little", ValueError, lambda form, data: form.replace(max_frame=-1))
    add(".feed of text", TypeError, lambda form, data: form.decoder().feed("text"))
    add(".feed of holes", BufferError, lambda form, data: form.decoder().feed(HOLES))
    add(".eof", IncompleteFrame, lambda form, data: _cut(form, begun))
    if bad:
        add(".feed of rubbish", FramingError, feed)
    if name != "Delimiter":
        add(".pack_header", FramingError, lambda form, data: form.pack_header(MOST + 1))


for name, (form, begun, bad) in FORMATS.items():
    _add_format(name, form, begun, bad)

# ------------------------------------------------------------ receiving

RECEIVING: dict[str, Call] = {
    "recv": lambda conn, data: conn.recv(),
    "recv_many": lambda conn, data: conn.recv_many(),
    "recv_into": lambda conn, data: conn.recv_into(data),
    "recv_view": lambda conn, data: conn.recv_view().__enter__(),
    # It goes on only with the file that it began with.
    "recvfile": lambda conn, data, file=io.BytesIO(): conn.recvfile(file),  # type: ignore[misc]  # noqa: B008
    "recv_fds": lambda conn, data: conn.recv_fds(),
}
HEAD, LONG_HEAD = FIELD.pack_header(9), bytes([0, 0, 0, MOST + 1])
PEERS: dict[str, tuple[type[BaseException], Callable[[Place], Any]]] = {
    "of nothing": (BlockingIOError, lambda place: place.connection()),
    "of nothing in time": (TimeoutError, lambda place: place.connection(timeout=ONCE)),
    "of a part": (BlockingIOError, lambda place: place.connection(HEAD + b"part")),
    "of a part in time": (
        TimeoutError,
        lambda place: place.connection(HEAD + b"part", timeout=ONCE),
    ),
    "at an end in a frame": (
        IncompleteFrame,
        lambda place: place.connection(HEAD + b"part", end=True),
    ),
    "at the end": (ConnectionClosed, lambda place: place.connection(end=True)),
    "of too much": (FrameTooLarge, lambda place: place.connection(LONG_HEAD)),
    "after closing": (ConnectionClosed, Place.closed),
}
for name, call in RECEIVING.items():
    for what, (raises, make) in PEERS.items():
        _add("receiving", f"{name} {what}", raises, make, call)

WHOLE = FIELD.encode(b"a message")
_add("receiving", "recv_into too little", BufferError, lambda place: place.connection(WHOLE),
     lambda conn, data: conn.recv_into(data), 8)  # fmt: skip
_add("receiving", "recv_into a constant", BufferError, lambda place: place.connection(WHOLE),
     lambda conn, data: conn.recv_into(FROZEN))  # fmt: skip

# ------------------------------------------------------------ sending


def _failing() -> Iterator[bytes]:
    yield from ()
    raise ZeroDivisionError


SENDING: dict[str, Callable[[Any, Any], object]] = {
    "send": lambda conn, data: conn.send(data),
    "send of two": lambda conn, data: conn.send(b"", data),
    "send_many": lambda conn, data: conn.send_many([data]),
    "send_fds": lambda conn, data: conn.send_fds(data, [0]),
    "request": lambda conn, data: conn.request(data),
    "request_many": lambda conn, data: conn.request_many([data]),
}
FULL: dict[str, tuple[type[BaseException], Callable[[Place], Any]]] = {
    "to a full peer": (BlockingIOError, lambda place: place.connection(full=True)),
    "in time": (TimeoutError, lambda place: place.connection(full=True, timeout=ONCE)),
    "after closing it": (ConnectionClosed, Place.closed),
}


def _add_sending(name: str, call: Callable[[Any, Any], object]) -> None:
    def add(what: str, raises: type[BaseException], call: Call, size: int = 9) -> None:
        _add("sending", f"{name} {what}", raises, Place.connection, call, size)

    add("of text", TypeError, lambda conn, data: call(conn, "text"))
    add("of holes", BufferError, lambda conn, data: call(conn, HOLES))
    add("of too much to send", FrameTooLarge, call, MOST + 1)
    for what, (raises, make) in FULL.items():
        _add("sending", f"{name} {what}", raises, make, call)


for name, sending in SENDING.items():
    _add_sending(name, sending)

MORE_SENDING: dict[str, tuple[type[BaseException], Call]] = {
    "send_many that fails": (ZeroDivisionError, lambda conn, data: conn.send_many(_failing())),
    "request_many that fails": (
        ZeroDivisionError,
        lambda conn, data: conn.request_many(_failing()),
    ),
    "send_fds of none that is open": (
        OSError,
        lambda conn, data: conn.send_fds(data, [1 << 20]),
    ),
    "sendfile of too much": (
        FrameTooLarge,
        lambda conn, data: conn.sendfile(io.BytesIO(FROZEN)),
    ),
    "sendfile of no file": (TypeError, lambda conn, data: conn.sendfile(None)),
}
for name, (raises, call) in MORE_SENDING.items():
    _add("sending", name, raises, Place.connection, call)

# ------------------------------------------------------------ what can be set and asked

OPTIONS: dict[str, tuple[type[BaseException], Callable[[Place], Any], Call]] = {
    "framing": (TypeError, Place.connection, lambda conn, data: setattr(conn, "framing", "x")),
    "timeout": (ValueError, Place.connection, lambda conn, data: conn.settimeout(-1)),
    "timeout of text": (TypeError, Place.connection, lambda conn, data: conn.settimeout("1")),
    "spin": (ValueError, Place.connection, lambda conn, data: setattr(conn, "spin", -1)),
    "max_fds": (ValueError, Place.connection, lambda conn, data: setattr(conn, "max_fds", -1)),
    "shutdown": (OSError, Place.connection, lambda conn, data: conn.shutdown(9)),
    "detach": (RuntimeError, Place.pending, lambda conn, data: conn.detach()),
    "Connection over nothing": (TypeError, _nothing, lambda _, data: Connection(None)),
    "Connection without a format": (
        TypeError,
        Place.sock,
        lambda sock, data: Connection(sock, "netstring"),  # type: ignore[arg-type]
    ),
    "Decoder": (TypeError, _nothing, lambda _, data: framing.Decoder("x")),  # type: ignore[arg-type]
    "LengthField of 9": (ValueError, _nothing, lambda _, data: LengthField(9)),
    "Decimal of a digit": (ValueError, _nothing, lambda _, data: framing.Decimal(b"5")),
    "Delimiter of nothing": (ValueError, _nothing, lambda _, data: framing.Delimiter(b"")),
    "Fixed of nothing": (ValueError, _nothing, lambda _, data: framing.Fixed(0)),
    "wait": (AttributeError, _nothing, lambda _, data: pysock.wait([None])),  # type: ignore[list-item]
}

# ------------------------------------------------------------ datagrams

DATAGRAMS: dict[str, tuple[type[BaseException], Callable[[Place], Any], Call]] = {
    "recv": (BlockingIOError, Place.datagrams, lambda sock, data: sock.recv()),
    "recvfrom": (BlockingIOError, Place.datagrams, lambda sock, data: sock.recvfrom()),
    "recv_many": (BlockingIOError, Place.datagrams, lambda sock, data: sock.recv_many()),
    "recv_into": (BlockingIOError, Place.datagrams, lambda sock, data: sock.recv_into(data)),
    "recv in time": (
        TimeoutError,
        lambda place: place.datagrams(ONCE),
        lambda sock, data: sock.recv(),
    ),
    "recv_into a constant": (
        BufferError,
        Place.datagrams,
        lambda sock, data: sock.recv_into(FROZEN),
    ),
    "send of text": (TypeError, Place.datagrams, lambda sock, data: sock.send("text")),
    "send of holes": (BufferError, Place.datagrams, lambda sock, data: sock.send(HOLES)),
    "send of too much": (
        FrameTooLarge,
        Place.datagrams,
        lambda sock, data: sock.send(LARGE, data),
    ),
    "sendto nobody": (
        OSError,
        Place.datagrams,
        lambda sock, data: sock.sendto(data, "/nowhere/x"),
    ),
    "send_many of None": (
        TypeError,
        Place.datagrams,
        lambda sock, data: sock.send_many([data, None]),
    ),
    "send_many that fails": (
        ZeroDivisionError,
        Place.datagrams,
        lambda sock, data: sock.send_many(_failing()),
    ),
    "timeout": (ValueError, Place.datagrams, lambda sock, data: sock.settimeout(-1)),
}

# ------------------------------------------------------------ single frames

SINGLE: dict[str, tuple[type[BaseException], Callable[[Place], Any], Call]] = {
    "recv_exactly": (
        BlockingIOError,
        Place.sock,
        lambda sock, data: pysock.recv_exactly(sock, 9, 0),
    ),
    "recv_exactly at the end": (
        ConnectionClosed,
        lambda place: place.sock(end=True),
        lambda sock, data: pysock.recv_exactly(sock, 9),
    ),
    "recv_exactly of less than nothing": (
        ValueError,
        Place.sock,
        lambda sock, data: pysock.recv_exactly(sock, -1),
    ),
    "recv_exactly_into in time": (
        TimeoutError,
        Place.sock,
        lambda sock, data: pysock.recv_exactly_into(sock, data, ONCE),
    ),
    "recv_exactly_into a constant": (
        BufferError,
        Place.sock,
        lambda sock, data: pysock.recv_exactly_into(sock, FROZEN),
    ),
    "recv_frame in time": (
        TimeoutError,
        Place.sock,
        lambda sock, data: pysock.recv_frame(sock, FIELD, ONCE),
    ),
    "recv_frame of no socket": (
        OSError,
        _nothing,
        lambda _, data: pysock.recv_frame(1 << 20, FIELD),
    ),
    "send_frame of text": (
        TypeError,
        Place.sock,
        lambda sock, data: pysock.send_frame(sock, "text", FIELD),  # type: ignore[arg-type]
    ),
    "send_frame to a full peer": (
        BlockingIOError,
        lambda place: place.sock(full=True),
        lambda sock, data: pysock.send_frame(sock, data, FIELD, 0),
    ),
}

# ------------------------------------------------------------ Python's part


def _unheard(place: Place) -> Any:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()


def _refuse() -> None:
    proofs.prove(auth.Prover(proofs.KEY), auth.Verifier(proofs.OTHER_KEY))


V2 = b"\r\n\r\n\0\r\nQUIT\n" + bytes(9)
PYTHON: dict[str, tuple[type[BaseException], Callable[[Place], Any], Call]] = {
    "address.parse": (ValueError, _nothing, lambda _, data: pysock.address.parse("tcp://:x")),
    "formats.named": (ValueError, _nothing, lambda _, data: formats.named("nonsense")),
    "proxy.parse": (
        FramingError,
        _nothing,
        lambda _, data: proxy.parse(b"PROXY TCP4 1 2\r\n"),
    ),
    "proxy.parse of v2": (FramingError, _nothing, lambda _, data: proxy.parse(V2)),
    "Prover": (pysock.AuthenticationError, _nothing, lambda _, data: _refuse()),
    "Prover with a short key": (ValueError, _nothing, lambda _, data: auth.Prover(b"short")),
    "Client": (TypeError, _nothing, lambda _, data: pysock.Client()),
    "Client of nobody": (
        ConnectionRefusedError,
        _unheard,
        lambda where, data: pysock.Client(where),
    ),
    "DatagramClient of nobody": (
        OSError,
        _nothing,
        lambda _, data: pysock.DatagramClient("unixgram:///nowhere/x"),
    ),
}

for kind, table in (
    ("options", OPTIONS),
    ("datagrams", DATAGRAMS),
    ("single", SINGLE),
    ("python", PYTHON),
):
    for name, (raises, make, call) in table.items():
        _add(kind, f"{kind}: {name}", raises, make, call)
