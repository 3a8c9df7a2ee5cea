/* The only file that knows which operating system, and which C compiler, this is.
 *
 * Every function that can fail returns the negative system error number, read on
 * the line after the call; sock_raise() turns it into a Python exception later,
 * when the GIL is held.
 */
#pragma once
#include <Python.h>
#include <math.h>

enum { SOCK_READ = 1, SOCK_WRITE = 2, SOCK_WOKEN = 4 };

/* What threads tell each other without a lock: a flag that one of them sets is seen by all,
 * and whatever it did before.  With the GIL that is so by itself. */
#if !defined(Py_GIL_DISABLED)
#define SHARED
#elif defined(_MSC_VER)
#define SHARED volatile
#else
#define SHARED _Atomic
#endif
typedef SHARED long shared_long;
typedef SHARED size_t shared_owner;

#ifdef _WIN32
/* ------------------------------------------------------------------ Windows */
#include <winsock2.h>
#include <ws2tcpip.h>

typedef SOCKET sock_t;
typedef WSABUF sock_iov;

#define SOCK_BAD INVALID_SOCKET
#define SOCK_CONNECTION_ABORTED WSAECONNABORTED

static inline int sock_intr(Py_ssize_t r) { return r == -WSAEINTR; }
#define SOCK_AGAIN (-WSAEWOULDBLOCK) /* nothing can be done without waiting */
static inline int sock_again(Py_ssize_t r) { return r == SOCK_AGAIN; }

/* Numbers below Winsock's are C's, and would mean something else to Windows. */
static inline int sock_raise(Py_ssize_t r) {
    if (r > -WSABASEERR) {
        errno = (int)-r;
        PyErr_SetFromErrno(PyExc_OSError);
    } else {
        PyErr_SetExcFromWindowsErr(PyExc_OSError, (int)-r);
    }
    return -1;
}

static inline void iov_set(sock_iov *iov, const char *p, Py_ssize_t n) {
    iov->buf = (char *)p;
    iov->len = (ULONG)(n > INT_MAX ? INT_MAX : n);
}
static inline char *iov_base(const sock_iov *iov) { return iov->buf; }
static inline Py_ssize_t iov_len(const sock_iov *iov) { return (Py_ssize_t)iov->len; }

/* How many of the pieces one call can count the bytes of. */
static inline int iov_within(const sock_iov *iov, int n) {
    Py_ssize_t room = INT_MAX - iov_len(iov);
    int i = 1;
    while (i < n && iov_len(&iov[i]) <= room) room -= iov_len(&iov[i++]);
    return i;
}

static inline double sock_now(void) {
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (double)count.QuadPart / (double)frequency.QuadPart;
}

/* Winsock has no MSG_DONTWAIT: the stream makes its own socket non-blocking. */
static inline int sock_prepare(sock_t fd) {
    u_long on = 1;
    return ioctlsocket(fd, FIONBIO, &on) ? -WSAGetLastError() : 0;
}
#define SOCK_IS_CHANGED 1
static inline void sock_block(sock_t fd) {
    u_long off = 0;
    ioctlsocket(fd, FIONBIO, &off);
}

/* Elsewhere a stream that was shut down here is at its end. */
static inline Py_ssize_t sock_recv_error(void) {
    int error = WSAGetLastError();
    return error == WSAESHUTDOWN ? 0 : -error;
}

static inline Py_ssize_t sock_recv(sock_t fd, sock_iov *iov, int n) {
    DWORD got = 0, flags = 0;
    if (WSARecv(fd, iov, (DWORD)n, &got, &flags, NULL, NULL)) return sock_recv_error();
    return (Py_ssize_t)got;
}

static inline Py_ssize_t sock_peek(sock_t fd) {
    char c;
    WSABUF one = {1, &c};
    DWORD got = 0, flags = MSG_PEEK;
    if (WSARecv(fd, &one, 1, &got, &flags, NULL, NULL)) return sock_recv_error();
    return (Py_ssize_t)got;
}

