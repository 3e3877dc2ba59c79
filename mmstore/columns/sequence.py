"""A growable sequence of bytes in runs of pages: what columns and arrays are made of.

::

    bytes     0 ........... 64 KiB ........... 128 KiB ...... length ...... capacity
              |  sealed block 0  |  sealed block 1  |    tail    |  unused     |
    runs      [p][p][pp][pppp][ pppppppp ][   16 pages    ][      20 pages     ]
    sums      [ checksum 0 | checksum 1 ]                 the tail's checksum is in the state

A `Sequence` is a value; `append` and its like return another one, and the transaction that commits it makes it
count.  New bytes are written at once, behind the committed length, into the room of the last run and into new
runs, which grow by a quarter, so that appending never copies.

The invariant is I1: bytes that a committed root shows are never written.  Behind `length` lies only what no root
ever showed, unless the sequence was truncated: then `high`, the largest length that a root may have given it, is
beyond `length`, and the next append first copies the shared page to a new run.  A rolled-back or crashed append
leaves garbage behind the committed length, which nobody reads.

Every sealed block of 64 KiB has an xxh3 checksum, seeded with its number, in a second list of runs of the same
kind; the state carries the tail's.  An append hashes on from the tail, and so finds damage there instead of
putting a fresh checksum over it.

Called by tables and arrays inside a write transaction; the read-only functions by anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import xxhash

from mmstore import format as fmt
from mmstore.errors import CorruptError, FormatError

__all__ = [
    "EMPTY",
    "Extent",
    "Runs",
    "Sequence",
    "Source",
    "Space",
    "append",
    "block_checksum",
    "free",
    "read",
    "truncate",
    "unpack",
    "verify",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

PIECE: Final = 1 << 20  # largest single write
SUM_SIZE: Final = 8
_SUM = np.dtype("<u8")
_EXTENT = fmt.EXTENT.struct
_SEQUENCE = fmt.SEQUENCE


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


@lru_cache(maxsize=4096)  # each transaction meets the runs that the one before left
def _unpack_runs(packed: bytes) -> Runs:
    runs = Runs.of(Extent(*fields) for fields in _EXTENT.iter_unpack(packed))
    if not all(run.pages for run in runs):
        raise CorruptError("a run has no pages; none is ever written so")
    return runs


NO_RUNS: Final = Runs.of(())


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


@dataclass(frozen=True, slots=True)
class Sequence:
    """The state of a sequence, as a catalog entry holds it."""

    length: int
    """Bytes."""
    high: int
    """The largest length that a root may have given the last run; at least `length`."""
    tail_checksum: int
    """Of the bytes behind the last sealed block."""
    runs: Runs
    sums_runs: Runs
    """Of the checksum sequence: a u64 for each sealed block."""

    @property
    def blocks(self) -> int:
        """Sealed blocks."""
        return self.length // fmt.BLOCK_SIZE

    def pack(self) -> bytes:
        head = _SEQUENCE.pack({
            "length": self.length,
            "high": self.high,
            "tail_checksum": self.tail_checksum,
            "runs": len(self.runs),
            "sums_runs": len(self.sums_runs),
            "bits": 0,
            "flags": 0,
            "reserved": 0,
            "reserved2": 0,
        })
        return head + self.runs.packed + self.sums_runs.packed


def block_checksum(data: Buffer, block: int) -> int:
    """Checksum of the block number `block`, or of the part of it that is there."""
    return xxhash.xxh3_64_intdigest(data, seed=block)


EMPTY: Final = Sequence(0, 0, block_checksum(b"", 0), NO_RUNS, NO_RUNS)


def unpack(buffer: Buffer, offset: int, page_size: int, pages: int) -> tuple[Sequence, int]:
    """The sequence at `offset` of `buffer` and where it ends there.

    pages: of the root that the entry belongs to; no run may lie behind.

    Raises `CorruptError` unless all runs lie in the file and have room for what they should hold, so that whoever
    reads by a `Sequence` stays inside the file.
    """
    if len(buffer) - offset < _SEQUENCE.size:
        raise CorruptError(f"a sequence needs {_SEQUENCE.size} bytes, its entry has {len(buffer) - offset} left")
    head = _SEQUENCE.unpack(buffer, offset)
    if head["bits"] or head["flags"] or head["reserved"] or head["reserved2"]:
        raise FormatError("a sequence has flags that this mmstore doesn't know; open the file with a newer version")
    offset += _SEQUENCE.size
    n, n_sums, length = head["runs"], head["sums_runs"], head["length"]
    end = offset + (n + n_sums) * _EXTENT.size
    if end > len(buffer):
        raise CorruptError(f"a sequence has {n + n_sums} runs, its entry has {len(buffer) - offset} bytes for them")
    middle = offset + n * _EXTENT.size
    runs, sums_runs = _unpack_runs(bytes(buffer[offset:middle])), _unpack_runs(bytes(buffer[middle:end]))
    _check_runs(runs, length, page_size, pages)
    _check_runs(sums_runs, length // fmt.BLOCK_SIZE * SUM_SIZE, page_size, pages)
    if head["high"] < length:
        raise CorruptError(f"a sequence of {length} bytes claims to have had {head['high']} at most")
    return Sequence(length, head["high"], head["tail_checksum"], runs, sums_runs), end


def _check_runs(runs: Runs, length: int, page_size: int, pages: int) -> None:
    first = fmt.FIXED_SIZE // page_size
    if runs and (runs.first < first or runs.end > pages):
        page = runs.first if runs.first < first else runs.end - 1
        raise CorruptError(f"a run reaches page {page}, outside the pages {first} to {pages}", page=page)
    if runs.pages > pages or runs.pages * page_size < length:
        raise CorruptError(f"{runs.pages} pages of {page_size}, in a file of {pages}, can't hold {length} bytes")


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


def _pieces(source: Source, runs: Runs, start: int, stop: int) -> Iterator[tuple[int, Buffer]]:
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


def read(state: Sequence, source: Source, start: int, stop: int) -> bytes:
    """A copy of the bytes [start, stop)."""
    assert 0 <= start <= stop <= state.length
    return b"".join(piece for _, piece in _pieces(source, state.runs, start, stop))


def _sums(state: Sequence, source: Source, first: int) -> np.ndarray[Any, Any]:
    """The checksums of the sealed blocks from number `first` on."""
    start, stop = first * SUM_SIZE, state.blocks * SUM_SIZE
    return np.frombuffer(b"".join(piece for _, piece in _pieces(source, state.sums_runs, start, stop)), _SUM)


def verify(state: Sequence, source: Source, first: int = 0) -> Iterator[CorruptError]:
    """Every block, from number `first` on, whose bytes contradict its checksum or can't be read.

    The errors are yielded, not raised: check() lists them all, whoever wants to read raises the first.
    """
    try:
        sums = _sums(state, source, first).tolist()
    except CorruptError as error:
        yield error
        return
    for block, expected in enumerate([*sums, state.tail_checksum], first):
        start = block * fmt.BLOCK_SIZE
        try:
            _check_block(state, source, start, min(start + fmt.BLOCK_SIZE, state.length), expected)
        except CorruptError as error:
            yield error


def _check_block(state: Sequence, source: Source, start: int, stop: int, expected: int) -> Any:
    """The running hash over a block's bytes [start, stop), which must come to `expected`."""
    running = xxhash.xxh3_64(seed=start // fmt.BLOCK_SIZE)
    at = None
    for offset, piece in _pieces(source, state.runs, start, stop):
        at = offset if at is None else at
        running.update(piece)
    if running.intdigest() != expected:
        raise CorruptError(
            f"bytes {start} to {stop} of a column contradict their checksum: expected {expected:016x}, "
            f"found {running.intdigest():016x}; restore the file from a backup",
            page=None if at is None else at // source.page_size,
            offset=at,
        )
    return running


# --- writing -----------------------------------------------------------------------------------------


def append(state: Sequence, data: Any, space: Space) -> Sequence:
    """The sequence with the bytes of `data` behind it.

    data: a contiguous buffer; it is read before this returns and not kept.

    Raises `DiskFullError`, and `CorruptError` where the tail is damaged; what was allocated until then is in no
    `Sequence`, so the caller rolls the allocator back to where it was.
    """
    data = memoryview(data).cast("B")
    if not len(data):
        return state
    if state.high > state.length:
        state = _own_tail(state, space)
    length = state.length + len(data)
    sums, tail_checksum = _hash_on(state, data, space)
    runs = _write(state.runs, state.length, data, space)
    sums_runs = _write(state.sums_runs, state.blocks * SUM_SIZE, sums, space) if sums else state.sums_runs
    return Sequence(length, length, tail_checksum, runs, sums_runs)


def truncate(state: Sequence, length: int, space: Space) -> Sequence:
    """The first `length` bytes of the sequence; the pages behind them are freed."""
    assert 0 <= length <= state.length
    if length == state.length:
        return state
    if length == 0:
        free(state, space)
        return EMPTY
    block = length // fmt.BLOCK_SIZE
    start, stop = block * fmt.BLOCK_SIZE, min((block + 1) * fmt.BLOCK_SIZE, state.length)
    expected = int(_sums(state, space, block)[0]) if block < state.blocks else state.tail_checksum
    _check_block(state, space, start, stop, expected)
    tail_checksum = block_checksum(read(state, space, start, length), block)
    runs = _cut(state.runs, -(-length // space.page_size), space)
    sums_runs = _cut(state.sums_runs, -(-block * SUM_SIZE // space.page_size), space)
    return Sequence(length, state.high, tail_checksum, runs, sums_runs)


def free(state: Sequence, space: Space) -> None:
    """Give all pages back."""
    for run in state.runs + state.sums_runs:
        space.free(run.start, run.pages, run.born, fmt.FREE_BULK)


def _hash_on(state: Sequence, data: memoryview, space: Space) -> tuple[bytes, int]:
    """(checksums of the blocks that `data` seals, checksum of the tail behind them)."""
    block = state.blocks
    start = block * fmt.BLOCK_SIZE
    running = _check_block(state, space, start, state.length, state.tail_checksum)
    position = start + fmt.BLOCK_SIZE - state.length
    running.update(data[:position])
    if position > len(data):
        return b"", running.intdigest()
    sums = [running.intdigest()]
    while position + fmt.BLOCK_SIZE <= len(data):
        sums.append(block_checksum(data[position : position + fmt.BLOCK_SIZE], block + len(sums)))
        position += fmt.BLOCK_SIZE
    return np.array(sums, _SUM).tobytes(), block_checksum(data[position:], block + len(sums))


def _own_tail(state: Sequence, space: Space) -> Sequence:
    """The same bytes, the last page's moved to a run behind which no root ever saw anything (I1)."""
    runs = _copy_tail(state.runs, state.length, space)
    sums_runs = _copy_tail(state.sums_runs, state.blocks * SUM_SIZE, space)
    return replace(state, high=state.length, runs=runs, sums_runs=sums_runs)


def _copy_tail(runs: Runs, length: int, space: Space) -> Runs:
    whole = length // space.page_size
    tail = b"".join(piece for _, piece in _pieces(space, runs, whole * space.page_size, length))
    kept = _cut(runs, whole, space)
    return _write(kept, whole * space.page_size, memoryview(tail), space) if tail else kept


def _cut(runs: Runs, pages: int, space: Space) -> Runs:
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


def _write(runs: Runs, position: int, data: Any, space: Space) -> Runs:
    """Write `data` at byte `position` of `runs`, lengthened as need be; returns them."""
    data = memoryview(data)
    page_size = space.page_size
    end = position + len(data)
    missing = -(-end // page_size) - runs.pages
    if missing > 0:
        runs = _lengthen(runs, missing, space)
    done = 0
    pieces: list[tuple[int, Buffer]] = []
    for offset, n in _segments(runs, page_size, position, end):
        for at in range(0, n, PIECE):
            size = min(PIECE, n - at)
            pieces.append((offset + at, data[done : done + size]))
            done += size
    space.place(pieces)
    return runs


def _lengthen(runs: Runs, missing: int, space: Space) -> Runs:
    """`runs` with at least `missing` more pages: doubled up to 64 KiB, then a quarter more in whole blocks."""
    align = max(1, fmt.BLOCK_SIZE // space.page_size)
    pages = max(missing, runs.pages if runs.pages < align else runs.pages // 4)
    if runs.pages + pages > align:
        pages = -(-pages // align) * align
    start = space.alloc(pages, fmt.FREE_BULK)
    return Runs.of((*_joined(runs, space.txn), Extent(start, pages, space.txn)))


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
