"""Datagrams to many: groups of both IP versions, broadcasts, and how far they go."""

from __future__ import annotations

import re
import socket
import struct

import pytest

import datagrams
from conftest import ipv6, linux, unix
from datagrams import WIRE, receiver
from peers import LONG, SHORT, Task
from pysock import DatagramClient

isolated, on_wire = datagrams.isolated, datagrams.on_wire
udp_ends, unix_ends = datagrams.udp_ends, datagrams.unix_ends

GROUP, GROUP6 = "239.255.77.1", "ff02::77:1"
OTHER_GROUP = "239.255.77.2"
GROUPS = [GROUP, pytest.param(GROUP6, marks=ipv6)]
IP_RECVTTL = 12  # Linux; the socket module has no name for it
LOOPBACK = 1  # its number on Linux, in any network


def member(group: str, port: int = 0, interface: str = WIRE) -> socket.socket:
    """A plain socket in a group."""
    index = socket.if_nametoindex(interface)
    number = socket.inet_pton(socket.AF_INET6 if ":" in group else socket.AF_INET, group)
    if ":" in group:
        option = socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP
        request = number + struct.pack("@I", index)
        return receiver(socket.AF_INET6, ("::", port), (*option, request))
    option = socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP
    request = number + struct.pack("@ii", 0, index)
    return receiver(socket.AF_INET, ("", port), (*option, request))


def nothing_comes(client: DatagramClient) -> bool:
    """Whether nothing is there; loopback delivers before the sender goes on."""
    timeout, client.timeout = client.timeout, 0
    try:
        client.recv()
    except BlockingIOError:
        return True
    finally:
        client.timeout = timeout
    return False


# ------------------------------------------------------------ groups and broadcasts


@linux
@pytest.mark.parametrize("group", GROUPS)
def test_datagram_to_a_group_reaches_every_member(group, on_wire):
    def check() -> None:
        with member(group) as one, member(group, one.getsockname()[1]) as other:
            name = (group, one.getsockname()[1])
            for interface in (WIRE, socket.if_nametoindex(WIRE)):
                with DatagramClient(name, interface=interface, timeout=LONG) as client:
                    for message in (b"hello", b""):
                        client.send(message)
                        assert one.recv(99) == other.recv(99) == message
                    assert client.send_many([b"%d" % n for n in range(70)]) == 70
                    for sock in (one, other):
                        assert [sock.recv(9) for _ in range(70)] == [
                            b"%d" % n for n in range(70)
                        ]

    on_wire(check)


@pytest.mark.case("G15")
@linux
@pytest.mark.parametrize("group", GROUPS)
def test_answers_of_all_members_are_received(group, on_wire):
    """G15: no answer comes from the group's own address"""

    def check() -> None:
        with member(group) as one, member(group, one.getsockname()[1]) as other:
            name = (group, one.getsockname()[1])
            with DatagramClient(name, interface=WIRE, timeout=LONG) as client:
                asking = Task(lambda: client.request(b"?", match=lambda _, got: got == b"two"))
                for sock, reply in ((one, b"one"), (other, b"two")):
                    message, address = sock.recvfrom(99)
                    assert message == b"?"
                    sock.sendto(reply, address)
                assert asking.finish() == b"two"
                assert client.ignored == 1

    on_wire(check)


@pytest.mark.case("G17")
@linux
@ipv6
def test_client_of_both_versions_hears_the_answers_of_an_ipv4_group(on_wire):
    """G17: the group's mapped address is not connected to"""

    def check() -> None:
        with member(GROUP) as peer:
            name = (GROUP, peer.getsockname()[1])
            with DatagramClient(name, bind="udp://:0", timeout=LONG) as client:
                asking = Task(client.request, b"?")
                _, address = peer.recvfrom(99)
                peer.sendto(b"reply", address)
                assert asking.finish() == b"reply"

    on_wire(check, f"route add default dev {WIRE}")


