"""Streams that are no sockets, and return from their methods what no socket would."""

from __future__ import annotations

from typing import Any

import pytest

from peers import SHORT, pattern
from pysock import Connection, IncompleteFrame, LengthField, recv_exactly


class Liar:
    """Gives the beginning of a frame, then returns what it is told to, or calls it."""

    def __init__(self, got: Any = 0, sent: Any = 0) -> None:
        self._got, self._sent = got, sent
        self._begun = False

    def recv_into(self, buffer: memoryview) -> Any:
        if not self._begun:
            self._begun = True
            buffer[:6] = b"\0\0\0\x05he"
            return 6
        return self._got(len(buffer)) if callable(self._got) else self._got

    def send(self, data: memoryview) -> Any:
        return self._sent(len(data)) if callable(self._sent) else self._sent

    def settimeout(self, timeout: float | None) -> None:
        pass

    def close(self) -> None:
        pass


IMPOSSIBLE = [-1, -11, lambda size: size + 1, 1 << 20, 1 << 40]
NO_NUMBER = [(None, TypeError), ("5", TypeError), (1.0, TypeError), (1 << 70, OverflowError)]


@pytest.mark.case("Z07")
@pytest.mark.parametrize("got", IMPOSSIBLE)
def test_more_bytes_than_there_is_room_for_are_refused(got: Any) -> None:
    with Connection(Liar(got), linger=0.0) as conn:
        for _ in range(2):
            with pytest.raises(
                OSError, match=r"Liar\.recv_into\(\) returned -?\d+ for \d+ bytes"
            ):
                conn.recv()
        assert (conn.pending, conn.stats.bytes_in) == (6, 6)


@pytest.mark.case("Z07")
@pytest.mark.parametrize("got", IMPOSSIBLE)
def test_more_bytes_than_were_asked_for_are_refused(got: Any) -> None:
    with pytest.raises(OSError, match=r"recv_into\(\) returned"):
        recv_exactly(Liar(got), 100)


@pytest.mark.case("Z07")
@pytest.mark.parametrize("sent", [-1, -11, lambda size: size + 1, 1 << 40])
def test_more_bytes_sent_than_there_were_are_refused(sent: Any) -> None:
    with Connection(Liar(sent=sent), linger=0.0, timeout=SHORT) as conn:
        with pytest.raises(OSError, match=r"Liar\.send\(\) returned -?\d+ for 9 bytes"):
            conn.send(b"hello")
        assert conn.stats.bytes_out == 0


@pytest.mark.case("Z07")
@pytest.mark.parametrize(("wrong", "error"), NO_NUMBER)
def test_what_is_no_number_is_refused(wrong: Any, error: type[Exception]) -> None:
    with Connection(Liar(wrong, wrong), linger=0.0, timeout=SHORT) as conn:
        with pytest.raises(error):
            conn.recv()
        with pytest.raises(error):
            conn.send(b"hello")


class Keeper:
    """Keeps what it was given, and the memory that it was to fill."""

    def __init__(self, came: bytes) -> None:
        self.came, self.kept = came, list[Any]()

    def recv_into(self, buffer: memoryview) -> int:
        n = min(len(buffer), len(self.came))
        buffer[:n] = self.came[:n]
        self.came = self.came[n:]
        self.kept.append(buffer[:n])
        return n

    def send(self, data: Any) -> int:
        self.kept.append(memoryview(data)[: 1 << 17])
        return len(self.kept[-1])

    def close(self) -> None:
        pass


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_what_it_keeps_does_not_change(size: int) -> None:
    data = pattern(size)
    stream = LengthField().encode(data) + LengthField().encode(b"x" * size)
    keeper = Keeper(stream)
    with Connection(keeper, linger=0.0) as conn:
        assert [conn.recv(), conn.recv()] == [data, b"x" * size]
    for each in keeper.kept:
        each[:] = bytes(len(each))  # nobody else's memory
    keeper = Keeper(b"")
    with Connection(keeper, linger=0.0) as conn:
        conn.send_many([data, b"x" * size])
    assert b"".join(keeper.kept) == stream


@pytest.mark.case("Z07")
def test_byte_by_byte_to_the_last_of_the_room_is_taken() -> None:
    def fill(size: int) -> int:
        return size

    with Connection(Liar(fill, 1), LengthField(max_frame=1 << 20), linger=0.0) as conn:
        assert conn.recv()[:2] == b"he"
        conn.send(b"hello")
        assert conn.stats.bytes_out == 9
    with Connection(Liar(0), linger=0.0) as conn, pytest.raises(IncompleteFrame):
        conn.recv()
