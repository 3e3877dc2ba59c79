"""Keys given as bytes and offsets: gathered, put, deleted; what is refused before anything is changed."""

from __future__ import annotations

import random
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmstore
from bothkernels import BOTH, IDS, INSTALLED, SOURCE
from indexstore import ALL, IndexStore
from mmstore.errors import CorruptError

both = pytest.mark.parametrize("kernels", BOTH, ids=IDS)
MASKS = (ALL, 0xFFFF, 0xF << 60 | 0xFF, 0)


def pack(keys: list[bytes]) -> tuple[bytes, Any]:
    return b"".join(keys), np.array([0, *accumulate(map(len, keys))], np.int64)


def most(kernels: Any, mask: int) -> int:
    """How many records a test can afford."""
    if kernels is SOURCE or not mmstore.compiled():
        return 400 if mask == ALL else 100
    return 3000 if mask == ALL else 300


def gathered(tree: Any, keys: list[bytes], size: int, alone: bool = True) -> list[bytes | None]:
    """What ``gather`` finds, as ``get_many`` would give it."""
    out, found = bytearray(b"\xff" * len(keys) * size), bytearray(b"\xff" * len(keys))
    assert tree.gather(*pack(keys), out, size, found, alone) is None
    rows = [bytes(out[i * size : (i + 1) * size]) for i in range(len(keys))]
    assert set(found) <= {0, 1}
    assert all(there or not any(row) for there, row in zip(found, rows, strict=True))
    return [row if there else None for there, row in zip(found, rows, strict=True)]


# --- offsets -----------------------------------------------------------------------------------------


@given(
    offsets=st.one_of(
        st.lists(st.integers(-3, 40), max_size=12),
        st.lists(st.integers(0, 40), max_size=12).map(sorted),
        st.lists(st.sampled_from([0, 5, -(1 << 63), (1 << 63) - 1, 1 << 62, -1]), max_size=6),
    ),
    limit=st.sampled_from([0, 5, 40, 1 << 62, (1 << 63) - 1]),
    repeat=st.sampled_from([0, 1000, 1030]),
)
def test_check_offsets(offsets: list[int], limit: int, repeat: int) -> None:
    """The first that falls or leaves [0, limit], also behind many that are right."""
    offsets = [0] * repeat + offsets
    steps = zip([0, *offsets], offsets, strict=False)
    wrong = [i for i, (before, x) in enumerate(steps) if not max(0, before) <= x <= limit]
    expected = wrong[0] if wrong else -1 if offsets else 0
    for kernels in BOTH:
        assert kernels.packed.check_offsets(array("q", offsets), limit) == expected
        assert kernels.packed.check_offsets(np.array(offsets, np.int64), limit) == expected


@both
@pytest.mark.parametrize("kind", ["i4", "u8", "f8", ">i8", "S8"])
def test_offsets_are_int64(kernels: Any, kind: str) -> None:
    with pytest.raises(ValueError):
        kernels.packed.check_offsets(np.zeros(3, kind), 5)
    for wrong in (np.zeros((2, 2), np.int64), np.zeros(6, np.int64)[::2]):
        with pytest.raises(ValueError):
            kernels.packed.keys(b"", wrong)
    with pytest.raises(TypeError):
        kernels.packed.keys(b"", [0, 0])


