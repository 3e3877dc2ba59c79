"""Statistics of rows against Python's min and max, whole and merged from pieces."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from mmstore import format as fmt
from mmstore.columns import batch as batches
from mmstore.columns import state, statistics
from mmstore.columns.schema import Column
from mmstore.columns.statistics import NONE, Statistics
from mmstore.columns.types import nullable
from mmstore.exchange import convert

INT = 2**63 - 1
NAT = np.datetime64("NaT", "s")
POOLS: dict[str, list[Any]] = {
    "i8": [0, 1, -1, INT, -INT - 1, 5],
    "u8": [0, 1, 2**64 - 1, 2**63, 7],
    "i1": [-128, 127, 0],
    "u2": [0, 65535, 300],
    "?": [True, False],
    "f8": [0.0, -0.0, 1.5, -math.inf, math.inf, math.nan, 5e-324],
    "f4": [0.0, -0.0, 1.5, -2.25, math.nan],
    "f2": [0.0, 1.5, -2.25, math.nan, math.inf],
    "M8[s]": [NAT, np.datetime64(0, "s"), np.datetime64(-5, "s"), np.datetime64(10**9, "s")],
    "m8[ns]": [np.timedelta64(5, "ns"), np.timedelta64(-5, "ns"), np.timedelta64(0, "ns")],
    "date32": [np.datetime64(n, "D") for n in (-1, 0, 9999)],
    "decimal128(38,0)": [0, 1, -1, 2**64, -(2**64), 2**64 - 1, 2**100, -(2**100), 2**63, -(2**63)],
    "decimal64(18,0)": [0, 10**17, -(10**17)],
    "S4": [b"", b"a", b"ab", b"abcd", b"\xff"],
    "S40": [b"", b"a" * 17, b"a" * 16, b"a" * 15 + b"b", b"\xff" * 40],
    "utf8": ["", "a", "a\0", "a\0b", "b", "ä", "x" * 16, "x" * 17, "x" * 15 + "y", "x" * 40, "\U0001f600"],
    "binary": [b"", b"\0", b"\xff" * 8, b"\xff" * 9, b"\xff" * 17, b"seven..", b"eight...", b"nine....."],
}


def spelled(name: str, value: Any) -> Any:
    """A value as a bound compares: times as numbers, text as its first 16 bytes with zeros behind."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return value[:16].ljust(16, b"\0")
    if isinstance(value, np.datetime64 | np.timedelta64):
        return int(value.astype("i8"))
    return value


def computed(column: Column, values: list[Any]) -> Statistics:
    return state.compute(column.kind, convert.column_parts(column, values)[1])


def is_nan(value: Any) -> bool:
    return bool(value is not None and value != value)


@pytest.mark.parametrize("missing", [False, True], ids=["", "nullable"])
@pytest.mark.parametrize("name", POOLS)
def test_they_are_those_of_the_values(name: str, missing: bool) -> None:
    column = Column.of("x", nullable(name) if missing else name)
    rng = random.Random(name)
    for n in [1, 1, 1, 2, 2, 3, 5, 40, 300] * 4:
        values = [rng.choice([*POOLS[name], *([None] * 3 if missing else [])]) for _ in range(n)]
        if missing:  # NaT in a list is a missing row where rows may be missing
            values = [None if isinstance(value, np.datetime64) and np.isnat(value) else value for value in values]
        if rng.random() < 0.3:
            values = (
                sorted((v for v in values if v is not None and not is_nan(v)), key=lambda v: spelled(name, v)) or values
            )
        found = computed(column, values)
        real = [spelled(name, value) for value in values if value is not None and not is_nan(value)]
        assert found.rows == len(values) and found.nulls == sum(value is None for value in values)
        assert bool(found.flags & fmt.STAT_RANGE) == bool(real)
        assert bool(found.flags & fmt.STAT_NAN) == any(map(is_nan, values))
        if real:
            assert statistics.decode(column.kind, found.low) == min(real)
            assert statistics.decode(column.kind, found.high) == max(real)
        if found.flags & fmt.STAT_ORDERED:
            assert len(real) == len(values) and real == sorted(real)
        assert Statistics.unpack(found.pack()) == found and len(found.pack()) == fmt.STATISTICS.size
        cuts = sorted(rng.choices(range(len(values) + 1), k=rng.randrange(3)))
        whole = NONE
        for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
            if start < stop:
                whole = statistics.merge(column.kind, whole, computed(column, values[start:stop]))
        assert statistics.agree(column.kind, whole, found)
        assert whole._replace(flags=0, low=b"", high=b"") == found._replace(flags=0, low=b"", high=b"")
        assert not whole.flags & fmt.STAT_ORDERED or found.flags & fmt.STAT_ORDERED


@pytest.mark.parametrize("name", ["c8", "V4", "U3", "list(i4)", ("f4", 3)], ids=str)
def test_types_without_an_order_count_what_is_missing(name: Any) -> None:
    column = Column.of("x", nullable(name))
    assert not statistics.ranged(column.kind)
    parts = dict(batches.empty(column.kind))
    if "offsets" in parts:
        parts["offsets"] = np.zeros(5, "<i8")
    else:
        parts["values"] = np.zeros((4, *column.shape), column.dtype)
    parts["validity"] = np.array([True, False, True, False])
    assert state.compute(column.kind, parts) == Statistics(NONE.low, NONE.high, 2, 0, 4)


def test_numbers_in_order_are_told() -> None:
    column = Column.of("x", "i8")
    first, then = computed(column, [1, 2, 2]), computed(column, [2, 9])
    assert first.flags & then.flags & fmt.STAT_ORDERED
    assert statistics.merge(column.kind, first, then) == computed(column, [1, 2, 2, 2, 9])
    assert not statistics.merge(column.kind, then, first).flags & fmt.STAT_ORDERED
    assert not computed(column, [2, 1]).flags & fmt.STAT_ORDERED
    assert not computed(Column.of("x", nullable("i8")), [1, None, 2]).flags & fmt.STAT_ORDERED


def test_hostile_statistics_never_agree() -> None:
    """NaN as a bound, the lower above the upper, more missing rows than rows: check() tells them all."""
    for name, values in (("f8", [1.0, 2.0]), ("i4", [1, 2]), ("utf8", ["a", "b"]), ("decimal128(9,0)", [1, 2])):
        column = Column.of("x", name)
        right = computed(column, values)
        assert statistics.agree(column.kind, right, right)
        nan = np.array([math.nan]).tobytes().ljust(16, b"\0")
        changes: list[dict[str, Any]] = [
            {"low": right.high, "high": right.low}, {"low": b"\xff" * 16}, {"high": b"\xfe" * 16}, {"nulls": 1},
            {"nulls": 2**64 - 1}, {"rows": 3}, {"flags": 0}, {"flags": right.flags | fmt.STAT_NAN},
            {"flags": right.flags | 8}, {"flags": 2**32 - 1}, {"low": nan}, {"high": nan},
        ]  # fmt: skip
        for fields in changes:
            forged = right._replace(**fields)
            assert not statistics.agree(column.kind, forged, right), (name, fields)
            statistics.merge(column.kind, forged, right)
        if name in ("utf8", "decimal128(9,0)"):
            assert not statistics.agree(column.kind, right._replace(flags=right.flags | fmt.STAT_ORDERED), right)
