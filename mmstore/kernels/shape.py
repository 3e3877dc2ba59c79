"""How an index changes its shape: buckets spread and merge, nodes split and join.

Every change keeps these: a bucket covers one run of slots of one node; a record lies in the bucket of its
slot; node slots of depth d + 1 refine those of depth d, so that a node splits without touching buckets (but
the one across its middle); a directory has at most 8 times as many entries as there are nodes, and what would
need more chains its buckets: skewed or hostile keys cost time, not memory.

A full bucket first shares with a neighbour, else two become three: that is what keeps buckets four fifths
full.  Called by ``Writer`` only, which locates a key first.
"""

from __future__ import annotations

from array import array
from typing import Any

from mmstore import format as fmt
from mmstore.kernels import bucket, raw
from mmstore.kernels.path import Path
from mmstore.kernels.space import Space
from mmstore.kernels.tree import bound_of, slot_of

__all__ = ["Shape"]

HEAD = fmt.PAGE_HEADER
DEPTH = fmt.NODE.offset["depth"]
PREFIX = fmt.NODE.offset["prefix"]
COUNT = fmt.BUCKET.offset["count"]
TOP = fmt.BUCKET.offset["top"]
NEXT = fmt.BUCKET.offset["next"]
DIRECTORY_KIND = fmt.KIND_DIRECTORY
NODE_KIND = fmt.KIND_NODE
BUCKET_KIND = fmt.KIND_BUCKET
LARGE = fmt.LARGE.size
MAX_DEPTH = 36
LONG_CHAIN = 4096  # pages of a chain that are not sorted out any more
CROWDED = 4  # records a slot from which a node is split rather than a bucket
SHARE = 92  # percent of two buckets up to which they share instead of becoming three
SPARSE = 25  # percent of a bucket below which a neighbour is looked for
MERGED = 70  # percent that the merged bucket may be filled


