"""Every type that a column can have, through a table: offered in every form, read back in every way, or refused.

A `Case` is a type with values in Python's, numpy's and Arrow's words; the tests below go through all of them.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import mmstore
from mmstore.columns.view import ColumnView
from mmstore.database.database import Database
from mmstore.database.table import Table
from mmstore.errors import SchemaError

UTC = datetime.UTC
D = decimal.Decimal


@dataclass(frozen=True)
class Case:
    """A type, and four values of it."""

    spec: Any
    values: list[Any]
    """As Python has them; `tolist` gives equal ones."""
    array: Any = None
    """As numpy has them, where it does."""
    arrow: Any = None
    """The Arrow type of a column, and of an array that is offered."""

    @property
    def id(self) -> str:
        return str(self.spec).replace("'", "")


def _numbers() -> Iterator[Case]:
    for code in "i1 i2 i4 i8 u1 u2 u4 u8".split():
        info = np.iinfo(code)
        values = [0, 7, int(info.min), int(info.max)]
        yield Case(code, values, np.array(values, code), pa.from_numpy_dtype(np.dtype(code)))
    for code in ("f2", "f4", "f8"):
        values = [0.0, 1.5, -2.25, float("inf")]
        yield Case(code, values, np.array(values, code), pa.from_numpy_dtype(np.dtype(code)))
    for code in ("c8", "c16"):
        values = [0j, 1 + 2j, -1.5j, complex(3)]
        half = pa.float32() if code == "c8" else pa.float64()
        yield Case(code, values, np.array(values, code), pa.list_(pa.field("item", half), 2))


def _times() -> Iterator[Case]:
    days = [np.datetime64(day) for day in ("1970-01-01", "2024-02-29", "1905-06-01", "2200-01-01")]
    for unit in ("s", "ms", "us", "ns"):
        array = np.array(days, f"M8[{unit}]")
        yield Case(f"datetime64[{unit}]", list(array), array, pa.timestamp(unit))
        spans = np.array([0, 5, -7, 10**6], f"m8[{unit}]")
        yield Case(f"timedelta64[{unit}]", list(spans), spans, pa.duration(unit))
        aware = [t.astype("M8[us]").item().replace(tzinfo=UTC) for t in array]
        yield Case(f"timestamp[{unit}, Europe/Berlin]", list(array), array, pa.timestamp(unit, "Europe/Berlin"))
        yield Case(f"timestamp[{unit}, UTC]", list(array), aware, pa.timestamp(unit, "UTC"))
    yield Case("M8[D]", list(np.array(days, "M8[D]")), np.array(days, "M8[D]"), pa.date32())
    for code in ("M8[M]", "M8[h]", "m8[D]", "M8[25s]"):
        array = np.array([0, 1, -5, 600], code)
        yield Case(code, list(array), array)
    dates = [day.item() for day in days]
    yield Case("date32", list(np.array(days, "M8[D]")), dates, pa.date32())
    yield Case("date64", list(np.array(days, "M8[ms]")), np.array(days, "M8[D]"), pa.date64())
    hours = [datetime.time(0), datetime.time(1, 2, 3), datetime.time(23, 59, 59), datetime.time(12)]
    seconds = [datetime.timedelta(hours=t.hour, minutes=t.minute, seconds=t.second) for t in hours]
    for name, type_, unit in (
        ("time32[s]", pa.time32("s"), "s"),
        ("time32[ms]", pa.time32("ms"), "ms"),
        ("time64[us]", pa.time64("us"), "us"),
        ("time64[ns]", pa.time64("ns"), "ns"),
    ):
        yield Case(name, list(np.array(seconds, f"m8[{unit}]")), hours, type_)


def _others() -> Iterator[Case]:
    yield Case("?", [True, False, True, True], np.array([True, False, True, True]), pa.bool_())
    text = ["", "a", "müßig 😀", "x" * 300]
    yield Case("utf8", text, np.array(text), pa.large_string())
    yield Case("utf8", text, np.array(text, np.dtypes.StringDType()), pa.string_view())
    yield Case("category", ["b", "a", "", "b"], np.array(["b", "a", "", "b"]), pa.dictionary(pa.int32(), pa.string()))
    raw = [b"", b"\0", b"ab\0", b"\xff" * 300]
    yield Case("binary", raw, np.array(raw, object), pa.large_binary())
    yield Case("S4", [b"", b"a", b"abcd", b"\xff"], np.array([b"", b"a", b"abcd", b"\xff"], "S4"))
    yield Case("U3", ["", "ä", "abc", "😀"], np.array(["", "ä", "abc", "😀"], "U3"))
    yield Case(
        "V2", [b"\0\0", b"ab", b"\0c", b"\xff\0"], np.array([b"\0\0", b"ab", b"\0c", b"\xff\0"], "V2"), pa.binary(2)
    )
    money = [D("0.00"), D("1.25"), D("-99999.99"), D("7.10")]
    for bits in (32, 64, 128):
        yield Case(f"decimal{bits}(7,2)", money, np.array(money, object), getattr(pa, f"decimal{bits}")(7, 2))
    huge = [D(10**38 - 1), D(-(10**38) + 1), D(0), D(2**64)]
    yield Case("decimal128(38,0)", huge, huge, pa.decimal128(38, 0))
    yield Case("decimal128(5,-2)", [D(100), D(-300), D(0), D(9999900)], None, pa.decimal128(5, -2))
    block = np.arange(24, dtype="f4").reshape(4, 3, 2)
    yield Case(("f4", (3, 2)), list(block), block)
    yield Case(("f4", 2), list(block[:, 0]), block[:, 0], pa.list_(pa.field("item", pa.float32()), 2))
    yield Case(("?", 2), list(block[:, 0] > 8), block[:, 0] > 8, pa.list_(pa.field("item", pa.bool_()), 2))
    yield Case(("M8[us]", 2), list(block[:, 0].astype("M8[us]")), block[:, 0].astype("M8[us]"))
    yield Case(("S3", 2), list(block[:, 0].astype("S3")), block[:, 0].astype("S3"))
    yield Case(("c8", 2), list(block[:, 0].astype("c8")), block[:, 0].astype("c8"))
    yield Case(("U2", 2), list(block[:, 0].astype("i4").astype("U2")), block[:, 0].astype("i4").astype("U2"))
    pairs = [[D("1.5"), D("2.5")], [D(0), D(1)], [D(-1), D("-0.5")], [D(3), D(4)]]
    yield Case(("decimal64(3,1)", 2), pairs, np.array(pairs, object))
    lists = [[], [1.0], [2.0, -3.5], [0.0] * 50]
    yield Case("list(f8)", lists, None, pa.large_list(pa.float64()))
    yield Case("list(i2)", [[], [1], [2, -3], [0] * 50], None, pa.large_list(pa.int16()))
    yield Case("list(date32)", [[], days := [datetime.date(2024, 2, 29)], days * 2, days], None, pa.list_(pa.date32()))
    yield Case(
        "list(decimal128(5,1))", [[], [D("1.5")], [D(2), D("-3.5")], [D(0)]], None, pa.list_(pa.decimal128(5, 1))
    )


CASES = [*_numbers(), *_times(), *_others()]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def plain(value: Any) -> Any:
    """A value without numpy's types, so that it compares."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value]
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.datetime64 | np.timedelta64):
        return value
    return value.item() if isinstance(value, np.generic) else value


