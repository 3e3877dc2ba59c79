"""Catalog entries: round trips, and every way that hostile bytes can contradict themselves."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from columnspace import ColumnFile
from mmstore import format as fmt
from mmstore.catalog import tables
from mmstore.catalog.entry import Entry
from mmstore.columns.extents import Extent, Runs
from mmstore.columns.schema import Schema
from mmstore.columns.types import nullable
from mmstore.errors import CorruptError, Error, FormatError
from mmstore.exchange import convert
from mmstore.keyspace.descriptor import IndexDescriptor

SCHEMA = Schema.of({"id": "i8", "name": "U10", "emb": ("f4", 16)})
WIDE = Schema.of(
    {"id": "i8", "n": nullable("f4"), "t": "utf8", "c": nullable("category"), "b": "binary", "l": "list(i2)"}, key="id"
)
INDEX = IndexDescriptor(root=70, nodes=1, pages=3, height=2, depth=0, flags=0, count=5, size=99)


def table(rows: int = 3000, schema: Schema = SCHEMA) -> tuple[Entry, int]:
    file = ColumnFile()
    entry = Entry.table(schema)._replace(id=7)
    zeros = {column.name: np.zeros((rows, *column.shape), column.dtype) for column in schema}
    for batch in convert.batches(schema, zeros):
        entry = tables.append(entry, batch, file.space())
    return entry, file.pages


def wide(rows: int = 3001) -> tuple[Entry, int]:
    """A table of every layout, some of its rows deleted and some missing."""
    file = ColumnFile()
    n = range(rows)
    data = {
        "id": n,
        "n": [i if i % 3 else None for i in n],
        "t": [f"text {i}" for i in n],
        "c": ["abc"[i % 3] if i % 5 else None for i in n],
        "b": [b"x" * (i % 4) for i in n],
        "l": [[1] * (i % 3) for i in n],
    }
    entry = Entry.table(WIDE)._replace(id=7, index=INDEX)
    for batch in convert.batches(WIDE, data):
        entry = tables.append(entry, batch, file.space())
    return tables.delete(entry, np.array([1, 5, 2000]), file.space()), file.pages


def test_entries_survive_the_file() -> None:
    entry, pages = table()
    array = Entry.table(Schema.of({"x": ("f4", 3)}), fmt.ENTRY_ARRAY)._replace(id=8)
    keyspace = Entry(fmt.ENTRY_KEYSPACE, 9, index=INDEX)
    rich, more = wide()
    assert rich.deleted == 3 and rich.rows == 3001 and rich.marks.length == 3001
    assert Entry.unpack(rich.pack(), 4096, more) == rich
    for each in (entry, array, keyspace, Entry.keyspace(), Entry.table(SCHEMA), Entry.table(WIDE)):
        assert Entry.unpack(each.pack(), 4096, pages) == each
        assert Entry.unpack(memoryview(each.pack()), 4096, pages) == each
    assert [each.kind_name for each in (entry, array, keyspace)] == ["table", "array", "keyspace"]


def test_an_entry_out_of_the_log_has_no_pages() -> None:
    for entry in (Entry.keyspace(), Entry.table(SCHEMA), Entry.table(WIDE)):
        assert Entry.unpack(entry.pack(), 4096, 0) == entry
    for entry in (table()[0], wide()[0], Entry(fmt.ENTRY_KEYSPACE, index=INDEX)):
        with pytest.raises(CorruptError):
            Entry.unpack(entry.pack(), 4096, 0)


def forged(entry: Entry, **fields: Any) -> bytes:
    data = entry.pack()
    return fmt.ENTRY.pack(fmt.ENTRY.unpack(data) | fields) + data[fmt.ENTRY.size :]


def changed(entry: Entry, at: int, part: int, **fields: Any) -> bytes:
    """The entry with another state of a part of column `at`."""
    column = entry.columns[at]
    parts = list(column.parts)
    parts[part] = parts[part]._replace(**fields)
    columns = list(entry.columns)
    columns[at] = column._replace(parts=tuple(parts))
    return entry._replace(columns=tuple(columns)).pack()


ENTRY, PAGES = table()
RICH, MORE = wide()
KEYSPACE = Entry(fmt.ENTRY_KEYSPACE, 9, index=INDEX)
LAST = ENTRY.columns[-1].parts[-1]
OUTSIDE = Runs.of((*LAST.runs[:-1], Extent(LAST.runs[-1].start, PAGES, 1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: ENTRY.pack()[: fmt.ENTRY.size - 1],
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
        lambda: forged(ENTRY, deleted=1),
        lambda: forged(ENTRY, index=INDEX.pack()),
        lambda: forged(KEYSPACE, rows=1),
        lambda: forged(KEYSPACE, deleted=1),
        lambda: forged(KEYSPACE, sequences=1),
        lambda: forged(KEYSPACE, kind=fmt.ENTRY_TABLE),
        lambda: changed(ENTRY, 2, 0, runs=OUTSIDE),
        lambda: ENTRY._replace(columns=ENTRY.columns[::-1]).pack(),
        lambda: ENTRY._replace(columns=ENTRY.columns[:-1]).pack(),
        lambda: ENTRY._replace(columns=(*ENTRY.columns, ENTRY.columns[0])).pack(),
        lambda: changed(ENTRY, 0, 0, length=3000 * 8 - 1),
        lambda: changed(ENTRY, 0, 0, bits=1),
        lambda: ENTRY._replace(marks=ENTRY.marks._replace(bits=1)).pack(),
    ],
)
def test_contradictions_are_corrupt(make: Callable[[], bytes]) -> None:
    assert Entry.unpack(ENTRY.pack(), 4096, PAGES) == ENTRY
    with pytest.raises(CorruptError):
        Entry.unpack(make(), 4096, PAGES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: forged(RICH, rows=3000),
        lambda: forged(RICH, rows=0),
        lambda: forged(RICH, rows=1 << 40),
        lambda: forged(RICH, rows=1 << 63),
        lambda: forged(RICH, deleted=3002),
        lambda: forged(RICH, deleted=(1 << 64) - 1),
        lambda: forged(RICH, kind=fmt.ENTRY_ARRAY),
        lambda: RICH._replace(marks=RICH.marks._replace(length=3002, high=3002)).pack(),
        lambda: changed(RICH, 1, 0, bits=2, last=0),  # a bit more than rows
        lambda: changed(RICH, 1, 0, length=374),  # eight bits fewer
        lambda: changed(RICH, 1, 0, bits=0, last=0),
        lambda: changed(RICH, 1, 0, length=0, bits=1, last=1),
        lambda: changed(RICH, 2, 0, length=8 * 3001),
        lambda: changed(RICH, 2, 0, length=0),
        lambda: changed(RICH, 2, 1, bits=1),
        lambda: changed(RICH, 2, 1, length=1 << 63, high=1 << 63),
        lambda: changed(RICH, 3, 1, length=4 * 3000),
        lambda: changed(RICH, 3, 2, length=8),
        lambda: changed(RICH, 3, 2, length=31),
        lambda: changed(RICH, 3, 2, length=(1 << 64) - 8, high=(1 << 64) - 1),
        lambda: changed(RICH, 3, 3, length=1 << 40, high=1 << 40),
        lambda: changed(RICH, 5, 1, length=RICH.columns[5].parts[1].length - 1),
        lambda: RICH._replace(columns=tuple(c._replace(blocks=c.blocks._replace(bits=1)) for c in RICH.columns)).pack(),
        lambda: RICH._replace(columns=tuple(c._replace(tail=c.tail._replace(rows=3000)) for c in RICH.columns)).pack(),
        lambda: RICH._replace(columns=tuple(c._replace(tail=c.tail._replace(nulls=3002)) for c in RICH.columns)).pack(),
    ],
)
def test_contradictions_of_every_layout_are_corrupt(make: Callable[[], bytes]) -> None:
    with pytest.raises(CorruptError):
        Entry.unpack(make(), 4096, MORE)


@pytest.mark.parametrize("fields", [{"kind": 0}, {"kind": 4}, {"version": 2}, {"reserved": 1}, {"reserved2": 1}])
def test_newer_entries_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(FormatError, match="newer"):
        Entry.unpack(forged(ENTRY, **fields), 4096, PAGES)


@pytest.mark.parametrize(("entry", "pages"), [(ENTRY, PAGES), (RICH, MORE)], ids=["plain", "rich"])
def test_any_damage_gives_an_error_or_an_entry_inside_the_file(entry: Entry, pages: int) -> None:
    rng = random.Random(1)
    data = entry.pack()
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        cut = bytes(damaged[: rng.choice([len(data)] * 9 + [rng.randrange(len(data))])])
        try:
            found = Entry.unpack(cut, 4096, pages)
        except Error:
            continue
        for state in found.sequences:
            for run in state.runs + state.sums_runs:
                assert 64 <= run.start < run.start + run.pages <= pages
            assert state.extent <= sum(run.pages for run in state.runs) * 4096
            assert state.blocks * 8 <= sum(run.pages for run in state.sums_runs) * 4096
