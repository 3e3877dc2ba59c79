"""Rows and columns that change: what is new, what stays, what snapshots and views show, what becomes of the room."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import mmstore
from mmstore.database.database import Database
from mmstore.database.table import Table
from mmstore.disk.mapping import mappings_in_use
from mmstore.errors import ClosedError, ReadOnlyError, SchemaError
from mmstore.exchange.view import ColumnView

SCHEMA = {
    "i": "i8",
    "s": "utf8",
    "n": mmstore.nullable("f4"),
    "c": "category",
    "l": mmstore.nullable("list(i2)"),
    "e": ("u1", 3),
}


def rows(start: int, stop: int) -> dict[str, Any]:
    numbers = range(start, stop)
    return {
        "i": np.arange(start, stop),
        "s": ["x" * (i % 7) + str(i) for i in numbers],
        "n": [None if i % 5 == 0 else float(i % 1000) for i in numbers],
        "c": [f"word {i % 11}" for i in numbers],
        "l": [None if i % 4 == 0 else [i % 100] * (i % 3) for i in numbers],
        "e": (np.arange(3 * start, 3 * stop) % 251).astype("u1").reshape(-1, 3),
    }


def listed(rows: Any) -> list[dict[str, Any]]:
    """Rows as dicts of Python values."""
    return [
        {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
        for row in rows.tolist()
    ]


class Model:
    """Rows as a list of dicts; None where one is deleted."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def append(self, data: dict[str, Any]) -> None:
        columns = [[v.tolist() if isinstance(v, np.ndarray) else v for v in values] for values in data.values()]
        self.rows += [
            dict(zip(data, [v.item() if isinstance(v, np.generic) else v for v in row], strict=True))
            for row in zip(*columns, strict=True)
        ]

    @property
    def live(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row is not None]


def check(table: Any, model: Model) -> None:
    """The table has the model's rows, whichever way it is read."""
    assert len(table) == len(model.rows) and table.live_rows == len(model.live)
    assert table.deleted.tolist() == [row is None for row in model.rows]
    assert [row for batch in table.scan(batch_rows=97) for row in listed(batch)] == model.live
    assert table.to_arrow().to_pylist() == model.live
    alive = np.flatnonzero(~table.deleted)
    assert listed(table.take(alive[::-1])) == model.live[::-1]


@pytest.fixture
def table(any_db: Database) -> Table:
    return any_db.create_table("t", SCHEMA)


@pytest.fixture
def model(table: Table) -> Model:
    model = Model()
    for start, stop in ((0, 200), (200, 201), (201, 500)):
        table.append(rows(start, stop))
        model.append(rows(start, stop))
    return model


def test_update(table: Table, model: Model) -> None:
    changes: list[tuple[Any, dict[str, Any], list[int]]] = [
        ([5, 3], {"s": ["", "a much longer text than before"], "i": [-5, -3]}, [5, 3]),
        ([-1], {"n": [None], "c": ["a new word"], "l": [[1, 2, 3, 4]]}, [499]),
        (slice(10, 14), {"l": [None, [], [7], None], "n": [1.5, None, None, 2]}, [10, 11, 12, 13]),
        (np.arange(500) % 100 == 7, {"e": np.ones((5, 3))}, [7, 107, 207, 307, 407]),
        (range(300, 290, -4), {"i": [1, 2, 3], "s": ["a", "b", "c"]}, [300, 296, 292]),
        (np.array([0], "u1"), {"c": ["word 3"]}, [0]),
    ]
    for where, values, numbers in changes:
        values = {
            name: given.astype(SCHEMA[name][0]) if isinstance(given, np.ndarray) else given
            for name, given in values.items()
        }
        assert table.update(where, values) == len(numbers)
        for name, given in values.items():
            for number, value in zip(numbers, given, strict=True):
                model.rows[number][name] = value.tolist() if isinstance(value, np.ndarray) else value
        check(table, model)
    # one value for all
    table.update(slice(20, 25), {"s": "same", "i": 0, "n": None, "c": "word 1"})
    for number in range(20, 25):
        model.rows[number] |= {"s": "same", "i": 0, "n": None, "c": "word 1"}
    check(table, model)
    table.update([30, 31], {"e": [1, 2, 3]})
    table.update([32, 33], pa.table({"s": ["a", "b"], "n": [None, 2.5]}))
    table.update([34], pd.DataFrame({"s": ["c"]}))
    table.update([35], table[0:1])
    for number, values in {
        30: {"e": [1, 2, 3]}, 31: {"e": [1, 2, 3]}, 32: {"s": "a", "n": None}, 33: {"s": "b", "n": 2.5}, 34: {"s": "c"},
        35: model.rows[0],
    }.items():  # fmt: skip
        model.rows[number] |= values
    check(table, model)
    assert table.update([], {"i": []}) == table.update(slice(0, 0), {"i": 5}) == 0


