"""Twisted: its own receiver for frames with a 4-byte length, on its default reactor."""

from collections.abc import Sequence
from typing import Any

import callbacks
import protocol
import twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import ClientFactory, Factory
from twisted.protocols.basic import Int32StringReceiver

reactor: Any = default_reactor  # its type is that of the one for Windows


class Framed(Int32StringReceiver):
    MAX_LENGTH = 2**31 - 1
    end: callbacks.End

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        self.end.write, self.end.stop = self.write, transport.loseConnection
        self.end.connected()

    def connectionLost(self, reason: Any = None) -> None:
        if reactor.running:
            reactor.stop()

    def stringReceived(self, string: bytes) -> None:
        self.end.received((string,))

    def write(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            self.sendString(message)  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        self.end.pause()

    def resumeProducing(self) -> None:
        self.end.resume()

    def stopProducing(self) -> None:
        self.end.stop()


def listen(options: protocol.Options, end: callbacks.End) -> None:
    Framed.end = end
    at = protocol.target(options.address)
    if isinstance(at, str):
        reactor.listenUNIX(at, Factory.forProtocol(Framed))
        protocol.announce(at)
    else:
        port = reactor.listenTCP(at[1], Factory.forProtocol(Framed), interface=at[0])
        protocol.announce((port.getHost().host, port.getHost().port))
    reactor.run()


def connect(options: protocol.Options, end: callbacks.End) -> None:
    Framed.end = end
    to, factory = protocol.target(options.address), ClientFactory.forProtocol(Framed)
    if isinstance(to, str):
        reactor.connectUNIX(to, factory)
    else:
        reactor.connectTCP(*to, factory)
    reactor.run()


if __name__ == "__main__":
    callbacks.main(f"Twisted {twisted.__version__}, Int32StringReceiver", listen, connect)
