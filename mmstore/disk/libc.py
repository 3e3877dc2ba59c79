"""The system calls that Python's standard library lacks, called through ctypes.

Mapping at a fixed address, syncing a part of a mapping, raw ``fallocate`` (``posix_fallocate`` is emulated
by glibc with writes where the file system can't), holes, and futexes in shared memory.  Each raises
``OSError`` with the errno; those that a signal can interrupt are asked again.  Only the disk layer
may import this.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import sys
import time
from typing import Any, Final

PAGE: Final = mmap.PAGESIZE

LINUX: Final = sys.platform == "linux"
DARWIN: Final = sys.platform == "darwin"

PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2
MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20 if LINUX else 0x1000
MAP_NORESERVE: Final = 0x4000 if LINUX else 0x40

ADVICE_NORMAL: Final = 0
ADVICE_RANDOM: Final = 1
ADVICE_SEQUENTIAL: Final = 2
ADVICE_WILLNEED: Final = 3
ADVICE_DONTNEED: Final = 4

_MS_SYNC: Final = 4 if LINUX else 0x10
_RENAME_NOREPLACE: Final = 1
_RANGE_WRITE: Final = 2
_RANGE_WAIT_WRITE_WAIT: Final = 1 | 2 | 4
_FUTEX_WAIT: Final = 0
_FUTEX_WAKE: Final = 1
_SYS_FUTEX: Final = {
    "x86_64": 202,
    "aarch64": 98,
    "riscv64": 98,
    "loongarch64": 98,
    "ppc64le": 221,
    "ppc64": 221,
    "s390x": 238,
}.get(platform.machine(), 0)
FUTEX: Final = LINUX and _SYS_FUTEX != 0

_libc = ctypes.CDLL(None, use_errno=True)
_pointer, _size, _offset = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """The C function, or None where the system lacks it."""
    function = getattr(_libc, name, None)
    if function is not None:
        function.restype, function.argtypes = result, arguments
    return function


_mmap = _function("mmap", _pointer, _pointer, _size, ctypes.c_int, ctypes.c_int, ctypes.c_int, _offset)
_munmap = _function("munmap", ctypes.c_int, _pointer, _size)
_msync = _function("msync", ctypes.c_int, _pointer, _size, ctypes.c_int)
_madvise = _function("madvise", ctypes.c_int, _pointer, _size, ctypes.c_int)
_mincore = _function("mincore", ctypes.c_int, _pointer, _size, ctypes.c_char_p)
_fallocate = _function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int, _offset, _offset)
_sync_file_range = _function("sync_file_range", ctypes.c_int, ctypes.c_int, _offset, _offset, ctypes.c_uint)
_renameat2 = _function(
    "renameat2", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)
_statfs = _function("statfs", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


def _error(call: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call}: {os.strerror(code)}")


# --- mappings ----------------------------------------------------------------------------------------


def map_memory(address: int | None, n: int, protection: int, flags: int, fd: int = -1, off: int = 0) -> int:
    """mmap: the address of ``n`` new bytes.  With MAP_FIXED whatever was mapped there is replaced atomically."""
    found = _mmap(address, n, protection, flags, fd, off)
    if found == _MAP_FAILED:
        raise _error(f"mmap of {n} bytes")
    return int(found)


def unmap(address: int, n: int) -> None:
    """munmap."""
    if _munmap(address, n) != 0:
        raise _error(f"munmap of {n} bytes")


def sync_mapping(address: int, n: int) -> None:
    """msync(MS_SYNC): the mapped bytes are durable afterwards (MS_ASYNC does nothing on Linux)."""
    while _msync(address, n, _MS_SYNC) != 0:
        if ctypes.get_errno() != errno.EINTR:
            raise _error(f"msync of {n} bytes")


def advise(address: int, n: int, advice: int) -> None:
    """madvise; a hint, so a system that doesn't know it is none the worse."""
    if _madvise(address, n, advice) != 0 and ctypes.get_errno() not in UNSUPPORTED:
        raise _error(f"madvise of {n} bytes")


