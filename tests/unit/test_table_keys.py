"""Tables with a key: each key once, rows found by it, through appends, changes, savepoints and compaction."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mmstore
from mmstore.database.database import Database
from mmstore.errors import SchemaError

# name -> schema of the key columns, and the key of number i
KEYS: dict[str, tuple[dict[str, Any], Any]] = {
    "i8": ({"k": "i8"}, lambda i: (i * 7919 - 3000,)),
    "i1": ({"k": "i1"}, lambda i: (i - 128,)),
    "u8": ({"k": "u8"}, lambda i: (2**64 - 1 - i,)),
    "u2": ({"k": "u2"}, lambda i: (i * 3,)),
    "bool": ({"k": "?", "l": "i2"}, lambda i: (i % 2 == 1, i)),
    "S": ({"k": "S6"}, lambda i: (b"k%d" % i if i else b"",)),
    "U": ({"k": "U6"}, lambda i: (f"ü{i}" if i else "",)),
    "V": ({"k": "V2"}, lambda i: (i.to_bytes(2, "big"),)),
    "utf8": ({"k": "utf8"}, lambda i: ("ключ" * (i % 3) + str(i) if i else "",)),
    "binary": ({"k": "binary"}, lambda i: (b"\0" * i,)),
    "time": ({"k": "datetime64[us]"}, lambda i: (np.datetime64(i - 100, "us"),)),
    "date": ({"k": "date32"}, lambda i: (np.datetime64(i - 100, "D"),)),
    "decimal": ({"k": "decimal128(20,2)"}, lambda i: (decimal.Decimal(i - 30) / 4,)),
    "decimal32": ({"k": "decimal32(7,2)"}, lambda i: (decimal.Decimal(i - 30) / 4,)),
    "two": ({"k": "i4", "l": "utf8"}, lambda i: (i // 10, "ab"[: i % 2] + "c" * (i % 10))),
    "three": ({"k": "S4", "l": "u1", "m": "binary"}, lambda i: (b"ab"[: i % 3], i, b"b" * (i % 3))),
    "tricky": ({"k": "utf8", "l": "utf8"}, lambda i: ("a" * (i % 16), "a" * (i // 16))),
}
every_key = pytest.mark.parametrize("name", KEYS)


class Model:
    """A keyed table, and a dict with the same rows."""

    def __init__(self, db: Any, name: str) -> None:
        columns, self.make = KEYS[name]
        self.names = tuple(columns)
        self.key: Any = self.names if len(self.names) > 1 else self.names[0]
        self.table = db.create_table("t", {"before": "f4", **columns, "v": "i8"}, key=self.key)
        self.rows: dict[tuple[Any, ...], int] = {}

    def data(self, numbers: Any, values: Any) -> dict[str, Any]:
        keys = [self.make(int(i)) for i in numbers]
        return {
            "before": np.zeros(len(keys)),
            "v": np.asarray(values, "i8"),
            **{name: [key[at] for key in keys] for at, name in enumerate(self.names)},
        }

    def asked(self, numbers: Any) -> Any:
        keys = [self.make(int(i)) for i in numbers]
        columns = [[key[at] for key in keys] for at in range(len(self.names))]
        return tuple(columns) if len(columns) > 1 else columns[0]

    def append(self, numbers: Any, values: Any, how: str = "error", table: Any = None) -> range:
        for i, value in zip(numbers, values, strict=True):
            if how != "ignore" or self.make(int(i)) not in self.rows:
                self.rows[self.make(int(i))] = int(value)
        found: range = (table or self.table).append(self.data(numbers, values), on_conflict=how)
        return found

    def check(self, among: int, table: Any = None) -> None:
        """The numbers below `among` are found where, and only where, the model has them."""
        table = table or self.table
        rows = table.find(self.asked(range(among)))
        assert rows.dtype == np.int64
        expected = [self.rows.get(self.make(i)) for i in range(among)]
        assert [None if row < 0 else int(table["v"][row]) for row in rows] == expected
        assert table.live_rows == len(self.rows)
        live = np.flatnonzero(~table.deleted)
        assert sorted(rows[rows >= 0].tolist()) == live.tolist()
        there = [i for i in range(among) if expected[i] is not None]
        found = table.lookup(self.asked(there), ["v", *self.names])
        assert found["v"].tolist() == [value for value in expected if value is not None]
        for at, name in enumerate(self.names):
            assert list(found.view(name).tolist()) == [self.make(i)[at] for i in there]


@every_key
def test_keys_of_every_type(any_db: Database, name: str) -> None:
    model = Model(any_db, name)
    model.check(60)
    assert model.append(range(40), range(40)) == range(40)
    assert model.append(range(40, 50), range(40, 50)) == range(40, 50)
    model.check(60)
    with pytest.raises(SchemaError, match=r"the key k=.* at position 1 is there already \(row 7\)"):
        model.table.append(model.data([55, 7], [0, 0]))
    with pytest.raises(SchemaError, match="at position 2 comes twice"):
        model.table.append(model.data([56, 55, 56], [0, 0, 0]))
    model.check(60)
    assert model.append([55, 7, 55, 8], [100, 101, 102, 103], "replace") == range(50, 51)
    assert model.append([55, 56, 56, 9], [-1, 201, 202, -1], "ignore") == range(51, 52)
    model.check(60)
    assert model.append([], []) == model.append([], [], "replace") == range(52, 52)
    # a deleted key is free; it comes back as another row
    rows = model.table.find(model.asked([3, 4, 55]))
    assert model.table.delete(rows) == 3
    for i in (3, 4, 55):
        del model.rows[model.make(i)]
    model.check(60)
    assert model.append([4, 55], [300, 301]) == range(52, 54)
    model.check(60)
    assert model.table.compact() == 3
    model.check(60)
    assert len(model.table) == len(model.rows)


@every_key
def test_keys_change(db: Database, name: str) -> None:
    model = Model(db, name)
    model.append(range(20), range(20))
    to = model.data([30, 31], [0, 0])
    changed = {column: to[column] for column in model.names}
    assert model.table.update([2, 3], changed) == 2
    for old, new in ((2, 30), (3, 31)):
        model.rows[model.make(new)] = model.rows.pop(model.make(old))
    model.check(40)
    with pytest.raises(SchemaError, match="is row 5's; keys are unique"):
        model.table.update([7], {column: model.data([5], [0])[column] for column in model.names})
    with pytest.raises(SchemaError, match="comes twice; keys are unique"):
        model.table.update([7, 8], {column: model.data([33, 33], [0, 0])[column] for column in model.names})
    # two rows swap their keys; a row gets the one it has
    swapped = model.data([6, 5], [0, 0])
    model.table.update([5, 6], {column: swapped[column] for column in model.names})
    model.rows[model.make(5)], model.rows[model.make(6)] = model.rows[model.make(6)], model.rows[model.make(5)]
    model.table.update([9], {column: model.data([9], [0])[column] for column in model.names})
    model.check(40)
    # the key of a deleted row may be taken
    model.table.delete([10])
    del model.rows[model.make(10)]
    model.table.update([11], {column: model.data([10], [0])[column] for column in model.names})
    model.rows[model.make(10)] = model.rows.pop(model.make(11))
    model.check(40)
    if len(model.names) > 1:  # one column of the key alone
        other = model.make(12)[:-1] + model.make(0)[-1:]
        if other not in model.rows:
            model.table.update([12], {model.names[-1]: [other[-1]]})
            model.rows[other] = model.rows.pop(model.make(12))
            assert model.table.find(tuple([part] for part in other)).tolist() == [12]


@pytest.mark.parametrize("name", ["i8", "utf8", "two"])
def test_transactions_and_savepoints(db: Database, name: str) -> None:
    model = Model(db, name)
    model.append(range(10), range(10))
    before = dict(model.rows)
    with pytest.raises(ZeroDivisionError), db.transaction() as txn:
        mine = txn.table("t")
        model.check(40, mine)
        model.append(range(10, 20), range(10, 20), table=mine)
        model.check(40, mine)
        assert model.table.find(model.asked([15])).tolist() == [-1]
        kept = dict(model.rows)
        with pytest.raises(KeyError), txn.savepoint():
            mine.delete([0, 1, 15])
            model.append([5, 6, 30], [50, 60, 300], "replace", mine)
            mine.compact()
            model.append([31], [310], table=mine)
            raise KeyError
        model.rows = kept
        model.check(40, mine)
        with pytest.raises(SchemaError, match="already"):
            mine.append(model.data([3], [3]))
        with txn.savepoint():
            mine.delete(mine.find(model.asked([2, 12])))
            model.rows.pop(model.make(2)), model.rows.pop(model.make(12))
        model.append([12], [1200], table=mine)
        model.check(40, mine)
        raise ZeroDivisionError
    model.rows = before
    model.check(40)
    with db.transaction() as txn:
        assert txn.table("t").delete(slice(None)) == 10
        model.rows = {}
        model.check(40, txn.table("t"))
        model.append(range(5, 15), range(10), table=txn.table("t"))
        model.check(40, txn.table("t"))
    model.check(40)
    with db.snapshot() as snap:
        model.check(40, snap.table("t"))
        model.append([1, 6], [7, 7], "replace")
        assert snap.table("t").find(model.asked([1, 6])).tolist() == [-1, 11]
    model.check(40)


def test_a_table_made_in_the_same_transaction(db: Database) -> None:
    with db.transaction() as txn:
        table = txn.create_table("t", {"k": "i8", "s": "utf8"}, key="k")
        assert table.find([1, 2]).tolist() == [-1, -1] and table.find([]).tolist() == []
        assert len(table.lookup([])) == 0
        with pytest.raises(KeyError, match="1 of 1 keys"):
            table.lookup([1])
        table.append({"k": [1], "s": ["a"]}, on_conflict="replace")
        assert table.find([1, 2]).tolist() == [0, -1]
        txn.drop("t")
        with pytest.raises(KeyError):
            table.find([1])
        table = txn.create_table("t", {"k": "utf8"}, key="k")
        assert table.find(["1"]).tolist() == [-1]
    assert db.table("t").find(["1"]).tolist() == [-1]


def test_what_is_asked_for(db: Database) -> None:
    table = db.create_table("t", {"k": "i2", "s": "utf8"}, key="k")
    table.append({"k": [-1, 5, 32767], "s": ["a", "b", "c"]})
    asked: list[tuple[Any, list[int]]] = [
        ([5, -1, 5], [1, 0, 1]),
        ((5,), [1]),
        (range(4, 7), [-1, 1, -1]),
        ([], []),
        (np.array([5], "u8"), [1]),
        (np.array([65541, 2**63], "u8"), [-1, -1]),
        (np.array([32768, -32769, 32767], "i8"), [-1, -1, 2]),
        ([2**40, 5], [-1, 1]),
        ([2**63, 5], [-1, 1]),
        ([2**63, -1], [-1, 0]),
        ([2**70, 5, -(2**70)], [-1, 1, -1]),
        (pa.array([5, 6]), [1, -1]),
        (pa.chunked_array([[5], [32767]]), [1, 2]),
        ({"k": [5]}, [1]),
        (np.array([5, 6], object), [1, -1]),
    ]
    for keys, rows in asked:
        assert table.find(keys).tolist() == rows, keys
    wrong: list[Any] = [[1.0], ["5"], [None], 5, "5", None, [[1, 2]], np.array([1.5]), pa.array([1.5]), {"s": ["a"]}]
    for keys in wrong:
        with pytest.raises(SchemaError, match="'k'"):
            table.find(keys)
    with pytest.raises(SchemaError, match="'k'"):
        table.lookup(["x"])
    assert table.lookup([5, 5, -1]).tolist() == [{"k": 5, "s": "b"}] * 2 + [{"k": -1, "s": "a"}]
    with pytest.raises(KeyError, match="2 of 3 keys are not there, the first at position 1"):
        table.lookup([5, 6, 7])
    with pytest.raises(KeyError, match="no column 'z'"):
        table.lookup([5], ["z"])
    with pytest.raises(TypeError, match="list of columns"):
        table.lookup([5], "s")


def test_text_that_is_asked_for(db: Database) -> None:
    table = db.create_table("t", {"k": "utf8"}, key="k")
    table.append({"k": ["a", "b", "ab", ""]})
    for keys in (
        ["ab", "c", ""],
        np.array(["ab", "c", ""]),
        np.array(["ab", "c", ""], object),
        pa.array(["ab", "c", ""]),
    ):
        assert table.find(keys).tolist() == [2, -1, 3]
    assert table.find(np.array(["b"], np.dtypes.StringDType())).tolist() == [1]
    for wrong in ("ab", [b"ab"], [1], b"ab"):
        with pytest.raises(SchemaError, match="'k'"):
            table.find(wrong)
    fixed = db.create_table("s", {"k": "S3"}, key="k")
    fixed.append({"k": [b"abc", b"a"]})
    assert fixed.find([b"abc", b"abcd", b"a\0", b"a", b""]).tolist() == [0, -1, 1, 1, -1]
    assert fixed.find(np.array([b"abc", b"abcde"])).tolist() == [0, -1]
    wide = db.create_table("u", {"k": "U3"}, key="k")
    wide.append({"k": ["abc", "a"]})
    assert wide.find(["abc", "abcd", "a", ""]).tolist() == [0, -1, 1, -1]


def test_keys_of_several_columns_are_asked_for(db: Database) -> None:
    table = db.create_table("t", {"a": "i4", "b": "utf8", "v": "f8"}, key=("b", "a"))
    table.append({"a": [1, 2, 1], "b": ["x", "x", "y"], "v": [0.0, 1, 2]})
    assert table.find((["x", "y", "x"], [2, 1, 3])).tolist() == [1, 2, -1]
    assert table.find({"a": [2], "b": ["x"]}).tolist() == [1]
    assert table.find((np.array(["x"]), np.array([2**40]))).tolist() == [-1]
    assert table.find(([], [])).tolist() == []
    for wrong in ([1], (["x"],), (["x"], [1], [2]), (["x", "y"], [1]), {"a": [1]}, (["x"], "y"), None):
        with pytest.raises(SchemaError):
            table.find(wrong)


@pytest.mark.parametrize("spec", ["f8", "c16", "list(i4)", "category", mmstore.nullable("i8"), ("i4", 2)])
def test_what_cannot_be_a_key(db: Database, spec: Any) -> None:
    with pytest.raises(SchemaError, match="column 'k'.*can't be a key"):
        db.create_table("t", {"k": spec}, key="k")


def test_keys_that_make_no_sense(db: Database) -> None:
    for key in ("z", (), ("a", "a"), ("a", "z"), 5, ("a", 5)):
        with pytest.raises((SchemaError, TypeError)):
            db.create_table("t", {"a": "i4", "b": "i4"}, key=key)
    table = db.create_table("t", {"a": "utf8", "b": "i4"}, key=["a"])
    assert table.schema.key == ("a",)
    with pytest.raises(ValueError, match="at most 65,535"):
        table.append({"a": ["x", "y" * 70_000], "b": [1, 2]})
    with pytest.raises(ValueError, match="at most 65,535"):
        table.find(["y" * 70_000])
    table.append({"a": ["y" * 65_535], "b": [1]})
    assert table.find(["y" * 65_535]).tolist() == [0]
    for change in (lambda: table.drop_column("a"), lambda: table.allow_nulls("a")):
        with pytest.raises(SchemaError, match="'a'"):
            change()
    table.rename_column("a", "key")
    assert table.schema.key == ("key",) and table.find({"key": ["z"]}).tolist() == [-1]


def test_appends_in_pieces_are_one(db: Database) -> None:
    """A stream whose later batch conflicts changes nothing."""
    table = db.create_table("t", {"k": "i8", "v": "i8"}, key="k")
    table.append({"k": [1, 2], "v": [10, 20]})

    def pieces() -> Iterator[pa.RecordBatch]:
        for k in ([3, 4], [5], [6, 1]):
            yield pa.record_batch({"k": k, "v": [0] * len(k)})

    reader = pa.RecordBatchReader.from_batches(pa.schema([("k", pa.int64()), ("v", pa.int64())]), pieces())
    with pytest.raises(SchemaError, match="k=1 at position 1 is there already"):
        table.append(reader)
    assert table["k"].tolist() == [1, 2] and table.find([3, 5, 6]).tolist() == [-1] * 3
    table.append(pa.Table.from_batches(pieces()), on_conflict="replace")
    assert table["k"].tolist() == [1, 2, 3, 4, 5, 6] and table["v"].tolist() == [0, 20, 0, 0, 0, 0]
    table.append(pa.Table.from_batches([*pieces(), *pieces()]), on_conflict="ignore")
    assert len(table) == 6


def test_many_keys_come_back_from_the_file(path: Path) -> None:
    rng = np.random.default_rng(1)
    keys = rng.permutation(200_000)
    with mmstore.open(path, durability="relaxed") as db:
        table = db.create_table("t", {"k": "i8", "s": "utf8"}, key="k")
        table.append({"k": keys[:100_000], "s": [str(k) for k in keys[:100_000].tolist()]})
        table.append({"k": keys[99_000:], "s": [f"{k}!" for k in keys[99_000:].tolist()]}, on_conflict="replace")
        table.delete(np.arange(0, 200_000, 2))
        db.checkpoint()
        table.update(np.arange(1, 200, 2), {"k": np.arange(100) + 10**6})
    with mmstore.open(path) as db:
        table = db.table("t")
        rows = table.find(keys)
        expected = np.where((np.arange(200_000) % 2 == 1) & (np.arange(200_000) >= 200), np.arange(200_000), -1)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(table.find(np.arange(100) + 10**6), np.arange(1, 200, 2))
        some = keys[rows >= 0][::1000]
        assert [text.rstrip("!") for text in table.lookup(some)["s"].tolist()] == [str(k) for k in some]
        assert db.check() == []


@pytest.mark.parametrize("kind", ["utf8", "binary"])
def test_a_key_that_is_too_long(db: Database, kind: str) -> None:
    """Is refused by column and row, before anything is changed; the longest that fits is found."""
    short, longest = ("a", "é" * 32_767 + "x") if kind == "utf8" else (b"a", b"\0" * 65_535)
    long = longest + short
    table = db.create_table("t", {"v": "i8", "k": kind}, key="k")
    table.append({"v": [0, 1], "k": [short, longest]})
    said = "key of column 'k' has 65,536 bytes at position 1 of the data"
    for way in ("error", "replace", "ignore"):
        with pytest.raises(SchemaError, match=said):
            table.append({"v": [2, 3], "k": [short * 2, long]}, on_conflict=way)
    arrow = pa.table({"v": [2, 3], "k": pa.array([short * 2, long])})
    with pytest.raises(SchemaError, match=said):
        table.append(pa.Table.from_batches([*pa.table({"v": [9], "k": [short * 3]}).to_batches(), *arrow.to_batches()]))
    with pytest.raises(SchemaError, match="key of column 'k' has 65,536 bytes at row 1; a key"):
        table.update([1, 0], {"k": [long, short]})
    with pytest.raises(SchemaError, match="key of column 'k' has 65,536 bytes at position 0"):
        table.find([long])
    assert table["k"].tolist() == [short, longest] and table["v"].tolist() == [0, 1]
    assert table.find([longest, short, short * 2]).tolist() == [1, 0, -1]
    two = db.create_table("two", {"a": kind, "b": kind}, key=("a", "b"))
    with pytest.raises(SchemaError, match="key of columns 'a', 'b' has 65,54.* bytes at position 0"):
        two.append({"a": [longest], "b": [short]})
    assert len(two) == 0
