cimport cython
from libc.stdint cimport uint64_t

cimport mmstore.kernels.bucket as bucket
cimport mmstore.kernels.hashing as hashing
cimport mmstore.kernels.native as raw
from mmstore.kernels.shape cimport Shape
from mmstore.kernels.space cimport Space
from mmstore.kernels.tree cimport plain

cdef uint64_t MASK32, NEXT, BUCKET_KIND, LARGE, LARGE_HEADER, LARGE_VALUE_SIZE, MAX_KEY


cdef class Writer(Shape):
    cdef uint64_t inline, found
    cdef object scratch_view
    cdef unsigned char *scratch

    @cython.locals(data=bytes, body=bytes, n=uint64_t, m=uint64_t, h=uint64_t, where="const unsigned char *")
    cpdef bint put(self, key, value) except -1

    @cython.locals(n=uint64_t, h=uint64_t, where="const unsigned char *", body="const unsigned char *")
    cpdef bint put_record(self, bytes key, bytes record) except -1

    @cython.locals(data=bytes, n=uint64_t, where="const unsigned char *")
    cpdef bint delete(self, key) except -1

    @cython.locals(ref=uint64_t, large=object)
    cdef bint remove(self, const unsigned char *key, uint64_t n, uint64_t h) except -1

    @cython.locals(space=Space, size=uint64_t, need=uint64_t, at=uint64_t, old=uint64_t, before=uint64_t, page="unsigned char *", large=object)
    cdef bint enter(self, const unsigned char *key, uint64_t n, uint64_t h, const unsigned char *body, uint64_t m, uint64_t header, uint64_t value_size) except -1

    @cython.locals(at=uint64_t)
    cdef uint64_t reserve(self, unsigned char *page, uint64_t h, uint64_t need) except? 0

    @cython.locals(size=uint64_t, ref=uint64_t, steps=uint64_t, mark=uint64_t, page="const unsigned char *")
    cdef uint64_t search(self, const unsigned char *key, uint64_t n, uint64_t h) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(page="unsigned char *", at=uint64_t, header=uint64_t)
    cdef object take_out(self, uint64_t ref)

    @cython.locals(page="unsigned char *", following=uint64_t, at=uint64_t)
    cdef int unlink(self, uint64_t ref) except -1

    cpdef clear(self)
    cpdef put_large(self, bytes key, value)
    cpdef spill(self)
