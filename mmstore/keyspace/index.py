"""One index inside a write transaction: put, delete, get, iterate.

The work is done by ``kernels.writer`` and ``kernels.bulk``; here is what meets the rest: descriptors,
large values, spilling.  All indexes of a transaction share its ``Workspace``.  A savepoint of an index is its
descriptor: save ``desc``, and set it again after the workspace has rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmstore.errors import CorruptError
from mmstore.kernels import hashing
from mmstore.kernels.bulk import Loader
from mmstore.keyspace import values
from mmstore.keyspace.descriptor import IndexDescriptor
from mmstore.keyspace.values import Large
from mmstore.pages.workspace import Workspace

__all__ = ["Index"]


class Index(Loader):
    """The records of one keyspace, as the transaction has them."""

    def __init__(self, desc: IndexDescriptor, work: Workspace) -> None:
        Loader.__init__(self, work.space)
        self.work = work
        self.load_large = self._load_large
        self.desc = desc

    def __len__(self) -> int:
        return self.count

    @property
    def desc(self) -> IndexDescriptor:
        """The index as it is; its root may be a private page."""
        return IndexDescriptor(
            self.root, self.nodes, self.pages, self.height, self.depth, 0, self.count, self.size
        )  # fmt: skip

    @desc.setter
    def desc(self, desc: IndexDescriptor) -> None:
        self.check_shape(desc.height, desc.depth)
        most = self.work.most_pages
        if desc.pages > most or desc.nodes > most or desc.depth and 1 << desc.depth > desc.pages << self.fan_bits:
            raise CorruptError(f"an index can't be of {desc.pages} pages; run check(), restore a backup")
        self.root, self.height, self.depth = desc.root, desc.height, desc.depth
        self.nodes, self.pages, self.count, self.size = desc.nodes, desc.pages, desc.count, desc.size

    def sealed_desc(self) -> IndexDescriptor:
        """The index with its root's final page number, behind ``work.assign``."""
        root = self.work.final(self.root)
        return IndexDescriptor(root, self.nodes, self.pages, self.height, self.depth, 0, self.count, self.size)

    # --- all records --------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[bytes, Any]]:
        """(key, value) of all records; RuntimeError if keys come or go meanwhile."""
        count = self.count
        position = 0
        while True:
            position, keys, values = self.read(position)
            for pair in zip(keys, values, strict=True):
                yield pair
                if self.count != count:
                    raise RuntimeError("the keyspace changed its size while it was iterated over")
            if position == 0:
                return

    def keys(self) -> Iterator[bytes]:
        """All keys, as ``items``."""
        return (key for key, _ in self.items())

    # --- what the kernel leaves to others -----------------------------------------------------------

    def put_large(self, key: bytes, value: Any) -> bool:
        h = hashing.xxh3_64(key, self.space.seed) & self.space.mask
        return self.put_record(key, values.write(self.work, key, value, h))

    def drop_large(self, record: bytes) -> None:
        large = Large.unpack(record)
        self.work.free_run(large.page, large.pages, large.born)

    def spill(self) -> None:
        self.work.flush()

    def _load_large(self, record: bytes) -> bytes:
        return values.read(self.work.mem, self.page_size, record)
