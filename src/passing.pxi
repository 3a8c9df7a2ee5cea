# What Unix sockets can do besides: descriptors that come and go with a message (SCM_RIGHTS),
# and records that arrive as they were sent (SOCK_SEQPACKET).

from libc.limits cimport INT_MAX


cdef extern from "rights.h" nogil:
    const int RIGHTS_MOST
    const bint SOCK_HAS_RECORDS
    const bint RIGHTS_COME_LAST
    bint RIGHT_ERRORS(Py_ssize_t error)
    bint sock_is_unix(sock_t fd)
    bint sock_keeps_records(sock_t fd)
    Py_ssize_t sock_record_size(sock_t fd)
    void sock_record_drop(sock_t fd)
    int sock_send_room(sock_t fd)
    Py_ssize_t sock_recv_rights(
        sock_t fd, sock_iov *iov, int n, int most, int *fds, int *count, int *cut)
    Py_ssize_t sock_send_rights(
        sock_t fd, sock_iov *iov, int n, const int *fds, int count)
    void rights_close(const int *fds, int count)


@cython.final
cdef class _Bundle:
    """Descriptors that came with one message; closed where nobody takes them."""

    cdef int fds[253]         # RIGHTS_MOST
    cdef int count
    cdef int came             # with those that have been closed since
    cdef int cut              # the system could not hand over all
    cdef long long where      # the byte of the stream whose message they belong to

    def __dealloc__(self):
        self.shut()

    cdef void shut(self) noexcept:
        cdef int count = self.count
        self.count = 0
        if count:
            with nogil:  # the last close of a file may take its time
                rights_close(self.fds, count)

    cdef void merge(self, _Bundle later, int most) noexcept:
        """Add those that came with more bytes of the same message, *most* in all."""
        self.came += later.came
        self.cut |= later.cut
        if self.came > most or self.cut:
            self.shut()
            return
        memcpy(&self.fds[self.count], later.fds, later.count * sizeof(int))
        self.count += later.count
        later.count = 0

    cdef list listed(self):
        return [self.fds[i] for i in range(self.count)]


cdef int take_descriptors(list given, int *numbers) except -1:
    """Write the descriptors of what was given to *numbers*; return how many."""
    cdef int count = 0
    if len(given) > RIGHTS_MOST:
        raise ValueError(
            f"fds holds {len(given)} descriptors, and {RIGHTS_MOST} at most go with a message")
    for each in given:
        if not isinstance(each, int):
            if not hasattr(each, "fileno"):
                raise TypeError(
                    f"fds holds a {type(each).__name__}, expected descriptors or objects "
                    "with fileno()")
            each = operator_index(each.fileno())
        if not 0 <= each <= INT_MAX:
            raise ValueError(f"fds holds {each}, which is no open descriptor")
        numbers[count] = each
        count += 1
    return count


