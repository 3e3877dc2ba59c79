"""Loading CSV files: types, misfits in one and in two passes, atomicity, both kinds of targets."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mmstore
from mmstore.database import Database
from mmstore.integrations import csv_input

FLIGHTS = """\
day,delay,carrier,cancelled,left,note
1,2,UA,false,2013-01-01T10:00:00Z,
2,NA,AA,true,2013-01-02T10:00:00Z,"two
lines"
3,-4,B6,false,,é
"""


@pytest.fixture
def db(tmp_path: Path) -> Database:
    return mmstore.open(tmp_path / "store.mms", durability="relaxed")


@pytest.fixture(autouse=True)
def checked(db: Database) -> object:
    yield
    assert db.check() == []
    db.close()


@pytest.fixture
def flights(tmp_path: Path) -> Path:
    path = tmp_path / "flights.csv"
    path.write_text(FLIGHTS, encoding="utf-8")
    return path


def text(rows: int, last: str) -> bytes:
    """A CSV of several batches whose last row differs."""
    return b"a,b\n" + b"".join(b"%d,abc\n" % number for number in range(rows)) + last.encode() + b"\n"


def test_types_of_columns(db: Database, flights: Path) -> None:
    done = mmstore.load(flights, db, table="flights")
    table = db.table("flights")
    assert done.rows == done.added == len(table) == 3
    assert [str(column.dtype) for column in table.schema] == [
        "int64",
        "float64",
        "|S2",
        "bool",
        "datetime64[s]",
        "|S12",
    ]
    assert table["day"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(table["delay"], [2.0, np.nan, -4.0])
    assert table["carrier"].tolist() == [b"UA", b"AA", b"B6"]
    assert table["cancelled"].tolist() == [False, True, False]
    assert np.isnat(table["left"]).tolist() == [False, False, True]
    assert table["left"][0] == np.datetime64("2013-01-01T10:00:00")
    assert [value.decode() for value in table["note"]] == ["", "two\nlines", "é"]


def test_named_types(db: Database, flights: Path) -> None:
    kinds = {"day": "u1", "delay": "f4", "carrier": "U2", "left": "M8[ms]", "note": "S32"}
    mmstore.load(flights, db, table="flights", schema=kinds)
    schema = db.table("flights").schema
    assert {name: str(schema[name].dtype) for name in kinds} == {
        "day": "uint8", "delay": "float32", "carrier": "<U2", "left": "datetime64[ms]", "note": "|S32"
    }  # fmt: skip
    assert db.table("flights")["carrier"].tolist() == ["UA", "AA", "B6"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"note": "S4"}, "S4.*9 bytes"),
        ({"delay": "i4"}, "missing"),
        ({"day": "?"}, "bool"),
        ({"nix": "i4"}, "nix"),
        ({"left": "M8[m]"}, "expected a type"),
        ({"left": "i8"}, "conversion error"),
    ],
)
def test_named_types_that_do_not_fit(db: Database, flights: Path, kind: dict[str, str], message: str) -> None:
    with pytest.raises(mmstore.SchemaError, match=message):
        mmstore.load(flights, db, table="flights", schema=kind)
    assert db.tables() == []


@pytest.mark.parametrize("packed", ["plain", "zip", "gz"])
def test_packed(db: Database, flights: Path, tmp_path: Path, packed: str) -> None:
    path = flights
    if packed == "zip":
        path = tmp_path / "flights.csv.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(flights, "flights.csv")
    elif packed == "gz":
        path = tmp_path / "flights.csv.gz"
        path.write_bytes(gzip.compress(flights.read_bytes()))
    seen: list[tuple[int, int | None, int]] = []
    mmstore.load(path, db, table="flights", progress=lambda *numbers: seen.append(numbers))
    assert len(db.table("flights")) == 3
    assert seen[-1][0] > 0 and seen[-1][1] == path.stat().st_size and seen[-1][2] == 3


def test_zip_of_two_files(db: Database, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "a\n1\n")
        archive.writestr("b.csv", "b\n1\n")
    with pytest.raises(mmstore.SchemaError, match="expected one file"):
        mmstore.load(tmp_path / "two.zip", db, table="t")


@pytest.mark.parametrize("last", [",abc", "7,abcdefgh", "7,"])
def test_a_later_misfit_starts_again(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """What the first batch suggests is undone, and the whole file read for its types."""
    monkeypatch.setattr(csv_input, "BATCH_BYTES", 1 << 14)
    path = tmp_path / "late.csv"
    path.write_bytes(text(10_000, last))
    done = mmstore.load(path, db, table="t")
    table = db.table("t")
    assert done.rows == len(table) == 10_001
    number, word = last.split(",")
    assert table["b"][-1] == word.encode() and table["b"][0] == b"abc"
    assert table["a"][-1] == float(number) if number else np.isnan(table["a"][-1])
    assert table["a"][:-1].tolist() == list(range(10_000))


def test_a_later_misfit_in_one_pass(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_input, "BATCH_BYTES", 1 << 14)
    data = text(10_000, "7,abcdefgh")
    with pytest.raises(mmstore.SchemaError, match=r"'b' is \|S3.*S8"):
        mmstore.load(io.BytesIO(data), db, table="t")
    assert db.tables() == []
    mmstore.load(io.BytesIO(data), db, table="t", schema={"b": "S8"})
    assert len(db.table("t")) == 10_001


def test_another_sort_later(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_input, "BATCH_BYTES", 1 << 14)
    path = tmp_path / "late.csv"
    path.write_bytes(text(10_000, "seven,abc"))
    with pytest.raises(mmstore.SchemaError, match="seven"):
        mmstore.load(path, db, table="t")
    assert db.tables() == []
    mmstore.load(path, db, table="t", schema={"a": "S8"})
    assert db.table("t")["a"][-1] == b"seven"


def test_nothing_but_missing_values_at_first(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_input, "BATCH_BYTES", 1 << 14)
    path = tmp_path / "late.csv"
    path.write_text("a,b\n" + "1,\n" * 10_000 + "2,word\n")
    mmstore.load(path, db, table="t")
    assert db.table("t")["b"].tolist() == [b""] * 10_000 + [b"word"]


def test_existing_table(db: Database, flights: Path) -> None:
    mmstore.load(flights, db, table="flights")
    with pytest.raises(mmstore.SchemaError, match="append to it or to replace it"):
        mmstore.load(flights, db, table="flights")
    mmstore.load([flights, flights], db, table="flights", append=True)
    assert len(db.table("flights")) == 9
    mmstore.load(flights, db, table="flights", replace=True, schema={"day": "i2"})
    assert len(db.table("flights")) == 3 and db.table("flights")["day"].dtype == np.int16


def test_times(db: Database, tmp_path: Path) -> None:
    """With and without zones, fractions, in other units, and times of day."""
    (tmp_path / "a.csv").write_text(
        "z,n,d,t\n2013-01-01T10:00:00+02:00,2013-01-01 10:00:00.25,2013-01-01,10:00:01\n,,,\n"
    )
    mmstore.load(tmp_path / "a.csv", db, table="t")
    mmstore.load(tmp_path / "a.csv", db, table="t", append=True)
    table = db.table("t")
    assert [str(column.dtype) for column in table.schema] == [
        "datetime64[s]", "datetime64[ns]", "datetime64[D]", "timedelta64[s]"
    ]  # fmt: skip
    expected = [np.datetime64("2013-01-01T08:00"), np.datetime64("2013-01-01T10:00:00.25"), np.datetime64("2013-01-01")]
    for name, value in zip("znd", expected, strict=True):
        assert table[name][::2].tolist() == [value.astype(table[name].dtype).item()] * 2
        assert np.isnat(table[name][1::2]).all()
    assert table["t"][0] == np.timedelta64(36_001, "s") and np.isnat(table["t"][1])
    mmstore.load(tmp_path / "a.csv", db, table="u", schema={"z": "M8[us]", "n": "M8[ms]", "t": "m8[us]"})
    assert (db.table("u")["z"][0], db.table("u")["n"][0]) == tuple(expected[:2])
    with pytest.raises(mmstore.SchemaError, match="'n'"):
        mmstore.load(tmp_path / "a.csv", db, table="v", schema={"n": "M8[s]"})


def test_append_of_other_columns(db: Database, flights: Path, tmp_path: Path) -> None:
    mmstore.load(flights, db, table="flights")
    (tmp_path / "other.csv").write_text("day\n1\n")
    with pytest.raises(mmstore.SchemaError, match="has the columns day"):
        mmstore.load(tmp_path / "other.csv", db, table="flights", append=True)
    assert len(db.table("flights")) == 3


def test_no_rows(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("a,b\n")
    with pytest.raises(mmstore.SchemaError, match="no rows"):
        mmstore.load(path, db, table="t")
    mmstore.load(path, db, table="t", schema={"a": "i4", "b": "S3"})
    assert len(db.table("t")) == 0 and db.table("t").schema.names == ("a", "b")
    path.write_text("")
    with pytest.raises(mmstore.SchemaError, match="is empty"):
        mmstore.load(path, db, table="u")


def test_keyspace_of_texts(db: Database, tmp_path: Path) -> None:
    """Keys and values are the texts as they stand, even where they look like numbers."""
    (tmp_path / "a.csv").write_bytes(b"k,v,w\n007,1.50,x\nNA,,y\n\xff,z,z\n")
    done = mmstore.load(tmp_path / "a.csv", db, keyspace="a", key="k", value="v")
    assert dict(db.keyspace("a")) == {b"007": b"1.50", b"NA": b"", b"\xff": b"z"}
    assert done.rows == done.added == 3
    with pytest.raises(mmstore.SchemaError, match="holds 3 records"):
        mmstore.load(tmp_path / "a.csv", db, keyspace="a", key="k", value="v")
    done = mmstore.load(tmp_path / "a.csv", db, keyspace="a", key="k", value="w", append=True)
    assert done.rows == 3 and done.added == 0 and db.keyspace("a")[b"007"] == b"x"
    mmstore.load(tmp_path / "a.csv", db, keyspace="a", key="w", value="k", replace=True)
    assert db.keyspace("a")[b"x"] == b"007" and len(db.keyspace("a")) == 3


def test_keyspace_of_rows(db: Database, flights: Path) -> None:
    mmstore.load(flights, db, keyspace="", key="day")
    assert json.loads(db[b"2"]) == {
        "day": "2", "delay": None, "carrier": "AA", "cancelled": True, "left": "2013-01-02T10:00:00+00:00",
        "note": "two\nlines",
    }  # fmt: skip


def test_a_failure_leaves_no_trace(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_input, "BATCH_BYTES", 1 << 14)
    (tmp_path / "a.csv").write_bytes(text(10_000, "1,2,3"))
    before = db.txn_id
    with pytest.raises(mmstore.SchemaError, match="Expected 2 columns"):
        mmstore.load(tmp_path / "a.csv", db, table="t")
    with pytest.raises(mmstore.SchemaError, match="Expected 2 columns"):
        mmstore.load(tmp_path / "a.csv", db, keyspace="k", key="a")
    assert db.txn_id == before and db.tables() == db.keyspaces() == []


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"table": "t", "keyspace": "k"},
        {"keyspace": "k"},
        {"table": "t", "key": "a"},
        {"keyspace": "k", "key": "a", "schema": {"a": "i4"}},
        {"table": "t", "append": True, "replace": True},
    ],
)
def test_arguments_that_contradict(db: Database, flights: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|go with|goes with"):
        mmstore.load(flights, db, **arguments)


def test_missing_column_and_file(db: Database, flights: Path, tmp_path: Path) -> None:
    with pytest.raises(mmstore.SchemaError, match="nix"):
        mmstore.load(flights, db, keyspace="k", key="nix")
    with pytest.raises(FileNotFoundError):
        mmstore.load(tmp_path / "nix.csv", db, table="t")


def test_into_a_path(flights: Path, tmp_path: Path) -> None:
    mmstore.load(flights, tmp_path / "new.mms", table="flights")
    with mmstore.open(tmp_path / "new.mms", "r") as other:
        assert len(other.table("flights")) == 3
