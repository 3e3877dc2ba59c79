"""Schemas as users describe them, Arrow's among them; and whether data has the columns of one.

`columns.schema` knows what a schema is, and takes numpy's descriptions and names of types.  Here an Arrow schema, type
or field may stand wherever one of those may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmstore.columns.schema import Column, Schema, pairs
from mmstore.errors import SchemaError
from mmstore.exchange.arrow_types import kind_of_object, named_kinds

__all__ = ["check_names", "column_of", "schema_of"]


def column_of(name: str, spec: Any, id: int = 0) -> Column:
    """The column `name` of the type `spec`: what `Column.of` takes, or an Arrow type or field.

    Raises `SchemaError` for a type that can't be held.
    """
    return Column.of(name, _plain(name, spec), id)


def schema_of(spec: Any, key: Any = None) -> Schema:
    """The schema described by `spec`: what `Schema.of` takes, or whatever gives an Arrow schema.

    key: the name of the column that identifies a row, a tuple of names, or None.

    Raises `SchemaError` naming a column that can't be held, and the nearest type that can.
    """
    if isinstance(spec, Schema):
        return Schema.of(spec, key)
    if hasattr(spec, "__arrow_c_schema__"):
        return Schema.of(list(named_kinds(spec)), key)
    return Schema.of([(name, _plain(name, kind)) for name, kind in pairs(spec)], key)


def _plain(name: str, spec: Any) -> Any:
    """`spec`, with an Arrow type or field as the type that holds its values."""
    return kind_of_object(name, spec) if hasattr(spec, "__arrow_c_schema__") else spec


def check_names(schema: Schema, given: Sequence[Any]) -> None:
    """Raise `SchemaError` unless `given` are the names of all columns, each once, in any order."""
    if len(given) == len(schema) and all(name in schema for name in given):
        return
    missing = ", ".join(repr(name) for name in schema.names if name not in given)
    unknown = ", ".join(repr(name) for name in given if name not in schema)
    if missing:
        raise SchemaError(f"missing: {missing}; rows need a value in each column ({', '.join(schema.names)})")
    if unknown:
        raise SchemaError(f"unknown: {unknown}; the table's columns are {', '.join(schema.names)}")
