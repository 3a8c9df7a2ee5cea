# A server's turn with one connection: receive what has come, call the handler for each
# message, gather the replies.  Nothing here waits.

from collections.abc import Iterable, Mapping


cdef enum:
    REPLIES = 64 * 1024       # gathered replies leave at this size
    SILENCE = 3               # times the grace of a slow message
    CLOCK_STEP = 8            # messages between two looks, if a slow handler is noticed


cdef double REPLY_DELAY = 0.001  # behind a slow handler replies wait no longer than this
cdef double WINDOW = 10.0  # seconds at least for which a rate is looked at
cdef double LONG_TURN = 0.005  # seconds; then other connections have theirs


cdef enum Turn_end:
    TURN_IDLE = 0             # wait until there is more to read
    TURN_BUSY = 1             # the fair share is used up: there may be more in hand
    TURN_BLOCKED = 2          # wait until the peer takes its replies
    TURN_STARVED = 3          # wait until there is memory for the frame under way
    TURN_OVER = 4             # the connection is to be closed
    TURN_TAKEN = 5            # wait until another thread has sent what it sends


cdef enum Stage:
    SERVED = 0                # by turns
    FADING = 1                # being closed, step by step
    GREETING = 2              # before its first message
    HELD = 3                  # by a session


cdef enum Overdue:
    OVERDUE_IDLE = 1
    OVERDUE_SLOW = 2
    OVERDUE_UNREAD = 3


