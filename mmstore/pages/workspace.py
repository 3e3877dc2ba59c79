"""The private pages of one write transaction, from the first change until they lie in the file.

A committed page is never written (I1): what a transaction changes it copies into a pool of memory, and
refers to by ``PRIVATE | serial``.  At commit the pages get numbers from the allocator (``assign``), the
references in them become those numbers and each page its checksum (``seal``), and all are written to places
that no root refers to (``place``).  A pool that has reached its limit goes the same way in mid-transaction
(``flush``); the serials it used keep their meaning.

Savepoints: each starts a new generation, a page made before is copied, not changed, and kept while a savepoint
may want it back.  Before an allocator's mark is made all pages get their numbers, so that what is allocated
behind the mark belongs to pages behind it.  Freed runs are handed to the allocator when no savepoint is left.

One workspace serves all indexes of a transaction, under the writer lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmstore import format as fmt
from mmstore.kernels.space import Space

__all__ = ["Allocator", "Mark", "Store", "Workspace"]

_KEPT = 1 << 20  # bytes of pool that are kept from one transaction to the next
_FEW = 32  # pages: a small commit
_PIECE = 1 << 20  # bytes that are handed to the store at once


class Allocator(Protocol):
    """Where pages come from and go to."""

    def alloc(self, n: int, kind: int) -> int:
        """Take ``n`` adjacent pages; returns the first."""

    def alloc_pages(self, n: int, kind: int) -> list[tuple[int, int]]:
        """Take ``n`` pages in any runs; returns (first, pages) of each."""

    def free(self, start: int, n: int, born: int, kind: int) -> None:
        """Give back a run that the roots from ``born`` on may refer to."""

    def mark(self) -> Any:
        """A savepoint."""

    def rollback(self, mark: Any) -> None:
        """Undo what was taken and given since ``mark``, and forget it."""

    def release(self, mark: Any) -> None:
        """Forget ``mark``."""


class Store(Protocol):
    """The file."""

    @property
    def mem(self) -> Any:
        """A read-only view of the whole file; replaced when the file grows."""

    @property
    def verified(self) -> Any:
        """A writable bitmap of the pages whose checksum is known to be right."""

    def place(self, runs: Iterable[tuple[int, Any]], piece: int = ...) -> None:
        """Write buffers at offsets, in writes that end at multiples of ``piece``."""


class Mark(NamedTuple):
    """A savepoint."""

    gen: int
    min_gen: int
    allocator: Any


class Workspace:
    """``limit``: bytes of pool from which on pages are placed early; ``mask``: see ``Space``."""

    def __init__(
        self,
        store: Store,
        allocator: Allocator,
        page_size: int,
        seed: int,
        limit: int = 256 << 20,
        mask: int = (1 << 64) - 1,
    ) -> None:
        self.store = store
        self.allocator = allocator
        self.page_size = page_size
        self.space = Space(page_size, seed, mask)
        self._full = self.space.full = max(limit // page_size, 1)
        # One operation takes a few pages, or twice the directory when that doubles.
        self._capacity = self.space.full + max(1024, self.space.full // 4)
        self._pool: Any = None
        self.space.make_pool = self._make_pool
        self._marks: list[Mark] = []
        self.placed = 0
        """Pages that were placed in this transaction."""
        self.mem: Any = None
        self._verified: Any = None

    # --- a transaction ------------------------------------------------------------------------------

    def begin(self, txn: int) -> None:
        """Start transaction ``txn``."""
        self.reset()
        self.space.txn = txn
        self.space.gen = 1
        self.space.copied = 0
        self.space.full = self._full
        self.placed = 0
        self.attach(self.store.mem)

    def spill_beyond(self, size: int) -> None:
        """In this transaction place pages early from so many bytes of pool on, if that is less than the limit."""
        self.space.full = max(1, min(self._full, size // self.page_size))

    def attach(self, mem: Any) -> None:
        """Read placed pages from ``mem`` from now on."""
        verified = self.store.verified
        if mem is not self.mem or verified is not self._verified:
            self.mem, self._verified = mem, verified
            self.space.attach(mem, verified)

    def reset(self) -> None:
        """The transaction is over: forget everything, and give memory back."""
        if self.space.used * self.page_size > _KEPT:
            self._pool = None
            self.space.detach_pool()
        self.space.reset()
        self._marks.clear()

    def _make_pool(self) -> Any:
        # Zeros from numpy cost nothing before they are touched, and lie in huge pages where there are any.
        self._pool = np.zeros(self._capacity * self.page_size, np.uint8).data
        return self._pool

    @property
    def txn(self) -> int:
        """The running transaction's id."""
        return self.space.txn

    @property
    def copied(self) -> int:
        """Placed pages that this transaction has replaced so far."""
        return self.space.copied

    @property
    def dirty(self) -> int:
        """Private pages."""
        return self.space.dirty

    @property
    def memory(self) -> int:
        """Bytes of memory in use for pages."""
        return self.space.used * self.page_size

    @property
    def most_pages(self) -> int:
        """More pages than any index can have."""
        return self.space.mem_pages + self.space.base + self._capacity

    # --- pages --------------------------------------------------------------------------------------

    def new(self, kind: int) -> int:
        """A new page of zeros; returns its reference."""
        return self.space.new(kind)

    def copy(self, ref: int, kind: int) -> int:
        """A page with the content of ``ref`` that may be changed: itself, or a copy, and ``ref`` is dropped."""
        return self.space.copy(ref, kind)

    def drop(self, ref: int) -> None:
        """Nobody refers to ``ref`` any more."""
        self.space.drop(ref)

    def resolve(self, ref: int) -> int:
        """Where the page behind a reference is now: a private one may have been placed meanwhile."""
        if ref & fmt.PRIVATE and ref & ~fmt.PRIVATE < self.space.base:
            return self.space.numbered(ref)
        return ref

    def final(self, ref: int) -> int:
        """The page number behind a reference, after ``assign``."""
        number = self.space.numbered(ref)
        assert number or not ref, "a page without a number: assign() comes first"
        return number

    # --- runs ---------------------------------------------------------------------------------------

    def write_run(self, pieces: Iterable[Any], npages: int) -> int:
        """Write the pieces one after the other, and zeros, into ``npages`` adjacent new pages; returns the first."""
        start = self.allocator.alloc(npages, fmt.FREE_BULK)
        at = start * self.page_size
        stop = at + npages * self.page_size
        if npages <= _FEW:
            whole = b"".join(pieces)
            self.store.place([(at, whole.ljust(stop - at, b"\0"))])
            self._follow()
            return start
        for piece in pieces:
            view = memoryview(piece).cast("B")
            for offset in range(0, len(view), _PIECE):
                self.store.place([(at + offset, view[offset : offset + _PIECE])])
            at += len(view)
        if at < stop:
            self.store.place([(at, bytes(stop - at))])
        self._follow()
        return start

    def free_run(self, start: int, n: int, born: int) -> None:
        """Give a bulk run back."""
        self.space.freed.append((start, n, born, fmt.FREE_BULK, self.space.gen))

    # --- savepoints ---------------------------------------------------------------------------------

    def savepoint(self) -> Mark:
        """A place to roll back to; marks the allocator, too.  They nest, and end in the reverse of their order."""
        self._number()
        space = self.space
        mark = Mark(space.gen + 1, space.min_gen, self.allocator.mark())
        space.gen += 1
        space.min_gen = space.gen
        self._marks.append(mark)
        return mark

    def rollback(self, mark: Mark) -> None:
        """Undo everything since ``mark``, and forget it; the caller sets its indexes' descriptors back."""
        self._pop(mark)
        self.space.undo(mark.gen)
        self.space.min_gen = mark.min_gen
        self.allocator.rollback(mark.allocator)

    def release(self, mark: Mark) -> None:
        """Keep what was done since ``mark``, and forget it."""
        self._pop(mark)
        self.space.forget(mark.min_gen)
        self.allocator.release(mark.allocator)

    def _pop(self, mark: Mark) -> None:
        assert self._marks and self._marks[-1] is mark, "savepoints end in the reverse of their order"
        self._marks.pop()

    # --- to the file --------------------------------------------------------------------------------

    def assign(self, txn: int | None = None) -> None:
        """Give final numbers to all private pages that have none yet."""
        assert txn is None or txn == self.space.txn
        self._hand_over()
        self._number()

    def seal(self) -> None:
        """Make all private pages final: references, txn id, checksum.  Nothing may be changed from here on."""
        self._hand_over()
        self._number()
        self.space.seal()

    def place(self, more: Sequence[tuple[int, Any]] = ()) -> None:
        """Write all private pages to their places, and ``more``: bytes at offsets."""
        space = self.space
        if space.used <= _FEW:
            self.store.place([*space.few(), *more])
        else:
            runs = [(page * self.page_size, data) for page, _, data in space.runs()]
            self.store.place([*runs, *more], fmt.BLOCK_SIZE)
        self.placed += space.dirty
        self._follow()
        space.mark_placed()

    def flush(self) -> None:
        """Place all private pages now and go on with an empty pool; references keep their meaning."""
        self.seal()
        self.place()
        self.space.emptied()

    def _hand_over(self) -> None:
        """Give freed runs to the allocator, unless a savepoint may want them back."""
        if not self._marks and self.space.freed:
            freed, self.space.freed = self.space.freed, []
            free = self.allocator.free
            for start, n, born, kind, _ in freed:
                free(start, n, born, kind)

    def _number(self) -> None:
        missing = self.space.unnumbered()
        if missing:
            self.space.assign(self.allocator.alloc_pages(missing, fmt.FREE_INDEX))

    def _follow(self) -> None:
        """The file may have grown."""
        mem = self.store.mem
        if mem is not self.mem:
            self.attach(mem)
