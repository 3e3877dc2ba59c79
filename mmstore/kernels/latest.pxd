cimport cython
from libc.stdint cimport uint64_t

cimport mmstore.kernels.atomics as atomics
from mmstore.kernels.tree cimport Tree, plain

cdef Py_ssize_t MAX_KEY


cdef class Latest:
    cdef object __weakref__
    cdef uint64_t grace
    cdef public uint64_t txn
    cdef public Tree tree
    cdef public object refresh, otherwise
    cdef object word_view
    cdef const uint64_t *word

    cpdef bind(self, word)

    cpdef object get(self, key, default=*)
    cpdef bint contains(self, key) except -1

    @cython.locals(txn=uint64_t, tree=Tree, data=bytes)
    cdef object look(self, key, bint whole)