cdef class _Responder(_Passing):
    """Answers messages with a handler's replies."""

    cdef object replying      # an iterator of replies that waits for the peer
    cdef bint paused          # it waits for its next turn
    cdef bint last_frame      # nothing is received behind the frame under way
    cdef bint drained         # what had come before the server was told to stop
    cdef bint taken           # another thread was sending
    cdef object kept          # a reply that waits for another thread to have sent
    cdef readonly shared_flag _in_handler
    cdef bint starved         # there was no memory for the frame under way
    # Where a server has it: see crew.pxi.
    cdef shared_long stage
    cdef shared_long parked   # what its poller waits for
    cdef shared_flag released  # and never will any more
    cdef shared_flag queued   # it gets a turn without the poller
    cdef shared_flag serving
    # What overdue() has seen, and when.
    cdef double moved_at, stuck_at, frame_at
    cdef long long moved_then, out_then, in_then, messages_then

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
            if not self.may_grow():
                self.starved = True
                return None
            n = self.aim(iov)
            if self.last_frame:
                n = self.aim_short(iov, n)
            offered = 0
            for i in range(n):
                offered += iov_len(&iov[i])
            got = self.try_receive(iov, n, &until)
            if got > 0:
                # A receive from a plain socket that was not filled has taken all there was.
                may_receive[0] = got == offered or (
                    self.kind != SOCKET and (self.crypt is None or self.crypt.stopped))
                self.spread(got)
            elif got == 0:
                self.ended = True
            elif sock_intr(got):
                PyErr_CheckSignals()
            elif sock_again(got):
                may_receive[0] = False
            else:
                self.fail_receive(got)

    cdef bint take_sending(self) except -1:
        """Take the turn to send, unless another thread has it, which may be blocked."""
        if self.closed:
            raise ConnectionClosed("the connection is closed")
        self.check_owner()
        self.taken = not owner_take(&self.sending.owner, PyThread_get_thread_ident())
        if not self.taken and self.closed:  # meanwhile
            self.leave(&self.sending)
            raise ConnectionClosed("the connection is closed")
        return not self.taken

    cdef bint gather_reply(self, reply) except -1:
        """Append one reply; return whether the peer takes what was gathered.

        Where another thread is sending the reply is kept for later.
        """
        if not self.take_sending():
            self.kept = reply
            return False
        try:
            if self.send_error:
                self.fail_send(self.send_error)
            if self.kind == SEQPACKET and not self.try_flush():
                self.kept = reply
                return False
            self.queue(reply)
            return self.tail_end - self.tail_start < REPLIES or self.try_flush()
        finally:
            self.leave(&self.sending)

    cdef bint let_go(self) except -1:
        """Send the gathered replies; return whether all have left."""
        if self.tail_end == self.tail_start:
            return True
        if not self.take_sending():
            return False
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
        """Send what was kept, and an iterator's replies, as far as the peer takes them.

        One that has many is left for others to have their turns.
        """
        cdef double began = sock_now()
        cdef Py_ssize_t count = 0
        if self.kept is not None:
            reply, self.kept = self.kept, None
            if not self.gather_reply(reply):
                return False
        if self.replying is None:
            return True
        for reply in self.replying:
            count += 1
            if reply is not None:
                if not PyObject_CheckBuffer(reply):
                    raise TypeError(
                        "a handler's iterable holds bytes or None, "
                        f"not {type(reply).__name__}"
                    )
                if not self.gather_reply(reply) or not self.let_go():
                    return False
            if count % CLOCK_STEP == 0 and sock_now() - began > LONG_TURN:
                self.paused = True
                return False
        self.replying = None
        return True

    cdef int blocked(self) noexcept:
        if self.paused:
            self.paused = False
            return TURN_BUSY
        return TURN_TAKEN if self.taken else TURN_BLOCKED

    cdef int answer(self, handler, passed, Py_ssize_t most, Lead *lead) except -1:
        """Serve at most *most* messages; return how the turn ended.

        Args:
            handler: called with each message.
            passed: a second argument for it, or None.
            most: messages in one turn, so that others get theirs.
            lead: told of each step, or NULL.

        Raises:
            ConnectionClosed, FramingError, OSError: the connection is over.
            Exception: what the handler raised; its earlier replies have left.
        """
        cdef bint may_receive = True
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef double began = sock_now()
        cdef double oldest = began
        cdef double now
        cdef PyObject *ready
        cdef int end = TURN_BUSY
        self._in_handler = self.replying is not None
        self.starved = self.taken = False
        if self.last_frame and self.at_rest():
            may_receive = False
        try:
            if not self.let_go() or not self.go_on():
                return self.blocked()
            while most > 0:
                ready = self.at_hand()
                if ready != NULL:
                    message = <object>ready
                    Py_DECREF(message)
                elif not may_receive and self.start == self.end and self.into == NULL:
                    end = TURN_IDLE
                    break
                else:
                    self._in_handler = False
                    self.enter(&self.receiving, &until)
                    try:
                        message = self.arrived(&may_receive)
                    finally:
                        self.leave(&self.receiving)
                    if message is None:
                        end = TURN_STARVED if self.starved else TURN_IDLE
                        break
                self._in_handler = True
                most -= 1
                if self.last_frame and self.into == NULL:
                    may_receive = False
                reply = handler(message) if passed is None else handler(message, passed)
                if self.closed:
                    return TURN_IDLE
                if not self.append_at_once(reply) and not self.accept_reply(reply):
                    return self.blocked()
                if lead != NULL:
                    if lead.watched and most % CLOCK_STEP:
                        if word_read(lead.word) == lead.mine:
                            continue
                    lead_step(lead, 1)
                now = sock_now()
                # Who leads no longer has nobody behind who sends what was gathered.
                if now - oldest > REPLY_DELAY or (lead != NULL and lead.lost):
                    oldest = now
                    if not self.let_go():
                        return self.blocked()
                    if now - began > LONG_TURN:
                        break
            self._in_handler = False
            return end if self.let_go() else self.blocked()
        except BaseException as exc:
            if not self.closed and not self.send_error:
                self.let_go()
            elif isinstance(exc, (ConnectionClosed, OSError)):
                self._in_handler = False  # the end of the connection, met in the handler
            self.replying = self.kept = None  # here, where a generator may take its time
            raise

    cdef void send_gathered(self) noexcept:
        """Send the replies that wait behind a handler which another thread is in."""
        if not GLANCE_TAKES and self.tail_end == self.tail_start:
            return
        if owner_take(&self.sending.owner, PyThread_get_thread_ident()):
            try:
                if not self.closed:
                    self.try_flush()
            except Exception:
                pass  # the connection keeps its error for who is in the handler
            finally:
                self.leave(&self.sending)

    cdef int overdue(
        self, double now, double idle, double grace, double rate, double patience
    ) noexcept:
        """What the peer is too slow at: an OVERDUE_ value, or 0.

        Called now and then; what counts is what has changed since the last time.
        """
        cdef bint stuck = self.waiting_for & SOCK_WRITE
        cdef bint busy = (self.serving or self.stage == HELD) and not self.waiting_for
        cdef long long taken = self.bytes_out
        if self.moved_then != self.bytes_in + self.bytes_out or self.moved_at == 0:
            self.moved_then = self.bytes_in + self.bytes_out
            self.moved_at = now
        if not self.serving and self.stage == SERVED and self.tail_end > self.tail_start:
            stuck = True
        if not stuck:
            self.stuck_at = 0
        else:
            # What the peer's system has acknowledged: the poller tells only of much room.
            taken -= max(0, sock_queued(self.writer, True))
            if self.stuck_at == 0 or self.out_then != taken:
                self.stuck_at = now
                self.out_then = taken
            elif 0 <= patience < now - self.stuck_at:
                return OVERDUE_UNREAD
        if busy or stuck:
            # It is not the peer who is waited for, or not to send.
            self.moved_at = now
            self.frame_at = 0
        elif self.at_rest():
            self.frame_at = 0
            if 0 <= idle < now - self.moved_at:
                return OVERDUE_IDLE
        elif self.frame_at == 0 or self.messages_then != self.messages_in:
            self.frame_at = now
            self.in_then = self.bytes_in
            self.messages_then = self.messages_in
        elif grace >= 0:
            # What came fast at first is no excuse for a long silence.
            if now - self.moved_at > SILENCE * grace:
                return OVERDUE_SLOW
            if now - self.frame_at > grace + (self.bytes_in - self.in_then) / rate:
                return OVERDUE_SLOW
            if now - self.frame_at > max(grace, WINDOW):
                # Nor for a drip.
                self.frame_at = now
                self.in_then = self.bytes_in
        return 0

    cdef void excuse(self, double seconds) noexcept:
        """Let *seconds* in which nobody looked count for nothing."""
        self.moved_at += seconds
        self.stuck_at += seconds if self.stuck_at else 0
        self.frame_at += seconds if self.frame_at else 0
