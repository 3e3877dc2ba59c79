"""Private pages: savepoints, spilling, runs, and that committed bytes are never written (I1)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bothkernels import BOTH, IDS
from indexstore import IndexStore
from mmstore import format as fmt

both = pytest.mark.parametrize("kernels", BOTH, ids=IDS)


def fill(index: Any, model: dict[bytes, bytes], rng: random.Random, n: int) -> None:
    for _ in range(n):
        key = rng.randbytes(2)
        if rng.random() < 0.3:
            index.delete(key)
            model.pop(key, None)
        else:
            model[key] = rng.randbytes(rng.choice([0, 20, 100, 2000]))
            index.put(key, model[key])


@both
@pytest.mark.parametrize("limit", [64 << 20, 8 * 4096], ids=["roomy", "spilling"])
def test_nested_savepoints(kernels: Any, limit: int) -> None:
    rng = random.Random(limit)
    store = IndexStore(kernels, limit=limit)
    model: dict[bytes, bytes] = {}
    for _ in range(6):
        index = store.begin()
        fill(index, model, rng, 100)
        stack: list[Any] = []
        for _ in range(30):
            what = rng.random()
            if what < 0.4 and len(stack) < 5:
                stack.append((store.work.savepoint(), index.desc, model.copy()))
            elif what < 0.6 and stack:
                mark, desc, model = stack.pop()
                store.work.rollback(mark)
                index.desc = desc
            elif what < 0.75 and stack:
                store.work.release(stack.pop()[0])
            elif what < 0.8:
                store.work.flush()
            fill(index, model, rng, rng.choice([1, 10, 60]))
            assert index.count == len(model)
        assert dict(index.items()) == model
        while stack:
            store.work.release(stack.pop()[0])
        store.commit()
        assert dict(store.tree().items()) == model


@both
def test_rollback_across_a_flush(kernels: Any) -> None:
    """What a savepoint may want back is placed, too, and its place isn't used for anything else."""
    store = IndexStore(kernels)
    index = store.begin()
    model = {b"%d" % i: bytes(50) for i in range(500)}
    index.put_many(list(model), list(model.values()))
    for when in ("before", "after", "both"):
        if when in ("before", "both"):
            store.work.flush()
        mark, desc = store.work.savepoint(), index.desc
        for i in range(500):
            index.put(b"%d" % i, b"changed")
        if when in ("after", "both"):
            store.work.flush()
            for i in range(0, 500, 2):
                index.delete(b"%d" % i)
            store.work.flush()
        store.work.rollback(mark)
        index.desc = desc
        assert dict(index.items()) == model
    store.commit()


@both
def test_committed_bytes_stay(kernels: Any) -> None:
    """I1: whatever a transaction does, the pages of the root before are as they were."""
    rng = random.Random(4)
    store = IndexStore(kernels, limit=10 * 4096)
    model: dict[bytes, bytes] = {}
    fill(store.begin(), model, rng, 500)
    store.commit()
    for _ in range(5):
        before = {page: store.pread(4096, page * 4096) for page in store.pages.in_use}
        fill(store.begin(), model, rng, 300)
        store.commit()
        assert all(store.pread(4096, page * 4096) == content for page, content in before.items())


@both
def test_references_survive_a_flush(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    index.put(b"a", b"1")
    ref = index.desc.root
    assert ref & fmt.PRIVATE and store.work.resolve(ref) == ref
    store.work.assign(store.txn)
    number = store.work.final(ref)
    assert number and store.work.final(number) == number and store.work.final(0) == 0
    store.work.flush()
    assert store.work.resolve(ref) == number == store.work.final(ref)
    assert index.get(b"a") == b"1" and dict(index.items()) == {b"a": b"1"}
    other = kernels.Index(index.desc, store.work)
    assert other.get(b"a") == b"1"
    index.put(b"a", b"2")
    assert index.desc.root & fmt.PRIVATE and index.desc.root != ref
    store.commit()
    assert store.desc.root == number  # spilled, seen by nobody, and so written again to the same place


@both
def test_several_indexes_share_a_workspace(kernels: Any) -> None:
    store = IndexStore(kernels, limit=12 * 4096)
    store.begin()
    indexes = [kernels.Index(kernels.EMPTY, store.work) for _ in range(5)]
    models: list[dict[bytes, bytes]] = [{} for _ in indexes]
    rng = random.Random(5)
    for _ in range(40):
        for index, model in zip(indexes, models, strict=True):
            fill(index, model, rng, 20)
    for index, model in zip(indexes, models, strict=True):
        assert dict(index.items()) == model
    store.work.assign(store.txn)
    descs = [index.sealed_desc() for index in indexes]
    store.work.seal()
    store.work.place()
    total = 0
    for desc, model in zip(descs, models, strict=True):
        store.desc = desc
        assert dict(store.tree().items()) == model
        total += desc.pages
    assert total == sum(1 for _, kind in store.pages.in_use.values() if kind == fmt.FREE_INDEX)


@both
def test_memory_is_bounded_and_given_back(kernels: Any) -> None:
    store = IndexStore(kernels, limit=600 * 4096)
    index = store.begin()
    most = 0
    for i in range(6000):
        index.put(b"%d" % i, bytes(900))
        most = max(most, store.work.memory)
    assert 600 * 4096 <= most <= 620 * 4096
    assert index.count == 6000
    store.commit()
    assert store.work.memory == 0
    assert store.work.placed >= store.desc.pages


@both
def test_numbers_are_given_once(kernels: Any) -> None:
    store = IndexStore(kernels)
    index = store.begin()
    index.put_many([b"%d" % i for i in range(300)], [bytes(50)] * 300)
    store.work.assign(store.txn)
    first = index.sealed_desc()
    assert len(store.pages.in_use) == first.pages
    store.work.assign()
    assert index.sealed_desc() == first and len(store.pages.in_use) == first.pages
    for i in range(300):
        index.delete(b"%d" % i)
    store.work.assign()
    assert not store.pages.in_use


@both
def test_an_aborted_transaction_leaves_nothing(kernels: Any) -> None:
    store = IndexStore(kernels)
    store.begin().put(b"a", b"1")
    store.commit()
    index = store.begin()
    index.put_many([b"%d" % i for i in range(1000)], [bytes(50)] * 1000)
    in_use = store.pages.in_use.copy()
    store.work.savepoint()
    store.work.reset()
    store.pages.in_use = in_use  # the allocator's own abort
    index = store.begin()
    assert dict(index.items()) == {b"a": b"1"}
    index.put(b"b", b"2")
    store.pages.marks.clear()
    store.commit()
    assert dict(store.tree().items()) == {b"a": b"1", b"b": b"2"}


@both
def test_runs_are_written_in_pieces(kernels: Any) -> None:
    store = IndexStore(kernels)
    store.begin()
    store.store.grow(4000)
    pieces = [b"head", bytearray(3 << 20), b"tail"]
    writes = store.store.writes
    start = store.work.write_run(iter(pieces), 800)
    assert store.pread(800 * 4096, start * 4096) == b"".join(pieces).ljust(800 * 4096, b"\0")
    assert store.store.writes - writes <= 8
    store.work.free_run(start, 800, store.txn)
    store.work.assign()
    assert not store.pages.in_use


@both
def test_savepoints_end_in_reverse(kernels: Any) -> None:
    store = IndexStore(kernels)
    store.begin()
    outer = store.work.savepoint()
    store.work.savepoint()
    with pytest.raises(AssertionError, match="reverse"):
        store.work.rollback(outer)
