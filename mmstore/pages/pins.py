"""Pins: how readers keep the roots they read from being recycled (I2), and how writers learn of them.

A handle that pins takes one reader slot in the live page, and holds the slot's lock byte as long as it has
pins.  A slot counts only while its byte is held, so a dead process pins nothing (I8); no pid is trusted.
A slot has two intervals: snapshots hold every kind of page, views only value runs and extents, so that a
long-lived column view keeps no index page from being recycled.

A handle that may not write the file cannot fill a slot; it holds a shared lock on byte LOCK_PINS + txn id.

Pinning: raise the upper end to infinity, full fence, read the txn id, then set the interval to include it.
A writer that scanned before the fence saw a txn id no newer than the one read here; whoever scans after
it sees the pin.

A pin lasts as long as its owner lives.  That the owner is gone is told by a weak reference, whose callback is one
call into C: an exception such as KeyboardInterrupt, which may strike between any two bytecodes, can neither lose a
release nor leave a pin whose owner was never handed out.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from mmstore import format as fmt
from mmstore.disk.backend import Backend
from mmstore.disk.locks import FileLocks
from mmstore.errors import ClosedError, LockTimeout
from mmstore.kernels.atomics import fence, load_acquire, store_release
from mmstore.pages.live import LivePage
from mmstore.pages.readers import SLOT, slot_at
from mmstore.pages.root import Root

__all__ = ["Pins"]

_COUNT_LOCK = fmt.LOCK_SLOTS + fmt.READER_SLOTS  # held for the moment in which `slots` is raised


class _OpenFile:
    """The open file, and with it the lock byte of the slot: closed when nothing pins it any more."""

    __slots__ = ("backend",)

    def __init__(self, backend: Backend | None) -> None:
        self.backend = backend

    def __del__(self) -> None:
        if self.backend is not None:
            self.backend.close()


class _Token:
    """Owns a view's pin, and keeps the open file as long."""

    __slots__ = ("__weakref__", "keep")

    def __init__(self, keep: _OpenFile) -> None:
        self.keep = keep


class _Pin(weakref.ref[Any]):
    """A pin, by its owner; equal to any other of the same living owner."""

    __slots__ = ("passing", "snapshot", "txn")

    snapshot: bool
    passing: bool
    txn: int

    def __new__(cls, owner: object, callback: Callable[[Any], object] | None, *_: object) -> _Pin:
        return super().__new__(cls, owner, callback)

    def __init__(
        self, owner: object, callback: Callable[[Any], object] | None, txn: int, snapshot: bool, passing: bool = False
    ) -> None:
        self.txn, self.snapshot, self.passing = txn, snapshot, passing


_ByTxn = dict[int, set[_Pin]]


