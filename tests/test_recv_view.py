"""recv_view(): messages looked at where they were received, in memory that is used again."""

from __future__ import annotations

import pickle
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import peers
import pysock
from conftest import unix
from peers import (
    LONG,
    RECEIVERS,
    SHORT,
    Task,
    asleep,
    background,
    linked,
    pattern,
)
from pysock import Connection, ConnectionClosed, FrameTooLarge, IncompleteFrame, InvalidHeader
from pysock.framing import (
    ContentLength,
    Decimal,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Varint,
)

ends, few_ends = peers.ends, peers.few_ends
paired_ends, few_own_ends = peers.paired_ends, peers.few_own_ends

KIB, MIB = 1 << 10, 1 << 20
FIELD = LengthField()
MARKED = LengthField(4, offset=2, magic=b"MK", trailer=b"\xce", counts="body")
KEPT = LengthField(4, offset=3, counts="body", trailer=b"\xce")

# From here on the memory comes from the pool.
POOLED = 128 * KIB
LARGE = 300_000


def letters(size: int) -> bytes:
    """As pattern(), without the bytes that delimit messages."""
    return pattern(size).replace(b"\r", b"r").replace(b"\n", b"n")


def kept(size: int) -> bytes:
    return b"abc" + size.to_bytes(4) + letters(size) + b"\xce"


# What makes a format, and a message that it can carry, of a size.
FORMATS: dict[str, tuple[Callable[[int], Format], Callable[[int], bytes]]] = {
    "LengthField": (lambda size: FIELD, pattern),
    "marked": (lambda size: MARKED, pattern),
    "kept": (lambda size: KEPT, kept),
    "Varint": (lambda size: Varint(), pattern),
    "Netstring": (lambda size: Netstring(), pattern),
    "Decimal": (lambda size: Decimal(b"\r\n"), pattern),
    "ContentLength": (lambda size: ContentLength(), pattern),
    "Delimiter": (lambda size: Delimiter(b"\r\n"), letters),
    "delimiter kept": (lambda size: Delimiter(keep=True), lambda size: letters(size) + b"\n"),
    "Fixed": (Fixed, pattern),
    "multiprocessing": (lambda size: MultiprocessingConnection(), pattern),
}


@pytest.fixture(params=FORMATS)
def carried(request: pytest.FixtureRequest) -> Callable[[int], tuple[Format, bytes]]:
    """Each format, with a message of a size."""
    make, message = FORMATS[request.param]
    return lambda size: (make(size), message(size))


def viewed(conn: Connection) -> bytes:
    with conn.recv_view() as view:
        return bytes(view)


def not_yet(conn: Connection, call: Callable[[Connection], Any]) -> None:
    """Have *call* take in all that has come, which is no whole message."""
    timeout, conn.timeout = conn.timeout, 0
    with pytest.raises(BlockingIOError):
        call(conn)
    conn.timeout = timeout


def in_part(conn: Connection, peer: Any, data: bytes, call: Any = viewed) -> None:
    """Write *data*, which ends inside a message, and have *call* take all of it in."""
    due = conn.stats.bytes_in + len(data)
    with background(peer.write, data):
        while conn.stats.bytes_in < due:
            not_yet(conn, call)


# ------------------------------------------------------------ messages


@pytest.mark.parametrize(
    "size",
    [0, 1, 5000, 65_532, 65_536, POOLED - 1, POOLED, POOLED + 1, LARGE, MIB],
)
def test_view_is_the_message(ends, size):
    conn, peer = ends[0].connection(timeout=LONG), ends[1]
    message = pattern(size)
    with background(peer.write, 2 * FIELD.encode(message) + FIELD.encode(b"next")):
        for _ in range(2):
            with conn.recv_view() as view:
                assert isinstance(view, memoryview)
                assert (view.readonly, view.format, view.ndim) == (True, "B", 1)
                assert view.nbytes == size
                assert view == message
                with pytest.raises(TypeError, match="read-only"):
                    view[:] = message
        assert conn.recv() == b"next"
    assert conn.stats.messages_in == 3
    assert conn.pending == 0