def resident_pages(address: int, n: int) -> int:
    """How many of the system pages of [address, address + n) are in memory; ``address`` on a page."""
    step = PAGE << 18
    found = 0
    for start in range(0, n, step):
        length = min(step, n - start)
        vector = ctypes.create_string_buffer((length + PAGE - 1) // PAGE)
        if _mincore(address + start, length, vector) != 0:
            raise _error(f"mincore of {length} bytes")
        found += sum(byte & 1 for byte in vector.raw)
    return found


# --- files -------------------------------------------------------------------------------------------


def allocate(fd: int, off: int, n: int) -> bool:
    """fallocate: room for [off, off + n), growing the file; False where the file system can't."""
    if _fallocate is None:
        return False
    while _fallocate(fd, 0, off, n) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        if code != errno.EINTR:
            raise _error(f"fallocate of {n} bytes")
    return True


def write_range(fd: int, off: int, n: int) -> bool:
    """sync_file_range: write the dirty pages of [off, off + n) and wait; False where there is no such call."""
    if _sync_file_range is None:
        return False
    while _sync_file_range(fd, off, n, _RANGE_WAIT_WRITE_WAIT) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.ESPIPE):
            return False
        if code != errno.EINTR:
            raise _error(f"sync_file_range of {n} bytes")
    return True


def start_range(fd: int, off: int, n: int) -> None:
    """sync_file_range: begin to write the dirty pages of [off, off + n); a hint, its failures show at the next sync."""
    if _sync_file_range is not None:
        _sync_file_range(fd, off, n, _RANGE_WRITE)


def rename_exclusive(source: str, target: str) -> bool:
    """renameat2(RENAME_NOREPLACE); False where the system or the file system can't."""
    if _renameat2 is None:
        return False
    here = -100  # AT_FDCWD
    if _renameat2(here, os.fsencode(source), here, os.fsencode(target), _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), source, None, target)


def filesystem_type(path: str) -> int:
    """The magic number of the file system that holds ``path``; 0 where there is no telling."""
    if not LINUX or _statfs is None:
        return 0
    answer = ctypes.create_string_buffer(1024)
    if _statfs(os.fsencode(path), answer) != 0:
        raise _error(f"statfs of {path!r}")
    return int.from_bytes(answer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFF_FFFF  # f_type comes first


# --- buffers and futexes -----------------------------------------------------------------------------


class _PyBuffer(ctypes.Structure):
    """Py_buffer: part of Python's stable ABI."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_release_buffer.restype = None


def address_of(view: memoryview) -> int:
    """Where the view's bytes lie; holds as long as the view lives."""
    buffer = _PyBuffer()
    _get_buffer(view, ctypes.byref(buffer), 0)
    try:
        return int(buffer.buf or 0)
    finally:
        _release_buffer(ctypes.byref(buffer))


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


_syscall = _function("syscall", ctypes.c_long)
if _syscall is not None:
    _syscall.argtypes = None
_NAP: Final = 0.001  # seconds between two looks where there are no futexes


def futex_wait(view: memoryview, off: int, expected: int, timeout: float | None) -> bool:
    """Sleep while the u32 at ``off`` is ``expected``; False after ``timeout`` seconds.

    May return True for no reason: look at what you wait for, and wait again.  Other processes wake
    the sleepers through the same file.
    """
    word = view[off : off + 4]
    deadline = None if timeout is None else time.monotonic() + timeout
    if not FUTEX:
        while int.from_bytes(word, sys.byteorder) == expected:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_NAP)
        return True
    limit = None
    if timeout is not None:
        whole = int(max(timeout, 0.0))
        limit = ctypes.byref(_Timespec(whole, int((max(timeout, 0.0) - whole) * 1e9)))
    result = _syscall(
        ctypes.c_long(_SYS_FUTEX),
        ctypes.c_void_p(address_of(word)),
        ctypes.c_int(_FUTEX_WAIT),
        ctypes.c_uint32(expected),
        limit,
        None,
        ctypes.c_int(0),
    )
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.ETIMEDOUT:
        return False
    if code in (errno.EAGAIN, errno.EINTR):
        return True
    raise _error("futex wait")


def futex_wake(view: memoryview, off: int, count: int = 0x7FFF_FFFF) -> int:
    """Wake up to ``count`` sleepers on the u32 at ``off``, in all processes; returns how many."""
    if not FUTEX:
        return 0
    word = view[off : off + 4]
    result = _syscall(
        ctypes.c_long(_SYS_FUTEX),
        ctypes.c_void_p(address_of(word)),
        ctypes.c_int(_FUTEX_WAKE),
        ctypes.c_int(count),
        None,
        None,
        ctypes.c_int(0),
    )
    if result < 0:
        raise _error("futex wake")
    return int(result)
