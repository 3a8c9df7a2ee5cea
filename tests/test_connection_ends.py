"""How a stream ends, breaks or is refused, and what the Connection says of it."""

from __future__ import annotations

import contextlib
import io
import mmap
import socket
import ssl
from typing import Any

import pytest

import peers
import reference
from conftest import linux, resets, unix
from peers import SHORT, Task, asleep, background, linked, pattern, reset, until
from pysock import testing
from pysock.errors import ConnectionClosed, FrameTooLarge, IncompleteFrame, InvalidHeader
from pysock.framing import (
    ContentLength,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Varint,
)

ends, own_ends, socket_ends = peers.ends, peers.own_ends, peers.socket_ends
bare_ends = peers.bare_ends
paired_ends, tcp_ends, receive = peers.paired_ends, peers.tcp_ends, peers.receive

FIELD = LengthField()
MARKED = LengthField(4, offset=2, magic=b"MK", trailer=b"\xce", counts="body")
# How a system tells of a peer that is gone: which of these is a matter of moments.
GONE = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)

END_OF = {
    "field": (FIELD, b"hello"),
    "marked": (MARKED, b"hello"),
    "wide": (LengthField(2, offset=3, header=8, counts="body"), b"abc\0\0123hello"),
    "varint": (Varint(), pattern(300)),
    "netstring": (Netstring(), b"hello"),
    "block": (ContentLength(), b"{}"),
    "lines": (Delimiter(), b"hello"),
    "fixed": (Fixed(5), b"hello"),
    "escaped": (MultiprocessingConnection(), b"hello"),
}


def end_of(receive: Any, conn: Any) -> ConnectionClosed:
    """The error that the end of the stream is, for an iteration too."""
    try:
        receive(conn)
    except StopIteration:
        return ConnectionClosed()
    except ConnectionClosed as error:
        return error
    raise AssertionError("a message came")


@pytest.mark.case("P04", "D01", "T01")
def test_end_between_frames_is_a_closed_connection(ends, receive):
    """P04, D01"""
    conn, peer = ends[0].connection(), ends[1]
    peer.write(FIELD.encode(b"last"))
    peer.finish()
    assert receive(conn) == b"last"
    for _ in range(3):
        assert type(end_of(receive, conn)) is ConnectionClosed


@pytest.mark.case("P04", "D01")
@pytest.mark.parametrize("kind", END_OF)
@pytest.mark.parametrize("transport", ["socketpair", *peers.PIPES, "foreign"])
def test_end_inside_a_frame_tells_how_far_it_came(tmp_path, transport, kind):
    """P04, D01: at every byte of the frame"""
    framing, message = END_OF[kind]
    frame = framing.encode(message)
    for cut in range(1, len(frame)):
        decoder = reference.ReferenceDecoder(framing)
        decoder.feed(frame[:cut])
        with pytest.raises(IncompleteFrame) as due:
            decoder.eof()
        with linked(transport, tmp_path) as (near, peer):
            conn = near.connection(framing)
            peer.write(frame[:cut])
            peer.finish()
            for _ in range(2):
                with pytest.raises(IncompleteFrame) as told:
                    conn.recv()
                assert (told.value.received, told.value.expected) == due.value.args


@pytest.mark.case("P04")
@pytest.mark.parametrize("framing", [FIELD, MARKED], ids=["plain", "marked"])
@pytest.mark.parametrize("transport", ["socketpair", *peers.PIPES, "foreign"])
def test_end_inside_a_large_frame_tells_how_far_it_came(tmp_path, transport, framing, receive):
    """P04"""
    frame = framing.encode(pattern(50_000))
    header = 6 if framing is MARKED else 4
    for cut in [1, header, 9, 8191, 8193, 8201, 40_000, 49_999, len(frame) - 1]:
        with linked(transport, tmp_path) as (near, peer):
            conn = near.connection(framing)
            peer.write(framing.encode(b"first"))
            assert receive(conn) == b"first"
            peer.write(frame[:cut])
            assert peers.drain(conn, receive) == []  # the end is met in mid-frame
            peer.finish()
            for _ in range(2):
                error = end_of(receive, conn)
                assert type(error) is IncompleteFrame
                expected = len(frame) if cut >= header else header
                assert (error.received, error.expected) == (cut, expected)


def test_iteration_ends_with_the_stream_and_fails_inside_a_frame(ends):
    conn, peer = ends[0].connection(), ends[1]
    peer.write(FIELD.encode(b"a") + FIELD.encode(b"b") + b"\0\0")
    peer.finish()
    received = []
    with pytest.raises(IncompleteFrame):
        for message in conn:
            received.append(message)
    assert received == [b"a", b"b"]


