"""Arrays: one numpy array with a name, which can grow along its first axis.

In the file an array is a table of a single column, its rows the first axis, so that everything that holds for columns
holds for it: views are zero-copy and stay as they are, appends copy nothing, a change copies the pieces it touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmstore import format as fmt
from mmstore.catalog.entry import Entry
from mmstore.columns.batch import Batch
from mmstore.columns.schema import Column, DType, Schema
from mmstore.columns.types import Kind
from mmstore.database.lookup import row_numbers
from mmstore.database.table import CommittedName, Named, TransactionName
from mmstore.errors import ReadOnlyError, SchemaError
from mmstore.exchange import rows as fixed_rows
from mmstore.exchange.schemas import column_of

if TYPE_CHECKING:
    from mmstore.columns.batch import Array as NumpyArray

__all__ = ["Array", "ArrayWriter", "array_entry"]

COLUMN = "values"
_MAX = 1 << 62


def array_entry(dtype: Any, shape: int | tuple[int, ...]) -> tuple[int, Entry]:
    """(length, entry of an empty array) for a numpy-like shape.  Raises `SchemaError`."""
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in sizes) or sizes[0] < 0:
        raise SchemaError(f"expected a shape such as (0, 768), whose first axis can grow, found {shape!r}")
    column = column_of(COLUMN, (dtype, sizes[1:]) if len(sizes) > 1 else dtype)
    if not column.kind.plain or column.kind.arrow:
        raise SchemaError(f"an array holds numpy's types of a fixed width, found {column}; make a table for it")
    if int(sizes[0]) * column.row_size > _MAX:
        raise SchemaError(f"an array of the shape {shape} is larger than any file")
    return int(sizes[0]), Entry.table(Schema((column,)), fmt.ENTRY_ARRAY)


class _Reading(Named):
    """What arrays read alike."""

    kind = fmt.ENTRY_ARRAY

    def _all(self) -> NumpyArray:
        with self._state() as state:
            found: NumpyArray = state.array(COLUMN)
            return found

    def _column(self) -> Column:
        with self._state() as state:
            return state.schema.columns[0]

    @property
    def dtype(self) -> DType:
        """Of an element."""
        return self._column().dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The first axis can grow."""
        return (len(self), *self._column().shape)

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    def __getitem__(self, what: Any) -> Any:
        """As of a numpy array: slices are views of the file, read-only."""
        return self._all()[what]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NumpyArray:
        found = self._all()
        if dtype is not None and np.dtype(dtype) != found.dtype:
            if copy is False:
                raise ValueError(f"an array of {found.dtype} can't be one of {np.dtype(dtype)} without a copy")
            return found.astype(dtype)
        return found.copy() if copy else found

    def __dlpack__(self, **options: Any) -> Any:
        """For `np.from_dlpack` and other array packages; read-only, as the array is."""
        return self._all().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._all().__dlpack_device__()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all())

    def __contains__(self, value: object) -> bool:
        return value in self._all()


class Array(_Reading, CommittedName):
    """An array as committed, or as a snapshot has it."""

    @contextmanager
    def _array_writer(self) -> Iterator[ArrayWriter]:
        if self._snapshot is not None:
            raise ReadOnlyError("a snapshot never changes; write through the database or in a transaction")
        with self._database.transaction() as txn:
            yield txn.array(self.name)

    def append(self, data: Any) -> range:
        """Append along the first axis in one transaction; returns the new indices."""
        with self._array_writer() as array:
            return array.append(data)

    def resize(self, length: int) -> None:
        """Another length of the first axis, in one transaction; what is new is zero."""
        with self._array_writer() as array:
            array.resize(length)

    def compact(self) -> None:
        """Gather what changes have scattered, in one transaction.  See `ArrayWriter.compact`."""
        with self._array_writer() as array:
            array.compact()

    def __setitem__(self, what: Any, values: Any) -> None:
        """Change elements in one transaction; see `ArrayWriter`."""
        with self._array_writer() as array:
            array[what] = values


