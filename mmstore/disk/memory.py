"""The backend for ``:memory:``: files without a name on any disk.

On Linux a memfd, elsewhere an unlinked temporary file: either way a real descriptor, so mappings and
locks work as on disk, a forked child shares it, and ``MemoryFilesystem.adopt`` takes a descriptor
that was passed to a spawned one.  Nothing is durable, so syncing is nothing.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading

from mmstore.disk.posix import PosixBackend


def _anonymous_file() -> int:
    """A descriptor of a new empty file that has no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mmstore", os.MFD_CLOEXEC)
    fd, path = tempfile.mkstemp(prefix="mmstore-")
    os.unlink(path)
    return fd


_lock = threading.Lock()  # over the names of every MemoryFilesystem


def _forked() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it when the process forked


os.register_at_fork(after_in_child=_forked)


class MemoryBackend(PosixBackend):
    """One open file in memory."""

    def write_back(self, off: int, n: int) -> None:
        pass

    def start_writing(self, off: int, n: int) -> None:
        pass

    def sync_range(self, off: int, n: int) -> None:
        pass

    def sync_data(self) -> None:
        pass

    def sync_all(self) -> None:
        pass

    def reopen(self) -> MemoryBackend:
        try:
            fd = os.open(f"/proc/self/fd/{self.fileno()}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # no /proc: a duplicate, whose locks are the original's
            fd = os.dup(self.fileno())
        return type(self)(fd, self.name, self.writable)


class MemoryFilesystem:
    """Names of files in memory; they live as long as this object or a backend of theirs."""

    def __init__(self) -> None:
        self._files: dict[str, MemoryBackend] = {}

    def adopt(self, path: str, fd: int) -> None:
        """Give a file that another process made, passed as descriptor, a name here; takes ``fd`` over."""
        with _lock:
            self._files[path] = MemoryBackend(fd, path, True)

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        exclusive: bool = False,
        write: bool = True,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
    ) -> MemoryBackend:
        with _lock:
            file = self._files.get(path)
            if file is None:
                if not create:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                file = self._files[path] = MemoryBackend(_anonymous_file(), path, True)
            elif exclusive:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            again = file.reopen()
        again.writable = write
        return again

    def exists(self, path: str) -> bool:
        return path in self._files

    def identity(self, path: str) -> tuple[int, int] | None:
        file = self._files.get(path)
        return None if file is None else file.identity()

    def unlink(self, path: str) -> None:
        with _lock:
            if path not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._files.pop(path).close()

    def rename(self, source: str, target: str) -> None:
        with _lock:
            if source not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
            replaced = self._files.get(target)
            self._files[target] = self._files.pop(source)
            if replaced is not None:
                replaced.close()

    def link_exclusive(self, source: str, target: str) -> None:
        if target in self._files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self.rename(source, target)

    def sync_dir(self, path: str) -> None:
        pass

    def realpath(self, path: str) -> str:
        return path

    def network(self, path: str) -> str | None:
        return None

    def close(self) -> None:
        """Forget all names."""
        with _lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