# --- gather ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("mask", MASKS, ids=hex)
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 3000])
def test_gather_is_get(kernels: Any, n: int, mask: int) -> None:
    """Committed and in a transaction, few and many, whatever the hashes are, in buckets and in runs."""
    rng = random.Random(n)
    n = min(n, most(kernels, mask))
    for size in (0, 8, 100, 2000) if n < 100 else (8,):
        store = IndexStore(kernels, 4096, mask)
        index = store.begin()
        model = {rng.randbytes(rng.choice([1, 3, 8, 16, 300])): rng.randbytes(size) for _ in range(n)}
        for key, value in model.items():
            index.put(key, value)
        keys = rng.choices([*model, b"", *(b"no%d" % i for i in range(n // 2 + 1))], k=2 * n + 1)
        expected = [model.get(key) for key in keys]
        assert gathered(index, keys, size) == expected
        assert gathered(index, [], size) == []
        store.commit()
        for alone in (True, False, False):  # at first no page is known to be right, at last all are
            assert gathered(store.tree(), keys, size, alone) == expected
        assert store.tree().get_many(keys) == expected
        index = store.begin()
        for key in keys[::2]:
            if key in model:
                model[key] = rng.randbytes(size)
                index.put(key, model[key])
            else:
                index.put(key, bytes(size))
                model[key] = bytes(size)
        assert gathered(index, keys, size) == [model.get(key) for key in keys]
        store.work.flush()
        assert gathered(index, keys, size) == [model.get(key) for key in keys]
        store.commit()


@both
@pytest.mark.parametrize("mask", MASKS, ids=hex)
def test_gather_by_several_threads(kernels: Any, mask: int) -> None:
    """At the same time, each its own keys, while no page is known to be right yet."""
    rng = random.Random(mask)
    n = most(kernels, mask)
    store = IndexStore(kernels, 4096, mask)
    model = {rng.randbytes(8): rng.randbytes(8) for _ in range(n)}
    store.begin().put_many([*model], [*model.values()])
    store.commit()
    keys = [*model, *(rng.randbytes(8) for _ in range(n // 4))]
    rng.shuffle(keys)
    tree = store.tree()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda at: gathered(tree, keys[at::3], 8, False), range(3)))
    for at in range(3):
        assert found[at] == [model.get(key) for key in keys[at::3]]


@both
def test_gather_takes_any_contiguous_buffer(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    keys = np.arange(50)
    index.put_many([key.tobytes() for key in keys], [np.float64(key).tobytes() for key in keys])
    wanted = np.array([7, 99, 3])
    offsets = np.arange(4) * 8
    out, found = np.full(3, 5.0), np.ones(3, bool)
    for data in (wanted, wanted.tobytes(), memoryview(wanted), bytearray(wanted.tobytes())):
        for places in (offsets, array("q", offsets.tolist()), memoryview(offsets)):
            out[:], found[:] = 5, True
            index.gather(data, places, out, 8, found)
            assert out.tolist() == [7, 0, 3] and found.tolist() == [True, False, True]
    grid, marks = np.ones((3, 2, 4), "u1"), np.zeros(3, "u1")
    index.gather(wanted, offsets, grid, 8, marks)
    assert np.frombuffer(grid).tolist() == [7, 0, 3] and marks.tolist() == [1, 0, 1]


@both
def test_gather_refuses_values_of_another_size(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    for key, size in [(b"a", 8), (b"b", 3), (b"c", 5000)]:
        index.put(key, bytes(size))
    for keys, size, message in [
        ([b"a", b"b"], 8, "expected values of 8 bytes, found one of 3 at position 1"),
        ([b"x", b"a", b"c"], 8, "expected values of 8 bytes, found one of 5000 at position 2"),
        ([b"a"], 5000, "expected values of 5000 bytes, found one of 8 at position 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            gathered(index, keys, size)


BAD = [
    (b"abc", [], "found none"),
    (b"abc", [-1, 3], "found -1 at position 0"),
    (b"abc", [0, 2, 1], "found 1 at position 2"),
    (b"abc", [0, 4], "found 4 at position 1"),
    (b"abc", [0, 1 << 62, 3], "at position 1"),
    (bytes(70000), [0, 1, 65537], "found one of 65536 at position 1"),
]


@both
@pytest.mark.parametrize(("data", "offsets", "message"), BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_wrong_keys_change_nothing(kernels: Any, data: bytes, offsets: list[int], message: str) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    index.put(b"abc", b"1")
    before = index.desc
    places = array("q", offsets)
    n = max(len(offsets) - 1, 0)
    for call in (
        lambda: index.gather(data, places, bytearray(n), 1, bytearray(n)),
        lambda: index.put_packed(data, places, bytes(n), 1),
        lambda: index.delete_packed(data, places),
        lambda: index.put_slices(kernels.packed.Pairs(data, places, bytes(n), array("q", range(n + 1)))),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert index.desc == before and dict(index.items()) == {b"abc": b"1"}


@both
def test_buffers_have_the_right_length(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    index.put(b"abc", b"12")
    data, offsets = pack([b"abc", b"x"])
    for out, size, found in [
        (bytearray(3), 2, bytearray(2)),
        (bytearray(5), 2, bytearray(2)),
        (bytearray(4), 2, bytearray(1)),
        (bytearray(4), 2, bytearray(3)),
        (bytes(4), 2, bytearray(2)),
        (bytearray(4), 2, bytes(2)),
        (bytearray(4), 1, bytearray(2)),
        (bytearray(4), -2, bytearray(2)),
        (bytearray(), 1 << 64, bytearray(2)),
    ]:
        with pytest.raises(ValueError, match="expected"):
            index.gather(data, offsets, out, size, found)
    for values, size in [(bytes(3), 2), (bytes(5), 2), (bytes(4), -2), (b"", 1 << 64)]:
        with pytest.raises(ValueError, match="expected 2 values of"):
            index.put_packed(data, offsets, values, size)
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            index.gather(wrong, offsets, bytearray(4), 2, bytearray(2))
        with pytest.raises(TypeError):
            index.gather(data, wrong, bytearray(4), 2, bytearray(2))
        with pytest.raises(TypeError):
            index.put_packed(data, offsets, wrong, 2)
        with pytest.raises(TypeError):
            index.delete_packed(wrong, offsets)
    for bounds, message in [
        ([0, 1], "got 1 for 2"),
        ([0, 1, 2, 3], "got 3 for 2"),
        ([], "found none"),
        ([0, 2, 1], "found 1 at position 2"),
        ([-1, 0, 1], "found -1 at position 0"),
        ([0, 1, 4], r"in \[0, 3\] for n items, found 4 at position 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            index.put_slices(kernels.packed.Pairs(data, offsets, b"123", array("q", bounds)))
    assert dict(index.items()) == {b"abc": b"12"}


@both
def test_only_slices_that_were_checked_are_put(kernels: Any) -> None:
    """The kernel doesn't look again: so nobody can hand it others, or change these."""
    index = IndexStore(kernels).begin()
    offsets, bounds = array("q", [0, 1, 3]), array("q", [0, 2, 3])
    pairs = kernels.packed.Pairs(b"abc", offsets, b"123", bounds)
    offsets[1] = bounds[1] = 1 << 40
    for _, ends in (pairs.key_slices(), pairs.value_slices()):
        with pytest.raises(TypeError):
            ends[1] = 1 << 40
    empty = kernels.packed.Pairs.__new__(kernels.packed.Pairs)
    for other in ((b"abc", offsets, b"123", bounds), None, empty, kernels.packed):
        with pytest.raises((TypeError, AttributeError)):
            index.put_slices(other)
    assert len(pairs) == index.put_slices(pairs) == 2 and dict(index.items()) == {b"a": b"12", b"bc": b"3"}


@both
def test_gather_of_damaged_runs(kernels: Any) -> None:
    store = IndexStore(kernels)
    store.begin().put(b"key", bytes(10000))
    store.commit()
    offset, _, _ = store.tree().locate(b"key")
    store.store.data[offset + 5000] ^= 1
    with pytest.raises(CorruptError):
        gathered(store.tree(), [b"key"], 10000)


# --- put and delete ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("n", [0, 1, 50, 3000])
@pytest.mark.parametrize("mask", MASKS, ids=hex)
def test_put_and_delete_packed(kernels: Any, mask: int, n: int) -> None:
    rng = random.Random(n)
    n = min(n, most(kernels, mask))
    store = IndexStore(kernels, 4096, mask, limit=rng.choice([64 << 20, 20 * 4096]))
    model: dict[bytes, bytes] = {}
    for size in (8, 100, 0, 1500, 7):
        index = store.begin()
        keys = [rng.randbytes(rng.choice([1, 2, 16, 400])) for _ in range(n)]
        values = rng.randbytes(n * size)
        new = len({*model, *keys}) - len(model)
        model.update((key, values[i * size : (i + 1) * size]) for i, key in enumerate(keys))
        assert index.put_packed(*pack(keys), values, size) == new
        assert dict(index.items()) == model
        assert index.size == sum(len(k) + len(v) for k, v in model.items())
        store.commit()
        index = store.begin()
        gone = [*keys[: n // 3], *keys[: n // 4], b"none"]
        there = model.keys() & set(gone)
        assert index.delete_packed(*pack(gone)) == len(there)
        for key in there:
            del model[key]
        assert dict(index.items()) == model
        store.commit()
    index = store.begin()
    assert index.delete_packed(*pack(list(model))) == len(model)
    assert index.desc == kernels.EMPTY
    store.commit()
    assert not store.pages.in_use


@both
@pytest.mark.parametrize("mask", MASKS, ids=hex)
def test_put_slices(kernels: Any, mask: int) -> None:
    """Values of any length, empty and large ones among them, into an empty index and one that has records."""
    rng = random.Random(mask)
    n = min(1000, most(kernels, mask))
    store = IndexStore(kernels, 4096, mask, limit=rng.choice([64 << 20, 20 * 4096]))
    model: dict[bytes, bytes] = {}
    for sizes in ((0, 7, 8, 100), (1, 1500, 70_000), (30,)):
        index = store.begin()
        keys = [rng.randbytes(rng.choice([1, 2, 16, 400])) for _ in range(n if sizes[-1] < 70_000 else n // 10)]
        values = [rng.randbytes(rng.choice(sizes)) for _ in keys]
        new = len({*model, *keys}) - len(model)
        model.update(zip(keys, values, strict=True))
        assert index.put_slices(kernels.packed.Pairs(*pack(keys), *pack(values))) == new
        assert dict(index.items()) == model
        assert index.size == sum(len(k) + len(v) for k, v in model.items())
        store.commit()


@both
def test_keys_that_are_not_all_of_data(kernels: Any) -> None:
    """Offsets need not begin at 0, nor end where data ends."""
    store = IndexStore(kernels)
    index = store.begin()
    assert index.put_packed(b"--abc--", np.array([2, 3, 3, 5]), b"123", 1) == 3
    assert dict(index.items()) == {b"a": b"1", b"": b"2", b"bc": b"3"}


def test_packed_and_lists_give_the_same_bytes() -> None:
    """One algorithm: the pages do not tell how the records came, nor which way of running built them."""
    for size in (8, 1100):
        stores = [IndexStore(kernels, 4096, limit=40 * 4096) for kernels in (INSTALLED, INSTALLED, SOURCE)]
        for round_ in range(2):
            rng = random.Random(round_)
            keys = [rng.randbytes(2) for _ in range(600)]
            values = rng.randbytes(size * len(keys))
            for number, store in enumerate(stores):
                index = store.begin()
                if number == 0:
                    index.put_many(keys, [values[i * size : (i + 1) * size] for i in range(len(keys))])
                elif number == 1:
                    bounds = np.arange(len(keys) + 1) * size
                    index.put_slices(store.kernels.packed.Pairs(*pack(keys), values, bounds))
                else:
                    index.put_packed(*pack(keys), values, size)
                store.commit()
        assert stores[0].store.data == stores[1].store.data == stores[2].store.data


def test_fill_after_a_packed_build() -> None:
    store = IndexStore(INSTALLED)
    index = store.begin()
    n = 20000 if mmstore.compiled() else 2000
    keys = np.random.default_rng(1).integers(0, 1 << 62, n)
    index.put_packed(keys, np.arange(n + 1) * 8, keys, 8)
    desc = index.desc
    buckets = desc.pages - desc.nodes - (desc.height > 2)
    assert n * (4 + 24) / (buckets * 4096) >= 0.87
    store.commit()


@both
def test_after_a_failure(kernels: Any) -> None:
    """No room for a large value, in the middle: what was begun can be thrown away, and the index used again."""
    store = IndexStore(kernels)
    index = store.begin()
    alloc = store.pages.alloc
    keys = [b"%d" % i for i in range(200)]
    store.pages.alloc = lambda n, kind: 1 // 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        index.put_packed(*pack(keys), bytes(2000 * 200), 2000)
    store.pages.alloc = alloc  # type: ignore[method-assign]
    store.work.reset()
    store.begin()
    store.index = index
    index.desc = store.desc
    assert index.put_packed(*pack(keys), bytes(2000 * 200), 2000) == 200
    store.commit()
