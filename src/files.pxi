# One frame out of a file, or into one, in constant memory; a stop in mid-frame is resumed.

from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory


cdef enum:
    FILE_PART = 256 * 1024    # read at a time where the system does not copy by itself


cdef bytes read_part(file, offset, n):
    """Return *n* bytes of *file* from *offset*; fewer at its end."""
    file.seek(offset)
    data = file.read(n)
    while 0 < len(data) < n:
        more = file.read(n - len(data))
        if not more:
            break
        data += more
    if len(data) > n:
        raise OSError(
            f"{type(file).__name__}.read() gave {len(data)} bytes, expected {n} at most")
    return bytes(data)


cdef int descriptor_of(file) except? -1:
    """The descriptor of a file whose bytes are the system's own, or -1.

    Others may have a fileno() too: that of what they decompress, say.
    """
    raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
    if type(raw) is not io.FileIO:
        return -1
    file.flush()
    descriptor = raw.fileno()
    return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else -1


cdef bint keeps_no_view(file):
    """Whether its write() is the interpreter's own, which lets go of what it is given."""
    raw = file.raw if type(file) in (io.BufferedWriter, io.BufferedRandom) else file
    return type(raw) in (io.FileIO, io.BytesIO)


cdef Py_ssize_t write_some(file, data) except -1:
    """Write to *file*; return how much it took, a byte at least."""
    cdef Py_ssize_t n = len(data), written
    cdef bint raw = isinstance(file, io.RawIOBase)  # first: it may fail for want of memory
    told = file.write(data)
    if told is None:
        if raw:
            raise BlockingIOError(
                errno.EAGAIN, f"{type(file).__name__} takes nothing now: it has to block")
        return n  # it takes all, and does not tell
    written = told
    if not 0 < written <= n:
        raise OSError(f"{type(file).__name__}.write() returned {written} for {n} bytes")
    return written


