"""The free list: which pages may be written, which are held for older roots, and how the file remembers it.

Every page behind the fixed area is reachable from the newest root, or held, or free (I5).  A run that lived
in the roots [born, freed) is *held* until no needed root lies in that interval and GRACE further roots have
been published since ``freed``; that grace is what lets readers without a pin be (I1, I2).  Value runs and
extents need no grace: they are read under a pin only.  Needed roots: the newest, the durable one, a
checkpoint's in the making, and those in any live pin interval.

In the file the list is part of the root: a consolidated list of entries, and behind it, in the same run of
pages, an area into which each transaction appends one *delta* (the runs it took, the runs it gave), behind
the committed length and so without copying a page.  A full area, or another writer's consolidation, means a
list written or read anew::

    | entries, sorted        | delta txn 7 | delta txn 8 | ...free... |
    ^ free.page               ^ free.delta_page            ^ delta_bytes

Within a delta the given runs come first in time: a transaction may give a new zone and take from it.
Called under the writer lock only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import xxhash

from mmstore import format as fmt
from mmstore.errors import CorruptError, DiskFullError
from mmstore.pages.pins import Interval
from mmstore.pages.root import FreeState, Root
from mmstore.pages.runset import RunSet

__all__ = ["FreeList", "Held", "load_entries"]

_ENTRY = fmt.FREE_ENTRY.struct
_DELTA = fmt.DELTA.struct
RESERVE = 32  # index pages that only a deleting transaction may use, so that a full disk can be emptied
_GRACE = (fmt.GRACE, 0)  # by kind
_LOW_WATER = 192  # index pages below which held runs are looked through when a transaction starts ...
_BATCH = 16  # ... if so many transactions' runs are ready: looking for pins costs as much as a commit
_DELTA_MIN = 64 << 10  # bytes of delta area that a consolidation provides at least


class Held(NamedTuple):
    """A free run and the roots [born, freed) that refer to it."""

    start: int
    length: int
    born: int
    freed: int
    kind: int


class Store(Protocol):
    """What the free list needs of the file."""

    page_size: int

    def pread(self, n: int, offset: int) -> bytes: ...
    def place(self, runs: list[tuple[int, bytes]]) -> None: ...
    def grow(self, to: int) -> None: ...


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
            for given, taken in _read_deltas(self._store, free, state.delta_bytes, state.delta_chain):
                self._apply(given, taken)
        else:
            self._clear()
            for entry in load_entries(self._store, root):
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
            self.held = (deque(_subtract(self.held[0], rest)), deque(_subtract(self.held[1], rest)))
            self.blocked = list(_subtract(self.blocked, rest))
            self.blocked_pages = sum(run.length for run in self.blocked)

    # --- a transaction ------------------------------------------------------------------------------

    def begin(self, txn: int) -> None:
        """Transaction ``txn`` starts: what it takes and gives is recorded until ``seal`` or ``abort``."""
        self._txn = txn
        self._clear_transaction()
        self._fresh = False
        held = self.held[fmt.FREE_INDEX]
        if self.free_runs[fmt.FREE_INDEX].pages < _LOW_WATER and held:
            if held[0].freed + fmt.GRACE + _BATCH <= self._published():
                self.reclaim()

    def abort(self) -> None:
        """Undo what was taken and given since ``begin``; the file stays as long as it grew."""
        for kind in (fmt.FREE_INDEX, fmt.FREE_BULK):
            for start, length in self._taken[kind]:
                self.free_runs[kind].add(start, length)
        self._clear_transaction()

    def alloc(self, n: int, kind: int) -> int:
        """Take ``n`` adjacent pages and return the first; the file grows if need be.

        Bulk runs of 64 KiB and more start at multiples of 64 KiB.  Raises DiskFullError.
        """
        align = max(1, fmt.BLOCK_SIZE // self._store.page_size)
        if kind == fmt.FREE_INDEX or n < align:
            align = 1
        start = self._recycled[kind].take(n, align)
        if start is None:
            start = self._take(n, kind, align)
            self._taken[kind].add(start, n)
        if self._marks:
            self._log.append((start, n, kind))
        return start

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
            self._grow(n + align - 1, kind)
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
            self._given.append(Held(start, n, born, 0, kind))

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
                given.append(run._replace(freed=self._txn))
        if any(runs.pages for runs in self._recycled):
            for kind in (fmt.FREE_INDEX, fmt.FREE_BULK):
                for start, length in self._recycled[kind]:
                    self._taken[kind].remove(start, length)
                    self.free_runs[kind].add(start, length)
            self._recycled = (RunSet(), RunSet())
        state = self.state
        assert state is not None
        taken = [run for runs in self._taken for run in runs]
        size = _DELTA.size + (len(given) + len(self._grown) + len(taken)) * _ENTRY.size
        if state.consolidation and state.delta_bytes + size <= state.delta_pages * self._store.page_size:
            state = self._append(state, [*given, *self._grown], taken)
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

    def _append(self, state: FreeState, given: list[Held], taken: list[tuple[int, int]]) -> FreeState:
        body = bytearray(_DELTA.pack(0, self._txn, len(taken), len(given)))
        for start, length in taken:
            body += _ENTRY.pack(start, length, 0, 0, 0, 0)
        for run in given:
            body += _ENTRY.pack(*run, 0)
        chain = xxhash.xxh3_64_intdigest(memoryview(body)[8:], state.delta_chain)
        body[:8] = chain.to_bytes(8, "little")
        self._store.place([(state.delta_page * self._store.page_size + state.delta_bytes, bytes(body))])
        return state._replace(delta_bytes=state.delta_bytes + len(body), delta_chain=chain)

    def _consolidate(self, given: list[Held]) -> FreeState:
        page_size = self._store.page_size
        count = sum(map(len, self.free_runs)) + sum(map(len, self.held)) + len(self.blocked) + len(given)
        pages = -(-(count + 8) * _ENTRY.size // page_size)
        deltas = max(pages, _DELTA_MIN // page_size)
        page = self.alloc(pages + deltas, fmt.FREE_INDEX)
        body = bytearray()
        for kind in (fmt.FREE_INDEX, fmt.FREE_BULK):
            for start, length in self.free_runs[kind]:
                body += _ENTRY.pack(start, length, 0, 0, kind, 0)
        for run in sorted([*self.blocked, *self.held[0], *self.held[1], *given], key=lambda run: run.freed):
            body += _ENTRY.pack(*run, 0)
        assert len(body) <= pages * page_size
        self._store.place([(page * page_size, bytes(body))])
        checksum = xxhash.xxh3_64_intdigest(body)
        return FreeState(page, pages, len(body), checksum, page + pages, deltas, 0, checksum, self._txn)


# --- reading it from the file ----------------------------------------------------------------------------


def load_entries(store: Store, root: Root) -> list[Held]:
    """The free list of ``root`` as the file has it, held runs in the order they were freed.

    Raises CorruptError where checksums, bounds or the accounting do not hold (I6).
    """
    free = root.free
    if not free.consolidation:
        fixed = fmt.FIXED_SIZE // store.page_size
        return [Held(fixed, root.pages - fixed, 0, 0, fmt.FREE_INDEX)] if root.pages > fixed else []
    _check(free.page and free.page + free.pages + free.delta_pages <= root.pages, free.page, "lies outside the file")
    _check(free.bytes <= free.pages * store.page_size and not free.bytes % _ENTRY.size, free.page, "has no such size")
    body = store.pread(free.bytes, free.page * store.page_size)
    _check(len(body) == free.bytes, free.page, "is cut short")
    _check(xxhash.xxh3_64_intdigest(body) == free.checksum, free.page, "contradicts its checksum")
    deltas = list(_read_deltas(store, free, 0, free.checksum))
    # Backwards in time each taken page meets the one run that gave it.
    later = RunSet()
    found: list[Held] = []
    base = [Held(*values[:5]) for values in _ENTRY.iter_unpack(body)]
    for given, taken in [*reversed(deltas), (base, RunSet())]:
        for start, length in taken:
            _check(not later.overlap(start, length), free.delta_page, f"takes pages {start}+{length} twice")
            later.add(start, length)
        for run in reversed(given):
            found += list(_subtract([run], later))
            later.remove(run.start, run.length)
    _check(not later.pages, free.delta_page, "takes pages that were not free")
    own = Held(free.page, free.pages + free.delta_pages, 0, 0, fmt.FREE_INDEX)
    _check_disjoint([*found, own], fmt.FIXED_SIZE // store.page_size, root.pages, free.page)
    found.reverse()
    return found


def _read_deltas(store: Store, free: FreeState, start: int, chain: int) -> Iterator[tuple[list[Held], RunSet]]:
    """(given, taken) of each delta committed from byte ``start`` of the delta area on."""
    page = free.delta_page
    _check(start <= free.delta_bytes <= free.delta_pages * store.page_size, page, "has no such size")
    data = store.pread(free.delta_bytes - start, page * store.page_size + start)
    _check(len(data) == free.delta_bytes - start, page, "is cut short")
    at = 0
    while at < len(data):
        _check(at + _DELTA.size <= len(data), page, "ends inside a delta")
        checksum, _, n_taken, n_given = _DELTA.unpack_from(data, at)
        stop = at + _DELTA.size + (n_taken + n_given) * _ENTRY.size
        _check(stop <= len(data), page, "ends inside a delta")
        _check(xxhash.xxh3_64_intdigest(data[at + 8 : stop], chain) == checksum, page, "contradicts its checksum")
        entries = [Held(*values[:5]) for values in _ENTRY.iter_unpack(data[at + _DELTA.size : stop])]
        _check(all(entry.length for entry in entries), page, "names runs of no pages")
        taken = RunSet()
        for entry in entries[:n_taken]:
            _check(not taken.overlap(entry.start, entry.length), page, "takes pages twice")
            taken.add(entry.start, entry.length)
        yield entries[n_taken:], taken
        at, chain = stop, checksum
    _check(chain == free.delta_chain, page, "contradicts its checksum")


def _check_disjoint(entries: list[Held], first: int, pages: int, page: int) -> None:
    at = first
    for run in sorted(entries):
        good = run.length and run.start >= at and run.start + run.length <= pages and run.kind <= fmt.FREE_BULK
        _check(good, page, f"names pages {run.start}+{run.length} of {pages}, or names them twice")
        at = run.start + run.length


def _check(condition: object, page: int, message: str) -> None:
    if not condition:
        raise CorruptError(f"the free list at page {page} {message}; run check(), restore a backup", page=page)


def _subtract(runs: Iterable[Held], taken: RunSet) -> Iterator[Held]:
    """``runs`` without the pages in ``taken``."""
    for run in runs:
        at = run.start
        for start, length in taken.overlap(run.start, run.length):
            if start > at:
                yield run._replace(start=at, length=start - at)
            at = start + length
        if at < run.start + run.length:
            yield run._replace(start=at, length=run.start + run.length - at)
