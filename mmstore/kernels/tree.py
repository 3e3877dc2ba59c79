"""The hash index: from a key's hash through directory and node to its bucket, and along all buckets.

::

    h:  | depth bits: directory entry | ...        directory -> node, by the top bits of h
    node of depth d: slot = floor((h << d mod 2^64) * n / 2^64)      -> bucket, for a run of slots
    bucket: by the lowest 16 bits of h                               -> record

Height 1: the root is a bucket; 2: a node; from 3 on a directory of height - 2 levels.

A ``Tree`` reads one root: it takes any bytes for pages, and answers with a value, CorruptError or, when the
root is being recycled under it, with a wrong value; never out of bounds and never without end (I6).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any

from mmstore import format as fmt
from mmstore.errors import CorruptError
from mmstore.kernels import bucket, hashing, packed, raw
from mmstore.kernels.space import Space

__all__ = ["Tree", "bound_of", "plain", "slot_of"]

PRIVATE = fmt.PRIVATE
KIND = fmt.NODE.offset["kind"]
HEAD = fmt.PAGE_HEADER
DEPTH = fmt.NODE.offset["depth"]
PREFIX = fmt.NODE.offset["prefix"]
LEVEL = fmt.DIRECTORY.offset["level"]
COUNT = fmt.BUCKET.offset["count"]
NEXT = fmt.BUCKET.offset["next"]
RUN = fmt.RUN.size
RUN_ALIGN = fmt.RUN_ALIGN
LARGE = fmt.LARGE.size
LARGE_VALUE_SIZE = fmt.LARGE.offset["value_size"]
LARGE_KEY_SIZE = fmt.LARGE.offset["key_size"]
LARGE_PAGE = fmt.LARGE.offset["page"]
LARGE_PAGES = fmt.LARGE.offset["pages"]
DIRECTORY_KIND = fmt.KIND_DIRECTORY
NODE_KIND = fmt.KIND_NODE
BUCKET_KIND = fmt.KIND_BUCKET
MASK32 = 0xFFFF_FFFF
MASK64 = 0xFFFF_FFFF_FFFF_FFFF
MAX_DEPTH = 36  # a directory of 2^36 entries has more pages than a file
GET, HAS, LOCATE = 0, 1, 2
LARGE_HEADER = fmt.LARGE_MARK << 16
ABSENT, UNCLEAR = bucket.ABSENT, bucket.UNCLEAR
GROUP = 32  # keys that are under way at a time
MOST = 192  # bytes of a record of any size that are fetched ahead


def plain(data: Any) -> bytes:
    """A bytes-like object as bytes; TypeError for anything else."""
    if type(data) is bytes:
        return data
    return memoryview(data).tobytes()


def slot_of(h: int, depth: int, slots: int) -> int:
    """The slot of hash ``h`` in a node of this depth."""
    x = h << depth & MASK64
    return (x >> 32) * slots + ((x & MASK32) * slots >> 32) >> 32


def bound_of(prefix: int, depth: int, slot: int, slots: int) -> int:
    """The lowest hash whose slot is ``slot``; behind the last slot: of the next node, 0 at the very end."""
    one = 1
    if slot == slots:
        return prefix + (one << 64 - depth) & MASK64 if depth else 0
    high = (slot << 32) // slots
    low = (((slot << 32) % slots << 32) + slots - 1) // slots
    x = (high << 32) + low
    return prefix + (x >> depth) + (1 if x & (one << depth) - 1 else 0)


class Tree:
    """One root's index, read only.  ``mask`` as in Space."""

    def __init__(self, page_size: int, seed: int, mask: int = 0xFFFF_FFFF_FFFF_FFFF) -> None:
        self.space = Space(page_size, seed, mask)
        self._shape()

    def _shape(self) -> None:
        page_size = self.space.page_size
        self.page_size = page_size
        self.slots = fmt.node_slots(page_size)
        self.fan_bits = fmt.directory_entries(page_size).bit_length() - 1
        self.root = self.height = self.depth = 0
        self.load_large: Any = None

    def attach(self, mem: Any, verified: Any = None, load_large: Callable[[bytes], bytes] | None = None) -> None:
        """Read from ``mem``, the file from its first byte on.

        ``verified`` is a writable bitmap of the pages whose checksum this handle has seen to be right.
        ``load_large(record)`` returns the value of a large record, given its struct.
        """
        self.space.attach(mem, verified)
        self.load_large = load_large

    def set_root(self, root: int, height: int, depth: int, pages: int) -> None:
        """Read this root of a file of ``pages`` pages."""
        self.check_shape(height, depth)
        self.root, self.height, self.depth = root, height, depth
        self.space.limit = min(pages, self.space.mem_pages)

    def check_shape(self, height: int, depth: int) -> None:
        """CorruptError unless a directory of this height can have this depth."""
        levels = height - 2 if height > 2 else 0
        if depth > min(levels * self.fan_bits, MAX_DEPTH) or levels and depth <= (levels - 1) * self.fan_bits:
            raise CorruptError(f"an index of height {height} can't have depth {depth}; run check(), restore a backup")

    # --- one key ------------------------------------------------------------------------------------

    def get(self, key: Any) -> Any:
        """The value of ``key`` as bytes, None if there is none."""
        data = key if type(key) is bytes else plain(key)
        n = len(data)
        where = raw.content(data)
        return self.seek(where, n, hashing.hash64(where, 0, n, self.space.seed) & self.space.mask, GET)

    def contains(self, key: Any) -> bool:
        """Whether there is a record of ``key``."""
        data = key if type(key) is bytes else plain(key)
        n = len(data)
        where = raw.content(data)
        return self.seek(where, n, hashing.hash64(where, 0, n, self.space.seed) & self.space.mask, HAS) is not None

    def locate(self, key: Any) -> Any:
        """(offset in the file, size, whether it is in a run of its own) of the value, None if there is none.

        Of a committed index only: a transaction's inline values are not in the file yet.
        """
        data = key if type(key) is bytes else plain(key)
        n = len(data)
        where = raw.content(data)
        return self.seek(where, n, hashing.hash64(where, 0, n, self.space.seed) & self.space.mask, LOCATE)

    def get_many(self, keys: list[Any]) -> list[Any]:
        """The values of ``keys``, None where there is none.

        The steps of a lookup are taken for some keys at a time, so that their cache misses overlap.
        """
        n = len(keys)
        if self.height < 2 or not raw.COMPILED:
            return [self.get(item) for item in keys]
        found: list[Any] = []
        data: list[bytes] = []
        lists = array("Q", bytes(32 * GROUP))
        ways = raw.words(lists)
        start = 0
        while start < n:
            size = min(GROUP, n - start)
            data.clear()
            for i in range(size):
                one = keys[start + i]
                key = one if type(one) is bytes else plain(one)
                data.append(key)
                ways[i] = hashing.hash64(raw.content(key), 0, len(key), self.space.seed) & self.space.mask
            self.approach(ways, size)
            for i in range(size):
                key = data[i]
                h = ways[i]
                found.append(
                    self.search_chain(raw.content(key), len(key), h, ways[GROUP + i], GET, ways[2 * GROUP + i])
                )
            start += size
        return found

    def gather(self, data: Any, offsets: Any, out: Any, size: int, found: Any, alone: bool = True) -> None:
        """Copy the values of the keys ``data[offsets[i]:offsets[i + 1]]`` to ``out[i * size:(i + 1) * size]``.

        ``found[i]`` becomes 1, or 0 where there is no such key, and then the bytes in ``out`` are zeros.  Both are
        writable buffers of just that length, in bytes; ``offsets`` is one of int64.  Unless ``alone``, other threads
        may run meanwhile: the caller sees to it that the index stays what it is.

        Raises ValueError where a buffer, an offset or a key's length is wrong, or a value has not ``size`` bytes;
        in the last case ``out`` and ``found`` are left half done.
        """
        source, places = packed.keys(data, offsets)
        n = len(places) - 1
        if size < 0:
            raise ValueError(f"expected a size of at least 0 bytes, found {size}")
        room = packed.room(out, n * size, "out")
        marks = packed.room(found, n, "found")
        width = size
        to = raw.writable(room)
        mark = raw.writable(marks)
        keys = raw.address(source)
        place = raw.longs(places)
        lists = array("Q", bytes(32 * GROUP))
        ways = raw.words(lists)
        if self.height == 0:
            raw.clear(to, 0, n * width)
            raw.clear(mark, 0, n)
            return
        self.top()
        if alone:
            left = self.straight(keys, place, n, to, mark, width, ways)
        else:
            held = raw.let_go()
            left = self.straight(keys, place, n, to, mark, width, ways)
            raw.come_back(held)
        start = 0
        while left > 0:
            start = self.closely(keys, place, start, n, to, mark, width, ways)
            left -= GROUP

    def straight(self, keys: Any, place: Any, n: int, to: Any, mark: Any, size: int, ways: Any) -> int:
        """What ``gather`` does for all keys that can be found, or not, without a closer look; returns how many can't.

        ``mark`` says UNCLEAR of those.  ``ways`` is room for 4 * GROUP words.  It looks at no Python object.
        """
        left = 0
        start = 0
        while start < n:
            count = min(GROUP, n - start)
            for i in range(count):
                at = place[start + i]
                ways[i] = hashing.hash64(keys, at, place[start + i + 1] - at, self.space.seed) & self.space.mask
            self.near(ways, count, size + place[start + 1] - place[start] + 4)
            for i in range(count):
                there = UNCLEAR
                if ways[GROUP + i] and size < 0xFFFF:
                    at = place[start + i]
                    n_key = place[start + i + 1] - at
                    there = bucket.fetch(
                        paged(self.space, ways[GROUP + i]), self.page_size, ways[i],
                        raw.part(keys, at, n_key), n_key, ways[2 * GROUP + i], to, (start + i) * size, size,
                    )  # fmt: skip
                if there == ABSENT:
                    raw.clear(to, (start + i) * size, size)
                left += there == UNCLEAR
                raw.store8(mark, start + i, there)
            start += count
        return left

    def closely(self, keys: Any, place: Any, start: int, n: int, to: Any, mark: Any, size: int, ways: Any) -> int:
        """The same for the next up to GROUP keys from ``start`` on that are UNCLEAR; returns where to go on."""
        count = 0
        i = start
        while i < n and count < GROUP:
            if raw.peek8(mark, i) == UNCLEAR:
                at = place[i]
                ways[count] = hashing.hash64(keys, at, place[i + 1] - at, self.space.seed) & self.space.mask
                ways[3 * GROUP + count] = i
                count += 1
            i += 1
        self.approach(ways, count)
        for k in range(count):
            one = ways[3 * GROUP + k]
            at = place[one]
            n_key = place[one + 1] - at
            key = raw.part(keys, at, n_key)
            there = self.fetch(key, n_key, ways[k], ways[GROUP + k], ways[2 * GROUP + k], to, one, size)
            if not there:
                raw.clear(to, one * size, size)
            raw.store8(mark, one, there)
        return i

    def near(self, ways: Any, n: int, need: int) -> None:
        """From hashes in ``ways`` to the reference of each one's first bucket and, behind, to the entry to begin with.

        They are GROUP words each; the reference is 0 where that takes a closer look.  ``need`` bytes of the records
        are wanted.  Each step is taken for all of them at a time, so that their cache misses overlap.
        """
        refs = GROUP
        entries = 2 * GROUP
        for i in range(n):
            ref = self.root
            level = self.height - 2
            while level > 0 and ref:
                level -= 1
                if sound(self.space, ref, DIRECTORY_KIND) and raw.load8(paged(self.space, ref), LEVEL) == level:
                    at = ways[i] >> 64 - self.depth >> self.fan_bits * level & (1 << self.fan_bits) - 1
                    ref = raw.load32(paged(self.space, ref), HEAD + 4 * at)
                    if raw.COMPILED and level == 0:
                        raw.prefetch(paged(self.space, ref), 0)
                else:
                    ref = 0
            ways[refs + i] = ref
        if self.height > 1:
            for i in range(n):
                h = ways[i]
                ref = ways[refs + i]
                slot = self.slots
                if ref and sound(self.space, ref, NODE_KIND):
                    page = paged(self.space, ref)
                    depth = raw.load8(page, DEPTH)
                    if depth == 0 or depth <= self.depth and (h ^ raw.load64(page, PREFIX)) >> 64 - depth == 0:
                        slot = slot_of(h, depth, self.slots)
                        raw.prefetch(page, HEAD + 4 * slot)
                ways[entries + i] = slot
            for i in range(n):
                ref = 0
                if ways[entries + i] < self.slots:
                    ref = raw.load32(paged(self.space, ways[refs + i]), HEAD + 4 * ways[entries + i])
                    if raw.COMPILED:  # else the page need not be there
                        raw.prefetch(paged(self.space, ref), 0)
                ways[refs + i] = ref
        for i in range(n):
            if sound(self.space, ways[refs + i], BUCKET_KIND):
                bucket.expect_entries(paged(self.space, ways[refs + i]), self.page_size, ways[i])
            else:
                ways[refs + i] = 0
        for i in range(n):
            ref = ways[refs + i]
            ways[entries + i] = bucket.expect(paged(self.space, ref), self.page_size, ways[i], need) if ref else 0

    def fetch(self, key: Any, n: int, h: int, ref: int, entry: int, to: Any, position: int, size: int) -> bool:
        """Copy the value of ``key``, as ``search_chain`` finds it, to its position; whether there is one."""
        page = self.space.page(ref, BUCKET_KIND)
        found = bucket.find(page, self.page_size, h, key, n, entry)
        header = found & MASK32
        if found > 1 and header < LARGE_HEADER:
            have = header >> 16
            if have == size:
                raw.move(to, position * size, page, 8 * (found >> 48), size)
                return True
        else:
            if found == 0 and raw.load32(page, NEXT) == 0:
                return False
            value = self.search_chain(key, n, h, ref, GET, entry)
            if value is None:
                return False
            have = len(value)
            if have == size:
                raw.move(to, position * size, raw.content(value), 0, size)
                return True
        raise ValueError(
            f"expected values of {size} bytes, found one of {have} at position {position}; get_many takes any size"
        )

    def approach(self, ways: Any, n: int) -> int:
        """The same as ``near``, looking closely: at pages for the first time, and at what is wrong with them."""
        refs = GROUP
        entries = 2 * GROUP
        if not raw.COMPILED or self.height == 1:
            for i in range(n):
                ways[refs + i] = self.descend(ways[i])
                page = self.space.page(ways[refs + i], BUCKET_KIND)
                ways[entries + i] = bucket.expect(page, self.page_size, ways[i], MOST)
            return 0
        for i in range(n):
            ways[refs + i] = self.node_of(ways[i])
            raw.prefetch(self.space.known(ways[refs + i]), 0)
        for i in range(n):
            h = ways[i]
            page = self.space.page(ways[refs + i], NODE_KIND)
            slot = slot_of(h, self.node_depth(ways[refs + i], page, h), self.slots)
            raw.prefetch(page, HEAD + 4 * slot)
            ways[entries + i] = slot
        for i in range(n):
            ways[refs + i] = raw.load32(self.space.known(ways[refs + i]), HEAD + 4 * ways[entries + i])
            raw.prefetch(self.space.known(ways[refs + i]), 0)
        for i in range(n):
            bucket.expect_entries(self.space.page(ways[refs + i], BUCKET_KIND), self.page_size, ways[i])
        for i in range(n):
            ways[entries + i] = bucket.expect(self.space.known(ways[refs + i]), self.page_size, ways[i], MOST)
        return 0

    def top(self) -> int:
        """The reference to the root, also after the pool that it was in has been spilled to the file."""
        if self.root & PRIVATE and (self.root & 0x7FFF_FFFF) < self.space.base:
            self.root = self.space.numbered(self.root)
        return self.root

    def descend(self, h: int) -> int:
        """The reference to the first bucket for ``h``; the index is not empty."""
        if self.height == 1:
            return self.top()
        ref = self.node_of(h)
        page = self.space.page(ref, NODE_KIND)
        return raw.load32(page, HEAD + 4 * slot_of(h, self.node_depth(ref, page, h), self.slots))

    def node_of(self, h: int) -> int:
        """The reference to the node for ``h``."""
        ref = self.top()
        if self.height == 2:
            return ref
        index = h >> 64 - self.depth
        level = self.height - 3
        while True:
            page = self.space.page(ref, DIRECTORY_KIND)
            if raw.load8(page, LEVEL) != level:
                raise self.space.corrupt(ref, DIRECTORY_KIND)
            ref = raw.load32(page, HEAD + 4 * (index >> self.fan_bits * level & (1 << self.fan_bits) - 1))
            if level == 0:
                return ref
            level -= 1

    def node_depth(self, ref: int, page: Any, h: int) -> int:
        """The depth of a node, which must be one for ``h``."""
        depth = raw.load8(page, DEPTH)
        if depth > self.depth or depth and (h ^ raw.load64(page, PREFIX)) >> 64 - depth:
            raise self.space.corrupt(ref, NODE_KIND)
        return depth

    def seek(self, key: Any, n: int, h: int, what: int) -> Any:
        """The record of ``key``, whose hash is ``h``: as value, True or place."""
        if self.height == 0:
            return None
        ref = self.descend(h)
        self.space.expect(ref)
        return self.search_chain(key, n, h, ref, what, -1)

    def search_chain(self, key: Any, n: int, h: int, ref: int, what: int, entry: int) -> Any:
        """The same, from its first bucket on, and there from ``entry`` on, as ``bucket.find`` has it."""
        size = self.page_size
        steps = 0
        mark = 0
        while True:
            page = self.space.page(ref, BUCKET_KIND)
            found = bucket.find(page, size, h, key, n, entry)
            while found > 1:
                header = found & MASK32
                at = 8 * (found >> 48)
                if header >> 16 != 0xFFFF:
                    if what == GET:
                        return raw.take(page, at, header >> 16)
                    if what == HAS:
                        return True
                    return ref * size + at, header >> 16, False
                record = raw.take(page, at, LARGE)
                if self.same_key(record, key, n):
                    if what == HAS:
                        return True
                    where = raw.content(record)
                    if what == LOCATE:
                        at = raw.peek32(where, LARGE_PAGE) * size + value_at(n)
                        return at, raw.peek64(where, LARGE_VALUE_SIZE), True
                    return self.load_large(record)
                found = bucket.find(page, size, h, key, n, (found >> 32 & 0xFFFF) + 1)
            if found:
                raise self.space.corrupt(ref, BUCKET_KIND)
            ref = raw.load32(page, NEXT)
            entry = -1
            if ref == 0:
                return None
            # A chain must not come back to where it was: remembered at every power of two of steps.
            steps += 1
            if ref == mark:
                raise self.space.corrupt(ref, BUCKET_KIND)
            if steps & steps - 1 == 0:
                mark = ref

    def same_key(self, record: bytes, key: Any, n: int) -> bool:
        """Whether the run of a large record begins with ``key``, whose length agrees; checks the run's bounds."""
        where = raw.content(record)
        page = raw.peek32(where, LARGE_PAGE)
        pages = raw.peek32(where, LARGE_PAGES)
        value_size = raw.peek64(where, LARGE_VALUE_SIZE)
        room = pages * self.page_size
        if (
            page < self.space.first
            or page + pages > self.space.limit
            or value_at(n) > room
            or value_size > room - value_at(n)
        ):
            raise CorruptError(
                f"a record's run of {pages} pages from page {page} on lies outside the file or is too short; "
                "run check(), restore a backup",
                page=page,
            )
        return raw.equal(raw.part(self.space.mem, page * self.page_size + RUN, n), 0, key, 0, n)

    # --- all keys -----------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[bytes, Any]]:
        """(key, value) of all records, in the order of buckets along the hash."""
        position = 0
        for _ in range(self.space.limit + self.space.used + 1):
            position, keys, values = self.read(position)
            yield from zip(keys, values, strict=True)
            if position == 0:
                return
        raise CorruptError("the index has more buckets than the file has pages; run check(), restore a backup")

    def read(self, position: int) -> Any:
        """(next position, keys, values) of the bucket for hash ``position``, from that hash on.

        Start with 0; next position 0 means the end.  Other positions may also be any hash.
        """
        if self.height == 0:
            return 0, [], []
        size = self.page_size
        start = 0
        following = 0
        if self.height == 1:
            ref = self.top()
        else:
            node = self.node_of(position)
            page = self.space.page(node, NODE_KIND)
            depth = self.node_depth(node, page, position)
            prefix = position >> 64 - depth << 64 - depth if depth else 0
            slot = slot_of(position, depth, self.slots)
            ref = raw.load32(page, HEAD + 4 * slot)
            right = slot + 1
            while right < self.slots and raw.load32(page, HEAD + 4 * right) == ref:
                right += 1
            while slot > 0 and raw.load32(page, HEAD + 4 * (slot - 1)) == ref:
                slot -= 1
            start = bound_of(prefix, depth, slot, self.slots)
            following = bound_of(prefix, depth, right, self.slots)
        keys: list[bytes] = []
        values: list[Any] = []
        steps = 0
        mark = 0
        while ref:
            page = self.space.page(ref, BUCKET_KIND)
            count = raw.load16(page, COUNT)
            if HEAD + 4 * count > size:
                raise self.space.corrupt(ref, BUCKET_KIND)
            for i in range(count):
                at = 8 * (raw.load32(page, HEAD + 4 * i) & 0xFFFF)
                if at < HEAD + 4 or at > size:
                    raise self.space.corrupt(ref, BUCKET_KIND)
                header = raw.load32(page, at - 4)
                n_value = header >> 16
                n_key = header & 0xFFFF
                if at + (LARGE if n_value == 0xFFFF else n_value + n_key) > size:
                    raise self.space.corrupt(ref, BUCKET_KIND)
                if position > start and bucket.record_hash(page, at >> 3, self.space.seed, self.space.mask) < position:
                    continue
                if n_value == 0xFFFF:
                    record = raw.take(page, at, LARGE)
                    keys.append(self.large_key(record))
                    values.append(self.load_large(record))
                else:
                    keys.append(raw.take(page, at + n_value, n_key))
                    values.append(raw.take(page, at, n_value))
            ref = raw.load32(page, NEXT)
            steps += 1
            if ref and ref == mark:
                raise self.space.corrupt(ref, BUCKET_KIND)
            if steps & steps - 1 == 0:
                mark = ref
        return following, keys, values

    def large_key(self, record: bytes) -> bytes:
        """The key of a large record, from its run."""
        where = raw.content(record)
        n = raw.peek32(where, LARGE_KEY_SIZE)
        self.same_key(record, where, 0)
        if n > 0xFFFF or value_at(n) > raw.peek32(where, LARGE_PAGES) * self.page_size:
            raise CorruptError("a record's key is longer than its run; run check(), restore a backup")
        return raw.take(self.space.mem, raw.peek32(where, LARGE_PAGE) * self.page_size + RUN, n)


def paged(space: Space, ref: int) -> Any:
    """The placed page ``ref``, wherever that is."""
    return raw.part(space.mem, ref * space.page_size, space.page_size)


def sound(space: Space, ref: int, kind: int) -> bool:
    """Whether ``ref`` is a placed page of this kind whose checksum is known to be right."""
    if ref < space.first or ref >= space.limit or ref >> 3 >= space.bits_size:
        return False
    if not raw.peek8(space.bits, ref >> 3) >> (ref & 7) & 1:
        return False
    return raw.load8(paged(space, ref), KIND) == kind


def value_at(n_key: int) -> int:
    """Where in its run a large value lies."""
    return (RUN + n_key + RUN_ALIGN - 1) // RUN_ALIGN * RUN_ALIGN
