# The datagrams that come to a server, served by turns from one socket.
#
# The inbox and the outbox are the leader's.  It takes one datagram at a time out of the
# inbox, so a new leader goes on with the rest while the old one is held up in a handler;
# the old one sends its own replies by itself and stands by.


cdef enum:
    ERRORS_IN_A_ROW = 16      # of the socket, then it is left alone for a moment


cdef double AFTER_ERRORS = 0.05
cdef double TURN_OF_OTHERS = 0.001  # an iterator's replies leave no other room for them


@cython.final
cdef class _Dispatcher(_Mailer):
    """Serves the datagrams of one socket from as many threads as block in handlers.

    Args:
        handler: answers messages, see `DatagramServer`.
        pass_sender: whether it gets the `Sender` too.
        workers: the most threads at a time.
        server: has `_attend(now)`, called by the leader after `call_server()` and at the
            time that it last returned; `_failed(message, address)`, with the exception
            being handled; `_lost(what, length, address, error)`; `_proven(address)`;
            `_why_refused(length, address)`; `_largest()`; `_drained()`; `_spawn()`.
    """

    cdef object handler
    cdef bint pass_sender
    cdef object unwrap
    cdef sock_wake wake
    cdef bint opened
    cdef PyThread_type_lock guard
    cdef dgram_inbox *inbox
    cdef int at, filled
    cdef readonly double next_at
    cdef shared_long called
    cdef public shared_flag draining
    cdef long to_drain        # datagrams that may have come before the end
    cdef bint once
    cdef bint served_once
    cdef int errors
    cdef readonly long long messages_in, bytes_in, too_long, refused

    def __cinit__(self, handler, bint pass_sender, long workers, server):
        self.handler = handler
        self.pass_sender = pass_sender
        self.guard = PyThread_allocate_lock()
        if self.guard == NULL:
            raise MemoryError
        result = wake_open(&self.wake)
        if result < 0:
            sock_raise(result)
        self.opened = True

    def __dealloc__(self):
        dgram_inbox_free(self.inbox)
        self.shut()
        if self.guard != NULL:
            PyThread_free_lock(self.guard)

    cdef void shut(self) noexcept:
        PyThread_acquire_lock(self.guard, 1)
        if self.opened:
            self.opened = False
            wake_close(&self.wake)
        PyThread_release_lock(self.guard)

    def open(self, sock, Py_ssize_t max_datagram, ratio, double patience, bint answers,
             unwrap=None, bint once=False):
        """Serve *sock*; see `DatagramServer` for the rest."""
        self.inbox = make_inbox(max_datagram)
        self.sock = sock
        self.family = sock.family
        self.fd = sock.fileno()
        sock_prepare(self.fd)
        dgram_prepare(self.fd)
        self.ratio = -1 if ratio is None else ratio
        self.patience = patience
        self.unwrap = unwrap
        self.once = once
        self.inbox.answers = answers and dgram_ask_answers(self.fd, self.family) > 0

    # ------------------------------------------------------------ from any thread

    def call_server(self):
        """Have the leader call the server's `_attend` soon."""
        atomic_set(&self.called, 1)
        self.wake_leader()

    cdef void wake_leader(self) noexcept:
        if self.born != forks:
            return
        PyThread_acquire_lock(self.guard, 1)
        if self.opened:
            wake_poke(&self.wake)
        PyThread_release_lock(self.guard)

    def end(self):
        """Have every thread return from `run` that is not in a handler, those later."""
        atomic_set(&self.over, 1)
        self.wake_leader()
        self.ring()

    def close(self):
        """Give the rest up; no thread may be in `run` any more."""
        if self.threads:
            raise RuntimeError("threads are still serving")
        self.server = self.unwrap = None
        self.shut()

    def call_at(self, double at):
        """Have `_attend` called then, or earlier; for the leader, who need not be woken."""
        self.next_at = min(self.next_at, at)

    def drain(self, long most):
        """End when all that has come is served, and after *most* datagrams at the latest."""
        self.draining = True
        self.to_drain = most

    # ------------------------------------------------------------ the leader

    cdef int lead(self, Lead *lead) except -1:
        """Serve until this thread leads no longer, or all is over."""
        cdef bint begun = False
        try:
            while not self.over and self.born == forks:
                try:
                    if not begun:
                        begun = True
                        self.flush()  # what was gathered before a handler held the leader up
                        if self.followers == 0 and self.threads < self.workers:
                            self.server._spawn()
                    self.lead_on(lead)
                    return 0
                except MemoryError:
                    atomic_set(&self.called, 1)
                    if not lead_step(lead, 0):
                        return 0
                with nogil:
                    dgram_nap(NO_MEMORY_NAP)
        finally:
            if not lead.lost and self.born == forks:
                try:
                    self.flush()
                except MemoryError:
                    pass  # the next leader does
                word_change(&self.word, lead.mine, 0)
                self.ring()
        return 0

    cdef int lead_on(self, Lead *lead) except -1:
        cdef double now, breathed = 0
        cdef Py_ssize_t got
        cdef bint polled = False
        while not self.over and self.born == forks:
            now = sock_now()
            if self.called or now >= self.next_at:
                atomic_set(&self.called, 0)
                self.next_at = self.server._attend(now)
                continue
            if self.later and now >= self.later_at:
                self.try_later(now)
            if now - breathed > BREATH:
                breathed = now
                with nogil:
                    pass
                PyErr_CheckSignals()
            if self.at < self.filled:
                if self.out and (
                    self.out == DGRAM_BATCH or self.followers == 0
                    or now - self.oldest > REPLY_DELAY
                ):
                    # Also where nobody would send them if the next handler blocks.
                    self.flush()
                if not self.serve(lead):
                    return 0
                self.served_once = True
                continue
            self.flush()
            if self.once and self.served_once:
                if not self.later:
                    self.end()
                else:
                    self.wait(now, 0)
                continue
            if self.later and self.hold_off(now):
                with nogil:
                    dgram_nap(HELD_OFF_NAP)
                breathed = now
                continue
            got = dgram_recv(
                self.fd, self.inbox, 1 if self.once else self.inbox.count, False)
            if got > 0:
                self.at = 0
                self.filled = <int>got
                self.errors = 0
                polled = False
            elif sock_again(got):
                if self.draining and not self.later:
                    self.server._drained()
                    continue
                if polled and dgram_is_shut(self.fd):
                    raise ConnectionClosed("the server's socket was shut down")
                polled = self.wait(now, SOCK_READ) & SOCK_READ
                breathed = sock_now()
            elif sock_intr(got):
                PyErr_CheckSignals()
            else:
                self.meet_error(got)
        return 0

    cdef int wait(self, double now, int want) except -1:
        """Sleep until *want*, or something else, is due; return what can be done."""
        cdef double left = max(0.0, self.next_at - now)
        cdef int ready
        if self.later:
            left = min(left, max(0.0, self.later_at - now))
        if PyThread_get_thread_ident() == main_thread:
            left = min(left, NAP)
        with nogil:
            ready = sock_poll(self.fd, SOCK_BAD, want, wake_fd(&self.wake), left)
        if ready > 0 and ready & SOCK_WOKEN:
            wake_clear(&self.wake)
        if ready < 0 and not sock_intr(ready):
            sock_raise(ready)
        PyErr_CheckSignals()
        return max(0, ready)

    cdef int meet_error(self, Py_ssize_t error) except -1:
        """Survive what the system says of the socket, which is mostly of one reply."""
        cdef double pause = AFTER_ERRORS
        if -error in (errno.EBADF, errno.ENOTSOCK, errno.EINVAL):
            sock_raise(error)
        self.errors += 1
        if self.errors >= ERRORS_IN_A_ROW:
            self.errors = 0
            with nogil:
                sock_poll(SOCK_BAD, SOCK_BAD, 0, wake_fd(&self.wake), pause)
        return 0

    cdef bint serve(self, Lead *lead) except -1:
        """Serve the next datagram of the inbox; return whether this thread still leads."""
        cdef dgram *slot = &self.inbox.slots[self.at]
        cdef Sender sender = None
        cdef dgram_peer peer
        cdef Py_ssize_t asked = slot.length
        cdef bint leads
        self.at += 1
        if self.draining:
            self.to_drain -= 1
            if self.to_drain < 0:
                self.server._drained()
                return True
        if slot.cut:
            self.too_long += 1
            self.server._lost("request", slot.length, dgram_address(&slot.peer), None)
            return True
        if slot.length == 0 and dgram_family(&slot.peer) == 0 and self.family != AF_UNIX:
            raise ConnectionClosed("the server's socket was shut down")
        self.messages_in += 1
        self.bytes_in += asked
        peer = slot.peer
        message = PyBytes_FromStringAndSize(slot.data, asked)
        if self.pass_sender or self.unwrap is not None:
            sender = self.sender_of(&peer, asked)
            if self.unwrap is not None:
                message = self.unwrap(message, sender.address)
                if message is None:
                    self.refused += 1
                    return True
                message, sender.claimed, sender.proxy = message
        self.enter_handler(lead)
        try:
            reply = self.handler(message, sender) if self.pass_sender else (
                self.handler(message))
        except BaseException as exc:
            if sender is None:
                sender = self.sender_of(&peer, asked)
            return self.fail(message, sender, exc, lead)
        if self.born != forks:
            lead.lost = True  # a child that has come back from a handler: not its server
            return False
        leads = lead_step(lead, 0)
        if reply is None:
            return leads
        if leads and sender is None and PyBytes_CheckExact(reply) and (
            self.ratio < 0 or PyBytes_GET_SIZE(reply) <= asked * self.ratio
            or dgram_is_local(&peer)
        ) and not self.later and dgram_has_name(&peer):
            self.gather(&peer, reply)
            return True
        if sender is None:
            sender = self.sender_of(&peer, asked)
        try:
            self.reply(sender, reply, lead)
        except BaseException as exc:
            return self.fail(message, sender, exc, lead)
        return not lead.lost

    cdef Sender sender_of(self, dgram_peer *peer, Py_ssize_t asked):
        cdef Sender sender = Sender.__new__(Sender)
        sender.peer = peer[0]
        sender.asked = asked
        sender.crew = self
        return sender

    cdef bint fail(self, message, Sender sender, exc, Lead *lead) except -1:
        """Deal with what a handler has raised; return whether this thread still leads."""
        if self.workers == 0 and not isinstance(exc, Exception):
            lead_step(lead, 0)
            raise exc
        if self.born != forks:
            lead.lost = True
            return False
        self.enter_handler(lead)  # handle_error() may take its time
        try:
            self.server._failed(message, sender.address)
        except MemoryError:
            pass  # nobody can be told
        return lead_step(lead, 0)

    cdef int reply(self, Sender sender, reply, Lead *lead) except -1:
        """Send what a handler returned."""
        if PyObject_CheckBuffer(reply):
            self.reply_one(sender, reply, lead)
        elif isinstance(reply, (str, Mapping)) or not isinstance(reply, Iterable):
            raise TypeError(
                f"a handler returns bytes, an iterable of bytes or None, "
                f"not {type(reply).__name__}"
            )
        elif isinstance(reply, (list, tuple)):
            for one in reply:
                if one is not None:
                    check_one(one)
                    self.reply_one(sender, one, lead)
        else:
            self.reply_with_each(sender, reply, lead)
        return 0

    cdef int reply_with_each(self, Sender sender, reply, Lead *lead) except -1:
        """Send what an iterator gives; it may take its time, and have no end."""
        cdef double now, breathed = sock_now()
        self.flush_if(lead)
        self.enter_handler(lead)  # all the way, so that another goes on with the others
        try:
            for one in reply:
                if self.born != forks:
                    lead.lost = True
                    return 0
                if one is not None:
                    check_one(one)
                    self.send_aside(
                        sender, one if PyBytes_CheckExact(one) else bytes(memoryview(one)))
                now = sock_now()
                if now - breathed > TURN_OF_OTHERS:
                    # For so long that whoever waits for the GIL really gets it.
                    with nogil:
                        dgram_nap(HELD_OFF_NAP)
                    breathed = sock_now()
                    PyErr_CheckSignals()
                    if self.workers == 0:
                        self.next_at = self.server._attend(now)  # nobody else would
                if self.hurried or (self.workers == 0 and self.over):
                    return 0
        finally:
            if not lead.lost:
                lead_step(lead, 0)
        return 0

    cdef int flush_if(self, Lead *lead) except -1:
        if not lead.lost:
            self.flush()
        return 0


cdef int check_one(one) except -1:
    if not PyObject_CheckBuffer(one):
        raise TypeError(
            f"a handler's iterable holds bytes or None, not {type(one).__name__}")
    return 0
