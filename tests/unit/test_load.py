"""Loading into tables: types, nulls, keys, chosen rows, bad rows, every format; and nothing left by a failure."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import mmstore
from mmstore.database import Database
from mmstore.integrations.inputs import delimited
from mmstore.integrations.inputs.base import BadRow

FLIGHTS = """\
day,delay,carrier,cancelled,left,note
1,2,UA,false,2013-01-01T10:00:00Z,
2,NA,AA,true,2013-01-02T10:00:00Z,"two
lines"
3,-4,B6,false,,é
"""


@pytest.fixture
def flights(tmp_path: Path) -> Path:
    path = tmp_path / "flights.csv"
    path.write_text(FLIGHTS, encoding="utf-8")
    return path


def schema_of(db: Database, name: str) -> dict[str, str]:
    return {column.name: str(column) for column in db.table(name).schema}


def rows_of(db: Database, name: str) -> list[dict[str, Any]]:
    return db.table(name).to_arrow().to_pylist()  # type: ignore[no-any-return]


def text(rows: int, last: str) -> bytes:
    """A CSV of several batches, of which the sample sees all but the last row."""
    return b"a,b\n" + b"".join(b"%d,abc\n" % number for number in range(rows)) + last.encode() + b"\n"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small samples and batches."""
    monkeypatch.setattr(delimited, "SAMPLE_BYTES", 1 << 12)
    monkeypatch.setattr(delimited, "BATCH_BYTES", 1 << 12)


def test_types_of_columns(db: Database, flights: Path) -> None:
    done = mmstore.load(flights, db, table="flights")
    assert done.rows == done.added == len(db.table("flights")) == 3 and done.read == flights.stat().st_size
    assert schema_of(db, "flights") == {
        "day": "int64", "delay": "nullable(int64)", "carrier": "utf8", "cancelled": "bool",
        "left": "nullable(timestamp[s, UTC])", "note": "utf8",
    }  # fmt: skip
    rows = rows_of(db, "flights")
    assert [row["delay"] for row in rows] == [2, None, -4]
    assert [row["note"] for row in rows] == ["", "two\nlines", "é"]
    assert rows[0]["left"].isoformat() == "2013-01-01T10:00:00+00:00" and rows[2]["left"] is None
    assert db.table("flights")["day"].tolist() == [1, 2, 3]


def test_named_types(db: Database, flights: Path) -> None:
    named = {"day": "u1", "delay": "f4?", "carrier": "category", "left": "M8[ms]?", "note": "S16", "cancelled": "u1"}
    with pytest.raises(mmstore.SchemaError, match="column 'cancelled': the value 'false' is no uint8"):
        mmstore.load(flights, db, table="t", schema=named)
    del named["cancelled"]
    mmstore.load(flights, db, table="t", schema=named)
    assert schema_of(db, "t") == {
        "day": "uint8", "delay": "nullable(float32)", "carrier": "category", "cancelled": "bool",
        "left": "nullable(datetime64[ms])", "note": "|S16",
    }  # fmt: skip
    assert db.table("t")["note"].tolist() == [b"", b"two\nlines", "é".encode()]
    assert db.table("t")["left"].to_masked()[0] == np.datetime64("2013-01-01T10:00:00")
    exact = {"a": "decimal128(15,2)", "b": "date32", "c": "timestamp[us, UTC]", "d": "time64[us]", "e": "binary",
             "f": "f2", "g": "U3"}  # fmt: skip
    line = b"a,b,c,d,e,f,g\n1.25,2020-01-02,2020-01-02T03:04:05+02:00,10:00:00.5,\xff,1.5,x\n"
    mmstore.load(io.BytesIO(line), db, table="exact", schema=exact, format="csv")
    (row,) = rows_of(db, "exact")
    assert str(row["a"]) == "1.25" and row["b"].isoformat() == "2020-01-02" and row["e"] == b"\xff" and row["f"] == 1.5
    assert row["c"].isoformat() == "2020-01-02T01:04:05+00:00" and row["d"].isoformat() == "10:00:00.500000"
    assert row["g"] == "x" and schema_of(db, "exact")["d"] == "time64[us]"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"note": "S4"}, "'note'.*S4"),
        ({"delay": "i4"}, "line 3, column 'delay': the value 'NA' is missing.*delay=i4[?]"),
        ({"nix": "i4"}, "no column 'nix'"),
        ({"left": "M8[m]"}, "text can't be read as datetime64"),
        ({"left": "i8"}, "line 2, column 'left': the value '2013-01-01T10:00:00Z' is no int64"),
        ({"left": "object"}, "can't be held"),
        ({"left": ("f4", 3)}, "text can't be read as"),
    ],
)
def test_named_types_that_do_not_fit(db: Database, flights: Path, kind: dict[str, Any], message: str) -> None:
    before = db.txn_id
    with pytest.raises(mmstore.SchemaError, match=message):
        mmstore.load(flights, db, table="flights", schema=kind)
    assert db.tables() == [] and db.txn_id == before


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


