"""A network that loses, refuses, delays, or is not there."""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import networks
import pysock
from conftest import TIME_FACTOR, linux
from networks import FAR, Network, Wire
from peers import LONG, PROMPT, Task, pattern, until

pytestmark = [linux, pytest.mark.slow]

wire, network = networks.wire, networks.network

MIB = 1 << 20
GONE = "drop"
PATIENT = (1, 1, 2)  # keepalive: it gives up after three seconds
GIVES_UP = 3 * TIME_FACTOR


@contextlib.contextmanager
def serving(network: Network, handler: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """A server whose listener is in *network*."""
    server = network.call(pysock.Server, f"{FAR}:0", handler, **options)
    with server.start():
        yield server
        server.stop(0)


def echo(message: bytes) -> bytes:
    return message


def client(wire: Wire, server: Any, **options: Any) -> pysock.Client:
    options = {"timeout": LONG, "connect_timeout": LONG, **options}
    return wire.near.call(pysock.Client, server.address, **options)


# ------------------------------------------------------------ nothing comes through any more


@pytest.mark.case("P18")
@pytest.mark.parametrize("deed", ["recv", "send", "request"])
def test_peer_that_vanished_is_noticed_p18(wire: Wire, deed: str) -> None:
    """By keepalive where nothing is sent; else by the limit for acknowledgements."""
    with (
        serving(wire.far, echo, linger=0) as server,
        client(wire, server, keepalive=PATIENT, timeout=None, linger=0) as peer,
    ):
        assert peer.request(b"before") == b"before"
        wire.filter(GONE)
        began = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            if deed == "request":
                peer.request(b"lost")
            elif deed == "recv":
                peer.recv()
            else:
                while True:
                    peer.send(bytes(MIB))
        assert caught.value.errno == errno.ETIMEDOUT  # the system's, not a deadline of ours
        assert 1 < time.monotonic() - began < 3 * GIVES_UP + 2
        with pytest.raises(TimeoutError):
            peer.recv()


@pytest.mark.case("P18")
def test_client_that_vanished_leaves_the_server_p18(wire: Wire) -> None:
    """Whether it was idle or sent to; who is still there is served meanwhile."""

    def handler(message: bytes) -> bytes:
        return bytes(16 * MIB) if message == b"large" else message

    with serving(wire.far, handler, keepalive=PATIENT, linger=0, workers=0) as server:
        local = wire.far.call(pysock.Client, server.address, timeout=LONG)
        with local, client(wire, server) as idle, client(wire, server) as reading:
            assert idle.request(b"x") == reading.request(b"x") == b"x"
            wire.near.filter(GONE)
            reading.linger = idle.linger = 0
            assert local.request(b"x") == b"x"
            reading_task = Task(lambda: reading.send(b"large"))
            reading_task.finish()
            assert server.stats["connections"] == 3
            until(lambda: server.stats["connections"] == 1, 3 * GIVES_UP + LONG)
            assert local.request(b"y") == b"y"


def test_deadline_of_ours_passes_where_nothing_comes_through(wire: Wire) -> None:
    """And when the network is back nothing is lost."""
    with serving(wire.far, echo) as server, client(wire, server, timeout=LONG) as peer:
        assert peer.request(b"before") == b"before"
        wire.filter(GONE)
        peer.timeout = 0.3
        with pytest.raises(TimeoutError):
            peer.request(b"late")
        with pytest.raises(TimeoutError, match="earlier requests have 1 replies"):
            peer.request(b"later")
        wire.filter()
        peer.timeout = LONG
        assert peer.request(b"last") == b"last"


# ------------------------------------------------------------ connecting


@pytest.mark.case("P21")
def test_connecting_into_silence_has_a_deadline_p21(wire: Wire) -> None:
    wire.far.filter("tcp flags & ( syn | ack ) == syn drop")
    began = time.monotonic()
    with serving(wire.far, echo) as server, pytest.raises(TimeoutError, match=FAR):
        client(wire, server, connect_timeout=0.5)
    assert 0.4 < time.monotonic() - began < 0.5 + PROMPT


@pytest.mark.case("P22")
@pytest.mark.parametrize(
    ("rule", "kind", "number"),
    [
        ("reject with tcp reset", ConnectionRefusedError, errno.ECONNREFUSED),
        ("reject with icmpx type port-unreachable", OSError, errno.ECONNREFUSED),
        ("reject with icmpx type host-unreachable", OSError, errno.EHOSTUNREACH),
        ("reject with icmpx type admin-prohibited", OSError, errno.EHOSTUNREACH),
    ],
)
def test_connecting_to_who_refuses_p22(
    wire: Wire, rule: str, kind: type[OSError], number: int
) -> None:
    with serving(wire.far, echo) as server:
        wire.far.filter(f"tcp dport {server.server_address[1]} {rule}")
        with pytest.raises(kind, match=FAR) as caught:
            client(wire, server)
        assert caught.value.errno == number


def test_reconnecting_goes_on_when_the_network_is_back(wire: Wire) -> None:
    with serving(wire.far, echo, linger=0) as server:
        wire.far.filter("tcp flags & ( syn | ack ) == syn reject with tcp reset")
        making = Task(lambda: client(wire, server, reconnect=True, linger=0))
        time.sleep(0.2)
        wire.far.filter()
        with making.finish() as peer:
            ask = functools.partial(wire.near.call, peer.request)  # it connects there
            assert ask(b"one") == b"one"
            wire.far.filter("tcp flags & ( syn | ack ) == ack reject with tcp reset")
            with pytest.raises(ConnectionResetError):
                ask(b"two")
            wire.far.filter()
            assert ask(b"three") == b"three"


# ------------------------------------------------------------ connections that are cut


@pytest.mark.parametrize("side", ["near", "far"])
def test_reset_in_the_middle_is_an_error_at_both_ends(wire: Wire, side: str) -> None:
    with (
        serving(wire.far, echo, linger=0, keepalive=PATIENT) as server,
        client(wire, server, linger=0) as peer,
    ):
        assert peer.request(b"before") == b"before"
        getattr(wire, side).filter("tcp flags & rst != rst reject with tcp reset")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                peer.request(bytes(MIB))
        with pytest.raises((OSError, pysock.ConnectionClosed)):
            peer.request(b"after")
        wire.filter()
        until(lambda: server.stats["connections"] == 0)
        with client(wire, server) as other:
            assert other.request(b"x") == b"x"


def killed(network: Network, port: int) -> None:
    """Have the system abort the connections to a port of *network*."""
    before = network.do(f"ss -Htn state established sport = :{port}")
    assert before
    network.do(f"ss -K -tn state established sport = :{port}")
    if network.do(f"ss -Htn state established sport = :{port}"):
        pytest.skip("this system has no CONFIG_INET_DIAG_DESTROY")


@pytest.mark.case("D03")
@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "idle"])
def test_connection_that_the_system_aborts_d03(wire: Wire, waiting: bool) -> None:
    """Here it is an abort, at the other end a reset; the server serves on."""
    failures: list[BaseException] = []

    class Echo(pysock.Session):
        def handle(self) -> None:
            try:
                for message in self.connection:
                    self.connection.send(message)
            except BaseException as exc:
                failures.append(exc)
                raise

    with serving(wire.far, Echo) as server, client(wire, server) as peer:
        port = server.server_address[1]
        assert peer.request(b"x") == b"x"
        task = Task(peer.recv) if waiting else None
        killed(wire.far, port)
        with pytest.raises(ConnectionResetError):
            if task is None:
                peer.recv()
            else:
                task.finish()
        until(lambda: failures)
        assert isinstance(failures[0], ConnectionAbortedError)
        with client(wire, server) as other:
            assert other.request(b"y") == b"y"


