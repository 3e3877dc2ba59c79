"""placeholder"""

from __future__ import annotations

from typing import Any

import numpy as np


def extremes(values: Any) -> tuple[Any, Any, bool, int]:
    """(smallest, largest, whether none is smaller than the one before, number of NaNs); None where there is none."""
    nans = 0
    real = values
    if values.dtype.kind == "f":
        nans = int(np.isnan(values).sum())
        real = values[~np.isnan(values)] if nans else values
    if not len(real):
        return None, None, not nans, nans
    ordered = not nans and bool((values[1:] >= values[:-1]).all())
    return real.min().item(), real.max().item(), ordered, nans
