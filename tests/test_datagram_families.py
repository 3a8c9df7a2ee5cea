"""Where datagrams go and come from: both IP versions, Unix names, groups, broadcasts."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import datagrams
from conftest import ipv6, linux, unix
from datagrams import WIRE, address_of, linked, plain, receiver
from peers import LONG, background, until
from pysock import DatagramClient, FrameTooLarge
from pysock.address import Address

kind, ends, isolated = datagrams.kind, datagrams.ends, datagrams.isolated
udp_ends, on_wire = datagrams.udp_ends, datagrams.on_wire

# ------------------------------------------------------------ addresses


FORMS: list[Callable[[str, int], Any]] = [
    lambda host, port: (host, port),
    lambda host, port: f"{host}:{port}" if ":" not in host else f"[{host}]:{port}",
    lambda host, port: f"udp://[{host}]:{port}" if ":" in host else f"udp://{host}:{port}",
    lambda host, port: Address("udp", host, port),
    lambda host, port: ("localhost", port) if ":" not in host else (host, port, 0, 0),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", datagrams.INTERNET)
def test_every_form_of_an_internet_address_is_the_same(kind, form, tmp_path):
    with plain(kind, tmp_path) as peer:
        name = peer.getsockname()
        address = form(*name[:2])
        with DatagramClient(address) as client:
            client.send(b"connected")
            assert peer.recv(99) == b"connected"
            assert client.getpeername() == name
        own = "[::1]:0" if kind == "udp6" else "127.0.0.1:0"
        with DatagramClient(bind=own, timeout=LONG) as client:
            client.sendto(b"named", address)
            assert peer.recvfrom(99) == (b"named", client.getsockname())
            peer.sendto(b"reply", client.getsockname())
            assert client.recvfrom() == (b"reply", name)
            client.sendto(b"back", client.recvfrom()[1] if client.pending else name)
            assert peer.recv(99) == b"back"


@unix
@pytest.mark.parametrize("kind", datagrams.UNIX)
def test_every_form_of_a_unix_address_is_the_same(kind, tmp_path):
    with plain(kind, tmp_path) as peer, DatagramClient(bind=tmp_path / "me") as client:
        name = peer.getsockname()
        url = address_of(peer)
        forms = [name, url, Address("unixgram", path=os.fsdecode(name))]
        if kind == "unix":
            forms += [Path(name), name.encode(), f"unixgram://{name}"]
        else:
            forms += [os.fsdecode(name)]
        for form in forms:
            client.sendto(b"named", form)
            assert peer.recvfrom(99) == (b"named", str(tmp_path / "me"))
            with DatagramClient(form) as other:
                other.send(b"connected")
                assert peer.recv(99) == b"connected"
                assert other.getpeername() == name
        peer.sendto(b"reply", str(tmp_path / "me"))
        message, address = client.recvfrom()
        assert (message, address) == (b"reply", name)
        client.sendto(b"back", address)
        assert peer.recv(99) == b"back"


@pytest.mark.case("G11")
@unix
def test_sender_without_a_name_has_none(tmp_path):
    """G11"""
    with (
        DatagramClient(bind=tmp_path / "me", timeout=LONG) as client,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody,
    ):
        nobody.sendto(b"x", str(tmp_path / "me"))
        assert client.recvfrom() == (b"x", None)
        with pytest.raises(TypeError, match="NoneType"):
            client.sendto(b"reply", None)


@pytest.mark.case("X04")
@unix
def test_longest_unix_path_is_sent_to_and_a_longer_one_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    longest = "./" + 105 * "x"
    with receiver(socket.AF_UNIX, longest) as peer, DatagramClient(bind="./me") as client:
        client.sendto(b"x", longest)
        assert peer.recvfrom(99) == (b"x", "./me")
        for path in (longest + "xx", longest + "xxx"):
            with pytest.raises(ValueError, match="path"):
                client.sendto(b"x", path)


@unix
def test_path_with_a_nul_in_it_is_refused(tmp_path):
    with (
        receiver(socket.AF_UNIX, str(tmp_path / "s")),
        DatagramClient(bind=tmp_path / "me") as client,
        pytest.raises(ValueError, match="NUL|null|zero"),
    ):
        client.sendto(b"x", f"{tmp_path}/s\0other")


@pytest.mark.parametrize(
    ("bind", "address", "told"),
    [
        ("127.0.0.1:0", ("::1", 9), r"udp://\[::1\]:9"),
        pytest.param(
            "127.0.0.1:0", "/tmp/path", "'unixgram:///tmp/path' cannot be sent to", marks=unix
        ),
        ("127.0.0.1:0", ("", 9), "no host"),
        ("127.0.0.1:0", ("127.0.0.1", 65536), "65536"),
        ("127.0.0.1:0", ("127.0.0.1", -1), "-1"),
        ("127.0.0.1:0", ("127.0.0.1", "9"), "port"),
        ("127.0.0.1:0", ("127.0.0.1",), r"\(host, port\)"),
        ("127.0.0.1:0", 9, "int"),
        ("127.0.0.1:0", None, "NoneType"),
        ("127.0.0.1:0", (b"127.0.0.1", 9), "bytes|host"),
        ("127.0.0.1:0", "tcp://127.0.0.1:9", "is for a stream"),
        ("127.0.0.1:0", "fd://3", "pass the inherited socket itself"),
        ("127.0.0.1:0", "127.0.0.1", "port"),
        ("unix", ("127.0.0.1", 9), "'udp://127.0.0.1:9' cannot be sent to"),
        pytest.param(
            "unix",
            "unix:///tmp/path",
            "is for a stream",
        ),
        ("unix", 9, "int"),
        ("unix", "", "path|host|empty|address"),
        ("unix", b"", "path|host|empty|address"),
    ],
)
def test_address_that_cannot_be_sent_to_is_told(bind, address, told, tmp_path):
    if bind == "unix":
        if not hasattr(socket, "AF_UNIX"):
            pytest.skip("no Unix sockets here")
        bind = tmp_path / "me"
    with DatagramClient(bind=bind) as client:
        with pytest.raises((ValueError, TypeError, socket.gaierror), match=told):
            client.sendto(b"x", address)
        assert client.stats.messages_out == 0


@pytest.mark.case("T32")
@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("tcp://127.0.0.1:9", "is for a stream"),
        ("TLS://127.0.0.1:9", "is for a stream"),
        ("unix:///tmp/x", "is for a stream"),
        (Address("tcp", "127.0.0.1", 9), "is for a stream"),
        (("127.0.0.1", 0), "port 0 is for receiving"),
        ("udp://:9", "no host, which means every local address"),
        ("fd://3", "pass the inherited socket itself"),
        (9, "int"),
    ],
)
def test_address_that_no_client_can_have_is_told(address, told):
    with pytest.raises((ValueError, TypeError), match=told):
        DatagramClient(address)


@linux
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET"])
def test_sockets_of_other_kinds_are_refused(kind):
    a, b = socket.socketpair(socket.AF_UNIX, getattr(socket, kind))
    with a, b:
        with pytest.raises(ValueError, match=f"is a {kind}, not for datagrams: use Conn"):
            DatagramClient(sock=a)
        assert a.fileno() >= 0  # it stays the caller's
        a.close()
        with pytest.raises(ValueError, match="closed"):
            DatagramClient(sock=a)
    with pytest.raises(TypeError, match="sock is a int, expected a socket"):
        DatagramClient(sock=3)  # type: ignore[arg-type]


@unix
def test_pair_of_sockets_without_names():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with DatagramClient(sock=a, timeout=LONG) as one, DatagramClient(sock=b) as other:
        other.send_many([b"a", b"", b"b"])
        assert one.recv_many() == [b"a", b"", b"b"]
        with background(lambda: other.send(other.recv().upper())):
            assert one.request(b"x") == b"X"


# ------------------------------------------------------------ IPv6


@pytest.mark.case("G17")
@ipv6
def test_client_at_every_address_hears_both_versions(tmp_path):
    """G17"""
    with DatagramClient(bind="udp://:0", timeout=LONG) as client:
        port = client.getsockname()[1]
        for family, host, seen in (
            (socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1"),
            (socket.AF_INET6, "::1", "::1"),
        ):
            with receiver(family, (host, 0)) as peer:
                own = peer.getsockname()
                peer.sendto(b"x", (host, port))
                message, address = client.recvfrom()
                assert (message, *address[:2]) == (b"x", seen, own[1])
                for form in (address, own[:2]):  # mapped, and as it is
                    client.sendto(b"reply", form)
                    assert peer.recv(99) == b"reply"


@pytest.mark.case("G17")
@ipv6
def test_address_of_the_other_version_is_connected_to_in_its_mapped_form(udp_ends):
    """G17"""
    name = udp_ends.peer.getsockname()
    with DatagramClient(name, bind="udp://:0", timeout=LONG) as client:
        client.send(b"x")
        _, address = udp_ends.peer.recvfrom(99)
        udp_ends.peer.sendto(b"reply", address)
        assert client.recvfrom() == (b"reply", (f"::ffff:{name[0]}", name[1], 0, 0))


@pytest.mark.case("G17")
@linux
def test_scope_of_a_link_local_address_goes_round(on_wire):
    """G17: by name, by number, as recvfrom() gives it"""

    def check() -> None:
        index = socket.if_nametoindex(WIRE)
        with receiver(socket.AF_INET6, ("fe80::1", 0, 0, index)) as peer:
            port = peer.getsockname()[1]
            for form in (
                ("fe80::1", port, 0, index),
                (f"fe80::1%{WIRE}", port),
                f"udp://[fe80::1%{WIRE}]:{port}",
            ):
                with DatagramClient(form, timeout=LONG) as client:
                    client.send(b"x")
                    _, address = peer.recvfrom(99)
                    assert address[3] == index
                    peer.sendto(b"reply", address)
                    assert client.recvfrom() == (b"reply", peer.getsockname())
                with DatagramClient(bind="udp://:0", timeout=LONG) as client:
                    client.sendto(b"x", form)
                    _, address = peer.recvfrom(99)
                    peer.sendto(b"reply", address)
                    message, address = client.recvfrom()
                    assert address == ("fe80::1", port, 0, index)
                    client.sendto(b"back", address)
                    assert peer.recv(99) == b"back"

    on_wire(check)


@pytest.mark.case("X01")
@linux
def test_machine_without_ipv6_has_ipv4(isolated):
    """X01"""

    def check() -> None:
        with receiver(socket.AF_INET, ("127.0.0.1", 0)) as peer:
            for options in ({}, {"bind": "127.0.0.1:0"}):
                with DatagramClient(peer.getsockname(), **options) as client:
                    client.send(b"x")
                    assert peer.recv(99) == b"x"
        with pytest.raises(OSError, match=r"cannot send to udp://\[::1\]:9"):
            DatagramClient("udp://[::1]:9")

    isolated(check, "address flush dev lo scope host", "address add 127.0.0.1/8 dev lo")


@linux
def test_way_that_has_no_route_is_told_with_the_address(isolated):
    def check() -> None:
        with pytest.raises(OSError, match="cannot send to udp://192.0.2.1:9: .*unreachable"):
            DatagramClient("udp://192.0.2.1:9")
        with DatagramClient() as client, pytest.raises(OSError, match="unreachable"):
            client.sendto(b"x", ("192.0.2.1", 9))

    isolated(check)


@pytest.mark.case("G01")
@linux
def test_datagram_that_the_way_does_not_take_whole_is_refused(isolated):
    """G01: where the caller forbids fragments the way's own limit holds"""

    def check() -> None:
        with (
            receiver(socket.AF_INET, ("127.0.0.1", 0)) as peer,
            DatagramClient(peer.getsockname()) as client,
        ):
            client.socket.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_PMTUDISC_DO
            client.send(bytes(972))
            with pytest.raises(FrameTooLarge) as caught:
                client.send(bytes(973))
            assert (caught.value.length, caught.value.limit) == (973, 972)
            assert len(peer.recv(9999)) == 972

    isolated(check, "link set lo mtu 1000")


