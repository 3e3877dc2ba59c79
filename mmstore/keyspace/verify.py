"""The index as the checker sees it: every page, checksum, slot, tag, order, hash and count.

It reads by ``pread`` and shares no code with the kernels that wrote the pages, only the format, so that a
mistake of theirs is found.  Nothing that it reads is trusted (I6): a page is followed once, offsets are checked
before they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest

from mmstore import format as fmt
from mmstore.keyspace.descriptor import IndexDescriptor
from mmstore.keyspace.values import Large, value_at

__all__ = ["Fault", "Use", "walk"]

_U64 = 1 << 64
_PIECE = 1 << 20
_NAMES = {fmt.KIND_DIRECTORY: "directory", fmt.KIND_NODE: "node", fmt.KIND_BUCKET: "bucket"}


class Use(NamedTuple):
    """Pages that the index has: ``kind`` FREE_INDEX or FREE_BULK."""

    kind: int
    start: int
    pages: int
    born: int


class Fault(NamedTuple):
    """Something that contradicts the format."""

    message: str
    page: int | None


class _Range(NamedTuple):
    """Hashes [low, high) that belong somewhere."""

    low: int
    high: int


class _Walk:
    def __init__(self, pread: Callable[[int, int], bytes], page_size: int, seed: int, pages: int, mask: int) -> None:
        self.pread = pread
        self.size = page_size
        self.seed = seed
        self.pages = pages
        self.mask = mask
        self.seen: set[int] = set()
        self.nodes = self.index_pages = self.count = self.bytes = 0

    # --- pages --------------------------------------------------------------------------------------

    def page(self, ref: int, kind: int) -> Iterator[Use | Fault | bytes]:
        """The page's use, and its content if it is whole; else what is wrong."""
        if not fmt.FIXED_SIZE // self.size <= ref < self.pages:
            yield Fault(f"a {_NAMES[kind]} should be at page {ref} of {self.pages}", ref)
            return
        if ref in self.seen:
            yield Fault(f"page {ref} is referred to twice", ref)
            return
        self.seen.add(ref)
        content = self.pread(self.size, ref * self.size)
        head = fmt.BUCKET.unpack(content)
        yield Use(fmt.FREE_INDEX, ref, 1, head["txn"])
        self.index_pages += 1
        if xxh3_64_intdigest(content[8:], ref) != head["checksum"]:
            yield Fault(f"page {ref} contradicts its checksum", ref)
        elif head["kind"] != kind:
            yield Fault(f"page {ref} should be a {_NAMES[kind]}, is of kind {head['kind']}", ref)
        else:
            yield content

    # --- the tree -----------------------------------------------------------------------------------

    def directory(self, ref: int, level: int, depth: int) -> Iterator[Use | Fault | tuple[int, ...]]:
        """Uses and faults of directory pages, and last all node references, one for each entry."""
        bits = fmt.directory_entries(self.size).bit_length() - 1
        entries: list[int] = []
        above = depth - bits * level
        count = 1 << min(above, bits) if 0 <= above else 0
        if not count:
            yield Fault(f"a directory of depth {depth} can't have {level + 1} levels", ref)
            return
        for found in self.page(ref, fmt.KIND_DIRECTORY):
            if not isinstance(found, bytes):
                yield found
                continue
            if found[fmt.DIRECTORY.offset["level"]] != level:
                yield Fault(f"directory page {ref} should be of level {level}", ref)
                return
            refs = fmt.references(found, count)
            if not level:
                yield refs
                return
            for below in refs:
                for part in self.directory(below, level - 1, bits * level):
                    if isinstance(part, (Use, Fault)):
                        yield part
                    else:
                        entries += part
            yield tuple(entries)

    def all_nodes(self, entries: tuple[int, ...], depth: int) -> Iterator[Use | Fault]:
        """Each node covers an aligned power of two of equal entries."""
        at = 0
        while at < len(entries):
            n = 1
            while at + n < len(entries) and entries[at + n] == entries[at]:
                n += 1
            if n & (n - 1) or at % n:
                yield Fault(
                    f"node {entries[at]} has directory entries {at}+{n}, which are no aligned power of two", None
                )
            else:
                local = depth - n.bit_length() + 1
                yield from self.node(entries[at], local, (at << (64 - depth)) if depth else 0)
            at += n

    def node(self, ref: int, depth: int, prefix: int) -> Iterator[Use | Fault]:
        self.nodes += 1
        for found in self.page(ref, fmt.KIND_NODE):
            if not isinstance(found, bytes):
                yield found
                continue
            head = fmt.NODE.unpack(found)
            if head["depth"] != depth or head["prefix"] != prefix:
                yield Fault(f"node {ref} is of depth {head['depth']}, prefix {head['prefix']:#x}; "
                            f"the directory says {depth}, {prefix:#x}", ref)  # fmt: skip
                continue
            n = fmt.node_slots(self.size)
            slots = fmt.references(found, n)
            start = 0
            while start < n:
                stop = start + 1
                while stop < n and slots[stop] == slots[start]:
                    stop += 1
                hashes = _Range(_bound(prefix, depth, start, n), _bound(prefix, depth, stop, n))
                yield from self.chain(slots[start], hashes)
                start = stop

    # --- buckets ------------------------------------------------------------------------------------

    def chain(self, ref: int, hashes: _Range) -> Iterator[Use | Fault]:
        keys: set[bytes] = set()
        while ref:
            following = 0
            for found in self.page(ref, fmt.KIND_BUCKET):
                if isinstance(found, bytes):
                    following = fmt.BUCKET.unpack(found)["next"]
                    yield from self.bucket(ref, found, hashes, keys)
                else:
                    yield found
            ref = following

    def bucket(self, ref: int, content: bytes, hashes: _Range, keys: set[bytes]) -> Iterator[Use | Fault]:
        head = fmt.BUCKET.unpack(content)
        count, top = head["count"], head["top"]
        floor = fmt.PAGE_HEADER + count * fmt.ENTRY_SIZE
        last = self.size // fmt.UNIT
        if top > last or top * fmt.UNIT - fmt.RECORD.size < floor:
            yield Fault(f"bucket {ref} has {count} records and a record area from unit {top} of {last}", ref)
            return
        taken = bytearray(last + 1)
        before = -1
        for i, entry in enumerate(fmt.references(content, count)):
            tag, unit = divmod(entry, 1 << 16)
            if tag < before:
                yield Fault(f"entry {i} of bucket {ref} is out of order", ref)
            before = tag
            if not top <= unit < last:
                yield Fault(f"entry {i} of bucket {ref} names unit {unit}, outside [{top}, {last})", ref)
                continue
            anchor = unit * fmt.UNIT
            key_size, value_size = fmt.RECORD.struct.unpack_from(content, anchor - fmt.RECORD.size)
            large = value_size == fmt.LARGE_MARK
            body = fmt.LARGE.size if large else key_size + value_size
            units = -(-(fmt.RECORD.size + body) // fmt.UNIT)
            if unit + units > last + 1 or anchor + body > self.size or any(taken[unit : unit + units]):
                yield Fault(f"record {i} of bucket {ref} overlaps another or the page's end", ref)
                continue
            taken[unit : unit + units] = b"\1" * units
            if large:
                found = Large.unpack(content[anchor : anchor + body])
                yield from self.large(ref, found)
                h, key = found.hash, b""
                self.bytes += found.key_size + found.value_size
            else:
                key = content[anchor + value_size : anchor + body]
                h = xxh3_64_intdigest(key, self.seed) & self.mask
                self.bytes += body
                if key in keys:
                    yield Fault(f"key {key[:40]!r} is in bucket {ref} and before", ref)
                keys.add(key)
            self.count += 1
            if h & 0xFFFF != tag:
                yield Fault(f"record {i} of bucket {ref} has tag {tag:#x}, its key's hash ends in {h & 0xFFFF:#x}", ref)
            if not hashes.low <= h < hashes.high:
                yield Fault(f"record {i} of bucket {ref} has hash {h:#x}, outside the bucket's slots", ref)
        if sum(taken[top:]) + head["garbage"] != last - top:
            yield Fault(
                f"bucket {ref} counts {head['garbage']} units of garbage, {last - top - sum(taken[top:])} are", ref
            )

    def large(self, ref: int, large: Large) -> Iterator[Use | Fault]:
        start = value_at(large.key_size)
        size = start + large.value_size
        if not large.page or large.page + large.pages > self.pages or size > large.pages * self.size:
            yield Fault(f"bucket {ref} names a value of {size} bytes in pages {large.page}+{large.pages}", ref)
            return
        yield Use(fmt.FREE_BULK, large.page, large.pages, large.born)
        at = large.page * self.size
        hasher = xxh3_64()
        for offset in range(0, size, _PIECE):
            hasher.update(self.pread(min(_PIECE, size - offset), at + offset))
        if hasher.intdigest() != large.checksum:
            yield Fault(f"the value in pages {large.page}+{large.pages} contradicts its checksum", large.page)
            return
        head = fmt.RUN.unpack(self.pread(fmt.RUN.size, at))
        key = self.pread(large.key_size, at + fmt.RUN.size)
        told = (fmt.RUN_MAGIC, large.hash, large.value_size, large.born, large.key_size, large.pages)
        if tuple(head[name] for name in fmt.RUN.names[: len(told)]) != told:
            yield Fault(f"the value in pages {large.page}+{large.pages} contradicts its record", large.page)
        elif xxh3_64_intdigest(key, self.seed) & self.mask != large.hash:
            yield Fault(f"the value in pages {large.page}+{large.pages} is of another key than its record", large.page)


def _bound(prefix: int, depth: int, slot: int, n: int) -> int:
    """The lowest hash whose slot, in a node of ``n`` slots, is ``slot`` or behind."""
    lowest = -(-(slot << 64) // n)  # of the hash's bits behind the node's depth, shifted up
    return prefix + -(-lowest // (1 << depth))


def walk(
    pread: Callable[[int, int], bytes],
    page_size: int,
    seed: int,
    desc: IndexDescriptor,
    pages: int,
    mask: int = _U64 - 1,
) -> Iterator[Use | Fault]:
    """Every page that the index ``desc`` has, and everything that is wrong with it.

    ``pread(n, offset)`` reads the file, ``pages`` is the root's number of pages.
    """
    it = _Walk(pread, page_size, seed, pages, mask)
    if desc.height == 0:
        if desc.root or desc.count:
            yield Fault(f"an empty index has root {desc.root} and {desc.count} records", None)
    elif desc.height == 1:
        yield from it.chain(desc.root, _Range(0, _U64))
    elif desc.height == 2:
        yield from it.node(desc.root, 0, 0)
    else:
        for found in it.directory(desc.root, desc.height - 3, desc.depth):
            if isinstance(found, (Use, Fault)):
                yield found
            else:
                yield from it.all_nodes(found, desc.depth)
    for what, told, counted in (
        ("records", desc.count, it.count),
        ("bytes", desc.size, it.bytes),
        ("nodes", desc.nodes, it.nodes),
        ("pages", desc.pages, it.index_pages),
    ):
        if told != counted:
            yield Fault(f"its descriptor counts {told} {what}, {counted} were found", None)
