"""Mapped memory lives as long as the views over it, grows in place, and can't be written through a view."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmstore.disk import libc
from mmstore.disk import mapping as mapping_module
from mmstore.disk.backend import Backend
from mmstore.disk.mapping import (
    FileMapping,
    SequenceMap,
    anonymous,
    map_live,
    mappings_in_use,
    tracked_view,
)
from mmstore.disk.memory import MemoryFilesystem
from mmstore.disk.posix import PosixFilesystem
from mmstore.format import FIXED_SIZE, LIVE_AT, LIVE_SIZE, ZONE_SIZE
from strikes import struck

P = 4096
MIB = 1 << 20

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def is_mapped(address: int) -> bool:
    """Whether the file is mapped at ``address`` (not merely reserved)."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if low <= address < high:
                return "---p" not in line
    return False


def patterned(pages: int) -> Backend:
    """A file whose page i is full of the byte i."""
    backend = MemoryFilesystem().open("f", create=True)
    backend.pwrite(b"".join(bytes([i % 256]) * P for i in range(pages)), 0)
    return backend


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    gc.collect()
    before = mappings_in_use()
    yield
    gc.collect()
    assert mappings_in_use() == before


# --- the file ----------------------------------------------------------------------------------------


def test_shows_the_file() -> None:
    backend = patterned(10)
    file = FileMapping(backend, 10 * P)
    assert len(file.view) == 10 * P == file.size and file.view[3 * P] == 3
    backend.pwrite(b"new", 3 * P)
    assert file.view[3 * P : 3 * P + 3] == b"new", "writes are coherent with the mapping"
    assert file.buffer(3 * P, 3) == b"new"
    assert file.address % mapping_module.ZONE_SIZE == 0


def test_read_only_all_the_way_down() -> None:
    view = FileMapping(patterned(1), P).view
    assert view.readonly and view.format == "B"
    with pytest.raises(TypeError):
        view[0] = 1
    array = np.frombuffer(view, "u1")
    for each in (array, array[5:], array.view("u2"), np.asarray(view)):
        with pytest.raises(ValueError, match="WRITEABLE"):
            each.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        FileMapping(patterned(1), P).writable_view()


def test_views_outlive_everything() -> None:
    file = FileMapping(patterned(3), 3 * P)
    address = file.address
    array = np.frombuffer(file.view, "u1")[P:]
    part = memoryview(array)[5:9]
    file.close()
    del file, array
    gc.collect()
    assert is_mapped(address) and part[0] == 1
    del part
    assert not is_mapped(address)


def test_growth_in_place() -> None:
    backend = patterned(10)
    file = FileMapping(backend, 3 * P)
    before = file.view
    assert file.extend(10 * P)
    assert file.view[9 * P] == 9 and libc.address_of(file.view) == libc.address_of(before)
    assert len(before) == 3 * P
    assert file.extend(2 * P) and file.size == 10 * P, "extending never shortens"


def test_growth_of_a_part_of_a_system_page() -> None:
    backend = patterned(4)
    file = FileMapping(backend, P + 100)
    assert file.view[P + 99] == 1
    assert file.extend(2 * P + 1) and file.view[2 * P] == 2


def test_a_reservation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_module, "_SMALLEST_RESERVATION", 1 * MIB)
    file = FileMapping(patterned(3), 3 * P)
    reserved = file.reserved
    assert MIB <= reserved < 16 * MIB
    assert not file.extend(reserved + 1)
    assert file.size == 3 * P and file.view[2 * P] == 2


def test_a_reservation_is_at_least_four_times_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryFilesystem().open("f", create=True)
    backend.truncate(5 << 30)
    assert FileMapping(backend, 5 << 30).reserved >= 20 << 30


def test_few_addresses_left(monkeypatch: pytest.MonkeyPatch) -> None:
    real = libc.map_memory

    def stingy(address: int | None, n: int, *rest: Any) -> int:
        if n > 8 * MIB:
            raise OSError(12, "no addresses")
        return real(address, n, *rest)

    monkeypatch.setattr(libc, "map_memory", stingy)
    file = FileMapping(patterned(3), 3 * P)
    assert file.view[2 * P] == 2 and file.reserved <= 8 * MIB
    backend = MemoryFilesystem().open("f", create=True)
    backend.truncate(9 * MIB)
    with pytest.raises(OSError, match="no addresses"):
        FileMapping(backend, 9 * MIB)


