cimport cython
from libc.stdint cimport uint64_t

cimport mmstore.kernels.hashing as hashing
cimport mmstore.kernels.native as raw
from mmstore.kernels.runset cimport RunSet

cdef uint64_t INDEX, BULK, RESERVE, ENTRY_SIZE, DELTA_SIZE
cdef uint64_t START, LENGTH, BORN, FREED, KIND, TXN, TAKEN, GIVEN


cdef class Books:
    cdef public uint64_t page_size, pages, txn
    cdef public bint spend_reserve
    cdef public tuple free_runs, held, taken, recycled
    cdef public list grown, given, log, marks

    cpdef clear(self)

    @cython.locals(runs=RunSet)
    cpdef start(self, uint64_t txn)

    @cython.locals(align=uint64_t, recycled=RunSet, taken=RunSet)
    cpdef object alloc(self, uint64_t n, uint64_t kind)

    @cython.locals(size=uint64_t, pages=uint64_t)
    cpdef uint64_t alignment(self, uint64_t n)

    @cython.locals(found=list, recycled=RunSet, free=RunSet, taken=RunSet, floor=uint64_t, run=tuple)
    cpdef list alloc_pages(self, uint64_t n, uint64_t kind)

    @cython.locals(runs=RunSet, floor=uint64_t)
    cpdef object take(self, uint64_t n, uint64_t kind, uint64_t align)

    @cython.locals(recycled=RunSet)
    cpdef free(self, uint64_t start, uint64_t n, uint64_t born, uint64_t kind)

    cpdef tuple mark(self)
    cpdef rollback(self, tuple mark)
    cpdef release(self, tuple mark)
    cpdef abort(self)

    @cython.locals(given=list, taken=list, run=tuple, runs=RunSet, recycled=RunSet, kind=uint64_t)
    cpdef tuple settle(self)

    cpdef uint64_t delta_size(self, uint64_t entries)

    @cython.locals(size=uint64_t, body=bytearray, to="unsigned char *", at=uint64_t, start=uint64_t, length=uint64_t, born=uint64_t, freed=uint64_t, kind=uint64_t)
    cpdef tuple delta(self, list given, list taken, uint64_t chain)

    cpdef object reclaim(self)
    cpdef object grow(self, uint64_t n, uint64_t kind)
