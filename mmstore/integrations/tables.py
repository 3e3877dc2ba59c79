"""Loading into a table: made from the input's columns, or there already; rows that don't fit are found one by one.

An append is all or nothing, so a batch that a table refuses is halved until the rows to blame stand alone, and the
rows beside them are in.  A column whose type was guessed from a sample becomes nullable when a value is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import ArrayBatch, BadRow, Batch, Handler, Plan
from mmstore.integrations.types import appended_as, check_sorts, parsed_as, recast, specs
from mmstore.integrations.where import Condition, chosen

__all__ = ["TableTarget"]


class TableTarget:
    """The table `name` as what batches are appended to."""

    def __init__(
        self,
        name: str,
        *,
        key: tuple[str, ...],
        named: Mapping[str, Any],
        columns: Sequence[str] | None,
        where: Sequence[Condition],
        on_conflict: str | None,
        loose: tuple[str, ...] = (),
    ) -> None:
        self.name, self.key, self.named, self.where = name, key, named, where
        self.columns = list(columns) if columns is not None else None
        self.on_conflict = on_conflict or "error"
        self.loose = loose
        """Columns that may become nullable."""
        self.target: list[str] = []
        self.casts: dict[str, Any] = {}

    def exists(self, txn: Any) -> bool:
        """Whether the table is there; TypeError if the name is something else's."""
        try:
            txn.table(self.name)
        except KeyError:
            return False
        return True

    def start(self, txn: Any, found: Any, *, inferred: bool, bad: Handler) -> Plan:
        """Make the table unless it is there, and say what is to be read.  `found` as `found_schema` gives it."""
        names = list(found.names)
        for name in [*(self.columns or ()), *self.named, *self.key, *(column for column, _, _ in self.where)]:
            if name not in names:
                raise SchemaError(f"there is no column {name!r}; the input has {', '.join(names)}")
        wanted = self.columns if self.columns is not None else names
        if not self.exists(txn):
            txn.create_table(self.name, specs(found, wanted, self.named, self.key), key=self.key or None)
            if inferred:
                self.loose = tuple(name for name in wanted if name not in self.named and name not in self.key)
        schema = txn.table(self.name).schema
        self.target = list(schema.names)
        missing = [name for name in self.target if name not in names]
        extra = [name for name in wanted if name not in self.target]
        if missing or extra:
            raise SchemaError(
                f"the table {self.name!r} has the columns {', '.join(self.target)}; the input has {', '.join(wanted)}; "
                "choose with columns=[...] (--columns A,B), or replace the table"
            )
        read = self.target + [column for column, _, _ in self.where if column not in self.target]
        if not inferred:
            check_sorts(txn.table(self.name), found)
            return Plan(dict.fromkeys(read), bad, others=self.columns is not None, where=self.where)
        types = parsed_as(schema, self.target, found)
        self.casts = appended_as(schema, types)
        types |= {name: found.field(name).type for name in read if name not in types}
        required = frozenset(name for name in self.target if not schema[name].nullable and name not in self.loose)
        return Plan(types, bad, required, others=self.columns is not None)

    def add(self, txn: Any, batch: Batch, file: str, row: int, bad: Handler) -> int:
        """Append the rows that the conditions choose; how many were added; `row` is the first one's number."""
        batch = chosen(batch, self.where)
        names = batch.names if isinstance(batch, ArrayBatch) else batch.schema.names
        if names != self.target:
            batch = batch.select(self.target)
        if not batch.num_rows:
            return 0
        txn.begin_no_zones()
        table = txn.table(self.name)
        if not isinstance(batch, ArrayBatch):
            batch = recast(batch, self.casts)
            for name in self.loose:
                if batch.column(name).null_count and not table.schema[name].nullable:
                    table.allow_nulls(name)
        return self._append(table, batch, file, row, bad)

    def flush(self, txn: Any) -> int:
        """Nothing is held back."""
        return 0

    def _append(self, table: Any, batch: Batch, file: str, row: int, bad: Handler) -> int:
        before = len(table)
        refusal = ""
        try:
            table.append(rows_of(batch), on_conflict=self.on_conflict)
        except SchemaError as error:
            refusal = str(error)
        if refusal:
            table.append(rows_of(batch.slice(0, 0)), on_conflict=self.on_conflict)  # fails if no row is to blame
            if batch.num_rows == 1:
                hint = 'pass on_error="skip" (--on-error skip) to leave such rows out'
                bad(BadRow(file, refusal, row=row, advice=hint))
            else:
                half = batch.num_rows // 2
                self._append(table, batch.slice(0, half), file, row, bad)
                self._append(table, batch.slice(half), file, row + half, bad)
        return len(table) - before


def rows_of(batch: Batch) -> Any:
    """What `append` takes."""
    return batch.columns if isinstance(batch, ArrayBatch) else batch
