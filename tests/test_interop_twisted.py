"""Twisted's receivers of strings and lines, in both roles."""

from __future__ import annotations

import pytest

from interop.messages import MIB, Echo, messages
from interop.program import LIMIT, first_line, running, script
from pysock import Client, Delimiter, LengthField, Netstring, Server

pytest.importorskip("twisted", reason="no build of what Twisted needs for this Python")

SIZES = (0, 1, 65535, MIB)

kinds = pytest.mark.parametrize(
    ("kind", "framing", "sizes"),
    [
        ("int8", LengthField(1), (0, 1, 255)),
        ("int16", LengthField(2), (0, 1, 65535)),
        ("int32", LengthField(4), SIZES),
        ("netstring", Netstring(), SIZES),
        ("line", Delimiter(b"\r\n"), SIZES),
    ],
)


@kinds
def test_messages_come_back_from_a_twisted_server(kind, framing, sizes):
    wanted = messages(sizes)
    with running(*script("twisted_peer.py", "server", kind)) as peer:
        port = int(first_line(peer))
        with Client(("127.0.0.1", port), framing, timeout=LIMIT) as client:
            assert [client.request(message) for message in wanted] == wanted
            assert client.request_many(wanted) == wanted


@kinds
def test_messages_come_back_to_a_twisted_client(kind, framing, sizes):
    handler = Echo()
    with Server("tcp://127.0.0.1:0", handler, framing=framing) as server:
        server.start()
        port = server.server_address[1]
        with running(*script("twisted_peer.py", "client", kind, port, *sizes)):
            pass
    assert handler.seen == messages(sizes)
