"""Export: each format read back, chosen rows and columns, keyspaces, and no half files."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, feather, ipc, parquet

import mmstore
from mmstore.database import Database
from mmstore.integrations import export as exporting
from mmstore.integrations.export import export

TABLE = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int64()),
        "px": pa.array([0.5, None, float("inf")]),
        "s": pa.array(['a,"b"', "", "new\nline"], pa.large_string()),
        "day": pa.array([0, None, 2], pa.date32()),
        "at": pa.array([0, 1, 2], pa.timestamp("us", "UTC")),
        "sum": pa.array([None, 1, 2], pa.decimal128(15, 2)),
        "list": pa.array([[1.0, 2.0], [], [3.0]], pa.large_list(pa.float64())),
        "vec": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
        "flag": [True, False, True],
        "cat": pa.array(["x", "y", "x"]).dictionary_encode(),
    }
)


@pytest.fixture
def db(tmp_path: Path) -> Any:
    with mmstore.open(tmp_path / "store.mms", durability="relaxed") as database:
        yield database
        assert database.check() == []


@pytest.fixture
def filled(db: Database) -> Database:
    with db.transaction() as txn:
        txn.create_table("t", TABLE.schema).append(TABLE)
    return db


@pytest.fixture
def users(db: Database) -> Database:
    db.keyspace("users").update({b"ada": b'{"born": 1815}', b"bob": "é\n".encode()})
    return db


def plain(table: Any) -> list[dict[str, Any]]:
    return table.to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather", "arrows"])
def test_typed_formats(filled: Database, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    done = export(filled, "t", out)
    assert done.rows == 3
    if suffix == "parquet":
        found = parquet.read_table(out)
    elif suffix == "arrows":
        found = ipc.open_stream(str(out)).read_all()
    else:
        found = feather.read_table(str(out))
    assert plain(found) == plain(TABLE) and found.schema.field("sum").type == pa.decimal128(15, 2)
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == [out.name]


def test_text_formats(filled: Database, tmp_path: Path) -> None:
    export(filled, "t", tmp_path / "out.csv")
    found = csv.read_csv(tmp_path / "out.csv", parse_options=csv.ParseOptions(newlines_in_values=True)).to_pylist()
    assert [row["s"] for row in found] == TABLE["s"].to_pylist() and found[0]["list"] == "[1.0, 2.0]"
    assert [row["day"] for row in found] == TABLE["day"].to_pylist() and found[0]["cat"] == "x"
    export(filled, "t", tmp_path / "out.tsv.gz", columns=["id", "flag"])
    assert gzip.decompress((tmp_path / "out.tsv.gz").read_bytes()) == b'"id"\t"flag"\n1\ttrue\n2\tfalse\n3\ttrue\n'
    export(filled, "t", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "id": 1, "px": 0.5, "s": 'a,"b"', "day": "1970-01-01", "at": "1970-01-01T00:00:00.000000Z", "sum": None,
        "list": [1.0, 2.0], "vec": [1.0, 2.0], "flag": True, "cat": "x",
    }  # fmt: skip
    assert [line["px"] for line in lines] == [0.5, None, None] and lines[2]["s"] == "new\nline"


def test_chosen_rows_in_chosen_columns(filled: Database) -> None:
    out = io.BytesIO()
    done = export(filled, "t", out, format="jsonl", columns=["s", "id"], where=["id>=2", "cat==x"])
    assert out.getvalue() == b'{"s": "new\\nline", "id": 3}\n' and done.rows == 1
    for how in ({"columns": ["nix"]}, {"where": "nix>1"}):
        with pytest.raises(mmstore.SchemaError, match="no column 'nix'"):
            export(filled, "t", io.BytesIO(), format="csv", **how)


def test_there_and_back(filled: Database, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    export(filled, "t", tmp_path / "t.parquet", progress=lambda *numbers: seen.append(numbers))
    assert seen == [(3, 3)]
    mmstore.load(tmp_path / "t.parquet", filled, table="again")
    assert plain(filled.table("again").to_arrow()) == plain(TABLE)


def test_an_empty_table(db: Database, tmp_path: Path) -> None:
    db.create_table("e", {"a": "i4", "s": "utf8"})
    export(db, "e", tmp_path / "e.parquet")
    assert parquet.read_table(tmp_path / "e.parquet").schema.names == ["a", "s"]
    export(db, "e", tmp_path / "e.csv")
    assert (tmp_path / "e.csv").read_text() == '"a","s"\n'


def test_in_batches(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "BATCH_ROWS", 100)
    table = pa.table({"n": range(1000)})
    db.create_table("n", {"n": "i8"}).append(table)
    out = io.BytesIO()
    export(db, "n", out, format="arrows")
    reader = ipc.open_stream(out.getvalue())
    assert [batch.num_rows for batch in reader] == [100] * 10


def test_keyspaces(users: Database, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert export(users, "users", out).rows == 2
    expected = [{"key": b"ada", "value": b'{"born": 1815}'}, {"key": b"bob", "value": "é\n".encode()}]
    assert sorted(plain(parquet.read_table(out)), key=str) == expected
    export(users, "users", tmp_path / "out.jsonl")
    lines = {
        json.loads(line)["key"]: json.loads(line)["value"] for line in (tmp_path / "out.jsonl").read_text().splitlines()
    }
    assert lines == {"ada": '{"born": 1815}', "bob": "é\n"}
    users[b"\xff"] = b"\x00"
    with pytest.raises(mmstore.SchemaError, match="isn't UTF-8.*hex"):
        export(users, "", tmp_path / "own.csv")
    assert not list(tmp_path.glob("own*"))
    export(users, "", tmp_path / "own.csv", hex=True)
    assert (tmp_path / "own.csv").read_text() == '"key","value"\n"ff","00"\n'
    mmstore.load(out, users, keyspace="back", key="key", value="value")
    assert dict(users.keyspace("back")) == dict(users.keyspace("users"))


def test_what_does_not_go(users: Database, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no table or keyspace 'nix'"):
        export(users, "nix", tmp_path / "out.csv")
    with pytest.raises(ValueError, match="can't tell the format"):
        export(users, "users", tmp_path / "out")
    with pytest.raises(ValueError, match="expected a format among"):
        export(users, "users", tmp_path / "out", format="xlsx")
    with pytest.raises(ValueError, match="a table's rows"):
        export(users, "users", tmp_path / "out.csv", columns=["key"])
    (tmp_path / "kept.csv").write_text("kept")
    users[b"\xff"] = b""
    with pytest.raises(mmstore.SchemaError):
        export(users, "", tmp_path / "kept.csv")
    assert (tmp_path / "kept.csv").read_text() == "kept"
    with pytest.raises(FileNotFoundError):
        export(tmp_path / "nix.mms", "t", tmp_path / "out.csv")
