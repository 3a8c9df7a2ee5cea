/* A set of sockets and what is waited for with each: epoll, kqueue, or poll.
 *
 * One thread at a time waits; any thread may change the set meanwhile.  The set is
 * level-triggered: what was not dealt with is told again.
 */
#pragma once
#include "sockio.h"

typedef struct {
    uintptr_t tag; /* as given to poller_set() */
    int ready;     /* SOCK_READ, SOCK_WRITE; an error or a hang-up counts as both */
} poll_event;

/* epoll wants whole milliseconds; rounded up, or the last one would be spent asking. */
static inline int poller_ms(double seconds) {
    return seconds < 0 ? -1 : seconds > 2e6 ? 2000000000 : (int)ceil(seconds * 1000);
}

#if defined(__linux__) && !defined(PYSOCK_POLL)
/* -------------------------------------------------------------------- epoll */
#include <sys/epoll.h>

typedef struct { int fd; } poller;

static inline int poller_open(poller *p) {
    p->fd = epoll_create1(EPOLL_CLOEXEC);
    return p->fd < 0 ? -errno : 0;
}
static inline void poller_close(poller *p) { close(p->fd); }

/* Wait for *want* with *fd*, no longer for *before*; 0: for nothing. */
static inline int poller_set(poller *p, sock_t fd, int before, int want, uintptr_t tag) {
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = ((want & SOCK_READ) ? EPOLLIN : 0u) | ((want & SOCK_WRITE) ? EPOLLOUT : 0u);
    e.data.u64 = tag;
    int op = !want ? EPOLL_CTL_DEL : before ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    int r = epoll_ctl(p->fd, op, fd, &e);
    return r < 0 ? -errno : 0;
}

