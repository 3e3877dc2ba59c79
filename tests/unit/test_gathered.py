"""Puts that are gathered and entered together look like puts one by one, whatever else the transaction does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmstore
from mmstore.database.database import open_on
from mmstore.disk.posix import PosixFilesystem
from mmstore.engine import write as write_module
from mmstore.engine.session import Options
from mmstore.engine.write import WriteState
from mmstore.errors import DiskFullError, TransactionError


@pytest.fixture(autouse=True)
def gathers_soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_module, "_SINGLE", 2)
        yield


def waiting(txn: mmstore.Transaction) -> int:
    return len(txn.check_open().gathered.records) // 2


keys = st.sampled_from([b"", b"a", b"b", b"c", b"key" * 9])
step = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(["", "k"]), keys, st.sampled_from([b"", b"1", b"v" * 700, b"w" * 5000])),
    st.tuples(st.sampled_from(["delete", "get"]), st.sampled_from(["", "k"]), keys, st.just(b"")),
    st.tuples(
        st.sampled_from(["many", "list", "undo", "keep", "clear", "drop"]), st.just("k"), st.just(b""), st.just(b"x")
    ),
)


@given(st.lists(st.lists(step, max_size=25), max_size=3))
def test_behaves_as_dicts(transactions: list[list[tuple[str, str, bytes, bytes]]]) -> None:
    with mmstore.open(":memory:") as db:
        model: dict[str, dict[bytes, bytes]] = {"": {}, "k": {}}
        for steps in transactions:
            with db.transaction() as txn:
                for what, name, key, value in [("put", "k", b"%d" % at, b"first") for at in range(4)] + steps:
                    mapping, mine = (txn.keyspace(name) if name else txn), model[name]
                    if what == "put":
                        mapping[key] = value
                        mine[key] = value
                    elif what == "delete":
                        assert mapping.pop(key, None) == mine.pop(key, None)
                    elif what == "get":
                        assert mapping.get(key) == mine.get(key) and len(mapping) == len(mine)
                    elif what == "list":
                        assert dict(txn) == model[""] and dict(mapping) == mine
                    elif what == "many":
                        mapping.put_many([b"a", b"m"], [b"many", value])
                        mine.update({b"a": b"many", b"m": value})
                    elif what == "clear":
                        mapping.clear()
                        mine.clear()
                    elif what == "drop" and mine:
                        txn.drop("k")
                        mine.clear()
                    elif what in ("undo", "keep"):
                        try:
                            with txn.savepoint():
                                for number in range(4):
                                    mapping[b"%d" % number] = value
                                if what == "undo":
                                    raise ZeroDivisionError
                            mine.update({b"%d" % number: value for number in range(4)})
                        except ZeroDivisionError:
                            pass
            assert dict(db) == model[""] and dict(db.keyspace("k")) == model["k"]
        assert db.check() == []


@pytest.mark.parametrize("keyspace", [False, True])
def test_a_savepoint_undoes_what_was_put_behind_it(keyspace: bool) -> None:
    with mmstore.open(":memory:") as db:
        with db.transaction() as txn:
            mapping = txn.keyspace("k") if keyspace else txn
            for number in range(6):
                mapping[b"%d" % number] = b"before"
            with pytest.raises(ZeroDivisionError), txn.savepoint():
                mapping[b"0"] = mapping[b"new"] = b"behind"
                raise ZeroDivisionError
            mapping[b"last"] = b"after"
        mapping = db.keyspace("k") if keyspace else db
        assert dict(mapping) == {b"%d" % number: b"before" for number in range(6)} | {b"last": b"after"}


def test_they_wait_until_something_else_is_asked() -> None:
    with mmstore.open(":memory:") as db, db.transaction() as txn:
        for number in range(10):
            txn[b"%d" % number] = b"x"
        assert waiting(txn) == 8
        assert txn[b"9"] == b"x" and waiting(txn) == 0
        txn[b"10"] = b"y"
        assert waiting(txn) == 1
        txn[b"large"] = bytes(2000)
        assert waiting(txn) == 0 and len(txn) == 12


def test_at_most_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_module, "_GATHERED", 2000)
    with mmstore.open(":memory:") as db, db.transaction() as txn:
        most = 0
        for number in range(100):
            txn[b"%d" % number] = b"x" * 100
            most = max(most, waiting(txn))
        assert most == 8 and len(txn) == 100


def test_wrong_types_are_told_at_once() -> None:
    with mmstore.open(":memory:") as db, db.transaction() as txn:
        for number in range(5):
            txn[b"%d" % number] = b"x"
        for key, value in (("text", b""), (b"k", 5), (bytes(70_000), b"")):
            with pytest.raises((TypeError, ValueError)):
                txn.put(key, value)
        txn[bytearray(b"buffer")] = memoryview(b"value")
        assert len(txn) == 6 and txn[b"buffer"] == b"value"


def test_changing_while_iterating_is_noticed() -> None:
    with mmstore.open(":memory:") as db, db.transaction() as txn:
        for number in range(5):
            txn[b"%d" % number] = b"x"
        with pytest.raises(RuntimeError):
            for _ in txn:
                txn[b"new"] = b"y"
        *_, last = txn
        with pytest.raises(RuntimeError):
            for key in txn:
                if key == last:  # nothing is read behind it
                    txn[b"newer"] = b"z"


def test_one_that_fails_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise MemoryError

    with mmstore.open(":memory:") as db:
        db[b"before"] = b"1"
        txn = db.transaction()
        for number in range(5):
            txn[b"%d" % number] = b"x"
        monkeypatch.setattr(WriteState, "put_many", full)
        with pytest.raises(MemoryError):
            len(txn)
        monkeypatch.undo()
        with pytest.raises(TransactionError, match="failed halfway"):
            txn.commit()
        assert dict(db) == {b"before": b"1"}


def test_what_fails_to_be_entered_is_undone_by_the_savepoint_that_it_was_put_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> int:
        raise DiskFullError(28, "no room")

    with mmstore.open(":memory:") as db:
        with db.transaction() as txn:
            txn[b"before"] = b"1"
            monkeypatch.setattr(WriteState, "put_many", full)
            with pytest.raises(DiskFullError), txn.savepoint():
                for number in range(5):
                    txn[b"%d" % number] = b"x"
            monkeypatch.undo()
            txn[b"after"] = b"2"
        assert dict(db) == {b"before": b"1", b"after": b"2"} and db.check() == []


def test_the_log_has_them(tmp_path: Path) -> None:
    """What is replayed after a crash is what was put, in a log record of its own."""
    path = tmp_path / "a.mms"
    with mmstore.open(path) as db:
        with db.transaction() as txn:
            for number in range(50):
                txn[b"%d" % (number % 20)] = b"%d" % number
        copy = tmp_path / "b.mms"
        copy.write_bytes(path.read_bytes())
        Path(f"{copy}-wal").write_bytes(Path(f"{path}-wal").read_bytes())
        expected = dict(db)
    with mmstore.open(copy) as db:
        assert dict(db) == expected and len(expected) == 20 and db.check() == []


def test_what_outgrows_the_log_only_when_it_is_entered_is_committed_by_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.mms"
    options = Options(background=False, log_ring=64 << 10)
    with open_on(PosixFilesystem(), str(path), "c", options) as db:
        db[b"before"] = b"1"
        with db.transaction() as txn:
            for number in range(40):
                txn[b"%d" % number] = bytes(1000)
            assert waiting(txn) == 38
        assert db.stats()["large_commits"] == 1
        copy = tmp_path / "b.mms"
        copy.write_bytes(path.read_bytes())
        Path(f"{copy}-wal").write_bytes(Path(f"{path}-wal").read_bytes())
    with mmstore.open(copy) as db:
        assert len(db) == 41 and db.check() == []
