"""Reading a root: the arithmetic of slots, lookups of all kinds, and pages made by an enemy."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from bothkernels import BOTH, IDS
from indexstore import ALL, IndexStore
from mmstore import format as fmt
from mmstore.errors import CorruptError

both = pytest.mark.parametrize("kernels", BOTH, ids=IDS)
hashes = st.integers(0, ALL)
depths = st.integers(0, 36)
slots = st.sampled_from([fmt.node_slots(4096 << i) for i in range(5)])


def build(
    kernels: Any, n: int, page_size: int = 4096, mask: int = ALL, large: bool = True
) -> tuple[Any, dict[bytes, bytes]]:
    rng = random.Random(n)
    store = IndexStore(kernels, page_size, mask)
    index = store.begin()
    model = {}
    for i in range(n):
        key = rng.randbytes(rng.choice([3, 8, 16, 40]))
        value = rng.randbytes(3 * page_size if large and i % 97 == 5 else rng.choice([0, 8, 100]))
        index.put(key, value)
        model[key] = value
    store.commit()
    return store, model


# --- arithmetic --------------------------------------------------------------------------------------


@both
@given(h=hashes, depth=depths, n=slots)
def test_slot_is_exact(kernels: Any, h: int, depth: int, n: int) -> None:
    x = (h << depth) & ALL
    slot = kernels.tree.slot_of(h, depth, n)
    assert slot == x * n >> 64
    # A node of the next depth refines the slots.
    child = kernels.tree.slot_of(h, depth + 1, n)
    assert (child + n * (x >> 63)) >> 1 == slot


@both
@given(h=hashes, depth=depths, n=slots)
def test_bound_is_exact(kernels: Any, h: int, depth: int, n: int) -> None:
    prefix = h >> 64 - depth << 64 - depth if depth else 0
    slot = kernels.tree.slot_of(h, depth, n)
    low = kernels.tree.bound_of(prefix, depth, slot, n)
    high = kernels.tree.bound_of(prefix, depth, slot + 1, n) or 1 << 64
    assert low <= h < high
    assert kernels.tree.slot_of(low, depth, n) == slot
    if low > prefix:
        assert kernels.tree.slot_of(low - 1, depth, n) == slot - 1
    assert kernels.tree.bound_of(prefix, depth, n, n) == (prefix + (1 << 64 - depth)) & ALL


# --- lookups -----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("n", [0, 1, 20, 3000])
def test_lookups(kernels: Any, page_size: int, n: int) -> None:
    store, model = build(kernels, n, page_size)
    tree = store.tree()
    assert dict(tree.items()) == model
    missing = [b"no%d" % i for i in range(200)]
    keys = [*model, *missing]
    random.Random(1).shuffle(keys)
    assert tree.get_many(keys) == [model.get(key) for key in keys]
    for key in keys:
        assert tree.get(key) == model.get(key)
        assert tree.contains(key) == (key in model)
        place = tree.locate(key)
        if key not in model:
            assert place is None
            continue
        offset, size, in_run = place
        assert store.pread(size, offset) == model[key]
        assert in_run == (4 + len(key) + len(model[key]) > fmt.inline_limit(page_size))
        assert offset % (fmt.RUN_ALIGN if in_run else fmt.UNIT) == 0


@both
def test_keys_of_any_kind(kernels: Any) -> None:
    store, model = build(kernels, 50)
    tree = store.tree()
    key, value = next(iter(model.items()))
    for same in (bytearray(key), memoryview(key), memoryview(key * 2)[: len(key)]):
        assert tree.get(same) == value and tree.contains(same) and tree.locate(same)
        assert tree.get_many([same, key]) == [value, value]
    for wrong in ("text", 5, None, [1]):
        for call in (tree.get, tree.contains, tree.locate, lambda key: tree.get_many([key])):
            with pytest.raises(TypeError):
                call(wrong)


@both
@pytest.mark.parametrize("mask", [ALL, 0xFFFF, 0xF << 60 | 0xFF, 0], ids=hex)
def test_read_from_any_hash(kernels: Any, mask: int) -> None:
    """``read`` in steps gives every record once, wherever it starts."""
    store, model = build(kernels, 400 if mask != ALL else 3000, mask=mask, large=False)
    tree = store.tree()
    rng = random.Random(2)
    for start in (0, 1, ALL, *[rng.randrange(ALL) for _ in range(20)]):
        expected = {k: v for k, v in model.items() if xxhash.xxh3_64_intdigest(k, 99) & mask >= start}
        found: dict[bytes, bytes] = {}
        position = start
        while True:
            following, keys, values = tree.read(position)
            assert found.keys().isdisjoint(keys)
            found.update(zip(keys, values, strict=True))
            if not following:
                break
            assert following > position
            position = following
        assert found == expected


@both
def test_root_shapes(kernels: Any) -> None:
    tree = kernels.Tree(4096, 1)
    for height, depth in [(0, 0), (1, 0), (2, 0), (3, 1), (3, 9), (4, 10), (4, 18), (6, 36)]:
        tree.set_root(64, height, depth, 100)
    for height, depth in [(1, 1), (2, 5), (3, 0), (3, 10), (4, 9), (4, 19), (255, 36), (7, 37), (6, 255)]:
        with pytest.raises(CorruptError):
            tree.set_root(64, height, depth, 100)


# --- damage ------------------------------------------------------------------------------------------


@both
def test_each_page_is_verified(kernels: Any) -> None:
    store, model = build(kernels, 500)
    pages = list(store.index_pages())
    for page in pages:
        at = page * 4096 + 1000
        store.store.data[at] ^= 1
        store.store.verified[:] = bytes(len(store.store.verified))
        with pytest.raises(CorruptError) as caught:
            dict(store.tree().items())
        assert caught.value.page == page
        assert caught.value.offset == page * 4096
        store.store.data[at] ^= 1
    assert dict(store.tree().items()) == model


@both
def test_verified_pages_are_noted_once(kernels: Any) -> None:
    store, _ = build(kernels, 500, large=False)
    store.store.verified[:] = bytes(len(store.store.verified))
    dict(store.tree().items())
    noted = {page for page in range(store.pages.next) if store.store.verified[page >> 3] >> (page & 7) & 1}
    assert noted == set(store.index_pages())


@both
def test_a_value_in_a_run_is_verified(kernels: Any) -> None:
    store = IndexStore(kernels)
    store.begin().put(b"key", bytes(10000))
    store.commit()
    offset, _, _ = store.tree().locate(b"key")
    store.store.data[offset + 5000] ^= 1
    with pytest.raises(CorruptError):
        store.tree().get(b"key")


def seal(store: IndexStore, page: int) -> None:
    """Give a page that was tampered with the right checksum."""
    data = store.store.data
    start = page * store.page_size
    checksum = xxhash.xxh3_64_intdigest(data[start + 8 : start + store.page_size], page)
    data[start : start + 8] = checksum.to_bytes(8, "little")
    store.store.verified[page >> 3] &= ~(1 << (page & 7))


def abuse(store: IndexStore, keys: list[bytes]) -> None:
    """Use everything; only CorruptError may come out, and soon."""
    work = store.kernels.Workspace(store.store, Lenient(store), store.page_size, 99, 1 << 20, store.mask)
    work.begin(1000)
    out, found = bytearray(8 * len(keys)), bytearray(len(keys))

    def use(call: Callable[[], Any]) -> None:
        try:
            call()
        except CorruptError:
            return
        except ValueError as error:  # of another size than asked for, as it may well be
            assert "expected values of 8 bytes" in str(error)

    tree = store.tree()
    for key in keys:
        use(lambda key=key: tree.get(key))  # type: ignore[misc]
        use(lambda key=key: tree.locate(key))  # type: ignore[misc]
    use(lambda: tree.get_many(keys))
    data, places = b"".join(keys), array("q", [0, *accumulate(map(len, keys))])
    use(lambda: tree.gather(data, places, out, 8, found))
    use(lambda: sum(1 for _ in tree.items()))
    use(lambda: tree.read(12345))

    def change() -> None:
        index = store.kernels.Index(store.desc, work)
        for i, key in enumerate(keys):
            use(lambda: index.put(key, b"x" * (i % 200)))  # noqa: B023
            use(lambda: index.put(b"new%d" % i, b"x" * 300))  # noqa: B023
            if i % 3 == 0:
                use(lambda: index.delete(key))  # noqa: B023
        use(lambda: sum(1 for _ in index.items()))
        use(lambda: index.gather(data, places, out, 8, found))
        use(lambda: index.put_packed(data, places, out, 8))
        use(lambda: index.delete_packed(data, places))
        use(index.clear)

    use(change)


class Lenient:
    """An allocator that believes everything, as an enemy's pages may be freed twice."""

    def __init__(self, store: IndexStore) -> None:
        self.pages = store.pages

    def alloc(self, n: int, kind: int) -> int:
        return self.pages.alloc(n, kind)

    def alloc_pages(self, n: int, kind: int) -> list[tuple[int, int]]:
        return self.pages.alloc_pages(n, kind)

    def free(self, start: int, n: int, born: int, kind: int) -> None:
        pass

    def mark(self) -> None:
        pass

    def rollback(self, mark: Any) -> None:
        pass

    release = rollback


