"""What the servers in Python share: handlers, and what is said to the runner.

    SERVER.py [OPTION] version
    SERVER.py [OPTION] HANDLER tcp://127.0.0.1:0 | unix:///path

A server prints the address it got, serves 4-byte big-endian length-prefixed messages
and ends with its standard input.  `server_c.c` does the same.
"""

import resource
import socket
import sys
import time
from collections.abc import Callable

import protocol

BACKLOG = 512  # the same for all: connections come in bursts

Handler = Callable[[bytes], bytes]
Serve = Callable[[Handler, str], None]


def echo(message: bytes) -> bytes:
    return message


def sleep(message: bytes) -> bytes:
    time.sleep(0.1)
    return message


def compute(message: bytes) -> bytes:
    sum(range(1000))  # some ten microseconds with the GIL
    return message


HANDLERS: dict[str, Handler] = {"echo": echo, "sleep": sleep, "compute": compute}


def main(version: str, serve: Serve) -> None:
    """Print the version, or serve until standard input ends."""
    if sys.argv[-1] == "version":
        print(version)
        return
    handler, address = sys.argv[-2:]
    protocol.end_with_the_runner()
    raise_limit()
    serve(HANDLERS[handler], address)


def raise_limit() -> None:
    """Allow as many descriptors as the system lets this process have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def with_free_port(address: str) -> str:
    """Return *address* with a port that was free just now in place of 0."""
    at = protocol.target(address)
    if isinstance(at, str):
        return address
    with socket.socket() as sock:
        sock.bind(at)
        return f"tcp://{at[0]}:{sock.getsockname()[1]}"
