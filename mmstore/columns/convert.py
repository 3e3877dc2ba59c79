"""Rows offered to a table, made into batches; all checked before anything is changed.

Rows come as a dict of columns (arrays, lists, Series, Arrow arrays), as a structured array, as a pandas DataFrame, or
as whatever gives Arrow data (`__arrow_c_stream__`, `__arrow_c_array__`), which is taken batch by batch without being
held as a whole.  Missing rows are None, masked, null in Arrow, or NaT in pandas; NaN is a number like any other.

`rows` knows what may become what among numpy's fixed types; here are the others.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np

from mmstore.columns import rows, types
from mmstore.columns.batch import Array, Batch, Parts, empty
from mmstore.columns.rows import misfit
from mmstore.columns.schema import Column, Schema
from mmstore.columns.types import BINARY, CATEGORY, FIXED, LIST, UTF8, Kind
from mmstore.errors import SchemaError

__all__ = [
    "batches",
    "check_names",
    "column_parts",
    "columns_of",
    "decimals",
    "is_stream",
    "small_times",
    "some_columns",
    "whole_days",
]

_DAY: Final = {"tdm": 86_400_000, "tts": 86_400, "ttm": 86_400_000, "ttu": 86_400_000_000, "ttn": 86_400_000_000_000}
_PANDAS_ARROW: Final = ("StringDtype", "CategoricalDtype", "ArrowDtype")  # what pandas itself keeps as Arrow does
_MISSING_TYPES: Final = ("NAType", "NaTType")  # pandas'


def batches(schema: Schema, data: Any) -> Iterator[Batch]:
    """The rows of `data` as batches of all columns in the schema's order.

    Raises `SchemaError` naming the column that doesn't fit; for data that comes in pieces maybe only at a later one.
    """
    if is_stream(data):
        from mmstore.columns import arrow_in

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


def check_names(schema: Schema, given: Sequence[Any]) -> None:
    missing = ", ".join(repr(name) for name in schema.names if name not in given)
    unknown = ", ".join(repr(name) for name in given if name not in schema)
    if missing:
        raise SchemaError(f"missing: {missing}; rows need a value in each column ({', '.join(schema.names)})")
    if unknown:
        raise SchemaError(f"unknown: {unknown}; the table's columns are {', '.join(schema.names)}")


def column_parts(column: Column, values: Any) -> tuple[int, Parts]:
    """(rows, parts) of the values offered for one column.  Raises `SchemaError` for what doesn't fit."""
    kind = column.kind
    if not isinstance(values, np.ndarray | list | tuple) and not hasattr(values, "iloc"):
        if hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__"):
            return _from_arrow(column, values)
        if isinstance(values, str | bytes | bytearray | memoryview | Mapping | Set):
            raise misfit(column, f"found one {type(values).__name__}; expected a list or an array with a value a row")
        if not hasattr(values, "__array__") and not hasattr(values, "__len__") and not hasattr(values, "__iter__"):
            raise misfit(column, f"found one {type(values).__name__}; expected a list or an array with a value a row")
    if type(getattr(values, "dtype", None)).__name__ in _PANDAS_ARROW and hasattr(values, "__arrow_c_stream__"):
        return _from_arrow(column, values)
    values = _unwrapped(column, values)
    present = _present(column, values)
    if present is None and kind.plain and not kind.arrow:
        array = rows.fixed(column, values)
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


def _from_arrow(column: Column, values: Any) -> tuple[int, Parts]:
    from mmstore.columns import arrow_in

    return arrow_in.column(column, values)


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
        array = decimals(column, values)
        return len(array), {"values": array}
    if kind.arrow.startswith("tt") and not isinstance(values, np.ndarray):
        values = [_since_midnight(column, one) if isinstance(one, datetime.time) else one for one in values]
    if kind.arrow in types.EPOCH_OF:
        array = small_times(column, values)
    else:
        array = rows.fixed(column, _utc(values) if kind.arrow.startswith("ts") else values)
    return len(array), {"values": whole_days(column, array)}


def whole_days(column: Column, values: Array) -> Array:
    """`values`, of which a time of day must lie within a day, and a date64 be midnight, as Arrow has it."""
    unit = _DAY.get(column.kind.arrow)
    if unit is not None and len(values):
        numbers = values.view(f"<i{values.dtype.itemsize}")
        if column.kind.arrow == "tdm":
            if (numbers % unit != 0).any():
                raise misfit(column, "a value is no midnight; a date64 is a date, use datetime64[ms] for times")
        elif int(numbers.min()) < 0 or int(numbers.max()) >= unit:
            raise misfit(column, "a value is no time of a day; use timedelta64 for durations")
    return values


def _utc(values: Any) -> Any:
    """Datetimes with a time zone as those of UTC without one."""
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return values
    return [
        value.astimezone(datetime.UTC).replace(tzinfo=None)
        if isinstance(value, datetime.datetime) and value.tzinfo is not None
        else value
        for value in values
    ]


def small_times(column: Column, values: Any) -> Array:
    """Dates and times of day in 4 bytes, by way of numpy's types of 8."""
    kind = column.kind
    wide = rows.fixed(Column(column.name, Kind(np.dtype(types.EPOCH_OF[kind.arrow]), kind.shape)), values).view("<i8")
    narrow = wide.astype("<i4")
    if not np.array_equal(narrow, wide):
        raise misfit(column, "a value is outside of 32 bits, or NaT; make the column nullable for what is missing")
    return narrow


def _since_midnight(column: Column, value: datetime.time) -> datetime.timedelta:
    if value.tzinfo is not None:
        raise misfit(column, f"found {value!r}, with a time zone; drop it")
    return datetime.timedelta(
        hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
    )


def decimals(column: Column, values: Any) -> Array:
    """Decimals, integers and text of digits as scaled integers; floats only by way of their shortest text."""
    precision, scale, bits = types.decimal_of(column.kind.arrow)
    shape = column.kind.shape
    array = np.asarray(values, object)
    if array.shape[1:] != shape and array.size:
        raise misfit(column, f"found the shape {array.shape}, expected ({', '.join(['n', *map(str, shape)])})")
    size = bits // 8
    limit = 10**precision
    packed = bytearray()
    for value in array.reshape(-1).tolist():
        if isinstance(value, bool) or not isinstance(value, decimal.Decimal | int):
            raise misfit(column, f"found {value!r}; decimals come as decimal.Decimal or int")
        number = decimal.Decimal(value).scaleb(scale, _WIDE)
        if not number.is_finite() or number != number.to_integral_value() or number.copy_abs() >= limit:
            raise misfit(column, f"found {value}, which isn't a number of {precision} digits, {scale} behind the point")
        packed += int(number).to_bytes(size, "little", signed=True)
    return np.frombuffer(bytes(packed), column.dtype).reshape(-1, *shape)


_WIDE: Final = decimal.Context(prec=100)


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


def _offsets(lengths: list[int]) -> Array:
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
    arrays = []
    for value in values:
        if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
            raise misfit(column, f"found {value!r}; expected a list or an array in each row")
        arrays.append(_fixed(item, value)[1]["values"] if len(value) else np.empty(0, column.dtype))
    flat = np.concatenate(arrays) if arrays else empty(column.kind)["values"]
    return len(arrays), {"offsets": _offsets(list(map(len, arrays))), "values": flat}


_LAYOUTS: Final = {FIXED: _fixed, UTF8: _texts, BINARY: _bytes, CATEGORY: _categories, LIST: _lists}
