# The sending half of a stream: gather, batch, wait; and a tail for what has not left.


cdef enum:
    SMALL = 4096              # a frame that is copied rather than gathered
    GATHERED = 32 * 1024      # the longest that is copied into a batch


cdef enum:
    NOT_SENT
    IN_PART                   # the rest is in the tail
    AT_ONCE


cdef class _Sender(_Receiver):
    """Whole messages into a stream; what is accepted leaves before anything later."""

    # Bytes of accepted frames that have not left yet; they go before anything else.
    cdef char *tail
    cdef Format sent_by       # the last format, if threads run at the same time
    cdef long sent_formats    # as `formats` was then
    cdef Py_ssize_t tail_room
    cdef Py_ssize_t tail_start
    cdef Py_ssize_t tail_end
    cdef object out_file      # what sendfile() is sending, in mid-frame
    cdef Format out_format    # of that frame
    cdef Py_ssize_t out_offset
    cdef Py_ssize_t out_left
    cdef Py_ssize_t out_size
    cdef bint out_whole       # the end of its frame has left, or is in the tail
    cdef long long messages_out
    cdef bint duplex          # both turns are this call's: it may receive while it sends

    def __dealloc__(self):
        self.drop_tail()
        free_turn(&self.sending)

    # ------------------------------------------------------------ the tail

    cdef void drop_tail(self) noexcept:
        if self.tail != NULL:
            if self.tail_room == READ_AHEAD:
                spare_give(self.tail)
            else:
                PyMem_RawFree(self.tail)
            self.tail = NULL
        self.tail_room = self.tail_start = self.tail_end = 0

    cdef char *extend_tail(self, Py_ssize_t n) except NULL:
        """Make room for *n* bytes at the end of the tail; return where they go."""
        cdef Py_ssize_t size = self.tail_end - self.tail_start
        cdef Py_ssize_t room = READ_AHEAD
        cdef char *larger
        if self.tail == NULL or self.tail_end + n > self.tail_room:
            while room < size + n:
                room *= 2
            if room == READ_AHEAD:
                larger = spare_take() if self.tail_room != room else self.tail
            else:
                larger = <char *>PyMem_RawMalloc(room)
            if larger == NULL:
                raise MemoryError
            if size:
                memmove(larger, self.tail + self.tail_start, size)
            if larger != self.tail:
                self.drop_tail()
            self.tail = larger
            self.tail_room = room
            self.tail_start = 0
            self.tail_end = size
        self.tail_end += n
        return self.tail + self.tail_end - n

    cdef int keep_unsent(self, sock_iov *iov, int n) except -1:
        """Append what has not left to the tail: its message is accepted."""
        cdef int i
        try:
            for i in range(n):
                if iov_len(&iov[i]):
                    memcpy(
                        self.extend_tail(iov_len(&iov[i])), iov_base(&iov[i]),
                        iov_len(&iov[i]))
        except MemoryError:
            # A frame has begun to leave and its rest is lost: nothing can follow it.
            self.send_error = -errno.ENOMEM
            raise
        return 0

    cdef Py_ssize_t push(self, sock_iov *iov, int n, int *done, Deadline *until) except -1:
        """Send pieces *done* to *n*, waiting as needed; *done* counts those that are gone."""
        cdef Py_ssize_t sent
        while done[0] < n:
            sent = self.try_send(&iov[done[0]], n - done[0], until)
            if sent >= 0:
                while done[0] < n and sent >= iov_len(&iov[done[0]]):
                    sent -= iov_len(&iov[done[0]])
                    done[0] += 1
                if sent:
                    iov_set(
                        &iov[done[0]], iov_base(&iov[done[0]]) + sent,
                        iov_len(&iov[done[0]]) - sent)
            elif sock_again(sent):
                self.waits_out += 1
                self.wait_to_send(until)
            elif sock_intr(sent):
                PyErr_CheckSignals()
            else:
                self.fail_send(sent)
        return 0

    cdef int wait_to_send(self, Deadline *until) except -1:
        """Sleep until there is room; inside a request take in the reply meanwhile.

        A peer that answers while it still reads waits, in its turn, for us to read.
        """
        cdef int ready = SOCK_READ
        if self.duplex:
            while not self.advance():
                ready = self.wait(SOCK_READ | SOCK_WRITE, until)
                if ready & SOCK_WRITE:
                    return 0
        self.wait(SOCK_WRITE, until)
        return 0

    cdef int check_sent(self, Py_ssize_t sent) except -1:
        """Raise if a send has failed; the system tells why only once."""
        if sent < 0 and not sock_again(sent) and not sock_intr(sent):
            self.drop_tail()
            self.fail_send(sent)
        return 0

    cdef int transmit(self, sock_iov *iov, int n, Deadline *until) except -1:
        """Send the tail and then all pieces; whatever does not leave becomes the tail.

        The first piece is left free by the caller, for the tail.
        """
        cdef int done = 1
        if self.tail_end > self.tail_start:
            done = 0
            iov_set(&iov[0], self.tail + self.tail_start, self.tail_end - self.tail_start)
        try:
            self.push(iov, n, &done, until)
        except BaseException:
            if done == 0:
                self.tail_start = self.tail_end - iov_len(&iov[0])
                done = 1
            else:
                self.tail_start = self.tail_end = 0
            if self.send_error:
                self.drop_tail()
            else:
                self.keep_unsent(&iov[done], n - done)
            raise
        self.drop_tail()
        return 0

    cdef int transmit_message(self, Outgoing *out, Deadline *until) except -1:
        """Send the tail and one frame."""
        cdef sock_iov few[8]
        cdef sock_iov *iov = few
        cdef char small[SMALL]
        cdef Py_ssize_t sent
        if self.kind == SEQPACKET:
            self.send_record(out, until)
            return self.flush_tail(until)
        self.messages_out += 1
        if out.total <= SMALL:
            copy_frame(out, small)
            iov_set(&iov[1], small, out.total)
            if self.tail_end == self.tail_start and (self.kind == SOCKET or self.kind == PIPE):
                # Nearly always it goes at once, and there is nothing to clean up.
                sent = self.try_send(&iov[1], 1, until)
                if sent == out.total:
                    return 0
                if sent > 0:
                    iov_set(&iov[1], small + sent, out.total - sent)
                self.check_sent(sent)
            return self.transmit(iov, 2, until)
        if out.count > 5:
            iov = <sock_iov *>PyMem_Malloc((out.count + 3) * sizeof(sock_iov))
            if iov == NULL:
                raise MemoryError
        try:
            return self.transmit(iov, 1 + frame_iov(out, iov + 1), until)
        finally:
            if iov != few:
                PyMem_Free(iov)

    cdef int send_record(self, Outgoing *out, Deadline *until) except -1:
        """Send one frame as one record, without waiting; what does not leave is the tail.

        So there is never more than one in it.
        """
        cdef sock_iov iov[1]
        cdef Py_ssize_t sent
        self.append_frame(out)
        iov_set(&iov[0], self.tail + self.tail_start, self.tail_end - self.tail_start)
        sent = self.try_send(iov, 1, until)
        if sent >= 0:
            self.drop_tail()
        elif not sock_again(sent) and not sock_intr(sent):
            self.drop_tail()
            self.messages_out -= 1
            self.fail_record(sent, out.total)
        return 0

    cdef int fail_record(self, Py_ssize_t error, Py_ssize_t size) except -1:
        """As fail_send(), but that a record is too large is no failure of the connection."""
        if self.kind == SEQPACKET and error == -errno.EMSGSIZE:
            if self.duplex:
                self.owed -= 1  # there is no request to be answered
            raise OSError(
                errno.EMSGSIZE,
                f"the frame takes {size} bytes, and over this socket it must be one record, "
                f"for which SO_SNDBUF ({sock_send_room(self.writer)}) is too small: raise "
                "that, or send the message in parts")
        self.fail_send(error)
        return 0

    cdef int flush_tail(self, Deadline *until) except -1:
        cdef sock_iov iov[1]
        cdef Py_ssize_t sent
        if self.tail_end == self.tail_start:
            return 0
        if self.is_socket():
            # Nearly always it goes at once, and there is nothing to clean up.
            iov_set(&iov[0], self.tail + self.tail_start, self.tail_end - self.tail_start)
            sent = self.try_send(iov, 1, until)
            if sent > 0:
                self.tail_start += sent
            self.check_sent(sent)
        if self.tail_end == self.tail_start:
            self.drop_tail()
            return 0
        return self.transmit(iov, 1, until)

    cdef bint try_flush(self) except -1:
        """Send as much of the tail as leaves without waiting; return whether all did."""
        cdef sock_iov iov[1]
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef Py_ssize_t sent
        while self.tail_end > self.tail_start:
            iov_set(&iov[0], self.tail + self.tail_start, self.tail_end - self.tail_start)
            sent = self.try_send(iov, 1, &until)
            if sent >= 0:
                self.tail_start += sent
            elif sock_again(sent):
                return False
            elif sock_intr(sent):
                PyErr_CheckSignals()
            else:
                self.drop_tail()
                self.fail_send(sent)
        self.drop_tail()
        return True

    cdef int begin_send(self, Deadline *until) except -1:
        """Send what was accepted earlier, before anything else is."""
        self.check_can_send()
        self.flush_tail(until)
        return 0

    cdef bint in_file(self) noexcept:
        """Whether the end of a file's frame is still to come."""
        return self.out_file is not None and not self.out_whole

    cdef int check_can_send(self) except -1:
        if self.send_error:
            self.fail_send(self.send_error)
        if self.out_file is not None:
            raise FramingError(
                "sendfile() stopped inside a frame: call it again with the same file")
        return 0

    cdef int hear_why(self) except -1:
        cdef size_t me = PyThread_get_thread_ident()
        cdef bint mine = self.receiving.owner == me
        if mine or owner_take(&self.receiving.owner, me):
            try:
                self.advance()
            finally:
                if not mine:
                    self.leave(&self.receiving)
        return 0

    # ------------------------------------------------------------ batches

    cdef int gather(self, message, Py_ssize_t *count, bint *inside, Deadline *until) except -1:
        """Add a frame to the batch, which is the tail; send when it is full."""
        cdef Outgoing out
        cdef Format framing = self.its_format()
        open_message(framing, &out, message, ())
        try:
            inside[0] = True
            if out.total > GATHERED or self.kind == SEQPACKET:
                count[0] += 1
                self.transmit_message(&out, until)
            else:
                if self.tail_end + out.total > READ_AHEAD:
                    self.flush_tail(until)
                self.append_frame(&out)
                count[0] += 1
            inside[0] = False
        finally:
            close_message(&out)
        return 0

    @cython.final
    cdef inline const Layout *layout(self) noexcept:
        """The format's, which stays for as long as the caller has the turn to send."""
        if not GLANCE_TAKES:
            return &self.format.layout
        if self.sent_by is None or self.sent_formats != self.formats:
            self.sent_formats = self.formats
            self.sent_by = self.its_format()
        return &self.sent_by.layout

    cdef bint append_plain(self, message) noexcept:
        """Append a frame to the batch, if it is a plain one and fits."""
        cdef const Layout *lay = self.layout()
        cdef Py_ssize_t n
        cdef unsigned char *p
        if not lay.plain or self.kind == SEQPACKET or not PyBytes_CheckExact(message):
            return False
        n = PyBytes_GET_SIZE(message)
        if self.tail == NULL:
            self.tail = spare_take()
            self.tail_room = 0 if self.tail == NULL else READ_AHEAD
        if n + lay.header > READ_AHEAD - self.tail_end or self.tail_room != READ_AHEAD:
            return False
        if <uint64_t>n > lay.limit or n + lay.surplus < lay.minimum:
            return False
        p = <unsigned char *>self.tail + self.tail_end
        write_length(p, lay.width, lay.little, n + lay.surplus)
        memcpy(p + lay.header, PyBytes_AS_STRING(message), n)
        self.tail_end += lay.header + n
        self.messages_out += 1
        return True

    cdef bint append_at_once(self, message) noexcept:
        """Append a plain frame to the tail without taking a turn, if that can be."""
        cdef bint appended
        if self.send_error or not owner_glance(&self.sending.owner):
            return False
        appended = not self.closed and self.append_plain(message)
        if GLANCE_TAKES:
            self.leave(&self.sending)
        return appended

    cdef int send_at_once(self, message) except -1:
        """Send a small plain message in one step, if it is one; return how far it came."""
        cdef const Layout *lay
        cdef unsigned char frame[SMALL]
        cdef sock_iov iov[1]
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef Py_ssize_t n, sent = 0
        if not PyBytes_CheckExact(message) or self.kind > PASSING:
            return NOT_SENT
        if not GLANCE_TAKES and not self.format.layout.plain:
            return NOT_SENT
        n = PyBytes_GET_SIZE(message)
        if n > SMALL or self.lost or self.born != forks:
            return NOT_SENT
        if not owner_take(&self.sending.owner, PyThread_get_thread_ident()):
            return NOT_SENT
        lay = self.layout()
        if (
            lay.plain and n <= SMALL - lay.header and <uint64_t>n <= lay.limit
            and n + lay.surplus >= lay.minimum and not self.closed
            and self.tail_end == self.tail_start and self.out_file is None
        ):
            write_length(frame, lay.width, lay.little, n + lay.surplus)
            memcpy(frame + lay.header, PyBytes_AS_STRING(message), n)
            n += lay.header
            iov_set(&iov[0], <char *>frame, n)
            sent = self.try_send(iov, 1, &until)
        if sent <= 0:  # the long way waits, or raises
            if sent < 0 and not sock_again(sent) and not sock_intr(sent):
                self.send_error = <long>sent
            self.leave(&self.sending)
            return NOT_SENT
        self.messages_out += 1
        if sent < n:
            iov_set(&iov[0], <char *>frame + sent, n - sent)
            try:
                self.keep_unsent(iov, 1)
            finally:
                self.leave(&self.sending)
            return IN_PART
        self.leave(&self.sending)
        return AT_ONCE

    cdef int append_frame(self, Outgoing *out) except -1:
        copy_frame(out, self.extend_tail(out.total))
        self.messages_out += 1
        return 0

    cdef int settle_debts(self, Deadline *until) except -1:
        """Finish what earlier requests left: send their rest, drop their replies."""
        self.check_can_send()
        try:
            self.exchange([], until)
            while self.owed:
                self.next(until)
        except TimeoutError:
            raise TimeoutError(
                f"timed out: earlier requests have {self.owed} replies to come, "
                "and until then nothing is asked"
            ) from None
        return 0

    cdef int queue(self, message) except -1:
        """Append a frame to the tail, which holds no record."""
        cdef Outgoing out
        cdef Format framing = self.its_format()
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        if self.append_plain(message):
            return 0
        open_message(framing, &out, message, ())
        try:
            if self.kind == SEQPACKET:
                self.send_record(&out, &until)
            else:
                self.append_frame(&out)
        finally:
            close_message(&out)
        return 0

    cdef bint is_batch_full(self) noexcept:
        if self.kind == FOREIGN or self.kind == SEQPACKET:
            return True
        return self.tail_end - self.tail_start > GATHERED

    cdef int exchange(self, list replies, Deadline *until) except -1:
        """Send the tail, taking in replies while the peer does not read."""
        cdef int ready
        if self.kind == FOREIGN:
            # Its calls block: what is owed must come before more is asked for.
            self.flush_tail(until)
            while self.owed:
                replies.append(self.next(until))
            return 0
        while not self.try_flush():
            self.waits_out += 1
            # What came unasked stays where it is, and would wake this for ever.
            ready = self.wait(SOCK_READ | SOCK_WRITE if self.owed else SOCK_WRITE, until)
            while ready & SOCK_READ and self.owed and self.advance():
                replies.append(self.next(until))
        return 0
