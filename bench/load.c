/* Loads a server: many connections, one thread, so little work for each request
 * that the server is what is measured.
 *
 *   load version
 *   load frames|redis batches|connects ADDRESS COUNT SIZE CONNECTIONS DEPTH
 *
 * A message has SIZE bytes and is echoed: with a 4-byte big-endian length before
 * it, or as Redis's ECHO.  Requests and replies are fixed bytes then, and only
 * have to be counted.
 *
 *   batches: DEPTH requests leave in one write, and the next DEPTH when all replies
 *     are there, on each of CONNECTIONS, until COUNT requests were answered.
 *   connects: connect, one request, its reply, close; COUNT times, CONNECTIONS at
 *     a time.
 *
 * It prints "connected" when each connection has had one reply, compared in full.
 * Then it answers lines on stdin:
 *
 *   idle N: opens N more connections, one request on each, which then stay quiet;
 *     prints "ready".
 *   round: prints the seconds it took, the longest that a batch (or a connect) took,
 *     the processor seconds that this process used for it, and how long half of the
 *     batches took at most, 90 %, 99 % and 99.9 % of them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 512,
    BUFFER = 64 * 1024, /* also the most that a batch may have: it must never block */
    AT_ONCE = 16,       /* connections opened together: fewer than any backlog */
    PATIENCE = 10,      /* seconds for the server to be there */
};

typedef struct {
    int fd, idle;
    size_t got;     /* bytes of the replies to the batch that is under way */
    double sent_at;
} connection_t;

static struct {
    struct sockaddr_storage address;
    socklen_t address_size;
    long count;
    int connections, depth;
    size_t request_size, reply_size; /* one of each, with all that surrounds it */
    char *requests, *reply;          /* DEPTH of the one, one of the other */
} load;

static int poller;
static connection_t *busy;
static double *times; /* of the batches of this round */
static size_t timed;

static void fail(const char *what) {
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static void die(const char *what) {
    fprintf(stderr, "load: ");
    perror(what);
    exit(1);
}

static void *allocate(size_t n, size_t size) {
    void *memory = calloc(n, size);
    if (memory == NULL)
        die("calloc");
    return memory;
}

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(void) { return seconds(CLOCK_MONOTONIC); }

/* ---- what goes over the wire ---- */

static void prepare(const char *protocol, size_t size) {
    int redis = strcmp(protocol, "redis") == 0;
    char before_request[64], before_reply[64];
    size_t request, reply, end = redis ? 2 : 0;
    if (redis) {
        request = (size_t)sprintf(before_request, "*2\r\n$4\r\nECHO\r\n$%zu\r\n", size);
        reply = (size_t)sprintf(before_reply, "$%zu\r\n", size);
    } else {
        uint32_t length = htonl((uint32_t)size);
        request = reply = sizeof length;
        memcpy(before_request, &length, sizeof length);
        memcpy(before_reply, &length, sizeof length);
    }
    load.request_size = request + size + end;
    load.reply_size = reply + size + end;
    load.requests = allocate((size_t)load.depth, load.request_size);
    load.reply = allocate(1, load.reply_size);
    memcpy(load.reply, before_reply, reply);
    for (size_t i = 0; i < size; i++)
        load.reply[reply + i] = (char)('a' + i % 26);
    memcpy(load.reply + reply + size, "\r\n", end);
    for (int k = 0; k < load.depth; k++) {
        char *one = load.requests + (size_t)k * load.request_size;
        memcpy(one, before_request, request);
        memcpy(one + request, load.reply + reply, size + end);
    }
}

static void ask(int fd, int requests) {
    size_t size = (size_t)requests * load.request_size;
    if (send(fd, load.requests, size, MSG_NOSIGNAL) != (ssize_t)size)
        die("send");
}

/* Wait for one reply and compare all of it. */
static void check_reply(int fd) {
    static char reply[BUFFER];
    ssize_t got = recv(fd, reply, load.reply_size, MSG_WAITALL);
    if (got < 0)
        die("recv");
    if ((size_t)got != load.reply_size || memcmp(reply, load.reply, load.reply_size) != 0)
        fail("the reply is not what was sent");
}

/* ---- connections ---- */

static void parse(const char *address) {
    memset(&load.address, 0, sizeof load.address);
    if (strncmp(address, "unix://", 7) == 0) {
        struct sockaddr_un *un = (struct sockaddr_un *)&load.address;
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof un->sun_path, "%s", address + 7);
        load.address_size = sizeof *un;
        return;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)&load.address;
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in->sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    load.address_size = sizeof *in;
}

/* Connect; on loopback that never waits for the server.  A `source` other than 0 is
 * the last part of this end's address: closed connections keep their port for a
 * minute, and each address has ports of its own. */
