# Exact reads and whole writes over any socket, without reading ahead: for a socket that
# other code shares, or one that a script reads.


cdef class _OneFrame(_Receiver):
    """Receives one frame and not a byte more, over a socket that is only borrowed."""

    cdef int aim(self, sock_iov *iov) except -1:
        cdef Layout *lay = &self.format.layout
        cdef Py_ssize_t n
        if self.into != NULL:
            if self.got == self.into_room < self.message_size():
                self.grow()
            if self.got < self.into_room:
                iov_set(&iov[0], self.into + self.got, self.into_room - self.got)
                return 1
        self.hold_buffer()
        self.make_room()
        n = self.end - self.start
        if self.into != NULL:
            n = self.head.drop - n
        elif n > 0 and self.outcome == KNOWN:
            n = self.head.total - n
        elif lay.kind == LENGTH_FIELD:
            n = lay.offset + lay.width - n
        elif lay.kind == MULTIPROCESSING:
            n = 4 - n if n < 4 else 12 - n
        elif lay.kind == FIXED or lay.kind == RAW:
            n = <Py_ssize_t>min(lay.limit, <uint64_t>READ_AHEAD)
        else:
            n = 1
        iov_set(&iov[0], self.buf + self.end, min(n, self.room - self.end))
        return 1


cdef object own_timeout(sock, timeout):
    """The timeout given, or where none is the socket's own."""
    if timeout is not ...:
        return timeout
    get = getattr(sock, "gettimeout", None)
    return None if get is None else get()


cdef object _SOCK_SEQPACKET = getattr(_socket, "SOCK_SEQPACKET", None)
cdef object type_of_socket = _socket.SocketType.type.__get__


cdef _OneFrame borrow(sock, Format framing, timeout):
    cdef _OneFrame port = _OneFrame()
    port.attach(sock, seconds_or_none(own_timeout(sock, timeout)), 0.0)
    if _SOCK_SEQPACKET is not None and port.kind == SOCKET and (
        sock_keeps_records(port.reader) if isinstance(sock, int)
        else type_of_socket(sock) == _SOCK_SEQPACKET  # with no system call
    ):
        raise io.UnsupportedOperation(
            "the socket gives out whole records (SOCK_SEQPACKET), of which no part can be "
            "left for later: use Connection")
    port.format = framing
    return port


cdef int give_back(_Transport port, before) except -1:
    """Set a foreign object's own timeout again, and let a socket block."""
    if port.settle is not None and hasattr(port.sock, "gettimeout"):
        port.settle(before)
    let_block(port.sock)
    return 0


cdef bytes receive_one(sock, Format framing, timeout):
    before = own_timeout(sock, ...)
    cdef _OneFrame port = borrow(sock, framing, timeout)
    cdef Deadline until = Deadline(port.limit, NOT_BEGUN)
    try:
        return port.next(&until)
    except (TimeoutError, BlockingIOError) as error:
        error.partial = port.take_leftover()
        raise
    finally:
        give_back(port, before)


def recv_exactly(sock, n, timeout=...):
    """Receive exactly *n* bytes, without reading ahead.

    Args:
        sock: a connected socket, an object with `recv_into`, or a descriptor.
        n: bytes to receive.
        timeout: seconds for the whole call, None for no limit; default: the
            socket's own timeout, None for a descriptor.

    Raises:
        ConnectionClosed: the stream ended before the first byte.
        IncompleteFrame: the stream ended before the last one.
        TimeoutError: the deadline passed; its `partial` holds what had come.
    """
    if in_range("n", n, 0, LARGEST) == 0:
        return b""
    return receive_one(sock, Fixed(n), timeout)


def recv_exactly_into(sock, buffer, timeout=...):
    """Fill *buffer*, without reading ahead; otherwise as `recv_exactly`."""
    cdef Py_buffer view
    cdef Deadline until
    cdef _OneFrame port
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        if view.len:
            before = own_timeout(sock, ...)
            port = borrow(sock, Fixed(view.len), timeout)
            until = Deadline(port.limit, NOT_BEGUN)
            try:
                port.next_into(<char *>view.buf, view.len, &until)
            except (TimeoutError, BlockingIOError) as error:
                error.partial = port.take_leftover()
                raise
            finally:
                give_back(port, before)
    finally:
        PyBuffer_Release(&view)


def recv_frame(sock, Format framing not None, timeout=...):
    """Receive one frame without a byte of the next; return its message.

    Formats whose header has no fixed size are read byte by byte.

    Raises: as `recv_exactly`; FrameTooLarge, InvalidHeader.
    """
    return receive_one(sock, framing, timeout)


def send_frame(sock, message, Format framing not None, timeout=...):
    """Send one frame whole.

    Raises:
        TimeoutError: the deadline passed; its `sent` counts the bytes that went.
    """
    cdef Outgoing out
    cdef Deadline until
    cdef FrameStream port = FrameStream.__new__(FrameStream)
    before = own_timeout(sock, ...)
    port.attach(sock, seconds_or_none(own_timeout(sock, timeout)), 0.0)
    port.format = framing
    until = Deadline(port.limit, NOT_BEGUN)
    open_message(framing, &out, message, ())
    try:
        port.transmit_message(&out, &until)
    except (TimeoutError, BlockingIOError) as error:
        error.sent = out.total - port.unsent
        raise
    finally:
        close_message(&out)
        give_back(port, before)


def _send_now(sock, bytes data):
    """Send *data* as far as that can be without waiting, and without SIGPIPE; return how much.

    Raises:
        BlockingIOError, OSError: nothing was sent.
    """
    cdef sock_iov iov[1]
    cdef sock_t fd = sock.fileno()
    cdef Py_ssize_t sent
    sock_prepare(fd)
    iov_set(&iov[0], PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    sent = sock_send(fd, iov, 1)
    if sent < 0:
        sock_raise(sent)
    return sent
