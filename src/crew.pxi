# The connections of a server, served by turns from its poller.
#
# The poller is level-triggered, so the old leader may drop the events it had not got to.
# The connection that it holds is taken out of the poller by the new leader, and put back by
# the old one.  All else that belongs to the loop is the leader's alone.

from collections import deque


cdef extern from "poller.h" nogil:
    ctypedef struct poller:
        pass
    ctypedef struct poll_event:
        uintptr_t tag
        int ready
    int poller_open(poller *p)
    void poller_close(poller *p)
    int poller_set(poller *p, sock_t fd, int before, int want, uintptr_t tag)
    int poller_share(poller *p, sock_t fd, uintptr_t tag)
    int poller_wait(poller *p, poll_event *events, int most, double seconds)


cdef enum:
    EVENTS = 256              # dealt with between two looks at the poller
    FAIR_SHARE = 256          # messages of one connection in a turn


cdef double DELAY = 0.01  # until a connection that another thread sends on is looked at
cdef double BREATH = 0.005    # so often at least other threads are offered the GIL


cdef class _Watch:
    """Something else in the poller: calls a function when it is readable."""

    cdef sock_t fd
    cdef object callback
    cdef bint parked


cdef class _Crew(_Leadership):
    """Serves parked connections from as many threads as block in handlers.

    Args:
        handler: answers messages, see `Server`.
        pass_connection: whether it gets the connection too.
        workers: the most threads at a time.
        server: has `_attend(now)`, called by the leader after `call_server()` and at the
            time that it last returned; `_failed(connection)`, with the exception being
            handled; `_recovered()`, when what failed for want of memory was done;
            `_step(connection)` for a connection that is no longer, or not yet, served here;
            `_finish(connection)` after its last turn; `_spawn()`, which starts another
            thread in `run()`.
    """

    cdef poller set
    cdef sock_wake wake
    cdef bint opened
    cdef object handler
    cdef bint pass_connection
    cdef object server
    cdef dict members         # all connections, and watches: what events point to
    cdef list gone            # members no more; events at hand may still point to them
    cdef object unread        # connections with messages that were read ahead
    cdef object returned      # what a former leader leaves to the present one
    cdef object delayed       # whose sending another thread is at
    cdef set starving         # connections that wait for memory
    cdef readonly double next_at  # when the server wants to be called
    cdef shared_long called   # it wants to be called now
    cdef shared_long undone   # an allocation has failed: see recover()
    cdef public shared_flag draining  # who has been answered is to go
    cdef PyThread_type_lock guard  # for what several threads change
    cdef PyObject *busy       # the connection that the leader is at

    def __cinit__(self, handler, bint pass_connection, long workers, server):
        self.handler = handler
        self.pass_connection = pass_connection
        self.server = server
        self.members = {}
        self.gone = []
        self.unread = deque()
        self.returned = deque()
        self.delayed = deque()
        self.starving = set()
        self.guard = PyThread_allocate_lock()
        if self.guard == NULL:
            raise MemoryError
        result = poller_open(&self.set)
        if result < 0:
            sock_raise(result)
        result = wake_open(&self.wake)
        if result < 0:
            poller_close(&self.set)
            sock_raise(result)
        self.opened = True
        result = poller_set(&self.set, wake_fd(&self.wake), 0, SOCK_READ, 0)
        if result < 0:
            sock_raise(result)

    def __dealloc__(self):
        self.shut()
        if self.guard != NULL:
            PyThread_free_lock(self.guard)

    cdef void shut(self) noexcept:
        if self.opened:
            PyThread_acquire_lock(self.guard, 1)
            self.opened = False
            poller_close(&self.set)
            wake_close(&self.wake)
            PyThread_release_lock(self.guard)

    # ------------------------------------------------------------ who is in the poller

    def add(self, FrameStream stream):
        """Take charge of a connection; `park` has it served."""
        self.members[stream] = None

    def park(self, FrameStream stream, int want):
        """Wait until *stream* can do *want*: SOCK_READ, SOCK_WRITE or 0."""
        self.set_parked(stream, want)

    def drop(self, FrameStream stream):
        """Have nothing more to do with a connection; for the leader only."""
        if stream in self.members:
            self.set_parked(stream, 0)
            self.gone.append(stream)  # first: it may fail
            del self.members[stream]
            self.starving.discard(stream)

    def release(self, FrameStream stream):
        """Take a connection out of the poller for good: its descriptor goes elsewhere."""
        if self.born == forks:  # in a child the poller is the parent's
            self.set_parked(stream, 0)
            stream.released = True

    def watch_for(self, sock_t fd, callback, bint shared=False):
        """Call *callback* when *fd* is readable; return what `unwatch` takes."""
        cdef _Watch watch = _Watch()
        cdef int result
        watch.fd = fd
        watch.callback = callback
        self.members[watch] = None
        if shared:
            result = poller_share(&self.set, fd, <uintptr_t><PyObject *>watch | 1)
        else:
            result = poller_set(&self.set, fd, 0, SOCK_READ, <uintptr_t><PyObject *>watch | 1)
        if result < 0:
            del self.members[watch]
            sock_raise(result)
        watch.parked = True
        return watch

    def unwatch(self, _Watch watch):
        if watch.parked:
            watch.parked = False
            poller_set(&self.set, watch.fd, SOCK_READ, 0, 0)
            self.gone.append(watch)
            del self.members[watch]

    cdef int set_parked(self, FrameStream stream, int want) except -1:
        cdef int result
        if stream.parked == want:
            return 0
        PyThread_acquire_lock(self.guard, 1)
        result = self.park_guarded(stream, want)
        PyThread_release_lock(self.guard)
        if result < 0:
            sock_raise(result)
        return 0

    cdef int park_guarded(self, FrameStream stream, int want) noexcept:
        """Change what the poller waits for; return 0 or the error. For who has the guard."""
        cdef int result
        if stream.parked == want or stream.released or not self.opened:
            return 0
        result = poller_set(
            &self.set, stream.reader, stream.parked, want, <uintptr_t><PyObject *>stream)
        if result == 0 or want == 0:
            stream.parked = want
        return result if want and not stream.closed else 0

    # ------------------------------------------------------------ from any thread

    def call_server(self):
        """Have the leader call the server's `_attend` soon."""
        self.call()

    cdef void call(self) noexcept:
        atomic_set(&self.called, 1)
        self.wake_leader()

    cdef void wake_leader(self) noexcept:
        """Wake the leader, unless the poller is gone and its numbers are others'."""
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
        """Give the poller up; no thread may be in `run` any more."""
        if self.threads:
            raise RuntimeError("threads are still serving")
        self.members.clear()
        self.gone.clear()
        self.unread.clear()
        self.returned.clear()
        self.starving.clear()
        self.delayed.clear()
        self.server = None
        self.shut()

    # ------------------------------------------------------------ the leader

    cdef int lead(self, Lead *lead) except -1:
        """Serve until this thread leads no longer, or all is over."""
        cdef bint relieved = False
        try:
            while not self.over:
                try:
                    if not relieved:
                        relieved = True
                        self.relieve()
                    if self.undone:
                        self.recover()
                    self.lead_on(lead)
                    return 0
                except MemoryError:
                    atomic_set(&self.undone, 1)
                    atomic_set(&self.called, 1)
                    if not lead_step(lead, 0):
                        return 0
                    self.busy = NULL
                with nogil:
                    dgram_nap(NO_MEMORY_NAP)
        finally:
            if not lead.lost:
                self.busy = NULL
                word_change(&self.word, lead.mine, 0)
                self.ring()
        return 0

    cdef int lead_on(self, Lead *lead) except -1:
        cdef poll_event events[EVENTS]
        cdef int i, n, left
        cdef double now, breathed = 0, wait
        while not self.over:
            self.gone.clear()
            now = sock_now()
            if self.called or now >= self.next_at:
                atomic_set(&self.called, 0)
                self.next_at = self.server._attend(now)
                if self.undone:
                    self.recover()
                continue
            n = poller_wait(&self.set, events, EVENTS, 0.0)
            if n == 0 and not self.unread:
                wait = max(0.0, self.next_at - now)
                with nogil:
                    n = poller_wait(&self.set, events, EVENTS, wait)
                breathed = now + wait
                PyErr_CheckSignals()
            elif now - breathed > BREATH:
                breathed = now
                with nogil:
                    pass
                PyErr_CheckSignals()
            if n < 0 and not sock_intr(n):
                sock_raise(n)
            for i in range(n):
                if not self.deal_with(events[i].tag, lead):
                    return 0
            left = len(self.unread)
            while left > 0 and self.unread:
                left -= 1
                if not self.turn_of_next(lead):
                    return 0
        return 0

    cdef bint turn_of_next(self, Lead *lead) except -1:
        """Serve who waits longest; return whether this thread still leads.

        Not part of `lead_on`, whose variables would keep the connection while it waits.
        """
        cdef FrameStream stream = <FrameStream>self.unread.popleft()
        stream.queued = False
        return self.turn(stream, lead)

    cdef int recover(self) except -1:
        """Go on where an allocation has failed, which may have been anywhere."""
        cdef FrameStream stream
        atomic_set(&self.undone, 0)
        try:
            for member in list(self.members):
                if not isinstance(member, FrameStream):
                    continue
                stream = <FrameStream>member
                if stream.serving:
                    continue
                if stream.stage != SERVED or stream.closed:
                    self.server._step(stream)
                else:
                    self.requeue(stream)
            self.server._recovered()
        except MemoryError:
            atomic_set(&self.undone, 1)
            raise
        return 0

    cdef int relieve(self) except -1:
        """Take over from a leader that is held up in a handler."""
        cdef FrameStream stream
        cdef bint held_up = False
        PyThread_acquire_lock(self.guard, 1)
        if self.busy != NULL:
            stream = <FrameStream>self.busy
            self.busy = NULL
            held_up = stream.serving
            if held_up:
                self.park_guarded(stream, 0)
        PyThread_release_lock(self.guard)
        if held_up:
            stream.send_gathered()
        if self.followers == 0 and self.threads < self.workers:
            self.server._spawn()
        return 0

    cdef bint deal_with(self, uintptr_t tag, Lead *lead) except -1:
        """Deal with one event; return whether this thread still leads."""
        cdef _Watch watch
        cdef FrameStream stream
        if tag == 0:
            wake_clear(&self.wake)
        elif tag & 1:
            watch = <_Watch><PyObject *>(tag - 1)
            if watch.parked:
                watch.callback()
        else:
            stream = <FrameStream><PyObject *>tag
            if stream.parked and not stream.queued and not stream.serving:
                return self.turn(stream, lead)
        return True

    cdef bint turn(self, FrameStream stream, Lead *lead) except -1:
        """Serve one connection; return whether this thread still leads."""
        cdef int end
        if stream.stage != SERVED or stream.closed:
            self.server._step(stream)
            return True
        if self.draining:
            stream.last_frame = stream.drained and stream.messages_in > 0
            stream.drained = True
        stream.serving = True
        self.busy = <PyObject *>stream
        self.enter_handler(lead)
        try:
            end = stream.answer(
                self.handler, stream if self.pass_connection else None, FAIR_SHARE, lead)
        except BaseException as exc:
            end = TURN_OVER
            if self.workers == 0 and not isinstance(exc, Exception):
                stream.serving = False
                raise
            try:
                self.server._failed(stream)
            except MemoryError:
                pass  # nobody can be told
        if self.born != forks:
            lead.lost = True  # a child that has come back from a handler: not its server
            return False
        if lead_step(lead, 0):
            self.busy = NULL
            stream.serving = False
            self.settle(stream, end)
            return True
        self.put_back(stream, end)
        return False

    cdef int settle(self, FrameStream stream, int end) except -1:
        """What comes after a turn, by the leader."""
        if (
            end == TURN_OVER or stream.closed
            or (self.draining and end == TURN_IDLE and self.is_answered(stream))
        ):
            stream.stage = FADING  # whatever fails now, it is not served any more
            self.server._finish(stream)
            return 0
        try:
            if end == TURN_BLOCKED:
                self.set_parked(stream, stream.waits_for(SOCK_WRITE))
            elif end == TURN_STARVED or end == TURN_TAKEN:
                self.set_parked(stream, 0)
            else:
                if end == TURN_IDLE and stream.waits_for(SOCK_READ) == 0:
                    end = TURN_BUSY
                self.set_parked(stream, stream.waits_for(SOCK_READ))
        except OSError as exc:
            self.server._cannot_park(stream, exc)
            return 0
        if end == TURN_STARVED:
            self.starving.add(stream)
        elif end == TURN_TAKEN:
            self.delayed.append(stream)
            self.call_at(sock_now() + DELAY)
        elif end == TURN_BUSY:
            self.unread.append(stream)
            stream.queued = True
        return 0

    cdef int put_back(self, FrameStream stream, int end) except -1:
        """What comes after a turn, by one who leads no longer."""
        cdef int want = 0
        cdef int result
        if end == TURN_IDLE and not stream.closed and not self.draining:
            want = stream.waits_for(SOCK_READ)
        elif end == TURN_BLOCKED and not stream.closed:
            want = stream.waits_for(SOCK_WRITE)
        else:
            stream.queued = True  # nobody else deals with it
        PyThread_acquire_lock(self.guard, 1)
        stream.serving = False
        result = self.park_guarded(stream, want) if want else -1
        PyThread_release_lock(self.guard)
        if result < 0:
            if want:
                end = TURN_OVER
            stream.queued = True
            try:
                self.returned.append((stream, end))
            except MemoryError:
                if end == TURN_OVER:
                    stream.stage = FADING
                stream.queued = False
                atomic_set(&self.undone, 1)
            self.call()
        return 0

    def call_at(self, double at):
        """Have `_attend` called then, or earlier; for the leader, who need not be woken."""
        self.next_at = min(self.next_at, at)

    def take_returned(self):
        """Go on with what former leaders have left; for the leader, in `_attend`."""
        while self.returned:
            stream, end = self.returned[0]
            self.returned.popleft()
            (<FrameStream>stream).queued = False
            if stream in self.members:
                self.settle(<FrameStream>stream, end)

    def requeue(self, FrameStream stream):
        """Give a parked connection a turn, whether there is something to read or not."""
        if not stream.queued and not stream.serving:
            self.unread.append(stream)
            stream.queued = True

    def retry(self):
        """Give those a turn that were in another thread's hands; return whether any was."""
        cdef bint any = len(self.delayed) > 0
        for _ in range(len(self.delayed)):
            stream = self.delayed[0]
            if stream in self.members:
                self.requeue(<FrameStream>stream)
            self.delayed.popleft()
        return any

    def feed(self):
        """Let those go on that waited for memory."""
        while self.starving:
            self.requeue(self.starving.pop())

    def overdue(
        self, list streams, double now, double idle, double grace, double rate,
        double patience, double excused=0, bint held_up=False
    ):
        """Return those of *streams* whose peers are too slow, each with what is wrong.

        Args:
            now: the time, as `_attend` gets it.
            idle: seconds between messages.
            grace: seconds for a frame of no bytes.
            rate: bytes a second that a longer one must come with.
            patience: seconds without a byte taken by the peer.  A negative limit is none.
            excused: seconds since the last time in which nobody served.
            held_up: look only at those that a thread waits for.
        """
        cdef FrameStream stream
        cdef int what
        cdef list found = []
        for stream in streams:
            if held_up and not stream.waiting_for:
                continue
            if stream.stage == SERVED or stream.stage == HELD:
                if excused > 0:
                    stream.excuse(excused)
                what = stream.overdue(now, idle, grace, rate, patience)
                if stream in self.starving:
                    stream.frame_at = 0  # it does not wait for its peer
                elif what:
                    found.append((stream, what))
        return found

    cdef bint is_answered(self, FrameStream stream) noexcept:
        """Whether a connection is between messages, and has had one."""
        return (
            stream.messages_in > 0 and stream.at_rest()
            and stream.tail_end == stream.tail_start
            and stream.sending.owner == 0 and stream.receiving.owner == 0
        )

    def is_idle(self, FrameStream stream):
        """Whether a connection is parked between messages, with nothing to send."""
        return (
            not stream.serving and not stream.queued and stream.at_rest()
            and stream.tail_end == stream.tail_start
            and stream.replying is None and stream.kept is None
            and stream.sending.owner == 0 and stream.receiving.owner == 0
        )

    def is_serving(self, FrameStream stream):
        return stream.serving


# For the modules that drive it.
_READ, _WRITE = SOCK_READ, SOCK_WRITE
_SERVED, _FADING, _GREETING, _HELD = SERVED, FADING, GREETING, HELD
