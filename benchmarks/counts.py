"""What doesn't depend on the machine's speed, counted: `python benchmarks/counts.py [NAME...] [--folder F]`.

    syncs        syncs of one small durable commit
    pages        pages that one put copies, among 1,000,000 keys
    fill         how full 1,000,000 random puts leave the buckets
    checkpoint   bytes that a checkpoint writes after 1,000 random overwrites in a 256 MiB file, also after the
                 file was read through with cold caches
    size         file size after 1,000,000 overwrites of 1,000 keys, one commit each, without and with a reader
    open         pages that opening a file of 10 GiB touches

Each prints what was asked for and what was found; the exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mmstore
from harness import header
from mmstore import format as fmt
from mmstore.database import Database
from mmstore.disk import libc
from mmstore.keyspace.descriptor import IndexDescriptor

KEY, VALUE = 16, 100
MIB = 1 << 20


class Result:
    """Prints figures beside what was asked for, and remembers whether all were reached."""

    def __init__(self) -> None:
        self.reached = True

    def __call__(self, what: str, found: float, most: float | None = None, least: float | None = None) -> None:
        good = (most is None or found <= most) and (least is None or found >= least)
        self.reached &= good
        asked = f"at most {most:,}" if most is not None else f"at least {least:,}" if least is not None else ""
        print(f"  {what:<66} {found:>14,.6g}   {asked}{'' if good else '   MISSED'}", flush=True)


@contextmanager
def filled(folder: Path, name: str, n: int, many: bool = False) -> Iterator[tuple[Database, list[bytes]]]:
    """A store with `n` random keys."""
    rng = random.Random(1)
    keys = [rng.randbytes(KEY) for _ in range(n)]
    with mmstore.open(folder / name, durability="relaxed") as db:
        if many:
            db.put_many(keys, [rng.randbytes(VALUE) for _ in range(n)])
        else:
            with db.transaction() as txn:
                for key in keys:
                    txn.put(key, rng.randbytes(VALUE))
        db.checkpoint()
        yield db, keys


# --- syncs and pages ---------------------------------------------------------------------------------


def count_syncs(folder: Path, result: Result) -> None:
    calls: list[str] = []

    def counted(module: object, name: str) -> Callable[[], None]:
        original = getattr(module, name)

        def call(*arguments: object) -> object:
            calls.append(name)
            return original(*arguments)

        setattr(module, name, call)
        return lambda: setattr(module, name, original)

    commits = 100
    with mmstore.open(folder / "syncs.mms") as db:
        db[b"first"] = b"makes the log"
        undo = [counted(os, "fdatasync"), counted(os, "fsync"), counted(libc, "sync_mapping")]
        try:
            for number in range(commits):
                db[b"%d" % number] = b"v"
        finally:
            for restore in undo:
                restore()
    result("syncs per small durable commit", len(calls) / commits, most=1, least=None)


def count_pages(folder: Path, result: Result) -> None:
    for n in (1_000, 1_000_000):
        with filled(folder, f"pages{n}.mms", n) as (db, keys):
            store, work = db.session.store, db.session.workspace
            place, placed = store.place, [0]

            def counting(runs: list[tuple[int, bytes]], *piece: int) -> None:
                placed[0] += sum(memoryview(data).nbytes for _, data in runs)  # noqa: B023
                place(runs, *piece)  # noqa: B023

            store.place = counting  # type: ignore[method-assign, assignment]
            rng, pages = random.Random(2), []
            for key in rng.sample(keys, 1_000):
                db[key] = rng.randbytes(VALUE)
                pages.append(work.placed)
            result(f"index pages copied by a put among {n:,} keys, on average", sum(pages) / len(pages))
            result(f"index pages copied by a put among {n:,} keys, at worst", max(pages), most=4)
            whole = placed[0] / len(pages) / db.session.page_size
            result("   the same in pages, with the free list's own bytes", whole)


def count_fill(folder: Path, result: Result) -> None:
    with filled(folder, "fill.mms", 1_000_000) as (db, _):
        result("share of a bucket used after 1,000,000 random puts", bucket_fill(db), least=0.75)
        db.checkpoint()
    result("bytes on disk per item (16 + 100 bytes)", (folder / "fill.mms").stat().st_blocks * 512 / 1e6, most=180)
    with filled(folder, "many.mms", 1_000_000, many=True) as (db, _):
        result("share of a bucket used after one put_many", bucket_fill(db))
    result("bytes on disk per item after one put_many", (folder / "many.mms").stat().st_blocks * 512 / 1e6)


def bucket_fill(db: Database) -> float:
    """Used bytes of the main index's buckets: entries and records, without garbage."""
    session = db.session
    size = session.page_size
    root = IndexDescriptor.unpack(session.published().main)

    def entries(page: int, count: int) -> set[int]:
        data = session.pread(count * fmt.ENTRY_SIZE, page * size + fmt.PAGE_HEADER)
        return {int.from_bytes(data[at : at + fmt.ENTRY_SIZE], "little") for at in range(0, len(data), fmt.ENTRY_SIZE)}

    pages = {root.root}
    for _ in range(root.height - 2):
        pages = {entry for page in pages for entry in entries(page, fmt.directory_entries(size)) if entry}
    buckets = {entry for page in pages for entry in entries(page, fmt.node_slots(size))}
    used = 0
    for page in buckets:
        bucket = fmt.BUCKET.unpack(session.pread(fmt.PAGE_HEADER, page * size))
        records = size - bucket["top"] * fmt.UNIT - bucket["garbage"] * fmt.UNIT
        used += records + bucket["count"] * fmt.ENTRY_SIZE
    return used / (len(buckets) * (size - fmt.PAGE_HEADER))


