"""The free list: which pages may be written, which are held for older roots, and how the file remembers it.

Every page behind the fixed area is reachable from the newest root, or held, or free (I5).  A run that lived
in the roots [born, freed) is *held* until no needed root lies in that interval and GRACE further roots have
been published since ``freed``; that grace is what lets readers without a pin be (I1, I2).  Value runs and
extents need no grace: they are read under a pin only.  Needed roots: the newest, the durable one, a
checkpoint's in the making, and those in any live pin interval.

How the file keeps it is told in ``freefile``.  Called under the writer lock only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mmstore import format as fmt
from mmstore.errors import DiskFullError
from mmstore.pages import freefile
from mmstore.pages.freefile import Held, Store
from mmstore.pages.readers import Interval
from mmstore.pages.root import FreeState, Root
from mmstore.pages.runset import RunSet

__all__ = ["FreeList"]

RESERVE = 32  # index pages that only a deleting transaction may use, so that a full disk can be emptied
_GRACE = (fmt.GRACE, 0)  # by kind
_BATCH = 32  # transactions whose runs are ready before they are looked through: looking for pins isn't free
_DELTA_MIN = 64 << 10  # bytes of delta area that a consolidation provides at least


Needed = Callable[[], tuple[list[Interval], list[Interval]]]


class FreeList:
    """The free list of one handle, as the newest root that it has built has it.

    ``needed()`` gives the intervals of needed txn ids for index pages and for bulk runs, ``published()``
    the newest published txn id.
    """

    def __init__(self, store: Store, needed: Needed, published: Callable[[], int]) -> None:
        self._store = store
        self._needed = needed
        self._published = published
        self.state: FreeState | None = None
        """What is loaded; None: nothing yet."""
        self.pages = 0
        """Pages that the list and the built root account for."""
        self.spend_reserve = False
        """Set by a transaction that only deletes."""
        self._clear()

    def _clear(self) -> None:
        self.free_runs = (RunSet(), RunSet())
        self.held: tuple[deque[Held], deque[Held]] = (deque(), deque())
        self.blocked: list[Held] = []
        self.blocked_pages = 0
        self.reclaimed_at = 0
        """The published txn id when it was last seen which held runs are needed."""
        self._blocked_by: tuple[list[Interval], list[Interval]] | None = None
        self._grown: list[Held] = []  # zones that no published root accounts for yet
        self._txn = 0
        self._fresh = False  # whether the two sets below are empty ones
        self._clear_transaction()

    def _clear_transaction(self) -> None:
        self._given: list[Held] = []
        if not self._fresh:
            self._taken = (RunSet(), RunSet())
            self._recycled = (RunSet(), RunSet())
            self._fresh = True
        self._log: list[tuple[int, int, int]] = []  # (start, n, kind) taken since the oldest savepoint
        self._marks: list[tuple[int, int]] = []
        self.spend_reserve = False

    # --- loading ------------------------------------------------------------------------------------

    def load(self, root: Root) -> None:
        """Bring the list to ``root``: nothing to do, the new deltas only, or all anew."""
        state, free = self.state, root.free
        grown = sum(zone.length for zone in self._grown)
        if state == free and self.pages - grown == root.pages:
            return
        if (
            state is not None
            and not grown
            and free.consolidation
            and state.consolidation == free.consolidation
            and state.delta_bytes < free.delta_bytes
        ):
            for given, taken in freefile.read_deltas(self._store, free, state.delta_bytes, state.delta_chain):
                self._apply(given, taken)
        else:
            self._clear()
            for entry in freefile.load_entries(self._store, root):
                self._hold(entry)
        self.state, self.pages = free, root.pages

    def _hold(self, entry: Held) -> None:
        if entry.freed:
            self.held[entry.kind].append(entry)
        else:
            self.free_runs[entry.kind].add(entry.start, entry.length)

    def _apply(self, given: list[Held], taken: RunSet) -> None:
        """Another writer's delta: its runs may be free here, or held still."""
        for entry in given:
            self._hold(entry)
        rest = RunSet()
        for start, length in taken:
            if sum(free.remove(start, length) for free in self.free_runs) < length:
                rest.add(start, length)
        if rest.pages:
            self.held = (deque(freefile.subtract(self.held[0], rest)), deque(freefile.subtract(self.held[1], rest)))
            self.blocked = list(freefile.subtract(self.blocked, rest))
            self.blocked_pages = sum(run.length for run in self.blocked)

    # --- a transaction ------------------------------------------------------------------------------

    def begin(self, txn: int) -> None:
        """Transaction ``txn`` starts: what it takes and gives is recorded until ``seal`` or ``abort``."""
        self._txn = txn
        self._clear_transaction()
        self._fresh = False
        held = self.held[fmt.FREE_INDEX]
        if held and held[0].freed + fmt.GRACE + _BATCH <= self._published():
            self.reclaim()  # pages used lately before ones never used: fewer to write back

    def abort(self) -> None:
        """Undo what was taken and given since ``begin``; the file stays as long as it grew."""
        for kind in (fmt.FREE_INDEX, fmt.FREE_BULK):
            for start, length in self._taken[kind]:
                self.free_runs[kind].add(start, length)
        self._clear_transaction()

    def alloc(self, n: int, kind: int) -> int:
        """Take ``n`` adjacent pages and return the first; the file grows if need be.

        Bulk runs of 64 KiB and more start at multiples of 64 KiB, those of 2 MiB where a zone starts.
        Raises DiskFullError.
        """
        align = self._alignment(n) if kind == fmt.FREE_BULK else 1
        start = self._recycled[kind].take(n, align)
        if start is None:
            start = self._take(n, kind, align)
            self._taken[kind].add(start, n)
        if self._marks:
            self._log.append((start, n, kind))
        return start

    def _alignment(self, n: int) -> int:
        for size in (fmt.ZONE_SIZE, fmt.BLOCK_SIZE):
            pages = size // self._store.page_size
            if n >= pages > 1:
                return pages
        return 1

    def alloc_pages(self, n: int, kind: int) -> list[tuple[int, int]]:
        """Take ``n`` pages wherever they lie; returns (first, pages) of each run.  Raises DiskFullError."""
        found = []
        recycled, free = self._recycled[kind], self.free_runs[kind]
        missing = n - recycled.pages
        if missing > 0:
            floor = missing + (RESERVE if kind == fmt.FREE_INDEX and not self.spend_reserve else 0)
            if free.pages < floor:
                self.reclaim()
            if free.pages < floor:
                self._grow(floor - free.pages, kind)
        while n:
            fresh = not recycled.pages
            run = (free if fresh else recycled).take_some(n)
            if fresh:
                self._taken[kind].add(*run)
            found.append(run)
            n -= run[1]
        if self._marks:
            self._log += [(start, length, kind) for start, length in found]
        return found

    def _take(self, n: int, kind: int, align: int) -> int:
        runs = self.free_runs[kind]
        floor = RESERVE + n if kind == fmt.FREE_INDEX and not self.spend_reserve else 0
        start = runs.take(n, align) if runs.pages >= floor else None
        if start is None:
            self.reclaim()
            start = runs.take(n, align) if runs.pages >= floor else None
        if start is None:
            self._grow(n, kind)  # zones start at multiples of every alignment
            start = runs.take(n, align)
        assert start is not None
        return start

    def _grow(self, n: int, kind: int) -> None:
        """Append whole zones with room for ``n`` pages."""
        page_size = self._store.page_size
        zone = fmt.ZONE_SIZE // page_size
        first = self.pages
        last = -(-(first + n) // zone) * zone
        if last >= fmt.MAX_PAGES:
            raise DiskFullError(
                f"the store has {first} pages of {page_size} bytes, and at most {fmt.MAX_PAGES} can be named; "
                "make a store with a larger page_size and copy the data"
            )
        self._store.grow(last * page_size)
        self.free_runs[kind].add(first, last - first)
        self._grown.append(Held(first, last - first, 0, 0, kind))
        self.pages = last

    def free(self, start: int, n: int, born: int, kind: int) -> None:
        """Give a run back.  One that this transaction took is in no root, so it is used again at once,
        unless a savepoint may want it back."""
        if born == self._txn and not self._marks:
            self._recycled[kind].add(start, n)
        else:
            self._given.append(Held(start, n, born, self._txn, kind))

    def mark(self) -> tuple[int, int]:
        """A savepoint, for ``rollback`` or ``release``; they nest."""
        mark = (len(self._given), len(self._log))
        self._marks.append(mark)
        return mark

    def rollback(self, mark: tuple[int, int]) -> None:
        """Undo what was taken and given since ``mark``, and forget it."""
        given, log = mark
        del self._given[given:]
        for start, n, kind in self._log[log:]:
            self._recycled[kind].add(start, n)
        del self._log[log:]
        self.release(mark)

    def release(self, mark: tuple[int, int]) -> None:
        """Forget ``mark``; what was done since stays."""
        assert self._marks and self._marks[-1] == mark, "savepoints end in the reverse of their order"
        self._marks.pop()
        if not self._marks:
            self._log.clear()

    def forget(self) -> None:
        """Something failed behind ``seal``: the next ``load`` reads everything anew."""
        self.state = None
        self._clear()

    # --- reuse --------------------------------------------------------------------------------------

    def reclaim(self, alone: bool = False) -> None:
        """Move held runs that no needed root lived with to the free ones; ``alone``: no reader needs grace."""
        published = self._published()
        passed = []
        for held, grace in zip(self.held, _GRACE, strict=True):
            while held and held[0].freed + (0 if alone else grace) <= published:
                passed.append(held.popleft())
        if not passed and not self.blocked:
            return
        self.reclaimed_at = published
        needed = self._needed()
        if self.blocked and needed != self._blocked_by:
            passed += self.blocked
            self.blocked = []
            self.blocked_pages = 0
        self._blocked_by = needed
        for run in passed:
            if any(low < run.freed and high >= run.born for low, high in needed[run.kind]):
                self.blocked.append(run)
                self.blocked_pages += run.length
            else:
                self.free_runs[run.kind].add(run.start, run.length)

    def cut(self) -> int:
        """Take whole free zones at the end of the store out of it (inside a transaction); returns how many pages."""
        zone = fmt.ZONE_SIZE // self._store.page_size
        before = self.pages
        found = True
        while found:
            found = False
            for free, taken in zip(self.free_runs, self._taken, strict=True):
                run = free.last()
                low = max(zone, -(-run[0] // zone) * zone) if run else self.pages
                if run and run[0] + run[1] == self.pages > low:
                    free.remove(low, self.pages - low)
                    taken.add(low, self.pages - low)
                    self.pages, found = low, True
        return before - self.pages

    # --- commit -------------------------------------------------------------------------------------

    def seal(self) -> FreeState:
        """Write this transaction's delta (or the whole list) behind the committed bytes.

        Returns the list's new places for the root; from here on the list is that root's.
        """
        given = []
        for run in self._given:
            if run.born == self._txn:  # kept for a savepoint, and in no root
                self._recycled[run.kind].add(run.start, run.length)
            else:
                given.append(run)
        if any(runs.pages for runs in self._recycled):
            for kind in (fmt.FREE_INDEX, fmt.FREE_BULK):
                for start, length in self._recycled[kind]:
                    self._taken[kind].remove(start, length)
                    self.free_runs[kind].add(start, length)
            self._recycled = (RunSet(), RunSet())
        state = self.state
        assert state is not None
        taken = [run for runs in self._taken for run in runs]
        size = freefile.delta_size(len(given) + len(self._grown), len(taken))
        if state.consolidation and state.delta_bytes + size <= state.delta_pages * self._store.page_size:
            state = freefile.append_delta(self._store, state, [*given, *self._grown], taken, self._txn)
        else:
            if state.consolidation:
                pages = state.pages + state.delta_pages
                given.append(Held(state.page, pages, state.consolidation, self._txn, fmt.FREE_INDEX))
            state = self._consolidate(given)
        for run in given:
            self.held[run.kind].append(run)
        self._grown.clear()
        self._clear_transaction()
        self.state = state
        return state

    def _consolidate(self, given: list[Held]) -> FreeState:
        page_size = self._store.page_size
        count = sum(map(len, self.free_runs)) + sum(map(len, self.held)) + len(self.blocked) + len(given)
        pages = freefile.list_pages(count + 8, page_size)  # taking the run itself may split a few
        deltas = max(pages, _DELTA_MIN // page_size)
        page = self.alloc(pages + deltas, fmt.FREE_INDEX)
        runs = [
            Held(start, length, 0, 0, kind)
            for kind in (fmt.FREE_INDEX, fmt.FREE_BULK)
            for start, length in self.free_runs[kind]
        ]
        runs += sorted([*self.blocked, *self.held[0], *self.held[1], *given], key=lambda run: run.freed)
        return freefile.write_list(self._store, runs, page, pages, deltas, self._txn)
