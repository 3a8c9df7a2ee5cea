/* The memory of messages that nobody holds any more, used for the next ones.
 *
 * A loop drops each message, or each list of them, when it takes the next, so that freeing
 * and allocating is most of what a small message costs.  Python does the same with the
 * tuples of zip() and enumerate(): where ours is the only reference left, nobody can see
 * that the object changes.
 *
 * A loop still holds what it was given last when it asks for more, but no longer what it
 * was given before that: so two are kept, and used by turns.
 */
#ifndef PYSOCK_AGAIN_H
#define PYSOCK_AGAIN_H

#include <Python.h>
#include <string.h>

enum {
    AGAIN_MOST = 1024, /* bytes of a message; a longer one costs mostly to be copied */
    AGAIN_BATCH = 1024 /* messages of a batch, which is what one receive brings */
};

#if defined(Py_GIL_DISABLED) || defined(PYPY_VERSION)
#define CAN_COME_AGAIN 0 /* a count of references tells nothing there */
#else
#define CAN_COME_AGAIN 1
#endif

typedef struct {
    PyObject *given[2]; /* one by one */
    PyObject **batches[2];
    int counts[2];
    int last, last_batch;
} again;

static inline void again_forget_given(again *kept) {
    Py_CLEAR(kept->given[0]);
    Py_CLEAR(kept->given[1]);
}

static inline void again_forget(again *kept) {
    again_forget_given(kept);
    for (int place = 0; place < 2; place++) {
        for (int i = 0; i < kept->counts[place]; i++) Py_XDECREF(kept->batches[place][i]);
        kept->counts[place] = 0;
        PyMem_Free(kept->batches[place]);
        kept->batches[place] = NULL;
    }
}

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* ob_shash */
#elif defined(_MSC_VER)
#pragma warning(push)
#pragma warning(disable : 4996)
#endif

/* Return a new reference to the *n* bytes at *p*, in the object in *slot* if nobody else
 * holds that, and else in a new one, which is kept there; NULL with an exception. */
static inline PyObject *again_in(PyObject **slot, const char *p, Py_ssize_t n) {
    PyObject *message = *slot;
    if (message != NULL && Py_REFCNT(message) == 1 && PyBytes_GET_SIZE(message) == n) {
        memcpy(PyBytes_AS_STRING(message), p, (size_t)n);
        ((PyBytesObject *)message)->ob_shash = -1;
        Py_INCREF(message);
        return message;
    }
    message = PyBytes_FromStringAndSize(p, n);
    /* Python keeps the objects of none and of one byte for all, for ever. */
    if (message != NULL && n > 1) {
        Py_INCREF(message);
        Py_XSETREF(*slot, message);
    }
    return message;
}

#if defined(__GNUC__)
#pragma GCC diagnostic pop
#elif defined(_MSC_VER)
#pragma warning(pop)
#endif

/* Return a bytes object, for one who takes them one by one; NULL with an exception. */
static inline PyObject *again_one(again *kept, const char *p, Py_ssize_t n) {
    if (!CAN_COME_AGAIN || n > AGAIN_MOST) return PyBytes_FromStringAndSize(p, n);
    kept->last = 1 - kept->last;
    return again_in(&kept->given[kept->last], p, n);
}

/* Begin a batch. */
static inline void again_begin(again *kept) {
    if (!CAN_COME_AGAIN) return;
    kept->last_batch = 1 - kept->last_batch;
    if (kept->batches[kept->last_batch] == NULL)
        kept->batches[kept->last_batch] = PyMem_Calloc(AGAIN_BATCH, sizeof(PyObject *));
}

/* Return a bytes object, the one with number *i* of the batch; NULL with an exception. */
static inline PyObject *again_next(again *kept, Py_ssize_t i, const char *p, Py_ssize_t n) {
    PyObject **batch = kept->batches[kept->last_batch];
    if (!CAN_COME_AGAIN || n > AGAIN_MOST || i >= AGAIN_BATCH || batch == NULL)
        return PyBytes_FromStringAndSize(p, n);
    if (i >= kept->counts[kept->last_batch]) kept->counts[kept->last_batch] = (int)i + 1;
    return again_in(&batch[i], p, n);
}

#endif
