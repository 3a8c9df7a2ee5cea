# The framing formats as Python classes: check the arguments, fill in a Layout.

import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)


cdef uint64_t DEFAULT_LIMIT = 64 * 1024 * 1024
# Room for header and trailer below the largest object size.
cdef uint64_t LARGEST = <uint64_t>sys.maxsize - 65536


cdef object in_range(str name, value, low, high):
    """Return *value* as an int; raise unless low <= value <= high."""
    number = operator_index(value)
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}, expected {low} to {high}")
    return number


cdef bytes mark(str name, value, Py_ssize_t low, Py_ssize_t high):
    """Return the bytes *value*; raise unless it is low to high bytes long."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
    value = bytes(value)
    if not low <= len(value) <= high:
        raise ValueError(f"{name} is {len(value)} bytes long, expected {low} to {high}")
    return value


def _rebuild(cls, options):
    return cls(**options)


cdef class Format:
    """Base of all framing formats: immutable, hashable, picklable; `repr` reads back."""

    cdef Layout layout
    cdef dict options         # the arguments that differ from their defaults
    cdef bint at_capacity     # nothing longer can be told, whatever max_frame is

    def __cinit__(self, *args, **kwargs):
        if type(self) is Format:
            raise TypeError("Format is the base of the formats: take LengthField or another")
        if type(self) not in FORMATS:
            raise TypeError(
                f"{type(self).__name__} cannot be a format, which are compiled: describe it "
                "with LengthField or another, or take Raw and cut what comes yourself")
        memset(&self.layout, 0, sizeof(Layout))

    cdef int set_up(
        self, Kind kind, dict options, dict defaults, max_frame, capacity,
    ) except -1:
        """Keep what was given; set the limit to *max_frame* or its default."""
        self.layout.kind = kind
        self.options = {k: v for k, v in options.items() if v != defaults[k]}
        capacity = min(capacity, LARGEST)
        if capacity < 0:
            raise ValueError("the length field cannot count a frame without payload")
        if max_frame is ...:
            self.layout.limit = min(DEFAULT_LIMIT, capacity)
            self.at_capacity = capacity <= DEFAULT_LIMIT
            return 0
        if max_frame is None:
            self.layout.limit = capacity
        else:
            limit = operator_index(max_frame)
            if limit < 0:
                raise ValueError(f"max_frame is {limit}, expected 0 or more, or None")
            if limit > capacity:
                raise ValueError(
                    f"max_frame is {limit}, more than the {capacity} bytes "
                    f"that {type(self).__name__} can carry with these options"
                )
            self.layout.limit = limit
        self.at_capacity = self.layout.limit == capacity
        self.options["max_frame"] = max_frame
        return 0

    cdef str remedy(self):
        """What to do about a message that is too long."""
        return NO_WIDER if self.at_capacity else RAISE_LIMIT

    cdef int set_mark(self, bytes value, unsigned char *where, int *size) except -1:
        memcpy(where, PyBytes_AS_STRING(value), len(value))
        size[0] = <int>len(value)
        return 0

    @property
    def max_frame(self):
        """The longest payload accepted in either direction, in bytes."""
        return self.layout.limit

    def replace(self, **changes):
        """Return a copy with some of the constructor's arguments changed."""
        return type(self)(**(self.options | changes))

    def pack_header(self, length):
        """Return the header of a frame with a payload of *length* bytes."""
        cdef unsigned char out[HEADER_MAX]
        cdef int n
        length = operator_index(length)
        if length < 0:
            raise FramingError(f"length {length} is negative")
        if length > self.layout.limit:
            raise FrameTooLarge(length, self.layout.limit, self.remedy())
        n = write_header(&self.layout, length, out)
        if n < 0:
            refuse_message(self, n, length)
        return PyBytes_FromStringAndSize(<char *>out, n)

    def unpack_header(self, buffer):
        """Return (payload length, header length) of the frame that *buffer* begins with.

        None: more bytes are needed.
        """
        cdef Py_buffer view
        cdef Head head
        cdef Py_ssize_t scanned = 0
        cdef int outcome
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            outcome = read_header(
                &self.layout, <unsigned char *>view.buf, view.len, &head, &scanned)
            if outcome < 0:
                refuse_header(self, outcome, <unsigned char *>view.buf, view.len, head.length)
            return (head.payload, head.header) if outcome == KNOWN else None
        finally:
            PyBuffer_Release(&view)

    def encode(self, message):
        """Return the frame that carries *message*."""
        cdef Outgoing out
        cdef bytes frame
        open_message(self, &out, message, ())
        try:
            frame = PyBytes_FromStringAndSize(NULL, out.total)
            copy_frame(&out, PyBytes_AS_STRING(frame))
            return frame
        finally:
            close_message(&out)

    def decoder(self):
        """Return a new decoder for this format."""
        return Decoder(self)

    def __repr__(self):
        inside = ", ".join(f"{k}={v!r}" for k, v in self.options.items())
        return f"{type(self).__name__}({inside})"

    def __reduce__(self):
        return _rebuild, (type(self), self.options)

    def __eq__(self, other):
        if not isinstance(other, Format):
            return NotImplemented
        return type(self) is type(other) and self.options == (<Format>other).options

    def __hash__(self):
        return hash((type(self), frozenset(self.options.items())))


