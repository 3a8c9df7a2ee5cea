/* The limit: every work in C, as one would write it for exactly this work.
 *
 * Blocking sockets, TCP_NODELAY, 4-byte big-endian length.  Small frames are
 * parsed in place in a 64 KiB read-ahead buffer and sent in batches; large
 * ones go through sendmsg and are received straight into their own memory.
 * (At 16 KiB reading ahead, MSG_WAITALL and a 256 KiB buffer were no faster.)
 *
 *   c_peer version
 *   c_peer [own] server WORK tcp://127.0.0.1:0 | unix:///path COUNT SIZE SPIN
 *   c_peer [own] client WORK ADDRESS COUNT SIZE SPIN
 *
 * With "own" a small message that was received gets memory of its own, as it
 * has in a language where the caller may keep it.  The server prints
 * the address it got.  The client prints "ready"; for each line on stdin it
 * runs one round and prints how many seconds it took.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL /* macOS: there the signal ends the peer, as it may */
#define MSG_NOSIGNAL 0
#endif

enum { HEADER = 4, BUFFER = 64 * 1024, DEPTH = 16, BATCH = 1000 };

typedef struct {
    int fd;
    double spin;            /* seconds to keep trying before a receive sleeps */
    size_t start, end;      /* what `in` holds and nobody has taken yet */
    size_t queued;          /* what `out` holds and nobody has sent yet */
    char in[BUFFER], out[BUFFER];
} peer_t;

typedef struct {
    long count;
    size_t size;
    char *message, *buffer;
} round_t;

static volatile unsigned long sink; /* keeps the compiler from dropping the reads */

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t get_length(const char *p) {
    uint32_t n;
    memcpy(&n, p, HEADER);
    return ntohl(n);
}

static void put_length(char *p, size_t length) {
    uint32_t n = htonl((uint32_t)length);
    memcpy(p, &n, HEADER);
}

/* Receive some bytes; the end of the stream ends the process. */
static size_t receive(peer_t *peer, void *into, size_t n) {
    ssize_t got;
    if (peer->spin > 0) {
        double end = now() + peer->spin;
        do {
            got = recv(peer->fd, into, n, MSG_DONTWAIT);
        } while (got < 0 && errno == EAGAIN && now() < end);
        if (got > 0)
            return (size_t)got;
        if (got < 0 && errno != EAGAIN)
            die("recv");
    }
    got = recv(peer->fd, into, n, 0);
    if (got < 0)
        die("recv");
    if (got == 0)
        exit(0);
    return (size_t)got;
}

