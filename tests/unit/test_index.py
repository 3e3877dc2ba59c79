"""One index in transactions: the mapping, its counts, its pages, and how well they are filled."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from bothkernels import BOTH, IDS, INSTALLED
from indexstore import ALL, IndexStore
from mmstore import format as fmt
from mmstore.errors import CorruptError

both = pytest.mark.parametrize("kernels", BOTH, ids=IDS)
MASKS = (ALL, ALL >> 16, 0xFFFF, 0xF << 60 | 0xFF, 0)


def puts(kernels: Any) -> int:
    """How many records a test can afford."""
    return 20000 if kernels.compiled else 2000


# --- the mapping -------------------------------------------------------------------------------------


@both
def test_put_get_delete(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    assert index.get(b"a") is None and not index.contains(b"a") and not index.delete(b"a")
    assert index.put(b"a", b"1") is True
    assert index.put(b"a", b"22") is False
    assert index.put(b"", b"") is True
    assert index.get(b"a") == b"22" and index.get(b"") == b"" and len(index) == index.count == 2
    assert index.size == 3
    assert sorted(index.items()) == [(b"", b""), (b"a", b"22")] and sorted(index.keys()) == [b"", b"a"]
    assert index.delete(b"a") and not index.delete(b"a") and index.get(b"a") is None
    assert index.delete(b"")
    assert index.desc == kernels.EMPTY
    store.commit()
    assert not store.pages.in_use


@both
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_bytes_like(kernels: Any, make: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    for n in (0, 1, 500, 5000):
        if n or make in (bytes, bytearray, memoryview):
            index.put(make(b"k" * n), make(b"v" * n * 2))
            assert index.get(b"k" * n) == b"v" * n * 2
    assert index.put_many([make(b"x")], [make(b"y" * 3000)]) == 1
    assert index.get(make(b"x")) == b"y" * 3000
    store.commit()


@both
def test_wide_values_are_taken_as_their_bytes(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    for n in (3, 5000):
        values = np.arange(n, dtype="<i8")
        index.put(b"%d" % n, values)
        assert index.get(b"%d" % n) == values.tobytes()
    assert index.size == 8 * 5003 + 5
    store.commit()


@both
def test_wrong_arguments_change_nothing(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    index.put(b"a", b"1")
    before = index.desc
    for key, value, error in [
        ("a", b"", TypeError),
        (b"a", "text", TypeError),
        (None, b"", TypeError),
        (b"a", 5, TypeError),
        (bytes(65536), b"", ValueError),
    ]:
        with pytest.raises(error):
            index.put(key, value)
        with pytest.raises(error):
            index.put_many([b"b", key], [b"", value])
    with pytest.raises(ValueError, match="as many"):
        index.put_many([b"b"], [])
    with pytest.raises(TypeError):
        index.delete("a")
    assert index.desc == before and dict(index.items()) == {b"a": b"1"}


@both
@pytest.mark.parametrize("page_size", [4096, 8192, 65536])
def test_every_size_about_the_limits(kernels: Any, page_size: int) -> None:
    """Records about as long as fits a bucket, as a page, as the longest key."""
    store = IndexStore(kernels, page_size)
    limit = fmt.inline_limit(page_size)
    model = {}
    for txn in range(2):
        index = store.begin()
        for n_key in (0, 1, 40, 300, limit - 4, limit - 3, 65534, 65535):
            for total in (limit - 5, limit - 4, limit - 3, page_size - 64, page_size, page_size + 1, 70000):
                key = n_key.to_bytes(3, "big") * (n_key // 3 + 1)
                key = key[:n_key]
                value = bytes([total % 251 + txn]) * max(total - n_key, 0)
                assert index.put(key, value) == (key not in model)
                model[key] = value
                assert index.get(key) == value
        assert dict(index.items()) == model
        assert index.size == sum(len(k) + len(v) for k, v in model.items())
        store.commit()
        assert dict(store.tree().items()) == model
    index = store.begin()
    index.clear()
    store.commit()
    assert not store.pages.in_use


@both
@pytest.mark.parametrize("mask", MASKS, ids=hex)
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_grow_and_shrink(kernels: Any, page_size: int, mask: int) -> None:
    """Puts, replacements and deletes over many commits, with every kind of collision."""
    rng = random.Random(mask)
    store = IndexStore(kernels, page_size, mask, limit=rng.choice([64 << 20, 30 * page_size]))
    model: dict[bytes, bytes] = {}
    n = min(puts(kernels) // 4, 1500 if mask == ALL else 400) // (1 if kernels.compiled else 3)
    for txn in range(10):
        index = store.begin()
        for _ in range(n):
            key = rng.randbytes(rng.choice([0, 1, 2, 2, 3, 16]))
            if model and rng.random() < (0.2 if txn < 5 else 0.7):
                key = next(iter(model)) if rng.random() < 0.8 else key
                assert index.delete(key) == (model.pop(key, None) is not None)
            else:
                value = rng.randbytes(rng.choice([0, 8, 30, 100, 900, 7, 7, 7]))
                assert index.put(key, value) == (key not in model)
                model[key] = value
        assert index.count == len(model)
        assert dict(index.items()) == model
        store.commit()
        assert store.tree().get_many(list(model)) == list(model.values())
    index = store.begin()
    for key in list(model):
        assert index.delete(key)
    assert index.desc == kernels.EMPTY
    store.commit()
    assert not store.pages.in_use


@both
def test_iteration_notices_changes_of_size(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    for i in range(300):
        index.put(b"%d" % i, b"x")
    for change in (lambda: index.put(b"new", b""), lambda: index.delete(b"5"), index.clear):
        it = iter(index.items())
        next(it)
        change()
        with pytest.raises(RuntimeError, match="changed"):
            next(it)


@both
def test_replacing_while_iterating(kernels: Any) -> None:
    """As with dict: new values for the keys that are there are allowed, and no key comes twice or never."""
    store = IndexStore(kernels)
    index = store.begin()
    model = {b"%d" % i: b"x" * (i % 50) for i in range(2000)}
    index.put_many(list(model), list(model.values()))
    rng = random.Random(1)
    seen = []
    for key in index.keys():
        seen.append(key)
        for k in (key, rng.choice(list(model))):
            model[k] = rng.randbytes(rng.choice([0, 50, 300]))
            index.put(k, model[k])
    assert sorted(seen) == sorted(model)
    assert dict(index.items()) == model


@both
@pytest.mark.parametrize("n", [0, 1, 50, 3000])
@pytest.mark.parametrize("mask", MASKS, ids=hex)
def test_put_many(kernels: Any, mask: int, n: int) -> None:
    rng = random.Random(n)
    n = min(n, 300) if mask != ALL else n
    store = IndexStore(kernels, 4096, mask, limit=rng.choice([64 << 20, 20 * 4096]))
    model: dict[bytes, bytes] = {}
    for _ in range(3):
        index = store.begin()
        keys = [rng.randbytes(rng.choice([1, 2, 16])) for _ in range(n)]
        values = [rng.randbytes(rng.choice([0, 100, 8, 8, 8, 900, 1500])) for _ in range(n)]
        new = len({*model, *keys}) - len(model)
        model.update(zip(keys, values, strict=True))
        assert index.put_many(keys, values) == new
        assert dict(index.items()) == model
        assert index.size == sum(len(k) + len(v) for k, v in model.items())
        store.commit()


# --- its pages ---------------------------------------------------------------------------------------


@both
def test_a_put_copies_four_pages_at_most(kernels: Any) -> None:
    """Bucket, node, directory and one neighbour, or the bucket across a node's middle."""
    rng = random.Random(1)
    store = IndexStore(kernels)
    n = puts(kernels)
    keys = [rng.randbytes(16) for _ in range(n)]
    store.begin().put_many(keys, [bytes(100)] * n)
    store.commit()
    total = 0
    rounds = n // 20
    for i in range(rounds):
        index = store.begin()
        index.put(rng.randbytes(16) if i % 2 else keys[i], bytes(100))
        assert store.work.copied <= 4
        assert store.work.dirty <= 6
        total += store.work.copied
        store.work.assign(store.txn)
        store.desc = index.sealed_desc()
        store.work.seal()
        store.work.place()
        store.work.reset()
    assert total / rounds < 3.3
    store.check()