@cython.final
cdef class LengthField(Format):
    """LengthField(width=4, byteorder='big', *, offset=0, counts='rest', header=None, \
magic=b'', trailer=b'', minimum=0, strip=None, max_frame=...)\n--\n
    Unsigned length of 1 to 8 bytes, after *offset* bytes.
    """

    cdef readonly int width
    cdef readonly str byteorder
    cdef readonly int offset
    cdef readonly str counts
    cdef readonly int header
    cdef readonly bytes magic
    cdef readonly bytes trailer
    cdef readonly object minimum
    cdef readonly int strip

    def __cinit__(
        self, width=4, byteorder="big", *, offset=0, counts="rest", header=None,
        magic=b"", trailer=b"", minimum=0, strip=None, max_frame=...,
    ):
        cdef Layout *lay = &self.layout
        self.width = in_range("width", width, 1, 8)
        self.offset = in_range("offset", offset, 0, HEADER_MAX - 8)
        after = self.offset + self.width
        self.header = after
        if header is not None:
            self.header = in_range("header", header, after, HEADER_MAX)
        self.magic = mark("magic", magic, 0, min(MARK_MAX, self.offset))
        self.trailer = mark("trailer", trailer, 0, MARK_MAX)
        if byteorder not in ("big", "little", "native"):
            raise ValueError(
                f"byteorder is {byteorder!r}, expected 'big', 'little' or 'native'")
        self.byteorder = byteorder
        plain = self.offset == len(self.magic) and self.header == after
        if strip is None:
            strip = self.header if plain else 0
        self.strip = in_range("strip", strip, 0, self.header)
        if self.strip > len(self.magic) and (
            self.offset != len(self.magic) or self.strip < after or self.strip > after
        ):
            raise ValueError(
                f"strip={self.strip} would drop bytes that are neither magic nor length, "
                f"or part of the length: expected 0 to {len(self.magic)}"
                + (f", or {after}" if self.offset == len(self.magic) else "")
            )
        surplus = {
            "rest": self.header - after + len(self.trailer),
            "with_length": self.header - self.offset + len(self.trailer),
            "frame": self.header + len(self.trailer),
            "body": 0,
        }
        if counts not in surplus:
            raise ValueError(
                f"counts is {counts!r}, expected 'rest', 'with_length', 'frame' or 'body'")
        self.counts = counts
        largest = (1 << 8 * <object>self.width) - 1
        self.minimum = in_range("minimum", minimum, 0, largest)
        lay.width = self.width
        lay.offset = self.offset
        lay.header = self.header
        lay.strip = self.strip
        lay.keep = self.strip < self.header
        lay.plain = self.strip == self.header == self.width and not self.trailer
        lay.little = (sys.byteorder if byteorder == "native" else byteorder) == "little"
        lay.surplus = surplus[counts]
        lay.minimum = max(self.minimum, surplus[counts])
        self.set_mark(self.magic, lay.magic, &lay.magic_size)
        self.set_mark(self.trailer, lay.trailer, &lay.trailer_size)
        self.set_up(
            LENGTH_FIELD,
            {
                "width": self.width, "byteorder": byteorder, "offset": self.offset,
                "counts": counts, "header": header, "magic": self.magic,
                "trailer": self.trailer, "minimum": self.minimum,
                "strip": None if strip == (self.header if plain else 0) else self.strip,
            },
            {
                "width": 4, "byteorder": "big", "offset": 0, "counts": "rest",
                "header": None, "magic": b"", "trailer": b"", "minimum": 0, "strip": None,
            },
            max_frame,
            largest - surplus[counts],
        )


