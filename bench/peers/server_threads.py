"""socketserver: a thread for each connection, a buffered reader, one write for a reply."""

import platform
import socketserver
from struct import Struct

import protocol
import serving

HEADER = Struct("!I")


class Threading(socketserver.ThreadingTCPServer):
    request_queue_size = serving.BACKLOG
    daemon_threads = True


class ThreadingUnix(socketserver.ThreadingUnixStreamServer):
    request_queue_size = serving.BACKLOG
    daemon_threads = True


def serve(handler: serving.Handler, address: str) -> None:
    at = protocol.target(address)

    class Framed(socketserver.StreamRequestHandler):
        rbufsize = 64 * 1024
        disable_nagle_algorithm = not isinstance(at, str)

        def handle(self) -> None:
            read, write = self.rfile.read, self.wfile.write
            while header := read(HEADER.size):
                reply = handler(read(HEADER.unpack(header)[0]))
                write(HEADER.pack(len(reply)) + reply)

    with ThreadingUnix(at, Framed) if isinstance(at, str) else Threading(at, Framed) as server:
        protocol.announce(server.server_address)
        server.serve_forever()


if __name__ == "__main__":
    serving.main(f"ThreadingTCPServer, CPython {platform.python_version()}", serve)
