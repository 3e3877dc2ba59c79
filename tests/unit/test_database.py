"""A handle and its mappings: everything that is promised of them outside of transactions, snapshots and views."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

import mmstore
from mmstore import format as fmt
from mmstore.database.database import Database
from mmstore.disk import libc
from mmstore.disk.log import Log
from mmstore.engine import checkpoint
from mmstore.engine.session import Session
from mmstore.keyspace import values
from mmstore.pages.pins import Pins
from mmstore.pages.root import Root

# --- a mapping ---------------------------------------------------------------------------------------


@pytest.fixture(params=["database", "keyspace", "transaction", "keyspace of a transaction"])
def mapping(any_db: Database, request: pytest.FixtureRequest) -> Any:
    """Everything that is a MutableMapping; a transaction's is committed at the end."""
    if "transaction" not in request.param:
        yield any_db if request.param == "database" else any_db.keyspace("users")
        return
    with any_db.transaction() as txn:
        yield txn if request.param == "transaction" else txn.keyspace("users")


def test_it_is_a_dict(mapping: MutableMapping[bytes, bytes]) -> None:
    assert isinstance(mapping, MutableMapping)
    assert len(mapping) == 0 and not mapping and list(mapping) == [] and dict(mapping) == {}
    mapping[b"a"] = b"1"
    mapping[b"b"] = b"2"
    mapping[b"a"] = b"3"
    assert len(mapping) == 2 and mapping and mapping[b"a"] == b"3"
    assert b"a" in mapping and b"c" not in mapping
    assert mapping.get(b"a") == b"3" and mapping.get(b"c") is None and mapping.get(b"c", 5) == 5
    assert sorted(mapping) == sorted(mapping.keys()) == [b"a", b"b"]
    assert sorted(mapping.values()) == [b"2", b"3"]
    assert sorted(mapping.items()) == [(b"a", b"3"), (b"b", b"2")]
    assert (b"a", b"3") in mapping.items() and (b"a", b"x") not in mapping.items()
    assert mapping.keys() & {b"a", b"x"} == {b"a"}
    del mapping[b"a"]
    with pytest.raises(KeyError):
        del mapping[b"a"]
    with pytest.raises(KeyError):
        mapping[b"a"]
    assert len(mapping) == 1


def test_empty_key_and_empty_value(mapping: MutableMapping[bytes, bytes]) -> None:
    mapping[b""] = b""
    assert mapping[b""] == b"" and b"" in mapping and mapping.get(b"", None) == b"" and len(mapping) == 1
    assert mapping.pop(b"") == b"" and b"" not in mapping


def test_pop_popitem_setdefault_clear(mapping: MutableMapping[bytes, bytes]) -> None:
    with pytest.raises(KeyError):
        mapping.pop(b"a")
    with pytest.raises(KeyError):
        mapping.popitem()
    assert mapping.pop(b"a", None) is None and mapping.pop(b"a", 7) == 7
    assert mapping.setdefault(b"a", b"1") == b"1" and mapping.setdefault(b"a", b"2") == b"1"
    assert mapping.pop(b"a") == b"1"
    mapping.update({b"x": b"1", b"y": b"2"})
    found = dict([mapping.popitem(), mapping.popitem()])
    assert found == {b"x": b"1", b"y": b"2"} and not mapping
    mapping.update({b"%d" % n: b"v" for n in range(1000)})
    mapping.clear()
    mapping.clear()
    assert len(mapping) == 0 and list(mapping) == []
    mapping[b"after"] = b""
    assert dict(mapping) == {b"after": b""}


def test_update_takes_what_dict_takes_except_keywords(mapping: MutableMapping[bytes, bytes]) -> None:
    class HasKeys:
        def keys(self) -> list[bytes]:
            return [b"k"]

        def __getitem__(self, key: bytes) -> bytes:
            return key * 2

    mapping.update({b"a": b"1"})
    mapping.update([(b"b", b"2"), (b"b", b"3")])
    mapping.update(iter([(b"c", b"4")]))
    mapping.update(HasKeys())
    mapping.update()
    assert dict(mapping) == {b"a": b"1", b"b": b"3", b"c": b"4", b"k": b"kk"}
    with pytest.raises(TypeError, match="keyword"):
        mapping.update(a=b"1")
    with pytest.raises((TypeError, ValueError)):
        mapping.update([(b"a",)])


def test_batches(mapping: Any) -> None:
    keys = [b"%d" % n for n in range(5000)]
    mapping.put_many(keys, [key * 3 for key in keys])
    assert len(mapping) == 5000
    assert mapping.get_many([b"1", b"x", b"4999"]) == [b"111", None, b"499949994999"]
    assert mapping.delete_many(keys[:4990] + [b"x"]) == 4990
    assert sorted(mapping) == sorted(keys[4990:])


def test_update_is_one_transaction(db: Database) -> None:
    def broken() -> Any:
        yield b"a", b"1"
        yield b"b", 5

    txn = db.txn_id
    for change in (
        lambda: db.update(broken()),
        lambda: db.put_many([b"a", b"b"], [b"1", 5]),
        lambda: db.delete_many([b"a", 5]),
    ):
        with pytest.raises(TypeError):
            change()
    assert len(db) == 0 and db.txn_id == txn
    db.update({b"%d" % n: b"" for n in range(100)})
    assert db.txn_id == txn + 1
    db.clear()
    assert db.txn_id == txn + 2
    db.clear()  # nothing to change
    db.update({})
    assert db.delete_many([b"none"]) == 0
    assert db.txn_id == txn + 2


