"""CSV files as a stream of Arrow batches, and Arrow columns as fixed-width numpy arrays.

pyarrow parses; this module opens what it can't open by itself (zip archives, standard input), counts the
bytes read, and knows which numpy type of fixed width holds a column:

    integers      i8, or f8 with NaN where some are missing
    numbers       f8, missing ones NaN
    times         datetime64 or timedelta64 of their unit (UTC), missing ones NaT
    yes and no    bool, or i1 with -1 where some are missing
    text          S of the longest value's bytes (UTF-8), missing ones empty

pyarrow decides a column's sort from the first batch.  Widths and missing values are known for certain only
at the end of the file, so whoever reads in one pass must be ready for a `Misfit`.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mmstore.errors import SchemaError

__all__ = ["CsvInput", "Misfit", "Types", "arrow_types", "column_types", "require", "to_array", "widened"]

Types: TypeAlias = dict[str, np.dtype[Any]]
Source: TypeAlias = str | os.PathLike[str] | BinaryIO

BATCH_BYTES: Final = 4 << 20
_PACKED: Final = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".br": "brotli"}
_EXACT: Final = 1 << 53  # integers up to here survive as floats


def require(package: str, extra: str) -> None:
    """Raise an ImportError that names the extra when `package` isn't installed."""
    try:
        __import__(package)
    except ImportError as error:
        raise ImportError(f"this needs {package}: python -m pip install 'mmstore[{extra}]'") from error


class Misfit(SchemaError):
    """A value doesn't fit the type of its column, which was named or suggested by earlier rows."""

    def __init__(self, name: str, dtype: np.dtype[Any], found: str) -> None:
        super().__init__(f"column {name!r} is {dtype}, but {found}; name a type that holds it in the schema")


class CsvInput:
    """One CSV: a path (plain, .zip with one file, .gz, .bz2, .zst, .lz4), "-" for standard input, or a binary file.

    `again` says whether it can be read a second time.
    """

    def __init__(self, source: Source, delimiter: str = ",") -> None:
        require("pyarrow", "arrow")
        self.delimiter = delimiter
        self.read = 0
        """Bytes read so far, as they lie on the disk."""
        self.size: int | None = None
        """Bytes in all, None where that is unknown."""
        self._file: BinaryIO | None = None
        self._path = ""
        if not isinstance(source, str | os.PathLike):
            self._file = source
            self.name, self.again = getattr(source, "name", "the file object"), False
        elif os.fspath(source) == "-":
            self._file = sys.stdin.buffer
            self.name, self.again = "standard input", False
        else:
            self.name = self._path = os.fspath(source)
            self.again = os.path.isfile(self._path)
            self.size = os.path.getsize(self._path) if self.again else None

    def batches(self, types: Mapping[str, Any], only: list[str] | None = None) -> Iterator[Any]:
        """The rows as pyarrow RecordBatches of about 4 MiB of text.

        `types`: name -> Arrow type of columns whose sort isn't to be guessed.  `only`: the columns wanted.
        Raises SchemaError when the text isn't CSV or a value isn't of its column's sort.
        """
        import pyarrow as pa

        self.read = 0
        with self._open() as stream:
            try:
                yield from self._reader(stream, types, only)
            except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
                if "Empty CSV file" in str(error):
                    raise SchemaError(f"{self.name} is empty; a CSV file starts with its columns' names") from error
                hint = '; name the type of such a column (schema={"column": "S32"}, or --schema column=S32)'
                raise SchemaError(
                    f"{self.name} can't be read as CSV: {error}{hint if 'conversion' in str(error) else ''}"
                ) from error

    def text_for_nothing(self, types: Mapping[str, Any]) -> dict[str, Any]:
        """`types`, and text for columns without a single value in the first batch: anything may follow there."""
        import pyarrow as pa

        result = dict(types)
        if self.again:
            with self._open() as stream:
                try:
                    schema = self._reader(stream, types, None).schema
                except pa.ArrowInvalid:  # batches() will tell it better
                    return result
                result |= {field.name: pa.string() for field in schema if pa.types.is_null(field.type)}
        return result

    def _reader(self, stream: Any, types: Mapping[str, Any], only: list[str] | None) -> Any:
        from pyarrow import csv

        return csv.open_csv(
            stream,
            read_options=csv.ReadOptions(block_size=BATCH_BYTES),
            parse_options=csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=types, include_columns=only or []),
        )

    def _open(self) -> Any:
        """A pyarrow stream of the plain text."""
        import pyarrow as pa

        raw = self._file if self._file is not None else open(self._path, "rb", buffering=0)
        counted = _Counted(raw, self._count)
        suffix = os.path.splitext(self._path)[1].lower()
        if suffix == ".zip":
            return pa.PythonFile(_unzipped(io.BufferedReader(counted, 1 << 20), self.name), mode="r")
        if suffix in _PACKED:
            return pa.CompressedInputStream(pa.PythonFile(counted, mode="r"), _PACKED[suffix])
        return pa.PythonFile(counted, mode="r")

    def _count(self, n: int) -> None:
        self.read += n


