"""What refused bytes are taken for, and that no more of them is shown than needed."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysock.hints import explain

LIMIT = 64 * 1024 * 1024

PEERS = [
    (b"GET / HTTP/1.1\r\n", "'GET '", "an HTTP client"),
    (b"GET ", "'GET '", "an HTTP client"),
    (b"GET", "'GET'", "an HTTP client"),
    (b"HEAD / H", "'HEAD '", "an HTTP client"),
    (b"POST", "'POST'", "an HTTP client"),
    (b"PUT /x H", "'PUT '", "an HTTP client"),
    (b"OPTIONS * HTTP/1.1", "'OPTIONS '", "an HTTP client"),
    (b"CONN", "'CONN'", "an HTTP client"),
    (b"HTTP/1.1 400 Bad Request", "'HTTP/'", "an HTTP server"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "'PRI * HT'", "an HTTP/2 client"),
    (b"PRI * HTTP/", "'PRI * HT'", "an HTTP/2 client"),
    (b"SSH-2.0-x\r\n", "'SSH-'", "an SSH peer"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "'PROXY '", "a PROXY protocol v1 header"),
    (
        bytes.fromhex("0d0a0d0a000d0a515549540a2111000c"),
        r"'\r\n\r\n\x00\r\nQ'",
        "a PROXY protocol v2 header",
    ),
    (bytes.fromhex("1603010200010001fc0303"), r"'\x16\x03\x01'", "a TLS peer"),
    (bytes.fromhex("1403030001"), r"'\x14\x03\x03'", "a TLS peer"),
    (
        bytes.fromhex("15030300020246"),
        r"'\x15\x03\x03'",
        "a TLS server's alert (use tls://)",
    ),
    (b"\xffpysock\1\1\0\x21", r"'\xffpysock\x01'", "a pysock client with authkey="),
    (b"\xffpys", r"'\xffpys'", "a pysock client with authkey="),
    (b"AMQP\0\0\x09\x01", r"'AMQP\x00'", "an AMQP client"),
    (b"\x10\x10\0\4MQTT\4\2", r"'\x10\x10\x00\x04MQ'", "an MQTT client"),
    (b"\x1f\x8b\x08\0", r"'\x1f\x8b'", "gzip data"),
    (b"*1\r\n$4\r\nPING\r\n", r"'*1\r'", "a Redis client"),
]


@pytest.mark.case("H07")
@pytest.mark.parametrize(("header", "shown", "peer"), PEERS)
def test_peer_of_another_protocol_is_named(header: bytes, shown: str, peer: str) -> None:
    """H07: with and without a length field."""
    assert explain(header) == f"the bytes are {shown}, {peer}?"
    assert explain(header, header[:4], "big", LIMIT) == explain(header)


@pytest.mark.parametrize(
    ("header", "shown", "what"),
    [
        (b"hello world\n", "'hello wo'", "a line of text"),
        (b"it's\n", '"it\'s\\n"', "a line of text"),
        (b"5:hello,", "'5:'", "a netstring"),
        (b"content-length: 5\r\n", "'content-'", "a Content-Length header"),
    ],
)
def test_text_where_a_length_field_was_expected(header: bytes, shown: str, what: str) -> None:
    assert explain(header, header[:4], "big", LIMIT) == f"the bytes are {shown}, {what}?"
    assert explain(header) == ""  # a framing of text knows that it got text


@pytest.mark.parametrize(
    "header", [b"", b"G", b"GE", b"\0\0\0\0", b"\xff" * 12, b"\x16\x03\x09"]
)
def test_nothing_is_said_of_bytes_that_look_like_nothing(header: bytes) -> None:
    assert explain(header) == ""


@pytest.mark.parametrize(
    ("field", "byteorder", "limit", "expected"),
    [
        (b"\x40\0\0\0", "big", LIMIT, "64 if little-endian"),
        (b"\0\0\0\x40", "little", LIMIT, "64 if big-endian"),
        (b"\x40\0\0\0", "big", None, "64 if little-endian"),
        (b"\x40\0\0\0", "big", 63, ""),
        (b"\x40\0\0\0", "big", 64, "64 if little-endian"),
        (b"\0\0\0\0", "big", LIMIT, ""),
        (b"\0\0\0\1", "big", LIMIT, ""),  # smaller as it was read
        (b"\x80", "big", 100, ""),  # one byte has no order
        (b"\x01\0\0\0\0\0\0\0", "big", LIMIT, "1 if little-endian"),
    ],
)
def test_other_byte_order(
    field: bytes, byteorder: str, limit: int | None, expected: str
) -> None:
    assert explain(field, field, byteorder, limit) == expected


def test_native_order_is_this_machines() -> None:
    other = "big" if sys.byteorder == "little" else "little"
    field = (64).to_bytes(4, other)  # type: ignore[arg-type]
    assert explain(field, field, "native", LIMIT) == f"64 if {other}-endian"


def test_signature_goes_before_byte_order() -> None:
    """In little-endian order a TLS record is within the limit; TLS is the better guess."""
    field = b"\x16\x03\x01\x02"
    assert int.from_bytes(field, "little") <= LIMIT
    assert "TLS" in explain(field, field, "big", LIMIT)


@pytest.mark.case("H07")
@given(
    header=st.binary(max_size=40) | st.binary(max_size=9).map(lambda tail: b"GET " + tail),
    at=st.integers(0, 8),
    width=st.integers(0, 8),
    byteorder=st.sampled_from(["big", "little", "native"]),
    limit=st.none() | st.integers(0, 1 << 64),
)
def test_any_bytes_give_one_short_printable_line(
    header: bytes, at: int, width: int, byteorder: str, limit: int | None
) -> None:
    """H07: no echo of input: at most eight bytes, escaped."""
    hint = explain(header, header[at : at + width], byteorder, limit)
    assert hint.isascii()
    assert hint == "" or hint.isprintable()
    assert len(hint) < 100
