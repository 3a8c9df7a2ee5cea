"""Twisted: its own receiver for frames with a 4-byte length, on its default reactor."""

from typing import Any

import protocol
import serving
import twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import Factory
from twisted.protocols.basic import Int32StringReceiver

reactor: Any = default_reactor  # its type is that of the one for Windows


def serve(handler: serving.Handler, address: str) -> None:
    class Framed(Int32StringReceiver):
        def stringReceived(self, string: bytes) -> None:
            self.sendString(handler(string))  # type: ignore[no-untyped-call]

    class FramedTcp(Framed):
        def connectionMade(self) -> None:
            transport: Any = self.transport
            transport.setTcpNoDelay(True)

    at = protocol.target(address)
    if isinstance(at, str):
        reactor.listenUNIX(at, Factory.forProtocol(Framed), backlog=serving.BACKLOG)
        protocol.announce(at)
    else:
        host, number = at
        factory = Factory.forProtocol(FramedTcp)
        port = reactor.listenTCP(number, factory, backlog=serving.BACKLOG, interface=host)
        protocol.announce((port.getHost().host, port.getHost().port))
    reactor.run()


if __name__ == "__main__":
    serving.main(f"Twisted {twisted.__version__}, Int32StringReceiver", serve)
