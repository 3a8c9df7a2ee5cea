# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""Message framing over byte streams: formats, decoder, streams; compiled.

A *format* says how one message becomes one frame on the wire.  A `Decoder`
turns bytes, however they were cut, into messages and does no I/O.  A
`FrameStream` sends and receives whole messages over a connected socket.

The parts of this one module, each built on those before it:

    sockio.h        the operating system
    rights.h        what only Unix sockets have
    poller.h        its ways to wait for many sockets
    layout.pxi      headers read and written, in plain C
    formats.pxi     the formats as classes
    outgoing.pxi    a message on its way out
    decoder.pxi     Decoder
    turns.pxi       one thread at a time
    memory.pxi      how much the frames of a server's connections may take
    pool.pxi        memory of large messages, used again
    records.pxi     TLS records, encrypted
    tls.pxi         what is in them
    ends.pxi        what is no socket: pipes, foreign objects
    transport.pxi   bytes over a socket: deadlines, waiting, waking
    buffer.pxi      bytes read ahead
    receive.pxi     the receiving half of a stream
    send.pxi        the sending half
    files.pxi       frames from and to files
    passing.pxi     descriptors that come with messages, and records
    answer.pxi      a server's turn with a connection
    closing.pxi     how it ends
    views.pxi       messages that are only looked at
    options.pxi     what can be set on a stream and asked of it
    stream.pxi      FrameStream: the calls that a user makes
    lead.pxi        who of several threads leads
    crew.pxi        threads that serve connections by turns
    primitives.pxi  recv_exactly and its kin
    dgramio.h       datagrams, as the operating system has them
    datagrams.pxi   datagrams received and sent
    asking.pxi      DatagramSocket: the calls that a user makes
    mailing.pxi     a server's replies to datagrams
    dispatch.pxi    threads that serve datagrams by turns
"""

import contextlib
import errno
import io
import os
import stat
import sys
import threading
import warnings
from operator import index as operator_index

cimport cython
from libc.stdint cimport uint64_t, uintptr_t

from pysock.errors import (
    AuthenticationError,
    ConnectionClosed,
    Error,
    FrameTooLarge,
    FramingError,
    IncompleteFrame,
    InvalidHeader,
)

cdef extern from "sockio.h" nogil:
    # sock_t is wider on Windows: the C header decides.
    ctypedef Py_ssize_t sock_t
    # Of these `+=` and the like are two steps, between which another thread may come.
    ctypedef bint shared_flag "shared_long"
    ctypedef long shared_long
    ctypedef size_t shared_owner
    ctypedef struct sock_iov:
        pass
    ctypedef struct sock_wake:
        pass
    const int SOCK_READ
    const int SOCK_WRITE
    const int SOCK_WOKEN
    const sock_t SOCK_BAD
    const Py_ssize_t SOCK_AGAIN
    const Py_ssize_t SPARE_SIZE
    const bint SOCK_HAS_SENDFILE
    bint sock_intr(Py_ssize_t result)
    bint sock_again(Py_ssize_t result)
    void iov_set(sock_iov *iov, const char *p, Py_ssize_t n)
    char *iov_base(const sock_iov *iov)
    Py_ssize_t iov_len(const sock_iov *iov)
    double sock_now()
    int sock_prepare(sock_t fd)
    const bint SOCK_IS_CHANGED
    void sock_block(sock_t fd)
    Py_ssize_t sock_recv(sock_t fd, sock_iov *iov, int n)
    Py_ssize_t sock_peek(sock_t fd)
    Py_ssize_t sock_recv_waiting(sock_t fd, sock_iov *iov, int n)
    Py_ssize_t sock_send(sock_t fd, sock_iov *iov, int n)
    Py_ssize_t sock_sendfile(sock_t fd, int file, long long offset, Py_ssize_t n)
    int sock_shutdown_write(sock_t fd)
    int sock_shutdown_both(sock_t fd)
    Py_ssize_t sock_queued(sock_t fd, bint unread)
    bint sock_is_socket(sock_t fd)
    bint sock_is_nonblocking(sock_t fd)
    const bint PIPE_HAS_POLL
    Py_ssize_t pipe_read(sock_t fd, char *p, Py_ssize_t n, bint nonblocking)
    Py_ssize_t pipe_write(sock_t fd, const char *p, Py_ssize_t n, bint nonblocking)
    int sock_poll(sock_t reader, sock_t writer, int want, sock_t wake, double seconds)
    void sock_relax()
    int wake_open(sock_wake *wake)
    sock_t wake_fd(const sock_wake *wake)
    void wake_poke(sock_wake *wake)
    void wake_clear(sock_wake *wake)
    void wake_close(sock_wake *wake)
    bint owner_take(shared_owner *owner, size_t me)
    void owner_drop(shared_owner *owner)
    bint owner_glance(shared_owner *owner)
    const bint GLANCE_TAKES
    long atomic_add(shared_long *n, long value)
    long long atomic_count(long long *n, long long value)
    long atomic_set(shared_long *n, long value)
    bint flag_set "atomic_set"(shared_flag *flag, bint value)
    void *atomic_look(void **slot)
    void *atomic_swap(void **slot, void *value)
    bint atomic_put(void **slot, void *value)
    uint64_t word_read(uint64_t *word)
    bint word_change(uint64_t *word, uint64_t expected, uint64_t value)
    const bint MEMORY_IS_LAZY
    void memory_in_large_pages(char *p, Py_ssize_t n)
    void memory_hide(char *p, Py_ssize_t n)
    void memory_show(char *p, Py_ssize_t n)
    char *spare_take()
    void spare_give(char *p)

cdef extern from *:
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "sockio.h":
    int sock_raise(Py_ssize_t result) except -1

__all__ = [
    "ContentLength",
    "Decimal",
    "DatagramSocket",
    "Decoder",
    "Delimiter",
    "Fixed",
    "Format",
    "FrameStream",
    "LengthField",
    "MultiprocessingConnection",
    "Netstring",
    "Raw",
    "Sender",
    "Stats",
    "Varint",
    "recv_exactly",
    "recv_exactly_into",
    "recv_frame",
    "send_frame",
]

include "layout.pxi"
include "formats.pxi"
include "outgoing.pxi"
include "decoder.pxi"
include "turns.pxi"
include "memory.pxi"
include "pool.pxi"
include "records.pxi"
include "tls.pxi"
include "ends.pxi"
include "transport.pxi"
include "buffer.pxi"
include "receive.pxi"
include "send.pxi"
include "files.pxi"
include "passing.pxi"
include "answer.pxi"
include "closing.pxi"
include "views.pxi"
include "options.pxi"
include "stream.pxi"
include "lead.pxi"
include "crew.pxi"
include "primitives.pxi"
include "datagrams.pxi"
include "asking.pxi"
include "mailing.pxi"
include "dispatch.pxi"
