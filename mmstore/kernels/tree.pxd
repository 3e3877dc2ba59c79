cimport cython
from libc.stdint cimport int64_t, uint64_t

cimport mmstore.kernels.bucket as bucket
cimport mmstore.kernels.hashing as hashing
cimport mmstore.kernels.native as raw
cimport mmstore.kernels.packed as packed
from mmstore.kernels.space cimport Space

cdef uint64_t PRIVATE, KIND, HEAD, DEPTH, PREFIX, LEVEL, COUNT, NEXT, RUN, RUN_ALIGN
cdef uint64_t LARGE, LARGE_VALUE_SIZE, LARGE_KEY_SIZE, LARGE_PAGE, LARGE_PAGES
cdef uint64_t DIRECTORY_KIND, NODE_KIND, BUCKET_KIND, MASK32, MASK64, MAX_DEPTH
cdef uint64_t LARGE_HEADER, GET, HAS, LOCATE, GROUP, MOST, ABSENT, UNCLEAR

cpdef bytes plain(data)

@cython.locals(x=uint64_t)
cpdef uint64_t slot_of(uint64_t h, uint64_t depth, uint64_t slots) noexcept nogil

@cython.locals(high=uint64_t, low=uint64_t, x=uint64_t, one=uint64_t)
cpdef uint64_t bound_of(uint64_t prefix, uint64_t depth, uint64_t slot, uint64_t slots) noexcept

cdef const unsigned char *paged(Space space, uint64_t ref) noexcept nogil
cdef bint sound(Space space, uint64_t ref, uint64_t kind) noexcept nogil
cdef uint64_t value_at(uint64_t n_key) noexcept


cdef class Tree:
    cdef readonly Space space
    cdef readonly uint64_t page_size, slots, fan_bits
    cdef public uint64_t root, height, depth
    cdef public object load_large

    cdef _shape(self)

    @cython.locals(data=bytes, n=uint64_t, where="const unsigned char *")
    cpdef object get(self, key)

    @cython.locals(data=bytes, n=uint64_t, where="const unsigned char *")
    cpdef bint contains(self, key) except -1

    @cython.locals(data=bytes, n=uint64_t, where="const unsigned char *")
    cpdef object locate(self, key)

    @cython.locals(n=uint64_t, start=uint64_t, size=uint64_t, i=uint64_t, h=uint64_t, ways="uint64_t *", key=bytes, found=list, data=list)
    cpdef list get_many(self, list keys)

    @cython.locals(n=int64_t, width=uint64_t, to="unsigned char *", mark="unsigned char *", keys="const unsigned char *", place="const int64_t *", ways="uint64_t *", start=int64_t, left=int64_t, held="raw.PyThreadState *")
    cpdef object gather(self, data, offsets, out, size, found, bint alone=*)

    @cython.locals(start=int64_t, left=int64_t, count=int64_t, i=int64_t, at=uint64_t, n_key=uint64_t, there=uint64_t)
    cdef int64_t straight(self, const unsigned char *keys, const int64_t *place, int64_t n, unsigned char *to, unsigned char *mark, uint64_t size, uint64_t *ways) noexcept nogil

    @cython.locals(count=int64_t, i=int64_t, k=int64_t, at=uint64_t, n_key=uint64_t, one=uint64_t, key="const unsigned char *", there=bint)
    cdef int64_t closely(self, const unsigned char *keys, const int64_t *place, int64_t start, int64_t n, unsigned char *to, unsigned char *mark, uint64_t size, uint64_t *ways) except -1

    @cython.locals(refs=uint64_t, entries=uint64_t, i=uint64_t, ref=uint64_t, level=uint64_t, at=uint64_t, h=uint64_t, slot=uint64_t, depth=uint64_t, page="const unsigned char *")
    cdef void near(self, uint64_t *ways, uint64_t n, uint64_t need) noexcept nogil

    @cython.locals(page="const unsigned char *", found=uint64_t, header=uint64_t, have=uint64_t, value=bytes)
    cdef bint fetch(self, const unsigned char *key, uint64_t n, uint64_t h, uint64_t ref, int64_t entry, unsigned char *to, uint64_t position, uint64_t size) except -1

    @cython.locals(refs=uint64_t, entries=uint64_t, i=uint64_t, h=uint64_t, slot=uint64_t, page="const unsigned char *")
    cdef int approach(self, uint64_t *ways, uint64_t n) except -1

    cdef uint64_t top(self) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(ref=uint64_t, page="const unsigned char *")
    cdef uint64_t descend(self, uint64_t h) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(ref=uint64_t, index=uint64_t, level=uint64_t, page="const unsigned char *")
    cdef uint64_t node_of(self, uint64_t h) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(depth=uint64_t)
    cdef uint64_t node_depth(self, uint64_t ref, const unsigned char *page, uint64_t h) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(ref=uint64_t)
    cdef object seek(self, const unsigned char *key, uint64_t n, uint64_t h, uint64_t what)

    @cython.locals(size=uint64_t, steps=uint64_t, mark=uint64_t, found=uint64_t, header=uint64_t, at=uint64_t, page="const unsigned char *", where="const unsigned char *", record=bytes)
    cdef object search_chain(self, const unsigned char *key, uint64_t n, uint64_t h, uint64_t ref, uint64_t what, int64_t entry)

    @cython.locals(where="const unsigned char *", page=uint64_t, pages=uint64_t, value_size=uint64_t, room=uint64_t)
    cdef bint same_key(self, bytes record, const unsigned char *key, uint64_t n) except -1

    @cython.locals(size=uint64_t, start=uint64_t, following=uint64_t, ref=uint64_t, node=uint64_t, depth=uint64_t, prefix=uint64_t, slot=uint64_t, right=uint64_t, steps=uint64_t, mark=uint64_t, count=uint64_t, i=uint64_t, at=uint64_t, header=uint64_t, n_value=uint64_t, n_key=uint64_t, page="const unsigned char *", record=bytes, keys=list, values=list)
    cpdef object read(self, uint64_t position)

    @cython.locals(where="const unsigned char *", n=uint64_t)
    cdef bytes large_key(self, bytes record)
