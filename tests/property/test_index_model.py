"""An index against a dict: any operations, savepoints, spills and commits, any hash, any page size."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bothkernels import INSTALLED, SOURCE
from indexstore import ALL, IndexStore

keys = st.one_of(
    st.binary(max_size=2),
    st.integers(0, 40).map(lambda n: b"key%d" % n),
    st.binary(min_size=1, max_size=3).map(lambda part: part * 200),
    st.binary(min_size=1, max_size=1).map(lambda part: part * 65535),
)
values = st.one_of(
    st.binary(max_size=20),
    st.integers(0, 2200).map(lambda n: b"v" * n),
    st.sampled_from([4084, 4096, 20000, 70000]).map(lambda n: b"V" * n),
)
sizes = st.sampled_from([0, 4, 8, 300, 1100])
masks = st.sampled_from([ALL, 0, 0xFF, 0xFFFF, 0xF << 60, 0xF << 60 | 0x3, 0xFFFF << 20, ALL >> 12])


def pack(some: list[bytes]) -> tuple[bytes, array[int]]:
    """Keys as data and offsets."""
    return b"".join(some), array("q", [0, *accumulate(map(len, some))])


class IndexMachine(RuleBasedStateMachine):
    """Both ways of running do the same, and must have the same bytes after each commit."""

    @initialize(page_size=st.sampled_from([4096, 8192, 65536]), mask=masks, pages=st.sampled_from([3, 20, 10000]))
    def start(self, page_size: int, mask: int, pages: int) -> None:
        limit = pages * page_size
        self.stores = [IndexStore(kernels, page_size, mask, limit) for kernels in (INSTALLED, SOURCE)]
        self.model: dict[bytes, bytes] = {}
        self.committed: dict[bytes, bytes] = {}
        self.stack: list[tuple[list[Any], dict[bytes, bytes]]] = []
        for store in self.stores:
            store.begin()

    def both(self, call: Any) -> Any:
        first, second = (call(store) for store in self.stores)
        assert first == second
        return first

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        assert self.both(lambda store: store.index.put(key, value)) == (key not in self.model)
        self.model[key] = value

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        assert self.both(lambda store: store.index.delete(key)) == (self.model.pop(key, None) is not None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete_one_that_is_there(self, data: Any) -> None:
        self.delete(data.draw(st.sampled_from(sorted(self.model))))

    @rule(start=st.integers(0, 3000), n=st.integers(0, 150), size=st.integers(0, 300))
    def put_a_range(self, start: int, n: int, size: int) -> None:
        for i in range(start, start + n):
            self.put(b"%d" % i, bytes(size))

    @rule(start=st.integers(0, 3000), n=st.integers(0, 150))
    def delete_a_range(self, start: int, n: int) -> None:
        for i in range(start, start + n):
            self.delete(b"%d" % i)

    @rule(pairs=st.lists(st.tuples(keys, values), max_size=20), start=st.integers(0, 3000), n=st.integers(0, 200))
    def put_many(self, pairs: list[tuple[bytes, bytes]], start: int, n: int) -> None:
        pairs = pairs + [(b"%d" % i, b"many") for i in range(start, start + n)]
        new = len({*self.model, *(key for key, _ in pairs)}) - len(self.model)
        self.model.update(pairs)
        assert self.both(lambda store: store.index.put_many([k for k, _ in pairs], [v for _, v in pairs])) == new

    @rule(some=st.lists(keys, max_size=8), start=st.integers(0, 3000), n=st.integers(0, 30), size=sizes)
    def put_packed(self, some: list[bytes], start: int, n: int, size: int) -> None:
        some = some + [b"%d" % i for i in range(start, start + n)]
        data, offsets = pack(some)
        values = b"".join((b"%d," % i * size)[:size] for i in range(len(some)))
        new = len({*self.model, *some}) - len(self.model)
        self.model.update((key, values[i * size : (i + 1) * size]) for i, key in enumerate(some))
        assert self.both(lambda store: store.index.put_packed(data, offsets, values, size)) == new

    @rule(pairs=st.lists(st.tuples(keys, values), max_size=20), start=st.integers(0, 3000), n=st.integers(0, 30))
    def put_slices(self, pairs: list[tuple[bytes, bytes]], start: int, n: int) -> None:
        pairs = pairs + [(b"%d" % i, b"slice" * (i % 3)) for i in range(start, start + n)]
        new = len({*self.model, *(key for key, _ in pairs)}) - len(self.model)
        self.model.update(pairs)
        packed = *pack([key for key, _ in pairs]), *pack([value for _, value in pairs])
        assert self.both(lambda store: store.index.put_slices(store.kernels.packed.Pairs(*packed))) == new

    @rule(some=st.lists(keys, max_size=8), start=st.integers(0, 3000), n=st.integers(0, 30))
    def delete_packed(self, some: list[bytes], start: int, n: int) -> None:
        some = some + [b"%d" % i for i in range(start, start + n)]
        there = self.model.keys() & set(some)
        assert self.both(lambda store: store.index.delete_packed(*pack(some))) == len(there)
        for key in there:
            del self.model[key]

    @rule(some=st.lists(keys, max_size=8), start=st.integers(0, 3000), n=st.integers(0, 30), size=sizes)
    def gather(self, some: list[bytes], start: int, n: int, size: int) -> None:
        some = some + [b"%d" % i for i in range(start, start + n)]
        some = [key for key in some if len(self.model.get(key, bytes(size))) == size]
        for store in self.stores:
            out, found = bytearray(b"x" * size * len(some)), bytearray(b"x" * len(some))
            store.index.gather(*pack(some), out, size, found)
            assert out == b"".join(self.model.get(key, bytes(size)) for key in some)
            assert [*found] == [key in self.model for key in some]

    @rule()
    def clear(self) -> None:
        self.both(lambda store: store.index.clear())
        self.model.clear()

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.both(lambda store: store.index.get(key)) == self.model.get(key)
        assert self.both(lambda store: store.index.contains(key)) == (key in self.model)

    @rule()
    def spill(self) -> None:
        for store in self.stores:
            store.work.flush()

    @precondition(lambda self: len(self.stack) < 4)
    @rule()
    def savepoint(self) -> None:
        self.stack.append(([(store.work.savepoint(), store.index.desc) for store in self.stores], self.model.copy()))

    @precondition(lambda self: self.stack)
    @rule()
    def rollback(self) -> None:
        marks, self.model = self.stack.pop()
        for store, (mark, desc) in zip(self.stores, marks, strict=True):
            store.work.rollback(mark)
            store.index.desc = desc

    @precondition(lambda self: self.stack)
    @rule()
    def release(self) -> None:
        marks, _ = self.stack.pop()
        for store, (mark, _) in zip(self.stores, marks, strict=True):
            store.work.release(mark)

    @rule()
    def commit(self) -> None:
        while self.stack:
            self.release()
        for store in self.stores:
            store.commit()
        first, second = self.stores
        assert first.desc.pack() == second.desc.pack()
        assert first.store.data == second.store.data
        for store in self.stores:
            tree = store.tree()
            assert dict(tree.items()) == self.model
            assert tree.get_many(list(self.model)) == list(self.model.values())
        self.committed = self.model.copy()
        for store in self.stores:
            store.begin()

    @invariant()
    def same_content(self) -> None:
        for store in self.stores:
            index = store.index
            assert index.count == len(self.model)
            assert index.size == sum(len(k) + len(v) for k, v in self.model.items())
            assert dict(index.items()) == self.model

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            self.commit()


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
