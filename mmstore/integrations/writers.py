"""Files that Arrow batches are written to one after the other: Parquet, Arrow IPC, CSV, JSON lines.

Text may be packed (.gz, .zst, .bz2).  A file appears under its name when it is whole: until then it is called
`NAME.part`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from mmstore.errors import SchemaError
from mmstore.integrations.jsontext import json_rows, json_values

__all__ = ["FORMATS", "Target", "Writer", "format_of", "opened"]

Target: TypeAlias = "str | os.PathLike[str] | BinaryIO"

FORMATS: Final = ("parquet", "arrow", "arrows", "csv", "tsv", "jsonl")
"""`arrow` is the IPC file (Feather), `arrows` the IPC stream."""
_SUFFIX: Final = {
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
    ".arrows": "arrows", ".csv": "csv", ".txt": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl",
    ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
_ALIAS: Final = {"feather": "arrow", "ipc": "arrow", "stream": "arrows", "json": "jsonl", "ndjson": "jsonl"}
_PACKED: Final = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}


def format_of(target: Target, wanted: str | None) -> str:
    """The format's own name.  Raises ValueError if neither `wanted` nor the target's suffix tells it."""
    if wanted is not None:
        name = _ALIAS.get(wanted.lower(), wanted.lower())
        if name not in FORMATS:
            raise ValueError(f"expected a format among {', '.join(FORMATS)}, found {wanted!r}")
        return name
    path = os.fspath(target) if isinstance(target, str | os.PathLike) else ""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() in _PACKED:
        suffix = os.path.splitext(stem)[1]
    if suffix.lower() not in _SUFFIX:
        raise ValueError(f"can't tell the format by the name {path or '-'!r}; pass format= (--format)")
    return _SUFFIX[suffix.lower()]


@contextmanager
def opened(target: Target) -> Iterator[Any]:
    """A pyarrow output stream; a path gets its file when the block ends without an exception."""
    import pyarrow as pa

    if not isinstance(target, str | os.PathLike) or os.fspath(target) == "-":
        file = sys.stdout.buffer if isinstance(target, str | os.PathLike) else target
        sink = pa.PythonFile(_Open(file), mode="w")
        yield sink
        sink.flush()
        file.flush()
        return
    final = Path(target)
    part = final.with_name(f"{final.name}.part")
    packing = _PACKED.get(final.suffix.lower())
    try:
        with pa.OSFile(str(part), "wb") as sink:
            if packing is None:
                yield sink
            else:
                with pa.CompressedOutputStream(sink, packing) as packed:
                    yield packed
        part.replace(final)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class _Open:
    """A file that stays open when pyarrow is done with it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Nothing: whoever opened it closes it."""


class Writer:
    """Writes batches of one schema in a format; `close` writes what stands at the end."""

    def __init__(self, kind: str, sink: Any, schema: Any) -> None:
        import pyarrow as pa
        from pyarrow import csv, ipc, parquet

        self.kind, self._sink = kind, sink
        self._writer: Any = None
        try:
            if kind == "parquet":
                self._writer = parquet.ParquetWriter(sink, schema)
            elif kind == "arrow":
                self._writer = ipc.new_file(sink, schema)
            elif kind == "arrows":
                self._writer = ipc.new_stream(sink, schema)
            elif kind in ("csv", "tsv"):
                options = csv.WriteOptions(delimiter="," if kind == "csv" else "\t", quoting_style="needed")
                flat = pa.schema([pa.field(field.name, _flat_type(field.type)) for field in schema])
                self._writer = csv.CSVWriter(sink, flat, write_options=options)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaError(f"{kind} can't hold these columns: {error}; choose with columns= (--columns)") from error

    def write(self, batch: Any) -> None:
        """Append a RecordBatch.  Raises SchemaError for what the format can't hold."""
        import pyarrow as pa

        try:
            if self.kind == "jsonl":
                lines = json_rows(batch)
                self._sink.write(_lines(lines))
            elif self.kind in ("csv", "tsv"):
                self._writer.write_batch(_flat(batch))
            elif self.kind == "parquet":
                self._writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
            else:
                self._writer.write_batch(batch)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaError(f"{self.kind} can't hold these rows: {error}") from error

    def close(self) -> None:
        """Write the end."""
        if self._writer is not None:
            self._writer.close()


def _lines(texts: Any) -> Any:
    """An Arrow string array as one buffer with a newline behind each."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    empty, newline = pa.scalar("", pa.large_string()), pa.scalar("\n", pa.large_string())
    whole = pc.binary_join_element_wise(texts, empty, newline)
    offsets, data = whole.buffers()[1:]
    if data is None or not len(whole):
        return b""
    bounds = np.frombuffer(offsets, np.int64)
    start, stop = int(bounds[whole.offset]), int(bounds[whole.offset + len(whole)])
    return data.slice(start, stop - start)


def _flat_type(kind: Any) -> Any:
    """What a CSV shows a column as: itself, the words of a category, JSON for lists."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _flat_type(kind.value_type)
    return pa.large_string() if pa.types.is_nested(kind) else kind


def _flat(batch: Any) -> Any:
    import pyarrow as pa

    columns = []
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        columns.append(json_values(column) if pa.types.is_nested(column.type) else column)
    fields = [pa.field(name, column.type) for name, column in zip(batch.schema.names, columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
