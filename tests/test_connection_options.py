"""What a Connection is made with, what it tells of itself, how it is given up."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import math
import os
import pickle
import socket
import warnings
from typing import Any

import pytest

import peers
import pysock
from conftest import linux, pipes, posix, unix
from peers import LONG, SHORT, Task, background, linked, pattern, run_python, until
from pysock import Client, Connection
from pysock.errors import ConnectionClosed
from pysock.framing import (
    ContentLength,
    Delimiter,
    FrameStream,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Varint,
)

ends, own_ends, socket_ends = peers.ends, peers.own_ends, peers.socket_ends
bare_ends = peers.bare_ends
paired_ends, tcp_ends = peers.paired_ends, peers.tcp_ends

FIELD = LengthField()
MARKED = LengthField(4, offset=2, magic=b"MK", trailer=b"\xce", counts="body")
KEPT = LengthField(4, offset=3, counts="body", trailer=b"\xce")


@pytest.mark.parametrize("bad", [None, 5, "socket", b"", object()])
def test_what_is_no_socket_is_refused(bad):
    with pytest.raises(TypeError):
        Connection(bad)


def test_closed_socket_is_refused():
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError, match="closed"):
        Connection(sock)


BAD_OPTIONS = [
    ({"timeout": -1}, ValueError),
    ({"timeout": math.nan}, ValueError),
    ({"timeout": "1"}, TypeError),
    ({"spin": -1e-9}, ValueError),
    ({"spin": math.nan}, ValueError),
    ({"spin": None}, TypeError),
    ({"linger": None}, TypeError),
    ({"linger": "1"}, TypeError),
    ({"linger": -1}, ValueError),
    ({"linger": math.nan}, ValueError),
    ({"linger": math.inf}, ValueError),
    ({"keepalive": (1, 2)}, ValueError),
    ({"keepalive": (1, 2, 0)}, ValueError),
    ({"keepalive": 5}, TypeError),
    ({"framing": None}, TypeError),
    ({"framing": b"\n"}, TypeError),
    ({"framing": LengthField}, TypeError),
]


@pytest.mark.case("P10")
@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS, ids=lambda value: str(value))
def test_bad_option_leaves_the_socket_alone(tcp_ends, options, error):
    """P10; no warning either: there was no connection to close"""
    sock = tcp_ends[0].sock
    with pytest.raises(error):
        Connection(sock, **options)
    gc.collect()
    with Connection(sock) as conn:
        conn.send(b"x")
    assert tcp_ends[1].read_all() == b"\0\0\0\1x"


@pytest.mark.case("P10")
@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS, ids=lambda value: str(value))
def test_bad_option_is_refused_before_connecting(options, error):
    """P10"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with pytest.raises(error):
            Client(listener.getsockname(), **options)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.case("P10")
@pytest.mark.parametrize(
    ("limit", "error"),
    [(0, ValueError), (-1, ValueError), (math.nan, ValueError)]
    + [("1", TypeError), (b"1", TypeError)],
)
def test_limit_for_connecting_is_checked(limit, error):
    with pytest.raises(error, match="connect_timeout is .*, expected seconds"):
        Client("tcp://127.0.0.1:1", connect_timeout=limit)


@pytest.mark.parametrize("limit", [1e30, math.inf, None])
def test_limit_for_connecting_may_be_longer_than_any_socket_waits(limit):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Client(listener.getsockname(), connect_timeout=limit).close()


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError)]
)
def test_wait_checks_its_timeout(paired_ends, timeout, error):
    with pytest.raises(error, match="timeout is .*, expected seconds"):
        pysock.wait([paired_ends[0].connection()], timeout)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_holds_something_open_is_not_copied(paired_ends, way):
    conn = paired_ends[0].connection()
    with (
        pysock.Server("127.0.0.1:0", bytes.upper) as server,
        pysock.DatagramServer("udp://127.0.0.1:0", bytes.upper) as datagrams,
        pysock.DatagramClient(datagrams.address) as client,
    ):
        for each in (conn, server, datagrams, client, FIELD.decoder()):
            kind = type(each).__name__
            with pytest.raises(TypeError, match=f"cannot copy or pickle a {kind}, which"):
                way(each)


