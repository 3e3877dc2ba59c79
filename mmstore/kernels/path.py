"""The way to a bucket inside a transaction: located from the top, made private, and the directory above it.

A page may be changed when it is private and no savepoint needs it (``Space.is_writable``).  A writable page's
parents are writable too: its reference was written into them when it was made.  So whoever owns a bucket
first owns the node and directory pages above, and a put copies three pages at most before it changes one.
"""

from __future__ import annotations

from array import array
from typing import Any

from mmstore import format as fmt
from mmstore.kernels import raw
from mmstore.kernels.space import Space
from mmstore.kernels.tree import Tree, slot_of

__all__ = ["Path"]

HEAD = fmt.PAGE_HEADER
LEVEL = fmt.DIRECTORY.offset["level"]
NEXT = fmt.BUCKET.offset["next"]
DIRECTORY_KIND = fmt.KIND_DIRECTORY
NODE_KIND = fmt.KIND_NODE
BUCKET_KIND = fmt.KIND_BUCKET


class Path(Tree):
    """A writer's index: the tree, its counts, and where the last key was located."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._shape()
        self.nodes = self.pages = self.count = self.size = 0
        self.node = self.node_d = self.prefix = self.slot = self.head = self.left = self.right = 0

    # --- finding, and making private ----------------------------------------------------------------

    def aim(self, h: int) -> int:
        """Note node, slot and first bucket for ``h``."""
        if self.height == 1:
            self.head = self.top()
            return 0
        self.node = self.node_of(h)
        page = self.space.page(self.node, NODE_KIND)
        self.node_d = self.node_depth(self.node, page, h)
        self.prefix = h >> 64 - self.node_d << 64 - self.node_d if self.node_d else 0
        self.slot = slot_of(h, self.node_d, self.slots)
        self.head = raw.load32(page, HEAD + 4 * self.slot)
        self.space.expect(self.head)
        return 0

    def run(self) -> int:
        """Note the slots [left, right) of the located bucket."""
        page = self.space.page(self.node, NODE_KIND)
        self.left = self.slot
        while self.left > 0 and raw.load32(page, HEAD + 4 * (self.left - 1)) == self.head:
            self.left -= 1
        self.right = self.slot + 1
        while self.right < self.slots and raw.load32(page, HEAD + 4 * self.right) == self.head:
            self.right += 1
        return 0

    def own_head(self) -> int:
        """Make the located bucket writable, and so all above it."""
        if self.space.is_writable(self.head):
            return 0
        if self.height == 1:
            self.root = self.head = self.space.copy(self.head, BUCKET_KIND)
            return 0
        self.own_node()
        self.run()
        self.head = self.space.copy(self.head, BUCKET_KIND)
        self.assign_slots(self.left, self.right, self.head)
        return 0

    def own_chained(self, ref: int) -> int:
        """Make bucket ``ref`` of the located chain writable; returns its new reference."""
        if ref == self.head:
            self.own_head()
            return self.head
        self.own_head()
        at = self.head
        while True:
            page = self.space.own(at)
            following = raw.load32(page, NEXT)
            at = self.space.copy(following, BUCKET_KIND)
            raw.store32(page, NEXT, at)
            if following == ref:
                return at

    def own_node(self) -> int:
        """Make the located node writable."""
        if self.space.is_writable(self.node):
            return 0
        self.node = self.space.copy(self.node, NODE_KIND)
        self.assign_entries(self.prefix, self.node_d, self.node)
        return 0

    def own_directory(self, index: int) -> Any:
        """The writable lowest directory page with entry ``index``."""
        self.root = ref = self.space.copy(self.top(), DIRECTORY_KIND)
        level = self.height - 3
        while level:
            page = self.space.own(ref)
            at = HEAD + 4 * (index >> self.fan_bits * level & (1 << self.fan_bits) - 1)
            ref = self.space.copy(raw.load32(page, at), DIRECTORY_KIND)
            raw.store32(page, at, ref)
            level -= 1
        return self.space.own(ref)

    def assign_slots(self, start: int, stop: int, ref: int) -> int:
        """Let the slots [start, stop) of the located node, which is writable, refer to a bucket."""
        page = self.space.own(self.node)
        for i in range(start, stop):
            raw.store32(page, HEAD + 4 * i, ref)
        return 0

    def assign_entries(self, prefix: int, depth: int, ref: int) -> int:
        """Let all directory entries that begin with the ``depth`` bits of ``prefix`` refer to a node."""
        if self.height == 2:
            self.root = ref
            return 0
        one = 1
        index = prefix >> 64 - self.depth
        count = one << self.depth - depth
        fan = one << self.fan_bits
        while count:
            page = self.own_directory(index)
            first = index & fan - 1
            n = min(count, fan - first)
            for i in range(first, first + n):
                raw.store32(page, HEAD + 4 * i, ref)
            index += n
            count -= n
        return 0

    # --- the directory ------------------------------------------------------------------------------

    def double(self) -> int:
        """Give the directory another bit."""
        if self.height == 2:
            self.plant_directory(array("I", [self.top()] * 2))
            return 0
        old = self.entries()
        self.drop_directory(self.top(), self.height - 3)
        doubled = array("I", bytes(8 * len(old)))
        doubled[::2] = old
        doubled[1::2] = old
        self.plant_directory(doubled)
        return 0

    def entries(self) -> Any:
        """All entries of the directory."""
        one = 1
        fan = one << self.fan_bits
        found = array("I")
        index = 0
        count = one << self.depth
        while index < count:
            ref = self.top()
            for level in range(self.height - 3, 0, -1):
                page = self.space.page(ref, DIRECTORY_KIND)
                ref = raw.load32(page, HEAD + 4 * (index >> self.fan_bits * level & fan - 1))
            page = self.space.page(ref, DIRECTORY_KIND)
            for i in range(min(fan, count - index)):
                found.append(raw.load32(page, HEAD + 4 * i))
            index += fan
        return found

    def plant_directory(self, entries: Any) -> int:
        """Build a directory of these entries, a power of two."""
        fan = 1 << self.fan_bits
        self.depth = len(entries).bit_length() - 1
        self.height = 2
        while True:
            above = array("I")
            for start in range(0, len(entries), fan):
                ref = self.space.new(DIRECTORY_KIND)
                page = self.space.own(ref)
                raw.store8(page, LEVEL, self.height - 2)
                for i in range(start, min(start + fan, len(entries))):
                    raw.store32(page, HEAD + 4 * (i - start), entries[i])
                above.append(ref)
            self.pages += len(above)
            self.height += 1
            entries = above
            if len(above) == 1:
                self.root = above[0]
                return 0

    def drop_directory(self, ref: int, level: int) -> int:
        """Drop the directory pages from ``ref`` of this level on downwards."""
        page = self.space.page(ref, DIRECTORY_KIND)
        if self.pages == 0:
            raise self.space.corrupt(ref, DIRECTORY_KIND)
        if level:
            one = 1
            for i in range(min(one << self.fan_bits, one << self.depth - self.fan_bits * level)):
                self.drop_directory(raw.load32(page, HEAD + 4 * i), level - 1)
        self.space.drop(ref)
        self.pages -= 1
        return 0

    def halve(self) -> int:
        """Take bits from the directory while no node needs the last one."""
        one = 1
        while self.height > 2 and (one << self.depth) >= 2 * self.nodes:
            old = self.entries()
            for i in range(0, len(old), 2):
                if old[i] != old[i + 1]:
                    return 0
            self.drop_directory(self.top(), self.height - 3)
            if len(old) == 2:
                self.root = old[0]
                self.height = 2
                self.depth = 0
            else:
                self.plant_directory(old[::2])
        return 0
