# DatagramSocket: requests, what can be asked of it, and its end.


cdef enum:
    STALE_MOST = 16           # receives; who sends without end is not followed to it


cdef class DatagramSocket(_Datagrams):
    """Whole datagrams over one socket, for blocking code.

    One thread may send while another receives; two senders, or two receivers,
    take turns.  Datagrams are received many at a time, and handed out one by one.
    """

    cdef bint owner           # of the socket
    cdef shared_owner closing  # the thread that called close() inside another call
    cdef bint replaceable     # another socket would do as well
    cdef bint owed            # replies may still come to requests that are over
    cdef readonly long long ignored  # datagrams that were no reply to a request

    def __init__(self, sock, Py_ssize_t max_datagram=65535, *, timeout=None):
        if self.sock is not None:
            raise RuntimeError("a socket is set up once")
        if not is_plain(sock):
            raise TypeError(f"expected a socket, not {type(sock).__name__}")
        if max_datagram < 1:
            raise ValueError(f"max_datagram is {max_datagram}, expected bytes, 1 or more")
        self.inbox = make_inbox(max_datagram)
        self.ask = 1
        self.family = sock.family
        self.raw = sock.type == getattr(_socket, "SOCK_RAW", None)
        self.attach(sock, seconds_or_none(timeout), 0)
        dgram_prepare(self.reader)
        self.owner = True

    def __del__(self):
        if self.owner and not self.closed:
            if warnings is not None:  # as it is where the interpreter comes to its end
                warnings.warn(
                    f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)
            self._close()

    # ------------------------------------------------------------ requests

    def _request(self, message, seconds, long attempts, match):
        """Send *message* up to *attempts* times, and return what is its reply."""
        cdef Deadline until = Deadline(seconds_or_none(seconds), NOT_BEGUN)
        cdef Deadline attempt = until
        cdef long made = 0
        cdef double interval = NO_LIMIT
        cdef bint stale
        if attempts > 1:
            self.remaining(&until)  # from now on
            interval = until.seconds / attempts
        self.enter(&self.sending, &until)
        try:
            self.enter(&self.receiving, &until)
            try:
                stale = self.owed
                while True:
                    made += 1
                    if attempts > 1:
                        attempt = Deadline(interval, until.at - (attempts - made) * interval)
                    try:
                        if stale:
                            self.start_afresh()
                            stale = False
                        self.owed = True
                        self.send_one(
                            message, &self.target if self.has_target else NULL, &attempt)
                        reply = self.reply_to(message, match, &attempt)
                        self.owed = made > 1
                        return reply
                    except TimeoutError as exc:
                        if made == attempts:
                            exc.args = (
                                f"no reply within {until.seconds:g} s to {attempts} requests"
                                if attempts > 1 else
                                f"no reply within {until.seconds:g} s",)
                            raise
                    except (ConnectionRefusedError, FileNotFoundError):
                        # Nobody is there yet, or for the moment.
                        if made == attempts:
                            raise
                        self.sit_out(&attempt)
            finally:
                self.leave_receiving()
        finally:
            self.leave_sending()

    cdef reply_to(self, message, match, Deadline *until):
        while True:
            if self.at == self.filled:
                self.fill(self.ask, until)
            reply = self.take()
            if match is None or match(message, reply):
                return reply
            self.ignored += 1
            self.check_end(SOCK_READ)
            self.remaining(until)

    cdef int sit_out(self, Deadline *until) except -1:
        """Sleep until the deadline."""
        cdef double left
        cdef int ready
        self.hold_wake()
        while True:
            try:
                left = self.remaining(until)
            except TimeoutError:
                return 0
            if left <= 0:
                return 0
            self.check_end(SOCK_WRITE)
            with nogil:
                ready = sock_poll(SOCK_BAD, SOCK_BAD, 0, wake_fd(&self.wake), left)
            if ready < 0 and not sock_intr(ready):
                sock_raise(ready)
            PyErr_CheckSignals()

    cdef int start_afresh(self) except -1:
        """Go on so that a reply to an earlier request cannot be taken for the next one's.

        Another socket has another address, and what is sent to the old one is lost.
        """
        if self.replaceable:
            sock = self._replacement()
            self.reader = self.writer = sock.fileno()
            with cython.critical_section(self):
                old, self.sock = self.sock, sock
            sock_prepare(self.reader)
            dgram_prepare(self.reader)
            self.nonblocking = False
            self.ignored += self.filled - self.at
            self.at = self.filled = 0
            self.kept = None
            old.close()
        else:
            # All that can be done is to drop what has come.
            self.ignored += self.filled - self.at
            for _ in range(STALE_MOST):
                if self.try_fill(DGRAM_BATCH, False) <= 0:
                    break
                self.ignored += self.filled
            self.at = self.filled = 0
        self.owed = False
        return 0

    def _replacement(self):
        """Return a socket like the present one, with an address of its own."""
        raise NotImplementedError

    def _set_replaceable(self):
        self.replaceable = True

    # ------------------------------------------------------------ attributes

    @property
    def timeout(self):
        """Seconds for each call, None for no limit; 0: never wait."""
        return None if self.limit < 0 else self.limit

    @timeout.setter
    def timeout(self, value):
        self.limit = seconds_or_none(value)

    def settimeout(self, timeout):
        """Set `timeout`."""
        self.timeout = timeout

    def gettimeout(self):
        """Return `timeout`."""
        return self.timeout

    def setblocking(self, flag):
        """As `settimeout(None)` or `settimeout(0)`."""
        self.timeout = None if flag else 0.0

    @property
    def max_datagram(self):
        """The longest datagram that is taken, in bytes."""
        self.check_made()
        return self.inbox.room

    @property
    def pending(self):
        """Datagrams that have been received and not handed over; no selector sees them."""
        return self.filled - self.at

    @property
    def dropped(self):
        """Datagrams that the system has dropped because they were not received in time.

        None where the system does not tell.
        """
        cdef long long count = -1
        self.check_made()
        if not self.closed:
            count = dgram_dropped(self.reader)
        return None if count < 0 else count

    @property
    def stats(self):
        """What the socket has done so far: messages, bytes, system calls, waits."""
        return Stats(
            self.messages_in, self.bytes_in, self.calls_in, self.waits_in,
            self.messages_out, self.bytes_out, self.calls_out, self.waits_out,
        )

    @property
    def socket(self):
        """The socket; it stays this object's."""
        self.check_made()
        return self.its_socket()

    cdef int check_made(self) except -1:
        if not self.made:
            self.check_owner()
        return 0

    def fileno(self):
        """Return the descriptor, -1 once closed."""
        self.check_made()
        return -1 if self.closed else self.its_socket().fileno()

    def _ready(self):
        """Whether a receive would not wait; None where another thread is at it."""
        self.check_made()
        if self.closed or self.at < self.filled or self.kept is not None:
            return True
        if self.receiving.owner != 0:
            return None
        return bool(sock_poll(self.reader, SOCK_BAD, SOCK_READ, SOCK_BAD, 0))

    def _wake_fileno(self):
        """A descriptor that becomes readable when the socket is closed."""
        self.hold_wake()
        return wake_fd(&self.wake)

    # ------------------------------------------------------------ the end

    def detach(self):
        """Give the socket up and return it; this object is closed.

        Raises:
            RuntimeError: there are datagrams that have been received and not handed over.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.sending, &until)
        try:
            self.enter(&self.receiving, &until)
            try:
                if self.at < self.filled:
                    raise RuntimeError(
                        f"{self.filled - self.at} datagrams have been received already: take "
                        "them with recv_many() first")
                if flag_set(&self.closed, True):
                    raise ConnectionClosed("the connection was closed in another thread")
                with cython.critical_section(self):
                    sock, self.sock = self.sock, _closed
                self.release_wake()
                let_block(sock)
                return sock
            finally:
                self.leave(&self.receiving)
        finally:
            self.leave(&self.sending)

    def close(self):
        """Close the socket; may be called twice.

        Calls that wait in other threads raise ConnectionClosed.
        """
        self._close()

    cdef int leave_receiving(self) except -1:
        self.leave(&self.receiving)
        if self.closing:
            self.close_late()
        return 0

    cdef int leave_sending(self) except -1:
        self.leave(&self.sending)
        if self.closing:
            self.close_late()
        return 0

    def _close(self):
        if flag_set(&self.closed, True) or not self.made:
            return
        if self.born != forks:
            self.sock.close()
            return
        self.poke()
        me = PyThread_get_thread_ident()
        if self.receiving.owner == me or self.sending.owner == me:
            self.closing = me  # inside a call of this very thread, which finishes it
            return
        self.close_now()

    cdef int close_late(self) except -1:
        me = PyThread_get_thread_ident()
        if self.closing == me and self.receiving.owner != me and self.sending.owner != me:
            self.closing = 0
            self.close_now()
        return 0

    cdef int close_now(self) except -1:
        self.seize(&self.sending)  # in the order that a request has
        self.seize(&self.receiving)
        self.leave(&self.receiving)
        self.leave(&self.sending)
        self.release_wake()
        with cython.critical_section(self):
            sock, self.sock = self.sock, _closed
        sock.close()
        return 0