/* Send all of two pieces; the second may be empty. */
static void transmit(peer_t *peer, char *a, size_t na, char *b, size_t nb) {
    struct iovec parts[2] = {{a, na}, {b, nb}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    while (parts[0].iov_len + parts[1].iov_len > 0) {
        ssize_t sent = sendmsg(peer->fd, &message, MSG_NOSIGNAL);
        if (sent < 0)
            die("sendmsg");
        for (int i = 0; i < 2; i++) {
            size_t part = (size_t)sent < parts[i].iov_len ? (size_t)sent : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + part;
            parts[i].iov_len -= part;
            sent -= (ssize_t)part;
        }
    }
}

static void flush(peer_t *peer) {
    size_t sent = 0;
    while (sent < peer->queued) {
        ssize_t n = send(peer->fd, peer->out + sent, peer->queued - sent, MSG_NOSIGNAL);
        if (n < 0)
            die("send");
        sent += (size_t)n;
    }
    peer->queued = 0;
}

/* Queue a small frame; a full buffer is sent. */
static void put(peer_t *peer, const char *payload, size_t n) {
    if (peer->queued + HEADER + n > BUFFER)
        flush(peer);
    put_length(peer->out + peer->queued, n);
    memcpy(peer->out + peer->queued + HEADER, payload, n);
    peer->queued += HEADER + n;
}

static void send_large(peer_t *peer, char *payload, size_t n) {
    char header[HEADER];
    put_length(header, n);
    transmit(peer, header, HEADER, payload, n);
}

/* Read ahead until `n` bytes are in the buffer. */
static void fill(peer_t *peer, size_t n) {
    if (peer->start == peer->end)
        peer->start = peer->end = 0;
    while (peer->end - peer->start < n) {
        if (peer->start + n > BUFFER) {
            memmove(peer->in, peer->in + peer->start, peer->end - peer->start);
            peer->end -= peer->start;
            peer->start = 0;
        }
        peer->end += receive(peer, peer->in + peer->end, BUFFER - peer->end);
    }
}

/* The next frame if it is all in the buffer, else NULL. */
static char *next_buffered(peer_t *peer, size_t *n) {
    size_t held = peer->end - peer->start;
    if (held < HEADER)
        return NULL;
    *n = get_length(peer->in + peer->start);
    if (held < HEADER + *n)
        return NULL;
    char *payload = peer->in + peer->start + HEADER;
    peer->start += HEADER + *n;
    return payload;
}

/* The next frame, in place; the pointer is good until the next call. */
static char *next_small(peer_t *peer, size_t *n) {
    char *payload;
    while ((payload = next_buffered(peer, n)) == NULL) {
        fill(peer, HEADER);
        *n = get_length(peer->in + peer->start);
        if (*n > BUFFER - HEADER) {
            fprintf(stderr, "frame of %zu bytes where small ones were due\n", *n);
            exit(1);
        }
        fill(peer, HEADER + *n);
    }
    return payload;
}

/* The next frame, received into `into`, or into fresh memory if that is NULL.
 * The header is taken alone, so that the whole payload goes where it belongs. */
static char *next_large(peer_t *peer, char *into, size_t *n) {
    char header[HEADER];
    for (size_t got = 0; got < HEADER;)
        got += receive(peer, header + got, HEADER - got);
    *n = get_length(header);
    if (into == NULL && (into = malloc(*n)) == NULL)
        die("malloc");
    for (size_t got = 0; got < *n;)
        got += receive(peer, into + got, *n - got);
    return into;
}

static char *own_copy(const char *payload, size_t n) {
    char *message = malloc(n);
    if (message == NULL)
        die("malloc");
    return memcpy(message, payload, n);
}

static void check(const round_t *round, size_t n) {
    if (n != round->size) {
        fprintf(stderr, "reply of %zu bytes, expected %zu\n", n, round->size);
        exit(1);
    }
}

/* ---- the client's half of each work ---- */

static void pingpong_client(peer_t *peer, round_t *round) {
    size_t n = 0;
    for (long i = 0; i < round->count; i++) {
        put(peer, round->message, round->size);
        flush(peer);
        sink += (unsigned char)*next_small(peer, &n);
    }
    check(round, n);
}

static void pipelined_client(peer_t *peer, round_t *round) {
    size_t n = 0;
    for (long i = 0; i < round->count; i += DEPTH) {
        for (int k = 0; k < DEPTH; k++)
            put(peer, round->message, round->size);
        flush(peer);
        for (int k = 0; k < DEPTH; k++)
            sink += (unsigned char)*next_small(peer, &n);
    }
    check(round, n);
}

static void stream_small_client(peer_t *peer, round_t *round) {
    size_t n;
    for (long i = 0; i < round->count; i++)
        put(peer, round->message, round->size);
    flush(peer);
    next_small(peer, &n);
}

static void stream_client(peer_t *peer, round_t *round) {
    size_t n;
    for (long i = 0; i < round->count; i++)
        send_large(peer, round->message, round->size);
    next_small(peer, &n);
}

static void echo_client(peer_t *peer, round_t *round) {
    size_t n = 0;
    for (long i = 0; i < round->count; i++) {
        send_large(peer, round->message, round->size);
        free(next_large(peer, NULL, &n));
    }
    check(round, n);
}

static void echo_into_client(peer_t *peer, round_t *round) {
    size_t n = 0;
    for (long i = 0; i < round->count; i++) {
        send_large(peer, round->message, round->size);
        next_large(peer, round->buffer, &n);
    }
    check(round, n);
}

/* ---- the server's half; one call is one round, or for ever where it echoes ---- */

static void echo_small_server(peer_t *peer, round_t *round) {
    size_t n;
    char *payload;
    (void)round;
    for (;;) {
        payload = next_small(peer, &n);
        do {
            put(peer, payload, n);
        } while ((payload = next_buffered(peer, &n)) != NULL);
        flush(peer);
    }
}

static void stream_small_server(peer_t *peer, round_t *round) {
    size_t n;
    for (long i = 0; i < round->count; i++) {
        char *payload = next_small(peer, &n);
        sink += (unsigned char)*payload + n;
    }
    put(peer, "ok", 2);
    flush(peer);
}

/* One message at a time in its own memory. */
static void stream_each_own_server(peer_t *peer, round_t *round) {
    size_t n;
    for (long i = 0; i < round->count; i++) {
        char *payload = next_small(peer, &n);
        sink += (unsigned char)*payload + n;
        free(own_copy(payload, n));
    }
    put(peer, "ok", 2);
    flush(peer);
}

/* All that has come, each in its own memory, before the first is given up. */
static void stream_many_own_server(peer_t *peer, round_t *round) {
    char *messages[BATCH], *payload;
    size_t n;
    for (long i = 0; i < round->count;) {
        int held = 0;
        payload = next_small(peer, &n);
        do {
            sink += (unsigned char)*payload + n;
            messages[held++] = own_copy(payload, n);
        } while (held < BATCH && (payload = next_buffered(peer, &n)) != NULL);
        i += held;
        while (held > 0)
            free(messages[--held]);
    }
    put(peer, "ok", 2);
    flush(peer);
}

static void stream_large_server(peer_t *peer, round_t *round) {
    size_t n;
    for (long i = 0; i < round->count; i++) {
        char *payload = next_large(peer, NULL, &n);
        sink += (unsigned char)*payload + n;
        free(payload);
    }
    put(peer, "ok", 2);
    flush(peer);
}

static void stream_into_server(peer_t *peer, round_t *round) {
    size_t n;
    for (long i = 0; i < round->count; i++)
        sink += (unsigned char)*next_large(peer, round->buffer, &n) + n;
    put(peer, "ok", 2);
    flush(peer);
}

static void echo_server(peer_t *peer, round_t *round) {
    size_t n;
    (void)round;
    for (;;) {
        char *payload = next_large(peer, NULL, &n);
        send_large(peer, payload, n);
        free(payload);
    }
}

static void echo_into_server(peer_t *peer, round_t *round) {
    size_t n;
    for (;;) {
        next_large(peer, round->buffer, &n);
        send_large(peer, round->buffer, n);
    }
}

typedef void half_t(peer_t *, round_t *);

static const struct {
    const char *name;
    half_t *client, *server, *own_server;
} works[] = {
    {"pingpong", pingpong_client, echo_small_server, NULL},
    {"pipelined", pipelined_client, echo_small_server, NULL},
    {"stream_many", stream_small_client, stream_small_server, stream_many_own_server},
    {"stream_each", stream_small_client, stream_small_server, stream_each_own_server},
    {"stream", stream_client, stream_large_server, NULL},
    {"stream_into", stream_client, stream_into_server, NULL},
    {"stream_view", stream_client, stream_into_server, NULL},
    {"echo", echo_client, echo_server, NULL},
    {"echo_into", echo_into_client, echo_into_server, NULL},
};

/* ---- addresses and the control protocol ---- */

static int is_unix(const char *address) { return strncmp(address, "unix://", 7) == 0; }

static socklen_t parse(const char *address, struct sockaddr_storage *to) {
    memset(to, 0, sizeof *to);
    if (is_unix(address)) {
        struct sockaddr_un *un = (struct sockaddr_un *)to;
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof un->sun_path, "%s", address + 7);
        return sizeof *un;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)to;
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in->sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    return sizeof *in;
}

