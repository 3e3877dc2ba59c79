"""The words of a category column: each text once, in the order in which it first came; rows hold its number.

The words are a column of text of their own, two sequences that only grow.  Whoever appends needs to know which words
there are; a transaction that has read them keeps them for the next (`Space.words`, by the first page of the offsets,
which stays while they grow), for as long as the sequences are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np

from mmstore.columns import sequence
from mmstore.columns.batch import Array, Parts
from mmstore.columns.extents import Source, Space
from mmstore.columns.sequence import Sequence
from mmstore.errors import CorruptError

__all__ = ["Known", "codes_of", "read_words", "split"]

Known: TypeAlias = dict[bytes, int]

_KEPT: Final = 256  # columns whose words are remembered


def split(offsets: Array, data: Array) -> Iterator[bytes]:
    """The texts that `offsets` (ascending) cuts `data` into."""
    whole = data.tobytes()
    ends = offsets.tolist()
    return (whole[start:stop] for start, stop in zip(ends[:-1], ends[1:], strict=True))


def read_words(offsets: Sequence, words: Sequence, source: Source) -> tuple[Array, Array]:
    """(offsets, bytes) of all words; offsets is [0] where there is none.

    Raises `CorruptError` for damage: a word that is another one would be learned twice, or written anew as it is.
    """
    sequence.require(offsets, source)
    sequence.require(words, source)
    ends = np.frombuffer(sequence.read(offsets, source, 0, offsets.length), "<i8")
    data = np.frombuffer(sequence.read(words, source, 0, words.length), np.uint8)
    if not len(ends):
        return np.zeros(1, "<i8"), data[:0]
    if ends[0] or (ends[1:] < ends[:-1]).any() or ends[-1] > len(data):
        raise CorruptError(f"a category column's words lead outside {len(data)} bytes; run check()")
    return ends, data


def codes_of(parts: Parts, offsets: Sequence, words: Sequence, space: Space) -> tuple[Parts, Sequence, Sequence]:
    """A batch's parts with its codes as the column's; new words are appended.

    Rows without a value get code 0, which nobody looks at.
    """
    known = _known(offsets, words, space)
    codes = []
    added = []
    for word in split(parts["word_offsets"], parts["words"]):
        code = known.get(word)
        if code is None:
            code = known[word] = len(known)
            added.append(word)
        codes.append(code)
    if added:
        ends = np.cumsum([words.length, *map(len, added)], dtype="<i8")
        ends = ends[1:] if offsets.length else ends
        offsets = sequence.append(offsets, ends.view(np.uint8).data, space)
        words = sequence.append(words, b"".join(added), space)
    space.words[offsets.runs[0].start if offsets.runs else 0] = (offsets, words, known)
    if len(space.words) > _KEPT:
        del space.words[next(iter(space.words))]
    table = np.array(codes or [0], "<i4")
    return {**parts, "values": table[parts["values"]]}, offsets, words


def _known(offsets: Sequence, words: Sequence, space: Space) -> Known:
    """The words and their codes.  The caller puts them back when all has gone well."""
    found = space.words.pop(offsets.runs[0].start, None) if offsets.runs else None
    if found is not None and found[:2] == (offsets, words):
        known: Known = found[2]
        return known
    return {word: code for code, word in enumerate(split(*read_words(offsets, words, space)))}