# ------------------------------------------------------------ a bad wire


@pytest.mark.case("P19")
@pytest.mark.parametrize(
    ("there", "back", "size"), [(5, 5, 16 * MIB), (30, 0, 2 * MIB), (0, 30, 2 * MIB)]
)
def test_everything_arrives_over_a_wire_that_loses_p19(
    wire: Wire, there: int, back: int, size: int
) -> None:
    """So many packets in a hundred; with a third of them lost each way TCP itself gives up."""
    for network in (wire.near, wire.far):  # what is lost is sent again without delay
        network.do(f"ip route replace 192.0.2.0/24 dev {networks.WIRE} rto_min 5ms")
    data = pattern(size)
    parts = [data[at : at + size // 8] for at in range(0, size, size // 8)]
    with (
        serving(wire.far, echo, minimum_rate=None) as server,
        client(wire, server, timeout=2 * LONG) as peer,
    ):
        wire.far.filter(f"numgen random mod 100 < {there} drop")
        wire.near.filter(f"numgen random mod 100 < {back} drop")
        assert b"".join(peer.request_many(parts)) == data
        wire.filter()


@pytest.mark.case("P20")
def test_slow_wire_is_no_slow_client_p20(wire: Wire) -> None:
    """What counts is that bytes go, not how long the whole message takes."""
    wire.far.do(f"tc qdisc add dev {networks.WIRE} root tbf rate 4mbit burst 16k latency 1s")
    data = pattern(4 * MIB)
    with (
        serving(wire.far, lambda message: data, send_timeout=2 * TIME_FACTOR) as server,
        client(wire, server, timeout=3 * LONG) as peer,
    ):
        began = time.monotonic()
        assert peer.request(b"x") == data
        assert time.monotonic() - began > 4  # or the wire was not slow


def test_requests_by_datagram_come_through_a_wire_that_loses(wire: Wire) -> None:
    server = wire.far.call(pysock.DatagramServer, f"udp://{FAR}:0", bytes.upper)
    with server.start():
        wire.filter("meta l4proto udp numgen random mod 100 < 30 drop")
        with wire.near.call(pysock.DatagramClient, server.address, timeout=LONG) as peer:
            ask = functools.partial(wire.near.call, peer.request)  # from new ports, at times
            for i in range(50):
                reply = ask(b"number %d" % i, timeout=LONG, retries=400)
                assert reply == b"NUMBER %d" % i
        server.stop(0)


# ------------------------------------------------------------ a machine that lacks something


@pytest.mark.case("X01")
def test_without_ipv6_the_rest_works_x01(network: Network) -> None:
    network.do("ip link set lo up")
    for name in ("all", "default", "lo"):
        network.set(f"net.ipv6.conf.{name}.disable_ipv6", 1)
    for address in ("tcp://localhost:0", "tcp://127.0.0.1:0"):
        with network.call(pysock.Server, address, bytes.upper).start() as server:
            there = f"tcp://localhost:{server.server_address[1]}"
            with network.call(pysock.Client, there, timeout=LONG) as peer:
                assert peer.request(b"x") == b"X"
    with pytest.raises(OSError, match=r"\[::1\]") as caught:
        network.call(pysock.Server, "tcp://[::1]:0", bytes.upper)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with pytest.raises(OSError, match=r"::1"):
        network.call(pysock.Client, "tcp://[::1]:9", timeout=LONG)


def test_without_loopback_unix_sockets_work(network: Network, tmp_path: Any) -> None:
    """And connecting by TCP is an error at once that says why."""
    with (
        network.call(pysock.Server, f"unix://{tmp_path}/s", bytes.upper).start() as server,
        network.call(pysock.Client, server.address, timeout=LONG) as peer,
    ):
        assert peer.request(b"x") == b"X"
    with pytest.raises(OSError, match="127.0.0.1") as caught:
        network.call(pysock.Client, "tcp://127.0.0.1:9", timeout=LONG)
    assert caught.value.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL)
    assert not isinstance(caught.value, socket.timeout)