/* Here every socket is non-blocking: this one does not wait either. */
static inline Py_ssize_t sock_recv_waiting(sock_t fd, sock_iov *iov, int n) {
    return sock_recv(fd, iov, n);
}

static inline Py_ssize_t sock_send(sock_t fd, sock_iov *iov, int n) {
    DWORD sent = 0;
    n = iov_within(iov, n);
    if (WSASend(fd, iov, (DWORD)n, &sent, 0, NULL, NULL)) return -WSAGetLastError();
    return (Py_ssize_t)sent;
}

static inline int sock_shutdown_write(sock_t fd) {
    return shutdown(fd, SD_SEND) ? -WSAGetLastError() : 0;
}
static inline int sock_shutdown_both(sock_t fd) {
    return shutdown(fd, SD_BOTH) ? -WSAGetLastError() : 0;
}

/* No way to ask: the caller waits for the peer's end instead. */
static inline Py_ssize_t sock_queued(sock_t fd, int unread) {
    (void)fd; (void)unread;
    return -1;
}

static inline int sock_is_socket(sock_t fd) {
    int type, size = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, (char *)&type, &size) == 0;
}
static inline int sock_is_nonblocking(sock_t fd) { (void)fd; return 1; }

/* What reads and writes pipes does not wait for them here. */
#define PIPE_HAS_POLL 0
static inline Py_ssize_t pipe_read(sock_t fd, char *p, Py_ssize_t n, int nonblocking) {
    (void)fd; (void)p; (void)n; (void)nonblocking;
    return -WSAEOPNOTSUPP;
}
static inline Py_ssize_t pipe_write(sock_t fd, const char *p, Py_ssize_t n, int nonblocking) {
    (void)fd; (void)p; (void)n; (void)nonblocking;
    return -WSAEOPNOTSUPP;
}
static inline Py_ssize_t sock_sendfile(sock_t fd, int file, long long offset, Py_ssize_t n) {
    (void)fd; (void)file; (void)offset; (void)n;
    return -WSAEOPNOTSUPP;
}
#define SOCK_HAS_SENDFILE 0

typedef WSAPOLLFD sock_pollfd;
static inline int sock_poll_call(sock_pollfd *fds, unsigned n, int ms) {
    if (n) return WSAPoll(fds, n, ms);
    Sleep(ms < 0 ? INFINITE : (DWORD)ms); /* WSAPoll wants something to wait for */
    return 0;
}
static inline int sock_error(void) { return -WSAGetLastError(); }
#define SOCK_POLLIN POLLRDNORM
#define SOCK_POLLOUT POLLWRNORM

typedef struct { sock_t fd; } sock_wake;
static inline int wake_open(sock_wake *w) {
    /* A UDP socket connected to itself: one descriptor that WSAPoll accepts. */
    struct sockaddr_in a;
    int size = sizeof a;
    u_long on = 1;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    w->fd = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0,
                       WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (w->fd == INVALID_SOCKET) return -WSAGetLastError();
    if (ioctlsocket(w->fd, FIONBIO, &on) || bind(w->fd, (struct sockaddr *)&a, sizeof a) ||
        getsockname(w->fd, (struct sockaddr *)&a, &size) ||
        connect(w->fd, (struct sockaddr *)&a, sizeof a)) {
        int err = -WSAGetLastError();
        closesocket(w->fd);
        w->fd = INVALID_SOCKET;
        return err;
    }
    return 0;
}
static inline sock_t wake_fd(const sock_wake *w) { return w->fd; }
static inline void wake_poke(sock_wake *w) { send(w->fd, "", 1, 0); }
static inline void wake_clear(sock_wake *w) {
    char trash[64];
    while (recv(w->fd, trash, sizeof trash, 0) > 0) continue;
}
static inline void wake_close(sock_wake *w) { closesocket(w->fd); }

