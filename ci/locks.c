/* Records in which order threads take locks; preloaded by ci/threads.sh.
 *
 * A lock's kind is where it was made.  Whenever a thread that holds one is about to wait
 * for another, the pair of their kinds is written to $LOCKS_LOG, once in each process; it
 * does not matter whether it had to wait that time.  The GIL is one of them.  */
#include <Python.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pythread.h"

enum { KINDS = 256, HELD = 64, TABLE = 1 << 18, NAME = 96 };

typedef struct {
    void *lock;
    int kind;
} Held;

static char names[KINDS][NAME];
static int kinds;
static unsigned char seen[KINDS][KINDS], taken[KINDS];
static Held made[TABLE]; /* by address; a lock of NULL ends a search, kind -1: was freed */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static int gil = -1;
static pthread_t gil_last; /* who has last been seen with the GIL */
static __thread Held held[HELD];
static __thread int count;

static void before_fork(void) { pthread_mutex_lock(&guard); }
static void after_fork(void) { pthread_mutex_unlock(&guard); }

static int kind_of(const char *name) { /* with the guard */
    for (int i = 0; i < kinds; i++)
        if (strcmp(names[i], name) == 0) return i;
    if (kinds == KINDS) {
        fputs("locks.c: too many kinds of locks\n", stderr);
        abort();
    }
    snprintf(names[kinds], NAME, "%s", name);
    return kinds++;
}

__attribute__((constructor)) static void begin(void) {
    pthread_atfork(before_fork, after_fork, after_fork);
    gil = kind_of("the GIL");
}

static const char *base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static void tell(const char *first, const char *second, const char *where) {
    char line[4 * NAME];
    const char *path = getenv("LOCKS_LOG");
    int n = snprintf(line, sizeof line, "%s\t%s\t%s\n", first, second, where);
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd < 0) return;
    if (write(fd, line, (size_t)n) != n) perror("locks.c");
    close(fd);
}

/* One that is held, and one that is waited for. */
static void pair(int first, int second, const char *where) {
    int new;
    if (first < 0 || second < 0) return;
    pthread_mutex_lock(&guard);
    new = !seen[first][second];
    seen[first][second] = 1;
    pthread_mutex_unlock(&guard);
    if (new) tell(names[first], names[second], where);
}

/* Notice that another thread has had the GIL since this one was last seen with it. */
static int with_gil(void) {
    if (!PyGILState_Check()) return 0;
    if (!pthread_equal(gil_last, pthread_self())) {
        gil_last = pthread_self();
        for (int i = 0; i < count; i++) pair(held[i].kind, gil, "let go in between");
    }
    return 1;
}

static void wanted(void *lock, int kind, int keeps_gil, const char *where) {
    for (int i = 0; i < count; i++)
        if (held[i].lock == lock) return; /* its own already */
    if (with_gil() && keeps_gil) pair(gil, kind, where);
    for (int i = 0; i < count; i++) pair(held[i].kind, kind, where);
}

static void hold(void *lock, int kind) {
    int new;
    with_gil();
    pthread_mutex_lock(&guard);
    new = !taken[kind];
    taken[kind] = 1;
    pthread_mutex_unlock(&guard);
    if (new) tell("", names[kind], "");
    if (count < HELD) held[count++] = (Held){lock, kind};
}

static void let_go(void *lock) {
    with_gil();
    for (int i = count; i-- > 0;)
        if (held[i].lock == lock) {
            memmove(&held[i], &held[i + 1], (size_t)(--count - i) * sizeof *held);
            return;
        }
}

static size_t place(void *lock) { return ((size_t)lock >> 4) * 0x9E3779B1u % TABLE; }

static int made_kind(void *lock) {
    int kind = -1;
    pthread_mutex_lock(&guard);
    for (size_t i = place(lock); made[i].lock != NULL; i = (i + 1) % TABLE)
        if (made[i].lock == lock) {
            kind = made[i].kind;
            break;
        }
    pthread_mutex_unlock(&guard);
    return kind;
}

/* ------------------------------------------------------------ of framing.c */

void *watch_made(void *lock, const char *file, int line) {
    char name[NAME];
    size_t i = place(lock);
    snprintf(name, NAME, "%s:%d", base(file), line);
    if (lock == NULL) return NULL;
    pthread_mutex_lock(&guard);
    while (made[i].lock != NULL && made[i].lock != lock) i = (i + 1) % TABLE;
    made[i] = (Held){lock, kind_of(name)};
    pthread_mutex_unlock(&guard);
    return lock;
}

void watch_freed(void *lock) { let_go(lock); /* its place is for the next at that address */ }

int watch_acquire(void *lock, int wait, const char *file, int line, const char *function) {
    char where[NAME];
    int kind = made_kind(lock), ok;
    /* lock() tries with the GIL, and waits without it. */
    int tries_first = !wait && ends_with(function, "_lock");
    snprintf(where, NAME, "%s:%d", base(file), line);
    if (wait || tries_first) wanted(lock, kind, !tries_first, where);
    ok = PyThread_acquire_lock(lock, wait);
    if (ok && kind >= 0) hold(lock, kind);
    return ok;
}

void watch_release(void *lock) { let_go(lock); }

/* struct Turn: owner, waiting, opened, gate */
static int turn_kind(size_t *owner) {
    void *gate = ((void **)owner)[3];
    return gate ? made_kind(gate) : -1;
}

void watch_owner_wanted(size_t *owner, const char *file, int line, const char *function) {
    char where[NAME];
    /* All others only try. */
    if (!ends_with(function, "_enter") && !ends_with(function, "_queue_up") &&
        !ends_with(function, "_seize"))
        return;
    snprintf(where, NAME, "%s:%d", base(file), line);
    wanted(owner, turn_kind(owner), 0, where);
}

int watch_owner_taken(size_t *owner, int ok) {
    if (ok) {
        int kind = turn_kind(owner);
        if (kind >= 0) hold(owner, kind);
    }
    return ok;
}

void watch_owner_dropped(size_t *owner) { let_go(owner); }

void watch_gil_left(void) { with_gil(); }

void watch_gil_wanted(const char *file, int line) {
    char where[NAME];
    snprintf(where, NAME, "%s:%d", base(file), line);
    for (int i = 0; i < count; i++) pair(held[i].kind, gil, where);
}

void watch_gil_taken(void) { gil_last = pthread_self(); }

/* ------------------------------------------------------------ of locks.py */

int watch_kind(const char *name) {
    int kind;
    pthread_mutex_lock(&guard);
    kind = kind_of(name);
    pthread_mutex_unlock(&guard);
    return kind;
}

void watch_python_wanted(void *lock, int kind, const char *where) {
    wanted(lock, kind, 0, where);
}

void watch_python_held(void *lock, int kind) { hold(lock, kind); }

void watch_python_released(void *lock) { let_go(lock); }
