"""Which message may come when: both sides are always of one mind about it."""

from __future__ import annotations

from fuzz import remotes_said
from fuzz.source import Source
from pysock.errors import FramingError
from pysock.remote.conversation import Conversation, State
from pysock.remote.protocol import KINDS, WINDOW, Kind

MAY_ASK = {Kind.EXEC: State.RUNNING, Kind.PUT: State.PUTTING, Kind.GET: State.GETTING}


def target(data: bytes) -> None:
    source = Source(data)
    client, server = Conversation(server=False), Conversation(server=True)
    while source.left:
        of_server = source.flag()
        message = remotes_said.message(source)
        sender, receiver = (server, client) if of_server else (client, server)
        before = client.state
        heard = hear(receiver, message)
        if message[:1] and message[0] in KINDS:
            assert said(sender, message) is heard
        else:
            assert not heard
        if not heard:
            return
        assert client.state is server.state and client.window == server.window
        assert 0 <= client.window <= WINDOW and client.wants_input == server.wants_input
        assert before is not State.OVER
        if client.state is not before:
            look_at_step(before, client, KINDS[message[0]], of_server)


def hear(receiver: Conversation, message: bytes) -> bool:
    try:
        kind, body = receiver.received(message)
    except FramingError as exc:
        assert str(exc).isprintable() and len(str(exc)) < 1000
        return False
    assert bytes([kind]) + body == message
    return True


def said(sender: Conversation, message: bytes) -> bool:
    try:
        return sender.sent(message) is message
    except FramingError:
        return False


def look_at_step(before: State, now: Conversation, kind: Kind, of_server: bool) -> None:
    """Nothing begins but from READY, by the client's word; all else ends by the server's."""
    if before is State.READY:
        assert not of_server and now.state is MAY_ASK[kind]
    elif before is State.NEW:
        assert now.state is (State.OVER if kind is Kind.ERROR else State.READY)
    else:
        assert of_server and now.state is State.READY
        assert kind in (Kind.EXIT, Kind.DONE, Kind.ERROR)
