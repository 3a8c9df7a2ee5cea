# Bytes in, messages out, without a socket.

import copy

from cpython.mem cimport PyMem_RawRealloc


cdef object told_again(error):
    """An error that was raised before, to be raised once more, perhaps by another thread."""
    if not GLANCE_TAKES:
        return error.with_traceback(None)
    # Two threads that raise the same object would both change its traceback.
    again = copy.copy(error)
    if error.__cause__ is not None:
        again.__cause__ = error.__cause__
    return again


@cython.final
cdef class Decoder:
    """Decoder(framing)\n--\n
    Turns bytes, however they were cut, into messages; does no I/O.
    """

    cdef Format framing
    cdef char *buf            # bytes of a frame that is not complete
    cdef Py_ssize_t room
    cdef Py_ssize_t size
    cdef Py_ssize_t scanned
    cdef Py_ssize_t expected  # of the whole frame, once its header is read, or 0
    cdef object error

    def __cinit__(self, Format framing not None):
        self.framing = framing

    def __reduce__(self):
        raise TypeError("cannot copy or pickle a Decoder, which may be in mid-message")

    def __dealloc__(self):
        PyMem_RawFree(self.buf)

    @property
    def pending(self):
        """Bytes fed that no message has used yet."""
        return self.size

    @cython.critical_section
    def feed(self, data):
        """Take the next bytes of the stream; return the messages they complete."""
        cdef Py_buffer view
        cdef list messages = []
        cdef Py_ssize_t used, before
        if self.error is not None:
            self.raise_again()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        before = self.size  # only now: to get a buffer may let others feed
        try:
            if self.size == 0:
                used = self.split(<char *>view.buf, view.len, messages)
                self.append(<char *>view.buf + used, view.len - used)
            else:
                self.append(<char *>view.buf, view.len)
                if self.size >= self.expected:
                    used = self.split(self.buf, self.size, messages)
                    self.size -= used
                    memmove(self.buf, self.buf + used, self.size)
            if self.size == 0:
                PyMem_RawFree(self.buf)
                self.buf = NULL
                self.room = 0
        except MemoryError:
            self.size = before
            self.scanned = self.expected = 0
            self.error = None
            raise
        finally:
            PyBuffer_Release(&view)
        if self.error is not None and not messages:
            self.raise_again()
        return messages

    cdef int append(self, const char *p, Py_ssize_t n) except -1:
        cdef char *grown
        if self.size + n > self.room:
            grown = <char *>PyMem_RawRealloc(self.buf, max(self.size + n, 2 * self.room))
            if grown == NULL:
                raise MemoryError
            self.buf = grown
            self.room = max(self.size + n, 2 * self.room)
        if n:
            memcpy(self.buf + self.size, p, n)
            self.size += n
        return 0

    cdef Py_ssize_t split(self, const char *p, Py_ssize_t n, list messages) except -1:
        """Append the complete messages to *messages*; return the bytes they used."""
        cdef Layout *lay = &self.framing.layout
        cdef Py_ssize_t used = 0
        cdef Head head
        cdef int outcome
        while used < n:
            outcome = read_header(
                lay, <const unsigned char *>p + used, n - used, &head, &self.scanned)
            if outcome == KNOWN and head.total <= n - used:
                outcome = check_trailer(lay, p + used + head.total)
                if outcome == KNOWN:
                    messages.append(PyBytes_FromStringAndSize(
                        p + used + head.skip, head.total - head.skip - head.drop))
                    used += head.total
                    self.scanned = self.expected = 0
                    continue
            if outcome < 0:
                self.keep_error(outcome, p + used, n - used, &head)
            elif outcome == KNOWN:
                self.expected = head.total
            break
        return used

    cdef int keep_error(self, int outcome, const char *p, Py_ssize_t n, Head *head) except -1:
        cdef int size = self.framing.layout.trailer_size
        if outcome == BAD_TRAILER:
            p += head.total - size
            n = size
        try:
            refuse_header(self.framing, outcome, <const unsigned char *>p, n, head.length)
        except FramingError as error:
            self.error = error
        return 0

    cdef int raise_again(self) except -1:
        raise told_again(self.error)

    @cython.critical_section
    def eof(self):
        """Say that the stream has ended; return quietly between frames."""
        if self.error is not None:
            self.raise_again()
        if self.size:
            raise_incomplete(self.framing, self.buf, self.size, self.size, self.expected)


cdef int check_trailer(const Layout *lay, const char *end) noexcept nogil:
    """Whether the frame that ends at *end* ends as it must."""
    if lay.trailer_size and memcmp(end - lay.trailer_size, lay.trailer, lay.trailer_size) != 0:
        return BAD_TRAILER
    return KNOWN


cdef int raise_incomplete(
    Format framing, const char *p, Py_ssize_t n, Py_ssize_t received, Py_ssize_t expected,
) except -1:
    """Raise IncompleteFrame; where *expected* is 0 say what is known without a header."""
    cdef Layout *lay = &framing.layout
    if expected == 0 and lay.kind == LENGTH_FIELD:
        expected = lay.header
    elif expected == 0 and lay.kind == MULTIPROCESSING:
        expected = 12 if n >= 4 else 4
    raise IncompleteFrame(received, expected or None)
