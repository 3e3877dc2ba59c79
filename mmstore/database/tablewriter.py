"""Changing a table inside a transaction: rows come, change and go; columns too.

What users give is checked here, whole, before the transaction is told to change anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Final

import numpy as np

from mmstore.columns import batch as batches
from mmstore.columns import keys
from mmstore.columns.batch import Array, Batch
from mmstore.columns.schema import Column, Schema
from mmstore.database.lookup import row_numbers
from mmstore.database.rows import Uncommitted
from mmstore.database.table import TransactionTable
from mmstore.errors import SchemaError
from mmstore.exchange import convert
from mmstore.exchange.rows import misfit
from mmstore.exchange.schemas import column_of
from mmstore.exchange.view import ColumnView

__all__ = ["TableWriter"]

_CONFLICTS: Final = ("error", "replace", "ignore")


class TableWriter(TransactionTable):
    """A table as its transaction has it, to read and to change."""

    def append(self, data: Any, on_conflict: str = "error") -> range:
        """Append rows; returns the numbers of those that are new.

        data: a dict of columns (arrays, lists, Series, Arrow arrays), a structured array, a DataFrame, or anything that
        gives Arrow data (`__arrow_c_stream__`, `__arrow_c_array__`), which is taken piece by piece.  on_conflict, for
        rows whose key is there already: "error", "replace" (that row gets the new values) or "ignore".

        Raises `SchemaError` naming the column, or the key, that doesn't fit; then nothing was changed.
        """
        return self.append_batches(convert.batches(self.schema, data), on_conflict)

    def append_batches(self, made: Iterable[Batch], on_conflict: str) -> range:
        """Append batches that `convert` made for this table's schema: all of them or none."""
        if on_conflict not in _CONFLICTS:
            raise ValueError(f"expected on_conflict {', '.join(map(repr, _CONFLICTS))}, found {on_conflict!r}")
        start = len(self)
        pieces = iter(made)
        first = next(pieces, None)
        second = next(pieces, None)
        if first is None:
            return range(start, start)
        # One batch is appended whole or not at all; of several the later ones may not fit.
        with self._transaction.savepoint() if second is not None else nullcontext():
            self._append(first, on_conflict)
            if second is not None:
                self._append(second, on_conflict)
                for piece in pieces:
                    self._append(piece, on_conflict)
        return range(start, len(self))

    def _append(self, batch: Batch, on_conflict: str) -> None:
        write = self._transaction.check_open()
        if not batch.rows:
            return
        schema = self.schema
        if schema.key is None:
            write.append(self._name, batch)
            return
        places = keys.key_columns(schema)
        columns = [schema.columns[place] for place in places]
        data, offsets = keys.pack(columns, [batch.columns[place] for place in places])
        entry = write.entry(self._name)
        assert entry is not None
        index = write.index(self._name)
        there = np.full(batch.rows, -1, np.int64)
        if index is not None and index.count:
            there = Uncommitted(write, self._name, entry).gather(data, offsets)
        kept = _distinct(data, offsets, last=on_conflict == "replace")
        if on_conflict == "error" and (kept is not None or (there >= 0).any()):
            raise self._conflict(columns, batch, there, kept)
        new = there < 0
        if kept is not None:
            new &= kept
        if on_conflict == "replace":
            old = ~(there < 0) if kept is None else ~(there < 0) & kept
            if old.any():
                self._replace(batch, np.flatnonzero(old), there)
        if new.all():
            write.append(self._name, batch, (data, offsets))
        elif new.any():
            write.append(self._name, _picked(schema.columns, batch, np.flatnonzero(new)))

    def _replace(self, batch: Batch, which: Array, there: Array) -> None:
        """Rows that are there get the batch's values in all columns but the key's, which are the same."""
        schema = self.schema
        which = which[np.argsort(there[which], kind="stable")]
        positions = [at for at, column in enumerate(schema) if column.name not in (schema.key or ())]
        if positions:
            picked = _picked([schema.columns[at] for at in positions], _some(batch, positions), which)
            self._transaction.check_open().update(self._name, there[which], positions, picked)

    def _conflict(self, columns: Sequence[Column], batch: Batch, there: Array, kept: Array | None) -> SchemaError:
        clash = np.flatnonzero(there >= 0)
        at = int(clash[0]) if len(clash) else int(np.flatnonzero(~kept)[0])  # type: ignore[operator]
        shown = []
        for column in columns:
            parts = batches.pick(column.kind, batch.columns[self.schema.position(column.name)], np.array([at]))
            shown.append(_shown(column, parts))
        where = f"is there already (row {int(there[at])})" if len(clash) else "comes twice in the data"
        return SchemaError(
            f"the key {', '.join(shown)} at position {at} {where}; "
            'pass on_conflict="replace" or "ignore" if that is meant'
        )

    # --- changing rows ------------------------------------------------------------------------------

    def update(self, rows: Any, values: Any) -> int:
        """Give rows other values in some columns; returns how many rows.

        rows: numbers, each once, a mask or a slice.  values: a dict of columns, each as long as `rows`, or one value
        for all of them.

        Raises IndexError for a row that isn't there, ValueError for one that is deleted or given twice, `SchemaError`
        for values that don't fit or a key that another row has; then nothing was changed.
        """
        write = self._transaction.check_open()
        schema = self.schema
        numbers = row_numbers(rows, len(self))
        given = convert.columns_of(schema, values)
        positions, batch = convert.some_columns(schema, _broadcast(schema, given, len(numbers)))
        if batch.rows != len(numbers):
            raise SchemaError(f"expected a value for each of {len(numbers):,} rows, found {batch.rows:,}")
        if not len(numbers):
            return 0
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        if (numbers[1:] == numbers[:-1]).any():
            raise ValueError("a row is given twice; give each row once")
        if self.deleted[numbers].any():
            raise ValueError(f"row {int(numbers[self.deleted[numbers]][0])} is deleted; leave it out")
        batch = _picked([schema.columns[at] for at in positions], batch, order)
        rekeyed = [place for place in keys.key_columns(schema) if place in positions]
        if rekeyed:
            self._check_new_keys(numbers, positions, batch)
        write.update(self._name, numbers, positions, batch)
        return len(numbers)

    def _check_new_keys(self, numbers: Array, positions: Sequence[int], batch: Batch) -> None:
        """Raise `SchemaError` if a changed key is another row's, or comes twice."""
        schema = self.schema
        places = keys.key_columns(schema)
        columns = [schema.columns[place] for place in places]
        old = self.take(numbers, [column.name for column in columns])
        parts = []
        for place, column in zip(places, columns, strict=True):
            if place in positions:
                parts.append(batch.columns[list(positions).index(place)])
            else:
                parts.append(convert.column_parts(column, old[column.name])[1])
        data, offsets = keys.pack(columns, parts, numbers)
        with self._state() as state:
            there = state.gather(data, offsets)
        taken = (there >= 0) & ~np.isin(there, numbers)
        kept = _distinct(data, offsets, last=False)
        if taken.any() or kept is not None:
            at = int(np.flatnonzero(taken)[0]) if taken.any() else int(np.flatnonzero(~kept)[0])  # type: ignore[operator]
            shown = [_shown(column, batches.pick(column.kind, one, np.array([at]))) for column, one in
                     zip(columns, parts, strict=True)]  # fmt: skip
            where = f"is row {int(there[at])}'s" if taken.any() else "comes twice"
            raise SchemaError(f"the key {', '.join(shown)} for row {int(numbers[at])} {where}; keys are unique")

    def delete(self, rows: Any) -> int:
        """Delete rows given by numbers, a mask or a slice; returns how many weren't deleted before.

        Scans, finds and Arrow skip them from then on; their room comes back with `compact()`.
        """
        write = self._transaction.check_open()
        numbers = np.unique(row_numbers(rows, len(self)))
        numbers = numbers[~self.deleted[numbers]]
        if len(numbers):
            write.delete_rows(self._name, numbers)
        return len(numbers)

    def compact(self) -> int:
        """Write the table anew without its deleted rows, if it has any; returns how many those were.

        Rows behind a deleted one get other numbers.  In a table without deleted rows, columns that many updates have
        cut into pieces all over the file are written anew, and nothing else changes.
        """
        return self._transaction.check_open().compact(self._name)

    # --- changing columns ---------------------------------------------------------------------------

    def add_column(self, name: str, dtype: Any, fill: Any = None) -> None:
        """Add a column, whose value in all rows there are is `fill`; None: missing in a nullable column, else zero.

        The other columns are not written.  Raises `SchemaError` for a name that is taken or a type that can't be held.
        """
        write = self._transaction.check_open()
        schema = self.schema
        if name in schema:
            raise SchemaError(f"column {name!r} is there already; drop it first, or use another name")
        column = column_of(name, dtype, schema.next_id)
        write.add_column(self._name, column, _fill(column, fill))

    def drop_column(self, name: str) -> None:
        """Drop a column.  Raises KeyError, and `SchemaError` for the last one and the key's."""
        self._transaction.check_open().drop_column(self._name, name)

    def rename_column(self, name: str, new: str) -> None:
        """Rename a column.  Raises KeyError, and `SchemaError` for a name that is taken."""
        self._transaction.check_open().rename_column(self._name, name, new)

    def allow_nulls(self, name: str) -> None:
        """Make a column nullable, at no cost; nothing to do if it is.  Raises KeyError, `SchemaError` for the key's."""
        if not self.schema[name].nullable:
            self._transaction.check_open().allow_nulls(self._name, name)


