"""multiprocessing.connection with Nagle off, for which its users must go to the descriptor."""

import os
import socket
from multiprocessing.connection import Client, Connection, Listener

import protocol
from multiprocessing_peer import VERSION, Conn


def nodelay(conn: Connection) -> Connection:
    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return conn


def serve(options: protocol.Options, announce: protocol.Announce) -> Conn:
    with Listener(protocol.target(options.address)) as listener:
        announce(listener.address)
        return Conn(nodelay(listener.accept()))


def connect(options: protocol.Options) -> Conn:
    return Conn(nodelay(Client(protocol.target(options.address))))


if __name__ == "__main__":
    protocol.main(f"{VERSION}, TCP_NODELAY", serve, connect)
