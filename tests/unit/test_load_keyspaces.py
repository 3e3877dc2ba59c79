"""Loading into keyspaces: texts, raw bytes, JSON; conflicts; nothing left behind by a failure."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

import mmstore
from mmstore.database import Database
from mmstore.database.mapping import TransactionKeyspace
from mmstore.integrations import keyspaces
from mmstore.integrations.inputs import delimited


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    table = pa.table(
        {
            "id": pa.array([1, 2, 3], pa.int32()),
            "s": ["a", 'b"', "c"],
            "f": [1.0, float("nan"), None],
            "t": pa.array([0, 1, None], pa.timestamp("s", "UTC")),
            "d": pa.array([None, 1, 2], pa.decimal128(5, 2)),
            "e": pa.array([[1, 2]] * 3, pa.list_(pa.float32(), 2)),
            "c": pa.array(["x", "y", "x"]).dictionary_encode(),
            "b": [b"\xff", b"", b"b"],
        }
    )
    parquet.write_table(table, tmp_path / "typed.parquet")
    return tmp_path / "typed.parquet"


def test_texts_as_they_stand(db: Database, tmp_path: Path) -> None:
    """Keys and values are the texts, even where they look like numbers."""
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


def test_rows_as_json(db: Database, typed: Path) -> None:
    (typed.parent / "a.csv").write_text('day,delay,left,note\n1,NA,2013-01-01T10:00:00Z,"two\nlines"\n')
    mmstore.load(typed.parent / "a.csv", db, keyspace="", key="day")
    assert json.loads(db[b"1"]) == {
        "day": "1", "delay": "NA", "left": "2013-01-01T10:00:00Z", "note": "two\nlines",
    }  # fmt: skip
    mmstore.load(typed, db, keyspace="rows", key="id")
    assert json.loads(db.keyspace("rows")[b"2"]) == {
        "id": 2, "s": 'b"', "f": None, "t": "1970-01-01T00:00:01.000Z", "d": "1.00", "e": [1.0, 2.0], "c": "y", "b": "",
    }  # fmt: skip
    assert json.loads(db.keyspace("rows")[b"1"])["f"] == 1.0 and b'"f": 1.0' in db.keyspace("rows")[b"1"]
    mmstore.load(typed, db, keyspace="some", key="c", columns=["s", "d"], where="id < 2")
    assert dict(db.keyspace("some")) == {b"x": b'{"c": "x", "s": "a", "d": null}'}


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("s", None, b"a"),
        ("s", "json", b'"a"'),
        ("id", None, b"\1\0\0\0"),
        ("id", "json", b"1"),
        ("e", "raw", np.array([1, 2], "<f4").tobytes()),
        ("t", None, bytes(8)),
        ("c", None, b"x"),
        ("b", "raw", b"\xff"),
        ("d", "json", b"null"),
    ],
)
def test_values(db: Database, typed: Path, value: str, kind: str | None, expected: bytes) -> None:
    mmstore.load(typed, db, keyspace="k", key="id", value=value, value_format=kind, where="id==1")
    assert dict(db.keyspace("k")) == {b"1": expected}


def test_embeddings_as_get_array_takes_them(db: Database, tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(100, 8)).astype("f4")
    np.savez(tmp_path / "e.npz", id=np.arange(100), vector=vectors)
    mmstore.load(tmp_path / "e.npz", db, keyspace="k", key="id", value="vector")
    assert all(db.keyspace("k")[str(i).encode()] == vectors[i].tobytes() for i in range(100))


def test_records_of_others(db: Database, tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "env"), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"\x00", b"\xff" * 1000)
        txn.put(b"k", b"v")
    mmstore.load(tmp_path / "env", db, keyspace="k")
    assert dict(db.keyspace("k")) == {b"\x00": b"\xff" * 1000, b"k": b"v"}
    with mmstore.open(tmp_path / "other.mms") as other:
        other.keyspace("users")[b"u"] = b"Ada"
    mmstore.load(tmp_path / "other.mms", db, keyspace="u", part="users")
    assert dict(db.keyspace("u")) == {b"u": b"Ada"}


def test_json_lines(db: Database) -> None:
    lines = b'{"id": "a", "n": 1, "x": {"y": 2}}\n{"id": "b", "n": 2.5}\n'
    mmstore.load(io.BytesIO(lines), db, keyspace="k", key="id", format="jsonl")
    assert json.loads(db.keyspace("k")[b"a"]) == {"id": "a", "n": 1.0, "x": '{"y": 2}'}
    mmstore.load(io.BytesIO(lines), db, keyspace="n", key="id", value="n", format="jsonl")
    assert dict(db.keyspace("n")) == {b"a": b"1", b"b": b"2.5"}


def test_conflicts(db: Database, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"k,v\na,1\nb,2\na,3\nc,4\n")
    db.keyspace("k")[b"b"] = b"old"
    how: dict[str, Any] = {"keyspace": "k", "key": "k", "value": "v", "append": True}
    with pytest.raises(mmstore.SchemaError, match="row 1, column 'k': the value 'b' is a key that is there already"):
        mmstore.load(tmp_path / "a.csv", db, **how, on_conflict="error")
    assert dict(db.keyspace("k")) == {b"b": b"old"}
    done = mmstore.load(tmp_path / "a.csv", db, **how, on_conflict="ignore")
    assert dict(db.keyspace("k")) == {b"a": b"1", b"b": b"old", b"c": b"4"} and done.added == 2
    done = mmstore.load(tmp_path / "a.csv", db, **how, on_conflict="error", on_error="skip")
    assert done.rejected == 4 and done.added == 0
    mmstore.load(tmp_path / "a.csv", db, **how, on_conflict="replace")
    assert dict(db.keyspace("k")) == {b"a": b"3", b"b": b"2", b"c": b"4"}


@pytest.mark.parametrize(("most", "puts"), [(1 << 30, 1), (30_000, 3), (1, 30)])
def test_records_are_gathered(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, puts: int
) -> None:
    """Batches are put together as far as memory allows; of a key that comes twice the last value counts."""
    monkeypatch.setattr(keyspaces, "GATHERED", most)
    monkeypatch.setattr(delimited, "BATCH_BYTES", 1000)
    (tmp_path / "a.csv").write_text("k,v\n" + "".join(f"{i % 1500:04},{i:04}\n" for i in range(3000)))
    asked = []
    put_slices = TransactionKeyspace.put_slices
    monkeypatch.setattr(
        TransactionKeyspace,
        "put_slices",
        lambda self, keys, values: asked.append(len(keys[1]) - 1) or put_slices(self, keys, values),
    )
    done = mmstore.load(tmp_path / "a.csv", db, keyspace="a", key="k", value="v")
    assert (done.rows, done.added, sum(asked)) == (3000, 1500, 3000) and len(asked) == puts
    assert dict(db.keyspace("a")) == {b"%04d" % i: b"%04d" % (i + 1500) for i in range(1500)}


def test_changed_pages_take_little_memory(tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written early while a load lasts; the next transaction keeps as many as any."""
    monkeypatch.setattr(keyspaces, "POOL", 128 << 10)
    monkeypatch.setattr(keyspaces, "ROWS", 2_000)
    monkeypatch.setattr(keyspaces, "GATHERED", 300_000)
    n, rng = 20_000, np.random.default_rng(1)
    expected = {b"%d" % key: b"%d" % key * 4 for key in rng.permutation(n).tolist()}
    table = pa.table({"k": list(expected), "v": list(expected.values())})
    parquet.write_table(table, tmp_path / "a.parquet")
    used = []
    put_slices = TransactionKeyspace.put_slices

    def watched(self: Any, keys: Any, values: Any) -> int:
        new = put_slices(self, keys, values)
        used.append(db.session.workspace.memory)
        return new

    monkeypatch.setattr(TransactionKeyspace, "put_slices", watched)
    mmstore.load(tmp_path / "a.parquet", db, keyspace="a", key="k", value="v")
    assert len(used) > 2 and max(used) <= 256 << 10
    assert dict(db.keyspace("a")) == expected
    with db.transaction() as txn:
        txn.keyspace("b").put_many(list(expected), list(expected.values()))
        assert db.session.workspace.memory > 600 << 10


