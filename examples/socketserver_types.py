"""The servers of the standard library's socketserver, with a handler of pysock.

    python socketserver_types.py

One handler class does for all four.  A TCPServer or UnixStreamServer gives it whole messages,
however the network cut them; in a UDPServer or UnixDatagramServer a datagram is a message.
"""

import contextlib
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pysock
from pysock import interop


class Upper(interop.MessageRequestHandler):
    timeout = 10  # seconds for each message; without this line it is 60

    def handle(self) -> None:
        for message in self.messages:
            self.send(message.upper())


class UDPServer(interop.WholeDatagrams, socketserver.UDPServer):
    """Without the first class it would cut datagrams at 8192 bytes, and not say so."""


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[Any]:
    """Serve beside the block, which gets the address."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            thread.join()


def tell(server: socketserver.BaseServer, *replies: object) -> None:
    print(f"{type(server).__name__:20}", *replies)


def talk(server: socketserver.BaseServer) -> None:
    with serving(server) as address, pysock.Client(address, timeout=10) as client:
        client.send(b"stuck")
        client.send(b"together")
        tell(server, client.recv(), client.recv())


def talk_in_datagrams(server: socketserver.UDPServer, own_address: Any) -> None:
    sock = socket.socket(server.address_family, socket.SOCK_DGRAM)
    with serving(server) as address, sock:
        sock.bind(own_address)  # a Unix socket without an address cannot be answered
        sock.settimeout(10)
        sock.sendto(b"hello", address)
        first = sock.recv(65536)
        sock.sendto(b"x" * 20_000, address)
        tell(server, first, "and", len(sock.recv(65536)), "bytes")


def talk_to_two(server: socketserver.BaseServer) -> None:
    with (
        serving(server) as address,
        pysock.Client(address, timeout=10) as first,
        pysock.Client(address, timeout=10) as second,
    ):
        tell(server, second.request(b"second"), first.request(b"first"))


def demonstrate() -> None:
    here = ("127.0.0.1", 0)
    talk(socketserver.TCPServer(here, Upper))
    talk_to_two(socketserver.ThreadingTCPServer(here, Upper))
    talk_in_datagrams(UDPServer(here, Upper), here)
    if not hasattr(socket, "AF_UNIX"):
        return
    with tempfile.TemporaryDirectory() as folder:
        talk(socketserver.UnixStreamServer(f"{folder}/stream", Upper))

        class UnixDatagramServer(socketserver.UnixDatagramServer):
            max_packet_size = 65536  # or the class above, for the largest of all

        server = UnixDatagramServer(f"{folder}/datagrams", Upper)
        talk_in_datagrams(server, f"{folder}/client")


if __name__ == "__main__":
    demonstrate()
