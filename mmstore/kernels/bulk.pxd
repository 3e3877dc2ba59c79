cimport cython
from libc.stdint cimport uint32_t, uint64_t

cimport mmstore.kernels.bucket as bucket
cimport mmstore.kernels.hashing as hashing
cimport mmstore.kernels.native as raw
from mmstore.kernels.space cimport Space
from mmstore.kernels.tree cimport plain, slot_of
from mmstore.kernels.writer cimport Writer

cdef uint64_t HEAD, PRIVATE, DEPTH, PREFIX, NODE_KIND, BUCKET_KIND, MAX_KEY, LIKE, PACKED, AHEAD, LARGE_SIZE


cdef class Loader(Writer):
    cdef list keys_in, values_in
    cdef uint64_t n_in, index_bits
    cdef uint64_t *hashes
    cdef uint64_t *order
    cdef uint32_t *sizes

    @cython.locals(n=uint64_t, i=uint64_t, data=bytes, n_key=uint64_t, m=uint64_t, h=uint64_t, before=uint64_t)
    cpdef uint64_t put_many(self, list keys, list values) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(one=uint64_t, mask=uint64_t, k=uint64_t, i=uint64_t, m=uint64_t, header=uint64_t, key=bytes, value=bytes)
    cdef int put_in_order(self, bint only_large) except -1

    @cython.locals(one=uint64_t, mask=uint64_t, total=uint64_t, n=uint64_t, size=uint64_t, k=uint64_t, i=uint64_t, j=uint64_t, depth=uint64_t, start=uint64_t)
    cdef bint build(self) except -1

    @cython.locals(bits=uint64_t, one=uint64_t, mask=uint64_t, start=uint64_t, k=uint64_t, j=uint64_t, i=uint64_t, at=uint64_t, other=uint64_t, record=uint64_t, left=uint64_t)
    cdef bint settle(self) except -1

    @cython.locals(one=uint64_t, mask=uint64_t, node=uint64_t, page="unsigned char *", most=uint64_t, first=uint64_t, first_slot=uint64_t, slot=uint64_t, slot_here=uint64_t, weight=uint64_t, more=uint64_t, k=uint64_t, after=uint64_t, i=uint64_t, ref=uint64_t)
    cdef uint64_t build_node(self, uint64_t j, uint64_t depth, uint64_t start, uint64_t stop) except 0

    @cython.locals(one=uint64_t)
    cdef uint64_t hash_at(self, uint64_t k) noexcept

    @cython.locals(space=Space, one=uint64_t, mask=uint64_t, n=uint64_t, k=uint64_t, i=uint64_t, following=uint64_t, ref=uint64_t, page="unsigned char *", top=uint64_t, entries=uint64_t, record=uint64_t, header=uint64_t, need=uint64_t, at=uint64_t, key=bytes, value=bytes)
    cdef uint64_t pack(self, uint64_t start, uint64_t stop) except 0
