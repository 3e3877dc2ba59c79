"""Schemas: every type that can be held, clear refusals, keys, and hostile JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mmstore.columns import types
from mmstore.columns.schema import MAX_COLUMNS, Column, Schema
from mmstore.columns.types import Kind, nullable
from mmstore.errors import CorruptError, FormatError, SchemaError

HELD = [
    "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "S1", "S12", "U1", "U40", "V3",
    "M8[ns]", "M8[us]", "M8[ms]", "M8[s]", "M8[m]", "M8[h]", "M8[D]", "M8[W]", "M8[M]", "M8[Y]", "M8[as]", "M8[25us]",
    "m8[ns]", "m8[D]", "datetime64[ns]", "timedelta64[s]", "float32", bool, int, float, complex, np.uint16,
    np.dtype("f4"), np.float16, "intp", ("f4", 64), ("f4", (2, 3)), ("U3", 2), (np.dtype("M8[D]"), 4), ("u1", 1),
    "(3,)f8",
]  # fmt: skip


@pytest.mark.parametrize("spec", HELD, ids=str)
def test_every_fixed_width_type_survives_the_file(spec: Any) -> None:
    schema = Schema.of({"x": spec})
    assert Schema.from_json(schema.to_json()) == schema
    column = schema["x"]
    if not isinstance(spec, tuple):
        assert column.row_dtype == np.dtype(spec)
    assert column.row_size == column.row_dtype.itemsize == schema.row_size == schema.dtype.itemsize
    assert Schema.of(schema.dtype) == schema == Schema.of(schema)
    assert hash(Schema.of(schema.dtype)) == hash(schema)


def test_storage_is_little_endian_and_without_metadata() -> None:
    assert Schema.of({"x": ">f8"})["x"].dtype.str == "<f8"
    assert Schema.of({"x": (">U4", 2)})["x"].dtype.str == "<U4"
    assert Schema.of({"x": np.dtype("i4", metadata={"a": 1})})["x"].dtype.metadata is None


def test_shapes() -> None:
    assert Schema.of({"x": ("f4", 1)})["x"].shape == (1,)
    assert Schema.of({"x": (("f4", 3), 4)})["x"].shape == (4, 3)
    assert Schema.of({"x": ("S", 5)})["x"] == Column("x", Kind(np.dtype("S5")))
    assert Schema.of([("x", "f4", 7), ("y", "i8")]).columns == (
        Column("x", Kind(np.dtype("f4"), (7,)), 0),
        Column("y", Kind(np.dtype("i8")), 1),
    )


OTHERS: list[tuple[Any, str, tuple[str, ...], str]] = [  # what is said, its name, sequences, and Arrow's format
    ("utf8", "utf8", ("offsets", "data"), ""),
    ("string", "utf8", ("offsets", "data"), ""),
    (str, "utf8", ("offsets", "data"), ""),
    (np.dtypes.StringDType(), "utf8", ("offsets", "data"), ""),
    ("binary", "binary", ("offsets", "data"), ""),
    (bytes, "binary", ("offsets", "data"), ""),
    ("category", "category", ("values", "word_offsets", "words"), ""),
    ("decimal128(15,2)", "decimal128(15,2)", ("values",), "d:15,2"),
    ("decimal128(15, 2)", "decimal128(15,2)", ("values",), "d:15,2"),
    ("decimal(5)", "decimal128(5,0)", ("values",), "d:5,0"),
    ("decimal32(9,-2)", "decimal32(9,-2)", ("values",), "d:9,-2,32"),
    ("decimal64(18,18)", "decimal64(18,18)", ("values",), "d:18,18,64"),
    ("date32", "date32", ("values",), "tdD"),
    ("date64", "date64", ("values",), "tdm"),
    ("time32[s]", "time32[s]", ("values",), "tts"),
    ("time32[ms]", "time32[ms]", ("values",), "ttm"),
    ("time64[us]", "time64[us]", ("values",), "ttu"),
    ("time64[ns]", "time64[ns]", ("values",), "ttn"),
    ("timestamp[ns]", "datetime64[ns]", ("values",), ""),
    ("timestamp[us, UTC]", "timestamp[us, UTC]", ("values",), "tsu:UTC"),
    ("timestamp[s, tz=Europe/Berlin]", "timestamp[s, Europe/Berlin]", ("values",), "tss:Europe/Berlin"),
    ("duration[ms]", "timedelta64[ms]", ("values",), ""),
    ("list(f8)", "list(float64)", ("offsets", "values"), ""),
    ("list(date32)", "list(date32)", ("offsets", "values"), "tdD"),
    ("list(decimal128(10,3))", "list(decimal128(10,3))", ("offsets", "values"), "d:10,3"),
    (nullable("i4"), "nullable(int32)", ("validity", "values"), ""),
    (nullable("?"), "nullable(bool)", ("validity", "values"), ""),
    (nullable(("f4", 3)), "nullable(float32[3])", ("validity", "values"), ""),
    (nullable("utf8"), "nullable(utf8)", ("validity", "offsets", "data"), ""),
    (nullable("category"), "nullable(category)", ("validity", "values", "word_offsets", "words"), ""),
    (nullable("list(u2)"), "nullable(list(uint16))", ("validity", "offsets", "values"), ""),
    (nullable(nullable("date32")), "nullable(date32)", ("validity", "values"), "tdD"),
    (("date32", 2), "date32[2]", ("values",), "tdD"),
]


@pytest.mark.parametrize(("spec", "name", "parts", "arrow"), OTHERS, ids=lambda value: str(value)[:40])
def test_types_that_numpy_lacks_survive_the_file(spec: Any, name: str, parts: tuple[str, ...], arrow: str) -> None:
    schema = Schema.of({"x": spec})
    kind = schema["x"].kind
    assert Schema.from_json(schema.to_json()) == schema and Column.decode(schema["x"].encode()) == schema["x"]
    assert (str(kind), kind.parts, kind.arrow) == (name, parts, arrow)
    assert kind.nullable == name.startswith("nullable") == schema["x"].nullable
    assert kind.plain == (name.partition("[")[0] in ("datetime64", "timedelta64", "timestamp", "date64", "time64"))
    if kind.layout != types.FIXED or kind.nullable:
        with pytest.raises(SchemaError, match="structured dtype"):
            assert schema.dtype


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("struct<a: int>", "a column for each"),
        ("map<a, b>", "a keyspace"),
        ("union", "nullable column for each"),
        ("null", 'nullable("utf8")'),
        ("decimal256(50,2)", "decimal128(38, s)"),
        ("decimal128(39,2)", "decimal128(38, s)"),
        ("decimal128(0,0)", "decimal128(38, s)"),
        ("decimal32(10,0)", "decimal128(38, s)"),
        ("interval", "duration"),
        ("list(utf8)", "list of numbers"),
        ("list(?)", "list of numbers"),
        ("list(list(i4))", "list of numbers"),
        ("list(nonsense)", "can't be held"),
        (nullable("nonsense"), "can't be held"),
        (("utf8", 3), "use a list"),
        ((nullable("i4"), 3), "use a list"),
        ("S", "S32"),
        ("V0", "V32"),
        (object, "utf8"),
        ("longdouble", '"f8"'),
        ("clongdouble", '"c16"'),
        ("datetime64", "datetime64[ns]"),
        ("m8", "timedelta64[ns]"),
        ("i4,f4", "V8"),
        (None, "a numpy type such as"),
        (("f4", 0), "at least 1"),
        (("f4", -3), "at least 1"),
        (("f4", True), "at least 1"),
        (("f4", 2.0), "at least 1"),
        (("f4",), "(type, n)"),
        (("f4", (1,) * 17), "dimensions"),
        (("f4", 1 << 30), "split"),
        ("nonsense", "a numpy type such as"),
        (3, "a numpy type such as"),
        ("U99999999999", "a numpy type such as"),
    ],
    ids=str,
)
def test_other_types_are_refused_with_the_nearest_that_can_be_held(spec: Any, nearest: str) -> None:
    with pytest.raises(SchemaError, match="column 'x'") as caught:
        Schema.of({"x": spec})
    assert nearest in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("spec", [{}, {"": "f4"}, {"a\0": "f4"}, {1: "f4"}, {"\ud800": "f4"}, {"x" * 70_000: "f4"}])
def test_bad_names_are_refused(spec: Any) -> None:
    with pytest.raises(SchemaError):
        Schema.of(spec)


@pytest.mark.parametrize("spec", ["f4", 3, None, np.dtype("f4"), ["x"], [("x",)], [("x", "f4"), ("x", "f8")], b"x"])
def test_what_is_no_schema_is_refused(spec: Any) -> None:
    with pytest.raises(SchemaError):
        Schema.of(spec)


def test_too_many_columns() -> None:
    with pytest.raises(SchemaError, match="columns"):
        Schema(tuple(Column(str(n), Kind(np.dtype("i1")), n) for n in range(MAX_COLUMNS + 1)))


@pytest.mark.parametrize(
    "spec", ["i8", "u1", "?", "M8[ns]", "m8[s]", "S3", "U3", "V3", "utf8", "binary", "date32", "decimal128(9,2)"]
)
def test_keys(spec: Any) -> None:
    schema = Schema.of({"id": spec, "x": "f8"}, key="id")
    assert schema.key == ("id",) and Schema.from_json(schema.to_json()) == schema
    assert schema != Schema.of({"id": spec, "x": "f8"}) and Schema.of(schema) == schema
    assert Schema.of(Schema.of({"id": spec, "x": "f8"}), key="id") == schema
    two = Schema.of({"a": spec, "b": "i2", "x": "f8"}, key=("b", "a"))
    assert two.key == ("b", "a") and Schema.from_json(two.to_json()) == two


@pytest.mark.parametrize("spec", ["f8", "c8", "category", "list(i4)", nullable("i8"), nullable("utf8"), ("i4", 2)])
def test_what_can_be_no_key(spec: Any) -> None:
    with pytest.raises(SchemaError, match="column 'id' .* can't be a key"):
        Schema.of({"id": spec, "x": "f8"}, key="id")


@pytest.mark.parametrize("key", ["nope", (), ("id", "nope"), ("id", "id")])
def test_keys_name_different_columns_that_are_there(key: Any) -> None:
    with pytest.raises(SchemaError, match="different columns among 'id', 'x'"):
        Schema.of({"id": "i8", "x": "i4"}, key=key)


def test_ids_tell_columns_apart() -> None:
    schema = Schema.of({"a": "i4", "b": "i8"})
    assert [column.id for column in schema] == [0, 1] and schema.next_id == 2
    with pytest.raises(SchemaError, match="same id"):
        Schema((Column("a", Kind(np.dtype("i4")), 3), Column("b", Kind(np.dtype("i4")), 3)))


def test_schema_is_a_collection_of_columns() -> None:
    schema = Schema.of({"a": "i4", "b": ("f4", 3)})
    assert schema.names == ("a", "b") and len(schema) == 2 and list(schema) == list(schema.columns)
    assert "a" in schema and "c" not in schema and schema.position("b") == 1
    assert schema.row_size == 16 and schema.dtype == np.dtype([("a", "<i4"), ("b", "<f4", 3)])
    assert str(schema) == "{a: int32, b: float32[3]}"
    with pytest.raises(KeyError, match="'a', 'b'"):
        schema["c"]


def test_schemas_differ() -> None:
    schema = Schema.of({"a": "i4", "b": "i8"})
    assert schema != Schema.of({"b": "i8", "a": "i4"}) and schema != Schema.of({"a": "i4", "b": "u8"})


def column(**changes: Any) -> bytes:
    value = {"name": "a", "id": 0, "layout": "fixed", "dtype": "<i4", "shape": [], "nullable": False, "arrow": ""}
    value |= changes
    return json.dumps({"columns": [value], "key": None}).encode()


def keyed(key: str, **changes: Any) -> bytes:
    return column(**changes).replace(b'"key": null', b'"key": ' + key.encode())


def test_the_json_is_as_documented() -> None:
    assert Schema.from_json(column()) == Schema.of({"a": "i4"})
    assert json.loads(Schema.of({"a": "i4"}).to_json()) == json.loads(column())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"columns": 3}',
        b'{"columns": []}',
        b'{"columns": [3]}',
        b'{"columns": [{}]}',
        b"[" * 100_000,
        b'{"columns": ' + b"9" * 10_000 + b"}",
        column(name=3),
        column(name=""),
        column(name="\ud800"),
        column(dtype="O"),
        column(dtype="|O"),
        column(dtype=">i4"),
        column(dtype="<i1"),
        column(dtype="i4"),
        column(dtype="<f16"),
        column(dtype="<M8"),
        column(dtype="<M8[]"),
        column(dtype="<M8[1ns]"),
        column(dtype="<M8[0ns]"),
        column(dtype="<M8[999999999Y]x"),
        column(dtype="<U999999999"),
        column(dtype="|S9999999999"),
        column(dtype="|S0"),
        column(dtype="i4,f4"),
        column(dtype=["a"]),
        column(dtype=None),
        column(shape=3),
        column(shape=[0]),
        column(shape=[-1]),
        column(shape=[True]),
        column(shape=[1.0]),
        column(shape=[1] * 17),
        column(shape=[1 << 40, 1 << 40]),
        column().replace(b"[{", b"[{}, {"),
        json.dumps({"columns": [json.loads(column())["columns"][0]] * 2, "key": None}).encode(),
        json.dumps(
            {"columns": [json.loads(column(name=name))["columns"][0] for name in "ab"], "key": None}
        ).encode(),  # two of the same id
        column(id=None),
        column(id=-1),
        column(id=1 << 32),
        column(id=True),
        column(id=0.0),
        column(nullable=None),
        column(nullable=1),
        column(arrow=None),
        column(arrow="nonsense"),
        column(arrow="tdD", dtype="<i8"),
        column(arrow="d:"),
        column(arrow="d:9"),
        column(arrow="d:9,2"),
        column(arrow="d:9,2,64"),
        column(arrow="d:10,2,32"),
        column(arrow="d:09,2,32"),
        column(arrow="d:9,2,32,1"),
        column(arrow="d:" + "9" * 5000 + ",2"),
        column(arrow="d:15,2,128", dtype="|V16"),
        column(arrow="tsu:", dtype="<M8[us]"),
        column(arrow="tsu:UTC", dtype="<M8[ns]"),
        column(arrow="tsx:UTC", dtype="<M8[us]"),
        column(layout="utf8"),
        column(layout="utf8", dtype="|i1"),
        column(layout="utf8", dtype="|u1", shape=[1]),
        column(layout="utf8", dtype="|u1", arrow="tdD"),
        column(layout="category", dtype="<i8"),
        column(layout="category", arrow="tdD"),
        column(layout="list", dtype="|b1"),
        column(layout="list", shape=[2]),
        keyed("3"),
        keyed('"a"'),
        keyed("[]"),
        keyed("[1]"),
        keyed('["b"]'),
        keyed('["a", "a"]'),
        keyed('["a"]', nullable=True),
        keyed('["a"]', dtype="<f8"),
        keyed('["a"]', layout="category"),
        keyed('["a"]', layout="list"),
        keyed('["a"]', shape=[2]),
    ],
)
def test_hostile_json_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        Schema.from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        column(layout="struct"),
        column(layout="utf8view", dtype="|u1"),
        column(compressed=True),
        column().replace(b'"key": null', b'"key": null, "order": 1'),
    ],
)
def test_newer_schemas_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="newer"):
        Schema.from_json(data)


def test_errors_from_the_file_stay_short() -> None:
    with pytest.raises(CorruptError) as caught:
        Schema.from_json(column(dtype="x" * 100_000))
    assert len(str(caught.value)) < 500
