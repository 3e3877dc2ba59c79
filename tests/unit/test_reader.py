"""Sequences as memory: zero-copy, contiguous, read-only for good, alive through growth."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from typing import Any

import numpy as np
import pytest

from columnspace import ColumnFile
from mmstore.columns import bitmap, reader, sequence
from mmstore.columns.batch import raw
from mmstore.columns.extents import Extent, Runs
from mmstore.columns.reader import ColumnReader, copied
from mmstore.columns.sequence import EMPTY, Sequence
from mmstore.disk import mapping
from mmstore.errors import CorruptError


def appended(file: ColumnFile, state: Sequence, values: Any) -> Sequence:
    return sequence.append(state, raw(np.asarray(values)), file.space())


@pytest.fixture
def file() -> ColumnFile:
    return ColumnFile(gap=16)


@pytest.fixture
def columns(file: ColumnFile) -> ColumnReader:
    return ColumnReader(file.backend, file.space())


def shown(
    columns: ColumnReader, state: Sequence, release: Any = None, key: tuple[int, ...] = (1, 0), **options: Any
) -> np.ndarray[Any, Any]:
    """The whole sequence as f8."""
    memory, _ = columns.memory(key, state, release, **options)
    return np.frombuffer(memory, "f8")


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_column_over_many_runs_is_one_contiguous_array(file: ColumnFile, columns: ColumnReader) -> None:
    state, values = EMPTY, np.random.default_rng(0).random(500_000)
    for at in range(0, len(values), 9_999):
        state = appended(file, state, values[at : at + 9_999])
    array = shown(columns, state)
    assert len(state.runs) > 5
    assert array.flags.c_contiguous and address(array) % 64 == 0 and array.dtype == np.dtype("<f8")
    np.testing.assert_array_equal(array, values)


def test_arrays_can_never_be_made_writeable(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(10.0))
    for array in (
        shown(columns, state),
        shown(columns, EMPTY),
        np.frombuffer(copied(state, file.space(), 16, 40), "f8"),
    ):
        for part in (array, array[:], array.view("u1"), array.reshape(-1, 1)):
            assert not part.flags.writeable
            with pytest.raises(ValueError):
                part.flags.writeable = True
            with pytest.raises(ValueError):
                part[...] = 0


def test_memory_is_zero_copy_and_shows_no_more_than_its_state(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(50_000.0))
    appended(file, state, np.arange(100.0))
    array = shown(columns, state)
    assert len(array) == 50_000 and state.runs.pages * 4096 > array.nbytes
    file.backend.pwrite(np.array([7.5]).tobytes(), state.runs[0].start * 4096 + 8 * 40_000)
    assert array[40_000] == 7.5


def test_growth_keeps_the_address_and_older_arrays(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(10.0))
    first = shown(columns, state)
    for _ in range(8):
        file.txn += 1
        state = appended(file, state, np.arange(30_000.0))
        latest = shown(columns, state)
        assert address(latest) == address(first)
    np.testing.assert_array_equal(first, np.arange(10.0))
    np.testing.assert_array_equal(latest[-30_000:], np.arange(30_000.0))
    del first
    gc.collect()
    np.testing.assert_array_equal(latest[10:30_010], np.arange(30_000.0))


def test_joined_runs_share_the_mapping_of_the_ones_they_were(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(20_000.0))
    first = shown(columns, state)
    (run,) = state.runs
    parted = state._replace(runs=Runs.of((run._replace(pages=3), Extent(run.start + 3, run.pages - 3, 1))))
    assert address(shown(columns, parted)) == address(first)


def test_other_pages_get_another_mapping(file: ColumnFile, columns: ColumnReader) -> None:
    before = appended(file, EMPTY, np.arange(3000.0))
    old = shown(columns, before)
    after = appended(file, sequence.truncate(before, 8 * 1000, file.space()), -np.arange(2000.0))
    new = shown(columns, after)
    np.testing.assert_array_equal(new, np.concatenate([np.arange(1000.0), -np.arange(2000.0)]))
    np.testing.assert_array_equal(old, np.arange(3000.0))
    np.testing.assert_array_equal(shown(columns, before), np.arange(3000.0))


def test_release_is_told_once_when_the_last_view_is_gone(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(1000.0))
    released: deque[str] = deque()
    array = shown(columns, state, lambda: released.append("first"))
    other = shown(columns, state, lambda: released.append("second"))
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
    empty = shown(columns, EMPTY, lambda: released.append("empty"))
    assert empty.shape == (0,) and released[-1] == "empty"


def test_mappings_are_given_back(file: ColumnFile, columns: ColumnReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAPS_KEPT", 3)
    gc.collect()
    before = mapping.mappings_in_use()
    state = appended(file, EMPTY, np.arange(1000.0))
    kept = shown(columns, state, key=(0, 0))
    for n in range(1, 20):
        shown(columns, state, key=(n, 0))
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
    array = shown(columns, state)
    np.testing.assert_array_equal(array, np.arange(1000.0))
    assert not array.flags.writeable


def test_small_columns_are_verified_before_they_are_shown(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(20_000.0))
    file.flip(state.runs[0].start * 4096 + 100_000)
    released: list[int] = []
    with pytest.raises(CorruptError):
        shown(columns, state, lambda: released.append(1))
    assert released == [1]
    file.flip(state.runs[0].start * 4096 + 100_000)
    assert shown(columns, state)[-1] == 19_999
    # Found whole once, a block isn't read again, but what was added since is.
    longer = appended(file, state, np.arange(10_000.0))
    file.flip(state.runs[0].start * 4096)
    shown(columns, longer)
    file.flip(longer.runs[-1].start * 4096 + 8)
    with pytest.raises(CorruptError):
        shown(columns, appended_elsewhere(longer))


def appended_elsewhere(state: Sequence) -> Sequence:
    """The same state as another root might have it, not seen by the reader yet."""
    return Sequence(state.length, state.high, state.tail_checksum ^ 1, state.runs, state.sums_runs)


def test_large_columns_are_not_read_through(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(200_000.0))
    file.flip(state.runs[0].start * 4096)
    assert shown(columns, state)[-1] == 199_999
    assert len(list(sequence.verify(state, file.space()))) == 1


def test_a_private_store_copies_out_of_its_own_memory(file: ColumnFile) -> None:
    state = appended(file, EMPTY, np.arange(1000.0))
    released: list[int] = []
    columns = ColumnReader(file.backend, file.space())
    array = shown(columns, state, lambda: released.append(1), private=True)
    np.testing.assert_array_equal(array, np.arange(1000.0))
    assert released == [1] and not array.flags.writeable


def test_after_rebinding_new_arrays_come_from_the_new_descriptor(file: ColumnFile, columns: ColumnReader) -> None:
    state = appended(file, EMPTY, np.arange(1000.0))
    old = shown(columns, state)
    other = file.backend.reopen()
    file.backend.close()
    file.backend = other
    columns.rebind(other, file.space())
    np.testing.assert_array_equal(shown(columns, state), old)


def test_a_bitmap_shows_its_last_byte(file: ColumnFile, columns: ColumnReader) -> None:
    state = bitmap.append(EMPTY, np.arange(21) % 3 == 0, file.space())
    memory, _ = columns.memory((1, 0), state)
    assert len(memory) == 3 and bitmap.unpack(np.frombuffer(memory, np.uint8), 21).tolist() == [
        n % 3 == 0 for n in range(21)
    ]
    assert bytes(copied(state, file.space(), 0, state.extent)) == bytes(memory)


def test_arrays_take_weak_references(file: ColumnFile, columns: ColumnReader) -> None:
    array = shown(columns, appended(file, EMPTY, np.arange(3.0)))
    assert weakref.ref(array)() is array
