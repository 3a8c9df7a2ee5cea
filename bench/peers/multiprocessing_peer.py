"""multiprocessing.connection: send_bytes and recv_bytes, which know no batches."""

import platform
from multiprocessing.connection import Client, Connection, Listener

import protocol


class Conn(protocol.OneByOne):
    def __init__(self, conn: Connection) -> None:
        self.send = conn.send_bytes
        self.recv = conn.recv_bytes
        self.recv_into = conn.recv_bytes_into
        self.close = conn.close


def serve(options: protocol.Options, announce: protocol.Announce) -> Conn:
    with Listener(protocol.target(options.address)) as listener:
        announce(listener.address)
        return Conn(listener.accept())


def connect(options: protocol.Options) -> Conn:
    return Conn(Client(protocol.target(options.address)))


VERSION = f"multiprocessing.connection, CPython {platform.python_version()}"

if __name__ == "__main__":
    protocol.main(VERSION, serve, connect)
