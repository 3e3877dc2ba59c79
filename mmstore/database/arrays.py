"""Arrays: one numpy array with a name, which can grow along its first axis.

In the file an array is a table of a single column, its rows the first axis, so that everything that holds for columns
holds for it: views are zero-copy and stay as they are, appends copy nothing, a change copies the pieces it touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mmstore import format as fmt
from mmstore.catalog.entry import Entry
from mmstore.columns import rows as fixed_rows
from mmstore.columns.batch import Batch
from mmstore.columns.schema import Column, DType, Schema
from mmstore.database.lookup import row_numbers
from mmstore.database.table import CommittedName, Named, TransactionName
from mmstore.errors import ReadOnlyError, SchemaError

if TYPE_CHECKING:
    from mmstore.columns.batch import Array as NumpyArray

__all__ = ["Array", "ArrayWriter", "array_entry"]

COLUMN = "values"
_MAX = 1 << 62


def array_entry(dtype: Any, shape: int | tuple[int, ...]) -> tuple[int, Entry]:
    """(length, entry of an empty array) for a numpy-like shape.  Raises `SchemaError`."""
    sizes = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in sizes) or sizes[0] < 0:
        raise SchemaError(f"expected a shape such as (0, 768), whose first axis can grow, found {shape!r}")
    column = Column.of(COLUMN, (dtype, sizes[1:]) if len(sizes) > 1 else dtype)
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

    def __setitem__(self, what: Any, values: Any) -> None:
        """`a[10:20] = x`, also by numbers, masks and further axes; what is touched is copied (copy on write).

        Raises IndexError, and `SchemaError` or ValueError where the values don't fit.
        """
        first, further = (what[0], what[1:]) if isinstance(what, tuple) and what else (what, ())
        if first is Ellipsis:
            first, further = slice(None), (Ellipsis, *further)
        column = self._column()
        if isinstance(first, int | np.integer) and not isinstance(first, bool):
            numbers = row_numbers(np.array([first]), len(self))
            inner: Any = (0, *further)
        else:
            numbers = row_numbers(first, len(self))
            inner = (slice(None), *further)
        if not len(numbers):
            return
        wanted = np.asarray(values)
        wanted = fixed_rows.fixed(
            Column(column.name, Column.of(COLUMN, column.dtype).kind), wanted.reshape(-1)
        ).reshape(wanted.shape)
        if further:
            with self._state() as state:
                changed = state.column(0).take(numbers).values.copy()
        else:
            changed = np.empty((len(numbers), *column.shape), column.dtype)
        changed[inner] = wanted
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        last = np.append(numbers[1:] != numbers[:-1], True)  # of a row given twice the last value counts, as in numpy
        batch = Batch(int(last.sum()), [{"values": np.ascontiguousarray(changed[order][last])}])
        self._transaction.check_open().update(self._name, numbers[last], [0], batch)