cdef class _Passing(_Files):
    """Descriptors with messages, and records.

    A receive stops behind the bytes that descriptors came with, and there is none while a
    whole message is in the buffer.  So those of earlier receives belong to the message
    under way, and those of the last one to the message that holds its last byte.
    """

    cdef int fds_limit        # that one message may bring; 0: the system drops all
    cdef _Bundle held         # of the message under way
    cdef _Bundle fresh        # that came with the last receive
    cdef bint collecting      # they are wanted
    cdef _Bundle collected

    # ------------------------------------------------------------ receiving

    cdef Py_ssize_t receive_specially(self, sock_iov *iov, int n) except? -1:
        cdef sock_iov own[2]
        cdef _Bundle came
        cdef Py_ssize_t got, size
        if self.kind == SEQPACKET:
            size = sock_record_size(self.reader)
            if size <= 0:
                if size == 0:
                    sock_record_drop(self.reader)  # with its descriptors, if it is one
                return size
            if self.format.layout.kind == RAW and <uint64_t>size > self.format.layout.limit:
                return -errno.EMSGSIZE
            iov = own
            n = self.aim_record(iov, size)
        if self.fresh is not None:
            self.gather_rights()
        came = _Bundle.__new__(_Bundle)
        if iov_len(&iov[0]) < LONG_CALL:
            got = sock_recv_rights(
                self.reader, iov, n, self.fds_limit, came.fds, &came.count, &came.cut)
        else:
            with nogil:
                got = sock_recv_rights(
                    self.reader, iov, n, self.fds_limit, came.fds, &came.count, &came.cut)
        if got > 0 and (came.count or came.cut):
            came.came = came.count
            came.where = self.bytes_in + (got - 1 if RIGHTS_COME_LAST else 0)
            if came.came > self.fds_limit or came.cut:
                came.shut()
            self.fresh = came
        return got

    cdef int aim_record(self, sock_iov *iov, Py_ssize_t size) except -1:
        """Set pieces to where *size* bytes of a record go, whatever frame they are of."""
        cdef Py_ssize_t left = 0
        cdef int n = 0
        if self.into != NULL:
            while self.into_room - self.got < size and self.into_room < self.message_size():
                self.grow()
            left = self.into_room - self.got
            if left:
                iov_set(&iov[0], self.into + self.got, left)
                n = 1
        if left < size:
            self.hold_buffer()
            self.make_room_for(size - left)
            iov_set(&iov[n], self.buf + self.end, self.room - self.end)
            n += 1
        return n

    cdef void gather_rights(self) noexcept:
        if self.held is None:
            self.held = self.fresh
        else:
            self.held.merge(self.fresh, self.fds_limit)
        self.fresh = None

    cdef int handed_over(self) except -1:
        """Take or close what came with the message that has just been taken."""
        cdef long long taken = self.bytes_in - (self.end - self.start)
        self.delivered()
        if self.fresh is not None and self.fresh.where < taken:
            self.gather_rights()
        if self.held is not None:
            if self.collecting:
                self.collected = self.held
            self.held = None
        return 0

    cdef void drop_rights(self) noexcept:
        self.held = self.fresh = None

    cdef bint more_has_come(self, long long before) except -1:
        if self.kind != PASSING and self.kind != SEQPACKET:
            return False
        # A receive takes less than there is; but who sends without end is not followed to it.
        if self.bytes_in - before >= READ_AHEAD:
            return False
        # A large frame that has begun is the next message, not what lies behind it.
        return self.advance() and self.into == NULL and self.look() == WHOLE

    cdef int fail_receive(self, Py_ssize_t error) except -1:
        cdef Py_ssize_t size
        if self.kind == SEQPACKET and error == -errno.EMSGSIZE:
            # The one record is refused; those behind it are not touched by that.
            self.receive_error = 0
            size = sock_record_size(self.reader)
            sock_record_drop(self.reader)
            raise FrameTooLarge(size, self.format.layout.limit, self.format.remedy())
        self.drop_rights()
        return _Files.fail_receive(self, error)

    cdef bint may_grow(self) except -1:
        if self.kind != SEQPACKET or self.memory is None:
            return _Files.may_grow(self)
        # A record is taken whole, whatever its size: there must be room beforehand.
        if self.into == NULL:
            return (
                self.end - self.start <= READ_AHEAD
                or self.charge(&self.buffer_charged, 2 * self.room)
            )
        return (
            self.into_room == self.message_size() or self.message_size() <= FREE_SIZE
            or self.charge(&self.charged, self.next_room())
        )

    cdef int check_passing(self, sock_t fd) except -1:
        if self.kind > SEQPACKET or not sock_is_unix(fd):
            raise io.UnsupportedOperation(
                "descriptors go only through a Unix socket, without TLS, "
                f"not through {self.sock!r}")
        return 0

    cdef int use_kind(self) except -1:
        """See what kind of socket it is: after attach(), and when `max_fds` has changed."""
        if self.kind <= SEQPACKET:
            self.kind = PASSING if self.fds_limit else SOCKET
            if sock_keeps_records(self.reader) or (
                self.writer != self.reader and sock_keeps_records(self.writer)
            ):
                if not SOCK_HAS_RECORDS:
                    raise io.UnsupportedOperation(
                        "SOCK_SEQPACKET: this system does not tell how long a record is")
                self.kind = SEQPACKET
        self.use_format(self.format)
        return 0

    @property
    def max_fds(self):
        """The most descriptors that one message may bring; 0: the system drops all."""
        return self.fds_limit

    @max_fds.setter
    def max_fds(self, value):
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef int most = in_range("max_fds", value, 0, RIGHTS_MOST)
        self.enter(&self.receiving, &until)
        try:
            if most:
                self.check_passing(self.reader)
            else:
                self.drop_rights()
            self.fds_limit = most
            self.use_kind()
        finally:
            self.leave(&self.receiving)

    cdef tuple next_with_rights(self, Deadline *until):
        """The next message, and a list of the descriptors that came with it."""
        cdef bytes message
        cdef _Bundle came
        self.check_passing(self.reader)
        if not self.fds_limit:
            raise RuntimeError(
                "max_fds is 0, so that the system drops descriptors: set it, before they "
                "come, to the most that one message may bring")
        self.collecting = True
        try:
            message = self.next(until)
        finally:
            self.collecting = False
            came, self.collected = self.collected, None
        if came is None:
            return message, []
        if came.came <= self.fds_limit and not came.cut:
            answer = message, came.listed()
            came.count = 0  # from here on the caller's to close
            return answer
        if came.came > self.fds_limit:
            error = FramingError(
                f"{came.came} descriptors{' or more' if came.cut else ''} came with a "
                f"message, and max_fds is {self.fds_limit}: all were closed; raise max_fds, "
                "or have fewer sent")
        else:
            error = OSError(
                errno.EMFILE,
                "not all descriptors that came with a message could be taken, and the others "
                "were closed: see the limit of open files, or what else keeps them out")
        error.message = message
        raise error

    # ------------------------------------------------------------ sending

    cdef int transmit_with_rights(
        self, Outgoing *out, int *fds, int count, bint *accepted, Deadline *until
    ) except -1:
        """Send one frame, and the descriptors with its first byte; the tail is empty."""
        cdef sock_iov iov[4]
        cdef int n = frame_iov(out, iov + 1)
        cdef int done = 1
        cdef Py_ssize_t sent
        while True:
            self.calls_out += 1
            if out.total < LONG_CALL:
                sent = sock_send_rights(self.writer, iov + 1, n, fds, count)
            else:
                with nogil:
                    sent = sock_send_rights(self.writer, iov + 1, n, fds, count)
            if sent > 0:
                break
            if sock_again(sent):
                self.waits_out += 1
                self.wait(SOCK_WRITE, until)
            elif sock_intr(sent):
                PyErr_CheckSignals()
            elif sent == -errno.EBADF:
                raise OSError(errno.EBADF, "fds holds a descriptor that is not open")
            elif RIGHT_ERRORS(sent):
                sock_raise(sent)
            else:
                self.fail_record(sent, out.total)
        accepted[0] = True
        self.bytes_out += sent
        self.messages_out += 1
        while done <= n and sent >= iov_len(&iov[done]):
            sent -= iov_len(&iov[done])
            done += 1
        if done > n:
            return 0
        iov_set(&iov[done], iov_base(&iov[done]) + sent, iov_len(&iov[done]) - sent)
        return self.transmit(iov + done - 1, n - done + 2, until)
