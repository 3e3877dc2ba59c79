"""Pins: at every moment a scan by anyone sees each root that somebody still reads (I2), and none of the dead's (I8)."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmstore import format as fmt
from mmstore.disk.locks import FileLocks
from mmstore.disk.memory import MemoryFilesystem
from mmstore.errors import LockTimeout
from mmstore.kernels.atomics import load_acquire
from mmstore.pages import pins as pins_module
from mmstore.pages.live import LivePage
from mmstore.pages.pins import Pins
from mmstore.pages.readers import Interval, needed_intervals, readers
from mmstore.pages.root import Root
from strikes import struck


class Machine:
    """One live page, and handles that share it as processes do."""

    def __init__(self, first: int = 10) -> None:
        self.file = MemoryFilesystem().open("pins", create=True)
        self.live = LivePage(memoryview(bytearray(fmt.LIVE_SIZE)))
        self.live.rebuild(1, Root(first, 512), 0, 0, 1 << 21)

    def handle(self, writable: bool = True) -> Handle:
        return Handle(self, writable)

    def publish(self, times: int = 1) -> int:
        for _ in range(times):
            self.live.publish(Root(self.live.txn + 1, 512))
        return self.live.txn

    def needed(self, durable: bool = False) -> tuple[list[Interval], list[Interval]]:
        """What a writer that has no pins of its own must keep."""
        watcher = self.file.reopen()
        try:
            return needed_intervals(self.live, FileLocks(watcher), None, durable)
        finally:
            watcher.close()


class Handle:
    def __init__(self, machine: Machine, writable: bool) -> None:
        self.backend = machine.file.reopen()
        self.locks = FileLocks(self.backend)
        self.pins = Pins(machine.live, self.locks, machine.live.read_root, writable, self.backend)


class Owner:
    """Something that has pinned a snapshot."""


_owners: dict[tuple[int, int], list[Owner]] = defaultdict(list)  # by the pins' id and the txn id


@pytest.fixture(autouse=True)
def nobody() -> Iterator[None]:
    yield
    _owners.clear()


def pin(pins: Pins) -> Root:
    owner = Owner()
    root = pins.pin_snapshot(owner)
    _owners[id(pins), root.txn].append(owner)
    return root


def unpin(pins: Pins, txn: int) -> None:
    pins.release_snapshot(_owners[id(pins), txn].pop(), txn)


def lose(pins: Pins, txn: int) -> None:
    """Its owner dies without a word."""
    _owners[id(pins), txn].pop()


def covers(intervals: list[Interval], txn: int) -> bool:
    return any(low <= txn <= high for low, high in intervals)


NOTHING: tuple[list[Interval], list[Interval]] = ([], [])


def test_a_snapshot_holds_everything_of_its_root() -> None:
    machine = Machine()
    reader = machine.handle()
    assert pin(reader.pins).txn == 10
    machine.publish(3)
    assert machine.needed() == ([(10, 10)], [(10, 10)])
    unpin(reader.pins, 10)
    assert machine.needed() == NOTHING and reader.pins.alive == 0


def test_a_view_holds_bulk_runs_only_and_outlives_its_snapshot() -> None:
    machine = Machine()
    reader = machine.handle()
    pin(reader.pins)
    release = reader.pins.pin_view(10)
    unpin(reader.pins, 10)
    assert machine.needed() == ([], [(10, 10)]) and reader.pins.views_alive == 1
    release()
    assert machine.needed() == ([], [(10, 10)])  # a finalizer only asks
    reader.pins.drain()
    assert machine.needed() == NOTHING


def test_pins_of_one_handle_make_one_interval() -> None:
    machine = Machine()
    reader = machine.handle()
    for _ in range(5):
        pin(reader.pins)
        machine.publish(2)
    assert machine.needed()[0] == [(10, 18)]
    unpin(reader.pins, 10)
    unpin(reader.pins, 18)
    assert machine.needed()[0] == [(12, 16)]
    lose(reader.pins, 12)
    unpin(reader.pins, 16)
    reader.pins.drain()
    assert machine.needed()[0] == [(14, 14)]


def test_the_same_root_is_pinned_as_often_as_it_is_asked_for() -> None:
    machine = Machine()
    reader = machine.handle()
    pin(reader.pins)
    pin(reader.pins)
    unpin(reader.pins, 10)
    assert machine.needed()[0] == [(10, 10)]
    unpin(reader.pins, 10)
    assert machine.needed()[0] == []


def test_handles_have_intervals_of_their_own() -> None:
    machine = Machine()
    old, young = machine.handle(), machine.handle()
    pin(old.pins)
    machine.publish(1000)
    pin(young.pins)
    assert sorted(machine.needed()[0]) == [(10, 10), (1010, 1010)]
    own = needed_intervals(machine.live, old.locks, old.pins.slot, False)
    assert sorted(own[0]) == [(10, 10), (1010, 1010)]


def test_the_dead_pin_nothing_and_their_slot_is_taken_again() -> None:
    machine = Machine()
    dead, other = machine.handle(), machine.handle()
    pin(dead.pins)
    dead.pins.pin_view(10)
    assert dead.pins.slot == 0
    dead.backend.close()
    assert machine.needed() == NOTHING
    machine.publish(5)
    pin(other.pins)
    assert other.pins.slot == 0
    assert machine.needed() == ([(15, 15)], [(15, 15)])


def test_what_a_dead_owner_left_in_a_slot_is_wiped_before_it_counts() -> None:
    machine = Machine()
    dead, other = machine.handle(), machine.handle()
    pin(dead.pins)
    dead.pins.pin_view(10)
    dead.backend.close()
    machine.publish(90)
    pin(other.pins)
    unpin(other.pins, 100)
    assert machine.needed() == NOTHING


def test_a_slot_is_given_up_when_no_pin_is_alive() -> None:
    machine = Machine()
    first, second = machine.handle(), machine.handle()
    pin(first.pins)
    first.pins.give_up_slot()
    assert machine.needed()[0] == [(10, 10)]
    unpin(first.pins, 10)
    first.pins.give_up_slot()
    pin(second.pins)
    assert second.pins.slot == 0


def test_when_all_slots_are_taken_the_error_names_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fmt, "READER_SLOTS", 3)
    machine = Machine()
    handles = [machine.handle() for _ in range(4)]
    for handle in handles[:3]:
        pin(handle.pins)
    with pytest.raises(LockTimeout, match=r"readers\(\)"):
        pin(handles[3].pins)
    handles[1].backend.close()
    pin(handles[3].pins)
    assert handles[3].pins.slot == 1


def test_readers_are_listed() -> None:
    machine = Machine()
    first, second = machine.handle(), machine.handle()
    pin(first.pins)
    machine.publish(4)
    first.pins.pin_view(10)
    pin(second.pins)
    mine, theirs = readers(machine.live, first.locks, first.pins.slot)
    assert (mine.slot, mine.pins, mine.oldest_txn, mine.newest_txn, mine.own) == (0, 2, 10, 10, True)
    assert (theirs.slot, theirs.pins, theirs.oldest_txn, theirs.newest_txn, theirs.own) == (1, 1, 14, 14, False)
    assert mine.since > 1e9


def test_a_slow_counter_of_slots_hides_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder of slot 0 is about to store a count of 1 when another takes slot 1."""
    machine = Machine()
    slow, quick = machine.handle(), machine.handle()
    set_half = LivePage.set_half
    threads: list[threading.Thread] = []

    def stalls(live: LivePage, field: str, value: int) -> None:
        if not threads:
            threads.append(threading.Thread(target=pin, args=(quick.pins,)))
            threads[0].start()
            threads[0].join(0.05)
        set_half(live, field, value)

    monkeypatch.setattr(LivePage, "set_half", stalls)
    pin(slow.pins)
    threads[0].join()
    assert {slow.pins.slot, quick.pins.slot} == {0, 1}
    assert machine.live.half("slots") == 2
    machine.publish()
    assert len(machine.needed()[0]) == 2


