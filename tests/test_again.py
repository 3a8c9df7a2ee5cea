"""Small messages whose memory is used again: nobody who keeps one sees it change."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysock import Connection, LengthField

FORMAT = LengthField()
SIZES = st.sampled_from((0, 1, 2, 3, 64, 64, 64, 65, 1024, 1025))


@pytest.fixture
def ends() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs, Connection(ours, timeout=10) as conn:
        yield conn, theirs


def numbered(number: int, size: int) -> bytes:
    return (b"%d " % number * size)[:size]


def frames(messages: list[bytes]) -> bytes:
    return b"".join(map(FORMAT.encode, messages))


@settings(deadline=None)  # a machine may be slow to connect two sockets
@given(st.data())
def test_what_is_kept_does_not_change(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(SIZES, min_size=1, max_size=60))
    sent = [numbered(number, size) for number, size in enumerate(sizes)]
    got: list[tuple[int, bytes]] = []  # what is kept, and its number
    ours, theirs = socket.socketpair()
    with theirs, Connection(ours, timeout=10, linger=0) as conn:
        theirs.sendall(frames(sent))
        number = 0
        while number < len(sent):
            call = data.draw(st.sampled_from(("recv", "next", "recv_many", "for")))
            if call == "recv":
                came = [conn.recv()]
            elif call == "next":
                came = [next(conn)]
            elif call == "recv_many":
                came = conn.recv_many(data.draw(st.integers(1, 20)))
            else:
                came = []
                for message in islice(conn, min(3, len(sent) - number)):
                    assert message == sent[number + len(came)]
                    came.append(message)
            assert came == sent[number : number + len(came)]
            for message in came:
                if data.draw(st.booleans()):
                    got.append((number, message))
                number += 1
    for number, message in got:
        assert message == sent[number]
        assert hash(message) == hash(bytes(bytearray(sent[number])))


def test_each_message_has_its_own_hash(ends: tuple[Connection, socket.socket]) -> None:
    conn, peer = ends
    sent = [b"%04d" % number for number in range(100)]
    peer.sendall(frames(sent))
    for message, expected in zip(islice(conn, 100), sent, strict=True):
        assert {expected: True}.get(message)  # by its hash, which the object remembers
        del message


def test_batches_are_lists_of_their_own(ends: tuple[Connection, socket.socket]) -> None:
    conn, peer = ends
    seen = []
    for turn in range(6):
        sent = [b"%d-%060d" % (turn, number) for number in range(300)]
        peer.sendall(frames(sent))
        batch = conn.recv_many()
        assert batch == sent
        assert all(batch is not other for other in seen)
        if turn % 3 == 0:
            seen.append(batch)
        batch = []
    assert [batch[7] for batch in seen] == [b"0-%060d" % 7, b"3-%060d" % 7]


@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="references are not counted")
def test_nothing_is_held_behind_the_last_message(
    ends: tuple[Connection, socket.socket],
) -> None:
    conn, peer = ends
    peer.sendall(frames([b"first", b"second", b"third"]))
    kept = [conn.recv(), conn.recv(), conn.recv()]
    alone = [bytes(bytearray(b"alone")) for _ in range(3)]
    assert [sys.getrefcount(one) for one in kept] == [sys.getrefcount(one) for one in alone]


def test_a_derived_class_has_the_last_word() -> None:
    class Upper(Connection):
        def __next__(self) -> bytes:
            return super().__next__().upper()

    ours, theirs = socket.socketpair()
    with theirs, Upper(ours, timeout=10) as conn:
        theirs.sendall(frames([b"one", b"two"]))
        theirs.shutdown(socket.SHUT_WR)
        assert list(conn) == [b"ONE", b"TWO"]


def test_loops_go_on_where_the_last_one_stopped(
    ends: tuple[Connection, socket.socket],
) -> None:
    conn, peer = ends
    peer.sendall(frames([b"one", b"two", b"three", b"four"]))
    for message in conn:
        assert message == b"one"
        break
    assert next(conn) == b"two"
    assert list(islice(conn, 1)) == [b"three"]
    assert conn.recv() == b"four"
    peer.close()
    assert list(conn) == []
