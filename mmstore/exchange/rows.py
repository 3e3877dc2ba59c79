"""Values of a fixed width offered to a column, made into its dtype; all checked before anything is changed.

A value must survive: integers are checked against the range of the column, floats and times are converted
there and back and compared, text that is too long is an error and never cut.  Only among types of one sort, though:
a float array never becomes an integer column, however round its values, since the next batch's may not be.

Plain Python floats in a list have no width of their own; they are rounded to the column's, as numpy does with
literals.

What is missing, of variable length, or of a type that numpy doesn't have is the business of `values`.
"""

from __future__ import annotations

import datetime
import math
from typing import Any, Final, TypeAlias

import numpy as np

from mmstore.columns.schema import Column
from mmstore.columns.types import FIXED
from mmstore.errors import SchemaError

__all__ = ["Array", "fits", "fixed", "misfit"]

Array: TypeAlias = np.ndarray[Any, Any]

# kind of the column's dtype -> kinds of arrays that it takes
_TAKES: Final = {
    "b": "b", "i": "biu", "u": "biu", "f": "biuf", "c": "biufc", "M": "M", "m": "m", "S": "S", "U": "U", "V": "V"
}  # fmt: skip
_SORTS: Final = {
    "b": "booleans", "i": "integers", "u": "integers", "f": "floats", "c": "complex numbers", "M": "datetimes",
    "m": "timedeltas", "S": "bytes", "U": "text", "V": "raw bytes", "O": "Python objects",
}  # fmt: skip
# float type -> bits of its significand: integers up to 2 ** bits are exact
_SIGNIFICAND: Final = {2: 11, 4: 24, 8: 53}


def fits(column: Column, values: Any) -> bool:
    """Whether `values` are what `fixed` would make of them: all that needs to be known of most arrays."""
    kind = column.kind
    return (
        type(values) is np.ndarray
        and values.dtype == kind.dtype
        and kind.layout == FIXED
        and not kind.arrow
        and values.ndim > 0
        and values.shape[1:] == kind.shape
        and values.flags.c_contiguous
    )


def fixed(column: Column, values: Any) -> Array:
    """`values`, none of them missing, as a C-contiguous array of the column's dtype and shape ``(n, *column.shape)``.

    Where they fit already it is the caller's own.  Raises `SchemaError`.
    """
    literal = isinstance(values, list | tuple)
    try:
        array = _as_array(column, values)
    except SchemaError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise misfit(column, f"{type(values).__name__} can't be made an array: {error}") from error
    shape = array.shape[1:]
    if array.ndim == 0 or (shape != column.shape and not (array.size == 0 and array.ndim == 1)):
        expected = ", ".join(["n", *map(str, column.shape)])
        raise misfit(column, f"found the shape {array.shape}, expected ({expected})")
    if array.size == 0:
        return np.empty((len(array), *column.shape), column.dtype)
    if array.dtype != column.dtype:
        if array.dtype.kind not in _TAKES[column.dtype.kind]:
            found = _SORTS.get(array.dtype.kind, f"values of type {array.dtype}")
            raise misfit(column, f"found {found} ({array.dtype}); convert them, for instance with astype")
        array = _cast(column, array, literal)
    return np.ascontiguousarray(array)


def _as_array(column: Column, values: Any) -> Array:
    """`values` as an array, of whatever type they are by themselves."""
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            raise misfit(column, "some values are masked; fill them, or make the column nullable (allow_nulls)")
        return np.asarray(values.data)
    kind = column.dtype.kind
    if isinstance(values, list | tuple) and kind in "SUV":
        return _texts(column, values)
    array = np.asarray(values)
    if array.dtype.kind == "f" and kind in "iu" and isinstance(values, list | tuple):
        array = np.asarray(values, object)  # numpy makes floats of integers on both sides of 2 ** 63
    if array.dtype.kind == "O" and array.size:
        return _objects(column, array)
    if array.dtype.kind == "T":  # numpy's variable-width text
        return _objects(column, array.astype(object))
    return array


def _texts(column: Column, values: Any) -> Array:
    """A list of text or bytes; numpy alone would turn numbers into text, and pad raw bytes."""
    array = np.empty(0, object)
    if values:
        array = np.asarray([bytes(value) if isinstance(value, bytearray) else value for value in values], object)
        if array.ndim == 1 and column.shape == () and isinstance(values[0], np.ndarray | np.generic):
            return np.asarray(values)
    return _objects(column, array) if array.size else array


