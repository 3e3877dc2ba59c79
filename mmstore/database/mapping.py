"""Keyspaces as users hold them: committed, in a snapshot, in a transaction.

All three read alike, so ``ReadKeyspace`` has every reading method and asks its subclass only how to reach an
index.  ``Keyspace`` adds writing, one transaction a call; ``TransactionKeyspace`` writes into its own.
"""

from __future__ import annotations

import math
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from mmstore.database.keys import check_key, check_value, key_list, packed_keys, pairs_of, value_list
from mmstore.kernels.latest import Latest

if TYPE_CHECKING:
    from mmstore.database.database import Database
    from mmstore.database.snapshot import Snapshot
    from mmstore.database.transaction import Transaction

__all__ = ["Keyspace", "SnapshotKeyspace", "TransactionKeyspace"]

T = TypeVar("T")
_MISSING: Any = object()


class _Items(ItemsView[bytes, bytes]):
    """Items read along the index, so all of one state; the base class would look each key up in the newest."""

    _mapping: ReadKeyspace

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._mapping._items()


class _Values(ValuesView[bytes]):
    """Values, likewise."""

    _mapping: ReadKeyspace

    def __iter__(self) -> Iterator[bytes]:
        return (value for _, value in self._mapping._items())

    def __contains__(self, value: object) -> bool:
        return any(value == other for other in self)