@pytest.mark.case("G17")
@linux
@ipv6
@pytest.mark.parametrize("option", [{"interface": WIRE}, {"ttl": 7}])
def test_options_of_a_client_of_both_versions_hold_for_both(option, on_wire):
    """G17"""

    def check() -> None:
        with member(GROUP) as peer:
            peer.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
            peer.setblocking(False)  # what is sent on one machine has come
            name = (GROUP, peer.getsockname()[1])
            with DatagramClient(name, bind="udp://:0", **option) as client:
                client.send(b"x")
                _, [(_, _, told)], _, _ = peer.recvmsg(99, 99)
                assert struct.unpack("@i", told) == (option.get("ttl", 1),)

    routes = () if "interface" in option else (f"route add default dev {WIRE}",)
    on_wire(check, *routes)


@pytest.mark.case("G14")
@linux
@pytest.mark.parametrize("group", GROUPS)
def test_late_answer_of_a_member_is_never_taken_for_that_to_a_later_request(group, on_wire):
    """G14"""

    def check() -> None:
        with member(group) as peer:
            name = (group, peer.getsockname()[1])
            with DatagramClient(name, interface=WIRE, timeout=LONG) as client:
                with pytest.raises(TimeoutError):
                    client.request(b"first", timeout=SHORT)
                _, first = peer.recvfrom(99)
                peer.sendto(b"late", first)
                asking = Task(client.request, b"second")
                message, second = peer.recvfrom(99)
                assert message == b"second"  # still by the same interface
                peer.sendto(b"late", first)
                peer.sendto(b"right", second)
                assert asking.finish() == b"right"

    on_wire(check)


@linux
def test_group_stays_joined_when_a_late_answer_is_feared(on_wire):
    """A later request goes out from another port: by another socket"""

    def check() -> None:
        with member(GROUP) as peer:
            name = (GROUP, peer.getsockname()[1])
            with DatagramClient(name, interface=WIRE, timeout=LONG) as client:
                client.join(OTHER_GROUP)
                with pytest.raises(TimeoutError):
                    client.request(b"first", timeout=SHORT)
                _, first = peer.recvfrom(99)
                asking = Task(client.request, b"second")
                _, second = peer.recvfrom(99)
                peer.sendto(b"right", second)
                assert asking.finish() == b"right"
                assert second != first
                others = (OTHER_GROUP, client.getsockname()[1])
                with DatagramClient(others, interface=WIRE) as sender:
                    sender.send(b"joined")
                    assert client.recv() == b"joined"
                    client.leave(OTHER_GROUP)
                    sender.send(b"left")
                    assert nothing_comes(client)

    on_wire(check)


@linux
@pytest.mark.parametrize(
    ("bind", "group", "interface"),
    [
        ("udp://0.0.0.0:0", GROUP, "lo"),
        ("udp://0.0.0.0:0", GROUP, LOOPBACK),
        ("udp://0.0.0.0:0", GROUP, "127.0.0.1"),
        pytest.param("udp://:0", GROUP, "lo", marks=ipv6),
        pytest.param("udp://:0", GROUP, "127.0.0.1", marks=ipv6),
        pytest.param("udp://[::]:0", GROUP6, WIRE, marks=ipv6),
        pytest.param("udp://:0", f"{GROUP6}%{WIRE}", None, marks=ipv6),
    ],
)
def test_joined_group_is_received_until_it_is_left(bind, group, interface, on_wire):
    """An IPv6 socket that takes IPv4 as well joins its groups too"""

    def check() -> None:
        by = interface or WIRE
        with DatagramClient(bind=bind, timeout=LONG) as client:
            name = (group, client.getsockname()[1])
            with DatagramClient(name, interface=by) as sender:
                client.join(group, interface)
                with pytest.raises(OSError, match="Address already in use"):
                    client.join(group, interface)
                sender.send(b"joined")
                assert client.recv() == b"joined"
                client.leave(group, interface)
                sender.send(b"left")
                assert nothing_comes(client)
                with pytest.raises(OSError, match="Cannot assign requested address"):
                    client.leave(group, interface)

    on_wire(check)


