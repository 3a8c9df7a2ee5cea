"""Each fault of pysock.testing is what it says; a pair leaves nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import peers
import pysock
import splitting
from conftest import ipv6, linux, resets, told_queue, unix
from peers import LONG, SHORT, Task, pattern
from pysock import IncompleteFrame, LengthField
from pysock.testing import Faults, Pair, every_cut, pair, socket_pair
from splitting import GONE, receive

family = splitting.family

FIELD = LengthField()


# ------------------------------------------------------------ cut


@told_queue
@pytest.mark.parametrize("cut", [1, 7, [1, 2, 3, 4], "random"])
@pytest.mark.parametrize("blocking", [True, False], ids=["waits", "asks"])
def test_no_recv_returns_bytes_of_two_pieces(family, cut, blocking):
    data, got = pattern(600), []
    with socket_pair(family=family, cut=cut, timeout=None if blocking else 0) as ends:
        a, b = ends
        a.setblocking(True)
        a.sendall(data)
        a.shutdown(socket.SHUT_WR)
        while not got or got[-1]:
            with contextlib.suppress(BlockingIOError):
                got.append(b.recv(4096))
    assert b"".join(got) == data
    sizes = [len(part) for part in got if part]
    assert sizes == ends.pieces[0]
    if isinstance(cut, int):
        assert sizes == [cut] * (600 // cut) + [600 % cut] * bool(600 % cut)
    elif cut != "random":
        assert sizes == [*cut, 590]


def test_pieces_end_at_places_of_the_stream_not_of_a_send():
    with socket_pair(cut=4) as ends:
        for part in (b"abc", b"defghi"):
            ends.a.sendall(part)
            read = b""
            while len(read) < len(part):
                read += ends.b.recv(99)
    assert ends.pieces[0] == [3, 1, 4, 1]


def test_a_piece_comes_when_the_one_before_it_was_received(family):
    with socket_pair(family=family, cut=[4, 4], timeout=SHORT) as ends:
        ends.a.sendall(b"abcdefghi")
        assert ends.b.recv(3) == b"abc"
        ends.b.settimeout(0.0)
        assert ends.b.recv(1, socket.MSG_PEEK) == b"d"
        assert ends.pieces[0] == [4]  # nor is it behind the rest of the first
        ends.b.settimeout(LONG)
        assert [ends.b.recv(9) for _ in range(3)] == [b"d", b"efgh", b"i"]


@pytest.mark.parametrize(
    "cut",
    [(1, 2, 3), [1, 2, 3], lambda: iter([1, 2, 3]), lambda: itertools.count(1)],
    ids=["tuple", "list", "iterator", "endless"],
)
def test_sizes_hold_for_each_direction(cut):
    with socket_pair(cut=cut() if callable(cut) else cut) as ends:
        for sender, receiver in (ends, reversed(tuple(ends))):
            sender.sendall(b"abcdef")
            assert [receiver.recv(9) for _ in range(3)] == [b"a", b"bc", b"def"]
    assert ends.pieces == ([1, 2, 3], [1, 2, 3])


def test_random_pieces_are_told_by_their_seed():
    def pieces(**faults: Any) -> list[int]:
        with socket_pair(**faults) as ends:
            ends.a.sendall(pattern(30_000))
            ends.a.shutdown(socket.SHUT_WR)
            assert b"".join(receive(ends.b)) == pattern(30_000)
        shown.append(repr(ends))
        return ends.pieces[0]

    shown: list[str] = []
    first = pieces(cut="random")
    (seed,) = {int(word.partition(")")[0]) for word in shown[0].split("seed=")[1:]}
    assert pieces(cut="random", seed=seed) == first
    assert pieces(cut=first) == first
    assert pieces(cut="random", seed=seed + 1) != first


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), ("4", TypeError)])
def test_wrong_size_from_an_iterator_is_raised_at_the_end(wrong, error):
    with pytest.raises(error, match="size of cut"), socket_pair(cut=iter([2, wrong])) as ends:
        ends.a.sendall(b"abc")
        with pytest.raises(ConnectionResetError):
            for _ in receive(ends.b):
                pass


@unix
@linux
def test_other_process_gets_single_pieces_too():
    code = "import socket, sys\nsock = socket.socket(fileno=int(sys.argv[1]))\n"
    code += "print([len(part) for part in iter(lambda: sock.recv(99), b'')])"
    with socket_pair(cut=5, timeout=None) as (a, b):
        number = b.fileno()
        command = [sys.executable, "-P", "-c", code, str(number)]
        with subprocess.Popen(command, pass_fds=[number], stdout=subprocess.PIPE) as child:
            b.close()
            a.sendall(bytes(21))
            a.shutdown(socket.SHUT_WR)
            assert child.communicate(timeout=LONG)[0] == b"[5, 5, 5, 5, 1]\n"


# ------------------------------------------------------------ merge, delay


def test_separate_sends_arrive_together(family):
    with socket_pair(family=family, merge=9, pause=LONG) as (a, b):
        for part in (b"abc", b"def", b"ghijkl", b"mno"):
            a.send(part)
        assert b.recv(99) == b"abcdefghi"
        a.shutdown(socket.SHUT_WR)
        assert b"".join(receive(b)) == b"jklmno"


@pytest.mark.parametrize("merge", [True, 1000])
def test_pause_of_the_sender_ends_the_wait(family, merge):
    with pair(family=family, merge=merge, pause=SHORT) as ends:
        for _ in range(2):
            assert Task(ends.a.request, b"one") and ends.b.recv() == b"one"
            ends.b.send(b"two")
    with socket_pair(merge=merge, pause=LONG) as (a, b):
        for part in (b"abc", b"def"):
            a.send(part)
        a.close()
        assert list(receive(b)) == [b"abcdef"]


def test_what_was_merged_can_be_cut():
    with socket_pair(merge=9, cut=[4, 1], pause=LONG) as (a, b):
        for part in (b"abc", b"def", b"ghi"):
            a.send(part)
        assert [b.recv(99) for _ in range(3)] == [b"abcd", b"e", b"fghi"]


def test_delay_is_between_pieces():
    with socket_pair(cut=3, delay=10 * LONG, timeout=SHORT) as (a, b):
        a.send(b"abcdef")
        assert b.recv(9) == b"abc"
        with pytest.raises(TimeoutError):
            b.recv(9)
    with socket_pair(cut=1, delay=SHORT / 4) as (a, b):
        a.send(b"abcdef")
        assert [b.recv(9) for _ in range(3)] == [b"a", b"b", b"c"]


# ------------------------------------------------------------ ends and resets


@resets
@pytest.mark.parametrize("cut", [None, 2])
def test_reset_after_each_number_of_bytes(family, cut):
    for n in range(7):
        with socket_pair(family=family, cut=cut, reset_at=n) as ends:
            with contextlib.suppress(*GONE):
                ends.a.sendall(b"abcdef")
            read = b""
            with pytest.raises(ConnectionResetError):
                for part in receive(ends.b):
                    read += part
            assert read == b"abcdef"[:n]
            with contextlib.suppress(ConnectionResetError):  # it is told once
                assert ends.a.recv(9) == b""
            with pytest.raises(GONE):
                ends.a.sendall(b"more")
        assert "reset" in repr(ends)


@resets
def test_reset_is_told_to_both_ends(family):
    with pair(family=family, reset_at=6) as (a, b):
        a.send(b"hello")
        for end in (b, a):
            with pytest.raises(ConnectionResetError):
                end.recv()


@resets
def test_reset_ends_a_send_that_waits(family):
    with pair(family=family, cut=1000, reset_at=5000) as (a, b):
        receiving = Task(b.recv)
        with pytest.raises(GONE):
            a.send(bytes(1 << 24))
        with pytest.raises(ConnectionResetError):
            receiving.finish()


def test_end_after_each_number_of_bytes(family):
    frame = FIELD.encode(b"abc")
    for n in range(len(frame)):
        with pair(family=family, end_at=n, back=Faults()) as (a, b):
            a.send(b"abc")
            with pytest.raises(IncompleteFrame if n else pysock.ConnectionClosed):
                b.recv()
            a.send(b"dropped")
            b.send(pattern(100_000)[:50_000])
            assert a.recv() == pattern(50_000)


def test_directions_have_faults_of_their_own(family):
    with socket_pair(family=family, cut=2, back=Faults(cut=3)) as ends:
        for sender, receiver in (ends, reversed(tuple(ends))):
            sender.sendall(b"abcdef")
            read = b""
            while len(read) < 6:
                read += receiver.recv(9)
    assert ends.pieces == ([2, 2, 2], [3, 3])


def test_what_users_do_to_an_end_reaches_the_other(family):
    with pair(family=family, cut=1) as (a, b):
        a.send(b"question")
        a.shutdown(socket.SHUT_WR)
        assert list(b) == [b"question"]
        b.send(b"answer")
        b.close()
        assert list(a) == [b"answer"]
    with socket_pair(family=family, cut=1) as (a, b):
        a.sendall(b"last")
        b.shutdown(socket.SHUT_WR)
        assert a.recv(9) == b""
        assert [b.recv(9) for _ in range(4)] == [b"l", b"a", b"s", b"t"]
    with socket_pair(family=family, cut=1) as (a, b):
        a.sendall(b"last")
        a.close()
        assert len(list(receive(b))) == 4
        with pytest.raises(GONE):
            while True:
                b.sendall(b"nobody reads this")


@resets
@pytest.mark.parametrize("name", ["AF_INET", pytest.param("AF_INET6", marks=ipv6)])
def test_reset_by_a_user_reaches_the_other_end_behind_the_bytes(name):
    with socket_pair(family=getattr(socket, name), cut=1) as (a, b):
        a.sendall(b"abc")
        peers.reset(peers.SocketEnd(a))
        read = b""
        with pytest.raises(ConnectionResetError):
            for part in receive(b):
                read += part
        assert read == b"abc"


# ------------------------------------------------------------ nothing is left


@pytest.mark.parametrize("size", [100, 1 << 22])
@pytest.mark.parametrize(
    "faults", [{}, {"cut": 1}, {"merge": True}, {"delay": 9 * LONG}], ids=repr
)
def test_pair_that_is_never_read_closes(family, faults, size):
    with pair(family=family, timeout=0, **faults) as ends:
        for end in ends:
            with contextlib.suppress(BlockingIOError):
                end.send(bytes(size))
    assert ends.a.closed and ends.b.closed


@pytest.mark.parametrize("make", [pair, socket_pair])
def test_error_in_the_body_has_the_pair_as_a_note(make):
    def fail() -> None:
        with make(cut=2) as (a, _):
            a.send(b"abc")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as told:
        fail()
    (note,) = told.value.__notes__
    assert note.startswith("<Pair over ") and "Faults(cut=2)" in note


def test_end_that_was_given_away_is_its_takers():
    with pair(cut=3) as ends:
        ends.b.send(b"x")
        assert ends.a.recv() == b"x"
        taken = ends.a.detach()
    with taken:
        assert taken.recv(9) == b""


@unix
def test_descriptor_that_is_used_again_is_not_touched():
    """A Unix socket is reset by a byte that it seems to have sent."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        with socket_pair(family=socket.AF_UNIX) as (a, b):
            number = b.detach()
            os.dup2(writer, number)  # which closes the socket
            with pytest.raises(GONE):
                while True:
                    a.sendall(b"nobody reads this")
            with pytest.raises(BlockingIOError):
                os.read(reader, 9)
            os.close(number)
    finally:
        os.close(reader)
        os.close(writer)


