"""Transactions and savepoints: all or nothing, one's own writes, one at a time."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmstore
from mmstore.database.database import Database
from mmstore.disk.posix import PosixBackend


class Stop(Exception):
    """Leaves a block."""


# --- all or nothing ----------------------------------------------------------------------------------


def test_everything_commits_together(any_db: Database) -> None:
    first = any_db.txn_id
    with any_db.transaction() as txn:
        txn[b"a"] = b"1"
        txn.put(b"b", b"2")
        txn.keyspace("users")[b"u"] = b"3"
        table = txn.create_table("t", {"x": "i8"})
        assert table.append({"x": [1, 2, 3]}) == range(3)
        assert any_db.keyspaces() == [] == any_db.tables() and len(any_db) == 0 and any_db.txn_id == first
        assert txn.txn_id == first + 1
    assert dict(any_db) == {b"a": b"1", b"b": b"2"} and dict(any_db.keyspace("users")) == {b"u": b"3"}
    assert any_db.table("t")["x"].tolist() == [1, 2, 3]
    assert any_db.txn_id == first + 1 == txn.txn_id


def test_an_exception_rolls_everything_back(any_db: Database) -> None:
    any_db[b"a"] = b"1"
    any_db.keyspace("old")[b"o"] = b"1"
    any_db.create_table("t", {"x": "i8"}).append({"x": [1]})
    first = any_db.txn_id
    with pytest.raises(Stop), any_db.transaction() as txn:
        txn[b"a"] = b"2"
        del txn[b"a"]
        txn.update({b"%d" % n: b"v" * n for n in range(2000)})
        txn.keyspace("new")[b"n"] = b"1"
        txn.drop("old")
        txn.table("t").append({"x": [2, 3]})
        txn.create_table("u", {"x": "i8"})
        raise Stop
    assert dict(any_db) == {b"a": b"1"} and any_db.keyspaces() == ["old"] and any_db.tables() == ["t"]
    assert any_db.table("t")["x"].tolist() == [1] and any_db.txn_id == first and any_db.check() == []
    any_db[b"b"] = b"2"
    assert any_db.check() == []


def test_commit_and_rollback_by_hand(db: Database) -> None:
    txn = db.transaction()
    txn[b"a"] = b"1"
    assert txn.commit() == db.txn_id == txn.txn_id
    for call in (
        lambda: txn.commit(),
        lambda: txn[b"a"],
        lambda: txn.put(b"a", b""),
        lambda: len(txn),
        lambda: list(txn),
        lambda: txn.keyspace("s").get(b"a"),
        lambda: txn.keyspace("s").put(b"a", b""),
        lambda: txn.create_table("t", {"x": "i8"}),
        lambda: txn.table("t"),
        lambda: txn.drop("t"),
        lambda: txn.savepoint().__enter__(),
        lambda: txn.__enter__(),
    ):
        with pytest.raises(mmstore.ClosedError, match="has ended; begin another"):
            call()
    txn.rollback()
    assert dict(db) == {b"a": b"1"}
    txn = db.transaction()
    del txn[b"a"]
    txn.rollback()
    txn.rollback()
    with pytest.raises(mmstore.ClosedError, match="was rolled back"):
        txn.commit()
    assert dict(db) == {b"a": b"1"}


def test_commit_inside_the_block_ends_it(db: Database) -> None:
    with db.transaction() as txn:
        txn[b"a"] = b"1"
        txn.commit()
    with db.transaction() as txn:
        txn[b"b"] = b"1"
        txn.rollback()
    assert dict(db) == {b"a": b"1"}


def test_a_transaction_that_changed_nothing_publishes_nothing(db: Database) -> None:
    first = db.txn_id
    with db.transaction() as txn:
        assert txn.get(b"a") is None and len(txn) == 0 and not txn.pop(b"a", False)
    assert db.txn_id == first == txn.txn_id


def test_own_writes_are_seen_and_others_are_not(db: Database) -> None:
    db[b"a"] = b"1"
    with db.transaction() as txn:
        txn[b"a"] = b"2"
        txn[b"b"] = b"3"
        space = txn.keyspace("s")
        space[b"c"] = b"4"
        assert dict(txn) == {b"a": b"2", b"b": b"3"} and len(txn) == 2 and txn.view(b"a") == b"2"
        assert txn.get_many([b"a", b"b", b"c"]) == [b"2", b"3", None] and dict(space) == {b"c": b"4"}
        assert dict(txn.keyspace("s")) == {b"c": b"4"}
        # through the handle: the committed state
        assert dict(db) == {b"a": b"1"} and db.get(b"b") is None and db.view(b"a") == b"1"
        assert db.keyspaces() == [] and len(db.keyspace("s")) == 0 and db.get_many([b"a", b"b"]) == [b"1", None]
        with db.snapshot() as snapshot:
            assert dict(snapshot) == {b"a": b"1"}
        del txn[b"a"]
        assert b"a" not in txn and db[b"a"] == b"1" and len(txn) == 1
    assert dict(db) == {b"b": b"3"}


def test_a_view_of_uncommitted_rows_is_a_copy(db: Database) -> None:
    table = db.create_table("t", {"x": "i8"})
    table.append({"x": np.arange(10)})
    with db.transaction() as txn:
        mine = txn.table("t")
        assert mine["x"].tolist() == list(range(10))
        mine.append({"x": [10]})
        seen = mine["x"]
        assert seen.tolist() == list(range(11)) and len(mine) == 11 and not seen.flags.writeable
        mine.append({"x": [11]})
        assert len(seen) == 11 and len(mine["x"]) == 12 and len(table) == 10 == len(table["x"])
        txn[b"large"] = b"x" * 100_000
        view = txn.view(b"large")
        txn[b"large"] = b"y" * 100_000
        assert view == b"x" * 100_000 and view.readonly
    assert seen.tolist() == list(range(11)) and len(table) == 12 and view == b"x" * 100_000


def test_changing_a_mapping_while_iterating_over_it_is_a_runtime_error(db: Database) -> None:
    db.update({b"%d" % n: b"v" for n in range(500)})
    db.keyspace("other").update({b"%d" % n: b"v" for n in range(500)})
    changes: list[Any] = [
        lambda txn: txn.put(b"new", b""),
        lambda txn: txn.__delitem__(b"1"),
        lambda txn: txn.clear(),
        lambda txn: txn.put_many([b"x"], [b"y"]),
        lambda txn: txn.delete_many([b"1"]),
        lambda txn: txn.popitem(),
    ]
    for change in changes:
        for name in (None, "other"):
            with pytest.raises(RuntimeError, match="changed"), db.transaction() as txn:
                mapping = txn if name is None else txn.keyspace(name)
                for position, _ in enumerate(mapping.items()):
                    if position == 7:
                        change(mapping)
    assert len(db) == 500 == len(db.keyspace("other"))
    with db.transaction() as txn:  # another keyspace may be changed, and this one after the end
        for key in txn:
            txn.keyspace("other")[key] = b"w"
        for key in list(txn):
            del txn[key]
    assert len(db) == 0 and set(db.keyspace("other").values()) == {b"w"}


# --- savepoints --------------------------------------------------------------------------------------


def test_a_savepoint_undoes_only_what_it_did(any_db: Database) -> None:
    any_db[b"0"] = b"0"
    any_db.create_table("t", {"x": "i8"}).append({"x": [0]})
    with any_db.transaction() as txn:
        txn[b"1"] = b"1"
        txn.table("t").append({"x": [1]})
        with pytest.raises(Stop), txn.savepoint():
            txn[b"1"] = b"2"
            del txn[b"0"]
            txn[b"2"] = b"2" * 100_000
            txn.keyspace("s")[b"x"] = b"y"
            txn.table("t").append({"x": [2, 3]})
            txn.create_table("u", {"x": "i8"})
            raise Stop
        assert dict(txn) == {b"0": b"0", b"1": b"1"} and len(txn) == 2 and len(txn.keyspace("s")) == 0
        assert txn.table("t")["x"].tolist() == [0, 1]
        with pytest.raises(KeyError):
            txn.table("u")
        with txn.savepoint():
            txn[b"3"] = b"3"
            txn.table("t").append({"x": [4]})
    assert dict(any_db) == {b"0": b"0", b"1": b"1", b"3": b"3"} and any_db.keyspaces() == []
    assert any_db.table("t")["x"].tolist() == [0, 1, 4] and any_db.tables() == ["t"]


def test_savepoints_nest(any_db: Database) -> None:
    with any_db.transaction() as txn:
        txn[b"a"] = b"0"
        with pytest.raises(Stop), txn.savepoint():
            txn[b"a"] = b"1"
            with pytest.raises(Stop), txn.savepoint():
                txn[b"a"] = b"2"
                with txn.savepoint():
                    txn[b"a"] = b"3"
                    txn[b"b"] = b"3"
                assert txn[b"a"] == b"3"
                raise Stop
            assert txn[b"a"] == b"1" and b"b" not in txn
            with txn.savepoint():
                txn[b"c"] = b"4"
            raise Stop
        assert dict(txn) == {b"a": b"0"}
        with txn.savepoint(), txn.savepoint():
            txn[b"d"] = b"5"
    assert dict(any_db) == {b"a": b"0", b"d": b"5"}


def test_savepoints_over_splits_merges_and_large_values(any_db: Database) -> None:
    any_db.update({b"%d" % n: b"v" * 50 for n in range(3000)})
    expected = dict(any_db)
    with any_db.transaction() as txn:
        for turn in range(6):
            with contextlib.suppress(Stop), txn.savepoint():
                txn.put_many([b"t%d.%d" % (turn, n) for n in range(2000)], [b"w" * 80] * 2000)
                txn.delete_many(list(expected)[: 400 * turn])
                txn[b"large"] = bytes([turn]) * 300_000
                if turn % 2:
                    txn.clear()
                    txn[b"only"] = b"this"
                if turn != 2:
                    raise Stop
                expected = dict(txn)
            assert dict(txn) == expected and len(txn) == len(expected)
    assert dict(any_db) == expected and any_db.check() == []


def test_rollback_inside_a_savepoint_ends_it_too(db: Database) -> None:
    with db.transaction() as txn:
        txn[b"a"] = b"1"
        with txn.savepoint():
            txn[b"a"] = b"2"
            txn.rollback()
    assert len(db) == 0
    with db.transaction() as txn:
        txn[b"a"] = b"1"
        with txn.savepoint():
            txn[b"b"] = b"2"
            txn.commit()
    assert dict(db) == {b"a": b"1", b"b": b"2"} and db.check() == []
    with pytest.raises(Stop), db.transaction() as txn, txn.savepoint():
        txn[b"c"] = b"3"
        raise Stop
    assert dict(db) == {b"a": b"1", b"b": b"2"} and db.check() == []


def test_iterating_goes_on_after_a_savepoints_rollback(db: Database) -> None:
    db.update({b"%d" % n: b"v" for n in range(1000)})
    with db.transaction() as txn:
        iterator = iter(txn)
        seen = {next(iterator) for _ in range(10)}
        with pytest.raises(Stop), txn.savepoint():
            txn.clear()
            raise Stop
        assert seen | set(iterator) == set(db) == set(txn)


# --- one at a time -----------------------------------------------------------------------------------


def test_writing_beside_ones_own_transaction_is_an_error_and_no_deadlock(path: Path) -> None:
    with mmstore.open(path, timeout=30) as db, mmstore.open(path, timeout=30) as twin:
        table = db.create_table("t", {"x": "i8"})
        with db.transaction() as txn:
            txn[b"a"] = b"1"
            for call in (
                lambda: db.put(b"b", b""),
                lambda: db.transaction(),
                lambda: db.clear(),
                lambda: db.keyspace("s").put(b"b", b""),
                lambda: table.append({"x": [1]}),
                lambda: db.drop("t"),
                lambda: twin.put(b"b", b""),
                lambda: twin.transaction(),
                lambda: twin.transaction(timeout=0),
            ):
                began = time.monotonic()
                with pytest.raises(mmstore.TransactionError, match="this thread has a transaction open"):
                    call()
                assert time.monotonic() - began < 5
            txn[b"c"] = b"2"
        assert dict(db) == {b"a": b"1", b"c": b"2"} == dict(twin)
        twin[b"b"] = b"3"
        assert db[b"b"] == b"3" and db.check() == []


def test_another_stores_transaction_is_no_obstacle(path: Path) -> None:
    with mmstore.open(path) as db, mmstore.open(":memory:") as other, db.transaction() as txn:
        other[b"a"] = b"1"
        with other.transaction() as second:
            second[b"b"] = b"2"
            txn.update(other)
        assert dict(txn) == {b"a": b"1"} and len(other) == 2


def test_a_transaction_may_end_in_another_thread(db: Database) -> None:
    txn = db.transaction()
    txn[b"a"] = b"1"
    thread = threading.Thread(target=txn.commit)
    thread.start()
    thread.join(10)
    db[b"b"] = b"2"
    assert dict(db) == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize("twin", [False, True], ids=["same handle", "two handles"])
def test_others_wait_up_to_the_timeout(path: Path, twin: bool) -> None:
    with mmstore.open(path, timeout=0.3) as db, mmstore.open(path, timeout=0.3) as second:
        other = second if twin else db
        errors: list[tuple[float, BaseException]] = []

        def write(timeout: float | None) -> None:
            began = time.monotonic()
            try:
                with other.transaction(timeout) as txn:
                    txn[b"late"] = b"1"
            except mmstore.LockTimeout as error:
                errors.append((time.monotonic() - began, error))

        with db.transaction() as txn:
            txn[b"a"] = b"1"
            for timeout, least, most in ((None, 0.25, 5), (0, 0, 0.25), (0.1, 0.09, 5)):
                thread = threading.Thread(target=write, args=(timeout,))
                thread.start()
                thread.join(20)
                waited, error = errors.pop()
                assert least <= waited <= most and isinstance(error, TimeoutError) and isinstance(error, mmstore.Error)
                assert "timeout" in str(error)
            thread = threading.Thread(target=write, args=(20,))
            thread.start()
            time.sleep(0.1)
        thread.join(20)
        assert not errors and dict(db) == {b"a": b"1", b"late": b"1"}


def test_threads_take_turns_and_nothing_is_lost(path: Path) -> None:
    with mmstore.open(path, durability="relaxed", timeout=60) as db, mmstore.open(path, timeout=60) as twin:
        rounds = 100 if mmstore.compiled() else 25

        def add(handle: Database, name: bytes) -> None:
            for _ in range(rounds):
                with handle.transaction() as txn:
                    txn[b"sum"] = b"%d" % (int(txn.get(b"sum", b"0")) + 1)
                    txn[name] = b"%d" % (int(txn.get(name, b"0")) + 1)

        threads = [threading.Thread(target=add, args=((db, twin)[n % 2], b"%d" % n)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert db[b"sum"] == b"%d" % (6 * rounds) == twin[b"sum"]
        assert {db[b"%d" % n] for n in range(6)} == {b"%d" % rounds} and db.check() == []


def test_close_rolls_an_open_transaction_back(path: Path) -> None:
    db = mmstore.open(path)
    db[b"a"] = b"1"
    txn = db.transaction()
    txn[b"b"] = b"2"
    db.close()
    with pytest.raises(mmstore.ClosedError):
        txn.commit()
    with mmstore.open(path) as again:
        assert dict(again) == {b"a": b"1"}
        again[b"c"] = b"3"


def test_close_waits_for_another_threads_transaction(path: Path) -> None:
    db = mmstore.open(path, timeout=0.2)
    begun, end = threading.Event(), threading.Event()

    def write() -> None:
        with db.transaction() as txn:
            txn[b"a"] = b"1"
            begun.set()
            end.wait(20)
            txn[b"b"] = b"2"

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(20)
    with pytest.raises(mmstore.LockTimeout, match="end it before closing"):
        db.close()
    assert b"a" not in db  # still open
    end.set()
    thread.join(20)
    db.close()
    with mmstore.open(path) as again:
        assert dict(again) == {b"a": b"1", b"b": b"2"}


def test_a_transaction_that_is_forgotten_holds_nobody_up(path: Path) -> None:
    with mmstore.open(path, timeout=2) as db, mmstore.open(path, timeout=2) as twin:
        txn = db.transaction()
        txn[b"a"] = b"1"
        with pytest.warns(ResourceWarning, match="transaction"):
            del txn
            gc.collect()
        db[b"c"] = b"3"  # the next to write through this handle ends it
        twin[b"b"] = b"2"
        assert dict(db) == {b"b": b"2", b"c": b"3"} and db.check() == []
        with pytest.warns(ResourceWarning, match="transaction"):
            db.transaction()[b"d"] = b"4"
            gc.collect()
        db.close()
        twin[b"e"] = b"5"
        assert b"d" not in twin


# --- large transactions ------------------------------------------------------------------------------


def test_a_transaction_larger_than_the_log(path: Path) -> None:
    with mmstore.open(path) as db:
        db[b"before"] = b"1"
        with db.transaction() as txn:
            for n in range(40):
                txn[b"%d" % n] = bytes([n]) * 400_000
        assert db.stats()["large_commits"] == 1 and db.stats()["log"]["size"] < 40 * 400_000
        db[b"after"] = b"2"
        copied = path.with_name("copy.mms")
        for suffix in ("", "-wal"):
            Path(f"{copied}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
        with mmstore.open(copied) as copy:
            assert len(copy) == 42 and copy[b"17"] == bytes([17]) * 400_000 and copy.check() == []
        assert len(db) == 42 and db.check() == []


def test_a_large_transaction_that_was_undone_but_for_a_part(path: Path) -> None:
    with mmstore.open(path) as db:
        with db.transaction() as txn:
            txn[b"small"] = b"1"
            with contextlib.suppress(Stop), txn.savepoint():
                for n in range(10):
                    txn[b"%d" % n] = bytes(1_000_000)
                raise Stop
        assert dict(db) == {b"small": b"1"} and db.check() == []
        assert db.stats()["file_size"] < 32 << 20


# --- what strikes in the middle ----------------------------------------------------------------------


class Strike(BaseException):
    """Stands for KeyboardInterrupt; that one would end the test run where it is not caught."""


@pytest.mark.parametrize("operation", ["pwrite", "sync_data", "allocate", "sync_range", "sync_all"])
@pytest.mark.parametrize("error", [Strike, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_an_exception_during_commit_leaves_all_or_nothing(
    path: Path, operation: str, error: type[BaseException], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call of ``operation`` in turn: the commit is whole or was never there, and writing goes on."""
    done = False
    for strike_at in range(40):
        path.unlink(missing_ok=True)
        with mmstore.open(path) as db:
            db[b"a"] = b"0"
            calls = 0
            true = getattr(PosixBackend, operation)

            def strike(self: Any, *args: Any, at: int = strike_at, true: Any = true) -> Any:
                nonlocal calls
                calls += 1
                if calls == at + 1:
                    raise error("struck")
                return true(self, *args)

            value = b"x" * (3_000_000 if large else 10)
            with monkeypatch.context() as patch:
                patch.setattr(PosixBackend, operation, strike)
                try:
                    db.update({b"a": value, b"b": value})
                    acknowledged = True
                except (error, mmstore.Error):
                    acknowledged = False
                done = calls <= strike_at
            found = dict(db)
            whole = {b"a": value, b"b": value}
            assert found in ([whole] if acknowledged else [{b"a": b"0"}, whole])
            if not db.stats()["poisoned"]:
                db[b"c"] = b"1"
                assert dict(db) == {**found, b"c": b"1"}
                found = dict(db)
                assert db.check() == []
        with mmstore.open(path) as again:
            assert dict(again) == found and again.check() == []
        if done:
            return
    raise AssertionError(f"{operation} is called without end")


