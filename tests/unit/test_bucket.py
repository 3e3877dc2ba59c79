"""A bucket page against a dict; find on any bytes.  The functions are seen by Python in the uncompiled run."""

from __future__ import annotations

import random
import struct
from bisect import bisect_left
from typing import Any

import pytest
import xxhash

from bothkernels import SOURCE
from mmstore import format as fmt

bucket = SOURCE.bucket
SIZES = (4096, 16384, 65536)


def fresh(size: int) -> memoryview:
    page = memoryview(bytearray(size))
    bucket.clear(page, size)
    return page


def insert(page: memoryview, size: int, h: int, key: bytes, value: bytes) -> bool:
    header = len(value) << 16 | len(key)
    need = bucket.units(header)
    at = bucket.reserve(page, size, h & 0xFFFF, need)
    if not at:
        if not bucket.fits(page, size, need):
            return False
        bucket.compact(page, size, memoryview(bytearray(size)))
        at = bucket.reserve(page, size, h & 0xFFFF, need)
        assert at
    fmt.RECORD.struct.pack_into(page, at - fmt.RECORD.size, len(key), len(value))
    page[at : at + len(value)] = value
    page[at + len(value) : at + len(value) + len(key)] = key
    return True


def look(page: memoryview, size: int, h: int, key: bytes) -> bytes | None:
    found = bucket.find(page, size, h, key, len(key), -1)
    assert found != bucket.BAD
    if not found:
        return None
    at = 8 * (found >> 48)
    return bytes(page[at : at + (found >> 16 & 0xFFFF)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tags", [0xFFFF, 7, 0])
def test_like_a_dict(size: int, tags: int) -> None:
    rng = random.Random(size + tags)
    page = fresh(size)
    model: dict[bytes, bytes] = {}
    full = 0
    for _ in range(3000 if size < 65536 else 1000):
        key = rng.randbytes(rng.choice([0, 1, 2, 16]))
        h = xxhash.xxh3_64_intdigest(key) & ~0xFFFF | xxhash.xxh3_64_intdigest(key) & tags
        if key in model:
            assert look(page, size, h, key) == model.pop(key)
            bucket.remove(page, size, bucket.find(page, size, h, key, len(key), -1) >> 32 & 0xFFFF)
        else:
            assert look(page, size, h, key) is None
            value = rng.randbytes(rng.choice([0, 8, 100, size // 5]))
            if insert(page, size, h, key, value):
                model[key] = value
            else:
                full += 1
        assert bucket.check(page, size)
    assert full
    for key, value in model.items():
        h = xxhash.xxh3_64_intdigest(key) & ~0xFFFF | xxhash.xxh3_64_intdigest(key) & tags
        assert look(page, size, h, key) == value
    assert bucket.used(page, size) == sum(4 + 8 * bucket.units(len(v) << 16 | len(k)) for k, v in model.items())


@pytest.mark.parametrize("size", SIZES)
def test_a_full_bucket_has_no_hidden_room(size: int) -> None:
    page = fresh(size)
    n = 0
    while insert(page, size, n * 40503, n.to_bytes(8, "little"), b""):
        n += 1
    assert n == (size - fmt.BUCKET.size - 4) // (4 + 16)


@pytest.mark.parametrize("spread", [0xFFFF, 0xFF, 0, None])
def test_lower_bound_is_bisect(spread: int | None) -> None:
    """However many tags there are, and however unevenly they are spread."""
    rng = random.Random(spread)
    for count in [*range(70), 127, 128, 500, 1016]:
        page = memoryview(bytearray(4096))
        tags = sorted(rng.choice([3, 0xFFFE]) if spread is None else rng.getrandbits(16) & spread for _ in range(count))
        struct.pack_into(f"<{count}I", page, fmt.BUCKET.size, *(tag << 16 | rng.getrandbits(16) for tag in tags))
        for tag in {0, 1, 0xFFFF, *tags[:5], *tags[-5:], *rng.choices([*tags, *range(65536)], k=30)}:
            assert bucket.lower_bound(page, count, tag) == bisect_left(tags, tag)


@pytest.mark.parametrize("kind", ["right", "random", "count", "entries", "records"])
def test_fetch_is_find(kind: str) -> None:
    """What it finds, find finds; what it says is absent is not there; and no offset is outside (an exception here)."""
    rng = random.Random(kind)
    said = set()
    for _ in range(100):
        page = fresh(4096)
        keys = [b"key%05d" % n for n in range(rng.choice([3, 60]))]
        for n, key in enumerate(keys):
            insert(page, 4096, n << 11 & 0xFFFF, key, b"value %02d" % n)
        if kind == "random":
            page[32:] = rng.randbytes(4064)
        elif kind == "count":
            struct.pack_into("<H", page, fmt.BUCKET.offset["count"], rng.randrange(65536))
        elif kind == "entries":
            page[32:152] = rng.randbytes(120)
        elif kind == "records":
            page[2000:] = rng.randbytes(2096)
        for n, key in enumerate([*keys, b"none of them"]):
            h = n << 11 & 0xFFFF
            out = memoryview(bytearray(8))
            i = bucket.expect(page, 4096, h, 20)
            found = bucket.fetch(page, 4096, h, key, len(key), i, out, 0, 8)
            there = bucket.find(page, 4096, h, key, len(key), i)
            said.add(found)
            if found == bucket.FETCHED:
                at = 8 * (there >> 48)
                assert there > bucket.BAD and there >> 16 & 0xFFFF == 8 and out == page[at : at + 8]
            elif found == bucket.ABSENT:
                assert there == 0
    if kind == "right":
        assert said >= {bucket.FETCHED, bucket.ABSENT}


def test_values_are_aligned() -> None:
    page = fresh(4096)
    for n in range(20):
        assert insert(page, 4096, n, bytes(n), bytes(n))
        assert (bucket.find(page, 4096, n, bytes(n), n, -1) >> 48) * 8 % 8 == 0


@pytest.mark.parametrize("kind", ["random", "count", "entries", "records"])
def test_any_bytes(kind: str) -> None:
    """Whatever is in the page: an answer or BAD, and no offset outside (an exception here)."""
    rng = random.Random(kind)
    for _ in range(300):
        page: Any = fresh(4096)
        for n in range(30):
            insert(page, 4096, n << 11, b"key%d" % n, bytes(60))
        if kind == "random":
            page[:] = rng.randbytes(4096)
        elif kind == "count":
            fmt.BUCKET.struct.pack_into(page, 0, 0, 0, 3, 0, rng.randrange(65536), rng.randrange(65536), 9, 0, 0)
        elif kind == "entries":
            page[32:152] = rng.randbytes(120)
        else:
            page[2000:] = rng.randbytes(2096)
        sound = bucket.check(page, 4096)
        for n in range(30):
            found = bucket.find(page, 4096, n << 11, b"key%d" % n, len(b"key%d" % n), -1)
            if found > bucket.BAD:
                assert 8 * (found >> 48) + (found >> 16 & 0xFFFF) <= 4096 or found >> 16 & 0xFFFF == 0xFFFF
        if sound:
            bucket.compact(page, 4096, memoryview(bytearray(4096)))
            assert bucket.check(page, 4096)