/* Several processes wait for the same listener: one of them is enough for a client. */
static inline int poller_share(poller *p, sock_t fd, uintptr_t tag) {
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = EPOLLIN | EPOLLEXCLUSIVE;
    e.data.u64 = tag;
    return epoll_ctl(p->fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static inline int poller_wait(poller *p, poll_event *events, int most, double seconds) {
    struct epoll_event got[256];
    int n = epoll_wait(p->fd, got, most < 256 ? most : 256, poller_ms(seconds));
    if (n < 0) return -errno;
    for (int i = 0; i < n; i++) {
        int both = (got[i].events & (EPOLLERR | EPOLLHUP)) ? SOCK_READ | SOCK_WRITE : 0;
        events[i].tag = (uintptr_t)got[i].data.u64;
        events[i].ready = both | ((got[i].events & EPOLLIN) ? SOCK_READ : 0) |
                          ((got[i].events & EPOLLOUT) ? SOCK_WRITE : 0);
    }
    return n;
}

#elif (defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || \
       defined(__OpenBSD__) || defined(__DragonFly__)) && !defined(PYSOCK_POLL)
/* ------------------------------------------------------------------- kqueue */
#include <sys/event.h>

typedef struct { int fd; } poller;

static inline int poller_open(poller *p) {
    p->fd = kqueue();
    if (p->fd < 0) return -errno;
    fcntl(p->fd, F_SETFD, FD_CLOEXEC);
    return 0;
}
static inline void poller_close(poller *p) { close(p->fd); }

static inline int poller_set(poller *p, sock_t fd, int before, int want, uintptr_t tag) {
    struct kevent changes[2];
    int n = 0;
    if ((before ^ want) & SOCK_READ) {
        EV_SET(&changes[n], (uintptr_t)fd, EVFILT_READ,
               (want & SOCK_READ) ? EV_ADD : EV_DELETE, 0, 0, (void *)tag);
        n++;
    }
    if ((before ^ want) & SOCK_WRITE) {
        EV_SET(&changes[n], (uintptr_t)fd, EVFILT_WRITE,
               (want & SOCK_WRITE) ? EV_ADD : EV_DELETE, 0, 0, (void *)tag);
        n++;
    }
    return kevent(p->fd, changes, n, NULL, 0, NULL) < 0 ? -errno : 0;
}
static inline int poller_share(poller *p, sock_t fd, uintptr_t tag) {
    return poller_set(p, fd, 0, SOCK_READ, tag);
}

static inline int poller_wait(poller *p, poll_event *events, int most, double seconds) {
    struct kevent got[256];
    int ms = poller_ms(seconds);
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    int n = kevent(p->fd, NULL, 0, got, most < 256 ? most : 256, ms < 0 ? NULL : &t);
    if (n < 0) return -errno;
    for (int i = 0; i < n; i++) {
        events[i].tag = (uintptr_t)got[i].udata;
        events[i].ready = got[i].filter == EVFILT_WRITE ? SOCK_WRITE : SOCK_READ;
        if (got[i].flags & (EV_EOF | EV_ERROR)) events[i].ready = SOCK_READ | SOCK_WRITE;
    }
    return n;
}

#else
/* --------------------------------------------------- poll, which Windows has */

/* The waiting thread works on a copy, and is woken when the original changes. */
typedef struct {
    PyThread_type_lock guard;
    sock_wake wake;
    sock_pollfd *fds, *copy;
    uintptr_t *tags, *copied_tags;
    int n, room, copy_room, waiting;
} poller;

static inline int poller_open(poller *p) {
    memset(p, 0, sizeof *p);
    int r = wake_open(&p->wake);
    if (r < 0) return r;
    p->guard = PyThread_allocate_lock();
    if (p->guard == NULL) {
        wake_close(&p->wake);
        return -ENOMEM;
    }
    return 0;
}

static inline void poller_close(poller *p) {
    wake_close(&p->wake);
    PyThread_free_lock(p->guard);
    PyMem_RawFree(p->fds);
    PyMem_RawFree(p->tags);
    PyMem_RawFree(p->copy);
    PyMem_RawFree(p->copied_tags);
}

static inline int poller_grow(sock_pollfd **fds, uintptr_t **tags, int room) {
    void *more = PyMem_RawRealloc(*fds, (size_t)room * sizeof **fds);
    if (more == NULL) return -ENOMEM;
    *fds = (sock_pollfd *)more;
    more = PyMem_RawRealloc(*tags, (size_t)room * sizeof **tags);
    if (more == NULL) return -ENOMEM;
    *tags = (uintptr_t *)more;
    return 0;
}

static inline int poller_set(poller *p, sock_t fd, int before, int want, uintptr_t tag) {
    int i = 0, r = 0;
    PyThread_acquire_lock(p->guard, 1);
    while (before && i < p->n && p->fds[i].fd != fd) i++;
    if (!before) i = p->n;
    if (!want) {
        if (i < p->n) {
            p->fds[i] = p->fds[p->n - 1];
            p->tags[i] = p->tags[p->n - 1];
            p->n--;
        }
    } else {
        if (i == p->n && p->n == p->room) {
            r = poller_grow(&p->fds, &p->tags, 2 * p->room + 16);
            if (r == 0) p->room = 2 * p->room + 16;
        }
        if (r == 0) {
            p->fds[i].fd = fd;
            p->fds[i].events = (short)(((want & SOCK_READ) ? SOCK_POLLIN : 0) |
                                       ((want & SOCK_WRITE) ? SOCK_POLLOUT : 0));
            p->fds[i].revents = 0;
            p->tags[i] = tag;
            if (i == p->n) p->n++;
        }
    }
    if (p->waiting) wake_poke(&p->wake);
    PyThread_release_lock(p->guard);
    return r;
}
static inline int poller_share(poller *p, sock_t fd, uintptr_t tag) {
    return poller_set(p, fd, 0, SOCK_READ, tag);
}

static inline int poller_wait(poller *p, poll_event *events, int most, double seconds) {
    int n, found = 0, r = 0;
    PyThread_acquire_lock(p->guard, 1);
    n = p->n;
    if (n + 1 > p->copy_room) {
        r = poller_grow(&p->copy, &p->copied_tags, n + 17);
        if (r == 0) p->copy_room = n + 17;
    }
    if (r == 0) {
        if (n) {
            memcpy(p->copy, p->fds, (size_t)n * sizeof *p->fds);
            memcpy(p->copied_tags, p->tags, (size_t)n * sizeof *p->tags);
        }
        p->waiting = 1;
    }
    PyThread_release_lock(p->guard);
    if (r < 0) return r;
    p->copy[n].fd = wake_fd(&p->wake);
    p->copy[n].events = SOCK_POLLIN;
    p->copy[n].revents = 0;
    r = sock_poll_call(p->copy, (unsigned)n + 1, poller_ms(seconds));
    if (r < 0) r = sock_error();
    p->waiting = 0;
    if (r < 0) return r;
    if (p->copy[n].revents) wake_clear(&p->wake);
    for (int i = 0; i < n && found < most; i++) {
        int got = p->copy[i].revents;
        if (!got) continue;
        events[found].tag = p->copied_tags[i];
        events[found].ready = ((got & SOCK_POLLIN) ? SOCK_READ : 0) |
                              ((got & SOCK_POLLOUT) ? SOCK_WRITE : 0);
        if (!events[found].ready) events[found].ready = SOCK_READ | SOCK_WRITE;
        found++;
    }
    return found;
}
#endif
