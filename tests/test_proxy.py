"""PROXY headers: every cut waits, every wrong byte is refused, none is guessed."""

from __future__ import annotations

import pickle
import re
import socket
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from pysock.errors import InvalidHeader
from pysock.proxy import ProxyHeader, parse

properties = strategies.examples(150)

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
UNKNOWN_107 = b"PROXY UNKNOWN" + 2 * (b" ffff" + 7 * b":ffff") + b" 65535 65535\r\n"
IPV6_104 = UNKNOWN_107.replace(b"UNKNOWN", b"TCP6")
FULL_IPV6 = "ffff" + 7 * ":ffff"


def v2(
    command: int = 0x21, family: int = 0x11, block: bytes = bytes(12), *tlvs: tuple[int, bytes]
) -> bytes:
    """A version 2 header; nothing about it needs to be right."""
    for kind, value in tlvs:
        block += bytes([kind]) + len(value).to_bytes(2, "big") + value
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block


def crc32c(data: bytes) -> int:
    """The checksum by long division, as RFC 4960 tells it."""
    crc = 0xFFFFFFFF
    for bit in "".join(f"{byte:08b}"[::-1] for byte in data):
        crc ^= int(bit)
        crc = (crc >> 1) ^ 0x82F63B78 if crc & 1 else crc >> 1
    return crc ^ 0xFFFFFFFF


def summed(header: bytes) -> bytes:
    """The header with a CRC32C at its end that is right."""
    size = int.from_bytes(header[14:16], "big") + 7
    header = header[:14] + size.to_bytes(2, "big") + header[16:] + b"\3\0\4"
    return header + crc32c(header + bytes(4)).to_bytes(4, "big")


def packed(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    hosts = b"".join(socket.inet_pton(family, host) for host, _ in (source, destination))
    return hosts + b"".join(port.to_bytes(2, "big") for _, port in (source, destination))


def unix_block(source: bytes, destination: bytes) -> bytes:
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


CLIENT, SERVER = ("192.0.2.7", 56324), ("198.51.100.11", 443)
CLIENT6, SERVER6 = ("2001:db8::7", 56324), ("2001:db8::b", 443)

V1 = [
    (
        b"PROXY TCP4 192.0.2.7 198.51.100.11 56324 443\r\n",
        ProxyHeader(1, "PROXY", CLIENT, SERVER),
    ),
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ProxyHeader(1, "PROXY", ("255.255.255.255", 65535), ("255.255.255.255", 65535)),
    ),
    (
        b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
        ProxyHeader(1, "PROXY", ("0.0.0.0", 0), ("0.0.0.0", 0)),
    ),
    (
        b"PROXY TCP6 2001:DB8::7 2001:0db8:0:0:0:0:0:b 56324 443\r\n",
        ProxyHeader(1, "PROXY", CLIENT6, SERVER6),
    ),
    (IPV6_104, ProxyHeader(1, "PROXY", (FULL_IPV6, 65535), (FULL_IPV6, 65535))),
    (b"PROXY TCP6 :: ::1 1 2\r\n", ProxyHeader(1, "PROXY", ("::", 1), ("::1", 2))),
    (
        b"PROXY TCP6 1:2:3:4:5:6:7:: ::ffff:192.0.2.7 1 2\r\n",
        ProxyHeader(1, "PROXY", ("1:2:3:4:5:6:7:0", 1), ("::ffff:192.0.2.7", 2)),
    ),
    (b"PROXY UNKNOWN\r\n", ProxyHeader(1, "PROXY")),
    (b"PROXY UNKNOWN \xff\0  anything\r\n", ProxyHeader(1, "PROXY")),
    (UNKNOWN_107, ProxyHeader(1, "PROXY")),
]

# What HAProxy 2.6 sent with proxy-v2-options crc32c,unique-id
SUMMED = SIGNATURE + bytes.fromhex(
    "211100317f0000017f000001b626b2f10300043ffda78905001b37463030303030313a42363236"
    "5f37463030303030313a42324631"
)

