"""Changes of tables in a transaction, and how the log replays them.

The entry's side is `catalog.tables`; here each change also keeps the key index in step and becomes an operation of the
log.  Whether rows and keys fit was checked before: what is given here can be done, unless the disk is full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmstore import format as fmt
from mmstore.catalog import tables
from mmstore.catalog.entry import Entry
from mmstore.columns import batch as batches
from mmstore.columns import keys, state
from mmstore.columns.batch import Array, Batch
from mmstore.columns.extents import Space
from mmstore.columns.schema import Column
from mmstore.engine.operations import Operation, Operations
from mmstore.errors import CorruptError
from mmstore.keyspace.index import Index

if TYPE_CHECKING:
    from mmstore.engine.session import Session

__all__ = ["TableChanges"]

_ROW = np.dtype("<u8")
_STEP = fmt.BLOCK_ROWS
_ZEROS = 1 << 20  # bytes that are appended at a time


class TableChanges:
    """The part of a `WriteState` that knows tables."""

    session: Session
    txn: int
    operations: Operations
    _entries: dict[bytes, Entry]
    _dirty: set[bytes]
    _marks: list[Any]

    zones = 64
    """How many zones are filled with zeros before their rows come: in a bulk load that costs too much (ADR 32)."""

    def entry(self, name: bytes) -> Entry | None:
        raise NotImplementedError

    def index(self, name: bytes, create: bool = False) -> Index | None:
        raise NotImplementedError

    def _grows(self) -> None:
        raise NotImplementedError

    def _shrinks(self) -> None:
        raise NotImplementedError

    def _changing(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _taking(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    @cached_property
    def space(self) -> Space:
        """Where columns take and place pages."""
        freelist, store, marks = self.session.freelist, self.session.store, self._marks
        zones = iter(range(self.zones))

        def begin_zone(offset: int) -> None:
            if next(zones, None) is not None:
                store.begin_zone(offset)

        return Space(
            self.session.page_size,
            store.read,
            self.txn,
            freelist.alloc,
            freelist.free,
            store.place,
            savepoints=lambda: bool(marks),  # no reference to self: the right to write goes with its last one
            words=self.session.words,
            tails=self.session.tails,
            begin_zone=begin_zone,
        )

    def _table(self, name: bytes) -> Entry:
        found = self.entry(name)
        assert found is not None and found.schema is not None
        return found

    def _set(self, name: bytes, entry: Entry) -> None:
        self._entries[name] = entry
        self._dirty.add(name)

    def _log(self, code: int, name: bytes, key: Any = b"", value: Sequence[Any] = ()) -> None:
        """Add an operation whose value is the buffers, without joining what would not be kept."""
        if not self.operations.complete or len(key) + sum(map(len, value)) > self.operations.limit:
            self.operations.outgrow()
        else:
            self.operations.add(code, name, key, b"".join(value))

    # --- keys ---------------------------------------------------------------------------------------

    def _keys(self, entry: Entry, rows: Array | None, batch: Batch | None = None) -> tuple[Array, Array]:
        """The packed keys of stored `rows`, or of a batch of all columns."""
        schema = tables.schema_of(entry)
        places = keys.key_columns(schema)
        columns = [schema.columns[place] for place in places]
        if batch is not None:
            parts = [batch.columns[place] for place in places]
        else:
            assert rows is not None
            parts = [
                state.take(column.kind, entry.columns[place], self.space, rows)
                for place, column in zip(places, columns, strict=True)
            ]
        return keys.pack(columns, parts)

    def _enter(self, name: bytes, packed: tuple[Array, Array], rows: Array) -> None:
        index = self.index(name)
        assert index is not None
        index.put_packed(*packed, rows.astype(_ROW, copy=False), _ROW.itemsize)

    def _forget(self, name: bytes, entry: Entry, rows: Array) -> None:
        """Take the keys of `rows` out of the index.  Raises `CorruptError` where they aren't those rows' there."""
        index = self.index(name)
        assert index is not None
        for start in range(0, len(rows), _STEP):
            some = rows[start : start + _STEP]
            packed = self._keys(entry, some)
            places, found = np.zeros(len(some), np.int64), np.zeros(len(some), np.uint8)
            index.gather(*packed, places, _ROW.itemsize, found)
            wrong = np.flatnonzero((found == 0) | (places != some))
            if len(wrong):
                row = int(some[wrong[0]])
                raise CorruptError(f"row {row} of {name.decode()!r} isn't found by its key; run check()")
            index.delete_packed(*packed)

    # --- rows ---------------------------------------------------------------------------------------

    def append(self, name: bytes, batch: Batch, packed: tuple[Array, Array] | None = None) -> range:
        """Append rows, whose keys (as `keys.pack` has them, if they are known) are new, to a table or array."""
        entry = self._table(name)
        self._grows()
        with self._taking():
            changed = tables.append(entry, batch, self.space)
        rows = range(entry.rows, changed.rows)
        with self._changing():
            self._set(name, changed)
            if tables.schema_of(entry).key is not None:
                self._enter(name, packed or self._keys(entry, None, batch), np.arange(rows.start, rows.stop))
            encoded = batches.encode(tables.schema_of(entry).columns, batch) if self.operations.complete else ()
            self._log(fmt.OP_APPEND, name, fmt.ROWS.pack(batch.rows), encoded)
        return rows

    def update(self, name: bytes, rows: Array, positions: Sequence[int], batch: Batch) -> None:
        """Give rows (int64, ascending, each once) other values in some columns; their keys stay unique."""
        entry = self._table(name)
        schema = tables.schema_of(entry)
        rekeyed = set(positions) & set(keys.key_columns(schema))
        self._grows()
        with self._changing():
            if rekeyed:
                self._forget(name, entry, rows)
            changed = tables.update(entry, rows, positions, batch, self.space)
            self._set(name, changed)
            if rekeyed:
                self._enter(name, self._keys(changed, rows), rows)
            columns = [schema.columns[position] for position in positions]
            head = np.array([len(columns), *positions], "<u4").tobytes()
            encoded = batches.encode(columns, batch) if self.operations.complete else ()
            self._log(fmt.OP_UPDATE, name, rows.astype(_ROW).tobytes(), [head, *encoded])

    def delete_rows(self, name: bytes, rows: Array) -> None:
        """Mark rows (int64, ascending, each once, none deleted yet) as deleted; their keys go."""
        entry = self._table(name)
        self._grows()  # a mark takes room
        with self._changing():
            if tables.schema_of(entry).key is not None:
                self._forget(name, entry, rows)
            self._set(name, tables.delete(entry, rows, self.space))
            self._log(fmt.OP_DELETE_ROWS, name, rows.astype(_ROW).tobytes())

    def resize(self, name: bytes, rows: int) -> None:
        """Give an array another length: cut it, or append zeros.

        The zeros are logged as what they are, so the log never asks for more bytes than it has itself; many of them
        outgrow it and are committed by a checkpoint, like any large append.
        """
        entry = self._table(name)
        if rows < entry.rows:
            self._truncate(name, entry, rows)
            return
        column = tables.schema_of(entry).columns[0]
        step = max(1, _ZEROS // column.row_size)
        zeros = np.zeros((min(step, rows - entry.rows), *column.shape), column.dtype)
        with self._changing():  # what fails on the way leaves it longer than it was
            for start in range(entry.rows, rows, step):
                n = min(step, rows - start)
                self.append(name, Batch(n, [{"values": zeros[:n]}]))

    def _truncate(self, name: bytes, entry: Entry, rows: int) -> None:
        self._shrinks()
        with self._changing():
            self._set(name, tables.truncate(entry, rows, self.space))
            self._log(fmt.OP_RESIZE, name, fmt.ROWS.pack(rows))

    def compact(self, name: bytes) -> int:
        """Write a table anew without its deleted rows, or, if it or an array has none, what of it is scattered.

        Returns how many rows went.
        """
        entry = self._table(name)
        if not entry.deleted and not tables.scattered(entry, self.space.page_size):
            return 0
        self._grows()
        with self._changing():
            changed = tables.compact(entry, self.space)
            self._set(name, changed)
            if entry.deleted and tables.schema_of(entry).key is not None:
                index = self.index(name)
                assert index is not None
                index.clear()
                for rows, packed in self._all_keys(changed):
                    self._enter(name, packed, rows)
            self._log(fmt.OP_COMPACT, name)
        return entry.deleted

    def _all_keys(self, entry: Entry) -> Iterator[tuple[Array, tuple[Array, Array]]]:
        step = 16 * _STEP
        for start in range(0, entry.rows, step):
            rows = np.arange(start, min(start + step, entry.rows))
            yield rows, self._keys(entry, rows)

    # --- columns ------------------------------------------------------------------------------------

    def add_column(self, name: bytes, column: Column, fill: Batch) -> None:
        """Add a column; `fill` is the one value of all rows there are."""
        entry = self._table(name)
        self._grows()
        with self._changing():
            self._set(name, tables.add_column(entry, column, fill.columns[0], self.space))
            self._log(fmt.OP_ADD_COLUMN, name, column.encode(), batches.encode([column], fill))

    def drop_column(self, name: bytes, column: str) -> None:
        """Drop a column, which is not the last and not the key's."""
        entry = self._table(name)
        tables.schema_of(entry).position(column)  # KeyError before anything is changed
        self._shrinks()
        with self._changing():
            self._set(name, tables.drop_column(entry, column, self.space))
            self._log(fmt.OP_DROP_COLUMN, name, column.encode())

    def rename_column(self, name: bytes, column: str, new: str) -> None:
        """Rename a column to a name that is free."""
        changed = tables.rename_column(self._table(name), column, new)
        self._alter(name, changed, fmt.OP_RENAME_COLUMN, column.encode(), new.encode())

    def allow_nulls(self, name: bytes, column: str) -> None:
        """Make a column nullable that isn't the key's."""
        changed = tables.allow_nulls(self._table(name), column)
        self._alter(name, changed, fmt.OP_ALLOW_NULLS, column.encode())

    def _alter(self, name: bytes, changed: Entry, code: int, key: bytes, value: bytes = b"") -> None:
        self._shrinks()
        with self._changing():
            self._set(name, changed)
            self._log(code, name, key, [value])

    # --- replay -------------------------------------------------------------------------------------

    def replay_table(self, operation: Operation) -> None:
        """Replay one operation of the log on a table.  Raises `CorruptError` where it makes no sense."""
        code, name, key, value = operation
        entry = self.entry(name)
        if entry is None or entry.schema is None or code not in _ALLOWED[entry.kind]:
            raise CorruptError(f"the log has a change of {name!r} that this can't have; restore a backup")
        try:
            _REPLAY[code](self, entry, name, key, value)
        except (ValueError, KeyError) as error:  # a SchemaError, or an impossible column
            raise CorruptError(f"the log has an impossible change of {name!r}: {error}; restore a backup") from error

    def _replay_append(self, entry: Entry, name: bytes, key: bytes, value: bytes) -> None:
        self.append(name, batches.decode(tables.schema_of(entry).columns, _number(key), value))

    def _replay_update(self, entry: Entry, name: bytes, key: bytes, value: bytes) -> None:
        rows = _rows(key, entry.rows)
        count = fmt.COUNT.unpack_from(value.ljust(fmt.COUNT.size, b"\0"))[0]
        columns = tables.schema_of(entry).columns
        positions = np.frombuffer(value, "<u4", count, fmt.COUNT.size).tolist()
        if len(set(positions)) != count or any(position >= len(columns) for position in positions):
            raise ValueError(f"columns {positions} of {len(columns)}")
        rest = memoryview(value)[fmt.COUNT.size * (count + 1) :]
        batch = batches.decode([columns[position] for position in positions], len(rows), rest)
        self.update(name, rows, positions, batch)

    def _replay_delete(self, entry: Entry, name: bytes, key: bytes, value: bytes) -> None:
        rows = _rows(key, entry.rows)
        if tables.marked(entry, self.space, 0, entry.rows)[rows].any():
            raise ValueError("a row is deleted twice")
        self.delete_rows(name, rows)

    def _replay_resize(self, entry: Entry, name: bytes, key: bytes, value: bytes) -> None:
        rows = _number(key)
        if rows >= entry.rows:  # whoever grows it appends: no number alone fills a disk
            raise ValueError(f"{entry.rows} rows cut to {rows}")
        self._truncate(name, entry, rows)

    def _replay_add_column(self, entry: Entry, name: bytes, key: bytes, value: bytes) -> None:
        column = Column.decode(key)
        self.add_column(name, column, batches.decode([column], 1, value))

    def _replay_compact(self, entry: Entry, name: bytes, key: bytes, value: bytes) -> None:
        self.compact(name)


