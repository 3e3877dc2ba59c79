"""Tables as users hold them: committed, in a snapshot, in a transaction.

A column of the committed state is shown in place, without a copy: the array lies over the mapped file, and a pin keeps
the root that it was read from for as long as the array lives, so nothing that is committed later changes what it
shows (I2).  Rows that are not committed yet have no root to pin, so a transaction shows copies.

A `Table` is a name: each call looks at the newest state, or at its snapshot's.  Rows are numbered from 0 in the order
in which they were appended; a deleted row keeps its number until the table is compacted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmstore import format as fmt
from mmstore.catalog import tables
from mmstore.catalog.entry import Entry
from mmstore.columns.batch import Array
from mmstore.columns.schema import Schema
from mmstore.database.lookup import row_numbers, rows_of_keys
from mmstore.database.predicates import predicates
from mmstore.database.rows import Committed, TableState, Uncommitted
from mmstore.database.scan import chosen, scan
from mmstore.database.slices import Rows
from mmstore.errors import ReadOnlyError
from mmstore.exchange import arrow_out, cdata, convert

if TYPE_CHECKING:
    from mmstore.database.database import Database
    from mmstore.database.reader import State
    from mmstore.database.snapshot import Snapshot
    from mmstore.database.tablewriter import TableWriter
    from mmstore.database.transaction import Transaction

__all__ = ["CommittedName", "ReadTable", "Table", "TransactionName", "TransactionTable"]

Where: TypeAlias = Sequence[tuple[Any, ...]]
BATCH_ROWS = 65536
_ARROW_ROWS = 1 << 18  # rows of a record batch


class Named:
    """A table's or array's name, and a way to what it stands for."""

    kind = fmt.ENTRY_TABLE

    def __init__(self, name: bytes) -> None:
        self._name = name

    def _state(self) -> AbstractContextManager[TableState]:
        """The table's state, which stands as long as the context lasts: for the length of a call."""
        raise NotImplementedError

    def _held(self) -> tuple[TableState, Callable[[], None]]:
        """The table's state for as long as it takes, and what ends it.

        A generator that is dropped halfway doesn't call that: it may be in a finalizer, where nothing may be locked.
        What the function refers to is dropped with it, and that is enough.
        """
        raise NotImplementedError

    def _entry(self) -> Entry:
        """What the catalog says of it now.  Raises KeyError, and TypeError if the name is something else's."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self._name.decode()

    def __bool__(self) -> bool:
        """True, also without rows: a table is not its content."""
        return True

    def __repr__(self) -> str:
        return f"<mmstore.{type(self).__name__} {self.name!r}>"

    def __len__(self) -> int:
        """Rows, deleted ones included: their numbers are range(len(table))."""
        return self._entry().rows


class ReadTable(Named):
    """What can be read of a table; a subclass says in which state."""

    @property
    def schema(self) -> Schema:
        """Names and types of the columns, and the key."""
        return tables.schema_of(self._entry())

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return self.schema.names

    @property
    def live_rows(self) -> int:
        """Rows that aren't deleted."""
        entry = self._entry()
        return entry.rows - entry.deleted

    @property
    def deleted(self) -> Array:
        """Which rows are deleted, as booleans."""
        with self._state() as state:
            return state.deleted

    def __getitem__(self, what: Any) -> Any:
        """`t["x"]` a column, `t[7]` a row as a dict, `t[10:20]` rows as views, `t[numbers or mask]` rows as copies.

        A column is a contiguous, 64-byte aligned array that can't be written, of all rows, deleted ones included; where
        numpy can't show it all (text, lists, missing rows, decimals) it is a `ColumnView`.

        Raises KeyError for a column, IndexError for a row that isn't there.
        """
        if isinstance(what, str):
            with self._state() as state:
                return state.array(what)
        if isinstance(what, slice):
            return self._slice(what)
        if isinstance(what, bool) or not isinstance(what, int | np.integer):
            if isinstance(what, tuple) or (isinstance(what, list) and what and isinstance(what[0], str)):
                raise TypeError('expected one column, or rows; for some columns use take, scan, or t["x"] each')
            return self.take(what)
        with self._state() as state:
            if not -state.rows <= what < state.rows:
                raise IndexError(f"row {what:,} of {state.rows:,}")
            row = int(what) % state.rows
            return {column.name: state.column(at)[row : row + 1].tolist()[0] for at, column in enumerate(state.schema)}

    def _slice(self, what: slice) -> Rows:
        with self._state() as state:
            start, stop, step = what.indices(state.rows)
            if step != 1:
                return self._taken(state, np.arange(start, stop, step), None)
            stop = max(start, stop)
            views = [state.column(at)[start:stop] for at in range(len(state.schema))]
            return Rows(state.schema, range(start, stop), views)

    def take(self, rows: Any, columns: Sequence[str] | None = None) -> Rows:
        """Copies of rows, given by numbers (negative ones from the end), a mask or a slice, in that order.

        Raises IndexError for a row that isn't there.
        """
        with self._state() as state:
            return self._taken(state, row_numbers(rows, state.rows), columns)

    @staticmethod
    def _taken(state: TableState, rows: Array, columns: Sequence[str] | None) -> Rows:
        schema, positions = chosen(state.schema, columns)
        return Rows(schema, rows, [state.column(position).take(rows) for position in positions])

    def find(self, keys: Any) -> Array:
        """The row numbers (int64) of keys, -1 where there is none.

        keys: a list or array of the key column's type; for a key of several columns a tuple of those, or a dict.

        Raises `SchemaError` if the table has no key, or values are of another sort.
        """
        with self._state() as state:
            return rows_of_keys(state, keys)

    def lookup(self, keys: Any, columns: Sequence[str] | None = None) -> Rows:
        """The rows of keys, in their order.  Raises KeyError naming the first that isn't there."""
        with self._state() as state:
            rows = rows_of_keys(state, keys)
            missing = np.flatnonzero(rows < 0)
            if len(missing):
                at = int(missing[0])
                raise KeyError(f"{len(missing):,} of {len(rows):,} keys are not there, the first at position {at}")
            return self._taken(state, rows, columns)

    def scan(
        self, columns: Sequence[str] | None = None, where: Where | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[Rows]:
        """The rows that fulfil all conditions and aren't deleted, of one state, in batches of up to `batch_rows`.

        where: conditions (column, operator, value); operators ==, !=, <, <=, >, >=, "in" (a list), "is null" and
        "is not null" (without a value).  Blocks of 65,536 rows that can't match by their smallest and largest value
        aren't touched.  Rows side by side come as views, others as copies.

        Raises KeyError, ValueError or `SchemaError` for a condition that makes no sense.
        """
        if batch_rows < 1:
            raise ValueError(f"expected batch_rows of at least 1, found {batch_rows}")
        schema = self.schema
        chosen(schema, columns)
        predicates(schema, where)  # what is wrong is said here, not at the first batch
        return self._scan(columns, where, batch_rows)

    def _scan(self, columns: Sequence[str] | None, where: Where | None, batch_rows: int) -> Iterator[Rows]:
        state, end = self._held()
        yield from scan(state, columns, predicates(state.schema, where), batch_rows)
        end()

    def __iter__(self) -> Iterator[Rows]:
        """All rows that aren't deleted, in batches."""
        return self.scan()

    def __contains__(self, name: object) -> bool:
        """Whether there is a column of this name."""
        return name in self.schema

    # --- Arrow --------------------------------------------------------------------------------------

    def __arrow_c_schema__(self) -> Any:
        return cdata.export_schema(arrow_out.table_field(self.schema))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The rows that aren't deleted as a stream of Arrow record batches, zero-copy where the types are Arrow's.

        It shows one state, pinned until the consumer lets go.  requested_schema: a struct of some of the columns, in
        the order wanted; other types than the table's aren't converted.
        """
        columns = None
        if requested_schema is not None:
            columns = [child.name for child in cdata.import_schema(requested_schema).children]
            columns = [name for name in columns if name in self.schema]
        return self._stream(columns or None)

    def _stream(self, columns: Sequence[str] | None) -> Any:
        with self._state() as state:  # each view pins what it shows: the stream outlives the state, and the handle
            schema, _ = chosen(state.schema, columns)
            batches = scan(state, columns, [], _ARROW_ROWS)
        return arrow_out.stream(schema, ((len(rows), rows.views) for rows in batches))

    def to_arrow(self, columns: Sequence[str] | None = None) -> Any:
        """A pyarrow.Table of the rows that aren't deleted; needs the extra "arrow"."""
        pa = arrow_out.pyarrow()
        with self._state() as state:
            schema, _ = chosen(state.schema, columns)
            batches = [pa.record_batch(rows) for rows in scan(state, columns, [], _ARROW_ROWS)]
        arrow_schema = pa.schema(Rows(schema, range(0), ()))
        return pa.Table.from_batches(batches, arrow_schema)

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """A pandas.DataFrame; needs pandas and the extra "arrow"."""
        return self.to_arrow(columns).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None) -> Any:
        """A polars.DataFrame; needs polars."""
        import polars

        table = self if columns is None else _Some(self, columns)
        return polars.DataFrame(table)


