"""A client used by several threads, waited for, handed over and closed."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import datagrams
from conftest import linux, unix
from datagrams import linked, stuff
from peers import LONG, PROMPT, SHORT, Task, asleep, background, until
from pysock import ConnectionClosed, DatagramClient, FrameTooLarge, wait

kind, ends, few_ends = datagrams.kind, datagrams.ends, datagrams.few_ends
udp_ends, unix_ends, receive = datagrams.udp_ends, datagrams.unix_ends, datagrams.receive

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, fork")


# ------------------------------------------------------------ timeouts


def test_timeout_ends_a_receive(few_ends, receive):
    client = few_ends.client
    client.timeout = SHORT
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        receive(client)
    assert 0.99 * SHORT <= time.monotonic() - began < PROMPT
    few_ends.say(b"x")
    assert receive(client) == b"x"


def test_timeout_of_zero_never_waits(few_ends, receive):
    client = few_ends.client
    client.settimeout(0)
    with pytest.raises(BlockingIOError):
        receive(client)
    few_ends.say(b"x")
    assert receive(client) == b"x"
    assert client.stats.waits_in == 1


def test_no_timeout_waits_until_something_comes(few_ends, receive):
    client = few_ends.client
    client.timeout = None
    receiving = asleep(client, receive, client)
    few_ends.say(b"x")
    assert receiving.finish() == b"x"


def test_timeout_is_read_and_set_as_that_of_a_socket(udp_ends):
    client = udp_ends.client
    for value in (None, 0, 2, 0.5):
        client.settimeout(value)
        assert client.gettimeout() == client.timeout == value
    client.setblocking(False)
    assert client.timeout == 0
    client.setblocking(True)
    assert client.timeout is None
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="expected seconds of 0 or more, or None"):
            client.timeout = wrong
        with pytest.raises(ValueError, match="expected seconds of 0 or more, or None"):
            DatagramClient(timeout=wrong)
    with pytest.raises(TypeError):
        client.timeout = "soon"
    with pytest.raises(TypeError, match="timeout is a str, expected seconds"):
        DatagramClient(timeout="soon")  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [None, 0, SHORT])
def test_timeout_of_a_given_socket_is_ignored(tmp_path, own):
    with datagrams.plain("udp4", tmp_path) as peer:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(peer.getsockname())
        sock.settimeout(own)
        with DatagramClient(sock=sock, timeout=LONG) as client:
            receiving = asleep(client, client.recv)
            receiving.join(2 * SHORT)
            assert receiving.is_alive()
            peer.sendto(b"x", client.getsockname())
            assert receiving.finish() == b"x"
            assert client.detach() is sock
            with sock:
                assert sock.gettimeout() == own


# ------------------------------------------------------------ threads


def test_two_receivers_share_what_comes(few_ends, receive):
    """None is lost, none is given twice"""
    client, count = few_ends.client, 600
    seen: list[list[bytes]] = [[], []]

    def collect(mine: list[bytes]) -> None:
        while (message := receive(client)) != b"end":
            mine.append(message)

    with background(collect, seen[0]), background(collect, seen[1]):
        for begin in range(0, count, 5):
            few_ends.say(*[b"%d" % number for number in range(begin, begin + 5)])
            until(lambda end=begin: client.stats.messages_in >= end)  # no room is needed
        few_ends.say(b"end", b"end")
    for mine in seen:
        assert mine == sorted(mine, key=int)
    assert sorted(map(int, seen[0] + seen[1])) == list(range(count))


def test_receivers_of_one_and_of_many_share_what_comes(udp_ends):
    client, count = udp_ends.client, 1000
    seen: list[bytes] = []

    def one() -> None:
        while (message := client.recv()) != b"end":
            seen.append(message)

    def many() -> None:
        dice = random.Random(5)
        while b"end" not in (messages := client.recv_many(dice.randrange(1, 9))):
            seen.extend(messages)
        seen.extend(messages[: messages.index(b"end")])

    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    with background(one), background(many):
        udp_ends.say(*[b"%d" % number for number in range(count)])
        until(lambda: len(seen) == count)
        udp_ends.say(b"end")
        until(lambda: client.stats.messages_in == count + 1)
        udp_ends.say(b"end")
    assert sorted(map(int, seen)) == list(range(count))


def test_senders_of_several_threads_do_not_mix(few_ends):
    client = few_ends.client
    sizes = (1, 100, 3000)

    def send(size: int) -> None:
        for number in range(20):
            if number % 3:
                client.send(bytes([size % 251]) * size)
            else:
                client.send_many([bytes([size % 251]) * size])

    tasks = [Task(send, size) for size in sizes]
    got = [few_ends.hear() for _ in range(60)]
    for task in tasks:
        task.finish()
    assert all(message == bytes([len(message) % 251]) * len(message) for message in got)
    assert sorted(map(len, got)) == sorted(20 * sizes)


def test_one_thread_sends_while_another_waits_to_receive(ends):
    client = ends.client
    receiving = asleep(client, client.recv)
    client.send(b"a")
    client.send_many([b"b"])
    client.sendto(b"c", ends.peer.getsockname())
    assert [ends.hear() for _ in range(3)] == [b"a", b"b", b"c"]
    ends.say(b"x")
    assert receiving.finish() == b"x"


@pytest.mark.parametrize("timeout", [0, SHORT])
def test_turn_that_does_not_come_in_time(udp_ends, receive, timeout):
    client = udp_ends.client
    receiving = asleep(client, client.recv)
    client.timeout = timeout
    with pytest.raises((TimeoutError, BlockingIOError)):
        receive(client)
    udp_ends.say(b"x")
    assert receiving.finish() == b"x"


# ------------------------------------------------------------ the end


@pytest.mark.case("D10", "G13")
def test_close_wakes_who_receives(ends, receive):
    """G13"""
    for timeout in (None, LONG):
        client = DatagramClient(datagrams.address_of(ends.peer), timeout=timeout)
        receiving = asleep(client, receive, client)
        client.close()
        with pytest.raises(ConnectionClosed):
            receiving.finish(PROMPT)


@linux
@pytest.mark.parametrize("way", ["send", "sendto", "send_many"])
def test_close_wakes_who_waits_for_room(unix_ends, way):
    client, name = unix_ends.client, unix_ends.peer.getsockname()
    stuff(client)
    calls: dict[str, Callable[[], Any]] = {
        "send": lambda: client.send(b"x"),
        "sendto": lambda: client.sendto(b"x", name),
        "send_many": lambda: client.send_many([b"x"]),
    }
    sending = asleep(client, calls[way])
    client.close()
    with pytest.raises(ConnectionClosed):
        sending.finish(PROMPT)


def test_closed_client_refuses_every_call(ends, receive):
    client = ends.client
    ends.say(b"a", b"b")
    assert receive(client) == b"a"
    client.close()
    client.close()
    assert (client.closed, client.fileno(), client.dropped) == (True, -1, None)
    assert client.stats.messages_in == 1
    assert "closed" in repr(client)
    name = ends.peer.getsockname()
    for call in (
        lambda: receive(client),
        lambda: client.send(b"x"),
        lambda: client.send_many([b"x"]),
        lambda: client.sendto(b"x", name),
        lambda: client.sendto(b"x", "udp://localhost:9"),
        lambda: client.request(b"x"),
        client.detach,
        client.getsockname,
        client.getpeername,
        lambda: client.join("239.255.77.1"),
        lambda: client.leave("239.255.77.1"),
    ):
        with pytest.raises(ConnectionClosed):
            call()
    with pytest.raises(ConnectionClosed), client:
        client.recv()


def test_close_inside_a_call_of_the_same_thread_ends_with_it(udp_ends):
    client = udp_ends.client

    def closing() -> Any:
        yield b"before"
        client.close()
        yield b"after"

    client.send_many(closing())
    assert client.closed
    assert client.socket.fileno() == -1
    assert udp_ends.hear() == b"before"


def test_close_from_many_threads_at_once(udp_ends):
    client = udp_ends.client
    receiving = asleep(client, client.recv)
    for task in [Task(client.close) for _ in range(8)]:
        task.finish(PROMPT)
    with pytest.raises(ConnectionClosed):
        receiving.finish()


def test_handler_of_a_datagram_may_close_from_match(few_ends):
    client, peer = few_ends.client, few_ends.peer
    asking = Task(lambda: client.request(b"?", match=lambda *_: client.close()))
    _, address = peer.recvfrom(99)
    peer.sendto(b"x", address)
    with pytest.raises(ConnectionClosed):
        asking.finish(PROMPT)
    assert client.socket.fileno() == -1


@pytest.mark.case("G13")
@linux
@pytest.mark.parametrize("way", [socket.SHUT_RD, socket.SHUT_RDWR])
@pytest.mark.parametrize("kind", datagrams.INTERNET)
def test_socket_that_is_shut_down_wakes_who_receives(kind, way, tmp_path):
    """G13: it is not an empty datagram either"""
    with linked(kind, tmp_path, timeout=10 * SHORT) as ends:
        receiving = asleep(ends.client, ends.client.recv)
        ends.client.socket.shutdown(way)
        with pytest.raises(ConnectionClosed, match="shut down"):
            receiving.finish()
        assert ends.client.stats.calls_in < 10


@pytest.mark.case("G13")
@linux
def test_datagrams_before_a_shutdown_are_not_lost(udp_ends, receive):
    """G13"""
    client = udp_ends.client
    client.timeout = SHORT
    udp_ends.say(b"a", b"", b"c", b"d")
    client.socket.shutdown(socket.SHUT_RD)
    assert receive(client) == b"a"
    assert client.recv_many() == [b"", b"c", b"d"]
    for _ in range(2):
        with pytest.raises(ConnectionClosed, match="shut down"):
            receive(client)


# ------------------------------------------------------------ handed over


def test_detached_socket_goes_on_as_a_plain_one(few_ends):
    client = few_ends.client
    sock = client.detach()
    with sock:
        assert client.closed
        sock.send(b"x")
        assert few_ends.hear() == b"x"
        client.close()
        few_ends.peer.sendto(b"y", sock.getsockname())
        assert sock.recv(99) == b"y"


def test_client_with_datagrams_in_hand_is_not_detached(udp_ends):
    client = udp_ends.client
    udp_ends.say(*[b"%d" % number for number in range(9)])
    while not client.pending:
        client.recv()
    with pytest.raises(RuntimeError, match="have been received already: take them"):
        client.detach()
    client.recv_many()
    client.detach().close()


def test_detach_waits_for_who_receives(tmp_path):
    with linked("udp4", tmp_path, timeout=LONG) as ends:
        receiving = asleep(ends.client, ends.client.recv)
        detaching = Task(ends.client.detach)
        detaching.join(SHORT)
        assert detaching.is_alive()
        ends.say(b"x")
        assert receiving.finish() == b"x"
        detaching.finish().close()


@linux
def test_detach_leaves_no_sender_behind(tmp_path):
    """It would go on with a descriptor that may be another's by then"""
    with linked("unix", tmp_path, timeout=LONG) as ends:
        client, held = ends.client, stuff(ends.client)
        sending = asleep(client, client.send, b"x")
        client.timeout = SHORT
        try:
            sock = client.detach()
        except TimeoutError:  # it waits for the sender
            assert [ends.hear() for _ in range(held + 1)][-1] == b"x"
            sending.finish()
        else:
            with sock, pytest.raises(ConnectionClosed):
                sending.finish(PROMPT)


