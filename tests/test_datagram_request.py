"""request(): the reply to this very request, or an error in time."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import datagrams
import pysock.datagram
from conftest import linux, unix, unlike_wine
from datagrams import Ends, linked, plain
from peers import LONG, PROMPT, SHORT, Task, asleep, background, until
from pysock import ConnectionClosed, DatagramClient

kind, ends, few_ends = datagrams.kind, datagrams.ends, datagrams.few_ends
udp_ends, unix_ends = datagrams.udp_ends, datagrams.unix_ends


def ask(client: DatagramClient, message: bytes, **options: Any) -> Task:
    """A request in a thread of its own."""
    return Task(lambda: client.request(message, **options))


def echo(peer: socket.socket, count: int) -> None:
    for _ in range(count):
        message, address = peer.recvfrom(99)
        peer.sendto(message, address)


def try_sendto(peer: socket.socket, message: bytes, address: Any) -> bool:
    """Whether there was still somebody to send it to."""
    try:
        peer.sendto(message, address)
    except ConnectionRefusedError:
        return False
    return True


# ------------------------------------------------------------ late and double replies


def test_request_returns_the_reply(ends):
    with background(echo, ends.peer, 3):
        assert [ends.client.request(b"%d" % n) for n in range(3)] == [b"0", b"1", b"2"]
    assert ends.client.ignored == 0


@pytest.mark.case("G15")
@pytest.mark.parametrize("when", ["before", "during", "twice"])
def test_late_reply_is_never_taken_for_that_of_a_later_request(ends, when):
    """G15: whether it comes before the next request, or while that waits"""
    client, peer = ends.client, ends.peer
    with pytest.raises(TimeoutError):
        client.request(b"first", timeout=SHORT)
    _, first = peer.recvfrom(99)
    if when != "during":
        assert try_sendto(peer, b"late", first)
    if when == "twice":
        with pytest.raises(TimeoutError):
            client.request(b"again", timeout=SHORT)
        _, again = peer.recvfrom(99)
        assert try_sendto(peer, b"late again", again)
    asking = ask(client, b"second", timeout=LONG)
    message, second = peer.recvfrom(99)
    assert message == b"second"
    assert second != first
    if when == "during":
        try_sendto(peer, b"late", first)
    peer.sendto(b"right", second)
    assert asking.finish() == b"right"
    asking = ask(client, b"third")
    message, third = peer.recvfrom(99)
    assert third == second  # nothing was owed
    peer.sendto(b"right again", third)
    assert asking.finish() == b"right again"


@pytest.mark.case("G14")
def test_second_reply_after_a_retry_is_never_taken_for_a_later_one(few_ends):
    """G14"""
    client, peer = few_ends.client, few_ends.peer
    asking = ask(client, b"first", timeout=LONG, retries=200)
    _, address = peer.recvfrom(99)
    assert peer.recvfrom(99) == (b"first", address)  # the retry, from the same address
    for number in range(3):
        peer.sendto(b"reply %d" % number, address)
    assert asking.finish() == b"reply 0"
    asking = ask(client, b"second")
    for message, address in iter(lambda: peer.recvfrom(99), None):  # more retries before it
        try_sendto(peer, message.upper(), address)
        if message == b"second":
            break
    assert asking.finish() == b"SECOND"


def test_error_of_match_leaves_nothing_for_the_next_request(few_ends):
    client, peer = few_ends.client, few_ends.peer

    def fail(request: bytes, reply: bytes) -> bool:
        raise KeyError(reply)

    asking = ask(client, b"first", match=fail)
    _, first = peer.recvfrom(99)
    peer.sendto(b"a", first)
    try_sendto(peer, b"b", first)
    with pytest.raises(KeyError):
        asking.finish()
    asking = ask(client, b"second")
    _, second = peer.recvfrom(99)
    try_sendto(peer, b"c", first)
    peer.sendto(b"right", second)
    assert asking.finish() == b"right"


@pytest.mark.case("G07")
@linux
def test_refusal_leaves_nothing_for_the_next_request(udp_ends):
    """G07: a later server on the port is asked afresh"""
    client, name = udp_ends.client, udp_ends.peer.getsockname()
    udp_ends.peer.close()
    with pytest.raises(ConnectionRefusedError):
        client.request(b"first")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(LONG)
        peer.bind(name)
        with background(echo, peer, 1):
            assert client.request(b"second") == b"second"


@pytest.fixture(params=["bind", "sock"])
def own(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Ends]:
    """A client whose own address was given by the caller, and has to stay."""
    with plain("udp4", tmp_path) as peer:
        if request.param == "bind":
            client = DatagramClient(peer.getsockname(), bind=("127.0.0.1", 0), timeout=LONG)
        else:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(peer.getsockname())
            client = DatagramClient(sock=sock, timeout=LONG)
        with client:
            yield Ends(client, peer)


def test_client_with_an_address_of_its_own_keeps_it_and_drops_what_came(own):
    client, peer = own.client, own.peer
    with pytest.raises(TimeoutError):
        client.request(b"first", timeout=SHORT)
    _, first = peer.recvfrom(99)
    own.say(*[b"late"] * 100)
    asking = ask(client, b"second")
    assert peer.recvfrom(99) == (b"second", first)
    assert client.ignored == 100
    peer.sendto(b"right", first)
    assert asking.finish() == b"right"


def test_match_tells_a_reply_from_what_is_none(own):
    client, peer = own.client, own.peer
    asked = []

    def match(request: bytes, reply: bytes) -> bool:
        asked.append((request, reply))
        return reply.startswith(b"right")

    with pytest.raises(TimeoutError):
        client.request(b"first", timeout=SHORT)
    peer.recvfrom(99)
    asking = ask(client, b"second", match=match)
    _, address = peer.recvfrom(99)
    for message in (b"late", b"", b"right", b"after"):
        peer.sendto(message, address)
    assert asking.finish() == b"right"
    assert asked == [(b"second", b"late"), (b"second", b""), (b"second", b"right")]
    assert client.ignored == 2
    assert client.recv() == b"after"


def test_match_that_is_never_content_ends_with_the_deadline(few_ends):
    client, peer = few_ends.client, few_ends.peer
    stop = threading.Event()

    def flood() -> None:
        _, address = peer.recvfrom(99)
        while not stop.wait(SHORT / 10):
            try_sendto(peer, b"no", address)

    with background(flood):
        with pytest.raises(TimeoutError):
            client.request(b"?", timeout=4 * SHORT, match=lambda *_: False)
        stop.set()
    assert client.ignored > 0


@pytest.mark.case("G15")
@pytest.mark.parametrize("kind", datagrams.INTERNET)
def test_datagrams_of_strangers_are_not_received(kind, tmp_path):
    """G15"""
    with linked(kind, tmp_path) as ends, plain(kind, tmp_path) as stranger:
        asking = ask(ends.client, b"?")
        _, address = ends.peer.recvfrom(99)
        stranger.sendto(b"forged", address)
        ends.peer.sendto(b"right", address)
        assert asking.finish() == b"right"
        stranger.sendto(b"forged", address)
        ends.say(b"right")
        assert ends.client.recvfrom() == (b"right", ends.peer.getsockname())


@pytest.mark.case("G15")
@linux
def test_datagrams_of_strangers_are_refused_by_unix_sockets(unix_ends, tmp_path):
    """G15"""
    with plain("unix", tmp_path) as stranger, pytest.raises(PermissionError):
        stranger.sendto(b"forged", unix_ends.client.getsockname())


# ------------------------------------------------------------ retries and deadlines


def test_retries_are_spread_over_the_one_deadline(few_ends):
    peer, whole = few_ends.peer, 12 * SHORT
    came = []

    def note() -> None:
        for _ in range(4):
            assert peer.recv(99) == b"?"
            came.append(time.monotonic() - began)

    began = time.monotonic()
    with background(note), pytest.raises(TimeoutError):
        few_ends.client.request(b"?", timeout=whole, retries=3)
    assert 0.99 * whole <= time.monotonic() - began < whole + PROMPT
    for number, at in enumerate(came):
        assert at >= 0.99 * number * whole / 4
    peer.settimeout(0)
    with pytest.raises(BlockingIOError):
        peer.recv(99)


@pytest.mark.case("G07")
@linux
@pytest.mark.parametrize("kind", datagrams.INTERNET)
def test_retries_find_a_server_that_starts_late(kind, tmp_path):
    """G07: the port refuses meanwhile"""
    with plain(kind, tmp_path) as first:
        name = first.getsockname()
    with DatagramClient(name) as client:
        asking = ask(client, b"?", timeout=LONG, retries=400)
        until(lambda: client.stats.messages_out > 2)
        with socket.socket(first.family, socket.SOCK_DGRAM) as peer:
            peer.bind(name)
            peer.settimeout(LONG)
            echo(peer, 1)
            assert asking.finish() == b"?"


@pytest.mark.case("G12")
@unix
def test_retries_find_a_unix_server_that_starts_again(unix_ends, tmp_path):
    """G12"""
    client, path = unix_ends.client, unix_ends.peer.getsockname()
    unix_ends.peer.close()
    asking = ask(client, b"?", timeout=LONG, retries=400)
    until(lambda: client.stats.calls_out > 2 or not asking.is_alive())
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.settimeout(SHORT if not asking.is_alive() else LONG)
        peer.bind(path)
        with background(asking.finish):
            echo(peer, 1)


@pytest.mark.case("G07")
@linux
def test_port_that_refuses_to_the_last_is_what_is_raised(udp_ends):
    """G07"""
    client = udp_ends.client
    udp_ends.peer.close()
    for retries in (0, 1, 3):
        with pytest.raises(ConnectionRefusedError):
            client.request(b"?", timeout=4 * SHORT, retries=retries)


@pytest.mark.parametrize(("retries", "timeout"), [(1, None), (1, 0), (-1, 1)])
def test_retries_that_cannot_be_spread_are_refused(udp_ends, retries, timeout):
    told = f"retries is {retries} and timeout {timeout}: expected 0 retries or more"
    with pytest.raises(ValueError, match=re.escape(told)):
        udp_ends.client.request(b"?", timeout=timeout, retries=retries)
    assert udp_ends.client.stats.messages_out == 0


@pytest.mark.parametrize("timeout", [-1, float("nan"), -float("inf")])
def test_timeout_that_is_none_is_refused(udp_ends, timeout):
    for retries in (0, 2):
        with pytest.raises(ValueError, match="timeout is .*, expected seconds of 0 or more"):
            udp_ends.client.request(b"?", timeout=timeout, retries=retries)
    with pytest.raises(TypeError):
        udp_ends.client.request(b"?", timeout="soon")
    assert udp_ends.client.stats.messages_out == 0


def test_request_has_a_deadline_where_the_client_has_none(udp_ends, monkeypatch):
    monkeypatch.setattr(pysock.datagram, "_REQUEST_TIMEOUT", SHORT)
    udp_ends.client.timeout = None
    with pytest.raises(TimeoutError):
        udp_ends.client.request(b"?")
    udp_ends.client.timeout = SHORT
    monkeypatch.setattr(pysock.datagram, "_REQUEST_TIMEOUT", LONG)
    with pytest.raises(TimeoutError):
        udp_ends.client.request(b"?")


def test_request_without_waiting_takes_a_reply_that_is_there(udp_ends):
    udp_ends.say(b"there")
    assert udp_ends.client.request(b"?", timeout=0) == b"there"
    with pytest.raises(BlockingIOError):
        udp_ends.client.request(b"?", timeout=0)


def test_endless_timeout_is_one(udp_ends):
    with background(echo, udp_ends.peer, 1):
        assert udp_ends.client.request(b"?", timeout=float("inf"), retries=3) == b"?"


def test_wait_for_the_turn_counts_against_the_deadline(udp_ends):
    client, whole = udp_ends.client, 20 * SHORT
    client.timeout = 0.9 * whole
    receiving = asleep(client, client.recv)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        client.request(b"?", timeout=whole, retries=1)
    assert time.monotonic() - began < 1.5 * whole
    with pytest.raises(TimeoutError):
        receiving.finish()


@unlike_wine  # which says that an argument is invalid
def test_request_without_an_address_says_so():
    with DatagramClient() as client, pytest.raises(OSError, match="no address to send to"):
        client.request(b"?")


# ------------------------------------------------------------ threads


def test_requests_of_many_threads_get_their_own_replies(few_ends):
    def talk(name: bytes) -> None:
        for number in range(30):
            message = b"%s %d" % (name, number)
            assert few_ends.client.request(message) == message

    with background(echo, few_ends.peer, 120):
        for task in [Task(talk, name) for name in (b"a", b"b", b"c", b"d")]:
            task.finish()


@pytest.mark.parametrize("retries", [0, 3])
def test_close_wakes_a_request(few_ends, retries):
    client = few_ends.client
    asking = asleep(client, lambda: client.request(b"?", timeout=LONG, retries=retries))
    client.close()
    with pytest.raises(ConnectionClosed):
        asking.finish(PROMPT)


@pytest.mark.case("G07")
@linux
def test_close_wakes_a_request_between_its_retries(udp_ends):
    """G07: while it sits out a port that refuses"""
    client = udp_ends.client
    udp_ends.peer.close()
    asking = ask(client, b"?", timeout=100 * LONG, retries=1)
    until(lambda: client.stats.calls_in)
    client.close()
    with pytest.raises(ConnectionClosed):
        asking.finish(PROMPT)


# ------------------------------------------------------------ raw sockets


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


@linux
def test_raw_socket_pings():
    """The system gives its own request too: match tells the reply"""
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        pytest.skip("raw sockets are for root")
    sock.connect(("127.0.0.1", 0))
    number = os.getpid() & 0xFFFF
    body = struct.pack(">HH", number, 1) + b"pysock"
    ping = struct.pack(">BBH", 8, 0, _checksum(b"\x08\0\0\0" + body)) + body

    def match(request: bytes, packet: bytes) -> bool:
        icmp = packet[4 * (packet[0] & 15) :]
        return icmp[0] == 0 and icmp[4:] == body

    with DatagramClient(sock=sock, timeout=LONG) as client:
        packet = client.request(ping, match=match)
        assert packet[:1] == b"E"
        assert packet.endswith(b"pysock")
        client.sendto(ping, ("127.0.0.1", 0))
        while not match(ping, packet := client.recvfrom()[0]):
            pass


def test_datagrams_that_do_not_match_do_not_prolong_the_deadline() -> None:
    """However many come; and who closes the client meanwhile is heard."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        client = pysock.DatagramClient(peer.getsockname(), bind="udp://127.0.0.1:0")
        asked: list[bytes] = []

        def another(_: bytes, reply: bytes) -> None:
            asked.append(reply)
            peer.sendto(b"spam", client.getsockname())

        with client:
            peer.sendto(b"spam", client.getsockname())
            with pytest.raises(TimeoutError, match="no reply within 0.05 s"):
                client.request(b"q", timeout=0.05, match=another)
            assert client.ignored == len(asked) > 1

        again = pysock.DatagramClient(peer.getsockname(), bind="udp://127.0.0.1:0")

        def closing(_: bytes, reply: bytes) -> None:
            peer.sendto(b"spam", again.getsockname())
            again.close()

        peer.sendto(b"spam", again.getsockname())
        with pytest.raises(pysock.ConnectionClosed):
            again.request(b"q", timeout=LONG, match=closing)
