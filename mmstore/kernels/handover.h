/* The callbacks of the Arrow structs that mmstore hands to others; handover.py tells the story.
 *
 * A block is memory of ours that holds structs: its head (mms_block), the root struct right behind it, then whatever
 * the root points to.  `live` counts the structs that were not released yet, and the capsule; whoever takes it
 * to zero drops the owner, a Python object that keeps the block and all that is shown by it.
 */
#ifndef MMSTORE_HANDOVER_H
#define MMSTORE_HANDOVER_H

#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

struct ArrowSchema {
    const char *format, *name, *metadata;
    int64_t flags, n_children;
    struct ArrowSchema **children, *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};
struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children, *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};
struct ArrowArrayStream {
    int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *);
    int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *);
    const char *(*get_last_error)(struct ArrowArrayStream *);
    void (*release)(struct ArrowArrayStream *);
    void *private_data;
};

typedef struct mms_block {
    int64_t live;
    PyObject *owner;
    struct mms_block *next; /* in the list of those that wait to be dropped */
} mms_block;

static mms_block *mms_waiting; /* their owners go when a thread that may touch Python objects comes by */
static int mms_called;         /* whether the main thread was asked to come by */
static int mms_leaving;        /* the interpreter is about to end: nobody comes by any more */
static int mms_inside;         /* threads that ask a stream for something */

/* An exception that is raised at the moment, put aside: Python code must not run beside it. */
#if PY_VERSION_HEX >= 0x030C0000
typedef PyObject *mms_raised;
static inline mms_raised mms_put_aside(void) {
    return PyErr_GetRaisedException();
}
static inline void mms_put_back(mms_raised raised) {
    PyErr_SetRaisedException(raised);
}
#else
typedef struct {
    PyObject *type, *value, *traceback;
} mms_raised;
static inline mms_raised mms_put_aside(void) {
    mms_raised raised;
    PyErr_Fetch(&raised.type, &raised.value, &raised.traceback);
    return raised;
}
static inline void mms_put_back(mms_raised raised) {
    PyErr_Restore(raised.type, raised.value, raised.traceback);
}
#endif

/* Whether this thread may touch Python objects: it holds the GIL, and the interpreter is still there. */
static inline int mms_attached(void) {
#if PY_VERSION_HEX >= 0x030D0000
    PyThreadState *running = PyThreadState_GetUnchecked();
#else
    PyThreadState *running = _PyThreadState_UncheckedGet();
#endif
    return running != NULL && running == PyGILState_GetThisThreadState();
}

/* Drop the owners that wait; only for a thread that is attached. */
static int mms_drain(void *unused) {
    mms_block *block, *next;
    mms_raised raised;
    (void)unused;
    __atomic_store_n(&mms_called, 0, __ATOMIC_SEQ_CST);
    block = __atomic_exchange_n(&mms_waiting, NULL, __ATOMIC_ACQ_REL);
    if (block == NULL)
        return 0;
    raised = mms_put_aside();
    for (; block != NULL; block = next) {
        next = block->next;
        Py_DECREF(block->owner);
    }
    mms_put_back(raised);
    return 0;
}

static void mms_put_down(mms_block *block) {
    if (__atomic_sub_fetch(&block->live, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    if (mms_attached()) {
        mms_raised raised = mms_put_aside();
        Py_DECREF(block->owner);
        mms_put_back(raised);
        return;
    }
    /* Waiting for the GIL here could be a deadlock: the thread that has it may wait for a lock of our caller's. */
    block->next = __atomic_load_n(&mms_waiting, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&mms_waiting, &block->next, block, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        ;
    if (!__atomic_load_n(&mms_leaving, __ATOMIC_SEQ_CST) && !__atomic_exchange_n(&mms_called, 1, __ATOMIC_SEQ_CST)
        && Py_AddPendingCall(mms_drain, NULL) != 0)
        __atomic_store_n(&mms_called, 0, __ATOMIC_SEQ_CST); /* no room; the next one asks again */
}

/* A thread that waits for the GIL when the interpreter ends is ended by it, which the consumer's C++ may not survive:
 * those that are inside get two seconds. */
static void mms_leave(void) {
    const struct timespec nap = {0, 1000000};
    int i;
    __atomic_store_n(&mms_leaving, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < 2000 && __atomic_load_n(&mms_inside, __ATOMIC_SEQ_CST) > 0; i++) {
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&nap, NULL);
        Py_END_ALLOW_THREADS
    }
    mms_drain(NULL);
}

/* In a child of fork, where only the thread that forked is left. */
static void mms_forked(void) {
    __atomic_store_n(&mms_inside, 0, __ATOMIC_SEQ_CST);
}

/* --- release ------------------------------------------------------------------------------------ */

#define MMS_RELEASE(name, type)                                        \
    static void name(struct type *it) {                                \
        mms_block *block = (mms_block *)it->private_data;              \
        int64_t i;                                                     \
        for (i = 0; i < it->n_children; i++)                           \
            if (it->children[i]->release != NULL) /* else moved */     \
                it->children[i]->release(it->children[i]);             \
        if (it->dictionary != NULL && it->dictionary->release != NULL) \
            it->dictionary->release(it->dictionary);                   \
        it->release = NULL;                                            \
        mms_put_down(block);                                           \
    }
MMS_RELEASE(mms_release_schema, ArrowSchema)
MMS_RELEASE(mms_release_array, ArrowArray)

static void mms_release_stream(struct ArrowArrayStream *it) {
    it->release = NULL;
    mms_put_down((mms_block *)it->private_data);
}

/* A capsule that goes: what nobody took is released. */
#define MMS_CAPSULE(name, type)                                                                               \
    static void name(PyObject *capsule) {                                                                     \
        struct type *it = (struct type *)PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));           \
        mms_block *block = (mms_block *)PyCapsule_GetContext(capsule);                                        \
        if (it->release != NULL)                                                                              \
            it->release(it);                                                                                  \
        mms_put_down(block);                                                                                  \
    }
