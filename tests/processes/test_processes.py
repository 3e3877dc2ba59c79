"""Several processes on one store: whole commits, nobody waits to read, the dead hold nobody up (I4, I8)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import mmstore
import workers
from children import Child

SECONDS = float(os.environ.get("MMSTORE_STRESS_SECONDS", "20" if mmstore.compiled() else "8"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    workers.prepare(str(tmp_path / "data.mms"))
    return str(tmp_path / "data.mms")


def only_one_file(path: str) -> bool:
    return os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_two_writers_and_four_readers_see_whole_commits_only(path: str) -> None:
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(Child("workers", "reader", path, SECONDS, flag)) for flag in ("r", "w", "r", "w")
        ]
        writers = [
            stack.enter_context(Child("workers", "writer", path, SECONDS, durability))
            for durability in ("full", "relaxed")
        ]
        written = [writer.hear(SECONDS + 60) for writer in writers]
        looks = [reader.hear(60) for reader in readers]
        for child in writers + readers:
            child.join()
    with mmstore.open(path) as db:
        last = workers.same_number(db)
        assert db.check() == [] and db.readers() == []
        rows = len(db.table("numbers"))
    assert min(written) > SECONDS, f"a writer starved: {written}"
    assert all(look["looks"] > SECONDS and look["last"] <= last for look in looks), looks
    # No lock is awaited; what a look takes is its work and the processor's turns, with six processes on few of those.
    assert max(look["longest"] for look in looks) < 3, looks
    assert os.path.getsize(path) < (40 << 20) + rows * 16 * 4 and only_one_file(path)


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_a_killed_writer_loses_nothing_and_holds_nobody_up(path: str, durability: str) -> None:
    seconds = SECONDS / 4
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(Child("workers", "reader", path, seconds, "w"))
        second = stack.enter_context(Child("workers", "writer", path, seconds, durability))
        kills, acknowledged = 0, 0
        end = time.monotonic() + seconds
        with mmstore.open(path, timeout=20) as db:
            while time.monotonic() < end:
                with Child("workers", "write_until_killed", path, durability, rng.choice([0, 13])) as victim:
                    assert victim.hear(30) == "ready"
                    time.sleep(rng.random() ** 2 * 0.5)
                    victim.kill()
                    said = victim.heard()
                    mine = b"seen%d" % victim.pid
                kills += 1
                began = time.monotonic()
                with db.transaction() as txn:
                    assert time.monotonic() - began < 15
                    if said:
                        assert int(txn[mine]) >= said[-1], "an acknowledged commit is lost"
                        acknowledged += len(said)
                    txn.pop(mine, None)
                workers.same_number(db)
                if kills % 4 == 0:
                    assert db.check() == []
            assert second.hear(60) > 10 and reader.hear(60)["looks"] > 10
            reader.join()
            second.join()
            workers.same_number(db)
            assert db.check() == [] and db.readers() == []
    assert kills > seconds / 4 and acknowledged > 0 and only_one_file(path)


def test_all_are_killed_and_the_next_recovers(path: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    last = 0
    for turn in range(5):
        with contextlib.ExitStack() as stack:
            victims = [
                stack.enter_context(Child("workers", "write_until_killed", path, "full", large))
                for large in (0, 7)[: 1 + turn % 2]
            ]
            for victim in victims:
                assert victim.hear(30) == "ready"
            time.sleep(rng.random() * 0.4)
            for victim in victims:
                os.kill(victim.pid, signal.SIGKILL)
            for victim in victims:
                victim.kill()
            said = [number for victim in victims for number in victim.heard()]
        with mmstore.open(path, rng.choice("wr")) as db:
            number = workers.same_number(db)
            assert number >= max([last, *said]) and db.check() == []
            last = number
    assert last > 5


def test_handles_come_and_go_in_several_processes(path: str) -> None:
    seconds = min(SECONDS / 4, 5)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child("workers", "open_and_close", path, seconds, seed)) for seed in range(4)]
        counts = [child.hear(seconds + 60) for child in children]
        for child in children:
            child.join()
    assert min(counts) >= 3
    with mmstore.open(path) as db:
        found = [int(value) for key, value in db.items() if key.startswith(b"count")]
        assert sorted(found) == sorted(counts) and db.check() == []
    assert only_one_file(path)


def test_the_lock_of_another_process_times_out(path: str) -> None:
    with Child("workers", "hold_transaction", path) as holder, mmstore.open(path, timeout=0.3) as db:
        assert holder.hear() == "holding"
        began = time.monotonic()
        with pytest.raises(mmstore.LockTimeout, match="timeout"):
            db[b"k"] = b"v"
        assert 0.25 < time.monotonic() - began < 5
        with pytest.raises(TimeoutError):
            db.transaction(timeout=0)
        assert b"held" not in db and db[b"rows"] == b"0"  # reading waits for nobody
        with db.snapshot() as snapshot:
            assert b"held" not in snapshot
        holder.tell()
        assert holder.hear() == "done"
        holder.join()
        db[b"k"] = b"v"
        assert db[b"held"] == b"1" and db.check() == []


def test_a_killed_holder_of_the_lock_is_followed_at_once(path: str) -> None:
    with Child("workers", "hold_transaction", path) as holder, mmstore.open(path, timeout=10) as db:
        assert holder.hear() == "holding"
        holder.kill()
        began = time.monotonic()
        db[b"k"] = b"v"
        assert time.monotonic() - began < 5 and b"held" not in db and db.check() == []


def test_wait_wakes_on_commits_of_other_processes_and_sleeps_meanwhile(path: str) -> None:
    with mmstore.open(path, durability="relaxed") as db, Child("workers", "wait_for_commits", path, 8) as sleeper:
        assert sleeper.hear() == "waiting"
        late = []
        for number in range(8):
            time.sleep(0.5 if number == 0 else 0.1)
            db[b"k"] = b"%d" % number
            committed = time.time()
            seen = sleeper.hear()
            assert seen["txn"] == db.txn_id
            late.append(seen["at"] - committed)
        assert sleeper.hear()["cpu"] < 0.4
        sleeper.join()
    assert sorted(late)[4] < 0.06 and max(late) < 3, late


@pytest.mark.parametrize("flag", ["w", "r"])
def test_a_killed_reader_pins_nothing(path: str, flag: str) -> None:
    with mmstore.open(path, durability="relaxed") as db:
        db[b"large"] = b"x" * 300_000
        db.table("numbers").append({"n": np.arange(50_000), "half": np.zeros(50_000)})
        with Child("workers", "hold_pins", path, flag) as holder:
            seen = holder.hear()
            assert seen["bytes"] == 300_000 and seen["rows"] == 50_000
            (info,) = db.readers()
            assert info.pid == seen["pid"] == holder.pid and not info.own and info.pins >= 3
            assert info.oldest_txn == seen["txn"] == info.newest_txn and abs(info.since - time.time()) < 60
            db[b"large"] = b"y" * 300_000
            db.drop("numbers")
            for n in range(300):
                db[b"k"] = b"%d" % n
            db.checkpoint()
            held = db.stats()["pages"]["held"]
            assert held * 4096 > 1_000_000
            holder.kill()
        assert db.readers() == []
        for n in range(200):
            db[b"k"] = b"%d" % n
        db[b"larger"] = bytes(1 << 20)  # looks for room, and so through the held runs
        db[b"larger2"] = bytes(1 << 20)
        size = os.path.getsize(path)
        for n in range(100):
            db[b"larger%d" % (n % 2)] = bytes(400_000)
            for m in range(20):
                db[b"k"] = b"%d" % m
        assert db.check() == [] and os.path.getsize(path) <= size + (24 << 20)
        stats = db.stats()["pages"]
        assert stats["held"] * 4096 < stats["total"] * 4096


def test_reading_processes_outlive_the_writer(path: str) -> None:
    with Child("workers", "hold_pins", path, "r") as holder:
        with pytest.raises(AssertionError, match="KeyError"):
            holder.hear()
    with mmstore.open(path) as db:
        db[b"large"] = b"x" * 300_000
    with Child("workers", "hold_pins", path, "r") as holder:
        assert holder.hear()["bytes"] == 300_000
        for n in range(3):
            with mmstore.open(path) as db:
                db[b"large"] = bytes([n]) * 300_000
        holder.tell()
        holder.join()
    with mmstore.open(path) as db:
        assert db.view(b"large") == bytes([2]) * 300_000 and db.check() == []
    assert only_one_file(path)
