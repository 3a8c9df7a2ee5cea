"""A client whose datagrams find nobody, or no room, and one that is misused."""

from __future__ import annotations

import errno
import os
import random
import re
import selectors
import socket
from typing import Any

import pytest

import datagrams
from conftest import linux, unix
from datagrams import address_of, plain, stuff
from peers import LONG, SHORT, Task, asleep, run_python
from pysock import DatagramClient, DatagramServer

udp_ends, unix_ends, receive = datagrams.udp_ends, datagrams.unix_ends, datagrams.receive


# ------------------------------------------------------------ nobody there


def closed_address(kind: str, folder: Any) -> str:
    with plain(kind, folder) as sock:
        return address_of(sock)


@pytest.mark.case("G07")
@linux
@pytest.mark.parametrize("kind", datagrams.INTERNET)
def test_closed_port_is_told_once_and_the_client_goes_on(kind, receive, tmp_path):
    """G07"""
    with DatagramClient(closed_address(kind, tmp_path), timeout=LONG) as client:
        name = client.getpeername()
        client.send(b"lost")
        with pytest.raises(ConnectionRefusedError):
            receive(client)
        client.send(b"lost")
        with pytest.raises(ConnectionRefusedError):
            client.send(b"told now")
        with socket.socket(client.socket.family, socket.SOCK_DGRAM) as late:
            late.settimeout(LONG)
            late.bind(name)
            client.send(b"heard")
            assert late.recv(99) == b"heard"
            late.sendto(b"reply", client.getsockname())
            assert receive(client) == b"reply"


@pytest.mark.case("G07")
@linux
def test_error_behind_datagrams_comes_after_them(udp_ends):
    """G07: recv_many() gives first what had come"""
    client, peer = udp_ends.client, udp_ends.peer
    udp_ends.say(b"a", b"b")
    peer.close()
    client.send(b"lost")
    try:
        seen = client.recv_many()
    except ConnectionRefusedError:  # the system tells errors first
        seen = client.recv_many()
    assert seen == [b"a", b"b"]
    client.timeout = 0
    with pytest.raises(BlockingIOError):
        client.recv()


@pytest.mark.case("G12")
@unix
def test_missing_dead_and_foreign_paths_are_told_apart(tmp_path):
    """G12"""
    dead, stream = tmp_path / "dead", tmp_path / "stream"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(dead))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stream))
        listener.listen()
        (tmp_path / "file").touch()
        for name, error, told in (
            ("missing", FileNotFoundError, "no server has made this path"),
            ("dead", ConnectionRefusedError, "no server receives on this path any more"),
            ("stream", OSError, "what is there is a stream socket: use Client"),
            ("file", ConnectionRefusedError, "no server receives on this path any more"),
        ):
            where = str(tmp_path / name)
            with pytest.raises(error, match=f"cannot send to .*{re.escape(where)}: .*{told}"):
                DatagramClient(where)


@pytest.mark.case("G12")
@unix
def test_unix_client_hears_of_its_server_end_and_finds_the_next(unix_ends):
    """G12: a server that starts again at the same path is found"""
    client, peer = unix_ends.client, unix_ends.peer
    path = peer.getsockname()
    client.send(b"x")
    peer.close()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            client.send(b"lost")
    with pytest.raises(ConnectionRefusedError) as caught:
        client.send_many([b"lost", b"lost"])
    assert caught.value.accepted == 0  # type: ignore[attr-defined]
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(path)
        again.settimeout(LONG)
        client.send(b"heard")
        assert again.recv(99) == b"heard"


# ------------------------------------------------------------ a full queue


@pytest.mark.case("G10")
@linux
def test_full_queue_waits_until_the_deadline(unix_ends):
    """G10"""
    client = unix_ends.client
    held = stuff(client)
    client.timeout = SHORT
    name = unix_ends.peer.getsockname()
    for sending in (
        lambda: client.send(b"x"),
        lambda: client.sendto(b"x", name),
        lambda: client.request(b"x"),
    ):
        with pytest.raises(TimeoutError):
            sending()
    assert [unix_ends.hear() for _ in range(held)] == [b"stuffed"] * held
    with pytest.raises(TimeoutError) as caught:
        client.send_many([b"%d" % number for number in range(1000)])
    assert caught.value.accepted == held  # type: ignore[attr-defined]
    assert [unix_ends.hear() for _ in range(held)] == [b"%d" % n for n in range(held)]


@pytest.mark.case("G10")
@linux
def test_full_queue_is_told_at_once_without_waiting(unix_ends):
    """G10"""
    client = unix_ends.client
    client.timeout = 0
    with pytest.raises(BlockingIOError) as caught:
        client.send_many([b"x"] * 1000)
    held = caught.value.accepted  # type: ignore[attr-defined]
    assert 0 < held < 1000
    for sending in (
        lambda: client.send(b"x"),
        lambda: client.sendto(b"x", unix_ends.peer.getsockname()),
        lambda: client.request(b"x", timeout=0),
    ):
        with pytest.raises(BlockingIOError) as caught:
            sending()
        assert caught.value.errno == errno.EAGAIN
    assert client.stats.messages_out == held