def hostile(store: IndexStore, rng: random.Random) -> Iterator[str]:
    """Ways to damage one page so that it keeps its checksum."""
    size = store.page_size
    pages = list(store.index_pages())
    data = store.store.data
    for _ in range(60):
        page = rng.choice(pages)
        start = page * size
        saved = bytes(data[start : start + size])
        how = rng.choice(["noise", "header", "refs", "word", "self"])
        if how == "noise":
            data[start + 32 : start + size] = rng.randbytes(size - 32)
        elif how == "header":
            data[start + 16 : start + 32] = bytes([data[start + 16]]) + rng.randbytes(15)
        elif how == "refs":
            odd = [*pages, 0, 1, 1 << 31, (1 << 32) - 1, store.pages.next]
            values = [rng.choice(odd) for _ in range((size - 32) // 4)]
            struct.pack_into(f"<{len(values)}I", data, start + 32, *values)
        elif how == "word":
            at = start + 16 + 4 * rng.randrange((size - 16) // 4)
            struct.pack_into("<I", data, at, rng.choice([0, page, 1 << 31, (1 << 32) - 1, rng.randrange(1 << 32)]))
        else:
            struct.pack_into("<I", data, start + fmt.BUCKET.offset["next"], page)
        seal(store, page)
        yield how
        data = store.store.data
        data[start : start + size] = saved
        store.store.verified[page >> 3] &= ~(1 << (page & 7))


@both
@pytest.mark.parametrize("n", [30, 3000, 20000])
def test_hostile_pages(kernels: Any, n: int) -> None:
    if n > 3000 and not kernels.compiled:
        n = 1000
    rng = random.Random(n)
    store, model = build(kernels, n, large=n < 3000)
    keys = rng.sample(sorted(model), min(len(model), 60))
    for _ in hostile(store, rng):
        abuse(store, keys)
    store.check()


@both
def test_hostile_descriptors(kernels: Any) -> None:
    rng = random.Random(5)
    store, model = build(kernels, 2000, large=False)
    good = store.desc
    keys = sorted(model)[:20]
    for _ in range(100):
        fields = {name: getattr(good, name) for name in fmt.INDEX.names}
        for _ in range(rng.randrange(1, 4)):
            name = rng.choice(["root", "nodes", "pages", "height", "depth", "count"])
            fields[name] = rng.choice([0, 1, 2, 3, 5, 9, 36, 64, 255])
            if name in ("root", "nodes", "pages"):
                fields[name] = rng.choice([*store.index_pages(), 0, 1 << 31, (1 << 32) - 1])
        store.desc = kernels.IndexDescriptor(**fields)
        try:
            store.tree()
        except CorruptError:
            continue
        abuse(store, keys)


@both
def test_a_chain_that_bites_its_tail(kernels: Any) -> None:
    store, model = build(kernels, 60, mask=0, large=False)
    buckets = [page for page in store.index_pages() if store.store.data[page * 4096 + 16] == fmt.KIND_BUCKET]
    assert len(buckets) > 1
    for a in buckets:
        for b in buckets:
            saved = bytes(store.store.data[a * 4096 : a * 4096 + 4096])
            struct.pack_into("<I", store.store.data, a * 4096 + fmt.BUCKET.offset["next"], b)
            seal(store, a)
            abuse(store, [*list(model)[:10], b"missing"])
            store.store.data[a * 4096 : a * 4096 + 4096] = saved
            store.store.verified[a >> 3] &= ~(1 << (a & 7))
