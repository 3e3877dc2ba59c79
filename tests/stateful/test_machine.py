"""The whole store against dicts, lists and numpy arrays, driven by Hypothesis.

The model is what a user would expect: a dict for each keyspace, an array for each column of numbers, a list of rows for
a table with a key, text and missing values.  Snapshots and
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
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import mmstore
from mmstore.database.database import Database
from mmstore.database.snapshot import Snapshot
from mmstore.exchange.view import ColumnView

LONG = os.environ.get("MMSTORE_STRESS") == "long"
EXAMPLES = 600 if LONG else 15 if mmstore.compiled() else 5
STEPS = 80 if LONG else 40

NAMES = ["", "users", "orders", "t0", "t1", "rich", "array"]
TABLES = {"t0": {"x": "i8"}, "t1": {"a": "u1", "v": ("f4", 3), "when": "datetime64[us]"}}

RICH = {"k": "i8", "s": mmstore.nullable("utf8"), "x": "f8", "c": "category"}
FURTHER: dict[str, tuple[Any, Any]] = {  # columns that come and go: type, fill
    "n": (mmstore.nullable("i2"), None),
    "l": ("list(i4)", [1, 2]),
    "b": ("binary", b"fill"),
}


class Rich(NamedTuple):
    """A table with the key k: its columns, and its rows, None where one is deleted.  A value; changes give another."""

    names: tuple[str, ...] = tuple(RICH)
    rows: tuple[dict[str, Any] | None, ...] = ()

    @property
    def places(self) -> dict[int, int]:
        """Row numbers by key."""
        return {row["k"]: at for at, row in enumerate(self.rows) if row is not None}

    @property
    def live(self) -> list[int]:
        return list(self.places.values())

    def changed(self, at: int, values: dict[str, Any] | None) -> Rich:
        """With other values in a row, or without it."""
        row = self.rows[at]
        new = None if values is None or row is None else {**row, **values}
        return self._replace(rows=(*self.rows[:at], new, *self.rows[at + 1 :]))


def rich_row(names: tuple[str, ...], key: int, salt: int) -> dict[str, Any]:
    """Values for a key that differ with `salt`."""
    row: dict[str, Any] = {
        "k": key,
        "s": None if (key + salt) % 4 == 0 else f"{salt}é" * (key % 5),
        "x": key / 4 + salt,
        "c": f"word {(key * 7 + salt) % 13}",
        "n": None if salt % 2 else key,
        "l": [salt] * (key % 3),
        "b": bytes([salt % 256]) * (key % 4),
    }
    return {name: row[name] for name in names}


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without numpy's types."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}


def same_rich(found: Any, table: Rich) -> None:
    """Every way of reading shows the model's rows."""
    rows = [row for row in table.rows if row is not None]
    assert found.columns == table.names and len(found) == len(table.rows) and found.live_rows == len(rows)
    assert [plain(row) for batch in found.scan(batch_rows=100) for row in batch.tolist()] == rows
    keys = [*range(-3, 40), *(row["k"] for row in rows)]
    places = table.places
    assert found.find(keys).tolist() == [places.get(key, -1) for key in keys]
    some = [row["k"] for row in rows if row["s"] is not None and row["x"] > 5]
    assert [
        k for batch in found.scan(["k"], [("s", "is not null"), ("x", ">", 5)]) for k in batch["k"].tolist()
    ] == some


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
    """What is in the store: dicts by keyspace name, tables as {column: array} or `Rich`.  A value; changes copy."""

    def __init__(self) -> None:
        self.spaces: dict[str, dict[bytes, bytes]] = {"": {}}
        self.tables: dict[str, dict[str, np.ndarray]] = {}
        self.rich: Rich | None = None
        self.array: np.ndarray | None = None

    def copy(self) -> State:
        twin = State()
        twin.spaces = {name: dict(space) for name, space in self.spaces.items()}
        twin.tables = {name: dict(table) for name, table in self.tables.items()}
        twin.rich, twin.array = self.rich, self.array
        return twin

    def kind(self, name: str) -> str | None:
        if name == "array":
            return None if self.array is None else "array"
        if name == "rich":
            return None if self.rich is None else "table"
        return "keyspace" if name in self.spaces else "table" if name in self.tables else None

    def keyspaces(self) -> list[str]:
        return sorted(name for name in self.spaces if name)


