cimport cython
from libc.stdint cimport uint64_t


cdef class RunSet:
    cdef list _starts
    cdef dict _lengths
    cdef uint64_t _too_large
    cdef readonly uint64_t pages

    cpdef RunSet copy(self)
    cpdef clear(self)

    @cython.locals(starts=list, lengths=dict, at=cython.Py_ssize_t, n=cython.Py_ssize_t, before=uint64_t, stop=uint64_t, after=uint64_t)
    cpdef add(self, uint64_t start, uint64_t length)

    @cython.locals(starts=list, lengths=dict, at=cython.Py_ssize_t, stop=uint64_t, removed=uint64_t, first=uint64_t, last=uint64_t)
    cpdef uint64_t remove(self, uint64_t start, uint64_t length) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(starts=list, at=cython.Py_ssize_t, n=cython.Py_ssize_t, stop=uint64_t, first=uint64_t, low=uint64_t, high=uint64_t, found=list)
    cpdef list overlap(self, uint64_t start, uint64_t length)

    @cython.locals(start=uint64_t, length=uint64_t)
    cpdef tuple take_some(self, uint64_t most)

    @cython.locals(start=uint64_t, first=uint64_t)
    cpdef object take(self, uint64_t length, uint64_t align=*)
