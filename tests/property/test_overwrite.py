"""Rows changed in the middle of a sequence, against a bytearray; whoever holds an older state sees its bytes (I1)."""

from __future__ import annotations

import random
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from columnspace import ColumnFile, pages_of
from mmstore import format as fmt
from mmstore.columns import overwrite, sequence
from mmstore.columns.overwrite import scatter
from mmstore.columns.sequence import EMPTY, Sequence
from mmstore.errors import CorruptError, DiskFullError

ITEMS = st.sampled_from([1, 2, 3, 7, 8, 12, 100, 4096, 30_000, 65_536, 65_537, 150_001, 300_000])
STEP = st.tuples(
    st.sampled_from(["scatter", "scatter", "scatter", "append", "commit", "savepoint", "roll back", "truncate"]),
    st.integers(0, 1 << 30),
)


def changed(
    state: Sequence, item: int, rows: list[int], rng: random.Random, file: ColumnFile
) -> tuple[Sequence, bytes]:
    """(the sequence with noise at `rows`, that noise)."""
    noise = rng.randbytes(item * len(rows))
    values = np.frombuffer(noise, np.uint8).reshape(len(rows), item)
    return scatter(state, item, np.array(rows, np.int64), values, file.space()), noise


def put(content: bytes, item: int, rows: list[int], noise: bytes) -> bytes:
    found = bytearray(content)
    for number, row in enumerate(rows):
        found[row * item : (row + 1) * item] = noise[number * item : (number + 1) * item]
    return bytes(found)


def some(rng: random.Random, total: int) -> list[int]:
    """A few rows, a few neighbours, or many."""
    n = rng.choice([1, 1, 2, 5, 50, total])
    if rng.random() < 0.5:
        start = rng.randrange(total)
        return list(range(start, min(start + n, total)))
    return sorted(rng.sample(range(total), min(n, total)))


