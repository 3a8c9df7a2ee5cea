# The receiving half of a stream: read ahead, cut messages out of the buffer, and let
# large ones grow in place, straight into the object that is handed over.

from cpython.bytes cimport _PyBytes_Resize
from cpython.exc cimport PyErr_Clear
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF


cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *p, Py_ssize_t n)


cdef extern from "again.h":
    ctypedef struct again:
        pass
    void again_forget_given(again *kept)
    void again_forget(again *kept)
    PyObject *again_one(again *kept, const char *p, Py_ssize_t n)
    object again_object "again_one"(again *kept, const char *p, Py_ssize_t n)
    void again_begin(again *kept)
    object again_next(again *kept, Py_ssize_t i, const char *p, Py_ssize_t n)


cdef enum:
    DIRECT = 8 * 1024         # a frame that misses more than this is not read ahead
    HEAD_ROOM = 2 * 1024      # read ahead of the frame that follows a large one
    FIRST_ROOM = 128 * 1024   # allocated for a large message before its bytes arrive
    MANY_SMALL = 8 * 1024     # in the buffer: so many messages that their memory is kept
    GROWTH = 4                # then as many times what has arrived
    HUGE = 32 * 1024 * 1024   # longer ones have pages that malloc() gives to nobody else:
    HUGE_FROM = 8 * 1024 * 1024  # large ones, when there is to be room for so much


# What ends a connection in both directions, and is told by the system a single time.
cdef frozenset TOLD_ONCE = frozenset((
    errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EHOSTUNREACH,
    errno.ENETUNREACH))

cdef double MEMORY_TICK = 0.01  # for a thread that waits for memory


cdef enum State:
    WHOLE                     # all of the next frame is in the buffer
    PART                      # its size is known
    UNKNOWN                   # not even that
    REFUSED                   # it breaks the format


