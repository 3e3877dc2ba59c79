"""Extents: the runs of pages where the bytes of a sequence lie in the file, and how they grow.

::

    bytes     0 ...................................................... capacity
    runs      [p][p][pp][pppp][ pppppppp ][   16 pages    ][      20 pages     ]

New runs double the whole up to 64 KiB and then add a quarter, in blocks of 64 KiB, so that growing never copies and
a sequence of any length has a few dozen of them.

Everything here is told what to read and write: what may be overwritten (I1) is the business of `sequence`, the
only caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from mmstore import format as fmt
from mmstore.errors import CorruptError

__all__ = [
    "NO_RUNS",
    "Buffer",
    "Extent",
    "Runs",
    "Source",
    "Space",
    "cut",
    "gather",
    "own",
    "pieces",
    "replace_pages",
    "scattered",
    "unpack",
    "write",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

PIECE: Final = 1 << 20  # largest single write
_LARGE: Final = fmt.ZONE_SIZE // 3  # a write from which on it pays to fill a zone first (ADR 32)
_FEW: Final = 8  # runs that aren't worth a thought
_EXTENT = fmt.EXTENT.struct


class Extent(NamedTuple):
    """A run of adjacent pages and the transaction that took it from the free list (or an older one's id)."""

    start: int
    pages: int
    born: int


class Runs(tuple[Extent, ...]):
    """Runs in their order, with what every append and every look at an entry asks about them."""

    pages: int
    """In all."""
    first: int
    """Lowest page."""
    end: int
    """Behind the highest page."""
    packed: bytes

    @classmethod
    def of(cls, extents: Iterable[Extent]) -> Runs:
        runs = cls(extents)
        runs.pages = sum(run.pages for run in runs)
        runs.first = min((run.start for run in runs), default=fmt.MAX_PAGES)
        runs.end = max((run.start + run.pages for run in runs), default=0)
        runs.packed = b"".join(_EXTENT.pack(*run) for run in runs)
        return runs


NO_RUNS: Final = Runs.of(())


@lru_cache(maxsize=4096)  # each transaction meets the runs that the one before left
def _decode(packed: bytes) -> Runs:
    runs = Runs.of(Extent(*fields) for fields in _EXTENT.iter_unpack(packed))
    if not all(run.pages for run in runs):
        raise CorruptError("a run has no pages; none is ever written so")
    return runs


def unpack(packed: bytes, length: int, page_size: int, pages: int) -> Runs:
    """The runs packed in `packed`.

    Raises `CorruptError` unless they lie behind the fixed area and before page `pages`, and have room for `length`
    bytes.
    """
    runs = _decode(packed)
    first = fmt.FIXED_SIZE // page_size
    if runs and (runs.first < first or runs.end > pages):
        page = runs.first if runs.first < first else runs.end - 1
        raise CorruptError(f"a run reaches page {page}, outside the pages {first} to {pages}", page=page)
    if runs.pages > pages or runs.pages * page_size < length:
        raise CorruptError(f"{runs.pages} pages of {page_size}, in a file of {pages}, can't hold {length} bytes")
    return runs


@dataclass(frozen=True, slots=True)
class Source:
    """Where committed pages are read from."""

    page_size: int
    read: Callable[[int, int], Buffer]
    """(file offset, n) -> n bytes; fewer at the file's end."""

    @classmethod
    def of(cls, mem: memoryview, page_size: int) -> Source:
        """Reads from a mapping of the file."""
        return cls(page_size, lambda offset, n: mem[offset : offset + n])


@dataclass(frozen=True, slots=True)
class Space(Source):
    """What a write transaction offers: it reads its own placed bytes, too."""

    txn: int
    alloc: Callable[[int, int], int]
    """(pages, kind) -> first page."""
    free: Callable[[int, int, int, int], None]
    """(start, pages, born, kind)."""
    place: Callable[[list[tuple[int, Buffer]]], None]
    """Write buffers at file offsets."""
    savepoints: Callable[[], bool] = lambda: True
    """Whether a savepoint may want back what the transaction has written so far."""

    words: dict[int, Any] = field(default_factory=dict)
    """What `words` knows; the transaction's, or its handle's."""
    tails: dict[tuple[int, int], Any] = field(default_factory=dict)
    """(length, checksum) of a tail -> the running hash that came to it; likewise."""
    begin_zone: Callable[[int], None] = lambda offset: None
    """Told of a zone of the file before its first bytes are placed, when the rest will come piece by piece."""

    def keeping(self) -> tuple[Space, Callable[[], None]]:
        """This space, but what is freed through it can be read until the function behind it was called."""
        freed: list[tuple[int, int, int, int]] = []

        def release() -> None:
            for run in freed:
                self.free(*run)

        return replace(self, free=lambda *run: freed.append(run)), release


# --- reading -----------------------------------------------------------------------------------------


def _segments(runs: Runs, page_size: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """(file offset, n) of the pieces that hold bytes [start, stop)."""
    if runs and start >= (begin := (runs.pages - runs[-1].pages) * page_size):  # the usual place of a tail
        if stop > start:
            yield runs[-1].start * page_size + start - begin, stop - start
        return
    begin = 0
    for run in runs:
        size = run.pages * page_size
        low, high = max(start, begin), min(stop, begin + size)
        if low < high:
            yield run.start * page_size + low - begin, high - low
        begin += size
        if begin >= stop:
            return


def pieces(source: Source, runs: Runs, start: int, stop: int) -> Iterator[tuple[int, Buffer]]:
    """(file offset, buffer) that together are bytes [start, stop) of `runs`."""
    for offset, n in _segments(runs, source.page_size, start, stop):
        piece = source.read(offset, n)
        if len(piece) != n:
            raise CorruptError(
                f"expected {n} bytes, the file has {len(piece)} left: it was cut off; restore it from a backup",
                page=offset // source.page_size,
                offset=offset,
            )
        yield offset, piece


def gather(source: Source, runs: Runs, start: int, stop: int) -> bytes:
    """A copy of the bytes [start, stop) of `runs`."""
    return b"".join(piece for _, piece in pieces(source, runs, start, stop))


# --- writing -----------------------------------------------------------------------------------------


def cut(runs: Runs, pages: int, space: Space) -> Runs:
    """The first `pages` pages of `runs`; the others are freed."""
    kept = []
    for run in runs:
        n = min(run.pages, pages)
        pages -= n
        if n:
            kept.append(run._replace(pages=n))
        if n < run.pages:
            space.free(run.start + n, run.pages - n, run.born, fmt.FREE_BULK)
    return Runs.of(kept)


def own(runs: Runs, page: int, n: int, space: Space) -> bool:
    """Whether the pages [page, page + n) of `runs` are of this transaction alone, so that they may be written over."""
    if space.savepoints():
        return False
    begin = 0
    for run in runs:
        if begin < page + n and page < begin + run.pages and run.born != space.txn:
            return False
        begin += run.pages
    return True


def replace_pages(runs: Runs, page: int, data: Any, space: Space) -> Runs:
    """`runs` with whole pages from number `page` on replaced by `data`, on pages of their own (I1); the old are freed.

    The last page of `runs` is not among them: what lies behind it may be written by a later append.
    """
    n = -(-len(data) // space.page_size)
    assert page + n <= runs.pages
    start = space.alloc(n, fmt.FREE_BULK)
    space.place([(start * space.page_size + at, data[at : at + PIECE]) for at in range(0, len(data), PIECE)])
    new: list[Extent] = []
    begin = 0
    for run in runs:
        end = begin + run.pages
        before, behind = max(0, min(page, end) - begin), max(0, end - max(page + n, begin))
        if before:
            new.append(run._replace(pages=before))
        if begin <= page < end:
            new.append(Extent(start, n, space.txn))
        if before + behind < run.pages:
            space.free(run.start + before, run.pages - before - behind, run.born, fmt.FREE_BULK)
        if behind:
            new.append(Extent(run.start + run.pages - behind, behind, run.born))
        begin = end
    return Runs.of(new)


def write(runs: Runs, position: int, data: Any, space: Space) -> Runs:
    """Write `data` at byte `position` of `runs`, lengthened as need be; returns them."""
    data = memoryview(data)
    page_size = space.page_size
    end = position + len(data)
    missing = -(-end // page_size) - runs.pages
    if missing > 0:
        runs = _lengthen(runs, missing, space)
    last = runs[-1]
    begin = (runs.pages - last.pages) * page_size
    if len(data) >= _LARGE:
        _begin_zone(last, max(position - begin, 0), end - begin, space)
    if begin <= position and end - position <= PIECE:  # all of it in the last run, as most are
        space.place([(last.start * page_size + position - begin, data)])
        return runs
    done = 0
    writes: list[tuple[int, Buffer]] = []
    for offset, n in _segments(runs, page_size, position, end):
        for at in range(0, n, PIECE):
            size = min(PIECE, n - at)
            writes.append((offset + at, data[done : done + size]))
            done += size
    space.place(writes)
    return runs


def _begin_zone(run: Extent, start: int, stop: int, space: Space) -> None:
    """Say so if bytes [start, stop) of `run`, the last that it has, are the first of a zone but don't fill it."""
    first = run.start * space.page_size
    zone = (first + stop) // fmt.ZONE_SIZE * fmt.ZONE_SIZE
    if first + start <= zone < first + stop and zone + fmt.ZONE_SIZE <= first + run.pages * space.page_size:
        space.begin_zone(zone)


def _lengthen(runs: Runs, missing: int, space: Space) -> Runs:
    """`runs` with at least `missing` more pages: doubled up to 64 KiB, then a quarter more in whole blocks.

    Runs as large as a zone are whole zones, which the system can map and read in its largest pieces.
    """
    align = max(1, fmt.BLOCK_SIZE // space.page_size)
    pages = max(missing, runs.pages if runs.pages < align else runs.pages // 4)
    if runs.pages + pages > align:
        pages = -(-pages // align) * align
    zone = fmt.ZONE_SIZE // space.page_size
    if pages >= zone:
        pages = -(-pages // zone) * zone
    start = space.alloc(pages, fmt.FREE_BULK)
    return Runs.of((*_joined(runs, space.txn), Extent(start, pages, space.txn)))


def scattered(runs: Runs, page_size: int) -> bool:
    """Whether there are far more runs than growth alone makes: page by page, it would have at most half of them."""
    align = max(1, fmt.BLOCK_SIZE // page_size)
    grown, pages = 0, 0
    while pages < runs.pages and 2 * grown + _FEW < len(runs):
        pages += max(1, pages) if pages < align else max(align, pages // 4)  # as `_lengthen` does it
        grown += 1
    return 2 * grown + _FEW < len(runs)


def _joined(runs: Runs, txn: int) -> Iterator[Extent]:
    """The runs, those that happen to be neighbours in the file made one: fewer to map, a shorter entry.

    The older birth holds for both, which only keeps them longer.  A run of this transaction's own stays apart: the
    free list tells by its birth that no root knows it.
    """
    last: Extent | None = None
    for run in runs:
        if last is not None and last.start + last.pages == run.start and max(last.born, run.born) < txn:
            last = Extent(last.start, last.pages + run.pages, min(last.born, run.born))
        else:
            if last is not None:
                yield last
            last = run
    if last is not None:
        yield last