class Shape(Path):
    """An index whose pages split and merge."""

    def __init__(self, space: Space) -> None:
        Path.__init__(self, space)
        self.room = space.page_size - HEAD - 4  # bytes for entries and records in a bucket
        self.records_size = self.origins_size = 0  # no memory for what most transactions never do
        self.records_view = self.origins_view = array("Q")
        self.n_records = self.n_sources = 0
        self.cut1 = self.cut2 = self.total = 0
        self.alone = False

    def _prepare(self) -> int:
        """Have memory for ``collect``."""
        self.weights_view = array("Q", bytes(8 * self.slots))
        self.weights = raw.words(self.weights_view)
        self._grow_origins()
        self._grow(512)
        return 0

    def _grow(self, n: int) -> int:
        records = array("Q", bytes(8 * n))
        records[: len(self.records_view)] = self.records_view
        self.records_view = records
        self.other_view = array("Q", bytes(8 * n))
        self.records = raw.words(self.records_view)
        self.other = raw.words(self.other_view)
        self.records_size = n
        return 0

    def _grow_origins(self) -> int:
        n = 2 * self.origins_size + 16
        origins = array("Q", bytes(8 * n))
        origins[: self.origins_size] = self.origins_view
        self.origins_view = origins
        self.origin = raw.words(self.origins_view)
        self.origins_size = n
        return 0

    # --- more room ----------------------------------------------------------------------------------

    def make_room(self, h: int, need: int) -> int:
        """Change the shape around the located bucket, which has no room for ``need`` bytes of entry and record.

        Locate anew and look again; after a few times there is room.
        """
        if self.height == 1:
            self.plant()
            return 0
        self.run()
        page = self.space.page(self.head, BUCKET_KIND)
        width = self.right - self.left
        crowded = width == 1 or raw.load16(page, COUNT) > CROWDED * width
        if crowded and self.can_split() and self.split_node(h):
            self.alone = True  # so that one put never replaces more than four pages
            return 0
        self.own_node()
        if width == 1:
            fresh = self.space.new(BUCKET_KIND)
            raw.store32(self.space.own(fresh), NEXT, self.head)
            self.assign_slots(self.left, self.right, fresh)
            self.pages += 1
            return 0
        left, right = self.left, self.right
        if raw.load32(page, NEXT) == 0:
            if not self.alone:
                self.join_neighbour(need)
                if self.left < left or self.right > right:
                    self.collect(self.left, self.right)
                    self.weigh(h, need)
                    if self.total <= self.room * 2 * SHARE // 100 and self.cut(2) or self.cut(3):
                        return self.spread()
                    self.left, self.right = left, right
            self.collect(left, right)
            self.weigh(h, need)
            self.cut(2)
            return self.spread()
        if self.chain_length(self.head) > LONG_CHAIN:
            fresh = self.space.new(BUCKET_KIND)
            raw.store32(self.space.own(fresh), NEXT, self.head)
            self.assign_slots(left, right, fresh)
            self.pages += 1
            return 0
        self.collect(left, right)
        self.cut1 = left + (right - left >> 1)
        self.cut2 = right
        return self.spread()

    def plant(self) -> int:
        """Put a node above the bucket that is the root."""
        node = self.space.new(NODE_KIND)
        page = self.space.own(node)
        for i in range(self.slots):
            raw.store32(page, HEAD + 4 * i, self.head)
        self.root = node
        self.height = 2
        self.depth = 0
        self.nodes = 1
        self.pages += 1
        return 0

    def can_split(self) -> bool:
        """Whether the located node may split: deeper nodes exist, or the directory may double."""
        one = 1
        return self.node_d < self.depth or (one << self.depth + 1) <= 8 * (self.nodes + 1) and self.depth < MAX_DEPTH

    def chain_length(self, ref: int) -> int:
        """Pages of a chain, counted to just beyond LONG_CHAIN."""
        n = 0
        while ref and n <= LONG_CHAIN:
            ref = raw.load32(self.space.page(ref, BUCKET_KIND), NEXT)
            n += 1
        return n

    def join_neighbour(self, need: int) -> int:
        """Extend [left, right) by the emptier of the two neighbours that are not chained."""
        page = self.space.page(self.node, NODE_KIND)
        before = after = 1 << 30
        first, last = self.left, self.right
        if self.left > 0:
            ref = raw.load32(page, HEAD + 4 * (self.left - 1))
            first -= 1
            while first > 0 and raw.load32(page, HEAD + 4 * (first - 1)) == ref:
                first -= 1
            before = self.load_of(ref)
        if self.right < self.slots:
            ref = raw.load32(page, HEAD + 4 * self.right)
            last += 1
            while last < self.slots and raw.load32(page, HEAD + 4 * last) == ref:
                last += 1
            after = self.load_of(ref)
        if before <= after and before < 1 << 30:
            self.left = first
        elif after < 1 << 30:
            self.right = last
        return 0

    def load_of(self, ref: int) -> int:
        """Bytes used in a bucket; 2^30 if it is chained."""
        page = self.space.page(ref, BUCKET_KIND)
        if raw.load32(page, NEXT):
            return 1 << 30
        return bucket.used(page, self.page_size)

    # --- moving records between buckets -------------------------------------------------------------

    def collect(self, start: int, stop: int) -> int:
        """Note all records of the slots [start, stop), and what each slot weighs; changes nothing.

        A record is noted as tag << 48 | number of its page in ``origin`` << 32 | unit << 16 | slot.
        """
        space = self.space
        size = self.page_size
        node = space.page(self.node, NODE_KIND)
        if self.origins_size == 0:
            self._prepare()
        self.n_sources = 0
        self.n_records = 0
        self.total = 0
        for slot in range(start, stop):
            self.weights[slot] = 0
        n = 0
        before = 0
        for slot in range(start, stop):
            ref = raw.load32(node, HEAD + 4 * slot)
            if ref == before:
                continue
            before = ref
            while ref:
                page = space.page(ref, BUCKET_KIND)
                source = self.n_sources
                if source > 0xFFFF or not bucket.check(page, size):
                    raise space.corrupt(ref, BUCKET_KIND)
                if source + 1 > self.origins_size:
                    self._grow_origins()
                self.origin[source] = ref
                self.n_sources = source + 1
                count = raw.load16(page, COUNT)
                if n + count > self.records_size:
                    self._grow(2 * (n + count))
                for i in range(count):
                    entry = raw.load32(page, HEAD + 4 * i)
                    unit = entry & 0xFFFF
                    h = bucket.record_hash(page, unit, space.seed, space.mask)
                    at = slot_of(h, self.node_d, self.slots)
                    if at < start or at >= stop or h & 0xFFFF != entry >> 16:
                        raise space.corrupt(ref, BUCKET_KIND)
                    weight = 4 + 8 * bucket.units(raw.load32(page, 8 * unit - 4))
                    self.weights[at] += weight
                    self.total += weight
                    self.records[n] = entry >> 16 << 48 | source << 32 | unit << 16 | at
                    n += 1
                ref = raw.load32(page, NEXT)
        self.n_records = n
        self.cut1 = self.cut2 = stop
        self.left, self.right = start, stop
        return 0

    def weigh(self, h: int, need: int) -> int:
        """Add a record to come to what was collected."""
        self.weights[slot_of(h, self.node_d, self.slots)] += need
        self.total += need
        return 0

    def cut(self, parts: int) -> bool:
        """Set the cuts that make [left, right) two or three about equal parts; whether each fits a bucket."""
        k = 1
        done = 0
        slot = self.left
        self.cut1 = self.cut2 = self.right
        while slot < self.right and k < parts:
            weight = self.weights[slot]
            # The nearer of the two boundaries of this slot, but never an empty run of slots.
            if parts * (2 * done + weight) >= 2 * k * self.total and slot > (self.left if k == 1 else self.cut1):
                if k == 1:
                    self.cut1 = slot
                else:
                    self.cut2 = slot
                k += 1
                continue
            done += weight
            slot += 1
        if k < parts:
            # All the weight lies in the last slot.
            if parts == 3 or self.right - self.left < 2:
                return False
            self.cut1 = self.right - 1
        return (
            self.weight(self.left, self.cut1) <= self.room
            and self.weight(self.cut1, self.cut2) <= self.room
            and self.weight(self.cut2, self.right) <= self.room
        )

    def weight(self, start: int, stop: int) -> int:
        """Bytes collected in the slots [start, stop)."""
        total = 0
        for slot in range(start, stop):
            total += self.weights[slot]
        return total

    def spread(self) -> int:
        """Write what was collected into new buckets [left, cut1), [cut1, cut2), [cut2, right); the node is writable."""
        raw.sort64(self.records, self.other, self.n_records, 48)
        self.fill(self.left, self.cut1)
        if self.cut1 < self.cut2:
            self.fill(self.cut1, self.cut2)
        if self.cut2 < self.right:
            self.fill(self.cut2, self.right)
        for i in range(self.n_sources):
            self.space.drop(self.origin[i])
        self.pages -= self.n_sources
        return 0

    def fill(self, start: int, stop: int) -> int:
        """Write the collected records of the slots [start, stop) into one new bucket, or a chain."""
        space = self.space
        size = self.page_size
        following = 0
        ref = space.new(BUCKET_KIND)
        self.pages += 1
        page = space.own(ref)
        top = size >> 3
        n = 0
        for k in range(self.n_records):
            record = self.records[self.n_records - 1 - k]
            slot = record & 0xFFFF
            if slot < start or slot >= stop:
                continue
            source = space.known(self.origin[record >> 32 & 0xFFFF])
            at = 8 * (record >> 16 & 0xFFFF) - 4
            need = bucket.units(raw.load32(source, at))
            if HEAD + 4 * (n + 1) + 4 + 8 * need > 8 * top:
                self.finish(page, n, top, following)
                following = ref
                ref = space.new(BUCKET_KIND)
                self.pages += 1
                page = space.own(ref)
                top = size >> 3
                n = 0
            top -= need
            raw.move(page, 8 * top - 4, source, at, 8 * need)
            self.other[n] = record >> 48 << 16 | top
            n += 1
        self.finish(page, n, top, following)
        self.assign_slots(start, stop, ref)
        return 0

    def finish(self, page: Any, n: int, top: int, following: int) -> int:
        """Set the entries, noted in falling order, and the fields of a bucket that was filled."""
        for i in range(n):
            raw.store32(page, HEAD + 4 * (n - 1 - i), self.other[i])
        raw.store16(page, COUNT, n)
        raw.store16(page, TOP, top)
        raw.store32(page, NEXT, following)
        return 0

    # --- nodes and directory ------------------------------------------------------------------------

    def split_node(self, h: int) -> bool:
        """Split the located node in two of the next depth; False where a very long chain is in the way."""
        space = self.space
        half = self.slots >> 1
        page = space.page(self.node, NODE_KIND)
        middle = raw.load32(page, HEAD + 4 * half)
        shared = raw.load32(page, HEAD + 4 * (half - 1)) == middle
        if shared and self.chain_length(middle) > LONG_CHAIN:
            return False
        if self.node_d == self.depth:
            self.double()
        if shared:
            self.own_node()
            self.slot, self.head = half, middle
            self.run()
            self.collect(self.left, self.right)
            self.cut1 = half
            self.spread()
            page = space.page(self.node, NODE_KIND)
        low = space.new(NODE_KIND)
        high = space.new(NODE_KIND)
        low_page = space.own(low)
        high_page = space.own(high)
        for i in range(half):
            ref = raw.load32(page, HEAD + 4 * i)
            raw.store32(low_page, HEAD + 8 * i, ref)
            raw.store32(low_page, HEAD + 8 * i + 4, ref)
            ref = raw.load32(page, HEAD + 4 * (half + i))
            raw.store32(high_page, HEAD + 8 * i, ref)
            raw.store32(high_page, HEAD + 8 * i + 4, ref)
        one = 1
        depth = self.node_d + 1
        prefix = self.prefix | one << 64 - depth
        raw.store8(low_page, DEPTH, depth)
        raw.store8(high_page, DEPTH, depth)
        raw.store64(low_page, PREFIX, self.prefix)
        raw.store64(high_page, PREFIX, prefix)
        space.drop(self.node)
        self.nodes += 1
        self.pages += 1
        self.assign_entries(self.prefix, depth, low)
        self.assign_entries(prefix, depth, high)
        return True

    # --- less room ----------------------------------------------------------------------------------

    def shrink(self) -> int:
        """Merge the located bucket, which lost a record, with a neighbour if both are sparse."""
        if self.height == 1:
            return 0
        load = self.load_of(self.head)
        if load > self.room * SPARSE // 100:
            return 0
        self.own_node()
        self.run()
        left, right = self.left, self.right
        self.join_neighbour(0)
        if self.left == left and self.right == right:
            if left == 0 and right == self.slots:
                self.merge_node()
            return 0
        page = self.space.page(self.node, NODE_KIND)
        ref = raw.load32(page, HEAD + 4 * (self.left if self.left < left else self.right - 1))
        if load == 0:
            self.assign_slots(left, right, ref)
            self.space.drop(self.head)
            self.pages -= 1
            self.head = ref
        elif load + self.load_of(ref) <= self.room * MERGED // 100:
            self.collect(self.left, self.right)
            self.spread()
            self.head = raw.load32(self.space.page(self.node, NODE_KIND), HEAD + 4 * self.slot)
        else:
            return 0
        self.run()
        if self.left == 0 and self.right == self.slots:
            self.merge_node()
        return 0

    def merge_node(self) -> int:
        """The located node has one bucket: drop it, or join it with its sibling if that has only one, too."""
        space = self.space
        if self.height == 2:
            if raw.load32(space.page(self.head, BUCKET_KIND), NEXT) == 0:
                space.drop(self.node)
                self.pages -= 1
                self.root = self.head
                self.height = 1
                self.nodes = 0
            return 0
        one = 1
        depth = self.node_d
        if depth == 0:
            return 0
        bit = one << 64 - depth
        sibling = self.node_of(self.prefix ^ bit)
        page = space.page(sibling, NODE_KIND)
        if self.node_depth(sibling, page, self.prefix ^ bit) != depth:
            return 0
        other = raw.load32(page, HEAD)
        for i in range(self.slots):
            if raw.load32(page, HEAD + 4 * i) != other:
                return 0
        node = space.new(NODE_KIND)
        fresh = space.own(node)
        half = self.slots >> 1
        low = other if self.prefix & bit else self.head
        high = self.head if self.prefix & bit else other
        for i in range(half):
            raw.store32(fresh, HEAD + 4 * i, low)
            raw.store32(fresh, HEAD + 4 * (half + i), high)
        prefix = self.prefix & ~bit
        raw.store8(fresh, DEPTH, depth - 1)
        raw.store64(fresh, PREFIX, prefix)
        space.drop(self.node)
        space.drop(sibling)
        self.nodes -= 1
        self.pages -= 1
        self.assign_entries(prefix, depth - 1, node)
        self.halve()
        return 0

    def drop_chain(self, ref: int) -> int:
        """Drop a bucket and those behind it, and the runs of their large records."""
        steps = 0
        while ref:
            page = self.space.page(ref, BUCKET_KIND)
            steps += 1
            if steps > self.space.limit + self.space.used or not bucket.check(page, self.page_size):
                raise self.space.corrupt(ref, BUCKET_KIND)
            for i in range(raw.load16(page, COUNT)):
                at = 8 * (raw.load32(page, HEAD + 4 * i) & 0xFFFF)
                if raw.load32(page, at - 4) >> 16 == 0xFFFF:
                    self.drop_large(raw.take(page, at, LARGE))
            following = raw.load32(page, NEXT)
            self.space.drop(ref)
            ref = following
        return 0

    def drop_large(self, record: bytes) -> None:
        """Free the run of a large record: whoever knows about runs says how."""
        raise NotImplementedError

    def drop_all(self) -> int:
        """Drop all pages."""
        position = 0
        steps = 0
        if self.height == 1:
            self.drop_chain(self.top())
        while self.height >= 2:
            steps += 1
            if steps > self.space.limit + self.space.used:
                raise self.space.corrupt(self.top(), DIRECTORY_KIND)
            node = self.node_of(position)
            page = self.space.page(node, NODE_KIND)
            depth = self.node_depth(node, page, position)
            before = 0
            for slot in range(self.slots):
                ref = raw.load32(page, HEAD + 4 * slot)
                if ref != before:
                    self.drop_chain(ref)
                    before = ref
            self.space.drop(node)
            position = bound_of(position, depth, self.slots, self.slots)
            if position == 0:
                break
        if self.height > 2:
            self.drop_directory(self.top(), self.height - 3)
        self.root = self.height = self.depth = 0
        self.nodes = self.pages = self.count = self.size = 0
        return 0
