"""Scans: the rows that a model in plain Python finds, and no block touched that can't have any."""

from __future__ import annotations

import datetime
import decimal
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmstore
from mmstore import format as fmt
from mmstore.catalog import tables
from mmstore.database import check, scan
from mmstore.database.database import Database
from mmstore.disk import libc
from mmstore.engine import tables as changes
from mmstore.errors import SchemaError
from signs import COMPARE

D = decimal.Decimal
UTC = datetime.UTC
SMALL = 32

# --- a block of few rows, so that a few rows make many blocks ------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fmt, "BLOCK_ROWS", SMALL)
    monkeypatch.setattr(scan, "_BLOCK", SMALL)
    monkeypatch.setattr(tables, "_STEP", SMALL)
    monkeypatch.setattr(changes, "_STEP", SMALL)
    assert check.fmt.BLOCK_ROWS == SMALL


def holds(value: Any, sign: str, wanted: Any) -> bool:
    """Whether a row's value, None if it has none, fulfils a condition."""
    if sign.startswith("is"):
        return (value is None) == (sign == "is null")
    if value is None:
        return False
    if sign == "in":
        return any(holds(value, "==", one) for one in wanted)
    if value is NAN or isinstance(value, float) and math.isnan(value):
        return sign == "!="
    return bool(COMPARE[sign](value, wanted))


NAN = object()  # a NaN or NaT among the values

times = st.integers(-4, 4).map(lambda n: datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=7 * n))
floats = st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, 3.25, math.inf, -math.inf, math.nan])
texts = st.sampled_from(
    ["", "a", "ab", "b", "é", "prefix of 16 byte", "prefix of 16 bytes", "prefix of 16 byt", "\0", "a\0", "z" * 40]
)
odd_numbers = st.sampled_from([0.5, -2.5, math.inf, -math.inf, math.nan, 1000, -(2**70)])
integers = st.sampled_from([-128, -3, -2, -1, 0, 1, 2, 3, 100, 127])
wide = st.sampled_from([-(2**63), -(2**53) - 1, -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1])
money = st.integers(-9, 9).map(lambda n: D(n) / 4)
huge = st.sampled_from([D(0), D(2**64), D(2**64 + 1), D(-(2**64)), D(10**37), D(-(10**37)), D(1)])

# type -> (values of rows, values to compare with, what a value becomes for the model)
TYPES: dict[str, tuple[Any, Any, Any]] = {
    "i1": (integers, st.one_of(integers, odd_numbers), None),
    "i8": (wide, st.one_of(wide, st.sampled_from([2.0**53, 0.5, -1e300, 2.0**63, 2**64])), None),
    "u8": (st.sampled_from([0, 1, 2**53 + 1, 2**63, 2**64 - 1]),
           st.sampled_from([-1, 0, 1, 2.0**53, 2**63, 2.0**64]), None),
    "f8": (floats, st.one_of(floats, st.sampled_from([1, -5, 2**60])), None),
    "f4": (floats, st.one_of(floats, st.sampled_from([1, -5])), None),
    "?": (st.booleans(), st.booleans(), None),
    "utf8": (texts, texts, lambda text: text.encode()),
    "category": (texts, texts, None),
    "binary": (texts.map(str.encode), texts.map(str.encode), None),
    "S18": (texts.map(lambda text: text.encode()[:18].rstrip(b"\0")),
            texts.map(lambda t: t.encode().rstrip(b"\0")), None),
    "U18": (texts.map(lambda text: text[:18].rstrip("\0")), texts.map(lambda t: t.rstrip("\0")), None),
    "M8[us]": (times, times, None),
    "M8[h]": (times, st.one_of(times, times.map(lambda t: t + datetime.timedelta(minutes=30))), None),
    "m8[s]": (st.integers(-3, 3).map(lambda n: datetime.timedelta(seconds=n)),
              st.integers(-7, 7).map(lambda n: datetime.timedelta(seconds=n / 2)), None),
    "timestamp[ms, Europe/Rome]": (times, times.map(lambda t: t.replace(tzinfo=UTC)), lambda t: t.replace(tzinfo=None)),
    "date32": (times.map(lambda t: t.date()), st.one_of(times, times.map(lambda t: t.date())),
               lambda t: t if isinstance(t, datetime.datetime) else datetime.datetime(t.year, t.month, t.day)),
    "decimal64(6,2)": (money, st.one_of(money, st.integers(-3, 3), st.sampled_from([0.25, 0.1, D("0.001")])), None),
    "decimal128(38,0)": (huge, st.one_of(huge, st.sampled_from([2**64, 0.5, D("1E+40"), 2**200])), None),
}  # fmt: skip


