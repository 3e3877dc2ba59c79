cimport cython
from libc.stdint cimport uint64_t

cimport mmstore.kernels.native as raw

cdef uint64_t MASK32, MASK64, PRIME_1, PRIME_2, PRIME_3, PRIME_4, PRIME_5, BYTES, PAIRS
cdef const unsigned char *secret

cpdef uint64_t xxh3_64(data, uint64_t seed=*) except? 1
cpdef uint64_t algorithm(bytes data, uint64_t seed=*) except? 1
cdef uint64_t hash64(const unsigned char *buffer, size_t at, size_t n, uint64_t seed) noexcept nogil

@cython.locals(low=uint64_t, high=uint64_t, h=uint64_t)
cdef uint64_t _short(const unsigned char *key, size_t at, size_t n, uint64_t seed) noexcept nogil

@cython.locals(h=uint64_t, i=cython.Py_ssize_t)
cdef uint64_t _medium(const unsigned char *key, size_t at, size_t n, uint64_t seed) noexcept nogil

@cython.locals(h=uint64_t, i=size_t)
cdef uint64_t _middle(const unsigned char *key, size_t at, size_t n, uint64_t seed) noexcept nogil

cdef uint64_t _mix(const unsigned char *key, size_t at, size_t word, uint64_t seed) noexcept nogil
cdef uint64_t _avalanche(uint64_t h) noexcept nogil
cdef uint64_t _swap64(uint64_t x) noexcept nogil
