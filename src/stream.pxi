# FrameStream: every call that a user makes.


cdef class FrameStream(_Options):
    """Whole messages over one connected stream, for blocking code.

    One thread may send while another receives; two senders, or two receivers,
    take turns.  A timeout is a deadline for the whole call and loses nothing.
    """

    def __init__(
        self, sock, Format framing not None=_default, *, timeout=None, spin=0.0,
        _Tls _tls=None,
    ):
        if self.sock is not None:
            raise RuntimeError("a stream is set up once")
        if isinstance(sock, int):
            raise TypeError("expected a socket, not a number: see from_fds()")
        if not spin >= 0:
            raise ValueError(f"spin is {spin}, expected seconds of 0 or more")
        if _tls is None and is_tls(sock):
            _tls = _Tls(sock)
        self.attach(sock, seconds_or_none(timeout), spin, _tls)
        self.use_format(framing)
        self.use_kind()
        self.owner = True

    @classmethod
    def from_fds(cls, reader, writer, *args, **kwargs):
        """Return a stream over two pipe ends, which it owns from now on.

        Args:
            reader: descriptor, or file, to read from.
            writer: descriptor, or file, to write to.
            args: as for the class, from *framing* on.

        Raises:
            OSError: one of them is not open.
            ValueError: one of them is open for the other direction only.
        """
        cdef _Descriptors ends = _Descriptors(reader, writer)
        ends.check()
        return cls(ends, *args, **kwargs)

    # ------------------------------------------------------------ receiving

    def recv(self):
        """Return the next message.

        Raises:
            ConnectionClosed: the stream ended between frames, or was closed here.
            IncompleteFrame: it ended inside one.
            TimeoutError: the deadline passed; what had come is kept for the next call.
            FramingError: the peer's bytes do not follow the format.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef PyObject *ready = self.at_hand()
        if ready != NULL:
            message = <object>ready
            Py_DECREF(message)
            return message
        self.enter(&self.receiving, &until)
        try:
            return self.next(&until)
        finally:
            self.leave_receiving()

    def __iter__(self):
        if type(self).__next__ is not FrameStream.__next__:
            return self
        return _Messages.__new__(_Messages, self)

    def __next__(self):
        cdef PyObject *ready = self.at_hand()
        if ready != NULL:
            message = <object>ready
            Py_DECREF(message)
            return message
        return self.next_of_loop()

    cdef object next_of_loop(self):
        """The next message; StopIteration at the end of the stream."""
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.receiving, &until)
        try:
            return self.next(&until)
        except IncompleteFrame:
            raise
        except ConnectionClosed:
            if self.closed:
                raise
            raise StopIteration from None
        finally:
            self.leave_receiving()

    def recv_many(self, limit=None):
        """Wait for one message; return it and all others that have arrived.

        Args:
            limit: the most to return, None for no limit.

        Raises: as `recv`.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef Py_ssize_t most = PY_SSIZE_T_MAX if limit is None else limit
        cdef list messages
        cdef long long before
        if most < 1:
            raise ValueError(f"limit is {limit}, expected 1 or more, or None")
        self.enter(&self.receiving, &until)
        try:
            before = self.bytes_in
            messages = [None]
            messages[0] = self.next(&until)
            try:
                while len(messages) < most and self.into == NULL:
                    self.pick_all(messages, most - len(messages))
                    if len(messages) == most:
                        break
                    if self.look() != WHOLE and not self.more_has_come(before):
                        break
                    self.cut_to(messages)
            except MemoryError:
                pass  # for more than these, which would be lost
            return messages
        finally:
            self.leave_receiving()

    def recv_fds(self):
        """Return the next message and a list of the descriptors that came with it.

        They are the caller's to close, and not inherited by other programs.  What calls
        other than this one receive has its descriptors closed.

        Raises: as `recv`; FramingError: there were more than `max_fds`, all are closed, and
            the error's `message` is what they came with; RuntimeError: `max_fds` is 0;
            io.UnsupportedOperation: this is no Unix socket.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.receiving, &until)
        try:
            return self.next_with_rights(&until)
        finally:
            self.leave_receiving()

    def recv_into(self, buffer):
        """Receive the next message into *buffer*; return its size.

        Raises: as `recv`; BufferError: *buffer* is too small, and the message
            is still there for the next call.
        """
        cdef Py_buffer view
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            self.enter(&self.receiving, &until)
            try:
                return self.next_into(<char *>view.buf, view.len, &until)
            finally:
                try:
                    if self.into != NULL and not self.is_own():
                        self.rescue()
                finally:
                    self.leave_receiving()
        finally:
            PyBuffer_Release(&view)

    def recvfile(self, file, progress=None):
        """Write the next message to *file*, in constant memory; return its size.

        Args:
            file: an object with `write`.
            progress: called with (bytes so far, bytes in all).

        Raises: as `recv`.  After a timeout, or an error of the file, the rest
            of the frame goes only to the same file: call it again.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.receiving, &until)
        try:
            return self.next_to_file(file, progress, &until)
        finally:
            self.leave_receiving()

    def _ready(self):
        """Receive what has come, without waiting; return whether a call would not wait.

        None: another thread is receiving.
        """
        if self.closed:
            return True
        self.check_owner()
        if not owner_take(&self.receiving.owner, PyThread_get_thread_ident()):
            return None
        try:
            return self.closed or bool(self.advance())
        finally:
            self.leave_receiving()

    # ------------------------------------------------------------ sending

    def send(self, message, *more):
        """Send one message; several buffers are gathered into one, without joining them.

        Raises:
            FrameTooLarge, FramingError: the format cannot carry it; nothing was sent.
            TimeoutError: the deadline passed.  Its `accepted` is True when the
                message was taken, and the rest of it goes before anything else
                (see `flush`), False when nothing of it was.
            OSError: the connection failed.
        """
        cdef Outgoing out
        cdef Format framing = self.its_format()
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef bint accepted = False
        cdef int sent = NOT_SENT if more else self.send_at_once(message)
        if sent == AT_ONCE:
            return
        if sent == IN_PART:
            self.flush_accepted(&until)
            return
        open_message(framing, &out, message, more)
        try:
            self.enter(&self.sending, &until)
            try:
                self.begin_send(&until)
                accepted = True
                self.transmit_message(&out, &until)
            finally:
                self.leave_sending()
        except (TimeoutError, BlockingIOError) as error:
            error.accepted = accepted
            raise
        finally:
            close_message(&out)

    def send_fds(self, message, fds):
        """Send one message, with descriptors that the peer gets as its own.

        Args:
            message: its first byte takes the descriptors along.
            fds: descriptors, or objects with `fileno`, 253 at most; they stay open here.

        Raises: as `send`; after a timeout either the descriptors have gone and the error's
            `accepted` is True, or nothing has.  OSError: one of them is not open;
            io.UnsupportedOperation: this is no Unix socket.
        """
        cdef Outgoing out
        cdef Format framing = self.its_format()
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef bint accepted = False
        cdef int numbers[253]
        cdef list given = list(fds)
        cdef int count = take_descriptors(given, numbers)
        open_message(framing, &out, message, ())
        try:
            self.enter(&self.sending, &until)
            try:
                self.check_passing(self.writer)
                self.begin_send(&until)
                self.transmit_with_rights(&out, numbers, count, &accepted, &until)
            finally:
                self.leave_sending()
        except (TimeoutError, BlockingIOError) as error:
            error.accepted = accepted
            raise
        finally:
            close_message(&out)

    cdef int flush_accepted(self, Deadline *until) except -1:
        try:
            self.enter(&self.sending, until)
            try:
                self.flush_tail(until)
            finally:
                self.leave_sending()
        except (TimeoutError, BlockingIOError) as error:
            error.accepted = True
            raise
        return 0

    def send_many(self, messages):
        """Send many messages in few system calls; return how many.

        Raises: as `send`; `accepted` counts the messages taken.  Those before a
            message that is refused are sent.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef Py_ssize_t count = 0
        cdef bint inside = False
        try:
            self.enter(&self.sending, &until)
            try:
                self.begin_send(&until)
                try:
                    for message in messages:
                        if self.append_plain(message):
                            count += 1
                            continue
                        self.gather(message, &count, &inside, &until)
                except BaseException:
                    if not inside:
                        self.flush_tail(&until)
                    raise
                self.flush_tail(&until)
            finally:
                self.leave_sending()
        except (TimeoutError, BlockingIOError) as error:
            error.accepted = count
            raise
        return count

    def flush(self):
        """Send what accepted messages have left unsent.

        Raises:
            TimeoutError: the deadline passed; the rest is still there.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.sending, &until)
        try:
            if self.send_error:
                self.fail_send(self.send_error)
            self.flush_tail(&until)
        finally:
            self.leave_sending()

    def sendfile(self, file, offset=0, count=None, progress=None):
        """Send one message out of *file*, in constant memory; return its size.

        Args:
            file: a binary file, open for reading; its position may change.
            offset: first byte.
            count: bytes; None: up to the end of the file.
            progress: called with (bytes so far, bytes in all).

        Raises: as `send`.  After a timeout only the same call with the same file
            goes on with the frame; anything else raises FramingError.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef bint accepted = False
        try:
            self.enter(&self.sending, &until)
            try:
                if self.out_file is None:
                    self.begin_send(&until)
                    self.begin_file(file, offset, count)
                elif self.out_file is not file:
                    self.begin_send(&until)
                accepted = True
                return self.transmit_file(progress, &until)
            finally:
                self.leave_sending()
        except (TimeoutError, BlockingIOError) as error:
            error.accepted = accepted
            raise

    # ------------------------------------------------------------ both

    def request(self, message):
        """Send one message and return the next that comes, with no other call between.

        Replies that earlier requests gave up waiting for are received first and
        dropped, under this call's deadline.

        Raises: as `send` and `recv`.
        """
        cdef Outgoing out
        cdef Format framing = self.its_format()
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef bint accepted = False
        open_message(framing, &out, message, ())
        try:
            self.enter_both(&until)
            try:
                try:
                    if self.owed:
                        self.settle_debts(&until)
                    self.begin_send(&until)
                    accepted = True
                    self.owed += 1
                    self.duplex = self.kind != FOREIGN
                    self.transmit_message(&out, &until)
                finally:
                    self.duplex = False
                    self.leave_sending()
                return self.next(&until)
            finally:
                self.leave_receiving()
        except (TimeoutError, BlockingIOError) as error:
            error.accepted = accepted
            raise
        finally:
            close_message(&out)

    def request_many(self, messages):
        """Send many messages and return as many replies, receiving while it sends.

        Raises: as `request`; the error's `accepted` counts the messages taken, its
            `replies` holds those that had come.  Messages before one that is refused
            are sent.
        """
        cdef bint inside = True
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        cdef Py_ssize_t count = 0
        cdef list replies = []
        try:
            self.enter_both(&until)
            try:
                try:
                    self.settle_debts(&until)
                    self.begin_send(&until)
                    try:
                        inside = False
                        for message in messages:
                            self.queue(message)
                            count += 1
                            self.owed += 1
                            if self.is_batch_full():
                                inside = True
                                self.exchange(replies, &until)
                                inside = False
                    except BaseException:
                        if not inside:
                            self.exchange(replies, &until)
                        raise
                    self.exchange(replies, &until)
                finally:
                    self.leave_sending()
                while self.owed:
                    self.pick_all(replies, self.owed)
                    if self.owed:
                        replies.append(self.next(&until))
            finally:
                self.leave_receiving()
        except Exception as error:
            error.accepted = count
            error.replies = replies
            raise
        return replies

    # ------------------------------------------------------------ the end

    def shutdown(self, how):
        """Send what is unsent, then shut down one or both directions, as a socket does.

        Args:
            how: `socket.SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.sending, &until)
        try:
            if self.crypt is not None and how != _socket.SHUT_RDWR:
                raise io.UnsupportedOperation(
                    "TLS has no end of one direction: send a message that says so, "
                    "or close()")
            if how != _socket.SHUT_RD:
                self.begin_send(&until)
            if isinstance(self.sock, _Descriptors):
                if how != _socket.SHUT_RD:
                    self.send_error = -errno.EPIPE
                    self.writer = SOCK_BAD
                    self.sock.close_writer()
            else:
                if self.crypt is not None:
                    self.crypt.say_goodbye()
                _socket.socket.shutdown(self.sock, how)
        finally:
            self.leave_sending()

    def detach(self, *, leftover=False):
        """Give the socket up and return it; the stream is closed.

        Args:
            leftover: return (socket, bytes received and not used) instead.

        Raises:
            RuntimeError: there are unsent bytes, or pending ones and *leftover*
                is False.
        """
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter_both(&until)
        try:
            try:
                if self.tail_end > self.tail_start or self.in_file():
                    raise RuntimeError(f"{self.unsent} bytes are unsent: call flush() first")
                if self.file is not None:
                    raise RuntimeError("recvfile() has stopped inside a frame")
                if self.kind == ENCRYPTED and not is_tls(self.sock):
                    raise io.UnsupportedOperation(
                        "the socket carries TLS, which only this connection can read")
                if self.read_ahead() and not leftover:
                    raise RuntimeError(
                        f"{self.read_ahead()} bytes have been read ahead: "
                        "detach(leftover=True) returns them too"
                    )
                rest = self.take_leftover() if leftover else b""
                self.drop_rights()
                if flag_set(&self.closed, True):
                    raise ConnectionClosed("the connection was closed in another thread")
                sock = self.take_socket()
                self.poke()
                self.release_wake()
            finally:
                self.leave_sending()
        finally:
            self.leave_receiving()
        let_block(sock)
        return (sock, rest) if leftover else sock


@cython.final
cdef class _Messages:
    """The messages of a stream, for a loop.

    Python calls this one's `__next__` directly, but that of a class which is derived in
    Python only by its name, at a cost of as much again.
    """

    cdef FrameStream stream

    def __cinit__(self, FrameStream stream):
        self.stream = stream

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject *ready = self.stream.at_hand()
        if ready != NULL:
            message = <object>ready
            Py_DECREF(message)
            return message
        return self.stream.next_of_loop()
