"""Rows offered to a table: what is taken, what is refused, and that nothing is ever changed on the way."""

from __future__ import annotations

import array
import datetime
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mmstore.columns import batch
from mmstore.columns.schema import Column, Schema
from mmstore.errors import CorruptError, SchemaError
from mmstore.exchange import convert, values


def converted(schema: Schema, data: Any) -> tuple[int, list[np.ndarray[Any, Any]]]:
    """(rows, the columns' values) of `data`, for a schema of plain types."""
    (found,) = convert.batches(schema, data)
    assert all(parts.keys() == {"values"} for parts in found.columns)
    return found.rows, [parts["values"] for parts in found.columns]


def one(spec: Any, values: Any) -> np.ndarray[Any, Any]:
    """`values` converted for a column of type `spec`."""
    schema = Schema.of({"x": spec})
    n, (found,) = converted(schema, {"x": values})
    assert found.flags.c_contiguous and found.shape == (n, *schema["x"].shape) and found.dtype == schema["x"].dtype
    return found


def refused(spec: Any, values: Any, match: str = "") -> None:
    with pytest.raises(SchemaError, match="column 'x'") as caught:
        one(spec, values)
    assert match in str(caught.value)


TAKEN: list[tuple[Any, Any]] = [
    ("i8", [1, 2, 3]),
    ("i8", (1, 2)),
    ("i8", range(5)),
    ("i8", np.array([-(2**63), 2**63 - 1])),
    ("u8", [2**64 - 1, 0]),
    ("u1", [0, 255]),
    ("i1", np.array([-128, 127], "i8")),
    ("u4", np.array([0, 2**32 - 1], "i8")),
    ("i8", np.array([0, 2**63 - 1], "u8")),
    ("i4", np.array([True, False])),
    ("i8", np.array([1, 2], ">i4")),
    ("i4", array.array("h", [1, 2])),
    ("i8", pd.Series([1, 2, 3])),
    ("i8", np.array([1, 2], object)),
    ("f8", [1, 0.5, -0.0, math.inf, math.nan]),
    ("f8", [1, 2]),
    ("f8", np.array([2**53, -(2**53), 2**60, -(2**63)])),
    ("f8", np.array([2**63, 2**64 - 2**11], "u8")),
    ("f4", np.array([2**24, 2**30, 3 * 2**40])),
    ("f2", np.array([2048, -65504, 4096])),
    ("f4", np.array([1.5, math.nan, -math.inf, -0.0])),
    ("f8", np.array([1.5, math.nan], "f4")),
    ("f8", np.array([1.5], ">f8")),
    ("c8", np.array([1.5, 2])),
    ("c16", [1 + 2j, 3]),
    ("c8", np.array([2**24, 5])),
    ("c8", np.array([complex(1, math.nan), complex(math.inf, 2)])),
    ("?", [True, False]),
    ("M8[ns]", np.array(["2020-01-01", "NaT"], "M8[D]")),
    ("M8[D]", np.array(["2020-01-01T00:00", "NaT"], "M8[ns]")),
    ("M8[us]", [datetime.datetime(2020, 1, 2, 3, 4, 5, 6)]),
    ("M8[ns]", [datetime.date(2020, 1, 2)]),
    ("M8[s]", np.array(["2020-01-01"], ">M8[s]")),
    ("M8[ns]", pd.Series(pd.to_datetime(["2020-01-01", None]))),
    ("m8[ms]", [datetime.timedelta(seconds=1.5)]),
    ("m8[ns]", np.array([1, 2], "m8[h]")),
    ("S3", [b"abc", b"", b"x"]),
    ("S3", np.array([b"abc", b"d"], "S9")),
    ("S9", np.array([b"abc", b"d"])),
    ("U3", ["abc", "", "äöü"]),
    ("U3", np.array(["abc", "\U0001f600"], "U9")),
    ("U3", np.array(["abc"], ">U3")),
    ("U3", np.array(["abc", "d"], object)),
    ("U3", np.array(["abc", "d"], np.dtypes.StringDType())),
    ("U3", pd.Series(["abc", "d"])),
    ("U3", [np.str_("ab"), np.str_("abc")]),
    ("V3", [b"abc", b"\0\0\0"]),
    ("V3", np.array([b"abc"], "V3")),
    (("f4", 2), [[1, 2], [3, 4]]),
    (("f4", 2), np.arange(6.0).reshape(3, 2)),
    (("f4", (2, 2)), np.arange(8.0).reshape(2, 2, 2)),
    (("U2", 2), [["a", "bc"], ["", "d"]]),
    (("f4", 1), [[1.0]]),
    ("i8", np.ma.masked_array([1, 2], mask=[False, False])),
]


