"""The free list in memory: what one transaction after the other takes and gives, in one compiled call each.

Every small commit takes a few pages and gives a few back, so this lies on its way between two syncs.  A run is a
tuple (start, length, born, freed, kind).  What is not a kernel's business is left to the subclass
pages/freelist.py: ``published`` and ``reclaim`` (which roots there are, and who needs them), ``grow`` (the file).
"""

from __future__ import annotations

from collections import deque
from typing import Any

from mmstore import format as fmt
from mmstore.kernels import hashing, raw
from mmstore.kernels.runset import RunSet

__all__ = ["Books", "Run"]

Run = tuple[int, int, int, int, int]

INDEX, BULK = fmt.FREE_INDEX, fmt.FREE_BULK
RESERVE = 32  # index pages that only a deleting transaction may use, so that a full disk can be emptied
ENTRY_SIZE, DELTA_SIZE = fmt.FREE_ENTRY.size, fmt.DELTA.size
START, LENGTH = fmt.FREE_ENTRY.offset["start"], fmt.FREE_ENTRY.offset["length"]
BORN, FREED, KIND = (fmt.FREE_ENTRY.offset[field] for field in ("born", "freed", "kind"))
TXN, TAKEN, GIVEN = (fmt.DELTA.offset[field] for field in ("txn", "taken", "freed"))


