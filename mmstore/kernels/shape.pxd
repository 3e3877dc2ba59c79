cimport cython
from libc.stdint cimport uint64_t

cimport mmstore.kernels.bucket as bucket
cimport mmstore.kernels.native as raw
from mmstore.kernels.path cimport Path
from mmstore.kernels.space cimport Space
from mmstore.kernels.tree cimport bound_of, slot_of

cdef uint64_t HEAD, DEPTH, PREFIX, COUNT, TOP, NEXT
cdef uint64_t DIRECTORY_KIND, NODE_KIND, BUCKET_KIND, LARGE
cdef uint64_t MAX_DEPTH, LONG_CHAIN, CROWDED, SHARE, SPARSE, MERGED


cdef class Shape(Path):
    cdef uint64_t room, records_size, n_records, total
    cdef uint64_t cut1, cut2
    cdef bint alone
    cdef object weights_view, records_view, other_view
    cdef uint64_t *weights
    cdef uint64_t *records
    cdef uint64_t *other
    cdef object origins_view
    cdef uint64_t *origin
    cdef uint64_t n_sources, origins_size

    cdef int _prepare(self) except -1

    cdef int _grow(self, n) except -1

    @cython.locals(n=uint64_t)
    cdef int _grow_origins(self) except -1

    @cython.locals(page="const unsigned char *", width=uint64_t, left=uint64_t, right=uint64_t, fresh=uint64_t, crowded=bint)
    cdef int make_room(self, uint64_t h, uint64_t need) except -1

    @cython.locals(node=uint64_t, page="unsigned char *", i=uint64_t)
    cdef int plant(self) except -1

    @cython.locals(one=uint64_t)
    cdef bint can_split(self) noexcept

    @cython.locals(n=uint64_t)
    cdef uint64_t chain_length(self, uint64_t ref) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(page="const unsigned char *", before=uint64_t, after=uint64_t, first=uint64_t, last=uint64_t, ref=uint64_t)
    cdef int join_neighbour(self, uint64_t need) except -1

    @cython.locals(page="const unsigned char *")
    cdef uint64_t load_of(self, uint64_t ref) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(space=Space, size=uint64_t, node="const unsigned char *", page="const unsigned char *", slot=uint64_t, n=uint64_t, before=uint64_t, ref=uint64_t, source=uint64_t, count=uint64_t, i=uint64_t, entry=uint64_t, unit=uint64_t, h=uint64_t, at=uint64_t, weight=uint64_t)
    cdef int collect(self, uint64_t start, uint64_t stop) except -1

    cdef int weigh(self, uint64_t h, uint64_t need) except -1

    @cython.locals(k=uint64_t, done=uint64_t, slot=uint64_t, weight=uint64_t)
    cdef bint cut(self, uint64_t parts) noexcept

    @cython.locals(total=uint64_t, slot=uint64_t)
    cdef uint64_t weight(self, uint64_t start, uint64_t stop) noexcept

    @cython.locals(i=uint64_t)
    cdef int spread(self) except -1

    @cython.locals(space=Space, size=uint64_t, following=uint64_t, ref=uint64_t, top=uint64_t, n=uint64_t, k=uint64_t, record=uint64_t, slot=uint64_t, at=uint64_t, need=uint64_t, page="unsigned char *", source="const unsigned char *")
    cdef int fill(self, uint64_t start, uint64_t stop) except -1

    @cython.locals(i=uint64_t)
    cdef int finish(self, unsigned char *page, uint64_t n, uint64_t top, uint64_t following) except -1

    @cython.locals(space=Space, half=uint64_t, page="const unsigned char *", middle=uint64_t, shared=bint, low=uint64_t, high=uint64_t, low_page="unsigned char *", high_page="unsigned char *", i=uint64_t, ref=uint64_t, one=uint64_t, depth=uint64_t, prefix=uint64_t)
    cdef bint split_node(self, uint64_t h) except -1

    @cython.locals(load=uint64_t, left=uint64_t, right=uint64_t, ref=uint64_t, page="const unsigned char *")
    cdef int shrink(self) except -1

    @cython.locals(space=Space, one=uint64_t, depth=uint64_t, bit=uint64_t, sibling=uint64_t, other=uint64_t, i=uint64_t, node=uint64_t, half=uint64_t, low=uint64_t, high=uint64_t, prefix=uint64_t, page="const unsigned char *", fresh="unsigned char *")
    cdef int merge_node(self) except -1

    @cython.locals(steps=uint64_t, i=uint64_t, at=uint64_t, following=uint64_t, page="const unsigned char *")
    cdef int drop_chain(self, uint64_t ref) except -1

    cpdef drop_large(self, bytes record)

    @cython.locals(position=uint64_t, steps=uint64_t, node=uint64_t, depth=uint64_t, before=uint64_t, slot=uint64_t, ref=uint64_t, page="const unsigned char *")
    cdef int drop_all(self) except -1