@pytest.mark.parametrize(("spec", "values"), TAKEN, ids=lambda value: repr(value)[:40])
def test_values_survive(spec: Any, values: Any) -> None:
    found = one(spec, values)
    expected = values.tolist() if hasattr(values, "tolist") else list(values)
    if found.dtype.kind in "mM":
        expected = [np.array(value, found.dtype) for value in np.asarray(values).tolist() or expected]
        if isinstance(values, np.ndarray | pd.Series):
            expected = list(np.asarray(values).astype(found.dtype))
        assert np.array_equal(found.view("i8"), np.array(expected, found.dtype).view("i8"))
    elif found.dtype.kind == "V":
        assert [bytes(value) for value in found] == [bytes(value) for value in expected]
    else:
        np.testing.assert_array_equal(found, np.array(expected, found.dtype.newbyteorder("=")))
    if found.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(found), np.signbit(np.asarray(values)))


@pytest.mark.parametrize("spec", ["i8", "f4", "U3", "S2", "V2", "M8[ns]", "?", ("f4", 3)], ids=str)
def test_no_rows(spec: Any) -> None:
    for nothing in ([], (), np.empty(0), np.empty(0, object), np.empty((0, 3)) if isinstance(spec, tuple) else []):
        assert one(spec, nothing).size == 0


REFUSED: list[tuple[Any, Any, str]] = [
    ("u1", [256], "256"),
    ("u1", [-1], "-1"),
    ("i1", np.array([-129]), "-129"),
    ("u8", [-1], "-1"),
    ("u8", [2**64], "18446744073709551616"),
    ("i8", np.array([2**63], "u8"), "9223372036854775808"),
    ("i8", [2**63], "9223372036854775808"),
    ("i8", [-(2**63) - 1, 2**63], "outside"),
    ("i8", [1.0], "floats"),
    ("i8", np.array([1.5]), "astype"),
    ("i8", ["1"], "text"),
    ("i8", [None, 1], "1 rows have no value, the first of them row 0"),
    ("i8", [[1, 2]], "shape"),
    ("i8", 3, "found one int"),
    ("i8", [[1], [2, 3]], "array"),
    ("i8", [1, "2"], "text"),
    ("i8", np.ma.masked_array([1, 2], mask=[False, True]), "the first of them row 1"),
    ("?", [0, 1], "integers"),
    ("f8", [2**53 + 1], "9007199254740993"),
    ("f8", np.array([2**64 - 1], "u8"), "18446744073709551615"),
    ("f4", np.array([2**24 + 1]), "16777217"),
    ("f4", np.array([-(2**24) - 1]), "-16777217"),
    ("f2", np.array([65536]), "65536"),
    ("f2", np.array([2049]), "2049"),
    ("f8", ["1.5"], "text"),
    ("f8", [1j], "complex"),
    ("f4", np.array([0.1]), "0.1"),
    ("f4", np.array([1e300]), "1e+300"),
    ("f4", [1e300], "1e+300"),
    ("c8", np.array([1e300j]), "1e+300"),
    ("c8", np.array([2**24 + 1]), "16777217"),
    ("c8", np.array([complex(math.nan, 0.1)]), "nan"),
    ("M8[D]", np.array(["2020-01-01T01"], "M8[h]"), "2020-01-01T01"),
    ("M8[ns]", np.array(["9999-01-01"], "M8[D]"), "9999"),
    ("M8[s]", [datetime.datetime(2020, 1, 1, microsecond=1)], "2020"),
    ("M8[ns]", [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)], "zone"),
    ("M8[ns]", [1, 2], "integers"),
    ("M8[ns]", ["2020-01-01"], "text"),
    ("M8[ns]", np.array([1], "m8[ns]"), "timedeltas"),
    ("m8[D]", np.array([1], "m8[M]"), ""),
    ("m8[ns]", [1], "integers"),
    ("S3", [b"abcd"], "width is 3"),
    ("S3", ["abc"], "text"),
    ("S3", [1], "integers"),
    ("S3", np.array([1]), "integers"),
    ("U3", ["abcd"], "'abcd'"),
    ("U3", np.array(["abcd", "e"]), "make it wider"),
    ("U3", [b"abc"], "bytes"),
    ("U3", [1, "a"], "int, str"),
    ("U3", [None], "no value"),
    ("U3", np.array([1.5]), "floats"),
    ("V3", [b"ab"], "exactly 3"),
    ("V3", np.array([b"ab"], "V2"), "width"),
    ("V3", np.array([b"abc"], "S3"), "bytes"),
    ("V8", np.array([(1, 2)], "i4,i4"), "width"),
    (("f4", 2), [1.0, 2.0], "(n, 2)"),
    (("f4", 2), np.zeros((3, 3)), "(n, 2)"),
    (("f4", 2), np.zeros((0, 3)), "(n, 2)"),
    (("f4", 2), [[1.0, 2.0], [3.0]], "array"),
    ("i8", ..., ""),
    ("i8", {"a": 1}, ""),
]