@pytest.mark.parametrize("codec", ["gzip", "bz2", "zstd", "lz4", "brotli"])
def test_packed_and_broken(db: Database, tmp_path: Path, codec: str) -> None:
    path = tmp_path / f"a.csv.{codec.replace('brotli', 'br')}"
    with pa.CompressedOutputStream(str(path), codec) as stream:
        stream.write(text(20_000, "1,x"))
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], data[:30] + bytes(20) + data[50:]):
        path.write_bytes(broken)
        with pytest.raises(mmstore.SchemaError, match=rf"{path.name} can't be unpacked with {codec}: "):
            mmstore.load(path, db, table="t")
    assert list(db.tables()) == []


def test_zip_of_two_files(db: Database, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "a\n1\n")
        archive.writestr("b.csv", "b\n1\n")
    with pytest.raises(mmstore.SchemaError, match="expected one file"):
        mmstore.load(tmp_path / "two.zip", db, table="t")


# --- what comes after the sample ---------------------------------------------------------------------


def test_the_first_missing_value_comes_late(db: Database, small: None) -> None:
    mmstore.load(io.BytesIO(text(3000, ",x")), db, table="t", format="csv")
    assert schema_of(db, "t") == {"a": "nullable(int64)", "b": "utf8"}
    assert db.table("t")["a"].tolist() == [*range(3000), None]


@pytest.mark.parametrize(
    ("last", "value", "advice"),
    [("seven,abc", "seven", "a=utf8"), ("7.5,abc", "7.5", "a=f8"), ("99999999999999999999,abc", "99999", "a=f8")],
)
def test_a_misfit_comes_late(db: Database, small: None, tmp_path: Path, last: str, value: str, advice: str) -> None:
    (tmp_path / "late.csv").write_bytes(text(3000, last))
    before = db.txn_id
    with pytest.raises(BadRow, match="late.csv, line 3,002, column 'a'") as caught:
        mmstore.load(tmp_path / "late.csv", db, table="t")
    assert caught.value.value is not None and caught.value.value.startswith(value)
    assert f"--schema {advice}" in str(caught.value) and db.tables() == [] and db.txn_id == before
    mmstore.load(tmp_path / "late.csv", db, table="t", schema={"a": advice.partition("=")[2]})
    assert len(db.table("t")) == 3001


def test_nothing_but_missing_values_at_first(db: Database, small: None) -> None:
    mmstore.load(io.BytesIO(b"a,b\n" + b"1,\n" * 3000 + b"2,word\n"), db, table="t", format="csv")
    assert db.table("t")["b"].tolist() == [""] * 3000 + ["word"]


def test_rows_left_out(db: Database, small: None, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text(3000, "seven,abc\n1,2,3\n,y\n4,z"))
    rejects = tmp_path / "rejects.jsonl"
    done = mmstore.load(tmp_path / "a.csv", db, table="t", schema={"a": "i2"}, on_error="skip", rejects=rejects)
    assert done.rows == done.added == 3001 and done.rejected == 3
    lines = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [line["line"] for line in lines] == [3002, 3003, 3004]
    assert [line.get("column") for line in lines] == ["a", None, "a"] and lines[1]["text"] == "1,2,3"


# --- tables that are there ---------------------------------------------------------------------------


def test_existing_table(db: Database, flights: Path) -> None:
    mmstore.load(flights, db, table="flights")
    with pytest.raises(mmstore.SchemaError, match="append to it or to replace it"):
        mmstore.load(flights, db, table="flights")
    mmstore.load([flights, flights], db, table="flights", append=True)
    assert len(db.table("flights")) == 9
    mmstore.load(flights, db, table="flights", replace=True, schema={"day": "i2"})
    assert len(db.table("flights")) == 3 and db.table("flights")["day"].dtype == np.int16