def test_iteration_runs_on_a_snapshot(db: Database) -> None:
    expected = {b"%d" % n: b"v" for n in range(3000)}
    db.update(expected)
    seen = {}
    for key, value in db.items():
        seen[key] = value
        if len(seen) % 100 == 0:
            db[b"new%d" % len(seen)] = b"x"
            db.delete_many([b"%d" % n for n in range(len(seen))])
    assert seen == expected
    one = iter(db)
    next(one)
    db.clear()
    assert sum(1 for _ in one) >= 29  # an iterator that was begun goes on
    other = iter(db.keyspace("none"))
    assert list(other) == []


def test_an_iterator_that_is_dropped_pins_nothing(db: Database) -> None:
    db.update({b"%d" % n: b"v" for n in range(100)})
    iterator = iter(db.items())
    next(iterator)
    assert db.stats()["pins"] >= 1
    del iterator
    gc.collect()
    assert db.stats()["pins"] <= 1  # stats' own


def test_a_database_is_itself(db: Database) -> None:
    with mmstore.open(db.path) as twin:
        assert db == db and db != twin and len({db, twin}) == 2
    assert "data.mms" in repr(db) and "users" in repr(db.keyspace("users"))
    assert db.keyspace("a") == db.keyspace("b") == {}  # two mappings with the same content


# --- keyspaces and names -----------------------------------------------------------------------------


def test_a_missing_keyspace_reads_as_empty(any_db: Database) -> None:
    space = any_db.keyspace("users")
    assert len(space) == 0 and list(space) == [] and space.get(b"a") is None and b"a" not in space
    assert space.get_many([b"a"]) == [None] and space.delete_many([b"a"]) == 0 and space.pop(b"a", 1) == 1
    space.clear()
    with pytest.raises(KeyError):
        space[b"a"]
    with pytest.raises(KeyError):
        space.view(b"a")
    with pytest.raises(KeyError):
        del space[b"a"]
    assert any_db.keyspaces() == []
    space[b"a"] = b"1"
    assert any_db.keyspaces() == ["users"] and b"a" not in any_db


def test_keyspaces_do_not_meet(db: Database) -> None:
    names = [f"k{n}" for n in range(30)]
    for name in names:
        db.keyspace(name).update({b"%d" % n: name.encode() for n in range(50)})
    assert db.keyspaces() == sorted(names)
    assert all(set(db.keyspace(name).values()) == {name.encode()} for name in names)
    for name in names[::2]:
        db.drop(name)
    assert db.keyspaces() == sorted(names[1::2]) and len(db.keyspace("k0")) == 0 and len(db.keyspace("k1")) == 50
    db.keyspace("k0")[b"again"] = b"x"
    assert dict(db.keyspace("k0")) == {b"again": b"x"}


def test_one_namespace(db: Database) -> None:
    db.keyspace("space")[b"k"] = b"v"
    db.create_table("table", {"x": "i8"})
    table = db.keyspace("table")
    for call in (
        lambda: table[b"k"],
        lambda: table.get(b"k"),
        lambda: len(table),
        lambda: list(table),
        lambda: table.get_many([b"k"]),
        lambda: table.view(b"k"),
        lambda: table.put(b"k", b"v"),
        lambda: table.clear(),
        lambda: table.pop(b"k", None),
        lambda: table.delete_many([b"k"]),
        lambda: table.update({b"k": b"v"}),
    ):
        with pytest.raises(TypeError, match="'table' is a table, not a keyspace"):
            call()
    with pytest.raises(TypeError, match="'space' is a keyspace, not a table"):
        db.table("space")
    with db.snapshot() as snapshot:
        with pytest.raises(TypeError, match="is a table"):
            snapshot.keyspace("table").get(b"k")
        with pytest.raises(TypeError, match="is a keyspace"):
            snapshot.table("space")
    for name in ("space", "table"):
        with pytest.raises(mmstore.SchemaError, match="already"):
            db.create_table(name, {"y": "i8"})
    assert db.keyspaces() == ["space"] and db.tables() == ["table"]
    db.drop("space")
    db.create_table("space", {"x": "i8"})
    assert db.tables() == ["space", "table"]


def test_drop_of_nothing_is_a_key_error(db: Database) -> None:
    for call in (lambda: db.drop("none"), lambda: db.table("none")):
        with pytest.raises(KeyError, match="none"):
            call()


# --- opening -----------------------------------------------------------------------------------------


