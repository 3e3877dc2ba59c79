"""Values offered for one column as numpy arrays, lists or pandas' Series, made into parts; all are checked.

Which rows have a value is found first (missing are None, masked, and pandas' NA and NaT), then the values that are
there are made what the column's layout holds.  `rows` knows what may become what among numpy's fixed types; here are
the others.
"""

from __future__ import annotations

import datetime
from itertools import chain
from typing import Any, Final

import numpy as np

from mmstore.columns import types
from mmstore.columns.batch import Array, Parts, empty
from mmstore.columns.schema import Column
from mmstore.columns.types import BINARY, CATEGORY, FIXED, LIST, UTF8, Kind
from mmstore.errors import SchemaError
from mmstore.exchange import rows as fixed_rows
from mmstore.exchange.decimals import scaled
from mmstore.exchange.rows import misfit
from mmstore.exchange.times import in_utc, since_midnight, small_times, whole_days

__all__ = ["offered"]

_MISSING_TYPES: Final = ("NAType", "NaTType")  # pandas'


def offered(column: Column, values: Any) -> tuple[int, Parts]:
    """(rows, parts) of the values offered for one column.  Raises `SchemaError` for what doesn't fit."""
    kind = column.kind
    values = _unwrapped(column, values)
    present = _present(column, values)
    if present is None and kind.plain and not kind.arrow:
        array = fixed_rows.fixed(column, values)
        return len(array), {"values": array}
    if present is not None:
        if not kind.nullable:
            first = int(np.flatnonzero(~present)[0])
            raise misfit(
                column,
                f"{int(np.count_nonzero(~present)):,} rows have no value, the first of them row {first}; give each a "
                "value, or make the column nullable (allow_nulls)",
            )
        values = _only(values, present)
    n, parts = _LAYOUTS[kind.layout](column, values)
    if present is None:
        return n, parts
    return len(present), {**_spread(kind, parts, present), "validity": present}


def _unwrapped(column: Column, values: Any) -> Any:
    """pandas' Series, and arrays of objects, as numpy or masked arrays and lists."""
    if not (hasattr(values, "iloc") and hasattr(values, "isna")):
        objects = isinstance(values, np.ndarray) and values.dtype.kind == "O" and values.ndim == 1
        return values.tolist() if objects and not isinstance(values, np.ma.MaskedArray) else values
    if getattr(values.dtype, "tz", None) is not None and hasattr(values, "dt"):
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    if hasattr(values.dtype, "numpy_dtype") and values.dtype.kind in "biuf":
        return np.ma.MaskedArray(values.to_numpy(values.dtype.numpy_dtype, na_value=0), values.isna().to_numpy())
    array = values.to_numpy()
    if array.dtype.kind in "mM":  # pandas' only way to say that a time is missing
        return np.ma.MaskedArray(array, np.isnat(array)) if column.nullable else array
    if array.dtype.kind != "O" and type(values.dtype).__module__ == "numpy.dtypes":
        return array
    missing = values.isna().to_numpy()
    if array.dtype.kind != "O":
        return np.ma.MaskedArray(array, missing) if missing.any() else array
    return [None if gone else value for value, gone in zip(array.tolist(), missing.tolist(), strict=True)]


def _present(column: Column, values: Any) -> Array | None:
    """Which rows have a value; None if all do."""
    found: Any
    if isinstance(values, np.ma.MaskedArray):
        mask: Array = np.ma.getmaskarray(values)
        if mask.ndim > 1:
            every = mask.reshape(len(mask), -1)
            mask = mask.reshape(len(mask), -1)[:, 0]
            if (every != mask[:, None]).any():
                raise misfit(column, "a row is masked in part; a row has its value, or none")
        found = ~mask
    elif isinstance(values, list | tuple):
        kinds = set(map(type, values))  # not `None in values`: arrays among them have no truth
        nat = column.nullable or column.dtype.kind not in "mM"  # else NaT is a time like any other, as numpy has it
        missing = _MISSING_TYPES if nat else _MISSING_TYPES[:1]
        gone = {kind for kind in kinds if kind is type(None) or kind.__name__ in missing}
        if not gone:
            return None
        found = np.array([type(value) not in gone for value in values], np.bool_)
    elif isinstance(values, np.ndarray) and values.dtype.kind == "T" and hasattr(values.dtype, "na_object"):
        found = np.array([isinstance(value, str) for value in values.tolist()], np.bool_)
    else:
        return None
    return None if found.all() else found


def _only(values: Any, present: Array) -> Any:
    """The values that are there."""
    if isinstance(values, np.ma.MaskedArray):
        return values.data[present]
    if isinstance(values, np.ndarray):
        return values[present]
    return [value for value, there in zip(values, present.tolist(), strict=True) if there]


def _spread(kind: Kind, parts: Parts, present: Array) -> dict[str, Array]:
    """The parts of the values that are there, with nothing in the rows between."""
    spread = dict(parts)
    if "offsets" in parts:
        lengths = np.zeros(len(present), np.int64)
        lengths[present] = np.diff(parts["offsets"])
        offsets = np.zeros(len(present) + 1, "<i8")
        np.cumsum(lengths, out=offsets[1:])
        spread["offsets"] = offsets
    else:
        values = np.zeros((len(present), *kind.shape), kind.dtype)
        values[present] = parts["values"]
        spread["values"] = values
    return spread


