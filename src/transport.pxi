# Bytes over one socket, two pipe ends or a foreign object: system calls that never block
# with the GIL, waits with a deadline, turns between threads, and waking who sleeps.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    ctypedef struct PyInterpreterState:
        pass
    PyInterpreterState *PyInterpreterState_Get()
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *interpreter)
    PyThreadState *PyThreadState_Next(PyThreadState *state)


cdef enum Kind_of_end:
    SOCKET
    PASSING                   # one that takes descriptors: see passing.pxi
    SEQPACKET                 # one that keeps the borders of what was sent: there too
    ENCRYPTED                 # a socket, with TLS in between
    PIPE
    FOREIGN


cdef enum:
    LONG_CALL = 128 * 1024    # a system call that may copy more lets other threads run
    IOV_MOST = 64             # pieces in one system call
    FORESEEN = 7              # receives that sleep at once, behind one that found nothing
    FOREIGN_PART = 256 * 1024  # given to a foreign object at a time


# Counts forks: a stream from before the last one belongs to the parent.
cdef unsigned int forks = 0


# A signal that comes between the last look at it and poll() does not end the poll: the
# main thread, in which handlers run, sleeps no longer than this at a time.
cdef double NAP = 0.5
cdef double LOOK = 0.05  # so often a callback that waits for a turn looks for the end
cdef size_t main_thread = threading.main_thread().ident


def _after_fork_in_child():
    global forks, main_thread
    forks += 1
    main_thread = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


cdef struct Deadline:
    # Of one call.  The clock is read at the call's first wait, so that a call which need
    # not wait never reads it.
    double seconds            # or NO_LIMIT; 0: the call must not wait
    double at                 # NOT_BEGUN until then


cdef double NO_LIMIT = -1.0
cdef double NOT_BEGUN = 0.0
cdef double LONGEST = 2e6  # 23 days: what a socket's settimeout() takes everywhere
cdef double WINDING_UP_TICK = 0.05
cdef double SPIN_SLICE = 0.01  # then signals are looked at


cdef double seconds_or_none(value) except -2:
    """Return a timeout as a double, NO_LIMIT for None."""
    cdef double seconds
    if value is None:
        return NO_LIMIT
    if not isinstance(value, (int, float)):
        raise TypeError(f"timeout is a {type(value).__name__}, expected seconds or None")
    seconds = value
    if not seconds >= 0:
        raise ValueError(f"timeout is {value}, expected seconds of 0 or more, or None")
    return seconds