def _unzipped(archive: BinaryIO | io.BufferedReader, name: str) -> Any:
    with zipfile.ZipFile(archive) as members:
        files = [member for member in members.infolist() if not member.is_dir()]
        if len(files) != 1:
            names = ", ".join(repr(member.filename) for member in files[:5])
            raise SchemaError(f"expected one file in {name}, found {len(files)} ({names}); unpack it and name one")
        return members.open(files[0])


class _Counted(io.RawIOBase):
    """A binary file that tells how much was read of it."""

    def __init__(self, file: BinaryIO | io.RawIOBase, count: Callable[[int], None]) -> None:
        self._file, self._tell = file, count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        n = self._file.readinto(buffer)  # type: ignore[union-attr]
        self._tell(n or 0)
        return n or 0

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()


# --- types -------------------------------------------------------------------------------------------


def arrow_types(types: Types) -> dict[str, Any]:
    """The Arrow types to parse columns as that are to be held as `types`.

    Points of time are left out: whether the text has a zone is for pyarrow to see.
    """
    import pyarrow as pa

    parsed: dict[str, Any] = {}
    for name, dtype in types.items():
        unit = np.datetime_data(dtype)[0] if dtype.kind in "mM" else ""
        if dtype.kind in "SU":
            parsed[name] = pa.string()
        elif unit == "D" and dtype.kind == "M":
            parsed[name] = pa.date32()
        elif dtype.kind == "m" and unit in ("s", "ms"):
            parsed[name] = pa.time32(unit)
        elif dtype.kind == "m" and unit in ("us", "ns"):
            parsed[name] = pa.time64(unit)
        elif dtype.kind in "biuf" and dtype.subdtype is None:
            parsed[name] = pa.from_numpy_dtype(dtype)
        elif unit not in ("s", "ms", "us", "ns"):
            raise SchemaError(
                f"column {name!r}: expected a type that CSV can hold, such as i8, f4, S16 or M8[s], found {dtype}"
            )
    return parsed


def column_types(batch: Any) -> Types:
    """Fixed-width numpy types that hold a batch's columns, text with some room."""
    import pyarrow.compute as pc
    from pyarrow import types as sorts

    found: Types = {}
    for name in batch.schema.names:
        column = batch.column(name)
        kind, missing = column.type, column.null_count > 0
        if sorts.is_string(kind) or sorts.is_large_string(kind) or sorts.is_binary(kind) or sorts.is_null(kind):
            found[name] = np.dtype(f"S{_width(pc, column)}")
        elif sorts.is_boolean(kind):
            found[name] = np.dtype("i1" if missing else "?")
        elif sorts.is_integer(kind):
            found[name] = np.dtype("f8" if missing else "i8")
        elif sorts.is_floating(kind) or sorts.is_decimal(kind):
            found[name] = np.dtype("f8")
        elif sorts.is_date(kind):
            found[name] = np.dtype("M8[D]")
        elif sorts.is_timestamp(kind):
            found[name] = np.dtype(f"M8[{kind.unit}]")
        elif sorts.is_time(kind) or sorts.is_duration(kind):
            found[name] = np.dtype(f"m8[{kind.unit}]")
        else:
            raise SchemaError(f"column {name!r} is {kind}, which no fixed-width type holds; name one in the schema")
    return found


