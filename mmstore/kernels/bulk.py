"""Many records at once: put in the order of the hash, and an empty index built page by page.

In the order of the hash neighbours meet in the same bucket, so each page is visited once.  An empty index is
built bottom up: with n records known, the depth is chosen so that a slot gets at most three; each node's slots
are packed into buckets until the next slot would fill more than 95 percent, and no page is written twice.
"""

from __future__ import annotations

from array import array
from typing import Any

from mmstore import format as fmt
from mmstore.kernels import bucket, hashing, raw
from mmstore.kernels.tree import plain, slot_of
from mmstore.kernels.writer import Writer

__all__ = ["Loader"]

HEAD = fmt.PAGE_HEADER
PRIVATE = fmt.PRIVATE
DEPTH = fmt.NODE.offset["depth"]
PREFIX = fmt.NODE.offset["prefix"]
NODE_KIND = fmt.KIND_NODE
BUCKET_KIND = fmt.KIND_BUCKET
MAX_KEY = 0xFFFF
LIKE = 64  # hashes that may agree in all bits that are sorted by; more are left to put
PACKED = 95  # percent of a bucket that is filled
AHEAD = 40  # records that are fetched ahead
LARGE_SIZE = 0xFFFF_FFFF  # in place of the sizes of a record that is too large for a bucket