def _objects(column: Column, array: Array) -> Array:
    """An array of Python objects as one of what all of them are."""
    flat = array.reshape(-1).tolist()
    kinds = {type(value) for value in flat}
    nothing = sum(value is None for value in flat)
    if nothing:
        raise misfit(
            column, f"{nothing:,} values are None; give each a value, or make the column nullable (allow_nulls)"
        )
    kind = column.dtype.kind
    if all(issubclass(t, str) for t in kinds):
        result: Array = np.array(flat, "U")
    elif all(issubclass(t, bytes) for t in kinds):
        if kind == "V":
            wrong = next((value for value in flat if len(value) != column.dtype.itemsize), None)
            if wrong is not None:
                raise misfit(column, f"found {len(wrong)} bytes; each value needs exactly {column.dtype.itemsize}")
            result = np.frombuffer(b"".join(flat), column.dtype)
        else:
            result = np.array(flat, "S")
    elif all(issubclass(t, datetime.datetime) for t in kinds):
        if any(value.tzinfo is not None for value in flat):
            raise misfit(column, "found datetimes with a time zone; convert them to UTC and drop it")
        result = np.array([_numpy_time(value) for value in flat])
    elif all(issubclass(t, datetime.date) and not issubclass(t, datetime.datetime) for t in kinds):
        result = np.array(flat, "M8[D]")
    elif all(issubclass(t, datetime.timedelta) for t in kinds):
        result = np.array([_numpy_time(value) for value in flat])
    elif kind in "iu" and all(issubclass(t, int | np.integer) for t in kinds):  # beyond 64 bits, or a mixture
        info = np.iinfo(column.dtype)
        wrong = next((value for value in flat if not info.min <= value <= info.max), None)
        if wrong is not None:
            raise misfit(column, f"found {wrong}, outside {info.min} .. {info.max}")
        result = np.array(flat, column.dtype)
    else:
        result = np.array(flat)
        if result.dtype.kind in "OSU" or result.ndim != 1:
            raise misfit(column, f"found objects of the types {', '.join(sorted(t.__name__ for t in kinds))}")
    return result.reshape(array.shape)


def _numpy_time(value: Any) -> Any:
    """A datetime or timedelta, also pandas', which are subclasses with nanoseconds, as numpy's."""
    if isinstance(value, datetime.datetime):
        return value.to_datetime64() if hasattr(value, "to_datetime64") else np.datetime64(value, "us")
    return value.to_timedelta64() if hasattr(value, "to_timedelta64") else np.timedelta64(value, "us")


def _cast(column: Column, array: Array, literal: bool) -> Array:
    """`array`, of a kind that the column takes, in the column's dtype; every value survives."""
    dtype, source = column.dtype, array.dtype
    if dtype.kind in "SUV":
        return _cast_text(column, array)
    if source.newbyteorder("<") == dtype:
        return array.astype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < info.min or high > info.max:
            raise misfit(column, f"found {low if low < info.min else high}, outside {info.min} .. {info.max}")
        return array.astype(dtype)
    if dtype.kind in "fc" and source.kind in "biu":
        return _cast_integers(column, array)
    if dtype.kind in "mM":
        return _cast_times(column, array)
    narrow = np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" and source.kind == "f" else dtype
    with np.errstate(all="ignore"):
        result = array.astype(narrow)
        if literal:
            lost = np.isfinite(array) != np.isfinite(result)
        else:
            back = result.astype(source)
            lost = _differ(back.real, array.real) | _differ(back.imag, array.imag)
    _refuse(column, array, lost)
    return result.astype(dtype)


def _differ(back: Array, array: Array) -> Array:
    differ: Array = (back != array) & ~(np.isnan(back) & np.isnan(array))
    return differ


def _cast_times(column: Column, array: Array) -> Array:
    """Times in the column's unit: there and back, as the 64-bit numbers that they are (NaT among them)."""
    source = array.dtype.newbyteorder("=")
    try:
        result = array.astype(column.dtype)
        back = result.astype(source)
    except (TypeError, ValueError, OverflowError) as error:
        raise misfit(column, f"{source} can't be converted: {error}") from error
    _refuse(column, array, back.view("i8") != array.astype(source).view("i8"))
    return result


def _cast_text(column: Column, array: Array) -> Array:
    dtype = column.dtype
    if dtype.kind == "V":
        if array.dtype.names is not None or array.dtype.itemsize != dtype.itemsize:
            raise misfit(column, f"found {array.dtype}; raw bytes must have the column's width")
        return array.astype(dtype)
    width = dtype.itemsize // (4 if dtype.kind == "U" else 1)
    if array.dtype.itemsize > dtype.itemsize:
        lengths = np.strings.str_len(array)
        if int(lengths.max()) > width:
            value = array.reshape(-1)[int(lengths.argmax())]
            raise misfit(
                column,
                f"found {str(value)[:40]!r} of length {int(lengths.max())}, the column's width is {width}; "
                "make it wider or cut the values yourself",
            )
    return array.astype(dtype)


def _cast_integers(column: Column, array: Array) -> Array:
    """Integers as floats: exact where the bits between the highest and the lowest set one fit the significand."""
    dtype = column.dtype
    bits = _SIGNIFICAND[dtype.itemsize // (2 if dtype.kind == "c" else 1)]
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    low, high = int(array.min()), int(array.max())
    if max(-low, high) > 1 << bits:
        size = np.where(array < 0, np.uint64(0) - array.astype(np.uint64), array.astype(np.uint64))
        lowest = np.maximum(size & (np.uint64(0) - size), np.uint64(1))
        _refuse(column, array, (size // lowest >= np.uint64(1 << bits)) | ~np.isfinite(result))
    return result


def _refuse(column: Column, array: Array, lost: Array) -> None:
    if lost.any():
        value = array[lost].reshape(-1)[0]
        raise misfit(
            column,
            f"{int(np.count_nonzero(lost)):,} of {math.prod(array.shape):,} values of type {array.dtype} would change, "
            f"such as {value}; round them with astype if that is meant",
        )


def misfit(column: Column, found: str) -> SchemaError:
    return SchemaError(f"column {column.name!r} holds {column}: {found}")