def _some(batch: Batch, positions: Sequence[int]) -> Batch:
    return Batch(batch.rows, [batch.columns[at] for at in positions])


def _picked(columns: Sequence[Column], batch: Batch, rows: Array) -> Batch:
    return Batch(
        len(rows),
        [batches.pick(column.kind, parts, rows) for column, parts in zip(columns, batch.columns, strict=True)],
    )


def _broadcast(schema: Schema, given: Any, n: int) -> dict[Any, Any]:
    """One value for all rows as so many."""
    found = {}
    for name, values in given.items():
        scalar = values is None or isinstance(values, str | bytes | bytearray) or not hasattr(values, "__len__")
        once = scalar and np.ndim(values) == 0
        if not once and name in schema and schema[name].shape:  # one row's value may itself be an array
            once = isinstance(values, list | tuple | np.ndarray) and _shape(values) == schema[name].shape
        found[name] = [values] * n if once else values
    return found


def _shape(values: Any) -> tuple[int, ...] | None:
    try:
        return tuple(np.shape(values))
    except ValueError:  # rows of different lengths
        return None


def _fill(column: Column, fill: Any) -> Batch:
    """A batch of the one row that a new column begins with."""
    if fill is None and not column.nullable:
        if "offsets" in column.kind.parts or column.kind.layout != "fixed":
            fill = "" if column.kind.text else b"" if column.kind.layout == "binary" else []
        else:
            return Batch(1, [{"values": np.zeros((1, *column.shape), column.dtype)}])
    values: Any = [fill]
    if column.shape and fill is not None:
        try:
            values = np.broadcast_to(np.asarray(fill), column.shape)[None]
        except ValueError:
            raise misfit(column, f"found {fill!r}, which doesn't have that shape") from None
    return Batch(1, [convert.column_parts(column, values)[1]])


