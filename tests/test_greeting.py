"""What comes before the first message, step by step: when it waits, for what, how it fails."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pysock import AuthenticationError, ConnectionClosed, greeting
from pysock.auth import Prover, Verifier
from pysock.framing import _READ
from pysock.greeting import Steps, binding_of, conduct, prove, wire_of

KEY = bytes(range(32))
NEVER = threading.Event()


class Wire:
    """A wire that brings certain parts, None: nothing yet, and takes what is sent, or some."""

    wants = _READ

    def __init__(self, *parts: bytes | None, room: int | None = None) -> None:
        self._parts = list(parts)
        self._room = room
        self.sent = b""
        self.asked: list[int] = []

    def recv(self, size: int) -> bytes:
        self.asked.append(size)
        part = self._parts.pop(0)
        if part is None:
            raise BlockingIOError
        assert len(part) <= size
        return part

    def send_now(self, data: bytes) -> int:
        taken = data if self._room is None else data[: self._room]
        self.sent += taken
        return len(taken)


class Side:
    """A side of a proof that wants six bytes, once, and looks at each of them."""

    def __init__(self) -> None:
        self.wanted = 6
        self.checked: list[bytes] = []

    def check(self, came: bytes) -> None:
        self.checked.append(came)

    def feed(self, came: bytes) -> bytes:
        assert came == b"abcdef"
        self.wanted = 0
        return b"answer"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


# ---------------------------------------------------------------- the proof of a key


@pytest.mark.parametrize("cut", range(1, 6))
def test_proof_that_comes_in_parts_is_looked_at_as_a_whole(cut: int) -> None:
    wire, side = Wire(None, b"abcdef"[:cut], None, b"abcdef"[cut:]), Side()
    assert list(prove(wire, side, b"first")) == [_READ, _READ]
    assert side.checked == [b"abcdef"[:cut], b"abcdef"]
    assert wire.asked == [6, 6, 6 - cut, 6 - cut]  # never into what follows
    assert wire.sent == b"firstanswer"


@pytest.mark.parametrize("before", [b"", b"abc"])
def test_end_in_a_proof_says_what_that_probably_means(before: bytes) -> None:
    wire = Wire(*([before] if before else []), b"")
    with pytest.raises(AuthenticationError) as caught:
        list(prove(wire, Side()))
    assert str(caught.value) == (
        "the connection ended before the proof of a key (the peer closed the connection): "
        "one end may have no authkey=, or the server refuses this address for a while"
    )
    assert isinstance(caught.value.__cause__, ConnectionClosed)


def test_peer_that_does_not_read_a_proof_is_an_error() -> None:
    with pytest.raises(AuthenticationError) as caught:
        list(prove(Wire(room=4), Side(), b"first"))
    assert str(caught.value) == "the peer does not read what a proof needs"


def test_nothing_is_sent_where_a_proof_begins_with_nothing() -> None:
    wire = Wire(b"abcdef", room=6)
    assert list(prove(wire, Side())) == []
    assert wire.sent == b"answer"


def test_proof_over_sockets(ends: tuple[socket.socket, socket.socket]) -> None:
    prover, verifier = Prover(KEY), Verifier(KEY)
    both = [
        (prove(wire_of(ends[0], None), prover, prover.begin()), ends[0]),
        (prove(wire_of(ends[1], None), verifier), ends[1]),
    ]
    deadline = time.monotonic() + 60
    others = [threading.Thread(target=conduct, args=(*each, deadline, NEVER)) for each in both]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert prover.done
    assert verifier.done


def test_binding_is_nothing_without_tls() -> None:
    assert binding_of(None) == b""


def test_binding_to_a_server_without_a_certificate() -> None:
    class Object:
        def getpeercert(self, binary: bool) -> bytes | None:
            assert binary
            return None

    class Tls:
        object = Object()

    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert binding_of(Tls()).hex() == empty  # the SHA-256 of nothing


# ---------------------------------------------------------------- TLS


@pytest.mark.parametrize("server_side", [False, True])
def test_handshake_that_fails_is_explained_from_the_right_end(server_side: bool) -> None:
    class Tls:
        def __init__(self) -> None:
            self.server_side = server_side

        def handshake(self) -> int:
            raise ConnectionResetError(104, "as the system says it")

    with pytest.raises(ConnectionResetError) as caught:
        list(greeting.secure(Tls()))  # type: ignore[arg-type]
    peer = "client" if server_side else "server"
    said = str(caught.value.strerror)
    assert peer in said
    assert "as the system" not in said


# ---------------------------------------------------------------- waiting between steps


def steps(*wants: int, then: Any = None) -> Steps:
    yield from wants
    if then is not None:
        then()


class Watch:
    """A selector that notes for how long and for what it is asked to wait."""

    def __init__(self) -> None:
        self.waits: list[tuple[int, float | None]] = []
        self._events = 0

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._events == 0

    def register(self, sock: socket.socket, events: int) -> None:
        self._events = events

    def unregister(self, sock: socket.socket) -> None:
        self._events = 0

    def select(self, timeout: float | None) -> None:
        self.waits.append((self._events, timeout))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(greeting, "selector_of_any", lambda: watch)
    return watch


READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def test_it_waits_for_what_a_step_wants_and_not_for_long(watch: Watch) -> None:
    with socket.socket() as sock:
        conduct(steps(READ, 0, WRITE), sock, None, NEVER)
        conduct(steps(READ), sock, time.monotonic() + 1000, NEVER)
    assert watch.waits == [(READ, 0.05), (WRITE, 0.05), (READ, 0.05)]


def test_it_waits_no_longer_than_its_deadline(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 10.5, 10.99, 11.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with socket.socket() as sock, pytest.raises(TimeoutError) as caught:
        conduct(steps(READ, READ, READ, READ, READ), sock, 11.0, NEVER)
    assert str(caught.value) == "the server took too long"
    assert [left for _, left in watch.waits] == [0.05, 0.05, pytest.approx(0.01)]


def test_steps_that_need_no_wait_end_after_their_deadline() -> None:
    with socket.socket() as sock:
        conduct(steps(), sock, time.monotonic() - 1, NEVER)


def test_it_ends_when_it_is_over(ends: tuple[socket.socket, socket.socket]) -> None:
    over = threading.Event()

    def forever() -> Steps:
        yield READ
        over.set()
        yield READ
        pytest.fail("it went on")

    with pytest.raises(ConnectionClosed) as caught:
        conduct(forever(), ends[0], None, over)
    assert str(caught.value) == "the connection is closed"


def test_it_goes_on_when_what_it_waits_for_is_there(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[1].send(b"x")
    came = []
    conduct(steps(READ, then=lambda: came.append(ends[0].recv(1))), ends[0], None, NEVER)
    assert came == [b"x"]
