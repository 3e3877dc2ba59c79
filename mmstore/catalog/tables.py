"""How a table's entry changes: rows come, change and go, columns too.

Each function takes an entry and gives another one, with what it wrote already in the file, where no committed root
looks (I1).  What it replaces is given to the free list, which keeps it for the roots that show it (I2).  The key index
isn't touched here: it belongs to the transaction, which keeps it in step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from mmstore import format as fmt
from mmstore.catalog.entry import Entry
from mmstore.columns import batch as batches
from mmstore.columns import sequence, state, words
from mmstore.columns.batch import Array, Batch, Parts
from mmstore.columns.extents import Source, Space
from mmstore.columns.overwrite import scatter
from mmstore.columns.schema import Column, Schema
from mmstore.columns.types import CATEGORY
from mmstore.errors import CorruptError, SchemaError

__all__ = [
    "add_column",
    "allow_nulls",
    "append",
    "compact",
    "delete",
    "drop_column",
    "free",
    "marked",
    "rename_column",
    "scattered",
    "schema_of",
    "truncate",
    "update",
]

_STEP: Final = fmt.BLOCK_ROWS


def schema_of(entry: Entry) -> Schema:
    assert entry.schema is not None, "tables and arrays have one, as unpacking checked"
    return entry.schema


# --- rows --------------------------------------------------------------------------------------------


def append(entry: Entry, batch: Batch, space: Space) -> Entry:
    """The table with the rows of `batch` (all columns) behind its own."""
    columns = [
        state.append(column.kind, old, entry.rows, batch.rows, parts, space)
        for column, old, parts in zip(schema_of(entry), entry.columns, batch.columns, strict=True)
    ]
    return entry._replace(rows=entry.rows + batch.rows, columns=tuple(columns))


def update(entry: Entry, rows: Array, positions: Sequence[int], batch: Batch, space: Space) -> Entry:
    """The table with other values at `rows` (int64, ascending, each once) in the columns at `positions`."""
    columns = list(entry.columns)
    for position, parts in zip(positions, batch.columns, strict=True):
        kind = schema_of(entry).columns[position].kind
        columns[position] = state.update(kind, columns[position], entry.rows, rows, parts, space)
    return entry._replace(columns=tuple(columns))


def delete(entry: Entry, rows: Array, space: Space) -> Entry:
    """The table with `rows` (int64, ascending, each once, none deleted before) marked as deleted."""
    marks = entry.marks
    end = int(rows[-1]) + 1
    if marks.length < end:
        marks = sequence.append(marks, bytes(min(-(-end // _STEP) * _STEP, entry.rows) - marks.length), space)
    marks = scatter(marks, 1, rows, np.ones((len(rows), 1), np.uint8), space)
    return entry._replace(marks=marks, deleted=entry.deleted + len(rows))


def marked(entry: Entry, source: Source, start: int, stop: int) -> Array:
    """Which of the rows [start, stop) are deleted, as booleans."""
    found = np.zeros(stop - start, np.bool_)
    end = min(stop, entry.marks.length)
    if entry.deleted and start < end:
        found[: end - start] = np.frombuffer(sequence.read(entry.marks, source, start, end), np.uint8) != 0
    return found


def truncate(entry: Entry, rows: int, space: Space) -> Entry:
    """The first `rows` rows of an array; fewer than it has."""
    cut = state.truncate(schema_of(entry).columns[0].kind, entry.columns[0], rows, space)
    return entry._replace(rows=rows, columns=(cut,))


# --- columns -----------------------------------------------------------------------------------------


def add_column(entry: Entry, column: Column, fill: Parts, space: Space) -> Entry:
    """The table with one column more, which has `fill` (one row) in each row; the others aren't written."""
    schema = schema_of(entry)
    made = Schema((*schema.columns, column), schema.key)
    new = state.new(column.kind)
    some = batches.pick(column.kind, fill, np.zeros(min(entry.rows, _STEP), np.int64))
    for start in range(0, entry.rows, _STEP):
        n = min(_STEP, entry.rows - start)
        new = state.append(column.kind, new, start, n, batches.cut(column.kind, some, 0, n), space)
    return entry._replace(schema=made, columns=(*entry.columns, new))


