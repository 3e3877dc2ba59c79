"""Inputs: each format as batches, from any mark, and what is said about files that are broken."""

from __future__ import annotations

import bz2
import dbm.dumb
import gzip
import io
import json
import os
import pickle
import random
import shelve
import warnings
import zipfile
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, ipc, parquet

import mmstore
from mmstore.integrations.inputs import base, delimited, infer, jsonlines, records
from mmstore.integrations.inputs.base import ArrayBatch, BadRow, Input, Mark, Plan
from mmstore.integrations.inputs.blocks import CsvCutter, LineCutter, blocks
from mmstore.integrations.inputs.detect import Reading, expand, open_input
from mmstore.integrations.inputs.infer import may_lose, wider
from mmstore.integrations.inputs.source import Source
from mmstore.integrations.rejects import refuse

ROWS = [{"a": 1, "b": 0.5, "c": "x"}, {"a": 2, "b": None, "c": "é"}, {"a": 3, "b": 2.5, "c": "two\nlines"}]
TABLE = pa.Table.from_pylist(ROWS)


def rows(source: Input, start: Mark = Mark(), **how: Any) -> list[dict[str, Any]]:  # noqa: B008 - frozen
    """All rows of an input, with the types that it finds itself."""
    schema = source.schema()
    names = list(schema.names)
    types = {} if isinstance(schema, np.dtype) else {field.name: field.type for field in schema}
    plan = Plan({name: types.get(name) for name in names}, how.pop("bad", refuse), **how)
    found: list[dict[str, Any]] = []
    for batch, _ in source.batches(plan, start):
        if isinstance(batch, ArrayBatch):
            found += [{name: batch.columns[name][i].tolist() for name in names} for i in range(batch.num_rows)]
        else:
            batch.validate(full=True)
            found += batch.to_pylist()
    return found


def opened(where: Any, **how: Any) -> Input:
    return open_input(where, Reading(**how))


# --- every format, small -----------------------------------------------------------------------------


def write_csv(path: Path) -> None:
    path.write_text('a,b,c\n1,0.5,x\n2,,é\n3,2.5,"two\nlines"\n', encoding="utf-8")


def write_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def write_stream(path: Path) -> None:
    with ipc.new_stream(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)


def write_ipc(path: Path) -> None:
    with ipc.new_file(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)


def write_old_feather(path: Path) -> None:
    with warnings.catch_warnings():  # newer pyarrow writes it unwillingly
        warnings.simplefilter("ignore", DeprecationWarning)
        feather.write_feather(TABLE, str(path), version=1)


WRITERS = {
    "a.csv": write_csv,
    "a.tsv": lambda path: path.write_text('a\tb\tc\n1\t0.5\tx\n2\t\té\n3\t2.5\t"two\nlines"\n', encoding="utf-8"),
    "a.jsonl": write_lines,
    "a.ndjson": write_lines,
    "a.parquet": lambda path: parquet.write_table(TABLE, path, row_group_size=2),
    "a.arrow": write_ipc,
    "a.arrows": write_stream,
    "a.feather": lambda path: feather.write_feather(TABLE, str(path), compression="zstd"),
    "v1.feather": write_old_feather,
}


@pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_formats(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    with_name = opened(path)
    assert rows(with_name) == ROWS
    assert rows(with_name) == ROWS  # once more
    assert with_name.size == path.stat().st_size and 0 < with_name.read <= with_name.size
    with_name.close()
    bare = tmp_path / "bare"  # known by its first bytes, or by the format's name
    path.rename(bare)
    kind = {"csv": "csv", "tsv": "tsv"}.get(path.suffix.removeprefix("."))
    assert rows(opened(bare, format=kind)) == ROWS
    assert rows(opened(io.BytesIO(bare.read_bytes()), format=kind)) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.arrows"])
@pytest.mark.parametrize("packing", ["", "gz", "bz2", "zst", "lz4", "br", "zip"])
def test_packed_and_from_pipes(tmp_path: Path, name: str, packing: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    if packing == "gz":
        data = gzip.compress(data[:10]) + gzip.compress(data[10:])  # files of several members are common
    elif packing == "bz2":
        data = bz2.compress(data)
    elif packing in ("zst", "lz4", "br"):
        name_of = {"zst": "zstd", "lz4": "lz4", "br": "brotli"}[packing]
        with pa.CompressedOutputStream(str(tmp_path / "packed"), name_of) as stream:
            stream.write(data)
        data = (tmp_path / "packed").read_bytes()
    elif packing == "zip":
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("folder/", "")
            archive.writestr(name, data)
        data = memory.getvalue()
    file = tmp_path / (f"{name}.{packing}" if packing else name)
    file.write_bytes(data)
    assert rows(opened(file)) == ROWS
    if packing == "zip":
        with pytest.raises(mmstore.SchemaError, match="pipe"):
            rows(opened(Pipe(data), format=path.suffix.removeprefix(".").replace("arrows", "arrow")))
        return
    if packing == "br":  # has no sign of its own, but its name's
        return
    pipe = opened(Pipe(data), format=path.suffix.removeprefix(".").replace("arrows", "arrow"))
    assert not Source(Pipe(data)).again
    assert rows(pipe) == ROWS and pipe.size is None and pipe.read >= len(data) * 0.9


class Pipe(io.RawIOBase):
    """What can be read once, in small pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = min(len(buffer), len(self._data), 1000)
        buffer[:n] = self._data[:n]
        self._data = self._data[n:]
        return n


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_what_needs_a_file(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    with pytest.raises(mmstore.SchemaError, match="a pipe; make it a plain file"):
        opened(Pipe(data))
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    with pytest.raises(mmstore.SchemaError, match="packed with gzip"):
        opened(tmp_path / f"{name}.gz")


def test_numpy(tmp_path: Path) -> None:
    block = np.arange(12, dtype="f4").reshape(4, 3)
    np.save(tmp_path / "a.npy", block)
    assert rows(opened(tmp_path / "a.npy")) == [{"value": row} for row in block.tolist()]
    np.save(tmp_path / "f.npy", np.asfortranarray(block))
    assert rows(opened(tmp_path / "f.npy"), Mark(rows=2)) == [{"value": row} for row in block[2:].tolist()]
    records_ = np.array([(1, b"x"), (2, b"y")], [("id", "i2"), ("s", "S2")])
    np.save(tmp_path / "r.npy", records_)
    assert rows(opened(tmp_path / "r.npy")) == [{"id": 1, "s": b"x"}, {"id": 2, "s": b"y"}]
    assert rows(opened(Pipe((tmp_path / "r.npy").read_bytes())), Mark(rows=1)) == [{"id": 2, "s": b"y"}]
    np.savez_compressed(tmp_path / "z.npz", a=np.arange(4), b=block, c=np.array(["x", "yy", "", "z"]))
    archive = opened(tmp_path / "z.npz")
    assert archive.schema() == np.dtype([("a", "i8"), ("b", "f4", 3), ("c", "U2")])
    expected = [{"a": i, "b": block[i].tolist(), "c": c} for i, c in enumerate(["x", "yy", "", "z"])]
    assert rows(archive) == expected and rows(archive, Mark(rows=3)) == expected[3:]
    assert archive.read == archive.size


def test_numpy_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmstore.integrations.inputs.arrays.SLICE_BYTES", 80)
    np.save(tmp_path / "a.npy", np.arange(95))
    source = opened(tmp_path / "a.npy")
    sizes = [batch.num_rows for batch, _ in source.batches(Plan({"value": None}, refuse), Mark())]
    assert sizes == [10] * 9 + [5]
    assert [row["value"] for row in rows(source, Mark(rows=37))] == list(range(37, 95))


def test_parquet_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as the columns that are read make them, in the group where they are largest."""
    monkeypatch.setattr("mmstore.integrations.inputs.columnar.SLICE_BYTES", 50_000)
    values = [bytes([i]) * (1000 if i < 100 else 10) for i in range(200)]
    table = pa.table({"n": range(200), "v": values, "p": pa.array([{"a": b"x" * 9000}] * 200)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100, use_dictionary=False, compression="zstd")
    source = opened(tmp_path / "a.parquet")
    for columns, most in ((["n"], 200), (["n", "v"], 49), (["p"], 5), (["n", "p"], 5)):
        batches = [batch for batch, _ in source.batches(Plan(dict.fromkeys(columns), refuse, others=True), Mark())]
        assert [most // 2 < len(batch) <= most for batch in batches[:3]] == [True] * len(batches[:3])
        assert pa.Table.from_batches(batches) == table.select(columns)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.npy"])
def test_who_wants_small_batches_gets_them(tmp_path: Path, name: str) -> None:
    if name.endswith("npy"):
        np.save(tmp_path / name, np.arange(100))
    elif name.endswith("arrow"):
        feather.write_feather(pa.table({"value": range(100)}), tmp_path / name)
    else:
        parquet.write_table(pa.table({"value": range(100)}), tmp_path / name)
    plan = Plan({"value": None}, refuse, rows=30)
    assert [batch.num_rows for batch, _ in opened(tmp_path / name).batches(plan, Mark())] == [30, 30, 30, 10]


def test_numpy_malformed(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{}], object))
    with pytest.raises(mmstore.SchemaError, match="pickle"):
        opened(tmp_path / "o.npy")
    np.save(tmp_path / "s.npy", np.float64(1))
    with pytest.raises(mmstore.SchemaError, match="single value"):
        opened(tmp_path / "s.npy")
    np.savez(tmp_path / "l.npz", a=np.arange(3), b=np.arange(4))
    with pytest.raises(mmstore.SchemaError, match="one length.*a: 3, b: 4"):
        opened(tmp_path / "l.npz")
    np.save(tmp_path / "a.npy", np.arange(1000))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:1000])
    with pytest.raises(mmstore.SchemaError, match="ends early"):
        rows(opened(tmp_path / "cut.npy"))
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPZ, or not")
    with pytest.raises(mmstore.SchemaError, match="can't be read as npy"):
        opened(tmp_path / "x.npy")
    (tmp_path / "x.npz").write_bytes(b"PK, or not")
    with pytest.raises(mmstore.SchemaError, match="can't be read as npz"):
        opened(tmp_path / "x.npz")


