"""Files that get their name when they are whole: a store, and its log.

Such a file is made beside its place, under its name with ``-unfinished`` behind it, and moved there in the end; a crash
leaves the one or the other.  Whoever makes it holds the lock byte MAKER of it, and has looked, with the lock, whether
the name still leads to the file.  So one at a time makes a file of that name, and who finds one and gets its lock knows
that its maker died: it may be removed, by nobody but him who has the lock, so never another that took the name
meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from mmstore.disk.backend import Backend, Filesystem
from mmstore.disk.locks import FileLocks
from mmstore.errors import FormatError
from mmstore.format import LOCK_MAKER, NEW_SUFFIX

__all__ = ["leads_to", "making", "remove_left_over", "temporary"]


def temporary(path: str) -> str:
    """What the file at ``path`` is called until it is whole."""
    return path + NEW_SUFFIX


@contextlib.contextmanager
def making(
    fs: Filesystem, path: str, timeout: float, *, mode: int | None = None, owner: tuple[int, int] | None = None
) -> Iterator[Backend]:
    """An empty file under the temporary name of ``path``, open to write; the caller gives it its name.

    What a dead maker left is removed; a living one is waited for up to ``timeout`` seconds (LockTimeout).  If the body
    raises, the file is removed, unless it has its name, and closed; else it stays open, and is the caller's.
    """
    name = temporary(path)
    deadline = time.monotonic() + timeout
    while True:
        _remove(fs, name, deadline)
        try:
            backend = fs.open(name, create=True, exclusive=True, mode=mode, owner=owner)
        except FileExistsError:  # another maker was quicker
            continue
        locks = FileLocks(backend)
        try:
            if locks.try_exclusive(LOCK_MAKER) and leads_to(fs, name, backend):
                break
        except BaseException:
            backend.close()
            raise
        backend.close()  # it was taken for one that a dead maker left
    try:
        yield backend
        locks.unlock(LOCK_MAKER)  # a child forked meanwhile has the open file, too, so closing would not be enough
    except BaseException:
        try:
            if leads_to(fs, name, backend):
                fs.unlink(name)
        finally:
            locks.unlock(LOCK_MAKER)
            backend.close()
        raise


def remove_left_over(fs: Filesystem, path: str) -> None:
    """Remove what a maker of ``path`` left that died, if there is any and it may be removed; waits for nobody."""
    with contextlib.suppress(OSError, FormatError):  # also LockTimeout: it is being made
        _remove(fs, temporary(path), 0)


def _remove(fs: Filesystem, name: str, deadline: float) -> None:
    if not fs.exists(name):
        return
    try:
        backend = fs.open(name)
    except FileNotFoundError:  # it has its name by now
        return
    try:
        locks = FileLocks(backend)
        locks.acquire_exclusive(LOCK_MAKER, deadline, "another process to make this file")
        if leads_to(fs, name, backend):
            fs.unlink(name)
        locks.unlock(LOCK_MAKER)
    finally:
        backend.close()


def leads_to(fs: Filesystem, name: str, backend: Backend) -> bool:
    """Whether the name is that of the open file ``backend``."""
    return fs.identity(name) == backend.identity()