@pytest.mark.parametrize("rows", [5, 20_000])
def test_from_the_log(tmp_path: Path, rows: int) -> None:
    """A small load is in the log, a large one is a checkpoint: both are there after a crash."""
    table = pa.table({"k": [f"key {i}" for i in range(rows)], "v": [f"{i}" * (i % 9) for i in range(rows)]})
    parquet.write_table(table.slice(1), tmp_path / "a.parquet")
    with mmstore.open(tmp_path / "a.mms") as store:
        store.checkpoint()
        mmstore.load(tmp_path / "a.parquet", store, keyspace="a", key="k", value="v")
        for suffix in ("", "-wal"):
            shutil.copyfile(tmp_path / f"a.mms{suffix}", tmp_path / f"b.mms{suffix}")
    with mmstore.open(tmp_path / "b.mms") as copy:
        assert copy.check() == []
        assert dict(copy.keyspace("a")) == {b"key %d" % i: b"%d" % i * (i % 9) for i in range(1, rows)}


@pytest.mark.parametrize("value", ["s", "f", "l", "w", "d"])
def test_slices_of_arrays(db: Database, tmp_path: Path, value: str) -> None:
    """Batches that begin inside Arrow's memory: a condition, and commits in between."""
    table = pa.table(
        {
            "k": pa.array(range(100), pa.int16()),
            "s": [f"{i}" * (i % 5) if i % 7 else None for i in range(100)],
            "f": pa.array(range(100), pa.float32()),
            "l": pa.array([[i, i + 1] for i in range(100)], pa.list_(pa.int16(), 2)),
            "w": pa.array([b"%03d" % i for i in range(100)], pa.binary(3)),
            "d": pa.array([f"{i % 3}" for i in range(100)]).dictionary_encode(),
        }
    )
    expected = {
        "s": lambda i: b"%d" % i * (i % 5) if i % 7 else b"",
        "f": lambda i: np.float32(i).tobytes(),
        "l": lambda i: np.array([i, i + 1], "<i2").tobytes(),
        "w": lambda i: b"%03d" % i,
        "d": lambda i: b"%d" % (i % 3),
    }[value]
    feather.write_feather(table, tmp_path / "a.feather", compression="uncompressed")
    how: dict[str, Any] = {"keyspace": "a", "key": "k", "value": value, "where": "k>=20", "value_format": "raw"}
    assert mmstore.load(tmp_path / "a.feather", db, commit_every=30, **how).added == 80
    assert dict(db.keyspace("a")) == {b"%d" % i: expected(i) for i in range(20, 100)}