@st.composite
def cases(draw: Any, name: str) -> tuple[list[Any], list[tuple[Any, ...]], list[int], int]:
    values, wanted, _ = TYPES[name]
    rows = draw(st.lists(st.one_of(values, values, st.none()), max_size=150))
    how = draw(st.integers(0, 3))
    if how and name not in ("f8", "f4"):  # in order, so that blocks differ and bisection is used
        rows = sorted(
            (row for row in rows if row is not None), key=TYPES[name][2] if name in ("utf8", "date32") else None
        )
    if how == 2:
        rows = [row for row in rows for _ in range(3)]
    signs = st.sampled_from([*COMPARE, "in", "is null", "is not null"])
    conditions = []
    for _ in range(draw(st.integers(1, 2))):
        sign = draw(signs)
        if sign.startswith("is"):
            conditions.append(("x", sign))
        else:
            conditions.append(("x", sign, draw(st.lists(wanted, max_size=3)) if sign == "in" else draw(wanted)))
    deleted = draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=5)) if rows else []
    return rows, conditions, deleted, draw(st.sampled_from([1, 7, 32, 50, 65536]))


@pytest.mark.parametrize("name", TYPES)
def test_rows_are_those_of_the_model(small_blocks: None, name: str) -> None:
    convert = TYPES[name][2] or (lambda value: value)

    def modelled(value: Any) -> Any:
        return None if value is None else convert(value)

    def wanted(sign: str, value: list[Any]) -> Any:
        return [modelled(one) for one in value[0]] if sign == "in" else modelled(*value or [None])

    with mmstore.open(":memory:") as db:

        @settings(
            max_examples=40 if mmstore.compiled() else 15,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        )
        @given(cases(name), st.booleans())
        def run(case: Any, nullable: bool) -> None:
            rows, conditions, deleted, batch_rows = case
            if not nullable:
                rows = [row for row in rows if row is not None]
                deleted = [row for row in deleted if row < len(rows)]
            with db.transaction() as txn:
                if "t" in db.tables():
                    txn.drop("t")
                table = txn.create_table("t", {"n": "i8", "x": mmstore.nullable(name) if nullable else name})
                half = len(rows) // 2
                for start, stop in ((0, half), (half, len(rows))):
                    table.append({"n": np.arange(start, stop), "x": rows[start:stop]})
                if deleted:
                    table.delete(deleted)
                expected = [
                    n
                    for n, row in enumerate(rows)
                    if n not in deleted
                    and all(
                        holds(modelled(row), sign, wanted(sign, value))
                        for _, sign, *value in conditions
                    )
                ]  # fmt: skip
                found = list(table.scan(["n"], conditions, batch_rows))
                assert [n for batch in found for n in batch["n"].tolist()] == expected
                assert all(0 < len(batch) <= batch_rows for batch in found)
                assert [n for batch in found for n in batch.numbers] == expected
            again = [n for batch in db.table("t").scan(["n"], conditions, batch_rows) for n in batch["n"].tolist()]
            assert again == expected

        run()
        assert db.check() == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_conditions_on_several_columns_after_changes(small_blocks: None, data: st.DataObject) -> None:
    """Statistics follow updates, deletions, new columns and compaction."""
    with mmstore.open(":memory:") as db:
        table = db.create_table("t", {"a": "i4", "s": "utf8", "f": mmstore.nullable("f4")})
        model: list[list[Any]] = []
        for _ in range(data.draw(st.integers(1, 6))):
            what = data.draw(st.sampled_from(["append", "append", "update", "delete", "compact"]))
            live = [n for n, row in enumerate(model) if row]
            if what == "append":
                n, step = data.draw(st.integers(0, 80)), data.draw(st.integers(-1, 2))
                start = data.draw(st.integers(-20, 20))
                added = [[start + i * step, f"s{i * step % 30:02}", None if i % 6 == 5 else i / 2] for i in range(n)]
                table.append({name: [row[at] for row in added] for at, name in enumerate("asf")})
                model += added
            elif what == "update" and live:
                some = data.draw(st.lists(st.sampled_from(live), unique=True, max_size=10))
                value = data.draw(st.integers(-100, 100))
                table.update(some, {"a": value, "s": f"v{value}", "f": None if value % 3 else float(value)})
                for n in some:
                    model[n] = [value, f"v{value}", None if value % 3 else float(value)]
            elif what == "delete" and live:
                some = data.draw(st.lists(st.sampled_from(live), max_size=40))
                table.delete(some)
                for n in some:
                    model[n] = []
            elif what == "compact":
                table.compact()
                model = [row for row in model if row]
        sign, other = (data.draw(st.sampled_from(list(COMPARE))) for _ in range(2))
        bound, text = data.draw(st.integers(-30, 60)), f"s{data.draw(st.integers(0, 30)):02}"
        where: list[tuple[Any, ...]] = [("a", sign, bound), ("s", other, text)]
        if data.draw(st.booleans()):
            where.append(("f", "is not null") if data.draw(st.booleans()) else ("f", "<", 10))
        expected = [
            n
            for n, row in enumerate(model)
            if row
            and all(holds(row["asf".index(name)], sign, *value or [None]) for name, sign, *value in where)
        ]  # fmt: skip
        assert [n for batch in table.scan(["s", "a"], where) for n in batch.numbers] == expected
        assert db.check() == []


