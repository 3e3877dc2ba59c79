"""Putting and deleting records: the write path of an index inside a transaction, one compiled call each.

A put into a private bucket with room changes nothing else.  Otherwise bucket, node and directory page are
copied first, or ``Shape`` makes room.  What is not a kernel's business is left to the subclass
keyspace/index.py: ``put_large`` and ``drop_large`` (runs), ``spill`` (the pool is full).
"""

from __future__ import annotations

from typing import Any

from mmstore import format as fmt
from mmstore.kernels import bucket, hashing, raw
from mmstore.kernels.shape import Shape
from mmstore.kernels.space import Space
from mmstore.kernels.tree import plain

__all__ = ["Writer"]

MASK32 = 0xFFFF_FFFF
NEXT = fmt.BUCKET.offset["next"]
BUCKET_KIND = fmt.KIND_BUCKET
LARGE = fmt.LARGE.size
LARGE_HEADER = fmt.LARGE_MARK << 16
LARGE_VALUE_SIZE = fmt.LARGE.offset["value_size"]
MAX_KEY = 0xFFFF


class Writer(Shape):
    """An index that can be changed."""

    def __init__(self, space: Space) -> None:
        Shape.__init__(self, space)
        self.inline = fmt.inline_limit(space.page_size)
        self.found = 0
        self.scratch_view: bytearray | None = None

    def put(self, key: Any, value: Any) -> bool:
        """Set the value of ``key``; whether the key is new.

        Raises TypeError unless both are bytes-like, ValueError if the key is longer than 65535 bytes.
        """
        data = key if type(key) is bytes else plain(key)
        n = len(data)
        if n > MAX_KEY:
            raise ValueError(f"expected a key of at most {MAX_KEY} bytes, got {n}; hash it, or split it")
        m = len(value) if type(value) is bytes else memoryview(value).nbytes
        if self.space.dirty >= self.space.full:
            self.spill()
        if 4 + n + m > self.inline:
            return self.put_large(data, value)
        body = value if type(value) is bytes else plain(value)
        where = raw.content(data)
        h = hashing.hash64(where, 0, n, self.space.seed) & self.space.mask
        return self.enter(where, n, h, raw.content(body), m, m << 16 | n, m)

    def put_record(self, key: bytes, record: bytes) -> bool:
        """Enter the large record ``record`` of ``key``; whether the key is new."""
        where = raw.content(key)
        body = raw.content(record)
        n = len(key)
        h = hashing.hash64(where, 0, n, self.space.seed) & self.space.mask
        return self.enter(where, n, h, body, LARGE, LARGE_HEADER, raw.peek64(body, LARGE_VALUE_SIZE))

    def delete(self, key: Any) -> bool:
        """Remove the record of ``key``; whether there was one."""
        data = key if type(key) is bytes else plain(key)
        n = len(data)
        where = raw.content(data)
        return self.remove(where, n, hashing.hash64(where, 0, n, self.space.seed) & self.space.mask)

    def remove(self, key: Any, n: int, h: int) -> bool:
        """Remove the record of ``key``, whose hash is ``h``; whether there was one."""
        if self.height == 0:
            return False
        if self.space.dirty >= self.space.full:
            self.spill()
        self.aim(h)
        ref = self.search(key, n, h)
        if ref == 0:
            return False
        ref = self.own_chained(ref)
        large = self.take_out(ref)
        self.size -= n
        self.count -= 1
        if self.count == 0:
            self.drop_all()
        else:
            if raw.load32(self.space.own(self.head), NEXT):
                self.unlink(ref)
            self.shrink()
        if large is not None:
            self.drop_large(large)
        return True

    def enter(self, key: Any, n: int, h: int, body: Any, m: int, header: int, value_size: int) -> bool:
        """Enter a record: ``m`` bytes of ``body`` (the value, or a large record's struct), then the key if inline."""
        space = self.space
        size = self.page_size
        need = bucket.units(header)
        if self.height == 0:
            self.root = space.new(BUCKET_KIND)
            self.height = 1
            self.pages = 1
        self.alone = False
        self.aim(h)
        large = None
        at = 0
        old = self.search(key, n, h)
        if old:
            old = self.own_chained(old)
            page = space.own(old)
            at = 8 * (self.found >> 48)
            before = self.found & MASK32
            if bucket.units(before) == need:
                if before >> 16 == 0xFFFF:
                    large = raw.take(page, at, LARGE)
                    self.size -= raw.load64(page, at + LARGE_VALUE_SIZE)
                else:
                    self.size -= before >> 16
            else:
                large = self.take_out(old)
                at = 0
                if bucket.fits(page, size, need):
                    at = self.reserve(page, h, need)
        while at == 0:
            if bucket.fits(space.page(self.head, BUCKET_KIND), size, need):
                self.own_head()
                page = space.own(self.head)
                at = self.reserve(page, h, need)
            else:
                self.make_room(h, 4 + 8 * need)
                self.aim(h)
        raw.store64(page, at + 8 * need - 12, 0)  # the padding, if any
        raw.store32(page, at - 4, header)
        raw.move(page, at, body, 0, m)
        if header >> 16 != 0xFFFF:
            raw.move(page, at + m, key, 0, n)
        self.size += value_size
        if large is not None:
            self.drop_large(large)
        if old:
            return False
        self.size += n
        self.count += 1
        return True

    def reserve(self, page: Any, h: int, need: int) -> int:
        """Enter a record into a bucket that has room for it."""
        at = bucket.reserve(page, self.page_size, h & 0xFFFF, need)
        if at == 0:
            if self.scratch_view is None:
                self.scratch_view = bytearray(self.page_size)
                self.scratch = raw.writable(self.scratch_view)
            bucket.compact(page, self.page_size, self.scratch)
            at = bucket.reserve(page, self.page_size, h & 0xFFFF, need)
        return at

    def search(self, key: Any, n: int, h: int) -> int:
        """The bucket of the located chain that has ``key``, 0 if none; ``found`` says where."""
        size = self.page_size
        ref = self.head
        steps = 0
        mark = 0
        while ref:
            page = self.space.page(ref, BUCKET_KIND)
            self.found = bucket.find(page, size, h, key, n, -1)
            while self.found > 1:
                if self.found & MASK32 < LARGE_HEADER or self.same_key(
                    raw.take(page, 8 * (self.found >> 48), LARGE), key, n
                ):
                    return ref
                self.found = bucket.find(page, size, h, key, n, (self.found >> 32 & 0xFFFF) + 1)
            if self.found:
                raise self.space.corrupt(ref, BUCKET_KIND)
            ref = raw.load32(page, NEXT)
            steps += 1
            if ref and ref == mark:
                raise self.space.corrupt(ref, BUCKET_KIND)
            if steps & steps - 1 == 0:
                mark = ref
        return 0

    def take_out(self, ref: int) -> Any:
        """Remove the found record from its bucket, which is writable; returns a large record's struct, or None."""
        page = self.space.own(ref)
        at = 8 * (self.found >> 48)
        header = self.found & MASK32
        large = None
        if header >> 16 == 0xFFFF:
            large = raw.take(page, at, LARGE)
            self.size -= raw.load64(page, at + LARGE_VALUE_SIZE)
        else:
            self.size -= header >> 16
        bucket.remove(page, self.page_size, self.found >> 32 & 0xFFFF)
        return large

    def unlink(self, ref: int) -> int:
        """Drop a bucket of the located chain if it is empty; all before it are writable."""
        page = self.space.own(ref)
        if bucket.used(page, self.page_size):
            return 0
        following = raw.load32(page, NEXT)
        if ref == self.head:
            self.run()
            self.assign_slots(self.left, self.right, following)
            self.head = following
        else:
            at = self.head
            while raw.load32(self.space.own(at), NEXT) != ref:
                at = raw.load32(self.space.own(at), NEXT)
            raw.store32(self.space.own(at), NEXT, following)
        self.space.drop(ref)
        self.pages -= 1
        return 0

    def clear(self) -> None:
        """Remove all records."""
        if self.height:
            self.drop_all()

    def put_large(self, key: bytes, value: Any) -> bool:
        """Put a record that is too large for a bucket."""
        raise NotImplementedError

    def spill(self) -> None:
        """The pool has grown to its limit: place its pages."""
        raise NotImplementedError