static int serve(const char *address) {
    struct sockaddr_storage at;
    socklen_t size = parse(address, &at);
    int listener = socket(at.ss_family, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, size) < 0 || listen(listener, 1) < 0)
        die("listen");
    if (is_unix(address)) {
        printf("%s\n", address);
    } else {
        getsockname(listener, (struct sockaddr *)&at, &size);
        printf("tcp://127.0.0.1:%d\n", ntohs(((struct sockaddr_in *)&at)->sin_port));
    }
    fflush(stdout);
    alarm(60); /* no client came: do not wait for ever */
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        die("accept");
    alarm(0);
    close(listener);
    return fd;
}

static int dial(const char *address) {
    struct sockaddr_storage to;
    socklen_t size = parse(address, &to);
    int fd = socket(to.ss_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, size) < 0)
        die("connect");
    return fd;
}

int main(int argc, char **argv) {
    static peer_t peer;
    round_t round;
    size_t work = 0;
    int yes = 1, own;
    char line[64];

    if (argc > 1 && strcmp(argv[argc - 1], "version") == 0) {
        puts("C, cc -O2, " __VERSION__);
        return 0;
    }
    own = argc > 1 && strcmp(argv[1], "own") == 0;
    argc -= own;
    argv += own;
    if (argc != 7) {
        fputs("usage: c_peer [own] server|client WORK ADDRESS COUNT SIZE SPIN\n", stderr);
        return 2;
    }
    while (strcmp(works[work].name, argv[2]) != 0)
        if (++work == sizeof works / sizeof *works) {
            fprintf(stderr, "no such work: %s\n", argv[2]);
            return 2;
        }
    half_t *server = own ? works[work].own_server : works[work].server;
    round.count = atol(argv[4]);
    round.size = (size_t)atol(argv[5]);
    round.message = malloc(round.size);
    round.buffer = malloc(round.size);
    if (server == NULL || round.message == NULL || round.buffer == NULL)
        die("malloc, or no such work with own memory");
    memset(round.message, 'x', round.size);
    peer.spin = atof(argv[6]);
    int serving = strcmp(argv[1], "server") == 0;
    peer.fd = serving ? serve(argv[3]) : dial(argv[3]);
    if (!is_unix(argv[3]))
        setsockopt(peer.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);

    while (serving)
        server(&peer, &round);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        double started = now();
        works[work].client(&peer, &round);
        printf("%.9f\n", now() - started);
        fflush(stdout);
    }
    return 0;
}