@cython.final
cdef class Varint(Format):
    """Varint(*, offset=0, max_bytes=5, strip=None, max_frame=...)\n--\n
    Unsigned LEB128 length after *offset* bytes; over-long forms are refused.
    """

    cdef readonly int offset
    cdef readonly int max_bytes
    cdef readonly object strip

    def __cinit__(self, *, offset=0, max_bytes=5, strip=None, max_frame=...):
        cdef Layout *lay = &self.layout
        self.offset = in_range("offset", offset, 0, HEADER_MAX - 10)
        self.max_bytes = in_range("max_bytes", max_bytes, 1, 10)
        if strip is not None and (type(strip) is not int or strip != 0):
            raise ValueError(
                f"strip is {strip!r}, expected 0 (keep the header) or None: "
                "a varint has no fixed size that could be dropped"
            )
        self.strip = strip
        lay.offset = self.offset
        lay.max_bytes = self.max_bytes
        lay.keep = self.offset > 0 or strip == 0
        self.set_up(
            VARINT,
            {"offset": self.offset, "max_bytes": self.max_bytes, "strip": strip},
            {"offset": 0, "max_bytes": 5, "strip": None},
            max_frame,
            (1 << 7 * <object>self.max_bytes) - 1,
        )


cdef int set_decimal(Format self, bytes terminator, dict options, max_frame) except -1:
    cdef Layout *lay = &self.layout
    self.set_up(DECIMAL, options, {"terminator": None}, max_frame, LARGEST)
    self.set_mark(terminator, lay.terminator, &lay.terminator_size)
    lay.max_digits = len(str(lay.limit))
    return 0


@cython.final
cdef class Netstring(Format):
    """Netstring(*, max_frame=...)\n--\n
    Decimal length, colon, payload, comma: `5:hello,`.
    """

    def __cinit__(self, *, max_frame=...):
        set_decimal(self, b":", {}, max_frame)
        self.set_mark(b",", self.layout.trailer, &self.layout.trailer_size)


@cython.final
cdef class Decimal(Format):
    """Decimal(terminator, *, max_frame=...)\n--\n
    ASCII decimal length, *terminator*, payload.
    """

    cdef readonly bytes terminator

    def __cinit__(self, terminator, *, max_frame=...):
        self.terminator = mark("terminator", terminator, 1, TERMINATOR_MAX)
        if self.terminator[:1].isdigit():
            raise ValueError(f"terminator {self.terminator!r} begins with a digit")
        set_decimal(self, self.terminator, {"terminator": self.terminator}, max_frame)


@cython.final
cdef class ContentLength(Format):
    """ContentLength(*, max_frame=...)\n--\n
    A header block with `Content-Length: N`, an empty line, N bytes.
    """

    def __cinit__(self, *, max_frame=...):
        self.set_up(CONTENT_LENGTH, {}, {}, max_frame, LARGEST)


@cython.final
cdef class Delimiter(Format):
    """Delimiter(delimiter=b'\\n', *, keep=False, max_frame=...)\n--\n
    Payload, then *delimiter*.
    """

    cdef readonly bytes delimiter
    cdef readonly bint keep

    def __cinit__(self, delimiter=b"\n", *, keep=False, max_frame=...):
        cdef Layout *lay = &self.layout
        self.delimiter = mark("delimiter", delimiter, 1, TERMINATOR_MAX)
        self.keep = keep
        lay.keep = self.keep
        self.set_mark(self.delimiter, lay.trailer, &lay.trailer_size)
        self.set_up(
            DELIMITER,
            {"delimiter": self.delimiter, "keep": self.keep},
            {"delimiter": b"\n", "keep": False},
            max_frame,
            LARGEST,
        )


@cython.final
cdef class Fixed(Format):
    """Fixed(size, *, max_frame=...)\n--\n
    Every frame is *size* bytes long.
    """

    cdef readonly object size

    def __cinit__(self, size, *, max_frame=...):
        self.size = in_range("size", size, 1, LARGEST)
        if max_frame is not ... and max_frame is not None and max_frame != self.size:
            raise ValueError(
                f"max_frame is {max_frame}, but every frame is {self.size} bytes long")
        self.set_up(FIXED, {"size": self.size}, {"size": None}, ..., self.size)
        self.layout.limit = self.size


@cython.final
cdef class MultiprocessingConnection(Format):
    """MultiprocessingConnection(*, max_frame=...)\n--\n
    The wire of `multiprocessing.connection`: `!i`, or -1 and `!Q`, then the payload.
    """

    def __cinit__(self, *, max_frame=...):
        self.set_up(MULTIPROCESSING, {}, {}, max_frame, LARGEST)


