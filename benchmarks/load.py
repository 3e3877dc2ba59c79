"""Loading a CSV: `python benchmarks/load.py [--rows 2000000] [--rounds 3]`.

mmstore's loader, whole and durable at the end, against pyarrow parsing the same file and keeping nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

import mmstore
from harness import header, markdown, median, timed
from mmstore.integrations import csv_input


def write(path: Path, rows: int) -> None:
    """Integers, floats, text, a few missing values."""
    rng = np.random.default_rng(1)
    price = pa.array(rng.normal(100, 10, rows).round(4), mask=rng.random(rows) < 0.01)
    words = rng.choice(["alpha", "beta", "gamma", "delta"], rows)
    columns = {"id": np.arange(rows), "price": price, "volume": rng.integers(0, 10**6, rows), "symbol": words}
    csv.write_csv(pa.table(columns), path)


def parse(path: Path) -> None:
    """pyarrow alone, in the same batches."""
    read = csv.ReadOptions(block_size=csv_input.BATCH_BYTES)
    for _ in csv.open_csv(path, read_options=read):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="mmstore-bench-") as name:
        folder = Path(name)
        path = folder / "rows.csv"
        write(path, options.rows)
        size = path.stat().st_size / 1e6
        print(header(f"CSV of {options.rows:,} rows, {size:.0f} MB"))
        names = ("pyarrow parses", "load into a table", "load keys and values")
        figures: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(options.rounds):
            store = folder / f"{turn}.mms"
            figures[names[0]].append(timed(lambda: parse(path)))
            figures[names[1]].append(timed(lambda: mmstore.load(path, store, table="rows")))  # noqa: B023
            figures[names[2]].append(
                timed(lambda: mmstore.load(path, store, keyspace="records", key="id", value="price"))  # noqa: B023
            )
            store.unlink()
        least = median(figures[names[0]])
        rows = {
            name: [f"{median(s):.2f}", f"{size / median(s):.0f}", f"{least / median(s):.2f} x"]
            for name, s in figures.items()
        }
        print(markdown(["s", "MB/s", "of pyarrow's rate"], rows))


if __name__ == "__main__":
    main()
