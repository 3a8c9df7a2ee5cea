"""pysock over TLS: `Client` and `Server` as they come."""

import queue
from typing import Any

import protocol
import ssl_peer

from pysock import Client, Server, Session, __version__


class Hand(Session):
    """Gives its connection to the thread that does the work, until that is done."""

    connections: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def handle(self) -> None:
        self.connections.put(self.connection)
        self.done.get()


def echo(message: bytes) -> bytes:
    return message


def serve(options: protocol.Options, announce: protocol.Announce) -> Any:
    handler = echo if options.work == "handshakes" else Hand
    server = Server(options.address, handler, tls=ssl_peer.server_context())
    announce(server.server_address)
    if options.work == "handshakes":
        return server
    server.start()
    return Hand.connections.get()


def connect(options: protocol.Options) -> Any:
    if options.work == "handshakes":
        return ssl_peer.connect(options)
    address = options.address.replace("tcp://", "tls://")
    return Client(address, tls=ssl_peer.client_context())


if __name__ == "__main__":
    protocol.main(f"pysock {__version__}", serve, connect)