@settings(max_examples=60, deadline=None)
@given(
    ITEMS,
    st.integers(1, 450_000),
    st.lists(STEP, min_size=1, max_size=8),
    st.sampled_from([4096, 16384, 65536]),
    st.sampled_from([1024, 3, 1]),
)
def test_rows_change_and_older_states_do_not(
    item: int, size: int, steps: list[tuple[str, int]], page_size: int, pieces: int
) -> None:
    file = ColumnFile(page_size)
    total = max(1, size // item)
    content = random.Random(size).randbytes(total * item)
    state = sequence.append(EMPTY, content, file.space())
    held = [(state, content)]  # what a root, or a savepoint, shows
    begun, roots, taken, freed = (state, content), 1, set(file.taken), len(file.freed)
    file.txn += 1
    with mock.patch.object(overwrite, "_PIECES", pieces):
        for action, seed in steps:
            rng = random.Random(seed)
            total = len(content) // item
            if action == "scatter" and total:
                rows = some(rng, total)
                state, noise = changed(state, item, rows, rng, file)
                content = put(content, item, rows, noise)
            elif action == "append":
                more = rng.randbytes(item * rng.choice([1, 3, max(1, 100_000 // item)]))
                state, content = sequence.append(state, more, file.space()), content + more
            elif action == "truncate" and total:
                keep = rng.randrange(total + 1) * item
                state, content = sequence.truncate(state, keep, file.space()), content[:keep]
            elif action == "savepoint":
                file.savepoints = True
                held.append((state, content))
            elif action == "commit":
                held.append((state, content))
                begun, roots, taken, freed = (state, content), len(held), set(file.taken), len(file.freed)
                assert set(pages_of(state)) <= file.taken
                file.savepoints = False
                file.txn += 1
            elif action == "roll back":
                (state, content), file.taken, file.freed = begun, set(taken), file.freed[:freed]
                del held[roots:]
                file.savepoints = False
            assert state.length == len(content)
            assert sequence.unpack(state.pack(), 0, page_size, file.pages)[0] == state
            for known, shown in [*held, (state, content)]:
                assert sequence.read(known, file.space(), 0, known.length) == shown
                assert not list(sequence.verify(known, file.space()))


def test_a_row_may_lie_in_many_pieces() -> None:
    """Images, matrices: a row of an array is often larger than 64 KiB."""
    file, rng, item = ColumnFile(), random.Random(0), 5 * fmt.BLOCK_SIZE + 17
    content = rng.randbytes(4 * item)
    state = sequence.append(EMPTY, content, file.space())
    file.txn += 1
    for rows in ([0], [1, 3], [0, 1, 2, 3]):
        state, noise = changed(state, item, rows, rng, file)
        content = put(content, item, rows, noise)
        assert sequence.read(state, file.space(), 0, len(content)) == content
        assert not list(sequence.verify(state, file.space()))


def test_only_pages_of_the_transaction_are_written_over_and_never_with_a_savepoint() -> None:
    file, rng = ColumnFile(), random.Random(0)
    state = sequence.append(EMPTY, rng.randbytes(300_000), file.space())
    committed = set(pages_of(state))
    file.txn += 1

    def writes(state: Sequence) -> tuple[Sequence, set[int]]:
        file.writes.clear()
        state, _ = changed(state, 8, [10_000], rng, file)
        return state, {offset // 4096 for offset, _ in file.writes}

    state, pages = writes(state)
    assert not pages & committed and pages <= set(pages_of(state))
    own = set(pages_of(state)) - committed
    runs = state.runs
    state, pages = writes(state)  # once more, in place
    assert pages <= own and state.runs == runs
    file.savepoints = True
    before = set(pages_of(state))
    state, pages = writes(state)
    assert not pages & before
    file.savepoints = False
    file.txn += 1  # committed
    before = set(pages_of(state))
    state, pages = writes(state)
    assert not pages & before


def test_checksums_behind_a_truncated_end_are_an_older_states() -> None:
    """The tail changes, which seals no block; the append behind it does, where the older state has its checksums."""
    file, rng = ColumnFile(), random.Random(5)
    content = rng.randbytes(10 * 65_536)
    old = sequence.append(EMPTY, content, file.space())
    file.txn += 1
    state = sequence.truncate(old, 5 * 65_536 + 800, file.space())
    file.txn += 1
    state, noise = changed(state, 8, [5 * 8192 + 3], rng, file)
    file.txn += 1
    state = sequence.append(state, rng.randbytes(200_000), file.space())
    for known in (old, state):
        assert not list(sequence.verify(known, file.space()))
    assert sequence.read(old, file.space(), 0, len(content)) == content


@pytest.mark.parametrize("at", [0, 65_536, 150_000, 262_144, 299_999])
def test_damage_is_found_before_it_is_copied(at: int) -> None:
    file = ColumnFile()
    state = sequence.append(EMPTY, random.Random(1).randbytes(300_000), file.space())
    file.txn += 1
    run = state.runs[0]
    assert run.pages * 4096 >= 300_000
    file.flip(run.start * 4096 + at)
    file.writes.clear()
    with pytest.raises(CorruptError, match="checksum"):
        changed(state, 4, [at // 65_536 * 16_384 + 7], random.Random(2), file)
    assert not file.writes
    changed(state, 4, [(at // 65_536 + 1) % 4 * 16_384], random.Random(2), file)  # the others are whole


def test_a_damaged_checksum_is_found() -> None:
    file = ColumnFile()
    state = sequence.append(EMPTY, bytes(300_000), file.space())
    file.txn += 1
    file.flip(state.sums_runs[0].start * 4096 + 8)
    with pytest.raises(CorruptError, match="checksum"):
        changed(state, 4, [20_000], random.Random(2), file)


def test_the_list_of_runs_stays_short() -> None:
    file, rng = ColumnFile(), random.Random(3)
    with mock.patch.object(overwrite, "_PIECES", 8):
        state = sequence.append(EMPTY, bytes(2 << 20), file.space())
        content = bytes(2 << 20)
        for _ in range(30):
            file.txn += 1
            rows = some(rng, 1 << 19)[:20]
            state, noise = changed(state, 4, rows, rng, file)
            content = put(content, 4, rows, noise)
            assert len(state.runs) <= 3 * 8 and len(state.sums_runs) <= 3
    assert sequence.read(state, file.space(), 0, len(content)) == content
    assert set(pages_of(state)) == file.taken


def test_a_full_disk_leaves_the_old_state() -> None:
    file, rng = ColumnFile(), random.Random(4)
    content = rng.randbytes(400_000)
    state = sequence.append(EMPTY, content, file.space())
    file.txn += 1
    taken = set(file.taken)
    for room in (0, 3, 16, 20, 40):
        file.room, file.taken = room, set(taken)
        with pytest.raises(DiskFullError):
            changed(state, 8, list(range(0, 50_000, 500)), rng, file)
        assert sequence.read(state, file.space(), 0, len(content)) == content
        assert not list(sequence.verify(state, file.space()))
