"""A column as users see it where one numpy array can't show it all: text, categories, lists, missing values, decimals.

A `ColumnView` is some rows of a column's arrays (see `columns.arrays`), zero-copy where the store is.  It converts on
demand: `to_numpy`, `to_masked`, `to_arrow`, an index for one value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from mmstore.columns import types
from mmstore.columns.arrays import ColumnArrays
from mmstore.columns.batch import Array
from mmstore.columns.bitmap import pack
from mmstore.columns.types import BINARY, CATEGORY, FIXED, LIST, UTF8
from mmstore.errors import CorruptError
from mmstore.exchange import arrow_out
from mmstore.exchange.compare import compared, each_compared
from mmstore.exchange.convert import column_parts
from mmstore.exchange.decimals import unscaled

__all__ = ["ColumnView"]

_STRING: Final = getattr(np.dtypes, "StringDType", None)


class ColumnView(ColumnArrays):
    """A column's rows as a sequence of Python values, None where a row has none."""

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
            found = unscaled(kind, self.values)
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
            return np.array(unscaled(kind, values), object)
        return values.astype("i8").view(types.EPOCH_OF[kind.arrow]) if kind.arrow in types.EPOCH_OF else values

    # --- as a sequence ------------------------------------------------------------------------------

    def __getitem__(self, rows: Any) -> Any:
        """A row's value, or a view of a slice of rows, or a copy of rows given by numbers or a mask."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self.cut(start, stop)
            rows = np.arange(start, stop, step)
        if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
            row = int(rows) + (len(self) if rows < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"row {rows} of {len(self):,}")
            return self[row : row + 1].tolist()[0]
        return self.take(np.asarray(rows))

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

    # --- comparisons --------------------------------------------------------------------------------

    def __eq__(self, other: object) -> Array:  # type: ignore[override]
        """Which rows equal a value, or each its own of a sequence, as booleans; so for all six operators.

        A missing row compares False with everything, also by `!=`; NaN and NaT fulfil only `!=`.  Values are compared
        exactly, as a scan does it.

        Raises `SchemaError` for a value that does not compare with the column's, None among them, and ValueError for a
        sequence of another length.
        """
        return self._compared("==", other)

    def __ne__(self, other: object) -> Array:  # type: ignore[override]
        return self._compared("!=", other)

    def __lt__(self, other: object) -> Array:
        return self._compared("<", other)

    def __le__(self, other: object) -> Array:
        return self._compared("<=", other)

    def __gt__(self, other: object) -> Array:
        return self._compared(">", other)

    def __ge__(self, other: object) -> Array:
        return self._compared(">=", other)

    __hash__ = None  # type: ignore[assignment]  # as of numpy's arrays: equality is no yes or no

    def _compared(self, sign: str, other: Any) -> Array:
        if isinstance(other, np.ndarray) and not other.ndim:
            other = other[()]
        several = hasattr(other, "__len__") or hasattr(other, "__array__")
        if not several or isinstance(other, str | bytes | np.generic):
            return compared(self, sign, other)
        column = replace(self.column, kind=replace(self.kind, nullable=True))
        n, parts = column_parts(column, other)
        if n != len(self):
            raise ValueError(f"column {self.name!r} has {len(self):,} rows, it can't be compared with {n:,} values")
        if "validity" in parts:
            parts = {**parts, "validity": pack(parts["validity"])}
        others = ColumnView(column, 0, n, parts)
        if self.kind.layout == FIXED:
            return each_compared(self, sign, self.values, others, others.values)
        mine, theirs = (np.fromiter(view.tolist(), object, n) for view in (self, others))
        return each_compared(self, sign, mine, others, theirs)

    # --- Arrow --------------------------------------------------------------------------------------

    def __arrow_c_schema__(self) -> Any:
        return arrow_out.schema_capsule(self.column)

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        """The rows as an Arrow array, zero-copy where the type's layout is Arrow's."""
        return arrow_out.array_capsules(self)

    def to_arrow(self) -> Any:
        """A pyarrow.Array; needs the extra "arrow"."""
        return arrow_out.pyarrow().array(self)