def same_state(source: Any, state: State) -> None:
    """``source``: a database, snapshot or, for its mappings, a transaction."""
    if not hasattr(source, "commit"):
        assert source.keyspaces() == state.keyspaces()
        assert source.tables() == sorted([*state.tables, *(["rich"] if state.rich is not None else [])])
        assert source.arrays() == (["array"] if state.array is not None else [])
    for name, space in state.spaces.items():
        mapping = source.keyspace(name) if name else source
        assert len(mapping) == len(space)
        assert dict(mapping) == space
    for name, table in state.tables.items():
        same_table(source.table(name), table)
    if state.rich is not None:
        same_rich(source.table("rich"), state.rich)
    if state.array is not None:
        np.testing.assert_array_equal(source.array("array")[:], state.array)


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
        self.columns: list[tuple[Any, Any]] = []
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
        if self.state.kind(name) not in (None, "keyspace") or name in ("rich", "array"):
            if self.state.kind(name) is None:
                return
            with pytest.raises(TypeError, match="is an? (table|array)"):
                self.target(data, name)[key] = value
            return
        self.target(data, name)[key] = value
        self.state.spaces.setdefault(name, {})[key] = value

    @rule(data=st.data(), name=st.sampled_from(NAMES), key=keys)
    def delete(self, data: st.DataObject, name: str, key: bytes) -> None:
        if self.state.kind(name) not in (None, "keyspace") or name in ("rich", "array"):
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
        if self.state.kind(name) not in (None, "keyspace") or name in ("rich", "array"):
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
        if self.state.kind(name) not in (None, "keyspace") or name in ("rich", "array"):
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
        if self.state.kind(name) not in (None, "keyspace") or name in ("rich", "array"):
            return
        self.target(data, name).clear()
        self.state.spaces.get(name, {}).clear()

    @rule(data=st.data(), name=st.sampled_from(NAMES), keys=st.lists(keys, max_size=20))
    def read(self, data: st.DataObject, name: str, keys: list[bytes]) -> None:
        if self.state.kind(name) not in (None, "keyspace") or name in ("rich", "array"):
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
        if name == "rich":
            self.state.rich = None
        elif name == "array":
            self.state.array = None

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

    # --- a table with a key, text and missing values ---------------------------------------------------

    def source(self, data: st.DataObject) -> Any:
        """The transaction if one is open, else some handle."""
        return self.txn if self.txn is not None else self.some_handle(data)

    @precondition(lambda self: self.state.rich is None)
    @rule(data=st.data())
    def create_rich(self, data: st.DataObject) -> None:
        self.source(data).create_table("rich", RICH, key="k")
        self.state.rich = Rich()
        self.append_rich(data, list(range(20)), 0, "error")

    @precondition(lambda self: self.state.rich is not None)
    @rule(
        data=st.data(),
        keys=st.one_of(
            st.lists(st.integers(-3, 60), max_size=30), st.integers(0, 2000).map(lambda n: list(range(n, n + 300)))
        ),
        salt=st.integers(0, 100),
        how=st.sampled_from(["error", "replace", "ignore", "ignore"]),
    )
    def append_rich(self, data: st.DataObject, keys: list[int], salt: int, how: str) -> None:
        rich = self.state.rich
        assert rich is not None
        rows = [rich_row(rich.names, key, salt + at) for at, key in enumerate(keys)]
        offered = {name: [row[name] for row in rows] for name in rich.names}
        table = self.source(data).table("rich")
        places = rich.places
        if how == "error" and (len(set(keys)) < len(keys) or places.keys() & set(keys)):
            with pytest.raises(mmstore.SchemaError, match="the key k="):
                table.append(offered)
            return
        added: dict[int, dict[str, Any]] = {}
        for row in rows:
            if row["k"] in places:
                if how == "replace":
                    rich = rich.changed(places[row["k"]], row)
            elif how == "replace" or row["k"] not in added:
                added[row["k"]] = row
        if how == "replace":  # the last of its like, where that stands
            last = {row["k"]: at for at, row in enumerate(rows)}
            added = {rows[at]["k"]: rows[at] for at in sorted(last.values()) if rows[at]["k"] in added}
        before = len(rich.rows)
        assert table.append(offered, how) == range(before, before + len(added))
        self.state.rich = rich._replace(rows=(*rich.rows, *added.values()))

    @precondition(lambda self: self.state.rich is not None and self.state.rich.live)
    @rule(data=st.data(), salt=st.integers(0, 100), what=st.sampled_from(["s", "x", "all", "key"]))
    def update_rich(self, data: st.DataObject, salt: int, what: str) -> None:
        rich = self.state.rich
        assert rich is not None
        some = data.draw(st.lists(st.sampled_from(rich.live), min_size=1, max_size=5, unique=True), "rows")
        values = [rich_row(rich.names, salt + at, salt) for at in some]
        table = self.source(data).table("rich")
        if what == "key":
            keys = [salt + at * 2 for at in range(len(some))]
            taken = {key for key, at in rich.places.items() if at not in some} & set(keys)
            if taken:
                with pytest.raises(mmstore.SchemaError, match="keys are unique"):
                    table.update(some, {"k": keys})
                return
            values = [{"k": key} for key in keys]
        elif what == "all":
            values = [{name: value for name, value in row.items() if name != "k"} for row in values]
        else:
            values = [{what: row[what]} for row in values]
        assert table.update(some, {name: [row[name] for row in values] for name in values[0]}) == len(some)
        for at, row in zip(some, values, strict=True):
            rich = rich.changed(at, row)
        self.state.rich = rich

    @precondition(lambda self: self.state.rich is not None)
    @rule(data=st.data(), start=st.integers(0, 50), count=st.integers(0, 400), step=st.integers(1, 3))
    def delete_rich(self, data: st.DataObject, start: int, count: int, step: int) -> None:
        rich = self.state.rich
        assert rich is not None
        some = range(len(rich.rows))[start : start + count : step]
        alive = [at for at in some if rich.rows[at] is not None]
        assert self.source(data).table("rich").delete(some) == len(alive)
        gone = set(alive)
        self.state.rich = rich._replace(rows=tuple(None if at in gone else row for at, row in enumerate(rich.rows)))

    @precondition(lambda self: self.state.rich is not None)
    @rule(data=st.data())
    def compact_rich(self, data: st.DataObject) -> None:
        rich = self.state.rich
        assert rich is not None
        rows = tuple(row for row in rich.rows if row is not None)
        assert self.source(data).table("rich").compact() == len(rich.rows) - len(rows)
        self.state.rich = rich._replace(rows=rows)

    @precondition(lambda self: self.state.rich is not None)
    @rule(data=st.data(), name=st.sampled_from(sorted(FURTHER)))
    def add_or_drop_column(self, data: st.DataObject, name: str) -> None:
        rich = self.state.rich
        assert rich is not None
        table = self.source(data).table("rich")
        if name in rich.names:
            table.drop_column(name)
            names = tuple(other for other in rich.names if other != name)
            rows = tuple(row and {other: row[other] for other in names} for row in rich.rows)
        else:
            spec, fill = FURTHER[name]
            table.add_column(name, spec, fill)
            names = (*rich.names, name)
            rows = tuple(row and {**row, name: fill} for row in rich.rows)
        self.state.rich = Rich(names, rows)

    # --- an array -------------------------------------------------------------------------------------

    @precondition(lambda self: self.state.array is None)
    @rule(data=st.data(), rows=st.sampled_from([0, 5, 3000]))
    def create_array(self, data: st.DataObject, rows: int) -> None:
        self.source(data).create_array("array", "i4", (rows, 3))
        self.state.array = np.zeros((rows, 3), "i4")

    @precondition(lambda self: self.state.array is not None)
    @rule(
        data=st.data(), what=st.integers(0, 3), start=st.integers(0, 100), n=st.sampled_from([0, 1, 50, 9000]),
        value=st.integers(-9, 9),
    )  # fmt: skip
    def change_array(self, data: st.DataObject, what: int, start: int, n: int, value: int) -> None:
        array, found = self.state.array, self.source(data).array("array")
        assert array is not None
        if what == 0 and len(array) < 100_000:
            added = np.full((n, 3), value, "i4")
            assert found.append(added) == range(len(array), len(array) + n)
            self.state.array = np.concatenate([array, added])
        elif what == 1:
            found.resize(n)
            array = array[:n]
            self.state.array = np.concatenate([array, np.zeros((n - len(array), 3), "i4")])
        elif what == 2:
            found[start : start + n] = value
            self.state.array = array.copy()
            self.state.array[start : start + n] = value
        elif len(array):
            found[[start % len(array), -1], 1] = [value, 7]
            self.state.array = array.copy()
            self.state.array[[start % len(array), -1], 1] = [value, 7]

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
        if state.rich is not None and state.rich.rows:
            table = viewed.table("rich")
            self.columns += [(table[column], table[column].tolist()) for column in ("s", "c", "x")]
            part = table[len(table) // 2 :]
            self.columns.append((part.view("s"), part.view("s").tolist()))
        if state.array is not None:
            self.columns.append((viewed.array("array")[:], state.array))

    @precondition(lambda self: self.views or self.columns)
    @rule(every=st.integers(1, 3))
    def drop_views(self, every: int) -> None:
        del self.views[::every], self.columns[::every]

    @invariant()
    def views_show_what_they_showed(self) -> None:
        for view, value in self.views:
            assert view == value and view.readonly
        for column, expected in self.columns:
            if isinstance(column, ColumnView):
                assert column.tolist() == expected
            else:
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