def test_flags(path: Path) -> None:
    for flag in ("r", "w"):
        with pytest.raises(FileNotFoundError):
            mmstore.open(path, flag)
    assert os.listdir(path.parent) == []
    with mmstore.open(path) as db:  # "c"
        db[b"k"] = b"v"
    with mmstore.open(str(path), "c") as db:
        assert db[b"k"] == b"v"
    with mmstore.open(path, "w") as db:
        db[b"k"] = b"w"
    with mmstore.open(os.fsencode(path).decode(), "r") as db:
        assert db[b"k"] == b"w"
    with mmstore.open(path, "n") as db:
        assert len(db) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flag": "a"}, "expected flag"),
        ({"flag": "rw"}, "expected flag"),
        ({"durability": "none"}, "expected durability"),
        ({"page_size": 0}, "power of two"),
        ({"page_size": 2048}, "power of two"),
        ({"page_size": 5000}, "power of two"),
        ({"page_size": 131072}, "power of two"),
        ({"page_size": -4096}, "power of two"),
    ],
)
def test_wrong_arguments(path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmstore.open(path, **wrong)
    assert not path.exists()


@pytest.mark.parametrize("timeout", [None, "5", -1, float("nan"), []])
def test_a_wrong_timeout_replaces_no_store(path: Path, timeout: Any) -> None:
    with mmstore.open(path) as db:
        db[b"k"] = b"v"
    with pytest.raises(ValueError, match="expected a timeout"):
        mmstore.open(path, "n", timeout=timeout)
    with mmstore.open(path, timeout=0) as db:
        assert dict(db) == {b"k": b"v"}


@pytest.mark.parametrize("page_size", [4096, 8192, 16384, 32768, 65536])
def test_the_page_size_is_the_files(path: Path, page_size: int) -> None:
    with mmstore.open(path, page_size=page_size) as db:
        db.update({b"%d" % n: b"v" * n for n in range(300)})
        assert db.stats()["page_size"] == page_size
    with mmstore.open(path, page_size=4096) as db:  # of an existing store it is not asked
        assert db.stats()["page_size"] == page_size and len(db) == 300 and db.check() == []


def test_a_new_store_replaces_the_name_only(path: Path) -> None:
    with mmstore.open(path) as old:
        old[b"k"] = b"old"
        view_source = b"x" * 100_000
        old[b"large"] = view_source
        view = old.view(b"large")
        with mmstore.open(path, "n") as new:
            assert len(new) == 0 and old[b"k"] == b"old" and view == view_source
            new[b"k"] = b"new"
            old[b"l"] = b"still"
            assert new[b"k"] == b"new" and b"l" not in new and dict(old)[b"l"] == b"still"
            assert old.check() == [] == new.check()
            with mmstore.open(path, "w") as third:
                assert third[b"k"] == b"new"
            old.close()
            assert new[b"k"] == b"new"
            new[b"k"] = b"newer"
    assert view == view_source
    with mmstore.open(path, "r") as db:
        assert dict(db) == {b"k": b"newer"} and db.check() == []
    assert os.listdir(path.parent) == ["data.mms"]


def test_handles_of_a_replaced_store_keep_their_log_apart(path: Path, tmp_path: Path) -> None:
    with mmstore.open(path) as one, mmstore.open(path) as two:
        one[b"k"] = b"old"  # makes a log, which `two` has not met yet
        with mmstore.open(path, "n") as new:
            new[b"k"] = b"new"
            two[b"two"] = b"old"
            assert dict(one) == dict(two) == {b"k": b"old", b"two": b"old"} and dict(new) == {b"k": b"new"}
    with mmstore.open(path) as old:  # has no log when it is replaced
        with mmstore.open(path, "n") as new:
            new[b"k"] = b"newer"
            old[b"k"] = b"older"
            new[b"l"] = b"newer"
            twin = tmp_path / "twin.mms"
            for suffix in ("", "-wal"):
                Path(f"{twin}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
            with mmstore.open(twin) as copy:
                assert dict(copy) == {b"k": b"newer", b"l": b"newer"} and copy.check() == []
        assert dict(old) == {b"k": b"older"} and old.check() == []
    assert sorted(os.listdir(path.parent)) == ["data.mms", "twin.mms"]


def test_a_log_that_is_moved_aside_while_it_is_looked_for_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = Log.open
    looked: list[str] = []
    with mmstore.open(path) as one, mmstore.open(path) as two:
        one[b"k"] = b"old"
        with mmstore.open(path, "n") as new:

            def opening(fs: Any, name: str, *arguments: Any, **options: Any) -> Log:
                looked.append(name)
                try:
                    return true(fs, name, *arguments, **options)
                finally:
                    if len(looked) == 1:
                        new[b"k"] = b"new"  # makes a log, and moves the other aside

            monkeypatch.setattr(Log, "open", opening)
            two[b"l"] = b"old"
            assert looked and dict(one) == {b"k": b"old", b"l": b"old"}
    assert os.listdir(path.parent) == ["data.mms"]


def test_a_new_store_after_a_crash_does_not_take_the_old_log(path: Path) -> None:
    with mmstore.open(path) as db:
        db[b"k"] = b"old"
        log = (path.parent / "data.mms-wal").read_bytes()
        data = path.read_bytes()
    path.write_bytes(data)
    (path.parent / "data.mms-wal").write_bytes(log)
    with mmstore.open(path, "n") as db:
        assert len(db) == 0
        db[b"n"] = b"new"
    with mmstore.open(path) as db:
        assert dict(db) == {b"n": b"new"}


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 4096, b"SQLite format 3\0" + bytes(500_000)], ids=len)
@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_what_is_not_ours_is_a_format_error_and_unchanged(path: Path, content: bytes, flag: str) -> None:
    path.write_bytes(content)
    with pytest.raises(mmstore.FormatError, match=r"expected an mmstore file"):
        mmstore.open(path, flag)
    assert path.read_bytes() == content and os.listdir(path.parent) == ["data.mms"]
    with mmstore.open(path, "n") as db:
        assert len(db) == 0


