"""Who reads: the reader slots as a scan finds them, and which roots they still need (I2, I8).

A slot counts only while its lock byte is held, so a dead process pins nothing; no pid is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmstore import format as fmt
from mmstore.disk.locks import FileLocks
from mmstore.kernels.atomics import fence, load_acquire
from mmstore.pages.live import LivePage

__all__ = ["SLOT", "Interval", "ReaderInfo", "needed_intervals", "readers", "slot_at"]

SLOT = fmt.READER_SLOT.offset
Interval = tuple[int, int]


def slot_at(number: int) -> int:
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


def _intervals(live: LivePage, locks: FileLocks, own: int | None) -> list[tuple[int, Interval, Interval]]:
    """(slot, snapshot interval, view interval) of every live slot; (0, 0) stands for none."""
    found = []
    memory = live.memory
    for number in range(min(live.half("slots"), fmt.READER_SLOTS)):
        at = slot_at(number)
        pairs: list[Interval] = []
        for low_field, high_field in (("snapshot_low", "snapshot_high"), ("view_low", "view_high")):
            high = load_acquire(memory, at + SLOT[high_field])
            low = load_acquire(memory, at + SLOT[low_field])
            # The lower end is stored last and cleared first; an upper end of 0 beside it is a store under way.
            high = max(high, load_acquire(memory, at + SLOT[high_field]))
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
        values = fmt.READER_SLOT.unpack(live.memory, slot_at(number))
        lows = [low for low, _ in (snapshots, views) if low]
        highs = [high for low, high in (snapshots, views) if low]
        listed.append(
            ReaderInfo(
                number, values["pid"], values["pins"], values["since"] / 1e9, min(lows), max(highs), number == own
            )
        )
    return listed