V2 = [
    (  # from HAProxy's own tests
        SIGNATURE + bytes.fromhex("21110014 7F000001 7F000001 002A 0539 02 0005 3132333435"),
        ProxyHeader(2, "PROXY", ("127.0.0.1", 42), ("127.0.0.1", 1337), ((2, b"12345"),)),
    ),
    (
        v2(0x21, 0x11, packed(CLIENT, SERVER)),
        ProxyHeader(2, "PROXY", CLIENT, SERVER),
    ),
    (
        v2(0x21, 0x12, packed(CLIENT, SERVER)),
        ProxyHeader(2, "PROXY", CLIENT, SERVER),
    ),
    (
        v2(0x21, 0x21, packed(CLIENT6, SERVER6)),
        ProxyHeader(2, "PROXY", CLIENT6, SERVER6),
    ),
    (
        v2(0x21, 0x22, packed(CLIENT6, SERVER6), (4, b""), (5, b"x" * 128)),
        ProxyHeader(2, "PROXY", CLIENT6, SERVER6, ((4, b""), (5, b"x" * 128))),
    ),
    (
        v2(0x21, 0x31, unix_block(b"/run/client", b"p" * 108)),
        ProxyHeader(2, "PROXY", "/run/client", "p" * 108),
    ),
    (
        v2(0x21, 0x32, unix_block(b"", b"\0abstract")),
        ProxyHeader(2, "PROXY", "", "\0abstract"),
    ),
    (v2(0x20, 0x00, b""), ProxyHeader(2, "LOCAL")),
    (v2(0x20, 0x11, bytes(12)), ProxyHeader(2, "LOCAL")),
    (v2(0x20, 0xFF, b"\3anything"), ProxyHeader(2, "LOCAL")),
    (v2(0x21, 0x00, b""), ProxyHeader(2, "PROXY")),
    (v2(0x21, 0x00, b"\1anything"), ProxyHeader(2, "PROXY")),
    (v2(0x21, 0x01, b"x"), ProxyHeader(2, "PROXY")),
    (v2(0x21, 0x10, b"x"), ProxyHeader(2, "PROXY")),
    (v2(0x20, 0x00, bytes(4080)), ProxyHeader(2, "LOCAL")),
    (v2(0x21, 0x11, bytes(12), (0xE0, bytes(4065))), None),
    (summed(v2(0x21, 0x11, packed(CLIENT, SERVER), (1, b"h2"))), None),
    (
        SUMMED,
        ProxyHeader(
            2,
            "PROXY",
            ("127.0.0.1", 46630),
            ("127.0.0.1", 45809),
            ((3, b"\x3f\xfd\xa7\x89"), (5, b"7F000001:B626_7F000001:B2F1")),
        ),
    ),
]

VALID = [*V1, *V2]


@pytest.mark.case("H15", "H18", "H20")
@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.0\r\n\r\n", b"PROXY UNKNOWN\r\n\0"])
@pytest.mark.parametrize(("header", "expected"), VALID)
def test_header_is_told_from_what_follows_h15_h18_h20(header, expected, data):
    """H20: what follows the declared length is the application's, whatever it looks like."""
    found, size = parse(header + data)
    assert size == len(header)
    assert expected in (None, found)
    assert parse(bytearray(header + data), f"v{found.version}") == (found, size)
    assert pickle.loads(pickle.dumps(found)) == found
    assert len({found, parse(header)[0]}) == 1


@pytest.mark.case("H20")
def test_bytes_that_follow_are_not_taken_for_a_tlv_h20():
    header = v2(0x21, 0x11, bytes(12))
    assert parse(header + b"\2\0\5hello") == (parse(header)[0], 28)


@pytest.mark.case("H17")
@pytest.mark.parametrize("header", [row[0] for row in VALID])
def test_every_cut_of_a_header_waits_h17(header):
    version = "v2" if header.startswith(SIGNATURE) else "v1"
    for cut in range(len(header)):
        assert parse(header[:cut]) is None, header[:cut]
        assert parse(header[:cut], version) is None, header[:cut]