def _total(pins: _ByTxn) -> int:
    return sum(map(len, pins.values()))


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
        self._held: _Token | None = None
        self._shut = self._leaving = False
        self._live = live
        self._locks = locks
        self._read_root = read_root
        self._writable = writable
        self._lock = threading.Lock()
        self._snapshots: _ByTxn = {}
        self._views: _ByTxn = {}
        self._released: deque[_Pin] = deque()
        self.slot: int | None = None

    # --- taking and releasing -----------------------------------------------------------------------

    def pin_snapshot(self, owner: object, passing: bool = False) -> Root:
        """Pin the newest published root against everything, as long as ``owner`` lives, and return it.

        ``passing``: for the length of a call only.  A forked child leaves such pins behind: they are those of its
        parent's other threads, which nobody in the child would release.
        """
        self.drain()
        with self._lock:
            if self._shut:
                raise ClosedError("this database is closed; open it again")
            root = self._pin_by_slot(owner, passing) if self._writable else self._pin_by_lock(owner, passing)
        return root

    def hold(self, txn: int) -> None:
        """Pin root ``txn`` for good, by a lock byte (a handle that may not write the file, alone under GATE)."""
        self._locks.try_shared(fmt.LOCK_PINS + txn)
        self._held = _Token(self._keep)
        self._add(self._snapshots, _Pin(self._held, None, txn, True))

    def release_snapshot(self, owner: object, txn: int) -> None:
        """Release the pin of ``owner``, if it has one still."""
        with self._lock:
            self._drop(_Pin(owner, None, txn, True))

    def pin_view(self, txn: int) -> Callable[[], None]:
        """Pin the runs of root ``txn``, which the caller has pinned as a snapshot.

        Returns the release: safe in finalizers, and not needed where it dies itself.
        """
        self.drain()
        token = _Token(self._keep)
        with self._lock:
            self._add(self._views, _Pin(token, self._released.append, txn, False))
            if self._writable:
                self._store()
            elif len(self._views[txn]) == 1 and not self._snapshots.get(txn):
                self._locks.try_shared(fmt.LOCK_PINS + txn)
        return [token].clear

    def drain(self) -> None:
        """Carry out what the ends of owners asked for."""
        while self._released:
            with self._lock:
                if self._released:  # else another thread was quicker
                    self._drop(self._released[0])  # a second time does nothing, so it can't be lost in between
                    self._released.popleft()

    @property
    def alive(self) -> int:
        """Pins held now."""
        self.drain()
        return _total(self._snapshots) + _total(self._views)

    @property
    def views_alive(self) -> int:
        self.drain()
        return _total(self._views)

    @staticmethod
    def _add(pins: _ByTxn, pin: _Pin) -> None:
        pins.setdefault(pin.txn, set()).add(pin)

    def _drop(self, pin: _Pin) -> None:
        pins, txn = self._snapshots if pin.snapshot else self._views, pin.txn
        if txn in pins:
            pins[txn].discard(pin)
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
            if self._held is not None:  # its lock byte goes with the file
                (pin,) = (pin for pins in self._snapshots.values() for pin in pins if pin() is self._held)
                self._snapshots[pin.txn].discard(pin)
                self._held = None

    def let_go(self) -> None:
        """The handle is closed: the file stays open for the pins that are alive, and is closed with the last."""
        with self._lock:
            self._leaving = True
            self._leave()

    def disown(self) -> None:
        """Other pins look after the open file from now on."""
        self._keep.backend = None

    def _leave(self) -> None:
        if self._leaving and not _total(self._snapshots):
            self._keep = _OpenFile(None)  # the views have the other one

    def _pin_by_slot(self, owner: object, passing: bool) -> Root:
        try:
            root = self._choose()
            self._add(self._snapshots, _Pin(owner, self._released.append, root.txn, True, passing))
            self._store()
        except BaseException:
            if self.slot is not None:
                self._store()  # the upper end is at infinity still
            raise
        return root

    def _pin_by_lock(self, owner: object, passing: bool) -> Root:
        while True:
            root = self._read_root()
            pin = _Pin(owner, self._released.append, root.txn, True, passing)
            self._add(self._snapshots, pin)
            self._locks.try_shared(fmt.LOCK_PINS + root.txn)
            fence()
            if self._live.txn == root.txn:  # else runs that the next root freed may be in use again: they have no grace
                return root
            self._drop(pin)

    # --- the slot -----------------------------------------------------------------------------------

    def _choose(self) -> Root:
        at = slot_at(self._take_slot())
        memory = self._live.memory
        low = load_acquire(memory, at + SLOT["snapshot_low"])
        store_release(memory, at + SLOT["snapshot_high"], fmt.FOREVER)
        if not low:
            store_release(memory, at + SLOT["snapshot_low"], max(1, self._live.txn))
        fence()
        return self._read_root()

    def _store(self) -> None:
        if self.slot is None:
            self._take_slot()
        assert self.slot is not None
        at = slot_at(self.slot)
        memory = self._live.memory
        for pins, low, high in (
            (self._snapshots, "snapshot_low", "snapshot_high"),
            (self._views, "view_low", "view_high"),
        ):
            txns = [txn for txn, held in pins.items() if held]
            if txns:
                # Widen before narrowing: a scan between the two stores sees too much, never too little.
                store_release(memory, at + SLOT[high], max(txns))
                store_release(memory, at + SLOT[low], min(txns))
            else:
                store_release(memory, at + SLOT[low], 0)
                store_release(memory, at + SLOT[high], 0)
        count = at + SLOT["pins"]
        memory[count : count + 4] = (_total(self._snapshots) + _total(self._views)).to_bytes(4, "little")

    def _take_slot(self) -> int:
        if self.slot is not None:
            return self.slot
        for number in range(fmt.READER_SLOTS):
            if self._locks.try_exclusive(fmt.LOCK_SLOTS + number):
                at = slot_at(number)
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
            if self.slot is not None and not _total(self._snapshots) and not _total(self._views):
                self._locks.unlock(fmt.LOCK_SLOTS + self.slot)
                self.slot = None

    # --- fork ---------------------------------------------------------------------------------------

    def copy_to(self, locks: FileLocks) -> Pins:
        """A second slot, held through ``locks``, with copies of all pins: what a forked child adopts."""
        twin = Pins(self._live, locks, self._read_root, self._writable)
        with self._lock:
            for txn, pins in self._snapshots.items():
                if lasting := {pin for pin in pins if not pin.passing}:
                    twin._snapshots[txn] = lasting
            twin._views = {txn: set(pins) for txn, pins in self._views.items()}
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
        self._lock = threading.Lock()
        if self.slot is not None:
            at = slot_at(self.slot) + SLOT["pid"]
            live.memory[at : at + 4] = os.getpid().to_bytes(4, "little")