def test_a_column_as_a_sequence(table: Table, model: Model) -> None:
    column = table["s"]
    texts = [row["s"] for row in model.rows]
    assert column[-1] == texts[-1] and column[np.int16(3)] == texts[3] and list(column) == texts
    assert column[[-1, 0, 7]].tolist() == [texts[-1], texts[0], texts[7]] and column[[]].tolist() == []
    assert column[400:][::-30].tolist() == texts[400:][::-30] and len(column[5:2]) == 0
    assert column[np.arange(500) < 3].tolist() == texts[:3]
    for wrong in (500, -501, [500], [-501], np.ones(3, "?"), True):
        with pytest.raises(IndexError):
            column[wrong]
    for wrong in ("x", [0.5], [[0, 1]], None, 1.5):
        with pytest.raises(TypeError):
            column[wrong]


def test_what_cannot_be_updated(any_db: Database, table: Table, model: Model) -> None:
    table.delete([4])
    model.rows[4] = None
    txn = any_db.txn_id
    wrong: list[tuple[Any, Any, Any, str]] = [
        ([1, 2], {"i": [1]}, SchemaError, "a value for each of 2 rows, found 1"),
        ([1], {"i": [1, 2]}, SchemaError, "a value for each of 1 rows, found 2"),
        ([1, 1], {"i": [1, 2]}, ValueError, "given twice"),
        ([1, -499], {"i": [1, 2]}, ValueError, "given twice"),
        ([4], {"i": [1]}, ValueError, "row 4 is deleted"),
        ([500], {"i": [1]}, IndexError, "row 500 of 500"),
        ([1], {"z": [1]}, SchemaError, "unknown: 'z'"),
        ([1], {}, SchemaError, "some of the columns"),
        ([1], {"i": [1.5]}, SchemaError, "column 'i'"),
        ([1], {"i": None}, SchemaError, "column 'i'"),
        ([1], {"i": [1], "s": [None]}, SchemaError, "column 's'"),
        ([1], 5, SchemaError, "found int"),
        ("s", {"i": [1]}, TypeError, "row numbers"),
    ]
    for where, values, error, message in wrong:
        with pytest.raises(error, match=message):
            table.update(where, values)
    for where, error in (([500], IndexError), ([1.5], TypeError), (np.zeros(3, "?"), IndexError), (None, TypeError)):
        with pytest.raises(error):
            table.delete(where)
    assert any_db.txn_id == txn
    check(table, model)


def test_delete_and_compact(any_db: Database, table: Table, model: Model) -> None:
    for where, numbers in (
        ([3], [3]),
        ([3, 5, 5, -1], [5, 499]),
        (slice(100, 250), range(100, 250)),
        (np.arange(500) % 50 == 1, [1, 51, 251, 301, 351, 401, 451]),
        (range(0), []),
    ):
        assert table.delete(where) == len(numbers)
        for number in numbers:
            model.rows[number] = None
        check(table, model)
    table.append(rows(500, 510))
    model.append(rows(500, 510))
    check(table, model)
    assert table["i"][3] == 3 and len(table[0:10]) == 10  # physical rows
    gone = len(model.rows) - len(model.live)
    assert table.compact() == gone and table.compact() == 0
    model.rows = model.live
    check(table, model)
    assert table.delete(slice(None)) == len(model.rows)
    assert table.live_rows == 0 and list(table) == [] and table.to_arrow().num_rows == 0
    table.compact()
    assert len(table) == 0
    table.append(rows(0, 3))
    model.rows = []
    model.append(rows(0, 3))
    check(table, model)


