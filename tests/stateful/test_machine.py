"""The whole store against a dict and numpy arrays, driven by Hypothesis.

The model is what a user would expect: a dict for each keyspace, an array for each column.  Snapshots and
views are kept across whatever happens, and must show what they showed at first; two handles of one file see
each other's commits; a copy of the files taken at any moment opens with every commit (a killed process
leaves just that).  ``MMSTORE_STRESS=long`` runs far more and longer programs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import mmstore
from mmstore.database.database import Database
from mmstore.database.snapshot import Snapshot

LONG = os.environ.get("MMSTORE_STRESS") == "long"
EXAMPLES = 600 if LONG else 15 if mmstore.compiled() else 5
STEPS = 80 if LONG else 40

NAMES = ["", "users", "orders", "t0", "t1"]
TABLES = {"t0": {"x": "i8"}, "t1": {"a": "u1", "v": ("f4", 3), "when": "datetime64[us]"}}

# --- what is put ----------------------------------------------------------------------------------------

small_keys = st.integers(0, 300).map(lambda n: b"k%d" % n)
odd_keys = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([0, 1, 8, 255, 256, 1000, 5000, 65534, 65535]).map(lambda size: b"o" * size),
)
keys = st.one_of(small_keys, small_keys, odd_keys)


def value_of(size: int, fill: int) -> bytes:
    """Bytes in which every position and every fill differ from their neighbours."""
    return ((np.arange(size, dtype=np.uint32) * 2654435761 >> 13) + fill).astype(np.uint8).tobytes()


def values_near(page_size: int) -> st.SearchStrategy[bytes]:
    sizes = st.one_of(
        st.integers(0, 60),
        st.integers(0, 60),
        st.integers(0, 60),
        st.sampled_from([page_size // 4, page_size, 65535]).flatmap(lambda edge: st.integers(edge - 80, edge + 2)),
        st.integers(0, 3 * page_size),
        st.sampled_from([100_000, 300_000, 1_000_000, 3_000_000]),
    )
    return st.builds(value_of, sizes, st.integers(0, 255))


class State:
    """What is in the store: dicts by keyspace name, tables as {column: array}.  A value; changes copy."""

    def __init__(self) -> None:
        self.spaces: dict[str, dict[bytes, bytes]] = {"": {}}
        self.tables: dict[str, dict[str, np.ndarray]] = {}

    def copy(self) -> State:
        twin = State()
        twin.spaces = {name: dict(space) for name, space in self.spaces.items()}
        twin.tables = {name: dict(table) for name, table in self.tables.items()}
        return twin

    def kind(self, name: str) -> str | None:
        return "keyspace" if name in self.spaces else "table" if name in self.tables else None

    def keyspaces(self) -> list[str]:
        return sorted(name for name in self.spaces if name)


def same_state(source: Any, state: State) -> None:
    """``source``: a database, snapshot or, for its mappings, a transaction."""
    if not hasattr(source, "commit"):
        assert source.keyspaces() == state.keyspaces()
        assert source.tables() == sorted(state.tables)
    for name, space in state.spaces.items():
        mapping = source.keyspace(name) if name else source
        assert len(mapping) == len(space)
        assert dict(mapping) == space
    for name, table in state.tables.items():
        same_table(source.table(name), table)


def same_table(found: Any, table: dict[str, np.ndarray]) -> None:
    for column, expected in table.items():
        np.testing.assert_array_equal(found[column], expected)
        assert len(found) == len(expected)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mmstore-machine-"))
        self.path = self.folder / "data.mms"
        self.handles: list[Database] = []
        self.committed = State()
        self.stack: list[State] = []  # states of the open transaction, one more for each savepoint
        self.txn: Any = None
        self.savepoints: list[Any] = []
        self.snapshots: list[tuple[Snapshot, State]] = []
        self.views: list[tuple[memoryview, bytes]] = []
        self.columns: list[tuple[np.ndarray, np.ndarray]] = []
        self.copies = 0

    @initialize(page_size=st.sampled_from([4096, 16384, 65536]), durability=st.sampled_from(["full", "relaxed"]))
    def make(self, page_size: int, durability: str) -> None:
        self.page_size = page_size
        self.durability = durability
        self.open_one()

    def open_one(self) -> None:
        self.handles.append(mmstore.open(self.path, durability=self.durability, page_size=self.page_size, timeout=2))

    # --- where things go ------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.stack[-1] if self.txn is not None else self.committed

    def target(self, data: st.DataObject, name: str) -> Any:
        """The mapping to change: the transaction's if one is open, else some handle's."""
        source = self.txn if self.txn is not None else self.some_handle(data)
        return source.keyspace(name) if name else source

    def some_handle(self, data: st.DataObject) -> Database:
        return self.handles[data.draw(st.integers(0, len(self.handles) - 1), "handle")]

    # --- keys -----------------------------------------------------------------------------------------

    @rule(data=st.data(), name=st.sampled_from(NAMES), key=keys)
    def put(self, data: st.DataObject, name: str, key: bytes) -> None:
        value = data.draw(values_near(self.page_size), "value")
        if self.state.kind(name) == "table":
            with pytest.raises(TypeError, match="is a table"):
                self.target(data, name)[key] = value
            return
        self.target(data, name)[key] = value
        self.state.spaces.setdefault(name, {})[key] = value

    @rule(data=st.data(), name=st.sampled_from(NAMES), key=keys)
    def delete(self, data: st.DataObject, name: str, key: bytes) -> None:
        if self.state.kind(name) == "table":
            return
        mapping, space = self.target(data, name), self.state.spaces.get(name, {})
        if space and data.draw(st.booleans(), "one that is there"):
            key = data.draw(st.sampled_from(sorted(space)), "key")
        if key in space:
            del mapping[key]
            del space[key]
        else:
            with pytest.raises(KeyError):
                del mapping[key]

    @rule(data=st.data(), name=st.sampled_from(NAMES), keys=st.lists(keys, max_size=30), how=st.integers(0, 2))
    def change_many(self, data: st.DataObject, name: str, keys: list[bytes], how: int) -> None:
        if self.state.kind(name) == "table":
            return
        mapping, space = self.target(data, name), self.state.spaces.get(name, {})
        if how == 0:
            assert mapping.delete_many(keys) == len(space.keys() & set(keys))
            for key in keys:
                space.pop(key, None)
            return
        values = [value_of(len(key) * 3 % 200, number) for number, key in enumerate(keys)]
        if how == 1:
            mapping.update(zip(keys, values, strict=True))
        else:
            mapping.put_many(keys, values)
        if keys:
            self.state.spaces.setdefault(name, {}).update(zip(keys, values, strict=True))

    @rule(
        data=st.data(),
        name=st.sampled_from(NAMES),
        start=st.integers(0, 3000),
        count=st.integers(100, 3000),
        size=st.integers(0, 300),
        delete=st.booleans(),
    )
    def change_very_many(self, data: st.DataObject, name: str, start: int, count: int, size: int, delete: bool) -> None:
        """Splits and merges of buckets and nodes."""
        if self.state.kind(name) == "table":
            return
        mapping, space = self.target(data, name), self.state.spaces.get(name, {})
        numbers = np.arange(start, start + count)
        keys = [int(number).to_bytes(8, "little") for number in numbers]
        if delete:
            assert mapping.delete_many(numbers) == len(space.keys() & set(keys))
            for key in keys:
                space.pop(key, None)
        else:
            value = value_of(size, start)
            mapping.put_many(numbers, [value] * count)
            self.state.spaces.setdefault(name, {}).update(dict.fromkeys(keys, value))

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def clear(self, data: st.DataObject, name: str) -> None:
        if self.state.kind(name) == "table":
            return
        self.target(data, name).clear()
        self.state.spaces.get(name, {}).clear()

    @rule(data=st.data(), name=st.sampled_from(NAMES), keys=st.lists(keys, max_size=20))
    def read(self, data: st.DataObject, name: str, keys: list[bytes]) -> None:
        if self.state.kind(name) == "table":
            return
        mapping, space = self.target(data, name), self.state.spaces.get(name, {})
        keys += sorted(space)[:20]
        assert mapping.get_many(keys) == [space.get(key) for key in keys]
        for key in keys:
            assert (key in mapping) == (key in space) and mapping.get(key) == space.get(key)

    # --- names and tables -----------------------------------------------------------------------------

    @rule(data=st.data(), name=st.sampled_from(NAMES[1:]))
    def drop(self, data: st.DataObject, name: str) -> None:
        source = self.txn if self.txn is not None else self.some_handle(data)
        if self.state.kind(name) is None:
            with pytest.raises(KeyError):
                source.drop(name)
            return
        source.drop(name)
        self.state.spaces.pop(name, None)
        self.state.tables.pop(name, None)

    @rule(data=st.data(), name=st.sampled_from(["t0", "t1"]))
    def create_table(self, data: st.DataObject, name: str) -> None:
        source = self.txn if self.txn is not None else self.some_handle(data)
        if self.state.kind(name) is not None:
            with pytest.raises(mmstore.SchemaError, match="already"):
                source.create_table(name, TABLES[name])
            return
        table = source.create_table(name, TABLES[name])
        self.state.tables[name] = {column: np.array(table[column]) for column in table.columns}

    @rule(data=st.data(), name=st.sampled_from(["t0", "t1"]), rows=st.sampled_from([0, 1, 3, 100, 5000, 70_000]))
    def append(self, data: st.DataObject, name: str, rows: int) -> None:
        if self.state.kind(name) != "table":
            return
        source = self.txn if self.txn is not None else self.some_handle(data)
        table = self.state.tables[name]
        old = len(next(iter(table.values())))
        if old > 1_000_000:
            return
        added = {
            column: (np.arange(old, old + rows).reshape(-1, *(1,) * (array.ndim - 1)) + np.zeros(array.shape[1:], "i8"))
            .astype("u1" if array.dtype == np.uint8 else "i8")
            .astype(array.dtype)
            for column, array in table.items()
        }
        assert source.table(name).append(added) == range(old, old + rows)
        for column, array in table.items():
            table[column] = np.concatenate([array, added[column]])

    # --- transactions ---------------------------------------------------------------------------------

    @precondition(lambda self: self.txn is None)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.txn = self.some_handle(data).transaction()
        self.stack = [self.committed.copy()]

    @precondition(lambda self: self.txn is not None)
    @rule(data=st.data())
    def write_beside(self, data: st.DataObject) -> None:
        with pytest.raises(mmstore.TransactionError):
            self.some_handle(data)[b"beside"] = b""

    @precondition(lambda self: self.txn is not None)
    @rule()
    def commit(self) -> None:
        while self.savepoints:
            self.release()
        self.txn.commit()
        self.committed = self.stack[0]
        self.txn, self.stack = None, []

    @precondition(lambda self: self.txn is not None)
    @rule()
    def rollback(self) -> None:
        self.txn.rollback()
        self.txn, self.stack = None, []
        self.savepoints.clear()

    @precondition(lambda self: self.txn is not None and len(self.savepoints) < 4)
    @rule()
    def savepoint(self) -> None:
        entered = self.txn.savepoint()
        entered.__enter__()
        self.savepoints.append(entered)
        self.stack.append(self.state.copy())

    @precondition(lambda self: self.savepoints)
    @rule()
    def release(self) -> None:
        self.savepoints.pop().__exit__(None, None, None)
        self.stack[-2:] = self.stack[-1:]

    @precondition(lambda self: self.savepoints)
    @rule()
    def rollback_savepoint(self) -> None:
        error = ZeroDivisionError()
        with contextlib.suppress(ZeroDivisionError):
            assert not self.savepoints.pop().__exit__(ZeroDivisionError, error, None)
        self.stack.pop()

    # --- what is kept ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.snapshots) < 4)
    @rule(data=st.data())
    def take_snapshot(self, data: st.DataObject) -> None:
        self.snapshots.append((self.some_handle(data).snapshot(), self.committed.copy()))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def read_snapshot(self, data: st.DataObject) -> None:
        same_state(*data.draw(st.sampled_from(self.snapshots), "snapshot"))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def close_snapshot(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.snapshots) - 1), "snapshot")
        self.snapshots.pop(at)[0].close()

    @precondition(lambda self: len(self.views) < 12)
    @rule(data=st.data(), name=st.sampled_from(NAMES), source=st.integers(0, 2))
    def view(self, data: st.DataObject, name: str, source: int) -> None:
        if source == 2 and self.snapshots:
            viewed, state = data.draw(st.sampled_from(self.snapshots), "snapshot")
        elif source == 1 and self.txn is not None:
            viewed, state = self.txn, self.state
        else:
            viewed, state = self.some_handle(data), self.committed
        space = state.spaces.get(name)
        if space:
            largest = sorted(space, key=lambda key: (len(space[key]), key), reverse=True)[:20]
            key = data.draw(st.sampled_from(largest), "key")
            self.views.append(((viewed.keyspace(name) if name else viewed).view(key), space[key]))

    @precondition(lambda self: len(self.columns) < 12)
    @rule(data=st.data(), name=st.sampled_from(["t0", "t1"]), source=st.integers(0, 2))
    def view_columns(self, data: st.DataObject, name: str, source: int) -> None:
        viewed, state = self.some_handle(data), self.committed
        if source == 2 and self.snapshots:
            viewed, state = data.draw(st.sampled_from(self.snapshots), "snapshot")
        elif source == 1 and self.txn is not None:
            viewed, state = self.txn, self.state
        if name in state.tables:
            table = viewed.table(name)
            self.columns += [(table[column], array) for column, array in state.tables[name].items()]

    @precondition(lambda self: self.views or self.columns)
    @rule(every=st.integers(1, 3))
    def drop_views(self, every: int) -> None:
        del self.views[::every], self.columns[::every]

    @invariant()
    def views_show_what_they_showed(self) -> None:
        for view, value in self.views:
            assert view == value and view.readonly
        for column, expected in self.columns:
            np.testing.assert_array_equal(column, expected)

    @rule(data=st.data())
    def all_is_there(self, data: st.DataObject) -> None:
        handle = self.some_handle(data)
        same_state(handle, self.committed)
        if self.txn is not None:
            same_state(self.txn, self.state)
        assert handle.check() == []

    # --- the file -------------------------------------------------------------------------------------

    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        self.some_handle(data).checkpoint()

    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        self.some_handle(data).sync()

    @precondition(lambda self: len(self.handles) < 2)
    @rule()
    def open_another(self) -> None:
        self.open_one()

    def forget(self, handle: Database) -> None:
        """What goes with a handle that ends."""
        if self.txn is not None and self.txn._database is handle:
            self.txn, self.stack = None, []
            self.savepoints.clear()
        for snapshot, _ in [kept for kept in self.snapshots if kept[0]._database is handle]:
            snapshot.close()
        self.snapshots = [kept for kept in self.snapshots if kept[0]._database is not handle]

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        handle = self.some_handle(data)
        handle.close()
        self.forget(handle)
        self.handles.remove(handle)
        if not self.handles:
            if not self.views and not self.columns:
                gc.collect()
                assert os.listdir(self.folder) == ["data.mms"]
            self.open_one()

    @rule()
    def crash_copy(self) -> None:
        """What a killed process would leave opens with every commit."""
        self.copies += 1
        copy = self.folder / f"copy{self.copies}.mms"
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
        with mmstore.open(copy, "w") as recovered:
            same_state(recovered, self.committed)
            assert recovered.check() == []
            recovered[b"after"] = b"recovery"
        with mmstore.open(copy, "r") as again:
            assert again[b"after"] == b"recovery" and again.check() == []
        os.unlink(copy)

    @precondition(lambda self: self.txn is None)
    @rule()
    def abandon(self) -> None:
        """All handles vanish without a close; only views stay."""
        for handle in self.handles:
            self.forget(handle)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.handles.clear()
            del handle
            gc.collect()
        self.open_one()
        same_state(self.handles[0], self.committed)

    def teardown(self) -> None:
        try:
            if self.txn is not None:
                self.rollback()
            if self.handles:
                same_state(self.handles[0], self.committed)
                assert self.handles[0].check() == []
        finally:
            for snapshot, _ in self.snapshots:
                snapshot.close()
            for handle in self.handles:
                handle.close()
            self.views_show_what_they_showed()
            self.views.clear()
            self.columns.clear()
            shutil.rmtree(self.folder)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