# --- without the right to write -------------------------------------------------------------------------


def test_a_handle_that_may_not_write_pins_by_a_lock_byte() -> None:
    machine = Machine()
    reader, other = machine.handle(writable=False), machine.handle(writable=False)
    before = bytes(machine.live.memory)
    assert pin(reader.pins).txn == 10
    assert pin(other.pins).txn == 10
    machine.publish(3)
    release = reader.pins.pin_view(10)
    pin(reader.pins)
    assert bytes(machine.live.memory[fmt.READER_SLOTS_AT :]) == before[fmt.READER_SLOTS_AT :]
    assert {*machine.needed()[0]} == {*machine.needed()[1]} == {(10, 10), (13, 13)}
    other.backend.close()
    unpin(reader.pins, 10)
    assert covers(machine.needed()[1], 10)
    release()
    reader.pins.drain()
    assert machine.needed() == ([(13, 13)], [(13, 13)])
    reader.backend.close()
    assert machine.needed() == NOTHING


def test_a_lock_byte_that_came_too_late_is_taken_anew() -> None:
    machine = Machine()
    reader = machine.handle(writable=False)
    roots: Iterator[Root] = iter([Root(10, 512), Root(200, 512)])

    def late() -> Root:
        root = next(roots)
        machine.publish(200 - machine.live.txn)
        return root

    reader.pins._read_root = late
    assert pin(reader.pins).txn == 200
    assert machine.needed()[0] == [(200, 200)]


