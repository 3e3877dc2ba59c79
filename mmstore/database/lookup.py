"""Rows by number and by key: what users give, checked and made into int64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mmstore.columns import keys, types
from mmstore.columns.batch import Array, Parts
from mmstore.columns.schema import Column
from mmstore.database.rows import TableState
from mmstore.errors import SchemaError
from mmstore.exchange import convert

__all__ = ["row_numbers", "rows_of_keys"]


def row_numbers(rows: Any, total: int) -> Array:
    """Row numbers in [0, total) of numbers (negative ones from the end), a mask, a slice or a range.

    Raises IndexError for a row that isn't there, TypeError for what is no row.
    """
    if isinstance(rows, slice):
        return np.arange(*rows.indices(total))
    if isinstance(rows, range):
        found = np.arange(rows.start, rows.stop, rows.step)
    else:
        found = np.asarray(rows)
        if found.dtype.kind == "b":
            if found.shape != (total,):
                raise IndexError(f"expected a mask of {total:,} rows, found one of shape {found.shape}")
            return np.flatnonzero(found)
        if found.ndim == 0:
            found = found.reshape(1)
        if not found.size:
            return np.zeros(0, np.int64)
        if found.dtype.kind not in "iu" or found.ndim != 1:
            raise TypeError(f"expected row numbers or a mask, found an array of {found.dtype} and shape {found.shape}")
    if not len(found):
        return np.zeros(0, np.int64)
    low, high = int(found.min()), int(found.max())
    if low < -total or high >= total:
        raise IndexError(f"row {low if low < -total else high} of {total:,}")
    found = found.astype(np.int64, copy=False)
    return np.where(found < 0, found + total, found) if low < 0 else found


def rows_of_keys(table: TableState, given: Any) -> Array:
    """The row numbers of keys, -1 where there is none.  Raises `SchemaError`."""
    columns = table.key_columns
    if not columns:
        raise SchemaError("the table has no key; make it with key=..., or look through it with scan()")
    names = ", ".join(repr(column.name) for column in columns)
    if isinstance(given, Mapping):
        if given.keys() != {column.name for column in columns}:
            raise SchemaError(f"the key has the columns {names}, found {', '.join(map(repr, given))}")
        values = [given[column.name] for column in columns]
    elif len(columns) == 1:
        values = [given]
    elif isinstance(given, tuple) and len(given) == len(columns):
        values = list(given)
    else:
        raise SchemaError(f"the key has the columns {names}; give a tuple or a dict of {len(columns)} lists or arrays")
    pairs = [_asked(column, one) for column, one in zip(columns, values, strict=True)]
    if len({n for n, _, _ in pairs}) != 1:
        raise SchemaError(f"expected equally many values for each key column, found {[n for n, _, _ in pairs]}")
    wide = [column for column, _ in (made for _, made, _ in pairs)]
    data, offsets = keys.pack(wide, [parts for _, (_, parts), _ in pairs])
    rows = table.gather(data, offsets)
    for _, _, impossible in pairs:
        if impossible is not None:
            rows[impossible] = -1
    return rows


def _integers(values: Any) -> Array:
    """A list as an array; numpy alone makes floats of integers on both sides of 2 ** 63."""
    found = np.asarray(values)
    return found if found.dtype.kind != "f" or found.ndim != 1 else np.array(values, object)


def _asked(column: Column, values: Any) -> tuple[int, tuple[Column, Parts], Array | None]:
    """(how many, (column that is wide enough for any key asked for, parts), which can't be in the table)."""
    kind = column.kind
    impossible = None
    if kind.dtype.kind == "S":
        kind = types.resolve(column.name, types.BINARY)
        if isinstance(values, list | tuple):  # S has no zeros at its end
            values = [one.rstrip(b"\0") if isinstance(one, bytes) else one for one in values]
    elif kind.dtype.kind in "iu" and not kind.arrow and kind.layout == types.FIXED:
        kind = replace(kind, dtype=np.dtype("<i8" if kind.dtype.kind == "i" else "<u8"))
        if isinstance(values, list | tuple | range):
            values = _integers(values) if len(values) else np.zeros(0, kind.dtype)
        integers = isinstance(values, np.ndarray) and values.dtype.kind in "iuO" and values.ndim == 1 and len(values)
        if integers and (values.dtype.kind != "O" or all(type(value) is int for value in values)):
            info = np.iinfo(column.dtype)
            if int(values.min()) < info.min or int(values.max()) > info.max:
                impossible = ((values < info.min) | (values > info.max)).astype(np.bool_)
                values = np.where(impossible, 0, values)
    elif kind.dtype.kind == "U":
        if isinstance(values, list | tuple) and all(isinstance(one, str) for one in values):
            values = np.array(values, "U")
        if isinstance(values, np.ndarray) and values.dtype.kind == "U" and values.dtype.itemsize > kind.dtype.itemsize:
            impossible = np.char.str_len(values) > kind.dtype.itemsize // 4
            values = np.where(impossible, "", values)
    wide = replace(column, kind=kind)
    n, parts = convert.column_parts(wide, values)
    return n, (wide, parts), impossible