V1_REFUSED = [
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1 65536", "destination port '65536' came, expected a"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 -", "source port '-' came, expected a number from 0 to"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 01", "source port '01' came"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1 00", "destination port '00' came"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1 \xb2", "destination port '\xb2' came"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1  ", "destination port '' came"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1 2 ", "a space after the destination port came"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1 2\n", "a lone LF came, expected CRLF at the end"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1 2\r ", "a lone CR came"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1 2\r\r", "a lone CR came"),
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1\r", "the end of the line came, expected the destinat"),
    (b"PROXY TCP4 192.0.2.7\r", "the end of the line came, expected the destination"),
    (b"PROXY TCP4\r", "the end of the line came, expected the source"),
    (b"PROXY TCP4 01", "source '01' came, expected an IPv4 number"),
    (b"PROXY TCP4 1.02", "source '1.02' came"),
    (b"PROXY TCP4 256", "source '256' came"),
    (b"PROXY TCP4 1.2.3 ", "source '1.2.3' came"),
    (b"PROXY TCP4 1.2.3.4.", "source '1.2.3.4.' came"),
    (b"PROXY TCP4 :", "source ':' came"),
    (b"PROXY TCP4  ", "source '' came"),
    (b"PROXY TCP4 1.2.3.4  ", "destination '' came"),
    (b"PROXY TCP4 1.2\0", "source '1.2\\x00' came"),
    (b"PROXY TCP6 1.", "source '1.' came, expected an IPv6 number"),
    (b"PROXY TCP6 fe80::1%", "source 'fe80::1%' came"),
    (b"PROXY TCP6 12345", "source '12345' came"),
    (b"PROXY TCP6 1::2::", "source '1::2::' came"),
    (b"PROXY TCP6 :::", "source ':::' came"),
    (b"PROXY TCP6 :1", "source ':1' came"),
    (b"PROXY TCP6 1:2:3:4:5:6:7:8:", "source '1:2:3:4:5:6:7:8:' came"),
    (b"PROXY TCP6 ::ffff:1.2.3.256", "source '::ffff:1.2.3.256' came"),
    (b"PROXY TCP6 ::ffff:01.", "source '::ffff:01.' came"),
    (b"PROXY TCP6 [", "source '[' came"),
    (b"PROXY tcp4", "family 't' came, expected TCP4, TCP6 or UNKNOWN"),
    (b"PROXY TCP5", "family 'TCP5' came"),
    (b"PROXY UDP4", "family 'UD' came"),
    (b"PROXY TCP ", "family 'TCP' came"),
    (b"PROXY \r\n", "family '' came"),
    (b"PROXY  ", "family '' came"),
    (b"PROXY UNKNOWNX", "family 'UNKNOWNX' came"),
    (b"PROXY UNKNOWN\n", "a lone LF came"),
    (b"PROXY UNKNOWN x\ry", "a lone CR came"),
    (b"PROXY UNKNOWN " + b"x" * 93, "no CRLF in 107 bytes came, expected a line that has"),
    (b"PROXY UNKNOWN " + b"x" * 92 + b"\r", "no CRLF in 107 bytes came"),
]


@pytest.mark.case("H16")
@pytest.mark.parametrize(("line", "message"), V1_REFUSED)
def test_wrong_line_is_refused_at_its_first_wrong_byte_h16(line, message):
    wrong = next(end for end in range(1, len(line) + 1) if refusal(line[:end]) is not None)
    for seen in (line[:wrong], line, line + b"\r\nGET /", line + b"x" * 200):
        error = refusal(seen)
        assert error is not None
        assert seen.startswith(error.header)
    assert wrong == len(line) or "family" in message or "107" in message
    assert str(refusal(line[:wrong])).startswith(f"PROXY v1 header: {message}")


def begun(left: int) -> bytes:
    """A version 2 header up to its TLVs, for which *left* bytes were announced."""
    return v2(block=bytes(12 + left))[:28]


V2_REFUSED = [
    (SIGNATURE + b"\x11", "version 1 came, expected 2"),
    (SIGNATURE + b"\x31", "version 3 came"),
    (SIGNATURE + b"\x0d", "version 0 came"),  # the signature a second time
    (SIGNATURE + b"\x22", "command 2 came, expected 0 (LOCAL) or 1 (PROXY)"),
    (SIGNATURE + b"\x2f", "command 15 came"),
    (SIGNATURE + b"\x21\x41", "address family 4 came, expected 0 to 3"),
    (SIGNATURE + b"\x21\x13", "transport protocol 3 came, expected 0 to 2"),
    (SIGNATURE + b"\x21\x11\x10", "length 4096 or more came, expected 4080 at most"),
    (SIGNATURE + b"\x20\x00\xff", "length 65280 or more came"),
    (SIGNATURE + b"\x20\x00\x0f\xf1", "length 4081 or more came"),
    (SIGNATURE + b"\x21\x11\x00\x0b", "length 11 came, expected 12 or more, for the addr"),
    (SIGNATURE + b"\x21\x21\x00\x23", "length 35 came, expected 36 or more"),
    (SIGNATURE + b"\x21\x31\x00\xd7", "length 215 came, expected 216 or more"),
    (SIGNATURE + b"\x21\x11\x00\x0d", "1 bytes after the last TLV came, expected 3 or more"),
    (begun(3) + b"\2\0\1", "a TLV of 1 bytes where 0 are left came, expected it to fit"),
    (begun(6) + b"\2\1", "a TLV of 256 bytes where 3 are left came"),
    (begun(6) + b"\2\0\2", "1 bytes after the last TLV came"),
    (begun(6) + b"\2\0\0\2\0\1", "a TLV of 1 bytes where 0 are left came"),
    (begun(200) + b"\5\0\x81", "a unique id of 129 bytes came, expected 128 at most"),
    (begun(30) + b"\3\0\5", "a CRC32C of another size came, expected 4 bytes"),
    (begun(30) + b"\3\0\4crc.\3", "a second CRC32C came, expected one"),
    (begun(6) + b"\3", "a TLV of 4 bytes where 3 are left came"),
    (SUMMED[:-1] + b"2", "CRC32C 3ffda789 came, expected "),
]


