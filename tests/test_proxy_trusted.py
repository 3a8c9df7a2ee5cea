"""Who may send a PROXY header: networks, and every form of a peer's address."""

from __future__ import annotations

import re
import socket

import pytest

from conftest import ipv6
from pysock.proxy import Trusted


@pytest.mark.case("H21")
@pytest.mark.parametrize(
    ("networks", "peer", "trusted"),
    [
        (["127.0.0.0/8", "::1"], ("127.0.0.1", 5), True),
        (["127.0.0.0/8", "::1"], ("127.255.0.1", 5), True),
        (["127.0.0.0/8", "::1"], ("128.0.0.1", 5), False),
        (["127.0.0.0/8", "::1"], ("::1", 5, 0, 0), True),
        (["127.0.0.0/8", "::1"], ("::2", 5, 0, 0), False),
        (["127.0.0.0/8"], ("::ffff:127.0.0.1", 5, 0, 0), True),
        (["::ffff:127.0.0.0/104"], ("127.0.0.1", 5), True),
        (["::ffff:127.0.0.1"], ("::ffff:127.0.0.1", 5, 0, 0), True),
        (["::/0"], ("127.0.0.1", 5), False),
        (["0.0.0.0/0"], ("::1", 5, 0, 0), False),
        (["fe80::/10"], ("fe80::1%eth0", 5, 0, 2), True),
        (["10.0.0.1"], ("10.0.0.1", 5), True),
        (["10.0.0.1"], ("10.0.0.2", 5), False),
        ([], ("127.0.0.1", 5), False),
        ([], "", True),
        ([], b"", True),
        ([], "/run/proxy.sock", True),
        ([], b"\0proxy", True),
        (["0.0.0.0/0"], None, False),
        (["0.0.0.0/0"], (2, 1000), False),
        (["0.0.0.0/0"], ("localhost", 5), False),
    ],
)
def test_only_trusted_peers_are_believed_h21(networks, peer, trusted):
    assert (peer in Trusted(networks)) is trusted


@pytest.mark.case("H21")
@ipv6
def test_peer_is_the_same_seen_by_a_socket_for_both_families_h21():
    with (
        socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])),
    ):
        served, peer = listener.accept()
        served.close()
    assert peer in Trusted(["127.0.0.1"])


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (["10.0.0.1/8"], "trusted network '10.0.0.1/8': 10.0.0.1/8 has host bits set; write"),
        (["proxy.example"], "trusted network 'proxy.example': 'proxy.example' does not"),
        ([""], "trusted network '': "),
    ],
)
def test_networks_are_checked(networks, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Trusted(networks)


def test_networks_are_a_list():
    with pytest.raises(TypeError, match="trusted networks are '::1', expected a list"):
        Trusted("::1")