@linux
def test_interface_of_the_client_is_the_one_that_join_takes(on_wire):
    def check() -> None:
        with DatagramClient(bind="0.0.0.0:0", interface=WIRE, timeout=LONG) as client:
            client.join(GROUP)
            name = (GROUP, client.getsockname()[1])
            with DatagramClient(name, interface=WIRE) as sender:
                sender.send(b"here")
                assert client.recv() == b"here"
            with DatagramClient(name, interface="lo") as sender:
                sender.send(b"elsewhere")
                assert nothing_comes(client)

    on_wire(check)


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ("127.0.0.1", "no multicast address, expected one of 224.0.0.0/4 or ff00::/8"),
        ("localhost", "no multicast address"),
        ("", "no multicast address"),
        (GROUP6, "needs an IPv6 socket"),
    ],
)
def test_what_is_no_group_cannot_be_joined(udp_ends, group, told):
    for call in (udp_ends.client.join, udp_ends.client.leave):
        with pytest.raises(ValueError, match=told):
            call(group)


def test_interface_that_is_none_is_told_with_those_there_are(udp_ends):
    name = socket.if_nameindex()[0][1]
    for call in (
        lambda: udp_ends.client.join(GROUP, "nosuch0"),
        lambda: DatagramClient((GROUP, 9), interface="nosuch0"),
        lambda: DatagramClient((GROUP, 9), interface="1.2.3.x"),
    ):
        with pytest.raises(ValueError, match=f"no interface .* here; there is .*{name}"):
            call()


@unix
def test_unix_client_joins_no_group(unix_ends):
    for group in (GROUP, GROUP6):
        with pytest.raises(ValueError, match="needs an? .* socket"):
            unix_ends.client.join(group)


@linux
def test_broadcast_reaches_all_and_takes_their_answers():
    with receiver(socket.AF_INET, ("", 0)) as one:
        port = one.getsockname()[1]
        with (
            receiver(socket.AF_INET, ("", port)) as other,
            DatagramClient(("127.255.255.255", port), broadcast=True, timeout=LONG) as client,
        ):
            asking = Task(lambda: client.request(b"?", match=lambda _, got: got == b"two"))
            for sock, reply in ((one, b"one"), (other, b"two")):
                message, address = sock.recvfrom(99)
                assert message == b"?"
                sock.sendto(reply, address)
            assert asking.finish() == b"two"
            client.send_many([b"a", b"b"])
            assert [one.recv(9), one.recv(9)] == [b"a", b"b"]


def test_broadcast_that_was_not_asked_for_is_refused():
    with pytest.raises(PermissionError, match="pass broadcast=True"):
        DatagramClient("udp://127.255.255.255:9")
    with DatagramClient() as client, pytest.raises(PermissionError):
        client.sendto(b"x", ("127.255.255.255", 9))


# ------------------------------------------------------------ ttl


@linux
@pytest.mark.parametrize("ttl", [1, 7, 255])
@pytest.mark.parametrize("group", [None, GROUP])
def test_ttl_is_that_of_the_datagrams(ttl, group):
    with member(GROUP, interface="lo") as peer:
        peer.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        name = (group or "127.0.0.1", peer.getsockname()[1])
        with DatagramClient(name, ttl=ttl, interface="lo") as client:
            client.send(b"x")
            _, [(_, _, told)], _, _ = peer.recvmsg(99, 99)
            assert struct.unpack("@i", told) == (ttl,)


@linux
@ipv6
@pytest.mark.parametrize("host", ["fe80::1", GROUP6])
def test_hops_are_those_of_the_datagrams(host, on_wire):
    def check() -> None:
        with member(GROUP6) as peer:
            peer.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            name = (f"{host}%{WIRE}", peer.getsockname()[1])
            with DatagramClient(name, ttl=9, interface=WIRE) as client:
                client.send(b"x")
                _, [(_, _, told)], _, _ = peer.recvmsg(99, 99)
                assert struct.unpack("@i", told) == (9,)

    on_wire(check)


@pytest.mark.parametrize("ttl", [0, -1, 256, 1.5, "1"])
def test_ttl_that_is_none_is_refused(udp_ends, ttl):
    with pytest.raises(ValueError, match=f"ttl is {re.escape(repr(ttl))}, expected 1 to 255"):
        DatagramClient(udp_ends.peer.getsockname(), ttl=ttl)
