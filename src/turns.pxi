# One thread at a time: who may send on a connection, and who may receive.


# Cython's own cpython.pythread lacks the lock with a time limit.
cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    ctypedef enum PyLockStatus:
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    bint PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    PyLockStatus PyThread_acquire_lock_timed(
        PyThread_type_lock lock, long long microseconds, int interruptible)
    void PyThread_release_lock(PyThread_type_lock lock)
    unsigned long PyThread_get_thread_ident()


cdef struct Turn:
    # Who may send, or who may receive: one thread at a time.  Taking a free turn is one
    # atomic step; PyThread's lock, which reads the clock, is only for those that wait.
    shared_owner owner        # thread, 0 when free
    shared_long waiting       # threads
    shared_long opened        # whether the gate has been opened for one of them
    PyThread_type_lock gate   # locked, but for the moment in which it lets one through


cdef int make_turn(Turn *turn, PyThread_type_lock gate) except -1:
    if gate == NULL:
        raise MemoryError
    turn.gate = gate
    PyThread_acquire_lock(gate, 1)
    return 0


cdef void free_turn(Turn *turn) noexcept:
    if turn.gate != NULL:
        if not turn.opened:
            PyThread_release_lock(turn.gate)
        PyThread_free_lock(turn.gate)


cdef void open_gate(Turn *turn) noexcept:
    """Let one of those that wait for a turn look for it."""
    if turn.waiting and atomic_set(&turn.opened, 1) == 0:
        PyThread_release_lock(turn.gate)


cdef void pass_gate(Turn *turn, double seconds) noexcept:
    """Sleep until a turn is free, a signal comes, or time is over; the caller looks."""
    cdef PyLockStatus status
    cdef long long microseconds = -1
    if seconds > 0:
        microseconds = <long long>(min(seconds, 1e6) * 1e6)
    with nogil:
        status = PyThread_acquire_lock_timed(turn.gate, microseconds, 1)
    if status == PY_LOCK_ACQUIRED:
        atomic_set(&turn.opened, 0)


cdef struct Lead:
    # A leader's hold on the word that says who leads: see crew.pxi.
    uint64_t *word
    uint64_t mine             # as this thread has last written it
    bint lost
    bint watched              # another thread notices a handler that takes long


cdef bint lead_step(Lead *lead, uint64_t in_handler) noexcept:
    """Say that the leader has got further; return whether it leads still."""
    cdef uint64_t step
    if not lead.lost:
        step = (lead.mine & <uint64_t>0xFFFFFFFF00000000)
        step |= ((lead.mine + 2) & <uint64_t>0xFFFFFFFE) | in_handler
        if word_change(lead.word, lead.mine, step):
            lead.mine = step
            return True
        lead.lost = True
    return False
