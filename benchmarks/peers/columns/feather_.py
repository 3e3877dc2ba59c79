"""Feather (Arrow IPC, not compressed), mapped by pyarrow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from peers.columns import Batch


class Store:
    name = "feather"
    skips = frozenset({"append"})  # a file is written once

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data.arrow"
        self.table: Any = None

    def write(self, batches: Sequence[Batch]) -> None:
        schema = pa.schema([(name, pa.from_numpy_dtype(values.dtype)) for name, values in batches[0].items()])
        with open(self.path, "wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(pa.record_batch({name: pa.array(values) for name, values in batch.items()}))
            file.flush()
            os.fdatasync(file.fileno())

    def open(self) -> None:
        self.table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()

    def close(self) -> None:
        self.table = None

    def sum(self, column: str) -> float:
        return float(pc.sum(self.table[column]).as_py())

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        found = self.table.select(columns).take(rows)
        return {name: found[name].to_numpy() for name in columns}

    def start_appending(self) -> None: ...
    def append(self, batch: Batch) -> None: ...
