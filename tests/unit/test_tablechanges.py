"""Changes of tables in transactions: replayed from the log, undone, failing halfway; old states keep their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mmstore
from corruption import PATH, Image, column_of
from mmstore import format as fmt
from mmstore.catalog import tables
from mmstore.catalog.entry import Entry
from mmstore.columns import bitmap, sequence
from mmstore.columns.batch import Batch
from mmstore.columns.schema import MAX_ID, Column, Schema
from mmstore.columns.statistics import Statistics
from mmstore.database.database import Database, open_on
from mmstore.database.tablewriter import TableWriter
from mmstore.database.transaction import Transaction
from mmstore.disk.memory import MemoryFilesystem
from mmstore.engine import tables as changes
from mmstore.engine.operations import Operation
from mmstore.engine.recovery import apply
from mmstore.engine.session import Options
from mmstore.errors import CorruptError, DiskFullError, SchemaError, TransactionError
from mmstore.exchange import convert

nullable = mmstore.nullable
OPTIONS = Options(durability="full", timeout=2.0, background=False, log_ring=1 << 20)
SCHEMA: dict[str, Any] = {
    "id": "i8",
    "n": nullable("f4"),
    "t": nullable("utf8"),
    "c": "category",
    "l": "list(i2)",
    "s": "S5",
}
ROWS = 1000
State = dict[str, Any]


def data(ids: Any) -> dict[str, list[Any]]:
    return {
        "id": list(ids),
        "n": [None if i % 7 == 3 else i / 2 for i in ids],
        "t": [None if i % 5 == 0 else f"text {i}" for i in ids],
        "c": [f"word {i % 9}" for i in ids],
        "l": [[i % 99] * (i % 3) for i in ids],
        "s": [b"%d" % (i % 100_000) for i in ids],
    }


def state_of(db: Database, name: str = "t") -> State:
    found = {column: column_of(db, name, column) for column in db.table(name).columns}
    found["deleted"] = db.table(name).deleted.tolist()
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}


def filled(db: Database) -> None:
    table = db.create_table("t", SCHEMA, key="id")
    table.append(data(range(ROWS)))
    table.delete([3, 700])


@pytest.fixture
def fs() -> Iterator[MemoryFilesystem]:
    found = MemoryFilesystem()
    yield found
    found.close()


@pytest.fixture
def db(fs: MemoryFilesystem) -> Iterator[Database]:
    """A table of every layout, behind a checkpoint, so that what comes then is in the log."""
    with open_on(fs, PATH, "c", OPTIONS, 4096) as database:
        filled(database)
        database.checkpoint()
        yield database
        assert database.check() == []


def again(fs: MemoryFilesystem) -> MemoryFilesystem:
    """The files as a killed process leaves them."""
    return Image.of(fs).filesystem()


CHANGES: dict[str, Callable[[TableWriter], Any]] = {
    "append": lambda t: t.append(data(range(ROWS, ROWS + 50))),
    "append and replace": lambda t: t.append(data(range(ROWS - 9, ROWS + 9)), on_conflict="replace"),
    "update": lambda t: t.update([1, 5, 999], {"n": [None, 1.5, 2], "s": [b"x", b"y", b"z"]}),
    "update text": lambda t: t.update(
        [900, 20], {"t": ["new", None], "l": [[], [1] * 40], "c": ["new word", "word 1"]}
    ),
    "update keys": lambda t: t.update([10, 11, 12], {"id": [11, 10, 1 << 40]}),
    "delete": lambda t: t.delete([0, 999, 4]),
    "delete all": lambda t: t.delete(slice(None)),
    "delete and append": lambda t: (t.delete([10, 20]), t.append(data([10, 5000]))),
    "add a column": lambda t: t.add_column("extra", nullable("utf8"), "fill"),
    "add a column of nothing": lambda t: t.add_column("extra", nullable("i4")),
    "add a category": lambda t: t.add_column("extra", "category", "the same"),
    "drop a column": lambda t: t.drop_column("l"),
    "rename a column": lambda t: t.rename_column("id", "number"),
    "allow nulls": lambda t: (t.allow_nulls("c"), t.update([7], {"c": [None]})),
    "compact": lambda t: t.compact(),
    "delete and compact": lambda t: (t.delete(slice(0, 990)), t.compact()),
    "delete all and compact": lambda t: (t.delete(slice(None)), t.compact(), t.append(data([1]))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_replayed(fs: MemoryFilesystem, db: Database, name: str) -> None:
    before = state_of(db)
    large = db.session.counts["large_commits"]
    with db.transaction() as txn:
        CHANGES[name](txn.table("t"))
    found = state_of(db)
    assert found != before
    left = again(fs)
    with open_on(left, PATH, "w", OPTIONS) as other:
        assert state_of(other) == found and other.check() == []
        other.table("t").append(more(other))
    left.close()
    assert db.session.counts["large_commits"] == large  # it was all in the log


def more(db: Database) -> dict[str, Any]:
    """A row for the table as it is now."""
    found = {}
    for column in db.table("t").schema:
        value = data([10**7]).get(column.name)
        found[column.name] = value or ([10**7] if column.name == "number" else [None] if column.nullable else ["word"])
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_can_be_undone(db: Database, name: str) -> None:
    before = state_of(db)
    with db.transaction() as txn:
        with pytest.raises(ZeroDivisionError), txn.savepoint():
            CHANGES[name](txn.table("t"))
            raise ZeroDivisionError
        txn[b"kept"] = b"1"
    assert state_of(db) == before and db[b"kept"] == b"1" and db.check() == []
    with pytest.raises(ZeroDivisionError), db.transaction() as txn:
        CHANGES[name](txn.table("t"))
        raise ZeroDivisionError
    assert state_of(db) == before and db.check() == []
    with db.transaction() as txn:  # and done, when the same was undone
        with pytest.raises(ZeroDivisionError), txn.savepoint():
            CHANGES[name](txn.table("t"))
            raise ZeroDivisionError
        CHANGES[name](txn.table("t"))
    assert state_of(db) != before


def test_a_transaction_begins_so_many_zones_and_no_more(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes.TableChanges, "zones", 3)
    begun: list[int] = []
    monkeypatch.setattr(db.session.store, "begin_zone", begun.append)
    table = db.create_table("many", {"x": "f8"})
    for _ in range(2):
        with db.transaction() as txn:
            for _ in range(30):
                txn.table("many").append({"x": np.zeros(100_000)})
    assert len(begun) == 6 and len(set(begun)) == 6 and len(table) == 6_000_000
    with db.transaction() as txn:
        txn.begin_no_zones()
        for _ in range(30):
            txn.table("many").append({"x": np.zeros(100_000)})
    assert len(begun) == 6


def test_old_states_keep_their_bytes(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views and snapshots from before any change show what they showed (I1, I2); pages are used again at once."""
    monkeypatch.setattr(fmt, "GRACE", 0)
    held: list[tuple[Any, State, dict[str, Any], dict[str, Any]]] = []
    for number, (name, change) in enumerate(CHANGES.items()):
        if "t" not in db.tables():
            filled(db)
        table = db.table("t")
        views = {column: table[column] for column in table.columns}
        copies = {column: column_of(db, "t", column) for column in table.columns}
        held.append((db.snapshot() if number % 2 else None, state_of(db), views, copies))
        with db.transaction() as txn:
            change(txn.table("t"))
            txn.drop("t")
            table = txn.create_table("t", SCHEMA, key="id")
            table.append(data(range(ROWS)))
            table.delete([3, 700])
        for _ in range(3):
            db.put(b"x", b"y" * 5000)
        for snapshot, state, views, copies in held:
            for column, view in views.items():
                shown = view.tolist()
                shown = [value.tolist() if isinstance(value, np.ndarray) else value for value in shown]
                assert shown == (copies[column].tolist() if isinstance(copies[column], np.ndarray) else copies[column])
            if snapshot is not None:
                old = snapshot.table("t")
                assert old["id"].tolist() == state["id"] and old["t"].tolist() == state["t"], name
                assert old.deleted.tolist() == state["deleted"]
    for snapshot, *_ in held:
        if snapshot is not None:
            snapshot.close()