def same(found: Any, expected: list[Any]) -> None:
    """The column `found`, however it is shown, has these values."""
    assert len(found) == len(expected)
    shown = found.tolist() if isinstance(found, ColumnView) else list(found)
    assert [plain(value) for value in shown] == [plain(value) for value in expected]


@pytest.fixture(scope="module")
def store() -> Iterator[Database]:
    with mmstore.open(":memory:") as db:
        yield db
        assert db.check() == []


@pytest.fixture
def make(store: Database) -> Iterator[Any]:
    """Makes a table of columns; gone with the test, found whole before."""

    def made(schema: Any, key: Any = None) -> Table:
        name = f"t{len(store.tables())}"
        return store.create_table(name, schema, key)

    yield made
    for name in store.tables():
        store.drop(name)


# --- offered in every form -----------------------------------------------------------------------------


def forms(case: Case) -> Iterator[Any]:
    """The values of a case in whatever a user may have them in."""
    objects = np.empty(len(case.values), object)
    given = list(case.array) if case.array is not None else case.values
    objects[:] = given
    yield given
    yield tuple(given)
    yield case.values
    yield objects
    if isinstance(case.array, np.ndarray):
        yield case.array
        yield np.ma.MaskedArray(case.array)
        yield case.array[::-1][::-1]
        if case.array.ndim == 1 and case.spec != "M8[25s]":
            yield pd.Series(case.array)
    if case.spec != "M8[25s]":  # which pandas doesn't know
        yield pd.Series(objects)
        yield pd.Series(given, dtype=object)
    if case.arrow is not None:
        array = arrow_array(case)
        yield array
        yield pa.chunked_array([array[:1], array[1:]])
        yield pa.chunked_array([array[:0]] + [array[i : i + 1] for i in range(4)])


