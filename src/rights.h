/* What only Unix sockets have: descriptors that go with bytes (SCM_RIGHTS), and records
 * (SOCK_SEQPACKET).  As in sockio.h, a function that fails returns the negative error.
 */
#pragma once
#include "sockio.h"

enum { RIGHTS_MOST = 253 }; /* in one message: Linux's SCM_MAX_FD */

#ifdef _WIN32
#define SOCK_HAS_RECORDS 0
#define RIGHTS_COME_LAST 1
#define RIGHT_ERRORS(error) 0
static inline int sock_is_unix(sock_t fd) { (void)fd; return 0; }
static inline int sock_keeps_records(sock_t fd) { (void)fd; return 0; }
static inline Py_ssize_t sock_record_size(sock_t fd) { (void)fd; return -WSAEOPNOTSUPP; }
static inline void sock_record_drop(sock_t fd) { (void)fd; }
static inline int sock_send_room(sock_t fd) { (void)fd; return -1; }
static inline Py_ssize_t sock_recv_rights(
    sock_t fd, sock_iov *iov, int n, int most, int *fds, int *count, int *cut) {
    (void)fd; (void)iov; (void)n; (void)most; (void)fds;
    *count = *cut = 0;
    return -WSAEOPNOTSUPP;
}
static inline Py_ssize_t sock_send_rights(
    sock_t fd, sock_iov *iov, int n, const int *fds, int count) {
    (void)fd; (void)iov; (void)n; (void)fds; (void)count;
    return -WSAEOPNOTSUPP;
}
static inline void rights_close(const int *fds, int count) { (void)fds; (void)count; }

#else
#ifdef __linux__
#define SOCK_HAS_RECORDS 1
/* A receive may begin with bytes that were sent before, and ends with the piece that the
 * descriptors were sent with, or within it. */
#define RIGHTS_COME_LAST 1
#else
#define SOCK_HAS_RECORDS 0 /* nothing tells a record's size before it is received */
#define RIGHTS_COME_LAST 0 /* there such a piece begins a receive */
#endif

#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif

/* Errors of a send that lie in the descriptors: nothing has left, and others may. */
#define RIGHT_ERRORS(error) \
    ((error) == -EBADF || (error) == -EINVAL || (error) == -ETOOMANYREFS)

static inline int sock_is_unix(sock_t fd) {
    struct sockaddr_storage a;
    socklen_t size = sizeof a;
    return getsockname(fd, (struct sockaddr *)&a, &size) == 0 && a.ss_family == AF_UNIX;
}

static inline int sock_keeps_records(sock_t fd) {
    int type = 0;
    socklen_t size = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

/* Bytes of the record that comes next; 0 at the end, or where it is empty. */
static inline Py_ssize_t sock_record_size(sock_t fd) {
#ifdef __linux__
    char c;
    ssize_t r = recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK | MSG_TRUNC);
    return r < 0 ? -errno : r;
#else
    (void)fd;
    return -EOPNOTSUPP;
#endif
}

static inline void sock_record_drop(sock_t fd) {
    char c;
    if (recv(fd, &c, 1, MSG_DONTWAIT) < 0) { /* the next call tells */ }
}

/* SO_SNDBUF, which no record can be larger than, or the error. */
static inline int sock_send_room(sock_t fd) {
    int room = 0;
    socklen_t size = sizeof room;
    return getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &size) ? -errno : room;
}

static inline void rights_close(const int *fds, int count) {
    for (int i = 0; i < count; i++) close(fds[i]);
}

typedef union {
    struct cmsghdr align;
    /* Behind the descriptors some room: for what else a socket has been told to tell, and
     * to see whether it was more than the limit, or the system, that cut them off. */
    char bytes[CMSG_SPACE(sizeof(int) * RIGHTS_MOST) + 64];
} rights_control;

static inline int carries_fds(int type) {
#ifdef __linux__
    if (type == 4) return 1; /* SCM_PIDFD, where SO_PASSPIDFD has been set */
#endif
    return type == SCM_RIGHTS;
}

/* Receive, with at most about *most* descriptors: *count* of them, which never are more than
 * RIGHTS_MOST, go to *fds*; *cut* is set when there were others. */
static inline Py_ssize_t sock_recv_rights(
    sock_t fd, sock_iov *iov, int n, int most, int *fds, int *count, int *cut) {
    rights_control control;
    struct msghdr m;
    *count = *cut = 0;
    memset(&m, 0, sizeof m);
    m.msg_iov = iov;
    m.msg_iovlen = (size_t)n;
    if (most > 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)most) + 64;
    }
    ssize_t r = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (r < 0) return -errno;
    if (most > 0) *cut = (m.msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || !carries_fds(c->cmsg_type)) continue;
        size_t each = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < each; i++) {
            int one;
            memcpy(&one, CMSG_DATA(c) + i * sizeof one, sizeof one);
            if (c->cmsg_type != SCM_RIGHTS || *count == RIGHTS_MOST) {
                close(one);
                *cut |= c->cmsg_type == SCM_RIGHTS;
                continue;
            }
            if (!MSG_CMSG_CLOEXEC) fcntl(one, F_SETFD, FD_CLOEXEC);
            fds[(*count)++] = one;
        }
    }
    /* A record that is not the one whose size was asked for: another process reads too. */
    return m.msg_flags & MSG_TRUNC ? -EBADMSG : r;
}

static inline Py_ssize_t sock_send_rights(
    sock_t fd, sock_iov *iov, int n, const int *fds, int count) {
    rights_control control;
    struct msghdr m;
    memset(&m, 0, sizeof m);
    m.msg_iov = iov;
    m.msg_iovlen = (size_t)n;
    if (count > 0) {
        memset(&control, 0, sizeof control);
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)count);
    }
    ssize_t r = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    return r < 0 ? -errno : r;
}
#endif