# --- bytes -------------------------------------------------------------------------------------------


def written(path: Path) -> int:
    """Bytes written so far to the file's block device, by anyone.

    Not /proc/self/io: where a file lies in large folios that counts a folio for each page of it that is written.
    """
    device = path.stat().st_dev
    statistics = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(statistics.read_text().split()[6]) * fmt.SECTOR


def forget(path: Path) -> None:
    """Drop the file from the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def count_checkpoint(folder: Path, result: Result) -> None:
    path = folder / "checkpoint.mms"
    with filled(folder, path.name, 256 * MIB // 150) as (_, keys):
        pass
    rng = random.Random(3)
    for read_through in (False, True):
        found, placed = [], 0
        for _ in range(3):  # others may write meanwhile: the least counts
            forget(path)
            if read_through:
                with open(path, "rb", buffering=0) as file:
                    while file.read(MIB):
                        pass
            with mmstore.open(path, durability="relaxed") as db:
                db[keys[0]] = rng.randbytes(VALUE)  # makes the log
                db.checkpoint()
                os.sync()
                before = written(path)
                store, numbers = db.session.store, set[int]()
                place = store.place

                def noting(runs: list[tuple[int, bytes]], *piece: int) -> None:
                    for at, data in runs:
                        whole = range(at, at + len(data) - 4095, 4096)  # pages; the free list's deltas are no page
                        numbers.update(offset // 4096 for offset in whole)  # noqa: B023
                    place(runs, *piece)  # noqa: B023

                store.place = noting
                for key in rng.sample(keys, 1_000):
                    db[key] = rng.randbytes(VALUE)
                db.checkpoint()
                found.append(written(path) - before)
                size, placed = db.session.store.size / MIB, len(numbers)
        words = "after the file was read through" if read_through else "with cold caches"
        result(f"MiB for 1,000 puts and a checkpoint ({size:.0f} MiB file), {words}", min(found) / MIB, most=8)
        result("   of these the index pages", placed * 4096 / MIB)


def count_size(folder: Path, result: Result) -> None:
    commits, keys = 1_000_000, [b"key %d" % number for number in range(1_000)]
    for reader in (False, True):
        path = folder / f"size{reader}.mms"
        worst = 0
        with mmstore.open(path, durability="relaxed") as db:
            snapshot = None
            for number in range(commits):
                if reader and number == commits // 4:
                    snapshot = db.snapshot()
                if snapshot is not None and number == commits // 2:
                    worst = path.stat().st_blocks * 512
                    snapshot.close()
                    snapshot = None
                db[keys[number % 1_000]] = b"value %d" % number
            db.checkpoint()
            size = path.stat().st_blocks * 512
        with_what = "with a reader in between" if reader else "without a reader"
        result(f"MiB of file after 1,000,000 overwrites {with_what}", size / MIB, most=16 if reader else 8)
        result("   after the last close", path.stat().st_blocks * 512 / MIB, most=16 if reader else 8)
        if reader:
            result("   while the snapshot was held", worst / MIB)


def resident(path: Path) -> int:
    """Pages of the file that are in memory."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        with memoryview(mapped) as view:
            return libc.resident_pages(libc.address_of(view), len(view))


def count_open(folder: Path, result: Result) -> None:
    path = folder / "open.mms"
    with mmstore.open(path, durability="relaxed") as db:
        piece = bytes(256 * MIB)
        for number in range(40):
            db[b"large %d" % number] = piece
        with db.transaction() as txn:
            for number in range(100_000):
                txn.put(b"small %d" % number, b"v" * 100)
    forget(path)
    there = resident(path)
    before = resource.getrusage(resource.RUSAGE_SELF)
    with mmstore.open(path):
        after = resource.getrusage(resource.RUSAGE_SELF)
        touched = resident(path) - there
        faults = after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt
        result(f"pages read in by opening {path.stat().st_size / MIB / 1024:.1f} GiB (mincore)", touched, most=64)
        result("   page faults of any kind meanwhile", faults)


COUNTS = {
    "syncs": count_syncs,
    "pages": count_pages,
    "fill": count_fill,
    "checkpoint": count_checkpoint,
    "size": count_size,
    "open": count_open,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COUNTS)} (default: all)")
    parser.add_argument("--folder", type=Path, help="on the file system to count on")
    options = parser.parse_args()
    print(header("Counts"))
    result = Result()
    for name in options.names or COUNTS:
        print(name)
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="mmstore-counts-") as folder:
            COUNTS[name](Path(folder), result)
    sys.exit(not result.reached)


if __name__ == "__main__":
    main()