def test_lmdb(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "env"), map_size=1 << 20, max_dbs=4) as env:
        with env.begin(write=True) as txn:
            for i in range(100):
                txn.put(b"%03d" % i, b"value %d" % i)
    expected = [{"key": b"%03d" % i, "value": b"value %d" % i} for i in range(100)]
    source = opened(tmp_path / "env")
    assert source.records and rows(source) == expected and rows(source, Mark(rows=98)) == expected[98:]
    source.close()
    os.remove(tmp_path / "env" / "lock.mdb")
    opened(tmp_path / "env").close()
    assert not (tmp_path / "env" / "lock.mdb").exists()
    (tmp_path / "env" / "data.mdb").rename(tmp_path / "single")
    single = opened(tmp_path / "single")
    assert rows(single) == expected
    single.close()


def test_lmdb_with_names(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "env"), map_size=1 << 20, max_dbs=4) as env:
        one, two = env.open_db(b"one"), env.open_db(b"two")
        with env.begin(write=True) as txn:
            txn.put(b"k", b"1", db=one)
            txn.put(b"k", b"2", db=two)
    with pytest.raises(mmstore.SchemaError, match="databases 'one', 'two'; choose one"):
        opened(tmp_path / "env")
    with pytest.raises(mmstore.SchemaError, match="no database 'nix'"):
        opened(tmp_path / "env", part="nix")
    source = opened(tmp_path / "env", part="two")
    assert rows(source) == [{"key": b"k", "value": b"2"}]
    source.close()


