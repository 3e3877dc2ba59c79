"""zarr: an array a column, not compressed, chunks of 100,000 rows, each a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from peers.columns import Batch


class Store:
    name = "zarr"
    skips = frozenset({"append"})  # no way to make a small change durable

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data.zarr"
        self.group: Any = None

    def write(self, batches: Sequence[Batch]) -> None:
        group = zarr.open_group(str(self.path), mode="w")
        total = sum(len(next(iter(batch.values()))) for batch in batches)
        for name, values in batches[0].items():
            group.create_array(name, shape=(total,), dtype=values.dtype, chunks=(100_000,), compressors=None)
        at = 0
        for batch in batches:
            n = len(next(iter(batch.values())))
            for name, values in batch.items():
                group[name][at : at + n] = values
            at += n
        for path in self.path.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fdatasync(file.fileno())

    def open(self) -> None:
        self.group = zarr.open_group(str(self.path), mode="r")

    def close(self) -> None:
        self.group = None

    def sum(self, column: str) -> float:
        return float(self.group[column][:].sum())

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        return {name: self.group[name][:][rows] for name in columns}  # quicker than get_coordinate_selection

    def start_appending(self) -> None: ...
    def append(self, batch: Batch) -> None: ...
