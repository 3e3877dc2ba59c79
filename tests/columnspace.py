"""A file in memory with the simplest allocator there is, for tests of sequences without an engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmstore import format as fmt
from mmstore.columns.extents import Buffer, Extent, Space
from mmstore.columns.sequence import Sequence
from mmstore.disk.memory import MemoryFilesystem
from mmstore.errors import DiskFullError


class ColumnFile:
    """Pages are handed out from the end on, after a gap of `gap` pages; freed ones are remembered, never reused."""

    def __init__(self, page_size: int = 4096, gap: int = 1) -> None:
        self.backend = MemoryFilesystem().open("columns", create=True)
        self.page_size = page_size
        self.gap = gap
        self.pages = fmt.FIXED_SIZE // page_size
        self.taken: set[int] = set()
        self.freed: list[Extent] = []
        self.largest_write = 0
        self.writes: list[tuple[int, int]] = []
        self.zones: list[int] = []
        self.txn = 1
        self.savepoints = False
        """Whether the transaction has one."""
        self.words: dict[int, Any] = {}
        self.room: int | None = None
        """Pages that are left on the disk; None: any number."""

    def alloc(self, n: int, kind: int) -> int:
        assert kind == fmt.FREE_BULK and n > 0
        if self.room is not None:
            if self.room < n:
                raise DiskFullError(f"no room for {n} pages")
            self.room -= n
        align = max(1, fmt.BLOCK_SIZE // self.page_size)
        start = self.pages + self.gap
        if n >= align:
            start = -(-start // align) * align
        if n >= (zone := fmt.ZONE_SIZE // self.page_size):
            start = -(-start // zone) * zone
        self.pages = start + n
        self.taken.update(range(start, start + n))
        self.backend.truncate(self.pages * self.page_size)
        return start

    def free(self, start: int, n: int, born: int, kind: int) -> None:
        assert kind == fmt.FREE_BULK and 0 < born <= self.txn
        self.freed.append(Extent(start, n, born))
        pages = set(range(start, start + n))
        assert pages <= self.taken, "freed twice, or never taken"
        self.taken -= pages

    def place(self, runs: list[tuple[int, Buffer]]) -> None:
        for offset, data in runs:
            self.largest_write = max(self.largest_write, len(data))
            self.writes.append((offset, len(data)))
            self.backend.pwrite(data, offset)

    def begin_zone(self, offset: int) -> None:
        self.zones.append(offset)
        self.backend.pwrite(b"\xee" * fmt.ZONE_SIZE, offset)

    def read(self, offset: int, n: int) -> bytes:
        return self.backend.pread(n, offset)

    def space(self) -> Space:
        """What transaction number `txn` gets."""
        return Space(
            self.page_size, self.read, self.txn, self.alloc, self.free, self.place, lambda: self.savepoints, self.words,
            begin_zone=self.begin_zone,
        )  # fmt: skip

    def flip(self, offset: int, bit: int = 1) -> None:
        """Damage a byte."""
        self.backend.pwrite(bytes([self.read(offset, 1)[0] ^ bit]), offset)


def pages_of(state: Sequence) -> Iterator[int]:
    """Numbers of all pages that a sequence refers to."""
    for run in state.runs + state.sums_runs:
        yield from range(run.start, run.start + run.pages)
