"""A set of pages kept as disjoint runs, joined where they touch.

Sorted first pages in a list, lengths in a dict: what a commit does to it is a search, an insertion, a removal.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from mmstore.errors import CorruptError

__all__ = ["RunSet"]


def _freed_twice(start: int, length: int) -> CorruptError:
    return CorruptError(
        f"pages {start}+{length} are freed though some are free already: the file has them in two places; "
        "run check(), restore a backup",
        page=start,
    )


class RunSet:
    """Runs ``[start, start + length)`` of page numbers, sorted, never touching."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._lengths: dict[int, int] = {}
        self._too_large = 1 << 62  # no run is so long: a failed search need not be repeated
        self.pages = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(start, self._lengths[start]) for start in self._starts])

    def __len__(self) -> int:
        return len(self._starts)

    def copy(self) -> RunSet:
        twin = RunSet()
        twin._starts = self._starts.copy()
        twin._lengths = self._lengths.copy()
        twin.pages = self.pages
        return twin

    def clear(self) -> None:
        """Have no pages."""
        self._starts.clear()
        self._lengths.clear()
        self._too_large = 1 << 62
        self.pages = 0

    def add(self, start: int, length: int) -> None:
        """Add pages; CorruptError if one of them is in the set already: the file has it in two places."""
        starts, lengths = self._starts, self._lengths
        at = bisect_right(starts, start)
        n = len(starts)
        before = stop = after = 0
        if at:
            before = starts[at - 1]
            stop = before + lengths[before]
            if stop > start:
                raise _freed_twice(start, length)
        if at < n:
            after = starts[at]
            if start + length > after:
                raise _freed_twice(start, length)
        self.pages += length
        if at < n and start + length == after:
            length += lengths.pop(after)
            del starts[at]
        if at and stop == start:
            length += start - before
            lengths[before] = length
        else:
            starts.insert(at, start)
            lengths[start] = length
        if length >= self._too_large:
            self._too_large = length + 1

    def remove(self, start: int, length: int) -> int:
        """Take the pages of ``[start, start + length)`` that are in the set out of it; returns how many."""
        starts, lengths = self._starts, self._lengths
        stop = start + length
        at = bisect_right(starts, start)
        if at:
            at -= 1
        removed = 0
        while at < len(starts) and starts[at] < stop:
            first = starts[at]
            last = first + lengths[first]
            if last <= start:
                at += 1
                continue
            removed += min(last, stop) - max(first, start)
            if first < start:
                lengths[first] = start - first
                at += 1
            else:
                del lengths[first]
                del starts[at]
            if last > stop:
                starts.insert(at, stop)
                lengths[stop] = last - stop
                break
        self.pages -= removed
        return removed

    def overlap(self, start: int, length: int) -> list[tuple[int, int]]:
        """The runs of the set inside ``[start, start + length)``."""
        starts, stop = self._starts, start + length
        found = []
        at = bisect_right(starts, start)
        if at:
            at -= 1
        n = len(starts)
        while at < n:
            first = starts[at]
            if first >= stop:
                break
            low, high = max(first, start), min(first + self._lengths[first], stop)
            if low < high:
                found.append((low, high - low))
            at += 1
        return found

    def last(self) -> tuple[int, int] | None:
        """The run with the highest pages."""
        n = len(self._starts)
        if not n:
            return None
        start = self._starts[n - 1]  # -1 is out of bounds where it is compiled
        return start, self._lengths[start]

    def take_some(self, most: int) -> tuple[int, int]:
        """Take up to ``most`` adjacent pages, those with the lowest numbers; IndexError where there are none."""
        if not self._starts:
            raise IndexError("no pages to take")
        start = self._starts[0]
        length = self._lengths.pop(start)
        if length > most:
            self._starts[0] = start + most
            self._lengths[start + most] = length - most
            length = most
        else:
            del self._starts[0]
        self.pages -= length
        return start, length

    def take(self, length: int, align: int = 1) -> int | None:
        """Take the first run of ``length`` pages that starts at a multiple of ``align``; None if there is none."""
        if length >= self._too_large:
            return None
        for first in self._starts:
            start = (first + align - 1) // align * align
            if start + length <= first + self._lengths[first]:
                self.remove(start, length)
                return start
        if align == 1:
            self._too_large = length
        return None
