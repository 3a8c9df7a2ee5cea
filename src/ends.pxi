# What a stream can be made of, besides a socket: two descriptors, a foreign object.

import socket as _socket

try:
    import fcntl
except ImportError:
    fcntl = None


cdef class _Descriptors:
    """Two pipe ends as one stream: read from one, write to the other."""

    cdef readonly shared_long reader
    cdef readonly shared_long writer
    cdef object reader_owner  # a file that was given instead of a number
    cdef object writer_owner

    def __cinit__(self, reader, writer):
        self.reader = reader if isinstance(reader, int) else reader.fileno()
        self.writer = writer if isinstance(writer, int) else writer.fileno()
        self.reader_owner = None if isinstance(reader, int) else reader
        self.writer_owner = None if isinstance(writer, int) else writer

    cdef int check(self) except -1:
        """Refuse what cannot be read from, or written to."""
        check_descriptor("reader", self.reader, os.O_WRONLY, "writing")
        check_descriptor("writer", self.writer, os.O_RDONLY, "reading")
        return 0

    def fileno(self):
        return self.reader

    def close(self):
        self.close_writer()
        if self.reader >= 0:
            reader, self.reader = self.reader, -1
            close_descriptor(reader, self.reader_owner)

    def close_writer(self):
        if self.writer >= 0:
            writer, self.writer = self.writer, -1
            if writer != self.reader:
                close_descriptor(writer, self.writer_owner)

    # Where pipes cannot be waited for they are used like a foreign object: these block.
    def recv_into(self, buffer):
        data = os.read(self.reader, len(buffer))
        buffer[:len(data)] = data
        return len(data)

    def send(self, data):
        return os.write(self.writer, data)

    def __repr__(self):
        return f"<descriptors {self.reader}, {self.writer}>"


cdef int check_descriptor(str name, int number, int wrong, str only) except -1:
    """Refuse a descriptor that is not open, or not for what it is to do."""
    if fcntl is None:  # Windows does not tell what it is open for
        if not sock_is_socket(number):
            os.fstat(number)
        return 0
    try:
        mode = fcntl.fcntl(number, fcntl.F_GETFL)
    except OSError as exc:
        raise OSError(exc.errno, f"{name} is descriptor {number}: {exc.strerror}") from None
    if mode & os.O_ACCMODE == wrong:
        raise ValueError(
            f"{name} is descriptor {number}, open for {only} only: are the two swapped?")
    return 0


cdef int close_descriptor(int number, owner) except -1:
    if owner is None:
        os.close(number)
    else:
        owner.close()
    return 0


cdef int let_block(sock) except -1:
    """Have a socket that goes back to its owner block as it did: see sock_prepare()."""
    if SOCK_IS_CHANGED:
        if isinstance(sock, int):
            sock_block(sock)
        elif is_plain(sock) and sock.fileno() >= 0:
            sock.settimeout(sock.gettimeout())
    return 0


cdef bint is_plain(sock):
    """Whether the socket's descriptor can be used behind its back."""
    cls = type(sock)
    return (
        isinstance(sock, _socket.socket)
        and cls.recv_into is _socket.socket.recv_into
        and cls.send is _socket.socket.send
    )
