# What every format looks like on the wire, as plain C: read a header, write a header.
# No Python object is touched here; the classes over it are in formats.pxi.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove, memset


cdef enum:
    HEADER_MAX = 512      # a header that is written here; longer ones are refused
    MARK_MAX = 64         # magic, trailer
    TERMINATOR_MAX = 16   # terminator, delimiter
    BLOCK_MAX = 4096      # a block of header lines


cdef enum Kind:
    LENGTH_FIELD
    VARINT
    DECIMAL
    CONTENT_LENGTH
    DELIMITER
    FIXED
    MULTIPROCESSING
    RAW


cdef enum Outcome:
    KNOWN = 1             # the header is read and the frame's size is known
    MORE = 0              # more bytes are needed
    BAD_MAGIC = -1
    TOO_LARGE = -2
    BELOW_MINIMUM = -3
    VARINT_TOO_LONG = -4
    VARINT_PADDED = -5
    NOT_A_DIGIT = -6
    LEADING_ZERO = -7
    BAD_TERMINATOR = -8
    NEGATIVE = -9
    BLOCK_TOO_LONG = -10
    BAD_LINE = -11
    NO_CONTENT_LENGTH = -12
    BAD_TRAILER = -13
    TOO_SHORT = -14       # a message to be sent lacks the header that it must hold
    WRONG_SIZE = -15
    HOLDS_DELIMITER = -16
    NO_DELIMITER = -17
    EMPTY = -18


cdef struct Layout:
    Kind kind
    bint little
    bint plain                # nothing but a length of fixed size, and the payload
    bint keep                 # the message keeps header and trailer
    int width                 # of the length field
    int offset                # bytes before the length
    int header                # bytes before the payload, where that is fixed
    int strip                 # bytes dropped from the front of a frame
    int max_bytes             # of a varint
    int max_digits            # of a decimal length
    int magic_size
    int trailer_size
    int terminator_size       # after a decimal length
    uint64_t surplus          # what the length counts beside the payload
    uint64_t minimum          # of the length field
    uint64_t limit            # of the payload
    unsigned char magic[MARK_MAX]
    unsigned char trailer[MARK_MAX]
    unsigned char terminator[TERMINATOR_MAX]


cdef struct Head:
    Py_ssize_t header         # bytes before the payload
    Py_ssize_t payload
    Py_ssize_t total          # of the whole frame
    Py_ssize_t skip           # the message is frame[skip:total - drop]
    Py_ssize_t drop
    uint64_t length           # what was announced, for the error


cdef uint64_t read_length(const unsigned char *p, int width, bint little) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    if width == 4 and not little:  # most formats; one instruction
        return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]
    if little:
        for i in range(width - 1, -1, -1):
            value = (value << 8) | p[i]
    else:
        for i in range(width):
            value = (value << 8) | p[i]
    return value


cdef void write_length(
    unsigned char *p, int width, bint little, uint64_t value,
) noexcept nogil:
    cdef int i
    if width == 4 and not little:
        p[0] = <unsigned char>(value >> 24)
        p[1] = <unsigned char>(value >> 16)
        p[2] = <unsigned char>(value >> 8)
        p[3] = <unsigned char>value
        return
    for i in range(width):
        p[i if little else width - 1 - i] = value & 0xFF
        value >>= 8


cdef int known(
    const Layout *lay, Py_ssize_t header, uint64_t payload, Head *head,
) noexcept nogil:
    """Fill in *head* for a frame whose payload is within the limit."""
    head.header = header
    head.payload = <Py_ssize_t>payload
    head.total = header + head.payload + lay.trailer_size
    head.skip = 0 if lay.keep else header
    head.drop = 0 if lay.keep else lay.trailer_size
    if lay.kind == LENGTH_FIELD:
        head.skip = lay.strip
    return KNOWN