def test_newer_formats_are_refused(path: Path) -> None:
    import xxhash

    mmstore.open(path).close()
    for field, value in (("version", 2), ("features", 1)):
        data = bytearray(path.read_bytes())
        at = fmt.IDENTITY.offset[field]
        data[at : at + 4] = value.to_bytes(4, "little")
        checksum = xxhash.xxh3_64_intdigest(bytes(data[: fmt.IDENTITY.size - 8]))
        data[fmt.IDENTITY.size - 8 : fmt.IDENTITY.size] = checksum.to_bytes(8, "little")
        other = path.with_name(field)
        other.write_bytes(data)
        with pytest.raises(mmstore.FormatError, match="version"):
            mmstore.open(other)


@pytest.mark.parametrize("what", ["folder", "missing folder", "fifo", "nul"])
def test_what_cannot_be_a_file(tmp_path: Path, what: str) -> None:
    target = tmp_path / "it"
    if what == "folder":
        target.mkdir()
    elif what == "missing folder":
        target = target / "data.mms"
    elif what == "fifo":
        os.mkfifo(target)
    else:
        target = Path(str(target) + "\0")
    for flag in ("r", "w", "c"):
        with pytest.raises((OSError, mmstore.FormatError, ValueError)):
            mmstore.open(target, flag)


