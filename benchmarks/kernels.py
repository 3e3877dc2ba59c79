"""Each kernel by itself: `python benchmarks/kernels.py [--n 100000] [--rounds 5]`; ns per call, medians.

What a call costs from Python, arguments and result included, since that is how the layers above pay for it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import xxhash

import mmstore
from harness import header, markdown, median, timed
from mmstore import format as fmt
from mmstore.kernels import hashing
from mmstore.kernels.atomics import load_acquire, store_release

KEY, VALUE = 16, 100


def cases(n: int, folder: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """name -> (work, calls in it)."""
    rng = random.Random(1)
    keys = [rng.randbytes(KEY) for _ in range(n)]
    misses = [rng.randbytes(KEY) for _ in range(n)]
    values = [rng.randbytes(VALUE) for _ in range(n)]
    page = rng.randbytes(4096)
    word = memoryview(bytearray(64))

    db = mmstore.open(folder / "kernels.mms", durability="relaxed")
    db.put_many(keys, values)
    tree = db.reader.current().main
    shuffled = rng.sample(keys, n)
    batches = [shuffled[at : at + 1000] for at in range(0, n, 1000)]

    def each(function: Callable[..., object], *arguments: list[bytes]) -> tuple[Callable[[], object], int]:
        def run() -> None:
            for given in zip(*arguments, strict=True):
                function(*given)

        return run, len(arguments[0])

    def repeat(function: Callable[[], object]) -> tuple[Callable[[], object], int]:
        def run() -> None:
            for _ in range(n):
                function()

        return run, n

    def put_all() -> None:
        with mmstore.open(":memory:") as memory, memory.transaction() as txn:
            index = txn.changing(b"").index(b"", create=True)
            assert index is not None
            put = index.put
            for key, value in zip(keys, values, strict=True):
                put(key, value)

    def scan() -> None:
        for _ in tree.items():
            pass

    return {
        "an empty call": each(lambda key: None, keys),
        "xxh3_64 of 16 bytes, xxhash package": each(xxhash.xxh3_64_intdigest, keys),
        "xxh3_64 of 16 bytes": each(hashing.xxh3_64, keys),
        "xxh3_64 of 100 bytes": each(hashing.xxh3_64, values),
        "xxh3_64 of a page": repeat(lambda: hashing.xxh3_64(page, 1)),
        "load_acquire": repeat(lambda: load_acquire(word, 0)),
        "store_release": repeat(lambda: store_release(word, 0, 1)),
        "Tree.get, hit": each(tree.get, shuffled),
        "Tree.get, miss": each(tree.get, misses),
        "Tree.contains": each(tree.contains, shuffled),
        "Tree.get_many(1000), a key": (each(tree.get_many, batches)[0], n),  # type: ignore[arg-type]
        "Tree.items, a record": (scan, n),
        "Index.put into an empty index": (put_all, n),
        "dict.get, hit": each(dict(zip(keys, values, strict=True)).get, shuffled),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(header(f"Kernels; {options.n:,} keys of {KEY} bytes, values of {VALUE}, pages of {fmt.MIN_PAGE_SIZE}"))
    with tempfile.TemporaryDirectory(prefix="mmstore-bench-") as folder:
        work = cases(options.n, Path(folder))
        figures: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(options.rounds):
            for name, (run, calls) in work.items():
                figures[name].append(timed(run) / calls * 1e9)
    print(markdown(["ns a call"], {name: [f"{median(found):,.0f}"] for name, found in figures.items()}))


if __name__ == "__main__":
    main()
