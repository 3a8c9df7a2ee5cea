"""One message, upper-cased, one reply, the end.

    python echo_upper.py                                  shows it
    python echo_upper.py --serve tcp://127.0.0.1:8000     serves until Ctrl-C

The framing is `Raw`: no header, a message is what one receive returns.  So a plain socket
can be the client.  For messages that must arrive whole take any other framing.
"""

import argparse
import socket

import pysock


class Upper(pysock.Session):
    """One exchange; the connection is closed when `handle` returns."""

    def handle(self) -> None:
        self.connection.send(self.connection.recv().upper())


def serve(address: str) -> None:
    with pysock.Server(address, Upper, framing=pysock.Raw()) as server:
        print(f"serving {server.address}, Ctrl-C ends it", flush=True)
        server.serve_forever()


def demonstrate() -> None:
    with pysock.Server("tcp://127.0.0.1:0", Upper, framing=pysock.Raw()).start() as server:
        with socket.create_connection(server.server_address) as sock:
            sock.sendall(b"hello from a plain socket")
            print("a plain socket gets  ", sock.recv(1024))
            print("and then the end     ", sock.recv(1024))

        with pysock.Client(server.address, pysock.Raw()) as client:
            print("a pysock client gets ", client.request(b"hello from pysock"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Upper-case one message.")
    parser.add_argument("--serve", metavar="ADDRESS", help="serve there until Ctrl-C")
    options = parser.parse_args()
    try:
        serve(options.serve) if options.serve else demonstrate()
    except KeyboardInterrupt:
        print("stopped")
