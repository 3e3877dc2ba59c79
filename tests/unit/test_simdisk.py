"""The simulated disk keeps what was synced, loses what wasn't at random, and dies when told to."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from mmstore.disk.backend import Backend, Filesystem
from mmstore.disk.locks import FileLocks
from mmstore.disk.mapping import FileMapping, map_live
from mmstore.errors import DiskFullError
from mmstore.format import FIXED_SIZE, LIVE_AT, MAGIC, SECTOR
from simdisk import SimBackend, SimCrash, SimFilesystem

A, B, C = b"a" * SECTOR, b"b" * SECTOR, b"c" * SECTOR


def made(fs: SimFilesystem, data: bytes = A + A + A + A, name: str = "/f") -> SimBackend:
    """A durable file."""
    backend = fs.open(name, create=True)
    backend.pwrite(data, 0)
    backend.sync_all()
    fs.sync_dir(name)
    return backend


def contents(fs: SimFilesystem, name: str = "/f", images: int = 60) -> set[bytes | None]:
    """What power cuts now may leave of the file; None: no such name."""
    found: set[bytes | None] = set()
    for image in fs.crash_images(random.Random(1), images):
        found.add(image.open(name).pread(1 << 20, 0) if image.exists(name) else None)
    return found


def test_it_is_a_backend() -> None:
    fs: Filesystem = SimFilesystem()
    backend: Backend = fs.open("/f", create=True)
    assert backend.size() == 0


def test_synced_bytes_stay() -> None:
    fs = SimFilesystem()
    made(fs)
    assert contents(fs) == {A * 4}


def test_unsynced_sectors_are_lost_in_any_subset() -> None:
    fs = SimFilesystem()
    made(fs).pwrite(B + B, SECTOR)
    assert {A * 4, A + B + B + A, A + B + A + A, A + A + B + A} <= contents(fs, images=300)


def test_the_first_image_lost_all_and_the_second_nothing() -> None:
    fs = SimFilesystem()
    backend = made(fs)
    backend.pwrite(B * 8, 0)
    none, everything = fs.crash_images(random.Random(0), 2)
    assert none.open("/f").pread(9999, 0) == A * 4
    assert everything.open("/f").pread(9999, 0) == B * 8


def test_versions_between_syncs_may_surface() -> None:
    fs = SimFilesystem()
    backend = made(fs, A)
    backend.pwrite(B, 0)
    backend.pwrite(C, 0)
    assert {A, B, C} <= contents(fs, images=200)


def test_sectors_tear() -> None:
    fs = SimFilesystem()
    made(fs, A).pwrite(B, 0)
    torn = contents(fs, images=300) - {A, B}
    assert torn
    for data in torn:
        assert data is not None and data.lstrip(b"a").strip(b"b") == b""


@pytest.mark.parametrize(
    "sync",
    [SimBackend.sync_all, SimBackend.sync_data, lambda b: b.sync_range(0, 4 * SECTOR)],
    ids=["all", "data", "range"],
)
def test_every_sync_makes_bytes_durable(sync: Callable[[SimBackend], None]) -> None:
    fs = SimFilesystem()
    backend = made(fs)
    backend.pwrite(B, SECTOR)
    sync(backend)
    assert contents(fs) == {A + B + A + A}


def test_a_range_sync_is_no_more_than_that() -> None:
    fs = SimFilesystem()
    backend = made(fs)
    backend.pwrite(B + B, 0)
    backend.sync_range(0, 1)
    assert {B + A + A + A, B + B + A + A} <= contents(fs)
    assert A * 4 not in contents(fs)


def test_write_back_promises_nothing() -> None:
    fs = SimFilesystem()
    backend = made(fs, A)
    backend.pwrite(B, 0)
    backend.write_back(0, SECTOR)
    assert A in contents(fs)


def test_a_size_is_durable_after_sync_all_only() -> None:
    fs = SimFilesystem()
    backend = made(fs, A)
    backend.pwrite(B, SECTOR)
    backend.sync_data()
    assert contents(fs) == {A, A + B}
    backend.sync_all()
    assert contents(fs) == {A + B}
    backend.allocate(0, 4 * SECTOR)
    assert contents(fs) == {A + B, A + B + bytes(2 * SECTOR)}
    backend.sync_all()
    backend.truncate(SECTOR)
    assert contents(fs) == {A, A + B + bytes(2 * SECTOR)}


def test_names_are_durable_after_sync_dir_only() -> None:
    fs = SimFilesystem()
    backend = fs.open("/d/new", create=True, exclusive=True)
    backend.pwrite(A, 0)
    backend.sync_all()
    assert contents(fs, "/d/new") == {None, A}
    fs.sync_dir("/e/other")
    assert contents(fs, "/d/new") == {None, A}
    fs.sync_dir("/d/new")
    assert contents(fs, "/d/new") == {A}
    fs.rename("/d/new", "/d/f")
    for image in fs.crash_images(random.Random(1), 20):
        assert image.exists("/d/f") != image.exists("/d/new"), "a rename happens whole or not"
    fs.sync_dir("/d/f")
    fs.unlink("/d/f")
    assert contents(fs, "/d/f") == {None, A}
    assert backend.pread(SECTOR, 0) == A, "an unlinked file lives as long as it is open"


def test_the_live_page_is_never_safe() -> None:
    fs = SimFilesystem()
    backend = made(fs, MAGIC + bytes(FIXED_SIZE - len(MAGIC)))
    live = map_live(backend)
    live[0] = 7
    firsts = {image.open("/f").pread(1, LIVE_AT) for image in fs.crash_images(random.Random(1), 30)}
    assert firsts == {b"\0", b"\7"}


def test_a_crash_at_every_step() -> None:
    def run(fs: SimFilesystem) -> None:
        backend = made(fs, A)
        backend.pwrite(B, 0)
        backend.sync_all()
        fs.rename("/f", "/g")
        fs.sync_dir("/g")

    fs = SimFilesystem()
    run(fs)
    assert [operation for operation, _ in fs.trace] == [
        *("create", "pwrite", "sync_all", "sync_dir", "pwrite", "sync_all", "rename", "sync_dir")
    ]
    assert fs.steps == 8 and fs.counts["bytes written"] == 2 * SECTOR
    for k in range(fs.steps):
        fs = SimFilesystem()
        fs.crash_at = k
        with pytest.raises(SimCrash):
            run(fs)
        assert fs.steps == k and fs.frozen
        for image in fs.crash_images(random.Random(k), 10):
            names = [name for name in ("/f", "/g") if image.exists(name)]
            assert len(names) == 1 or k <= 3
            for name in names:
                data = image.open(name).pread(9999, 0)
                assert k < 4 or len(data) == SECTOR
                assert k < 6 or data == B
                assert k != 4 or data == A


def test_a_dead_process_does_nothing_more() -> None:
    fs = SimFilesystem()
    backend = made(fs, A)
    fs.crash_at = fs.steps
    with pytest.raises(SimCrash):
        backend.pwrite(B, 0)
    again: list[Callable[[], object]] = [
        lambda: backend.pwrite(B, 0),
        lambda: backend.pread(1, 0),
        lambda: backend.size(),
        lambda: backend.sync_all(),
        lambda: backend.reopen(),
        lambda: fs.open("/f"),
        lambda: fs.unlink("/f"),
        lambda: fs.exists("/f"),
    ]
    for call in again:
        with pytest.raises(SimCrash):
            call()
    assert contents(fs) == {A}
    backend.close()


def test_a_torn_write() -> None:
    found = set()
    for seed in range(200):
        fs = SimFilesystem()
        backend = made(fs, A + A)
        fs.crash_at, fs.torn = fs.steps, random.Random(seed)
        with pytest.raises(SimCrash):
            backend.pwrite(B + B, 0)
        _, everything = fs.crash_images(random.Random(0), 2)
        data = everything.open("/f").pread(9999, 0)
        assert data == data[: data.count(b"b")].replace(b"a", b"?") + b"a" * data.count(b"a"), "a prefix was written"
        found.add(data.count(b"b"))
    assert len(found) > 20


def test_two_processes() -> None:
    fs = SimFilesystem()
    mine = made(fs, A)
    other = fs.spawn()
    theirs = other.open("/f")
    locks = FileLocks(mine)
    assert FileLocks(theirs).try_exclusive(5)
    assert not locks.try_exclusive(5)
    theirs.pwrite(B, 0)
    other.kill()
    with pytest.raises(SimCrash):
        theirs.pwrite(C, 0)
    assert locks.try_exclusive(5), "its locks died with it"
    assert mine.pread(SECTOR, 0) == B, "what it wrote stays"
    assert contents(fs) >= {A, B}, "and is no more durable for that"


def test_mappings_see_writes() -> None:
    fs = SimFilesystem()
    backend = made(fs, A * 8)
    view = FileMapping(backend, 8 * SECTOR).view
    backend.reopen().pwrite(B, SECTOR)
    assert view[SECTOR : 2 * SECTOR] == B


def test_a_full_disk() -> None:
    fs = SimFilesystem()
    backend = made(fs, A)
    fs.disk.capacity = 2 * SECTOR
    with pytest.raises(DiskFullError):
        backend.allocate(0, 3 * SECTOR)
    with pytest.raises(DiskFullError):
        backend.pwrite(A + A, SECTOR)
    backend.pwrite(B, SECTOR)
    assert backend.pread(9999, 0) == A + B


def test_the_hook_can_fail_any_step() -> None:
    fs = SimFilesystem()
    backend = made(fs, A)

    def fail(operation: str, name: str, off: int, n: int) -> None:
        if operation.startswith("sync"):
            raise OSError(5, "the medium failed", name)

    fs.hook = fail
    backend.pwrite(B, 0)
    with pytest.raises(OSError, match="medium"):
        backend.sync_data()
    fs.hook = None
    assert contents(fs) >= {A, B}


def test_images_of_images() -> None:
    fs = SimFilesystem()
    made(fs, A).pwrite(B, 0)
    for image in fs.crash_images(random.Random(3), 8):
        backend = image.open("/f")
        before = backend.pread(9999, 0)
        backend.pwrite(C, SECTOR)
        assert contents(image) >= {before, before + C}
        assert image.steps == 1
