/* The limit for datagrams: every work in C, as one would write it for exactly this work.
 *
 * Blocking sockets.  Batches leave with sendmmsg and come with recvmmsg, which waits for
 * the first only; single ones use recvfrom and sendto, or send and recv where connected.
 * The slots of a batch lie close together, so that all of them stay in the cache.
 *
 *   dgram_c version
 *   dgram_c server WORK udp://127.0.0.1:0 | unixgram:///path COUNT SIZE SPIN WINDOW
 *   dgram_c client WORK ADDRESS COUNT SIZE SPIN WINDOW
 *
 * The works, and what is said to the runner, are those of `dgram_protocol.py`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 128, LINE = 64, AHEAD = 2, LIMIT = 10 /* seconds for one round */ };

typedef struct sockaddr_storage name_t;

typedef struct {
    long count;
    size_t size;
    int window;
    size_t slot; /* bytes: room for a datagram, and for seeing that it is too long */
    char *message, *slots;
    struct mmsghdr heads[MOST];
    struct iovec iov[MOST];
    name_t names[MOST];
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

static void check(const round_t *round, size_t n) {
    if (n != round->size) {
        fprintf(stderr, "datagram of %zu bytes, expected %zu\n", n, round->size);
        exit(1);
    }
}

/* ---- batches ---- */

/* Have all heads point at the one message, to be sent on a connected socket. */
static void aim_out(round_t *round) {
    for (int i = 0; i < round->window; i++) {
        round->iov[i] = (struct iovec){round->message, round->size};
        round->heads[i].msg_hdr = (struct msghdr){.msg_iov = &round->iov[i], .msg_iovlen = 1};
    }
}

/* Have each head point at its own slot, and at its own name if these are wanted. */
static void aim_in(round_t *round, struct mmsghdr *heads, struct iovec *iov, int named) {
    for (int i = 0; i < round->window; i++) {
        iov[i] = (struct iovec){round->slots + (size_t)i * round->slot, round->slot};
        heads[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
        if (named) {
            heads[i].msg_hdr.msg_name = &round->names[i];
            heads[i].msg_hdr.msg_namelen = sizeof round->names[i];
        }
    }
}

static void send_all(int fd, struct mmsghdr *heads, int n) {
    for (int at = 0; at < n;) {
        int sent = sendmmsg(fd, heads + at, (unsigned)(n - at), 0);
        if (sent < 0)
            die("sendmmsg");
        at += sent;
    }
}

/* Wait for one datagram; return how many have come, `most` at most. */
static int receive(int fd, struct mmsghdr *heads, int most) {
    int got = recvmmsg(fd, heads, (unsigned)most, MSG_WAITFORONE, NULL);
    if (got < 0)
        die("recvmmsg");
    for (int i = 0; i < got; i++)
        sink += *(unsigned char *)heads[i].msg_hdr.msg_iov->iov_base + heads[i].msg_len;
    return got;
}

/* ---- the client's half of each work: one round ---- */

static void batched_client(int fd, round_t *round) {
    static struct mmsghdr heads[MOST];
    static struct iovec iov[MOST];
    aim_out(round);
    aim_in(round, heads, iov, 0);
    for (long i = 0; i < round->count; i += round->window) {
        send_all(fd, round->heads, round->window);
        for (int got = 0; got < round->window;)
            got += receive(fd, heads, round->window - got);
    }
    check(round, heads[0].msg_len);
}

static void stream_client(int fd, round_t *round) {
    char ok[2];
    int ahead = 0;
    aim_out(round);
    for (long i = 0; i < round->count; i += round->window) {
        send_all(fd, round->heads, round->window);
        if (++ahead == AHEAD) {
            if (recv(fd, ok, sizeof ok, 0) < 0)
                die("recv");
            ahead--;
        }
    }
    for (; ahead > 0; ahead--)
        if (recv(fd, ok, sizeof ok, 0) < 0)
            die("recv");
}

static void request_client(int fd, round_t *round) {
    ssize_t n = 0;
    for (long i = 0; i < round->count; i++) {
        if (send(fd, round->message, round->size, 0) < 0)
            die("send");
        if ((n = recv(fd, round->slots, round->slot, 0)) < 0)
            die("recv");
        sink += (unsigned char)*round->slots;
    }
    check(round, (size_t)n);
}

/* ---- the server's half: for ever ---- */

static void batched_server(int fd, round_t *round) {
    aim_in(round, round->heads, round->iov, 1);
    for (;;) {
        int n = receive(fd, round->heads, round->window);
        for (int i = 0; i < n; i++)
            round->iov[i].iov_len = round->heads[i].msg_len;
        send_all(fd, round->heads, n);
        for (int i = 0; i < n; i++) {
            round->iov[i].iov_len = round->slot;
            round->heads[i].msg_hdr.msg_namelen = sizeof round->names[i];
        }
    }
}

static void stream_server(int fd, round_t *round) {
    socklen_t size = sizeof round->names[0];
    struct sockaddr *to = (struct sockaddr *)&round->names[0];
    long got = 1;
    if (recvfrom(fd, round->slots, round->slot, 0, to, &size) < 0)
        die("recvfrom");
    aim_in(round, round->heads, round->iov, 0);
    for (;;) {
        got += receive(fd, round->heads, round->window);
        for (; got >= round->window; got -= round->window)
            if (sendto(fd, "ok", 2, 0, to, size) < 0)
                die("sendto");
    }
}

static void request_server(int fd, round_t *round) {
    struct sockaddr *to = (struct sockaddr *)&round->names[0];
    for (;;) {
        socklen_t size = sizeof round->names[0];
        ssize_t n = recvfrom(fd, round->slots, round->slot, 0, to, &size);
        if (n < 0)
            die("recvfrom");
        if (sendto(fd, round->slots, (size_t)n, 0, to, size) < 0)
            die("sendto");
    }
}

static const struct {
    const char *name;
    void (*client)(int, round_t *), (*server)(int, round_t *);
} works[] = {
    {"batched", batched_client, batched_server},
    {"stream", stream_client, stream_server},
    {"request", request_client, request_server},
};

/* ---- addresses and the control protocol ---- */

static int is_unix(const char *address) { return strncmp(address, "unixgram://", 11) == 0; }

static socklen_t parse(const char *address, name_t *to) {
    memset(to, 0, sizeof *to);
    if (is_unix(address)) {
        struct sockaddr_un *un = (struct sockaddr_un *)to;
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof un->sun_path, "%s", address + 11);
        return sizeof *un;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)to;
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in->sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    return sizeof *in;
}

static int receiver(const char *address) {
    name_t at;
    socklen_t size = parse(address, &at);
    int fd = socket(at.ss_family, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, size) < 0)
        die("bind");
    if (is_unix(address)) {
        printf("%s\n", address);
    } else {
        getsockname(fd, (struct sockaddr *)&at, &size);
        printf("udp://127.0.0.1:%d\n", ntohs(((struct sockaddr_in *)&at)->sin_port));
    }
    fflush(stdout);
    return fd;
}

