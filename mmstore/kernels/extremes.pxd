cimport cython
from libc.stdint cimport int64_t

cimport mmstore.kernels.native as raw
cimport mmstore.kernels.packed as packed

@cython.locals(n=int64_t, told=int64_t, ordered=bint, nans=int64_t)
cpdef tuple extremes(values)
