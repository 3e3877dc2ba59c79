"""A transaction under construction: the state that user code, recovery and takeover all build with.

It starts at a base root, works on private pages only (I1), and ends either in ``build()``, which places the
pages and returns the new root, or in ``abort()``, which leaves no trace.  Every change is also added to
``operations``, unless they outgrow the log.

Many puts into one keyspace are gathered after the first few, and entered together when there are enough or anything
else is asked of the transaction: in the order of their hashes each bucket is found once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmstore import format as fmt
from mmstore.catalog import tables
from mmstore.catalog.entry import Entry
from mmstore.engine.operations import Operations
from mmstore.engine.right import Right
from mmstore.engine.session import Session
from mmstore.engine.tables import TableChanges
from mmstore.kernels import packed
from mmstore.kernels.gathered import Gathered
from mmstore.keyspace.descriptor import IndexDescriptor
from mmstore.keyspace.index import Index
from mmstore.pages.root import Root

__all__ = ["WriteState"]

_SPARE = 8  # index objects that are kept for the next transaction
_SINGLE = 256  # puts that are entered one by one, before it pays to gather them
_GATHERED = 64 << 20  # bytes of memory that gathered ones take at most


@dataclass(slots=True)
class _Mark:
    work: Any
    operations: tuple[int, int]
    descriptors: dict[bytes, IndexDescriptor]
    entries: dict[bytes, Entry]
    dirty: set[bytes]
    catalog: IndexDescriptor
    next_id: int
    broken: BaseException | None


def _struck(error: BaseException) -> bool:
    """Whether an exception may come from anywhere (Ctrl-C, no memory), so that what it left may be halfway."""
    return isinstance(error, MemoryError) or not isinstance(error, Exception)


class WriteState(TableChanges):
    """One transaction's changes.  The caller holds the writer lock; ``limit`` bytes of operations are kept."""

    def __init__(self, session: Session, base: Root, txn: int, limit: int, right: Right | None = None) -> None:
        """``right``: by which its user builds; recovery needs none."""
        self.session = session
        self.right = right
        self.base = base
        self.txn = txn
        self.work = session.workspace
        session.follow(base)
        session.freelist.load(base)
        session.freelist.begin(txn)
        self.work.begin(txn)
        self.operations = Operations(limit)
        self.next_id = base.next_id
        self._only_deletes = True
        self.broken: BaseException | None = None
        """What a change failed of halfway; set, the transaction can't be committed."""
        self._struck: BaseException | None = None
        self._opened_catalog: Index | None = None
        self._indexes = {b"": self._open(IndexDescriptor.unpack(base.main))}
        self._entries = dict(session.known(base))
        self._dirty: set[bytes] = set()
        self._marks: list[_Mark] = []
        self.gathered = Gathered()

    def _open(self, desc: IndexDescriptor) -> Index:
        """An index object for ``desc``, one of an earlier transaction's if there is any: they are costly to make."""
        spare = self.session.spare_indexes
        if not spare:
            return Index(desc, self.work)
        index = spare.pop()
        index.desc = desc
        return index

    def _close(self) -> None:
        """The transaction is over."""
        self.work.reset()
        spare = self.session.spare_indexes
        spare += self._indexes.values()
        if self._opened_catalog is not None:
            spare.append(self._opened_catalog)
        del spare[_SPARE:]
        self._indexes.clear()

    @property
    def _catalog(self) -> Index:
        if self._opened_catalog is None:
            self._opened_catalog = self._open(IndexDescriptor.unpack(self.base.catalog))
        return self._opened_catalog

    # --- names --------------------------------------------------------------------------------------

    def entry(self, name: bytes) -> Entry | None:
        """The catalog entry of ``name`` as this transaction has it."""
        found = self._entries.get(name)
        if found is None:
            data = self._catalog.get(name)
            if data is not None:
                found = self._entries[name] = self._unpack(data)
        return found

    def _unpack(self, data: Any) -> Entry:
        return Entry.unpack(data, self.session.page_size, self.session.freelist.pages)

    def names(self) -> list[tuple[bytes, Entry]]:
        stored = {bytes(name): data for name, data in self._catalog.items()}
        return [(name, self._entries.get(name) or self._unpack(data)) for name, data in stored.items()]

    def create(self, name: bytes, entry: Entry) -> Entry:
        """Add ``entry`` (its id is given here) under a name that is free."""
        self._grows()
        entry = entry._replace(id=self.next_id)
        self.next_id += 1
        with self._changing():
            self.operations.add(fmt.OP_CREATE, name, b"", entry.pack())
            self._catalog.put(name, entry.pack())
            self._entries[name] = entry
        return entry

    def drop(self, name: bytes) -> None:
        """Remove ``name`` and free everything that it has."""
        entry = self.entry(name)
        assert entry is not None
        self.enter()
        self.gathered.start(None, 0)  # the next put makes the keyspace anew
        self._shrinks()
        with self._changing():
            self.operations.add(fmt.OP_DROP, name)
            index = self._indexes.pop(name, None)
            if index is None:
                index = self._open(entry.index)
            index.clear()
            tables.free(entry, self.space)
            self._entries.pop(name, None)
            self._dirty.discard(name)
            self._catalog.delete(name)

    def index(self, name: bytes, create: bool = False) -> Index | None:
        """The index of keyspace ``name``, made on first write if ``create``; None if there is none."""
        self.enter()
        found = self._indexes.get(name)
        if found is None:
            entry = self.entry(name)
            if entry is None:
                if not create:
                    return None
                entry = self.create(name, Entry.keyspace())
            found = self._indexes[name] = self._open(entry.index)
        return found

    def _grows(self) -> None:
        self._only_deletes = False
        self.session.freelist.spend_reserve = False

    def _shrinks(self) -> None:
        self.session.freelist.spend_reserve = self._only_deletes

    # --- changes ------------------------------------------------------------------------------------
    # A change that failed halfway (no room, no memory, Ctrl-C) leaves pages that contradict each other or the log;
    # the transaction can only be rolled back then, or to a savepoint from before.

    def _break(self, error: BaseException) -> None:
        if not isinstance(error, (TypeError, ValueError)):  # those come before anything is changed
            self.broken = error
        if _struck(error):
            self._struck = error  # anywhere: the free list itself may be halfway

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._break(error)
            raise

    @contextmanager
    def _taking(self) -> Iterator[None]:
        """Around what takes room and changes nothing else: where it fails, what it took belongs to nobody."""
        freelist = self.session.freelist
        try:
            mark = freelist.mark()
            try:
                yield
            except Exception:
                freelist.rollback(mark)
                raise
            freelist.release(mark)
        except BaseException as error:
            if _struck(error):
                self._break(error)
            raise

    def put(self, name: bytes, key: Any, value: Any) -> None:
        """Set ``key``, which is bytes of a length that a key may have, to ``value``, which is bytes."""
        gathered = self.gathered
        if gathered.name is not None:
            if gathered.take(name, key, value):
                return
            self.enter()
        index = self._indexes.get(name)
        if index is None:
            index = self.index(name, create=True)
            assert index is not None
        if self._only_deletes:
            self._grows()
        try:
            index.put(key, value)
            if self.operations.complete:
                self.operations.add(fmt.OP_PUT, name, key, value)
            else:
                self.operations.count += 1
            if name:
                self._dirty.add(name)
        except BaseException as error:
            self._break(error)
            raise
        if self.operations.count >= _SINGLE:
            gathered.start(name, _GATHERED)

    def enter(self) -> None:
        """Enter the puts that were gathered; raises what a put does."""
        records, name = self.gathered.records, self.gathered.name
        if records and name is not None:
            with self._changing():
                self.gathered.start(name, _GATHERED)
                self.put_many(name, records[::2], records[1::2])

    def put_many(self, name: bytes, keys: list[Any], values: list[Any]) -> int:
        if not keys:
            return 0  # nothing written makes no keyspace
        index = self.index(name, create=True)
        assert index is not None
        self._grows()
        with self._changing():
            new: int = index.put_many(keys, values)
            for key, value in zip(keys, values, strict=True):
                self.operations.add(fmt.OP_PUT, name, key, value)
                if not self.operations.complete:
                    break
            if name:
                self._dirty.add(name)
        return new

    def put_slices(self, name: bytes, keys: tuple[Any, Any], values: tuple[Any, Any]) -> int:
        """The same of keys and values that are each (bytes, n + 1 offsets), as int64."""
        pairs = packed.Pairs(*keys, *values)  # before a keyspace is made for them
        if not len(pairs):
            return 0
        index = self.index(name, create=True)
        assert index is not None
        self._grows()
        with self._changing():
            new: int = index.put_slices(pairs)
            self.operations.add_slices(fmt.OP_PUT, name, pairs.key_slices(), pairs.value_slices())
            if name:
                self._dirty.add(name)
        return new

    def delete(self, name: bytes, key: Any) -> bool:
        index = self.index(name)
        if index is None:
            return False
        self._shrinks()
        with self._changing():
            if not index.delete(key):
                return False
            self.operations.add(fmt.OP_DELETE, name, key)
            if name:
                self._dirty.add(name)
        return True

    def clear(self, name: bytes) -> None:
        index = self.index(name)
        if index is not None and index.count:
            self._shrinks()
            with self._changing():
                index.clear()
                self.operations.add(fmt.OP_CLEAR, name)
                if name:
                    self._dirty.add(name)

    # --- savepoints ---------------------------------------------------------------------------------

    def savepoint(self) -> _Mark:
        self.enter()
        with self._changing():
            return self._mark()

    def _mark(self) -> _Mark:
        mark = _Mark(
            self.work.savepoint(),
            self.operations.mark(),
            {name: index.desc for name, index in self._indexes.items()},
            self._entries.copy(),
            self._dirty.copy(),
            self._catalog.desc,
            self.next_id,
            self.broken,
        )
        self._marks.append(mark)
        return mark

    def rollback(self, mark: _Mark) -> None:
        """Undo everything since ``mark``."""
        with self._changing():
            self._roll_back(mark)

    def _roll_back(self, mark: _Mark) -> None:
        self._marks.pop()
        self.gathered.start(None, 0)
        self.session.words.clear()
        if self._struck is None:  # else it is all discarded in the end, and may be in no state to go back
            self.work.rollback(mark.work)
        self.operations.rollback(mark.operations)
        for name in [name for name in self._indexes if name not in mark.descriptors]:
            del self._indexes[name]
        for name, desc in mark.descriptors.items():
            if name in self._indexes:
                self._indexes[name].desc = desc
            else:
                self._indexes[name] = self._open(desc)
        self._entries = mark.entries
        self._dirty = mark.dirty
        self._catalog.desc = mark.catalog
        self.next_id = mark.next_id
        self.broken = mark.broken or self._struck

    def release(self, mark: _Mark) -> None:
        """Keep what was done since ``mark``."""
        with self._changing():
            self._marks.pop()
            self.work.release(mark.work)

    # --- the end ------------------------------------------------------------------------------------

    def known_as(self, root: Root) -> None:
        """What was built is `root`, as readers and the next transaction will meet it."""
        self.session.know(root, self._entries)

    @property
    def changed(self) -> bool:
        return self.operations.count > 0

    def _store_entries(self) -> None:
        """Put changed entries into the catalog, with the final numbers of their indexes' roots."""
        if not self._dirty:
            return
        self.work.assign(self.txn)
        for name in sorted(self._dirty):
            entry = self._entries[name]
            index = self._indexes.get(name)
            if index is not None:
                entry = self._entries[name] = entry._replace(index=index.sealed_desc())
            self._catalog.put(name, entry.pack())
        self._dirty.clear()

    def build(self) -> Root:
        """Place all private pages and return the root that refers to them; nobody else does yet."""
        self.enter()
        while self._marks:  # committed inside a savepoint's block
            self.release(self._marks[-1])
        self._store_entries()
        self.work.assign(self.txn)
        main = self._indexes[b""].sealed_desc().pack()
        opened = self._opened_catalog
        catalog = self.base.catalog if opened is None else opened.sealed_desc().pack()
        self.work.seal()
        free, delta = self.session.freelist.seal()
        self.work.place([delta])
        self._close()
        base, pages = self.base, self.session.freelist.pages
        return Root(self.txn, pages, base.log_position, base.log_chain, main, catalog, free, self.next_id)

    def abort(self) -> None:
        """Leave no trace."""
        if self._struck is not None:
            self.session.discard()
            return
        self.session.words.clear()
        self.session.freelist.abort()
        self._close()