@pytest.mark.case("P10")
def test_attributes_are_checked_as_the_arguments_are(paired_ends):
    """P10"""
    conn = paired_ends[0].connection(timeout=3, spin=0.001)
    for name, value, error in [
        ("timeout", -1, ValueError),
        ("timeout", math.nan, ValueError),
        ("timeout", "1", TypeError),
        ("spin", -1, ValueError),
        ("spin", "1", TypeError),
        ("spin", None, TypeError),
        ("framing", None, TypeError),
    ]:
        with pytest.raises(error):
            setattr(conn, name, value)
    assert (conn.timeout, conn.spin, conn.framing) == (3.0, 0.001, FIELD)


def test_timeout_is_read_and_set_as_a_socket_has_it(ends):
    conn = ends[0].connection()
    assert conn.timeout is conn.gettimeout() is None
    conn.settimeout(1.5)
    assert conn.timeout == conn.gettimeout() == 1.5
    conn.setblocking(False)
    assert conn.timeout == 0.0
    conn.setblocking(True)
    assert conn.timeout is None


@pytest.mark.parametrize("transport", ["tcp4", "socketpair", "foreign"])
@pytest.mark.parametrize("timeout", [0.0, 1e-3])
def test_timeout_of_the_socket_is_ignored(tmp_path, transport, timeout):
    with linked(transport, tmp_path) as (near, peer):
        conn = near.connection()
        near.sock.settimeout(timeout)
        receiving = Task(conn.recv)
        until(lambda: conn.stats.calls_in)
        receiving.join(SHORT)
        assert receiving.is_alive()
        peer.write(b"\0\0\0\1x")
        assert receiving.finish() == b"x"


@posix
@pytest.mark.parametrize("blocking", [True, False])
def test_o_nonblock_stays_as_it_was(bare_ends, blocking):
    conn, peer = bare_ends[0].connection(timeout=SHORT), bare_ends[1]
    fds = {conn.fileno(), getattr(conn.socket, "writer", conn.fileno())}
    for fd in fds:
        os.set_blocking(fd, blocking)
    size = peers.stuff(conn)
    with pytest.raises(TimeoutError):
        conn.recv()
    conn.timeout = LONG
    with background(peer.read, 4 + size):
        conn.flush()
    peer.write(b"\0\0\0\1x")
    assert conn.recv() == b"x"
    assert {os.get_blocking(fd) for fd in fds} == {blocking}


@pytest.mark.parametrize("transport", ["tcp4", "tcp6"])
def test_tcp_sends_without_delay(tmp_path, transport):
    with linked(transport, tmp_path) as (near, _):
        near.connection()
        assert near.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not near.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@linux
def test_keepalive_sets_the_options_of_the_socket(tcp_ends):
    tcp_ends[0].connection(keepalive=(60, 15, 4))
    sock, tcp = tcp_ends[0].sock, socket.IPPROTO_TCP
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(tcp, socket.TCP_KEEPIDLE) == 60
    assert sock.getsockopt(tcp, socket.TCP_KEEPINTVL) == 15
    assert sock.getsockopt(tcp, socket.TCP_KEEPCNT) == 4
    assert sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 120_000


def test_keepalive_means_nothing_where_there_is_no_network(ends):
    conn, peer = ends[0].connection(keepalive=(60, 15, 4)), ends[1]
    peer.write(b"\0\0\0\1x")
    assert conn.recv() == b"x"


@pytest.mark.case("S10")
@linux
def test_descriptors_are_closed_on_exec(own_ends):
    """S10: the connection's own, and what it has made to be woken by"""
    before = set(os.listdir("/proc/self/fd"))
    conn = own_ends[0].connection(timeout=SHORT)
    with pytest.raises(TimeoutError):
        conn.recv()
    made = {int(fd) for fd in set(os.listdir("/proc/self/fd")) - before}
    for fd in {*made, conn.fileno()}:
        with contextlib.suppress(OSError):  # the listing's own, closed by now
            assert not os.get_inheritable(fd)


