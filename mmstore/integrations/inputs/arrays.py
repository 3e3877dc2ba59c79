"""npy and npz: one array, or several of one length as columns, read in slices.

A structured array gives a column for each field.  Any other gives one column, `value` in an npy file and the
member's name in an npz; what goes beyond the first axis becomes the shape of a value, so that an array of shape
(n, 768) is a column of n embeddings.  Arrays of objects are pickles and are refused.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import BATCH_ROWS, SLICE_BYTES, ArrayBatch, Input, Mark, Plan
from mmstore.integrations.inputs.source import Source

__all__ = ["NumpyInput"]


class NumpyInput(Input):
    """An npy file, or with `archive` an npz."""

    def __init__(self, source: Source, *, archive: bool = False) -> None:
        self.source, self.name, self.size = source, source.name, source.size
        self._archive = archive
        self._arrays = self._open()
        lengths = {name: array.rows for name, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name}: {rows:,}" for name, rows in lengths.items())
            raise SchemaError(f"expected arrays of one length in {self.name}, found {shown}; choose with columns=[...]")
        self.rows = next(iter(lengths.values()), 0)
        self._used = False

    def _open(self) -> dict[str, _Array]:
        if not self._archive:
            return {"value": _Array(self.source.open(), self.name)}
        try:
            archive = zipfile.ZipFile(self.source.random_binary("npz"))
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            arrays = {
                member.filename.removesuffix(".npy"): _Array(archive.open(member), f"{member.filename} in {self.name}")
                for member in members
            }
        except zipfile.BadZipFile as error:
            raise SchemaError(f"{self.name} can't be read as npz: {error}") from error
        if not arrays:
            raise SchemaError(f"{self.name} has no arrays in it; expected members named *.npy")
        return arrays

    def schema(self) -> np.dtype[Any]:
        fields: list[Any] = []
        for name, array in self._arrays.items():
            if array.dtype.names is not None:
                fields += [(field, array.dtype[field]) for field in array.dtype.names]
            else:
                fields.append((name, array.dtype, array.shape))
        return np.dtype(fields)

    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[ArrayBatch, Mark]]:
        plan.check_names(self.name, list(self.schema().names or ()))
        if self._used:
            self.close()
            self._arrays = self._open()
        self._used = True
        row = sum(array.row_size for array in self._arrays.values())
        length = max(1, min(BATCH_ROWS, plan.rows, SLICE_BYTES // max(1, row)))
        for array in self._arrays.values():
            array.skip(start.rows)
        for at in range(start.rows, self.rows, length):
            columns: dict[str, npt.NDArray[Any]] = {}
            for name, array in self._arrays.items():
                part = array.take(min(length, self.rows - at))
                if part.dtype.names is not None:
                    columns |= {field: part[field] for field in part.dtype.names}
                else:
                    columns[name] = part
            self.read = int((self.size or 0) * min(at + length, self.rows) / max(1, self.rows))
            yield ArrayBatch(columns).select(list(plan.types)), Mark(at)

    def close(self) -> None:
        for array in self._arrays.values():
            array.stream.close()


class _Array:
    """An array in npy format that is read from a stream, front to back."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self.stream, self.name = stream, name
        try:
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, self.dtype = read(stream)
        except ValueError as error:
            raise SchemaError(f"{name} can't be read as npy: {error}") from error
        if self.dtype.hasobject:
            raise SchemaError(f"{name} holds objects, that is a pickle, which runs code; convert it to a fixed type")
        if not shape:
            raise SchemaError(f"{name} holds a single value; expected an array")
        self.rows, self.shape = shape[0], shape[1:]
        self.row_size = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))
        self._whole: npt.NDArray[Any] | None = None
        self._at = 0
        if fortran and self.shape:  # its rows lie scattered: no way but to read all of it
            data = np.frombuffer(self._bytes(self.rows * self.row_size), self.dtype)
            self._whole = data.reshape(shape, order="F")

    def skip(self, rows: int) -> None:
        """Leave out the next `rows` rows."""
        if self._whole is not None:
            self._at += rows
        elif isinstance(self.stream, io.RawIOBase) and self.stream.seekable():
            self.stream.seek(rows * self.row_size, io.SEEK_CUR)
        else:
            for at in range(0, rows * self.row_size, 1 << 20):
                self._bytes(min(1 << 20, rows * self.row_size - at))

    def take(self, rows: int) -> npt.NDArray[Any]:
        """The next `rows` rows, as an array of their own."""
        if self._whole is not None:
            self._at += rows
            return np.ascontiguousarray(self._whole[self._at - rows : self._at])
        array = np.frombuffer(self._bytes(rows * self.row_size), self.dtype)
        return array.reshape(rows, *self.shape)

    def _bytes(self, n: int) -> bytearray:
        buffer = bytearray(n)
        view, filled = memoryview(buffer), 0
        while filled < n:
            got = self.stream.readinto(view[filled:])  # type: ignore[attr-defined]
            if not got:
                raise SchemaError(f"{self.name} ends early; it was cut off while it was written or copied")
            filled += got
        return buffer