def test_append_of_other_columns(db: Database, flights: Path, tmp_path: Path) -> None:
    mmstore.load(flights, db, table="flights")
    (tmp_path / "other.csv").write_text("day\n1\n")
    with pytest.raises(mmstore.SchemaError, match="the input has day; choose"):
        mmstore.load(tmp_path / "other.csv", db, table="flights", append=True)
    (tmp_path / "more.csv").write_text(FLIGHTS.replace("day,", "nix,day,").replace("\n1,", "\n0,1,"))
    with pytest.raises(mmstore.SchemaError, match="choose with columns"):
        mmstore.load(tmp_path / "more.csv", db, table="flights", append=True)
    assert len(db.table("flights")) == 3


def test_append_to_exact_types(db: Database, tmp_path: Path) -> None:
    """What is in the table decides, not what the file looks like; a null in a column without is refused."""
    db.create_table("t", {"s": "utf8", "n": "i2", "d": "decimal128(9,2)"})
    mmstore.load(io.BytesIO(b"d,n,s\n1,2,007\n"), db, table="t", append=True)
    assert rows_of(db, "t")[0]["s"] == "007" and str(rows_of(db, "t")[0]["d"]) == "1.00"
    with pytest.raises(mmstore.SchemaError, match="line 2, column 'n': the value '' is missing"):
        mmstore.load(io.BytesIO(b"d,n,s\n1,,007\n"), db, table="t", append=True)
    table = pa.table({"n": [1, None, 70000, 4], "s": list("abcd"), "d": pa.array([1, 2, 3, 4], pa.decimal128(9, 2))})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadRow, match="a.parquet, row 1: column 'n'"):
        mmstore.load(tmp_path / "a.parquet", db, table="t", append=True)
    done = mmstore.load(tmp_path / "a.parquet", db, table="t", append=True, on_error="skip")
    assert done.rejected == 2 and done.added == 2 and db.table("t")["n"].tolist() == [2, 1, 4]
    wrong = pa.table({"n": ["x"], "s": ["x"], "d": ["x"]})
    parquet.write_table(wrong, tmp_path / "b.parquet")
    with pytest.raises(mmstore.SchemaError, match="column 'n'"):
        mmstore.load(tmp_path / "b.parquet", db, table="t", append=True, on_error="skip")  # no row is to blame


