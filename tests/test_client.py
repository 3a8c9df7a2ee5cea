"""A Client connects itself, and again where that is wanted."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import pytest

import listeners
import peers
from conftest import ipv6, linux, unix
from listeners import Peer
from peers import LONG, PROMPT, SHORT, Task, asleep, background
from pysock import Client, Connection, wait
from pysock.errors import ConnectionClosed, FrameTooLarge, IncompleteFrame
from pysock.framing import Delimiter, LengthField

paired_ends = peers.paired_ends
server, again, transport = listeners.server, listeners.again, listeners.transport

FIELD = LengthField()
GONE = (ConnectionClosed, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


def took(call: Any) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


# ------------------------------------------------------------ addresses


def converse(client: Client, peer: Peer) -> bytes:
    """Have *peer* asked a question; return the reply that comes back."""
    sock = peer.accept()
    client.send(b"question")
    assert sock.recv(99) == FIELD.encode(b"question")
    sock.sendall(FIELD.encode(b"reply"))
    return client.recv()


@pytest.mark.parametrize(
    "form", ["tcp://127.0.0.1:{}", "127.0.0.1:{}", "localhost:{}", "tuple"]
)
def test_client_connects_to_a_port(server, form):
    port = server.name[1]
    address = ("127.0.0.1", port) if form == "tuple" else form.format(port)
    with Client(address) as client:
        assert converse(client, server) == b"reply"
        assert client.getpeername() == server.name


@ipv6
@pytest.mark.parametrize("form", ["tcp://[::1]:{}", "[::1]:{}", "tuple"])
def test_client_connects_to_a_port_over_ipv6(form):
    with contextlib.closing(Peer(socket.AF_INET6, ("::1", 0))) as peer:
        port = peer.name[1]
        with Client(("::1", port) if form == "tuple" else form.format(port)) as client:
            assert converse(client, peer) == b"reply"


@unix
@pytest.mark.parametrize("form", ["unix://{}", "{}", "path"])
def test_client_connects_to_a_path(tmp_path, form):
    path = tmp_path / "sock"
    address = path if form == "path" else form.format(path)
    with (
        contextlib.closing(Peer(socket.AF_UNIX, str(path))) as peer,
        Client(address) as client,
    ):
        assert converse(client, peer) == b"reply"


@linux
def test_client_connects_to_an_abstract_name():
    with contextlib.closing(Peer(socket.AF_UNIX, "")) as peer:  # the system names it
        name = peer.name.decode()
        assert name.startswith("\0")
        with Client(f"unix:@{name[1:]}") as client:
            assert converse(client, peer) == b"reply"


def test_client_takes_a_connected_socket(paired_ends):
    with Client(sock=paired_ends[0].sock, framing=Delimiter()) as client:
        client.send(b"line")
    assert paired_ends[1].read_all() == b"line\n"


def test_client_is_a_connection_with_its_options(server):
    with Client(server.name, Delimiter(), timeout=3, spin=0.001, linger=1) as client:
        assert isinstance(client, Connection)
        assert (client.framing, client.timeout, client.spin) == (Delimiter(), 3.0, 0.001)
        assert client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, TypeError),
        ({"address": "tcp://127.0.0.1:1", "sock": object()}, TypeError),
        ({"address": 5}, TypeError),
        ({"address": "127.0.0.1"}, ValueError),
        ({"address": "udp://127.0.0.1:1"}, ValueError),
        ({"address": "tcp://127.0.0.1:0"}, ValueError),
        ({"address": "tcp://127.0.0.1:1", "connect_timeout": 0}, ValueError),
        ({"address": "tcp://127.0.0.1:1", "connect_timeout": -1}, ValueError),
    ],
    ids=lambda value: str(value)[:60],
)
def test_client_refuses_what_it_cannot_connect_to(options, error):
    with pytest.raises(error):
        Client(**options)


def test_client_that_connects_again_needs_an_address(paired_ends):
    with pytest.raises(ValueError, match="reconnect"):
        Client(sock=paired_ends[0].sock, reconnect=True)
    assert paired_ends[0].sock.fileno() >= 0


# ------------------------------------------------------------ connecting fails


@pytest.mark.case("P22")
def test_refused_connection_is_an_error_at_once(server):
    """P22"""
    server.close()

    def refused() -> None:
        with pytest.raises(ConnectionRefusedError, match=str(server.name[1])):
            Client(server.name)

    assert took(refused) < PROMPT


@pytest.mark.case("P22")
@unix
def test_missing_path_is_an_error_of_its_own(tmp_path):
    """P22"""
    with pytest.raises(FileNotFoundError, match="no server"):
        Client(tmp_path / "missing")


@pytest.mark.case("P21")
@unix
def test_connecting_ends_with_its_timeout(full_backlog):
    """P21"""
    with pytest.raises(TimeoutError):
        Client(full_backlog.getsockname(), connect_timeout=SHORT)


def test_calls_of_a_client_wait_for_ever_unless_told(server):
    with Client(server.name, connect_timeout=SHORT) as client:
        assert client.timeout is None
        receiving = asleep(client, client.recv)
        receiving.join(3 * SHORT)
        server.accept().sendall(FIELD.encode(b"late"))
        assert receiving.finish() == b"late"


@pytest.mark.case("D20")
def test_client_that_connects_once_stays_closed(server):
    with Client(server.name) as client:
        server.accept()
        server.hang_up()
        for _ in range(2):
            with pytest.raises(ConnectionClosed):
                client.recv()


# ------------------------------------------------------------ connecting again


CALLS: dict[str, Any] = {
    "recv": lambda client: client.recv(),
    "next": lambda client: next(client),
    "recv_many": lambda client: client.recv_many(),
    "recv_into": lambda client: client.recv_into(bytearray(9)),
    "recv_view": lambda client: client.recv_view().__enter__(),
    "send": lambda client: client.send(b"x"),
    "send_many": lambda client: client.send_many([b"x"]),
    "request": lambda client: client.request(b"x"),
    "request_many": lambda client: client.request_many([b"x"]),
}


@pytest.mark.case("D20")
@pytest.mark.parametrize("call", CALLS)
def test_call_that_meets_the_end_raises_and_the_next_connects_again(server, again, call):
    again.timeout = LONG
    server.hang_up()
    with pytest.raises((*GONE, StopIteration)):
        while True:  # a send may still go
            CALLS[call](again)
    with background(CALLS[call], again) as calling:
        sock = server.accept()
        sock.sendall(FIELD.encode(b"x"))
        calling.finish()
    if "recv" not in call and call != "next":
        assert sock.recv(99) == FIELD.encode(b"x")  # the new one alone, and once


def test_end_that_wait_has_seen_is_still_raised(server, again):
    server.hang_up()
    assert wait([again], LONG) == [again]
    with pytest.raises(ConnectionClosed):
        again.recv()


def test_end_behind_a_message_is_still_raised(server, again):
    sock = server.served
    sock.sendall(FIELD.encode(b"last"))
    server.hang_up()
    again.timeout = PROMPT
    assert again.recv_many() == [b"last"]
    with pytest.raises(ConnectionClosed):
        again.recv()


def test_bad_header_behind_a_message_is_still_raised(server, again):
    server.served.sendall(FIELD.encode(b"good") + b"\xff\xff\xff\xff")
    again.timeout = PROMPT
    assert again.recv_many() == [b"good"]
    with pytest.raises(FrameTooLarge):
        again.recv_many()


def test_end_inside_a_frame_is_raised_and_its_part_dropped(server, again):
    server.served.sendall(FIELD.encode(b"hello")[:6])
    server.hang_up()
    with pytest.raises(IncompleteFrame):
        again.recv()
    with background(again.recv) as receiving:
        server.accept().sendall(FIELD.encode(b"fresh"))
        assert receiving.finish() == b"fresh"


def test_refused_bytes_are_raised_and_then_it_connects_again(server, again):
    server.served.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(FrameTooLarge):
        again.recv()
    with background(again.recv) as receiving:
        server.accept().sendall(FIELD.encode(b"fresh"))
        assert receiving.finish() == b"fresh"


def test_timeout_is_no_reason_to_connect_again(server, again):
    again.timeout = SHORT
    with pytest.raises(TimeoutError):
        again.request(b"x")
    server.served.sendall(FIELD.encode(b"one"))
    assert again.recv() == b"one"


@pytest.mark.case("D20")
def test_nothing_that_was_unsent_or_owed_is_sent_again(server, again):
    """D20"""
    size = peers.stuff(again)
    assert again.unsent > 0
    again.timeout = SHORT
    with pytest.raises(TimeoutError):
        again.request(b"asked")
    server.hang_up()
    with pytest.raises(GONE):
        again.flush()
    again.timeout = LONG
    with background(again.request, b"fresh") as asking:
        sock = server.accept()
        assert sock.recv(99) == FIELD.encode(b"fresh")
        sock.sendall(FIELD.encode(b"reply"))
        assert asking.finish() == b"reply"
    assert size and again.unsent == 0


def test_socket_of_a_new_connection_has_the_options_too(server, again):
    server.hang_up()
    with pytest.raises(ConnectionClosed):
        again.recv()
    with background(again.send, b"x"):
        server.accept()
    assert again.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert again.fileno() == again.socket.fileno()


def test_server_that_comes_later_is_waited_for(server):
    server.close()
    with pytest.raises(ConnectionRefusedError):
        Client(server.name)
    connecting = Task(lambda: Client(server.name, reconnect=True))
    connecting.join(3 * SHORT)
    assert connecting.is_alive()
    server.listen()
    with connecting.finish() as client:
        assert converse(client, server) == b"reply"


def test_server_that_comes_back_later_is_waited_for(server, again):
    server.close()
    with pytest.raises(ConnectionClosed):
        again.recv()
    receiving = Task(again.recv)
    receiving.join(3 * SHORT)
    assert receiving.is_alive()
    server.listen()
    server.accept().sendall(FIELD.encode(b"back"))
    assert receiving.finish() == b"back"


@pytest.mark.parametrize("late", [False, True], ids=["", "on a machine that sleeps long"])
def test_server_that_stays_away_is_given_up(server, monkeypatch, late):
    server.close()
    nap = threading.Event.wait
    if late:
        monkeypatch.setattr(threading.Event, "wait", lambda over, s: nap(over, s + 5 * SHORT))

    def give_up() -> None:
        with pytest.raises((ConnectionRefusedError, TimeoutError)):
            Client(server.name, reconnect=True, connect_timeout=5 * SHORT)

    assert took(give_up) < PROMPT


def test_connecting_again_counts_against_the_deadline_of_the_call(server, again):
    server.close()
    with pytest.raises(ConnectionClosed):
        again.recv()
    again.timeout = 5 * SHORT

    def give_up() -> None:
        with pytest.raises((ConnectionRefusedError, TimeoutError)):
            again.recv()

    assert took(give_up) < PROMPT
    assert took(give_up) < PROMPT  # and it may be tried again
    server.listen()
    again.timeout = LONG
    with background(again.recv) as receiving:
        server.accept().sendall(FIELD.encode(b"back"))
        assert receiving.finish() == b"back"


def test_attempts_become_rarer(server, monkeypatch):
    server.close()
    naps: list[float] = []
    clock = [0.0]

    def sleep(event: object, seconds: float) -> bool:
        naps.append(seconds)
        clock[0] += seconds
        return False

    monkeypatch.setattr(threading.Event, "wait", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with pytest.raises(ConnectionRefusedError):
        Client(server.name, reconnect=True, connect_timeout=60)
    assert naps[0] < 0.1 and max(naps) <= 2.0
    assert 25 < len(naps) < 80
    assert len(set(naps)) > 10  # clients of one server do not all come at once


def test_threads_that_find_it_broken_connect_once(server, again):
    server.hang_up()
    with pytest.raises(ConnectionClosed):
        again.recv()
    start = threading.Barrier(4)

    def ask(name: bytes) -> bytes:
        start.wait(LONG)
        return again.request(name)

    asking = [Task(ask, b"%d" % i) for i in range(4)]
    with Connection(server.accept(), timeout=LONG) as other:
        for _ in range(4):
            other.send(other.recv())
        assert [task.finish() for task in asking] == [b"0", b"1", b"2", b"3"]
    server.listener.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        server.accept()


def test_reconnect_ends_the_calls_of_other_threads(server, again):
    """One that sends to a peer that does not read, while another has met a bad header"""
    sending = asleep(again, again.send, bytes(1 << 24))
    server.served.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(FrameTooLarge):
        again.recv()
    receiving = Task(again.recv)
    with contextlib.closing(server.served):
        server.served = None  # it does not hang up
        sock = server.accept()
        with pytest.raises((*GONE, OSError)):
            sending.finish(PROMPT)
    sock.sendall(FIELD.encode(b"fresh"))
    assert receiving.finish() == b"fresh"


def test_closed_client_does_not_connect_again(server, again):
    again.close()
    for call in CALLS.values():
        with pytest.raises(ConnectionClosed):
            call(again)


@pytest.mark.case("D10")
def test_close_ends_a_call_that_connects_again(server):
    """Well before connect_timeout"""
    client = Client(server.name, reconnect=True, connect_timeout=2 * PROMPT, linger=0)
    server.accept()
    server.close()
    with pytest.raises(ConnectionClosed):
        client.recv()
    receiving = Task(client.recv)
    receiving.join(2 * SHORT)
    assert took(client.close) < PROMPT
    with pytest.raises(ConnectionClosed):
        receiving.finish(PROMPT / 2)


def test_descriptors_are_not_lost_by_connecting_again(server, again):
    again.timeout = LONG
    for i in range(50):
        server.hang_up()
        with pytest.raises(GONE):
            while True:
                again.request(b"x")
        with background(again.send, b"%d" % i):
            server.accept()
    # The fixture that looks for leaks sees the rest.
    assert again.fileno() < 200


def test_errors_are_a_closed_set(server):
    """Whatever the server does, only documented errors come out"""
    seen: set[type] = set()
    over = time.monotonic() + LONG
    stopped = threading.Event()

    def misbehave() -> None:
        turn = 0
        while not stopped.is_set():
            with contextlib.suppress(TimeoutError):
                sock = server.accept()
                turn += 1
                with contextlib.suppress(OSError):
                    if turn % 3 == 0:
                        sock.sendall(b"\0\0\0\5he")
                    elif turn % 3 == 1:
                        peers.reset(peers.SocketEnd(sock))
                    else:
                        sock.sendall(b"\xff" * 8)

    server.listener.settimeout(SHORT)
    with background(misbehave):
        try:
            with Client(server.name, reconnect=True, timeout=LONG, linger=0) as client:
                while len(seen) < 3 and time.monotonic() < over:
                    try:
                        client.request(b"x")
                    except (*GONE, FrameTooLarge) as error:
                        seen.add(type(error))
        finally:
            stopped.set()
    assert {FrameTooLarge, ConnectionResetError} < seen