@pytest.mark.parametrize("edge", [2 << 30, 4 << 30])
def test_edges_of_32_bits(edge: int, tmp_path: Path) -> None:
    backend = PosixFilesystem().open(str(tmp_path / "sparse"), create=True)
    backend.truncate(edge + MIB)
    file = FileMapping(backend, MIB)
    assert file.extend(edge + MIB)
    backend.pwrite(b"across", edge - 3)
    assert file.view[edge - 3 : edge + 3] == b"across"
    assert tracked_view(file.buffer(edge - 1, 3), None) == b"oss"[:0] + b"ros"
    sequence = SequenceMap(backend, P, [(edge // P - 1, 2), (0, 1)])
    assert sequence.view(3 * P)[P - 3 : P + 3] == b"across"
    file.advise(edge - P, 2 * P, libc.ADVICE_RANDOM)


def test_what_is_cut_off_reads_as_zero_and_never_faults() -> None:
    backend = patterned(8)
    file = FileMapping(backend, 8 * P)
    old = file.view
    file.cut(3 * P)
    backend.truncate(3 * P)
    assert len(file.view) == 3 * P
    assert old[2 * P] == 2 and old[3 * P :] == bytes(5 * P)
    file.cut(4 * P)
    assert file.size == 3 * P
    backend.allocate(0, 6 * P)
    backend.pwrite(b"again", 5 * P)
    assert file.extend(6 * P) and file.view[5 * P : 5 * P + 5] == b"again"


def test_writable() -> None:
    backend = patterned(2)
    file = FileMapping(backend, 2 * P, writable=True)
    file.writable_view()[P : P + 5] = b"hello"
    assert backend.pread(5, P) == b"hello" and file.view.readonly


def test_private() -> None:
    backend = patterned(4)
    file = FileMapping(backend, 4 * P, private=True)
    file.writable_view()[P : P + 5] = b"hello"
    assert file.extend(100 * P)
    file.writable_view()[99 * P] = 7
    assert file.extend(101 * P)
    assert file.view[P : P + 5] == b"hello" and file.view[3 * P] == 3 and file.view[99 * P] == 7
    assert backend.pread(5, P) == b"\1" * 5 and backend.size() == 4 * P


def test_private_behind_a_file_that_ends_within_a_page() -> None:
    backend = MemoryFilesystem().open("f", create=True)
    backend.pwrite(b"x" * (P + 10), 0)
    file = FileMapping(backend, 3 * P, private=True)
    assert file.view[: 3 * P] == b"x" * (P + 10) + bytes(2 * P - 10)


def test_resident(tmp_path: Path) -> None:
    backend = PosixFilesystem().open(str(tmp_path / "f"), create=True)
    backend.pwrite(bytes(64 * P), 0)
    file = FileMapping(backend, 64 * P)
    assert file.resident(0, 64 * P) == 64 * P
    assert file.resident(P, 1) == P and file.resident(64 * P, P) == 0
    backend.sync_all()
    os.posix_fadvise(backend.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert file.resident(0, 64 * P) < 64 * P
    file.advise(0, 64 * P, libc.ADVICE_WILLNEED)
    file.advise(64 * P, P, libc.ADVICE_RANDOM)


# --- the live page -----------------------------------------------------------------------------------


def test_live_is_shared() -> None:
    backend = MemoryFilesystem().open("f", create=True)
    backend.allocate(0, FIXED_SIZE)
    here, there = map_live(backend), map_live(backend.reopen())
    here[LIVE_SIZE - 1] = 9
    assert there[LIVE_SIZE - 1] == 9 and len(here) == LIVE_SIZE
    assert FileMapping(backend, FIXED_SIZE).view[LIVE_AT + LIVE_SIZE - 1] == 9
    child = os.fork()
    if child == 0:
        here[0] = 5
        os._exit(0)
    os.waitpid(child, 0)
    assert there[0] == 5


def test_live_of_a_file_that_may_not_be_written() -> None:
    fs = MemoryFilesystem()
    fs.open("f", create=True).allocate(0, FIXED_SIZE)
    assert map_live(fs.open("f", write=False)).readonly


def test_anonymous() -> None:
    view = anonymous(10)
    assert len(view) == 10 and bytes(view) == bytes(10) and not view.readonly
    assert len(anonymous(0)) == 0


# --- tracking ----------------------------------------------------------------------------------------


def test_tracked_view() -> None:
    released: deque[str] = deque()
    file = FileMapping(patterned(3), 3 * P)
    view = tracked_view(file.buffer(P, P), lambda: released.append("a"))
    assert view.readonly and view == bytes([1]) * P
    array = np.frombuffer(view, "u4")
    part = array[10:20].reshape(2, 5)
    file.close()
    del view, array, file
    assert not released and part[1, 4] == 0x01010101
    cycle: list[Any] = [part]
    cycle.append(cycle)
    del part, cycle
    assert not released
    gc.collect()
    assert list(released) == ["a"]


def test_tracked_views_of_bytes_and_of_nothing() -> None:
    released: deque[str] = deque()
    view = tracked_view(memoryview(b"abc"), lambda: released.append("a"))
    assert view == b"abc"
    empty = tracked_view(memoryview(b""), lambda: released.append("b"))
    assert len(empty) == 0
    del empty, view
    assert list(released) == ["b", "a"]


# --- sequences ---------------------------------------------------------------------------------------


RUNS = [(3, 1), (9, 4), (1, 2), (4, 1)]
CONTENT = b"".join(bytes([i]) * P for i in (3, 9, 10, 11, 12, 1, 2, 4))


def test_runs_side_by_side() -> None:
    sequence = SequenceMap(patterned(20), P, RUNS[:2])
    first = sequence.view(5 * P)
    assert first == CONTENT[: 5 * P] and first.readonly and not sequence.copied
    sequence.extend(RUNS[2:])
    sequence.extend([])
    second = sequence.view(8 * P - 7)
    assert second == CONTENT[:-7] and first == CONTENT[: 5 * P]
    assert libc.address_of(first) == libc.address_of(second), "growth keeps the address"
    with pytest.raises(ValueError, match="9 bytes over runs of"):
        SequenceMap(patterned(1), P).view(9)
    with pytest.raises(ValueError, match="WRITEABLE"):
        np.frombuffer(second, "u1").flags.writeable = True


def test_neighbours_take_one_mapping() -> None:
    before = mappings_in_use()
    sequence = SequenceMap(patterned(20), P, [(3, 1), (4, 2), (6, 1), (1, 1)])
    assert mappings_in_use() == before + 3
    sequence.extend([(2, 1), (3, 1)])
    assert mappings_in_use() == before + 4
    assert [sequence.view(7 * P)[i * P] for i in range(7)] == [3, 4, 5, 6, 1, 2, 3]


def test_whole_zones_lie_in_zones_of_memory_as_they_do_in_the_file() -> None:
    """Else no fault could map a large folio whole."""
    zone = ZONE_SIZE // P
    backend = MemoryFilesystem().open("f", create=True)
    backend.truncate(8 * ZONE_SIZE)
    for small in ([(1, 3)], [(1, 3), (20, 16)], []):
        runs = [*small, (2 * zone, 2 * zone), (5 * zone, zone)]
        sequence = SequenceMap(backend, P, runs)
        at = libc.address_of(sequence.view(sequence.size)) + sum(pages for _, pages in small) * P
        assert at % ZONE_SIZE == 0, "of each whole zone then"
        sequence.extend([(6 * zone, zone)])
        assert libc.address_of(sequence.view(sequence.size)) + sum(pages for _, pages in small) * P == at
    part = SequenceMap(backend, P, [(4 * zone + 16, 32), (1, 1)])  # a piece of a zone: where in it as in the file
    assert libc.address_of(part.view(P)) % ZONE_SIZE == 16 * P


def test_an_empty_sequence() -> None:
    released: deque[int] = deque()
    view = SequenceMap(patterned(1), P).view(0, lambda: released.append(1))
    assert len(view) == 0
    del view
    assert list(released) == [1]


def test_sequence_views_see_appends_behind_them() -> None:
    backend = patterned(20)
    sequence = SequenceMap(backend, P, RUNS)
    view = sequence.view(100)
    backend.pwrite(b"more", 3 * P + 100)
    assert sequence.view(104)[100:] == b"more" and len(view) == 100


def test_a_sequence_is_unmapped_with_its_last_view() -> None:
    released: deque[str] = deque()
    before = mappings_in_use()
    sequence = SequenceMap(patterned(20), P, RUNS)
    assert mappings_in_use() == before + len(RUNS) + 1
    views = [sequence.view(8 * P, lambda i=i: released.append(i)) for i in range(3)]  # type: ignore[misc]
    address = libc.address_of(views[0])
    sequence.close()
    assert sequence.size == 0
    last = np.frombuffer(views.pop(), "u1")
    views.clear()
    gc.collect()
    assert sorted(released) == [0, 1] and is_mapped(address) and bytes(last) == CONTENT
    del last
    assert sorted(released) == [0, 1, 2] and not is_mapped(address) and mappings_in_use() == before


def test_a_sequence_outgrows_its_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_module, "_SEQUENCE_RESERVATION", P)
    backend = patterned(20)
    sequence = SequenceMap(backend, P, RUNS[:1])
    old = sequence.view(P)
    room = sequence._exporter.mapped // P  # type: ignore[union-attr]
    backend.truncate(4 * room * P)
    sequence.extend(RUNS[1:])
    sequence.extend([(0, 3 * room)])
    new = sequence.view(sequence.size)
    assert new[: 8 * P] == CONTENT and old == CONTENT[:P] and new[9 * P] == 1
    assert libc.address_of(old) != libc.address_of(new)


@pytest.mark.parametrize("why", ["budget", "system page", "no mappings", "no addresses"])
def test_where_mapping_is_impossible_views_are_copies(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = libc.map_memory

    def refuse(address: int | None, n: int, protection: int, flags: int, *rest: Any) -> int:
        if flags & libc.MAP_FIXED if why == "no mappings" else protection == libc.PROT_NONE:
            raise OSError(12, "no memory")
        return real(address, n, protection, flags, *rest)

    backend = patterned(20)
    if why == "budget":
        monkeypatch.setattr(mapping_module, "BUDGET", mappings_in_use() + 3)
    elif why == "system page":
        monkeypatch.setattr(libc, "PAGE", 4 * P)
    else:
        monkeypatch.setattr(libc, "map_memory", refuse)
    released: deque[int] = deque()
    sequence = SequenceMap(backend, P, RUNS)
    assert sequence.copied
    view = sequence.view(8 * P - 1, lambda: released.append(1))
    assert view == CONTENT[:-1] and view.readonly and libc.address_of(view) % 64 == 0
    backend.pwrite(b"new", 3 * P)
    assert view == CONTENT[:-1] and sequence.view(3) == b"new"
    del view
    assert list(released) == [1]


def test_a_sequence_that_runs_out_of_budget_keeps_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = SequenceMap(patterned(20), P, RUNS[:2])
    view = sequence.view(5 * P)
    monkeypatch.setattr(mapping_module, "BUDGET", mappings_in_use() + 1)
    sequence.extend(RUNS[2:])
    assert sequence.copied and sequence.view(8 * P) == CONTENT and view == CONTENT[: 5 * P]


def test_what_was_struck_while_it_grew_grows_again() -> None:
    backend = MemoryFilesystem().open("f", create=True)
    backend.allocate(0, 8 * P)
    at, again = 0, True
    while again:
        mapping = FileMapping(backend, P)
        again = struck(lambda: mapping.extend(4 * P), mapping_module, at)  # noqa: B023
        at += 1
        assert mapping.extend(4 * P) and mapping.size == 4 * P == len(mapping.view)
        mapping.close()
    assert at > 3