@pytest.mark.case("H19")
@pytest.mark.parametrize(("header", "message"), V2_REFUSED)
def test_wrong_header_is_refused_at_its_first_wrong_byte_h19(header, message):
    assert parse(header[:-1]) is None
    assert str(refusal(header)).startswith(f"PROXY v2 header: {message}")
    for seen in (header, header + bytes(300), header + b"GET /"):
        error = refusal(seen)
        assert error is not None
        assert seen.startswith(error.header)


def refusal(data: bytes, accept: str = "any") -> InvalidHeader | None:
    try:
        parse(data, accept)
    except InvalidHeader as exc:
        return exc
    return None


@pytest.mark.case("H19")
def test_a_flipped_bit_of_a_summed_header_is_seen_h19():
    for bit in range(8 * 28, 8 * len(SUMMED)):
        header = bytearray(SUMMED)
        header[bit // 8] ^= 1 << bit % 8
        found = None if refusal(bytes(header)) else parse(bytes(header))
        # A type or length may become another; then there is no checksum, or no end yet.
        assert found is None or 3 not in dict(found[0].tlvs)


@pytest.mark.case("H19")
def test_checksum_covers_the_addresses_h19():
    for at in range(16, 28):
        header = bytearray(SUMMED)
        header[at] ^= 4
        assert "CRC32C 3ffda789 came" in str(refusal(bytes(header)))


def test_properties_of_a_header():
    found, _ = parse(SUMMED)
    assert found.unique_id == b"7F000001:B626_7F000001:B2F1"
    assert found.authority is None
    found, _ = parse(v2(0x21, 0x11, bytes(12), (2, "bücher.example\xff".encode("latin-1"))))
    assert found.authority == "b\\xfccher.example\\xff"
    assert found.unique_id is None


BESIDE = "did the client come past the proxy, or does the proxy lack send-proxy?"


@pytest.mark.case("H21")
@pytest.mark.parametrize(
    ("accept", "data", "message"),
    [
        ("any", b"G", f"b'G' came, expected a PROXY header: {BESIDE}"),
        ("any", b"PRO%", f"b'PRO%' came, expected a PROXY header: {BESIDE}"),
        ("any", b"proxy ", f"b'proxy ' came, expected a PROXY header: {BESIDE}"),
        ("any", b"PROXY\r", f"b'PROXY\\r' came, expected a PROXY header: {BESIDE}"),
        ("any", b"\r\n\r\n\0\r\nQUIX", "came, expected a PROXY header: "),
        ("any", bytes(4096), f"b'{12 * (chr(92) + 'x00')}' came, expected a PROXY header: "),
        (
            "v2",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "b'PROXY TCP4 1' came, expected a PROXY v2 header: "
            "this begins v1: have the proxy send v2, or expect v1 here",
        ),
        ("v2", b"P", f"b'P' came, expected a PROXY v2 header: {BESIDE}"),
        (
            "v1",
            v2(),
            "came, expected a PROXY v1 header: "
            "this begins v2: have the proxy send v1, or expect v2 here",
        ),
        ("v1", b"\r", f"b'\\r' came, expected a PROXY v1 header: {BESIDE}"),
    ],
)
def test_what_is_no_header_is_never_passed_on_h21(accept, data, message):
    assert message in str(refusal(data, accept))


def test_accept_is_a_version():
    with pytest.raises(ValueError, match="accept is 'auto', expected one of v1, v2, any"):
        parse(b"", "auto")


# ------------------------------------------------------------ properties

ports = st.integers(0, 65535)
ipv4_hosts = st.ip_addresses(v=4).map(str)
ipv6_hosts = st.ip_addresses(v=6).map(
    lambda host: socket.inet_ntop(socket.AF_INET6, host.packed)
)


def ends(hosts: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[tuple[str, int], ...]]:
    return st.tuples(st.tuples(hosts, ports), st.tuples(hosts, ports))


def line(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    family = "TCP6" if ":" in source[0] else "TCP4"
    text = f"PROXY {family} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n"
    return text.encode()


lines = (ends(ipv4_hosts) | ends(ipv6_hosts)).map(lambda both: line(*both))
tlvs = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=128)),
    max_size=6,
)


