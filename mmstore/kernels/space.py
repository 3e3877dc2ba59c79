"""Where pages are: placed ones in the mapped file, private ones of a transaction in its pool.

A page reference is a file page number, or ``PRIVATE | serial`` inside the transaction that made the page.
Serials go on over the whole transaction; when the pool is spilled to the file its pages' serials lie below
``base`` and ``moved`` knows where they went.

Placed pages are checked before use (I6): the number against the file, the checksum at first touch, the kind
always.  Private pages are trusted: ``copy`` looks at what it copies from the file.

Readers use a Space without a pool.  Only pages/workspace.py attaches one.
"""

from __future__ import annotations

from array import array
from typing import Any

from mmstore import format as fmt
from mmstore.errors import CorruptError
from mmstore.kernels import bucket, hashing, raw

__all__ = ["Space"]

KIND = fmt.NODE.offset["kind"]
TXN = fmt.NODE.offset["txn"]
NEXT = fmt.BUCKET.offset["next"]
HEAD = fmt.PAGE_HEADER
PRIVATE = fmt.PRIVATE
DIRECTORY_KIND = fmt.KIND_DIRECTORY
NODE_KIND = fmt.KIND_NODE
BUCKET_KIND = fmt.KIND_BUCKET
MASK32 = 0xFFFF_FFFF
NEIGHBOUR = 0x1_0000_0001  # next page, next place in the pool
PIECE = 1 << 20  # bytes that are joined at most
NAMES = {DIRECTORY_KIND: "directory", NODE_KIND: "node", BUCKET_KIND: "bucket"}
FREE, LIVE, SUPERSEDED = 0, 1, 2  # states of a place in the pool; superseded: an older savepoint may want it back