def test_names_of_the_ends_are_those_of_the_socket(tcp_ends):
    conn, sock = tcp_ends[0].connection(), tcp_ends[0].sock
    assert conn.getpeername() == sock.getpeername() == tcp_ends[1].sock.getsockname()
    assert conn.getsockname() == sock.getsockname()
    assert conn.fileno() == sock.fileno()
    assert conn.socket is sock


def test_repr_tells_the_state(ends):
    conn = ends[0].connection()
    assert "Connection" in repr(conn) and "LengthField" in repr(conn)
    assert "closed" not in repr(conn)
    conn.close()
    assert "closed" in repr(conn)


# ------------------------------------------------------------ stats and pending


def test_stats_count_messages_bytes_and_calls(ends):
    conn, peer = ends[0].connection(), ends[1]
    assert conn.stats == (0,) * 8
    conn.send(b"four")
    conn.send_many([b"a", b"bb"])
    conn.send(pattern(10_000))
    assert conn.stats[4:6] == (4, 8 + 5 + 6 + 10_004)
    assert 3 <= conn.stats.calls_out <= 8
    assert peer.read(10_023).endswith(pattern(10_000))
    peer.write(FIELD.encode(b"four") + FIELD.encode(b""))
    assert conn.recv() + conn.recv() == b"four"
    assert conn.stats[:2] == (2, 12)
    assert conn.stats.calls_in >= 1
    assert conn.stats.waits_out == 0


def test_stats_count_waits(own_ends):
    conn = own_ends[0].connection(timeout=SHORT)
    with pytest.raises(TimeoutError):
        conn.recv()
    assert conn.stats.waits_in == 1
    peers.stuff(conn)
    assert conn.stats.waits_out >= 1


def test_pending_counts_what_was_read_ahead(ends):
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    assert conn.pending == 0
    peer.write(FIELD.encode(b"one") + FIELD.encode(b"three"))
    assert conn.recv() == b"one"
    assert conn.pending >= 5
    assert conn.recv() == b"three"
    assert conn.pending == 0
    peer.write(FIELD.encode(pattern(100_000))[:60_000])
    with pytest.raises(TimeoutError):
        conn.recv()
    assert conn.pending >= 59_996


# ------------------------------------------------------------ spinning


@pytest.mark.parametrize("timeout", [None, LONG])
def test_spinning_receives_what_comes_meanwhile(own_ends, timeout):
    conn, peer = own_ends[0].connection(spin=SHORT, timeout=timeout), own_ends[1]
    other = peer.connection(spin=SHORT)
    with background(other.send_many, (other.recv() for _ in range(100))):
        for i in range(100):
            conn.send(b"%d" % i)
        assert [conn.recv() for _ in range(100)] == [b"%d" % i for i in range(100)]


def test_spinning_ends_and_then_the_call_sleeps(own_ends):
    conn = own_ends[0].connection(spin=SHORT / 5)
    receiving = peers.asleep(conn, conn.recv)
    own_ends[1].write(b"\0\0\0\1x")
    assert receiving.finish() == b"x"


# ------------------------------------------------------------ giving it up


def test_detached_socket_is_the_callers(socket_ends):
    conn, peer = socket_ends[0].connection(), socket_ends[1]
    peer.write(b"\0\0\0\1x")
    assert conn.recv() == b"x"
    sock = conn.detach()
    assert sock is socket_ends[0].sock and conn.closed and conn.fileno() == -1
    del conn
    gc.collect()
    peer.write(b"y")
    assert sock.recv(1) == b"y"


@pytest.mark.thread_unsafe(reason="others open some")
@linux
def test_detach_leaves_no_descriptor_behind(paired_ends):
    """Not even that which wakes who waits"""
    before = os.listdir("/proc/self/fd")
    conn = paired_ends[0].connection(timeout=SHORT)
    with pytest.raises(TimeoutError):
        conn.recv()
    with conn.detach():
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_detach_raises_while_something_is_pending_or_unsent(bare_ends):
    conn, peer = bare_ends[0].connection(), bare_ends[1]
    peer.write(FIELD.encode(b"one") + FIELD.encode(b"two"))
    assert conn.recv() == b"one"
    with pytest.raises(RuntimeError, match="read ahead"):
        conn.detach()
    assert conn.recv() == b"two"
    peers.stuff(conn)
    for leftover in (False, True):
        with pytest.raises(RuntimeError, match="unsent"):
            conn.detach(leftover=leftover)
    assert not conn.closed


