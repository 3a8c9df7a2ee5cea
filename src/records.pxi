# TLS records between OpenSSL's memory and the socket: system calls that never block, and
# the turn that each thread takes before it touches either.

from cpython.buffer cimport PyBuffer_FillInfo


cdef enum:
    RECORD = 16 * 1024        # bytes in the longest record, and
    HEADER = 5                # before them; what is around them takes no more than
    LONGEST_RECORD = HEADER + RECORD + 2048  # (RFC 5246, 6.2.3)
    RECORDS = 4               # in one system call
    FED = RECORD + 512        # handed over at a time, or one record: memory never shrinks
    BARREN = 2 * FED          # received without a byte in it: no peer needs as much
    ANSWERS = 64 * 1024       # to a peer that asks for new keys, and does not read


# A peer that will not have our certificate, or wants one, says so in an alert that comes
# after the handshake has succeeded here (RFC 8446, 4.4.2.4 and 6.2).
cdef dict _REFUSALS = {
    "SSLV3_ALERT_BAD_CERTIFICATE": "refuses this end's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says that this end's certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "says that this end's certificate was revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "refuses this end's certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "cannot use this end's certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "denies access to whom this end's certificate names",
    "TLSV1_ALERT_UNKNOWN_CA": "does not know the CA of this end's certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "demands a certificate: make the context with certificate= and key="),
}

# The first is all that OpenSSL says of any of them since 3.2.
cdef tuple _DAMAGES = (
    "RECORD_LAYER_FAILURE", "BAD_RECORD_TYPE", "DATA_LENGTH_TOO_LONG",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "ENCRYPTED_LENGTH_TOO_LONG",
    "PACKET_LENGTH_TOO_LONG", "WRONG_VERSION_NUMBER")


# There may be no memory for another one.
cdef object _no_memory = OSError(
    errno.ENOMEM, "no memory was left in the midst of TLS: close the connection")


cdef void lock(PyThread_type_lock which) noexcept:
    if not PyThread_acquire_lock(which, 0):
        with nogil:
            PyThread_acquire_lock(which, 1)


cdef class _Window:
    """Some memory with Python's buffer protocol; a memoryview would be made each time."""

    cdef char *p
    cdef Py_ssize_t n

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.p, self.n, 0, flags)