@pytest.mark.case("D07")
def test_half_close_by_the_peer_leaves_the_other_direction(ends):
    """D07"""
    conn, peer = ends[0].connection(), ends[1]
    peer.write(FIELD.encode(b"question"))
    peer.finish()
    assert list(conn) == [b"question"]
    with background(conn.send, pattern(1 << 20)):
        assert peer.read(4 + (1 << 20)) == FIELD.encode(pattern(1 << 20))


@pytest.mark.case("D07")
def test_half_close_of_our_own_still_receives(bare_ends):
    """D07"""
    conn, peer = bare_ends[0].connection(), bare_ends[1]
    conn.send(b"question")
    conn.shutdown(socket.SHUT_WR)
    assert peer.read_all() == FIELD.encode(b"question")
    peer.write(FIELD.encode(b"reply"))
    assert conn.recv() == b"reply"
    with pytest.raises(OSError, match="pipe|descriptor|shut ?down|10058"):
        conn.send(b"more")


def test_half_close_sends_first_what_is_unsent(bare_ends):
    conn, peer = bare_ends[0].connection(), bare_ends[1]
    size = peers.stuff(conn)
    with background(peer.read_all) as everything:
        conn.shutdown(socket.SHUT_WR)
    assert len(everything.finish()) == 4 + size


# ------------------------------------------------------------ resets


@pytest.mark.case("D02")
@resets
@pytest.mark.parametrize("transport", ["tcp4", "tcp6"])
def test_reset_while_recv_waits(tmp_path, transport):
    """D02"""
    with linked(transport, tmp_path) as (near, peer):
        conn = near.connection()
        receiving = asleep(conn, conn.recv)
        reset(peer)
        with pytest.raises(ConnectionResetError):
            receiving.finish()
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                conn.recv()


@pytest.mark.case("D02")
def test_reset_while_send_waits(tcp_ends):
    """D02"""
    conn, peer = tcp_ends[0].connection(), tcp_ends[1]
    sending = asleep(conn, conn.send, bytes(1 << 24))
    reset(peer)
    with pytest.raises(GONE):
        sending.finish()
    for _ in range(2):
        with pytest.raises(GONE):
            conn.send(b"x")


@pytest.mark.case("D02")
@resets
def test_reset_inside_a_frame_stays_a_reset(receive):
    """D02"""
    for n in (1, 4, 9, 8192, 50_000, 100_003):
        with testing.pair(family=socket.AF_INET, reset_at=n) as (conn, peer):
            receiving = asleep(conn, receive, conn)
            with contextlib.suppress(*GONE):
                peer.send(pattern(100_000))
            with pytest.raises(ConnectionResetError):
                receiving.finish()


@pytest.mark.case("D02")
@pytest.mark.parametrize("size", [1, 5000])
def test_reset_that_a_send_meets_is_a_reset(tcp_ends, size):
    """D02: the system tells it once, to whoever asks first"""
    conn, peer = tcp_ends[0].connection(), tcp_ends[1]
    reset(peer)
    with pytest.raises(ConnectionResetError):
        conn.send(bytes(size))


@pytest.mark.case("D02")
def test_reset_that_a_send_has_met_is_no_clean_end_for_recv(tcp_ends, receive):
    """D02"""
    conn, peer = tcp_ends[0].connection(), tcp_ends[1]
    reset(peer)
    with pytest.raises(GONE):
        conn.send(b"x")
    with pytest.raises(ConnectionResetError):
        receive(conn)


SENDS: dict[str, Any] = {
    "send": lambda conn: conn.send(b"x"),
    "of two": lambda conn: conn.send(b"x", b"y"),
    "large": lambda conn: conn.send(bytes(5000)),
    "many": lambda conn: conn.send_many([b"x", b"y"]),
    "request": lambda conn: conn.request(b"x"),
    "requests": lambda conn: conn.request_many([b"x", b"y"]),
    "file": lambda conn: conn.sendfile(io.BytesIO(b"x")),
}


@pytest.mark.case("D02")
@pytest.mark.parametrize("behind", [False, True], ids=["at rest", "behind a tail"])
@pytest.mark.parametrize("send", SENDS)
def test_reset_is_not_forgotten_whatever_send_has_met_it(tcp_ends, send, behind):
    """The system tells it once, to a send that may have been the second of a call."""
    conn, peer = tcp_ends[0].connection(), tcp_ends[1]
    if behind:
        peers.stuff(conn)
    reset(peer)
    with pytest.raises(ConnectionResetError):
        SENDS[send](conn)
    assert conn.unsent == 0
    with pytest.raises(ConnectionResetError):
        conn.recv()