def test_keys(db: Database, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,k,v\n1,a,x\n2,b,y\n1,c,z\n")
    with pytest.raises(BadRow, match="row 2.*id=1"):
        mmstore.load(tmp_path / "a.csv", db, table="t", key="id")
    done = mmstore.load(tmp_path / "a.csv", db, table="t", key="id", on_conflict="ignore")
    assert done.rows == 3 and done.added == 2 and db.table("t").find([2, 1, 3]).tolist() == [1, 0, -1]
    mmstore.load(tmp_path / "a.csv", db, table="t", append=True, on_conflict="replace")
    assert {row["id"]: row["v"] for row in rows_of(db, "t")} == {1: "z", 2: "y"}
    mmstore.load(tmp_path / "a.csv", db, table="two", key=("id", "k"))
    assert db.table("two").schema.key == ("id", "k") and len(db.table("two")) == 3
    table = pa.table({"id": [1, None, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")  # nullable in the file, never in a key
    with pytest.raises(BadRow, match="row 1: column 'id'.*null"):
        mmstore.load(tmp_path / "a.parquet", db, table="p", key="id")
    assert mmstore.load(tmp_path / "a.parquet", db, table="p", key="id", on_error="skip").added == 2
    with pytest.raises(mmstore.SchemaError, match="no column 'nix'"):
        mmstore.load(tmp_path / "a.csv", db, table="nix", key="nix")


def test_chosen_rows_and_columns(db: Database, flights: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"columns": ["carrier", "day"], "where": ["delay < 2", "cancelled == false"]}
    done = mmstore.load(flights, db, table="t", **how)
    assert done.rows == 3 and done.added == 1 and rows_of(db, "t") == [{"carrier": "B6", "day": 3}]
    parquet.write_table(pa.table({"a": range(10), "b": list("abcdefghij")}), tmp_path / "a.parquet")
    mmstore.load(tmp_path / "a.parquet", db, table="p", columns=["b"], where="a in 2,3")
    assert rows_of(db, "p") == [{"b": "c"}, {"b": "d"}]
    np.savez(tmp_path / "a.npz", a=np.arange(10), b=np.arange(20, dtype="f4").reshape(10, 2))
    mmstore.load(tmp_path / "a.npz", db, table="n", columns=["b"], where="a>=8")
    assert db.table("n")["b"].tolist() == [[16, 17], [18, 19]]


# --- other formats -----------------------------------------------------------------------------------


def test_parquet_keeps_its_types(db: Database, tmp_path: Path) -> None:
    table = pa.table(
        {
            "dec": pa.array([1, None], pa.decimal128(15, 2)),
            "day": pa.array([1, 2], pa.date32()),
            "at": pa.array([1, None], pa.timestamp("us", "Europe/Berlin")),
            "time": pa.array([1, 2], pa.time64("ns")),
            "list": pa.array([[1.0], []], pa.large_list(pa.float64())),
            "view": pa.array(["x", "y"], pa.string_view()).cast(pa.string()),
            "cat": pa.array(["a", "b"]).dictionary_encode(),
            "raw": [b"\0", b""],
            "vec": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)),
        }
    )
    fields = [field.with_nullable(field.name in ("dec", "at")) for field in table.schema]
    table = table.cast(pa.schema(fields))
    parquet.write_table(table, tmp_path / "a.parquet")
    mmstore.load(tmp_path / "a.parquet", db, table="t")
    assert schema_of(db, "t") == {
        "dec": "nullable(decimal128(15,2))", "day": "date32", "at": "nullable(timestamp[us, Europe/Berlin])",
        "time": "time64[ns]", "list": "list(float64)", "view": "utf8", "cat": "category", "raw": "binary",
        "vec": "float32[2]",
    }  # fmt: skip
    assert rows_of(db, "t") == table.to_pylist()
    parquet.write_table(pa.table({"s": [{"a": 1}]}), tmp_path / "s.parquet")
    with pytest.raises(mmstore.SchemaError, match="column 's'.*struct"):
        mmstore.load(tmp_path / "s.parquet", db, table="s")


@pytest.mark.parametrize(
    ("where", "read", "expected"),
    [
        ("i>=25", [2, 3], range(25, 40)), ("i<10", [0], range(10)), ("i in 3,35", [0, 3], [3, 35]), ("i==100", [], []),
        (["i>5", "i<=12"], [0, 1], range(6, 13)), ("s==x3", [3], range(30, 40)), ("s!=x3", [0, 1, 2], range(30)),
        ("t<1970-01-02T00:00:00Z", [0, 1, 2], range(24)), ("f!=1", [0, 1, 2, 3], range(20, 40)),
        ("n is null", [1], range(10, 20)),
        ("n is not null", [0, 2, 3], [*range(10), *range(20, 40)]), ("c==x1", [0, 1, 2, 3], range(10, 20)),
        (("d", "<=", "1.05"), [0, 1, 2, 3], range(40)), ("b is null", [], []),
    ],
)  # fmt: skip
def test_row_groups_that_are_not_read(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, read: list[int], expected: Any
) -> None:
    """Statistics tell which row groups can't have a row that is wanted."""
    words = [f"x{i // 10}" for i in range(40)]
    table = pa.table(
        {
            "i": range(40), "s": words, "c": pa.array(words).dictionary_encode(), "b": [b"x"] * 40,
            "t": pa.array([i * 3600 for i in range(40)], pa.timestamp("s", "UTC")),
            "f": [1.0] * 20 + [float("nan"), 2.0] * 10, "n": [None if 10 <= i < 20 else i for i in range(40)],
            "d": pa.array([1] * 40, pa.decimal128(5, 2)),
        }
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    asked: list[int] = []
    batches = parquet.ParquetFile.iter_batches

    def counted(self: Any, *how: Any, row_groups: list[int], **more: Any) -> Any:
        asked.extend(row_groups)
        return batches(self, *how, row_groups=row_groups, **more)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    mmstore.load(tmp_path / "a.parquet", db, table="t", where=where, columns=["i"])
    assert db.table("t")["i"].tolist() == [*expected] and asked == read
    with open(tmp_path / "a.parquet", "rb") as file:
        mmstore.load(file, db, keyspace="k", key="i", value="s", where=where)
    assert db.keyspace("k").keys() == {b"%d" % i for i in expected} and asked == 2 * read


def test_json_lines(db: Database) -> None:
    lines = b'{"n": 1, "s": "x", "l": [1, 2]}\n{"n": null, "s": 5, "l": [0.5]}\n{"s": "z", "l": []}\n'
    mmstore.load(io.BytesIO(lines), db, table="t", format="jsonl")
    assert rows_of(db, "t") == [
        {"n": 1, "s": "x", "l": [1.0, 2.0]}, {"n": None, "s": "5", "l": [0.5]}, {"n": None, "s": "z", "l": []},
    ]  # fmt: skip
    with pytest.raises(BadRow, match="line 2, column 'n'.*is no int64"):
        mmstore.load(io.BytesIO(b'{"n": 1}\n{"n": "x"}'), db, table="u", schema={"n": "i8"}, format="jsonl")


def test_numpy(db: Database, tmp_path: Path) -> None:
    """Also what Arrow has no types for."""
    rows = np.array([(1, 1 + 2j, "ab"), (2, 3j, "")], [("n", "u2"), ("c", "c16"), ("u", "U4")])
    np.save(tmp_path / "a.npy", rows)
    mmstore.load(tmp_path / "a.npy", db, table="t", key="n")
    assert schema_of(db, "t") == {"n": "uint16", "c": "complex128", "u": "<U4"}
    assert db.table("t")["c"].tolist() == [1 + 2j, 3j] and db.table("t")["u"].tolist() == ["ab", ""]
    with pytest.raises(BadRow, match="row 0"):
        mmstore.load(tmp_path / "a.npy", db, table="t", append=True)
    np.save(tmp_path / "v.npy", np.ones((5, 3), "f2"))
    mmstore.load([tmp_path / "v.npy", tmp_path / "v.npy"], db, table="v")
    assert db.table("v")["value"].shape == (10, 3)


def test_other_stores(db: Database, flights: Path, tmp_path: Path) -> None:
    with mmstore.open(tmp_path / "other.mms") as other:
        mmstore.load(flights, other, table="flights", schema={"carrier": "category"})
        other.table("flights").delete([0])
    mmstore.load(tmp_path / "other.mms", db, table="flights")
    assert [row["carrier"] for row in rows_of(db, "flights")] == ["AA", "B6"]
    assert schema_of(db, "flights")["carrier"] == "category"
    mmstore.load(tmp_path / "other.mms", db, table="renamed", part="flights", where="day==3")
    assert len(db.table("renamed")) == 1
    with lmdb.open(str(tmp_path / "env"), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v")
    mmstore.load(tmp_path / "env", db, table="env", key="key")
    assert rows_of(db, "env") == [{"key": b"k", "value": b"v"}] and db.table("env").find([b"k"]).tolist() == [0]


def test_several_inputs(db: Database, tmp_path: Path, small: None) -> None:
    """Types hold all samples; columns may stand in another order; sorts don't mix."""
    (tmp_path / "1.csv").write_text("a,b\n1,\n")
    (tmp_path / "2.csv").write_text("b,a\nx,2.5\n")
    (tmp_path / "3.csv").write_text("a,b\n")
    mmstore.load(str(tmp_path / "?.csv"), db, table="t")
    assert rows_of(db, "t") == [{"a": 1.0, "b": ""}, {"a": 2.5, "b": "x"}]
    np.save(tmp_path / "x.npy", np.zeros(1, [("a", "f8"), ("b", "S1")]))
    with pytest.raises(mmstore.SchemaError, match="unlike the first"):
        mmstore.load([tmp_path / "1.csv", tmp_path / "x.npy"], db, table="u")
    (tmp_path / "4.csv").write_text("a\n1\n")
    with pytest.raises(mmstore.SchemaError, match="4.csv has the columns a; expected a, b"):
        mmstore.load(str(tmp_path / "?.csv"), db, table="u")
    assert db.tables() == ["t"]


def test_times(db: Database, tmp_path: Path) -> None:
    """With and without zones, fractions, in other units, and times of day."""
    (tmp_path / "a.csv").write_text(
        "z,n,d,t\n2013-01-01T10:00:00+02:00,2013-01-01 10:00:00.25,2013-01-01,10:00:01\n,,,\n"
    )
    mmstore.load(tmp_path / "a.csv", db, table="t")
    mmstore.load(tmp_path / "a.csv", db, table="t", append=True)
    assert schema_of(db, "t") == {
        "z": "nullable(timestamp[s, UTC])", "n": "nullable(datetime64[ns])", "d": "nullable(date32)",
        "t": "nullable(time32[s])",
    }  # fmt: skip
    first, second = rows_of(db, "t")[:2]
    assert first["z"].isoformat() == "2013-01-01T08:00:00+00:00" and first["t"].isoformat() == "10:00:01"
    assert set(second.values()) == {None}
    named = {"z": "M8[us]?", "n": "M8[ms]?", "t": "m8[us]?"}
    mmstore.load(tmp_path / "a.csv", db, table="u", schema=named)
    assert db.table("u")["z"].values[0] == np.datetime64("2013-01-01T08:00")
    assert db.table("u")["t"].values[0] == np.timedelta64(36_001, "s")
    with pytest.raises(mmstore.SchemaError, match="'n'"):
        mmstore.load(tmp_path / "a.csv", db, table="v", schema={"n": "M8[s]?"})


# --- nothing at all ----------------------------------------------------------------------------------


def test_no_rows(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("a,b\n")
    with pytest.raises(mmstore.SchemaError, match="no rows"):
        mmstore.load(path, db, table="t")
    mmstore.load(path, db, table="t", schema={"a": "i4", "b": "utf8"})
    assert len(db.table("t")) == 0 and db.table("t").schema.names == ("a", "b")
    assert mmstore.load(path, db, table="t", append=True).rows == 0
    path.write_text("")
    with pytest.raises(mmstore.SchemaError, match="is empty"):
        mmstore.load(path, db, table="u")


def test_a_failure_leaves_no_trace(db: Database, tmp_path: Path, small: None) -> None:
    (tmp_path / "a.csv").write_bytes(text(3000, "1,2,3"))
    before = db.txn_id
    with pytest.raises(mmstore.SchemaError, match="line 3,002: Expected 2 columns, got 3"):
        mmstore.load(tmp_path / "a.csv", db, table="t")
    assert db.txn_id == before and db.tables() == db.keyspaces() == []


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"table": "t", "keyspace": "k"},
        {"table": "t", "value": "a"},
        {"table": "t", "value_format": "json"},
        {"keyspace": "k", "key": ["a", "b"]},
        {"keyspace": "k", "key": "a", "schema": {"a": "i4"}},
        {"keyspace": "k", "key": "a", "value_format": "xml"},
        {"table": "t", "append": True, "replace": True},
        {"table": "t", "on_conflict": "merge"},
        {"table": "t", "on_error": "ignore"},
        {"table": "t", "rejects": "x"},
        {"table": "t", "commit_every": 0},
        {"table": "t", "format": "xlsx"},
        {"table": "t", "delimiter": "||"},
        {"table": "t", "where": "a ~ 1"},
    ],
)
def test_arguments_that_contradict(db: Database, flights: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|go with|goes with"):
        mmstore.load(flights, db, **arguments)
    assert db.tables() == []


def test_missing_files(db: Database, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mmstore.load(tmp_path / "nix.csv", db, table="t")
    with pytest.raises(ValueError, match="at least one input"):
        mmstore.load([], db, table="t")


def test_into_a_path(flights: Path, tmp_path: Path) -> None:
    mmstore.load(flights, tmp_path / "new.mms", table="flights")
    with mmstore.open(tmp_path / "new.mms", "r") as other:
        assert len(other.table("flights")) == 3


def test_a_name_that_is_something_else(db: Database, flights: Path) -> None:
    db.keyspace("k")[b"a"] = b"1"
    with pytest.raises(TypeError, match="'k' is a keyspace"):
        mmstore.load(flights, db, table="k")
    mmstore.load(flights, db, table="t")
    with pytest.raises(TypeError, match="'t' is a table"):
        mmstore.load(flights, db, keyspace="t", key="day")
