"""A table in one state, and what can be read of its rows: the base of tables, snapshots' tables and transactions'.

`TableState` is an entry with a way to its bytes: `Committed` shows them in place, each array with a pin of its own
(I2), `Uncommitted` copies them, since rows without a root can't be pinned.  Everything that reads rows is written
upon it.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmstore import format as fmt
from mmstore.catalog import tables
from mmstore.catalog.entry import Entry
from mmstore.columns import bitmap, keys, sequence
from mmstore.columns.batch import Array
from mmstore.columns.extents import Source
from mmstore.columns.reader import Mapped, copied, known
from mmstore.columns.schema import Column, Schema
from mmstore.columns.sequence import Sequence
from mmstore.columns.together import FEW, in_parts
from mmstore.exchange.view import ColumnView

if TYPE_CHECKING:
    from mmstore.database.database import Database
    from mmstore.database.reader import State
    from mmstore.engine.write import WriteState

__all__ = ["Committed", "TableState", "Uncommitted"]


class TableState:
    """One table as one root, or one transaction, has it."""

    def __init__(self, entry: Entry, source: Source) -> None:
        self.entry = entry
        self.schema: Schema = tables.schema_of(entry)
        self.rows = entry.rows
        self.source = source
        """For reading a few rows without mapping a column."""

    def memory(self, key: tuple[int, ...], found: Sequence) -> tuple[memoryview, Mapped | None]:
        """All bytes of a sequence, read-only, and the mapping that they lie in, if they do."""
        raise NotImplementedError

    def gather(self, data: Array, offsets: Array) -> Array:
        """Row numbers behind packed keys, -1 where there is none."""
        raise NotImplementedError

    # --- columns ------------------------------------------------------------------------------------

    def column(self, position: int) -> ColumnView:
        """A column's rows: its whole arrays, offsets from the column's first row on, validity as packed bits."""
        column, found = self.schema.columns[position], self.entry.columns[position]
        kind = column.kind
        arrays: dict[str, Array] = {}
        maps: dict[str, Mapped | None] = {}
        for at, (name, part) in enumerate(zip(kind.parts, found.parts, strict=True)):
            if name == "validity" and not bitmap.count(part):
                continue
            memory, maps[name] = self.memory((self.entry.id, column.id, at + (not kind.nullable)), part)
            if name == "values":
                # np.ndarray(buffer=...) would look through the memoryview and let itself be made writeable.
                arrays[name] = np.frombuffer(memory, kind.dtype)
                if kind.shape:
                    arrays[name] = arrays[name].reshape(-1, *kind.shape)
            else:
                arrays[name] = np.frombuffer(memory, "<i8" if name.endswith("offsets") else "u1")
        plain = "offsets" not in maps and "words" not in maps
        first, *behind = (maps[name] for name in kind.parts if name != "validity")
        right = None if plain else known(first, behind[-1])
        return ColumnView(column, 0, self.rows, arrays, plain, right)

    def array(self, name: str) -> Any:
        """A column as users see it: an array where numpy can show it all, else a `ColumnView`.  Raises KeyError."""
        view = self.column(self.schema.position(name))
        return view.values if view.kind.plain else view

    @cached_property
    def deleted(self) -> Array:
        """Which rows are deleted, as booleans."""
        entry = self.entry
        if not entry.deleted:
            marks = np.zeros(self.rows, np.bool_)
        elif entry.marks.length == self.rows:
            return np.frombuffer(self.memory((entry.id,), entry.marks)[0], np.bool_)
        else:
            marks = tables.marked(entry, self.source, 0, self.rows)
        marks.flags.writeable = False
        return marks

    def statistics(self, position: int) -> bytes:
        """Packed statistics of a column's blocks of rows, the tail's last if there is one."""
        found = self.entry.columns[position]
        packed = sequence.read(found.blocks, self.source, 0, found.blocks.length)
        return packed + found.tail.pack() if found.tail.rows else packed

    # --- keys ---------------------------------------------------------------------------------------

    @property
    def key_columns(self) -> list[Column]:
        return [self.schema.columns[position] for position in keys.key_columns(self.schema)]


class Committed(TableState):
    """A table of a root that the caller has pinned while this is made and read; arrays pin for themselves."""

    def __init__(self, database: Database, state: State, entry: Entry) -> None:
        session = database.session
        super().__init__(entry, Source(session.page_size, session.store.read))
        self._database = database
        self._state = state

    def memory(self, key: tuple[int, ...], found: Sequence) -> tuple[memoryview, Mapped | None]:
        database = self._database
        release = database.pin_view(self._state.txn)
        return database.columns.memory(key, found, release, private=database.session.store.private)

    def gather(self, data: Array, offsets: Array) -> Array:
        index = self._state.open(self.entry.index)
        rows = np.empty(len(offsets) - 1, np.int64)
        if len(rows) < FEW:
            _find(index, data, offsets, rows, True)
            return rows

        def find(start: int, stop: int) -> None:
            _find(index, data, offsets[start : stop + 1], rows[start:stop], False)

        release = self._database.pin_view(self._state.txn)  # other threads run meanwhile, and may close the snapshot
        try:
            in_parts(len(rows), find)
        finally:
            release()
        return rows


class Uncommitted(TableState):
    """A table as a transaction has it."""

    def __init__(self, write: WriteState, name: bytes, entry: Entry) -> None:
        super().__init__(entry, write.space)
        self._write = write
        self._name = name

    def memory(self, key: tuple[int, ...], found: Sequence) -> tuple[memoryview, Mapped | None]:
        return copied(found, self.source, 0, found.extent), None

    def gather(self, data: Array, offsets: Array) -> Array:
        index = self._write.index(self._name)
        assert index is not None
        rows = np.empty(len(offsets) - 1, np.int64)
        _find(index, data, offsets, rows, True)
        return rows


def _find(index: Any, data: Array, offsets: Array, rows: Array, alone: bool) -> None:
    """Set `rows` to those of packed keys, -1 where there is none; `alone`: no other thread may run meanwhile."""
    found = np.empty(len(rows), np.uint8)
    index.gather(data, offsets, rows, fmt.ROWS.size, found, alone)
    rows[found == 0] = -1