def _number(key: bytes) -> int:
    if len(key) != fmt.ROWS.size:
        raise ValueError(f"a number of rows has {fmt.ROWS.size} bytes, found {len(key)}")
    found: int = fmt.ROWS.unpack(key)[0]
    return found


def _rows(key: bytes, total: int) -> Array:
    """Row numbers out of the log: some, ascending, below `total`."""
    rows = np.frombuffer(key, _ROW)
    if not len(rows) or (rows[1:] <= rows[:-1]).any() or int(rows[-1]) >= total:
        raise ValueError(f"row numbers that don't ascend below {total}")
    return rows.astype(np.int64)


_Replay = Callable[[TableChanges, Entry, bytes, bytes, bytes], None]
_REPLAY: dict[int, _Replay] = {
    fmt.OP_APPEND: TableChanges._replay_append,
    fmt.OP_UPDATE: TableChanges._replay_update,
    fmt.OP_DELETE_ROWS: TableChanges._replay_delete,
    fmt.OP_ADD_COLUMN: TableChanges._replay_add_column,
    fmt.OP_DROP_COLUMN: lambda write, _, name, key, value: write.drop_column(name, key.decode()),
    fmt.OP_RENAME_COLUMN: lambda write, _, name, key, value: write.rename_column(name, key.decode(), value.decode()),
    fmt.OP_ALLOW_NULLS: lambda write, _, name, key, value: write.allow_nulls(name, key.decode()),
    fmt.OP_RESIZE: TableChanges._replay_resize,
    fmt.OP_COMPACT: TableChanges._replay_compact,
}
_ALLOWED = {
    fmt.ENTRY_TABLE: _REPLAY.keys() - {fmt.OP_RESIZE},
    fmt.ENTRY_ARRAY: {fmt.OP_APPEND, fmt.OP_UPDATE, fmt.OP_RESIZE, fmt.OP_COMPACT},
}
