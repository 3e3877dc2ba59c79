"""Loads and stores of shared words in the order that other processes must see them.

The live page and the reader slots are memory that several processes map: a writer publishes a root by
one release-store, a reader finds it by one acquire-load, and whoever pins announces it before he
looks.  What each gives:

- ``load_acquire(buffer, offset)``: the u64; nothing that follows is done before it
- ``store_release(buffer, offset, value)``: the u64; everything before is visible to whoever sees it
- ``fence()``: nothing passes it in either direction, not even a load an earlier store
- ``fetch_add32(buffer, offset, value)``: adds to the u32, returns what was there

Compiled they are the compiler's atomics, declared in ``atomics.pxd``, where other kernels ``cimport`` the
ones on plain pointers.  That can't be said in Python, so the uncompiled versions have a module of their
own.  Buffers are byte views of mapped memory; offsets are multiples of the word's size.
"""

# ruff: noqa: F405 - the mms_ functions come from the .pxd, or from the star import at the end

from __future__ import annotations

from types import FunctionType

__all__ = ["fence", "fetch_add32", "load_acquire", "store_release"]


def load_acquire(buffer: memoryview, offset: int) -> int:
    """The u64 at ``offset``; later accesses stay behind it."""
    return mms_load(buffer, offset)


def store_release(buffer: memoryview, offset: int, value: int) -> None:
    """Store the u64 at ``offset``; earlier accesses stay before it."""
    mms_store(buffer, offset, value)


def fence() -> None:
    """A full fence, sequentially consistent."""
    mms_fence()


def fetch_add32(buffer: memoryview, offset: int, value: int) -> int:
    """Add ``value`` to the u32 at ``offset``, wrapping; returns what it was before."""
    return mms_fetch_add(buffer, offset, value)


if isinstance(fence, FunctionType):  # not compiled: what the .pxd declares is missing
    from mmstore.kernels.plain_atomics import *  # noqa: F403 - C names can't be assigned one by one