def test_a_link_is_the_file_it_leads_to(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    link = tmp_path / "link.mms"
    with mmstore.open(folder / "data.mms") as db:
        db[b"k"] = b"v"
        link.symlink_to(folder / "data.mms")
        with mmstore.open(link) as twin:
            twin[b"l"] = b"w"
            assert db[b"l"] == b"w"
            assert sorted(os.listdir(folder)) == ["data.mms", "data.mms-wal"]
    assert os.listdir(folder) == ["data.mms"] and sorted(os.listdir(tmp_path)) == ["link.mms", "there"]


@pytest.mark.parametrize("name", [b"data.mms", b"caf\xe9.mms"])
def test_paths_of_bytes(path: Path, name: bytes) -> None:
    whole = os.fsencode(path.parent) + b"/" + name
    for _ in range(2):
        with mmstore.open(whole) as db, pickle.loads(pickle.dumps(db)) as twin:
            db[b"k"] = b"v"
            assert twin[b"k"] == b"v" and os.fsencode(db.path) == whole
    assert os.listdir(os.fsencode(path.parent)) == [name]


def test_relative_paths_survive_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with mmstore.open("data.mms") as db:
        monkeypatch.chdir("/")
        db[b"k"] = b"v"
    assert os.listdir(tmp_path) == ["data.mms"]


def test_memory_stores_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with mmstore.open(":memory:") as one, mmstore.open(":memory:", "n") as two:
        one[b"k"] = b"v"
        assert len(two) == 0
        for upkeep in (one.sync, one.checkpoint):
            upkeep()
        assert one.check() == []
    assert os.listdir(tmp_path) == []
    for flag in ("r", "w"):
        with pytest.raises(FileNotFoundError, match="memory"):
            mmstore.open(":memory:", flag)


# --- reading only ------------------------------------------------------------------------------------


def test_a_handle_for_reading_refuses_every_write(path: Path) -> None:
    with mmstore.open(path) as db:
        db[b"k"] = b"v"
        db.create_table("t", {"x": "i8"}).append({"x": [1, 2]})
    before = path.read_bytes()[fmt.FIXED_SIZE :]
    with mmstore.open(path, "r") as db:
        space = db.keyspace("missing")
        for call in (
            lambda: db.put(b"k", b"w"),
            lambda: db.__setitem__(b"k", b"w"),
            lambda: db.__delitem__(b"k"),
            lambda: db.pop(b"k"),
            lambda: db.pop(b"none", None),
            lambda: db.popitem(),
            lambda: db.setdefault(b"none", b""),
            lambda: db.clear(),
            lambda: db.update({}),
            lambda: db.update({b"k": b"w"}),
            lambda: db.put_many([], []),
            lambda: db.delete_many([b"k"]),
            lambda: db.transaction(),
            lambda: db.create_table("u", {"x": "i8"}),
            lambda: db.table("t").append({"x": [3]}),
            lambda: db.drop("t"),
            lambda: db.checkpoint(),
            lambda: space.put(b"k", b"v"),
        ):
            with pytest.raises(mmstore.ReadOnlyError, match='"r"'):
                call()
        assert db.setdefault(b"k", b"w") == b"v"
        assert dict(db) == {b"k": b"v"} and len(space) == 0 and db.table("t")["x"].tolist() == [1, 2]
        assert db.check() == [] and db.keyspaces() == []
    assert path.read_bytes()[fmt.FIXED_SIZE :] == before


def test_a_reader_sees_what_a_writer_commits(path: Path) -> None:
    with mmstore.open(path) as writer, mmstore.open(path, "r") as reader:
        for n in range(300):
            writer[b"k"] = b"%d" % n
            assert reader[b"k"] == b"%d" % n
        writer[b"large"] = b"x" * 5_000_000
        assert len(reader[b"large"]) == 5_000_000 and reader.view(b"large") == writer.view(b"large")


def test_a_file_that_may_not_be_written(path: Path, unwritable: Callable[[], None]) -> None:
    value = b"v" * 100_000
    with mmstore.open(path) as db:
        db[b"k"] = value
        db.create_table("t", {"x": "i8"}).append({"x": range(1000)})
    before = path.read_bytes()
    unwritable()
    for flag in ("w", "c"):
        with pytest.raises(PermissionError):
            mmstore.open(path, flag)
    with mmstore.open(path, "r") as db, mmstore.open(path, "r") as twin:
        for handle in (db, twin):
            with handle.snapshot() as snapshot:
                assert snapshot[b"k"] == value
            assert dict(handle) == {b"k": value} and handle.check() == [] and handle.stats()["count"] == 1
            with pytest.raises(mmstore.ReadOnlyError):
                handle[b"k"] = b"w"
        view, column = db.view(b"k"), twin.table("t")["x"]
    assert view == value and column.tolist() == list(range(1000))
    del view, column
    assert path.read_bytes() == before and os.listdir(path.parent) == ["data.mms"]


def test_a_crashed_store_that_may_not_be_written_is_recovered_in_memory(
    path: Path, tmp_path: Path, unwritable: Callable[[], None]
) -> None:
    twin = tmp_path / "twin.mms"
    with mmstore.open(path) as db:
        db.update({b"%d" % n: b"v" * n for n in range(500)})
        db.checkpoint()
        db[b"new"] = b"large" * 20_000
        table = db.create_table("t", {"x": "i8"})
        table.append({"x": range(1000)})
        expected = dict(db)
        for suffix in ("", "-wal"):
            Path(f"{twin}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    before = twin.read_bytes(), Path(f"{twin}-wal").read_bytes()
    unwritable()
    with mmstore.open(twin, "r") as one, mmstore.open(twin, "r") as two:
        for handle in (one, two):
            assert dict(handle) == expected and handle.check() == []
            assert handle.table("t")["x"].tolist() == list(range(1000))
        view = one.view(b"new")
    assert view == expected[b"new"]
    assert before == (twin.read_bytes(), Path(f"{twin}-wal").read_bytes())


# --- closing -----------------------------------------------------------------------------------------


def test_a_closed_handle_refuses_everything(path: Path) -> None:
    db = mmstore.open(path)
    db[b"k"] = b"v"
    table = db.create_table("t", {"x": "i8"})
    space, snapshot, txn = db.keyspace("s"), db.snapshot(), db.transaction()
    txn[b"k"] = b"w"
    db.close()
    db.close()
    for call in (
        lambda: db[b"k"],
        lambda: db.get(b"k"),
        lambda: b"k" in db,
        lambda: len(db),
        lambda: list(db),
        lambda: db.get_many([b"k"]),
        lambda: db.view(b"k"),
        lambda: db.put(b"k", b"v"),
        lambda: db.setdefault(b"k", b"v"),
        lambda: db.transaction(),
        lambda: db.snapshot(),
        lambda: db.keyspaces(),
        lambda: db.tables(),
        lambda: db.table("t"),
        lambda: db.drop("t"),
        lambda: db.check(),
        lambda: db.stats(),
        lambda: db.sync(),
        lambda: db.checkpoint(),
        lambda: db.readers(),
        lambda: db.wait(timeout=0),
        lambda: db.txn_id,
        lambda: db.__enter__(),
        lambda: space[b"k"],
        lambda: space.put(b"k", b""),
        lambda: len(space),
        lambda: table["x"],
        lambda: len(table),
        lambda: table.append({"x": [1]}),
        lambda: txn[b"k"],
        lambda: txn.put(b"k", b""),
        lambda: txn.commit(),
        lambda: snapshot[b"k"],
        lambda: list(snapshot),
        lambda: snapshot.table("t"),
    ):
        with pytest.raises(mmstore.ClosedError, match="open it again|begin another"):
            call()
    txn.rollback()
    snapshot.close()
    assert "closed" in repr(db)
    with mmstore.open(path, "r") as again:
        assert again[b"k"] == b"v"


def test_a_handle_that_is_forgotten_says_so_and_lets_go(path: Path) -> None:
    db = mmstore.open(path)
    db[b"k"] = b"v"
    with pytest.warns(ResourceWarning, match="unclosed"):
        del db
        gc.collect()
    with mmstore.open(path) as again:
        assert dict(again) == {b"k": b"v"} and again.check() == []
        again[b"l"] = b"w"
    assert os.listdir(path.parent) == ["data.mms"]


def test_with_closes_also_after_an_error(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), mmstore.open(path) as db:
        db[b"k"] = b"v"
        raise ZeroDivisionError
    with pytest.raises(mmstore.ClosedError):
        db[b"k"]
    assert os.listdir(path.parent) == ["data.mms"]


def test_the_last_of_several_handles_leaves_one_file(path: Path) -> None:
    handles = [mmstore.open(path) for _ in range(4)]
    for number, handle in enumerate(handles):
        handle[b"%d" % number] = b"v"
    for handle in handles:
        assert (path.parent / "data.mms-wal").exists()
        assert len(handle) == 4
        handle.close()
    assert os.listdir(path.parent) == ["data.mms"]


def test_who_opens_between_the_last_close_and_the_end_of_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = mmstore.open(path)
    db[b"k"] = b"v"
    found = []
    true = Pins.give_up_slot

    def interlude(pins: Pins) -> None:  # GATE is free again, the file still open
        if not found:
            found.append(b"")
            with mmstore.open(path) as other:
                found.append(other[b"k"])
        true(pins)

    monkeypatch.setattr(Pins, "give_up_slot", interlude)
    db.close()
    assert found == [b"", b"v"]


def test_threads_that_read_while_it_is_closed_get_closed_error(path: Path) -> None:
    db = mmstore.open(path)
    db.update({b"%d" % n: b"v" * 2000 for n in range(2000)})
    started, failures = threading.Barrier(5), []

    def read() -> None:
        started.wait()
        try:
            while True:
                assert db[b"7"] == b"v" * 2000
                assert sum(1 for _ in db) == 2000
                assert db.get_many([b"1", b"x"]) == [b"v" * 2000, None]
        except mmstore.ClosedError:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.1)
    db.close()
    for thread in threads:
        thread.join(20)
    assert failures == []


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_close_lets_commits_end_that_other_threads_have_begun(path: Path, durability: str) -> None:
    with mmstore.open(path, timeout=10) as twin:
        for turn in range(10):
            db = mmstore.open(path, durability=durability, timeout=10)
            done: list[int] = []
            failures: list[BaseException] = []

            def write(
                number: int, db: Database = db, turn: int = turn, done: Any = done, failures: Any = failures
            ) -> None:
                try:
                    while True:
                        db[b"%d.%d" % (turn, number)] = b"v" * 500
                        done.append(number)
                        number += 4
                except mmstore.ClosedError:
                    pass
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.01 + turn * 0.003)
            db.close()
            for thread in threads:
                thread.join(20)
            assert failures == [] and not twin.stats()["poisoned"]
            assert all(b"%d.%d" % (turn, number) in twin for number in done)
            twin[b"still"] = b"%d" % turn
        assert twin.check() == []
    assert os.listdir(path.parent) == ["data.mms"]


