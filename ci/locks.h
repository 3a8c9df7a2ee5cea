/* Compiled in front of framing.c (-include): each lock that it takes is told to locks.c,
 * and so is the GIL.  What is a signal between threads, and no lock, stays as it is. */
#pragma once
#include <Python.h>
#include <pythread.h>
#include <string.h>

#include "sockio.h"

void *watch_made(void *lock, const char *file, int line);
void watch_freed(void *lock);
int watch_acquire(void *lock, int wait, const char *file, int line, const char *function);
void watch_release(void *lock);
void watch_owner_wanted(size_t *owner, const char *file, int line, const char *function);
int watch_owner_taken(size_t *owner, int taken);
void watch_owner_dropped(size_t *owner);
void watch_gil_left(void);
void watch_gil_wanted(const char *file, int line);
void watch_gil_taken(void);

/* Locked by whoever waits, and unlocked by another thread to let it go on. */
#define WATCH_SIGNAL(lock) (strstr(#lock, "bell") || strstr(#lock, "gate"))

#define PyThread_allocate_lock() watch_made(PyThread_allocate_lock(), __FILE__, __LINE__)
#define PyThread_free_lock(lock) (watch_freed(lock), PyThread_free_lock(lock))
#define PyThread_acquire_lock(lock, wait)              \
    (WATCH_SIGNAL(lock) ? PyThread_acquire_lock(lock, wait) \
                        : watch_acquire(lock, wait, __FILE__, __LINE__, __func__))
#define PyThread_release_lock(lock) \
    (WATCH_SIGNAL(lock) ? (void)0 : watch_release(lock), PyThread_release_lock(lock))

#define owner_take(owner, me)                                       \
    (watch_owner_wanted(owner, __FILE__, __LINE__, __func__),       \
     watch_owner_taken(owner, owner_take(owner, me)))
#define owner_drop(owner) (watch_owner_dropped(owner), owner_drop(owner))

#define PyEval_SaveThread() (watch_gil_left(), PyEval_SaveThread())
#define PyEval_RestoreThread(state) \
    (watch_gil_wanted(__FILE__, __LINE__), PyEval_RestoreThread(state), watch_gil_taken())
