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
kind; the state carries the tail's.  An append hashes on from the tail: from the running hash that an append
before has left behind, else from the tail's bytes, which are compared with their checksum first.  So damage there is
found, now or later, and never gets a fresh checksum put over it.

Called by tables and arrays inside a write transaction; the read-only functions by anyone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import xxhash

from mmstore import format as fmt
from mmstore.columns import extents
from mmstore.columns.extents import NO_RUNS, Buffer, Runs, Source, Space
from mmstore.errors import CorruptError, FormatError

__all__ = [
    "EMPTY",
    "Sequence",
    "Source",
    "Space",
    "append",
    "block_checksum",
    "check_block",
    "free",
    "gathered",
    "own_tail",
    "read",
    "require",
    "scattered",
    "sums",
    "truncate",
    "unpack",
    "verify",
]

SUM_SIZE: Final = 8
TAILS_KEPT: Final = 1024  # running hashes, of about 600 bytes each
_SUM = np.dtype("<u8")
_SEQUENCE = fmt.SEQUENCE
_PACK = fmt.SEQUENCE.struct.pack


class Sequence(NamedTuple):
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
    bits: int = 0
    """Of a bitmap: how many lie behind the last whole byte (see `bitmap`)."""
    last: int = 0
    """These bits."""

    @property
    def extent(self) -> int:
        """Bytes that are shown: `length`, and a bitmap's last byte."""
        return self.length + (self.bits > 0)

    @property
    def blocks(self) -> int:
        """Sealed blocks."""
        return self.length // fmt.BLOCK_SIZE

    def pack(self) -> bytes:
        runs, sums_runs = self.runs, self.sums_runs
        head = _PACK(
            self.length, self.high, self.tail_checksum, len(runs), len(sums_runs), self.bits, self.last, 0, 0
        )  # fmt: skip
        return head + runs.packed + sums_runs.packed


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
    if head["reserved"] or head["reserved2"]:
        raise FormatError("a sequence has fields that this mmstore doesn't know; open the file with a newer version")
    bits, last = head["bits"], head["last"]
    if bits > 7 or last >> bits:
        raise CorruptError(f"a bitmap can't end in {bits} bits {last:#x}")
    offset += _SEQUENCE.size
    n, n_sums, length = head["runs"], head["sums_runs"], head["length"]
    end = offset + (n + n_sums) * fmt.EXTENT.size
    if end > len(buffer):
        raise CorruptError(f"a sequence has {n + n_sums} runs, its entry has {len(buffer) - offset} bytes for them")
    middle = offset + n * fmt.EXTENT.size
    sums_length = length // fmt.BLOCK_SIZE * SUM_SIZE
    runs = extents.unpack(bytes(buffer[offset:middle]), length + (bits > 0), page_size, pages)
    sums_runs = extents.unpack(bytes(buffer[middle:end]), sums_length, page_size, pages)
    if head["high"] < length or (bits and head["high"] > length):  # the byte of the last bits is the state's own
        raise CorruptError(f"a sequence of {length} bytes claims to have had {head['high']} at most")
    return Sequence(length, head["high"], head["tail_checksum"], runs, sums_runs, bits, last), end


# --- reading -----------------------------------------------------------------------------------------


def read(state: Sequence, source: Source, start: int, stop: int) -> bytes:
    """A copy of the bytes [start, stop)."""
    assert 0 <= start <= stop <= state.length
    return extents.gather(source, state.runs, start, stop)


def sums(state: Sequence, source: Source, first: int, last: int | None = None) -> np.ndarray[Any, Any]:
    """The checksums of the sealed blocks [first, last); to the end without `last`."""
    start, stop = first * SUM_SIZE, (state.blocks if last is None else last) * SUM_SIZE
    return np.frombuffer(extents.gather(source, state.sums_runs, start, stop), _SUM)


def verify(state: Sequence, source: Source, first: int = 0) -> Iterator[CorruptError]:
    """Every block, from number `first` on, whose bytes contradict its checksum or can't be read.

    The errors are yielded, not raised: check() lists them all, whoever wants to read raises the first.
    """
    try:
        found = sums(state, source, first).tolist()
    except CorruptError as error:
        yield error
        return
    for block, expected in enumerate([*found, state.tail_checksum], first):
        start = block * fmt.BLOCK_SIZE
        try:
            check_block(state, source, start, min(start + fmt.BLOCK_SIZE, state.length), expected)
        except CorruptError as error:
            yield error


