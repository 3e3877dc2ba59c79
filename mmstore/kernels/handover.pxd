# The C callbacks are in handover.h; see handover.py.

from libc.stdint cimport int64_t, uint64_t

cdef extern from "handover.h":
    object mms_capsule(int kind, uint64_t at, object owner, int64_t live)
    void mms_move(int kind, uint64_t at, object owner, int64_t live, uint64_t out) noexcept
    uint64_t mms_callback(int which) noexcept
    void mms_leave() noexcept
    void mms_forked() noexcept
