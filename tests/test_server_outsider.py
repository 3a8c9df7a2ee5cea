"""What an outsider found: few peers with little effort that kept a server from all others."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from typing import Any

import pytest

import pysock
from conftest import TIME_FACTOR, linux
from gate import SOON, Echo, client, connected, frame, serving, warnings_in
from peers import LONG, run_python, until
from pysock import handshake
from pysock.handshake import Handshakes

KEY = bytes(range(32))


@pytest.mark.parametrize("handler", [bytes.upper, Echo], ids=["handler", "session"])
def test_garbage_fills_no_log(handler, caplog):
    with serving(handler) as server:
        for _ in range(60):
            with connected(server) as sock:
                sock.sendall(b"\xff\xff\xff\xff")
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
        until(lambda: server.stats["connections"] == 0)
    assert 0 < len(warnings_in(caplog)) < 60


def endless(message: bytes) -> Any:
    return itertools.repeat(bytes(100)) if message == b"endless" else [message]


@pytest.mark.parametrize("workers", [0, 1])
def test_endless_replies_to_one_who_reads_are_shared_out(workers):
    """The peer takes whatever comes, so that the server is never blocked."""
    over = threading.Event()

    def drink(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set() and sock.recv(1 << 20):
                pass

    with serving(endless, workers=workers) as server, connected(server) as greedy:
        greedy.sendall(frame(b"endless"))
        thread = threading.Thread(target=drink, args=(greedy,))
        thread.start()
        try:
            with client(server) as other:
                for _ in range(5):
                    assert other.request(b"x") == b"x"
            server.stop(drain=0)
        finally:
            over.set()
            greedy.shutdown(socket.SHUT_RDWR)
            thread.join(LONG)


def test_silent_strangers_make_room_before_who_has_spoken(monkeypatch):
    """Who has a key sends his HELLO at once."""
    monkeypatch.setattr(handshake, "_SILENCE", 0.1)
    monkeypatch.setattr(handshake, "_LONG_PATIENCE", 2.0)
    handshakes = Handshakes(None, (), 10.0, authkey=KEY)
    pairs = [socket.socketpair() for _ in range(3)]
    ends = [end for pair in pairs for end in pair]
    try:
        early, silent, late = (Stranger(near) for near, _ in pairs)
        for number, one in enumerate((early, silent, late)):
            handshakes.begin(one, float(number))
        pairs[0][1].sendall(b"\xff")
        assert handshakes.step(early, 2.0) == 1  # it has begun to speak
        assert handshakes.dispensable(2.0) is silent
        assert handshakes.makes_room_at(short=True) == pytest.approx(1.1)
        handshakes.forget(silent)
        handshakes.forget(late)
        assert handshakes.dispensable(2.0) is early
        assert handshakes.makes_room_at(short=True) == pytest.approx(2.0)
        handshakes.forget(early)
        assert handshakes.dispensable(2.0) is None
    finally:
        for end in ends:
            end.close()


class Stranger:
    """As much of a served connection as a handshake needs."""

    _crypt = None
    client_address = ("127.0.0.1", 1)

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock


def test_strangers_in_a_queue_do_not_keep_a_key_out():
    """They come again as often as they are sent away, and say nothing."""
    with serving(bytes.upper, authkey=KEY, max_connections=4) as server:
        over = threading.Event()

        def come_again() -> None:
            held: list[socket.socket] = []
            while not over.is_set():
                with contextlib.suppress(OSError):
                    held.append(socket.create_connection(server.server_address, 0.2))
                if len(held) > 20:
                    held.pop(0).close()
            for sock in held:
                sock.close()

        threads = [threading.Thread(target=come_again) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                with pysock.Client(server.address, authkey=KEY, timeout=SOON) as one:
                    assert one.request(b"x") == b"X"
        finally:
            over.set()
            for thread in threads:
                thread.join(LONG)


@linux
def test_session_has_its_descriptor_to_be_woken_by():
    """As many sessions as `max_connections` says can wait at a time."""
    program = """
import logging, resource, pysock
logging.disable()
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
class Wait(pysock.Session):
    def handle(self):
        for message in self.connection:
            self.connection.send(message)
with pysock.Server("127.0.0.1:0", Wait, max_connections=1000) as server:
    handler = pysock.Server("127.0.0.1:0", bytes.upper, max_connections=1000)
    print(server.max_connections, handler.max_connections)
    handler.server_close()
"""
    assert run_python(program + "\n").split() == ["118", "236"]


@pytest.mark.slow
@pytest.mark.timeout(120 * TIME_FACTOR)
def test_burst_does_not_pay_for_a_long_drip():
    """Most of a frame comes at once, the rest a byte now and then."""
    over = threading.Event()
    with serving(len_of, minimum_rate=(1, 1024)) as server, connected(server) as sock:
        size = 8 << 20
        sock.sendall(size.to_bytes(4, "big") + bytes(100_000))
        over.wait(0.6)  # the frame has been looked at
        sock.settimeout(LONG)
        sock.sendall(bytes(size - 100_000 - 4096))
        with contextlib.suppress(OSError):
            while server.stats["connections"] and not over.wait(0.5):
                sock.sendall(b"x")
        assert server.stats["overdue"] == 1


def len_of(message: bytes) -> bytes:
    return b"%d" % len(message)
