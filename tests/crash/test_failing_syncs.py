"""After a failed sync nothing is acknowledged by any handle until all have left and recovery has run (I7).

The disk lies as disks do: what a failed sync did not write stays in the cache and counts as clean, so no later
sync writes it.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

import pytest

import simdisk
from mmstore.database.database import Database
from mmstore.errors import Error, SyncError
from powercut import Bench, Content, Violation, laboratory, observe, options
from simdisk import SimFilesystem
from stage import ACTIONS, RING, Change, Stage, stride

SYNCS = {"sync_data", "sync_all", "sync_range", "write_back"}


class Lies:
    """Fails the sync number ``at`` of the processes it watches, and forgets what was to be written."""

    def __init__(self, bench: Bench, at: int, rng: random.Random) -> None:
        self.bench = bench
        self.at = at
        self.rng = rng
        self.syncs = 0
        self.failed = False

    def watch(self, fs: SimFilesystem) -> None:
        before = fs.hook

        def hook(operation: str, name: str, off: int, n: int) -> None:
            if before is not None:
                before(operation, name, off, n)
            if operation in SYNCS and not self.bench._judging:
                self.syncs += 1
                if self.syncs - 1 == self.at:
                    self.failed = True
                    forget(self.bench.disk.names[name], self.rng)
                    raise OSError(errno.EIO, os.strerror(errno.EIO), name)

        fs.hook = hook


def forget(file: simdisk._File, rng: random.Random) -> None:
    """Some of what was not durable is written, the rest is called clean without having been."""
    share = rng.choice((0.0, 0.5, 0.9))
    for page, sectors in list(file.pending.items()):
        content = bytearray(file.pages.get(page, bytes(4096)))
        for sector, versions in sectors.items():
            if rng.random() < share:
                content[sector * 512 : sector * 512 + 512] = versions[-1]
        file.pages[page] = bytes(content)
    file.pending.clear()


def leave(database: Database) -> None:
    """Close a handle of a poisoned store."""
    try:
        database.close()
    except SyncError:
        pass


def fail(stage: Stage, action: Change, before: int, at: int) -> bool:
    """One of two processes has its sync number ``at`` fail; returns whether it came to that."""
    bench = stage.bench
    bench.watching = False
    _, first = stage.process()
    _, second = stage.process()
    for number in range(before):
        stage.commit(second if number % 2 else first, 30, 200)
    lies = Lies(bench, at, stage.rng)
    lies.watch(bench.processes[0])
    error: BaseException | None = None
    try:
        action(first, stage)
    except SyncError as raised:
        error = raised
    if not lies.failed:
        assert error is None
        return False
    floor = bench.history.floor
    third = bench.open(bench.process(), "w", options(stage.durability, RING))
    for database in (first, second, third):
        with pytest.raises(SyncError, match="close every handle"):
            database[b"more"] = b"1"
        if database.session.current_log() is not None:
            with pytest.raises(SyncError):
                database.sync()
        assert observe(database) in bench.history.states
        assert not database.check()
    assert bench.history.floor == floor
    for database in (first, third, second):
        bench._live.remove(database)
        leave(database)
    bench.watching = True
    _, survivor = stage.process()
    states, found = bench.history.states, observe(survivor)
    index = max(number for number, state in enumerate(states) if state == found)
    if index < floor:
        raise Violation(f"seed {bench.seed}: state {index} is back, {floor} was acknowledged")
    del states[index + 1 :]
    bench.history.durable(index)
    stage.settle_down(survivor)
    bench.close(survivor)
    return True


@pytest.mark.parametrize("name", ACTIONS)
def test_each_sync_fails_in_turn(name: str) -> None:
    action, before = ACTIONS[name]
    at, failed = 0, True
    while failed:
        with laboratory(at):
            stage = Stage(at)
            try:
                failed = fail(stage, action, before, at)
            finally:
                stage.bench.shut()
        at += stride(name)
    assert at > 1 or name == "rolled back"


def scene(at: int, prepare: Callable[[Stage], Database], strike: Callable[[Stage, Database], None]) -> bool:
    """A sync fails while one process is alone; then another comes."""
    with laboratory(at):
        stage = Stage(at)
        bench = stage.bench
        try:
            bench.watching = False
            database = prepare(stage)
            lies = Lies(bench, at, stage.rng)
            for fs in bench.processes:
                lies.watch(fs)
            states = list(bench.history.states)
            try:
                strike(stage, database)
            except (SyncError, OSError):
                pass
            if database in bench._live:
                bench.died(database)
            bench.watching = True
            _, survivor = stage.process()
            assert observe(survivor) == states[-1]
            stage.settle_down(survivor)
            bench.close(survivor)
        finally:
            bench.shut()
        return lies.failed


def with_commits(stage: Stage) -> Database:
    _, database = stage.process()
    for size in (30, 200, 2 * RING, 40):
        stage.commit(database, size)
    return database


def test_a_sync_that_fails_in_the_last_close() -> None:
    at = 0
    while scene(at, with_commits, lambda stage, database: stage.bench.close(database)):
        at += 1
    assert at > 3


def test_a_sync_that_fails_in_a_recovery() -> None:
    def strike(stage: Stage, database: Database) -> None:
        stage.bench.died(database)
        again = stage.bench.open(stage.bench.processes[0], "w", options(ring=RING))
        stage.bench.died(again)

    at = 0
    while scene(at, with_commits, strike):
        at += 1
    assert at > 3


def test_a_sync_that_fails_while_a_store_is_made() -> None:
    """Then there is none, and the next one makes it."""
    at, failed = 0, True
    while failed:
        with laboratory(at):
            bench = Bench(at, images=2)
            bench.watching = False
            fs = bench.process()
            lies = Lies(bench, at, random.Random(at))
            lies.watch(fs)
            try:
                bench.open(fs)
            except (OSError, Error):
                pass
            failed = lies.failed
            for database in list(bench._live):
                bench.died(database)
            bench.watching = True
            database = bench.open(bench.process())
            assert observe(database) == Content()
            bench.close(database)
            bench.shut()
        at += 1


def test_threads_that_share_a_failed_sync_all_hear_of_it() -> None:
    import threading

    with laboratory(0):
        bench = Bench(0)
        bench.watching = False
        fs = bench.process()
        database = bench.open(fs)
        for number in range(3):
            database[b"%d" % number] = b"x"
        hook = fs.hook
        outcomes: list[object] = []
        go = threading.Event()

        def failing(operation: str, name: str, off: int, n: int) -> None:
            if operation == "sync_data":
                go.wait(0.05)
                raise OSError(errno.EIO, "the disk is gone")

        def write(number: int) -> None:
            try:
                database[b"thread %d" % number] = b"y"
                outcomes.append("acknowledged")
            except SyncError as error:
                outcomes.append(error)

        fs.hook = failing
        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fs.hook = hook
        assert len(outcomes) == 6 and "acknowledged" not in outcomes
        with pytest.raises(SyncError):
            database[b"later"] = b"z"
        assert database[b"1"] == b"x" and b"later" not in database
        bench._live.remove(database)
        leave(database)
        bench.shut()
