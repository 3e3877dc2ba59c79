cimport cython
from libc.stdint cimport uint64_t

cimport mmstore.kernels.atomics as atomics
cimport mmstore.kernels.hashing as hashing
cimport mmstore.kernels.native as raw

cdef dict AT
cdef uint64_t TXN, NONCE, WAITERS, WAKEUPS, ROOT
cdef tuple SLOT_AT


cdef class Words:
    cdef readonly object memory

    cpdef uint64_t get(self, str field) except? 0
    cpdef int set(self, str field, uint64_t value) except -1
    cpdef uint64_t half(self, str field) except? 0
    cpdef int set_half(self, str field, uint64_t value) except -1

    @cython.locals(source="const unsigned char *", to="unsigned char *", at=uint64_t)
    cpdef bint publish_slot(self, uint64_t txn, bytes root) except -1
