# Leader and followers: threads that serve the connections of one poller by turns.
#
# The leader waits at the poller and serves what is ready right there: it calls the
# handler itself, so that a quick one costs no hand-over.  Leadership is one word, changed
# by compare-and-swap only:
#
#     epoch (32 bits) | steps (31 bits) | whether the leader is in a handler (1 bit)
#
# The leader counts a step whenever it enters a handler and when it leaves the last one.
# One follower stands by; it sleeps without the GIL and looks at the word once in a
# millisecond.  Where it finds the leader in the same handler twice, it takes the GIL, looks
# again (a handler that only computed has come back by then), and makes itself the leader
# by writing a new epoch.  The old leader finds at its next step that the word is no longer
# its own: it finishes the connection that it holds and stands by in its turn.


cdef enum:
    QUIET_TICKS = 50          # without a step: then the standby sleeps until it is called


cdef long NO_MEMORY_NAP = 10_000  # microseconds, after an allocation that has failed
cdef long long TICK = 1000    # microseconds between two looks of the standby


cdef class _Leadership:
    """Who of several threads leads, and how the lead changes hands."""

    cdef uint64_t word        # who leads, see above; 0: nobody
    cdef shared_long epochs
    cdef shared_long over     # all threads are to return
    cdef shared_long asleep   # the standby waits for the bell
    cdef PyThread_type_lock watch  # the standby's place
    cdef PyThread_type_lock bell   # locked but for the moment in which it rings
    cdef unsigned int born    # how many forks there had been
    cdef readonly long workers  # the most threads
    cdef readonly shared_long threads
    cdef readonly shared_long followers
    cdef readonly long long takeovers

    def __cinit__(self, handler, bint pass_connection, long workers, server):
        self.workers = workers
        self.born = forks
        self.watch = PyThread_allocate_lock()
        self.bell = PyThread_allocate_lock()
        if self.watch == NULL or self.bell == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.bell, 1)

    def __dealloc__(self):
        if self.bell != NULL:
            PyThread_release_lock(self.bell)
            PyThread_free_lock(self.bell)
        if self.watch != NULL:
            PyThread_free_lock(self.watch)

    def run(self):
        """Serve by turns with other threads, until `end()` is called."""
        cdef Lead lead
        atomic_add(&self.threads, 1)
        try:
            while self.become_leader(&lead):
                self.lead(&lead)
        finally:
            atomic_add(&self.threads, -1)

    cdef int lead(self, Lead *lead) except -1:
        """Serve until this thread leads no longer, or all is over."""
        raise NotImplementedError

    cdef void ring(self) noexcept:
        """Call the standby if it sleeps."""
        if atomic_set(&self.asleep, 0):
            PyThread_release_lock(self.bell)

    cdef void enter_handler(self, Lead *lead) noexcept:
        """Say that what follows may take its time, and see that the standby looks."""
        lead_step(lead, 1)
        if self.asleep:
            self.ring()

    cdef bint take(self, uint64_t expected, Lead *lead) noexcept:
        """Become the leader, if the word still is as *expected*."""
        lead.word = &self.word
        lead.lost = False
        lead.watched = self.workers > 1
        lead.mine = <uint64_t>atomic_add(&self.epochs, 1) << 32
        return word_change(&self.word, expected, lead.mine)

    cdef bint become_leader(self, Lead *lead) except -1:
        """Follow until this thread leads; False when all is over."""
        if self.over or self.born != forks:
            return False
        if self.take(0, lead):
            return True
        atomic_add(&self.followers, 1)
        with nogil:
            PyThread_acquire_lock(self.watch, 1)
        try:
            return self.stand_by(lead)
        finally:
            PyThread_release_lock(self.watch)
            atomic_add(&self.followers, -1)

    cdef bint stand_by(self, Lead *lead) except -1:
        cdef uint64_t seen = word_read(&self.word)
        while not self.over:
            with nogil:
                self.keep_watch(&seen)
            if self.over:
                break
            # With the GIL in hand: is it still so?
            if word_read(&self.word) == 0:
                if self.take(0, lead):
                    return True
            elif word_read(&self.word) == seen and self.take(seen, lead):
                self.takeovers += 1
                return True
        return False

    cdef void keep_watch(self, uint64_t *seen) noexcept nogil:
        """Return when nobody leads, when the leader seems to be held up, or at the end."""
        cdef uint64_t word
        cdef int quiet = 0
        while True:
            word = word_read(&self.word)
            if self.over or word == 0:
                return
            if word != seen[0]:
                seen[0] = word
                quiet = 0
            elif word & 1:
                return
            else:
                quiet += 1
            if quiet < QUIET_TICKS:
                PyThread_acquire_lock_timed(self.bell, TICK, 0)
                continue
            quiet = 0
            atomic_set(&self.asleep, 1)
            if word_read(&self.word) != word or self.over:
                if atomic_set(&self.asleep, 0):
                    continue
            # Called, or about to be.
            PyThread_acquire_lock(self.bell, 1)
