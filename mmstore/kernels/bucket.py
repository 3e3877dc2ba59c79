"""A bucket page: records found by 16 bits of their hash.

::

    0        32                                                    top * 8 - 4          page size - 4
    | header | tag,unit | tag,unit | ... |          free           | record | record | ... |   |
              entries, ascending                                     newest      oldest
    record:  | key size, value size | value | key | padding |
                                    ^ anchor: unit * 8

An entry's tag is the lowest 16 bits of the key's hash, its unit says where the record's anchor is.  Tags
are spread evenly, so a search looks around the place where the tag should be.  Values are aligned to 8 bytes.

``find`` takes any bytes for a page and stays inside it (I6).  The changing functions take pages that
``check`` has passed, or that they built themselves.
"""

from __future__ import annotations

from typing import Any

from mmstore import format as fmt
from mmstore.kernels import hashing, raw

__all__: list[str] = []  # compiled, these are C functions: other kernels see them, Python does not

HEAD = fmt.BUCKET.size
COUNT = fmt.BUCKET.offset["count"]
TOP = fmt.BUCKET.offset["top"]
GARBAGE = fmt.BUCKET.offset["garbage"]
NEXT = fmt.BUCKET.offset["next"]
LARGE = fmt.LARGE.size
LARGE_HASH = fmt.LARGE.offset["hash"]
LARGE_KEY_SIZE = fmt.LARGE.offset["key_size"]
BAD = 1
ABSENT, FETCHED, UNCLEAR = 0, 1, 2


def find(page: Any, size: int, h: int, key: Any, n: int, start: int) -> int:
    """Where the record of ``key`` is: unit << 48 | entry number << 32 | record header; 0: not here; 1: corrupt.

    ``start`` is -1, what ``expect`` said, or the entry number behind a large record that was found to have
    another key: of those only the hash and the key's length are compared here.
    """
    count = raw.load16(page, COUNT)
    if HEAD + 4 * count > size:
        return BAD
    tag = h & 0xFFFF
    i = lower_bound(page, count, tag) if start < 0 else start
    while i < count:
        entry = raw.load32(page, HEAD + 4 * i)
        if entry >> 16 != tag:
            return 0
        at = (entry & 0xFFFF) * 8
        if at < HEAD + 4 or at > size:
            return BAD
        header = raw.load32(page, at - 4)
        n_value = header >> 16
        n_key = header & 0xFFFF
        if n_value == 0xFFFF:
            if at + LARGE > size:
                return BAD
            if raw.load64(page, at + LARGE_HASH) == h and raw.load32(page, at + LARGE_KEY_SIZE) == n:
                return (entry & 0xFFFF) << 48 | i << 32 | header
        elif n_key == n:
            if at + n_value + n > size:
                return BAD
            if raw.equal(page, at + n_value, key, 0, n):
                return (entry & 0xFFFF) << 48 | i << 32 | header
        i += 1
    return 0


def expect_entries(page: Any, size: int, h: int) -> None:
    """Have the entries that ``lower_bound`` will look at on their way."""
    count = raw.load16(page, COUNT)
    if HEAD + 4 * count <= size:
        at = HEAD + 4 * window(count, h & 0xFFFF)
        raw.prefetch(page, at)
        raw.prefetch(page, at + 64)
        raw.prefetch(page, at + 4 * raw.WINDOW - 4)


def expect(page: Any, size: int, h: int, need: int) -> int:
    """Have the first ``need`` bytes of the record that ``find`` will probably look at on their way.

    Returns the entry to begin with.
    """
    count = raw.load16(page, COUNT)
    if HEAD + 4 * count > size:
        return 0
    i = lower_bound(page, count, h & 0xFFFF)
    if i < count and raw.COMPILED:
        at = (raw.load32(page, HEAD + 4 * i) & 0xFFFF) * 8 - 4
        stop = at + need
        while at < stop:
            raw.prefetch(page, at)
            at += 64
        raw.prefetch(page, stop - 1)
    return i


def fetch(page: Any, size: int, h: int, key: Any, n: int, i: int, to: Any, to_at: int, width: int) -> int:
    """Copy the value of ``key`` to ``to`` if it is the record of entry ``i`` and has ``width`` bytes: FETCHED.

    ABSENT if there is no such record, i being what ``expect`` said; UNCLEAR where that takes a closer look.
    """
    count = raw.load16(page, COUNT)
    if HEAD + 4 * count > size:
        return UNCLEAR
    entry = raw.load32(page, HEAD + 4 * i) if i < count else 0
    if i >= count or entry >> 16 != h & 0xFFFF:
        return ABSENT if raw.load32(page, NEXT) == 0 else UNCLEAR
    at = (entry & 0xFFFF) * 8
    if at < HEAD + 4 or at + width + n > size or raw.load32(page, at - 4) != width << 16 | n:
        return UNCLEAR
    if not raw.equal(page, at + width, key, 0, n):
        return UNCLEAR
    raw.move(to, to_at, page, at, width)
    return FETCHED


def window(count: int, tag: int) -> int:
    """The first of the ``WINDOW`` entries among which ``tag`` should be, of ``count`` in all; 0 if they are fewer.

    Where they can, they begin with a line of the cache.
    """
    i = tag * count >> 20 << 4
    i = i - 8 if i > 8 else 0
    if i + raw.WINDOW > count:
        i = count - raw.WINDOW if count > raw.WINDOW else 0
    return i


