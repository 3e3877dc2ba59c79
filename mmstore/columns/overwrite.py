"""Changing rows in the middle of a sequence: copy on write, in pieces.

::

    bytes     0 ....... piece 3 ....... piece 4 ...................... length
    runs      [      run 0        ][                 run 1              ]
    after     [ run 0 ][  new run ][ run 0 ][         run 1             ]     rows in piece 3 have changed

Committed bytes are never written (I1), so a piece in which a row changes is copied to pages of its own, whole blocks
of checksums at a time: 64 KiB, more where the sequence is so long that its list of runs would grow beyond a thousand
or two.  A piece that this transaction has already copied is written over, unless a savepoint may want it back.

A block is compared with its checksum before it is copied, as an append does with the tail: damage is found and not
sealed under a fresh checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from mmstore import format as fmt
from mmstore.columns import extents, sequence
from mmstore.columns.extents import Space
from mmstore.columns.sequence import SUM_SIZE, Sequence

__all__ = ["scatter"]

Array: TypeAlias = np.ndarray[Any, Any]

_PIECES = 1024  # at most about so many in a sequence


def scatter(state: Sequence, item: int, rows: Array, values: Array, space: Space) -> Sequence:
    """The sequence of items of `item` bytes, with other ones at `rows`.

    rows: int64, ascending, each once, in [0, length // item).  values: uint8 of shape (len(rows), item).

    Raises `CorruptError` where a piece is damaged, `DiskFullError`; what was taken until then is in no `Sequence`.
    """
    if state.high > state.length:  # truncated: what lies behind, of the checksums too, is an older state's
        state = sequence.own_tail(state, space)
    size = state.extent
    piece = max(fmt.BLOCK_SIZE, -(-size // (_PIECES * fmt.BLOCK_SIZE)) * fmt.BLOCK_SIZE)
    for start, first, last in _pieces(rows, item, piece, size):
        stop = min(start + piece, size)
        data = _verified(state, start, stop, space)
        _put(data, start, item, rows[first:last], values[first:last])
        state = _replace(state, start, data.data, space)
    return state


def _pieces(rows: Array, item: int, piece: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(where a piece starts, the first of `rows` that lies in it, the first behind it); a row may lie in several."""
    low = rows * item // piece
    spans = ((rows + 1) * item - 1) // piece - low + 1  # pieces of each row
    before = np.cumsum(spans) - spans
    starts = np.unique(np.repeat(low - before, spans) + np.arange(int(spans.sum()))) * piece
    firsts = np.searchsorted((rows + 1) * item, starts, "right")
    lasts = np.searchsorted(rows * item, np.minimum(starts + piece, size), "left")
    yield from zip(starts.tolist(), firsts.tolist(), lasts.tolist(), strict=True)


def _put(data: Array, start: int, item: int, rows: Array, values: Array) -> None:
    """Put the values, as far as they lie in the piece `data` that begins at byte `start`."""
    low, high = start, start + len(data)
    offset = min(-low % item, len(data))  # of the first item that begins in the piece
    whole = (len(data) - offset) // item
    items = data[offset : offset + whole * item].reshape(whole, item)
    inside = (rows * item >= low) & ((rows + 1) * item <= high)
    items[rows[inside] - (low + offset) // item] = values[inside]
    for row, value in zip(rows[~inside].tolist(), values[~inside], strict=True):
        begin, end = max(row * item, low), min((row + 1) * item, high)
        data[begin - low : end - low] = value[begin - row * item : end - row * item]


def _verified(state: Sequence, start: int, stop: int, space: Space) -> Array:
    """A copy of the bytes [start, stop), compared with their checksums."""
    first = start // fmt.BLOCK_SIZE
    last = -(-min(stop, state.length) // fmt.BLOCK_SIZE)
    sums = [*sequence.sums(state, space, first, min(last, state.blocks)).tolist(), state.tail_checksum]
    for block in range(first, last):
        begin = block * fmt.BLOCK_SIZE
        sequence.check_block(state, space, begin, min(begin + fmt.BLOCK_SIZE, state.length), sums[block - first])
    return np.frombuffer(bytearray(extents.gather(space, state.runs, start, stop)), np.uint8)


def _replace(state: Sequence, start: int, data: memoryview, space: Space) -> Sequence:
    """The sequence with `data`, whole blocks or all that is left, from byte `start` on."""
    size = space.page_size
    page, stop = start // size, start + len(data)
    if extents.own(state.runs, page, -(-len(data) // size), space):
        runs = extents.write(state.runs, start, data, space)
    elif stop == state.extent:
        runs = extents.write(extents.cut(state.runs, page, space), start, data, space)
    else:
        runs = extents.replace_pages(state.runs, page, data, space)
    whole = data[: min(stop, state.length) - start]
    sums = [
        sequence.block_checksum(whole[at : at + fmt.BLOCK_SIZE], (start + at) // fmt.BLOCK_SIZE)
        for at in range(0, len(whole), fmt.BLOCK_SIZE)
    ]
    tail_checksum = state.tail_checksum
    if len(whole) % fmt.BLOCK_SIZE:
        tail_checksum = sums.pop()
    state = state._replace(runs=runs, tail_checksum=tail_checksum)
    return _replace_sums(state, start // fmt.BLOCK_SIZE, np.array(sums, "<u8"), space) if sums else state


def _replace_sums(state: Sequence, first: int, sums: Array, space: Space) -> Sequence:
    """The sequence with other checksums of the sealed blocks from number `first` on; their pages are copied."""
    size, length = space.page_size, state.blocks * SUM_SIZE
    page = first * SUM_SIZE // size
    start = page * size
    stop = min(-(-(first + len(sums)) * SUM_SIZE // size) * size, length)
    data = np.frombuffer(bytearray(extents.gather(space, state.sums_runs, start, stop)), np.uint8)
    data[first * SUM_SIZE - start :][: sums.nbytes] = sums.view(np.uint8)
    if extents.own(state.sums_runs, page, -(-len(data) // size), space):
        runs = extents.write(state.sums_runs, start, data.data, space)
    elif stop == length:
        runs = extents.write(extents.cut(state.sums_runs, page, space), start, data.data, space)
    else:
        runs = extents.replace_pages(state.sums_runs, page, data.data, space)
    return state._replace(sums_runs=runs)
