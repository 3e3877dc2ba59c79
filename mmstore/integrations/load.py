"""Loading files into a store: streaming, in one atomic commit.

A table's column types come from the first batch.  When a later value doesn't fit them (longer text, the
first missing number), what was appended is undone, the whole file is read once for its types, and loading
starts again, all inside the one transaction.  Input that can be read only once, such as a pipe, raises the
misfit instead, with what to name in the schema.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

from mmstore.columns.schema import Schema
from mmstore.database import Database
from mmstore.database import open as open_store
from mmstore.database.transaction import Transaction
from mmstore.errors import SchemaError
from mmstore.integrations.csv_input import CsvInput, Misfit, Types, arrow_types, column_types, to_array, widened

__all__ = ["Loaded", "load"]

Progress: TypeAlias = Callable[[int, int | None, int], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` did."""

    rows: int
    """Rows read."""
    added: int
    """Rows appended to the table; or keys that the keyspace didn't have before."""
    seconds: float
    schema: str | None = None
    """The table's columns."""


def load(
    sources: str | os.PathLike[str] | BinaryIO | Sequence[str | os.PathLike[str]],
    store: Database | str | os.PathLike[str],
    *,
    table: str | None = None,
    keyspace: str | None = None,
    key: str | None = None,
    value: str | None = None,
    schema: Mapping[str, Any] | None = None,
    replace: bool = False,
    append: bool = False,
    delimiter: str = ",",
    progress: Progress | None = None,
) -> Loaded:
    """Load CSV files into a table, or with `key` into a keyspace, in one transaction.

    `sources`: a path, "-", a binary file, or several paths; packed ones (.zip with one file, .gz, .bz2, .zst) too.
    `table`: its name.  Its columns are those of the file; `schema` names types that aren't to be guessed.
    `keyspace`, `key`, `value`: the records are the texts of the columns `key` and `value`, as bytes; without
    `value`, each row is kept as JSON.
    `replace` drops what the name held; `append` adds to it.  Without either, a name that holds something is an error.
    `progress(bytes read, bytes in all or None, rows)` is called after each batch.

    Raises SchemaError when the file and the schema don't fit, and leaves the store as it was.
    """
    if (table is None) == (keyspace is None):
        raise ValueError("expected either a table or a keyspace to load into")
    if keyspace is not None and key is None:
        raise ValueError("expected the column that holds the keys: pass key=")
    if table is not None and (key is not None or value is not None):
        raise ValueError("key and value go with a keyspace, not with a table")
    if keyspace is not None and schema is not None:
        raise ValueError("a keyspace holds the texts as they are; a schema goes with a table")
    if replace and append:
        raise ValueError("expected replace or append, not both")
    if isinstance(sources, Sequence) and not isinstance(sources, str):
        inputs = [CsvInput(source, delimiter) for source in sources]
    else:
        inputs = [CsvInput(sources, delimiter)]
    total = _Total(inputs, progress)
    if not isinstance(store, Database):
        with open_store(store) as database:
            return _load(database, inputs, table, keyspace, key, value, schema, replace, append, total)
    return _load(store, inputs, table, keyspace, key, value, schema, replace, append, total)


def _load(
    database: Database,
    inputs: list[CsvInput],
    table: str | None,
    keyspace: str | None,
    key: str | None,
    value: str | None,
    schema: Mapping[str, Any] | None,
    replace: bool,
    append: bool,
    total: _Total,
) -> Loaded:
    started = time.perf_counter()
    with database.transaction() as txn:
        if table is not None:
            rows, text = _load_table(txn, inputs, table, schema or {}, replace, append, total)
            return Loaded(rows, rows, time.perf_counter() - started, text)
        assert keyspace is not None and key is not None
        rows, added = _load_keyspace(txn, inputs, keyspace, key, value, replace, append, total)
        return Loaded(rows, added, time.perf_counter() - started)


class _Total:
    """Adds up what several inputs report."""

    def __init__(self, inputs: list[CsvInput], progress: Progress | None) -> None:
        self.inputs, self.progress, self.rows = inputs, progress, 0
        sizes = [source.size for source in inputs]
        self.size = None if None in sizes else sum(size for size in sizes if size is not None)

    def add(self, rows: int) -> None:
        self.rows += rows
        if self.progress is not None:
            self.progress(sum(source.read for source in self.inputs), self.size, self.rows)


