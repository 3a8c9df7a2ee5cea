"""The server's side of one conversation: its connection, and its place in the exchange."""

from __future__ import annotations

from typing import Any

from ..errors import FramingError
from .conversation import Conversation, State
from .policy import user_of
from .protocol import Kind, Refusal

__all__ = ["Talk"]


class Talk:
    """A client of the server, as whoever serves it knows it.

    Args:
        connection: the client's.
        known: what an earlier one of the same client has in `known`; None: it is new.
    """

    def __init__(self, connection: Any, known: tuple[Conversation, str] | None = None) -> None:
        self.connection = connection
        self.known = known or (Conversation(server=True), user_of(connection))
        self.conversation, self.user = self.known

    @property
    def request_user(self) -> str:
        """Who is at the other end, "" where nobody knows."""
        return self.user

    @property
    def state(self) -> State:
        """Where the conversation is."""
        return self.conversation.state

    def send(self, *parts: Any) -> None:
        """Send one message, and wait until it has gone.

        Args:
            parts: the kind byte, or all of a short message, and buffers that follow it.

        Raises:
            OSError: the connection has failed.
        """
        message = parts[0]
        if len(parts) == 1:
            self.conversation.sent(message)
        self.connection.send(*parts)

    def receive(self) -> tuple[Kind, bytes]:
        """Wait for the client's next message; answer its pings.

        Raises:
            ConnectionClosed, OSError: the client has gone.
            FramingError: it broke the rules.
        """
        while True:
            kind, body = self.conversation.received(self.connection.recv())
            if kind is not Kind.PING:
                return kind, body
            self.send(Kind.PONG(body))

    def poll(self) -> tuple[Kind, bytes] | None:
        """Return the client's next message if it has come, else None; does not wait."""
        timeout = self.connection.timeout
        self.connection.timeout = 0
        try:
            message = self.connection.recv()
        except BlockingIOError:
            return None
        finally:
            self.connection.timeout = timeout
        kind, body = self.conversation.received(message)
        if kind is not Kind.PING:
            return kind, body
        self.send(Kind.PONG(body))
        return None

    def refuse(self, refusal: Refusal) -> None:
        """Tell the client why something is not done."""
        self.send(refusal.encode())

    def give_up(self, exc: FramingError) -> None:
        """Tell a client what rule it broke, as far as it still listens, and close."""
        try:
            self.connection.timeout = 1.0
            code = "version" if self.state is State.NEW else "protocol"
            self.send(Refusal(code, str(exc)).encode())
        except (OSError, FramingError):
            pass
        self.connection.close()
