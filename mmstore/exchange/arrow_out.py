"""Columns as Arrow arrays: which bytes an Arrow consumer is shown.

Arrow's C data interface (`cdata`) takes whole arrays and an offset, so a slice costs nothing and nothing is copied:
an exported array's addresses lie inside the mapping of the file.  Copied are only booleans (Arrow packs them), U text,
and times of units that Arrow lacks.

A consumer in C trusts what it is given, so offsets, codes and UTF-8 are checked before they leave (I6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmstore.columns import bitmap
from mmstore.columns.arrays import ColumnArrays
from mmstore.columns.batch import Array
from mmstore.columns.schema import Column, Schema
from mmstore.columns.types import CATEGORY, FIXED, LIST, UTF8
from mmstore.errors import CorruptError
from mmstore.exchange import cdata
from mmstore.exchange.arrow_types import calendar_format, field_of
from mmstore.exchange.cdata import Data, Field
from mmstore.kernels.strings import check_utf8

__all__ = ["array_capsules", "data_of", "pyarrow", "schema_capsule", "stream", "struct_of", "table_field"]


def pyarrow() -> Any:
    """The package, or an ImportError that names the extra."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError("this needs pyarrow: python -m pip install 'mmstore[arrow]'") from error
    return pa


def schema_capsule(column: Column) -> Any:
    """A column's Arrow field as a capsule."""
    return cdata.export_schema(field_of(column))


def array_capsules(view: ColumnArrays) -> tuple[Any, Any]:
    """A column's rows as two capsules, field and array."""
    return cdata.export_array(field_of(view.column), data_of(view))


def table_field(schema: Schema) -> Field:
    """A table's Arrow schema: a struct of its columns."""
    return Field("+s", "", False, tuple(field_of(column) for column in schema))


def struct_of(rows: int, views: Sequence[ColumnArrays]) -> Data:
    """Rows of several columns as one Arrow struct, which is how a record batch travels."""
    return Data(rows, 0, (None,), tuple(data_of(view) for view in views))


def stream(schema: Schema, batches: Iterator[tuple[int, Sequence[ColumnArrays]]]) -> Any:
    """A capsule of a stream of record batches; each is made when the consumer asks for it."""
    return cdata.export_stream(table_field(schema), (struct_of(rows, views) for rows, views in batches))


def data_of(view: ColumnArrays) -> Data:
    """The Arrow array of a column's rows.  Raises `CorruptError` where offsets, codes or text are damaged."""
    view.check()
    kind, rows, start = view.kind, len(view), view.start
    if not rows:
        view, start = view.take(np.zeros(0, np.int64)), 0
    bits = view.parts.get("validity")
    nulls = 0 if bits is None else -1
    if kind.layout == FIXED:
        if _as_is(kind.dtype, kind.arrow):
            return _fixed(view.parts["values"], kind.shape, kind.dtype, rows, nulls, bits, start)
        return _converted(view)
    if kind.layout == CATEGORY:
        offsets = view.parts["word_offsets"]
        offsets = offsets if len(offsets) else np.zeros(1, "<i8")
        _check_text(view, view.parts["words"], offsets)
        dictionary = Data(len(offsets) - 1, 0, (None, offsets, view.parts["words"]))
        return Data(rows, nulls, (bits, view.parts["values"]), dictionary=dictionary, offset=start)
    offsets = view.parts["offsets"]
    if kind.layout == LIST:
        values = view.parts["values"]
        child = _fixed(values, (), kind.dtype, len(values), 0, None, 0)
        return Data(rows, nulls, (bits, offsets), (child,), offset=start)
    if kind.layout == UTF8:
        view.check_text()
    return Data(rows, nulls, (bits, offsets, view.parts["data"]), offset=start)


def _check_text(view: ColumnArrays, data: Array, offsets: Array) -> None:
    wrong = check_utf8(data, offsets) if len(offsets) > 1 else -1
    if wrong >= 0:
        raise CorruptError(f"row {view.start + wrong} of column {view.name!r} is no UTF-8; run check()")


def _as_is(dtype: np.dtype[Any], arrow: str) -> bool:
    """Whether Arrow has a type of the same bytes."""
    if arrow or dtype.kind in "iufcSV":
        return True
    if dtype.kind not in "mM":
        return False
    unit, count = np.datetime_data(dtype)
    return count == 1 and unit in ("s", "ms", "us", "ns")


def _fixed(
    values: Array, shape: tuple[int, ...], dtype: np.dtype[Any], rows: int, nulls: int, bits: Array | None, start: int
) -> Data:
    """Values of a fixed width, in lists of a fixed size where a row has a shape."""
    flat = values.reshape(-1)
    if dtype.kind == "c":
        flat, shape = flat.view(f"f{dtype.itemsize // 2}"), (*shape, 2)
    size = len(flat)
    flat = flat.view(np.uint8)
    if not shape:
        return Data(rows, nulls, (bits, flat), offset=start)
    child = Data(size, 0, (None, flat))
    for n in reversed(shape[1:]):
        size //= n
        child = Data(size, 0, (None,), (child,))
    return Data(rows, nulls, (bits,), (child,), offset=start)


def _converted(view: ColumnArrays) -> Data:
    """Values that Arrow has in other bytes, copied."""
    kind, rows = view.kind, len(view)
    values = view.values
    bits = None if view.parts.get("validity") is None else bitmap.pack(view.is_valid)
    nulls = 0 if bits is None else -1
    flat = values.reshape(-1)
    if kind.dtype.kind == "b":
        child = Data(len(flat), 0, (None, bitmap.pack(flat)))
    elif kind.dtype.kind == "U":
        texts = [text.encode("utf-8", "surrogatepass") for text in flat.tolist()]
        offsets = np.cumsum([0, *map(len, texts)], dtype="<i8")
        data = np.frombuffer(b"".join(texts), np.uint8)
        _check_text(view, data, offsets)
        child = Data(len(flat), 0, (None, offsets, data))
    else:
        child = Data(len(flat), 0, (None, _calendar(flat)))
    if not kind.shape:
        return Data(rows, nulls, (bits, *child.buffers[1:]))
    size = len(flat)
    for n in reversed(kind.shape[1:]):
        size //= n
        child = Data(size, 0, (None,), (child,))
    return Data(rows, nulls, (bits,), (child,))


def _calendar(values: Array) -> Array:
    """Times of a unit that Arrow lacks in the one that it gets (see `calendar_format`)."""
    arrow = calendar_format(values.dtype)
    if arrow == "l":
        return values.view("<i8")
    if arrow == "tdD":
        return values.astype("M8[D]").view("<i8").astype("<i4")
    unit = {"s": "s", "m": "ms", "u": "us", "n": "ns"}[arrow[2]]
    return values.astype(f"{values.dtype.kind}8[{unit}]").view("<i8")
