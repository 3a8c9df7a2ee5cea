"""What is done in another way on Windows: pipes, who owns whether a socket blocks."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

import peers
from peers import LONG, Task, linked
from pysock import Connection, recv_exactly, recv_frame, send_frame
from pysock.errors import ConnectionClosed
from pysock.framing import LengthField

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="Windows only")

paired_ends = peers.paired_ends

FIELD = LengthField()


def test_pipes_carry_messages_with_calls_that_block():
    (there, to_there), (here, to_here) = os.pipe(), os.pipe()
    with (
        Connection.from_fds(here, to_there) as near,
        Connection.from_fds(there, to_here) as far,
    ):
        receiving = Task(far.recv)
        near.send(b"x" * 300_000)
        assert receiving.finish() == b"x" * 300_000
        far.send_many([b"one", b"two"])
        assert [near.recv(), near.recv()] == [b"one", b"two"]


def test_pipes_take_no_timeout():
    ends = os.pipe()
    with pytest.raises(ValueError, match="cannot wait for pipes"):
        Connection.from_fds(*ends, timeout=1)
    with pytest.raises(ValueError, match="cannot wait for pipes"):
        recv_exactly(ends[0], 1, timeout=1)
    for fd in ends:
        os.close(fd)


def test_frames_go_over_single_pipes():
    reader, writer = os.pipe()
    send_frame(writer, b"message", FIELD)
    assert recv_frame(reader, FIELD) == b"message"
    for fd in (reader, writer):
        os.close(fd)


def test_number_of_a_socket_will_do(paired_ends):
    near, far = paired_ends
    far.write(b"hello")
    assert recv_exactly(near.sock.fileno(), 5) == b"hello"


@pytest.mark.parametrize("timeout", [None, LONG])
def test_borrowed_socket_blocks_again(paired_ends, timeout):
    near, far = paired_ends
    near.sock.settimeout(timeout)
    far.write(b"hello")
    assert recv_exactly(near.sock, 5) == b"hello"
    receiving = Task(near.sock.recv, 5)
    far.write(b"there")
    assert receiving.finish() == b"there"


def test_detached_socket_blocks_again(tmp_path):
    with linked("tcp4", tmp_path) as (near, far):
        near.sock.settimeout(None)
        with Connection(near.sock) as conn:
            far.write(FIELD.encode(b"one"))
            assert conn.recv() == b"one"
            sock = conn.detach()
        receiving = Task(sock.recv, 5)
        far.write(b"plain")
        assert receiving.finish() == b"plain"


def test_number_of_an_own_error_keeps_its_meaning(paired_ends):
    """EPIPE is another error's number in Windows"""
    conn = paired_ends[0].connection()
    conn.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError) as told:  # noqa: PT011
        conn.send(b"late")
    assert told.value.errno in (errno.ESHUTDOWN, errno.EPIPE, errno.ECONNABORTED)


def test_stream_that_was_shut_down_here_is_at_its_end(paired_ends):
    conn = paired_ends[0].connection()
    conn.shutdown(socket.SHUT_RD)
    with pytest.raises(ConnectionClosed):
        conn.recv()
