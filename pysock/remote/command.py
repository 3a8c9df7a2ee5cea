"""One command that runs: what passes between it and its client, from its start to its EXIT.

One thread does it all, and never waits for the client in the midst: the client's words are
heard also while its output does not get away.  A stream is read only when all that was read
before has left, so that a client that does not read holds up its command and nobody's memory.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator

from ..errors import ConnectionClosed
from .conversation import State
from .protocol import CHUNK, WINDOW, Exit, Kind, credit, eof, size_in
from .spawning import Spawned
from .streams import Streams
from .talk import Talk

__all__ = ["Command"]

_GRACE = 1.0  # for a stream that somebody holds after its command was ended
_LAST_WORDS = 0.25  # for a terminal's
_LOOK = 30.0  # how often to ask whether a client that does not read still lives
_LONGEST_WAIT = 86400.0  # what poll() takes has an end; then the clock is looked at
_SILENCE = 300_000  # milliseconds without a word of its system, after which it does not
_LAST_ACK = 56  # where TCP_INFO has that
_OF_LIMITS: dict[int, str] = {
    signal.SIGXCPU: "it used up its processor time (limits)",
    signal.SIGXFSZ: "it wrote a file that is too long (limits)",
}
_WORDS = 64  # of a client, before the command has its turn
_TURNS = 16  # pieces of one stream before the others are looked at


class Command:
    """A command that has been started.

    Args:
        talk: its client.
        spawned: its lifeline.
        streams: its pipes or its terminal.
        time_limit: seconds that it may take; None: no limit.
        max_output: bytes that it may write; None: no limit.
    """

    def __init__(
        self,
        talk: Talk,
        spawned: Spawned,
        streams: Streams,
        time_limit: float | None,
        max_output: int | None,
    ) -> None:
        self.talk = talk
        self.connection = talk.connection
        self.spawned = spawned
        self.streams = streams
        self.max_output = max_output
        self.exit: Exit | None = None
        self.counts = [0, 0, 0]  # bytes of each stream
        self.reason = ""
        self._how: tuple[str, int] | None = None
        self._end_at = None if time_limit is None else time.monotonic() + time_limit
        self._time_limit = time_limit
        self._cut_at: float | None = None  # when to stop waiting for the streams' end
        self._incomplete = False
        self._input: deque[memoryview] = deque()
        self._input_ends = False
        self._more = False  # words of the client have come, and are not heard yet
        self._within_line = False  # whether what was written last is no newline
        self._taken = 0  # bytes of input that the client does not know of yet
        self._outbox: deque[bytes] = deque()
        self._held: list[bytes | memoryview] = []  # the next, of which nothing has gone
        self._pong: bytes | None = None
        self._buffer = bytearray(1 + CHUNK)
        self._view = memoryview(self._buffer)
        self._watched: dict[int, int] = {}
        self._poll = select.poll()

    def end(self, reason: str) -> None:
        """Have the command ended; any thread may say so."""
        self.reason = self.reason or reason
        self.spawned.end()

    def serve(self) -> Exit:
        """Serve the command until its end, and tell that to the client.

        Raises:
            ConnectionClosed, OSError: the client has gone.
            FramingError: it broke the rules.
        """
        timeout = self.connection.timeout
        self.connection.timeout = 0
        try:
            has_input = self.talk.conversation.wants_input
            self._outbox.append(credit(WINDOW if has_input else 0))
            self._hear()
            while self.exit is None or not self._flush():
                self._step()
            return self.exit
        finally:
            self.connection.timeout = timeout

    # ---------------------------------------------------------------- waiting

    def _step(self) -> None:
        """Wait for something to happen, and deal with it."""
        if self._more:
            self._hear()
        free = self._flush()
        if free and self.exit is not None:
            return  # the last word got away just now: nothing else is to come
        self._watch_all(free)
        for descriptor, events in self._poll.poll(self._timeout(free)):
            if descriptor == self.connection.fileno():
                self._hear()
            elif descriptor == self.spawned.fileno():
                self._hear_end()
            else:
                if descriptor == self.streams.input and events != select.POLLIN:
                    self._feed(events)
                if descriptor in self.streams.outputs and events & ~select.POLLOUT:
                    self._take_from(descriptor)
        self._look_at_clock()
        self._look_for_exit()

    def _take_from(self, descriptor: int) -> None:
        if self._flush():
            self._read(descriptor)
            if self._cut_at is not None and self.streams.terminal:
                self._cut_at = time.monotonic() + _LAST_WORDS

    def _watch_all(self, free: bool) -> None:
        """Say to the poller what to wait for; *free*: more may be sent."""
        running = self.talk.state is State.RUNNING  # what comes later is another's to hear
        events = select.POLLIN if running else 0
        wanted = {self.connection.fileno(): events if free else events | select.POLLOUT}
        if self._how is None:
            wanted[self.spawned.fileno()] = select.POLLIN
        if free:
            wanted.update(dict.fromkeys(self.streams.outputs, select.POLLIN))
        descriptor = self.streams.input
        writes = bool(self._input) or self._input_ends
        if descriptor is not None and (writes or not self.streams.terminal):
            more = select.POLLOUT if writes else 0
            wanted[descriptor] = wanted.get(descriptor, 0) | more
        if wanted == self._watched:
            return
        for descriptor in self._watched.keys() - wanted.keys():
            self._poll.unregister(descriptor)
        for descriptor, events in wanted.items():
            if self._watched.get(descriptor) != events:
                self._poll.register(descriptor, events)
        self._watched = wanted

    def _timeout(self, free: bool) -> float | None:
        """Return milliseconds until something is due."""
        moments = [at for at in (self._end_at, self._cut_at) if at is not None]
        left = min(moments) - time.monotonic() if moments else None
        if self._more:
            return 0.0
        if not free:
            left = _LOOK if left is None else min(left, _LOOK)
        return None if left is None else 1000 * max(0.0, min(left, _LONGEST_WAIT))

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        if self._end_at is not None and now >= self._end_at:
            self._end_at = None
            self.end(f"it took longer than {self._time_limit:g} s (time_limit)")
        if self._cut_at is not None and now >= self._cut_at:
            self._cut_at = None
            self._incomplete = not self.streams.terminal
            for descriptor in list(self.streams.outputs):
                self._ended(descriptor)
        if not self._watched or self._watched[self.connection.fileno()] & select.POLLOUT:
            self._look_for_life()

    def _look_for_life(self) -> None:
        """Give up a client that takes nothing, and whose system does not answer either."""
        sock = self.connection.socket
        if sys.platform != "linux" or sock.family == socket.AF_UNIX:
            return
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK + 4)
        (silence,) = struct.unpack_from("=I", info, _LAST_ACK)
        if silence > _SILENCE:
            raise ConnectionClosed(f"the client's system has been silent for {silence} ms")

    # ---------------------------------------------------------------- to the client

    def _flush(self) -> bool:
        """Send what is to be sent; return whether all of it has gone."""
        try:
            if self.connection.unsent:
                self.connection.flush()
            while True:
                if not self._held:
                    self._held = [*self._messages()]
                if not self._held:
                    return True
                if len(self._held) == 1:
                    self.connection.send(self._held[0])
                else:
                    self.connection.send_many(self._held)
                self._held = []
        except BlockingIOError as exc:
            # What was accepted the connection has, or the rest of it.
            del self._held[: int(getattr(exc, "accepted", 0))]
            return False

    def _messages(self) -> Iterator[bytes]:
        while (message := self._next_message()) is not None:
            yield self.talk.conversation.sent(message)

    def _next_message(self) -> bytes | None:
        if self._pong is not None:
            body, self._pong = self._pong, None
            return Kind.PONG(body)
        if self._outbox:
            return self._outbox.popleft()
        if self.exit is not None:
            return None  # it was the last word, and room for input is of no use
        if self._taken >= WINDOW // 4 or (self._taken and not self._input):
            count, self._taken = self._taken, 0
            return credit(count)
        return None

    def _read(self, descriptor: int) -> None:
        """Pass on what one of the command's streams has, for as long as it gets away."""
        stream = self.streams.outputs[descriptor]
        self._buffer[0] = Kind.STDOUT if stream == 1 else Kind.STDERR
        room = self._view[1:]
        closed = False
        for _ in range(_TURNS):
            try:
                count = os.readv(descriptor, [room])
            except BlockingIOError:
                return
            except OSError:  # a terminal that nobody has open any more
                if not closed:
                    # Linux may say so before it gives what was written last.
                    closed = True
                    continue
                count = 0
            if not count:
                self._ended(descriptor)
                return
            closed = False  # what it gives at a time may be a part of that
            if self.max_output is not None:
                count = self._allowed(count, self.max_output)
            if count:
                self.counts[stream] += count
                self._held = [self._view[: 1 + count]]
            if not self._flush():
                return

    def _allowed(self, count: int, limit: int) -> int:
        """Return how many of *count* bytes may pass; end a command that writes more."""
        allowed = limit - self.counts[1] - self.counts[2]
        if count > allowed and not self.reason:
            self.reason = f"it wrote more than {limit} bytes (max_output)"
            self.spawned.kill()
        return min(count, allowed)

    def _ended(self, descriptor: int) -> None:
        """Note the end of a stream; the client is told with the command's."""
        self._forget(descriptor)
        self.streams.close_output(descriptor)

    def _forget(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    # ---------------------------------------------------------------- from the client

    def _hear(self) -> None:
        """Take what the client has said, but not so much that nothing else is done."""
        for _ in range(_WORDS):
            if self.exit is not None and self.talk.state is not State.RUNNING:
                break
            try:
                message = self.connection.recv()
            except BlockingIOError:
                break
            self._obey(*self.talk.conversation.received(message))
        else:
            self._more = True  # which the poller may not see
            return
        self._more = False

    def _obey(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.STDIN:
            self.counts[0] += len(body)
            if self.streams.input is None:
                self._taken += len(body)  # nobody reads it any more
            elif body:
                self._input.append(memoryview(body))
                self._feed()
        elif kind is Kind.EOF:
            self._input_ends = True
            self._feed()
        elif kind is Kind.RESIZE:
            self.streams.resize(*size_in(body))
        elif kind is Kind.SIGNAL:
            self._signal(body.decode())
        elif kind is Kind.PING:
            self._pong = body

    def _signal(self, name: str) -> None:
        if name == "KILL":
            self.spawned.kill()  # whatever it has started, too
        elif (number := getattr(signal, f"SIG{name}", None)) is not None:
            self.spawned.signal(number)

    def _feed(self, events: int = 0) -> None:
        """Write to the command what it takes of its input."""
        descriptor = self.streams.input
        if descriptor is None:
            return
        try:
            while self._input:
                count = os.write(descriptor, self._input[0])
                self._taken += count
                self._within_line = self._input[0][count - 1] not in b"\n\x04"  # ends of lines
                if count == len(self._input[0]):
                    self._input.popleft()
                else:
                    self._input[0] = self._input[0][count:]
        except BlockingIOError:
            return
        except OSError:
            events = select.POLLERR
        if self._input_ends and not self._input:
            self._end_input()
        elif events & (select.POLLERR | select.POLLHUP):
            self._taken += sum(map(len, self._input))
            self._input.clear()
            if self.streams.terminal:
                self.streams.input = None
            else:
                self._end_input()
                self._outbox.append(eof(0))

    def _end_input(self) -> None:
        if self.streams.input is not None and not self.streams.terminal:
            self._forget(self.streams.input)
        self.streams.end_input(self._within_line)

    # ---------------------------------------------------------------- the end

    def _hear_end(self) -> None:
        """Learn from the spawner how the command has ended."""
        self._how = self.spawned.ended()
        if self._how is None:
            return
        self._forget(self.spawned.fileno())
        how, number = self._how
        if how != "exited" and number in _OF_LIMITS:
            self.reason = self.reason or _OF_LIMITS[number]
        if self.streams.terminal:
            self._cut_at = time.monotonic() + _LAST_WORDS
        elif self.reason or self._how == ("killed", signal.SIGKILL):
            self._cut_at = time.monotonic() + _GRACE

    def _look_for_exit(self) -> None:
        """Where the command and its streams have ended, have that told."""
        if self._how is None or self.streams.outputs or self.exit is not None:
            return
        how, number = self._how
        name = "" if how == "exited" else _name_of(number)
        self.exit = Exit(number, name, how == "dumped", self._incomplete, self.reason)
        self._outbox += [eof(1), eof(2), self.exit.encode()]


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return f"RT{number}"  # one of the real-time signals, which have no names
