"""Conditions of a scan: (column, operator, value), and what they say of a block of rows and of each row.

A block's statistics answer with NONE, SOME or ALL of its rows; only for SOME the column itself is looked at.  Missing
rows fulfil no condition but "is null", and NaN none but "!=", as in SQL and in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mmstore import format as fmt
from mmstore.columns import statistics
from mmstore.columns.batch import Array
from mmstore.columns.schema import Schema
from mmstore.columns.types import CATEGORY, FIXED, Kind
from mmstore.exchange.comparands import comparable, comparand, is_bytes
from mmstore.exchange.compare import COMPARE, bools, matching, words_matching
from mmstore.exchange.view import ColumnView

__all__ = ["ALL", "NONE", "SOME", "Predicate", "predicates"]

NONE: Final = 0
SOME: Final = 1
ALL: Final = 2

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
        if sign not in COMPARE and sign not in _OTHERS:
            raise ValueError(f"expected one of {', '.join([*COMPARE, *_OTHERS])}, found {sign!r}")
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
        apart = bools(lows > value) | bools(highs < value)
        only = bools(lows == value) & bools(highs == value)
        if sign == "==":
            return ~apart, only
        if sign == "!=":
            return ~only, apart
        compare = COMPARE[sign]
        first, last = (lows, highs) if sign in ("<", "<=") else (highs, lows)  # who fulfils it soonest, who last
        return bools(compare(first, value)), bools(compare(last, value))

    def _codes_between(self, low: Array, high: Array, view: ColumnView) -> Array:
        codes = np.flatnonzero(words_matching(view, self.sign, self.value))
        places = np.searchsorted(codes, low)
        inside = places < len(codes)
        inside[inside] = codes[places[inside]] <= high[inside]
        return inside

    # --- rows ---------------------------------------------------------------------------------------

    def mask(self, view: ColumnView) -> Array:
        """Which rows of the column fulfil the condition."""
        return matching(view, self.sign, self.value)

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
