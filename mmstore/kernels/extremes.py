"""What a block of numbers spans: smallest, largest, whether in order, how many NaNs.

That is what a scan skips blocks by, and what tells that a column can be searched by bisection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmstore.kernels import packed, raw

__all__ = ["extremes"]


def extremes(values: npt.NDArray[Any]) -> tuple[Any, Any, bool, int]:
    """(low, high, ordered, NaNs) of a one-dimensional array of bool, integers or floats.

    ``low`` and ``high`` are Python's numbers, NaNs left out, 0.0 for -0.0; both None if nothing is left.  Ordered:
    no value is less than the one before; never so with a NaN, always so of nothing.
    """
    kind = values.dtype.kind
    if kind not in "biuf" or values.ndim != 1 or values.itemsize > 8:
        raise TypeError(f"expected one dimension of bool, integers or floats, found {values.dtype} x {values.shape}")
    n = len(values)
    if n == 0:
        return None, None, True, 0
    if kind == "f" and values.itemsize == 2:
        values = values.astype(np.float32)  # numpy takes long to compare half floats
    elif not (values.dtype.isnative and values.flags.c_contiguous):
        values = values.astype(values.dtype.newbyteorder("="))
    ends = np.empty(2, values.dtype)
    told = -1
    if raw.COMPILED and values.itemsize >= 4:
        source = packed.flat(values)
        target = packed.flat(ends)
        told = raw.extremes(raw.address(source), n, 16 * ord(kind) + values.itemsize, raw.writable(target))
    ordered = told & 1 == 1
    nans = told >> 1
    if told < 0:
        nans = 0
        ordered = bool((values[: n - 1] <= values[1:]).all())
        if kind == "f":
            numbers = values[values == values]
            nans = n - len(numbers)
            ordered = ordered and nans == 0
            values = numbers
        if nans < n:
            ends[0], ends[1] = values.min(), values.max()
    if nans == n:
        return None, None, False, n
    low, high = (ends + 0.0 if kind == "f" else ends).tolist()
    return low, high, ordered, nans