cdef class _Files(_Sender):
    """The frames of sendfile() and recvfile()."""

    # ------------------------------------------------------------ from a file

    cdef int begin_file(self, file, offset, count) except -1:
        """Put the header of a file's frame into the tail."""
        cdef Outgoing out
        cdef Format framing = self.its_format()
        cdef Layout *lay = &framing.layout
        cdef Py_ssize_t front
        if self.kind == SEQPACKET:
            raise io.UnsupportedOperation(
                "here a frame is one record, which sendfile() would send in parts: use send()")
        if lay.kind == DELIMITER:
            raise FramingError(
                "a file cannot be searched for the delimiter before it is sent: use send()")
        if not hasattr(file, "seek") or isinstance(file, io.TextIOBase):
            raise TypeError(
                f"expected a file that was opened with 'rb', not {type(file).__name__}")
        offset = in_range("offset", offset, 0, PY_SSIZE_T_MAX)
        end = file.seek(0, 2)
        if offset > end:
            raise ValueError(f"offset is {offset}, but the file has {end} bytes")
        if count is None:
            count = end - offset
        if in_range("count", count, 0, PY_SSIZE_T_MAX) > end - offset:
            raise ValueError(
                f"count is {count}, but the file has {end - offset} bytes to send")
        # A header that the format keeps in the message is at the front of the file.
        front = min(<Py_ssize_t>count, HEADER_MAX) if lay.keep else 0
        first = read_part(file, offset, front)
        back = lay.trailer_size if lay.keep else 0
        last = read_part(file, offset + max(count - back, 0), min(back, count))
        open_file_message(framing, &out, first, last, count)
        memcpy(self.extend_tail(out.head_size), out.head, out.head_size)
        self.out_file = file
        self.out_format = framing
        self.out_offset = offset + out.taken
        self.out_left = count - out.taken
        self.out_size = count
        self.out_whole = False
        return 0

    cdef object transmit_file(self, progress, Deadline *until):
        cdef const Layout *lay
        cdef sock_iov iov[2]
        cdef int descriptor = -1
        cdef Py_ssize_t sent
        if SOCK_HAS_SENDFILE and self.kind <= PASSING and sock_is_nonblocking(self.writer):
            # sendfile() has no MSG_DONTWAIT: on a blocking socket it would not come back.
            descriptor = descriptor_of(self.out_file)
        while self.out_left:
            if descriptor >= 0:
                self.flush_tail(until)
                sent = self.send_from(descriptor, until)
            else:
                part = read_part(self.out_file, self.out_offset, min(self.out_left, FILE_PART))
                sent = len(part)
                iov_set(&iov[1], PyBytes_AS_STRING(part), sent)
                # Accounted for first: what does not leave is in the tail.
                self.out_offset += sent
                self.out_left -= sent
                if sent:
                    self.transmit(iov, 2, until)
            if sent == 0:
                self.send_error = -errno.EIO
                raise FramingError(
                    f"the file ended {self.out_left} bytes before the end of the frame "
                    "that was begun: the connection can only be closed"
                )
            if progress is not None:
                progress(self.out_size - self.out_left, self.out_size)
        if not self.out_whole:
            lay = &self.out_format.layout
            if not lay.keep and lay.trailer_size:
                memcpy(
                    self.extend_tail(lay.trailer_size), lay.trailer, lay.trailer_size)
            self.out_whole = True
        self.flush_tail(until)
        self.out_file = None
        self.messages_out += 1
        return self.out_size

    cdef Py_ssize_t send_from(self, int descriptor, Deadline *until) except -1:
        """Let the system copy the next part of the file to the socket."""
        cdef Py_ssize_t sent
        cdef Py_ssize_t n = min(self.out_left, 16 * FILE_PART)
        while True:
            self.calls_out += 1
            with nogil:
                sent = sock_sendfile(self.writer, descriptor, self.out_offset, n)
            if sent >= 0:
                self.out_offset += sent
                self.out_left -= sent
                self.bytes_out += sent
                return sent
            if sock_again(sent):
                self.waits_out += 1
                self.wait(SOCK_WRITE, until)
            elif sock_intr(sent):
                PyErr_CheckSignals()
            else:
                self.fail_send(sent)

    # ------------------------------------------------------------ to a file

    cdef object next_to_file(self, file, progress, Deadline *until):
        cdef Py_ssize_t n, held, size
        cdef object answer  # made before all is done: there may be no memory for it
        if self.file is None:
            self.begin_to_file(file, until)
        elif self.file is not file:
            self.refuse_in_file()
        size = self.message_size()
        while self.file_rest is not None:
            n = min(len(self.file_rest) - self.file_written, READ_AHEAD)
            part = memoryview(self.file_rest)[self.file_written:self.file_written + n]
            # Accounted for at once: nothing that may fail comes between.
            self.file_written += write_some(file, part)
            left = len(self.file_rest) - self.file_written
            if left == 0:
                self.file_rest = None
            if progress is not None:
                progress(size - self.file_left - left, size)
        # The trailer is checked before it is written or dropped.
        held = self.format_then.layout.trailer_size - self.head.drop if self.file_left else 0
        while self.file_left > held:
            n = min(self.file_left - held, self.end - self.start)
            if n == 0:
                self.fill(until)
                continue
            self.to_file(file, n)
            if progress is not None:
                progress(size - self.file_left, size)
        answer = size
        if not self.file_checked:
            self.check_file_trailer(file, held, until)
            self.handed_over()
        self.file = None
        return answer

    cdef int begin_to_file(self, file, Deadline *until) except -1:
        """Find the next frame; its message goes to *file* from now on."""
        cdef State state
        self.file_checked = False
        self.file_rest = None
        self.file_written = 0
        if self.into != NULL:
            # A receive has begun it in memory.
            if self.format_then.layout.trailer_size > self.head.drop:
                self.file_rest = self.next(until)
                self.file_checked = True
                self.file_left = 0
            else:
                self.file_rest = self.into[:self.got] if self.got else None
                self.file_left = self.message_size() - self.got
                self.drop_partial()
            self.file = file
            return 0
        state = self.look()
        while state == UNKNOWN:
            self.fill(until)
            state = self.look()
        if state == REFUSED:
            self.refuse()
        self.file = file
        self.format_then = self.format
        self.file_left = self.message_size()
        self.consume(self.head.skip)
        return 0

    cdef int check_file_trailer(self, file, Py_ssize_t held, Deadline *until) except -1:
        cdef Py_ssize_t n = self.format_then.layout.trailer_size
        while self.end - self.start < n:
            self.fill(until)
        if check_trailer(&self.format_then.layout, self.buf + self.start + n) < 0:
            refuse_header(
                self.format_then, BAD_TRAILER, <unsigned char *>self.buf + self.start, n, 0)
        if held:
            self.to_file(file, held)
        elif n:
            self.consume(n)
        return 0

    cdef int to_file(self, file, Py_ssize_t n) except -1:
        """Write the next *n* bytes of the buffer; what is not written stays there."""
        cdef char *p = self.buf + self.start
        if keeps_no_view(file):
            view = PyMemoryView_FromMemory(p, n, PyBUF_READ)
            try:
                n = write_some(file, view)
            finally:
                view.release()
        else:
            # A slice of a view would outlive it, and show what comes into the buffer next.
            n = write_some(file, PyBytes_FromStringAndSize(p, n))
        self.file_left -= n
        self.consume(n)
        return 0
