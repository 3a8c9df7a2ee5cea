"""A peer that is multiprocessing.connection, over TCP (a port) or a Unix socket (a path).

multiprocessing_peer.py server PORT_OR_PATH           prints where, echoes on one connection
multiprocessing_peer.py client PORT_OR_PATH SIZE ...  sends messages and wants them back
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Client, Listener

from messages import messages


def address(where: str) -> tuple[str, int] | str:
    return ("127.0.0.1", int(where)) if where.isdecimal() else where


def serve(where: str) -> None:
    with Listener(address(where)) as listener:
        place = listener.address
        print(place if isinstance(place, str) else place[1], flush=True)
        with listener.accept() as connection:
            try:
                while True:
                    connection.send_bytes(connection.recv_bytes())
            except EOFError:
                pass


def call(where: str, *sizes: str) -> None:
    wanted = messages(map(int, sizes))
    with Client(address(where)) as connection:
        for message in wanted:
            connection.send_bytes(message)
            assert connection.recv_bytes() == message
        for message in wanted:
            connection.send_bytes(message)
        assert [connection.recv_bytes() for _ in wanted] == wanted


if __name__ == "__main__":
    role, *args = sys.argv[1:]
    {"server": serve, "client": call}[role](*args)
