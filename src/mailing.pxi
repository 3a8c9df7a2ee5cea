# Replies to datagrams, on their way out: gathered for one system call, kept for a while
# where a receiver's queue is full, refused where they would flood somebody.


cdef enum:
    LATER_MOST = 4096         # replies that wait for a full queue
    LATER_BYTES = 16 * 1024 * 1024
    LATER_EACH = 1024         # for one receiver: others have their share
    HELD_OFF = 32             # waiting for one who reads: nothing more is received


cdef Py_ssize_t errno_closed = errno.EBADF
cdef double LATER_TICK = 0.005  # until a full queue is tried again
cdef double READS_STILL = 0.005  # since it took one: the receiver will take more
cdef long HELD_OFF_NAP = 100  # microseconds


cdef class _Waiting:
    """Replies that wait for one receiver, whose queue is full."""

    cdef object queue         # deque of (deadline, Sender, reply)
    cdef double moved_at      # when it last took one


@cython.final
cdef class Sender:
    """Who sent the datagram that a handler is called with.

    `address` is where it came from, as the socket module gives it; None for a Unix socket
    without a name, which cannot be answered.
    """

    cdef dgram_peer peer
    cdef object claimed       # the client's address, where a proxy tells it
    cdef Py_ssize_t asked     # bytes of its datagram
    cdef Py_ssize_t spent     # bytes of the replies to it
    cdef _Mailer crew
    cdef readonly object proxy  # what a PROXY header said, or None

    @property
    def address(self):
        return dgram_address(&self.peer) if self.claimed is None else self.claimed

    def send(self, message):
        """Send a datagram to the sender, before any that the handler returns.

        Raises:
            FrameTooLarge: no datagram carries that much.
            PermissionError: it is more than an address that has proved nothing may get.
            TimeoutError: the receiver's queue stayed full for the server's `send_timeout`.
            OSError: it cannot be sent.
        """
        if self.crew is None:
            raise RuntimeError("only a server makes a Sender")
        self.crew.send_from_handler(self, message)

    def __repr__(self):
        return f"<Sender {self.address!r}>"