@cython.final
cdef class Raw(Format):
    """Raw(*, max_frame=...)\n--\n
    No framing: a message is what one receive returned; it is never empty.
    """

    def __cinit__(self, *, max_frame=...):
        self.set_up(RAW, {}, {}, max_frame, LARGEST)
        if self.layout.limit == 0:
            raise ValueError(
                "max_frame is 0, expected 1 or more: a raw message is never empty")


cdef tuple FORMATS = (
    LengthField, Varint, Netstring, Decimal, ContentLength, Delimiter, Fixed,
    MultiprocessingConnection, Raw,
)

cdef str RAISE_LIMIT = "raise max_frame on both ends, or send it in parts"
cdef str NO_WIDER = "that is all this format can tell: send it in parts, or take a wider one"

cdef dict REASONS = {
    BELOW_MINIMUM: "the length is below the smallest that a frame can have",
    VARINT_TOO_LONG: "the length takes more bytes than the format allows",
    VARINT_PADDED: "the length is written longer than needed (an over-long varint)",
    NOT_A_DIGIT: "the length is not a decimal number",
    LEADING_ZERO: "the length has a leading zero",
    BAD_TERMINATOR: "the length is not followed by its terminator",
    NEGATIVE: "the length is negative",
    BLOCK_TOO_LONG: f"no empty line within {BLOCK_MAX} bytes of header lines",
    BAD_LINE: "a header line is not 'Name: value'",
    NO_CONTENT_LENGTH: "the header has no Content-Length line, or more than one",
}


cdef str hint(Format framing, const unsigned char *p, Py_ssize_t n):
    """What the refused bytes probably are; looked up only when an error is raised."""
    from pysock.hints import explain

    cdef Layout *lay = &framing.layout
    cdef bytes header = p[:min(n, 32)]
    if lay.kind == MULTIPROCESSING:
        return explain(header, header[:4], "big", lay.limit)
    if lay.kind != LENGTH_FIELD:
        return explain(header)
    field = header[lay.offset:lay.offset + lay.width]
    return explain(header, field, "little" if lay.little else "big", lay.limit + lay.surplus)


cdef int refuse_header(
    Format framing, int outcome, const unsigned char *p, Py_ssize_t n, uint64_t length,
) except -1:
    """Raise the error for a header that was received."""
    cdef Layout *lay = &framing.layout
    cdef bytes header = p[:min(n, 32)]
    why = hint(framing, p, n)
    if outcome == TOO_LARGE:
        raise FrameTooLarge(length, lay.limit, why)
    if outcome == BAD_MAGIC:
        reason = (
            f"a frame begins with {header[:lay.magic_size]!r}, "
            f"expected {lay.magic[:lay.magic_size]!r}"
        )
    elif outcome == BAD_TRAILER:
        raise InvalidHeader(
            p[:n], f"a frame ends with {p[:n]!r}, expected {lay.trailer[:lay.trailer_size]!r}")
    elif outcome == BELOW_MINIMUM:
        reason = f"length {length} is below the minimum of {lay.minimum}"
    elif outcome == NEGATIVE:
        reason = f"length {<int>length} is negative"
    else:
        reason = f"{REASONS[outcome]}: {header[:16]!r}"
    raise InvalidHeader(header, reason, why)


cdef int refuse_message(Format framing, int outcome, Py_ssize_t length) except -1:
    """Raise the error for a message that cannot be sent."""
    cdef Layout *lay = &framing.layout
    if outcome == TOO_LARGE:
        raise FrameTooLarge(length, lay.limit, framing.remedy())
    if outcome == TOO_SHORT:
        why = "it is shorter than the header that this format keeps in the message"
    elif outcome == BAD_MAGIC:
        why = f"it must begin with {lay.magic[lay.strip:lay.magic_size]!r}"
    elif outcome == BAD_TRAILER or outcome == NO_DELIMITER:
        why = f"it must end with {lay.trailer[:lay.trailer_size]!r}"
    elif outcome == HOLDS_DELIMITER:
        why = f"it holds the delimiter {lay.trailer[:lay.trailer_size]!r}"
    elif outcome == BELOW_MINIMUM:
        why = f"its frame would be below the minimum length of {lay.minimum}"
    elif outcome == VARINT_TOO_LONG:
        why = "it has no varint where its length belongs"
    elif outcome == WRONG_SIZE:
        why = f"every frame is {lay.limit} bytes long"
    else:
        why = "Raw() has no empty messages"
    raise FramingError(f"a message of {length} bytes cannot be sent: {why}")
