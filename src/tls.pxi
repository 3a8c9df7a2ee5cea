# TLS between a stream and its socket.  OpenSSL only turns bytes into records and back, in
# memory; the system calls are ours, so that deadlines, signals and SIGPIPE are as without
# it.  An SSLSocket that somebody else made is used as it is, non-blocking.
#
# Two threads inside one TLS object at a time crash the interpreter, so they take turns,
# and nobody waits for the network in his turn.


cdef Py_ssize_t UNKNOWN_COUNT = -1


cdef enum:
    WRONG_PIN = 50            # X509_V_ERR_APPLICATION_VERIFICATION: see pysock/tls.py


cdef bint is_tls(sock):
    """Whether *sock* is an SSLSocket; without importing ssl for it."""
    ssl = sys.modules.get("ssl")
    return ssl is not None and isinstance(sock, ssl.SSLSocket)


cdef bint is_the_systems(exc):
    """Whether an error has a number: a signal's handler may raise a TimeoutError, say."""
    return isinstance(exc, OSError) and exc.errno is not None


cdef class _Tls(_Records):
    """One connection's TLS.

    Args:
        sock: the plain socket below, whose descriptor is used; or an SSLSocket.
        context: an `ssl.SSLContext`, None with an SSLSocket.
        server_side: whether this end is the server.
        server_hostname: the name that the server's certificate is to have, or None.
    """

    cdef Py_ssize_t plain     # bytes left in the record that is being read
    cdef int late             # an error that came behind bytes
    cdef bint stopped         # the last receive came to an end, or an error
    cdef Py_ssize_t pledged   # bytes that are in records, and not counted as sent yet
    cdef object interruption  # what a signal's handler raised, behind bytes
    cdef readonly bint ragged  # the stream ended without a close_notify

    cdef int waits_for(self, int want) noexcept:
        """What to wait for until *want* can be done: they differ in the midst of a record.

        Nothing, where the call is only to be made again.
        """
        cdef int real = 0
        if want & SOCK_READ:
            real |= self.in_wants
        if want & SOCK_WRITE:
            real |= self.out_wants
        return real

    # ------------------------------------------------------------ receiving

    cdef Py_ssize_t receive(self, sock_iov *iov, int n) except? -1:
        """Decrypt what has come, until the pieces are full; as `sock_recv`."""
        cdef Py_ssize_t total = 0, got, done
        cdef int i
        self.take()
        try:
            self.drained = self.stopped = False
            self.in_wants = SOCK_READ
            for i in range(n):
                done = 0
                while done < iov_len(&iov[i]):
                    try:
                        got = self.decrypt(iov_base(&iov[i]) + done, iov_len(&iov[i]) - done)
                    except MemoryError as exc:
                        if total == 0:
                            raise
                        self.interruption = exc
                        return total
                    if got <= 0:
                        if self.interruption is not None and total == 0:
                            self.raise_interruption()
                        self.stopped = not sock_again(got)
                        if total and self.stopped:
                            self.late = <int>got
                        return total or got
                    done += got
                    total += got
                    if self.interruption is not None:
                        return total
            return total
        finally:
            if self.raw_start == self.raw_end:
                self.drop_raw()
            try:
                self.send_answers()
            except MemoryError:
                pass  # they wait for the next call; what was received must be counted
            finally:
                self.give()

    cdef Py_ssize_t decrypt(self, char *p, Py_ssize_t n) except? -1:
        """Decrypt at least a byte out of what has come, or say why not."""
        cdef Py_ssize_t got
        if self.late:
            got, self.late = self.late, 0
            return got
        while True:
            if self.fed:
                got = self.read(p, n)
                if not sock_again(got) or self.incoming is None:
                    return got
                if self.interruption is not None:
                    return got  # what was handed over has not been read yet
                self.fed = False
                if self.empty >= FED:
                    # It may go on like this: whoever waits is to look at the clock.
                    self.in_wants = 0
                    return got
            got = self.feed()
            if got <= 0:
                return got

    cdef Py_ssize_t read(self, char *p, Py_ssize_t n) except? -1:
        """One read of OpenSSL's; the count, 0 at the end, or a negative error."""
        cdef Py_ssize_t got, more
        if self.failure is not None:
            return -errno.EPROTO
        if PyThread_get_thread_ident() != main_thread:
            got = self.read_once(p, n)
            self.plain = 0 if got < n else UNKNOWN_COUNT
        else:
            # A signal's handler may raise anywhere in the call, and then nobody says how
            # much was read.  Where it is known what was left in the record before, and is
            # after, that can be told; so a new record is begun with one byte.
            if self.plain == UNKNOWN_COUNT:
                self.plain = self.left_in_record()
            got = self.read_once(p, min(n, max(self.plain, 1)))
            if got > 0 and self.plain == 0:
                self.plain = self.left_in_record()
                more = min(n - got, self.plain)
                if more > 0 and self.interruption is None:
                    more = self.read_once(p + got, more)
                    if more > 0:
                        self.plain -= more
                        got += more
            elif got > 0:
                self.plain -= got
        if got > 0:
            self.empty = 0
            if got < n and self.incoming is not None:
                self.fed = self.plain > 0 or self.in_memory() != 0
        return got

    cdef Py_ssize_t in_memory(self) except? -1:
        """Bytes that OpenSSL has not read; UNKNOWN_COUNT after an exception, which is kept."""
        try:
            return self.incoming.pending
        except BaseException as exc:
            self.interruption = exc
            return UNKNOWN_COUNT

    cdef Py_ssize_t left_in_record(self) except? -1:
        """Bytes that are decrypted; what a signal's handler raises meanwhile is kept."""
        while True:
            try:
                return self.object.pending()
            except BaseException as exc:
                self.interruption = exc

    cdef Py_ssize_t read_once(self, char *p, Py_ssize_t n) except? -1:
        cdef Py_ssize_t before = 0 if self.incoming is None else self.in_memory()
        cdef Py_ssize_t left
        self.window.p = p
        self.window.n = n
        try:
            return self.object.read(n, self.window)
        except self.ssl.SSLWantReadError:
            return SOCK_AGAIN
        except self.ssl.SSLWantWriteError:
            self.in_wants = SOCK_WRITE
            return SOCK_AGAIN
        except self.ssl.SSLZeroReturnError:
            return 0
        except BaseException as exc:
            if self.is_cut(exc):
                self.ragged = True
                return 0
            if isinstance(exc, self.ssl.SSLError):
                return self.fail(exc)
            if is_the_systems(exc):
                return -exc.errno or -errno.ECONNRESET
            self.interruption = exc
            left = self.left_in_record()
            if self.plain > 0:
                return self.plain - left or SOCK_AGAIN
            if self.plain == 0 and left > 0 and n == 1:
                return 1
            if left == 0 and self.incoming is not None and 0 <= before == self.in_memory():
                return SOCK_AGAIN
            # A record of a single byte, or of none: nobody can tell.
            self.failure = OSError(
                errno.EIO, "a signal's handler has broken a read of TLS: close the connection")
            return -errno.EPROTO

    cdef int raise_interruption(self) except -1:
        """Raise what a signal's handler has raised, now that what came is accounted for."""
        exc, self.interruption = self.interruption, None
        raise exc

    cdef Py_ssize_t hidden(self) except -1:
        """Bytes that have been received, about: no selector can see them."""
        self.take()
        try:
            if self.incoming is None:
                return self.object.pending()
            return (
                self.raw_end - self.raw_start + self.incoming.pending + self.object.pending()
            )
        finally:
            self.give()

    # ------------------------------------------------------------ sending

    cdef Py_ssize_t send(self, sock_iov *iov, int n) except? -1:
        """Encrypt and send the pieces; as `sock_send`.

        What has been encrypted and has not left is not counted: the same bytes must be
        offered again, first, and are counted then.
        """
        cdef char record[RECORD]
        cdef Py_ssize_t total = 0, sent, size, offset = 0
        cdef char *p
        cdef int i = 0
        self.take()
        try:
            self.out_wants = SOCK_WRITE
            if self.failure is not None:
                return -errno.EPROTO
            sent = self.flush()
            if sent < 0:
                return sent
            total, self.pledged = self.pledged, 0
            skip(iov, n, &i, &offset, total)
            while i < n:
                while i < n and self.waiting() < RECORDS:
                    p = iov_base(&iov[i]) + offset
                    size = min(iov_len(&iov[i]) - offset, RECORD)
                    if size < RECORD and i + 1 < n:
                        p = record
                        size = join(iov, n, i, offset, record)
                    sent = self.write(p, size)
                    if sock_again(sent) and self.out_wants == SOCK_READ:
                        self.drained = False
                        if self.incoming is not None and self.feed() > 0:
                            continue
                    if sent < 0:
                        return total or sent
                    skip(iov, n, &i, &offset, sent)
                    if self.outgoing is None:
                        total += sent
                sent = self.flush()
                if sent < 0:
                    return total or sent
                total += self.pledged
                self.pledged = 0
            return total
        except BaseException:
            # It has left, and is counted by the next call.
            self.pledged += total
            raise
        finally:
            self.give()

    cdef Py_ssize_t write(self, char *p, Py_ssize_t n) except? -1:
        """One write of OpenSSL's; the count or a negative error."""
        self.window.p = p
        self.window.n = n
        try:
            n = self.object.write(self.window)
        except self.ssl.SSLWantReadError:
            self.out_wants = SOCK_READ
            return SOCK_AGAIN
        except self.ssl.SSLWantWriteError:
            return SOCK_AGAIN
        except (self.ssl.SSLZeroReturnError, self.ssl.SSLEOFError):
            return -errno.EPIPE
        except self.ssl.SSLError as exc:
            ended = self.ragged or exc.reason == "PROTOCOL_IS_SHUTDOWN"
            return -errno.EPIPE if ended else self.fail(exc)
        except BaseException as exc:
            if is_the_systems(exc):
                return -exc.errno or -errno.EPIPE
            if self.outgoing is None:
                self.failure = OSError(
                    errno.EIO,
                    "a signal's handler has broken a write of TLS: close the connection")
            elif self.outgoing.pending:
                self.pledged += n
            raise
        if self.outgoing is not None:
            self.pledged += n
            self.keep_record()
        return n

    cdef bint say_goodbye(self) except -1:
        """Send the close_notify, without waiting for the peer's; return whether it left."""
        self.take()
        try:
            if self.failure is None:
                try:
                    self.object.unwrap()
                except (OSError, ValueError) as exc:
                    if isinstance(exc, OSError) and not is_the_systems(exc):
                        raise
            return not sock_again(self.flush())
        finally:
            self.give()

    # ------------------------------------------------------------ before the first message

    def handshake(self):
        """Take the next step of the handshake; return what to wait for, 0 when it is done.

        Raises:
            ssl.SSLError, OSError: it has failed.
        """
        cdef Py_ssize_t result
        cdef bint done
        self.take()
        try:
            self.drained = False
            while True:
                try:
                    self.object.do_handshake()
                    done = True
                except self.ssl.SSLWantReadError:
                    done = False
                except self.ssl.SSLWantWriteError:
                    return SOCK_WRITE
                except self.ssl.SSLError as exc:
                    if getattr(exc, "verify_code", 0) != WRONG_PIN:
                        self.flush()  # the alert, and not a client's certificate
                    raise
                result = self.flush()
                if result == 0:
                    if done:
                        self.ready = True
                        self.empty = 0
                        return 0
                    if self.incoming is None:
                        return SOCK_READ
                    result = self.feed()
                    if sock_again(result):
                        return SOCK_READ
                elif sock_again(result):
                    return SOCK_WRITE
                if sock_intr(result):
                    PyErr_CheckSignals()
                elif result < 0:
                    sock_raise(result)
        finally:
            if self.raw_start == self.raw_end:
                self.drop_raw()
            self.give()

    @property
    def wants(self):
        """What to wait for after a `recv` that found nothing; 0: it is to be called again."""
        return self.in_wants

    def recv(self, Py_ssize_t n):
        """Return at most *n* bytes that have come, b"" at the end of the stream.

        Raises:
            BlockingIOError: nothing has come.
            ssl.SSLError, OSError: it has failed.
        """
        cdef sock_iov iov[1]
        cdef bytes data = PyBytes_FromStringAndSize(NULL, n)
        cdef Py_ssize_t got
        iov_set(&iov[0], PyBytes_AS_STRING(data), n)
        got = self.receive(iov, 1)
        if got < 0:
            self.raise_error(got)
        if self.interruption is not None:
            self.raise_interruption()
        return data[:got]

    def send_now(self, bytes data):
        """Send *data* as far as that can be without waiting; return how much."""
        cdef sock_iov iov[1]
        cdef Py_ssize_t sent
        iov_set(&iov[0], PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        sent = self.send(iov, 1)
        if sent < 0:
            self.raise_error(sent)
        return sent

    def goodbye(self):
        """Send the close_notify; return whether it left."""
        return bool(self.say_goodbye())


cdef void skip(sock_iov *iov, int n, int *i, Py_ssize_t *offset, Py_ssize_t count) noexcept:
    """Go *count* bytes on in the pieces."""
    while i[0] < n and count >= iov_len(&iov[i[0]]) - offset[0]:
        count -= iov_len(&iov[i[0]]) - offset[0]
        offset[0] = 0
        i[0] += 1
    if i[0] < n:
        offset[0] += count


cdef Py_ssize_t join(
    sock_iov *iov, int n, int i, Py_ssize_t offset, char *record
) noexcept:
    """Copy the next bytes of the pieces, as many as fit into a record; return how many."""
    cdef Py_ssize_t size = 0, part
    while i < n and size < RECORD:
        part = min(iov_len(&iov[i]) - offset, RECORD - size)
        memcpy(record + size, iov_base(&iov[i]) + offset, part)
        size += part
        offset = 0
        i += 1
    return size
