"""What operations on tables cost, counted and not timed: syncs, bytes, pages, looks at what is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmstore
from mmstore import format as fmt
from mmstore.columns import arrays
from mmstore.database.database import Database
from mmstore.disk import libc
from mmstore.disk.posix import PosixBackend

BLOCK = fmt.BLOCK_ROWS
SCHEMA = {"id": "i8", "px": "f8", "size": "f4", "place": "i4"}


class Calls:
    """The backend's calls: (name, file, offset, bytes) of each."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, int, int]] = []

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.all)

    @property
    def placed(self) -> list[tuple[int, int]]:
        """(offset, bytes) of the writes into the data file."""
        return [(at, n) for name, file, at, n in self.all if name == "pwrite" and not file.endswith("-wal")]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    found = Calls()

    def counted(name: str) -> None:
        true = getattr(PosixBackend, name)

        def call(self: PosixBackend, *args: Any) -> Any:
            at, n = 0, 0
            if name == "pwrite":
                at, n = args[1], memoryview(args[0]).nbytes
            elif name == "pread":
                n, at = args
            found.all.append((name, self.name, at, n))
            return true(self, *args)

        monkeypatch.setattr(PosixBackend, name, call)

    for name in ("sync_data", "sync_range", "sync_all", "pwrite", "pread"):
        counted(name)
    yield found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.mms"


