"""A column in one state of its table: the sequences that hold its rows, and their statistics; and how it changes.

A `ColumnState` is a value, like the sequences it is made of.  `append`, `update` and their like return another one;
the transaction that commits it makes it count.  Text, bytes and lists lie one row behind the other, so that Arrow can
show them as they are; to change one row of them all rows behind it are written anew.

Called by the catalog inside a write transaction; `read` by anyone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from mmstore import format as fmt
from mmstore.columns import bitmap, sequence, statistics
from mmstore.columns.batch import Array, Parts, cut, gather, joined, pick, raw, valid
from mmstore.columns.extents import Buffer, Source, Space
from mmstore.columns.overwrite import scatter
from mmstore.columns.sequence import Sequence
from mmstore.columns.statistics import Statistics
from mmstore.columns.types import CATEGORY, LIST, Kind
from mmstore.columns.words import codes_of
from mmstore.errors import CorruptError

__all__ = [
    "ColumnState",
    "allow_nulls",
    "append",
    "compute",
    "free",
    "new",
    "read",
    "take",
    "truncate",
    "unpack",
    "update",
]

_OFFSET: Final = 8  # bytes
_STATISTICS: Final = fmt.STATISTICS.size
_NEAR: Final = 512  # rows that are read though nobody asked for them, to save a call


class ColumnState(NamedTuple):
    """What a catalog entry knows of a column besides its description."""

    parts: tuple[Sequence, ...]
    """In the order of the type's `parts`."""
    blocks: Sequence
    """Packed statistics of each whole block of rows."""
    tail: Statistics
    """Those of the rows behind them."""

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All of them, in the order in which an entry has them."""
        return (*self.parts, self.blocks)

    def part(self, kind: Kind, name: str) -> Sequence:
        return self.parts[kind.parts.index(name)]

    def pack(self) -> bytes:
        return b"".join([*[part.pack() for part in self.parts], self.blocks.pack(), self.tail.pack()])


def new(kind: Kind) -> ColumnState:
    """A column without rows."""
    return ColumnState((sequence.EMPTY,) * len(kind.parts), sequence.EMPTY, statistics.NONE)


def unpack(kind: Kind, rows: int, buffer: Buffer, offset: int, page_size: int, pages: int) -> tuple[ColumnState, int]:
    """The state at `offset` of `buffer` and where it ends there.

    Raises `CorruptError` unless each sequence is as long as `rows` rows make it.
    """
    parts = []
    for name in kind.parts:
        state, offset = sequence.unpack(buffer, offset, page_size, pages)
        _expect_length(kind, name, rows, state)
        parts.append(state)
    blocks, offset = sequence.unpack(buffer, offset, page_size, pages)
    if len(buffer) - offset < _STATISTICS:
        raise CorruptError(f"a column's statistics need {_STATISTICS} bytes, found {len(buffer) - offset}")
    tail = Statistics.unpack(buffer, offset)
    sealed, behind = divmod(rows, fmt.BLOCK_ROWS)
    if blocks.length != sealed * _STATISTICS or blocks.bits or tail.rows != behind or tail.nulls > behind:
        raise CorruptError(f"{rows} rows have statistics of {blocks.length} bytes and {tail.rows} rows")
    return ColumnState(tuple(parts), blocks, tail), offset + _STATISTICS


def _expect_length(kind: Kind, name: str, rows: int, state: Sequence) -> None:
    found = state.length
    if name == "validity":
        right = bitmap.count(state) in (0, rows)
    elif state.bits:
        right = False
    elif name == "values" and kind.layout != LIST:
        right = found == rows * kind.item_size
    elif name == "values":
        right = found % kind.item_size == 0
    elif name == "offsets":
        right = found == ((rows + 1) * _OFFSET if rows else 0)
    elif name == "word_offsets":
        right = found % _OFFSET == 0 and found != _OFFSET
    else:
        right = True
    if not right:
        raise CorruptError(f"{rows} rows of {kind} have {name} of {found} bytes and {state.bits} bits")


# --- reading -----------------------------------------------------------------------------------------


def read(kind: Kind, state: ColumnState, source: Source, start: int, stop: int) -> Parts:
    """A copy of the rows [start, stop) as parts; of a category without its words.

    Raises `CorruptError` where offsets make no sense.
    """
    found: dict[str, Array] = {}
    if kind.nullable and bitmap.count(state.part(kind, "validity")):
        found["validity"] = bitmap.read(state.part(kind, "validity"), source, start, stop)
    if "offsets" not in kind.parts:
        size = kind.item_size
        data = sequence.read(state.part(kind, "values"), source, start * size, stop * size)
        found["values"] = np.frombuffer(data, kind.dtype).reshape(stop - start, *kind.shape)
        return found
    offsets = np.zeros(1, "<i8")
    if stop > start:
        data = sequence.read(state.part(kind, "offsets"), source, start * _OFFSET, (stop + 1) * _OFFSET)
        offsets = np.frombuffer(data, "<i8")
    name = "values" if kind.layout == LIST else "data"
    size = kind.item_size
    body = state.part(kind, name)
    low, high = int(offsets[0]), int(offsets[-1])
    if low < 0 or high * size > body.length or (offsets[1:] < offsets[:-1]).any():
        raise CorruptError(f"offsets of rows {start} to {stop} lead outside {body.length} bytes; restore a backup")
    found["offsets"] = offsets - low
    found[name] = np.frombuffer(sequence.read(body, source, low * size, high * size), kind.dtype)
    return found


def take(kind: Kind, state: ColumnState, source: Source, rows: Array) -> Parts:
    """A copy of the rows with the numbers `rows` (int64, in any order), as `read` gives them.

    Rows that lie near each other are read together.  Raises as `read`.
    """
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    pieces = []
    cuts = np.flatnonzero(np.diff(ascending) > _NEAR) + 1
    for group in np.split(ascending, cuts):
        if len(group):
            start = int(group[0])
            pieces.append(pick(kind, read(kind, state, source, start, int(group[-1]) + 1), group - start))
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return pick(kind, joined(kind, pieces), back)


# --- appending ---------------------------------------------------------------------------------------


def append(kind: Kind, state: ColumnState, before: int, rows: int, parts: Parts, space: Space) -> ColumnState:
    """The column of `before` rows with `rows` more.  Raises as `sequence.append`."""
    if not rows:
        return state  # not even the 0 with which offsets begin
    found = dict(zip(kind.parts, state.parts, strict=True))
    if kind.layout == CATEGORY:
        parts, found["word_offsets"], found["words"] = codes_of(parts, found["word_offsets"], found["words"], space)
    if kind.nullable:
        found["validity"] = _append_validity(found["validity"], before, rows, valid(parts), space)
    if "offsets" in parts:
        name = "values" if kind.layout == LIST else "data"
        base = found[name].length // kind.item_size
        offsets = parts["offsets"] if not before else parts["offsets"][1:] + base
        found["offsets"] = sequence.append(found["offsets"], raw(np.ascontiguousarray(offsets)), space)
        found[name] = sequence.append(found[name], raw(parts[name]), space)
    else:
        found["values"] = sequence.append(found["values"], raw(parts["values"]), space)
    blocks, tail = _more_statistics(kind, state, rows, parts, space)
    return ColumnState(tuple(found[name] for name in kind.parts), blocks, tail)


def _append_validity(state: Sequence, before: int, rows: int, bits: Array | None, space: Space) -> Sequence:
    if not bitmap.count(state):
        if bits is None:
            return state
        state = bitmap.ones(before, space)
    return bitmap.append(state, np.ones(rows, np.bool_) if bits is None else bits, space)


def compute(kind: Kind, parts: Parts) -> Statistics:
    """The statistics of some rows."""
    values = parts["offsets"] if "offsets" in parts else parts["values"]
    return statistics.compute(kind, values, parts.get("data"), valid(parts))


def _more_statistics(
    kind: Kind, state: ColumnState, rows: int, parts: Parts, space: Space
) -> tuple[Sequence, Statistics]:
    tail = state.tail
    sealed = []
    at = 0
    while at < rows:
        n = min(fmt.BLOCK_ROWS - tail.rows, rows - at)
        tail = statistics.merge(kind, tail, compute(kind, parts if n == rows else cut(kind, parts, at, at + n)))
        at += n
        if tail.rows == fmt.BLOCK_ROWS:
            sealed.append(tail.pack())
            tail = statistics.NONE
    return (sequence.append(state.blocks, b"".join(sealed), space) if sealed else state.blocks), tail


def allow_nulls(state: ColumnState) -> ColumnState:
    """The same column of a nullable type: no row is without a value yet, so it needs no bitmap."""
    return state._replace(parts=(sequence.EMPTY, *state.parts))


# --- changing ----------------------------------------------------------------------------------------


def update(kind: Kind, state: ColumnState, total: int, rows: Array, parts: Parts, space: Space) -> ColumnState:
    """The column of `total` rows with other values at `rows` (int64, ascending, each once, in [0, total)).

    Raises `CorruptError` and `DiskFullError`.
    """
    found = dict(zip(kind.parts, state.parts, strict=True))
    if kind.layout == CATEGORY:
        parts, found["word_offsets"], found["words"] = codes_of(parts, found["word_offsets"], found["words"], space)
    if kind.nullable:
        bits = valid(parts)
        if bits is not None and not bitmap.count(found["validity"]):
            found["validity"] = bitmap.ones(total, space)
        if bitmap.count(found["validity"]):
            new_bits = np.ones(len(rows), np.bool_) if bits is None else bits
            found["validity"] = bitmap.update(found["validity"], rows, new_bits, space)
    if "offsets" in parts:
        _rewrite(kind, state, found, total, rows, parts, space)
    else:
        values = np.ascontiguousarray(parts["values"]).reshape(len(rows), -1).view(np.uint8)
        found["values"] = scatter(found["values"], kind.item_size, rows, values, space)
    changed = ColumnState(tuple(found[name] for name in kind.parts), state.blocks, state.tail)
    return _statistics_anew(kind, changed, total, np.unique(rows // fmt.BLOCK_ROWS), space)


def _rewrite(
    kind: Kind, state: ColumnState, found: dict[str, Sequence], total: int, rows: Array, parts: Parts, space: Space
) -> None:
    """Replace rows of a variable length: all rows from the first of them on are written anew."""
    name = "values" if kind.layout == LIST else "data"
    size = kind.item_size
    space, release = space.keeping()  # what is written anew is read meanwhile
    first = int(rows[0])
    sequence.require(found["offsets"], space, first * _OFFSET)
    begin = int(np.frombuffer(sequence.read(found["offsets"], space, first * 8, first * 8 + 8), "<i8")[0])
    if not 0 <= begin * size <= found[name].length:
        raise CorruptError(f"row {first} begins outside {found[name].length} bytes; run check()")
    sequence.require(found[name], space, begin * size)
    offsets = sequence.truncate(found["offsets"], (first + 1) * _OFFSET if first else 0, space)
    body = sequence.truncate(found[name], begin * size, space)
    for start, changed in _replaced(kind, state, total, rows, parts, space):
        ends = changed["offsets"] + body.length // size
        offsets = sequence.append(offsets, raw(ends if not start else ends[1:]), space)
        body = sequence.append(body, raw(changed[name]), space)
    release()
    found["offsets"], found[name] = offsets, body


def _replaced(
    kind: Kind, state: ColumnState, total: int, rows: Array, parts: Parts, source: Source
) -> Iterator[tuple[int, Parts]]:
    """(first row, parts) of all rows from the first changed one on, piece by piece, with the changes in them."""
    name = "values" if kind.layout == LIST else "data"
    for start in range(int(rows[0]), total, fmt.BLOCK_ROWS):
        stop = min(start + fmt.BLOCK_ROWS, total)
        old = read(kind, state, source, start, stop)
        low, high = np.searchsorted(rows, [start, stop]).tolist()
        inside = rows[low:high] - start
        starts, lengths = old["offsets"][:-1].copy(), np.diff(old["offsets"])
        starts[inside] = parts["offsets"][low:high] + len(old[name])
        lengths[inside] = np.diff(parts["offsets"])[low:high]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        yield start, {"offsets": offsets, name: gather(np.concatenate([old[name], parts[name]]), starts, offsets)}


def _statistics_anew(kind: Kind, state: ColumnState, total: int, touched: Array, space: Space) -> ColumnState:
    """The column with the statistics of some blocks of rows computed from what they hold now."""
    blocks, tail = state.blocks, state.tail
    sealed = total // fmt.BLOCK_ROWS
    packed = []
    for block in touched.tolist():
        start = block * fmt.BLOCK_ROWS
        found = compute(kind, read(kind, state, space, start, min(start + fmt.BLOCK_ROWS, total)))
        if block < sealed:
            packed.append(found.pack())
        else:
            tail = found
    if packed:
        values = np.frombuffer(b"".join(packed), np.uint8).reshape(len(packed), _STATISTICS)
        blocks = scatter(blocks, _STATISTICS, touched[: len(packed)], values, space)
    return state._replace(blocks=blocks, tail=tail)


def truncate(kind: Kind, state: ColumnState, rows: int, space: Space) -> ColumnState:
    """The first `rows` rows of a column of fixed layout; fewer than it has."""
    sealed, behind = divmod(rows, fmt.BLOCK_ROWS)
    start = sealed * fmt.BLOCK_ROWS
    tail = compute(kind, read(kind, state, space, start, rows)) if behind else statistics.NONE
    parts = []
    for name, part in zip(kind.parts, state.parts, strict=True):
        if name == "validity":
            parts.append(bitmap.truncate(part, min(rows, bitmap.count(part)), space))
        else:
            parts.append(sequence.truncate(part, rows * kind.item_size, space))
    return ColumnState(tuple(parts), sequence.truncate(state.blocks, sealed * _STATISTICS, space), tail)


def free(state: ColumnState, space: Space) -> None:
    """Give all pages back."""
    for part in state.sequences:
        sequence.free(part, space)
