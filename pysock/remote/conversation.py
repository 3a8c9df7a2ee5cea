"""Which message may come when: one side's place in the exchange; no I/O.

Nothing is served but by the kinds that a state lists, and a state lists few.
"""

from __future__ import annotations

import enum

from ..errors import FramingError
from .protocol import (
    KINDS,
    MAGIC,
    SIGNALS,
    VERSION,
    WINDOW,
    Exec,
    Exit,
    Get,
    Kind,
    Put,
    number_in,
    size_in,
)

__all__ = ["Conversation", "State"]


class State(enum.Enum):
    """Where a conversation is."""

    NEW = "before the versions were told"
    READY = "between two commands"
    RUNNING = "while a command runs"
    PUTTING = "while a file is being stored"
    GETTING = "while a file is being fetched"
    OVER = "after the end"


_ASKED = (Kind.EXEC, Kind.PUT, Kind.GET)
_OFFSET = 8  # bytes of a GET that is one; no `Get` is that short
_BEGUN = {Kind.EXEC: State.RUNNING, Kind.PUT: State.PUTTING, Kind.GET: State.GETTING}

# What a client may send.  Between two commands there may be words to the last one that were
# on their way when it ended: they count for nothing.
_STALE = frozenset((Kind.STDIN, Kind.EOF, Kind.RESIZE, Kind.SIGNAL, Kind.DATA, Kind.DONE))
_OF_CLIENT: dict[State, frozenset[Kind]] = {
    State.NEW: frozenset((Kind.VERSION,)),
    State.READY: frozenset((*_ASKED, Kind.PING, Kind.ERROR)) | _STALE,
    State.RUNNING: frozenset((Kind.STDIN, Kind.EOF, Kind.RESIZE, Kind.SIGNAL, Kind.PING)),
    State.PUTTING: frozenset((Kind.DATA, Kind.DONE, Kind.ERROR, Kind.PING)),
    State.GETTING: frozenset((Kind.GET, Kind.ERROR, Kind.PING)),
    State.OVER: frozenset(),
}

# What a server may send.
_OF_SERVER: dict[State, frozenset[Kind]] = {
    State.NEW: frozenset((Kind.VERSION, Kind.ERROR)),
    State.READY: frozenset((Kind.PONG, Kind.ERROR)),
    State.RUNNING: frozenset(
        (Kind.STDIN, Kind.STDOUT, Kind.STDERR, Kind.EOF, Kind.EXIT, Kind.ERROR, Kind.PONG)
    ),
    State.PUTTING: frozenset((Kind.PUT, Kind.DONE, Kind.ERROR, Kind.PONG)),
    State.GETTING: frozenset((Kind.GET, Kind.DATA, Kind.DONE, Kind.ERROR, Kind.PONG)),
    State.OVER: frozenset(),
}