class Loader(Writer):
    """An index that takes many records at once."""

    def put_many(self, keys: list[Any], values: list[Any]) -> int:
        """Put all pairs; of equal keys the last counts.  Returns how many keys are new.

        Raises as ``put``, before anything is changed.
        """
        n = len(keys)
        if len(values) != n:
            raise ValueError(f"expected as many values as keys, got {len(values)} for {n}")
        self.keys_in: list[bytes] = []
        self.values_in: list[Any] = []
        hashes_view = array("Q", bytes(8 * n))
        order_view = array("Q", bytes(8 * n))
        other_view = array("Q", bytes(8 * n))
        sizes_view = array("I", bytes(4 * n))
        self.hashes = raw.words(hashes_view)
        self.order = raw.words(order_view)
        self.sizes = raw.halves(sizes_view)
        self.n_in = n
        self.index_bits = n.bit_length()
        for i in range(n):
            key = keys[i]
            data = key if type(key) is bytes else plain(key)
            n_key = len(data)
            if n_key > MAX_KEY:
                raise ValueError(f"expected keys of at most {MAX_KEY} bytes, got one of {n_key}; hash it, or split it")
            value = values[i]
            m = len(value) if type(value) is bytes else memoryview(value).nbytes
            if 4 + n_key + m > self.inline:
                self.sizes[i] = LARGE_SIZE
            else:
                self.sizes[i] = m << 16 | n_key
                if type(value) is not bytes:
                    value = plain(value)
            self.keys_in.append(data)
            self.values_in.append(value)
            h = hashing.hash64(raw.content(data), 0, n_key, self.space.seed) & self.space.mask
            self.hashes[i] = h
            self.order[i] = h >> self.index_bits << self.index_bits | i
        raw.sort64(self.order, raw.words(other_view), n, self.index_bits & 56)
        before = self.count
        try:
            if self.height or not self.build():
                self.put_in_order(False)
        finally:
            self.keys_in = []
            self.values_in = []
        return self.count - before

    def put_in_order(self, only_large: bool) -> int:
        """Put records one by one, in the order of the hash."""
        one = 1
        mask = (one << self.index_bits) - 1
        for k in range(self.n_in):
            i = self.order[k] & mask
            if self.sizes[i] == LARGE_SIZE:
                self.put(self.keys_in[i], self.values_in[i])
            elif not only_large:
                if k + AHEAD < self.n_in:
                    raw.prefetch_item(self.keys_in, self.order[k + AHEAD] & mask)
                    raw.prefetch_item(self.values_in, self.order[k + AHEAD] & mask)
                if self.space.dirty >= self.space.full:
                    self.spill()
                key = self.keys_in[i]
                value = self.values_in[i]
                header = self.sizes[i]
                m = header >> 16
                self.enter(raw.content(key), header & 0xFFFF, self.hashes[i], raw.content(value), m, header, m)
        return 0

    def build(self) -> bool:
        """Build the empty index of the sorted records; False if there are too few, or hashes are too much alike."""
        one = 1
        mask = (one << self.index_bits) - 1
        if not self.settle():
            return False
        total = 0
        n = 0
        size = 0
        for k in range(self.n_in):
            i = self.order[k] & mask
            if self.sizes[i] != LARGE_SIZE:
                total += 4 + 8 * bucket.units(self.sizes[i])
                size += (self.sizes[i] >> 16) + (self.sizes[i] & 0xFFFF)
                n += 1
        if total <= self.room:
            return False
        # At most three records a slot, and so many slots that eight and more fill a bucket.
        depth = 0
        while (n > 3 * self.slots << depth or total * 8 > self.room * self.slots << depth) and depth < 24:
            depth += 1
        nodes = array("I")
        k = 0
        for j in range(one << depth):
            if self.space.dirty >= self.space.full:
                self.spill()
            start = k
            while k < self.n_in and (depth == 0 or self.order[k] >> 64 - depth == j):
                k += 1
            nodes.append(self.build_node(j, depth, start, k))
        for j in range(one << depth):
            if nodes[j] & PRIVATE and (nodes[j] & 0x7FFF_FFFF) < self.space.base:
                nodes[j] = self.space.numbered(nodes[j])
        self.nodes = len(nodes)
        self.pages += self.nodes
        if depth:
            self.plant_directory(nodes)
        else:
            self.root = nodes[0]
            self.height = 2
        self.count = n
        self.size = size
        self.put_in_order(True)
        return True

    def settle(self) -> bool:
        """Sort fully what agrees in the bits sorted by, and take out all but the last of equal keys."""
        bits = self.index_bits
        one = 1
        mask = (one << bits) - 1
        start = 0
        for k in range(1, self.n_in):
            if self.order[k] >> bits != self.order[start] >> bits:
                start = k
            elif k - start > LIKE:
                return False
        left = 0
        start = 0
        for k in range(1, self.n_in + 1):
            if k < self.n_in and self.order[k] >> bits == self.order[start] >> bits:
                continue
            for j in range(start + 1, k):
                record = self.order[j]
                at = j
                while at > start and self.hashes[self.order[at - 1] & mask] > self.hashes[record & mask]:
                    self.order[at] = self.order[at - 1]
                    at -= 1
                self.order[at] = record
            for j in range(start, k):
                other = j + 1
                while other < k and self.keys_in[self.order[other] & mask] != self.keys_in[self.order[j] & mask]:
                    other += 1
                if other == k:
                    self.order[left] = self.order[j]
                    left += 1
            start = k
        self.n_in = left
        return True

    def build_node(self, j: int, depth: int, start: int, stop: int) -> int:
        """Build node ``j`` of this depth, and its buckets, of the records [start, stop) in order."""
        one = 1
        mask = (one << self.index_bits) - 1
        node = self.space.new(NODE_KIND)
        page = self.space.own(node)
        raw.store8(page, DEPTH, depth)
        if depth:
            raw.store64(page, PREFIX, j << 64 - depth)
        most = self.room * PACKED // 100
        first = start
        first_slot = 0
        slot = 0
        weight = 0
        k = start
        while k < stop:
            # One slot's records: [k, after)
            after = k
            more = 0
            slot_here = slot_of(self.hash_at(k), depth, self.slots)
            while after < stop and slot_of(self.hash_at(after), depth, self.slots) == slot_here:
                i = self.order[after] & mask
                if self.sizes[i] != LARGE_SIZE:
                    more += 4 + 8 * bucket.units(self.sizes[i])
                after += 1
            if weight and weight + more > most:
                ref = self.pack(first, k)
                for slot in range(first_slot, slot_here):
                    raw.store32(page, HEAD + 4 * slot, ref)
                first_slot = slot_here
                first = k
                weight = 0
            weight += more
            k = after
        ref = self.pack(first, stop)
        for slot in range(first_slot, self.slots):
            raw.store32(page, HEAD + 4 * slot, ref)
        return node

    def hash_at(self, k: int) -> int:
        """The hash of the record at place ``k`` in order."""
        one = 1
        return self.hashes[self.order[k] & (one << self.index_bits) - 1]  # type: ignore[no-any-return]

    def pack(self, start: int, stop: int) -> int:
        """Write the records [start, stop) in order into a new bucket, or a chain; returns its reference."""
        space = self.space
        one = 1
        mask = (one << self.index_bits) - 1
        n = 0
        if stop - start > self.records_size:
            self._grow(2 * (stop - start))
        for k in range(start, stop):
            i = self.order[k] & mask
            if self.sizes[i] != LARGE_SIZE:
                self.records[n] = (self.hashes[i] & 0xFFFF) << 48 | i
                n += 1
            if k + AHEAD < self.n_in:
                i = self.order[k + AHEAD] & mask
                raw.prefetch_item(self.keys_in, i)
                raw.prefetch_item(self.values_in, i)
        raw.sort64(self.records, self.other, n, 48)
        following = 0
        ref = space.new(BUCKET_KIND)
        self.pages += 1
        page = space.own(ref)
        top = self.page_size >> 3
        entries = 0
        for k in range(n):
            record = self.records[n - 1 - k]
            i = record & (one << 48) - 1
            header = self.sizes[i]
            need = bucket.units(header)
            if HEAD + 4 * (entries + 1) + 4 + 8 * need > 8 * top:
                self.finish(page, entries, top, following)
                following = ref
                ref = space.new(BUCKET_KIND)
                self.pages += 1
                page = space.own(ref)
                top = self.page_size >> 3
                entries = 0
            top -= need
            at = 8 * top
            key = self.keys_in[i]
            value = self.values_in[i]
            raw.store64(page, at + 8 * need - 12, 0)
            raw.store32(page, at - 4, header)
            raw.move(page, at, raw.content(value), 0, header >> 16)
            raw.move(page, at + (header >> 16), raw.content(key), 0, header & 0xFFFF)
            self.other[entries] = record >> 48 << 16 | top
            entries += 1
        self.finish(page, entries, top, following)
        return ref
