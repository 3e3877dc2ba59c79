"""Views of values and columns: zero-copy, read-only, and unchanged as long as they live (I2)."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import mmstore
from mmstore.database.database import Database


def churn(db: Database, commits: int = 150) -> None:
    """Commit beyond every grace, with growth and a checkpoint, so that whatever isn't pinned is used again."""
    for n in range(commits):
        db[b"churn%d" % (n % 5)] = bytes([n % 256]) * (120_000 if n % 10 == 0 else 1000)
        if n == commits // 2:
            db.checkpoint()
    for n in range(5):
        db.pop(b"churn%d" % n, None)


@pytest.mark.parametrize("size", [0, 1, 100, 1000, 5000, 100_000, 3_000_000])
def test_a_view_shows_the_value_it_was_made_of(any_db: Database, size: int) -> None:
    value = (b"0123456789" * (size // 10 + 1))[:size]
    any_db[b"k"] = value
    view = any_db.view(b"k")
    assert isinstance(view, memoryview) and view.readonly and len(view) == view.nbytes == size and view == value
    any_db[b"k"] = b"other" * 1000
    churn(any_db)
    assert view == value
    del any_db[b"k"]
    churn(any_db)
    assert view == value
    part = view[size // 4 : size // 2]
    array = np.frombuffer(view, np.uint8) if size else None
    del view
    churn(any_db)
    assert part == value[size // 4 : size // 2] and (array is None or array.tobytes() == value)
    del part
    churn(any_db)
    assert array is None or array.tobytes() == value


def test_nobody_can_write_through_a_view(db: Database) -> None:
    db.update({b"small": b"x" * 10, b"large": b"x" * 100_000})
    for key in (b"small", b"large"):
        view = db.view(key)
        with pytest.raises(TypeError):
            view[0] = 1
        array = np.frombuffer(view, np.uint8)
        for target in (array, array[:5], array.view("i2"), np.asarray(view)):
            with pytest.raises(ValueError, match="WRITEABLE"):
                target.flags.writeable = True
    table = db.create_table("t", {"x": "i8", "v": ("f4", 3)})
    table.append({"x": [1, 2, 3], "v": np.zeros((3, 3))})
    for name in ("x", "v"):
        column = table[name]
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
        for target in (column, column[1:], column.base if isinstance(column.base, np.ndarray) else column):
            with pytest.raises(ValueError, match="WRITEABLE"):
                target.flags.writeable = True


def test_a_large_view_copies_nothing(db: Database) -> None:
    db[b"k"] = b"x" * 4_000_000
    before = [np.frombuffer(db.view(b"k"), np.uint8).ctypes.data for _ in range(3)]
    assert before[0] == before[1] == before[2] and before[0] % 64 == 0


def test_a_missing_key_is_a_key_error_and_pins_nothing(db: Database) -> None:
    db[b"k"] = b"x" * 100_000
    for call in (lambda: db.view(b"none"), lambda: db.keyspace("none").view(b"k"), lambda: db.snapshot().view(b"x")):
        with pytest.raises(KeyError):
            call()
    gc.collect()
    assert db.readers() == [] and db.stats()["pins"] == 1  # stats' own snapshot


def test_pins_go_with_the_last_of_all_that_was_made_from_a_view(db: Database) -> None:
    db[b"k"] = b"x" * 100_000
    view = db.view(b"k")
    part, array = view[10:20], np.frombuffer(view, "u1")[5:50]
    casted = view.cast("I")
    pins = [db.readers()[0].pins]
    del view, part, casted
    gc.collect()
    pins.append(db.readers()[0].pins)
    assert pins == [1, 1] and array.tobytes() == b"x" * 45
    del array
    gc.collect()
    assert db.readers() == []


def test_a_released_memoryview_lets_go(db: Database) -> None:
    db[b"k"] = b"x" * 100_000
    with db.view(b"k") as view:
        assert len(view) == 100_000
    gc.collect()
    assert db.readers() == []


def test_views_hold_runs_but_no_index_pages(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        db[b"k"] = b"x" * 100_000
        view = db.view(b"k")
        for n in range(3000 if mmstore.compiled() else 600):
            db[b"n%d" % (n % 3)] = b"%d" % n
        stats = db.stats()
        assert stats["file_size"] <= 8 << 20 and view == b"x" * 100_000


def test_a_view_made_inside_a_snapshot_outlives_it(db: Database) -> None:
    db[b"k"] = b"x" * 100_000
    with db.snapshot() as snapshot:
        db[b"k"] = b"y" * 100_000
        churn(db)
        view = snapshot.view(b"k")
    churn(db)
    assert view == b"x" * 100_000 and db.view(b"k") == b"y" * 100_000


def test_views_stay_through_growth_of_the_file(path: Path) -> None:
    with mmstore.open(path) as db:
        db[b"k"] = b"x" * 100_000
        table = db.create_table("t", {"x": "i8"})
        table.append({"x": np.arange(50_000)})
        views = [db.view(b"k") for _ in range(3)]
        column = table["x"]
        size = path.stat().st_size
        for n in range(20):
            db[b"%d" % n] = bytes(4_000_000)
        assert path.stat().st_size > 10 * size
        assert all(view == b"x" * 100_000 for view in views)
        np.testing.assert_array_equal(column, np.arange(50_000))


# --- columns -----------------------------------------------------------------------------------------


def test_a_column_is_one_contiguous_array_over_the_file(any_db: Database) -> None:
    table = any_db.create_table("t", {"x": "i8", "y": "f4", "v": ("f4", 5), "when": "datetime64[ns]"})
    rng = np.random.default_rng(1)
    expected: dict[str, list[np.ndarray]] = {"x": [], "y": [], "v": [], "when": []}
    views = []
    for count in (1, 0, 7, 500, 20_000, 3, 60_000):
        rows = {
            "x": rng.integers(0, 1 << 60, count),
            "y": rng.random(count, "f4"),
            "v": rng.random((count, 5), "f4"),
            "when": rng.integers(0, 1 << 60, count).astype("M8[ns]"),
        }
        table.append(rows)
        for name, parts in expected.items():
            parts.append(rows[name])
            column = table[name]
            whole = np.concatenate(parts)
            np.testing.assert_array_equal(column, whole)
            assert column.flags.c_contiguous and not column.flags.writeable and column.dtype == whole.dtype
            assert not len(column) or column.ctypes.data % 64 == 0
            views.append((column, whole))
    for column, whole in views:
        np.testing.assert_array_equal(column, whole)
    first, second = table["x"], table["x"]
    assert first.ctypes.data == second.ctypes.data


def test_columns_stay_as_they_were(any_db: Database) -> None:
    table = any_db.create_table("t", {"x": "i8"})
    kept = []
    total = 0
    for n in range(60):
        kept.append((table["x"], total))
        with any_db.transaction() as txn:
            rows = n * 37
            txn.table("t").append({"x": np.arange(total, total + rows)})
            txn[b"n"] = b"%d" % n
        total += rows
        with pytest.raises(ZeroDivisionError), any_db.transaction() as txn:
            txn.table("t").append({"x": np.full(1000, -1)})
            raise ZeroDivisionError
    any_db.drop("t")
    table = any_db.create_table("t", {"x": "i8"})
    table.append({"x": np.full(100_000, -2)})
    churn(any_db)
    for column, rows in kept:
        np.testing.assert_array_equal(column, np.arange(rows))


def test_what_it_costs_in_mappings_is_given_back(db: Database) -> None:
    def mappings() -> int:
        with open("/proc/self/maps") as file:
            return sum(1 for _ in file)

    if not os.path.exists("/proc/self/maps"):
        return
    table = db.create_table("t", {f"c{n}": "i8" for n in range(20)})
    before = mappings()
    for _ in range(30):
        table.append({name: np.arange(200) for name in table.columns})
        for name in table.columns:
            table[name].sum()
    gc.collect()
    assert mappings() < before + 20 * 12 and db.readers() == []


# --- the end -----------------------------------------------------------------------------------------


def test_views_outlive_close(path: Path) -> None:
    db = mmstore.open(path)
    db[b"k"] = b"x" * 200_000
    table = db.create_table("t", {"x": "i8"})
    table.append({"x": np.arange(30_000)})
    view, column = db.view(b"k"), table["x"]
    db.close()
    assert view == b"x" * 200_000
    np.testing.assert_array_equal(column, np.arange(30_000))
    with mmstore.open(path, timeout=2) as again:
        assert len(again.readers()) == 1
        again[b"k"] = b"y" * 200_000
        again.drop("t")
        churn(again)
        assert view == b"x" * 200_000 and again.check() == []
        np.testing.assert_array_equal(column, np.arange(30_000))
        with pytest.raises(mmstore.ClosedError):
            db[b"k"]
        del view
        assert len(again.readers()) == 1
        del column
        gc.collect()
        assert again.readers() == []
        churn(again)
        assert again.check() == []
    assert os.listdir(path.parent) == ["data.mms"]


def test_descriptors_and_mappings_are_given_back(path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.exists("/proc/self/fd"):
        return
    mmstore.open(path).close()
    gc.collect()
    before = descriptors()
    for _ in range(8):
        with mmstore.open(path) as db:
            db[b"k"] = b"x" * 100_000
            view = db.view(b"k")
            with db.snapshot():
                pass
            kept = db.view(b"k")
        assert view == kept
        del view, kept
        gc.collect()
    assert descriptors() <= before


def test_a_database_and_its_views_are_freed_by_counting_alone(path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        db = mmstore.open(path)
        db[b"k"] = b"x" * 100_000
        view = db.view(b"k")
        alive = weakref.ref(view.obj) if hasattr(view.obj, "__weakref__") else None
        del view
        assert db.readers() == [] and (alive is None or alive() is None)
        db.close()
    finally:
        gc.enable()


def test_views_do_not_pickle_as_views(db: Database) -> None:
    db[b"k"] = b"x" * 100_000
    with pytest.raises(TypeError):
        pickle.dumps(db.view(b"k"))
    table = db.create_table("t", {"x": "i8"})
    table.append({"x": [1, 2, 3]})
    copy = pickle.loads(pickle.dumps(table["x"]))
    assert copy.tolist() == [1, 2, 3] and copy.flags.writeable


@pytest.mark.skipif(sys.platform != "linux", reason="counts faults of a mapping as Linux does")
def test_a_store_that_grows_under_a_reader_of_another_handle(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as writer, mmstore.open(path, "r") as reader:
        views = []
        for n in range(12):
            writer[b"k"] = bytes([n]) * 3_000_000
            views.append((n, reader.view(b"k")))
            assert reader[b"k"] == bytes([n]) * 3_000_000
        for n, view in views:
            assert view == bytes([n]) * 3_000_000