cdef int read_header(
    const Layout *lay, const unsigned char *p, Py_ssize_t n, Head *head, Py_ssize_t *scanned,
) noexcept nogil:
    """Read the header that the *n* bytes at *p* begin with; return an Outcome.

    *scanned* is 0 at a new frame; with the same frame and more bytes it holds how far
    the last call has searched, so that a long search is not begun again.
    """
    cdef uint64_t length
    if lay.kind == LENGTH_FIELD:
        if lay.magic_size and memcmp(p, lay.magic, min(n, lay.magic_size)) != 0:
            return BAD_MAGIC
        if n < lay.offset + lay.width:
            return MORE
        length = read_length(p + lay.offset, lay.width, lay.little)
        head.length = length
        if length < lay.minimum:
            return BELOW_MINIMUM
        # The minimum is at least the surplus, so nothing can wrap below zero.
        head.length = length - lay.surplus
        if head.length > lay.limit:
            return TOO_LARGE
        return known(lay, lay.header, head.length, head)
    if lay.kind == VARINT:
        return read_varint(lay, p, n, head)
    if lay.kind == DECIMAL:
        return read_decimal(lay, p, n, head)
    if lay.kind == DELIMITER:
        return find_delimiter(lay, p, n, head, scanned)
    if lay.kind == CONTENT_LENGTH:
        return read_block(lay, p, n, head, scanned)
    if lay.kind == MULTIPROCESSING:
        return read_escaped(lay, p, n, head)
    if n == 0:
        return MORE
    if lay.kind == FIXED:
        return known(lay, 0, lay.limit, head)
    return known(lay, 0, min(<uint64_t>n, lay.limit), head)


cdef int read_varint(
    const Layout *lay, const unsigned char *p, Py_ssize_t n, Head *head,
) noexcept nogil:
    cdef uint64_t length = 0
    cdef int i
    cdef unsigned char byte
    for i in range(lay.max_bytes):
        if lay.offset + i >= n:
            return MORE
        byte = p[lay.offset + i]
        if i == 9 and byte != 0:  # 2**63 and more: no length, and too much for the sums
            return VARINT_TOO_LONG
        length |= <uint64_t>(byte & 0x7F) << (7 * i)
        if byte & 0x80 == 0:
            head.length = length
            if byte == 0 and i > 0:
                return VARINT_PADDED
            if length > lay.limit:
                return TOO_LARGE
            return known(lay, lay.offset + i + 1, length, head)
    return VARINT_TOO_LONG


cdef int read_decimal(
    const Layout *lay, const unsigned char *p, Py_ssize_t n, Head *head,
) noexcept nogil:
    """Digits are judged as they come: too large is known before the terminator is."""
    cdef uint64_t length = 0
    cdef Py_ssize_t i = 0
    while i < n and p[i] >= c"0" and p[i] <= c"9":
        if i > 0 and p[0] == c"0":
            return LEADING_ZERO
        length = length * 10 + (p[i] - c"0")
        i += 1
        if i > lay.max_digits or length > lay.limit:
            head.length = length
            return TOO_LARGE
    if i == n:
        return MORE
    if i == 0:
        return NOT_A_DIGIT
    if memcmp(p + i, lay.terminator, min(n - i, lay.terminator_size)) != 0:
        return BAD_TERMINATOR
    if n - i < lay.terminator_size:
        return MORE
    return known(lay, i + lay.terminator_size, length, head)


cdef int read_escaped(
    const Layout *lay, const unsigned char *p, Py_ssize_t n, Head *head,
) noexcept nogil:
    cdef int header = 4
    if n < 4:
        return MORE
    head.length = read_length(p, 4, False)
    if head.length == 0xFFFFFFFFU:
        if n < 12:
            return MORE
        header = 12
        head.length = read_length(p + 4, 8, False)
    elif head.length > 0x7FFFFFFF:
        return NEGATIVE
    if head.length > lay.limit:
        return TOO_LARGE
    return known(lay, header, head.length, head)


