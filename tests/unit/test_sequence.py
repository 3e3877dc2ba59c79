"""Sequences: growth, I1, checksums, and hostile bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from columnspace import ColumnFile, pages_of
from mmstore import format as fmt
from mmstore.columns import sequence
from mmstore.columns.extents import Extent, Runs
from mmstore.columns.sequence import EMPTY, Sequence
from mmstore.errors import CorruptError, FormatError

KIB = 1 << 10


def grown(file: ColumnFile, *pieces: bytes) -> Sequence:
    state = EMPTY
    for piece in pieces:
        state = sequence.append(state, piece, file.space())
    return state


def noise(n: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(n)


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("sizes", [[1], [64 * KIB], [64 * KIB - 1, 1, 1], [100] * 50, [300_000, 7, 2_500_000, 65536]])
def test_appended_bytes_are_read_back(page_size: int, sizes: list[int]) -> None:
    file = ColumnFile(page_size)
    pieces = [noise(size, seed) for seed, size in enumerate(sizes)]
    state, whole = grown(file, *pieces), b"".join(pieces)
    assert sequence.read(state, file.space(), 0, len(whole)) == whole
    start, stop = len(whole) // 3, len(whole) // 2
    assert sequence.read(state, file.space(), start, stop) == whole[start:stop]
    assert list(sequence.verify(state, file.space())) == []
    assert state.length == state.high == len(whole)
    assert file.largest_write <= 1 << 20


def test_checksums_are_those_of_whole_blocks_however_the_bytes_came() -> None:
    data = noise(200_000)
    file = ColumnFile()
    one, many = grown(file, data), grown(file, *[data[at : at + 777] for at in range(0, len(data), 777)])
    space = file.space()
    sums = [sequence.block_checksum(data[at : at + 65536], block) for block, at in enumerate(range(0, 200_000, 65536))]
    for state in (one, many):
        stored = b"".join(file.read(run.start * 4096, 24) for run in state.sums_runs[:1])
        assert [*struct.unpack("<3Q", stored), state.tail_checksum] == sums
        assert not list(sequence.verify(state, space))


def test_zones_that_are_filled_piece_by_piece_are_begun_once() -> None:
    """Before their first bytes, and only where a run has the whole zone and nothing in it yet."""
    file = ColumnFile()
    zone = fmt.ZONE_SIZE
    state, whole = EMPTY, b""
    for seed in range(40):
        piece = noise(800_000 + seed, seed)
        state, whole = sequence.append(state, piece, file.space()), whole + piece
    assert sequence.read(state, file.space(), 0, len(whole)) == whole
    runs = [run for run in state.runs if run.pages * 4096 >= zone]
    begun = [at for run in runs for at in range(run.start * 4096, (run.start + run.pages) * 4096, zone)]
    assert len(runs) > 2 and file.zones == begun[: len(file.zones)] and len(begun) - len(file.zones) <= 1 + len(runs)
    seen = len(file.zones)
    state = sequence.append(state, noise(512 * KIB), file.space())  # what is small begins none
    assert len(file.zones) == seen
    one = sequence.append(EMPTY, noise(4 * zone), file.space())  # what fills it, neither
    assert len(file.zones) == seen and one.length == 4 * zone


@pytest.mark.parametrize("seed", range(8))
def test_beginning_a_zone_touches_no_byte_that_was_shown(seed: int) -> None:
    """What earlier states show stays, through appends of all sizes, cuts, and appends that were given up (I1)."""
    rng, file = random.Random(seed), ColumnFile()
    kept = [(EMPTY, b"")]
    for step in range(30):
        state, data = kept[-1]
        file.txn += 1
        what = rng.random()
        if what < 0.15 and len(data) > 3 << 20:
            n = rng.randrange(1 << 20, len(data))
            kept.append((sequence.truncate(state, n, file.space()), data[:n]))
            continue
        piece = noise(rng.choice([100, 70_000, 700_000, 1_100_000, 3_000_000]) + step, step)
        taken = file.taken.copy()
        grown = sequence.append(state, piece, file.space())
        if what < 0.8:
            kept.append((grown, data + piece))
        else:
            file.taken = taken  # its transaction is rolled back
    assert file.zones
    for state, data in kept:
        assert sequence.read(state, file.space(), 0, len(data)) == data


def test_runs_double_to_64_kib_then_grow_by_a_quarter() -> None:
    file = ColumnFile(gap=16)
    state, sizes = EMPTY, []
    while state.length < 4 << 20:
        state = sequence.append(state, bytes(4096), file.space())
    sizes = [run.pages for run in state.runs]
    assert sizes[:5] == [1, 1, 2, 4, 8]
    total = 16
    for pages in sizes[5:]:
        assert pages == -(-(total // 4) // 16) * 16
        total += pages
    assert all(run.start % 16 == 0 for run in state.runs[5:])


def test_neighbouring_runs_are_joined_once_a_root_knows_them() -> None:
    file = ColumnFile(gap=0)
    state = EMPTY
    for _ in range(40):
        state = sequence.append(state, noise(4096), file.space())
    apart = len(state.runs)
    assert all(run.born == 1 for run in state.runs)
    file.txn = 2
    while all(run.born == 1 for run in state.runs):
        state = sequence.append(state, noise(40_000), file.space())
    assert len(state.runs) == 3 < apart  # the checksums' page lies between the first two
    assert [run.born for run in state.runs] == [1, 1, 2]
    assert not list(sequence.verify(state, file.space()))


def test_appends_write_behind_the_committed_length_in_place() -> None:
    file = ColumnFile()
    state = grown(file, b"a" * 100)
    file.writes.clear()
    longer = sequence.append(state, b"b" * 100, file.space())
    assert longer.runs == state.runs and file.writes == [(state.runs[0].start * 4096 + 100, 100)]
    # The first append is rolled back; what it wrote is garbage that the next one covers.
    other = sequence.append(state, b"c" * 50, file.space())
    assert sequence.read(other, file.space(), 0, 150) == b"a" * 100 + b"c" * 50
    assert sequence.read(state, file.space(), 0, 100) == b"a" * 100


def test_nothing_appended_changes_nothing() -> None:
    file = ColumnFile()
    assert sequence.append(EMPTY, b"", file.space()) is EMPTY
    assert not list(sequence.verify(EMPTY, file.space())) and sequence.read(EMPTY, file.space(), 0, 0) == b""


@pytest.mark.parametrize("keep", [1, 100, 4096, 5000, 65535, 65536, 65537, 70_000, 131_072, 199_999])
def test_after_truncation_the_next_append_leaves_older_roots_alone(keep: int) -> None:
    file = ColumnFile()
    data, more = noise(200_000), noise(150_000, 1)
    before = grown(file, data)
    file.txn = 2
    short = sequence.truncate(before, keep, file.space())
    assert sequence.read(short, file.space(), 0, keep) == data[:keep] and not list(sequence.verify(short, file.space()))
    file.txn = 3
    after = sequence.append(short, more, file.space())
    for state, expected in ((before, data), (short, data[:keep]), (after, data[:keep] + more)):
        assert sequence.read(state, file.space(), 0, state.length) == expected
        assert not list(sequence.verify(state, file.space()))
    assert after.high == after.length
    assert set(pages_of(after)) == file.taken


def test_truncation_to_nothing_and_free_give_every_page_back() -> None:
    file = ColumnFile()
    state = grown(file, noise(300_000))
    assert sequence.truncate(state, state.length, file.space()) is state
    assert sequence.truncate(state, 0, file.space()) == EMPTY and not file.taken
    file = ColumnFile()
    state = grown(file, noise(300_000))
    assert set(pages_of(state)) == file.taken
    sequence.free(state, file.space())
    assert not file.taken and file.freed == [*state.runs, *state.sums_runs]


@pytest.mark.parametrize("at", [0, 65535, 65536, 140_000, 199_999])
def test_damage_is_found(at: int) -> None:
    file = ColumnFile()
    state = grown(file, noise(200_000))
    page = list(pages_of(state))[at // 4096]
    file.flip(page * 4096 + at % 4096)
    (error,) = sequence.verify(state, file.space())
    assert error.offset is not None and error.page is not None and "checksum" in str(error)
    assert bool(list(sequence.verify(state, file.space(), 1))) == (at >= 65536)


def test_damage_in_the_checksums_is_found() -> None:
    file = ColumnFile()
    state = grown(file, noise(200_000))
    file.flip(state.sums_runs[0].start * 4096 + 8)
    assert len(list(sequence.verify(state, file.space()))) == 1


def test_a_damaged_tail_is_not_sealed_under_a_new_checksum() -> None:
    file = ColumnFile()
    state = grown(file, noise(100))
    file.flip(state.runs[0].start * 4096 + 50)
    with pytest.raises(CorruptError):
        sequence.append(state, b"more", file.space())
    with pytest.raises(CorruptError):
        sequence.truncate(state, 10, file.space())


def test_a_file_that_was_cut_off_is_corrupt() -> None:
    file = ColumnFile()
    state = grown(file, noise(200_000))
    file.backend.truncate(state.runs[-1].start * 4096)
    with pytest.raises(CorruptError):
        sequence.read(state, file.space(), 0, state.length)
    assert list(sequence.verify(state, file.space()))
    file.backend.truncate(0)
    assert len(list(sequence.verify(state, file.space()))) == 1


def test_pack_and_unpack() -> None:
    file = ColumnFile()
    state = grown(file, noise(300_000))
    state = sequence.truncate(state, 200_000, file.space())
    data = b"front" + state.pack() + b"behind"
    assert sequence.unpack(data, 5, 4096, file.pages) == (state, len(data) - 6)
    assert sequence.unpack(EMPTY.pack(), 0, 4096, 64) == (EMPTY, fmt.SEQUENCE.size)


def forged(state: Sequence, **fields: int) -> bytes:
    data = bytearray(state.pack())
    values = fmt.SEQUENCE.unpack(data) | fields
    return fmt.SEQUENCE.pack(values) + bytes(data[fmt.SEQUENCE.size :])


def made(length: int, *runs: Extent) -> Sequence:
    return Sequence(length, length, 7, Runs.of(runs), Runs.of(()))


BASE = Sequence(70_000, 70_000, 7, Runs.of((Extent(64, 16, 1), Extent(80, 2, 1))), Runs.of((Extent(99, 1, 1),)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BASE.pack()[:-1],
        lambda: BASE.pack()[:39],
        lambda: b"",
        lambda: forged(BASE, runs=1 << 31),
        lambda: forged(BASE, sums_runs=0xFFFFFFFF, runs=0xFFFFFFFF),
        lambda: forged(BASE, length=1 << 63, high=1 << 63),
        lambda: forged(BASE, high=69_999),
        lambda: forged(BASE, length=80_000, high=80_000),
        lambda: made(70_000, *BASE.runs).pack(),
        lambda: made(1, Extent(63, 1, 1)).pack(),
        lambda: made(1, Extent(0, 1, 1)).pack(),
        lambda: made(1, Extent(100, 1, 1)).pack(),
        lambda: made(1, Extent(64, 0, 1), Extent(65, 1, 1)).pack(),
        lambda: made(1, Extent(64, 0xFFFFFFFF, 1)).pack(),
        lambda: made(0, *[Extent(64, 30, 1)] * 4).pack(),
        lambda: forged(BASE, bits=8),
        lambda: forged(BASE, bits=255, last=255),
        lambda: forged(BASE, last=1),
        lambda: forged(BASE, bits=1, high=70_001),
        lambda: forged(BASE, bits=3, last=8),
        lambda: forged(BASE, bits=1, last=0, length=73_728, high=73_728),
    ],
)
def test_hostile_bytes_are_corrupt(make: Callable[[], bytes]) -> None:
    assert sequence.unpack(BASE.pack(), 0, 4096, 100)[0] == BASE
    with pytest.raises(CorruptError):
        sequence.unpack(make(), 0, 4096, 100)


@pytest.mark.parametrize("field", ["reserved", "reserved2"])
def test_a_newer_kind_of_sequence_is_refused(field: str) -> None:
    with pytest.raises(FormatError):
        sequence.unpack(forged(BASE, **{field: 1}), 0, 4096, 100)
