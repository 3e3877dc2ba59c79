"""Snapshots: one unchanging state of everything, which blocks no writer and is blocked by none."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from mmstore import format as fmt
from mmstore.columns.reader import VERIFY_LIMIT
from mmstore.database.keys import check_key, name_bytes
from mmstore.database.mapping import SnapshotKeyspace
from mmstore.database.reader import State
from mmstore.errors import ClosedError

if TYPE_CHECKING:
    from mmstore.database.arrays import Array
    from mmstore.database.database import Database
    from mmstore.database.table import Table

__all__ = ["Snapshot"]


class Snapshot(SnapshotKeyspace):
    """A pinned root; itself the store's own keyspace.  Close it, or use it as a context manager."""

    def __init__(self, database: Database) -> None:
        self._name = b""
        self._database = database
        self._pins = database.session.pins
        root = self._pins.pin_snapshot(self)
        self._state: State | None = State(database.session, root, pinned=True)
        self._txn = root.txn

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def _snapshot(self) -> Snapshot:  # type: ignore[override]  # no reference to itself: it goes when dropped
        return self

    @property
    def state(self) -> State:
        if self._state is None:
            raise ClosedError("this snapshot is closed; take another one")
        self._database.session  # noqa: B018 - raises if closed
        return self._state

    def check_open(self) -> None:
        """Raise ClosedError if it, or its database, is closed."""
        self.state  # noqa: B018

    @property
    def txn_id(self) -> int:
        """The id of the transaction whose state this is."""
        return self._txn

    def keyspace(self, name: str) -> SnapshotKeyspace:
        """The named mapping; one that was never written is empty."""
        return SnapshotKeyspace(self, name_bytes(name))

    def keyspaces(self) -> list[str]:
        """Names of the keyspaces, sorted."""
        return [name for name, entry in self.state.names() if entry.kind == fmt.ENTRY_KEYSPACE]

    def tables(self) -> list[str]:
        """Names of the tables, sorted."""
        return [name for name, entry in self.state.names() if entry.kind == fmt.ENTRY_TABLE]

    def table(self, name: str) -> Table:
        """The table ``name``; KeyError if there is none."""
        from mmstore.database.table import Table

        if self.state.expect(name_bytes(name), fmt.ENTRY_TABLE) is None:
            raise KeyError(name)
        return Table(self._database, name_bytes(name), self)

    def arrays(self) -> list[str]:
        """Names of the arrays, sorted."""
        return [name for name, entry in self.state.names() if entry.kind == fmt.ENTRY_ARRAY]

    def array(self, name: str) -> Array:
        """The array ``name``; KeyError if there is none."""
        from mmstore.database.arrays import Array

        if self.state.expect(name_bytes(name), fmt.ENTRY_ARRAY) is None:
            raise KeyError(name)
        return Array(self._database, name_bytes(name), self)

    def view_in(self, name: bytes, key: Any) -> memoryview:
        """A view of the value of ``key`` in keyspace ``name``; up to VERIFY_LIMIT bytes are checked first."""
        tree = self.state.tree(name)
        found = None if tree is None else tree.locate(check_key(key))
        if tree is None or found is None:
            raise KeyError(key)
        offset, size, is_run = found
        store = self._database.session.store
        view = store.mapping.buffer(offset, size)
        if not is_run or not size:
            return memoryview(bytes(view))
        page = offset // store.page_size
        if size <= VERIFY_LIMIT and not store.verified[page >> 3] >> (page & 7) & 1:
            tree.get(key)  # compares the run with its checksum; once, as for an index page
            store.verified[page >> 3] |= 1 << (page & 7)
        return self._database.tracked(view, self._txn)

    def close(self) -> None:
        """Let go of the state; a second call does nothing."""
        if self._state is not None:
            self._state = None
            self._pins.release_snapshot(self, self._txn)

    def __enter__(self) -> Snapshot:
        self.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
