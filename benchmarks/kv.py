"""Keys and values against peers, in one run: `python benchmarks/kv.py [--n 1000000] [--rounds 3] [--peers lmdb,...]`.

Random 16-byte keys, 100-byte values.  In each round every engine does a row before any does the next one, in
turning order; the table shows medians in ns per operation, and mmstore's ratio to each peer (above 1: faster).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from harness import header, markdown, median, timed
from peers import NAMES, Peer, make

KEY, VALUE = 16, 100
BATCH = 1000
ROWS = (
    "load",
    "get hit",
    "get miss",
    "get_many",
    "scan",
    "bytes on disk per item",
    "put relaxed",
    "put durable",
)


class Data:
    """The same keys and values for all."""

    def __init__(self, n: int, seed: int) -> None:
        rng = random.Random(seed)
        self.keys = [rng.randbytes(KEY) for _ in range(n)]
        self.values = [rng.randbytes(VALUE) for _ in range(n)]
        some = min(n, 200_000)
        self.hits = rng.sample(self.keys, some)
        self.misses = [rng.randbytes(KEY) for _ in range(some)]
        self.batches = [self.hits[at : at + BATCH] for at in range(0, some - some % BATCH, BATCH)] or [self.hits]
        self.relaxed = [rng.randbytes(KEY) for _ in range(min(n, 20_000))]
        self.durable = [rng.randbytes(KEY) for _ in range(min(n, 2_000))]


def measure(peer: Peer, row: str, data: Data) -> float:
    """The figure of one row: ns per operation, or bytes."""
    n = len(data.keys)

    def expect(work: Callable[[], int], count: int) -> Callable[[], None]:
        def run() -> None:
            found = work()
            if found != count:
                raise AssertionError(f"{peer.name}, {row}: expected {count}, found {found}")

        return run

    if row == "load":
        peer.open(durable=False)
        return timed(lambda: peer.load(data.keys, data.values)) / n * 1e9
    if row == "get hit":
        return timed(expect(lambda: peer.get(data.hits), len(data.hits))) / len(data.hits) * 1e9
    if row == "get miss":
        return timed(expect(lambda: peer.get(data.misses), 0)) / len(data.misses) * 1e9
    if row == "get_many":
        count = sum(map(len, data.batches))
        return timed(expect(lambda: sum(map(peer.get_many, data.batches)), count)) / count * 1e9
    if row == "scan":
        return timed(expect(peer.scan, n)) / n * 1e9
    if row == "bytes on disk per item":
        peer.close()
        size = peer.disk_bytes() / n
        peer.open(durable=False)
        return size
    keys = data.relaxed if row == "put relaxed" else data.durable
    if row == "put durable" or "load" in peer.skips:
        if "load" not in peer.skips:
            peer.close()
        peer.open(durable=row == "put durable")
    values = data.values[: len(keys)]
    result = timed(lambda: peer.put(keys, values)) / len(keys) * 1e9
    if "load" in peer.skips:
        peer.close()
    return result


def run(names: list[str], n: int, rounds: int, rows: list[str], folder: Path) -> dict[str, dict[str, list[float]]]:
    """row -> engine -> one figure a round."""
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds):
        data = Data(n, seed=turn)
        peers = [make(name, folder / f"{name}{turn}") for name in names]
        for row in rows:
            order = peers[turn % len(peers) :] + peers[: turn % len(peers)]
            for peer in order:
                if row not in peer.skips:
                    figures[row][peer.name].append(measure(peer, row, data))
        for peer in peers:
            if "load" not in peer.skips:
                peer.close()
            shutil.rmtree(folder / f"{peer.name}{turn}", ignore_errors=True)
    return figures


def table(figures: dict[str, dict[str, list[float]]], names: list[str]) -> str:
    """Medians, and mmstore's ratio to the others."""
    cells: dict[str, list[str]] = {}
    for row, found in figures.items():
        middle = {name: median(values) for name, values in found.items()}
        mine = middle.get("mmstore")
        line = []
        for name in names:
            if name not in middle:
                line.append("-")
            elif name == "mmstore" or mine is None:
                line.append(f"{middle[name]:,.0f}")
            else:
                line.append(f"{middle[name]:,.0f} ({middle[name] / mine:.2f} x)")
        cells[row] = line
    return markdown(names, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="items (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rows", default=",".join(ROWS), help="load is always needed")
    parser.add_argument(
        "--folder", type=Path, help="on the file system to measure (default: the system's temporary one)"
    )
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    options = parser.parse_args()
    names = options.peers.split(",")
    print(
        header(
            f"{options.n:,} random {KEY}-byte keys, {VALUE}-byte values; ns per operation (median of {options.rounds})"
        )
    )
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="mmstore-bench-") as folder:
        figures = run(names, options.n, options.rounds, options.rows.split(","), Path(folder))
    print(table(figures, names))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