def arrow_array(case: Case, gone: list[int] | None = None) -> Any:
    """The values of a case as an Arrow array of its Arrow type, some of them missing."""
    gone = gone or []
    mask = np.isin(np.arange(4), gone)
    if isinstance(case.values[0], np.datetime64 | np.timedelta64):
        whole = np.array(case.values)
        if pa.types.is_time(case.arrow) or pa.types.is_date32(case.arrow):
            return pa.array(whole.astype(f"i{case.arrow.bit_width // 8}"), mask=mask).view(case.arrow)
        return pa.array(whole.astype("i8"), mask=mask).view(case.arrow)
    values = [None if i in gone else plain(value) for i, value in enumerate(case.values)]
    if isinstance(case.values[0], complex):
        values = [None if value is None else [value.real, value.imag] for value in values]
    return pa.array(values, case.arrow)


@cases
@pytest.mark.parametrize("nullable", [False, True], ids=["", "nullable"])
def test_every_form(make: Any, case: Case, nullable: bool) -> None:
    spec = mmstore.nullable(case.spec) if nullable else case.spec
    for form in forms(case):
        table = make({"n": "u1", "x": spec})
        try:
            assert table.append({"n": [1, 2, 3, 4], "x": form}) == range(4)
        except Exception as error:
            error.add_note(f"offered as {type(form).__name__}: {form!r}")
            raise
        same(table["x"], case.values)


# --- missing rows --------------------------------------------------------------------------------------


def gaps(case: Case) -> Iterator[Any]:
    """The values of a case with the second and the last missing."""
    listed = list(case.array) if case.array is not None else list(case.values)
    yield [listed[0], None, listed[2], None]
    yield (listed[0], None, listed[2], pd.NA)
    objects = np.empty(4, object)
    objects[:] = [listed[0], None, listed[2], None]
    yield objects
    if isinstance(case.array, np.ndarray):
        mask = np.zeros(case.array.shape, bool)
        mask[[1, 3]] = True
        yield np.ma.MaskedArray(case.array, mask)
        if case.array.dtype.kind in "biuf" and case.array.ndim == 1 and case.spec != "f2":
            yield pd.Series(case.array).astype(f"{case.array.dtype.name.capitalize().replace('Ui', 'UI')}".replace(
                "Bool", "boolean")).mask(mask)  # fmt: skip
            yield pl.Series(case.array.tolist()).scatter([1, 3], None)
        if case.array.dtype.kind == "T":
            for nothing in (None, np.nan):
                texts = case.array.astype(object)
                texts[[1, 3]] = nothing
                yield np.array(texts, np.dtypes.StringDType(na_object=nothing))
    if case.spec != "M8[25s]":
        yield pd.Series(objects)
    if case.spec in ("utf8", "category"):
        yield pd.Series(objects, dtype="str")
        yield pd.Series(objects, dtype="category")
        yield pl.Series(objects.tolist())
    if case.arrow is not None:
        array = arrow_array(case, [1, 3])
        yield array
        yield pa.chunked_array([array[:1], array[1:]])
        if not pa.types.is_fixed_size_list(case.arrow):
            yield pd.Series(array, dtype=pd.ArrowDtype(array.type))


@cases
def test_missing_rows(make: Any, case: Case) -> None:
    expected = [case.values[0], None, case.values[2], None]
    for form in gaps(case):
        table = make({"x": mmstore.nullable(case.spec), "n": "i8"})
        strict = make({"n": "i8", "x": case.spec})
        try:
            table.append({"n": range(4), "x": form})
            found = table["x"]
            assert isinstance(found, ColumnView) and found.null_count == 2
            same(found, expected)
            assert np.unpackbits(found.validity, bitorder="little")[:4].tolist() == [1, 0, 1, 0]
            assert found.is_valid.tolist() == [True, False, True, False]
            for i in range(-4, 4):
                same([table[i]["x"], found[i]], [expected[i]] * 2)
            same(found[1:], expected[1:])
            same(found[1:][1:], expected[2:])
            same(table[1:4]["x"], expected[1:])
            same(table.take([3, 0, 0, -2])["x"], [None, *[case.values[0]] * 2, case.values[2]])
            same(found[np.array([False, True, True, False])], expected[1:3])
            assert np.ma.getmaskarray(found.to_masked()).reshape(4, -1)[:, 0].tolist() == [False, True, False, True]
            same(list(found), expected)
            if getattr(getattr(form, "dtype", None), "kind", "") in "mM" and isinstance(form, pd.Series):
                continue  # NaT
            with pytest.raises(SchemaError, match="column 'x'.*(no value|null)"):
                strict.append({"n": range(4), "x": form})
            assert len(strict) == 0
        except Exception as error:
            error.add_note(f"offered as {type(form).__name__}: {form!r}")
            raise


