"""What operations cost, counted and not timed: syncs, pages, bytes, files."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmstore
from children import Child
from mmstore.database.database import Database
from mmstore.disk.posix import PosixBackend
from mmstore.pages.workspace import Workspace

LONG = os.environ.get("MMSTORE_STRESS") == "long"
SYNCS = ("sync_data", "sync_range", "sync_all")


class Calls:
    """Counts the backend's calls; ``placed`` has the (offset, size) of each write into the data file."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.placed: list[tuple[int, int]] = []

    @property
    def syncs(self) -> int:
        return sum(self.counts[name] for name in SYNCS)

    def pages(self, page_size: int) -> set[int]:
        """Numbers of the data file's pages that were written."""
        return {page for at, n in self.placed for page in range(at // page_size, -(-(at + n) // page_size))}

    def clear(self) -> None:
        self.counts.clear()
        self.placed.clear()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    found = Calls()
    for name in (*SYNCS, "pwrite", "pread", "allocate", "truncate", "write_back"):
        true = getattr(PosixBackend, name)

        def counted(self: PosixBackend, *args: Any, name: str = name, true: Any = true) -> Any:
            found.counts[name] += 1
            if name == "pwrite" and "-wal" not in self.name:
                found.placed.append((args[1], len(memoryview(args[0]).cast("B"))))
            return true(self, *args)

        monkeypatch.setattr(PosixBackend, name, counted)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.mms"


def fill(db: Database, count: int) -> None:
    rng = np.random.default_rng(1)
    for start in range(0, count, 50_000):
        numbers = np.arange(start, min(start + 50_000, count))
        db.put_many(numbers, rng.integers(0, 255, (len(numbers), 100)).astype("u1"))


# --- syncs -------------------------------------------------------------------------------------------


def test_one_sync_for_a_small_durable_commit(path: Path, calls: Calls) -> None:
    with mmstore.open(path) as db:
        db.create_table("t", {"x": "i8"})
        changes = [
            lambda: db.put(b"a", b"1"),
            lambda: db.put(b"a", b"2" * 1000),
            lambda: db.put(b"large", b"x" * 100_000),
            lambda: db.pop(b"a"),
            lambda: db.update({b"%d" % n: b"v" for n in range(1000)}),
            lambda: db.keyspace("new").put(b"k", b"v"),
            lambda: db.table("t").append({"x": range(100)}),
            lambda: db.drop("new"),
        ]
        for change in changes:
            calls.clear()
            before = db.stats()["syncs"]
            change()
            assert calls.syncs == 1 == calls.counts["sync_data"] and db.stats()["syncs"] == before + 1
        calls.clear()
        for n in range(300):
            db[b"k%d" % (n % 10)] = b"%d" % n
        assert calls.syncs == 300


def test_no_sync_for_relaxed_commits_nor_for_reading(path: Path, calls: Calls) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        db[b"a"] = b"1"  # makes the log
        calls.clear()
        for n in range(300):
            db[b"k%d" % n] = b"%d" % n
        assert calls.syncs == 0
        db.sync()
        assert calls.syncs == 1
        calls.clear()
        dict(db)
        db.view(b"a")
        db.check()
        db.stats()
        with db.snapshot() as snapshot:
            len(snapshot)
        assert calls.syncs == 0 == calls.counts["pwrite"]


def test_commits_of_many_threads_share_syncs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    true = PosixBackend.sync_data

    def slow(self: PosixBackend) -> None:
        syncs.append(1)
        time.sleep(0.003)
        true(self)

    with mmstore.open(path, timeout=60) as db:
        db[b"a"] = b"1"
        monkeypatch.setattr(PosixBackend, "sync_data", slow)

        def write(name: bytes) -> None:
            for n in range(30):
                db[name] = b"%d" % n

        threads = [threading.Thread(target=write, args=(b"%d" % n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert len(syncs) < 8 * 30 * 0.6 and {db[b"%d" % n] for n in range(8)} == {b"29"} and db.check() == []


def test_a_large_commit_is_written_once(path: Path, calls: Calls) -> None:
    with mmstore.open(path) as db:
        db[b"a"] = b"1"
        calls.clear()
        values = {b"%d" % n: os.urandom(1 << 20) for n in range(20)}
        db.update(values)
        assert sum(n for _, n in calls.placed) < 22 << 20
        assert calls.syncs <= 6


# --- pages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [4096, 16384])
def test_a_put_touches_few_pages_whatever_the_files_size(path: Path, page_size: int, calls: Calls) -> None:
    most = {}
    for count in (0, 1000, 60_000):
        with mmstore.open(path, "n", durability="relaxed", page_size=page_size) as db:
            fill(db, count)
            db.checkpoint()
            db[b"first"] = b"1"
            written = []
            rng = random.Random(2)
            for n in range(100):
                calls.clear()
                db[rng.randrange(1, 2 * count + 2).to_bytes(8, "little")] = b"%d" % n
                written.append(len(calls.pages(page_size)))
            most[count] = max(written)
            assert sorted(written)[50] <= 4  # directory, node, bucket, and the delta of the free list
    assert max(most.values()) <= 40, most  # a consolidation of the free list at most


def test_a_put_copies_at_most_four_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    true = Workspace.copy

    def counted(self: Workspace, ref: int) -> int:
        copies.append(ref)
        return true(self, ref)

    with mmstore.open(path, durability="relaxed") as db:
        fill(db, 50_000)
        space = db.keyspace("named")
        for source in (db, space):
            db.checkpoint()
            before = db.stats()["pages"]
            db_pages = []
            for n in range(60):
                monkeypatch.setattr(Workspace, "copy", counted)
                copies.clear()
                source[(n * 797).to_bytes(8, "little")] = b"w" * 100
                monkeypatch.undo()
                db_pages.append(db.stats()["pages"]["held"])
            # What was copied is held for a while: at most four pages a commit, and now and then the free list.
            grown = np.diff(np.array([before["held"], *db_pages]))
            assert sorted(grown)[len(grown) * 9 // 10] <= 4, grown.tolist()
            assert len(copies) <= 4


def test_buckets_are_well_filled(path: Path) -> None:
    count = 1_000_000 if LONG else 60_000 if mmstore.compiled() else 20_000
    with mmstore.open(path, durability="relaxed") as db:
        rng = np.random.default_rng(3)
        for _ in range(0, count, 20_000):
            keys = rng.integers(0, 1 << 62, 20_000)
            db.put_many(keys, np.zeros((20_000, 100), "u1"))
        stats = db.stats()
        record = 4 + 4 + 108  # entry, header, key and value
        assert stats["count"] * record / (stats["pages"]["index"] * 4096) > 0.72 and db.check() == []
        assert stats["count"] == count


# --- the file's size ---------------------------------------------------------------------------------


def test_overwrites_of_a_fixed_set_of_keys_keep_the_file_small(path: Path) -> None:
    rounds = 1_000_000 if LONG else 50_000 if mmstore.compiled() else 5_000
    with mmstore.open(path, durability="relaxed") as db:
        keys = [b"key%d" % n for n in range(1000)]
        db.put_many(keys, keys)
        for n in range(rounds):
            db[keys[n * 7 % 1000]] = b"%d" % n
        assert path.stat().st_size < 8 << 20 and db.check() == []
        # With a snapshot in between it grows, and comes back to use what it grew.
        with db.snapshot() as snapshot:
            expected = dict(snapshot)
            for n in range(rounds // 10):
                db[keys[n * 7 % 1000]] = b"s%d" % n
            assert dict(snapshot) == expected
        for n in range(rounds // 10):
            db[keys[n * 7 % 1000]] = b"%d" % n
        assert path.stat().st_size < 16 << 20 and db.check() == []


def test_large_values_replaced_over_and_over_keep_the_file_small(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        for n in range(400):
            db[b"%d" % (n % 4)] = bytes([n % 256]) * (200_000 + n * 100)
        size = path.stat().st_size
        for n in range(400):
            db[b"%d" % (n % 4)] = bytes([n % 256]) * (200_000 + n * 100)
        assert path.stat().st_size <= size + (8 << 20) and size < 96 << 20 and db.check() == []


def test_tables_made_and_dropped_keep_the_file_small(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        sizes = []
        for n in range(150):
            table = db.create_table(f"t{n}", {"x": "i8", "y": "f8"})
            table.append({"x": np.arange(20_000), "y": np.zeros(20_000)})
            table.append({"x": np.arange(5_000), "y": np.zeros(5_000)})
            db.drop(f"t{n}")
            sizes.append(path.stat().st_size)
        assert sizes[-1] <= sizes[len(sizes) // 2] + (8 << 20) and sizes[-1] < 128 << 20 and db.check() == []


def test_a_clean_close_leaves_one_file(path: Path) -> None:
    for durability in ("full", "relaxed"):
        with mmstore.open(path, durability=durability) as db:
            db[b"k"] = b"v"
            assert sorted(os.listdir(path.parent)) == ["data.mms", "data.mms-wal"]
        assert os.listdir(path.parent) == ["data.mms"]
    with mmstore.open(path, "r") as db:
        assert db[b"k"] == b"v"
    assert os.listdir(path.parent) == ["data.mms"]


# --- opening -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the cache can't be emptied here")
def test_opening_touches_few_pages(path: Path) -> None:
    """Of a file of 100 MB, whose size it doesn't depend on; counted in a file that no cache and no mapping holds."""
    with Child("workers", "fill_large", str(path)) as filler:
        filler.join()
    assert path.stat().st_size > 96 << 20
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    with Child("workers", "count_touched", str(path)) as opener:
        before, after = opener.hear()
        assert before < 2000, "the cache was not emptied"
        assert 0 <= after - before < 64
        opener.join()


def test_reading_allocates_nothing_in_the_file(path: Path) -> None:
    with mmstore.open(path) as db:
        fill(db, 5000)
    status = path.stat()
    with mmstore.open(path, "r") as db:
        dict(db)
    after = path.stat()
    assert (after.st_size, after.st_blocks) == (status.st_size, status.st_blocks)


# --- checkpoints -------------------------------------------------------------------------------------


def test_a_checkpoint_writes_what_changed_and_little_more(path: Path, calls: Calls) -> None:
    """1,000 random overwrites in a file of 30 MB; the pages were placed by their commits, the rest is two syncs."""
    with mmstore.open(path, durability="relaxed") as db:
        fill(db, 200_000 if mmstore.compiled() else 60_000)
        db.checkpoint()
        calls.clear()
        rng = random.Random(4)
        with db.transaction() as txn:
            for _ in range(1000):
                txn[rng.randrange(60_000).to_bytes(8, "little")] = b"w" * 100
        written = sum(n for _, n in calls.placed)
        assert written < 8 << 20
        calls.clear()
        db.checkpoint()
        assert len(calls.placed) == 2 and max(n for _, n in calls.placed) <= 512 and calls.syncs == 3


def test_checkpoints_keep_up_with_the_log(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        size = db.stats()["log"]["size"]
        for n in range(300):
            db[b"%d" % (n % 10)] = os.urandom(100_000)
            stats = db.stats()
            assert stats["log"]["used"] <= (stats["log"]["size"] or size)
        assert db.stats()["checkpoints"] >= 5
        assert os.path.getsize(f"{path}-wal") <= stats["log"]["size"] + 4096