# --- tables ------------------------------------------------------------------------------------------


def _load_table(
    txn: Transaction,
    inputs: list[CsvInput],
    name: str,
    named: Mapping[str, Any],
    replace: bool,
    append: bool,
    total: _Total,
) -> tuple[int, str]:
    exists = _has_table(txn, name)
    if exists and replace:
        txn.drop(name)
        exists = False
    if exists and not append:
        raise SchemaError(f"the table {name!r} is there already; choose to append to it or to replace it")
    if exists:
        fixed: Types = {column.name: column.row_dtype for column in txn.table(name).schema}
    else:
        fixed = {column.name: column.row_dtype for column in Schema.of(named)} if named else {}
    try:
        with txn.savepoint():
            _append_all(txn, inputs, name, fixed, not exists, total)
    except Misfit:
        if exists or not all(source.again for source in inputs):
            raise
        total.rows = 0
        _append_all(txn, inputs, name, _scan(inputs, fixed), True, total)
    return total.rows, str(txn.table(name).schema)


def _has_table(txn: Transaction, name: str) -> bool:
    try:
        txn.table(name)
    except KeyError:
        return False
    return True


def _append_all(txn: Transaction, inputs: list[CsvInput], name: str, fixed: Types, create: bool, total: _Total) -> None:
    """Append all inputs' rows; the types not in `fixed` come from the first batch."""
    types: Types = {}
    for source in inputs:
        parse = arrow_types(types or fixed)
        for batch in source.batches(source.text_for_nothing(parse)):
            if not types:
                types = {column: fixed.get(column, dtype) for column, dtype in column_types(batch).items()}
                if create:
                    txn.create_table(name, types)
            _check_columns(source, batch, {**types, **fixed})
            if batch.num_rows:
                rows = {column: to_array(column, batch.column(column), dtype) for column, dtype in types.items()}
                txn.table(name).append(rows)
            total.add(batch.num_rows)
    if create and not types:
        if not fixed:
            raise SchemaError(f"{inputs[0].name} has no rows, so its columns' types are unknown; name them all")
        txn.create_table(name, fixed)


def _check_columns(source: CsvInput, batch: Any, types: Types) -> None:
    found, expected = set(batch.schema.names), set(types)
    if found != expected or len(batch.schema.names) != len(found):
        raise SchemaError(
            f"{source.name} has the columns {', '.join(batch.schema.names)}; expected {', '.join(types)}, each once"
        )


def _scan(inputs: list[CsvInput], fixed: Types) -> Types:
    """The types that hold every row of the inputs."""
    parse = arrow_types(fixed)
    types = widened(batch for source in inputs for batch in source.batches(source.text_for_nothing(parse)))
    return {column: fixed.get(column, dtype) for column, dtype in types.items()}


# --- keyspaces ---------------------------------------------------------------------------------------


def _load_keyspace(
    txn: Transaction,
    inputs: list[CsvInput],
    name: str,
    key: str,
    value: str | None,
    replace: bool,
    append: bool,
    total: _Total,
) -> tuple[int, int]:
    mapping = txn.keyspace(name) if name else txn
    if replace:
        mapping.clear()
    before = len(mapping)
    if before and not append:
        raise SchemaError(
            f"the keyspace {name!r} holds {before:,} records already; choose to append to it or to replace them"
        )
    for source in inputs:
        for keys, values in _records(source, key, value):
            mapping.put_many(keys, values)
            total.add(len(keys))
    return total.rows, len(mapping) - before


def _records(source: CsvInput, key: str, value: str | None) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """(keys, values) of each batch, as bytes."""
    import pyarrow as pa

    text = {key: pa.binary()} if value is None else {key: pa.binary(), value: pa.binary()}
    for batch in source.batches(text, None if value is None else list(text)):
        if key not in batch.schema.names:
            raise SchemaError(f"{source.name} has no column {key!r}; it has {', '.join(batch.schema.names)}")
        keys = batch.column(key).to_pylist()
        if value is not None:
            yield keys, batch.column(value).to_pylist()
            continue
        rows = batch.to_pylist()
        for row in rows:
            row[key] = row[key].decode("utf-8", "backslashreplace")
        yield keys, [json.dumps(row, ensure_ascii=False, default=_plain).encode() for row in rows]


def _plain(value: Any) -> Any:
    """What JSON has no word for."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
