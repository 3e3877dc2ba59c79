cimport cython
from libc.stdint cimport int64_t

cimport mmstore.kernels.native as raw

cdef int64_t MAX_KEY

cpdef object flat(buffer)
cpdef object room(buffer, size, what)
cpdef object numbers(buffer, kinds=*, size=*)

@cython.locals(n=int64_t, where="const int64_t *")
cpdef int64_t check_offsets(offsets, int64_t limit) except? -2

@cython.locals(wrong=int64_t)
cpdef tuple slices(data, offsets)

@cython.locals(i=cython.Py_ssize_t, where="const int64_t *")
cpdef tuple keys(data, offsets)


cdef class Pairs:
    cdef object source, places, rows, ends
