"""Some rows of some columns: what slices, `take`, `lookup` and `scan` of a table give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmstore.columns.batch import Array
from mmstore.columns.schema import Schema
from mmstore.exchange import arrow_out, cdata
from mmstore.exchange.view import ColumnView

__all__ = ["Rows"]


class Rows:
    """Rows of a table: `rows["px"]` is a column of them, `rows.numbers` their numbers in the table.

    Arrow consumers (pyarrow, polars, duckdb, pandas) read it as a record batch.
    """

    def __init__(self, schema: Schema, numbers: range | Array, views: Sequence[ColumnView]) -> None:
        self.schema = schema
        self.numbers = numbers
        """A range, or an array of int64."""
        self.views = tuple(views)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return self.schema.names

    def keys(self) -> tuple[str, ...]:
        """Names of the columns: `dict(rows)` is a dict of columns."""
        return self.schema.names

    def view(self, name: str) -> ColumnView:
        """A column as a `ColumnView`, whatever its type.  Raises KeyError."""
        return self.views[self.schema.position(name)]

    def __getitem__(self, name: str) -> Any:
        """A column: an array where numpy can show it all, else a `ColumnView`.  Raises KeyError."""
        view = self.view(name)
        return view.values if view.kind.plain else view

    def __contains__(self, name: object) -> bool:
        return name in self.schema

    def __iter__(self) -> Iterator[str]:
        return iter(self.schema.names)

    def __len__(self) -> int:
        """Rows."""
        return len(self.numbers)

    def __repr__(self) -> str:
        return f"<mmstore.Rows: {len(self):,} rows of {', '.join(self.columns)}>"

    def tolist(self) -> list[dict[str, Any]]:
        """Rows as dicts of Python values."""
        if not self.views:  # a selection of no columns still has rows
            return [{} for _ in range(len(self))]
        columns = [view.tolist() for view in self.views]
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*columns, strict=True)]

    # --- Arrow --------------------------------------------------------------------------------------

    def __arrow_c_schema__(self) -> Any:
        return cdata.export_schema(arrow_out.table_field(self.schema))

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        return cdata.export_array(arrow_out.table_field(self.schema), arrow_out.struct_of(len(self), self.views))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return arrow_out.stream(self.schema, iter([(len(self), self.views)]))

    def to_arrow(self) -> Any:
        """A pyarrow.RecordBatch; needs the extra "arrow"."""
        return arrow_out.pyarrow().record_batch(self)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame; needs pandas and the extra "arrow"."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """A polars.DataFrame; needs polars."""
        import polars

        return polars.DataFrame(self)
