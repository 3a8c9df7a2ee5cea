"""Bytes in, messages out: every format, every cut, against the reference."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
import strategies
from outcomes import Outcome, outcome_of, stays_broken
from pysock.errors import FrameTooLarge, FramingError, IncompleteFrame, InvalidHeader
from pysock.framing import (
    ContentLength,
    Decimal,
    Decoder,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Varint,
)

properties = strategies.examples(150)


def byte_by_byte(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


# --- against the reference, at random ---


@pytest.mark.case("P01", "I01")
@properties
@given(strategies.streams(), strategies.cuts)
def test_messages_survive_any_cut(case: tuple[Format, list[bytes]], sizes: list[int]) -> None:
    """P01, I01"""
    framing, frames = case
    expected = [reference.message_of(framing, frame) for frame in frames]
    stream = b"".join(frames)
    for chunks in ([stream], byte_by_byte(stream), strategies.cut(stream, sizes)):
        assert outcome_of(framing.decoder(), chunks) == Outcome(expected)


@pytest.mark.case("P04")
@properties
@given(strategies.streams(), strategies.cuts)
def test_end_of_stream_anywhere(case: tuple[Format, list[bytes]], sizes: list[int]) -> None:
    """P04: quiet between frames, IncompleteFrame with both counts inside one."""
    framing, frames = case
    stream = b"".join(frames)
    for end in {sizes[0] % (len(stream) + 1), max(0, len(stream) - 1)}:
        oracle = outcome_of(reference.ReferenceDecoder(framing), [stream[:end]])
        assert outcome_of(framing.decoder(), strategies.cut(stream[:end], sizes)) == oracle


@pytest.mark.case("I01", "Z06")
@strategies.examples(300)
@given(strategies.garbage(), strategies.cuts)
def test_any_bytes_give_the_same_as_the_reference(
    case: tuple[Format, bytes], sizes: list[int]
) -> None:
    """I01, Z06: the same messages, then the same error, however the bytes were cut."""
    framing, data = case
    expected = outcome_of(reference.ReferenceDecoder(framing), [data])
    assert outcome_of(reference.ReferenceDecoder(framing), byte_by_byte(data)) == expected
    for chunks in ([data], byte_by_byte(data), strategies.cut(data, sizes)):
        assert outcome_of(framing.decoder(), chunks) == expected


@pytest.mark.case("I01")
@properties
@given(strategies.any_format, st.data())
def test_what_encode_writes_feed_reads(framing: Format, data: st.DataObject) -> None:
    """I01: what `recv` returns, `send` accepts, for every format."""
    frames = data.draw(st.lists(strategies.frames(framing), max_size=4))
    messages = [reference.message_of(framing, frame) for frame in frames]
    encoded = [framing.encode(message) for message in messages]
    assert encoded == frames
    decoder = framing.decoder()
    assert [decoder.feed(frame) for frame in encoded] == [[m] for m in messages]
    assert decoder.pending == 0
    decoder.eof()


@properties
@given(strategies.garbage())
def test_pending_counts_what_no_message_has_used(case: tuple[Format, bytes]) -> None:
    framing, data = case
    decoder, oracle = framing.decoder(), reference.ReferenceDecoder(framing)
    for byte in byte_by_byte(data):
        try:
            oracle.feed(byte)
        except FramingError:
            return
        decoder.feed(byte)
        assert decoder.pending == oracle.pending


@properties
@given(st.lists(st.binary(max_size=50)))
def test_raw_hands_out_what_it_is_fed(chunks: list[bytes]) -> None:
    decoder = Raw(max_frame=50).decoder()
    assert [decoder.feed(chunk) for chunk in chunks] == [[c] if c else [] for c in chunks]
    decoder.eof()


def test_raw_hands_out_no_more_than_the_limit() -> None:
    assert Raw(max_frame=3).decoder().feed(b"abcdefgh") == [b"abc", b"def", b"gh"]


# --- by hand: three frames of each format ---

STREAMS: list[tuple[Format, list[bytes], bytes]] = [
    (
        LengthField(),
        [b"hello", b"", b"wo"],
        b"\0\0\0\5hello" + b"\0\0\0\0" + b"\0\0\0\2wo",
    ),
    (LengthField(2, "little"), [b"a", b"b", b""], b"\1\0a" + b"\1\0b" + b"\0\0"),
    (LengthField(1, counts="with_length"), [b"", b"ab", b"c"], b"\1" + b"\3ab" + b"\2c"),
    (
        LengthField(2, offset=2, magic=b"MG", counts="frame", trailer=b"\r\n"),
        [b"one", b"", b"two"],
        b"MG\0\x09one\r\n" + b"MG\0\6\r\n" + b"MG\0\x09two\r\n",
    ),
    (
        LengthField(1, offset=1, header=3, counts="body", trailer=b"\xce"),
        [b"a\2bhi\xce", b"c\0d\xce", b"e\1fg\xce"],
        b"a\2bhi\xce" + b"c\0d\xce" + b"e\1fg\xce",
    ),
    (
        LengthField(1, offset=1, magic=b"!", header=3, strip=1),
        [b"\2tx", b"\1u", b"\3vyz"],
        b"!\2tx" + b"!\1u" + b"!\3vyz",
    ),
    (Varint(), [b"a", bytes(200), b""], b"\1a" + b"\xc8\1" + bytes(200) + b"\0"),
    (Varint(offset=1, max_bytes=4), [b"x\2ab", b"y\0", b"z\1c"], b"x\2ab" + b"y\0" + b"z\1c"),
    (Varint(strip=0), [b"\1a", b"\0", b"\2bc"], b"\1a" + b"\0" + b"\2bc"),
    (Netstring(), [b"hello", b"", b"0:,"], b"5:hello," + b"0:," + b"3:0:,,"),
    (Decimal(b"\r\n"), [b"ab", b"", b"3"], b"2\r\nab" + b"0\r\n" + b"1\r\n3"),
    (
        ContentLength(),
        [b"{}", b"", b"ab"],
        b"Content-Length: 2\r\n\r\n{}"
        b"content-type: text\r\nCONTENT-LENGTH:\t000 \r\n\r\n"
        b"Content-Length: 2\r\nX:\r\n\r\nab",
    ),
    (Delimiter(), [b"one", b"", b"two\r"], b"one\n" + b"\n" + b"two\r\n"),
    (Delimiter(b"aab", keep=True), [b"aab", b"xaab", b"aaab"], b"aab" + b"xaab" + b"aaab"),
    (Fixed(3), [b"one", b"two", b"\0\0\0"], b"onetwo\0\0\0"),
    (
        MultiprocessingConnection(),
        [b"hi", b"", b"long"],
        b"\0\0\0\2hi" + b"\0\0\0\0" + b"\xff" * 4 + bytes(7) + b"\4long",
    ),
]
NAMES = [repr(framing) for framing, _, _ in STREAMS]


@pytest.mark.case("P01")
@pytest.mark.parametrize(("framing", "messages", "stream"), STREAMS, ids=NAMES)
def test_three_frames_cut_at_every_byte(
    framing: Format, messages: list[bytes], stream: bytes
) -> None:
    """P01: every split in two, and single bytes."""
    for at in range(len(stream) + 1):
        decoder = Decoder(framing)
        assert decoder.feed(stream[:at]) + decoder.feed(stream[at:]) == messages
        assert decoder.pending == 0
        decoder.eof()
    assert outcome_of(Decoder(framing), byte_by_byte(stream)) == Outcome(messages)


@pytest.mark.case("P04")
@pytest.mark.parametrize(("framing", "messages", "stream"), STREAMS, ids=NAMES)
def test_three_frames_ended_at_every_byte(
    framing: Format, messages: list[bytes], stream: bytes
) -> None:
    """P04"""
    for end in range(len(stream)):
        expected = outcome_of(reference.ReferenceDecoder(framing), [stream[:end]])
        assert outcome_of(Decoder(framing), [stream[:end]]) == expected
        assert outcome_of(Decoder(framing), byte_by_byte(stream[:end])) == expected


@pytest.mark.case("P02")
@pytest.mark.parametrize("size", [1, 3, 64, 997, 4096])
@pytest.mark.parametrize("framing", [LengthField(), Varint(), Netstring(), Delimiter(b"\xff")])
def test_stream_in_chops(framing: Format, size: int) -> None:
    """P02"""
    messages = [bytes([i]) * length for i, length in enumerate([0, 5, 4092, 9000, 1])]
    stream = b"".join(framing.encode(message) for message in messages)
    decoder = framing.decoder()
    got = [m for chunk in strategies.cut(stream, [size]) for m in decoder.feed(chunk)]
    assert got == messages


LENGTHS = [0, 1, 2, 125, 126, 127, 128, 255, 256, 4095, 4096, 16383, 16384, 16385]
LENGTHS += [32767, 32768, 65535, 65536, 65537, 1 << 20]


@pytest.mark.case("H01")
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "framing",
    [LengthField(), Varint(), Netstring(), ContentLength(), MultiprocessingConnection()],
)
def test_lengths_around_every_boundary(framing: Format, length: int) -> None:
    """H01"""
    message = bytes(length)
    assert framing.decoder().feed(framing.encode(message)) == [message]


@pytest.mark.case("H01", "H02")
@pytest.mark.parametrize(("framing", "messages", "stream"), STREAMS, ids=NAMES)
def test_largest_frame_is_taken_and_one_byte_more_is_not(
    framing: Format, messages: list[bytes], stream: bytes
) -> None:
    """H01, H02"""
    if isinstance(framing, Fixed):
        return
    frame = reference.frame_of(framing, b"x" * 8, b"!!!!")
    assert framing.replace(max_frame=8).decoder().feed(frame) == framing.decoder().feed(frame)
    decoder = framing.replace(max_frame=7).decoder()
    with pytest.raises(FrameTooLarge, match=r"length \d+ exceeds 7\b") as caught:
        for byte in byte_by_byte(frame):
            decoder.feed(byte)
    assert caught.value.limit == 7


@pytest.mark.case("H06")
def test_empty_messages_are_messages() -> None:
    """H06"""
    frames = b"\0\0\0\1a" + bytes(12) + b"\0\0\0\1b"
    assert LengthField().decoder().feed(frames) == [b"a", b"", b"", b"", b"b"]


# --- refused ---

MALFORMED: list[tuple[Format, bytes, type[FramingError], str]] = [
    (
        LengthField(),
        b"GET / HTTP/1.1\r\n",
        FrameTooLarge,
        r"^length 1195725856 exceeds 67108864: the bytes are 'GET ', an HTTP client\?$",
    ),
    (LengthField(), b"\x40\0\0\0", FrameTooLarge, "exceeds 67108864: 64 if little-endian"),
    (LengthField(), b"\x16\x03\x01\x02", FrameTooLarge, "a TLS peer"),
    (LengthField(), b"SSH-2.0-x\r\n", FrameTooLarge, "'SSH-', an SSH peer"),
    (LengthField(), b"\r\n\r\n\0\r\nQUIT\n", FrameTooLarge, "PROXY protocol v2"),
    (LengthField(), b"hello\n", FrameTooLarge, "a line of text"),
    (LengthField(), b"\x7f\xff\xff\xff", FrameTooLarge, "length 2147483647 exceeds"),  # H03
    (LengthField(), b"\x80\0\0\0", FrameTooLarge, "length 2147483648 exceeds"),
    (LengthField(), b"\xff\xff\xff\xfe", FrameTooLarge, "length 4294967294 exceeds"),
    (LengthField(), b"\xff\xff\xff\xff", FrameTooLarge, "length 4294967295 exceeds"),
    (LengthField(8), b"\xff" * 8, FrameTooLarge, "length 18446744073709551615 exceeds"),
    (LengthField(8, max_frame=None), b"\xff" * 8, FrameTooLarge, "18446744073709551615"),
    (LengthField(2, counts="with_length"), b"\0\1", InvalidHeader, "1 is below .* 2"),
    (LengthField(2, minimum=9), b"\0\x08", InvalidHeader, "length 8 is below .* 9"),
    (LengthField(offset=2, magic=b"ok"), b"x", InvalidHeader, "begins with b'x'.*b'ok'"),
    (LengthField(offset=2, magic=b"ok"), b"on", InvalidHeader, "begins with b'on'"),
    (LengthField(1, trailer=b"\r\n"), b"\3a\n\n", InvalidHeader, r"ends with .*\\r\\n"),
    (LengthField(1, trailer=b"\r\n"), b"\1", InvalidHeader, "length 1 is below .* 2"),
    (Varint(), b"\x80\0", InvalidHeader, "over-long"),
    (Varint(), b"\xff\x80\x80\0", InvalidHeader, "over-long"),
    (Varint(), b"\x80\x80\x80\x80\x80", InvalidHeader, "more bytes than"),
    (Varint(max_bytes=1), b"\x80", InvalidHeader, "more bytes than"),
    (Varint(max_bytes=10), b"\xff" * 9 + b"\x01", InvalidHeader, "length"),
    (Varint(max_bytes=10), b"\xff" * 9 + b"\x02", InvalidHeader, "length"),
    (Varint(), b"\xff\xff\xff\xff\x0f", FrameTooLarge, "4294967295 exceeds 67108864"),
    (Varint(max_frame=5), b"\6", FrameTooLarge, "6 exceeds 5"),
    (Netstring(), b"05:hello,", InvalidHeader, "leading zero"),
    (Netstring(), b"00:,", InvalidHeader, "leading zero"),
    (Netstring(), b":hello,", InvalidHeader, "not a decimal number"),
    (Netstring(), b"-5:hello,", InvalidHeader, "not a decimal number"),
    (Netstring(), b"5;", InvalidHeader, "terminator"),
    (Netstring(), b"5:hello;", InvalidHeader, "ends with b';', expected b','"),
    (Netstring(max_frame=99), b"100", FrameTooLarge, "100 exceeds 99"),
    (Netstring(), b"9" * 100, FrameTooLarge, "exceeds 67108864"),
    (Decimal(b"\r\n"), b"5\rx", InvalidHeader, "terminator"),
    (Decimal(b"\n"), b"5 \n", InvalidHeader, "terminator"),
    (Decimal(b"\n"), b"+5\n", InvalidHeader, "not a decimal number"),
    (Decimal(b"\n"), b"01\n", InvalidHeader, "leading zero"),
    (ContentLength(), b"\r\n\r\n", InvalidHeader, "not 'Name: value'"),
    (ContentLength(), b"Content-Length 5\r\n\r\n", InvalidHeader, "not 'Name: value'"),
    (ContentLength(), b"Content-Length : 5\r\n\r\n", InvalidHeader, "not 'Name: value'"),
    (ContentLength(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", InvalidHeader, "an HTTP client"),
    (ContentLength(), b"Content-Length: -5\r\n\r\n", InvalidHeader, "not a decimal number"),
    (ContentLength(), b"Content-Length: 5 5\r\n\r\n", InvalidHeader, "not a decimal number"),
    (ContentLength(), b"Content-Length: \r\n\r\n", InvalidHeader, "not a decimal number"),
    (ContentLength(), b"Content-Length: \xb2\r\n\r\n", InvalidHeader, "not a decimal number"),
    (ContentLength(), b"Host: x\r\n\r\n", InvalidHeader, "no Content-Length"),
    (
        ContentLength(),
        b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        InvalidHeader,
        "more than one",
    ),
    (ContentLength(), b"a" * 4097, InvalidHeader, "4096"),
    (ContentLength(), b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", FrameTooLarge, "exceeds"),
    (Delimiter(max_frame=4), b"hello", FrameTooLarge, "length 5 exceeds 4"),
    (Delimiter(b"\r\n", max_frame=4), b"hello\r\n", FrameTooLarge, "exceeds 4"),
    (MultiprocessingConnection(), b"\xff\xff\xff\xfb", InvalidHeader, "length -5 is negative"),
    (MultiprocessingConnection(), b"\x80\0\0\0", InvalidHeader, "-2147483648 is negative"),
    (MultiprocessingConnection(), b"\x7f\xff\xff\xff", FrameTooLarge, "2147483647 exceeds"),
    (
        MultiprocessingConnection(),
        b"\xff" * 12,
        FrameTooLarge,
        "18446744073709551615 exceeds",
    ),
]


@pytest.mark.case("H02", "H03", "H07")
@pytest.mark.parametrize(("framing", "data", "error", "match"), MALFORMED)
def test_malformed_frame_is_refused(
    framing: Format, data: bytes, error: type[FramingError], match: str
) -> None:
    """H02, H03, H07: whole or byte by byte, and every call after it."""
    for chunks in ([data], byte_by_byte(data)):
        decoder = framing.decoder()
        with pytest.raises(error, match=match if len(chunks) == 1 else None) as caught:
            for chunk in chunks:
                decoder.feed(chunk)
        assert type(caught.value) is error
        stays_broken(decoder, caught.value)
        assert outcome_of(reference.ReferenceDecoder(framing), chunks).error is error


@pytest.mark.parametrize(("framing", "data", "error", "match"), MALFORMED)
def test_frames_before_a_malformed_one_are_delivered(
    framing: Format, data: bytes, error: type[FramingError], match: str
) -> None:
    payload = b"" if reference.smallest_payload(framing) == 0 else b"x" * 9
    frame = reference.frame_of(framing, payload)
    message = reference.message_of(framing, frame)
    decoder = framing.decoder()
    assert decoder.feed(frame * 2 + data) == [message, message]
    with pytest.raises(error, match=match):
        decoder.feed(b"")
    with pytest.raises(error, match=match):
        decoder.eof()


@pytest.mark.case("P04")
def test_end_inside_a_frame_says_how_much_was_due() -> None:
    """P04"""
    cases: list[tuple[Format, bytes, int | None]] = [
        (LengthField(), b"\0", 4),
        (LengthField(), b"\0\0\0\5he", 9),
        (LengthField(2, offset=4, header=9, counts="body", trailer=b"x"), b"\0" * 5, 9),
        (Varint(), b"\x80", None),
        (Varint(offset=1), b"t\5he", 7),
        (Netstring(), b"5", None),
        (Netstring(), b"5:hello", 8),
        (Decimal(b"\n"), b"5\nhe", 7),
        (ContentLength(), b"Content-Length: 5\r\n", None),
        (ContentLength(), b"Content-Length: 5\r\n\r\nhe", 26),
        (Delimiter(), b"no end", None),
        (Fixed(5), b"he", 5),
        (MultiprocessingConnection(), b"\xff\xff", 4),
        (MultiprocessingConnection(), b"\xff\xff\xff\xff\0", 12),
        (MultiprocessingConnection(), b"\xff\xff\xff\xff" + bytes(7) + b"\5he", 17),
    ]
    for framing, data, expected in cases:
        assert outcome_of(framing.decoder(), [data]) == Outcome(
            [], IncompleteFrame, len(data), expected
        ), framing


def test_more_bytes_after_a_quiet_end_are_still_decoded() -> None:
    decoder = LengthField().decoder()
    decoder.eof()
    assert decoder.feed(b"\0\0\0\1a") == [b"a"]
    decoder.eof()


# --- arguments, memory ---


@pytest.mark.case("H14")
@pytest.mark.parametrize("wrong", ["hello", None, 5, [b"hello"]], ids=repr)
def test_feed_refuses_what_is_no_buffer(wrong: Any) -> None:
    """H14: and nothing is lost by it."""
    decoder = LengthField().decoder()
    decoder.feed(b"\0\0\0\1")
    with pytest.raises(TypeError, match="bytes-like"):
        decoder.feed(wrong)
    assert decoder.feed(b"a") == [b"a"]


@pytest.mark.case("H14")
def test_feed_refuses_a_buffer_with_holes() -> None:
    """H14"""
    with pytest.raises(BufferError, match="contiguous"):
        LengthField().decoder().feed(memoryview(bytes(8))[::2])


def test_feed_takes_any_contiguous_buffer_and_keeps_none() -> None:
    data = bytearray(b"\0\0\0\5hel")
    decoder = LengthField().decoder()
    assert decoder.feed(data) == []
    data[:] = b"xx"  # would raise BufferError if it were still held
    assert decoder.feed(memoryview(b"..lo")[2:]) == [b"hello"]


@pytest.mark.parametrize("wrong", [None, 4, "LengthField()", LengthField], ids=repr)
def test_decoder_takes_a_format_only(wrong: Any) -> None:
    with pytest.raises(TypeError, match="Format"):
        Decoder(wrong)


@pytest.mark.case("H04", "H05")
@pytest.mark.parametrize(
    "framing", [LengthField(max_frame=None), MultiprocessingConnection(max_frame=None)]
)
def test_memory_grows_with_bytes_that_came_not_with_bytes_announced(framing: Format) -> None:
    """H04, H05"""
    tracemalloc.start()
    try:
        decoder = framing.decoder()
        decoder.feed(framing.pack_header(1 << 30))
        decoder.feed(b"ten bytes.")
        assert tracemalloc.get_traced_memory()[1] < 128 * 1024
    finally:
        tracemalloc.stop()
    assert decoder.pending == 14