def test_pair_opens_once():
    ends = pair()
    with pytest.raises(RuntimeError, match="with"):
        ends.__exit__(None, None, None)
    with ends:
        pass
    with pytest.raises(RuntimeError, match="a new one"), ends:
        pass


@linux
@pytest.mark.parametrize("what", ["socketpair", "eventfd", "start"])
def test_pair_that_cannot_be_opened_leaves_nothing(monkeypatch, what):
    calls: list[Any] = []

    def fail_later(*args: Any) -> Any:
        calls.append(args)
        if what == "socketpair" and len(calls) == 1:
            return socketpair(*args)
        raise OSError(24, "too many open files")

    socketpair = socket.socketpair
    where = {"socketpair": socket, "eventfd": os, "start": threading.Thread}
    monkeypatch.setattr(where[what], what, fail_later)
    with pytest.raises(OSError, match="too many"), pair(cut=1):
        pass
    assert calls


def test_both_ends_from_two_threads(family):
    """More than all buffers hold, both ways at once."""
    messages = [pattern(size) for size in (1, 70_000, 300_000)]
    with pair(family=family, timeout=LONG, cut="random", seed=1) as (a, b):
        sending = [Task(end.send_many, messages) for end in (a, b)]
        receiving = [Task(lambda end: [end.recv() for _ in messages], end) for end in (a, b)]
        assert [task.finish() for task in sending + receiving] == [3, 3, messages, messages]


