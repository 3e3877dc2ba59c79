"""Reading committed state: a root with its indexes, and how long it stands without a pin.

A ``State`` is one root as readers use it.  It never changes, so threads may share it.  A ``Reader`` gives the
newest one; what was read from it without a pin stands if the published txn id has moved by at most GRACE
since, because no index page freed by a later root is used again before that (see pages.freelist).  Value runs
have no such grace, so a state without a pin refuses to load a large value (``PinNeeded``).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from mmstore import format as fmt
from mmstore.catalog.entry import KIND_NAMES, Entry
from mmstore.disk.storefile import StoreFile
from mmstore.engine.session import Session
from mmstore.errors import ClosedError, CorruptError
from mmstore.kernels.atomics import load_acquire
from mmstore.kernels.latest import Latest, PinNeeded
from mmstore.kernels.tree import Tree
from mmstore.keyspace import values
from mmstore.keyspace.descriptor import IndexDescriptor
from mmstore.pages.root import Root

__all__ = ["PinNeeded", "Reader", "State"]

T = TypeVar("T")
_TXN = fmt.LIVE.offset["txn"]
_TRIES = 4
_READ_AHEAD = 1 << 17  # bytes of a value from which on it is read in large pieces
_CLOSED = "this database is closed; open it again"


def _load(store: StoreFile, record: bytes) -> bytes:
    """The value of a large record."""
    large = values.Large.unpack(record)
    if large.value_size >= _READ_AHEAD:
        store.will_need(large.page * store.page_size, large.pages * store.page_size)
    return values.read(store.mem, store.page_size, record)


def _refuse(*_: object) -> bytes:
    raise PinNeeded


class _Passing:
    """Owns a pin for the length of a call."""


class State:
    """One root: ``tree(name)`` for a keyspace's index, ``entry(name)`` for a catalog entry."""

    __slots__ = ("_catalog", "_entries", "_load", "_session", "_trees", "main", "root", "txn")

    def __init__(self, session: Session, root: Root, pinned: bool) -> None:
        self._session = session
        self._load = partial(_load, session.store) if pinned else _refuse
        self.root = root
        self.txn = root.txn
        self.main = self.open(IndexDescriptor.unpack(root.main))
        self._catalog: Tree | None = None
        self._trees: dict[bytes, Tree | None] = {b"": self.main}
        self._entries: dict[bytes, Entry | None] = dict(session.known(root))

    def open(self, desc: IndexDescriptor) -> Tree:
        """The index that an entry of this state describes."""
        session = self._session
        tree = Tree(session.page_size, session.identity.seed)
        tree.attach(session.store.mem, session.store.verified, self._load)
        tree.set_root(desc.root, desc.height, desc.depth, self.root.pages)
        return tree

    @property
    def catalog(self) -> Tree:
        if self._catalog is None:
            self._catalog = self.open(IndexDescriptor.unpack(self.root.catalog))
        return self._catalog

    def entry(self, name: bytes) -> Entry | None:
        """The catalog entry of ``name``."""
        try:
            return self._entries[name]
        except KeyError:
            data = self.catalog.get(name)
            entry = self._entries[name] = None if data is None else self._unpack(data)
            return entry

    def _unpack(self, data: bytes) -> Entry:
        return Entry.unpack(data, self._session.page_size, self.root.pages)

    def expect(self, name: bytes, kind: int) -> Entry | None:
        """The entry of ``name`` if it is of this ``kind``; TypeError if it is of another."""
        entry = self.entry(name)
        if entry is not None and entry.kind != kind:
            raise TypeError(
                f"{name.decode()!r} is a {entry.kind_name}, not a {KIND_NAMES[kind]}; use another name, "
                f"or db.{entry.kind_name}({name.decode()!r})"
            )
        return entry

    def tree(self, name: bytes) -> Tree | None:
        """The index of keyspace ``name``; None if it has not been written yet."""
        try:
            return self._trees[name]
        except KeyError:
            entry = self.expect(name, fmt.ENTRY_KEYSPACE)
            tree = self._trees[name] = None if entry is None else self.open(entry.index)
            return tree

    def descriptor(self, name: bytes) -> IndexDescriptor | None:
        """The index descriptor of keyspace ``name``."""
        if not name:
            return IndexDescriptor.unpack(self.root.main)
        entry = self.expect(name, fmt.ENTRY_KEYSPACE)
        return None if entry is None else entry.index

    def names(self) -> list[tuple[str, Entry]]:
        """All names with their entries, sorted."""
        try:
            found = [(bytes(name).decode(), self._unpack(data)) for name, data in self.catalog.items()]
        except UnicodeDecodeError as error:
            raise CorruptError(
                f"the catalog has a name that is not UTF-8 ({error.object!r}); run check(), restore a backup"
            ) from None
        return sorted(found, key=lambda item: item[0])


