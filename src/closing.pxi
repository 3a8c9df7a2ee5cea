# How a stream ends: by close(), by a poller that closes it step by step, by a fork; and
# how a client's stream goes on with another socket.


cdef Format _default = LengthField()
cdef object _closed = _Descriptors(-1, -1)


cdef enum:
    DISCARDED = 64            # receives; who sends without end is not followed to it


cdef class _Closer(_Responder):
    """Lets the last bytes arrive, and leaves no thread with a closed descriptor."""

    cdef bint owner           # of the socket
    cdef bint faded           # the end of the stream has been sent
    cdef shared_owner closing  # the thread that called close() inside another call
    cdef double closing_linger

    def __cinit__(self):
        # So that a subclass that forgets super().__init__() meets an error, not a NULL.
        self.use_format(_default)
        make_turn(&self.receiving, PyThread_allocate_lock())
        make_turn(&self.sending, PyThread_allocate_lock())

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

    def __del__(self):
        # Compiled, because a signal's handler may run at the first step of a Python one,
        # where its KeyboardInterrupt would be lost.
        if self.owner and not self.closed:
            if warnings is not None:  # as it is where the interpreter comes to its end
                warnings.warn(
                    f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)
            self._close(0.0)

    def _wake_fileno(self):
        """A descriptor that becomes readable when the stream is closed, or is to end."""
        self.hold_wake()
        return wake_fd(&self.wake)

    def _wind_up(self):
        """Let a receive that waits between frames end, here and in other threads."""
        self.winding_up = True
        self.poke()

    def _end(self):
        """Close at once, if no thread is in a call; return whether that was so.

        Otherwise the threads are told, and the last of them closes it.
        """
        if not self.made or self.born != forks:
            self._close(0.0)
            return True
        if not flag_set(&self.closed, True):
            self.ending = True
            self.poke()
        elif not self.ending:
            return True  # another thread is at it
        if self.go_on_ending():
            return True
        if self.ending:
            self.shut_down_both()
        return False

    cdef void shut_down_both(self) noexcept:
        with cython.critical_section(self):  # so that the socket is still there
            if self.is_socket() and self.sock is not _closed:
                sock_shutdown_both(self.reader)

    cdef bint go_on_ending(self) noexcept:
        cdef size_t me = PyThread_get_thread_ident()
        cdef bint over
        if not owner_take(&self.receiving.owner, me):
            return False
        if not owner_take(&self.sending.owner, me):
            owner_drop(&self.receiving.owner)
            open_gate(&self.receiving)
            return False
        over = not flag_set(&self.ending, False)  # by another thread, meanwhile
        self.leave(&self.sending)
        self.leave(&self.receiving)
        if over:
            return True
        self.closing_linger = 0
        try:
            self.finish_close()
        except OSError:
            pass  # the descriptor is gone all the same
        return True

    def _cut(self):
        """End both directions at once; the thread that is in a call notices, and closes."""
        if not self.closed and self.is_socket() and self.born == forks:
            if owner_take(&self.sending.owner, PyThread_get_thread_ident()):
                try:
                    if not self.closed:
                        self.say_goodbye()
                finally:
                    self.leave(&self.sending)
            self.winding_up = self.cut_off = True  # first: the end that follows is ours
            self.shut_down_both()
            self._wind_up()

    def _fade(self):
        """Take the next step of a close that a poller drives, without waiting.

        Returns:
            0 when it is over, else what to wait for: SOCK_READ or SOCK_WRITE, or -1 for a
            thread that is in a call.
        """
        if self.closed:
            return 0
        if not owner_take(&self.sending.owner, PyThread_get_thread_ident()):
            return -1
        try:
            if self.closed:
                return 0
            if not self.try_flush():
                return self.waits_for(SOCK_WRITE)
            if not self.is_socket() or self.in_file():
                return 0
            if not self.faded:
                if not self.say_goodbye():
                    return SOCK_WRITE
                self.faded = True
                if self.discard() or sock_shutdown_write(self.writer) < 0:
                    return 0
            if self.discard() or 0 <= sock_queued(self.writer, False) <= 1:
                return 0
            return SOCK_READ
        finally:
            self.leave_sending()

    def _close(self, double linger):
        """End the stream: see `Connection.close`."""
        if flag_set(&self.closed, True) or not self.made:
            return
        if self.born != forks:
            # The turns may have been taken by threads that exist only in the parent, and
            # the wake descriptor would wake those that sleep there.
            self.sock.close()
            return
        self.closing_linger = linger
        self.poke()
        me = PyThread_get_thread_ident()
        if self.receiving.owner == me or self.sending.owner == me:
            # Inside a call of this very thread (a signal handler, a callback of
            # sendfile): that call finishes the work on its way out.
            self.closing = me
            return
        self.close_now()

    cdef int close_now(self) except -1:
        self.seize_both()
        self.leave(&self.sending)
        self.leave(&self.receiving)
        self.finish_close()
        return 0

    cdef int close_late(self) except -1:
        """Close the socket when the last call of the thread that is to has left it."""
        me = PyThread_get_thread_ident()
        if self.closing == me and self.receiving.owner != me and self.sending.owner != me:
            self.closing = 0
            self.close_now()
        return 0

    cdef int finish_close(self) except -1:
        """Close the socket, which no call uses any more."""
        try:
            if self.closing_linger > 0:
                self.end_gently()
            else:
                self.say_goodbye()
        finally:
            self.drop_tail()
            self.drop_buffer()
            self.drop_partial()
            self.drop_rights()
            self.release_wake()
            if self.crypt is not None:
                self.crypt.fd = SOCK_BAD
            self.take_socket().close()
        return 0

    cdef object take_socket(self):
        """What the stream was made from, which it has no more."""
        with cython.critical_section(self):
            sock, self.sock = self.sock, _closed
        return sock

    cdef int end_gently(self) except -1:
        """Let the last bytes arrive: see `Connection.close`."""
        cdef double end = sock_now() + self.closing_linger
        cdef double nap = 0.001
        cdef double left
        cdef int ready = 0
        if self.kind == FOREIGN:
            return self.flush_foreign()
        while not self.send_error and self.tail_end > self.tail_start:
            if self.flush_for(end) <= 0:
                return 0
        if not self.is_socket():
            return 0
        while not self.say_goodbye() and self.wait_for_room(end):
            pass
        self.discard()
        if (
            self.send_error or self.in_file()
            or sock_queued(self.writer, False) == 0
        ):
            # Only where nothing is queued can the peer lose nothing.
            sock_shutdown_write(self.writer)
            return 0
        if sock_shutdown_write(self.writer) < 0:
            return 0
        while True:
            left = end - sock_now()
            if self.discard() or left <= 0 or 0 <= sock_queued(self.writer, False) <= 1:
                return 0
            with nogil:
                ready = sock_poll(
                    self.reader, self.writer, SOCK_READ, SOCK_BAD, min(left, nap))
            nap = min(2 * nap, 0.05)
            PyErr_CheckSignals()

    cdef bint say_goodbye(self) except -1:
        """Send TLS's close_notify, where all else has left; return whether it has too.

        Without it the peer must take the end for that of a cut stream.
        """
        if (
            self.crypt is None or self.crypt.ragged or self.send_error
            or self.in_file() or self.tail_end > self.tail_start
        ):
            return True
        return self.crypt.say_goodbye()

    cdef int flush_foreign(self) except -1:
        cdef Deadline until = Deadline(self.closing_linger, NOT_BEGUN)
        if self.tail_end > self.tail_start:
            with contextlib.suppress(OSError):
                self.flush_tail(&until)
        return 0

    cdef int flush_for(self, double end) except -1:
        """Send some of the tail before *end*; return 1, or 0 when there is no point."""
        try:
            if self.try_flush():
                return 1
        except (OSError, Error):
            return 0
        return self.wait_for_room(end)

    cdef int wait_for_room(self, double end) except -1:
        """Wait until the peer takes more, and *end* at most; return whether it may."""
        cdef double left = end - sock_now()
        cdef int ready, real = self.waits_for(SOCK_WRITE)
        if left <= 0:
            return 0
        with nogil:
            ready = sock_poll(self.reader, self.writer, real, SOCK_BAD, left)
        PyErr_CheckSignals()
        return ready > 0 or sock_intr(ready)

    cdef bint discard(self) noexcept:
        """Throw away what has come; return whether the stream has ended.

        A socket that is closed over unread input answers with a reset, which
        destroys what is still on its way to the peer.
        """
        cdef sock_iov iov[1]
        cdef char trash[SMALL]
        cdef Py_ssize_t got
        cdef int i
        for i in range(DISCARDED):
            iov_set(&iov[0], trash, SMALL)
            got = sock_recv(self.reader, iov, 1)
            if got == 0 or (got < 0 and not sock_again(got) and not sock_intr(got)):
                return True
            if sock_again(got):
                break
        return False

    # ------------------------------------------------------------ connecting again

    cdef bint is_lost(self) noexcept:
        return self.lost and not self.closed

    cdef int reconnect(self, Deadline *until) except -1:
        cdef double left
        me = PyThread_get_thread_ident()
        if self.receiving.owner == me or self.sending.owner == me:
            return 0  # in the middle of a call, which will meet the error itself
        left = self.remaining(until)
        self._reconnect(None if left <= 0 else left)
        return 0

    def _set_renewable(self):
        self.renewable = True

    def _is_lost(self):
        return self.is_lost()

    def _renew(self, sock, _Tls tls=None):
        """Go on with *sock*, as a new connection; what the old one held is dropped."""
        self.renewing = True
        self.poke()
        self.seize_both()
        self.renewing = False
        try:
            if self.closed:
                raise ConnectionClosed("the connection is closed")
            self.drop_tail()
            self.drop_buffer()
            self.drop_partial()
            self.drop_rights()
            self.release_wake()
            self.file = self.out_file = None
            self.scanned = self.owed = 0
            self.receive_error = self.send_error = 0
            self.ended = self.lost = self.inside = False
            self.take_socket().close()
            self.use_socket(sock, tls)
            self.use_kind()
        finally:
            self.leave(&self.sending)
            self.leave(&self.receiving)