# ------------------------------------------------------------ one's own path


@unix
def test_own_path_is_private_and_removed_at_the_end(tmp_path):
    path = tmp_path / "me"
    with plain("unix", tmp_path) as peer:
        with DatagramClient(peer.getsockname(), bind=path, timeout=LONG) as client:
            info = os.stat(path)
            assert stat.S_ISSOCK(info.st_mode)
            assert stat.S_IMODE(info.st_mode) == 0o600
            assert client.getsockname() == str(path)
            peer.sendto(b"x", str(path))
            assert client.recv() == b"x"
        assert not path.exists()
        client.close()


@unix
@pytest.mark.leaves_path
def test_own_path_that_is_another_s_by_now_stays(tmp_path):
    path = tmp_path / "me"
    with DatagramClient(bind=path):
        path.unlink()
        path.touch()
    assert path.exists()


@unix
@pytest.mark.parametrize("wrong", ["nobody", "option", "max_datagram"])
def test_own_path_goes_when_the_client_cannot_be_made(tmp_path, wrong):
    path, address, options = tmp_path / "me", tmp_path / "there", {}
    if wrong == "option":
        options = {"interface": "nosuch0", "ttl": 999}
    elif wrong == "max_datagram":
        options = {"max_datagram": 0}
    with receiver(socket.AF_UNIX, str(address)):
        if wrong == "nobody":
            address.unlink()
        if wrong == "option":
            DatagramClient(address, bind=path, ttl=9).close()  # of no meaning there
            return
        with pytest.raises((OSError, ValueError)):
            DatagramClient(address, bind=path, **options)
    assert not path.exists()


