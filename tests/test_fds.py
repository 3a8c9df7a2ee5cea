"""Descriptors that go with messages over a Unix socket (SCM_RIGHTS)."""

from __future__ import annotations

import contextlib
import io
import os
import socket

import pytest

import passed
from conftest import linux, unix
from passed import numbers, pass_on
from peers import LONG, SHORT, asleep, background, stuff, until
from pysock import Connection, wait
from pysock.errors import ConnectionClosed, FramingError
from pysock.framing import Delimiter, LengthField, Netstring, Raw

pytestmark = [unix, linux]

FIELD = LengthField()

both, plain, files = passed.both, passed.plain, passed.files


# ------------------------------------------------------------ in step


def test_descriptors_come_with_their_message(both, files):
    conn, other = both
    plan = [[], [0], [1, 2], [], [], [3], [4], [5, 6, 7, 0], []]
    for number, wanted in enumerate(plan):
        conn.send_fds(b"%d" % number, [files[i] for i in wanted])
    for number, wanted in enumerate(plan):
        message, fds = other.recv_fds()
        assert (message, numbers(fds)) == (b"%d" % number, wanted)


def test_other_ways_to_send_around_it(both, files):
    conn, other = both
    conn.send(b"a")
    conn.send_many([b"b", b"c"])
    conn.send_fds(b"d", files[:1])
    conn.send_many([b"e", b"f"])
    conn.send_fds(b"g", [files[1].fileno()])
    conn.send(b"h", b"i")
    came = [other.recv_fds() for _ in range(8)]
    assert [message for message, _ in came] == [
        b"a",
        b"b",
        b"c",
        b"d",
        b"e",
        b"f",
        b"g",
        b"hi",
    ]
    assert [numbers(fds) for _, fds in came] == [[], [], [], [0], [], [], [1], []]


@pytest.mark.parametrize("size", [0, 5000, 70_000, 190_000])
def test_message_of_any_size(both, files, size):
    conn, other = both
    message = os.urandom(size)
    with background(conn.send_fds, message, files[:2]):
        came, fds = other.recv_fds()
    assert (came, numbers(fds)) == (message, [0, 1])
    conn.send_fds(b"next", files[2:3])
    came, fds = other.recv_fds()
    assert (came, numbers(fds)) == (b"next", [2])


def test_large_messages_back_to_back(plain, files):
    sock, other = plain
    with Connection(sock.dup(), timeout=LONG) as conn:
        sizes = [3 << 20, 10, 9000, 1 << 20, 0, 200_000]

        def send() -> None:
            for number, size in enumerate(sizes):
                conn.send_fds(bytes(size), [files[number]])
                conn.send(bytes(size))

        with background(send):
            for number, size in enumerate(sizes):
                message, fds = other.recv_fds()
                assert (len(message), numbers(fds)) == (size, [number])
                message, fds = other.recv_fds()
                assert (len(message), fds) == (size, [])


@pytest.mark.parametrize("framing", [FIELD, Netstring(), Delimiter(b"\r\n")], ids=repr)
def test_frames_cut_at_every_byte(files, framing):
    """Whichever byte of a frame takes them along, also one in the middle of it."""
    frames = [framing.encode(b"first"), framing.encode(b"second"), framing.encode(b"third")]
    stream = b"".join(frames)
    borders = [0, len(frames[0]), len(frames[0] + frames[1]), len(stream)]
    for cut in range(len(stream)):
        near, far = socket.socketpair()
        with near, Connection(far, framing, timeout=LONG, max_fds=4) as conn:
            if cut:
                near.sendall(stream[:cut])
            pass_on(near, stream[cut : cut + 1], files[:2])
            if stream[cut + 1 :]:
                near.sendall(stream[cut + 1 :])
            came = [conn.recv_fds() for _ in frames]
            assert [message for message, _ in came] == [b"first", b"second", b"third"]
            owner = max(i for i, border in enumerate(borders) if border <= cut)
            expected = [[0, 1] if i == owner else [] for i in range(3)]
            assert [numbers(fds) for _, fds in came] == expected