def drop_column(entry: Entry, name: str, space: Space) -> Entry:
    """The table without the column `name`.  Raises `SchemaError` for the last one and for a key's."""
    schema = schema_of(entry)
    at = schema.position(name)
    if schema.key is not None and name in schema.key:
        raise SchemaError(f"column {name!r} is part of the key {schema.key}; make a table with another key instead")
    if len(schema) == 1:
        raise SchemaError(f"column {name!r} is the table's only one; drop the table instead")
    state.free(entry.columns[at], space)
    made = Schema(schema.columns[:at] + schema.columns[at + 1 :], schema.key)
    return entry._replace(schema=made, columns=entry.columns[:at] + entry.columns[at + 1 :])


def rename_column(entry: Entry, name: str, new: str) -> Entry:
    """The table with another name for a column.  Raises `SchemaError` where that is taken or can't be one."""
    schema = schema_of(entry)
    at = schema.position(name)
    renamed = replace(schema.columns[at], name=Column.of(new, "i1").name)
    key = None if schema.key is None else tuple(new if part == name else part for part in schema.key)
    return entry._replace(schema=Schema((*schema.columns[:at], renamed, *schema.columns[at + 1 :]), key))


def allow_nulls(entry: Entry, name: str) -> Entry:
    """The table with a nullable column.  Raises `SchemaError` for a key's."""
    schema = schema_of(entry)
    at = schema.position(name)
    column = schema.columns[at]
    if column.nullable:
        return entry
    columns = list(schema.columns)
    columns[at] = replace(column, kind=replace(column.kind, nullable=True))
    states = list(entry.columns)
    states[at] = state.allow_nulls(states[at])
    return entry._replace(schema=Schema(tuple(columns), schema.key), columns=tuple(states))


# --- the whole ---------------------------------------------------------------------------------------


def scattered(entry: Entry, page_size: int) -> bool:
    """Whether changes have cut a column into so many runs that `compact` is worth its while."""
    return any(sequence.scattered(part, page_size) for column in entry.columns for part in column.sequences)


def compact(entry: Entry, space: Space) -> Entry:
    """The table written anew without its deleted rows; those behind move up.  An array never has any.

    Without deleted rows only sequences that changes have scattered are written anew, as they are.

    Raises `CorruptError` where what is there is damaged, `DiskFullError`.
    """
    if not entry.deleted:
        return entry._replace(columns=tuple(_gathered(column, space) for column in entry.columns))
    space, release = space.keeping()  # the old rows are read meanwhile
    schema = schema_of(entry)
    sequence.require(entry.marks, space)
    kept = sum(len(rows) for _, rows in _kept(entry, space))
    if kept != entry.rows - entry.deleted:
        raise CorruptError(
            f"{entry.rows} rows less {entry.deleted} deleted ones are {kept} by their marks; run check()"
        )
    columns = [_compacted(entry, at, column, space) for at, column in enumerate(schema)]
    free(entry, space)
    release()
    return entry._replace(rows=entry.rows - entry.deleted, columns=tuple(columns), deleted=0, marks=sequence.EMPTY)


def _gathered(column: state.ColumnState, space: Space) -> state.ColumnState:
    """A column whose scattered sequences are each in one piece again, as far as growth makes them so."""
    *parts, blocks = (
        sequence.gathered(part, space) if sequence.scattered(part, space.page_size) else part
        for part in column.sequences
    )
    return column._replace(parts=tuple(parts), blocks=blocks)


def _compacted(entry: Entry, at: int, column: Column, space: Space) -> state.ColumnState:
    kind, old = column.kind, entry.columns[at]
    for part in old.parts:
        sequence.require(part, space)
    new = state.new(kind)
    rows = 0
    extra = {}
    if kind.layout == CATEGORY:
        ends, data = words.read_words(old.part(kind, "word_offsets"), old.part(kind, "words"), space)
        extra = {"word_offsets": ends, "words": data}
    for start, kept in _kept(entry, space):
        if not len(kept):
            continue
        parts = batches.pick(kind, state.read(kind, old, space, start, min(start + _STEP, entry.rows)), kept)
        new = state.append(kind, new, rows, len(kept), {**parts, **extra}, space)
        rows += len(kept)
    return new


def _kept(entry: Entry, source: Source) -> Iterator[tuple[int, Array]]:
    """(start of a block of rows, numbers from there of the rows that aren't deleted)."""
    for start in range(0, entry.rows, _STEP):
        yield start, np.flatnonzero(~marked(entry, source, start, min(start + _STEP, entry.rows)))


def free(entry: Entry, space: Space) -> None:
    """Give all pages of a table back."""
    for part in entry.sequences:
        sequence.free(part, space)
