"""Bitmaps: sequences that count in bits, as Arrow's validity does (least significant bit first).

::

    bytes     0 ................ length | last byte | room
    bits      0 ................ 8 x length + bits

`length` counts whole bytes.  Up to seven bits more lie in the byte behind it, and in the sequence's state as well.
An append writes that byte again, which I1 allows only because it changes none of the bits that any root shows: the
old ones are taken from the state, never from the file, where a transaction that was rolled back may have left
others above them.  No checksum covers that byte; its truth is the state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np

from mmstore.columns import extents, sequence
from mmstore.columns.extents import Source, Space
from mmstore.columns.overwrite import scatter
from mmstore.columns.sequence import Sequence
from mmstore.errors import CorruptError

__all__ = ["append", "count", "ones", "pack", "read", "truncate", "unpack", "update", "verify"]

Array: TypeAlias = np.ndarray[Any, Any]

_STEP: Final = 1 << 23  # bits of a piece


def count(state: Sequence) -> int:
    """How many bits there are."""
    return 8 * state.length + state.bits


def pack(bits: Array) -> Array:
    """Booleans as bits, the last byte filled up with zeros."""
    return np.packbits(bits, bitorder="little")


def unpack(packed: Array, n: int) -> Array:
    """The first `n` bits as booleans."""
    return np.unpackbits(packed, count=n, bitorder="little").view(np.bool_)


def read(state: Sequence, source: Source, start: int, stop: int) -> Array:
    """The bits [start, stop) as booleans."""
    assert 0 <= start <= stop <= count(state)
    first, last = start // 8, min(-(-stop // 8), state.length)
    data = sequence.read(state, source, min(first, last), last)
    if 8 * state.length < stop:
        data += bytes([state.last])
    return unpack(np.frombuffer(data, np.uint8), stop - 8 * min(first, last))[start - 8 * min(first, last) :]


def append(state: Sequence, bits: Array, space: Space) -> Sequence:
    """The bitmap with `bits` (booleans) behind it.  Raises as `sequence.append`."""
    before = unpack(np.array([state.last], np.uint8), state.bits)
    packed = pack(np.concatenate([before, bits]))
    whole, rest = divmod(state.bits + len(bits), 8)
    state = sequence.append(state._replace(bits=0, last=0), packed[:whole].data, space)
    return _ended(state, rest, int(packed[whole]) if rest else 0, space)


def ones(n: int, space: Space) -> Sequence:
    """A bitmap of `n` set bits, made piece by piece.  Raises as `sequence.append`."""
    state = sequence.EMPTY
    for start in range(0, n, _STEP):
        state = append(state, np.ones(min(_STEP, n - start), np.bool_), space)
    return state


def _ended(state: Sequence, bits: int, last: int, space: Space) -> Sequence:
    """The bitmap with a last byte of `bits` bits."""
    if not bits:
        return state
    if state.high > state.length:
        state = sequence.own_tail(state, space)
    runs = extents.write(state.runs, state.length, bytes([last]), space)
    return state._replace(runs=runs, bits=bits, last=last)


def truncate(state: Sequence, n: int, space: Space) -> Sequence:
    """The first `n` bits."""
    assert 0 <= n <= count(state)
    if n == count(state):
        return state
    whole, rest = divmod(n, 8)
    last = pack(read(state, space, 8 * whole, n))
    shown = state.extent
    state = sequence.truncate(state._replace(bits=0, last=0), whole, space)._replace(bits=0, last=0)
    if state.runs:
        state = state._replace(high=max(state.high, shown))  # the byte at `whole` has been seen with other bits
    return _ended(state, rest, int(last[0]) if rest else 0, space)


def update(state: Sequence, rows: Array, bits: Array, space: Space) -> Sequence:
    """The bitmap with other bits at `rows` (int64, ascending, each once)."""
    places = np.unique(rows // 8)
    first, last = int(places[0]), int(places[-1])
    old = read(state, space, 8 * first, min(8 * (last + 1), count(state)))
    old[rows - 8 * first] = bits
    packed = pack(old)
    changed = scatter(state, 1, places, packed[places - first].reshape(-1, 1), space)
    return changed._replace(last=int(packed[-1])) if last == state.length else changed


def verify(state: Sequence, source: Source) -> Iterator[CorruptError]:
    """The last byte's bits in the file, if they aren't those of the state."""
    if state.bits:
        found = extents.gather(source, state.runs, state.length, state.extent)[0] & ((1 << state.bits) - 1)
        if found != state.last:
            yield CorruptError(f"the last {state.bits} bits of a bitmap are {found:#x}, its state has {state.last:#x}")