def test_every_format_cut_at_every_byte(carried, paired_ends):
    framing, message = carried(40)
    stream = framing.encode(message)
    conn, peer = paired_ends[0].connection(framing, timeout=LONG), paired_ends[1]
    for cut in range(len(stream)):
        peer.write(stream[:cut])
        not_yet(conn, viewed)
        peer.write(stream[cut:])
        assert viewed(conn) == message
    assert conn.pending == 0


def test_every_format_with_a_large_message_cut_where_it_matters(carried, paired_ends):
    framing, message = carried(LARGE)
    stream = framing.encode(message)
    conn, peer = paired_ends[0].connection(framing, timeout=LONG), paired_ends[1]
    cuts = [*range(34), 8 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, POOLED, POOLED + 9]
    for cut in [*cuts, *range(len(stream) - 8, len(stream))]:
        in_part(conn, peer, stream[:cut])
        with background(peer.write, stream[cut:] + stream):
            assert viewed(conn) == message
            assert viewed(conn) == message
    assert conn.pending == 0


@pytest.mark.case("P06")
@pytest.mark.parametrize("size", [1000, 100_000, LARGE, 3 * MIB])
@pytest.mark.parametrize("then", RECEIVERS)
@pytest.mark.parametrize("first", [name for name in RECEIVERS if name != "recvfile"])
def test_any_call_goes_on_where_another_stopped(paired_ends, first, then, size):
    """P06: with a message of exactly its size"""
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    message = pattern(size)
    stream = FIELD.encode(message)
    for cut in (0, 1, 4, 5, 999, size // 2, size - 1, size + 3):
        begin, end = RECEIVERS[first](), RECEIVERS[then]()
        in_part(conn, peer, stream[:cut], begin)
        with background(peer.write, stream[cut:]):
            result = end(conn)
        assert result == message
        assert sys.getsizeof(result) == sys.getsizeof(bytes(size))
    assert conn.pending == 0


@pytest.mark.case("P06")
@pytest.mark.parametrize("size", [1000, LARGE])
def test_view_goes_on_after_timeouts(few_own_ends, size):
    """P06"""
    conn, peer = few_own_ends[0].connection(MARKED, timeout=SHORT), few_own_ends[1]
    stream = MARKED.encode(pattern(size)) + MARKED.encode(b"next")
    at = 0
    for cut in (5, size // 2, size + 6):
        with background(peer.write, stream[at:cut]), pytest.raises(TimeoutError):
            viewed(conn)
        at = cut
    conn.timeout = LONG
    with background(peer.write, stream[at:]):
        assert viewed(conn) == pattern(size)
    assert viewed(conn) == b"next"


def test_wait_begins_what_a_view_ends(few_own_ends):
    conn, peer = few_own_ends[0].connection(timeout=LONG), few_own_ends[1]
    with background(peer.write, FIELD.encode(pattern(MIB))):
        assert pysock.wait([conn], LONG) == [conn]
        assert viewed(conn) == pattern(MIB)


@pytest.mark.parametrize("size", [30, LARGE])
def test_leftover_of_what_a_view_began(paired_ends, size):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    stream = FIELD.encode(pattern(size))[:-1]
    in_part(conn, peer, stream)
    sock, rest = conn.detach(leftover=True)
    sock.close()
    assert rest == stream


@pytest.mark.parametrize("size", [30, LARGE])
def test_other_framing_inside_the_block(paired_ends, size):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    stream = FIELD.encode(pattern(size)) + Netstring().encode(b"x")
    with background(peer.write, stream), conn.recv_view() as view:
        conn.framing = Netstring()
        assert conn.recv() == b"x"
        assert view == pattern(size)


@unix
@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="no records here")
@pytest.mark.parametrize("framing", [pysock.Raw(), FIELD, MARKED], ids=repr)
@pytest.mark.parametrize("size", [10, 65_536, 140_000])
def test_records(framing, size):
    try:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        pytest.skip("no records of Unix sockets here")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with Connection(near, framing, timeout=LONG) as conn, Connection(far, framing) as other:
        for _ in range(3):
            with background(other.send, pattern(size)):
                assert viewed(conn) == pattern(size)


# ------------------------------------------------------------ the end of the block


@pytest.mark.parametrize("size", [10, 70_000, MIB])
def test_view_is_released_at_the_end_of_the_block(paired_ends, size):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    with background(peer.write, FIELD.encode(pattern(size))), conn.recv_view() as view:
        pass
    for use in (len, bytes, memoryview, lambda view: view[0]):
        with pytest.raises(ValueError, match="released"):
            use(view)


def test_view_is_released_by_an_error_too(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    with background(peer.write, FIELD.encode(pattern(MIB)) + FIELD.encode(b"next")):
        with pytest.raises(KeyError), conn.recv_view() as view:
            raise KeyError
        assert viewed(conn) == b"next"
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_view_may_be_released_early_and_dropped(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    with background(peer.write, 3 * FIELD.encode(pattern(MIB))):
        with conn.recv_view() as view:
            view.release()
        with conn.recv_view() as view:
            del view
        with conn.recv_view():
            pass


KEEPERS: dict[str, Callable[[memoryview], Callable[[], bytes]]] = {
    "slice": lambda view: view[1:].tobytes,
    "reversed": lambda view: view[:0:-1][::-1].tobytes,
    "cast": lambda view: view.cast("b")[1:].tobytes,
    "memoryview": lambda view: memoryview(view)[1:].tobytes,
    "object": lambda view: memoryview(view.obj)[1:].tobytes,
    "exported": lambda view: (lambda raw: lambda: bytes(raw)[1:])(pickle.PickleBuffer(view)),
}


@pytest.mark.parametrize("size", [10, 70_000, POOLED, MIB])
@pytest.mark.parametrize("keep", KEEPERS)
def test_what_is_kept_of_a_view_is_never_overwritten(paired_ends, keep, size):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    messages = [bytes([i]) + pattern(size - 1 + i) for i in range(12)]
    stream = b"".join(map(FIELD.encode, messages))
    with background(peer.write, stream):
        all_kept = []
        for _ in messages:
            with conn.recv_view() as view:
                all_kept.append(KEEPERS[keep](view))
    assert [look() for look in all_kept] == [message[1:] for message in messages]
    # What was kept goes back now, to be used again.
    all_kept.clear()
    with background(peer.write, stream):
        assert [viewed(conn) for _ in messages] == messages


def test_blocks_inside_each_other(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    messages = [bytes([i]) * MIB for i in range(3)]
    stream = b"".join(map(FIELD.encode, messages))
    with background(peer.write, stream), conn.recv_view() as one:
        with conn.recv_view() as two, conn.recv_view() as three:
            assert [one, two, three] == messages
        assert one == messages[0]


def test_nothing_is_received_before_the_block_begins(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    peer.write(FIELD.encode(b"one") + FIELD.encode(b"two"))
    one, two = conn.recv_view(), conn.recv_view()
    with two as view:
        assert view == b"one"
    with one as view:
        assert view == b"two"
    del one, two
    conn.recv_view()


def test_second_block_is_refused_and_takes_nothing(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    peer.write(FIELD.encode(b"one") + FIELD.encode(b"two"))
    receiving = conn.recv_view()
    with receiving as view:
        with pytest.raises(RuntimeError, match="call it again"), receiving:
            pass
        assert view == b"one"
    with pytest.raises(RuntimeError, match="call it again"), receiving:
        pass
    assert conn.recv() == b"two"


def test_block_that_timed_out_may_begin_again(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=SHORT), paired_ends[1]
    receiving = conn.recv_view()
    with pytest.raises(TimeoutError), receiving:
        pass
    peer.write(FIELD.encode(b"late"))
    with receiving as view:
        assert view == b"late"


def test_view_outlives_its_connection(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    with background(peer.write, FIELD.encode(pattern(MIB))), conn.recv_view() as view:
        conn.close()
        assert view == pattern(MIB)


# ------------------------------------------------------------ errors


@pytest.mark.parametrize("size", [30, LARGE])
def test_end_inside_a_message(paired_ends, size):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    in_part(conn, peer, FIELD.encode(pattern(size))[:-1])
    peer.finish()
    for _ in range(2):
        with pytest.raises(IncompleteFrame) as told:
            viewed(conn)
        assert (told.value.received, told.value.expected) == (size + 3, size + 4)


def test_end_between_messages(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=LONG), paired_ends[1]
    peer.finish()
    with pytest.raises(ConnectionClosed), conn.recv_view():
        pass


def test_message_above_the_limit(paired_ends):
    conn = paired_ends[0].connection(LengthField(max_frame=100), timeout=LONG)
    paired_ends[1].write(FIELD.encode(bytes(101)))
    with pytest.raises(FrameTooLarge), conn.recv_view():
        pass


@pytest.mark.parametrize("framing", [MARKED, KEPT], ids=["dropped", "kept"])
@pytest.mark.parametrize("size", [30, LARGE])
def test_wrong_trailer(paired_ends, framing, size):
    conn, peer = paired_ends[0].connection(framing, timeout=LONG), paired_ends[1]
    message = kept(size) if framing is KEPT else pattern(size)
    with background(peer.write, framing.encode(message)[:-1] + b"!"):
        for _ in range(2):
            with pytest.raises(InvalidHeader), conn.recv_view():
                pass


def test_closed_connection(paired_ends):
    conn = paired_ends[0].connection()
    receiving = conn.recv_view()
    conn.close()
    for call in (receiving, conn.recv_view()):
        with pytest.raises(ConnectionClosed), call:
            pass


def test_close_wakes_who_waits_for_a_view(few_own_ends):
    conn = few_own_ends[0].connection(timeout=LONG)
    in_block = asleep(conn, viewed, conn)
    conn.linger = 0
    conn.close()
    with pytest.raises(ConnectionClosed):
        in_block.finish()


@pytest.mark.skipif(sys.platform == "win32", reason="no files as there")
def test_recvfile_that_stopped_in_mid_frame_goes_first(paired_ends):
    conn, peer = paired_ends[0].connection(timeout=SHORT), paired_ends[1]
    peer.write(FIELD.encode(b"hello")[:-1])
    into_file = RECEIVERS["recvfile"]()
    with pytest.raises(TimeoutError):
        into_file(conn)
    with pytest.raises(pysock.FramingError), conn.recv_view():
        pass
    peer.write(b"o")
    assert into_file(conn) == b"hello"


# ------------------------------------------------------------ threads


def test_threads_hold_views_of_one_connection_at_a_time(few_own_ends):
    """Each has memory of its own while the others receive"""
    conn, peer = few_own_ends[0].connection(timeout=LONG), few_own_ends[1]
    count, size = 4, 200_000
    together = threading.Barrier(count)

    def hold() -> list[int]:
        seen = []
        for _ in range(8):
            with conn.recv_view() as view:
                together.wait(LONG)
                assert bytes(view) == bytes([view[0]]) * len(view)
                seen.append(view[0])
                together.wait(LONG)
        return seen

    tasks = [Task(hold) for _ in range(count)]
    for i in range(8 * count):
        peer.write(FIELD.encode(bytes([i]) * (size + 1000 * i)))
    assert sorted(sum((task.finish() for task in tasks), [])) == [*range(8 * count)]


def test_many_connections_share_the_pool(tmp_path):
    """Views, slices that are kept for a while, and messages given up, in all of them"""

    def exchange(number: int) -> None:
        with linked("socketpair", tmp_path) as (near, far):
            conn, other = near.connection(timeout=LONG), far.connection(timeout=LONG)
            kept_ones: list[tuple[memoryview, bytes]] = []
            for i in range(60):
                fill = bytes([number * 60 + i & 255])
                size = POOLED + (number * 37 + i * 11) % 50 * 4096
                with background(other.send, fill * size), conn.recv_view() as view:
                    assert bytes(view) == fill * size
                    kept_ones.append((view[i % 7 :: 5000], fill))
                if len(kept_ones) > number % 4:
                    part, fill = kept_ones.pop(0)
                    assert set(bytes(part)) == set(fill)

    for task in [Task(exchange, number) for number in range(4)]:
        task.finish()
