"""sendfile stopped at the very end of its frame: the same call again sends nothing twice."""

from __future__ import annotations

import io

import pytest

import peers
from peers import LONG, SHORT, background, pattern
from pysock import Connection
from pysock.errors import FramingError
from pysock.framing import Format, LengthField, Netstring

tight_ends = peers.tight_ends

SIZE = 256 * 1024 - 1  # a file that is read at once
FORMATS = [LengthField(), Netstring()]


def stop_at_the_end(conn, framing: Format) -> io.BytesIO:
    """Send a file of which the last bytes have left the file, and not this end."""
    file = io.BytesIO(pattern(SIZE))
    conn.timeout = SHORT
    for _ in range(3):
        with pytest.raises(TimeoutError) as told:
            conn.sendfile(file)
        assert told.value.accepted is True
    conn.timeout = LONG
    return file


def take_all(conn: Connection) -> list[bytes]:
    """Close in the end, which the other end's close may wait for."""
    with conn:
        return list(conn)


@pytest.mark.parametrize("framing", FORMATS, ids=["field", "netstring"])
def test_sendfile_that_timed_out_again_is_sent_once(tight_ends, framing: Format):
    conn, peer = tight_ends[0].connection(framing), tight_ends[1]
    file, stream = stop_at_the_end(conn, framing), framing.encode(pattern(SIZE))
    with background(peer.read, len(stream)) as reading:
        assert conn.sendfile(file) == SIZE
        assert reading.finish() == stream
    assert conn.stats.messages_out == 1
    conn.send(b"next")
    assert peer.read(len(framing.encode(b"next"))) == framing.encode(b"next")


@pytest.mark.parametrize("framing", FORMATS, ids=["field", "netstring"])
def test_sendfile_whose_end_was_flushed_needs_only_to_return(tight_ends, framing: Format):
    conn, peer = tight_ends[0].connection(framing), tight_ends[1]
    file, stream = stop_at_the_end(conn, framing), framing.encode(pattern(SIZE))
    with background(peer.read, len(stream)) as reading:
        conn.flush()
        assert reading.finish() == stream
    with pytest.raises(FramingError, match="call it again"):
        conn.send(b"other")
    assert conn.sendfile(file) == SIZE
    assert conn.stats.messages_out == 1


@pytest.mark.parametrize("framing", FORMATS, ids=["field", "netstring"])
def test_close_behind_the_end_of_a_file_is_a_clean_one(tight_ends, framing: Format):
    conn = tight_ends[0].connection(framing, linger=LONG)
    stop_at_the_end(conn, framing)
    with background(take_all, tight_ends[1].connection(framing)) as taking:
        conn.close()
        assert taking.finish() == [pattern(SIZE)]


def test_frame_of_a_file_ends_in_the_format_that_it_began_in(tight_ends):
    conn, peer = tight_ends[0].connection(Netstring(), timeout=SHORT), tight_ends[1]
    file, stream = io.BytesIO(pattern(SIZE)), Netstring().encode(pattern(SIZE))
    with pytest.raises(TimeoutError):
        conn.sendfile(file)
    conn.timeout = LONG
    conn.framing = LengthField()
    with background(peer.read, len(stream)) as reading:
        assert conn.sendfile(file) == SIZE
        assert reading.finish() == stream
    conn.send(b"next")
    assert peer.read(8) == LengthField().encode(b"next")