@pytest.mark.case("D09")
def test_send_to_a_closed_peer_fails_and_what_it_had_sent_is_received(own_ends):
    """D09: the first send may still go"""
    conn, peer = own_ends[0].connection(), own_ends[1]
    peer.write(FIELD.encode(b"one") + FIELD.encode(b"two"))
    until(lambda: peers.drain(conn, lambda conn: conn.recv_many(1)) or conn.pending)
    peer.close()
    with pytest.raises(GONE):
        while True:
            conn.send(b"x")
    assert conn.unsent == 0
    with pytest.raises(GONE):
        conn.send_many([b"x"])


@unix
def test_peer_that_closes_over_unread_input_resets(tmp_path):
    with linked("unix", tmp_path) as (near, peer):
        conn = near.connection()
        conn.send(b"never read")
        peer.close()
        with pytest.raises(ConnectionResetError):
            conn.recv()


JUNK = [b"hello\n" * 9, b"\x17\3\3\xff\xff", b"\x17\3\3\0 " + bytes(32)]


@pytest.mark.parametrize("kind", ["tls", "sslsocket"])
@pytest.mark.parametrize("junk", JUNK)
def test_bytes_that_are_no_tls_records_are_named(kind, junk, tmp_path):
    """Releases of OpenSSL have different words for it, of which some say nothing."""
    with linked(kind, tmp_path) as (near, far):
        conn = near.connection()
        far.write(FIELD.encode(b"one"))
        assert conn.recv() == b"one"
        socket.socket.send(far.sock, junk)  # below its TLS
        for call in (conn.recv, conn.recv, lambda: conn.send(b"more")):
            with pytest.raises(ssl.SSLError, match="bytes are not TLS records, or") as told:
                call()
        assert "_ssl.c" not in str(told.value)


@pytest.mark.parametrize("kind", ["tls", "sslsocket"])
@pytest.mark.parametrize("part", [b"", b"\x17\3\3\0 " + bytes(3)])
def test_tls_that_is_cut_is_no_end(kind, part, tmp_path):
    """OpenSSL cannot tell the peer, and may tell that in place of the end."""
    with linked(kind, tmp_path) as (near, far):
        conn = near.connection()
        far.write(FIELD.encode(b"one"))
        assert conn.recv() == b"one"
        socket.socket.send(far.sock, part)
        far.sock.close()
        for _ in range(2):
            with pytest.raises(IncompleteFrame, match="without its close_notify"):
                conn.recv()


# ------------------------------------------------------------ limits


@pytest.mark.case("H02")
def test_frame_above_the_limit_is_refused_from_its_header_alone(ends, receive):
    """H02"""
    conn, peer = ends[0].connection(LengthField(max_frame=1000), timeout=peers.LONG), ends[1]
    peer.write(FIELD.encode(b"fine") + FIELD.encode(bytes(1000)) + b"\0\0\3\xe9")
    assert receive(conn) == b"fine"
    assert receive(conn) == bytes(1000)
    for _ in range(3):
        with pytest.raises(FrameTooLarge) as told:
            receive(conn)
        assert (told.value.length, told.value.limit) == (1001, 1000)