def test_default_timeout_of_sockets_changes_nothing():
    socket.setdefaulttimeout(10 * LONG)
    try:
        with socket_pair(cut=1, timeout=LONG) as (a, b):
            assert a.gettimeout() == LONG
            a.sendall(b"ab")
            assert [b.recv(9), b.recv(9)] == [b"a", b"b"]
    finally:
        socket.setdefaulttimeout(None)


# ------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("faults", "error", "match"),
    [
        ({"cut": 0}, ValueError, "cut is 0"),
        ({"cut": -1}, ValueError, "cut is -1"),
        ({"cut": True}, TypeError, "cut is a bool"),
        ({"cut": 1.5}, TypeError, "cut is a float"),
        ({"cut": "often"}, TypeError, "cut is a str"),
        ({"cut": b"\1\2"}, TypeError, "cut is a bytes"),
        ({"cut": [3, 0]}, ValueError, "size of cut is 0"),
        ({"cut": [3, "4"]}, TypeError, "size of cut is a str"),
        ({"merge": 0}, ValueError, "merge is 0"),
        ({"merge": 1 << 20}, ValueError, "at most 32768"),
        ({"merge": "all"}, TypeError, "merge is a str"),
        ({"pause": -1}, ValueError, "pause is -1"),
        ({"delay": float("nan")}, ValueError, "delay is nan"),
        ({"delay": "1"}, TypeError, "delay is a str"),
        ({"reset_at": -1}, ValueError, "reset_at is -1"),
        ({"reset_at": 1.0}, TypeError, "reset_at is a float"),
        ({"end_at": -1}, ValueError, "end_at is -1"),
        ({"end_at": 1, "reset_at": 1}, ValueError, "one of them"),
        ({"short_writes": 0}, ValueError, "short_writes is 0"),
        ({"seed": 1}, ValueError, "seed is given"),
        ({"seed": "x", "cut": "random"}, TypeError, "seed is a str"),
        ({"back": {"cut": 1}}, TypeError, "back is a dict"),
        ({"family": 99}, ValueError, "family is 99"),
        ({"timeout": -1}, ValueError, "timeout is -1"),
        ({"timeout": "1"}, TypeError, "timeout is a str"),
        ({"cuts": 1}, TypeError, "cuts"),
    ],
)
@pytest.mark.parametrize("make", [pair, socket_pair])
def test_bad_argument_is_refused_at_once(make: Callable[..., Pair[Any]], faults, error, match):
    with pytest.raises(error, match=match):
        make(**faults)