@pytest.mark.parametrize(("spec", "values", "match"), REFUSED, ids=lambda value: repr(value)[:40])
def test_values_that_would_change_are_refused(spec: Any, values: Any, match: str) -> None:
    refused(spec, values, match)


def test_bytes_may_be_bytearrays() -> None:
    assert one("S3", [bytearray(b"abc")]).tolist() == [b"abc"]
    assert bytes(one("V3", [bytearray(b"abc")])[0]) == b"abc"


def test_times_of_pandas_keep_their_nanoseconds() -> None:
    stamp, delta = pd.Timestamp("2020-01-01T00:00:00.000000001"), pd.Timedelta(1, "ns")
    assert one("M8[ns]", [stamp, pd.NaT])[0] == np.datetime64("2020-01-01T00:00:00.000000001")
    assert one("m8[ns]", [delta])[0] == np.timedelta64(1, "ns")
    refused("M8[us]", [stamp], "would change")
    refused("m8[us]", np.array([delta], object), "would change")


def test_literal_floats_are_rounded_to_the_column() -> None:
    assert one("f4", [0.1])[0] == np.float32(0.1)
    assert one("f2", [0.1, math.nan, -math.inf])[0] == np.float16(0.1)


def test_arrays_that_fit_are_not_copied() -> None:
    values = np.arange(5.0)
    assert one("f8", values) is values or np.shares_memory(one("f8", values), values)
    assert not np.shares_memory(one("f8", values[::-1]), values)


SCHEMA = Schema.of({"a": "i8", "b": ("f4", 2), "c": "U3"})
DATA = {"a": [1, 2], "b": [[1, 2], [3, 4]], "c": ["x", "yz"]}


def test_all_columns_and_no_others() -> None:
    assert converted(SCHEMA, DATA)[0] == 2
    assert converted(SCHEMA, dict(reversed(DATA.items())))[0] == 2
    with pytest.raises(SchemaError, match="missing: 'a', 'c'"):
        converted(SCHEMA, {"b": [[1, 2]]})
    with pytest.raises(SchemaError, match="unknown: 'd'"):
        converted(SCHEMA, DATA | {"d": [1, 2]})
    with pytest.raises(SchemaError, match=r"'c' has 1 rows, 'a' has 2"):
        converted(SCHEMA, DATA | {"c": ["x"]})


def test_structured_arrays() -> None:
    data = np.array([("x", 1, [1, 2]), ("yz", 2, [3, 4])], [("c", "U8"), ("a", "u2"), ("b", "f8", 2)])
    n, arrays = converted(SCHEMA, data)
    assert n == 2 and arrays[0].tolist() == [1, 2] and arrays[2].tolist() == ["x", "yz"]
    assert converted(SCHEMA, data.view(np.recarray))[0] == 2
    with pytest.raises(SchemaError, match="one-dimensional"):
        converted(SCHEMA, data.reshape(2, 1))
    with pytest.raises(SchemaError, match="missing: 'b'"):
        converted(SCHEMA, data[["a", "c"]])


@pytest.mark.parametrize(
    "data", [pd.DataFrame({"a": [1]}), pa.table({"a": [1]}), pa.record_batch({"a": pa.array([1])})], ids=type
)
def test_arrow_data_is_taken_as_it_is(data: Any) -> None:
    schema = Schema.of({"a": "i8"})
    n, (values,) = converted(schema, data)
    assert n == 1 and values.dtype == np.dtype("i8") and values.tolist() == [1]
    names = getattr(data, "columns", None) if isinstance(data, pd.DataFrame) else data.schema.names
    assert converted(schema, {name: data[name].to_numpy() for name in names})[0] == 1  # type: ignore[union-attr]
    with pytest.raises(SchemaError, match="'b'"):
        converted(Schema.of({"b": "i8"}), data)


