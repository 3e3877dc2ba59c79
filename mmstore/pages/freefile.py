"""The free list as the file keeps it, part of the root.

A consolidated list of entries, and behind it, in the same run of pages, an area into which each transaction
appends one *delta* (the runs it took, the runs it gave), behind the committed length and so without copying a
page.  A full area, or another writer's consolidation, means a list written or read anew::

    | entries, sorted        | delta txn 7 | delta txn 8 | ...free... |
    ^ free.page               ^ free.delta_page            ^ delta_bytes

Within a delta the given runs come first in time: a transaction may give a new zone and take from it.
Nothing that is read is trusted (I6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import xxhash

from mmstore import format as fmt
from mmstore.errors import CorruptError
from mmstore.kernels.books import Run
from mmstore.kernels.runset import RunSet
from mmstore.pages.root import FreeState, Root

__all__ = [
    "Held",
    "Piece",
    "Store",
    "list_pages",
    "load_entries",
    "new_list",
    "read_deltas",
    "subtract",
]

_ENTRY = fmt.FREE_ENTRY.struct
_DELTA = fmt.DELTA.struct

Piece = tuple[int, bytes | bytearray]  # where in the file, what


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
    def grow(self, to: int) -> None: ...


def list_pages(entries: int, page_size: int) -> int:
    """Pages of a consolidated list with so many entries."""
    return -(-entries * _ENTRY.size // page_size)


def new_list(
    page_size: int, runs: Sequence[Run], page: int, pages: int, deltas: int, txn: int
) -> tuple[FreeState, Piece]:
    """All ``runs``, to be placed in ``pages`` pages from ``page`` on, an empty area of ``deltas`` pages behind them."""
    body = b"".join(_ENTRY.pack(*run, 0) for run in runs)
    assert len(body) <= pages * page_size
    checksum = xxhash.xxh3_64_intdigest(body)
    return FreeState(page, pages, len(body), checksum, page + pages, deltas, 0, checksum, txn), (page * page_size, body)


# --- reading -----------------------------------------------------------------------------------------


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
    deltas = list(read_deltas(store, free, 0, free.checksum))
    # Backwards in time each taken page meets the one run that gave it.
    later = RunSet()
    found: list[Held] = []
    base = [Held(*values[:5]) for values in _ENTRY.iter_unpack(body)]
    for given, taken in [*reversed(deltas), (base, RunSet())]:
        for start, length in taken:
            _check(not later.overlap(start, length), free.delta_page, f"takes pages {start}+{length} twice")
            later.add(start, length)
        for run in reversed(given):
            found += list(subtract([run], later))
            later.remove(run.start, run.length)
    _check(not later.pages, free.delta_page, "takes pages that were not free")
    own = Held(free.page, free.pages + free.delta_pages, 0, 0, fmt.FREE_INDEX)
    _check_disjoint([*found, own], fmt.FIXED_SIZE // store.page_size, root.pages, free.page)
    found.reverse()
    return found


def read_deltas(store: Store, free: FreeState, start: int, chain: int) -> Iterator[tuple[list[Held], RunSet]]:
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
        good = all(entry.length and entry.kind <= fmt.FREE_BULK for entry in entries)
        _check(good, page, "names runs of no pages, or of no kind")
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


def subtract(runs: Iterable[Run], taken: RunSet) -> Iterator[Held]:
    """``runs`` without the pages in ``taken``."""
    for first, pages, *lived in runs:
        at = first
        for start, length in taken.overlap(first, pages):
            if start > at:
                yield Held(at, start - at, *lived)
            at = start + length
        if at < first + pages:
            yield Held(at, first + pages - at, *lived)