def test_bad_argument_of_every_cut_or_of_a_connection():
    for framing in (4, "line"):
        with pytest.raises(TypeError, match="expected a format"):
            pair(framing)
    for data, read, error in (
        (b"", bytes, ValueError),
        ("x", bytes, TypeError),
        (b"x", 5, TypeError),
    ):
        with pytest.raises(error):
            every_cut(data, read)


@unix
def test_repr_tells_what_happened():
    ends = pair(cut=[3, 2], back=Faults(merge=True))
    assert repr(ends) == (
        "<Pair over AF_UNIX, not opened; "
        "a to b: Faults(cut=(3, 2)); b to a: Faults(merge=True)>"
    )
    assert ends.pieces == ([], [])
    with ends as (a, b):
        a.send(b"hello")
        assert b.recv() == b"hello"
        state = "a to b: 9 bytes as 3 + 2 + 4, Faults(cut=(3, 2)); "
        state += "b to a: nothing, Faults(merge=True)>"
        assert repr(ends) == f"<Pair over AF_UNIX, open; {state}"
    assert repr(ends) == f"<Pair over AF_UNIX, closed; {state}"
    with socket_pair(cut=itertools.cycle([1, 2]), timeout=LONG) as both:
        both.a.sendall(bytes(60))
        for _ in range(30):
            both.b.recv(2)
        shown = repr(both)
        assert f"bytes as {'1 + 2 + ' * 6}..., 1" in shown
        assert " more held back, Faults(cut=<iterator>); b to a" in shown


def test_faults_are_values():
    assert Faults(cut=[1, 2]) == Faults(cut=(1, 2)) != Faults(cut=(2, 1))
    assert repr(Faults()) == "Faults()"
    faults = Faults(cut="random", merge=7, reset_at=4)
    assert eval(repr(faults)) == faults
