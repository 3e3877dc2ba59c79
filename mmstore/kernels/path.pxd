cimport cython
from libc.stdint cimport uint64_t

cimport mmstore.kernels.native as raw
from mmstore.kernels.space cimport Space
from mmstore.kernels.tree cimport Tree, slot_of

cdef uint64_t HEAD, LEVEL, NEXT, DIRECTORY_KIND, NODE_KIND, BUCKET_KIND


cdef class Path(Tree):
    cdef public uint64_t nodes, pages, count, size
    cdef uint64_t node, node_d, prefix, slot, head, left, right

    @cython.locals(page="const unsigned char *")
    cdef int aim(self, uint64_t h) except -1

    @cython.locals(page="const unsigned char *")
    cdef int run(self) except -1

    cdef int own_head(self) except -1

    @cython.locals(at=uint64_t, following=uint64_t, page="unsigned char *")
    cdef uint64_t own_chained(self, uint64_t ref) except 0

    cdef int own_node(self) except -1

    @cython.locals(ref=uint64_t, level=uint64_t, at=uint64_t, page="unsigned char *")
    cdef unsigned char *own_directory(self, uint64_t index) except NULL

    @cython.locals(page="unsigned char *", i=uint64_t)
    cdef int assign_slots(self, uint64_t start, uint64_t stop, uint64_t ref) except -1

    @cython.locals(one=uint64_t, index=uint64_t, count=uint64_t, fan=uint64_t, first=uint64_t, n=uint64_t, i=uint64_t, page="unsigned char *")
    cdef int assign_entries(self, uint64_t prefix, uint64_t depth, uint64_t ref) except -1

    cdef int double(self) except -1

    @cython.locals(one=uint64_t, fan=uint64_t, index=uint64_t, count=uint64_t, ref=uint64_t, level=cython.int, i=uint64_t, page="const unsigned char *")
    cdef object entries(self)

    @cython.locals(ref=uint64_t, page="unsigned char *")
    cdef int plant_directory(self, entries) except -1

    @cython.locals(one=uint64_t, i=uint64_t, page="const unsigned char *")
    cdef int drop_directory(self, uint64_t ref, uint64_t level) except -1

    @cython.locals(one=uint64_t)
    cdef int halve(self) except -1