cdef Py_ssize_t find(
    const unsigned char *p, Py_ssize_t n, const unsigned char *what, int size,
    Py_ssize_t start,
) noexcept nogil:
    """The first offset, from *start*, at which *what* stands in the *n* bytes, or -1."""
    cdef const unsigned char *at
    while start + size <= n:
        at = <const unsigned char *>memchr(p + start, what[0], n - size + 1 - start)
        if at == NULL:
            return -1
        if size == 1 or memcmp(at, what, size) == 0:
            return at - p
        start = at - p + 1
    return -1


cdef int find_delimiter(
    const Layout *lay, const unsigned char *p, Py_ssize_t n, Head *head, Py_ssize_t *scanned,
) noexcept nogil:
    cdef Py_ssize_t size = lay.trailer_size
    cdef Py_ssize_t at
    # Nothing behind limit + size can begin in time, so it is not looked at.
    cdef Py_ssize_t reach = min(n, <Py_ssize_t>lay.limit + size)
    at = find(p, reach, lay.trailer, <int>size, scanned[0])
    if at >= 0:
        scanned[0] = at
        return known(lay, 0, at, head)
    scanned[0] = max(scanned[0], reach - size + 1)
    if n >= <Py_ssize_t>lay.limit + size:
        head.length = n
        return TOO_LARGE
    return MORE


cdef bint is_blank(unsigned char c) noexcept nogil:
    return c == c" " or c == c"\t"


cdef int read_block(
    const Layout *lay, const unsigned char *p, Py_ssize_t n, Head *head, Py_ssize_t *scanned,
) noexcept nogil:
    """Read `Name: value` lines up to the empty one; exactly one is Content-Length."""
    cdef Py_ssize_t end, at = 0, stop, colon
    cdef bint seen = False
    cdef int outcome
    end = find(p, min(n, BLOCK_MAX), b"\r\n\r\n", 4, scanned[0])
    if end < 0:
        scanned[0] = max(scanned[0], min(n, BLOCK_MAX) - 3)
        return BLOCK_TOO_LONG if n >= BLOCK_MAX else MORE
    scanned[0] = end
    while at < end + 2:
        stop = find(p, end + 2, b"\r\n", 2, at)
        colon = find(p, stop, b":", 1, at)
        if colon <= at or not is_name(p + at, colon - at):
            return BAD_LINE
        if colon - at == 14 and is_content_length(p + at):
            if seen:
                return NO_CONTENT_LENGTH
            seen = True
            outcome = read_number(p + colon + 1, stop - colon - 1, &head.length)
            if outcome != KNOWN:
                return outcome
        at = stop + 2
    if not seen:
        return NO_CONTENT_LENGTH
    if head.length > lay.limit:
        return TOO_LARGE
    return known(lay, end + 4, head.length, head)


cdef bint is_name(const unsigned char *p, Py_ssize_t n) noexcept nogil:
    """Whether these are token characters of RFC 9110, section 5.6.2."""
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(n):
        c = p[i]
        if not (c"a" <= c <= c"z" or c"A" <= c <= c"Z" or c"0" <= c <= c"9"):
            if c == 0 or memchr(<const char *>b"!#$%&'*+-.^_`|~", c, 15) == NULL:
                return False
    return True


cdef bint is_content_length(const unsigned char *p) noexcept nogil:
    cdef const unsigned char *name = b"content-length"
    cdef int i
    for i in range(14):
        if (p[i] | 0x20 if c"A" <= p[i] <= c"Z" else p[i]) != name[i]:
            return False
    return True


cdef int read_number(const unsigned char *p, Py_ssize_t n, uint64_t *value) noexcept nogil:
    """Read ASCII digits between blanks; a number beyond 64 bits reads as the largest."""
    cdef Py_ssize_t i
    cdef uint64_t number = 0
    cdef bint saturated = False
    while n > 0 and is_blank(p[0]):
        p += 1
        n -= 1
    while n > 0 and is_blank(p[n - 1]):
        n -= 1
    if n == 0:
        return NOT_A_DIGIT
    for i in range(n):
        if p[i] < c"0" or p[i] > c"9":
            return NOT_A_DIGIT
        if number > (<uint64_t>-1 - 9) // 10:
            saturated = True
        number = number * 10 + (p[i] - c"0")
    value[0] = <uint64_t>-1 if saturated else number
    return KNOWN


