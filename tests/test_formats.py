"""Formats as values: arguments refused, repr, pickle, equality, headers, encode."""

from __future__ import annotations

import array
import contextlib
import copy
import mmap
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
import strategies
from pysock import framing
from pysock.errors import FrameTooLarge, FramingError, InvalidHeader
from pysock.framing import (
    ContentLength,
    Decimal,
    Delimiter,
    Fixed,
    Format,
    LengthField,
    MultiprocessingConnection,
    Netstring,
    Raw,
    Varint,
)

MIB = 1024 * 1024
DEFAULT = 64 * MIB

ONE_OF_EACH: list[Format] = [
    LengthField(),
    LengthField(2, "little", offset=1, trailer=b"\xce"),
    LengthField(3, offset=2, magic=b"ab", counts="frame"),
    Varint(),
    Varint(offset=1, max_bytes=4),
    Netstring(),
    Decimal(b"\n"),
    ContentLength(),
    Delimiter(),
    Delimiter(b"\r\n", keep=True, max_frame=100),
    Fixed(5),
    MultiprocessingConnection(),
    Raw(),
]

properties = strategies.examples(150)

# --- arguments ---

NEITHER = "neither magic nor length"

REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: LengthField(0), ValueError, "width is 0, expected 1 to 8"),
    (lambda: LengthField(9), ValueError, "width is 9"),
    (lambda: LengthField(-4), ValueError, "width is -4"),
    (lambda: LengthField(4.0), TypeError, "float"),  # type: ignore[arg-type]
    (lambda: LengthField("4"), TypeError, "str"),  # type: ignore[arg-type]
    (lambda: LengthField(4, "middle"), ValueError, "byteorder is 'middle'"),  # type: ignore[arg-type]
    (lambda: LengthField(offset=-1), ValueError, "offset is -1"),
    (lambda: LengthField(4, offset=2, header=5), ValueError, "header is 5, expected 6"),
    (lambda: LengthField(counts="all"), ValueError, "counts is 'all'.*'with_length'"),  # type: ignore[arg-type]
    (lambda: LengthField(magic=b"a"), ValueError, "magic"),  # the length would overwrite it
    (lambda: LengthField(offset=2, magic=b"abc"), ValueError, "magic"),
    (lambda: LengthField(offset=2, magic="ab"), TypeError, "magic must be bytes"),  # type: ignore[arg-type]
    (lambda: LengthField(trailer=5), TypeError, "trailer must be bytes"),  # type: ignore[arg-type]
    (lambda: LengthField(minimum=-1), ValueError, "minimum is -1"),
    (lambda: LengthField(1, minimum=256), ValueError, "minimum is 256"),
    (lambda: LengthField(strip=-1), ValueError, "strip is -1"),
    (lambda: LengthField(strip=5), ValueError, "strip is 5"),
    (lambda: LengthField(offset=1, strip=1), ValueError, NEITHER),
    (lambda: LengthField(offset=1, strip=5), ValueError, NEITHER),
    (lambda: LengthField(header=6, strip=6), ValueError, NEITHER),
    (lambda: LengthField(offset=2, magic=b"a", strip=2), ValueError, NEITHER),
    (lambda: LengthField(1, max_frame=256), ValueError, "max_frame is 256.* 255 "),
    (lambda: LengthField(2, counts="frame", max_frame=65534), ValueError, "65533"),
    (lambda: LengthField(8, max_frame=1 << 64), ValueError, "max_frame"),
    (lambda: LengthField(max_frame=-1), ValueError, "max_frame is -1"),
    (lambda: LengthField(max_frame="1"), TypeError, "str"),  # type: ignore[arg-type]
    (lambda: LengthField(1, header=300, counts="frame"), ValueError, "length field"),
    (lambda: LengthField(4, "big", 2), TypeError, "positional"),  # type: ignore[call-arg]
    (lambda: LengthField(size=4), TypeError, "size"),  # type: ignore[call-arg]
    (lambda: Varint(max_bytes=0), ValueError, "max_bytes is 0, expected 1 to 10"),
    (lambda: Varint(max_bytes=11), ValueError, "max_bytes is 11"),
    (lambda: Varint(offset=-1), ValueError, "offset is -1"),
    (lambda: Varint(strip=1), ValueError, "strip is 1"),  # type: ignore[arg-type]
    (lambda: Varint(max_bytes=3, max_frame=1 << 21), ValueError, "max_frame.* 2097151 "),
    (lambda: Netstring(5), TypeError, "positional"),  # type: ignore[call-arg]
    (lambda: Netstring(max_frame=1 << 64), ValueError, "max_frame"),
    (lambda: Decimal(), TypeError, "argument"),  # type: ignore[call-arg]
    (lambda: Decimal(b""), ValueError, "terminator is 0 bytes long"),
    (lambda: Decimal(b"x" * 17), ValueError, "terminator is 17 bytes long"),
    (lambda: Decimal(b"1x"), ValueError, "terminator b'1x' begins with a digit"),
    (lambda: Decimal("\n"), TypeError, "terminator must be bytes"),  # type: ignore[arg-type]
    (lambda: Delimiter(b""), ValueError, "delimiter is 0 bytes long"),
    (lambda: Delimiter(b"x" * 17), ValueError, "delimiter is 17 bytes long"),
    (lambda: Delimiter("\n"), TypeError, "delimiter must be bytes"),  # type: ignore[arg-type]
    (lambda: Fixed(0), ValueError, "size is 0, expected 1"),
    (lambda: Fixed(-1), ValueError, "size is -1"),
    (lambda: Fixed(5, max_frame=4), ValueError, "max_frame is 4.* 5 bytes"),
    (lambda: Fixed(5, max_frame=6), ValueError, "max_frame is 6.* 5 bytes"),
    (lambda: Raw(max_frame=-1), ValueError, "max_frame is -1"),
    (lambda: Format(), TypeError, "LengthField"),
    (
        lambda: type("Own", (Format,), {})(),
        TypeError,
        "Own cannot be a format, which are comp",
    ),
    (lambda: LengthField().replace(colour=1), TypeError, "colour"),
    (lambda: Netstring().replace(width=2), TypeError, "width"),
    (lambda: LengthField(2).replace(max_frame=65536), ValueError, "max_frame is 65536"),
]


