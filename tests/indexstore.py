"""Transactions on one index over a store in memory, proved sound after each commit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from bothkernels import Kernels
from mmstore import format as fmt
from mmstore.keyspace import verify
from pagestore import MemoryStore, Pages

ALL = (1 << 64) - 1
SEED = 99


class IndexStore:
    """``begin`` gives the index to change, ``commit`` places it; ``desc`` is the committed state.

    ``mask`` is laid over all hashes, ``limit`` is the workspace's in bytes.
    """

    def __init__(self, kernels: Kernels, page_size: int = 4096, mask: int = ALL, limit: int = 64 << 20) -> None:
        self.kernels = kernels
        self.page_size = page_size
        self.mask = mask
        self.store = MemoryStore(page_size)
        self.pages = Pages(self.store)
        self.work = kernels.Workspace(self.store, self.pages, page_size, SEED, limit, mask)
        self.desc = kernels.EMPTY
        self.txn = 0
        self.index: Any = None

    def begin(self) -> Any:
        self.txn += 1
        self.pages.begin(self.txn)
        self.work.begin(self.txn)
        self.index = self.kernels.Index(self.desc, self.work)
        return self.index

    def commit(self) -> None:
        self.work.assign(self.txn)
        self.desc = self.index.sealed_desc()
        assert self.kernels.IndexDescriptor.unpack(self.desc.pack()) == self.desc
        self.work.seal()
        self.work.place()
        self.work.reset()
        self.check()

    def check(self) -> None:
        """Everything that the checker knows, and each page in use exactly once."""
        seen: dict[int, tuple[int, int]] = {}
        desc: Any = self.desc
        for found in verify.walk(self.pread, self.page_size, SEED, desc, self.pages.next, self.mask):
            assert isinstance(found, verify.Use), found
            for page in range(found.start, found.start + found.pages):
                assert page not in seen
                seen[page] = (found.born, found.kind)
        assert seen == self.pages.in_use

    def pread(self, n: int, offset: int) -> bytes:
        return bytes(self.store.mem[offset : offset + n])

    def tree(self, pages: int | None = None) -> Any:
        """A reader of the committed state."""
        tree = self.kernels.Tree(self.page_size, SEED, self.mask)
        mem = self.store.mem
        tree.attach(mem, self.store.verified, partial(self.kernels.values.read, mem, self.page_size))
        tree.set_root(self.desc.root, self.desc.height, self.desc.depth, self.pages.next if pages is None else pages)
        return tree

    def index_pages(self) -> Iterator[int]:
        """The numbers of the index's pages."""
        desc: Any = self.desc
        for found in verify.walk(self.pread, self.page_size, SEED, desc, self.pages.next, self.mask):
            if isinstance(found, verify.Use) and found.kind == fmt.FREE_INDEX:
                yield found.start