def require(state: Sequence, source: Source, start: int = 0) -> None:
    """Raise what is wrong with the blocks from byte `start` on: whoever writes them anew must not seal damage."""
    for error in verify(state, source, start // fmt.BLOCK_SIZE):
        raise error


def check_block(state: Sequence, source: Source, start: int, stop: int, expected: int) -> Any:
    """The running hash over a block's bytes [start, stop), which must come to `expected`."""
    running = xxhash.xxh3_64(seed=start // fmt.BLOCK_SIZE)
    at = None
    for offset, piece in extents.pieces(source, state.runs, start, stop):
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
        state = own_tail(state, space)
    length = state.length + len(data)
    sums, tail_checksum = _hash_on(state, data, space)
    runs = extents.write(state.runs, state.length, data, space)
    sums_runs = extents.write(state.sums_runs, state.blocks * SUM_SIZE, sums, space) if sums else state.sums_runs
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
    expected = int(sums(state, space, block, block + 1)[0]) if block < state.blocks else state.tail_checksum
    check_block(state, space, start, stop, expected)
    tail_checksum = block_checksum(read(state, space, start, length), block)
    runs = extents.cut(state.runs, -(-length // space.page_size), space)
    sums_runs = extents.cut(state.sums_runs, -(-block * SUM_SIZE // space.page_size), space)
    return Sequence(length, state.high, tail_checksum, runs, sums_runs)


def free(state: Sequence, space: Space) -> None:
    """Give all pages back."""
    for run in state.runs + state.sums_runs:
        space.free(run.start, run.pages, run.born, fmt.FREE_BULK)


def scattered(state: Sequence, page_size: int) -> bool:
    """Whether changes have cut it into far more runs than growth alone makes."""
    return extents.scattered(state.runs, page_size)


def gathered(state: Sequence, space: Space) -> Sequence:
    """The same bytes in as many runs as growth makes of them; the old pages are freed.

    Raises `DiskFullError`, and `CorruptError` where a block is damaged.
    """
    require(state, space)
    found = EMPTY
    for start in range(0, state.length, extents.PIECE):
        found = append(found, read(state, space, start, min(start + extents.PIECE, state.length)), space)
    if state.bits:  # the byte behind whole ones, which is the state's own
        runs = extents.write(found.runs, state.length, bytes([state.last]), space)
        found = found._replace(runs=runs, bits=state.bits, last=state.last)
    free(state, space)
    return found


def _hash_on(state: Sequence, data: memoryview, space: Space) -> tuple[bytes, int]:
    """(checksums of the blocks that `data` seals, checksum of the tail behind them)."""
    block, length = state.blocks, state.length + len(data)
    start = block * fmt.BLOCK_SIZE
    running = space.tails.pop((state.length, state.tail_checksum), None)
    if running is None:
        running = check_block(state, space, start, state.length, state.tail_checksum)
    position = start + fmt.BLOCK_SIZE - state.length
    running.update(data[:position])
    sums = []
    if position <= len(data):
        sums.append(running.intdigest())
        while position + fmt.BLOCK_SIZE <= len(data):
            sums.append(block_checksum(data[position : position + fmt.BLOCK_SIZE], block + len(sums)))
            position += fmt.BLOCK_SIZE
        running = xxhash.xxh3_64(data[position:], seed=block + len(sums))
    checksum = running.intdigest()
    space.tails[length, checksum] = running
    if len(space.tails) > TAILS_KEPT:
        space.tails.pop(next(iter(space.tails)), None)
    return np.array(sums, _SUM).tobytes() if sums else b"", checksum


def own_tail(state: Sequence, space: Space) -> Sequence:
    """The same bytes, the last page's moved to a run behind which no root ever saw anything (I1)."""
    runs = _copy_tail(state.runs, state.length, space)
    sums_runs = _copy_tail(state.sums_runs, state.blocks * SUM_SIZE, space)
    return state._replace(high=state.length, runs=runs, sums_runs=sums_runs)


def _copy_tail(runs: Runs, length: int, space: Space) -> Runs:
    whole = length // space.page_size
    tail = extents.gather(space, runs, whole * space.page_size, length)
    kept = extents.cut(runs, whole, space)
    return extents.write(kept, whole * space.page_size, tail, space) if tail else kept
