"""The client's side of one conversation: its connection, and its place in the exchange."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from .. import Client, ConnectionClosed, Error, FrameTooLarge, FramingError, RemoteError
from .conversation import Conversation, State
from .protocol import CHUNK, FRAMING, Kind, Refusal, version

__all__ = ["Expired", "Link"]

_LONGEST_SILENCE = 20.0  # between two questions whether the server is still there


class Expired(TimeoutError):
    """A deadline of the caller's has passed; the conversation is as it was."""


class Link:
    """A connection to a remote server, made again where it was lost.

    One thread may send while another receives.

    Args:
        connect: makes a connection.
        timeout: seconds that the server may be silent while something is waited for; None:
            no limit.
    """

    def __init__(self, connect: Callable[[], Client], timeout: float | None) -> None:
        self._connect = connect
        self._timeout = timeout
        self._pause = None if timeout is None else min(timeout / 3, _LONGEST_SILENCE)
        self._client: Client | None = None
        self._conversation = Conversation(server=False)
        self._owner: object = None
        self._guard = threading.RLock()  # for the conversation, and for who it belongs to
        self._closed = False
        self._silent = 0.0  # seconds waited without a word of the server
        self._unasked = 0.0  # since it was asked for one

    @property
    def state(self) -> State:
        """Where the conversation is."""
        return self._conversation.state

    @property
    def wants_input(self) -> bool:
        """Whether the command that was begun last has input."""
        return self._conversation.wants_input

    @property
    def closed(self) -> bool:
        """Whether there is no connection at present."""
        return self._client is None or self._client.closed

    def open(self) -> None:
        """Connect, if there is no connection.

        Raises:
            OSError, ConnectionClosed, RemoteError, FramingError: there can be none.
        """
        with self._guard:
            if not self.closed:
                return
            self._silent = self._unasked = 0.0
            if self._closed:
                raise ConnectionClosed("the remote client is closed")
            self._conversation = Conversation(server=False)
            self._client = self._connect()
            try:
                self.send(version())
                self.receive()
            except (ConnectionClosed, ConnectionError) as exc:
                self.close()
                raise ConnectionClosed(
                    "the server closed the connection at once: it may want a key (authkey=), "
                    "not trust this address, or be no server of remote commands; its log tells"
                ) from exc
            except BaseException:
                self.close()
                raise

    def begin(self, message: bytes, owner: object = None) -> None:
        """Send an EXEC, PUT or GET, over a new connection where the last one was lost.

        Args:
            message: what begins.
            owner: whose words `say` sends until the next begins.

        Raises:
            RuntimeError: something else is under way.
            FrameTooLarge: the message is too long to be sent.
            OSError: the connection has failed, and is closed.
        """
        with self._guard:
            self._look_for_end()
            self.open()
            if self.state is not State.READY:
                raise RuntimeError(
                    "a command or a transfer is under way on this connection: let it end, or "
                    "use another RemoteClient"
                )
            if len(message) > FRAMING.max_frame:
                raise FrameTooLarge(len(message), FRAMING.max_frame)
            self._owner = owner
            try:
                self.send(message)
            except BaseException:  # nobody knows how much of it has gone
                self.close()
                raise

    def _look_for_end(self) -> None:
        """Notice that the server has closed a connection that was idle."""
        if not self.closed and self.state is State.READY:
            try:
                self.poll()
            except FramingError:
                self.close()
                raise
            except (Error, OSError):
                self.close()

    def abandon(self, owner: object) -> None:
        """Drop the connection if a command that nobody waits for may be running."""
        with self._guard:
            if self._owner is owner and self.state is State.RUNNING:
                self.close()

    def say(self, owner: object, message: bytes) -> bool:
        """Send a word to a command that runs; return whether it still does."""
        with self._guard:
            if self._owner is not owner or self.state is not State.RUNNING or self.closed:
                return False
            try:
                self.send(message)
            except (ConnectionClosed, OSError):
                self.close()  # who receives will hear of it
                return False
            return True

    def room(self, owner: object) -> int:
        """Return how many bytes of input may be sent to a command now."""
        with self._guard:
            conversation = self._conversation
            if self._owner is not owner or conversation.state is not State.RUNNING:
                return 0
            return conversation.window

    def send_input(self, owner: object, data: Any) -> int:
        """Send as much input as may be sent to a command now; return how many bytes."""
        with self._guard:
            count = min(len(data), CHUNK, self.room(owner))
            if count:
                self._conversation.window -= count
                self.send(Kind.STDIN.prefix, data[:count])
            return count

    def send(self, *parts: Any) -> None:
        """Send one message, and wait until it has gone.

        Args:
            parts: the kind byte, or all of a short message, and buffers that follow it.

        Raises:
            OSError: the connection has failed.
        """
        client = self._client
        if client is None:
            raise ConnectionClosed("the connection is closed")
        if len(parts) == 1:
            with self._guard:
                self._conversation.sent(parts[0])
        until = None if self._timeout is None else time.monotonic() + self._timeout
        taken = False
        while True:
            try:
                if taken:
                    client.flush()
                else:
                    client.send(*parts)
                return
            except (TimeoutError, BlockingIOError) as exc:  # of what a receive has set
                if until is not None and time.monotonic() >= until:
                    self._give_up()
                taken = taken or getattr(exc, "accepted", False)
                client.timeout = self._pause

    def receive(self, deadline: float | None = None) -> tuple[Kind, bytes]:
        """Wait for the server's next message.

        Args:
            deadline: when to stop waiting, in seconds of `time.monotonic`.

        Raises:
            Expired: the deadline has passed.
            OSError: the system at the other end refused, as ERROR tells; or the connection
                has failed.
            RemoteError: the server refused.
            TimeoutError: the server has been silent for too long; the connection is closed.
            ConnectionClosed: the server has gone.
        """
        client = self._client
        if client is None:
            raise ConnectionClosed("the connection is closed")
        while True:
            pause = self._pause if deadline is None else self._pause_until(deadline)
            client.timeout = pause
            try:
                message = client.recv()
            except (TimeoutError, BlockingIOError):
                self._nothing_came(pause or 0.0)
                if deadline is not None and time.monotonic() >= deadline:
                    raise Expired("the deadline has passed") from None
                continue
            self._silent = self._unasked = 0.0
            with self._guard:
                kind, body = self._conversation.received(message)
            if kind is Kind.ERROR:
                raise failure_of(Refusal.decode(body))
            if kind is not Kind.PONG:
                return kind, body

    def _pause_until(self, deadline: float) -> float:
        left = max(0.0, deadline - time.monotonic())
        return left if self._pause is None else min(left, self._pause)

    def _nothing_came(self, pause: float) -> None:
        """Count the silence; ask the server whether it is still there, or give it up."""
        self._silent += pause
        self._unasked += pause
        if self._timeout is not None and self._silent >= self._timeout:
            self._give_up()
        asks = self._pause is not None and self.state is not State.NEW
        if asks and self._unasked >= (self._pause or 0.0):
            self._unasked = 0.0
            self.send(Kind.PING())

    def poll(self) -> tuple[Kind, bytes] | None:
        """Return the server's next message if it has come, else None; does not wait.

        Raises: as `receive`.
        """
        try:
            return self.receive(time.monotonic())
        except Expired:
            return None

    def _give_up(self) -> NoReturn:
        self.close()
        raise TimeoutError(
            f"the server has been silent for {self._timeout:g} s: the connection is closed"
        )

    def close(self, for_good: bool = False) -> None:
        """Drop the connection; the server ends what it was doing for it."""
        client, self._client = self._client, None
        self._closed = self._closed or for_good
        if client is not None:
            client.linger = min(client.linger, 0.2)
            client.close()


def failure_of(refusal: Refusal) -> OSError | RemoteError:
    """Return the exception for a server's ERROR."""
    if refusal.code == "os":
        error = refusal.os_error()
        error.remote = True  # type: ignore[attr-defined]  # it is not this machine's
        return error
    return RemoteError(refusal.text or "refused without a reason", refusal.code)
