"""The free list: which pages may be written, which are held for older roots, and how the file remembers it.

Every page behind the fixed area is reachable from the newest root, or held, or free (I5).  A run that lived
in the roots [born, freed) is *held* until no needed root lies in that interval and GRACE further roots have
been published since ``freed``; that grace is what lets readers without a pin be (I1, I2).  Value runs and
extents need no grace: they are read under a pin only.  Needed roots: the newest, the durable one, a
checkpoint's in the making, and those in any live pin interval.

What a transaction takes and gives is booked by ``kernels.books``; how the file keeps the list is told in
``freefile``.  Called under the writer lock only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from operator import itemgetter

from mmstore import format as fmt
from mmstore.errors import DiskFullError
from mmstore.kernels.books import Books, Run
from mmstore.kernels.runset import RunSet
from mmstore.pages import freefile
from mmstore.pages.freefile import Piece, Store
from mmstore.pages.readers import Interval
from mmstore.pages.root import FreeState, Root

__all__ = ["FreeList"]

_GRACE = (fmt.GRACE, 0)  # by kind
_BATCH = 32  # transactions whose runs are ready before they are looked through: looking for pins isn't free
_DELTA_MIN = 64 << 10  # bytes of delta area that a consolidation provides at least


Needed = Callable[[], tuple[list[Interval], list[Interval]]]


class FreeList(Books):
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
        Books.__init__(self, store.page_size)

    def clear(self) -> None:
        Books.clear(self)
        self.blocked: list[Run] = []
        self.blocked_pages = 0
        self.reclaimed_at = 0
        """The published txn id when it was last seen which held runs are needed."""
        self._blocked_by: tuple[list[Interval], list[Interval]] | None = None

    # --- loading ------------------------------------------------------------------------------------

    def load(self, root: Root) -> None:
        """Bring the list to ``root``: nothing to do, the new deltas only, or all anew."""
        state, free = self.state, root.free
        grown = sum([zone[1] for zone in self.grown]) if self.grown else 0
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
            self.clear()
            for entry in freefile.load_entries(self._store, root):
                self._hold(entry)
        self.state, self.pages = free, root.pages

    def _hold(self, run: Run) -> None:
        start, length, _, freed, kind = run
        if freed:
            self.held[kind].append(run)
        else:
            self.free_runs[kind].add(start, length)

    def _apply(self, given: Iterable[Run], taken: RunSet) -> None:
        """Another writer's delta: its runs may be free here, or held still."""
        for run in given:
            self._hold(run)
        rest = RunSet()
        for start, length in taken:
            if sum(free.remove(start, length) for free in self.free_runs) < length:
                rest.add(start, length)
        if rest.pages:
            self.held = (deque(freefile.subtract(self.held[0], rest)), deque(freefile.subtract(self.held[1], rest)))
            self.blocked = list(freefile.subtract(self.blocked, rest))
            self.blocked_pages = sum(run[1] for run in self.blocked)

    # --- a transaction ------------------------------------------------------------------------------

    def begin(self, txn: int) -> None:
        """Transaction ``txn`` starts: what it takes and gives is recorded until ``seal`` or ``abort``."""
        self.start(txn)
        held = self.held[fmt.FREE_INDEX]
        if held and held[0][3] + fmt.GRACE + _BATCH <= self._published():
            self.reclaim()  # pages used lately before ones never used: fewer to write back

    def grow(self, n: int, kind: int) -> None:
        """Append whole zones with room for ``n`` pages."""
        page_size = self.page_size
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
        self.grown.append((first, last - first, 0, 0, kind))
        self.pages = last

    def forget(self) -> None:
        """Something failed behind ``seal``: the next ``load`` reads everything anew."""
        self.state = None
        self.clear()

    # --- reuse --------------------------------------------------------------------------------------

    def reclaim(self, alone: bool = False) -> None:
        """Move held runs that no needed root lived with to the free ones; ``alone``: no reader needs grace."""
        published = self._published()
        passed = []
        for held, grace in zip(self.held, _GRACE, strict=True):
            ready = published - (0 if alone else grace)
            while held and held[0][3] <= ready:
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
            start, length, born, freed, kind = run
            for low, high in needed[kind]:
                if low < freed and high >= born:
                    self.blocked.append(run)
                    self.blocked_pages += length
                    break
            else:
                self.free_runs[kind].add(start, length)

    def cut(self) -> int:
        """Take whole free zones at the end of the store out of it (inside a transaction); returns how many pages."""
        zone = fmt.ZONE_SIZE // self.page_size
        before = self.pages
        found = True
        while found:
            found = False
            for free, taken in zip(self.free_runs, self.taken, strict=True):
                run = free.last()
                low = max(zone, -(-run[0] // zone) * zone) if run else self.pages
                if run and run[0] + run[1] == self.pages > low:
                    free.remove(low, self.pages - low)
                    taken.add(low, self.pages - low)
                    self.pages, found = low, True
        return before - self.pages

    # --- commit -------------------------------------------------------------------------------------

    def seal(self) -> tuple[FreeState, Piece]:
        """End the transaction: its delta (or the whole list) is to be placed behind the committed bytes by the caller.

        Returns the list's new places for the root, and the piece; from here on the list is that root's.
        """
        state = self.state
        assert state is not None
        given, taken = self.settle()
        entries = len(given) + len(self.grown) + len(taken)
        size = state.delta_bytes + self.delta_size(entries)
        if state.consolidation and size <= state.delta_pages * self.page_size:
            body, chain = self.delta([*given, *self.grown], taken, state.delta_chain)
            piece: Piece = state.delta_page * self.page_size + state.delta_bytes, body
            state = FreeState(*state[:6], size, chain, state.consolidation)
        else:
            if state.consolidation:
                pages = state.pages + state.delta_pages
                given.append((state.page, pages, state.consolidation, self.txn, fmt.FREE_INDEX))
            state, piece = self._consolidate(given)
        for run in given:
            self.held[run[4]].append(run)
        self.grown.clear()
        self.start(self.txn)
        self.state = state
        return state, piece

    def _consolidate(self, given: list[Run]) -> tuple[FreeState, Piece]:
        page_size = self.page_size
        count = sum(map(len, self.free_runs)) + sum(map(len, self.held)) + len(self.blocked) + len(given)
        pages = freefile.list_pages(count + 8, page_size)  # taking the run itself may split a few
        deltas = max(pages, _DELTA_MIN // page_size)
        try:
            page = self.alloc(pages + deltas, fmt.FREE_INDEX)
        except DiskFullError:  # rather soon again than not at all
            deltas = 1
            page = self.alloc(pages + deltas, fmt.FREE_INDEX)
        runs = [
            (start, length, 0, 0, kind)
            for kind in (fmt.FREE_INDEX, fmt.FREE_BULK)
            for start, length in self.free_runs[kind]
        ]
        runs += sorted([*self.blocked, *self.held[0], *self.held[1], *given], key=itemgetter(3))
        return freefile.new_list(page_size, runs, page, pages, deltas, self.txn)