@pytest.mark.case("H03")
@pytest.mark.parametrize("length", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
def test_lengths_that_others_took_for_negative_are_too_large(paired_ends, length):
    """H03"""
    conn, peer = paired_ends[0].connection(), paired_ends[1]
    peer.write(length.to_bytes(4, "big"))
    with pytest.raises(FrameTooLarge) as told:
        conn.recv()
    assert told.value.length == length
    assert told.value.limit == 64 << 20


@pytest.mark.case("H09")
def test_bad_header_is_never_skipped_and_sending_goes_on(ends, receive):
    """H09"""
    conn, peer = ends[0].connection(MARKED, timeout=peers.LONG), ends[1]
    peer.write(MARKED.encode(b"good") + b"Mistake")
    assert receive(conn) == b"good"
    for _ in range(3):
        with pytest.raises(InvalidHeader):
            receive(conn)
        peer.write(MARKED.encode(b"good"))
    conn.send(b"still")
    assert peer.read(12) == MARKED.encode(b"still")


@pytest.mark.parametrize("size", [5, 5000, 100_000])
def test_wrong_trailer_is_refused_however_the_message_was_received(ends, receive, size):
    conn, peer = ends[0].connection(MARKED, timeout=peers.LONG), ends[1]
    frame = MARKED.encode(pattern(size))
    with background(peer.write, MARKED.encode(b"good") + frame[:-1] + b"?"):
        assert receive(conn) == b"good"
        for _ in range(2):
            with pytest.raises(InvalidHeader):
                receive(conn)


def test_recv_many_gives_the_good_frames_first(ends):
    conn, peer = ends[0].connection(LengthField(max_frame=9)), ends[1]
    peer.write(FIELD.encode(b"a") + FIELD.encode(b"b") + b"\xff\xff\xff\xff")
    received = []
    with pytest.raises(FrameTooLarge):
        while True:
            received += conn.recv_many()
    assert received == [b"a", b"b"]


SENDERS = {
    "send": lambda conn, message: conn.send(message),
    "gathered": lambda conn, message: conn.send(message[:1], message[1:]),
    "send_many": lambda conn, message: conn.send_many([message]),
    "request": lambda conn, message: conn.request(message),
    "request_many": lambda conn, message: conn.request_many([message]),
}


@pytest.mark.case("H10")
@pytest.mark.parametrize("send", SENDERS)
def test_refused_send_leaves_the_connection_usable(ends, send):
    """H10"""
    conn, peer = ends[0].connection(LengthField(max_frame=1000)), ends[1]
    with pytest.raises(FrameTooLarge) as told:
        SENDERS[send](conn, bytes(1001))
    assert (told.value.length, told.value.limit) == (1001, 1000)
    assert conn.stats.bytes_out == conn.unsent == 0
    conn.send(bytes(1000))
    assert peer.read(1004) == FIELD.encode(bytes(1000))
    peer.write(FIELD.encode(b"reply"))
    assert conn.recv() == b"reply"


@pytest.mark.case("H11")
@linux
def test_message_that_the_length_field_cannot_carry_is_refused(paired_ends):
    """H11: 4 GiB that take no memory"""
    conn = paired_ends[0].connection(LengthField(max_frame=None))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    with mmap.mmap(-1, 1 << 32, flags) as area, pytest.raises(FrameTooLarge):
        conn.send(area)
    assert conn.stats.bytes_out == 0


# ------------------------------------------------------------ another framing in mid-stream


def test_framing_switched_between_frames_reads_what_was_read_ahead(ends, receive):
    conn, peer = ends[0].connection(Delimiter()), ends[1]
    peer.write(b"HELLO\n" + FIELD.encode(b"frame\n") + b"5:again,")
    assert receive(conn) == b"HELLO"
    conn.framing = FIELD
    assert receive(conn) == b"frame\n"
    conn.framing = Netstring()
    assert receive(conn) == b"again"
    conn.send(b"x")
    assert peer.read(4) == b"1:x,"


def test_framing_switched_after_a_refused_header_reads_it_anew(ends):
    conn, peer = ends[0].connection(), ends[1]
    peer.write(b"GET / HTTP/1.0\n")
    with pytest.raises(FrameTooLarge):
        conn.recv()
    conn.framing = Delimiter()
    assert conn.recv() == b"GET / HTTP/1.0"


@pytest.mark.case("H12")
@pytest.mark.parametrize("size", [100, 20_000], ids=["read ahead", "received in place"])
@pytest.mark.parametrize(
    "after", [LengthField(max_frame=10), Delimiter(), Raw()], ids=["limit", "lines", "raw"]
)
def test_framing_set_inside_a_frame_holds_from_the_next_on(ends, size, after: Format):
    """H12"""
    conn, peer = ends[0].connection(timeout=SHORT), ends[1]
    frame = FIELD.encode(pattern(size))
    peer.write(frame[: size // 2])
    with pytest.raises(TimeoutError):
        conn.recv()
    conn.framing = after
    conn.timeout = peers.LONG
    with background(peer.write, frame[size // 2 :]):
        assert conn.recv() == pattern(size)
    peer.write(frame[:5] + b"\n")
    if after.max_frame == 10:
        with pytest.raises(FrameTooLarge):
            conn.recv()
    else:
        assert conn.recv().startswith(frame[:5])


def test_framing_set_while_a_sender_waits_for_its_turn(own_ends):
    conn, peer = own_ends[0].connection(Netstring()), own_ends[1]
    first = asleep(conn, conn.send, pattern(1 << 24))
    second = Task(conn.send, b"second")
    until(second.is_alive)
    conn.framing = LengthField(trailer=b"!")
    framings = [LengthField(trailer=b"?") for _ in range(100)]  # where the old one was
    frame = Netstring().encode(pattern(1 << 24))
    assert peer.read(len(frame)) == frame
    first.finish()
    second.finish()
    # Which format it has is a matter of moments, but all of it has the same.
    due = {Netstring().encode(b"second"), conn.framing.encode(b"second")}
    with background(conn.close):
        assert peer.read_all() in due
    assert framings
