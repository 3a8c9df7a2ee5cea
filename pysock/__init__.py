"""Whole messages over sockets, for blocking Python code, at the speed of C.

A server is `pysock.Server("tcp://127.0.0.1:8000", bytes.upper)`, a client
`pysock.Client("tcp://127.0.0.1:8000").request(b"hello")`.
"""

from . import errors, formats, framing
from ._version import __version__
from .client import Client
from .connection import Connection, wait
from .errors import (
    AuthenticationError,
    ConnectionClosed,
    Error,
    FrameTooLarge,
    FramingError,
    IncompleteFrame,
    InvalidHeader,
    RemoteError,
)
from .framing import (
    ContentLength,
    Decimal,
    Decoder,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Varint,
    recv_exactly,
    recv_exactly_into,
    recv_frame,
    send_frame,
)
from .server import Server
from .session import Session

__all__ = [
    "AuthenticationError",
    "Client",
    "Connection",
    "ConnectionClosed",
    "ContentLength",
    "Decimal",
    "Decoder",
    "Delimiter",
    "Error",
    "Fixed",
    "Format",
    "FrameTooLarge",
    "FramingError",
    "IncompleteFrame",
    "InvalidHeader",
    "LengthField",
    "MultiprocessingConnection",
    "Netstring",
    "Raw",
    "RemoteError",
    "Server",
    "Session",
    "Varint",
    "__version__",
    "errors",
    "formats",
    "framing",
    "recv_exactly",
    "recv_exactly_into",
    "recv_frame",
    "send_frame",
    "wait",
]
