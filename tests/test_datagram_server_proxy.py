"""DatagramServer behind a load balancer: a PROXY header in each datagram."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import unix, unlike_wine
from datagram_servers import UDP, Asker, come_in, lines, nameless, serving
from peers import until
from test_proxy import SIGNATURE, packed, unix_block, v2

CLIENT = ("203.0.113.9", 4711)
HEADER = v2(0x21, 0x12, packed(CLIENT, ("192.0.2.1", 53)))  # 2: of a datagram
BEHIND: dict[str, Any] = {"proxy_protocol": "v2", "max_amplification": None}


@pytest.fixture
def behind() -> Iterator[tuple[pysock.DatagramServer, Asker]]:
    """A server that says whom it hears, and its proxy."""
    with serving(whose, **BEHIND) as server, Asker(server) as asker:
        yield server, asker


def whose(message: bytes, sender: Any) -> bytes:
    return repr((message, sender.address, sender.proxy and sender.proxy.source)).encode()


def said(message: bytes, address: Any, source: Any) -> bytes:
    return repr((message, address, source)).encode()


SOURCES = [
    (HEADER, CLIENT),
    (v2(0x21, 0x22, packed(("2001:db8::9", 7), ("2001:db8::1", 53))), ("2001:db8::9", 7)),
    (v2(0x21, 0x32, unix_block(b"/run/client", b"/run/s")), "/run/client"),
    (v2(0x21, 0x12, packed(CLIENT, CLIENT), (4, b"\0" * 9)), CLIENT),
]


@pytest.mark.case("G18")
@pytest.mark.parametrize(("header", "source"), SOURCES, ids=["4", "6", "unix", "tlv"])
@pytest.mark.parametrize("message", [b"x", HEADER, bytes(60_000)], ids=len)
def test_header_tells_the_client_g18(
    behind: tuple[pysock.DatagramServer, Asker], header: bytes, source: Any, message: bytes
) -> None:
    """The replies go by the proxy."""
    server, asker = behind
    for _ in range(2):
        if len(message) > 1000:
            asker.send(header + message)
            come_in(server, 1)
        else:
            assert asker.ask(header + message) == said(message, source, source)
    assert server.stats["refused"] == 0


@pytest.mark.parametrize("command", [0x20, 0x21])
def test_header_without_addresses_leaves_the_proxys_own(
    behind: tuple[pysock.DatagramServer, Asker], command: int
) -> None:
    _, asker = behind
    header = v2(command, 0, b"")
    assert asker.ask(header + b"x") == said(b"x", asker.name, None)


REFUSED = [
    (b"", "came, expected a PROXY v2 header"),
    (b"hello", "came, expected a PROXY v2 header"),
    (b"PROXY UDP4 203.0.113.9 192.0.2.1 4711 53\r\nx", "PROXY"),
    (b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 53\r\nx", "PROXY"),
    (HEADER[:12] + b"\x11" + HEADER[13:] + b"x", "version"),
    (HEADER[:14] + b"\xff\xff" + HEADER[16:] + b"x", "65535"),
]


@pytest.mark.case("G18")
@pytest.mark.parametrize(("datagram", "told"), REFUSED, ids=range(len(REFUSED)))
def test_datagram_without_a_header_is_refused_g18(
    behind: tuple[pysock.DatagramServer, Asker],
    datagram: bytes,
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, asker = behind
    asker.send(datagram)
    assert asker.ask(HEADER + b"x") == said(b"x", CLIENT, CLIENT)
    assert server.stats["refused"] == 1
    (line,) = lines(caplog)
    assert line.startswith(f"a datagram from 127.0.0.1:{asker.name[1]} is refused: ")
    assert told in line or not datagram


@pytest.mark.case("G18")
def test_header_is_not_put_together_from_several_g18(
    behind: tuple[pysock.DatagramServer, Asker],
) -> None:
    """Cut at every byte, and alone."""
    server, asker = behind
    for cut in range(len(HEADER) + 1):
        asker.send(HEADER[:cut], HEADER[cut:])
        assert asker.ask(HEADER + b"x") == said(b"x", CLIENT, CLIENT)
    # Whole and alone it is refused at both ends, and so is the nothing beside it.
    assert server.stats["refused"] == 2 * (len(HEADER) + 1)


def test_noise_ends_nothing(behind: tuple[pysock.DatagramServer, Asker]) -> None:
    server, asker = behind
    dice = random.Random(18)
    for _ in range(300):
        data = bytearray(dice.choice(SOURCES)[0] + b"x")
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(SIGNATURE), len(data))] = dice.randrange(256)
        asker.send(data, HEADER + b"end")
        while asker.recv() != said(b"end", CLIENT, CLIENT):
            pass
    until(lambda: server.stats["refused"] + server.stats["messages_out"] == 600)


@pytest.mark.case("G18")
@unlike_wine  # where all that is bound to 127.0.0.0/8 sends from 127.0.0.1
def test_proxy_that_is_not_trusted_is_refused_g18(caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(whose, **BEHIND, trusted_proxies=["127.0.0.2", "10.0.0.0/8"]) as server,
        Asker(server) as asker,
        Asker(server, ("127.0.0.2", 0)) as trusted,
    ):
        asker.send(HEADER + b"x")
        assert trusted.ask(HEADER + b"x") == said(b"x", CLIENT, CLIENT)
        assert server.stats["refused"] == 1
    assert [line.rpartition(": ")[2] for line in lines(caplog)] == ["it is no trusted proxy"]


@unix
def test_proxy_without_a_name_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = f"unixgram://{tmp_path}/s"
    with (
        serving(whose, where, **BEHIND) as server,
        nameless(server) as peer,
        Asker(server) as asker,
    ):
        peer.send(HEADER + b"x")
        assert asker.ask(HEADER + b"x") == said(b"x", CLIENT, CLIENT)
        assert server.stats["refused"] == 1
    assert len(lines(caplog)) == 1


def test_errors_tell_the_client_and_not_the_proxy(caplog: pytest.LogCaptureFixture) -> None:
    told = []

    class Own(pysock.DatagramServer):
        def handle_error(self, message: bytes, client_address: Any) -> None:
            told.append((message, client_address))
            super().handle_error(message, client_address)

    def handler(message: bytes) -> bytes:
        raise ValueError("as told")

    with Own(UDP, handler, proxy_protocol="v2").start() as server, Asker(server) as asker:
        asker.send(HEADER + b"x")
        come_in(server, 1)
        server.stop()
    assert told == [(b"x", CLIENT)]
    assert lines(caplog) == ["handler failed for 203.0.113.9:4711"]


def test_client_behind_a_proxy_may_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    """The proxy has only passed on what it was told; the header counts as asked."""
    with serving(
        lambda m, sender: bytes(int(m)), proxy_protocol="v2", max_amplification=1
    ) as server:
        most = len(HEADER + b"31")
        with Asker(server) as asker:
            asker.send(HEADER + b"%d" % (most + 1))
            assert asker.ask(HEADER + b"%d" % most) == bytes(most)
            until(lambda: server.stats["replies_lost"] == 1)
    (line,) = lines(caplog)
    assert "to 203.0.113.9:4711 is refused" in line
