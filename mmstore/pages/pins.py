"""Pins: how readers keep the roots they read from being recycled (I2), and how writers learn of them.

A handle that pins takes one reader slot in the live page, and holds the slot's lock byte as long as it has
pins.  A slot counts only while its byte is held, so a dead process pins nothing (I8); no pid is trusted.
A slot has two intervals: snapshots hold every kind of page, views only value runs and extents, so that a
long-lived column view keeps no index page from being recycled.

A handle that may not write the file cannot fill a slot; it holds a shared lock on byte LOCK_PINS + txn id.

Pinning: raise the upper end to infinity, full fence, read the txn id, then set the interval to include it.
A writer that scanned before the fence saw a txn id no newer than the one read here; whoever scans after
it sees the pin.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mmstore import format as fmt
from mmstore.disk.backend import Backend
from mmstore.disk.locks import FileLocks
from mmstore.errors import ClosedError, LockTimeout
from mmstore.kernels.atomics import fence, load_acquire, store_release
from mmstore.pages.live import LivePage
from mmstore.pages.root import Root

__all__ = ["Pins", "ReaderInfo", "needed_intervals", "readers"]

_SLOT = fmt.READER_SLOT.offset
_COUNT_LOCK = fmt.LOCK_SLOTS + fmt.READER_SLOTS  # held for the moment in which `slots` is raised
Interval = tuple[int, int]


class _OpenFile:
    """The open file, and with it the lock byte of the slot: closed when nothing pins it any more."""

    __slots__ = ("backend",)

    def __init__(self, backend: Backend | None) -> None:
        self.backend = backend

    def __del__(self) -> None:
        if self.backend is not None:
            self.backend.close()


def _release(released: deque[tuple[bool, int]], txn: int, keep: object) -> None:
    del keep  # it was held until now
    released.append((False, txn))


def _slot_at(number: int) -> int:
    return fmt.READER_SLOTS_AT + number * fmt.READER_SLOT.size


@dataclass(frozen=True, slots=True)
class ReaderInfo:
    """One process' pins, as ``Database.readers()`` lists them."""

    slot: int
    pid: int
    pins: int
    since: float
    """Unix time in seconds of the first pin."""
    oldest_txn: int
    newest_txn: int
    own: bool


