"""Columns as Arrow arrays: which bytes an Arrow consumer is shown.

Arrow's C data interface (`cdata`) takes whole arrays and an offset, so a slice costs nothing and nothing is copied:
an exported array's addresses lie inside the mapping of the file.  Copied are only booleans (Arrow packs them), U text,
and times of units that Arrow lacks.  NaT becomes null: the bitmap is made, the values stay where they are.

A consumer in C trusts what it is given, so offsets, codes and UTF-8 are checked before they leave (I6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmstore import format as fmt
from mmstore.columns import bitmap
from mmstore.columns.arrays import ColumnArrays
from mmstore.columns.batch import Array
from mmstore.columns.schema import Column, Schema
from mmstore.columns.types import CATEGORY, FIXED, LIST, UTF8
from mmstore.errors import CorruptError
from mmstore.exchange import cdata
from mmstore.exchange.arrow_types import calendar_format, field_of
from mmstore.exchange.cdata import Data, Field
from mmstore.exchange.times import NAT, has_nat
from mmstore.kernels.extremes import extremes
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
        there = _without_nat(view, view.values)
        if there is None and _as_is(kind.dtype, kind.arrow):
            return _fixed(view.parts["values"], kind.shape, kind.dtype, rows, nulls, bits, start)
        return _converted(view, there)
    if kind.layout == CATEGORY:
        offsets = view.parts["word_offsets"]
        offsets = offsets if len(offsets) else np.zeros(1, "<i8")
        _check_text(view, view.parts["words"], offsets)
        dictionary = Data(len(offsets) - 1, 0, (None, offsets, view.parts["words"]))
        return Data(rows, nulls, (bits, view.parts["values"]), dictionary=dictionary, offset=start)
    offsets = view.parts["offsets"]
    if kind.layout == LIST:
        return _list(view)
    if kind.layout == UTF8:
        view.check_text()
    return Data(rows, nulls, (bits, offsets, view.parts["data"]), offset=start)


def _list(view: ColumnArrays) -> Data:
    """Lists over the column's own offsets and elements, or over copies of these rows' where Arrow has other bytes."""
    kind, rows, offsets, values = view.kind, len(view), view.offsets, view.parts["values"]
    low, high = int(offsets[0]), int(offsets[-1])
    there = _without_nat(view, values[low:high])
    bits = view.parts.get("validity")
    if there is None and _as_is(kind.dtype, kind.arrow):
        child = _fixed(values, (), kind.dtype, len(values), 0, None, 0)
        return Data(rows, 0 if bits is None else -1, (bits, view.parts["offsets"]), (child,), offset=view.start)
    bits = None if bits is None else bitmap.pack(view.is_valid)
    child = _elements(view, values[low:high], there)
    return Data(rows, view.null_count, (bits, offsets - low), (child,))


def _without_nat(view: ColumnArrays, values: Array) -> Array | None:
    """Which of a view's values, flat, aren't NaT, which Arrow has no number for; None if none is, as mostly.

    Blocks of rows whose statistics know of no NaT aren't looked at; where no statistics were given (`view.nat_blocks`)
    the values are read through, at some 20 GB/s.
    """
    if not has_nat(view.kind) or not len(view):
        return None
    if view.nat_blocks is not None:
        first, last = view.start // fmt.BLOCK_ROWS, -(-view.stop // fmt.BLOCK_ROWS)
        if not view.nat_blocks[first:last].any():
            return None
    numbers = values.reshape(-1).view("<i8")
    if extremes(numbers)[0] != NAT:  # no number is smaller
        return None
    there: Array = numbers != NAT
    return there


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


def _converted(view: ColumnArrays, there: Array | None) -> Data:
    """Values of a fixed width that Arrow has in other bytes, copied, or of which some are NaT."""
    kind, rows = view.kind, len(view)
    flat = view.values.reshape(-1)
    valid = None if view.parts.get("validity") is None else view.is_valid
    if not kind.shape:
        child = _elements(view, flat, there if valid is None else valid if there is None else there & valid)
        return child
    child = _elements(view, flat, there)
    size = len(flat)
    for n in reversed(kind.shape[1:]):
        size //= n
        child = Data(size, 0, (None,), (child,))
    return Data(rows, view.null_count, (None if valid is None else bitmap.pack(valid),), (child,))


def _elements(view: ColumnArrays, flat: Array, there: Array | None) -> Data:
    """Values, one behind the other, as Arrow has them; those that aren't there (booleans) are null."""
    n = len(flat)
    nulls = 0 if there is None else n - int(np.count_nonzero(there))
    bits = bitmap.pack(there) if nulls and there is not None else None
    dtype = view.kind.dtype
    if dtype.kind == "b":
        return Data(n, nulls, (bits, bitmap.pack(flat)))
    if dtype.kind == "U":
        texts = [text.encode("utf-8", "surrogatepass") for text in flat.tolist()]
        offsets = np.cumsum([0, *map(len, texts)], dtype="<i8")
        data = np.frombuffer(b"".join(texts), np.uint8)
        _check_text(view, data, offsets)
        return Data(n, nulls, (bits, offsets, data))
    return Data(n, nulls, (bits, flat.view(np.uint8) if _as_is(dtype, view.kind.arrow) else _calendar(flat)))


def _calendar(values: Array) -> Array:
    """Times of a unit that Arrow lacks in the one that it gets (see `calendar_format`)."""
    arrow = calendar_format(values.dtype)
    if arrow == "l":
        return values.view("<i8")
    if arrow == "tdD":
        return values.astype("M8[D]").view("<i8").astype("<i4")
    unit = {"s": "s", "m": "ms", "u": "us", "n": "ns"}[arrow[2]]
    return values.astype(f"{values.dtype.kind}8[{unit}]").view("<i8")
