"""pysock: `Connection` has the calls that the works make."""

import protocol

from pysock import Connection, LengthField, __version__

USUAL = 64 * 1024 * 1024  # the largest frame unless one says so


def framing(options: protocol.Options) -> LengthField:
    return LengthField(max_frame=options.size) if options.size > USUAL else LengthField()


def serve(options: protocol.Options, announce: protocol.Announce) -> Connection:
    return Connection(protocol.accept(options, announce), framing(options), spin=options.spin)


def connect(options: protocol.Options) -> Connection:
    return Connection(protocol.dial(options), framing(options), spin=options.spin)


if __name__ == "__main__":
    protocol.main(f"pysock {__version__}", serve, connect)
