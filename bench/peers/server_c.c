/* The limit for a server: epoll, one thread, one read and one write for all that has
 * come on a connection.
 *
 *   server_c version
 *   server_c [two] echo tcp://127.0.0.1:0 | unix:///path
 *
 * It finds the whole frames (4-byte big-endian length) in what it has read and sends
 * these bytes back as they are.  Only what could not be done at once (half a frame, a
 * reply that would block) gets memory of its own.  It prints the address it got and
 * ends with its standard input.  With "two" a second process listens at the same port.
 */
#define _GNU_SOURCE /* accept4, SO_REUSEPORT */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEADER = 4, BUFFER = 64 * 1024, EVENTS = 512 };

typedef struct {
    int fd;
    char *kept;              /* bytes not dealt with yet, or NULL */
    size_t size, due, sent;  /* of `kept`: all, those to be sent, those sent already */
} connection_t;

static int poller;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(connection_t *connection, int how, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, how, connection->fd, &event) < 0)
        die("epoll_ctl");
}

static void end(connection_t *connection) {
    close(connection->fd);
    free(connection->kept);
    free(connection);
}

/* Where the last whole frame in `bytes` ends; -1 if there is one that never fits. */
static ssize_t whole_frames(const char *bytes, size_t size) {
    size_t at = 0;
    uint32_t length;
    while (size - at >= HEADER) {
        memcpy(&length, bytes + at, HEADER);
        length = ntohl(length);
        if (length > BUFFER - HEADER)
            return -1;
        if (size - at - HEADER < length)
            break;
        at += HEADER + length;
    }
    return (ssize_t)at;
}

static void keep(connection_t *connection, const char *bytes, size_t size, size_t due) {
    if ((connection->kept = malloc(size)) == NULL)
        die("malloc");
    memcpy(connection->kept, bytes, size);
    connection->size = size;
    connection->due = due;
    connection->sent = 0;
}

static void readable(connection_t *connection) {
    static char buffer[BUFFER];
    size_t size = 0;
    if (connection->kept != NULL) {
        size = connection->size;
        memcpy(buffer, connection->kept, size);
        free(connection->kept);
        connection->kept = NULL;
    }
    ssize_t got = recv(connection->fd, buffer + size, BUFFER - size, 0);
    if (got <= 0) {
        end(connection);
        return;
    }
    size += (size_t)got;
    ssize_t whole = whole_frames(buffer, size), sent = 0;
    if (whole > 0 && (sent = send(connection->fd, buffer, (size_t)whole, MSG_NOSIGNAL)) < 0) {
        sent = 0;
        if (errno != EAGAIN)
            whole = -1;
    }
    if (whole < 0) {
        end(connection);
        return;
    }
    if ((size_t)sent < size)
        keep(connection, buffer + sent, size - (size_t)sent, (size_t)(whole - sent));
    if (sent < whole)
        watch(connection, EPOLL_CTL_MOD, EPOLLOUT); /* read on when that is gone */
}

static void writable(connection_t *connection) {
    size_t left = connection->due - connection->sent;
    ssize_t sent = send(connection->fd, connection->kept + connection->sent, left, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(connection);
        return;
    }
    connection->sent += sent > 0 ? (size_t)sent : 0;
    if (connection->sent < connection->due)
        return;
    char *kept = connection->kept;
    connection->kept = NULL;
    if (connection->size > connection->due)
        keep(connection, kept + connection->due, connection->size - connection->due, 0);
    free(kept);
    watch(connection, EPOLL_CTL_MOD, EPOLLIN);
}

static void accept_all(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        connection_t *connection = calloc(1, sizeof *connection);
        if (connection == NULL)
            die("calloc");
        connection->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* fails on Unix */
        watch(connection, EPOLL_CTL_ADD, EPOLLIN);
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        die("accept4");
}

/* Return a listener for this process, and another at the same port for a child: the
 * kernel deals the connections out.  Both end with the standard input. */
static int fork_second(int first, struct sockaddr *at, socklen_t size) {
    int yes = 1, second = socket(at->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(second, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
    if (second < 0 || bind(second, at, size) < 0 || listen(second, 512) < 0)
        die("listen twice");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    close(child ? second : first);
    return child ? first : second;
}

static int listen_at(const char *address, int two) {
    struct sockaddr_storage at;
    socklen_t size;
    memset(&at, 0, sizeof at);
    if (strncmp(address, "unix://", 7) == 0) {
        struct sockaddr_un *un = (struct sockaddr_un *)&at;
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof un->sun_path, "%s", address + 7);
        size = sizeof *un;
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)&at;
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        in->sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
        size = sizeof *in;
    }
    int fd = socket(at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (two)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &two, sizeof two);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, size) < 0 || listen(fd, 512) < 0)
        die("listen");
    if (at.ss_family == AF_UNIX) {
        puts(address);
    } else {
        getsockname(fd, (struct sockaddr *)&at, &size);
        printf("tcp://127.0.0.1:%d\n", ntohs(((struct sockaddr_in *)&at)->sin_port));
    }
    fflush(stdout);
    return two ? fork_second(fd, (struct sockaddr *)&at, size) : fd;
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    struct rlimit files;
    int two = argc > 1 && strcmp(argv[1], "two") == 0;

    argc -= two;
    argv += two;
    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        puts("C, epoll, cc -O2, " __VERSION__);
        return 0;
    }
    if (argc != 3 || strcmp(argv[1], "echo") != 0) {
        fputs("usage: server_c [two] echo ADDRESS\n", stderr);
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connection_t listener = {.fd = listen_at(argv[2], two)}, runner = {.fd = 0};
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) /* each of two has its own */
        die("epoll_create1");
    watch(&listener, EPOLL_CTL_ADD, EPOLLIN);
    watch(&runner, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            connection_t *connection = events[i].data.ptr;
            if (connection == &runner)
                return 0;
            if (connection == &listener)
                accept_all(listener.fd);
            else if (events[i].events & EPOLLOUT)
                writable(connection);
            else if (connection->due > connection->sent)
                end(connection); /* gone before it took its replies */
            else
                readable(connection);
        }
    }
}
