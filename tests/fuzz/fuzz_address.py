"""Addresses as people write them, and as the system tells them."""

from __future__ import annotations

import os
from typing import Any

from fuzz.source import Source
from pysock.address import Address, format_peer, is_local, parse
from pysock.proxy import Trusted

WORDS = (b"tcp://", b"tls://", b"unix:", b"unix:@", b"udp://", b"unixgram:///", b"fd://")


def target(data: bytes) -> None:
    source = Source(data)
    how = source.number(5)
    text = source.rest().decode("utf-8", "surrogateescape" if how else "replace")
    if how < 3:
        read(text)
    elif how == 3 and os.name != "nt":  # where not all bytes are a path
        read(text.encode("utf-8", "surrogateescape"))
    elif how == 4:
        host, _, number = text.partition("\n")
        digits = number.isascii() and number.isdigit() and len(number) < 20
        port = int(number) if digits else -1
        read((host, port))
        read((host, port, 0, len(number)))
        read((host, number))
    else:
        peer(text)


def read(given: Any) -> None:
    """What can be read prints as what reads the same; nothing else than two errors comes."""
    try:
        address = parse(given)
    except ValueError as exc:
        assert str(exc).startswith("address ")
        return
    except TypeError:
        assert isinstance(given, tuple) and not isinstance(given[1], int)
        return
    assert isinstance(address, Address) and parse(address) is address
    again = parse(str(address))
    assert again == address and hash(again) == hash(address)
    assert str(again) == str(address)
    assert 0 <= address.port <= 65535 and (address.path == "") != (
        address.scheme[:4] == "unix"
    )


def peer(text: str) -> None:
    """What the system tells of a peer gets into a log in one line."""
    assert format_peer(text).isprintable()
    is_local(text)
    networks = text.split("\n")
    try:
        trusted = Trusted(networks)
    except ValueError as exc:
        assert str(exc).startswith("trusted network ")
        return
    for network in networks:
        number = network.partition("/")[0]
        assert "%" in network or (number, 1) in trusted
    assert repr(trusted)
