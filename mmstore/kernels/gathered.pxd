cimport cython

cdef Py_ssize_t SMALL, OVERHEAD


cdef class Gathered:
    cdef readonly object name
    cdef readonly list records
    cdef Py_ssize_t room

    cpdef start(self, name, Py_ssize_t room)

    @cython.locals(size=cython.Py_ssize_t)
    cpdef bint take(self, name, key, value) except -1
