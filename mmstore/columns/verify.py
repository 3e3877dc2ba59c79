"""What is wrong with a column: blocks, offsets, texts, codes and statistics that contradict each other.

A column's bytes are covered by the checksums of its sequences.  Everything else here is about what no checksum can
tell: whoever wrote the bytes may have written nonsense.  All is read by pread from one state, and each problem is
yielded, not raised, so that `check()` lists them all.

Called by the checker; nothing that reads or writes rows for a user goes through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from mmstore import format as fmt
from mmstore.columns import bitmap, sequence, statistics
from mmstore.columns.batch import Parts, valid
from mmstore.columns.extents import Source
from mmstore.columns.state import ColumnState, compute, read
from mmstore.columns.statistics import Statistics
from mmstore.columns.types import CATEGORY, LIST, UTF8, Kind
from mmstore.columns.words import read_words, split
from mmstore.errors import CorruptError
from mmstore.kernels.strings import check_codes, check_utf8

__all__ = ["verify"]


def verify(kind: Kind, state: ColumnState, rows: int, source: Source) -> Iterator[CorruptError]:
    """Everything about a column of `rows` rows that contradicts its checksums, its statistics or itself."""
    for part in state.sequences:
        yield from sequence.verify(part, source)
    if kind.nullable:
        yield from bitmap.verify(state.part(kind, "validity"), source)
    if "offsets" in kind.parts:
        yield from _verify_ends(kind, state, source)
    words = 0
    try:
        if kind.layout == CATEGORY:
            ends, data = read_words(state.part(kind, "word_offsets"), state.part(kind, "words"), source)
            words = len(ends) - 1
            if check_utf8(data, np.ascontiguousarray(ends)) >= 0:
                yield CorruptError("a category's word is no UTF-8")
            if len(set(split(ends, data))) != words or ends[-1] != len(data):
                yield CorruptError(f"{words} words of {len(data)} bytes aren't all different, or not all of the bytes")
        packed = sequence.read(state.blocks, source, 0, state.blocks.length) + state.tail.pack()
        for block in range(-(-rows // fmt.BLOCK_ROWS)):
            start = block * fmt.BLOCK_ROWS
            parts = read(kind, state, source, start, min(start + fmt.BLOCK_ROWS, rows))
            yield from _verify_values(kind, parts, start, words)
            found = compute(kind, parts)
            kept = Statistics.unpack(packed, block * fmt.STATISTICS.size)
            if not statistics.agree(kind, kept, found):
                yield CorruptError(f"rows from {start} on have the statistics {found}, their column says {kept}")
    except CorruptError as error:
        yield error


def _verify_ends(kind: Kind, state: ColumnState, source: Source) -> Iterator[CorruptError]:
    """Offsets that don't go from the first byte to the last, or not from one block of rows to the next."""
    offsets, body = state.part(kind, "offsets"), state.part(kind, "values" if kind.layout == LIST else "data")
    at = [*range(0, offsets.length, 8 * fmt.BLOCK_ROWS), offsets.length - 8] if offsets.length else []
    try:
        ends = [int(np.frombuffer(sequence.read(offsets, source, place, place + 8), "<i8")[0]) for place in at]
    except CorruptError as error:
        yield error
        return
    if (ends[0], ends[-1] * kind.item_size) != (0, body.length) if ends else body.length:
        yield CorruptError(f"offsets run over {ends[:1]} .. {ends[-1:]} elements of {body.length} bytes")
    if any(end < start for start, end in pairwise(ends)):
        yield CorruptError("offsets don't ascend from one block of rows to the next")


def _verify_values(kind: Kind, parts: Parts, start: int, words: int) -> Iterator[CorruptError]:
    """Text that is no UTF-8, codes without a word."""
    if kind.layout == UTF8:
        wrong = check_utf8(parts["data"], np.ascontiguousarray(parts["offsets"]))
        if wrong >= 0:
            yield CorruptError(f"row {start + wrong} is no UTF-8")
    elif kind.layout == CATEGORY:
        bits = valid(parts)
        codes = parts["values"] if bits is None else parts["values"][bits]
        if check_codes(np.ascontiguousarray(codes), words) >= 0:
            yield CorruptError(f"rows from {start} on have codes of no category")