class _Some:
    """Some columns of a table, for Arrow consumers."""

    def __init__(self, table: ReadTable, columns: Sequence[str]) -> None:
        self._table = table
        self._columns = columns

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table._stream(self._columns)


class CommittedName(Named):
    """The newest state of what a name stands for, or a snapshot's."""

    def __init__(self, database: Database, name: bytes, snapshot: Snapshot | None = None) -> None:
        super().__init__(name)
        self._database = database
        self._snapshot = snapshot

    @contextmanager
    def _state(self) -> Iterator[TableState]:
        if self._snapshot is not None:
            yield self._shown(self._snapshot.state)
            return
        with self._database.reader.pinned() as state:
            yield self._shown(state)

    def _held(self) -> tuple[TableState, Callable[[], None]]:
        if self._snapshot is not None:
            return self._shown(self._snapshot.state), lambda: None
        snapshot = self._database.snapshot()
        return self._shown(snapshot.state), snapshot.close

    def _shown(self, state: State) -> TableState:
        return Committed(self._database, state, self._found(state))

    def _entry(self) -> Entry:
        if self._snapshot is not None:
            return self._found(self._snapshot.state)
        return self._database.reader.read(self._found)

    def _found(self, state: State) -> Entry:
        entry = state.expect(self._name, self.kind)
        if entry is None:
            raise KeyError(self.name)
        return entry


