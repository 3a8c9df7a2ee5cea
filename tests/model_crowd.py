"""A model of a server with several clients, who ask, go away, are killed; and of its stop.

Each client is answered what it has asked, in order and once, whatever becomes of the others;
what had come when the server is stopped is answered too.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
import threading

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import pysock
from model_ends import BROKEN, LONG
from peers import until
from wires import NOISE

MOST = 6
whos = st.integers(0, MOST - 1)
sizes = st.sampled_from([0, 1, 100, 4096, 30_000])
counts = st.sampled_from([0, 1, 2, 20])


class Asker:
    """One client, and what it has asked."""

    def __init__(self, address: pysock.address.Address) -> None:
        self.client = pysock.Client(address, timeout=LONG, linger=0.0)
        self.asked: list[bytes] = []
        self.got = 0

    def messages(self, count: int, size: int) -> list[bytes]:
        first = len(self.asked)
        return [b"%d " % number + NOISE[:size] for number in range(first, first + count)]

    def receive(self, count: int) -> None:
        for _ in range(count):
            assert self.client.recv() == b"re:" + self.asked[self.got]
            self.got += 1

    @property
    def waiting(self) -> int:
        return len(self.asked) - self.got


class Crowd(RuleBasedStateMachine):
    """A server over *kind*, and its clients."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind
        self._over = contextlib.ExitStack()
        self.askers: list[Asker] = []

    @initialize(workers=st.sampled_from([0, 0, 2]))
    def serve(self, workers: int) -> None:
        folder = self._over.enter_context(tempfile.TemporaryDirectory())
        where = f"{folder}/s" if self._kind == "unix" else "127.0.0.1:0"
        self.server = pysock.Server(where, lambda message: b"re:" + message, workers=workers)
        self._over.callback(self.server.server_close)
        self._over.callback(self.server.stop, 0)
        self.server.start()
        self.stopped = False

    def _one(self, who: int) -> Asker | None:
        return self.askers[who % len(self.askers)] if self.askers else None

    @rule()
    def connect(self) -> None:
        if not self.stopped and len(self.askers) < MOST:
            self.askers.append(Asker(self.server.address))
            self._over.callback(self.askers[-1].client.close)

    @rule(who=whos, count=counts, size=sizes)
    def ask(self, who: int, count: int, size: int) -> None:
        if (asker := self._one(who)) and not self.stopped and not asker.waiting:
            messages = asker.messages(count, size)
            replies = asker.client.request_many(messages)
            assert replies == [b"re:" + message for message in messages]
            asker.asked += messages
            asker.got += count

    @rule(who=whos, count=counts, size=sizes)
    def ask_ahead(self, who: int, count: int, size: int) -> None:
        if (asker := self._one(who)) and not self.stopped and asker.waiting < 40:
            messages = asker.messages(count, min(size, 4096))
            assert asker.client.send_many(messages) == count
            asker.asked += messages

    @rule(who=whos, count=counts)
    def receive(self, who: int, count: int) -> None:
        if asker := self._one(who):
            asker.receive(min(count, asker.waiting))

    @rule(who=whos, kill=st.booleans())
    def go(self, who: int, kill: bool) -> None:
        if asker := self._one(who):
            self.askers.remove(asker)
            if kill and self._kind != "unix":
                linger = struct.pack("ii", 1, 0)
                asker.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            asker.client.close()

    @rule(rarely=st.integers(0, 5))
    def stop(self, rarely: int) -> None:
        if rarely == 0 and not self.stopped:
            self.stopped = True
            stopping = threading.Thread(target=self.server.stop, args=[LONG])
            stopping.start()
            for asker in self.askers:
                asker.receive(asker.waiting)
            stopping.join(LONG)
            assert not stopping.is_alive(), "stop() does not return"

    @invariant()
    def who_is_there_is_counted(self) -> None:
        if hasattr(self, "server"):
            there = 0 if self.stopped else len(self.askers)
            until(lambda: self.server.stats["connections"] == there)

    def teardown(self) -> None:
        with self._over:
            for asker in self.askers:
                asker.receive(asker.waiting)
                if self.stopped:
                    with contextlib.suppress(pysock.ConnectionClosed, *BROKEN):
                        asker.client.recv()
                        raise AssertionError("something came that was not asked for")