def test_a_failure_leaves_no_trace(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BATCH_BYTES", 1 << 12)
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + b"1,x\n" * 5000 + b"1,2,3\n")
    before = db.txn_id
    with pytest.raises(mmstore.SchemaError, match="line 5,002: Expected 2 columns, got 3"):
        mmstore.load(tmp_path / "a.csv", db, keyspace="k", key="a")
    assert db.txn_id == before and db.keyspaces() == []
    parquet.write_table(pa.table({"k": ["a", None], "v": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(mmstore.SchemaError, match="row 1, column 'k': the key is missing"):
        mmstore.load(tmp_path / "a.parquet", db, keyspace="k", key="k")
    assert mmstore.load(tmp_path / "a.parquet", db, keyspace="k", key="k", on_error="skip").rejected == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "pass key="),
        ({"key": "nix"}, "no column 'nix'"),
        ({"key": "id", "value": "nix"}, "no column 'nix'"),
        ({"key": "id", "value_format": "raw"}, "raw values are those of one column"),
        ({"key": "e"}, "has no text"),
        ({"key": "id", "value": "f"}, "missing has no bytes"),
    ],
)
def test_what_does_not_go(db: Database, typed: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(mmstore.SchemaError, match=message):
        mmstore.load(typed, db, keyspace="k", **how)
    assert db.keyspaces() == []