# --- by layout ---------------------------------------------------------------------------------------


def _fixed(column: Column, values: Any) -> tuple[int, Parts]:
    kind = column.kind
    if kind.arrow.startswith("d:"):
        array = scaled(column, values)
        return len(array), {"values": array}
    if kind.arrow.startswith("tt") and not isinstance(values, np.ndarray):
        zoned = next((one for one in values if isinstance(one, datetime.time) and one.tzinfo is not None), None)
        if zoned is not None:
            raise misfit(column, f"found {zoned!r}, with a time zone; drop it")
        values = [since_midnight(one) if isinstance(one, datetime.time) else one for one in values]
    if kind.arrow in types.EPOCH_OF:
        array = small_times(column, values)
    else:
        array = fixed_rows.fixed(column, in_utc(values) if kind.arrow.startswith("ts") else values)
    return len(array), {"values": whole_days(column, array)}


def _texts(column: Column, values: Any) -> tuple[int, Parts]:
    data, offsets = _encoded(column, _text_list(column, values))
    return len(offsets) - 1, {"offsets": offsets, "data": data}


def _text_list(column: Column, values: Any) -> list[str]:
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "UTO":
            raise misfit(column, f"found an array of {values.dtype} and shape {values.shape}; expected text")
        values = values.tolist()
    listed = list(values)
    wrong = next((value for value in listed if not isinstance(value, str)), None)
    if wrong is not None:
        raise misfit(column, f"found {type(wrong).__name__} {str(wrong)[:40]!r}; text comes as str")
    return listed


def _encoded(column: Column, texts: list[str]) -> tuple[Array, Array]:
    """(UTF-8 of all, offsets)."""
    whole = "".join(texts)
    try:
        data = whole.encode()
        lengths = list(map(len, texts if len(data) == len(whole) else [text.encode() for text in texts]))
    except UnicodeEncodeError as error:
        raise misfit(column, f"a text can't be encoded as UTF-8: {error}") from error
    return np.frombuffer(data, np.uint8), _offsets(lengths)


def _offsets(lengths: list[int] | Array) -> Array:
    offsets = np.zeros(len(lengths) + 1, "<i8")
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _bytes(column: Column, values: Any) -> tuple[int, Parts]:
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "SVO" or values.dtype.names:
            raise misfit(column, f"found an array of {values.dtype} and shape {values.shape}; expected bytes")
        values = [bytes(value) for value in values] if values.dtype.kind == "V" else values.tolist()
    listed = list(values)
    wrong = next((value for value in listed if not isinstance(value, bytes | bytearray | memoryview)), None)
    if wrong is not None:
        raise misfit(column, f"found {type(wrong).__name__} {str(wrong)[:40]!r}; expected bytes")
    data = np.frombuffer(b"".join(listed), np.uint8)
    return len(listed), {"offsets": _offsets([memoryview(value).nbytes for value in listed]), "data": data}


def _categories(column: Column, values: Any) -> tuple[int, Parts]:
    texts = _text_list(column, values)
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(text, len(numbers)) for text in texts], "<i4")
    words, offsets = _encoded(column, list(numbers))
    return len(texts), {"values": codes, "word_offsets": offsets, "words": words}


def _lists(column: Column, values: Any) -> tuple[int, Parts]:
    item = Column(column.name, Kind(column.dtype, arrow=column.kind.arrow))
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = _fixed(item, values.reshape(-1))[1]["values"]
        return len(values), {"offsets": _offsets([values.shape[1]] * len(values)), "values": flat}
    rows = list(values)
    wrong = next((value for value in rows if isinstance(value, str | bytes) or not hasattr(value, "__len__")), None)
    if wrong is not None:
        raise misfit(column, f"found {wrong!r}; expected a list or an array in each row")
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    flat = _elements([row for row in rows if len(row)])
    if flat is not None:
        try:
            return len(rows), {"offsets": _offsets(lengths), "values": _fixed(item, flat)[1]["values"]}
        except SchemaError:  # rows that are each of another sort may still fit; else they say which doesn't
            pass
    arrays = [_fixed(item, row)[1]["values"] if len(row) else np.empty(0, column.dtype) for row in rows]
    joined = np.concatenate(arrays) if arrays else empty(column.kind)["values"]
    return len(rows), {"offsets": _offsets(lengths), "values": joined}


def _elements(rows: list[Any]) -> Any:
    """All elements of rows, none of them empty, as one list or array; None where they are of different sorts."""
    kinds = set(map(type, rows))
    if kinds <= {list, tuple}:
        return list(chain.from_iterable(rows))
    if kinds == {np.ndarray} and len({(row.dtype, row.ndim) for row in rows}) == 1 and rows[0].ndim == 1:
        return np.concatenate(rows)
    return None


_LAYOUTS: Final = {FIXED: _fixed, UTF8: _texts, BINARY: _bytes, CATEGORY: _categories, LIST: _lists}
