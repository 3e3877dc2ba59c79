"""Parquet by pyarrow: a row group a batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peers.columns import Batch


class Store:
    name = "parquet"
    skips = frozenset({"take", "append"})  # rows have no place in it, and a file is written once

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data.parquet"
        self.file: Any = None

    def write(self, batches: Sequence[Batch]) -> None:
        schema = pa.schema([(name, pa.from_numpy_dtype(values.dtype)) for name, values in batches[0].items()])
        with open(self.path, "wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(pa.record_batch({name: pa.array(values) for name, values in batch.items()}))
            file.flush()
            os.fdatasync(file.fileno())

    def open(self) -> None:
        self.file = pq.ParquetFile(self.path, memory_map=True)

    def close(self) -> None:
        self.file.close()

    def sum(self, column: str) -> float:
        return float(pc.sum(self.file.read([column])[column]).as_py())

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        raise NotImplementedError

    def start_appending(self) -> None: ...
    def append(self, batch: Batch) -> None: ...
