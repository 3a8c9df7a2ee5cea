# A server's turn with one connection: receive what has come, call the handler for each
# message, gather the replies.  Nothing here waits.

from collections.abc import Iterable, Mapping


cdef enum:
    REPLIES = 64 * 1024       # gathered replies leave at this size


cdef double REPLY_DELAY = 0.001  # behind a slow handler replies wait no longer than this


cdef enum Turn_end:
    TURN_IDLE = 0             # wait until there is more to read
    TURN_BUSY = 1             # the fair share is used up: there may be more in hand
    TURN_BLOCKED = 2          # wait until the peer takes its replies


cdef class _Responder(_Files):
    """Answers messages with a handler's replies."""

    cdef object replying      # an iterator of replies that waits for the peer
    cdef readonly bint _in_handler

    cdef bytes arrived(self, bint *may_receive):
        """The next message out of what has come, or None."""
        cdef sock_iov iov[2]
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef State state
        cdef Py_ssize_t got, offered
        cdef int i, n
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
            if self.ended:
                self.raise_ended()
            if not may_receive[0]:
                self.rest()
                return None
            n = self.aim(iov)
            offered = 0
            for i in range(n):
                offered += iov_len(&iov[i])
            got = self.try_receive(iov, n, &until)
            if got > 0:
                # A receive that was not filled has taken all there was.
                may_receive[0] = got == offered
                self.spread(got)
            elif got == 0:
                self.ended = True
            elif sock_intr(got):
                PyErr_CheckSignals()
            elif sock_again(got):
                may_receive[0] = False
            else:
                self.fail_receive(got)

    cdef bint gather_reply(self, reply) except -1:
        """Append one reply; return whether the peer takes what was gathered."""
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.sending, &until)
        try:
            if self.send_error:
                self.fail_send(self.send_error)
            self.queue(reply)
            return self.tail_end - self.tail_start < REPLIES or self.try_flush()
        finally:
            self.leave(&self.sending)

    cdef bint let_go(self) except -1:
        """Send the gathered replies; return whether all have left."""
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.sending, &until)
        try:
            return self.try_flush()
        finally:
            self.leave(&self.sending)

    cdef bint accept_reply(self, reply) except -1:
        """Take what a handler returned; return whether the peer keeps up."""
        if reply is None:
            return True
        if PyBytes_CheckExact(reply) or PyObject_CheckBuffer(reply):
            return self.gather_reply(reply)
        if isinstance(reply, (str, Mapping)) or not isinstance(reply, Iterable):
            raise TypeError(
                f"a handler returns bytes, an iterable of bytes or None, "
                f"not {type(reply).__name__}"
            )
        self.replying = iter(reply)
        return self.go_on()

    cdef bint go_on(self) except -1:
        """Send an iterator's replies as they come, as far as the peer takes them."""
        if self.replying is None:
            return True
        for reply in self.replying:
            if reply is not None:
                self.gather_reply(reply)
                if not self.let_go():
                    return False
        self.replying = None
        return True

    def _answer(self, handler, passed, Py_ssize_t most):
        """Serve at most *most* messages; return how the turn ended.

        Args:
            handler: called with each message.
            passed: a second argument for it, or None.
            most: messages in one turn, so that others get theirs.

        Raises:
            ConnectionClosed, FramingError, OSError: the connection is over.
            Exception: what the handler raised; its earlier replies have left.
        """
        cdef bint may_receive = True
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef double oldest = sock_now()
        cdef double now
        cdef int end = TURN_BUSY
        self._in_handler = self.replying is not None
        try:
            if not self.let_go() or not self.go_on():
                return TURN_BLOCKED
            while most > 0:
                self._in_handler = False
                self.enter(&self.receiving, &until)
                try:
                    message = self.arrived(&may_receive)
                finally:
                    self.leave(&self.receiving)
                if message is None:
                    end = TURN_IDLE
                    break
                most -= 1
                self._in_handler = True
                reply = handler(message) if passed is None else handler(message, passed)
                if self.closed:
                    return TURN_IDLE
                if not self.accept_reply(reply):
                    return TURN_BLOCKED
                now = sock_now()
                if now - oldest > REPLY_DELAY:
                    oldest = now
                    if not self.let_go():
                        return TURN_BLOCKED
            self._in_handler = False
            return end if self.let_go() else TURN_BLOCKED
        except BaseException:
            if self.closed or self.send_error:
                self._in_handler = False
            else:
                self.let_go()
            raise