cdef class _Mailer(_Leadership):
    """The outbox of a server of datagrams; it is the leader's."""

    cdef object server
    cdef object sock
    cdef sock_t fd
    cdef int family
    cdef dgram_peer peers[64]
    cdef const dgram_peer *to[64]
    cdef sock_iov iov[64]
    cdef PyObject *held[64]   # the replies in the outbox
    cdef int out
    cdef double oldest        # of them
    cdef dict later           # address -> _Waiting: its queue is full
    cdef Py_ssize_t later_count, later_bytes
    cdef double later_at
    cdef double ratio         # of bytes replied to bytes asked, for strangers
    cdef double patience      # seconds that a full queue is tried for
    cdef public shared_flag hurried  # the drain is over: nobody waits for replies any more
    cdef readonly long long messages_out, replies_lost, bytes_out  # by any thread

    def __cinit__(self, handler, bint pass_sender, long workers, server):
        self.server = server
        self.later = {}
        self.fd = SOCK_BAD

    def __dealloc__(self):
        cdef int i
        for i in range(self.out):
            Py_XDECREF(self.held[i])

    cdef int reply_one(self, Sender sender, reply, Lead *lead) except -1:
        """Send one reply, or log why not; for who leads, if nobody has taken over."""
        cdef bint may
        data = reply if PyBytes_CheckExact(reply) else bytes(memoryview(reply))
        if lead.lost:
            return self.send_aside(sender, data)
        if not dgram_has_name(&sender.peer):
            return self.lose(sender, data, "reply to nobody", None)
        if not self.within_budget(sender, len(data)):
            self.enter_handler(lead)  # the server's own function may take its time
            may = self.may_get(sender, len(data))
            lead_step(lead, 0)
            if not may:
                return self.lose(sender, data, "reply refused", None)
        if lead.lost:
            return self.keep_or_lose(sender, data)
        if self.later and sender.address in self.later:
            self.put_off(sender, data)  # behind what waits already
        else:
            if self.out == DGRAM_BATCH:
                self.flush()
            self.gather(&sender.peer, data)
        return 0

    cdef int send_aside(self, Sender sender, bytes data) except -1:
        """Send one reply past the outbox, or log why not; for who need not lead."""
        if not dgram_has_name(&sender.peer):
            return self.lose(sender, data, "reply to nobody", None)
        if not self.may_get(sender, len(data)):
            return self.lose(sender, data, "reply refused", None)
        return self.keep_or_lose(sender, data)

    cdef int keep_or_lose(self, Sender sender, bytes data) except -1:
        cdef Py_ssize_t result = self.keep_trying(sender, data)
        if result < 0:
            self.lose(sender, data, "reply", result)
        return 0

    cdef bint within_budget(self, Sender sender, Py_ssize_t length) noexcept:
        """Whether so many more bytes may go to wherever it is; then they are booked."""
        if self.ratio < 0 or sender.spent + length <= sender.asked * self.ratio or (
            sender.claimed is None and dgram_is_local(&sender.peer)
        ):
            sender.spent += length
            return True
        return False

    cdef bint may_get(self, Sender sender, Py_ssize_t length) except -1:
        """Whether so many more bytes may go to where a datagram claims to be from."""
        return self.within_budget(sender, length) or self.server._proven(sender.address)

    cdef int gather(self, dgram_peer *peer, bytes reply) except -1:
        """Put a reply into the outbox, which has room."""
        if self.out == 0:
            self.oldest = sock_now()
        self.peers[self.out] = peer[0]
        self.to[self.out] = &self.peers[self.out]
        iov_set(&self.iov[self.out], PyBytes_AS_STRING(reply), len(reply))
        self.held[self.out] = <PyObject *>reply
        Py_INCREF(reply)
        self.out += 1
        return 0

    cdef int flush(self) except -1:
        """Send what is in the outbox."""
        cdef int at = 0, i
        cdef Py_ssize_t sent
        try:
            while at < self.out:
                if self.later and self.stand_behind(at):
                    at += 1
                    continue
                sent = dgram_send(
                    self.fd, &self.iov[at], &self.to[at], 1 if self.later else self.out - at)
                if sent > 0:
                    for i in range(<int>sent):
                        atomic_count(&self.bytes_out, iov_len(&self.iov[at + i]))
                    atomic_count(&self.messages_out, sent)
                    at += <int>sent
                elif not sock_intr(sent):
                    self.settle(at, sent)
                    at += 1
        finally:
            for i in range(self.out):
                Py_XDECREF(self.held[i])
            self.out = 0
        return 0

    cdef bint stand_behind(self, int i) except -1:
        """Put a reply of the outbox off where earlier ones wait for its receiver."""
        if dgram_address(&self.peers[i]) not in self.later:
            return False
        self.put_off(self.sender_at(i), <object>self.held[i])
        return True

    cdef Sender sender_at(self, int i):
        cdef Sender sender = Sender.__new__(Sender)
        sender.peer = self.peers[i]
        return sender

    cdef int settle(self, int i, Py_ssize_t error) except -1:
        """Deal with a reply of the outbox that the system does not take."""
        cdef Sender sender = self.sender_at(i)
        data = <object>self.held[i]
        if not sock_again(error) and sender.peer.control_size:
            # Perhaps it was not sent to an address that can be answered from.
            error = self.send_now(sender, data)
            if error == 0:
                return 0
        if sock_again(error):
            self.put_off(sender, data)
        else:
            self.lose(sender, data, "reply", error)
        return 0

    cdef int lose(self, Sender sender, data, what, error) except -1:
        atomic_count(&self.replies_lost, 1)
        self.server._lost(what, len(data), sender.address, error)
        return 0

    cdef Py_ssize_t send_now(self, Sender sender, bytes data) noexcept:
        """Send one datagram; return 0 or the negative error."""
        cdef sock_iov iov
        cdef const dgram_peer *to = &sender.peer
        cdef Py_ssize_t sent
        iov_set(&iov, PyBytes_AS_STRING(data), len(data))
        while True:
            with cython.critical_section(self):  # its number may be another's, once given up
                sent = -errno_closed
                if self.fd != SOCK_BAD:
                    sent = dgram_send(self.fd, &iov, &to, 1)
            if sent > 0:
                atomic_count(&self.messages_out, 1)
                atomic_count(&self.bytes_out, len(data))
                return 0
            if sock_intr(sent):
                continue
            if sender.peer.control_size and not sock_again(sent):
                sender.peer.control_size = 0
                continue
            return sent

    # ------------------------------------------------------------ full queues

    cdef int put_off(self, Sender sender, bytes data) except -1:
        """Keep a reply for as long as its receiver's queue may be full."""
        cdef _Waiting waiting = self.later.get(sender.address)
        if (
            self.later_count >= LATER_MOST or self.later_bytes + len(data) > LATER_BYTES
            or (waiting is not None and len(waiting.queue) >= LATER_EACH)
        ):
            return self.lose(sender, data, "reply", -errno.EAGAIN)
        if not self.later:
            self.later_at = sock_now() + LATER_TICK
        if waiting is None:
            waiting = _Waiting()
            waiting.queue = deque()
            waiting.moved_at = sock_now()
            self.later[sender.address] = waiting
        self.later_count += 1
        self.later_bytes += len(data)
        waiting.queue.append((sock_now() + self.patience, sender, data))
        return 0

    cdef int try_later(self, double now) except -1:
        """Send of what was put off what can be sent."""
        cdef Py_ssize_t result
        cdef _Waiting waiting
        for address in list(self.later):
            waiting = self.later[address]
            while waiting.queue:
                end, sender, data = waiting.queue[0]
                result = self.send_now(<Sender>sender, data)
                if sock_again(result) and now < end and not self.hurried:
                    break
                waiting.queue.popleft()
                self.later_count -= 1
                self.later_bytes -= len(data)
                if result == 0:
                    waiting.moved_at = now
                else:
                    self.lose(<Sender>sender, data, "reply", result)
            if not waiting.queue:
                del self.later[address]
        self.later_at = sock_now() + LATER_TICK
        return 0

    cdef bint hold_off(self, double now) except -1:
        """Whether to receive nothing for a moment: one who reads has much to read.

        Its own sends wait meanwhile, as the system's queue for this server is full.  One
        who does not read holds up nobody: its replies are lost when they are too many.
        """
        cdef _Waiting waiting
        if self.later_count < HELD_OFF:
            return False
        self.try_later(now)
        for waiting in self.later.values():
            if len(waiting.queue) >= HELD_OFF and now - waiting.moved_at < READS_STILL:
                return True
        return False

    def give_up(self):
        """Forget the socket, whose number may soon be another's; nothing is sent any more."""
        self.hurried = True
        if self.fd != SOCK_BAD:
            self.try_later(0)
            with cython.critical_section(self):
                self.fd = SOCK_BAD

    cdef Py_ssize_t keep_trying(self, Sender sender, bytes data) except? -1:
        """Send one datagram, waiting for its receiver; return 0 or the negative error."""
        cdef double end = 0
        cdef double tick = FULL_TICK
        cdef Py_ssize_t result
        while True:
            result = self.send_now(sender, data)
            if not sock_again(result) or self.hurried:
                return result
            if end == 0:
                end = sock_now() + self.patience
            elif sock_now() >= end:
                return result
            with nogil:
                sock_poll(SOCK_BAD, SOCK_BAD, 0, SOCK_BAD, tick)
            tick = min(2 * tick, FULL_TICK_MOST)
            PyErr_CheckSignals()

    cdef int send_from_handler(self, Sender sender, message) except -1:
        """Send one datagram for a handler, and let it hear what is wrong."""
        cdef Py_ssize_t result
        cdef bytes data = message if PyBytes_CheckExact(message) else bytes(
            memoryview(message))
        if not dgram_has_name(&sender.peer):
            raise OSError(
                errno.EDESTADDRREQ,
                "the sender's Unix socket has no name, so it cannot be answered: the "
                "client has to bind it, as DatagramClient does")
        if self.fd == SOCK_BAD or self.born != forks:
            raise ConnectionClosed("the server has ended")
        if not self.may_get(sender, len(data)):
            raise PermissionError(errno.EPERM, self.server._why_refused(
                len(data), sender.address))
        result = self.keep_trying(sender, data)
        if sock_again(result):
            raise TimeoutError(f"the receiver's queue has been full for {self.patience} s")
        if result < 0:
            if -result == errno.EMSGSIZE:
                raise FrameTooLarge(len(data), self.server._largest(), TOO_LARGE_FOR_ONE)
            sock_raise(result)
        return 0
