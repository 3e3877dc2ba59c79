"""Arrays: numpy's own behaviour on the newest state, and what transactions and snapshots add to it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mmstore
from mmstore.database.database import Database
from mmstore.errors import ClosedError, ReadOnlyError, SchemaError


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("f4", (0, 768)), ("i8", (5,)), ("i8", 5), ("u1", (3, 2, 2)), ("M8[us]", (4,)), ("S5", (4, 2)), ("?", (9,)),
     ("c16", (2, 3)), (np.dtype(">i4"), 3), ("V3", 2), ("U2", (2, 2)), (int, (np.int64(2),)), ("f2", (0,))],
)  # fmt: skip
def test_arrays_of_every_type(any_db: Database, dtype: Any, shape: Any) -> None:
    array = any_db.create_array("a", dtype, shape)
    expected = np.zeros(shape, np.dtype(dtype).newbyteorder("<"))
    assert array.shape == expected.shape and array.dtype == expected.dtype and array.ndim == expected.ndim
    assert len(array) == len(expected) and array and repr(array) == "<mmstore.Array 'a'>"
    items = np.arange(3 * int(np.prod(expected.shape[1:])))
    more = items.astype(expected.dtype if expected.dtype.kind not in "V" else "S3")
    more = more.view(expected.dtype).reshape(3, *expected.shape[1:])
    assert array.append(more) == range(len(expected), len(expected) + 3)
    expected = np.concatenate([expected, more])
    np.testing.assert_array_equal(array[:], expected)
    np.testing.assert_array_equal(np.asarray(array), expected)
    assert array[:].flags.c_contiguous and array[:].ctypes.data % 64 == 0 and not array[:].flags.writeable
    assert np.shares_memory(array[1:3], array[:]) and np.shares_memory(np.asarray(array), array[...])
    assert any_db.arrays() == ["a"] and any_db.tables() == []


@pytest.fixture
def array(any_db: Database) -> Any:
    array = any_db.create_array("a", "f4", (0, 4))
    array.append(np.arange(40).reshape(10, 4))
    return array


def test_reading(array: Any) -> None:
    model = np.arange(40, dtype="f4").reshape(10, 4)
    for index in (3, -1, slice(2, 5), (slice(None), 1), (2, 3), [1, 5, 1], model[:, 0] > 20, ..., None, (..., 0), ()):
        np.testing.assert_array_equal(array[index], model[index])
    for index in (10, -11, (0, 4), [10], "x", 1.5):
        with pytest.raises(IndexError):
            array[index]
    assert array[2:5].base is not None and list(map(list, array)) == model.tolist() and 5.0 in array
    assert np.array(array, "f8").dtype == np.float64 and np.asarray(array, dtype="f4").base is not None
    assert np.array(array, copy=True).flags.writeable and not np.asarray(array).flags.writeable
    with pytest.raises(ValueError, match="without a copy"):
        np.array(array, dtype="f8", copy=False)
    assert (np.sqrt(array) == np.sqrt(model)).all() and np.mean(array, axis=0).tolist() == model.mean(axis=0).tolist()
    found = np.from_dlpack(array)
    assert np.shares_memory(found, array[:]) and not found.flags.writeable
    np.testing.assert_array_equal(found, model)
    with pytest.raises(ValueError):
        array[:][0] = 1


def test_appending(array: Any) -> None:
    assert array.append([[1, 2, 3, 4.5]]) == range(10, 11)
    assert array.append(np.zeros((0, 4))) == array.append([]) == range(11, 11)
    assert array.append(np.asfortranarray(np.ones((2, 4)))) == range(11, 13)
    assert array.append(array[:2]) == range(13, 15)
    assert array[10].tolist() == [1, 2, 3, 4.5] and array.shape == (15, 4)
    wrong: list[Any] = [
        [1, 2, 3, 4],
        [[1, 2, 3]],
        np.zeros((2, 4, 1)),
        [["a"] * 4],
        5,
        None,
        [[None] * 4],
        np.full((1, 4), 0.1),
    ]
    for data in wrong:
        with pytest.raises(SchemaError, match="'values'|array"):
            array.append(data)
    assert len(array) == 15


def test_resize(any_db: Database, array: Any) -> None:
    view = array[:]
    array.resize(12)
    assert array.shape == (12, 4) and not array[10:].any() and array[9, 3] == 39
    array.resize(2)
    array.resize(5)
    assert array[:].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0] * 4, [0] * 4, [0] * 4]
    array.resize(0)
    assert array.shape == (0, 4) and array[:].shape == (0, 4)
    array.resize(np.int32(70_000))
    array[69_999] = 1
    array.resize(70_000)
    assert array[:].sum() == 4 and view.tolist() == np.arange(40).reshape(10, 4).tolist()
    for length in (-1, 1.5, "2", True, None, (3, 4), 2**70):
        with pytest.raises((ValueError, TypeError)):
            array.resize(length)
    assert len(array) == 70_000


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("utf8", 3), ("category", 3), ("object", 3), (mmstore.nullable("i4"), 3), ("list(i4)", 3), ("decimal128(5,2)", 3),
     ("date32", 3), ("f4", ()), ("f4", (-1, 2)), ("f4", (0, 0)), ("f4", (2.5,)), ("f4", "3"), ("f4", (True,)),
     ("f4", None), ("f4", (2**62, 3)), ("f4", (0, 2**40)), ([("a", "i4")], 3)],
)  # fmt: skip
def test_what_cannot_be_an_array(any_db: Database, dtype: Any, shape: Any) -> None:
    with pytest.raises(SchemaError):
        any_db.create_array("a", dtype, shape)
    assert any_db.arrays() == []


def test_names(any_db: Database, array: Any) -> None:
    with pytest.raises(SchemaError, match="array already"):
        any_db.create_table("a", {"x": "i4"})
    with pytest.raises(TypeError, match="is a array|is an array"):
        any_db.table("a")
    any_db.create_table("t", {"x": "i4"})
    with pytest.raises(TypeError, match="table"):
        any_db.array("t")
    with pytest.raises(KeyError):
        any_db.array("zz")
    any_db.drop("a")
    with pytest.raises(KeyError):
        array[:]
    with pytest.raises(KeyError):
        array.append([[1] * 4])


def test_transactions_and_snapshots(any_db: Database, array: Any) -> None:
    model = np.arange(40, dtype="f4").reshape(10, 4)
    with any_db.snapshot() as snap:
        old = snap.array("a")
        with pytest.raises(ZeroDivisionError), any_db.transaction() as txn:
            mine = txn.array("a")
            mine[2:4] = 7
            mine.append(np.ones((100, 4)))
            assert mine[2, 0] == 7 and mine.shape == (110, 4) and array.shape == (10, 4)
            raise ZeroDivisionError
        np.testing.assert_array_equal(array[:], model)
        with any_db.transaction() as txn:
            mine = txn.array("a")
            mine[0] = 1
            with pytest.raises(KeyError), txn.savepoint():
                mine[:] = 0
                mine.resize(3)
                raise KeyError
            assert mine.shape == (10, 4) and mine[0].tolist() == [1] * 4 and mine[9, 3] == 39
            made = txn.create_array("b", "i8", 3)
            made[1] = 5
            assert made[:].tolist() == [0, 5, 0]
        assert array[0].tolist() == [1] * 4 and any_db.array("b")[:].tolist() == [0, 5, 0]
        np.testing.assert_array_equal(old[:], model)
        assert old.shape == (10, 4) and snap.arrays() == ["a"]
        for write in (lambda: old.append([[1] * 4]), lambda: old.resize(1), lambda: old.__setitem__(0, 1)):
            with pytest.raises(ReadOnlyError):
                write()
        kept = old[:]
    with pytest.raises(ClosedError):
        old[:]
    with pytest.raises(ClosedError):
        mine[0] = 2
    np.testing.assert_array_equal(kept, model)


def test_views_outlive_everything(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        array = db.create_array("a", "i8", 100_000)
        array[:] = np.arange(100_000)
        views = [array[:], array[500:600], np.from_dlpack(array)]
        array[::7] = -1
        array.resize(10)
        array.append(np.arange(200_000))
        db.drop("a")
        for i in range(40):
            db[b"%d" % i] = bytes(50_000)
    for view, expected in zip(views, (range(100_000), range(500, 600), range(100_000)), strict=True):
        np.testing.assert_array_equal(view, expected)


def test_pickling(path: Path, db: Database) -> None:
    array = db.create_array("a", "i8", 3)
    table = db.create_table("t", {"x": "i8"})
    for thing in (array, table):
        again = pickle.loads(pickle.dumps(thing))
        assert type(again) is type(thing) and again.name == thing.name and len(again) == len(thing)
        again._database.close()
    with db.snapshot() as snap, db.transaction() as txn:
        for thing in (snap.array("a"), txn.array("a"), snap.table("t"), txn.table("t")):
            with pytest.raises(TypeError, match="pickle"):
                pickle.dumps(thing)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array[:])), [0, 0, 0])


# --- assignment, as numpy does it ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def memory() -> Iterator[Database]:
    with mmstore.open(":memory:") as db:
        yield db
        assert db.check() == []


shapes = st.sampled_from([(7,), (1,), (0,), (6, 3), (5, 2, 2), (40, 1)])


@settings(max_examples=150 if mmstore.compiled() else 50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), shape=shapes)
def test_assignment_is_numpys(memory: Database, data: st.DataObject, shape: tuple[int, ...]) -> None:
    model = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    with memory.transaction() as txn:
        array = txn.create_array("a", "i4", shape)
        array[...] = model
        assigned(data, array, model, shape)
        txn.rollback()


def assigned(data: st.DataObject, array: Any, model: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    """Assign the same to both."""
    index = data.draw(
        st.one_of(
            hnp.basic_indices(shape, allow_newaxis=False),
            st.lists(st.integers(-shape[0] - 1, shape[0]), max_size=5),
            hnp.arrays(np.bool_, shape[0]),
            st.tuples(hnp.arrays(np.bool_, shape[0]), *[st.integers(0, n - 1) for n in shape[1:]]),
            st.tuples(st.lists(st.integers(0, max(shape[0] - 1, 0)), min_size=2, max_size=2)),
            hnp.arrays(np.bool_, shape),
        ),
        "index",
    )
    try:
        target = model[index].shape
    except IndexError:
        with pytest.raises((IndexError, TypeError)):
            array[index] = 0
        np.testing.assert_array_equal(array[:], model)
        return
    value = data.draw(
        st.one_of(
            st.integers(-1000, -1).map(np.int32),
            st.just(np.arange(np.prod(target), dtype="i4").reshape(target) - 5000),
            hnp.arrays(
                np.int32,
                hnp.broadcastable_shapes(target, max_dims=len(target), min_side=0),
                elements=st.integers(-99, -1),
            ),
            st.just(np.zeros((3, 5, 7), "i4")),
            st.lists(st.integers(-9, -1), min_size=1, max_size=3),
        ),
        "value",
    )
    try:
        model[index] = value
    except TypeError:  # of a list for a single element, which numpy doesn't take, but arrays of one
        return
    except ValueError:
        with pytest.raises(ValueError):
            array[index] = value
    else:
        array[index] = value
    np.testing.assert_array_equal(array[:], model)


def test_values_that_do_not_fit(any_db: Database) -> None:
    array = any_db.create_array("a", "i2", (4, 2))
    txn = any_db.txn_id
    for value in (1.5, "a", None, 2**15, [1, 2, 3], [[1, 2]] * 2, np.array(0.5), [None, 1]):
        with pytest.raises(ValueError):
            array[1:] = value
    with pytest.raises(IndexError):
        array[True] = 1
    with pytest.raises(IndexError):
        array[4] = 1
    with pytest.raises((IndexError, TypeError)):
        array["x"] = 1
    assert any_db.txn_id == txn and not array[:].any()
    array[0] = np.int64(5)
    array[1] = [True, 7]
    array[2:, 1] = np.array([8, 9], "u1")
    assert array[:].tolist() == [[5, 5], [1, 7], [0, 8], [0, 9]]
    floats = any_db.create_array("f", "f4", (2, 2))
    floats[0] = 0.1  # a literal has no width of its own
    floats[1] = [0.1, 1 / 3]
    assert floats[:].tolist() == np.array([[0.1, 0.1], [0.1, 1 / 3]], "f4").tolist()
    with pytest.raises(SchemaError, match="would change"):
        floats[0] = np.float64(0.1)


def test_compact_gathers_what_changes_have_scattered(db: Database) -> None:
    """Fewer runs, the same values, old views as they were; then there is nothing to do."""

    def runs() -> int:
        entry = db.reader.read(lambda state: state.entry(b"a"))
        assert entry is not None
        return sum(len(part.runs) for part in entry.sequences)

    model = np.arange(640_000.0).reshape(-1, 32)
    array = db.create_array("a", "f8", (0, 32))
    array.append(model)
    txn_id, before = db.txn_id, runs()
    with db.transaction() as txn:
        txn.array("a").compact()
    assert db.txn_id == txn_id and runs() == before
    for row in range(0, len(model), 512):  # every second piece of 64 KiB
        model[row] = array[row] = -1
    view, scattered = array[:], runs()
    assert scattered > 60 > before
    array.compact()
    assert runs() <= before + 4 < scattered / 3
    np.testing.assert_array_equal(array[:], model)
    np.testing.assert_array_equal(view, model)
    for row in range(0, len(model), 512):
        model[row] = array[row] = -2
    assert runs() > 60 and db.compact() == 0 and runs() <= before + 4
    gathered = db.txn_id
    array.compact()
    assert db.txn_id == gathered and db.check() == []
    array.append(model[:3])
    np.testing.assert_array_equal(array[-3:], model[:3])
    with db.snapshot() as snapshot, pytest.raises(ReadOnlyError):
        snapshot.array("a").compact()
