"""A simulated disk that loses what was not synced: the crash tests run the whole engine on it.

Files are memfds, so mappings and OFD locks are the real ones; what the disk would have after a power cut
is kept beside them.  The model is architecture.md's "Assumptions about the medium":

- a write is a set of 512-byte sectors; until synced, each may be on the disk in its old version, or in
  any version it had since; a sector may be torn at any byte
- a size is durable after ``sync_all`` only; bytes behind the durable size are lost with it
- a name is made, moved or removed durably only by ``sync_dir``; of the changes since, any subset happened
- stores to the live page may be on the disk or not, whatever is synced

Every write, sync, change of size or name is one *step*.  A crash is planned for the k-th step of a
``SimFilesystem``: it raises ``SimCrash`` instead (or does a part of a write first), and everything after
it does so, too, reads included: the process is dead.  ``crash_images`` then gives disks as a restarted
machine could find them.

::

    fs = SimFilesystem()
    run(fs); steps = fs.steps                        # how many there are
    for k in range(steps):
        fs = SimFilesystem(); fs.crash_at = k
        with suppress(SimCrash): run(fs)
        for image in fs.crash_images(rng, 5): check(image)

Several processes on one machine: ``other = fs.spawn()`` sees the same disk and has steps of its own;
``other.kill()`` is a killed process: its locks vanish, its writes stay.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar, cast

from mmstore.errors import DiskFullError
from mmstore.format import LIVE_AT, LIVE_SIZE, MAGIC, SECTOR

_PAGE = 4096  # unit of the books, not of the store
_ZERO = bytes(_PAGE)
_LIVE_PAGES = range(LIVE_AT // _PAGE, (LIVE_AT + LIVE_SIZE) // _PAGE)

Versions = list[bytes]


class SimCrash(BaseException):
    """The power went off.  Not an Exception, so that no handler takes it for an error it can deal with."""


@dataclass
class _File:
    """One inode: a memfd with what everyone sees now, and the books on what is durable."""

    fd: int
    mode: int = 0o644
    pages: dict[int, bytes] = field(default_factory=dict)
    """Durable content; a page that is missing is zero."""
    pending: dict[int, dict[int, Versions]] = field(default_factory=dict)
    """page -> sector in it -> its versions since it was durable, the newest last."""
    sizes: list[int] = field(default_factory=lambda: [0])
    """The durable size, then those since."""

    def __del__(self) -> None:
        os.close(self.fd)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def current(self, page: int) -> bytes:
        return os.pread(self.fd, _PAGE, page * _PAGE).ljust(_PAGE, b"\0")

    def has_live_page(self) -> bool:
        return self.size() >= LIVE_AT + LIVE_SIZE and os.pread(self.fd, len(MAGIC), 0) == MAGIC

    def changed(self, off: int, n: int) -> None:
        """Enter in the books what [off, off + n) is now."""
        first, last = off // _PAGE, -(-(off + n) // _PAGE)
        now = os.pread(self.fd, (last - first) * _PAGE, first * _PAGE).ljust((last - first) * _PAGE, b"\0")
        for page in range(first, last):
            new = now[(page - first) * _PAGE : (page - first + 1) * _PAGE]
            old = self.pages.get(page, _ZERO)
            sectors = self.pending.get(page)
            if sectors is None:
                if new == old:
                    continue
                sectors = self.pending[page] = {}
            low = max(off - page * _PAGE, 0) // SECTOR
            high = -(-min(off + n - page * _PAGE, _PAGE) // SECTOR)
            for sector in range(low, high):
                piece = new[sector * SECTOR : (sector + 1) * SECTOR]
                versions = sectors.get(sector)
                if piece != (versions[-1] if versions else old[sector * SECTOR : (sector + 1) * SECTOR]):
                    sectors.setdefault(sector, []).append(piece)

    def resized(self, before: int) -> None:
        """Enter a new size; what growth added reads as 0."""
        size = self.size()
        self.sizes.append(size)
        if size > before:
            self.changed(before, size - before)

    def sync(self, off: int, n: int) -> None:
        """The bytes of [off, off + n) are durable as they are now."""
        first, last = off // _PAGE, -(-(off + n) // _PAGE)
        low, high = off // SECTOR, -(-(off + n) // SECTOR)
        for page in [page for page in self.pending if first <= page < last]:
            sectors = self.pending[page]
            content = bytearray(self.pages.get(page, _ZERO))
            for sector in [s for s in sectors if low <= page * _PAGE // SECTOR + s < high]:
                content[sector * SECTOR : (sector + 1) * SECTOR] = sectors.pop(sector)[-1]
            self.pages[page] = bytes(content)
            if not sectors:
                del self.pending[page]
        if first <= _LIVE_PAGES.start < last and self.has_live_page():
            for page in _LIVE_PAGES:
                self.pages[page] = self.current(page)

    def sync_size(self) -> None:
        size = self.size()
        self.sizes = [size]
        for page in [page for page in self.pages if page * _PAGE >= size]:
            del self.pages[page]

    def image(self, rng: random.Random, share: float) -> _File:
        """The file as a restarted machine finds it; ``share`` of the unsynced sectors were written."""
        pages = dict(self.pages)
        for page, sectors in self.pending.items():
            content = bytearray(pages.get(page, _ZERO))
            for sector, versions in sectors.items():
                if rng.random() < share:
                    new = versions[-1] if share == 1 or rng.random() < 0.7 else rng.choice(versions)
                    torn = 0 if share == 1 or rng.random() < 0.9 else rng.randrange(SECTOR)
                    content[sector * SECTOR + torn : (sector + 1) * SECTOR] = new[torn:]
            pages[page] = bytes(content)
        if self.has_live_page():
            for page in _LIVE_PAGES:
                if rng.random() < share:
                    pages[page] = self.current(page)
        size = self.sizes[-1] if share == 1 else self.sizes[0] if share == 0 else rng.choice(self.sizes)
        return _build(pages, size, self.mode)


def _build(pages: dict[int, bytes], size: int, mode: int) -> _File:
    """A file of its own with this content, all of it durable."""
    file = _File(os.memfd_create("sim", os.MFD_CLOEXEC), mode)
    os.ftruncate(file.fd, size)
    run: list[bytes] = []
    start = 0
    for page in sorted(pages):
        content = pages[page]
        if page * _PAGE >= size or content == _ZERO:
            continue
        if (page + 1) * _PAGE > size:
            content = content[: size - page * _PAGE].ljust(_PAGE, b"\0")
        file.pages[page] = content
        if page != start + len(run):
            os.pwrite(file.fd, b"".join(run), start * _PAGE)
            run, start = [], page
        run.append(content)
    os.pwrite(file.fd, b"".join(run), start * _PAGE)
    os.ftruncate(file.fd, size)
    file.sizes = [size]
    return file


class _Disk:
    """The medium that all processes share: inodes, names, and the changes of names not yet durable."""

    def __init__(self) -> None:
        self.names: dict[str, _File] = {}
        self.durable: dict[str, _File] = {}
        self.pending: list[tuple[str, dict[str, _File | None]]] = []
        """(folder, what each name leads to afterwards): a rename is one change of two names."""
        self.lock = threading.RLock()
        self.capacity: int | None = None
        """Bytes that all files together may have; None: no end."""

    def rename(self, folder: str, change: dict[str, _File | None]) -> None:
        _apply(self.names, change)
        self.pending.append((folder, change))

    def sync_folder(self, folder: str) -> None:
        for where, change in self.pending:
            if where == folder:
                _apply(self.durable, change)
        self.pending = [(where, change) for where, change in self.pending if where != folder]

    def image(self, rng: random.Random, share: float) -> _Disk:
        names = dict(self.durable)
        for _, change in self.pending:
            if rng.random() < share:
                _apply(names, change)
        built = {id(file): file.image(rng, share) for file in names.values()}
        disk = _Disk()
        disk.names = {name: built[id(file)] for name, file in names.items()}
        disk.durable = dict(disk.names)
        disk.capacity = self.capacity
        return disk


def _apply(names: dict[str, _File], change: dict[str, _File | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


F = TypeVar("F", bound=Callable[..., Any])


def _alone(method: F) -> F:
    """Steps of several threads happen one after the other."""

    @wraps(method)
    def step(self: SimFilesystem | SimBackend, *arguments: Any, **options: Any) -> Any:
        with self.disk.lock:
            return method(self, *arguments, **options)

    return cast(F, step)


Hook = Callable[[str, str, int, int], None]


class SimFilesystem:
    """One process's view of a simulated disk; implements ``mmstore.disk.backend.Filesystem``.

    ``steps``      writes, syncs and changes of sizes and names so far
    ``crash_at``   the step that is not done any more; None: none
    ``torn``       if given, a write at that step is done in part, at random
    ``frozen``     it has crashed
    ``hook``       called before each step with (operation, name, offset, n); may raise OSError
    ``counts``     operations, and "bytes written"
    ``trace``      the steps' (operation, name)
    """

    def __init__(self, disk: _Disk | None = None) -> None:
        self.disk = disk or _Disk()
        self.steps = 0
        self.crash_at: int | None = None
        self.torn: random.Random | None = None
        self.frozen = False
        self.hook: Hook | None = None
        self.counts: Counter[str] = Counter()
        self.trace: list[tuple[str, str]] = []
        self._open: weakref.WeakSet[SimBackend] = weakref.WeakSet()

    # --- crashes ---

    def alive(self) -> None:
        """Raise SimCrash if this process is dead."""
        if self.frozen:
            raise SimCrash("a dead process goes on")

    def step(self, operation: str, name: str, off: int = 0, n: int = 0) -> bool:
        """Account for a step; False: do only a part of it, and crash then."""
        self.alive()
        if self.steps == self.crash_at:
            self.frozen = True
            if self.torn is not None and operation == "pwrite":
                return False
            raise SimCrash(f"step {self.steps}: {operation} {name}")
        if self.hook is not None:
            self.hook(operation, name, off, n)
        self.steps += 1
        self.counts[operation] += 1
        self.trace.append((operation, name))
        return True

    def spawn(self) -> SimFilesystem:
        """Another process on the same machine."""
        return SimFilesystem(self.disk)

    def kill(self) -> None:
        """End this process as SIGKILL does: what it wrote stays, its descriptors and locks don't."""
        self.frozen = True
        for backend in list(self._open):
            backend.close()

    @_alone
    def crash_images(self, rng: random.Random, n: int) -> list[SimFilesystem]:
        """``n`` disks as a machine could find them after a power cut now: nothing unsynced, all of it, and parts."""
        shares = [0.0, 1.0] + [rng.choice((0.1, 0.5, 0.5, 0.9)) for _ in range(n - 2)]
        return [SimFilesystem(self.disk.image(rng, share)) for share in shares[:n]]

    # --- names ---

    @_alone
    def open(
        self,
        path: str,
        *,
        create: bool = False,
        exclusive: bool = False,
        write: bool = True,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
    ) -> SimBackend:
        self.alive()
        file = self.disk.names.get(path)
        if file is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self.step("create", path)
            file = _File(os.memfd_create("sim", os.MFD_CLOEXEC), 0o644 if mode is None else mode)
            self.disk.rename(os.path.dirname(path), {path: file})
        elif exclusive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        return SimBackend(self, file, path, write)

    def exists(self, path: str) -> bool:
        self.alive()
        return path in self.disk.names

    def identity(self, path: str) -> tuple[int, int] | None:
        self.alive()
        file = self.disk.names.get(path)
        return None if file is None else _identity(file.fd)

    @_alone
    def unlink(self, path: str) -> None:
        self._existing(path)
        self.step("unlink", path)
        self.disk.rename(os.path.dirname(path), {path: None})

    @_alone
    def rename(self, source: str, target: str) -> None:
        file = self._existing(source)
        self.step("rename", target)
        self.disk.rename(os.path.dirname(target), {source: None, target: file})

    @_alone
    def link_exclusive(self, source: str, target: str) -> None:
        file = self._existing(source)
        if target in self.disk.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self.step("rename", target)
        self.disk.rename(os.path.dirname(target), {source: None, target: file})

    @_alone
    def sync_dir(self, path: str) -> None:
        self.step("sync_dir", path)
        self.disk.sync_folder(os.path.dirname(path))

    def realpath(self, path: str) -> str:
        self.alive()
        return path

    def network(self, path: str) -> str | None:
        return None

    def _existing(self, path: str) -> _File:
        self.alive()
        file = self.disk.names.get(path)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return file


