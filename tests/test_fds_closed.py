"""Descriptors that came with messages: none is left behind; where none can come."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import stat
from pathlib import Path

import pytest

import passed
from conftest import linux, unix
from passed import numbers, opened, pass_on
from peers import LONG, SHORT, background, linked, run_python
from pysock import Client, Connection, Server, Session, wait
from pysock.errors import ConnectionClosed, FramingError, IncompleteFrame, InvalidHeader
from pysock.framing import LengthField

pytestmark = [unix, linux]

FIELD = LengthField()

both, plain, files = passed.both, passed.plain, passed.files


# ------------------------------------------------------------ nothing leaks


@pytest.mark.parametrize("size", [1, 70_000, 150_000])
def test_without_max_fds_the_system_drops_them(both, files, size):
    conn, other = both
    other.max_fds = 0
    before = opened()
    with background(conn.send_fds, bytes(size), files):
        assert len(other.recv()) == size
    assert opened() == before
    with pytest.raises(RuntimeError, match="max_fds is 0"):
        other.recv_fds()


def test_every_other_call_closes_them(both, files):
    conn, other = both
    before = opened()

    def sent() -> Connection:
        conn.send_fds(bytes(100), files[:3])
        return other

    assert sent().recv() == bytes(100)
    assert opened() == before
    assert next(sent()) == bytes(100)
    assert sent().recv_many(1) == [bytes(100)]
    assert sent().recv_into(bytearray(100)) == 100
    with sent().recv_view() as view:
        assert view == bytes(100)
    assert sent().recvfile(io.BytesIO()) == 100
    assert opened() == before
    sent()
    conn.send(b"reply")
    assert other.request(b"question") == bytes(100)
    assert other.recv_fds() == (b"reply", [])
    assert opened() == before
    for _ in range(5):
        sent()
    assert other.recv_many() == [bytes(100)] * 5
    assert opened() == before


def test_message_that_was_read_ahead_leaves_none(plain, files):
    sock, other = plain
    before = opened()
    sock.sendall(FIELD.encode(b"one"))
    pass_on(sock, FIELD.encode(b"two"), files[:1])
    assert other.recv() == b"one"
    assert opened() == before + 1
    assert other.recv() == b"two"
    assert opened() == before


def test_large_message_received_without_them(plain, files):
    sock, other = plain
    before = opened()
    for receive in (
        other.recv,
        lambda: other.recv_into(bytearray(500_000)),
        lambda: other.recv_view().__enter__(),
        lambda: other.recvfile(io.BytesIO()),
    ):
        frame = FIELD.encode(bytes(500_000))
        pass_on(sock, frame[:9], files[:1])
        with background(sock.sendall, frame[9:]):
            receive()
        assert opened() == before


def test_close_and_garbage_close_them(files):
    before = opened()
    for end in ("close", "del", "detach"):
        near, far = socket.socketpair()
        with near:
            conn = Connection(far, max_fds=4)
            pass_on(near, FIELD.encode(b"x")[:2], files[:4])
            wait([conn], SHORT)
            assert opened() == before + 4
            if end == "close":
                conn.close()
            elif end == "detach":
                sock, rest = conn.detach(leftover=True)
                assert rest == FIELD.encode(b"x")[:2]
                sock.close()
                conn.close()
                del sock
            else:
                with pytest.warns(ResourceWarning):
                    del far, conn
            conn = far = None
        assert opened() == before


def test_end_inside_a_frame_closes_them(plain, files):
    sock, conn = plain
    before = opened()
    pass_on(sock, FIELD.encode(b"x")[:3], files[:4])
    sock.shutdown(socket.SHUT_WR)
    with pytest.raises(IncompleteFrame):
        conn.recv_fds()
    assert opened() == before
    with pytest.raises(IncompleteFrame):
        conn.recv_fds()


def test_broken_frame_closes_them(plain, files):
    sock, conn = plain
    conn.framing = LengthField(offset=4, magic=b"MAGI")
    before = opened()
    pass_on(sock, b"GET / HTTP/1.1\r\n\r\n", files[:4])
    for _ in range(2):
        with pytest.raises(InvalidHeader):
            conn.recv_fds()
        assert opened() == before


def test_max_fds_of_0_closes_what_waits(plain, files):
    sock, conn = plain
    before = opened()
    frame = FIELD.encode(b"x")
    pass_on(sock, frame[:3], files[:4])
    assert wait([conn], SHORT) == []
    conn.max_fds = 0
    conn.max_fds = 4
    sock.sendall(frame[3:])
    assert conn.recv_fds() == (b"x", [])
    assert opened() == before


# ------------------------------------------------------------ too many


@pytest.mark.parametrize("count", [5, 8, 100, 253])
def test_too_many_are_closed_and_the_stream_stays_in_step(both, files, count):
    conn, other = both
    before = opened()
    fds = (files * 32)[:count]
    for _ in range(2):
        conn.send_fds(b"much", fds)
        conn.send_fds(b"next", files[:4])
        with pytest.raises(FramingError, match=r"descriptors.* and max_fds is 4") as caught:
            other.recv_fds()
        assert caught.value.message == b"much"
        assert opened() == before
        message, came = other.recv_fds()
        assert (message, numbers(came)) == (b"next", [0, 1, 2, 3])
    conn.send_fds(b"much", fds)
    assert other.recv() == b"much"
    assert opened() == before


def test_exact_bound_for_every_number(both, files):
    conn, other = both
    for most in (1, 2, 3, 8, 253):
        other.max_fds = most
        conn.send_fds(b"x", (files * 32)[:most])
        message, came = other.recv_fds()
        assert (message, numbers(came)) == (b"x", [i % 8 for i in range(most)])


def test_too_many_in_small_pieces(plain, files):
    """A bound for the message, not for the receive."""
    sock, conn = plain
    before = opened()
    frame = FIELD.encode(bytes(20))
    conn.timeout = 0
    for i in range(len(frame) - 1):
        pass_on(sock, frame[i : i + 1], files[:2])
        with pytest.raises(BlockingIOError):
            conn.recv_fds()
        assert opened() <= before + 4
    pass_on(sock, frame[-1:], files[:1])
    with pytest.raises(FramingError, match="^47 descriptors came with a message, and max_fds"):
        conn.recv_fds()
    assert opened() == before
    pass_on(sock, FIELD.encode(b"next"), files[:1])
    message, fds = conn.recv_fds()
    assert (message, numbers(fds)) == (b"next", [0])


def test_process_that_may_open_no_more():
    out = run_python(
        """
