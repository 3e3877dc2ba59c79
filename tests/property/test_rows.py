"""Whatever numbers or texts are offered: each value survives, or the column refuses them all."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmstore.columns.schema import Schema
from mmstore.errors import SchemaError
from mmstore.exchange import rows

NUMBERS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
BITS = (7, 8, 11, 15, 24, 31, 32, 53, 62)
EDGES = sorted({sign * 2**bits + d for bits in BITS for sign in (1, -1) for d in (-1, 0, 1)})
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def exact(value: Any) -> Any:
    """A number without a type: equal for equal values only."""
    if isinstance(value, complex):
        return exact(value.real), exact(value.imag)
    if isinstance(value, float):
        return str(value) if not math.isfinite(value) else Fraction(value)
    return Fraction(int(value))


def arrays(dtype: str) -> st.SearchStrategy[Any]:
    kind = np.dtype(dtype)
    elements = None
    if kind.kind in "iu":
        info = np.iinfo(kind)
        edges = [edge for edge in EDGES if info.min <= edge <= info.max]
        elements = st.one_of(st.sampled_from([*edges, int(info.min), int(info.max)]), st.integers(info.min, info.max))
    return hnp.arrays(kind.newbyteorder("<>"[len(dtype) % 2]), st.integers(1, 5), elements=elements)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.data())
def test_numbers_survive_or_are_refused(source: str, target: str, data: st.DataObject) -> None:
    values = data.draw(arrays(source))
    before = values.copy()
    try:
        found = rows.fixed(Schema.of({"x": target})["x"], values)
    except SchemaError:
        if np.can_cast(source, target, "safe") and np.dtype(target).kind not in "fc":
            assert np.dtype(source).kind in "iub" and np.dtype(target).kind != np.dtype(source).kind
        return
    assert found.dtype == np.dtype(target)
    expected = [exact(value) for value in values.tolist()]
    if found.dtype.kind == "c" and values.dtype.kind != "c":
        expected = [(value, Fraction(0)) for value in expected]
    assert [exact(value) for value in found.tolist()] == expected
    np.testing.assert_array_equal(values, before)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-(2**65), 2**65), min_size=1), st.sampled_from(NUMBERS[1:9]))
def test_lists_of_integers_survive_or_are_refused(values: list[int], target: str) -> None:
    info = np.iinfo(target)
    fits = all(info.min <= value <= info.max for value in values)
    try:
        found = rows.fixed(Schema.of({"x": target})["x"], values)
    except SchemaError:
        assert not fits
    else:
        assert fits and found.tolist() == values


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, min_size=1), st.integers(1, 8))
def test_texts_survive_or_are_refused(values: list[str], width: int) -> None:
    fits = all(len(value) <= width for value in values)
    for offered in (values, np.array(values, "U"), np.array(values, object)):
        try:
            found = rows.fixed(Schema.of({"x": f"U{width}"})["x"], offered)
        except SchemaError:
            assert not fits
        else:
            assert fits and found.tolist() == values


UNITS = ["ns", "us", "ms", "s", "m", "h", "D", "7D", "W", "M", "Y", "25us"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(UNITS), st.sampled_from(UNITS), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_times_survive_or_are_refused(source: str, target: str, numbers: list[int]) -> None:
    small = [number % (1 << 40) for number in numbers]
    for raw in (numbers, small):
        values = np.array(raw, "i8").view(f"M8[{source}]")
        try:
            found = rows.fixed(Schema.of({"x": f"M8[{target}]"})["x"], values)
        except SchemaError:
            continue
        assert (found.astype(values.dtype).view("i8") == values.view("i8")).all()
        assert (np.isnat(found) == np.isnat(values)).all()
        if source in ("s", "m", "h", "D") and target in ("ns", "us", "ms", "s"):
            per = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1}[target]
            of = {"s": 1, "m": 60, "h": 3600, "D": 86400}[source]
            assert all(
                int(f) == int(v) * per * of
                for f, v, nat in zip(found.view("i8"), values.view("i8"), np.isnat(values), strict=True)
                if not nat
            )
