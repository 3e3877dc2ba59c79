"""Conditions of a scan: (column, operator, value), and what they say of a block of rows and of each row.

A block's statistics answer with NONE, SOME or ALL of its rows; only for SOME the column itself is looked at.  Missing
rows fulfil no condition but "is null", and NaN none but "!=", as in SQL and in numpy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from mmstore import format as fmt
from mmstore.columns import statistics
from mmstore.columns.batch import Array
from mmstore.columns.schema import Schema
from mmstore.columns.types import BINARY, CATEGORY, FIXED, UTF8, Kind
from mmstore.database.comparands import NAT, comparable, comparand, is_bytes
from mmstore.exchange.view import ColumnView

__all__ = ["ALL", "NONE", "SOME", "Predicate", "predicates"]

NONE: Final = 0
SOME: Final = 1
ALL: Final = 2

_COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq, "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip
_OTHERS: Final = ("in", "is null", "is not null")


def predicates(schema: Schema, where: Sequence[tuple[Any, ...]] | None) -> list[Predicate]:
    """The conditions of `where`, all of which must hold.

    Raises KeyError for a column that isn't there, ValueError for an operator, and `SchemaError` for a value that
    doesn't compare with the column's.
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
    """One condition; see `comparands` for what becomes of its value."""

    def __init__(self, schema: Schema, name: str, sign: str, value: Any) -> None:
        self.position = schema.position(name)
        self.kind: Kind = schema.columns[self.position].kind
        self.sign, self.value = comparand(name, self.kind, "==" if sign == "=" else sign, value)

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
        if is_bytes(kind):
            must[:] = False  # bounds are the first bytes only
        return may, must

    def _compared(self, sign: str, value: Any, low: Array, high: Array) -> tuple[Array, Array]:
        kind = self.kind
        if is_bytes(kind):
            value = np.bytes_(value[:16])
            inside = (low <= value) & (high >= value)
            may = {"==": inside, "<": low <= value, "<=": low <= value, ">": high >= value, ">=": high >= value}
            return may.get(sign, np.ones(len(low), np.bool_)), np.zeros(len(low), np.bool_)
        lows, highs = comparable(kind, low), comparable(kind, high)
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
        values = comparable(kind, view.values)
        if self.sign == "in":
            matches = np.zeros(len(values), np.bool_)
            for value in self.value:
                matches |= _bools(values == value)
        else:
            matches = _bools(_COMPARE[self.sign](values, self.value))
        if kind.dtype.kind in "mM" and self.sign != "!=":
            matches &= values != NAT
        return matches

    def _words_matching(self, view: ColumnView) -> Array:
        words = view.categories
        if self.sign == "in":
            return np.array([word in self.value for word in words], np.bool_)
        compare = _COMPARE[self.sign]
        return np.array([compare(word, self.value) for word in words], np.bool_)

    def span(self, values: Array) -> tuple[int, int] | None:
        """Which of a block's values, which are in order, fulfil the condition; None if that is no one range."""
        value = self.value
        if self.sign in ("in", "!=") or self.sign.startswith("is"):
            return None
        if self.kind.layout != FIXED or self.kind.dtype.kind not in "iufmM":  # codes in order aren't words in order
            return None
        values = comparable(self.kind, values)
        if values.dtype.kind == "f":
            value = values.dtype.type(value)
            if value != value:
                return 0, 0
        elif not np.iinfo(values.dtype).min <= value <= np.iinfo(values.dtype).max:
            return None
        else:
            value = values.dtype.type(value)  # searchsorted would compare u8 and a plain int as floats
        left, right = int(np.searchsorted(values, value, "left")), int(np.searchsorted(values, value, "right"))
        return {"==": (left, right), "<": (0, left), "<=": (0, right), ">": (right, len(values)),
                ">=": (left, len(values))}[self.sign]  # fmt: skip


def _bools(found: Any) -> Array:
    return np.asarray(found).astype(np.bool_)


def _text_mask(view: ColumnView, sign: str, value: Any) -> Array:
    """Text compared as bytes, which for UTF-8 is the order of its characters."""
    offsets = view.offsets
    data = view.parts["data"]
    if sign in ("==", "!=", "in"):
        found = np.zeros(len(view), np.bool_)
        lengths = np.diff(offsets)
        for raw in value if sign == "in" else [value]:
            same = np.flatnonzero(lengths == len(raw))
            if len(raw) and len(same):
                places = offsets[:-1][same][:, None] + np.arange(len(raw))
                same = same[(data[places] == np.frombuffer(raw, np.uint8)).all(axis=1)]
            found[same] = True
        return ~found if sign == "!=" else found
    compare, raw = _COMPARE[sign], value
    ends = offsets.tolist()
    whole = data[ends[0] : ends[-1]].tobytes()
    base = ends[0]
    return np.array(
        [compare(whole[a - base : b - base], raw) for a, b in zip(ends[:-1], ends[1:], strict=True)], np.bool_
    )