class Pins:
    """The pins of one handle."""

    def __init__(
        self,
        live: LivePage,
        locks: FileLocks,
        read_root: Callable[[], Root],
        writable: bool,
        keep: Backend | None = None,
    ) -> None:
        """``keep``: the open file that holds the locks; it is closed when these pins and all views are gone."""
        self._keep = _OpenFile(keep)
        self._held = 0
        self._shut = self._leaving = False
        self._live = live
        self._locks = locks
        self._read_root = read_root
        self._writable = writable
        self._lock = threading.Lock()
        self._snapshots: Counter[int] = Counter()
        self._passing: Counter[int] = Counter()  # those among them
        self._views: Counter[int] = Counter()
        self._released: deque[tuple[bool, int]] = deque()
        self.slot: int | None = None

    # --- taking and releasing -----------------------------------------------------------------------

    def pin_snapshot(self, passing: bool = False) -> Root:
        """Pin the newest published root against everything and return it.

        ``passing``: for the length of a call only.  A forked child leaves such pins behind: they are those of its
        parent's other threads, which nobody in the child would release.
        """
        self.drain()
        with self._lock:
            if self._shut:
                raise ClosedError("this database is closed; open it again")
            if self._writable:
                root = self._choose()
                self._snapshots[root.txn] += 1
                self._store()
            else:
                root = self._pin_by_lock(self._snapshots)
            if passing:
                self._passing[root.txn] += 1
            return root

    def hold(self, txn: int) -> None:
        """Pin root ``txn`` for good, by a lock byte (a handle that may not write the file, alone under GATE)."""
        self._locks.try_shared(fmt.LOCK_PINS + txn)
        self._snapshots[txn] += 1
        self._held = txn

    def release_snapshot(self, txn: int, passing: bool = False) -> None:
        with self._lock:
            if passing:
                self._passing[txn] -= 1
                if not self._passing[txn]:
                    del self._passing[txn]
            self._drop(self._snapshots, txn)

    def pin_view(self, txn: int) -> Callable[[], None]:
        """Pin the runs of root ``txn``, which the caller has pinned as a snapshot.

        Returns the release: safe in finalizers, since it only appends to a deque.
        """
        self.drain()
        with self._lock:
            self._views[txn] += 1
            if self._writable:
                self._store()
            elif self._views[txn] + self._snapshots[txn] == 1:
                self._locks.try_shared(fmt.LOCK_PINS + txn)
        released, keep = self._released, self._keep
        return partial(_release, released, txn, keep)

    def release_later(self, txn: int) -> None:
        """Release a snapshot's pin from a finalizer."""
        self._released.append((True, txn))

    def drain(self) -> None:
        """Carry out what finalizers asked for."""
        while self._released:
            try:
                snapshot, txn = self._released.popleft()
            except IndexError:  # another thread was quicker
                return
            with self._lock:
                self._drop(self._snapshots if snapshot else self._views, txn)

    @property
    def alive(self) -> int:
        """Pins held now."""
        self.drain()
        return self._snapshots.total() + self._views.total()

    @property
    def views_alive(self) -> int:
        self.drain()
        return self._views.total()

    def _drop(self, pins: Counter[int], txn: int) -> None:
        pins[txn] -= 1
        if not pins[txn]:
            del pins[txn]
        if self._writable:
            self._store()
        elif txn not in self._snapshots and txn not in self._views:
            self._locks.unlock(fmt.LOCK_PINS + txn)
        self._leave()

    # --- leaving ------------------------------------------------------------------------------------

    def shut(self) -> None:
        """The handle is being closed: take no more snapshots."""
        with self._lock:
            self._shut = True
            if self._held:  # its lock byte goes with the file
                self._snapshots[self._held] -= 1
                self._snapshots += Counter()  # keeps what is above 0
                self._held = 0

    def let_go(self) -> None:
        """The handle is closed: the file stays open for the pins that are alive, and is closed with the last."""
        with self._lock:
            self._leaving = True
            self._leave()

    def disown(self) -> None:
        """Other pins look after the open file from now on."""
        self._keep.backend = None

    def _leave(self) -> None:
        if self._leaving and not self._snapshots:
            self._keep = _OpenFile(None)  # the views have the other one

    def _pin_by_lock(self, pins: Counter[int]) -> Root:
        while True:
            root = self._read_root()
            self._locks.try_shared(fmt.LOCK_PINS + root.txn)
            fence()
            if self._live.txn - root.txn <= fmt.GRACE:
                pins[root.txn] += 1
                return root
            if root.txn not in self._snapshots and root.txn not in self._views:
                self._locks.unlock(fmt.LOCK_PINS + root.txn)

    # --- the slot -----------------------------------------------------------------------------------

    def _choose(self) -> Root:
        at = _slot_at(self._take_slot())
        memory = self._live.memory
        low = load_acquire(memory, at + _SLOT["snapshot_low"])
        store_release(memory, at + _SLOT["snapshot_high"], fmt.FOREVER)
        if not low:
            store_release(memory, at + _SLOT["snapshot_low"], max(1, self._live.txn))
        fence()
        return self._read_root()

    def _store(self) -> None:
        if self.slot is None:
            self._take_slot()
        assert self.slot is not None
        at = _slot_at(self.slot)
        memory = self._live.memory
        for pins, low, high in (
            (self._snapshots, "snapshot_low", "snapshot_high"),
            (self._views, "view_low", "view_high"),
        ):
            if pins:
                # Widen before narrowing: a scan between the two stores sees too much, never too little.
                store_release(memory, at + _SLOT[high], max(pins))
                store_release(memory, at + _SLOT[low], min(pins))
            else:
                store_release(memory, at + _SLOT[low], 0)
                store_release(memory, at + _SLOT[high], 0)
        count = at + _SLOT["pins"]
        memory[count : count + 4] = (self._snapshots.total() + self._views.total()).to_bytes(4, "little")

    def _take_slot(self) -> int:
        if self.slot is not None:
            return self.slot
        for number in range(fmt.READER_SLOTS):
            if self._locks.try_exclusive(fmt.LOCK_SLOTS + number):
                at = _slot_at(number)
                blank = dict.fromkeys(fmt.READER_SLOT.names, 0) | {"reserved": bytes(16)}
                blank |= {"pid": os.getpid(), "since": time.time_ns()}
                self._live.memory[at : at + fmt.READER_SLOT.size] = fmt.READER_SLOT.pack(blank)
                self._raise_count(number + 1)
                self.slot = number
                return number
        raise LockTimeout(
            f"all {fmt.READER_SLOTS} reader slots are held by live handles; see readers() for who they are, "
            "and close snapshots, views or handles that are no longer needed"
        )

    def _raise_count(self, count: int) -> None:
        """Have scans look at ``count`` slots at least.  One at a time: a lower count stored last would hide a slot."""
        if self._live.half("slots") >= count:
            return
        self._locks.acquire_exclusive(_COUNT_LOCK, None)
        try:
            self._live.set_half("slots", max(count, self._live.half("slots")))
        finally:
            self._locks.unlock(_COUNT_LOCK)

    def give_up_slot(self) -> None:
        """Return the slot when no pin is alive (close)."""
        with self._lock:
            if self.slot is not None and not self._snapshots and not self._views:
                self._locks.unlock(fmt.LOCK_SLOTS + self.slot)
                self.slot = None

    # --- fork ---------------------------------------------------------------------------------------

    def copy_to(self, locks: FileLocks) -> Pins:
        """A second slot, held through ``locks``, with copies of all pins: what a forked child adopts."""
        twin = Pins(self._live, locks, self._read_root, self._writable)
        with self._lock:
            twin._snapshots = self._snapshots - self._passing
            twin._views = self._views.copy()
        twin._released = self._released  # existing views release into it
        if twin._snapshots or twin._views:
            if self._writable:
                twin._store()
            else:
                for txn in {*twin._snapshots, *twin._views}:
                    locks.try_shared(fmt.LOCK_PINS + txn)
        return twin

    def adopt(self, twin: Pins, live: LivePage, locks: FileLocks, read_root: Callable[[], Root], keep: Backend) -> None:
        """Go on in a forked child with the slot that ``copy_to`` took, on the descriptor that it was taken by."""
        self._live, self._read_root, self._keep.backend = live, read_root, keep
        self._locks, self.slot = locks, twin.slot
        self._snapshots, self._views = twin._snapshots, twin._views
        self._passing.clear()
        self._lock = threading.Lock()
        if self.slot is not None:
            at = _slot_at(self.slot) + _SLOT["pid"]
            live.memory[at : at + 4] = os.getpid().to_bytes(4, "little")


