"""Exceptions raised by pysock.

Error
    FramingError            also ValueError
        FrameTooLarge
        InvalidHeader
    ConnectionClosed        also EOFError
        IncompleteFrame
    AuthenticationError
    RemoteError

Operating-system failures stay OSError and its subclasses, time limits stay
TimeoutError; nothing here wraps them.  Every exception pickles.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "ConnectionClosed",
    "Error",
    "FrameTooLarge",
    "FramingError",
    "IncompleteFrame",
    "InvalidHeader",
    "RemoteError",
]


class Error(Exception):
    """Base of every exception that pysock itself defines."""


class FramingError(Error, ValueError):
    """The bytes, or the message to be sent, do not follow the agreed framing."""


class FrameTooLarge(FramingError):
    """A frame's payload is longer than the limit.

    Args:
        length: payload bytes that were announced, offered or already received.
        limit: the largest payload allowed, in bytes.
        hint: what the bytes probably are, or what to do; may be empty.
    """

    def __init__(self, length: int, limit: int, hint: str = "") -> None:
        super().__init__(length, limit, hint)
        self.length = length
        self.limit = limit
        self.hint = hint

    def __str__(self) -> str:
        text = f"length {self.length} exceeds {self.limit}"
        return f"{text}: {self.hint}" if self.hint else text


class InvalidHeader(FramingError):
    """A frame's header, or its trailer, is not what the framing prescribes.

    Args:
        header: the refused bytes, as far as they had come.
        reason: what is wrong with them.
        hint: what the bytes probably are; may be empty.
    """

    def __init__(self, header: bytes, reason: str, hint: str = "") -> None:
        super().__init__(header, reason, hint)
        self.header = header
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason}: {self.hint}" if self.hint else self.reason


class ConnectionClosed(Error, EOFError):
    """The stream has ended between frames, or the connection was closed here."""

    def __init__(self, reason: str = "the peer closed the connection") -> None:
        super().__init__(reason)


class IncompleteFrame(ConnectionClosed):
    """The stream ended inside a frame, or TLS without a word of it: it was cut off.

    Args:
        received: bytes of the frame that came, header included; 0: TLS was cut off
            between frames.
        expected: bytes that were due as far as they could be known, header
            included; None where the framing cannot tell.
    """

    def __init__(self, received: int, expected: int | None) -> None:
        super().__init__()
        self.args = (received, expected)
        self.received = received
        self.expected = expected

    def __str__(self) -> str:
        if self.expected is None and self.received == 0:
            return (
                "the stream was cut off: it ended between frames, but TLS without its "
                "close_notify"
            )
        if self.expected is None:
            return f"the stream ended inside a frame, after {self.received} bytes"
        return f"the stream ended after {self.received} of {self.expected} bytes of a frame"


class AuthenticationError(Error):
    """The peer did not prove that it knows the key."""


class RemoteError(Error):
    """The server of remote commands refused or failed.

    Args:
        text: a sentence for people.
        code: "refused", "busy", "stopping", "version", "protocol", "failed" as the server
            has it, or "output" where a command wrote more than `max_output`.
    """

    def __init__(self, text: str, code: str = "failed") -> None:
        super().__init__(text, code)
        self.text = text
        self.code = code
        self.output: object = None  # what had come of a command's output
        self.stderr: object = None

    def __str__(self) -> str:
        return self.text
