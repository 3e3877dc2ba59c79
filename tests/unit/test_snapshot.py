"""Snapshots: one unchanging state, which blocks nobody."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import mmstore
from mmstore.database.database import Database


def test_it_is_a_mapping_that_never_changes(any_db: Database) -> None:
    any_db.update({b"a": b"1", b"large": b"x" * 100_000})
    any_db.keyspace("s")[b"k"] = b"v"
    table = any_db.create_table("t", {"x": "i8"})
    table.append({"x": [1, 2]})
    with any_db.snapshot() as snapshot:
        assert isinstance(snapshot, Mapping) and snapshot.txn_id == any_db.txn_id
        expected = dict(any_db)
        for turn in range(200):  # well beyond the grace of freed pages
            any_db[b"a"] = b"%d" % turn
            any_db[b"large"] = bytes([turn]) * 100_000
        any_db[b"b"] = b""
        any_db.drop("s")
        any_db.keyspace("new")[b"n"] = b""
        table.append({"x": [3]})
        assert dict(snapshot) == expected and len(snapshot) == 2 and b"b" not in snapshot
        assert snapshot[b"a"] == b"1" and snapshot.get(b"b") is None and snapshot.view(b"large") == b"x" * 100_000
        assert snapshot.get_many([b"a", b"b"]) == [b"1", None] and sorted(snapshot) == [b"a", b"large"]
        assert dict(snapshot.keyspace("s")) == {b"k": b"v"} and snapshot.keyspaces() == ["s"]
        assert snapshot.tables() == ["t"] and snapshot.table("t")["x"].tolist() == [1, 2]
        assert len(snapshot.table("t")) == 2 and len(snapshot.keyspace("new")) == 0
        any_db.drop("t")
        assert snapshot.table("t")["x"].tolist() == [1, 2]
        with pytest.raises(KeyError):
            snapshot[b"b"]
        with pytest.raises(KeyError):
            snapshot.table("u")
    assert any_db[b"a"] == b"199" and any_db.tables() == []


def test_it_cannot_be_written(db: Database) -> None:
    db.create_table("t", {"x": "i8"})
    with db.snapshot() as snapshot:
        for name in ("put", "__setitem__", "__delitem__", "update", "clear", "pop", "put_many"):
            assert not hasattr(snapshot, name)
        with pytest.raises(mmstore.ReadOnlyError, match="snapshot"):
            snapshot.table("t").append({"x": [1]})


def test_closing_it(db: Database) -> None:
    db[b"a"] = b"1"
    snapshot = db.snapshot()
    items = iter(snapshot.items())
    space = snapshot.keyspace("s")
    snapshot.close()
    snapshot.close()
    for call in (
        lambda: snapshot[b"a"],
        lambda: len(snapshot),
        lambda: list(snapshot),
        lambda: next(items),
        lambda: snapshot.view(b"a"),
        lambda: snapshot.table("t"),
        lambda: snapshot.keyspaces(),
        lambda: space.get(b"a"),
        lambda: snapshot.__enter__(),
    ):
        with pytest.raises(mmstore.ClosedError, match="this snapshot is closed"):
            call()
    assert snapshot.txn_id == db.txn_id and db.readers() == []


def test_it_is_itself(db: Database) -> None:
    with db.snapshot() as one, db.snapshot() as two:
        assert one == one and one != two and len({one, two}) == 2
        assert one.keyspace("a") == two.keyspace("b") == {}


def test_a_forgotten_one_pins_nothing(db: Database) -> None:
    db[b"a"] = b"1"
    snapshot = db.snapshot()
    assert len(db.readers()) == 1
    del snapshot
    gc.collect()
    assert db.readers() == []


def test_it_never_waits_for_a_writer_nor_a_writer_for_it(path: Path) -> None:
    with mmstore.open(path, timeout=0.0) as db, mmstore.open(path, timeout=0.0) as twin:
        db[b"a"] = b"1"
        with db.transaction() as txn:
            txn[b"a"] = b"2"
            with db.snapshot() as one, twin.snapshot() as two:
                assert one[b"a"] == two[b"a"] == b"1"
                txn.commit()
                twin[b"a"] = b"3"
                db.checkpoint()
                assert one[b"a"] == two[b"a"] == b"1"
        assert db[b"a"] == b"3"


def test_pages_come_back_when_it_goes(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        db.update({b"%d" % n: b"v" * 100 for n in range(2000)})
        rounds = 1000 if mmstore.compiled() else 300
        with db.snapshot() as snapshot:
            expected = dict(snapshot)
            for n in range(rounds):
                db[b"%d" % (n * 7 % 2000)] = b"w" * 100
            assert db.stats()["pages"]["held"] > 50
            assert dict(snapshot) == expected
        for n in range(rounds):
            db[b"%d" % (n * 7 % 2000)] = b"x" * 100
        db.checkpoint()
        for _ in range(200):
            db[b"0"] = b"y"
        assert db.stats()["file_size"] <= 12 << 20 and db.check() == []


def test_many_at_once_each_with_its_state(any_db: Database) -> None:
    count = 300 if mmstore.compiled() else 100
    with contextlib.ExitStack() as stack:
        held = []
        for n in range(count):
            any_db[b"n"] = b"%d" % n
            any_db[b"%d" % (n % 50)] = b"%d" % n * 30
            held.append((n, stack.enter_context(any_db.snapshot()), dict(any_db)))
        for n, snapshot, expected in held:
            assert snapshot[b"n"] == b"%d" % n and dict(snapshot) == expected
        for _, snapshot, _ in held[::2]:
            snapshot.close()
        for n in range(100):
            any_db[b"n"] = b"%d" % n
        for _, snapshot, expected in held[1::2]:
            assert dict(snapshot) == expected
        assert any_db.check() == []


def test_one_snapshot_serves_many_threads(db: Database) -> None:
    db.update({b"%d" % n: b"v%d" % n for n in range(1000)})
    failures: list[BaseException] = []
    with db.snapshot() as snapshot:
        expected = dict(snapshot)

        def read(seed: int) -> None:
            try:
                for n in range(10):
                    assert dict(snapshot) == expected
                    assert snapshot[b"%d" % (seed * n)] == b"v%d" % (seed * n)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for n in range(200):
            db[b"%d" % n] = b"other"
        for thread in threads:
            thread.join(60)
    assert failures == []


def test_snapshots_of_a_reading_handle_pin_too(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as writer, mmstore.open(path, "r") as reader:
        writer.update({b"%d" % n: b"v" * 100 for n in range(300)})
        with reader.snapshot() as snapshot:
            expected = dict(snapshot)
            for n in range(600):
                writer[b"%d" % (n % 300)] = b"w" * 100
            writer.checkpoint()
            for n in range(600):
                writer[b"%d" % (n % 300)] = b"x" * 100
            assert dict(snapshot) == expected and writer.check() == []
        assert dict(reader) == dict(writer)


def test_snapshots_without_the_right_to_write_pin_too(path: Path, unwritable: Callable[[], None]) -> None:
    with mmstore.open(path, durability="relaxed") as writer:
        writer.update({b"%d" % n: b"v" * 100 for n in range(300)})
        writer[b"large"] = b"x" * 100_000
        unwritable()
        with mmstore.open(path, "r") as reader, reader.snapshot() as snapshot:
            expected, view = dict(snapshot), reader.view(b"large")
            for n in range(1200):
                writer[b"%d" % (n % 300)] = b"w" * 100
                if n % 20 == 0:
                    writer[b"large"] = bytes([n % 256]) * 100_000
            assert dict(snapshot) == expected and view == b"x" * 100_000
            assert dict(reader) == dict(writer)
        assert view == b"x" * 100_000 and writer.check() == []


def test_columns_outlive_it(db: Database) -> None:
    table = db.create_table("t", {"x": "f8"})
    table.append({"x": np.arange(1000.0)})
    with db.snapshot() as snapshot:
        column = snapshot.table("t")["x"]
    for _ in range(100):
        table.append({"x": np.zeros(1000)})
    np.testing.assert_array_equal(column, np.arange(1000.0))