def rows(n: int, start: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(start)
    return {
        "id": np.arange(start, start + n),
        "px": rng.random(n),
        "size": rng.random(n, dtype="f4"),
        "place": rng.integers(0, 100, n, dtype="i4"),
    }


def resident(array: np.ndarray[Any, Any]) -> int:
    """Pages of an array that are mapped into this process's own page table."""
    address = array.__array_interface__["data"][0]
    n = -(-array.nbytes // libc.PAGE)
    with open("/proc/self/pagemap", "rb") as table:
        table.seek(address // libc.PAGE * 8)
        entries = np.frombuffer(table.read(8 * n), "<u8")
    return int(((entries >> 63) & 1).sum())


# --- appending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [1_000, 300_000])
def test_a_small_append_is_one_sync_and_few_bytes(path: Path, calls: Calls, before: int) -> None:
    with mmstore.open(path) as db:
        table = db.create_table("t", SCHEMA)
        table.append(rows(before))
        for at in range(3):
            table.append(rows(100, at))
        writes = []
        for at in range(11):
            calls.all.clear()
            table.append(rows(100, at))
            syncs = [call for call in calls.all if call[0].startswith("sync")]
            assert [call[0] for call in syncs] == ["sync_data"]
            # The rows; a page of the catalog, and two at most for the entry; what the free list says of them.
            assert sum(n for _, n in calls.placed) <= 100 * 24 + 3 * 4096 + 512
            writes.append(len(calls.placed))
            assert calls.count("pread") == 0  # the ends of the columns, which are hashed on, aren't read again
        assert sorted(writes)[5] <= 4 + 3 and max(writes) <= 8 + 5  # twice as many where the rows go on in other runs
        assert db.check() == []


def test_what_its_handle_wrote_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmstore.catalog.entry import Entry

    unpacked = []
    true = Entry.unpack.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Entry], *args: Any) -> Any:
        unpacked.append(args)
        return true(cls, *args)

    with mmstore.open(path) as db:
        table = db.create_table("t", SCHEMA)
        table.append(rows(10))
        monkeypatch.setattr(Entry, "unpack", classmethod(counted))
        for at in range(5):
            table.append(rows(10, at))
            assert len(table) == 20 + 10 * at
            table.take([0])
        assert not unpacked
        with mmstore.open(path) as other:
            other.table("t").append(rows(10))
            assert len(unpacked) == 1  # once, though it is asked for to convert rows, to append and to publish
        assert len(table) == 70 and len(unpacked) == 2


def test_what_is_known_of_the_catalog_is_what_it_has(path: Path) -> None:
    """After each change the entries that the handle remembers are those that another handle reads."""

    def same(db: Database) -> None:
        with db.snapshot() as snapshot:
            stored = {name.encode(): entry for name, entry in snapshot.state.names()}
            known = db.session.known(snapshot.state.root)
            assert known.items() <= stored.items() and known

    with mmstore.open(path) as db:
        table = db.create_table("t", {**SCHEMA, "name": "utf8"}, key="id")
        same(db)
        table.append({**rows(100), "name": ["x"] * 100})
        same(db)
        table.update([3, 5], {"px": [1.0, 2.0], "name": ["long text", ""]})
        same(db)
        table.delete([7])
        same(db)
        with db.transaction() as txn:
            inside = txn.table("t")
            inside.add_column("new", "i4", 7)
            with pytest.raises(ZeroDivisionError), txn.savepoint():
                inside.rename_column("new", "other")
                txn.drop("t")
                raise ZeroDivisionError
            txn.keyspace("k").put(b"a", b"b")
            txn.create_array("a", "f4", (10,))
        same(db)
        assert "new" in db.table("t")
        with pytest.raises(ZeroDivisionError), db.transaction() as txn:
            txn.table("t").drop_column("new")
            raise ZeroDivisionError
        assert "new" in db.table("t")
        db.keyspace("k").put(b"c", b"d")
        same(db)
        table.compact()
        same(db)
        db.drop("t")
        same(db)
        assert db.tables() == [] and db.check() == []


def test_a_large_append_is_written_once(path: Path, calls: Calls) -> None:
    batch = rows(200_000)
    with mmstore.open(path) as db:
        table = db.create_table("t", SCHEMA)
        table.append(rows(100))
        calls.all.clear()
        table.append(batch)
        assert sum(n for _, n in calls.placed) <= 200_000 * 24 + 16 * 4096
        assert sum(call[0].startswith("sync") for call in calls.all) <= 5


# --- changing ----------------------------------------------------------------------------------------


def test_an_update_of_a_row_copies_a_piece_of_each_column(path: Path, calls: Calls) -> None:
    with mmstore.open(path) as db:
        table = db.create_table("t", SCHEMA)
        table.append(rows(500_000))
        db.checkpoint()
        for columns in (["px"], list(SCHEMA)):
            calls.all.clear()
            table.update([123_456], {name: [1] for name in columns})
            bulk = [n for _, n in calls.placed if n > 4096]
            assert len(bulk) <= len(columns) and max(bulk) <= fmt.BLOCK_SIZE
            # Besides: their checksums, statistics, the entry, the catalog, the free list.
            assert sum(n for _, n in calls.placed) <= len(columns) * (fmt.BLOCK_SIZE + 2 * 4096) + 4 * 4096
        assert db.check() == []


# --- reading -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="no telling which pages are mapped")
def test_a_scan_touches_the_blocks_that_can_match(path: Path) -> None:
    with mmstore.open(path) as db:
        numbers = np.arange(24 * BLOCK)
        db.create_table("t", {"id": "i8", "px": "f8"}).append({"id": numbers, "px": numbers * 0.5})
    with mmstore.open(path) as db:
        table = db.table("t")
        ids, prices = table["id"], table["px"]
        assert resident(ids) == 0 == resident(prices)
        found = list(table.scan(["px"], [("id", ">=", 3 * BLOCK + 10), ("id", "<", 3 * BLOCK + 20)]))
        assert sum(map(len, found)) == 10
        block = BLOCK * 8 // libc.PAGE
        assert 0 < resident(ids) <= block + 2 * 512  # the system maps some pages around each one, or a huge one
        assert list(table.scan(["px"], [("id", "<", 0)])) == []
        assert resident(ids) <= block + 2 * 512 < 24 * block / 2
        found[0]["px"].sum()
        assert 0 < resident(prices) <= 2 * 512


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="no telling which pages are mapped")
def test_opening_and_export_touch_no_rows(path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    with mmstore.open(path) as db:
        db.create_table("t", SCHEMA).append(rows(4 * BLOCK))
    with mmstore.open(path) as db:
        table = db.table("t")
        column = table["px"]
        exported = table.to_arrow()
        assert isinstance(exported, pa.Table) and exported.num_rows == 4 * BLOCK == len(column)
        assert resident(column) == 0
        assert table[10:20].views[1].values.base is not None and resident(column) == 0


def test_text_is_checked_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each export, as long as the handle shows the same pages; of what was appended only the new rows."""
    pytest.importorskip("pyarrow")
    seen = []
    for name in ("check_offsets", "check_utf8", "check_codes"):
        true = getattr(arrays, name)

        def counted(*args: Any, name: str = name, true: Any = true) -> Any:
            offsets = args[1] if name == "check_utf8" else args[0]
            seen.append((name, len(offsets)))
            return true(*args)

        monkeypatch.setattr(arrays, name, counted)

    def looked() -> dict[str, int]:
        total: dict[str, int] = {}
        for name, n in seen:
            total[name] = total.get(name, 0) + n
        seen.clear()
        return total

    with mmstore.open(path) as db:
        table = db.create_table("t", {"a": "utf8", "b": "category", "c": "list(i4)"})
        table.append({"a": ["text"] * 1000, "b": ["word"] * 1000, "c": [[1, 2]] * 1000})
        first = table.to_arrow()
        total = looked()
        assert total["check_utf8"] == 1001 and total["check_codes"] == 1000
        assert total["check_offsets"] == 2 * 1001 + 2  # and the words'
        assert table.to_arrow() == first
        assert looked().keys() <= {"check_offsets"}  # of the words, which are few
        table.append({"a": ["new"] * 10, "b": ["other"] * 10, "c": [[3]] * 10})
        table.to_arrow()
        total = looked()
        assert total["check_utf8"] == 11 and total["check_codes"] == 10
        table.update([5], {"a": ["changed"]})  # on other pages from there on
        assert table.to_arrow()["a"][5].as_py() == "changed"
        assert looked()["check_utf8"] == 1011
