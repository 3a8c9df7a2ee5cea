"""What the Python peers for datagrams share: the works' names, and the lines spoken.

    PEER.py version
    PEER.py server WORK udp://127.0.0.1:0 | unixgram:///path COUNT SIZE SPIN WINDOW
    PEER.py client WORK ADDRESS COUNT SIZE SPIN WINDOW

The works; `dgram_c.c` has the same.  A peer writes each as one would for exactly it:

    batched: WINDOW datagrams are sent, and come back; then the next ones.
    stream: WINDOW datagrams are sent, and acknowledged with one; of two windows, which
        fit into the receiver's queue, the sender waits for the first.
    request: a datagram is sent, and comes back; then the next one.

There is no connection: a server hears of its client with the first datagram, and ends with
its standard input.  Nothing is sent again, so that a datagram lost ends a round.
"""

import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

import protocol

AHEAD = 2  # windows that may be under way in a stream
LIMIT = 10  # seconds for one round, which takes about 0.1


@dataclass(frozen=True)
class Options(protocol.Options):
    """One command line."""

    window: int


Conn = TypeVar("Conn")


def target(address: str) -> tuple[str, int] | str:
    """Return what `socket.connect` takes for *address*: (host, port), or a path."""
    scheme, rest = address.split("://")
    if scheme == "unixgram":
        return rest
    host, port = rest.rsplit(":", 1)
    return host, int(port)


def announce(at: Any) -> None:
    """Tell the runner where the server receives."""
    print(f"unixgram://{at}" if isinstance(at, str) else f"udp://{at[0]}:{at[1]}", flush=True)


def main(
    version: str,
    connect: Callable[[Options], Conn],
    clients: Mapping[str, Callable[[Conn, Options, bytes], None]],
    servers: Mapping[str, Callable[[Options], None]],
) -> None:
    """Be one end of a rival, as the command line says.

    Args:
        connect: makes the client's socket.
        clients: one round of each work.
        servers: the other end of each; it never returns.
    """
    if sys.argv[1] == "version":
        print(version)
        return
    role, work, address, count, size, spin, window = sys.argv[1:]
    options = Options(work, address, int(count), int(size), float(spin), int(window))
    if role == "server":
        protocol.end_with_the_runner()
        servers[work](options)
    conn = connect(options)
    message = b"x" * options.size
    # Not a timeout of the socket: Python would poll before each call, and C would not.
    signal.signal(signal.SIGALRM, _late)
    print("ready", flush=True)
    for _ in sys.stdin:
        signal.alarm(LIMIT)
        started = perf_counter()
        try:
            clients[work](conn, options, message)
        except TimeoutError:  # of a call that has a limit of its own
            _late()
        took = perf_counter() - started
        signal.alarm(0)
        print(took, flush=True)


def _late(*_: object) -> None:
    sys.exit("no answer in time: a datagram was lost, or the server hangs")
