"""Values and columns beyond 4 GiB, where 32 bits end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import mmstore
from mmstore import format as fmt
from mmstore.disk.posix import PosixBackend

GIB = 1 << 30

written_in_full = pytest.mark.skipif(
    os.environ.get("MMSTORE_STRESS") != "long", reason="writes 9 GB: 30 s and more; MMSTORE_STRESS=long runs it"
)


def test_everything_behind_4_gib_of_a_sparse_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole of more than 4 GiB is taken out of the file first, so that what comes next lies behind it."""

    def sparse(self: PosixBackend, off: int, n: int) -> None:
        os.ftruncate(self.fileno(), max(self.size(), off + n))

    monkeypatch.setattr(PosixBackend, "allocate", sparse)
    hole = (4 * GIB >> 12) + 1000
    rng = np.random.default_rng(1)
    with mmstore.open(path) as db:
        with db.transaction() as txn:
            freelist = db.session.freelist
            taken = freelist.alloc(600, fmt.FREE_INDEX), freelist.alloc(hole, fmt.FREE_BULK)
            txn[b"first"] = b"1"
        born = txn.txn_id
        assert db.stats()["file_size"] > 4 * GIB
        expected = {b"%d" % n: rng.bytes(n % 200) for n in range(20_000)} | {b"large": rng.bytes(3_000_000)}
        db.update(expected)
        table = db.create_table("t", {"x": "f8"})
        table.append({"x": np.arange(100_000.0)})
        view, column = np.frombuffer(db.view(b"large"), np.uint8), table["x"]
        with db.snapshot() as snapshot:
            offset, _, _ = snapshot.state.main.locate(b"large")
        assert offset > 4 * GIB
        with db.transaction() as txn:
            freelist.free(taken[0], 600, born, fmt.FREE_INDEX)
            freelist.free(taken[1], hole, born, fmt.FREE_BULK)
            txn[b"second"] = b"2"
        assert db.check() == []
        whole = {**expected, b"first": b"1", b"second": b"2"}
        assert dict(db) == whole and view.tobytes() == expected[b"large"]
        db.put_many(np.arange(5000), rng.random((5000, 20)))
    with mmstore.open(path) as db:
        assert len(db) == len(whole) + 5000 and db.check() == []
        np.testing.assert_array_equal(db.table("t")["x"], np.arange(100_000.0))
    assert column[-1] == 99_999


@written_in_full
def test_a_value_beyond_4_gib(path: Path) -> None:
    size = 4 * GIB + 12_345
    value = np.zeros(size, np.uint8)  # costs memory only where it is written
    marks = [0, 1, GIB, 4 * GIB - 1, 4 * GIB, 4 * GIB + 1, size - 1]
    value[marks] = range(1, len(marks) + 1)
    with mmstore.open(path) as db:
        db[b"k"] = value
        del value
        view = np.frombuffer(db.view(b"k"), np.uint8)
        assert len(view) == size and view[marks].tolist() == list(range(1, len(marks) + 1))
        db[b"other"] = b"x"
    with mmstore.open(path, "r") as db:
        again = np.frombuffer(db.view(b"k"), np.uint8)
        assert again[marks].tolist() == list(range(1, len(marks) + 1)) and int(again.sum()) == sum(range(1, 8))
        assert db[b"other"] == b"x" and db.check() == []
        del again
    with mmstore.open(path) as db:
        del db[b"k"]
        assert db.check() == [] and view[marks].tolist() == list(range(1, len(marks) + 1))


@written_in_full
def test_a_column_beyond_4_gib(path: Path) -> None:
    rows = 4 * GIB // 8 + 1000
    with mmstore.open(path) as db:
        table = db.create_table("t", {"x": "i8"})
        for start in range(0, rows, GIB // 16):
            table.append({"x": np.arange(start, min(start + GIB // 16, rows))})
        column = table["x"]
        assert len(column) == rows and column[[0, rows // 2, -1]].tolist() == [0, rows // 2, rows - 1]
        assert all(column[at] == at for at in range(4 * GIB // 8 - 3, 4 * GIB // 8 + 3))
        assert db.check() == []
