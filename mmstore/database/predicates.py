"""Conditions of a scan: (column, operator, value), and what they say of a block of rows and of each row.

A block's statistics answer with NONE, SOME or ALL of its rows; only for SOME the column itself is looked at.  Missing
rows fulfil no condition but "is null", and NaN none but "!=", as in SQL and in numpy.
"""

from __future__ import annotations

import datetime
import decimal
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from mmstore import format as fmt
from mmstore.columns import statistics, types
from mmstore.columns.batch import Array
from mmstore.columns.schema import Schema
from mmstore.columns.types import BINARY, CATEGORY, UTF8, Kind
from mmstore.columns.view import ColumnView
from mmstore.errors import SchemaError

__all__ = ["ALL", "NONE", "SOME", "Predicate", "predicates"]

NONE: Final = 0
SOME: Final = 1
ALL: Final = 2

_COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq, "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip
_OTHERS: Final = ("in", "is null", "is not null")
_EXACT: Final = decimal.Context(prec=2000)
_EPOCH_OF: Final = {"tdD": "M8[D]", "tts": "m8[s]", "ttm": "m8[ms]"}


def predicates(schema: Schema, where: Sequence[tuple[Any, ...]] | None) -> list[Predicate]:
    """The conditions of `where`, all of which must hold.

    Raises KeyError for a column that isn't there, ValueError for an operator, and SchemaError for a value that doesn't
    compare with the column's.
    """
    found = []
    for condition in where or ():
        if not isinstance(condition, tuple | list) or len(condition) not in (2, 3):
            raise ValueError(f"expected conditions (column, operator, value), found {condition!r}")
        name, sign = condition[:2]
        if sign not in _COMPARE and sign not in _OTHERS:
            raise ValueError(f"expected one of {', '.join([*_COMPARE, *_OTHERS])}, found {sign!r}")
        if (len(condition) == 2) != sign.startswith("is"):
            raise ValueError(f'expected a value behind every operator but "is null", found {condition!r}')
        found.append(Predicate(schema, name, sign, condition[2] if len(condition) == 3 else None))
    return found


