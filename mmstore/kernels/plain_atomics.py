"""What ``atomics`` does where it isn't compiled: by Python's own loads and stores, and a lock as the fence.

An aligned u64 is loaded and stored through a ``"Q"`` memoryview by one machine access.  Acquiring and
releasing a lock orders the accesses around it; on x86, where only a store and a later load can pass each
other, its locked instruction forbids that too.
"""

from __future__ import annotations

from threading import Lock
from typing import Literal

__all__ = [
    "mms_fence",
    "mms_fence_acquire",
    "mms_fetch_add",
    "mms_load",
    "mms_load_u64",
    "mms_store",
    "word",
]

_lock = Lock()


def mms_fence() -> None:
    """A full fence."""
    with _lock:
        pass


def _words(buffer: memoryview, offset: int, size: int, code: Literal["I", "Q"]) -> memoryview:
    if offset < 0 or offset % size or offset + size > len(buffer):
        raise ValueError(f"atomics need an aligned offset inside the buffer: {offset} of {len(buffer)} bytes")
    return buffer[offset : offset + size].cast(code)


def mms_load(buffer: memoryview, offset: int) -> int:
    """The u64, and then a fence."""
    value = _words(buffer, offset, 8, "Q")[0]
    mms_fence()
    return value


def word(words: memoryview) -> memoryview:
    """What ``mms_load_u64`` loads from: the first of these words."""
    return words


def mms_load_u64(words: memoryview) -> int:
    """The u64, loaded by one access."""
    return words[0]


def mms_fence_acquire() -> None:
    """Later loads stay behind earlier ones, as they do in an interpreter anyway."""


def mms_store(buffer: memoryview, offset: int, value: int) -> None:
    """A fence, and then the u64."""
    word = _words(buffer, offset, 8, "Q")
    mms_fence()
    word[0] = value & 0xFFFF_FFFF_FFFF_FFFF


def mms_fetch_add(buffer: memoryview, offset: int, value: int) -> int:
    """Add to the u32; not atomic against other processes, so only for hints."""
    word = _words(buffer, offset, 4, "I")
    with _lock:
        before = word[0]
        word[0] = (before + value) & 0xFFFF_FFFF
    return before
