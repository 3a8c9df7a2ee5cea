"""Commands on another machine: `RemoteServer`, and `RemoteClient.run` as `subprocess.run`.

server = pysock.remote.RemoteServer("unix:///run/user/1000/pysock.sock")
remote = pysock.remote.RemoteClient("unix:///run/user/1000/pysock.sock")
remote.run(["ls", "-l"]).stdout
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .client import Completed, RemoteClient
from .process import Process

if TYPE_CHECKING:
    from .policy import Request
    from .server import RemoteServer

__all__ = ["Completed", "Process", "RemoteClient", "RemoteServer", "Request"]

# What clients do not need, and Windows does not have.
_LAZY = {"RemoteServer": "server", "Request": "policy"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if sys.platform == "win32":
        raise OSError(f"{name}: Windows cannot serve remote commands; it can be a client")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