EARLIER = {
    "field": (FIELD, FIELD.encode(pattern(50_000))),
    "marked": (MARKED, MARKED.encode(pattern(50_000))),
    "kept": (KEPT, b"abc" + (50_000).to_bytes(4, "big") + pattern(50_000) + b"\xce"),
    "part kept": (
        LengthField(4, offset=4, magic=b"MAGI", counts="body", header=10, strip=2),
        b"MAGI" + (50_000).to_bytes(4, "big") + b"?!" + pattern(50_000),
    ),
    "varint": (Varint(), Varint().encode(pattern(50_000))),
    "netstring": (Netstring(), Netstring().encode(pattern(50_000))),
    "block": (
        ContentLength(),
        b"X: y\r\ncontent-length:  050000\r\n\r\n" + pattern(50_000),
    ),
    "lines": (Delimiter(), b"x" * 50_000 + b"\n"),
    "escaped": (
        MultiprocessingConnection(),
        b"\xff" * 4 + (50_000).to_bytes(8, "big") + pattern(50_000),
    ),
}


@pytest.mark.parametrize("kind", EARLIER)
@pytest.mark.parametrize("into", [False, True], ids=["recv", "recv_into"])
def test_detach_gives_the_bytes_read_ahead_exactly(tmp_path, kind, into):
    framing, frame = EARLIER[kind]
    for cut in [0, 1, 3, 5, 9, 11, 14, 40, 1000, 9000, 49_999, len(frame) - 1]:
        with linked("socketpair", tmp_path) as (near, peer):
            conn = near.connection(framing, timeout=0)
            peer.write(frame + frame[:cut])
            if into:
                conn.recv_into(bytearray(60_000))
            else:
                conn.recv()
            with pytest.raises(BlockingIOError):
                conn.recv_into(bytearray(60_000)) if into else conn.recv()
            assert conn.pending == cut
            if cut:
                with pytest.raises(RuntimeError, match=f"{cut} bytes have been read ahead"):
                    conn.detach()
            sock, rest = conn.detach(leftover=True)
            assert sock is near.sock
            assert rest == frame[:cut]
            with Connection(sock, framing, linger=0) as again:
                peer.write(frame)
                assert rest + near.read(len(frame)) == frame[:cut] + frame
                assert again.pending == 0


@pipes
def test_detach_of_pipes_gives_their_descriptors(tmp_path):
    with linked("pipes", tmp_path) as (near, peer):
        conn = near.connection()
        pipes = conn.detach()
        peer.write(b"x")
        assert os.read(pipes.reader, 1) == b"x"
        assert os.write(pipes.writer, b"y") == 1
        assert peer.read(1) == b"y"
    pipes.close()


@unix
@posix
def test_ends_of_pipes_are_checked_at_once():
    reader, writer = os.pipe()
    spare, gone = os.pipe()
    for number in (spare, gone):
        os.close(number)
    try:
        for ends, error, text in [
            (
                (writer, reader),
                ValueError,
                f"reader is descriptor {writer}, open for writing on",
            ),
            (
                (reader, reader),
                ValueError,
                f"writer is descriptor {reader}, open for reading on",
            ),
            ((reader, gone), OSError, f"writer is descriptor {gone}: "),
            ((gone, writer), OSError, f"reader is descriptor {gone}: "),
            ((-1, writer), ValueError, "negative"),
        ]:
            with pytest.raises(error, match=text):
                Connection.from_fds(*ends)
        with Connection.from_fds(reader, writer) as conn:
            conn.send(b"x")
            assert conn.recv() == b"x"
    finally:
        for number in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(number)


