"""Many keys or values in one piece of memory: item i is ``data[offsets[i]:offsets[i + 1]]``.

::

    data:     | key 0 | key 1   |  | key 3 |         offsets: n + 1 signed integers of 64 bits, ascending
              ^0      ^5        ^12 ^12    ^20

No Python object per item.  What comes in is checked here once, before anything is read or written through it
(I6): buffers are held as memoryviews meanwhile, so that nobody can resize them, and keys' offsets are copied.
"""

from __future__ import annotations

from array import array
from typing import Any

from mmstore.kernels import raw

__all__ = ["Pairs", "check_offsets", "flat", "keys", "numbers", "room", "slices"]

MAX_KEY = 0xFFFF


def flat(buffer: Any) -> Any:
    """The bytes of a contiguous buffer, whatever its items are: a memoryview of one dimension."""
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise ValueError("expected a contiguous buffer, found one with gaps; use np.ascontiguousarray()")
    return view.cast("B") if view.nbytes else memoryview(b"")


def room(buffer: Any, size: int, what: str) -> Any:
    """The same of a writable buffer of ``size`` bytes; ValueError where it isn't."""
    view = memoryview(buffer)
    if view.readonly or view.nbytes != size or not view.c_contiguous:
        kind = "read-only" if view.readonly else "contiguous" if view.c_contiguous else "scattered"
        raise ValueError(f"expected {what} to be {size} contiguous writable bytes, found {view.nbytes} {kind} ones")
    return view.cast("B") if size else memoryview(bytearray())


def numbers(buffer: Any, kinds: str = "lq", size: int = 8) -> Any:
    """A buffer of int64, or other integers of these formats and this size, as a memoryview; ValueError else."""
    view = memoryview(buffer)
    kind: Any = view.format.removeprefix("=")  # numpy's sign for what is not aligned
    if kind not in [*kinds] or view.itemsize != size or view.ndim != 1 or not view.c_contiguous:
        raise ValueError(
            f"expected one dimension of contiguous int{8 * size}, found format {view.format} and shape {view.shape}; "
            f"use x.astype(np.int{8 * size})"
        )
    return view.cast("B").cast(kind) if kind != view.format and view.nbytes else view


def check_offsets(offsets: Any, limit: int) -> int:
    """Where int64 ``offsets`` first leave [0, limit] or fall; -1 if they never do.  Without any it is 0."""
    view = numbers(offsets)
    n = len(view)
    where = raw.longs(view)
    if n == 0:
        return 0
    return raw.check_offsets(where, n, limit)


def slices(data: Any, offsets: Any) -> tuple[Any, array[int]]:
    """The bytes of ``data`` and a copy of ``offsets``, which nobody else can change, for n items.

    ``offsets`` is a buffer of int64.  Raises ValueError unless there are n + 1 and each item lies in ``data``.
    """
    source = flat(data)
    places = array("q")
    places.frombytes(flat(numbers(offsets)))
    wrong = check_offsets(places, len(source))
    if wrong >= 0:
        found = f"{places[wrong]} at position {wrong}" if len(places) else "none"
        raise ValueError(f"expected n + 1 ascending offsets in [0, {len(source)}] for n items, found {found}")
    return source, places


def keys(data: Any, offsets: Any) -> tuple[Any, array[int]]:
    """The same of n keys.  Raises ValueError, too, where one is longer than 65535 bytes."""
    source, places = slices(data, offsets)
    where = raw.longs(places)
    for i in range(len(places) - 1):
        if where[i + 1] - where[i] > MAX_KEY:
            raise ValueError(
                f"expected keys of at most {MAX_KEY} bytes, found one of {places[i + 1] - places[i]} at position {i}; "
                "hash it, or split it"
            )
    return source, places


class Pairs:
    """Keys and as many values, both checked once and for all: whoever is given one need not look again.

    Raises ValueError as ``keys(data, offsets)`` and ``slices(values, bounds)`` do, and unless they are as many.
    """

    def __init__(self, data: Any, offsets: Any, values: Any, bounds: Any) -> None:
        source, places = keys(data, offsets)
        rows, ends = slices(values, bounds)
        n, m = len(places) - 1, len(ends) - 1
        if n != m:
            raise ValueError(f"expected as many values as keys, got {m} for {n}")
        self.source, self.places, self.rows, self.ends = source, places, rows, ends

    def __len__(self) -> int:
        return len(self.places) - 1

    def key_slices(self) -> tuple[Any, Any]:
        """(bytes, n + 1 offsets), to read."""
        return self.source, memoryview(self.places).toreadonly()

    def value_slices(self) -> tuple[Any, Any]:
        """The same of the values."""
        return self.rows, memoryview(self.ends).toreadonly()