@unix
def test_own_path_that_cannot_be_had_is_told(tmp_path):
    (tmp_path / "file").touch()
    with plain("unix", tmp_path) as peer:
        for name, error, told in (
            ("file", OSError, "a file that is no socket stands there"),
            (os.path.basename(peer.getsockname()), OSError, "a server is answering there"),
            ("no/folder", FileNotFoundError, "there is no such folder"),
        ):
            with pytest.raises(error, match=f"cannot receive at .*{name}: .*{told}"):
                DatagramClient(peer.getsockname(), bind=tmp_path / name)
            with pytest.raises(error, match=f"cannot receive at .*{name}: .*{told}"):
                DatagramClient(bind=tmp_path / name)


@unix
def test_path_that_a_dead_client_left_is_taken_over(tmp_path):
    path = tmp_path / "me"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(path))
    with DatagramClient(bind=path, timeout=LONG) as client:
        with DatagramClient(path) as sender:
            sender.send(b"x")
        assert client.recv() == b"x"


def test_port_that_is_taken_is_told(udp_ends):
    name = udp_ends.peer.getsockname()
    with pytest.raises(
        OSError,
        match=f"cannot receive at udp://127.0.0.1:{name[1]}: .*(in use|10048|usage|2740)",
    ):
        DatagramClient(bind=name)


