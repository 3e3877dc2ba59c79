"""Tables through the whole engine: append, views, transactions, savepoints, snapshots, reopen."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmstore
from mmstore.columns import sequence
from mmstore.database.database import Database
from mmstore.database.table import Table
from mmstore.disk.posix import PosixFilesystem
from mmstore.errors import ClosedError, CorruptError, DiskFullError, ReadOnlyError, SchemaError

SCHEMA = {"ts": "datetime64[ns]", "sym": "U4", "px": "f8", "emb": ("f4", 8)}


def batch(n: int, start: int = 0) -> dict[str, Any]:
    numbers = np.arange(start, start + n)
    return {
        "ts": numbers.astype("M8[ns]"),
        "sym": np.char.mod("%d", numbers % 10_000),
        "px": numbers / 7,
        "emb": np.repeat(numbers, 8).reshape(n, 8).astype("f4"),
    }


def check_rows(table: Any, n: int) -> None:
    assert len(table) == n
    for name, expected in batch(n).items():
        array = table[name]
        np.testing.assert_array_equal(array, expected.astype(table.schema[name].dtype))
        assert array.flags.c_contiguous and array.ctypes.data % 64 == 0 and not array.flags.writeable
        with pytest.raises(ValueError):
            array.flags.writeable = True


@pytest.fixture
def table(db: Database) -> Table:
    return db.create_table("ticks", SCHEMA)


def test_append_and_read(db: Database, table: Table, path: Path) -> None:
    assert table.append(batch(10)) == range(10)
    assert table.append(batch(5, 10)) == range(10, 15)
    assert table.append(batch(0)) == range(15, 15)
    check_rows(table, 15)
    assert table.columns == ("ts", "sym", "px", "emb") == table.schema.names and db.tables() == ["ticks"]
    db.close()
    with mmstore.open(path, "r") as again:
        check_rows(again.table("ticks"), 15)
        assert again.check() == []


@pytest.mark.parametrize(
    "sizes", [[1] * 200, [1000] * 30, [70_000, 1, 70_000], [300_000]], ids=lambda sizes: f"{len(sizes)}x{sizes[0]}"
)
def test_many_appends_make_one_array(table: Table, sizes: list[int]) -> None:
    n = 0
    for size in sizes:
        table.append(batch(size, n))
        n += size
    check_rows(table, n)


def test_views_keep_their_bytes_through_growth_drop_and_reuse(db: Database, table: Table) -> None:
    table.append(batch(5000))
    views = {name: table[name] for name in table.columns}
    copies = {name: view.copy() for name, view in views.items()}
    table.append(batch(50_000, 5000))
    later = table["px"]
    db.drop("ticks")
    for n in range(100):  # more roots than a freed run is held for
        other = db.create_table(f"t{n}", {"x": "i8"})
        other.append({"x": np.full(5000, -1)})
        db.drop(f"t{n}")
    for name, view in views.items():
        np.testing.assert_array_equal(view, copies[name])
    np.testing.assert_array_equal(later, np.arange(55_000) / 7)
    with pytest.raises(KeyError):
        len(table)


def test_dropped_tables_give_their_pages_back_once_views_are_gone(db: Database) -> None:
    def fill() -> int:
        table = db.create_table("t", {"x": "i8"})
        table.append({"x": np.arange(500_000)})
        db.drop("t")
        for _ in range(100):
            db[b"k"] = b"v"
        db.checkpoint()  # one in the background may have made a root durable that has the table
        return db.session.live.get("file_size")

    fill()
    sizes = [fill() for _ in range(5)]
    assert len(set(sizes)) == 1, sizes


def test_snapshots_see_their_own_rows(db: Database, table: Table) -> None:
    table.append(batch(10))
    with db.snapshot() as snapshot:
        table.append(batch(10, 10))
        check_rows(snapshot.table("ticks"), 10)
        check_rows(table, 20)
        with pytest.raises(ReadOnlyError):
            snapshot.table("ticks").append(batch(1))
        kept = snapshot.table("ticks")["px"]
        old = snapshot.table("ticks")
    np.testing.assert_array_equal(kept, np.arange(10) / 7)
    with pytest.raises(ClosedError):
        len(old)


def test_transactions_see_their_own_rows_as_copies(db: Database, table: Table) -> None:
    table.append(batch(10))
    with db.transaction() as txn:
        mine = txn.table("ticks")
        np.testing.assert_array_equal(mine["px"], table["px"])
        assert mine.append(batch(5, 10)) == range(10, 15)
        check_rows(mine, 15)
        check_rows(table, 10)
        uncommitted = mine["px"]
        mine.append(batch(5, 15))
    np.testing.assert_array_equal(uncommitted, np.arange(15) / 7)
    check_rows(table, 20)
    with pytest.raises(ClosedError):
        mine.append(batch(1))


def test_unchanged_columns_are_not_copied_in_a_transaction(db: Database, table: Table) -> None:
    table.append(batch(10))
    address = table["px"].ctypes.data
    with db.transaction() as txn:
        assert txn.table("ticks")["px"].ctypes.data == address
        txn.table("ticks").append(batch(1, 10))
        assert txn.table("ticks")["px"].ctypes.data != address


def test_rollback_leaves_nothing(db: Database, table: Table) -> None:
    table.append(batch(100))
    view = table["px"]
    with pytest.raises(ZeroDivisionError), db.transaction() as txn:
        txn.table("ticks").append(batch(100_000, 7))
        txn.create_table("other", {"x": "i4"}).append({"x": [1]})
        raise ZeroDivisionError
    assert db.tables() == ["ticks"] and db.check() == []
    check_rows(table, 100)
    table.append(batch(100, 100))
    check_rows(table, 200)
    np.testing.assert_array_equal(view, np.arange(100) / 7)


def test_savepoints(db: Database, table: Table) -> None:
    with db.transaction() as txn:
        mine = txn.table("ticks")
        mine.append(batch(10))
        with pytest.raises(ZeroDivisionError), txn.savepoint():
            mine.append(batch(1000))
            with txn.savepoint():
                mine.append(batch(70_000))
            raise ZeroDivisionError
        check_rows(mine, 10)
        with txn.savepoint():
            mine.append(batch(90_000, 10))
    check_rows(table, 90_010)


def test_nothing_changes_when_a_column_does_not_fit(db: Database, table: Table) -> None:
    table.append(batch(3))
    before = db.txn_id
    late = np.array(["9999"] * 3, "M8[Y]")
    wrong = {"px": ["x"] * 3, "ts": late, "emb": np.zeros((3, 7)), "sym": ["12345"] * 3, "z": [1] * 3}
    for name, values in wrong.items():
        with pytest.raises(SchemaError, match=repr(name)):
            table.append(batch(3, 3) | {name: values})
    assert db.txn_id == before
    check_rows(table, 3)


def test_a_full_disk_in_the_middle_of_an_append(db: Database, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sequence.append
    calls = 0

    def failing(state: Any, data: Any, space: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise DiskFullError("no room")
        return real(state, data, space)

    monkeypatch.setattr(sequence, "append", failing)
    with db.transaction() as txn:
        with pytest.raises(DiskFullError):
            txn.table("ticks").append(batch(100_000))
        assert len(txn.table("ticks")) == 0
        txn.table("ticks").append(batch(10))
    check_rows(table, 10)
    assert db.check() == []


def test_names_are_one_namespace(db: Database, table: Table) -> None:
    db.keyspace("users")[b"a"] = b"b"
    with pytest.raises(TypeError, match="keyspace"):
        db.table("users")
    with pytest.raises(TypeError, match="table"):
        db.keyspace("ticks")[b"a"]
    with pytest.raises(ValueError, match="already"):
        db.create_table("ticks", {"x": "i4"})
    with pytest.raises(KeyError):
        db.table("nothing")
    for names in ((db.tables, ["ticks"]), (db.keyspaces, ["users"]), (db.arrays, [])):
        assert names[0]() == names[1]


def test_a_table_is_found_by_its_name(db: Database, table: Table) -> None:
    db.drop("ticks")
    with pytest.raises(KeyError):
        table.append(batch(1))
    db.create_table("ticks", {"x": "i4"}).append({"x": [1, 2]})
    assert table.columns == ("x",) and table["x"].tolist() == [1, 2]


def test_columns_rows_and_slices(table: Table) -> None:
    table.append(batch(10))
    with pytest.raises(KeyError, match="'ts', 'sym'"):
        table["nothing"]
    assert table[3]["px"] == table[-7]["px"] == 3 / 7 and table[np.int8(3)]["sym"] == "3"
    assert list(table[3]) == list(table.columns)
    for row in (10, -11, 2**70):
        with pytest.raises(IndexError, match="of 10"):
            table[row]
    part = table[2:5]
    assert len(part) == 3 and part.numbers == range(2, 5) and part.columns == table.columns
    np.testing.assert_array_equal(part["px"], np.arange(2, 5) / 7)
    assert np.shares_memory(part["px"], table["px"]) and not part["px"].flags.writeable
    assert [len(table[where]) for where in (slice(5, 2), slice(50, 60), slice(-3, None), slice(None, None, 3))] == [
        0, 0, 3, 4,
    ]  # fmt: skip
    assert table[::-1]["sym"].tolist() == [str(i) for i in range(9, -1, -1)]
    for some in ([5, -1, 5], np.array([5, 9, 5], "u1"), range(5, 6)):
        assert table[some]["sym"].tolist() == [table[int(row)]["sym"] for row in some]
    mask = np.arange(10) % 2 == 0
    assert table[mask]["sym"].tolist() == ["0", "2", "4", "6", "8"] == table[mask.tolist()]["sym"].tolist()
    assert len(table[[]]) == len(table[np.zeros(10, "?")]) == len(table[np.zeros(0)]) == 0
    for wrong in (("px", "ts"), ["px"]):
        with pytest.raises(TypeError, match="one column"):
            table[wrong]
    for wrong in (None, 1.0, [1.5], [[1, 2]], {"a": 1}):
        with pytest.raises(TypeError, match="row numbers or a mask"):
            table[wrong]
    for wrong in (mask[:5], True):
        with pytest.raises(IndexError, match="mask of 10 rows"):
            table[wrong]
    with pytest.raises(IndexError, match="row 10 of 10"):
        table[[0, 10]]
    assert "px" in table and "pz" not in table and table and "ticks" in repr(table)
    assert [len(rows) for rows in table] == [10]


def test_an_empty_table(db: Database, table: Table) -> None:
    assert len(table) == table.live_rows == 0 and table and list(table) == []
    assert len(table[:]) == len(table.take([])) == 0 and table[:].tolist() == []
    assert table["emb"].shape == (0, 8) and table.deleted.shape == (0,)
    assert table.delete([]) == table.update([], {"px": []}) == table.compact() == 0
    assert table.to_arrow().num_rows == len(table.to_pandas()) == 0
    with pytest.raises(IndexError):
        table[0]
    with pytest.raises(SchemaError, match="no key"):
        table.find([1])


def test_views_survive_closing(path: Path) -> None:
    db = mmstore.open(path, durability="relaxed")
    table = db.create_table("t", {"x": "i8"})
    table.append({"x": np.arange(100_000)})
    view = table["x"]
    db.close()
    with pytest.raises(ClosedError):
        table["x"]
    with mmstore.open(path, durability="relaxed") as again:
        again.drop("t")
        for n in range(100):
            again.create_table(f"t{n}", {"x": "i8"}).append({"x": np.full(100_000, -1)})
            again.drop(f"t{n}")
        np.testing.assert_array_equal(view, np.arange(100_000))
        del view
        gc.collect()
        assert again.check() == []


def test_damage_in_a_small_column_is_found_when_it_is_read(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        table = db.create_table("t", {"x": "S16"})
        table.append({"x": [b"sixteen bytes 00"] * 1000})
    data = bytearray(path.read_bytes())
    at = data.index(b"sixteen bytes 00" * 9)  # not in the statistics
    data[at] ^= 1
    path.write_bytes(data)
    with mmstore.open(path, "r") as db:
        with pytest.raises(CorruptError):
            db.table("t")["x"]
        assert {problem.where for problem in db.check()} == {"'t', column 'x'"}


def test_threads_read_while_one_appends(db: Database) -> None:
    table = db.create_table("t", {"x": "i8"})
    problems: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            array = table["x"]
            if len(array) % 500 or (len(array) and (array[-1] != len(array) - 1 or array[0] != 0)):
                problems.append(f"{len(array)} rows end with {array[-3:]}")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(0, 50_000, 500):
        table.append({"x": np.arange(start, start + 500)})
    done.set()
    for thread in threads:
        thread.join()
    assert not problems and table["x"].tolist() == list(range(50_000))


def test_rows_come_back_from_the_log(db: Database, table: Table, path: Path, tmp_path: Path) -> None:
    db.checkpoint()
    for start in range(0, 100, 10):
        table.append(batch(10, start))
    db.drop("ticks")
    other = db.create_table("other", SCHEMA)
    other.append(batch(7))
    copy = tmp_path / "copy.mms"
    for suffix in ("", "-wal"):  # as a killed process leaves the two files behind
        shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    with mmstore.open(copy) as again:
        assert again.tables() == ["other"] and again.check() == []
        check_rows(again.table("other"), 7)
        again.table("other").append(batch(3, 7))
        check_rows(again.table("other"), 10)
    check_rows(other, 7)


def test_a_handle_that_may_not_write_shows_what_it_recovered(
    db: Database, table: Table, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.append(batch(10))
    db.checkpoint()
    copy = tmp_path / "copy.mms"
    shutil.copyfile(path, copy)  # the rows to come will be in the log alone
    table.append(batch(1000, 10))
    shutil.copyfile(f"{path}-wal", f"{copy}-wal")
    before = copy.read_bytes()
    real = PosixFilesystem.open

    def denied(self: Any, name: str, **options: Any) -> Any:
        if options.get("write", True):
            raise PermissionError(errno.EACCES, "not for you", name)
        return real(self, name, **options)

    monkeypatch.setattr(PosixFilesystem, "open", denied)
    with mmstore.open(copy, "r") as reader:
        check_rows(reader.table("ticks"), 1010)
        kept = reader.table("ticks")["px"]
        with reader.snapshot() as snapshot:
            check_rows(snapshot.table("ticks"), 1010)
    np.testing.assert_array_equal(kept, np.arange(1010) / 7)
    assert copy.read_bytes() == before


def test_a_forked_child_reads_on(db: Database, table: Table) -> None:
    table.append(batch(1000))
    view = table["px"]
    child = os.fork()
    if child == 0:  # no fixture and no pytest in the child
        try:
            check_rows(table, 1000)
            table.append(batch(10, 1000))
            check_rows(table, 1010)
            os._exit(0 if view[-1] == 999 / 7 else 2)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    check_rows(table, 1010)
    np.testing.assert_array_equal(view, np.arange(1000) / 7)


def test_in_memory() -> None:
    with mmstore.open(":memory:") as db:
        table = db.create_table("ticks", SCHEMA)
        table.append(batch(1000))
        table.append(batch(1000, 1000))
        check_rows(table, 2000)
        assert db.check() == []


def test_rows_without_columns(db: Database) -> None:
    """A selection of no columns has its rows: they can be counted, and none of the others is read."""
    table = db.create_table("t", {"x": "i8", "s": "utf8"}, key="x")
    table.append({"x": range(5), "s": list("abcde")})
    table.delete([1])
    taken = table.take([4, 0, 0], [])
    assert (
        len(taken) == 3 and taken.tolist() == [{}] * 3 and taken.columns == () and taken.numbers.tolist() == [4, 0, 0]
    )
    assert len(table.take([], [])) == 0 and table.take([], []).tolist() == []
    assert sum(map(len, table.scan([]))) == 4
    assert [list(rows.numbers) for rows in table.scan([], where=[("s", ">", "b")], batch_rows=2)] == [[2, 3], [4]]
    assert len(table.lookup([4, 2], [])) == 2
    with pytest.raises(KeyError):
        table.lookup([9], [])
    assert table.to_arrow([]).num_rows == 4 and taken.to_arrow().num_rows == 3
    assert table.to_pandas([]).shape == table.to_polars([]).shape == (4, 0)
    with db.transaction() as txn:
        assert len(txn.table("t").take([0], [])) == 1
    with pytest.raises(SchemaError, match="1 to 65,535 columns, found 0"):
        db.create_table("none", taken.schema)
