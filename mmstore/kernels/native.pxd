# C types of raw.py: kernels say `from mmstore.kernels import raw` and, in their .pxd,
# `cimport mmstore.kernels.native as raw`, which makes raw.load32(...) one machine instruction.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memmove, memset

cdef enum:
    COMPILED = 1
    WINDOW = 32

cdef extern from "Python.h":
    ctypedef struct PyListObject:
        void **ob_item

    ctypedef struct PyThreadState:
        pass
    PyThreadState *let_go "PyEval_SaveThread" () noexcept nogil
    void come_back "PyEval_RestoreThread" (PyThreadState *held) noexcept nogil

cdef extern from "native.h" nogil:
    uint64_t load8 "mms_load8" (const unsigned char *p, size_t at) noexcept
    uint64_t load16 "mms_load16" (const unsigned char *p, size_t at) noexcept
    uint64_t load32 "mms_load32" (const unsigned char *p, size_t at) noexcept
    uint64_t load64 "mms_load64" (const unsigned char *p, size_t at) noexcept
    uint64_t peek8 "mms_peek8" (const unsigned char *p, size_t at) noexcept
    uint64_t peek32 "mms_peek32" (const unsigned char *p, size_t at) noexcept
    uint64_t peek64 "mms_peek64" (const unsigned char *p, size_t at) noexcept
    void store16 "mms_store16" (unsigned char *p, size_t at, uint16_t x) noexcept
    void store32 "mms_store32" (unsigned char *p, size_t at, uint32_t x) noexcept
    void store64 "mms_store64" (unsigned char *p, size_t at, uint64_t x) noexcept
    uint64_t below "mms_below" (const unsigned char *p, size_t at, size_t n, uint32_t bound) noexcept
    uint64_t below_window "mms_below_window" (const unsigned char *p, size_t at, uint32_t bound) noexcept
    uint64_t fold64 "mms_fold64" (uint64_t a, uint64_t b) noexcept
    uint64_t xxh3_long "mms_xxh3_long" (const unsigned char *p, size_t at, size_t n, uint64_t seed, const unsigned char *secret) noexcept
    void prefetch "mms_prefetch" (const void *p, size_t at) noexcept
    void sort64 "mms_sort64" (uint64_t *a, uint64_t *scratch, size_t n, int low) noexcept

cdef extern from "columns.h" nogil:
    int64_t check_offsets "mms_check_offsets" (const int64_t *offsets, int64_t n, int64_t limit) noexcept
    int64_t check_codes "mms_check_codes" (const int32_t *codes, int64_t n, int64_t count) noexcept
    int64_t check_utf8 "mms_check_utf8" (const unsigned char *data, const int64_t *offsets, int64_t n) noexcept
    int64_t copy_slices "mms_copy_slices" (const unsigned char *source, int64_t size, const int64_t *starts, const int64_t *offsets, int64_t n, unsigned char *out, int64_t room) noexcept
    int64_t copy_views "mms_copy_views" (const unsigned char *views, const uint64_t *buffers, const uint64_t *sizes, int64_t n_buffers, const int64_t *offsets, int64_t n, unsigned char *out, int64_t room) noexcept
    int64_t text_extremes "mms_text_extremes" (const unsigned char *data, int64_t size, const int64_t *starts, const int64_t *stops, int64_t n, unsigned char *ends) noexcept
    int64_t extremes "mms_extremes" (const unsigned char *values, int64_t n, int kind, unsigned char *ends) noexcept


cdef inline void store8(unsigned char *p, size_t at, uint8_t x) noexcept nogil:
    p[at] = x


cdef inline void move(unsigned char *to, size_t to_at, const unsigned char *source, size_t at, size_t n) noexcept nogil:
    if n == 8:  # a number, as most are that are copied by the thousand: not worth a call
        store64(to, to_at, peek64(source, at))
    else:
        memmove(to + to_at, source + at, n)


cdef inline void clear(unsigned char *p, size_t at, size_t n) noexcept nogil:
    memset(p + at, 0, n)


cdef inline bint equal(const unsigned char *a, size_t a_at, const unsigned char *b, size_t b_at, size_t n) noexcept nogil:
    if n == 8:
        return peek64(a, a_at) == peek64(b, b_at)
    return memcmp(a + a_at, b + b_at, n) == 0


cdef inline bytes take(const unsigned char *p, size_t at, size_t n):
    return PyBytes_FromStringAndSize(<const char *> (p + at), n)


cdef inline void prefetch_slot(list items, size_t i) noexcept:
    prefetch((<PyListObject *> items).ob_item, i * sizeof(void *))


cdef inline void prefetch_item(list items, size_t i) noexcept:
    prefetch(<const unsigned char *> PyList_GET_ITEM(items, i), 0)
    prefetch(<const unsigned char *> PyList_GET_ITEM(items, i), 64)


cdef inline const unsigned char *address(const unsigned char[::1] view) noexcept:
    return &view[0] if view.shape[0] else NULL


cdef inline unsigned char *writable(unsigned char[::1] view) noexcept:
    return &view[0] if view.shape[0] else NULL


cdef inline const unsigned char *content(bytes data) noexcept:
    return <const unsigned char *> PyBytes_AS_STRING(data)


cdef inline uint64_t *words(uint64_t[::1] array) noexcept:
    return &array[0] if array.shape[0] else NULL


cdef inline uint32_t *halves(uint32_t[::1] array) noexcept:
    return &array[0] if array.shape[0] else NULL


cdef inline const int64_t *longs(const int64_t[::1] view) noexcept:
    return &view[0] if view.shape[0] else NULL


cdef inline const int32_t *ints(const int32_t[::1] view) noexcept:
    return &view[0] if view.shape[0] else NULL


cdef inline const uint64_t *addresses(list buffers, uint64_t[::1] room) except? NULL:
    cdef Py_ssize_t i
    for i in range(len(buffers)):
        room[i] = <uint64_t> <size_t> address(buffers[i])
    return words(room)


cdef inline const unsigned char *part(const unsigned char *p, size_t at, size_t n) noexcept nogil:
    return p + at


cdef inline unsigned char *writable_part(unsigned char *p, size_t at, size_t n) noexcept nogil:
    return p + at
