"""Statistics of blocks of 65,536 rows: smallest and largest value, how many are missing, whether in order.

::

    rows      0 ............ 65,536 ............ 131,072 ........ rows
    kept      |  sealed block 0  |  sealed block 1  |    tail    |
              in a sequence of their own               in the column's state

A scan asks them which blocks can't have what it looks for, and touches only the others.  They are bounds that hold
for all values which compare at all: NaN and NaT are left out and told by a flag.  Of text the first 16 bytes are
kept, zeros behind shorter ones, which keeps the order of bytes as far as it goes.

Types without an order (complex, raw bytes, text in 4 bytes a character, lists, shapes) have only the missing rows
counted.  Categories have the range of their codes, which have no order but are equal or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from mmstore import format as fmt
from mmstore.columns.types import BINARY, CATEGORY, FIXED, UTF8, Kind
from mmstore.kernels import strings
from mmstore.kernels.extremes import extremes

__all__ = ["NONE", "Statistics", "agree", "compute", "decode", "merge", "ranged", "table"]

Array: TypeAlias = np.ndarray[Any, Any]

_WIDTH: Final = 16  # bytes of a bound
_PACK: Final = fmt.STATISTICS.struct
_DECIMAL: Final = np.dtype([("low", "<u8"), ("high", "<i8")])


class Statistics(NamedTuple):
    """Of the rows of a block, or of some of them; the fields are those of format.STATISTICS."""

    low: bytes
    """The smallest value, as `decode` reads it; zeros without STAT_RANGE."""
    high: bytes
    nulls: int
    flags: int
    rows: int

    def pack(self) -> bytes:
        return _PACK.pack(*self)

    @classmethod
    def unpack(cls, data: Any, offset: int = 0) -> Statistics:
        return cls(*_PACK.unpack_from(data, offset))


NONE: Final = Statistics(bytes(_WIDTH), bytes(_WIDTH), 0, fmt.STAT_ORDERED, 0)


def ranged(kind: Kind) -> bool:
    """Whether the type has an order that statistics know."""
    if kind.layout == FIXED and not kind.shape:
        return kind.dtype.kind in "biufmMS" or kind.arrow.startswith("d:")
    return kind.layout in (UTF8, BINARY, CATEGORY)


def _is_text(kind: Kind) -> bool:
    return kind.layout in (UTF8, BINARY) or kind.dtype.kind == "S"


def _bound_type(kind: Kind) -> np.dtype[Any]:
    """How a bound of 16 bytes begins."""
    if _is_text(kind):
        return np.dtype("S16")
    return _DECIMAL if kind.dtype.itemsize == _WIDTH else kind.dtype


def decode(kind: Kind, bound: bytes) -> Any:
    """A bound as a value that compares with others of its type."""
    value = _decoder(kind)(bound)
    return value[0] if type(value) is tuple else value


def _decoder(kind: Kind) -> Callable[[bytes], Any]:
    """What makes a bound such a value, or a tuple of one, which compares likewise."""
    dtype = kind.dtype
    if _is_text(kind):
        return bytes
    if dtype.itemsize == _WIDTH:
        return _integer
    return fmt.BOUNDS["<i8" if dtype.kind in "mM" else dtype.str].unpack


def _integer(bound: bytes) -> int:
    return int.from_bytes(bound, "little", signed=True)


# --- making them -------------------------------------------------------------------------------------


def compute(kind: Kind, values: Array, data: Array | None, valid: Array | None) -> Statistics:
    """The statistics of some rows.

    values: of a fixed layout, (rows, ...); of categories their codes; of the others the offsets, (rows + 1).
    data: the bytes of text.  valid: booleans, None if no row is missing.
    """
    rows = len(values) - (kind.layout not in (FIXED, CATEGORY))
    nulls = 0 if valid is None else rows - int(np.count_nonzero(valid))
    ordered = 0 if nulls else fmt.STAT_ORDERED
    if not ranged(kind):
        return Statistics(NONE.low, NONE.high, nulls, 0, rows)
    if nulls == rows:
        return Statistics(NONE.low, NONE.high, nulls, ordered, rows)
    if _is_text(kind):
        low, high = _text_range(kind, values, data, valid if nulls else None)
        return Statistics(low, high, nulls, fmt.STAT_RANGE, rows)
    if nulls:
        values = values[valid]
    if kind.dtype.itemsize == _WIDTH:
        low, high = _decimal_range(values)
        return Statistics(low, high, nulls, fmt.STAT_RANGE, rows)
    return _number_range(kind, values, nulls, ordered, rows)


def _number_range(kind: Kind, values: Array, nulls: int, ordered: int, rows: int) -> Statistics:
    nans = 0
    dtype = kind.dtype
    if dtype.kind in "mM":
        values, dtype = values.view("<i8"), np.dtype("<i8")
    low, high, in_order, nans = extremes(values)
    if kind.dtype.kind in "mM" and low == np.iinfo("i8").min:  # NaT
        real = values[values != low]
        nans = len(values) - len(real)
        low, high, _, _ = extremes(real) if len(real) else (None, None, False, 0)
        in_order = False
    flags = (ordered if in_order else 0) | (fmt.STAT_NAN if nans else 0)
    if low is None:
        return Statistics(NONE.low, NONE.high, nulls, flags, rows)
    pack = fmt.BOUNDS[dtype.str].pack
    return Statistics(pack(low), pack(high), nulls, flags | fmt.STAT_RANGE, rows)


def _decimal_range(values: Array) -> tuple[bytes, bytes]:
    """Smallest and largest of numbers of 128 bits: by their upper halves, then by the lower ones of those."""
    halves = np.ascontiguousarray(values).view(_DECIMAL)
    found = []
    for pick in (np.min, np.max):
        top = pick(halves["high"])
        low = pick(halves["low"][halves["high"] == top])
        found.append(np.array([(low, top)], _DECIMAL).tobytes())
    return found[0], found[1]


def _text_range(kind: Kind, values: Array, data: Array | None, valid: Array | None) -> tuple[bytes, bytes]:
    """The first 16 bytes of the smallest and of the largest text."""
    if kind.layout == FIXED:
        width = kind.dtype.itemsize
        starts = np.arange(len(values), dtype=np.int64) * width
        stops = starts + width
        data = np.ascontiguousarray(values).view(np.uint8)
    else:
        places = np.ascontiguousarray(values, np.int64)
        starts, stops = places[:-1], places[1:]
    assert data is not None
    if valid is not None:
        starts, stops = starts[valid], stops[valid]
    low, high = (
        data[starts[row] : min(stops[row], starts[row] + _WIDTH)].tobytes().ljust(_WIDTH, b"\0")
        for row in strings.extremes(data, starts, stops)
    )
    return low, high


def merge(kind: Kind, first: Statistics, then: Statistics) -> Statistics:
    """The statistics of rows and those behind them."""
    if not first.rows or not then.rows:
        return then if then.rows else first
    flags = (first.flags | then.flags) & (fmt.STAT_RANGE | fmt.STAT_NAN)
    low, high = first.low, first.high
    both = first.flags & then.flags
    if not first.flags & fmt.STAT_RANGE:
        low, high = then.low, then.high
    elif then.flags & fmt.STAT_RANGE:
        value = _decoder(kind)
        if then.low != low and value(then.low) < value(low):
            low = then.low
        if then.high != high and value(then.high) > value(high):
            high = then.high
        if both & fmt.STAT_ORDERED and value(first.high) <= value(then.low):
            flags |= fmt.STAT_ORDERED
    return Statistics(low, high, first.nulls + then.nulls, flags, first.rows + then.rows)


def agree(kind: Kind, kept: Statistics, found: Statistics) -> bool:
    """Whether what is kept says what was found; it may leave out that a block built in pieces is in order."""
    order = found.flags & ~kept.flags & fmt.STAT_ORDERED
    same = kept[2:] == found._replace(flags=found.flags ^ order)[2:]
    if same and found.flags & fmt.STAT_RANGE:  # the two zeros of floats are equal
        return bool(
            decode(kind, kept.low) == decode(kind, found.low) and decode(kind, kept.high) == decode(kind, found.high)
        )
    return same


# --- looking at them ---------------------------------------------------------------------------------


def table(kind: Kind, data: Any) -> Array:
    """Packed statistics as a structured array with the fields low, high, nulls, flags and rows.

    Bounds have the column's dtype; S16 for text; low and high halves for decimals of 128 bits.
    """
    offset = fmt.STATISTICS.offset
    bound = _bound_type(kind) if ranged(kind) else np.dtype("V16")
    layout = np.dtype(
        {
            "names": list(fmt.STATISTICS.names),
            "formats": [bound, bound, "<u8", "<u4", "<u4"],
            "offsets": [offset[name] for name in fmt.STATISTICS.names],
            "itemsize": fmt.STATISTICS.size,
        }
    )
    return np.frombuffer(data, layout)
