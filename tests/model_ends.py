"""One end of the model: each call of a connection, with what may come of it.

A call that need not wait has to return, or to raise, what the bytes allow that the system
has been given: a message that is there, no part of one that is not, an end that is one.
"""

from __future__ import annotations

import errno
import io
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from alarms import Alarm, interrupted, meanwhile
from conftest import TIME_FACTOR
from held import CUT, FIN, RESET, Network, other
from pysock import Connection, ConnectionClosed, FramingError, IncompleteFrame
from pysock.framing import Format
from wires import LONGEST, Sent, message_for

SHORT = 0.001  # a timeout that is meant to pass
LONG = 20 * TIME_FACTOR
PATIENT = TIME_FACTOR
NOT_YET = (TimeoutError, BlockingIOError)
BROKEN = (ConnectionResetError, BrokenPipeError)
HANDLER_BROKE_IT = "a signal's handler has broken"
MANY = 3


class End:
    """One end; `peer` is the other, `sent` what this one has sent."""

    peer: End

    def __init__(
        self, name: str, sock: socket.socket, framing: Format, network: Network, tls: Any
    ) -> None:
        self.name, self.sock, self.framing, self.network = name, sock, framing, network
        self.tls = tls
        self.sent = Sent(framing, network.ways[name])
        self.incoming = network.ways[other(name)]
        self.connect()
        if tls is not None:
            self.sent.encrypted_by(self.conn.tls)
        self.got = 0  # messages of the peer's that this end has
        self.shut = False  # half-closed
        self.closed = False
        self.cleanly: bool | None = None  # closed so that all arrives; None: nobody knows
        self.failed = False  # a call has said that nothing can be sent any more
        self.taking: io.BytesIO | None = None  # what recvfile() may have stopped in
        self.giving: io.BytesIO | None = None  # what sendfile() has stopped in

    def __repr__(self) -> str:
        return (
            f"<{self.name} has sent {len(self.sent.messages)}, of which {self.sent.whole} "
            f"came, got {self.got}, is owed {self.owed}, has {self.conn.unsent} unsent>"
        )

    def connect(self) -> None:
        self.conn = Connection(self.sock, self.framing, linger=0.0, _tls=self.tls)
        self.owed = 0  # replies that the next request is to drop

    def message(self, size: int) -> bytes:
        number = 2 * len(self.sent.messages) + (self.name == "b")
        return message_for(self.framing, number, size)

    @property
    def can_send(self) -> bool:
        return not (self.closed or self.shut or self.failed or self.torn)

    @property
    def keeps_word(self) -> bool:
        """Whether all that it has accepted must come to the other end."""
        return self.can_send or bool((self.shut or self.cleanly) and not self.torn)

    @property
    def torn(self) -> bool:
        return self.name in self.network.torn

    @property
    def has_more(self) -> bool:
        """Whether the system has been given the whole of the next message."""
        return self.peer.sent.whole > self.got

    @property
    def ended(self) -> bool:
        """Whether the system has been shown an end behind what was given."""
        way = self.incoming
        return way.over is not None and (way.came == way.given or way.over == RESET)

    def must_be_ready(self, waits: bool) -> bool:
        """Whether there is a message, or an end, that a call has to find.

        Over TLS one that does not wait may find an end behind some bytes only the next time.
        """
        return self.has_more or (self.ended and (waits or self.tls is None))

    @property
    def progress(self) -> tuple[int, int]:
        """What is another when something was received."""
        return self.got, self.conn.stats.bytes_in

    # ------------------------------------------------------------ receiving

    def receive(self, how: str, seconds: float) -> bool:
        """Receive once; return whether a message came."""
        conn = self.conn
        must = self.must_be_ready(waits=seconds > 0)
        conn.timeout = LONG if seconds and must else seconds
        before = conn.stats.messages_in
        messages: list[bytes] = []
        try:
            messages = RECEIVING[how](self)
            assert messages
        except NOT_YET as exc:
            assert not must, "it is there, and was not received"
            blocked = isinstance(exc, BlockingIOError)
            assert blocked == (seconds == 0)
        except BufferError:
            assert how == "small" and (self.has_more or self.peer.sent.part)
        except FramingError:
            assert self.taking is not None and how != "file"
            return self.receive("file", seconds)
        except (ConnectionClosed, OSError, StopIteration) as exc:
            self.hear_end(exc)
        assert conn.stats.messages_in - before == len(messages)
        if messages and how != "file" and self.taking is not None:
            assert self.taking.getvalue() == b"", "part of a message has gone to a file"
            self.taking = None
        for message in messages:
            self.hand_over(message)
            self.owed = max(0, self.owed - 1)
        return bool(messages)

    def receive_next(self) -> None:
        """Receive what has come, without waiting."""
        self.receive("file" if self.taking else "recv", 0)

    def receive_until_interrupted(self, how: str, before: Callable[[], object]) -> None:
        """Wait for a message that has not come; a signal's handler ends that."""
        self.conn.timeout = LONG
        try:
            interrupted(lambda: RECEIVING["file" if self.taking else how](self), before)
        except Alarm:
            pass
        except OSError as exc:
            self.hear_failure(exc)
        else:
            pytest.fail("what was not there has been received")

    def meet_end(self) -> None:
        """Receive all that there is, and the end behind it."""
        if not self.closed:
            settle(self, self.peer)
            assert self.ended
            self.receive("file" if self.taking else "recv", SHORT)

    def hand_over(self, message: bytes) -> None:
        """Compare a message that came with what was sent."""
        assert self.has_more, "it came before it was there"
        if message != self.peer.sent.messages[self.got]:
            pytest.fail(self.peer.sent.explain(message, self.got))
        self.got += 1

    def hear_end(self, exc: BaseException) -> None:
        """Check that *exc* tells what has happened, and that nothing is kept back."""
        if isinstance(exc, OSError):
            self.hear_failure(exc)
            return
        over, part, clean = self.incoming.over, self.peer.sent.part, self.peer.cleanly
        assert not self.has_more, "an end is told before the last message"
        if isinstance(exc, IncompleteFrame):
            if self.tls is None:
                assert over in (FIN, CUT) and part, f"{exc}: {over}, {part}"
                assert exc.received == part
            else:
                assert over is not None, f"{exc}: {over}"
                assert part or over == CUT or not clean, f"{exc}: {over}"
        else:
            # Behind TLS's goodbye a reset takes nothing away.
            ends = (FIN, CUT) if self.tls is None else (FIN, RESET)
            assert over in ends and not part, f"a clean end: {over}, {part} bytes more"
            assert self.tls is None or clean is not False

    def hear_failure(self, exc: OSError) -> None:
        self.failed = True
        if HANDLER_BROKE_IT in str(exc):
            assert self.tls is not None
            self.network.reset()
            return
        assert isinstance(exc, BROKEN) or exc.errno == errno.ENOTCONN, repr(exc)
        assert self.torn or self.shut

    # ------------------------------------------------------------ sending

    def send(self, messages: list[bytes], call: Callable[[], object], seconds: float) -> bool:
        """Send *messages* by *call*; return whether all have left."""
        conn = self.conn
        conn.timeout = seconds
        before = conn.stats.messages_out
        accepted = None
        done = False
        try:
            call()
            accepted = len(messages)
            assert conn.unsent == 0
            done = True
        except NOT_YET as exc:
            accepted = int(getattr(exc, "accepted", 0))
            blocked = isinstance(exc, BlockingIOError)
            assert blocked == (seconds == 0)
        except Alarm:
            pass
        except FramingError:
            assert self.giving is not None
        except OSError as exc:
            self.hear_failure(exc)
        went = conn.stats.messages_out - before
        assert accepted is None or accepted == went
        for message in messages[:went]:
            self.sent.add(message)
        return done

    def send_file(self, message: bytes, seconds: float) -> bool:
        """Send *message* out of a file, or go on with that of which a part has gone."""
        conn = self.conn
        conn.timeout = seconds
        file = self.giving or io.BytesIO(message)
        begun = self.giving is not None
        try:
            conn.sendfile(file)
            self.giving, accepted = None, True
        except NOT_YET as exc:
            accepted = bool(exc.accepted)  # type: ignore[attr-defined]
            # With the last byte in the tail the call has done its part.
            self.giving = file if accepted else None
        except OSError as exc:
            self.hear_failure(exc)
            accepted = True
        if accepted and not begun:
            self.sent.add(message)
        return self.giving is None

    def finish_sending(self) -> None:
        """Have all leave that was accepted."""
        if self.can_send:
            with meanwhile(self.network.take):
                assert self.giving is None or self.send_file(b"", LONG)
                assert self.flush(LONG)

    def flush(self, seconds: float) -> bool:
        return self.send([], self.conn.flush, seconds)

    def half_close(self, seconds: float) -> None:
        if self.tls is not None:
            with pytest.raises(io.UnsupportedOperation):
                self.conn.shutdown(socket.SHUT_WR)
            return
        if self.send([], lambda: self.conn.shutdown(socket.SHUT_WR), seconds):
            self.shut = True

    # ------------------------------------------------------------ requests

    def request(
        self, message: bytes, seconds: float, answered: bool = False, alarm: bool = False
    ) -> None:
        """Send *message*, and receive a reply if one comes.

        Args:
            answered: the other end answers it meanwhile.
            alarm: a signal's handler ends the wait.
        """
        conn, reply = self.conn, None
        failure: BaseException | None = None
        before = conn.stats
        conn.timeout = LONG if answered else seconds
        wanted = self.got + self.owed + 1
        if answered:
            self.sent.add(message)
        try:
            if answered:
                with meanwhile(lambda: self.peer.answer(wanted)):
                    reply = conn.request(message)
            elif alarm:
                reply = interrupted(lambda: conn.request(message))
            else:
                reply = conn.request(message)
        except NOT_YET as exc:
            assert not answered, f"no reply comes: {self}, {self.peer}"
            accepted = bool(getattr(exc, "accepted", None))
            assert accepted == (conn.stats.messages_out > before.messages_out)
        except FramingError:
            assert self.giving is not None or self.taking is not None
        except (Alarm, ConnectionClosed, OSError) as exc:
            failure = exc
        asked = conn.stats.messages_out - before.messages_out
        dropped = conn.stats.messages_in - before.messages_in - (reply is not None)
        if asked and not answered:
            self.sent.add(message)
        # The handler may come between the call's return and who gets the reply.
        late = isinstance(failure, Alarm) and asked and dropped == self.owed + 1
        assert 0 <= dropped <= self.owed + late
        assert not asked or dropped >= self.owed, "it asks before it has what it is owed"
        self.got += dropped
        assert self.got <= self.peer.sent.whole
        self.owed += asked - dropped
        if reply is not None:
            self.hand_over(reply)
            self.owed -= 1
            assert self.owed == 0
        if dropped or reply is not None:
            assert not self.taking or not self.taking.getvalue()
            self.taking = None
        if failure is not None and not isinstance(failure, Alarm):
            self.hear_end(failure)

    def answer(self, wanted: int) -> None:
        """Receive what has come, and see to it that *wanted* messages are sent."""
        self.network.pump()
        while self.receive("recv", 0):
            self.network.pump()
        asked = wanted - len(self.peer.sent.messages) + self.got
        while self.flush(0) and len(self.sent.messages) < asked:
            message = self.message(100)
            self.send([message], lambda: self.conn.send(message), 0)  # noqa: B023
        self.network.pump()

    # ------------------------------------------------------------ ends

    def pass_on(self) -> None:
        """Give the socket up, and go on with it in another connection, where that can be."""
        conn = self.conn
        idle = not (conn.pending or conn.unsent)
        try:
            sock = conn.detach()
        except RuntimeError:
            assert not idle or self.giving is not None or self.taking is not None
            return
        assert idle and sock is self.sock
        self.taking = self.giving = None  # all of that has left
        self.connect()

    def close(self, gently: bool) -> None:
        conn = self.conn
        whole = self.can_send and self.giving is None
        conn.linger = LONG if gently else 0.0
        if gently and whole:
            with meanwhile(self.network.take):
                conn.close()
            self.network.take()
            assert self.sent.has_left, "close() has lost what was accepted"
            assert self.network.ways[self.name].end == FIN
            self.cleanly = True
        else:
            conn.linger = 0.0
            self.cleanly = None if whole else False
            conn.close()
            self.network.take()
        self.closed = True
        for call in (conn.recv, conn.flush):
            with pytest.raises(ConnectionClosed):
                call()

    def drop(self) -> None:
        """Close what may be in any state."""
        self.conn.linger = 0.0
        self.conn.close()