def test_lmdb_malformed(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(bytes(8192))
    with pytest.raises(mmstore.SchemaError, match="LMDB"):
        opened(tmp_path)


def test_dbm_and_shelve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PAIRS", 3)
    path = str(tmp_path / "d")
    with dbm.dumb.open(path, "n") as file:
        for i in range(8):
            file[b"%d" % i] = b"v%d" % i
    source = opened(path)
    expected = sorted(({"key": b"%d" % i, "value": b"v%d" % i} for i in range(8)), key=str)
    assert sorted(rows(source), key=str) == expected and len(rows(source, Mark(rows=5))) == 3
    source.close()
    with shelve.Shelf(dbm.dumb.open(str(tmp_path / "s"), "n")) as shelf:
        shelf["ada"] = {"born": 1815, "name": "Ada"}
        shelf["bob"] = {"born": None, "name": "Bob"}
    with pytest.raises(mmstore.SchemaError, match="looks like a shelve.*unpickle"):
        opened(tmp_path / "s")
    with pytest.raises(mmstore.SchemaError, match="a shelve runs code"):
        opened(tmp_path / "s", format="shelve")
    raw = opened(tmp_path / "s", raw=True)
    assert {pickle.loads(row["value"])["name"] for row in rows(raw)} == {"Ada", "Bob"}
    raw.close()
    source = opened(tmp_path / "s", unpickle=True)
    assert sorted(rows(source), key=str) == [
        {"key": "ada", "born": 1815, "name": "Ada"},
        {"key": "bob", "born": None, "name": "Bob"},
    ]
    source.close()
    (tmp_path / "x.dat").write_bytes(b"?")
    with pytest.raises(mmstore.SchemaError, match="of no kind"):
        opened(tmp_path / "x.dat", format="dbm")


def test_a_store(tmp_path: Path) -> None:
    with mmstore.open(tmp_path / "a.mms") as db:
        db[b"k"] = b"own"
        db.keyspace("users")[b"u"] = b"Ada"
    source = opened(tmp_path / "a.mms")
    assert rows(source) == [{"key": b"k", "value": b"own"}] and source.records
    source.close()
    source = opened(tmp_path / "a.mms", part="users")
    assert rows(source) == [{"key": b"u", "value": b"Ada"}] and rows(source, Mark(rows=1)) == []
    source.close()
    with pytest.raises(mmstore.SchemaError, match="no table or keyspace 'nix'"):
        opened(tmp_path / "a.mms", part="nix")
    with pytest.raises(mmstore.SchemaError, match="choose one"):
        opened(tmp_path / "a.mms", table="t")


def test_formats_that_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "what").write_bytes(b"1 2 3\n")
    with pytest.raises(mmstore.SchemaError, match="can't tell the format"):
        opened(tmp_path / "what")
    with pytest.raises(mmstore.SchemaError, match="folder"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="expected a format among"):
        opened(tmp_path / "what", format="xlsx")
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "nix.csv")
    with pytest.raises(mmstore.SchemaError, match="with a name"):
        opened(io.BytesIO(b""), format="lmdb")


@pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.arrows", "v1.feather"])
def test_columnar_malformed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], data[:8] + bytes(len(data) - 8), b"?" * 100):
        path.write_bytes(broken)
        with pytest.raises(mmstore.SchemaError, match=f"{name}.*can't be read as"):
            rows(opened(path))


