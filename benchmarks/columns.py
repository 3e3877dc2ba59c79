"""Columns against peers, in one run: `python benchmarks/columns.py [--rows 5000000] [--rounds 5] [--peers memmap,...]`.

Three tables: columns of i8, f8, f4, i4 written in batches of 100,000 rows, read and appended to; rows found by 100,000
random keys among 5,000,000; a query of DuckDB over TPC-H's lineitem (made by tpchgen-cli).  In each round every store
does a row before any does the next one, in turning order; the tables show medians in milliseconds, and the ratio
to mmstore (above 1: mmstore is faster).  What takes a few milliseconds is done five times in a round, each time by a
new handle, and the least counts: it is as long as the turn of another process that comes between.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import mmstore
from harness import header, markdown, median, timed
from peers.columns import NAMES, Batch, Peer, make

BATCH = 100_000
TAKEN = 200_000
KEYS = 100_000
SMALL = 100
APPENDS = 50
AGAIN = {"open": 5, "sum": 5, "take": 5}
ROWS = ("write", "open", "sum", "take", "append")
TITLES = {
    "write": "write, durable at the end",
    "open": "open",
    "sum": "first sum of a column, new handle",
    "take": "200,000 random rows, 4 columns",
    "append": "append 100 rows, durable each",
}
QUERY = "select l_returnflag, sum(l_extendedprice) from t group by 1 order by 1"

Figures = dict[str, dict[str, list[float]]]


class Data:
    """The same rows for all."""

    def __init__(self, rows: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.columns: Batch = {
            "id": np.arange(rows, dtype="i8"),
            "price": rng.random(rows),
            "size": rng.random(rows, dtype="f4"),
            "place": rng.integers(0, 1000, rows, dtype="i4"),
        }
        self.batches = [self.cut(at, at + BATCH) for at in range(0, rows, BATCH)]
        self.taken = rng.integers(0, rows, TAKEN)
        self.total = float(self.columns["price"].sum())
        self.appended = [self.cut(at * SMALL, (at + 1) * SMALL) for at in range(APPENDS)]

    def cut(self, start: int, stop: int) -> Batch:
        return {name: values[start:stop].copy() for name, values in self.columns.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection of one store's leavings in another's time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def clocked(work: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """(milliseconds, what it gave) of one call; no garbage of others is collected meanwhile."""
    with quiet():
        start = time.perf_counter()
        found = work(*args)
        return (time.perf_counter() - start) * 1e3, found


def measure(peer: Peer, row: str, data: Data) -> float:
    """Milliseconds that one row of the table takes."""
    if row == "write":
        return timed(lambda: peer.write(data.batches)) * 1e3
    if row == "append":
        peer.start_appending()
        peer.append(data.appended[0])
        start = time.perf_counter()
        for batch in data.appended[1:]:
            peer.append(batch)
        seconds = time.perf_counter() - start
        peer.close()
        return seconds / (APPENDS - 1) * 1e3
    if row == "open":
        seconds = timed(peer.open)
        peer.close()
        return seconds * 1e3
    names = list(data.columns)
    if row == "sum":
        start = time.perf_counter()
        peer.open()
        found = peer.sum("price")
        seconds = time.perf_counter() - start
        peer.close()
        if abs(found - data.total) > 1e-6 * data.total:
            raise AssertionError(f"{peer.name}: a sum of {found}, expected {data.total}")
        return seconds * 1e3
    peer.open()
    peer.take(data.taken[:1000], names)
    spent, taken = clocked(peer.take, data.taken, names)
    for name, values in data.columns.items():
        np.testing.assert_array_equal(np.asarray(taken[name]), values[data.taken])
    del taken
    peer.close()
    return spent


def columns(names: list[str], rows: int, rounds: int, which: list[str], folder: Path) -> Figures:
    """row -> store -> one figure a round."""
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds):
        data = Data(rows, turn)
        peers = [make(name, folder / f"{name}{turn}") for name in names]
        order = peers[turn % len(peers) :] + peers[: turn % len(peers)]
        for row in ROWS:
            for peer in order:
                if row not in peer.skips and (row in which or row == "write"):
                    with quiet():
                        spent = [measure(peer, row, data) for _ in range(AGAIN.get(row, 1))]
                    figures[row][peer.name].append(min(spent))
        for peer in peers:
            shutil.rmtree(folder / f"{peer.name}{turn}", ignore_errors=True)
    return figures


# --- keys --------------------------------------------------------------------------------------------


def keys(rows: int, rounds: int, folder: Path) -> Figures:
    """Find the rows of random keys and take all columns: an index in a file, in DuckDB, and pandas' in memory."""
    import duckdb
    import pandas as pd

    rng = np.random.default_rng(7)
    numbers = rng.permutation(rows * 4)[:rows].astype("i8")
    columns = {"id": numbers, "price": rng.random(rows), "place": rng.integers(0, 1000, rows, dtype="i4")}
    wanted = [rng.choice(numbers, KEYS, replace=False) for _ in range(rounds + 1)]
    figures: Figures = defaultdict(lambda: defaultdict(list))
    title = f"find and take {KEYS:,} random keys of {rows:,}"

    frame = pd.DataFrame(columns)
    index = pd.Index(frame["id"])

    def of_pandas(some: Any) -> Any:
        return frame.take(index.get_indexer(some))["price"].to_numpy()

    db = mmstore.open(folder / "keys.mms")
    table = db.create_table("t", {name: values.dtype for name, values in columns.items()}, key="id")
    figures["load with a key"]["mmstore"].append(timed(lambda: table.append(columns)) * 1e3)

    def of_mmstore(some: Any) -> Any:
        return table.take(table.find(some))["price"]

    duck = duckdb.connect(str(folder / "keys.duckdb"))
    duck.register("columns", frame)

    def load() -> None:
        duck.execute("create table t (id bigint primary key, price double, place integer)")
        duck.execute("insert into t select * from columns")
        duck.execute("checkpoint")

    figures["load with a key"]["duckdb"].append(timed(load) * 1e3)

    def of_duckdb(some: Any) -> Any:
        asked = pd.DataFrame({"nth": np.arange(len(some)), "id": some})  # noqa: F841 - the query names it
        found = duck.execute("select nth, t.* from asked join t using (id)").fetchnumpy()
        return found["price"][np.argsort(found["nth"])]

    asking = {"mmstore": of_mmstore, "duckdb": of_duckdb, "pandas": of_pandas}
    for turn, some in enumerate(wanted):
        expected = of_pandas(some)
        for name, ask in list(asking.items())[turn % 3 :] + list(asking.items())[: turn % 3]:
            spent, found = clocked(ask, some)
            np.testing.assert_array_equal(found, expected)
            if turn:
                figures[title][name].append(spent)
    duck.close()
    db.close()
    return figures


