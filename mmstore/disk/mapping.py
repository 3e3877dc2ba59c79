"""Mapped memory that lives exactly as long as the views over it.

Nothing here is unmapped or moved while a view of it lives (I2).  The trick is an *exporter*: a ctypes
array laid over the mapped addresses.  Every memoryview and numpy array made from it holds a reference
to it, so its finalizer runs when the last of them is gone, and only that unmaps.  Readers get
memoryviews that are read-only all the way down: numpy refuses to make an array over one writeable.

::

    FileMapping    reserved: |== file, read-only ==|-- nothing yet: growth goes here, in place --|
    SequenceMap    reserved: |= run 1 =|= run 2 =|== run 3 ==|-- nothing yet: runs to come --|

Addresses are reserved generously (they cost nothing) and filled in with MAP_FIXED, so that growth moves
nothing.  When a reservation is used up, the owner makes a new mapping; the old one stays for its views.

A mapping keeps the open file description that it was made through, and with it all locks taken through
that, even when the descriptor is closed and in forked children.  So mappings that live get a backend of
their own (``reopen``), through which nobody locks.

Finalizers may run inside anything (garbage collection), so they take no lock: they unmap, or call a
callback that may only append to a deque.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from mmstore.disk import libc
from mmstore.disk.backend import Backend
from mmstore.format import LIVE_AT, LIVE_SIZE, ZONE_SIZE

_SMALLEST_RESERVATION: Final = 16 << 30
_SEQUENCE_RESERVATION: Final = 1 << 30


# --- exporters ---------------------------------------------------------------------------------------


class _Exporter(ctypes.Array[ctypes.c_ubyte]):
    """Claims all addresses from its own on; only slices of it are handed out."""

    _type_ = ctypes.c_ubyte
    _length_ = sys.maxsize >> 16

    def view(self, n: int) -> memoryview:
        """The first ``n`` bytes, writable as far as Python knows."""
        return memoryview(self).cast("B")[:n]


class _Reservation(_Exporter):
    """Owns ``mapped`` bytes from ``start`` on; ``charge`` is given back to the budget at the end."""

    start: int
    mapped: int
    charge: int

    def __del__(self) -> None:
        if self.mapped:
            libc.unmap(self.start, self.mapped)
        if self.charge:
            _returned.append(self.charge)


class _Tracked(_Exporter):
    """Keeps what it shows alive and calls ``on_release`` when nobody looks any more."""

    keeps: object
    on_release: Callable[[], object] | None

    def __del__(self) -> None:
        if self.on_release is not None:
            self.on_release()


_NOTHING: Final = _Reservation.from_address(0)  # immortal: what a closed mapping holds
_NOTHING.start = _NOTHING.mapped = _NOTHING.charge = 0


def _reserve(n: int, least: int, shift: int = 0) -> _Reservation:
    """Addresses for ``n`` bytes, or fewer where the system won't give so many, but ``least``.

    They begin ``shift`` bytes, less than a zone, behind a multiple of a zone.
    """
    while True:
        length = n + ZONE_SIZE
        flags = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_NORESERVE
        try:
            found = libc.map_memory(None, length, libc.PROT_NONE, flags)
        except OSError:
            if n <= least:
                raise
            n = max(n // 4, least)
            continue
        start = _round_up(found - shift, ZONE_SIZE) + shift
        if start > found:
            libc.unmap(found, start - found)
        reservation = _Reservation.from_address(start)
        reservation.start, reservation.mapped, reservation.charge = start, found + length - start, 0
        return reservation


def tracked_view(view: memoryview, on_release: Callable[[], object] | None) -> memoryview:
    """A read-only view of the same bytes; its own death, and that of all made from it, calls ``on_release``.

    ``on_release`` may run at any point of any thread's code: it may only append to a deque.
    """
    exporter = _Tracked.from_address(libc.address_of(view))
    exporter.keeps, exporter.on_release = view, on_release
    return exporter.view(view.nbytes).toreadonly()


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


# --- the data file -----------------------------------------------------------------------------------


class FileMapping:
    """[0, size) of a file, shared and read-only.

    ``writable``: the pages may be stored to (placing by memcpy).  ``private``: stores go to a private copy
    and growth to anonymous memory; the file is never changed (recovery by a handle that can't write).
    """

    def __init__(self, backend: Backend, size: int, *, writable: bool = False, private: bool = False) -> None:
        self.size = 0
        self.writable = writable or private
        self._backend = backend
        self._private = private
        least = _round_up(max(size, 1), libc.PAGE)
        self._exporter = _reserve(max(_SMALLEST_RESERVATION, 4 * least), least)
        self.reserved = self._exporter.mapped // libc.PAGE * libc.PAGE
        self.view = memoryview(b"")
        self.extend(size)

    @property
    def address(self) -> int:
        """Where the file's byte 0 is mapped."""
        return self._exporter.start

    def extend(self, size: int) -> bool:
        """Map up to ``size`` in place; False if the reservation is too small (then nothing changed).

        The file must be so long already, or the mapping private: pages behind a file's end fault.
        """
        if size > self.reserved:
            return False
        if size > self.size:
            done = self.size // libc.PAGE * libc.PAGE
            if self._private:
                self._extend_private(done, size)
            else:
                protection = libc.PROT_READ | (libc.PROT_WRITE if self.writable else 0)
                self._map(done, size - done, protection, libc.MAP_SHARED, self._backend.fileno(), done)
            self.view = self._exporter.view(size).toreadonly()
            self.size = size  # last: what was struck before is done again
        return True

    def _extend_private(self, done: int, size: int) -> None:
        protection = libc.PROT_READ | libc.PROT_WRITE
        in_file = self._backend.size() if self.size == 0 else 0  # what grows later never was in the file
        inside = min(_round_up(in_file, libc.PAGE), _round_up(size, libc.PAGE))
        if inside > 0:
            self._map(0, inside, protection, libc.MAP_PRIVATE | libc.MAP_NORESERVE, self._backend.fileno(), 0)
        start = max(inside, _round_up(self.size, libc.PAGE))
        if size > start:
            self._map(start, size - start, protection, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS)

    def cut(self, size: int) -> None:
        """Show no more than [0, size); what lies behind reads as 0 in views that still show it, and never faults."""
        if size >= self.size:
            return
        start = _round_up(size, libc.PAGE)
        if self.size > start:
            self._map(start, self.size - start, libc.PROT_READ, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS)
        self.size = size
        self.view = self._exporter.view(size).toreadonly()

    def buffer(self, off: int, n: int) -> memoryview:
        """[off, off + n), read-only; keeps the mapping alive."""
        return self.view[off : off + n]

    def writable_view(self) -> memoryview:
        """[0, size) to store to; for placing only, and only where mapped ``writable`` or ``private``."""
        if not self.writable:
            raise ValueError("mapped read-only: stores would fault")
        return self._exporter.view(self.size)

    def advise(self, off: int, n: int, advice: int) -> None:
        """Tell the system how [off, off + n) will be used (``libc.ADVICE_*``)."""
        start = off // libc.PAGE * libc.PAGE
        stop = min(off + n, self.size)
        if stop > start:
            libc.advise(self._exporter.start + start, stop - start, advice)

    def resident(self, off: int, n: int) -> int:
        """Bytes of [off, off + n) that are in memory, in whole system pages."""
        start = off // libc.PAGE * libc.PAGE
        stop = min(off + n, self.size)
        return libc.resident_pages(self._exporter.start + start, stop - start) * libc.PAGE if stop > start else 0

    def adopt(self, backend: Backend) -> None:
        """Grow by another descriptor of the same file from now on."""
        self._backend = backend

    def close(self) -> None:
        """Let go; the mapping goes with its last view."""
        self.view = memoryview(b"")
        self.size = self.reserved = 0
        self._exporter = _NOTHING

    def _map(self, off: int, n: int, protection: int, flags: int, fd: int = -1, file_off: int = 0) -> None:
        libc.map_memory(self._exporter.start + off, n, protection, flags | libc.MAP_FIXED, fd, file_off)


def map_live(backend: Backend) -> memoryview:
    """The live page: shared and writable, or read-only where the file may not be written."""
    protection = libc.PROT_READ | (libc.PROT_WRITE if backend.writable else 0)
    start = libc.map_memory(None, LIVE_SIZE, protection, libc.MAP_SHARED, backend.fileno(), LIVE_AT)
    reservation = _Reservation.from_address(start)
    reservation.start, reservation.mapped, reservation.charge = start, LIVE_SIZE, 0
    libc.advise(start, LIVE_SIZE, libc.ADVICE_RANDOM)  # else its first fault reads megabytes around it
    view = reservation.view(LIVE_SIZE)
    return view if backend.writable else view.toreadonly()


def anonymous(n: int) -> memoryview:
    """``n`` writable zero bytes of this process's own that cost nothing until they are touched."""
    length = _round_up(max(n, 1), libc.PAGE)
    protection = libc.PROT_READ | libc.PROT_WRITE
    flags = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_NORESERVE
    start = libc.map_memory(None, length, protection, flags)
    reservation = _Reservation.from_address(start)
    reservation.start, reservation.mapped, reservation.charge = start, length, 0
    return reservation.view(n)


# --- sequences ---------------------------------------------------------------------------------------

BUDGET: Final = 32_000  # mappings that sequences may take; the system allows a process 65,530 in all
_taken = 0
_returned: deque[int] = deque()  # by finalizers, which take no lock
_budget_lock = threading.Lock()


def _forked() -> None:
    global _budget_lock
    _budget_lock = threading.Lock()  # another thread may have held it when the process forked


os.register_at_fork(after_in_child=_forked)


def _take(n: int) -> bool:
    """Take ``n`` mappings from the budget, if it has so many."""
    global _taken
    with _budget_lock:
        while _returned:
            _taken -= _returned.popleft()
        if _taken + n > BUDGET:
            return False
        _taken += n
        return True


def mappings_in_use() -> int:
    """Mappings that sequences have taken from the budget."""
    _take(0)
    return _taken


def _joined(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same pages in fewer runs: neighbours take one mapping."""
    joined: list[tuple[int, int]] = []
    for first, pages in runs:
        if joined and sum(joined[-1]) == first:
            joined[-1] = (joined[-1][0], joined[-1][1] + pages)
        else:
            joined.append((first, pages))
    return joined


class SequenceMap:
    """Runs of pages of the file, one after the other, seen as one contiguous read-only piece of memory.

    Runs are only ever added at the end.  Where they can't be mapped (budget used up, or a page size of
    the system's that is larger than the store's) ``copied`` is True and every view is a copy.
    """

    def __init__(self, backend: Backend, page_size: int, runs: Iterable[tuple[int, int]] = ()) -> None:
        self.size = 0
        self.copied = False
        self.runs: list[tuple[int, int]] = []
        self._backend = backend
        self._page_size = page_size
        self._exporter: _Reservation | None = None
        self.extend(runs)

    def extend(self, runs: Iterable[tuple[int, int]]) -> None:
        """Add runs (first page, pages) behind the last; views keep their bytes, and new ones their address."""
        added = list(runs)
        if not added:
            return
        n = sum(pages for _, pages in added) * self._page_size
        if not self.copied:
            try:
                self.copied = not self._map(added, n)
            except OSError:  # no addresses or no mappings left
                self.copied = True
        self.runs += added
        self.size += n
        if self.copied:
            self._exporter = None

    def _map(self, added: list[tuple[int, int]], n: int) -> bool:
        if any(pages * self._page_size % libc.PAGE or first * self._page_size % libc.PAGE for first, pages in added):
            return False
        exporter = self._exporter
        added = _joined(added)
        if exporter is None or self.size + n > exporter.mapped:
            added = _joined(self.runs + added)
            total = self.size + n
            if not _take(len(added) + 1):
                return False
            try:
                exporter = _reserve(max(_SEQUENCE_RESERVATION, 4 * total), total, self._shift(added))
            except OSError:
                _returned.append(len(added) + 1)
                raise
            exporter.charge = len(added) + 1
            at = 0
        else:
            if not _take(len(added)):
                return False
            exporter.charge += len(added)
            at = self.size
        for first, pages in added:
            length = pages * self._page_size
            flags = libc.MAP_SHARED | libc.MAP_FIXED
            off = first * self._page_size
            libc.map_memory(exporter.start + at, length, libc.PROT_READ, flags, self._backend.fileno(), off)
            at += length
        self._exporter = exporter
        return True

    def _shift(self, runs: list[tuple[int, int]]) -> int:
        """Where in a zone the addresses must begin so that the longest run lies in zones as it does in the file.

        Only so one fault maps a large folio whole, and one entry of the page table maps a zone; all runs that are zones
        then do, since each is a whole number of them.
        """
        at = shift = longest = 0
        for first, pages in runs:
            if pages > longest:
                longest, shift = pages, (first * self._page_size - at) % ZONE_SIZE
            at += pages * self._page_size
        return shift

    def view(self, nbytes: int, on_release: Callable[[], object] | None = None) -> memoryview:
        """The first ``nbytes`` bytes, read-only; ``on_release`` (see ``tracked_view``) when the last user is gone."""
        if nbytes > self.size:
            raise ValueError(f"a view of {nbytes} bytes over runs of {self.size}")
        source = self._exporter
        if source is None:
            copy = self._copy(nbytes)
            return tracked_view(copy, on_release)
        exporter = _Tracked.from_address(source.start)
        exporter.keeps, exporter.on_release = source, on_release
        return exporter.view(nbytes).toreadonly()

    def _copy(self, nbytes: int) -> memoryview:
        copy = anonymous(nbytes)
        at = 0
        for first, pages in self.runs:
            n = min(pages * self._page_size, nbytes - at)
            if n <= 0:
                break
            copy[at : at + n] = self._backend.pread(n, first * self._page_size)
            at += n
        return copy

    def close(self) -> None:
        """Let go; the mapping goes with its last view."""
        self._exporter = None
        self.runs, self.size = [], 0
