"""Strings in columns: an int64 offset for each row and one more, and the bytes of all rows one behind the other.

That is Arrow's large layout (``packed`` has its picture).  Here rows are gathered into it, from anywhere or from
Arrow's string views, and what came from outside is checked.  Functions that check return -1, or the number of the
first row that is wrong: saying so in the user's words is the caller's business.  A null row is an empty one.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from mmstore.kernels import packed, raw

__all__ = ["check_codes", "check_offsets", "check_utf8", "copy_slices", "copy_views", "extremes", "view_lengths"]

VIEW = 16  # bytes of a string view
MOST_CODES = 1 << 31


def check_offsets(offsets: Any, limit: int) -> int:
    """-1 if the int64 ``offsets`` ascend within [0, limit], else the first that doesn't; 0 if there are none."""
    return packed.check_offsets(offsets, limit)


def check_utf8(data: Any, offsets: Any) -> int:
    """-1 if each row ``data[offsets[i]:offsets[i + 1]]`` lies in ``data`` and is UTF-8 by itself, else the first bad.

    ``offsets`` is a buffer of int64, one more than rows.
    """
    text = packed.flat(data)
    places = packed.numbers(offsets)
    n = len(places) - 1
    if n < 1:
        return -1
    wrong = packed.check_offsets(places, len(text))
    if wrong >= 0:
        n = max(wrong - 1, 0)  # the row that the wrong offset ends is bad, unless one before is
    found: int = raw.check_utf8(raw.address(text), raw.longs(places), n) if n else -1
    return n if wrong >= 0 and found < 0 else found


def check_codes(codes: Any, count: int) -> int:
    """-1 if each of the int32 ``codes`` is in [0, count), else the first that isn't."""
    numbers = packed.numbers(codes, "il", 4)
    return raw.check_codes(raw.ints(numbers), len(numbers), max(0, min(count, MOST_CODES)))


def extremes(data: Any, starts: Any, stops: Any) -> tuple[int, int]:
    """The first of the rows ``data[starts[i]:stops[i]]`` that is smallest, and the first that is largest; int64.

    Only the first 16 bytes of each are compared, what a row lacks of them counts as zeros.  Both are -1 if there are
    no rows.  Raises ValueError where a row leaves ``data``.
    """
    begin, end = packed.numbers(starts), packed.numbers(stops)
    if len(begin) != len(end):
        raise ValueError(f"expected as many stops as starts, found {len(end)} and {len(begin)}")
    text = packed.flat(data)
    found = array("q", [-1, -1])
    target = packed.flat(found)
    wrong = raw.text_extremes(
        raw.address(text), len(text), raw.longs(begin), raw.longs(end), len(begin), raw.writable(target)
    )
    if wrong >= 0:
        raise ValueError(f"row {wrong} leaves the {len(text)} bytes that there are")
    return found[0], found[1]


def copy_slices(source: Any, starts: Any, out_offsets: Any, out: Any) -> int:
    """Copy ``source[starts[i]:]`` to ``out[out_offsets[i]:out_offsets[i + 1]]``, for all i; int64 and int64.

    Returns -1, or the first i whose slice leaves ``source`` or ``out``; those before it have been copied, and what
    follows in ``out`` may be changed.  An empty slice may start anywhere.
    """
    n, places, room = _target(out_offsets, out)
    begin = packed.numbers(starts)
    if len(begin) != n:
        raise ValueError(f"expected {n} starts for {n + 1} offsets, found {len(begin)}")
    data = packed.flat(source)
    return raw.copy_slices(
        raw.address(data), len(data), raw.longs(begin), raw.longs(places), n, raw.writable(room), len(room)
    )


def copy_views(views: Any, buffers: list[Any], out_offsets: Any, out: Any) -> int:
    """Copy the strings of Arrow's ``views`` to ``out[out_offsets[i]:out_offsets[i + 1]]``, for all i.

    A view is 16 bytes: a length (i32), then up to 12 bytes, or the first 4 bytes, the number of one of ``buffers``
    and an offset into it (both i32).

    Returns -1, or the first i whose view has another length than its place in ``out``, or leaves its buffer, or
    whose place leaves ``out``; then as ``copy_slices``.  Of an empty place, as of a null, the view isn't looked at.
    """
    n, places, room = _target(out_offsets, out)
    data = packed.flat(views)
    if len(data) != VIEW * n:
        raise ValueError(f"expected {n} views of {VIEW} bytes for {n + 1} offsets, found {len(data)} bytes")
    held = [packed.flat(buffer) for buffer in buffers]
    sizes = array("Q", [len(buffer) for buffer in held])
    where = array("Q", bytes(8 * len(held)))
    return raw.copy_views(
        raw.address(data),
        raw.addresses(held, where),
        raw.words(sizes),
        len(held),
        raw.longs(places),
        n,
        raw.writable(room),
        len(room),
    )


def view_lengths(views: Any, n: int) -> npt.NDArray[np.int64]:
    """The lengths in n views, as they say; a negative one is wrong."""
    data = packed.flat(views)
    if len(data) != VIEW * n:
        raise ValueError(f"expected {n} views of {VIEW} bytes, found {len(data)} bytes")
    return np.frombuffer(data, "<i4").reshape(n, VIEW // 4)[:, 0].astype(np.int64)


def _target(offsets: Any, out: Any) -> tuple[int, Any, Any]:
    """The number of slices that the offsets are for, and the offsets and ``out`` as memoryviews."""
    places = packed.numbers(offsets)
    if len(places) == 0:
        raise ValueError("expected n + 1 offsets for n slices, found none")
    view = memoryview(out)
    return len(places) - 1, places, packed.room(view, view.nbytes, "out")