def _width(pc: Any, column: Any) -> int:
    """Bytes for text like this: exact where all are equally long, else the longest rounded up to 4."""
    if column.null_count == len(column):
        return 1
    lengths = pc.min_max(pc.binary_length(column)).as_py()
    shortest, longest = lengths["min"], lengths["max"]
    return max(1, int(longest) if shortest == longest and not column.null_count else -(-int(longest) // 4) * 4)


def widened(batches: Iterator[Any]) -> Types:
    """The types that hold all of the batches: the first pass of two."""
    result: Types = {}
    for batch in batches:
        for name, dtype in column_types(batch).items():
            known = result.setdefault(name, dtype)
            if known.kind == dtype.kind == "S":
                result[name] = max(known, dtype, key=lambda kind: kind.itemsize)
            elif known != dtype:  # the same sort, once with missing values and once without
                result[name] = np.dtype("f8" if "f" in (known.kind, dtype.kind) else "i1")
    return result


def to_array(name: str, column: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An Arrow column as a numpy array of `dtype`.

    Raises Misfit when a value is too long, or missing where the type has no way to say so.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if dtype.kind in "SU":
        return _text(name, column, dtype)
    if dtype.kind in "iub" and column.null_count:
        if dtype != np.dtype("i1"):
            raise Misfit(name, dtype, f"{column.null_count:,} values are missing, which f8 can say (NaN)")
        column = pc.fill_null(pc.cast(column, pa.int8()), -1)
    try:
        if dtype.kind == "M":
            column = _times(column, dtype)
        elif dtype.kind != "m":
            column = pc.cast(column, pa.from_numpy_dtype(dtype))
    except pa.ArrowInvalid as error:
        raise Misfit(name, dtype, f"a value doesn't fit: {error}") from error
    if dtype.kind == "m":  # times of day, which numpy takes as the time since midnight
        whole = pa.int32() if pa.types.is_time32(column.type) else pa.int64()
        count = pc.fill_null(pc.cast(pc.cast(column, whole), pa.int64()), np.iinfo("i8").min)
        unit: str = column.type.unit
        return count.to_numpy(zero_copy_only=False).view(f"m8[{unit}]").astype(dtype)  # type: ignore[no-any-return]
    array: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return array.astype(dtype, copy=False)


def _times(column: Any, dtype: np.dtype[Any]) -> Any:
    """Points of time in the unit of `dtype`, in UTC; a column that may be text if it began with nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    unit = np.datetime_data(dtype)[0]
    if unit == "D":
        return pc.cast(column, pa.date32())
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), None, column)
        try:
            column = pc.cast(column, pa.timestamp(unit, "UTC"))
        except pa.ArrowInvalid:  # without a zone
            column = pc.cast(column, pa.timestamp(unit))
    zone = getattr(column.type, "tz", None)
    return pc.cast(column, pa.timestamp(unit, zone))


def _text(name: str, column: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Strings as S, padded by Arrow in one go so that the bytes lie side by side; or as U."""
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = pc.fill_null(pc.cast(column, pa.string()), "")
    if dtype.kind == "U":
        longest = pc.max(pc.utf8_length(filled)).as_py() or 0
        if longest > dtype.itemsize // 4:
            raise Misfit(name, dtype, f"a value has {longest} characters (U{longest})")
        return np.array(filled.to_pylist(), dtype)
    width = dtype.itemsize
    longest = pc.max(pc.binary_length(filled)).as_py() or 0
    if longest > width:
        raise Misfit(name, dtype, f"a value has {longest} bytes (S{longest})")
    padded = pc.ascii_rpad(filled, width, "\0")
    start, count = padded.offset, len(padded)
    offsets = np.frombuffer(padded.buffers()[1], np.int32, count + 1, start * 4) if count else np.zeros(1, np.int32)
    data = padded.buffers()[2]
    if not count or data is None:
        return np.zeros(count, f"S{width}")
    return np.frombuffer(data, f"S{width}", count, int(offsets[0]))