def test_a_close_finds_no_thread_that_has_not_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins the one that makes a checkpoint, and joining one that isn't started is a RuntimeError."""
    found = []
    true = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        found.append(db.session.background is thread)
        true(thread)

    with mmstore.open(path) as db:
        monkeypatch.setattr(checkpoint, "due", lambda *_: True)
        monkeypatch.setattr(threading.Thread, "start", start)
        db[b"k"] = b"v"
    assert found == [False]


def test_a_checkpoint_that_a_close_overtakes_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of its own makes it; an exception there would be a warning, which is an error here."""
    db, twin = mmstore.open(path, durability="relaxed"), mmstore.open(path)
    db[b"k"] = b"v"
    session = db.session
    true, join = checkpoint.checkpoint, threading.Thread.join

    def overtaken(session: Session, root: Root | None = None) -> None:
        db.close()
        true(session, root)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "due", lambda session, root: True)
        patch.setattr(checkpoint, "checkpoint", overtaken)
        patch.setattr(threading.Thread, "join", lambda thread, timeout=None: None)  # it closes: it can't await itself
        checkpoint.start_if_due(session, session.published())
        assert session.background is not None
        join(session.background, 60)
    assert session.left and session.background_error is not None
    checkpoint._unasked(session)  # and one that begins afterwards
    assert twin[b"k"] == b"v" and not twin.session.live.get("making") and twin.check() == []
    twin.close()


def test_a_close_waits_for_the_checkpoint_under_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for one that it didn't know of: what that stores into the live page would meet others' checkpoints."""
    db, twin = mmstore.open(path, durability="relaxed"), mmstore.open(path)
    db[b"k"] = b"v"
    session, inside, go = db.session, threading.Event(), threading.Event()
    true = checkpoint.sync_data

    def slow(session: Session) -> None:
        inside.set()
        go.wait(60)
        true(session)

    monkeypatch.setattr(checkpoint, "sync_data", slow)
    late, closer = threading.Thread(target=checkpoint._unasked, args=(session,)), threading.Thread(target=db.close)
    late.start()
    assert inside.wait(60)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive() and not session.left
    go.set()
    closer.join(60)
    late.join(60)
    assert session.left and session.background_error is None
    assert session.live.get("durable") == twin.txn_id and not twin.session.live.get("making")
    twin.close()


