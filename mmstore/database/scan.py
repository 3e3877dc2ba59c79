"""Scans: the rows of a table that fulfil all conditions, in batches.

::

    statistics   NONE  SOME  ALL  ALL  SOME  ...         a block of 65,536 rows each
    looked at     -     x     -    -    x                of the columns in the conditions

Blocks of which no row can match are never touched; of those of which every row does, only the columns asked for.
In a block whose values are in order the matching rows are found by bisection.  Rows that lie side by side come as
views, without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mmstore import format as fmt
from mmstore.columns import statistics
from mmstore.columns.batch import Array
from mmstore.columns.schema import Schema
from mmstore.database.predicates import NONE, SOME, Predicate
from mmstore.database.rows import TableState
from mmstore.database.slices import Rows
from mmstore.exchange.view import ColumnView

__all__ = ["chosen", "scan"]

_BLOCK = fmt.BLOCK_ROWS


def chosen(schema: Schema, columns: Sequence[str] | None) -> tuple[Schema, list[int]]:
    """(schema, positions) of the columns asked for; all without `columns`.  Raises KeyError, TypeError."""
    if columns is None:
        return schema, list(range(len(schema)))
    if isinstance(columns, str):
        raise TypeError(f"expected a list of columns, found the str {columns!r}; write [{columns!r}]")
    positions = [schema.position(name) for name in columns]
    return Schema(tuple(schema.columns[position] for position in positions)), positions


def scan(
    table: TableState, columns: Sequence[str] | None, conditions: Sequence[Predicate], batch_rows: int
) -> Iterator[Rows]:
    """The matching rows that aren't deleted, in order, up to `batch_rows` at a time.

    All that it needs of the table is taken now: without conditions the iterator outlives the state.
    """
    schema, positions = chosen(table.schema, columns)
    views = {position: table.column(position) for position in {*positions, *(p.position for p in conditions)}}
    for position in positions:
        if views[position].kind.dtype.kind in "mM":  # so that Arrow needn't look for NaT
            views[position].nat_blocks = _nat_blocks(table, position)
    if table.entry.deleted:
        table.deleted  # noqa: B018 - kept
    return _batches(table, schema, positions, conditions, views, batch_rows)


def _nat_blocks(table: TableState, position: int) -> Array | None:
    """Which blocks of a column may have NaT; None if its statistics don't tell."""
    kind = table.schema.columns[position].kind
    if not statistics.ranged(kind):
        return None
    found: Array = (statistics.table(kind, table.statistics(position))["flags"] & fmt.STAT_NAN) != 0
    return found


def _batches(
    table: TableState,
    schema: Schema,
    positions: Sequence[int],
    conditions: Sequence[Predicate],
    views: dict[int, ColumnView],
    batch_rows: int,
) -> Iterator[Rows]:
    for start, stop, open_conditions in _stretches(table, conditions, views):
        for first in range(start, stop, batch_rows):
            last = min(first + batch_rows, stop)
            found = _matching(table, open_conditions, views, first, last)
            if found is None:
                yield Rows(schema, range(first, last), [views[position][first:last] for position in positions])
            elif len(found):
                yield Rows(schema, found + first, [views[position][first:last].take(found) for position in positions])


def _matching(
    table: TableState, conditions: Sequence[Predicate], views: dict[int, ColumnView], first: int, last: int
) -> Array | None:
    """Numbers, from `first` on, of the rows [first, last) that match; None if all do."""
    kept: Array | None = None
    if table.entry.deleted:
        kept = ~table.deleted[first:last]
    for condition in conditions:
        if kept is not None and not kept.any():
            break
        mask = condition.mask(views[condition.position][first:last])
        kept = mask if kept is None else kept & mask
    return None if kept is None or kept.all() else np.flatnonzero(kept)


def _stretches(
    table: TableState, conditions: Sequence[Predicate], views: dict[int, ColumnView]
) -> Iterator[tuple[int, int, list[Predicate]]]:
    """(start, stop, conditions still to be asked of each row) for the stretches of rows in which some may match."""
    rows = table.rows
    if not conditions:
        if rows:
            yield 0, rows, []
        return
    packed = {condition.position: table.statistics(condition.position) for condition in conditions}
    answers = np.array(
        [condition.of_blocks(packed[condition.position], views[condition.position]) for condition in conditions]
    ).reshape(len(conditions), -1)
    ordered = {
        position: (statistics.table(views[position].kind, data)["flags"] & fmt.STAT_ORDERED) != 0
        for position, data in packed.items()
    }
    before: tuple[int, int, list[Predicate]] | None = None
    for block in np.flatnonzero((answers != NONE).all(axis=0)).tolist():
        start, stop = block * _BLOCK, min((block + 1) * _BLOCK, rows)
        asked = [condition for condition, answer in zip(conditions, answers[:, block], strict=True) if answer == SOME]
        start, stop, asked = _bisected(start, stop, asked, {at: bool(yes[block]) for at, yes in ordered.items()}, views)
        if start >= stop:
            continue
        if before is not None and before[1] == start and before[2] == asked:
            before = before[0], stop, asked
            continue
        if before is not None:
            yield before
        before = start, stop, asked
    if before is not None:
        yield before


def _bisected(
    start: int, stop: int, asked: list[Predicate], ordered: dict[int, bool], views: dict[int, ColumnView]
) -> tuple[int, int, list[Predicate]]:
    """The rows of a block that conditions on columns which are in order there leave, and the other conditions."""
    low, high = start, stop
    left = []
    for condition in asked:
        view = views[condition.position][start:stop]
        span = condition.span(view.values) if ordered[condition.position] and view.validity is None else None
        if span is None:
            left.append(condition)
        else:
            low, high = max(low, start + span[0]), min(high, start + span[1])
    return low, high, left