class Books:
    """Free, held, taken and given runs; ``pages`` pages are accounted for."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.pages = 0
        self.spend_reserve = False
        self.clear()

    def clear(self) -> None:
        """Know nothing."""
        self.free_runs = (RunSet(), RunSet())
        self.held: tuple[deque[Run], deque[Run]] = (deque(), deque())
        self.grown: list[Run] = []  # zones that no published root accounts for yet
        self.txn = 0
        self.given: list[Run] = []
        self.taken = (RunSet(), RunSet())
        self.recycled = (RunSet(), RunSet())
        self.log: list[tuple[int, int, int]] = []  # (start, n, kind) taken since the oldest savepoint
        self.marks: list[tuple[int, int]] = []
        self.spend_reserve = False

    def start(self, txn: int) -> None:
        """Nothing is taken and given yet, in transaction ``txn``."""
        self.txn = txn
        self.given = []
        for runs in (*self.taken, *self.recycled):
            if runs.pages:
                runs.clear()
        if self.log:
            self.log = []
        if self.marks:
            self.marks = []
        self.spend_reserve = False

    # --- taking and giving --------------------------------------------------------------------------

    def alloc(self, n: int, kind: int) -> int:
        """Take ``n`` adjacent pages and return the first; the file grows if need be.

        Bulk runs of 64 KiB and more start at multiples of 64 KiB, those of 2 MiB where a zone starts.
        Raises DiskFullError.
        """
        align = self.alignment(n) if kind == BULK else 1
        recycled: RunSet = self.recycled[kind]
        start = recycled.take(n, align)
        if start is None:
            start = self.take(n, kind, align)
            taken: RunSet = self.taken[kind]
            taken.add(start, n)
        if self.marks:
            self.log.append((start, n, kind))
        return start

    def alignment(self, n: int) -> int:
        """What the first page of a bulk run of ``n`` pages is a multiple of."""
        for size in (fmt.ZONE_SIZE, fmt.BLOCK_SIZE):
            pages = size // self.page_size
            if n >= pages > 1:
                return pages
        return 1

    def alloc_pages(self, n: int, kind: int) -> list[tuple[int, int]]:
        """Take ``n`` pages wherever they lie; returns (first, pages) of each run.  Raises DiskFullError."""
        found = []
        recycled: RunSet = self.recycled[kind]
        free: RunSet = self.free_runs[kind]
        taken: RunSet = self.taken[kind]
        if n > recycled.pages:
            floor = n - recycled.pages
            if kind == INDEX and not self.spend_reserve:
                floor += RESERVE
            if free.pages < floor:
                self.reclaim()
            if free.pages < floor:
                self.grow(floor - free.pages, kind)
        while n:
            if recycled.pages:
                run = recycled.take_some(n)
            else:
                run = free.take_some(n)
                taken.add(run[0], run[1])
            found.append(run)
            n -= run[1]
        if self.marks:
            self.log += [(start, length, kind) for start, length in found]
        return found

    def take(self, n: int, kind: int, align: int) -> int:
        """``n`` adjacent pages out of the free ones."""
        runs: RunSet = self.free_runs[kind]
        floor = RESERVE + n if kind == INDEX and not self.spend_reserve else 0
        start = runs.take(n, align) if runs.pages >= floor else None
        if start is None:
            self.reclaim()
            start = runs.take(n, align) if runs.pages >= floor else None
        if start is None:
            self.grow(n, kind)  # zones start at multiples of every alignment
            start = runs.take(n, align)
        assert start is not None
        return start

    def free(self, start: int, n: int, born: int, kind: int) -> None:
        """Give a run back.  One that this transaction took is in no root, so it is used again at once,
        unless a savepoint may want it back."""
        if born == self.txn and not self.marks:
            recycled: RunSet = self.recycled[kind]
            recycled.add(start, n)
        else:
            self.given.append((start, n, born, self.txn, kind))

    # --- savepoints and the end ---------------------------------------------------------------------

    def mark(self) -> tuple[int, int]:
        """A savepoint, for ``rollback`` or ``release``; they nest."""
        mark = (len(self.given), len(self.log))
        self.marks.append(mark)
        return mark

    def rollback(self, mark: tuple[int, int]) -> None:
        """Undo what was taken and given since ``mark``, and forget it."""
        given, log = mark
        del self.given[given:]
        for start, n, kind in self.log[log:]:
            self.recycled[kind].add(start, n)
        del self.log[log:]
        self.release(mark)

    def release(self, mark: tuple[int, int]) -> None:
        """Forget ``mark``; what was done since stays."""
        assert self.marks and self.marks[len(self.marks) - 1] == mark, "savepoints end in the reverse of their order"
        self.marks.pop()
        if not self.marks:
            self.log.clear()

    def abort(self) -> None:
        """Undo what was taken and given since ``start``; the file stays as long as it grew."""
        for kind in (INDEX, BULK):
            for start, length in self.taken[kind]:
                self.free_runs[kind].add(start, length)
        self.start(self.txn)

    def settle(self) -> tuple[list[Run], list[tuple[int, int]]]:
        """(given, taken) of the transaction as other roots will see it: what is in no root is free again."""
        given = []
        for run in self.given:
            if run[2] == self.txn:  # kept for a savepoint, and in no root
                self.recycled[run[4]].add(run[0], run[1])
            else:
                given.append(run)
        taken = []
        for kind in (INDEX, BULK):
            runs: RunSet = self.taken[kind]
            recycled: RunSet = self.recycled[kind]
            if recycled.pages:
                for start, length in recycled:
                    runs.remove(start, length)
                    self.free_runs[kind].add(start, length)
                recycled.clear()
            if runs.pages:
                taken += list(runs)
        return given, taken

    def delta_size(self, entries: int) -> int:
        """Bytes of a delta with so many runs given and taken."""
        return DELTA_SIZE + entries * ENTRY_SIZE

    def delta(self, given: list[Run], taken: list[tuple[int, int]], chain: int) -> tuple[bytearray, int]:
        """The delta that says so, as the file has it, behind one with the checksum ``chain``; and its checksum."""
        size = self.delta_size(len(given) + len(taken))
        body = bytearray(size)
        to = raw.writable(body)
        raw.store64(to, TXN, self.txn)
        raw.store32(to, TAKEN, len(taken))
        raw.store32(to, GIVEN, len(given))
        at = DELTA_SIZE
        for start, length in taken:
            raw.store32(to, at + START, start)
            raw.store32(to, at + LENGTH, length)
            at += ENTRY_SIZE
        for start, length, born, freed, kind in given:
            raw.store32(to, at + START, start)
            raw.store32(to, at + LENGTH, length)
            raw.store64(to, at + BORN, born)
            raw.store64(to, at + FREED, freed)
            raw.store32(to, at + KIND, kind)
            at += ENTRY_SIZE
        chain = hashing.hash64(to, 8, size - 8, chain)
        raw.store64(to, 0, chain)
        return body, chain

    # --- what the kernel leaves to others -----------------------------------------------------------

    def reclaim(self) -> Any:
        """Move held runs that nobody needs to the free ones."""
        raise NotImplementedError

    def grow(self, n: int, kind: int) -> Any:
        """Have room for ``n`` more adjacent pages."""
        raise NotImplementedError
