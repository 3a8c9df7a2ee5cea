# How much memory the frames under way on all of a server's connections may take.


cdef enum:
    FREE_SIZE = 64 * 1024     # frames up to this size never wait


cdef class _Memory:
    """Counts the buffers of large frames, and refuses to let them grow past a limit.

    The connection whose frame began first is never refused, so one always comes to its end.

    Args:
        limit: bytes.
        freed: called, from any thread, when one that was refused may try again.
    """

    cdef readonly long long limit
    cdef readonly long long used
    cdef dict order           # connections inside a large frame, as they began
    cdef object freed
    cdef bint refused

    def __cinit__(self, long long limit, freed=None):
        self.limit = limit
        self.freed = freed
        self.order = {}

    cdef bint grant(self, stream, Py_ssize_t more) except -1:
        """Whether *stream* may take *more* bytes."""
        with cython.critical_section(self):
            if stream not in self.order:
                self.order[stream] = None
            if self.used + more > self.limit and next(iter(self.order)) is not stream:
                self.refused = True
                return False
            self.used += more
            return True

    cdef int give_some_back(self, Py_ssize_t n) except -1:
        """Take *n* bytes back from a stream that has more."""
        with cython.critical_section(self):
            self.used -= n
        return 0

    cdef int give_back(self, stream, Py_ssize_t n) except -1:
        """Take back all that *stream* has, which is *n* bytes."""
        cdef bint refused
        with cython.critical_section(self):
            self.used -= n
            self.order.pop(stream, None)
            refused, self.refused = self.refused, False
        if refused and self.freed is not None:
            self.freed()
        return 0