def test_a_failed_sync_poisons_every_handle_until_recovery(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mmstore.open(path) as db, mmstore.open(path) as twin:
        db[b"a"] = b"1"

        def fail(self: Any) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(PosixBackend, "sync_data", fail)
            with pytest.raises(mmstore.SyncError, match="close every handle"):
                db[b"b"] = b"2"
        for handle in (db, twin):
            for call in (handle.clear, handle.checkpoint, handle.sync):
                with pytest.raises(mmstore.SyncError):
                    call()
            assert handle[b"a"] == b"1" and handle.stats()["poisoned"]
        with mmstore.open(path) as third, pytest.raises(mmstore.SyncError):
            third[b"c"] = b"3"
    with mmstore.open(path) as again:
        assert again[b"a"] == b"1" and again.check() == [] and not again.stats()["poisoned"]
        again[b"c"] = b"3"


def test_a_full_disk_is_an_error_and_nothing_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mmstore.open(path) as db:
        db.update({b"%d" % n: b"v" * 1000 for n in range(500)})
        expected = dict(db)
        true = PosixBackend.allocate

        def full(self: PosixBackend, off: int, n: int) -> None:
            if off + n > self.size():
                raise mmstore.DiskFullError(28, "no space")
            true(self, off, n)

        with monkeypatch.context() as patch:
            patch.setattr(PosixBackend, "allocate", full)
            for _ in range(3):
                with pytest.raises(mmstore.DiskFullError):
                    db[b"large"] = bytes(8 << 20)
                assert dict(db) == expected and db.check() == []
            with pytest.raises(mmstore.DiskFullError):
                for n in range(100_000):
                    db[b"f%d" % n] = b"v" * 1000
            assert db.check() == []
            # a full store can be emptied
            for key in list(db):
                if key.startswith(b"f"):
                    del db[key]
            assert dict(db) == expected and db.check() == []
        db[b"large"] = bytes(8 << 20)
        assert len(db) == 501


PUT_WRONGLY = {
    "a key outside": (bytes(4), [0, 2, 9], bytes(4), [0, 2, 4]),
    "a value outside": (bytes(4), [0, 2, 4], bytes(4), [0, 2, 9]),
    "a value less": (bytes(4), [0, 2, 4], bytes(4), [0, 4]),
    "values without keys": (b"", [0], bytes(4), [0, 4]),
    "no offsets": (b"", [], b"", []),
}


@pytest.mark.parametrize("what", PUT_WRONGLY)
def test_wrong_slices_make_no_keyspace(db: Database, what: str) -> None:
    data, offsets, values, bounds = PUT_WRONGLY[what]
    with db.transaction() as txn:
        with pytest.raises(ValueError, match="expected"):
            txn.keyspace("new").put_slices((data, np.array(offsets, np.int64)), (values, np.array(bounds, np.int64)))
    assert db.keyspaces() == []


def test_slices_of_any_buffer_are_logged_as_the_bytes_that_were_put(path: Path, tmp_path: Path) -> None:
    expected = {bytes([0] * 8): bytes([5] + [0] * 7), bytes([1] + [0] * 7): bytes([6] + [0] * 7)}
    with mmstore.open(path) as db:
        with db.transaction() as txn:
            txn.put_slices((np.arange(2), np.array([0, 8, 16])), (np.array([[5], [6]]), np.array([0, 8, 16])))
        assert dict(db) == expected
        copy = tmp_path / "copy.mms"
        copy.write_bytes(path.read_bytes())
        Path(f"{copy}-wal").write_bytes(Path(f"{path}-wal").read_bytes())
    with mmstore.open(copy) as db:
        assert dict(db) == expected and db.check() == []