class SimBackend:
    """One open file on a simulated disk; implements ``mmstore.disk.backend.Backend``."""

    def __init__(self, fs: SimFilesystem, file: _File, name: str, writable: bool) -> None:
        self.name = name
        self.writable = writable
        self.disk = fs.disk
        self._fs = fs
        self._file = file
        self._fd = os.open(f"/proc/self/fd/{file.fd}", (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        fs._open.add(self)

    def fileno(self) -> int:
        return self._fd

    def identity(self) -> tuple[int, int]:
        return _identity(self._file.fd)

    def mode(self) -> int:
        return self._file.mode

    def owner(self) -> tuple[int, int]:
        return os.geteuid(), os.getegid()

    def links(self) -> int:
        return 1

    def size(self) -> int:
        self._fs.alive()
        return self._file.size()

    def pread(self, n: int, off: int) -> bytes:
        self._fs.alive()
        return os.pread(self._fd, n, off)

    @_alone
    def pwrite(self, data: bytes | bytearray | memoryview, off: int) -> None:
        view = memoryview(data).cast("B")
        n = view.nbytes
        whole = self._fs.step("pwrite", self.name, off, n)
        self._room(off + n)
        size = self._file.size()
        if whole:
            os.pwrite(self._fd, view, off)
            self._fs.counts["bytes written"] += n
        else:
            assert self._fs.torn is not None
            n = self._fs.torn.randrange(n + 1)
            os.pwrite(self._fd, view[:n], off)
        if self._file.size() != size:
            self._file.resized(size)
        self._file.changed(off, n)
        if not whole:
            raise SimCrash(f"step {self._fs.steps}: a part of pwrite {self.name}")

    @_alone
    def write_back(self, off: int, n: int) -> None:
        self._fs.step("write_back", self.name, off, n)

    def start_writing(self, off: int, n: int) -> None:
        """Nothing to do: what isn't synced may be on the disk at any time, or not."""

    @_alone
    def sync_range(self, off: int, n: int) -> None:
        self._fs.step("sync_range", self.name, off, n)
        self._file.sync(off, n)

    @_alone
    def sync_data(self) -> None:
        self._fs.step("sync_data", self.name)
        self._file.sync(0, max(self._file.sizes))

    @_alone
    def sync_all(self) -> None:
        self._fs.step("sync_all", self.name)
        self._file.sync(0, max(self._file.sizes))
        self._file.sync_size()

    @_alone
    def allocate(self, off: int, n: int) -> None:
        self._fs.step("allocate", self.name, off, n)
        self._room(off + n)
        size = self._file.size()
        if off + n > size:
            os.ftruncate(self._file.fd, off + n)
            self._file.resized(size)

    @_alone
    def truncate(self, n: int) -> None:
        self._fs.step("truncate", self.name, n)
        self._room(n)
        size = self._file.size()
        os.ftruncate(self._file.fd, n)
        self._file.resized(size)

    def reopen(self) -> SimBackend:
        self._fs.alive()
        return SimBackend(self._fs, self._file, self.name, self.writable)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def _room(self, size: int) -> None:
        disk = self.disk
        if disk.capacity is None or size <= self._file.size():
            return
        files = {id(file): file for file in (*disk.names.values(), self._file)}.values()
        if sum(file.size() for file in files) + size - self._file.size() > disk.capacity:
            raise DiskFullError(errno.ENOSPC, f"no room for {size} bytes", self.name)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