static int dial(const char *address) {
    name_t to;
    socklen_t size = parse(address, &to);
    int fd = socket(to.ss_family, SOCK_DGRAM, 0);
    /* A Unix socket that has no name cannot be answered; of this size the system gives one. */
    if (fd >= 0 && is_unix(address) && bind(fd, (struct sockaddr *)&to, sizeof(sa_family_t)) < 0)
        die("bind");
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, size) < 0)
        die("connect");
    return fd;
}

/* Leave a child behind that ends this process when its standard input ends.  A thread
 * could do it, but it would make every system call on a socket a little dearer. */
static void end_with_the_runner(void) {
    pid_t server = getpid();
    char byte;
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child > 0)
        return;
    signal(SIGINT, SIG_IGN); /* Ctrl-C is the runner's affair */
    close(1);
    while (read(0, &byte, 1) > 0)
        ;
    if (getppid() == server)
        kill(server, SIGTERM);
    _exit(0);
}

static void late(int signal) {
    static const char said[] = "no answer in time: a datagram was lost, or the server hangs\n";
    (void)signal;
    _exit(write(2, said, sizeof said - 1) < 0 ? 2 : 1);
}

int main(int argc, char **argv) {
    static round_t round;
    size_t work = 0;
    char line[64];

    if (argc > 1 && strcmp(argv[1], "version") == 0) {
        puts("C, cc -O2, " __VERSION__);
        return 0;
    }
    if (argc != 8) {
        fputs("usage: dgram_c server|client WORK ADDRESS COUNT SIZE SPIN WINDOW\n", stderr);
        return 2;
    }
    while (strcmp(works[work].name, argv[2]) != 0)
        if (++work == sizeof works / sizeof *works) {
            fprintf(stderr, "no such work: %s\n", argv[2]);
            return 2;
        }
    round.count = atol(argv[4]);
    round.size = (size_t)atol(argv[5]);
    round.window = atoi(argv[7]);
    if (round.window < 1 || round.window > MOST) {
        fprintf(stderr, "window is %s, expected 1 to %d\n", argv[7], MOST);
        return 2;
    }
    round.slot = (round.size / LINE + 1) * LINE;
    round.message = malloc(round.size);
    round.slots = malloc(round.slot * (size_t)round.window);
    if (round.message == NULL || round.slots == NULL)
        die("malloc");
    memset(round.message, 'x', round.size);

    if (strcmp(argv[1], "server") == 0) {
        end_with_the_runner();
        works[work].server(receiver(argv[3]), &round);
    }
    int fd = dial(argv[3]);
    signal(SIGALRM, late);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        alarm(LIMIT);
        double started = now();
        works[work].client(fd, &round);
        double took = now() - started;
        alarm(0);
        printf("%.9f\n", took);
        fflush(stdout);
    }
    return 0;
}