class Reader:
    """The newest committed state, for one handle."""

    def __init__(self, session: Session) -> None:
        self._latest: weakref.WeakSet[Latest] = weakref.WeakSet()
        self.bind(session)

    def bind(self, session: Session) -> None:
        """Read from this session from now on."""
        self._session: Session | None = session
        self._live = session.live.memory
        self._state = State(session, session.published(), pinned=False)
        for latest in self._latest:
            latest.bind(self._live[_TXN : _TXN + 8])

    def close(self) -> None:
        self._session = None
        for latest in self._latest:
            latest.bind(memoryview(bytes(8)))
            latest.txn = fmt.FOREVER  # never the newest: it must refresh, which raises

    def latest(self, name: bytes) -> Latest:
        """Reads of keyspace ``name`` in one call each."""

        def refresh() -> None:
            state, before = self.current(), latest.tree
            latest.tree = state.tree(name)
            latest.txn = state.txn  # nothing may come between, and `before` could: its end runs finalizers
            del before

        def otherwise(key: Any) -> bytes | None:
            return self.read(lambda state: None if (tree := state.tree(name)) is None else tree.get(key))

        latest = Latest(fmt.GRACE, refresh, otherwise)
        latest.bind(self._live[_TXN : _TXN + 8])
        self._latest.add(latest)
        return latest

    def current(self) -> State:
        """The newest state, without a pin: check with ``stands`` after use."""
        state, session = self._state, self._session
        if session is None:
            raise ClosedError(_CLOSED)
        if load_acquire(self._live, _TXN) != state.txn:
            try:
                state = self._state = State(session, session.published(), pinned=False)
            except Exception:
                if self._session is None:  # closed by another thread just now
                    raise ClosedError(_CLOSED) from None
                raise
        return state

    def stands(self, state: State) -> bool:
        """Whether what was read from ``state`` until now is what its root says."""
        return load_acquire(self._live, _TXN) - state.txn <= fmt.GRACE

    def read(self, how: Callable[[State], T]) -> T:
        """``how(state)`` on the newest state: with a pin only if it needs one, or when writers are too quick.

        ``how`` must return no view of the file.
        """
        for _ in range(_TRIES):
            state = self.current()
            try:
                result = how(state)
            except PinNeeded:
                break
            except Exception:  # what a recycled page says is as wrong as what it holds
                if self._session is None:
                    raise ClosedError(_CLOSED) from None
                if self.stands(state):
                    raise
                continue
            if self.stands(state):
                return result
        with self.pinned() as state:
            return how(state)

    @contextmanager
    def pinned(self) -> Iterator[State]:
        """A state that is pinned as long as the context lasts."""
        session = self._session
        if session is None:
            raise ClosedError(_CLOSED)
        owner = _Passing()
        root = session.pins.pin_snapshot(owner, passing=True)
        try:
            yield State(session, root, pinned=True)
        finally:
            session.pins.release_snapshot(owner, root.txn)