@linux
def test_detach_leaves_no_descriptor_behind(tmp_path):
    with linked("udp4", tmp_path, timeout=SHORT) as ends:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(TimeoutError):
            ends.client.recv()
        ends.client.detach().close()
        assert len(os.listdir("/proc/self/fd")) == len(before) - 1


@unix
@pytest.mark.leaves_path
def test_path_of_a_detached_client_is_the_caller_s(tmp_path):
    path = tmp_path / "me"
    client = DatagramClient(bind=path)
    with client.detach() as sock:
        client.close()
        assert path.exists()
        with DatagramClient(path) as sender:
            sender.send(b"x")
        assert sock.recv(99) == b"x"


# ------------------------------------------------------------ wait()


def test_wait_tells_clients_with_a_datagram(tmp_path):
    """One that was read ahead, one that is to come, one that was closed"""
    with linked("udp4", tmp_path) as one, linked("unix", tmp_path) as two:
        clients = [one.client, two.client]
        assert wait(clients, 0) == []
        assert wait(clients, SHORT) == []
        waiting = Task(wait, clients)
        two.say(b"x")
        assert waiting.finish() == [two.client]
        one.say(*[b"%d" % number for number in range(9)])
        assert wait(clients, 0) == clients
        while not one.client.pending:
            one.client.recv()
        ahead = one.client.pending
        for _ in range(ahead):
            assert one.client in wait(clients, 0)
            one.client.recv()
        two.client.recv()
        one.client.recv_many(99) if wait([one.client], 0) else None
        assert wait(clients, 0) == []
        waiting = Task(wait, clients)
        waiting.join(SHORT)
        one.client.close()
        assert waiting.finish(PROMPT) == [one.client]