def _shown(column: Column, parts: Any) -> str:
    return f"{column.name}={ColumnView(column, 0, 1, parts).tolist()[0]!r}"


def _distinct(data: Array, offsets: Array, *, last: bool) -> Array | None:
    """Which of packed keys is the first (or last) of its like, as booleans; None if all are different."""
    n = len(offsets) - 1
    if n * 8 == len(data) and (np.diff(offsets) == 8).all():
        numbers = np.frombuffer(data, "<u8")
        if (numbers[1:] > numbers[:-1]).all():
            return None
        ascending = np.sort(numbers)  # many times quicker than to find out where they come from
        if (ascending[1:] != ascending[:-1]).all():
            return None
        _, first = np.unique(numbers[::-1] if last else numbers, return_index=True)
        kept = np.zeros(n, np.bool_)
        kept[n - 1 - first if last else first] = True
        return kept
    places: dict[bytes, int] = {}
    for at, key in enumerate(_keys(data, offsets)):
        if last or key not in places:
            places[key] = at
    if len(places) == n:
        return None
    kept = np.zeros(n, np.bool_)
    kept[list(places.values())] = True
    return kept


def _keys(data: Array, offsets: Array) -> Iterator[bytes]:
    whole, ends = data.tobytes(), offsets.tolist()
    return (whole[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True))