class Predicate:
    """One condition."""

    def __init__(self, schema: Schema, name: str, sign: str, value: Any) -> None:
        self.position = schema.position(name)
        self.kind: Kind = schema.columns[self.position].kind
        self.name = name
        self.sign = "==" if sign == "=" else sign
        if sign in ("is null", "is not null"):
            self.value: Any = None
        elif sign == "in":
            self.value = [self._comparable(one) for one in value]
        else:
            self.value = self._comparable(value)
        if self.kind.arrow.startswith("d:"):
            self._scale()

    def _scale(self) -> None:
        """Compare scaled decimals as integers: between two of them a bound is as good as the nearer."""
        if self.sign == "in":
            self.value = [int(one) for one in self.value if one == one.to_integral_value()]
        elif self.value is not None and self.value != self.value.to_integral_value():
            if self.sign in ("==", "!="):
                self.sign, self.value = ("in", []) if self.sign == "==" else ("is not null", None)
            else:
                rounding = decimal.ROUND_CEILING if self.sign in ("<", ">=") else decimal.ROUND_FLOOR
                self.value = int(self.value.to_integral_value(rounding))
        elif self.value is not None:
            self.value = int(self.value)

    def _misfit(self, value: Any) -> SchemaError:
        return SchemaError(f"column {self.name!r} holds {self.kind}, which does not compare with {value!r}")

    def _comparable(self, value: Any) -> Any:
        """`value` as what the column's values are compared with."""
        kind = self.kind
        if kind.shape or kind.layout == types.LIST or kind.dtype.kind in "cV" and not kind.arrow:
            raise SchemaError(f"column {self.name!r} of type {kind} can't be compared; compare its array yourself")
        if kind.text or kind.layout == BINARY or kind.dtype.kind == "S":
            if isinstance(value, np.str_ | np.bytes_):
                value = value.item()
            if not isinstance(value, str if kind.text else bytes):
                raise self._misfit(value)
            return value if kind.dtype.kind in "US" or kind.layout == CATEGORY else _raw(value)
        if isinstance(value, np.generic) and value.dtype.kind not in "mM":
            value = value.item()
        if kind.arrow.startswith("d:"):
            if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
                raise self._misfit(value)
            number = decimal.Decimal(value)
            if not number.is_finite():
                raise self._misfit(value)
            return number.scaleb(types.decimal_of(kind.arrow)[1], _EXACT)
        if kind.dtype.kind in "mM" or kind.arrow in _EPOCH_OF:
            return self._time(value)
        if not isinstance(value, bool | int | float) or isinstance(value, bool) != (kind.dtype.kind == "b"):
            raise self._misfit(value)
        return value

    def _time(self, value: Any) -> Any:
        dtype = np.dtype(_EPOCH_OF.get(self.kind.arrow, self.kind.dtype))
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        if isinstance(value, datetime.time):
            value = datetime.timedelta(
                hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
            )
        if isinstance(value, bool | int | float):
            raise self._misfit(value)
        try:
            found = np.datetime64(value) if dtype.kind == "M" else np.timedelta64(value)
        except (TypeError, ValueError) as error:
            raise self._misfit(value) from error
        return found

    # --- a block ------------------------------------------------------------------------------------

    def of_blocks(self, packed: bytes, view: ColumnView) -> Array:
        """NONE, SOME or ALL for each block of rows, by its packed statistics."""
        kind = self.kind
        table = statistics.table(kind, packed)
        rows, nulls = table["rows"].astype(np.int64), table["nulls"].astype(np.int64)
        if self.sign.startswith("is"):
            some, everything = nulls > 0, nulls == rows
            if self.sign == "is not null":
                some, everything = nulls < rows, nulls == 0
            return np.where(everything, ALL, np.where(some, SOME, NONE))
        known = (table["flags"] & fmt.STAT_RANGE) != 0
        if not statistics.ranged(kind):
            return np.where(nulls == rows, NONE, SOME)
        low, high = table["low"], table["high"]
        if kind.layout == CATEGORY:
            may, must = self._codes_between(low, high, view), np.zeros(len(table), np.bool_)
        else:
            may, must = self._between(low, high)
        nan = (table["flags"] & fmt.STAT_NAN) != 0
        if self.sign == "!=":
            may |= nan
        must &= (nulls == 0) & ((self.sign == "!=") | ~nan)
        empty = ~known & ((nulls == rows) | (self.sign != "!="))  # only missing rows, or NaN
        return np.where(empty, NONE, np.where(known & must, ALL, np.where(known & ~may, NONE, SOME)))

    def _between(self, low: Array, high: Array) -> tuple[Array, Array]:
        """(blocks of which a row may fulfil the condition, blocks of which every row that has a value does)."""
        kind, sign = self.kind, self.sign
        if sign == "in":
            answers = [self._compared("==", value, low, high) for value in self.value]
            none = np.zeros(len(low), np.bool_)
            return (
                np.logical_or.reduce([none, *(may for may, _ in answers)]),
                np.logical_or.reduce([none, *(must for _, must in answers)]),
            )
        may, must = self._compared(sign, self.value, low, high)
        if kind.layout in (UTF8, BINARY) or kind.dtype.kind == "S":
            must[:] = False  # bounds are the first bytes only
        return may, must

    def _compared(self, sign: str, value: Any, low: Array, high: Array) -> tuple[Array, Array]:
        kind = self.kind
        if kind.layout in (UTF8, BINARY) or kind.dtype.kind == "S":
            value = np.bytes_(_raw(value)[:16])
            inside = (low <= value) & (high >= value)
            may = {"==": inside, "<": low <= value, "<=": low <= value, ">": high >= value, ">=": high >= value}
            return may.get(sign, np.ones(len(low), np.bool_)), np.zeros(len(low), np.bool_)
        if kind.arrow.startswith("d:"):
            lows, highs = _integers(kind, low), _integers(kind, high)
        else:
            lows, highs = _times(kind, low), _times(kind, high)
        apart = _bools(lows > value) | _bools(highs < value)
        only = _bools(lows == value) & _bools(highs == value)
        if sign == "==":
            return ~apart, only
        if sign == "!=":
            return ~only, apart
        compare = _COMPARE[sign]
        first, last = (lows, highs) if sign in ("<", "<=") else (highs, lows)  # who fulfils it soonest, who last
        return _bools(compare(first, value)), _bools(compare(last, value))

    def _codes_between(self, low: Array, high: Array, view: ColumnView) -> Array:
        codes = np.flatnonzero(self._words_matching(view))
        places = np.searchsorted(codes, low)
        inside = places < len(codes)
        inside[inside] = codes[places[inside]] <= high[inside]
        return inside

    # --- rows ---------------------------------------------------------------------------------------

    def mask(self, view: ColumnView) -> Array:
        """Which rows of the column fulfil the condition."""
        if self.sign == "is null":
            return ~view.is_valid
        if self.sign == "is not null":
            return view.is_valid
        found = self._mask(view)
        return found & view.is_valid if view.validity is not None else found

    def _mask(self, view: ColumnView) -> Array:
        view.check()
        kind = self.kind
        if kind.layout == CATEGORY:
            codes, matching = view.values, np.append(self._words_matching(view), False)
            found: Array = matching[np.clip(codes, 0, len(matching) - 1)]
            return found
        if kind.layout in (UTF8, BINARY):
            return _text_mask(view, self.sign, self.value)
        values = view.values
        if kind.arrow.startswith("d:"):
            values = _integers(kind, values)
        elif kind.arrow in _EPOCH_OF:
            values = _times(kind, values)
        if self.sign == "in":
            found = np.zeros(len(values), np.bool_)
            for value in self.value:
                found |= _bools(values == value)
            return found
        return _bools(_COMPARE[self.sign](values, self.value))

    def _words_matching(self, view: ColumnView) -> Array:
        words = view.categories
        if self.sign == "in":
            return np.array([word in self.value for word in words], np.bool_)
        compare = _COMPARE[self.sign]
        return np.array([compare(word, self.value) for word in words], np.bool_)

    def span(self, values: Array) -> tuple[int, int] | None:
        """Which of a block's values, which are in order, fulfil the condition; None if that is no one range."""
        value = self.value
        if self.sign in ("in", "!=") or self.sign.startswith("is") or self.kind.dtype.kind not in "iufmM":
            return None
        if self.kind.arrow in _EPOCH_OF or self.kind.arrow.startswith("d:"):
            return None
        if isinstance(value, float) and value != value:
            return 0, 0
        if self.kind.dtype.kind in "iu" and not _fits(value, values.dtype):
            return None
        if self.kind.dtype.kind == "f":
            value = np.float64(value)
        left, right = int(np.searchsorted(values, value, "left")), int(np.searchsorted(values, value, "right"))
        return {"==": (left, right), "<": (0, left), "<=": (0, right), ">": (right, len(values)),
                ">=": (left, len(values))}[self.sign]  # fmt: skip


