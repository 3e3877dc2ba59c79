"""Tables as users hold them: committed, in a snapshot, in a transaction.

Reading a column gives a read-only array over the file itself (see mmstore.columns.reader), with a pin on the
root that it shows, which goes when the array does: appends, drops and closed snapshots don't change what it
shows (I2).  Rows that are not committed yet have no root to pin, so a transaction shows a column that it has
appended to as a copy.

A `Table` is a name: each call looks at the newest state, or at its snapshot's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmstore import format as fmt
from mmstore.catalog.entry import Entry
from mmstore.columns import rows
from mmstore.columns.reader import copied
from mmstore.columns.schema import Schema
from mmstore.database.reader import State
from mmstore.errors import ReadOnlyError
from mmstore.pages.root import Root

if TYPE_CHECKING:
    from mmstore.database.database import Database
    from mmstore.database.snapshot import Snapshot
    from mmstore.database.transaction import Transaction
    from mmstore.engine.write import WriteState

__all__ = ["Table", "TableWriter"]

Array: TypeAlias = np.ndarray[Any, Any]


class ReadTable:
    """What can be read of a table; a subclass says in which state."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def _entry(self) -> Entry:
        raise NotImplementedError

    def _column(self, name: str) -> Array:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self._name.decode()

    @property
    def schema(self) -> Schema:
        """Names and types of the columns."""
        return _schema(self._entry())

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return self.schema.names

    def __len__(self) -> int:
        """Rows."""
        return self._entry().rows

    def __bool__(self) -> bool:
        """True, also without rows: a table is not its content."""
        return True

    def __getitem__(self, name: str) -> Array:
        """All rows of a column: a contiguous, 64-byte aligned array that can't be written.

        Raises KeyError for a column that isn't there.
        """
        if not isinstance(name, str):
            raise TypeError(
                f'expected the name of a column, found {type(name).__name__}; take rows of a column, as in t["x"][0:10]'
            )
        return self._column(name)

    # Without this Python would try t[0], t[1], ... for "x in t" and iteration.
    __iter__ = None

    def __contains__(self, name: object) -> bool:
        """Whether there is a column of this name."""
        return name in self.schema

    def __repr__(self) -> str:
        return f"<mmstore.{type(self).__name__} {self.name!r}>"


class Table(ReadTable):
    """A table as committed, or as a snapshot has it."""

    def __init__(self, database: Database, name: bytes, snapshot: Snapshot | None = None) -> None:
        super().__init__(name)
        self._database = database
        self._snapshot = snapshot

    def append(self, data: Any) -> range:
        """Append rows in one transaction; returns their numbers.

        data: a dict of arrays or lists, one for each column, or a structured array.

        Raises `SchemaError` naming the column that doesn't fit; then nothing was changed.
        """
        if self._snapshot is not None:
            raise ReadOnlyError("a snapshot never changes; append through the database or in a transaction")
        schema = self.schema
        converted = rows.convert(schema, data)  # before the writer lock is taken: it may take long
        with self._database.transaction() as txn:
            table = txn.table(self.name)
            return table.append_converted(*converted) if table.schema == schema else table.append(data)

    def _entry(self) -> Entry:
        if self._snapshot is not None:
            return self._find(self._snapshot.state)
        return self._database.reader.read(self._find)

    def _find(self, state: State) -> Entry:
        entry = state.expect(self._name, fmt.ENTRY_TABLE)
        if entry is None:
            raise KeyError(self.name)
        return entry

    def _column(self, name: str) -> Array:
        if self._snapshot is not None:
            state = self._snapshot.state
            return committed_column(self._database, state.root, self._find(state), name)
        with self._database.reader.pinned() as state:
            return committed_column(self._database, state.root, self._find(state), name)


class TableWriter(ReadTable):
    """A table as its transaction has it: one's own rows included."""

    def __init__(self, transaction: Transaction, name: bytes) -> None:
        super().__init__(name)
        self._transaction = transaction

    def append(self, data: Any) -> range:
        """Append rows; returns their numbers.  `data` as in `Table.append`."""
        return self.append_converted(*rows.convert(self.schema, data))

    def append_converted(self, count: int, arrays: list[Array]) -> range:
        """Append `count` rows that `rows.convert` made for this table's schema."""
        write = self._transaction.check_open()
        if not count:
            start = self._entry().rows
            return range(start, start)
        return write.append(self._name, count, rows.join(arrays))

    def _entry(self) -> Entry:
        return self._find(self._transaction.check_open())

    def _find(self, write: WriteState) -> Entry:
        entry = write.entry(self._name)
        if entry is None or entry.kind != fmt.ENTRY_TABLE:
            raise KeyError(self.name)
        return entry

    def _column(self, name: str) -> Array:
        write = self._transaction.check_open()
        entry = self._find(write)
        position = _schema(entry).position(name)
        database = self._transaction._database
        state = database.reader.current()
        # The root that this transaction started from is pinned by being the newest: no other writer can publish.
        if state.txn == write.base.txn and state.entry(self._name) == entry:
            return committed_column(database, state.root, entry, name)
        return copied(_schema(entry).columns[position], entry.sequences[position], write.space, 0, entry.rows)


def committed_column(database: Database, root: Root, entry: Entry, name: str) -> Array:
    """A column as root `root`, which the caller has pinned, has it; the array keeps a pin of its own."""
    position = _schema(entry).position(name)
    release = database.pin_view(root.txn)
    return database.columns.column(
        (entry.id, position),
        _schema(entry).columns[position],
        entry.sequences[position],
        entry.rows,
        release,
        private=database.session.store.private,
    )


def _schema(entry: Entry) -> Schema:
    assert entry.schema is not None, "tables and arrays have one, as unpacking checked"
    return entry.schema