def test_pipes_may_be_given_as_files():
    (reader, to_it), (from_it, writer) = os.pipe(), os.pipe()
    conn = Connection.from_fds(os.fdopen(reader, "rb", 0), os.fdopen(writer, "wb", 0))
    gc.collect()
    os.write(to_it, b"\0\0\0\1x")
    assert conn.recv() == b"x"
    conn.send(b"y")
    assert os.read(from_it, 9) == b"\0\0\0\1y"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conn.close()
        gc.collect()
    for fd in (to_it, from_it):
        os.close(fd)


def test_closed_pipe_files_are_not_closed_twice(tmp_path):
    reader, writer = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "ab")
    files = [os.fdopen(reader, "rb", 0), os.fdopen(writer, "wb", 0)]
    Connection.from_fds(*files).close()
    assert all(file.closed for file in files)


@pytest.mark.case("D11")
@pytest.mark.thread_unsafe(reason="others take the number")
@pipes
def test_number_of_a_shut_down_pipe_is_not_written_to_again(tmp_path):
    """D11"""
    with linked("pipes", tmp_path) as (near, _):
        conn = near.connection()
        number = conn.socket.writer
        conn.shutdown(socket.SHUT_WR)
        fds = [os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT) for _ in range(3)]
        try:
            assert number in fds
            with pytest.raises(OSError) as told:  # noqa: PT011
                conn.send(b"astray")
            assert told.value.errno in (errno.EPIPE, errno.EBADF)
            assert (tmp_path / "other").read_bytes() == b""
        finally:
            for fd in fds:
                os.close(fd)


USES: dict[str, Any] = {
    "recv": FrameStream.recv,
    "next": next,
    "recv_many": FrameStream.recv_many,
    "recv_into": lambda conn: conn.recv_into(bytearray(9)),
    "recv_view": lambda conn: conn.recv_view().__enter__(),
    "send": lambda conn: conn.send(b"x"),
    "send_many": lambda conn: conn.send_many([b"x"]),
    "flush": FrameStream.flush,
    "request": lambda conn: conn.request(b"x"),
    "request_many": lambda conn: conn.request_many([b"x"]),
    "shutdown": lambda conn: conn.shutdown(socket.SHUT_WR),
    "detach": FrameStream.detach,
    "framing": lambda conn: setattr(conn, "framing", FIELD),
    "getpeername": Connection.getpeername,
    "getsockname": Connection.getsockname,
}


@pytest.mark.parametrize("use", USES)
def test_use_after_close_is_a_closed_connection(ends, use):
    conn = ends[0].connection()
    conn.close()
    with pytest.raises(ConnectionClosed):
        USES[use](conn)
    assert conn.closed and conn.fileno() == -1


def test_connection_is_set_up_once(paired_ends):
    conn = paired_ends[0].connection()
    with pytest.raises(RuntimeError):
        conn.__init__(paired_ends[1].sock)
    conn.send(b"x")
    assert paired_ends[1].read(5) == b"\0\0\0\1x"


def test_subclass_that_forgets_to_set_up_meets_an_error():
    """And not the end of the interpreter"""
    said = run_python("""
import gc, pysock

class Forgetful(pysock.Connection):
    def __init__(self): pass

for use in (
    lambda conn: conn.recv(), lambda conn: conn.send(b"x"), lambda conn: next(conn),
    lambda conn: conn.send(b"x", b"y"), lambda conn: conn.request(b"x"),
    lambda conn: conn.detach(), lambda conn: conn.shutdown(1), lambda conn: conn.flush(),
    lambda conn: conn.recv_into(bytearray(1)), lambda conn: pysock.wait([conn], 0),
    lambda conn: conn.send_many([b"x"]), lambda conn: conn.request_many([b"x"]),
    lambda conn: conn.recv_view().__enter__(),
):
    try:
        use(Forgetful())
    except RuntimeError as error:
        assert "__init__" in str(error)
    else:
        raise AssertionError(use)
conn = Forgetful()
repr(conn), conn.stats, conn.pending, conn.unsent, conn.timeout, conn.closed
""")
    assert said == ""
