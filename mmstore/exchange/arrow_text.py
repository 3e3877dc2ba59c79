"""Rows of an Arrow array as offsets and bytes, whatever way Arrow has them; and which rows there are.

A producer's numbers are not trusted (I6): offsets must ascend inside their buffers, views lead into them.
"""

from __future__ import annotations

import numpy as np

from mmstore.columns import bitmap
from mmstore.columns.batch import Array, gather
from mmstore.errors import SchemaError
from mmstore.exchange.cdata import Data, Field
from mmstore.kernels.strings import check_offsets, copy_views

__all__ = ["closed", "present", "slices"]


def present(field: Field, data: Data, start: int, n: int) -> Array | None:
    """Which rows have a value; None if all do."""
    if field.format == "n":
        return np.zeros(n, np.bool_) if n else None
    bits = data.buffers[0] if data.null_count and data.buffers else None
    if bits is None or not n:
        return None
    found = bitmap.unpack(bits, start + n)[start:]
    return None if found.all() else found


def slices(field: Field, data: Data, start: int, n: int) -> tuple[Array, Array]:
    """(offsets from 0 up, bytes) of the rows of an Arrow array of text or bytes."""
    if not n:
        return np.zeros(1, "<i8"), np.empty(0, np.uint8)
    if field.format in ("vu", "vz"):
        views = data.buffers[1]
        assert views is not None
        views = views.view(np.uint8)[16 * start : 16 * (start + n)].copy()
        lengths = views.view("<i4")[::4].astype(np.int64)
        bits = data.buffers[0]
        if bits is not None:  # a view of a missing row may be anything
            lengths[~bitmap.unpack(bits, start + n)[start:]] = 0
            views.view("<i4")[::4][lengths == 0] = 0
        offsets = np.zeros(n + 1, "<i8")
        np.cumsum(lengths, out=offsets[1:])
        out = np.empty(int(offsets[-1]), np.uint8)
        buffers = [b"" if buffer is None else buffer.view(np.uint8).data for buffer in data.buffers[2:]]
        wrong = copy_views(views, buffers, offsets, out)
        if wrong >= 0:
            raise SchemaError(f"row {wrong} of the Arrow data points outside its buffers")
        return offsets, out
    width = "<i4" if field.format in ("u", "z") else "<i8"
    ends, body = data.buffers[1], data.buffers[2]
    assert ends is not None
    offsets = ends.view(width)[start : start + n + 1].astype("<i8", copy=False)
    body = np.empty(0, np.uint8) if body is None else body.view(np.uint8)
    if check_offsets(np.ascontiguousarray(offsets), len(body)) >= 0:
        raise SchemaError("the offsets of the Arrow data don't ascend inside its buffers")
    low, high = int(offsets[0]), int(offsets[-1])
    return (offsets - low if low else offsets), body[low:high]


def closed(offsets: Array, data: Array, present: Array | None) -> dict[str, Array]:
    """Text or bytes whose missing rows have none."""
    if present is not None:
        lengths = np.diff(offsets)
        if lengths[~present].any():
            lengths[~present] = 0
            ends = np.zeros(len(offsets), "<i8")
            np.cumsum(lengths, out=ends[1:])
            data, offsets = gather(data, offsets[:-1], ends), ends
    return {"offsets": offsets, "data": data}
