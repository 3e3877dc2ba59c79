"""Many keys or values in one piece of memory, as Arrow lays out text: bytes, and n + 1 offsets.

Item i is ``data[offsets[i]:offsets[i + 1]]``, and no Python object.  `put_slices` of a keyspace takes them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmstore.database.keys import packed_list

__all__ = ["SliceBuffer", "Slices", "listed", "packed", "rows", "slices"]

Slices: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""(bytes, offsets), of which the first is 0."""


class SliceBuffer:
    """Items of several batches, copied one behind the other into memory that is used again."""

    def __init__(self, most: int) -> None:
        """most: bytes that there is room for."""
        self._most = most
        self._data: npt.NDArray[np.uint8] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the items."""
        self._filled = self._count = 0
        self.size = 0
        """Bytes that the items and their offsets have."""

    def add(self, items: Slices) -> None:
        """Add items, for which there must be room."""
        data, offsets = items
        if self._data is None:  # a page of it costs nothing until it is written to
            self._data, self._offsets = np.empty(self._most, np.uint8), np.empty(self._most // 8 + 1, np.int64)
            self._offsets[0] = 0
        n = len(offsets) - 1
        self._data[self._filled : self._filled + len(data)] = data
        np.add(offsets[1:], self._filled, out=self._offsets[self._count + 1 : self._count + 1 + n])
        self._filled += len(data)
        self._count += n
        self.size += data.nbytes + offsets.nbytes

    def items(self) -> Slices:
        """All items; they hold until some are added or `clear` is called."""
        if self._data is None:
            return np.empty(0, np.uint8), np.zeros(1, np.int64)
        return self._data[: self._filled], self._offsets[: self._count + 1]


def slices(column: Any) -> Slices:
    """An Arrow column of text or bytes, over its own memory where that is possible; b"" where a value is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.cast(column, pa.large_binary())
    if column.null_count:
        column = pc.fill_null(column, b"")
    _, ends, data = column.buffers()
    offsets = np.frombuffer(ends, np.int64, len(column) + 1, 8 * column.offset) if ends else np.zeros(1, np.int64)
    low, high = int(offsets[0]), int(offsets[-1])
    return np.frombuffer(data, np.uint8, high - low, low) if high > low else np.empty(0, np.uint8), offsets - low


def packed(values: list[bytes]) -> Slices:
    """A list of bytes."""
    data, offsets = packed_list(values)
    return np.frombuffer(data, np.uint8), offsets


def rows(array: Any) -> Slices:
    """The rows of a contiguous array."""
    n = len(array)
    return array.reshape(n, -1).view(np.uint8).reshape(-1), np.arange(n + 1) * (array.nbytes // n if n else 0)


def listed(items: Slices) -> list[bytes]:
    """As objects."""
    data, ends = items[0].tobytes(), items[1].tolist()
    return [data[a:b] for a, b in pairwise(ends)]