@cases
def test_reading(make: Any, case: Case) -> None:
    """What each way of reading shows: appends in pieces, a column, slices, rows, Arrow and back."""
    if case.array is None and case.arrow is None:
        return
    given = case.array if case.array is not None else case.values
    table = make({"x": case.spec, "y": mmstore.nullable(case.spec)})
    for at in range(4):
        table.append({"x": given[at : at + 1], "y": given[at : at + 1]})
    table.append({"x": given[:0], "y": []})
    kind = table.schema["x"].kind
    found = table["x"]
    assert isinstance(found, np.ndarray) == kind.plain
    if kind.plain:
        assert found.flags.c_contiguous and not found.flags.writeable and found.ctypes.data % 64 == 0
        assert found.shape == (4, *kind.shape) and found.dtype == kind.dtype
    same(found, case.values)
    same(table["y"], case.values)
    assert table["y"].validity is None and table["y"].null_count == 0
    same(table["y"].to_numpy().tolist() if kind.text else table["y"].to_numpy(), case.values)
    same(np.asarray(table["y"]).tolist() if kind.text else np.asarray(table["y"]), case.values)
    for some in (slice(1, 3), slice(0, 0), slice(3, None), slice(None, None, -2)):
        same(table[some]["x"], case.values[some])
        same(table[some].view("x"), case.values[some])
    for at in range(-4, 4):
        same([table[at]["x"], table[at]["y"]], [case.values[at]] * 2)
    same(table.take([2, 0, 2], ["y"])["y"], [case.values[at] for at in (2, 0, 2)])
    same(table[[True, False, False, True]]["x"], [case.values[0], case.values[3]])
    for rows in table.scan(batch_rows=3):
        same(rows["x"], case.values[rows.numbers.start : rows.numbers.stop])
    assert repr(table["y"]).startswith("<mmstore column 'y': 4 x nullable(")
    rows = table[1:3].tolist()
    same([row["x"] for row in rows], case.values[1:3])


@cases
def test_arrow_and_back(make: Any, case: Case) -> None:
    if case.array is None and case.arrow is None:
        return
    given = list(case.array if case.array is not None else case.values)
    table = make({"x": case.spec, "y": mmstore.nullable(case.spec)})
    table.append({"x": given * 3, "y": [None, *given[1:]] * 3})
    arrow = table.to_arrow()
    arrow.validate(full=True)
    if case.arrow is not None and not pa.types.is_dictionary(case.arrow):
        large = {"list": pa.large_list, "string_view": pa.large_string}
        expected = case.arrow
        if pa.types.is_list(expected):
            expected = pa.large_list(expected.value_type)
        elif pa.types.is_string_view(expected):
            expected = large["string_view"]()
        assert arrow.schema.field("x").type.equals(expected) and not arrow.schema.field("x").nullable
        assert arrow.schema.field("y").nullable
        once = arrow_array(case).cast(expected)
        assert arrow["x"].combine_chunks().equals(pa.concat_arrays([once] * 3))
    twin = make(arrow.schema)
    assert twin.schema.columns == table.schema.columns
    for data in (
        arrow,
        arrow.to_batches()[0],
        pa.RecordBatchReader.from_batches(arrow.schema, arrow.to_batches()),
        table,
    ):
        twin.append(data)
    twin.append(table[2:7])
    expected_x, expected_y = case.values * 3, [None, *case.values[1:]] * 3
    same(twin["x"], expected_x * 4 + expected_x[2:7])
    same(twin["y"], expected_y * 4 + expected_y[2:7])
    assert twin.to_arrow(["y"])[:12].equals(table.to_arrow(["y"])[:12])
