"""A full disk is an exception: nothing is lost, reading goes on, deleting works and makes room."""

from __future__ import annotations

import errno

import pytest

from mmstore.errors import DiskFullError
from powercut import Bench, Violation, laboratory, observe, options, scaled
from simdisk import SimFilesystem
from stage import ACTIONS, RING, Change, Stage, stride

ALLOCATIONS = {"allocate", "pwrite", "truncate", "create"}


class Full:
    """Has no room for the write or allocation number ``at``, and for ``more`` after it."""

    def __init__(self, bench: Bench, at: int, more: int) -> None:
        self.bench = bench
        self.at = at
        self.more = more
        self.seen = 0
        self.struck = False

    def watch(self, fs: SimFilesystem) -> None:
        before = fs.hook

        def hook(operation: str, name: str, off: int, n: int) -> None:
            if before is not None:
                before(operation, name, off, n)
            if operation in ALLOCATIONS and not self.bench._judging:
                self.seen += 1
                if self.at <= self.seen - 1 <= self.at + self.more:
                    self.struck = True
                    raise DiskFullError(errno.ENOSPC, "no room", name)

        fs.hook = hook


def strike(stage: Stage, action: Change, before: int, at: int, more: int) -> bool:
    bench = stage.bench
    bench.watching = False
    _, first = stage.process()
    _, second = stage.process()
    for number in range(before):
        stage.commit(second if number % 2 else first, 30, 200)
    full = Full(bench, at, more)
    full.watch(bench.processes[0])
    bench.watching = at % 4 == 0
    acknowledged = bench.history.floor
    try:
        action(first, stage)
    except DiskFullError:
        # Nothing was changed: the last state is the one that was acknowledged last.
        found = observe(first)
        if found != bench.history.states[bench.history.floor]:
            raise Violation(f"{found.differs(bench.history.states[bench.history.floor])} after a full disk") from None
        del bench.history.states[bench.history.floor + 1 :]
    full.more = -1
    assert bench.history.floor >= acknowledged
    bench.watching = True
    for database in (second, first):
        assert not database.check()
        stage.settle_down(database)
    for database in (first, second):
        bench.close(database)
    return full.struck


@pytest.mark.parametrize("more", [0, 3])
@pytest.mark.parametrize("name", ACTIONS)
def test_each_write_finds_no_room_in_turn(name: str, more: int) -> None:
    action, before = ACTIONS[name]
    at, struck = 0, True
    while struck:
        with laboratory(at):
            stage = Stage(at, images=1)
            try:
                struck = strike(stage, action, before, at, more)
            finally:
                stage.bench.shut()
        at += stride(name)
    assert at > 2


@pytest.mark.parametrize("size", [200, 1500, 20_000])
@pytest.mark.parametrize("eager", [True, False])
def test_a_store_that_fills_its_disk_can_be_emptied_again(size: int, eager: bool) -> None:
    with laboratory(size, eager):
        bench = Bench(size, images=1, continue_share=0.02)
        bench.watching = False
        fs = bench.process()
        database = bench.open(fs, "c", options(ring=RING))
        bench.disk.capacity = 5 << 20
        history, content, full = bench.history, bench.history.states[-1], 0
        number = 0
        try:
            while full < 3:
                content = content.copy()
                try:
                    with database.transaction() as txn:
                        for _ in range(1 + 30_000 // size):
                            key = b"%d" % number
                            txn[key] = content.spaces[""][key] = key * (size // len(key))
                            number += 1
                        index = history.begun(content, txn.txn_id)
                    history.durable(index)
                    del history.states[:-1]
                    history.floor, history.ids = 0, {txn.txn_id: 0}
                except DiskFullError:
                    full += 1
                    del history.states[1:]
                    content = history.states[0]
                    assert dict(database) == content.spaces[""]
            bench.watching = True
            bench.images = 1
            keys = sorted(content.spaces[""])
            batch, rest = 5, list(keys)
            while rest:
                content, doomed = content.copy(), rest[:batch]
                try:
                    with database.transaction() as txn:
                        for key in doomed:
                            del txn[key]
                            del content.spaces[""][key]
                        index = history.begun(content, txn.txn_id)
                except DiskFullError:
                    assert batch > 5, "a few can always be deleted"
                    del history.states[history.floor + 1 :]
                    content, batch = history.states[-1], 5
                    continue
                history.durable(index)
                del rest[:batch]
                batch *= 2
                bench.watching = bench.judged < scaled(50)
            assert observe(database) == content and not content.spaces[""]
            bench.watching = False
            for key in keys[: len(keys) // 2]:  # and there is room again, at the second attempt at the latest
                try:
                    database[key] = b"x" * size
                except DiskFullError:
                    database[key] = b"x" * size
            assert len(database) == len(keys) // 2 and not database.check()
            bench._live.clear()
            database.close()
        finally:
            bench.shut()
