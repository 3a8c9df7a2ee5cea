"""Pure Python as it is mostly written: a buffered reader, one sendall for each message."""

import protocol
import python_peer


class Conn(python_peer.Conn):
    send_many = protocol.OneByOne.send_many


def serve(options: protocol.Options, announce: protocol.Announce) -> Conn:
    return Conn(protocol.accept(options, announce))


def connect(options: protocol.Options) -> Conn:
    return Conn(protocol.dial(options))


if __name__ == "__main__":
    protocol.main(python_peer.VERSION, serve, connect)