def test_globs(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt", "[x].csv"):
        (tmp_path / name).write_text("a\n1\n")
    assert expand(str(tmp_path / "?.csv")) == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    assert expand(str(tmp_path / "[x].csv")) == [str(tmp_path / "[x].csv")]  # there is a file of this name
    with pytest.raises(FileNotFoundError, match="no file matches"):
        expand(str(tmp_path / "*.parquet"))


# --- marks: the same batches again -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.parquet", "a.arrow", "a.arrows"])
def test_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in (delimited, jsonlines):
        monkeypatch.setattr(module, "BATCH_BYTES", 1 << 12)
    monkeypatch.setattr("mmstore.integrations.inputs.columnar.BATCH_ROWS", 300)
    table = pa.table({"n": range(3000), "s": ["a,b", 'quo"te', "new\nline"] * 1000})
    path = tmp_path / name
    if ".csv" in name:
        csv.write_csv(table, tmp_path / "plain.csv")
        data = (tmp_path / "plain.csv").read_bytes()
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif name.endswith("parquet"):
        parquet.write_table(table, path, row_group_size=700)
    elif name.endswith("arrow"):
        with ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
    else:
        with ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
    source = opened(path)
    plan = Plan({field.name: field.type for field in source.schema()}, refuse)
    found = [(batch.to_pylist(), mark) for batch, mark in source.batches(plan, Mark())]
    everything = [row for some, _ in found for row in some]
    assert everything == table.to_pylist() and len(found) > 3
    at = 0
    for some, mark in found:
        assert mark.rows == at
        again = opened(path)
        assert [row for batch, _ in again.batches(plan, mark) for row in batch.to_pylist()] == everything[at:]
        again.close()
        at += len(some)
    source.close()


# --- text cut into records ---------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [";", ","])
def test_records_as_pyarrow_sees_them(delimiter: str) -> None:
    """Random texts of quotes, delimiters and newlines have as many records as pyarrow finds."""
    rng = random.Random(7)
    compared = 0
    for _ in range(1500):
        text = "".join(rng.choice('ab"",\n\n') for _ in range(rng.randint(1, 14))).encode()
        try:
            whole = csv.read_csv(
                pa.BufferReader(text),
                read_options=csv.ReadOptions(autogenerate_column_names=True, use_threads=False),
                parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            )
        except pa.ArrowInvalid:  # records of different widths
            continue
        array = np.frombuffer(text, np.uint8)
        cut = CsvCutter(delimiter.encode())
        ends = cut.ends(array).tolist()
        parts = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        assert sum(1 for part in parts if part.strip(b"\n")) == whole.num_rows, text
        assert b"".join(parts) == text
        assert cut.whole(array) in {0, *ends} and text[cut.whole(array) :].count(b"\n") == (
            0 if cut.whole(array) == len(text) else text[ends[-2] if len(ends) > 1 else 0 :].count(b"\n")
        )
        compared += 1
    assert compared > 300


def test_blocks_of_any_size() -> None:
    text = b"".join(b'%d,"a""b\n%d"\n' % (i, i) for i in range(200))
    for size in (8, 20, 64, 1000, 10_000):
        parts = [part.tobytes() for part in blocks(io.BytesIO(text), CsvCutter(b","), size, "x")]
        assert b"".join(parts) == text
        assert all(part.endswith(b'"\n') for part in parts)
    assert [part.tobytes() for part in blocks(io.BytesIO(b"a\nbc"), LineCutter(), 3, "x")] == [b"a\n", b"bc"]


def test_a_quote_that_is_never_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmstore.integrations.inputs.blocks.LONGEST", 1 << 12)
    with pytest.raises(mmstore.SchemaError, match="the record at byte 4 has more than 4,096 bytes; is a quote missing"):
        list(blocks(io.BytesIO(b'a,b\n1,"' + b"x\n" * 9999), CsvCutter(b","), 64, "x"))


# --- types of text -----------------------------------------------------------------------------------


def types_of(text: str | bytes, **how: Any) -> dict[str, str]:
    data = text.encode() if isinstance(text, str) else text
    schema = opened(io.BytesIO(data), **{"format": "csv", **how}).schema()
    return {field.name: f"{field.type}{'?' if field.nullable else ''}" for field in schema}


def test_types_of_csv() -> None:
    text = (
        "i,f,mixed,zip,long,huge,bool,day,zoned,plain,time,none,gap,text\n"
        "1,1,1,00123,18446744073709551615,123456789012345678901,true,2013-01-01,2013-01-01T10:00:00Z,"
        "2013-01-01 10:00:00.5,10:00:00,,NA,x\n"
        "2,2.5,x,99,1,1,false,2013-01-02,2013-01-01T10:00:00+02:00,2013-01-01 10:00:00,10:00:01,,7,NA\n"
    )
    assert types_of(text) == {
        "i": "int64", "f": "double", "mixed": "string", "zip": "string", "long": "uint64", "huge": "string",
        "bool": "bool", "day": "date32[day]", "zoned": "timestamp[s, tz=UTC]", "plain": "timestamp[ns]",
        "time": "time32[s]", "none": "null?", "gap": "int64?", "text": "string",
    }  # fmt: skip
    assert types_of("a,b\n") == {"a": "null?", "b": "null?"}
    assert types_of("\ufeffa\r\n1\r\n") == {"a": "int64"}
    assert types_of("a\r1\r2\r") == {"a": "int64"}
    assert types_of("1,x\n2,y\n", names=("n", "s")) == {"n": "int64", "s": "string"}
    assert types_of("a;b\n1,5;2\n", delimiter=";") == {"a": "string", "b": "int64"}
    assert types_of("a,b\n1,2\n1,2,3\n4\n5,6.5\n") == {"a": "int64", "b": "double"}  # broken records don't count
    with pytest.raises(mmstore.SchemaError, match="'a' 2 times"):
        types_of("a,b,a\n1,2,3\n")
    for nothing in ("", "\n\n"):
        with pytest.raises(mmstore.SchemaError, match="is empty"):
            types_of(nothing)


def test_the_sample_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that were parsed for their types are not parsed again, unless other types are wanted."""
    monkeypatch.setattr(delimited, "SAMPLE_BYTES", 2560)
    monkeypatch.setattr(delimited, "BATCH_BYTES", 1024)
    text = "id,name\n" + "".join(f"{i},{i:x}y\n" for i in range(500, 1500))
    (tmp_path / "a.csv").write_text(text)
    parsed: list[int] = []
    parse = delimited.CsvInput._parse
    monkeypatch.setattr(
        delimited.CsvInput,
        "_parse",
        lambda self, text, *how, **more: parsed.append(len(text)) or parse(self, text, *how, **more),
    )
    expected = [{"id": i, "name": f"{i:x}y"} for i in range(500, 1500)]
    with open(tmp_path / "a.csv", "rb") as file:
        source = opened(file)
        assert rows(source) == expected
        assert sum(parsed) == len(text) - len("id,name\n")
        assert rows(source) == expected
    source = opened(tmp_path / "a.csv")
    source.schema()
    parsed.clear()
    plan = Plan({"id": pa.float64(), "name": pa.string()}, refuse)
    batches = [batch for batch, _ in source.batches(plan, Mark())]
    assert pa.Table.from_batches(batches).column("id").type == pa.float64() and len(batches) > 3
    assert sum(parsed) == len(text) - len("id,name\n")


def test_a_missing_value_in_the_sample() -> None:
    """What was parsed for its types is not taken where a value is missing that must not be."""
    plan = Plan({"a": pa.int64()}, refuse, frozenset(["a"]))
    source = opened(io.BytesIO(b"a\n1\nNA\n"))
    assert source.schema().field("a").nullable
    with pytest.raises(BadRow, match="line 3, column 'a'.*is missing"):
        list(source.batches(plan, Mark()))


@pytest.mark.parametrize(
    ("text", "may"),
    [
        (b"1,0,2\n0.5,10,100\n", False),
        (b"2013-01-05T05:00:00Z,x07,-0.5\n", False),
        (b"1,01\n", True), (b"-01\n", True), (b'1,"+007"\n', True), (b"1, 00\n", True), (b"00", True), (b"+-01", True),
        (b"123456789012345\n", False), (b"x,1234567890123456\n", True),
    ],
)  # fmt: skip
def test_numbers_that_may_lose(monkeypatch: pytest.MonkeyPatch, text: bytes, may: bool) -> None:
    """Wherever they lie: the text is looked at piece by piece."""
    monkeypatch.setattr(infer, "_STEP", 16)
    for n in range(40):
        before = (b"1,2.5\n" * n)[-n:] if n else b""
        assert may_lose(np.frombuffer(before + text, np.uint8), ",") == may, before


def test_encodings() -> None:
    text = "a,b\nÄ,1\nß,2\n"
    expected = [{"a": "Ä", "b": 1}, {"a": "ß", "b": 2}]
    assert rows(opened(io.BytesIO(text.encode("latin-1")), format="csv", encoding="latin-1")) == expected
    assert rows(opened(io.BytesIO(text.encode("utf-16")), format="csv", encoding="utf-16")) == expected
    assert rows(opened(Pipe(text.encode("cp1252")), format="csv", encoding="cp1252")) == expected
    with pytest.raises(mmstore.SchemaError, match="names aren't UTF-8"):
        types_of("Ä\n1\n".encode("latin-1"))


def test_types_of_json_lines() -> None:
    lines = [
        {"i": 1, "f": 1, "mixed": 1, "obj": {"a": 1}, "list": [1, 2.5], "gap": None, "none": None, "flag": True},
        {"i": 2, "f": 0.5, "mixed": "x", "obj": {"b": [1]}, "list": [], "none": None, "flag": False},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert types_of(text, format="jsonl") == {
        "i": "int64", "f": "double", "mixed": "string", "obj": "string", "list": "list<item: double>",
        "gap": "null?", "none": "null?", "flag": "bool",
    }  # fmt: skip
    found = rows(opened(io.BytesIO(text.encode()), format="jsonl"))
    assert [row["mixed"] for row in found] == ["1", "x"] and [row["obj"] for row in found] == ['{"a": 1}', '{"b": [1]}']
    assert [row["list"] for row in found] == [[1.0, 2.5], []]
    with pytest.raises(mmstore.SchemaError, match="is empty"):
        types_of("\n", format="jsonl")


@pytest.mark.parametrize(
    ("one", "two", "both"),
    [
        (pa.null(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.int64(), pa.uint64(), pa.uint64()),
        (pa.int64(), pa.string(), pa.string()),
        (pa.bool_(), pa.int64(), pa.string()),
        (pa.date32(), pa.timestamp("s"), pa.timestamp("s")),
        (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.timestamp("s"), pa.timestamp("s", "UTC"), pa.string()),
        (pa.string(), pa.binary(), pa.binary()),
        (pa.list_(pa.int64()), pa.list_(pa.float64()), pa.list_(pa.float64())),
    ],
)
def test_wider(one: Any, two: Any, both: Any) -> None:
    assert wider(one, two) == wider(two, one) == both


# --- rows that don't fit -----------------------------------------------------------------------------


def bad_rows(
    text: str | bytes, types: dict[str, Any], required: str = "", **how: Any
) -> tuple[list[Any], list[BadRow]]:
    """(rows that fit, those that don't)."""
    bad: list[BadRow] = []
    data = text.encode() if isinstance(text, str) else text
    source = opened(io.BytesIO(data), **{"format": "csv", **how})
    plan = Plan(types, bad.append, frozenset(required.split()))
    good = [row for batch, _ in source.batches(plan, Mark()) for row in batch.to_pylist()]
    return good, bad


def test_bad_rows_of_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BATCH_BYTES", 64)
    text = 'n,s\n1,"two\nlines"\nseven,x\n\n2,y\n3\n4,y,z\n,q\n5,end' + "\n6,more" * 100 + "\n1.5,last"
    good, bad = bad_rows(text, {"n": pa.int32(), "s": pa.string()}, "n")
    assert [row["n"] for row in good] == [1, 2, 5] + [6] * 100 and good[0]["s"] == "two\nlines"
    shown = [(row.line, row.column, row.value, row.text) for row in bad]
    assert shown == [
        (4, "n", "seven", "seven,x"),
        (7, None, None, "3"),
        (8, None, None, "4,y,z"),
        (9, "n", "", ",q"),
        (111, "n", "1.5", "1.5,last"),
    ]
    assert "Expected 2 columns, got 1" in str(bad[1]) and "is missing" in str(bad[3])
    assert "--schema n=utf8" in bad[0].advice and "--schema n=f8" in bad[4].advice and "n=i4?" in bad[3].advice
    assert str(bad[0]).startswith("the file object, line 4, column 'n': the value 'seven' is no int32; pass schema=")
    assert pickle.loads(pickle.dumps(bad[0])).facts() == bad[0].facts()


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (b"300", pa.int8(), "is no int8.*a=i8"),
        (b"99999999999", pa.int32(), "is no int32.*a=i8"),
        (b"x", pa.float64(), "is no double.*a=utf8"),
        (b"2013-13-01", pa.date32(), "is no date32"),
        (b"2013-01-01 10:00", pa.timestamp("s", "UTC"), "zone offset"),
        (b"1.234", pa.decimal128(5, 2), "is no decimal128"),
        (b"\xff", pa.string(), "is not UTF-8; pass encoding='latin-1'"),
    ],
)
def test_what_is_said(value: bytes, kind: Any, message: str) -> None:
    good, bad = bad_rows(b"a,b\n" + value + b",1\n", {"a": kind, "b": pa.int64()})
    assert good == [] and len(bad) == 1
    with pytest.raises(mmstore.SchemaError, match=f"line 2, column 'a'.*{message}"):
        refuse(bad[0])


