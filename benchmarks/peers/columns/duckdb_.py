"""DuckDB: a table in a database file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from peers.columns import Batch

_TYPES = {"i8": "bigint", "f8": "double", "f4": "real", "i4": "integer"}


class Store:
    name = "duckdb"
    skips: frozenset[str] = frozenset()

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data.duckdb"
        self.db: Any = None

    def write(self, batches: Sequence[Batch]) -> None:
        columns = ", ".join(f"{name} {_TYPES[values.dtype.str[1:]]}" for name, values in batches[0].items())
        with duckdb.connect(str(self.path)) as db:
            db.execute(f"create table t ({columns})")
            db.begin()
            for batch in batches:
                self._insert(db, batch)
            db.commit()

    @staticmethod
    def _insert(db: Any, batch: Batch) -> None:
        db.register("batch", pa.table({name: pa.array(values) for name, values in batch.items()}))
        db.execute("insert into t select * from batch")

    def open(self) -> None:
        self.db = duckdb.connect(str(self.path))

    start_appending = open

    def close(self) -> None:
        self.db.close()

    def sum(self, column: str) -> float:
        return float(self.db.execute(f"select sum({column}) from t").fetchone()[0])

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        wanted = pa.table({"nth": np.arange(len(rows)), "row": rows})  # noqa: F841 - the query names it
        names = ", ".join(columns)
        found = self.db.execute(f"select nth, {names} from wanted join t on t.rowid = wanted.row").fetchnumpy()
        order = np.argsort(found["nth"])
        return {name: found[name][order] for name in columns}

    def append(self, batch: Batch) -> None:
        self._insert(self.db, batch)
