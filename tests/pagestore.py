"""A store in memory and an allocator that checks its callers, for the tests of pages and keyspaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmstore import format as fmt


class MemoryStore:
    """What a Workspace needs of a file."""

    def __init__(self, page_size: int, pages: int = 64) -> None:
        self.page_size = page_size
        self.data = bytearray((fmt.FIXED_SIZE // page_size + pages) * page_size)
        self.verified: Any = bytearray(len(self.data) // page_size // 8 + 1)
        self.mem = memoryview(self.data).toreadonly()
        self.writes = 0

    def grow(self, pages: int) -> None:
        """Have room for ``pages`` pages."""
        if pages * self.page_size > len(self.data):
            data = bytearray(max(pages * self.page_size, 2 * len(self.data)))
            data[: len(self.data)] = self.data
            self.data = data
            self.verified = bytearray(len(data) // self.page_size // 8 + 1)
            self.mem = memoryview(data).toreadonly()

    def place(self, runs: Iterable[tuple[int, Any]], piece: int = 0) -> None:
        for offset, data in runs:
            assert offset >= fmt.FIXED_SIZE
            assert offset + len(data) <= len(self.data)
            self.data[offset : offset + len(data)] = data
            for page in range(offset // self.page_size, (offset + len(data) - 1) // self.page_size + 1):
                self.verified[page >> 3] &= ~(1 << (page & 7))
            self.writes += 1


class Pages:
    """An allocator that knows the state of each page and refuses whatever makes no sense.

    A page that this transaction took is free again at once; one that it freed is used in the next but one.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.next = fmt.FIXED_SIZE // store.page_size
        self.free_pages: list[int] = []
        self.in_use: dict[int, tuple[int, int]] = {}  # page -> (born, kind)
        self.held: set[int] = set()
        self.txn = 0
        self.marks: list[Any] = []

    def begin(self, txn: int) -> None:
        self.txn = txn
        self.free_pages += sorted(self.held)
        self.held = set()

    def alloc(self, n: int, kind: int) -> int:
        if n == 1 and self.free_pages:
            start = self.free_pages.pop()
        else:
            start = self.next
            self.next += n
            self.store.grow(self.next)
        for page in range(start, start + n):
            assert page not in self.in_use
            self.in_use[page] = (self.txn, kind)
        return start

    def alloc_pages(self, n: int, kind: int) -> list[tuple[int, int]]:
        return [(self.alloc(1, kind), 1) for _ in range(n)]

    def free(self, start: int, n: int, born: int, kind: int) -> None:
        for page in range(start, start + n):
            assert self.in_use.pop(page) == (born, kind), page
            if born == self.txn:
                self.free_pages.append(page)
            else:
                self.held.add(page)

    def mark(self) -> Any:
        mark = self.next, self.free_pages[:], self.in_use.copy(), self.held.copy()
        self.marks.append(mark)
        return mark

    def rollback(self, mark: Any) -> None:
        self.release(mark)
        _, self.free_pages, self.in_use, self.held = mark
        self.free_pages += range(mark[0], self.next)

    def release(self, mark: Any) -> None:
        assert self.marks.pop() is mark