# --- durability, upkeep ------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_a_copy_of_the_files_has_every_commit(path: Path, durability: str, tmp_path: Path) -> None:
    with mmstore.open(path, durability=durability) as db:
        for n in range(50):
            db[b"%d" % n] = b"v"
            if n == 25:
                db.checkpoint()
        db.sync()
        twin = tmp_path / "twin.mms"
        for suffix in ("", "-wal"):
            Path(f"{twin}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    with mmstore.open(twin, "w") as db:
        assert len(db) == 50 and db.check() == []
        assert db.txn_id > 1 << 32  # ids that a recovery leaves out


def test_a_log_that_is_missing_is_corrupt(path: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin.mms"
    with mmstore.open(path) as db:
        db[b"k"] = b"v"
        twin.write_bytes(path.read_bytes())
    for flag in ("r", "w", "c"):
        with pytest.raises(mmstore.CorruptError, match="log"):
            mmstore.open(twin, flag)


# --- two names of one file: the log lies beside one of them -------------------------------------------


def left_as_by_a_crash(path: Path) -> None:
    """``path`` with one commit, in the log; the file's inode stays what it was."""
    with mmstore.open(path) as db:
        db[b"k"] = b"v"
        files = {name: Path(name).read_bytes() for name in (str(path), f"{path}-wal")}
    for name, content in files.items():
        Path(name).write_bytes(content)


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_after_a_crash_only_the_name_with_the_log_opens(path: Path, tmp_path: Path, flag: str) -> None:
    left_as_by_a_crash(path)
    (tmp_path / "elsewhere").mkdir()
    before = path.read_bytes()
    for other in (tmp_path / "other.mms", tmp_path / "elsewhere" / "data.mms"):
        other.hardlink_to(path)
        with pytest.raises(mmstore.CorruptError, match="names .hard links.*open the store under that name"):
            mmstore.open(other, flag)
    fixed = fmt.FIXED_SIZE  # the live page is rebuilt by whoever is alone
    assert path.read_bytes()[fixed:] == before[fixed:] and not Path(f"{other}-wal").exists()
    with mmstore.open(path) as db:
        assert dict(db) == {b"k": b"v"} and db.check() == []


def test_a_stale_log_beside_the_other_name_is_not_taken(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mms"
    left_as_by_a_crash(path)
    stale = Path(f"{path}-wal").read_bytes()
    with mmstore.open(path):
        other.hardlink_to(path)
    left_as_by_a_crash(other)
    Path(f"{path}-wal").write_bytes(stale)  # a log of the same store, and yet another one
    with pytest.raises(mmstore.CorruptError, match="found log.*hard links"):
        mmstore.open(path)
    with mmstore.open(other) as db:
        assert dict(db) == {b"k": b"v"} and db.check() == []


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_while_open_under_one_name_others_are_refused(path: Path, tmp_path: Path, flag: str) -> None:
    """Each would make a log that the other's handles don't find."""
    other, symbolic = tmp_path / "other.mms", tmp_path / "symbolic.mms"
    with mmstore.open(path) as db:
        other.hardlink_to(path)
        symbolic.symlink_to(path)
        with pytest.raises(mmstore.Error, match="open under another one"):
            mmstore.open(other, flag)
        with mmstore.open(path, flag), mmstore.open(symbolic, flag):
            db[b"k"] = b"v"
        with pytest.raises(mmstore.Error, match="open under another one"):
            mmstore.open(other, flag)
    with mmstore.open(other) as db:  # closed cleanly, it has no log anywhere
        assert dict(db) == {b"k": b"v"}
        db[b"k"] = b"w"
        with pytest.raises(mmstore.Error, match="open under another one"):
            mmstore.open(path, flag)
    with mmstore.open(path) as db:
        assert dict(db) == {b"k": b"w"} and db.check() == []
    assert sorted(os.listdir(tmp_path)) == ["data.mms", "other.mms", "symbolic.mms"]


def test_a_log_of_another_store_is_corrupt(tmp_path: Path) -> None:
    paths = [tmp_path / "a.mms", tmp_path / "b.mms"]
    twin = tmp_path / "twin.mms"
    with mmstore.open(paths[0]) as one, mmstore.open(paths[1]) as two:
        one[b"k"] = two[b"k"] = b"v"
        twin.write_bytes(paths[0].read_bytes())
        Path(f"{twin}-wal").write_bytes(Path(f"{paths[1]}-wal").read_bytes())
    with pytest.raises(mmstore.CorruptError, match="log"):
        mmstore.open(twin)


def test_checkpoint_frees_log_space(db: Database) -> None:
    db[b"k"] = b"v" * 1000
    assert db.stats()["log"]["used"] > 1000 and db.stats()["log"]["size"] >= 1 << 20
    db.checkpoint()
    stats = db.stats()
    assert stats["log"]["used"] == 0 and stats["durable_txn_id"] == stats["txn_id"] == db.txn_id
    db.checkpoint()
    db.sync()


def test_stats_account_for_every_page(any_db: Database) -> None:
    any_db.update({b"%d" % n: b"v" * 100 for n in range(5000)})
    any_db.keyspace("large")[b"x"] = b"y" * 3_000_000
    any_db.create_table("t", {"x": "f8"}).append({"x": range(100_000)})
    any_db.delete_many([b"%d" % n for n in range(2500)])
    stats = any_db.stats()
    pages = stats["pages"]
    total = pages["total"]
    assert total == sum(pages[kind] for kind in ("fixed", "index", "bulk", "free", "held"))
    assert (
        pages["bulk"] * 4096 >= 3_800_000
        and pages["index"] >= 2500 * 120 // 4096
        and all(count >= 0 for count in pages.values())
    )
    assert total * 4096 <= stats["file_size"] and stats["mapped"] >= total * 4096
    assert stats["count"] == 2500 and stats["keyspaces"] == 1 and stats["tables"] == 1
    assert stats["compiled"] is mmstore.compiled() and not stats["poisoned"]
    assert 0 < stats["resident"] <= stats["mapped"] and stats["own_memory"] >= 0
    assert stats["commits"] >= 4


def test_readers_lists_the_pins_of_every_handle(path: Path) -> None:
    with mmstore.open(path) as db, mmstore.open(path) as twin:
        assert db.readers() == []
        before = time.time()
        db[b"k"] = b"v"
        with db.snapshot() as old:
            db[b"k"] = b"w"
            with db.snapshot(), twin.snapshot():
                mine, other = sorted(db.readers(), key=lambda reader: not reader.own)
                assert (mine.own, other.own) == (True, False) and mine.pid == other.pid == os.getpid()
                assert (mine.pins, other.pins) == (2, 1)
                assert (mine.oldest_txn, mine.newest_txn) == (old.txn_id, old.txn_id + 1)
                assert before - 1 <= mine.since <= time.time() + 1
        assert db.readers() == [] == twin.readers()


def test_many_handles_with_pins_run_out_of_slots_with_a_clear_error(path: Path) -> None:
    handles = [mmstore.open(path) for _ in range(fmt.READER_SLOTS + 1)]
    try:
        snapshots = [handle.snapshot() for handle in handles[:-1]]
        with pytest.raises(mmstore.LockTimeout, match=r"reader slots.*readers\(\)"):
            handles[-1].snapshot()
        handles[-1][b"k"] = b"v"  # writing needs none
        assert len(handles[0].readers()) == fmt.READER_SLOTS
        snapshots[7].close()
        handles[7].close()
        handles[-1].snapshot().close()
        for snapshot in snapshots:
            snapshot.close()
    finally:
        for handle in handles:
            handle.close()


# --- waiting for commits -----------------------------------------------------------------------------


def test_wait_returns_at_once_when_there_is_news(any_db: Database) -> None:
    first = any_db.txn_id
    any_db[b"k"] = b"v"
    assert any_db.wait(first) == any_db.txn_id == first + 1


def test_wait_ends_after_its_timeout(any_db: Database) -> None:
    began = time.monotonic()
    assert any_db.wait(timeout=0.2) == any_db.txn_id
    assert 0.15 < time.monotonic() - began < 5
    assert any_db.wait(any_db.txn_id + 10, timeout=0) == any_db.txn_id


def test_wait_wakes_on_a_commit_by_another_thread_and_handle(path: Path) -> None:
    with mmstore.open(path, durability="relaxed") as db, mmstore.open(path) as twin:
        seen = db.txn_id
        woken: list[float] = []

        def sleep() -> None:
            woken.append(db.wait(seen, timeout=20))
            woken.append(time.monotonic())

        thread = threading.Thread(target=sleep)
        thread.start()
        time.sleep(0.2)
        assert not woken
        twin[b"k"] = b"v"
        committed = time.monotonic()
        thread.join(20)
        assert woken[0] == seen + 1 and woken[1] - committed < 1.0


def test_waiting_is_no_polling(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: however long nothing happens, he who waits looks once a second at most (twenty times uncompiled)."""
    looks: list[float] = []
    true = libc.futex_wait
    monkeypatch.setattr(libc, "futex_wait", lambda *args: looks.append(args[3]) or true(*args))
    with mmstore.open(path) as db:
        db.wait(timeout=0.3)
    assert looks[0] == pytest.approx(0.3, abs=0.1) if mmstore.compiled() else len(looks) < 10
    assert len(looks) < 10


def test_nobody_sleeps_through_a_commit(path: Path) -> None:
    """Each of two threads waits for the other's commit; one that was missed would cost a second."""
    with mmstore.open(path, durability="relaxed") as db, mmstore.open(path, durability="relaxed") as twin:
        first = db.txn_id

        def play(handle: Database, turn: int) -> None:
            for n in range(turn, 400, 2):
                assert handle.wait(first + n - 1, timeout=60) == first + n
                handle[b"ball"] = b"%d" % n

        other = threading.Thread(target=play, args=(twin, 1))
        other.start()
        play(db, 0)
        other.join(60)
        assert db.txn_id == first + 400 and db[b"ball"] == b"399"


def test_who_waits_is_told_when_the_handle_is_closed(path: Path) -> None:
    db = mmstore.open(path)
    raised: list[BaseException] = []

    def sleep() -> None:
        try:
            db.wait()
        except mmstore.ClosedError as error:
            raised.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    while not db.session.live.half("waiters"):
        time.sleep(0.001)
    db.close()
    thread.join(30)
    assert "was closed while" in str(raised[0])


def test_wait_sees_no_commit_that_changed_nothing(any_db: Database) -> None:
    seen = any_db.txn_id
    with any_db.transaction() as txn:
        txn.get(b"k")
    assert any_db.wait(seen, timeout=0.01) == seen


def test_whether_there_is_a_large_value_is_told_without_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(*_: object) -> bytes:
        raise AssertionError("the value was read")

    with mmstore.open(":memory:") as db:
        db[b"large"] = bytes(100_000)
        db.keyspace("k")[b"large"] = bytes(100_000)
        with monkeypatch.context() as patch, db.snapshot() as snapshot, db.transaction() as txn:
            patch.setattr(values, "read", reads)
            for mapping in (db, db.keyspace("k"), snapshot, snapshot.keyspace("k"), txn, txn.keyspace("k")):
                assert b"large" in mapping and b"small" not in mapping
                with pytest.raises(AssertionError, match="was read"):
                    mapping[b"large"]
