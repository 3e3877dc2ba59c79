"""HDF5: a resizable dataset a column, chunks of 100,000 rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from peers.columns import Batch


class Store:
    name = "h5py"
    skips = frozenset({"append"})  # no way to make a small change durable

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data.h5"
        self.file: Any = None

    def write(self, batches: Sequence[Batch]) -> None:
        with h5py.File(self.path, "w") as file:
            for name, values in batches[0].items():
                file.create_dataset(name, (0,), values.dtype, maxshape=(None,), chunks=(100_000,))
            at = 0
            for batch in batches:
                n = len(next(iter(batch.values())))
                for name, values in batch.items():
                    file[name].resize(at + n, axis=0)
                    file[name][at : at + n] = values
                at += n
        with open(self.path, "rb") as plain:
            os.fdatasync(plain.fileno())

    def open(self) -> None:
        self.file = h5py.File(self.path, "r")

    def close(self) -> None:
        self.file.close()

    def sum(self, column: str) -> float:
        return float(self.file[column][:].sum())

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        # Numbers given to h5py itself, sorted and each once, take a hundred times as long as reading it all.
        return {name: self.file[name][:][rows] for name in columns}

    def start_appending(self) -> None: ...
    def append(self, batch: Batch) -> None: ...
