"""HDF5: a dataset a column that can grow, chunks of 100,000 rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import h5py

from peers.columns import Batch
from peers.columns.chunked import CHUNK, Chunked, total


class Store(Chunked):
    name = "h5py"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data.h5")

    def write(self, batches: Sequence[Batch]) -> None:
        with h5py.File(self.path, "w") as file:
            for name, values in batches[0].items():
                file.create_dataset(name, (total(batches),), values.dtype, maxshape=(None,), chunks=(CHUNK,))
            self.fill(file, batches)
        with open(self.path, "rb") as plain:
            os.fdatasync(plain.fileno())

    def open(self) -> None:
        self.group = h5py.File(self.path, "r")

    def close(self) -> None:
        self.group.close()
