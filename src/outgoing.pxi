# One message on its way out: the caller's buffers, and the header that goes before them.

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject


cdef struct Outgoing:
    const Layout *lay         # of the format it was opened with, which the caller holds
    Py_buffer *views          # the caller's buffers; &only where there is one
    Py_buffer only
    Py_ssize_t count
    Py_ssize_t length         # bytes of the message
    Py_ssize_t taken          # of these, at its front, that the header holds
    Py_ssize_t payload        # what is neither header nor trailer
    Py_ssize_t total          # bytes of the frame
    int trailer_size          # trailer bytes to be added
    int head_size
    unsigned char head[HEADER_MAX]


cdef int open_message(Format framing, Outgoing *out, message, tuple more) except -1:
    """Hold the buffers of a message and prepare its frame; raise before any I/O."""
    cdef Py_ssize_t i, count = 1 + len(more)
    cdef int outcome
    out.lay = &framing.layout
    out.count = 0
    out.length = 0
    out.views = &out.only
    if count > 1:
        if framing.layout.kind == DELIMITER:
            # The delimiter may stand across two buffers.
            message = b"".join((message, *more))
            more = ()
            count = 1
        else:
            out.views = <Py_buffer *>PyMem_Malloc(count * sizeof(Py_buffer))
            if out.views == NULL:
                raise MemoryError
    try:
        PyObject_GetBuffer(message, &out.views[0], PyBUF_SIMPLE)
        out.count = 1
        out.length = out.views[0].len
        for i in range(count - 1):
            PyObject_GetBuffer(more[i], &out.views[i + 1], PyBUF_SIMPLE)
            out.count += 1
            out.length += out.views[i + 1].len
        outcome = prepare_frame(out)
        if outcome < 0:
            refuse_message(
                framing, outcome, out.payload if outcome == TOO_LARGE else out.length)
    except BaseException:
        close_message(out)
        raise
    return 0


cdef void close_message(Outgoing *out) noexcept:
    cdef Py_ssize_t i
    for i in range(out.count):
        PyBuffer_Release(&out.views[i])
    if out.views != &out.only:
        PyMem_Free(out.views)


cdef void peek_message(
    const Outgoing *out, Py_ssize_t offset, Py_ssize_t n, unsigned char *where,
) noexcept nogil:
    """Copy *n* bytes of the message, from *offset*, out of however many buffers."""
    cdef Py_ssize_t i, part
    for i in range(out.count):
        if n == 0:
            return
        if offset < out.views[i].len:
            part = min(n, out.views[i].len - offset)
            memcpy(where, <char *>out.views[i].buf + offset, part)
            where += part
            n -= part
            offset = 0
        else:
            offset -= out.views[i].len


cdef int prepare_frame(Outgoing *out) noexcept nogil:
    """Write the header of the frame into *out*; return its size or an Outcome."""
    cdef unsigned char front[HEADER_MAX]
    cdef int outcome
    out.taken = 0
    if out.lay.keep or out.lay.kind == DELIMITER:
        outcome = check_kept(out, front)
        if outcome < 0:
            return outcome
    return finish_frame(out, front)


cdef int finish_frame(Outgoing *out, unsigned char *front) noexcept nogil:
    """As prepare_frame(), when *front* has been found to hold out.taken header bytes."""
    cdef const Layout *lay = out.lay
    out.payload = out.length - out.taken
    out.trailer_size = lay.trailer_size
    if lay.keep:
        out.payload -= lay.trailer_size
        out.trailer_size = 0
    if <uint64_t>out.payload > lay.limit and lay.kind != FIXED:
        return TOO_LARGE
    if lay.keep and lay.kind != DELIMITER:
        out.head_size = write_kept_header(lay, front, out.taken, out.payload, out.head)
    else:
        out.head_size = write_header(lay, out.payload, out.head)
    out.total = out.head_size + out.length - out.taken + out.trailer_size
    return out.head_size


cdef int open_file_message(
    Format framing, Outgoing *out, bytes first, bytes last, Py_ssize_t size,
) except -1:
    """Prepare the frame of a file of *size* bytes that begins and ends with these."""
    cdef Layout *lay = &framing.layout
    cdef Py_ssize_t outcome
    out.lay = lay
    out.count = 0
    out.views = &out.only
    out.length = size
    out.taken = 0
    outcome = header_kept(lay, <const unsigned char *>PyBytes_AS_STRING(first), len(first))
    if outcome >= 0:
        out.taken = outcome
        if lay.keep and (
            size - out.taken < lay.trailer_size or last != lay.trailer[:lay.trailer_size]
        ):
            outcome = BAD_TRAILER
    if outcome >= 0:
        outcome = finish_frame(out, <unsigned char *>PyBytes_AS_STRING(first))
    if outcome < 0:
        refuse_message(framing, <int>outcome, out.payload if outcome == TOO_LARGE else size)
    return 0


cdef int check_kept(Outgoing *out, unsigned char *front) noexcept nogil:
    """Check the header and trailer that a message must hold, or the delimiter it must not."""
    cdef const Layout *lay = out.lay
    cdef unsigned char back[2 * MARK_MAX]
    cdef Py_ssize_t size = lay.trailer_size
    cdef Py_ssize_t part, kept
    cdef unsigned char *message
    if lay.kind != DELIMITER:
        part = min(out.length, HEADER_MAX)
        peek_message(out, 0, part, front)
        kept = header_kept(lay, front, part)
        if kept < 0:
            return <int>kept
        out.taken = kept
    if lay.keep:
        if out.length - out.taken < size:
            return BAD_TRAILER
        peek_message(out, out.length - size, size, back)
        if memcmp(back, lay.trailer, size) != 0:
            return NO_DELIMITER if lay.kind == DELIMITER else BAD_TRAILER
    if lay.kind == DELIMITER:
        message = <unsigned char *>out.views[0].buf
        part = out.length - (size if lay.keep else 0)
        if find(message, part, lay.trailer, <int>size, 0) >= 0:
            return HOLDS_DELIMITER
        # The end of the payload and the delimiter may make an earlier one together.
        kept = min(part, size - 1)
        memcpy(back, message + part - kept, kept)
        memcpy(back + kept, lay.trailer, size)
        if find(back, kept + size, lay.trailer, <int>size, 0) != kept:
            return HOLDS_DELIMITER
    return KNOWN


cdef void copy_frame(const Outgoing *out, char *where) noexcept nogil:
    """Write the whole frame, out.total bytes, to *where*."""
    cdef Py_ssize_t i, skip = out.taken
    memcpy(where, out.head, out.head_size)
    where += out.head_size
    for i in range(out.count):
        if skip < out.views[i].len:
            memcpy(where, <char *>out.views[i].buf + skip, out.views[i].len - skip)
            where += out.views[i].len - skip
            skip = 0
        else:
            skip -= out.views[i].len
    memcpy(where, out.lay.trailer, out.trailer_size)


cdef int frame_iov(const Outgoing *out, sock_iov *iov) noexcept nogil:
    """Describe the frame as at most count + 2 pieces; return how many."""
    cdef Py_ssize_t i, skip = out.taken
    cdef int n = 0
    if out.head_size:
        iov_set(&iov[n], <const char *>out.head, out.head_size)
        n += 1
    for i in range(out.count):
        if skip < out.views[i].len:
            iov_set(&iov[n], <char *>out.views[i].buf + skip, out.views[i].len - skip)
            n += 1
            skip = 0
        else:
            skip -= out.views[i].len
    if out.trailer_size:
        iov_set(&iov[n], <const char *>out.lay.trailer, out.trailer_size)
        n += 1
    return n
