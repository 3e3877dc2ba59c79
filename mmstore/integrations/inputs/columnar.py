"""Parquet, and Arrow's own files: IPC file (Feather), IPC stream, the first Feather.

Types are exactly those of the file.  Parquet's row groups and Arrow's batches are read one after the other, in
slices of at most BATCH_ROWS rows; a start in the middle begins at its row group or batch.  Row groups whose statistics
say that no row fulfils the conditions are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import BATCH_ROWS, SLICE_BYTES, Input, Mark, Plan, require
from mmstore.integrations.inputs.source import Source
from mmstore.integrations.where import expression

__all__ = ["ArrowInput", "ParquetInput"]


class ParquetInput(Input):
    """A Parquet file."""

    def __init__(self, source: Source) -> None:
        require("pyarrow", "arrow")
        from pyarrow import parquet

        self.source, self.name, self.size = source, source.name, source.size
        with _malformed(self.name, "Parquet"):
            # what is read ahead would stay in memory until the file is closed
            self._file = parquet.ParquetFile(source.random("Parquet"), pre_buffer=False, buffer_size=1 << 20)

    def schema(self) -> Any:
        return self._file.schema_arrow

    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[Any, Mark]]:
        plan.check_names(self.name, self.schema().names)
        about = self._file.metadata
        groups = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
        with _malformed(self.name, "Parquet"):
            wanted = self._wanted(plan)
            before = 0
            for read, numbers in groupby(range(len(groups)), lambda i: i in wanted):
                some = list(numbers)
                while some and before + groups[some[0]] <= start.rows:
                    before += groups[some.pop(0)]
                if read and some:
                    found = self._file.iter_batches(
                        self._length(plan, some), row_groups=some, columns=list(plan.types), use_threads=True
                    )
                    for batch, rows in _from(found, before, start.rows):
                        self.read = int((self.size or 0) * (rows + batch.num_rows) / max(1, about.num_rows))
                        yield batch.select(list(plan.types)), Mark(rows)
                before += sum(groups[i] for i in some)

    def _length(self, plan: Plan, groups: Sequence[int]) -> int:
        """Rows of a batch, which in none of the row groups takes much more than SLICE_BYTES."""
        largest = 1
        for i in groups:
            group = self._file.metadata.row_group(i)
            columns = map(group.column, range(group.num_columns))
            size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in plan.types)
            largest = max(largest, size // max(1, group.num_rows))
        return max(1, min(BATCH_ROWS, plan.rows, SLICE_BYTES // largest))

    def _wanted(self, plan: Plan) -> set[int]:
        """The row groups that may have a row that fulfils the conditions."""
        condition = expression(plan.where, self.schema())
        if condition is None:
            return {*range(self._file.metadata.num_row_groups)}
        from pyarrow import dataset

        with self.source.random("Parquet") as file:
            whole = dataset.ParquetFileFormat().make_fragment(file)
            return {group.id for group in whole.subset(condition, schema=self.schema()).row_groups}

    def close(self) -> None:
        self._file.close(force=True)


class ArrowInput(Input):
    """An Arrow IPC file, an IPC stream, or either Feather; which one is seen from its first bytes."""

    def __init__(self, source: Source) -> None:
        require("pyarrow", "arrow")
        self.source, self.name, self.size = source, source.name, source.size
        self._stream: Any = None
        head = source.head(8)
        with _malformed(self.name, "Arrow IPC"):
            self._open(head)

    def _open(self, head: bytes) -> None:
        from pyarrow import feather, ipc

        self._file = self._table = None
        if head.startswith(b"ARROW1"):
            self._file = ipc.open_file(self.source.random("an Arrow IPC file"))
            self._schema = self._file.schema
        elif head.startswith(b"FEA1"):
            self._table = feather.read_table(self.source.random("Feather"))
            self._schema = self._table.schema
        else:
            self._stream = self.source.open()
            self._reader = ipc.open_stream(self._stream)
            self._schema = self._reader.schema

    def schema(self) -> Any:
        return self._schema

    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[Any, Mark]]:
        plan.check_names(self.name, self._schema.names)
        with _malformed(self.name, "Arrow IPC"):
            for batch, rows in _from(self._all(), 0, start.rows):
                length = min(BATCH_ROWS, plan.rows)
                for at in range(0, batch.num_rows, length):
                    yield batch.slice(at, length).select(list(plan.types)), Mark(rows + at)

    def _all(self) -> Iterator[Any]:
        if self._file is not None:
            for i in range(self._file.num_record_batches):
                batch = self._file.get_batch(i)
                self.read = int((self.size or 0) * (i + 1) / self._file.num_record_batches)
                yield batch
        elif self._table is not None:
            self.read = self.size or 0
            yield from self._table.to_batches()
        else:
            if self._reader is None:  # a second reading
                self._stream.close()
                self._open(b"")
            reader, self._reader = self._reader, None
            for batch in reader:
                self.read = self.source.read
                yield batch

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _from(batches: Iterator[Any], before: int, start: int) -> Iterator[tuple[Any, int]]:
    """Batches without the rows before `start`, each with the number of its first row."""
    for batch in batches:
        cut = min(max(0, start - before), batch.num_rows)
        if cut < batch.num_rows:
            yield batch.slice(cut), before + cut
        before += batch.num_rows


class _malformed:
    """Turns pyarrow's words about a broken file into a SchemaError that names it."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SchemaError) or error is None:
            return
        import pyarrow as pa

        if isinstance(error, pa.ArrowInvalid | pa.ArrowNotImplementedError | pa.ArrowSerializationError):
            raise SchemaError(f"{self.name} can't be read as {self.kind}: {error}") from error
        if isinstance(error, OSError) and error.errno is None:  # pyarrow's, for truncated files
            raise SchemaError(f"{self.name} can't be read as {self.kind}: {error}") from error