@linux
def test_wait_tells_of_errors_and_of_empty_datagrams(tmp_path):
    with linked("udp4", tmp_path, timeout=LONG, max_datagram=4) as ends:
        ends.say(b"")
        assert wait([ends.client], LONG) == [ends.client]
        assert ends.client.recv() == b""
        ends.say(b"too long")
        assert wait([ends.client], LONG) == [ends.client]
        with pytest.raises(FrameTooLarge):
            ends.client.recv()
        ends.peer.close()
        ends.client.send(b"x")
        assert wait([ends.client], LONG) == [ends.client]
        with pytest.raises(ConnectionRefusedError):
            ends.client.recv()
        assert wait([ends.client], 0) == []


def test_wait_leaves_a_client_to_the_thread_that_receives(udp_ends):
    client = udp_ends.client
    receiving = asleep(client, client.recv)
    assert wait([client], SHORT) == []
    udp_ends.say(b"x")
    assert receiving.finish() == b"x"


@pytest.mark.case("X05")
@posix
def test_descriptor_beyond_select_will_do(tmp_path):
    """X05"""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft <= 2100:
        if hard != resource.RLIM_INFINITY and hard <= 2100:
            pytest.skip("no descriptors that high")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2200, hard))
    try:
        with linked("udp4", tmp_path) as ends:
            high = os.dup2(ends.client.fileno(), 2099)
            with DatagramClient(sock=socket.socket(fileno=high), timeout=SHORT) as client:
                assert client.fileno() == 2099
                with pytest.raises(TimeoutError):
                    client.recv()
                ends.say(b"x")
                assert client.recv() == b"x"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
