"""Work in parts: each part once, the first error raised, and also where no thread can be had."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmstore
from mmstore.columns import together
from mmstore.database import rows as rows_module
from strikes import struck


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little work is shared out, too, among three."""
    monkeypatch.setattr(together, "PART", 10)
    monkeypatch.setattr(together, "FEW", 20)
    monkeypatch.setattr(rows_module, "FEW", 20)
    monkeypatch.setattr(together, "processors", lambda: 3)


@pytest.mark.parametrize("n", [0, 1, 19, 20, 21, 200, 1005])
def test_each_part_once(shared: None, n: int) -> None:
    done = np.zeros(n, int)
    spans = []

    def work(start: int, stop: int) -> None:
        spans.append((start, stop))
        done[start:stop] += 1

    together.in_parts(n, work)
    assert (done == 1).all()
    assert len(spans) == 1 if n < 20 else all(stop - start <= 10 for start, stop in spans)


@pytest.mark.parametrize("wrong", [0, 40, 90])
def test_an_error_is_raised_and_ends_it(shared: None, wrong: int) -> None:
    def work(start: int, stop: int) -> None:
        if start == wrong:
            raise LookupError(f"in {start}")

    with pytest.raises(LookupError, match=f"in {wrong}"):
        together.in_parts(100, work)


def test_a_part_that_was_begun_is_waited_for(shared: None) -> None:
    here = threading.get_ident()
    both = threading.Barrier(2, timeout=60)
    ends = []

    def work(start: int, stop: int) -> None:
        both.wait()
        ends.append(threading.get_ident() == here)

    together.in_parts(20, work)  # two parts, by two threads: each waits for the other one
    assert sorted(ends) == [False, True]


def test_an_interrupt_at_any_moment(shared: None) -> None:
    """It is raised, nothing hangs, and no part is in work behind it."""
    for at in range(1000):
        busy: list[int] = []
        begun: list[int] = []

        def work(start: int, stop: int) -> None:
            begun.append(start)  # noqa: B023
            busy.append(start)  # noqa: B023
            busy.remove(start)  # noqa: B023

        again = struck(lambda: together.in_parts(50, work), together, at)
        assert not busy and len(begun) == len(set(begun)) and (again or len(begun) == 5)
        if not again:
            break
    assert 20 < at < 999


def test_without_threads(shared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(together, "start_new_thread", refuse)
    starts: list[int] = []
    together.in_parts(95, lambda start, stop: starts.append(start))
    assert sorted(starts) == list(range(0, 95, 10))


def test_processors() -> None:
    assert together.processors() >= 1


def test_find_and_take_by_several_threads(shared: None, tmp_path: Path) -> None:
    """The same as alone, in the newest state, in a snapshot and in a transaction; absent keys among them."""
    rng = np.random.default_rng(5)
    ids = rng.permutation(4000)[:1000]
    columns: dict[str, Any] = {"id": ids, "x": rng.random(1000), "name": [f"row {i}" for i in range(1000)]}
    wanted = np.concatenate([rng.permutation(ids), np.arange(4000, 4100), [-1, 1 << 62]])
    place = {int(one): row for row, one in enumerate(ids)}
    expected = np.array([place.get(int(one), -1) for one in wanted])
    with mmstore.open(tmp_path / "t.mms") as db:
        t = db.create_table("t", {"id": "i8", "x": "f8", "name": "utf8"}, key="id")
        t.append(columns)
        with db.snapshot() as snapshot, db.transaction() as txn:
            txn.table("t").append({"id": [9999], "x": [0.5], "name": ["new"]})
            for table in (t, snapshot.table("t"), txn.table("t")):
                found = table.find(wanted)
                np.testing.assert_array_equal(found, expected)
                rows = table.take(found[found >= 0])
                np.testing.assert_array_equal(rows["id"], wanted[found >= 0])
                np.testing.assert_array_equal(rows["x"], columns["x"][found[found >= 0]])
                assert rows["name"].tolist() == [f"row {row}" for row in found if row >= 0]
            assert txn.table("t").find([9999]).tolist() == [1000]
        db.check()


@pytest.mark.parametrize("kind", ["i1", "f4", "i8", "S5", "V16", "M8[s]"])
@pytest.mark.parametrize("n", [0, 5, 300])
def test_take_is_an_index(shared: None, tmp_path: Path, kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    dtype = np.dtype(kind)
    values = np.frombuffer(rng.bytes(500 * dtype.itemsize), dtype)
    with mmstore.open(tmp_path / "t.mms") as db:
        t = db.create_table("t", {"x": dtype, "pair": ("i4", (2,)), "many": mmstore.nullable("i8")})
        pairs = rng.integers(0, 99, (500, 2), dtype="i4")
        many = [None if i % 7 == 0 else i for i in range(500)]
        t.append({"x": values, "pair": pairs, "many": many})
        for rows in (rng.integers(0, 500, n), rng.integers(-500, 500, n), rng.integers(0, 500, n).astype("u2")):
            found = t.take(rows)
            assert found["x"].tobytes() == values[rows].tobytes()
            np.testing.assert_array_equal(found["pair"], pairs[rows])
            assert found["many"].tolist() == [many[row] for row in rows]
        view = t["many"]
        for wrong in ([500], [-501], [3] * 40 + [500]):
            with pytest.raises(IndexError):
                t.take(wrong)
            with pytest.raises(IndexError):
                view.take(np.array(wrong))
