"""Each kernel by itself: `python benchmarks/kernels.py [--n 100000] [--rounds 5]`; ns per call, medians.

What a call costs from Python, arguments and result included, since that is how the layers above pay for it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

import mmstore
from harness import header, markdown, median, timed
from mmstore import format as fmt
from mmstore.kernels import hashing, strings
from mmstore.kernels.atomics import load_acquire, store_release
from mmstore.kernels.extremes import extremes

KEY, VALUE, BLOCK = 16, 100, 65536


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

    def packed(keys: list[bytes]) -> tuple[bytes, npt.NDArray[np.int64]]:
        return b"".join(keys), np.arange(len(keys) + 1) * KEY

    wanted, all_keys, all_values = packed(shuffled), packed(keys), b"".join(values)
    out, found = bytearray(VALUE * n), bytearray(n)

    def put_packed() -> None:
        with mmstore.open(":memory:") as memory, memory.transaction() as txn:
            index = txn.changing(b"").index(b"", create=True)
            assert index is not None
            index.put_packed(*all_keys, all_values, VALUE)

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
        "Tree.gather, a key": (lambda: tree.gather(*wanted, out, VALUE, found), n),
        "Tree.items, a record": (scan, n),
        "Index.put into an empty index": (put_all, n),
        "Index.put_packed into an empty index, a record": (put_packed, n),
        "dict.get, hit": each(dict(zip(keys, values, strict=True)).get, shuffled),
    }


def columns(n: int) -> dict[str, tuple[Callable[[], object], int]]:
    """The same for loops over columns: name -> (work, rows or values in it)."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 2 * KEY, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    text = rng.integers(97, 123, offsets[-1], np.uint8)
    rows = rng.permutation(n)
    places = np.concatenate([[0], np.cumsum(lengths[rows])])
    starts = offsets[rows]
    out = bytearray(len(text))
    codes = rng.integers(0, 1000, n, np.int32)
    block = rng.random(BLOCK)
    ordered = np.sort(block)
    views = np.zeros((n, 4), np.int32)  # as Arrow's string views: a length, a prefix, a buffer, an offset
    views[:, 0], views[:, 3] = lengths, offsets[:-1]
    return {
        f"copy_slices of {KEY} bytes, random, a row": (lambda: strings.copy_slices(text, starts, places, out), n),
        f"copy_views of {KEY} bytes, a row": (lambda: strings.copy_views(views, [text], offsets, out), n),
        f"check_utf8 of {KEY} bytes of ASCII, a row": (lambda: strings.check_utf8(text, offsets), n),
        "check_offsets, an offset": (lambda: strings.check_offsets(offsets, len(text)), n),
        "check_codes, a code": (lambda: strings.check_codes(codes, 1000), n),
        f"extremes of {BLOCK:,} f8, a value": (lambda: extremes(block), BLOCK),
        f"extremes of {BLOCK:,} f8 in order, a value": (lambda: extremes(ordered), BLOCK),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(header(f"Kernels; {options.n:,} keys of {KEY} bytes, values of {VALUE}, pages of {fmt.MIN_PAGE_SIZE}"))
    with tempfile.TemporaryDirectory(prefix="mmstore-bench-") as folder:
        work = cases(options.n, Path(folder)) | columns(options.n)
        figures: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(options.rounds):
            for name, (run, calls) in work.items():
                figures[name].append(timed(run) / calls * 1e9)
    print(markdown(["ns a call"], {name: [f"{median(found):,.1f}"] for name, found in figures.items()}))


if __name__ == "__main__":
    main()
