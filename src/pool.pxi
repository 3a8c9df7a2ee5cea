# Memory of large messages that somebody only looked at, for the next ones: what is fresh from
# the system is cleared page by page, which takes about as long as to receive it.


cdef enum:
    POOL_COUNT = 8            # blocks
    POOL_MOST = 64 * 1024     # KiB in all of them
    POOL_LEAST = 128 * 1024   # bytes in each; for less than that malloc() is quick
    POOL_SLACK = 4            # a block serves no message of less than such a part of it


cdef struct Block:
    # In front of its bytes.
    Py_ssize_t room
    Py_ssize_t unused         # so that they are aligned as malloc() aligns


cdef void *pool[8]            # POOL_COUNT
cdef shared_long pooled              # KiB
cdef shared_long pool_victim


cdef long pool_cost(const Block *block) noexcept:
    return <long>((block.room + 1023) >> 10)


cdef void pool_free(Block *block) noexcept:
    """Give up a block that was counted."""
    if block != NULL:
        atomic_add(&pooled, -pool_cost(block))
        PyMem_RawFree(block)


cdef Block *pool_take(Py_ssize_t size) noexcept:
    """Return a block for a message of *size* bytes, NULL where there is none that fits."""
    cdef Block *block
    cdef int i
    for i in range(POOL_COUNT):
        if atomic_look(&pool[i]) == NULL:
            continue
        # Another thread may free what it takes: only who has taken a block may look at it.
        block = <Block *>atomic_swap(&pool[i], NULL)
        if block == NULL:
            continue
        if size <= block.room and block.room // POOL_SLACK <= size:
            atomic_add(&pooled, -pool_cost(block))
            memory_show(<char *>(block + 1), block.room)
            return block
        if not atomic_put(&pool[i], block):
            pool_free(block)
    return NULL


cdef void pool_give(Block *block) noexcept:
    """Take back a block that nobody refers to; older ones make room for it."""
    cdef long cost = pool_cost(block)
    cdef int i
    if block.room < POOL_LEAST or cost > POOL_MOST:
        PyMem_RawFree(block)
        return
    memory_hide(<char *>(block + 1), block.room)
    atomic_add(&pooled, cost)
    for i in range(POOL_COUNT):
        if atomic_add(&pooled, 0) <= POOL_MOST:
            break
        pool_free(<Block *>atomic_swap(next_victim(), NULL))
    else:
        if atomic_add(&pooled, 0) > POOL_MOST:  # with what others are just giving
            pool_free(block)
            return
    for i in range(POOL_COUNT):
        if atomic_look(&pool[i]) == NULL and atomic_put(&pool[i], block):
            return
    pool_free(<Block *>atomic_swap(next_victim(), block))


cdef void **next_victim() noexcept:
    return &pool[atomic_add(&pool_victim, 1) & (POOL_COUNT - 1)]


@cython.final
cdef class _Slab:
    """The memory of one message; the last one that refers to it gives it to the pool.

    A view refers to it, and so does each slice of one.
    """

    cdef Block *block
    cdef char *p
    cdef Py_ssize_t size      # of the message

    def __dealloc__(self):
        if self.block != NULL:
            pool_give(self.block)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.p, self.size, 1, flags)

    cdef bint take(self, Py_ssize_t size) noexcept:
        """Have memory for *size* bytes out of the pool; return whether there was some."""
        self.block = pool_take(size)
        if self.block == NULL:
            return False
        self.p = <char *>(self.block + 1)
        return True

    cdef int reserve(self, Py_ssize_t room) except -1:
        """See to *room* bytes; what is in those that were there stays."""
        cdef Block *block
        if self.block != NULL and self.block.room >= room:
            return 0
        block = <Block *>PyMem_RawRealloc(self.block, sizeof(Block) + room)
        if block == NULL:
            raise MemoryError
        block.room = room
        self.block = block
        self.p = <char *>(block + 1)
        return 0
