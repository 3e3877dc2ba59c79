"""Schemas: every type of fixed width, clear refusals, and hostile JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mmstore.columns.schema import MAX_COLUMNS, Column, Schema
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
    assert Schema.of({"x": ("S", 5)})["x"] == Column("x", np.dtype("S5"))
    assert Schema.of([("x", "f4", 7), ("y", "i8")]).columns == (
        Column("x", np.dtype("f4"), (7,)),
        Column("y", np.dtype("i8")),
    )


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("utf8", "U32"),
        ("string", "U32"),
        ("binary", "V32"),
        ("category", "i4"),
        ("decimal128(15, 2)", "f8"),
        ("date32", "datetime64[D]"),
        ("timestamp[ns]", "fixed-width"),
        (str, "U32"),
        (bytes, "S32"),
        ("S", "S32"),
        ("V0", "V32"),
        (object, "U32"),
        (np.dtypes.StringDType(), "U32"),
        ("longdouble", '"f8"'),
        ("clongdouble", '"c16"'),
        ("datetime64", "datetime64[ns]"),
        ("m8", "timedelta64[ns]"),
        ("i4,f4", "V8"),
        (None, "fixed-width"),
        (("f4", 0), "at least 1"),
        (("f4", -3), "at least 1"),
        (("f4", True), "at least 1"),
        (("f4", 2.0), "at least 1"),
        (("f4",), "(type, n)"),
        (("f4", (1,) * 17), "dimensions"),
        (("f4", 1 << 30), "split"),
        ("nonsense", "fixed-width"),
        (3, "fixed-width"),
        ("U99999999999", "fixed-width"),
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
        Schema(tuple(Column(str(n), np.dtype("i1")) for n in range(MAX_COLUMNS + 1)))


def test_keys_come_later() -> None:
    with pytest.raises(SchemaError, match="later version"):
        Schema.of({"id": "i8"}, key="id")


def test_schema_is_a_collection_of_columns() -> None:
    schema = Schema.of({"a": "i4", "b": ("f4", 3)})
    assert schema.names == ("a", "b") and len(schema) == 2 and list(schema) == list(schema.columns)
    assert "a" in schema and "c" not in schema and schema.position("b") == 1
    assert schema.row_size == 16 and schema.dtype == np.dtype([("a", "<i4"), ("b", "<f4", 3)])
    assert str(schema) == "{a: int32, b: float32[3]}" and schema.sequences == 2
    with pytest.raises(KeyError, match="'a', 'b'"):
        schema["c"]


def test_schemas_differ() -> None:
    schema = Schema.of({"a": "i4", "b": "i8"})
    assert schema != Schema.of({"b": "i8", "a": "i4"}) and schema != Schema.of({"a": "i4", "b": "u8"})


def column(**changes: Any) -> bytes:
    value = {"name": "a", "layout": "fixed", "dtype": "<i4", "shape": []} | changes
    return json.dumps({"columns": [value], "key": None}).encode()


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
    ],
)
def test_hostile_json_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        Schema.from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        column(layout="utf8"),
        column(nullable=True),
        column().replace(b'"key": null', b'"key": ["a"]'),
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
