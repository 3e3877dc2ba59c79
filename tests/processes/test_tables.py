"""Tables between processes: readers of a keyed table with text see whole commits; views cross a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import mmstore

ROWS = 300
TURNS = 60 if mmstore.compiled() else 20

READER = """
import sys
import numpy as np, mmstore
path, flag, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen, kept = set(), []
with mmstore.open(path, flag) as db:
    print("ready", flush=True)
    while not seen or max(seen) < int(sys.argv[4]):
        with db.snapshot() as snap:
            table = snap.table("t")
            found = table.find(np.arange(rows))
            assert (found >= 0).all() and table.live_rows == rows, "not every key is there"
            taken = table.take(found)
            turn = int(taken["turn"][0])
            assert (taken["turn"] == turn).all(), "two commits in one snapshot"
            assert taken["k"].tolist() == list(range(rows))
            texts, numbers = taken["s"].tolist(), taken["n"].tolist()
            assert texts == [f"{turn} {k}" * (k % 3) for k in range(rows)]
            assert numbers == [None if (k + turn) % 3 == 0 else turn for k in range(rows)]
            assert sum(len(batch) for batch in table.scan(["k"], [("n", "is null")])) == numbers.count(None)
            column = table["s"]
            if turn not in seen and len(kept) < 20:
                kept.append((column, column.tolist()))
            seen.add(turn)
        for column, before in kept:
            assert column.tolist() == before, "a view changed"
print(len(seen), flush=True)
"""


def turned(turn: int) -> dict[str, Any]:
    return {
        "k": np.arange(ROWS),
        "turn": np.full(ROWS, turn),
        "s": [f"{turn} {k}" * (k % 3) for k in range(ROWS)],
        "n": [None if (k + turn) % 3 == 0 else turn for k in range(ROWS)],
    }


def test_readers_see_whole_commits_while_a_writer_updates_and_compacts(tmp_path: Path) -> None:
    path = tmp_path / "data.mms"
    schema = {"k": "i8", "turn": "i8", "s": "utf8", "n": mmstore.nullable("i4")}
    with mmstore.open(path, durability="relaxed") as db:
        table = db.create_table("t", schema, key="k")
        table.append(turned(0))
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READER, str(path), flag, str(ROWS), str(TURNS)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for flag in ("r", "w")
        ]  # fmt: skip
        try:
            for reader in readers:
                assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
            for turn in range(1, TURNS + 1):
                how = turn % 4
                if how == 0:
                    table.append(turned(turn), on_conflict="replace")
                    continue
                with db.transaction() as txn:
                    mine = txn.table("t")
                    if how == 1:  # all at once
                        data = turned(turn)
                        rows = mine.find(data["k"])
                        mine.update(rows, {name: data[name] for name in ("turn", "s", "n")})
                    elif how == 2:  # gone and there again, elsewhere
                        mine.delete(slice(None))
                        mine.append(turned(turn))
                    else:
                        mine.delete(mine.find(np.arange(0, ROWS, 2)))
                        mine.compact()
                        mine.append(turned(turn), on_conflict="replace")
                if turn % 10 == 0:
                    db.checkpoint()
            for reader in readers:
                said, error = reader.communicate(timeout=120)
                assert reader.returncode == 0, error
                assert int(said) >= 1
        finally:
            for reader in readers:
                reader.kill()
                reader.communicate()
        assert db.check() == [] and db.readers() == []


def test_views_cross_a_fork(tmp_path: Path) -> None:
    with mmstore.open(tmp_path / "data.mms", durability="relaxed") as db:
        table = db.create_table("t", {"k": "i8", "s": "utf8", "n": mmstore.nullable("i4")}, key="k")
        data = {"k": np.arange(1000), "s": [f"text {i}" for i in range(1000)], "n": [None, 1] * 500}
        table.append(data)
        array = db.create_array("a", "f4", (100, 3))
        views, part, whole = [table[name] for name in table.columns], table[100:200], array[:]
        batches = table.scan(batch_rows=300)
        first = next(batches)
        child = os.fork()
        if child == 0:
            try:
                assert views[0].tolist() == list(range(1000)) and views[1].tolist() == data["s"]
                assert part["s"][0] == "text 100" and views[2].tolist() == data["n"] and not whole.any()
                assert len(first) + sum(map(len, batches)) == 1000
                table.update([0, 1], {"s": "from the child", "n": 7})
                table.delete([2])
                table.compact()
                table.append({"k": [5000], "s": ["more"], "n": [None]})
                array[5] = 5
                assert table.find([0, 2, 5000]).tolist() == [0, -1, 999]
                assert views[1].tolist() == data["s"] and not whole.any()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert views[1].tolist() == data["s"] and views[2].tolist() == data["n"] and not whole.any()
        assert len(first) + sum(map(len, batches)) == 1000
        assert table[0]["s"] == "from the child" and table.find([2]).tolist() == [-1] and array[5].tolist() == [5] * 3
        assert db.check() == []
