"""Sequences against plain bytes: appends, truncations, rollbacks and crashes in any order."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from columnspace import ColumnFile, pages_of
from mmstore.columns import sequence
from mmstore.columns.sequence import EMPTY, Sequence

SIZES = st.one_of(
    st.integers(0, 300),
    st.integers(4000, 4200),
    st.integers(65_000, 66_000),
    st.integers(0, 400_000),
)
STEP = st.tuples(st.sampled_from(["commit", "commit", "roll back", "truncate", "garbage"]), st.lists(SIZES, max_size=4))


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=12), st.integers(0, 3), st.sampled_from([4096, 16384, 65536]))
def test_every_committed_state_keeps_its_bytes(steps: list[tuple[str, list[int]]], gap: int, page_size: int) -> None:
    file = ColumnFile(page_size, gap)
    rng = random.Random(len(steps))
    committed: list[tuple[Sequence, bytes]] = [(EMPTY, b"")]
    for action, sizes in steps:
        state, content = committed[-1]
        taken, freed = set(file.taken), len(file.freed)
        if action == "truncate" and state.length:
            length = sum(sizes) % (state.length + 1)
            state, content = sequence.truncate(state, length, file.space()), content[:length]
        for size in sizes:
            piece = rng.randbytes(size)
            state, content = sequence.append(state, piece, file.space()), content + piece
        if action == "garbage" and state.length:  # as a torn, uncommitted append leaves behind
            state, content = committed[-1]
            room = sum(run.pages for run in state.runs) * page_size - state.length
            if state.high == state.length and room:
                end = state.runs[-1].start * page_size + state.runs[-1].pages * page_size
                file.backend.pwrite(rng.randbytes(min(room, 5000)), end - min(room, 5000))
        if action in ("roll back", "garbage"):
            file.taken, file.freed = taken, file.freed[:freed]
            state, content = committed[-1]
        else:
            committed.append((state, content))
            assert set(pages_of(state)) == file.taken
        file.txn += 1
        assert sequence.unpack(state.pack(), 0, page_size, file.pages)[0] == state
    for state, content in committed:
        assert state.length == len(content)
        assert sequence.read(state, file.space(), 0, state.length) == content
        assert not list(sequence.verify(state, file.space()))
