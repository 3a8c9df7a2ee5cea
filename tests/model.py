"""A model of two endpoints: what was delivered is a prefix of what was sent, both ways.

hypothesis draws what the ends and the network between them do.  There is no other thread:
where a call has to wait, a signal's handler is what the rest of the world does meanwhile.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

import pysock
from alarms import interrupted, meanwhile
from held import EVERYTHING, Network, connected, other
from model_ends import LONG, RECEIVING, SHORT, End, settle
from pysock.framing import Delimiter, Format
from tls_ends import over_network
from wires import FORMATS, SIZES

names = st.sampled_from("ab")
sizes = st.sampled_from(SIZES)
counts = st.sampled_from([1, 2, 3, 4, 5, 9, 100, 1000, 4096, 16_400, EVERYTHING, EVERYTHING])
patience = st.sampled_from([0, SHORT])


WAITING = ["recv", "many", "into", "view", "file"]
VERSIONS = {"tls": ssl.TLSVersion.TLSv1_3, "tls12": ssl.TLSVersion.TLSv1_2}


class Ends(RuleBasedStateMachine):
    """Two connections; *kind* is what they go over."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.ends: dict[str, End] = {}
        self._over = contextlib.ExitStack()

    @initialize(
        framing=st.sampled_from(FORMATS + 3 * FORMATS[:1]),
        calm=st.sampled_from([0, 5, 10, 20, 40]),
        hasty=st.booleans(),
    )
    def connect(self, framing: Format, calm: int, hasty: bool) -> None:
        self.calm = calm  # steps before the first end
        self.hasty = hasty  # at the end close() is to send what is unsent
        self._join(framing)

    def _join(self, framing: Format) -> None:
        base = "tcp4" if self.kind in VERSIONS else self.kind
        socks, near = {}, {}
        for name in "ab":
            socks[name], near[name] = connected(base)
            self._over.callback(socks[name].close)
            self._over.callback(near[name].close)
        self.network = Network(socks, near)
        tls: dict[str, Any] = {"a": None, "b": None}
        if self.kind in VERSIONS:
            tls = over_network(VERSIONS[self.kind], socks, self.network.pump)
        for name in "ab":
            self.ends[name] = End(name, socks[name], framing, self.network, tls[name])
            self._over.callback(self.ends[name].drop)
        for name in "ab":
            self.ends[name].peer = self.ends[other(name)]

    def _open(self, name: str) -> End | None:
        return None if self.ends[name].closed else self.ends[name]

    def _sending(self, name: str) -> End | None:
        end = self.ends[name]
        return None if end.closed or end.shut else end

    # ------------------------------------------------------------ messages

    @rule(name=names, size=sizes, parts=st.booleans(), seconds=patience)
    def send(self, name: str, size: int, parts: bool, seconds: float) -> None:
        if end := self._sending(name):
            message = end.message(size)
            cut = len(message) // 3
            given = (message[:cut], message[cut:]) if parts else (message,)
            end.send([message], lambda: end.conn.send(*given), seconds)

    @rule(name=names, several=st.lists(sizes, max_size=5), seconds=patience)
    def send_many(self, name: str, several: list[int], seconds: float) -> None:
        if end := self._sending(name):
            messages = [end.message(size + i) for i, size in enumerate(several)]
            end.send(messages, lambda: end.conn.send_many(messages), seconds)

    @rule(name=names, size=sizes, seconds=patience)
    def send_file(self, name: str, size: int, seconds: float) -> None:
        end = self._sending(name)
        if end and not isinstance(end.framing, Delimiter):
            end.send_file(end.message(size), seconds)

    @rule(name=names, seconds=patience)
    def flush(self, name: str, seconds: float) -> None:
        if end := self._sending(name):
            end.flush(seconds)

    @rule(name=names, size=sizes)
    def send_while_it_is_taken(self, name: str, size: int) -> None:
        end = self._sending(name)
        if end and end.can_send and end.giving is None:
            message = end.message(size)
            with meanwhile(self.network.take):
                assert end.send([message], lambda: end.conn.send(message), LONG)

    @rule(name=names, how=st.sampled_from(sorted(RECEIVING)), seconds=patience)
    def receive(self, name: str, how: str, seconds: float) -> None:
        if end := self._open(name):
            end.receive(how, seconds)

    @rule(name=names, size=sizes, seconds=patience)
    def request(self, name: str, size: int, seconds: float) -> None:
        if end := self._sending(name):
            end.request(end.message(size), seconds)

    @rule(name=names, size=sizes)
    def request_that_is_answered(self, name: str, size: int) -> None:
        if self._may_ask(name):
            end = self._sending(name)
            assert end is not None
            end.request(end.message(size), LONG, answered=True)

    def _may_ask(self, name: str) -> bool:
        return all(
            end.can_send and not end.giving and not end.taking and not end.ended
            for end in self.ends.values()
        )

    # ------------------------------------------------------------ the network

    @rule(name=names, count=counts)
    def deliver(self, name: str, count: int) -> None:
        self.network.take()
        self.network.give(name, count)

    @rule()
    def deliver_all(self) -> None:
        self.network.pump()

    @rule()
    def wait(self) -> None:
        open_ends = [end for end in self.ends.values() if not end.closed and not end.taking]
        ready = pysock.wait([end.conn for end in open_ends], 0)
        for end in open_ends:
            is_ready = end.conn in ready
            assert is_ready or not end.must_be_ready(waits=False)
            assert not is_ready or end.has_more or end.ended

    # ------------------------------------------------------------ signals, other owners

    @rule(name=names, size=sizes, deed=st.sampled_from(["send", "flush", "request"]))
    def be_interrupted_sending(self, name: str, size: int, deed: str) -> None:
        end = self._sending(name)
        if end is None:
            return
        message = end.message(size)
        if deed == "send":
            end.send([message], lambda: interrupted(lambda: end.conn.send(message)), LONG)
        elif deed == "flush":
            end.send([], lambda: interrupted(end.conn.flush), LONG)
        else:
            end.request(message, LONG, alarm=True)

    @rule(name=names, how=st.sampled_from(WAITING), count=counts)
    def be_interrupted_receiving(self, name: str, how: str, count: int) -> None:
        end = self._open(name)
        if end and not end.has_more and not end.ended:
            give = self.network.give
            end.receive_until_interrupted(how, lambda: give(other(name), count))

    @rule(name=names)
    def detach(self, name: str) -> None:
        end = self._open(name)
        if end and end.tls is None and not end.torn:  # a reset is told once
            end.pass_on()

    # ------------------------------------------------------------ ends

    def _may_end(self) -> bool:
        self.calm -= 1
        return self.calm < 0

    @rule(name=names, seconds=patience)
    def half_close(self, name: str, seconds: float) -> None:
        end = self._sending(name)
        if end and self._may_end():
            end.half_close(seconds)

    @rule(name=names, gently=st.booleans())
    def close(self, name: str, gently: bool) -> None:
        end = self._open(name)
        if end and self._may_end():
            end.close(gently)

    @rule(suddenly=st.booleans(), count=counts)
    def break_off(self, suddenly: bool, count: int) -> None:
        if self._may_end():
            self.deliver("a", count)
            self.deliver("b", count)
            if suddenly:
                self.network.reset()
            else:
                self.network.cut()

    @invariant()
    def nothing_else_is_on_the_wire(self) -> None:
        for end in self.ends.values():
            self.network.take()
            end.sent.check()

    # ------------------------------------------------------------ all of it, or an error

    def teardown(self) -> None:
        with self._over:
            if self.ends and sys.exception() is None:
                self._finish()

    def _finish(self) -> None:
        both = list(self.ends.values())
        if self.hasty and both[0].can_send and both[0].giving is None:
            both[0].close(gently=True)
        for end in both:
            end.finish_sending()
        settle(*both)
        for end in both:
            if end.keeps_word and not end.peer.closed and not end.peer.torn:
                assert end.peer.got == len(end.sent.messages), "it is lost, and nobody said so"
        for end in both:
            if end.ended:
                end.meet_end()
            if not end.closed:
                end.close(gently=True)
            end.peer.meet_end()