def test_one_message_in_pieces_that_each_bring_some(plain, files):
    sock, conn = plain
    frame = FIELD.encode(b"abc")
    pass_on(sock, frame[:2], files[:1])
    pass_on(sock, frame[2:5], files[1:3])
    pass_on(sock, frame[5:] + FIELD.encode(b"next")[:3], files[3:4])
    pass_on(sock, FIELD.encode(b"next")[3:], files[4:5])
    # The third piece ends in the next message.
    message, fds = conn.recv_fds()
    assert (message, numbers(fds)) == (b"abc", [0, 1, 2])
    message, fds = conn.recv_fds()
    assert (message, numbers(fds)) == (b"next", [3, 4])


def test_raw_message_is_what_came_with_them(plain, files):
    sock, conn = plain
    conn.framing = Raw()
    sock.sendall(b"before")
    pass_on(sock, b"with", files[:1])
    sock.sendall(b"behind")
    message, fds = conn.recv_fds()
    assert (message, numbers(fds)) == (b"beforewith", [0])
    assert conn.recv_fds() == (b"behind", [])


@pytest.mark.parametrize("size", [10, 300_000])
def test_timeout_in_mid_frame_keeps_them(plain, files, size):
    sock, conn = plain
    frame = FIELD.encode(bytes(size))
    pass_on(sock, frame[:6], files[:2])
    conn.timeout = SHORT
    for _ in range(2):
        with pytest.raises(TimeoutError):
            conn.recv_fds()
    conn.timeout = LONG
    with background(sock.sendall, frame[6:]):
        message, fds = conn.recv_fds()
    assert (message, numbers(fds)) == (bytes(size), [0, 1])


@pytest.mark.parametrize("spin", [0.0, 1.0])
def test_waiting_for_them(files, spin):
    near, far = socket.socketpair()
    with Connection(near) as conn, Connection(far, max_fds=1, spin=spin) as other:
        with background(other.recv_fds) as task:
            until(lambda: other.stats.calls_in)
            conn.send_fds(b"x", files[:1])
            message, fds = task.finish()
        assert (message, numbers(fds)) == (b"x", [0])


def test_pysock_wait_reads_ahead_and_keeps_them(both, files):
    conn, other = both
    conn.send_fds(b"one", files[:1])
    conn.send_fds(b"two", files[1:2])
    for number, message in enumerate([b"one", b"two"]):
        assert wait([other], LONG) == [other]
        came, fds = other.recv_fds()
        assert (came, numbers(fds)) == (message, [number])
    assert wait([other], 0) == []


# ------------------------------------------------------------ sending


BAD = [
    (["3"], TypeError, "fds holds a str"),
    ([None], TypeError, "fds holds a NoneType"),
    (5, TypeError, "not iterable"),
    ([-1], ValueError, "fds holds -1"),
    ([1 << 40], ValueError, "no open descriptor"),
    ([0] * 254, ValueError, "254 descriptors, and 253 at most"),
    ([io.BytesIO()], io.UnsupportedOperation, "fileno"),
    ([999_999], OSError, "not open"),
]


@pytest.mark.parametrize(("fds", "kind", "told"), BAD, ids=[case[2] for case in BAD])
def test_bad_descriptors_are_refused_before_anything_is_sent(both, fds, kind, told):
    conn, other = both
    with pytest.raises(kind, match=told):
        conn.send_fds(b"x", fds)
    assert conn.unsent == 0
    conn.send(b"next")
    assert other.recv() == b"next"


def test_closed_objects_are_refused(both, files):
    conn, other = both
    files[0].close()
    with socket.socket() as sock:
        pass
    for thing in (files[0], sock):
        with pytest.raises(ValueError, match="closed file|fds holds -1"):
            conn.send_fds(b"x", [thing])
    conn.send_fds(b"next", [])
    assert other.recv_fds() == (b"next", [])