def test_bad_rows_of_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonlines, "BATCH_BYTES", 64)
    lines = [
        '{"n": 1}',
        "",
        '{"n": 2',
        "[3]",
        '{"n": "x"}',
        '{"n": 4, "m": 5}',
        '{"n": true}',
        '{"m": null}',
        '{"n": 9}',
    ]
    good, bad = bad_rows("\n".join(lines), {"n": pa.int16()}, "n", format="jsonl")
    assert good == [{"n": 1}, {"n": 9}]
    assert [(row.line, row.column) for row in bad] == [(3, None), (4, None), (5, "n"), (6, "m"), (7, "n"), (8, "m")]
    assert "is no JSON" in str(bad[0]) and "an object" in str(bad[1]) and "isn't in the schema" in str(bad[3])
    good, bad = bad_rows('{"n": 70000}\n{"n": null}\n{}', {"n": pa.int16()}, format="jsonl")
    assert good == [{"n": None}] * 2 and bad[0].value == "70000"


def test_other_columns(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    with pytest.raises(mmstore.SchemaError, match="has 'b', 'c' as well; choose with columns"):
        list(opened(tmp_path / "a.csv").batches(Plan({"a": pa.int8()}, refuse), Mark()))
    with pytest.raises(mmstore.SchemaError, match="lacks 'nix'"):
        list(opened(tmp_path / "a.csv").batches(Plan({"nix": pa.int8()}, refuse, others=True), Mark()))
    chosen = Plan({"c": pa.string(), "a": pa.int8()}, refuse, others=True)
    found = [row for batch, _ in opened(tmp_path / "a.csv").batches(chosen, Mark()) for row in batch.to_pylist()]
    assert found == [{"c": row["c"], "a": row["a"]} for row in ROWS]


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(ImportError, match=r"mmstore\[lmdb\]"):
        base.require("lmdb", "lmdb")
