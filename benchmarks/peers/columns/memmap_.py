"""A file a column, written plainly and mapped by numpy: what reading and writing cost at the least."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peers.columns import Batch


class Store:
    name = "memmap"
    skips: frozenset[str] = frozenset()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.types: dict[str, Any] = {}
        self.maps: dict[str, Any] = {}
        self.files: dict[str, Any] = {}

    def write(self, batches: Sequence[Batch]) -> None:
        self.types = {name: values.dtype for name, values in batches[0].items()}
        files = {name: open(self.folder / name, "wb", buffering=0) for name in self.types}
        for batch in batches:
            for name, values in batch.items():
                files[name].write(values.data)
        for file in files.values():
            os.fdatasync(file.fileno())
            file.close()

    def open(self) -> None:
        self.maps = {name: np.memmap(self.folder / name, dtype, "r") for name, dtype in self.types.items()}

    def close(self) -> None:
        self.maps.clear()
        for file in self.files.values():
            file.close()
        self.files.clear()

    def sum(self, column: str) -> float:
        return float(self.maps[column].sum())

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        return {name: np.take(self.maps[name], rows) for name in columns}

    def start_appending(self) -> None:
        self.files = {name: open(self.folder / name, "ab", buffering=0) for name in self.types}

    def append(self, batch: Batch) -> None:
        for name, values in batch.items():
            self.files[name].write(values.data)
            os.fdatasync(self.files[name].fileno())
