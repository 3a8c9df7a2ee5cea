"""The oracle: every format decoded and encoded in plain Python, for clarity.

Written from the description of the formats, not from the compiled code.  Takes
a compiled `Format` for its options only: class name and attributes.  A parser
looks at all the bytes from a frame's beginning and returns a `Frame`, or `More`
when they are too few, or raises; the decoder calls it again with each feed.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from pysock.errors import FrameTooLarge, FramingError, IncompleteFrame, InvalidHeader

LONGEST_BLOCK = 4096
DIGITS = b"0123456789"
HEADER_NAME = frozenset(
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


class Frame(NamedTuple):
    message: bytes
    size: int


class More(NamedTuple):
    """A frame is not complete; *expected* is its size as far as that is known."""

    expected: int | None


class Header(NamedTuple):
    payload: int
    size: int


Parsed = Frame | More


class ReferenceDecoder:
    """Does what `Decoder` does."""

    def __init__(self, spec: Any) -> None:
        self._spec = spec
        self._parse = PARSERS[type(spec).__name__]
        self._buffer = b""
        self._error: FramingError | None = None
        self._expected: int | None = None

    @property
    def pending(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        if self._error is not None:
            raise self._error
        self._buffer += data
        messages = []
        try:
            while self._buffer:
                parsed = self._parse(self._spec, self._buffer)
                if isinstance(parsed, More):
                    self._expected = parsed.expected
                    break
                messages.append(parsed.message)
                self._buffer = self._buffer[parsed.size :]
        except FramingError as exc:
            self._error = exc
            if not messages:
                raise
        return messages

    def eof(self) -> None:
        if self._error is not None:
            raise self._error
        if self._buffer:
            raise IncompleteFrame(len(self._buffer), self._expected)


# --- LengthField ---


def order_of(spec: Any) -> Any:
    return sys.byteorder if spec.byteorder == "native" else spec.byteorder


def beside_payload(spec: Any) -> int:
    """What the length counts apart from the payload, in bytes."""
    before = {
        "rest": spec.header - spec.offset - spec.width,
        "with_length": spec.header - spec.offset,
        "frame": spec.header,
        "body": 0,
    }[spec.counts]
    return int(before) + (0 if spec.counts == "body" else len(spec.trailer))


def smallest_payload(spec: Any) -> int:
    """The shortest payload that the format can carry."""
    if type(spec).__name__ == "LengthField":
        return max(0, int(spec.minimum) - beside_payload(spec))
    if type(spec).__name__ == "Fixed":
        return int(spec.size)
    return 1 if type(spec).__name__ == "Raw" else 0


def length_header(spec: Any, data: bytes) -> Header | None:
    magic = data[: len(spec.magic)]
    if magic != spec.magic[: len(magic)]:
        raise InvalidHeader(data, "magic")
    if len(data) < spec.offset + spec.width:
        return None
    field = data[spec.offset : spec.offset + spec.width]
    length = int.from_bytes(field, order_of(spec))
    payload = length - beside_payload(spec)
    if length < spec.minimum or payload < 0:
        raise InvalidHeader(data, "minimum")
    return Header(within(spec, payload), spec.header)


def parse_length_field(spec: Any, data: bytes) -> Parsed:
    header = length_header(spec, data)
    if header is None:
        return More(spec.header)
    end = header.size + header.payload
    size = end + len(spec.trailer)
    if len(data) < size:
        return More(size)
    if data[end:size] != spec.trailer:
        raise InvalidHeader(data[end:size], "trailer")
    if spec.strip == spec.header:
        return Frame(data[header.size : end], size)
    return Frame(data[spec.strip : size], size)


def fill_length_field(spec: Any, message: bytes) -> bytes:
    if spec.strip == spec.header:
        header, payload = bytes(spec.header), message
    else:
        kept = spec.header - spec.strip
        end = len(message) - len(spec.trailer)
        if end < kept or message[end:] != spec.trailer:
            raise FramingError("trailer")
        header, payload = bytes(spec.strip) + message[:kept], message[kept:end]
        # What was stripped need not be checked: it is written anew below.
        seen = header[spec.strip : len(spec.magic)]
        if seen != spec.magic[spec.strip :][: len(seen)]:
            raise FramingError("magic")
    within(spec, len(payload))
    return length_field_frame(spec, header, payload)


def length_field_frame(spec: Any, header: bytes, payload: bytes) -> bytes:
    """The frame with *header*, of which magic and length are overwritten."""
    length = len(payload) + beside_payload(spec)
    if length < spec.minimum:
        raise FramingError("minimum")
    head = bytearray(header)
    head[: len(spec.magic)] = spec.magic
    head[spec.offset : spec.offset + spec.width] = length.to_bytes(spec.width, order_of(spec))
    return bytes(head) + payload + bytes(spec.trailer)


# --- Varint ---


def keeps_header(spec: Any) -> bool:
    return bool(spec.offset > 0 or spec.strip == 0)


def leb128(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def varint_header(spec: Any, data: bytes) -> Header | None:
    value = 0
    for i, byte in enumerate(data[spec.offset :][: spec.max_bytes]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 and i > 0:
                raise InvalidHeader(data, "over-long")
            if value > 1 << 63:
                raise InvalidHeader(data, "too large")
            return Header(within(spec, value), spec.offset + i + 1)
        if i + 1 == spec.max_bytes:
            raise InvalidHeader(data, "too many bytes")
    return None


def parse_varint(spec: Any, data: bytes) -> Parsed:
    header = varint_header(spec, data)
    if header is None:
        return More(None)
    size = header.size + header.payload
    if len(data) < size:
        return More(size)
    return Frame(data[0 if keeps_header(spec) else header.size : size], size)


def fill_varint(spec: Any, message: bytes) -> bytes:
    if not keeps_header(spec):
        return leb128(within(spec, len(message))) + message
    after = spec.offset
    while after < len(message) and message[after] >= 0x80:
        after += 1
    if after >= len(message) or after - spec.offset >= spec.max_bytes:
        raise FramingError("no varint")
    payload = message[after + 1 :]
    return message[: spec.offset] + leb128(within(spec, len(payload))) + payload


# --- decimal lengths ---


def decimal_header(spec: Any, data: bytes) -> Header | None:
    """The length in digits and what ends it: a colon in a netstring.

    Too large is known as soon as the digits are, before what ends them.
    """
    terminator: bytes = getattr(spec, "terminator", b":")
    digits = len(data) - len(data.lstrip(DIGITS))
    if digits > 1 and data[:1] == b"0":
        raise InvalidHeader(data, "leading zero")
    # No more digits are turned into a number than are needed to see that it is too large.
    within(spec, int(data[: min(digits, len(str(spec.max_frame)) + 1)] or b"0"))
    end = data[digits : digits + len(terminator)]
    if end != terminator[: len(end)] or (end and not digits):
        raise InvalidHeader(data, "no digit")
    if len(end) < len(terminator):
        return None
    return Header(int(data[:digits]), digits + len(terminator))


def parse_decimal(spec: Any, data: bytes) -> Parsed:
    header = decimal_header(spec, data)
    if header is None:
        return More(None)
    end = header.size + header.payload
    comma = b"," if type(spec).__name__ == "Netstring" else b""
    if len(data) < end + len(comma):
        return More(end + len(comma))
    if data[end : end + len(comma)] != comma:
        raise InvalidHeader(data[end : end + 1], "no comma")
    return Frame(data[header.size : end], end + len(comma))


def fill_netstring(spec: Any, message: bytes) -> bytes:
    return b"%d:%b," % (within(spec, len(message)), message)


def fill_decimal(spec: Any, message: bytes) -> bytes:
    return b"%d%b%b" % (within(spec, len(message)), spec.terminator, message)


def content_length_header(spec: Any, data: bytes) -> Header | None:
    end = data.find(b"\r\n\r\n", 0, LONGEST_BLOCK)
    if end < 0:
        if len(data) >= LONGEST_BLOCK:
            raise InvalidHeader(data[:LONGEST_BLOCK], "too long")
        return None
    lengths = []
    for line in data[:end].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not name or not HEADER_NAME.issuperset(name):
            raise InvalidHeader(data[:end], "no header line")
        if name.lower() == b"content-length":
            lengths.append(value.strip(b" \t"))
    if len(lengths) != 1 or not lengths[0] or lengths[0].strip(DIGITS):
        raise InvalidHeader(data[:end], "content-length")
    return Header(within(spec, int(lengths[0])), end + 4)


def parse_content_length(spec: Any, data: bytes) -> Parsed:
    header = content_length_header(spec, data)
    if header is None:
        return More(None)
    size = header.size + header.payload
    return Frame(data[header.size : size], size) if len(data) >= size else More(size)


def fill_content_length(spec: Any, message: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (within(spec, len(message)), message)


# --- the others ---


def parse_delimiter(spec: Any, data: bytes) -> Parsed:
    end = data.find(spec.delimiter)
    size = end + len(spec.delimiter)
    if 0 <= end <= spec.max_frame:
        return Frame(data[: size if spec.keep else end], size)
    if len(data) >= spec.max_frame + len(spec.delimiter):
        raise FrameTooLarge(len(data), spec.max_frame)
    return More(None)


def fill_delimiter(spec: Any, message: bytes) -> bytes:
    frame: bytes = message if spec.keep else message + spec.delimiter
    payload = frame.removesuffix(spec.delimiter)
    if payload == frame or frame.find(spec.delimiter) != len(payload):
        raise FramingError("delimiter")
    within(spec, len(payload))
    return frame


def parse_fixed(spec: Any, data: bytes) -> Parsed:
    if len(data) < spec.size:
        return More(spec.size)
    return Frame(data[: spec.size], spec.size)


def fill_fixed(spec: Any, message: bytes) -> bytes:
    if len(message) != spec.size:
        raise FramingError("size")
    return message


def multiprocessing_header(spec: Any, data: bytes) -> Header | More:
    if len(data) < 4:
        return More(4)
    (length,) = struct.unpack_from("!i", data)
    if length >= 0:
        return Header(within(spec, length), 4)
    if length != -1:
        raise InvalidHeader(data[:4], "negative")
    if len(data) < 12:
        return More(12)
    (length,) = struct.unpack_from("!Q", data, 4)
    return Header(within(spec, length), 12)


def parse_multiprocessing(spec: Any, data: bytes) -> Parsed:
    header = multiprocessing_header(spec, data)
    if isinstance(header, More):
        return header
    size = header.size + header.payload
    return Frame(data[header.size : size], size) if len(data) >= size else More(size)


def fill_multiprocessing(spec: Any, message: bytes) -> bytes:
    return struct.pack("!i", within(spec, len(message))) + message


def parse_raw(spec: Any, data: bytes) -> Parsed:
    return Frame(data, len(data))


def fill_raw(spec: Any, message: bytes) -> bytes:
    if not message:
        raise FramingError("empty")
    within(spec, len(message))
    return message


def within(spec: Any, payload: int) -> int:
    if payload > spec.max_frame:
        raise FrameTooLarge(payload, spec.max_frame)
    return payload


PARSERS: dict[str, Callable[[Any, bytes], Parsed]] = {
    "LengthField": parse_length_field,
    "Varint": parse_varint,
    "Netstring": parse_decimal,
    "Decimal": parse_decimal,
    "ContentLength": parse_content_length,
    "Delimiter": parse_delimiter,
    "Fixed": parse_fixed,
    "MultiprocessingConnection": parse_multiprocessing,
    "Raw": parse_raw,
}

FILLERS: dict[str, Callable[[Any, bytes], bytes]] = {
    "LengthField": fill_length_field,
    "Varint": fill_varint,
    "Netstring": fill_netstring,
    "Decimal": fill_decimal,
    "ContentLength": fill_content_length,
    "Delimiter": fill_delimiter,
    "Fixed": fill_fixed,
    "MultiprocessingConnection": fill_multiprocessing,
    "Raw": fill_raw,
}

HEADERS: dict[str, Callable[[Any, bytes], Header | More | None]] = {
    "LengthField": length_header,
    "Varint": varint_header,
    "Netstring": decimal_header,
    "Decimal": decimal_header,
    "ContentLength": content_length_header,
    "MultiprocessingConnection": multiprocessing_header,
}


def encode(spec: Any, message: bytes) -> bytes:
    """The frame that carries *message*."""
    return FILLERS[type(spec).__name__](spec, message)


def unpack_header(spec: Any, data: bytes) -> Header | None:
    """Payload and header length of the frame that *data* begins with."""
    header = HEADERS[type(spec).__name__](spec, data)
    return header if isinstance(header, Header) else None


def frame_of(spec: Any, payload: bytes, filler: bytes = b"") -> bytes:
    """A frame with *payload*, whose free header bytes are those of *filler*."""
    if type(spec).__name__ == "LengthField":
        header = (filler + bytes(spec.header))[: spec.header]
        return length_field_frame(spec, header, payload)
    if type(spec).__name__ == "Varint":
        start = (filler + bytes(spec.offset))[: spec.offset]
        return start + leb128(len(payload)) + payload
    if type(spec).__name__ == "Delimiter":
        return payload + bytes(spec.delimiter)
    return encode(spec, payload)


def message_of(spec: Any, frame: bytes) -> bytes:
    """The message that *frame* carries."""
    parsed = PARSERS[type(spec).__name__](spec, frame)
    assert isinstance(parsed, Frame) and parsed.size == len(frame)
    return parsed.message
