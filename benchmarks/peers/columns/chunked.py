"""What HDF5 and zarr have in common: an array a column in chunks, in a group that is asked by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from peers.columns import Batch

CHUNK: Final = 100_000
"""Rows."""


class Chunked:
    """Reading and filling; how it is made, opened and closed is the store's own."""

    skips = frozenset({"append"})  # no way to make a small change durable

    def __init__(self, path: Path) -> None:
        self.path = path
        self.group: Any = None

    def fill(self, group: Any, batches: Sequence[Batch]) -> None:
        """Write all batches into arrays that are large enough."""
        at = 0
        for batch in batches:
            n = len(next(iter(batch.values())))
            for name, values in batch.items():
                group[name][at : at + n] = values
            at += n

    def sum(self, column: str) -> float:
        return float(self.group[column][:].sum())

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        # Their own ways to find rows take longer than reading it all, h5py's a hundred times.
        return {name: self.group[name][:][rows] for name in columns}

    def start_appending(self) -> None: ...
    def append(self, batch: Batch) -> None: ...


def total(batches: Sequence[Batch]) -> int:
    """Rows of all batches."""
    return sum(len(next(iter(batch.values()))) for batch in batches)
