cimport cython
from libc.stdint cimport uint64_t

cimport mmstore.kernels.hashing as hashing
cimport mmstore.kernels.native as raw

cdef uint64_t HEAD, COUNT, TOP, GARBAGE, NEXT, LARGE, LARGE_HASH, LARGE_KEY_SIZE, BAD, ABSENT, FETCHED, UNCLEAR

@cython.locals(count=uint64_t, tag=uint64_t, i=uint64_t, entry=uint64_t, at=uint64_t, header=uint64_t, n_value=uint64_t, n_key=uint64_t)
cdef uint64_t find(const unsigned char *page, uint64_t size, uint64_t h, const unsigned char *key, uint64_t n, cython.Py_ssize_t start) noexcept nogil

@cython.locals(count=uint64_t, at=uint64_t)
cdef void expect_entries(const unsigned char *page, uint64_t size, uint64_t h) noexcept nogil

@cython.locals(count=uint64_t, i=uint64_t, at=uint64_t, stop=uint64_t)
cdef uint64_t expect(const unsigned char *page, uint64_t size, uint64_t h, uint64_t need) noexcept nogil

@cython.locals(count=uint64_t, entry=uint64_t, at=uint64_t)
cdef uint64_t fetch(const unsigned char *page, uint64_t size, uint64_t h, const unsigned char *key, uint64_t n, uint64_t i, unsigned char *to, uint64_t to_at, uint64_t width) noexcept nogil

@cython.locals(i=uint64_t)
cdef uint64_t window(uint64_t count, uint64_t tag) noexcept nogil

@cython.locals(start=uint64_t, i=uint64_t)
cdef uint64_t lower_bound(const unsigned char *page, uint64_t count, uint64_t tag) noexcept nogil

cdef uint64_t units(uint64_t header) noexcept nogil

@cython.locals(count=uint64_t, top=uint64_t, covered=uint64_t, before=uint64_t, i=uint64_t, entry=uint64_t, unit=uint64_t, need=uint64_t)
cdef bint check(const unsigned char *page, uint64_t size) noexcept nogil

cdef uint64_t used(const unsigned char *page, uint64_t size) noexcept nogil
cdef bint fits(const unsigned char *page, uint64_t size, uint64_t need) noexcept nogil
cdef void clear(unsigned char *page, uint64_t size) noexcept nogil

@cython.locals(count=uint64_t, top=uint64_t, unit=uint64_t, i=uint64_t)
cdef uint64_t reserve(unsigned char *page, uint64_t size, uint64_t tag, uint64_t need) noexcept nogil

@cython.locals(count=uint64_t, top=uint64_t, garbage=uint64_t, unit=uint64_t, need=uint64_t)
cdef void remove(unsigned char *page, uint64_t size, uint64_t i) noexcept nogil

@cython.locals(count=uint64_t, to=uint64_t, k=uint64_t, i=uint64_t, entry=uint64_t, at=uint64_t, header=uint64_t, need=uint64_t)
cdef void compact(unsigned char *page, uint64_t size, unsigned char *scratch) noexcept nogil

@cython.locals(at=uint64_t, header=uint64_t)
cdef uint64_t record_hash(const unsigned char *page, uint64_t unit, uint64_t seed, uint64_t mask) noexcept nogil
