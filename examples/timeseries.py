"""Ticks: appended durably in small batches, followed by another process, searched by time.

    python examples/timeseries.py [STORE]

A table of half a million past ticks gets new ones, 50 at a time, each batch durable when `append` returns.  A second
process sleeps in `db.wait()` until there is something new and reads only that; it never sees half a batch, and the
writer never waits for it.  A span of time is found by bisection, since rows come in its order.  If DuckDB is
installed, it queries the table where it lies.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import mmstore
from mmstore.database import Database

SCHEMA = {"at": "datetime64[us]", "symbol": "category", "price": "f8", "size": "i4"}
SYMBOLS = np.array(["ACME", "INIT", "OMNI", "ZORG"])
PAST, BATCHES, BATCH = 500_000, 100, 50
STEP = np.timedelta64(50, "ms")
START = np.datetime64("2024-03-01T09:00", "us")


def made_up(first: int, n: int) -> dict[str, Any]:
    """The ticks number [first, first + n): a random walk, one each 50 ms."""
    rng = np.random.default_rng(first)
    return {
        "at": START + np.arange(first, first + n) * STEP,
        "symbol": SYMBOLS[rng.integers(len(SYMBOLS), size=n)],
        "price": 100 + np.cumsum(rng.normal(0, 0.01, n)).round(4),
        "size": rng.integers(1, 500, n, np.int32),
    }


def follow(path: str) -> None:
    """The other process: read what is new after each commit, until the writer says that it is done."""
    with mmstore.open(path, "r") as db:
        seen, rows, wakes, volume = 0, PAST, 0, 0
        print("ready", flush=True)
        while True:
            newest = db.wait(seen, timeout=30)  # sleeps until somebody commits
            assert newest > seen, "nobody has written for long"
            seen = newest
            with db.snapshot() as snap:
                ticks = snap.table("ticks")
                new = ticks[rows:]  # views of the rows since the last look
                done = b"done" in snap
            assert len(new) % BATCH == 0, "half a batch was seen"
            assert (new["at"] == START + (rows + np.arange(len(new))) * STEP).all()
            volume += int(new["size"].sum())
            rows += len(new)
            wakes += 1
            if done:
                print(f"{rows - PAST} {volume} {wakes}", flush=True)
                return


def write(path: Path, db: Database) -> None:
    """Append durable batches while the other process follows, and compare what both of them counted."""
    ticks = db.table("ticks")
    with subprocess.Popen([sys.executable, __file__, "follow", path], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None and follower.stdout.readline() == "ready\n"
        started = time.perf_counter()
        for number in range(BATCHES):
            ticks.append(made_up(PAST + number * BATCH, BATCH))  # one sync of the log
        seconds = time.perf_counter() - started
        db[b"done"] = b""
        rows, volume, wakes = map(int, follower.stdout.readline().split())
    assert follower.returncode == 0
    assert rows == BATCHES * BATCH and volume == int(ticks["size"][PAST:].sum())
    print(f"{BATCHES} durable batches of {BATCH} ticks, {seconds / BATCHES * 1e3:.2f} ms each")
    print(f"the other process read {rows:,} new ticks in {wakes} looks")


def minute(db: Database) -> None:
    """One minute of one symbol: the blocks' smallest and largest times leave one block, bisection its rows."""
    ticks = db.table("ticks")
    begin = START + np.timedelta64(5, "h")
    end = begin + np.timedelta64(1, "m")
    where = [("at", ">=", begin), ("at", "<", end), ("symbol", "==", "ACME")]
    prices = np.concatenate([batch["price"] for batch in ticks.scan(["price"], where)])
    at, symbol, price = ticks["at"], ticks["symbol"], ticks["price"]
    chosen = (at >= begin) & (at < end) & (symbol.codes == symbol.categories.index("ACME"))
    assert (prices == price[chosen]).all() and 200 < len(prices) < 400
    print(f"ACME from {begin.item():%H:%M} to {end.item():%H:%M}: {len(prices)} ticks, mean {prices.mean():.3f}")


def query(db: Database) -> None:
    """The same table, read by DuckDB in place."""
    import duckdb

    ticks = db.table("ticks")
    found = duckdb.sql("select symbol, sum(size) from ticks group by symbol order by symbol").fetchall()
    symbol = ticks["symbol"]
    volume = np.bincount(symbol.codes, ticks["size"])
    assert dict(found) == {word: int(volume[code]) for code, word in enumerate(symbol.categories)}
    print("volume by DuckDB: " + ", ".join(f"{word} {int(size):,}" for word, size in found))


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mmstore-timeseries-") as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "ticks.mms")
        with mmstore.open(path, "n") as db:
            db.create_table("ticks", SCHEMA).append(made_up(0, PAST))
            write(path, db)
            minute(db)
            if importlib.util.find_spec("duckdb") is not None:
                query(db)
            assert db.check() == []
    print(f"{time.perf_counter() - started:.1f} s in all")


if __name__ == "__main__":
    follow(sys.argv[2]) if sys.argv[1:2] == ["follow"] else main()
