"""The data file as memory to read and places to write.

Everything is read through one read-only mapping.  Bytes get into the file by three ways and no other:
``place`` (pages and runs), ``write_header``, and the live page, the only part that is mapped writable.
So a test that records ``Backend.pwrite`` sees every byte that can become durable.

``place`` writes with ``pwrite``, which is coherent with mappings on the systems we support.  A store
through a writable mapping would fault, and on file systems with large folios it dirties the whole
folio: 1,000 random 4 KiB stores made a sync write 240 MB instead of 4.  ``placing="memcpy"`` does it all
the same, for where pwrite and mappings are not coherent.

Growth: the file is made longer by allocation, so a full disk is an exception here and never a fault
(SIGBUS) in a reader; then the mapping is extended in place.  The step grows with the file.  Only the
holder of the writer lock grows or truncates; others ``follow`` the size they find in the
live page.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Final, Literal

from mmstore.disk import libc
from mmstore.disk.backend import Backend, Buffer, nbytes
from mmstore.disk.mapping import FileMapping, anonymous, map_live
from mmstore.errors import CorruptError, DiskFullError
from mmstore.format import FIXED_SIZE, HEADER_AT, IDENTITY_AT, LIVE_AT, LIVE_SIZE, ZONE_SIZE

_SMALLEST_STEP: Final = 1 << 20
_LARGEST_STEP: Final = 1 << 30
_BULK: Final = 256 << 10
_FEW: Final = 8
_ZEROS: Final = bytes(ZONE_SIZE)
_MOST_BEGUN: Final = 1024
_offset: Final[Callable[[tuple[int, Buffer]], int]] = itemgetter(0)


class StoreFile:
    """A data file: mapped, grown, written to.

    ``mem``        read-only memoryview of [0, size); a new object after growth, at the same address
                   as long as the reserved addresses suffice
    ``mapped``     the file opened once more, for mappings: a mapping keeps its open file, and with it the
                   locks taken through that, even beyond a fork; so none are taken through this one
    ``verified``   one bit a page for the kernels: this handle has checked the page's checksum; a new
                   object whenever ``mapping`` is a new one
    ``live``       the live page, writable where the file is
    ``private``    changes stay in this process's memory (recovery by a handle that can't write)
    """

    def __init__(
        self,
        backend: Backend,
        page_size: int,
        *,
        size: int | None = None,
        private: bool = False,
        placing: Literal["pwrite", "memcpy"] = "pwrite",
    ) -> None:
        self.backend = backend
        self.mapped = backend.reopen()
        self.page_size = page_size
        self.private = private
        self._placing = placing
        self._lock = threading.Lock()
        self._begun: set[int] = set()  # zones that were begun and aren't full yet
        size = self._whole_pages(backend.size() if size is None else size)
        self.mapping = FileMapping(self.mapped, size, private=private)
        self.advise_random(0, size)
        self.verified = self._bitmap(self.mapping)
        self.mem = self.mapping.view
        self.size = size
        if private:
            self.live = self.mapping.writable_view()[LIVE_AT : LIVE_AT + LIVE_SIZE]
        else:
            self.live = map_live(self.mapped)

    def _whole_pages(self, size: int) -> int:
        if size < FIXED_SIZE:
            raise CorruptError(
                f"{self.backend.name!r}: expected at least {FIXED_SIZE} bytes, found {size}: the file was cut short; "
                "restore it from a backup",
                offset=size,
            )
        return size // self.page_size * self.page_size

    def _bitmap(self, mapping: FileMapping) -> memoryview:
        return anonymous(mapping.reserved // self.page_size // 8 + 1)

    # --- growth ---

    def grow(self, to: int) -> None:
        """Make the file at least ``to`` bytes long, and map it; DiskFullError leaves all as it was."""
        with self._lock:
            if to <= self.size:
                return
            step = min(max(_SMALLEST_STEP, self.size // 8), _LARGEST_STEP)
            generous = -(-max(to, self.size + step) // ZONE_SIZE) * ZONE_SIZE
            if self.private:
                self._remap(generous)
                return
            before = self.backend.size()
            try:
                self._allocate(self.size, generous, before)
            except DiskFullError:
                generous = -(-to // self.page_size) * self.page_size
                self._allocate(self.size, generous, before)
            self._remap(generous)

    def _allocate(self, start: int, stop: int, before: int) -> None:
        try:
            self.backend.allocate(start, stop - start)
        except DiskFullError:
            # a part may have been added: nobody maps it, since nobody was told
            if self.backend.size() > before:
                self.backend.truncate(before)
            raise

    def follow(self, size: int) -> None:
        """Map what another handle has grown; ``size`` is the one it published."""
        if size == self.size:
            return
        with self._lock:
            if size <= self.size:
                return
            if not self.private and self.backend.size() < size:
                raise CorruptError(
                    f"{self.backend.name!r}: expected {size} bytes as the live page says, found {self.backend.size()}: "
                    "the file was cut short while it was open; restore it from a backup",
                    offset=self.backend.size(),
                )
            self._remap(size)

    def _remap(self, size: int) -> None:
        if not self.mapping.extend(size):
            old = self.mapping
            new = FileMapping(self.mapped, size, private=self.private)
            if self.private:  # the copy is the only place where the changes are
                new.writable_view()[: old.size] = old.view
                self.live = new.writable_view()[LIVE_AT : LIVE_AT + LIVE_SIZE]
            verified = self._bitmap(new)
            verified[: len(self.verified)] = self.verified
            self.mapping, self.verified = new, verified
        self.advise_random(0, size)
        self.mem = self.mapping.view
        self.size = size

    def allocate_again(self) -> None:
        """Allocate the whole file: one that was copied sparsely has holes, and no room is reserved for them."""
        if not self.private:
            self.backend.allocate(0, self.size)

    def truncate(self, to: int) -> None:
        """Cut the file's end off; only for a handle that is alone.  Old views read 0 there instead of faulting."""
        with self._lock:
            to = max(-(-to // self.page_size) * self.page_size, FIXED_SIZE)
            if to >= self.size:
                return
            bits = to // self.page_size
            self.mapping.cut(to)
            self.mem, self.size = self.mapping.view, to
            self.verified[-(-bits // 8) :] = bytes(len(self.verified) + -bits // 8)
            if bits % 8:
                self.verified[bits // 8] &= (1 << bits % 8) - 1
            if not self.private:
                self.backend.truncate(to)

    # --- writing ---

    def place(self, runs: Iterable[tuple[int, Buffer]], piece: int = ZONE_SIZE) -> None:
        """Put bytes at their file offsets, all behind the fixed part and inside [0, size).

        Runs that touch are joined; writes end where a zone ends, so bulk gets a large folio for each zone
        that it fills, which one fault maps whole.  Nobody refers to these pages yet, so nothing is
        broken if this fails halfway.

        ``piece``: where writes end, too: pages that are written one by one later must not lie in a large folio, where
        each such write costs two to three times as much.
        """
        ordered = list(runs)
        if not ordered:
            return
        if len(ordered) > 1:
            ordered.sort(key=_offset)
        first = ordered[0][0]
        last, tail = ordered[-1]
        stop = last + nbytes(tail)
        if first < FIXED_SIZE or stop > self.size:
            raise ValueError(f"placing [{first}, ...) up to {last} + {nbytes(tail)} of {self.size} bytes")
        if self._placing == "memcpy" or self.private:
            self.place_by_memcpy(ordered)
        elif len(ordered) <= _FEW and self._are_apart(ordered):
            pwrite = self.backend.pwrite
            for off, data in ordered:
                pwrite(data, off)
        else:
            self._place_by_pwrite(ordered, piece)

    def _are_apart(self, ordered: Sequence[tuple[int, Buffer]]) -> bool:
        """Whether each is a page at most and none are to be joined or cut: what a small commit has."""
        stop = 0
        for off, data in ordered:
            n = nbytes(data)
            if off == stop or n > self.page_size or off % ZONE_SIZE + n > ZONE_SIZE:
                return False
            stop = off + n
        return True

    def _place_by_pwrite(self, ordered: Sequence[tuple[int, Buffer]], piece: int) -> None:
        pwrite = self._pwrite
        joined: list[Buffer] = []
        start = stop = 0
        for off, data in ordered:
            if joined and (off != stop or off % piece == 0):
                pwrite(joined[0] if len(joined) == 1 else b"".join(joined), start)
                joined = []
            if not joined:
                start = off
            stop = off + nbytes(data)
            cut = (off // piece + 1) * piece
            if stop > cut:
                flat = memoryview(data).cast("B")
                pwrite(b"".join([*joined, flat[: cut - off]]), start)
                for start in range(cut, stop, piece):
                    if stop - start > piece:
                        pwrite(flat[start - off : start - off + piece], start)
                if piece < _BULK <= start - off:
                    self.backend.start_writing(off, start - off)
                joined, data = [], flat[start - off :]
            joined.append(data)
        pwrite(joined[0] if len(joined) == 1 else b"".join(joined), start)

    def _pwrite(self, data: Buffer, off: int) -> None:
        """Write; of bulk the disk begins at once, so that it has little left to do when the commit waits for it."""
        self.backend.pwrite(data, off)
        start, stop = off, off + nbytes(data)
        zone = off // ZONE_SIZE * ZONE_SIZE
        if zone in self._begun:
            if stop < zone + ZONE_SIZE:
                return  # the zeros behind it need not be written
            self._begun.discard(zone)
            start = zone
        if stop - start >= _BULK:
            self.backend.start_writing(start, stop - start)

    def begin_zone(self, off: int) -> None:
        """Fill a zone of which nothing is in use with zeros, before bulk comes into it piece by piece.

        By this one write it lies in one large folio, and a fault maps it whole.  Written by pieces of 800,000 bytes it
        would have twelve, and the first scan would take twice as long.
        """
        if not self.private and self._placing == "pwrite":
            self.backend.pwrite(_ZEROS, off)
            if len(self._begun) == _MOST_BEGUN:
                self._begun.clear()
            self._begun.add(off)

    def place_by_memcpy(self, runs: Iterable[tuple[int, Buffer]]) -> None:
        """``place`` by stores to a writable mapping."""
        mapping = self.mapping
        if not mapping.writable:
            mapping = self._writable_mapping()
        target = mapping.writable_view()
        for off, data in runs:
            flat = memoryview(data).cast("B")
            target[off : off + flat.nbytes] = flat

    _stores: FileMapping | None = None

    def _writable_mapping(self) -> FileMapping:
        if self._stores is None or not self._stores.extend(self.size):
            self._stores = FileMapping(self.mapped, self.size, writable=True)
        return self._stores

    def write_header(self, at: int, data: Buffer) -> None:
        """Write the identity or one of the headers; not durable until synced."""
        if at != IDENTITY_AT and at not in HEADER_AT:
            raise ValueError(f"no header belongs at {at}")
        if self.private:
            flat = memoryview(data).cast("B")
            self.mapping.writable_view()[at : at + flat.nbytes] = flat
        else:
            self.backend.pwrite(data, at)

    # --- reading past the mapping ---

    def read(self, off: int, n: int) -> bytes:
        """[off, off + n) by pread: a sector that can't be read is an OSError, where the mapping would fault."""
        if self.private:
            return bytes(self.mem[off : off + n])
        data = self.backend.pread(n, off)
        if len(data) < n:
            raise CorruptError(
                f"{self.backend.name!r}: expected bytes up to {off + n}, found the file's end at {off + len(data)}: "
                "it was cut short; restore it from a backup",
                offset=off + len(data),
            )
        return data

    # --- durability ---

    def sync_range(self, off: int, n: int) -> None:
        """Make [off, off + n) durable."""
        if not self.private:
            self.mapped.sync_range(off, n)  # it maps the range for a moment: a fork just then mustn't keep our locks

    def sync_all(self) -> None:
        """Make everything durable, the size too."""
        if not self.private:
            self.backend.sync_all()

    def write_back(self, off: int, n: int) -> None:
        """Have [off, off + n) written and wait; promises no durability.

        Called in slices before a sync, so that the sync itself has little left to do and doesn't delay
        the commits meanwhile.  An error here is a failed sync.
        """
        if not self.private:
            self.backend.write_back(off, n)

    # --- what it costs ---

    def resident(self, off: int = 0, n: int | None = None) -> int:
        """Bytes of [off, off + n) that are in memory."""
        return self.mapping.resident(off, self.size - off if n is None else n)

    def will_need(self, off: int, n: int) -> None:
        """[off, off + n) is about to be read from end to end: read it in large pieces."""
        if 0 <= off and off + n <= self.size:
            self.mapping.advise(off, n, libc.ADVICE_WILLNEED)

    def advise_random(self, off: int, n: int) -> None:
        """Pages of [off, off + n) are read one by one, as an index is: don't read ahead.

        The whole mapping is; columns are read through mappings of their own, and ``will_need`` is for large values.
        """
        self.mapping.advise(off, n, libc.ADVICE_RANDOM)

    # --- life ---

    def adopt(self, backend: Backend) -> None:
        """Go on with another descriptor of the same file (in a forked child)."""
        if backend.identity() != self.backend.identity():
            raise OSError(errno.ESTALE, "another file has this name now", backend.name)
        self.backend = backend
        self.mapped = backend.reopen()
        self.mapping.adopt(self.mapped)
        self._lock = threading.Lock()  # another thread may have held it when the process forked
        self._stores = None

    def close(self) -> None:
        """Close the descriptor; what views show stays mapped until the last of them dies."""
        self.mem = self.live = memoryview(b"")
        self.verified = memoryview(bytearray())
        self._stores = None
        self.mapping.close()
        self.mapped.close()
        self.backend.close()
