"""A remote server that runs nothing and has one folder: no client gets out of that.

The rule refuses all commands, before anything is started; there is nothing to start them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fuzz import remotes_said
from fuzz.folders import scratch
from fuzz.source import Source
from pysock.errors import ConnectionClosed, FramingError
from pysock.remote.conversation import Conversation, State
from pysock.remote.files import Files
from pysock.remote.protocol import CHUNK, FRAMING, KINDS, Kind
from pysock.remote.service import Service

SECRET = b"nobody has asked for this, and yet here it is"
MOST = 60  # messages


def target(data: bytes) -> None:
    with scratch() as name:
        folder = Path(name)
        root = furnish(folder)
        service = Service(
            rule=lambda request: request.kind != "run",
            allow_env=("LC_*",),
            files=Files(root),
            max_running=1,
            time_limit=None,
            max_output=None,
            limits=[],
            cwd=None,
            uids=None,
            stopping=lambda: False,
        )
        talk(service, Client(Source(data)))
        assert sorted(os.listdir(folder)) == ["secret", "served"]
        assert (folder / "secret").read_bytes() == SECRET
        assert service._places.acquire(blocking=False) and not service._transfers


def furnish(folder: Path) -> Path:
    """Make the folder that is served, and what is beside it."""
    root = folder / "served"
    (root / "folder").mkdir(parents=True)
    (root / "x").write_bytes(remotes_said.CONTENT)
    with open(root / "large", "wb") as file:
        file.truncate(2 * CHUNK)
    (root / "link").symlink_to("../secret")
    (root / "up").symlink_to("..")
    (folder / "secret").write_bytes(SECRET)
    return root


def talk(service: Service, client: Any) -> None:
    with contextlib.suppress(ConnectionClosed):
        while not client.closed:
            answer = service.hear(client.next(), client)
            if answer is not None:
                client.take(answer)
    assert client.broke_rules <= client.closed
    if not client.closed:
        assert client.conversation.state in (State.NEW, State.READY)


class Client:
    """The server's connection to a client that keeps to the rules, or does not.

    It has a mind of its own about these rules, and the server is held against it.
    """

    user = "bob"
    client_address = ("192.0.2.1", 1)
    socket = SimpleNamespace(family=getattr(socket, "AF_UNIX", -1))
    stats = SimpleNamespace(bytes_in=0, bytes_out=0)
    timeout: float | None = None

    def __init__(self, source: Source) -> None:
        self.source = source
        self.conversation = Conversation(server=False)
        self.broke_rules = False
        self.closed = False
        self._left = MOST

    def next(self) -> bytes:
        """Return the client's next message."""
        if not self.source.left or not self._left:
            raise ConnectionClosed
        self._left -= 1
        message = remotes_said.message(self.source)
        try:
            assert not self.broke_rules
            if message[:1] and message[0] in KINDS:
                self.conversation.sent(message)
            else:
                self.broke_rules = True
        except FramingError:
            self.broke_rules = True
        return message

    def recv(self) -> bytes:
        if self.timeout == 0 and self.source.flag():
            raise BlockingIOError
        if self.closed:
            raise ConnectionClosed
        return self.next()

    def send(self, *parts: Any) -> None:
        self.take(b"".join(parts))

    def take(self, message: bytes) -> None:
        """Take the server's message: it, too, keeps to the rules."""
        assert len(message) <= FRAMING.max_frame and SECRET not in message
        if self.broke_rules:
            assert message[0] == Kind.ERROR
        else:
            self.conversation.received(message)

    def close(self) -> None:
        self.closed = True