def test_refused_message_sends_no_descriptors(both, files):
    conn, other = both
    conn.framing = FIELD.replace(max_frame=5)
    with pytest.raises(FramingError):
        conn.send_fds(b"too long", files[:1])
    conn.send_fds(b"short", files[1:2])
    message, fds = other.recv_fds()
    assert (message, numbers(fds)) == (b"short", [1])


def test_timeout_half_way_has_sent_them_once(files):
    near, far = socket.socketpair()
    with Connection(near, timeout=SHORT) as conn, Connection(far, max_fds=2) as other:
        size = 4 << 20
        with pytest.raises(TimeoutError) as caught:
            conn.send_fds(bytes(size), files[:2])
        assert caught.value.accepted is True
        assert 0 < conn.unsent < size
        conn.timeout = LONG
        with background(conn.send_fds, b"next", files[2:3]):
            message, fds = other.recv_fds()
            assert (len(message), numbers(fds)) == (size, [0, 1])
            message, fds = other.recv_fds()
            assert (message, numbers(fds)) == (b"next", [2])


@pytest.mark.parametrize("timeout", [0, SHORT])
def test_timeout_before_the_first_byte_has_sent_nothing(files, timeout):
    near, far = socket.socketpair()
    with near, Connection(far, max_fds=2, timeout=LONG) as other:
        conn = Connection(near, timeout=timeout)
        near.setblocking(False)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                near.sendall(FIELD.encode(b"fill"))
                filled += 1
        with pytest.raises(TimeoutError if timeout else BlockingIOError) as caught:
            conn.send_fds(b"lost", files[:2])
        assert caught.value.accepted is False
        assert conn.unsent == 0
        conn.timeout = LONG
        task = asleep(conn, conn.send_fds, b"with", files[2:3])
        for _ in range(filled):
            assert other.recv_fds() == (b"fill", [])
        message, fds = other.recv_fds()
        assert (message, numbers(fds)) == (b"with", [2])
        task.finish()
        conn.close()


def test_what_was_accepted_earlier_goes_first(files):
    near, far = socket.socketpair()
    with Connection(near) as conn, Connection(far, max_fds=2, timeout=LONG) as other:
        size = stuff(conn)
        conn.timeout = SHORT
        with pytest.raises(TimeoutError) as caught:
            conn.send_fds(b"lost", files[:2])
        assert caught.value.accepted is False
        conn.timeout = LONG
        with background(conn.send_fds, b"with", files[:1]):
            message, fds = other.recv_fds()
            assert (len(message), fds) == (size, [])
            message, fds = other.recv_fds()
            assert (message, numbers(fds)) == (b"with", [0])


def test_send_fds_to_who_has_gone(both, files):
    conn, other = both
    other.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        conn.send_fds(b"x", files[:1])
    conn.close()
    with pytest.raises(ConnectionClosed):
        conn.send_fds(b"x", files[:1])
    with pytest.raises(ConnectionClosed):
        conn.recv_fds()


def test_program_without_pysock_gets_them(files):
    near, far = socket.socketpair()
    with Connection(near) as conn, far:
        conn.send_fds(b"hello", files[:3])
        data, fds, _, _ = socket.recv_fds(far, 100, 9)
        for fd in fds:
            os.set_inheritable(fd, False)
        assert (data, numbers(fds)) == (FIELD.encode(b"hello"), [0, 1, 2])


def test_recv_many_does_not_overtake_a_large_message_that_has_begun() -> None:
    large = bytes(70_000)
    stream = b"".join(map(LengthField().encode, [b"0", b"1", large, b"3", b"4"]))
    near, far = socket.socketpair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with far, Connection(near, timeout=LONG, max_fds=4) as conn:
        far.sendall(stream[:40_010])
        assert conn.recv() == b"0"
        far.sendall(stream[40_010:])
        received: list[bytes] = []
        while len(received) < 4:
            received += conn.recv_many()
        assert received == [b"1", large, b"3", b"4"]
