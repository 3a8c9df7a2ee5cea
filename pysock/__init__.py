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
    Sender,
    Varint,
    recv_exactly,
    recv_exactly_into,
    recv_frame,
    send_frame,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import auth, interop, remote, tls
    from .datagram import DatagramClient
    from .dgramserver import DatagramServer
    from .prefork import serve
    from .server import Server
    from .session import ServerConnection, Session

__all__ = [
    "AuthenticationError",
    "Client",
    "Connection",
    "ConnectionClosed",
    "ContentLength",
    "DatagramClient",
    "DatagramServer",
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
    "Sender",
    "Server",
    "ServerConnection",
    "Session",
    "Varint",
    "__version__",
    "auth",
    "errors",
    "formats",
    "framing",
    "interop",
    "recv_exactly",
    "recv_exactly_into",
    "recv_frame",
    "remote",
    "send_frame",
    "serve",
    "tls",
    "wait",
]

# What not every client needs, and takes as long to import as all the rest: logging, ssl.
# A name that is its module's is the module.
_LAZY = {
    "DatagramClient": "datagram",
    "DatagramServer": "dgramserver",
    "Server": "server",
    "ServerConnection": "session",
    "Session": "session",
    "auth": "auth",
    "interop": "interop",
    "remote": "remote",
    "serve": "prefork",
    "tls": "tls",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{_LAZY[name]}")
    value = module if name == _LAZY[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
