"""Rows offered to a table, made into batches; all checked before anything is changed.

Rows come as a dict of columns (arrays, lists, Series, Arrow arrays), as a structured array, as a pandas DataFrame, or
as whatever gives Arrow data (`__arrow_c_stream__`, `__arrow_c_array__`), which is taken batch by batch without being
held as a whole.  Missing rows are None, masked, null in Arrow, or NaT in pandas; NaN is a number like any other.

Here is said in which form data may come; `values` and `arrow_in` know what may become what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np

from mmstore.columns.batch import Batch, Parts
from mmstore.columns.schema import Column, Schema
from mmstore.errors import SchemaError
from mmstore.exchange import arrow_in
from mmstore.exchange.rows import fits, misfit
from mmstore.exchange.schemas import check_names
from mmstore.exchange.values import offered

__all__ = ["batches", "column_parts", "columns_of", "is_stream", "some_columns"]

_PANDAS_ARROW: Final = ("StringDtype", "CategoricalDtype", "ArrowDtype")  # what pandas itself keeps as Arrow does


def batches(schema: Schema, data: Any) -> Iterator[Batch]:
    """The rows of `data` as batches of all columns in the schema's order.

    Raises `SchemaError` naming the column that doesn't fit; for data that comes in pieces maybe only at a later one.
    """
    if is_stream(data):
        yield from arrow_in.batches(schema, data)
        return
    given = columns_of(schema, data)
    check_names(schema, list(given))
    yield _batch(schema.columns, given)


def some_columns(schema: Schema, data: Any) -> tuple[list[int], Batch]:
    """(positions, batch) of a dict of some of the columns.  Raises `SchemaError`."""
    given = columns_of(schema, data)
    unknown = ", ".join(repr(name) for name in given if name not in schema)
    if unknown or not given:
        raise SchemaError(f"unknown: {unknown}; give some of the columns {', '.join(schema.names)}")
    positions = sorted(schema.position(name) for name in given)
    return positions, _batch([schema.columns[position] for position in positions], given)


def _batch(columns: Sequence[Column], given: Mapping[Any, Any]) -> Batch:
    found: list[Parts] = []
    count = -1
    for column in columns:
        n, parts = column_parts(column, given[column.name])
        if found and n != count:
            raise SchemaError(
                f"column {column.name!r} has {n:,} rows, {columns[0].name!r} has {count:,}; "
                "all columns must be equally long"
            )
        count = n
        found.append(parts)
    return Batch(count, found)


def is_stream(data: Any) -> bool:
    if isinstance(data, Mapping | np.ndarray) or hasattr(data, "iloc"):  # pandas takes NaN for null on its way to Arrow
        return False
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


def columns_of(schema: Schema, data: Any) -> Mapping[Any, Any]:
    """Columns by name."""
    if isinstance(data, Mapping):
        return data
    if isinstance(data, np.ndarray) and data.dtype.names is not None:
        if data.ndim != 1:
            raise SchemaError(f"expected a one-dimensional structured array, found the shape {data.shape}")
        return {name: data[name] for name in data.dtype.names}
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        return {name: data[name] for name in data.columns}
    names = getattr(data, "column_names", None) or getattr(data, "columns", None)
    if is_stream(data) and names and all(isinstance(name, str) for name in names):
        return {name: data[name] for name in names}
    raise SchemaError(
        f"expected a dict of arrays with the columns {', '.join(map(repr, schema.names))}, a structured array, a "
        f"DataFrame or Arrow data; found {type(data).__name__}"
    )


def column_parts(column: Column, values: Any) -> tuple[int, Parts]:
    """(rows, parts) of the values offered for one column.  Raises `SchemaError` for what doesn't fit."""
    if fits(column, values):
        return len(values), {"values": values}
    if not isinstance(values, np.ndarray | list | tuple) and not hasattr(values, "iloc"):
        if hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__"):
            return arrow_in.column(column, values)
        if isinstance(values, str | bytes | bytearray | memoryview | Mapping | Set):
            raise misfit(column, f"found one {type(values).__name__}; expected a list or an array with a value a row")
        if not hasattr(values, "__array__") and not hasattr(values, "__len__") and not hasattr(values, "__iter__"):
            raise misfit(column, f"found one {type(values).__name__}; expected a list or an array with a value a row")
    if type(getattr(values, "dtype", None)).__name__ in _PANDAS_ARROW and hasattr(values, "__arrow_c_stream__"):
        return arrow_in.column(column, values)
    return offered(column, values)
