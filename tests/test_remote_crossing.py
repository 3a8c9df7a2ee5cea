"""Messages that cross on their way: whatever does, neither side loses its place."""

from __future__ import annotations

import random
from collections import deque

import pytest

from conversations import (
    ANNOUNCED,
    DATA,
    DONE,
    ERR,
    GET_FILE,
    GET_FROM,
    LISTING,
    MET,
    OUT,
    PUT_FILE,
    PUT_FOLDER,
    PUT_FROM,
    REFUSED,
    both,
)
from pysock.remote.conversation import State
from pysock.remote.protocol import WINDOW, Exec, Exit, Kind, credit, eof, resize

TRANSFERS = [PUT_FILE, PUT_FOLDER, GET_FILE, LISTING]
CAT, LS = Exec((b"cat",), stdin=True), Exec((b"ls",), merge=True)
SHELL = Exec((b"sh",), stdin=True, pty=(24, 80))
COMMANDS = {one.encode(): one for one in (CAT, LS, SHELL)}
EXIT = Exit(0).encode()


class Dialogue:
    """A client and a server with messages under way, each saying what it may at that time.

    What they know of the exchange is what their programs know; the message that a side sends
    is one of those that are sensible then.

    Args:
        choose: picks one of some.
    """

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.client, self.server = both(*MET)
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.asked = b""  # by the client, until the server's answer has come
        self.said: set[bytes] = set()  # by the client since then
        self.offered = False  # to the client: the server's offset or entry has come
        self.serving = b""  # by the server, until it has answered
        self.heard: set[bytes] = set()  # by the server since then
        self.told: set[bytes] = set()  # by the server since then

    def client_may(self) -> list[bytes]:
        """What the client can say: requests if nothing runs, else what belongs to it."""
        if not self.asked:
            return [*TRANSFERS, *COMMANDS, Kind.PING(b"x")]
        if self.asked in COMMANDS:
            command = COMMANDS[self.asked]
            some = [Kind.SIGNAL(b"INT")]
            if command.pty:
                some.append(resize(1, 1))
            if command.stdin and eof(0) not in self.said:
                some += [eof(0), Kind.STDIN(bytes(self.client.window // 2)), Kind.STDIN()]
            return some
        if REFUSED in self.said:
            return []
        if self.offered and self.asked == GET_FILE and GET_FROM not in self.said:
            return [GET_FROM, GET_FROM, REFUSED]
        if self.offered and self.asked == PUT_FILE and DONE not in self.said:
            return [DATA, DONE, REFUSED]
        return [REFUSED]

    def server_may(self) -> list[bytes]:
        """What the server can say of what it was asked for."""
        if not self.serving:
            return []
        if self.serving in COMMANDS:
            return [REFUSED, *self.command_may(COMMANDS[self.serving])]
        if self.serving == PUT_FOLDER:
            return [DONE, REFUSED]
        if self.serving == LISTING or GET_FROM in self.heard:
            return [DATA, DONE, REFUSED]
        offer = PUT_FROM if self.serving == PUT_FILE else ANNOUNCED
        if offer not in self.told:
            return [offer, offer, REFUSED]
        return [DONE, REFUSED] if DONE in self.heard else [REFUSED]

    def command_may(self, command: Exec) -> list[bytes]:
        if not self.server.started:
            return [credit(WINDOW if command.stdin else 0)] * 3
        if {eof(1), eof(2)} <= self.told:
            return [EXIT, EXIT]
        some = [eof(stream) for stream in (0, 1, 2) if eof(stream) not in self.told]
        if eof(1) not in self.told:
            some.append(OUT)
        if eof(2) not in self.told and not (command.merge or command.pty):
            some.append(ERR)
        if self.server.window < WINDOW:
            some.append(credit(WINDOW - self.server.window))
        return some

    def step(self) -> None:
        """Let one side say something, or one message arrive."""
        steps = [self.client_says_something] if self.client_may() else []
        steps += [self.server_says_something] if self.server_may() else []
        steps += [self.server_gets_a_message] if self.up else []
        steps += [self.client_gets_a_message] if self.down else []
        self.choose.choice(steps)()

    def client_says_something(self) -> None:
        message = self.choose.choice(self.client_may())
        self.up.append(self.client.sent(message))
        self.said.add(message)
        if not self.asked and message[0] != Kind.PING:
            self.asked, self.said, self.offered = message, set(), False

    def server_says_something(self) -> None:
        self.answer(self.choose.choice(self.server_may()))

    def answer(self, message: bytes) -> None:
        self.down.append(self.server.sent(message))
        self.told.add(message)
        if message in (EXIT, DONE, REFUSED):
            self.serving = b""

    def server_gets_a_message(self) -> None:
        message = self.up.popleft()
        before = self.server.state
        kind, body = self.server.received(message)
        self.heard.add(message)
        if kind is Kind.PING:
            self.answer(Kind.PONG(body))
        elif before is State.READY and self.server.state is not State.READY:
            self.serving, self.heard, self.told = message, set(), set()
        elif before is not State.READY and kind is Kind.ERROR:
            self.answer(REFUSED)

    def client_gets_a_message(self) -> None:
        kind, _ = self.client.received(self.down.popleft())
        if kind in (Kind.EXIT, Kind.ERROR, Kind.DONE):
            self.asked = b""
        self.offered |= kind in (Kind.PUT, Kind.GET)

    def wait(self) -> None:
        """Let all messages arrive."""
        while self.up or self.down:
            while self.up:
                self.server_gets_a_message()
            while self.down:
                self.client_gets_a_message()


@pytest.mark.parametrize("seed", range(20))
def test_sides_stay_in_step_whatever_crosses(seed):
    dialogue = Dialogue(random.Random(seed))
    seen = set()
    for _ in range(40):
        for _ in range(20):
            dialogue.step()
            seen.add((dialogue.client.state, dialogue.server.state))
        dialogue.wait()
        assert dialogue.client.state is dialogue.server.state
        assert dialogue.asked == dialogue.serving
        if dialogue.client.state is State.RUNNING:
            assert dialogue.client.window == dialogue.server.window
    # The client does not know of an end that is on its way; the server is never behind.
    for state in (State.RUNNING, State.PUTTING, State.GETTING):
        assert {(state, State.READY), (state, state)} <= seen
        assert (State.READY, state) not in seen