def lower_bound(page: Any, count: int, tag: int) -> int:
    """Number of the first entry whose tag is not below ``tag``.

    It is counted how many are, in a window around the place where it should be: walking there takes longer, since
    no processor guesses where the walk will end.
    """
    if count < raw.WINDOW:
        return raw.below(page, HEAD, count, tag << 16)
    start = window(count, tag)
    i = start + raw.below_window(page, HEAD + 4 * start, tag << 16)
    if i == start:
        while i > 0 and raw.load32(page, HEAD + 4 * (i - 1)) >> 16 >= tag:
            i -= 1
    elif i == start + raw.WINDOW:
        while i < count and raw.load32(page, HEAD + 4 * i) >> 16 < tag:
            i += 1
    return i


def units(header: int) -> int:
    """Units that a record with this header covers."""
    if header >> 16 == 0xFFFF:
        return 4 + LARGE + 7 >> 3
    return 4 + (header & 0xFFFF) + (header >> 16) + 7 >> 3


def check(page: Any, size: int) -> bool:
    """Whether every entry and record lies in its place and the sums are right."""
    count = raw.load16(page, COUNT)
    top = raw.load16(page, TOP)
    if top > size >> 3 or HEAD + 4 + 4 * count > 8 * top:
        return False
    covered = raw.load16(page, GARBAGE)
    before = 0
    for i in range(count):
        entry = raw.load32(page, HEAD + 4 * i)
        unit = entry & 0xFFFF
        if entry <= before and i > 0 or unit < top or unit >= size >> 3:
            return False
        need = units(raw.load32(page, 8 * unit - 4))
        if unit + need > size >> 3:
            return False
        covered += need
        before = entry
    return top + covered == size >> 3


def used(page: Any, size: int) -> int:
    """Bytes that entries and records take, of size - 36 that there are."""
    return (
        4 * raw.load16(page, COUNT) + 8 * ((size >> 3) - raw.load16(page, TOP) - raw.load16(page, GARBAGE))
    )  # fmt: skip


def fits(page: Any, size: int, need: int) -> bool:
    """Whether a record of ``need`` units has room, after ``compact`` at the latest."""
    return used(page, size) + 4 + 8 * need <= size - HEAD - 4


def clear(page: Any, size: int) -> None:
    """Make an empty bucket of a page whose first fields are set."""
    raw.store16(page, COUNT, 0)
    raw.store16(page, TOP, size >> 3)
    raw.store16(page, GARBAGE, 0)
    raw.store32(page, NEXT, 0)


def reserve(page: Any, size: int, tag: int, need: int) -> int:
    """Enter a record of ``need`` units and return where its anchor is; 0 if there is no room without ``compact``."""
    count = raw.load16(page, COUNT)
    top = raw.load16(page, TOP)
    if HEAD + 4 * (count + 1) + 4 + 8 * need > 8 * top:
        return 0
    unit = top - need
    i = lower_bound(page, count, tag)
    raw.move(page, HEAD + 4 * (i + 1), page, HEAD + 4 * i, 4 * (count - i))
    raw.store32(page, HEAD + 4 * i, tag << 16 | unit)
    raw.store16(page, COUNT, count + 1)
    raw.store16(page, TOP, unit)
    return 8 * unit


def remove(page: Any, size: int, i: int) -> None:
    """Take entry ``i`` out."""
    count = raw.load16(page, COUNT) - 1
    top = raw.load16(page, TOP)
    garbage = raw.load16(page, GARBAGE)
    unit = raw.load32(page, HEAD + 4 * i) & 0xFFFF
    need = units(raw.load32(page, 8 * unit - 4))
    raw.move(page, HEAD + 4 * i, page, HEAD + 4 * (i + 1), 4 * (count - i))
    if count == 0:
        top = size >> 3
        garbage = 0
    elif unit == top:
        top += need
    else:
        garbage += need
    raw.store16(page, COUNT, count)
    raw.store16(page, TOP, top)
    raw.store16(page, GARBAGE, garbage)


def compact(page: Any, size: int, scratch: Any) -> None:
    """Close the gaps between records; ``scratch`` is another page."""
    count = raw.load16(page, COUNT)
    to = size >> 3
    for k in range(count):
        i = count - 1 - k
        entry = raw.load32(page, HEAD + 4 * i)
        at = 8 * (entry & 0xFFFF)
        header = raw.load32(page, at - 4)
        need = units(header)
        to -= need
        raw.move(scratch, 8 * to - 4, page, at - 4, 8 * need)
        raw.store32(page, HEAD + 4 * i, entry >> 16 << 16 | to)
    raw.move(page, 8 * to - 4, scratch, 8 * to - 4, size - 8 * to)
    raw.store16(page, TOP, to)
    raw.store16(page, GARBAGE, 0)


def record_hash(page: Any, unit: int, seed: int, mask: int) -> int:
    """The hash of the key of the record at ``unit``, which lies in the page."""
    at = 8 * unit
    header = raw.load32(page, at - 4)
    if header >> 16 == 0xFFFF:
        return raw.load64(page, at + LARGE_HASH)
    return hashing.hash64(page, at + (header >> 16), header & 0xFFFF, seed) & mask