MMS_CAPSULE(mms_capsule_schema, ArrowSchema)
MMS_CAPSULE(mms_capsule_array, ArrowArray)
MMS_CAPSULE(mms_capsule_stream, ArrowArrayStream)

/* --- streams ------------------------------------------------------------------------------------ */

typedef struct {
    PyGILState_STATE state;
    mms_raised raised;
} mms_visit;

/* Take the GIL; 0 where it is too late for that. */
static int mms_enter(mms_visit *visit) {
    __atomic_add_fetch(&mms_inside, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&mms_leaving, __ATOMIC_SEQ_CST) && !mms_attached()) {
        __atomic_sub_fetch(&mms_inside, 1, __ATOMIC_SEQ_CST);
        return 0;
    }
    visit->state = PyGILState_Ensure();
    visit->raised = mms_put_aside();
    return 1;
}

static void mms_exit(mms_visit *visit) {
    mms_put_back(visit->raised);
    PyGILState_Release(visit->state);
    __atomic_sub_fetch(&mms_inside, 1, __ATOMIC_SEQ_CST);
}

/* owner.method(address of out), which returns an errno; an exception that got through becomes one. */
static int mms_ask(struct ArrowArrayStream *stream, const char *method, void *out) {
    PyObject *owner = ((mms_block *)stream->private_data)->owner, *answer;
    mms_visit visit;
    int code = EIO;
    if (!mms_enter(&visit))
        return EIO;
    answer = PyObject_CallMethod(owner, method, "K", (unsigned long long)(uintptr_t)out);
    if (answer != NULL) {
        code = (int)PyLong_AsLong(answer);
        Py_DECREF(answer);
    } else if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
        PyErr_Clear();
        PyErr_SetInterrupt(); /* it comes again where Python can raise it */
        code = EINTR;
    } else
        PyErr_WriteUnraisable(owner);
    mms_exit(&visit);
    return code;
}

static int mms_get_schema(struct ArrowArrayStream *stream, struct ArrowSchema *out) {
    int code;
    memset(out, 0, sizeof *out);
    code = mms_ask(stream, "put_schema", out);
    if (code != 0 && out->release != NULL)
        out->release(out);
    return code;
}

static int mms_get_next(struct ArrowArrayStream *stream, struct ArrowArray *out) {
    int code;
    memset(out, 0, sizeof *out);
    code = mms_ask(stream, "put_next", out);
    if (code != 0 && out->release != NULL)
        out->release(out);
    return code;
}

/* The bytes owner.error, or NULL; they stay until the stream is asked for something else. */
static const char *mms_get_last_error(struct ArrowArrayStream *stream) {
    PyObject *owner = ((mms_block *)stream->private_data)->owner, *error;
    const char *text = NULL;
    mms_visit visit;
    if (!mms_enter(&visit))
        return NULL;
    error = PyObject_GetAttrString(owner, "error");
    if (error != NULL && PyBytes_Check(error))
        text = PyBytes_AS_STRING(error);
    Py_XDECREF(error);
    PyErr_Clear();
    mms_exit(&visit);
    return text;
}

/* --- for handover.py ---------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t size;
    PyCapsule_Destructor gone;
} mms_kinds[] = {
    {"arrow_schema", sizeof(struct ArrowSchema), mms_capsule_schema},
    {"arrow_array", sizeof(struct ArrowArray), mms_capsule_array},
    {"arrow_array_stream", sizeof(struct ArrowArrayStream), mms_capsule_stream},
};

static inline void mms_hold(mms_block *block, PyObject *owner, int64_t live) {
    if (__atomic_load_n(&mms_waiting, __ATOMIC_RELAXED) != NULL)
        mms_drain(NULL);
    Py_INCREF(owner);
    block->owner = owner;
    block->next = NULL;
    __atomic_store_n(&block->live, live, __ATOMIC_RELEASE);
}

/* The structs of a kind of the block at `at`, in a capsule. */
static inline PyObject *mms_capsule(int kind, uint64_t at, PyObject *owner, int64_t live) {
    mms_block *block = (mms_block *)(uintptr_t)at;
    PyObject *capsule = PyCapsule_New(block + 1, mms_kinds[kind].name, NULL);
    if (capsule == NULL)
        return NULL;
    PyCapsule_SetContext(capsule, block);
    PyCapsule_SetDestructor(capsule, mms_kinds[kind].gone);
    mms_hold(block, owner, live + 1);
    return capsule;
}

/* The root struct of the block at `at`, moved to `out`. */
static inline void mms_move(int kind, uint64_t at, PyObject *owner, int64_t live, uint64_t out) {
    mms_block *block = (mms_block *)(uintptr_t)at;
    mms_hold(block, owner, live);
    memcpy((void *)(uintptr_t)out, block + 1, mms_kinds[kind].size);
}

static inline uint64_t mms_callback(int which) {
    switch (which) {
    case 0:
        return (uint64_t)(uintptr_t)mms_release_schema;
    case 1:
        return (uint64_t)(uintptr_t)mms_release_array;
    case 2:
        return (uint64_t)(uintptr_t)mms_release_stream;
    case 3:
        return (uint64_t)(uintptr_t)mms_get_schema;
    case 4:
        return (uint64_t)(uintptr_t)mms_get_next;
    default:
        return (uint64_t)(uintptr_t)mms_get_last_error;
    }
}

#endif
