cimport cython
from libc.stdint cimport uint32_t, uint64_t

cimport mmstore.kernels.bucket as bucket
cimport mmstore.kernels.hashing as hashing
cimport mmstore.kernels.native as raw

cdef uint64_t KIND, TXN, NEXT, HEAD, PRIVATE, DIRECTORY_KIND, NODE_KIND, BUCKET_KIND
cdef uint64_t FREE, LIVE, SUPERSEDED, PIECE, NEIGHBOUR, MASK32


cdef class Space:
    cdef readonly uint64_t page_size, seed, mask, entries, slots, first, mem_pages
    cdef public uint64_t limit
    cdef readonly uint64_t base, used, capacity, spare_count, superseded, dirty
    cdef public uint64_t gen, min_gen, txn, copied, full, epoch
    cdef public object make_pool
    cdef public list freed
    cdef public object moved
    cdef readonly object view, bits_view, pool_view
    cdef readonly object state_view, number_view
    cdef object since_view, spare_view
    cdef uint64_t bits_size
    cdef const unsigned char *mem
    cdef unsigned char *bits
    cdef unsigned char *pool
    cdef unsigned char *state
    cdef uint32_t *number
    cdef uint32_t *since
    cdef uint32_t *spare

    cpdef attach(self, view, verified)

    @cython.locals(serial=uint64_t, page="const unsigned char *")
    cdef const unsigned char *page(self, uint64_t ref, uint64_t kind) except NULL

    @cython.locals(found=uint64_t, kind=uint64_t, n=uint64_t, at=uint64_t, all_bits=uint64_t, i=uint64_t)
    cdef int verify(self, uint64_t ref, const unsigned char *page) except -1

    cdef const unsigned char *known(self, uint64_t ref) noexcept nogil

    @cython.locals(at=uint64_t)
    cdef void expect(self, uint64_t ref) noexcept

    cdef void mark(self, uint64_t ref) noexcept

    cdef object corrupt(self, uint64_t ref, uint64_t kind)

    cpdef attach_pool(self, pool)
    cpdef detach_pool(self)
    cdef unsigned char *own(self, uint64_t ref) noexcept

    @cython.locals(serial=uint64_t)
    cpdef bint is_writable(self, uint64_t ref)

    @cython.locals(i=uint64_t)
    cdef uint64_t _take(self) except 0

    @cython.locals(ref=uint64_t, page="unsigned char *")
    cpdef uint64_t new(self, uint64_t kind) except 0

    @cython.locals(source="const unsigned char *", twin=uint64_t, page="unsigned char *")
    cpdef uint64_t copy(self, uint64_t ref, uint64_t kind) except 0

    @cython.locals(page="const unsigned char *", i=uint64_t)
    cpdef int drop(self, uint64_t ref) except -1

    cdef int _release(self, uint64_t i) except -1

    @cython.locals(i=uint64_t, page="unsigned char *")
    cpdef undo(self, uint64_t gen)

    @cython.locals(i=uint64_t, page="unsigned char *")
    cpdef forget(self, uint64_t min_gen)

    @cython.locals(serial=uint64_t)
    cpdef uint64_t numbered(self, uint64_t ref) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(i=uint64_t, n=uint64_t)
    cpdef uint64_t unnumbered(self)

    @cython.locals(i=uint64_t, at=uint64_t, stop=uint64_t)
    cpdef assign(self, list runs)

    @cython.locals(i=uint64_t, page="unsigned char *", kind=uint64_t)
    cpdef seal(self)

    @cython.locals(k=uint64_t, ref=uint64_t, serial=uint64_t)
    cdef int _patch(self, unsigned char *page, uint64_t at, uint64_t count) except -1

    @cython.locals(words="uint64_t *", page=uint64_t, n=uint64_t, i=uint64_t, size=uint64_t, most=uint64_t, start=uint64_t, stop=uint64_t, k=uint64_t, adjacent=bint, found=list, to="unsigned char *")
    cpdef list runs(self)

    @cython.locals(size=uint64_t, i=uint64_t, found=list)
    cpdef list few(self)

    @cython.locals(i=uint64_t)
    cpdef mark_placed(self)

    @cython.locals(i=uint64_t)
    cpdef emptied(self)

    @cython.locals(i=uint64_t)
    cpdef reset(self)