@both
def test_nothing_is_copied_twice(kernels: Any) -> None:
    """A put into private pages with room changes them in place."""
    store = IndexStore(kernels)
    index = store.begin()
    index.put_many([b"%d" % i for i in range(2000)], [bytes(50)] * 2000)
    store.commit()
    index = store.begin()
    for _ in range(5):
        for i in range(2000):
            index.put(b"%d" % i, bytes(50))
        copied = store.work.copied
        assert copied == store.work.dirty == index.desc.pages
    store.commit()


@pytest.mark.parametrize("n_value", [8, 100, 400, 900])
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_fill_after_random_puts(page_size: int, n_value: int) -> None:
    rng = random.Random(n_value)
    store = IndexStore(INSTALLED, page_size)
    index = store.begin()
    n = 20000
    for _ in range(n):
        index.put(rng.randbytes(16), bytes(n_value))
    desc = index.desc
    buckets = desc.pages - desc.nodes - (desc.height > 2)
    taken = n * (4 + -(-(4 + 16 + n_value) // 8) * 8)
    assert taken / (buckets * page_size) >= (0.75 if n_value < 900 else 0.65)
    store.commit()


@pytest.mark.parametrize("n_value", [8, 100, 400])
def test_fill_after_a_bulk_build(n_value: int) -> None:
    rng = random.Random(n_value)
    store = IndexStore(INSTALLED)
    index = store.begin()
    n = 20000
    index.put_many([rng.randbytes(16) for _ in range(n)], [bytes(n_value)] * n)
    desc = index.desc
    buckets = desc.pages - desc.nodes - (desc.height > 2)
    taken = n * (4 + -(-(4 + 16 + n_value) // 8) * 8)
    assert taken / (buckets * 4096) >= (0.87 if n_value < 400 else 0.8)
    store.commit()


@both
def test_colliding_keys_cost_time_not_memory(kernels: Any) -> None:
    """However alike the hashes are, pages stay in proportion to the records, and the directory small."""
    n = puts(kernels) // 4
    for mask in (0, 1 << 63, 0xFFFF, 0xFF << 20, ALL >> 30):
        store = IndexStore(kernels, mask=mask)
        index = store.begin()
        for i in range(n):
            index.put(b"%d" % i, bytes(100))
        desc = index.desc
        assert desc.pages < n // 10 and 1 << desc.depth <= 8 * (desc.nodes + 1)
        store.commit()


@both
def test_a_deleted_index_gives_its_pages_back(kernels: Any) -> None:
    """Sparse neighbours merge: pages stay in proportion to what is left."""
    rng = random.Random(3)
    store = IndexStore(kernels)
    index = store.begin()
    keys = [rng.randbytes(16) for _ in range(puts(kernels))]
    for key in keys:
        index.put(key, bytes(100))
    before = index.desc.pages
    for key in keys[: len(keys) * 19 // 20]:
        index.delete(key)
    assert index.desc.pages < before / 5
    store.commit()
    assert dict(store.tree().items()) == dict.fromkeys(keys[len(keys) * 19 // 20 :], bytes(100))


def test_both_ways_of_running_give_the_same_bytes() -> None:
    """I10, over everything that a transaction can do."""
    for page_size, mask in [(4096, ALL), (4096, 0xF << 60 | 0xFF), (16384, 0xFFFF), (65536, ALL)]:
        stores = [IndexStore(kernels, page_size, mask, 40 * page_size) for kernels in BOTH]
        for txn in range(4):
            for store in stores:
                rng = random.Random(txn)
                index = store.begin()
                if txn == 0:
                    keys = [rng.randbytes(3) for _ in range(700)]
                    index.put_many(keys, [rng.randbytes(rng.choice([0, 8, 100, 1200])) for _ in keys])
                for _ in range(400):
                    index.put(rng.randbytes(2), rng.randbytes(rng.choice([0, 8, 100, 1200, 5000])))
                    index.delete(rng.randbytes(2))
                mark, desc = store.work.savepoint(), index.desc
                for _ in range(50):
                    index.put(rng.randbytes(2), rng.randbytes(60))
                if txn % 2:
                    store.work.rollback(mark)
                    index.desc = desc
                else:
                    store.work.release(mark)
                store.commit()
            assert len({store.desc.pack() for store in stores}) == 1
            assert len({bytes(store.store.data) for store in stores}) == 1


# --- descriptors -------------------------------------------------------------------------------------


@both
def test_a_descriptor_is_checked(kernels: Any) -> None:
    store = IndexStore(kernels)
    store.begin().put(b"a", b"b")
    store.commit()
    good = {name: getattr(store.desc, name) for name in fmt.INDEX.names}
    shapes = [{"height": 7, "depth": 40}, {"depth": 1}, {"height": 6, "depth": 30}]
    for bad in ({"pages": 1 << 31}, {"nodes": 1 << 31}, *shapes):
        store.desc = kernels.IndexDescriptor(**{**good, **bad})
        with pytest.raises(CorruptError):
            store.begin()