class ArrayWriter(_Reading, TransactionName):
    """An array as its transaction has it, to read and to change."""

    def append(self, data: Any) -> range:
        """Append a block of shape (n, *shape[1:]); returns the new indices.  Raises `SchemaError`."""
        values = fixed_rows.fixed(self._column(), data)
        write = self._transaction.check_open()
        if not len(values):
            return range(len(self), len(self))
        return write.append(self._name, Batch(len(values), [{"values": values}]))

    def resize(self, length: int) -> None:
        """Another length of the first axis; what is new is zero.  ValueError below 0."""
        if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0:
            raise ValueError(f"expected a length of at least 0, found {length!r}")
        write = self._transaction.check_open()
        if length * self._column().row_size > _MAX:
            raise ValueError(f"an array of {length:,} rows is larger than any file")
        if length != len(self):
            write.resize(self._name, int(length))

    def compact(self) -> None:
        """Write the array anew if many changes have cut it into pieces all over the file; its values stay."""
        self._transaction.check_open().compact(self._name)

    def __setitem__(self, what: Any, values: Any) -> None:
        """`a[10:20] = x`, also by numbers, masks and further axes; what is touched is copied (copy on write).

        Raises IndexError, and `SchemaError` or ValueError where the values don't fit.
        """
        column = self._column()
        rows, inner = _touched(what, self.shape)
        wanted = _as_values(column, values)
        if len(inner) == 1 and isinstance(inner[0], slice):  # rows as a whole, in order or backwards
            changed = np.empty((len(rows), *column.shape), column.dtype)
        else:
            with self._state() as state:
                changed = state.column(0).take(rows).values.copy()
        changed[inner] = wanted
        if len(rows):
            self._transaction.check_open().update(self._name, rows, [0], Batch(len(rows), [{"values": changed}]))


def _as_values(column: Column, values: Any) -> NumpyArray:
    """What is to be assigned, of any shape, in the array's type; plain Python numbers are rounded to it."""
    found = np.asarray(values)
    flat: Any = found.reshape(-1)
    if not isinstance(values, np.ndarray | np.generic):
        flat = flat.tolist()
    return fixed_rows.fixed(replace(column, kind=Kind(column.dtype)), flat).reshape(found.shape)


def _touched(what: Any, shape: tuple[int, ...]) -> tuple[NumpyArray, tuple[Any, ...]]:
    """(rows that an index touches, ascending; the index that does the same to these rows alone).

    Raises IndexError.
    """
    items = what if isinstance(what, tuple) else (what,)
    index: list[Any] = [
        item if isinstance(item, slice) or item is None or item is Ellipsis else _numbers(item) for item in items
    ]
    axes = sum(0 if item is None or item is Ellipsis else _axes(item) for item in index)
    dots = [at for at, item in enumerate(index) if item is Ellipsis] or [len(index)]
    if axes > len(shape) or len(dots) > 1:
        raise IndexError(f"expected an index of up to {len(shape)} axes and one ..., found {what!r}")
    index[dots[0] : dots[0] + 1] = [slice(None)] * (len(shape) - axes)
    at = next(place for place, item in enumerate(index) if item is not None)
    first = index[at]
    if isinstance(first, slice):
        rows = np.arange(*first.indices(shape[0]))
        backwards = len(rows) > 1 and rows[0] > rows[-1]
        index[at] = slice(None, None, -1) if backwards else slice(None)
        rows = rows[::-1] if backwards else rows
    else:
        if first.dtype.kind == "b":
            if first.shape != shape[: first.ndim]:
                raise IndexError(f"expected a mask of the shape {shape[: first.ndim]}, found one of {first.shape}")
            index[at : at + 1] = first.nonzero()
            first = index[at]
        numbers = row_numbers(first.reshape(-1), shape[0]).reshape(first.shape)
        rows = np.unique(numbers)
        index[at] = np.searchsorted(rows, numbers)
    while len(index) > 1 and isinstance(index[-1], slice) and index[-1] == slice(None):
        index.pop()
    return np.ascontiguousarray(rows), tuple(item[()] if isinstance(item, np.ndarray) else item for item in index)


def _numbers(item: Any) -> NumpyArray:
    """Numbers or a mask in an index."""
    found = np.asarray(item)
    if found.dtype.kind == "b" and found.ndim or found.dtype.kind in "iu":
        return found
    if not found.size and found.ndim:
        return found.astype(np.int64)
    raise IndexError(f"expected numbers, slices and masks as index, found {item!r}")


def _axes(item: Any) -> int:
    return item.ndim if isinstance(item, np.ndarray) and item.dtype.kind == "b" else 1
