"""pynng, as its documentation has it: Req0 and Rep0 for the ping-pong, two Pair0 else.

nng's own threads share the core of its end.
"""

import protocol
import pynng

UNLIMITED = 0
BUFFERED = 1000  # messages, as pyzmq has it without being asked


class Conn(protocol.OneByOne):
    def __init__(self, sock: pynng.Socket) -> None:
        self.send, self.recv, self.close = sock.send, sock.recv, sock.close

    def recv_into(self, buffer: bytearray) -> int:
        raise NotImplementedError("nng brings its own memory")


def new_socket(options: protocol.Options, lockstep: type[pynng.Socket]) -> pynng.Socket:
    kind = lockstep if options.work == "pingpong" else pynng.Pair0
    if kind is not pynng.Pair0:
        return kind(recv_max_size=UNLIMITED)
    return kind(recv_max_size=UNLIMITED, send_buffer_size=BUFFERED, recv_buffer_size=BUFFERED)


def serve(options: protocol.Options, announce: protocol.Announce) -> Conn:
    sock = new_socket(options, pynng.Rep0)
    listener = sock.listen(options.address.replace("unix:", "ipc:"))
    at = protocol.target(options.address)
    announce(at if isinstance(at, str) else str(listener.local_address).rsplit(":", 1))
    return Conn(sock)


def connect(options: protocol.Options) -> Conn:
    sock = new_socket(options, pynng.Req0)
    sock.dial(options.address.replace("unix:", "ipc:"), block=True)
    return Conn(sock)


if __name__ == "__main__":
    protocol.main(f"pynng {pynng.__version__}", serve, connect)