#define sock_relax() YieldProcessor()
static inline int owner_take(shared_owner *owner, size_t me) {
    return InterlockedCompareExchangePointer(
        (PVOID volatile *)owner, (PVOID)me, NULL) == NULL;
}
static inline void owner_drop(shared_owner *owner) {
    InterlockedExchangePointer((PVOID volatile *)owner, NULL);
}
static inline long atomic_add(shared_long *n, long value) {
    return InterlockedExchangeAdd(n, value) + value;
}
static inline long long atomic_count(long long *n, long long value) {
    return InterlockedExchangeAdd64(n, value) + value;
}
static inline long atomic_set(shared_long *n, long value) {
    return InterlockedExchange(n, value);
}
static inline uint64_t word_read(uint64_t *word) {
    return (uint64_t)InterlockedCompareExchange64((LONG64 volatile *)word, 0, 0);
}
static inline int word_change(uint64_t *word, uint64_t from, uint64_t to) {
    return (uint64_t)InterlockedCompareExchange64(
        (LONG64 volatile *)word, (LONG64)to, (LONG64)from) == from;
}
#define atomic_look(slot) (*(void *volatile *)(slot))
#define atomic_swap(slot, value) \
    InterlockedExchangePointer((PVOID volatile *)(slot), (PVOID)(value))
#define atomic_put(slot, value) \
    (InterlockedCompareExchangePointer((PVOID volatile *)(slot), (PVOID)(value), NULL) == NULL)

#else
/* -------------------------------------------------------------------- POSIX */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/sockios.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#endif

typedef int sock_t;
typedef struct iovec sock_iov;

#define SOCK_BAD (-1)
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SO_NOSIGPIPE is set in sock_prepare() */
#endif
#ifndef PIPE_BUF
#define PIPE_BUF 512
#endif

static inline int sock_intr(Py_ssize_t r) { return r == -EINTR; }
#define SOCK_AGAIN (-EAGAIN) /* nothing can be done without waiting */
static inline int sock_again(Py_ssize_t r) { return r == -EAGAIN || r == -EWOULDBLOCK; }

static inline int sock_raise(Py_ssize_t r) {
    errno = (int)-r;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static inline void iov_set(sock_iov *iov, const char *p, Py_ssize_t n) {
    iov->iov_base = (void *)p;
    iov->iov_len = (size_t)n;
}
static inline char *iov_base(const sock_iov *iov) { return (char *)iov->iov_base; }
static inline Py_ssize_t iov_len(const sock_iov *iov) { return (Py_ssize_t)iov->iov_len; }

static inline double sock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int sock_prepare(sock_t fd) {
#ifdef SO_NOSIGPIPE
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#else
    (void)fd;
#endif
    return 0;
}
#define SOCK_IS_CHANGED 0
static inline void sock_block(sock_t fd) { (void)fd; }

static inline Py_ssize_t sock_recv_flags(sock_t fd, sock_iov *iov, int n, int flags) {
    ssize_t r;
    if (n == 1) {
        r = recv(fd, iov->iov_base, iov->iov_len, flags);
    } else {
        struct msghdr m;
        memset(&m, 0, sizeof m);
        m.msg_iov = iov;
        m.msg_iovlen = (size_t)n;
        r = recvmsg(fd, &m, flags);
    }
    return r < 0 ? -errno : r;
}

/* MSG_DONTWAIT, because O_NONBLOCK belongs to all who share the socket. */
static inline Py_ssize_t sock_recv(sock_t fd, sock_iov *iov, int n) {
    return sock_recv_flags(fd, iov, n, MSG_DONTWAIT);
}

/* Whether there is something to receive: 1, 0 at the end, or the negative error. */
static inline Py_ssize_t sock_peek(sock_t fd) {
    char c;
    ssize_t r = recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK);
    return r < 0 ? -errno : r;
}

/* Sleeps where the socket is a blocking one. */
static inline Py_ssize_t sock_recv_waiting(sock_t fd, sock_iov *iov, int n) {
    return sock_recv_flags(fd, iov, n, 0);
}

