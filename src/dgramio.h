/* Datagrams: many with one system call where the system can, one by one where not.
 *
 * As in sockio.h every function that can fail returns the negative system error number.
 */
#pragma once
#include "sockio.h"

#ifdef _WIN32
typedef int dgram_size;
#define sockaddr_family_t ADDRESS_FAMILY
#else
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/un.h>
typedef socklen_t dgram_size;
#define sockaddr_family_t sa_family_t
#endif

#if !defined(_WIN32) && defined(IP_PKTINFO) && defined(IPV6_RECVPKTINFO)
#define DGRAM_HAS_PKTINFO 1
enum { DGRAM_CONTROL = CMSG_SPACE(sizeof(struct in6_pktinfo)) };
#else
#define DGRAM_HAS_PKTINFO 0
enum { DGRAM_CONTROL = 1 };
#endif

enum {
    DGRAM_BATCH = 64,
    DGRAM_STAGGER = 192 /* rooms that begin at the same place in a page crowd the cache */
};

/* Whom a datagram came from, and how to answer. */
typedef struct {
    struct sockaddr_storage name;
    dgram_size size;
    int control_size; /* where the socket has many addresses: the one to answer from */
    union {
        size_t aligned;
        char bytes[DGRAM_CONTROL];
    } control;
} dgram_peer;

typedef struct {
    char *data;
    Py_ssize_t length; /* the datagram's own; where it was cut, 0 if the system does not tell */
    int cut;
    dgram_peer peer;
} dgram;

typedef struct {
    Py_ssize_t room; /* bytes for each datagram */
    int count;
    int answers; /* look for the address to answer from */
    char *memory;
    dgram slots[DGRAM_BATCH];
} dgram_inbox;

/* Memory is taken for *count* datagrams, and by the system when they come; NULL where there
 * is not so much. */
static inline dgram_inbox *dgram_inbox_new(Py_ssize_t room, int count) {
    if (room > PY_SSIZE_T_MAX / count - DGRAM_STAGGER - 63) return NULL;
    dgram_inbox *in = (dgram_inbox *)PyMem_RawCalloc(1, sizeof *in);
    if (in == NULL) return NULL;
    in->room = room;
    in->count = count;
    Py_ssize_t stride = (room + 63) / 64 * 64 + DGRAM_STAGGER;
    in->memory = (char *)PyMem_RawMalloc((size_t)(stride * count));
    if (in->memory == NULL) {
        PyMem_RawFree(in);
        return NULL;
    }
    for (int i = 0; i < count; i++) in->slots[i].data = in->memory + i * stride;
    return in;
}

static inline void dgram_inbox_free(dgram_inbox *in) {
    if (in != NULL) PyMem_RawFree(in->memory);
    PyMem_RawFree(in);
}

/* ------------------------------------------------------------------ receiving */

#ifdef _WIN32
#define DGRAM_CONNRESET (IOC_IN | IOC_VENDOR | 12) /* SIO_UDP_CONNRESET */

/* Of a socket that is not connected nobody wants to hear that some earlier datagram was
 * not received; other systems do not tell either. */
static inline void dgram_prepare(sock_t fd) {
    struct sockaddr_storage a;
    int size = sizeof a;
    BOOL tell = FALSE;
    DWORD got;
    if (getpeername(fd, (struct sockaddr *)&a, &size))
        WSAIoctl(fd, DGRAM_CONNRESET, &tell, sizeof tell, NULL, 0, &got, NULL, NULL);
}

/* What elsewhere is a refusal: nobody receives there. */
static inline Py_ssize_t dgram_error(int error) {
    return error == WSAECONNRESET ? -WSAECONNREFUSED : -error;
}

static inline Py_ssize_t dgram_recv(sock_t fd, dgram_inbox *in, int most, int waiting) {
    (void)waiting; /* here every socket is non-blocking */
    for (int i = 0; i < most; i++) {
        dgram *slot = &in->slots[i];
        WSABUF one = {(ULONG)in->room, slot->data};
        DWORD got = 0, flags = 0;
        slot->peer.size = (int)sizeof slot->peer.name;
        slot->peer.control_size = 0;
        slot->cut = 0;
        if (WSARecvFrom(fd, &one, 1, &got, &flags, (struct sockaddr *)&slot->peer.name,
                        &slot->peer.size, NULL, NULL)) {
            int error = WSAGetLastError();
            if (error != WSAEMSGSIZE) return i ? i : dgram_error(error);
            slot->cut = 1;
            got = 0;
        }
        slot->length = (Py_ssize_t)got;
    }
    return most;
}

