"""Listening on an address: which families, which ports, and what is said when it fails."""

from __future__ import annotations

import errno
import socket

import pytest

from conftest import TIME_FACTOR, ipv6, linux
from peers import reaches
from pysock.address import connect, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=ipv6)])
def test_listen_takes_a_free_port_of_the_host(host):
    with listen((host, 0)) as listener:
        assert listener.getsockname()[1] > 0
        assert reaches(listener.getsockname(), listener)


def test_listen_prefers_ipv4_for_a_name(resolved):
    """As socketserver does: its users read server_address as (host, port)."""
    resolved(("::1", 0, 0, 0), ("127.0.0.1", 0))
    with listen("name.example:0") as listener:
        assert listener.family == socket.AF_INET


@ipv6
def test_listen_without_a_host_takes_both_families():
    with listen(":0") as listener:
        port = listener.getsockname()[1]
        assert reaches(("127.0.0.1", port), listener)
        assert reaches(("::1", port), listener)


@pytest.mark.case("X01")
def test_listen_without_a_host_takes_ipv4_where_there_is_no_dual_stack(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("tcp://:0") as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@ipv6
def test_listen_on_the_ipv6_wildcard_leaves_ipv4_alone():
    with listen("[::]:0") as listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@pytest.mark.parametrize("reuse_address", [True, False])
def test_listen_on_a_taken_port_names_it(reuse_address):
    with listen("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        with pytest.raises(
            OSError, match=f"cannot listen on tcp://127.0.0.1:{port}: "
        ) as caught:
            listen(("127.0.0.1", port), reuse_address=reuse_address)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.case("D19")
@linux
@pytest.mark.parametrize("reuse_address", [True, False])
def test_listen_again_while_old_connections_linger_d19(reuse_address):
    """D19: the server closed first, so its port is in TIME_WAIT."""
    with listen("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        first.settimeout(10 * TIME_FACTOR)
        with connect(("127.0.0.1", port), 10 * TIME_FACTOR) as client:
            first.accept()[0].close()
            client.settimeout(10 * TIME_FACTOR)
            assert client.recv(1) == b""
    if reuse_address:
        with listen(("127.0.0.1", port)) as again:
            assert again.getsockname()[1] == port
    else:
        with pytest.raises(OSError, match="in use"):
            listen(("127.0.0.1", port), reuse_address=False)


def test_listen_on_an_unknown_name_keeps_the_resolvers_error(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        socket.gaierror, match="cannot listen on tcp://nosuch.example:80: Name"
    ):
        listen("nosuch.example:80")


@pytest.mark.parametrize("given", ["udp://:9", "unixgram:@a"])
def test_listen_refuses_addresses_that_are_not_for_it(given):
    with pytest.raises(ValueError, match=f"address '{given}': cannot listen on "):
        listen(given)


def test_system_without_unix_sockets_says_so(monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    for use in (connect, listen):
        with pytest.raises(OSError, match="no Unix sockets for Python: unix:///x; ") as caught:
            use("unix:///x")
        assert caught.value.errno == errno.EAFNOSUPPORT