def test_columns_come_and_go(any_db: Database, table: Table, model: Model) -> None:
    table.delete([0])
    model.rows[0] = None
    added: list[tuple[str, Any, Any, Any]] = [
        ("zero", "f8", None, 0.0),
        ("seven", "u2", 7, 7),
        ("text", "utf8", None, ""),
        ("word", "category", "w", "w"),
        ("gone", mmstore.nullable("utf8"), None, None),
        ("there", mmstore.nullable("i4"), 5, 5),
        ("vector", ("f4", 2), [1, 2], [1.0, 2.0]),
        ("list", "list(i4)", [1, 2, 3], [1, 2, 3]),
        ("empty", "list(i4)", None, []),
        ("raw", "binary", b"ab", b"ab"),
        ("fixed", "S3", b"abc", b"abc"),
        ("yes", "?", True, True),
    ]
    before = {name: table[name] for name in table.columns}
    for name, spec, fill, value in added:
        table.add_column(name, spec, fill)
        for row in model.live:
            row[name] = value
    check(table, model)
    for name, values in before.items():
        now = table[name]
        if isinstance(now, np.ndarray) and isinstance(values, np.ndarray) and values.nbytes:
            assert np.shares_memory(now, values)  # the others were not written
    table.append({**rows(500, 502), **{name: [value] * 2 for name, _, _, value in added}})
    model.append({**rows(500, 502), **{name: [value] * 2 for name, _, _, value in added}})
    table.rename_column("seven", "eight")
    table.drop_column("e")
    table.drop_column("gone")
    for row in model.live:
        row["eight"] = row.pop("seven")
        del row["e"], row["gone"]
    order = table.columns
    assert "eight" in table and "seven" not in table and "e" not in table
    model.rows = [None if row is None else {name: row[name] for name in order} for row in model.rows]
    check(table, model)
    table.allow_nulls("eight")
    table.update([1], {"eight": [None]})
    model.rows[1]["eight"] = None
    table.allow_nulls("eight")
    table.allow_nulls("word")
    table.update([2, 3], {"word": [None, "other"]})
    model.rows[2]["word"], model.rows[3]["word"] = None, "other"
    check(table, model)
    wrong: list[tuple[Any, Any, str]] = [
        (lambda: table.add_column("i", "i4"), SchemaError, "'i' is there already"),
        (lambda: table.add_column("", "i4"), SchemaError, "name"),
        (lambda: table.add_column("x", "object"), SchemaError, "'x'"),
        (lambda: table.add_column("x", "i4", "text"), SchemaError, "'x'"),
        (lambda: table.add_column("x", "u1", 256), SchemaError, "'x'"),
        (lambda: table.add_column("x", ("f4", 2), [1, 2, 3]), SchemaError, "'x'"),
        (lambda: table.drop_column("zz"), KeyError, "zz"),
        (lambda: table.rename_column("i", "s"), SchemaError, "'s'"),
        (lambda: table.rename_column("i", ""), SchemaError, "name"),
        (lambda: table.rename_column("zz", "s"), KeyError, "zz"),
        (lambda: table.allow_nulls("zz"), KeyError, "zz"),
    ]
    txn = any_db.txn_id
    for change, error, message in wrong:
        with pytest.raises(error, match=message):
            change()
    assert any_db.txn_id == txn
    only = any_db.create_table("only", {"x": "i4"})
    with pytest.raises(SchemaError, match="only one"):
        only.drop_column("x")
    only.add_column("y", "i4", 3)
    only.append({"x": [1], "y": [2]})
    only.drop_column("x")
    assert only.to_arrow().to_pylist() == [{"y": 2}]
    # a name that was dropped means another column from then on
    only.add_column("x", "utf8", "new")
    assert only[0] == {"y": 2, "x": "new"}
    check(table, model)


def test_snapshots_and_rollback_show_the_old_state(any_db: Database, table: Table, model: Model) -> None:
    with any_db.snapshot() as snap:
        old = snap.table("t")
        change(table)
        check(old, model)
        assert old.columns == tuple(SCHEMA)
        for write in (
            lambda: old.append(rows(0, 1)), lambda: old.update([0], {"i": [1]}), lambda: old.delete([0]),
            lambda: old.compact(), lambda: old.add_column("q", "i4"), lambda: old.drop_column("i"),
        ):  # fmt: skip
            with pytest.raises(ReadOnlyError):
                write()
    with pytest.raises(ClosedError):
        old.columns  # noqa: B018
    any_db.drop("t")
    table = any_db.create_table("t", SCHEMA)
    table.append(rows(0, 500))
    check(table, model)
    with pytest.raises(ZeroDivisionError), any_db.transaction() as txn:
        change(txn.table("t"))
        raise ZeroDivisionError
    check(table, model)
    with any_db.transaction() as txn:
        with pytest.raises(ZeroDivisionError), txn.savepoint():
            change(txn.table("t"))
            raise ZeroDivisionError
        check(txn.table("t"), model)
        change(txn.table("t"))
        check(table, model)
    assert table.columns[-1] == "last" and len(table) == 700


def change(table: Any) -> None:
    """A bit of everything; afterwards there are 700 rows."""
    table.append(rows(500, 800))
    table.update(np.arange(0, 500, 3), {"s": "changed", "n": None, "l": [[9]] * 167, "e": np.zeros((167, 3), "u1")})
    table.delete(np.arange(50, 150))
    table.update([0, 799], {"c": ["never seen", "word 1"]})
    table.add_column("last", "utf8", "?")
    table.drop_column("e")
    table.rename_column("i", "j")
    table.allow_nulls("s")
    assert table.compact() == 100