# --- what is touched -----------------------------------------------------------------------------------

N = 8 * 65536


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("scan") / "large.mms"
    with mmstore.open(path, durability="relaxed") as db:
        numbers = np.arange(N)
        table = db.create_table("t", {"ordered": "i8", "steps": "i4", "random": "f8", "n": mmstore.nullable("i8")})
        rng = np.random.default_rng(3)
        table.append(
            {
                "ordered": numbers * 2,
                "steps": numbers // 65536 * 1000 + rng.integers(0, 100, N),
                "random": rng.random(N),
                "n": np.ma.MaskedArray(numbers, (numbers // 65536) % 2 == 0),
            }
        )
    yield path


def pages(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """(address, bytes) of the pages under a column."""
    start = array.ctypes.data // 4096 * 4096
    return start, array.ctypes.data + array.nbytes - start


def resident(array: np.ndarray[Any, Any]) -> int:
    """Pages of a column that are in memory, looked at without touching them."""
    return libc.resident_pages(*pages(array))


def dropped(path: Path) -> None:
    """Nothing of the file is in the page cache, as far as nobody maps it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


class Touches:
    """Counts the rows at which conditions look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mmstore.database.predicates import Predicate

        self.rows = 0
        real_mask, real_span = Predicate.mask, Predicate.span

        def mask(predicate: Any, view: Any) -> Any:
            self.rows += len(view)
            return real_mask(predicate, view)

        def span(predicate: Any, values: Any) -> Any:
            found = real_span(predicate, values)
            self.rows += 2 * 17 if found is not None else 0
            return found

        monkeypatch.setattr(Predicate, "mask", mask)
        monkeypatch.setattr(Predicate, "span", span)


def test_blocks_that_cannot_match_are_not_touched(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mmstore.open(large, "r") as db:
        table = db.table("t")
        expectations: list[tuple[list[tuple[Any, ...]], int, int]] = [
            ([("steps", "==", 3007)], 65536, 65536),
            ([("steps", ">", 7100)], 0, 0),
            ([("steps", "<", 3500)], 0, 4 * 65536),
            ([("steps", "in", [-5, 7007])], 65536, 65536),
            ([("n", "is null")], 0, N // 2),
            ([("n", "is not null"), ("n", ">", 7 * 65536 + 5)], 65536, 65530),
            ([("ordered", ">=", 1000), ("ordered", "<", 1010)], 100, 5),
            ([("ordered", "==", 7)], 100, 0),
            ([("ordered", "==", 2 * 65536 * 3)], 100, 1),
            ([("ordered", ">", N), ("steps", "==", 5050)], 65536, 65536),
            ([("random", "<", 2.0)], 0, N),
            ([("random", "<", 0.0)], 0, 0),
        ]
        for where, most, rows in expectations:
            with monkeypatch.context() as patch:
                touches = Touches(patch)
                found = sum(len(batch) for batch in table.scan(["ordered"], where))
                assert touches.rows <= most, (where, touches.rows)
                assert found == rows or found <= rows and where[-1][0] == "steps", (where, found)


def test_pages_of_other_blocks_stay_out_of_memory(large: Path) -> None:
    dropped(large)
    with mmstore.open(large, "r") as db:
        table = db.table("t")
        columns = {name: table[name] for name in ("ordered", "steps", "random")}
        for array in columns.values():
            libc.advise(*pages(array), mmap.MADV_RANDOM)  # without reading ahead
        before = {name: resident(array) for name, array in columns.items()}
        (batch,) = table.scan(["ordered"], [("steps", "==", 3007)])
        assert set((np.asarray(batch.numbers) // 65536).tolist()) == {3}
        touched = {name: resident(array) - before[name] for name, array in columns.items()}
        assert touched["random"] == 0 and touched["steps"] <= 64 + 2 and touched["ordered"] <= 128 + 2
        if not any(before.values()):  # the filesystem dropped what it was told to
            assert touched["steps"] >= 64 and touched["ordered"] >= 100


# --- the rest ------------------------------------------------------------------------------------------


@pytest.fixture
def table(db: Database) -> Any:
    table = db.create_table(
        "t", {"i": "i8", "f": "f4", "s": "utf8", "t": "M8[s]", "c": "c8", "e": ("i4", 2), "l": "list(i4)", "b": "?",
              "v": "V2", "d": "decimal128(9,2)", "raw": "binary"}
    )  # fmt: skip
    n = 1000
    table.append(
        {
            "i": np.arange(n), "f": (np.arange(n) / 10).tolist(), "s": [str(i) for i in range(n)],
            "t": np.arange(n).astype("M8[s]"),
            "c": np.arange(n), "e": np.zeros((n, 2), "i4"), "l": [[i] for i in range(n)], "b": np.arange(n) % 2 == 0,
            "v": [b"ab"] * n, "d": [D(i) for i in range(n)], "raw": [b"%d" % i for i in range(n)],
        }
    )  # fmt: skip
    return table


def test_batches(table: Any) -> None:
    assert [len(batch) for batch in table.scan(batch_rows=300)] == [300, 300, 300, 100]
    assert [batch.numbers for batch in table.scan(["i"], batch_rows=500)] == [range(500), range(500, 1000)]
    (batch,) = table.scan(["s", "i"], [("i", "<", 10)])
    assert batch.columns == ("s", "i") and batch["s"].tolist() == [str(i) for i in range(10)]
    assert np.shares_memory(batch["i"], table["i"]) and not batch["i"].flags.writeable  # side by side: no copy
    table.delete([5])
    (batch,) = table.scan(["i"], [("i", "<", 10)])
    assert batch["i"].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert list(table.scan(where=[("i", ">", 5000)])) == []
    assert [batch["i"].tolist() for batch in table.scan(["i"], [])][0][:2] == [0, 1]
    assert sum(len(batch) for batch in table.scan(where=[["i", ">=", 990]])) == 10


def test_values_of_other_types(table: Any) -> None:
    """What compares with a column, and how."""

    def count(*condition: Any) -> int:
        return sum(len(batch) for batch in table.scan(["i"], [condition]))

    assert count("f", "==", 0.1) == 1  # as numpy has it, with a literal in the column's type
    assert count("i", "<", 2.5) == 3 and count("i", "=", np.float32(2)) == 1 and count("i", "==", np.uint8(3)) == 1
    assert count("i", "in", np.array([1, 2, 5000])) == count("i", "in", {1, 2}) == count("i", "in", range(1, 3)) == 2
    assert count("i", "in", []) == 0 and count("s", "in", ("1", "x")) == 1
    assert count("t", "<", np.datetime64("1970-01-01T00:00:10.500")) == 11
    assert count("t", "<", "1970-01-01T00:00:10") == count("t", "<", datetime.datetime(1970, 1, 1, 0, 0, 10)) == 10
    assert count("t", "<", np.datetime64("3000")) == 1000 and count("t", ">", datetime.date(1970, 1, 1)) == 999
    assert count("b", "==", True) == count("b", "!=", np.False_) == 500
    assert count("d", ">", D("998.5")) == count("d", ">=", 999) == count("d", ">", 998.999) == 1
    assert count("s", "==", np.str_("7")) == count("raw", "==", np.bytes_(b"7")) == 1


def test_conditions_that_make_no_sense(table: Any) -> None:
    wrong: list[tuple[Any, Any, str]] = [
        ([("z", "==", 1)], KeyError, "no column 'z'"),
        ([("i", "~", 1)], ValueError, "expected one of ==, .*found '~'"),
        ([("i", "==")], ValueError, "value"),
        ([("i", "is null", 1)], ValueError, "is null"),
        (("i", "==", 1), ValueError, "conditions"),
        ([("i",)], ValueError, "conditions"),
        (["i == 1"], ValueError, "conditions"),
        ([("i", "==", "1")], SchemaError, "column 'i' holds int64"),
        ([("i", "==", None)], SchemaError, "column 'i'"),
        ([("i", "==", True)], SchemaError, "column 'i'"),
        ([("b", "==", 1)], SchemaError, "column 'b'"),
        ([("s", "==", b"1")], SchemaError, "column 's'"),
        ([("raw", "==", "1")], SchemaError, "column 'raw'"),
        ([("s", "in", "123")], SchemaError, "column 's'.*list"),
        ([("i", "in", 5)], SchemaError, "column 'i'.*list"),
        ([("t", ">", 5)], SchemaError, "column 't'"),
        ([("t", ">", np.timedelta64(5, "s"))], SchemaError, "column 't'"),
        ([("t", ">", "no date")], SchemaError, "column 't'"),
        ([("d", "<", math.nan)], SchemaError, "column 'd'"),
        ([("i", "==", [1])], SchemaError, "column 'i'"),
        *([([(name, "==", 1)], SchemaError, "can't be compared") for name in "celv"]),
    ]
    for where, error, message in wrong:
        with pytest.raises(error, match=message):
            table.scan(where=where)
    for rows in (0, -1):
        with pytest.raises(ValueError, match="batch_rows"):
            table.scan(batch_rows=rows)
    with pytest.raises(TypeError, match="list of columns"):
        table.scan("i")
    with pytest.raises(KeyError, match="'z'"):
        table.scan(["z"])
