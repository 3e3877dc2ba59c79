"""The free list: every page is exactly one of free, held and in use (I5), and none is written while it is needed.

A model remembers which pages each root refers to.  The store behind the lists refuses every write to a
page that a needed root, or one younger than the grace, refers to; the only exception is the delta area
behind the bytes that a root has committed there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mmstore import format as fmt
from mmstore.errors import CorruptError, DiskFullError
from mmstore.pages import freelist as freelist_module
from mmstore.pages.freefile import Held, load_entries
from mmstore.pages.freelist import FreeList
from mmstore.pages.root import Root

Interval = tuple[int, int]
Pages = dict[int, tuple[int, int]]  # page -> (born, kind)
INDEX, BULK = fmt.FREE_INDEX, fmt.FREE_BULK


class MemoryStore:
    """The file: grows up to ``limit`` bytes; asks ``allowed`` before each write."""

    def __init__(self, page_size: int = 65536, limit: int = 1 << 40) -> None:
        self.page_size = page_size
        self.limit = limit
        self.data = bytearray(fmt.FIXED_SIZE)
        self.allowed: Callable[[int, int], None] = lambda offset, n: None
        self.placed = 0

    def pread(self, n: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + n])

    def place(self, runs: list[tuple[int, bytes]]) -> None:
        for offset, data in runs:
            assert fmt.FIXED_SIZE <= offset and offset + len(data) <= len(self.data)
            self.allowed(offset, len(data))
            self.data[offset : offset + len(data)] = data
            self.placed += len(data)

    def grow(self, to: int) -> None:
        if to > self.limit:
            raise DiskFullError(28, f"no room for {to} bytes")
        if to > len(self.data):
            self.data.extend(bytes(to - len(self.data)))


class World:
    """A store with its history of roots, and what readers and the durable header need of it."""

    def __init__(self, page_size: int = 65536, limit: int = 1 << 40) -> None:
        self.store = MemoryStore(page_size, limit)
        self.store.allowed = self.check_write
        first = fmt.ZONE_SIZE // page_size
        self.store.grow(fmt.ZONE_SIZE)
        self.roots = {1: Root(txn=1, pages=first)}
        self.used: dict[int, Pages] = {1: {}}
        self.published = 1
        self.pins: list[Interval] = []
        self.view_pins: list[Interval] = []
        self.durable = 1

    @property
    def root(self) -> Root:
        return self.roots[self.published]

    def list(self) -> FreeList:
        """Another process's free list."""
        return FreeList(self.store, self.needed, lambda: self.published)

    def needed(self) -> tuple[list[Interval], list[Interval]]:
        fixed = [(self.durable, self.durable), *self.pins]
        return fixed, [*fixed, *self.view_pins]

    # --- the rules that writing must keep -----------------------------------------------------------

    def protected(self, page: int) -> int | None:
        """A root that needs ``page`` as it is."""
        for txn in self.roots:
            found = self.used[txn].get(page)
            if found is None:
                continue
            needed = self.needed()[found[1]]
            young = self.published - freelist_module._GRACE[found[1]]
            if txn >= young or any(low <= txn <= high for low, high in needed):
                return txn
        return None

    def check_write(self, offset: int, n: int) -> None:
        size = self.store.page_size
        for page in range(offset // size, -(-(offset + n) // size)):
            txn = self.protected(page)
            if txn is None:
                continue
            free = self.root.free
            behind = free.delta_page * size + free.delta_bytes
            assert offset >= behind and offset + n <= (free.delta_page + free.delta_pages) * size, (
                f"page {page} is written and root {txn} needs it"
            )

    def commit(self, freelist: FreeList, used: Pages) -> Root:
        """The transaction's pages are ``used`` now; seal and publish."""
        base = self.root
        free, piece = freelist.seal()
        self.store.place([piece])
        root = base._replace(txn=base.txn + 1, pages=freelist.pages, free=free)
        lists = dict.fromkeys(range(free.page, free.page + free.pages + free.delta_pages), (free.consolidation, INDEX))
        old = range(base.free.page, base.free.page + base.free.pages + base.free.delta_pages)
        used = {page: what for page, what in used.items() if page not in old}
        assert not lists.keys() & used.keys()
        self.roots[root.txn] = root
        self.used[root.txn] = used | lists
        self.published = root.txn
        return root

    def accounted(self, root: Root | None = None) -> None:
        """I5 as the file has it."""
        root = root or self.root
        fixed = set(range(fmt.FIXED_SIZE // self.store.page_size))
        used = self.used[root.txn].keys()
        listed = [page for run in load_entries(self.store, root) for page in range(run.start, run.start + run.length)]
        assert len(listed) == len(set(listed)), "a page is listed twice"
        assert not used & set(listed), f"{sorted(used & set(listed))} are in use, and listed"
        assert not fixed & set(listed)
        everything = fixed | used | set(listed)
        assert everything == set(range(root.pages)), f"lost: {sorted(set(range(root.pages)) - everything)}"

    def same(self, freelist: FreeList) -> None:
        """The list in memory has the pages that the file's has; it may have found out that some are free."""
        file_free, file_held = split(load_entries(self.store, self.root))
        memory_free, memory_held = in_memory(freelist)
        grown = {page for start, n, *_ in freelist.grown for page in range(start, start + n)}
        assert not memory_free & memory_held
        assert (memory_free | memory_held) - grown == file_free | file_held
        assert file_free <= memory_free

    def reusable(self, freelist: FreeList) -> None:
        """Nothing that the list calls free is needed."""
        for page in in_memory(freelist)[0]:
            assert self.protected(page) is None, f"page {page} is free, and root {self.protected(page)} needs it"


def split(entries: list[Held]) -> tuple[set[int], set[int]]:
    free, held = set[int](), set[int]()
    for run in entries:
        (held if run.freed else free).update(range(run.start, run.start + run.length))
    return free, held


def in_memory(freelist: FreeList) -> tuple[set[int], set[int]]:
    runs = [*freelist.held[INDEX], *freelist.held[BULK], *freelist.blocked]
    held = [page for start, n, *_ in runs for page in range(start, start + n)]
    free = [page for runs in freelist.free_runs for at, n in runs for page in range(at, at + n)]
    assert len(held) == len(set(held)) and len(free) == len(set(free)), "a page is in the list twice"
    return set(free), set(held)


@contextmanager
def grace(roots: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt, "GRACE", roots)
        patch.setattr(freelist_module, "_GRACE", (roots, 0))
        yield


# --- the machine -----------------------------------------------------------------------------------------


class Accounting(RuleBasedStateMachine):
    """Two processes write in turn; a third reads the file anew after each commit."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = grace(3)
        self.patch.__enter__()
        self.world = World()
        self.lists = [self.world.list(), self.world.list()]
        self.writer: FreeList | None = None
        self.used: Pages = {}
        self.marks: list[tuple[tuple[int, int], Pages]] = []
        self.rng = random.Random(0)

    @initialize(seed=st.integers(0, 1 << 30))
    def seeded(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def teardown(self) -> None:
        self.patch.__exit__(None, None, None)

    @property
    def txn(self) -> int:
        return self.world.published + 1

    @precondition(lambda self: self.writer is None)
    @rule(which=st.integers(0, 1))
    def begin(self, which: int) -> None:
        self.writer = self.lists[which]
        self.writer.load(self.world.root)
        self.writer.begin(self.txn)
        self.used = dict(self.world.used[self.world.published])

    @precondition(lambda self: self.writer is not None)
    @rule(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), kind=st.sampled_from([INDEX, BULK]))
    def alloc(self, sizes: list[int], kind: int) -> None:
        assert self.writer is not None
        for n in sizes:
            start = self.writer.alloc(n, kind)
            for page in range(start, start + n):
                assert page not in self.used, f"page {page} is handed out twice"
                holder = self.world.protected(page)
                assert holder is None, f"page {page} is handed out, and root {holder} needs it"
                self.used[page] = (self.txn, kind)

    @precondition(lambda self: self.writer is not None)
    @rule(times=st.integers(1, 4), whole=st.booleans())
    def free(self, times: int, whole: bool) -> None:
        assert self.writer is not None
        free = self.world.root.free
        lists = range(free.page, free.page + free.pages + free.delta_pages)
        for _ in range(times):
            candidates = sorted(self.used.keys() - set(lists))
            if not candidates:
                return
            start = stop = self.rng.choice(candidates)
            born, kind = self.used[start]
            while self.used.get(stop) == (born, kind) and stop not in lists and (whole or stop < start + 2):
                stop += 1
            self.writer.free(start, stop - start, born, kind)
            for page in range(start, stop):
                del self.used[page]

    @precondition(lambda self: self.writer is not None and len(self.marks) < 3)
    @rule()
    def mark(self) -> None:
        assert self.writer is not None
        self.marks.append((self.writer.mark(), dict(self.used)))

    @precondition(lambda self: self.marks)
    @rule()
    def rollback(self) -> None:
        assert self.writer is not None
        mark, self.used = self.marks.pop()
        self.writer.rollback(mark)

    @precondition(lambda self: self.marks)
    @rule()
    def release(self) -> None:
        assert self.writer is not None
        self.writer.release(self.marks.pop()[0])

    @precondition(lambda self: self.writer is not None)
    @rule()
    def abort(self) -> None:
        assert self.writer is not None
        self.writer.abort()
        self.world.same(self.writer)
        self.writer, self.marks = None, []

    @precondition(lambda self: self.writer is not None)
    @rule()
    def fail(self) -> None:
        """Something failed behind the seal: bytes are in the file that no root knows."""
        assert self.writer is not None
        _, piece = self.writer.seal()
        self.world.store.place([piece])
        self.writer.forget()
        self.writer, self.marks = None, []

    @precondition(lambda self: self.writer is not None)
    @rule()
    def commit(self) -> None:
        assert self.writer is not None
        self.world.commit(self.writer, self.used)
        self.world.accounted()
        self.world.same(self.writer)
        self.writer, self.marks = None, []

    @precondition(lambda self: self.writer is None)
    @rule(which=st.integers(0, 1), times=st.integers(1, 6))
    def commit_nothing(self, which: int, times: int) -> None:
        for _ in range(times):
            self.begin(which)
            self.commit()

    @precondition(lambda self: self.writer is None)
    @rule(which=st.integers(0, 1))
    def follow(self, which: int) -> None:
        self.lists[which].load(self.world.root)
        self.world.same(self.lists[which])

    @precondition(lambda self: self.writer is None)
    @rule(which=st.integers(0, 1))
    def start_anew(self, which: int) -> None:
        self.lists[which] = self.world.list()

    @rule(views=st.booleans(), back=st.integers(0, 2))
    def pin(self, views: bool, back: int) -> None:
        """An interval of roots, none older than one that is pinned already or young enough to be read."""
        pins = self.world.view_pins if views else self.world.pins
        pins.append((max(1, self.world.published - back), self.world.published))

    @precondition(lambda self: self.world.pins or self.world.view_pins)
    @rule()
    def unpin(self) -> None:
        pins = self.rng.choice([pins for pins in (self.world.pins, self.world.view_pins) if pins])
        del pins[self.rng.randrange(len(pins))]

    @rule()
    def checkpoint(self) -> None:
        self.world.durable = self.world.published

    @invariant()
    def nothing_free_is_needed(self) -> None:
        for freelist in self.lists:
            if freelist.state is not None and freelist.state == self.world.root.free:
                self.world.reusable(freelist)


Accounting.TestCase.settings = settings(max_examples=25, stateful_step_count=50, deadline=None)
TestAccounting = Accounting.TestCase


# --- single cases ----------------------------------------------------------------------------------------


def transaction(world: World, freelist: FreeList, frees: Pages | None = None, allocs: int = 0) -> list[int]:
    """Free single pages and take ``allocs`` others, then commit; returns those taken."""
    freelist.load(world.root)
    txn = world.published + 1
    freelist.begin(txn)
    used = dict(world.used[world.published])
    for page in frees or ():
        born, kind = used.pop(page)
        freelist.free(page, 1, born, kind)
    taken = [freelist.alloc(1, INDEX) for _ in range(allocs)]
    world.commit(freelist, used | dict.fromkeys(taken, (txn, INDEX)))
    world.accounted()
    return taken


def test_an_empty_store_has_all_pages_but_the_fixed_free() -> None:
    world = World(4096)
    assert load_entries(world.store, world.root) == [Held(64, 512 - 64, 0, 0, INDEX)]
    world.accounted()


def test_a_freed_page_comes_back_after_the_grace_and_no_sooner() -> None:
    world = World()
    freelist = world.list()
    (page,) = transaction(world, freelist, allocs=1)
    transaction(world, freelist, {page: world.used[world.published][page]})
    freed = world.published
    while world.published < freed + fmt.GRACE:
        world.durable = world.published
        assert page in in_memory(freelist)[1]
        transaction(world, freelist)
        freelist.load(world.root)
        freelist.reclaim()
    world.durable = world.published
    freelist.reclaim()
    assert page in in_memory(freelist)[0]


@pytest.mark.parametrize("kind", [INDEX, BULK])
def test_a_view_holds_bulk_runs_only(kind: int) -> None:
    with grace(0):
        world = World()
        freelist = world.list()
        freelist.load(world.root)
        freelist.begin(2)
        start = freelist.alloc(2, kind)
        world.commit(freelist, dict.fromkeys((start, start + 1), (2, kind)))
        world.view_pins.append((2, 2))
        world.durable = 3
        freelist.load(world.root)
        freelist.begin(3)
        freelist.free(start, 2, 2, kind)
        world.commit(freelist, {})
        freelist.reclaim()
        assert (start in in_memory(freelist)[1]) == (kind == BULK)
        world.view_pins.clear()
        freelist.reclaim()
        assert start in in_memory(freelist)[0]


def test_only_roots_in_which_a_run_lived_hold_it() -> None:
    """An old pin does not hold what was born after it, nor a young one what was freed before it."""
    with grace(0):
        world = World()
        freelist = world.list()
        world.durable = 1
        (page,) = transaction(world, freelist, allocs=1)
        transaction(world, freelist, {page: world.used[2][page]})
        world.pins += [(1, 1), (3, 3)]
        freelist.reclaim()
        assert page in in_memory(freelist)[0]


def test_long_runs_of_bulk_are_aligned_to_64_kib() -> None:
    world = World(4096)
    freelist = world.list()
    freelist.load(world.root)
    freelist.begin(2)
    assert freelist.alloc(16, BULK) % 16 == 0
    freelist.alloc(1, BULK)
    assert freelist.alloc(40, BULK) % 16 == 0


def test_index_pages_and_bulk_lie_in_zones_of_their_own() -> None:
    world = World(4096)
    freelist = world.list()
    freelist.load(world.root)
    freelist.begin(2)
    zone = fmt.ZONE_SIZE // 4096
    index = {freelist.alloc(1, INDEX) // zone for _ in range(600)}
    bulk = {freelist.alloc(5, BULK) // zone for _ in range(200)}
    assert not index & bulk


def test_what_a_transaction_took_and_gave_back_is_used_again_at_once() -> None:
    world = World()
    freelist = world.list()
    freelist.load(world.root)
    freelist.begin(2)
    first = freelist.alloc(1, INDEX)
    for _ in range(1000):
        freelist.free(first, 1, 2, INDEX)
        assert freelist.alloc(1, INDEX) == first
    world.commit(freelist, {first: (2, INDEX)})
    world.accounted()


@pytest.mark.parametrize("kind", [INDEX, BULK])
def test_what_a_savepoint_may_want_back_is_not_used_again(kind: int) -> None:
    """Columns give back at once: what was taken before the savepoint is somebody's again after a rollback."""
    world = World()
    freelist = world.list()
    freelist.load(world.root)
    freelist.begin(2)
    first = freelist.alloc(1, kind)
    mark = freelist.mark()
    freelist.free(first, 1, 2, kind)
    others = [freelist.alloc(1, kind) for _ in range(10)]
    assert first not in others
    freelist.rollback(mark)
    assert freelist.alloc(1, kind) in others  # these are nobody's
    assert first not in [freelist.alloc(1, kind) for _ in range(20)]


def test_taken_and_given_back_inside_a_savepoint_is_not_lost_to_a_follower() -> None:
    """The follower still holds the run that the writer has found free, took and gave back."""
    with grace(0):
        world = World()
        writer, follower = world.list(), world.list()
        taken = transaction(world, writer, allocs=20)
        frees = {page: world.used[2][page] for page in taken[:4]}
        transaction(world, writer, frees)
        follower.load(world.root)
        assert frees.keys() <= in_memory(follower)[1]
        world.durable = 3
        writer.load(world.root)
        writer.begin(4)
        writer.reclaim()
        mark = writer.mark()
        again = [writer.alloc(1, INDEX) for _ in range(4)]
        assert set(again) == frees.keys()
        for page in again:
            writer.free(page, 1, 4, INDEX)
        writer.release(mark)
        world.commit(writer, dict(world.used[3]))
        world.accounted()
        world.same(writer)
        follower.load(world.root)
        world.same(follower)


def test_a_follower_reads_only_the_new_deltas() -> None:
    world = World(4096)
    writer, follower = world.list(), world.list()
    transaction(world, writer, allocs=3)
    follower.load(world.root)
    transaction(world, writer, allocs=3)
    reads: list[int] = []
    pread = world.store.pread
    world.store.pread = lambda n, offset: reads.append(n) or pread(n, offset)  # type: ignore[method-assign,func-returns-value]
    follower.load(world.root)
    assert reads == [fmt.DELTA.size + 1 * fmt.FREE_ENTRY.size]
    follower.load(world.root)
    assert len(reads) == 1


def test_a_commit_writes_its_delta_and_no_more() -> None:
    world = World(4096)
    freelist = world.list()
    pages = transaction(world, freelist, allocs=50)
    for _ in range(40):
        world.store.placed = 0
        pages = transaction(world, freelist, {page: world.used[world.published][page] for page in pages}, allocs=50)
        if world.root.free.consolidation != world.published:
            assert world.store.placed <= fmt.DELTA.size + 102 * fmt.FREE_ENTRY.size


def test_consolidations_become_rare_as_the_list_grows() -> None:
    world = World(4096)
    freelist = world.list()
    pages = transaction(world, freelist, allocs=200)
    anew = 0
    for _ in range(150):
        free = {page: world.used[world.published][page] for page in pages[:3]}
        pages = pages[3:] + transaction(world, freelist, free, allocs=3)
        world.durable = world.published
        anew += world.root.free.consolidation == world.published
    assert anew <= 2


def test_a_full_disk_leaves_a_reserve_to_deleters() -> None:
    world = World(4096, limit=fmt.ZONE_SIZE)
    freelist = world.list()
    freelist.load(world.root)
    freelist.begin(2)
    taken = []
    with pytest.raises(DiskFullError):
        while True:
            taken.append(freelist.alloc(1, INDEX))
    assert len(taken) > 300
    freelist.abort()
    world.same(freelist)
    freelist.begin(2)
    freelist.spend_reserve = True
    more = []
    with pytest.raises(DiskFullError):
        while True:
            more.append(freelist.alloc(1, INDEX))
    assert len(more) >= len(taken) + 16
    freelist.abort()


def test_growth_outlives_an_abort_and_is_told_with_the_next_commit() -> None:
    world = World(4096)
    writer, other = world.list(), world.list()
    writer.load(world.root)
    writer.begin(2)
    writer.alloc(1000, BULK)
    writer.abort()
    assert writer.pages > world.root.pages
    transaction(world, other, allocs=1)  # another writer knows nothing of it
    transaction(world, writer, allocs=1)
    world.same(writer)
    writer.load(world.root)
    writer.begin(world.published + 1)
    writer.alloc(1000, BULK)
    writer.abort()
    transaction(world, writer, allocs=1)
    assert world.root.pages > 1000
    world.same(writer)
    other.load(world.root)
    world.same(other)


# --- hostile bytes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written() -> World:
    """A list with entries of all sorts and several deltas."""
    world = World(4096)
    freelist = world.list()
    pages = transaction(world, freelist, allocs=60)
    for _ in range(5):
        free = {page: world.used[world.published][page] for page in pages[:7]}
        pages = pages[7:] + transaction(world, freelist, free, allocs=9)
    return world


def test_each_flipped_bit_is_found(written: World) -> None:
    free = written.root.free
    areas = [(free.page * 4096, free.bytes), (free.delta_page * 4096, free.delta_bytes)]
    for start, n in areas:
        assert n
        for at in range(start, start + n):
            written.store.data[at] ^= 1 << at % 8
            with pytest.raises(CorruptError):
                load_entries(written.store, written.root)
            written.store.data[at] ^= 1 << at % 8
    load_entries(written.store, written.root)


def test_hostile_places_are_refused(written: World) -> None:
    rng = random.Random(1)
    free = written.root.free
    for _ in range(2000):
        field = rng.choice(["page", "pages", "bytes", "delta_page", "delta_pages", "delta_bytes", "pages_of_root"])
        value = rng.choice([0, 1, 2, 511, 512, 513, 1 << 20, (1 << 32) - 1, rng.randrange(1 << 16)])
        if field == "pages_of_root":
            root = written.root._replace(pages=value)
        else:
            root = written.root._replace(free=free._replace(**{field: value}))
        try:
            entries = load_entries(written.store, root)
        except CorruptError:
            continue
        assert split(entries) == split(load_entries(written.store, written.root))


def hostile_delta(taken: list[tuple[int, int]], given: list[Held], counts: tuple[int, int] | None = None) -> World:
    """A store whose only delta, with a right checksum, says this."""
    import xxhash

    world = World(4096)
    freelist = world.list()
    transaction(world, freelist, allocs=10)
    root = world.root
    n_taken, n_given = counts or (len(taken), len(given))
    body = bytearray(fmt.DELTA.struct.pack(0, 3, n_taken, n_given))
    for start, length in taken:
        body += fmt.FREE_ENTRY.struct.pack(start, length, 0, 0, 0, 0)
    for run in given:
        body += fmt.FREE_ENTRY.struct.pack(*run, 0)
    chain = xxhash.xxh3_64_intdigest(memoryview(body)[8:], root.free.delta_chain)
    body[:8] = chain.to_bytes(8, "little")
    at = root.free.delta_page * 4096 + root.free.delta_bytes
    world.store.data[at : at + len(body)] = body
    free = root.free._replace(delta_bytes=root.free.delta_bytes + len(body), delta_chain=chain)
    world.roots[3] = root._replace(txn=3, free=free)
    world.used[3] = world.used[2]
    world.published = 3
    return world


MUCH = (1 << 32) - 1


@pytest.mark.parametrize(
    ("taken", "given"),
    [
        ([(200, 5), (202, 0)], []),
        ([(200, 5), (203, 5)], []),
        ([(200, 0)], []),
        ([(MUCH, MUCH)], []),
        ([(0, 1)], []),
        ([(511, 2)], []),
        ([], [Held(300, 5, 0, 0, 0)]),
        ([], [Held(74, 1, 0, 0, 0)]),  # the list itself
        ([], [Held(0, 1, 0, 0, 0)]),
        ([], [Held(512, 1, 0, 0, 0)]),
        ([], [Held(MUCH, MUCH, 0, 0, 0)]),
        ([], [Held(64, 0, 0, 0, 0)]),
        ([], [Held(64, 1, 5, 6, 7)]),
        ([], [Held(64, 1, 5, 6, 0), Held(64, 1, 5, 6, 0)]),
    ],
)
def test_a_hostile_delta_is_refused(taken: list[tuple[int, int]], given: list[Held]) -> None:
    world = hostile_delta(taken, given)
    with pytest.raises(CorruptError):
        load_entries(world.store, world.root)


@pytest.mark.parametrize("counts", [(1, 0), (0, 1), (MUCH, MUCH), (MUCH, 0)])
def test_a_delta_that_counts_more_than_there_is_is_refused(counts: tuple[int, int]) -> None:
    world = hostile_delta([], [], counts)
    with pytest.raises(CorruptError):
        load_entries(world.store, world.root)
