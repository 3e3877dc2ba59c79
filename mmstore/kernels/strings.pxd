cimport cython
from libc.stdint cimport int64_t

cimport mmstore.kernels.native as raw
cimport mmstore.kernels.packed as packed

cdef int64_t MOST_CODES

cpdef int64_t check_offsets(offsets, int64_t limit) except? -2
@cython.locals(n=int64_t, wrong=int64_t, found=int64_t)
cpdef int64_t check_utf8(data, offsets) except? -2
cpdef int64_t check_codes(codes, int64_t count) except? -2
cpdef int64_t copy_slices(source, starts, out_offsets, out) except? -2
cpdef int64_t copy_views(views, buffers, out_offsets, out) except? -2
cpdef tuple extremes(data, starts, stops)