static int dial(unsigned source) {
    int yes = 1, fd = socket(load.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (load.address.ss_family == AF_INET) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (source != 0) {
            struct sockaddr_in from = {.sin_family = AF_INET};
            from.sin_addr.s_addr = htonl(0x7f010000 + source);
            setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
            if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0)
                die("bind");
        }
    }
    if (connect(fd, (struct sockaddr *)&load.address, load.address_size) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static void wait_for_server(void) {
    double until = now() + PATIENCE;
    int fd;
    while ((fd = dial(0)) < 0) {
        if ((errno != ECONNREFUSED && errno != ENOENT) || now() > until)
            die("connect");
        usleep(5000);
    }
    ask(fd, 1);
    check_reply(fd);
    close(fd);
}

/* Open `count` connections; each gets one reply before it counts. */
static connection_t *open_all(int count, int idle) {
    connection_t *all = allocate((size_t)count, sizeof *all);
    for (int done = 0; done < count;) {
        int end = done + AT_ONCE < count ? done + AT_ONCE : count;
        for (int i = done; i < end; i++) {
            if ((all[i].fd = dial(0)) < 0)
                die("connect");
            all[i].idle = idle;
            ask(all[i].fd, 1);
        }
        for (; done < end; done++) {
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[done]};
            check_reply(all[done].fd);
            if (epoll_ctl(poller, EPOLL_CTL_ADD, all[done].fd, &event) < 0)
                die("epoll_ctl");
        }
    }
    return all;
}

static void took(double since, double until) {
    times[timed++] = until - since;
}

/* ---- the rounds ---- */

static void begin(connection_t *connection, double at) {
    connection->got = 0;
    connection->sent_at = at;
    ask(connection->fd, load.depth);
}

static void batches_round(void) {
    static char buffer[BUFFER];
    struct epoll_event events[EVENTS];
    size_t due = (size_t)load.depth * load.reply_size;
    long left = load.count / load.depth, under_way = 0;
    double at = now();

    for (int i = 0; i < load.connections && left > 0; i++, left--, under_way++)
        begin(&busy[i], at);
    while (under_way > 0) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            connection_t *connection = events[i].data.ptr;
            ssize_t got = recv(connection->fd, buffer, sizeof buffer, MSG_DONTWAIT);
            if (got < 0)
                die("recv");
            if (got == 0 || connection->idle)
                fail(got ? "an idle connection got bytes" : "the server closed a connection");
            connection->got += (size_t)got;
            if (connection->got < due)
                continue;
            if (connection->got > due)
                fail("more bytes than the replies have");
            took(connection->sent_at, at = now());
            if (left > 0) {
                left--;
                begin(connection, at);
            } else {
                under_way--;
            }
        }
    }
}

static void connects_round(void) {
    static unsigned rounds;
    unsigned source = 1 + rounds++ % 250;
    struct pollfd *open = allocate((size_t)load.connections, sizeof *open);
    double *since = allocate((size_t)load.connections, sizeof *since);
    long begun = 0, ended = 0;

    for (int i = 0; i < load.connections; i++)
        open[i] = (struct pollfd){.fd = -1, .events = POLLIN, .revents = POLLIN};
    while (ended < load.count) {
        for (int i = 0; i < load.connections; i++) {
            if (open[i].revents == 0)
                continue;
            if (open[i].fd >= 0) {
                check_reply(open[i].fd);
                close(open[i].fd);
                took(since[i], now());
                open[i].fd = -1;
                open[i].revents = 0;
                ended++;
            }
            if (begun < load.count) {
                since[i] = now();
                if ((open[i].fd = dial(source)) < 0)
                    die("connect");
                ask(open[i].fd, 1);
                begun++;
            }
        }
        if (ended < load.count && poll(open, (nfds_t)load.connections, -1) < 0)
            die("poll");
    }
    free(open);
    free(since);
}

static int by_size(const void *a, const void *b) {
    double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

/* What the given share of the sorted times is not longer than. */
static double percentile(double share) {
    size_t at = (size_t)(share * (double)timed);
    return times[at < timed ? at : timed - 1];
}

static void report(double took, double worked) {
    qsort(times, timed, sizeof *times, by_size);
    printf("%.9f %.9f %.9f ", took, percentile(1), worked);
    printf("%.9f %.9f ", percentile(0.5), percentile(0.9));
    printf("%.9f %.9f\n", percentile(0.99), percentile(0.999));
}

int main(int argc, char **argv) {
    struct rlimit files;
    char line[64];

    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        puts("C, cc -O2, " __VERSION__);
        return 0;
    }
    if (argc != 8) {
        fputs("usage: load frames|redis batches|connects ADDRESS COUNT SIZE CONNECTIONS DEPTH\n",
              stderr);
        return 2;
    }
    int connects = strcmp(argv[2], "connects") == 0;
    parse(argv[3]);
    load.count = atol(argv[4]);
    load.connections = atoi(argv[6]);
    load.depth = atoi(argv[7]);
    prepare(argv[1], (size_t)atol(argv[5]));
    if ((size_t)load.depth * load.request_size > BUFFER)
        fail("a batch of more than 64 KiB could block");
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");

    times = allocate((size_t)load.count, sizeof *times);
    wait_for_server();
    if (!connects)
        busy = open_all(load.connections, 0);
    puts("connected");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strncmp(line, "idle ", 5) == 0) {
            open_all(atoi(line + 5), 1);
            puts("ready");
        } else {
            double started = now(), worked = seconds(CLOCK_PROCESS_CPUTIME_ID);
            timed = 0;
            connects ? connects_round() : batches_round();
            started = now() - started;
            report(started, seconds(CLOCK_PROCESS_CPUTIME_ID) - worked);
        }
        fflush(stdout);
    }
    return 0;
}