@properties
@given(ends(ipv4_hosts) | ends(ipv6_hosts), tlvs, st.booleans(), st.binary(max_size=40))
def test_headers_round_trip(both, extra, checked, data):
    family = 0x21 if ":" in both[0][0] else 0x11
    header = v2(0x21, family, packed(*both), *extra)
    if checked:
        header = summed(header)
        extra = [*extra, (3, header[-4:])]
    assert parse(header + data) == (
        ProxyHeader(2, "PROXY", *both, tuple(extra)),
        len(header),
    )
    text = line(*both)
    assert parse(text + data) == (ProxyHeader(1, "PROXY", *both), len(text))
    assert parse(header[: min(len(data), len(header) - 1)]) is None
    assert parse(text[: len(data) // 2]) is None


def reference_reads(text: bytes) -> bool:
    """Whether a line is right, by a pattern and the system's own reading of addresses."""
    if re.fullmatch(rb"PROXY UNKNOWN( [^\r\n]*)?\r\n", text):
        return len(text) <= 107
    number = rb"(0|[1-9][0-9]{0,4})"
    found = re.fullmatch(
        rb"PROXY TCP([46]) ([^ ]+) ([^ ]+) " + number + b" " + number + rb"\r\n", text
    )
    if not found or len(text) > 107 or max(int(found[4]), int(found[5])) > 65535:
        return False
    family = socket.AF_INET6 if found[1] == b"6" else socket.AF_INET
    try:
        for host in found.group(2, 3):
            socket.inet_pton(family, host.decode("ascii"))
    except (OSError, UnicodeDecodeError, ValueError):
        return False
    return True


@properties
@given(lines, st.data())
def test_a_line_with_a_byte_changed_is_read_as_the_reference_does(text, data):
    at = data.draw(st.integers(0, len(text) - 1))
    some = st.sampled_from([bytes([char]) for char in b" 0159.:afF%\r\n\0-x"])
    change = data.draw(
        st.one_of(some, st.just(b""), some.map(lambda char: char + text[at : at + 1]))
    )
    text = text[:at] + change + text[at + 1 :]
    beginning, end, _ = text.partition(b"\r\n")  # behind it, another byte is data
    if reference_reads(beginning + end):
        assert parse(text)[1] == len(beginning + end)
    else:
        error = refusal(text)
        # What is not wrong may be cut short: the line's end was lost.
        assert error is not None or not end and parse(text) is None


headers = st.sampled_from([row[0] for row in VALID])


@properties
@given(st.binary(max_size=40) | headers, st.data())
def test_an_answer_stays_the_same_when_more_bytes_come(stream, data):
    if stream:
        at = data.draw(st.integers(0, len(stream) - 1))
        stream = stream[:at] + data.draw(st.binary(max_size=3)) + stream[at + 1 :]
    answers = []
    for end in range(min(len(stream), 400) + 1):
        answer = refusal(stream[:end]) or parse(stream[:end])
        answers.append(type(answer) if isinstance(answer, InvalidHeader) else answer)
    final = answers[-1]
    waiting = answers.count(None)
    assert answers == [None] * waiting + [final] * (len(answers) - waiting)


beginnings = st.sampled_from(
    [b"", b"PROXY TCP6 ::", b"PROXY TCP4 2", b"PROXY U", SIGNATURE + b"\x21\x11\0"]
) | st.integers(3, 60).map(begun)


@strategies.examples(60)
@given(beginnings, st.integers())
def test_what_is_waited_for_can_still_come(seen, seed):
    """No dead ends: while more bytes are asked for, there is one that will do."""
    random = Random(seed)
    while parse(seen) is None:
        candidates = [seen + bytes([byte]) for byte in random.sample(range(256), 256)]
        fitting = next((data for data in candidates if refusal(data) is None), None)
        if fitting is None:
            # A wrong checksum shows at its header's end; and two IPv6 numbers written in
            # the longest way there is do not fit in a line.
            assert b"\3\0\4" in seen[28:] or len(seen) == 106
            return
        seen = fitting
