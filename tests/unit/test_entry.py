"""Catalog entries: round trips, and every way that hostile bytes can contradict themselves."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from columnspace import ColumnFile
from mmstore import format as fmt
from mmstore.catalog.entry import Entry
from mmstore.columns import sequence
from mmstore.columns.extents import Extent, Runs
from mmstore.columns.schema import Schema
from mmstore.columns.sequence import EMPTY
from mmstore.errors import CorruptError, Error, FormatError
from mmstore.keyspace.descriptor import IndexDescriptor

SCHEMA = Schema.of({"id": "i8", "name": "U10", "emb": ("f4", 16)})
INDEX = IndexDescriptor(root=70, nodes=1, pages=3, height=2, depth=0, flags=0, count=5, size=99)


def table(rows: int = 3000, schema: Schema = SCHEMA) -> tuple[Entry, int]:
    file = ColumnFile()
    states = tuple(sequence.append(EMPTY, bytes(rows * column.row_size), file.space()) for column in schema)
    return Entry(fmt.ENTRY_TABLE, 7, rows, schema=schema, sequences=states), file.pages


def test_entries_survive_the_file() -> None:
    entry, pages = table()
    array = Entry(fmt.ENTRY_ARRAY, 8, schema=Schema.of({"x": ("f4", 3)}), sequences=(EMPTY,))
    keyspace = Entry(fmt.ENTRY_KEYSPACE, 9, index=INDEX)
    for each in (entry, array, keyspace, Entry.keyspace(), Entry.table(SCHEMA)):
        assert Entry.unpack(each.pack(), 4096, pages) == each
        assert Entry.unpack(memoryview(each.pack()), 4096, pages) == each
    assert [each.kind_name for each in (entry, array, keyspace)] == ["table", "array", "keyspace"]


def test_an_entry_out_of_the_log_has_no_pages() -> None:
    for entry in (Entry.keyspace(), Entry.table(SCHEMA)):
        assert Entry.unpack(entry.pack(), 4096, 0) == entry
    for entry in (table()[0], Entry(fmt.ENTRY_KEYSPACE, index=INDEX)):
        with pytest.raises(CorruptError):
            Entry.unpack(entry.pack(), 4096, 0)


def forged(entry: Entry, **fields: Any) -> bytes:
    data = entry.pack()
    return fmt.ENTRY.pack(fmt.ENTRY.unpack(data) | fields) + data[fmt.ENTRY.size :]


ENTRY, PAGES = table()
KEYSPACE = Entry(fmt.ENTRY_KEYSPACE, 9, index=INDEX)
LAST = ENTRY.sequences[-1]
OUTSIDE = replace(LAST, runs=Runs.of((*LAST.runs[:-1], Extent(LAST.runs[-1].start, PAGES, 1))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: ENTRY.pack()[:63],
        lambda: ENTRY.pack()[:-1],
        lambda: ENTRY.pack() + b"\0",
        lambda: KEYSPACE.pack() + b"\0",
        lambda: forged(ENTRY, schema_size=1 << 31),
        lambda: forged(ENTRY, schema_size=0),
        lambda: forged(ENTRY, schema_size=10),
        lambda: forged(ENTRY, sequences=2),
        lambda: forged(ENTRY, sequences=0xFFFFFFFF),
        lambda: forged(ENTRY, rows=3001),
        lambda: forged(ENTRY, rows=(1 << 64) - 1),
        lambda: forged(ENTRY, kind=fmt.ENTRY_ARRAY),
        lambda: forged(ENTRY, kind=fmt.ENTRY_KEYSPACE),
        lambda: forged(KEYSPACE, rows=1),
        lambda: forged(KEYSPACE, sequences=1),
        lambda: forged(KEYSPACE, kind=fmt.ENTRY_TABLE),
        lambda: replace(ENTRY, sequences=(*ENTRY.sequences[:-1], OUTSIDE)).pack(),
        lambda: replace(ENTRY, sequences=ENTRY.sequences[::-1]).pack(),
    ],
)
def test_contradictions_are_corrupt(make: Callable[[], bytes]) -> None:
    with pytest.raises(CorruptError):
        Entry.unpack(make(), 4096, PAGES)


@pytest.mark.parametrize("fields", [{"kind": 0}, {"kind": 4}, {"version": 2}, {"reserved": 1}, {"reserved2": 1}])
def test_newer_entries_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(FormatError, match="newer"):
        Entry.unpack(forged(ENTRY, **fields), 4096, PAGES)


def test_any_damage_gives_an_error_or_an_entry_inside_the_file() -> None:
    rng = random.Random(1)
    data = ENTRY.pack()
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        cut = bytes(damaged[: rng.choice([len(data)] * 9 + [rng.randrange(len(data))])])
        try:
            entry = Entry.unpack(cut, 4096, PAGES)
        except Error:
            continue
        for state in entry.sequences:
            for run in state.runs + state.sums_runs:
                assert 64 <= run.start < run.start + run.pages <= PAGES
            assert state.length <= sum(run.pages for run in state.runs) * 4096
            assert state.blocks * 8 <= sum(run.pages for run in state.sums_runs) * 4096