cdef class _Transport:
    """The bytes below a FrameStream; knows deadlines, not frames."""

    cdef object sock
    cdef shared_flag made     # there has been one
    cdef object settle        # a foreign object's settimeout, or None
    cdef Kind_of_end kind
    cdef _Tls crypt           # where the kind is ENCRYPTED
    cdef sock_t reader
    cdef sock_t writer
    cdef bint nonblocking     # a socket that has been seen not to block
    cdef bint reader_nonblocking
    cdef bint writer_nonblocking
    cdef double limit         # seconds for each call, or NO_LIMIT
    cdef double spinning
    cdef sock_wake wake
    cdef shared_flag can_wake
    cdef shared_long watchers  # for whom the wake stays open to the end
    cdef readonly shared_flag closed
    cdef shared_flag ending   # closed by one who could not wait for who is in a call
    cdef shared_flag winding_up  # nothing new is wanted: a receive between frames ends
    cdef shared_flag cut_off  # both directions were shut down here
    cdef bint renewable       # a client that connects again by itself
    cdef shared_flag renewing  # it is doing so: calls on the old connection end
    cdef shared_long receive_error  # a failed direction stays failed: negative system errors
    cdef shared_long send_error
    cdef double patience_in   # seconds of silence in one wait, where nobody else looks
    cdef double patience_out  # and without a byte taken, since then:
    cdef double refused_at
    cdef long long refused_behind
    cdef shared_long waiting_for  # what a call sleeps for: SOCK_READ, SOCK_WRITE
    cdef int foreseen         # receives for which nothing will have come yet
    cdef Turn receiving       # made by those that take turns
    cdef Turn sending
    cdef shared_flag lost     # an error that ends the connection has been raised
    cdef unsigned int born    # how many forks there had been
    cdef long long calls_in, waits_in, calls_out, waits_out, bytes_in, bytes_out

    cdef int attach(self, sock, double limit, double spin, _Tls tls=None) except -1:
        """Take up the first socket, or what is used as one."""
        self.limit = limit
        self.patience_in = self.patience_out = NO_LIMIT
        self.spinning = spin
        return self.use_socket(sock, tls)

    cdef int use_socket(self, sock, _Tls tls) except -1:
        """Take up *sock*: a socket, _Descriptors, a descriptor or a foreign object.

        It leaves alone what another thread may set meanwhile.
        """
        self.born = forks
        self.reader = self.writer = SOCK_BAD
        self.kind = SOCKET
        self.crypt = tls
        if tls is not None:
            self.kind = ENCRYPTED
            self.reader = self.writer = tls.fd
            sock_prepare(self.reader)  # it may have been made to block since
        elif isinstance(sock, (_Descriptors, int)):
            if isinstance(sock, int):
                self.use_descriptors(sock, sock)
            else:
                self.use_descriptors(sock.reader, sock.writer)
            if self.kind == FOREIGN:
                if self.limit != NO_LIMIT:
                    raise ValueError("this system cannot wait for pipes: timeout must be None")
                if isinstance(sock, int):
                    sock = _Descriptors(sock, sock)
        elif is_plain(sock):
            self.reader = self.writer = sock.fileno()
            if self.reader == SOCK_BAD:
                raise ValueError("the socket is closed")
            if sock_prepare(self.reader) < 0:
                raise OSError("the socket cannot be made non-blocking")
        elif hasattr(sock, "recv_into") and hasattr(sock, "send"):
            self.kind = FOREIGN
            self.settle = getattr(sock, "settimeout", None)
            if self.settle is None and self.limit != NO_LIMIT:
                raise ValueError(
                    f"{type(sock).__name__} has no settimeout(): timeout must be None")
        else:
            raise TypeError(
                f"expected a socket, or an object with recv_into() and send(), "
                f"not {type(sock).__name__}"
            )
        with cython.critical_section(self):
            self.sock = sock
        self.made = True
        return 0

    cdef int use_descriptors(self, sock_t reader, sock_t writer) except -1:
        self.reader = reader
        self.writer = writer
        if sock_is_socket(reader) and sock_is_socket(writer):
            sock_prepare(reader)
            sock_prepare(writer)
        else:
            self.kind = PIPE if PIPE_HAS_POLL else FOREIGN
            self.reader_nonblocking = sock_is_nonblocking(reader)
            self.writer_nonblocking = sock_is_nonblocking(writer)
        return 0

    def __dealloc__(self):
        self.release_wake()

    def __reduce__(self):
        raise TypeError(
            f"cannot copy or pickle a {type(self).__name__}, which holds what is open here")

    cdef void release_wake(self) noexcept:
        with cython.critical_section(self):
            if self.can_wake and not self.watchers:
                self.can_wake = False
                wake_close(&self.wake)
            elif self.can_wake and not self.closed:
                wake_clear(&self.wake)  # connected again

    cdef void poke(self) noexcept:
        """Wake who sleeps, in both directions."""
        with cython.critical_section(self):  # its number may be another's behind the end
            if self.can_wake:
                wake_poke(&self.wake)

    def _watch(self):
        """Return what becomes readable at the end, and is nobody else's until `_unwatch`.

        -1: the end has come.
        """
        if self.closed:
            return -1
        atomic_add(&self.watchers, 1)  # first: an end that comes now leaves the wake open
        try:
            self.hold_wake()
        except OSError:
            self._unwatch()
            raise
        if self.closed:  # perhaps before there was anything to wake
            self._unwatch()
            return -1
        return wake_fd(&self.wake)

    def _unwatch(self):
        if atomic_add(&self.watchers, -1) == 0 and self.its_socket() is _closed:
            self.release_wake()

    cdef object its_socket(self):
        with cython.critical_section(self):
            return self.sock

    cdef bint is_socket(self) noexcept:
        return self.kind <= ENCRYPTED

    # ------------------------------------------------------------ turns

    cdef int enter(self, Turn *turn, Deadline *until) except -1:
        """Take a turn, waiting for it under the call's own deadline."""
        if self.renewable and self.is_lost():
            self.reconnect(until)
        if self.closed:
            raise ConnectionClosed("the connection is closed")
        self.check_owner()
        if not owner_take(&turn.owner, PyThread_get_thread_ident()):
            self.queue_up(turn, until)
        if self.closed:  # meanwhile: the descriptor may be another's
            self.leave(turn)
            raise ConnectionClosed("the connection is closed")
        return 0

    cdef int check_owner(self) except -1:
        if not self.made:
            raise RuntimeError("super().__init__() was not called")
        if self.born != forks:
            raise RuntimeError(
                "this connection was made before the fork and belongs to the parent process: "
                "hand it over with detach() before forking"
            )
        return 0

    cdef bint is_lost(self) noexcept:
        """Whether nothing can come of this connection any more."""
        return self.lost

    cdef int fail_receive(self, Py_ssize_t error) except -1:
        """Raise the error of a direction that has failed, now and at every later call."""
        self.receive_error = <long>error
        self.lost = True
        self.raise_error(error)
        return 0

    cdef int fail_send(self, Py_ssize_t error) except -1:
        self.send_error = <long>error
        self.lost = True
        if self.crypt is not None and self.crypt.failure is None:
            self.hear_why()
        self.raise_error(error)
        return 0

    cdef int raise_error(self, Py_ssize_t error) except -1:
        if self.crypt is not None:
            self.crypt.raise_error(error)
        sock_raise(error)
        return 0

    cdef int hear_why(self) except -1:
        """Look for a last word of the peer's, which would tell more than a broken pipe."""
        return 0

    cdef int waits_for(self, int want) noexcept:
        """What the poller is to wait for until *want* can be done."""
        return want if self.crypt is None else self.crypt.waits_for(want)

    cdef int reconnect(self, Deadline *until) except -1:
        """Let a client that connects itself do so again: see Client."""
        raise NotImplementedError

    cdef int queue_up(self, Turn *turn, Deadline *until) except -1:
        cdef double left
        cdef size_t me = PyThread_get_thread_ident()
        # In a callback: one of another thread may have that turn, and wait for this one's.
        cdef bint inside = self.receiving.owner == me or self.sending.owner == me
        if turn.owner == me:
            raise RuntimeError(
                "this thread is in the middle of such a call on this connection")
        atomic_add(&turn.waiting, 1)
        try:
            while not owner_take(&turn.owner, me):
                if inside and self.closed:
                    raise ConnectionClosed("the connection is closed")
                left = self.remaining(until)
                if left == 0:
                    raise BlockingIOError(
                        errno.EAGAIN, "another thread is using the connection")
                if inside:
                    left = LOOK if left < 0 else min(left, LOOK)
                pass_gate(turn, left)
                PyErr_CheckSignals()
        finally:
            atomic_add(&turn.waiting, -1)
            if turn.owner == 0:
                open_gate(turn)  # an exception: the next one is to have what we give up
        return 0

    cdef void seize(self, Turn *turn) noexcept:
        """Take a turn for the end of the connection, however long that takes."""
        cdef size_t me = PyThread_get_thread_ident()
        atomic_add(&turn.waiting, 1)
        while not owner_take(&turn.owner, me):
            pass_gate(turn, NO_LIMIT)
        atomic_add(&turn.waiting, -1)

    # A thread that sends may receive meanwhile, as in send_many(conn.recv() ...), and one
    # that receives may send.  So who needs both turns never waits for one with the other
    # in hand: those two would wait for each other for ever.

    cdef int enter_both(self, Deadline *until) except -1:
        cdef size_t me = PyThread_get_thread_ident()
        self.enter(&self.receiving, until)
        while not owner_take(&self.sending.owner, me):
            self.leave(&self.receiving)
            self.enter(&self.sending, until)
            if owner_take(&self.receiving.owner, me):
                return 0
            self.leave(&self.sending)
            self.enter(&self.receiving, until)
        return 0

    cdef void seize_both(self) noexcept:
        cdef size_t me = PyThread_get_thread_ident()
        self.seize(&self.receiving)
        while not owner_take(&self.sending.owner, me):
            self.leave(&self.receiving)
            self.seize(&self.sending)
            if owner_take(&self.receiving.owner, me):
                return
            self.leave(&self.sending)
            self.seize(&self.receiving)

    cdef void leave(self, Turn *turn) noexcept:
        owner_drop(&turn.owner)
        # Who counted itself among the waiting before this looks for a free turn after it.
        open_gate(turn)
        if self.ending:
            self.go_on_ending()

    cdef bint go_on_ending(self) noexcept:
        """End what was closed while this thread was in a call: see _end()."""
        return True

    # ------------------------------------------------------------ deadlines and waiting

    cdef double remaining(self, Deadline *until) except -2:
        """Seconds left for the call, NO_LIMIT, or 0 where it must not wait at all."""
        cdef double left
        if until.seconds <= 0:
            return until.seconds
        if until.at == NOT_BEGUN:
            until.at = sock_now() + until.seconds
            return until.seconds
        left = until.at - sock_now()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    cdef bint at_rest(self) noexcept:
        """Whether nothing of a next frame has come yet."""
        return True

    cdef int check_end(self, int want) except -1:
        """Raise where there is nothing to wait for any more."""
        if self.closed:
            raise ConnectionClosed("the connection was closed in another thread")
        if self.renewing:
            raise ConnectionClosed("the connection broke, and is being made again")
        if self.winding_up and want == SOCK_READ and self.at_rest():
            raise ConnectionClosed("the server is stopping")
        return 0

    cdef int hold_wake(self) except -1:
        cdef int opened = 0
        if not self.can_wake:
            with cython.critical_section(self):  # who sends may be about to sleep as well
                if not self.can_wake:
                    opened = wake_open(&self.wake)
                    if opened >= 0:
                        self.can_wake = True
            if opened < 0:
                sock_raise(opened)
        return 0

    cdef int wait(self, int want, Deadline *until) except -1:
        """Sleep until one of *want* can be done; return which.

        A connection that is closed by another thread wakes the sleeper.
        """
        cdef double left, rest, began = 0
        cdef int real
        cdef double patience = self.patience_out if want & SOCK_WRITE else self.patience_in
        cdef int ready
        cdef sock_t wake
        if patience >= 0:
            began = sock_now()
            if want & SOCK_WRITE:
                if self.refused_at == 0 or self.refused_behind != self.bytes_out:
                    self.refused_at = began
                    self.refused_behind = self.bytes_out
                began = self.refused_at
        while True:
            left = self.remaining(until)
            if left == 0:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            if patience >= 0:
                rest = patience - (sock_now() - began)
                if rest <= 0:
                    deed = "taken" if want & SOCK_WRITE else "sent"
                    raise TimeoutError(f"the peer has {deed} nothing for {patience} s")
                left = rest if left < 0 else min(left, rest)
            self.hold_wake()
            self.check_end(want)
            wake = wake_fd(&self.wake)
            if want & SOCK_WRITE or PyThread_get_thread_ident() == main_thread:
                left = NAP if left < 0 else min(left, NAP)
            if self.winding_up:
                # The descriptor has been used up for saying so: look at `closed` instead.
                wake = SOCK_BAD
                left = WINDING_UP_TICK if left < 0 else min(left, WINDING_UP_TICK)
            real = self.waits_for(want)
            if real == 0:
                PyErr_CheckSignals()
                return want
            atomic_add(&self.waiting_for, want)  # another thread may wait to send, or receive
            with nogil:
                ready = sock_poll(
                    self.reader, self.writer if real & SOCK_WRITE else SOCK_BAD, real, wake,
                    left)
            atomic_add(&self.waiting_for, -want)
            if ready > 0 and not self.closed and (
                not ready & SOCK_WOKEN or (ready & SOCK_READ and self.winding_up)
            ):
                return ready & ~SOCK_WOKEN if real == want else want
            if ready < 0 and not sock_intr(ready):
                sock_raise(ready)
            PyErr_CheckSignals()
            if want & SOCK_WRITE and not self.closed:
                # A peer that has only shut its receiving side down does not end the poll:
                # the caller is to try.
                return SOCK_WRITE
            if self.cut_off and want & SOCK_READ and not self.closed:
                return SOCK_READ  # not every system's poll tells of an end that is ours

    # ------------------------------------------------------------ bytes

    cdef Py_ssize_t try_receive(self, sock_iov *iov, int n, Deadline *until) except? -1:
        """One receive that does not wait; return the count or the negative error."""
        cdef Py_ssize_t got, size = iov_len(&iov[0])
        self.calls_in += 1
        if self.kind == SOCKET:
            if size < LONG_CALL:
                got = sock_recv(self.reader, iov, n)
            else:
                with nogil:
                    got = sock_recv(self.reader, iov, n)
        elif self.kind == ENCRYPTED:
            got = self.crypt.receive(iov, n)
        elif self.kind == PIPE:
            got = pipe_read(self.reader, iov_base(&iov[0]), size, self.reader_nonblocking)
        elif self.kind == FOREIGN:
            got = self.foreign_receive(iov_base(&iov[0]), size, until)
        else:
            got = self.receive_specially(iov, n)
        if got > 0:
            self.bytes_in += got
        return got

    cdef Py_ssize_t receive_specially(self, sock_iov *iov, int n) except? -1:
        """As try_receive(), for PASSING and SEQPACKET."""
        raise NotImplementedError

    cdef int aim(self, sock_iov *iov) except -1:
        """Set at most two pieces to where the next bytes go; return how many."""
        raise NotImplementedError

    cdef void rest(self) noexcept:
        """Give back what a sleeping call need not hold, as far as nothing is in it."""

    cdef void before_sleep(self) noexcept:
        """Give back what is of use only if the next bytes are there already."""

    cdef Py_ssize_t receive(self, Deadline *until) except -1:
        """Receive at least a byte to where aim() says; 0 is the end of the stream."""
        cdef sock_iov iov[2]
        cdef Py_ssize_t got
        cdef int n
        cdef bint waited = False
        if self.receive_error:
            self.fail_receive(self.receive_error)
        while True:
            n = self.aim(iov)
            if self.foreseen and not waited and until.seconds != 0 and not self.winding_up:
                self.foreseen -= 1
                got = SOCK_AGAIN
            else:
                got = self.try_receive(iov, n, until)
                if sock_again(got) and self.spinning > 0 and self.is_socket():
                    got = self.spin(iov, n, until)
                elif sock_again(got) and self.kind == SOCKET:
                    self.foreseen = FORESEEN
            if got >= 0:
                return got
            if sock_again(got):
                self.waits_in += 1
                self.before_sleep()
                if self.may_sleep_in_recv(until):
                    self.calls_in += 1
                    with nogil:
                        got = sock_recv_waiting(self.reader, iov, n)
                    if got > 0:
                        self.bytes_in += got
                    if got >= 0:
                        return got
                    if sock_again(got):
                        self.nonblocking = True
                if sock_again(got):
                    self.rest()
                    self.wait(SOCK_READ, until)
                    waited = True
                    continue
            if sock_intr(got):
                PyErr_CheckSignals()
                self.check_end(SOCK_READ)  # a handler may have closed it
            else:
                self.fail_receive(got)

    cdef bint may_sleep_in_recv(self, Deadline *until) noexcept:
        """Whether a plain blocking receive will do: no deadline, and nobody who could wake us.

        It saves poll() and a second receive after it.
        """
        return (
            self.kind == SOCKET
            and until.seconds == NO_LIMIT
            and not self.nonblocking
            and not self.winding_up
            and not GLANCE_TAKES
            and PyThreadState_Next(
                PyInterpreterState_ThreadHead(PyInterpreterState_Get())) == NULL
        )

    cdef Py_ssize_t spin(self, sock_iov *iov, int n, Deadline *until) except? -1:
        """Keep trying for a while, without the GIL, before the call sleeps."""
        cdef Py_ssize_t got
        cdef double left = self.remaining(until)
        cdef double end, slice_end
        cdef long long tries = 0
        cdef bint peek = self.kind != SOCKET
        end = sock_now() + (self.spinning if left < 0 else min(left, self.spinning))
        while True:
            with nogil:
                slice_end = min(end, sock_now() + SPIN_SLICE)
                while True:
                    got = sock_peek(self.reader) if peek else sock_recv(self.reader, iov, n)
                    tries += 1
                    if not sock_again(got) or self.closed or sock_now() >= slice_end:
                        break
                    sock_relax()
            if not sock_again(got) or self.closed or slice_end >= end:
                break
            PyErr_CheckSignals()
        self.calls_in += tries
        if peek and not sock_again(got):
            return self.try_receive(iov, n, until)
        if got > 0:
            self.bytes_in += got
        return got

    cdef Py_ssize_t try_send(self, sock_iov *iov, int n, Deadline *until) except? -1:
        """One send that does not wait; return the count or the negative error."""
        cdef Py_ssize_t sent = 0, size = 0
        cdef int i
        self.calls_out += 1
        if self.kind <= SEQPACKET:
            n = min(n, IOV_MOST)
            for i in range(n):
                size += iov_len(&iov[i])
            if size < LONG_CALL:
                sent = sock_send(self.writer, iov, n)
            else:
                with nogil:
                    sent = sock_send(self.writer, iov, n)
        elif self.kind == ENCRYPTED:
            sent = self.crypt.send(iov, n)
        elif self.kind == PIPE:
            sent = pipe_write(
                self.writer, iov_base(&iov[0]), iov_len(&iov[0]), self.writer_nonblocking)
        else:
            sent = self.foreign_send(iov_base(&iov[0]), iov_len(&iov[0]), until)
        if sent > 0:
            self.bytes_out += sent
        return sent

    cdef Py_ssize_t foreign_receive(self, char *p, Py_ssize_t n, Deadline *until) except? -1:
        # Into memory of its own, which a slice that is kept may go on to show.
        cdef bytearray came = PyByteArray_FromStringAndSize(NULL, min(n, FOREIGN_PART))
        cdef Py_ssize_t got = 0
        self.set_foreign_limit(until)
        with memoryview(came) as view:
            got = self.possible("recv_into", self.sock.recv_into(view), len(view))
        memcpy(p, PyByteArray_AS_STRING(came), got)
        return got

    cdef Py_ssize_t foreign_send(self, char *p, Py_ssize_t n, Deadline *until) except? -1:
        n = min(n, FOREIGN_PART)
        self.set_foreign_limit(until)
        return self.possible("send", self.sock.send(PyBytes_FromStringAndSize(p, n)), n)

    cdef Py_ssize_t possible(self, str method, Py_ssize_t got, Py_ssize_t n) except -1:
        """What a foreign object's method has returned, if it may be so for *n* bytes."""
        if not 0 <= got <= n:
            name = type(self.sock).__name__
            raise OSError(f"{name}.{method}() returned {got} for {n} bytes")
        return got

    cdef int set_foreign_limit(self, Deadline *until) except -1:
        cdef double left
        if self.settle is not None:
            left = self.remaining(until)
            self.settle(None if left < 0 else min(left, LONGEST))
        return 0