static inline Py_ssize_t dgram_send(
    sock_t fd, sock_iov *iov, const dgram_peer *const *to, int n) {
    for (int i = 0; i < n; i++) {
        DWORD sent = 0;
        const dgram_peer *peer = to == NULL ? NULL : to[i];
        if (WSASendTo(fd, &iov[i], 1, &sent, 0,
                      peer == NULL ? NULL : (const struct sockaddr *)&peer->name,
                      peer == NULL ? 0 : peer->size, NULL, NULL))
            return i ? i : dgram_error(WSAGetLastError());
    }
    return n;
}

#else /* POSIX */

static inline void dgram_prepare(sock_t fd) { (void)fd; }

static inline void dgram_aim(
    dgram_inbox *in, dgram *slot, struct msghdr *head, struct iovec *iov) {
    iov->iov_base = slot->data;
    iov->iov_len = (size_t)in->room;
    head->msg_name = &slot->peer.name;
    head->msg_namelen = sizeof slot->peer.name;
    head->msg_iov = iov;
    head->msg_iovlen = 1;
    head->msg_control = in->answers ? slot->peer.control.bytes : NULL;
    head->msg_controllen = in->answers ? sizeof slot->peer.control.bytes : 0;
    head->msg_flags = 0;
}

static inline void dgram_note(dgram_inbox *in, dgram *slot, struct msghdr *head, size_t got) {
    slot->peer.size = head->msg_namelen;
    slot->peer.control_size = 0;
    slot->cut = (head->msg_flags & MSG_TRUNC) != 0;
    slot->length = (Py_ssize_t)got;
    if (slot->cut && slot->length <= in->room) slot->length = 0;
#if DGRAM_HAS_PKTINFO
    if (!in->answers) return;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(head); c != NULL; c = CMSG_NXTHDR(head, c)) {
        /* What came in is laid out as what goes out: only the interface is let go. */
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            info.ipi_ifindex = 0;
            memcpy(CMSG_DATA(c), &info, sizeof info);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            if (IN6_IS_ADDR_MULTICAST(&info.ipi6_addr)) return;
            if (!IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) info.ipi6_ifindex = 0;
            memcpy(CMSG_DATA(c), &info, sizeof info);
        } else {
            continue;
        }
        if ((char *)c != slot->peer.control.bytes) return;
        slot->peer.control_size = (int)CMSG_SPACE(
            c->cmsg_level == IPPROTO_IP ? sizeof(struct in_pktinfo)
                                        : sizeof(struct in6_pktinfo));
        return;
    }
#endif
}

static inline Py_ssize_t dgram_recv_one(sock_t fd, dgram_inbox *in, int i, int flags) {
    struct msghdr head;
    struct iovec iov;
    memset(&head, 0, sizeof head);
    dgram_aim(in, &in->slots[i], &head, &iov);
    ssize_t got = recvmsg(fd, &head, flags);
    if (got < 0) return -errno;
    dgram_note(in, &in->slots[i], &head, (size_t)got);
    return 1;
}

#ifdef __linux__
/* MSG_TRUNC: the length is to be the datagram's own. */
static inline Py_ssize_t dgram_recv(sock_t fd, dgram_inbox *in, int most, int waiting) {
    struct mmsghdr heads[DGRAM_BATCH];
    struct iovec iov[DGRAM_BATCH];
    if (most == 1)
        return dgram_recv_one(fd, in, 0, MSG_TRUNC | (waiting ? 0 : MSG_DONTWAIT));
    for (int i = 0; i < most; i++) dgram_aim(in, &in->slots[i], &heads[i].msg_hdr, &iov[i]);
    int n = recvmmsg(fd, heads, (unsigned)most,
                     MSG_TRUNC | (waiting ? MSG_WAITFORONE : MSG_DONTWAIT), NULL);
    if (n < 0) return -errno;
    for (int i = 0; i < n; i++)
        dgram_note(in, &in->slots[i], &heads[i].msg_hdr, heads[i].msg_len);
    return n;
}
#else
static inline Py_ssize_t dgram_recv(sock_t fd, dgram_inbox *in, int most, int waiting) {
    for (int i = 0; i < most; i++) {
        Py_ssize_t r = dgram_recv_one(fd, in, i, waiting && i == 0 ? 0 : MSG_DONTWAIT);
        if (r < 0) return i ? i : r;
    }
    return most;
}
#endif

