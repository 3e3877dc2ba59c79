"""RunSet against the plain set of page numbers that it stands for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstore.errors import CorruptError
from mmstore.kernels.runset import RunSet


def pages(runs: RunSet) -> set[int]:
    return {page for start, length in runs for page in range(start, start + length)}


def whole(runs: RunSet) -> None:
    """Sorted, joined where they touch, counted right."""
    listed = list(runs)
    assert all(length > 0 for _, length in listed)
    assert all(start + length < following for (start, length), (following, _) in pairwise(listed))
    assert runs.pages == sum(length for _, length in listed) and len(runs) == len(listed)


step = st.tuples(st.sampled_from(["add", "remove", "take", "overlap"]), st.integers(0, 60), st.integers(1, 12))


@given(st.lists(step, max_size=80))
def test_behaves_as_a_set(steps: list[tuple[str, int, int]]) -> None:
    runs, model = RunSet(), set[int]()
    for what, start, length in steps:
        span = set(range(start, start + length))
        if what == "add":
            if span & model:
                continue
            runs.add(start, length)
            model |= span
        elif what == "remove":
            assert runs.remove(start, length) == len(span & model)
            model -= span
        elif what == "overlap":
            found = runs.overlap(start, length)
            assert {page for at, n in found for page in range(at, at + n)} == span & model
            assert found == sorted(found)
        else:
            align = (1, 2, 4)[start % 3]
            fits = [at for at in range(0, 80, align) if set(range(at, at + length)) <= model]
            got = runs.take(length, align)
            assert got == (fits[0] if fits else None)
            if got is not None:
                model -= set(range(got, got + length))
        whole(runs)
        assert pages(runs) == model


def test_a_page_is_freed_once() -> None:
    for start, length in ((10, 1), (14, 1), (8, 3), (14, 5), (5, 20)):
        runs = RunSet()
        runs.add(10, 5)
        with pytest.raises(CorruptError, match="free already"):
            runs.add(start, length)


def test_a_copy_is_independent() -> None:
    runs = RunSet()
    runs.add(3, 4)
    twin = runs.copy()
    assert twin.take(2) == 3
    assert list(runs) == [(3, 4)] and list(twin) == [(5, 2)]


def test_a_failed_search_is_remembered_until_a_run_is_large_enough() -> None:
    runs = RunSet()
    runs.add(0, 3)
    assert runs.take(5) is None
    runs.add(3, 1)
    assert runs.take(5) is None
    runs.add(4, 1)
    assert runs.take(5) == 0


def test_alignment_may_fail_where_none_does_not() -> None:
    runs = RunSet()
    runs.add(17, 20)
    assert runs.take(16, 16) is None
    assert runs.take(16) == 17
