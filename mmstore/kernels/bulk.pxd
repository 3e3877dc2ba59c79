cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport mmstore.kernels.bucket as bucket
cimport mmstore.kernels.hashing as hashing
cimport mmstore.kernels.native as raw
cimport mmstore.kernels.packed as packed
from mmstore.kernels.space cimport Space
from mmstore.kernels.tree cimport plain, slot_of
from mmstore.kernels.writer cimport Writer

cdef uint64_t HEAD, PRIVATE, DEPTH, PREFIX, NODE_KIND, BUCKET_KIND, MAX_KEY, LIKE, PACKED, AHEAD, LARGE_HEADER


cdef class Loader(Writer):
    cdef list keys_in, values_in, held
    cdef object rows_view
    cdef bint is_packed, is_sliced
    cdef uint64_t n_in, index_bits, width
    cdef uint64_t *hashes
    cdef uint64_t *order
    cdef uint32_t *sizes
    cdef const unsigned char *source
    cdef const int64_t *starts
    cdef const unsigned char *rows
    cdef const int64_t *bounds

    cpdef uint64_t put_many(self, list keys, list values) except? 0xFFFFFFFFFFFFFFFF

    cpdef uint64_t put_packed(self, data, offsets, values, size) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(n=uint64_t)
    cpdef uint64_t put_slices(self, packed.Pairs pairs) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(n=uint64_t, before=uint64_t, one=uint64_t, mask=uint64_t, k=uint64_t, i=uint64_t)
    cpdef uint64_t delete_packed(self, data, offsets) except? 0xFFFFFFFFFFFFFFFF

    cdef int begin_batch(self, n, bint is_packed) except -1
    cdef int end_batch(self) except -1

    @cython.locals(h=uint64_t)
    cdef int note(self, uint64_t i, const unsigned char *key, uint64_t n) noexcept

    @cython.locals(i=uint64_t, data=bytes, n_key=uint64_t, m=uint64_t)
    cdef int note_lists(self, list keys, list values) except -1

    @cython.locals(i=uint64_t, at=uint64_t, n_key=uint64_t, m=uint64_t)
    cdef int note_packed(self, source, places) except -1

    cdef int sort(self) except -1
    cdef const unsigned char *key(self, uint64_t i) noexcept
    cdef const unsigned char *value(self, uint64_t i) noexcept

    @cython.locals(one=uint64_t, i=uint64_t)
    cdef int look_ahead(self, uint64_t k) noexcept

    @cython.locals(one=uint64_t, i=uint64_t)
    cdef int bring(self, uint64_t k) noexcept

    @cython.locals(before=uint64_t)
    cdef uint64_t put_batch(self) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(one=uint64_t, mask=uint64_t, k=uint64_t, i=uint64_t, m=uint64_t, header=uint64_t, n_key=uint64_t)
    cdef int put_in_order(self, bint only_large) except -1

    @cython.locals(one=uint64_t, n_all=uint64_t, total=uint64_t, header=uint64_t, n=uint64_t, size=uint64_t, k=uint64_t, i=uint64_t, j=uint64_t, depth=uint64_t, start=uint64_t)
    cdef bint build(self) except -1

    @cython.locals(bits=uint64_t, one=uint64_t, mask=uint64_t, start=uint64_t, k=uint64_t, j=uint64_t, at=uint64_t, other=uint64_t, record=uint64_t, left=uint64_t)
    cdef bint settle(self) except -1

    @cython.locals(n=uint64_t)
    cdef bint alike(self, uint64_t i, uint64_t j) noexcept

    @cython.locals(one=uint64_t, mask=uint64_t, node=uint64_t, page="unsigned char *", most=uint64_t, first=uint64_t, first_slot=uint64_t, slot=uint64_t, slot_here=uint64_t, slot_next=uint64_t, weight=uint64_t, more=uint64_t, header=uint64_t, k=uint64_t, after=uint64_t, ref=uint64_t)
    cdef uint64_t build_node(self, uint64_t j, uint64_t depth, uint64_t start, uint64_t stop) except 0

    @cython.locals(one=uint64_t)
    cdef uint64_t slot_at(self, uint64_t k, uint64_t depth) noexcept

    @cython.locals(space=Space, one=uint64_t, mask=uint64_t, n=uint64_t, k=uint64_t, i=uint64_t, following=uint64_t, ref=uint64_t, page="unsigned char *", top=uint64_t, entries=uint64_t, record=uint64_t, header=uint64_t, need=uint64_t, at=uint64_t)
    cdef uint64_t pack(self, uint64_t start, uint64_t stop) except 0