def _fits(value: Any, dtype: np.dtype[Any]) -> bool:
    return isinstance(value, int) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _bools(found: Any) -> Array:
    return np.asarray(found).astype(np.bool_)


def _raw(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _times(kind: Kind, values: Array) -> Array:
    if kind.arrow in _EPOCH_OF:
        return values.astype("i8").view(_EPOCH_OF[kind.arrow])
    return values


def _integers(kind: Kind, values: Array) -> Array:
    """Scaled decimals as integers: i8 where they fit, else objects."""
    if kind.dtype.itemsize < 16:
        return values
    halves = np.ascontiguousarray(values).view([("low", "<u8"), ("high", "<i8")])
    low: Array = halves["low"].view("<i8")
    if np.array_equal(halves["high"], low >> 63):
        return low
    whole: Array = halves["high"].astype(object) * (1 << 64) + halves["low"].astype(object)
    return whole


def _text_mask(view: ColumnView, sign: str, value: Any) -> Array:
    """Text compared as bytes, which for UTF-8 is the order of its characters."""
    offsets = view.offsets
    data = view.parts["data"]
    if sign in ("==", "!=", "in"):
        found = np.zeros(len(view), np.bool_)
        lengths = np.diff(offsets)
        for one in value if sign == "in" else [value]:
            raw = _raw(one)
            same = np.flatnonzero(lengths == len(raw))
            if len(raw) and len(same):
                places = offsets[:-1][same][:, None] + np.arange(len(raw))
                same = same[(data[places] == np.frombuffer(raw, np.uint8)).all(axis=1)]
            found[same] = True
        return ~found if sign == "!=" else found
    compare, raw = _COMPARE[sign], _raw(value)
    ends = offsets.tolist()
    whole = data[ends[0] : ends[-1]].tobytes()
    base = ends[0]
    return np.array(
        [compare(whole[a - base : b - base], raw) for a, b in zip(ends[:-1], ends[1:], strict=True)], np.bool_
    )
