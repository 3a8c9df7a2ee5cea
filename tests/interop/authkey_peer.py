"""A peer that is multiprocessing.connection, and has a key; any Python from 3.11 on runs it.

authkey_peer.py server PLACE KEY DIGEST           prints where, echoes on one connection
authkey_peer.py client PLACE KEY DIGEST SIZE ...  sends messages and wants them back

PLACE is a port, a path, "@" and a name, or "::1"; KEY is in hex; DIGEST is "", or what it asks
the other side for.  When the key is not accepted it prints the error.
"""

from __future__ import annotations

import functools
import sys
from multiprocessing import AuthenticationError, connection

from messages import messages


def address(where: str) -> tuple[str, int] | str:
    if where.startswith("@"):
        return "\0" + where[1:]
    return ("127.0.0.1", int(where)) if where.isdecimal() else where


def serve(where: str, key: bytes) -> None:
    here = (("::1", 0), "AF_INET6") if where == "::1" else (address(where), None)
    with connection.Listener(*here, authkey=key) as listener:
        print(where if isinstance(listener.address, str | bytes) else listener.address[1])
        sys.stdout.flush()
        with listener.accept() as peer:
            try:
                while True:
                    peer.send_bytes(peer.recv_bytes())
            except EOFError:
                print("served")


def call(where: str, key: bytes, *sizes: str) -> None:
    with connection.Client(address(where), authkey=key) as peer:
        for message in messages(map(int, sizes)):
            peer.send_bytes(message)
            assert peer.recv_bytes() == message
    print("called")


if __name__ == "__main__":
    role, where, key, digest, *sizes = sys.argv[1:]
    if digest:
        connection.deliver_challenge = functools.partial(
            connection.deliver_challenge, digest_name=digest
        )
    try:
        {"server": serve, "client": call}[role](where, bytes.fromhex(key), *sizes)
    except (AuthenticationError, EOFError) as exc:
        print(f"{type(exc).__name__}: {exc}")
