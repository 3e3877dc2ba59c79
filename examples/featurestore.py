"""A feature store: features by key for training and for serving, at one point in time, read by forked workers.

    python examples/featurestore.py [STORE]

Features of 20,000 users are a table with a key and with columns that may lack a value; a vector for each user lies in
a keyspace, from which `get_array` gathers a batch.  A training run holds a snapshot: table and vectors of one commit,
for as long as it likes, in all of its worker processes, while serving goes on and the features change under a writer.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import mmstore
from mmstore import nullable
from mmstore.database import Database

USERS, SIZE, BATCH = 20_000, 32, 500
SCHEMA = {
    "user": "i8",
    "country": "category",
    "age": nullable("i2"),  # not everybody says
    "spent": nullable("f4"),  # nothing bought yet
    "last_seen": "datetime64[s]",
    "orders": "i4",
}
COUNTRIES = np.array(["at", "ch", "de", "fr", "it"])


def fill(db: Database) -> None:
    """Features and vectors of all users, in one commit."""
    rng = np.random.default_rng(1)
    users = rng.permutation(USERS) * 17  # in no order
    orders = rng.poisson(3, USERS).astype("i4")
    with db.transaction() as txn:
        txn.create_table("features", SCHEMA, key="user").append(
            {
                "user": users,
                "country": COUNTRIES[rng.integers(len(COUNTRIES), size=USERS)],
                "age": np.ma.masked_greater(rng.integers(18, 110, USERS, np.int16), 90),
                "spent": np.ma.masked_array(orders * np.float32(12.5), orders == 0),
                "last_seen": np.datetime64("2024-01-01", "s") + rng.integers(0, 10**7, USERS),
                "orders": orders,
            }
        )
        txn.keyspace("vectors").put_many(users, np.repeat(users[:, None], SIZE, axis=1).astype("f4"))


def serve(db: Database, user: int) -> dict[str, Any]:
    """What an online model asks for: the newest features of one user."""
    return db.table("features").lookup([user]).tolist()[0]


def training_batch(snap: Any, users: Any) -> Any:
    """A matrix of features, missing ones replaced by the column's mean, the vectors beside them."""
    rows = snap.table("features").lookup(users, ["age", "spent", "orders"])
    vectors, there = snap.keyspace("vectors").get_array(users, "f4", (SIZE,))
    assert there.all()
    columns = [rows["orders"].astype("f4")]
    for name in ("age", "spent"):
        values = rows[name].to_masked()
        columns.append(np.asarray(values.filled(values.mean()), "f4"))
    return np.column_stack([*columns, vectors])


def work(snap: Any, users: Any, out: Any) -> None:
    """A worker, forked from the process that holds the snapshot: sums over its batches."""
    total = np.zeros(3 + SIZE)
    for start in range(0, len(users), BATCH):
        total += training_batch(snap, users[start : start + BATCH]).sum(axis=0, dtype="f8")
    out.send(total)


def train(db: Database, users: Any) -> Any:
    """Sums over all users by two workers, while this process goes on changing what they read."""
    context = multiprocessing.get_context("fork")
    features = db.table("features")
    with db.snapshot() as snap:
        pipes: list[Any] = []
        workers: list[Any] = []
        for part in np.array_split(users, 2):
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=work, args=(snap, part, theirs))
            worker.start()
            theirs.close()
            pipes.append(ours)
            workers.append(worker)
        for round in range(20):  # every user buys something, whatever the workers are at
            rows = slice(round, None, 20)
            features.update(rows, {"orders": features["orders"][rows] + 1000})
        total = sum(pipe.recv() for pipe in pipes)
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
    return total


def main() -> None:
    started = time.perf_counter()
    warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)  # a checkpoint may run in a thread
    with tempfile.TemporaryDirectory(prefix="mmstore-features-") as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "features.mms")
        with mmstore.open(path, "n", durability="relaxed") as db:
            fill(db)
            features = db.table("features")
            users = np.sort(features["user"])
            orders = int(features["orders"].sum())
            age, spent = features["age"], features["spent"]
            assert age.null_count and spent.null_count == sum(map(len, features.scan(where=[("orders", "==", 0)])))
            print(f"{len(features):,} users; {age.null_count:,} without an age, {spent.null_count:,} bought nothing")

            before = serve(db, 17)
            total = train(db, users)
            after = serve(db, 17)
            assert total[0] == orders, "a worker saw a later state than its snapshot"
            assert (total[3:] == users.sum()).all()
            assert after["orders"] == before["orders"] + 1000 and after | {"orders": 0} == before | {"orders": 0}
            assert int(features["orders"].sum()) == orders + 1000 * USERS
            print(
                f"two workers summed {orders:,} orders, as of their snapshot; now there are {orders + 1000 * USERS:,}"
            )

            old = features.scan(["user"], where=[("last_seen", "<", np.datetime64("2024-01-15"))])
            gone = np.concatenate([batch.numbers for batch in old])
            with db.transaction() as txn:  # a user goes from the table and the vectors at once, or not at all
                txn.keyspace("vectors").delete_many(txn.table("features")["user"][gone])
                txn.table("features").delete(gone)
                txn.table("features").compact()
            assert len(features) == USERS - len(gone) == len(db.keyspace("vectors"))
            assert features["last_seen"].min() >= np.datetime64("2024-01-15")
            assert db.check() == []
            print(f"{len(gone):,} users who were not seen lately are gone")
    print(f"{time.perf_counter() - started:.1f} s in all")


if __name__ == "__main__":
    main()
