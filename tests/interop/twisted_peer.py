"""A peer made of Twisted's receivers of strings and lines.

twisted_peer.py server KIND                prints its port, echoes on one connection
twisted_peer.py client KIND PORT SIZE ...  sends messages at once, wants all of them back
"""

from __future__ import annotations

import sys
from typing import Any

from messages import MIB, messages
from twisted.internet import reactor
from twisted.internet.protocol import ClientFactory
from twisted.protocols import basic

RECEIVERS: dict[str, Any] = {
    "int8": basic.Int8StringReceiver,
    "int16": basic.Int16StringReceiver,
    "int32": basic.Int32StringReceiver,
    "netstring": basic.NetstringReceiver,
    "line": basic.LineReceiver,
}


def factory(kind: str, begin: Any, received: Any) -> ClientFactory:
    """Return a factory of one-time connections: the first to end ends the program."""

    class Peer(RECEIVERS[kind]):
        MAX_LENGTH = MIB

        def connectionMade(self):
            begin(self)

        def stringReceived(self, message):
            received(self, message)

        def connectionLost(self, reason):
            reactor.stop()

        lineReceived = stringReceived
        reply = basic.LineReceiver.sendLine if kind == "line" else RECEIVERS[kind].sendString

    return ClientFactory.forProtocol(Peer)


def serve(kind: str) -> None:
    echo = factory(kind, lambda peer: None, lambda peer, message: peer.reply(message))
    port = reactor.listenTCP(0, echo, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


def call(kind: str, port: str, *sizes: str) -> None:
    wanted = messages(map(int, sizes))
    replies = []

    def begin(peer: Any) -> None:
        for message in wanted:
            peer.reply(message)

    def received(peer: Any, message: bytes) -> None:
        replies.append(message)
        if len(replies) == len(wanted):
            peer.transport.loseConnection()

    reactor.connectTCP("127.0.0.1", int(port), factory(kind, begin, received))
    reactor.run()
    assert replies == wanted, [len(reply) for reply in replies]


if __name__ == "__main__":
    role, *args = sys.argv[1:]
    {"server": serve, "client": call}[role](*args)
