"""The data file: growth, placing both ways, following, cutting, and never a byte out of place."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmstore.disk import mapping
from mmstore.disk.locks import FileLocks
from mmstore.disk.memory import MemoryBackend, MemoryFilesystem
from mmstore.disk.posix import PosixBackend, PosixFilesystem
from mmstore.disk.storefile import StoreFile
from mmstore.errors import CorruptError, DiskFullError
from mmstore.format import FIXED_SIZE, HEADER_AT, IDENTITY_AT, LIVE_AT, LIVE_SIZE, ZONE_SIZE

P = 4096
MIB = 1 << 20
BASE = FIXED_SIZE


class Watched(MemoryBackend):
    """Records writes; fails allocation beyond ``limit``, after having added a part."""

    def __init__(self, fd: int, name: str, writable: bool) -> None:
        super().__init__(fd, name, writable)
        self.writes: list[tuple[int, int]] = []
        self.syncs: list[tuple[Any, ...]] = []
        self.limit: int | None = None

    def pwrite(self, data: Any, off: int) -> None:
        self.writes.append((off, memoryview(data).nbytes))
        super().pwrite(data, off)

    def allocate(self, off: int, n: int) -> None:
        if self.limit is not None and off + n > self.limit:
            os.ftruncate(self.fileno(), max(self.size(), self.limit))
            raise DiskFullError(errno.ENOSPC, "full", self.name)
        super().allocate(off, n)

    def sync_range(self, off: int, n: int) -> None:
        self.syncs.append(("range", off, n))

    def reopen(self) -> Watched:
        twin = super().reopen()
        assert isinstance(twin, Watched)
        twin.syncs = self.syncs
        return twin

    def sync_all(self) -> None:
        self.syncs.append(("all",))

    def write_back(self, off: int, n: int) -> None:
        self.syncs.append(("write_back", off, n))


def watched() -> Watched:
    backend = Watched(os.memfd_create("t", os.MFD_CLOEXEC), "t", True)
    backend.allocate(0, FIXED_SIZE)
    return backend


@pytest.fixture
def store() -> StoreFile:
    return StoreFile(watched(), P)


def writes(store: StoreFile) -> list[tuple[int, int]]:
    assert isinstance(store.backend, Watched)
    return store.backend.writes


# --- growth ------------------------------------------------------------------------------------------


def test_growth_steps(store: StoreFile) -> None:
    store.grow(FIXED_SIZE)
    assert store.size == FIXED_SIZE
    store.grow(FIXED_SIZE + 1)
    assert store.size == ZONE_SIZE == len(store.mem) == store.backend.size()
    address = store.mapping.address
    store.grow(80 * MIB)
    assert store.size == 80 * MIB
    store.grow(80 * MIB + 1)
    assert store.size == 90 * MIB, "an eighth more"
    store.grow(10)
    assert store.size == 90 * MIB and store.mapping.address == address


def test_the_largest_step_is_a_gib(store: StoreFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.backend, "allocate", lambda off, n: store.backend.truncate(off + n))
    store.grow(20 << 30)
    store.grow((20 << 30) + 1)
    assert store.size == 21 << 30


def test_every_page_has_a_bit(store: StoreFile) -> None:
    store.grow(3 * MIB)
    assert len(store.verified) * 8 * P >= store.size and not any(store.verified[:1000])
    store.verified[store.size // P // 8] = 1


def test_a_full_disk_takes_the_smallest_step_and_then_none(store: StoreFile) -> None:
    backend = store.backend
    assert isinstance(backend, Watched)
    backend.limit = FIXED_SIZE + 5 * P
    store.grow(FIXED_SIZE + 3 * P - 7)
    assert store.size == FIXED_SIZE + 3 * P
    for _ in range(2):
        with pytest.raises(DiskFullError):
            store.grow(FIXED_SIZE + 6 * P)
        assert store.size == len(store.mem) == backend.size() == FIXED_SIZE + 3 * P, "nothing was changed"
    store.grow(FIXED_SIZE + 5 * P)
    assert store.size == FIXED_SIZE + 5 * P
    backend.limit = None
    store.grow(FIXED_SIZE + 6 * P)
    assert store.size == ZONE_SIZE


def test_a_full_disk_never_cuts_what_was_there(store: StoreFile) -> None:
    """A writer that died may have grown the file further than anyone was told."""
    backend = store.backend
    assert isinstance(backend, Watched)
    backend.truncate(ZONE_SIZE)
    backend.limit = ZONE_SIZE + P
    with pytest.raises(DiskFullError):
        store.grow(ZONE_SIZE + 2 * P)
    assert backend.size() == ZONE_SIZE


def test_a_real_full_disk(tmp_path: Path) -> None:
    """By the limit of the process's file size: the same code path as ENOSPC."""
    import resource

    backend = PosixFilesystem().open(str(tmp_path / "f"), create=True)
    backend.allocate(0, FIXED_SIZE)
    store = StoreFile(backend, P)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FIXED_SIZE + 8 * P, hard))
    try:
        store.grow(FIXED_SIZE + 8 * P)
        with pytest.raises(DiskFullError):
            store.grow(FIXED_SIZE + 9 * P)
        store.place([(store.size - P, b"x" * P)])
        assert store.mem[store.size - 1] == ord("x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_outgrowing_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "_SMALLEST_RESERVATION", ZONE_SIZE)
    store = StoreFile(watched(), P)
    store.grow(ZONE_SIZE)
    store.place([(BASE, b"old")])
    store.verified[3] = 255
    old, was = store.mem, store.mapping
    store.grow(64 * MIB)
    assert store.mapping is not was
    assert store.mem[BASE : BASE + 3] == b"old" == old[BASE : BASE + 3] and store.verified[3] == 255
    store.place([(BASE, b"new")])
    assert old[BASE : BASE + 3] == b"new", "the old mapping shows the same file"


def test_following(store: StoreFile) -> None:
    other = StoreFile(store.backend.reopen(), P)
    other.grow(5 * MIB)
    other.place([(4 * MIB, b"there")])
    store.follow(other.size)
    assert store.size == other.size and store.mem[4 * MIB : 4 * MIB + 5] == b"there"
    store.follow(MIB)
    assert store.size == other.size
    with pytest.raises(CorruptError, match="cut short") as caught:
        store.follow(100 * MIB)
    assert caught.value.offset == other.size and store.size == other.size


def test_too_short_a_file() -> None:
    backend = watched()
    backend.truncate(FIXED_SIZE - 1)
    with pytest.raises(CorruptError, match=f"expected at least {FIXED_SIZE} bytes, found {FIXED_SIZE - 1}"):
        StoreFile(backend, P)


def test_a_part_of_a_page_is_not_shown() -> None:
    backend = watched()
    backend.truncate(FIXED_SIZE + 2 * P + 17)
    assert len(StoreFile(backend, P).mem) == FIXED_SIZE + 2 * P
    assert StoreFile(backend, P, size=FIXED_SIZE).size == FIXED_SIZE


# --- placing -----------------------------------------------------------------------------------------


def test_placing_sorts_and_joins(store: StoreFile) -> None:
    store.grow(8 * MIB)
    writes(store).clear()
    pages = [5, 1, 2, 9, 3, 8]
    store.place((BASE + i * P, bytes([i]) * P) for i in pages)
    assert writes(store) == [(BASE + P, 3 * P), (BASE + 5 * P, P), (BASE + 8 * P, 2 * P)]
    assert [store.mem[BASE + i * P] for i in range(10)] == [i if i in pages else 0 for i in range(10)]
    writes(store).clear()
    store.place([])
    assert writes(store) == []


def test_writes_end_where_zones_end(store: StoreFile) -> None:
    store.grow(32 * MIB)
    writes(store).clear()
    data = os.urandom(5 * MIB + 5)
    pages = [(18 * MIB + i * P, bytes([i % 256]) * P) for i in range(600)]
    store.place([(3 * MIB, memoryview(data)), (3 * MIB + len(data), b"tail"), (3 * MIB - 2, b"ab"), *pages])
    assert writes(store) == [
        (3 * MIB - 2, MIB + 2),
        (4 * MIB, 2 * MIB),
        (6 * MIB, 2 * MIB),
        (8 * MIB, 9),
        (18 * MIB, 2 * MIB),
        (20 * MIB, 88 * P),
    ]
    assert store.mem[3 * MIB - 2 : 8 * MIB + 9] == b"ab" + data + b"tail"
    assert all(store.mem[at : at + P] == page for at, page in pages)
    writes(store).clear()
    store.place([(10 * MIB, data[: 4 * MIB]), (14 * MIB, data[:P])])
    assert writes(store) == [(10 * MIB, 2 * MIB), (12 * MIB, 2 * MIB), (14 * MIB, P)]


def test_a_zone_is_begun_by_one_write(store: StoreFile) -> None:
    store.grow(8 * MIB)
    writes(store).clear()
    store.begin_zone(4 * MIB)
    assert writes(store) == [(4 * MIB, ZONE_SIZE)] and not any(store.mem[4 * MIB : 6 * MIB])
    private = StoreFile(watched(), P, private=True)
    private.grow(8 * MIB)
    private.begin_zone(4 * MIB)
    assert writes(private) == []


def test_the_disk_begins_with_bulk_at_once_but_with_a_zone_of_zeros_when_it_is_full(
    store: StoreFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.grow(16 * MIB)
    started: list[tuple[int, int]] = []
    monkeypatch.setattr(store.backend, "start_writing", lambda off, n: started.append((off, n)))
    store.begin_zone(4 * MIB)
    for at in (4 * MIB, 5 * MIB - 1, 6 * MIB - 2):
        store.place([(at, bytes(MIB - 1))])
    store.place([(9 * MIB, bytes(4 * MIB))])
    expected = [(4 * MIB, 2 * MIB), (6 * MIB, MIB - 3), (9 * MIB, MIB), (10 * MIB, 2 * MIB), (12 * MIB, MIB)]
    assert started == expected


@pytest.mark.parametrize("bad", [(FIXED_SIZE - 1, b"xy"), (0, b"x"), (ZONE_SIZE - 1, b"xy"), (ZONE_SIZE, b"x")])
def test_placing_out_of_bounds(store: StoreFile, bad: tuple[int, bytes]) -> None:
    store.grow(ZONE_SIZE)
    before = bytes(store.mem)
    for runs in ([bad], [(BASE, b"fine"), bad]):
        with pytest.raises(ValueError, match="placing"):
            store.place(runs)
    assert store.mem == before


LENGTHS = st.one_of(st.integers(1, 50), st.integers(1, 30_000), st.just(ZONE_SIZE // 64))
RUNS = st.lists(st.tuples(st.integers(0, 80_000), LENGTHS), max_size=12).map(lambda runs: _apart(runs))


def _apart(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those that don't overlap an earlier one; (offset, length) in units of 64 bytes."""
    taken: set[int] = set()
    kept = []
    for off, n in runs:
        if taken.isdisjoint(range(off, off + n)):
            taken.update(range(off, off + n))
            kept.append((off, n))
    return kept


@settings(max_examples=50, deadline=None)
@given(RUNS, st.randoms())
def test_both_ways_of_placing_give_the_same_bytes(runs: list[tuple[int, int]], rng: Any) -> None:
    stores = [StoreFile(watched(), P), StoreFile(watched(), P, placing="memcpy"), StoreFile(watched(), P, private=True)]
    expected = bytearray(4 * ZONE_SIZE)
    batch: list[tuple[int, Any]] = []
    for off, n in runs:
        data = rng.randbytes(8) * (n * 8)
        expected[BASE + off * 64 : BASE + (off + n) * 64] = data
        batch.append((BASE + off * 64, rng.choice((bytes, bytearray, memoryview))(data)))
    for store in stores:
        store.grow(4 * ZONE_SIZE)
        store.place(batch)
        assert bytes(store.mem[BASE:]) == expected[BASE:]  # views are compared item by item
        store.close()


def test_memcpy_after_growth(store: StoreFile) -> None:
    store.grow(ZONE_SIZE)
    store.place_by_memcpy([(BASE, b"a")])
    store.grow(20 * MIB)
    store.place_by_memcpy([(19 * MIB, b"b")])
    assert store.backend.pread(1, BASE) == b"a" and store.backend.pread(1, 19 * MIB) == b"b"


def test_headers(store: StoreFile) -> None:
    for at in (IDENTITY_AT, *HEADER_AT):
        store.write_header(at, b"header")
        assert store.mem[at : at + 6] == b"header"
    for at in (1, LIVE_AT, FIXED_SIZE):
        with pytest.raises(ValueError, match="no header"):
            store.write_header(at, b"header")


def test_live(store: StoreFile) -> None:
    store.live[5] = 9
    assert store.mem[LIVE_AT + 5] == 9 and len(store.live) == LIVE_SIZE
    assert StoreFile(store.backend.reopen(), P).live[5] == 9


def test_a_handle_that_may_not_write() -> None:
    fs = MemoryFilesystem()
    fs.open("f", create=True).allocate(0, FIXED_SIZE)
    store = StoreFile(fs.open("f", write=False), P)
    assert store.live.readonly


# --- syncing, reading, cutting -----------------------------------------------------------------------


def test_syncing(store: StoreFile) -> None:
    store.sync_range(5, 6)
    store.write_back(7, 8)
    store.sync_all()
    assert isinstance(store.backend, Watched)
    assert store.backend.syncs == [("range", 5, 6), ("write_back", 7, 8), ("all",)]


def test_reading_past_the_mapping(store: StoreFile) -> None:
    store.grow(ZONE_SIZE)
    store.place([(BASE, b"abc")])
    assert store.read(BASE, 3) == b"abc"
    with pytest.raises(CorruptError, match="cut short") as caught:
        store.read(ZONE_SIZE - 1, 3)
    assert caught.value.offset == ZONE_SIZE


def test_truncating(store: StoreFile) -> None:
    store.grow(8 * MIB)
    store.place([(BASE, b"x" * (4 * MIB))])
    store.verified[:] = b"\xff" * len(store.verified)
    old = store.mem
    cut = BASE + 5 * P - 1
    store.truncate(cut)
    assert store.size == len(store.mem) == store.backend.size() == BASE + 5 * P
    assert old[BASE + 4 * P] == ord("x") and not any(old[BASE + 5 * P :])
    pages = store.size // P
    assert all(store.verified[i // 8] >> i % 8 & 1 for i in range(pages))
    assert not any(store.verified[i // 8] >> i % 8 & 1 for i in range(pages, 8 * MIB // P))
    store.grow(store.size + 1)
    assert store.mem[BASE + 4 * P] == ord("x") and not any(store.mem[BASE + 5 * P :])
    store.truncate(0)
    assert store.size == FIXED_SIZE
    store.truncate(MIB)
    assert store.size == FIXED_SIZE


def test_holes(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    backend = PosixFilesystem().open(path, create=True)
    backend.truncate(4 * MIB)
    store = StoreFile(backend, P)
    store.allocate_again()
    assert os.stat(path).st_blocks * 512 >= 4 * MIB
    store.place([(MIB, b"x" * MIB)])
    assert backend.size() == 4 * MIB
    assert 0 < store.resident() <= 4 * MIB and store.resident(0, P) in (0, P)
    store.advise_random(MIB, MIB)


# --- private -----------------------------------------------------------------------------------------


def test_private_changes_stay_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "_SMALLEST_RESERVATION", ZONE_SIZE)
    fs = MemoryFilesystem()
    whole = fs.open("f", create=True)
    whole.allocate(0, FIXED_SIZE)
    whole.pwrite(b"base", 0)
    before = whole.pread(1 << 30, 0)
    store = StoreFile(fs.open("f", write=False), P, private=True)
    store.live[3] = 7
    store.write_header(HEADER_AT[0], b"mine")
    store.grow(ZONE_SIZE)
    store.place([(BASE, b"page")])
    store.grow(100 * MIB)
    store.place([(99 * MIB, b"far")])
    store.sync_all()
    store.sync_range(0, 100)
    store.write_back(0, 100)
    store.allocate_again()
    assert store.mem[:4] == b"base" and store.mem[LIVE_AT + 3] == store.live[3] == 7
    assert store.read(HEADER_AT[0], 4) == b"mine" and store.mem[BASE : BASE + 4] == b"page"
    assert store.mem[99 * MIB : 99 * MIB + 3] == b"far" and store.read(50, 5) == bytes(5)
    store.truncate(ZONE_SIZE)
    assert store.size == ZONE_SIZE and store.mem[BASE : BASE + 4] == b"page"
    assert whole.pread(1 << 30, 0) == before


# --- life --------------------------------------------------------------------------------------------


def test_adopting_another_descriptor(store: StoreFile) -> None:
    fresh = store.backend.reopen()
    old = store.backend
    store.adopt(fresh)
    old.close()
    store.grow(4 * MIB)
    store.place([(3 * MIB, b"x")])
    store.place_by_memcpy([(2 * MIB, b"y")])
    assert store.mem[3 * MIB] == ord("x") and store.mem[2 * MIB] == ord("y")
    with pytest.raises(OSError, match="another file"):
        store.adopt(watched())


def test_views_keep_no_locks(store: StoreFile) -> None:
    """A mapping keeps the open file that it was made through, and a lock lives as long as that."""
    locks, other = FileLocks(store.backend), FileLocks(store.backend.reopen())
    assert locks.try_exclusive(1 << 62)
    view = store.mem[:10]
    store.close()
    assert other.try_exclusive(1 << 62) and len(view) == 10


def test_closing(store: StoreFile) -> None:
    store.grow(ZONE_SIZE)
    store.place([(BASE, b"view")])
    view = store.mem[BASE : BASE + 4]
    store.close()
    store.close()
    assert view == b"view" and len(store.mem) == len(store.live) == 0
    with pytest.raises(ValueError, match="closed"):
        store.backend.fileno()


def test_a_placing_that_fails_halfway_is_an_error(store: StoreFile, monkeypatch: pytest.MonkeyPatch) -> None:
    store.grow(ZONE_SIZE)

    def full(self: PosixBackend, data: Any, off: int) -> None:
        raise DiskFullError(errno.ENOSPC, "full", self.name)

    monkeypatch.setattr(Watched, "pwrite", full)
    with pytest.raises(DiskFullError):
        store.place([(BASE, b"x")])
