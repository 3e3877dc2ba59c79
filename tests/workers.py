"""What the child processes of the tests do; each function is one process' life (see ``children.Child``)."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

import mmstore
from children import listen, say
from mmstore.database.database import Database
from mmstore.disk import libc
from mmstore.disk.locks import FileLocks
from mmstore.disk.posix import PosixFilesystem

SPACES = ("one", "two", "three")


def write_number(db: Database, huge_every: int = 0) -> int:
    """One transaction that writes the next number everywhere, and now and then makes the file grow; returns it."""
    with db.transaction() as txn:
        number = int(txn.keyspace("one")[b"number"]) + 1
        text = b"%d" % number
        for name in SPACES:
            space = txn.keyspace(name)
            space[b"number"] = text
            space[b"%d" % (number % 100)] = text * (number % 50)
            if number % 20 == 0:
                space[b"large%d" % (number // 20 % 4)] = text * 20_000
        if huge_every and number % huge_every == 0:
            txn[b"huge"] = bytes(3 << 20)  # too large for the log: committed by a checkpoint
        rows = 1 + number % 7 * 10
        txn.table("numbers").append({"n": np.full(rows, number), "half": np.full(rows, number / 2)})
        txn[b"rows"] = b"%d" % (int(txn[b"rows"]) + rows)
        txn[b"seen%d" % os.getpid()] = text
    return number


def prepare(path: str, **options: Any) -> None:
    """Make the store that ``write_number`` writes to."""
    with mmstore.open(path, **options) as db, db.transaction() as txn:
        for name in SPACES:
            txn.keyspace(name)[b"number"] = b"0"
        txn.create_table("numbers", {"n": "i8", "half": "f8"})
        txn[b"rows"] = b"0"


def same_number(db: Database) -> int:
    """Look at one state in several ways; every part must show the same number, which is returned."""
    with db.snapshot() as snapshot:
        number = snapshot.keyspace("one")[b"number"]
        n = int(number)
        for name in SPACES:
            space = snapshot.keyspace(name)
            assert space[b"number"] == number, f"{name} has {space[b'number']!r}, one has {number!r}"
            if n:
                assert space[b"%d" % (n % 100)] == number * (n % 50)
                recent = n // 20 * 20
                if recent:
                    large = space.view(b"large%d" % (recent // 20 % 4))
                    assert large[:100] == (b"%d" % recent * 100)[:100] and large.nbytes == len(str(recent)) * 20_000
        table = snapshot.table("numbers")
        column, half = table["n"], table["half"]
        assert len(column) == len(half) == len(table) == int(snapshot[b"rows"])
        if len(column):
            assert column[-1] == n == half[-1] * 2 and (np.diff(column[-2000:]) >= 0).all() and column[0] == 1
    return n


def writer(path: str, seconds: float, durability: str) -> None:
    """Write ever higher numbers, as fast as the others let it."""
    end = time.monotonic() + seconds
    written = 0
    with mmstore.open(path, durability=durability, timeout=30) as db:
        while time.monotonic() < end:
            write_number(db)
            written += 1
    say(written)


def reader(path: str, seconds: float, flag: str) -> None:
    """Look all the time, hold on to some of what it sees, and measure the longest wait."""
    end = time.monotonic() + seconds
    looks, longest, last = 0, 0.0, 0
    kept: list[tuple[Any, Any]] = []
    with mmstore.open(path, flag, timeout=30) as db:
        while time.monotonic() < end:
            began = time.thread_time(), time.monotonic()
            number = same_number(db)
            # Time that the processor gave to others is not a wait of ours; what sleeps on a lock is.
            longest = max(longest, time.monotonic() - began[1])
            assert number >= last, f"{number} after {last}: time went back"
            last = number
            looks += 1
            if looks % 50 == 1:
                with db.snapshot() as snapshot:
                    column = snapshot.table("numbers")["n"]
                kept.append((column, column.copy()))
                del kept[:-5]
            for column, copy in kept[-1:]:
                assert (column == copy).all()
        for column, copy in kept:
            assert (column == copy).all()
        kept.clear()
    say({"looks": looks, "longest": longest, "last": last})


def write_until_killed(path: str, durability: str, huge_every: int) -> None:
    """Say each number after its commit was acknowledged."""
    with mmstore.open(path, durability=durability, timeout=30) as db:
        say("ready")
        while True:
            number = write_number(db, huge_every)
            say(number)
            if number % 37 == 0:
                db.checkpoint()


def hold_transaction(path: str) -> None:
    """Keep a transaction open until told to go on; then commit it."""
    with mmstore.open(path) as db:
        with db.transaction() as txn:
            txn[b"held"] = b"1"
            say("holding")
            listen()
        say("done")


def hold_pins(path: str, flag: str) -> None:
    """Hold a snapshot, a view and a column until killed."""
    with mmstore.open(path, flag) as db:
        snapshot = db.snapshot()
        view, column = db.view(b"large"), db.table("numbers")["n"]
        say({"pid": os.getpid(), "txn": snapshot.txn_id, "bytes": len(view), "rows": len(column)})
        listen()
        snapshot.close()


def wait_for_commits(path: str, count: int) -> None:
    """Sleep in wait() for ``count`` commits; say when each was seen, and the processor time in all."""
    with mmstore.open(path, "r") as db:
        seen = db.txn_id
        say("waiting")
        before = time.process_time()
        for _ in range(count):
            seen = db.wait(seen, timeout=60)
            say({"txn": seen, "at": time.time()})
        say({"cpu": time.process_time() - before})


def open_and_close(path: str, seconds: float, seed: int) -> None:
    """Attach, look or write, and leave, over and over: the first and the last one make and retire the log."""
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        with mmstore.open(path, rng.choice("rwwc"), durability=rng.choice(["full", "relaxed"]), timeout=30) as db:
            same_number(db)
            if db._flag != "r" and rng.random() < 0.7:
                with db.transaction() as txn:
                    txn[b"count%d" % os.getpid()] = b"%d" % (count + 1)
                count += 1
            if rng.random() < 0.1:
                assert db.check() == []
            assert int(db.get(b"count%d" % os.getpid(), b"0")) == count
    say(count)


def fill_large(path: str) -> None:
    """Make a store of 100 MB with records of every size."""
    with mmstore.open(path, durability="relaxed") as db:
        for n in range(24):
            db[b"large%d" % n] = bytes(4 << 20)
        db.put_many(np.arange(20_000), np.zeros((20_000, 100), "u1"))


def count_touched(path: str) -> None:
    """Open a store and say how many of its pages came into memory by that."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        whole = np.frombuffer(mapped, np.uint8)
        before = libc.resident_pages(whole.ctypes.data, len(whole))
        with mmstore.open(path):
            say([before, libc.resident_pages(whole.ctypes.data, len(whole))])
        del whole


# --- for multiprocessing: told what to do by arguments, and answering through a queue ------------------------


def in_spawned(db: Database, answers: Any, action: str) -> None:
    """The child of a spawn, with a handle that was pickled."""
    try:
        if action == "write":
            db[b"child"] = b"%d" % os.getpid()
            db.keyspace("spawned")[b"k"] = b"v" * 100_000
        found = dict(db)
        view = db.view(b"large")
        answers.put((found, bytes(view[:10]), db.table("numbers")["n"].tolist(), db.check()))
        del view
        db.close()
    except BaseException as error:
        answers.put(repr(error))
        raise


def contend(path: str, rounds: int, results: multiprocessing.Queue[float]) -> None:
    """Take the writer lock again and again, counting in the file; tells the longest wait."""
    locks, worst = FileLocks(PosixFilesystem().open(path)), 0.0
    for _ in range(rounds):
        began = time.monotonic()
        locks.writer_acquire(began + 30)
        worst = max(worst, time.monotonic() - began)
        at = int(Path(path).read_text())
        time.sleep(0.0005)
        Path(path).write_text(str(at + 1))
        locks.writer_release()
    results.put(worst)