static inline void dgram_head(struct msghdr *head, sock_iov *iov, const dgram_peer *peer) {
    memset(head, 0, sizeof *head);
    head->msg_iov = iov;
    head->msg_iovlen = 1;
    if (peer == NULL) return;
    head->msg_name = (void *)&peer->name;
    head->msg_namelen = peer->size;
    if (peer->control_size) {
        head->msg_control = (void *)peer->control.bytes;
        head->msg_controllen = (size_t)peer->control_size;
    }
}

/* Send datagrams as far as it goes: how many, or the first one's error.  *to* is NULL on a
 * connected socket. */
static inline Py_ssize_t dgram_send(
    sock_t fd, sock_iov *iov, const dgram_peer *const *to, int n) {
    if (n == 1 && (to == NULL || to[0] == NULL)) {
        ssize_t r = send(fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
        return r < 0 ? -errno : 1;
    }
#ifdef __linux__
    struct mmsghdr heads[DGRAM_BATCH];
    for (int i = 0; i < n; i++)
        dgram_head(&heads[i].msg_hdr, &iov[i], to == NULL ? NULL : to[i]);
    if (n > 1) {
        int sent = sendmmsg(fd, heads, (unsigned)n, MSG_DONTWAIT | MSG_NOSIGNAL);
        return sent < 0 ? -errno : sent;
    }
    return sendmsg(fd, &heads[0].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 1;
#else
    for (int i = 0; i < n; i++) {
        struct msghdr head;
        dgram_head(&head, &iov[i], to == NULL ? NULL : to[i]);
        if (sendmsg(fd, &head, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return i ? i : -errno;
    }
    return n;
#endif
}

#endif

/* ------------------------------------------------------------------ addresses */

/* Have the system tell to which of its addresses each datagram came. */
static inline int dgram_ask_answers(sock_t fd, int family) {
#if DGRAM_HAS_PKTINFO
    int on = 1;
    if (family == AF_INET6)
        return setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) ? -errno : 1;
    if (family == AF_INET)
        return setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on) ? -errno : 1;
#endif
    (void)fd;
    (void)family;
    return 0;
}

/* Whether the receiving side was shut down: then poll() says that there is something to
 * read, and a receive that does not wait says that there is not. */
static inline int dgram_is_shut(sock_t fd) {
#if defined(_WIN32)
    (void)fd;
    return 0;
#else
#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLRDHUP)) != 0;
#endif
}

static inline void dgram_nap(long microseconds) {
#ifdef _WIN32
    Sleep((DWORD)(microseconds / 1000 + 1));
#else
    struct timespec t = {0, microseconds * 1000};
    nanosleep(&t, NULL);
#endif
}

/* How many datagrams the system has dropped for want of room, or -1 where it does not tell. */
static inline long long dgram_dropped(sock_t fd) {
#ifdef SO_MEMINFO
    uint32_t info[9]; /* SK_MEMINFO_VARS; the last is SK_MEMINFO_DROPS */
    dgram_size size = sizeof info;
    memset(info, 0, sizeof info);
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size) == 0 && size == sizeof info)
        return info[8];
#else
    (void)fd;
#endif
    return -1;
}

static inline int dgram_family(const dgram_peer *peer) {
    return peer->size > 0 ? peer->name.ss_family : AF_UNSPEC;
}

/* Whether nobody but this machine can be behind an address. */
static inline int dgram_is_local(const dgram_peer *peer) {
    const unsigned char *p;
    switch (dgram_family(peer)) {
    case AF_INET:
        p = (const unsigned char *)&((const struct sockaddr_in *)&peer->name)->sin_addr;
        return p[0] == 127;
    case AF_INET6:
        p = (const unsigned char *)&((const struct sockaddr_in6 *)&peer->name)->sin6_addr;
        return memcmp(p, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16) == 0 ||
               memcmp(p, "\0\0\0\0\0\0\0\0\0\0\377\377\177", 13) == 0;
    default:
        return 1;
    }
}

