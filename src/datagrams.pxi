# Datagrams over one socket: each is a message, nothing is cut or put together.

from cpython.unicode cimport PyUnicode_AsUTF8


cdef extern from "dgramio.h" nogil:
    ctypedef struct dgram_peer:
        int control_size
    ctypedef struct dgram:
        char *data
        Py_ssize_t length
        bint cut
        dgram_peer peer
    ctypedef struct dgram_inbox:
        Py_ssize_t room
        int count
        bint answers
        dgram *slots
    const int DGRAM_BATCH
    dgram_inbox *dgram_inbox_new(Py_ssize_t room, int count)
    void dgram_inbox_free(dgram_inbox *inbox)
    void dgram_prepare(sock_t fd)
    Py_ssize_t dgram_recv(sock_t fd, dgram_inbox *inbox, int most, bint waiting)
    Py_ssize_t dgram_send(sock_t fd, sock_iov *iov, const dgram_peer *const *to, int n)
    int dgram_ask_answers(sock_t fd, int family)
    long long dgram_dropped(sock_t fd)
    bint dgram_is_shut(sock_t fd)
    void dgram_nap(long microseconds)
    int dgram_family(const dgram_peer *peer)
    bint dgram_is_local(const dgram_peer *peer)
    bint dgram_has_name(const dgram_peer *peer)
    bint dgram_name_inet(dgram_peer *peer, const char *host, int port)
    bint dgram_name_inet6(
        dgram_peer *peer, const char *host, int port, unsigned flow, unsigned scope)
    bint dgram_name_unix(dgram_peer *peer, const char *path, Py_ssize_t n)
    bint dgram_name_bytes(dgram_peer *peer, const char *data, Py_ssize_t n)

cdef extern from "dgramio.h":
    object dgram_address(const dgram_peer *peer)


cdef enum:
    INBOX_BYTES = 4 * 1024 * 1024  # of address space; the system gives what is used of it
    MANY_AT_ONCE = 1024       # datagrams of one recv_many(), unless told otherwise
    UDP_HEADER = 8
    IP_HEADER = 20


cdef int AF_INET = _socket.AF_INET
cdef int AF_INET6 = _socket.AF_INET6
cdef int AF_UNIX = getattr(_socket, "AF_UNIX", -1)
cdef frozenset SCHEMES = frozenset(("tcp", "tls", "udp", "unix", "unixgram"))
cdef double FULL_TICK = 0.001  # first pause before a full queue is tried again
cdef double FULL_TICK_MOST = 0.02
cdef object TOO_LARGE_FOR_ONE = "send less, or several: a datagram goes whole or not at all"