class TransactionName(Named):
    """What a name stands for in a transaction."""

    def __init__(self, transaction: Transaction, name: bytes) -> None:
        super().__init__(name)
        self._transaction = transaction

    @contextmanager
    def _state(self) -> Iterator[TableState]:
        yield self._shown()

    def _held(self) -> tuple[TableState, Callable[[], None]]:
        return self._shown(), lambda: None

    def _shown(self) -> TableState:
        entry, state = self._entry(), self._transaction.base_state()
        if state is not None and state.entry(self._name) == entry:
            return Committed(self._transaction._database, state, entry)
        return Uncommitted(self._transaction.check_open(), self._name, entry)

    def _entry(self) -> Entry:
        entry = self._transaction.check_open().entry(self._name)
        if entry is None or entry.kind != self.kind:
            raise KeyError(self.name)
        return entry


class Table(ReadTable, CommittedName):
    """A table as committed, or as a snapshot has it."""

    # --- writing: a transaction each ------------------------------------------------------------------

    @contextmanager
    def _writer(self) -> Iterator[TableWriter]:
        if self._snapshot is not None:
            raise ReadOnlyError("a snapshot never changes; write through the database or in a transaction")
        with self._database.transaction() as txn:
            yield txn.table(self.name)

    def append(self, data: Any, on_conflict: str = "error") -> range:
        """Append rows in one transaction; returns their numbers.  See `TableWriter.append`."""
        if self._snapshot is not None:
            raise ReadOnlyError("a snapshot never changes; append through the database or in a transaction")
        schema = self.schema
        made = None if convert.is_stream(data) else list(convert.batches(schema, data))  # before the lock is taken
        with self._writer() as table:
            if made is not None and table.schema == schema:
                return table.append_batches(made, on_conflict)
            return table.append(data, on_conflict)

    def update(self, rows: Any, values: Any) -> int:
        """Change rows in one transaction; returns how many.  See `TableWriter.update`."""
        with self._writer() as table:
            return table.update(rows, values)

    def delete(self, rows: Any) -> int:
        """Delete rows in one transaction; returns how many weren't deleted before.  See `TableWriter.delete`."""
        with self._writer() as table:
            return table.delete(rows)

    def add_column(self, name: str, dtype: Any, fill: Any = None) -> None:
        """Add a column in one transaction.  See `TableWriter.add_column`."""
        with self._writer() as table:
            table.add_column(name, dtype, fill)

    def drop_column(self, name: str) -> None:
        """Drop a column in one transaction."""
        with self._writer() as table:
            table.drop_column(name)

    def rename_column(self, name: str, new: str) -> None:
        """Rename a column in one transaction."""
        with self._writer() as table:
            table.rename_column(name, new)

    def allow_nulls(self, name: str) -> None:
        """Make a column nullable in one transaction."""
        with self._writer() as table:
            table.allow_nulls(name)

    def compact(self) -> int:
        """Give the room of deleted rows back, in one transaction; returns how many rows went."""
        with self._writer() as table:
            return table.compact()


class TransactionTable(ReadTable, TransactionName):
    """A table as its transaction has it: one's own changes included."""
