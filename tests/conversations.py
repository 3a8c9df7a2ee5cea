"""The two sides of a remote conversation without a socket, and ways into it."""

from __future__ import annotations

from typing import Any

import pytest

from pysock import FramingError
from pysock.remote.conversation import Conversation
from pysock.remote.protocol import (
    Entry,
    Exec,
    Exit,
    Get,
    Kind,
    Put,
    Refusal,
    credit,
    eof,
    offset,
    version,
)

HASH = bytes(32)
REFUSED = Refusal("failed", "no").encode()
PUT_FILE, PUT_FOLDER = Put(b"x", Entry(3)).encode(), Put(b"x", Entry(0, type="d")).encode()
GET_FILE, LISTING = Get(b"x").encode(), Get(b"", listing=True).encode()
OUT, ERR = Kind.STDOUT(b"x"), Kind.STDERR(b"x")
DATA, DONE = Kind.DATA(b"abc"), Kind.DONE(HASH)
PUT_FROM, GET_FROM = offset(Kind.PUT, 0), offset(Kind.GET, 0)
ANNOUNCED = Kind.GET(Entry(3).pack())
TYPE = Kind.STDIN(b"typed")

CLIENT, SERVER = "client", "server"
Step = tuple[str, bytes]


def both(*steps: Step) -> tuple[Conversation, Conversation]:
    """The client and the server after these messages, each delivered before the next."""
    client, server = Conversation(server=False), Conversation(server=True)
    for who, message in steps:
        say(client, server, who, message)
    return client, server


def say(client: Conversation, server: Conversation, who: str, message: bytes) -> None:
    sender, receiver = (client, server) if who == CLIENT else (server, client)
    assert sender.sent(message) is message
    assert receiver.received(message) == (message[0], message[1:])
    assert (client.state, client.window) == (server.state, server.window)


def refuse(steps: list[Step], who: str, message: bytes, match: str | None = None) -> None:
    """After *steps* neither the sender nor the receiver takes *message*."""
    client, server = both(*steps)
    sender, receiver = (client, server) if who == CLIENT else (server, client)
    with pytest.raises(FramingError, match=match):
        receiver.received(message)
    with pytest.raises(FramingError, match=match):
        sender.sent(message)


def allow(steps: list[Step], who: str, message: bytes) -> Conversation:
    """After *steps* both take *message*; return the client."""
    client, server = both(*steps)
    say(client, server, who, message)
    return client


MET: list[Step] = [(CLIENT, version()), (SERVER, version())]


def running(*, started: bool = True, **options: Any) -> list[Step]:
    """The way to a command; *options* are those of `Exec`."""
    given: dict[str, Any] = {"stdin": True, **options}
    steps = [*MET, (CLIENT, Exec((b"cat",), **given).encode())]
    return [*steps, (SERVER, credit(100 if given["stdin"] else 0))] if started else steps


ENDED = [*running(), (SERVER, eof(1)), (SERVER, eof(2)), (SERVER, Exit(0).encode())]
PUTTING = [*MET, (CLIENT, PUT_FILE)]
FOLDER = [*MET, (CLIENT, PUT_FOLDER)]
SENDING = [*PUTTING, (SERVER, PUT_FROM)]
GETTING = [*MET, (CLIENT, GET_FILE)]
FETCHING = [*GETTING, (SERVER, ANNOUNCED), (CLIENT, GET_FROM)]
LISTED = [*MET, (CLIENT, LISTING)]