static inline Py_ssize_t sock_send(sock_t fd, sock_iov *iov, int n) {
    ssize_t r;
    if (n == 1) {
        r = send(fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        struct msghdr m;
        memset(&m, 0, sizeof m);
        m.msg_iov = iov;
        m.msg_iovlen = (size_t)n;
        r = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    return r < 0 ? -errno : r;
}

static inline int sock_shutdown_write(sock_t fd) {
    return shutdown(fd, SHUT_WR) ? -errno : 0;
}
static inline int sock_shutdown_both(sock_t fd) {
    return shutdown(fd, SHUT_RDWR) ? -errno : 0;
}

/* Bytes sent that the peer's kernel has not acknowledged, or -1 where nobody tells.
 * After shutdown the end of the stream itself counts for one.  With *unread*, on a Unix
 * socket, those that the peer has not read. */
static inline Py_ssize_t sock_queued(sock_t fd, int unread) {
#if defined(SIOCOUTQ)
    int n;
    struct sockaddr_storage a;
    socklen_t size = sizeof a;
    if (!unread && getsockname(fd, (struct sockaddr *)&a, &size) == 0 &&
        a.ss_family == AF_UNIX)
        return 0; /* already in the peer's receive queue, out of reach of our close */
    return ioctl(fd, SIOCOUTQ, &n) ? -1 : n;
#elif defined(SO_NWRITE)
    int n;
    socklen_t size = sizeof n;
    (void)unread;
    return getsockopt(fd, SOL_SOCKET, SO_NWRITE, &n, &size) ? -1 : n;
#else
    (void)fd;
    (void)unread;
    return -1;
#endif
}

static inline int sock_is_socket(sock_t fd) {
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

static inline int sock_is_nonblocking(sock_t fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags != -1 && (flags & O_NONBLOCK) != 0;
}

#define PIPE_HAS_POLL 1
static inline int pipe_ready(sock_t fd, short events) {
    struct pollfd p = {.fd = fd, .events = events};
    int r = poll(&p, 1, 0);
    return r < 0 ? -errno : r == 0 ? -EAGAIN : 0;
}

/* A pipe has no MSG_DONTWAIT: ask first, then take what is there. */
static inline Py_ssize_t pipe_read(sock_t fd, char *p, Py_ssize_t n, int nonblocking) {
    int ready = nonblocking ? 0 : pipe_ready(fd, POLLIN);
    if (ready < 0) return ready;
    ssize_t r = read(fd, p, (size_t)n);
    return r < 0 ? -errno : r;
}

/* SIGPIPE is held back for one call that has no MSG_NOSIGNAL, and taken away if it came. */
typedef struct { sigset_t before; int was_pending; } sigpipe_hold;

static inline void sigpipe_begin(sigpipe_hold *hold) {
    sigset_t sigpipe, pending;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    sigpending(&pending);
    hold->was_pending = sigismember(&pending, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &sigpipe, &hold->before);
}

static inline void sigpipe_end(const sigpipe_hold *hold) {
    /* Whatever the result: a call that got some bytes out may have met the end as well. */
    if (!hold->was_pending) {
        sigset_t sigpipe, pending;
        int taken;
        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
        sigpending(&pending);
        if (sigismember(&pending, SIGPIPE)) sigwait(&sigpipe, &taken);
    }
    pthread_sigmask(SIG_SETMASK, &hold->before, NULL);
}

/* A pipe that is writable takes PIPE_BUF bytes without blocking, and no more is promised. */
static inline Py_ssize_t pipe_write(sock_t fd, const char *p, Py_ssize_t n, int nonblocking) {
    int ready = nonblocking ? 0 : pipe_ready(fd, POLLOUT);
    if (ready < 0) return ready;
    sigpipe_hold hold;
    sigpipe_begin(&hold);
    ssize_t r = write(fd, p, nonblocking || n < PIPE_BUF ? (size_t)n : PIPE_BUF);
    Py_ssize_t result = r < 0 ? -errno : r;
    sigpipe_end(&hold);
    return result;
}

#ifdef __linux__
#define SOCK_HAS_SENDFILE 1
static inline Py_ssize_t sock_sendfile(sock_t fd, int file, long long offset, Py_ssize_t n) {
    off_t at = (off_t)offset;
    sigpipe_hold hold;
    sigpipe_begin(&hold);
    ssize_t r = sendfile(fd, file, &at, (size_t)n);
    Py_ssize_t result = r < 0 ? -errno : r;
    sigpipe_end(&hold);
    return result;
}
#else
#define SOCK_HAS_SENDFILE 0
static inline Py_ssize_t sock_sendfile(sock_t fd, int file, long long offset, Py_ssize_t n) {
    (void)fd; (void)file; (void)offset; (void)n;
    return -EOPNOTSUPP;
}
#endif

typedef struct pollfd sock_pollfd;
#define sock_poll_call poll
static inline int sock_error(void) { return -errno; }
#define SOCK_POLLIN POLLIN
#define SOCK_POLLOUT POLLOUT

/* What wakes a call that sleeps in poll(), when another thread has news for it. */
#ifdef __linux__
typedef struct { sock_t fd; } sock_wake;
static inline int wake_open(sock_wake *w) {
    w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return w->fd < 0 ? -errno : 0;
}
static inline sock_t wake_fd(const sock_wake *w) { return w->fd; }
static inline void wake_poke(sock_wake *w) {
    unsigned long long one = 1;
    if (write(w->fd, &one, sizeof one) < 0) { /* full means readable already */ }
}
static inline void wake_clear(sock_wake *w) {
    unsigned long long count;
    if (read(w->fd, &count, sizeof count) < 0) { /* another was faster */ }
}
static inline void wake_close(sock_wake *w) { close(w->fd); }
#else
typedef struct { sock_t fd, other; } sock_wake;
static inline int wake_open(sock_wake *w) {
    int ends[2];
    if (pipe(ends)) return -errno;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    w->fd = ends[0];
    w->other = ends[1];
    return 0;
}
static inline sock_t wake_fd(const sock_wake *w) { return w->fd; }
static inline void wake_poke(sock_wake *w) {
    if (write(w->other, "", 1) < 0) { /* full means readable already */ }
}
static inline void wake_clear(sock_wake *w) {
    char trash[64];
    while (read(w->fd, trash, sizeof trash) > 0) continue;
}
static inline void wake_close(sock_wake *w) { close(w->fd); close(w->other); }
#endif

#if defined(__x86_64__) || defined(__i386__)
#define sock_relax() __builtin_ia32_pause()
#else
#define sock_relax() ((void)0)
#endif
static inline int owner_take(shared_owner *owner, size_t me) {
    size_t none = 0;
    return __atomic_compare_exchange_n(
        (size_t *)owner, &none, me, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
static inline void owner_drop(shared_owner *owner) {
    __atomic_store_n((size_t *)owner, (size_t)0, __ATOMIC_SEQ_CST);
}
static inline long atomic_add(shared_long *n, long value) {
    return __atomic_add_fetch((long *)n, value, __ATOMIC_SEQ_CST);
}
static inline long long atomic_count(long long *n, long long value) {
    return __atomic_add_fetch(n, value, __ATOMIC_SEQ_CST);
}
static inline long atomic_set(shared_long *n, long value) {
    return __atomic_exchange_n((long *)n, value, __ATOMIC_SEQ_CST);
}
static inline uint64_t word_read(uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}
static inline int word_change(uint64_t *word, uint64_t from, uint64_t to) {
    return __atomic_compare_exchange_n(
        word, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
#define atomic_look(slot) __atomic_load_n((slot), __ATOMIC_RELAXED)
#define atomic_swap(slot, value) __atomic_exchange_n((slot), (value), __ATOMIC_ACQ_REL)
static inline int atomic_put(void **slot, void *value) {
    void *none = NULL;
    return __atomic_compare_exchange_n(
        slot, &none, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
#endif

/* Memory takes its place when it is touched, and much of it costs less in large pages. */
#if defined(__linux__) && defined(MADV_HUGEPAGE)
#define MEMORY_IS_LAZY 1
static inline void memory_in_large_pages(char *p, Py_ssize_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = ((uintptr_t)p + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)p + (uintptr_t)n) & ~(page - 1);
    if (start < end && madvise((void *)start, end - start, MADV_HUGEPAGE)) { /* as it is */ }
}
#else
#define MEMORY_IS_LAZY 0
static inline void memory_in_large_pages(char *p, Py_ssize_t n) { (void)p; (void)n; }
#endif

/* ------------------------------------------------------------------- shared */

/* Sleep until *reader* can be read, *writer* written or *wake* was poked: those SOCK_
 * bits, 0 when *seconds* are over (negative: no limit), or the error. */
static inline int sock_poll(
    sock_t reader, sock_t writer, int want, sock_t wake, double seconds) {
    sock_pollfd fds[3];
    int n = 0, result = 0;
    if (want & SOCK_READ) {
        fds[n].fd = reader;
        fds[n].events = SOCK_POLLIN;
        n++;
    }
    if (want & SOCK_WRITE) {
        fds[n].fd = writer;
        fds[n].events = SOCK_POLLOUT;
        n++;
    }
    if (wake != SOCK_BAD) {
        fds[n].fd = wake;
        fds[n].events = SOCK_POLLIN;
        n++;
    }
    for (int i = 0; i < n; i++) fds[i].revents = 0;
    /* Rounded up: to wake a moment early would mean a busy last millisecond. */
    int ms = seconds < 0 ? -1 : seconds > 2e6 ? 2000000000 : (int)ceil(seconds * 1000);
    int r = sock_poll_call(fds, (unsigned)n, ms);
    if (r < 0) return sock_error();
    n = 0;
    /* Error and hang-up count as ready: the call that follows tells which. */
    if ((want & SOCK_READ) && fds[n++].revents) result |= SOCK_READ;
    if ((want & SOCK_WRITE) && fds[n++].revents) result |= SOCK_WRITE;
    if (wake != SOCK_BAD && fds[n].revents) result |= SOCK_WOKEN;
    return result;
}

/* A step that neither waits nor runs other code needs the turn only where threads really
 * run at the same time; with the GIL it is enough to see that the turn is free. */
#ifdef Py_GIL_DISABLED
#define GLANCE_TAKES 1
static inline int owner_glance(shared_owner *owner) { return owner_take(owner, (size_t)-1); }
#else
#define GLANCE_TAKES 0
static inline int owner_glance(shared_owner *owner) { return *owner == 0; }
#endif

/* Memory that is kept to be used again: to AddressSanitizer it is as good as freed. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
static inline void memory_hide(char *p, Py_ssize_t n) { ASAN_POISON_MEMORY_REGION(p, n); }
static inline void memory_show(char *p, Py_ssize_t n) { ASAN_UNPOISON_MEMORY_REGION(p, n); }
#else
static inline void memory_hide(char *p, Py_ssize_t n) { (void)p, (void)n; }
static inline void memory_show(char *p, Py_ssize_t n) { (void)p, (void)n; }
#endif

/* Read-ahead buffers that no connection holds at the moment, for the next that needs one. */
enum { SPARE_SIZE = 65536, SPARE_COUNT = 8 };
static void *spares[SPARE_COUNT];

static inline char *spare_take(void) {
    for (int i = 0; i < SPARE_COUNT; i++) {
        if (atomic_look(&spares[i]) == NULL) continue;
        char *p = (char *)atomic_swap(&spares[i], NULL);
        if (p == NULL) continue;
        memory_show(p, SPARE_SIZE);
        return p;
    }
    return (char *)PyMem_RawMalloc(SPARE_SIZE);
}

static inline void spare_give(char *p) {
    memory_hide(p, SPARE_SIZE);
    for (int i = 0; i < SPARE_COUNT; i++)
        if (atomic_look(&spares[i]) == NULL && atomic_put(&spares[i], p)) return;
    PyMem_RawFree(p);
}