# --- views ---------------------------------------------------------------------------------------------


def shown(view: Any) -> list[bytes]:
    """Everything that a view shows, byte for byte; of the last byte of a bitmap the bits that are rows'."""
    if not isinstance(view, ColumnView):
        return [view.tobytes()]
    whole = [part.tobytes() for name, part in view.parts.items() if name != "validity"]
    bits = view.parts.get("validity")
    return whole if bits is None else [*whole, np.unpackbits(bits, count=view.stop, bitorder="little").tobytes()]


ELSEWHERE = """
import sys, numpy as np, mmstore
with mmstore.open(sys.argv[1], durability="relaxed") as db:
    t = db.table("t")
    n = len(t)
    t.append(t[:n])
    t.update(np.arange(n, 2 * n, 7), {"s": "from elsewhere", "i": -1, "n": None, "c": "another word"})
    t.delete(np.arange(0, 2 * n, 3))
    t.compact()
    for i in range(100):
        db[b"k%d" % i] = bytes(10_000)
"""


def test_views_stay_as_they_are(path: Path) -> None:
    """Through appends, updates, drops, compactions, growth, by this process and another, and the end of the handle."""
    gc.collect()
    at_first = mappings_in_use()
    db = mmstore.open(path, durability="relaxed")
    table = db.create_table("t", SCHEMA)
    views: list[tuple[Any, list[bytes]]] = []

    def keep(table: Any) -> None:
        for name in table.columns:
            views.append((table[name], shown(table[name])))
            assert isinstance(table[name], ColumnView) or table[name].ctypes.data % 64 == 0
        part = table[len(table) // 3 : len(table) // 2]
        views.extend((part.view(name), shown(part.view(name))) for name in part.columns)
        listed.append((part, part.tolist()))

    listed: list[tuple[Any, Any]] = []
    table.append(rows(0, 20_000))
    keep(table)
    for step in range(6):
        table.append(rows(20_000 * (step + 1), 20_000 * (step + 1) + 3000 * step + 1))
        keep(table)
        some = np.flatnonzero(~table.deleted)[::11]
        table.update(some, {"i": step, "s": f"step {step}" * step, "n": None, "l": None})
        table.delete(np.arange(step, len(table), 29))
        keep(table)
        if step % 2:
            table.compact()
        if step == 5:
            table.add_column("more", "f8", step)
            table.drop_column("e")
            keep(table)
        for i in range(40):
            db[b"%d" % i] = bytes(5000)
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(path)], check=True, timeout=60)
    keep(table)
    db.drop("t")
    for i in range(40):
        db[b"%d" % i] = bytes(70_000)
    for view, before in views:
        assert shown(view) == before
    db.close()
    with mmstore.open(path, durability="relaxed") as again:
        again.create_table("t", SCHEMA).append(rows(0, 30_000))
        for view, before in views:
            assert shown(view) == before
        for part, before in listed:
            assert str(part.tolist()[:50]) == str(before[:50])
        assert again.check() == []
        del view, part, before
        views.clear(), listed.clear()
    del again, table, db, keep
    gc.collect()
    assert mappings_in_use() == at_first


