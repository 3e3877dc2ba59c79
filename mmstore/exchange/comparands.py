"""What a condition's value is compared with: both sides as something that compares exactly.

Integers, decimals and times of any unit are compared as integers, the condition's value being a fraction of them: a
bound between two integers is as good as the nearer of them, so `x < 2.5` becomes `x < 3`.  No value is rounded to a
column's type, and no date overflows in its unit.  Floats are compared as numpy does it, with the value as the column's
type.  Text is compared as bytes, which for UTF-8 is the order of its characters.
"""

from __future__ import annotations

import datetime
import decimal
import math
from fractions import Fraction
from typing import Any, Final

import numpy as np

from mmstore.columns import types
from mmstore.columns.batch import Array
from mmstore.columns.types import BINARY, CATEGORY, LIST, UTF8, Kind
from mmstore.errors import SchemaError
from mmstore.exchange.times import since_midnight

__all__ = ["comparand", "comparable", "is_bytes"]

_ATTOSECONDS: Final = {
    unit: 10**18 * seconds for unit, seconds in {"W": 604800, "D": 86400, "h": 3600, "m": 60, "s": 1}.items()
} | {"ms": 10**15, "us": 10**12, "ns": 10**9, "ps": 10**6, "fs": 1000, "as": 1}
_EXACT: Final = decimal.Context(prec=2000)


def is_bytes(kind: Kind) -> bool:
    """Whether values are compared as bytes."""
    return kind.layout in (UTF8, BINARY) or kind.dtype.kind == "S"


def comparand(name: str, kind: Kind, sign: str, value: Any) -> tuple[str, Any]:
    """(operator, value) that say the same of what `comparable` makes of the column's values.

    Raises `SchemaError` for a value that does not compare with the column's type.
    """
    if sign.startswith("is "):
        return sign, None
    if kind.shape or kind.layout == LIST or kind.dtype.kind == "c" or kind.dtype.kind == "V" and not kind.arrow:
        raise SchemaError(f"column {name!r} of type {kind} can't be compared; compare its array yourself")
    if sign == "in":
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            raise SchemaError(f'column {name!r}: expected a list behind "in", found {value!r}')
        pairs = [_one(name, kind, "==", each) for each in value]
        return sign, [found for equal, found in pairs if equal == "=="]
    return _one(name, kind, sign, value)


def _one(name: str, kind: Kind, sign: str, value: Any) -> tuple[str, Any]:
    misfit = SchemaError(f"column {name!r} holds {kind}, which does not compare with {value!r}")
    if isinstance(value, np.generic) and value.dtype.kind not in "mM":
        value = value.item()
    if kind.text or is_bytes(kind):
        if not isinstance(value, str if kind.text else bytes):
            raise misfit
        return sign, str(value).encode() if kind.layout == UTF8 else value
    if kind.dtype.kind in "mM" and not _linear(kind.dtype):
        return sign, np.array(_time(kind, value, misfit), kind.dtype).view("<i8").item()
    if kind.dtype.kind in "mM" or kind.arrow in types.EPOCH_OF:
        return _whole(sign, _units(kind, value, misfit))
    if isinstance(value, bool) != (kind.dtype.kind == "b"):
        raise misfit
    if kind.arrow.startswith("d:"):
        if not isinstance(value, int | float | decimal.Decimal) or not math.isfinite(value):
            raise misfit
        scale = types.decimal_of(kind.arrow)[1]
        return _whole(sign, Fraction(value) * Fraction(10) ** scale)
    if not isinstance(value, bool | int | float):
        raise misfit
    if kind.dtype.kind in "iu" and isinstance(value, float):
        if math.isfinite(value):
            return _whole(sign, Fraction(value))
        return _beyond(sign, value)
    return sign, value


def _whole(sign: str, value: Fraction) -> tuple[str, Any]:
    """A condition on integers: a bound between two of them is as good as the nearer."""
    if value.denominator == 1:
        return sign, int(value)
    if sign in ("==", "!="):
        return ("in", []) if sign == "==" else ("is not null", None)
    return sign, math.ceil(value) if sign in ("<", ">=") else math.floor(value)


def _beyond(sign: str, value: float) -> tuple[str, Any]:
    """A condition on integers with a value that is infinite or NaN."""
    holds = sign == "!=" or sign.startswith("<" if value > 0 else ">") and value == value
    return ("is not null", None) if holds else ("in", [])


# --- times -------------------------------------------------------------------------------------------


def _linear(dtype: np.dtype[Any]) -> bool:
    """Whether the unit is so many seconds; years and months aren't."""
    return np.datetime_data(dtype)[0] in _ATTOSECONDS


def _time(kind: Kind, value: Any, misfit: SchemaError) -> Any:
    """A value as numpy's time of its own unit."""
    dtype = np.dtype(types.EPOCH_OF.get(kind.arrow, kind.dtype))
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    if isinstance(value, datetime.time):
        if value.tzinfo is not None:
            raise misfit
        value = since_midnight(value)
    wanted = np.datetime64 if dtype.kind == "M" else np.timedelta64
    if isinstance(value, bool | int | float) or isinstance(value, np.generic) and not isinstance(value, wanted):
        raise misfit
    try:
        found = wanted(value)
    except (TypeError, ValueError):
        raise misfit from None
    if np.isnat(found):
        raise misfit
    return found


def _units(kind: Kind, value: Any, misfit: SchemaError) -> Fraction:
    """A time as a number of the column's units."""
    found = _time(kind, value, misfit)
    if not _linear(found.dtype):
        found = found.astype("M8[D]" if found.dtype.kind == "M" else found.dtype)
        if not _linear(found.dtype):
            raise misfit
    return Fraction(
        int(found.view("<i8")) * _step(found.dtype), _step(np.dtype(types.EPOCH_OF.get(kind.arrow, kind.dtype)))
    )


def _step(dtype: np.dtype[Any]) -> int:
    unit, count = np.datetime_data(dtype)
    return _ATTOSECONDS[unit] * count


# --- the other side ----------------------------------------------------------------------------------


def comparable(kind: Kind, values: Array) -> Array:
    """A column's values, or bounds of them, as `comparand` has them: times as i8, decimals as i8 or else objects."""
    if kind.layout == CATEGORY:
        return values
    if kind.dtype.kind in "mM":
        return np.ascontiguousarray(values).view("<i8")
    if kind.arrow.startswith("d:") and kind.dtype.itemsize == 16:
        halves = np.ascontiguousarray(values).view([("low", "<u8"), ("high", "<i8")])
        low: Array = halves["low"].view("<i8")
        if np.array_equal(halves["high"], low >> 63):
            return low
        whole: Array = halves["high"].astype(object) * (1 << 64) + halves["low"].astype(object)
        return whole
    return values
