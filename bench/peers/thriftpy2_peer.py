"""thriftpy2: its framed transport in Cython over its socket, a frame for each message.

The transport alone, without the calls that thrift would make of the messages.  Its `read`
wants to know how many bytes, so that the works have to say what they wait for.
"""

import socket

import protocol
import thriftpy2
from thriftpy2.transport import TCyFramedTransport, TSocket, TTransportException


class Conn(protocol.OneByOne):
    def __init__(self, sock: socket.socket, size: int) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as its client does
        self._transport = TCyFramedTransport(TSocket(sock=sock))
        self._size = size
        self.close = self._transport.close

    def send(self, message: bytes) -> None:
        self._transport.write(message)
        self._transport.flush()

    def recv(self) -> bytes:
        try:
            message: bytes = self._transport.read(self._size)
        except TTransportException:
            raise EOFError from None
        return message

    def recv_into(self, buffer: bytearray) -> int:
        raise NotImplementedError("the transport brings its own memory")


def serve(options: protocol.Options, announce: protocol.Announce) -> Conn:
    return Conn(protocol.accept(options, announce), options.size)


def connect(options: protocol.Options) -> Conn:
    acknowledged = options.work.startswith("stream")
    return Conn(protocol.dial(options), len(b"ok") if acknowledged else options.size)


if __name__ == "__main__":
    protocol.main(f"thriftpy2 {thriftpy2.__version__}, TCyFramedTransport", serve, connect)