class Space:
    """``mask`` is laid over every hash: tests make keys collide with it."""

    def __init__(self, page_size: int, seed: int, mask: int = 0xFFFF_FFFF_FFFF_FFFF) -> None:
        self.page_size = page_size
        self.seed = seed
        self.mask = mask
        self.entries = fmt.directory_entries(page_size)
        self.slots = fmt.node_slots(page_size)
        self.first = fmt.FIXED_SIZE // page_size
        self.limit = 0
        self.mem_pages = 0
        self.bits_size = 0
        self.base = self.used = self.capacity = 0
        self.mem = raw.address(b"")
        self.pool = raw.writable(bytearray())
        self.spare_count = 0
        self.gen = self.min_gen = 0
        self.txn = 0
        self.copied = 0  # placed pages that were replaced
        self.full = 0  # dirty pages at which the pool should be spilled
        self.superseded = 0
        self.dirty = 0
        self.epoch = 0
        self.freed: list[tuple[int, int, int, int, int]] = []
        self.moved = array("I")
        self.make_pool: Any = None
        self.view: Any = None
        self.bits_view: Any = None

    # --- placed pages -------------------------------------------------------------------------------

    def attach(self, view: Any, verified: Any) -> None:
        """Read from ``view``, the file from its first byte on; ``verified`` has a bit for each page."""
        self.view = view
        self.mem = raw.address(view)
        self.mem_pages = self.limit = min(len(view) // self.page_size, fmt.MAX_PAGES)
        self.bits_view = verified
        self.bits_size = 0
        if verified is not None and len(verified):
            self.bits = raw.writable(verified)
            self.bits_size = len(verified)

    def page(self, ref: int, kind: int) -> Any:
        """The page ``ref``, which must be of this kind."""
        if ref & PRIVATE:
            serial = ref & 0x7FFF_FFFF
            if serial < self.base or serial >= self.base + self.used:
                raise self.corrupt(ref, kind)
            page = raw.part(self.pool, (serial - self.base) * self.page_size, self.page_size)
        else:
            if ref < self.first or ref >= self.limit:
                raise self.corrupt(ref, kind)
            page = raw.part(self.mem, ref * self.page_size, self.page_size)
            if ref >> 3 >= self.bits_size or not raw.peek8(self.bits, ref >> 3) >> (ref & 7) & 1:
                self.verify(ref, page)
        if raw.load8(page, KIND) != kind:
            raise self.corrupt(ref, kind)
        return page

    def known(self, ref: int) -> Any:
        """The page ``ref``, which ``page`` has passed before in this operation."""
        if ref & PRIVATE:
            return raw.part(self.pool, ((ref & 0x7FFF_FFFF) - self.base) * self.page_size, self.page_size)
        return raw.part(self.mem, ref * self.page_size, self.page_size)

    def expect(self, ref: int) -> None:
        """Have the first lines of a bucket on their way: its entries are looked at as soon as its count is known."""
        if ref & PRIVATE:
            at = ((ref & 0x7FFF_FFFF) - self.base) * self.page_size
            raw.prefetch(self.pool, at)
            raw.prefetch(self.pool, at + 64)
            raw.prefetch(self.pool, at + 128)
        else:
            at = ref * self.page_size
            raw.prefetch(self.mem, at)
            raw.prefetch(self.mem, at + 64)
            raw.prefetch(self.mem, at + 128)

    def verify(self, ref: int, page: Any) -> int:
        """Compare the page with its checksum and note in the bitmap that it is right; else CorruptError.

        A placed page must not refer to private pages, either: a writer would take them for its own.
        """
        found = hashing.hash64(page, 8, self.page_size - 8, ref)
        if raw.load64(page, 0) != found:
            raise CorruptError(
                f"page {ref} contradicts its checksum ({found:#018x} was computed); run check(), restore a backup",
                page=ref,
                offset=ref * self.page_size,
            )
        kind = raw.load8(page, KIND)
        n = 1 if kind == BUCKET_KIND else self.slots if kind == NODE_KIND else self.entries
        at = NEXT if kind == BUCKET_KIND else HEAD
        all_bits = 0
        for i in range(n):
            all_bits |= raw.peek32(page, at + 4 * i)
        if all_bits & PRIVATE:
            raise CorruptError(
                f"page {ref} refers to pages of a transaction; run check(), restore a backup",
                page=ref,
                offset=ref * self.page_size,
            )
        self.mark(ref)
        return 0

    def mark(self, ref: int) -> None:
        """The checksum of this page is known to be right."""
        if ref >> 3 < self.bits_size:
            raw.store8(self.bits, ref >> 3, raw.peek8(self.bits, ref >> 3) | 1 << (ref & 7))

    def corrupt(self, ref: int, kind: int) -> CorruptError:
        """What is wrong with a reference to a page of this kind, or with what is in the page."""
        name = NAMES[kind]
        if ref & PRIVATE:
            return CorruptError(f"expected a {name} page, found a reference into a transaction; restore a backup")
        if ref < self.first or ref >= self.limit:
            reason = f"expected the number of a {name} page in [{self.first}, {self.limit}), found {ref}"
        else:
            reason = f"page {ref} is not a {name} page that belongs here, or its fields contradict each other"
        return CorruptError(f"{reason}; run check(), restore a backup", page=ref, offset=ref * self.page_size)

    # --- private pages ------------------------------------------------------------------------------

    def attach_pool(self, pool: Any) -> None:
        """Keep private pages in ``pool``, whole pages of writable memory."""
        self.pool_view = pool
        self.pool = raw.writable(pool)
        self.capacity = len(pool) // self.page_size
        self.state_view = bytearray(self.capacity)
        self.state = raw.writable(self.state_view)
        self.number_view = array("I", bytes(4 * self.capacity))
        self.number = raw.halves(self.number_view)
        self.since_view = array("I", bytes(4 * self.capacity))
        self.since = raw.halves(self.since_view)
        self.spare_view = array("I", bytes(4 * self.capacity))
        self.spare = raw.halves(self.spare_view)

    def detach_pool(self) -> None:
        """Let go of the pool, which has no page in use any more; ``make_pool`` makes another when one is needed."""
        self.capacity = self.used = self.spare_count = 0
        self.pool_view = None

    def own(self, ref: int) -> Any:
        """The private page ``ref``, to be changed."""
        return raw.writable_part(self.pool, ((ref & 0x7FFF_FFFF) - self.base) * self.page_size, self.page_size)

    def is_writable(self, ref: int) -> bool:
        """Whether the page may be changed in place: private and no savepoint needs it as it is."""
        if not ref & PRIVATE:
            return False
        serial = ref & 0x7FFF_FFFF
        if serial < self.base or serial >= self.base + self.used:
            return False
        return raw.load64(self.own(ref), TXN) >= self.min_gen

    def _take(self) -> int:
        if self.capacity == 0:
            self.attach_pool(self.make_pool())
        if self.spare_count:
            self.spare_count -= 1
            i: int = self.spare[self.spare_count]
        elif self.used < self.capacity:
            i = self.used
            self.used += 1
        else:
            raise MemoryError(f"a transaction's pool of {self.capacity} pages is full")
        self.state[i] = LIVE
        self.number[i] = 0
        self.dirty += 1
        return PRIVATE | (self.base + i)

    def new(self, kind: int) -> int:
        """A new page of zeros of this kind."""
        ref = self._take()
        page = self.own(ref)
        raw.clear(page, 0, self.page_size)
        raw.store64(page, TXN, self.gen)
        raw.store8(page, KIND, kind)
        if kind == BUCKET_KIND:
            bucket.clear(page, self.page_size)
        return ref

    def copy(self, ref: int, kind: int) -> int:
        """A writable page with the content of ``ref``: itself, or a copy, and ``ref`` is dropped."""
        if self.is_writable(ref):
            return ref
        source = self.page(ref, kind)
        if kind == BUCKET_KIND and not bucket.check(source, self.page_size):
            raise self.corrupt(ref, kind)
        twin = self._take()
        page = self.own(twin)
        raw.move(page, 0, source, 0, self.page_size)
        if ref & PRIVATE == 0 and self.min_gen == 0 and raw.load64(page, TXN) == self.txn:
            self.number[(twin & 0x7FFF_FFFF) - self.base] = ref  # spilled before, seen by nobody: it goes back
        else:
            self.drop(ref)
        raw.store64(page, TXN, self.gen)
        return twin

    def drop(self, ref: int) -> int:
        """The page is not referred to any more."""
        if not ref & PRIVATE:
            page = raw.part(self.mem, ref * self.page_size, self.page_size)
            self.freed.append((ref, 1, raw.load64(page, TXN), fmt.FREE_INDEX, self.gen))
            self.copied += 1
        elif raw.load64(self.own(ref), TXN) >= self.min_gen:
            self._release((ref & 0x7FFF_FFFF) - self.base)
        else:
            i = (ref & 0x7FFF_FFFF) - self.base
            self.state[i] = SUPERSEDED
            self.since[i] = self.gen
            self.superseded += 1
        return 0

    def _release(self, i: int) -> int:
        if self.number[i]:
            self.freed.append((self.number[i], 1, self.txn, fmt.FREE_INDEX, self.gen))
            self.number[i] = 0
        self.state[i] = FREE
        self.spare[self.spare_count] = i
        self.spare_count += 1
        self.dirty -= 1
        return 0

    # --- savepoints ---------------------------------------------------------------------------------

    def undo(self, gen: int) -> None:
        """Drop the pages made in generation ``gen`` and later, and bring back those superseded since."""
        for i in range(self.used):
            if self.state[i] == FREE:
                continue
            page = raw.writable_part(self.pool, i * self.page_size, self.page_size)
            if raw.load64(page, TXN) >= gen:
                if self.state[i] == SUPERSEDED:
                    self.superseded -= 1
                self.number[i] = 0  # the allocator's own rollback takes the number back
                self._release(i)
            elif self.state[i] == SUPERSEDED and self.since[i] >= gen:
                self.state[i] = LIVE
                self.superseded -= 1
        self.freed = [run for run in self.freed if run[4] < gen]

    def forget(self, min_gen: int) -> None:
        """Savepoints younger than ``min_gen`` are gone: let go of superseded pages that only they needed."""
        self.min_gen = min_gen
        if self.superseded == 0:
            return
        for i in range(self.used):
            if self.state[i] == SUPERSEDED:
                page = raw.writable_part(self.pool, i * self.page_size, self.page_size)
                if raw.load64(page, TXN) >= min_gen:
                    self.superseded -= 1
                    self._release(i)

    # --- to the file --------------------------------------------------------------------------------

    def numbered(self, ref: int) -> int:
        """The final page number behind ``ref``, 0 if a private page has none yet."""
        if not ref & PRIVATE:
            return ref
        serial = ref & 0x7FFF_FFFF
        if serial < self.base:
            return self.moved[serial]
        if serial >= self.base + self.used:  # a root that came from the file
            raise self.corrupt(ref, NODE_KIND)
        return self.number[serial - self.base]  # type: ignore[no-any-return]

    def unnumbered(self) -> int:
        """Pages that have no final number yet."""
        n = 0
        for i in range(self.used):
            if self.state[i] != FREE and self.number[i] == 0:
                n += 1
        return n

    def assign(self, runs: list[tuple[int, int]]) -> None:
        """Give the numbers in these runs (first, pages), as many as are missing, to the pages that have none yet."""
        at = stop = 0
        rest = iter(runs)
        for i in range(self.used):
            if self.state[i] != FREE and self.number[i] == 0:
                if at == stop:
                    at, stop = next(rest)
                    stop += at
                self.number[i] = at
                at += 1

    def seal(self) -> None:
        """Make all pages final: page numbers for references, txn id, checksum."""
        for i in range(self.used):
            if self.state[i] == FREE:
                continue
            page = raw.writable_part(self.pool, i * self.page_size, self.page_size)
            kind = raw.load8(page, KIND)
            if kind == BUCKET_KIND:
                self._patch(page, NEXT, 1)
            else:
                self._patch(page, HEAD, self.slots if kind == NODE_KIND else self.entries)
            raw.store64(page, TXN, self.txn)
            raw.store64(page, 0, hashing.hash64(page, 8, self.page_size - 8, self.number[i]))

    def _patch(self, page: Any, at: int, count: int) -> int:
        for k in range(count):
            ref = raw.load32(page, at + 4 * k)
            if ref & PRIVATE:
                serial = ref & 0x7FFF_FFFF
                if serial < self.base or serial >= self.base + self.used:
                    raise self.corrupt(ref, NODE_KIND)
                raw.store32(page, at + 4 * k, self.number[serial - self.base])
        return 0

    def runs(self) -> list[tuple[int, int, Any]]:
        """(first page, pages, bytes) of all sealed pages, in the order of the file; joined where they touch."""
        words_view = array("Q", bytes(8 * self.used))
        other_view = array("Q", bytes(8 * self.used))
        words = raw.words(words_view)
        n = 0
        for i in range(self.used):
            if self.state[i] != FREE:
                page = self.number[i]
                words[n] = page << 32 | i
                n += 1
        raw.sort64(words, raw.words(other_view), n, 32)
        size = self.page_size
        most = max(PIECE // size, 1)
        found = []
        start = 0
        while start < n:
            stop = start + 1
            adjacent = True
            while stop < n and stop - start < most and words[stop] >> 32 == (words[stop - 1] >> 32) + 1:
                if words[stop] != words[stop - 1] + NEIGHBOUR:
                    adjacent = False
                stop += 1
            i = words[start] & MASK32
            if adjacent:
                data = self.pool_view[i * size : (i + stop - start) * size]
            else:
                data = bytearray((stop - start) * size)
                to = raw.writable(data)
                for k in range(start, stop):
                    i = words[k] & MASK32
                    raw.move(to, (k - start) * size, raw.part(self.pool, i * size, size), 0, size)
            found.append((words[start] >> 32, stop - start, data))
            start = stop
        return found

    def few(self) -> list[tuple[int, Any]]:
        """(offset, bytes) of each sealed page, for a few that are joined by whoever writes them."""
        size = self.page_size
        found = []
        for i in range(self.used):
            if self.state[i] != FREE:
                found.append((self.number[i] * size, self.pool_view[i * size : (i + 1) * size]))
        return found

    def mark_placed(self) -> None:
        """The checksums of all pages are right where they lie now: we made them."""
        for i in range(self.used):
            if self.state[i] != FREE:
                self.mark(self.number[i])

    def emptied(self) -> None:
        """All pages have been placed: start the pool anew."""
        for i in range(self.used):
            if self.state[i] == SUPERSEDED:
                self.freed.append((self.number[i], 1, self.txn, fmt.FREE_INDEX, self.since[i]))
            self.moved.append(self.number[i])
            self.state[i] = FREE
        self.base += self.used
        self.used = self.spare_count = self.superseded = self.dirty = 0
        self.epoch += 1

    def reset(self) -> None:
        """The transaction is over."""
        for i in range(self.used):
            self.state[i] = FREE
        self.base = self.used = self.spare_count = self.superseded = self.dirty = 0
        self.gen = self.min_gen = 0
        self.epoch += 1
        self.freed = []
        self.moved = array("I")
