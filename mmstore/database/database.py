"""``open`` and ``Database``: a handle of a store, which is also its own keyspace."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable
from numbers import Real
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mmstore import format as fmt
from mmstore.database import forking
from mmstore.database.check import Problem, check
from mmstore.database.keys import name_bytes
from mmstore.database.mapping import Keyspace
from mmstore.database.reader import Reader
from mmstore.database.snapshot import Snapshot
from mmstore.database.stats import stats
from mmstore.database.transaction import Transaction
from mmstore.disk.backend import Backend, Filesystem
from mmstore.disk.mapping import tracked_view
from mmstore.disk.memory import MemoryFilesystem
from mmstore.disk.posix import PosixFilesystem
from mmstore.engine import attach, checkpoint, commit
from mmstore.engine.publish import wait
from mmstore.engine.session import Options, Session
from mmstore.engine.writer import Writer
from mmstore.errors import ClosedError, Error
from mmstore.pages.pins import Pins
from mmstore.pages.readers import ReaderInfo, readers

if TYPE_CHECKING:
    from mmstore.columns.reader import ColumnReader
    from mmstore.database.arrays import Array
    from mmstore.database.table import Table

__all__ = ["Database", "open"]

MEMORY = ":memory:"
_FLAGS = {
    "r": "read an existing store",
    "w": "read and write an existing store",
    "c": "make it if missing",
    "n": "always make a new one",
}


def open(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    flag: str = "c",
    *,
    durability: str = "full",
    page_size: int = 4096,
    timeout: float = 5.0,
    network: bool = False,
) -> Database:
    """Open the store at ``path``, or one in memory for ":memory:".

    ``flag``: "r" read an existing store, "w" write an existing one, "c" make it if missing, "n" always make a
    new one (those who have the old one open keep it).  ``durability``: "full" (a commit is on the medium
    when it returns) or "relaxed" (a crash of the process loses nothing, a power cut the latest commits
    since the last ``sync()``, never consistency).  ``page_size``: bytes, a power of two from 4096 to 65536, for a new
    store.  ``timeout``: seconds to wait for another writer, or for another process' recovery.  ``network``: open on a
    network file system all the same, where mappings and locks of several machines may not agree.

    Raises FileNotFoundError, FormatError (not ours, or newer), CorruptError, LockTimeout, ValueError.
    """
    if flag not in _FLAGS:
        raise ValueError(f"expected flag {', '.join(map(repr, _FLAGS))}, found {flag!r}")
    if durability not in ("full", "relaxed"):
        raise ValueError(f'expected durability "full" or "relaxed", found {durability!r}')
    if page_size & (page_size - 1) or not fmt.MIN_PAGE_SIZE <= page_size <= fmt.MAX_PAGE_SIZE:
        raise ValueError(
            f"expected a page_size that is a power of two from {fmt.MIN_PAGE_SIZE} to {fmt.MAX_PAGE_SIZE}, "
            f"found {page_size}"
        )
    if not isinstance(timeout, Real) or not timeout >= 0:
        raise ValueError(f"expected a timeout of 0 seconds or more, found {timeout!r}")
    memory = os.fsdecode(path) == MEMORY
    options = Options(flag != "r", durability, timeout, in_memory=memory, network=network)
    if memory:
        if flag in ("r", "w"):
            raise FileNotFoundError(f'a store in memory is always new; open it with flag "c" or "n", not {flag!r}')
        return open_on(MemoryFilesystem(), MEMORY, "c", options, page_size)
    return open_on(PosixFilesystem(), attach.absolute(path), flag, options, page_size)


def open_on(fs: Filesystem, path: str, flag: str, options: Options, page_size: int = 4096) -> Database:
    """``open`` on a given file system."""
    kind = None if options.network else fs.network(os.path.dirname(path))
    if kind is not None:
        raise Error(
            f"{path} lies on {kind}, a network file system, where mappings and locks of machines may not agree; "
            "use a local disk, or pass network=True if only one machine ever opens it"
        )
    if flag == "n":
        attach.create(fs, path, page_size, options.timeout, replace=True)
    elif flag == "c" and not fs.exists(path):
        try:
            attach.create(fs, path, page_size, options.timeout, replace=False)
        except FileExistsError:
            pass  # another process was quicker; its store is the one
    return Database(attach.attach(fs, path, options), flag)


class Database(Keyspace):
    """A handle of a store.  Threads may share it; processes open their own, or inherit it by fork or pickle."""

    def __init__(self, session: Session, flag: str) -> None:
        super().__init__(self, b"")
        self.path = session.path
        self._flag = flag
        self._session: Session | None = session
        self._columns: ColumnReader | None = None
        self.reader = Reader(session)
        self.writer = Writer(session)
        self.transactions: weakref.WeakSet[Transaction] = weakref.WeakSet()
        forking.register(self)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        state = "closed" if self._session is None else f"flag {self._flag!r}"
        return f"<mmstore.Database {self.path!r}, {state}>"

    @property
    def session(self) -> Session:
        if self._session is None:
            raise ClosedError("this database is closed; open it again")
        return self._session

    @property
    def txn_id(self) -> int:
        """The newest published transaction's id, by anyone."""
        return self.session.live.txn

    # --- what is in it ------------------------------------------------------------------------------

    def keyspace(self, name: str) -> Keyspace:
        """A named mapping, made by the first write; one that was never written reads as empty."""
        return Keyspace(self, name_bytes(name))

    def keyspaces(self) -> list[str]:
        """Names of the keyspaces, sorted."""
        with self.snapshot() as snapshot:
            return snapshot.keyspaces()

    def tables(self) -> list[str]:
        """Names of the tables, sorted."""
        with self.snapshot() as snapshot:
            return snapshot.tables()

    def create_table(self, name: str, schema: Any, key: Any = None) -> Table:
        """Make a table.

        ``schema``: {column: type}, a structured dtype, or an Arrow schema; types are numpy's, "utf8", "binary",
        "category", "decimal128(15,2)", "date32", "timestamp[us, UTC]", "list(f8)" and the like, (type, n or shape), and
        ``mmstore.nullable(type)``.  ``key``: the column, or a tuple of those, by whose value a row is found.

        Raises SchemaError if the name is taken or a type can't be held.
        """
        with self.transaction() as txn:
            txn.create_table(name, schema, key)
        return self.table(name)

    def table(self, name: str) -> Table:
        """The table ``name``; KeyError if there is none."""
        from mmstore.database.table import Table

        data = name_bytes(name)
        if self.reader.read(lambda state: state.expect(data, fmt.ENTRY_TABLE)) is None:
            raise KeyError(name)
        return Table(self, data)

    def create_array(self, name: str, dtype: Any, shape: int | tuple[int, ...] = (0,)) -> Array:
        """Make an array of zeros that can grow along its first axis.  SchemaError as for tables."""
        with self.transaction() as txn:
            txn.create_array(name, dtype, shape)
        return self.array(name)

    def array(self, name: str) -> Array:
        """The array ``name``; KeyError if there is none."""
        from mmstore.database.arrays import Array

        data = name_bytes(name)
        if self.reader.read(lambda state: state.expect(data, fmt.ENTRY_ARRAY)) is None:
            raise KeyError(name)
        return Array(self, data)

    def arrays(self) -> list[str]:
        """Names of the arrays, sorted."""
        with self.snapshot() as snapshot:
            return snapshot.arrays()

    def drop(self, name: str) -> None:
        """Remove a keyspace, table or array in one transaction; KeyError if there is none."""
        with self.transaction() as txn:
            txn.drop(name)

    # --- transactions and snapshots -----------------------------------------------------------------

    def transaction(self, timeout: float | None = None) -> Transaction:
        """Begin a transaction; waits for other writers up to ``timeout`` seconds (default: the handle's).

        Raises LockTimeout, ReadOnlyError, TransactionError (this thread has one open), SyncError (poisoned).
        """
        session = self.session
        attach.require_writable(session)
        return Transaction(self, session.options.timeout if timeout is None else timeout)

    def put_one(self, key: bytes, value: bytes) -> None:
        """A transaction that sets one key of the store's own keyspace, without an object for it."""
        session = self.session
        attach.require_writable(session)
        write = commit.begin(session, self.writer, session.options.timeout)
        try:
            try:
                write.put(b"", key, value)
            except BaseException:
                commit.rollback(self.writer, write)
                raise
            commit.commit(session, self.writer, write)
        except BaseException:
            commit.let_go(self.writer, write)
            raise

    def snapshot(self) -> Snapshot:
        """Pin the newest committed state."""
        self.session  # noqa: B018 - raises if closed
        return Snapshot(self)

    def wait(self, txn_id: int | None = None, timeout: float | None = None) -> int:
        """Sleep until a commit newer than ``txn_id`` (default: the newest now) by anyone; returns the newest id.

        Returns it after ``timeout`` seconds, too, however old it is then.  Raises ClosedError.
        """
        return wait(self.session, txn_id, timeout)

    # --- upkeep -------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Make all commits durable that were made so far, by anyone."""
        session = self.session
        log = session.current_log()
        txn = session.live.txn
        if log is not None and not session.options.in_memory:
            session.sync(log.sync)
            session.live.set("synced", max(txn, session.live.get("synced")))

    def checkpoint(self) -> None:
        """Make the newest state durable in the file itself; log space and old pages become free."""
        attach.require_writable(self.session)
        checkpoint.checkpoint(self.session)

    def compact(self) -> int:
        """Compact each table and array, in one transaction; returns how many rows went.  See `TableWriter.compact`."""
        removed = 0
        with self.transaction() as txn:
            for name, entry in txn.check_open().names():  # a snapshot may not have yet what this builds on
                if entry.kind == fmt.ENTRY_TABLE:
                    removed += txn.table(name.decode()).compact()
                elif entry.kind == fmt.ENTRY_ARRAY:
                    txn.array(name.decode()).compact()
        return removed

    def stats(self) -> dict[str, Any]:
        """What the store and this handle use: see mmstore.database.stats."""
        return stats(self)

    def check(self) -> list[Problem]:
        """Prove that every page is in one place, and every checksum, tag and count right; [] if so.

        Works on a live store: it checks a snapshot.
        """
        with self.snapshot() as snapshot:
            return list(check(self.session, snapshot.state))

    def readers(self) -> list[ReaderInfo]:
        """The processes that pin something, and what; handles on a file that they may not write pin unseen."""
        session = self.session
        session.pins.drain()
        return readers(session.live, session.locks, session.pins.slot)

    def tracked(self, view: memoryview, txn: int) -> memoryview:
        """``view`` pinned to root ``txn`` for as long as it lives."""
        return tracked_view(view, self.pin_view(txn))

    def pin_view(self, txn: int) -> Callable[[], None]:
        """Pin the runs of root ``txn``; returns the release, which may be called anywhere."""
        return self.session.pins.pin_view(txn)

    @property
    def columns(self) -> ColumnReader:
        """Maps columns for this handle."""
        if self._columns is None:
            from mmstore.columns.reader import ColumnReader
            from mmstore.columns.sequence import Source

            self._columns = ColumnReader(
                self.session.store.mapped, Source(self.session.page_size, self.session.store.read)
            )
        return self._columns

    def close(self) -> None:
        """Leave the store.  Views stay valid; a second call does nothing.

        This thread's open transaction is rolled back.  Another thread's is waited for, up to the handle's timeout;
        then LockTimeout is raised and the handle stays open.
        """
        session = self._session
        if session is None:
            return
        for transaction in list(self.transactions):
            if transaction.thread == threading.get_ident():
                transaction.rollback()
        self.writer.shut(session.options.timeout)
        session, self._session = self._session, None
        if session is None:  # another thread was quicker
            return
        try:
            self.writer.finish()
        finally:
            self.reader.close()
            if self._columns is not None:
                self._columns.clear()
                self._columns = None
            forking.unregister(self)
            attach.detach(session)

    def __enter__(self) -> Database:
        self.session  # noqa: B018 - raises if closed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self.__dict__.get("_session") is not None:
            # A finalizer may run inside anything, so it can't close cleanly: the file is left as a crash leaves it.
            warnings.warn(f"unclosed {self!r}; close it, or use it as a context manager", ResourceWarning, stacklevel=2)

    # --- fork ---------------------------------------------------------------------------------------

    def adopt(self, backend: Backend, pins: Pins) -> None:
        """In a forked child: go on with a descriptor of its own."""
        for transaction in list(self.transactions):
            transaction.close_inherited()
        self.transactions = weakref.WeakSet()
        self.writer.disown()
        session = self._session = forking.inherited_session(self.session, backend, pins)
        self._columns = None
        self.reader.bind(session)
        self.writer = Writer(session)

    def disown(self) -> None:
        """In a forked child that got no descriptor: the handle is closed here."""
        self._session = None
        self.reader.close()

    # --- pickling -----------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        return forking.reduce(self, "r" if self._flag == "r" else "w")