# ------------------------------------------------------------ other families


@linux
def test_addresses_of_other_families_are_bytes_that_can_be_sent_to():
    """What netlink is asked and answers is not looked at"""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    sock.bind((0, 0))
    with DatagramClient(sock=sock, timeout=LONG) as client:
        kernel = struct.pack("@HHII", socket.AF_NETLINK, 0, 0, 0)
        ask = struct.pack("@IHHIIBxxx", 20, 18, 0x301, 7, 0, 0)  # RTM_GETLINK, all of them
        client.sendto(ask, kernel)
        message, address = client.recvfrom()
        assert address == kernel
        assert struct.unpack_from("@IHHI", message)[1:] == (16, 2, 7)  # RTM_NEWLINK
        until(lambda: struct.unpack_from("@IH", client.recv())[1] == 3)  # NLMSG_DONE
        for wrong in ((0, 0), b"\x10", bytes(200)):
            with pytest.raises((TypeError, ValueError), match="address"):
                client.sendto(ask, wrong)


@linux
def test_packet_socket_sees_what_goes_over_an_interface(isolated):
    def check() -> None:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        sock.bind(("lo", 0x0800))
        with (
            DatagramClient(sock=sock, timeout=LONG) as client,
            receiver(socket.AF_INET, ("127.0.0.1", 0)) as peer,
        ):
            with DatagramClient(peer.getsockname()) as sender:
                sender.send(b"seen")
            packet, address = client.recvfrom()
            assert packet.endswith(b"seen")
            assert isinstance(address, bytes)
            client.sendto(packet, address)
            assert peer.recv(99) == b"seen"

    isolated(check)


def test_datagrams_over_every_kind_of_address_go_both_ways(kind, tmp_path):
    with linked(kind, tmp_path, timeout=LONG) as ends:
        ends.client.send(b"there")
        message, address = ends.peer.recvfrom(99)
        assert (message, address) == (b"there", ends.client.getsockname())
        ends.peer.sendto(b"back", address)
        assert ends.client.recvfrom() == (b"back", ends.peer.getsockname())


@pytest.mark.parametrize("host", ["127.0.0.1\0.example", "::1\0.example"])
def test_host_with_a_nul_in_it_is_refused(host: str) -> None:
    with (
        DatagramClient(bind="udp://127.0.0.1:0") as client,
        pytest.raises(ValueError, match="no name can|is no IPv6 number"),
    ):
        client.sendto(b"x", (host, 9))
