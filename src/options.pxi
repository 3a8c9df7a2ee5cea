# What can be set on a stream, and asked of it, without any input or output.

from collections import namedtuple


Stats = namedtuple(
    "Stats",
    "messages_in bytes_in calls_in waits_in messages_out bytes_out calls_out waits_out",
)


cdef class _Options(_Viewer):
    """The attributes of a stream."""

    @property
    def framing(self):
        """The format of the frames; a new one holds from the next frame on."""
        return self.its_format()

    @framing.setter
    def framing(self, Format value not None):
        cdef Deadline until = Deadline(self.limit, NOT_BEGUN)
        self.enter(&self.receiving, &until)
        try:
            if self.inside and self.into == NULL and self.look() == PART:
                self.begin(NULL, 0)
            self.use_format(value)
            self.scanned = 0
        finally:
            self.leave_receiving()

    @property
    def timeout(self):
        """Seconds for each call, None for no limit; 0: never wait."""
        return None if self.limit < 0 else self.limit

    @timeout.setter
    def timeout(self, value):
        seconds = seconds_or_none(value)
        if self.kind == FOREIGN and self.settle is None and seconds != NO_LIMIT:
            raise ValueError(
                f"{type(self.sock).__name__} has no settimeout(): timeout must be None")
        self.limit = seconds

    def settimeout(self, timeout):
        """Set `timeout`."""
        self.timeout = timeout

    def gettimeout(self):
        """Return `timeout`."""
        return self.timeout

    def setblocking(self, flag):
        """As `settimeout(None)` or `settimeout(0)`."""
        self.timeout = None if flag else 0.0

    @property
    def spin(self):
        """Seconds to keep trying, without the GIL, before a receive sleeps."""
        return self.spinning

    @spin.setter
    def spin(self, value):
        if not isinstance(value, (int, float)):
            raise TypeError(f"spin is a {type(value).__name__}, expected seconds")
        if not value >= 0:
            raise ValueError(f"spin is {value}, expected seconds of 0 or more")
        self.spinning = value

    @property
    def pending(self):
        """Bytes that have been received and not handed over; no selector can see them."""
        return self.read_ahead() + (
            0 if self.crypt is None or self.closed or self.born != forks
            else self.crypt.hidden())

    cdef Py_ssize_t read_ahead(self) noexcept:
        cdef Py_ssize_t n = self.end - self.start
        if self.into != NULL:
            n += self.head.skip + self.got
        return max(0, n)  # where another thread is at it

    @property
    def unsent(self):
        """Bytes of accepted messages that have not left yet."""
        return max(0, self.tail_end - self.tail_start)

    @property
    def stats(self):
        """What the stream has done so far: messages, bytes, system calls, waits."""
        return Stats(
            self.messages_in, self.bytes_in, self.calls_in, self.waits_in,
            self.messages_out, self.bytes_out, self.calls_out, self.waits_out,
        )

    @property
    def _stage(self):
        """Where a server has the connection: a Stage of answer.pxi."""
        return self.stage

    @_stage.setter
    def _stage(self, int value):
        self.stage = value

    def _set_patience(self, double silence, double refusal):
        """Limit each wait: for bytes to come, for some to be taken; negative: no limit."""
        self.patience_in = silence
        self.patience_out = refusal

    def _share_memory(self, _Memory memory):
        """Take the memory for large frames out of what a server allows."""
        self.memory = memory

    @property
    def socket(self):
        """The socket, or what else the stream was made from; it stays the stream's."""
        return self.its_socket()

    @property
    def tls(self):
        """The `ssl.SSLObject`, or the `ssl.SSLSocket`, in between; None without TLS.

        Only for questions, such as `getpeercert()`: the data is the stream's.
        """
        return None if self.crypt is None else self.crypt.object

    def fileno(self):
        """Return the descriptor that is read from, -1 once closed."""
        return -1 if self.closed else self.its_socket().fileno()
