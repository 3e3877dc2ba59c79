"""A column as users see it where one numpy array can't show it all: text, categories, lists, missing values, decimals.

A `ColumnView` is the column's arrays in Arrow's layout, zero-copy where the store is, and a range of rows in them.  It
converts on demand: `to_numpy`, `to_masked`, `to_arrow`, an index for one value.  Arrays are read-only and stay true for
as long as they live, like every view of a store.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np

from mmstore.columns import types
from mmstore.columns.batch import Array, Parts, pick
from mmstore.columns.schema import Column
from mmstore.columns.types import BINARY, CATEGORY, FIXED, LIST, UTF8, Kind
from mmstore.columns.words import split
from mmstore.errors import CorruptError
from mmstore.kernels.strings import check_codes, check_offsets, check_utf8

__all__ = ["ColumnView", "Known"]

_STRING: Final = getattr(np.dtypes, "StringDType", None)
_EXACT: Final = decimal.Context(prec=100)


class Known:
    """What was found right of a whole column's bytes, which its views share: what is right is looked at once."""

    __slots__ = ("rows", "text")

    def __init__(self) -> None:
        self.rows = 0
        """Offsets, or codes, of so many rows from the first on."""
        self.text = 0
        """The UTF-8 of so many."""


class ColumnView:
    """Rows [start, stop) of a column; a sequence of Python values, None where a row has none."""

    def __init__(
        self, column: Column, start: int, stop: int, parts: Parts, checked: bool = False, known: Known | None = None
    ) -> None:
        """parts: whole arrays of the column; `validity` is packed bits.  checked: offsets and codes are known right."""
        self.column = column
        self.kind: Kind = column.kind
        self.start = start
        self.stop = stop
        self.parts = parts
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
        new = self[max(0, known.rows - self.start) :]
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
        new = self[max(0, known.text - self.start) :]
        wrong = check_utf8(self.parts["data"], new.offsets) if len(new) else -1
        if wrong >= 0:
            raise CorruptError(f"row {new.start + wrong} of column {self.name!r} is no UTF-8; run check()")
        if self.start <= known.text:
            known.text = max(known.text, self.stop)

    def _expect(self, right: bool, what: str) -> None:
        if not right:
            raise CorruptError(f"column {self.name!r} ({self.kind}) is damaged: {what} lead outside; run check()")

    # --- conversions --------------------------------------------------------------------------------

    def to_numpy(self, fill: Any = None) -> Array:
        """One numpy array: the values themselves where that is possible without a copy.

        Text becomes StringDType (objects before numpy 2), bytes, lists and decimals become objects.  Missing rows are
        NaN, NaT or None where the type has that, else `fill`.

        Raises ValueError where rows are missing, the type can't say so, and there is no `fill`.
        """
        self.check()
        kind = self.kind
        if kind.layout != FIXED or kind.arrow.startswith("d:"):
            return self._objects(fill)
        values = self.values
        if kind.arrow in types.EPOCH_OF:
            values = values.astype("i8").view(types.EPOCH_OF[kind.arrow])
        if not self.null_count:
            return values
        if fill is None:
            if values.dtype.kind in "fc":
                fill = np.nan
            elif values.dtype.kind in "mM":
                fill = np.array("NaT", values.dtype)
            else:
                raise ValueError(
                    f"{self.null_count:,} of {len(self):,} rows of column {self.name!r} have no value, which {kind} "
                    "can't say; pass fill=..., or use to_masked()"
                )
        values = values.copy()
        values[~self.is_valid] = fill
        return values

    def _objects(self, fill: Any) -> Array:
        listed = self.tolist()
        if fill is not None:
            listed = [fill if value is None else value for value in listed]
        if self.kind.text and _STRING is not None:
            missing = self.null_count and fill is None
            return np.array(listed, _STRING(na_object=None) if missing else _STRING())
        if self.kind.shape and not self.null_count:
            return np.array(listed, object).reshape(-1, *self.kind.shape)
        return np.fromiter(listed, object, len(listed))  # not array(): lists may be equally long

    def to_masked(self) -> np.ma.MaskedArray[Any, Any]:
        """A masked array over the values (no copy of them where they are fixed), masked where a row is missing."""
        fixed = (
            self.kind.layout == FIXED and not self.kind.arrow.startswith("d:") and self.kind.arrow not in types.EPOCH_OF
        )
        mask = ~self.is_valid
        values = self.values if fixed else self._objects("" if self.kind.text else None)
        if mask.any() and values.ndim > 1:
            mask = np.broadcast_to(mask.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
        return np.ma.MaskedArray(values, mask)

    def tolist(self) -> list[Any]:
        """Python values: str, bytes, numbers, datetimes as numpy has them, decimal.Decimal, arrays, None."""
        self.check()
        kind = self.kind
        found: list[Any]
        if kind.layout in (UTF8, BINARY):
            found = self._texts()
        elif kind.layout == CATEGORY:
            words = [*self.categories, None]
            codes = self.values.tolist()
            found = [words[code] if ok else None for code, ok in zip(codes, self.is_valid.tolist(), strict=True)]
        elif kind.layout == LIST:
            ends = self.offsets.tolist()
            items = self._item_view()
            found = [items[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
        elif kind.arrow.startswith("d:"):
            found = decimals(kind, self.values)
            if kind.shape:
                found = list(np.array(found, object).reshape(-1, *kind.shape))
        elif kind.dtype.kind in "mM" or kind.shape or kind.arrow in types.EPOCH_OF:
            values = self.values
            found = list(
                values.astype("i8").view(types.EPOCH_OF[kind.arrow]) if kind.arrow in types.EPOCH_OF else values
            )
        else:
            found = self.values.tolist()
        if self.null_count:
            found = [value if ok else None for value, ok in zip(found, self.is_valid.tolist(), strict=True)]
        return found

    def _texts(self) -> list[Any]:
        offsets = self.offsets
        low, high = int(offsets[0]), int(offsets[-1])
        data = self.parts["data"][low:high].tobytes()
        ends = (offsets - low).tolist()
        if self.kind.layout == BINARY:
            return [data[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
        try:
            if data.isascii():
                text = data.decode("ascii")
                return [text[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
            return [data[a:b].decode() for a, b in zip(ends[:-1], ends[1:], strict=True)]
        except UnicodeDecodeError as error:
            raise CorruptError(f"column {self.name!r} has text that is no UTF-8 ({error}); run check()") from None

    def _item_view(self) -> Array:
        """The elements of lists as values."""
        kind, values = self.kind, self.parts["values"]
        if kind.arrow.startswith("d:"):
            return np.array(decimals(kind, values), object)
        return values.astype("i8").view(types.EPOCH_OF[kind.arrow]) if kind.arrow in types.EPOCH_OF else values

    # --- as a sequence ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: Any) -> Any:
        """A row's value, or a view of a slice of rows, or a copy of rows given by numbers or a mask."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                low, high = self.start + start, self.start + max(start, stop)
                return ColumnView(self.column, low, high, self.parts, self._checked, self._known)
            rows = np.arange(start, stop, step)
        if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
            row = int(rows) + (len(self) if rows < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"row {rows} of {len(self):,}")
            return self[row : row + 1].tolist()[0]
        return self.take(np.asarray(rows))

    def take(self, rows: Array) -> ColumnView:
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
        return ColumnView(self.column, 0, len(rows), found, checked=True)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), 65536):
            yield from self[start : start + 65536].tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = self.to_numpy()
        if copy is False and (self.kind.layout != FIXED or (dtype is not None and dtype != found.dtype)):
            raise ValueError(f"column {self.name!r} of type {self.kind} can't be an array without a copy")
        return np.array(found, dtype, copy=True) if copy or dtype is not None else found

    def __repr__(self) -> str:
        some = ", ".join(map(repr, self[:5].tolist()))
        return f"<mmstore column {self.name!r}: {len(self):,} x {self.kind} [{some}{', ...' if len(self) > 5 else ''}]>"

    # --- Arrow --------------------------------------------------------------------------------------

    def __arrow_c_schema__(self) -> Any:
        from mmstore.columns import arrow_out

        return arrow_out.schema_capsule(self.column)

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        """The rows as an Arrow array, zero-copy where the type's layout is Arrow's."""
        from mmstore.columns import arrow_out

        return arrow_out.array_capsules(self)

    def to_arrow(self) -> Any:
        """A pyarrow.Array; needs the extra "arrow"."""
        from mmstore.columns import arrow_out

        return arrow_out.pyarrow().array(self)


def decimals(kind: Kind, values: Array) -> list[decimal.Decimal]:
    """Numbers as Python's decimals."""
    _, scale, bits = types.decimal_of(kind.arrow)
    size = bits // 8
    whole = np.ascontiguousarray(values).tobytes()
    numbers = (int.from_bytes(whole[at : at + size], "little", signed=True) for at in range(0, len(whole), size))
    return [decimal.Decimal(number).scaleb(-scale, _EXACT) for number in numbers]