cdef int write_header(const Layout *lay, uint64_t payload, unsigned char *out) noexcept nogil:
    """Write the header for *payload* bytes to *out*; return its size or an Outcome.

    The caller has compared *payload* with the limit.
    """
    cdef uint64_t length
    cdef int n = 0
    if lay.kind == LENGTH_FIELD:
        length = payload + lay.surplus
        if length < lay.minimum:
            return BELOW_MINIMUM
        memset(out, 0, lay.header)
        memcpy(out, lay.magic, lay.magic_size)
        write_length(out + lay.offset, lay.width, lay.little, length)
        return lay.header
    if lay.kind == VARINT:
        memset(out, 0, lay.offset)
        n = lay.offset
        while payload > 0x7F:
            out[n] = (payload & 0x7F) | 0x80
            payload >>= 7
            n += 1
        out[n] = <unsigned char>payload
        return n + 1
    if lay.kind == DECIMAL:
        n = write_number(out, payload)
        memcpy(out + n, lay.terminator, lay.terminator_size)
        return n + lay.terminator_size
    if lay.kind == CONTENT_LENGTH:
        memcpy(out, <const char *>b"Content-Length: ", 16)
        n = 16 + write_number(out + 16, payload)
        memcpy(out + n, <const char *>b"\r\n\r\n", 4)
        return n + 4
    if lay.kind == MULTIPROCESSING:
        if payload <= 0x7FFFFFFF:
            write_length(out, 4, False, payload)
            return 4
        memset(out, 0xFF, 4)
        write_length(out + 4, 8, False, payload)
        return 12
    if lay.kind == FIXED and payload != lay.limit:
        return WRONG_SIZE
    if lay.kind == RAW and payload == 0:
        return EMPTY
    return 0


cdef int write_number(unsigned char *out, uint64_t value) noexcept nogil:
    cdef unsigned char digits[20]
    cdef int n = 0
    cdef int i
    while True:
        digits[n] = c"0" + value % 10
        value //= 10
        n += 1
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef Py_ssize_t header_kept(
    const Layout *lay, const unsigned char *message, Py_ssize_t n,
) noexcept nogil:
    """How many bytes at the front of a message to be sent are header, or an Outcome.

    *n* bytes of the message are at hand, all of it or at least HEADER_MAX.
    """
    cdef Py_ssize_t i
    if not lay.keep:
        return 0
    if lay.kind == LENGTH_FIELD:
        if n < lay.header - lay.strip:
            return TOO_SHORT
        if lay.magic_size > lay.strip and memcmp(
            message, lay.magic + lay.strip, lay.magic_size - lay.strip
        ) != 0:
            return BAD_MAGIC
        return lay.header - lay.strip
    if lay.kind == VARINT:
        for i in range(lay.offset, lay.offset + lay.max_bytes):
            if i >= n:
                return TOO_SHORT
            if message[i] & 0x80 == 0:
                return i + 1
        return VARINT_TOO_LONG
    return 0


cdef int write_kept_header(
    const Layout *lay, const unsigned char *message, Py_ssize_t kept, uint64_t payload,
    unsigned char *out,
) noexcept nogil:
    """As write_header(), with the *kept* header bytes of *message* and the right length."""
    cdef int n = write_header(lay, payload, out)
    if n < 0:
        return n
    if lay.kind == VARINT:
        memcpy(out, message, lay.offset)
    elif lay.kind == LENGTH_FIELD:
        memcpy(out + lay.strip, message, kept)
        write_length(
            out + lay.offset, lay.width, lay.little, payload + lay.surplus)
    return n