import os, resource, socket
from pysock import Connection

near, far = socket.socketpair()
conn, other = Connection(near), Connection(far, max_fds=9)
conn.send_fds(b"x", [0] * 9)
conn.send_fds(b"y", [0])
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
try:
    while True:
        held.append(os.dup(0))
except OSError:
    os.close(held.pop()), os.close(held.pop())
before = len(held)
try:
    other.recv_fds()
except OSError as exc:
    print(exc.errno, exc.message)
message, fds = other.recv_fds()
print(message, len(fds))
"""
    )
    assert out == f"{errno.EMFILE} b'x'\nb'y' 1\n"


# ------------------------------------------------------------ where it does not work


@pytest.mark.parametrize("kind", ["tcp4", "tls", "pipes", "foreign"])
def test_other_transports_are_refused(kind, tmp_path, files):
    with linked(kind, tmp_path) as ends:
        conn, peer = ends[0].connection(), ends[1]
        with pytest.raises(io.UnsupportedOperation, match="only through a Unix socket"):
            conn.send_fds(b"x", files[:1])
        with pytest.raises(io.UnsupportedOperation, match="only through a Unix socket"):
            conn.max_fds = 1
        with pytest.raises(io.UnsupportedOperation, match="only through a Unix socket"):
            conn.recv_fds()
        conn.max_fds = 0
        peer.write(FIELD.encode(b"still here"))
        assert conn.recv() == b"still here"


@pytest.mark.parametrize("value", [-1, 254, "4", None, 1.5])
def test_max_fds_out_of_range(both, value):
    _, other = both
    with pytest.raises((ValueError, TypeError), match="max_fds|interpreted"):
        other.max_fds = value
    assert other.max_fds == 4


def test_two_descriptors_of_one_socket(files):
    near, far = socket.socketpair()
    with near:
        fds = [far.detach()]
        fds.append(os.dup(fds[0]))
        with Connection.from_fds(*fds, max_fds=1) as conn:
            pass_on(near, FIELD.encode(b"x"), files[:1])
            message, came = conn.recv_fds()
            assert (message, numbers(came)) == (b"x", [0])


# ------------------------------------------------------------ servers and clients


class Sizes(Session):
    """Answers with the sizes of the files that came."""

    def setup(self) -> None:
        self.connection.max_fds = 4

    def handle(self) -> None:
        while True:
            message, fds = self.connection.recv_fds()
            sizes = [os.fstat(fd).st_size for fd in fds]
            self.connection.send_fds(message + repr(sizes).encode(), fds)
            for fd in fds:
                os.close(fd)


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_session_and_client(tmp_path: Path, files, abstract):
    where = f"unix:@pysock-{os.getpid()}-fds" if abstract else f"unix://{tmp_path}/s"
    with Server(where, Sizes) as server:
        server.start()
        with Client(where, timeout=LONG) as client:
            client.max_fds = 4
            for _ in range(3):
                client.send_fds(b"sizes: ", files[:2])
                message, fds = client.recv_fds()
                assert message == b"sizes: [1, 1]"
                assert numbers(fds) == [0, 1]
            with pytest.raises(ConnectionClosed):
                client.send_fds(b"too many", files)
                client.recv()
        server.stop(LONG)


def test_client_that_connects_again_takes_them_still(tmp_path, files):
    where = f"unix://{tmp_path}/s"
    with Server(where, Sizes) as server:
        server.start()
        with Client(where, timeout=LONG, reconnect=True) as client:
            client.max_fds = 1
            client.send_fds(b"", files[:1])
            assert numbers(client.recv_fds()[1]) == [0]
            client.send_fds(b"too many", files)
            with pytest.raises(ConnectionClosed):
                client.recv()
            client.send_fds(b"", files[1:2])
            assert client.max_fds == 1
            assert numbers(client.recv_fds()[1]) == [1]
        server.stop(LONG)


def test_stranger_leaves_nothing_in_a_server(tmp_path, files):
    """A server that has not asked for descriptors gets none."""
    where = f"unix://{tmp_path}/s"
    seen = []

    def handle(message: bytes) -> bytes:
        seen.append(opened())
        return message

    with Server(where, handle) as server:
        server.start()
        with Client(where, timeout=LONG) as client:
            assert client.request(b"x") == b"x"
            for _ in range(20):
                client.send_fds(b"x", files)
                assert client.recv() == b"x"
        server.stop(LONG)
    assert len(set(seen)) == 1


def test_listening_socket_is_handed_over(tmp_path):
    """What a supervisor does: one process listens, the other accepts."""
    near, far = socket.socketpair()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Connection(near) as conn,
        Connection(far, max_fds=1, timeout=LONG) as other,
    ):
        conn.send_fds(b"web", [listener])
        message, (fd,) = other.recv_fds()
        assert stat.S_ISSOCK(os.fstat(fd).st_mode)
        with Server(socket.socket(fileno=fd), bytes.upper) as server:
            server.start()
            with Client(listener.getsockname(), timeout=LONG) as client:
                assert client.request(message) == b"WEB"
            server.stop(LONG)


def test_forked_child_has_its_own(both, files):
    """A message under way at a fork: each process closes what it has."""
    conn, other = both
    conn.send_fds(b"x", files[:1])
    wait([other], LONG)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            other.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    message, fds = other.recv_fds()
    assert (message, numbers(fds)) == (b"x", [0])
