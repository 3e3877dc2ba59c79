"""zarr: an array a column, not compressed, chunks of 100,000 rows, each a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import zarr

from peers.columns import Batch
from peers.columns.chunked import CHUNK, Chunked, total


class Store(Chunked):
    name = "zarr"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data.zarr")

    def write(self, batches: Sequence[Batch]) -> None:
        group = zarr.open_group(str(self.path), mode="w")
        for name, values in batches[0].items():
            group.create_array(name, shape=(total(batches),), dtype=values.dtype, chunks=(CHUNK,), compressors=None)
        self.fill(group, batches)
        for path in self.path.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fdatasync(file.fileno())

    def open(self) -> None:
        self.group = zarr.open_group(str(self.path), mode="r")

    def close(self) -> None:
        self.group = None
