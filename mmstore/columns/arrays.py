"""The rows of a column as arrays in Arrow's layout, and whether these can be trusted.

A `ColumnArrays` is the column's whole arrays, zero-copy where the store is, and a range of rows in them.  Arrays are
read-only and stay true for as long as they live, like every view of a store.  What they mean to a user is the business
of `exchange.view`.

The invariant is I6: whoever follows offsets, codes or text calls `check` or `check_text` first.  What was found right
is kept in a `Known`, which all views of one column share, so it is looked at once.
"""

from __future__ import annotations

from functools import cached_property
from typing import Self

import numpy as np

from mmstore.columns.batch import Array, Parts, pick
from mmstore.columns.schema import Column
from mmstore.columns.types import CATEGORY, LIST, Kind
from mmstore.columns.words import split
from mmstore.errors import CorruptError
from mmstore.kernels.strings import check_codes, check_offsets, check_utf8

__all__ = ["ColumnArrays", "Known"]


class Known:
    """What was found right of a whole column's bytes, which its views share: what is right is looked at once."""

    __slots__ = ("rows", "text")

    def __init__(self) -> None:
        self.rows = 0
        """Offsets, or codes, of so many rows from the first on."""
        self.text = 0
        """The UTF-8 of so many."""


class ColumnArrays:
    """Rows [start, stop) of a column."""

    def __init__(
        self, column: Column, start: int, stop: int, parts: Parts, checked: bool = False, known: Known | None = None
    ) -> None:
        """parts: whole arrays of the column; `validity` is packed bits.  checked: offsets and codes are known right."""
        self.column = column
        self.kind: Kind = column.kind
        self.start = start
        self.stop = stop
        self.parts = parts
        self.nat_blocks: Array | None = None
        """Which of the column's blocks of rows may have NaT, by its statistics; None: nobody asked them."""
        self._checked = checked
        self._known = Known() if known is None else known

    # --- the arrays ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.column.name

    @property
    def values(self) -> Array:
        """Fixed types: the values, those of missing rows being zeros; categories: the codes; lists: all elements."""
        values = self.parts["values"]
        return (
            values
            if self.kind.layout == LIST or len(values) == self.stop - self.start
            else values[self.start : self.stop]
        )

    @property
    def codes(self) -> Array:
        """The number of each row's category (i4)."""
        if self.kind.layout != CATEGORY:
            raise TypeError(f"column {self.name!r} is {self.kind}; only a category column has codes")
        return self.values

    @cached_property
    def categories(self) -> list[str]:
        """The words that the codes mean."""
        if self.kind.layout != CATEGORY:
            raise TypeError(f"column {self.name!r} is {self.kind}; only a category column has categories")
        return [word.decode() for word in split(self._word_offsets, self.parts["words"])]

    @property
    def _word_offsets(self) -> Array:
        offsets = self.parts["word_offsets"]
        self._expect(not len(offsets) or check_offsets(offsets, len(self.parts["words"])) < 0, "its words")
        return offsets if len(offsets) else np.zeros(1, "<i8")

    @property
    def offsets(self) -> Array:
        """i64, one more than rows: row i is `data[offsets[i]:offsets[i + 1]]` (of a list, `values[...]`)."""
        if "offsets" not in self.parts:
            raise TypeError(f"column {self.name!r} is {self.kind}, of a fixed width; use values")
        offsets = self.parts["offsets"][self.start : self.stop + 1]
        return offsets if len(offsets) else np.zeros(1, "<i8")

    @property
    def data(self) -> Array:
        """The column's text (UTF-8) or bytes, all rows', as u8."""
        if "data" not in self.parts:
            raise TypeError(f"column {self.name!r} is {self.kind}; only utf8 and binary columns have data")
        return self.parts["data"]

    @property
    def validity(self) -> Array | None:
        """Arrow's bitmap (u8, least significant bit first, 1: has a value) from bit `validity_offset` on; None if
        no row is missing."""
        found = self.parts.get("validity")
        return None if found is None else found[self.start // 8 : -(-self.stop // 8)]

    @property
    def validity_offset(self) -> int:
        """Where in the first byte of `validity` the first row's bit is."""
        return self.start % 8

    @cached_property
    def is_valid(self) -> Array:
        """Which rows have a value, as booleans."""
        packed = self.validity
        if packed is None:
            return np.ones(len(self), np.bool_)
        skip = self.validity_offset
        return np.unpackbits(packed, count=skip + len(self), bitorder="little")[skip:].view(np.bool_)

    @cached_property
    def null_count(self) -> int:
        """Rows without a value."""
        return 0 if self.validity is None else len(self) - int(np.count_nonzero(self.is_valid))

    def check(self) -> None:
        """Raise `CorruptError` unless offsets, codes and words stay inside what they point into."""
        known = self._known
        if self._checked or self.stop <= known.rows or not self.stop - self.start:
            return
        new = self.cut(max(0, known.rows - self.start), len(self))
        if "offsets" in self.parts:
            body = self.parts["values" if self.kind.layout == LIST else "data"]
            self._expect(check_offsets(new.offsets, len(body)) < 0, "its offsets")
        elif self.kind.layout == CATEGORY:
            codes, words = new.values, len(self._word_offsets) - 1
            if new.null_count:
                codes = codes[new.is_valid]
            self._expect(not len(codes) or check_codes(np.ascontiguousarray(codes), words) < 0, "its codes")
        self._checked = True
        if self.start <= known.rows:
            known.rows = max(known.rows, self.stop)

    def check_text(self) -> None:
        """Raise `CorruptError` unless each row's text is UTF-8, and all is as `check` wants it."""
        self.check()
        known = self._known
        if self.stop <= known.text:
            return
        new = self.cut(max(0, known.text - self.start), len(self))
        wrong = check_utf8(self.parts["data"], new.offsets) if len(new) else -1
        if wrong >= 0:
            raise CorruptError(f"row {new.start + wrong} of column {self.name!r} is no UTF-8; run check()")
        if self.start <= known.text:
            known.text = max(known.text, self.stop)

    def _expect(self, right: bool, what: str) -> None:
        if not right:
            raise CorruptError(f"column {self.name!r} ({self.kind}) is damaged: {what} lead outside; run check()")

    # --- some of the rows ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.stop - self.start

    def cut(self, start: int, stop: int) -> Self:
        """The rows [start, stop) of these, over the same arrays."""
        low = self.start + start
        found = type(self)(self.column, low, self.start + max(start, stop), self.parts, self._checked, self._known)
        found.nat_blocks = self.nat_blocks
        return found

    def take(self, rows: Array) -> Self:
        """A copy of rows given by their numbers (integers in [0, len)) or a mask (booleans)."""
        if rows.dtype.kind == "b":
            if rows.shape != (len(self),):
                raise IndexError(f"expected a mask of {len(self):,} rows, found one of the shape {rows.shape}")
            rows = np.flatnonzero(rows)
        elif not rows.size:
            rows = np.zeros(0, np.int64)
        elif rows.dtype.kind not in "iu" or rows.ndim != 1:
            raise TypeError(f"expected a row, a slice, numbers or a mask, found an array of {rows.dtype}, {rows.shape}")
        self.check()
        some: dict[str, Array] = {}
        for name, part in self.parts.items():
            if name == "validity":
                some[name] = self.is_valid
            elif name == "offsets":
                some[name] = self.offsets
            elif name == "values" and self.kind.layout != LIST:
                some[name] = self.values
            else:
                some[name] = part
        found = dict(pick(self.kind, some, rows))
        if "validity" in found:
            found["validity"] = np.packbits(found["validity"], bitorder="little")
        return type(self)(self.column, 0, len(rows), found, checked=True)
