"""Another mmstore file: one of its tables or keyspaces, as a snapshot has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmstore.database import open as open_store
from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import BATCH_ROWS, Input, Mark, Plan, require
from mmstore.integrations.inputs.records import pair_batches, pair_schema

__all__ = ["StoreInput"]


class StoreInput(Input):
    """The table or keyspace `part` of a store; without a name the one that the target is called, or the only one."""

    def __init__(self, path: str, part: str | None, *, table: str | None) -> None:
        require("pyarrow", "arrow")
        self._database = open_store(path, "r")
        try:
            self._snapshot = self._database.snapshot()
            self.part, self.is_table = self._choose(path, part, table)
        except BaseException:
            self.close()
            raise
        self.name = f"{path}, {'table' if self.is_table else 'keyspace'} {self.part!r}, txn {self._snapshot.txn_id}"
        self.records = not self.is_table
        self.size = os.path.getsize(path)
        mapping = self._snapshot.keyspace(self.part) if self.part else self._snapshot
        self.rows = len(self._snapshot.table(self.part)) if self.is_table else len(mapping)

    def _choose(self, path: str, part: str | None, table: str | None) -> tuple[str, bool]:
        tables, keyspaces = self._snapshot.tables(), self._snapshot.keyspaces()
        if part is not None and part not in tables and part not in keyspaces and part:
            raise SchemaError(f"{path} has no table or keyspace {part!r}; it has {', '.join([*tables, *keyspaces])}")
        if part is not None:
            return part, part in tables
        if table is not None:
            if table in tables or len(tables) == 1:
                return (table if table in tables else tables[0]), True
            raise SchemaError(f"{path} has the tables {', '.join(tables) or '(none)'}; choose one with part= (--from)")
        return "", False

    def schema(self) -> Any:
        import pyarrow as pa

        return pa.schema(self._snapshot.table(self.part)) if self.is_table else pair_schema()

    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[Any, Mark]]:
        if not self.is_table:
            plan.check_names(self.name, ["key", "value"])
            mapping = self._snapshot.keyspace(self.part) if self.part else self._snapshot
            for batch, mark in pair_batches(iter(mapping.items()), plan, start):
                self._tell(mark.rows + batch.num_rows)
                yield batch, mark
            return
        import pyarrow as pa

        table: Any = self._snapshot.table(self.part)
        plan.check_names(self.name, list(table.schema.names))
        rows = 0
        for batch in table.scan(list(plan.types), batch_rows=BATCH_ROWS):
            cut = min(max(0, start.rows - rows), len(batch))
            self._tell(rows + len(batch))
            if cut < len(batch):
                yield pa.record_batch(batch).slice(cut), Mark(rows + cut)
            rows += len(batch)

    def _tell(self, rows: int) -> None:
        """Count bytes as if the file held nothing else."""
        self.read = int((self.size or 0) * min(1.0, rows / max(1, self.rows)))

    def close(self) -> None:
        snapshot = self.__dict__.get("_snapshot")
        if snapshot is not None:
            snapshot.close()
        self._database.close()
