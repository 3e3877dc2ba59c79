"""Every type that a column can have, through a table: offered in every form, read back in every way, or refused.

A `Case` is a type with values in Python's, numpy's and Arrow's words; the tests below go through all of them.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import nanoarrow as na
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import mmstore
from mmstore.database.database import Database
from mmstore.database.table import Table
from mmstore.errors import SchemaError
from mmstore.exchange.times import has_nat
from mmstore.exchange.view import ColumnView

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
        assert arrow.schema.field("x").type.equals(expected)
        assert arrow.schema.field("x").nullable == (has_nat(kind := table.schema["x"].kind) and not kind.shape)
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


# --- whole tables in every form ------------------------------------------------------------------------

FRAME = {"i": "i8", "f": "f4", "s": "utf8", "b": "?", "t": "datetime64[us]"}
COLUMNS: dict[str, Any] = {
    "i": np.arange(5) - 2,
    "f": np.arange(5).astype("f4") / 2,
    "s": [f"text {i}" for i in range(5)],
    "b": np.arange(5) % 2 == 0,
    "t": np.arange(5).astype("M8[us]"),
}


def whole_tables() -> Iterator[Any]:
    frame = pd.DataFrame(COLUMNS)
    arrow = pa.table(COLUMNS)
    yield COLUMNS
    yield {name: COLUMNS[name] for name in reversed(COLUMNS)}
    yield np.array(
        list(zip(*COLUMNS.values(), strict=True)),
        [
            ("i", "i8"), ("f", "f4"), ("s", "U6"), ("b", "?"), ("t", "M8[us]")],
    )  # fmt: skip
    yield frame
    yield frame.set_index(np.array(["a", "b", "c", "d", "e"]))
    yield frame.convert_dtypes().astype({"f": "float32"})
    yield arrow
    yield arrow.select(["t", "b", "s", "f", "i"])
    yield pa.concat_tables([arrow[:2], arrow[2:2], arrow[2:]])
    yield arrow.to_batches()[0]
    yield arrow.to_reader(max_chunksize=2)
    yield pl.DataFrame(arrow)
    yield duckdb.sql("select * from arrow")
    yield duckdb.sql("select * from arrow").arrow()
    yield na.ArrayStream(arrow)
    yield na.c_array_stream(arrow)


def test_whole_tables(make: Any) -> None:
    table = make(FRAME)
    n = 0
    for n, data in enumerate(whole_tables(), 1):
        assert table.append(data) == range(5 * (n - 1), 5 * n), type(data)
    for name, values in COLUMNS.items():
        found = table[name].tolist()
        assert found == (values if name == "s" else values.tolist()) * n
    assert table.to_pandas()[:5].equals(pd.DataFrame(COLUMNS)[list(FRAME)])
    assert table.to_polars()["s"].to_list() == COLUMNS["s"] * n


def test_a_schema_in_every_form(make: Any) -> None:
    arrow = pa.schema([("i", pa.int64()), pa.field("s", pa.string(), False), ("e", pa.list_(pa.float32(), 3))])
    data = {"i": [1], "s": ["x"], "e": [[1.0, 2, 3]]}
    polars = pl.DataFrame(data, schema_overrides={"e": pl.Array(pl.Float32, 3)}).to_arrow().schema
    for spec, text in ((arrow, "utf8"), (polars, "nullable(utf8)")):
        table = make(spec)
        assert [str(column) for column in table.schema] == ["nullable(int64)", text, "nullable(float32[3])"]
        table.append(data)
        table.append(pa.table(data, arrow))
    fields = {
        "a": pa.int32(),
        "b": pa.field("ignored", pa.string()),
        "c": pa.timestamp("us", "UTC"),
        "d": str,
        "e": bytes,
    }
    found = make(fields).schema
    assert [str(column) for column in found] == ["int32", "nullable(utf8)", "timestamp[us, UTC]", "utf8", "binary"]
    assert make(found).schema is not None and make(np.dtype([("a", "i4"), ("b", "f4", 2)])).schema["b"].shape == (2,)


# --- what is refused -----------------------------------------------------------------------------------

REFUSED: list[tuple[Any, Any, str]] = [
    ("utf8", "abc", "one str"),
    ("utf8", [b"bytes"], "bytes"),
    ("utf8", [1, 2], "int"),
    ("utf8", ["a", 1.5], "float"),
    ("utf8", ["a", "\ud800"], "UTF-8"),
    ("utf8", np.array([1, 2]), "int64"),
    ("utf8", {"a": 1}, "one dict"),
    ("utf8", {"a", "b"}, "one set"),
    ("utf8", 5, "one int"),
    ("utf8", pa.array([b"x"]), "bytes"),
    ("utf8", pa.array([1]), "int64"),
    ("binary", ["text"], "str"),
    ("binary", b"abc", "one bytes"),
    ("category", [1], "int"),
    ("category", [["a"]], "list"),
    ("i8", [1.0], "floats"),
    ("i8", [1, 2.5], "float"),
    ("i8", ["1"], "text"),
    ("i8", "123", "one str"),
    ("i8", [2**63], "outside"),
    ("u1", [True, 256], "outside"),
    ("i8", [[1, 2], [3]], ""),
    ("i8", [None, 1], "no value"),
    ("i8", [pd.NA], "no value"),
    ("i8", pd.Series([1, None], dtype="Int64"), "no value"),
    ("i8", pa.array([1, None]), "null"),
    ("i8", pa.array([1.0]), "floats"),
    ("i8", pa.array(["1"]), "text"),
    ("i8", 7, "one int"),
    ("?", [1, 0], "integers"),
    ("?", np.array([1.0]), "floats"),
    ("f4", np.array([0.1]), "would change"),
    ("f8", ["nan"], "text"),
    ("f8", [True, "x"], ""),
    ("M8[s]", [1, 2], "integers"),
    ("M8[s]", ["2020-01-01"], "text"),
    ("M8[s]", np.array(["2020-01-01T00:00:00.5"], "M8[ms]"), "would change"),
    ("M8[us]", [datetime.datetime(2020, 1, 1, tzinfo=UTC)], "time zone"),
    ("M8[us]", pa.array([0], pa.timestamp("us", "UTC")), "with a time zone"),
    ("timestamp[us, UTC]", pa.array([0], pa.timestamp("us")), "without a time zone"),
    ("date32", [datetime.datetime(2020, 1, 1, 12)], "would change"),
    ("date32", ["2020-01-01"], "text"),
    ("date64", np.array(["2020-01-01T12"], "M8[ms]"), "midnight"),
    ("time32[s]", [datetime.time(1, 2, 3, 500000)], "would change"),
    ("time64[us]", [datetime.timedelta(days=1)], "time of a day"),
    ("time64[us]", [datetime.timedelta(microseconds=-1)], "time of a day"),
    ("time32[s]", [datetime.time(1, tzinfo=UTC)], "time zone"),
    ("decimal128(5,2)", [D("1.234")], "5 digits"),
    ("decimal128(5,2)", [1000], "5 digits"),
    ("decimal128(5,2)", [1.5], "decimal.Decimal"),
    ("decimal128(5,2)", [D("NaN")], "5 digits"),
    ("decimal128(5,2)", [True], "True"),
    ("decimal128(5,2)", ["1.5"], "1.5"),
    ("decimal128(5,2)", pa.array([D("1.234")]), "5 digits"),
    ("list(i4)", [1, 2], "a list or an array"),
    ("list(i4)", ["ab"], "a list or an array"),
    ("list(i4)", [[1], None], "no value"),
    ("list(i4)", [[1, None]], "None"),
    ("list(i4)", [[1.5]], "floats"),
    ("list(i4)", pa.array([[1, None]]), "null"),
    ("list(i4)", pa.array([["x"]]), "text"),
    ("S3", ["text"], "text"),
    ("S3", [b"four"], "length 4"),
    ("U3", ["four"], "length 4"),
    ("V3", [b"four"], "4 bytes"),
    (("f4", 3), [[1, 2]], "shape"),
    (("f4", 3), [1, 2, 3], "shape"),
    (("f4", 3), [[1, 2, 3], [1, 2]], ""),
    (("f4", 3), pa.array([[1.0, None, 3.0]], pa.list_(pa.float32(), 3)), "null elements"),
    (mmstore.nullable(("f4", 2)), np.ma.MaskedArray(np.zeros((2, 2), "f4"), [[1, 1], [0, 1]]), "in part"),
]


@pytest.mark.parametrize(("spec", "values", "message"), REFUSED, ids=[f"{r[0]} {i}" for i, r in enumerate(REFUSED)])
def test_what_does_not_fit(make: Any, spec: Any, values: Any, message: str) -> None:
    table = make({"x": spec})
    with pytest.raises(SchemaError, match="(?s)(column 'x'|list of a fixed size).*" + message.replace("(", r"\(")):
        table.append({"x": values})
    assert len(table) == 0


def test_tables_that_do_not_fit(store: Database, make: Any) -> None:
    table = make({"a": "i8", "b": "utf8"})
    good = {"a": [1, 2], "b": ["x", "y"]}
    table.append(good)
    txn = store.txn_id
    pieces = pa.Table.from_batches(
        [pa.record_batch({"a": [1], "b": ["x"]}), pa.record_batch({"a": pa.array([None], pa.int64()), "b": ["y"]})]
    )
    refused: list[tuple[Any, str]] = [
        ({"a": [1, 2]}, "missing: 'b'"),
        ({}, "missing: 'a', 'b'"),
        ({**good, "c": [1, 2], "d": []}, "unknown: 'c', 'd'"),
        ({**good, 3: [1, 2]}, "unknown: 3"),
        ({**good, "b": ["x"]}, "column 'b' has 1 rows, 'a' has 2"),
        (np.zeros(3), "expected a dict of arrays"),
        (np.zeros((2, 2), [("a", "i8"), ("b", "U3")]), "one-dimensional"),
        ([{"a": 1, "b": "x"}], "found list"),
        (None, "found NoneType"),
        ("text", "found str"),
        (pd.DataFrame({"a": [1, 2], "c": ["x", "y"]}), "missing: 'b'"),
        (pd.DataFrame({"a": [1.5, 2], "b": ["x", "y"]}), "column 'a'"),
        (pd.DataFrame({"a": [1, 2], "b": ["x", None]}), "column 'b'.*null"),
        (pa.table({"a": [1], "b": ["x"], "c": [1]}), "unknown: 'c'"),
        (pa.table([[1], ["x"], ["y"]], ["a", "b", "b"]), "same name"),
        (pa.array([1, 2]), "named columns"),
        (pieces, "column 'a'.*null"),
        (pl.DataFrame({"a": [1, None], "b": ["x", "y"]}), "column 'a'.*null"),
        (duckdb.sql("select 1 as a, 2 as b"), "column 'b'"),
    ]  # fmt: skip
    for data, message in refused:
        with pytest.raises(SchemaError, match=message):
            table.append(data)
        with pytest.raises(SchemaError, match=message), store.transaction() as t:
            t.table(table.name).append(data)
    with pytest.raises(ValueError, match="on_conflict"):
        table.append(good, on_conflict="update")
    assert len(table) == 2 and store.txn_id == txn


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("object", "utf8"), ("float128", "f8"), (pa.struct([("a", pa.int8())]), "a column for each"),
        (pa.null(), "nullable"), (pa.decimal256(50, 2), "decimal128"), (pa.list_(pa.string()), "list of"),
        (pa.map_(pa.string(), pa.int8()), "two list columns"), ("decimal128(40,2)", "decimal128"), ("nonsense", "utf8"),
        ("list(utf8)", "list of numbers"), (("utf8", 3), "no fixed width"), ("M8", "ns"), (("f4", 0), "at least 1"),
        (pa.list_(pa.list_(pa.int8())), "list of"), (pa.month_day_nano_interval(), "duration"), ("S", "S32"),
        (mmstore.nullable(mmstore.nullable("object")), "utf8"), (None, "numpy type"), (3, "numpy type"),
        (pa.dense_union([pa.field("a", pa.int8())]), "each of its types"), ((mmstore.nullable("f4"), 3), "shape"),
        (pa.list_(pa.float32(), 0), "at least 1"), ("timestamp[us, ]", "utf8"), ("time32[us]", "utf8"),
    ],
)  # fmt: skip
def test_types_that_cannot_be_held(make: Any, spec: Any, nearest: str) -> None:
    with pytest.raises(SchemaError, match="column 'bad'.*" + nearest):
        make({"good": "i4", "bad": spec})