@pytest.mark.case("G10")
@linux
@pytest.mark.parametrize("way", ["send", "sendto", "send_many"])
def test_room_in_a_full_queue_lets_the_sender_go_on(unix_ends, way):
    """G10: connected or not, without a busy loop"""
    client = unix_ends.client
    held = stuff(client)
    calls: dict[str, Any] = {
        "send": lambda: client.send(b"waited"),
        "sendto": lambda: client.sendto(b"waited", unix_ends.peer.getsockname()),
        "send_many": lambda: client.send_many([b"waited"]),
    }
    sending = asleep(client, calls[way])
    for _ in range(held):
        assert unix_ends.hear() == b"stuffed"
    assert unix_ends.hear() == b"waited"
    sending.finish()
    assert client.stats.waits_out < 100


# ------------------------------------------------------------ misuse


def test_client_without_its_init_says_so():
    """A crash would be the end of the process"""
    printed = run_python(
        """if True:
        import pysock
        class Empty(pysock.DatagramClient):
            def __init__(self):
                pass
        client = Empty()
        for call in (client.recv, client.recv_many, client.recvfrom, client.detach,
                     lambda: client.send(b""), lambda: client.send_many([b""]),
                     lambda: client.recv_into(bytearray(1)), lambda: client.request(b"")):
            try:
                call()
            except RuntimeError as exc:
                print(exc)
        """
    )
    assert printed == "super().__init__() was not called\n" * 8


@pytest.mark.parametrize(
    "use",
    [
        "client.max_datagram",
        "client.close()",
        "client.fileno()",
        "client.getsockname()",
        "client.sendto(b'', ('127.0.0.1', 9))",
        "client.join('239.1.1.1')",
    ],
)
def test_nothing_else_of_it_crashes_either(use):
    printed = run_python(
        f"""if True:
        import pysock
        class Empty(pysock.DatagramClient):
            def __init__(self):
                pass
        client = Empty()
        try:
            {use}
        except RuntimeError as exc:
            print(exc)
        else:
            print("done")
        """
    )
    assert printed in ("super().__init__() was not called\n", "done\n")


def test_client_that_is_forgotten_warns_and_gives_its_socket_back(udp_ends):
    client = DatagramClient(udp_ends.peer.getsockname())
    with pytest.warns(ResourceWarning, match="unclosed <DatagramClient over"):
        del client


def test_init_twice_is_refused(udp_ends):
    with pytest.raises(RuntimeError, match="set up once"):
        udp_ends.client.__init__(udp_ends.peer.getsockname())  # type: ignore[misc]
    udp_ends.client.send(b"as before")
    assert udp_ends.hear() == b"as before"


# ------------------------------------------------------------ a network that cannot be trusted


class Unreliable:
    """A way to *server*: some datagrams are lost, some come twice or behind later ones."""

    def __init__(self, server: Any, seed: int) -> None:
        self._server, self._dice = server, random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._front = self._made(socket.AF_INET)
        self._front.bind(("127.0.0.1", 0))
        self._ways: dict[Any, socket.socket] = {}  # one to the server for each client
        self._kept: list[tuple[socket.socket, bytes, Any]] = []
        self._bell, self._ear = socket.socketpair()
        self._selector.register(self._ear, selectors.EVENT_READ)
        self.lost = self.doubled = self.moved = 0

    def _made(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def __enter__(self) -> Unreliable:
        self._task = Task(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._bell.close()
        self._task.finish()
        for sock in (self._front, self._ear, *self._ways.values()):
            sock.close()
        self._selector.close()

    @property
    def name(self) -> Any:
        return self._front.getsockname()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(SHORT):
                if key.fileobj is self._ear:
                    return
                try:
                    message, address = key.fileobj.recvfrom(1 << 16)  # type: ignore[union-attr]
                except ConnectionResetError:
                    continue  # Windows tells of what was sent to who has gone
                if key.fileobj is not self._front:
                    client = next(c for c, way in self._ways.items() if way is key.fileobj)
                    self._pass_on(self._front, message, client)
                    continue
                if address not in self._ways:
                    self._ways[address] = self._made(socket.AF_INET)
                self._pass_on(self._ways[address], message, self._server)

    def _pass_on(self, sock: socket.socket, message: bytes, address: Any) -> None:
        what = self._dice.random()
        if what < 0.2:
            self.lost += 1
            return
        if what < 0.4:
            self.moved += 1
            self._kept.append((sock, message, address))
            return
        sock.sendto(message, address)
        if what < 0.6:
            self.doubled += 1
            sock.sendto(message, address)
        for late, *rest in self._kept:
            late.sendto(*rest)
        self._kept.clear()


def belongs(asked: bytes, reply: bytes) -> bool:
    return reply == asked.upper()


@pytest.mark.case("G14")
@pytest.mark.parametrize("seed", range(3))
def test_requests_get_their_own_replies_over_a_network_that_loses_and_doubles(seed):
    with (
        DatagramServer("127.0.0.1:0", bytes.upper).start() as server,
        Unreliable(server.server_address, seed) as way,
        DatagramClient(way.name) as client,
    ):
        for number in range(100):
            asked = b"question %d" % number
            reply = client.request(asked, timeout=LONG, retries=4000, match=belongs)
            assert reply == asked.upper()
        assert min(way.lost, way.doubled, way.moved) > 20
        assert server.stats["messages_in"] > 100
