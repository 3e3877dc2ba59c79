"""Writing a table or keyspace to a file: one snapshot, batch by batch, in the format that the name tells."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final

from mmstore.database import Database
from mmstore.database import open as open_store
from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import Mark, Plan, require
from mmstore.integrations.inputs.records import pair_batches, pair_schema
from mmstore.integrations.rejects import refuse
from mmstore.integrations.where import Condition, conditions, scanned
from mmstore.integrations.writers import Target, Writer, format_of, opened

__all__ = ["Exported", "export"]

BATCH_ROWS: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export` did."""

    rows: int
    """Rows, or records of a keyspace, written."""
    seconds: float
    format: str


def export(
    store: Database | str | os.PathLike[str],
    name: str,
    out: Target,
    *,
    format: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | Condition | Sequence[str | Condition] | None = None,
    hex: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the table or keyspace `name` ("" is the store's own keyspace) to `out`: a path, "-", or a binary file.

    `format`: "parquet", "arrow", "arrows", "csv", "tsv" or "jsonl", where the suffix doesn't tell it.
    `columns`, `where`: as for `Table.scan`; conditions may be text.
    A keyspace has the columns `key` and `value`: bytes in Parquet and Arrow; text in CSV and JSON lines, in UTF-8 or
    with `hex` in hexadecimal digits.
    `progress(rows, rows in all)` is called after each batch.

    Raises KeyError if nothing has the name, SchemaError for what the format can't hold; then no file is left behind.
    """
    require("pyarrow", "arrow")
    kind = format_of(out, format)
    chosen = conditions(where)
    started = time.perf_counter()
    with ExitStack() as stack:
        database = store if isinstance(store, Database) else stack.enter_context(open_store(store, "r"))
        snapshot = stack.enter_context(database.snapshot())
        if name in snapshot.tables():
            total, schema, batches = _table(snapshot.table(name), columns, chosen)
        elif not name or name in snapshot.keyspaces():
            if columns is not None or chosen:
                raise ValueError("columns and where choose among a table's rows, not a keyspace's records")
            mapping = snapshot.keyspace(name) if name else snapshot
            total, schema, batches = _records(mapping, text=kind in ("csv", "tsv", "jsonl"), hex=hex)
        else:
            raise KeyError(f"no table or keyspace {name!r} in the store")
        rows = 0
        sink = stack.enter_context(opened(out))
        writer = Writer(kind, sink, schema)
        with closing(writer):
            for batch in batches:
                writer.write(batch)
                rows += batch.num_rows
                if progress is not None:
                    progress(rows, total)
    return Exported(rows, time.perf_counter() - started, kind)


def _table(table: Any, columns: Sequence[str] | None, where: list[Condition]) -> tuple[int, Any, Iterator[Any]]:
    """(rows, Arrow schema, batches)."""
    import pyarrow as pa

    whole = pa.schema(table)
    names = list(columns) if columns is not None else whole.names
    for name in [*names, *(column for column, _, _ in where)]:
        if name not in whole.names:
            raise SchemaError(f"the table {table.name!r} has no column {name!r}; it has {', '.join(whole.names)}")
    schema = pa.schema([whole.field(name) for name in names])
    conditions = [scanned(condition, whole.field(condition[0]).type) for condition in where]

    def batches() -> Iterator[Any]:
        for batch in table.scan(names, where=conditions, batch_rows=BATCH_ROWS):
            yield pa.record_batch(batch)

    return len(table), schema, batches()


def _records(mapping: Any, *, text: bool, hex: bool) -> tuple[int, Any, Iterator[Any]]:
    import pyarrow as pa

    schema = pair_schema()
    if text:
        schema = pa.schema([(name, pa.large_string()) for name in schema.names])

    def batches() -> Iterator[Any]:
        plan = Plan(dict.fromkeys(("key", "value")), refuse)
        for batch, _ in pair_batches(iter(mapping.items()), plan, Mark()):
            yield _readable(batch, schema, hex) if text else batch

    return len(mapping), schema, batches()


def _readable(batch: Any, schema: Any, hex: bool) -> Any:
    """Keys and values as text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if hex:
        columns = [pa.array([value.hex() for value in column.to_pylist()], pa.large_string()) for column in batch]
        return pa.RecordBatch.from_arrays(columns, schema=schema)
    try:
        return pa.RecordBatch.from_arrays([pc.cast(column, pa.large_string()) for column in batch], schema=schema)
    except pa.ArrowInvalid as error:
        raise SchemaError(
            "a key or value isn't UTF-8, so it can't be text; pass hex=True (--hex), or export to Parquet or Arrow"
        ) from error
