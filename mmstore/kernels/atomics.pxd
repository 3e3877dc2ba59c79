# C atomics on shared memory; see atomics.py. Other kernels cimport the mms_*_u64 functions on pointers.

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #ifndef MMS_ATOMICS
    #define MMS_ATOMICS
    #include <stdint.h>

    #if defined(_MSC_VER)
    #include <intrin.h>
    static __inline unsigned long long mms_load_u64(const void *p) {
        unsigned long long value = *(const volatile unsigned long long *)p;
        _ReadWriteBarrier();
        return value;
    }
    static __inline void mms_store_u64(void *p, unsigned long long value) {
        _InterlockedExchange64((volatile long long *)p, (long long)value);
    }
    static __inline void mms_fence_all(void) { volatile long dummy = 0; _InterlockedExchange(&dummy, 1); }
    static __inline void mms_fence_acquire(void) { mms_fence_all(); }
    static __inline unsigned int mms_add_u32(void *p, unsigned int value) {
        return (unsigned int)_InterlockedExchangeAdd((volatile long *)p, (long)value);
    }
    #else
    static inline unsigned long long mms_load_u64(const void *p) {
        return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE);
    }
    static inline void mms_store_u64(void *p, unsigned long long value) {
        __atomic_store_n((uint64_t *)p, (uint64_t)value, __ATOMIC_RELEASE);
    }
    static inline void mms_fence_all(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline void mms_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    static inline unsigned int mms_add_u32(void *p, unsigned int value) {
        return __atomic_fetch_add((uint32_t *)p, value, __ATOMIC_SEQ_CST);
    }
    #endif

    /* The address of the word at offset, with the buffer held in *view; NULL with an exception set. */
    static inline char *mms_word(PyObject *buffer, Py_ssize_t offset, Py_ssize_t size, int flags, Py_buffer *view) {
        if (PyObject_GetBuffer(buffer, view, flags) != 0) return 0;
        if (offset < 0 || offset % size || offset > view->len - size) {
            PyErr_Format(PyExc_ValueError, "atomics need an aligned offset inside the buffer: %zd of %zd bytes",
                         offset, view->len);
            PyBuffer_Release(view);
            return 0;
        }
        return (char *)view->buf + offset;
    }
    static inline unsigned long long mms_load_at(PyObject *buffer, Py_ssize_t offset) {
        Py_buffer view;
        char *word = mms_word(buffer, offset, 8, PyBUF_SIMPLE, &view);
        if (!word) return 0;
        unsigned long long value = mms_load_u64(word);
        PyBuffer_Release(&view);
        return value;
    }
    static inline int mms_store_at(PyObject *buffer, Py_ssize_t offset, unsigned long long value) {
        Py_buffer view;
        char *word = mms_word(buffer, offset, 8, PyBUF_WRITABLE, &view);
        if (!word) return -1;
        mms_store_u64(word, value);
        PyBuffer_Release(&view);
        return 0;
    }
    static inline unsigned int mms_add_at(PyObject *buffer, Py_ssize_t offset, unsigned int value) {
        Py_buffer view;
        char *word = mms_word(buffer, offset, 4, PyBUF_WRITABLE, &view);
        if (!word) return 0;
        unsigned int before = mms_add_u32(word, value);
        PyBuffer_Release(&view);
        return before;
    }
    #endif
    """
    unsigned long long mms_load_u64(const void *p) noexcept nogil
    void mms_store_u64(void *p, unsigned long long value) noexcept nogil
    void mms_fence_all() noexcept nogil
    void mms_fence_acquire() noexcept nogil
    unsigned int mms_add_u32(void *p, unsigned int value) noexcept nogil

    unsigned long long mms_load "mms_load_at"(object buffer, Py_ssize_t offset) except? 0
    int mms_store "mms_store_at"(object buffer, Py_ssize_t offset, unsigned long long value) except -1
    void mms_fence "mms_fence_all"() noexcept
    unsigned int mms_fetch_add "mms_add_at"(object buffer, Py_ssize_t offset, unsigned int value) except? 0


cdef inline const uint64_t *word(const uint64_t[::1] words) noexcept:
    return &words[0]