@pytest.mark.parametrize(("make", "error", "match"), REFUSED, ids=range(len(REFUSED)))
def test_impossible_argument_is_refused(
    make: Callable[[], object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("framing_", "longest"),
    [
        (LengthField(), DEFAULT),
        (LengthField(1), 255),
        (LengthField(2), 65_535),
        (LengthField(3), (1 << 24) - 1),
        (LengthField(2, counts="with_length"), 65_533),
        (LengthField(2, counts="frame", offset=1), 65_532),
        (LengthField(1, trailer=b"xyz"), 252),
        (LengthField(1, counts="body", trailer=b"xyz"), 255),
        (LengthField(1, header=4), 252),
        (LengthField(max_frame=None), (1 << 32) - 1),
        (LengthField(2, max_frame=None), 65_535),
        (LengthField(max_frame=0), 0),
        (Varint(), DEFAULT),
        (Varint(max_bytes=1), 127),
        (Varint(max_frame=None), (1 << 35) - 1),
        (Fixed(7), 7),
        (Fixed(7, max_frame=7), 7),
        (Fixed(7, max_frame=None), 7),
        (Netstring(), DEFAULT),
        (Decimal(b"\n"), DEFAULT),
        (ContentLength(), DEFAULT),
        (Delimiter(), DEFAULT),
        (MultiprocessingConnection(), DEFAULT),
        (Raw(), DEFAULT),
    ],
)
def test_limit_defaults_to_64_mib_or_what_the_field_can_carry(
    framing_: Format, longest: int
) -> None:
    assert framing_.max_frame == longest


@pytest.mark.parametrize("framing_", ONE_OF_EACH, ids=repr)
def test_no_limit_is_what_the_machine_can_hold(framing_: Format) -> None:
    """`None` lifts the limit; what is left fits the largest object."""
    assert framing_.max_frame <= framing_.replace(max_frame=None).max_frame < 1 << 63


@pytest.mark.parametrize(
    ("spec", "header", "strip"),
    [
        (LengthField(), 4, 4),
        (LengthField(offset=2, magic=b"ab"), 6, 6),
        (LengthField(offset=2, magic=b"a"), 6, 0),
        (LengthField(offset=1), 5, 0),
        (LengthField(header=6), 6, 0),
        (LengthField(offset=2, magic=b"ab", strip=2), 6, 2),
        (LengthField(2, header=3, strip=2), 3, 2),
        (LengthField(strip=0), 4, 0),
    ],
)
def test_header_is_dropped_if_it_is_only_magic_and_length(
    spec: Any, header: int, strip: int
) -> None:
    assert (spec.header, spec.strip) == (header, strip)


# --- formats are values ---

ATTRIBUTES = [
    (ONE_OF_EACH[1], "width offset counts header magic trailer minimum strip byteorder"),
    (Varint(), "offset max_bytes strip"),
    (Decimal(b"\n"), "terminator"),
    (Delimiter(), "delimiter keep"),
    (Fixed(5), "size"),
    (Netstring(), ""),
    (ContentLength(), ""),
    (MultiprocessingConnection(), ""),
    (Raw(), ""),
]


@pytest.mark.parametrize(("framing_", "names"), ATTRIBUTES, ids=repr)
def test_formats_cannot_be_changed(framing_: Format, names: str) -> None:
    for name in [*names.split(), "max_frame"]:
        before = getattr(framing_, name)
        with pytest.raises(AttributeError):
            setattr(framing_, name, before)
        with pytest.raises(AttributeError):
            delattr(framing_, name)
        assert getattr(framing_, name) == before
    with pytest.raises(AttributeError):
        framing_.colour = 1  # type: ignore[attr-defined]


def test_calling_init_again_changes_nothing() -> None:
    spec: Any = LengthField(2)
    with contextlib.suppress(TypeError):
        spec.__init__(4)
    assert spec == LengthField(2)
    assert spec.pack_header(1) == b"\0\1"


@pytest.mark.parametrize("cls", [type(framing_) for framing_ in ONE_OF_EACH])
def test_formats_cannot_be_derived_from(cls: type) -> None:
    with pytest.raises(TypeError, match="not an acceptable base"):
        type("Mine", (cls,), {})


@properties
@given(strategies.any_format)
def test_repr_reads_back(framing_: Format) -> None:
    copied = eval(repr(framing_), vars(framing))
    assert copied == framing_
    assert repr(copied) == repr(framing_)


@properties
@given(strategies.any_format, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_copies_are_equal_and_hash_alike(framing_: Format, protocol: int) -> None:
    copies = [
        pickle.loads(pickle.dumps(framing_, protocol)),
        copy.copy(framing_),
        copy.deepcopy(framing_),
        framing_.replace(),
    ]
    for copied in copies:
        assert type(copied) is type(framing_)
        assert copied == framing_
        assert hash(copied) == hash(framing_)
        assert copied.max_frame == framing_.max_frame
    assert len({framing_, *copies}) == 1


def test_different_formats_differ() -> None:
    assert len({*ONE_OF_EACH, LengthField(4), LengthField(width=4)}) == len(ONE_OF_EACH)
    assert LengthField() != LengthField(max_frame=5)
    assert LengthField(4, "big") != LengthField(4, "little")
    assert Netstring() != Decimal(b":")
    assert LengthField() != 4
    assert LengthField() != "LengthField()"


@pytest.mark.parametrize("framing_", ONE_OF_EACH, ids=repr)
def test_replace_changes_what_is_named_and_nothing_else(framing_: Format) -> None:
    before = repr(framing_)
    limit = framing_.max_frame if isinstance(framing_, Fixed) else 9
    changed = framing_.replace(max_frame=limit)
    assert type(changed) is type(framing_)
    assert changed.max_frame == limit
    assert repr(framing_) == before
    assert changed.pack_header(5) == framing_.pack_header(5)


def test_replace_works_out_anew_what_was_not_given() -> None:
    narrow: Any = LengthField(4, counts="with_length").replace(width=2)
    assert (narrow.header, narrow.strip, narrow.max_frame) == (2, 2, 65_533)
    assert narrow.pack_header(0) == b"\0\2"


# --- headers ---


@pytest.mark.parametrize(
    ("framing_", "length", "header"),
    [
        (LengthField(), 5, b"\0\0\0\5"),
        (LengthField(2, "little"), 5, b"\5\0"),
        (LengthField(3, counts="with_length"), 5, b"\0\0\x08"),
        (LengthField(2, offset=2, magic=b"ab", counts="frame"), 5, b"ab\0\x09"),
        (LengthField(2, offset=3, magic=b"ab", header=7, counts="body"), 5, b"ab\0\0\5\0\0"),
        (LengthField(1, trailer=b"xyz"), 5, b"\x08"),
        (LengthField(8), 5, bytes(7) + b"\5"),
        (Varint(), 300, b"\xac\2"),
        (Varint(offset=1), 0, b"\0\0"),
        (Netstring(), 12, b"12:"),
        (Decimal(b"\r\n"), 0, b"0\r\n"),
        (ContentLength(), 38, b"Content-Length: 38\r\n\r\n"),
        (MultiprocessingConnection(), 5, b"\0\0\0\5"),
        (
            MultiprocessingConnection(max_frame=None),
            0x7FFFFFFF,
            b"\x7f\xff\xff\xff",
        ),
        (
            MultiprocessingConnection(max_frame=None),
            0x80000000,
            b"\xff\xff\xff\xff" + bytes(4) + b"\x80\0\0\0",
        ),
    ],
)
def test_header_is_packed_and_unpacked(framing_: Format, length: int, header: bytes) -> None:
    assert framing_.pack_header(length) == header
    assert framing_.unpack_header(header) == (length, len(header))
    assert framing_.unpack_header(header + b"more") == (length, len(header))
    assert framing_.unpack_header(b"") is None


def test_formats_without_a_header() -> None:
    for framing_ in (Fixed(5), Delimiter(), Raw()):
        assert framing_.pack_header(5) == b""
    assert Fixed(5).unpack_header(b"abc") == (5, 0)
    assert Delimiter().unpack_header(b"ab") is None
    assert Delimiter().unpack_header(b"ab\ncd") == (2, 0)


@properties
@given(strategies.any_format, st.data())
def test_packed_header_unpacks_to_the_same_length(
    framing_: Format, data: st.DataObject
) -> None:
    least = reference.smallest_payload(framing_)
    length = data.draw(st.integers(least, max(least, min(framing_.max_frame, 1 << 40))))
    header = framing_.pack_header(length)
    if header:
        assert framing_.unpack_header(header) == (length, len(header))


@pytest.mark.case("I01")
@properties
@given(strategies.garbage())
def test_unpack_header_agrees_with_the_reference(case: tuple[Format, bytes]) -> None:
    """I01: on any bytes."""
    framing_, data = case
    if isinstance(framing_, (Delimiter, Fixed, Raw)):
        return
    try:
        expected = reference.unpack_header(framing_, data)
    except FramingError as exc:
        with pytest.raises(type(exc)):
            framing_.unpack_header(data)
    else:
        assert framing_.unpack_header(data) == expected


@pytest.mark.case("H11")
def test_header_of_an_impossible_length_is_refused() -> None:
    with pytest.raises(FrameTooLarge, match="length 11 exceeds 10") as caught:
        LengthField(max_frame=10).pack_header(11)
    assert (caught.value.length, caught.value.limit) == (11, 10)
    with pytest.raises(FrameTooLarge, match="4294967296 exceeds 4294967295"):  # H11
        LengthField(max_frame=None).pack_header(1 << 32)
    with pytest.raises(FrameTooLarge, match=str(1 << 70)):
        LengthField(8, max_frame=None).pack_header(1 << 70)
    with pytest.raises(FramingError, match="minimum"):
        LengthField(2, minimum=7, counts="frame").pack_header(4)
    with pytest.raises(FramingError, match="-1"):
        LengthField().pack_header(-1)
    with pytest.raises(FramingError, match="5 bytes"):
        Fixed(5).pack_header(4)
    with pytest.raises(TypeError, match="str"):
        LengthField().pack_header("5")  # type: ignore[arg-type]


# --- encode ---


@pytest.mark.case("I01", "Z06")
@properties
@given(strategies.any_format, st.data())
def test_encode_agrees_with_the_reference(framing_: Format, data: st.DataObject) -> None:
    """I01, Z06: on messages it can carry, on others, and on those with damage done."""
    frame = data.draw(strategies.frames(framing_))
    good = reference.message_of(framing_, frame)
    at = data.draw(st.integers(0, len(good)))
    for message in (good, good[:at], good[at:], good[:at] + b"\0" + good[at:], good * 3):
        try:
            expected = reference.encode(framing_, message)
        except FramingError:
            with pytest.raises(FramingError):
                framing_.encode(message)
        else:
            assert framing_.encode(message) == expected


@pytest.mark.case("H14")
@pytest.mark.parametrize("framing_", ONE_OF_EACH, ids=repr)
def test_encode_takes_any_contiguous_buffer(framing_: Format) -> None:
    """H14"""
    message = reference.message_of(framing_, reference.frame_of(framing_, b"hello"))
    expected = framing_.encode(message)
    mapped = mmap.mmap(-1, len(message))
    mapped[:] = message
    for buffer in (
        bytearray(message),
        memoryview(message),
        memoryview(b"xx" + message)[2:],
        array.array("b", message),
        mapped,
    ):
        assert framing_.encode(buffer) == expected


@pytest.mark.case("H14")
@pytest.mark.parametrize("framing_", ONE_OF_EACH, ids=repr)
@pytest.mark.parametrize("wrong", ["hello", None, 5, 5.0, ["hello"]], ids=repr)
def test_encode_refuses_what_is_no_buffer(framing_: Format, wrong: Any) -> None:
    """H14"""
    with pytest.raises(TypeError, match="bytes-like"):
        framing_.encode(wrong)


def test_remedy_for_a_long_message_is_one() -> None:
    long = bytes(1 << 16)
    for full in (LengthField(2), LengthField(2, max_frame=None), Netstring(max_frame=5)):
        with pytest.raises(FrameTooLarge) as caught:
            full.encode(long)
        widest = isinstance(full, LengthField)
        assert ("take a wider one" in str(caught.value)) == widest
        assert ("raise max_frame" in str(caught.value)) != widest
    with pytest.raises(FrameTooLarge, match="raise max_frame on both ends"):
        LengthField(2, max_frame=5).encode(long)


@pytest.mark.case("H14")
@pytest.mark.parametrize("framing_", ONE_OF_EACH, ids=repr)
def test_encode_refuses_a_buffer_with_holes(framing_: Format) -> None:
    """H14"""
    with pytest.raises(BufferError, match="contiguous"):
        framing_.encode(memoryview(b"h.e.l.l.o.")[::2])


CANNOT_CARRY = [
    (LengthField(max_frame=4), b"hello", FrameTooLarge, "length 5 exceeds 4"),  # H10
    (Netstring(max_frame=4), b"hello", FrameTooLarge, "length 5 exceeds 4"),
    (Delimiter(max_frame=4), b"hello", FrameTooLarge, "length 5 exceeds 4"),
    (Raw(max_frame=4), b"hello", FrameTooLarge, "length 5 exceeds 4"),
    # The limit is the payload's: header and trailer in the message do not count.
    (LengthField(1, offset=1, max_frame=4), b"t.hello", FrameTooLarge, "length 5 exceeds 4"),
    (Varint(offset=1, max_frame=4), b"t\5hello", FrameTooLarge, "length 5 exceeds 4"),
    (Delimiter(keep=True, max_frame=4), b"hello\n", FrameTooLarge, "length 5 exceeds 4"),
    (LengthField(1, offset=1), b"t", FramingError, "shorter than the header"),
    (LengthField(1, offset=1, trailer=b"\xce"), b"t\0", FramingError, "end with .*xce"),
    (LengthField(1, offset=1, trailer=b"\xce"), b"t\0hi", FramingError, "end with .*xce"),
    (LengthField(1, offset=2, magic=b"a"), b"bx\0", FramingError, "begin with b'a'"),
    (LengthField(minimum=2), b"h", FramingError, "minimum"),
    (Varint(offset=1), b"t", FramingError, "shorter than the header"),
    (Varint(offset=1, max_bytes=2), b"t\x80\x80\x01", FramingError, "no varint"),
    (Delimiter(), b"two\nlines", FramingError, r"holds the delimiter b'\\n'"),
    (Delimiter(b"aa"), b"a", FramingError, "holds the delimiter"),  # it would end too early
    (Delimiter(keep=True), b"line", FramingError, r"must end with b'\\n'"),
    (Delimiter(keep=True), b"", FramingError, r"must end with b'\\n'"),
    (Delimiter(keep=True), b"two\nlines\n", FramingError, "holds the delimiter"),
    (Fixed(5), b"four", FramingError, "every frame is 5 bytes long"),
    (Fixed(5), b"sixsix", FramingError, "every frame is 5 bytes long"),
    (Raw(), b"", FramingError, "empty"),
]


@pytest.mark.case("H10")
@pytest.mark.parametrize(("framing_", "message", "error", "match"), CANNOT_CARRY)
def test_message_that_the_format_cannot_carry(
    framing_: Format, message: bytes, error: type[FramingError], match: str
) -> None:
    with pytest.raises(error, match=match) as caught:
        framing_.encode(message)
    assert not isinstance(caught.value, InvalidHeader)  # that is what a peer sent
