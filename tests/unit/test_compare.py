"""`view == value` and its like: masks of rows, by the rules of scans."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmstore
from mmstore import SchemaError, nullable
from mmstore.database.table import Table
from signs import COMPARE

every_sign = pytest.mark.parametrize("sign", COMPARE)

DAYS = [datetime.date(2024, 1, n) for n in (1, 2, 3)]
COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "utf8": ("utf8", ["a", "b", "ä"]),
    "category": ("category", ["b", "a", "c"]),
    "binary": ("binary", [b"", b"b", b"\xff"]),
    "i8": (nullable("i8"), [-1, 0, 1 << 62]),
    "f4": (nullable("f4"), [-0.5, 0.0, 2.5]),
    "bool": (nullable("bool"), [False, True, True]),
    "U3": (nullable("U3"), ["a", "b", "ä"]),
    "decimal": ("decimal128(38,2)", [Decimal(-1), Decimal("0.01"), Decimal(10**30)]),
    "date": ("date32", DAYS),
    "time": ("time32[s]", [datetime.time(1), datetime.time(2), datetime.time(3)]),
    "stamp": (nullable("timestamp[us, UTC]"), [datetime.datetime(2024, 1, n, tzinfo=datetime.UTC) for n in (1, 2, 3)]),
}  # fmt: skip


@pytest.fixture
def db(path: Path) -> Iterator[mmstore.database.database.Database]:
    with mmstore.open(path) as store:
        yield store


def made(db: Any, spec: Any, values: list[Any], name: str = "t") -> Table:
    table: Table = db.create_table(name, {"x": spec})
    table.append({"x": values})
    return table


@every_sign
@pytest.mark.parametrize("name", COLUMNS)
def test_with_a_value_and_with_values(db: Any, name: str, sign: str) -> None:
    spec, values = COLUMNS[name]
    compare = COMPARE[sign]
    missing = [*values, None, values[1]]
    table = made(db, spec if isinstance(spec, mmstore.columns.types.Nullable) else nullable(spec), missing)
    column = table["x"]
    for value in values:
        expected = [one is not None and compare(one, value) for one in missing]
        found = compare(column, value)
        assert found.dtype == np.bool_ and found.tolist() == expected
        assert compare(column[1:], value).tolist() == expected[1:]
        where = [rows.numbers for rows in table.scan(where=[("x", sign, value)])]
        assert [n for numbers in where for n in numbers] == np.flatnonzero(found).tolist()  # as a scan does it
    for others in (missing[::-1], column[::-1]):
        expected = [one is not None and other is not None and compare(one, other)
                    for one, other in zip(missing, missing[::-1], strict=True)]  # fmt: skip
        assert compare(column, others).tolist() == expected


def test_nan_and_nat_fulfil_only_unequal(db: Any) -> None:
    floats = made(db, nullable("f8"), [np.nan, 1.0, None])["x"]
    assert (floats != 1.0).tolist() == [True, False, False] == (floats != np.ones(3)).tolist()
    assert (floats == np.nan).tolist() == [False] * 3 == (floats <= np.full(3, np.nan)).tolist()
    times = made(db, nullable("M8[s]"), np.array(["NaT", 1, 5], "M8[s]"), "times")["x"]  # type: ignore[arg-type]
    other = np.array([1, "NaT", 5], "M8[s]")
    assert (times == other).tolist() == [False, False, True] == (times >= other).tolist()
    assert (times != other).tolist() == [True, True, False]
    assert (times != np.datetime64(1, "s")).tolist() == [True, False, True]
    assert (times < np.datetime64(5, "s")).tolist() == [False, True, False]


def test_exactly(db: Any) -> None:
    """No value is rounded to the column's type, no date overflows in its unit."""
    column = made(db, nullable("i8"), [2**53, 2**53 + 1, None])["x"]
    assert (column == 2**53 + 1).tolist() == [False, True, False] and not (column == 0.5).any()
    assert (column > 2.0**53).tolist() == [False, True, False] and not (column > 1 << 70).any()
    days = made(db, nullable("M8[ns]"), np.array([0, 1], "M8[ns]"), "days")["x"]  # type: ignore[arg-type]
    assert (days < datetime.date(9999, 1, 1)).all()


def test_masks_change_rows(db: Any) -> None:
    table = db.create_table("t", {"s": "utf8", "n": nullable("i4")})
    table.append({"s": ["a", "b", "a", "c"], "n": [1, None, 3, 4]})
    assert table.update(table["s"] == "a", {"n": 7}) == 2
    assert table["n"].tolist() == [7, None, 7, 4]
    assert table.delete((table["s"] != "c") & (table["n"] >= 5)) == 2
    assert table.deleted.tolist() == [True, False, True, False]
    assert table["s"][table["s"] > "a"].tolist() == ["b", "c"]
    assert table[table["s"] == "c"].tolist() == [{"s": "c", "n": 4}]


def test_long_columns_by_blocks(db: Any) -> None:
    column = made(db, "utf8", ["yes", "no"] * 70_000)["x"]
    assert np.array_equal(column == "no", np.arange(140_000) % 2 == 1)


@pytest.mark.parametrize(
    "spec, value, said",
    [
        ("utf8", 1, "does not compare with 1"),
        ("utf8", b"a", "does not compare with b'a'"),
        ("category", 1, "does not compare with 1"),
        (nullable("i8"), "1", "does not compare with '1'"),
        (nullable("i8"), None, "use ~view.is_valid"),
        (nullable("i8"), True, "does not compare with True"),
        (nullable("c8"), 1j, "can't be compared"),
        ("list(i4)", 1, "can't be compared"),
        ("list(i4)", [[1]], "can't be compared"),
        (nullable("i8"), ["a"], "holds"),
        (nullable("i8"), [2.5], "holds"),
        ("utf8", ["a", "b"], "1 rows, it can't be compared with 2 values"),
    ],
)
@every_sign
def test_what_does_not_compare(db: Any, spec: Any, value: Any, said: str, sign: str) -> None:
    zero = {"utf8": "a", "category": "a", "list(i4)": [1]}.get(spec if isinstance(spec, str) else "", 1)
    column = made(db, spec, [zero])["x"]
    with pytest.raises(ValueError, match=said) as caught:
        COMPARE[sign](column, value)
    assert "can't be compared with 2" in said or isinstance(caught.value, SchemaError)


def test_no_hash_but_a_sequence(db: Any) -> None:
    column = made(db, "utf8", ["a"])["x"]
    with pytest.raises(TypeError, match="unhashable"):
        hash(column)
    assert "a" in column and "b" not in column  # values, as of any sequence


def test_arrays_stay_numpys(db: Any) -> None:
    column = made(db, "i8", [1, 2])["x"]
    assert type(column) is np.ndarray and (column == 2).tolist() == [False, True]


def test_a_time_of_day_knows_no_zone(db: Any) -> None:
    """Neither one that is offered nor one that is asked for."""
    zoned = datetime.time(1, tzinfo=datetime.UTC)
    table = made(db, "time64[us]", [datetime.time(1), datetime.time(2)])
    with pytest.raises(SchemaError, match="does not compare"):
        list(table.scan(where=[("x", "==", zoned)]))
    with pytest.raises(SchemaError, match="with a time zone"):
        table.append({"x": [datetime.time(3), zoned]})
    assert [len(rows) for rows in table.scan(where=[("x", "==", datetime.time(1))])] == [1]