/* Whether a reply can go there at all: a Unix socket without a name gets none. */
static inline int dgram_has_name(const dgram_peer *peer) {
#ifdef _WIN32
    return peer->size > 0;
#else
    if (dgram_family(peer) == AF_UNIX)
        return (size_t)peer->size > offsetof(struct sockaddr_un, sun_path);
    return peer->size > 0;
#endif
}

/* 1 where *host* is a number of that family, else 0. */
static inline int dgram_name_inet(dgram_peer *peer, const char *host, int port) {
    struct sockaddr_in *a = (struct sockaddr_in *)&peer->name;
    memset(peer, 0, sizeof *peer);
    a->sin_family = AF_INET;
    a->sin_port = htons((unsigned short)port);
    peer->size = sizeof *a;
    return inet_pton(AF_INET, host, &a->sin_addr) == 1;
}

static inline int dgram_name_inet6(
    dgram_peer *peer, const char *host, int port, unsigned flow, unsigned scope) {
    struct sockaddr_in6 *a = (struct sockaddr_in6 *)&peer->name;
    memset(peer, 0, sizeof *peer);
    a->sin6_family = AF_INET6;
    a->sin6_port = htons((unsigned short)port);
    a->sin6_flowinfo = htonl(flow);
    a->sin6_scope_id = scope;
    peer->size = sizeof *a;
    return inet_pton(AF_INET6, host, &a->sin6_addr) == 1;
}

static inline int dgram_name_unix(dgram_peer *peer, const char *path, Py_ssize_t n) {
    memset(peer, 0, sizeof *peer);
#ifdef _WIN32
    (void)path;
    (void)n;
    return 0;
#else
    struct sockaddr_un *a = (struct sockaddr_un *)&peer->name;
    if (n <= 0 || n > (Py_ssize_t)sizeof a->sun_path) return 0;
    a->sun_family = AF_UNIX;
    memcpy(a->sun_path, path, (size_t)n);
    peer->size = (dgram_size)(offsetof(struct sockaddr_un, sun_path) + (size_t)n +
                              (path[0] != '\0' && n < (Py_ssize_t)sizeof a->sun_path));
    return 1;
#endif
}

/* An address of a family that is known here only as bytes. */
static inline int dgram_name_bytes(dgram_peer *peer, const char *bytes, Py_ssize_t n) {
    memset(peer, 0, sizeof *peer);
    if (n < (Py_ssize_t)sizeof(sockaddr_family_t) || n > (Py_ssize_t)sizeof peer->name)
        return 0;
    memcpy(&peer->name, bytes, (size_t)n);
    peer->size = (dgram_size)n;
    return 1;
}

/* The address as the socket module gives it; bytes for a family not known here. */
static inline PyObject *dgram_address(const dgram_peer *peer) {
    char text[INET6_ADDRSTRLEN];
    switch (dgram_family(peer)) {
    case AF_INET: {
        const struct sockaddr_in *a = (const struct sockaddr_in *)&peer->name;
        if (inet_ntop(AF_INET, (void *)&a->sin_addr, text, sizeof text) == NULL) break;
        return Py_BuildValue("si", text, (int)ntohs(a->sin_port));
    }
    case AF_INET6: {
        const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)&peer->name;
        if (inet_ntop(AF_INET6, (void *)&a->sin6_addr, text, sizeof text) == NULL) break;
        return Py_BuildValue("siII", text, (int)ntohs(a->sin6_port),
                             (unsigned)ntohl(a->sin6_flowinfo), (unsigned)a->sin6_scope_id);
    }
#ifndef _WIN32
    case AF_UNIX: {
        const struct sockaddr_un *a = (const struct sockaddr_un *)&peer->name;
        Py_ssize_t n = (Py_ssize_t)peer->size - (Py_ssize_t)offsetof(struct sockaddr_un, sun_path);
        if (n <= 0) break;
        if (a->sun_path[0] == '\0') return PyBytes_FromStringAndSize(a->sun_path, n);
        return PyUnicode_DecodeFSDefaultAndSize(
            a->sun_path, (Py_ssize_t)strnlen(a->sun_path, (size_t)n));
    }
#endif
    case AF_UNSPEC:
        break;
    default:
        return PyBytes_FromStringAndSize((const char *)&peer->name, peer->size);
    }
    Py_RETURN_NONE;
}
