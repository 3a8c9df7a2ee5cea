# Messages that are only looked at: recv_view() and its with block.

from cpython.memoryview cimport PyMemoryView_FromObject


cdef class _Viewer(_Closer):
    """Receives large messages into memory that has been used before."""

    cdef object next_view(self, Deadline *until):
        """A view of the next message; as next()."""
        cdef State state
        self.refuse_in_file()
        while True:
            if self.into != NULL:
                if self.is_finished():
                    return self.finish_view()
            else:
                state = self.look()
                if state == WHOLE:
                    return self.cut_view()
                if state == REFUSED:
                    self.refuse()
                if state == PART and self.is_large():
                    self.begin_view()
            self.fill(until)

    cdef int begin_view(self) except -1:
        """As begin(), with a new object whose memory need not be new."""
        cdef Py_ssize_t size = self.message_size()
        cdef Py_ssize_t room
        cdef _Slab slab
        if size < POOL_LEAST:
            return self.begin(NULL, 0)
        self.keep_header()
        room = self.first_room()
        slab = _Slab.__new__(_Slab)
        if not slab.take(size):
            slab.reserve(room)
        elif self.memory is None:
            room = size  # nothing that is announced and does not come is taken for it
        self.begin_at(slab.p, room)
        self.slab = slab
        return 0

    cdef object finish_view(self):
        cdef object message
        if self.slab is None:
            message = <object>self.partial
        else:
            self.slab.size = self.got
            message = self.slab
        view = PyMemoryView_FromObject(message)
        self.check_finished()
        self.drop_partial()
        return view

    cdef object cut_view(self):
        """As cut()."""
        cdef Py_ssize_t size = self.message_size()
        cdef const char *p = self.buf + self.start + self.head.skip
        cdef _Slab slab
        if size < POOL_LEAST:
            message = self.kept_bytes(p, size)
        else:
            slab = _Slab.__new__(_Slab)
            if not slab.take(size):
                slab.reserve(size)
            memcpy(slab.p, p, size)
            slab.size = size
            message = slab
        # Before the message is gone: there may be no memory for a view of it.
        view = PyMemoryView_FromObject(message)
        self.consume(self.head.total)
        self.handed_over()
        return view

    def recv_view(self):
        """Return a context manager that receives the next message, as a read-only memoryview.

        A large message is received into memory that is used again and again, so that none
        has to be got from the system each time.  The view is released at the end of the
        block; a slice of it, or an array made from it, is good for as long as it is kept.
        It keeps the memory of the whole message, which nothing is received into meanwhile.

        Raises: as `recv`, where the block begins; RuntimeError: for a second block.
        """
        cdef _View view = _View.__new__(_View)
        view.stream = self
        return view


@cython.final
cdef class _View:
    """One message, for the length of a with block."""

    cdef _Viewer stream
    cdef object view
    cdef shared_owner entered

    def __enter__(self):
        cdef Deadline until = Deadline(self.stream.limit, NOT_BEGUN)
        if not owner_take(&self.entered, 1):
            raise RuntimeError("one recv_view() is for one message: call it again")
        try:
            self.stream.enter(&self.stream.receiving, &until)
            try:
                self.view = self.stream.next_view(&until)
            finally:
                self.stream.leave_receiving()
        except BaseException:
            owner_drop(&self.entered)
            raise
        return self.view

    def __exit__(self, *_):
        view, self.view = self.view, None
        if view is not None:
            try:
                view.release()
            except BufferError:
                pass  # an array was made from it, say: it goes with that
