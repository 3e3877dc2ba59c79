"""Which rows of a column fulfil a condition: the rows' side of comparisons, for scans and for `view == value`.

Missing rows fulfil no condition but "is null", and NaN none but "!=", as in SQL and in numpy.  What the condition's
value becomes first is the business of `comparands`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from mmstore.columns.arrays import ColumnArrays
from mmstore.columns.batch import Array
from mmstore.columns.types import BINARY, CATEGORY, FIXED, UTF8
from mmstore.errors import SchemaError
from mmstore.exchange.comparands import comparable, comparand
from mmstore.exchange.times import NAT
from mmstore.format import BLOCK_ROWS

__all__ = ["COMPARE", "bools", "compared", "each_compared", "matching", "words_matching"]

COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq, "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip


def matching(view: ColumnArrays, sign: str, value: Any) -> Array:
    """Which rows fulfil the condition, as booleans; sign and value as `comparand` gave them."""
    if sign == "is null":
        return ~view.is_valid
    if sign == "is not null":
        return view.is_valid
    view.check()
    found = _matching(view, sign, value)
    return found & view.is_valid if view.validity is not None else found


def compared(view: ColumnArrays, sign: str, value: Any) -> Array:
    """Which rows compare so with a value as it was given.  Raises `SchemaError` where it doesn't compare."""
    if value is None:
        raise SchemaError(f"column {view.name!r}: a missing value compares with nothing; use ~view.is_valid")
    sign, value = comparand(view.name, view.kind, sign, value)
    found = np.empty(len(view), np.bool_)
    for start in range(0, len(view), BLOCK_ROWS):  # text takes some memory for each row that is looked at
        stop = min(start + BLOCK_ROWS, len(view))
        found[start:stop] = matching(view.cut(start, stop), sign, value)
    return found


def each_compared(view: ColumnArrays, sign: str, values: Array, others: ColumnArrays, theirs: Array) -> Array:
    """Which rows compare so with the row of the same number in a view of the same type.

    values, theirs: of both, where they are text or bytes, as objects; else what they hold.
    """
    kind = view.kind
    comparand(view.name, kind, "in", ())  # whether the type compares at all
    valid = view.is_valid & others.is_valid
    if values.dtype.kind == "O" and kind.layout != FIXED:
        found = np.zeros(len(view), np.bool_)
        found[valid] = bools(COMPARE[sign](values[valid], theirs[valid]))
        return found
    mine, other = comparable(kind, values), comparable(kind, theirs)
    found = bools(COMPARE[sign](mine, other)) & valid
    if kind.dtype.kind in "mM":
        nat = (mine == NAT) | (other == NAT)
        found = (found | nat) & valid if sign == "!=" else found & ~nat
    return found


def _matching(view: ColumnArrays, sign: str, value: Any) -> Array:
    kind = view.kind
    if kind.layout == CATEGORY:
        codes, words = view.values, np.append(words_matching(view, sign, value), False)
        found: Array = words[np.clip(codes, 0, len(words) - 1)]
        return found
    if kind.layout in (UTF8, BINARY):
        return _text_matching(view, sign, value)
    values = comparable(kind, view.values)
    if sign == "in":
        matches = np.zeros(len(values), np.bool_)
        for one in value:
            matches |= bools(values == one)
    else:
        matches = bools(COMPARE[sign](values, value))
    if kind.dtype.kind in "mM" and sign != "!=":
        matches &= values != NAT
    return matches


def words_matching(view: ColumnArrays, sign: str, value: Any) -> Array:
    """Which words of a category fulfil a condition, by their codes."""
    words = view.categories
    if sign == "in":
        return np.array([word in value for word in words], np.bool_)
    compare = COMPARE[sign]
    return np.array([compare(word, value) for word in words], np.bool_)


def bools(found: Any) -> Array:
    """What a comparison gave, as booleans: of objects it gives objects."""
    return np.asarray(found).astype(np.bool_)


def _text_matching(view: ColumnArrays, sign: str, value: Any) -> Array:
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
    compare, raw = COMPARE[sign], value
    ends = offsets.tolist()
    whole = data[ends[0] : ends[-1]].tobytes()
    base = ends[0]
    return np.array(
        [compare(whole[a - base : b - base], raw) for a, b in zip(ends[:-1], ends[1:], strict=True)], np.bool_
    )
