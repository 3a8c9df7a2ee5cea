"""pysock: `Connection` has the calls that the works make."""

import protocol

from pysock import Connection, LengthField, __version__


def serve(options: protocol.Options, announce: protocol.Announce) -> Connection:
    return Connection(protocol.accept(options, announce), LengthField(), spin=options.spin)


def connect(options: protocol.Options) -> Connection:
    return Connection(protocol.dial(options), LengthField(), spin=options.spin)


if __name__ == "__main__":
    protocol.main(f"pysock {__version__}", serve, connect)