def test_changes_see_what_the_transaction_did_before(db: Database) -> None:
    with db.transaction() as txn:
        table = txn.table("t")
        table.append(data([5000]))
        table.update(table.find([5000]), {"t": "first"})
        table.update(table.find([5000]), {"t": "second", "id": 6000})
        assert table.find([5000, 6000]).tolist() == [-1, ROWS]
        table.delete(table.find([6000]))
        table.append(data([6000]))
        table.compact()
        assert table.find([6000]).tolist() == [ROWS - 2]
    assert db.table("t").find([6000]).tolist() == [ROWS - 2] and len(db.table("t")) == ROWS - 1


# --- failing halfway -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["append", "append and replace", "update", "update text", "delete", "compact",
                                  "add a column", "update keys"])  # fmt: skip
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_full_disk(db: Database, monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> None:
    before = state_of(db)
    freelist = db.session.freelist
    true = type(freelist).alloc
    left = [at]

    def alloc(self: Any, n: int, kind: int) -> int:
        if kind == fmt.FREE_BULK:
            if not left[0]:
                raise DiskFullError("no room")
            left[0] -= 1
        return true(self, n, kind)

    def strike(txn: Transaction) -> bool:
        left[0] = at
        with monkeypatch.context() as patch:
            patch.setattr(type(freelist), "alloc", alloc)
            try:
                CHANGES[name](txn.table("t"))
            except DiskFullError:
                return True
            finally:
                left[0] = 1 << 40  # the transaction keeps the method
        return False

    with pytest.raises(ZeroDivisionError), db.transaction() as txn:
        txn[b"lost"] = b"1"
        failed = strike(txn)
        if failed and name != "append":  # an append takes all its pages before it changes anything
            with pytest.raises(TransactionError, match="halfway"):
                txn.commit()
        raise ZeroDivisionError
    assert failed or at
    assert state_of(db) == before and b"lost" not in db and db.check() == []
    with db.transaction() as txn:
        txn[b"kept"] = b"1"
        with pytest.raises(ZeroDivisionError), txn.savepoint():
            strike(txn)
            raise ZeroDivisionError
        CHANGES[name](txn.table("t"))
    assert db[b"kept"] == b"1" and state_of(db) != before and db.check() == []


@pytest.mark.parametrize("name", ["append", "update text", "delete", "compact", "drop a column"])
def test_what_ctrl_c_strikes_can_only_be_rolled_back(db: Database, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = state_of(db)
    for place in ("alloc", "free"):
        freelist = type(db.session.freelist)
        true = getattr(freelist, place)
        calls = [0]

        def strike(self: Any, *args: int, true: Any = true, calls: list[int] = calls) -> Any:
            calls[0] += 1
            if calls[0] == 2:
                true(self, *args)
                raise KeyboardInterrupt
            return true(self, *args)

        for nested in (False, True):
            txn = db.transaction()
            calls[0] = 0
            with monkeypatch.context() as patch:
                patch.setattr(freelist, place, strike)
                try:
                    if nested:
                        with txn.savepoint():
                            CHANGES[name](txn.table("t"))
                    else:
                        CHANGES[name](txn.table("t"))
                    struck = False
                except KeyboardInterrupt:
                    struck = True
            if struck:
                with pytest.raises(TransactionError, match="halfway"):
                    txn.commit()
            else:
                assert calls[0] < 2
                txn.rollback()
            assert state_of(db) == before and db.check() == []


def test_a_damaged_key_is_not_forgotten(fs: MemoryFilesystem, db: Database) -> None:
    """Its row's key would stay in the index, or another row's would go."""
    with db.transaction() as txn:
        found = txn.check_open().entry(b"t")
    run = found.columns[0].parts[0].runs[0]
    image = Image.of(fs)
    image.flip(PATH, 8 * (run.start * 4096 + 8 * 500))  # row 500 has the key 501 now
    left = image.filesystem()
    with open_on(left, PATH, "w", OPTIONS) as other:
        for change in (lambda: other.table("t").delete([500]), lambda: other.table("t").update([500], {"id": [77777]})):
            with pytest.raises(CorruptError):
                change()
        assert other.table("t").live_rows == ROWS - 2
        assert len(other.check()) >= 1
    left.close()


# --- replaying what no transaction wrote ----------------------------------------------------------------


def rows(*numbers: int) -> bytes:
    return np.array(numbers, "<u8").tobytes()


HOSTILE: list[tuple[int, bytes, bytes]] = [
    (fmt.OP_APPEND, rows(1), b""),
    (fmt.OP_APPEND, b"\1", b""),
    (fmt.OP_APPEND, rows(1 << 63), bytes(200)),
    (fmt.OP_APPEND, rows(5), bytes(8 * 12)),
    (fmt.OP_UPDATE, rows(), bytes(4)),
    (fmt.OP_UPDATE, rows(5, 4), bytes(4)),
    (fmt.OP_UPDATE, rows(4, 4), bytes(4)),
    (fmt.OP_UPDATE, rows(ROWS), bytes(4)),
    (fmt.OP_UPDATE, rows((1 << 64) - 1), bytes(4)),
    (fmt.OP_UPDATE, rows(1)[:7], bytes(4)),
    (fmt.OP_UPDATE, rows(1), b"\xff\xff\xff\xff"),
    (fmt.OP_UPDATE, rows(1), b"\1\0\0\0\x09\0\0\0" + bytes(16)),
    (fmt.OP_UPDATE, rows(1), b"\2\0\0\0\0\0\0\0\0\0\0\0" + bytes(16)),
    (fmt.OP_UPDATE, rows(1), b"\1\0\0\0\0\0\0\0" + bytes(16)),
    (fmt.OP_DELETE_ROWS, rows(), b""),
    (fmt.OP_DELETE_ROWS, rows(3), b""),  # is deleted
    (fmt.OP_DELETE_ROWS, rows(ROWS), b""),
    (fmt.OP_DELETE_ROWS, rows(9, 1), b""),
    (fmt.OP_ADD_COLUMN, b"", b""),
    (fmt.OP_ADD_COLUMN, b"{}", b""),
    (fmt.OP_ADD_COLUMN, b"[" * 5000, b""),
    (fmt.OP_DROP_COLUMN, b"nope", b""),
    (fmt.OP_DROP_COLUMN, b"\xff", b""),
    (fmt.OP_DROP_COLUMN, b"id", b""),
    (fmt.OP_RENAME_COLUMN, b"n", b"id"),
    (fmt.OP_RENAME_COLUMN, b"n", b""),
    (fmt.OP_RENAME_COLUMN, b"n", b"\xff"),
    (fmt.OP_RENAME_COLUMN, b"nope", b"m"),
    (fmt.OP_ALLOW_NULLS, b"id", b""),
    (fmt.OP_ALLOW_NULLS, b"nope", b""),
    (fmt.OP_RESIZE, rows(5), b""),
]


@pytest.mark.parametrize(("code", "key", "value"), HOSTILE, ids=lambda value: str(value)[:30])
def test_impossible_changes_in_the_log_are_corrupt(db: Database, code: int, key: bytes, value: bytes) -> None:
    before = state_of(db)
    txn = db.transaction()
    with pytest.raises(CorruptError):
        apply(txn.check_open(), Operation(code, b"t", key, value))
    txn.rollback()
    assert state_of(db) == before


@pytest.mark.parametrize("length", [3, 4, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_number_in_the_log_makes_no_array_longer(db: Database, length: int) -> None:
    """It fills no disk: nothing was written, nor even asked for."""
    array = db.create_array("a", "f8", 3)
    pages = db.stats()["pages"]
    txn = db.transaction()
    with pytest.raises(CorruptError, match=f"3 rows cut to {length}"):
        apply(txn.check_open(), Operation(fmt.OP_RESIZE, b"a", rows(length), b""))
    txn.rollback()
    assert array.shape == (3,) and db.stats()["pages"] == pages


def test_longer_arrays_come_back_from_the_log(fs: MemoryFilesystem, db: Database) -> None:
    """Small growth lies in the log as zeros, large growth is committed by a checkpoint."""
    array = db.create_array("a", "u2", 3)
    array[:] = [1, 2, 3]
    large = db.session.counts["large_commits"]
    for length, by_checkpoint in ((7, 0), (5, 0), (900_000, 1), (2, 1), (4, 1)):
        array.resize(length)
        assert db.session.counts["large_commits"] - large == by_checkpoint
        with open_on(again(fs), PATH, "w", OPTIONS) as other:
            assert other.array("a")[:].tolist() == array[:].tolist() and other.check() == []
    assert array[:].tolist() == [1, 2, 0, 0]


def test_the_last_id_of_a_column(db: Database) -> None:
    schema = Schema((Column.of("x", "i8", MAX_ID), Column.of("y", "i8", 0)))
    with db.transaction() as txn:
        txn.check_open().create(b"full", Entry.table(schema))
    table = db.table("full")
    with pytest.raises(SchemaError, match="no id is left"):
        table.add_column("z", "i4")
    assert table.columns == ("x", "y")
    table.drop_column("x")
    table.add_column("z", "i4")
    assert table.columns == ("y", "z")


@pytest.mark.parametrize("code", sorted(set(fmt.OPERATIONS) - {fmt.OP_PUT, fmt.OP_DELETE, fmt.OP_CLEAR, fmt.OP_CREATE}))
def test_changes_of_what_has_no_rows_or_no_such_change(db: Database, code: int) -> None:
    db.keyspace("k")[b"a"] = b"b"
    db.create_array("a", "i4", (3,))
    allowed = {b"nothing": set(), b"k": {fmt.OP_DROP}, b"a": {fmt.OP_DROP, fmt.OP_RESIZE, fmt.OP_COMPACT}}
    for name, codes in allowed.items():
        txn = db.transaction()
        if code in codes:
            apply(txn.check_open(), Operation(code, name, rows(2), b""))
        else:
            with pytest.raises(CorruptError):
                apply(txn.check_open(), Operation(code, name, b"", b""))
        txn.rollback()


# --- check() ---------------------------------------------------------------------------------------------


def planted(db: Database, change: Callable[[Any], Any]) -> list[str]:
    """What check() finds in a copy of the store whose entry was changed under sound checksums."""
    fs = MemoryFilesystem()
    with open_on(fs, PATH, "c", OPTIONS, 4096) as other:
        filled(other)
        assert other.check() == []
        with other.transaction() as txn:
            write = txn.check_open()
            entry = change(write)
            if entry is not None:
                write._set(b"t", entry)
            write.operations.outgrow()
        found = [problem.message for problem in other.check()]
    fs.close()
    return found


def entry_of(write: Any) -> Any:
    return write.entry(b"t")


def with_column(entry: Any, at: int, **fields: Any) -> Any:
    columns = list(entry.columns)
    columns[at] = columns[at]._replace(**fields)
    return entry._replace(columns=tuple(columns))


def with_part(write: Any, at: int, part: int, content: bytes) -> Any:
    """The entry with other bytes, under right checksums, in a part of a column."""
    entry = entry_of(write)
    parts = list(entry.columns[at].parts)
    sequence.free(parts[part], write.space)
    parts[part] = sequence.append(sequence.EMPTY, content, write.space)
    return with_column(entry, at, parts=tuple(parts))


def bytes_of(write: Any, at: int, part: int) -> bytearray:
    found = entry_of(write).columns[at].parts[part]
    return bytearray(sequence.read(found, write.space, 0, found.length))


def changed_bytes(at: int, part: int, where: int, new: bytes) -> Callable[[Any], Any]:
    def change(write: Any) -> Any:
        content = bytes_of(write, at, part)
        where_ = where % len(content)
        content[where_ : where_ + len(new)] = new
        return with_part(write, at, part, bytes(content))

    return change


def changed_tail(at: int, **fields: Any) -> Callable[[Any], Any]:
    def change(write: Any) -> Any:
        entry = entry_of(write)
        tail: Statistics = entry.columns[at].tail
        return with_column(entry, at, tail=tail._replace(**fields))

    return change


def changed_marks(content: bytes, deleted: int) -> Callable[[Any], Any]:
    def change(write: Any) -> Any:
        entry = entry_of(write)
        sequence.free(entry.marks, write.space)
        marks = sequence.append(sequence.EMPTY, content, write.space)
        return entry._replace(marks=marks, deleted=deleted)

    return change


def marks(*deleted: int, value: int = 1) -> bytes:
    found = bytearray(ROWS)
    for row in deleted:
        found[row] = value
    return bytes(found)


def bits_of_the_state(write: Any) -> Any:
    entry = entry_of(write)
    column = entry.columns[1]
    grown = bitmap.truncate(column.parts[0], ROWS - 3, write.space)
    grown = bitmap.append(grown, np.array([True, False, True]), write.space)
    return with_column(entry, 1, parts=(grown._replace(last=grown.last ^ 1), *column.parts[1:]))


def index_says(key: int, row: int | None) -> Callable[[Any], Any]:
    def change(write: Any) -> Any:
        index = write.index(b"t")
        if row is None:
            index.delete(key.to_bytes(8, "little"))
        else:
            index.put(key.to_bytes(8, "little"), fmt.ROWS.pack(row))
        return entry_of(write)

    return change


PLANTED: dict[str, Callable[[Any], Any]] = {
    "a smallest value": changed_tail(0, low=b"\1" + bytes(15)),
    "a largest value": changed_tail(0, high=b"\1" + bytes(15)),
    "order": changed_tail(1, flags=fmt.STAT_RANGE | fmt.STAT_ORDERED),
    "NaN": changed_tail(1, flags=fmt.STAT_RANGE | fmt.STAT_NAN),
    "missing rows": changed_tail(1, nulls=0),
    "missing rows of text": changed_tail(2, nulls=1),
    "a text's bound": changed_tail(2, high=b"zzz" + bytes(13)),
    "a code's bound": changed_tail(3, high=b"\7" + bytes(15)),
    "another value": changed_bytes(0, 0, 8 * 500, b"\xff" * 8),
    "another missing row": bits_of_the_state,
    "no UTF-8": changed_bytes(2, 2, 50, b"\xff"),
    "a first offset": changed_bytes(2, 1, 0, b"\1"),
    "a last offset": changed_bytes(2, 1, -8, b"\1\0"),
    "a falling offset": changed_bytes(2, 1, 800, b"\0" * 8),
    "a negative offset": changed_bytes(4, 0, 800, b"\xff" * 8),
    "an offset outside": changed_bytes(4, 0, 800, b"\xff" * 7 + b"\x7f"),
    "a code of no word": changed_bytes(3, 0, 400, b"\x09"),
    "a negative code": changed_bytes(3, 0, 400, b"\xff" * 4),
    "a word twice": changed_bytes(3, 2, 0, b"word 1"),
    "a word that is no UTF-8": changed_bytes(3, 2, 0, b"\xff"),
    "falling words": changed_bytes(3, 1, 8, b"\xff\xff"),
    "marks not counted": changed_marks(marks(3, 700), 0),
    "marks counted wrongly": changed_marks(marks(3, 700), 1),
    "too many marks": changed_marks(marks(3, 700, 701), 2),
    "other marks": changed_marks(marks(4, 700), 2),
    "strange marks": changed_marks(marks(3, 700, value=2), 2),
    "a key of another row": index_says(500, 501),
    "a key of no row": index_says(500, 1 << 40),
    "a missing key": index_says(500, None),
    "a key too many": index_says(10**6, 5),
    "a deleted row's key": index_says(3, 3),
}


@pytest.mark.parametrize("name", PLANTED)
def test_check_finds_what_contradicts_itself(db: Database, name: str) -> None:
    assert planted(db, PLANTED[name]), name


def test_check_finds_a_key_that_is_too_long(db: Database) -> None:
    fs = MemoryFilesystem()
    with open_on(fs, PATH, "c", OPTIONS, 4096) as other:
        other.create_table("t", {"k": "binary"}, key="k")
        with other.transaction() as txn:
            write = txn.check_open()
            n, parts = convert.column_parts(tables.schema_of(write.entry(b"t")).columns[0], [b"x" * 70_000])
            write._set(b"t", tables.append(write.entry(b"t"), Batch(n, [parts]), write.space))
            write.operations.outgrow()
        assert any("65,535" in problem.message for problem in other.check())
    fs.close()


def test_words_of_two_handles(tmp_path: Any) -> None:
    """Each learns what the other added, in turn, and neither piles up what it knew."""
    with mmstore.open(tmp_path / "x.mms") as a, mmstore.open(tmp_path / "x.mms") as b:
        a.create_table("t", {"c": "category"})
        expected = []
        for number in range(30):
            db = (a, b)[number % 2]
            expected += [f"word {number}", "same", f"word {number - 1}"]
            db.table("t").append({"c": expected[-3:]})
        assert a.table("t")["c"].tolist() == b.table("t")["c"].tolist() == expected
        assert len(a.table("t")["c"].categories) == 32
        assert len(a.session.words) <= 2 and len(b.session.words) <= 2
        with pytest.raises(ZeroDivisionError), a.transaction() as txn:
            txn.table("t").append({"c": ["lost"]})
            raise ZeroDivisionError
        a.table("t").append({"c": ["found", "lost"]})
        b.table("t").append({"c": ["lost", "found"]})
        assert b.table("t")["c"].tolist()[-4:] == ["found", "lost", "lost", "found"]
        assert a.check() == []


def test_too_many_columns_leave_no_page_behind(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmstore.columns.schema.MAX_COLUMNS", len(SCHEMA))
    with db.transaction() as txn:
        with pytest.raises(SchemaError, match="columns"):
            txn.table("t").add_column("extra", "i8", 5)
        txn[b"kept"] = b"1"
    assert "extra" not in db.table("t").columns
