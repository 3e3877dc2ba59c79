"""Arrow data of any type that can be held goes in and comes out the same, without a copy, by the interface's rules.

Tables are made by a strategy of our own: slices with offsets, several chunks, nulls, string views, dictionaries, nested
lists of a fixed size, decimals.  What comes out must equal what went in, once that is cast to the large types.
"""

from __future__ import annotations

import ctypes
import datetime
import decimal
import gc
from pathlib import Path
from typing import Any

import duckdb
import nanoarrow as na
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmstore
from mmstore.database.database import Database
from mmstore.disk.mapping import mappings_in_use

# --- any table -----------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
days = st.integers(-20_000, 60_000)


def bounded(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1)


def numbers(type_: Any) -> st.SearchStrategy[Any]:
    """Values of an Arrow type, as pa.array takes them."""
    if pa.types.is_integer(type_):
        return bounded(type_.bit_width, pa.types.is_signed_integer(type_))
    if pa.types.is_floating(type_):
        return st.floats(width=type_.bit_width)
    if pa.types.is_decimal(type_):
        limit = 10**type_.precision - 1
        return st.integers(-limit, limit).map(
            lambda n: decimal.Decimal(n).scaleb(-type_.scale, decimal.Context(prec=100))
        )
    if pa.types.is_date64(type_):
        return days.map(lambda n: datetime.date.fromordinal(719_163 + n))
    if pa.types.is_time(type_):
        per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[type_.unit]
        return st.integers(0, 86_400 * per - 1)
    if pa.types.is_boolean(type_):
        return st.booleans()
    return days if pa.types.is_date32(type_) else bounded(31)


plain = st.sampled_from(
    [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64(), pa.float16(),
     pa.float32(), pa.float64(), pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"),
     pa.time64("ns"), *[pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")], pa.timestamp("us", "UTC"),
     pa.timestamp("ns", "+05:30"), *[pa.duration(unit) for unit in ("s", "ms", "us", "ns")], pa.decimal32(9, 4),
     pa.decimal64(18, 0), pa.decimal128(38, 10), pa.decimal128(5, -3), pa.decimal128(20, 0)]
)  # fmt: skip


@st.composite
def arrays(draw: Any, n: int, nested: bool = True) -> Any:
    """(array of n rows, the type in which it comes out)"""
    kind = draw(st.sampled_from(["plain", "plain", "bool", "text", "bytes", "fixed", "dictionary", "list", "vector"]))
    gone = draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=n, max_size=n)))
    mask = np.array(gone if gone is not None else [False] * n, bool)

    def made(values: list[Any], type_: Any) -> Any:
        return pa.array([None if out else value for value, out in zip(values, mask, strict=True)], type_)

    if kind in ("plain", "bool"):
        type_ = pa.bool_() if kind == "bool" else draw(plain)
        values = draw(st.lists(numbers(type_), min_size=n, max_size=n))
        return made(values, type_), type_
    if kind in ("text", "bytes"):
        names = (
            ("string", "large_string", "string_view") if kind == "text" else ("binary", "large_binary", "binary_view")
        )
        one = text if kind == "text" else st.binary(max_size=20)
        type_ = getattr(pa, draw(st.sampled_from(names)))()
        return made(draw(st.lists(one, min_size=n, max_size=n)), type_), getattr(pa, names[1])()
    if kind == "fixed":
        width = draw(st.integers(1, 5))
        return made(
            draw(st.lists(st.binary(min_size=width, max_size=width), min_size=n, max_size=n)), pa.binary(width)
        ), None
    if kind == "dictionary":
        words = draw(st.lists(text, min_size=1, max_size=5, unique=True))
        codes = draw(st.lists(st.integers(0, len(words) - 1), min_size=n, max_size=n))
        index = draw(st.sampled_from([pa.int8(), pa.int32(), pa.uint16(), pa.int64()]))
        large = draw(st.sampled_from([pa.string(), pa.large_string()]))
        array = pa.DictionaryArray.from_arrays(pa.array(codes, index, mask=mask), pa.array(words, large))
        return array, pa.dictionary(pa.int32(), pa.large_string())
    item = draw(plain)
    if kind == "list":
        list_type = draw(st.sampled_from([pa.list_, pa.large_list]))(item)
        values = draw(st.lists(st.lists(numbers(item), max_size=3), min_size=n, max_size=n))
        return made(values, list_type), pa.large_list(item)
    outer, inner = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    one = st.lists(numbers(item), min_size=outer, max_size=outer)
    type_ = pa.list_(item, outer)
    if inner:
        one, type_ = st.lists(one, min_size=inner, max_size=inner), pa.list_(type_, inner)
    return made(draw(st.lists(one, min_size=n, max_size=n)), type_), type_


