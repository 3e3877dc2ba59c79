"""Transactions and savepoints as users hold them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mmstore import format as fmt
from mmstore.catalog.entry import KIND_NAMES, Entry
from mmstore.database.keys import check_key, check_value, name_bytes
from mmstore.database.mapping import TransactionKeyspace
from mmstore.database.reader import State
from mmstore.engine import commit
from mmstore.engine.write import WriteState
from mmstore.errors import ClosedError, SchemaError
from mmstore.exchange.schemas import schema_of
from mmstore.keyspace.index import Index

if TYPE_CHECKING:
    from mmstore.database.arrays import ArrayWriter
    from mmstore.database.database import Database
    from mmstore.database.tablewriter import TableWriter

__all__ = ["Transaction"]


class Transaction(TransactionKeyspace):
    """All or nothing, over keyspaces, tables and arrays; itself the store's own keyspace.

    As a context manager it commits at the end, and rolls back when an exception leaves the block.
    Only one transaction at a time is open on a store; others wait up to ``timeout``.
    """

    def __init__(self, database: Database, timeout: float) -> None:
        self._name = b""
        self._database = database
        self.thread = threading.get_ident()
        """Who began it: close() ends it for this thread only."""
        self._base: State | None = None
        self._write: WriteState | None = commit.begin(database.session, database.writer, timeout)
        try:
            self._ended = ""
            self._committed = 0
            database.transactions.add(self)
        except BaseException:
            commit.let_go(database.writer, self._write)
            raise

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __del__(self) -> None:
        write = self.__dict__.get("_write")
        if write is not None:
            # Its right goes with it; the next who writes through this handle clears away what it has built.
            warnings.warn(
                f"a transaction of {self._database!r} was dropped without an end; it is rolled back",
                ResourceWarning,
                stacklevel=2,
            )

    @property
    def _transaction(self) -> Transaction:  # type: ignore[override]  # no reference to itself: it ends when dropped
        return self

    # --- state --------------------------------------------------------------------------------------

    @property
    def txn_id(self) -> int:
        """The id that the commit will have, or has."""
        return self.check_open().txn if self._write is not None else self._committed

    def check_open(self) -> WriteState:
        if self._write is None:
            raise ClosedError(f"this transaction {self._ended}; begin another one")
        return self._write

    def spill_beyond(self, size: int) -> None:
        """Keep only about so many bytes of changed index pages in memory; further ones are written to the file early.

        Worth its while for who puts very many records in large batches: each page is changed once a batch.
        """
        self.check_open().work.spill_beyond(size)

    def begin_no_zones(self) -> None:
        """Write rows just as they come, for who loads very many at once: no zone is made ready for them (ADR 32)."""
        self.check_open().zones = 0

    def base_state(self) -> State | None:
        """The state that this transaction started from; None as long as it isn't published.

        It is pinned by being the newest: no other writer can publish.
        """
        write = self.check_open()
        session = self._database.session
        if self._base is None and session.live.txn == write.base.txn:
            self._base = State(session, write.base, pinned=True)
        return self._base

    def close_inherited(self) -> None:
        """A child of a fork has no part in its parent's transaction."""
        self._write = None
        self._ended = "was inherited through a fork and belongs to the parent process"

    def index(self, name: bytes) -> Index | None:
        """The index of keyspace ``name`` for reading."""
        write = self.check_open()
        self._expect(write, name, fmt.ENTRY_KEYSPACE)
        return write.index(name)

    def changing(self, name: bytes) -> WriteState:
        """The state to change keyspace ``name`` with."""
        write = self.check_open()
        if name:
            self._expect(write, name, fmt.ENTRY_KEYSPACE)
        return write

    @staticmethod
    def _expect(write: WriteState, name: bytes, kind: int) -> Entry | None:
        if not name:
            return None
        entry = write.entry(name)
        if entry is not None and entry.kind != kind:
            raise TypeError(f"{name.decode()!r} is a {entry.kind_name}, not a {KIND_NAMES[kind]}; use another name")
        return entry

    def put(self, key: Any, value: Any) -> None:
        """Set ``key`` to ``value``."""
        write = self._write
        if write is None:
            write = self.check_open()
        if not write.gathered.take(b"", key, value):
            write.put(b"", check_key(key), check_value(value))

    __setitem__ = put

    # --- what is in the store -----------------------------------------------------------------------

    def mapping(self, name: bytes) -> TransactionKeyspace:
        return TransactionKeyspace(self, name) if name else self

    def keyspace(self, name: str) -> TransactionKeyspace:
        """The named mapping, made by the first write."""
        return TransactionKeyspace(self, name_bytes(name))

    def create_table(self, name: str, schema: Any, key: Any = None) -> TableWriter:
        """Make a table; see `Database.create_table`."""
        made = schema_of(schema, key)
        write = self.check_open()
        self._free_name(write, name)
        write.create(name_bytes(name), Entry.table(made))
        return self.table(name)

    def table(self, name: str) -> TableWriter:
        """The table ``name``; KeyError if there is none."""
        from mmstore.database.tablewriter import TableWriter

        if self._expect(self.check_open(), name_bytes(name), fmt.ENTRY_TABLE) is None:
            raise KeyError(name)
        return TableWriter(self, name_bytes(name))

    def create_array(self, name: str, dtype: Any, shape: int | tuple[int, ...] = (0,)) -> ArrayWriter:
        """Make an array; see `Database.create_array`."""
        from mmstore.database.arrays import array_entry

        length, entry = array_entry(dtype, shape)
        write = self.check_open()
        self._free_name(write, name)
        write.create(name_bytes(name), entry)
        made = self.array(name)
        if length:
            made.resize(length)
        return made

    def array(self, name: str) -> ArrayWriter:
        """The array ``name``; KeyError if there is none."""
        from mmstore.database.arrays import ArrayWriter

        if self._expect(self.check_open(), name_bytes(name), fmt.ENTRY_ARRAY) is None:
            raise KeyError(name)
        return ArrayWriter(self, name_bytes(name))

    def drop(self, name: str) -> None:
        """Remove a keyspace, table or array with all it has; KeyError if there is none."""
        write = self.check_open()
        if write.entry(name_bytes(name)) is None:
            raise KeyError(name)
        write.drop(name_bytes(name))

    @staticmethod
    def _free_name(write: WriteState, name: str) -> None:
        entry = write.entry(name_bytes(name))
        if entry is not None:
            raise SchemaError(f"{name!r} is a {entry.kind_name} already; drop it first or use another name")

    # --- the end ------------------------------------------------------------------------------------

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A nested part: an exception that leaves it undoes only what it did, and is raised further."""
        write = self.check_open()
        mark = write.savepoint()
        try:
            yield
            if self._write is write:
                write.enter()  # what was put in it fails in it, where it can be undone
        except BaseException:
            if self._write is write:
                write.rollback(mark)
            raise
        if self._write is write:
            write.release(mark)

    def commit(self) -> int:
        """Commit and return the txn id; durable when this returns, unless the store is relaxed."""
        write = self.check_open()
        try:
            self._write, self._ended = None, "has ended"
            self._database.transactions.discard(self)
            self._committed = commit.commit(self._database.session, self._database.writer, write)
        except BaseException:
            commit.let_go(self._database.writer, write)
            raise
        return self._committed

    def rollback(self) -> None:
        """End without a trace; nothing to do if it ended already."""
        if self._write is None:
            return
        write, self._write, self._ended = self._write, None, "was rolled back"
        try:
            self._database.transactions.discard(self)
            commit.rollback(self._database.writer, write)
        except BaseException:
            commit.let_go(self._database.writer, write)
            raise

    def __enter__(self) -> Transaction:
        self.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.rollback()
        elif self._write is not None:
            try:
                self.commit()
            except BaseException:
                self.rollback()  # where it was struck before it began
                raise
        elif self._ended.startswith("was inherited"):
            self.check_open()
