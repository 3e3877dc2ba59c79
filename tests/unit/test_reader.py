"""Columns as arrays: zero-copy, contiguous, read-only for good, alive through growth."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from columnspace import ColumnFile
from mmstore.columns import reader, rows, sequence
from mmstore.columns.extents import Extent, Runs
from mmstore.columns.reader import ColumnReader, copied
from mmstore.columns.schema import Column, Schema
from mmstore.columns.sequence import EMPTY, Sequence
from mmstore.disk import mapping
from mmstore.errors import CorruptError

F8 = Column("x", np.dtype("f8"))


def appended(file: ColumnFile, state: Sequence, values: Any) -> Sequence:
    return sequence.append(state, rows.raw(np.asarray(values)), file.space())


@pytest.fixture
def file() -> ColumnFile:
    return ColumnFile(gap=16)


@pytest.fixture
def columns(file: ColumnFile) -> ColumnReader:
    return ColumnReader(file.backend, file.space())


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_column_over_many_runs_is_one_contiguous_array(file: ColumnFile, columns: ColumnReader) -> None:
    state, values = EMPTY, np.random.default_rng(0).random(500_000)
    for at in range(0, len(values), 9_999):
        state = appended(file, state, values[at : at + 9_999])
    array = columns.column((1, 0), F8, state, len(values))
    assert len(state.runs) > 5
    assert array.flags.c_contiguous and address(array) % 64 == 0 and array.dtype == np.dtype("<f8")
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize(
    "spec", ["?", "i1", "f2", "c16", "M8[ns]", "m8[25us]", "S5", "U3", "V7", ("f4", 64), ("S3", (2, 2))], ids=str
)
def test_every_type_is_shown_as_it_was_stored(spec: Any, file: ColumnFile, columns: ColumnReader) -> None:
    column = Schema.of({"x": spec})["x"]
    data = np.random.default_rng(1).integers(0, 2, 1000 * column.row_size, np.uint8)
    expected = np.frombuffer(data.tobytes(), column.dtype).reshape(1000, *column.shape)
    state = appended(file, EMPTY, data)
    for array in (columns.column((1, 0), column, state, 1000), copied(column, state, file.space(), 0, 1000)):
        assert array.shape == expected.shape and array.dtype == expected.dtype
        assert array.tobytes() == expected.tobytes() and address(array) % 64 == 0 and not array.flags.writeable


def test_arrays_can_never_be_made_writeable(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(10.0))
    for array in (
        columns.column((1, 0), F8, state, 10),
        columns.column((1, 0), F8, EMPTY, 0),
        copied(F8, state, file.space(), 2, 5),
    ):
        for part in (array, array[:], array.view("u1"), array.reshape(-1, 1)):
            assert not part.flags.writeable
            with pytest.raises(ValueError):
                part.flags.writeable = True
            with pytest.raises(ValueError):
                part[...] = 0


def test_arrays_are_zero_copy_and_show_no_more_than_their_rows(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(100_000.0))
    array = columns.column((1, 0), F8, state, 50_000)
    assert len(array) == 50_000
    file.backend.pwrite(np.array([7.5]).tobytes(), state.runs[0].start * 4096 + 8 * 40_000)
    assert array[40_000] == 7.5


def test_growth_keeps_the_address_and_older_arrays(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(10.0))
    first = columns.column((1, 0), F8, state, 10)
    for _ in range(8):
        file.txn += 1
        state = appended(file, state, np.arange(30_000.0))
        latest = columns.column((1, 0), F8, state, state.length // 8)
        assert address(latest) == address(first)
    np.testing.assert_array_equal(first, np.arange(10.0))
    np.testing.assert_array_equal(latest[-30_000:], np.arange(30_000.0))
    del first
    gc.collect()
    np.testing.assert_array_equal(latest[10:30_010], np.arange(30_000.0))


def test_joined_runs_share_the_mapping_of_the_ones_they_were(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(20_000.0))
    first = columns.column((1, 0), F8, state, 20_000)
    (run,) = state.runs
    parted = replace(state, runs=Runs.of((run._replace(pages=3), Extent(run.start + 3, run.pages - 3, 1))))
    assert address(columns.column((1, 0), F8, parted, 20_000)) == address(first)


def test_other_pages_get_another_mapping(file: ColumnFile, columns: ColumnReader) -> None:
    before = appended(file, EMPTY, np.arange(3000.0))
    old = columns.column((1, 0), F8, before, 3000)
    after = appended(file, sequence.truncate(before, 8 * 1000, file.space()), -np.arange(2000.0))
    new = columns.column((1, 0), F8, after, 3000)
    np.testing.assert_array_equal(new, np.concatenate([np.arange(1000.0), -np.arange(2000.0)]))
    np.testing.assert_array_equal(old, np.arange(3000.0))
    np.testing.assert_array_equal(columns.column((1, 0), F8, before, 3000), np.arange(3000.0))


def test_release_is_told_once_when_the_last_view_is_gone(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(1000.0))
    released: deque[str] = deque()
    array = columns.column((1, 0), F8, state, 1000, lambda: released.append("first"))
    other = columns.column((1, 0), F8, state, 1000, lambda: released.append("second"))
    part = memoryview(array[10:20])
    del array
    gc.collect()
    assert not released
    del other
    gc.collect()
    assert list(released) == ["second"]
    columns.clear()
    assert part[0] == 10.0
    del part
    gc.collect()
    assert list(released) == ["second", "first"]
    empty = columns.column((1, 0), F8, EMPTY, 0, lambda: released.append("empty"))
    assert empty.shape == (0,) and released[-1] == "empty"


def test_mappings_are_given_back(file: ColumnFile, columns: ColumnReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAPS_KEPT", 3)
    gc.collect()
    before = mapping.mappings_in_use()
    state = appended(file, EMPTY, np.arange(1000.0))
    kept = columns.column((0, 0), F8, state, 1000)
    for n in range(1, 20):
        columns.column((n, 0), F8, state, 1000)
    each = 2  # a run and what lies behind it
    assert mapping.mappings_in_use() == before + each * 4
    columns.clear()
    assert mapping.mappings_in_use() == before + each
    np.testing.assert_array_equal(kept, np.arange(1000.0))
    del kept
    assert mapping.mappings_in_use() == before


def test_without_mappings_left_columns_are_copied(
    file: ColumnFile, columns: ColumnReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "BUDGET", 0)
    state = appended(file, EMPTY, np.arange(1000.0))
    array = columns.column((1, 0), F8, state, 1000)
    np.testing.assert_array_equal(array, np.arange(1000.0))
    assert not array.flags.writeable


def test_small_columns_are_verified_before_they_are_shown(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(20_000.0))
    file.flip(state.runs[0].start * 4096 + 100_000)
    released: list[int] = []
    with pytest.raises(CorruptError):
        columns.column((1, 0), F8, state, 20_000, lambda: released.append(1))
    assert released == [1]
    file.flip(state.runs[0].start * 4096 + 100_000)
    assert columns.column((1, 0), F8, state, 20_000)[-1] == 19_999
    # Found whole once, a block isn't read again, but what was added since is.
    longer = appended(file, state, np.arange(10_000.0))
    file.flip(state.runs[0].start * 4096)
    columns.column((1, 0), F8, longer, 30_000)
    file.flip(longer.runs[-1].start * 4096 + 8)
    with pytest.raises(CorruptError):
        columns.column((1, 0), F8, appended_elsewhere(longer), 30_000)


def appended_elsewhere(state: Sequence) -> Sequence:
    """The same state as another root might have it, not seen by the reader yet."""
    return Sequence(state.length, state.high, state.tail_checksum ^ 1, state.runs, state.sums_runs)


def test_large_columns_are_not_read_through(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(200_000.0))
    file.flip(state.runs[0].start * 4096)
    assert columns.column((1, 0), F8, state, 200_000)[-1] == 199_999
    assert len(list(sequence.verify(state, file.space()))) == 1


def test_a_private_store_copies_out_of_its_own_memory(file: ColumnFile) -> None:
    state = appended(file, EMPTY, np.arange(1000.0))
    released: list[int] = []
    columns = ColumnReader(file.backend, file.space())
    array = columns.column((1, 0), F8, state, 1000, lambda: released.append(1), private=True)
    np.testing.assert_array_equal(array, np.arange(1000.0))
    assert released == [1] and not array.flags.writeable


def test_after_rebinding_new_arrays_come_from_the_new_descriptor(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(1000.0))
    old = columns.column((1, 0), F8, state, 1000)
    other = file.backend.reopen()
    file.backend.close()
    file.backend = other
    columns.rebind(other, file.space())
    np.testing.assert_array_equal(columns.column((1, 0), F8, state, 1000), old)


def test_arrays_take_weak_references(file: ColumnFile, columns: ColumnReader) -> None:
    array = columns.column((1, 0), F8, appended(file, EMPTY, np.arange(3.0)), 3)
    assert weakref.ref(array)() is array