@st.composite
def chunked_tables(draw: Any) -> tuple[Any, Any]:
    """(a table in chunks, some of them slices; the schema in which it comes out)"""
    n = draw(st.integers(0, 12))
    columns = [draw(arrays(n)) for _ in range(draw(st.integers(1, 3)))]
    fields = []
    for at, (array, _) in enumerate(columns):
        strict = array.null_count == 0 and draw(st.booleans())
        fields.append(pa.field(f"c{at}", array.type, nullable=not strict))
    whole = pa.table([array for array, _ in columns], pa.schema(fields))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    start = draw(st.integers(0, n // 2))
    pieces = [whole[a:b] for a, b in zip([start, *cuts], [*cuts, n], strict=True) if b >= a >= start]
    chunks = pa.concat_tables(pieces) if pieces else whole[:0]
    out = [field.with_type(type_ or field.type) for field, (_, type_) in zip(fields, columns, strict=True)]
    return chunks, pa.schema(out)


def same(found: Any, expected: Any, type_: Any) -> bool:
    """Whether two columns have the same values in the type in which they come out; NaN is like NaN."""
    if pa.types.is_dictionary(type_):
        found, type_ = found.cast(type_.value_type), type_.value_type
    found, expected = found.combine_chunks(), expected.cast(type_).combine_chunks()
    item = type_
    while pa.types.is_nested(item):
        item = item.value_type
    if pa.types.is_floating(item):
        return bool(
            found.is_valid().equals(expected.is_valid()) and str(found.to_pylist()) == str(expected.to_pylist())
        )
    return bool(found.equals(expected))


@settings(
    max_examples=200 if mmstore.compiled() else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(chunked_tables(), st.booleans())
def test_round_trips(memory: Database, made: tuple[Any, Any], twice: bool) -> None:
    data, schema = made
    with memory.transaction() as txn:
        table = txn.create_table("t", data.schema)
        for _ in range(1 + twice):
            table.append(data)
        found = table.to_arrow()
        txn.rollback()
    found.validate(full=True)
    assert [field.type for field in found.schema] == [field.type for field in schema]
    times = [pa.types.is_timestamp(field.type) or pa.types.is_duration(field.type) for field in schema]
    nullable = [field.nullable or time for field, time in zip(schema, times, strict=True)]  # NaT would be null
    assert [field.nullable for field in found.schema] == nullable
    for at, field in enumerate(schema):
        expected = pa.chunked_array(data[at].chunks * (1 + twice), data[at].type)
        assert same(found[at], expected, field.type)


@pytest.fixture(scope="module")
def memory() -> Any:
    with mmstore.open(":memory:") as db:
        yield db
        assert db.check() == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.mms"


@pytest.fixture
def db(path: Path) -> Any:
    with mmstore.open(path, durability="relaxed") as db:
        yield db
        if db._session is not None:
            assert db.check() == []


# --- zero-copy -----------------------------------------------------------------------------------------


def mapped(path: Path) -> list[tuple[int, int]]:
    """Address ranges in which this process maps the file."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            start, end = line.split()[0].split("-")
            found.append((int(start, 16), int(end, 16)))
    joined: list[tuple[int, int]] = []
    for first, last in sorted(found):  # runs lie side by side
        joined[-1:] = [(joined[-1][0], last)] if joined and joined[-1][1] == first else [*joined[-1:], (first, last)]
    return joined


def inside(address: int, size: int, ranges: list[tuple[int, int]]) -> bool:
    return any(start <= address and address + size <= end for start, end in ranges)


def test_exported_buffers_lie_in_the_file(path: Path) -> None:
    gc.collect()
    before = mappings_in_use()
    n = 20_000
    with mmstore.open(path, durability="relaxed") as db:
        table = db.create_table(
            "t", {"i": "i8", "f": ("f4", 8), "s": "utf8", "n": mmstore.nullable("i4"), "c": "category", "l": "list(i2)",
                  "d": "decimal128(9,2)", "t": "timestamp[us, UTC]", "b": "binary", "v": "V4"}
        )  # fmt: skip
        for _ in range(2):
            table.append(
                {"i": np.arange(n), "f": np.ones((n, 8), "f4"), "s": ["text"] * n, "n": [None, 1] * (n // 2),
                 "c": ["a", "b"] * (n // 2), "l": [[1, 2]] * n, "d": [decimal.Decimal(1)] * n, "b": [b"x"] * n,
                 "t": np.arange(n).astype("M8[us]"), "v": [b"abcd"] * n}
            )  # fmt: skip
        allocated = pa.total_allocated_bytes()  # what other tests have left is theirs
        arrow = table.to_arrow()
        allocated = pa.total_allocated_bytes() - allocated
        ranges = mapped(path)
        for name in arrow.column_names:
            for chunk in arrow[name].chunks:
                parts = [chunk.indices] if pa.types.is_dictionary(chunk.type) else [chunk]
                buffers = [buffer for part in parts for buffer in part.buffers() if buffer is not None and buffer.size]
                assert buffers
                for buffer in buffers:
                    assert inside(buffer.address, buffer.size, ranges), name
        assert arrow.get_total_buffer_size() > 0 and allocated < arrow.get_total_buffer_size() // 100
        part = pa.record_batch(table[100:200])
        assert part["i"].buffers()[1].address == arrow["i"].chunks[0].buffers()[1].address
        again = table.to_arrow(["i"])
        db.drop("t")
        for i in range(60):
            db[b"%d" % i] = bytes(100_000)
    arrow.validate(full=True)
    assert arrow["i"].to_pylist() == list(range(n)) * 2 == again["i"].to_pylist()
    assert (
        arrow["s"][n].as_py() == "text"
        and arrow["n"].null_count == n
        and part["i"].to_pylist() == list(range(100, 200))
    )
    with pytest.raises(ValueError):
        arrow["i"].chunks[0].to_numpy()[0] = 5
    del arrow, again, part, chunk, parts, buffers, buffer, table, db
    gc.collect()
    assert mappings_in_use() == before


# --- the rules -----------------------------------------------------------------------------------------


def name_of(capsule: Any) -> bytes:
    get = ctypes.pythonapi.PyCapsule_GetName
    get.restype, get.argtypes = ctypes.c_char_p, [ctypes.py_object]
    found: bytes = get(capsule)
    return found


@pytest.fixture
def table(db: Database) -> Any:
    table = db.create_table("t", {"i": "i8", "s": mmstore.nullable("utf8"), "c": "category"}, key="i")
    table.append({"i": range(10), "s": [None, "x"] * 5, "c": ["a", "b"] * 5})
    table.delete([3, 4])
    return table


def test_capsules(db: Database, table: Any) -> None:
    assert name_of(table.__arrow_c_schema__()) == b"arrow_schema"
    assert name_of(table.__arrow_c_stream__()) == b"arrow_array_stream"
    assert [name_of(capsule) for capsule in table[:].__arrow_c_array__()] == [b"arrow_schema", b"arrow_array"]
    assert [name_of(capsule) for capsule in table["s"].__arrow_c_array__()] == [b"arrow_schema", b"arrow_array"]
    assert name_of(table["s"].__arrow_c_schema__()) == b"arrow_schema"
    capsule = table.__arrow_c_stream__()
    reader = pa.RecordBatchReader._import_from_c_capsule(capsule)
    with pytest.raises(Exception):  # noqa: B017 - pyarrow's own
        pa.RecordBatchReader._import_from_c_capsule(capsule)
    assert reader.read_all().num_rows == 8
    txn = db.txn_id
    for _ in range(50):  # never consumed
        table.__arrow_c_stream__(), table[:].__arrow_c_array__(), table["s"].__arrow_c_array__()
    half = pa.RecordBatchReader.from_stream(table)
    del half, reader
    gc.collect()
    for _ in range(10):
        db[b"k"] = b"v"
    assert db.readers() == [] or all(reader.txn_id > txn for reader in db.readers() if hasattr(reader, "txn_id"))


def test_a_stream_shows_one_state(db: Database, table: Any) -> None:
    reader = pa.RecordBatchReader.from_stream(table)
    table.append({"i": [100], "s": ["new"], "c": ["z"]})
    table.add_column("more", "f8")
    table.drop_column("s")
    late = pa.RecordBatchReader.from_stream(table)
    db.drop("t")
    for i in range(50):
        db[b"%d" % i] = bytes(30_000)
    db.close()
    assert late.schema.names == ["i", "c", "more"] and late.read_all().num_rows == 9
    found = reader.read_all()
    assert found.schema.names == ["i", "s", "c"] and found["i"].to_pylist() == [0, 1, 2, 5, 6, 7, 8, 9]


def test_requested_schemas(table: Any) -> None:
    wanted = pa.schema([("c", pa.dictionary(pa.int32(), pa.large_string())), ("i", pa.int64())])
    capsule = table.__arrow_c_stream__(wanted.__arrow_c_schema__())
    reader = pa.RecordBatchReader._import_from_c_capsule(capsule)
    assert reader.schema.names == ["c", "i"] and reader.read_all()["i"].to_pylist() == [0, 1, 2, 5, 6, 7, 8, 9]
    other = table.__arrow_c_stream__(pa.schema([("i", pa.int32())]).__arrow_c_schema__())
    assert pa.RecordBatchReader._import_from_c_capsule(other).schema.names == ["i"]
    assert pa.schema(table).equals(table.to_arrow().schema)


# --- who reads them ------------------------------------------------------------------------------------


def test_everybody_reads_a_table(db: Database, table: Any) -> None:
    t = table
    assert t
    rows = [{"i": i, "s": "x" if i % 2 else None, "c": "ab"[i % 2]} for i in range(10) if i not in (3, 4)]
    assert pa.table(table).to_pylist() == rows == table.to_arrow().to_pylist()
    assert pl.DataFrame(table).to_dicts() == rows == table.to_polars().to_dicts()
    assert na.ArrayStream(table).read_all().to_pylist() == rows
    frame = pd.DataFrame.from_arrow(table) if hasattr(pd.DataFrame, "from_arrow") else table.to_pandas()
    assert frame["i"].tolist() == table.to_pandas()["i"].tolist() == [row["i"] for row in rows]
    assert str(table.to_pandas()["c"].dtype) == "category"
    assert duckdb.sql("select sum(i), count(s), count(distinct c), count(*) from t").fetchall() == [(38, 4, 2, 8)]
    assert duckdb.sql("select i from t where i > 6 order by i desc").fetchall() == [(9,), (8,), (7,)]
    both = duckdb.sql("select a.i from t a join t b on a.i = b.i + 1 order by 1").fetchall()
    assert both == [(1,), (2,), (6,), (7,), (8,), (9,)]
    part = table[5:7]
    assert duckdb.sql("select i, s from part").fetchall() == [(5, "x"), (6, None)]
    assert pa.table(part).to_pylist() == pl.DataFrame(part).to_dicts() == rows[3:5] == part.to_arrow().to_pylist()
    assert pa.array(table["s"]).to_pylist() == ["x" if i % 2 else None for i in range(10)]
    assert pl.Series(table["s"]).to_list() == table["s"].to_arrow().to_pylist()
    assert table.to_polars(["s", "i"]).columns == ["s", "i"] and table.to_arrow(["c"]).column_names == ["c"]
    with db.snapshot() as snap, db.transaction() as txn:
        mine, old = txn.table("t"), snap.table("t")
        mine.append({"i": [50], "s": [None], "c": ["new"]})
        assert duckdb.sql("select count(*) from mine").fetchall() == [(9,)]
        assert pa.table(old).num_rows == 8 and pa.table(mine)["c"].to_pylist()[-1] == "new"
        txn.rollback()
    copy = db.create_table("copy", table.schema)
    copy.append(table)
    copy.append(duckdb.sql("select i + 1000 as i, s, c::varchar as c from t"))
    assert pa.table(copy)["i"].to_pylist()[8:] == [row["i"] + 1000 for row in rows]


def test_arrays_are_arrays(db: Database) -> None:
    array = db.create_array("a", "f4", (3, 2))
    array[:] = [[1, 2], [3, 4], [5, 6]]
    assert np.shares_memory(np.asarray(array), np.from_dlpack(array))
    assert pl.Series(np.asarray(array)).to_list() == [[1, 2], [3, 4], [5, 6]]