def _intervals(live: LivePage, locks: FileLocks, own: int | None) -> list[tuple[int, Interval, Interval]]:
    """(slot, snapshot interval, view interval) of every live slot; (0, 0) stands for none."""
    found = []
    memory = live.memory
    for number in range(min(live.half("slots"), fmt.READER_SLOTS)):
        at = _slot_at(number)
        pairs: list[Interval] = []
        for low_field, high_field in (("snapshot_low", "snapshot_high"), ("view_low", "view_high")):
            high = load_acquire(memory, at + _SLOT[high_field])
            low = load_acquire(memory, at + _SLOT[low_field])
            # The lower end is stored last and cleared first; an upper end of 0 beside it is a store under way.
            high = max(high, load_acquire(memory, at + _SLOT[high_field]))
            if high and not low:
                low = 1 if high == fmt.FOREVER else 0
            pairs.append((low, high or fmt.FOREVER) if low else (0, 0))
        if any(low for low, _ in pairs) and (number == own or locks.held_by_other(fmt.LOCK_SLOTS + number)):
            found.append((number, pairs[0], pairs[1]))
    return found


def needed_intervals(
    live: LivePage, locks: FileLocks, own: int | None, durable: bool
) -> tuple[list[Interval], list[Interval]]:
    """Intervals of txn ids that are still needed: (by index pages, by value runs and extents).

    The newest root is left out: nothing that it refers to was freed before it.  ``durable``: whether headers
    count (they do not for a store in memory).  Call it only after the fence that follows a publication; it then
    holds for runs freed in roots published before.
    """
    fence()
    fixed: list[Interval] = []
    if durable:
        at = live.get("durable")
        making = live.get("making")
        fixed.append((at, fmt.FOREVER if making == fmt.FOREVER else at))
        if making and making != fmt.FOREVER:
            fixed.append((making, making))
        at = live.get("durable")  # it may have moved to `making` between the two loads
        fixed.append((at, at))
    for start, n in locks.conflicts(fmt.LOCK_PINS, fmt.LOCK_PINS_SIZE):
        fixed.append((start - fmt.LOCK_PINS, start + n - 1 - fmt.LOCK_PINS))
    index, bulk = list(fixed), list(fixed)
    for _, snapshots, views in _intervals(live, locks, own):
        if snapshots[0]:
            index.append(snapshots)
            bulk.append(snapshots)
        if views[0]:
            bulk.append(views)
    return index, bulk


def readers(live: LivePage, locks: FileLocks, own: int | None) -> list[ReaderInfo]:
    """Who pins what, by live slots."""
    listed = []
    for number, snapshots, views in _intervals(live, locks, own):
        values = fmt.READER_SLOT.unpack(live.memory, _slot_at(number))
        lows = [low for low, _ in (snapshots, views) if low]
        highs = [high for low, high in (snapshots, views) if low]
        listed.append(
            ReaderInfo(
                number, values["pid"], values["pins"], values["since"] / 1e9, min(lows), max(highs), number == own
            )
        )
    return listed