def test_the_room_of_what_was_changed_comes_back(db: Database) -> None:
    """The file stops growing once nobody looks at what is replaced; a view holds back its own column's pages only."""
    table = db.create_table("t", {"i": "i8", "s": "utf8"})
    n = 20_000
    table.append({"i": np.arange(n), "s": ["some text"] * n})

    def work(times: int) -> int:
        for turn in range(times):
            table.update(slice(None), {"i": np.arange(n) + turn, "s": f"text {turn % 10}"})
            table.delete(np.arange(0, n, 10))
            table.compact()
            table.append({"i": np.arange(n // 10), "s": ["some text"] * (n // 10)})
            for i in range(40):
                db[b"k%d" % (i % 10)] = b"v" * 100
        db.checkpoint()
        found: int = db.session.live.get("file_size")
        return found

    step = 2 << 20  # in which the file grows
    work(4)
    settled = work(6)
    assert work(8) <= settled + step
    view = table["i"]
    before = view.copy()
    while_viewed = work(8)  # the view keeps the pages of one state, not of each that came behind
    assert while_viewed <= settled + 2 * step and work(12) <= while_viewed + step
    np.testing.assert_array_equal(view, before)
    del view
    gc.collect()
    assert work(8) <= while_viewed + step


def test_a_view_keeps_no_index_page(db: Database) -> None:
    """A long-lived column view holds its runs, and lets the pages of indexes be used again."""
    table = db.create_table("t", {"i": "i8", "s": "utf8"}, key="i")
    table.append({"i": np.arange(1000), "s": ["text"] * 1000})

    def write(turns: int) -> int:
        for turn in range(turns):
            for i in range(200):
                db[b"key %d" % (i * 37 % 500)] = b"%d" % turn
        db.checkpoint()
        found: int = db.session.live.get("file_size")
        return found

    write(5)
    settled = write(5)
    views = [table["i"], table["s"]]
    assert write(15) <= settled * 1.05
    assert views[0].tolist() == list(range(1000)) and views[1][999] == "text"


def test_interleaved_scans(any_db: Database, table: Table, model: Model) -> None:
    """Each scan shows the state in which it began, whatever is committed meanwhile and in whatever order they end."""
    before = model.live
    first = table.scan(batch_rows=100)
    found = listed(next(first))
    change(table)
    second = table.scan(batch_rows=50)
    start = listed(next(second))
    third = table.scan(["j"])
    next(third)
    del third
    for batch in first:
        found += listed(batch)
    assert found == before
    any_db.drop("t")
    assert len(start) + sum(len(batch) for batch in second) == 700
    with pytest.raises(KeyError):
        next(table.scan())


def runs_of(db: Any, name: str) -> dict[str, int]:
    """Column -> runs of its sequences."""
    entry = db.reader.read(lambda state: state.entry(name.encode()))
    return {column.name: sum(len(part.runs) for part in found.parts)
            for column, found in zip(entry.schema, entry.columns, strict=True)}  # fmt: skip


@pytest.mark.parametrize("key", [None, "id"])
def test_compact_gathers_what_updates_have_scattered(db: Database, key: str | None) -> None:
    """Fewer runs, the same rows by the same numbers, old views as they were; then there is nothing to do."""
    n = 20_000
    wide = np.repeat(np.arange(float(n)), 32).reshape(n, 32)
    table = db.create_table("t", {"id": "i8", "w": ("f8", 32), "y": mmstore.nullable(("f8", 32)), "s": "utf8"}, key=key)
    table.append({"id": range(n), "w": wide, "y": wide, "s": [""] * n})
    assert table.compact() == 0
    before = runs_of(db, "t")
    for start in range(0, n, 512):  # every second piece of 64 KiB
        gone = np.ma.MaskedArray(np.ones((2, 32)), [[True] * 32, [False] * 32])
        table.update([start + 5, start + 9], {"id": [-start - 1, -start - 2], "w": -np.ones((2, 32)), "y": gone})
    scattered = runs_of(db, "t")
    assert scattered["w"] > 60 > before["w"]
    views = table["w"], table["y"], table.take([5, 9, n - 1], ["id", "s"])
    held = views[0].copy(), views[1].to_numpy(fill=-1), views[2].tolist()
    assert table.compact() == 0 and len(table) == n
    found = runs_of(db, "t")
    assert found["w"] <= before["w"] + 4 and found["w"] < scattered["w"] / 3 and found["y"] < scattered["y"] / 3
    assert found["id"] == scattered["id"] and found["s"] == scattered["s"]  # these lie well
    for w, y, some in (views, (table["w"], table["y"], table.take([5, 9, n - 1], ["id", "s"]))):
        assert np.array_equal(w, held[0]) and np.array_equal(y.to_numpy(fill=-1), held[1]) and some.tolist() == held[2]
    assert table["y"].null_count == len(range(0, n, 512))
    if key is not None:
        assert table.find([-1, -2, 0, 5, n - 1]).tolist() == [5, 9, 0, -1, n - 1]
    assert [len(rows) for rows in table.scan(["s"], where=[("id", "==", -1)])] == [1]
    assert db.compact() == 0 and runs_of(db, "t") == found
    table.append({"id": [n], "w": wide[:1], "y": [None], "s": ["end"]})
    assert table[n]["s"] == "end" and table[n]["y"] is None and db.check() == []


def test_the_whole_store_is_compacted_as_the_transaction_has_it(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a snapshot has it, which may be older: a table that is dropped just then would be looked for."""
    for name in ("a", "b"):
        db.create_table(name, {"x": "i4"}).append({"x": np.arange(100, dtype="i4")})
        db.table(name).delete(range(30))
    db.create_array("w", "f4", 5)
    db.keyspace("k")[b"key"] = b"value"

    def older(*_: object) -> None:
        raise AssertionError("a snapshot was asked")

    monkeypatch.setattr(Database, "snapshot", older)
    assert db.compact() == 60 and len(db.table("a")) == 70
