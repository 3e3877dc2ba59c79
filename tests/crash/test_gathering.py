"""Power cuts and deaths while scattered columns are gathered, and after: the log says no more than that it was done."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mmstore
from mmstore.database.database import Database, open_on
from mmstore.engine.session import Options
from simdisk import SimCrash, SimFilesystem

PATH = "/d/data.mms"
OPTIONS = Options(background=False)
ROWS = 16_000
RNG = np.random.default_rng(5)


def scattered(kind: str) -> tuple[SimFilesystem, Database, dict[str, Any]]:
    """A store whose table or array changes have scattered, and what it holds."""
    fs = SimFilesystem()
    db = open_on(fs, PATH, "c", OPTIONS)
    wide = RNG.random((ROWS, 32))
    if kind == "array":
        array = db.create_array("a", "f8", (0, 32))
        array.append(wide)
    else:
        table = db.create_table("t", {"id": "i8", "w": ("f8", 32), "n": mmstore.nullable("i4")}, key="id")
        table.append({"id": range(ROWS), "w": wide, "n": [None, 1] * (ROWS // 2)})
    rows = np.arange(0, ROWS, 512)  # in every second piece of 64 KiB
    for row in rows.tolist():
        wide[row] = -row
        if kind == "array":
            array[row] = wide[row]
        else:
            table.update([row], {"w": wide[row : row + 1]})
    db.checkpoint()
    db[b"mark"] = b"before"
    return fs, db, {"w": wide}


def runs(db: Database, kind: str) -> int:
    name = b"a" if kind == "array" else b"t"
    entry = db.reader.read(lambda state: state.entry(name))
    assert entry is not None
    return max(len(part.runs) for part in entry.sequences)


def gather(db: Database, kind: str) -> None:
    with db.transaction() as txn:
        txn.array("a").compact() if kind == "array" else txn.table("t").compact()
        txn[b"mark"] = b"after"


def is_right(db: Database, kind: str, expected: dict[str, Any], before: int) -> bool:
    """Whether it is gathered; asserts that all else is as it must be."""
    wide = np.asarray(db.array("a")) if kind == "array" else db.table("t")["w"]
    np.testing.assert_array_equal(wide, expected["w"])
    if kind == "table":
        assert db.table("t")["n"].tolist() == [None, 1] * (ROWS // 2)
        assert db.table("t").find([0, 512, ROWS - 1, ROWS]).tolist() == [0, 512, ROWS - 1, -1]
    assert db.check() == []
    done = db[b"mark"] == b"after"
    assert (runs(db, kind) < before / 2) == done
    return done


def both(kind: str) -> tuple[SimFilesystem, Database, dict[str, Any], int, range]:
    """A scattered store, its runs, and the steps in which it would be gathered."""
    fs, db, expected = scattered(kind)
    before, first = runs(db, kind), fs.steps
    gather(db, kind)
    steps = range(first, fs.steps)
    assert db.session.counts["large_commits"] == 1, "only the rows themselves: gathering goes through the log"
    db.close()
    fs, db, expected = scattered(kind)
    assert fs.steps == first
    return fs, db, expected, before, steps


@pytest.mark.parametrize("kind", ["table", "array"])
def test_recovery_gathers_again(kind: str) -> None:
    fs, db, expected, before, _ = both(kind)
    gather(db, kind)
    images = fs.crash_images(random.Random(1), 3)
    fs.kill()
    db.disown()
    for image in [*images, fs.spawn()]:
        with open_on(image, PATH, "w", OPTIONS) as again:
            assert is_right(again, kind, expected, before)
        with open_on(image, PATH, "w", OPTIONS) as again:
            assert is_right(again, kind, expected, before)


def after_a_power_cut(fs: SimFilesystem, rng: random.Random) -> list[SimFilesystem]:
    return fs.crash_images(rng, 2)


def after_a_death(fs: SimFilesystem, rng: random.Random) -> list[SimFilesystem]:
    return [fs.spawn()]


@pytest.mark.parametrize("what_is_left", [after_a_power_cut, after_a_death])
@pytest.mark.parametrize("kind", ["table", "array"])
def test_a_crash_on_the_way_leaves_it_scattered_or_gathered(
    kind: str, what_is_left: Callable[[SimFilesystem, random.Random], list[SimFilesystem]]
) -> None:
    fs, db, expected, before, steps = both(kind)
    found = set()
    for at in sorted({*steps[:: max(1, len(steps) // 5)], *steps[-3:]}):
        fs.crash_at = at
        with pytest.raises(SimCrash):
            gather(db, kind)
        images = what_is_left(fs, random.Random(at))
        fs.kill()
        db.disown()
        for image in images:
            with open_on(image, PATH, "w", OPTIONS) as again:
                found.add(is_right(again, kind, expected, before))
        fs, db, expected = scattered(kind)
    db.close()
    assert found == {False, True}
