"""What a block of numbers spans, against the definition; compiled and not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bothkernels import BOTH, IDS

both = pytest.mark.parametrize("kernels", BOTH, ids=IDS)
KINDS = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]


def spans(values: Any) -> tuple[Any, Any, bool, int]:
    """The definition."""
    listed = values.tolist()
    numbers = [x for x in listed if x == x]
    ordered = all(a <= b for a, b in zip(listed, listed[1:], strict=False)) and len(numbers) == len(listed)
    if not numbers:
        return None, None, ordered, len(listed)
    return min(numbers), max(numbers), ordered, len(listed) - len(numbers)


def check(values: Any) -> None:
    expected = spans(values)
    for kernels in BOTH:
        found = kernels.extremes(values)
        assert found == expected
        assert [type(x) for x in found] == [type(x) for x in expected]
        assert [math.copysign(1, x) for x in found[:2] if x == 0] == [1.0] * found[:2].count(0)


@given(st.sampled_from(KINDS).flatmap(lambda kind: arrays(kind, st.integers(0, 70))))
def test_any_numbers(values: Any) -> None:
    check(values)
    check(np.sort(values))
    check(np.resize(values, 3000 if len(values) else 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 1023, 1024, 1025, 1026, 5000])
def test_one_fall_anywhere(kind: str, n: int) -> None:
    """In the first or last lane or block; so are the extremes."""
    kind_ = np.dtype(kind)
    ordered = np.zeros(n, kind_) if kind == "?" else (np.arange(n) // (n // 100 + 1)).astype(kind_)
    check(ordered)
    for at in {0, n // 2, n - 1}:
        for extreme in (
            (np.iinfo(kind_).min, np.iinfo(kind_).max) if kind_.kind in "iu" else (0, 1, math.inf, -math.inf)
        ):
            values = ordered.copy()
            values[at] = extreme
            check(values)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_nans(kind: str) -> None:
    nan, inf = math.nan, math.inf
    for listed in (
        [nan],
        [nan] * 40,
        [nan, 1],
        [1, nan],
        [1, nan, 2],
        [inf, nan],
        [-inf, nan],
        [-0.0],
        [0.0, -0.0],
        [-0.0, 0.0],
    ):
        check(np.array(listed, kind))
        check(np.resize(np.array(listed, kind), 2000))
    values = np.arange(1500).astype(kind)
    for at in (0, 1, 700, 1023, 1024, 1499):
        values[:] = np.arange(1500)
        values[at] = nan
        check(values)


def test_every_half() -> None:
    check(np.arange(1 << 16).astype(np.uint16).view(np.float16))


@both
def test_layouts(kernels: Any) -> None:
    """Strided, of the other byte order, read-only, not aligned."""
    for kind in ("i4", "f8"):
        values = np.array([3, 1, 2, 9], kind)
        frozen = values.copy()
        frozen.flags.writeable = False
        odd = np.frombuffer(b"x" + values.tobytes(), kind, 4, 1)
        for same in (np.repeat(values, 2)[::2], values.astype(f">{kind}"), frozen, odd):
            assert kernels.extremes(same) == (1, 9, False, 0)
    assert kernels.extremes(np.arange(10)[::-1]) == (0, 9, False, 0)


@both
@pytest.mark.parametrize("kind", ["M8[s]", "c8", "S3", "U2", "O", "V4", "g"])
def test_other_types(kernels: Any, kind: str) -> None:
    with pytest.raises(TypeError, match="expected one dimension of bool, integers or floats"):
        kernels.extremes(np.zeros(3, kind))
    with pytest.raises(TypeError, match="one dimension"):
        kernels.extremes(np.zeros((2, 2)))