def settle(*both: End) -> None:
    """Move all bytes, and receive them, until nothing moves any more."""
    before: object = None
    network, limit = both[0].network, time.monotonic() + PATIENT
    while True:
        network.pump()
        now = [network.moved, network.shown, *(end.progress for end in both)]
        if now == before and not (network.under_way and time.monotonic() < limit):
            break
        before = now
        for end in both:
            if not end.closed:
                end.receive_next()


def _into(end: End) -> list[bytes]:
    buffer = bytearray(LONGEST + 64)
    size = end.conn.recv_into(buffer)
    return [bytes(buffer[:size])]


def _into_too_small(end: End) -> list[bytes]:
    size = 1
    if end.has_more:
        size = max(0, len(end.peer.sent.messages[end.got]) - 1)
    buffer = bytearray(size)
    return [bytes(buffer[: end.conn.recv_into(buffer)])]


def _view(end: End) -> list[bytes]:
    with end.conn.recv_view() as view:
        return [bytes(view)]


def _to_file(end: End) -> list[bytes]:
    end.taking = end.taking or io.BytesIO()
    size = end.conn.recvfile(end.taking)
    message = end.taking.getvalue()
    assert size == len(message)
    end.taking = None
    return [message]


RECEIVING: dict[str, Callable[[End], list[bytes]]] = {
    "recv": lambda end: [end.conn.recv()],
    "next": lambda end: [next(end.conn)],
    "many": lambda end: end.conn.recv_many(MANY),
    "into": _into,
    "small": _into_too_small,
    "view": _view,
    "file": _to_file,
}