class Conversation:
    """One side's place in the exchange.

    The messages of both sides go through it: the peer's through `received`, one's own
    through `sent`, in their order.

    Args:
        server: which side it is.
    """

    def __init__(self, server: bool) -> None:
        self.server = server
        self.state = State.NEW
        self.asked: Exec | Put | Get | None = None  # what was begun last
        self.window = 0  # bytes of input that the client may send at present
        self.started = False  # whether the command has
        self.wants_input = False  # whether STDIN may come
        self._ended: set[int] = set()  # streams
        self._open: set[int] = set()  # the kinds of output that may come to this side
        self._deaf = False  # whether the command takes no more input
        self._versions: set[bool] = set()  # who has told theirs; True: the server
        self._terminal = False
        self._merged = False
        self._step = 0  # of a transfer
        self._of_file = False  # a transfer; not of a folder

    def received(self, message: bytes) -> tuple[Kind, bytes]:
        """Take the peer's next message; return its kind and its body.

        Raises:
            FramingError: it is malformed, or does not belong here.
        """
        if not message:
            raise FramingError("a message without a kind")
        if message[0] in self._open and len(message) > 1:  # as most are
            return KINDS[message[0]], message[1:]
        kind = KINDS.get(message[0])
        if kind is None:
            raise FramingError(f"a message of kind {message[0]}, which nobody knows")
        body = message[1:]
        self._check(kind, of_server=not self.server)
        self._advance(kind, body, of_server=not self.server)
        return kind, body

    def sent(self, message: bytes) -> bytes:
        """Note a message of one's own; return it.

        Raises:
            FramingError: it does not belong here, which is this program's fault.
        """
        kind = KINDS[message[0]]
        self._check(kind, of_server=self.server)
        self._advance(kind, message[1:], of_server=self.server)
        return message

    def _check(self, kind: Kind, of_server: bool) -> None:
        table = _OF_SERVER if of_server else _OF_CLIENT
        if kind not in table[self.state]:
            raise FramingError(f"{kind.name} {self.state.value}")

    def _advance(self, kind: Kind, body: bytes, of_server: bool) -> None:
        if kind is Kind.VERSION:
            self._meet(body, of_server)
        elif kind in (Kind.PING, Kind.PONG):
            if len(body) > 8:
                raise FramingError(f"{kind.name} of {len(body)} bytes, expected 8 at most")
        elif kind is Kind.ERROR:
            self._error(of_server)
        elif self.state is State.RUNNING:
            (self._word_of_server if of_server else self._word_of_client)(kind, body)
        elif self.state in (State.PUTTING, State.GETTING):
            self._transfer(kind, of_server)
        elif kind is Kind.GET and len(body) == _OFFSET:
            pass  # stale as well: the server has refused what it had announced
        elif kind in _ASKED:
            self._begin(kind, body)

    def _meet(self, body: bytes, of_server: bool) -> None:
        if body[: len(MAGIC)] != MAGIC or len(body) != len(MAGIC) + 1:
            raise FramingError(f"VERSION is {body[:32]!r}, which is no version")
        if body[-1] != VERSION:
            raise FramingError(f"the peer speaks version {body[-1]}, this side {VERSION}")
        if of_server in self._versions:
            raise FramingError("VERSION twice")
        self._versions.add(of_server)
        if len(self._versions) == 2:
            self.state = State.READY

    def _error(self, of_server: bool) -> None:
        # The client's changes nothing: what it gives up ends with the server's answer.
        if of_server:
            self.state = State.OVER if self.state is State.NEW else State.READY
            self._open = set()

    def _begin(self, kind: Kind, body: bytes) -> None:
        self._step = 0
        if kind is Kind.PUT:
            self.asked = put = Put.decode(body)
            self._of_file = put.entry.type != "d"
        elif kind is Kind.GET:
            self.asked = get = Get.decode(body)
            self._of_file = not get.listing
        else:
            self.asked = command = Exec.decode(body)
            self.started = self._deaf = False
            self.wants_input = command.stdin
            self._terminal = command.pty is not None
            self._ended = set() if command.stdin else {0}
            self._merged = self._terminal or command.merge
            self.window = 0
        self.state = _BEGUN[kind]

    def _word_of_client(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.STDIN:
            if 0 in self._ended:
                raise FramingError("STDIN after its end")
            if len(body) > self.window:
                raise FramingError(f"STDIN of {len(body)} bytes, {self.window} are allowed")
            self.window -= len(body)
        elif kind is Kind.EOF:
            if body != b"\0":
                raise FramingError(f"EOF of stream {body[:8]!r}, which is not the client's")
            if 0 in self._ended:
                raise FramingError("EOF of stream 0 twice")
            self._ended.add(0)
        elif kind is Kind.RESIZE:
            if not self._terminal:
                raise FramingError("RESIZE without a terminal")
            size_in(body)
        elif body not in SIGNALS:
            raise FramingError(f"SIGNAL {body[:16]!r}, which nobody knows")

    def _word_of_server(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.STDIN:
            count = number_in(kind, body)
            if self.started and not count:
                raise FramingError("STDIN that allows no byte more")
            if self.window + count > WINDOW:
                raise FramingError(
                    f"a window of {self.window + count} bytes, expected {WINDOW}"
                )
            self.window += count
            if not self.started:
                self.started = True
                if not self.server:
                    self._open = {Kind.STDOUT} if self._merged else {Kind.STDOUT, Kind.STDERR}
            return
        if not self.started:
            raise FramingError(f"{kind.name} before the command has started")
        if kind is Kind.EOF:
            if body not in (b"\0", b"\1", b"\2"):
                raise FramingError(f"EOF of stream {body[:8]!r}, which is not known")
            if body[0] in self._ended if body[0] else self._deaf:
                raise FramingError(f"EOF of stream {body[0]} twice")
            if body[0]:
                self._ended.add(body[0])
                self._open.discard(Kind.STDOUT if body[0] == 1 else Kind.STDERR)
            else:
                self._deaf = True
        elif kind is Kind.EXIT:
            if not {1, 2} <= self._ended:
                raise FramingError("EXIT before the end of both streams")
            Exit.decode(body)
            self.state = State.READY
        else:
            stream = 1 if kind is Kind.STDOUT else 2
            if stream in self._ended:
                raise FramingError(f"{kind.name} after its end")
            if stream == 2 and self._merged:
                raise FramingError("STDERR of a command that has one stream")
            if not body:
                raise FramingError(f"{kind.name} without a byte")

    def _transfer(self, kind: Kind, of_server: bool) -> None:
        """Check the order of a transfer's messages.

        Storing: the server's offset, the client's DATA ... and DONE, the server's DONE.
        Fetching: the server's entry, the client's offset, the server's DATA ... and DONE.
        Of a folder there is nothing but, where it is listed, DATA ..., and DONE.
        """
        putting = self.state is State.PUTTING
        first, second = (Kind.PUT, Kind.DONE) if putting else (Kind.GET, Kind.GET)
        data_at = 1 if putting else 2 if self._of_file else 0
        done_at = 2 if self._of_file else 0
        if self._of_file and self._step == 0 and of_server and kind is first:
            self._step = 1
        elif self._step == 1 and not of_server and kind is second:
            self._step = 2
        elif self._step == data_at and kind is Kind.DATA:
            pass
        elif self._step == done_at and kind is Kind.DONE and of_server:
            self.state = State.READY
        else:
            raise FramingError(f"{kind.name} out of turn {self.state.value}")