cdef class _Receiver(_Buffer):
    """Whole messages out of a stream; every step can be resumed after a timeout."""

    cdef Format format
    cdef shared_long formats  # how many it has had
    cdef Head head            # of the frame that look() found
    cdef int outcome          # why look() said REFUSED
    cdef bint plain           # frames are, and all there is to a receive is bytes
    # A large message while it is received: where it goes, how far it has come, and what is
    # behind that: a bytes object, or a slab, or neither if it is the caller's own buffer.
    cdef Format format_then
    cdef bytes dropped        # the header that is not part of the message
    cdef char *into
    cdef Py_ssize_t into_room
    cdef Py_ssize_t got
    cdef PyObject *partial
    cdef _Slab slab
    cdef object file          # what recvfile() is writing to, in mid-frame
    cdef bint file_checked    # its trailer
    cdef bytes file_rest      # what it took over from a receive, and how much of that
    cdef Py_ssize_t file_written  # is written
    cdef Py_ssize_t file_left  # bytes that go there by way of the buffer
    cdef bint ended
    cdef bint wound_up        # a receive was made after winding_up
    cdef long long messages_in
    cdef Py_ssize_t owed      # replies to requests that gave up waiting for them
    cdef again kept           # small messages that were given out

    def __dealloc__(self):
        again_forget(&self.kept)
        self.drop_partial()
        free_turn(&self.receiving)

    cdef void use_format(self, Format format) noexcept:
        with cython.critical_section(self):
            self.format = format
        atomic_add(&self.formats, 1)
        self.plain = format.layout.plain and self.kind != PASSING and self.kind != SEQPACKET

    @cython.final
    cdef inline Format its_format(self):
        """The format, for who has no turn to receive."""
        with cython.critical_section(self):
            return self.format

    # ------------------------------------------------------------ where bytes go

    cdef bint at_rest(self) noexcept:
        return self.into == NULL and self.start == self.end and self.file is None

    cdef int aim(self, sock_iov *iov) except -1:
        """Into the large message first, and behind its end into the buffer."""
        cdef Py_ssize_t left = 0
        cdef int n = 0
        if self.into != NULL:
            if self.got == self.into_room < self.message_size():
                self.grow()
            left = self.into_room - self.got
            if left:
                iov_set(&iov[0], self.into + self.got, left)
                n = 1
        if left < READ_AHEAD and (self.into == NULL or self.into_room == self.message_size()):
            self.hold_buffer()
            self.make_room()
            # Behind a large frame probably comes another, which is to go straight to its
            # place as well: only its head is read ahead.
            left = self.room - self.end if n == 0 else min(self.room - self.end, HEAD_ROOM)
            iov_set(&iov[n], self.buf + self.end, left)
            n += 1
        if self.winding_up and self.kind != PASSING and self.kind != SEQPACKET:
            # What had come is received once more; then a frame that has begun, no further.
            if self.wound_up:
                return self.aim_short(iov, n)
            self.wound_up = True
        return n

    cdef int aim_short(self, sock_iov *iov, int n) noexcept:
        """Aim at the rest of the frame under way and no further, as far as it is known."""
        cdef Py_ssize_t left = 1
        if self.into != NULL:
            if self.got < self.into_room:
                return 1
            left = self.head.drop - (self.end - self.start)
        elif self.look() == PART:
            left = self.head.total - (self.end - self.start)
        iov_set(&iov[0], iov_base(&iov[0]), min(iov_len(&iov[0]), left))
        return 1

    cdef int fill(self, Deadline *until) except -1:
        """Receive once, waiting for it if need be; raise at the end of the stream."""
        cdef Py_ssize_t got
        self.inside = self.end > self.start
        if self.wound_up and self.at_rest():
            raise ConnectionClosed("the server is stopping")
        if not self.ended:
            if self.memory is not None:
                self.wait_for_memory(until)
            got = self.receive(until)
            self.ended = got == 0
        if self.ended:
            self.raise_ended()
        self.spread(got)
        return 0

    cdef int spread(self, Py_ssize_t got) except -1:
        """Account for *got* bytes that went where aim() had said."""
        cdef Py_ssize_t direct = 0
        if self.into != NULL:
            direct = min(got, self.into_room - self.got)
            self.got += direct
        self.end += got - direct
        self.rest()
        if self.crypt is not None and self.crypt.interruption is not None:
            self.crypt.raise_interruption()
        return 0

    cdef int raise_ended(self) except -1:
        """Raise what the end of the stream means at this point."""
        cdef Py_ssize_t n = self.end - self.start
        cdef Py_ssize_t expected = 0
        self.lost = True
        self.rest()
        self.drop_rights()
        if self.send_error and -self.send_error in TOLD_ONCE:
            # It was told to a send: here it would look like the end that a peer means.
            self.fail_receive(self.send_error)
        if self.into != NULL:
            raise IncompleteFrame(self.head.skip + self.got + n, self.head.total)
        if self.file is not None:
            raise IncompleteFrame(
                self.head.total - self.head.drop - self.file_left + n, self.head.total)
        if n == 0:
            if self.crypt is not None and self.crypt.ragged and not self.winding_up:
                raise IncompleteFrame(0, None)
            raise ConnectionClosed()
        if self.look() == PART:
            expected = self.head.total
        raise_incomplete(self.format, self.buf + self.start, n, n, expected)

    # ------------------------------------------------------------ frames

    cdef State look(self) noexcept:
        """Find out about the next frame, from what is in the buffer."""
        cdef Layout *lay = &self.format.layout
        cdef Py_ssize_t n = self.end - self.start
        cdef const unsigned char *p = <const unsigned char *>self.buf + self.start
        if n == 0:
            return UNKNOWN
        self.outcome = read_header(lay, p, n, &self.head, &self.scanned)
        if self.outcome == KNOWN:
            if self.head.total > n:
                return PART
            self.outcome = check_trailer(lay, <const char *>p + self.head.total)
            if self.outcome == KNOWN:
                return WHOLE
        return REFUSED if self.outcome < 0 else UNKNOWN

    cdef int refuse(self) except -1:
        """Raise for a frame that look() has REFUSED; it stays, and so does the error."""
        cdef Py_ssize_t size = self.format.layout.trailer_size
        cdef const unsigned char *p = <const unsigned char *>self.buf + self.start
        self.lost = True
        self.drop_rights()
        if self.outcome == BAD_TRAILER:
            refuse_header(self.format, BAD_TRAILER, p + self.head.total - size, size, 0)
        refuse_header(self.format, self.outcome, p, self.end - self.start, self.head.length)
        return 0

    cdef Py_ssize_t message_size(self) noexcept:
        return self.head.total - self.head.skip - self.head.drop

    cdef int cut_to(self, list messages) except -1:
        """As cut(), to the end of a list; where that finds no memory nothing is taken."""
        messages.append(PyBytes_FromStringAndSize(
            self.buf + self.start + self.head.skip, self.message_size()))
        self.consume(self.head.total)
        self.handed_over()
        return 0

    cdef bytes cut(self):
        """Take the next message out of the buffer, where look() has found it WHOLE."""
        cdef bytes message = PyBytes_FromStringAndSize(
            self.buf + self.start + self.head.skip, self.message_size())
        self.consume(self.head.total)
        self.handed_over()
        return message

    cdef PyObject *pick(self) noexcept:
        """The next message if that is plain and all there, else NULL: next() will look.

        For many small messages this, a copy, is all that each costs.
        """
        cdef const Layout *lay = &self.format.layout
        cdef const unsigned char *p = <const unsigned char *>self.buf + self.start
        cdef Py_ssize_t room = self.end - self.start - lay.header
        cdef uint64_t length
        cdef PyObject *message
        if room < 0 or not self.plain or self.into != NULL or self.file is not None:
            return NULL
        length = read_length(p, lay.width, lay.little)
        if length < lay.minimum:
            return NULL
        length -= lay.surplus
        if length > <uint64_t>room or length > lay.limit:
            return NULL
        message = again_one(&self.kept, <const char *>p + lay.header, <Py_ssize_t>length)
        if message == NULL:
            PyErr_Clear()
            return NULL
        self.consume(lay.header + <Py_ssize_t>length)
        self.delivered()
        return message

    cdef void rest(self) noexcept:
        if self.start == self.end:
            again_forget_given(&self.kept)
            self.drop_buffer()

    cdef bytes kept_bytes(self, const char *p, Py_ssize_t n):
        """A copy, whose memory is used again when nobody holds it any more."""
        return again_object(&self.kept, p, n)

    cdef void before_sleep(self) noexcept:
        again_forget(&self.kept)

    cdef PyObject *at_hand(self) noexcept:
        """The next message if it has been read ahead, without taking a turn, or NULL."""
        cdef PyObject *message
        if self.born != forks or (not GLANCE_TAKES and self.start == self.end):
            return NULL
        if not owner_glance(&self.receiving.owner):
            return NULL
        if not GLANCE_TAKES:
            return self.pick()
        message = NULL if self.closed or self.start == self.end else self.pick()
        self.leave(&self.receiving)
        return message

    cdef int pick_all(self, list messages, Py_ssize_t most) except -1:
        """Append the plain messages that are all there, at most *most*."""
        cdef const Layout *lay = &self.format.layout
        cdef const unsigned char *p = <const unsigned char *>self.buf + self.start
        cdef Py_ssize_t room = self.end - self.start
        cdef Py_ssize_t before = room
        cdef Py_ssize_t count = 0
        cdef uint64_t length
        cdef bint keeps
        if not self.plain or self.into != NULL:
            return 0
        keeps = before >= MANY_SMALL
        if keeps:
            again_begin(&self.kept)
        try:
            while count < most and room >= lay.header:
                length = read_length(p, lay.width, lay.little)
                if length < lay.minimum:
                    break
                length -= lay.surplus
                if length > <uint64_t>(room - lay.header) or length > lay.limit:
                    break
                if keeps:
                    message = again_next(
                        &self.kept, count, <const char *>p + lay.header, <Py_ssize_t>length)
                else:
                    message = PyBytes_FromStringAndSize(
                        <const char *>p + lay.header, <Py_ssize_t>length)
                messages.append(message)
                p += lay.header + length
                room -= lay.header + <Py_ssize_t>length
                count += 1
        finally:
            if count:
                self.consume(before - room)
                self.messages_in += count
                self.owed -= min(count, self.owed)
        return 0

    cdef void delivered(self) noexcept:
        self.messages_in += 1
        if self.owed:
            self.owed -= 1

    cdef int handed_over(self) except -1:
        """As delivered(), for a message that something may have come with."""
        self.delivered()
        return 0

    cdef void drop_rights(self) noexcept:
        """Close the descriptors that came with messages nobody will have."""

    cdef bint more_has_come(self, long long before) except -1:
        """Receive what one receive leaves, where it does; return whether a message did."""
        return False

    # ------------------------------------------------------------ large frames

    cdef bint is_large(self) noexcept:
        """Whether the frame of which look() found a PART is better not read ahead."""
        return (
            self.head.total - (self.end - self.start) > DIRECT
            or self.head.total > READ_AHEAD
        )

    cdef int begin(self, char *into, Py_ssize_t room) except -1:
        """Move a frame of which look() has found a PART out of the buffer.

        It goes to *into*, or where that is NULL to a new object.
        """
        self.keep_header()
        if into == NULL:
            room = self.first_room()
            into = self.new_partial(room)
        self.begin_at(into, room)
        return 0

    cdef int keep_header(self) except -1:
        self.dropped = self.buf[self.start:self.start + self.head.skip]
        return 0

    cdef Py_ssize_t first_room(self) except -1:
        """Memory follows the bytes that came, not the length that was announced."""
        cdef Py_ssize_t size = self.message_size()
        cdef Py_ssize_t have = min(size, self.end - self.start - self.head.skip)
        cdef Py_ssize_t room = min(size, max(FIRST_ROOM, GROWTH * have))
        if (
            self.memory is not None and size > FREE_SIZE
            and not self.charge(&self.charged, room)
        ):
            room = max(have, 1)
        return room

    cdef void begin_at(self, char *into, Py_ssize_t room) noexcept:
        cdef Py_ssize_t have = min(
            self.message_size(), self.end - self.start - self.head.skip)
        self.format_then = self.format
        self.into = into
        self.into_room = room
        self.got = have
        memcpy(into, self.buf + self.start + self.head.skip, have)
        self.consume(self.head.skip + have)

    cdef char *new_partial(self, Py_ssize_t room) except NULL:
        cdef bytes partial = PyBytes_FromStringAndSize(NULL, room)
        Py_INCREF(partial)
        self.partial = <PyObject *>partial
        return PyBytes_AS_STRING(partial)

    cdef void drop_partial(self) noexcept:
        self.into = NULL
        Py_XDECREF(self.partial)
        self.partial = NULL
        self.slab = None
        self.uncharge(self.charged, 0)

    cdef Py_ssize_t next_room(self) noexcept:
        return min(self.message_size(), max(FIRST_ROOM, GROWTH * self.into_room))

    cdef bint may_grow(self) except -1:
        """Whether there is room for the next bytes, or may be."""
        if self.memory is None:
            return True
        if self.into == NULL:
            if self.buf == NULL or self.start > 0 or self.end < self.room:
                return True
            if self.room == READ_AHEAD:
                return True  # one of 64 KiB, which never waits, may need a little more
            return self.charge(&self.buffer_charged, 2 * self.room)
        if self.got < self.into_room or self.into_room == self.message_size():
            return True
        return self.message_size() <= FREE_SIZE or self.charge(&self.charged, self.next_room())

    cdef int wait_for_memory(self, Deadline *until) except -1:
        cdef double left
        while not self.may_grow():
            left = self.remaining(until)
            if left == 0:
                raise BlockingIOError(errno.EAGAIN, "the server is short of memory")
            self.check_end(SOCK_READ)
            with nogil:
                sock_poll(SOCK_BAD, SOCK_BAD, 0, SOCK_BAD, MEMORY_TICK)
            PyErr_CheckSignals()
        return 0

    cdef int grow(self) except -1:
        """Make room for more of the message, where it stands if the system can."""
        cdef Py_ssize_t room = self.next_room()
        cdef Py_ssize_t held = room
        if MEMORY_IS_LAZY and self.message_size() > HUGE and room >= HUGE_FROM:
            # To move large pages would break them up: no further than here it is moved.
            held = self.message_size()
        if self.slab is not None:
            self.slab.reserve(held)
            self.into = self.slab.p
        elif PyBytes_GET_SIZE(<object>self.partial) < held:
            try:
                _PyBytes_Resize(&self.partial, held)
            except MemoryError:
                # What had come went with the object: the stream has lost its step.
                self.into = NULL
                self.receive_error = -errno.ENOMEM
                raise
            self.into = PyBytes_AS_STRING(<object>self.partial)
        if held > HUGE:
            memory_in_large_pages(self.into, held)
        self.into_room = room
        return 0

    cdef bint is_own(self) noexcept:
        """Whether the large message is in memory of the stream's own."""
        return self.partial != NULL or self.slab is not None

    cdef int rescue(self) except -1:
        """Copy what came into the caller's buffer before it is let go."""
        cdef char *from_ = self.into
        cdef Py_ssize_t room = min(self.message_size(), max(FIRST_ROOM, self.got))
        self.into = NULL
        try:
            self.into = self.new_partial(room)
        except MemoryError:
            self.receive_error = -errno.ENOMEM
            raise
        memcpy(self.into, from_, self.got)
        self.into_room = room
        return 0

    cdef bint is_finished(self) noexcept:
        """Whether the large message is there, with the trailer that was dropped."""
        return (
            self.got == self.message_size() and self.end - self.start >= self.head.drop
        )

    cdef int check_finished(self) except -1:
        cdef Py_ssize_t size = self.format_then.layout.trailer_size
        cdef const char *end = self.into + self.got
        if self.head.drop:
            end = self.buf + self.start + self.head.drop
        if check_trailer(&self.format_then.layout, end) < 0:
            refuse_header(
                self.format_then, BAD_TRAILER, <const unsigned char *>end - size, size, 0)
        if self.head.drop:
            self.consume(self.head.drop)
        self.into = NULL
        self.handed_over()
        return 0

    cdef bytes finish(self):
        """Hand over the large message."""
        cdef bytes message
        if self.slab is not None:
            message = self.into[:self.got]  # recv_view() had begun it, and was stopped
            self.check_finished()
        else:
            self.check_finished()
            message = <bytes>self.partial
        self.drop_partial()
        return message

    # ------------------------------------------------------------ messages

    cdef int refuse_in_file(self) except -1:
        if self.file is not None:
            raise FramingError(
                "recvfile() stopped inside a frame: call it again with the same file")
        return 0

    cdef bytes next(self, Deadline *until):
        """The next message, waiting for it if need be."""
        cdef State state
        self.refuse_in_file()
        while True:
            if self.into != NULL:
                if self.is_finished():
                    return self.finish()
            else:
                state = self.look()
                if state == WHOLE:
                    return self.cut()
                if state == REFUSED:
                    self.refuse()
                if state == PART and self.is_large():
                    self.begin(NULL, 0)
            self.fill(until)

    cdef object next_into(self, char *p, Py_ssize_t n, Deadline *until):
        """Receive the next message to *p*; BufferError if *n* bytes are too few."""
        cdef State state = UNKNOWN
        cdef Py_ssize_t size
        cdef object count  # made before the message is gone: there may be no memory for it
        self.refuse_in_file()
        while True:
            if self.into == NULL:
                state = self.look()
                if state == REFUSED:
                    self.refuse()
            if self.into != NULL or state != UNKNOWN:
                size = self.message_size()
                if size > n:
                    raise BufferError(f"the message takes {size} bytes, the buffer has {n}")
                count = size
                if self.into == NULL and state == WHOLE:
                    memcpy(p, self.buf + self.start + self.head.skip, size)
                    self.consume(self.head.total)
                    self.handed_over()
                    return count
                if self.into == NULL and self.is_large():
                    self.begin(p, size)
                if self.into != NULL and self.is_finished():
                    if self.is_own():
                        memcpy(p, self.into, size)
                    self.check_finished()
                    self.drop_partial()
                    return count
            self.fill(until)

    cdef int advance(self) except -1:
        """Receive without waiting; return whether a message, or an end, can be had."""
        cdef sock_iov iov[2]
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef State state
        cdef Py_ssize_t got
        while self.file is None:
            if self.into != NULL:
                if self.is_finished():
                    return True
            else:
                state = self.look()
                if state == WHOLE or state == REFUSED:
                    return True
                if state == PART and self.is_large():
                    self.begin(NULL, 0)
            if self.ended or self.receive_error or self.kind == FOREIGN:
                return True
            if self.winding_up and self.at_rest():
                return True
            if not self.may_grow():
                return False
            got = self.try_receive(iov, self.aim(iov), &until)
            if got > 0:
                self.spread(got)
            elif got == 0:
                self.ended = True
            elif sock_intr(got):
                PyErr_CheckSignals()
            elif sock_again(got):
                if self.waits_for(SOCK_READ) == 0:
                    PyErr_CheckSignals()
                    continue
                self.rest()
                return False
            else:
                self.receive_error = <long>got
        return True

    cdef bytes take_leftover(self):
        """All bytes received and not used, as they came."""
        cdef bytes rest = b""
        if self.into != NULL:
            rest = self.dropped + self.into[:self.got]
            self.drop_partial()
        if self.end > self.start:
            rest += self.buf[self.start:self.end]
        self.drop_buffer()
        return rest
