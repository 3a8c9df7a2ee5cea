"""The same model with a server at one end, which parks its connection whenever it is idle.

The server has a thread of its own.  It is waited for by asking it something over another
connection, to another address: what had come before that has been dealt with then.
"""

from __future__ import annotations

import select
import socket
import tempfile
import time
from typing import Any

from hypothesis.stateful import invariant

import pysock
from held import Network, connected
from model import VERSIONS, Ends
from model_ends import LONG, PATIENT, End
from pysock.framing import Format
from tls_ends import contexts, shaken
from wires import Sent, message_for

LARGE = 150_000  # more than what its system takes at once


class ServersEnd:
    """The server's end of the connection, as far as an `End` asks for its peer."""

    name = "b"
    torn = closed = False
    cleanly = None  # it may say goodbye, or be cut off by its stop()

    def __init__(self, framing: Format, network: Network) -> None:
        self._framing, self._network = framing, network
        self.sent = Sent(framing, network.ways["b"])
        self.heard: list[bytes] = []
        self._replies: list[bytes] = []

    def handle(self, message: bytes, connection: pysock.Connection) -> Any:
        """Answer in one of the ways there are; in the server's thread."""
        number = len(self.heard)
        self.heard.append(message)
        count = (1, 1, 3, 2)[number % 4]
        size = LARGE if number % 5 == 4 else 100
        replies = [self._reply(size) for _ in range(count)]
        if count == 1:
            return replies[0]
        if count == 2 and self._fits(connection, size):
            connection.send(replies[0])
            return replies[1]
        return iter(replies)

    def _fits(self, connection: pysock.Connection, size: int) -> bool:
        """Whether a send does not wait: only one thread serves, and nobody else would."""
        return (
            size < LARGE
            and connection.unsent == 0
            and bool(select.select([], [connection], [], 0)[1])
        )

    def _reply(self, size: int) -> bytes:
        reply = message_for(self._framing, len(self._replies), size)
        self._replies.append(reply)
        return reply

    def note(self) -> None:
        """Take note of what it has answered."""
        for reply in self._replies[len(self.sent.messages) :]:
            self.sent.add(reply)

    def answer(self, _: int) -> None:
        self._network.pump()


class Served(Ends):
    """A connection to a server; *kind* is what it goes over."""

    def _join(self, framing: Format) -> None:
        version = VERSIONS.get(self.kind)
        client, context = contexts(version) if version else (None, None)
        folder = self._over.enter_context(tempfile.TemporaryDirectory())
        where = {"unix": f"{folder}/s", "tcp6": "[::1]:0"}.get(self.kind, "127.0.0.1:0")
        self._side_door = f"{folder}/w"
        self.server = pysock.Server(
            [where, self._side_door], self._handle, framing=framing, tls=context, workers=0
        )
        self._over.callback(self.server.server_close)
        self._over.callback(self.server.stop, 0)
        self.server.start()
        name = "localhost" if client else None
        self._witness = self._over.enter_context(
            pysock.Client(
                self._side_door, framing, tls=client, server_hostname=name, timeout=LONG
            )
        )
        self._question = message_for(framing, 0, 10)
        base = "unix" if self.kind == "unix" else "tcp6" if self.kind == "tcp6" else "tcp4"
        sock, near = connected(base)
        to_server = socket.socket(near.family)
        for each in (sock, near, to_server):
            self._over.callback(each.close)
        to_server.connect(self.server.server_address)
        to_server.setblocking(False)
        self.network = Network({"a": sock, "b": None}, {"a": near, "b": to_server})
        tls = shaken(client, sock, self.network.pump) if client else None
        self.served = ServersEnd(framing, self.network)
        self.network.noted = self.served.note
        end = End("a", sock, framing, self.network, tls)
        end.peer = self.served  # type: ignore[assignment]
        if tls is not None:
            self.served.sent.encrypted_by(tls.object)
        self._over.callback(end.drop)
        self.ends = {"a": end}

    def _handle(self, message: bytes, connection: pysock.Connection) -> Any:
        if connection.getsockname() == self._side_door:
            return message
        return self.served.handle(message, connection)

    def _open(self, name: str) -> End | None:
        return super()._open("a")

    def _sending(self, name: str) -> End | None:
        return super()._sending("a")

    def _may_ask(self, name: str) -> bool:
        return super()._may_ask("a")

    # ------------------------------------------------------------ the server's side

    def _look(self) -> None:
        """Have the server deal with what has come, and take what it has answered."""
        idle, limit = 0, time.monotonic() + LONG
        while idle < 2 or self._lags():
            assert time.monotonic() < limit, "it is not answered"
            heard = len(self.served.heard)
            assert self._witness.request(self._question) == self._question
            idle = 0 if self._moves() or heard != len(self.served.heard) else idle + 1
        sent = self.ends["a"].sent
        assert self.served.heard == sent.messages[: len(self.served.heard)]

    def _lags(self) -> bool:
        """Whether the server has still to do what it must: its system may need a moment."""
        sent = self.ends["a"].sent
        if not self.ends["a"].keeps_word or self.network.torn or self.network.shown[0]:
            return False
        return len(self.served.heard) < sent.whole or not self.served.sent.has_left

    def _moves(self) -> bool:
        before = len(self.network.ways["b"].taken)
        self.network.take()
        return len(self.network.ways["b"].taken) > before

    @invariant()
    def nothing_else_is_on_the_wire(self) -> None:
        if self.ends:
            self._look()
            super().nothing_else_is_on_the_wire()
            self.served.sent.check()

    def _finish(self) -> None:
        end = self.ends["a"]
        end.finish_sending()
        before: object = None
        limit = time.monotonic() + PATIENT
        while before != (now := (*end.progress, *self.network.moved)) or (
            self.network.under_way and time.monotonic() < limit
        ):
            before = now
            self.network.pump()
            self._look()
            if not end.closed:
                end.receive_next()
        if end.keeps_word and not self.network.torn:
            heard = f"{len(self.served.heard)} were heard: {end}"
            assert self.served.heard == end.sent.messages, heard
            came = f"{end.got} of {len(self.served.sent.messages)} replies came"
            assert end.closed or end.got == len(self.served.sent.messages), came
