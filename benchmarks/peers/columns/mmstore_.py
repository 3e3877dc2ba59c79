"""mmstore: a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mmstore
from peers.columns import Batch


class Store:
    name = "mmstore"
    skips: frozenset[str] = frozenset()

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data.mms"
        self.db: Any = None
        self.table: Any = None

    def write(self, batches: Sequence[Batch]) -> None:
        with mmstore.open(self.path) as db, db.transaction() as txn:
            table = txn.create_table("t", {name: values.dtype for name, values in batches[0].items()})
            for batch in batches:
                table.append(batch)

    def open(self) -> None:
        self.db = mmstore.open(self.path)
        self.table = self.db.table("t")

    start_appending = open

    def close(self) -> None:
        self.db.close()

    def sum(self, column: str) -> float:
        return float(self.table[column].sum())

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        return self.table.take(rows, columns)  # type: ignore[no-any-return]

    def append(self, batch: Batch) -> None:
        self.table.append(batch)