# --- a query -----------------------------------------------------------------------------------------


def lineitem(scale: float, folder: Path) -> Path:
    """TPC-H's largest table as Parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"lineitem-{scale:g}.parquet"
    if not path.exists():
        tool = Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
        made = folder / "made"
        options = ["-s", f"{scale:g}", "--tables", "lineitem", "--output-dir", str(made)]
        subprocess.run([str(tool), "parquet", *options], check=True)
        (made / "lineitem.parquet").rename(path)
    return path


def query(scale: float, rounds: int, folder: Path, cache: Path) -> Figures:
    """One query by DuckDB over the store's table, over the same as a pyarrow table, and over its own."""
    import duckdb
    import pyarrow.parquet as pq

    source = pq.ParquetFile(lineitem(scale, cache))
    figures: Figures = defaultdict(lambda: defaultdict(list))
    memory = source.read()
    db = mmstore.open(folder / "lineitem.mms")
    table = db.create_table("t", source.schema_arrow)
    seconds = timed(lambda: table.append(memory))
    figures["load"]["mmstore"].append(seconds * 1e3)
    duck = duckdb.connect()

    def ask(t: Any) -> list[Any]:
        return duck.sql(QUERY).fetchall()  # type: ignore[no-any-return]

    both: dict[str, Any] = {"mmstore": table, "pyarrow": memory}
    expected = None
    title = f"duckdb: {QUERY}; {source.metadata.num_rows:,} rows"
    for turn in range(rounds + 1):
        for name, t in list(both.items())[:: 1 if turn % 2 else -1]:
            spent, found = clocked(ask, t)
            expected = expected or found
            if found != expected:
                raise AssertionError(f"{name}: {found}, expected {expected}")
            if turn:
                figures[title][name].append(spent)
    db.close()
    return figures


# --- all of it ---------------------------------------------------------------------------------------


def table(figures: Figures, names: list[str]) -> str:
    """Medians, and their ratio to mmstore's."""
    cells: dict[str, list[str]] = {}
    for row, found in figures.items():
        middle = {name: median(values) for name, values in found.items()}
        mine = middle["mmstore"] if "mmstore" in middle else 0.0
        cells[TITLES.get(row, row)] = [
            "-" if name not in middle
            else f"{middle[name]:,.2f}" if name == "mmstore" or not mine
            else f"{middle[name]:,.2f} ({middle[name] / mine:.2f} x)"
            for name in names
        ]  # fmt: skip
    return markdown(names, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--what", default="columns,keys,query", help="which of the tables")
    parser.add_argument("--which", default=",".join(ROWS), help="rows of the first table; write is always needed")
    parser.add_argument("--scale", type=float, default=1, help="of TPC-H")
    parser.add_argument("--folder", type=Path, help="on the file system to measure")
    parser.add_argument("--cache", type=Path, help="where lineitem is kept from one run to the next")
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    options = parser.parse_args()
    names, what = options.peers.split(","), options.what.split(",")
    print(header(f"{options.rows:,} rows of i8, f8, f4, i4; milliseconds (median of {options.rounds})"))
    all_figures: Figures = {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="mmstore-bench-") as made:
        folder = Path(made)
        work: dict[str, tuple[list[str], Callable[[], Figures]]] = {
            "columns": (
                names,
                lambda: columns(names, options.rows, options.rounds, options.which.split(","), folder),
            ),
            "keys": (["mmstore", "duckdb", "pandas"], lambda: keys(options.rows, options.rounds, folder)),
            "query": (
                ["mmstore", "pyarrow"],
                lambda: query(options.scale, options.rounds, folder, options.cache or folder),
            ),
        }
        for name in what:
            engines, run = work[name]
            figures = run()
            all_figures |= figures
            print(table(figures, engines), flush=True)
    if options.json:
        options.json.write_text(json.dumps(all_figures, indent=1))


if __name__ == "__main__":
    main()
