"""Many records at once: put in the order of the hash, and an empty index built page by page.

In the order of the hash neighbours meet in the same bucket, so each page is visited once.  An empty index is
built bottom up: with n records known, the depth is chosen so that a slot gets at most three; each node's slots
are packed into buckets until the next slot would fill more than 95 percent, and no page is written twice.
"""

from __future__ import annotations

from array import array
from typing import Any

from mmstore import format as fmt
from mmstore.kernels import bucket, hashing, packed, raw
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
AHEAD = 40  # places ahead of the one in work at which records are fetched
LARGE_HEADER = fmt.LARGE_MARK << 16


class Loader(Writer):
    """An index that takes many records at once.

    They come as lists of bytes, or packed: then key i begins at ``starts[i]`` of ``source``, and the values are the
    rows of ``width`` bytes of ``rows``, or if ``is_sliced`` begin at ``bounds[i]`` of it.  ``sizes[i]`` is the
    record's header as in a bucket, with LARGE_HEADER in place of the value's size where it is too large for one.
    ``held`` keeps alive what these point into.
    """

    def put_many(self, keys: list[Any], values: list[Any]) -> int:
        """Put all pairs; of equal keys the last counts.  Returns how many keys are new.

        Raises as ``put``, before anything is changed.
        """
        n = len(keys)
        if len(values) != n:
            raise ValueError(f"expected as many values as keys, got {len(values)} for {n}")
        try:
            self.begin_batch(n, False)
            self.note_lists(keys, values)
            return self.put_batch()
        finally:
            self.end_batch()

    def put_packed(self, data: Any, offsets: Any, values: Any, size: int) -> int:
        """Put the keys ``data[offsets[i]:offsets[i + 1]]`` with the values ``values[i * size:(i + 1) * size]``.

        Of equal keys the last counts.  Returns how many keys are new.  ``offsets`` is a buffer of int64; nobody may
        change the content of ``data`` and ``values`` meanwhile.

        Raises ValueError, before anything is changed, where an offset or the length of a key or buffer is wrong.
        """
        source, places = packed.keys(data, offsets)
        rows = packed.flat(values)
        n = len(places) - 1
        if size < 0 or len(rows) != n * size:
            raise ValueError(f"expected {n} values of {size} bytes each, found {len(rows)} bytes in all")
        try:
            self.begin_batch(n, True)
            self.rows_view = rows
            self.rows = raw.address(rows)
            self.width = size
            self.note_packed(source, places)
            return self.put_batch()
        finally:
            self.end_batch()

    def put_slices(self, pairs: packed.Pairs) -> int:
        """Put pairs, of whose contents nobody may change any meanwhile; else as ``put_many``."""
        n = len(pairs)  # a TypeError for None, and for one that was never filled, which C types let through
        try:
            self.begin_batch(n, True)
            self.rows_view = pairs.rows
            self.rows = raw.address(pairs.rows)
            self.held.append(pairs)
            self.bounds = raw.longs(pairs.ends)
            self.is_sliced = True
            self.note_packed(pairs.source, pairs.places)
            return self.put_batch()
        finally:
            self.end_batch()

    def delete_packed(self, data: Any, offsets: Any) -> int:
        """Remove the records of the keys ``data[offsets[i]:offsets[i + 1]]``; returns how many there were.

        Raises as ``put_packed``.
        """
        source, places = packed.keys(data, offsets)
        n = len(places) - 1
        before = self.count
        if n == 0 or before == 0:
            return 0
        one = 1
        try:
            self.begin_batch(n, True)
            self.note_packed(source, places)
            self.sort()
            mask = (one << self.index_bits) - 1
            for k in range(n):
                self.look_ahead(k)
                self.bring(k)
                i = self.order[k] & mask
                self.remove(self.key(i), self.sizes[i] & 0xFFFF, self.hashes[i])
        finally:
            self.end_batch()
        return before - self.count

    # --- the batch ----------------------------------------------------------------------------------

    def begin_batch(self, n: int, is_packed: bool) -> int:
        """Have memory for n records."""
        hashes, order, sizes = array("Q", bytes(8 * n)), array("Q", bytes(8 * n)), array("I", bytes(4 * n))
        self.hashes = raw.words(hashes)
        self.order = raw.words(order)
        self.sizes = raw.halves(sizes)
        self.held: list[Any] = [hashes, order, sizes]
        self.n_in = n
        self.index_bits = n.bit_length()
        self.is_packed = is_packed
        self.is_sliced = False
        self.keys_in: list[bytes] = []
        self.values_in: list[Any] = []
        self.width = 0
        self.rows_view = memoryview(b"")
        self.rows = raw.address(self.rows_view)
        return 0

    def end_batch(self) -> int:
        """Let go of the records."""
        self.held = []
        self.keys_in = []
        self.values_in = []
        self.rows_view = memoryview(b"")
        return 0

    def note(self, i: int, key: Any, n: int) -> int:
        """Note the hash of record i."""
        h = hashing.hash64(key, 0, n, self.space.seed) & self.space.mask
        self.hashes[i] = h
        self.order[i] = h >> self.index_bits << self.index_bits | i
        return 0

    def note_lists(self, keys: list[Any], values: list[Any]) -> int:
        """Note all records of these lists."""
        for i in range(self.n_in):
            key = keys[i]
            data = key if type(key) is bytes else plain(key)
            n_key = len(data)
            if n_key > MAX_KEY:
                raise ValueError(f"expected keys of at most {MAX_KEY} bytes, got one of {n_key}; hash it, or split it")
            value = values[i]
            m = len(value) if type(value) is bytes else memoryview(value).nbytes
            if 4 + n_key + m > self.inline:
                self.sizes[i] = LARGE_HEADER | n_key
            else:
                self.sizes[i] = m << 16 | n_key
                if type(value) is not bytes:
                    value = plain(value)
            self.keys_in.append(data)
            self.values_in.append(value)
            self.note(i, raw.content(data), n_key)
        return 0

    def note_packed(self, source: Any, places: array[int]) -> int:
        """Note all records of packed keys."""
        self.held += (source, places)
        self.source = raw.address(source)
        self.starts = raw.longs(places)
        for i in range(self.n_in):
            at = self.starts[i]
            n_key = self.starts[i + 1] - at
            m = self.bounds[i + 1] - self.bounds[i] if self.is_sliced else self.width
            if 4 + n_key + m > self.inline:
                m = LARGE_HEADER >> 16
            self.sizes[i] = m << 16 | n_key
            self.note(i, raw.part(self.source, at, n_key), n_key)
        return 0

    def sort(self) -> int:
        """Bring ``order`` into the order of the hashes; those that agree in the bits sorted by stay as they were."""
        other_view = array("Q", bytes(8 * self.n_in))
        raw.sort64(self.order, raw.words(other_view), self.n_in, self.index_bits & 56)
        return 0

    def key(self, i: int) -> Any:
        """The first byte of record i's key."""
        if self.is_packed:
            return raw.part(self.source, self.starts[i], self.sizes[i] & 0xFFFF)
        return raw.content(self.keys_in[i])

    def value(self, i: int) -> Any:
        """The first byte of record i's value, which fits a bucket."""
        if self.is_packed:
            return raw.part(self.rows, self.bounds[i] if self.is_sliced else i * self.width, self.sizes[i] >> 16)
        return raw.content(self.values_in[i])

    def look_ahead(self, k: int) -> int:
        """Have what says where a record's key and value lie on its way, for the record 2 * AHEAD places on."""
        if not raw.COMPILED or k + 2 * AHEAD >= self.n_in:
            return 0
        one = 1
        i = self.order[k + 2 * AHEAD] & (one << self.index_bits) - 1
        raw.prefetch(self.hashes, 8 * i)
        raw.prefetch(self.sizes, 4 * i)
        if self.is_packed:
            raw.prefetch(self.starts, 8 * i)
        else:
            raw.prefetch_slot(self.keys_in, i)
            raw.prefetch_slot(self.values_in, i)
        return 0

    def bring(self, k: int) -> int:
        """Have key and value on their way, of the record AHEAD places on."""
        if not raw.COMPILED or k + AHEAD >= self.n_in:
            return 0
        one = 1
        i = self.order[k + AHEAD] & (one << self.index_bits) - 1
        if self.is_packed:
            raw.prefetch(self.source, self.starts[i])
            raw.prefetch(self.rows, self.bounds[i] if self.is_sliced else i * self.width)
        else:
            raw.prefetch_item(self.keys_in, i)
            raw.prefetch_item(self.values_in, i)
        return 0

    def put_batch(self) -> int:
        """Put the batch; returns how many keys are new."""
        before = self.count
        self.sort()
        if self.height or not self.build():
            self.put_in_order(False)
        return self.count - before

    def put_in_order(self, only_large: bool) -> int:
        """Put records one by one, in the order of the hash."""
        one = 1
        mask = (one << self.index_bits) - 1
        for k in range(self.n_in):
            self.look_ahead(k)
            i = self.order[k] & mask
            header = self.sizes[i]
            n_key = header & 0xFFFF
            if header >= LARGE_HEADER:
                key = raw.take(self.key(i), 0, n_key)
                if self.is_sliced:
                    self.put(key, self.rows_view[self.bounds[i] : self.bounds[i + 1]])
                elif self.is_packed:
                    self.put(key, self.rows_view[i * self.width : (i + 1) * self.width])
                else:
                    self.put(key, self.values_in[i])
            elif not only_large:
                self.bring(k)
                if self.space.dirty >= self.space.full:
                    self.spill()
                m = header >> 16
                self.enter(self.key(i), n_key, self.hashes[i], self.value(i), m, header, m)
        return 0

    # --- an empty index -----------------------------------------------------------------------------

    def build(self) -> bool:
        """Build the empty index of the sorted records; False if there are too few, or hashes are too much alike."""
        one = 1
        n_all = self.n_in
        if not self.settle():
            return False
        total = 0
        n = 0
        size = 0
        for i in range(n_all):
            header = self.sizes[i]
            if header < LARGE_HEADER:
                total += 4 + 8 * bucket.units(header)
                size += (header >> 16) + (header & 0xFFFF)
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
        if n < self.n_in:
            self.put_in_order(True)
        return True

    def settle(self) -> bool:
        """Sort fully what agrees in the bits sorted by, and take out all but the last of equal keys.

        What is taken out counts as large from then on.
        """
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
                while other < k and not self.alike(self.order[other] & mask, self.order[j] & mask):
                    other += 1
                if other == k:
                    self.order[left] = self.order[j]
                    left += 1
                else:
                    self.sizes[self.order[j] & mask] |= LARGE_HEADER
            start = k
        self.n_in = left
        return True

    def alike(self, i: int, j: int) -> bool:
        """Whether two records have the same key."""
        n = self.sizes[i] & 0xFFFF
        return n == self.sizes[j] & 0xFFFF and raw.equal(self.key(i), 0, self.key(j), 0, n)

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
        slot_next = self.slot_at(k, depth) if k < stop else 0
        while k < stop:
            # One slot's records: [k, after)
            after = k
            more = 0
            slot_here = slot_next
            while after < stop and slot_next == slot_here:
                self.look_ahead(after)
                header = self.sizes[self.order[after] & mask]
                if header < LARGE_HEADER:
                    more += 4 + 8 * bucket.units(header)
                after += 1
                if after < stop:
                    slot_next = self.slot_at(after, depth)
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

    def slot_at(self, k: int, depth: int) -> int:
        """The slot, in a node of this depth, of the record at place ``k`` in order."""
        one = 1
        return slot_of(self.hashes[self.order[k] & (one << self.index_bits) - 1], depth, self.slots)

    def pack(self, start: int, stop: int) -> int:
        """Write the records [start, stop) in order into a new bucket, or a chain; returns its reference."""
        space = self.space
        one = 1
        mask = (one << self.index_bits) - 1
        n = 0
        if stop - start > self.records_size:
            self._grow(2 * (stop - start))
        for k in range(start, stop):
            self.bring(k)
            i = self.order[k] & mask
            if self.sizes[i] < LARGE_HEADER:
                self.records[n] = (self.hashes[i] & 0xFFFF) << 48 | i
                n += 1
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
            raw.store64(page, at + 8 * need - 12, 0)
            raw.store32(page, at - 4, header)
            raw.move(page, at, self.value(i), 0, header >> 16)
            raw.move(page, at + (header >> 16), self.key(i), 0, header & 0xFFFF)
            self.other[entries] = record >> 48 << 16 | top
            entries += 1
        self.finish(page, entries, top, following)
        return ref
