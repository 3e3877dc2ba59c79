"""The backend for real files on POSIX systems.

Syncing on Linux is ``fdatasync``, ``fsync`` and ``msync``; on macOS all three leave the bytes in the
drive's cache, so there it is ``F_FULLFSYNC``.  A range is synced through a short-lived mapping of it:
``fdatasync`` would also wait for pages that a running transaction has placed meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Final, NoReturn

from mmstore.disk import libc
from mmstore.disk.backend import Buffer, nbytes
from mmstore.errors import DiskFullError, FormatError

if sys.platform == "win32":
    raise ImportError("mmstore needs a POSIX system (Linux or macOS): memory mapping and byte-range locks")

import fcntl

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NETWORK: Final = {  # by the magic number that statfs tells
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x5346414F: "AFS",
    0x73757245: "Coda",
    0x00C36400: "Ceph",
    0x01021997: "9P",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
}
_FULLFSYNC: Final = getattr(fcntl, "F_FULLFSYNC", None)


def raise_full(error: OSError, name: str, wanted: str) -> NoReturn:
    """Pass the error on, as DiskFullError if it says that there is no room."""
    if error.errno in _FULL:
        why = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the file would exceed the largest size allowed (file system or RLIMIT_FSIZE)",
        }[error.errno or errno.ENOSPC]
        text = f"{wanted}: {why}; nothing was changed, make room and try again"
        raise DiskFullError(error.errno, text, name) from error
    raise error


class PosixBackend:
    """One open file, by its descriptor."""

    def __init__(self, fd: int, name: str, writable: bool) -> None:
        self.name = name
        self.writable = writable
        self._fd = fd
        self._identity: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} fd {self._fd}>"

    def fileno(self) -> int:
        if self._fd < 0:
            raise ValueError(f"{self.name!r} is closed")
        return self._fd

    def identity(self) -> tuple[int, int]:
        if self._identity is None:
            status = os.fstat(self._fd)
            self._identity = (status.st_dev, status.st_ino)
        return self._identity

    def mode(self) -> int:
        return stat.S_IMODE(os.fstat(self._fd).st_mode)

    def owner(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_uid, status.st_gid

    def links(self) -> int:
        return os.fstat(self._fd).st_nlink

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    # --- bytes ---

    def pread(self, n: int, off: int) -> bytes:
        data = os.pread(self._fd, n, off)
        if len(data) == n or not data:
            return data
        pieces = [data]
        missing = n - len(data)
        while missing and pieces[-1]:
            pieces.append(os.pread(self._fd, missing, off + n - missing))
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def pwrite(self, data: Buffer, off: int) -> None:
        try:
            done = os.pwrite(self._fd, data, off)
            if done == nbytes(data):
                return
            rest = memoryview(data).cast("B")
            while done < rest.nbytes:
                done += os.pwrite(self._fd, rest[done:], off + done)
        except OSError as error:
            raise_full(error, self.name, "writing")

    def write_back(self, off: int, n: int) -> None:
        if n > 0 and not libc.write_range(self._fd, off, n):
            self.sync_range(off, n)

    def start_writing(self, off: int, n: int) -> None:
        libc.start_range(self._fd, off, n)

    # --- durability ---

    def sync_range(self, off: int, n: int) -> None:
        if _FULLFSYNC is not None or n <= 0:
            self.sync_data()
            return
        start = off - off % libc.PAGE
        length = off + n - start
        try:
            address = libc.map_memory(None, length, libc.PROT_READ, libc.MAP_SHARED, self._fd, start)
        except OSError:  # no addresses left (RLIMIT_AS): the whole file does as well
            os.fdatasync(self._fd)
            return
        try:
            libc.sync_mapping(address, length)
        finally:
            libc.unmap(address, length)

    def sync_data(self) -> None:
        if _FULLFSYNC is not None:
            fcntl.fcntl(self._fd, _FULLFSYNC)
        else:
            os.fdatasync(self._fd)

    def sync_all(self) -> None:
        if _FULLFSYNC is not None:
            fcntl.fcntl(self._fd, _FULLFSYNC)
        else:
            os.fsync(self._fd)

    # --- size ---

    def allocate(self, off: int, n: int) -> None:
        try:
            if not libc.allocate(self._fd, off, n) and self.size() < off + n:
                os.ftruncate(self._fd, off + n)
        except OSError as error:
            raise_full(error, self.name, f"growing the file to {off + n} bytes")

    def truncate(self, n: int) -> None:
        try:
            os.ftruncate(self._fd, n)
        except OSError as error:
            raise_full(error, self.name, f"setting the file's size to {n} bytes")

    # --- life ---

    def reopen(self) -> PosixBackend:
        flags = (os.O_RDWR if self.writable else os.O_RDONLY) | os.O_CLOEXEC
        try:
            fd = os.open(f"/proc/self/fd/{self.fileno()}", flags)
        except FileNotFoundError:  # no /proc: by name, if that still is the file
            fd = os.open(self.name, flags)
        again = type(self)(fd, self.name, self.writable)
        if again.identity() != self.identity():
            again.close()
            raise FileNotFoundError(errno.ENOENT, "another file has this name now; open it anew", self.name)
        return again

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        # A handle that was closed while views were alive left the file open for their pins.
        if self.__dict__.get("_fd", -1) >= 0:
            self.close()


class PosixFilesystem:
    """Names of real files."""

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        exclusive: bool = False,
        write: bool = True,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
    ) -> PosixBackend:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
        made = False
        try:  # a FIFO or a device would hang or obey: O_NONBLOCK until we know that it is a file
            fd = -1 if exclusive else os.open(path, flags | os.O_NONBLOCK)
        except FileNotFoundError:
            if not create:
                raise
            fd = -1
        if fd < 0:
            try:
                fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
                made = True
            except FileExistsError:  # made by somebody else this moment
                if exclusive:
                    raise
                fd = os.open(path, flags | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FormatError(f"{path!r} is not a regular file; a store needs one")
            if made and owner is not None and os.geteuid() == 0:
                os.fchown(fd, *owner)
            if made and mode is not None:
                os.fchmod(fd, mode)
        except BaseException:
            os.close(fd)
            raise
        return PosixBackend(fd, path, write)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def identity(self, path: str) -> tuple[int, int] | None:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def link_exclusive(self, source: str, target: str) -> None:
        if not libc.rename_exclusive(source, target):
            os.link(source, target)
            os.unlink(source)

    def sync_dir(self, path: str) -> None:
        fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def realpath(self, path: str) -> str:
        return os.path.realpath(path)

    def network(self, path: str) -> str | None:
        return _NETWORK.get(libc.filesystem_type(path))