cdef dgram_inbox *make_inbox(Py_ssize_t room) except NULL:
    cdef int count = <int>max(1, min(DGRAM_BATCH, INBOX_BYTES // room))
    cdef dgram_inbox *inbox = dgram_inbox_new(room, count)
    if inbox == NULL:
        raise MemoryError
    return inbox


cdef int name_peer(dgram_peer *peer, int family, address, bint raw=False) except -1:
    """Turn an address as the socket module has it, with a number for a host, into C's."""
    cdef bint fits = False
    if family == AF_INET or family == AF_INET6:
        if not isinstance(address, tuple) or len(address) not in (2, 4):
            raise TypeError(f"address is {address!r}, expected (host, port)")
        host, port = address[0], operator_index(address[1])
        if not isinstance(host, str):
            raise TypeError(f"host is a {type(host).__name__}, expected a str")
        if "\0" in host:
            raise ValueError(f"host {host!r} holds what no name can")
        if not (0 if raw else 1) <= port <= 65535:
            raise ValueError(f"port is {port}, expected 1 to 65535")
        if family == AF_INET:
            fits = dgram_name_inet(peer, PyUnicode_AsUTF8(host), port)
        else:
            if ":" not in host:
                host = f"::ffff:{host}"
            flow, scope = address[2:] if len(address) == 4 else (0, 0)
            if "%" not in host:
                fits = dgram_name_inet6(peer, PyUnicode_AsUTF8(host), port, flow, scope)
    elif family == AF_UNIX:
        if not isinstance(address, (str, bytes)):
            raise TypeError(f"address is {address!r}, expected the path of a Unix socket")
        path = os.fsencode(address)
        fits = (path.startswith(b"\0") or b"\0" not in path) and dgram_name_unix(
            peer, PyBytes_AS_STRING(path), len(path))
    elif isinstance(address, bytes):
        fits = dgram_name_bytes(peer, PyBytes_AS_STRING(address), len(address))
    else:
        raise TypeError(
            f"address is {address!r}; for this family of sockets it is the bytes that "
            "recvfrom() gives")
    if not fits:
        raise ValueError(f"address {address!r} cannot be sent to from this socket")
    return 0


cdef int refuse_cut(dgram *slot, Py_ssize_t room) except -1:
    raise FrameTooLarge(
        slot.length if slot.length else room + 1, room,
        "a datagram that long came, and is lost: pass max_datagram="
        if slot.length else
        "a longer datagram came, and is lost; this system does not tell how long: "
        "pass max_datagram=")


def _largest_datagram(sock):
    """The longest datagram that the socket may send, as far as that can be told."""
    if sock.type == _socket.SOCK_DGRAM and sock.family == AF_INET:
        return 65535 - IP_HEADER - UDP_HEADER
    if sock.type == _socket.SOCK_DGRAM and sock.family == AF_INET6:
        return 65535 - UDP_HEADER
    # Linux takes 32 bytes of it for itself.
    most = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF) - 32
    return min(most, 65535) if sock.family in (AF_INET, AF_INET6) else most


def _dropped_datagrams(sock_t fd):
    """How many the system has dropped for want of room, -1 where it does not tell."""
    return dgram_dropped(fd)


cdef class _Datagrams(_Transport):
    """Datagrams received many at a time and handed out one by one, and sent."""

    cdef dgram_inbox *inbox
    cdef int at               # the next datagram to hand out
    cdef int filled
    cdef int ask              # how many to ask the system for
    cdef int family
    cdef bint raw             # it has no ports
    cdef dgram_peer target    # whom send() sends to, where the socket is not connected
    cdef bint has_target
    cdef object kept          # an error that came behind datagrams
    cdef long long messages_in
    cdef long long messages_out

    def __cinit__(self, *args, **kwargs):
        make_turn(&self.receiving, PyThread_allocate_lock())
        make_turn(&self.sending, PyThread_allocate_lock())

    def __dealloc__(self):
        dgram_inbox_free(self.inbox)
        free_turn(&self.receiving)
        free_turn(&self.sending)

    cdef int leave_receiving(self) except -1:
        self.leave(&self.receiving)
        return 0

    cdef int leave_sending(self) except -1:
        self.leave(&self.sending)
        return 0

    # ------------------------------------------------------------ receiving

    cdef bint has_one(self) noexcept:
        """Whether a datagram can be handed out without a turn, or any system call."""
        return (
            not GLANCE_TAKES and self.at < self.filled and not self.closed
            and self.born == forks and owner_glance(&self.receiving.owner)
        )

    cdef bytes take(self):
        """Hand out the next datagram of the inbox, which is not empty."""
        cdef bytes message = self.front()
        self.drop_front()
        return message

    cdef bytes front(self):
        """The next datagram, which stays; one that is refused does not."""
        cdef dgram *slot = &self.inbox.slots[self.at]
        if slot.cut:
            self.at += 1
            refuse_cut(slot, self.inbox.room)
        if slot.length == 0:
            self.check_shut(slot)
        return PyBytes_FromStringAndSize(slot.data, slot.length)

    cdef void drop_front(self) noexcept:
        self.messages_in += 1
        self.bytes_in += self.inbox.slots[self.at].length
        self.at += 1

    cdef int check_shut(self, dgram *slot) except -1:
        """Tell a datagram of no bytes from a socket that was shut down."""
        if dgram_family(&slot.peer) == 0 and (
            self.family == AF_INET or self.family == AF_INET6
        ):
            self.at += 1
            raise ConnectionClosed("the socket was shut down")
        return 0

    cdef int fill(self, int most, Deadline *until) except -1:
        """Receive at least one datagram into the inbox, which is empty."""
        cdef Py_ssize_t got
        cdef bint polled = False
        if self.kept is not None:
            kept, self.kept = self.kept, None
            raise kept
        while True:
            if self.foreseen and not polled and until.seconds != 0:
                self.foreseen -= 1
                got = SOCK_AGAIN
            else:
                got = self.try_fill(most, False)
                if got > 0:
                    return 0
                if sock_again(got):
                    self.foreseen = FORESEEN
            if sock_again(got):
                if polled and dgram_is_shut(self.reader):
                    raise ConnectionClosed("the socket was shut down")
                self.waits_in += 1
                if self.may_sleep_in_recv(until):
                    got = self.try_fill(most, True)
                    if got > 0:
                        return 0
                    if sock_again(got):
                        self.nonblocking = True
                if sock_again(got):
                    self.wait(SOCK_READ, until)
                    polled = True
                    continue
            if sock_intr(got):
                PyErr_CheckSignals()
                self.check_end(SOCK_READ)
            else:
                # About a datagram sent before, mostly: the socket goes on.
                sock_raise(got)

    cdef Py_ssize_t try_fill(self, int most, bint waiting) noexcept:
        """Receive up to *most* datagrams; return how many, or the negative error."""
        cdef Py_ssize_t got
        most = min(most, self.inbox.count)
        self.calls_in += 1
        if waiting or most * self.inbox.room > LONG_CALL and self.heavy():
            with nogil:
                got = dgram_recv(self.reader, self.inbox, most, waiting)
        else:
            got = dgram_recv(self.reader, self.inbox, most, waiting)
        if got > 0:
            self.at = 0
            self.filled = <int>got
            self.ask = min(2 * most, self.inbox.count) if got == most else max(1, <int>got)
        return got

    cdef bint heavy(self) noexcept:
        """Whether the datagrams received last were long ones."""
        return self.filled > 0 and self.filled * self.inbox.slots[0].length > LONG_CALL // 4

    def recv(self):
        """Return the next datagram's bytes; there may be none in it.

        Raises:
            ConnectionClosed: the socket was closed here.
            FrameTooLarge: the datagram was longer than `max_datagram`, and is lost.
            TimeoutError: the deadline passed.
            OSError: an earlier datagram could not be delivered, say; the socket goes on.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        if self.has_one():
            return self.take()
        self.enter(&self.receiving, &until)
        try:
            if self.at == self.filled:
                self.fill(self.ask, &until)
            return self.take()
        finally:
            self.leave_receiving()

    def recvfrom(self):
        """Return (the next datagram's bytes, the address it came from).

        The address is as the socket module gives it: (host, port), with flow and scope for
        IPv6; the path of a Unix socket, or None where it has none.

        Raises: as `recv`.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.receiving, &until)
        try:
            if self.at == self.filled:
                self.fill(self.ask, &until)
            answer = self.front(), dgram_address(&self.inbox.slots[self.at].peer)
            self.drop_front()
            return answer
        finally:
            self.leave_receiving()

    def __iter__(self):
        return self

    def __next__(self):
        return self.recv()

    def recv_many(self, limit=None):
        """Wait for one datagram; return it and others that have arrived.

        Args:
            limit: the most to return; None: 1,024.

        Raises: as `recv`; what came before a datagram that is refused is returned first.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef Py_ssize_t most = MANY_AT_ONCE if limit is None else limit
        cdef Py_ssize_t got
        cdef int asked
        cdef list messages = []
        if most < 1:
            raise ValueError(f"limit is {limit}, expected 1 or more, or None")
        self.enter(&self.receiving, &until)
        try:
            if self.at == self.filled:
                self.fill(<int>min(most, <Py_ssize_t>DGRAM_BATCH), &until)
            while True:
                while self.at < self.filled and len(messages) < most:
                    if messages and self.inbox.slots[self.at].cut:
                        return messages
                    messages.append(self.front())
                    self.drop_front()
                if len(messages) == most:
                    return messages
                asked = <int>min(most - len(messages), <Py_ssize_t>DGRAM_BATCH)
                got = self.try_fill(asked, False)
                if got <= 0:
                    if not sock_again(got) and not sock_intr(got):
                        self.keep_error(got)
                    return messages
        except MemoryError:
            if not messages:
                raise
            return messages  # they would be lost
        finally:
            self.leave_receiving()

    cdef int keep_error(self, Py_ssize_t error) except -1:
        try:
            sock_raise(error)
        except OSError as exc:
            self.kept = exc.with_traceback(None)
        return 0

    def recv_into(self, buffer):
        """Receive the next datagram into *buffer*; return its size.

        Raises: as `recv`; BufferError: *buffer* is too small, and the datagram
            is still there for the next call.
        """
        cdef Py_buffer view
        cdef dgram *slot
        cdef object count  # made before the datagram is gone: there may be no memory for it
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            self.enter(&self.receiving, &until)
            try:
                if self.at == self.filled:
                    self.fill(self.ask, &until)
                slot = &self.inbox.slots[self.at]
                if not slot.cut and slot.length > view.len:
                    raise BufferError(
                        f"the datagram is {slot.length} bytes long, the buffer {view.len}")
                if slot.cut:
                    self.at += 1
                    refuse_cut(slot, self.inbox.room)
                if slot.length == 0:
                    self.check_shut(slot)
                count = slot.length
                memcpy(view.buf, slot.data, slot.length)
                self.drop_front()
                return count
            finally:
                self.leave_receiving()
        finally:
            PyBuffer_Release(&view)

    # ------------------------------------------------------------ sending

    def send(self, message, *more):
        """Send one datagram to the address that this object was made for.

        Raises:
            FrameTooLarge: no datagram carries that much; nothing was sent.
            TimeoutError: the receiver's queue, or this one's, stayed full.
            OSError: it cannot be sent, or an earlier one could not be delivered.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        if more:
            message = b"".join((message, *more))
        self.enter(&self.sending, &until)
        try:
            self.send_one(message, &self.target if self.has_target else NULL, &until)
        finally:
            self.leave_sending()

    def _set_target(self, address):
        """Have `send` send to *address* although the socket is not connected."""
        self.name(&self.target, address)
        self.has_target = True

    def sendto(self, message, address):
        """Send one datagram to *address*, as `recvfrom` gives it, or any other form.

        Raises: as `send`; ValueError: *address* is malformed.
        """
        cdef dgram_peer peer
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.name(&peer, address)
        self.enter(&self.sending, &until)
        try:
            self.send_one(message, &peer, &until)
        finally:
            self.leave_sending()

    cdef int name(self, dgram_peer *peer, address) except -1:
        self.check_owner()
        try:
            if self.family == AF_UNIX and isinstance(address, str):
                if address.partition(":")[0].lower() in SCHEMES:
                    address = self._resolve(address)
            name_peer(peer, self.family, address, self.raw)
        except (TypeError, ValueError):
            name_peer(peer, self.family, self._resolve(address))
        return 0

    def _connect_again(self):
        """Connect where the system has undone it; return whether that is possible."""
        return False

    def _resolve(self, address):
        """Turn an address of any form into the socket module's, with a number for a host."""
        raise ValueError(f"address {address!r} cannot be sent to from this socket")

    cdef int send_one(self, message, const dgram_peer *peer, Deadline *until) except -1:
        cdef Py_buffer view
        cdef sock_iov iov
        PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
        try:
            iov_set(&iov, <char *>view.buf, view.len)
            self.send_batch(&iov, NULL if peer == NULL else &peer, 1, until)
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef Py_ssize_t send_batch(
        self, sock_iov *iov, const dgram_peer *const *to, int n, Deadline *until
    ) except -1:
        """Send at least one of *n* datagrams; return how many."""
        cdef Py_ssize_t sent, size = 0
        cdef double tick = FULL_TICK
        cdef int i
        for i in range(n):
            size += iov_len(&iov[i])
        while True:
            self.calls_out += 1
            if size < LONG_CALL:
                sent = dgram_send(self.writer, iov, to, n)
            else:
                with nogil:
                    sent = dgram_send(self.writer, iov, to, n)
            if sent > 0:
                self.messages_out += sent
                for i in range(<int>sent):
                    self.bytes_out += iov_len(&iov[i])
                return sent
            if sock_again(sent):
                self.waits_out += 1
                self.wait_for_room(&tick, to != NULL, until)
            elif sock_intr(sent):
                PyErr_CheckSignals()
            elif -sent == errno.EMSGSIZE:
                self.refuse_size(iov_len(&iov[0]))
            elif to == NULL and -sent == errno.ENOTCONN and self._connect_again():
                continue
            elif to == NULL and -sent in (errno.EDESTADDRREQ, errno.ENOTCONN):
                raise OSError(
                    -sent,
                    "this socket has no address to send to: give it one, or use sendto()")
            else:
                sock_raise(sent)

    cdef int wait_for_room(self, double *tick, bint unconnected, Deadline *until) except -1:
        cdef double left
        cdef int ready
        try:
            if not unconnected or self.family != AF_UNIX:
                self.wait(SOCK_WRITE, until)
                return 0
            # What is full is one receiver's queue, of which no poll tells.
            left = self.remaining(until)
            if left == 0:
                raise BlockingIOError(errno.EAGAIN, "the receiver's queue is full")
            self.hold_wake()
            self.check_end(SOCK_WRITE)
            left = tick[0] if left < 0 else min(left, tick[0])
            with nogil:
                ready = sock_poll(SOCK_BAD, SOCK_BAD, 0, wake_fd(&self.wake), left)
            if ready < 0 and not sock_intr(ready):
                sock_raise(ready)
            tick[0] = min(2 * tick[0], FULL_TICK_MOST)
            PyErr_CheckSignals()
        except TimeoutError as exc:
            exc.accepted = False
            raise
        return 0

    cdef int refuse_size(self, Py_ssize_t length) except -1:
        cdef Py_ssize_t limit = _largest_datagram(self.sock)
        hint = TOO_LARGE_FOR_ONE
        if length <= limit:
            # IPv4 by its mapped address, or what the network takes unbroken.
            limit = min(limit - IP_HEADER if self.family == AF_INET6 else limit, length - 1)
            hint = "the way there takes none that long: send less, or several"
        raise FrameTooLarge(length, limit, hint)

    def send_many(self, messages):
        """Send many datagrams in few system calls; return how many.

        Raises: as `send`; the error's `accepted` counts the datagrams sent.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef Py_buffer views[64]
        cdef sock_iov iov[64]
        cdef const dgram_peer *to[64]
        cdef const dgram_peer *const *there = NULL
        cdef Py_ssize_t total = 0
        cdef int n, at, sent
        cdef bint more = True
        refusal = None
        iterator = iter(messages)
        if self.has_target:
            for n in range(64):
                to[n] = &self.target
            there = to
        self.enter(&self.sending, &until)
        try:
            while more:
                n = at = 0
                self.check_end(SOCK_WRITE)
                if until.seconds > 0:
                    self.remaining(&until)
                try:
                    while n < 64:
                        PyObject_GetBuffer(next(iterator), &views[n], PyBUF_SIMPLE)
                        iov_set(&iov[n], <char *>views[n].buf, views[n].len)
                        n += 1
                except StopIteration:
                    more = False
                except BaseException as exc:
                    more = False
                    refusal = exc  # what came before it is sent
                try:
                    while at < n:
                        sent = <int>self.send_batch(&iov[at], there, n - at, &until)
                        at += sent
                        total += sent
                finally:
                    for at in range(n):
                        PyBuffer_Release(&views[at])
            if refusal is not None:
                raise refusal
            return total
        except BaseException as exc:
            told = exc if refusal is None else refusal
            with contextlib.suppress(AttributeError):
                told.accepted = total
            if told is exc:
                raise
            raise told
        finally:
            self.leave_sending()