@pytest.mark.parametrize("data", [None, 3, [1, 2], np.arange(3), "abc", [(1, 2)]])
def test_what_has_no_columns_is_refused(data: Any) -> None:
    with pytest.raises(SchemaError, match="dict of arrays"):
        converted(SCHEMA, data)


def test_the_log_has_the_columns_bytes_one_after_the_other() -> None:
    (found,) = convert.batches(SCHEMA, DATA)
    arrays = [parts["values"] for parts in found.columns]
    payload = b"".join(batch.encode(SCHEMA.columns, found))
    sizes = np.array([array.nbytes for array in arrays], "<u8").tobytes()
    assert payload == sizes + b"".join(array.tobytes() for array in arrays)
    assert len(payload) == len(sizes) + found.rows * SCHEMA.row_size
    again = batch.decode(SCHEMA.columns, found.rows, payload)
    assert [parts["values"].tolist() for parts in again.columns] == [array.tolist() for array in arrays]
    nothing = batch.decode(SCHEMA.columns, 0, bytes(len(sizes)))
    assert [parts["values"].shape for parts in nothing.columns] == [(0,), (0, 2), (0,)]
    for wrong in (payload[:-1], payload + b"x", b""):
        with pytest.raises(CorruptError):
            batch.decode(SCHEMA.columns, found.rows, wrong)


@pytest.mark.parametrize("spec", ["?", "f2", "c8", "M8[ns]", "m8[s]", "S3", "U2", "V5", ("M8[D]", 3)], ids=str)
def test_raw_bytes_of_every_type(spec: Any) -> None:
    column = Schema.of({"x": spec})["x"]
    data = np.zeros((4, *column.shape), column.dtype)
    assert bytes(batch.raw(data)) == data.tobytes() and len(batch.raw(data[:0])) == 0


def objects(rows: list[Any]) -> Any:
    found = np.empty(len(rows), object)
    found[:] = rows
    return found


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [], [3]],
        [(1,), [2, 3], ()],
        [np.array([1, 2]), np.array([]), np.array([3])],
        objects([np.array([1], "u1"), np.array([2, 3], "u1"), np.zeros(0, "f8")]),
        [[], []],
        [np.zeros(0), ()],
    ],
    ids=str,
)
def test_lists_are_made_at_once(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not row by row, which takes five to ten times as long."""
    asked: list[int] = []
    true = values.fixed_rows.fixed

    def counted(column: Column, given: Any) -> Any:
        asked.append(len(given))
        return true(column, given)

    monkeypatch.setattr(values.fixed_rows, "fixed", counted)
    n, parts = convert.column_parts(Schema.of({"x": "list(i4)"})["x"], rows)
    ends = parts["offsets"].tolist()
    assert [parts["values"][a:b].tolist() for a, b in zip(ends[:-1], ends[1:], strict=True)] == [list(r) for r in rows]
    assert n == len(rows) and parts["values"].dtype == "i4" and asked == [sum(map(len, rows))]


def test_lists_of_different_sorts() -> None:
    """What fits row by row is taken, however one row differs from another; what doesn't is named."""
    column = Schema.of({"x": "list(M8[s])"})["x"]
    day, second = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3)
    _, parts = convert.column_parts(column, [[day], [second, second], np.array([5], "M8[s]"), np.array([1], "M8[m]")])
    assert parts["offsets"].tolist() == [0, 1, 3, 4, 5]
    early = np.array([5, 60], "M8[s]").tolist()
    assert parts["values"].tolist() == [datetime.datetime(2024, 1, 2), second, second, *early]
    numbers = Schema.of({"x": "list(i2)"})["x"]
    for wrong, said in (
        ([[1], [1 << 15]], "32768"),
        ([[1], ["a"]], "found"),
        ([[1], [None]], "None"),
        ([[1], "ab"], "found 'ab'; expected a list"),
        ([[1], 7], "found 7; expected a list"),
        ([np.zeros(1, "i2"), np.zeros((1, 1), "i2")], "shape"),
        ([np.zeros(1, "i2"), np.zeros(1, "f2")], "floats"),
    ):
        with pytest.raises(SchemaError, match=said):
            convert.column_parts(numbers, wrong)
