# Bytes that have been read ahead, and what all that is received costs a server's memory.


cdef enum:
    READ_AHEAD = SPARE_SIZE


cdef class _Buffer(_Transport):
    """Holds what has come and is no message yet; nothing, while there is nothing."""

    cdef char *buf            # read ahead; NULL while there is nothing in it
    cdef Py_ssize_t room
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef Py_ssize_t scanned
    cdef bint inside          # a call has waited for the rest of the frame in the buffer
    cdef _Memory memory       # what a server allows all its connections, or None
    cdef bint remembered      # there, with
    cdef Py_ssize_t charged   # bytes for a large message, and
    cdef Py_ssize_t buffer_charged  # for a buffer that has grown

    def __dealloc__(self):
        self.drop_buffer()

    cdef int hold_buffer(self) except -1:
        if self.buf == NULL:
            self.buf = spare_take()
            if self.buf == NULL:
                raise MemoryError
            self.room = READ_AHEAD
            self.start = self.end = 0
        return 0

    cdef void drop_buffer(self) noexcept:
        if self.buf != NULL:
            if self.room == READ_AHEAD:
                spare_give(self.buf)
            else:
                PyMem_RawFree(self.buf)
                self.uncharge(0, self.buffer_charged)
            self.buf = NULL
            self.start = self.end = 0

    cdef void rest(self) noexcept:
        """Give an empty buffer back, so that an idle connection holds none."""
        if self.start == self.end:
            self.drop_buffer()

    cdef void consume(self, Py_ssize_t n) noexcept:
        self.start += n
        self.scanned = 0
        self.inside = False
        self.rest()
        if self.room > READ_AHEAD and self.buf != NULL:
            self.shrink()

    cdef void shrink(self) noexcept:
        """Go back to a buffer as others have, where what is left fits."""
        cdef Py_ssize_t left = self.end - self.start
        cdef char *small
        if left > READ_AHEAD // 2:
            return
        small = spare_take()
        if small != NULL:
            memcpy(small, self.buf + self.start, left)
            self.drop_buffer()
            self.buf = small
            self.room = READ_AHEAD
            self.end = left

    cdef int make_room(self) except -1:
        """See to free space behind the bytes in the buffer."""
        if self.start > 0 and self.end > self.room - self.room // 4:
            memmove(self.buf, self.buf + self.start, self.end - self.start)
            self.end -= self.start
            self.start = 0
        if self.end == self.room:
            # Only a frame whose front does not tell its size gets here.
            self.double_room()
        return 0

    cdef int make_room_for(self, Py_ssize_t n) except -1:
        """See to *n* bytes of it."""
        if self.start > 0 and self.room - self.end < n:
            memmove(self.buf, self.buf + self.start, self.end - self.start)
            self.end -= self.start
            self.start = 0
        while self.room - self.end < n:
            self.double_room()
        return 0

    cdef int double_room(self) except -1:
        cdef char *grown
        if self.room > READ_AHEAD:
            grown = <char *>PyMem_RawRealloc(self.buf, 2 * self.room)
        else:
            grown = <char *>PyMem_RawMalloc(2 * self.room)
        if grown == NULL:
            raise MemoryError
        if self.room == READ_AHEAD:
            memcpy(grown, self.buf, self.end)
            spare_give(self.buf)
        self.buf = grown
        self.room *= 2
        return 0

    cdef void uncharge(self, Py_ssize_t message, Py_ssize_t buffered) noexcept:
        self.charged -= message
        self.buffer_charged -= buffered
        if self.remembered and self.charged + self.buffer_charged == 0:
            self.remembered = False
            self.memory.give_back(self, message + buffered)
        elif message + buffered:
            self.memory.give_some_back(message + buffered)

    cdef bint charge(self, Py_ssize_t *charged, Py_ssize_t room) except -1:
        """Whether what has cost *charged* bytes may take *room* bytes."""
        if room > charged[0]:
            self.remembered = True
            if not self.memory.grant(self, room - charged[0]):
                return False
            charged[0] = room
        return True
