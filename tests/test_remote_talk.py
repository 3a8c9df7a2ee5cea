"""The server's side of a conversation, over a connection, with a client that says anything."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from pysock import Connection, ConnectionClosed, FramingError
from pysock.remote.conversation import State
from pysock.remote.protocol import FRAMING, Exec, Kind, Refusal, credit, version
from pysock.remote.talk import Talk

RUN = Exec((b"x",), stdin=True).encode()


@dataclass
class Link:
    """A client as a plain connection, and the server's `Talk` with it."""

    client: Connection
    talk: Talk

    def told(self) -> Refusal:
        """What the client is refused with; nothing follows it."""
        message = self.client.recv()
        assert message[0] == Kind.ERROR
        refusal = Refusal.decode(message[1:])
        with pytest.raises(ConnectionClosed):
            self.client.recv()
        return refusal


@pytest.fixture
def link() -> Iterator[Link]:
    near, far = socket.socketpair()
    with (
        Connection(near, framing=FRAMING, timeout=30) as client,
        Connection(far, framing=FRAMING, timeout=30, linger=0) as server,
    ):
        yield Link(client, Talk(server))


@pytest.fixture
def met(link: Link) -> Link:
    """A link on which both sides have told their versions."""
    link.client.send(version())
    assert link.talk.receive()[0] is Kind.VERSION
    link.talk.send(version())
    assert link.client.recv() == version()
    return link


@pytest.fixture
def running(met: Link) -> Link:
    """A link on which a command with input has been asked for."""
    met.client.send(RUN)
    assert met.talk.receive() == (Kind.EXEC, RUN[1:])
    return met


def test_a_talk_begins_before_the_versions(link: Link) -> None:
    assert link.talk.state is State.NEW
    assert link.talk.conversation.server


def test_the_user_is_who_holds_the_other_end(link: Link) -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    assert link.talk.user == link.talk.request_user == name


def test_both_versions_make_it_ready(met: Link) -> None:
    assert met.talk.state is State.READY


def test_receive_returns_kind_and_body(running: Link) -> None:
    assert running.talk.state is State.RUNNING
    running.talk.send(credit(10))
    running.client.send(Kind.STDIN(b"typed"))
    assert running.talk.receive() == (Kind.STDIN, b"typed")


def test_receive_answers_pings_and_waits_on(met: Link) -> None:
    met.client.send(Kind.PING(b"1"))
    met.client.send(Kind.PING(b"12345678"))
    met.client.send(RUN)
    assert met.talk.receive() == (Kind.EXEC, RUN[1:])
    assert met.client.recv() == Kind.PONG(b"1")
    assert met.client.recv() == Kind.PONG(b"12345678")


def test_receive_refuses_what_does_not_belong_here(met: Link) -> None:
    met.client.send(version())
    with pytest.raises(FramingError, match="VERSION between two commands"):
        met.talk.receive()


def test_receive_tells_that_the_client_has_gone(met: Link) -> None:
    met.client.close()
    with pytest.raises(ConnectionClosed):
        met.talk.receive()


def test_poll_returns_none_at_once_and_keeps_the_timeout(met: Link) -> None:
    assert met.talk.poll() is None
    assert met.talk.connection.timeout == 30


def test_poll_returns_what_has_come(met: Link) -> None:
    met.client.send(RUN)
    assert met.talk.poll() == (Kind.EXEC, RUN[1:])
    assert met.talk.connection.timeout == 30
    assert met.talk.state is State.RUNNING


def test_poll_answers_a_ping_which_is_no_message(met: Link) -> None:
    met.client.send(Kind.PING(b"abc"))
    met.client.send(RUN)
    assert met.talk.poll() is None
    assert met.client.recv() == Kind.PONG(b"abc")
    assert met.talk.poll() == (Kind.EXEC, RUN[1:])


def test_poll_waits_for_nothing_where_half_a_message_has_come(met: Link) -> None:
    frame = len(RUN).to_bytes(4, "big") + RUN
    plain = met.client.detach()
    with plain:
        plain.sendall(frame[:7])
        assert met.talk.poll() is None
        plain.sendall(frame[7:])
        assert met.talk.poll() == (Kind.EXEC, RUN[1:])


def test_poll_keeps_the_timeout_where_the_client_has_gone(met: Link) -> None:
    met.client.close()
    with pytest.raises(ConnectionClosed):
        met.talk.poll()
    assert met.talk.connection.timeout == 30


def test_poll_refuses_what_does_not_belong_here(met: Link) -> None:
    met.client.send(b"")
    with pytest.raises(FramingError, match="without a kind"):
        met.talk.poll()


def test_send_of_a_whole_message_is_noted(running: Link) -> None:
    running.talk.send(credit(3))
    assert running.talk.conversation.window == 3
    assert running.client.recv() == credit(3)


def test_send_of_what_does_not_belong_here_sends_nothing(link: Link) -> None:
    with pytest.raises(FramingError, match="PONG"):
        link.talk.send(Kind.PONG())
    link.talk.send(version())
    assert link.client.recv() == version()


def test_send_of_parts_sends_them_as_one_message(running: Link) -> None:
    running.talk.send(Kind.STDOUT.prefix, b"ab", memoryview(b"cd"))
    assert running.client.recv() == Kind.STDOUT(b"abcd")


def test_refuse_tells_why_and_goes_on(running: Link) -> None:
    refusal = Refusal("os", "no such file", "ENOENT", b"/x")
    running.talk.refuse(refusal)
    assert running.talk.state is State.READY
    assert running.client.recv() == refusal.encode()
    running.client.send(RUN)
    assert running.talk.receive() == (Kind.EXEC, RUN[1:])


def test_give_up_tells_the_rule_and_closes(met: Link) -> None:
    met.talk.give_up(FramingError("EOF of stream 0 twice"))
    assert met.told() == Refusal("protocol", "EOF of stream 0 twice")
    assert met.talk.connection.closed


def test_give_up_before_the_versions_speaks_of_them(link: Link) -> None:
    link.talk.give_up(FramingError("the peer speaks version 9"))
    assert link.told() == Refusal("version", "the peer speaks version 9")
    assert link.talk.state is State.OVER


def test_give_up_of_a_client_that_has_gone_closes(met: Link) -> None:
    met.client.close()
    with suppress(ConnectionClosed):
        met.talk.receive()
    met.talk.give_up(FramingError("any"))
    assert met.talk.connection.closed


def test_give_up_waits_a_second_for_a_client_that_does_not_read(met: Link) -> None:
    met.talk.connection.timeout = 0
    with suppress(BlockingIOError):
        while True:
            met.talk.connection.send(bytes(65536))
    met.talk.connection.timeout = 30
    met.talk.give_up(FramingError("any"))
    assert met.talk.connection.closed
    assert met.talk.connection.timeout == 1.0


def test_give_up_where_nothing_may_be_said_closes(link: Link) -> None:
    link.talk.conversation.state = State.OVER
    link.talk.give_up(FramingError("any"))
    assert link.talk.connection.closed
    with pytest.raises(ConnectionClosed):
        link.client.recv()