# --- the durable root and the one in the making ---------------------------------------------------------


def test_headers_count_unless_the_store_is_in_memory() -> None:
    machine = Machine()
    machine.publish(20)
    assert covers(machine.needed(durable=True)[0], 10) and not covers(machine.needed(durable=True)[0], 11)
    assert machine.needed(durable=False) == NOTHING
    machine.live.set("making", fmt.FOREVER)
    assert all(covers(found, txn) for found in machine.needed(durable=True) for txn in (10, 11, 30, 1 << 40))
    machine.live.set("making", 25)
    needed = machine.needed(durable=True)[0]
    assert [txn for txn in range(1, 40) if covers(needed, txn)] == [10, 25]
    machine.live.set("durable", 25)
    machine.live.set("making", 0)
    assert [txn for txn in range(1, 40) if covers(machine.needed(durable=True)[0], txn)] == [25]


@pytest.mark.parametrize("at", range(12))
def test_a_checkpoint_that_ends_during_a_scan_hides_neither_root(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.publish(20)
    machine.live.set("making", 25)
    loads = Counter[str]()
    get = LivePage.get

    def interrupted(live: LivePage, field: str) -> int:
        loads["all"] += 1
        if loads["all"] == at:
            live.set("durable", 25)
            live.set("making", 0)
        return get(live, field)

    monkeypatch.setattr(LivePage, "get", interrupted)
    assert covers(machine.needed(durable=True)[0], 25)


# --- between any two stores -----------------------------------------------------------------------------

ACTIONS = ["snapshot", "drop snapshot", "view", "drop view", "publish", "later"]


class Watched:
    """A handle whose every store is followed by a scan: what is pinned before and after must be seen in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine = Machine()
        self.handle = self.machine.handle()
        self.snapshots: list[int] = []
        self.views: list[tuple[int, Callable[[], None]]] = []
        self.kept: tuple[set[int], set[int]] = (set(), set())
        self.choosing = False
        store = pins_module.store_release

        def watched(memory: memoryview, at: int, value: int) -> None:
            store(memory, at, value)
            self.scan()

        monkeypatch.setattr(pins_module, "store_release", watched)

    def scan(self) -> None:
        index, bulk = self.machine.needed()
        snapshots, views = self.kept
        assert all(covers(index, txn) and covers(bulk, txn) for txn in snapshots), (self.kept, index)
        assert all(covers(bulk, txn) for txn in views), (self.kept, bulk)
        if self.choosing:
            at = fmt.READER_SLOTS_AT + self.handle.pins.slot * fmt.READER_SLOT.size
            if load_acquire(self.machine.live.memory, at + fmt.READER_SLOT.offset["snapshot_high"]) == fmt.FOREVER:
                assert covers(index, self.machine.live.txn)  # whichever root it finds next is safe

    def act(self, action: str, rng: random.Random) -> None:
        pins, kept = self.handle.pins, (set(self.snapshots), {txn for txn, _ in self.views})
        if action == "publish":
            self.machine.publish(rng.choice((1, 2, 100)))
        elif action == "snapshot":
            self.kept, self.choosing = kept, True
            self.snapshots.append(pin(pins).txn)
            self.choosing = False
        elif action == "view" and self.snapshots:
            self.kept = kept
            txn = rng.choice(self.snapshots)
            self.views.append((txn, pins.pin_view(txn)))
        elif action in ("drop snapshot", "later") and self.snapshots:
            txn = self.snapshots.pop(rng.randrange(len(self.snapshots)))
            self.kept = (set(self.snapshots), kept[1])
            if action == "later":
                lose(pins, txn)
                pins.drain()
            else:
                unpin(pins, txn)
        elif action == "drop view" and self.views:
            _, release = self.views.pop(rng.randrange(len(self.views)))
            self.kept = (kept[0], {txn for txn, _ in self.views})
            release()
            pins.drain()
        self.kept = (set(self.snapshots), {txn for txn, _ in self.views})
        self.scan()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), max_size=40), st.integers(0, 1 << 20))
def test_a_scan_between_any_two_stores_sees_every_pin(actions: list[str], seed: int) -> None:
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        watched = Watched(patch)
        for action in actions:
            watched.act(action, rng)
        index, bulk = watched.machine.needed()
        assert bool(index) == bool(watched.snapshots) and bool(bulk) == bool(watched.snapshots or watched.views)


@pytest.mark.parametrize("writable", [True, False])
def test_a_strike_loses_no_release_and_leaves_no_pin(writable: bool) -> None:
    """Ctrl-C at any line: of two views and a snapshot that end, and of a snapshot that is being taken."""
    actions: list[Callable[[Pins], object]] = [Pins.drain, pin, lambda pins: unpin(pins, 10), lambda pins: pins.alive]
    for action in actions:
        at, again = 0, True
        while again:
            machine = Machine()
            handle = machine.handle(writable)
            pin(handle.pins)
            pin(handle.pins)
            for _ in range(2):
                handle.pins.pin_view(10)
            lose(handle.pins, 10)
            machine.publish(3)
            again = struck(lambda: action(handle.pins), pins_module, at)  # noqa: B023
            at += 1
            index, bulk = machine.needed()
            kept = [txn for (_, txn), owners in _owners.items() if owners]
            assert all(covers(index, txn) and covers(bulk, txn) for txn in kept)
            _owners.clear()
            assert handle.pins.alive == 0 and machine.needed() == NOTHING, at
            handle.backend.close()
        assert at > 3


# --- fork ------------------------------------------------------------------------------------------------


def test_a_copy_holds_the_same_roots_by_a_slot_of_its_own() -> None:
    machine = Machine()
    parent = machine.handle()
    pin(parent.pins)
    release = parent.pins.pin_view(10)
    backend = machine.file.reopen()
    locks = FileLocks(backend)
    twin = parent.pins.copy_to(locks)
    assert twin.slot == 1
    machine.publish(7)
    parent.backend.close()  # the parent is killed
    assert machine.needed() == ([(10, 10)], [(10, 10), (10, 10)])
    child = parent.pins
    child.adopt(twin, machine.live, locks, machine.live.read_root, backend)
    unpin(child, 10)
    assert machine.needed() == ([], [(10, 10)])
    release()
    child.drain()
    assert machine.needed() == NOTHING


def test_a_copy_of_no_pins_takes_no_slot() -> None:
    machine = Machine()
    parent = machine.handle()
    assert parent.pins.copy_to(FileLocks(machine.file.reopen())).slot is None