class ReadKeyspace(Mapping[bytes, bytes]):
    """What can be read.  Iteration is in the order of the keys' hashes."""

    def _get(self, key: Any) -> bytes | None:
        raise NotImplementedError

    def _get_many(self, keys: list[Any]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def _gather(self, data: bytes, offsets: Any, out: Any, size: int, found: Any) -> None:
        """As ``Tree.gather``, into zeros."""
        raise NotImplementedError

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        raise NotImplementedError

    def __getitem__(self, key: Any) -> bytes:
        value = self._get(key)
        if value is None:
            raise KeyError(key)
        return value

    @overload
    def get(self, key: Any) -> bytes | None: ...
    @overload
    def get(self, key: Any, default: T) -> bytes | T: ...
    def get(self, key: Any, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        value = self._get(key)
        return default if value is None else value

    def _has(self, key: Any) -> bool:
        raise NotImplementedError

    def __contains__(self, key: object) -> bool:
        return self._has(key)

    def __iter__(self) -> Iterator[bytes]:
        return (key for key, _ in self._items())

    def items(self) -> ItemsView[bytes, bytes]:
        """(key, value) of all records; each iteration is over one state."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """All values; each iteration is over one state."""
        return _Values(self)

    def get_many(self, keys: Any) -> list[bytes | None]:
        """The values of many keys, None where missing, all from one state.

        ``keys``: a sequence of bytes, or a numpy array of S, V, int64 or uint64.
        """
        return self._get_many(key_list(keys))

    def get_array(
        self, keys: Any, dtype: npt.DTypeLike, shape: tuple[int, ...] = ()
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Gather fixed-size values: (array of (len(keys), *shape), bool array of what was found).

        Rows of missing keys are zero.  Raises ValueError when a value has another size.
        """
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"expected a dtype of fixed size, found {kind}; use get_many")
        size = kind.itemsize * math.prod(shape)
        data, offsets = packed_keys(keys)
        n = len(offsets) - 1
        room, found = np.zeros(n * size, np.uint8), np.zeros(n, np.bool_)
        self._gather(data, offsets, room, size, found)
        return np.ndarray((n, *shape), kind, room), found


class SnapshotKeyspace(ReadKeyspace):
    """A keyspace as a snapshot has it; it never changes."""

    def __init__(self, snapshot: Snapshot, name: bytes) -> None:
        self._snapshot = snapshot
        self._name = name

    def _get(self, key: Any) -> bytes | None:
        tree = self._snapshot.state.tree(self._name)
        return None if tree is None else tree.get(check_key(key))

    def _has(self, key: Any) -> bool:
        tree = self._snapshot.state.tree(self._name)
        return tree is not None and tree.contains(check_key(key))

    def _get_many(self, keys: list[Any]) -> list[bytes | None]:
        tree = self._snapshot.state.tree(self._name)
        return [None] * len(keys) if tree is None else tree.get_many(keys)

    def _gather(self, data: bytes, offsets: Any, out: Any, size: int, found: Any) -> None:
        tree = self._snapshot.state.tree(self._name)
        if tree is not None:
            tree.gather(data, offsets, out, size, found)

    def __len__(self) -> int:
        desc = self._snapshot.state.descriptor(self._name)
        return 0 if desc is None else desc.count

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        tree = self._snapshot.state.tree(self._name)
        if tree is not None:
            for item in tree.items():
                self._snapshot.check_open()
                yield item

    def view(self, key: Any) -> memoryview:
        """The value of ``key``, read-only; a large one without a copy.  It stays valid beyond the snapshot."""
        return self._snapshot.view_in(self._name, key)


class Keyspace(ReadKeyspace, MutableMapping[bytes, bytes]):
    """A named mapping of the database (or its own), as committed.

    Each writing call is one transaction; each reading call sees one committed state, without a lock.
    """

    def __init__(self, database: Database, name: bytes) -> None:
        self._database = database
        self._name = name

    @cached_property
    def _latest(self) -> Latest:
        latest = self._database.reader.latest(self._name)
        self.__dict__["get"] = latest.get  # the same as the method of this name, in one call
        return latest

    def __repr__(self) -> str:
        return f"<mmstore.Keyspace {self._name.decode()!r} of {self._database.path!r}>"

    # --- reading ------------------------------------------------------------------------------------

    def _get(self, key: Any) -> bytes | None:
        return self._latest.get(key)  # type: ignore[no-any-return]

    def _has(self, key: Any) -> bool:
        return self._latest.contains(key)

    def _get_many(self, keys: list[Any]) -> list[bytes | None]:
        with self._database.reader.pinned() as state:
            tree = state.tree(self._name)
            return [None] * len(keys) if tree is None else tree.get_many(keys)

    def _gather(self, data: bytes, offsets: Any, out: Any, size: int, found: Any) -> None:
        with self._database.reader.pinned() as state:
            tree = state.tree(self._name)
            if tree is not None:
                tree.gather(data, offsets, out, size, found)

    def __len__(self) -> int:
        desc = self._database.reader.read(lambda state: state.descriptor(self._name))
        return 0 if desc is None else desc.count

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        # Dropped halfway, maybe in a finalizer where nothing may be locked, the snapshot isn't closed but dropped, too.
        snapshot = self._database.snapshot()
        tree = snapshot.state.tree(self._name)
        if tree is not None:
            yield from tree.items()
        snapshot.close()

    def view(self, key: Any) -> memoryview:
        """The value of ``key``, read-only; a large one without a copy.

        It stays valid and unchanged as long as it lives, whatever is committed meanwhile.
        """
        with self._database.snapshot() as snapshot:
            return snapshot.view_in(self._name, key)

    # --- writing ------------------------------------------------------------------------------------

    def put(self, key: Any, value: Any) -> None:
        """Set ``key`` to ``value`` in one transaction."""
        key, value = check_key(key), check_value(value)
        if not self._name:
            self._database.put_one(key, value)
            return
        with self._database.transaction() as txn:
            txn.mapping(self._name).put(key, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: Any) -> None:
        key = check_key(key)
        with self._database.transaction() as txn:
            del txn.mapping(self._name)[key]

    def pop(self, key: Any, default: Any = _MISSING) -> Any:
        """Remove ``key`` and return its value, or ``default``; KeyError without one."""
        key = check_key(key)
        with self._database.transaction() as txn:
            mapping = txn.mapping(self._name)
            return mapping.pop(key) if default is _MISSING else mapping.pop(key, default)

    def popitem(self) -> tuple[bytes, bytes]:
        """Remove and return some item; KeyError when empty."""
        with self._database.transaction() as txn:
            return txn.mapping(self._name).popitem()

    def setdefault(self, key: Any, default: Any = b"") -> bytes:
        """The value of ``key``, set to ``default`` first if missing."""
        found = self._get(key)
        if found is not None:
            return found
        with self._database.transaction() as txn:
            return txn.mapping(self._name).setdefault(key, default)

    def clear(self) -> None:
        """Remove everything in one transaction."""
        with self._database.transaction() as txn:
            txn.mapping(self._name).clear()

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set all of ``other`` (a mapping or pairs) in one transaction."""
        if more:
            raise TypeError("keys are bytes, which keyword arguments can't be; pass a dict")
        with self._database.transaction() as txn:
            txn.mapping(self._name).update(other)

    def put_many(self, keys: Any, values: Any) -> None:
        """Set many keys in one transaction; of a key given twice the last value counts."""
        keys, values = key_list(keys), value_list(values)
        pairs_of(keys, values)
        with self._database.transaction() as txn:
            txn.mapping(self._name).put_many(keys, values)

    def delete_many(self, keys: Any) -> int:
        """Remove many keys in one transaction; returns how many there were."""
        keys = key_list(keys)
        with self._database.transaction() as txn:
            return txn.mapping(self._name).delete_many(keys)


class TransactionKeyspace(ReadKeyspace, MutableMapping[bytes, bytes]):
    """A keyspace as its transaction has it: one's own writes included.

    Changing it while iterating over it is a RuntimeError, as with dict.
    """

    def __init__(self, transaction: Transaction, name: bytes) -> None:
        self._transaction = transaction
        self._name = name

    def _get(self, key: Any) -> bytes | None:
        index = self._transaction.index(self._name)
        return None if index is None else index.get(check_key(key))

    def _has(self, key: Any) -> bool:
        index = self._transaction.index(self._name)
        return index is not None and index.contains(check_key(key))

    def _gather(self, data: bytes, offsets: Any, out: Any, size: int, found: Any) -> None:
        index = self._transaction.index(self._name)
        if index is not None:
            index.gather(data, offsets, out, size, found)

    def __len__(self) -> int:
        index = self._transaction.index(self._name)
        return 0 if index is None else index.count

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        index = self._transaction.index(self._name)
        if index is not None:
            for item in index.items():
                yield item
                self._transaction.check_open().enter()  # what was put meanwhile changes the index

    def view(self, key: Any) -> memoryview:
        """The value of ``key``, read-only; inside a transaction it is over a copy."""
        return memoryview(self[key])

    def put(self, key: Any, value: Any) -> None:
        """Set ``key`` to ``value``."""
        key, value = check_key(key), check_value(value)
        self._transaction.changing(self._name).put(self._name, key, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: Any) -> None:
        key = check_key(key)
        if not self._transaction.changing(self._name).delete(self._name, key):
            raise KeyError(key)

    def clear(self) -> None:
        self._transaction.changing(self._name).clear(self._name)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set all of ``other``, a mapping or pairs."""
        if more:
            raise TypeError("keys are bytes, which keyword arguments can't be; pass a dict")
        pairs: Iterable[tuple[Any, Any]]
        if isinstance(other, Mapping):
            pairs = other.items()
        elif hasattr(other, "keys"):
            pairs = ((key, other[key]) for key in other.keys())
        else:
            pairs = other
        for key, value in pairs:
            self.put(key, value)

    def put_many(self, keys: Any, values: Any) -> None:
        """Set many keys; of a key given twice the last value counts."""
        keys, values = key_list(keys), value_list(values)
        pairs_of(keys, values)
        self._transaction.changing(self._name).put_many(self._name, keys, values)

    def put_slices(self, keys: tuple[Any, Any], values: tuple[Any, Any]) -> int:
        """The same without an object for each; returns how many keys are new.

        keys, values: each a pair of uint8 and n + 1 int64, where item i is ``data[offsets[i]:offsets[i + 1]]``; nobody
        may change them meanwhile.

        Raises ValueError where an offset or the length of a key is wrong.
        """
        return self._transaction.changing(self._name).put_slices(self._name, keys, values)

    def delete_many(self, keys: Any) -> int:
        """Remove many keys; returns how many there were."""
        write = self._transaction.changing(self._name)
        return sum(write.delete(self._name, key) for key in key_list(keys))