cdef class _Records:
    """What has come and is not decrypted yet, and what is encrypted and has not left."""

    cdef readonly object object  # the SSLObject, or the SSLSocket
    cdef readonly bint server_side
    cdef object incoming      # its memory for records, None with an SSLSocket
    cdef object outgoing
    cdef object ssl           # the module
    cdef _Window window       # what it is to read from, or to write to
    cdef sock_t fd
    cdef PyThread_type_lock door  # to the room
    cdef PyThread_type_lock room  # where one thread at a time may be
    cdef shared_owner owner   # who is there
    cdef char *raw            # received and not handed to OpenSSL; NULL while empty
    cdef Py_ssize_t raw_start
    cdef Py_ssize_t raw_end
    cdef bint fed             # OpenSSL may have something to read
    cdef bint drained         # the last receive took all that there was
    cdef Py_ssize_t empty     # bytes fed since something was read
    cdef Py_ssize_t answers   # bytes among the records that OpenSSL sends by itself
    cdef list records         # on their way out, behind
    cdef Py_ssize_t gone      # that have left
    cdef Py_ssize_t record_start  # of the first that has not
    cdef object failure       # what has ended it
    cdef bint ready           # the handshake is done
    cdef int in_wants         # what a receive, or a send, that would block waits for
    cdef int out_wants

    def __cinit__(self, sock, context=None, server_side=False, server_hostname=None):
        import ssl
        self.door = PyThread_allocate_lock()
        self.room = PyThread_allocate_lock()
        if self.door == NULL or self.room == NULL:
            raise MemoryError
        self.ssl = ssl
        self.window = _Window()
        self.records = []
        self.fd = sock.fileno()
        if sock_keeps_records(self.fd):
            raise io.UnsupportedOperation(
                "TLS needs a stream, and SOCK_SEQPACKET hands out records")
        sock_prepare(self.fd)
        self.server_side = server_side
        self.fed = True
        self.in_wants = SOCK_READ
        self.out_wants = SOCK_WRITE
        if context is None:
            sock.setblocking(False)
            sock.suppress_ragged_eofs = False  # they would look like a clean end
            self.object = sock
        else:
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.object = context.wrap_bio(
                self.incoming, self.outgoing, server_side, server_hostname)

    def __dealloc__(self):
        self.drop_raw()
        if self.door != NULL:
            PyThread_free_lock(self.door)
        if self.room != NULL:
            PyThread_free_lock(self.room)

    cdef void drop_raw(self) noexcept:
        if self.raw != NULL:
            spare_give(self.raw)
            self.raw = NULL
        self.raw_start = self.raw_end = 0

    cdef int take(self) except -1:
        """Take the turn; threads that come again and again alternate."""
        cdef size_t me = PyThread_get_thread_ident()
        if self.owner == me:
            raise RuntimeError(
                "this thread is in the middle of such a call on this connection")
        # Who has just had it finds the door taken by who waits behind it.
        lock(self.door)
        lock(self.room)
        self.owner = me
        PyThread_release_lock(self.door)
        return 0

    cdef void give(self) noexcept:
        self.owner = 0
        PyThread_release_lock(self.room)

    cdef Py_ssize_t feed(self) except? -1:
        """Hand OpenSSL whole records, as far as they have come; return how many bytes.

        It would only ask for the rest of one, by way of an exception.
        """
        cdef sock_iov iov[1]
        cdef Py_ssize_t got, n = self.whole_records()
        while n == 0:
            if self.drained:
                return SOCK_AGAIN
            if self.raw == NULL:
                self.raw = spare_take()
                if self.raw == NULL:
                    raise MemoryError
            if self.raw_start > 0:
                self.raw_end -= self.raw_start
                memmove(self.raw, self.raw + self.raw_start, self.raw_end)
                self.raw_start = 0
            iov_set(&iov[0], self.raw + self.raw_end, SPARE_SIZE - self.raw_end)
            got = sock_recv(self.fd, iov, 1)
            if got < 0:
                return got
            if got == 0:
                self.hand_over(self.raw_end)
                self.incoming.write_eof()  # OpenSSL knows whether that is a clean end
                return 1
            self.drained = got < SPARE_SIZE - self.raw_end
            self.raw_end += got
            n = self.whole_records()
        self.hand_over(n)
        self.empty += n
        if self.empty > BARREN and self.ready:
            self.refuse("sends TLS records without end, and nothing in them")
        return n

    cdef int hand_over(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t before = self.incoming.pending
        self.window.p = self.raw + self.raw_start
        self.window.n = n
        try:
            self.incoming.write(self.window)
        except MemoryError:
            # It takes all or nothing, and may have found no memory only for saying so.
            self.failure = _no_memory
            if self.incoming.pending == before:
                self.failure = None
                raise
            self.failure = None
        self.raw_start += n
        self.fed = True
        return 0

    cdef Py_ssize_t whole_records(self) noexcept:
        """Bytes of the whole records that have come, or of what is no TLS."""
        cdef const unsigned char *p = <const unsigned char *>self.raw + self.raw_start
        cdef Py_ssize_t left = self.raw_end - self.raw_start
        cdef Py_ssize_t n = 0, size
        while left > n:
            if not 20 <= p[n] <= 24:
                return left
            if left - n < HEADER:
                break
            size = HEADER + (p[n + 3] << 8 | p[n + 4])
            if size > LONGEST_RECORD:
                return left
            if size > left - n or (n and n + size > FED):
                break
            n += size
        return n

    cdef Py_ssize_t flush(self) except? -1:
        """Send the records that wait; return 0 or the negative error."""
        cdef sock_iov iov[RECORDS]
        cdef Py_ssize_t sent, size
        cdef int i, n
        if self.outgoing is None:
            return 0
        if self.outgoing.pending:
            self.keep_record()
        while self.waiting():
            n = min(<int>self.waiting(), RECORDS)
            for i in range(n):
                record = self.records[self.gone + i]
                iov_set(&iov[i], PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record))
            iov_set(
                &iov[0], iov_base(&iov[0]) + self.record_start,
                iov_len(&iov[0]) - self.record_start)
            sent = sock_send(self.fd, iov, n)
            if sent < 0:
                return sent
            i = 0
            while i < n and sent >= iov_len(&iov[i]):
                sent -= iov_len(&iov[i])
                i += 1
            if i:
                self.gone += i
                self.record_start = 0
                self.forget_gone()
            self.record_start += sent
        self.answers = 0
        return 0

    cdef Py_ssize_t waiting(self) noexcept:
        """How many records wait to leave."""
        return len(self.records) - self.gone

    cdef int keep_record(self) except -1:
        """Take what OpenSSL has written; without memory it stays there."""
        self.records.append(b"")  # first: a record that finds no place would be lost
        self.records[len(self.records) - 1] = self.outgoing.read()
        return 0

    cdef int forget_gone(self) except -1:
        try:
            del self.records[:self.gone]
            self.gone = 0
        except MemoryError:
            pass  # it goes with the next; to send it again would break the stream
        return 0

    cdef int send_answers(self) except -1:
        """Send what OpenSSL has to say to what was read: new keys, alerts."""
        if self.outgoing is None:
            return 0
        self.answers += self.outgoing.pending
        if self.answers and sock_again(self.flush()):
            self.in_wants = SOCK_READ | SOCK_WRITE
            if self.answers > ANSWERS:
                self.refuse("asks for new keys and does not read the answers")
        return 0

    cdef int refuse(self, what) except -1:
        """End the stream of a peer whose TLS is right, and hostile."""
        if self.failure is None:
            self.failure = self.ssl.SSLError(self.ssl.SSL_ERROR_SSL, f"the peer {what}")
        return 0

    cdef bint is_cut(self, exc):
        """Whether a read has failed with the end of the stream, without a close_notify.

        OpenSSL answers that with an alert. Where the system does not take it any more, it is
        that failure which OpenSSL tells of, since 3.2.
        """
        if isinstance(exc, self.ssl.SSLError):
            return (
                isinstance(exc, self.ssl.SSLEOFError)
                or exc.reason == "UNEXPECTED_EOF_WHILE_READING"
            )
        return isinstance(exc, BrokenPipeError) and exc.errno is not None

    cdef int fail(self, exc) except -1:
        """Keep what has ended the stream; the alert that tells the peer goes, if it can."""
        told = exc
        if exc.reason in _REFUSALS:
            told = AuthenticationError(f"the peer {_REFUSALS[exc.reason]}")
        elif exc.reason in _DAMAGES:
            told = self.ssl.SSLError(
                exc.errno,
                "the peer's bytes are not TLS records, or were changed on their way")
            told.library, told.reason = exc.library, exc.reason
        if told is not exc:
            told.__cause__ = exc
        self.failure = told
        self.flush()
        return -errno.EPROTO

    cdef int raise_error(self, Py_ssize_t error) except -1:
        if self.failure is not None:
            raise told_again(self.failure)
        sock_raise(error)
        return 0
