"""pyzmq, as its guide has it: REQ and REP for the ping-pong, two DEALERs for the rest.

Without copying from 64 KiB on.  libzmq's own I/O thread shares the core of its end.
"""

import protocol
import zmq

ZERO_COPY = 64 * 1024


class Conn(protocol.OneByOne):
    def __init__(self, sock: "zmq.Socket[bytes]", options: protocol.Options) -> None:
        self.send = sock.send
        self.recv = sock.recv
        if options.size >= ZERO_COPY:
            self.send = lambda message: sock.send(message, copy=False)
            self.recv = lambda: sock.recv(copy=False)
        self.close = lambda: sock.close(linger=0)

    def recv_into(self, buffer: bytearray) -> int:
        raise NotImplementedError("libzmq brings its own memory")


def new_socket(options: protocol.Options, lockstep: int) -> "zmq.Socket[bytes]":
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    return context.socket(lockstep if options.work == "pingpong" else zmq.DEALER)


def serve(options: protocol.Options, announce: protocol.Announce) -> Conn:
    sock = new_socket(options, zmq.REP)
    sock.bind(options.address.replace("unix:", "ipc:"))
    endpoint = sock.get_string(zmq.LAST_ENDPOINT).split("://")[1]
    announce(protocol.target(f"{options.address.split('://')[0]}://{endpoint}"))
    return Conn(sock, options)


def connect(options: protocol.Options) -> Conn:
    sock = new_socket(options, zmq.REQ)
    sock.connect(options.address.replace("unix:", "ipc:"))
    return Conn(sock, options)


if __name__ == "__main__":
    protocol.main(f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}", serve, connect)
